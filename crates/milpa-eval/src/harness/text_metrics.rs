//! Scores of a generated text against its references: exact match, token F1, chrF.
//!
//! Exact match is that of lm-evaluation-harness 0.4 (`exact_match`), F1 that of SQuAD (Rajpurkar et
//! al. 2016) with the articles of Spanish and Portuguese as well as English, chrF and chrF++ those
//! of sacrebleu 2 (Popović 2015, 2017). It knows no model.

use std::collections::{HashMap, HashSet};

use fancy_regex::Regex;

/// What `exact_match` passes over before it compares.
#[derive(Debug, Clone, Default)]
pub struct ExactMatch {
    /// What matches is removed, one expression after the other.
    pub regexes_to_ignore: Vec<Regex>,
    /// Capital letters equal small ones.
    pub ignore_case: bool,
    /// ASCII punctuation is removed.
    pub ignore_punctuation: bool,
    /// ASCII digits are removed.
    pub ignore_numbers: bool,
}

impl ExactMatch {
    /// Whether the two texts are equal.
    pub fn matches(&self, prediction: &str, reference: &str) -> bool {
        self.plain(prediction) == self.plain(reference)
    }

    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for regex in &self.regexes_to_ignore {
            text = regex.replace_all(&text, "").into_owned();
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        text.retain(|c| {
            !(self.ignore_punctuation && c.is_ascii_punctuation()
                || self.ignore_numbers && c.is_ascii_digit())
        });
        text
    }
}

/// Articles that SQuAD's normalisation removes, in the languages of the region.
const ARTICLES: [&str; 19] = [
    "a", "an", "the", "el", "la", "los", "las", "lo", "un", "una", "unos", "unas", "o", "os", "as",
    "um", "uma", "uns", "umas",
];

/// Words of an answer as SQuAD compares them: small letters, no punctuation (Unicode's, with ¿ and
/// ¡), no articles.
pub fn answer_words(text: &str) -> Vec<String> {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_alphanumeric() || c.is_whitespace() || is_mark(c) { c } else { ' ' })
        .collect();
    let words: Vec<String> = plain.split_whitespace().map(str::to_owned).collect();
    let content: Vec<String> =
        words.iter().filter(|word| !ARTICLES.contains(&word.as_str())).cloned().collect();
    // An answer that is an article by itself ("A") stays.
    if content.is_empty() { words } else { content }
}

/// Combining marks belong to their letter (g̃).
fn is_mark(c: char) -> bool {
    matches!(u32::from(c), 0x300..=0x36f)
}

/// F1 of the words that two answers share, 0 to 1; two empty answers are equal.
pub fn token_f1(prediction: &str, reference: &str) -> f64 {
    let (prediction, reference) = (answer_words(prediction), answer_words(reference));
    if prediction.is_empty() || reference.is_empty() {
        return f64::from(u8::from(prediction == reference));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &reference {
        *left.entry(word).or_default() += 1;
    }
    let mut shared = 0usize;
    for word in &prediction {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    2.0 * shared as f64 / (prediction.len() + reference.len()) as f64
}

/// Longest n-grams of characters.
const CHARACTER_ORDER: usize = 6;
/// How much more recall weighs than precision, squared.
const BETA_SQUARED: f64 = 4.0;

/// Counts of one segment, or of many added up: for each order the n-grams of the prediction, those
/// of the reference, and those they share.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChrfCounts(Vec<[u64; 3]>);

impl ChrfCounts {
    /// Counts a prediction against the reference that fits it best; `word_order` is 0 for chrF and
    /// 2 for chrF++.
    pub fn of(prediction: &str, references: &[String], word_order: usize) -> Self {
        let predicted = ngrams(prediction, word_order);
        let mut best: Option<(f64, Self)> = None;
        for reference in references {
            let counts = Self(
                predicted
                    .iter()
                    .zip(ngrams(reference, word_order))
                    .map(|(hypothesis, reference)| count(hypothesis, &reference))
                    .collect(),
            );
            let score = counts.score();
            if best.as_ref().is_none_or(|(most, _)| score > *most) {
                best = Some((score, counts));
            }
        }
        best.map(|(_, counts)| counts).unwrap_or_default()
    }

    /// Adds those of another segment.
    pub fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), [0; 3]);
        }
        for (sum, counts) in self.0.iter_mut().zip(&other.0) {
            (0..3).for_each(|index| sum[index] += counts[index]);
        }
    }

    /// The score, 0 to 100: F2 of precision and recall averaged over the orders that both have.
    pub fn score(&self) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0);
        for &[predicted, reference, shared] in &self.0 {
            if predicted > 0 && reference > 0 {
                precision += shared as f64 / predicted as f64;
                recall += shared as f64 / reference as f64;
                orders += 1;
            }
        }
        if orders == 0 || precision + recall == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (precision / f64::from(orders), recall / f64::from(orders));
        100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    }
}

type Ngrams = HashMap<String, u64>;

/// n-grams of characters without white space, then of words, one table for each order.
fn ngrams(text: &str, word_order: usize) -> Vec<Ngrams> {
    let characters: Vec<String> =
        text.chars().filter(|c| !is_space(*c)).map(String::from).collect();
    let words = chrf_words(text);
    let tables = |parts: &[String], most: usize, separator: &str| {
        (1..=most)
            .map(|order| {
                let mut table = Ngrams::new();
                for window in parts.windows(order) {
                    *table.entry(window.join(separator)).or_default() += 1;
                }
                table
            })
            .collect::<Vec<_>>()
    };
    let mut all = tables(&characters, CHARACTER_ORDER, "");
    all.extend(tables(&words, word_order, " "));
    all
}

/// Words with a punctuation mark at their end, or else at their beginning, apart.
fn chrf_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        let marked = |c: Option<char>| c.is_some_and(|c| c.is_ascii_punctuation());
        let (first, last) = (word.chars().next(), word.chars().next_back());
        if word.chars().nth(1).is_none() {
            words.push(word.to_owned());
        } else if marked(last) {
            words.extend([&word[..word.len() - 1], &word[word.len() - 1..]].map(str::to_owned));
        } else if marked(first) {
            words.extend([&word[..1], &word[1..]].map(str::to_owned));
        } else {
            words.push(word.to_owned());
        }
    }
    words
}

fn count(hypothesis: &Ngrams, reference: &Ngrams) -> [u64; 3] {
    let shared =
        |(ngram, count): (&String, &u64)| reference.get(ngram).map_or(0, |r| *r.min(count));
    let predicted = if reference.is_empty() { 0 } else { hypothesis.values().sum() };
    [predicted, reference.values().sum(), hypothesis.iter().map(shared).sum()]
}

/// White space as Python's `str.split` and `str.strip` see it: Unicode's, and four separators of
/// ASCII.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Whether a list of texts has one twice.
pub(crate) fn has_twice(texts: impl IntoIterator<Item = impl AsRef<str>>) -> bool {
    let mut seen = HashSet::new();
    !texts.into_iter().all(|text| seen.insert(text.as_ref().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_match_passes_over_what_it_is_told() {
        let check = |metric: &ExactMatch, a: &str, b: &str, expect: bool| {
            assert_eq!(metric.matches(a, b), expect, "{a:?} {b:?}");
        };
        check(&ExactMatch::default(), "Lima", "Lima", true);
        check(&ExactMatch::default(), "Lima.", "Lima", false);
        let loose =
            ExactMatch { ignore_case: true, ignore_punctuation: true, ..Default::default() };
        check(&loose, "¡LIMA!", "¡lima", true);
        // Punctuation is ASCII's, as in the harness.
        check(&loose, "¡lima", "lima", false);
        let regexes_to_ignore = vec![Regex::new(",").unwrap(), Regex::new("(?s).*#### ").unwrap()];
        let numbers = ExactMatch { regexes_to_ignore, ..Default::default() };
        check(&numbers, "son\n#### 1,234", "1234", true);
    }

    #[test]
    fn words_are_compared_without_articles() {
        assert!((token_f1("La ciudad de Lima", "Lima") - 2.0 / 4.0).abs() < 1e-12);
        assert!((token_f1("¿El Callao?", "callao") - 1.0).abs() < 1e-12);
        assert!((token_f1("A", "A") - 1.0).abs() < 1e-12);
        assert!(token_f1("", "Lima").abs() < 1e-12);
        assert!((token_f1("lima lima", "lima") - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn chrf_is_that_of_sacrebleu() {
        // sacrebleu 2.6.0: corpus_chrf(["El gato come maíz.", "No hay (nada) aquí"],
        // [["El gato comió el maíz.", "Aquí no hay nada"]], word_order=0 and 2).
        for (word_order, expect) in [(0, 49.28338761481758), (2, 46.339188661035244)] {
            let mut counts = ChrfCounts::default();
            for (prediction, reference) in [
                ("El gato come maíz.", "El gato comió el maíz."),
                ("No hay (nada) aquí", "Aquí no hay nada"),
            ] {
                counts.add(&ChrfCounts::of(prediction, &[reference.to_owned()], word_order));
            }
            assert!((counts.score() - expect).abs() < 1e-9, "{}", counts.score());
        }
        assert!(ChrfCounts::of("", &["a".to_owned()], 0).score().abs() < 1e-12);
    }
}

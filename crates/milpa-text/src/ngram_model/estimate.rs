//! Modified Kneser–Ney estimation (Chen and Goodman 1998), interpolated, as KenLM's `lmplz` does it
//! (Heafield et al. 2013): lower orders count how many words stand before an n-gram, those at the
//! beginning of a sentence count how often they occur, and the unknown word gets its share of the
//! uniform distribution.
//!
//! Longest n-grams are collected in a buffer that is sorted into a list again and again, so memory
//! grows with the number of different n-grams and not with the text; [`NgramConfig::max_ngrams`] is
//! the limit. Arithmetic is in f64 and in a fixed order.

use std::{cmp::Ordering, collections::HashMap};

use super::{BEGIN, END, Entry, MAX_ORDER, NgramList, UNKNOWN, Unit};
use crate::codec::ModelError;

/// Occurrences that are collected before they are sorted into the list.
const BUFFER: usize = 4 << 20;

/// What is estimated.
#[derive(Debug, Clone)]
pub struct NgramConfig {
    /// Words in the longest n-gram, 2 to 5.
    pub order: usize,
    /// What n-grams are made of.
    pub unit: Unit,
    /// Most different n-grams of the longest order. Each takes 24 bytes while it is counted, and
    /// about three times as much with its shorter ones while probabilities are computed.
    pub max_ngrams: usize,
}

impl Default for NgramConfig {
    fn default() -> Self {
        Self { order: 5, unit: Unit::Word, max_ngrams: 50_000_000 }
    }
}

/// An n-gram with how often it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    /// Words from the last to the first. Longest n-grams that reach beyond the beginning of their
    /// sentence have [`BEGIN`] there, in shorter ones the rest is 0.
    key: [u32; MAX_ORDER],
    count: u32,
}

/// Counts the n-grams of sentences.
#[derive(Debug)]
pub struct NgramCounter {
    config: NgramConfig,
    numbers: HashMap<String, u32>,
    words: Vec<String>,
    /// Sorted, each n-gram once.
    counted: Vec<Counted>,
    buffer: Vec<Counted>,
}

impl NgramCounter {
    /// Begins to count.
    ///
    /// # Errors
    /// If the order is not 2 to 5.
    pub fn new(config: NgramConfig) -> Result<Self, ModelError> {
        if !(2..=MAX_ORDER).contains(&config.order) {
            return Err(ModelError::Training(format!(
                "an n-gram model has an order of 2 to {MAX_ORDER}, not {}",
                config.order
            )));
        }
        let words: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
        let numbers = words.iter().cloned().zip(0..).collect();
        Ok(Self { config, numbers, words, counted: Vec::new(), buffer: Vec::new() })
    }

    /// Counts each line of `text` that is not blank as a sentence of the configured unit.
    pub fn add_text(&mut self, text: &str) -> Result<(), ModelError> {
        for line in text.lines() {
            let mut numbers = Vec::new();
            self.config.unit.for_each_token(line, |token| {
                numbers.push(number_of(&mut self.numbers, &mut self.words, token));
            });
            if !numbers.is_empty() {
                self.add_numbers(&numbers)?;
            }
        }
        Ok(())
    }

    /// Counts one sentence. The names of the special words are taken for unknown words.
    ///
    /// # Errors
    /// If there are more different n-grams than configured.
    pub fn add_sentence<'a>(
        &mut self,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ModelError> {
        let numbers: Vec<u32> = words
            .into_iter()
            .map(|word| number_of(&mut self.numbers, &mut self.words, word))
            .collect();
        self.add_numbers(&numbers)
    }

    fn add_numbers(&mut self, numbers: &[u32]) -> Result<(), ModelError> {
        let order = self.config.order;
        let mut key = [0; MAX_ORDER];
        key[..order].fill(BEGIN);
        for &number in numbers.iter().chain(&[END]) {
            key.copy_within(..order - 1, 1);
            key[0] = number;
            self.buffer.push(Counted { key, count: 1 });
        }
        if self.buffer.len() >= BUFFER.max(self.counted.len() / 2) {
            self.sort_in()?;
        }
        Ok(())
    }

    fn sort_in(&mut self) -> Result<(), ModelError> {
        self.buffer.sort_unstable_by_key(|counted| counted.key);
        let old = std::mem::take(&mut self.counted);
        self.counted = merge(old.into_iter(), self.buffer.drain(..));
        if self.counted.len() <= self.config.max_ngrams {
            return Ok(());
        }
        Err(ModelError::Training(format!(
            "the text has more than {} different {}-grams; raise max_ngrams, lower the order, or \
             give less text",
            self.config.max_ngrams, self.config.order
        )))
    }

    /// Estimates the model.
    ///
    /// # Errors
    /// If nothing was counted, or there are more different n-grams than configured.
    pub fn finish(mut self) -> Result<NgramList, ModelError> {
        self.sort_in()?;
        self.buffer = Vec::new();
        if self.counted.is_empty() {
            return Err(ModelError::Training("there is no text to estimate from".to_owned()));
        }
        let levels = adjusted_counts(self.counted, self.config.order);
        let orders = estimate(&levels, self.words.len());
        Ok(NgramList { unit: self.config.unit, words: self.words, orders })
    }
}

fn number_of(numbers: &mut HashMap<String, u32>, words: &mut Vec<String>, word: &str) -> u32 {
    if let Some(&number) = numbers.get(word) {
        return if number <= END { UNKNOWN } else { number };
    }
    let number = words.len() as u32;
    words.push(word.to_owned());
    numbers.insert(word.to_owned(), number);
    number
}

/// Merges two sorted runs, adding the counts of equal n-grams.
fn merge(a: impl Iterator<Item = Counted>, b: impl Iterator<Item = Counted>) -> Vec<Counted> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    let mut out: Vec<Counted> = Vec::with_capacity(a.size_hint().0);
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.key.cmp(&y.key) == Ordering::Greater => b.next(),
            (Some(_), _) => a.next(),
            (None, _) => b.next(),
        };
        let Some(next) = next else { return out };
        match out.last_mut() {
            Some(last) if last.key == next.key => {
                last.count = last.count.saturating_add(next.count);
            }
            _ => out.push(next),
        }
    }
}

/// The n-grams of each order with the counts that Kneser–Ney takes, by order − 1.
fn adjusted_counts(longest: Vec<Counted>, order: usize) -> Vec<Vec<Counted>> {
    // Longest n-grams that reach beyond the beginning of the sentence are shorter ones in truth.
    let mut levels: Vec<Vec<Counted>> = vec![Vec::new(); order];
    for mut counted in longest {
        let key = &mut counted.key;
        let length = key[..order].iter().position(|&word| word == BEGIN).map_or(order, |at| at + 1);
        key[length..].fill(0);
        levels[length - 1].push(counted);
    }
    for length in (1..order).rev() {
        let (shorter, longer) = levels.split_at_mut(length);
        let level = &mut shorter[length - 1];
        for group in longer[0].chunk_by(|a, b| a.key[..length] == b.key[..length]) {
            let mut key = group[0].key;
            key[length..].fill(0);
            level.push(Counted { key, count: group.len() as u32 });
        }
        if length == 1 {
            for word in [UNKNOWN, BEGIN] {
                let mut key = [0; MAX_ORDER];
                key[0] = word;
                if !level.iter().any(|counted| counted.key == key) {
                    level.push(Counted { key, count: 0 });
                }
            }
        }
        level.sort_unstable_by_key(|counted| counted.key);
    }
    levels
}

/// Sums over the words that follow a context.
#[derive(Debug, Clone, Copy, Default)]
struct Follow {
    total: u64,
    /// How many follow once, twice, and more often.
    kinds: [u32; 3],
}

impl Follow {
    fn add(&mut self, count: u32) {
        self.total += u64::from(count);
        if count > 0 {
            self.kinds[count.min(3) as usize - 1] += 1;
        }
    }

    /// The probability that is left for shorter contexts.
    fn left(&self, discounts: [f64; 3]) -> f64 {
        let discounted: f64 =
            self.kinds.iter().zip(discounts).map(|(&n, d)| f64::from(n) * d).sum();
        discounted / self.total as f64
    }
}

/// Discounts for counts of 1, 2, and 3 or more, from how many n-grams have the counts 1 to 4.
/// Where a small text gives none that make sense, those that `lmplz --discount_fallback` takes.
fn discounts(level: &[Counted]) -> [f64; 3] {
    let mut with = [0f64; 5];
    for counted in level {
        if let Some(n) = with.get_mut(counted.count as usize) {
            *n += 1.0;
        }
    }
    let y = with[1] / (with[1] + 2.0 * with[2]);
    let discount = |k: usize| k as f64 - (k + 1) as f64 * y * with[k + 1] / with[k];
    let found = [discount(1), discount(2), discount(3)];
    let sensible = (1..=3).all(|k| with[k] > 0.0 && (0.0..=k as f64).contains(&found[k - 1]));
    if sensible { found } else { [0.5, 1.0, 1.5] }
}

fn estimate(levels: &[Vec<Counted>], words: usize) -> Vec<Vec<Entry>> {
    // The beginning of a sentence is never predicted.
    let mut lower = vec![1.0 / (words - 1) as f64];
    let mut orders: Vec<Vec<Entry>> = Vec::new();
    for (index, level) in levels.iter().enumerate() {
        let discounts = discounts(level);
        let shorter: &[Counted] = if index == 0 { &[] } else { &levels[index - 1] };
        // A context is the n-gram without its last word, which is the first of its key.
        let mut follow = vec![Follow::default(); shorter.len().max(1)];
        let contexts: Vec<u32> = level
            .iter()
            .map(|counted| {
                let context = &counted.key[1..=index];
                let place = shorter.binary_search_by(|other| other.key[..index].cmp(context));
                let place = if index == 0 { 0 } else { place.expect("contexts occur as n-grams") };
                follow[place].add(counted.count);
                place as u32
            })
            .collect();
        if let Some(before) = orders.last_mut() {
            for (entry, follow) in before.iter_mut().zip(&follow).filter(|(_, f)| f.total > 0) {
                entry.backoff = follow.left(discounts).log10() as f32;
            }
        }
        let (mut entries, mut probabilities) = (Vec::new(), Vec::new());
        let mut suffix = 0;
        for (counted, &context) in level.iter().zip(&contexts) {
            while index > 0 && shorter[suffix].key[..index] != counted.key[..index] {
                suffix += 1;
            }
            let follow = &follow[context as usize];
            let discount =
                if counted.count == 0 { 0.0 } else { discounts[counted.count.min(3) as usize - 1] };
            let seen = (f64::from(counted.count) - discount) / follow.total as f64;
            let probability = seen + follow.left(discounts) * lower[suffix];
            let log10 = if index == 0 && counted.key[0] == BEGIN {
                NEVER
            } else {
                probability.log10() as f32
            };
            probabilities.push(probability);
            entries.push(Entry { key: counted.key, log10, backoff: 0.0 });
        }
        lower = probabilities;
        orders.push(entries);
    }
    orders
}

/// What ARPA files write for the probability of the beginning of a sentence.
pub(super) const NEVER: f32 = -99.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ngram_model::NgramModel;

    fn model(text: &str, order: usize) -> NgramModel {
        let mut counter = NgramCounter::new(NgramConfig { order, ..Default::default() }).unwrap();
        counter.add_text(text).unwrap();
        NgramModel::from_bytes(counter.finish().unwrap().to_bytes().unwrap()).unwrap()
    }

    const TEXT: &str = "el maíz crece en la milpa\nel frijol crece en la milpa con el maíz\n\
        la calabaza crece en la tierra\nel agua corre en la tierra\nla milpa da maíz\n";

    #[test]
    fn probabilities_after_any_context_sum_to_one() {
        for order in 2..=MAX_ORDER {
            let model = model(TEXT, order);
            let scorer = model.scorer();
            let mut contexts = vec![scorer.begin()];
            for line in TEXT.lines() {
                let mut state = scorer.begin();
                for word in line.split(' ') {
                    state = scorer.score(&state, scorer.word(word)).1;
                    contexts.push(state);
                }
            }
            contexts.push(scorer.score(&scorer.begin(), UNKNOWN).1);
            for state in contexts {
                let sum: f64 = (0..model.words() as u32)
                    .filter(|&word| word != BEGIN)
                    .map(|word| 10f64.powf(f64::from(scorer.score(&state, word).0)))
                    .sum();
                assert!((sum - 1.0).abs() < 1e-5, "order {order}: {sum} after {state:?}");
            }
        }
    }

    #[test]
    fn usual_sentences_are_likelier_than_unusual_ones() {
        let model = model(TEXT, 3);
        let perplexity = |text: &str| model.score_text(text).perplexity().unwrap();
        assert!(
            perplexity("el maíz crece en la tierra") < perplexity("tierra la en crece maíz el")
        );
        assert!(perplexity("el maíz crece") < perplexity("xyzzy plugh"));
        assert_eq!(model.score_text("xyzzy en la\n\nplugh").unknown, 2);
        assert_eq!(model.score_text(" \n").perplexity(), None);
    }

    #[test]
    fn small_buffers_give_the_same_counts() {
        let mut whole = NgramCounter::new(NgramConfig::default()).unwrap();
        let mut often = NgramCounter::new(NgramConfig::default()).unwrap();
        for line in TEXT.repeat(3).lines() {
            whole.add_text(line).unwrap();
            often.add_text(line).unwrap();
            often.sort_in().unwrap();
        }
        assert_eq!(whole.finish().unwrap(), often.finish().unwrap());
    }

    #[test]
    fn a_limit_is_a_limit() {
        let config = NgramConfig { max_ngrams: 3, ..Default::default() };
        let mut counter = NgramCounter::new(config).unwrap();
        counter.add_text(TEXT).unwrap();
        let error = counter.finish().unwrap_err().to_string();
        assert!(error.contains("more than 3 different 5-grams"), "{error}");
        assert!(NgramCounter::new(NgramConfig::default()).unwrap().finish().is_err());
        let config = NgramConfig { order: 9, ..Default::default() };
        assert!(NgramCounter::new(config).is_err());
    }
}

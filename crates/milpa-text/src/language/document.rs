//! The languages of a text, segment by segment, and whether it is mixed.
//!
//! A segment is a sentence or a line. A short one says little alone, so it is judged with the rest of
//! the text in mind: the likeliest languages of each segment are weighted by how much of the text is
//! surely in them. What is mixed inside a sentence (one word of Spanish in a sentence of Guaraní) is
//! not seen.

use std::{collections::BTreeMap, ops::Range};

use super::{Identification, LanguageModel, macrolanguage};
use crate::segment::words;

/// Letters that a segment has at least, unless its line has no more.
const MIN_LETTERS: usize = 25;
/// Confidence from which a segment counts as surely in its language.
const SURE: f32 = 0.7;
/// Share of a text's letters, surely in a second language, from which the text is mixed.
const MIXED_SHARE: f32 = 0.08;
/// Letters that must surely be in the second language.
const MIXED_LETTERS: usize = 30;

/// Features of a text that count: those of 3,000 characters, on which confidence was calibrated. More
/// text settles what the mean is of and makes nobody surer.
const MAX_EVIDENCE: usize = 10_000;

/// A piece of a text with its language.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Its bytes in the text.
    pub range: Range<usize>,
    /// Its number of letters.
    pub letters: usize,
    /// Its language, with the rest of the text in mind.
    pub language: Identification,
}

/// The languages of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentLanguages {
    /// The language of most of the text's letters; its confidence is the mean of the segments that
    /// are in it, by letters, times their share of the text or one, if the text is mixed.
    pub main: Identification,
    /// The language of the text as a whole, from the words of all segments together.
    pub whole: Identification,
    /// Languages with the share of letters in them, the largest first.
    pub shares: Vec<(&'static str, f32)>,
    /// The second language, where the text is surely in two: such a text is kept with both.
    pub mixed_with: Option<&'static str>,
    /// The segments in order.
    pub segments: Vec<Segment>,
}

impl DocumentLanguages {
    /// `spa`, or `spa+grn` where the text is mixed, in the order of their shares.
    pub fn label(&self) -> String {
        match self.mixed_with {
            Some(second) => format!("{}+{second}", self.main.label),
            None => self.main.label.to_owned(),
        }
    }
}

impl LanguageModel {
    /// Identifies the languages of all of `text`, segment by segment.
    pub fn identify_segments(&self, text: &str) -> DocumentLanguages {
        let (mut segments, whole) = self.with_scratch(|scratch| {
            let (mut totals, mut features) = (vec![0u32; self.labels.len()], 0);
            let segments: Vec<Segment> = segments_of(text)
                .map(|(range, letters)| {
                    scratch.clear();
                    words(&text[range.clone()]).for_each(|word| scratch.add_word(self, word));
                    let language = self.judge(scratch);
                    features += scratch.features();
                    for (total, score) in totals.iter_mut().zip(scratch.scores()) {
                        *total = total.saturating_add(*score);
                    }
                    Segment { range, letters, language }
                })
                .collect();
            let share = (MAX_EVIDENCE as f32 / features.max(1) as f32).min(1.0);
            (segments, self.judge_scores(&totals, features, share, &mut scratch.likely))
        });
        let mut sure: BTreeMap<&str, usize> = BTreeMap::new();
        for segment in segments.iter().filter(|segment| segment.language.confidence >= SURE) {
            *sure.entry(segment.language.label).or_default() += segment.letters;
        }
        let all: usize = segments.iter().map(|segment| segment.letters).sum();
        for segment in &mut segments {
            reconsider(&mut segment.language, |label| {
                sure.get(label).map_or(0.0, |&letters| letters as f32 / all as f32)
            });
        }
        summarise(segments, all, whole)
    }
}

/// Takes the second-best label of an unsure segment if the rest of the text is in it.
fn reconsider(language: &mut Identification, share: impl Fn(&str) -> f32) {
    if language.confidence >= SURE || language.label == "und" {
        return;
    }
    // A language that the text has nowhere else keeps a small share.
    let floor = 0.02;
    let best = (language.confidence, share(language.label) + floor);
    let next = ((language.confidence - language.margin).max(0.0), share(language.second) + floor);
    let (first, second) = (best.0 * best.1, next.0 * next.1);
    if first + second <= 0.0 {
        return;
    }
    let both = best.0 + next.0;
    language.confidence = both.min(1.0) * first.max(second) / (first + second);
    language.margin = both.min(1.0) * (first - second).abs() / (first + second);
    if second > first {
        std::mem::swap(&mut language.label, &mut language.second);
        language.variety = "";
    }
}

fn summarise(segments: Vec<Segment>, all: usize, whole: Identification) -> DocumentLanguages {
    #[derive(Default)]
    struct Tally {
        letters: usize,
        sure: usize,
        confidence: f32,
        best: Option<Identification>,
    }
    let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
    for segment in segments.iter().filter(|segment| segment.language.label != "und") {
        let Segment { letters, language, .. } = segment;
        let tally = tallies.entry(language.label).or_default();
        tally.letters += letters;
        tally.sure += if language.confidence >= SURE { *letters } else { 0 };
        tally.confidence += language.confidence * *letters as f32;
        if tally.best.is_none_or(|best| best.confidence < language.confidence) {
            tally.best = Some(*language);
        }
    }
    let mut order: Vec<(&'static str, Tally)> = tallies.into_iter().collect();
    order.sort_by(|a, b| b.1.letters.cmp(&a.1.letters).then(a.0.cmp(b.0)));
    let of_all = |letters: usize| letters as f32 / all.max(1) as f32;
    let shares = order.iter().map(|(label, tally)| (*label, of_all(tally.letters))).collect();
    let Some((label, first)) = order.first() else {
        let main = Identification::UNDETERMINED;
        return DocumentLanguages { main, whole, shares, mixed_with: None, segments };
    };
    let mixed_with = order[1..]
        .iter()
        .filter(|(other, tally)| {
            tally.sure >= MIXED_LETTERS
                && of_all(tally.sure) >= MIXED_SHARE
                // Varieties of one language are not a mixture.
                && macrolanguage(other) != macrolanguage(label)
        })
        .max_by_key(|(_, tally)| tally.sure)
        .map(|(other, _)| *other);
    let share = if mixed_with.is_some() { 1.0 } else { of_all(first.letters) };
    let mut main = first.best.unwrap_or(Identification::UNDETERMINED);
    main.confidence = first.confidence / first.letters.max(1) as f32 * share;
    if let Some((second, tally)) = order.get(1) {
        main.second = second;
        main.margin = of_all(first.letters) - of_all(tally.letters);
    }
    DocumentLanguages { main, whole, shares, mixed_with, segments }
}

/// Cuts a text after lines and sentences; a piece with few letters goes with the next of its line.
fn segments_of(text: &str) -> impl Iterator<Item = (Range<usize>, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            let start = at;
            let mut letters = 0;
            let mut ended = false;
            let mut end = text.len();
            for (offset, c) in text[start..].char_indices() {
                if c == '\n' || (ended && c.is_whitespace() && letters >= MIN_LETTERS) {
                    end = start + offset + c.len_utf8();
                    break;
                }
                letters += usize::from(c.is_alphabetic());
                // Marks that close a quotation may follow the end of a sentence.
                ended = matches!(c, '.' | '!' | '?' | '…' | '。' | '।' | '؟')
                    || (ended && matches!(c, '"' | '”' | '»' | ')' | '\''));
            }
            at = end;
            if letters > 0 {
                return Some((start..end, letters));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_sentences_and_lines() {
        let check = |text: &str, expect: &[&str]| {
            let found: Vec<&str> = segments_of(text).map(|(range, _)| text[range].trim()).collect();
            assert_eq!(found, expect);
        };
        check(
            "Título\n\nEl río baja crecido desde la sierra. «¿Y quién lo ha visto así?» Nadie.",
            &[
                "Título",
                "El río baja crecido desde la sierra.",
                "«¿Y quién lo ha visto así?» Nadie.",
            ],
        );
        check("Sí. No. Tal vez.", &["Sí. No. Tal vez."]);
        check("12 34\n…\n", &[]);
        check("", &[]);
    }

    #[test]
    fn a_spliced_text_is_mixed_and_a_plain_one_is_not() {
        let spanish = "El río baja crecido desde la sierra y arrastra ramas y piedras. En el pueblo \
            nadie se asusta porque cada enero ocurre lo mismo.";
        let guarani = "Ñande retãme oĩ heta tapicha oñe'ẽva guaraníme, ha umi mitã oñemoarandu \
            avei. Opavave tekove oguereko derécho oiko haĝua.";
        let model = LanguageModel::embedded();
        let found = model.identify_segments(&format!("{spanish}\n{spanish}\n{guarani}"));
        assert_eq!(found.label(), "spa+gug", "{found:?}");
        assert_eq!(found.segments.len(), 6);
        assert!((found.shares.iter().map(|(_, share)| share).sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(model.identify_segments(&spanish.repeat(2)).label(), "spa");
        assert_eq!(model.identify_segments("25 %\n").label(), "und");
    }

    #[test]
    fn the_whole_is_what_its_segments_say_together() {
        let model = LanguageModel::embedded();
        let text =
            "Sí. El río baja crecido.\nNadie se asusta en el pueblo, 12 de enero…\n\nAsí es.";
        assert_eq!(model.identify_segments(text).whole, model.identify(text));
        // A text does not get surer by being said again beyond what confidence was calibrated on.
        let [many, more] = [400, 800].map(|times| {
            let found = model.identify_segments(&"Que siga todo igual. ".repeat(times));
            (found.whole.label, found.whole.confidence)
        });
        assert_eq!(many, more);
    }
}

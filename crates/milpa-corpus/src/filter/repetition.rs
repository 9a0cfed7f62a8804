//! Repetition: Gopher's rules (Rae et al. 2021, appendix A1.1) on lines, paragraphs and word runs.

use std::collections::{HashMap, HashSet};

use milpa_text::segment;

use super::{Filter, Thresholds, Verdict, View, share};
use crate::document::Reason;

/// Lines and paragraphs that came before.
pub(super) struct RepeatedLines;

impl Filter for RepeatedLines {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        let above = |what, value, most| Verdict::above(Reason::Repetition, what, value, most);
        let (lines, chars) = repeated(view.lines.iter().copied());
        above("share of repeated lines", lines, t.max_repeated_lines)
            .or_else(|| {
                let what = "share of characters in repeated lines";
                above(what, chars, t.max_repeated_line_chars)
            })
            .or_else(|| {
                let (paragraphs, _) = repeated(segment::paragraphs(view.text));
                let what = "share of repeated paragraphs";
                above(what, paragraphs, t.max_repeated_paragraphs)
            })
    }
}

/// Shares of pieces, and of characters in pieces, that are equal to an earlier one.
fn repeated<'a>(pieces: impl Iterator<Item = &'a str>) -> (f64, f64) {
    let mut seen = HashSet::new();
    let (mut count, mut again, mut chars, mut again_chars) = (0, 0, 0, 0);
    for piece in pieces {
        count += 1;
        chars += piece.len();
        if !seen.insert(piece) {
            again += 1;
            again_chars += piece.len();
        }
    }
    (share(again, count), share(again_chars, chars))
}

/// Runs of words that fill the text.
pub(super) struct RepeatedWords;

impl Filter for RepeatedWords {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        let above = |what: &str, value, most| Verdict::above(Reason::Repetition, what, value, most);
        let tops = [(2, t.max_top_2_gram), (3, t.max_top_3_gram), (4, t.max_top_4_gram)];
        tops.into_iter()
            .find_map(|(length, most)| {
                let what = format!("share of characters in the most frequent {length}-gram");
                above(&what, top_ngram_share(view, length), most)
            })
            .or_else(|| {
                [(5, t.max_repeated_5_grams), (10, t.max_repeated_10_grams)].into_iter().find_map(
                    |(length, most)| {
                        let what = format!("share of words in repeated {length}-grams");
                        above(&what, repeated_ngram_share(view, length), most)
                    },
                )
            })
    }
}

/// Share of the words' characters that the most frequent run of `length` words makes up. A run
/// that comes once says nothing and counts as none.
fn top_ngram_share(view: &View<'_>, length: usize) -> f64 {
    let mut counts: HashMap<u64, (usize, usize)> = HashMap::new();
    for (at, hash) in view.ngrams(length).enumerate() {
        counts.entry(hash).or_insert((0, at)).0 += 1;
    }
    let chars = |at: usize| view.words[at..at + length].iter().map(|w| w.len()).sum::<usize>();
    let total: usize = view.words.iter().map(|word| word.len()).sum();
    // The largest share, not the first of equal counts: no dependence on the map's order.
    let top = counts
        .values()
        .filter(|(count, _)| *count > 1)
        .map(|&(count, at)| count * chars(at))
        .max()
        .unwrap_or(0);
    share(top, total)
}

/// Share of the words that lie in a run of `length` words that came before.
fn repeated_ngram_share(view: &View<'_>, length: usize) -> f64 {
    let mut seen = HashSet::new();
    let (mut covered, mut end) = (0, 0);
    for (at, hash) in view.ngrams(length).enumerate() {
        if !seen.insert(hash) {
            covered += at + length - end.max(at);
            end = at + length;
        }
    }
    share(covered, view.words.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_by_hand() {
        let view = View::new("a b a b a b c d e f", "spa", None);
        // "a b" three times: 6 of 10 letters.
        assert_eq!(top_ngram_share(&view, 2), 0.6);
        let view = View::new("a b c d e x a b c d e y", "spa", None);
        assert_eq!(repeated_ngram_share(&view, 5), 5.0 / 12.0);
        assert_eq!(repeated_ngram_share(&view, 10), 0.0);
        assert_eq!(repeated(["x", "yy", "x"].into_iter()), (1.0 / 3.0, 0.25));
        let empty = View::new("", "spa", None);
        assert_eq!((top_ngram_share(&empty, 2), repeated_ngram_share(&empty, 5)), (0.0, 0.0));
    }
}

//! Gopher's repetition rules (Rae et al. 2021, appendix A1.1) on paragraphs, lines and runs of
//! words, as datatrove counts them: characters of what is repeated, of all characters of the text.

use std::collections::HashSet;

use milpa_base::seed::splitmix64;

use super::{Filter, Thresholds, Verdict, View, characters::strip, count_chars, share, word_hash};
use crate::document::Reason;

/// Gopher's repetition rules, in datatrove's order.
#[derive(Debug, Clone, Copy, Default)]
pub struct GopherRepetition;

impl Filter for GopherRepetition {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        let above = |rule, what: &str, value, most| {
            Verdict::above(Reason::Repetition, rule, what, value, most)
        };
        if view.text.is_empty() {
            let detail = "the text is empty".to_owned();
            return Some(Verdict { reason: Reason::Repetition, rule: "empty", detail });
        }
        let paragraphs = repeated(paragraphs(strip(view.text)));
        let lines = repeated(lines(view.text));
        let of_pieces = [
            (
                "dup_para_frac",
                "share of repeated paragraphs",
                paragraphs.0,
                t.max_repeated_paragraphs,
            ),
            (
                "dup_para_char_frac",
                "share of characters in repeated paragraphs",
                share(paragraphs.1, view.chars),
                t.max_repeated_paragraph_chars,
            ),
            ("dup_line_frac", "share of repeated lines", lines.0, t.max_repeated_lines),
            (
                "dup_line_char_frac",
                "share of characters in repeated lines",
                share(lines.1, view.chars),
                t.max_repeated_line_chars,
            ),
        ];
        let found = of_pieces
            .into_iter()
            .find_map(|(rule, what, value, most)| above(rule, what, value, most));
        if found.is_some() {
            return found;
        }
        let tops = [
            (2, "top_2_gram", t.max_top_2_gram),
            (3, "top_3_gram", t.max_top_3_gram),
            (4, "top_4_gram", t.max_top_4_gram),
        ];
        let repeats = [
            (5, "duplicated_5_n_grams", t.max_repeated_5_grams),
            (6, "duplicated_6_n_grams", t.max_repeated_6_grams),
            (7, "duplicated_7_n_grams", t.max_repeated_7_grams),
            (8, "duplicated_8_n_grams", t.max_repeated_8_grams),
            (9, "duplicated_9_n_grams", t.max_repeated_9_grams),
            (10, "duplicated_10_n_grams", t.max_repeated_10_grams),
        ];
        // A share of characters above 1 is possible (spaces between words count), but not one
        // above 2; thresholds that high switch a rule off, and then nothing is counted.
        let off = |most: f64| most >= 2.0;
        if tops.iter().chain(&repeats).all(|&(.., most)| off(most)) {
            return None;
        }
        let mut runs = Runs::new(&view.words);
        for (length, rule, most) in tops.into_iter().filter(|&(.., most)| !off(most)) {
            let what = format!("share of characters in the most frequent {length}-gram");
            let found = above(rule, &what, share(runs.most_frequent(length), view.chars), most);
            if found.is_some() {
                return found;
            }
        }
        repeats.into_iter().filter(|&(.., most)| !off(most)).find_map(|(length, rule, most)| {
            let what = format!("share of characters in repeated {length}-grams");
            above(rule, &what, share(runs.repeated(length), view.chars), most)
        })
    }
}

/// Pieces between blank lines.
fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    // Two or more line ends part; the first piece may be empty, the others are not.
    text.split("\n\n")
        .map(|piece| piece.trim_matches('\n'))
        .enumerate()
        .filter(|(index, piece)| *index == 0 || !piece.is_empty())
        .map(|(_, piece)| piece)
}

/// Lines without the blank ones; a line end at the beginning or end of the text gives an empty one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let last = text.split('\n').count() - 1;
    text.split('\n')
        .enumerate()
        .filter(move |(index, line)| !line.is_empty() || *index == 0 || *index == last)
        .map(|(_, line)| line)
}

/// Share of pieces that are equal to an earlier one, and the number of their characters.
pub(super) fn repeated<'a>(pieces: impl Iterator<Item = &'a str>) -> (f64, usize) {
    let mut seen = HashSet::new();
    let (mut count, mut again, mut chars) = (0, 0, 0);
    for piece in pieces {
        count += 1;
        if !seen.insert(piece) {
            again += 1;
            chars += count_chars(piece);
        }
    }
    (share(again, count), chars)
}

/// Counts runs of words by 64-bit hashes: two different runs of one text share one by chance with
/// a probability below 10⁻⁸ even in a text of 100,000 words.
struct Runs<'a> {
    words: &'a [&'a str],
    /// `prefixes[i]` is a polynomial of the hashes of the first `i` words, modulo 2^64.
    prefixes: Vec<u64>,
    /// `ends[i]` is the number of characters of the first `i` words.
    ends: Vec<usize>,
    slots: Vec<Slot>,
    /// Runs from this length on are all different.
    distinct_from: usize,
    /// Made when runs are first compared as joined text.
    joined: Option<Joined>,
}

/// Hashes of runs as joined text, without spaces: `ab c` is then the same as `a bc`, as datatrove
/// has it where it looks for runs that came before.
struct Joined {
    /// `sums[i]` is the sum of the bytes of the first `i` words, each times a power of [`BASE`] by
    /// its place.
    sums: Vec<u64>,
    /// The inverse of the power at which word `i` begins.
    inverses: Vec<u64>,
    /// Runs from this length on are all different.
    distinct_from: usize,
}

impl Joined {
    fn new(words: &[&str]) -> Self {
        let mut sums = Vec::with_capacity(words.len() + 1);
        let mut inverses = Vec::with_capacity(words.len() + 1);
        let (mut sum, mut power, mut inverse) = (0u64, 1u64, 1u64);
        for word in words {
            sums.push(sum);
            inverses.push(inverse);
            for byte in word.bytes() {
                sum = sum.wrapping_add(power.wrapping_mul(u64::from(byte) + 1));
                power = power.wrapping_mul(BASE);
                inverse = inverse.wrapping_mul(INVERSE);
            }
        }
        sums.push(sum);
        Self { sums, inverses, distinct_from: usize::MAX }
    }

    fn key(&self, at: usize, length: usize) -> u64 {
        let run = self.sums[at + length].wrapping_sub(self.sums[at]);
        splitmix64(run.wrapping_mul(self.inverses[at]))
    }
}

#[derive(Clone, Copy, Default)]
struct Slot {
    key: u64,
    /// 0 in a free slot.
    count: u32,
    first: u32,
}

/// Odd, so that no power of it vanishes.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;
/// `BASE · INVERSE = 1` modulo 2^64.
const INVERSE: u64 = inverse(BASE);

/// The inverse of an odd number modulo 2^64, by Newton's iteration.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut correct_bits = 3;
    while correct_bits < 64 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        correct_bits *= 2;
    }
    inverse
}

impl<'a> Runs<'a> {
    fn new(words: &'a [&'a str]) -> Self {
        let mut prefixes = Vec::with_capacity(words.len() + 1);
        let mut ends = Vec::with_capacity(words.len() + 1);
        let (mut prefix, mut end) = (0u64, 0);
        prefixes.push(prefix);
        ends.push(end);
        for word in words {
            prefix = prefix.wrapping_mul(BASE).wrapping_add(word_hash(word));
            end += count_chars(word);
            prefixes.push(prefix);
            ends.push(end);
        }
        let slots = vec![Slot::default(); (2 * words.len()).next_power_of_two().max(2)];
        Self { words, prefixes, ends, slots, distinct_from: usize::MAX, joined: None }
    }

    /// Characters of the run of `length` words that begins at `at`.
    fn chars(&self, at: usize, length: usize) -> usize {
        self.ends[at + length] - self.ends[at]
    }

    fn key(&self, at: usize, length: usize, power: u64) -> u64 {
        let run = self.prefixes[at + length].wrapping_sub(self.prefixes[at].wrapping_mul(power));
        splitmix64(run)
    }

    /// The slot of a key: its own, or a free one.
    fn slot(&mut self, key: u64) -> &mut Slot {
        let mask = self.slots.len() - 1;
        let mut at = key as usize & mask;
        while self.slots[at].count > 0 && self.slots[at].key != key {
            at = (at + 1) & mask;
        }
        &mut self.slots[at]
    }

    /// Characters that the most frequent run of `length` words makes up, spaces between its words
    /// included; the earliest run where several come equally often, a single one too.
    fn most_frequent(&mut self, length: usize) -> usize {
        let Some(last) = self.words.len().checked_sub(length) else { return 0 };
        let (mut count, mut first) = (1, 0);
        if length < self.distinct_from {
            let power = BASE.wrapping_pow(length as u32);
            self.slots.fill(Slot::default());
            for at in 0..=last {
                let key = self.key(at, length, power);
                let slot = self.slot(key);
                if slot.count == 0 {
                    *slot = Slot { key, count: 0, first: at as u32 };
                }
                slot.count += 1;
                if (slot.count, u32::MAX - slot.first) > (count, u32::MAX - first) {
                    (count, first) = (slot.count, slot.first);
                }
            }
            if count == 1 {
                self.distinct_from = length;
            }
        }
        count as usize * (self.chars(first as usize, length) + length - 1)
    }

    /// Characters in runs of `length` words that came before, without overlap.
    fn repeated(&mut self, length: usize) -> usize {
        let Some(last) = self.words.len().checked_sub(length) else { return 0 };
        let mut joined = self.joined.take().unwrap_or_else(|| Joined::new(self.words));
        let (mut at, mut chars) = (0, 0);
        if length < joined.distinct_from {
            self.slots.fill(Slot::default());
            while at <= last {
                let key = joined.key(at, length);
                let slot = self.slot(key);
                if slot.count == 0 {
                    *slot = Slot { key, count: 1, first: 0 };
                    at += 1;
                } else {
                    chars += self.chars(at, length);
                    at += length;
                }
            }
            if chars == 0 {
                joined.distinct_from = length;
            }
        }
        self.joined = Some(joined);
        chars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        text.split(' ').collect()
    }

    #[test]
    fn runs_are_counted_by_hand() {
        let frequent = |text, length| Runs::new(&words(text)).most_frequent(length);
        let repeated = |text, length| Runs::new(&words(text)).repeated(length);
        // "a b" three times, with its space.
        assert_eq!(frequent("a b a b a b c d e f", 2), 9);
        let twice = "a b c d e x a b c d e y";
        assert_eq!((repeated(twice, 5), repeated(twice, 10)), (5, 0));
        // A single run counts as the most frequent one.
        assert_eq!(frequent("uno dos tres", 2), 7);
        assert_eq!(Runs::new(&[]).most_frequent(2), 0);
        // Joined text is compared.
        assert_eq!(repeated("ab c x a bc", 2), 3);
        // Overlapping runs are counted once: six a's hold two runs of two after the first.
        assert_eq!(repeated("a a a a a a", 2), 4);
    }

    #[test]
    fn pieces_are_counted_by_hand() {
        assert_eq!(repeated(["ñ", "yy", "ñ"].into_iter()), (1.0 / 3.0, 1));
        let pieces = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(pieces("\na\n\nb\n"), ["", "a", "b", ""]);
        assert_eq!(paragraphs("a\nb\n\n\nc\n\n\n\nd").collect::<Vec<_>>(), ["a\nb", "c", "d"]);
        assert_eq!(paragraphs("").collect::<Vec<_>>(), [""]);
    }
}

//! Unigram segmentation: of all ways to write a text as pieces, the one of highest score.
//!
//! Viterbi over byte positions with a trie of pieces (Kudo 2018, arXiv 1804.10959). Time is the
//! text's length times the longest piece; memory is 16 bytes a byte of a word. Where no piece spans
//! two words, words are looked up in the cache first. Rounding and ties follow the peer, Hugging
//! Face in f64, sentencepiece in f32 summed from the text's beginning: so a cached word counts only
//! where its pieces win by more than rounding could turn.

use std::ops::Range;

use crate::{
    bpe::{KEPT_BYTES, WordCache},
    trie::Trie,
    words::{META_SPACE, is_one_word, words},
};

/// A piece as the segmentation sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Piece<'a> {
    pub(crate) id: u32,
    pub(crate) text: &'a str,
    pub(crate) score: f64,
    /// A user-defined piece of SentencePiece: preferred to whatever else covers its text.
    pub(crate) preferred: bool,
}

/// How scores are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// sentencepiece
    Single,
    /// Hugging Face tokenizers
    Double,
}

/// The unknown piece's penalty below the lowest score, as in both peers.
const UNKNOWN_PENALTY: f64 = 10.0;
const NO_PIECE: u32 = u32::MAX;

/// Pieces and their scores, ready to segment.
#[derive(Debug, Clone)]
pub(crate) struct Unigram {
    trie: Trie,
    /// By the trie's values.
    ids: Vec<u32>,
    scores: Vec<f64>,
    scores_by_id: Vec<f64>,
    /// The largest of all scores by amount.
    bound: f64,
    unknown_score: f64,
    precision: Precision,
    /// No piece spans two words, so that the best segmentation is that of each word.
    words_are_apart: bool,
}

/// A part of an encoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Pieces(&'a [u32]),
    /// A character without a piece.
    Unknown(&'a str),
}

const UNREACHED: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Index of the piece that ends here; `NO_PIECE` for an unknown character.
    piece: u32,
    start: u32,
}

/// A piece, or an unknown character, in its place.
#[derive(Clone, Copy)]
struct PieceStep {
    start: usize,
    end: usize,
    score: f64,
}

/// Buffers of a segmentation, and the path that was found.
#[derive(Default)]
struct Lattice {
    /// By the byte at which a path ends.
    best: Vec<Best>,
    /// The pieces that fit somewhere, by where they begin.
    steps: Vec<PieceStep>,
    /// `NO_PIECE` for an unknown character.
    ids: Vec<u32>,
    /// Places among the ids, and in the text.
    unknown: Vec<(usize, Range<usize>)>,
}

impl Lattice {
    /// By how much the best segmentation of a word of at most [`KEPT_BYTES`] scores more than the
    /// next one, in exact arithmetic (but for f64); infinite if there is no other.
    fn margin(&self, bytes: usize) -> f64 {
        let mut two = [[f64::NEG_INFINITY; 2]; KEPT_BYTES + 1];
        two[0][0] = 0.0;
        for &PieceStep { start, end, score } in &self.steps {
            for before in two[start] {
                let (score, place) = (before + score, &mut two[end]);
                if score > place[0] {
                    *place = [score, place[0]];
                } else if score > place[1] {
                    place[1] = score;
                }
            }
        }
        two[bytes][0] - two[bytes][1]
    }

    fn take(&self, text: &str, take: &mut dyn FnMut(Part<'_>)) {
        let mut start = 0;
        for (at, range) in &self.unknown {
            if start < *at {
                take(Part::Pieces(&self.ids[start..*at]));
            }
            take(Part::Unknown(&text[range.clone()]));
            start = at + 1;
        }
        if start < self.ids.len() {
            take(Part::Pieces(&self.ids[start..]));
        }
    }
}

impl Unigram {
    /// Makes the tables; `lowest` and `highest` are the bounds of the scores of ordinary pieces.
    pub(crate) fn new(
        pieces: &[Piece<'_>],
        lowest: f64,
        highest: f64,
        precision: Precision,
    ) -> Self {
        let mut sorted: Vec<&Piece<'_>> = pieces.iter().filter(|p| !p.text.is_empty()).collect();
        sorted.sort_by_key(|piece| piece.text);
        // The last of two pieces with the same text counts.
        sorted.reverse();
        sorted.dedup_by_key(|piece| piece.text);
        sorted.reverse();
        let score = |piece: &&Piece<'_>| {
            if piece.preferred {
                // The product is one of f32, the rest of f64, as sentencepiece's compiler has it.
                f64::from(piece.text.len() as f32 * highest as f32) - 0.1
            } else {
                piece.score
            }
        };
        let scores: Vec<f64> = sorted.iter().map(score).collect();
        let unknown_score = match precision {
            Precision::Single => f64::from((lowest - UNKNOWN_PENALTY) as f32),
            Precision::Double => lowest - UNKNOWN_PENALTY,
        };
        let last = sorted.iter().map(|piece| piece.id as usize + 1).max().unwrap_or(0);
        let mut scores_by_id = vec![0.0; last];
        for (piece, &score) in sorted.iter().zip(&scores) {
            scores_by_id[piece.id as usize] = score;
        }
        Self {
            trie: Trie::new(&sorted.iter().map(|piece| piece.text.as_bytes()).collect::<Vec<_>>()),
            ids: sorted.iter().map(|piece| piece.id).collect(),
            scores_by_id,
            bound: scores.iter().fold(unknown_score.abs(), |bound, score| bound.max(score.abs())),
            scores,
            unknown_score,
            precision,
            words_are_apart: sorted.iter().all(|piece| is_one_word(piece.text))
                && sorted.iter().any(|piece| piece.text == META_SPACE),
        }
    }

    /// Calls `take` with the ids of the best segmentation of `text`, which must be shorter than
    /// 4 GiB, and with the characters that have no piece.
    pub(crate) fn encode(&self, text: &str, cache: &mut WordCache, take: &mut dyn FnMut(Part<'_>)) {
        let mut lattice = Lattice::default();
        let mut total = 0.0;
        let mut encode_word =
            |word: &str| total = self.encode_word(word, total, &mut lattice, cache, take);
        if self.words_are_apart {
            words(text, &mut encode_word);
        } else {
            encode_word(text);
        }
    }

    /// Encodes a word after pieces that score `total` together; returns the new total.
    fn encode_word(
        &self,
        word: &str,
        mut total: f64,
        lattice: &mut Lattice,
        cache: &mut WordCache,
        take: &mut dyn FnMut(Part<'_>),
    ) -> f64 {
        let safe = self.safe_margin(word.len(), total);
        if let Some((ids, margin)) = cache.get(word.as_bytes())
            && f64::from(margin) > safe
        {
            for &id in ids {
                total = self.round(total + self.scores_by_id[id as usize]);
            }
            take(Part::Pieces(ids));
            return total;
        }
        let end = self.segment(word, total, lattice);
        if word.len() <= KEPT_BYTES && lattice.unknown.is_empty() {
            let margin = lattice.margin(word.len());
            if margin > safe {
                cache.put(word.as_bytes(), &lattice.ids, margin as f32);
            }
        }
        lattice.take(word, take);
        end
    }

    /// The margin by which the best segmentation of a word must win in exact arithmetic so that
    /// rounding cannot make the peer choose another: each sum along a path is off by half a unit in
    /// the last place at most, here counted four times.
    fn safe_margin(&self, bytes: usize, total: f64) -> f64 {
        let unit = match self.precision {
            Precision::Single => f64::from(f32::EPSILON),
            Precision::Double => f64::EPSILON,
        };
        let pieces = bytes as f64;
        2.0 * unit * pieces * (total.abs() + pieces * self.bound)
    }

    fn round(&self, score: f64) -> f64 {
        match self.precision {
            Precision::Single => f64::from(score as f32),
            Precision::Double => score,
        }
    }

    /// Fills the lattice's path with the best segmentation of `text` as the peer finds it when the
    /// score before it is `total`; returns the score after it.
    fn segment(&self, text: &str, total: f64, lattice: &mut Lattice) -> f64 {
        let bytes = text.as_bytes();
        let keeps_steps = bytes.len() <= KEPT_BYTES;
        let Lattice { best, steps, .. } = lattice;
        steps.clear();
        best.clear();
        best.resize(bytes.len() + 1, Best { score: 0.0, piece: NO_PIECE, start: UNREACHED });
        best[0].score = total;
        let mut step = |start: usize,
                        end: usize,
                        score: f64,
                        piece: u32,
                        till_here: f64,
                        best: &mut [Best]| {
            if keeps_steps {
                steps.push(PieceStep { start, end, score });
            }
            let (score, place) = (self.round(score + till_here), &mut best[end]);
            if place.start == UNREACHED || score > place.score {
                *place = Best { score, piece, start: start as u32 };
            }
        };
        for (start, character) in text.char_indices() {
            let till_here = best[start].score;
            let character_end = start + character.len_utf8();
            let mut single = false;
            self.trie.prefixes(&bytes[start..], |length, piece| {
                single |= start + length == character_end;
                let score = self.scores[piece as usize];
                step(start, start + length, score, piece, till_here, best);
            });
            if !single {
                step(start, character_end, self.unknown_score, NO_PIECE, till_here, best);
            }
        }
        lattice.ids.clear();
        lattice.unknown.clear();
        let mut end = bytes.len();
        while end > 0 {
            let Best { piece, start, .. } = lattice.best[end];
            let start = start as usize;
            let id = self.ids.get(piece as usize).copied();
            if id.is_none() {
                lattice.unknown.push((lattice.ids.len(), start..end));
            }
            lattice.ids.push(id.unwrap_or(NO_PIECE));
            end = start;
        }
        lattice.ids.reverse();
        let last = lattice.ids.len().wrapping_sub(1);
        lattice.unknown.reverse();
        for (at, _) in &mut lattice.unknown {
            *at = last - *at;
        }
        lattice.best[bytes.len()].score
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unigram(pieces: &[(&str, f64)], precision: Precision) -> Unigram {
        let pieces: Vec<Piece<'_>> = pieces
            .iter()
            .enumerate()
            .map(|(id, &(text, score))| Piece { id: id as u32, text, score, preferred: false })
            .collect();
        let lowest = pieces.iter().map(|piece| piece.score).fold(0.0, f64::min);
        Unigram::new(&pieces, lowest, 0.0, precision)
    }

    fn encoded(unigram: &Unigram, text: &str, cache: &mut WordCache) -> Vec<Option<u32>> {
        let mut found = Vec::new();
        unigram.encode(text, cache, &mut |part| match part {
            Part::Pieces(ids) => found.extend(ids.iter().map(|&id| Some(id))),
            Part::Unknown(_) => found.push(None),
        });
        found
    }

    fn check(pieces: &[(&str, f64)], text: &str, expect: &[Option<u32>]) {
        let unigram = unigram(pieces, Precision::Double);
        assert_eq!(encoded(&unigram, text, &mut WordCache::new()), expect, "{text}");
    }

    #[test]
    fn the_best_path_is_taken() {
        let pieces = [("a", -1.0), ("b", -1.0), ("ab", -1.5), ("ba", -3.0), ("ñ", -1.0)];
        check(&pieces, "ab", &[Some(2)]);
        check(&pieces, "aba", &[Some(2), Some(0)]);
        check(&pieces, "añ日b", &[Some(0), Some(4), None, Some(1)]);
        check(&pieces, "", &[]);
        check(&[], "ab", &[None, None]);
    }

    #[test]
    fn sums_are_those_of_f32() {
        let lowest = -15.3f32;
        let unigram = unigram(&[("a", f64::from(lowest)), ("▁", -1.0)], Precision::Single);
        for count in 0..200 {
            let total = -0.37 * count as f32;
            let check = |text: &str, score: f32| {
                let found = unigram.segment(text, total.into(), &mut Lattice::default());
                assert_eq!(found as f32, total + score, "{text} after {total}");
            };
            check("日", lowest - 10.0);
            check("a", lowest);
        }
    }

    proptest! {
        #[test]
        fn no_other_segmentation_scores_more(
            scores in prop::collection::vec(-9.0f64..0.0, 6),
            text in "[abñ]{0,10}",
        ) {
            let texts = ["a", "b", "ab", "ba", "añ", "bab"];
            let pieces: Vec<_> = texts.into_iter().zip(scores.iter().copied()).collect();
            let unigram = unigram(&pieces, Precision::Double);
            let value = |part: Option<u32>| {
                part.map_or(unigram.unknown_score, |id| scores[id as usize])
            };
            let ids = encoded(&unigram, &text, &mut WordCache::new());
            let found: f64 = ids.into_iter().map(value).sum();
            // All segmentations, by recursion over the rest of the text.
            fn best(pieces: &[(&str, f64)], unknown: f64, rest: &str) -> f64 {
                let Some(first) = rest.chars().next() else { return 0.0 };
                let fits = pieces.iter().filter(|(text, _)| rest.starts_with(text));
                let known = fits.map(|(text, score)| score + best(pieces, unknown, &rest[text.len()..]));
                known.fold(f64::NEG_INFINITY, f64::max)
                    .max(unknown + best(pieces, unknown, &rest[first.len_utf8()..]))
            }
            prop_assert!((found - best(&pieces, unigram.unknown_score, &text)).abs() < 1e-9);
        }

        #[test]
        fn the_cache_changes_nothing(
            scores in prop::collection::vec((-8i32..0).prop_map(|n| f64::from(n) * 0.37), 9),
            words in prop::collection::vec("▁{0,2}[abñ日]{0,5}", 0..60),
            single in any::<bool>(),
        ) {
            // Scores of few values, so that many segmentations tie but for rounding.
            let texts = ["▁", "a", "b", "ab", "ba", "▁a", "▁ab", "añ", "aa"];
            let pieces: Vec<_> = texts.into_iter().zip(scores.iter().copied()).collect();
            let precision = if single { Precision::Single } else { Precision::Double };
            let unigram = unigram(&pieces, precision);
            prop_assert!(unigram.words_are_apart);
            let text = words.concat();
            let mut whole = unigram.clone();
            whole.words_are_apart = false;
            let mut cache = WordCache::new();
            let expect = encoded(&whole, &text, &mut WordCache::new());
            for _ in 0..2 {
                prop_assert_eq!(&encoded(&unigram, &text, &mut cache), &expect);
            }
        }
    }
}

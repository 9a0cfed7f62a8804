//! Unigram segmentation: of all ways to write a text as pieces, the one of highest score.
//!
//! Viterbi over byte positions with a trie of pieces (Kudo 2018, arXiv 1804.10959). Time is the
//! text's length times the longest piece; memory is 16 bytes a byte. Rounding and ties follow the
//! peer: sentencepiece adds in f32, Hugging Face in f64, the first of two equal paths stays.

use crate::trie::Trie;

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
    unknown_score: f64,
    precision: Precision,
}

/// A part of a segmented text.
pub(crate) struct Part<'a> {
    pub(crate) text: &'a str,
    /// `None` for a character without a piece.
    pub(crate) id: Option<u32>,
}

#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Index of the piece that ends here; `NO_PIECE` for an unknown character.
    piece: u32,
    start: u32,
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
        Self {
            trie: Trie::new(&sorted.iter().map(|piece| piece.text.as_bytes()).collect::<Vec<_>>()),
            ids: sorted.iter().map(|piece| piece.id).collect(),
            scores: sorted.iter().map(score).collect(),
            unknown_score: lowest - UNKNOWN_PENALTY,
            precision,
        }
    }

    /// The best segmentation of `text`, which must be shorter than 4 GiB.
    pub(crate) fn segment<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let bytes = text.as_bytes();
        let unreached = Best { score: 0.0, piece: NO_PIECE, start: u32::MAX };
        let mut best = vec![unreached; bytes.len() + 1];
        let round = |score: f64| match self.precision {
            Precision::Single => f64::from(score as f32),
            Precision::Double => score,
        };
        let improve = |place: &mut Best, candidate: f64, piece: u32, start: usize| {
            let score = round(candidate);
            if place.start == u32::MAX || score > place.score {
                *place = Best { score, piece, start: start as u32 };
            }
        };
        for (start, character) in text.char_indices() {
            let till_here = best[start].score;
            let character_end = start + character.len_utf8();
            let mut single = false;
            self.trie.prefixes(&bytes[start..], |length, piece| {
                single |= start + length == character_end;
                let score = self.scores[piece as usize] + till_here;
                improve(&mut best[start + length], score, piece, start);
            });
            if !single {
                let score = self.unknown_score + till_here;
                improve(&mut best[character_end], score, NO_PIECE, start);
            }
        }
        let mut parts = Vec::new();
        let mut end = bytes.len();
        while end > 0 {
            let Best { piece, start, .. } = best[end];
            let id = self.ids.get(piece as usize).copied();
            parts.push(Part { text: &text[start as usize..end], id });
            end = start as usize;
        }
        parts.reverse();
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unigram(pieces: &[(&str, f64)]) -> Unigram {
        let pieces: Vec<Piece<'_>> = pieces
            .iter()
            .enumerate()
            .map(|(id, &(text, score))| Piece { id: id as u32, text, score, preferred: false })
            .collect();
        let lowest = pieces.iter().map(|piece| piece.score).fold(0.0, f64::min);
        Unigram::new(&pieces, lowest, 0.0, Precision::Double)
    }

    fn check(pieces: &[(&str, f64)], text: &str, expect: &[Option<u32>]) {
        let ids: Vec<_> = unigram(pieces).segment(text).iter().map(|part| part.id).collect();
        assert_eq!(ids, expect, "{text}");
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

    proptest! {
        #[test]
        fn no_other_segmentation_scores_more(
            scores in prop::collection::vec(-9.0f64..0.0, 6),
            text in "[abñ]{0,10}",
        ) {
            let texts = ["a", "b", "ab", "ba", "añ", "bab"];
            let pieces: Vec<_> = texts.into_iter().zip(scores.iter().copied()).collect();
            let unigram = unigram(&pieces);
            let value = |part: Option<u32>| {
                part.map_or(unigram.unknown_score, |id| scores[id as usize])
            };
            let found: f64 = unigram.segment(&text).iter().map(|part| value(part.id)).sum();
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
    }
}

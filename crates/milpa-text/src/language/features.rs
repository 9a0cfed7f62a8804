//! The features of a text, and the sums of their weights word by word.
//!
//! Most words of a text have been seen before, so each thread keeps the sums of words that it met twice in
//! a table of fixed size; whole numbers make the result independent of what is in it.

use milpa_base::seed::splitmix64;

use super::{LanguageModel, Likely, Place};
use crate::{normalise::fold_word, segment::words};

/// Characters of a text that are looked at: three pieces from its begin, middle and end.
const MAX_CHARS: usize = 3000;
/// Longest word that is a feature as a whole, in characters.
const MAX_WORD_FEATURE: usize = 10;
/// Words that a thread keeps; 2 bytes for each of some 400 labels make 13 MB of them. Of the words of a
/// stream of books, laws and news 86 % are met again among so many.
const KEPT_BITS: u32 = 14;
/// Places that a word may have among the kept ones: the one that was used longest ago is given up.
const WAYS: usize = 2;
/// Words of which a thread remembers that it met them: a word is kept from the second time on, as of
/// those met once there are many, and each would cost another its place.
const MET_BITS: u32 = 16;
/// Most features of a word that is kept: with weights of at most 15, its sums stay below 1,500.
const MAX_KEPT_FEATURES: u16 = 100;
/// Features whose weights are added in 16 bits: 4,300 · 15 < 2¹⁶.
const BLOCK_FEATURES: usize = 4300;

/// Three pieces of a long text, or the whole of a short one.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    // Four bytes hold any character, so shorter texts need no counting.
    if text.len() <= MAX_CHARS {
        return vec![text];
    }
    let piece = |from: usize| {
        let start = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
        let rest = &text[start..];
        let end = rest.char_indices().nth(MAX_CHARS / 3).map_or(rest.len(), |(at, _)| at);
        &rest[..end]
    };
    let third = text.len() / 3;
    vec![piece(0), piece(third), piece(2 * third)]
}

/// Folds words and cuts them into features.
#[derive(Debug, Default)]
pub(super) struct WordFeatures {
    folded: String,
    padded: Vec<u32>,
}

impl WordFeatures {
    /// Calls `add` with the hash of each feature of `word`: its 1–4-grams with a space on both
    /// sides (single letters beyond ASCII alone), and the word itself if it is short. Words without
    /// letters or with digits give none.
    pub(super) fn for_each(&mut self, word: &str, mut add: impl FnMut(u32)) {
        if !word.chars().any(char::is_alphabetic) || word.bytes().any(|b| b.is_ascii_digit()) {
            return;
        }
        fold_word(word, &mut self.folded);
        let padded = &mut self.padded;
        padded.clear();
        padded.push(u32::from(' '));
        // A run without spaces (Thai, Chinese) may be long; its n-grams are all that is used.
        padded.extend(self.folded.chars().map(u32::from));
        padded.push(u32::from(' '));
        let letters = padded.len() - 2;
        for start in 0..padded.len() {
            let mut hash = 0u64;
            for (length, &c) in padded[start..].iter().take(4).enumerate() {
                hash = splitmix64(hash ^ u64::from(c));
                // The padding alone says nothing, and a letter of ASCII hardly more.
                if length > 0 || c >= 128 {
                    add((hash >> 32) as u32);
                }
            }
        }
        if (3..=MAX_WORD_FEATURE).contains(&letters) {
            let hash = padded.iter().fold(1u64, |hash, &c| splitmix64(hash ^ u64::from(c)));
            add((hash >> 32) as u32);
        }
    }
}

/// Calls `add` with the hash of each feature of `text`.
pub(super) fn for_each_feature(text: &str, mut add: impl FnMut(u32)) {
    let mut features = WordFeatures::default();
    words(text).for_each(|word| features.for_each(word, &mut add));
}

/// A thread's working memory for one model.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) identity: u64,
    labels: usize,
    features: WordFeatures,
    /// Of the word at hand: its features, and where their weights are.
    hashes: Vec<u32>,
    places: Vec<(u32, Place)>,
    /// Of each kept word: the hash of its bytes (0 where none is kept), number of features, sums.
    kept: Vec<u64>,
    kept_features: Vec<u16>,
    kept_sums: Vec<u16>,
    /// Of each set of places for the same words: which was used last.
    used_last: Vec<u8>,
    /// Parts of the hashes of words that were met.
    met: Vec<u16>,
    /// Sums of the last few words, and of all before.
    block: Vec<u16>,
    block_features: usize,
    scores: Vec<u32>,
    count: usize,
    pub(super) likely: Likely,
}

impl Scratch {
    pub(super) fn new(model: &LanguageModel) -> Self {
        let labels = model.labels.len();
        Self {
            identity: model.identity,
            labels,
            features: WordFeatures::default(),
            hashes: Vec::new(),
            places: Vec::new(),
            kept: vec![0; 1 << KEPT_BITS],
            kept_features: vec![0; 1 << KEPT_BITS],
            kept_sums: vec![0; labels << KEPT_BITS],
            used_last: vec![0; (1 << KEPT_BITS) / WAYS],
            met: vec![0; 1 << MET_BITS],
            block: vec![0; labels],
            block_features: 0,
            scores: vec![0; labels],
            count: 0,
            likely: Likely::default(),
        }
    }

    /// Begins a new text.
    pub(super) fn clear(&mut self) {
        self.block.fill(0);
        self.block_features = 0;
        self.scores.fill(0);
        self.count = 0;
    }

    /// Number of features added.
    pub(super) fn features(&self) -> usize {
        self.count
    }

    /// The sums of weights of what was added, by label.
    pub(super) fn scores(&mut self) -> &[u32] {
        for (score, sum) in self.scores.iter_mut().zip(&mut self.block) {
            *score += u32::from(std::mem::take(sum));
        }
        self.block_features = 0;
        &self.scores
    }

    /// Adds the features of a word.
    pub(super) fn add_word(&mut self, model: &LanguageModel, word: &str) {
        let hash = word_hash(word);
        let set = (hash >> (64 - KEPT_BITS)) as usize / WAYS;
        let ways = &self.kept[set * WAYS..(set + 1) * WAYS];
        let found = ways.iter().position(|&kept| kept == hash);
        let way = found.unwrap_or(1 - usize::from(self.used_last[set]));
        let slot = set * WAYS + way;
        let place = slot * self.labels..(slot + 1) * self.labels;
        if found.is_none() {
            // Each character begins at most four n-grams, the padding three more.
            if word.len() > usize::from(MAX_KEPT_FEATURES) / 4 - 2 {
                self.add_long_word(model, word);
                return;
            }
            let count = self.look_up(model, word);
            let met = &mut self.met[hash as usize & ((1 << MET_BITS) - 1)];
            let part = (hash >> MET_BITS) as u16;
            if std::mem::replace(met, part) != part {
                self.count += count;
                self.make_room(count);
                self.places.iter().for_each(|&(_, place)| model.add(place, &mut self.block));
                return;
            }
            let sums = &mut self.kept_sums[place.clone()];
            sums.fill(0);
            self.kept[slot] = hash;
            self.kept_features[slot] = count as u16;
            self.places.iter().for_each(|&(_, place)| model.add(place, sums));
        }
        self.used_last[set] = way as u8;
        if self.kept_features[slot] == 0 {
            return;
        }
        let count = usize::from(self.kept_features[slot]);
        self.count += count;
        self.make_room(count);
        for (sum, &kept) in self.block.iter_mut().zip(&self.kept_sums[place]) {
            *sum += kept;
        }
    }

    /// Finds where the weights of a word's features are; the number of its features.
    fn look_up(&mut self, model: &LanguageModel, word: &str) -> usize {
        self.hashes.clear();
        self.features.for_each(word, |feature| self.hashes.push(feature));
        let count = self.hashes.len();
        model.find(&mut self.hashes, &mut self.places);
        count
    }

    /// Counts features that are about to be added to the block, after emptying it if it is full.
    fn make_room(&mut self, features: usize) {
        if self.block_features + features > BLOCK_FEATURES {
            self.scores();
        }
        self.block_features += features;
    }

    /// Adds a word that is too long to be kept.
    fn add_long_word(&mut self, model: &LanguageModel, word: &str) {
        let mut features = std::mem::take(&mut self.features);
        features.for_each(word, |feature| {
            self.count += 1;
            self.make_room(1);
            model.add(model.search(feature).1, &mut self.block);
        });
        self.features = features;
    }
}

/// A hash of a word's bytes, never 0.
fn word_hash(word: &str) -> u64 {
    let mut chunks = word.as_bytes().chunks_exact(8);
    let mut hash = word.len() as u64;
    for chunk in &mut chunks {
        hash = splitmix64(hash ^ u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
    }
    let rest = chunks.remainder().iter().fold(0u64, |rest, &byte| (rest << 8) | u64::from(byte));
    splitmix64(hash ^ rest.wrapping_mul(0x9E37_79B9_7F4A_7C15)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_judged_by_pieces() {
        let text = "ñandé ".repeat(3000);
        let pieces = pieces(&text);
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|piece| piece.chars().count() <= MAX_CHARS / 3));
    }

    #[test]
    fn kept_words_add_up_as_counted_ones() {
        let model = super::super::tests::toy();
        let text = "los niños y warmakuna en el parque, 25 bolalar уйда ".repeat(60)
            + &"parquepi".repeat(20);
        let mut scratch = Scratch::new(&model);
        words(&text).for_each(|word| scratch.add_word(&model, word));
        let (mut scores, mut count) = (vec![0u32; model.labels.len()], 0);
        for_each_feature(&text, |feature| {
            count += 1;
            if let Ok(at) = model.features.binary_search(&feature) {
                let own = model.starts[at] as usize..model.starts[at + 1] as usize;
                for &posting in &model.postings[own] {
                    scores[usize::from(posting >> 4)] += u32::from(posting & 15);
                }
            }
        });
        assert_eq!(scratch.scores(), scores);
        assert_eq!(scratch.features(), count);
        scratch.clear();
        assert_eq!((scratch.features(), scratch.scores().iter().sum::<u32>()), (0, 0));
    }
}

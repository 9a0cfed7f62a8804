//! Byte-pair merging of one word: the pair of lowest rank, leftmost first, until none is left.
//!
//! Short words go through a quadratic loop on the stack, long ones through a heap (O(n log n)), so
//! that a megabyte without a space is no attack. A bounded cache keeps the words of a text. It
//! knows nothing of text, pre-splits or special tokens; [`MergeTable`] works on any symbols,
//! [`ByteMerges`] on words of bytes.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::fast_hash::{hash_bytes, hash_u64};

/// Words up to this many bytes are merged on the stack.
const SHORT: usize = 64;
const NO_RANK: u32 = u32::MAX;

/// Ranks and results of all merges: open addressing, at most half full.
#[derive(Debug, Clone)]
pub(crate) struct MergeTable {
    /// (left << 32 | right, rank, merged id); rank `NO_RANK` marks a free place.
    places: Vec<(u64, u32, u32)>,
    mask: usize,
}

/// Merges of words of bytes.
#[derive(Debug, Clone)]
pub(crate) struct ByteMerges {
    table: MergeTable,
    byte_ids: [u32; 256],
    /// Rank and result for each pair of bytes: the first look-up of every word.
    byte_pairs: Vec<(u32, u32)>,
}

impl MergeTable {
    /// Makes the table of `merges` = (left, right, merged) with their ranks. A pair named twice has
    /// its last rank, as in Hugging Face tokenizers. Pairs of equal rank merge leftmost first.
    pub(crate) fn new(merges: impl ExactSizeIterator<Item = (u32, (u32, u32, u32))>) -> Self {
        let capacity = (merges.len() * 2 + 2).next_power_of_two();
        let mut table = Self { places: vec![(0, NO_RANK, 0); capacity], mask: capacity - 1 };
        for (rank, (left, right, merged)) in merges {
            let key = pack(left, right);
            let place = table.place_of(key);
            table.places[place] = (key, rank, merged);
        }
        table
    }

    fn place_of(&self, key: u64) -> usize {
        let mut place = hash_u64(key) as usize & self.mask;
        while self.places[place].1 != NO_RANK && self.places[place].0 != key {
            place = (place + 1) & self.mask;
        }
        place
    }

    /// Rank and result of a pair; `NO_RANK` if it does not merge.
    #[inline]
    fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let place = self.places[self.place_of(pack(left, right))];
        (place.1, place.2)
    }

    /// Merges `symbols` and appends what is left of them.
    pub(crate) fn merge(&self, mut symbols: Vec<u32>, ids: &mut Vec<u32>) {
        // A doubly linked list in arrays; GONE marks symbols that were merged into their left.
        const GONE: u32 = u32::MAX;
        let count = symbols.len();
        let mut next: Vec<usize> = (1..=count).collect();
        let mut previous: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::new();
        let push = |heap: &mut BinaryHeap<_>, symbols: &[u32], left: usize, right: usize| {
            let (rank, merged) = self.get(symbols[left], symbols[right]);
            if rank != NO_RANK {
                heap.push(Reverse((rank, left, symbols[left], symbols[right], merged)));
            }
        };
        for at in 0..count.saturating_sub(1) {
            push(&mut heap, &symbols, at, at + 1);
        }
        while let Some(Reverse((_, left, left_id, right_id, merged))) = heap.pop() {
            let right = next[left];
            // An entry is stale if either symbol changed since it was pushed.
            if symbols[left] != left_id || right >= count || symbols[right] != right_id {
                continue;
            }
            symbols[left] = merged;
            symbols[right] = GONE;
            next[left] = next[right];
            if next[left] < count {
                previous[next[left]] = left;
                push(&mut heap, &symbols, left, next[left]);
            }
            if left > 0 {
                push(&mut heap, &symbols, previous[left], left);
            }
        }
        ids.extend(symbols.into_iter().filter(|&symbol| symbol != GONE));
    }
}

impl ByteMerges {
    /// Makes the tables of `merges` = (left, right, merged) by rank.
    pub(crate) fn new(byte_ids: &[u32; 256], merges: &[(u32, u32, u32)]) -> Self {
        let table =
            MergeTable::new(merges.iter().enumerate().map(|(rank, &merge)| (rank as u32, merge)));
        let byte_pairs = (0..1usize << 16)
            .map(|pair| table.get(byte_ids[pair >> 8], byte_ids[pair & 255]))
            .collect();
        Self { table, byte_ids: *byte_ids, byte_pairs }
    }

    /// Appends the tokens of a word.
    pub(crate) fn encode_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        match word {
            [] => {}
            [byte] => ids.push(self.byte_ids[usize::from(*byte)]),
            _ if word.len() <= SHORT => self.encode_short(word, ids),
            _ => self.encode_long(word, ids),
        }
    }

    fn encode_short(&self, word: &[u8], ids: &mut Vec<u32>) {
        let (mut symbols, mut ranks, mut results) = ([0; SHORT], [NO_RANK; SHORT], [0; SHORT]);
        let mut length = word.len();
        for at in 0..length {
            symbols[at] = self.byte_ids[usize::from(word[at])];
            if at + 1 < length {
                let pair = usize::from(word[at]) << 8 | usize::from(word[at + 1]);
                (ranks[at], results[at]) = self.byte_pairs[pair];
            }
        }
        // ranks[length - 1] is NO_RANK: the last symbol begins no pair.
        loop {
            let (mut best, mut at) = (NO_RANK, 0);
            for (place, &rank) in ranks[..length - 1].iter().enumerate() {
                if rank < best {
                    (best, at) = (rank, place);
                }
            }
            if best == NO_RANK {
                break;
            }
            symbols[at] = results[at];
            symbols.copy_within(at + 2..length, at + 1);
            ranks.copy_within(at + 1..length, at);
            results.copy_within(at + 1..length, at);
            length -= 1;
            if at + 1 < length {
                (ranks[at], results[at]) = self.table.get(symbols[at], symbols[at + 1]);
            } else {
                ranks[at] = NO_RANK;
            }
            if at > 0 {
                (ranks[at - 1], results[at - 1]) = self.table.get(symbols[at - 1], symbols[at]);
            }
        }
        ids.extend_from_slice(&symbols[..length]);
    }

    fn encode_long(&self, word: &[u8], ids: &mut Vec<u32>) {
        let symbols = word.iter().map(|&byte| self.byte_ids[usize::from(byte)]).collect();
        self.table.merge(symbols, ids);
    }
}

#[inline]
fn pack(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Longest word in bytes that is kept, and most tokens of a kept word.
pub(crate) const KEPT_BYTES: usize = 24;
const KEPT_IDS: usize = 6;
const CACHE_PLACES: usize = 1 << 15;

#[derive(Clone, Copy)]
struct CachedWord {
    bytes: [u8; KEPT_BYTES],
    ids: [u32; KEPT_IDS],
    /// By how much these tokens beat any other; for Unigram, whose sums are rounded.
    margin: f32,
    /// 0 marks a free place: no word is empty.
    length: u8,
    count: u8,
}

/// A direct-mapped cache of words and their tokens; it changes the speed, never the result.
pub(crate) struct WordCache(Vec<CachedWord>);

impl WordCache {
    pub(crate) fn new() -> Self {
        let free = CachedWord {
            bytes: [0; KEPT_BYTES],
            ids: [0; KEPT_IDS],
            margin: 0.0,
            length: 0,
            count: 0,
        };
        Self(vec![free; CACHE_PLACES])
    }

    /// Appends the tokens of `word`, from the cache or from `encode`.
    #[inline]
    pub(crate) fn encode(
        &mut self,
        word: &[u8],
        ids: &mut Vec<u32>,
        encode: impl FnOnce(&[u8], &mut Vec<u32>),
    ) {
        if word.len() > KEPT_BYTES {
            return encode(word, ids);
        }
        let cached = &mut self.0[place_of(word)];
        if cached.holds(word) {
            // Copying all places and cutting is faster than a copy of variable length.
            let end = ids.len() + usize::from(cached.count);
            ids.extend_from_slice(&cached.ids);
            ids.truncate(end);
            return;
        }
        let start = ids.len();
        encode(word, ids);
        cached.put(word, &ids[start..], f32::INFINITY);
    }

    /// The tokens of `word` and the margin they were kept with.
    #[inline]
    pub(crate) fn get(&self, word: &[u8]) -> Option<(&[u32], f32)> {
        if word.len() > KEPT_BYTES {
            return None;
        }
        let cached = &self.0[place_of(word)];
        cached.holds(word).then(|| (&cached.ids[..usize::from(cached.count)], cached.margin))
    }

    /// Keeps the tokens of `word`, of at most [`KEPT_BYTES`], unless they are many.
    pub(crate) fn put(&mut self, word: &[u8], ids: &[u32], margin: f32) {
        self.0[place_of(word)].put(word, ids, margin);
    }
}

#[inline]
fn place_of(word: &[u8]) -> usize {
    (hash_bytes(word) >> 32) as usize & (CACHE_PLACES - 1)
}

impl CachedWord {
    #[inline]
    fn holds(&self, word: &[u8]) -> bool {
        usize::from(self.length) == word.len() && self.bytes[..word.len()] == *word
    }

    fn put(&mut self, word: &[u8], ids: &[u32], margin: f32) {
        if ids.len() <= KEPT_IDS {
            self.bytes[..word.len()].copy_from_slice(word);
            self.ids[..ids.len()].copy_from_slice(ids);
            self.length = word.len() as u8;
            self.count = ids.len() as u8;
            self.margin = margin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: look at every pair, merge the best one, begin again.
    fn by_definition(merges: &[(u32, u32, u32)], word: &[u8]) -> Vec<u32> {
        let mut symbols: Vec<u32> = word.iter().map(|&byte| u32::from(byte)).collect();
        loop {
            let rank_at = |at: usize| {
                merges.iter().rposition(|m| (m.0, m.1) == (symbols[at], symbols[at + 1]))
            };
            let best = (0..symbols.len().saturating_sub(1))
                .filter_map(|at| rank_at(at).map(|rank| (rank, at)))
                .min();
            let Some((rank, at)) = best else { return symbols };
            symbols[at] = merges[rank].2;
            symbols.remove(at + 1);
        }
    }

    proptest! {
        #[test]
        fn both_loops_do_what_the_definition_says(
            pairs in prop::collection::vec((0usize..40, 0usize..40), 0..40),
            word in prop::collection::vec(b'a'..b'e', 1..200),
        ) {
            let mut merges = Vec::new();
            for (left, right) in pairs {
                // Symbols 0..4 are the bytes a..d, later ones the merges made so far.
                let symbol = |n: usize| {
                    let n = n % (4 + merges.len());
                    if n < 4 { u32::from(b'a') + n as u32 } else { 256 + n as u32 - 4 }
                };
                let merge = (symbol(left), symbol(right), 256 + merges.len() as u32);
                merges.push(merge);
            }
            let table = ByteMerges::new(&std::array::from_fn(|byte| byte as u32), &merges);
            let expect = by_definition(&merges, &word);
            let mut long = Vec::new();
            table.encode_long(&word, &mut long);
            if word.len() > 1 {
                prop_assert_eq!(&long, &expect);
            }
            let short_word = &word[..word.len().min(SHORT)];
            let mut short = Vec::new();
            table.encode_word(short_word, &mut short);
            prop_assert_eq!(short, by_definition(&merges, short_word));
        }
    }

    #[test]
    fn the_cache_changes_nothing() {
        let table = ByteMerges::new(&std::array::from_fn(|byte| byte as u32), &[(97, 97, 256)]);
        let mut cache = WordCache::new();
        for word in [&b"aaab"[..], b"b", b"aaab", b"aaaaaaaaaaaaaaaaaaaaaaaa", b"aaab", &[b'a'; 70]]
        {
            let (mut cached, mut plain) = (vec![7], vec![7]);
            cache.encode(word, &mut cached, |word, ids| table.encode_word(word, ids));
            table.encode_word(word, &mut plain);
            assert_eq!(cached, plain);
        }
    }
}

//! A trie over bytes: which of many texts does a text begin with?
//!
//! It is read-only, a double array (Aoe 1989): the child of a node by a byte lies at the node's base
//! xor the byte, and names its parent. So a step is one look-up; 12 bytes a place. It knows nothing
//! of pieces and scores.

use std::{collections::VecDeque, ops::Range};

const NO_VALUE: u32 = u32::MAX;
const NO_PARENT: u32 = u32::MAX;
/// Children of one node lie in one block.
const BLOCK: usize = 256;
/// Blocks in which room is looked for; older ones are nearly full.
const OPEN_BLOCKS: usize = 16;

/// A trie over bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trie {
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// 0 without children: then no place names this one as its parent.
    base: u32,
    parent: u32,
    value: u32,
}

const FREE: Place = Place { base: 0, parent: NO_PARENT, value: NO_VALUE };

impl Trie {
    /// Makes the trie of sorted, distinct, non-empty `keys`; the values are their indexes.
    pub(crate) fn new(keys: &[&[u8]]) -> Self {
        let mut room = Room::default();
        // The root.
        room.find(&[0]);
        let mut places = vec![FREE; BLOCK];
        // Node, its keys, and the length of their common prefix.
        let mut waiting = VecDeque::from([(0usize, 0..keys.len(), 0usize)]);
        let mut labels = Vec::new();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        while let Some((node, mut range, depth)) = waiting.pop_front() {
            if keys.get(range.start).is_some_and(|key| key.len() == depth) && !range.is_empty() {
                places[node].value = range.start as u32;
                range.start += 1;
            }
            labels.clear();
            ranges.clear();
            while !range.is_empty() {
                let label = keys[range.start][depth];
                let same = keys[range.clone()].partition_point(|key| key[depth] == label);
                labels.push(label);
                ranges.push(range.start..range.start + same);
                range.start += same;
            }
            if labels.is_empty() {
                continue;
            }
            let base = room.find(&labels);
            places.resize(room.blocks * BLOCK, FREE);
            places[node].base = base as u32;
            for (&label, range) in labels.iter().zip(&ranges) {
                let child = base ^ usize::from(label);
                places[child].parent = node as u32;
                waiting.push_back((child, range.clone(), depth + 1));
            }
        }
        Self { places }
    }

    #[inline]
    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let child = self.places[node].base as usize ^ usize::from(byte);
        (self.places[child].parent == node as u32).then_some(child)
    }

    /// Calls `found` with length and value of each key that `text` begins with, shortest first.
    #[inline]
    pub(crate) fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut node = 0;
        for (index, &byte) in text.iter().enumerate() {
            let Some(child) = self.child(node, byte) else { return };
            node = child;
            let value = self.places[node].value;
            if value != NO_VALUE {
                found(index + 1, value);
            }
        }
    }

    /// Whether a key begins with this byte.
    #[inline]
    pub(crate) fn begins_with(&self, byte: u8) -> bool {
        self.child(0, byte).is_some()
    }

    /// The length of the longest key that `text` begins with.
    pub(crate) fn longest(&self, text: &[u8]) -> Option<usize> {
        let mut longest = None;
        self.prefixes(text, |length, _| longest = Some(length));
        longest
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self::new(&[])
    }
}

/// Which places are taken, while a trie is made.
#[derive(Default)]
struct Room {
    blocks: usize,
    /// Number of a block and its free places, a bit each.
    open: VecDeque<(usize, [u64; BLOCK / 64])>,
}

impl Room {
    /// Takes a place for each label and returns their base.
    fn find(&mut self, labels: &[u8]) -> usize {
        let mut found = None;
        for (index, (_, free)) in self.open.iter().enumerate() {
            let mut bases = set_bits(free).map(|place| place ^ usize::from(labels[0]));
            let fits = |&base: &usize| labels.iter().all(|&label| is_free(free, base, label));
            if let Some(base) = bases.find(fits) {
                found = Some((index, base));
                break;
            }
        }
        let (index, base) = found.unwrap_or_else(|| {
            if self.open.len() == OPEN_BLOCKS {
                self.open.pop_front();
            }
            self.open.push_back((self.blocks, [u64::MAX; BLOCK / 64]));
            self.blocks += 1;
            (self.open.len() - 1, 0)
        });
        let (block, free) = &mut self.open[index];
        for &label in labels {
            let place = base ^ usize::from(label);
            free[place / 64] &= !(1 << (place % 64));
        }
        *block * BLOCK + base
    }
}

fn is_free(free: &[u64; BLOCK / 64], base: usize, label: u8) -> bool {
    let place = base ^ usize::from(label);
    free[place / 64] >> (place % 64) & 1 == 1
}

fn set_bits(words: &[u64; BLOCK / 64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(index, &word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (bit < 64).then_some(index * 64 + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_come_shortest_first() {
        let keys: Vec<&[u8]> = vec![b"a", b"ab", b"abc", b"b", b"\xFF"];
        let trie = Trie::new(&keys);
        let check = |text: &[u8], expect: &[(usize, u32)]| {
            let mut found = Vec::new();
            trie.prefixes(text, |length, value| found.push((length, value)));
            assert_eq!(found, expect);
            assert_eq!(trie.longest(text), expect.last().map(|last| last.0));
        };
        check(b"abd", &[(1, 0), (2, 1)]);
        check(b"abc", &[(1, 0), (2, 1), (3, 2)]);
        check(b"\xFF", &[(1, 4)]);
        check(b"c", &[]);
        assert!(trie.begins_with(b'a') && trie.begins_with(0xFF) && !trie.begins_with(b'c'));
        assert!(!Trie::default().begins_with(0));
        check(b"", &[]);
        assert_eq!(Trie::default().longest(b"a"), None);
    }

    proptest! {
        #[test]
        fn all_prefixes_are_found(
            keys in prop::collection::btree_set(prop::collection::vec(0u8..7, 1..6), 0..300),
            wide in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..4), 0..300),
            texts in prop::collection::vec(prop::collection::vec(0u8..7, 0..8), 20),
        ) {
            let keys: Vec<&[u8]> = keys.union(&wide).map(Vec::as_slice).collect();
            let trie = Trie::new(&keys);
            for text in texts.iter().map(Vec::as_slice).chain(wide.iter().map(Vec::as_slice)) {
                let mut found = Vec::new();
                trie.prefixes(text, |length, value| found.push((length, value)));
                let expect: Vec<_> = (1..=text.len())
                    .filter_map(|n| Some((n, keys.binary_search(&&text[..n]).ok()? as u32)))
                    .collect();
                prop_assert_eq!(found, expect);
            }
        }
    }
}

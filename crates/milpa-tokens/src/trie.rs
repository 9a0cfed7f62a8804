//! A trie over bytes: which of many texts does a text begin with?
//!
//! It is read-only and compact (12 bytes a node); it knows nothing of pieces and scores.

const NO_VALUE: u32 = u32::MAX;

/// A trie over bytes; the children of a node lie side by side, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trie {
    nodes: Vec<TrieNode>,
    /// Label of the edge that leads to each node.
    labels: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TrieNode {
    first_child: u32,
    children: u16,
    value: u32,
}

impl Trie {
    /// Makes the trie of sorted, distinct, non-empty `keys`; the values are their indexes.
    pub(crate) fn new(keys: &[&[u8]]) -> Self {
        let empty = TrieNode { first_child: 0, children: 0, value: NO_VALUE };
        let mut trie = Self { nodes: vec![empty], labels: vec![0] };
        // Node, its keys, and the length of their common prefix.
        let mut waiting = std::collections::VecDeque::from([(0usize, 0..keys.len(), 0usize)]);
        while let Some((node, mut range, depth)) = waiting.pop_front() {
            if keys.get(range.start).is_some_and(|key| key.len() == depth) && !range.is_empty() {
                trie.nodes[node].value = range.start as u32;
                range.start += 1;
            }
            trie.nodes[node].first_child = trie.nodes.len() as u32;
            while !range.is_empty() {
                let label = keys[range.start][depth];
                let same = keys[range.clone()].partition_point(|key| key[depth] == label);
                trie.nodes[node].children += 1;
                waiting.push_back((trie.nodes.len(), range.start..range.start + same, depth + 1));
                trie.nodes.push(empty);
                trie.labels.push(label);
                range.start += same;
            }
        }
        trie
    }

    /// Calls `found` with length and value of each key that `text` begins with, shortest first.
    pub(crate) fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut node = self.nodes[0];
        for (index, byte) in text.iter().enumerate() {
            let first = node.first_child as usize;
            let labels = &self.labels[first..first + usize::from(node.children)];
            let Ok(child) = labels.binary_search(byte) else { return };
            node = self.nodes[first + child];
            if node.value != NO_VALUE {
                found(index + 1, node.value);
            }
        }
    }

    /// Whether a key begins with this byte.
    #[inline]
    pub(crate) fn begins_with(&self, byte: u8) -> bool {
        let children = usize::from(self.nodes[0].children);
        self.labels[1..=children].binary_search(&byte).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

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
        check(b"", &[]);
        assert_eq!(Trie::default().longest(b"a"), None);
    }
}

//! What tests hold clusters against: a union-find in memory.

use std::collections::HashMap;

use milpa_text::Signature;

/// For each signature the first member of its component, of pairs that share a band.
pub(super) fn components(signatures: &[Option<Signature>]) -> Vec<usize> {
    let mut sets = UnionFind::new(signatures.len());
    let mut firsts: HashMap<u64, usize> = HashMap::new();
    for (index, signature) in signatures.iter().enumerate() {
        for key in signature.iter().flat_map(Signature::band_keys) {
            sets.union(*firsts.entry(key).or_insert(index), index);
        }
    }
    (0..signatures.len()).map(|index| sets.find(index)).collect()
}

/// Disjoint sets whose representative is their smallest member.
#[derive(Debug, Clone)]
pub(super) struct UnionFind {
    parents: Vec<usize>,
}

impl UnionFind {
    /// Makes `len` sets of one member each.
    pub(super) fn new(len: usize) -> Self {
        Self { parents: (0..len).collect() }
    }

    /// The smallest member of the set of `index`.
    pub(super) fn find(&mut self, index: usize) -> usize {
        let mut at = index;
        while self.parents[at] != at {
            // Path halving keeps later walks short.
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }

    /// Joins the sets of `a` and `b`.
    pub(super) fn union(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parents[high] = low;
    }
}

mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn union_find_keeps_the_smallest(pairs in prop::collection::vec((0usize..30, 0usize..30), 0..60)) {
            let mut sets = UnionFind::new(30);
            let mut labels: Vec<usize> = (0..30).collect();
            for &(a, b) in &pairs {
                sets.union(a, b);
                let (from, to) = (labels[a].max(labels[b]), labels[a].min(labels[b]));
                labels.iter_mut().filter(|label| **label == from).for_each(|label| *label = to);
            }
            for (index, &label) in labels.iter().enumerate() {
                prop_assert_eq!(sets.find(index), label);
            }
        }
    }
}

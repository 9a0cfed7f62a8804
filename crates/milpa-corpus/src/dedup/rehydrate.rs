//! How often a kept document counts, from the number of copies that it stands for.
//!
//! FineWeb2 keeps one document of each cluster with the size of the cluster, and repeats it by a
//! table of sizes ("rehydration"; Penedo et al. 2025, arXiv:2506.20920): pages that a few others
//! copied are better than unique ones and than those copied a thousand times, by the share that the
//! quality filters remove. It knows numbers only.

use serde::{Deserialize, Serialize};

/// A table from cluster sizes to weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rehydration {
    /// (smallest cluster size, weight), in ascending order of the size, from 1 on. The weight is
    /// the number of times that a document of such a cluster is repeated; 0 drops it.
    pub steps: Vec<(u64, u32)>,
}

impl Default for Rehydration {
    /// FineWeb2's table: 1, 2, 3 (clusters of 3 and 4), 5 (to 99), 8 (to 999), 1 (from 1000 on).
    fn default() -> Self {
        Self { steps: vec![(1, 1), (2, 2), (3, 3), (5, 5), (100, 8), (1000, 1)] }
    }
}

impl Rehydration {
    /// Every kept document counts once.
    pub fn none() -> Self {
        Self { steps: vec![(1, 1)] }
    }

    /// Checks that the table begins at 1 and ascends.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        if self.steps.first().is_none_or(|&(size, _)| size != 1) {
            return Err("the first step must be for clusters of 1".to_owned());
        }
        match self.steps.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            Some(pair) => Err(format!("step {} does not come before {}", pair[0].0, pair[1].0)),
            None => Ok(()),
        }
    }

    /// The weight of a document that stands for a cluster of `size`; 1 if no step reaches down to
    /// it.
    pub fn weight(&self, size: u64) -> u32 {
        self.steps.iter().rev().find(|&&(least, _)| size >= least).map_or(1, |&(_, weight)| weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_fineweb2() {
        let table = Rehydration::default();
        assert_eq!(table.validate(), Ok(()));
        let sizes = [1, 2, 3, 4, 5, 99, 100, 999, 1000, 1_000_000];
        assert_eq!(sizes.map(|size| table.weight(size)), [1, 2, 3, 3, 5, 5, 8, 8, 1, 1]);
        assert_eq!(Rehydration::none().weight(77), 1);
    }

    #[test]
    fn a_table_with_a_hole_or_out_of_order_is_refused() {
        let check = |steps: &[(u64, u32)], expect: &str| {
            let error = Rehydration { steps: steps.to_vec() }.validate().unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        check(&[], "clusters of 1");
        check(&[(2, 1)], "clusters of 1");
        check(&[(1, 1), (5, 2), (5, 3)], "step 5 does not come before 5");
    }
}

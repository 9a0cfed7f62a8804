//! Rank intervals of a leaderboard: which places a competitor may hold.

use serde::{Deserialize, Serialize};

/// Places that a competitor may hold, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankRange {
    /// 1 + how many are certainly better.
    pub best: usize,
    /// All but those that are certainly worse.
    pub worst: usize,
}

/// Ranges from pairwise comparisons: `better(i, j)` says whether i is better than j beyond doubt.
///
/// With tests at a level that all pairs share (Holm's, or a simultaneous interval), all ranges hold
/// at once with that confidence: M. Mogstad et al., Review of Economic Studies 91 (2024) 476–518.
pub fn rank_ranges(count: usize, better: impl Fn(usize, usize) -> bool) -> Vec<RankRange> {
    (0..count)
        .map(|i| {
            let others = || (0..count).filter(move |&j| j != i);
            RankRange {
                best: 1 + others().filter(|&j| better(j, i)).count(),
                worst: count - others().filter(|&j| better(i, j)).count(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_span_what_is_not_told_apart() {
        let intervals = [(10.0, 12.0), (9.0, 11.0), (5.0, 6.0)];
        let ranges = rank_ranges(3, |i, j| intervals[i].0 > intervals[j].1);
        let pairs: Vec<_> = ranges.iter().map(|range| (range.best, range.worst)).collect();
        assert_eq!(pairs, [(1, 2), (1, 2), (3, 3)]);
        assert!(rank_ranges(0, |_, _| false).is_empty());
    }
}

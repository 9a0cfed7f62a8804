//! pass@k: how often one of k programs passes.
//!
//! Paper: Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374,
//! section 2.1.

use serde::{Deserialize, Serialize};

use crate::statistics::{Interval, LEVEL, mean, mean_interval, wilson};

/// A share of problems solved by one of `k` programs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassAtK {
    /// Programs per try.
    pub k: u64,
    /// The share.
    pub value: f64,
    /// Its interval over problems, not over programs; `None` below two problems.
    pub interval: Option<Interval>,
    /// Problems with at least `k` programs; others are left out.
    pub problems: u64,
}

/// The unbiased estimate for one problem with `samples` programs of which `correct` pass:
/// 1 − C(n−c, k) / C(n, k). `None` where it is not defined (k is 0 or more than n, or c > n).
pub fn pass_at_k(samples: u64, correct: u64, k: u64) -> Option<f64> {
    if k == 0 || k > samples || correct > samples {
        return None;
    }
    if samples - correct < k {
        return Some(1.0);
    }
    let missed = (samples - correct + 1..=samples).map(|i| 1.0 - k as f64 / i as f64);
    Some(1.0 - missed.product::<f64>())
}

/// pass@k over problems, each with its programs and those that pass; `None` where no problem has
/// `k` programs.
///
/// A problem is a cluster and counts once, so the interval is that of the problems' estimates:
/// Student's t, or Wilson's where each is 0 or 1.
pub fn mean_pass_at_k(counts: &[(u64, u64)], k: u64) -> Option<PassAtK> {
    let values: Vec<f64> =
        counts.iter().filter_map(|&(samples, correct)| pass_at_k(samples, correct, k)).collect();
    if values.is_empty() {
        return None;
    }
    let interval = if values.len() < 2 {
        None
    } else if values.iter().all(|value| matches!(*value, 0.0 | 1.0)) {
        let right = values.iter().filter(|value| **value > 0.0).count() as u64;
        Some(wilson(right, values.len() as u64, LEVEL))
    } else {
        mean_interval(&values, LEVEL).map(|(_, interval)| Interval {
            low: interval.low.max(0.0),
            high: interval.high.min(1.0),
            ..interval
        })
    };
    Some(PassAtK { k, value: mean(&values), interval, problems: values.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_counts_choices() {
        // By counting all choices of k among n programs.
        let counted = |n: u32, c: u32, k: u32| {
            let choices = (0_u32..1 << n).filter(|set| set.count_ones() == k);
            let (mut all, mut good) = (0.0, 0.0);
            for set in choices {
                all += 1.0;
                good += f64::from(u8::from(set & ((1 << c) - 1) != 0));
            }
            good / all
        };
        for n in 1..8 {
            for c in 0..=n {
                for k in 1..=n {
                    let found = pass_at_k(n.into(), c.into(), k.into()).unwrap();
                    assert!((found - counted(n, c, k)).abs() < 1e-12, "{n} {c} {k}");
                }
            }
        }
        assert_eq!(pass_at_k(3, 1, 4), None);
        assert_eq!(pass_at_k(3, 4, 1), None);
        assert_eq!(pass_at_k(3, 1, 0), None);
        assert!((pass_at_k(200, 10, 100).unwrap() - 0.999_3).abs() < 1e-3);
    }

    #[test]
    fn problems_are_the_clusters() {
        let many = mean_pass_at_k(&[(10, 5), (10, 0), (10, 10), (1, 1)], 2).unwrap();
        assert_eq!(many.problems, 3);
        let expect = (pass_at_k(10, 5, 2).unwrap() + 0.0 + 1.0) / 3.0;
        assert!((many.value - expect).abs() < 1e-12);
        // More programs of the same problems do not make the problems more.
        let few = mean_pass_at_k(&[(2, 1), (2, 0), (2, 2)], 1).unwrap().interval.unwrap();
        let more =
            mean_pass_at_k(&[(200, 100), (200, 0), (200, 200)], 1).unwrap().interval.unwrap();
        assert_eq!(few, more);
        let shares = mean_pass_at_k(&[(1, 1), (1, 0)], 1).unwrap();
        assert_eq!(shares.interval, Some(wilson(1, 2, LEVEL)));
        assert_eq!(mean_pass_at_k(&[(1, 1)], 2), None);
    }
}

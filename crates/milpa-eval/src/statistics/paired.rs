//! Two models on the same items: difference, interval, and exact tests.

use milpa_base::Seed;
use serde::{Deserialize, Serialize};

use super::{
    Interval,
    bootstrap::bootstrap_mean,
    distributions::{ln_choose, student_t_two_sided},
    intervals::{clustered_standard_error, group_by_cluster, mean, standard_error},
};

/// Difference of two models on the same items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Mean of b − a.
    pub difference: f64,
    /// Bootstrap interval of the mean difference; `None` below two units.
    pub interval: Option<Interval>,
    /// Standard error of the mean difference (clustered where clusters are given).
    pub standard_error: Option<f64>,
    /// p-value of the t test of no difference, with the clustered error where clusters are given;
    /// `None` where there is no error.
    pub p_value: Option<f64>,
    /// Items compared.
    pub items: u64,
}

/// Compares two models item by item: pairs are drawn together, so what makes an item hard for
/// both cancels out.
///
/// # Panics
/// If `a` and `b` differ in length.
pub fn paired_difference(
    a: &[f64],
    b: &[f64],
    clusters: Option<&[usize]>,
    replicates: usize,
    seed: Seed,
    level: f64,
) -> PairedDifference {
    assert_eq!(a.len(), b.len(), "pairs come from the same items");
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let difference = mean(&differences);
    let (standard_error, units) = match clusters {
        Some(clusters) => {
            let units = group_by_cluster(clusters).len();
            (clustered_standard_error(&differences, clusters), units)
        }
        None => (standard_error(&differences), differences.len()),
    };
    let p_value = standard_error.map(|error| match error {
        0.0 if difference == 0.0 => 1.0,
        0.0 => 0.0,
        error => student_t_two_sided(difference / error, units as f64 - 1.0),
    });
    PairedDifference {
        difference,
        interval: bootstrap_mean(&differences, clusters, replicates, seed, level),
        standard_error,
        p_value,
        items: differences.len() as u64,
    }
}

/// Exact two-sided McNemar test: `only_a` items were right with the first model alone, `only_b`
/// with the second alone. Returns the p-value (binomial with one half).
pub fn mcnemar_exact(only_a: u64, only_b: u64) -> f64 {
    (2.0 * half_binomial_tail(only_a + only_b, only_a.min(only_b))).min(1.0)
}

/// Two-sided mid-p McNemar test: the exact one less the probability of the outcome seen, which
/// makes it less conservative. Returns the p-value.
///
/// Paper: M. W. Fagerland, S. Lydersen, P. Laake, BMC Medical Research Methodology 13:91 (2013).
pub fn mcnemar_mid_p(only_a: u64, only_b: u64) -> f64 {
    let (n, fewer) = (only_a + only_b, only_a.min(only_b));
    match n {
        0 => 1.0,
        _ if only_a == only_b => 1.0 - 0.5 * half_binomial(n, fewer),
        _ => (2.0 * half_binomial_tail(n, fewer) - half_binomial(n, fewer)).min(1.0),
    }
}

/// P(K ≤ k) for K binomial with `n` trials and one half.
fn half_binomial_tail(n: u64, k: u64) -> f64 {
    (0..=k).map(|k| half_binomial(n, k)).sum()
}

fn half_binomial(n: u64, k: u64) -> f64 {
    (ln_choose(n, k) + n as f64 * 0.5f64.ln()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::near;

    #[test]
    fn mcnemar_by_hand() {
        // 2 · (C(12,0) + C(12,1) + C(12,2)) / 2¹² = 158 / 4096.
        near(mcnemar_exact(10, 2), 158.0 / 4096.0, 1e-12);
        near(mcnemar_exact(2, 10), 158.0 / 4096.0, 1e-12);
        assert_eq!(mcnemar_exact(0, 0), 1.0);
        assert_eq!(mcnemar_exact(3, 3), 1.0);
        // Mid-p halves the term of the outcome itself: (1 + 12 + 66/2) · 2 / 2¹².
        near(mcnemar_mid_p(10, 2), 92.0 / 4096.0, 1e-12);
        assert_eq!(mcnemar_mid_p(0, 0), 1.0);
        // C(2, 1) / 2² / 2 is left out of 1.
        near(mcnemar_mid_p(1, 1), 0.75, 1e-12);
    }

    #[test]
    fn pairing_removes_what_both_share() {
        let hard: Vec<f64> = (0..200).map(|i| Seed(8).normal_at(i)).collect();
        let a: Vec<f64> = hard.iter().map(|h| h * 10.0).collect();
        let b: Vec<f64> = hard.iter().map(|h| h * 10.0 + 0.5).collect();
        let paired = paired_difference(&a, &b, None, 500, Seed(1), 0.95);
        near(paired.difference, 0.5, 1e-12);
        let interval = paired.interval.unwrap();
        near(interval.low, 0.5, 1e-9);
        near(interval.high, 0.5, 1e-9);
        assert_eq!(paired.items, 200);
        assert!(paired.p_value.unwrap() < 1e-6);
        let none = paired_difference(&a, &a, None, 10, Seed(1), 0.95);
        assert_eq!((none.difference, none.p_value), (0.0, Some(1.0)));
    }
}

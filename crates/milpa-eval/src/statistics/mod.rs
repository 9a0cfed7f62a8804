//! Intervals and tests for scores: how certain a measured number is.
//!
//! Plain functions on numbers; they know nothing of tasks or models. Random numbers are
//! counter-based, so a resampled interval is a function of the data and the seed alone.
//! Advice followed: E. Miller, "Adding error bars to evals", arXiv 2411.00640.

pub mod agreement;
mod bootstrap;
mod distributions;
mod intervals;
mod multiplicity;
mod paired;
mod power;
mod ranks;
mod variance;

use serde::{Deserialize, Serialize};

pub use bootstrap::{
    bootstrap, bootstrap_in_clusters, bootstrap_mean, percentile_interval, quantile,
};
pub use distributions::{normal_cdf, normal_quantile, student_t_quantile, student_t_two_sided};
pub use intervals::{
    clustered_mean_interval, clustered_standard_error, group_by_cluster, mean, mean_interval,
    rule_of_three, standard_error, wilson,
};
pub use multiplicity::{benjamini_hochberg, holm};
pub use paired::{PairedDifference, mcnemar_exact, mcnemar_mid_p, paired_difference};
pub use power::{Design, minimum_detectable_difference, units_needed};
pub use ranks::{RankRange, rank_ranges};
pub use variance::{
    ScoreTable, VarianceShares, crossed_mean_interval, read_scores, variance_shares,
};

/// Level of every interval that a report shows.
pub const LEVEL: f64 = 0.95;

/// How an interval was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Wilson score interval of a proportion of independent items.
    Wilson,
    /// Mean plus or minus Student's t times the standard error.
    StudentT,
    /// The same with the clustered standard error and clusters − 1 degrees of freedom.
    ClusteredT,
    /// Mean of a table of items and prompts, Student's t with Satterthwaite's degrees of freedom.
    Crossed,
    /// Mean of several estimates plus or minus a normal quantile times their combined standard error.
    Combined,
    /// Distances of several Wilson limits from their shares, squared and added (Newcombe).
    SquareAndAdd,
    /// Estimate plus or minus a normal quantile times the sandwich standard error.
    Sandwich,
    /// Delta method of a judge's share corrected by human labels.
    JudgeCorrected,
    /// Percentiles of seeded bootstrap replicates of the units.
    Bootstrap,
    /// Percentiles of seeded bootstrap replicates in which whole clusters are drawn.
    ClusterBootstrap,
}

/// An interval around an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Nominal coverage, such as 0.95.
    pub level: f64,
    /// How it was computed.
    pub method: Method,
}

impl Interval {
    /// The part between 0 and 1, for what cannot lie beyond.
    #[must_use]
    pub fn within_shares(self) -> Self {
        Self { low: self.low.clamp(0.0, 1.0), high: self.high.clamp(0.0, 1.0), ..self }
    }
}

/// A share of what was counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The share, 0 to 1.
    pub value: f64,
    /// Of how many.
    pub n: u64,
    /// Wilson's interval, or a clustered one where what was counted comes in clusters.
    pub interval: Interval,
}

impl Share {
    /// The share of `successes` among `n`, 0 of none, with Wilson's interval.
    pub fn of(successes: u64, n: u64) -> Self {
        let value = successes as f64 / n.max(1) as f64;
        Self { value, n, interval: wilson(successes, n, LEVEL) }
    }

    /// The share of what is true.
    pub fn of_flags(flags: impl IntoIterator<Item = bool>) -> Self {
        let (mut successes, mut n) = (0, 0);
        for flag in flags {
            successes += u64::from(flag);
            n += 1;
        }
        Self::of(successes, n)
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Interval { low, high, .. } = self.interval;
        write!(f, "{:.3} ({low:.3} to {high:.3}, n = {})", self.value, self.n)
    }
}

#[cfg(test)]
fn near(value: f64, expect: f64, tolerance: f64) {
    assert!((value - expect).abs() <= tolerance, "{value} is not {expect} ± {tolerance}");
}

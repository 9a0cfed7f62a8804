//! Failures of a cluster in closed form: how often, when to checkpoint, what is lost.
//!
//! Mean time to failure `M = 1 / (nodes · rate)`; interval between checkpoints by Young 1974 and
//! Daly 2006 (doi:10.1016/j.future.2004.11.016); share of time lost
//! `δ/τ + (τ/2 + R)/M`, where a checkpoint stalls the run for δ, a restart takes R, and half an
//! interval is computed again. It knows no schedule of failures: the simulator does.

use serde::Serialize;

use crate::PlanError;

/// A published rate of failures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FailureRate {
    /// Failures per 1000 nodes (of eight GPUs) and day.
    pub per_thousand_node_days: f64,
    /// Who counted them.
    pub source: &'static str,
}

/// The rates a plan is made with: good, typical and pessimistic.
pub const PUBLISHED_RATES: [FailureRate; 3] = [
    FailureRate {
        per_thousand_node_days: 3.79,
        source: "good: Llama 3 405B, 419 unexpected + 47 planned in 54 days on 16 384 H100",
    },
    FailureRate { per_thousand_node_days: 6.5, source: "typical: Meta RSC-1, arXiv:2410.21680" },
    FailureRate {
        per_thousand_node_days: 21.0,
        source: "pessimistic: the same paper's small jobs, software and users included",
    },
];

/// How a run saves and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recovery {
    /// Seconds that a checkpoint stalls the run (δ).
    pub stall_seconds: f64,
    /// Seconds from a failure to the next useful step, without what is computed again (R).
    pub restart_seconds: f64,
}

/// Three ways to save, as distances of practice: asynchronous, blocking, blocking to slow storage.
pub const RECOVERIES: [(&str, Recovery); 3] = [
    ("asynchronous", Recovery { stall_seconds: 0.5, restart_seconds: 600.0 }),
    ("blocking, 60 s", Recovery { stall_seconds: 60.0, restart_seconds: 900.0 }),
    ("blocking, 300 s", Recovery { stall_seconds: 300.0, restart_seconds: 1800.0 }),
];

/// What failures cost a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Availability {
    /// Mean seconds between failures of the whole run.
    pub mean_seconds_to_failure: f64,
    /// Seconds between checkpoints that lose least.
    pub interval_seconds: f64,
    /// Share of the time that is lost, 0 to 1.
    pub waste: f64,
}

impl Availability {
    /// Share of the time that is useful.
    pub fn goodput(&self) -> f64 {
        1.0 - self.waste
    }
}

/// Mean seconds between failures of `nodes` nodes together; infinite at rate zero.
pub fn mean_seconds_to_failure(nodes: f64, rate: f64) -> f64 {
    86_400.0 * 1000.0 / (nodes * rate)
}

/// Young's interval between checkpoints, `√(2δM)`.
pub fn young_interval(stall: f64, mean: f64) -> f64 {
    (2.0 * stall * mean).sqrt()
}

/// Daly's interval between checkpoints: Young's with two more terms, and `M` where a checkpoint
/// takes longer than twice the mean time to failure.
pub fn daly_interval(stall: f64, mean: f64) -> f64 {
    if !mean.is_finite() {
        return f64::INFINITY;
    }
    let ratio = stall / (2.0 * mean);
    if ratio >= 1.0 {
        return mean;
    }
    young_interval(stall, mean) * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - stall
}

/// Share of time lost at an interval: saving, computing again, restarting.
pub fn waste(recovery: &Recovery, interval: f64, mean: f64) -> f64 {
    if !mean.is_finite() {
        return 0.0;
    }
    recovery.stall_seconds / interval + (interval / 2.0 + recovery.restart_seconds) / mean
}

/// What failures cost a run of `nodes` nodes at `rate` failures per 1000 node-days.
///
/// # Errors
/// Numbers that are negative or no numbers; a cluster that fails faster than it comes back.
pub fn availability(nodes: f64, rate: f64, recovery: &Recovery) -> Result<Availability, PlanError> {
    let inputs = [nodes, rate, recovery.stall_seconds, recovery.restart_seconds];
    if inputs.iter().any(|value| !value.is_finite() || *value < 0.0)
        || recovery.stall_seconds == 0.0
    {
        return Err(PlanError::BadAmount {
            text: format!("{inputs:?}"),
            wanted: "nodes, failures per 1000 node-days, seconds of stall and of restart"
                .to_owned(),
            problem: "none may be negative, and a checkpoint takes some time".to_owned(),
        });
    }
    let mean = mean_seconds_to_failure(nodes, rate);
    let interval = daly_interval(recovery.stall_seconds, mean);
    let waste = waste(recovery, interval, mean);
    if waste >= 1.0 {
        return Err(PlanError::NoProgress {
            hours_to_failure: mean / 3600.0,
            restart_minutes: recovery.restart_seconds / 60.0,
            stall_minutes: recovery.stall_seconds / 60.0,
        });
    }
    Ok(Availability { mean_seconds_to_failure: mean, interval_seconds: interval, waste })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hours to failure, then minutes between checkpoints and percent lost for the three ways.
    fn check(rate: f64, hours: f64, expect: [(f64, f64); 3]) {
        let mean = mean_seconds_to_failure(32.0, rate);
        assert_eq!((mean / 3600.0).round(), hours);
        for ((_, recovery), (minutes, percent)) in RECOVERIES.iter().zip(expect) {
            let found = availability(32.0, rate, recovery).unwrap();
            assert_eq!((found.interval_seconds / 60.0).round(), minutes, "{rate} {recovery:?}");
            let digits = if percent < 1.0 { 1000.0 } else { 10.0 };
            let rounded = (found.waste * 100.0 * digits).round() / digits;
            assert!((rounded - percent).abs() < 0.5 / digits + 0.006, "{rate}: {rounded}");
        }
    }

    #[test]
    fn the_published_table_of_256_gpus_comes_out() {
        check(3.79, 198.0, [(14.0, 0.20), (153.0, 1.4), (341.0, 3.2)]);
        check(6.5, 115.0, [(11.0, 0.30), (117.0, 1.9), (260.0, 4.2)]);
        check(21.0, 36.0, [(6.0, 0.75), (65.0, 3.8), (143.0, 8.2)]);
    }

    #[test]
    fn half_the_cluster_fails_half_as_often() {
        let waste = |rate, way: usize| availability(16.0, rate, &RECOVERIES[way].1).unwrap().waste;
        for (way, low, high) in [(0, 0.13, 0.43), (1, 1.0, 2.5), (2, 2.2, 5.5)] {
            assert!((waste(3.79, way) * 100.0 - low).abs() < 0.06, "{}", waste(3.79, way));
            assert!((waste(21.0, way) * 100.0 - high).abs() < 0.06, "{}", waste(21.0, way));
        }
    }

    #[test]
    fn llama_3_counts_give_the_published_intervals() {
        // 419 unexpected interruptions in 54 days on 16,384 GPUs; 256 GPUs; stalls of 6.3 and
        // 148.8 s: 50 min and 4.0 h.
        let mean: f64 = 54.0 * 86_400.0 * 16_384.0 / 419.0 / 256.0;
        assert_eq!((mean / 3600.0).round(), 198.0);
        assert_eq!((young_interval(6.3, mean) / 60.0).round(), 50.0);
        assert_eq!((young_interval(148.8, mean) / 360.0).round(), 40.0);
    }

    #[test]
    fn nothing_is_lost_where_nothing_fails_and_a_hopeless_cluster_is_refused() {
        assert_eq!(availability(32.0, 0.0, &RECOVERIES[1].1).unwrap().waste, 0.0);
        let error = availability(20_000.0, 500.0, &RECOVERIES[2].1).unwrap_err();
        assert!(error.to_string().contains("no progress"), "{error}");
        assert!(availability(-1.0, 3.0, &RECOVERIES[0].1).is_err());
    }

    #[test]
    fn the_interval_is_near_the_least_waste() {
        let recovery = RECOVERIES[1].1;
        let mean = mean_seconds_to_failure(32.0, 6.5);
        let best = availability(32.0, 6.5, &recovery).unwrap();
        for factor in [0.5, 0.8, 1.25, 2.0] {
            assert!(waste(&recovery, best.interval_seconds * factor, mean) > best.waste);
        }
    }
}

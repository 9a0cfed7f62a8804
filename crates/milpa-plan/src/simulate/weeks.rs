//! The weeks of a run: failures, restarts and checkpoint stalls, by Monte Carlo.
//!
//! Failures come at random with a constant rate, also while a checkpoint is written or a restart is
//! under way; what was done since the last whole checkpoint is lost. Daly's closed form for the same
//! assumptions (Daly 2006, doi:10.1016/j.future.2004.11.016) stands beside it.

use milpa_base::Seed;
use serde::Serialize;

use crate::{PlanError, failures};

/// What happens to a run while it computes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Weeks {
    /// Seconds of computation without any interruption.
    pub compute_seconds: f64,
    /// Failures of one device in an hour; Llama 3's 54 days give 1.97e-5.
    pub failures_per_device_hour: f64,
    /// Devices whose failure stops the run.
    pub devices: u64,
    /// Computing seconds between checkpoints.
    pub checkpoint_interval: f64,
    /// Seconds that a checkpoint stops the run.
    pub checkpoint_stall: f64,
    /// Seconds from a failure to computing again.
    pub restart_seconds: f64,
}

/// How simulated runs went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SimulatedWeeks {
    /// Mean seconds from start to end.
    pub mean_seconds: f64,
    /// Seconds that 10 %, 50 % and 90 % of the runs stayed below.
    pub quantiles: [f64; 3],
    /// Mean number of failures.
    pub mean_failures: f64,
    /// Mean share of the time that brought the run no further.
    pub waste: f64,
    /// Daly's expectation of the same.
    pub expected_seconds: f64,
    /// Runs simulated.
    pub trials: u32,
}

impl Weeks {
    /// Mean seconds between failures of the whole run; infinite without failures.
    pub fn mean_time_between_failures(&self) -> f64 {
        3600.0 / (self.failures_per_device_hour * self.devices as f64)
    }

    /// The interval with the least waste to first order (Young 1974): √(2·stall·MTBF).
    pub fn young_interval(&self) -> f64 {
        failures::young_interval(self.checkpoint_stall, self.mean_time_between_failures())
    }

    /// Daly's expected seconds: `M·e^(R/M)·(e^((τ+δ)/M) − 1)·T/τ`.
    pub fn expected_seconds(&self) -> f64 {
        let mean = self.mean_time_between_failures();
        let (tau, delta) = (self.checkpoint_interval, self.checkpoint_stall);
        let intervals = self.compute_seconds / tau;
        if mean.is_infinite() {
            return intervals * (tau + delta);
        }
        mean * (self.restart_seconds / mean).exp() * ((tau + delta) / mean).exp_m1() * intervals
    }

    /// Refuses what cannot be simulated: numbers out of range, or a run that hardly advances.
    pub fn check(&self) -> Result<(), PlanError> {
        let positive = [
            ("the computing time", self.compute_seconds),
            ("the checkpoint interval", self.checkpoint_interval),
        ];
        let non_negative = [
            ("the failure rate", self.failures_per_device_hour),
            ("the checkpoint stall", self.checkpoint_stall),
            ("the restart time", self.restart_seconds),
        ];
        let bad = |name, value, range| Err(PlanError::OutOfRange { name, value, range });
        for (name, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return bad(name, value, "positive seconds");
            }
        }
        for (name, value) in non_negative {
            if !(value >= 0.0 && value.is_finite()) {
                return bad(name, value, "zero or more");
            }
        }
        let expected = self.expected_seconds() / self.compute_seconds;
        if expected.is_nan() || expected > 50.0 {
            return bad(
                "the expected time relative to computing",
                expected,
                "at most 50: shorten the checkpoint interval or the restart",
            );
        }
        Ok(())
    }
}

/// Simulates `trials` runs; the same seed gives the same numbers.
///
/// # Errors
/// As [`Weeks::check`].
pub fn simulate_weeks(weeks: &Weeks, trials: u32, seed: Seed) -> Result<SimulatedWeeks, PlanError> {
    weeks.check()?;
    let trials = trials.max(1);
    let mut totals = Vec::with_capacity(trials as usize);
    let (mut failures, mut sum) = (0_u64, 0.0);
    for trial in 0..trials {
        let (seconds, count) = one_run(weeks, seed.nth(u64::from(trial)));
        totals.push(seconds);
        failures += count;
        sum += seconds;
    }
    totals.sort_by(f64::total_cmp);
    let quantile = |share: f64| totals[((trials - 1) as f64 * share).round() as usize];
    let mean_seconds = sum / f64::from(trials);
    Ok(SimulatedWeeks {
        mean_seconds,
        quantiles: [0.1, 0.5, 0.9].map(quantile),
        mean_failures: failures as f64 / f64::from(trials),
        waste: 1.0 - weeks.compute_seconds / mean_seconds,
        expected_seconds: weeks.expected_seconds(),
        trials,
    })
}

/// Seconds and failures of one run.
fn one_run(weeks: &Weeks, seed: Seed) -> (f64, u64) {
    let mean = weeks.mean_time_between_failures();
    let mut draws = 0;
    let mut until_failure = || {
        draws += 1;
        // 1 − u lies in (0, 1]; its logarithm is finite.
        -mean * (1.0 - seed.f64_at(draws)).ln()
    };
    let (mut clock, mut done, mut failures) = (0.0, 0.0, 0);
    let mut failure = if mean.is_finite() { until_failure() } else { f64::INFINITY };
    while done < weeks.compute_seconds {
        let piece = weeks.checkpoint_interval.min(weeks.compute_seconds - done);
        let end = clock + piece + weeks.checkpoint_stall;
        if failure >= end {
            clock = end;
            done += piece;
            continue;
        }
        failures += 1;
        clock = failure;
        failure = clock + until_failure();
        // A failure during the restart begins it again.
        while failure < clock + weeks.restart_seconds {
            failures += 1;
            clock = failure;
            failure = clock + until_failure();
        }
        clock += weeks.restart_seconds;
    }
    (clock, failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEKS: Weeks = Weeks {
        compute_seconds: 14.0 * 86_400.0,
        failures_per_device_hour: 1.97e-5,
        devices: 256,
        checkpoint_interval: 3000.0,
        checkpoint_stall: 6.3,
        restart_seconds: 900.0,
    };

    #[test]
    fn monte_carlo_and_closed_form_agree_within_two_percent() {
        for devices in [256, 2048, 16_384] {
            for (stall, restart) in [(0.5, 600.0), (60.0, 900.0), (148.8, 1800.0)] {
                let mut weeks =
                    Weeks { devices, checkpoint_stall: stall, restart_seconds: restart, ..WEEKS };
                weeks.checkpoint_interval = weeks.young_interval();
                let result = simulate_weeks(&weeks, 400, Seed(7)).unwrap();
                if result.waste < 0.25 {
                    let ratio = result.mean_seconds / result.expected_seconds;
                    assert!((ratio - 1.0).abs() <= 0.02, "{weeks:?} {ratio}");
                }
            }
        }
    }

    #[test]
    fn without_failures_and_stalls_nothing_is_wasted() {
        let weeks = Weeks { failures_per_device_hour: 0.0, checkpoint_stall: 0.0, ..WEEKS };
        let result = simulate_weeks(&weeks, 5, Seed(1)).unwrap();
        assert_eq!(result.mean_failures, 0.0);
        assert!(result.waste.abs() < 1e-12 && result.quantiles[0] == result.quantiles[2]);
    }

    #[test]
    fn more_failures_take_longer_and_the_interval_is_that_of_the_notes() {
        let more = Weeks { failures_per_device_hour: 1e-4, ..WEEKS };
        let seconds = |weeks: &Weeks| simulate_weeks(weeks, 200, Seed(3)).unwrap().mean_seconds;
        assert!(seconds(&more) > seconds(&WEEKS));
        // 256 devices: a failure each 198 h; √(2·6.3 s·MTBF) = 50 min.
        assert!((WEEKS.mean_time_between_failures() / 3600.0 - 198.3).abs() < 0.1);
        assert!((WEEKS.young_interval() / 60.0 - 50.0).abs() < 0.5);
    }

    #[test]
    fn a_run_that_hardly_advances_is_refused() {
        let weeks = Weeks { checkpoint_interval: 1e7, failures_per_device_hour: 1.0, ..WEEKS };
        let error = simulate_weeks(&weeks, 1, Seed(1)).unwrap_err().to_string();
        assert!(error.contains("shorten the checkpoint interval"), "{error}");
        let weeks = Weeks { checkpoint_stall: -1.0, ..WEEKS };
        assert!(weeks.check().is_err());
    }
}

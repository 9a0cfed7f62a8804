//! Steps that would do harm: found by their loss and gradient, skipped, and if that does not help,
//! undone by going back to a checkpoint and on with other data.
//!
//! The rule is that of OLMo-core's skip-step optimisers: a step whose loss or gradient norm is more
//! than so many standard deviations above the mean of the last steps changes nothing. Other than
//! there, a skipped step does not enter the window: four spikes would make it wide enough for the
//! fifth. What is decided depends on the steps before alone, so a resumed run decides the same. It
//! knows numbers, not weights or files.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::replan::PassedOver;

/// The `[train.stability]` table of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StabilityConfig {
    /// Standard deviations above the mean from which on a loss or gradient norm is an outlier.
    pub sigmas: f64,
    /// Steps whose mean and deviation count; judging begins when half of them are there.
    pub window: usize,
    /// Skipped steps in a row after which skipping does not help: the run goes back to the last
    /// checkpoint before them and passes over the data since.
    pub rollback_after: u64,
    /// How often a run may go back before it gives up.
    pub max_rollbacks: u64,
}

impl Default for StabilityConfig {
    fn default() -> Self {
        Self { sigmas: 6.0, window: 128, rollback_after: 16, max_rollbacks: 2 }
    }
}

impl StabilityConfig {
    /// Finds what makes no sense; checkpoints are written every `checkpoint_every` steps, and
    /// `keep_checkpoints` of them stay.
    pub(crate) fn validate(
        &self,
        checkpoint_every: u64,
        keep_checkpoints: usize,
    ) -> Result<(), String> {
        let Self { sigmas, window, rollback_after, max_rollbacks } = *self;
        if !(sigmas.is_finite() && sigmas > 0.0) {
            return Err(format!("sigmas is {sigmas}, but it has to be above zero, such as 6"));
        }
        if !(4..=1 << 16).contains(&window) {
            return Err(format!("window is {window}, but it has to be 4 to 65536 steps"));
        }
        if rollback_after == 0 {
            return Err("rollback_after is 0, but going back needs a skipped step".to_owned());
        }
        let needed = rollback_after.div_ceil(checkpoint_every.max(1)).saturating_add(1);
        if max_rollbacks > 0 && (keep_checkpoints as u64) < needed {
            return Err(format!(
                "rollback_after is {rollback_after}, in which time checkpoints are written over \
                 the one to go back to: set train.keep_checkpoints to {needed} or more, or \
                 rollback_after to less"
            ));
        }
        Ok(())
    }
}

/// What to do with a step whose loss and gradient are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Change the weights.
    Take,
    /// Leave weights and optimiser as they are.
    Skip,
    /// As [`Verdict::Skip`], and skipping has not helped for long.
    RollBack,
}

/// What the run's decisions depend on; a checkpoint stores it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StabilityState {
    /// Steps that changed the weights, which is what the optimiser counts.
    pub updates: u64,
    /// Steps skipped since the last that was taken.
    pub skipped_in_a_row: u64,
    /// Batches of data passed over by going back.
    pub batches_passed_over: u64,
    /// How often the run went back.
    pub rollbacks: u64,
    /// Which batches of a run in stages they were, for its plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
    /// Losses and gradient norms of the last steps taken, as the bits of f64: decimal numbers need
    /// not come back as they were.
    pub(crate) window: VecDeque<[u64; 2]>,
}

impl StabilityState {
    /// Judges a step and remembers what later steps are judged by.
    pub(crate) fn judge(
        &mut self,
        config: &StabilityConfig,
        loss: f64,
        gradient_norm: f64,
    ) -> Verdict {
        let values = [loss, gradient_norm];
        let judging = self.window.len() >= (config.window / 2).max(2);
        let outlier = |index: usize| {
            let past = self.window.iter().map(|bits| f64::from_bits(bits[index]));
            values[index] > limit(past, config.sigmas)
        };
        if values.iter().any(|value| !value.is_finite()) || judging && (outlier(0) || outlier(1)) {
            self.skipped_in_a_row += 1;
            return if self.skipped_in_a_row >= config.rollback_after {
                Verdict::RollBack
            } else {
                Verdict::Skip
            };
        }
        self.skipped_in_a_row = 0;
        self.updates += 1;
        if self.window.len() == config.window {
            self.window.pop_front();
        }
        self.window.push_back(values.map(f64::to_bits));
        Verdict::Take
    }
}

/// Mean plus so many standard deviations (of a sample) of at least two values.
fn limit(values: impl Iterator<Item = f64> + Clone, sigmas: f64) -> f64 {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    mean + sigmas * (squares / (count - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: StabilityConfig =
        StabilityConfig { sigmas: 6.0, window: 8, rollback_after: 3, max_rollbacks: 2 };

    /// Losses 1.0 and 1.2 in turns, norms half of them: mean 1.1, deviation 0.107 for eight.
    fn warm() -> StabilityState {
        let mut state = StabilityState::default();
        for step in 0..8 {
            let loss = 1.0 + 0.2 * f64::from(step % 2);
            assert_eq!(state.judge(&CONFIG, loss, loss / 2.0), Verdict::Take);
        }
        state
    }

    #[test]
    fn outliers_are_skipped_and_rises_within_six_sigma_are_not() {
        let check = |loss: f64, norm: f64, expect: Verdict| {
            assert_eq!(warm().judge(&CONFIG, loss, norm), expect, "{loss} {norm}");
        };
        check(1.1 + 5.9 * 0.1069, 0.55, Verdict::Take);
        check(1.1 + 6.1 * 0.1069, 0.55, Verdict::Skip);
        check(1.1, 0.55 + 5.9 * 0.053_45, Verdict::Take);
        check(1.1, 0.55 + 6.1 * 0.053_45, Verdict::Skip);
        check(0.0, 0.0, Verdict::Take);
        check(f64::NAN, 0.5, Verdict::Skip);
        check(1.1, f64::INFINITY, Verdict::Skip);
    }

    #[test]
    fn a_spike_of_several_steps_leads_back_and_a_good_step_ends_it() {
        let mut state = warm();
        let verdicts: Vec<Verdict> =
            [9.0, 9.0, 1.1, 9.0, 9.0, 9.0].map(|loss| state.judge(&CONFIG, loss, 0.5)).to_vec();
        use Verdict::{RollBack, Skip, Take};
        assert_eq!(verdicts, [Skip, Skip, Take, Skip, Skip, RollBack]);
        assert_eq!((state.updates, state.skipped_in_a_row), (9, 3));
    }

    #[test]
    fn the_state_comes_back_from_json_bit_for_bit() {
        let mut state = warm();
        state.judge(&CONFIG, 1.0 + f64::EPSILON, 1.0 / 3.0);
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<StabilityState>(&text).unwrap(), state);
    }

    #[test]
    fn the_checkpoint_to_go_back_to_has_to_stay() {
        let config = StabilityConfig::default();
        assert!(config.validate(16, 2).is_ok());
        let message = config.validate(8, 2).unwrap_err();
        assert!(message.contains("set train.keep_checkpoints to 3"), "{message}");
        assert!(StabilityConfig { max_rollbacks: 0, ..config }.validate(8, 1).is_ok());
        for bad in [
            StabilityConfig { sigmas: f64::NAN, ..config },
            StabilityConfig { window: 1, ..config },
            StabilityConfig { rollback_after: 0, ..config },
        ] {
            assert!(bad.validate(16, 2).is_err(), "{bad:?}");
        }
    }
}

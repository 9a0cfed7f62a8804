//! Keeps the forgetting of a run below the recipe's limit.
//!
//! After each measurement it says what to do, as a function of the measurements so far alone: hold, move
//! the share of replay, cut the learning rate, go back to a checkpoint below the limit, or stop. It
//! measures nothing and moves nothing itself.
//!
//! The rule looks one measurement ahead: what is expected is the forgetting now plus its rise since the
//! last measurement, and its upper end is that plus the upper half of the interval. More replay is as many
//! times as much as that end is above the limit, twice at the least; where replay is at its most, or its
//! data do not last for more, the learning rate is halved instead, since a lower rate costs more of what is
//! learned.
//!
//! | | |
//! |---|---|
//! | the whole interval is above the limit | go back, with more replay; once that is used up, more replay from here on; if nothing is left and it does not fall, stop |
//! | the upper end of what is expected is above it | more replay |
//! | it is below half of the limit | double a rate that was cut; then halve a replay that was raised, not below the recipe's share or twice what was too little once |
//! | else | hold |

use serde::{Deserialize, Serialize};

/// The `[train.forgetting.limit]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// Most % by which the perplexity of general text may rise above the base's.
    pub percent: f64,
    /// The `[[train.replay]]` whose share is moved.
    pub replay: String,
    /// Most share of replay.
    #[serde(default = "half")]
    pub largest_replay: f64,
    /// Least share of the schedule's learning rate.
    #[serde(default = "tenth")]
    pub least_learning_rate: f64,
    /// How often the run may go back.
    #[serde(default = "two")]
    pub max_rollbacks: u64,
}

fn half() -> f64 {
    0.5
}
fn tenth() -> f64 {
    0.1
}
fn two() -> u64 {
    2
}

/// Least share of replay to which none is raised.
const FIRST_REPLAY: f64 = 0.02;
/// Where replay can be raised by less than this, it is not raised.
const LEAST_RAISE: f64 = 0.01;
/// Within so many measurements at its pace, forgetting above the limit has to fall below it.
const SOON: f64 = 4.0;

impl LimitConfig {
    pub(crate) fn validate(&self) -> Result<(), String> {
        let share = |value: f64| value > 0.0 && value <= 1.0;
        if !(self.percent.is_finite() && self.percent > 0.0) {
            Err(format!("limit.percent is {}; it has to be above zero", self.percent))
        } else if !(self.largest_replay > 0.0 && self.largest_replay < 1.0) {
            Err(format!(
                "limit.largest_replay is {}; it is above 0 and below 1",
                self.largest_replay
            ))
        } else if !share(self.least_learning_rate) {
            Err(format!(
                "limit.least_learning_rate is {}; it is a share of the schedule's rate, above 0 up to 1",
                self.least_learning_rate
            ))
        } else {
            Ok(())
        }
    }
}

/// A share of replay from a batch on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayChange {
    /// The first batch that is drawn so, counted from 0.
    pub batch: u64,
    /// Share of replay from there on.
    pub replay: f64,
}

/// What the controller remembers, in checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlState {
    /// Share of replay now.
    pub replay: f64,
    /// Share of the schedule's learning rate now.
    pub learning_rate: f64,
    /// Share below which replay is not lowered: the recipe's, or twice what was too little once.
    pub least_replay: f64,
    /// Share above which replay is not raised, where the loader refused more: its data do not last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_replay: Option<f64>,
    /// How often the run went back.
    pub rollbacks: u64,
    /// Forgetting at the last measurement, %.
    pub last: f64,
    /// The last step whose interval was below the limit; 0 is the base.
    pub below: u64,
    /// What was changed in what is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ReplayChange>,
}

impl ControlState {
    pub(crate) fn new(replay: f64) -> Self {
        let changes = Vec::new();
        Self {
            replay,
            learning_rate: 1.0,
            least_replay: replay,
            most_replay: None,
            rollbacks: 0,
            last: 0.0,
            below: 0,
            changes,
        }
    }

    /// Remembers that the loader refused `wanted` where the share is `now`. Of a raise half is left to be
    /// tried, as long as that is worth it; what cannot be lowered stays.
    pub(crate) fn refuse(&mut self, wanted: f64, now: f64) {
        if wanted < now {
            self.least_replay = now;
        } else {
            let half = f64::midpoint(now, wanted);
            self.most_replay = Some(if half - now < LEAST_RAISE { now } else { half });
        }
    }
}

/// A measurement of forgetting, %, with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Action {
    Hold,
    /// Go on with the state's replay and learning rate.
    Change,
    /// Go back to the checkpoint after this step, and on with the state's replay and rate.
    RollBack(u64),
    Stop,
}

/// Name of [`Action::RollBack`] in the metrics.
pub(crate) const ROLL_BACK: &str = "roll back";

impl Action {
    /// Its name in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Change => "change",
            Self::RollBack(_) => ROLL_BACK,
            Self::Stop => "stop",
        }
    }
}

/// Takes a measurement after `step` in; says what to do, and why. `back_to` is the step to which the run
/// can go back, if there is one before this.
pub(crate) fn decide(
    limit: &LimitConfig,
    state: &mut ControlState,
    step: u64,
    back_to: Option<u64>,
    reading: Reading,
) -> (Action, String) {
    let Reading { value, low, high } = reading;
    let expected = value + (value - state.last).max(0.0);
    let upper = expected + (high - value);
    let (replay, rate) = (state.replay, state.learning_rate);
    let percent = limit.percent;
    let most = limit.largest_replay.min(state.most_replay.unwrap_or(1.0)).max(replay);
    let more = (replay.max(FIRST_REPLAY / 2.0) * (upper / percent).max(2.0)).min(most);
    let slower =
        if more > replay { rate } else { (rate / 2.0).max(limit.least_learning_rate.min(rate)) };
    let change = (more > replay)
        .then(|| moved("replay", replay, more))
        .or_else(|| (slower < rate).then(|| moved("learning rate", rate, slower)));
    let falls_below = value + SOON * (value - state.last) <= percent;
    state.last = value;
    if high <= percent {
        state.below = step;
    }
    if low > percent {
        let surely = format!(
            "forgetting {value:+.1} % is above the limit of {percent} %, surely ({low:+.1} % at least)"
        );
        if falls_below {
            return (Action::Hold, format!("{surely}, and falls fast enough"));
        }
        let Some(change) = change else {
            return (Action::Stop, format!("{surely}, and nothing is left to be changed"));
        };
        state.least_replay = (2.0 * replay).max(FIRST_REPLAY).min(more);
        (state.replay, state.learning_rate) = (more, slower);
        if let Some(to) = back_to.filter(|_| state.rollbacks < limit.max_rollbacks) {
            state.rollbacks += 1;
            return (Action::RollBack(to), format!("{surely}: back to step {to}, with {change}"));
        }
        return (Action::Change, format!("{surely}: {change}"));
    }
    if upper > percent {
        let near = format!(
            "forgetting {value:+.1} % may be {upper:+.1} % at the next measurement, above the limit of {percent} %"
        );
        let Some(change) = change else {
            return (Action::Hold, format!("{near}, and nothing is left to be changed"));
        };
        (state.replay, state.learning_rate) = (more, slower);
        return (Action::Change, format!("{near}: {change}"));
    }
    let faster = (2.0 * rate).min(1.0);
    let less = (replay / 2.0).max(state.least_replay);
    if upper < percent / 2.0 && (faster > rate || less < replay) {
        let change = if faster > rate {
            state.learning_rate = faster;
            moved("learning rate", rate, faster)
        } else {
            state.replay = less;
            moved("replay", replay, less)
        };
        let reason = format!(
            "forgetting {value:+.1} % stays below half of the limit of {percent} %: {change}"
        );
        return (Action::Change, reason);
    }
    (Action::Hold, format!("forgetting {value:+.1} % of at most {percent} %"))
}

fn moved(what: &str, from: f64, to: f64) -> String {
    format!("{what} {:.1} % → {:.1} %", from * 100.0, to * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit() -> LimitConfig {
        LimitConfig {
            percent: 10.0,
            replay: "general".to_owned(),
            largest_replay: 0.3,
            least_learning_rate: 0.25,
            max_rollbacks: 1,
        }
    }

    fn reading(value: f64) -> Reading {
        Reading { value, low: value - 1.0, high: value + 1.0 }
    }

    fn check(
        state: &mut ControlState,
        step: u64,
        value: f64,
        expect: Action,
        replay: f64,
        rate: f64,
    ) {
        let back_to = Some(state.below).filter(|below| *below < step);
        let (action, reason) = decide(&limit(), state, step, back_to, reading(value));
        assert_eq!((action, state.replay, state.learning_rate), (expect, replay, rate), "{reason}");
    }

    #[test]
    fn replay_rises_before_the_limit_is_reached_and_falls_when_it_is_far() {
        let mut state = ControlState::new(0.05);
        check(&mut state, 10, 2.0, Action::Hold, 0.05, 1.0);
        // 5 now, a rise of 3, an upper half of 1: 9 are expected.
        check(&mut state, 20, 5.0, Action::Hold, 0.05, 1.0);
        check(&mut state, 30, 8.0, Action::Change, 0.1, 1.0);
        check(&mut state, 40, 8.5, Action::Hold, 0.1, 1.0);
        check(&mut state, 50, 3.5, Action::Change, 0.05, 1.0);
        check(&mut state, 60, 3.0, Action::Hold, 0.05, 1.0);
        assert_eq!(state.below, 60);
    }

    #[test]
    fn above_the_limit_the_run_goes_back_then_replays_then_slows_then_stops() {
        let mut state = ControlState::new(0.05);
        check(&mut state, 10, 4.0, Action::Hold, 0.05, 1.0);
        // 12 now, a rise of 8, an upper half of 1: 2.1 times the limit.
        check(&mut state, 20, 12.0, Action::RollBack(10), 0.05 * 2.1, 1.0);
        // What was too little once is too little again.
        let mut below = state.clone();
        check(&mut below, 20, 1.0, Action::Change, 0.1, 1.0);
        check(&mut below, 30, 1.0, Action::Hold, 0.1, 1.0);
        check(&mut state, 20, 15.0, Action::Change, 0.05 * 2.1 * 2.0, 1.0);
        check(&mut state, 30, 14.9, Action::Change, 0.3, 1.0);
        check(&mut state, 40, 14.9, Action::Change, 0.3, 0.5);
        // In four measurements at this pace it is below the limit.
        check(&mut state, 50, 13.8, Action::Hold, 0.3, 0.5);
        check(&mut state, 60, 13.7, Action::Change, 0.3, 0.25);
        check(&mut state.clone(), 70, 13.7, Action::Stop, 0.3, 0.25);
        // A rate that was cut rises before replay falls.
        check(&mut state, 70, 3.0, Action::Change, 0.3, 0.5);
        check(&mut state, 80, 3.0, Action::Change, 0.3, 1.0);
        check(&mut state, 90, 3.0, Action::Hold, 0.3, 1.0);
    }

    #[test]
    fn the_further_above_the_limit_the_more_is_replayed() {
        let mut state = ControlState::new(0.02);
        // 50 now, a rise of 50, an upper half of 1: 10.1 times the limit.
        check(&mut state, 10, 50.0, Action::RollBack(0), 0.02 * 10.1, 1.0);
        assert_eq!(state.least_replay, 0.04);
        let mut state = ControlState::new(0.05);
        check(&mut state, 10, 500.0, Action::RollBack(0), 0.3, 1.0);
    }

    #[test]
    fn what_the_loader_refuses_is_tried_by_halves_and_then_the_rate_is_cut() {
        let mut state = ControlState { last: 8.0, ..ControlState::new(0.1) };
        let near = |most_replay: Option<f64>, replay: f64| {
            let found = most_replay.unwrap();
            assert!((found - replay).abs() < 1e-12, "{found}");
        };
        check(&mut state.clone(), 20, 9.0, Action::Change, 0.2, 1.0);
        state.refuse(0.2, 0.1);
        near(state.most_replay, 0.15);
        check(&mut state.clone(), 20, 9.0, Action::Change, state.most_replay.unwrap(), 1.0);
        state.refuse(0.15, 0.1);
        state.refuse(0.125, 0.1);
        near(state.most_replay, 0.1125);
        state.refuse(0.1125, 0.1);
        assert_eq!(state.most_replay, Some(0.1));
        check(&mut state, 20, 9.0, Action::Change, 0.1, 0.5);
        // Above the limit it goes back for a lower rate, and stops once that is at its least.
        let mut state = ControlState { most_replay: Some(0.1), ..ControlState::new(0.1) };
        check(&mut state, 10, 12.0, Action::RollBack(0), 0.1, 0.5);
        check(&mut state, 20, 12.0, Action::Change, 0.1, 0.25);
        check(&mut state, 30, 12.0, Action::Stop, 0.1, 0.25);
        // What cannot be lowered is not tried again either.
        let mut state = ControlState { replay: 0.2, ..ControlState::new(0.05) };
        check(&mut state.clone(), 10, 1.0, Action::Change, 0.1, 1.0);
        state.refuse(0.1, 0.2);
        check(&mut state, 10, 1.0, Action::Hold, 0.2, 1.0);
    }

    #[test]
    fn a_run_that_cannot_go_back_replays_from_where_it_stands() {
        let mut state = ControlState::new(0.05);
        let (action, reason) = decide(&limit(), &mut state, 20, None, reading(12.0));
        assert_eq!((action, state.rollbacks), (Action::Change, 0), "{reason}");
    }

    #[test]
    fn a_state_of_before_has_no_such_share() {
        let state = ControlState::new(0.05);
        let text = serde_json::to_string(&state).unwrap();
        assert!(!text.contains("most_replay"), "{text}");
        assert_eq!(serde_json::from_str::<ControlState>(&text).unwrap(), state);
    }

    /// Whoever is cut decides by what was read back.
    #[test]
    fn a_state_comes_back_from_json_bit_for_bit() {
        let mut state = ControlState::new(0.05);
        for replay in [0.218_101_999_171_857_46, 0.578_687_856_130_037_1, 1.0 / 3.0] {
            (state.replay, state.last) = (replay, replay * 10.0);
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<ControlState>(&text).unwrap(), state, "{text}");
        }
    }

    #[test]
    fn no_replay_is_raised_to_a_first_share() {
        let mut state = ControlState::new(0.0);
        let (action, _) = decide(&limit(), &mut state, 10, Some(0), reading(9.5));
        assert_eq!((action, state.replay), (Action::Change, FIRST_REPLAY));
    }
}

//! Conditions of a training that somebody wants to hear of: the `[watch]` table of a recipe.
//!
//! An alarm is raised once, and again only after its condition ended in between, across processes too.
//! What becomes of it (a line, a message, the end of the run) is its caller's.

use std::fmt;

use milpa_base::{
    Bytes, Steps,
    units::{binary_bytes, si},
};
use milpa_train::{Metric, TrainConfig};
use serde::{Deserialize, Serialize};

use crate::watch::{
    history::{Curve, RECENT_STEPS},
    state::State,
};

/// The `[watch]` table of a recipe. Nothing in it changes a byte of what is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    /// Alarm when the mean loss of the last 20 steps is above this, in nats per token…
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_above: Option<f64>,
    /// …after so many steps.
    pub loss_above_after: Steps,
    /// Alarm when that mean found no new lowest value for so many steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_progress: Option<Steps>,
    /// Alarm when forgetting is above this, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forgetting_above: Option<f64>,
    /// Alarm when the run goes back to a checkpoint.
    pub rollback: bool,
    /// Alarm when less is free on the disk of the checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_below: Option<Bytes>,
    /// Alarms that end the run: it saves, and ends with exit code 1. The others only tell.
    pub stop_on: Vec<Alarm>,
    /// Seconds from one `report.html` to the next while training; 0 for none before the end.
    pub report_every: u64,
    /// Whether events for TensorBoard are written.
    pub tensorboard: bool,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            loss_above: None,
            loss_above_after: Steps(RECENT_STEPS as u64),
            no_progress: None,
            forgetting_above: None,
            rollback: false,
            disk_below: None,
            stop_on: Vec::new(),
            report_every: 30,
            tensorboard: true,
        }
    }
}

/// An alarm by its name in a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// The loss is too high.
    LossAbove,
    /// The loss does not fall.
    NoProgress,
    /// Too much is forgotten.
    ForgettingAbove,
    /// The run went back to a checkpoint.
    Rollback,
    /// The disk is nearly full.
    DiskBelow,
}

const ALARMS: [Alarm; 5] = [
    Alarm::LossAbove,
    Alarm::NoProgress,
    Alarm::ForgettingAbove,
    Alarm::Rollback,
    Alarm::DiskBelow,
];

impl Alarm {
    /// The name in a recipe, a message and a metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::LossAbove => "loss_above",
            Self::NoProgress => "no_progress",
            Self::ForgettingAbove => "forgetting_above",
            Self::Rollback => "rollback",
            Self::DiskBelow => "disk_below",
        }
    }
}

impl WatchConfig {
    /// Alarms that are set.
    pub fn alarms(&self) -> Vec<Alarm> {
        ALARMS.into_iter().filter(|alarm| self.is_set(*alarm)).collect()
    }

    fn is_set(&self, alarm: Alarm) -> bool {
        match alarm {
            Alarm::LossAbove => self.loss_above.is_some(),
            Alarm::NoProgress => self.no_progress.is_some(),
            Alarm::ForgettingAbove => self.forgetting_above.is_some(),
            Alarm::Rollback => self.rollback,
            Alarm::DiskBelow => self.disk_below.is_some(),
        }
    }

    /// Finds what makes no sense, and alarms that can never be raised in this training: the key and what
    /// is wrong with it.
    pub fn validate(&self, train: &TrainConfig) -> Result<(), (String, String)> {
        let bad = |key: &str, message: String| Err((key.to_owned(), message));
        for (key, value) in
            [("loss_above", self.loss_above), ("forgetting_above", self.forgetting_above)]
        {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return bad(key, format!("it is {value}; give a number"));
            }
        }
        if self.no_progress == Some(Steps(0)) {
            return bad("no_progress", "it is 0 steps; give some thousand".to_owned());
        }
        if let Some(alarm) = self.stop_on.iter().find(|alarm| !self.is_set(**alarm)) {
            let name = alarm.name();
            return bad("stop_on", format!("{name} is no alarm of this recipe; set watch.{name}"));
        }
        if self.forgetting_above.is_some() && train.forgetting.is_none() {
            let message = "this run measures no forgetting, so it would never be raised: add \
                           [train.forgetting], or take it out";
            return bad("forgetting_above", message.to_owned());
        }
        let limit = train.forgetting.as_ref().and_then(|forgetting| forgetting.limit.as_ref());
        let goes_back = train.stability.is_some_and(|stability| stability.max_rollbacks > 0)
            || limit.is_some_and(|limit| limit.max_rollbacks > 0);
        if self.rollback && !goes_back {
            let message = "this run never goes back, so it would never be raised: add [train.stability] or \
                           [train.forgetting.limit] with max_rollbacks of 1 or more, or take it out";
            return bad("rollback", message.to_owned());
        }
        Ok(())
    }
}

/// An alarm that was raised.
#[derive(Debug, Clone, PartialEq)]
pub struct Raised {
    /// Which one.
    pub alarm: Alarm,
    /// After this step.
    pub step: u64,
    /// What was measured, in the unit of the limit.
    pub value: f64,
    /// What it was held against.
    pub limit: f64,
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alarm, step, value, limit } = self;
        match alarm {
            Alarm::LossAbove => write!(
                f,
                "after step {step} the mean loss of {RECENT_STEPS} steps is {value:.4}, above {limit}"
            ),
            Alarm::NoProgress => write!(
                f,
                "after step {step} the mean loss of {RECENT_STEPS} steps has found no new lowest value \
                 for {} steps (the limit is {})",
                si(*value),
                si(*limit)
            ),
            Alarm::ForgettingAbove => {
                write!(f, "after step {step} forgetting is {value:.1} %, above {limit} %")
            }
            Alarm::Rollback => write!(f, "the run went back before step {step}"),
            Alarm::DiskBelow => write!(
                f,
                "after step {step} {} are free on the disk of the checkpoints, less than {}",
                binary_bytes(*value as u64),
                binary_bytes(*limit as u64)
            ),
        }
    }
}

/// Watches the conditions.
#[derive(Debug)]
pub struct Alarms {
    config: WatchConfig,
    /// Alarms whose condition holds.
    holding: Vec<Alarm>,
    /// The lowest mean loss and its step.
    lowest: (f64, u64),
}

impl Alarms {
    /// Nothing has been seen yet.
    pub fn new(config: WatchConfig) -> Self {
        Self { config, holding: Vec::new(), lowest: (f64::INFINITY, 0) }
    }

    /// Forgets what was seen in the lines of the metrics; what they do not tell goes on as it is.
    pub fn begin_anew(&mut self) {
        self.holding.retain(|alarm| *alarm == Alarm::DiskBelow);
        self.lowest = (f64::INFINITY, 0);
    }

    /// Looks at the state after a line of the metrics; says what is raised by it.
    pub fn after(&mut self, metric: &Metric, state: &State) -> Vec<Raised> {
        let step = metric.step();
        let Self { config, holding, lowest } = self;
        let mut raised = Vec::new();
        match metric {
            Metric::Step { .. } => {
                // A single step says little; the mean is one only once it has its steps.
                let mean = state.history.recent_loss();
                let Some(mean) = mean.filter(|_| state.history.counts.steps >= RECENT_STEPS as u64)
                else {
                    return raised;
                };
                if let Some(limit) = config.loss_above {
                    let holds =
                        step >= config.loss_above_after.0 && (mean.is_nan() || mean > limit);
                    raised.extend(raise(holding, Alarm::LossAbove, holds, step, mean, limit));
                }
                if mean < lowest.0 {
                    *lowest = (mean, step);
                }
                if let Some(Steps(limit)) = config.no_progress {
                    let since = step.saturating_sub(lowest.1);
                    let (holds, value) = (since >= limit, since as f64);
                    let limit = limit as f64;
                    raised.extend(raise(holding, Alarm::NoProgress, holds, step, value, limit));
                }
            }
            metric if config.rollback && metric.is_of_going_back() => {
                let count = state.history.counts.rollbacks as f64;
                raised.push(Raised { alarm: Alarm::Rollback, step, value: count, limit: 0.0 });
            }
            _ => {
                let forgetting = state.history.probes.get("forgetting");
                if let Some(limit) = config.forgetting_above
                    && let Some(value) = forgetting.and_then(Curve::last)
                {
                    let alarm = Alarm::ForgettingAbove;
                    raised.extend(raise(holding, alarm, value > limit, step, value, limit));
                }
            }
        }
        raised
    }

    /// Looks at the room that is left on the disk.
    pub fn disk(&mut self, state: &State) -> Option<Raised> {
        let (Bytes(limit), free) = (self.config.disk_below?, state.disk_free?);
        let (value, limit) = (free as f64, limit as f64);
        raise(&mut self.holding, Alarm::DiskBelow, value < limit, state.step(), value, limit)
    }

    /// Says of each alarm that is set whether its condition holds.
    pub fn show(&self, state: &mut State) {
        let holds = |name| self.holding.iter().any(|alarm| alarm.name() == name);
        state.alarms.iter_mut().for_each(|alarm| alarm.holds = holds(alarm.name));
    }

    /// Whether an alarm is to end the run.
    pub fn ends_run(&self, alarm: Alarm) -> bool {
        self.config.stop_on.contains(&alarm)
    }
}

/// Raises an alarm whose condition holds now and did not before.
fn raise(
    holding: &mut Vec<Alarm>,
    alarm: Alarm,
    holds: bool,
    step: u64,
    value: f64,
    limit: f64,
) -> Option<Raised> {
    let held = holding.contains(&alarm);
    if holds && !held {
        holding.push(alarm);
        return Some(Raised { alarm, step, value, limit });
    }
    if !holds {
        holding.retain(|other| *other != alarm);
    }
    None
}

#[cfg(test)]
mod tests {
    use milpa_train::Noted;

    use super::*;
    use crate::watch::history::tests::step as falling;

    fn training(more: &str) -> TrainConfig {
        let text = format!(
            "steps = 100\nsequence_length = 8\nbatch_size = 1\ncheckpoint_every = 10\n\
             validate_every = 10\nschedule = {{ kind = 'constant' }}\n\
             optimizer = {{ kind = 'adam_w', learning_rate = 1e-3 }}\n{more}"
        );
        toml::from_str(&text).unwrap()
    }

    /// A step with this loss.
    fn step(at: u64, loss: f64) -> Metric {
        let Metric::Step { .. } = falling(at, at as f64) else { unreachable!() };
        let mut metric = falling(at, at as f64);
        if let Metric::Step { loss: l, skipped, .. } = &mut metric {
            (*l, *skipped) = (loss, false);
        }
        metric
    }

    /// Names and steps of what is raised by these losses.
    fn check(config: &str, losses: impl Iterator<Item = f64>, expect: &[(&str, u64)]) {
        let config: WatchConfig = toml::from_str(config).unwrap();
        config.validate(&training("")).unwrap();
        let (mut alarms, mut state) = (Alarms::new(config), State::default());
        let mut raised = Vec::new();
        for (index, loss) in losses.enumerate() {
            let metric = step(index as u64 + 1, loss);
            state.take(Noted::Added(&metric));
            raised.extend(alarms.after(&metric, &state));
        }
        let raised: Vec<_> =
            raised.iter().map(|raised| (raised.alarm.name(), raised.step)).collect();
        assert_eq!(raised, expect);
    }

    #[test]
    fn a_loss_that_is_too_high_is_told_once_each_time() {
        let high_low_high = (0..100).map(|at| if (40..70).contains(&at) { 2.0 } else { 8.0 });
        check("loss_above = 5", high_low_high.clone(), &[("loss_above", 20), ("loss_above", 81)]);
        check("loss_above = 5\nloss_above_after = 60", high_low_high, &[("loss_above", 81)]);
        check("loss_above = 5", (0..100).map(|_| 4.9), &[]);
        // One spike is no high mean.
        check("loss_above = 5", (0..100).map(|at| if at == 50 { 30.0 } else { 2.0 }), &[]);
        check("loss_above = 5", (0..30).map(|_| f64::NAN), &[("loss_above", 20)]);
    }

    #[test]
    fn a_loss_that_no_longer_falls_is_told() {
        let stops = (0..300).map(|at| 5.0 - f64::from(at.min(100)) / 50.0);
        check("no_progress = 50", stops.clone(), &[("no_progress", 170)]);
        check("no_progress = 5000", stops, &[]);
    }

    #[test]
    fn forgetting_above_the_limit_is_told() {
        let config: WatchConfig = toml::from_str("forgetting_above = 5").unwrap();
        let (mut alarms, mut state) = (Alarms::new(config), State::default());
        let mut forgets = |step: u64, percent: f64| {
            let metric = crate::watch::history::tests::measured(step, percent);
            state.take(Noted::Added(&metric));
            alarms.after(&metric, &state).iter().map(Raised::to_string).collect::<String>()
        };
        assert_eq!(forgets(100, 4.0), "");
        assert_eq!(forgets(200, 6.0), "after step 200 forgetting is 6.0 %, above 5 %");
        assert_eq!(forgets(300, 7.0), "");
    }

    #[test]
    fn a_full_disk_and_a_rollback_are_told() {
        let config: WatchConfig = toml::from_str("disk_below = '1 GiB'\nrollback = true").unwrap();
        let (mut alarms, mut state) = (Alarms::new(config), State::default());
        let mut free = |bytes: u64| {
            state.disk_free = Some(bytes);
            alarms.disk(&state).map(|raised| raised.to_string())
        };
        assert_eq!(free(2 << 30), None);
        assert!(free(1 << 29).unwrap().contains("512 MiB are free on the disk"));
        assert_eq!(free(1 << 28), None);
        assert_eq!(free(2 << 30), None);
        assert!(free(1 << 29).is_some());
        let back = Metric::Rollback { step: 9, from_step: 12, batches_passed_over: 4 };
        assert_eq!(alarms.after(&back, &state).len(), 1);
        assert_eq!(alarms.after(&back, &state).len(), 1, "each time");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |text: &str, key: &str, part: &str| {
            let config: WatchConfig = toml::from_str(text).unwrap();
            let (found, message) = config.validate(&training("")).unwrap_err();
            assert!(found == key && message.contains(part), "{found}: {message}");
        };
        check("stop_on = ['loss_above']", "stop_on", "set watch.loss_above");
        check("loss_above = nan", "loss_above", "NaN");
        check("no_progress = 0", "no_progress", "0 steps");
        let error = toml::from_str::<WatchConfig>("los_above = 3").unwrap_err().to_string();
        assert!(error.contains("loss_above"), "{error}");
        let forgetting = "forgetting_above = 5\nstop_on = ['forgetting_above']";
        check(forgetting, "forgetting_above", "add [train.forgetting], or take it out");
        check("rollback = true", "rollback", "this run never goes back");
        for alarm in ALARMS {
            assert_eq!(serde_json::to_value(alarm).unwrap(), alarm.name());
        }
    }

    #[test]
    fn alarms_of_what_the_run_does_are_taken() {
        let check = |watch: &str, train: &str| {
            let config: WatchConfig = toml::from_str(watch).unwrap();
            config.validate(&training(train)).map_err(|(key, _)| key)
        };
        let stability = |rollbacks| format!("stability = {{ max_rollbacks = {rollbacks} }}");
        assert_eq!(check("rollback = true", &stability(1)), Ok(()));
        assert_eq!(check("rollback = true", &stability(0)), Err("rollback".to_owned()));
        let forgetting =
            |limit: &str| format!("forgetting = {{ general = 'tokens', every = 10{limit} }}");
        let limit = |rollbacks| {
            let text = format!("percent = 5, replay = 'a', max_rollbacks = {rollbacks}");
            forgetting(&format!(", limit = {{ {text} }}"))
        };
        assert_eq!(check("forgetting_above = 5", &forgetting("")), Ok(()));
        assert_eq!(check("rollback = true", &forgetting("")), Err("rollback".to_owned()));
        assert_eq!(check("rollback = true", &limit(2)), Ok(()));
        assert_eq!(check("rollback = true", &limit(0)), Err("rollback".to_owned()));
    }
}

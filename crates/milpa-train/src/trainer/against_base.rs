//! A run beside its base: measured on schedule, kept below the recipe's limit, and what is chosen at its
//! end.
//!
//! What is measured is `forgetting`'s, what is to be done `control`'s; here it is done.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use milpa_base::{Progress, StopFlag, artifact::Record};
use milpa_eval::EvalError;
use milpa_model::{ParameterStore, interpolate};
use milpa_tokens::TokensError;

use super::{CHOSEN_CHECKPOINT, Run};
use crate::{
    checkpoint,
    config::TrainConfig,
    control::{Action, ControlState, LimitConfig, ReplayChange, decide},
    data::Data,
    error::TrainError,
    forgetting::{self, ForgettingReport, Standing, choose, sweep},
    metrics::{METRICS_FILE, Metric, read_metrics},
    stability::StabilityState,
    watchdog::Activity,
};

/// The limit on forgetting, if the recipe sets one.
pub(super) fn limit(config: &TrainConfig) -> Option<&LimitConfig> {
    config.forgetting.as_ref()?.limit.as_ref()
}

/// Share of the replay that the limit moves, as the recipe has it.
pub(super) fn recipe_replay(config: &TrainConfig, limit: &LimitConfig) -> f64 {
    let moved = config.replay.iter().find(|replay| replay.name == limit.replay);
    moved.map_or(0.0, |replay| replay.share)
}

impl<'a> Run<'_, 'a> {
    /// Reads other data from the next batch on.
    pub(super) fn read(&mut self, data: Data<'a>) {
        self.data = Arc::new(data);
        self.feed.change(Arc::clone(&self.data));
    }

    /// A copy of the weights, with what an adapter changed.
    pub(super) fn weights(&self) -> Result<ParameterStore, TrainError> {
        self.network.plain(&self.parameters)
    }

    /// Holds the model against its base on schedule and at the end, and does what the limit asks for.
    pub(super) fn measure_if_due(
        &mut self,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<(), TrainError> {
        let (Some(measure), Some(config)) = (self.measure, &self.job.config.forgetting) else {
            return Ok(());
        };
        let due = self.step > 0
            && (self.step.is_multiple_of(config.every.0) || self.step == self.job.config.steps.0);
        if !due || self.measured == Some(self.step) {
            return Ok(());
        }
        let began = Instant::now();
        self.job.pulse.beat(self.step, Activity::Validation);
        let name = format!("step {}", self.step);
        let standing = match measure.of(&name, &self.network.description, self.weights()?, stop) {
            Err(TrainError::Eval(EvalError::Interrupted)) => return Err(self.interrupted()?),
            measured => measured?,
        };
        self.measured = Some(self.step);
        progress.line(&format!("after step {}: {}", self.step, standing.line()));
        self.metrics.write(&standing.metric(self.step, began.elapsed().as_secs_f64()))?;
        if self.step < self.job.config.steps.0 {
            self.control(&standing, progress)?;
        }
        Ok(())
    }

    /// Does what the limit on forgetting asks for after a measurement.
    fn control(&mut self, standing: &Standing, progress: &dyn Progress) -> Result<(), TrainError> {
        let (Some(limit), Some(mut control)) = (limit(self.job.config), self.control.clone())
        else {
            return Ok(());
        };
        let replay = control.replay;
        let (action, reason) = decide(limit, &mut control, self.step, standing.reading());
        progress.line(&format!("{}: {reason}", action.name()));
        let from_step = self.step;
        match action {
            Action::Hold | Action::Change => {
                self.retention.below_limit(control.below);
                self.change_replay(&mut control, replay, progress)?;
                self.control = Some(control.clone());
            }
            Action::RollBack(target) => {
                let (before, rollbacks) = (self.stability.clone(), control.rollbacks);
                let learned = self.go_back(target)?;
                self.stability = StabilityState { rollbacks: before.rollbacks, ..learned };
                // What is known stays known; where the run stands is the checkpoint's.
                let then = self.control.take().unwrap_or_else(|| control.clone());
                control = ControlState { rollbacks, below: then.below, last: then.last, ..control };
                control.changes = then.changes;
                self.change_replay(&mut control, then.replay, progress)?;
                self.control = Some(control.clone());
            }
            Action::Stop => {}
        }
        let step = if matches!(action, Action::RollBack(_)) { self.step + 1 } else { from_step };
        self.metrics.write(&Metric::Control {
            step,
            action: action.name().to_owned(),
            reason: reason.clone(),
            replay: control.replay,
            learning_rate: control.learning_rate,
        })?;
        if action == Action::Stop {
            self.saver.wait()?;
            let below = (control.below > 0).then(|| checkpoint::folder(self.out, control.below));
            return Err(TrainError::ForgetsTooMuch { step: self.step, reason, checkpoint: below });
        }
        Ok(())
    }

    /// Draws with the controller's share of replay from the next batch on. Where that is not possible, as
    /// with a share of less than one of the samples that are left, it stays at `before`.
    fn change_replay(
        &mut self,
        control: &mut ControlState,
        before: f64,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        if control.replay == before {
            return Ok(());
        }
        // The metrics count what the data before drew.
        self.end_data_window()?;
        let batch = self.next_batch();
        let mut changes = control.changes.clone();
        changes.retain(|change| change.batch != batch);
        changes.push(ReplayChange { batch, replay: control.replay });
        let Some(state) = self.state()?.stages else { return Ok(()) };
        match Data::change(self.job, &changes, &self.stability.passed_over, &state) {
            Ok(data) => {
                control.changes = changes;
                self.read(data);
                Ok(())
            }
            Err(TrainError::Tokens(problem @ TokensError::Stage(..))) => {
                progress.line(&format!("replay stays at {:.1} %: {problem}", before * 100.0));
                control.replay = before;
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// At the end: measures the average and blends with the base, and writes the candidate that the
    /// recipe's rule chooses.
    pub(super) fn choose(
        &mut self,
        record: &Record,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<(), TrainError> {
        let (Some(measure), Some(base)) = (self.measure, self.job.start.base()) else {
            return Ok(());
        };
        let mut names = vec!["final".to_owned()];
        names.extend(self.average.is_some().then(|| "average".to_owned()));
        let blends: BTreeMap<String, f64> = sweep().collect();
        names.extend(blends.keys().cloned());
        let base = base.weights(&self.job.device)?;
        let weights = |run: &Self, name: &str| match (name, &run.average) {
            ("average", Some(average)) => run.network.plain(&average.parameters(&run.parameters)?),
            _ => match blends.get(name) {
                Some(share) => Ok(interpolate(&base, &run.weights()?, 1.0 - share)?),
                None => run.weights(),
            },
        };
        let mut candidates = Vec::new();
        for name in &names {
            let standing =
                match measure.of(name, &self.network.description, weights(self, name)?, stop) {
                    Err(TrainError::Eval(EvalError::Interrupted)) => {
                        return Err(self.interrupted()?);
                    }
                    measured => measured?,
                };
            progress.line(&format!("{name}: {}", standing.line()));
            candidates.push(standing);
        }
        let limit = limit(self.job.config).map(|limit| limit.percent);
        let (index, reason) = choose(&candidates, limit);
        let chosen = names[index].clone();
        progress.line(&format!("chosen: {chosen}; {reason}"));
        let weights = weights(self, &chosen)?;
        let snapshot = self.snapshot()?;
        checkpoint::write_averaged(&self.out.join(CHOSEN_CHECKPOINT), &weights, &snapshot, record)?;
        let metrics = read_metrics(self.out)
            .map_err(|source| TrainError::Io { path: self.out.join(METRICS_FILE), source })?;
        let report = ForgettingReport { limit, candidates, chosen, reason };
        forgetting::write_report(self.out, &metrics, &report)?;
        Ok(())
    }
}

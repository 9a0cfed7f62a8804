//! A run beside its base: measured on schedule, kept below the recipe's limit, and what is chosen at its
//! end.
//!
//! What is measured is `forgetting`'s, what is to be done `control`'s; here it is done.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use milpa_base::{
    Kind, ManifestError, Progress, StopFlag, artifact::Record, manifest::Verify, open_artifact,
};
use milpa_eval::EvalError;
use milpa_model::{ParameterStore, interpolate};
use milpa_tokens::TokensError;

use super::{CHOSEN_CHECKPOINT, Learned, Run, control_of};
use crate::{
    checkpoint::{self, State},
    config::TrainConfig,
    control::{Action, ControlState, LimitConfig, Reading, ReplayChange, decide},
    data::Data,
    error::TrainError,
    forgetting::{self, ForgettingReport, Measure, Standing, best_below, sweep},
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

/// What is done after a measurement.
struct Decision<'a> {
    action: Action,
    reason: String,
    /// What the controller remembers from then on.
    control: ControlState,
    /// What is read from then on, if it is other data.
    data: Option<Data<'a>>,
}

impl<'a> Run<'_, 'a> {
    /// Reads other data from the next batch on.
    pub(super) fn read(&mut self, data: Data<'a>) {
        self.data = Arc::new(data);
        self.feed.change(Arc::clone(&self.data));
    }

    /// Holds the model against the base from here on.
    pub(super) fn hold_against(
        &mut self,
        measure: Option<&'a Measure<'a>>,
    ) -> Result<(), TrainError> {
        self.measure = measure;
        measure.map_or(Ok(()), |measure| self.note_measured("base", measure.base_seconds()))
    }

    /// Puts down what a measurement took that has no other line.
    fn note_measured(&mut self, name: &str, seconds: f64) -> Result<(), TrainError> {
        self.metrics.write(&Metric::Measured { step: self.step, name: name.to_owned(), seconds })
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
        let (Some(limit), Some(known)) = (limit(self.job.config), self.control.clone()) else {
            return Ok(());
        };
        let Decision { action, mut reason, control, data } =
            self.decide(limit, known, standing.reading())?;
        if let Action::RollBack(_) = action {
            // Its line stands at the step to which the run goes back.
            reason = format!("after step {}: {reason}", self.step);
        }
        progress.line(&format!("{}: {reason}", action.name()));
        let from_step = self.step;
        match action {
            Action::Hold | Action::Change => {
                self.retention.below_limit(control.below);
                self.control = Some(control.clone());
            }
            Action::RollBack(target) => {
                let before = self.stability.clone();
                let learned = self.go_back(target)?;
                self.stability = StabilityState { rollbacks: before.rollbacks, ..learned };
                self.control = Some(control.clone());
            }
            Action::Stop => {}
        }
        if let Some(data) = data {
            // The metrics count what the data before drew.
            self.end_data_window()?;
            self.read(data);
        }
        let goes_back = matches!(action, Action::RollBack(_));
        self.went_back += u64::from(goes_back);
        let step = if goes_back { self.step + 1 } else { from_step };
        self.metrics.write(&Metric::Control {
            step,
            action: action.name().to_owned(),
            reason: reason.clone(),
            replay: control.replay,
            learning_rate: control.learning_rate,
        })?;
        if goes_back {
            return self.save_gone_back();
        }
        if action == Action::Stop {
            self.saver.wait()?;
            let below = checkpoint::folder(self.out, control.below);
            // One of before the plan may be gone.
            let checkpoint = Some(below).filter(|dir| dir.exists());
            return Err(TrainError::ForgetsTooMuch { step: self.step, reason, checkpoint });
        }
        Ok(())
    }

    /// What the limit asks for, as far as it can be done: a share of replay that the loader refuses, since
    /// its data do not last, is remembered, and it is decided again, as where the checkpoint to go back to
    /// is damaged. Nothing is changed here.
    fn decide(
        &mut self,
        limit: &LimitConfig,
        mut known: ControlState,
        reading: Reading,
    ) -> Result<Decision<'a>, TrainError> {
        let (mut damaged, mut note) = (String::new(), String::new());
        let mut back_to = Some(known.below.max(self.origin)).filter(|target| *target < self.step);
        loop {
            let mut control = known.clone();
            let (action, mut reason) = decide(limit, &mut control, self.step, back_to, reading);
            let state = match action {
                Action::RollBack(target) => match self.state_at(target)? {
                    Ok(state) => state,
                    Err(problem) => {
                        damaged = format!("; it cannot go back ({problem})");
                        back_to = None;
                        continue;
                    }
                },
                Action::Hold | Action::Change | Action::Stop => self.state()?,
            };
            let now = state.control.as_ref().unwrap_or(&known).replay;
            if let Action::RollBack(_) = action {
                // What is known stays known; where the run stands is the checkpoint's.
                let then = state.control.clone().unwrap_or_else(|| known.clone());
                let ControlState { last, below, changes, .. } = then;
                control = ControlState { last, below, changes, ..control };
            }
            let data = match self.data_with(&mut control, now, state)? {
                Ok(data) => data,
                Err(problem)
                    if matches!(action, Action::RollBack(_))
                        && control.replay <= now.max(known.replay) =>
                {
                    // It goes back to before a raise that does not last from there on.
                    let percent = now * 100.0;
                    note = format!("; replay stays at the checkpoint's {percent:.1} % ({problem})");
                    control.replay = now;
                    None
                }
                Err(problem) => {
                    let way = if control.replay < now { "less" } else { "more" };
                    note = format!("; {way} replay cannot be drawn ({problem})");
                    known.refuse(control.replay, now.max(known.replay));
                    continue;
                }
            };
            reason += &(damaged + &note);
            return Ok(Decision { action, reason, control, data });
        }
    }

    /// The state after `target` steps: that of the checkpoint to which the run may go back, or what is wrong
    /// with it, or that of its beginning.
    fn state_at(&mut self, target: u64) -> Result<Result<State, ManifestError>, TrainError> {
        if target > 0 {
            // It may still be being written.
            self.saver.wait()?;
            let dir = checkpoint::folder(self.out, target);
            return match open_artifact(&dir, Kind::Checkpoint, Verify::Contents) {
                Ok(_) => checkpoint::read_state(&dir).map(Ok),
                Err(problem) => Ok(Err(problem)),
            };
        }
        let (control, stability) = (control_of(self.job.config, None), None);
        let mut state = State { step: 0, tokens: 0, control, stability, ..self.state()? };
        Data::open(self.job, None, false)?.store(0, &mut state)?;
        Ok(Ok(state))
    }

    /// The data with the controller's share of replay from `state` on, which is put down among the
    /// changes: `None` where the share stays at `now`, and the loader's reason where it cannot be drawn, as
    /// with a replay whose passes are used up.
    fn data_with(
        &self,
        control: &mut ControlState,
        now: f64,
        state: State,
    ) -> Result<Result<Option<Data<'a>>, TokensError>, TrainError> {
        let Some(stages) = state.stages.filter(|_| control.replay != now) else {
            return Ok(Ok(None));
        };
        let passed_over =
            state.stability.map(|stability| stability.passed_over).unwrap_or_default();
        let mut changes = control.changes.clone();
        changes.retain(|change| change.batch != stages.batch);
        changes.push(ReplayChange { batch: stages.batch, replay: control.replay });
        match Data::change(self.job, &changes, &passed_over, &stages) {
            Ok(data) => {
                control.changes = changes;
                Ok(Ok(Some(data)))
            }
            Err(TrainError::Tokens(problem @ TokensError::Stage(..))) => Ok(Err(problem)),
            Err(other) => Err(other),
        }
    }

    /// Whether the checkpoint after `step` outlives the run: the last one below the limit, or one that is
    /// kept for good.
    fn stays(&self, step: u64) -> bool {
        let config = self.job.config;
        let for_good = config.keep_every.is_some_and(|every| step.is_multiple_of(every.0));
        let below = self.control.as_ref().is_some_and(|control| control.below == step);
        step < config.steps.0
            && (for_good || below)
            && open_artifact(
                &checkpoint::folder(self.out, step),
                Kind::Checkpoint,
                Verify::Contents,
            )
            .is_ok()
    }

    /// At the end: measures the average, blends with the base and the best checkpoint below the limit, and
    /// writes the candidate that the recipe's rule chooses.
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
        let limit = limit(self.job.config).map(|limit| limit.percent);
        let metrics = read_metrics(self.out)
            .map_err(|source| TrainError::Io { path: self.out.join(METRICS_FILE), source })?;
        let kept = limit.and_then(|limit| best_below(&metrics, limit, |step| self.stays(step)));
        let kept = kept.map(|step| (format!("step {step}"), checkpoint::folder(self.out, step)));
        names.extend(kept.iter().map(|(name, _)| name.clone()));
        let base = base.weights(&self.job.device)?;
        let weights = |run: &Self, name: &str| match (&run.average, blends.get(name), &kept) {
            (Some(average), ..) if name == "average" => {
                run.network.plain(&average.parameters(&run.parameters)?)
            }
            (_, Some(share), _) => Ok(interpolate(&base, &run.weights()?, 1.0 - share)?),
            (.., Some((kept, dir))) if name == kept => {
                let learned = Learned::load(run.job, run.network, Some(dir))?;
                run.network.plain(&learned.parameters)
            }
            _ => run.weights(),
        };
        let mut candidates = Vec::new();
        for name in &names {
            let began = Instant::now();
            let standing =
                match measure.of(name, &self.network.description, weights(self, name)?, stop) {
                    Err(TrainError::Eval(EvalError::Interrupted)) => {
                        return Err(self.interrupted()?);
                    }
                    measured => measured?,
                };
            progress.line(&format!("{name}: {}", standing.line()));
            self.note_measured(name, began.elapsed().as_secs_f64())?;
            candidates.push(standing);
        }
        let report = ForgettingReport::new(candidates, limit, measure.not_measured().to_vec());
        progress.line(&format!("chosen: {}; {}", report.chosen, report.reason));
        let weights = weights(self, &report.chosen)?;
        let snapshot = self.snapshot()?;
        checkpoint::write_averaged(&self.out.join(CHOSEN_CHECKPOINT), &weights, &snapshot, record)?;
        forgetting::write_report(self.out, &metrics, &report)?;
        Ok(())
    }
}

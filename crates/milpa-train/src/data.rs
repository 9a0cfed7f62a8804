//! What a run reads: the plain loader of a recipe without stages, or the staged one, behind one face.
//!
//! It also says what changed between a training folder and the recipe, and lays the data of a run that
//! is extended. Which sample comes when is `milpa-tokens`' matter.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use milpa_base::{Digest, Kind, Manifest, Seed, artifact::Record, manifest::Verify, open_artifact};
use milpa_tokens::{
    Batch, Loader, LoaderConfig, Order, SourceSet, StagedConfig, StagedLoader, StagedState,
    TokenDataset, TokensError,
};

use crate::{
    checkpoint::{self, State},
    config::TrainConfig,
    control::ReplayChange,
    error::TrainError,
    metrics::Metric,
    replan::{PassedOver, with_changes},
    stages::StageTable,
    trainer::{FINAL_CHECKPOINT, Job},
};

/// Steps after which a line of the metrics says what was read.
const WINDOW: u64 = 16;

/// Token shards that a `[[train.replay]]` names.
#[derive(Debug, Clone, Copy)]
pub struct ReplaySet<'a> {
    /// The name in the recipe.
    pub name: &'a str,
    /// The shards.
    pub dataset: &'a TokenDataset,
}

/// What a run reads.
#[derive(Debug)]
pub(crate) enum Data<'a> {
    Plain(Loader<'a>),
    Staged(StagedLoader<'a>),
}

impl<'a> Data<'a> {
    /// Lays the recipe's data, from the beginning, as a checkpoint has it, or anew from there on.
    pub(crate) fn open(
        job: &Job<'a>,
        checkpoint: Option<&Path>,
        extend: bool,
    ) -> Result<Self, TrainError> {
        let seed = job.seed.derive("data");
        let state = checkpoint.map(checkpoint::read_state).transpose()?;
        let sets = || source_sets(job.config, job.dataset, &job.replay);
        if let Some(loader) = lay(job.config, sets, seed, state.as_ref(), extend)? {
            return Ok(Self::Staged(loader));
        }
        let loader = plain(job, seed)?;
        match state {
            None => {}
            Some(State { loader: Some(position), .. }) => drop(loader.resume(&position)?),
            Some(_) => {
                let message = "the checkpoint is of a run in stages, and the recipe has none";
                return Err(TokensError::OtherPlan(message.to_owned()).into());
            }
        }
        Ok(Self::Plain(loader))
    }

    /// The data of a run whose replay was changed, or which passed over batches, at `state`.
    pub(crate) fn change(
        job: &Job<'a>,
        changes: &[ReplayChange],
        passed_over: &[PassedOver],
        state: &StagedState,
    ) -> Result<Self, TrainError> {
        let config = staged(job.config, changes, passed_over, job.seed.derive("data"))?;
        let config = config.ok_or_else(|| {
            TrainError::Stages("only the data of a run in stages can be changed".to_owned())
        })?;
        let sets = source_sets(job.config, job.dataset, &job.replay)?;
        Ok(Self::Staged(StagedLoader::extend(&sets, &config, state)?))
    }

    pub(crate) fn batch(&self, number: u64) -> Result<Batch, TokensError> {
        match self {
            Self::Plain(loader) => loader.batch(number),
            Self::Staged(loader) => loader.batch(number),
        }
    }

    /// Whether no source is drawn more often than its epochs allow before batch `number`.
    pub(crate) fn check_epochs(&self, number: u64) -> Result<(), TokensError> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Staged(loader) => loader.check_epochs(number),
        }
    }

    /// Whether batch `number` is the first of its stage.
    pub(crate) fn begins_stage(&self, number: u64) -> bool {
        matches!(self, Self::Staged(loader) if loader.begins_stage(number))
    }

    /// Makes what the stage after that of batch `number` begins with.
    pub(crate) fn order_ahead(&self, number: u64) -> Result<(), TokensError> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Staged(loader) => loader.order_ahead(number).map(drop),
        }
    }

    /// Writes the position before batch `number` into a checkpoint's state.
    pub(crate) fn store(&self, number: u64, state: &mut State) -> Result<(), TokensError> {
        match self {
            Self::Plain(loader) => state.loader = Some(loader.state(number)),
            Self::Staged(loader) => state.stages = Some(loader.state(number)?),
        }
        Ok(())
    }

    /// Passes over each source before batch `number`.
    pub(crate) fn epochs(&self, number: u64) -> Result<BTreeMap<String, f64>, TokensError> {
        match self {
            Self::Plain(loader) => Ok(loader.epochs(number)),
            Self::Staged(loader) => loader.epochs(number),
        }
    }

    /// Tokens by source of some batches.
    pub(crate) fn tokens_by_source(
        &self,
        batches: Range<u64>,
        config: &TrainConfig,
    ) -> Result<BTreeMap<String, u64>, TokensError> {
        match self {
            Self::Plain(loader) => Ok(loader.tokens_by_source(batches)),
            Self::Staged(loader) => {
                let (before, after) = (loader.drawn(batches.start)?, loader.drawn(batches.end)?);
                let tokens = |(name, samples): (String, u64)| {
                    let drawn = samples - before.get(&name).copied().unwrap_or(0);
                    (drawn > 0).then_some((name, drawn * config.sequence_length as u64))
                };
                Ok(after.into_iter().filter_map(tokens).collect())
            }
        }
    }

    /// The table of stages; `None` for a run without.
    pub(crate) fn table(&self, config: &TrainConfig) -> Result<Option<StageTable>, TrainError> {
        let Self::Staged(loader) = self else { return Ok(None) };
        let curve = config.curve().map_err(TrainError::Schedule)?;
        Ok(Some(StageTable::new(loader.plan(), &curve)))
    }
}

/// The loader of a run in stages, from the beginning, as a checkpoint has it, or anew from there on; `None`
/// without stages.
fn lay<'a>(
    config: &TrainConfig,
    sets: impl FnOnce() -> Result<Vec<SourceSet<'a>>, TrainError>,
    seed: Seed,
    state: Option<&State>,
    extend: bool,
) -> Result<Option<StagedLoader<'a>>, TrainError> {
    let (changes, passed_over) = state.map_or((&[][..], &[][..]), State::changes);
    let Some(config) = staged(config, changes, passed_over, seed)? else { return Ok(None) };
    let sets = sets()?;
    Ok(Some(match state.and_then(|state| state.stages.as_ref()) {
        None => StagedLoader::new(&sets, &config)?,
        Some(state) if extend => StagedLoader::extend(&sets, &config, state)?,
        Some(state) => StagedLoader::resume(&sets, &config, state)?,
    }))
}

/// What the loader draws, with what was changed on the way.
fn staged(
    config: &TrainConfig,
    changes: &[ReplayChange],
    passed_over: &[PassedOver],
    seed: Seed,
) -> Result<Option<StagedConfig>, TrainError> {
    let changed = with_changes(config, changes, passed_over).map_err(TrainError::Stages)?;
    changed.staged(seed).map_err(TrainError::Stages)
}

fn plain<'a>(job: &Job<'a>, seed: Seed) -> Result<Loader<'a>, TokensError> {
    let config = LoaderConfig {
        sequence_length: job.config.sequence_length,
        batch_size: job.config.batch_size,
        mixture: job.config.mixture.clone(),
        seed,
        order: Order::Shuffled,
    };
    Loader::new(job.dataset, &config)
}

/// The run's own tokens and the sets of its replay.
fn source_sets<'a>(
    config: &TrainConfig,
    dataset: &'a TokenDataset,
    replay: &[ReplaySet<'a>],
) -> Result<Vec<SourceSet<'a>>, TrainError> {
    let mut sets = vec![SourceSet { name: None, dataset }];
    for wanted in config.replay.iter().filter(|wanted| wanted.tokens.is_some()) {
        let Some(set) = replay.iter().find(|set| set.name == wanted.name) else {
            return Err(TrainError::Stages(format!(
                "the tokens of the replay {:?} were not opened",
                wanted.name
            )));
        };
        sets.push(SourceSet { name: Some(wanted.name.clone()), dataset: set.dataset });
    }
    Ok(sets)
}

/// The table of a recipe's stages over its token shards, before anything runs; `None` without stages.
/// With a `checkpoint`, that of the run that goes on from there with this recipe.
///
/// # Errors
/// Stages that cannot be drawn; the message says what to change.
pub fn stage_table(
    config: &TrainConfig,
    dataset: &TokenDataset,
    replay: &[ReplaySet<'_>],
    seed: Seed,
    checkpoint: Option<&Path>,
) -> Result<Option<StageTable>, TrainError> {
    let state = checkpoint.map(checkpoint::read_state).transpose()?;
    let sets = || source_sets(config, dataset, replay);
    let loader = lay(config, sets, seed.derive("data"), state.as_ref(), true)?;
    loader.map_or(Ok(None), |loader| Data::Staged(loader).table(config))
}

/// Gathers what a line of the metrics says of a window of steps. Windows are some steps long, and end
/// with their stage and at every checkpoint, so that lines and checkpoints count the same.
#[derive(Debug, Default)]
pub(crate) struct DataWindow {
    /// Steps done when it began.
    begin: u64,
    step_seconds: f64,
    data_seconds: f64,
    /// The last window's, or this one's as far as it went.
    wait_share: f64,
}

impl DataWindow {
    /// Begins a window after `step` steps.
    pub(crate) fn begin(step: u64) -> Self {
        Self { begin: step, ..Self::default() }
    }

    /// Adds a step; whether its window ends with it.
    pub(crate) fn add(
        &mut self,
        config: &TrainConfig,
        step: u64,
        seconds: f64,
        waited: Duration,
    ) -> bool {
        self.step_seconds += seconds;
        self.data_seconds += waited.as_secs_f64();
        self.wait_share = self.data_seconds / self.step_seconds.max(f64::MIN_POSITIVE);
        step.is_multiple_of(WINDOW) || step == config.steps.0 || config.stage_ends().contains(&step)
    }

    /// Ends the window after `step`, which read the batch before `next_batch`; `None` if it is empty.
    pub(crate) fn end(
        &mut self,
        data: &Data<'_>,
        config: &TrainConfig,
        step: u64,
        next_batch: u64,
    ) -> Result<Option<Metric>, TokensError> {
        let steps = step - self.begin;
        if steps == 0 {
            return Ok(None);
        }
        let line = Metric::Data {
            step,
            first_step: self.begin + 1,
            stage: config.stage_at(step - 1).map(|stage| stage.name.clone()),
            tokens: data.tokens_by_source(next_batch - steps..next_batch, config)?,
            step_seconds: self.step_seconds,
            data_seconds: self.data_seconds,
        };
        *self = Self { begin: step, wait_share: self.wait_share, ..Self::default() };
        Ok(Some(line))
    }

    /// Share of the time that went into waiting for data lately.
    pub(crate) fn wait_share(&self) -> f64 {
        self.wait_share
    }
}

/// The newest whole checkpoint of a training folder, of whatever plan, the final one included.
pub fn newest_of_any_plan(out: &Path) -> Option<(State, PathBuf, Manifest)> {
    let mut found: Vec<_> = checkpoint::list(out).into_iter().map(|(_, path)| path).collect();
    found.push(out.join(FINAL_CHECKPOINT));
    found
        .into_iter()
        .filter_map(|path| {
            let (manifest, _) = open_artifact(&path, Kind::Checkpoint, Verify::Contents).ok()?;
            let state = checkpoint::read_state(&path).ok()?;
            Some((state, path, manifest))
        })
        .max_by_key(|(state, ..)| state.step)
}

/// What is other in the recipe and its data than in a checkpoint: one line each.
pub(crate) fn differences(
    job: &Job<'_>,
    state: &State,
    manifest: &Manifest,
    record: &Record,
) -> Vec<String> {
    let mut lines = Vec::new();
    compare(&manifest.config, &record.config, "", &mut lines);
    let mut names: Vec<&String> = manifest.inputs.keys().chain(record.inputs.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let show = |hash: Option<&Digest>| hash.map_or("not there".to_owned(), Digest::short);
        match (manifest.inputs.get(name), record.inputs.get(name)) {
            (old, now) if old == now => {}
            (Some(_), Some(_)) if name == "seed" => {
                lines.push("the seed is another one".to_owned());
            }
            (old, now) => lines.push(format!("{name}: {} before, {} now", show(old), show(now))),
        }
    }
    let now = from_the_beginning(job, state).and_then(|data| {
        let mut now = state.clone();
        data.store(state.stages.as_ref().map_or(0, |state| state.batch), &mut now)?;
        Ok(now)
    });
    match (now, &state.stages) {
        (Ok(State { stages: Some(now), .. }), Some(old)) => {
            // What the recipe's keys say is said already.
            let of_the_recipe =
                |line: &String| ["train.", "the seed "].iter().any(|start| line.starts_with(start));
            let differences = old.differences(&now);
            lines.extend(differences.into_iter().filter(|line| !of_the_recipe(line)));
        }
        (Err(error), _) => lines.push(error.to_string()),
        _ => {}
    }
    if lines.is_empty() {
        // They draw the same, and are trained on otherwise.
        compare_stages(&manifest.config, &record.config, &mut lines);
    }
    lines
}

/// The recipe's data from the beginning, with what changed on the way to a checkpoint.
fn from_the_beginning<'a>(job: &Job<'a>, state: &State) -> Result<Data<'a>, TrainError> {
    let (changes, passed_over) = state.changes();
    let seed = job.seed.derive("data");
    let Some(config) = staged(job.config, changes, passed_over, seed)? else {
        return Data::open(job, None, false);
    };
    let sets = source_sets(job.config, job.dataset, &job.replay)?;
    Ok(Data::Staged(StagedLoader::new(&sets, &config)?))
}

/// What is said of each stage, one after the other.
fn compare_stages(old: &toml::Table, new: &toml::Table, lines: &mut Vec<String>) {
    let stages = |table| at(table, "train.stage").and_then(toml::Value::as_array);
    let (old, new) = (stages(old), stages(new));
    let count = old.map_or(0, Vec::len).max(new.map_or(0, Vec::len));
    for number in 0..count {
        let stage = |of: Option<&Vec<toml::Value>>| of.and_then(|of| of.get(number)).cloned();
        let name = format!("train.stage {}", number + 1);
        compare_values(stage(old).as_ref(), stage(new).as_ref(), &name, lines);
    }
}

/// Keys of two tables whose values differ; stages are compared as what they draw.
fn compare(old: &toml::Table, new: &toml::Table, prefix: &str, lines: &mut Vec<String>) {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let name = format!("{prefix}{key}");
        if name != "train.stage" {
            compare_values(old.get(key), new.get(key), &name, lines);
        }
    }
}

fn compare_values(
    old: Option<&toml::Value>,
    new: Option<&toml::Value>,
    name: &str,
    lines: &mut Vec<String>,
) {
    match (old, new) {
        (Some(toml::Value::Table(old)), Some(toml::Value::Table(new))) => {
            compare(old, new, &format!("{name}."), lines);
        }
        (old, new) if old == new => {}
        (old, new) => {
            let show = |value: Option<&toml::Value>| {
                value.map_or_else(|| "not there".to_owned(), toml::Value::to_string)
            };
            lines.push(format!("{name} was {} and is {}", show(old), show(new)));
        }
    }
}

/// Says why a checkpoint cannot be gone on with by another plan; what its data says is for the loader.
pub(crate) fn cannot_extend(
    manifest: &Manifest,
    record: &Record,
    state: &State,
    config: &TrainConfig,
) -> Option<String> {
    match (&state.stages, config.stages.is_empty()) {
        (None, false) => return Some("it was begun without stages".to_owned()),
        (Some(_), true) => {
            return Some("it was begun in stages, and the recipe has none".to_owned());
        }
        _ => {}
    }
    let mut lines = Vec::new();
    // What is done of each stage the loader holds against the plan.
    if state.stages.is_none() && state.step > config.steps.0 {
        let (done, wanted) = (state.step, config.steps.0);
        lines.push(format!("{done} steps are done, and train.steps is {wanted}"));
    }
    let (old, new) = (&manifest.config, &record.config);
    for key in FIXED {
        compare_values(at(old, key), at(new, key), key, &mut lines);
    }
    for name in ["tokenizer", "seed", "base"] {
        if manifest.inputs.get(name) != record.inputs.get(name) {
            lines.push(format!("the {name} is another one"));
        }
    }
    let limit = config.forgetting.as_ref().and_then(|forgetting| forgetting.limit.as_ref());
    let moved = at(old, "train.forgetting.limit.replay").and_then(toml::Value::as_str);
    if state.control.as_ref().is_some_and(|control| !control.changes.is_empty())
        && moved != limit.map(|limit| &*limit.replay)
    {
        lines.push(
            "its limit on forgetting has moved the share of replay: keep train.forgetting.limit, and raise \
             its percent"
                .to_owned(),
        );
    } else if let (Some(control), Some(limit)) = (&state.control, limit)
        && !control.changes.is_empty()
        && replay_share(old, &limit.replay) != replay_share(new, &limit.replay)
    {
        lines.push(format!(
            "its limit on forgetting has moved the share of replay of {:?} to {:.1} % since, so another one in \
             [[train.replay]] would say nothing: leave it as it was",
            limit.replay,
            control.replay * 100.0
        ));
    }
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// Keys of a run's resolved table that what is trained depends on.
const FIXED: [&str; 6] = [
    "model",
    "train.optimizer.kind",
    "train.optimizer.state_precision",
    "train.mup",
    "train.lora",
    "train.sequence_length",
];

/// The share of a `[[train.replay]]` in a run's resolved table.
fn replay_share(table: &toml::Table, name: &str) -> Option<f64> {
    let sets = at(table, "train.replay")?.as_array()?;
    let set = sets.iter().find(|set| set.get("name").and_then(toml::Value::as_str) == Some(name));
    set?.get("share")?.as_float()
}

/// The value at a dotted key.
fn at<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    let mut parts = key.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

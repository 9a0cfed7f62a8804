//! The training loop.
//!
//! Each step: the loader's batch, forward and backward by micro-batches, one clipped optimiser
//! step, one line of metrics. What is random comes from the seed and the step's number, so the
//! state to save is small and a resumed run takes the very same steps.

mod against_base;
mod mirror;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use milpa_base::{
    Digest, Kind, Manifest, Progress, RunLock, Seed, StopFlag,
    artifact::Record,
    copy_artifact, hash_bytes,
    manifest::Verify,
    open_artifact,
    units::{binary_bytes, duration},
    write_file_atomic,
};
use milpa_model::{
    Decoder, DecoderDescription, DecoderError, Device, LossRows, LossSummary, ParameterStore,
    QkNorm, TokenBatch,
};
use milpa_plan::{ModelShape, TrainShape};
use milpa_tensor::{IGNORE, TensorError, clip_factor};
use milpa_tokens::{Batch, Packing, Split, StagedState, TokenDataset, Tokenizer, TokensError};
use serde::Serialize;

use self::against_base::{limit, recipe_replay};
use crate::{
    average::Average,
    base::{Network, Start},
    checkpoint::{self, Snapshot, State},
    config::{Precision, TrainConfig},
    control::{ControlState, ReplayChange},
    data::{self, Data, DataWindow, ReplaySet},
    error::TrainError,
    feed::Feed,
    forgetting::{self, ForgettingReport, Measure},
    metrics::{Known, Metric, MetricsWriter, OnMetric, loss_curve, read_metrics, step_seconds},
    mup::WidthRatio,
    non_finite,
    optimizer::OptimizerState,
    replan::PassedOver,
    retention::Retention,
    saver::Saver,
    schedule::Curve,
    stability::{StabilityState, Verdict},
    watchdog::{Activity, Pulse},
};

/// Name of the final checkpoint in the training folder.
pub const FINAL_CHECKPOINT: &str = "checkpoint";
/// Name of the checkpoint of the averaged weights, if the recipe asks for an average.
pub const AVERAGED_CHECKPOINT: &str = "checkpoint-average";
/// Name of the checkpoint that the recipe's `[train.forgetting]` chose at the end.
pub const CHOSEN_CHECKPOINT: &str = "checkpoint-chosen";
/// File that says which run a training folder belongs to.
const KEY_FILE: &str = "key";
/// A step that reaches more than this share of the measured peak casts doubt on the measurement.
const CREDIBLE_UTILISATION: f64 = 0.85;
/// How often a step is shown to people; every step is in the metrics.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// What to do about a folder that holds a run with another plan or other data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChangedPlan<'a> {
    /// Refuse: nothing that is trained is given up, and nothing becomes other unasked.
    #[default]
    Refuse,
    /// Go on from its newest checkpoint with the new plan; what was read stays counted.
    Extend,
    /// Begin at this checkpoint of another run, which stays as it is, with the new plan: one of a plateau
    /// can so become several anneals. The folder has to be empty, or to hold this fork.
    Fork(&'a Path),
    /// Set it aside and begin anew.
    Anew,
}

/// What is called with a step and the parameters once their gradients are there.
pub type OnGradients<'a> = &'a dyn Fn(u64, &mut ParameterStore);

/// What a run is a function of, and where it computes.
pub struct Job<'a> {
    /// Steps, schedule, optimiser.
    pub config: &'a TrainConfig,
    /// What the run begins with.
    pub start: Start<'a>,
    /// The tokenizer of the token shards.
    pub tokenizer: &'a Tokenizer,
    /// The token shards.
    pub dataset: &'a TokenDataset,
    /// The token shards that the recipe's replay names.
    pub replay: Vec<ReplaySet<'a>>,
    /// The token shards of general text that the recipe's `[train.forgetting]` names.
    pub general: Option<&'a TokenDataset>,
    /// What becomes of a run in the folder whose plan or data is other than these.
    pub changed_plan: ChangedPlan<'a>,
    /// Seed of the weights and of the data's order.
    pub seed: Seed,
    /// Licences of the text, for the checkpoint's manifest.
    pub licences: Vec<String>,
    /// Where to compute.
    pub device: Device,
    /// The machine's measured peak in the run's precision, for the utilisation shown.
    pub peak_flops_per_second: f64,
    /// Measures the peak again; asked when training comes so near to the one above that other
    /// work must have disturbed its measurement.
    pub measure_peak: &'a dyn Fn() -> f64,
    /// A second folder that gets a verified copy of each checkpoint, on another disk for example;
    /// a run that finds none of its own goes on from there. It holds one run, as the training folder does.
    pub mirror: Option<&'a Path>,
    /// Told what training is doing, for a [`crate::Watchdog`].
    pub pulse: &'a Pulse,
    /// Called with the step (from 1) and the parameters once their gradients are there, before they
    /// are judged: to look at them, or to damage them in a test.
    pub on_gradients: Option<OnGradients<'a>>,
    /// Told of every line of the metrics.
    pub on_metric: Option<OnMetric<'a>>,
}

/// How a run ended.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Steps in all.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The final checkpoint.
    pub checkpoint: PathBuf,
    /// Identity of the final checkpoint.
    pub digest: Digest,
    /// Mean training loss of the last fiftieth of the steps, in nats per token.
    pub final_loss: Option<f64>,
    /// Validation bits per byte by source at the end.
    pub validation_bits_per_byte: BTreeMap<String, f64>,
    /// Median tokens per second over the steps.
    pub median_tokens_per_second: f64,
    /// Share of the time of steps in which training waited for checkpoints.
    pub checkpoint_stall: f64,
    /// What was forgotten and learned, and what was chosen, if the recipe asks for it.
    pub forgetting: Option<ForgettingReport>,
    /// Passes over each source.
    pub epochs: BTreeMap<String, f64>,
    /// Share of the steps' time that was waiting for data.
    pub data_wait_share: f64,
}

impl Summary {
    /// The summary of a run in `out` that kept its limit on forgetting, if it had one.
    fn within_limit(self, out: &Path) -> Result<Self, TrainError> {
        let above = self.forgetting.as_ref().and_then(|report| report.above_limit(&self, out));
        above.map_or(Ok(self), Err)
    }
}

/// The planner's view of a dense model.
pub fn model_shape(model: impl Into<DecoderDescription>) -> ModelShape {
    let model = model.into();
    ModelShape {
        hidden_size: model.hidden_size as u64,
        layers: model.layers.len() as u64,
        heads: model.heads as u64,
        kv_heads: model.kv_heads as u64,
        head_dim: model.head_dim as u64,
        ffn_size: model.ffn_size as u64,
        gated_ffn: true,
        vocab_size: model.vocab_size as u64,
        positions: 0,
        biases: false,
        qk_norm: model.qk_norm != QkNorm::None,
        tie_embeddings: model.tie_embeddings,
    }
}

/// The planner's view of a run of a model.
///
/// # Errors
/// An adapter that does not fit the model.
pub fn train_shape(
    config: &TrainConfig,
    model: &DecoderDescription,
) -> Result<TrainShape, TrainError> {
    let adapter = config.lora.as_ref().map(|adapter| adapter.shape(model));
    Ok(TrainShape {
        adapter: adapter.transpose()?,
        sequence_length: config.sequence_length as u64,
        batch_size: config.batch_size as u64,
        micro_batch_size: config.micro_batch_size() as u64,
        // Stages may have batches of their own; what counts are the tokens.
        steps: config.tokens_after(config.steps.0)
            / (config.batch_size * config.sequence_length).max(1) as u64,
        states_per_matrix_parameter: config.optimizer.states_per_matrix_parameter(),
        states_per_other_parameter: config.optimizer.states_per_other_parameter(),
        weight_averages: u64::from(config.average.is_some()),
        activation_bytes: match config.precision {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        },
    })
}

/// Trains, or goes on where a cut run stopped.
///
/// # Errors
/// Besides damaged inputs and full disks: [`TrainError::Interrupted`] after a stop, with the state
/// saved, and [`TrainError::Diverged`] if the loss is no number, or [`TrainError::Unstable`] if the
/// recipe's skipping and going back do not help; [`TrainError::ForgetsTooMuch`] where the limit on
/// forgetting cannot be held, and [`TrainError::AboveLimit`] for a complete run that ended above it.
pub fn train(
    job: &Job<'_>,
    out: &Path,
    progress: &dyn Progress,
    stop: &StopFlag,
) -> Result<Summary, TrainError> {
    match (&job.config.mup, job.start) {
        (Some(mup), Start::New(model)) => mup.validate(model).map_err(TrainError::Mup)?,
        (Some(_), Start::Base(_)) => {
            let message = "a base has its first values already, so its rates are its own";
            return Err(TrainError::Mup(message.to_owned()));
        }
        (None, _) => {}
    }
    let record = record(job)?;
    let key = record.key.expect("a record made with new() has its key");
    let extended = checkpoint_of_another_plan(job, out, &record)?;
    if extended.is_none() && read_key(out, key)? != key.to_string() {
        // A new run: data that cannot be drawn is refused before the folders are touched.
        Data::open(job, None, false)?;
    }
    let _mirror_lock = mirror::claim(job, out, key, extended.is_some(), progress)?;
    if extended.is_none() {
        claim_folder(out, key, progress)?;
    }
    let _lock = RunLock::acquire(out)?;
    for folder in job.mirror.into_iter().chain([out]) {
        checkpoint::tidy(folder)?;
    }
    let final_dir = out.join(FINAL_CHECKPOINT);
    let whole = |dir: &Path| match open_artifact(dir, Kind::Checkpoint, Verify::Contents) {
        Ok((manifest, digest)) if manifest.key == key => Some(digest),
        _ => None,
    };
    let complete = whole(&final_dir);
    // What was chosen may be lost by itself; then the choice is made again from the final state.
    let is_chosen = job.config.forgetting.is_none()
        || whole(&out.join(CHOSEN_CHECKPOINT)).is_some()
            && forgetting::read_forgetting(out)?.is_some();
    let resumed = match (complete, &extended) {
        (Some(_), _) => Some(final_dir),
        (None, Some(dir)) => Some(dir.clone()),
        (None, None) => checkpoint::newest(out, job.mirror, key, progress)?.map(|(_, dir)| dir),
    };
    if let Some(mirror) = job.mirror {
        checkpoint::catch_up(out, mirror, key)?;
    }
    let network = Network::of(job.start, job.config.lora.as_ref())?;
    let data = Arc::new(Data::open(job, resumed.as_deref(), extended.is_some())?);
    if let Some(table) = data.table(job.config)? {
        table.to_string().lines().for_each(|line| progress.line(line));
    }
    if let Some(digest) = complete.filter(|_| is_chosen) {
        progress.line("training is complete already");
        return summary(job, &data, out, digest)?.within_limit(out);
    }
    let measure = Measure::open(job, out, progress, stop)?;
    let (digest, data) = thread::scope(|scope| {
        let threads = Threads {
            feed: Feed::new(scope, Arc::clone(&data)),
            saver: Saver::new(scope, out, job.mirror, &record),
        };
        let mut run = Run::start_or_resume(
            job,
            &network,
            Arc::clone(&data),
            threads,
            out,
            resumed.as_deref(),
            progress,
        )?;
        run.hold_against(measure.as_ref())?;
        if extended.is_some() {
            // The checkpoint under the new key comes first: whoever is cut between the two extends
            // once more.
            run.begins_here();
            forgetting::remove_report(out)?;
            if let ChangedPlan::Fork(from) = job.changed_plan {
                let (_, digest) = open_artifact(from, Kind::Checkpoint, Verify::Lengths)?;
                (run.forked_from, run.went_back) = (Some(digest), 0);
            }
            run.save()?;
            run.saver.wait()?;
            for folder in job.mirror.into_iter().chain([out]) {
                write_key(folder, &key.to_string())?;
            }
            progress.line(&format!("going on with the new plan after step {}", run.step));
        }
        run.train_to_end(&record, progress, stop)
    })?;
    let curve = loss_curve(
        &read_metrics(out)
            .map_err(|source| TrainError::Io { path: out.join(crate::METRICS_FILE), source })?,
    );
    write_file_atomic(&out.join("loss.svg"), curve.as_bytes())?;
    summary(job, &data, out, digest)?.within_limit(out)
}

fn record(job: &Job<'_>) -> Result<Record, TrainError> {
    #[derive(Serialize)]
    struct Resolved<'a> {
        model: toml::Value,
        train: &'a TrainConfig,
    }
    let mut inputs = BTreeMap::from([
        ("tokens".to_owned(), job.dataset.digest()),
        ("tokenizer".to_owned(), job.tokenizer.hash()),
        ("seed".to_owned(), hash_bytes(&job.seed.0.to_le_bytes())),
    ]);
    if let Some(base) = job.start.base() {
        inputs.insert("base".to_owned(), base.digest());
    }
    if let Some(general) = job.general {
        inputs.insert("general text".to_owned(), general.digest());
    }
    for set in &job.replay {
        inputs.insert(format!("replay {}", set.name), set.dataset.digest());
    }
    if let Some(forgetting) = &job.config.forgetting {
        inputs.extend(forgetting.task_hashes()?);
    }
    let resolved = Resolved { model: job.start.table()?, train: &job.config.in_key() };
    let mut record = Record::new("train", &resolved, inputs)?;
    record.licences.clone_from(&job.licences);
    Ok(record)
}

/// Makes the folder this run's. A folder of another run is moved aside, not overwritten: its
/// checkpoints may have taken days.
fn claim_folder(out: &Path, key: Digest, progress: &dyn Progress) -> Result<(), TrainError> {
    let old = read_key(out, key)?;
    if !old.is_empty() && old != key.to_string() {
        let aside = set_aside(out, &old)
            .map_err(|source| TrainError::Io { path: out.to_owned(), source })?;
        progress.line(&format!(
            "the configuration or the data changed: the earlier training is kept in {}",
            aside.display()
        ));
    }
    write_key(out, &key.to_string())
}

/// Gives a folder another name, beside its own, that has the beginning of its run's key in it.
fn set_aside(folder: &Path, key: &str) -> io::Result<PathBuf> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let key: String = key.chars().take(12).collect();
    let mut aside = folder.with_file_name(format!("{name}-{key}"));
    let mut number = 2;
    while aside.exists() {
        aside = folder.with_file_name(format!("{name}-{key}-{number}"));
        number += 1;
    }
    fs::rename(folder, &aside)?;
    Ok(aside)
}

fn write_key(folder: &Path, key: &str) -> Result<(), TrainError> {
    Ok(write_file_atomic(&folder.join(KEY_FILE), key.as_bytes())?)
}

/// The key of the run in a folder; empty if there is none. Without a file that says it, the checkpoints do,
/// those of another run than `own` first: somebody may have copied one there.
fn read_key(folder: &Path, own: Digest) -> Result<String, TrainError> {
    let path = folder.join(KEY_FILE);
    match fs::read_to_string(&path) {
        Ok(key) if !key.trim().is_empty() => return Ok(key.trim().to_owned()),
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(TrainError::Io { path, source });
        }
        _ => {}
    }
    let keys = checkpoint::keys(folder);
    let key = keys.iter().find(|key| **key != own).or(keys.first());
    Ok(key.map_or_else(String::new, Digest::to_string))
}

/// The checkpoint of another plan from which the run goes on with its own, if it does so.
///
/// # Errors
/// A run of another plan about which nothing is said, or which cannot be gone on with.
fn checkpoint_of_another_plan(
    job: &Job<'_>,
    out: &Path,
    record: &Record,
) -> Result<Option<PathBuf>, TrainError> {
    let own = record.key.expect("a record made with new() has its key");
    let key = read_key(out, own)?;
    let is_own = key == own.to_string();
    let cannot_extend = |manifest: &Manifest, state: &State| {
        data::cannot_extend(manifest, record, state, job.config)
    };
    if let ChangedPlan::Fork(from) = job.changed_plan {
        if is_own || key.is_empty() {
            return fork(job, out, from, record);
        }
        let state = data::newest_of_any_plan(out).map(|(state, ..)| state);
        let (_, digest) = open_artifact(from, Kind::Checkpoint, Verify::Lengths)?;
        if state.and_then(|state| state.forked_from) != Some(digest) {
            return Err(TrainError::Occupied { path: out.to_owned(), from: from.to_owned() });
        }
    }
    if key.is_empty() || is_own || job.changed_plan == ChangedPlan::Anew {
        return Ok(None);
    }
    let Some((state, dir, manifest)) = data::newest_of_any_plan(out) else { return Ok(None) };
    let path = out.to_owned();
    if job.changed_plan != ChangedPlan::Extend {
        let differences = data::differences(job, &state, &manifest, record).join("\n  ");
        return Err(TrainError::OtherPlan { path, step: state.step, differences });
    }
    match cannot_extend(&manifest, &state) {
        Some(message) => Err(TrainError::CannotExtend { path, message }),
        None => Ok(Some(dir)),
    }
}

/// The checkpoint of another run at which a fork begins in a folder that holds no other run; `None` where
/// it is under way, in its folder or its mirror.
///
/// # Errors
/// A run that began elsewhere, or a checkpoint that cannot be gone on with.
fn fork(
    job: &Job<'_>,
    out: &Path,
    from: &Path,
    record: &Record,
) -> Result<Option<PathBuf>, TrainError> {
    let path = from.to_owned();
    let opened = |verify| open_artifact(from, Kind::Checkpoint, verify);
    if let Some(state) = record.key.and_then(|key| checkpoint::state_of(out, job.mirror, key)) {
        // The run that was forked may be gone by now.
        return match opened(Verify::Lengths) {
            Ok((_, digest)) if state.forked_from != Some(digest) => {
                Err(TrainError::Occupied { path: out.to_owned(), from: path })
            }
            _ => Ok(None),
        };
    }
    let (manifest, _) = opened(Verify::Contents)?;
    if !from.join(checkpoint::STATE_FILE).exists() {
        let message = "it holds weights alone (an average or a blend); name it as the [base] of a recipe to \
                       begin with its weights";
        return Err(TrainError::CannotExtend { path, message: message.to_owned() });
    }
    match data::cannot_extend(&manifest, record, &checkpoint::read_state(from)?, job.config) {
        Some(message) => Err(TrainError::CannotExtend { path, message }),
        None => Ok(Some(path)),
    }
}

/// What a run has learned: what a checkpoint holds, or its beginning.
struct Learned {
    parameters: ParameterStore,
    optimizer: OptimizerState,
    average: Option<Average>,
    /// Steps done.
    step: u64,
    stability: StabilityState,
    control: Option<ControlState>,
    /// The step before which it never goes back.
    origin: u64,
    /// The last step that was held against the base.
    measured: Option<u64>,
    went_back: u64,
    /// The checkpoint at which it was forked.
    forked_from: Option<Digest>,
}

impl Learned {
    fn load(job: &Job<'_>, network: &Network, dir: Option<&Path>) -> Result<Self, TrainError> {
        let width = WidthRatio::of(job.config.mup, network.description.hidden_size);
        let Some(dir) = dir else {
            let mut parameters = network.begin(job.start, job.seed, &job.device)?;
            width.scale_new(&job.config.optimizer, &mut parameters)?;
            let optimizer = OptimizerState::new(job.config.optimizer, &parameters).at_width(width);
            let average = job.config.average.map(|config| Average::new(config, &parameters));
            let stability = StabilityState::default();
            let control = control_of(job.config, None);
            return Ok(Self {
                parameters,
                optimizer,
                average,
                step: 0,
                stability,
                control,
                origin: 0,
                measured: None,
                went_back: 0,
                forked_from: None,
            });
        };
        let (parameters, optimizer, average, state) =
            checkpoint::read(dir, network, job.start, job.config, &job.device)?;
        let beginning = StabilityState { updates: state.step, ..StabilityState::default() };
        let stability = state.stability.unwrap_or(beginning);
        let optimizer = optimizer.at_width(width);
        let State { step, origin, measured, went_back, forked_from, .. } = state;
        let control = control_of(job.config, state.control);
        Ok(Self {
            parameters,
            optimizer,
            average,
            step,
            stability,
            control,
            origin,
            measured,
            went_back,
            forked_from,
        })
    }
}

/// What the controller remembers, under a limit: one that was set later begins with nothing.
fn control_of(config: &TrainConfig, before: Option<ControlState>) -> Option<ControlState> {
    let limit = limit(config)?;
    Some(before.unwrap_or_else(|| ControlState::new(recipe_replay(config, limit))))
}

/// What works beside the loop.
struct Threads<'scope, 'a> {
    feed: Feed<'scope, 'a>,
    saver: Saver<'scope, 'a>,
}

/// A run under way.
struct Run<'scope, 'a> {
    job: &'a Job<'a>,
    network: &'a Network,
    data: Arc<Data<'a>>,
    feed: Feed<'scope, 'a>,
    measure: Option<&'a Measure<'a>>,
    /// The last step that was held against the base.
    measured: Option<u64>,
    control: Option<ControlState>,
    /// The step at which the plan began, or the run was extended or forked.
    origin: u64,
    /// How often it went back in this folder.
    went_back: u64,
    forked_from: Option<Digest>,
    out: &'a Path,
    decoder: Decoder,
    parameters: ParameterStore,
    optimizer: OptimizerState,
    average: Option<Average>,
    curve: Curve,
    metrics: MetricsWriter<'a>,
    /// Steps done.
    step: u64,
    stability: StabilityState,
    /// Steps that this process has taken, those that were undone included.
    steps_taken: u64,
    started: Instant,
    last_line: Option<Instant>,
    saver: Saver<'scope, 'a>,
    retention: Retention,
    /// Most bytes that a checkpoint's copy held outside the device.
    copied_bytes: usize,
    validated: Option<u64>,
    data_window: DataWindow,
    flops_per_token: f64,
    peak_flops_per_second: f64,
    peak_measurements_left: u32,
}

impl<'scope, 'a> Run<'scope, 'a> {
    fn start_or_resume(
        job: &'a Job<'a>,
        network: &'a Network,
        data: Arc<Data<'a>>,
        threads: Threads<'scope, 'a>,
        out: &'a Path,
        resumed: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let Learned {
            parameters,
            optimizer,
            average,
            step,
            stability,
            control,
            origin,
            measured,
            went_back,
            forked_from,
        } = Learned::load(job, network, resumed)?;
        if let Some(dir) = resumed {
            progress.line(&format!("resuming after step {step} from {}", dir.display()));
        }
        let Threads { feed, saver } = threads;
        let curve = job.config.curve().map_err(TrainError::Schedule)?;
        let known = Known { step, measured, went_back };
        let (metrics, before) = MetricsWriter::open(out, known, job.on_metric)?;
        let mut retention = Retention::new(job.config, &curve);
        retention.begins_at(origin);
        let percent = limit(job.config).map(|limit| limit.percent);
        for metric in before {
            match metric {
                Metric::Validation { step, bits_per_byte, .. } => {
                    retention.validated(step, &bits_per_byte);
                }
                Metric::Forgetting { step, forgetting, forgetting_interval, .. } => {
                    let high = forgetting_interval.map_or(forgetting, |(_, high)| high);
                    if percent.is_some_and(|percent| high <= percent) {
                        retention.below_limit(step);
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            decoder: network.decoder(&parameters)?.autocast(job.config.precision.dtype()),
            curve,
            metrics,
            retention,
            saver,
            copied_bytes: 0,
            parameters,
            optimizer,
            average,
            step,
            stability,
            steps_taken: 0,
            started: Instant::now(),
            last_line: None,
            validated: (step > 0).then_some(step),
            flops_per_token: train_shape(job.config, &network.description)?
                .flops_per_token(&model_shape(&network.description)),
            peak_flops_per_second: job.peak_flops_per_second,
            peak_measurements_left: 5,
            data_window: DataWindow::begin(step),
            job,
            network,
            data,
            feed,
            measure: None,
            measured,
            control,
            origin,
            went_back,
            forked_from,
            out,
        })
    }

    /// Makes this step the one before which the run never goes back: its checkpoints are of another plan.
    fn begins_here(&mut self) {
        self.origin = self.step;
        self.retention.begins_at(self.origin);
        if let (Some(control), Some(limit)) = (&mut self.control, limit(self.job.config)) {
            // The new plan may have more to replay.
            control.most_replay = None;
            if control.changes.is_empty() {
                let replay = recipe_replay(self.job.config, limit);
                (control.replay, control.least_replay) = (replay, replay);
            }
        }
    }

    /// Trains to the end, or to a stop; the identity of the final checkpoint.
    fn train_to_end(
        mut self,
        record: &Record,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<(Digest, Arc<Data<'a>>), TrainError> {
        let (job, out) = (self.job, self.out);
        let (steps, every) = (job.config.steps.0, job.config.checkpoint_every.0);
        self.validate_if_due(progress)?;
        let resumed = (self.step, self.measured);
        self.measure_if_due(progress, stop)?;
        let (step, is_measured) = (self.step, self.measured != resumed.1);
        if is_measured && step == resumed.0 && step.is_multiple_of(every) && step < steps {
            // The stop was within the measurement: the checkpoint does not know what followed from it.
            self.save()?;
        }
        while self.step < steps {
            if stop.is_set() {
                return Err(self.interrupted()?);
            }
            let before = self.step;
            self.take_step(progress)?;
            if self.step <= before {
                continue;
            }
            self.validate_if_due(progress)?;
            self.measure_if_due(progress, stop)?;
            if self.step <= before {
                continue;
            }
            if self.step.is_multiple_of(every) && self.step < steps {
                self.save()?;
            }
            self.saver.poll()?;
        }
        self.saver.wait()?;
        job.pulse.beat(self.step, Activity::Finishing);
        self.end_data_window()?;
        self.choose(record, progress, stop)?;
        let snapshot = self.snapshot()?;
        let is_chosen = self.measure.is_some() && job.start.base().is_some();
        if let Some(average) = &self.average {
            let averaged = self.network.plain(&average.parameters(&self.parameters)?)?;
            let dir = out.join(AVERAGED_CHECKPOINT);
            checkpoint::write_averaged(&dir, &averaged, &snapshot, record)?;
        }
        let final_dir = out.join(FINAL_CHECKPOINT);
        // What an earlier plan came to is not this one's.
        let earlier =
            [(CHOSEN_CHECKPOINT, is_chosen), (AVERAGED_CHECKPOINT, self.average.is_some())];
        for (name, _) in earlier.into_iter().filter(|(_, is_own)| !is_own) {
            for folder in [Some(out), job.mirror].into_iter().flatten() {
                checkpoint::remove(&folder.join(name))?;
            }
        }
        let digest = checkpoint::write(&final_dir, &snapshot, record)?;
        if let Some(mirror) = job.mirror {
            for name in checkpoint::FINAL_NAMES {
                if out.join(name).exists() {
                    copy_artifact(&out.join(name), &mirror.join(name))?;
                }
            }
        }
        // A stop may have saved a checkpoint off the schedule; what stays must not depend on it.
        let mut keep = self.retention.keep(steps - 1);
        keep.retain(|step| step.is_multiple_of(every));
        // The mirror first: what it lacks after a cut is copied there again.
        for folder in job.mirror.into_iter().chain([out]) {
            checkpoint::prune(folder, &keep)?;
        }
        Ok((digest, self.data))
    }

    /// Saves where a stop was asked for.
    fn interrupted(&mut self) -> Result<TrainError, TrainError> {
        let checkpoint = self.save()?;
        self.saver.wait()?;
        let steps = self.job.config.steps.0;
        Ok(TrainError::Interrupted { step: self.step, steps, checkpoint })
    }

    fn take_step(&mut self, progress: &dyn Progress) -> Result<(), TrainError> {
        let config = self.job.config;
        let began = Instant::now();
        self.job.pulse.beat(self.step, Activity::Data);
        let (batch, data_wait) = self.feed.take(self.next_batch())?;
        let Losses { loss, z_loss } =
            self.accumulate_gradients(&batch, Decoder::loss_and_gradients)?;
        if let Some(on_gradients) = self.job.on_gradients {
            on_gradients(self.step + 1, &mut self.parameters);
        }
        self.job.pulse.beat(self.step, Activity::Update);
        let gradient_norm = self.parameters.grad_norm();
        let origin = if loss.is_finite() && gradient_norm.is_finite() {
            String::new()
        } else {
            self.trace(&batch, loss)?
        };
        let verdict = self.judge(loss, gradient_norm, &origin)?;
        let slowed = self.control.as_ref().map_or(1.0, |control| control.learning_rate);
        let share = self.curve.share_at(self.step) * slowed;
        if verdict == Verdict::Take {
            let scale = if config.clip_norm > 0.0 {
                clip_factor(gradient_norm, config.clip_norm)
            } else {
                1.0
            };
            self.optimizer.step(&mut self.parameters, self.stability.updates, share, scale)?;
            if let Some(average) = &mut self.average {
                average.update(&self.parameters);
            }
        }
        self.parameters.clear_grads();
        self.step += 1;
        self.steps_taken += 1;

        let seconds = began.elapsed().as_secs_f64();
        let tokens_per_second = (batch.batch_size * batch.sequence_length) as f64 / seconds;
        let learning_rate = config.optimizer.learning_rate() * share;
        let flops_per_second = tokens_per_second * self.flops_per_token;
        if flops_per_second > CREDIBLE_UTILISATION * self.peak_flops_per_second
            && self.peak_measurements_left > 0
        {
            self.peak_measurements_left -= 1;
            self.peak_flops_per_second = self.peak_flops_per_second.max((self.job.measure_peak)());
        }
        let mfu = flops_per_second / self.peak_flops_per_second;
        let memory_bytes = (self.job.device.memory().peak_live_bytes + self.copied_bytes) as u64;
        self.metrics.write(&Metric::Step {
            step: self.step,
            tokens: self.tokens(),
            loss,
            z_loss: (config.z_loss > 0.0).then_some(z_loss),
            learning_rate,
            gradient_norm,
            skipped: verdict != Verdict::Take,
            tokens_per_second,
            mfu,
            memory_bytes,
            seconds: self.started.elapsed().as_secs_f64(),
            unix_seconds: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            data_seconds: data_wait.as_secs_f64(),
        })?;
        if self.data_window.add(config, self.step, seconds, data_wait) {
            self.end_data_window()?;
        }
        if verdict != Verdict::Take {
            progress.line(&format!(
                "step {} is an outlier and was skipped: loss {loss:.4}, norm of the gradient \
                 {gradient_norm:.3}{}",
                self.step,
                if origin.is_empty() { origin } else { format!(" ({origin})") }
            ));
        }
        if let (Verdict::RollBack, Some(stability)) = (verdict, &config.stability) {
            if self.stability.rollbacks == stability.max_rollbacks {
                return Err(TrainError::Unstable {
                    step: self.step,
                    loss,
                    gradient_norm,
                    rollbacks: stability.max_rollbacks,
                });
            }
            return self.roll_back(progress);
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        if due || self.step == config.steps.0 {
            self.last_line = Some(Instant::now());
            let done = self.steps_taken as f64;
            let left = (config.steps.0 - self.step) as f64;
            let age = self.saver.last().map_or_else(String::new, |saved| {
                format!(", saved {} ago", duration(saved.elapsed().as_secs_f64()))
            });
            progress.status(&format!(
                "step {}/{}{}  loss {loss:.4}  lr {learning_rate:.2e}  {tokens_per_second:.0} tok/s  \
                 MFU {:.0} %  data wait {:.1} %  {}  eta {}{age}",
                self.step,
                config.steps.0,
                config.stage_at(self.step - 1).map_or_else(String::new, |s| format!(" ({})", s.name)),
                mfu * 100.0,
                self.data_window.wait_share() * 100.0,
                binary_bytes(memory_bytes),
                duration(self.started.elapsed().as_secs_f64() / done * left),
            ));
        }
        Ok(())
    }

    /// Says what becomes of a step, and counts it.
    fn judge(
        &mut self,
        loss: f64,
        gradient_norm: f64,
        origin: &str,
    ) -> Result<Verdict, TrainError> {
        if let Some(config) = &self.job.config.stability {
            if self.job.config.stage_ends().contains(&self.step) {
                // Another batch size or mixture has other losses and norms: those before say nothing of it.
                self.stability.window.clear();
            }
            return Ok(self.stability.judge(config, loss, gradient_norm));
        }
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            let origin = origin.to_owned();
            return Err(TrainError::Diverged { step: self.step + 1, loss, gradient_norm, origin });
        }
        self.stability.updates += 1;
        Ok(Verdict::Take)
    }

    /// The step of the last whole checkpoint on schedule up to `step`, or where the plan began.
    fn whole_checkpoint(&mut self, step: u64) -> Result<u64, TrainError> {
        // It may still be being written.
        self.saver.wait()?;
        let every = self.job.config.checkpoint_every.0;
        let found = checkpoint::list(self.out).into_iter().find(|(at, dir)| {
            (self.origin..=step).contains(at)
                && at.is_multiple_of(every)
                && open_artifact(dir, Kind::Checkpoint, Verify::Contents).is_ok()
        });
        Ok(found.map_or(self.origin, |(at, _)| at))
    }

    /// Goes back to the last checkpoint on schedule before the skipped steps, or to where the plan began,
    /// and passes over all data read since; in a run in stages it is planned once more, so that each stage
    /// keeps its tokens. Where it goes depends on steps alone, so a run that is cut before that is saved goes
    /// back again in the same way.
    fn roll_back(&mut self, progress: &dyn Progress) -> Result<(), TrainError> {
        let from_step = self.step;
        let every = self.job.config.checkpoint_every.0;
        let target = (from_step - self.stability.skipped_in_a_row) / every * every;
        let target = self.whole_checkpoint(target.max(self.origin))?;
        let (before, controlled) = (self.stability.clone(), self.control.clone());
        let (position, data) = (self.state()?.stages, Arc::clone(&self.data));
        let learned = self.go_back(target)?;
        self.stability = StabilityState {
            batches_passed_over: before.batches_passed_over + (from_step - target),
            rollbacks: before.rollbacks + 1,
            passed_over: before.passed_over,
            ..learned
        };
        if let (Some(known), Some(then)) = (&controlled, &mut self.control)
            && known.rollbacks > then.rollbacks
        {
            // What led the controller back since then stays known.
            let ControlState { last, below, .. } = *then;
            *then = ControlState { last, below, ..known.clone() };
        }
        self.plan_again(position, data, controlled, from_step - target, progress)?;
        progress.line(&format!(
            "{} steps in a row were skipped: back to step {target}, passing over the data since",
            before.skipped_in_a_row
        ));
        self.went_back += 1;
        self.metrics.write(&Metric::Rollback {
            step: target + 1,
            from_step,
            batches_passed_over: self.stability.batches_passed_over,
        })?;
        self.save_gone_back()
    }

    /// Saves where the run went back to, so that whoever is cut does not go wrong and back once more. The
    /// beginning is no checkpoint.
    fn save_gone_back(&mut self) -> Result<(), TrainError> {
        if self.step > 0 { self.save().map(drop) } else { Ok(()) }
    }

    /// Lays the data behind `position` so that the last `batches`, which are passed over, are planned once
    /// more. `data` and `controlled` are what was drawn and what the controller knew before it went back:
    /// what is drawn is not drawn back, so its changes stay.
    fn plan_again(
        &mut self,
        position: Option<StagedState>,
        data: Arc<Data<'a>>,
        controlled: Option<ControlState>,
        batches: u64,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let Some(position) = position else { return Ok(()) };
        let batch = position.batch;
        let before = controlled.map(|control| (control.replay, control.changes));
        let (replay_before, mut changes) = before.unwrap_or_default();
        let kept = changes.clone();
        if let Some(control) = &self.control
            && control.changes != changes
        {
            changes.retain(|change| change.batch != batch);
            changes.push(ReplayChange { batch, replay: control.replay });
        }
        let mut passed_over = self.stability.passed_over.clone();
        passed_over.push(PassedOver { batch, batches });
        match Data::change(self.job, &changes, &passed_over, &position) {
            Ok(data) => {
                self.stability.passed_over = passed_over;
                if let Some(control) = &mut self.control {
                    control.changes = changes;
                }
                self.read(data);
            }
            // A stage by difficulty is a fixed set of samples, and a source may have no epochs left.
            Err(TrainError::Tokens(
                problem @ (TokensError::Stage(..) | TokensError::OtherPlan(..)),
            )) => {
                let reason = match &problem {
                    TokensError::Stage(..) => problem.to_string(),
                    _ => "the stage under way is ordered by difficulty, a fixed set of samples; as many of \
                          the last stage's are read after the plan's end"
                        .to_owned(),
                };
                progress.line(&format!(
                    "the {batches} batches that are passed over are not made up for: {reason}"
                ));
                let end = self.job.config.steps.0 + self.stability.batches_passed_over;
                if let Err(problem) = data.check_epochs(end) {
                    let (step, problem) = (self.step, problem.to_string());
                    return Err(TrainError::OutOfEpochs { step, problem });
                }
                if let Some(control) = &mut self.control {
                    (control.replay, control.changes) = (replay_before, kept);
                }
                self.data = data;
                self.feed.change(Arc::clone(&self.data));
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Takes up the checkpoint after `target` steps, or after those at which the plan began, or the
    /// beginning; what was counted of outlying steps then is returned.
    fn go_back(&mut self, target: u64) -> Result<StabilityState, TrainError> {
        let target = target.max(self.origin);
        // What is still being written may be what it goes back to.
        self.saver.wait()?;
        let dir = (target > 0).then(|| checkpoint::folder(self.out, target));
        if let Some(dir) = &dir {
            open_artifact(dir, Kind::Checkpoint, Verify::Contents)?;
        }
        // What was read then may have been planned otherwise.
        self.read(Data::open(self.job, dir.as_deref(), false)?);
        let learned = Learned::load(self.job, self.network, dir.as_deref())?;
        // The mirror first: whoever is cut here would go on from what it still holds.
        for folder in self.job.mirror.into_iter().chain([self.out]) {
            checkpoint::remove_after(folder, target)?;
        }
        self.decoder =
            self.network.decoder(&learned.parameters)?.autocast(self.job.config.precision.dtype());
        self.parameters = learned.parameters;
        self.optimizer = learned.optimizer;
        self.average = learned.average;
        self.control = learned.control;
        self.step = target;
        self.data_window = DataWindow::begin(target);
        self.validated = Some(target);
        self.measured = learned.measured;
        self.metrics.rewind(self.out, target)?;
        self.retention.rewind(target);
        Ok(learned.stability)
    }

    /// Says what first was not finite in a step; the gradients have no meaning afterwards.
    fn trace(&mut self, batch: &Batch, loss: f64) -> Result<String, TrainError> {
        let origin = non_finite::origin(&self.parameters, loss);
        self.parameters.clear_grads();
        match self.accumulate_gradients(batch, Decoder::audited_loss_and_gradients) {
            Err(TrainError::Model(DecoderError::Tensor(TensorError::NonFinite(found)))) => {
                Ok(format!("{origin}; done again, {found}"))
            }
            Err(other) => Err(other),
            Ok(_) => Ok(format!(
                "{origin}; done again, every operation's results were finite, so what changed \
                 the gradients came after them"
            )),
        }
    }

    /// Adds the gradients of all micro-batches; returns the mean losses of the batch.
    fn accumulate_gradients(
        &mut self,
        batch: &Batch,
        differentiate: Differentiate,
    ) -> Result<Losses, TrainError> {
        let length = batch.sequence_length;
        let divisor = batch.lengths_b.iter().map(|length| f64::from(*length)).sum();
        let micro = self.job.config.micro_batch_size.unwrap_or(batch.batch_size);
        let rows = micro * length;
        let packed = self.job.config.packing == Packing::BestFit;
        let targets_bt = targets(batch);
        let mut losses = Losses::default();
        for start in (0..batch.tokens_bt.len()).step_by(rows) {
            self.job.pulse.beat(self.step, Activity::Gradients);
            let end = (start + rows).min(batch.tokens_bt.len());
            let documents_bt = packed.then(|| &batch.documents_bt[start..end]);
            let tokens_bt = &batch.tokens_bt[start..end];
            let tokens = TokenBatch { tokens_bt, tokens: length, documents_bt };
            let targets = LossRows {
                targets: targets_bt[start..end].into(),
                weights: None,
                divisor: Some(divisor),
                z_loss: self.job.config.z_loss as f32,
            };
            let part = differentiate(&self.decoder, &mut self.parameters, &tokens, &targets)?;
            losses.loss += part.loss;
            losses.z_loss += part.z_loss;
        }
        Ok(losses)
    }

    /// Measures the validation split at the start, on schedule and at the end.
    fn validate_if_due(&mut self, progress: &dyn Progress) -> Result<(), TrainError> {
        let config = self.job.config;
        let due = self.step.is_multiple_of(config.validate_every.0) || self.step == config.steps.0;
        if !due || self.validated == Some(self.step) || config.validation_sequences == 0 {
            return Ok(());
        }
        self.validated = Some(self.step);
        let length = config.sequence_length;
        // No token sees another document, as in training.
        let packed = config.packing == Packing::BestFit;
        let counts = self.job.dataset.counts(Split::Validation);
        if counts.values().all(|count| count.tokens <= length as u64) {
            return Ok(());
        }
        let windows =
            self.job.dataset.windows(Split::Validation, length, config.validation_sequences)?;
        let mut sums: BTreeMap<String, (f64, u64)> = BTreeMap::new();
        for window in 0..windows.len() {
            self.job.pulse.beat(self.step, Activity::Validation);
            let batch = windows.batch(window..window + 1)?;
            let documents_bt = packed.then_some(&batch.documents_bt[..]);
            let tokens = TokenBatch { tokens_bt: &batch.tokens_bt, tokens: length, documents_bt };
            let scores = self.decoder.score_rows(&self.parameters, &tokens, &batch.targets_bt)?;
            let sum = sums.entry(windows.source(window).to_owned()).or_default();
            sum.0 -= scores.log_probabilities.iter().copied().map(f64::from).sum::<f64>();
            sum.1 += scores.log_probabilities.len() as u64;
        }
        let mut loss = BTreeMap::new();
        let mut bits_per_byte = BTreeMap::new();
        for (source, (sum, tokens)) in sums {
            let mean = sum / tokens.max(1) as f64;
            if let Some(count) = counts.get(&source).filter(|count| count.text_bytes > 0) {
                let tokens_per_byte = count.tokens as f64 / count.text_bytes as f64;
                bits_per_byte
                    .insert(source.clone(), mean / std::f64::consts::LN_2 * tokens_per_byte);
            }
            loss.insert(source, mean);
        }
        let shown: Vec<String> =
            bits_per_byte.iter().map(|(source, bits)| format!("{source} {bits:.3}")).collect();
        progress.line(&format!(
            "validation after step {}: bits per byte {}",
            self.step,
            shown.join(", ")
        ));
        self.retention.validated(self.step, &bits_per_byte);
        self.metrics.write(&Metric::Validation { step: self.step, loss, bits_per_byte })
    }

    fn tokens(&self) -> u64 {
        self.job.config.tokens_after(self.step)
    }

    /// The number of the batch that comes next in the data.
    fn next_batch(&self) -> u64 {
        self.step + self.stability.batches_passed_over
    }

    fn state(&self) -> Result<State, TrainError> {
        let mut state = State {
            step: self.step,
            steps: self.job.config.steps.0,
            tokens: self.tokens(),
            loader: None,
            stages: None,
            // An extension may have dropped the table; what it left behind still counts.
            stability: (self.job.config.stability.is_some()
                || self.stability.updates != self.step
                || self.stability.batches_passed_over > 0)
                .then(|| self.stability.clone()),
            control: self.control.clone(),
            origin: self.origin,
            measured: self.measured,
            went_back: self.went_back,
            forked_from: self.forked_from,
        };
        self.data.store(self.next_batch(), &mut state)?;
        Ok(state)
    }

    fn snapshot(&self) -> Result<Snapshot<'a>, TrainError> {
        Ok(Snapshot {
            network: self.network,
            tokenizer: self.job.tokenizer,
            parameters: self.parameters.snapshot(),
            optimizer: self.optimizer.snapshot(&self.parameters),
            average: self.average.as_ref().map(|average| average.snapshot(&self.parameters)),
            state: self.state()?,
            max_shard_size: self.job.config.max_shard_size,
        })
    }

    /// Writes what was read since the last such line.
    fn end_data_window(&mut self) -> Result<(), TrainError> {
        let (step, next) = (self.step, self.next_batch());
        let line = self.data_window.end(&self.data, self.job.config, step, next)?;
        line.map_or(Ok(()), |line| self.metrics.write(&line))
    }

    /// Copies the state and begins to write it; says how long that held training up.
    fn save(&mut self) -> Result<PathBuf, TrainError> {
        self.end_data_window()?;
        let began = Instant::now();
        self.job.pulse.beat(self.step, Activity::Checkpoint);
        // The one before must be whole before there is a third copy of the state.
        self.saver.wait()?;
        // What stays at the end must not depend on a stop at the last step.
        let mut keep = self.retention.keep(self.step.min(self.job.config.steps.0 - 1));
        keep.insert(self.step);
        let snapshot = self.snapshot()?;
        self.copied_bytes = self.copied_bytes.max(snapshot.host_bytes());
        let dir = self.saver.begin(snapshot, keep)?;
        let stalled_seconds = began.elapsed().as_secs_f64();
        self.metrics.write(&Metric::Checkpoint { step: self.step, stalled_seconds })?;
        Ok(dir)
    }
}

/// Adds the gradients of a micro-batch: a method of [`Decoder`].
type Differentiate = fn(
    &Decoder,
    &mut ParameterStore,
    &TokenBatch<'_>,
    &LossRows,
) -> Result<LossSummary, DecoderError>;

/// Mean losses of a batch.
#[derive(Debug, Clone, Copy, Default)]
struct Losses {
    /// The cross-entropy.
    loss: f64,
    /// What the z-loss adds to it.
    z_loss: f64,
}

/// What each position is to predict; padding predicts nothing.
fn targets(batch: &Batch) -> Vec<u32> {
    let mut targets_bt = batch.targets_bt.clone();
    for (row, used) in targets_bt.chunks_mut(batch.sequence_length).zip(&batch.lengths_b) {
        row[*used as usize..].fill(IGNORE);
    }
    targets_bt
}

fn summary(
    job: &Job<'_>,
    data: &Data<'_>,
    out: &Path,
    digest: Digest,
) -> Result<Summary, TrainError> {
    let dir = out.join(FINAL_CHECKPOINT);
    let state = checkpoint::read_state(&dir)?;
    let metrics = read_metrics(out)
        .map_err(|source| TrainError::Io { path: out.join(crate::METRICS_FILE), source })?;
    let mut losses = Vec::new();
    let mut rates = Vec::new();
    let mut validation = BTreeMap::new();
    let step_seconds = step_seconds(&metrics);
    let (mut waited, mut stalled) = (0.0, 0.0);
    for metric in metrics {
        match metric {
            Metric::Step { loss, tokens_per_second, skipped, data_seconds, .. } => {
                waited += data_seconds;
                if !skipped {
                    losses.push(loss);
                }
                rates.push(tokens_per_second);
            }
            Metric::Checkpoint { stalled_seconds, .. } => stalled += stalled_seconds,
            Metric::Rollback { .. }
            | Metric::Data { .. }
            | Metric::Forgetting { .. }
            | Metric::Measured { .. }
            | Metric::Control { .. } => {}
            Metric::Validation { bits_per_byte, .. } => validation = bits_per_byte,
        }
    }
    let passed_over = state.stability.map_or(0, |stability| stability.batches_passed_over);
    let tail = &losses[losses.len() - losses.len().div_ceil(50)..];
    rates.sort_by(f64::total_cmp);
    Ok(Summary {
        steps: state.steps,
        tokens: state.tokens,
        checkpoint: dir,
        digest,
        final_loss: (!tail.is_empty()).then(|| tail.iter().sum::<f64>() / tail.len() as f64),
        validation_bits_per_byte: validation,
        median_tokens_per_second: rates.get(rates.len() / 2).copied().unwrap_or(0.0),
        checkpoint_stall: if stalled > 0.0 { stalled / (step_seconds + stalled) } else { 0.0 },
        forgetting: forgetting::read_forgetting(out)?,
        epochs: data.epochs(job.config.steps.0 + passed_over)?,
        data_wait_share: if step_seconds > 0.0 { waited / step_seconds } else { 0.0 },
    })
}

#[cfg(test)]
mod tests {
    use milpa_model::ModelConfig;

    use super::*;

    /// The planner counts without knowing the decoder; the two must not drift apart.
    #[test]
    fn the_planner_counts_the_models_parameters() {
        for (qk_norm, tie_embeddings) in [(true, true), (false, true), (true, false)] {
            let model = ModelConfig {
                vocab_size: 8192,
                qk_norm,
                tie_embeddings,
                head_dim: Some(32),
                ..ModelConfig::default()
            };
            let shape = model_shape(&model);
            assert_eq!(shape.parameters(), model.parameters());
            assert_eq!(shape.non_embedding_parameters(), model.non_embedding_parameters());
        }
    }
}

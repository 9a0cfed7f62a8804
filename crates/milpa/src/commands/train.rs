//! `milpa train`, and the plan that comes before it.

use std::{
    fmt,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use milpa_base::{
    Bytes, ConfigError, Kind, Manifest, Tokens,
    manifest::Verify,
    open_artifact,
    units::{duration, si},
};
use milpa_kernels::{Cpu, Isa, peak};
use milpa_model::Device;
use milpa_plan::{Machine, Plan, PlannedRun, plan, sheet::Sheet};
use milpa_tokens::{Split, TokenDataset, Tokenizer};
use milpa_train::{
    BaseModel, ChangedPlan, Job, Noted, Precision, Pulse, ReplaySet, STATE_FILE, StageTable, Start,
    State, Summary, TrainConfig, TrainError, Watchdog, model_shape, newest_of_any_plan,
    stage_table, steps_before, train_shape,
};
use serde::Serialize;

use crate::{
    EXIT_INTERRUPTED, Refused,
    cli::{Endurance, Onward, Watching},
    commands::doctor,
    context::{Context, quote},
    ledger::{self, HourlyPrice, Meter, TrainingFolder},
    origins, progress,
    recipe::{Loaded, Origin, Recipe},
    watch::{self, Watch},
};

/// File in the training folder that says what a run that stood still was doing.
const HANG_FILE: &str = "hang.json";
/// How long a run that stands still may take to write that down, and to say it.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long it may take to tell a webhook, which is tried several times.
const LAST_MESSAGE: Duration = Duration::from_mins(1);
/// Share of the peak that training a small model on a CPU reaches, for the time shown in advance
/// where no run of one's own says; the true one is shown at each step.
const GUESSED_UTILISATION: f64 = 0.6;

/// What this machine reached just now.
pub struct MeasuredPeak {
    /// Instruction set used.
    pub instructions: String,
    /// f32 fused multiply-adds, all threads.
    pub f32_flops_per_second: f64,
    /// Products of bf16 with sums in f32, all threads; `None` without instructions for them.
    pub bf16_flops_per_second: Option<f64>,
    /// Reading main memory, all threads.
    pub memory_bytes_per_second: f64,
}

impl MeasuredPeak {
    /// The peak of what training computes in.
    fn of(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F32 => self.f32_flops_per_second,
            Precision::Bf16 => self.bf16_flops_per_second.unwrap_or(self.f32_flops_per_second),
        }
    }
}

/// Measures the peak in about a second.
pub fn measure_peak(context: &Context) -> MeasuredPeak {
    let cpu = Cpu::detect(context.threads);
    let measured = peak::measure(&cpu);
    let bf16 = (cpu.isa() == Isa::Avx512Bf16).then_some(measured.bf16_gflops * 1e9);
    MeasuredPeak {
        instructions: cpu.isa().name().to_owned(),
        f32_flops_per_second: measured.f32_gflops * 1e9,
        bf16_flops_per_second: bf16,
        memory_bytes_per_second: measured.read_gbytes * 1e9,
    }
}

/// Plans the recipe's training on this machine and refuses what cannot work.
pub fn check_plan(
    context: &Context,
    recipe: &Loaded,
    tokens_available: Option<Tokens>,
) -> Result<Plan> {
    check_plan_by(context, recipe, tokens_available, None)
}

/// The same by the runs in a calibration file; the usual one, if it is there, when none is named.
pub fn check_plan_by(
    context: &Context,
    recipe: &Loaded,
    tokens_available: Option<Tokens>,
    calibration: Option<&Path>,
) -> Result<Plan> {
    let peak = measure_peak(context).of(recipe.recipe.train.precision);
    plan_on(context, recipe, peak, tokens_available, calibration)
}

fn plan_on(
    context: &Context,
    recipe: &Loaded,
    peak: f64,
    tokens_available: Option<Tokens>,
    calibration: Option<&Path>,
) -> Result<Plan> {
    let config = &recipe.recipe.train;
    let runs = ledger::read_own_runs(calibration.unwrap_or(Path::new(ledger::OWN_RUNS_FILE)))?;
    if let (Some(path), None) = (calibration, &runs) {
        anyhow::bail!(
            "there is no {}; milpa plan calibrate RUN --out FILE writes it",
            path.display()
        );
    }
    let own_runs = runs.and_then(|runs| {
        runs.expected(config.precision.name(), &doctor::processor(), context.threads)
    });
    let machine = Machine {
        peak_flops_per_second: peak,
        memory: doctor::memory().1.unwrap_or(Bytes(u64::MAX)),
        expected_utilisation: own_runs.map_or(GUESSED_UTILISATION, |runs| runs.utilisation.median),
        own_runs,
    };
    let model = recipe.recipe.description()?;
    let shape = train_shape(config, &model)?;
    let plan = plan(&model_shape(model), &shape, &machine, tokens_available);
    plan.check(&shape).map_err(|error| {
        let text = std::fs::read_to_string(&recipe.path).unwrap_or_default();
        let key = match error {
            milpa_plan::PlanError::TooLittleText { .. } => "train.batch_size",
            _ => "model.hidden_size",
        };
        let error: ConfigError =
            milpa_base::config::invalid_value(&text, &recipe.path, key, &error.to_string());
        error
    })?;
    Ok(plan)
}

/// What a run stands under without being changed by it.
#[derive(Default)]
pub struct Conditions {
    /// What an hour of this machine costs.
    pub price: HourlyPrice,
    /// What becomes of a training with another plan.
    pub onward: Onward,
    /// How to outlive faults.
    pub endurance: Endurance,
    /// How it is seen while it runs.
    pub watching: Watching,
}

/// The folders that a training reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Folders<'a> {
    /// Tokenizer artifact.
    pub tokenizer: &'a Path,
    /// Token shards.
    pub tokens: &'a Path,
    /// Checkpoints, metrics and plots.
    pub out: &'a Path,
}

/// Checks a base, and opens its tokenizer, each id of which must have its row in the embedding.
fn base_tokenizer(path: &Path) -> Result<Tokenizer> {
    let rows = BaseModel::check(path)?.vocab_size;
    let tokenizer = Tokenizer::open(path).with_context(|| {
        Refused(format!("the base {} has no tokenizer that can be read", path.display()))
    })?;
    anyhow::ensure!(
        tokenizer.vocab_size() <= rows,
        Refused(format!(
            "the tokenizer of the base {} has {} ids and its embedding {rows} rows: they do not belong \
             together; take the tokenizer that came with the model, or give the new tokens rows with `milpa \
             tokens extend`",
            path.display(),
            tokenizer.vocab_size()
        ))
    );
    Ok(tokenizer)
}

/// Opens the base, which must be of the run's tokenizer.
fn open_base(path: &Path, tokenizer: &Tokenizer) -> Result<BaseModel> {
    let own = base_tokenizer(path)?;
    anyhow::ensure!(
        own.hash() == tokenizer.hash(),
        Refused(format!(
            "the tokenizer of the base {} is not the run's ({} and {}): the base would read other words \
         than were written; encode the corpus with --tokenizer {}",
            path.display(),
            own.hash().short(),
            tokenizer.hash().short(),
            quote(&path.to_string_lossy())
        ))
    );
    Ok(BaseModel::open(path)?)
}

/// Opens everything that a recipe goes on from, and holds it against its base where it has one, before any
/// work.
///
/// # Errors
/// A base that cannot be gone on from; tasks that cannot be read; a replay set that is missing, damaged, no token shards, or of another
/// tokenizer than the base's. What the tokenizer of a new model will be is not known yet.
pub fn check_base(recipe: &Recipe) -> Result<()> {
    let Origin::Base(base) = recipe.origin() else { return verify_replay(&recipe.train) };
    recipe.description()?;
    let tokenizer = base_tokenizer(&base.model.path)?;
    open_replay(&recipe.train, &tokenizer)?;
    if let Some(general) = open_general(&recipe.train, &tokenizer)? {
        let [pieces, _] = recipe.train.measured_pieces(&general, &general);
        anyhow::ensure!(
            pieces > 0,
            Refused(
                "train.forgetting.general has no held-out text as long as train.sequence_length, so nothing can be \
                 measured: build its corpus with `validation = { share = 0.05 }` or more"
                    .to_owned()
            )
        );
    }
    let forgetting = recipe.train.forgetting.as_ref();
    forgetting.map_or(Ok(()), |forgetting| Ok(forgetting.task_hashes().map(drop)?))
}

/// What to know of a base with new tokens whose rows an adapter would leave as they began.
pub fn rows_that_stay(recipe: &Recipe) -> Option<String> {
    let Origin::Base(base) = recipe.origin() else { return None };
    recipe.train.lora.as_ref().filter(|lora| !lora.embeddings)?;
    let path = &base.model.path;
    let new = Manifest::read(path).ok()?.counts.get("new_tokens").copied()?;
    Some(format!(
        "the base {} has rows for {new} new tokens, and [train.lora] leaves them as they began: add \
         embeddings = true to it",
        path.display()
    ))
}

/// Opens the token shards of general text that forgetting is measured on.
fn open_general(config: &TrainConfig, tokenizer: &Tokenizer) -> Result<Option<TokenDataset>> {
    let Some(forgetting) = &config.forgetting else { return Ok(None) };
    let path = &forgetting.general.path;
    let describe = || {
        Refused(format!(
            "train.forgetting.general cannot be read from {}: encode a general set with the base's \
             tokenizer (milpa tokens encode), or have the base write one with `milpa tokens generate-replay`",
            path.display()
        ))
    };
    open_artifact(path, Kind::Tokens, Verify::Contents).with_context(describe)?;
    TokenDataset::open(path, tokenizer).with_context(describe).map(Some)
}

/// The folders of token shards that the recipe's replay names.
fn replay_folders(config: &TrainConfig) -> impl Iterator<Item = (&str, &Path)> {
    config.replay.iter().filter_map(|replay| {
        let location = replay.tokens.as_ref()?;
        Some((replay.name.as_str(), location.path.as_path()))
    })
}

fn no_replay(name: &str, path: &Path) -> Refused {
    Refused(format!(
        "the replay {name:?} cannot be read from {}: encode a general set with the run's tokenizer, or \
         have the base write one with `milpa tokens generate-replay`",
        path.display()
    ))
}

/// Reads the token shards that the recipe's replay names, and holds them against their manifests.
fn verify_replay(config: &TrainConfig) -> Result<()> {
    for (name, path) in replay_folders(config) {
        open_artifact(path, Kind::Tokens, Verify::Contents)
            .with_context(|| no_replay(name, path))?;
    }
    Ok(())
}

/// Opens the token shards that the recipe's replay names.
fn open_replay(config: &TrainConfig, tokenizer: &Tokenizer) -> Result<Vec<(String, TokenDataset)>> {
    verify_replay(config)?;
    let open = |(name, path): (&str, &Path)| -> Result<(String, TokenDataset)> {
        let dataset = TokenDataset::open(path, tokenizer).with_context(|| no_replay(name, path))?;
        Ok((name.to_owned(), dataset))
    };
    replay_folders(config).map(open).collect()
}

fn replay_sets(opened: &[(String, TokenDataset)]) -> Vec<ReplaySet<'_>> {
    opened.iter().map(|(name, dataset)| ReplaySet { name, dataset }).collect()
}

/// What a training would do: the plan, what measuring against the base takes, and the table of its stages.
#[derive(Debug, Serialize)]
pub struct DryRun {
    plan: Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    measuring: Option<Measuring>,
    stages: Option<StageTable>,
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.plan)?;
        if let Some(measuring) = &self.measuring {
            write!(f, "\n{measuring}")?;
        }
        if let Some(stages) = &self.stages {
            write!(f, "\n{stages}")?;
        }
        Ok(())
    }
}

/// Plans a training on its data and lays its stages, without a step; with what it would go on from.
pub fn dry_run(
    context: &Context,
    recipe: &Loaded,
    folders: Folders<'_>,
    onward: &Onward,
) -> Result<DryRun> {
    let config = &recipe.recipe.train;
    let tokenizer = Tokenizer::open(folders.tokenizer)?;
    let dataset = TokenDataset::open(folders.tokens, &tokenizer)?;
    if let Origin::Base(base) = recipe.recipe.origin() {
        open_base(&base.model.path, &tokenizer)?;
    }
    let replay = open_replay(config, &tokenizer)?;
    let from = match onward.changed_plan() {
        ChangedPlan::Fork(from) => Some(from.to_owned()),
        ChangedPlan::Extend => newest_of_any_plan(folders.out).map(|(_, dir, _)| dir),
        ChangedPlan::Refuse | ChangedPlan::Anew => None,
    };
    let general = open_general(config, &tokenizer)?;
    let sets = replay_sets(&replay);
    let stages = stage_table(config, &dataset, &sets, recipe.recipe.seed, from.as_deref())?;
    let peak = measure_peak(context);
    let done = steps_done_elsewhere(folders.out, onward);
    anyhow::ensure!(
        done <= config.steps.0,
        Refused(format!("{done} steps are done, and train.steps is {}: raise it", config.steps.0))
    );
    let plan = plan_from(context, recipe, &peak, &dataset, done)?;
    let measuring = Measuring::of(config, done, &plan, &peak, &dataset, general.as_ref());
    Ok(DryRun { plan, measuring, stages })
}

/// Steps that another run did before this training, if it is a fork.
fn steps_done_elsewhere(out: &Path, onward: &Onward) -> u64 {
    let state_of = |dir: &Path| -> Option<State> {
        serde_json::from_slice(&std::fs::read(dir.join(STATE_FILE)).ok()?).ok()
    };
    match (steps_before(out), &onward.fork) {
        (0, Some(from)) => state_of(from).map_or(0, |state| state.step),
        (_, None) if onward.anew => 0,
        (done, _) => done,
    }
}

/// Plans what a training does itself, after the steps that another run did.
fn plan_from(
    context: &Context,
    recipe: &Loaded,
    peak: &MeasuredPeak,
    dataset: &TokenDataset,
    done: u64,
) -> Result<Plan> {
    let config = &recipe.recipe.train;
    let available = Tokens(dataset.total_tokens(Split::Train));
    let plan = plan_on(context, recipe, peak.of(config.precision), Some(available), None)?;
    Ok(plan.after(Tokens(config.tokens_after(done))))
}

/// Trains the recipe's model, or goes on where a cut run stopped; keeps the plan beside it.
pub fn train(
    context: &Context,
    recipe: &Loaded,
    folders: Folders<'_>,
    conditions: &Conditions,
) -> Result<Summary> {
    let Folders { tokenizer, tokens, out } = folders;
    let given = [Some(tokenizer), Some(tokens), conditions.onward.fork.as_deref()];
    if let Some(path) = given.into_iter().flatten().find(|path| !path.exists()) {
        anyhow::bail!(Refused(format!("{} does not exist; check the path", path.display())));
    }
    super::tokens::verify_tokenizer(tokenizer)?;
    let (manifest, _) = open_artifact(tokens, Kind::Tokens, Verify::Contents)?;
    let tokenizer = Tokenizer::open(tokenizer)?;
    let dataset = TokenDataset::open(tokens, &tokenizer)?;
    let replay = open_replay(&recipe.recipe.train, &tokenizer)?;
    let general = open_general(&recipe.recipe.train, &tokenizer)?;
    let measured_peak = measure_peak(context);
    let planned = |done: u64| -> Result<(Plan, Option<Measuring>)> {
        let (config, general) = (&recipe.recipe.train, general.as_ref());
        let plan = plan_from(context, recipe, &measured_peak, &dataset, done)?;
        let measuring = Measuring::of(config, done, &plan, &measured_peak, &dataset, general);
        Ok((plan, measuring))
    };
    let (plan, measuring) = planned(steps_done_elsewhere(out, &conditions.onward))?;
    let shown = measuring.map_or_else(String::new, |measuring| format!("\n{measuring}"));
    for line in format!("{plan}{shown}").lines() {
        context.progress.say(&format!("  {line}"));
    }
    let (base, model);
    let start = match recipe.recipe.origin() {
        Origin::Base(config) => {
            base = open_base(&config.model.path, &tokenizer)?;
            if let Some(note) = rows_that_stay(&recipe.recipe) {
                context.progress.say(&note);
            }
            Start::Base(&base)
        }
        Origin::New { model: config, .. } => {
            model = config.with_vocab_size(tokenizer.vocab_size())?;
            Start::New(&model)
        }
    };
    let device = Device::cpu(context.threads);
    let pulse = Arc::new(Pulse::default());
    let watching = Watch::start(context, &recipe.recipe, &conditions.watching, out)?;
    let on_metric = |noted: Noted<'_>| watching.take(noted);
    let job = Job {
        config: &recipe.recipe.train,
        start,
        tokenizer: &tokenizer,
        dataset: &dataset,
        replay: replay_sets(&replay),
        general: general.as_ref(),
        changed_plan: conditions.onward.changed_plan(),
        seed: recipe.recipe.seed,
        licences: origins::training_licences(&recipe.recipe, manifest.licences)?,
        device,
        peak_flops_per_second: measured_peak.of(recipe.recipe.train.precision),
        measure_peak: &|| measure_peak(context).of(recipe.recipe.train.precision),
        mirror: conditions.endurance.mirror.as_deref(),
        pulse: &pulse,
        on_gradients: None,
        on_metric: Some(&on_metric),
    };
    let watchdog = hang_watch(&pulse, conditions.endurance.hang_after, out, watching.on_hang());
    let trained = milpa_train::train(&job, out, &context.progress, &context.stop);
    drop(watchdog);
    let ended = watching.end(&trained);
    // A refused plan is not that of the run in the folder.
    if trained.as_ref().is_err_and(TrainError::is_usage) {
        ended?;
        return Ok(trained?);
    }
    // Only now: training sets a folder of another configuration aside before it begins.
    let (plan, measuring) = planned(steps_before(out))?;
    let precision = recipe.recipe.train.precision.name();
    let own_loss = ledger::read_own_runs(Path::new(ledger::OWN_RUNS_FILE))?
        .and_then(|runs| runs.loss_near(plan.parameters, plan.tokens_before.0 + plan.tokens.0));
    let processor = doctor::processor();
    let mut planned = PlannedRun::of(&plan, precision, &processor, context.threads, own_loss);
    planned.price_per_hour = conditions.price.clone();
    planned.measuring_seconds = measuring.map(Measuring::total_seconds);
    ledger::keep_plan(out, &planned)?;
    ended?;
    Ok(trained?)
}

/// General texts whose distributions are held against the base's, and how many times its length a text is
/// read for that: four contexts, of half of it in the mean.
const DIVERGENCE: (u64, u64) = (16, 2);

/// What holding models against the base will cost.
#[derive(Debug, Clone, Copy, Serialize)]
struct Measuring {
    /// Tokens of text in one measurement.
    tokens: u64,
    /// Its seconds.
    seconds: f64,
    /// Measurements on schedule.
    scheduled: u64,
    /// Candidates at the end.
    candidates: u64,
}

impl Measuring {
    /// Of a run that begins after `done` steps, with the peak of f32, in which models are measured; `None`
    /// where nothing is measured.
    fn of(
        config: &TrainConfig,
        done: u64,
        plan: &Plan,
        peak: &MeasuredPeak,
        dataset: &TokenDataset,
        general: Option<&TokenDataset>,
    ) -> Option<Self> {
        let [own, general] = config.measured_pieces(dataset, general?);
        let (texts, reads) = DIVERGENCE;
        let tokens = (own + general + general.min(texts) * reads) * config.sequence_length as u64;
        let flops = tokens as f64 * 2.0 * plan.parameters as f64;
        let [scheduled, candidates] = config.measurements(done);
        Some(Self {
            tokens,
            seconds: flops / (peak.f32_flops_per_second * plan.machine.expected_utilisation),
            scheduled,
            candidates,
        })
    }

    /// Seconds of all: the base, what is on schedule, and the candidates.
    fn total_seconds(self) -> f64 {
        self.seconds * (1 + self.scheduled + self.candidates) as f64
    }
}

impl fmt::Display for Measuring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, seconds, scheduled, candidates } = self;
        write!(
            f,
            "measuring    about {} for {} tokens against the base; the base itself, {scheduled} times on \
             schedule and {candidates} candidates at the end = {}; tasks come on top",
            duration(*seconds),
            si(*tokens as f64),
            duration(self.total_seconds())
        )
    }
}

/// Ends the process when training stands still, after writing down what it was doing. What it stands still
/// for, a disk or a terminal that takes nothing more, may keep that from being said too: it ends all the
/// same.
fn hang_watch(
    pulse: &Arc<Pulse>,
    hang_after: Option<u64>,
    out: &Path,
    on_hang: impl Fn(u64, f64) + Send + 'static,
) -> Watchdog {
    let path = out.join(HANG_FILE);
    Watchdog::start(Arc::clone(pulse), hang_after.map(Duration::from_secs), move |hang| {
        progress::freeze();
        let text = serde_json::to_vec_pretty(hang).unwrap_or_default();
        let noted = path.clone();
        let written = within(LAST_WORDS, move || milpa_base::write_file_atomic(&noted, &text));
        let said = format!(
            "error: training stands still after step {}: nothing for {} while it was at {:?}{}\n\
             hint: the same command goes on from the last checkpoint; milpa train --supervise does so \
             by itself",
            hang.steps_done,
            duration(hang.silent_seconds),
            hang.activity,
            match written {
                Some(Ok(())) => format!("; see {}", path.display()),
                _ => String::new(),
            },
        );
        within(LAST_WORDS, move || eprintln!("{said}"));
        let (step, seconds) = (hang.steps_done, hang.silent_seconds);
        within(LAST_MESSAGE, move || on_hang(step, seconds));
        std::process::exit(i32::from(EXIT_INTERRUPTED));
    })
}

/// What `work` comes to, if it is done in time.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    // Whoever waited no longer needs it.
    thread::spawn(move || drop(sender.send(work())));
    receiver.recv_timeout(limit).ok()
}

/// What `milpa train` did, beside what was planned.
#[derive(Debug, Serialize)]
pub struct Trained {
    #[serde(flatten)]
    summary: Summary,
    /// The plan beside what came of it, and what it cost.
    planned_and_measured: Sheet,
}

impl fmt::Display for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", describe(&self.summary), self.planned_and_measured)
    }
}

/// What a training came to that is complete, if it ended above its limit on forgetting.
pub fn above_limit(error: &anyhow::Error) -> Option<&Summary> {
    match error.downcast_ref() {
        Some(TrainError::AboveLimit { summary, .. }) => Some(summary),
        _ => None,
    }
}

/// Trains on its own, outside a run, and shows what came of it: the ledger is the training folder's.
///
/// # Errors
/// Those of [`train`]; a training that ended above its limit on forgetting is shown before.
pub fn train_alone(
    context: &Context,
    recipe: &Loaded,
    folders: Folders<'_>,
    conditions: &Conditions,
) -> Result<()> {
    watch::check(&conditions.watching)?;
    let meter = Meter::start("train");
    let trained = train(context, recipe, folders, conditions);
    let out = folders.out;
    let summary = match &trained {
        Ok(summary) => Some(summary),
        Err(error) => above_limit(error),
    };
    // A refused plan cost nothing and leaves no folder.
    if summary.is_some() || out.join(milpa_train::METRICS_FILE).exists() {
        meter.stop(context, out, summary.is_some(), &conditions.price)?;
    }
    if let Some(summary) = summary {
        let folder = TrainingFolder::find(out)?;
        watch::write_last_page(&recipe.recipe, &folder)?;
        let shown = Trained { summary: summary.clone(), planned_and_measured: folder.sheet()? };
        context.show(&shown, || shown.to_string())?;
    }
    trained.map(drop)
}

/// The summary for people.
fn describe(summary: &Summary) -> String {
    let validation: Vec<String> = summary
        .validation_bits_per_byte
        .iter()
        .map(|(source, bits)| format!("{source} {bits:.3}"))
        .collect();
    let epochs: Vec<String> =
        summary.epochs.iter().map(|(source, epochs)| format!("{source} {epochs:.2}")).collect();
    let forgetting = summary.forgetting.as_ref().map_or_else(String::new, |report| {
        format!("\nchosen      {} ({})", report.chosen, report.reason)
    });
    format!(
        "steps       {}\ntokens      {} (epochs: {})\nspeed       {:.0} tokens/s (median); waited {:.1} % of \
         the time for data, {:.2} % for checkpoints\n\
         loss        {:.4} nats per token\nvalidation  {} bits per byte\ncheckpoint  {}{forgetting}",
        summary.steps,
        si(summary.tokens as f64),
        epochs.join(", "),
        summary.median_tokens_per_second,
        summary.data_wait_share * 100.0,
        summary.checkpoint_stall * 100.0,
        summary.final_loss.unwrap_or(f64::NAN),
        validation.join(", "),
        summary.checkpoint.display(),
    )
}

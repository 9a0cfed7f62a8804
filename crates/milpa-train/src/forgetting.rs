//! What continued training gained and lost, measured while it runs.
//!
//! The model in training is held against its base by `milpa-eval`'s ledger: perplexity of held-out general
//! and regional text as the LatamGPT slides define forgetting and adaptation, bits per byte by domain,
//! frozen multiple-choice tasks, in-context learning without language, and KL to the base, each with a
//! paired interval. What is measured is drawn from the seed once, so a resumed run measures the same.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path, time::Instant};

use milpa_base::{
    Bytes, Digest, Progress, Seed, Steps, StopFlag, TextRecord,
    config::Location,
    hash_file,
    plot::{PlanePlot, PlanePoint},
    write_file_atomic,
};
use milpa_eval::{
    EvalConfig, PerplexityConfig, PromptStyle, RunInfo, TaskEntry, Watch,
    divergence::{BaseDistributions, Divergence},
    ledger::{Change, Column, Domains, Entry, TaskChange, TextChange, ledger},
    load_task,
    multiple_choice::Resampling,
    probe::in_context_items,
    statistics::Interval,
};
use milpa_model::{DecoderDescription, LocalModel, ParameterStore};
use milpa_tokens::{Split, TokenDataset, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::{
    config::TrainConfig,
    control::{LimitConfig, Reading},
    error::TrainError,
    metrics::Metric,
    trainer::{CHOSEN_CHECKPOINT, Job, Summary},
    watchdog::Pulse,
};

/// File with the candidates at the end and the choice among them, in the training folder; what was
/// measured on the way stands in the metrics.
pub const FORGETTING_FILE: &str = "forgetting.json";
/// Plot of adaptation against forgetting.
const PLOT_FILE: &str = "forgetting.svg";
/// Items of the in-context probe, in the training folder.
const PROBE_FILE: &str = "in-context.jsonl";
/// Bootstrap replicates behind each interval.
const REPLICATES: usize = 1000;
/// General texts on which distributions are compared.
const DIVERGENCE_TEXTS: usize = 16;
/// Before the names of general sources.
const GENERAL: &str = "general/";
/// Shares of the base in the sweep between it and the final weights.
const SWEEP: [f64; 3] = [0.25, 0.5, 0.75];

/// The `[train.forgetting]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgettingConfig {
    /// Token shards of what the base knew, encoded with its tokenizer; their validation split is
    /// measured, never trained on.
    pub general: Location,
    /// A measurement after every so many steps, and at the end.
    pub every: Steps,
    /// Held-out pieces of each source, each of `train.sequence_length` tokens.
    #[serde(default = "twenty_four")]
    pub pieces: usize,
    /// Items of the in-context probe, `mul/in_context`; 0 for none.
    #[serde(default)]
    pub in_context: usize,
    /// Multiple-choice tasks that are asked each time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskEntry>,
    /// How much may be forgotten, and what is done about it; without it, it is only measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitConfig>,
}

fn twenty_four() -> usize {
    24
}

impl ForgettingConfig {
    /// Hashes of the files of the tasks, which are part of what a run is a function of: with other
    /// questions its controller would decide otherwise.
    ///
    /// # Errors
    /// A task or a file that is not there.
    pub fn task_hashes(&self) -> Result<BTreeMap<String, Digest>, TrainError> {
        let mut hashes = BTreeMap::new();
        for (number, entry) in self.tasks.iter().enumerate() {
            let task = entry.is_file().then(|| ("task", entry.task.path.clone()));
            let data = ("data", entry.data_file(&load_task(entry)?)?);
            for (what, path) in task.into_iter().chain([data]) {
                let hashed = hash_file(&path);
                let (digest, _) = hashed.map_err(|source| TrainError::Io { path, source })?;
                let name = &entry.task.written;
                hashes.insert(format!("forgetting task {} {name}: {what}", number + 1), digest);
            }
        }
        Ok(hashes)
    }
}

impl TrainConfig {
    /// Finds what makes no sense in `[train.forgetting]`.
    pub(crate) fn validate_forgetting(&self) -> Result<(), String> {
        let Some(config) = &self.forgetting else { return Ok(()) };
        if config.every.0 == 0 || config.pieces < 2 {
            return Err("every is at least 1 step, and pieces at least 2".to_owned());
        }
        let Some(limit) = &config.limit else { return Ok(()) };
        limit.validate()?;
        let every = self.checkpoint_every.0.max(1);
        if !config.every.0.is_multiple_of(every) {
            return Err(format!(
                "a limit needs a checkpoint at each measurement, to go back to: let checkpoint_every, which \
                 is {every}, divide forgetting.every, which is {}",
                config.every.0
            ));
        }
        let Some(replay) = self.replay.iter().find(|replay| replay.name == limit.replay) else {
            let names: Vec<&str> = self.replay.iter().map(|replay| replay.name.as_str()).collect();
            return Err(format!(
                "limit.replay names {:?}, but [[train.replay]] has {}",
                limit.replay,
                if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
            ));
        };
        if replay.share > limit.largest_replay {
            return Err(format!(
                "the share of replay {:?} is {}, above limit.largest_replay, {}",
                replay.name, replay.share, limit.largest_replay
            ));
        }
        if let Some(stage) = self.stages.iter().find(|stage| {
            stage.order != milpa_tokens::SampleOrder::Shuffled
                || stage.replay.contains_key(&limit.replay)
        }) {
            return Err(format!(
                "stage {:?} has an order or a share of replay {:?} of its own, which a limit would move: \
                 take it out",
                stage.name, limit.replay
            ));
        }
        Ok(())
    }

    /// Sources among the run's own tokens that are replay: they are not what the run adapts to, and are not
    /// measured.
    fn own_replay(&self) -> Vec<&str> {
        let own = self.replay.iter().filter(|replay| replay.tokens.is_none());
        own.map(|replay| replay.name.as_str()).collect()
    }

    /// Pieces of the run's own held-out text and of general text that a measurement reads; none where nothing
    /// is measured. A piece has up to `sequence_length` tokens.
    pub fn measured_pieces(&self, own: &TokenDataset, general: &TokenDataset) -> [u64; 2] {
        let Some(forgetting) = &self.forgetting else { return [0; 2] };
        let (length, most) = (self.sequence_length.max(1) as u64, forgetting.pieces as u64);
        [(own, self.own_replay()), (general, Vec::new())].map(|(dataset, without)| {
            let counts = dataset.counts(Split::Validation);
            let measured = counts.iter().filter(|(source, _)| !without.contains(&source.as_str()));
            // A piece is read with the token after it.
            measured.map(|(_, count)| (count.tokens.saturating_sub(1) / length).min(most)).sum()
        })
    }

    /// Measurements on schedule of a run that begins after `done` steps, and the candidates at its end; none
    /// where nothing is measured. Of a run under a limit, a checkpoint below it is counted as one.
    pub fn measurements(&self, done: u64) -> [u64; 2] {
        let Some(forgetting) = &self.forgetting else { return [0; 2] };
        let (steps, every) = (self.steps.0, forgetting.every.0.max(1));
        // What is forked was measured where it stands.
        let scheduled = (steps / every).saturating_sub(done / every);
        let candidates = [true, self.average.is_some(), forgetting.limit.is_some()]
            .map(u64::from)
            .iter()
            .sum::<u64>();
        [scheduled + u64::from(!steps.is_multiple_of(every)), candidates + SWEEP.len() as u64]
    }
}

/// One model against the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// "step 100", "final", "average", "0.25 base".
    pub name: String,
    /// Rise of the perplexity of general text, %.
    pub forgetting: Change,
    /// Fall of the perplexity of regional text, %.
    pub adaptation: Change,
    /// Bits per byte by domain.
    pub texts: Vec<TextChange>,
    /// Accuracy by task.
    pub tasks: Vec<TaskChange>,
    /// What could not be compared, with the reason.
    pub refused: Vec<String>,
    /// Divergence from the base.
    pub divergence: Divergence,
}

impl Standing {
    fn new(column: Column) -> Result<Self, TrainError> {
        let known = |change: Result<Change, String>| {
            change.map_err(|message| TrainError::Forgetting { message })
        };
        let Column { name, forgetting, adaptation, texts, tasks, refused, divergence, .. } = column;
        let (forgetting, adaptation) = (known(forgetting)?, known(adaptation)?);
        Ok(Self { name, forgetting, adaptation, texts, tasks, refused, divergence })
    }

    /// Forgetting with its interval.
    pub(crate) fn reading(&self) -> Reading {
        let Change { value, interval } = self.forgetting;
        let (low, high) = interval.map_or((value, value), |interval| (interval.low, interval.high));
        Reading { value, low, high }
    }

    /// The line of the metrics.
    pub(crate) fn metric(&self, step: u64, seconds: f64) -> Metric {
        let ends = |interval: &Interval| (interval.low, interval.high);
        let tasks = || self.tasks.iter().map(|task| (&task.paired.task, &task.paired));
        let texts = || self.texts.iter().map(|text| (&text.domain, text));
        let (divergence, divergence_interval) = match &self.divergence {
            Divergence::Measured { nats, interval, .. } => {
                (Some(*nats), interval.as_ref().map(ends))
            }
            Divergence::Unavailable { .. } => (None, None),
        };
        Metric::Forgetting {
            step,
            forgetting: self.forgetting.value,
            forgetting_interval: self.forgetting.interval.as_ref().map(ends),
            adaptation: self.adaptation.value,
            adaptation_interval: self.adaptation.interval.as_ref().map(ends),
            bits_per_byte: texts()
                .map(|(domain, text)| (domain.clone(), (text.base, text.checkpoint)))
                .collect(),
            bits_per_byte_change: texts()
                .filter_map(|(domain, text)| {
                    Some((domain.clone(), ends(text.change.interval.as_ref()?)))
                })
                .collect(),
            accuracy: tasks().map(|(task, paired)| (task.clone(), (paired.a, paired.b))).collect(),
            accuracy_change: tasks()
                .filter_map(|(task, paired)| {
                    Some((task.clone(), ends(paired.paired.interval.as_ref()?)))
                })
                .collect(),
            divergence,
            divergence_interval,
            refused: self.refused.clone(),
            seconds,
        }
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        format!("forgetting {}, adaptation {}", shown(&self.forgetting), shown(&self.adaptation))
    }
}

/// A change in % with its interval, for people.
fn shown(change: &Change) -> String {
    match change.interval {
        Some(interval) => {
            format!("{:+.1} % ({:+.1} to {:+.1})", change.value, interval.low, interval.high)
        }
        None => format!("{:+.1} %", change.value),
    }
}

/// Measures models against the base.
pub(crate) struct Measure<'a> {
    job: &'a Job<'a>,
    suite: EvalConfig,
    texts: Vec<TextRecord>,
    domains: Domains,
    /// Documents of the pieces of each source, in the order of its pieces.
    documents: BTreeMap<String, Vec<u64>>,
    /// Sources whose held-out text is too short, with what they would need.
    not_measured: Vec<String>,
    base: Entry,
    /// Seconds that measuring the base took.
    base_seconds: f64,
    distributions: BaseDistributions,
    resampling: Resampling,
    seed: Seed,
}

impl<'a> Measure<'a> {
    /// Measures the base; `None` for a recipe without `[train.forgetting]`.
    ///
    /// # Errors
    /// Text or tasks that cannot be measured.
    pub(crate) fn open(
        job: &'a Job<'a>,
        out: &Path,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<Option<Self>, TrainError> {
        let Some(config) = &job.config.forgetting else { return Ok(None) };
        let refuse = |message: &str| TrainError::Forgetting { message: message.to_owned() };
        let base = job.start.base().ok_or_else(|| {
            refuse("a run that begins with random weights has nothing to forget: give the recipe a [base]")
        })?;
        let general = job.general.ok_or_else(|| refuse("the general text was not opened"))?;
        let seed = job.seed.derive("forgetting");
        let replayed = job.config.own_replay();
        let length = job.config.sequence_length;
        let mut pieces = Pieces::default();
        pieces.add(general, job.tokenizer, length, config.pieces, GENERAL, &[])?;
        pieces.add(job.dataset, job.tokenizer, length, config.pieces, "", &replayed)?;
        let Pieces { texts, documents, not_measured } = pieces;
        for left_out in &not_measured {
            progress.line(&format!("forgetting: not measured: {left_out}"));
        }
        let (general, regional) = sources(&texts);
        if general.is_empty() || regional.is_empty() {
            let which = if general.is_empty() { "general" } else { "run's own" };
            return Err(refuse(&format!(
                "the validation split of the {which} token shards has no text of {length} tokens: hold \
                 some out ([corpus] validation)"
            )));
        }
        let mut tasks = config.tasks.clone();
        if config.in_context > 0 {
            let path = out.join(PROBE_FILE);
            let items = in_context_items(config.in_context, seed.derive("in-context"));
            write_file_atomic(&path, items.as_bytes())?;
            tasks.push(TaskEntry {
                task: Location::plain(Path::new("mul/in_context")),
                data: Some(Location::plain(&path)),
                limit: None,
                style: PromptStyle::default(),
            });
        }
        let suite = EvalConfig {
            bootstrap_replicates: REPLICATES,
            perplexity: PerplexityConfig { max_bytes_per_source: Bytes(u64::MAX) },
            tasks,
            ..EvalConfig::default()
        };
        let began = Instant::now();
        let model = LocalModel::from_parts(
            "base",
            Some(base.digest()),
            base.description(),
            base.weights(&job.device)?,
            job.tokenizer.clone(),
        )?;
        let domains = Domains { general, regional };
        let in_general = |text: &&TextRecord| text.source.starts_with(GENERAL);
        let compared: Vec<String> =
            spread(&texts.iter().filter(in_general).collect::<Vec<_>>(), DIVERGENCE_TEXTS)
                .into_iter()
                .map(|text| text.text.clone())
                .collect();
        let beating = Beating(job.pulse);
        let watch = Watch { progress: &beating, stop };
        let distributions = BaseDistributions::of(&model, &compared, watch)?;
        let resampling = Resampling { replicates: REPLICATES, seed };
        let mut measure = Self {
            job,
            suite,
            texts,
            domains,
            documents,
            not_measured,
            base: Entry::default(),
            base_seconds: 0.0,
            distributions,
            resampling,
            seed,
        };
        measure.base = measure.entry("base", &model, watch)?;
        measure.base_seconds = began.elapsed().as_secs_f64();
        Ok(Some(measure))
    }

    /// Seconds that measuring the base took.
    pub(crate) fn base_seconds(&self) -> f64 {
        self.base_seconds
    }

    /// Sources that are not measured since their held-out text is too short.
    pub(crate) fn not_measured(&self) -> &[String] {
        &self.not_measured
    }

    /// Holds weights against the base.
    pub(crate) fn of(
        &self,
        name: &str,
        description: &DecoderDescription,
        weights: ParameterStore,
        stop: &StopFlag,
    ) -> Result<Standing, TrainError> {
        let tokenizer = self.job.tokenizer.clone();
        let model = LocalModel::from_parts(name, None, description, weights, tokenizer)?;
        let beating = Beating(self.job.pulse);
        let watch = Watch { progress: &beating, stop };
        let entry = self.entry(name, &model, watch)?;
        let divergence = self.distributions.divergence(&model, self.resampling, watch)?;
        let (base, domains) = (&self.base, &self.domains);
        let mut ledger = ledger(base, &[entry], vec![divergence], domains, self.resampling)?;
        Standing::new(ledger.columns.remove(0))
    }

    /// One side of a ledger: what the model scores on texts and tasks.
    fn entry(&self, name: &str, model: &LocalModel, watch: Watch<'_>) -> Result<Entry, TrainError> {
        let info = RunInfo { command_line: String::new(), seed: self.seed };
        let mut records = self.texts.iter().cloned().map(Ok);
        let mut done = milpa_eval::run(model, &self.suite, Some(&mut records), &info, watch)?;
        // What the evaluation takes for a document is a piece of one.
        for text in done.texts.iter_mut().filter(|text| text.task.is_empty()) {
            let documents = self.documents.get(&text.source);
            text.document = text.document.and_then(|piece| documents?.get(piece as usize).copied());
        }
        Ok(Entry {
            name: name.to_owned(),
            model: name.to_owned(),
            model_hash: done.report.model.hash,
            items: done.items,
            texts: done.texts,
        })
    }
}

/// Tells the watchdog that a measurement goes on, and nobody else.
struct Beating<'a>(&'a Pulse);

impl Progress for Beating<'_> {
    fn begin(&self, _: &str, _: Option<u64>, _: &str) {
        self.0.go_on();
    }
    fn advance(&self, _: u64) {
        self.0.go_on();
    }
    fn end(&self) {}
    fn line(&self, _: &str) {}
}

/// Names of general and of regional sources.
fn sources(texts: &[TextRecord]) -> (Vec<String>, Vec<String>) {
    let mut names: Vec<String> = texts.iter().map(|text| text.source.clone()).collect();
    names.sort();
    names.dedup();
    names.into_iter().partition(|name| name.starts_with(GENERAL))
}

/// `count` of `all`, evenly spread.
fn spread<'a, T>(all: &[&'a T], count: usize) -> Vec<&'a T> {
    let count = count.min(all.len());
    (0..count).map(|n| all[n * all.len() / count]).collect()
}

/// What is measured of the held-out text.
#[derive(Default)]
struct Pieces {
    texts: Vec<TextRecord>,
    /// Documents of the pieces of each source, in order.
    documents: BTreeMap<String, Vec<u64>>,
    /// Sources that are too short.
    not_measured: Vec<String>,
}

impl Pieces {
    /// Adds up to `count` stretches of the held-out text of each source but `without`, evenly spread, none
    /// across the end of a document.
    fn add(
        &mut self,
        dataset: &TokenDataset,
        tokenizer: &Tokenizer,
        length: usize,
        count: usize,
        prefix: &str,
        without: &[&str],
    ) -> Result<(), TrainError> {
        let mut counts = dataset.counts(Split::Validation);
        counts.retain(|source, _| !without.contains(&source.as_str()));
        for (source, counts) in counts.iter().filter(|(_, counts)| counts.tokens <= length as u64) {
            self.not_measured.push(format!(
                "{prefix}{source}: its held-out text has {} tokens, and a piece takes \
                 train.sequence_length and one more, {}",
                counts.tokens,
                length + 1
            ));
        }
        if counts.values().all(|source| source.tokens <= length as u64) {
            return Ok(());
        }
        let windows = dataset.windows(Split::Validation, length, usize::MAX)?;
        let mut of_source: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for window in (0..windows.len()).filter(|&w| counts.contains_key(windows.source(w))) {
            of_source.entry(windows.source(window)).or_default().push(window);
        }
        for (source, all) in of_source {
            for &window in spread(&all.iter().collect::<Vec<_>>(), count) {
                let batch = windows.batch(window..window + 1)?;
                let stretches = batch.tokens_bt.split(|id| *id == dataset.eos_id()).enumerate();
                let longest = stretches.max_by_key(|(_, ids)| ids.len());
                let Some((number, ids)) = longest else { continue };
                let text = tokenizer.decode(ids);
                // A cut may fall into a character.
                let text = text.trim_matches(char::REPLACEMENT_CHARACTER).to_owned();
                if !text.trim().is_empty() {
                    let (id, source) = (format!("{source} {window}"), format!("{prefix}{source}"));
                    let document = windows.first_document(window) + number as u64;
                    self.documents.entry(source.clone()).or_default().push(document);
                    self.texts.push(TextRecord { id, source, text });
                }
            }
        }
        Ok(())
    }
}

/// What a run could end with, and what was chosen: `forgetting.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForgettingReport {
    /// The limit, %, if there was one.
    pub limit: Option<f64>,
    /// Whether the interval of what was chosen lies below the limit; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_limit: Option<bool>,
    /// The candidates at the end: the final weights, their average, blends with the base, and under a
    /// limit the checkpoint below it that adapted most.
    pub candidates: Vec<Standing>,
    /// Sources of which nothing is measured, since their held-out text is too short.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_measured: Vec<String>,
    /// Name of the candidate that stands in `checkpoint-chosen`.
    pub chosen: String,
    /// Why.
    pub reason: String,
}

impl ForgettingReport {
    /// Chooses among the candidates: without a limit the first, which is the final one; with one, that of
    /// most adaptation among those whose interval lies below the limit, or else the one that forgot least.
    pub(crate) fn new(
        candidates: Vec<Standing>,
        limit: Option<f64>,
        not_measured: Vec<String>,
    ) -> Self {
        let (index, reason) = choose(&candidates, limit);
        let chosen = candidates[index].name.clone();
        let within_limit = limit.map(|limit| candidates[index].reading().high <= limit);
        Self { limit, within_limit, candidates, not_measured, chosen, reason }
    }

    /// What says that a complete run in `out`, which came to `summary`, ended above its limit, if it did.
    pub(crate) fn above_limit(&self, summary: &Summary, out: &Path) -> Option<TrainError> {
        let percent = self.limit.filter(|_| self.within_limit == Some(false))?;
        let chosen = self.candidates.iter().find(|candidate| candidate.name == self.chosen)?;
        Some(TrainError::AboveLimit {
            chosen: self.chosen.clone(),
            forgetting: shown(&chosen.forgetting),
            percent,
            path: out.join(FORGETTING_FILE),
            checkpoint: out.join(CHOSEN_CHECKPOINT),
            summary: Box::new(summary.clone()),
        })
    }
}

/// The step of the checkpoint that adapted most of those that stay and were measured below the limit: the
/// last one below it, and those that are kept for good.
pub(crate) fn best_below(
    metrics: &[Metric],
    limit: f64,
    stays: impl Fn(u64) -> bool,
) -> Option<u64> {
    let below = metrics.iter().filter_map(|metric| match metric {
        Metric::Forgetting { step, forgetting, forgetting_interval, adaptation, .. } => {
            let high = forgetting_interval.map_or(*forgetting, |(_, high)| high);
            (high <= limit && stays(*step)).then_some((*step, *adaptation))
        }
        _ => None,
    });
    below.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).map(|(step, _)| step)
}

fn choose(candidates: &[Standing], limit: Option<f64>) -> (usize, String) {
    let Some(limit) = limit else { return (0, "the recipe sets no limit".to_owned()) };
    let below = |standing: &&(usize, &Standing)| standing.1.reading().high <= limit;
    let all: Vec<(usize, &Standing)> = candidates.iter().enumerate().collect();
    let adapted = |a: &&(usize, &Standing), b: &&(usize, &Standing)| {
        a.1.adaptation.value.total_cmp(&b.1.adaptation.value).then(b.0.cmp(&a.0))
    };
    if let Some((index, _)) = all.iter().filter(below).max_by(adapted) {
        let reason =
            format!("it adapted most of those whose interval is below the limit of {limit} %");
        return (*index, reason);
    }
    let least = all
        .iter()
        .min_by(|a, b| a.1.forgetting.value.total_cmp(&b.1.forgetting.value).then(a.0.cmp(&b.0)));
    let index = least.map_or(0, |(index, _)| *index);
    (index, format!("none is below the limit of {limit} %; it forgot least"))
}

/// The shares of the base at which the sweep is measured.
pub(crate) fn sweep() -> impl Iterator<Item = (String, f64)> {
    SWEEP.into_iter().map(|share| (format!("{share} base"), share))
}

/// Writes the report and its plot: every measurement of the run, and the candidates.
pub(crate) fn write_report(
    out: &Path,
    metrics: &[Metric],
    report: &ForgettingReport,
) -> Result<(), TrainError> {
    let json = serde_json::to_vec_pretty(report).expect("a report has only plain fields");
    write_file_atomic(&out.join(FORGETTING_FILE), &json)?;
    let point = |name: &str, at, x_interval, y_interval| PlanePoint {
        name: name.to_owned(),
        at,
        x_interval,
        y_interval,
    };
    let mut points = vec![point("base", (0.0, 0.0), None, None)];
    // The last measurement is that of the final weights, which is a candidate.
    let last = metrics.iter().rev().find_map(|metric| match metric {
        Metric::Forgetting { step, .. } => Some(*step),
        _ => None,
    });
    for metric in metrics {
        if let Metric::Forgetting {
            step,
            forgetting,
            forgetting_interval,
            adaptation,
            adaptation_interval,
            ..
        } = metric
        {
            let name = format!("step {step}");
            let at = (*adaptation, *forgetting);
            if Some(*step) == last || report.candidates.iter().any(|one| one.name == name) {
                continue;
            }
            points.push(point(&name, at, *adaptation_interval, *forgetting_interval));
        }
    }
    for standing in &report.candidates {
        let ends = |change: &Change| change.interval.map(|interval| (interval.low, interval.high));
        let at = (standing.adaptation.value, standing.forgetting.value);
        let intervals = (ends(&standing.adaptation), ends(&standing.forgetting));
        points.push(point(&standing.name, at, intervals.0, intervals.1));
    }
    let plot = PlanePlot {
        title: "Adaptation against forgetting".to_owned(),
        x_label: "adaptation, % of perplexity on regional text (95 % interval)".to_owned(),
        y_label: "forgetting, % of perplexity on general text".to_owned(),
        points,
        limit: report.limit.map(|limit| (limit, format!("limit {limit} %"))),
        chosen: Some(report.chosen.clone()),
    };
    write_file_atomic(&out.join(PLOT_FILE), plot.to_svg().as_bytes())?;
    Ok(())
}

/// Reads the report of a training folder; `None` where there is none.
///
/// # Errors
/// A damaged file.
pub fn read_forgetting(out: &Path) -> Result<Option<ForgettingReport>, TrainError> {
    let path = out.join(FORGETTING_FILE);
    let Ok(bytes) = fs::read(&path) else { return Ok(None) };
    let report = serde_json::from_slice(&bytes)
        .map_err(|error| TrainError::Checkpoint { path, message: error.to_string() })?;
    Ok(Some(report))
}

/// Takes away what an earlier plan of a run came to, which says nothing of the run that goes on.
pub(crate) fn remove_report(out: &Path) -> Result<(), TrainError> {
    let path = out.join(FORGETTING_FILE);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(TrainError::Io { path, source }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use milpa_eval::statistics::{Interval, LEVEL, Method};

    use super::*;

    fn change(value: f64) -> Change {
        let (low, high) = (value - 1.0, value + 1.0);
        let interval = Interval { low, high, level: LEVEL, method: Method::Bootstrap };
        Change { value, interval: Some(interval) }
    }

    fn standing(name: &str, forgetting: f64, adaptation: f64) -> Standing {
        Standing {
            name: name.to_owned(),
            forgetting: change(forgetting),
            adaptation: change(adaptation),
            texts: Vec::new(),
            tasks: Vec::new(),
            refused: Vec::new(),
            divergence: Divergence::Unavailable { reason: "no model".to_owned() },
        }
    }

    fn summary() -> Summary {
        Summary {
            steps: 32,
            tokens: 4096,
            checkpoint: PathBuf::from("train/checkpoint"),
            digest: Digest([1; 32]),
            final_loss: None,
            validation_bits_per_byte: BTreeMap::new(),
            median_tokens_per_second: 0.0,
            checkpoint_stall: 0.0,
            forgetting: None,
            epochs: BTreeMap::new(),
            data_wait_share: 0.0,
        }
    }

    #[test]
    fn the_choice_adapted_most_below_the_limit_or_says_that_none_is_below() {
        let all = || {
            vec![
                standing("final", 32.0, 60.0),
                standing("step 8", 3.0, 30.0),
                standing("0.5 base", 8.0, 40.0),
                standing("0.75 base", 3.5, 20.0),
            ]
        };
        let check = |limit, chosen: &str, within, above: Option<&str>| {
            let report = ForgettingReport::new(all(), limit, Vec::new());
            assert_eq!((report.chosen.as_str(), report.within_limit), (chosen, within));
            let out = Path::new("train");
            let error = report.above_limit(&summary(), out).map(|error| error.to_string());
            match (above, &error) {
                (Some(expect), Some(error)) => assert!(error.contains(expect), "{error}"),
                _ => assert!(above.is_none() && error.is_none(), "{error:?}"),
            }
        };
        check(None, "final", None, None);
        check(Some(40.0), "final", Some(true), None);
        check(Some(9.0), "0.5 base", Some(true), None);
        check(Some(4.5), "step 8", Some(true), None);
        let message = "\"step 8\" forgot least, +3.0 % (+2.0 to +4.0), and the limit is 2 %. \
                       train/forgetting.json";
        check(Some(2.0), "step 8", Some(false), Some(message));
    }

    #[test]
    fn the_best_checkpoint_below_the_limit_is_one_that_stays() {
        let metric =
            |step, forgetting, adaptation| standing("", forgetting, adaptation).metric(step, 0.0);
        let metrics = [
            metric(8, 1.0, 10.0),
            metric(16, 3.0, 30.0),
            metric(24, 3.5, 40.0),
            metric(32, 9.0, 50.0),
        ];
        assert_eq!(best_below(&metrics, 5.0, |_| true), Some(24));
        assert_eq!(best_below(&metrics, 5.0, |step| step % 16 == 0), Some(16));
        assert_eq!(best_below(&metrics, 1.0, |_| true), None);
    }
}

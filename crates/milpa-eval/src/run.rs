//! Puts an evaluation together: held-out text, tasks and samples, in that order.
//!
//! Tasks are read and checked before the model is asked anything. It writes nothing; the
//! [`Evaluation`] that comes out knows how to.

use std::{collections::BTreeSet, ops::ControlFlow, time::Instant};

use milpa_base::{
    GenerateRequest, Generation, ModelError, Progress, Seed, StopFlag, TextModel, TextRecords,
};

use crate::{
    config::{EvalConfig, TaskEntry},
    error::EvalError,
    items::{ItemSet, Skips, read_items},
    multiple_choice::{Resampling, multiple_choice},
    perplexity::{TextResult, perplexity_by_text},
    report::{EvalReport, Evaluation, REPORT_FORMAT, TextTaskResult, Unavailable},
    samples::generate_samples,
    statistics::{Design, LEVEL, minimum_detectable_difference},
    task::{TaskKind, TaskSpec},
    texts::read_jsonl_texts,
};

/// Correlation of two models' right answers that the printed plan assumes.
const USUAL_CORRELATION: f64 = 0.5;
/// The same of the differences within a cluster.
const USUAL_CLUSTER_CORRELATION: f64 = 0.2;

/// Where progress goes and where a stop is asked for.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Receives progress.
    pub progress: &'a dyn Progress,
    /// Set when the evaluation shall end early.
    pub stop: &'a StopFlag,
}

impl Watch<'_> {
    /// Continues a prompt and hears a stop between any two tokens.
    ///
    /// # Errors
    /// [`EvalError::Interrupted`] after a stop: what was written until then is no answer. What the
    /// model itself refuses or fails at is the inner result, for the caller to count or to name.
    pub(crate) fn generate(
        self,
        model: &dyn TextModel,
        request: &GenerateRequest,
    ) -> Result<Result<Generation, ModelError>, EvalError> {
        if self.stop.is_set() {
            return Err(EvalError::Interrupted);
        }
        let mut stopped = false;
        let generation = model.generate(request, &mut |_| {
            stopped = self.stop.is_set();
            if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if stopped { Err(EvalError::Interrupted) } else { Ok(generation) }
    }
}

/// What a report says of its own making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    /// The command line that does it again.
    pub command_line: String,
    /// Seed of everything drawn, but for samples, which have their own.
    pub seed: Seed,
}

/// A task with what it will be asked.
struct Prepared<'a> {
    spec: TaskSpec,
    entry: &'a TaskEntry,
    items: Option<ItemSet>,
}

/// Evaluates `model` as `config` says; `held_out` is the text for perplexity, if there is any.
///
/// # Errors
/// A task or data file that cannot be used (before any scoring), a model that fails, a stop.
pub fn run(
    model: &dyn TextModel,
    config: &EvalConfig,
    held_out: Option<&mut TextRecords<'_>>,
    info: &RunInfo,
    watch: Watch<'_>,
) -> Result<Evaluation, EvalError> {
    let started = Instant::now();
    let prepared = config.tasks.iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
    let resampling = Resampling { replicates: config.bootstrap_replicates, seed: info.seed };
    for line in prepared.iter().filter_map(detectable) {
        watch.progress.line(&line);
    }
    let mut unavailable = Vec::new();
    let (text, mut texts) = held_out
        .map(|records| {
            let measured =
                perplexity_by_text(model, records, &config.perplexity, resampling, watch);
            where_available("held-out text", measured, &mut unavailable)
        })
        .transpose()?
        .flatten()
        .unzip();
    let texts = texts.get_or_insert_default();
    let (mut tasks, mut text_tasks, mut items) = (Vec::new(), Vec::new(), Vec::new());
    for Prepared { spec, entry, items: set } in &prepared {
        let seed = info.seed.derive(&spec.name);
        let resampling = Resampling { seed, ..resampling };
        if let Some(set) = set {
            let scored = multiple_choice(model, spec, entry.style, set, resampling, watch);
            if let Some((result, scored)) = where_available(&spec.name, scored, &mut unavailable)? {
                tasks.push(result);
                items.extend(scored);
            }
        } else {
            let measured = measure_text_task(model, config, spec, entry, resampling, watch);
            if let Some((result, mut measured)) =
                where_available(&spec.name, measured, &mut unavailable)?
            {
                text_tasks.push(result);
                texts.append(&mut measured);
            }
        }
    }
    let samples = if config.samples.prompts.is_empty() {
        Vec::new()
    } else {
        generate_samples(model, &config.samples, watch)?
    };
    if let (None, true, true, true, Some(first)) =
        (&text, tasks.is_empty(), text_tasks.is_empty(), samples.is_empty(), unavailable.first())
    {
        return Err(EvalError::Unavailable {
            metric: first.metric.clone(),
            reason: first.reason.clone(),
        });
    }
    let report = EvalReport {
        format: REPORT_FORMAT,
        milpa_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: info.command_line.clone(),
        model: model.info().clone(),
        seed: info.seed,
        level: LEVEL,
        bootstrap_replicates: config.bootstrap_replicates,
        perplexity: text,
        tasks,
        text_tasks,
        samples,
        endpoint: model.endpoint(),
        unavailable,
        wall_seconds: started.elapsed().as_secs_f64(),
    };
    Ok(Evaluation { report, items, texts: std::mem::take(texts) })
}

/// A result; what the model cannot tell is noted, and what else is asked goes on.
fn where_available<T>(
    metric: &str,
    result: Result<T, EvalError>,
    unavailable: &mut Vec<Unavailable>,
) -> Result<Option<T>, EvalError> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(EvalError::Model { source: source @ ModelError::Unavailable { .. }, .. }) => {
            let (metric, reason) = (metric.to_owned(), source.to_string());
            unavailable.push(Unavailable { metric, reason });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Reads the task that an entry names.
pub fn load_task(entry: &TaskEntry) -> Result<TaskSpec, EvalError> {
    if entry.is_file() {
        TaskSpec::load(&entry.task.path)
    } else {
        TaskSpec::builtin(&entry.task.written)
    }
}

fn prepare(entry: &TaskEntry) -> Result<Prepared<'_>, EvalError> {
    let spec = load_task(entry)?;
    let path = entry.data_file(&spec)?;
    let items = match spec.kind {
        TaskKind::MultipleChoice => Some(read_items(&spec, entry.style, &path, entry.limit)?),
        TaskKind::Perplexity => None,
        TaskKind::Harness | TaskKind::Conversation => {
            return Err(EvalError::OtherCommand { task: spec.name });
        }
    };
    Ok(Prepared { spec, entry, items })
}

/// What difference between two models a task can find, said before anything is spent on it.
fn detectable(prepared: &Prepared<'_>) -> Option<String> {
    let items = &prepared.items.as_ref()?.items;
    let clusters: BTreeSet<&str> =
        items.iter().filter_map(|item| item.cluster.as_deref()).collect();
    let alone = items.iter().filter(|item| item.cluster.is_none()).count();
    let design = Design {
        cluster_size: items.len() as f64 / (clusters.len() + alone).max(1) as f64,
        cluster_correlation: USUAL_CLUSTER_CORRELATION,
        ..Design::accuracies(0.5, USUAL_CORRELATION)
    };
    Some(format!(
        "{}: {} questions find a difference of {:.1} points between two models near 50 % (paired, \
         80 % power)",
        prepared.spec.name,
        items.len(),
        100.0 * minimum_detectable_difference(items.len() as u64, &design)
    ))
}

fn measure_text_task(
    model: &dyn TextModel,
    config: &EvalConfig,
    spec: &TaskSpec,
    entry: &TaskEntry,
    resampling: Resampling,
    watch: Watch<'_>,
) -> Result<(TextTaskResult, Vec<TextResult>), EvalError> {
    let path = entry.data_file(spec)?;
    let field = spec.perplexity.as_ref().map_or("text", |perplexity| perplexity.text.as_str());
    let mut texts = read_jsonl_texts(&path, field)?.keep_if(&spec.filters);
    let limit = entry.limit.unwrap_or(usize::MAX);
    let records = &mut (&mut texts).take(limit);
    let (report, mut measured) =
        perplexity_by_text(model, records, &config.perplexity, resampling, watch)?;
    for text in &mut measured {
        text.task.clone_from(&spec.name);
    }
    let skips: Skips = texts.skips().clone();
    let result = TextTaskResult { task: spec.name.clone(), version: spec.version, skips, report };
    Ok((result, measured))
}

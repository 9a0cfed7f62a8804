//! `milpa package`: checkpoint and tokenizer to a bundle, with measured numbers on its card.

use std::path::Path;

use anyhow::Result;
use milpa_base::{Digest, Kind, Manifest, TextModel, hash_bytes, manifest::Verify, open_artifact};
use milpa_corpus::{Split, read_split};
use milpa_eval::{EvalReport, ledger::Change};
use milpa_model::LocalModel;
use milpa_package::{Base, Choice, Job, MeasureTexts, Measurement, PackageError};
use milpa_tokens::Tokenizer;
use milpa_train::{BaseModel, CHOSEN_CHECKPOINT, ForgettingReport, read_forgetting};

use crate::{
    Refused,
    commands::eval,
    context::Context,
    origins,
    recipe::{Loaded, Origin, Recipe},
};

/// What a bundle is made from.
pub struct Inputs<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Path,
    /// The tokenizer that it was trained with.
    pub tokenizer: &'a Path,
    /// The evaluation whose numbers go onto the card.
    pub evaluation: Option<&'a Path>,
    /// The corpus on whose validation split the quantised file is compared with the f32 weights.
    pub corpus: Option<&'a Path>,
}

/// Makes the recipe's bundle.
pub fn package(
    context: &Context,
    recipe: &Loaded,
    inputs: &Inputs<'_>,
    out: &Path,
) -> Result<Manifest> {
    context.check_stop()?;
    let config = &recipe.recipe.package;
    let base = base(&recipe.recipe, inputs.checkpoint)?;
    let measurements = match inputs.evaluation {
        Some(dir) => measurements(&eval::read_report(dir)?),
        None => Vec::new(),
    };
    let texts = match inputs.corpus {
        Some(corpus) => held_out(corpus, config.measure.max_bytes.0)?,
        None => Vec::new(),
    };
    let open = |path: &Path| -> Result<Box<dyn TextModel>, PackageError> {
        Ok(Box::new(LocalModel::open(path, context.threads)?))
    };
    let job = Job {
        config,
        name: &recipe.recipe.name,
        checkpoint: inputs.checkpoint,
        tokenizer: inputs.tokenizer,
        base: base.as_ref(),
        measurements: &measurements,
        texts: (!texts.is_empty()).then_some(MeasureTexts {
            name: "held-out text",
            texts: &texts,
            open: &open,
        }),
        threads: context.threads,
        progress: &context.progress,
    };
    Ok(milpa_package::package(&job, out)?)
}

/// Refuses a base whose bundle could not be written as the recipe asks, before any work.
///
/// # Errors
/// A base that cannot be read, or whose kind the files of `[package]` cannot hold.
pub fn check(recipe: &Recipe) -> Result<()> {
    let Origin::Base(base) = recipe.origin() else { return Ok(()) };
    let path = &base.model.path;
    let (description, tokenizer) = (BaseModel::describe(path)?, Tokenizer::open(path)?);
    milpa_package::check_formats(&recipe.package, path, &description, &tokenizer)
        .map_err(|error| Refused(error.to_string()).into())
}

/// Leading parts of the validation documents, the same share of each, up to `max_bytes` in all.
fn held_out(corpus: &Path, max_bytes: u64) -> Result<Vec<String>> {
    open_artifact(corpus, Kind::Corpus, Verify::Contents)?;
    let documents: Vec<String> = read_split(corpus, Split::Validation)?
        .map(|record| record.map(|record| record.text))
        .collect::<std::io::Result<_>>()?;
    let each = (max_bytes as usize / documents.len().max(1)).max(256);
    Ok(documents
        .into_iter()
        .map(|text| text[..text.floor_char_boundary(each)].to_owned())
        .collect())
}

/// Hash of the numbers that go onto the card. The reports themselves hold times and would make the
/// bundle out of date for no reason.
///
/// # Errors
/// A damaged report on forgetting.
pub fn measurements_hash(
    recipe: &Recipe,
    checkpoint: &Path,
    report: &EvalReport,
) -> Result<Digest> {
    let facts = (base(recipe, checkpoint)?, measurements(report));
    Ok(hash_bytes(format!("{facts:?}").as_bytes()))
}

/// The recipe's base, and what was measured against it where the checkpoint is what was chosen then.
fn base(recipe: &Recipe, checkpoint: &Path) -> Result<Option<Base>> {
    let Origin::Base(base) = recipe.origin() else { return Ok(None) };
    let path = &base.model.path;
    anyhow::ensure!(
        path.exists(),
        Refused(format!(
            "the base {} does not exist, and the card names it; set the variable in its path, or check it",
            path.display()
        ))
    );
    let name = origins::model_name(path);
    let is_chosen = checkpoint.file_name().is_some_and(|name| name == CHOSEN_CHECKPOINT);
    let training = checkpoint.parent().filter(|_| is_chosen);
    let report = training.map(read_forgetting).transpose()?.flatten();
    Ok(Some(Base { name, choice: report.as_ref().map(choice) }))
}

fn choice(report: &ForgettingReport) -> Choice {
    let ForgettingReport { limit, chosen, reason, .. } = report;
    let of_chosen = report.candidates.iter().find(|candidate| candidate.name == *chosen);
    let measurement = |measure: &str, on: &str, change: &Change| Measurement {
        measure: format!("{measure}, % of the base's perplexity"),
        on: on.to_owned(),
        weights: None,
        value: change.value,
        interval: change.interval.map(|interval| (interval.low, interval.high)),
    };
    let measurements = of_chosen.map_or_else(Vec::new, |standing| {
        vec![
            measurement("forgetting", "held-out general text", &standing.forgetting),
            measurement("adaptation", "held-out text of the run", &standing.adaptation),
        ]
    });
    Choice { limit: *limit, chosen: chosen.clone(), reason: reason.clone(), measurements }
}

fn measurements(report: &EvalReport) -> Vec<Measurement> {
    let mut measurements = Vec::new();
    for source in report.perplexity.iter().flat_map(|perplexity| &perplexity.sources) {
        measurements.push(Measurement {
            measure: "bits per byte".to_owned(),
            on: format!("held-out {}", source.source),
            weights: None,
            value: source.bits_per_byte,
            interval: source.interval.as_ref().map(|interval| (interval.low, interval.high)),
        });
    }
    for task in &report.tasks {
        for metric in &task.metrics {
            measurements.push(Measurement {
                measure: format!("{} (guessing: {:.3})", metric.metric.name(), task.chance),
                on: format!("{} v{}, n = {}", task.task, task.version, metric.n),
                weights: None,
                value: metric.value,
                interval: Some((metric.interval.low, metric.interval.high)),
            });
        }
    }
    measurements
}

//! `milpa eval`: the recipe's suite, bits per byte of any texts, one multiple-choice task, the building
//! of a benchmark; boards, judges and ledgers lie in files of their own.

pub mod arena;
pub mod compare;
pub mod judge;
pub mod power;

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use milpa_base::{
    Bytes, Digest, Kind, Seed, config::Location, hash_bytes, manifest::Verify, open_artifact,
};
use milpa_corpus::{Split, read_split};
use milpa_eval::{
    EvalConfig, EvalReport, PerplexityConfig, RunInfo, TaskEntry, Watch,
    choclo::{BuildWatch, ChocloConfig},
    perplexity as measure,
    trueque::{TruequeConfig, TruequeFolders},
};

use crate::{
    cli::ScoredModel,
    commands::{
        harness::ENDPOINT_FILE,
        model::{ModelFlags, OpenedModel},
    },
    context::Context,
    recipe::Loaded,
    run::hash_path,
};

/// Answers of an endpoint to `milpa eval perplexity`.
const PERPLEXITY_FILE: &str = "perplexity.endpoint.jsonl";
/// Answers of an endpoint to `milpa eval choice`.
const CHOICE_FILE: &str = "choice.endpoint.jsonl";

fn watch(context: &Context) -> Watch<'_> {
    Watch { progress: &context.progress, stop: &context.stop }
}

/// Hashes of the files that an evaluation reads beside the model and the corpus.
pub fn input_hashes(config: &EvalConfig) -> Result<BTreeMap<String, Digest>> {
    let mut hashes = BTreeMap::new();
    for entry in &config.tasks {
        let name = &entry.task.written;
        if entry.is_file() {
            hashes.insert(format!("task {name}"), hash_path(&entry.task.path)?);
        }
        if let Some(data) = &entry.data {
            hashes.insert(format!("data of {name}: {}", data.written), hash_path(&data.path)?);
        }
    }
    Ok(hashes)
}

/// Measures everything in the recipe's `[eval]` table on the model that the command line names.
pub fn suite_of(
    context: &Context,
    recipe: &Loaded,
    scored: &ScoredModel,
    corpus: &Path,
    out: &Path,
) -> Result<EvalReport> {
    // Beside the folder: what lies in it is of one evaluation, and is replaced whole.
    let mut answers = out.as_os_str().to_owned();
    answers.push(".");
    answers.push(ENDPOINT_FILE);
    let model = OpenedModel::open(context, ModelFlags::scored(scored, Path::new(&answers)))?;
    suite(context, recipe, model, corpus, out)
}

/// Measures everything in the recipe's `[eval]` table.
pub fn suite(
    context: &Context,
    recipe: &Loaded,
    mut model: OpenedModel,
    corpus: &Path,
    out: &Path,
) -> Result<EvalReport> {
    let (_, corpus_digest) = open_artifact(corpus, Kind::Corpus, Verify::Contents)?;
    model.rename(&recipe.recipe.name);
    let config = &recipe.recipe.eval;
    let info = RunInfo {
        command_line: context.command_line(),
        seed: recipe.recipe.seed.derive("evaluation"),
    };
    let mut held_out = read_split(corpus, Split::Validation)?;
    let evaluation =
        milpa_eval::run(model.model(), config, Some(&mut held_out), &info, watch(context));
    let evaluation = model.told(context, evaluation.map_err(Into::into))?;
    let mut inputs = input_hashes(config)?;
    inputs.insert("corpus".to_owned(), corpus_digest);
    inputs.insert("model".to_owned(), hash_bytes(model.model().info().hash.as_bytes()));
    evaluation.write(out, config, inputs)?;
    Ok(evaluation.report)
}

/// Reads the report of an evaluation folder.
pub fn read_report(dir: &Path) -> Result<EvalReport> {
    Ok(milpa_eval::read_report(dir)?)
}

/// Bits per byte on the texts of a JSONL file.
pub fn perplexity(
    context: &Context,
    scored: &ScoredModel,
    data: &Path,
    field: &str,
    max_bytes: Option<Bytes>,
) -> Result<()> {
    let model = OpenedModel::open(context, ModelFlags::scored(scored, Path::new(PERPLEXITY_FILE)))?;
    let mut records = milpa_eval::read_jsonl_texts(data, field)?;
    let config = PerplexityConfig {
        max_bytes_per_source: max_bytes.unwrap_or(PerplexityConfig::default().max_bytes_per_source),
    };
    let defaults = EvalConfig::default();
    let resampling = milpa_eval::multiple_choice::Resampling {
        replicates: defaults.bootstrap_replicates,
        seed: Seed(0),
    };
    let report = measure(model.model(), &mut records, &config, resampling, watch(context));
    let report = model.told(context, report.map_err(Into::into))?;
    for (reason, skipped) in &records.skips().0 {
        context.progress.say(&format!(
            "skipped {} lines: {reason} (first at {:?})",
            skipped.count, skipped.first_lines
        ));
    }
    context.show(&report, || report.to_string())
}

/// One multiple-choice task.
pub fn choice(
    context: &Context,
    scored: &ScoredModel,
    task: &Path,
    data: &Path,
    limit: Option<usize>,
) -> Result<()> {
    let model = OpenedModel::open(context, ModelFlags::scored(scored, Path::new(CHOICE_FILE)))?;
    let config = EvalConfig {
        perplexity: PerplexityConfig::default(),
        tasks: vec![TaskEntry {
            task: Location::plain(task),
            data: Some(Location::plain(data)),
            limit,
            style: milpa_eval::PromptStyle::default(),
        }],
        ..EvalConfig::default()
    };
    let info = RunInfo { command_line: context.command_line(), seed: Seed(0) };
    let evaluation = milpa_eval::run(model.model(), &config, None, &info, watch(context));
    let evaluation = model.told(context, evaluation.map_err(Into::into))?;
    context.show(&evaluation.report, || evaluation.report.to_string())
}

/// Questions about the region from a Wikidata dump.
pub fn build_choclo(context: &Context, config: &ChocloConfig, out: &Path) -> Result<()> {
    let watch = BuildWatch { progress: &context.progress, stop: &context.stop };
    let report = milpa_eval::choclo::build_choclo(config, out, watch)?;
    context.show(&report, || report.to_string())
}

/// Questions of people from the logs of a chat, as far as logs and sheets allow.
pub fn build_trueque(context: &Context, config: &Path, folders: TruequeFolders<'_>) -> Result<()> {
    let config = TruequeConfig::load(config, &|name| std::env::var(name).ok())?;
    let watch = BuildWatch { progress: &context.progress, stop: &context.stop };
    let build = milpa_eval::trueque::build_trueque(&config, folders, context.threads, watch)?;
    context.show(&build, || build.to_string())
}

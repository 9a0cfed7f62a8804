//! `milpa corpus`: build it, ask about one document, show its numbers.

use std::path::Path;

use anyhow::{Result, bail};
use milpa_base::Seed;
use milpa_corpus::{
    Built, CorpusConfig, Shard, Work,
    models::{self, ClassifierConfig, Examples, NgramConfig},
};

use crate::{cli::ExampleArguments, context::Context};

/// Builds a corpus and tells how fast each stage was.
pub fn build(context: &Context, corpus: &CorpusConfig, seed: Seed, out: &Path) -> Result<Built> {
    let built = milpa_corpus::build(corpus, seed, &work(context, out))?;
    if built.found > 0 {
        context.progress.say(&format!("{} found prepared", count(built.found)));
    }
    context.progress.say(&format!("{}\n", built.times));
    Ok(built)
}

/// Prepares a share of a corpus.
pub fn prepare(context: &Context, corpus: &CorpusConfig, out: &Path, shard: Shard) -> Result<()> {
    let prepared = milpa_corpus::prepare(corpus, shard, &work(context, out))?;
    let (parts, found, documents) = (prepared.parts, prepared.found, prepared.documents);
    context.progress.say(&format!("{}\n", prepared.times));
    let answer = serde_json::json!({
        "shard": shard.to_string(),
        "parts": parts,
        "found": found,
        "documents": documents,
        "stages": prepared.times.stages(),
    });
    context.show(&answer, || {
        let merge = "when all shards are done, run the same command without --shard to merge them";
        let parts = count(parts);
        format!(
            "shard {shard}: {parts}, {found} of them found prepared, {documents} documents; {merge}"
        )
    })
}

/// Trains a classifier and says how good it is.
pub fn classifier(
    context: &Context,
    arguments: &ExampleArguments,
    label_field: &str,
    out: &Path,
) -> Result<()> {
    let config = ClassifierConfig::default();
    let report = models::classifier(&examples(arguments), label_field, &config, out)?;
    context.show(&report, || format!("{report}\nwritten to {}", out.display()))
}

/// Estimates an n-gram model and says where its buckets end.
pub fn ngrams(
    context: &Context,
    arguments: &ExampleArguments,
    order: usize,
    out: &Path,
) -> Result<()> {
    let config = NgramConfig { order, ..NgramConfig::default() };
    let report = models::ngrams(&examples(arguments), config, out)?;
    context.show(&report, || format!("{report}\nwritten to {}", out.display()))
}

fn examples(arguments: &ExampleArguments) -> Examples<'_> {
    Examples {
        path: &arguments.data,
        text_field: &arguments.text_field,
        group_field: arguments.group_field.as_deref(),
        limit: arguments.limit,
    }
}

fn count(parts: usize) -> String {
    format!("{parts} part{}", if parts == 1 { "" } else { "s" })
}

fn work<'a>(context: &'a Context, out: &'a Path) -> Work<'a> {
    Work { threads: context.threads, out, progress: &context.progress, stop: &context.stop }
}

/// Says what became of a document.
pub fn why(context: &Context, corpus: &Path, document: &str) -> Result<()> {
    let fates = milpa_corpus::why(corpus, document)?;
    if fates.is_empty() {
        bail!(
            "no document of {} has the id or URL {document:?}, whole or in part; a record that could \
             not be read has no id of its own: `milpa corpus stats {}` counts those",
            corpus.display(),
            corpus.display()
        );
    }
    context.show(&fates, || fates.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Shows documents and bytes by source and language, and what was dropped.
pub fn stats(context: &Context, corpus: &Path) -> Result<()> {
    let stats = milpa_corpus::stats(corpus)?;
    context.show(&stats, || stats.to_string())
}

//! `milpa tokens`: train a tokenizer, encode a corpus, show how a tokenizer cuts.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use milpa_base::{Kind, Manifest, TextRecord, manifest::Verify, open_artifact};
use milpa_corpus::{Split, read_split};
use milpa_tokens::{Tokenizer, encode_shards, inspect_tokenizer, train_tokenizer};

use crate::{context::Context, recipe::Loaded};

fn stage(context: &Context) -> milpa_tokens::Context<'_> {
    milpa_tokens::Context {
        threads: context.threads,
        progress: &context.progress,
        stop: &context.stop,
    }
}

/// Trains the recipe's tokenizer on the training split of a corpus.
pub fn train(context: &Context, recipe: &Loaded, corpus: &Path, out: &Path) -> Result<Manifest> {
    let (manifest, digest) = open_artifact(corpus, Kind::Corpus, Verify::Contents)?;
    let config = &recipe.recipe.tokenizer;
    let mut records = read_split(corpus, Split::Train)?;
    let trained = train_tokenizer(config, &mut records, &stage(context))?;
    let inputs = BTreeMap::from([("corpus".to_owned(), digest)]);
    Ok(trained.write(out, config, inputs, manifest.licences)?)
}

/// Encodes both splits of a corpus.
pub fn encode(
    context: &Context,
    recipe: &Loaded,
    corpus: &Path,
    tokenizer: &Path,
    out: &Path,
) -> Result<Manifest> {
    let (manifest, corpus_digest) = open_artifact(corpus, Kind::Corpus, Verify::Contents)?;
    let (_, tokenizer_digest) = open_artifact(tokenizer, Kind::Tokenizer, Verify::Contents)?;
    let tokenizer = Tokenizer::open(tokenizer)?;
    let inputs = BTreeMap::from([
        ("corpus".to_owned(), corpus_digest),
        ("tokenizer".to_owned(), tokenizer_digest),
    ]);
    Ok(encode_shards(
        out,
        &recipe.recipe.tokens,
        &tokenizer,
        &mut read_split(corpus, Split::Train)?,
        &mut read_split(corpus, Split::Validation)?,
        inputs,
        manifest.licences,
        &stage(context),
    )?)
}

/// Shows how a tokenizer cuts texts.
pub fn inspect(
    context: &Context,
    tokenizer: &Path,
    data: Option<&Path>,
    text: Option<&str>,
) -> Result<()> {
    let tokenizer = Tokenizer::open(tokenizer)?;
    if let Some(text) = text {
        let ids = tokenizer.encode(text);
        let pieces: Vec<String> = ids.iter().map(|id| tokenizer.decode(&[*id])).collect();
        let value = serde_json::json!({
            "ids": ids, "tokens": pieces, "bytes": text.len(), "tokenizer": tokenizer.hash(),
        });
        return context.show(&value, || {
            format!("{}\n{} tokens, {} bytes", pieces.join("|"), ids.len(), text.len())
        });
    }
    let data = data.context("give --data FILE or --text TEXT to say what should be cut")?;
    let mut records = milpa_eval::read_jsonl_texts(data, "text")?
        .map(|record| record.map(|text| TextRecord { source: text.source, ..text }));
    let report = inspect_tokenizer(&tokenizer, &mut records, &stage(context))?;
    context.show(&report, || report.to_string())
}

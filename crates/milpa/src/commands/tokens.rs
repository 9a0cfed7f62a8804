//! `milpa tokens`: train a tokenizer, encode a corpus, show how a tokenizer cuts.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use milpa_base::{Kind, Manifest, TextRecord, manifest::Verify, open_artifact};
use milpa_corpus::{Document, Split, read_split, read_weighted};
use milpa_text::Classifier;
use milpa_tokens::{
    DocumentValue, QualityConfig, Tokenizer, ValuedRecord, encode_valued_shards, inspect_tokenizer,
    train_tokenizer,
};

use crate::{context::Context, recipe::Loaded, run::hash_path};

pub fn stage(context: &Context) -> milpa_tokens::Context<'_> {
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

/// A classifier with the place of the label that means quality.
type QualityModel = (Classifier, usize);

/// Reads the classifier of `[tokens] quality`.
fn quality_model(config: &QualityConfig) -> Result<QualityModel> {
    let path = &config.model.path;
    let bytes = std::fs::read(path).with_context(|| {
        format!("cannot read the classifier {} of [tokens] quality", path.display())
    })?;
    let classifier = Classifier::from_bytes(&bytes)
        .with_context(|| format!("{} is no classifier", path.display()))?;
    let label = classifier.label(&config.label).with_context(|| {
        format!(
            "the classifier {} has no label {:?}; it has {}",
            path.display(),
            config.label,
            classifier.labels().join(", ")
        )
    })?;
    Ok((classifier, label))
}

/// A document with what is known of it.
fn valued(document: Document, quality: Option<&QualityModel>) -> ValuedRecord {
    let Document { id, source, text, perplexity, .. } = document;
    let quality =
        quality.map(|(classifier, label)| classifier.predict(&text).probabilities[*label]);
    let values = [(DocumentValue::Perplexity, perplexity), (DocumentValue::Quality, quality)];
    let known = |(value, number): (DocumentValue, Option<f32>)| Some((value, number?));
    ValuedRecord {
        record: TextRecord { id, source, text },
        values: values.into_iter().filter_map(known).collect(),
    }
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
    let mut inputs = BTreeMap::from([
        ("corpus".to_owned(), corpus_digest),
        ("tokenizer".to_owned(), tokenizer_digest),
    ]);
    if let Some(quality) = &recipe.recipe.tokens.quality {
        inputs.insert("quality".to_owned(), hash_path(&quality.model.path)?);
    }
    let quality = recipe.recipe.tokens.quality.as_ref().map(quality_model).transpose()?;
    let records = |split| -> Result<_> {
        let documents = read_weighted(corpus, split)?;
        Ok(documents.map(|document| document.map(|document| valued(document, quality.as_ref()))))
    };
    Ok(encode_valued_shards(
        out,
        &recipe.recipe.tokens,
        &tokenizer,
        &mut records(Split::Train)?,
        &mut records(Split::Validation)?,
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

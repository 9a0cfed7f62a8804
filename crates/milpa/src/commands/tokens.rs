//! `milpa tokens`: train a tokenizer, encode a corpus, show how a tokenizer cuts.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use milpa_base::{
    ArtifactWriter, Digest, Kind, Manifest, TextRecord,
    artifact::Record,
    manifest::{MANIFEST_FILE, Verify},
    open_artifact,
};
use milpa_corpus::{Document, Split, read_split, read_weighted};
use milpa_text::Classifier;
use milpa_tokens::{
    DocumentValue, Tokenizer, TokensConfig, ValuedRecord, encode_valued_shards, inspect_tokenizer,
    train_tokenizer,
};
use milpa_train::BaseConfig;

use crate::{
    Refused,
    context::Context,
    recipe::{Loaded, Origin},
    run::hash_path,
};

pub fn stage(context: &Context) -> milpa_tokens::Context<'_> {
    milpa_tokens::Context {
        threads: context.threads,
        progress: &context.progress,
        stop: &context.stop,
    }
}

/// Trains the recipe's tokenizer on the training split of a corpus, or takes that of its base.
pub fn train(context: &Context, recipe: &Loaded, corpus: &Path, out: &Path) -> Result<Manifest> {
    let config = match recipe.recipe.origin() {
        Origin::Base(base) => return import(context, base, out),
        Origin::New { tokenizer, .. } => tokenizer,
    };
    let (manifest, digest) = open_artifact(corpus, Kind::Corpus, Verify::Contents)?;
    let mut records = read_split(corpus, Split::Train)?;
    let trained = train_tokenizer(config, &mut records, &stage(context))?;
    let inputs = BTreeMap::from([("corpus".to_owned(), digest)]);
    Ok(trained.write(out, config, inputs, manifest.licences)?)
}

/// Makes the tokenizer of the recipe's base an artifact of the run.
fn import(context: &Context, base: &BaseConfig, out: &Path) -> Result<Manifest> {
    let tokenizer = Tokenizer::open(&base.model.path)?;
    let template = tokenizer.chat_template().cloned();
    let template = template.unwrap_or_else(milpa_tokens::ChatTemplate::continuation);
    let inputs = BTreeMap::from([("base tokenizer".to_owned(), tokenizer.hash())]);
    let mut record = Record::new("tokenizer", base, inputs)?;
    record.counts.insert("vocabulary".to_owned(), tokenizer.vocab_size() as u64);
    let writer = ArtifactWriter::begin(out, Kind::Tokenizer)?;
    tokenizer.write_files(writer.dir(), &template)?;
    context.progress.say(&format!(
        "  the tokenizer of {}: {} tokens",
        base.model.path.display(),
        tokenizer.vocab_size()
    ));
    Ok(writer.finish(record)?)
}

/// Verifies a folder that is a tokenizer artifact; one of Hugging Face has nothing to be held against.
///
/// # Errors
/// A damaged artifact.
pub fn verify_tokenizer(path: &Path) -> Result<Digest> {
    if path.join(MANIFEST_FILE).exists() {
        let kind = match Manifest::read(path)?.kind {
            model @ (Kind::Checkpoint | Kind::Bundle) => model,
            _ => Kind::Tokenizer,
        };
        return Ok(open_artifact(path, kind, Verify::Contents)?.1);
    }
    Ok(Tokenizer::open(path)?.hash())
}

/// A classifier with the place of the label that means quality.
pub type QualityModel = (Classifier, usize);

/// Reads the classifier of `[tokens] quality`, where there is one.
///
/// # Errors
/// A file that cannot be read or is no classifier, and one without the label.
pub fn quality_model(config: &TokensConfig) -> Result<Option<QualityModel>> {
    let Some(config) = &config.quality else { return Ok(None) };
    let path = &config.model.path;
    let bytes = std::fs::read(path).with_context(|| {
        Refused(format!("cannot read the classifier {} of [tokens] quality", path.display()))
    })?;
    let classifier = Classifier::from_bytes(&bytes)
        .with_context(|| Refused(format!("{} is no classifier", path.display())))?;
    let label = classifier.label(&config.label).with_context(|| {
        Refused(format!(
            "the classifier {} has no label {:?}; it has {}",
            path.display(),
            config.label,
            classifier.labels().join(", ")
        ))
    })?;
    Ok(Some((classifier, label)))
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
    let tokenizer_digest = verify_tokenizer(tokenizer)?;
    let tokenizer = Tokenizer::open(tokenizer)?;
    let mut inputs = BTreeMap::from([
        ("corpus".to_owned(), corpus_digest),
        ("tokenizer".to_owned(), tokenizer_digest),
    ]);
    if let Some(quality) = &recipe.recipe.tokens.quality {
        inputs.insert("quality".to_owned(), hash_path(&quality.model.path)?);
    }
    let quality = quality_model(&recipe.recipe.tokens)?;
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

//! `milpa tokens extend`: more tokens for a base, and rows for them in its weights.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use milpa_base::{Digest, Kind, Manifest, manifest::Verify, open_artifact};
use milpa_corpus::{Split, read_split};
use milpa_model::{FolderContext, NewRows, extend_model};
use milpa_tokens::{ExtendConfig, ExtendedTokenizer, Tokenizer, extend_tokenizer};

use super::tokens;
use crate::{
    cli::{ExtendArguments, NewRowsChoice},
    context::Context,
    run::hash_path,
};

/// Writes the extended tokenizer, or the extended model with it.
pub fn extend(context: &Context, arguments: &ExtendArguments) -> Result<Manifest> {
    let base = arguments.base.as_ref().or(arguments.model.as_ref());
    let base = base.context("name a tokenizer with --base, or a model with --model")?;
    ensure!(
        base.exists(),
        "{} does not exist; give a tokenizer, a checkpoint or a Hugging Face folder",
        base.display()
    );
    let Some(model) = &arguments.model else {
        let (extended, learned) = learn(context, arguments, base)?;
        let Learned { config, inputs, licences } = learned;
        return Ok(extended.write(&arguments.out, &config, inputs, licences)?);
    };
    let tokenizer = match &arguments.tokenizer {
        Some(path) => Tokenizer::open(path)?,
        None => learn(context, arguments, base)?.0.tokenizer,
    };
    let method = match arguments.new_rows {
        NewRowsChoice::MeanOfParts => NewRows::MeanOfParts,
        NewRowsChoice::MeanOfAll => NewRows::MeanOfAll,
    };
    let work = FolderContext {
        threads: context.threads,
        progress: &context.progress,
        stop: &context.stop,
    };
    Ok(extend_model(model, &tokenizer, method, &arguments.out, &work)?)
}

/// What an extended tokenizer was made from, for its manifest.
struct Learned {
    config: ExtendConfig,
    inputs: BTreeMap<String, Digest>,
    licences: Vec<String>,
}

/// Learns the new tokens, and says what they give.
fn learn(
    context: &Context,
    arguments: &ExtendArguments,
    base: &Path,
) -> Result<(ExtendedTokenizer, Learned)> {
    let tokenizer = Tokenizer::open(base)?;
    let config = ExtendConfig {
        add: arguments.add.context("say with --add how many tokens are wanted")?,
        min_count: arguments.min_count,
        sample: arguments.sample,
    };
    let mut inputs = BTreeMap::from([("base".to_owned(), tokenizer.hash())]);
    let stage = tokens::stage(context);
    let (extended, licences) = match (&arguments.corpus, &arguments.data) {
        (Some(corpus), _) => {
            let (manifest, digest) = open_artifact(corpus, Kind::Corpus, Verify::Contents)?;
            inputs.insert("corpus".to_owned(), digest);
            let mut records = read_split(corpus, Split::Train)?;
            (extend_tokenizer(&tokenizer, &config, &mut records, &stage)?, manifest.licences)
        }
        (None, Some(data)) => {
            inputs.insert("data".to_owned(), hash_path(data)?);
            let mut records = milpa_eval::read_jsonl_texts(data, &arguments.text_field)?;
            (extend_tokenizer(&tokenizer, &config, &mut records, &stage)?, Vec::new())
        }
        (None, None) => anyhow::bail!("name the text to learn from with --corpus or --data"),
    };
    let report = &extended.report;
    if (report.new_tokens as usize) < config.add {
        context.progress.say(&format!(
            "the text has pairs for {} new tokens, not {}: a pair counts from {} times on",
            report.new_tokens, config.add, config.min_count
        ));
    }
    let bytes_per = |count: u64| report.text_bytes as f64 / count.max(1) as f64;
    context.progress.say(&format!(
        "{} tokens, then {} new ones; on the text that they were learned from a token has {:.2} bytes \
         instead of {:.2}",
        report.base_tokens,
        report.new_tokens,
        bytes_per(report.tokens_after),
        bytes_per(report.tokens_before)
    ));
    Ok((extended, Learned { config, inputs, licences }))
}

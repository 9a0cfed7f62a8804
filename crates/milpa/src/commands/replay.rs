//! `milpa tokens generate-replay`: text of a model's own, as token shards for its continued training.
//!
//! Documents begin at the start token and are drawn from the model, each with a seed of its own, a batch
//! of them in step. They are kept in a file beside the folder as they come, so that a cut run goes on with
//! the batch that it was at and ends in the same bytes.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use milpa_base::{
    Digest, GenerateRequest, Generation, Kind, Manifest, Progress, Sampling, Seed, TextModel,
    TextRecord, artifact::Record, manifest::Verify, open_artifact,
};
use milpa_tokens::{Tokenizer, ValuedRecord, encode_valued_shards};
use serde::{Deserialize, Serialize};

use super::{
    chat::{self, ModelPaths},
    tokens,
};
use crate::{Refused, cli::ReplayArguments, context::Context};

/// Name of the source in the shards.
const SOURCE: &str = "generated";
/// Longest line of the file of documents: a whole context of long tokens.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// Documents that are written in step unless another number is asked for: more gain little on a CPU.
const BATCH_SIZE: usize = 32;
/// Most that can be asked for.
const MAX_BATCH_SIZE: usize = 1024;
/// Memory that keys and values may take where the number is not asked for.
const MAX_CACHE_BYTES: u64 = 2 << 30;
/// Documents without text after which a model is given up.
const MAX_EMPTY: usize = 1000;

/// What the text depends on; stands in the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// BLAKE3 of the model's weights.
    model: String,
    /// The tokenizer of the shards.
    tokenizer: Digest,
    tokens: u64,
    temperature: f32,
    top_p: f32,
    max_tokens: usize,
    batch_size: usize,
    seed: u64,
}

/// A document as it waits in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    text: String,
    /// In the shards, with the end of text.
    tokens: u64,
}

/// Writes the shards, or goes on where a cut run stopped.
pub fn generate(context: &Context, arguments: &ReplayArguments) -> Result<Manifest> {
    let ReplayArguments { temperature, top_p, out, .. } = arguments;
    ensure!(
        *temperature > 0.0 && temperature.is_finite(),
        "--temperature is {temperature}; it is above 0, or every document would be the same"
    );
    ensure!(*top_p > 0.0 && *top_p <= 1.0, "--top-p is {top_p}; it is above 0 and at most 1");
    ensure!(
        arguments.tokens.0 > 0,
        "--tokens is 0; say how much text is wanted, such as \"1M tokens\""
    );
    let model = chat::open(context, ModelPaths { model: &arguments.model, adapter: None })?;
    let tokenizer = match &arguments.tokenizer {
        Some(path) => Tokenizer::open(path)?,
        None => model.tokenizer().clone(),
    };
    let info = model.info().clone();
    let room = info.context_length.saturating_sub(1);
    let max_tokens = arguments.max_tokens.unwrap_or(room);
    ensure!(
        (1..=room).contains(&max_tokens),
        "--max-tokens is {max_tokens}; the model writes 1 to {room} tokens in one go"
    );
    let batch_size = match arguments.batch_size {
        Some(size) if !(1..=MAX_BATCH_SIZE).contains(&size) => {
            bail!("--batch-size is {size}; it is 1 to {MAX_BATCH_SIZE} documents")
        }
        Some(size) => size,
        None => {
            let each = model.description().cache_bytes(max_tokens + 1).max(1);
            (MAX_CACHE_BYTES / each).clamp(1, BATCH_SIZE as u64) as usize
        }
    };
    let settings = Settings {
        model: info.hash.clone(),
        tokenizer: tokenizer.hash(),
        tokens: arguments.tokens.0,
        temperature: *temperature,
        top_p: *top_p,
        max_tokens,
        batch_size,
        seed: arguments.seed,
    };
    let inputs = BTreeMap::from([("tokenizer".to_owned(), tokenizer.hash())]);
    if let Ok((manifest, _)) = open_artifact(out, Kind::Tokens, Verify::Contents) {
        let key = Record::new("tokens", &settings, inputs)?.key;
        if Some(manifest.key) == key {
            context.progress.say("the replay is complete already");
            return Ok(manifest);
        }
        bail!(Refused(format!(
            "{} holds other token shards; choose another --out, or move them away",
            out.display()
        )));
    }
    let path = beside(out);
    let mut texts = Texts::open(&path, &settings)?;
    if texts.documents > 0 {
        let said = format!("going on after document {} of {}", texts.documents, path.display());
        context.progress.say(&said);
    }
    context.progress.begin("Generating", Some(settings.tokens), "tokens");
    let request = |document: u64| GenerateRequest {
        prompt: String::new(),
        parse_special: false,
        truncate_prompt: false,
        max_tokens,
        sampling: Sampling {
            temperature: *temperature,
            top_p: *top_p,
            seed: Seed(settings.seed).derive("replay").nth(document).0,
            ..Sampling::default()
        },
        stop: Vec::new(),
        logprobs: None,
    };
    let mut empty = 0;
    while texts.tokens < settings.tokens {
        context.check_stop()?;
        // Of a batch that was cut all are drawn again: a text depends on how many are drawn together.
        let first = texts.documents - texts.documents % batch_size as u64;
        let requests: Vec<_> = (first..).take(batch_size).map(request).collect();
        let generations = model.generate_batch(&requests, &|| context.stop.is_set())?;
        context.check_stop()?;
        for Generation { text, .. } in
            generations.into_iter().skip((texts.documents - first) as usize)
        {
            // A document without text is left out of the shards, but has its number.
            let count = if text.is_empty() { 0 } else { tokenizer.encode(&text).len() as u64 + 1 };
            empty = if count == 0 { empty + 1 } else { 0 };
            texts.add(&Written { text, tokens: count })?;
            if texts.tokens >= settings.tokens {
                break;
            }
        }
        ensure!(
            empty < MAX_EMPTY,
            "the model ended {empty} documents in a row without a word; raise --temperature, or use \
             another model"
        );
        context.progress.advance(texts.tokens.min(settings.tokens));
    }
    context.progress.end();
    let mut records = texts.records()?;
    let manifest = encode_valued_shards(
        out,
        &settings,
        &tokenizer,
        &mut records,
        &mut std::iter::empty(),
        // The model stands in the settings: its weights may be one file, which is no artifact.
        BTreeMap::new(),
        licences(&arguments.model, &info.name),
        &tokens::stage(context),
    )?;
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(manifest)
}

/// Licences of the model, which may bind its text.
fn licences(model: &Path, name: &str) -> Vec<String> {
    match Manifest::read_with_digest(model) {
        Ok((manifest, _)) if !manifest.licences.is_empty() => manifest.licences,
        _ => vec![format!("generated by {name}")],
    }
}

/// The file of documents beside the folder.
fn beside(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".documents.jsonl");
    PathBuf::from(name)
}

/// Documents on disk: a line with the settings, then one for each.
struct Texts {
    path: PathBuf,
    file: File,
    documents: u64,
    tokens: u64,
}

impl Texts {
    /// Opens the file, or begins it; a line that was cut is taken away.
    fn open(path: &Path, settings: &Settings) -> Result<Self> {
        let describe = || format!("cannot use {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(describe)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(describe)?;
        let (mut documents, mut tokens, mut whole) = (0, 0, 0);
        let mut reader = BufReader::new(&file);
        let mut first = true;
        while let Some(line) = next_line(&mut reader).with_context(describe)? {
            if std::mem::take(&mut first) {
                let begun: Option<Settings> = serde_json::from_slice(&line).ok();
                ensure!(
                    begun.as_ref() == Some(settings),
                    Refused(format!(
                        "{} holds text of another model or of other settings; choose another --out, or \
                         remove the file to begin anew",
                        path.display()
                    ))
                );
            } else {
                let written: Written = serde_json::from_slice(&line).with_context(|| {
                    format!("{} is damaged; remove it to begin anew", path.display())
                })?;
                documents += 1;
                tokens += written.tokens;
            }
            whole += line.len() as u64;
        }
        file.set_len(whole).with_context(describe)?;
        if first {
            write_line(&mut file, settings).with_context(describe)?;
        }
        Ok(Self { path: path.to_owned(), file, documents, tokens })
    }

    fn add(&mut self, written: &Written) -> Result<()> {
        write_line(&mut self.file, written)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.documents += 1;
        self.tokens += written.tokens;
        Ok(())
    }

    /// The documents with text, in order.
    fn records(&self) -> Result<impl Iterator<Item = std::io::Result<ValuedRecord>> + use<>> {
        let file = File::open(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let mut reader = BufReader::new(file);
        let mut number = 0;
        let mut next = move || -> std::io::Result<Option<ValuedRecord>> {
            while let Some(line) = next_line(&mut reader)? {
                number += 1;
                // The first line has the settings.
                if number == 1 {
                    continue;
                }
                let Written { text, .. } = serde_json::from_slice(&line)?;
                if !text.is_empty() {
                    let id = format!("{SOURCE}-{}", number - 2);
                    let record = TextRecord { id, source: SOURCE.to_owned(), text };
                    return Ok(Some(record.into()));
                }
            }
            Ok(None)
        };
        Ok(std::iter::from_fn(move || next().transpose()))
    }
}

fn write_line(file: &mut File, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// The next whole line with its end; none at the end or before a line that was cut.
fn next_line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    Ok((line.last() == Some(&b'\n')).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_file_goes_on_after_its_last_whole_document() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("replay.documents.jsonl");
        let settings = Settings {
            model: "m".to_owned(),
            tokenizer: Digest([1; 32]),
            tokens: 100,
            temperature: 0.7,
            top_p: 1.0,
            max_tokens: 10,
            batch_size: 2,
            seed: 1,
        };
        let mut texts = Texts::open(&path, &settings).unwrap();
        for (text, tokens) in [("uno", 3), ("", 0), ("dos", 4)] {
            texts.add(&Written { text: text.to_owned(), tokens }).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let again = Texts::open(&path, &settings).unwrap();
            let lines = whole[..cut].split(|byte| *byte == b'\n').count() as u64 - 1;
            assert_eq!(again.documents, lines.saturating_sub(1));
            assert!(fs::read(&path).unwrap().ends_with(b"\n"));
        }
        fs::write(&path, &whole).unwrap();
        let texts = Texts::open(&path, &settings).unwrap();
        assert_eq!((texts.documents, texts.tokens), (3, 7));
        let read: Vec<String> =
            texts.records().unwrap().map(|record| record.unwrap().record.text).collect();
        assert_eq!(read, ["uno", "dos"]);
        let other = Settings { seed: 2, ..settings };
        let error = Texts::open(&path, &other).err().unwrap().to_string();
        assert!(error.contains("another model or of other settings"), "{error}");
    }
}

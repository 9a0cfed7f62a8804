//! Extends the models that `reference/extension_check.py make DIR` has written, each by tokens learned from
//! a text, and says what becomes of other texts for `reference/extension_check.py check DIR`:
//!
//! `cargo run --release -p milpa-model --example extension_check -- DIR [TOKENS]`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::{error::Error, fs, path::Path};

use milpa_base::{Silent, StopFlag, TextRecord};
use milpa_model::{
    Decoder, Device, FolderContext, NewRows, TokenBatch, extend_model, extend_vocabulary,
    read_hf_description, read_hf_weights, weights_bytes,
};
use milpa_tensor::Tape;
use milpa_tokens::{Context, ExtendConfig, Tokenizer, extend_tokenizer};
use serde::Serialize;

/// New tokens of each base, if not said.
const ADDED: usize = 200;
/// Tokens of a text whose logits are told.
const TOLD: usize = 6;

#[derive(Serialize)]
struct Told {
    /// Tokens of the base.
    old: usize,
    /// Old tokens that each new one stands for.
    parts: Vec<Vec<u32>>,
    texts: Vec<ToldText>,
}

#[derive(Serialize)]
struct ToldText {
    before: Vec<u32>,
    after: Vec<u32>,
    /// `[tokens, vocabulary]` of the first tokens, for some of the texts.
    logits: Option<Vec<f32>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("give the folder that the script has written")?;
    let add = std::env::args().nth(2).map_or(Ok(ADDED), |add| add.parse())?;
    let mut cases: Vec<_> =
        fs::read_dir(&dir)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    cases.retain(|case| case.is_dir());
    cases.sort();
    for case in &cases {
        extend(case, add).map_err(|error| format!("{}: {error}", case.display()))?;
        println!("{} is extended", case.file_name().unwrap_or_default().display());
    }
    Ok(())
}

fn extend(case: &Path, add: usize) -> Result<(), Box<dyn Error>> {
    let texts = |name: &str| -> Result<Vec<String>, Box<dyn Error>> {
        Ok(serde_json::from_slice(&fs::read(case.join(name))?)?)
    };
    let (folder, out) = (case.join("base"), case.join("extended"));
    let base = Tokenizer::open(&folder)?;
    let mut records = texts("learn.json")?.into_iter().enumerate().map(|(index, text)| {
        Ok(TextRecord { id: index.to_string(), source: "learn".to_owned(), text })
    });
    let stop = StopFlag::default();
    let context = Context { threads: 2, progress: &Silent, stop: &stop };
    let config = ExtendConfig { add, min_count: 2, sample: None };
    let extended = extend_tokenizer(&base, &config, &mut records, &context)?;
    let context = FolderContext { threads: 2, progress: &Silent, stop: &stop };
    let method = NewRows::MeanOfParts;
    extend_model(&folder, &extended.tokenizer, method, &out, &context)?;

    let device = Device::cpu(2);
    let description = read_hf_description(&out)?;
    let parameters = read_hf_weights(&out, &description, &device)?;
    let (old, old_description) = (base.vocab_size(), read_hf_description(&folder)?);
    let before = read_hf_weights(&folder, &old_description, &device)?;
    let (_, in_memory) =
        extend_vocabulary(&before, &old_description, old, &extended.parts, method)?;
    if weights_bytes(&in_memory) != weights_bytes(&parameters) {
        return Err("in memory and in folders the extension is not the same".into());
    }
    let decoder = Decoder::new(&description, &parameters)?;
    let mut told = Vec::new();
    for (index, text) in texts("texts.json")?.iter().enumerate() {
        let (before, after) = (base.encode(text), extended.tokenizer.encode(text));
        let logits = if index % 16 == 0 && !after.is_empty() {
            let tokens = &after[..after.len().min(TOLD)];
            let tape = Tape::inference(device.clone());
            let batch = TokenBatch::new(tokens, tokens.len());
            let x_btd = decoder.forward_hidden(&tape, &parameters, &batch)?;
            let rows: Vec<u32> = (0..tokens.len() as u32).collect();
            Some(tape.read(&decoder.logits(&tape, &parameters, &x_btd, &rows)?))
        } else {
            None
        };
        told.push(ToldText { before, after, logits });
    }
    let told = Told { old, parts: extended.parts, texts: told };
    fs::write(case.join("ours.json"), serde_json::to_vec(&told)?)?;
    Ok(())
}

//! Runs the tokenizer alone, for the comparisons in `reference/tokenizer_*.py` and for measuring:
//!
//! - `tokens train OUT VOCAB_SIZE MIN_COUNT TEXTS…` trains on JSONL files with a `text` field
//! - `tokens ids TOKENIZER TEXTS` prints the ids of each text as JSONL
//! - `tokens special-ids TOKENIZER TEXTS` the same, reading special tokens as such
//! - `tokens speed TOKENIZER TEXTS…` encodes the texts on one thread, once for each line of standard
//!   input, and prints a JSON line with the seconds
//! - `tokens json TOKENIZER OUT` writes its `tokenizer.json`
//! - `tokens inspect TOKENIZER TEXTS…` prints the report
//! - `tokens render CASES` renders JSONL of `template`, `messages`, `tools`, `documents`,
//!   `variables`, `add_generation_prompt` and `now` (`[year, month, day, hour, minute, second]`), and
//!   prints text and assistant's spans in bytes, or the error; `tokens render CASES TOKENIZER` also
//!   prints ids and the assistant's mask
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

use std::{collections::BTreeMap, io, path::Path, time::Instant};

use milpa_base::{
    Silent, StopFlag, TextRecord,
    lines::{Line, LineReader},
};
use milpa_tokens::{
    ChatTemplate, Context, Conversation, Moment, RenderOptions, Tokenizer, TokenizerConfig,
    inspect_tokenizer, train_tokenizer,
};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let stop = StopFlag::default();
    let threads = std::thread::available_parallelism()?.get();
    let context = Context { threads, progress: &Silent, stop: &stop };
    match &words[..] {
        ["train", out, vocab_size, min_count, texts @ ..] => {
            let config = TokenizerConfig {
                vocab_size: vocab_size.parse()?,
                min_count: min_count.parse()?,
                ..TokenizerConfig::default()
            };
            let start = Instant::now();
            let mut records = texts.iter().flat_map(|path| stream(path));
            let trained = train_tokenizer(&config, &mut records, &context)?;
            eprintln!(
                "{:.2} s with reading on {threads} threads: {:?}",
                start.elapsed().as_secs_f64(),
                trained.report
            );
            trained.write(Path::new(out), &config, BTreeMap::new(), Vec::new())?;
        }
        [mode @ ("ids" | "special-ids"), tokenizer, texts] => {
            let tokenizer = Tokenizer::open(Path::new(tokenizer))?;
            for record in read_all(&[texts])? {
                let ids = match *mode {
                    "ids" => tokenizer.encode(&record.text),
                    _ => tokenizer.encode_with_special(&record.text),
                };
                println!("{}", serde_json::to_string(&ids)?);
            }
        }
        ["speed", tokenizer, texts @ ..] => {
            let tokenizer = Tokenizer::open(Path::new(tokenizer))?;
            let records = read_all(texts)?;
            let bytes: usize = records.iter().map(|record| record.text.len()).sum();
            for line in io::stdin().lines() {
                line?;
                let (start, mut tokens) = (Instant::now(), 0);
                let mut ids = Vec::new();
                for record in &records {
                    ids.clear();
                    tokenizer.encode_into(&record.text, &mut ids);
                    tokens += ids.len();
                }
                let seconds = start.elapsed().as_secs_f64();
                println!("{}", json!({ "seconds": seconds, "bytes": bytes, "tokens": tokens }));
            }
        }
        ["json", tokenizer, out] => {
            std::fs::write(out, Tokenizer::open(Path::new(tokenizer))?.json())?;
        }
        ["inspect", tokenizer, texts @ ..] => {
            let tokenizer = Tokenizer::open(Path::new(tokenizer))?;
            let mut records = read_all(texts)?.into_iter().map(Ok);
            println!("{}", inspect_tokenizer(&tokenizer, &mut records, &context)?);
        }
        ["render", cases, tokenizer @ ..] => {
            let tokenizer =
                tokenizer.first().map(|path| Tokenizer::open(Path::new(path))).transpose()?;
            for line in std::fs::read_to_string(cases)?.lines() {
                println!("{}", render(&serde_json::from_str(line)?, tokenizer.as_ref()));
            }
        }
        _ => {
            return Err(
                "train, ids, special-ids, speed, json, inspect or render; see the head of the file"
                    .into(),
            );
        }
    }
    Ok(())
}

fn render(case: &Value, tokenizer: Option<&Tokenizer>) -> Value {
    let number = |index: usize| case["now"][index].as_u64().unwrap_or_default();
    let conversation = Conversation {
        messages: case["messages"].as_array().cloned().unwrap_or_default(),
        tools: case["tools"].as_array().cloned(),
        documents: case["documents"].as_array().cloned(),
        variables: case["variables"].as_object().cloned().unwrap_or_default(),
        now: case["now"].is_array().then(|| Moment {
            year: number(0) as u16,
            month: number(1) as u8,
            day: number(2) as u8,
            hour: number(3) as u8,
            minute: number(4) as u8,
            second: number(5) as u8,
        }),
    };
    let options = RenderOptions {
        add_generation_prompt: case["add_generation_prompt"] == true,
        bos_token: "<s>".to_owned(),
        eos_token: "</s>".to_owned(),
        guarded: Vec::new(),
    };
    let rendered = ChatTemplate::new(case["template"].as_str().unwrap_or_default())
        .and_then(|template| template.render_conversation(&conversation, &options));
    let rendered = match rendered {
        Ok(rendered) => rendered,
        Err(error) => return json!({ "error": error.to_string() }),
    };
    let spans: Vec<[usize; 2]> =
        rendered.assistant.iter().map(|range| [range.start, range.end]).collect();
    let mut result = json!({ "text": rendered.text, "spans": spans });
    if let Some(Ok((ids, mask))) = tokenizer.map(|tokenizer| rendered.encode(tokenizer)) {
        result["ids"] = ids.into();
        result["mask"] = mask.into();
    }
    result
}

/// The texts of a JSONL file, one at a time.
fn stream(path: &str) -> Box<dyn Iterator<Item = io::Result<TextRecord>>> {
    let source = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut reader = match LineReader::open(Path::new(path), 1 << 28) {
        Ok(reader) => reader,
        Err(error) => return Box::new(std::iter::once(Err(error))),
    };
    let mut number = 0;
    let mut next = move || -> io::Result<Option<TextRecord>> {
        while let Some(line) = reader.next_line()? {
            let Line::Whole(line) = line else { continue };
            let value: Value = serde_json::from_slice(line)?;
            number += 1;
            let text = value["text"].as_str().unwrap_or_default().to_owned();
            return Ok(Some(TextRecord { id: number.to_string(), source: source.clone(), text }));
        }
        Ok(None)
    };
    Box::new(std::iter::from_fn(move || next().transpose()))
}

fn read_all(paths: &[&str]) -> io::Result<Vec<TextRecord>> {
    paths.iter().flat_map(|path| stream(path)).collect()
}

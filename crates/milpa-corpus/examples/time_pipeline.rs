//! Builds a corpus of one file on one thread, as the page's recipe would, and prints what it took.
//!
//! `cargo run --release -p milpa-corpus --example time_pipeline -- FILE warc|jsonl` prints a JSON object with
//! `documents`, `bytes` (of the file), `kept` and `seconds`, and the stages on the other channel. Near copies
//! are those that share a band, as in the peer that `cargo xtask bench corpus` runs beside it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people")]

use std::{error::Error, fs, path::Path, time::Instant};

use milpa_base::{Seed, Silent, StopFlag, parse_toml};
use milpa_corpus::{CorpusConfig, Work, build, stats};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, format] = &arguments[..] else {
        return Err("usage: time_pipeline FILE warc|jsonl".into());
    };
    let file = Path::new(file).canonicalize()?;
    let text = format!(
        "validation = {{ share = 0.0 }}\n\
         dedup = {{ near = {{ similarity = 0.0 }} }}\n\
         [[sources]]\nname = \"file\"\npath = '{}'\nformat = \"{format}\"\n",
        file.display()
    );
    let config: CorpusConfig = parse_toml(&text, Path::new("time_pipeline"))?;
    let folder = std::env::temp_dir().join(format!("milpa-pipeline-{}", std::process::id()));
    let out = folder.join("corpus");
    fs::create_dir_all(&folder)?;
    let work = Work { threads: 1, out: &out, progress: &Silent, stop: &StopFlag::default() };
    let begin = Instant::now();
    let built = build(&config, Seed(1), &work);
    let seconds = begin.elapsed().as_secs_f64();
    let read = built.as_ref().ok().map(|_| stats(&out)).transpose()?;
    fs::remove_dir_all(&folder)?;
    let (built, stats) = (built?, read.unwrap_or_default());
    eprintln!("{}", built.times);
    let kept = built.manifest.counts.get("train_documents");
    let bytes = fs::metadata(&file)?.len();
    println!(
        "{}",
        json!({"documents": stats.read(), "bytes": bytes, "kept": kept, "seconds": seconds})
    );
    Ok(())
}

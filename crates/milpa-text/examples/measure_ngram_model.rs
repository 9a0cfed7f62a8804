//! Estimates n-gram models, writes them, and measures how fast they answer.
//!
//! `cargo run --release -p milpa-text --example measure_ngram_model -- COMMAND …`:
//! - `train TEXT ORDER OUT.arpa OUT.model` estimates from a text with one sentence a line and words
//!   between spaces, and writes ARPA and the memory-mapped file;
//! - `import IN.arpa OUT.model` makes the memory-mapped file of an ARPA file;
//! - `score MODEL TEXT` prints each sentence's log₁₀ probability;
//! - `time MODEL TEXT` prints how many words it scores in a second of one core.

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{
    error::Error,
    fs::{self, File},
    hint::black_box,
    io::{BufWriter, Write},
    path::Path,
};

use milpa_text::ngram_model::{NgramConfig, NgramCounter, NgramModel, Unit, arpa};

mod clock;
use clock::seconds;

/// More than the models that are measured here have.
const MAX_NGRAMS: usize = 100_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let out = &mut BufWriter::new(std::io::stdout().lock());
    match arguments[..] {
        ["train", text, order, arpa_file, model] => {
            let config = NgramConfig { order: order.parse()?, ..NgramConfig::default() };
            let text = fs::read_to_string(text)?;
            let begin = seconds();
            let mut counter = NgramCounter::new(config)?;
            for line in text.lines() {
                counter.add_sentence(line.split_whitespace())?;
            }
            let list = counter.finish()?;
            writeln!(out, "estimated in {:.1} s: {:?}", seconds() - begin, list.counts())?;
            let mut file = BufWriter::new(File::create(arpa_file)?);
            arpa::write(&list, &mut file)?;
            file.flush()?;
            list.write(Path::new(model))?;
        }
        ["import", arpa_file, model] => {
            arpa::read(Path::new(arpa_file), Unit::Word, MAX_NGRAMS)?.write(Path::new(model))?;
        }
        ["score", model, text] => {
            let model = NgramModel::open(Path::new(model))?;
            model.verify()?;
            for line in fs::read_to_string(text)?.lines() {
                let score = model.score_sentence(line.split_whitespace());
                writeln!(out, "{}\t{}\t{}", score.log10, score.tokens, score.unknown)?;
            }
        }
        ["time", model, text] => {
            let model = NgramModel::open(Path::new(model))?;
            let text = fs::read_to_string(text)?;
            let (mut best, mut tokens) = (f64::MAX, 0);
            // The best of five passes: the first reads the file.
            for _ in 0..5 {
                let begin = seconds();
                tokens = 0;
                for line in text.lines() {
                    tokens += black_box(model.score_sentence(line.split_whitespace())).tokens;
                }
                best = best.min(seconds() - begin);
            }
            writeln!(
                out,
                "{{\"words_per_second\": {:.0}, \"bytes\": {}}}",
                tokens as f64 / best,
                model.size()
            )?;
        }
        _ => return Err("usage: train | import | score | time, with their files".into()),
    }
    Ok(())
}

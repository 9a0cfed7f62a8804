//! Trains the language identifier again and writes its file.
//!
//! `cargo run --release -p milpa-text --example train_language_model -- DATA_DIR OUT_FILE`
//! where DATA_DIR holds `lid/udhr_paragraphs.jsonl.zst` and `text/`. The committed
//! `models/language.bin` is what it writes; `measure_language` measures it.

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{error::Error, path::Path};

use milpa_text::language::{Example, TrainingConfig, calibrate, train};

mod languages;
mod rows;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: train_language_model DATA_DIR OUT_FILE".into());
    };
    let texts = languages::texts(Path::new(&data))?;
    let examples: Vec<Example<'_>> = texts
        .training
        .iter()
        .map(|(label, domain, text)| Example { label, domain, text })
        .collect();
    let mut model = train(&examples, &TrainingConfig::default());
    let held_out: Vec<(&str, &str)> =
        texts.calibration.iter().map(|(label, _, text)| (label.as_str(), text.as_str())).collect();
    calibrate(&mut model, &held_out);
    let bytes = model.to_bytes();
    std::fs::write(&out, &bytes)?;
    println!(
        "{out}: {} labels of {} languages, {} weights, {} bytes",
        model.labels().len(),
        model.languages().len(),
        model.len(),
        bytes.len()
    );
    Ok(())
}

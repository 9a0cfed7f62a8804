//! Predicts labels of documents one by one, to be timed beside fastText: `predict_documents FILE WHAT`
//!
//! FILE is JSONL with `text` and the right `label`. WHAT is `language`, by the identifier that comes
//! with the program, or `classifier`, by one that is trained on FILE.train.txt first. Prints
//! documents, bytes, documents whose label is right, and seconds of the predictions alone.
//! `reference/fasttext_speed.py` is the other side.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::{
    fs,
    io::{BufRead, BufReader},
    time::Instant,
};

use milpa_text::{
    LanguageModel,
    classifier::{ClassifierConfig, Features, train},
    language::canonical,
};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, what] = arguments.as_slice() else {
        return Err("predict_documents FILE language|classifier".into());
    };
    let mut rows = Vec::new();
    for line in BufReader::new(fs::File::open(file)?).lines() {
        let row: Value = serde_json::from_str(&line?)?;
        let field = |name: &str| row[name].as_str().map(str::to_owned).ok_or("a row lacks a field");
        rows.push((field("label")?, field("text")?));
    }
    let (kept, seconds) = match what.as_str() {
        "language" => {
            let model = LanguageModel::embedded();
            let is_right = |label: &str, found: &str| {
                found == label || canonical(label).is_some_and(|label| found == label)
            };
            timed(&rows, |label, text| is_right(label, model.identify(text).label))
        }
        "classifier" => {
            let examples = fs::read_to_string(format!("{file}.train.txt"))?;
            let examples: Vec<(&str, &str)> = examples
                .lines()
                .filter_map(|line| line.strip_prefix("__label__")?.split_once(' '))
                .collect();
            let features = Features { char_ngrams: 2..=4, ..Features::default() };
            let config = ClassifierConfig { features, epochs: 5, ..ClassifierConfig::default() };
            let model = train(&examples, &config)?;
            timed(&rows, |label, text| {
                let probabilities = model.predict(text).probabilities;
                let best = (0..probabilities.len())
                    .max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
                model.label(label) == best
            })
        }
        _ => return Err("WHAT is language or classifier".into()),
    };
    let bytes: usize = rows.iter().map(|(_, text)| text.len()).sum();
    println!(
        "{}",
        json!({"documents": rows.len(), "bytes": bytes, "kept": kept, "seconds": seconds})
    );
    Ok(())
}

/// How many rows `is_right` says yes to, and its seconds.
fn timed(rows: &[(String, String)], is_right: impl Fn(&str, &str) -> bool) -> (usize, f64) {
    let begin = Instant::now();
    let kept = rows.iter().filter(|(label, text)| is_right(label, text)).count();
    (kept, begin.elapsed().as_secs_f64())
}

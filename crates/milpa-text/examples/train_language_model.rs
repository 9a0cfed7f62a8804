//! Trains the language identifier again and writes its file.
//!
//! `cargo run --release -p milpa-text --example train_language_model -- DATA_DIR OUT_FILE`
//! where DATA_DIR holds `lid/udhr_paragraphs.jsonl.zst` and the public-domain texts of `text/`.
//! Paragraphs whose number is a multiple of 5 are held out of training: calibration uses those
//! with a multiple of 10, the printed scores come from the others.

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{collections::BTreeMap, error::Error, path::Path};

use milpa_text::{
    language::{Example, TrainingConfig, calibrate, canonical, evaluate, macrolanguage, train},
    normalise,
};

mod rows;
use rows::for_each_row;

/// Sources besides the declaration: file, label, wanted share of paragraphs, licence checked.
const MORE: &[(&str, &str, usize)] = &[
    ("es_novels_a", "spa", 1500),
    ("es_law_peru", "spa", 1000),
    ("pt_novels", "por", 1500),
    ("en_novels", "eng", 800),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: train_language_model DATA_DIR OUT_FILE".into());
    };
    let data = Path::new(&data);
    let (mut training, mut calibration, mut test) = (Vec::new(), Vec::new(), Vec::new());
    for_each_row(&data.join("lid/udhr_paragraphs.jsonl.zst"), |row| {
        let label = row["lang"].as_str().unwrap_or_default().to_owned();
        let text = normalise(row["text"].as_str().unwrap_or_default());
        let number: u32 =
            row["id"].as_str().and_then(|id| id.rsplit('/').next()?.parse().ok()).unwrap_or(0);
        match number % 10 {
            0 => calibration.push((label, text)),
            5 => test.push((label, text)),
            _ => training.push((label, String::new(), text)),
        }
    })?;
    for &(file, label, wanted) in MORE {
        let mut paragraphs = Vec::new();
        for_each_row(&data.join(format!("text/{file}.jsonl.zst")), |row| {
            // Text recognised from scans teaches errors.
            if row["tier"].as_str() == Some("regional_pdf_ocr") {
                return;
            }
            let text = normalise(row["text"].as_str().unwrap_or_default());
            let lines = text.lines().filter(|line| line.len() > 200).map(str::to_owned);
            paragraphs.extend(lines.step_by(7));
        })?;
        let step = (paragraphs.len() / wanted).max(1);
        let paragraphs = paragraphs.into_iter().step_by(step);
        training.extend(paragraphs.map(|text| (label.to_owned(), file.to_owned(), text)));
    }
    fn borrow(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
        pairs.iter().map(|(label, text)| (label.as_str(), text.as_str())).collect()
    }
    let examples: Vec<Example<'_>> =
        training.iter().map(|(label, domain, text)| Example { label, domain, text }).collect();
    let mut model = train(&examples, &TrainingConfig::default());
    calibrate(&mut model, &borrow(&calibration));
    let bytes = model.to_bytes();
    std::fs::write(&out, &bytes)?;
    println!(
        "{out}: {} labels, {} weights, {} bytes",
        model.labels().len(),
        model.len(),
        bytes.len()
    );
    let same: fn(&str) -> &str = |label| label;
    for (name, map) in [("label", same), ("macrolanguage", macrolanguage)] {
        let score = evaluate(&model, &borrow(&test), map);
        println!(
            "held-out paragraphs by {name}: macro-F1 {:.4}, accuracy {:.4}, calibration error {:.3}, {} texts",
            score.macro_f1, score.accuracy, score.calibration_error, score.texts
        );
        let mut worst: Vec<_> = score.f1.iter().collect();
        worst.sort_by(|a, b| a.1.total_cmp(b.1));
        let worst: Vec<String> =
            worst.iter().take(16).map(|(label, f1)| format!("{label} {f1:.2}")).collect();
        println!("  lowest: {}", worst.join(", "));
    }
    let mut other: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for file in ["pt_br_news_sentences", "indigenous", "es_novels_b"] {
        for_each_row(&data.join(format!("text/{file}.jsonl.zst")), |row| {
            let Some(label) = row["lang"].as_str().and_then(canonical) else { return };
            let text = row["text"].as_str().unwrap_or_default();
            let kind = row["kind"].as_str().unwrap_or("novel_line");
            for line in text.lines().filter(|line| line.len() > 30).take(40) {
                other
                    .entry(format!("{label} {kind}"))
                    .or_default()
                    .push((label.to_owned(), normalise(line)));
            }
        })?;
    }
    println!("texts of other kinds, never trained on (by macrolanguage):");
    for (name, texts) in &other {
        let score = evaluate(&model, &borrow(texts), macrolanguage);
        if score.texts > 0 {
            println!("  {name:24} accuracy {:.3} of {}", score.accuracy, score.texts);
        }
    }
    Ok(())
}

//! Measures the recogniser of personal data: `measure_personal_data DATA [SAMPLES]`
//!
//! Prints precision and recall of spans on `DATA/safety/pii_synth_en` for the kinds that it has, hits
//! per 100,000 words of law by kind and country (law has hardly any personal data, so these are nearly
//! all false or the numbers of offices), SAMPLES hits of each kind to read, and the speed of `mask`
//! on one core.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

mod gold;

use std::{path::PathBuf, time::Instant};

use milpa_base::lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader};
use milpa_text::personal::{Kind, mask};

/// Files of law of DATA/text.
const LAW: [&str; 2] = ["es_law_peru.jsonl.zst", "pt_constituicao_versions.jsonl.zst"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let data: PathBuf = arguments.next().ok_or("measure_personal_data DATA [SAMPLES]")?.into();
    let samples = arguments.next().map_or(Ok(0), |count| count.parse())?;
    println!("spans of safety/pii_synth_en\nkind       gold  found  right  precision  recall");
    for (kind, score) in gold::spans(&data)? {
        println!(
            "{kind:9}  {:4}  {:5}  {:5}  {:9.3}  {:6.3}",
            score.gold,
            score.found,
            score.right,
            score.precision(),
            score.recall()
        );
    }
    for name in LAW {
        let hits = gold::law(&data, name, samples)?;
        println!("\n{name}: {} words\nkind        hits  per 100,000 words", hits.words);
        for (kind, count) in &hits.counts {
            let rate = *count as f64 * 1e5 / hits.words as f64;
            println!("{:10}  {count:4}  {rate:17.2}", title(*kind));
            for sample in &hits.samples[kind] {
                println!("    {sample}");
            }
        }
    }
    println!("\nspeed of mask on one core");
    for name in LAW {
        let mut reader = LineReader::open(&data.join("text").join(name), DEFAULT_MAX_LINE_BYTES)?;
        let mut texts = Vec::new();
        while let Some(Line::Whole(line)) = reader.next_line()? {
            let row: serde_json::Value = serde_json::from_slice(line)?;
            texts.push(row["text"].as_str().unwrap_or_default().to_owned());
        }
        let bytes: usize = texts.iter().map(String::len).sum();
        let begin = Instant::now();
        let masked: usize = texts.iter().map(|text| mask(text).len()).sum();
        let seconds = begin.elapsed().as_secs_f64();
        println!("{name}: {:.1} MB/s ({bytes} bytes to {masked})", bytes as f64 / 1e6 / seconds);
    }
    Ok(())
}

/// `RUC PE`, or `EMAIL`.
fn title(kind: Kind) -> String {
    [&[kind.name()], kind.jurisdictions()].concat().join(" ")
}

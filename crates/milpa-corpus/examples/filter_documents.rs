//! Runs the filters over documents, to be held against datatrove and timed beside it.
//!
//! `filter_documents FILE [--built-in] decisions|limits|time`
//!
//! FILE is JSONL with `language` and `text`. `decisions` prints for each document the rule by which
//! each filter drops it, and a hash of the text that C4 leaves; `limits` prints the thresholds of
//! each language, so that the peer can be given the same; `time` runs the filters as a pipeline, as
//! FineWeb has them, and prints documents, bytes and seconds. Thresholds are datatrove's, or those
//! built in. `reference/filters_check.py` is the other side.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    time::Instant,
};

use milpa_base::hash_bytes;
use milpa_corpus::{
    config::Preset,
    filter::{
        C4, Filter, FineWeb, GopherQuality, GopherRepetition, ThresholdTable, Thresholds, View,
    },
};
use serde_json::{Value, json};

struct Row {
    language: String,
    text: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (file, built_in, action) = match arguments[..] {
        [file, "--built-in", action] => (file, true, action),
        [file, action] => (file, false, action),
        _ => return Err("filter_documents FILE [--built-in] decisions|limits|time".into()),
    };
    let mut rows = Vec::new();
    for line in BufReader::new(std::fs::File::open(file)?).lines() {
        let row: Value = serde_json::from_str(&line?)?;
        let get = |name: &str| row[name].as_str().map(str::to_owned).ok_or("a row lacks a field");
        rows.push(Row { language: get("language")?, text: get("text")? });
    }
    let table = ThresholdTable::default();
    let mut limits: BTreeMap<&str, Thresholds> = BTreeMap::new();
    for row in &rows {
        limits.entry(&row.language).or_insert_with(|| {
            if built_in {
                table.of(&row.language, Preset::Web).clone()
            } else {
                Thresholds::default()
            }
        });
    }
    match action {
        "limits" => println!("{}", serde_json::to_string(&limits)?),
        "decisions" => {
            for row in &rows {
                println!("{}", decisions(row, &limits[row.language.as_str()]));
            }
        }
        "time" => {
            let begin = Instant::now();
            let kept = rows.iter().filter(|row| keeps(row, &limits[row.language.as_str()])).count();
            let seconds = begin.elapsed().as_secs_f64();
            let bytes: usize = rows.iter().map(|row| row.text.len()).sum();
            let documents = rows.len();
            println!(
                "{}",
                json!({"documents": documents, "bytes": bytes, "kept": kept, "seconds": seconds})
            );
        }
        other => return Err(format!("there is no action {other:?}").into()),
    }
    Ok(())
}

fn decisions(row: &Row, limits: &Thresholds) -> Value {
    let view = View::new(&row.text, &row.language, None);
    let rule = |filter: &dyn Filter| filter.check(&view, limits).map(|verdict| verdict.rule);
    let cleaned = C4::default().clean(&row.text, &row.language, limits).ok();
    json!({
        "gopher_repetition": rule(&GopherRepetition),
        "gopher_quality": rule(&GopherQuality::default()),
        "c4": rule(&C4::default()),
        "fineweb": rule(&FineWeb::default()),
        "c4_text": cleaned.map(|text| hash_bytes(text.as_bytes()).to_string()),
    })
}

/// The order of FineWeb's pipeline; C4 leaves end marks alone there.
fn keeps(row: &Row, limits: &Thresholds) -> bool {
    let view = View::new(&row.text, &row.language, None);
    if GopherRepetition.check(&view, limits).is_some()
        || GopherQuality::default().check(&view, limits).is_some()
    {
        return false;
    }
    let c4 = C4 { end_marks: false, ..C4::default() };
    let Ok(cleaned) = c4.clean(&row.text, &row.language, limits) else { return false };
    let view = View::new(&cleaned, &row.language, None);
    FineWeb::default().check(&view, limits).is_none()
}

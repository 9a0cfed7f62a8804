//! Masks the personal data of documents, to be timed beside datatrove: `mask_documents FILE`
//!
//! FILE is JSONL with `text`. All kinds are looked for; e-mail and IP addresses, which are what
//! datatrove covers, are covered. Prints documents, bytes, documents that have neither, and seconds.
//! `reference/personal_speed.py` is the other side.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    time::Instant,
};

use milpa_text::personal::{Policies, Policy};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("mask_documents FILE")?;
    let mut texts = Vec::new();
    for line in BufReader::new(std::fs::File::open(file)?).lines() {
        let row: Value = serde_json::from_str(&line?)?;
        texts.push(row["text"].as_str().ok_or("a row lacks text")?.to_owned());
    }
    let named = ["email", "ip"].map(|kind| (kind.to_owned(), Policy::Mask));
    let policies = Policies::new(Policy::Keep, &BTreeMap::from(named))?;
    let begin = Instant::now();
    let kept = texts.iter().filter(|text| policies.apply(text).masked.is_empty()).count();
    let seconds = begin.elapsed().as_secs_f64();
    let bytes: usize = texts.iter().map(String::len).sum();
    println!(
        "{}",
        json!({"documents": texts.len(), "bytes": bytes, "kept": kept, "seconds": seconds})
    );
    Ok(())
}

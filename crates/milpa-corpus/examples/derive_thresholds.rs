//! Measures what the limits of `data/thresholds.toml` look at, by language, on text known to be
//! good: the numbers from which our own limits were derived.
//!
//! `derive_thresholds FILE…`, each JSONL with `language` and `text`
//!
//! For each language it prints the documents, and for each measure the value that one in a hundred
//! documents goes beyond (the 99th percentile of a most, the 1st of a least) and the median. A limit
//! that good text reaches deletes the language; a limit far outside it filters nothing.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
};

use milpa_corpus::filter::{
    Filter, FineWeb, GopherQuality, GopherRepetition, Thresholds, Verdict, View,
};

/// A limit that each document breaks, so that the verdict tells the value.
type Impossible = (&'static str, bool, Box<dyn Filter>, fn(&mut Thresholds));

fn measures() -> Vec<Impossible> {
    let quality = || Box::new(GopherQuality { markdown: true }) as Box<dyn Filter>;
    let lines = || Box::new(FineWeb { markdown: true }) as Box<dyn Filter>;
    let repetition = || Box::new(GopherRepetition) as Box<dyn Filter>;
    vec![
        ("max_mean_word_length", true, quality(), |t| t.max_mean_word_length = -1.0),
        ("min_letter_words", false, quality(), |t| t.min_letter_words = 2.0),
        ("max_repeated_lines", true, repetition(), |t| t.max_repeated_lines = -1.0),
        ("max_top_2_gram", true, repetition(), |t| t.max_top_2_gram = -1.0),
        ("max_top_3_gram", true, repetition(), |t| t.max_top_3_gram = -1.0),
        ("max_repeated_5_grams", true, repetition(), |t| t.max_repeated_5_grams = -1.0),
        ("min_sentence_lines", false, lines(), |t| t.min_sentence_lines = 2.0),
        ("max_short_lines", true, lines(), |t| t.max_short_lines = -1.0),
        ("max_lines_per_word", true, lines(), |t| t.max_lines_per_word = -1.0),
    ]
}

/// Limits that no document breaks.
fn boundless() -> Thresholds {
    let mut limits = Thresholds { stop_words: Vec::new(), ..Thresholds::default() };
    for limit in [
        &mut limits.min_words,
        &mut limits.min_mean_word_length,
        &mut limits.min_letter_words,
        &mut limits.min_sentence_lines,
    ] {
        *limit = 0.0;
    }
    for limit in [
        &mut limits.max_words,
        &mut limits.max_mean_word_length,
        &mut limits.max_symbols_per_word,
        &mut limits.max_bullet_lines,
        &mut limits.max_ellipsis_lines,
        &mut limits.max_repeated_lines,
        &mut limits.max_repeated_paragraphs,
        &mut limits.max_repeated_line_chars,
        &mut limits.max_repeated_paragraph_chars,
        &mut limits.max_top_2_gram,
        &mut limits.max_top_3_gram,
        &mut limits.max_top_4_gram,
        &mut limits.max_repeated_5_grams,
        &mut limits.max_repeated_6_grams,
        &mut limits.max_repeated_7_grams,
        &mut limits.max_repeated_8_grams,
        &mut limits.max_repeated_9_grams,
        &mut limits.max_repeated_10_grams,
        &mut limits.max_short_lines,
        &mut limits.max_copied_line_chars,
        &mut limits.max_lines_per_word,
    ] {
        *limit = f64::INFINITY;
    }
    limits
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let measures = measures();
    let mut found: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    for file in std::env::args().skip(1) {
        for line in BufReader::new(std::fs::File::open(file)?).lines() {
            let row: serde_json::Value = serde_json::from_str(&line?)?;
            let (Some(language), Some(text)) = (row["language"].as_str(), row["text"].as_str())
            else {
                return Err("a row lacks language or text".into());
            };
            let view = View::new(text, language, None);
            for (index, (_, _, filter, break_limit)) in measures.iter().enumerate() {
                let mut limits = boundless();
                break_limit(&mut limits);
                if let Some(value) = filter.check(&view, &limits).as_ref().and_then(value_of) {
                    found.entry((language.to_owned(), index)).or_default().push(value);
                }
            }
        }
    }
    println!("language  documents  measure                 median  1 in 100 beyond");
    for ((language, index), mut values) in found {
        values.sort_by(f64::total_cmp);
        let (name, is_most, ..) = measures[index];
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        let edge = if is_most { at(0.99) } else { at(0.01) };
        println!("{language:8}  {:9}  {name:22}  {:6.3}  {edge:6.3}", values.len(), at(0.5));
    }
    Ok(())
}

/// The number in a verdict: `… VALUE is above LIMIT`.
fn value_of(verdict: &Verdict) -> Option<f64> {
    let (before, _) = verdict.detail.split_once(" is ")?;
    before.rsplit(' ').next()?.parse().ok()
}

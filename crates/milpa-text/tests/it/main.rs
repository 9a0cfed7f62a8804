//! The embedded language identifier against texts it never saw, and its size; personal data.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod ngram;
mod personal;

use std::path::{Path, PathBuf};

use milpa_base::lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader};
use milpa_text::{
    LanguageModel,
    language::{evaluate, language_code, macrolanguage},
    normalise,
};

fn check(text: &str, expect: &str) {
    let answer = LanguageModel::embedded().identify(text);
    assert_eq!(macrolanguage(answer.label), expect, "{text:?}: {answer:?}");
    assert!(answer.confidence > 0.5, "{text:?}: {answer:?}");
}

#[test]
fn sentences_of_the_region_are_known() {
    check("El volcán está a pocos kilómetros de la ciudad y se ve desde todas las calles.", "spa");
    check("A cidade fica perto do rio e as ruas são estreitas, mas o mercado é muito bom.", "por");
    check("The river runs through the valley and the town lies on its northern bank.", "eng");
    check("Ñuqanchikpa llaqtanchikpi runakuna papata sarata ima tarpunku, chaymi mikunku.", "que");
    check("Ñande retãme oĩ heta tapicha oñe'ẽva guaraníme, ha umi mitã oñemoarandu avei.", "grn");
    check("Le marché est ouvert tous les jours et les gens viennent de très loin.", "fra");
}

#[test]
fn texts_without_a_language_are_undetermined() {
    for text in ["", "2024-11-20 12:00", "…—!?", "\u{1F33D}\u{1F331}"] {
        assert_eq!(LanguageModel::embedded().identify(text).label, "und", "{text:?}");
    }
    let noise = "xqzv wkkjq zzxv qwrt pqlk vvxz jjqk xxwq ".repeat(5);
    let answer = LanguageModel::embedded().identify(&noise);
    assert!(answer.confidence < 0.5, "{answer:?}");
}

#[test]
fn the_model_file_is_small_and_complete() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/language.bin");
    assert!(std::fs::metadata(path).unwrap().len() <= 5_000_000);
    let model = LanguageModel::embedded();
    let labels = model.languages();
    for wanted in "spa por eng fra ita deu cat glg ron quy quz gug ayr nhn arn".split(' ') {
        assert!(labels.contains(&wanted), "{wanted} is missing");
    }
    assert!(model.labels().len() >= 380);
}

#[test]
fn held_out_paragraphs_of_the_declaration_are_identified() {
    let Some(data) = data() else { return };
    let path = data.join("lid/udhr_paragraphs.jsonl.zst");
    let mut reader = LineReader::open(&path, DEFAULT_MAX_LINE_BYTES).unwrap();
    let mut rows = Vec::new();
    while let Some(Line::Whole(line)) = reader.next_line().unwrap() {
        let row: serde_json::Value = serde_json::from_slice(line).unwrap();
        let number: u32 = row["id"].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
        // The training command leaves out the multiples of five and calibrates on those of ten.
        if number % 10 == 5 {
            rows.push((
                row["lang"].as_str().unwrap().to_owned(),
                normalise(row["text"].as_str().unwrap()),
            ));
        }
    }
    let rows: Vec<(&str, &str)> = rows.iter().map(|(l, t)| (l.as_str(), t.as_str())).collect();
    let score = evaluate(LanguageModel::embedded(), &rows, language_code);
    assert!(score.texts > 1500);
    assert!(score.macro_f1 > 0.96, "macro-F1 {}", score.macro_f1);
    assert!(score.calibration_error < 0.05, "calibration error {}", score.calibration_error);
}

/// The folder of real data, if there is one.
fn data() -> Option<PathBuf> {
    let data = std::env::var_os("MILPA_DATA").map(PathBuf::from);
    if data.is_none() {
        eprintln!("skipped: MILPA_DATA is not set to the folder of the shared data");
    }
    data
}

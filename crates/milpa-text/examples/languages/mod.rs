//! The labelled texts that the language identifier is trained and measured on.
//!
//! Of the declaration, paragraphs with the same number are on one side in all languages; of other
//! sources, blocks of 30 rows, because neighbours share a premise or a page. One block in ten
//! calibrates, one is the test. Of novels, whole books are held out.

use std::{error::Error, path::Path};

use milpa_text::{language::canonical, normalise};

use crate::rows::for_each_row;

/// (label, domain, text).
pub(crate) type Labelled = (String, String, String);

/// What is learnt from, what calibrates, and what measures.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub(crate) training: Vec<Labelled>,
    pub(crate) calibration: Vec<Labelled>,
    pub(crate) test: Vec<Labelled>,
}

impl Texts {
    fn add(&mut self, part: usize, label: &str, domain: &str, text: String) {
        let side = match part % 10 {
            0 => &mut self.calibration,
            5 => &mut self.test,
            _ => &mut self.training,
        };
        side.push((label.to_owned(), domain.to_owned(), text));
    }
}

/// Sources of languages that a corpus is full of: file, label, wanted paragraphs, and from which
/// book on they are held out.
const LARGE: &[(&str, &str, usize, usize)] = &[
    ("es_novels_a", "spa", 1500, usize::MAX),
    ("es_law_peru", "spa", 1000, 900),
    ("pt_novels", "por", 1500, 50),
    ("en_novels", "eng", 800, 12),
];

/// Reads all labelled texts under the data folder.
pub(crate) fn texts(data: &Path) -> Result<Texts, Box<dyn Error>> {
    let mut texts = Texts::default();
    for_each_row(&data.join("lid/udhr_paragraphs.jsonl.zst"), |row| {
        let field = |name: &str| row[name].as_str().unwrap_or_default();
        let number: usize =
            field("id").rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let label = declaration_label(field("lang"), field("variant"));
        texts.add(number, &label, "declaration", normalise(field("text")));
    })?;
    let mut at = 0;
    for_each_row(&data.join("text/indigenous.jsonl.zst"), |row| {
        let field = |name: &str| row[name].as_str().unwrap_or_default();
        at += 1;
        let label = match field("lang") {
            // Varieties that the source does not tell: kept for the test of other kinds.
            "oto" | "mix" => return,
            // As AmericasNLI calls it; none of the individual Nahuatl languages alone.
            "nah" => "nah",
            code => match canonical(code) {
                Some("grn") => "gug",
                Some("aym") => "ayr",
                Some(label) => label,
                None => return,
            },
        };
        if field("kind") == "bible_chapter" {
            // Only where there is nothing else, and a beginning of each chapter is enough.
            if !BIBLE_ALONE.contains(&label) {
                return;
            }
            for line in field("text").lines().filter(|line| line.len() > 40).take(8) {
                texts.add(at, label, "bible", normalise(line));
            }
        } else {
            texts.add(at / 30, label, field("kind"), normalise(field("text")));
        }
    })?;
    for &(file, label, wanted, held_out) in LARGE {
        let (mut paragraphs, mut book) = (Vec::new(), 0);
        for_each_row(&data.join(format!("text/{file}.jsonl.zst")), |row| {
            book += 1;
            // Text recognised from scans teaches errors.
            if row["tier"].as_str() == Some("regional_pdf_ocr") || book > held_out {
                return;
            }
            let text = normalise(row["text"].as_str().unwrap_or_default());
            let lines = text.lines().filter(|line| line.len() > 200).map(str::to_owned);
            paragraphs.extend(lines.step_by(7));
        })?;
        let step = (paragraphs.len() / wanted).max(1);
        let paragraphs = paragraphs.into_iter().step_by(step);
        texts.training.extend(paragraphs.map(|text| (label.to_owned(), file.to_owned(), text)));
    }
    Ok(texts)
}

/// Lines of Spanish, Portuguese and English that training never saw: (label, text).
#[allow(dead_code, reason = "one of the two examples that share this module trains alone")]
pub(crate) fn large_languages(data: &Path) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let mut lines = Vec::new();
    let unseen = [
        ("es_novels_b", "spa", 0),
        ("es_law_peru", "spa", 900),
        ("pt_novels", "por", 50),
        ("pt_br_news_sentences", "por", 0),
        ("en_novels", "eng", 12),
    ];
    for (file, label, from) in unseen {
        let mut book = 0;
        for_each_row(&data.join(format!("text/{file}.jsonl.zst")), |row| {
            book += 1;
            if book <= from || row["tier"].as_str() == Some("regional_pdf_ocr") {
                return;
            }
            let text = normalise(row["text"].as_str().unwrap_or_default());
            let long = text
                .lines()
                .filter(|line| line.chars().filter(|c| c.is_alphabetic()).count() >= 25);
            lines.extend(long.step_by(3).take(600).map(|line| (label.to_owned(), line.to_owned())));
        })?;
    }
    Ok(lines)
}

/// Languages of `text/indigenous` for which there is the New Testament alone.
const BIBLE_ALONE: &[&str] =
    &["ake", "amu", "bsn", "chq", "cjp", "jac", "kbh", "nhg", "quw", "usp"];

/// The label of a text of the declaration: its ISO 639-3 code, with the script where there are
/// several, and without the variant where it is one more translation.
fn declaration_label(language: &str, variant: &str) -> String {
    match variant {
        "aka_fante" => return "fat".to_owned(),
        "aka_akuapem" => return "twi_akuapem".to_owned(),
        "aka_asante" => return "twi_asante".to_owned(),
        // Codes of the collection, not of ISO: Sãotomense, Guinea-Bissau Creole, Kimbundu, Tetun,
        // Umbundu.
        "007" => return "cri".to_owned(),
        "008" => return "pov".to_owned(),
        "009" => return "kmb".to_owned(),
        "010" => return "tet".to_owned(),
        "011" => return "umb".to_owned(),
        _ => {}
    }
    match variant.rsplit_once('_') {
        Some((_, script @ ("latn" | "cyrl" | "arab" | "hans" | "hant"))) => {
            format!("{language}_{script}")
        }
        _ => language.to_owned(),
    }
}

//! Makes the models that filters use, from JSONL: a classifier of labelled texts, an n-gram model of a
//! language.
//!
//! Both hold out what they are measured on. Texts of one group are on one side, and so are equal texts.
//! The result depends on the rows and the options alone.

use std::{collections::BTreeMap, fmt, path::Path};

use milpa_base::{
    Bytes, Seed, hash_bytes,
    lines::{Line, LineReader},
    write_file_atomic,
};
use milpa_text::{
    NgramModel, PerplexityCuts,
    classifier::{calibrate, train},
    metrics::{auroc, auroc_interval, calibration_error},
    ngram_model::NgramCounter,
    normalise,
};
pub use milpa_text::{classifier::ClassifierConfig, ngram_model::NgramConfig};
use serde::Serialize;
use serde_json::Value;

use crate::CorpusError;

/// Longest line of the examples.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Resamples of an interval.
const RESAMPLES: u64 = 1000;

/// Where texts stand in the rows of a JSONL file, and how many are read.
#[derive(Debug, Clone)]
pub struct Examples<'a> {
    /// Plain, gzip or zstd.
    pub path: &'a Path,
    /// The field with the text.
    pub text_field: &'a str,
    /// The field that names what belongs together, such as a law or an author.
    pub group_field: Option<&'a str>,
    /// Most bytes of text that are read; what comes after is left.
    pub limit: Bytes,
}

/// A row of the examples.
struct Example {
    label: String,
    text: String,
    /// From 0 to 4, by the hash of its group or text.
    fold: u8,
}

impl Examples<'_> {
    fn read(&self, label_field: Option<&str>) -> Result<Vec<Example>, CorpusError> {
        let failed =
            |error: &dyn fmt::Display| CorpusError::file("read the examples", self.path, error);
        let mut lines =
            LineReader::open(self.path, MAX_LINE_BYTES).map_err(|error| failed(&error))?;
        let (mut examples, mut bytes, mut number) = (Vec::new(), 0, 0u64);
        while let Some(line) = lines.next_line().map_err(|error| failed(&error))? {
            number += 1;
            let Line::Whole(line) = line else {
                return Err(failed(&format!("line {number} is too long")));
            };
            let row: Value = serde_json::from_slice(line)
                .map_err(|error| failed(&format!("line {number} is no JSON: {error}")))?;
            let field = |name: &str| match &row[name] {
                Value::String(text) => Ok(text.clone()),
                value @ (Value::Bool(_) | Value::Number(_)) => Ok(value.to_string()),
                Value::Null => Ok(String::new()),
                _ => Err(failed(&format!("line {number}: {name:?} is no text"))),
            };
            let text = normalise(&field(self.text_field)?);
            let label = label_field.map(&field).transpose()?.unwrap_or_default();
            // A row that nobody labelled teaches nothing.
            if text.is_empty() || (label_field.is_some() && label.is_empty()) {
                continue;
            }
            bytes += text.len() as u64;
            if bytes > self.limit.0 {
                break;
            }
            let group = self.group_field.map(&field).transpose()?.filter(|group| !group.is_empty());
            let fold = hash_bytes(group.as_ref().unwrap_or(&text).as_bytes()).0[0] % 5;
            examples.push(Example { label, text, fold });
        }
        if examples.is_empty() {
            let fields = [Some(self.text_field), label_field];
            let fields: Vec<&str> = fields.into_iter().flatten().collect();
            return Err(failed(&format!(
                "no row has the field {}",
                fields.join(" and the field ")
            )));
        }
        Ok(examples)
    }
}

/// How well a classifier does on texts that it never saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassifierReport {
    /// Texts for training, for calibration and for the test.
    pub texts: [usize; 3],
    /// By label.
    pub labels: BTreeMap<String, LabelReport>,
    /// Bytes of the file.
    pub bytes: usize,
}

/// One label against all others, on the test's texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelReport {
    /// Share of the test's texts.
    pub share: f64,
    /// Area under the ROC curve, with its 95 % bootstrap interval; none if the test lacks the label.
    pub auroc: Option<(f64, f64, f64)>,
    /// Expected calibration error in 10 bins.
    pub calibration_error: f64,
}

impl fmt::Display for ClassifierReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [training, calibration, test] = self.texts;
        writeln!(
            f,
            "{training} texts for training, {calibration} for calibration, {test} for the test"
        )?;
        write!(
            f,
            "{:<16}{:>8}{:>8}{:>18}{:>14}",
            "label", "share", "AUROC", "95 % interval", "calib. error"
        )?;
        for (label, report) in &self.labels {
            let area = report.auroc.map_or_else(
                || format!("{:>8}{:>18}", "-", "-"),
                |(area, low, high)| format!("{area:>8.4}{:>18}", format!("{low:.4} to {high:.4}")),
            );
            write!(
                f,
                "\n{label:<16}{:>8.3}{area}{:>14.4}",
                report.share, report.calibration_error
            )?;
        }
        Ok(())
    }
}

/// Trains a classifier of the labels in `label_field` and writes it to `out`: three fifths of the groups
/// teach, one calibrates, one is the test.
///
/// # Errors
/// Examples that cannot be read or that have fewer than two labels.
pub fn classifier(
    examples: &Examples<'_>,
    label_field: &str,
    config: &ClassifierConfig,
    out: &Path,
) -> Result<ClassifierReport, CorpusError> {
    let rows = examples.read(Some(label_field))?;
    let side = |folds: &[u8]| -> Vec<&Example> {
        rows.iter().filter(|row| folds.contains(&row.fold)).collect()
    };
    let [training, held_out, test] = [&[2, 3, 4][..], &[1], &[0]].map(side);
    fn pairs<'a>(rows: &[&'a Example]) -> Vec<(&'a str, &'a str)> {
        rows.iter().map(|row| (row.label.as_str(), row.text.as_str())).collect()
    }
    let failed =
        |error: milpa_text::ModelError| CorpusError::file("train on", examples.path, &error);
    let mut model = train(&pairs(&training), config).map_err(failed)?;
    calibrate(&mut model, &pairs(&held_out));
    let predictions: Vec<Vec<f32>> =
        test.iter().map(|row| model.predict(&row.text).probabilities).collect();
    let mut labels = BTreeMap::new();
    for (index, label) in model.labels().iter().enumerate() {
        let scores: Vec<f32> = predictions.iter().map(|row| row[index]).collect();
        let truth: Vec<bool> = test.iter().map(|row| row.label == *label).collect();
        let interval = auroc_interval(&scores, &truth, RESAMPLES, Seed(0));
        let area = auroc(&scores, &truth).zip(interval);
        let share = truth.iter().filter(|&&yes| yes).count() as f64 / truth.len().max(1) as f64;
        let calibration_error = calibration_error(&scores, &truth, 10);
        let auroc = area.map(|(area, (low, high))| (area, low, high));
        labels.insert(label.clone(), LabelReport { share, auroc, calibration_error });
    }
    let file = model.to_bytes();
    write_file_atomic(out, &file)?;
    let texts = [training.len(), held_out.len(), test.len()];
    Ok(ClassifierReport { texts, labels, bytes: file.len() })
}

/// An n-gram model and where its buckets end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NgramReport {
    /// Texts that it was estimated from, and texts that the buckets were cut by.
    pub texts: [usize; 2],
    /// Different n-grams of each length.
    pub ngrams: Vec<usize>,
    /// Largest perplexities of the head and the middle: thirds of the held-out texts.
    pub cuts: Option<PerplexityCuts>,
}

impl fmt::Display for NgramReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([training, held_out], ngrams) = (self.texts, &self.ngrams);
        writeln!(f, "{training} texts, n-grams by length {ngrams:?}")?;
        match self.cuts {
            Some(PerplexityCuts { head, middle }) => write!(
                f,
                "thirds of {held_out} held-out texts: head = {head:.1}, middle = {middle:.1} \
                 (for [[corpus.perplexity]])"
            ),
            None => write!(f, "no text is left to cut buckets by; set head and middle yourself"),
        }
    }
}

/// Estimates an n-gram model with modified Kneser-Ney smoothing from four fifths of the groups, writes it
/// to `out`, and cuts buckets by the others.
///
/// # Errors
/// Examples that cannot be read, or more different n-grams than `config` allows.
pub fn ngrams(
    examples: &Examples<'_>,
    config: NgramConfig,
    out: &Path,
) -> Result<NgramReport, CorpusError> {
    let rows = examples.read(None)?;
    let failed =
        |error: milpa_text::ModelError| CorpusError::file("estimate from", examples.path, &error);
    let mut counter = NgramCounter::new(config).map_err(failed)?;
    let (training, held_out): (Vec<&Example>, Vec<&Example>) =
        rows.iter().partition(|row| row.fold > 0);
    for row in &training {
        counter.add_text(&row.text).map_err(failed)?;
    }
    let list = counter.finish().map_err(failed)?;
    let bytes = list.to_bytes().map_err(failed)?;
    write_file_atomic(out, &bytes)?;
    let model = NgramModel::from_bytes(bytes).map_err(failed)?;
    let perplexities: Vec<f64> =
        held_out.iter().filter_map(|row| model.score_text(&row.text).perplexity()).collect();
    Ok(NgramReport {
        texts: [training.len(), perplexities.len()],
        ngrams: list.counts(),
        cuts: PerplexityCuts::thirds(&perplexities),
    })
}

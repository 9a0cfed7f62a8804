//! Trains text classifiers on labelled examples and measures them on examples that they never saw.
//!
//! `cargo run --release -p milpa-text --example train_quality_classifier -- DATA_DIR OUT_DIR`
//! where DATA_DIR holds `text/es_law_peru.jsonl.zst` and `safety/`. Three tasks: law from the
//! official text against law recognised from scans (by norm, and by region); toxic tweets in
//! Portuguese (any annotator's vote) and in Spanish (both coders). Texts with the same title or the
//! same letters are on one side of the split: 60 % train, 20 % calibration, 20 % test.
//! Writes OUT_DIR/TASK.model and, for `reference/classifier_check.py`, the split as fastText reads
//! it: TASK.train.txt and TASK.test.txt, one text a line after its label.

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{collections::BTreeMap, error::Error, fmt::Write as _, fs, hint::black_box, path::Path};

use milpa_base::{hash::hash_bytes, seed::Seed};
use milpa_text::{
    Classifier,
    classifier::{ClassifierConfig, Features, calibrate, train},
    metrics::{auroc, auroc_interval, calibration_error, kept_fraction, precision_at_prevalence},
    normalise,
};

mod clock;
mod rows;
use clock::seconds;
use rows::for_each_row;

/// A labelled text; texts that share a key are on one side of the split.
struct Row {
    positive: bool,
    keys: Vec<String>,
    text: String,
}

/// What is told apart.
struct Task {
    name: &'static str,
    /// What the score is a probability of, and the other class.
    labels: [&'static str; 2],
    rows: Vec<Row>,
    config: ClassifierConfig,
    /// Shares of positives at which precision is told besides the test set's own.
    prevalences: &'static [f64],
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: train_quality_classifier DATA_DIR OUT_DIR".into());
    };
    let (data, out) = (Path::new(&data), Path::new(&out));
    fs::create_dir_all(out)?;
    for task in tasks(data)? {
        run(&task, out)?;
    }
    Ok(())
}

fn tasks(data: &Path) -> Result<Vec<Task>, Box<dyn Error>> {
    let law = |by_region: bool| -> Result<Vec<Row>, Box<dyn Error>> {
        let mut rows = Vec::new();
        for_each_row(&data.join("text/es_law_peru.jsonl.zst"), |row| {
            let field = |name: &str| row[name].as_str().unwrap_or_default();
            let positive = field("tier") == "national_clean";
            let text = line_of(field("text"));
            let mut keys = vec![field("title").to_lowercase(), text.clone()];
            if by_region && !positive {
                keys = vec![field("jurisdiction").to_owned()];
            }
            rows.push(Row { positive, keys, text });
        })?;
        Ok(rows)
    };
    let toxic = |file: &str| -> Result<Vec<Row>, Box<dyn Error>> {
        let mut rows = Vec::new();
        for_each_row(&data.join(file), |row| {
            let text = line_of(row["text"].as_str().unwrap_or_default());
            // The coders disagree where it is null.
            if let Some(toxic) = row["toxic"].as_i64() {
                rows.push(Row { positive: toxic == 1, keys: vec![text.to_lowercase()], text });
            }
        })?;
        Ok(rows)
    };
    let config = |epochs, learning_rate, fold_case, char_ngrams| ClassifierConfig {
        features: Features { fold_case, char_ngrams, ..Features::default() },
        epochs,
        learning_rate,
        ..ClassifierConfig::default()
    };
    let (clean, tweets) = (["clean", "scan"], ["toxic", "other"]);
    let quality = || config(5, 0.5, false, 2..=4);
    Ok(vec![
        Task {
            name: "law_by_norm",
            labels: clean,
            rows: law(false)?,
            config: quality(),
            prevalences: &[0.1, 0.01],
        },
        Task {
            name: "law_by_region",
            labels: clean,
            rows: law(true)?,
            config: quality(),
            prevalences: &[0.1, 0.01],
        },
        Task {
            name: "toxic_pt",
            labels: tweets,
            rows: toxic("safety/told_br.jsonl.zst")?,
            config: config(10, 0.1, true, 3..=5),
            prevalences: &[0.1, 0.01],
        },
        Task {
            name: "toxic_es",
            labels: tweets,
            rows: toxic("safety/gold_toxicity_es.jsonl.zst")?,
            config: config(20, 0.5, true, 3..=5),
            prevalences: &[0.1, 0.01],
        },
    ])
}

/// Normalised text on one line, as fastText wants it.
fn line_of(text: &str) -> String {
    normalise(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Train, calibration and test set. A text whose keys were seen on different sides is left out.
fn split(rows: &[Row]) -> [Vec<&Row>; 3] {
    let mut side_of: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sides = [Vec::new(), Vec::new(), Vec::new()];
    for row in rows {
        let known: Vec<usize> =
            row.keys.iter().filter_map(|key| side_of.get(key.as_str()).copied()).collect();
        let side = match known.first() {
            Some(&side) if known.iter().all(|&other| other == side) => side,
            Some(_) => continue,
            None => match hash_bytes(row.keys[0].as_bytes()).0[0] % 5 {
                0 => 2,
                1 => 1,
                _ => 0,
            },
        };
        side_of.extend(row.keys.iter().map(|key| (key.as_str(), side)));
        sides[side].push(row);
    }
    sides
}

fn run(task: &Task, out: &Path) -> Result<(), Box<dyn Error>> {
    let [training, held_out, test] = split(&task.rows);
    let label = |row: &Row| task.labels[usize::from(!row.positive)];
    let pairs = |rows: &[&Row]| -> Vec<(&'static str, String)> {
        rows.iter().map(|row| (label(row), row.text.clone())).collect()
    };
    fn borrow<'a>(pairs: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
        pairs.iter().map(|(label, text)| (*label, text.as_str())).collect()
    }
    for (name, rows) in [("train", &training), ("test", &test)] {
        let mut lines = String::new();
        for row in rows {
            let folded = task.config.features.fold_case.then(|| row.text.to_lowercase());
            let text = folded.as_ref().unwrap_or(&row.text);
            writeln!(lines, "__label__{} {text}", label(row))?;
        }
        fs::write(out.join(format!("{}.{name}.txt", task.name)), lines)?;
    }
    let (training, held_out) = (pairs(&training), pairs(&held_out));
    let begin = seconds();
    let mut model = train(&borrow(&training), &task.config)?;
    let trained = seconds() - begin;
    let bytes: usize = training.iter().map(|(_, text)| text.len()).sum();
    println!(
        "{}: {} against {}, {} texts for training ({:.1} MB, {} epochs in {trained:.1} s), {} for \
         calibration, {} for the test",
        task.name,
        task.labels[0],
        task.labels[1],
        training.len(),
        bytes as f64 / 1e6,
        task.config.epochs,
        held_out.len(),
        test.len()
    );
    let truth: Vec<bool> = test.iter().map(|row| row.positive).collect();
    let positive = model.label(task.labels[0]).ok_or("the training set lacks a label")?;
    let scores_of = |model: &Classifier| -> Vec<f32> {
        test.iter().map(|row| model.predict(&row.text).probabilities[positive]).collect()
    };
    let raw = scores_of(&model);
    calibrate(&mut model, &borrow(&held_out));
    let file = model.to_bytes();
    fs::write(out.join(format!("{}.model", task.name)), &file)?;
    let scores = scores_of(&model);
    report(task, &raw, &scores, &truth);
    let mut passes = 0u32;
    let begin = seconds();
    while seconds() - begin < 1.0 {
        for row in &test {
            black_box(model.predict(&row.text));
        }
        passes += 1;
    }
    let spent = seconds() - begin;
    let bytes: usize = test.iter().map(|row| row.text.len()).sum();
    println!(
        "  prediction {:.1} MB/s, {:.0} texts/s of one core; file {:.0} kB",
        bytes as f64 * f64::from(passes) / spent / 1e6,
        test.len() as f64 * f64::from(passes) / spent,
        file.len() as f64 / 1e3
    );
    Ok(())
}

fn report(task: &Task, raw: &[f32], scores: &[f32], truth: &[bool]) {
    let none = f64::NAN;
    let area = auroc(scores, truth).unwrap_or(none);
    let (low, high) = auroc_interval(scores, truth, 1000, Seed(0)).unwrap_or((none, none));
    println!("  AUROC {area:.4} (95 % bootstrap interval {low:.4} to {high:.4})");
    println!(
        "  calibration error {:.4} (before calibration {:.4})",
        calibration_error(scores, truth, 10),
        calibration_error(raw, truth, 10)
    );
    let share = truth.iter().filter(|&&p| p).count() as f64 / truth.len() as f64;
    let mut line = format!(
        "  precision at p ≥ 0.5: {:.3} at the test set's prevalence {share:.3}",
        precision_at_prevalence(scores, truth, 0.5, share).unwrap_or(none)
    );
    for &prevalence in task.prevalences {
        let precision = precision_at_prevalence(scores, truth, 0.5, prevalence).unwrap_or(none);
        _ = write!(line, ", {precision:.3} at {prevalence}");
    }
    println!("{line}");
    let kept = [0.1, 0.25, 0.5, 0.75].map(|fraction| {
        let (precision, recall) = kept_fraction(scores, truth, fraction);
        format!("{precision:.3} ({recall:.3}) of the best {:.0} %", fraction * 100.0)
    });
    println!("  precision (recall): {}", kept.join(", "));
}

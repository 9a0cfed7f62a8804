//! Measures the rules for questions on the labelled list, by language, or shows what they keep of
//! any prompts.
//!
//! `cargo run -p milpa-eval --example question_rules -- [development | held_out] [show]`
//! Precision: of the turns that are kept, the share labelled so. Recall: of those labelled so, the
//! share that is kept. Intervals are Wilson's.
//! `… -- prompts FILE FIELD LANGUAGE` reads JSONL and counts what is kept, and why the rest is not.

use std::{collections::BTreeMap, error::Error, path::Path};

use milpa_base::lines::{Line, LineReader};
use milpa_eval::{
    statistics::{LEVEL, wilson},
    trueque::{
        question::questions,
        rules::{Language, objection_in_turn},
    },
};
use serde_json::Value;

const LABELLED: &str = include_str!("../data/trueque/labelled.tsv");

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["prompts", file, field, language] => {
            let language = Language::parse(language).ok_or("the language is es, pt or en")?;
            prompts(Path::new(file), field, language)
        }
        [] => labelled("development", false),
        [set] => labelled(set, false),
        [set, ..] => labelled(set, true),
    }
}

/// The question of a turn that the rules keep, or why they keep none.
fn kept(turn: &str, language: Language) -> Result<String, &'static str> {
    let mut reason = "no_question";
    for question in questions(turn, language) {
        match objection_in_turn(&question, language) {
            None => return Ok(question.text),
            Some(objection) => reason = objection,
        }
    }
    Err(reason)
}

#[expect(clippy::print_stdout, reason = "a measurement is printed")]
fn labelled(set: &str, show: bool) -> Result<(), Box<dyn Error>> {
    let mut all = [0u64; 3];
    for language in Language::ALL {
        // Kept and labelled so, kept, labelled so.
        let mut counts = [0u64; 3];
        for line in LABELLED.lines().filter(|line| !line.starts_with('#')) {
            let [of, code, label, turn] = line.split('\t').collect::<Vec<_>>()[..] else {
                return Err(format!("{line:?} has no four columns").into());
            };
            if of != set || code != language.code() {
                continue;
            }
            let found = kept(turn, language);
            let (is_kept, keep) = (found.is_ok(), label == "keep");
            let add = [is_kept && keep, is_kept, keep];
            for ((count, total), add) in counts.iter_mut().zip(&mut all).zip(add) {
                *count += u64::from(add);
                *total += u64::from(add);
            }
            if show && is_kept != keep {
                println!("labelled {label}: {turn}  {found:?}");
            }
        }
        print(language.code(), counts);
    }
    print("all", all);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a measurement is printed")]
fn print(name: &str, [right, kept, labelled]: [u64; 3]) {
    let share = |of: u64| {
        let interval = wilson(right, of, LEVEL);
        let percent = |share: f64| 100.0 * share;
        format!(
            "{right}/{of} = {:.1} % ({:.1}–{:.1})",
            percent(right as f64 / of as f64),
            percent(interval.low),
            percent(interval.high)
        )
    };
    println!("{name}: precision {}, recall {}", share(kept), share(labelled));
}

#[expect(clippy::print_stdout, reason = "a measurement is printed")]
fn prompts(file: &Path, field: &str, language: Language) -> Result<(), Box<dyn Error>> {
    let mut reader = LineReader::open(file, 16 << 20)?;
    let (mut turns, mut all_kept) = (0, 0);
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    while let Some(line) = reader.next_line()? {
        let Line::Whole(bytes) = line else { return Err("a line is longer than 16 MiB".into()) };
        let row: Value = serde_json::from_slice(bytes)?;
        let value = row.pointer(field).or_else(|| row.get(field)).and_then(Value::as_str);
        turns += 1;
        match kept(value.ok_or("no such field")?, language) {
            Ok(question) => {
                all_kept += 1;
                println!("{question}");
            }
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    println!("kept {all_kept} of {turns}; {reasons:?}");
    Ok(())
}

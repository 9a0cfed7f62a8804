//! Models as judges: prompts as data, verdicts read strictly, human labels to correct them by.
//!
//! [`Judge`] asks any `TextModel`: two answers in both orders (a judge that changes its mind with
//! the order has said "tie"), one answer for a grade, or one answer against the criteria of a
//! rubric. [`summary`] turns judgments into win rates and means, [`correction`] carries the judge's
//! own errors into the interval, [`labels`] says how far raters agree. It knows no endpoint and no
//! chat template; [`Dialogue`] brings them.

pub mod correction;
pub mod exchange;
pub mod labels;
mod prompt;
mod run;
pub mod summary;
mod verdict;

use std::{collections::BTreeMap, path::Path};

use milpa_base::{
    Digest,
    lines::{Line, LineReader},
};
use serde::{Deserialize, Serialize};

pub use prompt::{JudgeKind, JudgePrompt, builtin_prompts, read_prompts};
pub use run::{Asked, Dialogue, Judge, Judgment, Log, Verdict, read_verdict};
pub use verdict::{Preference, parse_criterion, parse_preference, parse_rating};

use crate::{
    error::EvalError,
    statistics::{Interval, LEVEL, mean, mean_interval},
};

/// Longest judgment, in bytes.
const MAX_JUDGMENT_BYTES: usize = 4 << 20;

/// Reads judgments by their key; a last line that was cut off in writing is left out.
///
/// # Errors
/// A file that cannot be read, or a line before the last that is no judgment.
pub fn read_judgments(path: &Path) -> Result<BTreeMap<Digest, Judgment>, EvalError> {
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let mut reader = LineReader::open(path, MAX_JUDGMENT_BYTES).map_err(read_error)?;
    let mut judgments = BTreeMap::new();
    let mut broken: Option<EvalError> = None;
    while let Some(line) = reader.next_line().map_err(read_error)? {
        if let Some(error) = broken {
            return Err(error);
        }
        let parsed = match line {
            Line::Whole(bytes) => {
                serde_json::from_slice::<Judgment>(bytes).map_err(|error| error.to_string())
            }
            Line::TooLong { bytes } => Err(format!("the line has {bytes} bytes")),
        };
        match parsed {
            Ok(judgment) => {
                judgments.insert(judgment.key, judgment);
            }
            Err(message) => {
                let message = format!("line {}: {message}", reader.line_number());
                broken = Some(EvalError::BadReport { path: path.to_owned(), message });
            }
        }
    }
    Ok(judgments)
}

/// Mean grade of a model over the rows of a file of MT-Bench judgments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedScore {
    /// The model that was judged.
    pub model: String,
    /// The turn; `None` for all turns together.
    pub turn: Option<u64>,
    /// Mean over the readable rows.
    pub mean: f64,
    /// Its interval.
    pub interval: Option<Interval>,
    /// Readable rows.
    pub rows: u64,
    /// Rows without a grade.
    pub unreadable: u64,
    /// Rows whose text gives another grade than their `score` says.
    pub disagreeing: u64,
}

/// Reads MT-Bench judgments (`model`, `turn`, `judgment`, `score`), reads every grade anew out of
/// the text, and gives the means by model and turn.
///
/// # Errors
/// A file that cannot be read, or a line that is no such judgment.
pub fn published_scores(path: &Path) -> Result<Vec<PublishedScore>, EvalError> {
    #[derive(Deserialize)]
    struct Row {
        model: String,
        turn: u64,
        judgment: String,
        score: f64,
    }
    #[derive(Default)]
    struct Tally {
        grades: Vec<f64>,
        unreadable: u64,
        disagreeing: u64,
    }
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let mut reader = LineReader::open(path, MAX_JUDGMENT_BYTES).map_err(read_error)?;
    let mut scores: BTreeMap<(String, Option<u64>), Tally> = BTreeMap::new();
    while let Some(line) = reader.next_line().map_err(read_error)? {
        let parsed = match line {
            Line::Whole(bytes) => {
                serde_json::from_slice::<Row>(bytes).map_err(|error| error.to_string())
            }
            Line::TooLong { bytes } => Err(format!("the line has {bytes} bytes")),
        };
        let row = parsed.map_err(|message| EvalError::BadReport {
            path: path.to_owned(),
            message: format!("line {}: {message}", reader.line_number()),
        })?;
        let grade = parse_rating(&row.judgment);
        // MT-Bench writes −1 where nothing was read.
        let disagrees = grade.unwrap_or(-1.0) != row.score;
        for turn in [None, Some(row.turn)] {
            let entry = scores.entry((row.model.clone(), turn)).or_default();
            entry.grades.extend(grade);
            entry.unreadable += u64::from(grade.is_none());
            entry.disagreeing += u64::from(disagrees);
        }
    }
    Ok(scores
        .into_iter()
        .map(|((model, turn), Tally { grades, unreadable, disagreeing })| PublishedScore {
            model,
            turn,
            mean: mean(&grades),
            interval: mean_interval(&grades, LEVEL).map(|(_, interval)| interval),
            rows: grades.len() as u64,
            unreadable,
            disagreeing,
        })
        .collect())
}

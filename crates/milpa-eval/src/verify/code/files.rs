//! Problems and programs from JSONL, and the report of trying them.
//!
//! A problem is a line with `id` and `tests`; a program is a line with `id` and `response`, several
//! for a problem. Programs are tried on all cores; the report does not depend on how many.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use milpa_base::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::EvalError,
    instructions::{name_of, read_rows},
    items::Skips,
    verify::{
        Outcome, Reason, Verdict,
        code::{Block, CodeFailure, CodeTests, PassAtK, judge, mean_pass_at_k},
    },
};

/// Layout version of [`CodeReport`].
const FORMAT: u32 = 1;
/// What errors call it.
const TASK: &str = "programs";

/// A problem with its tests.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Its `id`.
    pub id: String,
    /// Line in the file, counted from 1.
    pub line: u64,
    /// Its tests, as JSON.
    pub tests: String,
}

/// The usable problems of a file.
#[derive(Debug, Clone)]
pub struct ProblemSet {
    /// In the order of the file.
    pub problems: Vec<Problem>,
    /// What was left out.
    pub skips: Skips,
    /// BLAKE3 of the file as it lies on disk.
    pub data_hash: Digest,
}

/// Responses by the `id` of their problem, in the order of the file.
#[derive(Debug, Clone)]
pub struct CodeResponses {
    by_id: BTreeMap<String, Vec<String>>,
    /// What was left out.
    pub skips: Skips,
    /// BLAKE3 of the file as it lies on disk.
    pub data_hash: Digest,
}

/// How one program did: a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeLog {
    /// The problem.
    pub id: String,
    /// Number of the response among those to the problem, from 1.
    pub sample: u64,
    /// The verdict.
    pub verdict: Verdict,
    /// The response.
    pub response: String,
}

/// The scores of programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeReport {
    /// Layout version.
    pub format: u32,
    /// Version of the program.
    pub milpa_version: String,
    /// The command line that does it again.
    pub command_line: String,
    /// BLAKE3 of the problems.
    pub data_hash: Digest,
    /// BLAKE3 of the responses.
    pub responses_hash: Digest,
    /// Problems with a response.
    pub problems: u64,
    /// Responses tried.
    pub programs: u64,
    /// What was left out of the problems, by reason.
    pub skips: Skips,
    /// What was left out of the responses, by reason.
    pub response_skips: Skips,
    /// The scores, by k.
    pub pass_at_k: Vec<PassAtK>,
    /// How many programs ended in which way.
    pub endings: BTreeMap<String, u64>,
}

/// Reads problems (plain, gzip or zstd JSONL): `id`, and `tests` as an object or its JSON.
///
/// # Errors
/// A file that cannot be read, is too long, or has no usable problem.
pub fn read_problems(path: &Path) -> Result<ProblemSet, EvalError> {
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    let (skips, data_hash) = read_rows(path, |row, line| {
        let id = row.get("id").and_then(name_of).ok_or("no \"id\"")?;
        let tests = match row.get("tests") {
            Some(Value::String(json)) => json.clone(),
            Some(value) => value.to_string(),
            None => return Err("no \"tests\"".to_owned()),
        };
        CodeTests::parse(&tests).map_err(|problem| format!("tests: {problem}"))?;
        if !seen.insert(id.clone()) {
            return Err("an id that was there before".to_owned());
        }
        problems.push(Problem { id, line, tests });
        Ok(())
    })?;
    if problems.is_empty() {
        let detail = format!("no problem with its tests; left out: {skips}");
        return Err(EvalError::NoItems { path: path.to_owned(), task: TASK.to_owned(), detail });
    }
    Ok(ProblemSet { problems, skips, data_hash })
}

/// Reads responses (plain, gzip or zstd JSONL): `id` of the problem, and `response`.
///
/// # Errors
/// A file that cannot be read, is too long, or has no response.
pub fn read_code_responses(path: &Path) -> Result<CodeResponses, EvalError> {
    let mut by_id: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (skips, data_hash) = read_rows(path, |row, _| {
        let id = row.get("id").and_then(name_of).ok_or("no \"id\"")?;
        let Some(Value::String(response)) = row.get("response") else {
            return Err("no text in the field \"response\"".to_owned());
        };
        by_id.entry(id).or_default().push(response.clone());
        Ok(())
    })?;
    if by_id.is_empty() {
        let detail = format!("no response; left out: {skips}");
        return Err(EvalError::NoItems { path: path.to_owned(), task: TASK.to_owned(), detail });
    }
    Ok(CodeResponses { by_id, skips, data_hash })
}

/// Tries every response on `threads` threads and scores pass@k for each of `ks`.
///
/// # Errors
/// No response to any of the problems.
pub fn score_code(
    set: &ProblemSet,
    responses: &CodeResponses,
    block: Block,
    ks: &[u64],
    threads: usize,
) -> Result<(CodeReport, Vec<CodeLog>), EvalError> {
    let mut skips = set.skips.clone();
    let mut trials: Vec<(&Problem, u64, &str)> = Vec::new();
    for problem in &set.problems {
        match responses.by_id.get(&problem.id) {
            Some(given) => {
                trials.extend((1..).zip(given).map(|(at, text)| (problem, at, text.as_str())));
            }
            None => skips.add("no response", problem.line),
        }
    }
    if trials.is_empty() {
        return Err(EvalError::OtherAnswers(
            "no problem of the data has a response; are they of another file?",
        ));
    }
    let logs: Vec<CodeLog> = trials
        .iter()
        .zip(verdicts(&trials, block, threads))
        .map(|(&(problem, sample, response), verdict)| CodeLog {
            id: problem.id.clone(),
            sample,
            verdict,
            response: response.to_owned(),
        })
        .collect();
    let mut endings: BTreeMap<String, u64> = BTreeMap::new();
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for log in &logs {
        *endings.entry(ending(&log.verdict.reason)).or_default() += 1;
        let (samples, correct) = counts.entry(&log.id).or_default();
        *samples += 1;
        *correct += u64::from(log.verdict.outcome == Outcome::Correct);
    }
    let counts: Vec<(u64, u64)> = counts.into_values().collect();
    let report = CodeReport {
        format: FORMAT,
        milpa_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: String::new(),
        data_hash: set.data_hash,
        responses_hash: responses.data_hash,
        problems: counts.len() as u64,
        programs: logs.len() as u64,
        skips,
        response_skips: responses.skips.clone(),
        pass_at_k: ks.iter().filter_map(|&k| mean_pass_at_k(&counts, k)).collect(),
        endings,
    };
    Ok((report, logs))
}

fn verdicts(trials: &[(&Problem, u64, &str)], block: Block, threads: usize) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((problem, _, response)) = trials.get(at) else { return done };
            done.push((at, judge(&problem.tests, response, block)));
        }
    };
    let mut all: Vec<(usize, Verdict)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a trial panics never"))
            .collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, verdict)| verdict).collect()
}

/// The kind of ending that a reason is, for counting.
fn ending(reason: &Reason) -> String {
    let name = match reason {
        Reason::PassesTests { .. } => "passes",
        Reason::NoCode => "no code",
        Reason::FailsTest { failure, .. } => match failure {
            CodeFailure::WrongAnswer { .. } | CodeFailure::Assertion { .. } => "wrong answer",
            CodeFailure::Stopped { stop } => stop.kind(),
        },
        _ => "unreadable tests",
    };
    name.to_owned()
}

impl fmt::Display for CodeReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{} programs for {} problems", self.programs, self.problems)?;
        for score in &self.pass_at_k {
            write!(formatter, "pass@{:<4} {:6.1} %", score.k, 100.0 * score.value)?;
            if let Some(interval) = score.interval {
                let (low, high) = (100.0 * interval.low, 100.0 * interval.high);
                write!(formatter, "  [{low:.1}, {high:.1}]")?;
            }
            writeln!(formatter, "  {} problems", score.problems)?;
        }
        for (name, count) in &self.endings {
            writeln!(formatter, "  {count:6} {name}")?;
        }
        for (what, skips) in [("problems", &self.skips), ("responses", &self.response_skips)] {
            if skips.total() > 0 {
                writeln!(formatter, "left out of the {what}: {skips}")?;
            }
        }
        Ok(())
    }
}

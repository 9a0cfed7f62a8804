//! Which questions were answered wrongly, and why: the part of a report that is read by people.
//!
//! Reasons are the verdicts' where a metric gives one, and counted by kind. It judges nothing itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    harness::{QuestionLog, report::shown_filter, scores::Response},
    verify::Verdict,
};

/// Failures that a report lists; the log of questions has all.
const SHOWN: usize = 12;
/// Characters of an answer and of a reason that a list shows.
const SHOWN_CHARS: usize = 160;

/// Wrong answers under one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failures {
    /// The metric.
    pub metric: String,
    /// The pipeline of filters before it.
    pub filter: String,
    /// Questions that do not score 1.
    pub wrong: u64,
    /// How often each kind of reason was given.
    pub reasons: BTreeMap<String, u64>,
    /// The first of them.
    pub first: Vec<Failure>,
}

/// A wrong answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Line in the file, counted from 1.
    pub line: u64,
    /// The beginning of the last answer.
    pub answer: String,
    /// Why it is wrong.
    pub reason: String,
}

/// The failures under `metric,filter`; `None` where no reason was given for any of them.
pub(crate) fn failures(metric: &str, filter: &str, logs: &[QuestionLog]) -> Option<Failures> {
    let key = format!("{metric},{filter}");
    let mut found = Failures {
        metric: metric.to_owned(),
        filter: filter.to_owned(),
        wrong: 0,
        reasons: BTreeMap::new(),
        first: Vec::new(),
    };
    for log in logs {
        let score = log.scores.get(&key).or_else(|| log.scores.get(metric));
        if score.is_none_or(|score| *score >= 1.0) {
            continue;
        }
        let reasons = reasons_of(log, &key);
        if reasons.is_empty() {
            continue;
        }
        found.wrong += 1;
        for (kind, _) in &reasons {
            *found.reasons.entry(kind.clone()).or_default() += 1;
        }
        if found.first.len() < SHOWN {
            let said: Vec<String> = reasons.into_iter().map(|(_, said)| said).collect();
            found.first.push(Failure {
                line: log.line,
                answer: answer_of(log),
                reason: beginning(&said.join("; "), SHOWN_CHARS),
            });
        }
    }
    (found.wrong > 0).then_some(found)
}

/// Kind and words of each reason why an answer is wrong.
fn reasons_of(log: &QuestionLog, key: &str) -> Vec<(String, String)> {
    let verdict = |verdict: &Verdict| (verdict.reason.kind(), verdict.reason.to_string());
    let broken = log.instructions.iter().filter(|instruction| !instruction.strict.kept);
    (log.verdicts.get(key).filter(|verdict| !verdict.is_correct()).map(verdict))
        .into_iter()
        .chain(
            broken.map(|broken| {
                (broken.id.clone(), format!("{}: {}", broken.id, broken.strict.reason))
            }),
        )
        .collect()
}

fn answer_of(log: &QuestionLog) -> String {
    let written = log.responses.iter().rev().find_map(|response| match response {
        Response::Generation { text, .. } => Some(text.trim()),
        _ => None,
    });
    beginning(written.unwrap_or_default(), SHOWN_CHARS)
}

fn beginning(text: &str, most: usize) -> String {
    let mut cut: String = text.chars().take(most).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

impl Failures {
    /// The result as a line of text.
    pub fn note(&self) -> String {
        let mut counted: Vec<(&String, &u64)> = self.reasons.iter().collect();
        counted.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), (*kind).clone()));
        let counted: Vec<String> = counted
            .into_iter()
            .map(|(kind, count)| format!("{} {count}", kind.replace('_', " ")))
            .collect();
        format!(
            "{} answers are wrong by {}{}: {}",
            self.wrong,
            self.metric,
            shown_filter(&self.filter),
            counted.join(", ")
        )
    }
}

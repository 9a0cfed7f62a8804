//! Reads chat logs as far as people agreed to, and finds the questions in them.
//!
//! A log is JSONL, a conversation on each line (`docs/trueque.md` has the fields). Of each line the
//! identity and the record of consent are read first; without a valid record for this use nothing
//! else of it is. Personal data is covered before a text goes anywhere. Lines that are broken are
//! counted with their place and never quoted: nobody agreed to that either.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use milpa_base::lines::{Line, LineReader};
use milpa_text::{LanguageModel, normalise, personal, words};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    config::{ConsentConfig, TruequeConfig, country},
    question::{identity, questions},
    rules::{Language, MAX_WORDS},
    work::Rejected,
};
use crate::{benchmark::BuildWatch, error::EvalError};

/// Longest conversation, in bytes.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Most different questions.
const MAX_CANDIDATES: usize = 5_000_000;
/// Lines that threads share out at a time.
const BATCH: usize = 1024;
/// Characters of the chat's own answer that are kept as a draft.
const MAX_DRAFT: usize = 1000;
/// Characters of a question that is too long that are kept.
const MAX_SHOWN: usize = 200;
/// Conversations that are named behind a question.
const MAX_NAMED: usize = 20;
/// How sure an identification must be to stand against what the log says.
const SURE: f32 = 0.95;

/// A question that may become an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Its identity: a hash of its words.
    pub id: String,
    /// Its language.
    pub language: Language,
    /// The question, personal data covered.
    pub question: String,
    /// Whether, wherever it was asked, a story came before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_story: bool,
    /// Kinds of personal data that were covered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub personal: Vec<String>,
    /// Country that the log names, if all conversations behind it name the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Conversations in which it was asked.
    pub asked: u64,
    /// The first of them. They stay in the working folder.
    pub conversations: Vec<String>,
    /// What the chat answered, unchecked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
}

/// A record of consent.
#[derive(Debug, Clone, Deserialize)]
struct Consent {
    #[serde(default)]
    scope: Vec<String>,
    #[serde(default)]
    version: String,
    #[serde(default)]
    date: String,
    #[serde(default)]
    withdrawn: Value,
}

/// The part of a conversation that is read first.
#[derive(Deserialize)]
struct Head {
    id: String,
    #[serde(default)]
    person: Option<String>,
    #[serde(default)]
    consent: Option<Consent>,
}

/// What is read of a conversation with consent.
#[derive(Deserialize)]
struct Conversation {
    #[serde(default)]
    country: Option<String>,
    #[serde(default)]
    language: Option<String>,
    turns: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    text: String,
}

/// A line of the file of later consents.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerLine {
    #[serde(default)]
    conversation: Option<String>,
    #[serde(default)]
    person: Option<String>,
    #[serde(default)]
    scope: Vec<String>,
    #[serde(default)]
    version: String,
    #[serde(default)]
    date: String,
    #[serde(default)]
    withdrawn: Value,
}

/// Consents that came after the logs, by conversation and by person.
#[derive(Default)]
struct Ledger {
    conversations: HashMap<String, Vec<Consent>>,
    people: HashMap<String, Vec<Consent>>,
}

impl Ledger {
    /// Reads the file. A line that is not understood stops the work: it may be a withdrawal.
    fn read(path: &Path) -> Result<Self, EvalError> {
        let failed = |source| EvalError::Read { path: path.to_owned(), source };
        let mut reader = LineReader::open(path, MAX_LINE_BYTES).map_err(failed)?;
        let mut ledger = Self::default();
        while let Some(line) = reader.next_line().map_err(failed)? {
            let entry: Option<LedgerLine> = match line {
                Line::Whole(bytes) if bytes.trim_ascii().is_empty() => continue,
                Line::Whole(bytes) => serde_json::from_slice(bytes).ok(),
                Line::TooLong { .. } => None,
            };
            let bad = |problem: &str| EvalError::TruequeLine {
                path: path.to_owned(),
                line: reader.line_number(),
                problem: problem.to_owned(),
            };
            let entry = entry.ok_or_else(|| {
                bad("not a record of consent; it may be a withdrawal, so nothing is read until it is put right")
            })?;
            let record = Consent {
                scope: entry.scope,
                version: entry.version,
                date: entry.date,
                withdrawn: entry.withdrawn,
            };
            if record.event().is_none() {
                return Err(bad(
                    "a record of consent has `date`, a withdrawal `withdrawn`, as YYYY-MM-DD",
                ));
            }
            match (entry.conversation, entry.person) {
                (Some(id), None) => ledger.conversations.entry(id).or_default().push(record),
                (None, Some(id)) => ledger.people.entry(id).or_default().push(record),
                _ => {
                    return Err(bad("a record of consent is of a `conversation` or of a `person`"));
                }
            }
        }
        Ok(ledger)
    }

    /// What stands against reading a conversation, or `None` if its people agreed.
    fn objection(&self, head: &Head, wanted: &ConsentConfig) -> Option<&'static str> {
        let later = self.conversations.get(&head.id);
        let of_person = head.person.as_ref().and_then(|person| self.people.get(person));
        let records = head.consent.iter().chain(later.into_iter().flatten());
        let records: Vec<&Consent> = records.chain(of_person.into_iter().flatten()).collect();
        if records.is_empty() {
            return Some("no record of consent");
        }
        let Some(events) = records.iter().map(|record| record.event()).collect::<Option<Vec<_>>>()
        else {
            return Some("a record of consent without a date");
        };
        // The latest counts; on one day a withdrawal does.
        let latest = events.into_iter().zip(&records).max_by_key(|(event, _)| *event);
        let ((_, withdrawn), record) = latest?;
        if withdrawn {
            return Some(WITHDRAWN);
        }
        if !record.scope.contains(&wanted.scope) {
            return Some("consent for other uses");
        }
        (!wanted.versions.contains(&record.version)).then_some("consent to another text")
    }
}

/// The reason that takes back what other copies of a conversation say.
const WITHDRAWN: &str = "consent withdrawn";

impl Consent {
    /// The day on which it was last changed, and whether it was withdrawn then.
    fn event(&self) -> Option<([u8; 10], bool)> {
        match &self.withdrawn {
            Value::Null | Value::Bool(false) => day(&self.date).map(|day| (day, false)),
            // Without a day it counts for ever.
            Value::Bool(true) => Some((*b"9999-12-31", true)),
            Value::String(date) => day(date).map(|day| (day, true)),
            _ => None,
        }
    }
}

/// The day of `2026-03-14` or `2026-03-14T10:00:00Z`.
fn day(text: &str) -> Option<[u8; 10]> {
    let day: [u8; 10] = text.as_bytes().get(..10)?.try_into().ok()?;
    let shaped = day.iter().enumerate().all(|(at, byte)| match at {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    shaped.then_some(day)
}

/// What one line of a log gives.
enum Read {
    /// Nothing, with the reason and the identity if there is one.
    Rejected(Option<String>, &'static str),
    /// The questions of a conversation, and its turns of people.
    Kept { id: String, asked: Vec<Asked>, turns: u64, other_language: u64 },
}

struct Asked {
    language: Language,
    question: String,
    after_story: bool,
    personal: Vec<String>,
    country: Option<String>,
    draft: Option<String>,
}

/// Counts of the reading, beside what was rejected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogCounts {
    /// Lines that are not blank.
    pub lines: u64,
    /// Conversations with consent.
    pub conversations: u64,
    /// Turns of people in them.
    pub turns: u64,
    /// Turns in a language without rules.
    pub other_language: u64,
    /// Questions, with repetitions.
    pub questions: u64,
}

/// Reads all logs: the different questions in the order of their identities, what was not read with
/// its place, and counts.
pub(crate) fn read(
    config: &TruequeConfig,
    threads: usize,
    watch: BuildWatch<'_>,
) -> Result<(Vec<Candidate>, Vec<Rejected>, LogCounts), EvalError> {
    let ledger = match &config.consents {
        Some(location) => Ledger::read(&location.path)?,
        None => Ledger::default(),
    };
    let mut found = Found::default();
    for location in &config.logs {
        let failed = |source| EvalError::Read { path: location.path.clone(), source };
        let mut reader = LineReader::open(&location.path, MAX_LINE_BYTES).map_err(failed)?;
        watch.progress.begin("reading logs", None, "lines");
        let mut batch: Vec<(u64, Option<Vec<u8>>)> = Vec::with_capacity(BATCH);
        loop {
            let line = match reader.next_line().map_err(failed)? {
                None => None,
                Some(Line::TooLong { .. }) => Some(None),
                Some(Line::Whole(bytes)) if bytes.trim_ascii().is_empty() => continue,
                Some(Line::Whole(bytes)) => Some(Some(bytes.to_vec())),
            };
            let ended = line.is_none();
            if let Some(line) = line {
                batch.push((reader.line_number(), line));
            }
            if batch.len() == BATCH || (ended && !batch.is_empty()) {
                watch.check()?;
                for (line, read) in read_batch(&batch, &ledger, config, threads) {
                    found.add(&location.written, line, read, &location.path)?;
                }
                watch.progress.advance(reader.line_number());
                batch.clear();
            }
            if ended {
                break;
            }
        }
        watch.progress.end();
    }
    Ok(found.finish())
}

/// Reads lines on several threads; the result is in their order.
fn read_batch(
    batch: &[(u64, Option<Vec<u8>>)],
    ledger: &Ledger,
    config: &TruequeConfig,
    threads: usize,
) -> Vec<(u64, Read)> {
    let share = batch.len().div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        let workers: Vec<_> = batch
            .chunks(share)
            .map(|lines| {
                scope.spawn(move || -> Vec<(u64, Read)> {
                    let one = |(line, bytes): &(u64, Option<Vec<u8>>)| {
                        let read = match bytes {
                            Some(bytes) => read_line(bytes, ledger, config),
                            None => Read::Rejected(None, "the line is longer than 16 MiB"),
                        };
                        (*line, read)
                    };
                    lines.iter().map(one).collect()
                })
            })
            .collect();
        let joined = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.flat_map(|part| part.expect("reading a line does not panic")).collect()
    })
}

fn read_line(bytes: &[u8], ledger: &Ledger, config: &TruequeConfig) -> Read {
    let head: Head = match serde_json::from_slice(bytes) {
        Ok(head) => head,
        Err(error) if error.is_data() => {
            return Read::Rejected(None, "no id, or a consent record of another form");
        }
        Err(_) => return Read::Rejected(None, "not valid JSON"),
    };
    if let Some(reason) = ledger.objection(&head, &config.consent) {
        return Read::Rejected(Some(head.id), reason);
    }
    let Ok(conversation) = serde_json::from_slice::<Conversation>(bytes) else {
        return Read::Rejected(Some(head.id), "no turns, or turns of another form");
    };
    let declared = conversation.language.as_deref().and_then(Language::parse);
    let country = conversation.country.as_deref().and_then(|code| country(code).ok());
    let (mut asked, mut turns, mut other_language) = (Vec::new(), 0, 0);
    for (at, turn) in conversation.turns.iter().enumerate() {
        if turn.role != "user" {
            continue;
        }
        turns += 1;
        let covered = personal::mask(&normalise(&turn.text)).into_owned();
        let Some(language) = language_of(&covered, declared) else {
            other_language += 1;
            continue;
        };
        let answer = conversation.turns.get(at + 1).filter(|next| next.role == "assistant");
        // What nobody will look at is not kept: an answer may name who asked.
        let draft = answer.filter(|_| config.sheets.draft).map(|next| draft_of(&next.text));
        for question in questions(&covered, language) {
            asked.push(Asked {
                language,
                personal: kinds_in(&question.text),
                question: question.text,
                after_story: question.after_story,
                country: country.clone(),
                draft: draft.clone(),
            });
        }
    }
    Read::Kept { id: head.id, asked, turns, other_language }
}

/// The language of a turn: what it surely is, or what the log says, or what it may be.
fn language_of(text: &str, declared: Option<Language>) -> Option<Language> {
    let found = LanguageModel::embedded().identify(text);
    let known = Language::parse(found.label);
    if found.confidence >= SURE && words(text).nth(3).is_some() {
        return known;
    }
    declared.or(known)
}

/// The kinds of personal data that stand covered in a text.
fn kinds_in(text: &str) -> Vec<String> {
    let mut kinds: Vec<String> = personal::Kind::all()
        .map(personal::Kind::name)
        .filter(|name| text.contains(&format!("[{name}]")))
        .map(str::to_owned)
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

fn draft_of(text: &str) -> String {
    let covered = personal::mask(&normalise(text)).into_owned();
    cut(&covered, MAX_DRAFT)
}

/// The beginning of a text.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Everything that was read so far.
#[derive(Default)]
struct Found {
    seen: HashSet<String>,
    withdrawn: HashSet<String>,
    conversations: Vec<(String, Vec<Asked>)>,
    rejected: Vec<Rejected>,
    counts: LogCounts,
    questions: usize,
}

impl Found {
    fn add(&mut self, file: &str, line: u64, read: Read, path: &Path) -> Result<(), EvalError> {
        self.counts.lines += 1;
        let mut reject = |id: Option<String>, reason: &str| {
            let id = id.unwrap_or_default();
            let place = format!("{file}:{line}");
            self.rejected.push(Rejected {
                id,
                reason: reason.to_owned(),
                place,
                ..Rejected::default()
            });
        };
        match read {
            Read::Rejected(id, reason) => {
                if let Some(id) = id.as_ref().filter(|_| reason == WITHDRAWN) {
                    self.withdrawn.insert(id.clone());
                }
                reject(id, reason);
            }
            Read::Kept { id, .. } if !self.seen.insert(id.clone()) => {
                reject(Some(id), "an id that occurred before");
            }
            Read::Kept { id, asked, turns, other_language } => {
                self.counts.turns += turns;
                self.counts.other_language += other_language;
                self.questions += asked.len();
                if self.questions > MAX_CANDIDATES {
                    return Err(EvalError::TooManyItems {
                        path: path.to_owned(),
                        bound: MAX_CANDIDATES,
                    });
                }
                self.conversations.push((id, asked));
            }
        }
        Ok(())
    }

    /// Joins the same questions of all conversations.
    fn finish(mut self) -> (Vec<Candidate>, Vec<Rejected>, LogCounts) {
        let mut candidates: BTreeMap<String, Candidate> = BTreeMap::new();
        for (conversation, asked) in std::mem::take(&mut self.conversations) {
            if self.withdrawn.contains(&conversation) {
                // Another copy of it in the logs was withdrawn.
                self.rejected.push(Rejected {
                    id: conversation,
                    reason: WITHDRAWN.to_owned(),
                    ..Rejected::default()
                });
                continue;
            }
            self.counts.conversations += 1;
            let mut here = HashSet::new();
            for one in asked {
                self.counts.questions += 1;
                let id = identity(&one.question);
                let first = here.insert(id.clone());
                add_question(&mut candidates, id, first.then_some(conversation.as_str()), one);
            }
        }
        (candidates.into_values().collect(), self.rejected, self.counts)
    }
}

/// Adds a question; `conversation` is named the first time that it is asked there.
fn add_question(
    candidates: &mut BTreeMap<String, Candidate>,
    id: String,
    conversation: Option<&str>,
    one: Asked,
) {
    let long = words(&one.question).nth(MAX_WORDS).is_some();
    let question = if long { cut(&one.question, MAX_SHOWN) } else { one.question };
    let candidate = candidates.entry(id).or_insert_with_key(|id| Candidate {
        id: id.clone(),
        language: one.language,
        question: question.clone(),
        after_story: one.after_story,
        personal: one.personal,
        country: one.country.clone(),
        asked: 0,
        conversations: Vec::new(),
        draft: one.draft,
    });
    if let Some(conversation) = conversation {
        candidate.asked += 1;
        if candidate.conversations.len() < MAX_NAMED {
            candidate.conversations.push(conversation.to_owned());
        }
    }
    candidate.after_story &= one.after_story;
    if candidate.country != one.country {
        candidate.country = None;
    }
    // Of several ways to type it, the one with most accents; of these the first by its letters.
    let accents = |text: &str| text.chars().filter(|c| !c.is_ascii() && c.is_alphabetic()).count();
    let rank = |text: &str| (accents(text), std::cmp::Reverse(text.to_owned()));
    if rank(&question) > rank(&candidate.question) {
        candidate.question = question;
    }
}

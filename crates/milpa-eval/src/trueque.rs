//! Builds a benchmark of what people of the region really ask, from the logs of a chat.
//!
//! Stages: conversations with consent ([`logs`]) → questions ([`question`]) → self-contained and
//! factual ones ([`rules`]) → one of those that ask the same → none with personal data → answers with
//! source and two blind reviews ([`sheets`], [`review`]) → caps by country and topic → a frozen set
//! with its card ([`freeze`]). Each stage leaves a file in the working folder with what it rejected
//! and why. People work on sheets; the same command goes on as far as the sheets allow, and says
//! what it waits for. Personal data is covered before anything is written.

pub mod config;
mod duplicates;
pub mod freeze;
pub mod logs;
mod pattern;
pub mod question;
pub mod review;
pub mod rules;
pub mod sheets;
mod work;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use milpa_base::{
    Digest,
    artifact::{ArtifactError, write_file_atomic},
    hash_bytes, hash_file,
};
use serde::{Deserialize, Serialize};

pub use config::TruequeConfig;
pub use freeze::{TruequeItem, TruequeReport, read_items};
pub use work::{FunnelRow, Rejected};

use crate::{
    benchmark::BuildWatch,
    error::EvalError,
    trueque::{
        duplicates::{Alike, Fingerprint},
        freeze::Previous,
        logs::Candidate,
        review::{Accepted, Measured, Standing},
        sheets::{AnswerRow, Answered, Returned, Review},
        work::{Output, Work, key},
    },
};

/// Sheets that wait for people.
const TO_FILL: &str = "to_fill";
/// Sheets that came back.
const FILLED: &str = "filled";
/// Identities that were ever sent out.
const ISSUED_FILE: &str = "issued.json";
/// Hashes of the sheets as they were written.
const SHEETS_FILE: &str = "sheets.json";

/// What people who fill in sheets need to know, by the name of the file.
const INSTRUCTIONS: [(&str, &str); 3] = [
    ("LEEME.md", include_str!("../data/trueque/LEEME.md")),
    ("LEIAME.md", include_str!("../data/trueque/LEIAME.md")),
    ("README.md", include_str!("../data/trueque/README.md")),
];

/// Where a build reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct TruequeFolders<'a> {
    /// Everything that is not published.
    pub work: &'a Path,
    /// Where the set is frozen; without it the build goes as far as the sheets allow and no further.
    pub out: Option<&'a Path>,
    /// The version before, whose items stay if they still may.
    pub previous: Option<&'a Path>,
}

/// How far a build came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TruequeBuild {
    /// Stage by stage.
    pub funnel: Vec<FunnelRow>,
    /// How far reviewers agree.
    pub agreement: Vec<Measured>,
    /// What people are to do now.
    pub next: Vec<String>,
    /// What was passed over.
    pub notices: Vec<String>,
    /// The set, if it was frozen.
    pub frozen: Option<TruequeReport>,
}

impl fmt::Display for TruequeBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.funnel {
            let waiting =
                if row.waiting > 0 { format!(", {} wait", row.waiting) } else { String::new() };
            writeln!(
                f,
                "{:<16} {:>8} {} in, {} on{waiting}",
                row.stage, row.incoming, row.unit, row.kept
            )?;
            let mut reasons: Vec<_> = row.rejected.iter().collect();
            reasons.sort_by_key(|(reason, count)| (Reverse(**count), (*reason).clone()));
            for (reason, count) in reasons.iter().take(6) {
                writeln!(f, "{count:>25}   {reason}")?;
            }
            if reasons.len() > 6 {
                let rest: u64 = reasons[6..].iter().map(|(_, count)| **count).sum();
                writeln!(f, "{rest:>25}   for {} other reasons", reasons.len() - 6)?;
            }
        }
        for one in self.agreement.iter().filter(|one| one.among == "all") {
            let ac1 =
                one.agreement.gwet_ac1.map_or(String::new(), |c| format!(", AC1 {:.2}", c.value));
            let share = 100.0 * one.agreement.observed;
            writeln!(
                f,
                "two reviewers of {} items: {} equal in {share:.0} %{ac1}",
                one.agreement.units, one.on
            )?;
        }
        for notice in &self.notices {
            writeln!(f, "note: {notice}")?;
        }
        if let Some(report) = &self.frozen {
            let items: u64 = report.items.values().sum();
            writeln!(
                f,
                "{} {} is frozen: {items} items, {}",
                report.name, report.version, report.content_hash
            )?;
            if report.previous.is_some() {
                writeln!(
                    f,
                    "since the version before: {} removed, {} new",
                    report.removed.len(),
                    report.added
                )?;
            }
        }
        if !self.next.is_empty() {
            writeln!(f, "what to do next")?;
            for step in &self.next {
                writeln!(f, "  {step}")?;
            }
        }
        Ok(())
    }
}

/// Brings a benchmark as far as its logs and sheets allow, and freezes it if asked to.
///
/// # Errors
/// Logs or sheets that cannot be used, named with file and line; a sheet that was filled in where it
/// is written anew; nothing to freeze; a stop.
pub fn build_trueque(
    config: &TruequeConfig,
    folders: TruequeFolders<'_>,
    threads: usize,
    watch: BuildWatch<'_>,
) -> Result<TruequeBuild, EvalError> {
    let previous = folders.previous.map(Previous::open).transpose()?.unwrap_or_default();
    let mut work = Work::open(folders.work)?;
    let filled = work.path(FILLED);
    for dir in [&filled, &work.path(TO_FILL)] {
        fs::create_dir_all(dir)
            .map_err(|source| ArtifactError::Io { path: dir.clone(), source })?;
    }
    let questions = automatic_stages(&mut work, config, &previous, threads, watch)?;
    let there: BTreeMap<String, &Candidate> =
        questions.iter().map(|question| (question.id.clone(), question)).collect();
    let mut issued: BTreeSet<String> = work.read_json(ISSUED_FILE).unwrap_or_default();
    let known = issued.len();
    issued.extend(there.keys().cloned());
    if issued.len() > known {
        work.write_json(ISSUED_FILE, &issued)?;
    }
    let returned = sheets::read_returned(&filled, config, &there, &issued)?;
    let returned_key = key(&"people", &sheets::hash_returned(&filled)?);

    let answered = answer_stage(&mut work, &questions, &returned, returned_key)?;
    let reviewed = review_stage(&mut work, &answered, &returned, returned_key)?;
    let agreement = review::measure(&answered, &returned.reviews, config.seed.derive("agreement"));
    let (kept, rejected) = freeze::balance(reviewed.accepted, config, &previous);
    let rows = vec![FunnelRow::of("7-balance", "items", kept.len(), &rejected)];
    let items = work.put("7-balance", returned_key, Output { kept, rejected, rows })?;

    let funnel = work.funnel();
    write_file_atomic(&work.path("funnel.md"), freeze::funnel_table(&funnel).as_bytes())?;
    work.write_json("agreement.json", &agreement)?;
    let mut next = write_sheets(&work, config, &questions, &answered, &returned, &reviewed.differ)?;
    let frozen = match folders.out {
        Some(out) => {
            let (funnel, agreement) = (funnel.clone(), agreement.clone());
            Some(freeze::freeze(&items, config, &previous, funnel, agreement, out)?)
        }
        None if items.is_empty() => None,
        None => {
            next.push(format!("{} items can be frozen: add --out DIR", items.len()));
            None
        }
    };
    Ok(TruequeBuild { funnel, agreement, next, notices: returned.notices, frozen })
}

/// Everything that needs no people: from logs to questions that are worth an answer.
fn automatic_stages(
    work: &mut Work,
    config: &TruequeConfig,
    previous: &Previous,
    threads: usize,
    watch: BuildWatch<'_>,
) -> Result<Vec<Candidate>, EvalError> {
    let hash = |path: &PathBuf| -> Result<Digest, EvalError> {
        let read = |source| EvalError::Read { path: path.clone(), source };
        hash_file(path).map(|(digest, _)| digest).map_err(read)
    };
    let later = config.consents.iter().map(|location| &location.path);
    let inputs = config.log_paths().chain(later).map(hash).collect::<Result<Vec<_>, _>>()?;
    let first = key(&("questions", &config.consent, &config.logs, config.sheets.draft), &inputs);
    let questions = work.stage("1-questions", first, || {
        let (kept, rejected, counts) = logs::read(config, threads, watch)?;
        let mut conversations =
            FunnelRow::of("1-consent", "conversations", counts.conversations as usize, &rejected);
        conversations.incoming = counts.lines;
        let same = counts.questions - kept.len() as u64;
        let questions = FunnelRow {
            stage: "1-questions".to_owned(),
            unit: "questions".to_owned(),
            incoming: counts.questions,
            kept: kept.len() as u64,
            rejected: BTreeMap::from([("asked before in the same words".to_owned(), same)]),
            waiting: 0,
        };
        Ok(Output { kept, rejected, rows: vec![conversations, questions] })
    })?;
    watch.check()?;

    let reject = |question: &Candidate, reason: &str| Rejected {
        id: question.id.clone(),
        reason: reason.to_owned(),
        question: question.question.clone(),
        ..Rejected::default()
    };
    let rules_hash = hash_bytes(rules::RULES.as_bytes());
    let second = key(&("rules", &config.languages), &[work.hash_of("1-questions"), rules_hash]);
    let factual = work.stage("2-rules", second, || {
        let (mut kept, mut rejected) = (Vec::new(), Vec::new());
        for question in questions {
            let objection = if !config.languages.contains(&question.language) {
                Some("other_language")
            } else if question.after_story {
                Some("after_story")
            } else {
                rules::objection(&question.question, question.language)
            };
            match objection {
                Some(reason) => rejected.push(reject(&question, reason)),
                None => kept.push(question),
            }
        }
        let rows = vec![FunnelRow::of("2-rules", "questions", kept.len(), &rejected)];
        Ok(Output { kept, rejected, rows })
    })?;
    watch.check()?;

    let mut stay = sheets::worked_on(&work.path(FILLED))?;
    stay.extend(previous.split.keys().cloned());
    let third = key(&("duplicates", &config.duplicates, &stay), &[work.hash_of("2-rules")]);
    let distinct = work.stage("3-duplicates", third, || {
        let (kept, rejected) = without_duplicates(factual, &stay, config.duplicates.similarity);
        let rows = vec![FunnelRow::of("3-duplicates", "questions", kept.len(), &rejected)];
        Ok(Output { kept, rejected, rows })
    })?;
    watch.check()?;

    let fourth = key(&"personal", &[work.hash_of("3-duplicates")]);
    work.stage("4-personal", fourth, || {
        let (kept, personal): (Vec<_>, Vec<_>) =
            distinct.into_iter().partition(|question| question.personal.is_empty());
        let rejected: Vec<_> = personal
            .iter()
            .map(|question| {
                reject(question, &format!("personal data: {}", question.personal.join(", ")))
            })
            .collect();
        let rows = vec![FunnelRow::of("4-personal", "questions", kept.len(), &rejected)];
        Ok(Output { kept, rejected, rows })
    })
}

/// Keeps one of those that ask the same: what people worked on, else what was asked most.
fn without_duplicates(
    mut questions: Vec<Candidate>,
    stay: &BTreeSet<String>,
    similarity: f64,
) -> (Vec<Candidate>, Vec<Rejected>) {
    questions.sort_by(|a, b| {
        let rank = |one: &Candidate| (!stay.contains(&one.id), Reverse(one.asked));
        rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id))
    });
    let prints: Vec<Fingerprint> =
        questions.iter().map(|one| Fingerprint::of(&one.question, one.language)).collect();
    let mut alike = Alike::new(&prints, similarity);
    let (mut kept, mut rejected) = (Vec::<Candidate>::new(), Vec::new());
    for (question, print) in questions.into_iter().zip(prints) {
        let nearest = alike
            .find(&print)
            .into_iter()
            .filter(|(number, _)| kept[*number].language == question.language)
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        if let Some((number, _)) = nearest {
            rejected.push(Rejected {
                id: question.id,
                reason: "asks the same as another".to_owned(),
                question: question.question,
                instead: kept[number].id.clone(),
                ..Rejected::default()
            });
        } else {
            alike.enter(kept.len(), print);
            kept.push(question);
        }
    }
    kept.sort_by(|a, b| a.id.cmp(&b.id));
    rejected.sort_by(|a, b| a.id.cmp(&b.id));
    (kept, rejected)
}

fn answer_stage(
    work: &mut Work,
    questions: &[Candidate],
    returned: &Returned,
    key: Digest,
) -> Result<Vec<Answered>, EvalError> {
    let (mut kept, mut rejected, mut waiting) = (Vec::new(), Vec::new(), 0);
    for question in questions {
        match returned.answers.get(&question.id) {
            None => waiting += 1,
            Some(AnswerRow::Reject { reason, .. }) => rejected.push(Rejected {
                id: question.id.clone(),
                reason: reason.clone(),
                question: question.question.clone(),
                ..Rejected::default()
            }),
            Some(AnswerRow::Answer { proposal, author }) => kept.push(Answered {
                id: question.id.clone(),
                language: question.language,
                question: question.question.clone(),
                proposal: proposal.clone(),
                author: author.clone(),
            }),
        }
    }
    let rows =
        vec![FunnelRow::of("5-answers", "questions", kept.len(), &rejected).waiting(waiting)];
    work.put("5-answers", key, Output { kept, rejected, rows })
}

/// What reviewers decided.
struct Reviewed {
    accepted: Vec<Accepted>,
    /// Places in the answered items of those that an adjudicator must decide.
    differ: Vec<usize>,
}

fn review_stage(
    work: &mut Work,
    answered: &[Answered],
    returned: &Returned,
    key: Digest,
) -> Result<Reviewed, EvalError> {
    let (mut kept, mut rejected, mut waiting, mut differ) = (Vec::new(), Vec::new(), 0, Vec::new());
    for (at, item) in answered.iter().enumerate() {
        let reviews = returned.reviews.get(&item.id).map_or(&[][..], Vec::as_slice);
        match review::standing(item, reviews, returned.adjudications.get(&item.id)) {
            Standing::Accepted(accepted) => kept.push(accepted),
            Standing::Rejected(reason) => rejected.push(Rejected {
                id: item.id.clone(),
                reason,
                question: item.question.clone(),
                ..Rejected::default()
            }),
            Standing::WaitsForReview => waiting += 1,
            Standing::WaitsForAdjudication => {
                waiting += 1;
                differ.push(at);
            }
        }
    }
    let rows = vec![FunnelRow::of("6-review", "items", kept.len(), &rejected).waiting(waiting)];
    let accepted = work.put("6-review", key, Output { kept, rejected, rows })?;
    Ok(Reviewed { accepted, differ })
}

/// Writes the sheets that wait for people, and says which.
fn write_sheets(
    work: &Work,
    config: &TruequeConfig,
    questions: &[Candidate],
    answered: &[Answered],
    returned: &Returned,
    differ: &[usize],
) -> Result<Vec<String>, EvalError> {
    let mut sheets: BTreeMap<String, String> = BTreeMap::new();
    let mut next = Vec::new();
    let open: Vec<&Candidate> =
        questions.iter().filter(|question| !returned.answers.contains_key(&question.id)).collect();
    let place = |name: &str| work.path(TO_FILL).join(name).display().to_string();
    if !open.is_empty() {
        let name = "answers.csv";
        next.push(format!(
            "{} questions need an answer with its source: {}",
            open.len(),
            place(name)
        ));
        sheets.insert(name.to_owned(), sheets::answer_sheet(&open, config));
    }
    let mut by_reviewer: BTreeMap<&str, Vec<&Answered>> = BTreeMap::new();
    let mut without = 0;
    for item in answered {
        let done = returned.reviews.get(&item.id).map_or(&[][..], Vec::as_slice);
        let names =
            sheets::assigned(item, done, &config.reviewers, config.seed.derive("reviewers"));
        without += usize::from(done.len() + names.len() < 2);
        for name in names {
            by_reviewer.entry(name).or_default().push(item);
        }
    }
    for (reviewer, mut items) in by_reviewer {
        // Nobody sees the order in which others read.
        let order = config.seed.derive("order").derive(reviewer);
        items.sort_by_cached_key(|item| (order.derive(&item.id).0, item.id.clone()));
        let name = format!("review-{reviewer}.csv");
        next.push(format!("{} answers need a review by {reviewer}: {}", items.len(), place(&name)));
        sheets.insert(name, sheets::review_sheet(&items, reviewer, config));
    }
    if without > 0 {
        next.push(format!(
            "{without} answers have no two reviewers for their language who did not write them: add [[reviewers]] to the configuration"
        ));
    }
    if !differ.is_empty() {
        let name = "adjudication.csv";
        next.push(format!("{} items need an adjudicator: {}", differ.len(), place(name)));
        if config.adjudicators.is_empty() {
            next.push(
                "the configuration names no adjudicator: add `adjudicators = [\"…\"]`".to_owned(),
            );
        }
        let order = config.seed.derive("order");
        let rows: Vec<(&Answered, [&Review; 2])> = differ
            .iter()
            .map(|&at| {
                let item = &answered[at];
                let [first, second] = &returned.reviews[&item.id][..] else {
                    unreachable!("who differs has two reviews")
                };
                let swap = order.derive(&item.id).0 & 1 == 1;
                (item, if swap { [second, first] } else { [first, second] })
            })
            .collect();
        sheets.insert(name.to_owned(), sheets::adjudication_sheet(&rows, config));
    }
    if !sheets.is_empty() {
        next.push(format!(
            "put sheets that were filled into {} and run the same command again",
            work.path(FILLED).display()
        ));
        for (name, text) in INSTRUCTIONS {
            write_file_atomic(&work.path(TO_FILL).join(name), text.as_bytes())?;
        }
    }
    replace_sheets(work, &sheets)?;
    Ok(next)
}

/// Replaces the sheets of the last run, if nobody filled them in where they lie.
fn replace_sheets(work: &Work, sheets: &BTreeMap<String, String>) -> Result<(), EvalError> {
    let written: BTreeMap<String, Digest> = work.read_json(SHEETS_FILE).unwrap_or_default();
    let came_back: BTreeSet<Digest> =
        sheets::hash_returned(&work.path(FILLED))?.into_iter().collect();
    let names: BTreeSet<&String> = written.keys().chain(sheets.keys()).collect();
    let path_of = |name: &str| work.path(TO_FILL).join(name);
    for name in &names {
        let path = path_of(name);
        let Ok((now, _)) = hash_file(&path) else { continue };
        let untouched = written.get(*name) == Some(&now) || came_back.contains(&now);
        if !untouched && sheets.get(*name).is_none_or(|text| hash_bytes(text.as_bytes()) != now) {
            return Err(EvalError::SheetFilledInPlace { path, filled: work.path(FILLED) });
        }
    }
    for name in names {
        let path = path_of(name);
        match sheets.get(name) {
            Some(text) => write_file_atomic(&path, text.as_bytes())?,
            None => {
                // Gone already is as good.
                let _ = fs::remove_file(&path);
            }
        }
    }
    let hashes: BTreeMap<&String, Digest> =
        sheets.iter().map(|(name, text)| (name, hash_bytes(text.as_bytes()))).collect();
    work.write_json(SHEETS_FILE, &hashes)
}

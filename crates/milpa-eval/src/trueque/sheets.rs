//! The sheets that people fill in: answers with their source, two blind reviews, adjudications.
//!
//! Sheets to be filled lie in `to_fill/`, as CSV; what comes back is put into `filled/`, as CSV of
//! any spreadsheet or as JSONL. A file belongs to the step that its name begins with (`answers`,
//! `review`, `adjudication`). Columns that were shown are not read back, only the identity and what
//! was to be filled. All mistakes are found before anything is used, each with its file and line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use milpa_base::{Digest, Seed, hash_bytes};
use milpa_text::{normalise, personal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    config::{Reviewer, TruequeConfig, country},
    logs::Candidate,
    rules::Language,
};
use crate::{
    error::EvalError,
    rows::{Row, Rows, csv_line},
};

/// Longest row of a sheet, in bytes.
const MAX_ROW_BYTES: usize = 1 << 20;
/// Most characters of one cell that is read.
const MAX_CELL: usize = 4000;
/// Most short answers of one question.
const MAX_SHORT_ANSWERS: usize = 20;

/// Reasons that people give for a rejection.
pub const REJECTIONS: [&str; 10] = [
    "not_self_contained",
    "not_factual",
    "changes_with_time",
    "personal_data",
    "harmful",
    "wrong_language",
    "no_reliable_source",
    "unclear",
    "duplicate",
    "other",
];

/// An answer as somebody proposes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// The answer in a sentence or more.
    pub reference: String,
    /// The same in a few words, with other names; empty where only sentences answer.
    pub short_answers: Vec<String>,
    /// Where it stands: an address or a bibliographic reference.
    pub source: String,
    /// The words of the source, if they were copied.
    pub quote: String,
    /// Country that the question is about: a code, `region` or `world`.
    pub country: String,
    /// Topic, one of the configured.
    pub topic: String,
}

/// A question with an answer that nobody reviewed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// Identity of the question.
    pub id: String,
    /// Its language.
    pub language: Language,
    /// The question.
    pub question: String,
    /// The answer.
    pub proposal: Proposal,
    /// Who wrote it.
    pub author: String,
}

impl Answered {
    /// Changes whenever the answer does, so that no review is taken for one of another answer.
    pub(crate) fn answer_hash(&self) -> String {
        let bytes = serde_json::to_vec(&self.proposal).expect("a proposal is plain data");
        hash_bytes(&bytes).to_string()[..8].to_owned()
    }
}

/// What an answer sheet says of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AnswerRow {
    Answer { proposal: Proposal, author: String },
    Reject { reason: String, author: String },
}

/// What a person decides about a question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Review {
    pub(crate) by: String,
    pub(crate) decision: Decision,
}

/// Kept, perhaps with corrections, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// With the answer as this person wants it, and whether it was right as it stood.
    Keep {
        correct: bool,
        answer: Proposal,
    },
    Reject {
        reason: String,
    },
}

/// What came back.
#[derive(Default)]
pub(crate) struct Returned {
    pub(crate) answers: BTreeMap<String, AnswerRow>,
    pub(crate) reviews: BTreeMap<String, Vec<Review>>,
    /// What adjudicators left blank is `None`.
    pub(crate) adjudications: BTreeMap<String, Adjudication>,
    /// Rows that are no longer of use, and files that are not read.
    pub(crate) notices: Vec<String>,
}

/// An adjudicator's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Adjudication {
    pub(crate) by: String,
    /// `None` keeps it.
    pub(crate) reject: Option<String>,
    pub(crate) changes: Changes,
}

/// The cells of a correction that are filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) reference: Option<String>,
    pub(crate) short_answers: Option<Vec<String>>,
    pub(crate) source: Option<String>,
    pub(crate) quote: Option<String>,
    pub(crate) country: Option<String>,
    pub(crate) topic: Option<String>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `proposal` with the changes. Who changes the answer changes its short forms as well.
    pub(crate) fn apply(&self, proposal: &Proposal) -> Proposal {
        let new_answer = self.reference.is_some();
        let kept = |old: &Vec<String>| if new_answer { Vec::new() } else { old.clone() };
        let quote = if self.source.is_some() { String::new() } else { proposal.quote.clone() };
        Proposal {
            reference: self.reference.clone().unwrap_or_else(|| proposal.reference.clone()),
            short_answers: self
                .short_answers
                .clone()
                .unwrap_or_else(|| kept(&proposal.short_answers)),
            source: self.source.clone().unwrap_or_else(|| proposal.source.clone()),
            quote: self.quote.clone().unwrap_or(quote),
            country: self.country.clone().unwrap_or_else(|| proposal.country.clone()),
            topic: self.topic.clone().unwrap_or_else(|| proposal.topic.clone()),
        }
    }
}

/// A row of a sheet with its place.
struct Cells<'a> {
    row: Row,
    place: String,
    config: &'a TruequeConfig,
}

impl Cells<'_> {
    fn text(&self, name: &str) -> Result<String, String> {
        let text = match self.row.get(name) {
            Some(Value::String(text)) => normalise(text),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(Value::Array(list)) => {
                let texts = list.iter().filter_map(Value::as_str);
                texts.collect::<Vec<_>>().join(" | ")
            }
            _ => String::new(),
        };
        if text.chars().nth(MAX_CELL).is_some() {
            return Err(format!("{name} has more than {MAX_CELL} characters"));
        }
        Ok(text)
    }

    /// A text that will be published, or `None` where it is blank.
    fn public(&self, name: &str) -> Result<Option<String>, String> {
        let text = self.text(name)?;
        if let Some(found) = personal::find(&text).first() {
            return Err(format!(
                "{name} holds personal data ({}); write it without, or reject the question",
                found.kind.name()
            ));
        }
        Ok((!text.is_empty()).then_some(text))
    }

    /// The changes of the columns `prefix…`.
    fn changes(&self, prefix: &str) -> Result<Changes, String> {
        let column = |name: &str| format!("{prefix}{name}");
        let source = self.text(&column("source"))?;
        let checked = |text: String, check: &dyn Fn(&str) -> Result<String, String>| {
            if text.is_empty() { Ok(None) } else { check(&text).map(Some) }
        };
        Ok(Changes {
            reference: self.public(&column("answer"))?,
            short_answers: self
                .public(&column("short_answers"))?
                .map(|text| short(&text))
                .transpose()?,
            source: (!source.is_empty()).then_some(source),
            quote: self.public(&column("quote"))?,
            country: checked(self.text(&column("country"))?, &country)?,
            topic: checked(self.text(&column("topic"))?, &|text| self.config.topic(text))?,
        })
    }

    /// Whether the question is kept; `None` where the cell is blank.
    fn verdict(&self) -> Result<Option<bool>, String> {
        let text = self.text("verdict")?;
        match fold(&text).as_str() {
            "" => Ok(None),
            "keep" | "accept" | "mantener" | "aceptar" | "manter" | "aceitar" => Ok(Some(true)),
            "reject" | "rechazar" | "rejeitar" => Ok(Some(false)),
            _ => Err(format!("the verdict {text:?} is neither keep nor reject")),
        }
    }

    fn reason(&self) -> Result<String, String> {
        let text = self.text("reason")?;
        let wanted = fold(&text).replace([' ', '-'], "_");
        match REJECTIONS.iter().find(|reason| **reason == wanted) {
            Some(reason) => Ok((*reason).to_owned()),
            None if text.is_empty() => {
                Err(format!("a rejection needs its reason: one of {}", REJECTIONS.join(", ")))
            }
            None => Err(format!("the reason {text:?} is none of {}", REJECTIONS.join(", "))),
        }
    }

    fn correct(&self) -> Result<Option<bool>, String> {
        let text = self.text("correct")?;
        match fold(&text).as_str() {
            "" => Ok(None),
            "yes" | "si" | "sim" | "true" | "1" | "y" | "s" => Ok(Some(true)),
            "no" | "nao" | "false" | "0" | "n" => Ok(Some(false)),
            _ => Err(format!("correct is yes or no, not {text:?}")),
        }
    }

    fn who(&self, name: &str, known: &mut dyn Iterator<Item = &str>) -> Result<String, String> {
        let text = self.text(name)?;
        let known: Vec<&str> = known.collect();
        if text.is_empty() {
            return Err(format!("{name} is blank; say who filled the row"));
        }
        match known.iter().find(|one| fold(one) == fold(&text)) {
            Some(one) => Ok((*one).to_owned()),
            None => Err(format!(
                "the {name} {text:?} is not in the configuration, which has: {}",
                known.join(", ")
            )),
        }
    }
}

fn fold(text: &str) -> String {
    crate::choclo::score::fold_accents(&text.trim().to_lowercase())
}

/// Short answers: `Perú | República del Perú`.
fn short(text: &str) -> Result<Vec<String>, String> {
    let mut answers: Vec<String> = Vec::new();
    for answer in text.split('|').map(str::trim).filter(|answer| !answer.is_empty()) {
        if !answers.iter().any(|known| known == answer) {
            answers.push(answer.to_owned());
        }
    }
    if answers.len() > MAX_SHORT_ANSWERS {
        return Err(format!("more than {MAX_SHORT_ANSWERS} short answers"));
    }
    Ok(answers)
}

const NO_SOURCE: &str = "an answer without source; give an address or a bibliographic reference";

/// Sheets by the step that they belong to.
type Steps = BTreeMap<&'static str, Vec<PathBuf>>;

/// Names of the files that came back, by the step that they belong to, and of those that do not.
fn files_of(dir: &Path) -> Result<(Steps, Vec<PathBuf>), EvalError> {
    let failed = |source| EvalError::Read { path: dir.to_owned(), source };
    let (mut known, mut other) = (Steps::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.starts_with('.') {
            continue;
        }
        let table = [".csv", ".jsonl"].iter().any(|end| name.ends_with(end));
        let step =
            ["answers", "review", "adjudication"].into_iter().find(|step| name.starts_with(step));
        match step.filter(|_| table) {
            Some(step) => known.entry(step).or_default().push(path),
            None => other.push(path),
        }
    }
    for paths in known.values_mut() {
        paths.sort();
    }
    other.sort();
    Ok((known, other))
}

/// The hash of everything that came back.
pub(crate) fn hash_returned(dir: &Path) -> Result<Vec<Digest>, EvalError> {
    let (known, _) = files_of(dir)?;
    known
        .values()
        .flatten()
        .map(|path| {
            milpa_base::hash_file(path)
                .map(|(digest, _)| digest)
                .map_err(|source| EvalError::Read { path: path.clone(), source })
        })
        .collect()
}

/// Questions that somebody has worked on: of those that ask the same, they stay.
pub(crate) fn worked_on(dir: &Path) -> Result<BTreeSet<String>, EvalError> {
    let (files, _) = files_of(dir)?;
    let mut ids = BTreeSet::new();
    for path in files.get("answers").into_iter().flatten() {
        let failed = |source| EvalError::Read { path: path.clone(), source };
        let mut rows = Rows::open(path, MAX_ROW_BYTES).map_err(failed)?;
        while let Some((_, row)) = rows.next_row().map_err(failed)? {
            // What is wrong with a row is said when it is read whole.
            let Ok(row) = row else { continue };
            let filled = |name: &str| row.get(name).is_some_and(|cell| cell.as_str() != Some(""));
            if let Some(Value::String(id)) =
                row.get("id").filter(|_| filled("answer") || filled("verdict"))
            {
                ids.insert(id.trim().to_owned());
            }
        }
    }
    Ok(ids)
}

/// Reads everything that came back.
///
/// `there` are the questions that can be answered now, `issued` those that ever could.
///
/// # Errors
/// [`EvalError::Sheets`] with every row that is wrong.
pub(crate) fn read_returned(
    dir: &Path,
    config: &TruequeConfig,
    there: &BTreeMap<String, &Candidate>,
    issued: &BTreeSet<String>,
) -> Result<Returned, EvalError> {
    let (files, other) = files_of(dir)?;
    let mut returned = Returned::default();
    for path in other {
        returned.notices.push(format!(
            "{} is not read: sheets are named answers…, review… or adjudication… and end in .csv or .jsonl",
            path.display()
        ));
    }
    let mut problems = Vec::new();
    let mut places: BTreeMap<(String, String), String> = BTreeMap::new();
    for step in ["answers", "review", "adjudication"] {
        for path in files.get(step).into_iter().flatten() {
            read_sheet(
                path,
                step,
                config,
                &mut returned,
                &mut problems,
                &mut |cells, id, returned| {
                    if !there.contains_key(id) {
                        if issued.contains(id) {
                            returned.notices.push(format!(
                            "{}: {id} is no longer asked (withdrawn, or out by the rules); delete the row",
                            cells.place
                        ));
                            return Ok(());
                        }
                        return Err(format!("the id {id:?} is not one that was sent out"));
                    }
                    match step {
                        "answers" => add_answer(cells, id, returned, &mut places),
                        "review" => add_review(cells, id, there, returned, &mut places),
                        _ => add_adjudication(cells, id, returned, &mut places),
                    }
                },
            )?;
        }
    }
    if problems.is_empty() { Ok(returned) } else { Err(EvalError::Sheets { problems }) }
}

type AddRow<'f> = &'f mut dyn FnMut(&Cells<'_>, &str, &mut Returned) -> Result<(), String>;

fn read_sheet(
    path: &Path,
    step: &str,
    config: &TruequeConfig,
    returned: &mut Returned,
    problems: &mut Vec<String>,
    add: AddRow<'_>,
) -> Result<(), EvalError> {
    let failed = |source| EvalError::Read { path: path.to_owned(), source };
    let mut rows = Rows::open(path, MAX_ROW_BYTES).map_err(failed)?;
    if let Some(columns) = rows.columns().map_err(failed)? {
        let needed = match step {
            "answers" => ["id", "answer", "source", "author"],
            "review" => ["id", "verdict", "correct", "reviewer"],
            _ => ["id", "verdict", "answer", "adjudicator"],
        };
        if let Some(missing) = needed.iter().find(|name| !columns.iter().any(|c| c == *name)) {
            problems.push(format!(
                "{}:1: there is no column {missing:?}; keep the first line as it was sent",
                path.display()
            ));
            return Ok(());
        }
    }
    while let Some((line, row)) = rows.next_row().map_err(failed)? {
        let place = format!("{}:{line}", path.display());
        let added = match row {
            Err("not valid UTF-8") => {
                Err("not valid UTF-8; save the sheet as \"CSV UTF-8\"".to_owned())
            }
            Err(problem) => Err(problem.to_owned()),
            Ok(row) => {
                let cells = Cells { row, place: place.clone(), config };
                cells.text("id").and_then(|id| {
                    if id.is_empty() {
                        Err("the id is blank".to_owned())
                    } else {
                        add(&cells, &id, returned)
                    }
                })
            }
        };
        if let Err(problem) = added {
            problems.push(format!("{place}: {problem}"));
        }
    }
    Ok(())
}

/// Whether a row is new; a copy of one that was read is none, and a contradiction is an error.
fn is_new(
    places: &mut BTreeMap<(String, String), String>,
    key: (String, String),
    place: &str,
    same: Option<bool>,
    what: &str,
) -> Result<bool, String> {
    match (same, places.get(&key)) {
        (Some(true), _) => Ok(false),
        (Some(false), Some(first)) => {
            Err(format!("{what}, and otherwise in {first}; take one away"))
        }
        _ => {
            places.insert(key, place.to_owned());
            Ok(true)
        }
    }
}

fn add_answer(
    cells: &Cells<'_>,
    id: &str,
    returned: &mut Returned,
    places: &mut BTreeMap<(String, String), String>,
) -> Result<(), String> {
    let changes = cells.changes("")?;
    let verdict = cells.verdict()?;
    // The log's country stands in the sheet beforehand.
    let untouched = changes.reference.is_none() && changes.source.is_none() && verdict.is_none();
    if untouched {
        return Ok(());
    }
    let author = cells.text("author")?;
    if author.is_empty() {
        return Err("author is blank; say who filled the row".to_owned());
    }
    let row = if verdict == Some(false) {
        AnswerRow::Reject { reason: cells.reason()?, author }
    } else {
        let need = |value: Option<String>, problem: &str| value.ok_or_else(|| problem.to_owned());
        let proposal = Proposal {
            reference: need(changes.reference, "there is no answer")?,
            short_answers: changes.short_answers.unwrap_or_default(),
            source: need(changes.source, NO_SOURCE)?,
            quote: changes.quote.unwrap_or_default(),
            country: need(
                changes.country,
                "the country is blank; a code, region or world is meant",
            )?,
            topic: need(changes.topic, "the topic is blank")?,
        };
        AnswerRow::Answer { proposal, author }
    };
    let same = returned.answers.get(id).map(|known| *known == row);
    let key = (id.to_owned(), "answer".to_owned());
    if is_new(places, key, &cells.place, same, &format!("{id} is answered here"))? {
        returned.answers.insert(id.to_owned(), row);
    }
    Ok(())
}

fn add_review(
    cells: &Cells<'_>,
    id: &str,
    there: &BTreeMap<String, &Candidate>,
    returned: &mut Returned,
    places: &mut BTreeMap<(String, String), String>,
) -> Result<(), String> {
    let changes = cells.changes("corrected_")?;
    let (verdict, correct) = (cells.verdict()?, cells.correct()?);
    let reason = cells.text("reason")?;
    let Some(keep) = verdict else {
        if changes.is_empty() && correct.is_none() && reason.is_empty() {
            return Ok(());
        }
        return Err("the verdict is missing: keep or reject".to_owned());
    };
    let names = cells.config.reviewers.iter().map(|reviewer| reviewer.name.as_str());
    let by = cells.who("reviewer", &mut names.into_iter())?;
    let Some(AnswerRow::Answer { proposal, author }) = returned.answers.get(id) else {
        return Err(format!("{id} has no answer that could be reviewed"));
    };
    if fold(author) == fold(&by) {
        return Err(format!("{by} wrote the answer and cannot review it"));
    }
    let candidate = there[id];
    let answered = Answered {
        id: id.to_owned(),
        language: candidate.language,
        question: candidate.question.clone(),
        proposal: proposal.clone(),
        author: author.clone(),
    };
    if cells.text("answer_hash")? != answered.answer_hash() {
        returned.notices.push(format!(
            "{}: the answer to {id} was changed after this review, which does not count; it is sent again",
            cells.place
        ));
        return Ok(());
    }
    let decision = if keep {
        let correct =
            correct.ok_or("keep needs `correct`: whether the answer is right, yes or no")?;
        if !correct && changes.reference.is_none() && changes.short_answers.is_none() {
            return Err("the answer is not correct, so a corrected_answer is needed".to_owned());
        }
        if correct && (changes.reference.is_some() || changes.short_answers.is_some()) {
            return Err(
                "the answer is called correct and is corrected; one of them is a slip".to_owned()
            );
        }
        if !correct && changes.source.is_none() {
            return Err(format!("corrected: {NO_SOURCE}"));
        }
        Decision::Keep { correct, answer: changes.apply(&answered.proposal) }
    } else {
        Decision::Reject { reason: cells.reason()? }
    };
    let review = Review { by: by.clone(), decision };
    let reviews = returned.reviews.entry(id.to_owned()).or_default();
    let same = reviews.iter().find(|known| known.by == by).map(|known| *known == review);
    let what = format!("{by} reviews {id} here");
    if is_new(places, (id.to_owned(), by), &cells.place, same, &what)? {
        if reviews.len() == 2 {
            return Err(format!(
                "{id} has two reviews already, of {} and {}",
                reviews[0].by, reviews[1].by
            ));
        }
        reviews.push(review);
    }
    Ok(())
}

fn add_adjudication(
    cells: &Cells<'_>,
    id: &str,
    returned: &mut Returned,
    places: &mut BTreeMap<(String, String), String>,
) -> Result<(), String> {
    let changes = cells.changes("")?;
    let Some(keep) = cells.verdict()? else {
        return if changes.is_empty() {
            Ok(())
        } else {
            Err("the verdict is missing: keep or reject".to_owned())
        };
    };
    let mut names = cells.config.adjudicators.iter().map(String::as_str);
    let by = cells.who("adjudicator", &mut names)?;
    let reviews = returned.reviews.get(id).map_or(&[][..], Vec::as_slice);
    if reviews.len() < 2 {
        returned.notices.push(format!(
            "{}: {id} does not have two reviews now, so this decision waits",
            cells.place
        ));
        return Ok(());
    }
    let author = match returned.answers.get(id) {
        Some(AnswerRow::Answer { author, .. } | AnswerRow::Reject { author, .. }) => {
            author.as_str()
        }
        None => "",
    };
    if fold(author) == fold(&by) || reviews.iter().any(|review| fold(&review.by) == fold(&by)) {
        return Err(format!("{by} wrote or reviewed the answer and cannot adjudicate it"));
    }
    if changes.reference.is_some() && changes.source.is_none() {
        return Err(NO_SOURCE.to_owned());
    }
    let reject = if keep { None } else { Some(cells.reason()?) };
    let row = Adjudication { by, reject, changes };
    let same = returned.adjudications.get(id).map(|known| *known == row);
    let key = (id.to_owned(), "adjudication".to_owned());
    if is_new(places, key, &cells.place, same, &format!("{id} is adjudicated here"))? {
        returned.adjudications.insert(id.to_owned(), row);
    }
    Ok(())
}

/// The sheet for answer writers.
pub(crate) fn answer_sheet(questions: &[&Candidate], config: &TruequeConfig) -> String {
    let separator = config.sheets.separator;
    let mut sheet = begin(
        &[
            "id",
            "language",
            "question",
            "asked",
            "draft_of_the_chat_unchecked",
            "verdict",
            "reason",
            "answer",
            "short_answers",
            "source",
            "quote",
            "country",
            "topic",
            "author",
        ],
        separator,
    );
    for question in questions {
        let asked = question.asked.to_string();
        let draft = question.draft.as_deref().filter(|_| config.sheets.draft).unwrap_or_default();
        let country = question.country.as_deref().unwrap_or_default();
        let cells = [
            question.id.as_str(),
            question.language.code(),
            &question.question,
            &asked,
            draft,
            "",
            "",
            "",
            "",
            "",
            "",
            country,
            "",
            "",
        ];
        sheet.push_str(&csv_line(&cells, separator));
    }
    sheet
}

/// Columns that both later sheets show.
const SHOWN: [&str; 10] = [
    "id",
    "answer_hash",
    "language",
    "question",
    "proposed_answer",
    "proposed_short_answers",
    "proposed_source",
    "proposed_quote",
    "proposed_country",
    "proposed_topic",
];

fn shown(item: &Answered) -> [String; 10] {
    let proposal = item.proposal.clone();
    [
        item.id.clone(),
        item.answer_hash(),
        item.language.code().to_owned(),
        item.question.clone(),
        proposal.reference,
        proposal.short_answers.join(" | "),
        proposal.source,
        proposal.quote,
        proposal.country,
        proposal.topic,
    ]
}

/// The sheet of one reviewer, who learns neither who wrote the answers nor who else reviews them.
pub(crate) fn review_sheet(items: &[&Answered], reviewer: &str, config: &TruequeConfig) -> String {
    let separator = config.sheets.separator;
    let mut head = SHOWN.to_vec();
    head.extend([
        "verdict",
        "reason",
        "correct",
        "corrected_answer",
        "corrected_short_answers",
        "corrected_source",
        "corrected_quote",
        "corrected_country",
        "corrected_topic",
        "reviewer",
    ]);
    let mut sheet = begin(&head, separator);
    for item in items {
        let shown = shown(item);
        let mut cells: Vec<&str> = shown.iter().map(String::as_str).collect();
        cells.extend(["", "", "", "", "", "", "", "", "", reviewer]);
        sheet.push_str(&csv_line(&cells, separator));
    }
    sheet
}

/// The sheet of what two reviewers decided differently; which of them is which is not said.
pub(crate) fn adjudication_sheet(
    items: &[(&Answered, [&Review; 2])],
    config: &TruequeConfig,
) -> String {
    let separator = config.sheets.separator;
    let mut head: Vec<String> = SHOWN.map(str::to_owned).to_vec();
    for which in ["first", "second"] {
        for column in ["verdict", "answer", "short_answers", "source", "country", "topic"] {
            head.push(format!("{which}_{column}"));
        }
    }
    let to_fill = [
        "verdict",
        "reason",
        "answer",
        "short_answers",
        "source",
        "quote",
        "country",
        "topic",
        "adjudicator",
    ];
    head.extend(to_fill.map(str::to_owned));
    let mut sheet = begin(&head.iter().map(String::as_str).collect::<Vec<_>>(), separator);
    for (item, reviews) in items {
        let mut cells = shown(item).to_vec();
        for review in reviews {
            cells.extend(match &review.decision {
                Decision::Reject { reason } => {
                    let mut row = vec![String::new(); 6];
                    row[0] = format!("reject: {reason}");
                    row
                }
                Decision::Keep { correct, answer } => vec![
                    (if *correct { "keep, correct" } else { "keep, not correct" }).to_owned(),
                    answer.reference.clone(),
                    answer.short_answers.join(" | "),
                    answer.source.clone(),
                    answer.country.clone(),
                    answer.topic.clone(),
                ],
            });
        }
        cells.extend(to_fill.map(|_| String::new()));
        sheet.push_str(&csv_line(&cells.iter().map(String::as_str).collect::<Vec<_>>(), separator));
    }
    sheet
}

/// A byte-order mark, so that spreadsheets see UTF-8, and the names of the columns.
fn begin(head: &[&str], separator: char) -> String {
    format!("\u{feff}{}", csv_line(head, separator))
}

/// Who is asked to review an item: of those who can, first who knows the country, then by lot. The
/// lot is the item's own, so that other items do not change it.
pub(crate) fn assigned<'c>(
    item: &Answered,
    done: &[Review],
    reviewers: &'c [Reviewer],
    seed: Seed,
) -> Vec<&'c str> {
    let mut able: Vec<(bool, u64, &str)> = reviewers
        .iter()
        .filter(|one| one.active && one.languages.contains(&item.language))
        .filter(|one| fold(&one.name) != fold(&item.author))
        .filter(|one| done.iter().all(|review| review.by != one.name))
        .map(|one| {
            let stranger = !one.countries.contains(&item.proposal.country);
            (stranger, seed.derive(&item.id).derive(&one.name).0, one.name.as_str())
        })
        .collect();
    able.sort_unstable();
    able.into_iter().take(2usize.saturating_sub(done.len())).map(|(_, _, name)| name).collect()
}

//! What can go wrong in an evaluation, said with the place and the next step.

use std::{io, path::PathBuf};

use milpa_base::{ArtifactError, ConfigError, ModelError, ModelInfo};

use crate::items::Skips;

impl EvalError {
    /// Whether what was asked for cannot be right, whatever the model: a task file or a name.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::UnknownTask { .. }
                | Self::BadTask { .. }
                | Self::NoData { .. }
                | Self::MissingData { .. }
                | Self::OtherCommand { .. }
                | Self::NoStyle { .. }
        )
    }

    /// None of `questions` could be scored, for the reasons of `skips`.
    pub(crate) fn nothing_scored(
        task: &str,
        questions: usize,
        skips: &Skips,
        model: &ModelInfo,
    ) -> Self {
        let reasons: Vec<String> = skips
            .0
            .iter()
            .map(|(reason, skipped)| {
                let lines: Vec<String> = skipped.first_lines.iter().map(u64::to_string).collect();
                let more = if lines.len() as u64 == skipped.count { "" } else { " and others" };
                let noun = if skipped.count == 1 { "line" } else { "lines" };
                format!("{} {reason} ({noun} {}{more})", skipped.count, lines.join(", "))
            })
            .collect();
        let is_any = |part: &str| skips.0.keys().any(|reason| reason.contains(part));
        let next = if is_any(TOO_LONG) {
            let most = match model.context_length {
                0 => "fewer".to_owned(),
                length => format!("{length}"),
            };
            format!(
                "the model takes {most} tokens in all, prompt and answer together; give fewer examples \
                 (--num-fewshot), ask for shorter answers, or take a model with a longer context"
            )
        } else if is_any(REFUSED) {
            "put right what the model refuses, then run the same command again".to_owned()
        } else {
            "look at those lines of the data, and at the fields and filters of the task".to_owned()
        };
        Self::NothingScored {
            task: task.to_owned(),
            model: model.name.clone(),
            questions,
            reasons: reasons.join("; "),
            next,
        }
    }
}

/// How the reason of what a model does not take begins.
pub(crate) const REFUSED: &str = "refused by the model";
/// The reason of what a model does not take since it is too long.
pub(crate) const TOO_LONG: &str = "too long for the model";

/// An evaluation that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A task file or a configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No task has this name.
    #[error("there is no task {name:?}; {hint}")]
    UnknownTask {
        /// The name as written.
        name: String,
        /// The nearest name, or all of them.
        hint: String,
    },
    /// A task file of the LM Evaluation Harness is wrong or asks for what is not done here.
    #[error("{path} cannot be used as a task: {message}")]
    BadTask {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
    /// Neither the recipe nor the task says where the items lie.
    #[error(
        "the task {task} needs data; give the file or its folder with --data, or in a recipe as `data = \"path/to/items.jsonl\"`.{hint}"
    )]
    NoData {
        /// The task.
        task: String,
        /// Which file, and where it comes from.
        hint: String,
    },
    /// The file of a task's items is not there.
    #[error("the task {task} finds no file {}.{hint}", .path.display())]
    MissingData {
        /// The task.
        task: String,
        /// Where it was looked for.
        path: PathBuf,
        /// Which file, and where it comes from.
        hint: String,
    },
    /// A task that a recipe's suite does not run.
    #[error("the task {task} is run by `milpa eval run --task {task}`, not in a recipe's suite")]
    OtherCommand {
        /// The task.
        task: String,
    },
    /// A file of items or texts cannot be read.
    #[error("cannot read {path}; check that it is a whole JSONL file (plain, .gz or .zst)")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file has nothing that can be scored.
    #[error("{path} has no usable item for {task}: {detail}")]
    NoItems {
        /// The file.
        path: PathBuf,
        /// The task.
        task: String,
        /// What was found instead.
        detail: String,
    },
    /// A file has more items than are held in memory.
    #[error("{path} has more than {bound} items; split the file")]
    TooManyItems {
        /// The file.
        path: PathBuf,
        /// The bound.
        bound: usize,
    },
    /// A task does not offer a prompt style.
    #[error("the task {task} has no template for the style {style:?}; it has: {known}")]
    NoStyle {
        /// The task.
        task: String,
        /// What was asked for.
        style: &'static str,
        /// What it has.
        known: String,
    },
    /// The stream of texts broke.
    #[error("cannot read the held-out texts after {documents} documents")]
    Texts {
        /// Documents read before.
        documents: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no text to measure.
    #[error("no text to measure perplexity on: {detail}")]
    NoText {
        /// What was found.
        detail: String,
    },
    /// The file of answers cannot be used.
    #[error("cannot keep the model's answers in {path}")]
    Answers {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The model failed.
    #[error("cannot evaluate {doing}")]
    Model {
        /// What was being measured.
        doing: String,
        /// Why.
        #[source]
        source: ModelError,
    },
    /// The model answered something that cannot be.
    #[error("the model's answer for {doing} cannot be right: {problem}")]
    BadAnswer {
        /// What was being measured.
        doing: String,
        /// What is wrong.
        problem: String,
    },
    /// No question of a task could be scored.
    #[error(
        "none of the {questions} questions of {task} could be scored with {model}: {reasons}; {next}"
    )]
    NothingScored {
        /// The task.
        task: String,
        /// The model.
        model: String,
        /// Questions that were asked.
        questions: usize,
        /// Why not, with the first lines.
        reasons: String,
        /// What to do.
        next: String,
    },
    /// Nothing that was asked for can be told by the model.
    #[error("{metric} and all else that was asked for is unavailable: {reason}")]
    Unavailable {
        /// The first of it.
        metric: String,
        /// Why.
        reason: String,
    },
    /// The prompts of a task do not fit the model.
    #[error("{task} cannot be asked of this model: {problem}")]
    CannotAsk {
        /// The task.
        task: String,
        /// What does not fit, and what to do.
        problem: String,
    },
    /// Answers that were given are of other questions.
    #[error("there is nothing to score: {0}")]
    OtherAnswers(&'static str),
    /// The text that questions are looked for in cannot be used.
    #[error("cannot look for questions in {corpus}: {problem}")]
    Against {
        /// The text.
        corpus: String,
        /// What is wrong.
        problem: String,
    },
    /// A reference compressor failed.
    #[error("cannot compress {bytes} bytes with {compressor} for comparison")]
    Compress {
        /// Which one.
        compressor: &'static str,
        /// How much text.
        bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of votes cannot be used.
    #[error("cannot rate the votes of {path}: {detail}")]
    Votes {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Votes that say too little.
    #[error("no rating: {0}")]
    NoRating(String),
    /// Something about a judge, its prompt or its verdicts is wrong.
    #[error("{0}")]
    Judge(String),
    /// Two sets of results answer different questions.
    #[error("the two results cannot be compared: {0}")]
    NotComparable(String),
    /// The report cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A report cannot be understood.
    #[error("{path} is not a report this milpa reads: {message}")]
    BadReport {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A dump ends before its end, or cannot be decompressed.
    #[error("{path} breaks off after {lines} entities; it is cut or damaged: download it again")]
    Dump {
        /// The dump.
        path: PathBuf,
        /// Lines read before.
        lines: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody says of when a dump is.
    #[error("the name of {path} has no date; give the dump's date as YYYY-MM-DD (--dump-date)")]
    NoDumpDate {
        /// The dump.
        path: PathBuf,
    },
    /// Nothing can be asked of a dump.
    #[error(
        "{path} yields no question: of its {items} items {entities} are of the region and of a known class; \
         check that it is a Wikidata JSON dump with one entity on each line"
    )]
    NoQuestions {
        /// The dump.
        path: PathBuf,
        /// Items read.
        items: u64,
        /// Entities of the region.
        entities: u64,
    },
    /// Files of page views that are of other pages.
    #[error(
        "none of the {lines} lines of {} is about a page of the region's entities{}; lines are \"QID views\", \
         \"project title views\", or those of Wikimedia's pageview_complete; the dump must have sitelinks to \
         join titles", .files.join(", "), if .skipped.is_empty() { String::new() } else { format!(" ({})", .skipped) }
    )]
    NoPageViews {
        /// The files.
        files: Vec<String>,
        /// Lines read.
        lines: u64,
        /// Lines that could not be used, by reason.
        skipped: String,
    },
    /// A file cannot be written.
    #[error("cannot write {what} to {path}; check the disk's free space and permissions")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was being written.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line of a file that people or programs wrote for the benchmark of questions is wrong.
    #[error("{path}:{line}: {problem}")]
    TruequeLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Sheets that people filled in have mistakes.
    #[error("{}", sheet_message(.problems))]
    Sheets {
        /// Each with its file and line.
        problems: Vec<String>,
    },
    /// A sheet was filled in where the program writes it.
    #[error(
        "{path} was filled in where new sheets are written; move it to {filled} (or delete it) and run the same command again"
    )]
    SheetFilledInPlace {
        /// The sheet.
        path: PathBuf,
        /// Where filled sheets go.
        filled: PathBuf,
    },
    /// The benchmark of questions cannot be frozen.
    #[error("cannot freeze the benchmark: {0}")]
    Freeze(String),
    /// A stop was asked for.
    #[error("the evaluation was stopped; run the same command to do it again")]
    Interrupted,
}

/// Problems of sheets that a message shows.
const PROBLEMS_SHOWN: usize = 20;

fn sheet_message(problems: &[String]) -> String {
    let mut text = format!(
        "{} rows of the filled sheets are wrong; put them right and run the same command again:",
        problems.len()
    );
    for problem in problems.iter().take(PROBLEMS_SHOWN) {
        text.push_str("\n  ");
        text.push_str(problem);
    }
    if problems.len() > PROBLEMS_SHOWN {
        text.push_str(&format!("\n  and {} more", problems.len() - PROBLEMS_SHOWN));
    }
    text
}

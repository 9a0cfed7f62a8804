//! Task files: a benchmark as data, read from `tasks/<language>/<task>/task.toml`.
//!
//! A task says which fields of a JSONL file are question, choices and answer, how the prompt is
//! written, which items are left out and why, and whose work it is. It holds no items and knows no
//! model. A change that could move a score raises `version`.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use milpa_base::{
    ConfigError, Digest,
    config::{Location, invalid_value, nearest},
    hash_bytes, load_toml, parse_toml,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    error::EvalError, factuality::FactualitySpec, harness::task_file::LoadedTask,
    template::Template,
};

/// Name of a task's own prompt beside its others.
pub const MAIN_PROMPT: &str = "main";
/// Most choices of an item in the style of letters: one for each letter.
pub const MAX_LETTERS: usize = 26;

/// A task file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Name as shown in reports: `<language>/<task>`.
    pub name: String,
    /// Raised by each change that could move a score.
    pub version: u32,
    /// What is measured; the table of the same name must be there.
    pub kind: TaskKind,
    /// Languages (ISO 639) of the items.
    pub languages: Vec<String>,
    /// What it asks, in a sentence.
    pub summary: String,
    /// Licence of the items.
    pub licence: String,
    /// Whom to cite.
    pub citation: String,
    /// Where the items lie, if the recipe does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Location>,
    /// Name of the file of items in a folder of data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where that file comes from, and the fields it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obtain: Option<String>,
    /// Which items are used; each item must pass every filter.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Fields by whose values scores are broken down; of multiple choice its own table says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<String>,
    /// Field that names what several items share; of multiple choice its own table says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_by: Option<String>,
    /// The fields and prompts of a multiple-choice task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiple_choice: Option<MultipleChoiceSpec>,
    /// The fields of a perplexity task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<PerplexitySpec>,
    /// Prompts, examples and metrics in the keys of lm-evaluation-harness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harness: Option<Map<String, Value>>,
    /// What a user says, turn by turn, and who or what scores the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationSpec>,
    /// Other prompts for the same items: paraphrases, styles, orders of the choices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<PromptVariant>,
}

/// Another prompt for the same items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptVariant {
    /// Name in reports.
    pub name: String,
    /// Of multiple choice: how the question is put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<PromptStyle>,
    /// Of multiple choice: the prompt, instead of the style's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Of multiple choice: by how many places the choices are moved.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rotate_choices: usize,
    /// Of the harness's keys: those that differ.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub harness: Map<String, Value>,
}

/// Name of a prompt, the task with it, and the style in which it is then put.
pub type Variant = (String, TaskSpec, PromptStyle);

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// What a task measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Which choice the model finds most probable.
    MultipleChoice,
    /// How well the model predicts a text.
    Perplexity,
    /// Whatever a task file of lm-evaluation-harness can say, with its keys as a table.
    Harness,
    /// What a model answers to a user, turn by turn.
    Conversation,
}

impl TaskKind {
    /// The name as in TOML, of the kind and of its table.
    pub fn name(self) -> &'static str {
        match self {
            Self::MultipleChoice => "multiple_choice",
            Self::Perplexity => "perplexity",
            Self::Harness => "harness",
            Self::Conversation => "conversation",
        }
    }
}

/// Keeps the items whose field equals a value; the others are counted with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The field looked at.
    pub field: String,
    /// The value it must have (string, integer, boolean). An item without the field has `false`.
    pub equals: Scalar,
    /// Why the others are left out.
    pub reason: String,
}

/// A value that a filter compares with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl Filter {
    /// Whether an item passes.
    pub fn keeps(&self, item: &Map<String, Value>) -> bool {
        // A table of documents has null where a row lacks a field.
        let value = item.get(&self.field).filter(|value| !value.is_null());
        let value = value.unwrap_or(&Value::Bool(false));
        match &self.equals {
            Scalar::Bool(wanted) => value.as_bool() == Some(*wanted),
            Scalar::Integer(wanted) => value.as_i64() == Some(*wanted),
            Scalar::Text(wanted) => value.as_str() == Some(wanted),
        }
    }
}

/// Fields, prompts and metrics of a multiple-choice task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultipleChoiceSpec {
    /// Field with the item's identity.
    pub id: String,
    /// Field with the list of choices.
    pub choices: String,
    /// Field with the right choice.
    pub answer: String,
    /// How that field names it.
    #[serde(default)]
    pub answer_format: AnswerFormat,
    /// Fields by whose values the scores are broken down.
    #[serde(default)]
    pub group_by: Vec<String>,
    /// Field that names what several items share (a passage, an entity); intervals then draw
    /// whole clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_by: Option<String>,
    /// What is reported.
    pub metrics: Vec<Metric>,
    /// By how many places the choices are moved to the front before they are listed and scored: no
    /// place then always holds the same choice.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rotate_choices: usize,
    /// Text between prompt and choice.
    #[serde(default = "one_space")]
    pub delimiter: String,
    /// The prompt after which each choice's full text is scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuation: Option<ContinuationPrompt>,
    /// The prompt that lists the choices, after which each letter is scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letters: Option<LettersPrompt>,
}

fn one_space() -> String {
    " ".to_owned()
}

/// Prompt of [`PromptStyle::Continuation`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContinuationPrompt {
    /// See [`crate::template`].
    pub template: String,
}

/// Prompt of [`PromptStyle::Letters`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LettersPrompt {
    /// See [`crate::template`]; `{choices}` stands for the listed choices.
    pub template: String,
    /// One line of the list, with `{letter}` and `{choice}`.
    #[serde(default = "plain_choice_line")]
    pub choice_line: String,
}

fn plain_choice_line() -> String {
    "{letter}) {choice}".to_owned()
}

/// How the field of the answer names the right choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerFormat {
    /// Its number, counted from 0.
    #[default]
    Index,
    /// Its letter, `A` for the first.
    Letter,
    /// Its text.
    Text,
}

/// How a question is put.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Ord, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptStyle {
    /// The full text of each choice is scored as the continuation of the question: what small
    /// base models can do.
    #[default]
    Continuation,
    /// The choices are listed in the prompt and their letters are scored.
    Letters,
}

impl PromptStyle {
    /// The name as in TOML and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Continuation => "continuation",
            Self::Letters => "letters",
        }
    }
}

/// An accuracy: what is divided out of a choice's log-likelihood before the largest is picked.
///
/// Names and formulas are those of lm-evaluation-harness 0.4, so that scores compare; the first
/// of equal choices is picked, as there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Nothing: the most probable choice.
    Acc,
    /// Length of the choice in Unicode code points.
    AccNorm,
    /// Length of the choice in UTF-8 bytes (á, ñ and ç count two).
    AccBytes,
    /// The choice's own log-likelihood without the question is subtracted.
    AccMutualInfo,
}

impl Metric {
    /// The name as in TOML and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
            Self::AccMutualInfo => "acc_mutual_info",
        }
    }
}

/// Fields of a perplexity task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerplexitySpec {
    /// Field with the text.
    pub text: String,
}

/// What a user says and how the answers are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConversationSpec {
    /// Field with the item's identity; without it, its line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Field with what the user says: a text, or a list of turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<String>,
    /// The one turn as a template instead, see [`crate::template`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// What stands before the conversation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// Tokens of an answer at most.
    #[serde(default = "thousand_tokens")]
    pub max_tokens: usize,
    /// An answer ends before the first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub until: Vec<String>,
    /// 0 takes the most probable token.
    #[serde(default)]
    pub temperature: f32,
    /// Other temperatures by the value of a field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperatures: Option<Temperatures>,
    /// Who or what scores the answers.
    pub score: AnswerScoring,
}

fn thousand_tokens() -> usize {
    1024
}

/// Temperatures by the value of a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperatures {
    /// The field.
    pub field: String,
    /// Its values; for all others the task's own temperature.
    pub values: BTreeMap<String, f32>,
}

/// Who or what scores answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnswerScoring {
    /// Another model, afterwards: `milpa eval judge`.
    Judge {
        /// File beside the questions with good answers, as a judge reads answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        references: Option<String>,
    },
    /// Rules that tell compliance from refusal, see [`crate::refusal`].
    Refusal {
        /// Field that says whether a prompt may be answered.
        label: String,
        /// Its value where it may.
        safe: String,
        /// Field with the kind of prompt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
    },
    /// Instructions that a program can check, see [`crate::instructions`]; the data says them.
    Instructions {},
    /// Right answers, with abstention and confidence, see [`crate::factuality`].
    Factuality(FactualitySpec),
}

impl ConversationSpec {
    fn check(&self) -> Result<(), (String, String)> {
        let wrong =
            |key: &str, message: &str| Err((format!("conversation.{key}"), message.to_owned()));
        match (&self.turns, &self.template) {
            (Some(_), None) => {}
            (None, Some(template)) => {
                if let Err(message) = Template::parse(template) {
                    return wrong("template", &message);
                }
            }
            _ => return wrong("turns", "name either turns, a field, or a template"),
        }
        if let AnswerScoring::Factuality(spec) = &self.score
            && !(spec.penalty.is_finite() && spec.penalty >= 0.0)
        {
            return wrong("score.penalty", "the penalty of a wrong answer is 0 or above");
        }
        if self.max_tokens == 0 {
            return wrong("max_tokens", "max_tokens is 0; ask for at least 1");
        }
        let of_values = self.temperatures.iter().flat_map(|by| by.values.values());
        if of_values.chain([&self.temperature]).any(|value| !(value.is_finite() && *value >= 0.0)) {
            return wrong("temperature", "a temperature is 0 (greedy) or above");
        }
        Ok(())
    }
}

/// Task files that come with the program: name and content.
const BUILTIN: [(&str, &str); 18] = [
    ("en/arena_hard", include_str!("../../../tasks/en/arena_hard/task.toml")),
    ("en/gsm8k", include_str!("../../../tasks/en/gsm8k/task.toml")),
    ("en/ifeval", include_str!("../../../tasks/en/ifeval/task.toml")),
    ("en/mt_bench", include_str!("../../../tasks/en/mt_bench/task.toml")),
    ("en/xstest", include_str!("../../../tasks/en/xstest/task.toml")),
    ("es/choclo", include_str!("../../../tasks/es/choclo/task.toml")),
    ("es/exams", include_str!("../../../tasks/es/exams/task.toml")),
    ("es/ifeval", include_str!("../../../tasks/es/ifeval/task.toml")),
    ("es/mgsm", include_str!("../../../tasks/es/mgsm/task.toml")),
    ("es/xquad", include_str!("../../../tasks/es/xquad/task.toml")),
    ("ht/xcopa", include_str!("../../../tasks/ht/xcopa/task.toml")),
    ("mul/americasnli", include_str!("../../../tasks/mul/americasnli/task.toml")),
    ("mul/in_context", include_str!("../../../tasks/mul/in_context/task.toml")),
    ("mul/milpa_regional", include_str!("../../../tasks/mul/milpa_regional/task.toml")),
    ("pt/choclo", include_str!("../../../tasks/pt/choclo/task.toml")),
    ("pt/enem_2022", include_str!("../../../tasks/pt/enem_2022/task.toml")),
    ("pt/exams", include_str!("../../../tasks/pt/exams/task.toml")),
    ("qu/xcopa", include_str!("../../../tasks/qu/xcopa/task.toml")),
];

/// Names of the tasks that come with the program, sorted.
pub fn builtin_tasks() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

impl TaskSpec {
    /// Reads and checks a task file.
    pub fn load(path: &Path) -> Result<Self, EvalError> {
        let spec: Self = load_toml(path)?;
        spec.check().map_err(|(key, message)| {
            // The file was read and parsed above, so its length is bounded.
            let text = fs::read_to_string(path).unwrap_or_default();
            invalid_value(&text, path, &key, &message)
        })?;
        Ok(spec)
    }

    /// Reads the task of a name: a built-in one, or a file that ends in `.toml`.
    ///
    /// # Errors
    /// A name that is not known, a file that cannot be read or is wrong.
    pub fn find(name: &Path) -> Result<Self, EvalError> {
        if name.extension().is_some_and(|end| end == "toml") {
            Self::load(name)
        } else {
            Self::builtin(&name.to_string_lossy())
        }
    }

    /// Reads and checks the text of a task file; `path` is named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let spec: Self = parse_toml(text, path)?;
        spec.check().map_err(|(key, message)| invalid_value(text, path, &key, &message))?;
        Ok(spec)
    }

    /// Returns the built-in task of this name.
    pub fn builtin(name: &str) -> Result<Self, EvalError> {
        let Some((_, text)) = BUILTIN.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = builtin_tasks().collect();
            let hint = match nearest(name, &known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!(
                    "known tasks: {}; or give the path of a task file that ends in .toml",
                    known.join(", ")
                ),
            };
            return Err(EvalError::UnknownTask { name: name.to_owned(), hint });
        };
        Ok(Self::parse(text, Path::new(name))?)
    }

    /// Says by a dotted key what cannot be right.
    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, message: &str| Err((key.to_owned(), message.to_owned()));
        if self.name.is_empty() || self.languages.is_empty() {
            let key = if self.name.is_empty() { "name" } else { "languages" };
            return wrong(key, &format!("{key} is empty"));
        }
        let tables = [
            (TaskKind::MultipleChoice, self.multiple_choice.is_some()),
            (TaskKind::Perplexity, self.perplexity.is_some()),
            (TaskKind::Harness, self.harness.is_some()),
            (TaskKind::Conversation, self.conversation.is_some()),
        ];
        if tables.iter().any(|(kind, there)| (*kind == self.kind) != *there) {
            let name = self.kind.name();
            return wrong("kind", &format!("kind {name} needs the table [{name}] and no other"));
        }
        if let Some(spec) = &self.multiple_choice {
            spec.check()?;
        }
        if let Some(spec) = &self.conversation {
            spec.check()?;
        }
        let mut names: Vec<&str> = self.prompts.iter().map(|prompt| prompt.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) || names.contains(&MAIN_PROMPT) {
            return wrong("prompts", "two prompts have one name; the task's own is \"main\"");
        }
        self.variants()?;
        if self.harness.is_some()
            && let Err(EvalError::BadTask { message, .. }) =
                LoadedTask::from_spec(self, Path::new(&self.name))
        {
            return wrong("harness", &message);
        }
        Ok(())
    }

    /// The task with each of its other prompts, and the style in which it is then put.
    ///
    /// # Errors
    /// A prompt that the kind of task cannot have, by its key.
    pub fn variants(&self) -> Result<Vec<Variant>, (String, String)> {
        self.prompts.iter().map(|variant| self.variant(variant)).collect()
    }

    fn variant(&self, variant: &PromptVariant) -> Result<Variant, (String, String)> {
        let wrong = |message: String| ("prompts".to_owned(), message);
        let PromptVariant { name, style, template, rotate_choices, harness } = variant;
        let mut task = self.clone();
        task.prompts = Vec::new();
        let style = style.unwrap_or_default();
        match (&mut task.multiple_choice, &mut task.harness) {
            (Some(choice), None) if harness.is_empty() => {
                choice.rotate_choices = *rotate_choices;
                if let Some(template) = template {
                    match style {
                        PromptStyle::Continuation => {
                            let template = template.clone();
                            choice.continuation = Some(ContinuationPrompt { template });
                        }
                        PromptStyle::Letters => {
                            let choice_line = (choice.letters.take())
                                .map_or_else(plain_choice_line, |prompt| prompt.choice_line);
                            let template = template.clone();
                            choice.letters = Some(LettersPrompt { template, choice_line });
                        }
                    }
                }
                choice.check()?;
                choice
                    .prompt(style, &self.name)
                    .map_err(|error| wrong(format!("{name}: {error}")))?;
            }
            (None, Some(keys)) if template.is_none() && *rotate_choices == 0 => {
                keys.extend(harness.clone());
            }
            _ => {
                return Err(wrong(format!(
                    "the prompt {name:?} has keys that a task of kind {} does not take",
                    self.kind.name()
                )));
            }
        }
        Ok((name.clone(), task, style))
    }

    /// The file of the items: as given, or under its name in a folder that is given, or where the
    /// task file says.
    ///
    /// # Errors
    /// Nobody says where, or nothing lies there; the message says where the data comes from.
    pub fn data_file(&self, given: Option<&Path>) -> Result<PathBuf, EvalError> {
        let path = match (given, &self.file) {
            (Some(given), Some(file)) if given.is_dir() => given.join(file),
            (Some(given), _) => given.to_owned(),
            (None, _) => match &self.data {
                Some(location) => location.path.clone(),
                None => {
                    return Err(EvalError::NoData {
                        task: self.name.clone(),
                        hint: self.where_from(),
                    });
                }
            },
        };
        if path.is_file() {
            return Ok(path);
        }
        Err(EvalError::MissingData { task: self.name.clone(), path, hint: self.where_from() })
    }

    /// Where the items come from, as the end of a message.
    fn where_from(&self) -> String {
        let file = self.file.as_deref().map_or(String::new(), |file| format!(" It is {file}"));
        match &self.obtain {
            Some(obtain) if !file.is_empty() => format!("{file}: {obtain}"),
            Some(obtain) => format!(" {obtain}"),
            None => file,
        }
    }

    /// The multiple-choice part; a checked task of that kind has one.
    pub(crate) fn choice_spec(&self) -> Option<&MultipleChoiceSpec> {
        self.multiple_choice.as_ref()
    }
}

impl MultipleChoiceSpec {
    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, message: String| Err((format!("multiple_choice.{key}"), message));
        if self.metrics.is_empty() {
            return wrong("metrics", "metrics is empty; write metrics = [\"acc\"]".to_owned());
        }
        if (1..self.metrics.len()).any(|i| self.metrics[..i].contains(&self.metrics[i])) {
            return wrong("metrics", "metrics names one twice".to_owned());
        }
        if self.continuation.is_none() && self.letters.is_none() {
            return wrong(
                "metrics",
                "there is no prompt; add [multiple_choice.continuation] with a template".to_owned(),
            );
        }
        if let Some(prompt) = &self.continuation
            && let Err(message) = Template::parse(&prompt.template)
        {
            return wrong("continuation.template", message);
        }
        if let Some(prompt) = &self.letters {
            match Template::parse(&prompt.template) {
                Err(message) => return wrong("letters.template", message),
                Ok(template) if !template.fields().any(|field| field == "choices") => {
                    let message = "the template does not show the {choices}".to_owned();
                    return wrong("letters.template", message);
                }
                Ok(_) => {}
            }
            match Template::parse(&prompt.choice_line) {
                Err(message) => return wrong("letters.choice_line", message),
                Ok(line) => {
                    let fields: Vec<&str> = line.fields().collect();
                    if fields != ["letter", "choice"] {
                        let message = "a choice line has {letter} and then {choice}".to_owned();
                        return wrong("letters.choice_line", message);
                    }
                }
            }
        }
        Ok(())
    }

    /// The prompt of a style, ready to be filled.
    pub(crate) fn prompt(&self, style: PromptStyle, task: &str) -> Result<Prompt<'_>, EvalError> {
        let parse = |text: &str| Template::parse(text).expect("templates are checked on reading");
        let prompt = match style {
            PromptStyle::Continuation => self.continuation.as_ref().map(|prompt| Prompt {
                written: [prompt.template.as_str(), "", &self.delimiter],
                template: parse(&prompt.template),
                choice_line: None,
                delimiter: &self.delimiter,
                style,
            }),
            PromptStyle::Letters => self.letters.as_ref().map(|prompt| Prompt {
                written: [prompt.template.as_str(), &prompt.choice_line, &self.delimiter],
                template: parse(&prompt.template),
                choice_line: Some(parse(&prompt.choice_line)),
                delimiter: &self.delimiter,
                style,
            }),
        };
        prompt.ok_or_else(|| EvalError::NoStyle {
            task: task.to_owned(),
            style: style.name(),
            known: [
                (self.continuation.is_some(), PromptStyle::Continuation),
                (self.letters.is_some(), PromptStyle::Letters),
            ]
            .into_iter()
            .filter_map(|(has, style)| has.then_some(style.name()))
            .collect::<Vec<_>>()
            .join(", "),
        })
    }
}

/// A prompt of one style, parsed.
pub(crate) struct Prompt<'a> {
    written: [&'a str; 3],
    pub(crate) template: Template,
    choice_line: Option<Template>,
    pub(crate) delimiter: &'a str,
    pub(crate) style: PromptStyle,
}

impl Prompt<'_> {
    /// Identity of the prompt: BLAKE3 of style, template, choice line and delimiter.
    pub(crate) fn hash(&self) -> Digest {
        let mut text = self.style.name().to_owned();
        for part in self.written {
            text.push('\0');
            text.push_str(part);
        }
        hash_bytes(text.as_bytes())
    }

    /// The listed choices, where the style lists them.
    pub(crate) fn list(&self, choices: &[String]) -> Option<String> {
        let line = self.choice_line.as_ref()?;
        let lines: Vec<String> = choices
            .iter()
            .enumerate()
            .map(|(index, choice)| {
                let value = |name: &str| {
                    Some(if name == "letter" { letter(index).to_owned() } else { choice.clone() })
                };
                line.render(value).expect("letters and choices are not blank")
            })
            .collect();
        Some(lines.join("\n"))
    }

    /// What is scored for choice number `index`, without the delimiter.
    pub(crate) fn continuation<'c>(&self, index: usize, choice: &'c str) -> Cow<'c, str> {
        match self.style {
            PromptStyle::Continuation => Cow::Borrowed(choice),
            PromptStyle::Letters => Cow::Borrowed(letter(index)),
        }
    }
}

/// The letter of choice number `index`, which is below [`MAX_LETTERS`].
pub(crate) fn letter(index: usize) -> &'static str {
    &"ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index..=index]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"es/x\"\nversion = 1\nkind = \"multiple_choice\"\n\
        languages = [\"es\"]\nsummary = \"s\"\nlicence = \"l\"\ncitation = \"c\"\n\
        [multiple_choice]\nid = \"id\"\nchoices = \"choices\"\nanswer = \"answer\"\n\
        metrics = [\"acc\"]\n[multiple_choice.continuation]\ntemplate = \"{question}\"\n";

    fn check(from: &str, to: &str, expect: &[&str]) {
        assert!(GOOD.contains(from), "{from}");
        let error = TaskSpec::parse(&GOOD.replace(from, to), Path::new("task.toml")).unwrap_err();
        for part in expect {
            assert!(error.to_string().contains(part), "{part:?} is not in:\n{error}");
        }
    }

    #[test]
    fn slips_in_a_task_file_are_shown_with_their_line() {
        assert!(TaskSpec::parse(GOOD, Path::new("task.toml")).is_ok());
        check("licence", "license", &["unknown key `license`", "did you mean `licence`?"]);
        check("metrics = [\"acc\"]", "metrics = []", &["task.toml:12", "metrics is empty"]);
        check("metrics = [\"acc\"]", "metrics = [\"acc\", \"acc\"]", &["one twice"]);
        check("{question}", "{question", &["task.toml:14", "`{` without `}`"]);
        check("\"multiple_choice\"", "\"perplexity\"", &["task.toml:3", "[perplexity]"]);
        check("\"acc\"", "\"accuracy\"", &["task.toml:12"]);
        check("continuation]", "letters]", &["does not show the {choices}"]);
    }

    #[test]
    fn every_task_folder_is_built_in_parses_and_has_a_readme() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tasks");
        let mut found = Vec::new();
        for language in fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()) {
            if !language.is_dir() {
                continue;
            }
            for task in fs::read_dir(&language).unwrap().map(|entry| entry.unwrap().path()) {
                let folder = task.strip_prefix(&root).unwrap().to_str().unwrap();
                let readme = fs::read_to_string(task.join("README.md")).unwrap();
                assert!(readme.contains("Licence") && readme.contains("Source"), "{folder}");
                let name = task.file_name().unwrap().to_str().unwrap();
                let yaml = task.join(format!("{name}.yaml"));
                if yaml.exists() {
                    // Its questions lie beside it; it is given by its path.
                    crate::harness::task_file::LoadedTask::load(&yaml).unwrap();
                    continue;
                }
                let spec = TaskSpec::load(&task.join("task.toml")).unwrap();
                assert_eq!(spec.name, folder);
                assert!(!spec.licence.is_empty() && !spec.citation.is_empty(), "{folder}");
                assert_eq!(TaskSpec::builtin(folder).unwrap(), spec);
                found.push(folder.to_owned());
            }
        }
        found.sort();
        assert_eq!(found, builtin_tasks().collect::<Vec<_>>());
    }

    #[test]
    fn an_unknown_task_names_the_nearest() {
        let error = TaskSpec::builtin("pt/enem").unwrap_err().to_string();
        assert!(error.contains("did you mean \"pt/enem_2022\"?"), "{error}");
    }

    #[test]
    fn a_style_that_is_not_there_is_refused() {
        let spec = TaskSpec::parse(GOOD, Path::new("task.toml")).unwrap();
        let choice = spec.choice_spec().unwrap();
        let error = choice.prompt(PromptStyle::Letters, "es/x").err().unwrap().to_string();
        assert!(error.contains("\"letters\"; it has: continuation"), "{error}");
    }
}

//! From documents to requests: prompts with their examples, as lm-evaluation-harness writes them.
//!
//! A prompt is the description, the examples (each with its answer), and the question. With a chat
//! template they are messages instead. Examples are drawn document after document from one
//! generator, so a prompt depends on those before it. It asks no model.

use std::{collections::BTreeMap, path::Path, path::PathBuf};

use milpa_base::Seed;
use milpa_tokens::{DocumentTemplate, Message, parse_literal, python_text};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::EvalError,
    harness::{
        documents::{Document, Documents},
        python_random::PythonRandom,
        task_file::{LoadedTask, OutputType, bad_task},
    },
    items::{Skips, as_text},
};

/// Seed of the examples, the harness's default.
pub const FEW_SHOT_SEED: u64 = 1234;
/// Longest generated answer where the task does not say it, in tokens.
const DEFAULT_MAX_TOKENS: usize = 256;

/// What a model is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Request {
    /// The probability of a continuation after a context.
    Continuation {
        /// The prompt.
        context: String,
        /// What follows it.
        continuation: String,
    },
    /// The probability of a whole text.
    Text {
        /// The text.
        text: String,
    },
    /// A text after a prompt.
    Generation {
        /// The prompt.
        prompt: String,
        /// Texts before which it ends.
        until: Vec<String>,
        /// Tokens at most.
        max_tokens: usize,
        /// 0 takes the most probable token.
        temperature: f32,
        /// Of the draw; 0 where nothing is drawn.
        #[serde(default, skip_serializing_if = "is_zero")]
        seed: u64,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(seed: &u64) -> bool {
    *seed == 0
}

/// The right answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// Number of the right choice; `None` where the task names one that is not there.
    Choice(Option<usize>),
    /// Numbers of right choices.
    Choices(Vec<usize>),
    /// One text.
    Text(String),
    /// Several texts, of which one suffices.
    Texts(Vec<String>),
}

/// A document with what is asked about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Number of the document in its split, counted from 0.
    pub number: usize,
    /// Line in the file.
    pub line: u64,
    /// The question by itself: without examples, with its choices.
    pub text: String,
    /// What is asked, in order; a text that is drawn several times is there as often.
    pub requests: Vec<Request>,
    /// The choices' texts, where there are choices.
    pub choices: Vec<String>,
    /// The right answer.
    pub target: Target,
    /// Numbers of the examples in their split.
    pub examples: Vec<usize>,
    /// Values of the fields by which scores are broken down.
    pub groups: BTreeMap<String, String>,
    /// What it shares with others.
    pub cluster: Option<String>,
}

/// A question with those of its choices that it does not hold itself.
pub(crate) fn with_choices(text: &str, choices: &[String]) -> String {
    let mut whole = text.to_owned();
    for choice in choices.iter().filter(|choice| !text.contains(choice.as_str())) {
        whole.push('\n');
        whole.push_str(choice);
    }
    whole
}

/// What may be said on the command line about prompts.
#[derive(Clone, Copy)]
pub struct PromptOptions<'a> {
    /// Examples, instead of the task's number.
    pub num_fewshot: Option<usize>,
    /// Seed of the examples.
    pub seed: u64,
    /// The first documents only.
    pub limit: Option<usize>,
    /// Renders messages with the model's chat template; the flag asks for the beginning of an
    /// answer. Without it, prompts are plain text.
    pub chat: Option<&'a ChatRenderer<'a>>,
    /// With a chat template: each example is a turn of its own.
    pub fewshot_as_multiturn: bool,
    /// File of the documents, or folder of the task's files.
    pub data: Option<&'a Path>,
}

/// Renders messages; the flag asks for the beginning of an answer.
pub type ChatRenderer<'a> = dyn Fn(&[Message], bool) -> Result<String, String> + 'a;

impl Default for PromptOptions<'_> {
    fn default() -> Self {
        Self {
            num_fewshot: None,
            seed: FEW_SHOT_SEED,
            limit: None,
            chat: None,
            fewshot_as_multiturn: false,
            data: None,
        }
    }
}

/// All that is asked for a task.
#[derive(Debug, Clone)]
pub struct Questions {
    /// One for each document.
    pub questions: Vec<Question>,
    /// Documents in the split before a limit.
    pub documents: usize,
    /// Documents and lines that could not be used.
    pub skips: Skips,
    /// Examples in each prompt.
    pub num_fewshot: usize,
    /// BLAKE3 of the files.
    pub data_hashes: Vec<milpa_base::Digest>,
}

/// Prepares the questions of a task.
///
/// # Errors
/// Documents that cannot be read, a template that is wrong for the first document, examples that
/// are more than there are.
pub fn questions(
    task: &LoadedTask,
    mutual_information: bool,
    options: &PromptOptions<'_>,
) -> Result<Questions, EvalError> {
    let file = &task.file;
    let bad = |message: String| bad_task(&task.path, message);
    let splits = read_splits(task, options)?;
    let evaluated = file.test_split.as_ref().or(file.validation_split.as_ref());
    let evaluated = evaluated.ok_or_else(|| bad("it names no test_split".to_owned()))?;
    let documents = split(&splits, evaluated, task)?;
    let Some((_, first)) = documents.rows.first() else {
        return Err(EvalError::NoItems {
            path: task.path.clone(),
            task: file.task.clone(),
            detail: format!("the split {evaluated} is empty; {}", documents.skips),
        });
    };
    let writer = Writer::new(task, first).map_err(bad)?;
    let num_fewshot = options.num_fewshot.or(file.num_fewshot).unwrap_or(0);
    let given = file.fewshot_config.samples.clone().map(Documents::given);
    let mut examples = match &given {
        Some(given) if file.example_split().is_none() => {
            Examples::new(given, options.seed, file.first_n().map_err(bad)?)
        }
        _ => {
            let name = file.example_split().map_or(evaluated.as_str(), String::as_str);
            Examples::new(split(&splits, name, task)?, options.seed, file.first_n().map_err(bad)?)
        }
    };
    if let Some(indices) = &file.fewshot_config.fewshot_indices {
        examples.pool = indices.clone();
    }
    // A document is kept out of its own prompt only where the harness does so.
    let exclude = file.named_example_split() == file.test_split.as_ref();
    let mut questions = Vec::new();
    let mut skips = documents.skips.clone();
    let limit = options.limit.unwrap_or(usize::MAX);
    for (number, (line, document)) in documents.rows.iter().enumerate().take(limit) {
        let picked = examples.pick(num_fewshot, exclude.then_some(document)).map_err(bad)?;
        let shots: Vec<&Document> =
            picked.iter().map(|&at| &examples.documents.rows[at].1).collect();
        match writer.question(document, &shots, options, mutual_information) {
            Ok((requests, choices, target)) => questions.push(Question {
                requests: drawn(&requests, file, options.seed, number),
                number,
                line: *line,
                text: match writer.question.text(document) {
                    Ok(Answer::One(text)) => with_choices(&text, &choices),
                    _ => with_choices("", &choices),
                },
                choices,
                target,
                examples: picked,
                groups: groups_of(document, &task.rules.group_by),
                cluster: task.rules.cluster_by.as_ref().and_then(|field| text_in(document, field)),
            }),
            Err(reason) if number == 0 => return Err(bad(reason)),
            Err(reason) => skips.add(&reason, *line),
        }
    }
    Ok(Questions {
        questions,
        documents: documents.rows.len(),
        skips,
        num_fewshot,
        data_hashes: splits.values().flat_map(|split| split.hashes.clone()).collect(),
    })
}

/// A request for each of the answers that are drawn. Where the temperature is above 0, each has a seed
/// of its own; at 0 they are one request, which is asked once.
fn drawn(
    requests: &[Request],
    file: &super::task_file::TaskFile,
    seed: u64,
    number: usize,
) -> Vec<Request> {
    let samples = file.samples();
    let seeds = Seed(seed).derive("answers").derive(&file.task).nth(number as u64);
    // Some endpoints take seeds of 31 bits; those of one question are distinct.
    let first = seeds.0 & 0x3fff_ffff;
    let with_seed = |request: &Request, sample: usize| match request.clone() {
        Request::Generation { prompt, until, max_tokens, temperature, .. } if temperature > 0.0 => {
            let seed = first + 1 + sample as u64;
            Request::Generation { prompt, until, max_tokens, temperature, seed }
        }
        request => request,
    };
    requests
        .iter()
        .flat_map(|request| (0..samples).map(move |sample| with_seed(request, sample)))
        .collect()
}

/// Values of the fields of a document by which scores are broken down.
pub(crate) fn groups_of(document: &Document, fields: &[String]) -> BTreeMap<String, String> {
    let value = |field: &String| text_in(document, field).unwrap_or_else(|| "(none)".to_owned());
    fields.iter().map(|field| (field.clone(), value(field))).collect()
}

/// A field of a document as text: text, number or boolean.
pub(crate) fn text_in(document: &Document, field: &str) -> Option<String> {
    document.get(field).and_then(as_text)
}

fn read_splits(
    task: &LoadedTask,
    options: &PromptOptions<'_>,
) -> Result<BTreeMap<String, Documents>, EvalError> {
    let files: BTreeMap<String, Vec<PathBuf>> = match options.data {
        None => task.data_files(None)?,
        Some(folder) if folder.is_dir() => task.data_files(Some(folder))?,
        // One file holds whatever split is asked for.
        Some(path) => {
            let file = &task.file;
            let named = [&file.test_split, &file.validation_split, &file.training_split];
            let examples = file.example_split();
            let names = named.into_iter().flatten().chain(examples);
            names.map(|name| (name.clone(), vec![path.to_owned()])).collect()
        }
    };
    let read = |(name, paths): (String, Vec<PathBuf>)| {
        let mut documents = Documents::read(paths.iter().map(PathBuf::as_path))?;
        documents.keep(&task.rules.filters);
        Ok((name, documents))
    };
    files.into_iter().map(read).collect()
}

fn split<'s>(
    splits: &'s BTreeMap<String, Documents>,
    name: &str,
    task: &LoadedTask,
) -> Result<&'s Documents, EvalError> {
    splits.get(name).ok_or_else(|| {
        let known: Vec<&str> = splits.keys().map(String::as_str).collect();
        let message = format!("no files for the split {name:?}; there are {}", known.join(", "));
        bad_task(&task.path, message)
    })
}

impl super::task_file::TaskFile {
    fn named_example_split(&self) -> Option<&String> {
        self.fewshot_config.split.as_ref().or(self.fewshot_split.as_ref())
    }

    /// Split of the examples: as named, else the first of training, validation and test there is.
    fn example_split(&self) -> Option<&String> {
        self.named_example_split().or_else(|| {
            if self.fewshot_config.samples.is_some() {
                return None;
            }
            let splits = [&self.training_split, &self.validation_split, &self.test_split];
            splits.into_iter().flatten().next()
        })
    }

    fn first_n(&self) -> Result<bool, String> {
        match self.fewshot_config.sampler.as_deref() {
            None | Some("default") => Ok(false),
            Some("first_n") => Ok(true),
            Some(other) => {
                Err(format!("the sampler {other:?} is not known; use default or first_n"))
            }
        }
    }
}

/// Picks examples in the order of the questions.
struct Examples<'d> {
    documents: &'d Documents,
    /// Which of them may be picked.
    pool: Vec<usize>,
    random: PythonRandom,
    first_n: bool,
}

impl<'d> Examples<'d> {
    fn new(documents: &'d Documents, seed: u64, first_n: bool) -> Self {
        let pool = (0..documents.rows.len()).collect();
        Self { documents, pool, random: PythonRandom::new(seed), first_n }
    }

    fn pick(&mut self, count: usize, exclude: Option<&Document>) -> Result<Vec<usize>, String> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let rows = &self.documents.rows;
        if let Some(at) = self.pool.iter().find(|&&at| at >= rows.len()) {
            return Err(format!(
                "fewshot_indices has {at}, but there are {} documents",
                rows.len()
            ));
        }
        let keep = |at: &usize| exclude != Some(&rows[*at].1);
        let few = |have: usize| format!("{count} examples were asked for, but there are {have}");
        let mut picked: Vec<usize> = if self.first_n {
            self.pool.iter().copied().filter(keep).take(count).collect()
        } else {
            let drawn = count + usize::from(exclude.is_some());
            let drawn = self.random.sample(self.pool.len(), drawn);
            let drawn = drawn.ok_or_else(|| few(self.pool.len()))?;
            drawn.into_iter().map(|at| self.pool[at]).filter(keep).take(count).collect()
        };
        if picked.len() < count && !self.first_n {
            // The document stands there more than once: draw again without it.
            let rest: Vec<usize> = self.pool.iter().copied().filter(keep).collect();
            let drawn = self.random.sample(rest.len(), count).ok_or_else(|| few(rest.len()))?;
            picked = drawn.into_iter().map(|at| rest[at]).collect();
        }
        if picked.len() < count { Err(few(picked.len())) } else { Ok(picked) }
    }
}

/// An answer as the task file gives it.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Number(i64),
    One(String),
    Many(Vec<Value>),
}

/// How documents become text.
enum Text {
    Field(String),
    Template(Box<DocumentTemplate>),
    Number(i64),
    List(Vec<Value>),
}

impl Text {
    fn new(value: &Value, columns: &Document, key: &str) -> Result<Option<Self>, String> {
        Ok(Some(match value {
            Value::Null => return Ok(None),
            Value::String(name) if columns.contains_key(name) => Self::Field(name.clone()),
            Value::String(template) => {
                let template = DocumentTemplate::new(template);
                Self::Template(Box::new(template.map_err(|error| format!("{key}: {error}"))?))
            }
            Value::Number(number) => {
                Self::Number(number.as_i64().ok_or(format!("{key} is {number}"))?)
            }
            Value::Array(list) => Self::List(list.clone()),
            Value::Object(map) => Self::List(map.values().cloned().collect()),
            Value::Bool(_) => return Err(format!("{key} is neither a field nor a template")),
        }))
    }

    fn value(&self, document: &Document) -> Result<Value, String> {
        match self {
            Self::Field(name) => Ok(document.get(name).cloned().unwrap_or(Value::Null)),
            Self::Template(template) => {
                template.render(document).map(Value::String).map_err(|error| error.to_string())
            }
            Self::Number(number) => Ok((*number).into()),
            Self::List(list) => Ok(Value::Array(list.clone())),
        }
    }

    fn is_template(&self) -> bool {
        matches!(self, Self::Template(_))
    }
}

/// How a question or an example is written.
struct Format {
    text: Option<Text>,
    target: Option<Text>,
    choices: Option<Text>,
    prefix: Option<Text>,
    target_delimiter: String,
    delimiter: String,
}

impl Format {
    fn text(&self, document: &Document) -> Result<Answer, String> {
        let Some(text) = &self.text else { return Ok(Answer::One(String::new())) };
        let value = text.value(document)?;
        Ok(match value {
            Value::String(rendered) if text.is_template() && self.is_number(&rendered) => {
                Answer::Number(rendered.parse().map_err(|_| "a number is too large".to_owned())?)
            }
            Value::String(rendered) => Answer::One(rendered),
            Value::Number(number) if number.is_i64() => {
                Answer::Number(number.as_i64().unwrap_or(0))
            }
            _ => return Err("the prompt is not text".to_owned()),
        })
    }

    fn is_number(&self, text: &str) -> bool {
        self.choices.is_some() && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
    }

    fn choices(&self, document: &Document) -> Result<Vec<String>, String> {
        let Some(choices) = &self.choices else { return Ok(Vec::new()) };
        let value = match choices.value(document)? {
            Value::String(text) => parse_literal(&text)
                .ok_or_else(|| "doc_to_choice gives no list of texts".to_owned())?,
            value => value,
        };
        let Value::Array(list) = value else { return Err("the choices are no list".to_owned()) };
        list.iter()
            .map(|choice| match choice {
                Value::String(text) => Ok(text.clone()),
                _ => Err("a choice is not text".to_owned()),
            })
            .collect()
    }

    fn target(&self, document: &Document) -> Result<Answer, String> {
        let Some(target) = &self.target else { return Ok(Answer::One(String::new())) };
        Ok(match target.value(document)? {
            Value::String(text) if target.is_template() => {
                if self.is_number(&text) {
                    Answer::Number(text.parse().map_err(|_| "a number is too large".to_owned())?)
                } else if text.len() >= 2 && text.starts_with('[') && text.ends_with(']') {
                    match parse_literal(&text) {
                        Some(Value::Array(list)) => Answer::Many(list),
                        _ => Answer::One(text),
                    }
                } else {
                    Answer::One(text)
                }
            }
            Value::String(text) => Answer::One(text),
            Value::Number(number) if number.is_i64() => {
                Answer::Number(number.as_i64().unwrap_or(0))
            }
            Value::Array(list) => Answer::Many(list),
            Value::Null => return Err("the document has no answer".to_owned()),
            other => Answer::One(python_text(&other)),
        })
    }

    fn prefix(&self, document: &Document) -> Result<Option<String>, String> {
        match self.prefix.as_ref().map(|prefix| prefix.value(document)).transpose()? {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Ok(Some(python_text(&value)).filter(|text| !text.is_empty())),
        }
    }
}

/// A message with what follows it in plain text.
struct Turn {
    role: &'static str,
    content: String,
    delimiter: String,
}

/// Writes prompts.
struct Writer<'t> {
    task: &'t LoadedTask,
    description: Option<Text>,
    question: Format,
    example: Format,
}

impl<'t> Writer<'t> {
    fn new(task: &'t LoadedTask, columns: &Document) -> Result<Self, String> {
        let file = &task.file;
        let text = |value: &Value, key: &str| Text::new(value, columns, key);
        let prefix = |prefix: &Option<String>| match prefix {
            Some(prefix) => text(&Value::String(prefix.clone()), "gen_prefix"),
            None => Ok(None),
        };
        let question = Format {
            text: text(&file.doc_to_text, "doc_to_text")?,
            target: text(&file.doc_to_target, "doc_to_target")?,
            choices: text(&file.doc_to_choice, "doc_to_choice")?,
            prefix: prefix(&file.gen_prefix)?,
            target_delimiter: file.target_delimiter.clone(),
            delimiter: file.fewshot_delimiter.clone(),
        };
        let shots = &file.fewshot_config;
        let own = |value: &Option<Value>, otherwise: &Value, key: &str| {
            text(value.as_ref().unwrap_or(otherwise), key)
        };
        let example = Format {
            text: own(&shots.doc_to_text, &file.doc_to_text, "doc_to_text")?,
            target: own(&shots.doc_to_target, &file.doc_to_target, "doc_to_target")?,
            choices: own(&shots.doc_to_choice, &file.doc_to_choice, "doc_to_choice")?,
            prefix: prefix(if shots.gen_prefix.is_some() {
                &shots.gen_prefix
            } else {
                &file.gen_prefix
            })?,
            target_delimiter: shots
                .target_delimiter
                .clone()
                .unwrap_or(file.target_delimiter.clone()),
            delimiter: shots.fewshot_delimiter.clone().unwrap_or(file.fewshot_delimiter.clone()),
        };
        let description = text(&Value::String(file.description.clone()), "description")?;
        Ok(Self { task, description, question, example })
    }

    fn question(
        &self,
        document: &Document,
        shots: &[&Document],
        options: &PromptOptions<'_>,
        mutual_information: bool,
    ) -> Result<(Vec<Request>, Vec<String>, Target), String> {
        let output = self.task.file.output_type;
        let choices = self.question.choices(document)?;
        let answer = self.question.target(document)?;
        if output == OutputType::LoglikelihoodRolling {
            let text = text_of(&answer, &choices)?;
            return Ok((vec![Request::Text { text: text.clone() }], choices, Target::Text(text)));
        }
        let prefix = self.question.prefix(document)?;
        let mut turns = Vec::new();
        if let Some(description) = &self.description {
            let text = python_text(&description.value(document)?);
            if !text.is_empty() {
                turns.push(Turn { role: "system", content: text, delimiter: String::new() });
            }
        }
        let is_input = matches!(self.question.text(document)?, Answer::Number(_));
        for shot in shots {
            self.add_example(&mut turns, shot, is_input)?;
        }
        let contexts: Vec<String> = match self.question.text(document)? {
            Answer::One(text) => {
                add_question(&mut turns, text, prefix.as_deref(), &self.question.target_delimiter);
                vec![written(&turns, prefix.is_some(), options)?]
            }
            // The choices are prompts, and the answer follows each.
            _ => choices
                .iter()
                .map(|choice| {
                    let before = turns.len();
                    add_question(&mut turns, choice.clone(), prefix.as_deref(), "");
                    let context = written(&turns, prefix.is_some(), options);
                    turns.truncate(before);
                    context
                })
                .collect::<Result<_, _>>()?,
        };
        let requests = match output {
            OutputType::Loglikelihood => vec![Request::Continuation {
                context: contexts.into_iter().next().ok_or("there are no choices")?,
                continuation: text_of(&answer, &choices)?,
            }],
            OutputType::GenerateUntil => {
                vec![self.generation(contexts.into_iter().next().ok_or("there are no choices")?)?]
            }
            _ => {
                if choices.is_empty() {
                    return Err("multiple_choice needs doc_to_choice".to_owned());
                }
                if choices.iter().any(String::is_empty) {
                    return Err("a choice is empty".to_owned());
                }
                self.continuations(&contexts, &choices, &answer, options, mutual_information)?
            }
        };
        let target = self.target(&answer, document, &choices)?;
        Ok((requests, choices, target))
    }

    fn continuations(
        &self,
        contexts: &[String],
        choices: &[String],
        answer: &Answer,
        options: &PromptOptions<'_>,
        mutual_information: bool,
    ) -> Result<Vec<Request>, String> {
        let file = &self.task.file;
        let spaced = |prefix: &String| prefix.ends_with(char::is_whitespace);
        let delimiter = match (options.chat, &file.gen_prefix) {
            (Some(_), Some(prefix)) if !spaced(prefix) => file.target_delimiter.as_str(),
            (Some(_), _) => "",
            (None, _) => file.target_delimiter.as_str(),
        };
        let continuation = |context: &str, text: &str| Request::Continuation {
            context: context.to_owned(),
            continuation: format!("{delimiter}{text}"),
        };
        let mut requests: Vec<Request> = if contexts.len() == choices.len() && contexts.len() > 1 {
            let text = text_of(answer, choices)?;
            contexts.iter().map(|context| continuation(context, &text)).collect()
        } else {
            choices.iter().map(|choice| continuation(&contexts[0], choice)).collect()
        };
        if mutual_information {
            requests.extend(choices.iter().map(|choice| continuation("", choice)));
        }
        Ok(requests)
    }

    fn target(
        &self,
        answer: &Answer,
        document: &Document,
        choices: &[String],
    ) -> Result<Target, String> {
        let index = |number: i64| usize::try_from(number).ok().filter(|at| *at < choices.len());
        if self.task.file.output_type == OutputType::MultipleChoice {
            // Where choices are prompts, the prompt's field names the right one.
            let answer = match self.question.text(document)? {
                Answer::One(_) => answer.clone(),
                number => number,
            };
            return Ok(match answer {
                Answer::Number(number) => Target::Choice(index(number)),
                Answer::One(text) => Target::Choice(choices.iter().position(|c| *c == text)),
                Answer::Many(list) => Target::Choices(
                    list.iter().filter_map(|item| item.as_i64().and_then(index)).collect(),
                ),
            });
        }
        Ok(match answer {
            Answer::Many(list) => Target::Texts(list.iter().map(python_text).collect()),
            Answer::Number(number) if !choices.is_empty() => {
                let at = index(*number).ok_or("the answer names a choice that is not there")?;
                Target::Text(choices[at].clone())
            }
            _ => Target::Text(text_of(answer, choices)?),
        })
    }

    fn generation(&self, prompt: String) -> Result<Request, String> {
        let file = &self.task.file;
        let empty = serde_json::Map::new();
        let kwargs = file.generation_kwargs.as_ref().unwrap_or(&empty);
        let until = match kwargs.get("until") {
            None => vec![file.fewshot_delimiter.clone()],
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => list
                .iter()
                .map(|text| text.as_str().map(str::to_owned).ok_or("until has what is no text"))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err("until is neither a text nor a list of texts".to_owned()),
        };
        let names = ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"];
        let most = names.iter().find_map(|name| kwargs.get(*name));
        let max_tokens = match most.map(Value::as_u64) {
            None => DEFAULT_MAX_TOKENS,
            Some(Some(most)) if most > 0 => most as usize,
            Some(_) => return Err("max_gen_toks is no whole number above 0".to_owned()),
        };
        let sampled = kwargs.get("do_sample").and_then(Value::as_bool);
        // A draw without a temperature is one from the model's own probabilities.
        let usual = if sampled == Some(true) { 1.0 } else { 0.0 };
        let temperature = kwargs.get("temperature").map_or(Some(usual), Value::as_f64);
        let temperature = temperature.ok_or("temperature is no number")? as f32;
        let known = ["until", "temperature", "do_sample"];
        if let Some(key) = kwargs
            .keys()
            .find(|key| !known.contains(&key.as_str()) && !names.contains(&key.as_str()))
        {
            return Err(format!("generation_kwargs.{key} is not supported"));
        }
        Ok(Request::Generation {
            prompt,
            until: until.into_iter().filter(|text| !text.is_empty()).collect(),
            max_tokens,
            temperature: if sampled == Some(false) { 0.0 } else { temperature },
            seed: 0,
        })
    }

    fn add_example(
        &self,
        turns: &mut Vec<Turn>,
        document: &Document,
        is_input: bool,
    ) -> Result<(), String> {
        let format = &self.example;
        let choices = format.choices(document)?;
        let answer = format.target(document)?;
        let text = match format.text(document)? {
            Answer::Number(number) => usize::try_from(number)
                .ok()
                .and_then(|at| choices.get(at).cloned())
                .ok_or("an example names a choice that is not there")?,
            Answer::One(text) => text,
            Answer::Many(_) => return Err("the prompt of an example is a list".to_owned()),
        };
        let answer = if is_input { text_of(&answer, &[])? } else { text_of(&answer, &choices)? };
        let prefix = format.prefix(document)?;
        let has_answer = !answer.is_empty();
        let delimiter = match &prefix {
            Some(prefix) if !parted(&text, prefix) => String::new(),
            None if !has_answer => String::new(),
            _ => format.target_delimiter.clone(),
        };
        turns.push(Turn { role: "user", content: text, delimiter });
        if has_answer {
            let content = joined(prefix.as_deref().unwrap_or_default(), &answer, " ");
            turns.push(Turn { role: "assistant", content, delimiter: format.delimiter.clone() });
        }
        Ok(())
    }
}

fn add_question(turns: &mut Vec<Turn>, text: String, prefix: Option<&str>, target_delimiter: &str) {
    let delimiter = match prefix {
        Some(prefix) if parted(&text, prefix) => target_delimiter.to_owned(),
        _ => String::new(),
    };
    turns.push(Turn { role: "user", content: text, delimiter });
    if let Some(prefix) = prefix {
        let content = prefix.to_owned();
        turns.push(Turn { role: "assistant", content, delimiter: String::new() });
    }
}

/// The text of an answer: of a number the choice, of several the first.
fn text_of(answer: &Answer, choices: &[String]) -> Result<String, String> {
    match answer {
        Answer::Number(number) if !choices.is_empty() => usize::try_from(*number)
            .ok()
            .and_then(|at| choices.get(at).cloned())
            .ok_or_else(|| "the answer names a choice that is not there".to_owned()),
        Answer::Number(number) => Ok(number.to_string()),
        Answer::One(text) => Ok(text.clone()),
        Answer::Many(list) => {
            list.first().map(python_text).ok_or_else(|| "the list of answers is empty".to_owned())
        }
    }
}

/// Whether a delimiter is needed: neither side has white space where they meet.
fn parted(before: &str, after: &str) -> bool {
    let space = |c: Option<char>| c.is_some_and(char::is_whitespace);
    !before.is_empty() && !space(before.chars().next_back()) && !space(after.chars().next())
}

fn joined(before: &str, after: &str, delimiter: &str) -> String {
    let delimiter = if parted(before, after) && !after.is_empty() { delimiter } else { "" };
    format!("{before}{delimiter}{after}")
}

/// Turns as plain text, or through the chat template.
fn written(turns: &[Turn], prefixed: bool, options: &PromptOptions<'_>) -> Result<String, String> {
    let plain = |turns: &[Turn]| -> String {
        turns.iter().flat_map(|turn| [turn.content.as_str(), turn.delimiter.as_str()]).collect()
    };
    let Some(render) = options.chat else { return Ok(plain(turns)) };
    let message = |turn: &Turn| Message::new(turn.role, turn.content.as_str());
    if options.fewshot_as_multiturn {
        return render(&turns.iter().map(message).collect::<Vec<_>>(), !prefixed);
    }
    let (system, turns) = match turns.split_first() {
        Some((first, rest)) if first.role == "system" => (Some(first), rest),
        _ => (None, turns),
    };
    let (users, last) = match turns.split_last() {
        Some((last, users)) if last.role == "assistant" => (users, Some(last)),
        _ => (turns, None),
    };
    let mut text = plain(users);
    // The last delimiter belongs to the answer, not to the question.
    if let Some(turn) = users.last() {
        text.truncate(text.len() - turn.delimiter.len());
    }
    let mut messages: Vec<Message> = system.map(message).into_iter().collect();
    messages.push(Message::new("user", text));
    messages.extend(last.map(message));
    render(&messages, !prefixed)
}

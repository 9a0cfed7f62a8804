//! Answers to a fixed set of prompts, side by side: what to look at before any score.
//!
//! Looking at outputs catches what scores miss: a model that never ends, answers in another
//! language, repeats itself. The prompts are data (`data/look.toml`, or a file of one's own); each
//! model continues texts, goes on with examples, and answers turns through its chat template.
//! Greedy by default, so that two models differ by themselves alone. It scores nothing.

use std::{fmt::Write as _, path::Path};

use milpa_base::{
    EndpointRecord, FinishReason, GenerateRequest, ModelError, ModelInfo, Sampling, Seed,
    TextModel,
    page::{self, Width},
    parse_toml,
    plot::escape,
    units::si,
};
use milpa_tokens::Message;
use serde::{Deserialize, Serialize};

use crate::{error::EvalError, harness::requests::ChatRenderer, run::Watch};

const BUILTIN: &str = include_str!("../data/look.toml");
/// Longest file of prompts, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A file of prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookPrompts {
    /// The prompts in their order.
    pub prompt: Vec<LookPrompt>,
}

/// One prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookPrompt {
    /// What is asked for.
    pub kind: LookKind,
    /// Language (ISO 639).
    pub language: String,
    /// The text to go on with; not for a chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What a person says, turn after turn; for a chat.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<String>,
}

/// What a prompt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LookKind {
    /// A text that goes on.
    Completion,
    /// Examples, then a question.
    InContext,
    /// Turns of a conversation.
    Chat,
}

impl LookKind {
    fn title(self) -> &'static str {
        match self {
            Self::Completion => "Completion",
            Self::InContext => "In context",
            Self::Chat => "Conversation",
        }
    }
}

impl LookPrompts {
    /// The prompts that come with the program.
    pub fn builtin() -> Self {
        Self::parse(BUILTIN, Path::new("data/look.toml")).expect("the built-in prompts are tested")
    }

    /// Reads a file of prompts.
    ///
    /// # Errors
    /// A file that cannot be read, or prompts without a text or turns.
    pub fn load(path: &Path) -> Result<Self, EvalError> {
        let failed = |source| EvalError::Read { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > MAX_FILE_BYTES {
            let message = format!("it has {length} bytes, more than a file of prompts");
            return Err(EvalError::BadReport { path: path.to_owned(), message });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(failed)?, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, EvalError> {
        let prompts: Self = parse_toml(text, path)?;
        let fits = |prompt: &LookPrompt| match prompt.kind {
            LookKind::Chat => prompt.text.is_none() && !prompt.turns.is_empty(),
            _ => prompt.text.is_some() && prompt.turns.is_empty(),
        };
        match prompts.prompt.iter().position(|prompt| !fits(prompt)) {
            None if prompts.prompt.is_empty() => Err(EvalError::BadReport {
                path: path.to_owned(),
                message: "it has no [[prompt]]".to_owned(),
            }),
            None => Ok(prompts),
            Some(at) => Err(EvalError::BadReport {
                path: path.to_owned(),
                message: format!(
                    "prompt number {} needs `turns` if it is a chat, and `text` if it is not",
                    at + 1
                ),
            }),
        }
    }
}

/// A model to look at.
pub struct Looked<'a> {
    /// The model.
    pub model: &'a dyn TextModel,
    /// Its chat template, if it has one.
    pub chat: Option<&'a ChatRenderer<'a>>,
}

/// How answers are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LookOptions {
    /// New tokens of an answer at most.
    pub max_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for LookOptions {
    fn default() -> Self {
        Self { max_tokens: 120, temperature: 0.0, seed: 0 }
    }
}

/// What a model answered to a turn, or why it did not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum LookAnswer {
    /// A text.
    Text {
        /// The text.
        text: String,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Its tokens.
        tokens: usize,
    },
    /// Nothing.
    None {
        /// Why.
        reason: String,
    },
}

/// Prompts with the answers of every model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The models, in the order of the answers.
    pub models: Vec<ModelInfo>,
    /// What endpoints were asked, for models elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointRecord>,
    /// How the answers were made.
    pub options: LookOptions,
    /// The command line that does it again.
    pub command_line: String,
    /// Each prompt, and for each model its answers (one for each turn).
    pub answers: Vec<(LookPrompt, Vec<Vec<LookAnswer>>)>,
}

/// Has every model answer every prompt.
///
/// # Errors
/// A model that fails, or a stop. A prompt that a model does not take is an answer with a reason.
pub fn look(
    models: &[Looked<'_>],
    prompts: &LookPrompts,
    options: LookOptions,
    command_line: &str,
    watch: Watch<'_>,
) -> Result<Look, EvalError> {
    watch.progress.begin("look", Some(prompts.prompt.len() as u64), "prompts");
    let mut answers = Vec::with_capacity(prompts.prompt.len());
    for (index, prompt) in prompts.prompt.iter().enumerate() {
        let sampling = Sampling {
            temperature: options.temperature,
            seed: Seed(options.seed).nth(index as u64).0,
            ..Sampling::default()
        };
        let mut by_model = Vec::with_capacity(models.len());
        for looked in models {
            by_model.push(match &prompt.text {
                Some(text) => {
                    vec![answer(looked.model, text.clone(), false, sampling, options, watch)?]
                }
                None => converse(looked, &prompt.turns, sampling, options, watch)?,
            });
        }
        answers.push((prompt.clone(), by_model));
        watch.progress.advance(index as u64 + 1);
    }
    watch.progress.end();
    Ok(Look {
        models: models.iter().map(|looked| looked.model.info().clone()).collect(),
        endpoints: models.iter().filter_map(|looked| looked.model.endpoint()).collect(),
        options,
        command_line: command_line.to_owned(),
        answers,
    })
}

fn converse(
    looked: &Looked<'_>,
    turns: &[String],
    sampling: Sampling,
    options: LookOptions,
    watch: Watch<'_>,
) -> Result<Vec<LookAnswer>, EvalError> {
    let none = |reason: &str| LookAnswer::None { reason: reason.to_owned() };
    let Some(render) = looked.chat else {
        return Ok(vec![none("the model has no chat template"); turns.len()]);
    };
    let mut messages = Vec::new();
    let mut answers = Vec::with_capacity(turns.len());
    for turn in turns {
        messages.push(Message::new("user", turn.as_str()));
        let answered = match render(&messages, true) {
            Ok(prompt) => answer(looked.model, prompt, true, sampling, options, watch)?,
            Err(reason) => none(&reason),
        };
        if let LookAnswer::Text { text, .. } = &answered {
            messages.push(Message::new("assistant", text.as_str()));
        }
        answers.push(answered);
    }
    Ok(answers)
}

fn answer(
    model: &dyn TextModel,
    prompt: String,
    parse_special: bool,
    sampling: Sampling,
    options: LookOptions,
    watch: Watch<'_>,
) -> Result<LookAnswer, EvalError> {
    let request = GenerateRequest {
        prompt,
        parse_special,
        truncate_prompt: true,
        max_tokens: options.max_tokens,
        sampling,
        stop: Vec::new(),
        logprobs: None,
    };
    match watch.generate(model, &request)? {
        Ok(generation) => Ok(LookAnswer::Text {
            text: generation.text,
            finish_reason: generation.finish_reason,
            tokens: generation.completion_tokens,
        }),
        Err(error @ (ModelError::TooLong { .. } | ModelError::BadRequest(_))) => {
            Ok(LookAnswer::None { reason: error.to_string() })
        }
        Err(source) => Err(EvalError::Model { doing: "the answers to look at".to_owned(), source }),
    }
}

impl LookAnswer {
    fn note(&self) -> String {
        match self {
            Self::Text { finish_reason: FinishReason::Length, tokens, .. } => {
                format!("did not end within {tokens} tokens")
            }
            Self::Text { tokens, .. } => format!("ended after {tokens} tokens"),
            Self::None { .. } => "no answer".to_owned(),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Text { text, .. } => text,
            Self::None { reason } => reason,
        }
    }
}

impl Look {
    /// How many answers of each model did not end by themselves, of how many.
    pub fn unended(&self) -> Vec<(usize, usize)> {
        let count = |at: usize| {
            let answers = self.answers.iter().flat_map(|(_, by_model)| &by_model[at]);
            answers.fold((0, 0), |(unended, all), answer| match answer {
                LookAnswer::Text { finish_reason, .. } => {
                    (unended + usize::from(*finish_reason == FinishReason::Length), all + 1)
                }
                LookAnswer::None { .. } => (unended, all),
            })
        };
        (0..self.models.len()).map(count).collect()
    }

    /// One self-contained HTML page.
    pub fn to_html(&self) -> String {
        let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
        let drawn = if self.options.temperature == 0.0 {
            "greedy".to_owned()
        } else {
            format!("temperature {}, seed {}", self.options.temperature, self.options.seed)
        };
        let subtitle = format!(
            "{} answers to {} prompts, {drawn}, at most {} tokens each. Look here before the scores.",
            names.join(" and "),
            self.answers.len(),
            self.options.max_tokens
        );
        let width = if names.len() > 1 { Width::Broad } else { Width::Text };
        let mut html = page::begin(&names.join(" · "), &subtitle, width);
        let rows = self.models.iter().zip(self.unended()).map(|(model, (unended, all))| {
            vec![
                model.name.clone(),
                model.parameters.map_or("–".to_owned(), |count| si(count as f64)),
                match model.context_length {
                    0 => "–".to_owned(),
                    length => length.to_string(),
                },
                model.hash.chars().take(12).collect(),
                format!("{unended} of {all}"),
            ]
        });
        let head = ["model", "parameters", "context", "hash", "answers that did not end"];
        page::table(&mut html, &head, &[1, 2, 4], &rows.collect::<Vec<_>>());
        let mut kinds: Vec<LookKind> = self.answers.iter().map(|(prompt, _)| prompt.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let _ = write!(html, "<h2>{}</h2>", kind.title());
            for (prompt, by_model) in self.answers.iter().filter(|(prompt, _)| prompt.kind == kind)
            {
                let said: Vec<&str> = match &prompt.text {
                    Some(text) => vec![text],
                    None => prompt.turns.iter().map(String::as_str).collect(),
                };
                for (turn, said) in said.iter().enumerate() {
                    let _ = write!(
                        html,
                        "<div class='prompt'><small>{}</small>{}</div><div class='side'>",
                        escape(&prompt.language),
                        escape(said)
                    );
                    for (model, answers) in self.models.iter().zip(by_model) {
                        let _ = write!(
                            html,
                            "<div class='answer'><small>{} · {}</small>{}</div>",
                            escape(&model.name),
                            answers[turn].note(),
                            escape(answers[turn].text())
                        );
                    }
                    html += "</div>";
                }
            }
        }
        for endpoint in &self.endpoints {
            let _ = write!(html, "<p>{}</p>", escape(&endpoint.to_line()));
        }
        let _ =
            write!(html, "<h2>Again</h2><pre>{}</pre>{}", escape(&self.command_line), page::END);
        html
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_prompts_cover_every_kind_and_language() {
        let prompts = LookPrompts::builtin().prompt;
        for kind in [LookKind::Completion, LookKind::InContext, LookKind::Chat] {
            assert!(prompts.iter().filter(|prompt| prompt.kind == kind).count() >= 4);
        }
        for language in ["es", "pt", "qu", "gn", "nah", "en"] {
            assert!(prompts.iter().any(|prompt| prompt.language == language), "{language}");
        }
        assert!(prompts.iter().any(|prompt| prompt.turns.len() > 1));
    }

    #[test]
    fn prompts_without_what_they_need_are_named() {
        let check = |text: &str, part: &str| {
            let error = LookPrompts::parse(text, Path::new("p.toml")).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let chat = "[[prompt]]\nkind = \"chat\"\nlanguage = \"es\"\n";
        check(chat, "prompt number 1 needs `turns`");
        check(&format!("{chat}turns = [\"a\"]\ntext = \"b\"\n"), "prompt number 1");
        check("prompt = []", "no [[prompt]]");
        check(&format!("{chat}turn = [\"a\"]\n"), "did you mean `turns`?");
    }
}

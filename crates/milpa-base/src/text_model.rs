//! The one way in which evaluation, judges and serving know a model: [`TextModel`].
//!
//! A local bundle, a checkpoint in training and a remote endpoint implement it alike. It knows
//! nothing of tensors; texts go in, log-probabilities (natural logarithm) and texts come out.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::{encoding::TextEncoder, endpoint::EndpointRecord};

/// What a report must say of the model it measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name shown to people and in `/v1/models`.
    pub name: String,
    /// BLAKE3 of the weights as stored, in hex; empty where a remote model does not tell.
    pub hash: String,
    /// Longest sequence in tokens that the model takes.
    pub context_length: usize,
    /// Number of parameters, where known.
    pub parameters: Option<u64>,
}

/// A continuation to be scored after a context.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// Text before the continuation; may be empty (then scoring starts after the BOS token).
    pub context: String,
    /// Text whose log-probability is wanted.
    pub continuation: String,
    /// Whether special tokens spelled in the context are read as such (a rendered chat template
    /// needs it, other text must not have it).
    pub parse_special: bool,
}

/// The score of a [`ScoreRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Sum of log p(token | before) over the tokens of the continuation, in nats.
    pub log_likelihood: f64,
    /// Whether each of those tokens was the model's most probable one.
    pub is_greedy: bool,
    /// Number of tokens in the continuation.
    pub tokens: usize,
    /// Tokens cut from the left of the context because the whole did not fit.
    pub truncated_tokens: usize,
}

/// The score of a whole text, each token predicted once with as much context as the window allows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollingScore {
    /// Sum of log p over all tokens of the text, in nats.
    pub log_likelihood: f64,
    /// Number of tokens scored.
    pub tokens: usize,
    /// UTF-8 bytes of the text.
    pub bytes: usize,
}

/// How a text that is longer than the model's window is cut to be scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollingWindows {
    /// Each window begins in the middle of the one before: a token has at least half a window of
    /// context.
    #[default]
    Overlapping,
    /// Each window begins where the one before ended, with one token of context, as in the LM
    /// Evaluation Harness: cheaper, and a little worse for the model.
    Disjoint,
}

/// How a model reads a prompt: what a report shows so that a missing or doubled BOS is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokens {
    /// The first tokens.
    pub first: Vec<u32>,
    /// The last tokens.
    pub last: Vec<u32>,
    /// All tokens.
    pub count: usize,
    /// The token that every sequence of this model begins with, if there is one.
    pub bos: Option<u32>,
    /// How many times in a row it stands at the beginning.
    pub leading_bos: usize,
}

impl RollingScore {
    /// Bits per UTF-8 byte: −log-likelihood / (ln 2 · bytes).
    pub fn bits_per_byte(&self) -> f64 {
        -self.log_likelihood / (std::f64::consts::LN_2 * self.bytes.max(1) as f64)
    }
}

/// How the next token is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus mass in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keep the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the tokens that are at least so probable, as a share of the most probable one; 0 keeps all.
    #[serde(default)]
    pub min_p: f32,
    /// Divides positive logits (multiplies negative ones) of tokens seen already; 1 is off.
    pub repetition_penalty: f32,
    /// Seed of the draw; the same request with the same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_p: 0.95,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// A text to be continued.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The prompt as text. Special tokens written in it are read as such only if
    /// `parse_special` is set (a rendered chat template needs it, a user's text must not have it).
    pub prompt: String,
    /// Whether `<|…|>` tokens in the prompt are special tokens.
    pub parse_special: bool,
    /// Whether a prompt that does not fit loses tokens on its left; otherwise it is refused.
    pub truncate_prompt: bool,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// How to draw.
    pub sampling: Sampling,
    /// Generation ends before the first of these texts.
    pub stop: Vec<String>,
    /// How many alternatives to report for each new token; `None` reports no log-probabilities.
    pub logprobs: Option<usize>,
}

/// One candidate token with its log-probability under the model (before temperature).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The token as text; bytes that are no UTF-8 by themselves appear as U+FFFD.
    pub text: String,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// A piece of generated text, handed over as soon as it is certain.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// New text; whole UTF-8 characters, never part of a stop text.
    pub text: String,
    /// One entry for each token consumed for this piece: the chosen token and the alternatives,
    /// most probable first. Empty unless log-probabilities were asked for.
    pub logprobs: Vec<(Choice, Vec<Choice>)>,
}

/// A prompt as a text, or as the tokens that somebody made of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text; the model puts BOS before it where it has one.
    Text {
        /// The text.
        text: String,
        /// Whether special tokens spelled in it are read as such.
        parse_special: bool,
    },
    /// Tokens, used as they are.
    Tokens(Vec<u32>),
}

/// A token of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptToken {
    /// Its id.
    pub id: u32,
    /// Its bytes; none for a special token that stands for no text.
    pub bytes: Vec<u8>,
    /// log p(token | before) in nats; none for the first one.
    pub logprob: Option<f64>,
    /// The most probable tokens at its place, most probable first.
    pub top: Vec<Choice>,
}

/// What a model thinks of a prompt, token by token.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptScores {
    /// The prompt's tokens.
    pub tokens: Vec<PromptToken>,
    /// The most probable tokens after it, most probable first; empty unless asked for.
    pub next: Vec<Choice>,
    /// Whether the most probable of these ends a text.
    pub ends: bool,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End-of-text token or a stop text.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
    /// The receiver asked to stop.
    Cancelled,
}

/// The whole of a generated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The generated text without the prompt.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens cut from its left because it did not fit.
    pub truncated_tokens: usize,
    /// New tokens.
    pub completion_tokens: usize,
}

/// What can go wrong when a model is asked.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The request does not fit the model.
    #[error(
        "the prompt has {prompt_tokens} tokens and {max_tokens} new ones were asked for, \
         but the model takes {context_length} in all; shorten the prompt or lower max_tokens"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// New tokens asked for.
        max_tokens: usize,
        /// What the model takes.
        context_length: usize,
    },
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// The model cannot do this.
    #[error("{capability} is unavailable for {model}")]
    Unavailable {
        /// What was asked.
        capability: &'static str,
        /// Of which model.
        model: String,
    },
    /// The model failed.
    #[error("the model failed: {0}")]
    Failed(String),
}

/// A language model as evaluation and serving see it.
pub trait TextModel: Send + Sync {
    /// Says which model this is.
    fn info(&self) -> &ModelInfo;

    /// Scores continuations after their contexts, in order. `on_done(n)` is called with the
    /// number of requests finished so far.
    fn score(
        &self,
        requests: &[ScoreRequest],
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError>;

    /// Scores whole texts, each token once, in windows as `windows` says where they are longer than
    /// the model takes. `on_done(n)` is called with the number of texts finished so far.
    fn score_rolling(
        &self,
        texts: &[&str],
        windows: RollingWindows,
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError>;

    /// Continues a prompt; `on_piece` receives text as it is made and may break off.
    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError>;

    /// Continues several prompts; `on_done(n)` is called with the number of them finished so far.
    /// A stop that `is_stopped` tells of leaves generations that end as [`FinishReason::Cancelled`].
    fn generate_many(
        &self,
        requests: &[GenerateRequest],
        is_stopped: &(dyn Fn() -> bool + Sync),
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Generation>, ModelError> {
        let mut generations = Vec::with_capacity(requests.len());
        for request in requests {
            generations.push(self.generate(request, &mut |_| {
                if is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?);
            on_done(generations.len());
        }
        Ok(generations)
    }

    /// How many prompts are worth handing to [`TextModel::generate_many`] together.
    fn generates_together(&self) -> usize {
        1
    }

    /// What was asked of the model so far where it is elsewhere; none for a model here.
    fn endpoint(&self) -> Option<EndpointRecord> {
        None
    }

    /// How the model turns text into tokens (optional capability).
    fn encoder(&self) -> Option<&dyn TextEncoder> {
        None
    }

    /// Continues a prompt given as tokens, used as they are; the prompt of `request` is not looked
    /// at (optional capability).
    fn generate_from_tokens(
        &self,
        tokens: &[u32],
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let _ = (tokens, request, on_piece);
        Err(ModelError::Unavailable {
            capability: "continuing a prompt given as tokens",
            model: self.info().name.clone(),
        })
    }

    /// Log-probabilities of a prompt's own tokens, each with the `alternatives` most probable ones
    /// at its place, and as many after the prompt if `with_next` is set (optional capability).
    fn score_prompt(
        &self,
        prompt: &Prompt,
        alternatives: usize,
        with_next: bool,
    ) -> Result<PromptScores, ModelError> {
        let _ = (prompt, alternatives, with_next);
        Err(ModelError::Unavailable {
            capability: "the log-probabilities of a prompt's tokens",
            model: self.info().name.clone(),
        })
    }

    /// How the model reads `prompt` (optional capability).
    fn prompt_tokens(&self, prompt: &str, parse_special: bool) -> Result<PromptTokens, ModelError> {
        let _ = (prompt, parse_special);
        Err(ModelError::Unavailable {
            capability: "the tokens of a prompt",
            model: self.info().name.clone(),
        })
    }

    /// Log-probabilities over the vocabulary for the token after `context` (optional capability).
    fn next_token_logprobs(&self, context: &str) -> Result<Vec<f32>, ModelError> {
        let _ = context;
        Err(ModelError::Unavailable {
            capability: "the next-token distribution",
            model: self.info().name.clone(),
        })
    }
}

//! Models that are simple enough to be computed by hand.

use std::ops::ControlFlow;

use milpa_base::{
    FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece, RollingScore, Score,
    ScoreRequest, Silent, StopFlag, TextModel,
};
use milpa_eval::Watch;

pub(crate) fn info(name: &str) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        hash: "0123456789abcdef".repeat(4),
        context_length: 512,
        parameters: Some(256),
    }
}

/// One token a byte, each with a fixed probability: a 1/2, b 1/4, space 1/8, the other 253 bytes
/// share the last 1/8.
pub(crate) struct Unigram {
    pub(crate) info: ModelInfo,
    /// Longest context in bytes; what is beyond is cut from the left.
    pub(crate) window: usize,
}

impl Unigram {
    pub(crate) fn new() -> Self {
        Self { info: info("unigram"), window: 1 << 20 }
    }
}

pub(crate) fn log_probability(text: &str) -> f64 {
    text.bytes()
        .map(|byte| match byte {
            b'a' => 0.5f64.ln(),
            b'b' => 0.25f64.ln(),
            b' ' => 0.125f64.ln(),
            _ => (0.125f64 / 253.0).ln(),
        })
        .sum()
}

impl TextModel for Unigram {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        let mut scores = Vec::new();
        for request in requests {
            if request.continuation.len() > self.window {
                return Err(ModelError::TooLong {
                    prompt_tokens: request.continuation.len(),
                    max_tokens: 0,
                    context_length: self.window,
                });
            }
            let whole = request.context.len() + request.continuation.len();
            scores.push(Score {
                log_likelihood: log_probability(&request.continuation),
                is_greedy: request.continuation.bytes().all(|byte| byte == b'a'),
                tokens: request.continuation.len(),
                truncated_tokens: whole.saturating_sub(self.window),
            });
            on_done(scores.len());
        }
        Ok(scores)
    }

    fn score_rolling(
        &self,
        texts: &[&str],
        _: milpa_base::RollingWindows,
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        on_done(texts.len());
        Ok(texts
            .iter()
            .map(|text| RollingScore {
                log_likelihood: log_probability(text),
                tokens: text.len(),
                bytes: text.len(),
            })
            .collect())
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let text = "a".repeat(request.max_tokens);
        let flow = on_piece(&Piece { text: text.clone(), logprobs: Vec::new() });
        let finish_reason =
            if flow.is_break() { FinishReason::Cancelled } else { FinishReason::Length };
        Ok(Generation {
            text,
            finish_reason,
            prompt_tokens: request.prompt.len(),
            truncated_tokens: 0,
            completion_tokens: request.max_tokens,
        })
    }
}

/// A model whose scores are any function of the request.
pub(crate) struct Scripted<F>(pub(crate) ModelInfo, pub(crate) F);

impl<F: Fn(&ScoreRequest) -> f64 + Send + Sync> TextModel for Scripted<F> {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        let score = |request: &ScoreRequest| Score {
            log_likelihood: self.1(request),
            is_greedy: false,
            tokens: 1,
            truncated_tokens: 0,
        };
        Ok(requests.iter().map(score).collect())
    }

    fn score_rolling(
        &self,
        texts: &[&str],
        _: milpa_base::RollingWindows,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        let whole = |text: &&str| {
            let request = ScoreRequest {
                context: String::new(),
                continuation: (*text).to_owned(),
                parse_special: false,
            };
            RollingScore { log_likelihood: self.1(&request), tokens: 1, bytes: text.len() }
        };
        Ok(texts.iter().map(whole).collect())
    }

    fn generate(
        &self,
        _: &GenerateRequest,
        _: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        Err(ModelError::Unavailable { capability: "generation", model: self.0.name.clone() })
    }
}

pub(crate) fn with_watch<T>(work: impl FnOnce(Watch<'_>) -> T) -> T {
    work(Watch { progress: &Silent, stop: &StopFlag::default() })
}

pub(crate) fn near(value: f64, expect: f64) {
    assert!((value - expect).abs() <= 1e-12 * expect.abs().max(1.0), "{value} is not {expect}");
}

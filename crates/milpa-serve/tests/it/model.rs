//! A model that says what the test tells it to, and tells the test what it was asked.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use milpa_base::{
    Choice, FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece, Prompt,
    PromptScores, PromptToken, RollingScore, Score, ScoreRequest, TextEncoder, TextModel,
};

/// The tokens that the model repeats for ever.
pub(crate) const WORDS: [&str; 4] = ["uno ", "dos ", "tres ", "ñandú "];
pub(crate) const CONTEXT_LENGTH: usize = 64;

/// Clones share what they saw.
#[derive(Clone)]
pub(crate) struct Script {
    info: ModelInfo,
    pub(crate) pause: Duration,
    /// What was asked, in order.
    pub(crate) asked: Arc<Mutex<Vec<GenerateRequest>>>,
    /// Generations that were broken off.
    pub(crate) cancelled: Arc<AtomicUsize>,
    pub(crate) running: Arc<AtomicUsize>,
    pub(crate) most_running: Arc<AtomicUsize>,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            info: ModelInfo {
                name: "semilla".to_owned(),
                hash: "0123456789abcdef".to_owned(),
                context_length: CONTEXT_LENGTH,
                parameters: Some(7),
            },
            pause: Duration::ZERO,
            asked: Arc::default(),
            cancelled: Arc::default(),
            running: Arc::default(),
            most_running: Arc::default(),
        }
    }

    /// A model that takes its time and has room for a long text.
    pub(crate) fn slow(pause: Duration) -> Self {
        let mut script = Self::new();
        script.pause = pause;
        script.info.context_length = 1 << 20;
        script
    }

    pub(crate) fn last(&self) -> GenerateRequest {
        self.asked.lock().unwrap().last().expect("the model was asked").clone()
    }

    fn say(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let prompt_tokens = request.prompt.split_whitespace().count();
        if prompt_tokens + request.max_tokens > self.info.context_length {
            return Err(ModelError::TooLong {
                prompt_tokens,
                max_tokens: request.max_tokens,
                context_length: self.info.context_length,
            });
        }
        if request.prompt.starts_with("FALLA") {
            return Err(ModelError::Failed("the script says so".to_owned()));
        }
        assert!(!request.prompt.starts_with("PÁNICO"), "the script panics");
        let start = request.sampling.seed as usize;
        let mut text = String::new();
        for i in 0..request.max_tokens {
            std::thread::sleep(self.pause);
            let word = WORDS[(start + i) % WORDS.len()];
            if request.stop.iter().any(|stop| word.contains(stop.as_str())) {
                let finish_reason = FinishReason::Stop;
                return Ok(Generation {
                    text,
                    finish_reason,
                    prompt_tokens,
                    truncated_tokens: 0,
                    completion_tokens: i + 1,
                });
            }
            text.push_str(word);
            let choice = |word: &str, logprob| Choice {
                text: word.to_owned(),
                bytes: word.as_bytes().to_vec(),
                logprob,
            };
            let logprobs = request.logprobs.map(|top| {
                let others = [choice(word, -0.25), choice("otro", -2.0)];
                (choice(word, -0.25), others.into_iter().take(top).collect())
            });
            let piece = Piece { text: word.to_owned(), logprobs: logprobs.into_iter().collect() };
            if on_piece(&piece).is_break() {
                self.cancelled.fetch_add(1, SeqCst);
                let finish_reason = FinishReason::Cancelled;
                return Ok(Generation {
                    text,
                    finish_reason,
                    prompt_tokens,
                    truncated_tokens: 0,
                    completion_tokens: i + 1,
                });
            }
        }
        Ok(Generation {
            text,
            finish_reason: FinishReason::Length,
            prompt_tokens,
            truncated_tokens: 0,
            completion_tokens: request.max_tokens,
        })
    }
}

impl TextModel for Script {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        _: &[ScoreRequest],
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        Err(ModelError::Failed("not asked for in these tests".to_owned()))
    }

    fn score_rolling(
        &self,
        _: &[&str],
        _: milpa_base::RollingWindows,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        Err(ModelError::Failed("not asked for in these tests".to_owned()))
    }

    fn encoder(&self) -> Option<&dyn TextEncoder> {
        Some(self)
    }

    fn score_prompt(
        &self,
        prompt: &Prompt,
        alternatives: usize,
        with_next: bool,
    ) -> Result<PromptScores, ModelError> {
        let (texts, first): (Vec<String>, u32) = match prompt {
            Prompt::Text { text, .. } => {
                (text.split_inclusive(' ').map(str::to_owned).collect(), 0)
            }
            Prompt::Tokens(ids) => {
                (ids.iter().map(|&id| WORDS[id as usize % 4].to_owned()).collect(), ids[0])
            }
        };
        let choice = |text: &str, logprob| Choice {
            text: text.to_owned(),
            bytes: text.as_bytes().to_vec(),
            logprob,
        };
        let token = |(at, text): (usize, &String)| PromptToken {
            id: first + at as u32,
            bytes: text.as_bytes().to_vec(),
            logprob: (at > 0).then_some(-0.5 * at as f64),
            top: [choice("otro", -0.25)].into_iter().take(alternatives).collect(),
        };
        let next = if with_next { vec![choice("fin", -0.125)] } else { Vec::new() };
        Ok(PromptScores {
            tokens: texts.iter().enumerate().map(token).collect(),
            next,
            ends: false,
        })
    }

    fn generate_from_tokens(
        &self,
        tokens: &[u32],
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let prompt = format!("{tokens:?}");
        self.generate(&GenerateRequest { prompt, ..request.clone() }, on_piece)
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        self.asked.lock().unwrap().push(request.clone());
        let running = self.running.fetch_add(1, SeqCst) + 1;
        self.most_running.fetch_max(running, SeqCst);
        let outcome = self.say(request, on_piece);
        self.running.fetch_sub(1, SeqCst);
        outcome
    }
}

/// Tokens are words; their ids are their lengths in bytes.
impl TextEncoder for Script {
    fn encode_text(&self, text: &str, _: bool) -> Result<Vec<u32>, ModelError> {
        Ok(text.split_inclusive(' ').map(|word| word.len() as u32).collect())
    }

    fn bos(&self) -> Option<u32> {
        Some(1000)
    }

    fn start(&self) -> Option<u32> {
        Some(1000)
    }
}

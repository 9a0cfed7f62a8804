//! The endpoint's model as a [`TextModel`].
//!
//! Scores come from `/v1/completions` with `echo` and `logprobs`: of token ids where a tokenizer is
//! known (one given, or that of a Milpa server), which cuts context and continuation exactly as a
//! model here does; else of texts, cut where the endpoint says that tokens begin. Conversations
//! travel as messages, so that the endpoint's own chat template writes them. Several requests are
//! under way at a time; results come in the order of the requests.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
};

use milpa_base::{
    EndpointRecord, FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece,
    PromptTokens, RollingScore, RollingWindows, Score, ScoreRequest, TextEncoder, TextModel,
    encoding::{pair_tokens, prompt_tokens, rolling_windows, start_token},
};
use serde_json::{Value, json};

use crate::{
    config::{Api, EndpointConfig},
    error::ClientError,
    sender::{Sender, Unanswered},
    wire::{Answer, Ask, GenerationAsk, Input, Logprobs},
};

/// Texts whose tokens are remembered.
const MOST_TEXTS: usize = 4096;
/// Attempts at the first contact: a person waits, and may have mistyped the address.
const FIRST_ATTEMPTS: u32 = 2;
/// Names of models shown when none was chosen.
const NAMES_SHOWN: usize = 8;

/// A model behind an endpoint.
pub struct RemoteModel {
    info: ModelInfo,
    sender: Arc<Sender>,
    encoder: Option<Box<dyn TextEncoder>>,
    /// Whether `encoder` was given, rather than being the endpoint's own.
    has_own_encoder: bool,
    /// Whether prompts of one token more than the context are scored, as here.
    scores_one_more: bool,
    remarks: Vec<String>,
}

impl RemoteModel {
    /// Opens an endpoint: asks which models it has and what it says of the one that is meant.
    /// `encoder` is the model's own tokenizer, where it is at hand.
    ///
    /// # Errors
    /// Settings that make no sense, plain HTTP that was not checked is not among them
    /// ([`EndpointUrl::check_encrypted`](crate::EndpointUrl::check_encrypted)); an endpoint that
    /// cannot be reached or refuses the key; several models where none was named.
    pub fn connect(
        config: EndpointConfig,
        encoder: Option<Box<dyn TextEncoder>>,
    ) -> Result<Self, ClientError> {
        let url = config.url.clone();
        let mut sender = Sender::new(config)?;
        let mut remarks = Vec::new();
        let listed = match sender.ask_free(&url.join("models"), None, FIRST_ATTEMPTS) {
            Ok(list) => list.get("data").and_then(Value::as_array).cloned().unwrap_or_default(),
            // Some endpoints list nothing; the first question will tell more.
            Err(Unanswered::Missing(_) | Unanswered::Refused { .. }) => Vec::new(),
            Err(Unanswered::Failed(message)) => return Err(ClientError::Endpoint(message)),
        };
        let names: Vec<&str> =
            listed.iter().filter_map(|model| model.get("id")?.as_str()).collect();
        let model = match (&sender.config().model, names.as_slice()) {
            (Some(model), _) => model.clone(),
            (None, [only]) => (*only).to_owned(),
            (None, names) => {
                let models = match names {
                    [] => "no list of models".to_owned(),
                    names => shown(names),
                };
                return Err(ClientError::WhichModel { url: url.to_string(), models });
            }
        };
        if !names.is_empty() && !names.contains(&model.as_str()) {
            remarks.push(format!("{url} does not list {model}; it has {}", shown(&names)));
        }
        sender.set_model(&model)?;
        let described =
            listed.iter().find(|listed| listed.get("id").and_then(Value::as_str) == Some(&model));
        let whole = |value: Option<&Value>| value.and_then(Value::as_u64).map(|n| n as usize);
        let milpa = described.and_then(|described| described.get("milpa"));
        let told = whole(milpa.and_then(|milpa| milpa.get("context_length")))
            .or_else(|| whole(described.and_then(|described| described.get("max_model_len"))));
        let hash = milpa.and_then(|milpa| milpa.get("hash")?.as_str()).unwrap_or_default();
        let info = ModelInfo {
            // Weights that are known are the same everywhere; others are this endpoint's.
            name: if hash.is_empty() { format!("{model} at {}", url.authority()) } else { model },
            hash: hash.to_owned(),
            context_length: sender.config().context_length.or(told).unwrap_or(0),
            parameters: milpa.and_then(|milpa| milpa.get("parameters")?.as_u64()),
        };
        let sender = Arc::new(sender);
        let has_own_encoder = encoder.is_some();
        let id =
            |name: &str| milpa.and_then(|milpa| u32::try_from(milpa.get(name)?.as_u64()?).ok());
        let encoder = encoder.or_else(|| {
            // A Milpa server tells tokens, and what texts begin with.
            let start = id("start_token")?;
            let known = Mutex::default();
            let bos = id("bos_token");
            Some(Box::new(EndpointEncoder { sender: sender.clone(), bos, start, known }))
        });
        let scores_one_more = milpa.is_some();
        Ok(Self { info, sender, encoder, has_own_encoder, scores_one_more, remarks })
    }

    /// What a person should know before anything is asked.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The model's name at the endpoint.
    pub fn asked_model(&self) -> &str {
        self.config().model.as_deref().unwrap_or_default()
    }

    /// Changes the name that is shown to people.
    pub fn rename(&mut self, name: &str) {
        self.info.name = name.to_owned();
    }

    fn config(&self) -> &EndpointConfig {
        self.sender.config()
    }

    fn unavailable<T>(&self, capability: &'static str) -> Result<T, ModelError> {
        Err(ModelError::Unavailable { capability, model: self.info.name.clone() })
    }

    /// Runs `work` for each index, several at a time; results are in order. After a failure
    /// nothing new is begun.
    fn together<T: Send>(
        &self,
        count: usize,
        on_done: &mut dyn FnMut(usize),
        work: impl Fn(usize) -> Result<T, ModelError> + Sync,
    ) -> Result<Vec<T>, ModelError> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let mut results: Vec<Option<Result<T, ModelError>>> = (0..count).map(|_| None).collect();
        std::thread::scope(|scope| {
            for _ in 0..self.config().concurrency.min(count) {
                let sender = sender.clone();
                let (next, failed, work) = (&next, &failed, &work);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, SeqCst);
                        if index >= count || failed.load(SeqCst) {
                            return;
                        }
                        let result = work(index);
                        if result.is_err() {
                            failed.store(true, SeqCst);
                        }
                        if sender.send((index, result)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut done = 0;
            for (index, result) in receiver {
                results[index] = Some(result);
                done += 1;
                on_done(done);
            }
        });
        // Where several failed, the first in order is told. Without a failure all were begun.
        results.into_iter().flatten().collect()
    }

    /// Tokens that a prompt to be scored may have.
    fn most_scored(&self) -> Option<usize> {
        let context = Some(self.info.context_length).filter(|&length| length > 0)?;
        if self.scores_one_more {
            return Some(context + 1);
        }
        Some(context - usize::from(self.sender.quirks().one_token_more))
    }

    /// Log-probabilities of a prompt's own tokens.
    fn read_prompt(&self, input: Input) -> Result<(Logprobs, String), ModelError> {
        const NO_SCORES: &str = "scoring (the endpoint gives no log-probabilities of a prompt: \
             /v1/completions with echo and logprobs; use tasks that generate, or serve the model with \
             `milpa serve` or vLLM)";
        let count = match &input {
            Input::Tokens(tokens) => tokens.len(),
            _ => 1,
        };
        let is_tokens = matches!(input, Input::Tokens(_));
        let prompt = match &input {
            Input::Text(text) => text.clone(),
            _ => String::new(),
        };
        let ask = Ask { input, generation: None };
        let answer = match self.sender.ask(&ask) {
            Ok(answer) => answer,
            Err(Unanswered::Refused { message, .. })
                if message.contains("echo") || message.contains("logprobs") =>
            {
                return self.unavailable(NO_SCORES);
            }
            Err(error) => return Err(error.into()),
        };
        // What follows the prompt, if the endpoint had to write it, is not the prompt's.
        let Answer { logprobs: Some(mut logprobs), .. } = answer else {
            return self.unavailable(NO_SCORES);
        };
        let new = usize::from(logprobs.values.len() > count && self.sender.quirks().one_token_more);
        let own = logprobs.values.len() - new;
        let is_echo = if is_tokens { own == count } else { own > 0 };
        if !is_echo {
            return self.unavailable(NO_SCORES);
        }
        logprobs.values.truncate(own);
        logprobs.is_greedy.truncate(own);
        logprobs.offsets.truncate(own);
        Ok((logprobs, prompt))
    }

    fn score_one(&self, request: &ScoreRequest) -> Result<Score, ModelError> {
        if request.parse_special && !self.config().renders_chats {
            return self.unavailable(
                "scoring after a conversation (its text is known to the endpoint alone; give the model's \
                 tokenizer with its chat template: --tokenizer)",
            );
        }
        let Some(encoder) = &self.encoder else { return self.score_text(request) };
        let (mut tokens, length) = pair_tokens(&**encoder, request, &self.info.name)?;
        let most = self.most_scored().unwrap_or(usize::MAX);
        if length >= most {
            return Err(ModelError::TooLong {
                prompt_tokens: tokens.len() - length,
                max_tokens: length,
                context_length: self.info.context_length,
            });
        }
        let truncated_tokens = tokens.len().saturating_sub(most);
        tokens.drain(..truncated_tokens);
        if length == 0 {
            return Ok(Score { log_likelihood: 0.0, is_greedy: true, tokens: 0, truncated_tokens });
        }
        let start = tokens.len() - length;
        let (logprobs, _) = self.read_prompt(Input::Tokens(tokens))?;
        let (log_likelihood, is_greedy) = self.sum(&logprobs, start)?;
        Ok(Score { log_likelihood, is_greedy, tokens: length, truncated_tokens })
    }

    /// Scores a continuation without knowing tokens: it begins where the endpoint says that a token
    /// begins there; where none does, the context's tokens are counted alone.
    fn score_text(&self, request: &ScoreRequest) -> Result<Score, ModelError> {
        let context = request.context.trim_end();
        let whole = format!("{}{}", request.context, request.continuation);
        let (logprobs, prompt) = self.read_prompt(Input::Text(whole))?;
        let (begins, before) = self.offsets(&logprobs, &prompt)?;
        let at = context.chars().count() as u64;
        let mut start = begins.iter().position(|&begin| begin >= at).unwrap_or(begins.len());
        let is_clean = context.is_empty() || begins.get(start).is_none_or(|&begin| begin == at);
        if !is_clean {
            let (alone, _) = self.read_prompt(Input::Text(context.to_owned()))?;
            start = alone.values.len().min(begins.len()) - before;
        }
        let start = start + before;
        let (log_likelihood, is_greedy) = self.sum(&logprobs, start)?;
        let tokens = logprobs.values.len() - start;
        Ok(Score { log_likelihood, is_greedy, tokens, truncated_tokens: 0 })
    }

    /// Where the prompt's tokens begin, in characters, without those that the endpoint put before
    /// it; and how many these are (0 or 1).
    fn offsets(&self, logprobs: &Logprobs, prompt: &str) -> Result<(Vec<u64>, usize), ModelError> {
        let offsets = &logprobs.offsets;
        if offsets.is_empty() {
            return self.unavailable(
                "scoring without the model's tokens (the endpoint does not say where tokens begin; give \
                 its tokenizer: --tokenizer)",
            );
        }
        // BOS stands for nothing in the text; some endpoints count its name all the same.
        let is_part = !logprobs.first.is_empty() && prompt.starts_with(&logprobs.first);
        let before = usize::from(!is_part || offsets.get(1) == Some(&0));
        let shift = if before == 1 { offsets.get(1).copied().unwrap_or(0) } else { 0 };
        let begins = offsets[before..].iter().map(|offset| offset.saturating_sub(shift)).collect();
        Ok((begins, before))
    }

    /// The sum of log-probabilities from `start` on, and whether each was the most probable.
    fn sum(&self, logprobs: &Logprobs, start: usize) -> Result<(f64, bool), ModelError> {
        match logprobs.values[start..].iter().copied().sum::<Option<f64>>() {
            Some(sum) => Ok((sum, logprobs.is_greedy[start..].iter().all(|&greedy| greedy))),
            None => self.unavailable(
                "scoring from the start of a text (the endpoint puts no token before it; give the model's \
                 tokenizer: --tokenizer)",
            ),
        }
    }

    fn roll_one(&self, text: &str, windows: RollingWindows) -> Result<RollingScore, ModelError> {
        let bytes = text.len();
        let Some(encoder) = &self.encoder else {
            if text.is_empty() {
                return Ok(RollingScore { log_likelihood: 0.0, tokens: 0, bytes });
            }
            let (logprobs, prompt) = self.read_prompt(Input::Text(text.to_owned()))?;
            let (_, before) = self.offsets(&logprobs, &prompt)?;
            let (log_likelihood, _) = self.sum(&logprobs, before)?;
            return Ok(RollingScore {
                log_likelihood,
                tokens: logprobs.values.len() - before,
                bytes,
            });
        };
        let mut tokens = vec![start_token(&**encoder, &self.info.name)?];
        tokens.extend(encoder.encode_text(text, false)?);
        let Some(most) = self.most_scored() else {
            return self.unavailable(
                "scoring whole texts (the endpoint does not say how long a text may be; give --context-length)",
            );
        };
        let mut log_likelihood = 0.0;
        for (window, scored) in rolling_windows(windows, tokens.len(), most - 1) {
            let (logprobs, _) = self.read_prompt(Input::Tokens(tokens[window].to_vec()))?;
            log_likelihood += self.sum(&logprobs, scored.start)?.0;
        }
        Ok(RollingScore { log_likelihood, tokens: tokens.len() - 1, bytes })
    }

    /// What is sent for a prompt, and how many tokens were cut from its left for that.
    fn input(&self, request: &GenerateRequest) -> Result<(Input, usize), ModelError> {
        let config = self.config();
        let is_messages = request.parse_special && !config.renders_chats;
        if config.api == Api::Chat || (is_messages && config.api == Api::Auto) {
            let messages = if is_messages { read_messages(&request.prompt) } else { None };
            let user = || json!([{"role": "user", "content": request.prompt}]);
            return Ok((Input::Messages(messages.unwrap_or_else(user)), 0));
        }
        if is_messages {
            return self.unavailable(
                "a conversation over /v1/completions (its text is known to the endpoint alone; leave \
                 --api away, or give the model's tokenizer with its chat template: --tokenizer)",
            );
        }
        let as_text = || Ok((Input::Text(request.prompt.clone()), 0));
        let Some(encoder) = &self.encoder else { return as_text() };
        // A token stands for a byte at least, but for BOS and a space before the text.
        let surely_fits = request.prompt.len() + 2 + request.max_tokens <= self.info.context_length;
        let may_be_cut = request.truncate_prompt && self.info.context_length > 0 && !surely_fits;
        if !self.has_own_encoder && !may_be_cut {
            return as_text();
        }
        let name = &self.info.name;
        let mut tokens = prompt_tokens(&**encoder, &request.prompt, request.parse_special, name)?;
        let mut cut = 0;
        if may_be_cut && request.max_tokens < self.info.context_length {
            let most = self.info.context_length - request.max_tokens;
            cut = tokens.len().saturating_sub(most);
            tokens.drain(..cut);
        }
        Ok((Input::Tokens(tokens), cut))
    }

    fn generate_one(&self, request: &GenerateRequest) -> Result<Generation, ModelError> {
        if request.logprobs.is_some() {
            return self.unavailable("log-probabilities of generated tokens");
        }
        let generation = GenerationAsk {
            max_tokens: request.max_tokens,
            sampling: request.sampling,
            stop: request.stop.clone(),
        };
        let (input, truncated_tokens) = self.input(request)?;
        let ask = Ask { input, generation: Some(generation) };
        let answer = self.sender.ask(&ask)?;
        let mut text = answer.text;
        let mut finish_reason = match answer.finish_reason.as_str() {
            "length" => FinishReason::Length,
            "stop" | "" => FinishReason::Stop,
            other => {
                self.sender.problem(&format!("ended by {other}"));
                FinishReason::Stop
            }
        };
        // An endpoint may leave the stop text in, or pass over it.
        let stops = request.stop.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops.filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(at);
            finish_reason = FinishReason::Stop;
        }
        Ok(Generation {
            finish_reason,
            prompt_tokens: answer.prompt_tokens.unwrap_or_else(|| ask.prompt_estimate()) as usize,
            // What an endpoint cuts itself it does not say.
            truncated_tokens,
            completion_tokens: answer.completion_tokens.unwrap_or(text.len() as u64 / 3 + 1)
                as usize,
            text,
        })
    }
}

impl TextModel for RemoteModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        self.together(requests.len(), on_done, |index| self.score_one(&requests[index]))
    }

    fn score_rolling(
        &self,
        texts: &[&str],
        windows: RollingWindows,
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        self.together(texts.len(), on_done, |index| self.roll_one(texts[index], windows))
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let mut generation = self.generate_one(request)?;
        let piece = Piece { text: generation.text.clone(), logprobs: Vec::new() };
        if on_piece(&piece).is_break() {
            generation.finish_reason = FinishReason::Cancelled;
        }
        Ok(generation)
    }

    fn generate_many(
        &self,
        requests: &[GenerateRequest],
        is_stopped: &(dyn Fn() -> bool + Sync),
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Generation>, ModelError> {
        self.together(requests.len(), on_done, |index| {
            if is_stopped() {
                return Ok(Generation {
                    text: String::new(),
                    finish_reason: FinishReason::Cancelled,
                    prompt_tokens: 0,
                    truncated_tokens: 0,
                    completion_tokens: 0,
                });
            }
            self.generate_one(&requests[index])
        })
    }

    fn generates_together(&self) -> usize {
        // Many at a time keep all places taken; what is finished is remembered at once.
        self.config().concurrency * 16
    }

    fn endpoint(&self) -> Option<EndpointRecord> {
        Some(self.sender.record())
    }

    fn encoder(&self) -> Option<&dyn TextEncoder> {
        self.encoder.as_deref()
    }

    fn prompt_tokens(&self, prompt: &str, parse_special: bool) -> Result<PromptTokens, ModelError> {
        match &self.encoder {
            // Of a conversation the endpoint alone knows the text.
            Some(encoder) if !parse_special || self.config().renders_chats => {
                PromptTokens::describe(&**encoder, prompt, parse_special, &self.info.name)
            }
            _ => self.unavailable("the tokens of a prompt"),
        }
    }
}

/// A conversation as the prompt of a [`GenerateRequest`] with `parse_special`: pairs of role and
/// content, in JSON.
pub fn messages_prompt<'a>(messages: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let message = |(role, content)| json!({"role": role, "content": content});
    Value::Array(messages.into_iter().map(message).collect()).to_string()
}

fn read_messages(prompt: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(prompt).ok()?;
    let is_message = |item: &Value| {
        item.get("role").is_some_and(Value::is_string)
            && item.get("content").is_some_and(Value::is_string)
    };
    let fits = value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(is_message));
    fits.then_some(value)
}

fn shown(names: &[&str]) -> String {
    let first: Vec<&str> = names.iter().take(NAMES_SHOWN).copied().collect();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", first.join(", "))
}

/// The tokenizer of a Milpa server, asked over the wire; it costs nothing.
struct EndpointEncoder {
    sender: Arc<Sender>,
    bos: Option<u32>,
    start: u32,
    known: Mutex<HashMap<String, Vec<u32>>>,
}

impl TextEncoder for EndpointEncoder {
    fn encode_text(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, ModelError> {
        if parse_special {
            return Err(ModelError::BadRequest("special tokens are not read elsewhere".to_owned()));
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = known().get(text) {
            return Ok(tokens.clone());
        }
        let config = self.sender.config();
        let body = json!({"model": config.model, "prompt": text, "add_special_tokens": false});
        let answer =
            self.sender.ask_free(&config.url.beside("tokenize"), Some(&body), config.attempts)?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let tokens: Option<Vec<u32>> = answer
            .get("tokens")
            .and_then(Value::as_array)
            .and_then(|tokens| tokens.iter().map(id).collect());
        let tokens = tokens.ok_or_else(|| {
            ModelError::Failed("the endpoint's /tokenize gave no list of tokens".to_owned())
        })?;
        let mut known = known();
        if known.len() >= MOST_TEXTS {
            known.clear();
        }
        known.insert(text.to_owned(), tokens.clone());
        Ok(tokens)
    }

    fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn start(&self) -> Option<u32> {
        Some(self.start)
    }
}

//! Generation: prompt, cache, draw, and text handed over as soon as it is certain.
//!
//! A stop text may begin in one token and end in another, and a character may be spread over
//! several: text that could still become part of either is held back.

use std::ops::ControlFlow;

use milpa_base::{
    Choice, FinishReason, GenerateRequest, Generation, ModelError, Piece, Prompt, PromptScores,
    PromptToken, encoding::prompt_tokens,
};
use milpa_tensor::{KvCache, Tape};
use milpa_tokens::Utf8Stream;

use crate::{
    decoder::TokenBatch,
    error::DecoderError,
    local::LocalModel,
    sample::{Sampler, log_softmax},
};

/// Tokens of a prompt that are computed together.
const PREFILL_TOKENS: usize = 512;
/// Tokens whose logits over the whole vocabulary are in memory together.
const SCORED_TOKENS: usize = 64;
/// Longest stop text and most stop texts of a request.
const MAX_STOP_BYTES: usize = 4096;
const MAX_STOPS: usize = 64;

/// Continues a prompt.
pub(crate) fn generate(
    model: &LocalModel,
    request: &GenerateRequest,
    on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
) -> Result<Generation, ModelError> {
    generate_from(model, prompt_of(model, request)?, request, on_piece)
}

/// Continues a prompt's tokens.
pub(crate) fn generate_from(
    model: &LocalModel,
    prompt: Vec<u32>,
    request: &GenerateRequest,
    on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
) -> Result<Generation, ModelError> {
    let mut continuations = vec![Continuation::new(model, prompt, request)?];
    in_step(model, &mut continuations, on_piece)?;
    Ok(continuations.remove(0).into_generation())
}

/// Continues prompts of one length, a token of each at a time.
pub(crate) fn generate_batch(
    model: &LocalModel,
    requests: &[GenerateRequest],
    is_stopped: &dyn Fn() -> bool,
) -> Result<Vec<Generation>, ModelError> {
    let mut continuations = Vec::with_capacity(requests.len());
    for request in requests {
        continuations.push(Continuation::new(model, prompt_of(model, request)?, request)?);
    }
    let lengths = continuations.iter().map(|continuation| continuation.prompt.len());
    if let (Some(shortest), Some(longest)) = (lengths.clone().min(), lengths.max())
        && shortest != longest
    {
        return Err(ModelError::BadRequest(format!(
            "prompts of a batch have the same number of tokens, these have {shortest} to {longest}"
        )));
    }
    in_step(model, &mut continuations, &mut |_| {
        if is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(continuations.into_iter().map(Continuation::into_generation).collect())
}

fn prompt_of(model: &LocalModel, request: &GenerateRequest) -> Result<Vec<u32>, ModelError> {
    prompt_tokens(model.tokenizer(), &request.prompt, request.parse_special, model.name())
}

/// Draws a token for each continuation, feeds them together, and so on until the last one has ended.
/// Their prompts have the same length.
fn in_step(
    model: &LocalModel,
    continuations: &mut [Continuation<'_>],
    on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
) -> Result<(), ModelError> {
    let Some(first) = continuations.first() else { return Ok(()) };
    let longest = continuations.iter().map(|of| of.request.max_tokens).max().unwrap_or_default();
    if longest == 0 {
        return Ok(());
    }
    let capacity = first.prompt.len() + longest;
    let mut state = Decoding::new(model, continuations.len(), capacity);
    let mut tokens_bt: Vec<u32> =
        continuations.iter().flat_map(|continuation| &continuation.prompt).copied().collect();
    loop {
        let mut logits_bv = state.feed(&tokens_bt)?;
        let vocab_size = logits_bv.len() / continuations.len();
        tokens_bt.clear();
        for (continuation, logits) in
            continuations.iter_mut().zip(logits_bv.chunks_exact_mut(vocab_size))
        {
            tokens_bt.push(continuation.advance(model, logits, on_piece));
        }
        if continuations.iter().all(|continuation| continuation.finish_reason.is_some()) {
            return Ok(());
        }
    }
}

/// A prompt and what is written after it.
struct Continuation<'a> {
    request: &'a GenerateRequest,
    prompt: Vec<u32>,
    /// Tokens cut from the prompt's beginning.
    truncated: usize,
    sampler: Sampler,
    writer: Writer<'a>,
    /// Tokens drawn.
    drawn: usize,
    finish_reason: Option<FinishReason>,
}

impl<'a> Continuation<'a> {
    fn new(
        model: &LocalModel,
        mut prompt: Vec<u32>,
        request: &'a GenerateRequest,
    ) -> Result<Self, ModelError> {
        check_ids(model, &prompt)?;
        let description = model.description();
        let room = description.context_length.saturating_sub(request.max_tokens);
        let cut =
            if request.truncate_prompt && room > 0 { prompt.len().saturating_sub(room) } else { 0 };
        prompt.drain(..cut);
        check(model, request, prompt.len())?;
        let sampler = Sampler::new(request.sampling, description.vocab_size, &prompt)?;
        Ok(Self {
            request,
            prompt,
            truncated: cut,
            sampler,
            writer: Writer::new(request),
            drawn: 0,
            finish_reason: (request.max_tokens == 0).then_some(FinishReason::Length),
        })
    }

    /// Draws from the logits of the next token and writes it; after the end nothing happens. The token
    /// is what the model is fed next: after the end it only fills its place in the batch.
    fn advance(
        &mut self,
        model: &LocalModel,
        logits: &mut [f32],
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> u32 {
        if self.finish_reason.is_some() {
            return self.prompt[0];
        }
        let plain = self.request.logprobs.map(|_| log_softmax(logits));
        // Ids without a token pad the vocabulary; they are never chosen.
        let allowed = model.tokenizer().vocab_size().min(logits.len());
        let token = self.sampler.draw(logits, allowed);
        self.drawn += 1;
        if model.tokenizer().stop_ids().contains(&token) {
            self.finish(FinishReason::Stop, on_piece);
            return token;
        }
        let entry =
            plain.zip(self.request.logprobs).map(|(plain, n)| entry(model, &plain, token, n));
        let bytes = model.tokenizer().token_bytes(token).unwrap_or_default();
        match self.writer.push(bytes, entry, on_piece) {
            Step::Continue if self.drawn == self.request.max_tokens => {
                self.finish(FinishReason::Length, on_piece);
            }
            Step::Continue => {}
            Step::Stopped => self.finish_reason = Some(FinishReason::Stop),
            Step::Cancelled => self.finish_reason = Some(FinishReason::Cancelled),
        }
        token
    }

    /// Hands over what was held back.
    fn finish(
        &mut self,
        reason: FinishReason,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) {
        let flow = self.writer.finish(on_piece);
        self.finish_reason = Some(if flow.is_break() { FinishReason::Cancelled } else { reason });
    }

    fn into_generation(self) -> Generation {
        Generation {
            text: self.writer.text,
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Length),
            prompt_tokens: self.prompt.len(),
            truncated_tokens: self.truncated,
            completion_tokens: self.drawn,
        }
    }
}

/// Log-probabilities over the vocabulary for the token after `context`.
pub(crate) fn next_token_logprobs(
    model: &LocalModel,
    context: &str,
) -> Result<Vec<f32>, ModelError> {
    let mut tokens = prompt_tokens(model.tokenizer(), context, false, model.name())?;
    let cut = tokens.len().saturating_sub(model.description().context_length);
    tokens.drain(..cut);
    let logits = Decoding::new(model, 1, tokens.len()).feed(&tokens)?;
    Ok(log_softmax(&logits).into_iter().map(|value| value as f32).collect())
}

/// Log-probabilities of a prompt's tokens, and the most probable tokens after it.
///
/// A prompt of one token more than the context is taken where nothing is asked after it.
pub(crate) fn score_prompt(
    model: &LocalModel,
    prompt: &Prompt,
    alternatives: usize,
    with_next: bool,
) -> Result<PromptScores, ModelError> {
    let tokens = match prompt {
        Prompt::Text { text, parse_special } => {
            prompt_tokens(model.tokenizer(), text, *parse_special, model.name())?
        }
        Prompt::Tokens(tokens) => tokens.clone(),
    };
    check_ids(model, &tokens)?;
    let context_length = model.description().context_length;
    let inputs = &tokens[..tokens.len() - usize::from(!with_next)];
    if inputs.len() > context_length {
        let (prompt_tokens, max_tokens) = (tokens.len(), usize::from(with_next));
        return Err(ModelError::TooLong { prompt_tokens, max_tokens, context_length });
    }
    let token = |&id: &u32| PromptToken {
        id,
        bytes: model.tokenizer().token_bytes(id).unwrap_or_default().to_vec(),
        logprob: None,
        top: Vec::new(),
    };
    let mut scores =
        PromptScores { tokens: tokens.iter().map(token).collect(), next: Vec::new(), ends: false };
    let mut state = Decoding::new(model, 1, inputs.len().max(1));
    for (part, start) in inputs.chunks(SCORED_TOKENS).zip((0..).step_by(SCORED_TOKENS)) {
        let logits = state.feed_all(part)?;
        let vocab_size = logits.len() / part.len();
        for (row, at) in logits.chunks(vocab_size).zip(start + 1..) {
            let row = log_softmax(row);
            if let Some(token) = scores.tokens.get_mut(at) {
                token.logprob = Some(row[token.id as usize]);
                token.top = most_probable(model, &row, alternatives);
            } else {
                scores.next = most_probable(model, &row, alternatives.max(1));
                let first = ranked(&row, 1)[0];
                scores.ends = model.tokenizer().stop_ids().contains(&first);
            }
        }
    }
    Ok(scores)
}

/// Refuses tokens that the model does not have, and a prompt without any.
fn check_ids(model: &LocalModel, tokens: &[u32]) -> Result<(), ModelError> {
    let vocab_size = model.description().vocab_size;
    if tokens.is_empty() {
        return Err(ModelError::BadRequest("the prompt has no token".to_owned()));
    }
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        Some(token) => Err(ModelError::BadRequest(format!(
            "there is no token {token}: this model has {vocab_size}; use its own tokenizer"
        ))),
        None => Ok(()),
    }
}

fn check(
    model: &LocalModel,
    request: &GenerateRequest,
    prompt_tokens: usize,
) -> Result<(), ModelError> {
    let context_length = model.description().context_length;
    if prompt_tokens.saturating_add(request.max_tokens) > context_length {
        let max_tokens = request.max_tokens;
        return Err(ModelError::TooLong { prompt_tokens, max_tokens, context_length });
    }
    if request.stop.len() > MAX_STOPS {
        let message = format!("{} stop texts; at most {MAX_STOPS}", request.stop.len());
        return Err(ModelError::BadRequest(message));
    }
    if request.stop.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        let message = format!("a stop text must have 1 to {MAX_STOP_BYTES} bytes");
        return Err(ModelError::BadRequest(message));
    }
    Ok(())
}

/// Sequences of equal length in the making.
struct Decoding<'a> {
    model: &'a LocalModel,
    cache: KvCache,
}

impl<'a> Decoding<'a> {
    fn new(model: &'a LocalModel, sequences: usize, capacity: usize) -> Self {
        let cache = model.decoder().new_cache(model.device(), sequences, capacity);
        Self { model, cache }
    }

    /// Appends as many tokens to each sequence and returns the logits after the last ones,
    /// `[sequences, vocabulary]`.
    fn feed(&mut self, tokens_bt: &[u32]) -> Result<Vec<f32>, DecoderError> {
        let (decoder, parameters) = (self.model.decoder(), self.model.parameters());
        let tape = Tape::inference(self.model.device().clone());
        let sequences = self.cache.batch();
        let tokens = tokens_bt.len() / sequences;
        let step = (PREFILL_TOKENS / sequences).max(1);
        let mut last = None;
        for start in (0..tokens).step_by(step) {
            let count = step.min(tokens - start);
            let part_bt: Vec<u32> = tokens_bt
                .chunks_exact(tokens)
                .flat_map(|sequence| &sequence[start..start + count])
                .copied()
                .collect();
            let batch = TokenBatch::new(&part_bt, count);
            let x_btd = decoder.forward_cached(&tape, parameters, &batch, &mut self.cache)?;
            last = Some((x_btd, count));
        }
        let (x_btd, count) = last.expect("a prompt has at least one token");
        let rows: Vec<u32> = (1..=sequences).map(|end| (end * count) as u32 - 1).collect();
        let logits_bv = decoder.logits(&tape, parameters, &x_btd, &rows)?;
        Ok(tape.read(&logits_bv))
    }

    /// Appends tokens to the one sequence and returns the logits after each of them,
    /// `[tokens, vocabulary]`.
    fn feed_all(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DecoderError> {
        let (decoder, parameters) = (self.model.decoder(), self.model.parameters());
        let tape = Tape::inference(self.model.device().clone());
        let batch = TokenBatch::new(tokens, tokens.len());
        let x_btd = decoder.forward_cached(&tape, parameters, &batch, &mut self.cache)?;
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let logits_nv = decoder.logits(&tape, parameters, &x_btd, &rows)?;
        Ok(tape.read(&logits_nv))
    }
}

/// The chosen token and the `count` most probable ones.
fn entry(
    model: &LocalModel,
    log_probabilities: &[f64],
    token: u32,
    count: usize,
) -> (Choice, Vec<Choice>) {
    let chosen = choice(model, log_probabilities, token);
    (chosen, most_probable(model, log_probabilities, count))
}

fn choice(model: &LocalModel, log_probabilities: &[f64], token: u32) -> Choice {
    let bytes = model.tokenizer().token_bytes(token).unwrap_or_default();
    let text = String::from_utf8_lossy(bytes).into_owned();
    Choice { text, bytes: bytes.to_vec(), logprob: log_probabilities[token as usize] }
}

/// The `count` most probable tokens, most probable first.
fn most_probable(model: &LocalModel, log_probabilities: &[f64], count: usize) -> Vec<Choice> {
    let tokens = ranked(log_probabilities, count);
    tokens.into_iter().map(|token| choice(model, log_probabilities, token)).collect()
}

/// The `count` most probable ids, most probable first; of equal ones the lower first.
fn ranked(log_probabilities: &[f64], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let mut order: Vec<u32> = (0..log_probabilities.len() as u32).collect();
    let rank = |a: &u32, b: &u32| {
        log_probabilities[*b as usize].total_cmp(&log_probabilities[*a as usize]).then(a.cmp(b))
    };
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, rank);
    }
    order.truncate(count);
    order.sort_unstable_by(rank);
    order
}

enum Step {
    Continue,
    Stopped,
    Cancelled,
}

/// Turns bytes into pieces of text, and finds stop texts.
struct Writer<'a> {
    stops: &'a [String],
    utf8: Utf8Stream,
    /// Handed over.
    text: String,
    /// Certain as text, but perhaps the beginning of a stop text.
    held: String,
    /// Entries of tokens not handed over yet.
    entries: Vec<(Choice, Vec<Choice>)>,
}

impl<'a> Writer<'a> {
    fn new(request: &'a GenerateRequest) -> Self {
        Self {
            stops: &request.stop,
            utf8: Utf8Stream::default(),
            text: String::new(),
            held: String::new(),
            entries: Vec::new(),
        }
    }

    /// Takes a token's bytes.
    fn push(
        &mut self,
        bytes: &[u8],
        entry: Option<(Choice, Vec<Choice>)>,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Step {
        self.entries.extend(entry);
        self.held.push_str(&self.utf8.push(bytes));
        if let Some(at) = self.find_stop() {
            self.held.truncate(at);
            return match self.hand_over(self.held.len(), on_piece) {
                ControlFlow::Continue(()) => Step::Stopped,
                ControlFlow::Break(()) => Step::Cancelled,
            };
        }
        let certain = self.held.len() - self.doubtful();
        if certain == 0 {
            return Step::Continue;
        }
        match self.hand_over(certain, on_piece) {
            ControlFlow::Continue(()) => Step::Continue,
            ControlFlow::Break(()) => Step::Cancelled,
        }
    }

    /// Hands over all that is left: nothing can follow any more.
    fn finish(&mut self, on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>) -> ControlFlow<()> {
        let rest = self.utf8.finish();
        self.held.push_str(&rest);
        if let Some(at) = self.find_stop() {
            self.held.truncate(at);
        }
        self.hand_over(self.held.len(), on_piece)
    }

    /// Where the first stop text in the held text begins.
    fn find_stop(&self) -> Option<usize> {
        self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min()
    }

    /// Length of the longest end of the held text with which a stop text begins.
    fn doubtful(&self) -> usize {
        let ends = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        ends.filter(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }

    fn hand_over(
        &mut self,
        length: usize,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let text: String = self.held.drain(..length).collect();
        let logprobs = std::mem::take(&mut self.entries);
        if text.is_empty() && logprobs.is_empty() {
            return ControlFlow::Continue(());
        }
        self.text.push_str(&text);
        on_piece(&Piece { text, logprobs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milpa_base::Sampling;

    /// Pushes pieces of bytes; returns the texts handed over, the last one after finishing.
    fn check(stops: &[&str], pushed: &[&[u8]], expect: &[&str]) {
        let request = GenerateRequest {
            prompt: String::new(),
            parse_special: false,
            truncate_prompt: false,
            max_tokens: 0,
            sampling: Sampling::default(),
            stop: stops.iter().map(|&stop| stop.to_owned()).collect(),
            logprobs: None,
        };
        let mut pieces = Vec::new();
        let mut on_piece = |piece: &Piece| {
            pieces.push(piece.text.clone());
            ControlFlow::Continue(())
        };
        let mut writer = Writer::new(&request);
        let stopped = pushed
            .iter()
            .any(|bytes| matches!(writer.push(bytes, None, &mut on_piece), Step::Stopped));
        if !stopped {
            let _ = writer.finish(&mut on_piece);
        }
        assert_eq!(pieces, expect, "{stops:?} {pushed:?}");
    }

    #[test]
    fn text_is_handed_over_when_it_is_certain() {
        check(&[], &[b"ma", "í".as_bytes(), b"z"], &["ma", "í", "z"]);
        check(&[], &[b"ma\xc3", b"\xadz"], &["ma", "íz"]);
        check(&[], &[b"a\xc3"], &["a", "\u{fffd}"]);
        check(&["\n\n"], &[b"a\n", b"b\n", b"\nc"], &["a", "\nb"]);
        check(&["fin", "ñu"], &[b"el f", b"ui", b" fi", b"n."], &["el ", "fui", " "]);
        check(&["abcd"], &[b"abc", b"x", b"ab"], &["abcx", "ab"]);
        check(&["ab", "b"], &[b"xab"], &["x"]);
    }

    #[test]
    fn the_receiver_can_break_off() {
        let request = GenerateRequest {
            prompt: String::new(),
            parse_special: false,
            truncate_prompt: false,
            max_tokens: 0,
            sampling: Sampling::default(),
            stop: Vec::new(),
            logprobs: None,
        };
        let mut on_piece = |_: &Piece| ControlFlow::Break(());
        let mut writer = Writer::new(&request);
        assert!(matches!(writer.push(b"a", None, &mut on_piece), Step::Cancelled));
    }
}

//! Scoring of texts: continuations after contexts, and whole texts in windows.
//!
//! Rows of similar length are computed together, padded on the right; causal attention keeps the
//! padding out of every score. Continuations of one context (the options of a question) share its
//! computation through a cache. Logits are computed only where a token is scored. Results come
//! back in the order of the requests.

use std::{collections::BTreeMap, ops::Range};

use milpa_base::{
    ModelError, RollingScore, RollingWindows, Score, ScoreRequest,
    encoding::{pair_tokens, rolling_windows, start_token},
};
use milpa_tensor::{RowScores, Tape};

use crate::{decoder::TokenBatch, error::DecoderError, local::LocalModel};

/// Tokens, padding included, that are computed together at most (one row may be longer).
const BATCH_TOKENS: usize = 4096;
/// Tokens of a context that are computed together.
const CONTEXT_TOKENS: usize = 1024;
/// Shorter contexts are not shared: computing them again costs less than small batches do.
const MIN_SHARED_TOKENS: usize = 16;

/// A row to be scored: `tokens` is input and target, one apart.
struct Row {
    /// What the row belongs to.
    owner: usize,
    tokens: Vec<u32>,
    /// Which of `tokens` count (never the first).
    scored: Range<usize>,
}

/// The scored tokens of a row.
struct RowResult {
    log_likelihood: f64,
    is_greedy: bool,
}

/// Scores continuations after their contexts.
///
/// [`pair_tokens`] says where the continuation begins. A text that is too long loses tokens on its
/// left.
pub(crate) fn score(
    model: &LocalModel,
    requests: &[ScoreRequest],
    on_done: &mut dyn FnMut(usize),
) -> Result<Vec<Score>, ModelError> {
    let mut scores = Vec::with_capacity(requests.len());
    let mut rows = Vec::new();
    for (owner, request) in requests.iter().enumerate() {
        let (mut tokens, length) = pair_tokens(model.tokenizer(), request, model.name())?;
        let most = model.description().context_length + 1;
        if length >= most {
            return Err(ModelError::TooLong {
                prompt_tokens: tokens.len() - length,
                max_tokens: length,
                context_length: most - 1,
            });
        }
        let truncated_tokens = tokens.len().saturating_sub(most);
        tokens.drain(..truncated_tokens);
        let scored = tokens.len() - length..tokens.len();
        scores.push(Score {
            log_likelihood: 0.0,
            is_greedy: true,
            tokens: length,
            truncated_tokens,
        });
        rows.push(Row { owner, tokens, scored });
    }
    let mut done = 0;
    let mut on_row = |row: &Row, result: RowResult| {
        scores[row.owner].log_likelihood = result.log_likelihood;
        scores[row.owner].is_greedy = result.is_greedy;
        done += 1;
        on_done(done);
    };
    let (alone, families) = families(rows);
    for family in families {
        for (row, result) in family.iter().zip(score_family(model, &family)?) {
            on_row(row, result);
        }
    }
    score_rows(model, alone, &mut on_row)?;
    Ok(scores)
}

/// Separates the rows that share their context with another, one list for each such context.
fn families(rows: Vec<Row>) -> (Vec<Row>, Vec<Vec<Row>>) {
    let mut by_context: BTreeMap<Vec<u32>, Vec<Row>> = BTreeMap::new();
    let mut alone = Vec::new();
    for row in rows {
        if row.scored.is_empty() || row.scored.start < MIN_SHARED_TOKENS {
            alone.push(row);
        } else {
            let context = row.tokens[..row.scored.start].to_vec();
            by_context.entry(context).or_default().push(row);
        }
    }
    let (families, single): (Vec<_>, Vec<_>) =
        by_context.into_values().partition(|rows| rows.len() > 1);
    alone.extend(single.into_iter().flatten());
    // Order matters to sums of batches: it is that of the requests.
    alone.sort_by_key(|row| row.owner);
    (alone, families)
}

/// Scores rows that have the same tokens before their scored ones.
fn score_family(model: &LocalModel, rows: &[Row]) -> Result<Vec<RowResult>, DecoderError> {
    let (decoder, parameters) = (model.decoder(), model.parameters());
    let tape = Tape::inference(model.device().clone());
    let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(1);
    let mut cache = decoder.new_cache(model.device(), 1, longest - 1);
    let context = &rows[0].tokens[..rows[0].scored.start];
    let mut last_1d = None;
    for part in context.chunks(CONTEXT_TOKENS) {
        let batch = TokenBatch::new(part, part.len());
        let x_btd = decoder.forward_cached(&tape, parameters, &batch, &mut cache)?;
        last_1d = Some(tape.select_rows(&x_btd, &[part.len() as u32 - 1])?);
    }
    let last_1d = last_1d.ok_or_else(|| DecoderError::Batch("a context is empty".to_owned()))?;
    // The context's last row predicts the first token of every continuation.
    let firsts: Vec<u32> = rows.iter().map(|row| row.tokens[context.len()]).collect();
    let first_nd = tape.select_rows(&last_1d, &vec![0; rows.len()])?;
    let firsts = decoder.score_hidden(&tape, parameters, &first_nd, &firsts)?;
    let mut results = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let continuation = &row.tokens[context.len()..];
        let mut result = RowResult {
            log_likelihood: f64::from(firsts.log_probabilities[index]),
            is_greedy: firsts.is_greedy[index],
        };
        if let Some((_, inputs)) = continuation.split_last().filter(|(_, rest)| !rest.is_empty()) {
            cache.truncate(context.len());
            let batch = TokenBatch::new(inputs, inputs.len());
            let x_btd = decoder.forward_cached(&tape, parameters, &batch, &mut cache)?;
            let rest = decoder.score_hidden(&tape, parameters, &x_btd, &continuation[1..])?;
            result.add(&rest, 0..inputs.len());
        }
        results.push(result);
    }
    Ok(results)
}

impl RowResult {
    /// Adds tokens scored as rows `range`.
    fn add(&mut self, scores: &RowScores, range: Range<usize>) {
        let log_probabilities = &scores.log_probabilities[range.clone()];
        self.log_likelihood += log_probabilities.iter().map(|&p| f64::from(p)).sum::<f64>();
        self.is_greedy &= scores.is_greedy[range].iter().all(|&greedy| greedy);
    }
}

/// Scores whole texts.
///
/// A text begins after the tokenizer's start token (BOS, or EOS where there is none), as documents
/// do in training. Windows are `context_length` tokens long and begin half of that apart: the first
/// scores all its tokens, each later one the half that is new, so that every token is predicted
/// once, with at least half a window of context where the text has it.
pub(crate) fn score_rolling(
    model: &LocalModel,
    texts: &[&str],
    windows: RollingWindows,
    on_done: &mut dyn FnMut(usize),
) -> Result<Vec<RollingScore>, ModelError> {
    let start = start_token(model.tokenizer(), model.name())?;
    let (mut scores, mut rows, mut windows_left) = (Vec::new(), Vec::new(), Vec::new());
    for (owner, text) in texts.iter().enumerate() {
        let mut tokens = vec![start];
        model.tokenizer().encode_into(text, &mut tokens);
        scores.push(RollingScore {
            log_likelihood: 0.0,
            tokens: tokens.len() - 1,
            bytes: text.len(),
        });
        let context = model.description().context_length;
        let windows = rolling_windows(windows, tokens.len(), context);
        windows_left.push(windows.len());
        rows.extend(windows.into_iter().map(|(window, scored)| Row {
            owner,
            tokens: tokens[window].to_vec(),
            scored,
        }));
    }
    let mut done = windows_left.iter().filter(|&&left| left == 0).count();
    on_done(done);
    // Floating-point sums depend on their order: windows are added in the order of the text.
    let mut parts: Vec<Vec<(usize, f64)>> = vec![Vec::new(); texts.len()];
    let order: Vec<usize> = (0..rows.len()).collect();
    let mut indexed: Vec<Row> = rows;
    let owners: Vec<usize> = indexed.iter().map(|row| row.owner).collect();
    indexed.iter_mut().zip(order).for_each(|(row, index)| row.owner = index);
    score_rows(model, indexed, &mut |row, result| {
        let owner = owners[row.owner];
        parts[owner].push((row.owner, result.log_likelihood));
        windows_left[owner] -= 1;
        if windows_left[owner] == 0 {
            done += 1;
            on_done(done);
        }
    })?;
    for (score, mut parts) in scores.iter_mut().zip(parts) {
        parts.sort_unstable_by_key(|(index, _)| *index);
        score.log_likelihood = parts.iter().map(|(_, part)| part).sum();
    }
    Ok(scores)
}

/// Scores rows, similar lengths together; longest first, so that memory is asked for once.
fn score_rows(
    model: &LocalModel,
    mut rows: Vec<Row>,
    on_row: &mut dyn FnMut(&Row, RowResult),
) -> Result<(), ModelError> {
    rows.sort_by_key(|row| std::cmp::Reverse(row.tokens.len()));
    let (trivial, rows): (Vec<Row>, Vec<Row>) =
        rows.into_iter().partition(|row| row.scored.is_empty());
    for row in &trivial {
        on_row(row, RowResult { log_likelihood: 0.0, is_greedy: true });
    }
    let mut rest = &rows[..];
    while let Some(first) = rest.first() {
        let tokens = first.tokens.len() - 1;
        let together = (BATCH_TOKENS / tokens).clamp(1, rest.len());
        let (batch, after) = rest.split_at(together);
        rest = after;
        for (row, result) in batch.iter().zip(score_batch(model, batch, tokens)?) {
            on_row(row, result);
        }
    }
    Ok(())
}

fn score_batch(
    model: &LocalModel,
    rows: &[Row],
    tokens: usize,
) -> Result<Vec<RowResult>, DecoderError> {
    let mut inputs = vec![0; rows.len() * tokens];
    // Which rows of the batch predict a scored token, and which token.
    let (mut chosen, mut targets) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        let start = index * tokens;
        let last = row.tokens.len() - 1;
        inputs[start..start + last].copy_from_slice(&row.tokens[..last]);
        chosen.extend(row.scored.clone().map(|at| (start + at - 1) as u32));
        targets.extend_from_slice(&row.tokens[row.scored.clone()]);
    }
    let (decoder, parameters) = (model.decoder(), model.parameters());
    let tape = Tape::inference(model.device().clone());
    let x_btd = decoder.forward_hidden(&tape, parameters, &TokenBatch::new(&inputs, tokens))?;
    let x_nd = tape.select_rows(&x_btd, &chosen)?;
    drop(x_btd);
    let scores = decoder.score_hidden(&tape, parameters, &x_nd, &targets)?;
    let mut begin = 0;
    let results = rows.iter().map(|row| {
        let range = begin..begin + row.scored.len();
        begin = range.end;
        let mut result = RowResult { log_likelihood: 0.0, is_greedy: true };
        result.add(&scores, range);
        result
    });
    Ok(results.collect())
}

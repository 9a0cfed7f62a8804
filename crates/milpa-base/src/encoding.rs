//! How texts become the tokens that are scored, the same for a model here and one elsewhere.
//!
//! [`TextEncoder`] is what is asked of a tokenizer; [`pair_tokens`] cuts a context and its
//! continuation as the LM Evaluation Harness does; [`overlapping_windows`] and
//! [`disjoint_windows`] cut texts that are longer than a model takes. It knows no tokenizer.

use std::ops::Range;

use crate::text_model::{ModelError, PromptTokens, RollingWindows, ScoreRequest};

/// Turns text into token ids.
pub trait TextEncoder: Send + Sync {
    /// The tokens of `text` without any that begin a sequence; special tokens spelled in it are
    /// read as such only if `parse_special` is set.
    ///
    /// # Errors
    /// An encoder elsewhere that does not answer.
    fn encode_text(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, ModelError>;

    /// The token that every sequence begins with, if there is one.
    fn bos(&self) -> Option<u32>;

    /// The token that a text is scored after: BOS, or what ends a document.
    fn start(&self) -> Option<u32>;
}

/// Tokens of a request and the number of them that belong to the continuation.
///
/// Context and continuation are encoded together and cut after as many tokens as the context has by
/// itself; spaces at the context's end go to the continuation. So does the LM Evaluation Harness, also
/// where a token spans the cut (`?` before a line's end, say): what the context's last token lacks of it
/// is then not scored. A continuation that would be left without tokens is encoded apart. An empty
/// context is the start token.
///
/// # Errors
/// An empty context where there is no start token, and what the encoder says; `model` is named.
pub fn pair_tokens(
    encoder: &dyn TextEncoder,
    request: &ScoreRequest,
    model: &str,
) -> Result<(Vec<u32>, usize), ModelError> {
    let context = request.context.trim_end();
    let encode = |text: &str| encoder.encode_text(text, request.parse_special);
    let encoded = encode(context)?;
    let mut tokens = Vec::new();
    if context.is_empty() {
        tokens.push(start_token(encoder, model)?);
    } else {
        // A chat template may have written it already.
        tokens.extend(encoder.bos().filter(|bos| encoded.first() != Some(bos)));
    }
    let prefix = tokens.len();
    tokens.extend(encoded);
    let cut = tokens.len();
    let whole = encode(&format!("{}{}", request.context, request.continuation))?;
    if let Some(continuation @ [_, ..]) = whole.get(cut - prefix..) {
        tokens.extend_from_slice(continuation);
    } else {
        let tail = format!("{}{}", &request.context[context.len()..], request.continuation);
        tokens.extend(encoder.encode_text(&tail, false)?);
    }
    let length = tokens.len() - cut;
    Ok((tokens, length))
}

/// The tokens of a prompt: after BOS if there is one; the start token alone for no text.
///
/// # Errors
/// No text where there is no start token, and what the encoder says; `model` is named.
pub fn prompt_tokens(
    encoder: &dyn TextEncoder,
    prompt: &str,
    parse_special: bool,
    model: &str,
) -> Result<Vec<u32>, ModelError> {
    let mut tokens = encoder.encode_text(prompt, parse_special)?;
    match encoder.bos() {
        // A chat template may have written it already.
        Some(bos) if tokens.first() != Some(&bos) => tokens.insert(0, bos),
        None if tokens.is_empty() => tokens.push(start_token(encoder, model)?),
        _ => {}
    }
    Ok(tokens)
}

/// How many tokens at either end of a prompt are told.
const TOKENS_SHOWN: usize = 4;

impl PromptTokens {
    /// Says how a model with this encoder reads a prompt.
    ///
    /// # Errors
    /// Those of [`prompt_tokens`].
    pub fn describe(
        encoder: &dyn TextEncoder,
        prompt: &str,
        parse_special: bool,
        model: &str,
    ) -> Result<Self, ModelError> {
        let tokens = prompt_tokens(encoder, prompt, parse_special, model)?;
        let bos = encoder.bos();
        let shown = tokens.len().min(TOKENS_SHOWN);
        Ok(Self {
            first: tokens[..shown].to_vec(),
            last: tokens[tokens.len() - shown..].to_vec(),
            count: tokens.len(),
            bos,
            leading_bos: tokens.iter().take_while(|&&token| Some(token) == bos).count(),
        })
    }
}

/// The token that a text is scored after.
///
/// # Errors
/// An encoder that has none.
pub fn start_token(encoder: &dyn TextEncoder, model: &str) -> Result<u32, ModelError> {
    encoder.start().ok_or_else(|| ModelError::Unavailable {
        capability: "scoring from the start of a text (the tokenizer has no EOS or BOS token)",
        model: model.to_owned(),
    })
}

/// Cuts `length` tokens (the start token included) into windows of at most `context + 1` tokens
/// (inputs and the last target); gives each with the part of it that is scored.
pub fn rolling_windows(
    windows: RollingWindows,
    length: usize,
    context: usize,
) -> Vec<(Range<usize>, Range<usize>)> {
    match windows {
        RollingWindows::Overlapping => overlapping_windows(length, context),
        RollingWindows::Disjoint => disjoint_windows(length, context),
    }
}

/// Windows that begin half a context apart: each later one scores the half that is new.
pub fn overlapping_windows(length: usize, context: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let stride = (context / 2).max(1);
    let (mut windows, mut scored_to) = (Vec::new(), 1);
    let mut begin = 0;
    while scored_to < length {
        let end = (begin + context + 1).min(length);
        windows.push((begin..end, scored_to - begin..end - begin));
        scored_to = end;
        begin += stride;
    }
    windows
}

/// Windows as the LM Evaluation Harness cuts them: every one scores `context` tokens after one token
/// of context; the last one reaches back as far as it can.
pub fn disjoint_windows(length: usize, context: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let (mut windows, mut scored_to) = (Vec::new(), 1);
    while scored_to < length {
        let end = (scored_to + context).min(length);
        let begin = end.saturating_sub(context + 1);
        windows.push((begin..end, scored_to - begin..end - begin));
        scored_to = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    type Windows = fn(usize, usize) -> Vec<(Range<usize>, Range<usize>)>;

    /// Holds windows against what all have in common; `least` is the context of later windows.
    fn check(windows: Windows, least: fn(usize) -> usize) {
        for context in [1, 2, 3, 8, 9] {
            for length in 1..60 {
                let mut scored = vec![0; length];
                for (window, part) in windows(length, context) {
                    assert!(window.len() <= context + 1 && part.start >= 1);
                    let first = window.start == 0;
                    assert!(first || part.start >= least(context), "{context} {length} {part:?}");
                    for at in part {
                        scored[window.start + at] += 1;
                    }
                }
                assert_eq!(scored[0], 0);
                assert!(scored[1..].iter().all(|&count| count == 1), "{context} {length}");
            }
        }
    }

    #[test]
    fn every_token_is_scored_once() {
        check(overlapping_windows, |context| context / 2 + 1);
        check(disjoint_windows, |_| 1);
    }

    #[test]
    fn disjoint_windows_are_those_of_the_harness() {
        // lm_eval.utils.get_rolling_token_windows for ten tokens, a window of four, one of context.
        let expect = [(0..5, 1..5), (4..9, 1..5), (6..11, 3..5)];
        assert_eq!(disjoint_windows(11, 4), expect);
    }

    /// One token for each character, but for the end of a line after an exclamation mark.
    struct Letters;

    impl TextEncoder for Letters {
        fn encode_text(&self, text: &str, _: bool) -> Result<Vec<u32>, ModelError> {
            let merged = text.replace("!\n", "\u{7}");
            Ok(merged.chars().map(u32::from).collect())
        }
        fn bos(&self) -> Option<u32> {
            Some(1)
        }
        fn start(&self) -> Option<u32> {
            Some(1)
        }
    }

    #[test]
    fn the_continuation_begins_where_the_context_ends() {
        let check = |context: &str, continuation: &str, expect: (&[u32], usize)| {
            let request = ScoreRequest {
                context: context.to_owned(),
                continuation: continuation.to_owned(),
                parse_special: false,
            };
            let (tokens, length) = pair_tokens(&Letters, &request, "letters").unwrap();
            assert_eq!((&tokens[..], length), expect);
        };
        check("a", " b", (&[1, 97, 32, 98], 2));
        check("a ", "b", (&[1, 97, 32, 98], 2));
        check("", "b", (&[1, 98], 1));
        // The model's BOS is there already.
        check("\u{1}a", "b", (&[1, 97, 98], 1));
        // A token spans the cut.
        check("a!", "\nb", (&[1, 97, 33, 98], 1));
        check("a!", "\n", (&[1, 97, 33, 10], 1));
    }
}

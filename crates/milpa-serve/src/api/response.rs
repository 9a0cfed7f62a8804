//! Writes answers in OpenAI's shapes, whole or as the chunks of a stream.

use std::fmt::Write as _;

use milpa_base::{Choice, FinishReason, Generation, Piece, PromptScores};
use serde_json::{Map, Value, json};

/// Which endpoint is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Completion,
    Chat,
}

/// What became of one prompt.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) generation: Generation,
    /// The new text's pieces, with the log-probabilities.
    pub(crate) pieces: Vec<Piece>,
    /// The prompt, where the answer begins with it.
    pub(crate) prompt: Option<String>,
    /// The prompt's log-probabilities, where they were wanted.
    pub(crate) scores: Option<PromptScores>,
}

/// What all parts of one answer share.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) endpoint: Endpoint,
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    /// Which weights answered.
    pub(crate) fingerprint: String,
    pub(crate) logprobs: bool,
    pub(crate) include_usage: bool,
}

impl Reply {
    /// The answer to all prompts as one object.
    pub(crate) fn whole(&self, answers: &[Answered]) -> Value {
        let choices: Vec<Value> =
            answers.iter().enumerate().map(|(index, answer)| self.choice(index, answer)).collect();
        let mut whole = self.envelope(&choices, false);
        let sum = |count: fn(&Generation) -> usize| {
            answers.iter().map(|answer| count(&answer.generation)).sum()
        };
        whole["usage"] = usage(sum(|one| one.prompt_tokens), sum(|one| one.completion_tokens));
        whole
    }

    fn choice(&self, index: usize, answer: &Answered) -> Value {
        let Answered { generation, pieces, prompt, scores } = answer;
        let finish_reason = finish_reason(generation.finish_reason);
        match self.endpoint {
            Endpoint::Chat => json!({
                "index": index,
                "message": {"role": "assistant", "content": generation.text, "refusal": null},
                "logprobs": self.logprobs(pieces, &mut 0),
                "finish_reason": finish_reason,
            }),
            Endpoint::Completion => {
                let prompt = prompt.as_deref().unwrap_or_default();
                let mut offset = prompt.chars().count();
                let mut logprobs = self.logprobs(pieces, &mut offset);
                if let Some(scores) = scores.as_ref().filter(|_| self.logprobs) {
                    let mut echoed = echoed(scores, prompt);
                    for (name, list) in &mut echoed {
                        if let (Some(list), Some(new)) =
                            (list.as_array_mut(), logprobs[&name[..]].as_array_mut())
                        {
                            list.append(new);
                        }
                    }
                    logprobs = Value::Object(echoed);
                }
                json!({
                    "index": index,
                    "text": format!("{prompt}{}", generation.text),
                    "logprobs": logprobs,
                    "finish_reason": finish_reason,
                })
            }
        }
    }

    /// The first chunk of a stream, which names the speaker; completions have none.
    pub(crate) fn opening(&self) -> Option<Value> {
        match self.endpoint {
            Endpoint::Completion => None,
            Endpoint::Chat => {
                Some(self.chunk(json!({"role": "assistant", "content": ""}), &Value::Null, None))
            }
        }
    }

    /// The chunk of one piece. `offset` counts the characters sent so far.
    pub(crate) fn piece(&self, piece: &Piece, offset: &mut usize) -> Value {
        let logprobs = self.logprobs(std::slice::from_ref(piece), offset);
        self.chunk(json!({"content": piece.text}), &logprobs, None)
    }

    /// The last chunks of a stream: why it ended, and what it used if that was asked for.
    pub(crate) fn closing(&self, generation: &Generation) -> Vec<Value> {
        let reason = finish_reason(generation.finish_reason);
        let mut chunks = vec![self.chunk(json!({}), &Value::Null, Some(reason))];
        if self.include_usage {
            let mut chunk = self.envelope(&[], true);
            chunk["usage"] = usage(generation.prompt_tokens, generation.completion_tokens);
            chunks.push(chunk);
        }
        chunks
    }

    fn chunk(&self, mut delta: Value, logprobs: &Value, finish_reason: Option<&str>) -> Value {
        let choice = match self.endpoint {
            Endpoint::Chat => json!({
                "index": 0,
                "delta": delta,
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }),
            Endpoint::Completion => {
                let text = match delta["content"].take() {
                    Value::Null => "".into(),
                    text => text,
                };
                json!({
                    "index": 0,
                    "text": text,
                    "logprobs": logprobs,
                    "finish_reason": finish_reason,
                })
            }
        };
        let mut chunk = self.envelope(&[choice], true);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn envelope(&self, choices: &[Value], is_chunk: bool) -> Value {
        let object = match (self.endpoint, is_chunk) {
            (Endpoint::Completion, _) => "text_completion",
            (Endpoint::Chat, false) => "chat.completion",
            (Endpoint::Chat, true) => "chat.completion.chunk",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    fn logprobs(&self, pieces: &[Piece], offset: &mut usize) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let tokens = pieces.iter().flat_map(|piece| &piece.logprobs);
        match self.endpoint {
            Endpoint::Chat => {
                let content: Vec<Value> = tokens
                    .map(|(chosen, top)| {
                        let mut token = token_json(chosen);
                        token["top_logprobs"] = top.iter().map(token_json).collect();
                        token
                    })
                    .collect();
                json!({"content": content, "refusal": null})
            }
            Endpoint::Completion => {
                let (mut texts, mut values, mut tops, mut offsets) =
                    (vec![], vec![], vec![], vec![]);
                for (chosen, top) in tokens {
                    texts.push(token_name(chosen));
                    values.push(finite(chosen.logprob));
                    tops.push(top_json(top));
                    offsets.push(*offset);
                    *offset += chosen.text.chars().count();
                }
                json!({
                    "tokens": texts,
                    "token_logprobs": values,
                    "top_logprobs": tops,
                    "text_offset": offsets,
                })
            }
        }
    }
}

/// The log-probabilities of a prompt's tokens. An offset is the number of the prompt's characters
/// that end before the token begins, so that where a character begins a token, its number is found.
fn echoed(scores: &PromptScores, prompt: &str) -> Map<String, Value> {
    let bytes: usize = scores.tokens.iter().map(|token| token.bytes.len()).sum();
    let first = scores.tokens.first().map_or(0, |token| token.bytes.len());
    // What the tokenizer put before the text: BOS, or a space.
    let mut before = bytes.saturating_sub(prompt.len()).min(first.max(1));
    let (mut ends, mut at) = (prompt.char_indices().skip(1).map(|(end, _)| end).peekable(), 0);
    let (mut texts, mut values, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    let mut characters = 0;
    for token in &scores.tokens {
        while ends.next_if(|&end| end <= at).is_some() {
            characters += 1;
        }
        if at >= prompt.len() {
            characters = prompt.chars().count();
        }
        texts.push(bytes_name(&token.bytes));
        values.push(token.logprob.map(finite));
        tops.push(if token.logprob.is_some() { top_json(&token.top) } else { Value::Null });
        offsets.push(characters);
        let own = token.bytes.len() - before.min(token.bytes.len());
        before -= token.bytes.len() - own;
        at += own;
    }
    let Value::Object(map) = json!({
        "tokens": texts,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": offsets,
    }) else {
        unreachable!("an object was written")
    };
    map
}

fn top_json(top: &[Choice]) -> Value {
    let mut map = Map::new();
    for choice in top {
        // Of two tokens with one name the more probable one, which comes first, stays.
        map.entry(token_name(choice)).or_insert_with(|| finite(choice.logprob).into());
    }
    Value::Object(map)
}

fn token_json(choice: &Choice) -> Value {
    json!({"token": choice.text, "logprob": finite(choice.logprob), "bytes": choice.bytes})
}

/// The token's text; bytes that are no text by themselves are written as `bytes:\xe1\x9e`, so
/// that different tokens have different names.
fn token_name(choice: &Choice) -> String {
    bytes_name(&choice.bytes)
}

fn bytes_name(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    bytes.iter().fold("bytes:".to_owned(), |mut name, byte| {
        let _ = write!(name, "\\x{byte:02x}");
        name
    })
}

/// JSON has no infinity; OpenAI writes −9999 for a token that cannot come.
fn finite(logprob: f64) -> f64 {
    logprob.max(-9999.0)
}

fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length | FinishReason::Cancelled => "length",
    }
}

fn usage(prompt_tokens: usize, completion_tokens: usize) -> Value {
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    })
}

#[cfg(test)]
mod tests {
    use milpa_base::PromptToken;

    use super::*;

    #[test]
    fn a_token_that_is_no_text_keeps_its_bytes() {
        let choice = |bytes: &[u8]| Choice {
            text: String::from_utf8_lossy(bytes).into_owned(),
            bytes: bytes.to_vec(),
            logprob: f64::NEG_INFINITY,
        };
        assert_eq!(token_name(&choice(b"\xe1\x9e")), "bytes:\\xe1\\x9e");
        assert_eq!(token_name(&choice("ñ".as_bytes())), "ñ");
        assert_eq!(token_json(&choice(b"a"))["logprob"], -9999.0);
    }

    /// Offsets of a prompt's tokens, the first of which has no log-probability.
    fn check_offsets(prompt: &str, tokens: &[&[u8]], expect: &[u64]) {
        let token = |(at, bytes): (usize, &&[u8])| PromptToken {
            id: at as u32,
            bytes: bytes.to_vec(),
            logprob: (at > 0).then_some(-0.5),
            top: Vec::new(),
        };
        let tokens = tokens.iter().enumerate().map(token).collect();
        let found = echoed(&PromptScores { tokens, next: Vec::new(), ends: false }, prompt);
        let offsets: Vec<u64> =
            found["text_offset"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        assert_eq!(offsets, expect, "{prompt}");
        assert!(found["token_logprobs"][0].is_null() && found["top_logprobs"][0].is_null());
    }

    #[test]
    fn offsets_count_whole_characters_before_a_token() {
        check_offsets("maíz ñ", &[b"ma", "í".as_bytes(), b"z", " ñ".as_bytes()], &[0, 2, 3, 4]);
        // A character in two tokens: the second begins within it.
        check_offsets("añb", &[b"a\xc3", b"\xb1", b"b"], &[0, 1, 2]);
        // BOS, and a space that SentencePiece puts before a text, stand for nothing in it.
        check_offsets("ab", &[b"<s>", b"a", b"b"], &[0, 0, 1]);
        check_offsets("ab", &[b" a", b"b"], &[0, 1]);
    }
}

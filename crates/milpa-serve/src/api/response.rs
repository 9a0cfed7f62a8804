//! Writes answers in OpenAI's shapes, whole or as the chunks of a stream.

use std::fmt::Write as _;

use milpa_base::{Choice, FinishReason, Generation, Piece};
use serde_json::{Map, Value, json};

/// Which endpoint is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Completion,
    Chat,
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
    /// The answer as one object; `pieces` hold the log-probabilities.
    pub(crate) fn whole(&self, generation: &Generation, pieces: &[Piece]) -> Value {
        let logprobs = self.logprobs(pieces, &mut 0);
        let finish_reason = finish_reason(generation.finish_reason);
        let choice = match self.endpoint {
            Endpoint::Chat => json!({
                "index": 0,
                "message": {"role": "assistant", "content": generation.text, "refusal": null},
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }),
            Endpoint::Completion => json!({
                "index": 0,
                "text": generation.text,
                "logprobs": logprobs,
                "finish_reason": finish_reason,
            }),
        };
        let mut answer = self.envelope(&[choice], false);
        answer["usage"] = usage(generation);
        answer
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
            chunk["usage"] = usage(generation);
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
                    let top: Map<String, Value> = top
                        .iter()
                        .map(|choice| (token_name(choice), finite(choice.logprob).into()))
                        .collect();
                    tops.push(Value::Object(top));
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

fn token_json(choice: &Choice) -> Value {
    json!({"token": choice.text, "logprob": finite(choice.logprob), "bytes": choice.bytes})
}

/// The token's text; bytes that are no text by themselves are written as `bytes:\xe1\x9e`, so
/// that different tokens have different names.
fn token_name(choice: &Choice) -> String {
    if let Ok(text) = std::str::from_utf8(&choice.bytes) {
        return text.to_owned();
    }
    choice.bytes.iter().fold("bytes:".to_owned(), |mut name, byte| {
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

fn usage(generation: &Generation) -> Value {
    json!({
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    })
}

#[cfg(test)]
mod tests {
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
}

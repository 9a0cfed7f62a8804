//! What is sent and what comes back: bodies of requests, and answers read strictly.
//!
//! Reference: OpenAI's API reference, "Completions" (legacy) and "Chat". It knows no connection.

use milpa_base::{Digest, Sampling, hash_bytes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What is asked about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    /// A text to continue or to score.
    Text(String),
    /// The same as tokens.
    Tokens(Vec<u32>),
    /// A conversation: a list of messages.
    Messages(Value),
}

/// One question to an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    pub(crate) input: Input,
    /// `None` scores the prompt, `Some` generates.
    pub(crate) generation: Option<GenerationAsk>,
}

/// How a text is generated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GenerationAsk {
    pub(crate) max_tokens: usize,
    pub(crate) sampling: Sampling,
    pub(crate) stop: Vec<String>,
}

/// What endpoints do differently, found out as they are asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quirks {
    /// A prompt is scored only with a new token after it.
    pub(crate) one_token_more: bool,
    /// `max_tokens` has its newer name.
    pub(crate) max_completion_tokens: bool,
}

impl Ask {
    /// The path under `/v1`.
    pub(crate) fn path(&self) -> &'static str {
        match self.input {
            Input::Messages(_) => "chat/completions",
            _ => "completions",
        }
    }

    /// The body of the request.
    pub(crate) fn body(&self, model: &str, quirks: Quirks) -> Value {
        let mut body = Map::new();
        body.insert("model".to_owned(), model.into());
        match &self.input {
            Input::Text(text) => body.insert("prompt".to_owned(), text.as_str().into()),
            Input::Tokens(tokens) => body.insert("prompt".to_owned(), json!(tokens)),
            Input::Messages(messages) => body.insert("messages".to_owned(), messages.clone()),
        };
        let Some(generation) = &self.generation else {
            body.insert("max_tokens".to_owned(), u8::from(quirks.one_token_more).into());
            body.insert("echo".to_owned(), true.into());
            body.insert("logprobs".to_owned(), 1.into());
            body.insert("temperature".to_owned(), 0.into());
            return Value::Object(body);
        };
        let is_chat = matches!(self.input, Input::Messages(_));
        let max_tokens = if is_chat && quirks.max_completion_tokens {
            "max_completion_tokens"
        } else {
            "max_tokens"
        };
        body.insert(max_tokens.to_owned(), generation.max_tokens.into());
        let sampling = generation.sampling;
        body.insert("temperature".to_owned(), as_written(sampling.temperature));
        // A setting that changes nothing is left out: not every endpoint knows them all.
        let defaults = [
            ("top_p", sampling.top_p, 1.0),
            ("min_p", sampling.min_p, 0.0),
            ("repetition_penalty", sampling.repetition_penalty, 1.0),
        ];
        for (name, value, neutral) in defaults {
            let draws = sampling.temperature > 0.0 || name == "repetition_penalty";
            if draws && value != neutral {
                body.insert(name.to_owned(), as_written(value));
            }
        }
        if sampling.temperature > 0.0 && sampling.top_k > 0 {
            body.insert("top_k".to_owned(), sampling.top_k.into());
        }
        // 64 bits with a sign are what most endpoints take.
        body.insert("seed".to_owned(), (sampling.seed as i64).into());
        if !generation.stop.is_empty() {
            body.insert("stop".to_owned(), json!(generation.stop));
        }
        Value::Object(body)
    }

    /// Identity of this question to this model, whatever the endpoint's quirks.
    pub(crate) fn key(&self, url: &str, model: &str) -> Digest {
        let body = self.body(model, Quirks::default()).to_string();
        // One byte between the parts keeps them from running into each other.
        hash_bytes([url, self.path(), &body].join("\0").as_bytes())
    }

    /// Tokens of the prompt, as far as they can be known before: at least one for two bytes.
    pub(crate) fn prompt_estimate(&self) -> u64 {
        match &self.input {
            Input::Tokens(tokens) => tokens.len() as u64,
            Input::Text(text) => text.len() as u64 / 2 + 1,
            Input::Messages(messages) => messages.to_string().len() as u64 / 2 + 1,
        }
    }

    /// New tokens at most.
    pub(crate) fn completion_estimate(&self, quirks: Quirks) -> u64 {
        match &self.generation {
            Some(generation) => generation.max_tokens as u64,
            None => u64::from(quirks.one_token_more),
        }
    }
}

/// A number as a person wrote it, without the digits that f32 adds.
fn as_written(value: f32) -> Value {
    let written = value.to_string().parse::<f64>().unwrap_or(f64::from(value));
    if written.fract() == 0.0 { (written as i64).into() } else { written.into() }
}

/// What an endpoint answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    /// The generated text; none where a prompt was scored.
    pub(crate) text: String,
    /// As the endpoint says it.
    pub(crate) finish_reason: String,
    /// The model that says it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) completion_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) logprobs: Option<Logprobs>,
}

/// Log-probabilities of tokens, those of the prompt first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logprobs {
    /// The first token as text.
    pub(crate) first: String,
    /// In nats; the first has none.
    pub(crate) values: Vec<Option<f64>>,
    /// Whether each is the most probable one.
    pub(crate) is_greedy: Vec<bool>,
    /// Where each begins in the text, in characters; empty where the endpoint does not say.
    pub(crate) offsets: Vec<u64>,
}

/// Reads an answer; the error says what is wrong with its shape.
pub(crate) fn read_answer(body: &Value, ask: &Ask) -> Result<Answer, String> {
    let choice = match body.get("choices").and_then(Value::as_array).map(Vec::as_slice) {
        Some([choice]) => choice,
        Some(choices) => return Err(format!("choices holds {} answers, not one", choices.len())),
        None => return Err("there is no list of choices".to_owned()),
    };
    let text = match &ask.input {
        Input::Messages(_) => match choice.get("message").and_then(Value::as_object) {
            Some(message) => message.get("content").unwrap_or(&Value::Null),
            None => return Err("choices[0].message is no object".to_owned()),
        },
        _ => choice.get("text").unwrap_or(&Value::Bool(false)),
    };
    let text = match text {
        Value::String(text) => text.clone(),
        // A model that refuses, or only calls tools, has no content.
        Value::Null => String::new(),
        _ => return Err("choices[0] holds no text".to_owned()),
    };
    let name = |name: &str| {
        body.get(name).and_then(Value::as_str).map(|text| text.chars().take(200).collect())
    };
    let used = |name: &str| body.get("usage").and_then(|usage| usage.get(name)?.as_u64());
    let (mut text, mut logprobs) = (text, None);
    if ask.generation.is_none() {
        // Log-probabilities that are not of the prompt say nothing of it.
        let is_echo = match &ask.input {
            Input::Text(prompt) => text.starts_with(prompt),
            _ => true,
        };
        if is_echo {
            logprobs = choice.get("logprobs").map(read_logprobs).transpose()?.flatten();
        }
        text = String::new();
    }
    let finish_reason = choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default();
    Ok(Answer {
        text,
        finish_reason: finish_reason.chars().take(40).collect(),
        model: name("model"),
        fingerprint: name("system_fingerprint"),
        prompt_tokens: used("prompt_tokens"),
        completion_tokens: used("completion_tokens"),
        logprobs,
    })
}

/// Reads the log-probabilities of a completion; an endpoint that has none, or another shape of
/// them, tells nothing of a prompt.
fn read_logprobs(value: &Value) -> Result<Option<Logprobs>, String> {
    let list = |name: &str| value.get(name).and_then(Value::as_array);
    let (Some(values), Some(tops)) = (list("token_logprobs"), list("top_logprobs")) else {
        return Ok(None);
    };
    if values.len() != tops.len() {
        return Err(format!("{} log-probabilities, {} alternatives", values.len(), tops.len()));
    }
    let number = |value: &Value| match value {
        Value::Null => Ok(None),
        value => match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err("a log-probability is no number".to_owned()),
        },
    };
    let values: Vec<Option<f64>> = values.iter().map(number).collect::<Result<_, _>>()?;
    let is_greedy = values
        .iter()
        .zip(tops)
        .map(|(value, top)| {
            let Some(value) = value else { return Ok(true) };
            let Some(top) = top.as_object() else {
                return Err("a token has a log-probability and no alternatives".to_owned());
            };
            // The token itself may be among them.
            Ok(top.values().filter_map(Value::as_f64).all(|other| other <= *value))
        })
        .collect::<Result<_, _>>()?;
    let offsets: Vec<u64> =
        list("text_offset").into_iter().flatten().filter_map(Value::as_u64).collect();
    let offsets = if offsets.len() == values.len() { offsets } else { Vec::new() };
    let first = list("tokens").and_then(|tokens| tokens.first()?.as_str()).unwrap_or_default();
    Ok(Some(Logprobs { first: first.to_owned(), values, is_greedy, offsets }))
}

/// What an error's body says, short enough to be shown.
pub(crate) fn error_message(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(value) => {
            let error = value.get("error").unwrap_or(&value);
            let message = error.get("message").or_else(|| error.get("detail")).unwrap_or(error);
            message.as_str().map_or_else(|| message.to_string(), str::to_owned)
        }
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned(),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scoring() -> Ask {
        Ask { input: Input::Text("ab".to_owned()), generation: None }
    }

    fn generating(input: Input, sampling: Sampling) -> Ask {
        let generation = GenerationAsk { max_tokens: 9, sampling, stop: vec!["\n".to_owned()] };
        Ask { input, generation: Some(generation) }
    }

    #[test]
    fn bodies_say_no_more_than_is_needed() {
        let expect = json!({"model": "m", "prompt": "ab", "max_tokens": 0, "echo": true,
            "logprobs": 1, "temperature": 0});
        assert_eq!(scoring().body("m", Quirks::default()), expect);
        let greedy = Sampling { temperature: 0.0, seed: u64::MAX, ..Sampling::default() };
        let ask = generating(Input::Tokens(vec![1, 2]), greedy);
        let expect = json!({"model": "m", "prompt": [1, 2], "max_tokens": 9, "temperature": 0,
            "seed": -1, "stop": ["\n"]});
        assert_eq!(ask.body("m", Quirks::default()), expect);
        let messages = json!([{"role": "user", "content": "a"}]);
        let drawn = Sampling { temperature: 0.7, top_p: 0.95, top_k: 3, ..Sampling::default() };
        let ask = generating(Input::Messages(messages.clone()), drawn);
        let quirks = Quirks { max_completion_tokens: true, ..Quirks::default() };
        let expect = json!({"model": "m", "messages": messages, "max_completion_tokens": 9,
            "temperature": 0.7, "top_p": 0.95, "top_k": 3, "seed": 0, "stop": ["\n"]});
        assert_eq!(ask.body("m", quirks), expect);
        assert_ne!(ask.key("u", "m"), ask.key("u", "n"));
    }

    fn check_shape(body: &Value, expect: Result<&str, &str>) {
        let ask = generating(Input::Text(String::new()), Sampling::default());
        match (read_answer(body, &ask), expect) {
            (Ok(answer), Ok(text)) => assert_eq!(answer.text, text),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, _) => panic!("{body}: {found:?}"),
        }
    }

    #[test]
    fn answers_are_read_strictly() {
        check_shape(&json!({"choices": [{"text": "a"}]}), Ok("a"));
        check_shape(&json!({"choices": [{"text": null}]}), Ok(""));
        check_shape(&json!({"choices": []}), Err("0 answers"));
        check_shape(&json!({"choices": [{"text": "a"}, {"text": "b"}]}), Err("2 answers"));
        check_shape(&json!({"choices": [{"message": {"content": "a"}}]}), Err("no text"));
        check_shape(&json!({"choices": [7]}), Err("no text"));
        check_shape(&json!([]), Err("no list of choices"));
        check_shape(&json!({"choices": "a"}), Err("no list of choices"));
    }

    #[test]
    fn log_probabilities_are_of_one_shape() {
        let logprobs = json!({"tokens": ["a", "b"], "token_logprobs": [null, -1.0],
            "top_logprobs": [null, {"c": -0.5}], "text_offset": [0, 1]});
        let body = json!({"choices": [{"text": "ab", "logprobs": logprobs}]});
        let found = read_answer(&body, &scoring()).unwrap().logprobs.unwrap();
        assert_eq!((found.values, found.is_greedy), (vec![None, Some(-1.0)], vec![true, false]));
        assert_eq!((found.first.as_str(), found.offsets), ("a", vec![0, 1]));
        for none in [Value::Null, json!({"content": []})] {
            let body = json!({"choices": [{"text": "ab", "logprobs": none}]});
            assert!(read_answer(&body, &scoring()).unwrap().logprobs.is_none());
        }
        for bad in [
            json!({"token_logprobs": [-1.0], "top_logprobs": []}),
            json!({"token_logprobs": ["x"], "top_logprobs": [{}]}),
            json!({"token_logprobs": [-1.0], "top_logprobs": [null]}),
        ] {
            let body = json!({"choices": [{"text": "ab", "logprobs": bad}]});
            assert!(read_answer(&body, &scoring()).is_err());
        }
    }

    #[test]
    fn an_error_is_short() {
        let check = |body: &[u8], expect: &str| assert_eq!(error_message(body), expect);
        check(br#"{"error":{"message":"no  such\nmodel"}}"#, "no such model");
        check(br#"{"detail":"no"}"#, "no");
        check(b"<html>502</html>", "<html>502</html>");
        check(b"", "no reason given");
        assert_eq!(error_message(&[b'x'; 9000]).len(), 300);
    }
}

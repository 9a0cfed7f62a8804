//! Reads completion and chat requests strictly.
//!
//! Fields that would change the result and are not supported are errors with the field's name,
//! and so are unknown fields (with the nearest known name). Fields that only describe the request
//! (`user`, `metadata`, …) and unsupported ones at their neutral value (`n: 1`, `tools: []`) are
//! accepted. Reference: OpenAI's API reference, "Completions" and "Chat".

use milpa_base::{Prompt, Sampling, config::nearest};
use milpa_tokens::Message;
use serde_json::{Map, Value};

use super::error::ApiError;

/// Most stop texts in a request, and the longest of them in bytes.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;
/// Most prompts in a request.
const MAX_PROMPTS: usize = 128;
/// Most alternatives for each token.
const MAX_LOGPROBS: u64 = 20;

/// Fields that describe a request and change nothing about its answer.
const DESCRIPTIVE: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];
/// Fields read by both kinds of request; only for suggestions.
const SHARED: &[&str] = &[
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
];

/// What both kinds of request say about the generation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    /// `None` leaves it to the server.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) sampling: Sampling,
    pub(crate) stop: Vec<String>,
    /// Alternatives to report for each token, if any log-probabilities are wanted.
    pub(crate) logprobs: Option<usize>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// `POST /v1/completions`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CompletionRequest {
    /// At least one; they are answered in this order.
    pub(crate) prompts: Vec<Prompt>,
    /// Whether the answer begins with the prompt, and its log-probabilities with the prompt's.
    pub(crate) echo: bool,
    pub(crate) options: Options,
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatRequest {
    pub(crate) messages: Vec<Message>,
    pub(crate) options: Options,
}

/// What a request is read against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults<'a> {
    /// The model's name; another one in the request is refused.
    pub(crate) model: &'a str,
    /// How tokens are drawn where the request does not say; its seed is used as it is.
    pub(crate) sampling: Sampling,
}

/// Reads the body of a completion request.
pub(crate) fn read_completion(
    body: &[u8],
    defaults: Defaults<'_>,
) -> Result<CompletionRequest, ApiError> {
    let mut fields = Fields::parse(body)?;
    fields.check_model(defaults.model)?;
    let prompts = read_prompts(fields.take("prompt"))?;
    let logprobs = fields.whole("logprobs", 0, MAX_LOGPROBS)?.map(|n| n as usize);
    let echo = fields.flag("echo")?.unwrap_or(false);
    // No new token at all makes sense only where the prompt's own are told.
    let max_tokens = fields.whole("max_tokens", u64::from(!echo), u64::from(u32::MAX))?;
    fields.neutral("best_of", &[Value::from(1)], "only one completion is made for each prompt")?;
    fields.neutral("suffix", &["".into()], "text cannot be inserted before a suffix")?;
    let options = fields.options(defaults, max_tokens, logprobs)?;
    if options.stream && (echo || prompts.len() > 1) {
        let message =
            "an answer with several prompts or with echo is not streamed; leave stream out";
        return Err(ApiError::unsupported("stream", message));
    }
    fields.end(&["prompt", "echo"])?;
    Ok(CompletionRequest { prompts, echo, options })
}

/// One text, several, the ids of one prompt's tokens, or those of several.
fn read_prompts(value: Option<Value>) -> Result<Vec<Prompt>, ApiError> {
    let bad = || {
        let message = "prompt must be a text, a list of texts, a list of token ids, or a list of \
                       such lists";
        ApiError::bad_request("prompt", message)
    };
    let one = |value: Value| match value {
        Value::String(text) => Ok(Prompt::Text { text, parse_special: false }),
        Value::Array(ids) if !ids.is_empty() => ids
            .iter()
            .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect::<Option<_>>()
            .map(Prompt::Tokens)
            .ok_or_else(bad),
        _ => Err(bad()),
    };
    let prompts: Vec<Prompt> = match value {
        None => {
            return Err(ApiError::bad_request("prompt", "prompt is missing: the text to continue"));
        }
        Some(Value::Array(items)) if !items.first().is_some_and(Value::is_number) => {
            if items.len() > MAX_PROMPTS {
                let message = format!("prompt may hold at most {MAX_PROMPTS} prompts");
                return Err(ApiError::bad_request("prompt", message));
            }
            items.into_iter().map(one).collect::<Result<_, _>>()?
        }
        Some(value) => vec![one(value)?],
    };
    if prompts.is_empty() {
        return Err(bad());
    }
    Ok(prompts)
}

/// Reads the body of a request for the tokens of a text, as vLLM's server takes it: the text, and
/// whether BOS goes before it.
pub(crate) fn read_tokenize(
    body: &[u8],
    defaults: Defaults<'_>,
) -> Result<(String, bool), ApiError> {
    let mut fields = Fields::parse(body)?;
    fields.check_model(defaults.model)?;
    let Some(Value::String(text)) = fields.take("prompt") else {
        return Err(ApiError::bad_request("prompt", "prompt must be a text"));
    };
    let with_bos = fields.flag("add_special_tokens")?.unwrap_or(true);
    if let Some(name) = fields.map.keys().next() {
        let message = "only model, prompt and add_special_tokens are known here";
        return Err(ApiError::unsupported(name, message));
    }
    Ok((text, with_bos))
}

/// Reads the body of a chat request.
pub(crate) fn read_chat(body: &[u8], defaults: Defaults<'_>) -> Result<ChatRequest, ApiError> {
    let mut fields = Fields::parse(body)?;
    fields.check_model(defaults.model)?;
    let messages = match fields.take("messages") {
        Some(Value::Array(items)) if !items.is_empty() => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| read_message(i, item))
            .collect::<Result<Vec<_>, _>>()?,
        Some(_) => {
            return Err(ApiError::bad_request(
                "messages",
                "messages must be a list of at least one message",
            ));
        }
        None => return Err(ApiError::bad_request("messages", "messages is missing")),
    };
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.whole("top_logprobs", 0, MAX_LOGPROBS)?;
    let logprobs = match (wanted, top) {
        (true, top) => Some(top.unwrap_or(0) as usize),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            return Err(ApiError::bad_request(
                "top_logprobs",
                "top_logprobs needs logprobs to be true",
            ));
        }
    };
    let limit = u64::from(u32::MAX);
    let max_tokens = match (
        fields.whole("max_completion_tokens", 1, limit)?,
        fields.whole("max_tokens", 1, limit)?,
    ) {
        (Some(new), Some(old)) if new != old => {
            return Err(ApiError::bad_request(
                "max_tokens",
                format!(
                    "max_tokens is {old} and max_completion_tokens is {new}; they mean the same, \
                     send one of them"
                ),
            ));
        }
        (new, old) => new.or(old),
    };
    let none: &[Value] = &[Value::Array(Vec::new())];
    fields.neutral("tools", none, "this server does not call tools")?;
    fields.neutral("functions", none, "this server does not call functions")?;
    fields.neutral(
        "tool_choice",
        &["none".into(), "auto".into()],
        "this server does not call tools",
    )?;
    fields.neutral("function_call", &["none".into()], "this server does not call functions")?;
    fields.neutral(
        "response_format",
        &[serde_json::json!({"type": "text"})],
        "answers are free text; other formats cannot be enforced",
    )?;
    fields.neutral("modalities", &[serde_json::json!(["text"])], "answers are text only")?;
    for name in ["audio", "prediction", "reasoning_effort", "web_search_options", "verbosity"] {
        fields.neutral(name, &[], "this server has no such feature")?;
    }
    let options = fields.options(defaults, max_tokens, logprobs)?;
    fields.end(&["messages", "max_completion_tokens", "top_logprobs"])?;
    Ok(ChatRequest { messages, options })
}

fn read_message(index: usize, item: Value) -> Result<Message, ApiError> {
    let at = format!("messages[{index}]");
    let Value::Object(map) = item else {
        return Err(ApiError::bad_request(&at, format!("{at} must be an object")));
    };
    let mut fields = Fields { map, at: format!("{at}.") };
    let role = match fields.take("role").as_ref().and_then(Value::as_str) {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        _ => {
            return Err(ApiError::bad_request(
                &format!("{at}.role"),
                format!("{at}.role must be \"system\", \"user\" or \"assistant\""),
            ));
        }
    };
    let text = read_content(&format!("{at}.content"), fields.take("content"))?;
    // An answer of this server may be sent back as it came.
    for name in ["refusal", "audio", "function_call", "tool_calls", "annotations"] {
        fields.neutral(name, &[Value::Array(Vec::new())], "messages here are text only")?;
    }
    fields.end(&["role", "content"])?;
    Ok(Message { role: role.to_owned(), content: text })
}

/// A text, or a list of text parts.
fn read_content(at: &str, content: Option<Value>) -> Result<String, ApiError> {
    match content {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => parts
            .into_iter()
            .map(|part| match part {
                Value::Object(mut part)
                    if part.len() == 2 && part.get("type") == Some(&"text".into()) =>
                {
                    match part.remove("text") {
                        Some(Value::String(text)) => Ok(text),
                        _ => Err(bad_content(at)),
                    }
                }
                _ => Err(bad_content(at)),
            })
            .collect(),
        _ => Err(bad_content(at)),
    }
}

fn bad_content(at: &str) -> ApiError {
    ApiError::bad_request(
        at,
        format!("{at} must be a text or a list of {{\"type\": \"text\", \"text\": …}} parts"),
    )
}

/// An object whose fields are taken one by one, so that what is left over can be refused.
struct Fields {
    map: Map<String, Value>,
    /// Prefix of the fields' names in messages.
    at: String,
}

impl Fields {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self { map, at: String::new() }),
            Ok(_) => Err(ApiError::bad_request("", "the body must be a JSON object")),
            Err(error) => {
                Err(ApiError::bad_request("", format!("the body is not valid JSON: {error}")))
            }
        }
    }

    /// Takes a field; `null` counts as absent.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn error(&self, name: &str, message: &str) -> ApiError {
        let path = format!("{}{name}", self.at);
        ApiError::bad_request(&path, format!("{path} {message}"))
    }

    fn check_model(&mut self, served: &str) -> Result<(), ApiError> {
        match self.take("model") {
            None => Ok(()),
            Some(Value::String(name)) if name == served => Ok(()),
            Some(Value::String(name)) => {
                let name: String = name.chars().take(80).collect();
                let mut error = ApiError::bad_request(
                    "model",
                    format!("there is no model {name:?} here; this server has {served:?}"),
                )
                .code("model_not_found");
                error.status = axum::http::StatusCode::NOT_FOUND;
                Err(error)
            }
            Some(_) => Err(self.error("model", "must be a text")),
        }
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.error(name, "must be true or false")),
        }
    }

    fn whole(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
                _ => {
                    Err(self
                        .error(name, &format!("must be a whole number between {least} and {most}")))
                }
            },
        }
    }

    fn number(
        &mut self,
        name: &str,
        range: &str,
        holds: impl Fn(f64) -> bool,
    ) -> Result<Option<f32>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if holds(number) => Ok(Some(number as f32)),
                _ => Err(self.error(name, &format!("must be a number {range}"))),
            },
        }
    }

    /// Accepts a field that is not supported only where it asks for nothing.
    fn neutral(&mut self, name: &str, allowed: &[Value], why: &str) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !allowed.contains(&value) => {
                let path = format!("{}{name}", self.at);
                Err(ApiError::unsupported(&path, format!("{path} is not supported: {why}")))
            }
            _ => Ok(()),
        }
    }

    fn stops(&mut self) -> Result<Vec<String>, ApiError> {
        let stops = match self.take("stop") {
            None => return Ok(Vec::new()),
            Some(Value::String(stop)) => vec![stop],
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(stop) => Ok(stop),
                    _ => Err(self.error("stop", "must be a text or a list of texts")),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(self.error("stop", "must be a text or a list of texts")),
        };
        if stops.len() > MAX_STOPS {
            return Err(self.error("stop", &format!("may hold at most {MAX_STOPS} texts")));
        }
        if stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
            let message = format!("must hold texts of 1 to {MAX_STOP_BYTES} bytes");
            return Err(self.error("stop", &message));
        }
        Ok(stops)
    }

    fn sampling(&mut self, defaults: Sampling) -> Result<Sampling, ApiError> {
        let temperature =
            self.number("temperature", "between 0 and 2", |x| (0.0..=2.0).contains(&x))?;
        let top_p = self.number("top_p", "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)?;
        let top_k = self.whole("top_k", 0, u64::from(u32::MAX))?;
        let min_p = self.number("min_p", "between 0 and 1", |x| (0.0..=1.0).contains(&x))?;
        let repetition_penalty =
            self.number("repetition_penalty", "above 0 and at most 10", |x| x > 0.0 && x <= 10.0)?;
        let seed = match self.take("seed") {
            None => None,
            Some(value) => match (value.as_u64(), value.as_i64()) {
                (Some(seed), _) => Some(seed),
                (None, Some(seed)) => Some(seed as u64),
                _ => return Err(self.error("seed", "must be a whole number of 64 bits")),
            },
        };
        Ok(Sampling {
            temperature: temperature.unwrap_or(defaults.temperature),
            top_p: top_p.unwrap_or(defaults.top_p),
            top_k: top_k.map_or(defaults.top_k, |k| k as usize),
            min_p: min_p.unwrap_or(defaults.min_p),
            repetition_penalty: repetition_penalty.unwrap_or(defaults.repetition_penalty),
            seed: seed.unwrap_or(defaults.seed),
        })
    }

    fn options(
        &mut self,
        defaults: Defaults<'_>,
        max_tokens: Option<u64>,
        logprobs: Option<usize>,
    ) -> Result<Options, ApiError> {
        self.neutral(
            "n",
            &[Value::from(1)],
            "only n = 1; send the request again for another answer",
        )?;
        for name in ["presence_penalty", "frequency_penalty"] {
            let why = "repetition_penalty is the penalty known here";
            self.neutral(name, &[Value::from(0), Value::from(0.0)], why)?;
        }
        let nothing = Value::Object(Map::new());
        self.neutral("logit_bias", &[nothing], "single tokens cannot be favoured")?;
        let sampling = self.sampling(defaults.sampling)?;
        let stop = self.stops()?;
        let stream = self.flag("stream")?.unwrap_or(false);
        let include_usage = self.stream_options(stream)?;
        for name in DESCRIPTIVE {
            self.take(name);
        }
        let max_tokens = max_tokens.map(|n| n as usize);
        Ok(Options { max_tokens, sampling, stop, logprobs, stream, include_usage })
    }

    fn stream_options(&mut self, stream: bool) -> Result<bool, ApiError> {
        let map = match self.take("stream_options") {
            None => return Ok(false),
            Some(Value::Object(map)) if stream => map,
            Some(Value::Object(_)) => {
                return Err(self.error("stream_options", "needs stream to be true"));
            }
            Some(_) => return Err(self.error("stream_options", "must be an object")),
        };
        let mut fields = Fields { map, at: "stream_options.".to_owned() };
        let include_usage = fields.flag("include_usage")?.unwrap_or(false);
        // Padding against traffic analysis; an answer without it is a valid one.
        fields.flag("include_obfuscation")?;
        fields.end(&["include_usage"])?;
        Ok(include_usage)
    }

    /// Refuses what has not been taken.
    fn end(self, own: &[&str]) -> Result<(), ApiError> {
        let Some(name) = self.map.keys().next() else { return Ok(()) };
        let known: Vec<&str> = if self.at.is_empty() {
            own.iter().chain(SHARED).copied().collect()
        } else {
            own.to_vec()
        };
        let name: String = name.chars().take(80).collect();
        let path = format!("{}{name}", self.at);
        let hint = nearest(&name, &known)
            .map(|near| format!("; did you mean {}{near}?", self.at))
            .unwrap_or_default();
        Err(ApiError::bad_request(&path, format!("{path} is not a field of this request{hint}"))
            .code("unknown_parameter"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults<'_> = Defaults {
        model: "maíz",
        sampling: Sampling {
            temperature: 0.8,
            top_p: 0.95,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 5,
        },
    };

    fn chat(extra: &str) -> Result<ChatRequest, ApiError> {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"hola"}}]{extra}}}"#);
        read_chat(body.as_bytes(), DEFAULTS)
    }

    fn check_refused(extra: &str, param: &str, part: &str) {
        let error = chat(extra).expect_err(extra);
        assert_eq!(error.param.as_deref(), Some(param), "{extra}: {error:?}");
        assert!(error.message.contains(part), "{extra}: {error:?}");
        assert_eq!(error.status, 400);
    }

    #[test]
    fn a_plain_request_takes_the_defaults() {
        let request = chat("").unwrap();
        assert_eq!(request.options.sampling, DEFAULTS.sampling);
        assert_eq!(request.options.max_tokens, None);
        assert!(!request.options.stream && request.options.logprobs.is_none());
    }

    #[test]
    fn every_option_is_read() {
        let request = chat(
            r#","model":"maíz","temperature":0,"top_p":0.5,"top_k":7,"min_p":0.25,
            "repetition_penalty":1.1,
            "seed":-1,"max_completion_tokens":9,"stop":["a","b"],"stream":true,"logprobs":true,
            "top_logprobs":3,"stream_options":{"include_usage":true},"n":1,"tools":[],
            "user":"x","logit_bias":{},"presence_penalty":0,"frequency_penalty":0.0,
            "response_format":{"type":"text"},"tool_choice":null"#,
        )
        .unwrap();
        let options = request.options;
        let expect = Sampling {
            temperature: 0.0,
            top_p: 0.5,
            top_k: 7,
            min_p: 0.25,
            repetition_penalty: 1.1,
            seed: u64::MAX,
        };
        assert_eq!(options.sampling, expect);
        assert_eq!(options.max_tokens, Some(9));
        assert_eq!(options.stop, ["a", "b"]);
        assert_eq!(options.logprobs, Some(3));
        assert!(options.stream && options.include_usage);
    }

    #[test]
    fn what_would_change_the_answer_is_refused() {
        check_refused(r#","n":2"#, "n", "only n = 1");
        check_refused(r#","tools":[{}]"#, "tools", "does not call tools");
        check_refused(r#","tool_choice":"required""#, "tool_choice", "tools");
        check_refused(
            r#","response_format":{"type":"json_object"}"#,
            "response_format",
            "free text",
        );
        check_refused(r#","logit_bias":{"1":5}"#, "logit_bias", "not supported");
        check_refused(r#","presence_penalty":0.5"#, "presence_penalty", "repetition_penalty");
        check_refused(r#","temprature":1"#, "temprature", "did you mean temperature?");
        check_refused(r#","temperature":3"#, "temperature", "between 0 and 2");
        check_refused(r#","temperature":"hot""#, "temperature", "between 0 and 2");
        check_refused(r#","top_p":0"#, "top_p", "above 0");
        check_refused(r#","max_tokens":0"#, "max_tokens", "between 1 and");
        check_refused(r#","max_tokens":-4"#, "max_tokens", "between 1 and");
        check_refused(r#","max_tokens":1,"max_completion_tokens":2"#, "max_tokens", "the same");
        check_refused(r#","seed":1.5"#, "seed", "64 bits");
        check_refused(r#","stop":"""#, "stop", "1 to 256 bytes");
        check_refused(r#","stop":[1]"#, "stop", "list of texts");
        check_refused(r#","top_logprobs":2"#, "top_logprobs", "needs logprobs");
        check_refused(r#","logprobs":true,"top_logprobs":21"#, "top_logprobs", "between 0 and 20");
        check_refused(r#","stream_options":{}"#, "stream_options", "needs stream");
        check_refused(
            r#","stream":true,"stream_options":{"x":1}"#,
            "stream_options.x",
            "not a field",
        );
    }

    #[test]
    fn another_model_is_not_found() {
        let error = chat(r#","model":"gpt-4o""#).unwrap_err();
        assert_eq!(error.status, 404);
        assert_eq!(error.code, Some("model_not_found"));
        assert!(error.message.contains("maíz"), "{error:?}");
    }

    fn check_messages(messages: &str, expect: Result<&str, &str>) {
        let body = format!(r#"{{"messages":{messages}}}"#);
        match (read_chat(body.as_bytes(), DEFAULTS), expect) {
            (Ok(request), Ok(text)) => assert_eq!(request.messages[0].content, text),
            (Err(error), Err(param)) => assert_eq!(error.param.as_deref(), Some(param)),
            (found, _) => panic!("{messages}: {found:?}"),
        }
    }

    #[test]
    fn messages_are_texts() {
        check_messages(r#"[{"role":"developer","content":"a"}]"#, Ok("a"));
        check_messages(
            r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]"#,
            Ok("ab"),
        );
        check_messages(
            r#"[{"role":"assistant","content":"a","refusal":null,"tool_calls":[]}]"#,
            Ok("a"),
        );
        check_messages("[]", Err("messages"));
        check_messages("7", Err("messages"));
        check_messages("[7]", Err("messages[0]"));
        check_messages(r#"[{"role":"tool","content":"a"}]"#, Err("messages[0].role"));
        check_messages(r#"[{"role":"user"}]"#, Err("messages[0].content"));
        check_messages(r#"[{"role":"user","content":"a","name":"b"}]"#, Err("messages[0].name"));
        check_messages(
            r#"[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]"#,
            Err("messages[0].content"),
        );
        check_messages(
            r#"[{"role":"assistant","content":"a","tool_calls":[{}]}]"#,
            Err("messages[0].tool_calls"),
        );
    }

    fn text(text: &str) -> Prompt {
        Prompt::Text { text: text.to_owned(), parse_special: false }
    }

    fn check_completion(body: &str, expect: Result<&[Prompt], &str>) {
        match (read_completion(body.as_bytes(), DEFAULTS), expect) {
            (Ok(request), Ok(prompts)) => assert_eq!(request.prompts, prompts),
            (Err(error), Err(part)) => assert!(error.message.contains(part), "{error:?}"),
            (found, _) => panic!("{body}: {found:?}"),
        }
    }

    #[test]
    fn a_completion_has_prompts() {
        check_completion(r#"{"prompt":"a"}"#, Ok(&[text("a")]));
        check_completion(r#"{"prompt":["a"],"best_of":1,"echo":false}"#, Ok(&[text("a")]));
        check_completion(r#"{"prompt":["a","b"]}"#, Ok(&[text("a"), text("b")]));
        check_completion(r#"{"prompt":[1,2]}"#, Ok(&[Prompt::Tokens(vec![1, 2])]));
        let both = [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])];
        check_completion(r#"{"prompt":[[1],[2,3]]}"#, Ok(&both));
        for bad in ["[]", "[[]]", "[1,-2]", "[1.5]", "[4294967296]", "[1,\"a\"]", "{}", "7"] {
            check_completion(
                &format!(r#"{{"prompt":{bad}}}"#),
                Err("prompt must be a text, a list"),
            );
        }
        check_completion(
            &format!(r#"{{"prompt":[{}"a"]}}"#, r#""a","#.repeat(128)),
            Err("at most 128"),
        );
        check_completion("{}", Err("missing"));
        check_completion("[]", Err("JSON object"));
        check_completion("{", Err("not valid JSON"));
        check_completion(r#"{"prompt":"a","max_tokens":0}"#, Err("max_tokens must be"));
        check_completion(r#"{"prompt":"a","echo":true,"stream":true}"#, Err("not streamed"));
        check_completion(r#"{"prompt":["a","b"],"stream":true}"#, Err("not streamed"));
        check_completion(&"[".repeat(100_000), Err("recursion limit"));
        let body = br#"{"prompt":"","logprobs":2,"echo":true,"max_tokens":0}"#;
        let request = read_completion(body, DEFAULTS).unwrap();
        assert_eq!((request.options.logprobs, request.options.max_tokens), (Some(2), Some(0)));
        assert!(request.echo);
    }
}

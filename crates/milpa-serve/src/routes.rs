//! What each path answers, and what every request passes first: host check, key, headers, counts.

use std::{
    collections::VecDeque,
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_core::Stream;
use milpa_base::{
    GenerateRequest, Prompt, PromptScores, Sampling, TextEncoder, TextModel, seed::splitmix64,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{
    api::{
        ApiError,
        request::{Defaults, Options, read_chat, read_completion, read_tokenize},
        response::{Answered, Endpoint, Reply},
    },
    chat::ChatFormat,
    config::ServeConfig,
    engine::{Engine, Event, Job, Running},
    metrics::Metrics,
    page,
};

/// New tokens of a completion where the request does not say, as in OpenAI's interface.
const COMPLETION_MAX_TOKENS: usize = 16;

/// What all requests share.
pub(crate) struct App {
    pub(crate) config: ServeConfig,
    pub(crate) engine: Engine,
    format: ChatFormat,
    metrics: Arc<Metrics>,
    /// When the server started, in seconds since 1970.
    created: u64,
    /// For ids and for seeds that a client leaves open.
    random: RandomState,
    requests: AtomicU64,
}

impl App {
    pub(crate) fn new(config: ServeConfig, model: Arc<dyn TextModel>, format: ChatFormat) -> Self {
        let metrics = Arc::new(Metrics::new());
        let engine = Engine::new(model, config.max_queue, metrics.clone());
        Self {
            config,
            engine,
            format,
            metrics,
            created: seconds_since_1970(),
            random: RandomState::new(),
            requests: AtomicU64::new(0),
        }
    }

    /// A number that differs for each request and each run of the server.
    fn fresh_number(&self) -> u64 {
        splitmix64(self.random.hash_one(self.requests.fetch_add(1, Relaxed)))
    }

    fn defaults(&self) -> Defaults<'_> {
        let sampling = Sampling { seed: self.fresh_number(), ..self.config.sampling };
        Defaults { model: &self.engine.model().info().name, sampling }
    }

    fn reply(&self, endpoint: Endpoint, options: &Options) -> Reply {
        let info = self.engine.model().info();
        let prefix = match endpoint {
            Endpoint::Completion => "cmpl",
            Endpoint::Chat => "chatcmpl",
        };
        Reply {
            endpoint,
            id: format!("{prefix}-{:016x}", self.fresh_number()),
            created: seconds_since_1970(),
            model: info.name.clone(),
            fingerprint: format!("milpa-{}", info.hash.get(..12).unwrap_or(&info.hash)),
            logprobs: options.logprobs.is_some(),
            include_usage: options.include_usage,
        }
    }
}

/// All paths with all that stands before them.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page_file))
        .route("/style.css", get(page_file))
        .route("/chat.js", get(page_file))
        .route("/strings.js", get(page_file))
        .route("/icon.svg", get(page_file))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/tokenize", post(tokenize))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Checks who asks, and adds headers and counts to the answer.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = route_label(request.uri().path());
    let refused = check_host(&app, request.headers())
        .and_then(|()| check_key(&app, request.uri().path(), request.headers()));
    let mut response = match refused {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    page::secure(response.headers_mut());
    app.metrics.count_request(route, response.status().as_u16());
    response
}

/// The route's name in the metrics: one of a fixed list, whatever is asked for.
fn route_label(path: &str) -> &'static str {
    match path {
        "/" => "/",
        "/style.css" | "/chat.js" | "/strings.js" | "/icon.svg" => "page",
        "/health" => "/health",
        "/metrics" => "/metrics",
        "/tokenize" => "/tokenize",
        "/v1/completions" => "/v1/completions",
        "/v1/chat/completions" => "/v1/chat/completions",
        path if path.starts_with("/v1/models") => "/v1/models",
        _ => "other",
    }
}

/// On loopback, refuses requests that were made under another machine's name: a page of some
/// web site whose name was pointed at 127.0.0.1 (DNS rebinding).
fn check_host(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    if !app.config.bind.ip().is_loopback() {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host_name(host);
    let is_own = name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        || app.config.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    if is_own {
        return Ok(());
    }
    let message = "this server answers only to localhost; to use another name, add it to the \
                   allowed hosts";
    Err(ApiError::new(StatusCode::FORBIDDEN, "invalid_request_error", message)
        .code("host_not_allowed"))
}

/// The name in a `Host` header, without port and brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

fn check_key(app: &App, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let needs_key = path.starts_with("/v1") || path == "/tokenize";
    let Some(key) = app.config.api_key.as_ref().filter(|_| needs_key) else {
        return Ok(());
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let (message, code) = match given {
        Some((_, candidate)) if key.matches(candidate) => return Ok(()),
        Some(_) => ("this is not the key of this server", "invalid_api_key"),
        None => ("this server needs a key: send `Authorization: Bearer KEY`", "missing_api_key"),
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", message).code(code))
}

async fn page_file(request: Request) -> Response {
    match page::file(request.uri().path()) {
        Some(response) => response,
        None => not_found(request).await.into_response(),
    }
}

async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(80).collect();
    let message = format!(
        "there is nothing at {path}; this server has /v1/models, /v1/completions, \
         /v1/chat/completions, /tokenize, /health and /metrics"
    );
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message).code("not_found")
}

async fn wrong_method(method: Method, request: Request) -> ApiError {
    let message = format!("{} does not take {method}", request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
        .code("method_not_allowed")
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let info = app.engine.model().info();
    json_response(&json!({
        "status": "ok",
        "model": info.name,
        "chat_format": app.format.name(),
        "context_length": info.context_length,
        "needs_key": app.config.api_key.is_some(),
        "queue_length": app.metrics.waiting.load(Relaxed),
        "defaults": {
            "temperature": round(app.config.sampling.temperature),
            "top_p": round(app.config.sampling.top_p),
            "max_tokens": app.config.default_max_tokens,
        },
    }))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.render(app.engine.model().info());
    let mut response = Response::new(Body::from(text));
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

async fn models(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({"object": "list", "data": [model_json(&app)]}))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let info = app.engine.model().info();
    if name == info.name {
        return json_response(&model_json(&app));
    }
    let message = format!("there is no such model here; this server has {:?}", info.name);
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
        .code("model_not_found")
        .into_response()
}

fn model_json(app: &App) -> Value {
    let info = app.engine.model().info();
    let encoder = app.engine.model().encoder();
    json!({
        "id": info.name,
        "object": "model",
        "created": app.created,
        "owned_by": "milpa",
        "milpa": {
            "chat_format": app.format.name(),
            "context_length": info.context_length,
            "parameters": info.parameters,
            "hash": info.hash,
            "bos_token": encoder.and_then(TextEncoder::bos),
            "start_token": encoder.and_then(TextEncoder::start),
        },
    })
}

async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = read_body(&app, request).await?;
    let request = read_completion(&body, app.defaults())?;
    answer(&app, Endpoint::Completion, request.prompts, request.echo, request.options).await
}

/// The tokens of a text, in the shape of vLLM's server, so that whoever measures this model from
/// elsewhere can send tokens.
async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = read_body(&app, request).await?;
    let (text, with_bos) = read_tokenize(&body, app.defaults())?;
    let model = app.engine.model();
    let encoder = model.encoder().ok_or_else(|| {
        ApiError::unsupported("", format!("{} does not tell its tokens", model.info().name))
    })?;
    let mut tokens = encoder.encode_text(&text, false)?;
    if let Some(bos) = encoder.bos().filter(|bos| with_bos && tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    Ok(json_response(&json!({
        "count": tokens.len(),
        "max_model_len": model.info().context_length,
        "tokens": tokens,
    })))
}

async fn chat_completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = read_body(&app, request).await?;
    let request = read_chat(&body, app.defaults())?;
    let prompt = app
        .format
        .render(&request.messages)
        .map_err(|message| ApiError::bad_request("messages", message))?;
    answer(&app, Endpoint::Chat, vec![prompt], false, request.options).await
}

/// Takes the body in, within the bounds of length and time. A body that is not declared as JSON
/// is refused: a page of another site can send plain text without the browser asking first.
async fn read_body(app: &App, request: Request) -> Result<Bytes, ApiError> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    if !content_type.eq_ignore_ascii_case("application/json") {
        let message = "the body must be JSON: send `Content-Type: application/json`";
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            message,
        ));
    }
    let limit = app.config.max_body;
    let too_large = || {
        let message = format!("the body is longer than the {limit} that this server takes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
            .code("body_too_large")
    };
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit.0) {
        return Err(too_large());
    }
    match timeout(app.config.body_timeout, to_bytes(request.into_body(), limit.0 as usize)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_length_limit(&error) => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::bad_request("", "the body ended before its time")),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            "the body did not arrive in time",
        )),
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        source = error.source();
    }
    false
}

/// Generates and answers, whole or as a stream.
async fn answer(
    app: &App,
    endpoint: Endpoint,
    prompts: Vec<Prompt>,
    echo: bool,
    options: Options,
) -> Result<Response, ApiError> {
    let reply = app.reply(endpoint, &options);
    let deadline = Instant::now() + app.config.request_timeout;
    let mut answers = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let shown = match &prompt {
            Prompt::Text { text, .. } if echo => Some(text.clone()),
            _ => None,
        };
        let job = job(app, endpoint, prompt, echo, &options);
        let left = deadline.saturating_duration_since(Instant::now());
        let mut running = app.engine.start(job, left).await?;
        // The first event decides the status: a prompt that does not fit is a 400, streamed or not.
        let first = running.next().await.unwrap_or(Event::Died);
        if options.stream {
            return stream_answer(reply, first, running);
        }
        let mut answered = whole_answer(first, running).await?;
        answered.prompt = match &answered.scores {
            // Tokens are shown as the text that they stand for.
            Some(scores) if shown.is_none() => Some(text_of(scores)),
            _ => shown,
        };
        answers.push(answered);
    }
    Ok(json_response(&reply.whole(&answers)))
}

fn job(app: &App, endpoint: Endpoint, prompt: Prompt, echo: bool, options: &Options) -> Job {
    let max_tokens_default = match (options.max_tokens, endpoint) {
        (Some(_), _) => None,
        (None, Endpoint::Chat) => Some(app.config.default_max_tokens),
        (None, Endpoint::Completion) => Some(COMPLETION_MAX_TOKENS),
    };
    let (text, parse_special) = match &prompt {
        Prompt::Text { text, parse_special } => (text.clone(), *parse_special),
        Prompt::Tokens(_) => (String::new(), false),
    };
    // Only the model knows which text tokens stand for.
    let score_prompt = echo && (options.logprobs.is_some() || matches!(prompt, Prompt::Tokens(_)));
    let request = GenerateRequest {
        prompt: text,
        parse_special,
        truncate_prompt: false,
        max_tokens: options.max_tokens.unwrap_or_default(),
        sampling: options.sampling,
        stop: options.stop.clone(),
        logprobs: options.logprobs,
    };
    Job { prompt, request, score_prompt, max_tokens_default }
}

/// Waits for the end of a generation.
async fn whole_answer(first: Event, mut running: Running) -> Result<Answered, ApiError> {
    let (mut pieces, mut scores) = (Vec::new(), None);
    let mut event = first;
    loop {
        match event {
            Event::Piece(piece) => pieces.push(piece),
            Event::Scores(found) => scores = Some(found),
            Event::Done(Ok(generation)) => {
                return Ok(Answered { generation, pieces, prompt: None, scores });
            }
            failure => return Err(failure_of(failure)),
        }
        event = running.next().await.unwrap_or(Event::Died);
    }
}

fn text_of(scores: &PromptScores) -> String {
    let bytes: Vec<u8> =
        scores.tokens.iter().flat_map(|token| token.bytes.iter().copied()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The error of an event that ended a generation badly.
fn failure_of(event: Event) -> ApiError {
    match event {
        Event::Done(Err(error)) => error.into(),
        Event::TimedOut => ApiError::timed_out(),
        Event::ShuttingDown => ApiError::shutting_down(),
        Event::Died | Event::Scores(_) | Event::Piece(_) | Event::Done(Ok(_)) => {
            ApiError::model_failed("the model broke off without an answer")
        }
    }
}

fn stream_answer(reply: Reply, first: Event, running: Running) -> Result<Response, ApiError> {
    if !matches!(first, Event::Piece(_) | Event::Done(Ok(_))) {
        return Err(failure_of(first));
    }
    let frames = reply.opening().map(|chunk| frame(&chunk)).into_iter().collect();
    let mut stream = AnswerStream { reply, running, frames, offset: 0 };
    stream.push(first);
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Asks a reverse proxy (nginx) to pass each piece on at once.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Turns a generation's events into server-sent events.
struct AnswerStream {
    reply: Reply,
    running: Running,
    frames: VecDeque<Bytes>,
    /// Characters sent so far.
    offset: usize,
}

impl AnswerStream {
    fn push(&mut self, event: Event) {
        match event {
            Event::Piece(piece) => {
                let chunk = self.reply.piece(&piece, &mut self.offset);
                self.frames.push_back(frame(&chunk));
            }
            Event::Done(Ok(generation)) => {
                self.frames.extend(self.reply.closing(&generation).iter().map(frame));
                self.frames.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
            }
            failure => self.frames.push_back(frame(&failure_of(failure).to_json())),
        }
    }
}

impl Stream for AnswerStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            match ready!(self.running.poll_next(cx)) {
                Some(event) => self.push(event),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// One server-sent event; JSON has no line breaks outside its texts, where they are escaped.
fn frame(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

fn json_response(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A setting as a person wrote it, without the digits that f32 adds.
fn round(value: f32) -> f64 {
    (f64::from(value) * 1e6).round() / 1e6
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read_without_port() {
        for (host, name) in [
            ("localhost", "localhost"),
            ("localhost:80", "localhost"),
            ("[::1]:80", "::1"),
            ("127.0.0.1:8080", "127.0.0.1"),
            ("evil.example:8080", "evil.example"),
            ("", ""),
        ] {
            assert_eq!(host_name(host), name);
        }
    }
}

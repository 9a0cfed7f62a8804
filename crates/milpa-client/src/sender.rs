//! From a question to its answer: what is remembered, when to send, what to repeat, when to stop.
//!
//! Repeated are: too many requests (429), a server's own failures (5xx), timeouts, broken
//! connections and answers that are not what they should be; the waits between double, less a
//! random part drawn from the seed, and last at least as long as the endpoint asks for.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use milpa_base::{Digest, EndpointRecord, ModelError};
use serde_json::Value;

use crate::{
    answers::Answers,
    config::EndpointConfig,
    error::ClientError,
    http::{Http, HttpFailure, HttpReply},
    meter::{Meter, Usage},
    wire::{Answer, Ask, Quirks, error_message, read_answer},
};

/// Longest wait before another attempt that is not the endpoint's wish.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);
/// Longest wait that an endpoint may ask for.
const LONGEST_WISH: Duration = Duration::from_mins(10);
/// A stop is heard within this time.
const STOP_HEARD: Duration = Duration::from_millis(50);

/// Why there is no answer to a question.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The endpoint says no to this question, with this status and reason.
    Refused { status: u16, message: String },
    /// There is no such model or path.
    Missing(String),
    /// Nothing more can be asked.
    Failed(String),
}

impl From<Unanswered> for ModelError {
    fn from(error: Unanswered) -> Self {
        match error {
            Unanswered::Refused { message, .. } => Self::BadRequest(message),
            Unanswered::Missing(message) | Unanswered::Failed(message) => Self::Failed(message),
        }
    }
}

/// Asks one model of one endpoint.
pub(crate) struct Sender {
    config: EndpointConfig,
    http: Http,
    answers: Answers,
    meter: Mutex<Meter>,
    one_token_more: AtomicBool,
    max_completion_tokens: AtomicBool,
}

/// What an attempt came to.
enum Attempt {
    Reply(HttpReply),
    /// It may be made again.
    Again {
        problem: &'static str,
        detail: String,
        wish: Option<Duration>,
    },
    Never(Unanswered),
}

impl Sender {
    pub(crate) fn new(config: EndpointConfig) -> Result<Self, ClientError> {
        config.check()?;
        let http = Http::new(&config)?;
        let answers = Answers::open(config.answers.as_deref())?;
        let meter = Mutex::new(Meter::new(&config, "", None));
        let (one_token_more, max_completion_tokens) =
            (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { config, http, answers, meter, one_token_more, max_completion_tokens })
    }

    /// Says which model is asked from now on.
    ///
    /// # Errors
    /// Prices that do not have it.
    pub(crate) fn set_model(&mut self, model: &str) -> Result<(), ClientError> {
        let price = match &self.config.prices {
            None => None,
            Some(prices) => {
                Some(*prices.models.get(model).ok_or_else(|| ClientError::Setting {
                    name: "--prices",
                    problem: format!("has no [models.{model:?}]"),
                })?)
            }
        };
        self.config.model = Some(model.to_owned());
        *self.meter() = Meter::new(&self.config, model, price);
        Ok(())
    }

    pub(crate) fn config(&self) -> &EndpointConfig {
        &self.config
    }

    fn model(&self) -> &str {
        self.config.model.as_deref().unwrap_or_default()
    }

    pub(crate) fn record(&self) -> EndpointRecord {
        self.meter().record()
    }

    pub(crate) fn problem(&self, kind: &str) {
        self.meter().problem(kind);
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn quirks(&self) -> Quirks {
        Quirks {
            one_token_more: self.one_token_more.load(SeqCst),
            max_completion_tokens: self.max_completion_tokens.load(SeqCst),
        }
    }

    /// The answer to a question: a remembered one, or one that is asked for now.
    pub(crate) fn ask(&self, ask: &Ask) -> Result<Answer, Unanswered> {
        let key = ask.key(self.config.url.as_str(), self.model());
        let sampling = ask.generation.as_ref().map(|generation| generation.sampling);
        if let Some((answer, is_old)) = self.answers.get(&key) {
            if is_old {
                let mut meter = self.meter();
                meter.remember();
                meter.note(&answer, sampling);
            }
            return Ok(answer);
        }
        let url = self.config.url.join(ask.path());
        let (mut last, mut wish) = (String::new(), None);
        let mut attempt = 0;
        while attempt < self.config.attempts {
            if attempt > 0 {
                self.back_off(attempt, key, wish)?;
            }
            let quirks = self.quirks();
            let most = Usage {
                prompt_tokens: ask.prompt_estimate(),
                completion_tokens: ask.completion_estimate(quirks),
            };
            let at = self.admit(most, attempt > 0)?;
            let sent = self
                .wait_until(at)
                .map(|()| self.attempt(&url, Some(&ask.body(self.model(), quirks))));
            let outcome = match sent {
                Ok(Attempt::Reply(reply)) => match read(&reply, ask) {
                    Ok(answer) => {
                        let mut meter = self.meter();
                        meter.settle(most, Some(&answer));
                        meter.note(&answer, sampling);
                        drop(meter);
                        return self.accept(key, answer, ask);
                    }
                    Err(again) => again,
                },
                Ok(other) => other,
                Err(stopped) => Attempt::Never(stopped),
            };
            self.meter().settle(most, None);
            match outcome {
                // The same question in the way that this endpoint wants it.
                Attempt::Never(Unanswered::Refused { message, .. })
                    if self.learns(ask, quirks, &message) => {}
                Attempt::Never(unanswered) => {
                    if let Unanswered::Refused { status: status @ 300.., .. } = &unanswered {
                        self.problem(&format!("refused ({status})"));
                    }
                    return Err(unanswered);
                }
                Attempt::Again { problem, detail, wish: asked } => {
                    self.problem(problem);
                    (last, wish) = (format!("{problem}: {detail}"), asked);
                    attempt += 1;
                }
                Attempt::Reply(_) => unreachable!("replies were read above"),
            }
        }
        Err(self.gave_up(attempt, &last))
    }

    /// Waits until the budget is known to bear an attempt; says when it may be sent.
    fn admit(&self, most: Usage, is_repeated: bool) -> Result<Instant, Unanswered> {
        loop {
            let admitted = self.meter().admit(most, is_repeated);
            match admitted.map_err(|reason| self.over_budget(&reason))? {
                Some(at) => return Ok(at),
                None => self.wait_until(Instant::now() + STOP_HEARD)?,
            }
        }
    }

    /// Gets or posts what costs nothing: the list of models, the tokens of a text.
    pub(crate) fn ask_free(
        &self,
        url: &str,
        body: Option<&Value>,
        attempts: u32,
    ) -> Result<Value, Unanswered> {
        let (mut last, mut wish) = (String::new(), None);
        for attempt in 0..attempts {
            if attempt > 0 {
                self.back_off(attempt, Digest([0; 32]), wish)?;
            }
            match self.attempt(url, body) {
                Attempt::Reply(reply) => match serde_json::from_slice(&reply.body) {
                    Ok(value) => return Ok(value),
                    Err(error) => {
                        (last, wish) = (format!("an answer that is not JSON: {error}"), None);
                    }
                },
                Attempt::Never(unanswered) => return Err(unanswered),
                Attempt::Again { problem, detail, wish: asked } => {
                    self.problem(problem);
                    (last, wish) = (format!("{problem}: {detail}"), asked);
                }
            }
        }
        Err(self.gave_up(attempts, &last))
    }

    /// Sends once.
    fn attempt(&self, url: &str, body: Option<&Value>) -> Attempt {
        let again = |problem, detail: String| Attempt::Again { problem, detail, wish: None };
        let never = |message: String| Attempt::Never(Unanswered::Failed(message));
        let reply = match self.http.send(url, body) {
            Ok(reply) => reply,
            Err(HttpFailure::Timeout) => {
                let seconds = self.config.timeout.as_secs_f64();
                return again("timeout", format!("no answer within {seconds} s (--timeout)"));
            }
            Err(HttpFailure::NotConnected) => {
                return again("no connection", format!("nothing answers at {url}"));
            }
            Err(HttpFailure::BrokenOff) => {
                return again("connection broken off", format!("{url} ended half-way"));
            }
            Err(HttpFailure::TooLarge) => {
                self.problem("answer too long");
                let limit = self.config.max_body;
                return Attempt::Never(Unanswered::Refused {
                    status: 200,
                    message: format!("the endpoint's answer is longer than {limit}"),
                });
            }
            Err(HttpFailure::Certificate) => {
                return never(format!(
                    "{url} shows no certificate that is trusted here, or does not speak https; name its \
                     authority with --ca-file, or check the address"
                ));
            }
            Err(HttpFailure::Other) => return never(format!("{url} cannot be asked")),
        };
        let message = self.http.hide_key(&error_message(&reply.body));
        match reply.status {
            200..=299 => Attempt::Reply(reply),
            401 | 403 => never(format!(
                "{url} does not accept the key (status {}: {message}); check the variable named by \
                 --api-key-env",
                reply.status
            )),
            402 => never(format!("{url} wants to be paid first: {message}")),
            404 | 405 => Attempt::Never(Unanswered::Missing(format!(
                "{url} has no such model or path (status {}: {message}); check --endpoint and --model",
                reply.status
            ))),
            300..=399 => never(format!(
                "{url} sends elsewhere (status {}), and the key is not sent along; give the right \
                 address with --endpoint",
                reply.status
            )),
            status @ (408 | 425 | 429 | 500..=599) if !reply.no_retry => {
                if let Some(wish) = reply.retry_after {
                    if wish > LONGEST_WISH {
                        return never(format!(
                            "{url} asks to come back in {} s (status {status}: {message})",
                            wish.as_secs()
                        ));
                    }
                    // What holds for one request holds for all that are to follow.
                    self.meter().pause(wish);
                }
                let problem =
                    if status == 429 { "too many requests (429)" } else { "server error" };
                Attempt::Again {
                    problem,
                    detail: format!("status {status}: {message}"),
                    wish: reply.retry_after,
                }
            }
            status @ 500..=599 => never(format!("{url} gave up (status {status}: {message})")),
            status => Attempt::Never(Unanswered::Refused { status, message }),
        }
    }

    /// Counts what is odd about an answer, and remembers it.
    fn accept(&self, key: Digest, answer: Answer, ask: &Ask) -> Result<Answer, Unanswered> {
        if answer.model.as_deref().is_some_and(|model| model != self.model()) {
            self.problem("answered under another model's name");
        }
        if ask.generation.is_some() {
            if answer.text.trim().is_empty() {
                self.problem("empty answer");
            }
            let (bytes, limit) = (answer.text.len() as u64, self.config.max_text);
            if bytes > limit.0 {
                self.problem("answer too long");
                let message = format!("the endpoint's answer is longer than {limit}");
                return Err(Unanswered::Refused { status: 200, message });
            }
        }
        self.answers.keep(key, answer).map_err(|error| Unanswered::Failed(error.to_string()))
    }

    /// Whether a refusal tells of something that this endpoint wants otherwise, so that the same
    /// question can be put again.
    fn learns(&self, ask: &Ask, quirks: Quirks, message: &str) -> bool {
        let scores = ask.generation.is_none();
        // Not a prompt that is too long, of which max_tokens is told as well.
        let wants_more = ["at least", "greater", "positive", "minimum", "between", ">"];
        let wants_one =
            message.contains("max_tokens") && wants_more.iter().any(|word| message.contains(word));
        if scores && !quirks.one_token_more && wants_one {
            self.one_token_more.store(true, SeqCst);
            return true;
        }
        if !scores && !quirks.max_completion_tokens && message.contains("max_completion_tokens") {
            self.max_completion_tokens.store(true, SeqCst);
            return true;
        }
        false
    }

    fn back_off(
        &self,
        attempt: u32,
        key: Digest,
        wish: Option<Duration>,
    ) -> Result<(), Unanswered> {
        let doubled = self.config.backoff.saturating_mul(1 << (attempt - 1).min(16));
        let number = u64::from_le_bytes(key.0[..8].try_into().expect("a digest has 32 bytes"));
        let share = self.config.seed.nth(number).f64_at(u64::from(attempt));
        let wait = doubled.min(LONGEST_BACKOFF).mul_f64(1.0 - 0.5 * share);
        self.wait_until(Instant::now() + wait.max(wish.unwrap_or_default()))
    }

    fn wait_until(&self, at: Instant) -> Result<(), Unanswered> {
        loop {
            if self.config.stop.is_set() {
                return Err(Unanswered::Failed("interrupted".to_owned()));
            }
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STOP_HEARD));
        }
    }

    /// What to do next where answers were kept.
    fn kept(&self) -> String {
        match &self.config.answers {
            Some(path) if !self.answers.is_empty() => format!(
                "; finished answers are kept in {}: the same command asks only the rest",
                path.display()
            ),
            _ => String::new(),
        }
    }

    fn over_budget(&self, reason: &str) -> Unanswered {
        Unanswered::Failed(format!("the budget is used up: {reason}{}", self.kept()))
    }

    fn gave_up(&self, attempts: u32, last: &str) -> Unanswered {
        let plural = if attempts == 1 { "" } else { "s" };
        Unanswered::Failed(format!(
            "no answer in {attempts} attempt{plural}; the last one: {last}{}",
            self.kept()
        ))
    }
}

/// Reads an answer, or says why it is asked for again.
fn read(reply: &HttpReply, ask: &Ask) -> Result<Answer, Attempt> {
    let again = |problem, detail| Attempt::Again { problem, detail, wish: None };
    let body: Value = serde_json::from_slice(&reply.body)
        .map_err(|error| again("answer that is not JSON", error.to_string()))?;
    read_answer(&body, ask).map_err(|problem| again("answer of another shape", problem))
}

//! Where an endpoint is, and how much may be asked of it.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use milpa_base::{Bytes, Seed, StopFlag};
use serde::Deserialize;

use crate::error::ClientError;

/// The address of an endpoint, up to and with `/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    text: String,
    authority: String,
    is_encrypted: bool,
}

impl EndpointUrl {
    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The address as text, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Refuses plain HTTP to another machine.
    ///
    /// # Errors
    /// [`ClientError::Insecure`].
    pub fn check_encrypted(&self) -> Result<(), ClientError> {
        if self.is_encrypted || self.is_loopback() {
            return Ok(());
        }
        Err(ClientError::Insecure { url: self.text.clone() })
    }

    /// Whether the endpoint is on this machine.
    pub fn is_loopback(&self) -> bool {
        let host = match self.authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.authority.split(':').next().unwrap_or_default(),
        };
        host.eq_ignore_ascii_case("localhost")
            || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// The address of `path` under `/v1`.
    pub(crate) fn join(&self, path: &str) -> String {
        format!("{}/{path}", self.text)
    }

    /// The address of `path` beside `/v1`.
    pub(crate) fn beside(&self, path: &str) -> String {
        let root = self.text.strip_suffix("/v1").unwrap_or(&self.text);
        format!("{root}/{path}")
    }
}

impl FromStr for EndpointUrl {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        // What stands before an @ may be a password: it is not repeated.
        let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest).to_owned();
        let bad = |problem| ClientError::Url { url: shown.clone(), problem };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no https://"))?;
        let is_encrypted = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(bad("it is neither https:// nor http://")),
        };
        if rest.contains('@') {
            return Err(bad("a user or password may not stand in it; use --api-key-env"));
        }
        if rest.contains(['?', '#']) || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(bad("it has a query, a fragment or a space"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() {
            return Err(bad("it names no host"));
        }
        let mut path = path.trim_matches('/');
        for end in ["/chat/completions", "/completions", "/models"] {
            path = path.strip_suffix(end).unwrap_or(path);
        }
        let path = if path.is_empty() { "v1" } else { path };
        let scheme = scheme.to_ascii_lowercase();
        Ok(Self {
            text: format!("{scheme}://{authority}/{path}"),
            authority: authority.to_owned(),
            is_encrypted,
        })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The key of an endpoint; it is never shown.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// The value of the `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` without the key, should an endpoint repeat it.
    pub(crate) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, "…")
    }
}

impl FromStr for ApiKey {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClientError::Key);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Which of an endpoint's ways to generate is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Api {
    /// Conversations go to `/v1/chat/completions`, plain texts to `/v1/completions`.
    #[default]
    Auto,
    /// Everything goes to `/v1/completions`.
    Completions,
    /// Everything goes to `/v1/chat/completions`; a plain text as one user's message.
    Chat,
}

/// What may be spent; what is not set has no bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Budget {
    /// Attempts, repeated ones included.
    pub max_requests: Option<u64>,
    /// Tokens of prompts and completions together.
    pub max_tokens: Option<u64>,
    /// Money, in the currency of the prices.
    pub max_cost: Option<f64>,
}

/// What models cost: a file in TOML.
///
/// ```toml
/// currency = "USD"
/// [models."model-name"]
/// prompt_per_million = 0.15
/// completion_per_million = 0.60
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The currency of all amounts.
    pub currency: String,
    /// Prices by the name of the model.
    pub models: BTreeMap<String, ModelPrice>,
}

/// What one model costs.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// A million tokens of prompts.
    pub prompt_per_million: f64,
    /// A million tokens of completions.
    pub completion_per_million: f64,
    /// Each request.
    #[serde(default)]
    pub per_request: f64,
}

impl ModelPrice {
    /// The price of one request.
    pub fn of(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        self.per_request
            + (prompt_tokens as f64 * self.prompt_per_million
                + completion_tokens as f64 * self.completion_per_million)
                / 1e6
    }
}

/// An endpoint and how it is asked.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Where it is.
    pub url: EndpointUrl,
    /// The model's name there; an endpoint with one model needs none.
    pub model: Option<String>,
    /// The key, if it wants one.
    pub key: Option<ApiKey>,
    /// How generation is asked for.
    pub api: Api,
    /// Whether prompts with special tokens are texts of a chat template, made with the endpoint's
    /// own tokenizer, rather than messages ([`messages_prompt`](crate::messages_prompt)).
    pub renders_chats: bool,
    /// Tokens that the model takes, where the endpoint does not say.
    pub context_length: Option<usize>,
    /// Requests under way at a time.
    pub concurrency: usize,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Attempts at one request, the first included.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles from there, up to a minute, less a random part.
    pub backoff: Duration,
    /// Requests in a minute, evenly spread.
    pub requests_per_minute: Option<f64>,
    /// Tokens in a minute, evenly spread.
    pub tokens_per_minute: Option<f64>,
    /// What may be spent.
    pub budget: Budget,
    /// What models cost.
    pub prices: Option<Prices>,
    /// Longest body of an answer.
    pub max_body: Bytes,
    /// Longest generated text.
    pub max_text: Bytes,
    /// Seed of the random part of waits.
    pub seed: Seed,
    /// Address of an HTTP proxy; none is used unless stated.
    pub proxy: Option<String>,
    /// Certificates of the authorities that are trusted: a file in PEM. Needed for https.
    pub ca_file: Option<PathBuf>,
    /// File of remembered answers.
    pub answers: Option<PathBuf>,
    /// Set by whoever wants it all to stop.
    pub stop: StopFlag,
}

impl EndpointConfig {
    /// An endpoint with the usual settings.
    pub fn new(url: EndpointUrl) -> Self {
        Self {
            url,
            model: None,
            key: None,
            api: Api::Auto,
            renders_chats: false,
            context_length: None,
            concurrency: 4,
            timeout: Duration::from_mins(5),
            attempts: 6,
            backoff: Duration::from_secs(1),
            requests_per_minute: None,
            tokens_per_minute: None,
            budget: Budget::default(),
            prices: None,
            max_body: Bytes(64 << 20),
            max_text: Bytes(1 << 20),
            seed: Seed(0),
            proxy: None,
            ca_file: None,
            answers: None,
            stop: StopFlag::default(),
        }
    }

    /// Refuses settings that make no sense.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let bad =
            |name, problem: &str| Err(ClientError::Setting { name, problem: problem.to_owned() });
        let positive = |value: f64| value > 0.0 && value.is_finite();
        if !(1..=256).contains(&self.concurrency) {
            return bad("--concurrency", "is between 1 and 256");
        }
        if self.attempts == 0 {
            return bad("--attempts", "is at least 1");
        }
        if !self.requests_per_minute.is_none_or(positive) {
            return bad("--requests-per-minute", "is a number above 0");
        }
        if !self.tokens_per_minute.is_none_or(positive) {
            return bad("--tokens-per-minute", "is a number above 0");
        }
        if !self.budget.max_cost.is_none_or(|cost| cost >= 0.0 && cost.is_finite()) {
            return bad("--max-cost", "is a number from 0 up");
        }
        if self.budget.max_cost.is_some() && self.prices.is_none() {
            return bad("--max-cost", "needs --prices: a file that says what the model costs");
        }
        let prices = self.prices.iter().flat_map(|prices| prices.models.values());
        let amounts = |price: &ModelPrice| {
            [price.prompt_per_million, price.completion_per_million, price.per_request]
        };
        if prices.flat_map(amounts).any(|amount| !(amount >= 0.0 && amount.is_finite())) {
            return bad("--prices", "holds an amount that is no number from 0 up");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &str>) {
        match (text.parse::<EndpointUrl>(), expect) {
            (Ok(url), Ok(expect)) => assert_eq!(url.as_str(), expect),
            (Err(error), Err(part)) => {
                let error = error.to_string();
                assert!(error.contains(part) && !error.contains("secret"), "{error}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn an_address_goes_up_to_v1() {
        check("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080/v1"));
        check("HTTPS://a.example/v1/", Ok("https://a.example/v1"));
        check("https://a.example/openai/v1/chat/completions", Ok("https://a.example/openai/v1"));
        check("https://a.example/v1/completions", Ok("https://a.example/v1"));
        check("a.example/v1", Err("no https://"));
        check("ftp://a.example", Err("neither"));
        check("https://me:secret@a.example/v1", Err("--api-key-env"));
        check("https://a.example/v1?key=x", Err("query"));
        check("https:///v1", Err("no host"));
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        let check = |text: &str, expect: bool| {
            let url: EndpointUrl = text.parse().unwrap();
            assert_eq!(url.check_encrypted().is_ok(), expect, "{text}");
        };
        check("http://localhost:1/v1", true);
        check("http://127.0.0.9:1", true);
        check("http://[::1]:8080/v1", true);
        check("http://192.168.1.4:8080", false);
        check("http://localhost.example", false);
        check("http://127.0.0.1.example", false);
        check("https://a.example", true);
    }

    #[test]
    fn a_key_is_never_shown() {
        let key: ApiKey = " sk-1234 \n".parse().unwrap();
        assert_eq!(format!("{key:?}"), "ApiKey(…)");
        assert_eq!(key.hide_in("wrong key sk-1234."), "wrong key ….");
        assert!("a b".parse::<ApiKey>().is_err() && "".parse::<ApiKey>().is_err());
    }

    #[test]
    fn a_price_is_by_the_million() {
        let price =
            ModelPrice { prompt_per_million: 0.5, completion_per_million: 2.0, per_request: 0.25 };
        assert!((price.of(1_000_000, 500_000) - 1.75).abs() < 1e-12);
    }
}

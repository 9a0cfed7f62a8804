//! Messages to an address that wants to hear of something: small JSON by POST.
//!
//! An attempt has a time limit, and attempts are few: whoever sends has other work. The address may be
//! a secret by itself, so of it only the host is ever shown.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use milpa_base::{Bytes, StopFlag};
use serde_json::Value;

use crate::{
    config::{EndpointConfig, EndpointUrl},
    error::ClientError,
    http::{Http, HttpFailure},
};

/// Longest answer that is read; what it says does not matter.
const MOST_ANSWER: Bytes = Bytes(64 << 10);
/// A stop is heard within this time.
const STOP_HEARD: Duration = Duration::from_millis(50);
/// Longest wait that the other side may ask for.
const LONGEST_WISH: Duration = Duration::from_secs(30);

/// How messages are sent.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Longest wait for an answer to one attempt.
    pub timeout: Duration,
    /// Attempts at one message, the first included.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles from there.
    pub backoff: Duration,
    /// Certificates of the authorities that are trusted: a file in PEM. Needed for https.
    pub ca_file: Option<PathBuf>,
    /// Set by whoever wants it all to stop.
    pub stop: StopFlag,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            attempts: 4,
            backoff: Duration::from_secs(1),
            ca_file: None,
            stop: StopFlag::default(),
        }
    }
}

/// An address that messages are posted to.
pub struct Webhook {
    url: String,
    host: String,
    http: Http,
    config: WebhookConfig,
}

impl Webhook {
    /// Takes an address such as `https://host.example/hooks/name`.
    ///
    /// # Errors
    /// It is no address, it is plain HTTP to another machine, or the certificates cannot be read.
    pub fn new(url: &str, config: WebhookConfig) -> Result<Self, ClientError> {
        let bad = |problem: &str| ClientError::Webhook { problem: problem.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it has no https://"))?;
        if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(bad("there is a space in it"));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let base: EndpointUrl =
            format!("{scheme}://{authority}").parse().map_err(|error| match error {
                ClientError::Url { problem, .. } => bad(problem),
                other => other,
            })?;
        if base.check_encrypted().is_err() {
            return Err(bad(
                "it is not encrypted and not on this machine: whoever is on the way could read what \
                 is sent; use https",
            ));
        }
        let host = base.authority().to_owned();
        let http = Http::new(&EndpointConfig {
            timeout: config.timeout,
            ca_file: config.ca_file.clone(),
            concurrency: 1,
            max_body: MOST_ANSWER,
            ..EndpointConfig::new(base)
        })?;
        Ok(Self { url: url.to_owned(), host, http, config })
    }

    /// Posts a message; repeats what can be repeated.
    ///
    /// # Errors
    /// It was not taken, and why not.
    pub fn post(&self, message: &Value) -> Result<(), ClientError> {
        let mut attempt = 1;
        loop {
            let (problem, wish) = match self.http.send(&self.url, Some(message)) {
                Ok(reply) => match reply.status {
                    200..=299 => return Ok(()),
                    status @ (408 | 425 | 429 | 500..=599) if !reply.no_retry => {
                        (format!("it answers with status {status}"), reply.retry_after)
                    }
                    status @ 300..=399 => {
                        let problem =
                            format!("it sends elsewhere (status {status}), which is not followed");
                        return Err(self.failed(&problem, attempt));
                    }
                    status => {
                        return Err(
                            self.failed(&format!("it refuses with status {status}"), attempt)
                        );
                    }
                },
                // Taken, with more to say than is read.
                Err(HttpFailure::TooLarge) => return Ok(()),
                Err(HttpFailure::Timeout) => {
                    (format!("no answer within {} s", self.config.timeout.as_secs_f64()), None)
                }
                Err(HttpFailure::NotConnected) => ("nothing answers there".to_owned(), None),
                Err(HttpFailure::BrokenOff) => ("the connection broke off".to_owned(), None),
                Err(HttpFailure::Certificate) => {
                    let problem = "it shows no certificate that is trusted here; name its authority with \
                                   --webhook-ca-file";
                    return Err(self.failed(problem, attempt));
                }
                Err(HttpFailure::Other) => return Err(self.failed("it cannot be asked", attempt)),
            };
            if attempt >= self.config.attempts {
                return Err(self.failed(&problem, attempt));
            }
            let doubled = self.config.backoff.saturating_mul(1 << (attempt - 1).min(16));
            let until = Instant::now() + doubled.max(wish.unwrap_or_default()).min(LONGEST_WISH);
            while Instant::now() < until {
                if self.config.stop.is_set() {
                    return Err(self.failed(&problem, attempt));
                }
                thread::sleep(STOP_HEARD.min(until.saturating_duration_since(Instant::now())));
            }
            attempt += 1;
        }
    }

    /// Host and port of the address.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn failed(&self, problem: &str, attempts: u32) -> ClientError {
        let plural = if attempts == 1 { "" } else { "s" };
        ClientError::Webhook {
            problem: format!(
                "{} took no message in {attempts} attempt{plural}: {problem}",
                self.host
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;

    fn refused(url: &str, part: &str) {
        let error = Webhook::new(url, WebhookConfig::default()).err().expect(url).to_string();
        assert!(error.contains(part) && !error.contains("secret"), "{error}");
    }

    #[test]
    fn an_address_that_cannot_be_meant_is_refused_without_being_shown() {
        refused("host.example/hooks", "no https://");
        refused("ftp://host.example/secret", "neither");
        refused("http://host.example/secret", "use https");
        refused("http://user:secret@127.0.0.1/", "user or password");
        refused("https:///secret", "no host");
        refused("https://host.example/ secret", "space");
        assert!(Webhook::new("http://127.0.0.1:9/secret?a=b", WebhookConfig::default()).is_ok());
    }

    /// Answers one request after the other with these statuses; gives the bodies.
    fn answer(statuses: &'static [u16]) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hooks/secret?key=secret", listener.local_addr().unwrap());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut text, mut buffer) = (String::new(), [0; 4096]);
                while !text.contains("\r\n\r\n") || !text.ends_with('}') {
                    let count = stream.read(&mut buffer).unwrap();
                    text += std::str::from_utf8(&buffer[..count]).unwrap();
                }
                assert!(text.starts_with("POST /hooks/secret?key=secret HTTP/1.1\r\n"), "{text}");
                sender.send(text.split_once("\r\n\r\n").unwrap().1.to_owned()).unwrap();
                let head = "content-length: 0\r\nconnection: close\r\n";
                write!(stream, "HTTP/1.1 {status} x\r\n{head}\r\n").unwrap();
            }
        });
        (url, receiver)
    }

    fn quick() -> WebhookConfig {
        WebhookConfig { backoff: Duration::from_millis(1), attempts: 3, ..WebhookConfig::default() }
    }

    #[test]
    fn a_message_is_repeated_until_it_is_taken() {
        let (url, bodies) = answer(&[503, 429, 204]);
        let webhook = Webhook::new(&url, quick()).unwrap();
        webhook.post(&serde_json::json!({"kind": "test"})).unwrap();
        assert_eq!(bodies.iter().collect::<Vec<_>>(), ["{\"kind\":\"test\"}"; 3]);
    }

    #[test]
    fn what_is_refused_is_not_repeated() {
        let (url, bodies) = answer(&[404]);
        let webhook = Webhook::new(&url, quick()).unwrap();
        let error = webhook.post(&serde_json::json!({})).unwrap_err().to_string();
        assert!(error.contains("refuses with status 404") && !error.contains("secret"), "{error}");
        assert_eq!(bodies.iter().count(), 1);
        // And now nobody listens any more.
        let error = webhook.post(&serde_json::json!({})).unwrap_err().to_string();
        assert!(error.contains("in 3 attempts: ") && !error.contains("secret"), "{error}");
    }
}

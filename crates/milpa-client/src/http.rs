//! One attempt: a request over the wire and a bounded answer back.
//!
//! Redirects are not followed (the key would go along), and no proxy is used unless stated.

use std::{io, sync::Arc, time::Duration};

use milpa_base::Bytes;
use serde_json::Value;
use ureq::{
    Agent,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::{
    config::{ApiKey, EndpointConfig},
    error::ClientError,
};

/// Longest file of certificates in bytes.
const MAX_CA_BYTES: u64 = 16 << 20;
/// Longest head of an answer in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer as it came.
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    /// What `Retry-After` asks for, where it gives seconds.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the server says that asking again is of no use.
    pub(crate) no_retry: bool,
    pub(crate) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpFailure {
    Timeout,
    NotConnected,
    BrokenOff,
    TooLarge,
    Certificate,
    Other,
}

/// Sends requests to one endpoint.
pub(crate) struct Http {
    agent: Agent,
    key: Option<ApiKey>,
    max_body: Bytes,
}

impl Http {
    pub(crate) fn new(config: &EndpointConfig) -> Result<Self, ClientError> {
        let proxy = match &config.proxy {
            Some(text) => Some(ureq::Proxy::new(text).map_err(|_| ClientError::Setting {
                name: "--proxy",
                problem: "is no address of a proxy, such as http://host:3128".to_owned(),
            })?),
            None => None,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
        if let Some(path) = &config.ca_file {
            let no_certificates = || ClientError::Certificates { path: path.clone() };
            let length = std::fs::metadata(path).map_err(|_| no_certificates())?.len();
            if length > MAX_CA_BYTES {
                return Err(no_certificates());
            }
            let pem = std::fs::read(path).map_err(|_| no_certificates())?;
            let found: Vec<_> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if found.is_empty() {
                return Err(no_certificates());
            }
            tls = tls.root_certs(RootCerts::Specific(Arc::new(found)));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .tls_config(tls.build())
            .user_agent(concat!("milpa/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(config.timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(config.timeout)))
            .max_response_header_size(MAX_HEAD_BYTES)
            .max_idle_connections_per_host(config.concurrency)
            .no_delay(true)
            .build()
            .new_agent();
        Ok(Self { agent, key: config.key.clone(), max_body: config.max_body })
    }

    /// `text` without the key.
    pub(crate) fn hide_key(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.hide_in(text))
    }

    /// Gets `url`, or posts `body` to it.
    pub(crate) fn send(&self, url: &str, body: Option<&Value>) -> Result<HttpReply, HttpFailure> {
        let sent = if let Some(body) = body {
            let mut request = self.agent.post(url).header("content-type", "application/json");
            if let Some(key) = &self.key {
                request = request.header("authorization", key.header());
            }
            request.send(body.to_string())
        } else {
            let mut request = self.agent.get(url);
            if let Some(key) = &self.key {
                request = request.header("authorization", key.header());
            }
            request.call()
        };
        let mut response = sent.map_err(|error| failure(&error))?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header("retry-after")
            .and_then(|text| text.trim().parse::<f64>().ok())
            .filter(|seconds| (0.0..=86_400.0).contains(seconds))
            .map(Duration::from_secs_f64);
        let no_retry = header("x-should-retry") == Some("false");
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(self.max_body.0)
            .read_to_vec()
            .map_err(|error| failure(&error))?;
        Ok(HttpReply { status, retry_after, no_retry, body })
    }
}

fn failure(error: &ureq::Error) -> HttpFailure {
    match error {
        ureq::Error::Timeout(_) => HttpFailure::Timeout,
        ureq::Error::BodyExceedsLimit(_) | ureq::Error::LargeResponseHeader(..) => {
            HttpFailure::TooLarge
        }
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpFailure::NotConnected,
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => HttpFailure::Timeout,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => HttpFailure::NotConnected,
            // rustls hands certificates that do not hold on as invalid data.
            io::ErrorKind::InvalidData => HttpFailure::Certificate,
            _ => HttpFailure::BrokenOff,
        },
        ureq::Error::Protocol(_) | ureq::Error::BodyStalled => HttpFailure::BrokenOff,
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => HttpFailure::Certificate,
        _ => HttpFailure::Other,
    }
}

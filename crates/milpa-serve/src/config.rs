//! Where and for whom the server listens, and the bounds of what a client may ask of it.
//!
//! Everything is checked before a socket is opened: an address that other machines can reach
//! needs a key.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use milpa_base::{Bytes, Sampling, hash_bytes};

/// Shortest key that is accepted, in characters.
const MIN_KEY_CHARS: usize = 16;

/// How the server listens and what it allows.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// What clients must send as `Authorization: Bearer …`; needed unless `bind` is loopback.
    pub api_key: Option<ApiKey>,
    /// Names besides `localhost` under which a loopback server may be asked, such as the name of
    /// a reverse proxy on the same machine.
    pub allowed_hosts: Vec<String>,
    /// How tokens are drawn where a request does not say.
    pub sampling: Sampling,
    /// New tokens of a chat answer where a request does not say (less where the context ends).
    pub default_max_tokens: usize,
    /// Longest request body.
    pub max_body: Bytes,
    /// Requests that may wait for their turn; one more is refused with 429.
    pub max_queue: usize,
    /// Connections served at a time; more wait in the system's backlog.
    pub max_connections: usize,
    /// Time for a request's head to arrive, and for a kept connection to stay idle.
    pub header_timeout: Duration,
    /// Time for a request's body to arrive.
    pub body_timeout: Duration,
    /// Longest time that a client may leave an answer unread before it is dropped.
    pub stall_timeout: Duration,
    /// Longest time for one request, waiting included.
    pub request_timeout: Duration,
    /// Time that running requests get to finish when the server is asked to end.
    pub shutdown_grace: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            api_key: None,
            allowed_hosts: Vec::new(),
            sampling: Sampling::default(),
            default_max_tokens: 512,
            max_body: Bytes(1 << 20),
            max_queue: 32,
            max_connections: 256,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_mins(10),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

impl ServeConfig {
    /// Checks what can be checked before a socket is opened.
    ///
    /// # Errors
    /// [`ServeError::KeyNeeded`] if other machines could reach the server without a key,
    /// [`ServeError::BadConfig`] if a bound is zero.
    pub fn validate(&self) -> Result<(), ServeError> {
        if !self.bind.ip().is_loopback() && self.api_key.is_none() {
            return Err(ServeError::KeyNeeded { bind: self.bind });
        }
        let zero = |name| Err(ServeError::BadConfig { name, message: "must be more than 0" });
        match self {
            Self { max_connections: 0, .. } => zero("max_connections"),
            Self { default_max_tokens: 0, .. } => zero("default_max_tokens"),
            Self { max_body: Bytes(0), .. } => zero("max_body"),
            Self { request_timeout: Duration::ZERO, .. } => zero("request_timeout"),
            _ => Ok(()),
        }
    }
}

/// A key that clients must show; it is never printed.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// Whether `candidate` is this key. The time taken does not depend on where they differ:
    /// the digests of both are compared, and all of their bytes.
    pub(crate) fn matches(&self, candidate: &[u8]) -> bool {
        let (own, other) = (hash_bytes(self.0.as_bytes()).0, hash_bytes(candidate).0);
        std::hint::black_box(own.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b))) == 0
    }
}

impl FromStr for ApiKey {
    type Err = ServeError;

    fn from_str(text: &str) -> Result<Self, ServeError> {
        if text.len() < MIN_KEY_CHARS || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ServeError::BadKey);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Why the server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Everybody on the network could use the model.
    #[error(
        "{bind} can be reached from other machines, and no key is set; give a key of at least \
         {MIN_KEY_CHARS} characters, or bind to 127.0.0.1 to serve this machine alone"
    )]
    KeyNeeded {
        /// The address asked for.
        bind: SocketAddr,
    },
    /// The key is too short or cannot stand in a header.
    #[error(
        "the key must have at least {MIN_KEY_CHARS} characters, all of them visible ASCII without \
         spaces; `openssl rand -hex 24` makes a good one"
    )]
    BadKey,
    /// A setting makes no sense.
    #[error("{name} {message}")]
    BadConfig {
        /// Which setting.
        name: &'static str,
        /// What is wrong with it.
        message: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {bind}{}", explain_bind(source))]
    Bind {
        /// The address asked for.
        bind: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The asynchronous run time cannot be started.
    #[error("cannot start the server's threads")]
    Runtime(#[source] io::Error),
}

fn explain_bind(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another program listens there; choose another port, or stop that program"
        }
        io::ErrorKind::PermissionDenied => {
            ": ports below 1024 need special rights; choose a higher one, such as 8080"
        }
        io::ErrorKind::AddrNotAvailable => {
            ": this machine has no such address; choose 127.0.0.1 or one of its own"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bind: &str, key: Option<&str>, expect: Result<(), &str>) {
        let config = ServeConfig {
            bind: bind.parse().unwrap(),
            api_key: key.map(|key| key.parse().unwrap()),
            ..ServeConfig::default()
        };
        match (config.validate(), expect) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, _) => panic!("{bind} with {key:?}: {found:?}"),
        }
    }

    #[test]
    fn an_open_address_needs_a_key() {
        check("127.0.0.1:0", None, Ok(()));
        check("[::1]:80", None, Ok(()));
        check("0.0.0.0:80", None, Err("bind to 127.0.0.1"));
        check("[::]:80", None, Err("can be reached from other machines"));
        check("0.0.0.0:80", Some("0123456789abcdef"), Ok(()));
    }

    #[test]
    fn a_key_is_compared_whole_and_never_shown() {
        let key: ApiKey = "0123456789abcdef".parse().unwrap();
        assert!(key.matches(b"0123456789abcdef"));
        assert!(!key.matches(b"0123456789abcdeg"));
        assert!(!key.matches(b"0123456789abcde"));
        assert!(!key.matches(b""));
        assert_eq!(format!("{key:?}"), "ApiKey(…)");
        assert!("short".parse::<ApiKey>().is_err());
        assert!("0123456789 abcdef".parse::<ApiKey>().is_err());
    }
}

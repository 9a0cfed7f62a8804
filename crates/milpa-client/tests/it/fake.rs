//! An endpoint on loopback that answers what a test tells it to, byte by byte where that is needed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use milpa_client::{ClientError, EndpointConfig, RemoteModel};
use serde_json::{Value, json};

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// Header lines.
    pub(crate) head: String,
    pub(crate) body: Value,
    /// Number among the questions (the list of models is none), from 0.
    pub(crate) number: usize,
}

/// What comes back.
pub(crate) enum Reply {
    /// A status and a body in JSON.
    Json(u16, Value),
    /// A status, more header lines, and a body.
    Raw(u16, &'static str, String),
    /// The connection ends without an answer.
    Close,
    /// Half of an answer.
    Half,
    /// An answer that goes on for so many bytes.
    Long(usize),
    /// Nothing for so long, then the end.
    Hang(Duration),
}

/// A fake endpoint; it ends with the test.
pub(crate) struct Fake {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    pub(crate) most_together: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

impl Fake {
    /// Answers questions with `handler`; the list of models has one, called "m".
    pub(crate) fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self {
            url,
            asked: Arc::default(),
            most_together: Arc::default(),
            ended: Arc::default(),
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let (asked, most, ended) =
            (fake.asked.clone(), fake.most_together.clone(), fake.ended.clone());
        let together = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(SeqCst) {
                    return;
                }
                let (handler, asked) = (handler.clone(), asked.clone());
                let (most, together) = (most.clone(), together.clone());
                std::thread::spawn(move || {
                    // Counted until the reply is made: once it is sent, the client asks the next.
                    let counted = move |asked: &Asked| {
                        most.fetch_max(together.fetch_add(1, SeqCst) + 1, SeqCst);
                        let reply = handler(asked);
                        together.fetch_sub(1, SeqCst);
                        reply
                    };
                    // A client that gives up is part of the tests.
                    let _ = serve(stream.unwrap(), &counted, &asked);
                });
            }
        });
        fake
    }

    /// Questions so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Settings that repeat at once.
    pub(crate) fn config(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(self.url.parse().unwrap());
        config.backoff = Duration::from_millis(1);
        config.timeout = Duration::from_millis(400);
        config.attempts = 3;
        config
    }

    pub(crate) fn model(&self, change: impl Fn(&mut EndpointConfig)) -> RemoteModel {
        self.connect(change).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn connect(
        &self,
        change: impl Fn(&mut EndpointConfig),
    ) -> Result<RemoteModel, ClientError> {
        let mut config = self.config();
        change(&mut config);
        RemoteModel::connect(config, None)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn serve(stream: TcpStream, handler: &Handler, all: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut stream = stream;
    if path == "/v1/models" {
        return write(&mut stream, 200, "", &json!({"data": [{"id": "m"}]}).to_string());
    }
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let asked = {
        let mut all = all.lock().unwrap();
        let asked = Asked { path, head, body, number: all.len() };
        all.push(asked.clone());
        asked
    };
    match handler(&asked) {
        Reply::Json(status, value) => write(&mut stream, status, "", &value.to_string()),
        Reply::Raw(status, headers, body) => write(&mut stream, status, headers, &body),
        Reply::Close => Ok(()),
        Reply::Half => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"choi"),
        Reply::Long(bytes) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"choices\": \"")?;
            for _ in 0..bytes / 1024 {
                stream.write_all(&[b'a'; 1024])?;
            }
            Ok(())
        }
        Reply::Hang(time) => {
            std::thread::sleep(time);
            Ok(())
        }
    }
}

fn write(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n{headers}\r\n{body}"
    )
}

/// A completion of the text that was asked about, in OpenAI's shape.
pub(crate) fn completion(text: &str) -> Reply {
    Reply::Json(200, completion_json(text))
}

pub(crate) fn completion_json(text: &str) -> Value {
    json!({
        "model": "m",
        "system_fingerprint": "fp1",
        "choices": [{"index": 0, "text": text, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    })
}

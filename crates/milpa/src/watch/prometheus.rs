//! The state of a training for Prometheus: text format 0.0.4, and the small server that gives it out.
//!
//! Names follow the convention: a unit at the end in its base (seconds, bytes, ratio), `_total` on what
//! only grows. The server answers one request after the other and bounds each in bytes and time.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::watch::{history::Curve, state::State};

/// The type of the answer.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longest head of a request in bytes.
const MOST_HEAD: usize = 8 << 10;
/// Longest time for one request, from its first byte to the answer's last.
const MOST_TIME: Duration = Duration::from_secs(5);
/// How often the server looks whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The metrics of a state.
pub fn render(state: &State) -> String {
    let mut text = Text(String::new());
    let history = &state.history;
    text.head("build_info", "gauge", "Version of milpa.");
    text.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    text.head("train_info", "gauge", "The run and its stage.");
    let stage = state.stage().unwrap_or_default();
    text.sample("train_info", &[("run", &state.run), ("stage", &stage)], 1.0);
    text.one("train_planned_steps", "gauge", "Steps of the run.", state.steps as f64);
    if let Some(last) = &history.last {
        for (name, help, value) in [
            ("train_step", "Steps done.", last.step as f64),
            ("train_tokens", "Tokens trained on, padding included.", last.tokens as f64),
            ("train_loss", "Cross-entropy of the last step in nats per token.", last.loss),
            ("train_learning_rate", "Of the hidden matrices.", last.learning_rate),
            ("train_gradient_norm", "Before clipping.", last.gradient_norm),
            ("train_tokens_per_second", "Of the last step.", last.tokens_per_second),
            (
                "train_mfu_ratio",
                "Model FLOPs utilisation: share of the measured peak.",
                last.utilisation,
            ),
            ("train_memory_peak_bytes", "Most bytes of tensors held.", last.memory_bytes as f64),
            (
                "train_last_step_timestamp_seconds",
                "When the last step ended, in seconds since 1970.",
                last.unix_seconds,
            ),
        ] {
            text.one(name, "gauge", help, value);
        }
    }
    if let Some(loss) = history.recent_loss() {
        text.one(
            "train_loss_mean",
            "gauge",
            "Mean of the last 20 steps, skipped ones left out.",
            loss,
        );
    }
    if let Some(seconds) = state.seconds_left() {
        text.one("train_eta_seconds", "gauge", "Until the last step, at the pace so far.", seconds);
    }
    if let Some(saved) = &state.saved {
        text.one("train_checkpoint_step", "gauge", "Of the newest checkpoint.", saved.step as f64);
        let age = saved.age().as_secs_f64();
        text.one("train_checkpoint_age_seconds", "gauge", "Of the newest checkpoint.", age);
    }
    if let Some(bytes) = state.disk_free {
        text.one("train_disk_free_bytes", "gauge", "Where checkpoints are written.", bytes as f64);
    }
    // Only what this process did: a counter may begin again, and must not fall.
    let done = state.done;
    for (name, help, value) in [
        ("train_steps_taken_total", "Steps of this process, repeated ones too.", done.steps as f64),
        (
            "train_skipped_steps_total",
            "Steps of this process that were skipped.",
            done.skipped as f64,
        ),
        ("train_rollbacks_total", "Times that this process went back.", done.rollbacks as f64),
        ("train_checkpoints_total", "Checkpoints of this process.", done.checkpoints as f64),
        ("train_step_seconds_total", "Seconds of this process's steps.", done.step_seconds),
        ("train_data_wait_seconds_total", "Of these, of waiting for data.", done.data_seconds),
    ] {
        text.one(name, "counter", help, value);
    }
    text.by(
        "source",
        "train_validation_bits_per_byte",
        "The last validation.",
        history
            .validation
            .iter()
            .filter_map(|(source, curve)| Some((source.as_str(), curve.last()?))),
    );
    text.by(
        "source",
        "train_data_share_ratio",
        "Share of the tokens read lately.",
        history.mix.shares().into_iter(),
    );
    against_base(state, &mut text);
    let alarms = || state.alarms.iter();
    text.by(
        "alarm",
        "train_alarm",
        "1 while the condition of the alarm holds.",
        alarms().map(|alarm| (alarm.name, f64::from(u8::from(alarm.holds)))),
    );
    text.by(
        "alarm",
        "train_alarms_raised_total",
        "Times that this process raised the alarm.",
        alarms().map(|alarm| (alarm.name, alarm.raised as f64)),
    );
    text.0
}

/// The last measurement against the base.
fn against_base(state: &State, text: &mut Text) {
    fn last(curves: &BTreeMap<String, Curve>) -> impl Iterator<Item = (&str, f64)> {
        curves.iter().filter_map(|(name, curve)| Some((name.as_str(), curve.last()?)))
    }
    let history = &state.history;
    for (name, curve) in &history.probes {
        if let Some(percent) = curve.last() {
            let help = "The last measurement, as a share of 1.";
            text.one(&format!("train_{name}_ratio"), "gauge", help, percent / 100.0);
        }
        if let Some((low, high)) = history.probe_intervals.get(name) {
            for (end, percent) in [("low", low), ("high", high)] {
                let help = format!("The {end} end of its 95 % interval.");
                text.one(&format!("train_{name}_{end}_ratio"), "gauge", &help, percent / 100.0);
            }
        }
    }
    let help = "The last measurement against the base; general text begins with general/.";
    text.by("source", "train_measured_bits_per_byte", help, last(&history.domains));
    let help = "The last measurement against the base, as a share of 1.";
    text.by("task", "train_accuracy_ratio", help, last(&history.accuracy));
    if let Some(nats) = history.divergence.last() {
        text.one("train_kl_nats", "gauge", "Mean KL from the base on general text.", nats);
    }
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP milpa_{name} {help}\n# TYPE milpa_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.0, "milpa_{name}");
        let labels: Vec<String> =
            labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escape(text))).collect();
        if !labels.is_empty() {
            let _ = write!(self.0, "{{{}}}", labels.join(","));
        }
        let _ = match value {
            value if value.is_nan() => writeln!(self.0, " NaN"),
            f64::INFINITY => writeln!(self.0, " +Inf"),
            f64::NEG_INFINITY => writeln!(self.0, " -Inf"),
            value => writeln!(self.0, " {value}"),
        };
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A value for each of a label; one that ends in `_total` counts.
    fn by<'a>(
        &mut self,
        label: &str,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (&'a str, f64)>,
    ) {
        let mut is_first = true;
        for (of, value) in values {
            if is_first {
                let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
                self.head(name, kind, help);
            }
            is_first = false;
            self.sample(name, &[(label, of)], value);
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Gives out the metrics until it is dropped.
pub struct Server {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at an address; `metrics` makes the text of an answer.
    ///
    /// # Errors
    /// The address cannot be listened at.
    pub fn start(
        address: SocketAddr,
        metrics: impl Fn() -> String + Send + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let ends = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ends);
        let thread = thread::Builder::new().name("milpa-metrics".to_owned()).spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                match listener.accept() {
                    // Whoever goes away half-way gets no answer, and nobody else has to know.
                    Ok((stream, _)) => drop(answer(stream, &metrics)),
                    Err(_) => thread::sleep(LOOK_INTERVAL),
                }
            }
        })?;
        Ok(Self { address, ends, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads a request and answers it.
fn answer(mut stream: TcpStream, metrics: &impl Fn() -> String) -> io::Result<()> {
    let until = Instant::now() + MOST_TIME;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(MOST_TIME))?;
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > MOST_HEAD {
            return respond(
                &mut stream,
                "400 Bad Request",
                "text/plain",
                "a short request, please\n",
                true,
            );
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let with_body = method != "HEAD";
    match (method, path) {
        ("GET" | "HEAD", "/metrics") => {
            respond(&mut stream, "200 OK", CONTENT_TYPE, &metrics(), with_body)
        }
        ("GET" | "HEAD", _) => respond(
            &mut stream,
            "404 Not Found",
            "text/plain",
            "the metrics of the training are at /metrics\n",
            with_body,
        ),
        _ => respond(&mut stream, "405 Method Not Allowed", "text/plain", "only GET\n", true),
    }
}

fn respond(
    stream: &mut TcpStream,
    status: &str,
    content_type: &str,
    body: &str,
    with_body: bool,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
         allow: GET, HEAD\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if with_body {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{
        history::tests::{measured, run},
        state::{AlarmState, tests::state},
    };

    fn ask(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn what_is_shown_has_a_head_and_escaped_labels() {
        let mut state = state(&[run(100), vec![measured(100, 6.0)]].concat(), 400);
        state.run = "a\"b\\c\nd".to_owned();
        state.alarms = vec![AlarmState { name: "forgetting_above", holds: true, raised: 2 }];
        let text = render(&state);
        assert!(text.contains("{run=\"a\\\"b\\\\c\\nd\",stage=\"all\"} 1"), "{text}");
        assert!(text.contains("# TYPE milpa_train_loss gauge\nmilpa_train_loss 3.7"), "{text}");
        assert!(
            text.contains("milpa_train_validation_bits_per_byte{source=\"leyes\"} 1.8"),
            "{text}"
        );
        assert!(text.contains("milpa_train_data_share_ratio{source=\"novelas\"} 0.039"), "{text}");
        for line in [
            "milpa_train_forgetting_ratio 0.06",
            "milpa_train_forgetting_low_ratio 0.045",
            "milpa_train_measured_bits_per_byte{source=\"general/english\"} 1.95",
            "milpa_train_accuracy_ratio{task=\"mul/in_context\"} 0.2",
            "milpa_train_kl_nats 0.02",
            "milpa_train_alarm{alarm=\"forgetting_above\"} 1",
            "milpa_train_alarms_raised_total{alarm=\"forgetting_above\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        }
    }

    #[test]
    fn requests_are_bounded_and_only_read() {
        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::start(address, || "milpa_train_step 7\n".to_owned()).unwrap();
        let found = ask(&server, "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            found.starts_with("HTTP/1.1 200 OK\r\n")
                && found.ends_with("\r\n\r\nmilpa_train_step 7\n")
        );
        assert!(found.contains("content-type: text/plain; version=0.0.4"), "{found}");
        let head = ask(&server, "HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(head.contains("content-length: 19") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(&server, "GET / HTTP/1.1\r\n\r\n").contains("404 Not Found"));
        assert!(ask(&server, "POST /metrics HTTP/1.1\r\n\r\n").contains("405 Method"));
        assert!(ask(&server, "\r\n\r\n").contains("405 Method"));
        // Somebody who says nothing and goes keeps nobody else out.
        drop(TcpStream::connect(server.address()).unwrap());
        assert!(ask(&server, "GET /metrics HTTP/1.0\r\n\r\n").contains("200 OK"));
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}", "x".repeat(MOST_HEAD));
        assert!(ask(&server, &long).contains("400 Bad Request"));
    }
}

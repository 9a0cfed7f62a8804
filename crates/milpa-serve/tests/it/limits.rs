//! What a slow, greedy or vanishing client can and cannot do.

use std::{
    io::{Read, Write},
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use milpa_base::Bytes;
use milpa_serve::ServeConfig;

use crate::{
    client::{Reply, TestServer, post_text, test_config, wait_until},
    model::Script,
};

const PATH: &str = "/v1/completions";
const ENDLESS: &str = r#"{"prompt":"a","max_tokens":1000000,"stream":true}"#;
const ENDLESS_WHOLE: &str = r#"{"prompt":"a","max_tokens":1000000}"#;
const SHORT: &str = r#"{"prompt":"a","max_tokens":2}"#;

#[test]
fn a_client_that_leaves_cancels_its_generation() {
    let script = Script::slow(Duration::from_millis(2));
    let server = TestServer::start(&script);
    for (i, body) in [ENDLESS, ENDLESS_WHOLE].into_iter().enumerate() {
        let mut stream = server.connect();
        stream.write_all(post_text(PATH, body, "").as_bytes()).unwrap();
        wait_until("the generation runs", || script.running.load(SeqCst) == 1);
        drop(stream);
        wait_until("the generation is cancelled", || script.cancelled.load(SeqCst) == i + 1);
    }
    wait_until("the next one may run", || server.post(PATH, SHORT).status == 200);
    assert!(server.get("/metrics").body.contains("milpa_generations_cancelled_total 2"));
}

#[test]
fn one_text_is_generated_at_a_time_and_a_full_queue_refuses() {
    let script = Script::slow(Duration::from_millis(2));
    let server = TestServer::with(&script, ServeConfig { max_queue: 2, ..test_config() });
    let mut first = server.connect();
    first.write_all(post_text(PATH, ENDLESS, "").as_bytes()).unwrap();
    wait_until("the first runs", || script.running.load(SeqCst) == 1);
    let mut waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(post_text(PATH, SHORT, "").as_bytes()).unwrap();
            stream
        })
        .collect();
    wait_until("two wait", || server.get("/metrics").body.contains("milpa_queue_length 2"));
    let refused = server.post(PATH, SHORT);
    assert_eq!(refused.error(429)["code"], "queue_full");
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    // One that waits leaves: its place is free again.
    drop(waiting.pop());
    wait_until("one waits", || server.get("/metrics").body.contains("milpa_queue_length 1"));
    drop(first);
    assert_eq!(Reply::read(&mut waiting[0]).status, 200);
    assert_eq!(script.most_running.load(SeqCst), 1);
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let config = ServeConfig { max_body: Bytes(1000), ..test_config() };
    let server = TestServer::with(&Script::new(), config);
    let body = format!(r#"{{"prompt":"{}"}}"#, "a".repeat(1000));
    assert_eq!(server.post(PATH, &body).error(413)["code"], "body_too_large");
    // Without a declared length.
    let chunked = format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n\
         0\r\n\r\n",
        body.len()
    );
    assert_eq!(server.send(&chunked).error(413)["code"], "body_too_large");
}

#[test]
fn a_client_that_sends_nothing_is_dropped() {
    let config = ServeConfig {
        header_timeout: Duration::from_millis(200),
        body_timeout: Duration::from_millis(200),
        ..test_config()
    };
    let server = TestServer::with(&Script::new(), config);
    for part in ["", "POST /v1/comp"] {
        let mut stream = server.connect();
        stream.write_all(part.as_bytes()).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }
    let mut stream = server.connect();
    let request = post_text(PATH, SHORT, "");
    stream.write_all(&request.as_bytes()[..request.len() - 3]).unwrap();
    assert_eq!(Reply::read(&mut stream).error(408)["type"], "invalid_request_error");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let script = Script::slow(Duration::ZERO);
    let config = ServeConfig { stall_timeout: Duration::from_millis(300), ..test_config() };
    let server = TestServer::with(&script, config);
    // Far more text than the system's buffers hold, for a client that never reads.
    let body = r#"{"prompt":"a","max_tokens":200000,"stream":true}"#;
    let mut lazy = server.connect();
    lazy.write_all(post_text(PATH, body, "").as_bytes()).unwrap();
    wait_until("it was asked", || !script.asked.lock().unwrap().is_empty());
    assert_eq!(server.post(PATH, SHORT).status, 200);
    wait_until("the lazy client is dropped", || {
        server.get("/metrics").body.contains("milpa_requests_in_flight 0")
    });
    let mut bytes = Vec::new();
    let _ = lazy.read_to_end(&mut bytes);
    assert!(!bytes.ends_with(b"0\r\n\r\n"), "all {} bytes were sent", bytes.len());
}

#[test]
fn a_request_ends_when_its_time_is_over() {
    let script = Script::slow(Duration::from_millis(2));
    let config = ServeConfig { request_timeout: Duration::from_millis(300), ..test_config() };
    let server = TestServer::with(&script, config);
    let whole = server.post(PATH, ENDLESS_WHOLE);
    assert_eq!(whole.error(504)["code"], "timeout");
    assert!(whole.head.contains("x-should-retry: false"), "{}", whole.head);
    let streamed = server.post(PATH, ENDLESS);
    assert_eq!(streamed.status, 200);
    let last = streamed.body.trim_end().rsplit("data: ").next().unwrap();
    assert!(last.contains("\"code\":\"timeout\""), "{last}");
    wait_until("both are cancelled", || script.cancelled.load(SeqCst) == 2);
}

#[test]
fn the_server_ends_in_order() {
    let script = Script::slow(Duration::from_millis(2));
    let mut server = TestServer::start(&script);
    let idle = server.connect();
    let mut endless = server.connect();
    endless.write_all(post_text(PATH, ENDLESS, "").as_bytes()).unwrap();
    wait_until("the generation runs", || script.running.load(SeqCst) == 1);
    let began = Instant::now();
    server.stop.stop();
    server.join();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let reply = Reply::read(&mut endless);
    assert!(reply.body.contains("\"code\":\"shutting_down\""), "{}", reply.body);
    drop(idle);
}

#[test]
fn a_running_answer_is_finished_before_the_end() {
    let script = Script::slow(Duration::from_millis(20));
    let config = ServeConfig { shutdown_grace: Duration::from_secs(10), ..test_config() };
    let mut server = TestServer::with(&script, config);
    let mut stream = server.connect();
    let body = r#"{"prompt":"a","max_tokens":20}"#;
    stream.write_all(post_text(PATH, body, "").as_bytes()).unwrap();
    wait_until("the generation runs", || script.running.load(SeqCst) == 1);
    server.stop.stop();
    server.join();
    let reply = Reply::read(&mut stream);
    assert_eq!(reply.json()["usage"]["completion_tokens"], 20);
}

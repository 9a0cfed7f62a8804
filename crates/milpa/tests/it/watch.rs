//! A training seen while it runs: metrics by a real GET, messages to a real listener, page and events.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Child,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::Field;

/// A field with a trained tokenizer and token shards in `base`, whose recipe takes so many steps.
fn field(steps: u64) -> Field {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "base"]);
    field.edit_recipe("steps = \"12 steps\"", &format!("steps = \"{steps} steps\""));
    field.edit_recipe("checkpoint_every = \"4 steps\"", "checkpoint_every = \"100 steps\"");
    field
}

fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let folders = ["train", ".", "--tokenizer", "base/tokenizer", "--tokens", "base/tokens"];
    [&folders, &["--out", "train"][..], more].concat()
}

/// Listens for messages and takes each; gives their JSON.
fn listener() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks/secret", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut text, mut buffer) = (stream.unwrap(), String::new(), [0; 4096]);
            while !text.contains("\r\n\r\n") || !text.ends_with('}') {
                let count = stream.read(&mut buffer).unwrap();
                text += std::str::from_utf8(&buffer[..count]).unwrap();
            }
            write!(stream, "HTTP/1.1 204 x\r\nconnection: close\r\n\r\n").unwrap();
            let body = text.split_once("\r\n\r\n").unwrap().1;
            sender.send(serde_json::from_str(body).unwrap()).unwrap();
        }
    });
    (url, receiver)
}

fn next(messages: &Receiver<Value>) -> Value {
    messages.recv_timeout(Duration::from_mins(1)).expect("a message")
}

/// Reads stderr until the address of the metrics stands there.
fn address(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.find(|line| line.as_ref().unwrap().contains("metrics for Prometheus"));
    let address = line.unwrap().unwrap().split("http://").nth(1).unwrap().to_owned();
    // What is said later is read, so that nobody waits.
    std::thread::spawn(move || lines.for_each(drop));
    address.trim_end_matches("/metrics").to_owned()
}

/// The samples of an answer in the text format 0.0.4; whatever breaks its grammar fails.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut kinds = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["gauge", "counter"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind).is_none(), "{name} has its type twice");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').is_some_and(|(_, help)| !help.is_empty()), "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.starts_with("milpa_") && name.chars().all(plain), "{line}");
        assert_eq!(kinds[name] == "counter", name.ends_with("_total"), "{line}");
        let value = value.replace("+Inf", "inf").parse().unwrap();
        assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} stands twice");
    }
    samples
}

fn get(address: &str) -> Option<BTreeMap<String, f64>> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    Some(samples(body))
}

#[test]
fn a_training_is_seen_while_it_runs_and_afterwards() {
    let field = field(1500);
    let (url, messages) = listener();
    let mut child = field.start(&train(&["--metrics-address", "127.0.0.1:0", "--webhook", &url]));
    let address = address(&mut child);
    let until = Instant::now() + Duration::from_mins(2);
    let seen = loop {
        assert!(Instant::now() < until, "no step was seen");
        let samples = get(&address).expect("it answers while it runs");
        if samples.contains_key("milpa_train_data_share_ratio{source=\"textos\"}")
            && field.path("train/report.html").exists()
        {
            break samples;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(seen["milpa_train_planned_steps"], 1500.0);
    assert!(seen["milpa_train_loss"] > 0.0 && seen["milpa_train_step"] >= 16.0, "{seen:?}");
    assert!(seen["milpa_train_steps_taken_total"] >= 16.0, "{seen:?}");
    let page = field.read("train/report.html");
    assert!(page.contains("http-equiv='refresh'") && page.contains("Under way"), "{page}");
    assert!(child.wait().unwrap().success());
    assert!(get(&address).is_none(), "nobody answers any more");

    let message = next(&messages);
    assert_eq!(
        (&message["kind"], &message["run"], &message["step"]),
        (&"complete".into(), &"huerta".into(), &1500.into())
    );
    assert!(
        message["text"].as_str().unwrap().starts_with("huerta: complete after step 1500 of 1500")
    );
    assert!(messages.try_recv().is_err(), "one message");
    let page = field.read("train/report.html");
    for part in [
        "Complete: step 1500 of 1500",
        "Validation",
        "Data by source",
        "Training, from metrics.jsonl",
    ] {
        assert!(page.contains(part), "{part:?} is not in the page");
    }
    assert!(!page.contains("http-equiv"), "the last page does not load itself again");
    let events = fs::read_dir(field.path("train/tensorboard")).unwrap().count();
    assert_eq!(events, 1);
    let explained = field.ok(&["explain", "train"]);
    for part in ["mean of `loss` over the last fiftieth", "tensorboard --logdir train/tensorboard"]
    {
        assert!(explained.contains(part), "{part:?} is not in:\n{explained}");
    }
    // The same again says the same, and takes no step.
    let again = field.ok(&train(&["--json"]));
    let again: Value = serde_json::from_str(&again).unwrap();
    let summary = field.read("train/metrics.jsonl");
    let last = summary.lines().rfind(|line| line.contains("\"kind\":\"step\"")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(last).unwrap()["step"], again["steps"]);
    assert!(
        again["planned_and_measured"]["sections"].as_array().is_some_and(|all| !all.is_empty())
    );
}

#[test]
fn an_alarm_is_told_and_ends_a_run_whose_recipe_says_so() {
    let field = field(200);
    let (url, messages) = listener();
    field.edit_recipe(
        "\n[eval]\n",
        "\n[watch]\nloss_above = 0.01\nstop_on = [\"loss_above\"]\n\n[eval]\n",
    );
    // The supervisor does not start again what ended on purpose.
    let outcome = field.milpa(&train(&["--supervise", "--webhook", &url]));
    outcome.expect(
        1,
        &[
            "alarm loss_above: after step 20 the mean loss",
            "the alarm loss_above ended the run",
            "hint: ",
        ],
    );
    assert!(!outcome.stderr.contains("it goes on from"), "{}", outcome.stderr);
    let message = next(&messages);
    assert_eq!((&message["kind"], &message["alarm"]), (&"alarm".into(), &"loss_above".into()));
    assert!(message["value"].as_f64().unwrap() > 0.01 && message["limit"] == 0.01, "{message}");
    assert!(message["step"] == 20 && message["steps"] == 200, "{message}");
    assert!(field.path("train/alarm.json").exists());
    assert!(field.read("train/report.html").contains("Ended by an alarm"));
    // The condition still holds, so it is not raised again: whoever starts it has read it.
    field.milpa(&train(&["--webhook", &url])).expect(0, &["resuming after step"]);
    assert!(!field.path("train/alarm.json").exists());
    assert_eq!(next(&messages)["kind"], "complete");
    // Limits are no part of what is trained.
    field.edit_recipe("loss_above = 0.01", "loss_above = 0.02");
    field.milpa(&train(&[])).expect(0, &["training is complete already"]);
}

#[test]
fn an_interruption_is_told_and_a_webhook_that_is_gone_holds_nothing_up() {
    let field = field(100_000);
    let (url, messages) = listener();
    let mut child = field.start(&train(&["--metrics-address", "127.0.0.1:0", "--webhook", &url]));
    let address = address(&mut child);
    while get(&address).unwrap().get("milpa_train_step").is_none_or(|step| *step < 3.0) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(next(&messages)["kind"], "interrupted");
    assert!(field.read("train/report.html").contains("Interrupted: step"));

    field.edit_recipe("steps = \"100000 steps\"", "steps = \"30 steps\"");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{gone}/secret");
    let outcome = field.milpa(&train(&["--webhook", &url, "--anew"]));
    outcome.expect(
        0,
        &["warning: the webhook: ", "took no message in 4 attempts", "training goes on"],
    );
    assert!(!outcome.stderr.contains("secret"), "{}", outcome.stderr);

    // What ended a run stands in the message, without its place.
    let (url, messages) = listener();
    fs::create_dir_all(field.path("full/loss.svg")).unwrap();
    let mut arguments = train(&["--webhook", &url]);
    let out = arguments.iter().position(|word| *word == "--out").unwrap();
    arguments[out + 1] = "full";
    field.milpa(&arguments).expect(1, &["full/loss.svg"]);
    let message = next(&messages);
    let text = message["text"].as_str().unwrap();
    assert_eq!(message["kind"], "checkpoint_failed");
    assert!(text.contains("after step 30 of 30") && text.contains(" loss.svg"), "{text}");
    assert!(!text.contains("full"), "{text}");
}

#[test]
fn flags_that_cannot_be_kept_are_refused_at_once() {
    let field = Field::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let refused = field.milpa(&["run", ".", "--metrics-address", &taken]);
    refused.expect(1, &["cannot be listened at; take another port"]);
    let refused = field.milpa(&["run", ".", "--webhook", "http://chat.example/secret"]);
    refused.expect(2, &["the webhook: it is not encrypted", "use https"]);
    assert!(!refused.stderr.contains("secret") && !field.path("runs").exists());
    // Before the tokenizer is looked for, let alone the peak measured.
    let refused = field.milpa(&train(&["--webhook", "http://chat.example/secret"]));
    refused.expect(2, &["the webhook: it is not encrypted", "use https"]);
    assert!(!refused.stderr.contains("base/tokenizer") && !field.path("train").exists());
    field.milpa(&["run", ".", "--metrics-address", "9100"]).expect(2, &["--metrics-address"]);
    field.edit_recipe("\n[eval]\n", "\n[watch]\nstop_on = [\"rollback\"]\n\n[eval]\n");
    field
        .milpa(&["check", "."])
        .expect(2, &["`watch.stop_on` cannot be right", "set watch.rollback"]);
    field.edit_recipe("stop_on = [\"rollback\"]", "los_above = 3");
    field.milpa(&["check", "."]).expect(2, &["loss_above"]);
}

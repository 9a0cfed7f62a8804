//! Everything that an endpoint can do wrong: named, counted, repeated or given up, and resumable.

use std::{
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use milpa_base::{
    Bytes, FinishReason, GenerateRequest, Generation, ModelError, RollingWindows, Sampling,
    ScoreRequest, StopFlag, TextModel,
};
use milpa_client::{Api, ModelPrice, Prices, RemoteModel, messages_prompt};
use serde_json::{Value, json};

use crate::fake::{Asked, Fake, Reply, completion, completion_json};

fn prompt(text: &str) -> GenerateRequest {
    GenerateRequest {
        prompt: text.to_owned(),
        parse_special: false,
        truncate_prompt: false,
        max_tokens: 5,
        sampling: Sampling { temperature: 0.0, top_p: 1.0, ..Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
    }
}

fn ask(model: &RemoteModel, text: &str) -> Result<Generation, ModelError> {
    model.generate(&prompt(text), &mut |_| std::ops::ControlFlow::Continue(()))
}

fn ask_all(model: &RemoteModel, count: usize) -> Result<Vec<Generation>, ModelError> {
    let requests: Vec<_> = (0..count).map(|i| prompt(&format!("p{i}"))).collect();
    model.generate_many(&requests, &|| false, &mut |_| {})
}

fn problems(model: &RemoteModel) -> Vec<(String, u64)> {
    model.endpoint().unwrap().problems.into_iter().collect()
}

/// An endpoint that does `wrong` once and then answers: the answer comes, and the problem is told.
fn check_mended(wrong: impl Fn() -> Reply + Send + Sync + 'static, problem: &str) {
    let fake = Fake::start(move |asked| if asked.number == 0 { wrong() } else { completion("sí") });
    let model = fake.model(|_| {});
    assert_eq!(ask(&model, "a").unwrap().text, "sí", "{problem}");
    assert_eq!(problems(&model), [(problem.to_owned(), 1)]);
    let record = model.endpoint().unwrap();
    assert_eq!((record.requests, record.retries), (1, 1), "{problem}");
}

#[test]
fn what_may_pass_is_asked_again() {
    let error = || json!({"error": {"message": "busy"}});
    check_mended(move || Reply::Json(429, error()), "too many requests (429)");
    check_mended(move || Reply::Json(503, error()), "server error");
    check_mended(|| Reply::Close, "connection broken off");
    check_mended(|| Reply::Half, "connection broken off");
    check_mended(|| Reply::Hang(Duration::from_secs(1)), "timeout");
    check_mended(|| Reply::Raw(200, "", "<html>".to_owned()), "answer that is not JSON");
    check_mended(|| Reply::Json(200, json!({"choices": []})), "answer of another shape");
    check_mended(|| Reply::Json(200, json!(["x"])), "answer of another shape");
}

/// An endpoint that always does `wrong`: the error says so, after so many questions.
fn check_given_up(wrong: impl Fn() -> Reply + Send + Sync + 'static, part: &str, questions: usize) {
    let fake = Fake::start(move |_| wrong());
    let model = fake.model(|config| config.key = Some("sk-secret".parse().unwrap()));
    let error = ask(&model, "a").unwrap_err().to_string();
    assert!(error.contains(part) && !error.contains("secret"), "{error}");
    assert_eq!(fake.asked().len(), questions, "{part}");
}

#[test]
fn what_does_not_pass_is_given_up() {
    let error = |text: &str| json!({"error": {"message": text}});
    check_given_up(move || Reply::Json(500, error("oh")), "no answer in 3 attempts", 3);
    check_given_up(|| Reply::Close, "ended half-way", 3);
    check_given_up(move || Reply::Json(401, error("bad sk-secret")), "--api-key-env", 1);
    check_given_up(move || Reply::Json(404, error("no")), "no such model or path", 1);
    check_given_up(move || Reply::Json(402, error("pay")), "be paid first: pay", 1);
    check_given_up(
        || Reply::Raw(302, "Location: http://x/\r\n", String::new()),
        "sends elsewhere",
        1,
    );
    check_given_up(
        || Reply::Raw(504, "x-should-retry: false\r\n", "{}".to_owned()),
        "gave up (status 504",
        1,
    );
    check_given_up(
        || Reply::Raw(429, "Retry-After: 9000\r\n", "{}".to_owned()),
        "come back in 9000 s",
        1,
    );
    // Refusals are for this question alone.
    let fake = Fake::start(|_| Reply::Json(400, json!({"error": {"message": "too long"}})));
    let model = fake.model(|_| {});
    assert!(matches!(ask(&model, "a"), Err(ModelError::BadRequest(text)) if text == "too long"));
    assert_eq!(problems(&model), [("refused (400)".to_owned(), 1)]);
}

#[test]
fn an_endpoint_that_is_not_there_is_named() {
    let fake = Fake::start(|_| Reply::Close);
    let error = fake.connect(|config| config.url = "http://127.0.0.1:9/v1".parse().unwrap());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("nothing answers at http://127.0.0.1:9/v1/models"), "{error}");
}

#[test]
fn the_wait_that_is_asked_for_is_kept() {
    let fake = Fake::start(|asked| match asked.number {
        0 => Reply::Raw(429, "Retry-After: 1\r\n", "{}".to_owned()),
        _ => completion("sí"),
    });
    let model = fake.model(|_| {});
    let started = Instant::now();
    ask(&model, "a").unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn odd_answers_are_counted() {
    let fake = Fake::start(|asked| match asked.number {
        0 => completion(""),
        1 => completion(&"a".repeat(2000)),
        2 => Reply::Long(64 << 10),
        3 => {
            let mut other = completion_json("sí");
            other["model"] = "m-2026-01".into();
            Reply::Json(200, other)
        }
        4 => {
            let mut filtered = completion_json("sí");
            filtered["choices"][0]["finish_reason"] = "content_filter".into();
            Reply::Json(200, filtered)
        }
        5 => Reply::Json(200, json!({"choices": [{"text": "sí, fin"}]})),
        _ => completion("sí fin no"),
    });
    let model = fake.model(|config| {
        config.max_text = Bytes(1000);
        config.max_body = Bytes(16 << 10);
    });
    assert_eq!(ask(&model, "a").unwrap().text, "");
    for text in ["b", "c"] {
        let error = ask(&model, text).unwrap_err();
        assert!(matches!(&error, ModelError::BadRequest(text) if text.contains("longer than")));
    }
    for text in ["d", "e", "f"] {
        assert!(ask(&model, text).unwrap().text.starts_with("sí"));
    }
    // A stop text that was left in is taken away.
    let request = GenerateRequest { stop: vec![" fin".to_owned()], ..prompt("g") };
    let found = model.generate(&request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!((found.text.as_str(), found.finish_reason), ("sí", FinishReason::Stop));
    let expect = [
        ("answer too long", 2),
        ("answered under another model's name", 1),
        ("empty answer", 1),
        ("ended by content_filter", 1),
    ];
    let found = problems(&model);
    let found: Vec<_> = found.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(found, expect);
    let record = model.endpoint().unwrap();
    assert_eq!(record.reported_models["m-2026-01"], 1);
    assert_eq!(record.fingerprints["fp1"], 5);
    assert_eq!(
        (record.estimated, &record.temperatures[..], &record.seeds[..]),
        (1, &[0.0][..], &[0][..])
    );
}

#[test]
fn an_endpoint_that_dies_half_way_costs_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoint.jsonl");
    let remember = |config: &mut milpa_client::EndpointConfig| {
        config.answers = Some(path.clone());
        config.concurrency = 3;
    };
    let dying = Fake::start(|asked| {
        if asked.number < 7 { completion(&number(asked)) } else { Reply::Json(503, json!({})) }
    });
    let model = dying.model(remember);
    let error = ask_all(&model, 20).unwrap_err().to_string();
    assert!(error.contains("the same command asks only the rest"), "{error}");
    let kept = lines(&path);
    assert_eq!(kept, 7);
    drop(model);
    // The last line is cut, as by a full disk: it is asked again.
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 9]).unwrap();

    let alive = Fake::start(|asked| completion(&number(asked)));
    let url = dying.url.clone();
    let model = alive.model(|config| {
        remember(config);
        // The same endpoint as far as answers are concerned.
        config.url = url.parse().unwrap();
    });
    drop(model);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 6);
    let model = Fake::model(&alive, remember);
    let found = ask_all(&model, 20).unwrap();
    assert_eq!(found[13].text, "p13", "answers are in the order of the questions");
    // Another address is another endpoint: what it answered is not taken for the first one's.
    assert_eq!(alive.asked().len(), 20);
    let again = alive.model(remember);
    assert_eq!(ask_all(&again, 20).unwrap(), found);
    assert_eq!(alive.asked().len(), 20, "nothing is asked twice");
    let record = again.endpoint().unwrap();
    assert_eq!((record.requests, record.remembered), (0, 20));
}

/// The prompt of a question, as its answer.
fn number(asked: &Asked) -> String {
    asked.body["prompt"].as_str().unwrap().to_owned()
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn the_budget_is_checked_before_sending() {
    let price = ModelPrice {
        prompt_per_million: 10_000.0,
        completion_per_million: 20_000.0,
        per_request: 0.0,
    };
    let prices = Prices { currency: "USD".to_owned(), models: [("m".to_owned(), price)].into() };
    let fake = Fake::start(|asked| completion(&number(asked)));
    // An answer costs 0.1 + 0.1 USD; before it comes, at most 0.02 + 0.1 are foreseen.
    let model = fake.model(|config| {
        config.prices = Some(prices.clone());
        config.budget.max_cost = Some(0.5);
        config.concurrency = 1;
    });
    let error = ask_all(&model, 9).unwrap_err().to_string();
    assert!(error.contains("0.4000 USD were spent") && error.contains("--max-cost"), "{error}");
    assert_eq!(fake.asked().len(), 2);
    let cost = model.endpoint().unwrap().cost.unwrap();
    assert!((cost.amount - 0.4).abs() < 1e-9 && cost.currency == "USD");
    let model = fake.model(|config| config.budget.max_requests = Some(3));
    assert!(ask_all(&model, 9).unwrap_err().to_string().contains("--max-requests"));
    assert_eq!(fake.asked().len(), 5);
    let error = fake.connect(|config| {
        config.prices = Some(Prices { currency: "USD".to_owned(), models: [].into() });
    });
    assert!(error.err().unwrap().to_string().contains("has no [models.\"m\"]"));
    let error = fake.connect(|config| config.budget.max_cost = Some(1.0));
    assert!(error.err().unwrap().to_string().contains("needs --prices"));
}

#[test]
fn several_are_asked_at_a_time_and_a_stop_is_heard() {
    let fake = Fake::start(|asked| {
        std::thread::sleep(Duration::from_millis(30));
        completion(&number(asked))
    });
    let model = fake.model(|config| config.concurrency = 3);
    let found = ask_all(&model, 12).unwrap();
    assert!(found.iter().enumerate().all(|(i, one)| one.text == format!("p{i}")));
    let most = fake.most_together.load(SeqCst);
    assert!((2..=3).contains(&most), "{most}");
    let stop = StopFlag::default();
    let slow = Fake::start(|_| Reply::Raw(429, "Retry-After: 60\r\n", "{}".to_owned()));
    let model = slow.model(|config| config.stop = stop.clone());
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            stop.stop();
        });
        assert!(ask(&model, "a").unwrap_err().to_string().contains("interrupted"));
    });
    // A minute was asked for.
    assert!(started.elapsed() < Duration::from_secs(40));
}

#[test]
fn conversations_travel_as_messages_and_the_key_in_a_header() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v1/chat/completions" if asked.body.get("max_tokens").is_some() => {
            Reply::Json(400, json!({"error": {"message": "use max_completion_tokens instead"}}))
        }
        "/v1/chat/completions" => Reply::Json(
            200,
            json!({"model": "m", "choices": [{"message": {"role": "assistant", "content": "sí"}}]}),
        ),
        _ => completion("texto"),
    });
    let model = fake.model(|config| config.key = Some("sk-1".parse().unwrap()));
    let text = messages_prompt([("system", "s"), ("user", "u")]);
    let request = GenerateRequest { parse_special: true, ..prompt(&text) };
    let answer = |model: &RemoteModel, request: &GenerateRequest| {
        model.generate(request, &mut |_| std::ops::ControlFlow::Continue(()))
    };
    assert_eq!(answer(&model, &request).unwrap().text, "sí");
    let asked = fake.asked().pop().unwrap();
    let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]);
    assert_eq!(asked.body["messages"], messages);
    assert_eq!(
        (&asked.body["max_completion_tokens"], &asked.body["model"]),
        (&json!(5), &json!("m"))
    );
    assert!(asked.head.to_lowercase().contains("authorization: bearer sk-1"));
    assert_eq!(ask(&model, "a").unwrap().text, "texto");
    let chat = fake.model(|config| config.api = Api::Chat);
    assert_eq!(ask(&chat, "a").unwrap().text, "sí");
    let expect = json!([{"role": "user", "content": "a"}]);
    assert_eq!(fake.asked().pop().unwrap().body["messages"], expect);
    let completions = fake.model(|config| config.api = Api::Completions);
    assert!(matches!(answer(&completions, &request), Err(ModelError::Unavailable { .. })));
}

/// An answer to a scored prompt, one token for each character; `name` is the BOS that it puts
/// before, and `zero` whether it takes no room.
fn echo(asked: &Asked, name: Option<(&str, bool)>) -> Value {
    let text = asked.body["prompt"].as_str().unwrap();
    let shift = name.map_or(0, |(name, zero)| if zero { 0 } else { name.len() });
    let mut tokens: Vec<String> = text.chars().map(String::from).collect();
    let mut offsets: Vec<usize> = (0..tokens.len()).map(|at| at + shift).collect();
    if let Some((name, _)) = name {
        tokens.insert(0, name.to_owned());
        offsets.insert(0, 0);
    }
    let values: Vec<Value> =
        (0..tokens.len()).map(|at| if at == 0 { Value::Null } else { json!(-0.5) }).collect();
    let tops: Vec<Value> = values
        .iter()
        .map(|value| if value.is_null() { Value::Null } else { json!({"x": -0.25}) })
        .collect();
    json!({
        "choices": [{"text": text, "finish_reason": "length", "logprobs": {
            "tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets,
        }}],
        "usage": {"prompt_tokens": tokens.len(), "completion_tokens": 0},
    })
}

fn pair(context: &str, continuation: &str) -> ScoreRequest {
    ScoreRequest {
        context: context.to_owned(),
        continuation: continuation.to_owned(),
        parse_special: false,
    }
}

#[test]
fn scores_are_cut_where_the_endpoint_says_tokens_begin() {
    for name in [None, Some(("<s>", false)), Some(("<s>", true)), Some(("", true))] {
        let fake = Fake::start(move |asked| Reply::Json(200, echo(asked, name)));
        let model = fake.model(|_| {});
        let scores = model.score(&[pair("año ", "más")], &mut |_| {}).unwrap();
        // The space goes with the continuation.
        assert_eq!((scores[0].log_likelihood, scores[0].tokens), (-2.0, 4), "{name:?}");
        assert!(!scores[0].is_greedy);
        let whole = model.score_rolling(&["más"], RollingWindows::Disjoint, &mut |_| {});
        let start = model.score(&[pair("", "más")], &mut |_| {});
        if name.is_some() {
            assert_eq!(whole.unwrap()[0].log_likelihood, -1.5);
            assert_eq!(start.unwrap()[0].log_likelihood, -1.5);
        } else {
            assert!(start.unwrap_err().to_string().contains("--tokenizer"));
            assert!(whole.unwrap_err().to_string().contains("--tokenizer"));
        }
    }
}

#[test]
fn an_endpoint_without_log_probabilities_says_so() {
    let refusing =
        |text: &'static str| move |_: &Asked| Reply::Json(400, json!({"error": {"message": text}}));
    let unscored = [
        Fake::start(|_| completion("más")),
        Fake::start(|asked| completion(&number(asked))),
        Fake::start(refusing("echo is not supported")),
        Fake::start(refusing("logprobs: not with this model")),
    ];
    for fake in unscored {
        let error = fake.model(|_| {}).score(&[pair("a", "b")], &mut |_| {}).unwrap_err();
        assert!(matches!(error, ModelError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("use tasks that generate"), "{error}");
    }
    let model = Fake::start(|_| Reply::Close).model(|_| {});
    assert!(matches!(model.next_token_logprobs("a"), Err(ModelError::Unavailable { .. })));
}

#[test]
fn an_endpoint_may_want_one_token_more() {
    let fake = Fake::start(|asked| {
        if asked.body["max_tokens"] == 0 {
            return Reply::Json(400, json!({"message": "max_tokens must be at least 1"}));
        }
        let mut body = echo(asked, None);
        let choice = &mut body["choices"][0];
        choice["text"] = format!("{}?", choice["text"].as_str().unwrap()).into();
        let logprobs = &mut choice["logprobs"];
        let end = logprobs["tokens"].as_array().unwrap().len();
        for (name, value) in [
            ("tokens", json!("?")),
            ("token_logprobs", json!(-9.0)),
            ("top_logprobs", json!({"?": -9.0})),
            ("text_offset", json!(end)),
        ] {
            logprobs[name].as_array_mut().unwrap().push(value);
        }
        Reply::Json(200, body)
    });
    let model = fake.model(|_| {});
    let scores = model.score(&[pair("ab", "cd")], &mut |_| {}).unwrap();
    assert_eq!((scores[0].log_likelihood, scores[0].tokens), (-1.0, 2));
}

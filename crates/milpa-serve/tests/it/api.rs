//! Each endpoint with good requests and with bad ones.

use milpa_base::Sampling;
use serde_json::{Value, json};

use crate::{
    client::{TestServer, post_text, test_config},
    model::{CONTEXT_LENGTH, Script},
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat(extra: &str) -> String {
    format!(r#"{{"model":"semilla","messages":[{{"role":"user","content":"hola"}}]{extra}}}"#)
}

#[test]
fn models_and_health_say_what_is_served() {
    let server = TestServer::start(&Script::new());
    let models = server.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    let model = &models["data"][0];
    assert_eq!(model["id"], "semilla");
    assert_eq!(model["object"], "model");
    assert_eq!(model["milpa"]["chat_format"], "continuation");
    assert_eq!(model["milpa"]["context_length"], CONTEXT_LENGTH);
    assert_eq!(&server.get("/v1/models/semilla").json(), model);
    assert_eq!(server.get("/v1/models/otra").error(404)["code"], "model_not_found");
    let health = server.get("/health").json();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["needs_key"], false);
    assert_eq!(health["defaults"]["temperature"], 0.8);
}

#[test]
fn a_chat_answer_is_whole() {
    let script = Script::new();
    let server = TestServer::start(&script);
    let reply = server
        .post(CHAT, &chat(r#","max_tokens":3,"seed":0,"temperature":0.5,"top_p":0.9,"stop":"zz""#));
    assert_eq!(reply.status, 200, "{reply:?}");
    let answer = reply.json();
    assert_eq!(answer["object"], "chat.completion");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["model"], "semilla");
    assert_eq!(answer["system_fingerprint"], "milpa-0123456789ab");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], "uno dos tres ");
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"], Value::Null);
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4});
    assert_eq!(answer["usage"], usage);
    let asked = script.last();
    assert_eq!(asked.prompt, "hola");
    assert!(!asked.parse_special, "a base model's prompt has no special tokens");
    let sampling = Sampling { temperature: 0.5, top_p: 0.9, seed: 0, ..test_config().sampling };
    assert_eq!(asked.sampling, sampling);
    assert_eq!(asked.stop, ["zz"]);
}

#[test]
fn a_chat_answer_is_streamed() {
    let server = TestServer::start(&Script::new());
    let options =
        r#","max_tokens":3,"seed":3,"stream":true,"stream_options":{"include_usage":true}"#;
    let events = server.post(CHAT, &chat(options)).events();
    assert_eq!(events.len(), 6, "{events:?}");
    let delta = |i: usize| &events[i]["choices"][0]["delta"];
    assert_eq!(delta(0), &json!({"role": "assistant", "content": ""}));
    let text: String = (1..4).map(|i| delta(i)["content"].as_str().unwrap()).collect();
    assert_eq!(text, "ñandú uno dos ");
    assert_eq!(events[4]["choices"][0]["finish_reason"], "length");
    assert_eq!(delta(4), &json!({}));
    assert_eq!(events[5]["choices"], json!([]));
    assert_eq!(events[5]["usage"]["completion_tokens"], 3);
    for event in &events {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["id"], events[0]["id"]);
    }
    assert!(events[..5].iter().all(|event| event["usage"].is_null()));
    let without = server.post(CHAT, &chat(r#","max_tokens":2,"stream":true"#)).events();
    assert!(without.iter().all(|event| event.get("usage").is_none()), "{without:?}");
}

#[test]
fn a_stop_text_ends_the_answer() {
    let server = TestServer::start(&Script::new());
    for stop in [r#""tres""#, r#"["zz","tres"]"#] {
        let extra = format!(r#","max_tokens":9,"seed":0,"stop":{stop}"#);
        let answer = server.post(CHAT, &chat(&extra)).json();
        assert_eq!(answer["choices"][0]["message"]["content"], "uno dos ");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let events = server.post(CHAT, &chat(&format!(r#"{extra},"stream":true"#))).events();
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn a_seed_is_kept_and_a_missing_one_is_drawn() {
    let script = Script::new();
    let server = TestServer::start(&script);
    let body = chat(r#","max_tokens":2,"seed":42"#);
    let texts: Vec<Value> = (0..2)
        .map(|_| server.post(CHAT, &body).json()["choices"][0]["message"]["content"].clone())
        .collect();
    assert_eq!(texts[0], texts[1]);
    let seeds: Vec<u64> = (0..2)
        .map(|_| {
            server.post(CHAT, &chat(r#","max_tokens":1"#));
            script.last().sampling.seed
        })
        .collect();
    assert_ne!(seeds[0], seeds[1]);
}

#[test]
fn chat_logprobs_have_bytes_and_alternatives() {
    let server = TestServer::start(&Script::new());
    let extra = r#","max_tokens":2,"seed":3,"logprobs":true,"top_logprobs":2"#;
    let answer = server.post(CHAT, &chat(extra)).json();
    let content = &answer["choices"][0]["logprobs"]["content"];
    assert_eq!(content.as_array().unwrap().len(), 2);
    assert_eq!(content[0]["token"], "ñandú ");
    assert_eq!(content[0]["bytes"].as_array().unwrap().len(), "ñandú ".len());
    assert_eq!(content[0]["logprob"], -0.25);
    assert_eq!(content[0]["top_logprobs"][1]["token"], "otro");
    let events = server.post(CHAT, &chat(&format!(r#"{extra},"stream":true"#))).events();
    assert_eq!(events[2]["choices"][0]["logprobs"]["content"][0]["token"], "uno ");
}

#[test]
fn a_completion_is_whole_and_streamed() {
    let script = Script::new();
    let server = TestServer::start(&script);
    let body = r#"{"model":"semilla","prompt":"<|x|> a","max_tokens":2,"seed":3,"logprobs":1}"#;
    let answer = server.post(COMPLETIONS, body).json();
    assert_eq!(answer["object"], "text_completion");
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "ñandú uno ");
    assert_eq!(choice["logprobs"]["tokens"], json!(["ñandú ", "uno "]));
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([-0.25, -0.25]));
    assert_eq!(choice["logprobs"]["top_logprobs"][0], json!({"ñandú ": -0.25}));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 6]));
    assert!(!script.last().parse_special, "a user's text has no special tokens");
    let body = body.replace("\"logprobs\"", "\"stream\":true,\"logprobs\"");
    let events = server.post(COMPLETIONS, &body).events();
    assert_eq!(events[0]["choices"][0]["text"], "ñandú ");
    assert_eq!(events[1]["choices"][0]["logprobs"]["text_offset"], json!([6]));
    assert_eq!(events[2]["choices"][0]["text"], "");
    assert_eq!(events[2]["choices"][0]["finish_reason"], "length");
    // As in OpenAI's interface, 16 tokens where the request does not say.
    let short = server.post(COMPLETIONS, r#"{"prompt":"a"}"#).json();
    assert_eq!(short["usage"]["completion_tokens"], 16);
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_with_the_numbers() {
    let server = TestServer::start(&Script::new());
    let long = "a ".repeat(CONTEXT_LENGTH);
    for (extra, stream) in [("", false), ("", true), (r#","max_tokens":5"#, true)] {
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":"{long}"}}],"stream":{stream}{extra}}}"#
        );
        let error = server.post(CHAT, &body).error(400);
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains("the prompt has 64 tokens"), "{error}");
    }
    let error = server.post(CHAT, &chat(r#","max_tokens":64"#)).error(400);
    assert!(error["message"].as_str().unwrap().contains("64 new ones"), "{error}");
}

#[test]
fn an_open_number_of_tokens_fills_what_is_left() {
    let server = TestServer::start(&Script::new());
    let answer = server.post(CHAT, &chat("")).json();
    assert_eq!(answer["usage"]["total_tokens"], CONTEXT_LENGTH);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn bad_requests_are_refused_in_openais_shape() {
    let server = TestServer::start(&Script::new());
    assert_eq!(server.post(CHAT, &chat(r#","n":2"#)).error(400)["param"], "n");
    assert_eq!(server.post(CHAT, &chat(r#","tools":[{}]"#)).error(400)["param"], "tools");
    assert_eq!(
        server.post(CHAT, &chat(r#","maxtokens":1"#)).error(400)["code"],
        "unknown_parameter"
    );
    assert_eq!(server.post(CHAT, "{\"messages\":").error(400)["param"], Value::Null);
    assert_eq!(server.post(CHAT, "").error(400)["type"], "invalid_request_error");
    assert_eq!(server.post(CHAT, "[]").error(400)["type"], "invalid_request_error");
    let other = server.post(CHAT, &chat("").replace("semilla", "gpt-4o"));
    assert_eq!(other.error(404)["code"], "model_not_found");
    assert_eq!(server.get("/v1/nada").error(404)["code"], "not_found");
    assert_eq!(server.get(CHAT).error(405)["code"], "method_not_allowed");
    assert_eq!(server.post("/v1/models", "{}").error(405)["code"], "method_not_allowed");
    let plain = post_text(CHAT, &chat(""), "").replace("application/json", "text/plain");
    assert_eq!(server.send(&plain).error(415)["type"], "invalid_request_error");
}

#[test]
fn a_failing_model_is_a_server_error_and_the_next_request_works() {
    let server = TestServer::start(&Script::new());
    for prompt in ["FALLA", "PÁNICO"] {
        for stream in [false, true] {
            let body = format!(r#"{{"prompt":"{prompt}","stream":{stream}}}"#);
            assert_eq!(server.post(COMPLETIONS, &body).error(500)["code"], "model_failed");
        }
    }
    assert_eq!(server.post(CHAT, &chat("")).status, 200);
}

#[test]
fn metrics_count_requests_and_tokens() {
    let server = TestServer::start(&Script::new());
    server.post(CHAT, &chat(r#","max_tokens":3"#));
    server.post(CHAT, &chat(r#","n":3"#));
    server.get("/no/such/path");
    let reply = server.get("/metrics");
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4"), "{}", reply.head);
    for line in [
        "milpa_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
        "milpa_requests_total{route=\"/v1/chat/completions\",status=\"400\"} 1",
        "milpa_requests_total{route=\"other\",status=\"404\"} 1",
        "milpa_prompt_tokens_total 1",
        "milpa_completion_tokens_total 3",
        "milpa_time_to_first_token_seconds_count 1",
        "milpa_inter_token_seconds_count 2",
        "milpa_queue_length 0",
        "milpa_requests_in_flight 0",
        "milpa_model_info{name=\"semilla\",hash=\"0123456789abcdef\"} 1",
    ] {
        assert!(reply.body.lines().any(|found| found == line), "{line} is not in {}", reply.body);
    }
}

#[test]
fn a_prompt_comes_back_with_its_log_probabilities() {
    let script = Script::new();
    let server = TestServer::start(&script);
    let body = r#"{"prompt":"uno dos tres","echo":true,"logprobs":1,"max_tokens":0}"#;
    let answer = server.post(COMPLETIONS, body).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "uno dos tres");
    assert_eq!(choice["finish_reason"], "length");
    let logprobs = json!({
        "tokens": ["uno ", "dos ", "tres"],
        "token_logprobs": [null, -0.5, -1.0],
        "top_logprobs": [null, {"otro": -0.25}, {"otro": -0.25}],
        "text_offset": [0, 4, 8],
    });
    assert_eq!(choice["logprobs"], logprobs);
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    assert!(script.asked.lock().unwrap().is_empty(), "nothing was generated");

    // As lm_eval asks: several prompts as tokens, one greedy token after each.
    let body = r#"{"prompt":[[0,1],[1]],"echo":true,"logprobs":1,"max_tokens":1,"temperature":0}"#;
    let answer = server.post(COMPLETIONS, body).json();
    let second = &answer["choices"][1];
    assert_eq!((&second["index"], &second["text"]), (&json!(1), &json!("dos fin")));
    let first = &answer["choices"][0];
    assert_eq!(first["text"], "uno dos fin");
    assert_eq!(first["logprobs"]["token_logprobs"], json!([null, -0.5, -0.125]));
    assert_eq!(first["logprobs"]["text_offset"], json!([0, 4, 8]));
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
    );
    assert!(script.asked.lock().unwrap().is_empty(), "nothing was generated");

    // What is drawn after a prompt is generated as ever.
    let body = r#"{"prompt":[3],"echo":true,"max_tokens":2,"seed":0}"#;
    let answer = server.post(COMPLETIONS, body).json();
    assert_eq!(answer["choices"][0]["text"], "ñandú uno dos ");
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    assert_eq!(script.last().prompt, "[3]");
}

#[test]
fn tokens_are_told() {
    let server = TestServer::start(&Script::new());
    let body = r#"{"prompt":"uno ñandú","add_special_tokens":false}"#;
    let expect = json!({"count": 2, "max_model_len": CONTEXT_LENGTH, "tokens": [4, 7]});
    assert_eq!(server.post("/tokenize", body).json(), expect);
    let tokens = server.post("/tokenize", r#"{"model":"semilla","prompt":"uno"}"#).json();
    assert_eq!(tokens["tokens"], json!([1000, 3]));
    assert_eq!(server.post("/tokenize", r#"{"prompt":7}"#).error(400)["param"], "prompt");
    assert_eq!(server.post("/tokenize", r#"{"prompt":"a","x":1}"#).error(400)["param"], "x");
    assert_eq!(server.get("/v1/models").json()["data"][0]["milpa"]["start_token"], 1000);
}

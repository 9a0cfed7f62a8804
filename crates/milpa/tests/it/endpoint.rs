//! A model behind `milpa serve` in the place of one here, from the command line.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr},
};

use serde_json::Value;

use crate::harness::Field;

/// `milpa serve` on a free port, ended when dropped.
struct Served {
    child: Child,
    /// Kept open: a server whose talk nobody reads ends.
    _talk: BufReader<ChildStderr>,
    url: String,
}

impl Served {
    fn start(field: &Field) -> Self {
        let mut child = field.start(&["serve", "run/bundle", "--bind", "127.0.0.1:0"]);
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let line =
            talk.by_ref().lines().map(Result::unwrap).find(|line| line.contains("/v1 (OpenAI"));
        let line = line.unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http")).unwrap();
        Self { url: url.to_owned(), child, _talk: talk }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TASK: &str = "dataset_path: json\n\
    dataset_kwargs: {data_files: {test: documents.jsonl}}\n\
    test_split: test\n";

fn write_tasks(field: &Field) {
    let mut documents = String::new();
    for (number, (plant, place)) in
        [("maíz", "sierra"), ("papa", "costa"), ("ají", "selva")].iter().enumerate()
    {
        let document = serde_json::json!({
            "text": format!("El {plant} crece en la {place}."), "plant": plant,
            "choices": ["sierra", "costa", "selva"], "answer": number,
        });
        documents += &format!("{document}\n");
    }
    field.write("documents.jsonl", documents.as_bytes());
    let choice = "task: choice\noutput_type: multiple_choice\ndoc_to_text: El {{plant}} crece en la\n\
        doc_to_choice: choices\ndoc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_mutual_info}]\n";
    let rolling =
        "task: rolling\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: text\n";
    let generate = "task: generate\noutput_type: generate_until\ndoc_to_text: El {{plant}}\n\
        doc_to_target: text\ngeneration_kwargs: {until: ['. '], max_gen_toks: 12}\n\
        metric_list: [{metric: exact_match}]\n";
    for (name, task) in [("choice", choice), ("rolling", rolling), ("generate", generate)] {
        field.write(&format!("{name}.yaml"), format!("{task}{TASK}").as_bytes());
    }
}

fn run(field: &Field, model: &[&str], out: &str) -> Value {
    let tasks =
        "eval run --task choice.yaml --task rolling.yaml --task generate.yaml --log-texts --json";
    let mut arguments: Vec<&str> = tasks.split(' ').collect();
    arguments.extend(model);
    arguments.extend(["--out", out]);
    serde_json::from_str(&field.ok(&arguments)).unwrap()
}

/// Holds the logs of two runs against each other: texts equal, log-likelihoods to 1e-5.
fn assert_same_answers(field: &Field, a: &str, b: &str) {
    let [a, b] = [a, b].map(|out| field.read(&format!("{out}/questions.jsonl")));
    assert_eq!(a.lines().count(), 9);
    for (a, b) in a.lines().zip(b.lines()) {
        let [a, b]: [Value; 2] = [a, b].map(|line| serde_json::from_str(line).unwrap());
        assert_eq!(a["prompt_hash"], b["prompt_hash"]);
        let both =
            a["responses"].as_array().unwrap().iter().zip(b["responses"].as_array().unwrap());
        for (a, b) in both {
            let (mut a, mut b) = (a.clone(), b.clone());
            if let (Some(x), Some(y)) = (a["log_likelihood"].as_f64(), b["log_likelihood"].as_f64())
            {
                assert!((x - y).abs() < 1e-5, "{x} {y}");
                (a["log_likelihood"], b["log_likelihood"]) = (0.into(), 0.into());
            }
            assert_eq!(a, b);
        }
    }
}

#[test]
fn a_model_elsewhere_gives_what_it_gives_here() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    write_tasks(&field);
    let here = run(&field, &["--model", "run/bundle"], "here");
    let served = Served::start(&field);
    let url = served.url.as_str();
    let there = run(&field, &["--endpoint", url], "there");
    assert_same_answers(&field, "here", "there");
    assert_eq!(here["model"], there["model"], "the server tells name and hash");
    let endpoint = &there["endpoint"];
    assert_eq!((&endpoint["url"], &endpoint["retries"]), (&url.into(), &0.into()));
    assert_eq!(endpoint["reported_models"]["huerta"], endpoint["requests"]);
    assert_eq!(endpoint["temperatures"], serde_json::json!([0.0]));
    let again = run(&field, &["--endpoint", url], "there");
    assert_eq!(again["endpoint"]["requests"], 0);
    let with_tokens = ["--endpoint", url, "--model", "huerta", "--tokenizer", "run/bundle"];
    run(&field, &with_tokens, "tokens");
    assert_same_answers(&field, "here", "tokens");
    // What the harness forgot the endpoint's answers still know.
    std::fs::remove_file(field.path("tokens/answers.jsonl")).unwrap();
    let again = run(&field, &with_tokens, "tokens");
    assert_eq!(again["endpoint"]["requests"], 0);
    assert!(again["endpoint"]["remembered"].as_u64().unwrap() > 15);

    field.write("prices.toml", b"currency = \"PEN\"\n[models.huerta]\nprompt_per_million = 1000\ncompletion_per_million = 1000\n");
    let dear =
        "eval run --task choice.yaml --out dear --prices prices.toml --max-cost 0.04 --endpoint";
    let mut dear: Vec<&str> = dear.split(' ').collect();
    dear.push(url);
    field.milpa(&dear).expect(
        1,
        &["the budget is used up", "PEN were spent", "asks only the rest", "requests asked now"],
    );
    dear[9] = "1";
    field.ok(&dear);
    let report: Value = serde_json::from_str(&field.read("dear/report.json")).unwrap();
    assert!(report["endpoint"]["remembered"].as_u64().unwrap() > 0, "{report}");

    field.write("q.jsonl", b"{\"id\":1,\"question\":\"a?\"}\n");
    field.write("a.jsonl", b"{\"id\":1,\"answer\":\"si\"}\n");
    let judge = "eval judge grade --prompt grade-es-v1 --questions q.jsonl --answers a.jsonl --max-tokens 4 \
                 --context-length 64 --out judged --api completions --endpoint";
    let mut judge: Vec<&str> = judge.split_whitespace().collect();
    judge.push(url);
    // The prompt is longer than this small model takes.
    field.milpa(&judge).expect(1, &["the model takes 64"]);
    let look = [
        "look",
        "--out",
        "look.html",
        "--max-tokens",
        "4",
        "--beside",
        "run/bundle",
        "--endpoint",
        url,
    ];
    field.ok(&[&["eval"], &look[..]].concat());
    let page = field.read("look.html");
    assert!(page.contains("run/bundle") && page.contains(url));
    scores_are_those_of_the_model_here(&field, url);
}

fn json(field: &Field, arguments: &[&[&str]]) -> Value {
    serde_json::from_str(&field.ok(&[&arguments.concat()[..], &["--json"]].concat())).unwrap()
}

/// `suite`, `perplexity`, `choice` and `compare` with the model behind `url`.
fn scores_are_those_of_the_model_here(field: &Field, url: &str) {
    let (here, there) = (["--model", "run/bundle"], ["--endpoint", url]);
    let near = |a: &Value, b: &Value| {
        let (x, y) = (a.as_f64().unwrap(), b.as_f64().unwrap());
        assert!((x - y).abs() < 1e-5 * x.abs().max(1.0), "{x} {y}");
    };
    let perplexity: &[&str] = &["eval", "perplexity", "--data", "texts.jsonl"];
    let one = json(field, &[perplexity, &here]);
    let other = json(field, &[perplexity, &there]);
    near(&one["bits_per_byte"], &other["bits_per_byte"]);
    assert_eq!(one["sources"][0]["text_hash"], other["sources"][0]["text_hash"]);
    assert!(field.path("perplexity.endpoint.jsonl").exists());

    let task = "name = \"es/plantas\"\nversion = 1\nkind = \"multiple_choice\"\nlanguages = [\"es\"]\n\
                summary = \"x\"\nlicence = \"CC0-1.0\"\ncitation = \"x\"\n[multiple_choice]\nid = \"plant\"\n\
                choices = \"choices\"\nanswer = \"answer\"\nanswer_format = \"index\"\nmetrics = [\"acc\"]\n\
                [multiple_choice.continuation]\ntemplate = \"El {plant} crece en la\"\n";
    field.write("task.toml", task.as_bytes());
    let choice: &[&str] = &["eval", "choice", "--task", "task.toml", "--data", "documents.jsonl"];
    let one = json(field, &[choice, &here]);
    let other = json(field, &[choice, &there, &["--answers", "paid.jsonl"]]);
    assert_eq!(one["tasks"][0]["metrics"], other["tasks"][0]["metrics"]);
    assert!(other["endpoint"]["requests"].as_u64().unwrap() > 0);
    // The same command asks nothing again.
    let again = json(field, &[choice, &there, &["--answers", "paid.jsonl"]]);
    assert_eq!(again["endpoint"]["requests"], 0);
    assert_eq!(again["tasks"][0]["metrics"], other["tasks"][0]["metrics"]);

    let suite: &[&str] = &["eval", "suite", "recipe.toml", "--corpus", "run/corpus"];
    let one = json(field, &[suite, &here, &["--out", "suite-here"]]);
    let other = json(field, &[suite, &there, &["--out", "suite-there"]]);
    near(&one["perplexity"]["bits_per_byte"], &other["perplexity"]["bits_per_byte"]);
    assert_eq!(one["samples"][0]["text"], other["samples"][0]["text"]);
    assert!(one.get("endpoint").is_none() && other["endpoint"]["url"] == url);
    assert!(field.path("suite-there.endpoint.jsonl").exists());
    let again = json(field, &[suite, &there, &["--out", "suite-there"]]);
    assert_eq!(again["endpoint"]["requests"], 0);

    // Distributions are of the model here alone.
    let compare: &[&str] =
        &["eval", "compare", "suite-here", "suite-there", "--kl-texts", "texts.jsonl"];
    let models = ["--models", "run/bundle,huerta"];
    let ledger = json(field, &[compare, &models, &there]);
    let said = ledger["columns"][0]["divergence"]["unavailable"]["reason"].as_str().unwrap();
    assert!(said.contains("is unavailable for huerta"), "{said}");
}

#[test]
fn what_cannot_be_asked_is_told_before_anything_is_sent() {
    let field = Field::new();
    write_tasks(&field);
    let ask = |more: &[&str]| {
        field.milpa(&[&["eval", "run", "--task", "choice.yaml", "--out", "x"], more].concat())
    };
    ask(&[]).expect(2, &["--model"]);
    ask(&["--endpoint", "http://10.0.0.1/v1"]).expect(1, &["not encrypted", "--allow-insecure"]);
    ask(&["--endpoint", "10.0.0.1/v1"]).expect(1, &["https://host.example/v1"]);
    ask(&["--model", "m", "--concurrency", "3", "--api", "chat"]).expect(2, &["--endpoint"]);
    let key = ask(&["--endpoint", "http://127.0.0.1:9", "--api-key-env", "sk-123-secret"]);
    key.expect(1, &["the NAME of a variable"]);
    assert!(!key.stderr.contains("secret"), "{}", key.stderr);
    ask(&["--endpoint", "http://127.0.0.1:9", "--api-key-env", "MILPA_NO_SUCH_KEY"])
        .expect(1, &["export it first"]);
    ask(&["--endpoint", "http://127.0.0.1:9", "--attempts", "1"])
        .expect(1, &["nothing answers at http://127.0.0.1:9/v1/models"]);
    ask(&["--endpoint", "http://127.0.0.1:9", "--max-cost", "1"]).expect(2, &["--prices"]);
    ask(&["--endpoint", "http://127.0.0.1:9", "--adapter", "a"])
        .expect(1, &["--adapter is for a model here"]);
}

//! The tasks under `tasks/`: they ask what lm_eval 0.4.13 asks with its own files, and they find their
//! data. `reference/task_prompts_golden.py` writes `golden/tasks/prompts.json`.

use std::{collections::BTreeMap, fs, path::Path};

use milpa_base::ScoreRequest;
use milpa_eval::{
    TaskSpec,
    harness::{
        HARNESS_FORMAT, HarnessReport, HarnessRun, PreparedTask,
        ask::Answers,
        requests::{PromptOptions, Request},
    },
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    conversations::Talker,
    models::{Scripted, info, with_watch},
    real_data::data,
};

/// Documents of a task with lm_eval's requests for each: prompt, or context and continuation.
#[derive(Deserialize)]
struct Expected {
    documents: Vec<Value>,
    requests: Vec<Vec<Vec<String>>>,
}

fn prepare(name: &str, data: &Path) -> PreparedTask {
    let options = PromptOptions { data: Some(data), ..PromptOptions::default() };
    PreparedTask::from_toml(&TaskSpec::builtin(name).unwrap(), &options).unwrap()
}

#[test]
fn prompts_equal_those_of_lm_eval() {
    let expected: BTreeMap<String, Expected> =
        serde_json::from_str(include_str!("golden/tasks/prompts.json")).unwrap();
    assert_eq!(expected.len(), 6);
    for (name, task) in expected {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("documents.jsonl");
        let lines: Vec<String> = task.documents.iter().map(Value::to_string).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        let prepared = prepare(&name, &path);
        let asked = prepared.questions.questions.iter().map(|question| {
            let texts = question.requests.iter().map(|request| match request {
                Request::Continuation { context, continuation } => {
                    vec![context.clone(), continuation.clone()]
                }
                Request::Generation { prompt, .. } => vec![prompt.clone()],
                Request::Text { text } => vec![text.clone()],
            });
            texts.collect()
        });
        let asked: Vec<Vec<Vec<String>>> = asked.collect();
        assert_eq!(asked, task.requests, "{name}");
    }
}

#[test]
fn data_is_found_in_a_folder_and_what_is_missing_says_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let spec = TaskSpec::builtin("es/mgsm").unwrap();
    let error = spec.data_file(Some(folder.path())).unwrap_err().to_string();
    assert!(error.contains("mgsm_es.jsonl: mgsm/mgsm_es.tsv of https://github.com"), "{error}");
    let error = spec.data_file(None).unwrap_err().to_string();
    assert!(error.contains("--data") && error.contains("url-nlp"), "{error}");
    let path = folder.path().join("mgsm_es.jsonl");
    fs::write(&path, "{}").unwrap();
    assert_eq!(spec.data_file(Some(folder.path())).unwrap(), path);
    assert_eq!(spec.data_file(Some(&path)).unwrap(), path);
}

#[test]
fn real_files_give_their_questions() {
    let Some(data) = data() else { return };
    let folder = data.join("eval");
    let check = |name: &str, questions: usize, left_out: u64| {
        let prepared = prepare(name, &folder);
        let found = &prepared.questions;
        assert_eq!((found.questions.len(), found.skips.total()), (questions, left_out), "{name}");
    };
    check("es/xquad", 674, 0);
    check("es/mgsm", 100, 0);
    check("en/gsm8k", 7473, 0);
    check("mul/americasnli", 6666, 0);
    check("qu/xcopa", 100, 100);
    check("ht/xcopa", 100, 100);
    check("pt/enem_2022", 150, 29);
    check("es/exams", 113, 457);
    let nli = prepare("mul/americasnli", &folder);
    let languages: std::collections::BTreeSet<&str> =
        nli.questions.questions.iter().map(|question| question.groups["lang"].as_str()).collect();
    assert_eq!(languages.len(), 10);
}

#[test]
fn every_shipped_prompt_can_be_asked() {
    let Some(data) = data() else { return };
    let folder = data.join("eval");
    let limit = Some(3);
    let options = PromptOptions { data: Some(&folder), limit, ..PromptOptions::default() };
    let check = |name: &str, prompts: usize| {
        let spec = TaskSpec::builtin(name).unwrap();
        let others = PreparedTask::other_prompts(&spec, &options).unwrap();
        assert_eq!(others.len(), prompts, "{name}");
        let main = prepare(name, &folder);
        for (variant, other) in &others {
            let (a, b) = (&main.questions.questions[0], &other.questions.questions[0]);
            assert_ne!(a.requests, b.requests, "{name}: {variant}");
        }
    };
    check("pt/enem_2022", 6);
    check("es/exams", 4);
    check("pt/exams", 4);
    check("es/mgsm", 3);
    check("es/xquad", 3);
    check("mul/americasnli", 3);
}

const ORDERS: &str = "name = \"es/x\"\nversion = 1\nkind = \"multiple_choice\"\nlanguages = [\"es\"]\n\
    summary = \"s\"\nlicence = \"l\"\ncitation = \"c\"\n[multiple_choice]\nid = \"id\"\n\
    choices = \"choices\"\nanswer = \"answer\"\nmetrics = [\"acc\"]\n\
    [multiple_choice.continuation]\ntemplate = \"{question}\"\n\
    [multiple_choice.letters]\ntemplate = \"{question}\\n{choices}\\nR:\"\n\
    [[prompts]]\nname = \"a\"\nstyle = \"letters\"\n\
    [[prompts]]\nname = \"b\"\nstyle = \"letters\"\nrotate_choices = 1\n";

#[test]
fn a_model_that_always_says_a_is_found_out_by_the_orders() {
    let spec = TaskSpec::parse(ORDERS, Path::new("task.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.jsonl");
    // The first choice is right each time.
    let row = |n: usize| {
        format!(
            "{{\"id\":\"{n}\",\"question\":\"q{n}\",\"choices\":[\"si\",\"no\"],\"answer\":0}}\n"
        )
    };
    fs::write(&path, (0..8).map(row).collect::<String>()).unwrap();
    let options = PromptOptions { data: Some(&path), ..PromptOptions::default() };
    let main = PreparedTask::from_toml(&spec, &options).unwrap();
    let others = PreparedTask::other_prompts(&spec, &options).unwrap();
    let model = Scripted(info("always a"), |request: &ScoreRequest| {
        if request.continuation.trim() == "A" || request.continuation.trim() == "si" {
            -1.0
        } else {
            -2.0
        }
    });
    let (scores, logs) = with_watch(|watch| {
        let mut run = HarnessRun {
            model: &model,
            answers: &mut Answers::default(),
            chat: false,
            log_texts: false,
            replicates: 100,
            watch,
        };
        run.score_prompts(&main, &others).unwrap()
    });
    let found = &scores.prompts[0];
    let named: Vec<(&str, f64)> =
        found.prompts.iter().map(|prompt| (prompt.name.as_str(), prompt.value)).collect();
    assert_eq!(named, [("main", 1.0), ("a", 1.0), ("b", 0.0)]);
    assert!((found.spread - 1.0).abs() < 1e-12 && (found.mean - 2.0 / 3.0).abs() < 1e-12);
    // All of the variance lies in the prompts, and the interval says so.
    assert!(found.variance.prompts > 0.3 && found.variance.items < 1e-12);
    let interval = found.interval.unwrap();
    assert_eq!((interval.low, interval.high), (0.0, 1.0));
    assert_eq!(logs.len(), 24);
    assert_eq!(logs[8].prompt.as_deref(), Some("a"));
    assert_eq!(scores.metrics[0].value, 1.0);
}

#[test]
fn prompts_that_a_task_cannot_have_are_refused() {
    let check = |from: &str, to: &str, part: &str| {
        assert!(ORDERS.contains(from));
        let error = TaskSpec::parse(&ORDERS.replace(from, to), Path::new("task.toml")).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    check("name = \"b\"", "name = \"a\"", "one name");
    check("name = \"b\"", "name = \"main\"", "one name");
    check("rotate_choices = 1", "template = \"{question\"", "without");
    check("rotate_choices = 1", "harness = { doc_to_text = \"a\" }", "does not take");
}

#[test]
fn a_report_shows_groups_prompts_and_published_figures() {
    let folder = tempfile::tempdir().unwrap();
    let sums =
        (1..9).map(|n| format!("{{\"question\": \"{n} + {n}\", \"answer\": \"{}\"}}\n", 2 * n));
    fs::write(folder.path().join("mgsm_es.jsonl"), sums.collect::<String>()).unwrap();
    let pair = |lang: &str, label: &str| {
        format!(
            "{{\"lang\": \"{lang}\", \"premise\": \"a\", \"hypothesis\": \"b\", \"label\": \"{label}\"}}\n"
        )
    };
    let pairs = pair("gn", "entailment")
        + &pair("gn", "neutral")
        + &pair("aym", "entailment")
        + &pair("aym", "entailment");
    let zipped = zstd::encode_all(pairs.as_bytes(), 1).unwrap();
    fs::write(folder.path().join("americasnli_dev.jsonl.zst"), zipped).unwrap();
    // Right where the prompt asks for an answer, and fond of "Sí".
    let model = Talker::new(|prompt| {
        let number: u32 = prompt.chars().find_map(|c| c.to_digit(10)).unwrap_or(0);
        if prompt.contains("Respuesta:") { format!(" {}", 2 * number) } else { " no".to_owned() }
    });
    let options = PromptOptions { data: Some(folder.path()), ..PromptOptions::default() };
    let mut tasks = Vec::new();
    with_watch(|watch| {
        let mut answers = Answers::default();
        let mut run = HarnessRun {
            model: &model,
            answers: &mut answers,
            chat: false,
            log_texts: false,
            replicates: 100,
            watch,
        };
        for name in ["es/mgsm", "mul/americasnli"] {
            let spec = TaskSpec::builtin(name).unwrap();
            let main = PreparedTask::from_toml(&spec, &options).unwrap();
            let others = PreparedTask::other_prompts(&spec, &options).unwrap();
            tasks.push(run.score_prompts(&main, &others).unwrap().0);
        }
    });
    let nli = &tasks[1];
    assert_eq!(nli.groups.len(), 2);
    // One of two in Guaraní, two of two in Aymara: three quarters, each language counting half.
    assert!((nli.group_means["lang"][0].value - 0.75).abs() < 1e-12);
    let report = HarnessReport {
        format: HARNESS_FORMAT,
        milpa_version: "0".to_owned(),
        command_line: "milpa eval run".to_owned(),
        model: info("talker"),
        endpoint: None,
        fewshot_seed: 1234,
        chat_template: false,
        bootstrap_replicates: 100,
        tasks,
    };
    let text = serde_json::to_string(&report).unwrap();
    let read: HarnessReport = serde_json::from_str(&text).unwrap();
    assert_eq!(read.tasks[0].published[0].figures.len(), 4);
    let pages = [report.to_markdown(), report.to_html(), report.to_string()];
    for (page, end) in pages.iter().zip(["md", "html", "txt"]) {
        // Left where a person can look at it.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("harness_report.{end}"));
        fs::write(path, page).unwrap();
        for part in [
            "· lang gn",
            "· mean over lang",
            "LatamGPT-70B SFT",
            "+0.2120",
            "250 questions there, 8 here",
            "best main 1.0000, worst",
        ] {
            assert!(page.contains(part), "{part:?} is not in\n{page}");
        }
    }
}

//! The tasks under `tasks/`: they ask what lm_eval 0.4.13 asks with its own files, and they find their
//! data. `reference/task_prompts_golden.py` writes `golden/tasks/prompts.json`.

use std::{collections::BTreeMap, fs, path::Path};

use milpa_eval::{
    TaskSpec,
    harness::{
        PreparedTask,
        requests::{PromptOptions, Request},
    },
};
use serde::Deserialize;
use serde_json::Value;

use crate::real_data::data;

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

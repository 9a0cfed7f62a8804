//! The task `mul/programas`: right programs pass, wrong ones fail, and files of responses are scored.

use std::{fs, path::PathBuf};

use milpa_eval::{
    Outcome, Reason, Verifier,
    harness::{PreparedTask, requests::PromptOptions, requests::Target, task_file::LoadedTask},
    verify::code::{Block, CodeTests, read_code_responses, read_problems, score_code},
};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tasks/mul/programas")
}

fn problems() -> Vec<Value> {
    let text = fs::read_to_string(folder().join("programas.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn right_programs_pass_and_wrong_ones_fail() {
    let verifier = Verifier::Code { block: Block::Last };
    let problems = problems();
    assert!(problems.len() >= 20);
    for problem in &problems {
        let id = &problem["id"];
        let tests = problem["tests"].to_string();
        CodeTests::parse(&tests).unwrap();
        let solution = format!("```js\n{}\n```", problem["solution"].as_str().unwrap());
        let verdict = verifier.verify(&tests, &solution);
        assert_eq!(verdict.outcome, Outcome::Correct, "{id}: {}", verdict.reason);
        let wrong = problem["wrong"].as_array().unwrap();
        assert!(wrong.len() >= 2, "{id}");
        for (at, program) in wrong.iter().enumerate() {
            let verdict = verifier.verify(&tests, program.as_str().unwrap());
            assert_eq!(verdict.outcome, Outcome::Incorrect, "{id}: wrong program {at} passes");
            // Wrong for what it gives, not for a slip that keeps it from running.
            let syntax = matches!(&verdict.reason, Reason::FailsTest { failure, .. }
                if failure.to_string().starts_with("no program"));
            assert!(!syntax, "{id} {at}: {}", verdict.reason);
        }
        // The problem's own words hold no program, and another problem's solution is none.
        let statement = problem["statement"].as_str().unwrap();
        assert!(!verifier.verify(&tests, statement).is_correct(), "{id}");
        let other = problems.iter().find(|other| other["id"] != *id).unwrap();
        assert!(!verifier.verify(&tests, other["solution"].as_str().unwrap()).is_correct(), "{id}");
    }
}

#[test]
fn the_task_is_asked_and_scored_by_the_harness() {
    let task = LoadedTask::load(&folder().join("programas.yaml")).unwrap();
    let prepared = PreparedTask::from_yaml(&task, &PromptOptions::default()).unwrap();
    let problems = problems();
    assert_eq!(prepared.questions.questions.len(), problems.len());
    for (question, problem) in prepared.questions.questions.iter().zip(&problems) {
        let Target::Text(gold) = &question.target else { panic!("{}", problem["id"]) };
        let tests: Value = serde_json::from_str(gold).unwrap();
        assert_eq!(tests, problem["tests"]);
    }
}

#[test]
fn files_of_responses_give_pass_at_k() {
    let folder = tempfile::tempdir().unwrap();
    let (data, given) = (folder.path().join("d.jsonl"), folder.path().join("r.jsonl"));
    let tests = |result: u32| {
        json!({ "language": "javascript", "functions": ["f"], "limits": { "fuel": 1_000_000_000_u64 },
                "tests": [{ "arguments": [], "result": result }] })
    };
    let rows = [
        json!({ "id": "uno", "tests": tests(1) }),
        json!({ "id": 2, "tests": tests(2).to_string() }),
        json!({ "id": "tres", "tests": tests(3) }),
        json!({ "id": "uno", "tests": tests(4) }),
        json!({ "id": "mal", "tests": {} }),
    ];
    fs::write(&data, rows.map(|row| row.to_string()).join("\n")).unwrap();
    let respond = |id: &str, response: &str| json!({ "id": id, "response": response }).to_string();
    let lines = [
        respond("uno", "const f = () => 1;"),
        respond("uno", "const f = () => { for (;;); };"),
        respond("uno", "const f = ("),
        respond("uno", "```python\n```"),
        respond("2", "const f = () => 2;"),
        respond("2", "const f = () => 3;"),
        "{}".to_owned(),
    ];
    fs::write(&given, lines.join("\n")).unwrap();
    let (set, responses) = (read_problems(&data).unwrap(), read_code_responses(&given).unwrap());
    let scored = |threads| score_code(&set, &responses, Block::Last, &[1, 2, 5], threads).unwrap();
    let (report, logs) = scored(3);
    assert_eq!((report.problems, report.programs), (2, 6));
    assert_eq!((report.skips.total(), report.response_skips.total()), (3, 1));
    let values: Vec<(u64, f64)> = report.pass_at_k.iter().map(|at| (at.k, at.value)).collect();
    assert_eq!(values, [(1, 0.375), (2, 0.75)]);
    let endings: Vec<(&str, u64)> =
        report.endings.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let expect = [
        ("no code", 1),
        ("out of fuel", 1),
        ("passes", 2),
        ("syntax error", 1),
        ("wrong answer", 1),
    ];
    assert_eq!(endings, expect);
    assert_eq!((report, logs), scored(1));
}

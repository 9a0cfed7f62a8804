//! `milpa plan`: answers that can be used, questions that cannot be answered, and what runs teach.

use crate::harness::Field;

#[track_caller]
fn refused(arguments: &[&str], parts: &[&str]) {
    let field = Field::new();
    let arguments: Vec<&str> = ["plan"].iter().chain(arguments).copied().collect();
    field.milpa(&arguments).expect(2, parts);
}

#[test]
fn the_published_arithmetic_is_reproduced_and_corrected() {
    let text = Field::new().ok(&["plan", "run", "--as-published", "latamgpt"]);
    for part in
        ["38.6 days", "5.78 days", "printed as 39 days", "76.8 days", "11.5 days", "sparsity"]
    {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn every_answer_can_be_read_by_a_program() {
    let field = Field::new();
    let questions: [&[&str]; 5] = [
        &["run", "--model", "llama3-8b", "--tokens", "100B", "--hardware", "h200", "--gpus", "64"],
        &[
            "run",
            "--budget",
            "1e21 FLOP",
            "--hardware",
            "h100-sxm",
            "--price-per-gpu-hour",
            "2 USD",
        ],
        &["viability", "--budget-usd", "3M", "--team", "20", "--months", "18"],
        &["continued", "--base", "8B", "--tokens", "100B", "--new-tokens", "30B"],
        &["inference", "--model", "llama3-8b", "--hardware", "h200", "--price-per-gpu-hour", "3"],
    ];
    for question in questions {
        let arguments: Vec<&str> =
            ["plan"].iter().chain(question).chain(&["--json"]).copied().collect();
        let sheet: serde_json::Value = serde_json::from_str(&field.ok(&arguments)).unwrap();
        let facts: Vec<&serde_json::Value> = sheet["sections"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|section| section["facts"].as_array())
            .flatten()
            .collect();
        assert!(facts.len() >= 7, "{question:?}: {sheet}");
        for fact in facts {
            assert!(fact["value"].is_f64() && fact["unit"].is_string(), "{fact}");
            assert!(!fact["source"].as_str().unwrap().is_empty(), "{fact}");
        }
    }
}

#[test]
fn a_recipe_is_planned_for_a_cluster_as_well() {
    let field = Field::new();
    let text = field.ok(&["plan", "run", ".", "--hardware", "rtx4090", "--gpus", "4"]);
    assert!(text.starts_with("huerta on 1536 tokens with 4 x NVIDIA GeForce RTX 4090"), "{text}");
}

#[test]
fn questions_that_cannot_be_answered_are_refused_with_what_would_be_enough() {
    let h200 = ["--hardware", "h200"];
    let run = |extra: &[&'static str], parts: &[&str]| {
        let arguments: Vec<&str> = ["run"].iter().chain(&h200).chain(extra).copied().collect();
        refused(&arguments, parts);
    };
    run(&["--model", "llama3-8b", "--tokens", "-5B"], &["-5B", "it is negative"]);
    run(&["--model", "llama3-8b", "--tokens", "24 GiB"], &["24 GiB", "300B"]);
    run(&["--parameters", "7B tokens", "--tokens", "1B"], &["\"tokens\" is another unit"]);
    run(&["--budget", "7B tokens"], &["neither compute nor money"]);
    run(&["--budget", "1e23"], &["the unit is missing"]);
    run(&["--budget", "1M USD"], &["--price-per-gpu-hour"]);
    run(&["--model", "llama3-8b"], &["--tokens 300B"]);
    run(&["--model", "lama3-8b", "--tokens", "1B"], &["did you mean \"llama3-8b\"?"]);
    run(
        &["--model", "llama3-405b", "--tokens", "1T", "--gpus", "8"],
        &["does not fit on 8 x h200", "enough would be 64 x h200"],
    );
    refused(&["run", "--model", "gpt2", "--tokens", "1B"], &["--hardware"]);
    refused(&["run", "--as-published", "latam"], &["known is latamgpt"]);
    refused(
        &["viability", "--budget-usd", "3M EUR", "--team", "2", "--months", "1"],
        &["USD", "EUR"],
    );
    refused(
        &["inference", "--model", "llama3-70b", "--hardware", "rtx4090"],
        &["does not fit on 1 x rtx4090", "enough would be"],
    );
    refused(
        &["continued", "--base", "8B", "--tokens", "1B", "--trial", "0.1:0.5"],
        &["no trial keeps the limit"],
    );
}

#[test]
fn a_run_keeps_its_costs_and_teaches_the_next_plan() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "runs/huerta", "--price-per-hour", "3.60 USD"]);
    let ledger = field.read("runs/huerta/ledger.jsonl");
    let stages: Vec<String> = ledger
        .lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(entry["seconds"].as_f64().unwrap() > 0.0 && entry["complete"] == true);
            entry["stage"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(stages, ["corpus", "tokenizer", "tokens", "train", "eval", "package"]);

    let text = field.ok(&["explain", "runs/huerta"]);
    for part in [
        "time, planned",
        "time, measured",
        "memory, measured",
        "loss, measured",
        "cost, measured",
        "Costs (ledger)",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(field.ok(&["plan", "run", "."]).contains("share guessed"));
    let text = field.ok(&["plan", "calibrate", "runs/huerta"]);
    assert!(text.contains("11 steps at") && text.contains("runs/calibration.toml"), "{text}");
    let text = field.ok(&["plan", "run", "."]);
    assert!(text.contains("share as one run measured") && text.contains(" to "), "{text}");

    // A run that is up to date costs nothing more.
    field.ok(&["run", ".", "--out", "runs/huerta"]);
    assert_eq!(field.read("runs/huerta/ledger.jsonl"), ledger);
    field.milpa(&["plan", "calibrate", "runs"]).expect(1, &["holds no training", "runs/novelas"]);
    field.write("runs/calibration.toml", b"[[run]]\nrun = 3\n");
    field
        .milpa(&["plan", "run", "."])
        .expect(2, &["runs/calibration.toml", "milpa plan calibrate"]);
}

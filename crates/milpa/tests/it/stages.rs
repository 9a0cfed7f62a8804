//! Training in stages as a person meets it: the table, replay, a changed plan.

use std::{collections::BTreeMap, fs, thread::sleep, time::Duration};

use crate::harness::Field;

const STAGES: &str = r#"
packing = "best_fit"

[[train.replay]]
name = "own"
tokens = "replay"
share = 0.25

[[train.stage]]
name = "short first"
steps = 6
order = { by = "length", buckets = 3 }

[[train.stage]]
name = "rest"
batch_size = 2
mixture = { textos = { weight = 1, epochs = 9 } }

[eval]
"#;

fn train<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let folders = ["train", ".", "--tokenizer", "base/tokenizer", "--tokens", "base/tokens"];
    [&folders, &["--out", out][..], more].concat()
}

fn replay(out: &str) -> Vec<&str> {
    let what = ["tokens", "generate-replay", "--model", "base/train/checkpoint"];
    [&what, &["--tokens", "1500 tokens", "--max-tokens", "40", "--out", out][..]].concat()
}

fn files(field: &Field, dir: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(field.path(dir)).unwrap().map(Result::unwrap);
    let read = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

#[test]
fn a_base_writes_its_own_replay_and_is_trained_on_in_stages() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "base"]);
    field.edit_recipe("\n[eval]\n", STAGES);
    field.milpa(&["check", "."]).expect(1, &["replay", "do not exist"]);
    let missing = field.milpa(&train("train", &[]));
    missing.expect(1, &["the replay \"own\" cannot be read from", "milpa tokens generate-replay"]);
    assert!(!field.path("train").exists(), "refused before anything was written");

    field.ok(&replay("replay"));
    let mut child = field.start(&replay("again"));
    while !field.path("again.documents.jsonl").exists() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(20));
    child.kill().unwrap();
    child.wait().unwrap();
    field.ok(&replay("again"));
    assert_eq!(files(&field, "replay"), files(&field, "again"));
    assert!(!field.path("again.documents.jsonl").exists());
    assert!(field.read("replay/manifest.toml").contains("temperature = 1"));

    let table = field.ok(&train("train", &["--dry-run"]));
    for part in [
        "stage short first: steps 1 to 6",
        "length rising, 3 buckets",
        "own/generated",
        "25.0 %",
        "of 9 at most",
    ] {
        assert!(table.contains(part), "{part:?} is not in:\n{table}");
    }
    assert!(!field.path("train").exists(), "a dry run writes nothing");
    let json = field.ok(&train("train", &["--dry-run", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["stages"]["stages"][1]["sources"].as_array().unwrap().len(), 2);

    field.ok(&train("train", &[]));
    let log = field.read("train/metrics.jsonl");
    assert!(log.contains("\"kind\":\"data\"") && log.contains("\"own/generated\":"), "{log}");

    field.edit_recipe("steps = \"12 steps\"", "steps = \"15 steps\"");
    let refused = field.milpa(&train("train", &[]));
    refused.expect(1, &["train.steps was 12 and is 15", "--extend keeps what is trained"]);
    field.ok(&train("train", &["--extend"]));
    assert!(field.read("train/checkpoint/state.json").contains("\"step\": 15"));
    field.edit_recipe("epochs = 9", "epochs = 0.1");
    field.milpa(&train("other", &[])).expect(1, &["stage \"rest\": \"textos\" runs out of epochs"]);
    field.edit_recipe("steps = 6", "steps = 60");
    field
        .milpa(&["check", "."])
        .expect(2, &["`train.stage` cannot be right", "set train.steps above 60"]);
}

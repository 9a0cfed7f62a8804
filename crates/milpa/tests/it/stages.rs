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
    let much = ["--tokens", "1500 tokens", "--max-tokens", "40", "--batch-size", "4"];
    [&what, &much[..], &["--out", out][..]].concat()
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
    field.milpa(&["check", "."]).expect(2, &["replay", "do not exist"]);
    let missing = field.milpa(&train("train", &[]));
    missing.expect(2, &["the replay \"own\" cannot be read from", "milpa tokens generate-replay"]);
    assert!(!field.path("train").exists(), "refused before anything was written");
    // Without a base too, what the replay names is opened before any work.
    fs::create_dir(field.path("empty")).unwrap();
    for bad in ["empty", "texts.jsonl", "base/corpus"] {
        field.edit_recipe("tokens = \"replay\"", &format!("tokens = \"{bad}\""));
        for command in [&["check", "."][..], &["run", ".", "--out", "bad"]] {
            field.milpa(command).expect(2, &["the replay \"own\" cannot be read from", bad]);
            assert!(!field.path("bad/corpus").exists(), "work began before {bad} was refused");
        }
        field.edit_recipe(&format!("tokens = \"{bad}\""), "tokens = \"replay\"");
    }

    field.milpa(&replay("base/tokens")).expect(2, &["base/tokens holds other token shards"]);
    field.ok(&replay("replay"));
    field.milpa(&["check", "."]).expect(0, &[]);
    let mut child = field.start(&replay("again"));
    let documents = field.path("again.documents.jsonl");
    let lines = || fs::read_to_string(&documents).unwrap_or_default().lines().count();
    while lines() < 5 && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Cut inside a batch: the settings and two documents are left.
    let whole = fs::read_to_string(&documents).unwrap();
    let cut: String = whole.split_inclusive('\n').take(3).collect();
    fs::write(&documents, cut).unwrap();
    let said = field.milpa(&replay("again"));
    said.expect(0, &["going on after document 2"]);
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
    refused.expect(2, &["train.steps was 12 and is 15", "--extend keeps what is trained"]);
    // To start it again would be in vain, so the supervisor does not.
    let supervised = field.milpa(&train("train", &["--supervise"]));
    supervised.expect(2, &["train.steps was 12 and is 15"]);
    assert!(!supervised.stderr.contains("it goes on from"), "{}", supervised.stderr);
    let table = field.ok(&train("train", &["--extend", "--dry-run"]));
    assert!(table.contains("steps 7 to 15"), "{table}");
    let from = "train/checkpoints/step-00000008";
    let planned = |text: String| -> serde_json::Value { serde_json::from_str(&text).unwrap() };
    let dry = planned(field.ok(&train("forked", &["--fork", from, "--dry-run", "--json"])));
    let before = planned(field.read(&format!("{from}/state.json")));
    assert_eq!(dry["plan"]["tokens_before"], before["tokens"]);
    field.ok(&train("forked", &["--fork", from]));
    // What the run before did is no part of the fork's time, whichever command goes on with it.
    for again in [false, true] {
        if again {
            field.ok(&train("forked", &[]));
        }
        let kept = planned(field.read("forked/plan.json"));
        assert_eq!(kept["tokens"], dry["plan"]["tokens"]);
    }
    assert!(field.read("forked/checkpoint/state.json").contains("\"step\": 15"));
    field
        .milpa(&train("forked", &["--fork", "train/checkpoint"]))
        .expect(2, &["did not begin at train/checkpoint", "another --out"]);
    field.ok(&train("train", &["--extend"]));
    assert!(field.read("train/checkpoint/state.json").contains("\"step\": 15"));
    let whole = planned(field.read("train/plan.json"))["tokens"].as_u64().unwrap();
    let own = |key: &str| dry["plan"][key].as_u64().unwrap();
    assert_eq!(own("tokens") + own("tokens_before"), whole);
    field.edit_recipe("epochs = 9", "epochs = 0.1");
    field.milpa(&train("other", &[])).expect(2, &["stage \"rest\": \"textos\" runs out of epochs"]);
    field.edit_recipe("steps = 6", "steps = 60");
    field
        .milpa(&["check", "."])
        .expect(2, &["`train.stage` cannot be right", "set train.steps above 60"]);
}

#[test]
fn samples_are_ordered_by_what_a_classifier_makes_of_them() {
    let field = Field::new();
    let texts: Vec<serde_json::Value> =
        field.read("texts.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let advert = "Compre ya, oferta gratis, haga clic aquí, precio bajo, envío rápido. ";
    let (mut mixed, mut labelled) = (String::new(), String::new());
    for (number, text) in texts.iter().enumerate() {
        let own = text["text"].as_str().unwrap();
        let advert = format!("{}{number}", advert.repeat(8));
        for (text, label) in [(own, "good"), (&advert, "bad")] {
            labelled += &format!("{}\n", serde_json::json!({"text": text, "label": label}));
        }
        let text = if number % 3 == 0 { advert.as_str() } else { own };
        let id = format!("texto/{number}");
        mixed += &format!("{}\n", serde_json::json!({"id": id, "text": text}));
    }
    field.write("texts.jsonl", mixed.as_bytes());
    field.write("labelled.jsonl", labelled.as_bytes());
    let by_quality =
        "\n[[train.stage]]\nname = \"worst first\"\norder = { by = \"quality\", buckets = 2 }\n";
    let tokens = "\n[tokens]\nquality = { model = \"quality.model\", label = \"god\" }\n\n[eval]\n";
    field.edit_recipe("\n[eval]\n", &[by_quality, tokens].concat());

    field.write("quality.model", b"no classifier");
    field.milpa(&["check", "."]).expect(2, &["quality.model is no classifier"]);
    field.ok(&["corpus", "classifier", "labelled.jsonl", "--out", "quality.model"]);
    for command in [&["check", "."][..], &["run", ".", "--out", "run"]] {
        field.milpa(command).expect(2, &["has no label \"god\"; it has bad, good"]);
    }
    assert!(!field.path("run/corpus").exists(), "refused before anything was built");
    field.edit_recipe("\"god\"", "\"good\"");
    field.ok(&["run", ".", "--out", "run"]);

    let bytes = fs::read(field.path("run/tokens/train-textos.quality")).unwrap();
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect();
    // 24 documents, a third of them advertisements; three are validation, two of them such.
    let good = values.iter().filter(|value| **value > 0.5).count();
    assert_eq!((good, values.len()), (15, 21), "{values:?}");
    let folders = ["train", ".", "--tokenizer", "run/tokenizer", "--tokens", "run/tokens"];
    let table = field.ok(&[&folders[..], &["--out", "other", "--dry-run"]].concat());
    assert!(table.contains("quality rising, 2 buckets"), "{table}");
}

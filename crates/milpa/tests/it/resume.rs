//! A run that is cut at any moment ends in the same bytes as one that was not.

use std::{
    fs,
    io::{Read, Write},
    process::Command,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use crate::{
    continued::{CONTINUED, portuguese},
    harness::{Field, Outcome, assert_same},
};

fn signal(name: &str, pid: u32) {
    // The process may have ended by itself in the meantime.
    let _ = Command::new("kill").args([name, &pid.to_string()]).output();
}

#[test]
fn a_killed_run_ends_in_the_same_bytes() {
    let field = Field::new();
    let started = Instant::now();
    field.ok(&["run", ".", "--out", "whole"]);
    let whole_time = started.elapsed();
    let whole = field.artifacts("whole");

    // Kill after a time that grows by a twelfth of the whole run, so that over the attempts every
    // stage is hit; the attempts share one folder and one must get through in the end.
    let mut kills = 0;
    for attempt in 1.. {
        let mut child = field.start(&["run", ".", "--out", "cut"]);
        let until = Instant::now() + whole_time * attempt / 12;
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= until {
                signal("-KILL", child.id());
                child.wait().unwrap();
                break None;
            }
            sleep(Duration::from_millis(3));
        };
        match ended {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => kills += 1,
        }
        assert!(attempt < 60, "the run never ended");
    }
    assert!(kills >= 3, "only {kills} kills: the test killed too late");
    assert_same(&whole, &field.artifacts("cut"));
}

#[test]
fn a_killed_training_ends_in_the_same_bytes() {
    killed_training(&Field::new());
}

#[test]
fn a_killed_training_in_bf16_ends_in_the_same_bytes() {
    let field = Field::new();
    field.edit_recipe("batch_size = 4", "batch_size = 4\nprecision = \"bf16\"");
    killed_training(&field);
    let resolved = field.read("whole/recipe.resolved.toml");
    assert!(resolved.contains("precision = \"bf16\""), "{resolved}");
}

fn killed_training(field: &Field) {
    field.ok(&["run", ".", "--out", "whole"]);
    let whole = field.artifacts("whole");
    let train = |out: &str| {
        field.start(&[
            "train",
            ".",
            "--tokenizer",
            "whole/tokenizer",
            "--tokens",
            "whole/tokens",
            "--out",
            out,
        ])
    };
    // The moments are taken from what training writes, not from a clock.
    for moment in ["key", "metrics.jsonl", "checkpoints/step-00000004", "checkpoints/step-00000008"]
    {
        let out = format!("cut-{}", moment.replace('/', "-"));
        let mut child = train(&out);
        let wanted = field.path(&out).join(moment);
        while !wanted.exists() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        signal("-KILL", child.id());
        child.wait().unwrap();
        let outcome = Outcome::of(&train(&out).wait_with_output().unwrap());
        outcome.expect(0, &[]);
        let name = "model.safetensors";
        for (there, here) in [
            ("checkpoint", "checkpoint"),
            ("checkpoints/step-00000008", "checkpoints/step-00000008"),
        ] {
            for file in [name, "optimizer.safetensors", "state.json", "manifest.toml"] {
                let bytes = std::fs::read(field.path(&out).join(there).join(file)).unwrap();
                assert!(
                    bytes == whole[&format!("train/{here}/{file}")],
                    "{moment}: {there}/{file} differs"
                );
            }
        }
    }
}

/// Waits until a file holds a text.
fn wait_for(field: &Field, file: &str, text: &str) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !fs::read_to_string(field.path(file)).is_ok_and(|held| held.contains(text)) {
        assert!(Instant::now() < deadline, "no {text:?} in {file}");
        sleep(Duration::from_millis(1));
    }
}

/// Trains as `train` says, under a supervisor, and takes nothing more of what it says once its metrics hold
/// `text`: it stands still where it says the next thing, and cannot say that it does. When it ended, somebody
/// listens again.
fn hang_once(field: &Field, train: &[&str], out: &str, text: &str) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    let arguments = [train, &["--out", out, "--supervise", "--hang-after", "5"]].concat();
    let mut supervisor = field.start_saying_to(writer, &arguments);
    wait_for(field, &format!("{out}/metrics.jsonl"), text);
    let filling = thread::spawn(move || full.write_all(&vec![b'\n'; 1 << 20]));
    let restarts = format!("{out}/restarts.jsonl");
    wait_for(field, &restarts, "exit code 75");
    let listening = thread::spawn(move || reader.read_to_end(&mut Vec::new()));
    assert!(supervisor.wait().unwrap().success());
    filling.join().unwrap().unwrap();
    listening.join().unwrap().unwrap();
    assert_eq!(field.read(&restarts).lines().count(), 1, "{}", field.read(&restarts));
    let hang: serde_json::Value =
        serde_json::from_str(&field.read(&format!("{out}/hang.json"))).unwrap();
    assert!(hang["steps_done"].as_u64().unwrap() > 0, "{hang}");
}

fn assert_same_checkpoint(field: &Field, a: &str, b: &str) {
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.toml"] {
        let bytes = |dir: &str| fs::read(field.path(dir).join(file)).ok();
        assert!(bytes(a) == bytes(b), "{file} differs");
    }
}

#[test]
fn a_run_that_hangs_at_a_later_step_ends_and_goes_on_under_its_supervisor() {
    let field = Field::new();
    field.edit_recipe("steps = \"12 steps\"", "steps = \"400 steps\"");
    field.edit_recipe("checkpoint_every = \"4 steps\"", "checkpoint_every = \"40 steps\"");
    field.ok(&["run", ".", "--out", "run"]);
    let train = ["train", ".", "--tokenizer", "run/tokenizer", "--tokens", "run/tokens"];
    hang_once(&field, &train, "hung", "\"step\":3,");
    assert_same_checkpoint(&field, "hung/checkpoint", "run/train/checkpoint");
}

#[test]
fn a_run_that_hangs_between_measurements_chooses_the_same_under_its_supervisor() {
    let field = Field::new();
    field.write("other.jsonl", portuguese(20).as_bytes());
    let recipe = CONTINUED.replace("steps = \"12 steps\"", "steps = \"48 steps\"");
    field.write("continued.toml", recipe.as_bytes());
    field.ok(&["run", ".", "--out", "base"]);
    field.ok(&["run", "continued.toml", "--out", "run"]);
    let tokens = ["--tokenizer", "base/tokenizer", "--tokens", "run/tokens"];
    let train = [&["train", "continued.toml"], &tokens[..]].concat();
    hang_once(&field, &train, "hung", "\"kind\":\"forgetting\"");
    for checkpoint in ["checkpoint", "checkpoint-chosen"] {
        let whole = format!("run/train/{checkpoint}");
        assert_same_checkpoint(&field, &format!("hung/{checkpoint}"), &whole);
    }
}

#[test]
fn an_interrupt_saves_says_how_to_resume_and_exits_75() {
    let field = Field::new();
    field.edit_recipe("steps = \"12 steps\"", "steps = \"400 steps\"");
    let start = || field.start(&["run", ".", "--out", "run"]);
    let child = start();
    let metrics = field.path("run/train/metrics.jsonl");
    let deadline = Instant::now() + Duration::from_mins(1);
    while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 8 {
        assert!(Instant::now() < deadline, "training did not begin");
        sleep(Duration::from_millis(5));
    }
    signal("-INT", child.id());
    let outcome = Outcome::of(&child.wait_with_output().unwrap());
    outcome.expect(75, &["interrupted", "milpa run . --out run"]);
    let outcome = Outcome::of(&start().wait_with_output().unwrap());
    outcome.expect(0, &["corpus: up to date", "resuming after step"]);
}

#[test]
fn a_run_that_is_up_to_date_does_nothing_and_a_change_rebuilds_what_depends_on_it() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    let before = field.artifacts("run");
    let again = field.milpa(&["run", ".", "--out", "run"]);
    for stage in ["corpus", "tokenizer", "tokens", "train", "eval", "package"] {
        again.expect(0, &[&format!("{stage}: up to date")]);
    }
    assert!(!again.stderr.contains("$ milpa"), "{}", again.stderr);
    // How checkpoints are cut into files is no part of what is trained.
    field.edit_recipe("[train]\n", "[train]\nmax_shard_size = \"1 MB\"\n");
    field.milpa(&["run", ".", "--out", "run"]).expect(0, &["train: up to date"]);
    assert!(field.read("run/recipe.resolved.toml").contains("max_shard_size = 1000000"));

    field.edit_recipe("steps = \"12 steps\"", "steps = \"13 steps\"");
    let changed = field.milpa(&["run", ".", "--out", "run"]);
    changed.expect(2, &["train.steps was 12 and is 13", "--extend keeps", "--anew sets it aside"]);
    let changed = field.milpa(&["run", ".", "--out", "run", "--anew"]);
    changed.expect(0, &["tokens: up to date", "train: out of date", "earlier training is kept in"]);
    let after = field.artifacts("run");
    assert!(before["corpus/manifest.toml"] == after["corpus/manifest.toml"]);
    assert!(before["bundle/manifest.toml"] != after["bundle/manifest.toml"]);

    field.edit_recipe("steps = \"13 steps\"", "steps = \"16 steps\"");
    field
        .milpa(&["run", ".", "--out", "run", "--extend"])
        .expect(0, &["tokens: up to date", "going on with the new plan after step 13"]);
    assert!(field.read("run/train/checkpoint/state.json").contains("\"step\": 16"));
    let explained = field.ok(&["explain", "run"]);
    assert!(explained.contains("went on with another plan after step 13"), "{explained}");
}

#[test]
fn a_damaged_artifact_is_named_and_built_again() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    let before = field.artifacts("run");
    let shard = before.keys().find(|name| name.starts_with("corpus/train-")).unwrap();
    let mut bytes = before[shard].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    field.write(&format!("run/{shard}"), &bytes);
    let refused = field.milpa(&["tokens", "train", ".", "--corpus", "run/corpus", "--out", "x"]);
    refused.expect(1, &["is damaged", "BLAKE3"]);
    field.milpa(&["run", ".", "--out", "run"]).expect(0, &["is damaged", "$ milpa corpus build"]);
    assert_same(&before, &field.artifacts("run"));
}

#[test]
fn a_second_process_on_the_same_run_is_refused() {
    let field = Field::new();
    field.edit_recipe("steps = \"12 steps\"", "steps = \"4000 steps\"");
    let mut first = field.start(&["run", ".", "--out", "run"]);
    let deadline = Instant::now() + Duration::from_mins(1);
    while !field.path("run/corpus").exists() {
        assert!(Instant::now() < deadline, "the first process did not begin");
        sleep(Duration::from_millis(5));
    }
    let second = field.milpa(&["run", ".", "--out", "run"]);
    signal("-KILL", first.id());
    first.wait().unwrap();
    second.expect(1, &["another milpa process is working on run"]);
}

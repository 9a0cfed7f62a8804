//! Training that goes on from a base, as a person meets it: what is refused at once, what a run leaves.

use std::fs;

use crate::harness::Field;

/// Goes on from `base/train/checkpoint` with `other.jsonl`.
pub(crate) const CONTINUED: &str = r#"
name = "continuada"
seed = 5

[base]
model = "base/train/checkpoint"

[corpus]
validation = { share = 0.2 }
dedup = { near = { enabled = false } }

[[corpus.sources]]
name = "textos"
path = "${TEXTS}/other.jsonl"
id_field = "id"
language = "por"
licence = "CC0-1.0"
filters = "none"

[train]
steps = "12 steps"
sequence_length = 32
batch_size = 4
checkpoint_every = "4 steps"
validate_every = "6 steps"
validation_sequences = 2
schedule = { kind = "cosine", warmup = "2 steps" }
optimizer = { kind = "muon", learning_rate = 0.02, embedding_learning_rate = 0.01 }

[[train.stage]]
name = "all"

[[train.replay]]
name = "general"
tokens = "base/tokens"
share = 0.1

[train.forgetting]
general = "base/tokens"
every = "4 steps"
pieces = 4
in_context = 6

[train.forgetting.limit]
percent = 500
replay = "general"

[watch]
forgetting_above = 400.0

[eval]
bootstrap_replicates = 100
perplexity = { max_bytes_per_source = "4 KiB" }
samples = { prompts = ["O milho"], max_tokens = 8 }

[package]
licence = "CC0-1.0"
measure = { max_bytes = "1 KiB" }
"#;

/// Lines of JSON with simple Portuguese texts.
pub(crate) fn portuguese(count: usize) -> String {
    let text = |n: usize| {
        let sentence = |m: usize| {
            format!(
                "O milho número {} cresceu na roça da família {} no ano {}. ",
                n * m,
                m,
                1900 + n
            )
        };
        let text: String = (1..12).map(sentence).collect();
        serde_json::json!({"id": format!("texto/{n}"), "text": text.trim()}).to_string() + "\n"
    };
    (0..count).map(text).collect()
}

#[test]
fn a_run_goes_on_from_a_base_and_says_what_it_forgot() {
    let field = Field::new();
    field.write("other.jsonl", portuguese(20).as_bytes());
    field.write("continued.toml", CONTINUED.as_bytes());
    let check = |recipe: &str, code: i32, parts: &[&str]| {
        field.write("bad.toml", recipe.as_bytes());
        field.milpa(&["check", "bad.toml"]).expect(code, parts);
        field.milpa(&["run", "bad.toml", "--out", "bad"]).expect(code, parts);
        assert!(!field.path("bad/corpus").exists(), "refused before any work");
    };
    check(CONTINUED, 2, &["do not exist", "base/train/checkpoint"]);
    field.ok(&["run", ".", "--out", "base"]);
    field.milpa(&["check", "continued.toml"]).expect(0, &[]);

    check(
        "extends = 'recipe.toml'\n[base]\nmodel = 'base/train/checkpoint'",
        2,
        &["`tokenizer` cannot be right", "the [base] brings its tokenizer"],
    );
    let without_base = CONTINUED.replace("[base]\nmodel = \"base/train/checkpoint\"\n", "");
    check(&without_base, 2, &["there is no [tokenizer]"]);
    check(
        "extends = 'recipe.toml'\n[train.lora]\nrank = 4",
        2,
        &["`train.lora` cannot be right: it needs a [base]: random weights are not frozen"],
    );
    check(
        "extends = 'recipe.toml'\n[train.forgetting]\ngeneral = 'base/tokens'\nevery = '4 steps'",
        2,
        &["`train.forgetting` cannot be right: it needs a [base]"],
    );
    check(&CONTINUED.replace("base/train/checkpoint", "base/corpus"), 2, &["base/corpus"]);
    let long = CONTINUED.replace("sequence_length = 32", "sequence_length = 640");
    check(&long, 2, &["the context of the base", "has 64 tokens"]);
    check(
        &CONTINUED.replace("\"base/tokens\"\nshare", "\"base/corpus\"\nshare"),
        2,
        &["the replay"],
    );
    check(
        &CONTINUED.replace("percent = 500", "percent = -1"),
        2,
        &["train.forgetting", "above zero"],
    );
    field.edit_recipe("vocab_size = 320", "vocab_size = 330");
    field.ok(&["run", ".", "--out", "other"]);
    let other = CONTINUED.replace("general = \"base/tokens\"", "general = \"other/tokens\"");
    check(&other, 2, &["train.forgetting.general cannot be read from", "tokenizer"]);
    let base_of = |name: &str, files: &[&str], damage: &dyn Fn()| {
        fs::create_dir(field.path(name)).unwrap();
        for file in files {
            let from = field.path("base/train/checkpoint").join(file);
            fs::copy(from, field.path(name).join(file)).unwrap();
        }
        damage();
        CONTINUED.replace("base/train/checkpoint", name)
    };
    let model = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let recipe = base_of("longer", &model, &|| {
        let tokenizer = field.path("other/tokenizer/tokenizer.json");
        fs::copy(tokenizer, field.path("longer/tokenizer.json")).unwrap();
    });
    check(&recipe, 2, &["has 330 ids and its embedding 320 rows"]);
    let recipe = base_of("cut", &model, &|| {
        let weights = fs::read(field.path("cut/model.safetensors")).unwrap();
        field.write("cut/model.safetensors", &weights[..weights.len() / 2]);
    });
    check(&recipe, 2, &["the base", "cannot be gone on from", "model.safetensors"]);
    let recipe = base_of("wider", &model, &|| {
        let config = field
            .read("wider/config.json")
            .replace("\"intermediate_size\": 64", "\"intermediate_size\": 128");
        field.write("wider/config.json", config.as_bytes());
    });
    check(&recipe, 2, &["cannot be gone on from", "has shape"]);
    let whole = [
        &model[..],
        &["manifest.toml", "state.json", "optimizer.safetensors", "generation_config.json"],
    ]
    .concat();
    let recipe = base_of("flipped", &whole, &|| {
        let mut weights = fs::read(field.path("flipped/model.safetensors")).unwrap();
        *weights.last_mut().unwrap() ^= 1;
        field.write("flipped/model.safetensors", &weights);
    });
    check(&recipe, 2, &["cannot be gone on from", "model.safetensors is damaged"]);
    let generate = ["tokens", "generate-replay", "--model", "base/train/checkpoint"];
    field.ok(&[&generate[..], &["--tokens", "256 tokens", "--out", "written"]].concat());
    let all_trained = CONTINUED.replace("general = \"base/tokens\"", "general = \"written\"");
    check(&all_trained, 2, &["train.forgetting.general has no held-out text"]);

    field.ok(&["run", "continued.toml", "--out", "run"]);
    let log = field.read("run/train/metrics.jsonl");
    assert_eq!(log.matches("\"kind\":\"forgetting\"").count(), 3, "{log}");
    // The base, and at the end the final weights, three blends and a checkpoint below the limit.
    assert_eq!(log.matches("\"kind\":\"measured\"").count(), 6, "{log}");
    let dry = |more: &[&str]| {
        let folders = ["--tokenizer", "base/tokenizer", "--tokens", "run/tokens", "--out", "dry"];
        field.ok(&[&["train", "continued.toml", "--dry-run"], &folders[..], more].concat())
    };
    let shown = "the base itself, 3 times on schedule and 5 candidates at the end = ";
    assert!(dry(&[]).contains(shown), "{}", dry(&[]));
    let json: serde_json::Value = serde_json::from_str(&dry(&["--json"])).unwrap();
    assert!(json["measuring"]["tokens"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(log.matches("\"kind\":\"control\"").count(), 2, "{log}");
    let report: serde_json::Value =
        serde_json::from_str(&field.read("run/train/forgetting.json")).unwrap();
    assert_eq!(report["limit"], 500.0);
    assert!(field.read("run/train/forgetting.svg").contains("step 4"));
    let weights = |dir: &str| fs::read(field.path(dir).join("model.safetensors")).unwrap();
    assert_eq!(weights("run/train/checkpoint-chosen"), weights("run/bundle"));
    let tokenizer = |dir: &str| field.read(&format!("{dir}/tokenizer.json"));
    assert_eq!(tokenizer("run/bundle"), tokenizer("base/tokenizer"));
    for folder in ["run", "run/train"] {
        let explained = field.ok(&["explain", folder]);
        for part in [
            "measuring forgetting, planned",
            "measuring forgetting, measured",
            "ledger.jsonl: all processes of stage train",
            "Candidates at the end, from forgetting.json",
            "bits per byte, general/textos",
            "Chosen: ",
            "KL from the base (nats)",
            "forgetting_above raised",
        ] {
            assert!(explained.contains(part), "{part:?} is not in:\n{explained}");
        }
    }
    let explained = field.ok(&["explain", "run"]);
    assert!(explained.contains("$ TEXTS=. milpa train continued.toml"), "{explained}");
    field.milpa(&["run", "continued.toml", "--out", "run"]).expect(0, &["train: up to date"]);
    fs::remove_dir_all(field.path("run/train/checkpoint-chosen")).unwrap();
    let outcome = field.milpa(&["run", "continued.toml", "--out", "run"]);
    outcome.expect(0, &["train: ", "eval: up to date", "package: up to date"]);
    assert!(!outcome.stderr.contains("train: up to date"), "{}", outcome.stderr);
    assert_eq!(weights("run/train/checkpoint-chosen"), weights("run/bundle"));
    field.ok(&["run", "continued.toml", "--seed", "6", "--out", "seed"]);
    assert_ne!(weights("seed/train/checkpoint"), weights("run/train/checkpoint"));
    let resolved = field.read("seed/recipe.resolved.toml");
    assert!(resolved.contains("seed = 6") && !resolved.contains("[tokenizer]"), "{resolved}");
}

#[test]
fn a_supervisor_leaves_a_run_ended_that_the_controller_stopped() {
    let field = Field::new();
    field.write("other.jsonl", portuguese(20).as_bytes());
    field.ok(&["run", ".", "--out", "base"]);
    // Any forgetting is too much, and neither replay nor rate can be moved.
    let limit =
        "percent = 1e-6\nlargest_replay = 0.1\nleast_learning_rate = 1.0\nmax_rollbacks = 0";
    let wild = "learning_rate = 1.0, embedding_learning_rate = 1.0";
    let recipe = CONTINUED.replace("percent = 500", limit);
    let recipe = recipe.replace("learning_rate = 0.02, embedding_learning_rate = 0.01", wild);
    field.write("continued.toml", recipe.as_bytes());
    let outcome = field.milpa(&["run", "continued.toml", "--out", "run", "--supervise"]);
    outcome.expect(1, &["stopped after step", "nothing is left to be changed"]);
    assert!(!outcome.stderr.contains("it goes on from"), "{}", outcome.stderr);
    let restarts = field.read("run/restarts.jsonl");
    assert_eq!(restarts.matches("\"started_again\":false").count(), 1, "{restarts}");
    assert_eq!(restarts.lines().count(), 1, "{restarts}");
    let page = field.read("run/train/report.html");
    assert!(page.contains("Ended by the limit on forgetting"), "{page}");
}

#[test]
fn a_run_above_its_limit_is_complete_and_shown_like_any_other() {
    let field = Field::new();
    field.write("other.jsonl", portuguese(20).as_bytes());
    field.ok(&["run", ".", "--out", "base"]);
    // Only the end is measured, where nothing can be changed any more.
    let recipe = CONTINUED.replace("percent = 500", "percent = 1e-6");
    let recipe = recipe.replace("every = \"4 steps\"\npieces", "every = \"12 steps\"\npieces");
    let wild = "learning_rate = 0.5, embedding_learning_rate = 0.5";
    let recipe = recipe.replace("learning_rate = 0.02, embedding_learning_rate = 0.01", wild);
    field.write("continued.toml", recipe.as_bytes());
    let above = "but it forgot more than train.forgetting.limit allows";
    let outcome = field.milpa(&["run", "continued.toml", "--out", "run"]);
    outcome.expect(1, &[above, "Training, planned and measured"]);
    let is_shown = |page: &str| {
        for part in [
            "Complete, but above the limit on forgetting",
            "Training, planned and measured",
            "Costs (ledger)",
            "Candidates at the end",
        ] {
            assert!(page.contains(part), "{part:?} is not in:\n{page}");
        }
        assert!(!page.contains("of it cut off"), "{page}");
    };
    is_shown(&field.read("run/train/report.html"));
    let explained = field.ok(&["explain", "run"]);
    for part in ["$ TEXTS=. milpa train continued.toml", "Costs (ledger)", "Chosen: "] {
        assert!(explained.contains(part), "{part:?} is not in:\n{explained}");
    }
    assert!(!explained.contains("of it cut off"), "{explained}");
    // It is said again, and nothing is evaluated.
    field.milpa(&["run", "continued.toml", "--out", "run"]).expect(1, &[above, "complete already"]);
    assert!(!field.path("run/evaluation").exists());

    let folders = ["--tokenizer", "base/tokenizer", "--tokens", "run/tokens", "--out", "alone"];
    let outcome = field.milpa(&[&["train", "continued.toml"], &folders[..]].concat());
    outcome.expect(1, &[above]);
    for part in ["steps       12", "chosen      ", "Planned and measured", "Costs (ledger)"] {
        assert!(outcome.stdout.contains(part), "{part:?} is not in:\n{}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains("of it cut off"), "{}", outcome.stdout);
    is_shown(&field.read("alone/report.html"));
}

//! Bad input: a clear error that says what, where and what to do next, and nothing half-written.

use std::{path::Path, process::Command};

use crate::harness::Field;

#[track_caller]
fn check_recipe(from: &str, to: &str, parts: &[&str]) {
    let field = Field::new();
    field.edit_recipe(from, to);
    for command in [&["check", "."][..], &["run", ".", "--out", "run"]] {
        field.milpa(command).expect(2, parts);
    }
    assert!(!field.path("run/corpus").exists(), "work began before the recipe was refused");
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_name() {
    check_recipe(
        "batch_size = 4",
        "batch_sise = 4",
        &["unknown key `batch_sise`", "recipe.toml:31:1", "did you mean `batch_size`?"],
    );
    check_recipe("vocab_size = 320", "vocabsize = 320", &["did you mean `vocab_size`?"]);
}

#[test]
fn a_wrong_unit_is_refused_with_its_line() {
    check_recipe("\"12 steps\"", "\"12 GiB\"", &["recipe.toml:29", "1200 steps"]);
    check_recipe("\"4 KiB\"", "\"4 tokens\"", &["24 GiB"]);
}

#[test]
fn values_that_cannot_be_right_are_refused() {
    check_recipe("sequence_length = 32", "sequence_length = 3200", &["context_length = 64"]);
    check_recipe("warmup = \"2 steps\"", "warmup = \"200 steps\"", &["its pieces take 200 steps"]);
    check_recipe("kv_heads = 2", "kv_heads = 3", &["kv_heads"]);
    check_recipe("learning_rate = 0.02", "learning_rate = -0.02", &["above zero"]);
    check_recipe(
        "batch_size = 4",
        "batch_size = 4\nmax_shard_size = \"5 B\"",
        &[
            "`train.max_shard_size` cannot be right: it is 5 B",
            "recipe.toml:32",
            "at least 1.00 KiB",
        ],
    );
}

#[test]
fn what_would_never_end_or_never_happen_is_refused() {
    check_recipe(
        "\"12 steps\"",
        "\"9000000000000000 steps\"\nkeep_plateau = true",
        &["`train.steps` cannot be right", "recipe.toml:29", "can be counted"],
    );
    check_recipe(
        "batch_size = 4",
        "batch_size = 4611686018427387904",
        &["`train.batch_size` cannot be right", "recipe.toml:31", "at most 33554432"],
    );
    check_recipe(
        "learning_rate = 0.02,",
        "learning_rate = 0.02, beta2 = 7,",
        &["`train.optimizer.beta2` cannot be right: it is 7", "recipe.toml:36"],
    );
    let ordered = |value: &str| {
        format!(
            "\n[[train.stage]]\nname = \"hard last\"\norder = {{ by = \"{value}\" }}\n\n[eval]\n"
        )
    };
    check_recipe(
        "\n[eval]\n",
        &ordered("perplexity"),
        &["stage \"hard last\" is ordered by perplexity", "[[corpus.perplexity]]"],
    );
    check_recipe("\n[eval]\n", &ordered("quality"), &["name a classifier in [tokens] quality"]);
    check_recipe(
        "\n[eval]\n",
        "\n[watch]\nforgetting_above = 5\nstop_on = [\"forgetting_above\"]\n\n[eval]\n",
        &["`watch.forgetting_above` cannot be right", "add [train.forgetting]"],
    );
    check_recipe(
        "\n[eval]\n",
        "\n[watch]\nrollback = true\n\n[eval]\n",
        &["`watch.rollback` cannot be right", "add [train.stability]"],
    );
}

#[test]
fn an_impossible_plan_is_refused_before_any_work() {
    check_recipe(
        "hidden_size = 32\nlayers = 2\nheads = 4\nkv_heads = 2\nffn_size = 64",
        "hidden_size = 16384\nlayers = 80\nheads = 128\nkv_heads = 128\nffn_size = 65536",
        &["training needs about", "recipe.toml"],
    );
}

#[test]
fn a_missing_file_and_a_missing_variable_say_what_to_do() {
    let field = Field::new();
    field.edit_recipe("texts.jsonl", "nothing.jsonl");
    field.milpa(&["run", ".", "--out", "run"]).expect(2, &["nothing.jsonl", "check the path"]);
    let field = Field::new();
    field.edit_recipe("texts.jsonl", "${MILPA_DATA}/texts.jsonl");
    field.milpa(&["run", ".", "--out", "run"]).expect(2, &["export MILPA_DATA="]);
    field.milpa(&["run", "nowhere"]).expect(2, &["nowhere", "recipe.toml"]);
}

#[test]
fn empty_and_tiny_corpora_are_met_with_words() {
    let field = Field::new();
    field.write("texts.jsonl", b"");
    field.milpa(&["run", ".", "--out", "run"]).expect(1, &["corpus"]);
    field.write("texts.jsonl", b"{\"id\": \"a\"}\nnot json\n\xff\xfe\n");
    field.milpa(&["run", ".", "--out", "run"]).expect(1, &["corpus"]);
    assert!(!field.path("run/corpus").exists());

    let field = Field::new();
    field.write("texts.jsonl", crate::harness::texts(1).as_bytes());
    let outcome = field.milpa(&["run", ".", "--out", "run"]);
    // One document leaves nothing to measure on; whatever the outcome, it is said in words.
    assert!(!outcome.stderr.contains("milpa has a bug"), "{}", outcome.stderr);
    assert!(matches!(outcome.code, Some(0..=2)), "{:?} {}", outcome.code, outcome.stderr);
}

#[test]
fn a_tokenizer_of_another_run_is_refused() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "one"]);
    field.edit_recipe("vocab_size = 320", "vocab_size = 330");
    field.ok(&["tokens", "train", ".", "--corpus", "one/corpus", "--out", "other"]);
    let outcome = field.milpa(&[
        "train",
        ".",
        "--tokenizer",
        "other",
        "--tokens",
        "one/tokens",
        "--out",
        "x",
    ]);
    outcome.expect(2, &["tokenizer"]);
    let outcome = field.milpa(&[
        "package",
        ".",
        "--checkpoint",
        "one/train/checkpoint",
        "--tokenizer",
        "other",
        "--out",
        "b",
    ]);
    outcome.expect(1, &["tokenizer"]);
    assert!(!field.path("b").exists());
}

#[test]
fn a_flipped_bit_in_a_model_is_found() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    let name = "run/bundle/model.safetensors";
    let mut bytes = std::fs::read(field.path(name)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    field.write(name, &bytes);
    field
        .milpa(&["chat", "run/bundle", "--prompt", "a"])
        .expect(1, &["model.safetensors", "damaged"]);
}

#[test]
fn hostile_model_files_give_errors() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    let gguf = std::fs::read(field.path("run/bundle/model-Q8_0.gguf")).unwrap();
    let mut huge_counts = gguf.clone();
    huge_counts[8..24].fill(0xff);
    for (name, bytes) in [
        ("cut.gguf", &gguf[..gguf.len() / 2]),
        ("head.gguf", &gguf[..40]),
        ("counts.gguf", &huge_counts),
        ("empty.gguf", &[]),
        ("noise.gguf", b"this is no model"),
    ] {
        field.write(name, bytes);
        let outcome = field.milpa(&["chat", name, "--prompt", "a"]);
        outcome.expect(1, &[name]);
    }
    field
        .milpa(&["chat", "not-there", "--prompt", "a"])
        .expect(1, &["not-there", "does not exist"]);
    for (config, expect) in [
        (None, "give one that peft saved"),
        (Some("{\"peft_type\": \"IA3\"}"), "IA3"),
        (
            Some(
                "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"c_attn\"]}",
            ),
            "c_attn",
        ),
    ] {
        std::fs::create_dir_all(field.path("adapter")).unwrap();
        if let Some(config) = config {
            field.write("adapter/adapter_config.json", config.as_bytes());
        }
        field
            .milpa(&["chat", "run/bundle", "--adapter", "adapter", "--prompt", "a"])
            .expect(1, &["adapter_config.json", expect]);
    }
}

#[test]
fn serving_the_network_without_a_key_is_refused() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    let outcome = field.milpa(&["serve", "run/bundle", "--bind", "0.0.0.0:0"]);
    outcome.expect(1, &["key"]);
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_half_written() {
    let field = Field::new();
    let disk = field.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=96k", "tmpfs"])
        .arg(&disk)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("not run: mounting a small tmpfs needs the right to mount");
        return;
    }
    let outcome = field.milpa(&["run", ".", "--out", "disk/run"]);
    let whole = |name: &str| Path::new(&disk).join("run").join(name).join("manifest.toml").exists();
    let left: Vec<String> = walk(&disk);
    let unmounted = Command::new("umount").arg(&disk).status().is_ok_and(|status| status.success());
    assert!(unmounted);
    outcome.expect(1, &["the disk is full"]);
    assert!(!whole("bundle"));
    assert!(!left.iter().any(|name| name.contains(".partial")), "left over: {left:?}");
}

fn walk(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.display().to_string());
        if path.is_dir() {
            names.extend(walk(&path));
        }
    }
    names
}

#[test]
fn runs_that_no_law_can_be_fitted_to_are_refused() {
    let field = Field::new();
    field.write("three.csv", b"parameters,tokens,loss\n1e8,2e9,3.4\n2e8,4e9,3.1\n4e8,8e9,2.9\n");
    field.milpa(&["plan", "fit", "three.csv"]).expect(2, &["6 would be enough"]);
    field.write("units.csv", b"parameters,tokens,loss\n70,1.4e9,3.9\n");
    field.milpa(&["plan", "fit", "units.csv"]).expect(2, &["units.csv, line 2", "70M"]);
    field.milpa(&["plan", "fit", "nothing.csv"]).expect(2, &["nothing.csv", "check the path"]);
    field.milpa(&["plan", "fit", "units.csv", "--predict", "7B"]).expect(2, &["7B,2T"]);
}

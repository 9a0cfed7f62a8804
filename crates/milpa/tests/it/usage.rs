//! What a person types and reads.

use crate::harness::Field;

#[test]
fn a_bare_milpa_shows_grouped_help() {
    let field = Field::new();
    let text = field.ok(&[]);
    for part in ["Begin", "The whole way", "demo", "chat", "Exit codes"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_slip_in_a_command_is_met_with_the_nearest_one() {
    let outcome = Field::new().milpa(&["cropus"]);
    outcome.expect(2, &["corpus"]);
}

#[test]
fn every_result_can_be_read_by_a_program() {
    let field = Field::new();
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&field.ok(arguments)).unwrap()
    };
    let report = json(&["run", ".", "--out", "run", "--json"]);
    assert!(report["perplexity"]["bits_per_byte"].as_f64().unwrap() > 0.0);
    assert!(json(&["check", ".", "--json"])["parameters"].as_u64().unwrap() > 0);
    assert!(json(&["corpus", "stats", "run/corpus", "--json"]).is_object());
    assert!(json(&["explain", "run", "--json"])["stages"].as_array().unwrap().len() == 6);
    let perplexity = json(&[
        "eval",
        "perplexity",
        "--model",
        "run/bundle",
        "--data",
        "texts.jsonl",
        "--max-bytes",
        "2 KiB",
        "--json",
    ]);
    assert!(perplexity["bits_per_byte"].as_f64().unwrap() > 0.0);
    let answer =
        json(&["chat", "run/bundle", "--prompt", "El maíz", "--max-tokens", "4", "--json"]);
    assert_eq!(answer["completion_tokens"], 4);
    let cut = json(&["tokens", "inspect", "run/tokenizer", "--text", "El maíz", "--json"]);
    assert!(!cut["ids"].as_array().unwrap().is_empty());
    let fate = field.ok(&["corpus", "why", "run/corpus", "texto/3"]);
    assert!(fate.contains("texto/3"), "{fate}");
}

#[test]
fn a_corpus_can_be_prepared_in_shards_from_a_recipe_of_a_corpus_alone() {
    let field = Field::new();
    let recipe = "name = \"c\"\nseed = 1\n[[corpus.sources]]\nname = \"texto\"\npath = \"texts.jsonl\"\n\
                  language = \"spa\"\nfilters = \"none\"\n";
    field.write("corpus.toml", recipe.as_bytes());
    let build = ["corpus", "build", "corpus.toml", "--out"];
    let whole = field.milpa(&[&build[..], &["whole"]].concat());
    whole.expect(0, &["MB/s/core", "fingerprint"]);
    let sharded = |rest: &[&str]| field.milpa(&[&build[..], &["sharded"], rest].concat());
    for (shard, expect) in [
        (&["--shard", "1/2"][..], "shard 1/2: 0 parts"),
        (&["--shard", "0/2"], "shard 0/2: 1 part, 0 of them found prepared"),
        (&["--shard", "0/1", "--json"], "\"found\": 1"),
    ] {
        let said = field.ok(&[&build[..], &["sharded"], shard].concat());
        assert!(said.contains(expect), "{said}");
    }
    sharded(&["--shard", "2/2"]).expect(2, &["I from 0 to N - 1"]);
    sharded(&[]).expect(0, &["1 part found prepared"]);
    assert_eq!(field.read("whole/manifest.toml"), field.read("sharded/manifest.toml"));
    assert!(!field.path("sharded.parts").exists());
    field.write("corpus.toml", format!("{recipe}filtres = 1\n").as_bytes());
    sharded(&[]).expect(2, &["filtres", "filters"]);
    field.write("corpus.toml", format!("{recipe}[train]\n").as_bytes());
    sharded(&[]).expect(2, &["missing field", "[train]"]);
}

#[test]
fn the_quantised_file_answers_like_the_folder() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    let (checkpoint, tokenizer) = ("run/train/checkpoint", "run/tokenizer");
    let package = ["package", ".", "--checkpoint", checkpoint, "--tokenizer", tokenizer];
    field.ok(&[&package[..], &["--gguf", "BF16,q4_k_m", "--out", "small"]].concat());
    let outcome = field.milpa(&[&package[..], &["--gguf", "Q5_K", "--out", "small"]].concat());
    outcome.expect(2, &["Q5_K", "Q4_K_M"]);
    for model in [
        "run/bundle",
        "run/bundle/model-Q8_0.gguf",
        "small/model-BF16.gguf",
        "small/model-Q4_K_M.gguf",
        "run/train/checkpoint",
    ] {
        let text = field.ok(&[
            "chat",
            model,
            "--prompt",
            "El maíz",
            "--max-tokens",
            "6",
            "--temperature",
            "0",
        ]);
        assert!(text.starts_with("El maíz"), "{model}: {text}");
    }
}

#[test]
fn the_report_is_one_page_without_outside_parts() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    let page = field.read("run/report.html");
    assert!(page.contains("<svg") && page.contains("huerta"));
    for outside in ["src=", "href=", "@import", "<script"] {
        assert!(!page.contains(outside), "the report contains {outside}");
    }
}

//! More tokens for a base, models merged of several, and the recipes of this repository: as a person meets
//! them on the command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    continued::{CONTINUED, portuguese},
    harness::Field,
};

fn json(field: &Field, path: &str) -> serde_json::Value {
    serde_json::from_str(&field.read(path)).unwrap()
}

/// The values of a tensor of a model's folder, whose index says in which shard it is, if there is one: after
/// eight bytes of length a header in JSON says where.
fn tensor(field: &Field, folder: &str, name: &str) -> Vec<f32> {
    let index = format!("{folder}/model.safetensors.index.json");
    let shard = if field.path(&index).exists() {
        json(field, &index)["weight_map"][name].as_str().unwrap().to_owned()
    } else {
        "model.safetensors".to_owned()
    };
    let bytes = fs::read(field.path(folder).join(shard)).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let at = |end: usize| header[name]["data_offsets"][end].as_u64().unwrap() as usize;
    let words = data[at(0)..at(1)].as_chunks::<4>().0;
    words.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

#[test]
fn a_base_gets_more_tokens_and_goes_on_with_them() {
    let field = Field::new();
    field.write("other.jsonl", portuguese(20).as_bytes());
    field.ok(&["run", ".", "--out", "base"]);
    let base = "base/train/checkpoint";
    let extend = |arguments: &[&str]| {
        let command = ["tokens", "extend"].iter().chain(arguments).copied().collect::<Vec<_>>();
        field.milpa(&command)
    };
    let learned = ["--data", "other.jsonl", "--add", "24", "--out"];
    extend(&[&["--base", "nothing"], &learned[..], &["tokenizer"]].concat())
        .expect(1, &["nothing does not exist"]);
    extend(&["--base", base, "--data", "other.jsonl", "--out", "tokenizer"]).expect(2, &["--add"]);
    extend(&[&["--base", base], &learned[..], &["tokenizer"]].concat())
        .expect(0, &["320 tokens, then 24 new ones"]);
    extend(&["--model", base, "--tokenizer", "tokenizer", "--out", "extended"]).expect(0, &[]);
    extend(&[&["--model", base], &learned[..], &["both"]].concat()).expect(0, &[]);
    let bytes = |folder: &str, file: &str| fs::read(field.path(folder).join(file)).unwrap();
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        assert_eq!(bytes("both", file), bytes("extended", file), "{file}");
    }
    assert_eq!(json(&field, "extended/config.json")["vocab_size"], 344);
    let embedding = "model.embed_tokens.weight";
    let (old, new) = (tensor(&field, base, embedding), tensor(&field, "extended", embedding));
    assert_eq!((new[..old.len()] == old, new.len()), (true, 344 * 32));

    // What the base itself was encoded with is another tokenizer now.
    let continued = CONTINUED.replace("base/train/checkpoint", "extended");
    field.write("continued.toml", continued.as_bytes());
    field.milpa(&["check", "continued.toml"]).expect(2, &["the replay \"general\"", "tokenizer"]);
    let encode = ["tokens", "encode", "continued.toml", "--corpus", "base/corpus"];
    field.ok(&[&encode[..], &["--tokenizer", "extended", "--out", "general"]].concat());
    field.write("continued.toml", continued.replace("base/tokens", "general").as_bytes());
    field.milpa(&["check", "continued.toml"]).expect(0, &[]);
    field.ok(&["run", "continued.toml", "--out", "run"]);
    let rows = tensor(&field, "run/train/checkpoint", embedding);
    let moved = |row: usize| rows[row * 32..][..32] != new[row * 32..][..32];
    assert!((320..344).any(moved), "no row of a new token was trained");
    assert_eq!(bytes("run/bundle", "tokenizer.json"), bytes("extended", "tokenizer.json"));
}

#[test]
fn an_adapter_trains_the_rows_of_new_tokens_if_it_is_told_to() {
    let field = Field::new();
    field.write("other.jsonl", portuguese(20).as_bytes());
    field.ok(&["run", ".", "--out", "base"]);
    let extend = ["tokens", "extend", "--model", "base/train/checkpoint", "--data", "other.jsonl"];
    field.ok(&[&extend[..], &["--add", "24", "--out", "extended"]].concat());
    let (run, _) = CONTINUED.split_once("[[train.replay]]").unwrap();
    let (_, eval) = CONTINUED.split_once("[eval]").unwrap();
    let run = run.replace("base/train/checkpoint", "extended");
    let adapter = |more: &str| format!("{run}[train.lora]\nrank = 4\n{more}\n[eval]{eval}");
    field.write("continued.toml", adapter("").as_bytes());
    let said = ["rows for 24 new tokens", "add embeddings = true"];
    field.milpa(&["check", "continued.toml"]).expect(0, &said);
    field.write("continued.toml", adapter("embeddings = true").as_bytes());
    let checked = field.milpa(&["check", "continued.toml"]);
    checked.expect(0, &[]);
    assert!(!checked.stderr.contains("new tokens"), "{}", checked.stderr);
    field.ok(&["run", "continued.toml", "--out", "run"]);
    let embedding = "model.embed_tokens.weight";
    let trained = tensor(&field, "run/train/checkpoint", embedding);
    let new = tensor(&field, "extended", embedding);
    let moved = |row: usize| trained[row * 32..][..32] != new[row * 32..][..32];
    assert!((320..344).any(moved), "no row of a new token was trained");
    let adapter = "run/train/checkpoint/adapter";
    let saved = json(&field, &format!("{adapter}/adapter_config.json"));
    assert_eq!(saved["modules_to_save"], serde_json::json!(["embed_tokens", "lm_head"]));
    let prompt = ["--prompt", "O milho", "--max-tokens", "8"];
    field.ok(&[&["chat", "extended", "--adapter", adapter], &prompt[..]].concat());
}

#[test]
fn a_base_of_another_tokenizer_is_not_trained() {
    let field = Field::new();
    field.write("other.jsonl", portuguese(20).as_bytes());
    field.ok(&["run", ".", "--out", "base"]);
    field.edit_recipe("vocab_size = 320", "vocab_size = 330");
    field.ok(&["run", ".", "--out", "other"]);
    let (replay, _) = CONTINUED.split_once("[[train.replay]]").unwrap();
    let (_, eval) = CONTINUED.split_once("[eval]").unwrap();
    field.write("continued.toml", format!("{replay}[eval]{eval}").as_bytes());
    let train = ["train", "continued.toml", "--tokenizer", "other/tokenizer", "--tokens"];
    field.milpa(&[&train[..], &["other/tokens", "--out", "run"]].concat()).expect(
        2,
        &["the tokenizer of the base", "is not the run's", "--tokenizer", "base/train/checkpoint"],
    );
    assert!(!field.path("run").exists(), "refused before any work");
}

#[test]
fn models_are_merged_along_a_line_and_on_average() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "one"]);
    // Another seed would hold other texts out, and the tokenizers would differ.
    field.edit_recipe("\"muon\", learning_rate = 0.02", "\"muon\", learning_rate = 0.005");
    field.edit_recipe("[train]\n", "[train]\nmax_shard_size = \"8 KiB\"\n");
    field.ok(&["run", ".", "--out", "two"]);
    assert!(field.path("two/train/checkpoint/model.safetensors.index.json").exists());
    let (one, two) = ("one/train/checkpoint", "two/train/checkpoint");
    let linear = ["merge", "linear", one, two];
    field.ok(&[&linear[..], &["--sweep", "0,0.5,1", "--out", "line"]].concat());
    let name = "model.layers.0.self_attn.q_proj.weight";
    let [first, second] = [one, two].map(|folder| tensor(&field, folder, name));
    assert_eq!(tensor(&field, "line/t-0", name), first);
    assert_eq!(tensor(&field, "line/t-1", name), second);
    let between = tensor(&field, "line/t-0.5", name);
    for ((value, first), second) in between.iter().zip(&first).zip(&second) {
        assert_eq!(*value, (0.5 * (f64::from(*first) + f64::from(*second))) as f32);
    }
    field.ok(&["merge", "average", "one", "--last", "2", "--out", "averaged"]);
    assert_ne!(tensor(&field, "averaged", name), first);
    field.ok(&["merge", "slerp", one, two, "--t", "0.5", "--out", "circle"]);
    field.ok(&["chat", "circle", "--prompt", "El maíz", "--max-tokens", "8"]);

    let refuse = |arguments: &[&str], parts: &[&str]| field.milpa(arguments).expect(1, parts);
    refuse(&["merge", "linear", one, "none", "--out", "out"], &["none does not exist"]);
    refuse(&["merge", "linear", one, two, "--out", two], &["--out is one of the models"]);
    refuse(
        &["merge", "average", "one", "--last", "9", "--out", "out"],
        &["--last is 9", "checkpoints (of steps"],
    );
    field.edit_recipe("ffn_size = 64", "ffn_size = 32");
    let narrow = ["--tokenizer", "one/tokenizer", "--tokens", "one/tokens", "--out", "narrow"];
    field.ok(&[&["train", "."], &narrow[..]].concat());
    field
        .milpa(&["merge", "linear", one, "narrow/checkpoint", "--out", "out"])
        .expect(2, &["cannot be merged", "64 in the first and 32 in the second"]);
    assert!(!field.path("out").exists());
}

#[test]
fn every_recipe_of_this_repository_can_be_checked() {
    let field = Field::new();
    field.edit_recipe("context_length = 64", "context_length = 512");
    field.ok(&["run", ".", "--out", "base"]);
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let folders = ["continued", "novelas"].map(|folder| recipes.join(folder));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    let is_recipe = |path: &&PathBuf| path.extension().is_some_and(|name| name == "toml");
    let recipes: Vec<&PathBuf> = files.iter().filter(is_recipe).collect();
    assert!(recipes.len() >= 8, "only {} recipes were found", recipes.len());
    // What they read has to be there; `check` opens the base and its tokens alone.
    for path in &recipes {
        for file in fs::read_to_string(path).unwrap().split("${MILPA_DATA}/").skip(1) {
            let place = field.path("data").join(file.split('"').next().unwrap());
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, "").unwrap();
        }
    }
    let variables = [("MILPA_DATA", "data"), ("BASE", "base"), ("SELF", "base/tokens")]
        .map(|(name, folder)| (name, field.path(folder)));
    let variables = variables.each_ref().map(|(name, path)| (*name, path.to_str().unwrap()));
    for path in recipes {
        field.milpa_with(&variables, &["check", path.to_str().unwrap()]).expect(0, &[]);
    }
}

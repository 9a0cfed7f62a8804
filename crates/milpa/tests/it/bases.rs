//! Training that goes on from the folders that people have: other families than those that a recipe
//! can begin, in bf16, in shards, with a model card and a chat template.

use std::{collections::BTreeMap, fs, path::Path};

use milpa_base::{Manifest, RollingWindows, Seed, TextModel};
use milpa_model::{
    Device, LocalModel, RopeScaling, new_parameters, parameter_specs, read_hf_description,
};
use milpa_train::{BaseModel, read_forgetting};
use serde_json::{Value, json};

use crate::{
    continued::{CONTINUED, portuguese},
    harness::Field,
};

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";

/// Writes random weights of `config` as a Hugging Face folder with the tokenizer in `tokenizer`.
fn write_base(dir: &Path, tokenizer: &Path, mut config: Value) {
    fs::create_dir_all(dir).unwrap();
    for (key, value) in json!({
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
    })
    .as_object()
    .unwrap()
    {
        config[key] = value.clone();
    }
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let description = read_hf_description(dir).unwrap();
    let parameters = new_parameters(&description, Seed(9), &Device::cpu(1)).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for spec in parameter_specs(&description) {
        let mut values = parameters.read(parameters.id(&spec.name).unwrap());
        if spec.name.rsplit('.').next() == Some("bias") {
            for (at, value) in values.iter_mut().enumerate() {
                *value = (at % 7) as f32 * 0.05 - 0.15;
            }
        }
        // The upper half of an f32 is a bf16.
        let upper = |value: &f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
        let bytes = values.iter().flat_map(upper).collect();
        tensors.push((spec.name, spec.shape, bytes));
    }
    let mut map = serde_json::Map::new();
    let half = tensors.len() / 2;
    for (number, shard) in [&tensors[..half], &tensors[half..]].into_iter().enumerate() {
        let file = format!("model-{:05}-of-00002.safetensors", number + 1);
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape, bytes) in shard {
            let end = data.len() + bytes.len();
            let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [data.len(), end]});
            header.insert(name.clone(), entry);
            map.insert(name.clone(), json!(file));
            data.extend(bytes);
        }
        let header = Value::Object(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        fs::write(dir.join(file), [&length, header.as_bytes(), &data].concat()).unwrap();
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    fs::copy(tokenizer.join("tokenizer.json"), dir.join("tokenizer.json")).unwrap();
    let text = fs::read_to_string(tokenizer.join("tokenizer_config.json")).unwrap();
    let mut settings: Value = serde_json::from_str(&text).unwrap();
    settings["chat_template"] = json!(TEMPLATE);
    fs::write(dir.join("tokenizer_config.json"), settings.to_string()).unwrap();
}

/// The files with the weights of a model, by name.
fn weights(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let read = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    entries.map(read).filter(|(name, _)| name.starts_with("model")).collect()
}

fn bits_per_byte(path: &Path) -> f64 {
    let model = LocalModel::open(path, 1).unwrap();
    let text = "O milho número 3 cresceu na roça.";
    model.score_rolling(&[text], RollingWindows::default(), &mut |_| {}).unwrap()[0].bits_per_byte()
}

/// Looks at the licences, the card and the report of a run that went on from the base `name`.
fn says_where_it_comes_from(field: &Field, name: &str) {
    for artifact in ["train/checkpoint", "train/checkpoint-chosen", "bundle"] {
        let manifest = Manifest::read(&field.path("run").join(artifact)).unwrap();
        assert_eq!(manifest.licences, ["CC0-1.0", "cc-by-nc-4.0"], "{artifact}");
    }
    let base = BaseModel::open(&field.path(name)).unwrap().digest();
    let choice = read_forgetting(&field.path("run/train")).unwrap().unwrap();
    let chosen = choice.candidates.iter().find(|one| one.name == choice.chosen).unwrap();
    let interval = chosen.forgetting.interval.unwrap();
    let card = field.read("run/bundle/README.md");
    for part in [
        format!("base_model: \"{name}\"\n"),
        format!(
            "Training went on from `{name}`, whose shape and weights have the BLAKE3 `{base}`."
        ),
        format!("with a limit on forgetting of 500 %. Of the candidates `{}` was", choice.chosen),
        choice.reason.clone(),
        format!("{:.4} | {:.4} – {:.4} |", chosen.forgetting.value, interval.low, interval.high),
        format!("| {:.4} |", chosen.adaptation.value),
        "CC0-1.0, cc-by-nc-4.0.".to_owned(),
    ] {
        assert!(card.contains(&part), "{part:?} is not in {card}");
    }
    assert!(!card.contains("it continues text"), "{card}");
    let measured = field.read("run/bundle/measurements.json");
    assert!(measured.contains("forgetting, % of the base's perplexity"), "{measured}");
    let page = field.read("run/report.html");
    for part in [
        format!("<b>{name}</b>"),
        base.short(),
        "allows 500 % of forgetting".to_owned(),
        format!("<b>{}</b> was chosen", choice.chosen),
        format!("<td>{} (chosen)</td>", choice.chosen),
        format!("{:+.1} % ({:+.1} to", chosen.forgetting.value, interval.low),
        "Adaptation against forgetting".to_owned(),
    ] {
        assert!(page.contains(&part), "{part:?} is not in {page}");
    }
}

#[test]
fn a_run_goes_on_from_any_family_to_a_bundle() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "base"]);
    field.write("other.jsonl", portuguese(20).as_bytes());
    let bases = [
        (
            "llama",
            json!({
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "rope_theta": 500_000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                },
            }),
        ),
        ("qwen", json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})),
        (
            "mistral",
            json!({
                "model_type": "mistral",
                "architectures": ["MistralForCausalLM"],
                "sliding_window": 16,
            }),
        ),
    ];
    for (name, config) in bases {
        // A training folder stays with its base.
        for old in ["run", "mirror"].map(|dir| field.path(dir)).iter().filter(|dir| dir.exists()) {
            fs::remove_dir_all(old).unwrap();
        }
        write_base(&field.path(name), &field.path("base/tokenizer"), config);
        let card = format!("---\nlicense: cc-by-nc-4.0\n---\n# {name}\n");
        field.write(&format!("{name}/README.md"), card.as_bytes());
        let recipe = CONTINUED
            .replace("base/train/checkpoint", name)
            .replace("[[train.stage]]", "average = { decay = 0.9 }\n[[train.stage]]");
        // Checkpoints and base are in shards here, and the files of all stages fit all the same.
        let recipe = if name == "llama" {
            recipe.replace("[train]\n", "[train]\nmax_shard_size = \"8 KiB\"\n")
        } else {
            recipe
        };
        let recipe = if name == "mistral" {
            // llama.cpp has no windows for it.
            field.write("continued.toml", recipe.as_bytes());
            for command in ["check", "run"] {
                field.milpa(&[command, "continued.toml"]).expect(
                    2,
                    &["package.quantisations names Q8_0", "sliding window", "quantisations = []"],
                );
            }
            recipe.replace("[package]", "[package]\nquantisations = []")
        } else {
            recipe
        };
        field.write("continued.toml", recipe.as_bytes());
        field.ok(&["check", "continued.toml"]);
        field.ok(&["run", "continued.toml", "--out", "run", "--mirror", "mirror"]);
        let bundle = field.path("run/bundle");
        let answer = field.ok(&["chat", "run/bundle", "--prompt", "O milho", "--max-tokens", "4"]);
        assert!(!answer.is_empty());
        let bits = bits_per_byte(&bundle);
        assert!(
            bits.is_finite() && bits == bits_per_byte(&field.path("run/train/checkpoint-chosen"))
        );
        let quantised = bundle.join("model-Q8_0.gguf");
        assert_eq!(quantised.exists(), name != "mistral");
        if quantised.exists() {
            assert!((bits_per_byte(&quantised) - bits).abs() < 0.01);
        }
        let settings: Value =
            serde_json::from_str(&field.read("run/bundle/tokenizer_config.json")).unwrap();
        assert_eq!(settings["chat_template"], TEMPLATE);
        says_where_it_comes_from(&field, name);
        for kept in ["checkpoint", "checkpoint-average", "checkpoint-chosen"] {
            let weights = |dir: &str| weights(&field.path(dir).join(kept));
            assert!(weights("mirror") == weights("run/train"), "{kept}");
            let in_shards = weights("mirror").contains_key("model.safetensors.index.json");
            assert_eq!(in_shards, name == "llama", "{kept}");
        }
    }
    let description = |name: &str| read_hf_description(&field.path(name)).unwrap();
    assert!(description("qwen").biases.qkv);
    assert!(matches!(description("llama").ropes[0].scaling, RopeScaling::Llama3 { .. }));
    assert_eq!(description("run/bundle").layers[0].window, Some(16));
}

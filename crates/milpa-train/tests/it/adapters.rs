//! Training of an adapter: what it leaves as it was, what it trains beside, and how its work is counted.

use milpa_base::{Bytes, Silent, StopFlag};
use milpa_model::{Device, LocalModel, read_hf_description, read_hf_weights, weights_bytes};
use milpa_train::{Metric, TrainConfig, model_shape, train_shape};

use crate::harness::{Field, StopAfter, files, recipe};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// 24 steps on numbers with an adapter and an average.
fn adapted(lora: &str) -> TrainConfig {
    let mut config = recipe("average = { decay = 0.9 }");
    config.lora = Some(toml::from_str(lora).unwrap());
    config
}

fn tensor(field: &Field, folder: &str, name: &str) -> Vec<u8> {
    let bytes = &files(&field.folder(folder))["model.safetensors"];
    let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
    tensors.tensor(name).unwrap().data().to_vec()
}

#[test]
fn an_embedding_is_trained_beside_an_adapter_and_comes_again_after_a_cut() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let config = adapted("rank = 4\nembeddings = true");
    let train = |name: &str| {
        field.go_on_from("base", name, &config, &Silent, &StopFlag::default()).unwrap()
    };
    train("whole");
    let same = |folder: &str, name: &str| {
        tensor(&field, "base/checkpoint", name) == tensor(&field, folder, name)
    };
    for folder in ["whole/checkpoint", "whole/checkpoint-average"] {
        assert!(!same(folder, EMBEDDING), "{folder}");
        assert!(!same(folder, "model.layers.0.self_attn.q_proj.weight"), "{folder}");
        assert!(same(folder, "model.norm.weight"), "{folder}: what is frozen is its own average");
    }
    let expect = files(&field.folder("whole/checkpoint"));
    let cut = |name: &str, config: &TrainConfig| {
        let stop = StopFlag::default();
        let watch = StopAfter { line: "after step 13:".to_owned(), stop: stop.clone() };
        field.go_on_from("base", name, config, &watch, &stop).unwrap_err();
        field.go_on_from("base", name, config, &Silent, &StopFlag::default()).unwrap();
        files(&field.folder(name).join("checkpoint"))
    };
    assert!(cut("cut", &config) == expect);
    // In shards the model is the same, and the adapter is one file.
    let in_shards = TrainConfig { max_shard_size: Bytes(4 << 10), ..config.clone() };
    let sharded = cut("sharded", &in_shards);
    assert!(sharded.contains_key("model.safetensors.index.json"));
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let file = format!("adapter/{file}");
        assert!(sharded[&file] == expect[&file], "{file}");
    }
    let weights = |name: &str| {
        let dir = field.folder(name);
        let description = read_hf_description(&dir).unwrap();
        weights_bytes(&read_hf_weights(&dir, &description, &Device::cpu(1)).unwrap())
    };
    assert!(weights("sharded/checkpoint") == weights("whole/checkpoint"));

    // The base with the adapter is the checkpoint.
    let device = Device::cpu(1);
    let dir = field.folder("whole/checkpoint");
    let base = field.folder("base/checkpoint");
    let opened = LocalModel::open_with_adapter(&base, &dir.join("adapter"), &device).unwrap();
    let description = read_hf_description(&dir).unwrap();
    let weights = read_hf_weights(&dir, &description, &device).unwrap();
    for parameter in &weights {
        let name = parameter.name();
        let own = opened.parameters();
        assert_eq!(
            own.read(own.id(name).unwrap()),
            weights.read(weights.id(name).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn the_share_of_the_peak_counts_the_adapters_work() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let description = read_hf_description(&field.folder("base/checkpoint")).unwrap();
    let per_token = |name: &str, config: &TrainConfig| {
        field.go_on_from("base", name, config, &Silent, &StopFlag::default()).unwrap();
        let metrics = field.metrics(name);
        let found = metrics.iter().find_map(|metric| match metric {
            // The peak of the tests' machine is 1 TFLOP/s.
            Metric::Step { mfu, tokens_per_second, .. } => Some(mfu * 1e12 / tokens_per_second),
            _ => None,
        });
        let expect = train_shape(config, &description)
            .unwrap()
            .flops_per_token(&model_shape(description.clone()));
        let found = found.unwrap();
        assert!((found / expect - 1.0).abs() < 1e-9, "{name}: {found} instead of {expect}");
        found
    };
    let low = per_token("low", &adapted("rank = 1"));
    let high = per_token("high", &adapted("rank = 16"));
    let full = per_token("full", &recipe(""));
    let whole = per_token("embeddings", &adapted("rank = 1\nembeddings = true"));
    assert!(low < whole && whole < full && full < high, "{low} {whole} {full} {high}");
}

//! Hugging Face folders in and out, and bad ones.

use std::{fs, path::Path};

use milpa_base::{Bytes, Seed};
use milpa_model::{
    CONFIG_FILE, LocalModel, ModelConfig, WEIGHTS_FILE, new_parameters, read_hf_config,
    read_hf_weights, weights_bytes, write_hf_model, write_hf_model_sharded,
};
use milpa_tokens::ChatTemplate;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::{check_error, config, device, parameters, tokenizer, values};

fn write_folder(dir: &Path, config: &ModelConfig) {
    let parameters = parameters(config, &device(1));
    write_hf_model(dir, config, &parameters, Some(0), None).unwrap();
    tokenizer().write_files(dir, &ChatTemplate::chatml()).unwrap();
}

#[test]
fn a_model_survives_its_folder() {
    for qk_norm in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let config = config(qk_norm);
        write_folder(dir.path(), &config);
        assert_eq!(read_hf_config(dir.path()).unwrap(), config);
        let device = device(1);
        let back = read_hf_weights(dir.path(), &config, &device).unwrap();
        assert_eq!(values(&back), values(&parameters(&config, &device)));
        assert_eq!(weights_bytes(&back), fs::read(dir.path().join(WEIGHTS_FILE)).unwrap());
        let model = LocalModel::open(dir.path(), 1).unwrap();
        assert!(model.chat_template().is_some());
        assert_eq!(model.tokenizer().hash(), tokenizer().hash());
    }
}

#[test]
fn new_weights_depend_on_the_seed_alone() {
    let config = config(true);
    let bytes = |seed, threads| {
        weights_bytes(&new_parameters(&config, Seed(seed), &device(threads)).unwrap())
    };
    assert_eq!(bytes(1, 1), bytes(1, 4));
    assert_ne!(bytes(1, 1), bytes(2, 1));
    let store = parameters(&config, &device(1));
    let std = |name: &str| {
        let values = store.read(store.id(name).unwrap());
        let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        (squares / values.len() as f64).sqrt()
    };
    // 0.2 and, for branches into the residual stream of two layers, 0.2 / √4.
    assert!((std("model.embed_tokens.weight") - 0.2).abs() < 0.01);
    assert!((std("model.layers.1.mlp.down_proj.weight") - 0.1).abs() < 0.01);
    assert_eq!(std("model.norm.weight"), 1.0);
}

/// Writes the parameters of `config` in `dtype`, `shards` files long.
fn write_as(dir: &Path, config: &ModelConfig, dtype: Dtype, shards: usize) {
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = milpa_model::parameter_specs(config)
        .into_iter()
        .zip(values(&parameters(config, &device(1))))
        .map(|(spec, (name, values))| {
            let bytes = match dtype {
                Dtype::BF16 => {
                    values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()
                }
                Dtype::F16 => {
                    values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()
                }
                _ => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
            };
            (name, spec.shape, bytes)
        })
        .collect();
    let mut map = serde_json::Map::new();
    for shard in 0..shards {
        let file = format!("model-{shard}.safetensors");
        let views: Vec<(String, TensorView<'_>)> = stored
            .iter()
            .enumerate()
            .filter(|(index, _)| index % shards == shard)
            .map(|(_, (name, shape, bytes))| {
                map.insert(name.clone(), json!(file));
                (name.clone(), TensorView::new(dtype, shape.clone(), bytes).unwrap())
            })
            .collect();
        fs::write(dir.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn half_precision_and_shards_are_read() {
    let config = config(true);
    for (dtype, digits) in [(Dtype::BF16, 8), (Dtype::F16, 11)] {
        let dir = tempfile::tempdir().unwrap();
        write_as(dir.path(), &config, dtype, 3);
        let read = read_hf_weights(dir.path(), &config, &device(1)).unwrap();
        let relative = 0.5_f32.powi(digits);
        for ((name, a), (_, b)) in
            values(&read).iter().zip(values(&parameters(&config, &device(1))))
        {
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() <= relative * b.abs() + 1e-7, "{name}: {a} {b}");
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    write_as(dir.path(), &config, Dtype::F64, 1);
    let read = read_hf_weights(dir.path(), &config, &device(1));
    check_error(read, &["dtype of model.embed_tokens.weight", "F32, BF16 and F16"]);
}

/// A shard holds at most what is asked for, or one tensor; the model is the one of a single file.
#[test]
fn a_large_model_is_written_in_shards() {
    let (config, device) = (config(true), device(1));
    let parameters = parameters(&config, &device);
    let (dir, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let limit = 40_000;
    for folder in [&dir, &again] {
        let limit = Bytes(limit);
        write_hf_model_sharded(folder.path(), &config, &parameters, Some(0), None, limit).unwrap();
        tokenizer().write_files(folder.path(), &ChatTemplate::chatml()).unwrap();
    }
    assert!(!dir.path().join(WEIGHTS_FILE).exists());
    let index = fs::read(dir.path().join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let mut shards: Vec<&str> = index["weight_map"]
        .as_object()
        .unwrap()
        .values()
        .map(|name| name.as_str().unwrap())
        .collect();
    shards.sort_unstable();
    shards.dedup();
    assert!(shards.len() > 2, "{shards:?}");
    let (mut names, mut total) = (Vec::new(), 0);
    for (number, shard) in shards.iter().enumerate() {
        assert_eq!(*shard, format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len()));
        let bytes = fs::read(dir.path().join(shard)).unwrap();
        assert_eq!(bytes, fs::read(again.path().join(shard)).unwrap());
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let held: usize = file.tensors().iter().map(|(_, view)| view.data().len()).sum();
        assert!(held as u64 <= limit || file.len() == 1, "{shard} holds {held} bytes");
        total += held;
        names.extend(file.names().into_iter().map(str::to_owned));
        assert!(file.names().iter().all(|name| index["weight_map"][name] == *shard));
    }
    assert_eq!(index["metadata"]["total_size"], total);
    names.sort();
    let mut expect: Vec<String> = values(&parameters).into_iter().map(|(name, _)| name).collect();
    expect.sort();
    assert_eq!(names, expect);
    let back = read_hf_weights(dir.path(), &config, &device).unwrap();
    assert_eq!(values(&back), values(&parameters));
    assert!(LocalModel::open(dir.path(), 1).is_ok());
}

#[test]
fn an_index_cannot_point_outside_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../x", "/etc/passwd", "a/b", ".."] {
        let index = json!({ "weight_map": { "model.norm.weight": name } }).to_string();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        let read = read_hf_weights(dir.path(), &config(true), &device(1));
        check_error(read, &["a shard outside the folder", name]);
    }
}

#[test]
fn shards_must_hold_each_tensor_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(true);
    write_as(dir.path(), &config, Dtype::BF16, 3);
    let read = || read_hf_weights(dir.path(), &config, &device(1));
    assert!(read().is_ok());
    let shard = |number: usize| dir.path().join(format!("model-{number}.safetensors"));
    let second = fs::read(shard(1)).unwrap();
    fs::copy(shard(0), shard(1)).unwrap();
    check_error(read(), &["is also in", "model-1.safetensors"]);
    fs::remove_file(shard(1)).unwrap();
    check_error(read(), &["cannot access", "model-1.safetensors"]);
    fs::write(shard(1), &second[..second.len() / 2]).unwrap();
    check_error(read(), &["model-1.safetensors", "safetensors"]);
    fs::write(shard(1), second).unwrap();
    assert!(read().is_ok());
    let index = dir.path().join("model.safetensors.index.json");
    let many: serde_json::Map<String, Value> =
        (0..16385).map(|i| (i.to_string(), json!(format!("{i}.safetensors")))).collect();
    fs::write(&index, json!({ "weight_map": many }).to_string()).unwrap();
    check_error(read(), &["16385 shards"]);
    fs::write(&index, "{\"weight_map\": 3}").unwrap();
    check_error(read(), &["safetensors index"]);
}

#[test]
fn weights_of_another_shape_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), &config(true));
    let read = |config: &ModelConfig| read_hf_weights(dir.path(), config, &device(1));
    let config = config(true);
    check_error(read(&ModelConfig { layers: 3, ..config.clone() }), &["no tensor", "layers.2."]);
    check_error(
        read(&ModelConfig { ffn_size: 95, ..config.clone() }),
        &["model.layers.0.mlp.gate_proj.weight has shape [96, 64] instead of [95, 64]"],
    );
    let fewer = ModelConfig { layers: 1, ..config.clone() };
    check_error(read(&fewer), &["layers.1.", "no such parameter"]);
    let other = ModelConfig { vocab_size: 290, ..config };
    let store = parameters(&other, &device(1));
    let wrong = LocalModel::from_parts("x", None, &other, store, tokenizer());
    check_error(wrong, &["model.vocab_size: is 290, but the tokenizer has"]);
}

#[test]
fn damaged_weights_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(true);
    write_folder(dir.path(), &config);
    let path = dir.path().join(WEIGHTS_FILE);
    let whole = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        read_hf_weights(dir.path(), &config, &device(1))
    };
    for cut in [1, 7, 8, 9, 100, 8 + header, whole.len() - 1] {
        check_error(read(&whole[..cut]), &["safetensors"]);
    }
    for length in [0, 1, 1 << 33, u64::MAX] {
        let mut hostile = whole.clone();
        hostile[..8].copy_from_slice(&length.to_le_bytes());
        check_error(read(&hostile), &["safetensors"]);
    }
    let text = String::from_utf8(whole[8..8 + header].to_vec()).unwrap();
    for (from, to) in [
        ("[0,", "[9,"),
        ("\"F32\"", "\"F16\""),
        ("[310,64]", "[310,99]"),
        ("[310,64]", "[9223372036854775807,9223372036854775807]"),
        ("[0,", "[-1,"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        let mut hostile = (changed.len() as u64).to_le_bytes().to_vec();
        hostile.extend_from_slice(changed.as_bytes());
        hostile.extend_from_slice(&whole[8 + header..]);
        assert!(read(&hostile).is_err(), "{from} {to}");
    }
}

#[test]
fn folders_that_are_no_models_say_so() {
    let dir = tempfile::tempdir().unwrap();
    check_error(LocalModel::open(dir.path(), 1), &["no config.json and 0 .gguf files"]);
    check_error(LocalModel::open(&dir.path().join("absent"), 1), &["cannot access", "absent"]);
    write_folder(dir.path(), &config(true));
    let path = dir.path().join(CONFIG_FILE);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["clip_qkv"] = json!(8.0);
    fs::write(&path, config.to_string()).unwrap();
    check_error(LocalModel::open(dir.path(), 1), &["clip_qkv = 8.0", "does not know the key"]);
    fs::write(&path, "{").unwrap();
    check_error(LocalModel::open(dir.path(), 1), &["config.json"]);
}

#[test]
fn a_flipped_bit_in_an_artifact_is_found() {
    use milpa_base::{ArtifactWriter, Kind, artifact::Record};
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("checkpoint");
    let writer = ArtifactWriter::begin(&dir, Kind::Checkpoint).unwrap();
    write_folder(writer.dir(), &config(true));
    writer.finish(Record::default()).unwrap();
    let model = LocalModel::open(&dir, 1).unwrap();
    let path = dir.join(WEIGHTS_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let expect = milpa_base::hash_bytes(&bytes).to_string();
    assert_eq!(milpa_base::TextModel::info(&model).hash, expect);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    check_error(LocalModel::open(&dir, 1), &["model.safetensors", "it is damaged"]);
}

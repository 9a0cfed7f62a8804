//! LoRA against peft (`reference/lora_golden.py`), its folders, and merging.

use std::{collections::BTreeMap, fs, path::Path};

use milpa_base::Seed;
use milpa_model::{
    Decoder, IGNORE, LoraConfig, LossRows, TokenBatch, add_lora, merge_lora, read_lora, write_lora,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    check_error,
    families::{assert_close, cases, expected, logits, open, summary, weights, write_case},
    golden,
};

#[derive(Deserialize)]
struct Adapter {
    config: Value,
    tensors: BTreeMap<String, Vec<usize>>,
    loss: f64,
}

fn adapters() -> BTreeMap<String, Adapter> {
    serde_json::from_slice(&golden("lora.json")).unwrap()
}

/// Writes an adapter's folder as peft would.
fn write_adapter(dir: &Path, adapter: &Adapter) {
    fs::write(dir.join("adapter_config.json"), adapter.config.to_string()).unwrap();
    let stored: Vec<(&String, &Vec<usize>, Vec<u8>)> = adapter
        .tensors
        .iter()
        .map(|(name, shape)| {
            let values = weights(name, shape, false);
            (name, shape, values.iter().flat_map(|value| (0.5 * value).to_le_bytes()).collect())
        })
        .collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap())
    });
    let file = dir.join("adapter_model.safetensors");
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn adapters_equal_peft() {
    let bytes = golden("lora.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, adapter) in adapters() {
        let floats = |kind: &str| -> Vec<f32> {
            let view = file.tensor(&format!("{name}.{kind}")).unwrap();
            view.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
        };
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &cases()[&name]);
        write_adapter(dir.path(), &adapter);
        let (description, mut parameters) = open(dir.path(), 2);
        let plain = parameters.len();
        let lora = read_lora(dir.path(), &description, &mut parameters).unwrap();
        let decoder = Decoder::with_lora(&description, &parameters, &lora).unwrap();
        let (tokens_bt, _, _) = expected(&name);
        let tokens = tokens_bt.len() / 2;
        let expect = floats("logits");
        assert_close(&name, &logits(&decoder, &parameters, &tokens_bt, tokens), &expect, 2e-5);

        let next = |row: usize| match (row + 1) % tokens {
            0 => IGNORE,
            _ => tokens_bt[row + 1],
        };
        let targets: Vec<u32> = (0..tokens_bt.len()).map(next).collect();
        let (batch, rows) = (TokenBatch::new(&tokens_bt, tokens), LossRows::mean(&targets));
        let total = decoder.loss_and_gradients(&mut parameters, &batch, &rows).unwrap();
        assert!((total.loss - adapter.loss).abs() < 1e-5 * adapter.loss, "{name}");
        let sums = floats("gradients");
        for (tensor, expect) in adapter.tensors.keys().zip(sums.as_chunks::<2>().0) {
            let id = parameters.id(tensor.strip_prefix("base_model.model.").unwrap()).unwrap();
            let (dot, norm) = summary(tensor, &parameters.read_grad(id).unwrap());
            let allowed = 1e-4 * f64::from(expect[1]);
            let what = format!("{name} {tensor}: {dot} {norm} instead of {expect:?}");
            assert!((dot - f64::from(expect[0])).abs() <= allowed, "{what}");
            assert!((norm - f64::from(expect[1])).abs() <= allowed, "{what}");
        }
        let with_gradient = parameters.iter().filter(|p| p.grad().is_some()).count();
        assert_eq!(with_gradient, parameters.len() - plain, "{name}: the model itself is frozen");

        let back = tempfile::tempdir().unwrap();
        write_lora(back.path(), &description, &lora, &name, &parameters).unwrap();
        let (_, mut again) = open(dir.path(), 1);
        assert_eq!(read_lora(back.path(), &description, &mut again).unwrap(), lora);
        assert_eq!(crate::values(&again), crate::values(&parameters), "{name}");

        merge_lora(&description, &lora, &mut parameters).unwrap();
        for decoder in [decoder, Decoder::new(&description, &parameters).unwrap()] {
            let found = logits(&decoder, &parameters, &tokens_bt, tokens);
            assert_close(&format!("{name} merged"), &found, &expect, 2e-5);
        }
    }
}

#[test]
fn a_new_adapter_changes_nothing_until_it_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    write_case(dir.path(), &cases()["qwen3"]);
    let (description, mut parameters) = open(dir.path(), 1);
    let tokens = [3, 1, 4, 1, 5];
    let plain = Decoder::new(&description, &parameters).unwrap();
    let before = logits(&plain, &parameters, &tokens, 5);
    let targets = vec!["q_proj".to_owned(), "mlp.down_proj".to_owned()];
    let lora = LoraConfig { rank: 4, alpha: 8.0, rank_stabilised: false, targets };
    add_lora(&description, &lora, Seed(1), &mut parameters).unwrap();
    let decoder = Decoder::with_lora(&description, &parameters, &lora).unwrap();
    assert_eq!(logits(&decoder, &parameters, &tokens, 5), before);
    for (change, expect) in [
        (LoraConfig { rank: 0, ..lora.clone() }, "lora.rank"),
        (LoraConfig { alpha: f64::NAN, ..lora.clone() }, "lora.alpha"),
        (LoraConfig { targets: vec!["qq".to_owned()], ..lora.clone() }, "\"qq\""),
        (LoraConfig { targets: Vec::new(), ..lora }, "lora.targets"),
    ] {
        let (_, mut parameters) = open(dir.path(), 1);
        let added = add_lora(&description, &change, Seed(1), &mut parameters);
        check_error(added, &[expect]);
    }
}

#[test]
fn adapters_that_are_not_computed_exactly_are_refused_by_name() {
    for (key, value) in [
        ("use_dora", json!(true)),
        ("rank_pattern", json!({"q_proj": 2})),
        ("bias", json!("all")),
        ("init_lora_weights", json!("pissa")),
        ("peft_type", json!("IA3")),
        ("target_modules", json!("all-linear")),
        ("modules_to_save", json!(["lm_head"])),
        ("r", json!(-1)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &cases()["llama3"]);
        let mut adapter = adapters().remove("llama3").unwrap();
        adapter.config[key] = value;
        write_adapter(dir.path(), &adapter);
        let (description, mut parameters) = open(dir.path(), 1);
        check_error(read_lora(dir.path(), &description, &mut parameters), &[key]);
    }
    let dir = tempfile::tempdir().unwrap();
    write_case(dir.path(), &cases()["llama3"]);
    let mut adapter = adapters().remove("llama3").unwrap();
    adapter.tensors.insert("base_model.model.lm_head.lora_A.weight".to_owned(), vec![4, 24]);
    write_adapter(dir.path(), &adapter);
    let (description, mut parameters) = open(dir.path(), 1);
    check_error(read_lora(dir.path(), &description, &mut parameters), &["lm_head.lora_A"]);
}

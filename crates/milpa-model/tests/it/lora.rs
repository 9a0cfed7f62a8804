//! LoRA against peft (`reference/lora_golden.py`), its folders, and merging.

use std::{collections::BTreeMap, fs, path::Path};

use milpa_base::Seed;
use milpa_model::{
    Decoder, DecoderDescription, IGNORE, LoraConfig, LoraCost, LossRows, ParameterStore,
    TokenBatch, add_lora, merge_lora, read_lora, write_lora,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    check_error, device,
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
            // A matrix that is embedding and output layer lies there twice.
            let tied = adapter.config["ensure_weight_tying"] == Value::Bool(true);
            let own = name.replace("lm_head", "model.embed_tokens");
            let values = weights(if tied { &own } else { name }, shape, false);
            (name, shape, values.iter().flat_map(|value| (0.5 * value).to_le_bytes()).collect())
        })
        .collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap())
    });
    let file = dir.join("adapter_model.safetensors");
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Gradients under peft's names: written as if they were an adapter, and read back.
fn gradients(
    description: &DecoderDescription,
    lora: &LoraConfig,
    parameters: &ParameterStore,
) -> BTreeMap<String, Vec<f32>> {
    let mut store = ParameterStore::new(device(1));
    for parameter in parameters.iter().filter(|parameter| parameter.trainable()) {
        let id = parameters.id(parameter.name()).unwrap();
        let gradient = parameters.read_grad(id).expect("a gradient arrived");
        store.add(parameter.name(), parameter.shape().lengths(), &gradient, true).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    write_lora(dir.path(), description, lora, "base", &store).unwrap();
    let bytes = fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |view: TensorView<'_>| {
        view.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
    };
    file.tensors().into_iter().map(|(name, view)| (name, floats(view))).collect()
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
        let family = name.split(' ').next().unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &cases()[family]);
        write_adapter(dir.path(), &adapter);
        let (description, mut parameters) = open(dir.path(), 2);
        let plain = parameters.len();
        let lora = read_lora(dir.path(), &description, &mut parameters).unwrap();
        let decoder = Decoder::with_lora(&description, &parameters, &lora).unwrap();
        let (tokens_bt, _, _) = expected(family);
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
        let found = gradients(&description, &lora, &parameters);
        assert!(found.keys().eq(adapter.tensors.keys()), "{name}");
        for ((tensor, gradient), expect) in found.iter().zip(sums.as_chunks::<2>().0) {
            let (dot, norm) = summary(tensor, gradient);
            let allowed = 1e-4 * f64::from(expect[1]);
            let what = format!("{name} {tensor}: {dot} {norm} instead of {expect:?}");
            assert!((dot - f64::from(expect[0])).abs() <= allowed, "{what}");
            assert!((norm - f64::from(expect[1])).abs() <= allowed, "{what}");
        }
        let with_gradient = parameters.iter().filter(|p| p.grad().is_some()).count();
        // One matrix that is embedding and output layer is trained as one.
        let tied = usize::from(description.tie_embeddings);
        let whole = if lora.embeddings { 2 - tied } else { 0 };
        let trained = parameters.len() - plain + whole;
        assert_eq!(with_gradient, trained, "{name}: the model itself is frozen");

        let back = tempfile::tempdir().unwrap();
        write_lora(back.path(), &description, &lora, &name, &parameters).unwrap();
        if lora.embeddings {
            // What is written is what peft opened.
            let written = fs::read(back.path().join("adapter_config.json")).unwrap();
            let written: Value = serde_json::from_slice(&written).unwrap();
            assert_eq!(written, adapter.config, "{name}");
        }
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
    let (description, parameters) = open(dir.path(), 1);
    let tokens = [3, 1, 4, 1, 5];
    let plain = Decoder::new(&description, &parameters).unwrap();
    let before = logits(&plain, &parameters, &tokens, 5);
    let targets = vec!["q_proj".to_owned(), "mlp.down_proj".to_owned()];
    let lora = LoraConfig { rank: 4, targets, ..LoraConfig::default() };
    for dora in [false, true] {
        let (_, mut parameters) = open(dir.path(), 1);
        let lora = LoraConfig { dora, ..lora.clone() };
        add_lora(&description, &lora, Seed(1), &mut parameters).unwrap();
        let decoder = Decoder::with_lora(&description, &parameters, &lora).unwrap();
        let after = logits(&decoder, &parameters, &tokens, 5);
        if dora {
            // A row's length is divided by itself.
            assert_close("new magnitudes", &after, &before, 1e-6);
        } else {
            assert_eq!(after, before);
        }
    }
    for (change, expect) in [
        (LoraConfig { rank: 0, ..lora.clone() }, "lora.rank"),
        (LoraConfig { alpha: f64::NAN, ..lora.clone() }, "lora.alpha"),
        (LoraConfig { targets: vec!["qq".to_owned()], ..lora.clone() }, "\"qq\""),
        (LoraConfig { targets: Vec::new(), ..lora.clone() }, "lora.targets"),
    ] {
        let (_, mut parameters) = open(dir.path(), 1);
        let added = add_lora(&description, &change, Seed(1), &mut parameters);
        check_error(added, &[expect]);
    }
    for (case, dora, expect) in [
        ("qwen3", false, "lora.expert_targets: name no stack of experts \"mlp.experts.down_proj\""),
        ("mixtral", true, "lora.expert_targets: cannot be stacks of experts with DoRA"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &cases()[case]);
        let (description, mut parameters) = open(dir.path(), 1);
        let expert_targets = vec!["mlp.experts.down_proj".to_owned()];
        let lora = LoraConfig { dora, expert_targets, ..LoraConfig::default() };
        check_error(add_lora(&description, &lora, Seed(1), &mut parameters), &[expect]);
    }
    let (_, mut parameters) = open(dir.path(), 1);
    add_lora(&description, &lora, Seed(1), &mut parameters).unwrap();
    let dora = LoraConfig { dora: true, ..lora };
    let missing = Decoder::with_lora(&description, &parameters, &dora);
    check_error(missing, &["q_proj.lora_magnitude_vector", "is missing"]);
}

#[test]
fn what_an_adapter_costs_is_counted_by_hand() {
    // Two layers: q 64 → 96, k and v 64 → 48, o 96 → 64, gate and up 64 → 96, down 96 → 64.
    let layer = 4 * 64 * 96 + 2 * 64 * 48 + 96 * 64;
    let description = DecoderDescription::from(&crate::config(true));
    let targets = LoraConfig::all_linear(&description);
    let all = LoraConfig { rank: 2, targets, ..LoraConfig::default() };
    let cost = LoraCost {
        parameters: 2 * 2 * ((5 * 64 + 2 * 96) + (3 * 96 + 2 * 48 + 2 * 64)),
        inner_values: 2 * 7 * 2,
        // q, k and v of the first layer read the frozen embedding.
        inputs_without_gradient: 64 * (96 + 48 + 48) + 3 * 2 * 64,
        ..LoraCost::default()
    };
    assert_eq!(all.cost(&description).unwrap(), cost);
    let dora = LoraConfig { dora: true, ..all.clone() };
    let with_lengths = LoraCost {
        parameters: cost.parameters + 2 * 512,
        lengthened_values: 2 * 512,
        length_products: 2 * 2 * layer,
        ..cost
    };
    assert_eq!(dora.cost(&description).unwrap(), with_lengths);
    let whole = LoraConfig { embeddings: true, ..all.clone() };
    let inputs = LoraCost { inputs_without_gradient: 0, ..cost };
    assert_eq!(whole.cost(&description).unwrap(), inputs);
    assert_eq!(whole.parameters(&description).unwrap(), cost.parameters + 310 * 64);
    let untied = DecoderDescription { tie_embeddings: false, ..description.clone() };
    assert_eq!(whole.parameters(&untied).unwrap(), cost.parameters + 2 * 310 * 64);
    let below = |target: &str| {
        let lora = LoraConfig { targets: vec![target.to_owned()], ..all.clone() };
        let cost = lora.cost(&description).unwrap();
        (cost.inputs_without_gradient, cost.attention_without_gradient)
    };
    assert_eq!(below("o_proj"), (64 * (96 + 48 + 48) + 96 * 64 + 2 * 96, 1));
    assert_eq!(below("up_proj"), (layer - 96 * 64 + 2 * 64, 1));
    assert_eq!(below("layers.1.self_attn.v_proj"), (layer + 64 * (96 + 48 + 48) + 2 * 64, 1));
    assert_eq!(below("layers.1.mlp.down_proj"), (2 * layer + 2 * 96, 2));
}

#[test]
fn negative_magnitudes_and_rows_without_length_survive_merging() {
    let dir = tempfile::tempdir().unwrap();
    write_case(dir.path(), &cases()["qwen3"]);
    let (description, mut parameters) = open(dir.path(), 1);
    let weight = parameters.id("model.layers.0.self_attn.q_proj.weight").unwrap();
    let mut rows = parameters.read(weight);
    rows[..24].fill(0.0);
    parameters.write(weight, &rows).unwrap();
    let targets = vec!["q_proj".to_owned()];
    let lora = LoraConfig { dora: true, targets, ..LoraConfig::default() };
    add_lora(&description, &lora, Seed(1), &mut parameters).unwrap();
    let id = parameters.id("model.layers.0.self_attn.q_proj.lora_magnitude_vector").unwrap();
    let mut magnitudes = parameters.read(id);
    assert_eq!(magnitudes[0], 0.0);
    (magnitudes[0], magnitudes[1]) = (2.0, -magnitudes[1]);
    parameters.write(id, &magnitudes).unwrap();
    let decoder = Decoder::with_lora(&description, &parameters, &lora).unwrap();
    let tokens = [3, 1, 4, 1, 5];
    let before = logits(&decoder, &parameters, &tokens, 5);
    assert!(before.iter().all(|logit| logit.is_finite()));
    merge_lora(&description, &lora, &mut parameters).unwrap();
    let plain = Decoder::new(&description, &parameters).unwrap();
    for decoder in [&decoder, &plain] {
        assert_close("merged", &logits(decoder, &parameters, &tokens, 5), &before, 2e-5);
    }
}

#[test]
fn adapters_that_are_not_computed_exactly_are_refused_by_name() {
    for (key, value) in [
        ("use_bdlora", json!(true)),
        ("rank_pattern", json!({"q_proj": 2})),
        ("bias", json!("all")),
        ("init_lora_weights", json!("pissa")),
        ("peft_type", json!("IA3")),
        ("target_modules", json!("all-linear")),
        ("modules_to_save", json!(["lm_head"])),
        ("target_parameters", json!("mlp.experts.down_proj")),
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

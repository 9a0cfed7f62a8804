//! Decoders of two layers against PyTorch in double precision (`reference/engine_golden.py`).

use std::collections::BTreeMap;

use milpa_model::{Decoder, LossRows, ModelConfig, ParameterStore, TokenBatch, parameter_specs};
use milpa_tensor::Tape;
use safetensors::{Dtype, SafeTensors};

use crate::{device, golden};

/// Largest deviation relative to the largest value of a tensor: single against double precision.
const TOLERANCE: f32 = 1e-5;

fn config(qk_norm: bool) -> ModelConfig {
    ModelConfig {
        hidden_size: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: Some(10),
        ffn_size: 40,
        vocab_size: 37,
        context_length: 9,
        rope_theta: 1e4,
        norm_epsilon: 1e-5,
        qk_norm,
        tie_embeddings: qk_norm,
        init_std: 0.02,
    }
}

fn assert_close(what: &str, found: &[f32], expect: &[f32]) {
    assert_eq!(found.len(), expect.len(), "{what}");
    let largest = expect.iter().fold(1e-4_f32, |most, value| most.max(value.abs()));
    for (index, (found, expect)) in found.iter().zip(expect).enumerate() {
        let error = (found - expect).abs() / largest;
        assert!(error <= TOLERANCE, "{what}[{index}]: {found} instead of {expect} ({error:.1e})");
    }
}

fn check(file: &str, qk_norm: bool) {
    let bytes = golden(file);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (mut floats, mut whole) = (BTreeMap::new(), BTreeMap::new());
    for (name, tensor) in tensors.tensors() {
        let words = tensor.data().as_chunks::<4>().0;
        if tensor.dtype() == Dtype::F32 {
            let values: Vec<f32> = words.iter().map(|&w| f32::from_le_bytes(w)).collect();
            floats.insert(name, values);
        } else {
            let values: Vec<u32> = words.iter().map(|&w| u32::from_le_bytes(w)).collect();
            whole.insert(name, values);
        }
    }
    let (config, device) = (config(qk_norm), device(2));
    let mut store = ParameterStore::new(device.clone());
    for spec in parameter_specs(&config) {
        store.add(&spec.name, &spec.shape, &floats[&spec.name], true).unwrap();
    }
    let decoder = Decoder::new(&config, &store).unwrap();
    let batch = TokenBatch {
        tokens_bt: &whole["tokens"],
        tokens: 9,
        documents_bt: Some(&whole["documents"]),
    };
    let tape = Tape::inference(device.clone());
    let hidden = decoder.forward_hidden(&tape, &store, &batch).unwrap();
    let rows: Vec<u32> = (0..18).collect();
    let logits = decoder.logits(&tape, &store, &hidden, &rows).unwrap();
    assert_close("logits", &tape.read(&logits), &floats["logits"]);

    let rows = LossRows::mean(&whole["targets"]);
    let summary = decoder.loss_and_gradients(&mut store, &batch, &rows).unwrap();
    assert_close("loss", &[summary.loss as f32], &floats["loss"]);
    assert_eq!(summary.rows, 17);
    for spec in parameter_specs(&config) {
        let gradient = store.read_grad(store.id(&spec.name).unwrap()).unwrap();
        assert_close(&spec.name, &gradient, &floats[&format!("grad.{}", spec.name)]);
    }
}

#[test]
fn the_qwen3_shape_equals_pytorch() {
    check("decoder_qwen3.safetensors", true);
}

#[test]
fn the_llama_shape_equals_pytorch() {
    check("decoder_llama.safetensors", false);
}

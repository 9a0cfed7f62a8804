//! A hundred training steps against PyTorch (`reference/engine_curve.py`), in f32 and in bf16.

use milpa_base::seed::splitmix64;
use milpa_model::{Decoder, LossRows, ModelConfig, ParameterStore, TokenBatch, parameter_specs};
use milpa_tensor::{AdamW, Buffer, DType, clip_factor};

use crate::{device, golden};

const VOCAB: usize = 256;
const TOKENS: usize = 32;
const SEQUENCES: usize = 2;
const STEPS: usize = 100;

/// The number `i` of stream `seed`, in [0, 1) with 24 bits.
fn uniform(seed: u64, i: u64) -> f64 {
    (splitmix64((seed << 32) + i) >> 40) as f64 / f64::from(1 << 24)
}

fn losses(dtype: DType, threads: usize) -> (Vec<f64>, Vec<f64>) {
    let config = ModelConfig {
        hidden_size: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: None,
        ffn_size: 128,
        vocab_size: VOCAB,
        context_length: TOKENS,
        rope_theta: 1e4,
        norm_epsilon: 1e-5,
        qk_norm: false,
        tie_embeddings: true,
        init_std: 0.02,
    };
    let device = device(threads);
    let mut store = ParameterStore::new(device.clone());
    for (number, spec) in parameter_specs(&config).into_iter().enumerate() {
        let elements = spec.shape.iter().product::<usize>() as u64;
        let random = |i| (2.0 * uniform(1000 + number as u64, i) - 1.0) * 3.0_f64.sqrt() * 0.02;
        let matrix = spec.init_std.is_some();
        let values: Vec<f32> =
            (0..elements).map(|i| if matrix { random(i) as f32 } else { 1.0 }).collect();
        store.add(&spec.name, &spec.shape, &values, matrix).unwrap();
    }
    let decoder = Decoder::new(&config, &store).unwrap().autocast(dtype);
    let mut moments: Vec<[Buffer; 2]> = store
        .iter()
        .map(|p| [0, 1].map(|_| device.upload(&vec![0.0; p.shape().elements()])))
        .collect();
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let count = SEQUENCES * TOKENS;
        let stream: Vec<u32> = (0..=count as u64)
            .map(|i| (VOCAB as f64 * uniform(1999, (step * count) as u64 + i).powi(3)) as u32)
            .collect();
        let batch = TokenBatch::new(&stream[..count], TOKENS);
        let rows = LossRows::mean(&stream[1..]);
        let summary = decoder.loss_and_gradients(&mut store, &batch, &rows).unwrap();
        losses.push(summary.loss);
        let norm = store.grad_norm();
        norms.push(norm);
        for (parameter, [first, second]) in store.iter_mut().zip(&mut moments) {
            let settings = AdamW {
                learning_rate: 1e-3,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: if parameter.decay() { 0.1 } else { 0.0 },
                step: step as u64 + 1,
            };
            let (weights, gradient) = parameter.step().unwrap().unwrap();
            let factor = clip_factor(norm, 1.0);
            device.adamw_step(&settings, factor, weights, gradient, first, second);
        }
        store.clear_grads();
    }
    (losses, norms)
}

struct Golden {
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
    compiled_losses: Vec<f64>,
    bf16_losses: [Vec<f64>; 2],
}

fn pytorch() -> Golden {
    let file: serde_json::Value = serde_json::from_slice(&golden("curve.json")).unwrap();
    let list = |name: &str| -> Vec<f64> {
        let values = file[name].as_array().unwrap();
        assert_eq!(values.len(), STEPS, "{name}");
        values.iter().map(|value| value.as_f64().unwrap()).collect()
    };
    Golden {
        losses: list("losses"),
        gradient_norms: list("gradient_norms"),
        compiled_losses: list("compiled_losses"),
        bf16_losses: [list("bf16_losses"), list("compiled_bf16_losses")],
    }
}

/// The largest distance between two curves.
fn spread(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The root of the mean square of the distances: roundings are random, so that the largest of a
/// hundred says little.
fn mean_square_root(a: &[f64], b: &[f64]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}

#[test]
fn a_hundred_steps_follow_pytorch() {
    let golden = pytorch();
    let (losses, norms) = losses(DType::F32, 2);
    let allowed = (2.0 * spread(&golden.losses, &golden.compiled_losses)).max(1e-4);
    let found = spread(&losses, &golden.losses);
    assert!(found <= allowed, "losses are up to {found:.1e} off, allowed {allowed:.1e}");
    // Norms of gradients drift with the weights: the first steps are compared.
    let found = spread(&norms[..20], &golden.gradient_norms[..20]);
    assert!(found < 1e-3, "gradient norms are up to {found:.1e} off");
}

#[test]
fn a_hundred_steps_in_bf16_stay_within_pytorchs_own_spread() {
    let golden = pytorch();
    let (losses, _) = losses(DType::BF16, 2);
    let distance = |other: &[f64]| mean_square_root(&golden.losses, other);
    let found = distance(&losses);
    let allowed = golden.bf16_losses.iter().map(|other| distance(other)).fold(0.0, f64::max);
    assert!(found > 0.0 && found <= allowed, "off by {found:.1e}, PyTorch by {allowed:.1e}");
}

#[test]
fn threads_do_not_change_the_curve() {
    for dtype in [DType::F32, DType::BF16] {
        assert_eq!(losses(dtype, 1), losses(dtype, 3));
    }
}

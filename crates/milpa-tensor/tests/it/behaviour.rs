//! What the tape promises besides numbers: memory, accumulation, caches, and errors for bad calls.

use std::sync::Arc;

use milpa_tensor::{
    AdamW, AttentionOptions, DType, Device, KvCache, LossRows, Muon, ParameterStore, RopeTable,
    Tape, Tensor, TensorError,
    quantised::{self, BlockFormat},
};

use crate::{device, normal};

/// A small network with everything in it; returns the hidden states.
pub(crate) fn network(
    tape: &Tape,
    store: &ParameterStore,
    ids: &[u32],
    tokens: usize,
) -> Result<Tensor, TensorError> {
    let leaf = |name: &str| store.leaf(store.id(name).unwrap());
    let sequences = ids.len() / tokens;
    let x = tape.embedding(&leaf("table"), ids, tokens)?;
    let h = tape.rms_norm(&x, &leaf("norm"), 1e-5)?;
    let [q, k, v] = tape.linear_many(&h, [&leaf("q"), &leaf("k"), &leaf("v")])?;
    drop(h);
    let heads = |x: Tensor, n: usize| x.reshape(&[sequences, tokens, n, 8]);
    let table = RopeTable::new(tape.device(), 8, 1e4, tokens);
    let positions: Arc<[u32]> = (0..ids.len()).map(|i| (i % tokens) as u32).collect();
    let q = tape.rope(heads(q, 4)?, &table, &positions)?;
    let k = tape.rope(heads(k, 2)?, &table, &positions)?;
    let options = AttentionOptions::causal(0.35);
    let out = tape.attention(&q, &k, &heads(v, 2)?, &options)?;
    let out = out.reshape(&[sequences, tokens, 32])?;
    let branch = tape.linear(&out, &leaf("o"))?;
    let (x, h) = tape.add_rms_norm(x, &branch, &leaf("norm"), 1e-5)?;
    let [gate, up] = tape.linear_many(&h, [&leaf("gate"), &leaf("up")])?;
    let inner = tape.swiglu(&gate, &up)?;
    let branch = tape.linear(&inner, &leaf("down"))?;
    tape.add(&x, &branch)
}

pub(crate) fn store(device: &Device) -> ParameterStore {
    let mut store = ParameterStore::new(device.clone());
    for (seed, (name, shape)) in [
        ("table", vec![50, 24]),
        ("norm", vec![24]),
        ("q", vec![32, 24]),
        ("k", vec![16, 24]),
        ("v", vec![16, 24]),
        ("o", vec![24, 32]),
        ("gate", vec![40, 24]),
        ("up", vec![40, 24]),
        ("down", vec![24, 40]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut values = normal(seed as u64, shape.iter().product());
        for value in &mut values {
            *value *= 0.2;
        }
        store.add(name, &shape, &values, shape.len() == 2).unwrap();
    }
    store
}

pub(crate) const IDS: [u32; 12] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];
pub(crate) const TARGETS: [u32; 12] = [1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9];

pub(crate) fn all_grads(store: &ParameterStore) -> Vec<Vec<f32>> {
    store.iter().map(|p| store.read_grad(store.id(p.name()).unwrap()).unwrap()).collect()
}

#[test]
fn a_steady_step_allocates_nothing_and_leaves_nothing() {
    let device = device(2);
    let mut store = store(&device);
    let mut moments: Vec<_> = store
        .iter()
        .map(|p| [0, 1].map(|_| device.upload(&vec![0.0; p.shape().elements()])))
        .collect();
    let resident = |store: &ParameterStore| {
        let values: usize = store.elements();
        values * 4 * 4 // weights, gradients and two moments
    };
    let mut allocations = Vec::new();
    let mut losses = Vec::new();
    for step in 1..=5 {
        {
            let tape = Tape::recording(device.clone());
            let x = network(&tape, &store, &IDS, 6).unwrap();
            let table = store.leaf(store.id("table").unwrap());
            let rows = LossRows::mean(&TARGETS);
            let summary = tape.cross_entropy_and_backward(&x, &table, &rows, &mut store).unwrap();
            losses.push(summary.loss);
        }
        let settings = AdamW {
            learning_rate: 0.02,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            step,
        };
        for (parameter, [first, second]) in store.iter_mut().zip(&mut moments) {
            let (weights, gradient) = parameter.step().unwrap().unwrap();
            device.adamw_step(&settings, 1.0, weights, gradient, first, second);
        }
        store.clear_grads();
        assert_eq!(device.memory().live_bytes, resident(&store), "step {step}");
        allocations.push(device.memory().allocations);
    }
    assert_eq!(allocations[1..], [allocations[1]; 4], "{allocations:?}");
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
}

#[test]
fn inference_keeps_only_what_has_a_handle() {
    let device = device(1);
    let store = store(&device);
    let weights = device.memory().live_bytes;
    let tape = Tape::inference(device.clone());
    let x = network(&tape, &store, &IDS, 6).unwrap();
    assert_eq!(device.memory().live_bytes - weights, x.shape().elements() * 4);
    let inference = tape.read(&x);
    drop(x);
    assert_eq!(device.memory().live_bytes, weights);
    let recording = Tape::recording(device.clone());
    assert_eq!(recording.read(&network(&recording, &store, &IDS, 6).unwrap()), inference);
}

#[test]
fn micro_batches_add_up_to_the_whole() {
    let device = device(1);
    let mut whole = store(&device);
    let mut parts = store(&device);
    let head = whole.id("table").unwrap();
    let run = |store: &mut ParameterStore, ids: &[u32], targets: &[u32]| {
        let tape = Tape::recording(device.clone());
        let x = network(&tape, store, ids, 6).unwrap();
        let rows = LossRows { divisor: Some(12.0), ..LossRows::mean(targets) };
        let table = store.leaf(head);
        tape.cross_entropy_and_backward(&x, &table, &rows, store).unwrap().loss
    };
    let loss = run(&mut whole, &IDS, &TARGETS);
    let split =
        run(&mut parts, &IDS[..6], &TARGETS[..6]) + run(&mut parts, &IDS[6..], &TARGETS[6..]);
    assert!((loss - split).abs() < 1e-6, "{loss} {split}");
    for (a, b) in all_grads(&whole).iter().zip(all_grads(&parts)) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-6 * a.abs().max(0.1), "{a} {b}");
        }
    }
    assert!((whole.grad_norm() - parts.grad_norm()).abs() < 1e-6);
    parts.clear_grads();
    assert!(parts.iter().all(|parameter| parameter.grad().is_none()));
    assert_eq!(parts.grad_norm(), 0.0);
}

#[test]
fn the_fused_backward_equals_the_recorded_one() {
    let device = device(1);
    for z_loss in [0.0, 1e-2] {
        check_fused(&device, &LossRows { z_loss, ..LossRows::mean(&TARGETS) });
    }
}

fn check_fused(device: &Device, rows: &LossRows) {
    let (mut fused, mut recorded) = (store(device), store(device));
    let head = fused.id("table").unwrap();
    let tape = Tape::recording(device.clone());
    let x = network(&tape, &fused, &IDS, 6).unwrap();
    let table = fused.leaf(head);
    let summary = tape.cross_entropy_and_backward(&x, &table, rows, &mut fused).unwrap();
    let tape = Tape::recording(device.clone());
    let x = network(&tape, &recorded, &IDS, 6).unwrap();
    let loss = tape.linear_cross_entropy(&x, &recorded.leaf(head), rows).unwrap();
    // Two kernels compute the loss: with and without the gradient.
    let recorded_loss = f64::from(tape.read(&loss)[0]);
    let whole = summary.loss + summary.z_loss;
    assert!((recorded_loss - whole).abs() < 2e-6, "{recorded_loss} {whole}");
    assert_eq!(summary.z_loss > 0.0, rows.z_loss > 0.0);
    tape.backward(&loss, &mut recorded).unwrap();
    assert_eq!(all_grads(&fused), all_grads(&recorded));
    assert_eq!((summary.rows, summary.weight), (12, 12.0));
}

#[test]
fn a_cache_gives_what_the_whole_sequence_gives() {
    let device = device(2);
    let tape = Tape::inference(device.clone());
    let (tokens, heads, kv_heads, dim) = (11, 4, 2, 6);
    let shape = |n: usize| [1, tokens, n, dim];
    let tensor =
        |seed: u64, n: usize| tape.constant(&normal(seed, tokens * n * dim), &shape(n)).unwrap();
    let (q, k, v) = (tensor(1, heads), tensor(2, kv_heads), tensor(3, kv_heads));
    let options = AttentionOptions::causal(0.4);
    let whole = tape.read(&tape.attention(&q, &k, &v, &options).unwrap());
    let mut cache = KvCache::new(&device, 1, 1, 16, kv_heads, dim);
    let mut parts = Vec::new();
    for range in [0..5, 5..6, 6..7, 7..11] {
        let part = |x: &Tensor, n: usize| {
            let values = tape.read(x)[range.start * n * dim..range.end * n * dim].to_vec();
            tape.constant(&values, &[1, range.len(), n, dim]).unwrap()
        };
        let (q, k, v) = (part(&q, heads), part(&k, kv_heads), part(&v, kv_heads));
        let out = tape.attention_cached(&q, &k, &v, &options, &mut cache, 0).unwrap();
        cache.advance(range.len());
        parts.extend(tape.read(&out));
    }
    for (a, b) in whole.iter().zip(&parts) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    let out = tape.attention_cached(&q, &k, &v, &options, &mut cache, 0).unwrap_err();
    assert!(out.to_string().contains("the cache is full"), "{out}");
}

#[test]
fn a_cache_grows_and_keeps_its_sequences_apart() {
    let device = device(2);
    let tape = Tape::inference(device.clone());
    let (batch, tokens, dim) = (2, 600, 4);
    let tensor = |seed: u64, tokens: usize| {
        tape.constant(&normal(seed, batch * tokens * dim), &[batch, tokens, 1, dim]).unwrap()
    };
    let (q, k, v) = (tensor(1, tokens), tensor(2, tokens), tensor(3, tokens));
    let options = AttentionOptions::causal(0.5);
    let whole = tape.read(&tape.attention(&q, &k, &v, &options).unwrap());
    let mut cache = KvCache::new(&device, 1, batch, tokens, 1, dim);
    let at_start = device.memory().live_bytes;
    for begin in (0..tokens).step_by(75) {
        let part = |x: &Tensor| {
            let values = tape.read(x);
            let rows = values.chunks(tokens * dim);
            let rows = rows.flat_map(|row| row[begin * dim..(begin + 75) * dim].to_vec());
            tape.constant(&rows.collect::<Vec<f32>>(), &[batch, 75, 1, dim]).unwrap()
        };
        let (q, k, v) = (part(&q), part(&k), part(&v));
        let out = tape.attention_cached(&q, &k, &v, &options, &mut cache, 0).unwrap();
        cache.advance(75);
        for (index, found) in tape.read(&out).chunks(75 * dim).enumerate() {
            let start = (index * tokens + begin) * dim;
            for (a, b) in found.iter().zip(&whole[start..]) {
                assert!((a - b).abs() < 1e-5, "{begin}: {a} {b}");
            }
        }
    }
    assert!(device.memory().live_bytes > at_start);
}

#[test]
fn quantised_weights_serve_inference_only() {
    BlockFormat::ALL.into_iter().for_each(check_quantised);
}

fn check_quantised(format: BlockFormat) {
    let device = device(2);
    let tape = Tape::inference(device.clone());
    let values = normal(4, 5 * 512);
    let cpu = milpa_kernels::Cpu::detect(1);
    let mut bytes = vec![0; 5 * format.row_bytes(512)];
    quantised::quantize(&cpu, format, &values, &mut bytes);
    let mut store = ParameterStore::new(device.clone());
    let quantised = store.add_quantised("w", &[5, 512], format, bytes).unwrap();
    let widened = store.read(quantised);
    let plain = store.add("plain", &[5, 512], &widened, true).unwrap();
    let x = tape.constant(&normal(5, 3 * 512), &[3, 512]).unwrap();
    assert_eq!(store.leaf(quantised).dtype(), DType::Quantised(format));
    let expect = tape.read(&tape.linear(&x, &store.leaf(plain)).unwrap());
    let found = tape.read(&tape.linear(&x, &store.leaf(quantised)).unwrap());
    for (a, b) in found.iter().zip(&expect) {
        // Sums of 512 products of about one, in another order.
        assert!((a - b).abs() < 1e-4, "{format}: {a} {b}");
    }
    let rows = tape.embedding(&store.leaf(quantised), &[4, 0], 2).unwrap();
    assert_eq!(tape.read(&rows)[..512], widened[4 * 512..]);
    let short = store.add_quantised("x", &[5, 512], format, vec![0; 7]).unwrap_err();
    assert!(short.to_string().contains("was given 0 values"), "{short}");

    let recording = Tape::recording(device.clone());
    let trained = recording.linear(&x, &store.leaf(plain)).unwrap();
    let trained = trained.reshape(&[1, 15]).unwrap();
    let wide = store.add("wide", &[512, 15], &normal(6, 512 * 15), true).unwrap();
    let trained = recording.linear(&trained, &store.leaf(wide)).unwrap();
    let error = recording.linear(&trained, &store.leaf(quantised)).unwrap_err();
    assert!(error.to_string().contains("cannot be trained through"), "{error}");
}

#[test]
fn muon_moves_a_matrix_by_an_orthogonal_step() {
    let device = device(1);
    let gradient = device.upload(&normal(1, 12 * 20));
    let mut weights = device.upload(&vec![0.0; 12 * 20]);
    let mut momentum = device.upload(&vec![0.0; 12 * 20]);
    let settings = Muon {
        learning_rate: 1.0,
        momentum: 0.95,
        nesterov: true,
        weight_decay: 0.0,
        iterations: 5,
    };
    device.muon_step(&settings, 12, 20, 1.0, &mut weights, &gradient, &mut momentum);
    let mut step = vec![0.0; 12 * 20];
    device.download(&weights, &mut step);
    for (i, a) in step.chunks(20).enumerate() {
        for (j, b) in step.chunks(20).enumerate() {
            let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let expect = if i == j { 1.0 } else { 0.0 };
            // Newton–Schulz with these coefficients brings singular values to 0.7 … 1.2.
            assert!((dot - expect).abs() < 0.55, "{i} {j} {dot}");
        }
    }
}

fn check_error(result: Result<Tensor, TensorError>, expect: &[&str]) {
    let error = result.unwrap_err().to_string();
    for part in expect {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn bad_calls_are_errors_that_name_operation_and_shapes() {
    let device = device(1);
    let tape = Tape::inference(device.clone());
    let zeros =
        |lengths: &[usize]| tape.constant(&vec![0.0; lengths.iter().product()], lengths).unwrap();
    let (a, b) = (zeros(&[2, 3]), zeros(&[4, 5]));
    check_error(tape.linear(&a, &b), &["linear of [2, 3] and [4, 5]"]);
    check_error(tape.add(&a, &b), &["add of [2, 3] and [4, 5]", "same shape"]);
    check_error(tape.rms_norm(&a, &zeros(&[2]), 1e-5), &["rms_norm", "divides"]);
    check_error(tape.embedding(&a, &[0, 2], 2), &["embedding: token id 2 at index 1", "below 2"]);
    check_error(tape.embedding(&a, &[0, 1], 3), &["2 ids in rows of 3"]);
    check_error(tape.embedding(&a, &[], 0), &["embedding"]);
    check_error(tape.select_rows(&a, &[2]), &["select_rows: row 2"]);
    let table = RopeTable::new(&device, 6, 1e4, 4);
    let x = zeros(&[1, 2, 1, 6]);
    check_error(tape.rope(x.clone(), &table, &[0, 4].into()), &["rope: position 4"]);
    check_error(tape.rope(x.clone(), &table, &[0].into()), &["1 positions"]);
    let options = AttentionOptions::causal(1.0);
    let (q, k) = (zeros(&[1, 4, 3, 6]), zeros(&[1, 4, 2, 6]));
    check_error(tape.attention(&q, &k, &k, &options), &["attention of", "g dividing h"]);
    let options =
        AttentionOptions { first_key: Some([0, 2].into()), ..AttentionOptions::causal(1.0) };
    check_error(tape.attention(&x, &x, &x, &options), &["first key 2 at index 1"]);
    let rows = LossRows::mean(&[0, 4]);
    check_error(tape.linear_cross_entropy(&a, &zeros(&[4, 3]), &rows), &["target 4 at index 1"]);
    let rows = LossRows::mean(&[0]);
    check_error(tape.linear_cross_entropy(&a, &zeros(&[4, 3]), &rows), &["1 targets for 2 rows"]);
    let rows = LossRows { weights: Some([1.0, f32::NAN].into()), ..LossRows::mean(&[0, 1]) };
    check_error(tape.linear_cross_entropy(&a, &zeros(&[4, 3]), &rows), &["weight of row 1 is NaN"]);
    check_error(a.clone().reshape(&[7]), &["reshape of [2, 3]"]);
    check_error(tape.constant(&[0.0], &[2]), &["constant of [2]"]);
}

#[test]
fn tensors_of_other_rounds_and_held_weights_are_refused() {
    let device = device(1);
    let mut store = ParameterStore::new(device.clone());
    let w = store.add("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0], true).unwrap();
    let doubled = store.add("w", &[1], &[0.0], true).unwrap_err();
    assert!(doubled.to_string().contains("was added already"), "{doubled}");
    let tape = Tape::recording(device.clone());
    let x = tape.constant(&[1.0, 1.0], &[1, 2]).unwrap();
    let y = tape.linear(&x, &store.leaf(w)).unwrap();
    tape.backward_from(&[(&y, &[1.0, 1.0])], &mut store).unwrap();
    check_error(tape.linear(&y, &store.leaf(w)), &["linear", "last backward"]);

    let y = tape.linear(&x, &store.leaf(w)).unwrap();
    let held = store.iter_mut().next().unwrap().step().unwrap_err();
    assert!(held.to_string().contains("still held"), "{held}");
    let mut other = ParameterStore::new(device.clone());
    let error = tape.backward_from(&[(&y, &[1.0, 1.0])], &mut other).unwrap_err();
    assert!(error.to_string().contains("another store"), "{error}");
    drop(tape);
    assert!(store.iter_mut().next().unwrap().step().unwrap().is_some());
    assert!(store.write(w, &[0.0; 3]).is_err());

    let inference = Tape::inference(device);
    let error = inference.backward_from(&[(&y, &[1.0, 1.0])], &mut store).unwrap_err();
    assert!(error.to_string().contains("backward"), "{error}");
}

#[test]
fn frozen_parameters_get_no_gradient() {
    let device = device(1);
    let mut store = store(&device);
    let (frozen, trained) = (store.id("gate").unwrap(), store.id("up").unwrap());
    store.set_trainable(frozen, false);
    let tape = Tape::recording(device.clone());
    let x = network(&tape, &store, &IDS, 6).unwrap();
    let back = normal(3, x.shape().elements());
    tape.backward_from(&[(&x, &back)], &mut store).unwrap();
    assert!(store.read_grad(frozen).is_none());
    assert!(store.read_grad(trained).is_some());
}

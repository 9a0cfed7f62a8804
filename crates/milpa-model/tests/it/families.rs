//! Every family of decoders against `transformers` (`reference/model_families.py`): logits, loss and
//! gradients of small models whose weights are a hash of their names; the cache; folders and back.

use std::{collections::BTreeMap, fs, path::Path};

use milpa_model::{
    CONFIG_FILE, Decoder, DecoderDescription, LossRows, ParameterStore, Pooling, TokenBatch,
    WEIGHTS_FILE, read_hf_description, read_hf_weights, set_trainable, write_hf_model,
};
use milpa_tensor::{IGNORE, Tape};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use crate::{check_error, device, golden, values};

/// Largest deviation relative to the largest value: single precision on both sides, up to six branches.
const TOLERANCE: f32 = 2e-5;

#[derive(Deserialize)]
pub(crate) struct Case {
    config: serde_json::Value,
    pub(crate) tensors: BTreeMap<String, Vec<usize>>,
    loss: f64,
}

pub(crate) fn cases() -> BTreeMap<String, Case> {
    serde_json::from_slice(&golden("families.json")).unwrap()
}

/// The peer's values for a case: tokens, logits, and two sums of each tensor's gradient.
pub(crate) fn expected(case: &str) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let bytes = golden("families.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |kind: &str| -> Vec<[u8; 4]> {
        file.tensor(&format!("{case}.{kind}")).unwrap().data().as_chunks::<4>().0.to_vec()
    };
    let floats = |kind| words(kind).into_iter().map(f32::from_le_bytes).collect();
    let tokens = words("tokens").into_iter().map(u32::from_le_bytes).collect();
    (tokens, floats("logits"), floats("gradients"))
}

/// `uniform` of the script: values in −1..1 that single precision holds exactly.
pub(crate) fn uniform(name: &str, count: usize) -> Vec<f32> {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 * 2.0_f32.powi(-23) - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// `values` of the script.
pub(crate) fn weights(name: &str, shape: &[usize], gemma: bool) -> Vec<f32> {
    let mut values = uniform(name, shape.iter().product());
    if shape.len() == 1 {
        let middle = if gemma || name.ends_with("bias") { 0.0 } else { 1.0 };
        for value in &mut values {
            *value = middle + 0.3_f32 * *value;
        }
    } else {
        let embedding = name.contains("embed");
        let strong = name.ends_with("gate.weight") || name.contains("lm_head");
        let gain = if embedding {
            1.0_f64
        } else if strong {
            3.0
        } else {
            1.2
        };
        let inputs = if embedding { 3.0 } else { shape[1] as f64 };
        let factor = (gain * (3.0 / inputs).sqrt()) as f32;
        for value in &mut values {
            *value *= factor;
        }
    }
    values
}

/// Writes a case's folder as `transformers` would.
pub(crate) fn write_case(dir: &Path, case: &Case) {
    fs::write(dir.join(CONFIG_FILE), case.config.to_string()).unwrap();
    let gemma = case.config["model_type"].as_str().unwrap().starts_with("gemma");
    let stored: Vec<(&String, &Vec<usize>, Vec<u8>)> = case
        .tensors
        .iter()
        .map(|(name, shape)| {
            let values = weights(name, shape, gemma);
            (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap())
    });
    fs::write(dir.join(WEIGHTS_FILE), safetensors::serialize(views, None).unwrap()).unwrap();
}

pub(crate) fn open(dir: &Path, threads: usize) -> (DecoderDescription, ParameterStore) {
    let description = read_hf_description(dir).unwrap();
    let parameters = read_hf_weights(dir, &description, &device(threads)).unwrap();
    (description, parameters)
}

#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f32], expect: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expect.len(), "{what}");
    let largest = expect.iter().fold(1e-4_f32, |most, value| most.max(value.abs()));
    for (index, (found, expect)) in found.iter().zip(expect).enumerate() {
        let error = (found - expect).abs() / largest;
        assert!(error <= tolerance, "{what}[{index}]: {found} instead of {expect} ({error:.1e})");
    }
}

pub(crate) fn logits(
    decoder: &Decoder,
    parameters: &ParameterStore,
    tokens_bt: &[u32],
    tokens: usize,
) -> Vec<f32> {
    let tape = Tape::inference(parameters.device().clone());
    let batch = TokenBatch::new(tokens_bt, tokens);
    let x_btd = decoder.forward_hidden(&tape, parameters, &batch).unwrap();
    let rows: Vec<u32> = (0..tokens_bt.len() as u32).collect();
    tape.read(&decoder.logits(&tape, parameters, &x_btd, &rows).unwrap())
}

/// Gradients under the names of files: written as if they were weights, and read back.
pub(crate) fn gradients(
    description: &DecoderDescription,
    parameters: &ParameterStore,
) -> BTreeMap<String, Vec<f32>> {
    let gemma = description.family.model_type().starts_with("gemma");
    let mut store = ParameterStore::new(device(1));
    for parameter in parameters {
        let id = parameters.id(parameter.name()).unwrap();
        // What nothing flows through has a gradient of zeros in files.
        let zeros = || vec![0.0; parameter.shape().elements()];
        let mut gradient = parameters.read_grad(id).unwrap_or_else(zeros);
        if gemma && parameter.shape().lengths().len() == 1 {
            // The files of the family hold norms less one.
            for value in &mut gradient {
                *value += 1.0;
            }
        }
        store.add(parameter.name(), parameter.shape().lengths(), &gradient, true).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    write_hf_model(dir.path(), description, &store, None, None).unwrap();
    let bytes = fs::read(dir.path().join(WEIGHTS_FILE)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |view: TensorView<'_>| {
        view.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
    };
    file.tensors().into_iter().map(|(name, view)| (name, floats(view))).collect()
}

#[test]
fn logits_loss_and_gradients_equal_transformers() {
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &case);
        let (description, mut parameters) = open(dir.path(), 2);
        let decoder = Decoder::new(&description, &parameters).unwrap();
        let (tokens_bt, expect, sums) = expected(&name);
        let tokens = tokens_bt.len() / 2;
        let found = logits(&decoder, &parameters, &tokens_bt, tokens);
        assert_close(&format!("{name} logits"), &found, &expect, TOLERANCE);

        let next = |row: usize| match (row + 1) % tokens {
            0 => IGNORE,
            _ => tokens_bt[row + 1],
        };
        let targets: Vec<u32> = (0..tokens_bt.len()).map(next).collect();
        let batch = TokenBatch::new(&tokens_bt, tokens);
        let rows = LossRows::mean(&targets);
        let total = decoder.loss_and_gradients(&mut parameters, &batch, &rows).unwrap();
        assert!((total.loss - case.loss).abs() < 1e-5 * case.loss, "{name}: {}", total.loss);
        let found = gradients(&description, &parameters);
        assert!(found.keys().eq(case.tensors.keys()), "{name}");
        let largest = sums.iter().skip(1).step_by(2).fold(0.0_f32, |a, &b| a.max(b));
        for ((tensor, gradient), expect) in found.iter().zip(sums.as_chunks::<2>().0) {
            let (dot, norm) = summary(tensor, gradient);
            // A dot product with random numbers is as exact as the norm; a key's bias has a gradient
            // of zero, which is rounding on both sides.
            let allowed = 1e-4 * f64::from(expect[1]) + 1e-6 * f64::from(largest);
            let what = format!("{name} {tensor}: {dot} {norm} instead of {expect:?}");
            assert!((norm - f64::from(expect[1])).abs() <= allowed, "{what}");
            assert!((dot - f64::from(expect[0])).abs() <= allowed, "{what}");
        }
    }
}

/// `summary` of the script: a dot product with hashed numbers, and the norm.
pub(crate) fn summary(name: &str, values: &[f32]) -> (f64, f64) {
    let signs = uniform(&format!("sign {name}"), values.len());
    let product = |a: &f32, b: &f32| f64::from(*a) * f64::from(*b);
    let dot = values.iter().zip(&signs).map(|(a, b)| product(a, b)).sum();
    (dot, values.iter().map(|a| product(a, a)).sum::<f64>().sqrt())
}

#[test]
fn hidden_states_equal_transformers() {
    let bytes = golden("families.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &case);
        let (description, parameters) = open(dir.path(), 2);
        let decoder = Decoder::new(&description, &parameters).unwrap();
        let (tokens_bt, _, _) = expected(&name);
        let tokens = tokens_bt.len() / 2;
        let tape = Tape::inference(parameters.device().clone());
        let batch = TokenBatch::new(&tokens_bt, tokens);
        let states = decoder.hidden_states(&tape, &parameters, &batch).unwrap();
        let view = file.tensor(&format!("{name}.states")).unwrap();
        let expect: Vec<f32> =
            view.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
        assert_eq!(states.len(), description.layers.len() + 1);
        assert_eq!(expect.len(), 2 * states.len());
        for (index, (state, expect)) in states.iter().zip(expect.as_chunks::<2>().0).enumerate() {
            let (dot, norm) = summary(&format!("state {index}"), &tape.read(state));
            let allowed = f64::from(expect[1]) * 1e-5;
            let what = format!("{name} {index}: {dot} {norm} instead of {expect:?}");
            assert!((dot - f64::from(expect[0])).abs() < allowed, "{what}");
            assert!((norm - f64::from(expect[1])).abs() < allowed, "{what}");
        }
        let last = tape.read(states.last().unwrap());
        let width = description.hidden_size;
        let own = &last[(tokens - 1) * width..tokens * width];
        let length = own.iter().map(|value| value * value).sum::<f32>().sqrt();
        let embedded = decoder.embed(&parameters, &tokens_bt[..tokens], Pooling::Last).unwrap();
        let expect: Vec<f32> = own.iter().map(|value| value / length).collect();
        assert_close(&format!("{name} embedding"), &embedded, &expect, TOLERANCE);
        let mean = decoder.embed(&parameters, &tokens_bt[..tokens], Pooling::Mean).unwrap();
        let norm: f32 = mean.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5 && mean != embedded);
    }
}

#[test]
fn frozen_parts_get_no_gradient_and_change_no_other() {
    for name in ["qwen2", "gemma3", "qwen3_moe"] {
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &cases()[name]);
        let (description, mut all) = open(dir.path(), 1);
        let (_, mut some) = open(dir.path(), 1);
        let frozen = ["model.embed_tokens.weight", "model.layers.0.*", "*.self_attn.*", "*norm*"];
        let count = set_trainable(&mut some, &frozen, false).unwrap();
        assert!(count > 0 && count < some.elements());
        check_error(set_trainable(&mut some, &["*.absent"], true), &["*.absent", "no parameter"]);
        let decoder = Decoder::new(&description, &all).unwrap();
        let (tokens_bt, _, _) = expected(name);
        let tokens = tokens_bt.len() / 2;
        let batch = TokenBatch::new(&tokens_bt, tokens);
        let rows = LossRows::mean(&tokens_bt);
        let loss = decoder.loss_and_gradients(&mut all, &batch, &rows).unwrap();
        assert_eq!(decoder.loss_and_gradients(&mut some, &batch, &rows).unwrap(), loss);
        let mut trained = 0;
        for parameter in &some {
            let id = some.id(parameter.name()).unwrap();
            match some.read_grad(id) {
                Some(gradient) => {
                    trained += gradient.len();
                    assert_eq!(Some(gradient), all.read_grad(id), "{name} {}", parameter.name());
                }
                None => assert!(!parameter.trainable(), "{name} {}", parameter.name()),
            }
        }
        assert_eq!(trained + count, some.elements(), "{name}");
    }
}

#[test]
fn a_cache_gives_what_the_whole_sequence_gives() {
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &case);
        let (description, parameters) = open(dir.path(), 1);
        let decoder = Decoder::new(&description, &parameters).unwrap();
        let (tokens_bt, expect, _) = expected(&name);
        let tokens = tokens_bt.len() / 2;
        let tape = Tape::inference(parameters.device().clone());
        let mut cache = decoder.new_cache(parameters.device(), 2, tokens);
        let mut done = 0;
        // Beyond the window, with parts of one token, of a few and of many.
        for part in [9, 1, 1, 4, 5] {
            let ids: Vec<u32> = tokens_bt
                .chunks_exact(tokens)
                .flat_map(|sequence| &sequence[done..done + part])
                .copied()
                .collect();
            let batch = TokenBatch::new(&ids, part);
            let x_btd = decoder.forward_cached(&tape, &parameters, &batch, &mut cache).unwrap();
            done += part;
            let rows = [part as u32 - 1, 2 * part as u32 - 1];
            let found = tape.read(&decoder.logits(&tape, &parameters, &x_btd, &rows).unwrap());
            let width = description.vocab_size;
            for (sequence, found) in found.chunks_exact(width).enumerate() {
                let row = (sequence * tokens + done - 1) * width;
                assert_close(
                    &format!("{name} {done}"),
                    found,
                    &expect[row..row + width],
                    TOLERANCE,
                );
            }
        }
        assert_eq!(done, tokens);
    }
}

#[test]
fn a_folder_survives_reading_and_writing() {
    for (name, case) in cases() {
        let (dir, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_case(dir.path(), &case);
        let (description, parameters) = open(dir.path(), 1);
        write_hf_model(back.path(), &description, &parameters, Some(2), Some(1)).unwrap();
        let (description_back, parameters_back) = open(back.path(), 1);
        assert_eq!(values(&parameters_back), values(&parameters), "{name}");
        let bytes = fs::read(back.path().join(WEIGHTS_FILE)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let shapes: BTreeMap<String, Vec<usize>> =
            file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
        assert_eq!(shapes, case.tensors, "{name}");
        // Decimal fractions may change in their last bit.
        let (a, b) = (format!("{description_back:.12?}"), format!("{description:.12?}"));
        assert_eq!(a, b, "{name}");
        assert_eq!(description.parameters() as usize, parameters.elements(), "{name}");
    }
}

#[test]
fn long_sequences_take_the_long_factors() {
    // Beyond the original context of 32 tokens all angles change, of the first positions too.
    let dir = tempfile::tempdir().unwrap();
    write_case(dir.path(), &cases()["phi3_long"]);
    let (description, parameters) = open(dir.path(), 1);
    let decoder = Decoder::new(&description, &parameters).unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 48).collect();
    let head =
        |length: usize| logits(&decoder, &parameters, &tokens[..length], length)[..480].to_vec();
    let (short, long) = (head(32), head(33));
    assert_eq!(head(20)[..480], short[..]);
    assert_eq!(head(40), long);
    assert_ne!(short, long);
}

#[test]
fn weights_that_do_not_belong_are_refused_by_name() {
    let cases = cases();
    let read = |case: &str, change: &dyn Fn(&mut Case)| {
        let dir = tempfile::tempdir().unwrap();
        let Case { config, tensors, loss } = &cases[case];
        let mut case = Case { config: config.clone(), tensors: tensors.clone(), loss: *loss };
        change(&mut case);
        write_case(dir.path(), &case);
        let description = read_hf_description(dir.path()).unwrap();
        read_hf_weights(dir.path(), &description, &device(1))
    };
    let key = "model.layers.0.self_attn.k_proj.bias";
    let without = |case: &mut Case| drop(case.tensors.remove(key));
    check_error(read("qwen2", &without), &["no tensor", key]);
    let with = |case: &mut Case| drop(case.tensors.insert(key.to_owned(), vec![12]));
    check_error(read("llama2", &with), &[key, "no such parameter"]);
    let expert = "model.layers.1.block_sparse_moe.experts.3.w2.weight";
    let other = |case: &mut Case| drop(case.tensors.insert(expert.to_owned(), vec![24, 41]));
    check_error(read("mixtral", &other), &[expert, "[24, 41] instead of [24, 40]"]);
    let more = |case: &mut Case| case.config["num_local_experts"] = 5.into();
    check_error(read("mixtral", &more), &["gate.weight", "[4, 24] instead of [5, 24]"]);
    let fused = "model.layers.0.self_attn.qkv_proj.weight";
    let narrow = |case: &mut Case| drop(case.tensors.insert(fused.to_owned(), vec![47, 24]));
    check_error(read("phi3", &narrow), &[fused, "[47, 24] instead of [48, 24]"]);
}

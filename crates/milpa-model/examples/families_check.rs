//! Holds real folders of every family, written by `reference/model_families.py make DIR`, against what
//! `transformers` computes from them, and saves them back for `reference/model_families.py check DIR`:
//!
//! `cargo run --release -p milpa-model --example families_check -- DIR`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::{error::Error, fs, path::Path};

use milpa_model::{
    Decoder, DecoderDescription, Device, IGNORE, LossRows, ParameterStore, TokenBatch,
    read_hf_description, read_hf_weights, write_hf_model,
};
use milpa_tensor::Tape;
use serde::Deserialize;

/// Largest deviation of logits relative to the largest of them.
const TOLERANCE: f32 = 1e-4;
/// Where the peer's best two logits are closer, rounding may choose.
const GAP: f32 = 1e-3;

/// What the peer computes from a folder.
#[derive(Deserialize)]
struct Expected {
    prompt: Vec<u32>,
    /// Continuation of the prompt by the most probable token.
    greedy: Vec<u32>,
    /// Difference of the best two logits after each token of prompt and continuation.
    gaps: Vec<f32>,
    logits: Vec<f32>,
    /// Two sequences of one training step.
    tokens: Vec<u32>,
    loss: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("give the folder that the script has written")?;
    let mut cases: Vec<_> =
        fs::read_dir(&dir)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    cases.sort();
    for case in &cases {
        let line = check(case).map_err(|error| format!("{}: {error}", case.display()))?;
        println!("{}: {line}", case.file_name().unwrap_or_default().display());
    }
    println!("{} models hold", cases.len());
    Ok(())
}

fn check(case: &Path) -> Result<String, Box<dyn Error>> {
    let expected: Expected = serde_json::from_slice(&fs::read(case.join("expected.json"))?)?;
    let device = Device::cpu(2);
    let description = read_hf_description(&case.join("model"))?;
    let mut parameters = read_hf_weights(&case.join("model"), &description, &device)?;
    let decoder = Decoder::new(&description, &parameters)?;
    let vocab = description.vocab_size;

    // Teacher forcing: prompt and the peer's continuation at once.
    let all: Vec<u32> = [&expected.prompt[..], &expected.greedy].concat();
    let logits = logits(&decoder, &parameters, &all)?;
    let largest = expected.logits.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let errors = logits.iter().zip(&expected.logits).map(|(a, b)| (a - b).abs() / largest);
    let worst = errors.fold(0.0, f32::max);
    if logits.len() != expected.logits.len() || worst.is_nan() || worst > TOLERANCE {
        return Err(format!("logits differ by {worst:.1e} of the largest").into());
    }
    let mut compared = 0;
    for (row, (ours, theirs)) in logits.chunks(vocab).zip(expected.logits.chunks(vocab)).enumerate()
    {
        if expected.gaps[row] > GAP {
            compared += 1;
            if greedy(ours) != greedy(theirs) {
                return Err(format!("another best token after token {row}").into());
            }
        }
    }

    let (cached, uncached) = (
        generate(&decoder, &parameters, &expected, true)?,
        generate(&decoder, &parameters, &expected, false)?,
    );
    if cached != uncached {
        return Err(format!("with the cache {cached:?}, without {uncached:?}").into());
    }
    let same = cached.iter().zip(&expected.greedy).take_while(|(a, b)| a == b).count();

    save(case, "saved", &description, &parameters)?;
    let loss = step(&decoder, &mut parameters, &expected.tokens)?;
    if (loss - expected.loss).abs() > 1e-5 * expected.loss {
        return Err(format!("loss {loss} instead of {}", expected.loss).into());
    }
    let gradients = gradients(&description, &parameters, &device)?;
    save(case, "saved_gradients", &description, &gradients)?;
    Ok(format!(
        "logits within {worst:.1e}; best token equal at {compared} of {} places; {} tokens with the \
         cache as without, the first {same} as the peer's; loss {loss:.5}",
        all.len(),
        cached.len()
    ))
}

fn logits(
    decoder: &Decoder,
    parameters: &ParameterStore,
    tokens: &[u32],
) -> Result<Vec<f32>, Box<dyn Error>> {
    let tape = Tape::inference(parameters.device().clone());
    let batch = TokenBatch::new(tokens, tokens.len());
    let x_btd = decoder.forward_hidden(&tape, parameters, &batch)?;
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    Ok(tape.read(&decoder.logits(&tape, parameters, &x_btd, &rows)?))
}

/// Continues the prompt by as many tokens as the peer has, with a cache or from the start each time.
fn generate(
    decoder: &Decoder,
    parameters: &ParameterStore,
    expected: &Expected,
    with_cache: bool,
) -> Result<Vec<u32>, Box<dyn Error>> {
    let tape = Tape::inference(parameters.device().clone());
    let mut all = expected.prompt.clone();
    let mut cache = decoder.new_cache(parameters.device(), 1, all.len() + expected.greedy.len());
    let mut fed = 0;
    for _ in &expected.greedy {
        let token = if with_cache {
            let part = &all[fed..];
            let batch = TokenBatch::new(part, part.len());
            let x_btd = decoder.forward_cached(&tape, parameters, &batch, &mut cache)?;
            let last = [part.len() as u32 - 1];
            fed = all.len();
            greedy(&tape.read(&decoder.logits(&tape, parameters, &x_btd, &last)?))
        } else {
            let logits = logits(decoder, parameters, &all)?;
            greedy(&logits[logits.len() - decoder.description().vocab_size..])
        };
        all.push(token);
    }
    Ok(all.split_off(expected.prompt.len()))
}

fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// One training step up to its gradients, on two sequences.
fn step(
    decoder: &Decoder,
    parameters: &mut ParameterStore,
    tokens_bt: &[u32],
) -> Result<f64, Box<dyn Error>> {
    let tokens = tokens_bt.len() / 2;
    let next =
        |row: usize| if (row + 1).is_multiple_of(tokens) { IGNORE } else { tokens_bt[row + 1] };
    let targets: Vec<u32> = (0..tokens_bt.len()).map(next).collect();
    let batch = TokenBatch::new(tokens_bt, tokens);
    Ok(decoder.loss_and_gradients(parameters, &batch, &LossRows::mean(&targets))?.loss)
}

/// The gradients as a store, so that they are saved under the names of files.
fn gradients(
    description: &DecoderDescription,
    parameters: &ParameterStore,
    device: &Device,
) -> Result<ParameterStore, Box<dyn Error>> {
    let gemma = description.family.model_type().starts_with("gemma");
    let mut store = ParameterStore::new(device.clone());
    for parameter in parameters {
        let (name, shape) = (parameter.name(), parameter.shape());
        let gradient = parameters.id(name).and_then(|id| parameters.read_grad(id));
        let mut gradient = gradient.ok_or_else(|| format!("{name} has no gradient"))?;
        if gemma && shape.lengths().len() == 1 {
            // Files of the family hold norms less one.
            for value in &mut gradient {
                *value += 1.0;
            }
        }
        store.add(name, shape.lengths(), &gradient, true)?;
    }
    Ok(store)
}

fn save(
    case: &Path,
    name: &str,
    description: &DecoderDescription,
    parameters: &ParameterStore,
) -> Result<(), Box<dyn Error>> {
    let dir = case.join(name);
    fs::create_dir_all(&dir)?;
    Ok(write_hf_model(&dir, description, parameters, Some(2), Some(1))?)
}

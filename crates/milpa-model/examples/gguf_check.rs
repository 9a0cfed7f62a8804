//! Writes trained models of both architectures in every GGUF format, and reads GGUF files, for
//! `reference/gguf_check.py`:
//!
//! `cargo run --release -p milpa-model --example gguf_check -- write DIR` makes `DIR/qwen3` and
//! `DIR/llama`, each with `milpa-FORMAT.gguf` and `expected.json` (token ids; logits of the weights);
//! `… -- read DIR` puts beside every GGUF file there its tensors' values and its model's logits.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

mod exported;

use std::{error::Error, fs, path::Path, sync::Arc};

use exported::{TEXTS, logits, tokenizer};
use milpa_base::Seed;
use milpa_model::{
    CpuDevice, Decoder, Device, GgufDescription, GgufFile, GgufFormat, LossRows, ModelConfig,
    ParameterStore, TokenBatch, new_parameters, read_gguf, write_gguf,
};
use milpa_tensor::{AdamW, clip_factor};
use milpa_tokens::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};

/// Steps after which the texts are nearly known by heart, so that logits are far apart.
const STEPS: u64 = 60;
const ARCHITECTURES: [(&str, bool); 2] = [("qwen3", true), ("llama", false)];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [action, dir] = &arguments[..] else {
        return Err("give write or read, and a folder".into());
    };
    for (architecture, qk_norm) in ARCHITECTURES {
        let dir = Path::new(dir).join(architecture);
        match action.as_str() {
            "write" => write(&dir, qk_norm)?,
            "read" => read(&dir)?,
            other => return Err(format!("{other} is neither write nor read").into()),
        }
        println!("{action}: {}", dir.display());
    }
    Ok(())
}

fn write(dir: &Path, qk_norm: bool) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2));
    let tokenizer = tokenizer()?;
    let config = ModelConfig {
        hidden_size: 256,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        ffn_size: 512,
        // Rounded up, so that some embeddings have no token.
        vocab_size: tokenizer.vocab_size().next_multiple_of(64),
        context_length: 256,
        qk_norm,
        tie_embeddings: qk_norm,
        ..ModelConfig::default()
    };
    let tokens = sequence(&tokenizer, &config);
    let parameters = train(&config, &tokens, &device)?;
    for format in GgufFormat::ALL {
        let description = GgufDescription {
            name: format!("check-{format}"),
            chat_template: Some(ChatTemplate::chatml().source().to_owned()),
            ..GgufDescription::default()
        };
        let path = dir.join(format!("milpa-{format}.gguf"));
        write_gguf(&path, format, &config, &parameters, &tokenizer, &description)?;
    }
    let texts: Vec<Value> = TEXTS
        .iter()
        .map(|text| {
            let (plain, special) = (tokenizer.encode(text), tokenizer.encode_with_special(text));
            json!({ "text": text, "plain": plain, "special": special })
        })
        .collect();
    let logits = logits(&config, &parameters, &tokens)?;
    let expected = json!({ "tokens": tokens, "logits": logits, "texts": texts });
    Ok(fs::write(dir.join("expected.json"), expected.to_string())?)
}

/// The texts one after the other, as much as the context holds.
fn sequence(tokenizer: &Tokenizer, config: &ModelConfig) -> Vec<u32> {
    let texts = TEXTS.iter().flat_map(|text| tokenizer.encode(text));
    texts.take(config.context_length).collect()
}

fn train(
    config: &ModelConfig,
    tokens: &[u32],
    device: &Arc<dyn Device>,
) -> Result<ParameterStore, Box<dyn Error>> {
    let mut store = new_parameters(config, Seed(11), device)?;
    let decoder = Decoder::new(config, &store)?;
    let zeros = |length: usize| device.upload(&vec![0.0; length]);
    let mut moments: Vec<_> =
        store.iter().map(|p| [0, 1].map(|_| zeros(p.shape().elements()))).collect();
    let batch = TokenBatch::new(&tokens[..tokens.len() - 1], tokens.len() - 1);
    let rows = LossRows::mean(&tokens[1..]);
    let mut loss = f64::NAN;
    for step in 1..=STEPS {
        loss = decoder.loss_and_gradients(&mut store, &batch, &rows)?.loss;
        let factor = clip_factor(store.grad_norm(), 1.0);
        for (parameter, [first, second]) in store.iter_mut().zip(&mut moments) {
            let settings = AdamW {
                learning_rate: 3e-3,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.0,
                step,
            };
            if let Some((weights, gradient)) = parameter.step()? {
                device.adamw_step(&settings, factor, weights, gradient, first, second);
            }
        }
        store.clear_grads();
    }
    println!("loss after {STEPS} steps: {loss:.3}");
    Ok(store)
}

/// Writes `FILE.values` (tensors in the order of their names) and `FILE.logits`, both as f32.
fn read(dir: &Path) -> Result<(), Box<dyn Error>> {
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2));
    let expected: Value = serde_json::from_slice(&fs::read(dir.join("expected.json"))?)?;
    let tokens: Vec<u32> = serde_json::from_value(expected["tokens"].clone())?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        let file = GgufFile::open(&path)?;
        let values = file.tensors().values().flat_map(|tensor| file.values(tensor));
        fs::write(path.with_added_extension("values"), bytes(values))?;
        let (config, parameters, _) = read_gguf(&file, &device)?;
        let logits = logits(&config, &parameters, &tokens)?;
        fs::write(path.with_added_extension("logits"), bytes(logits.into_iter().flatten()))?;
    }
    Ok(())
}

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

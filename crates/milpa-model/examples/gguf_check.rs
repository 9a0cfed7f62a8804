//! Writes trained models as GGUF, and reads GGUF files, for `reference/gguf_check.py`:
//!
//! `cargo run --release -p milpa-model --example gguf_check -- write DIR` makes a folder for each model,
//! with `milpa-FORMAT.gguf` and `expected.json` (token ids; logits of the weights): `DIR/formats` holds
//! what Milpa trains in every format, `DIR/families` the other families that llama.cpp knows in some
//! (Mistral with pieces of SentencePiece);
//! `… -- read DIR` puts beside every GGUF file there its tensors' values and its model's logits.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

mod exported;

use std::{collections::BTreeMap, error::Error, fs, path::Path};

use exported::{TEXTS, logits, roughen_vectors, tokenizer};
use milpa_base::Seed;
use milpa_model::{
    Decoder, DecoderDescription, Device, GgufDescription, GgufFile, GgufFormat, LossRows,
    ModelConfig, ParameterStore, TokenBatch, new_parameters, read_gguf, write_gguf,
};
use milpa_tensor::{AdamW, clip_factor};
use milpa_tokens::{ChatTemplate, PieceKind, PieceParts, Tokenizer};
use serde_json::{Value, json};

/// Steps after which the texts are nearly known by heart, so that logits are far apart.
const STEPS: u64 = 60;
const CONTEXT: usize = 256;
/// Formats of the families.
const SOME: [GgufFormat; 3] = [GgufFormat::F32, GgufFormat::Q8_0, GgufFormat::Q4KM];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [action, dir] = &arguments[..] else {
        return Err("give write or read, and a folder".into());
    };
    let dir = Path::new(dir);
    match action.as_str() {
        "write" => {
            let tokenizer = tokenizer()?;
            for (name, qk_norm) in [("qwen3", true), ("llama", false)] {
                let model = trained_here(&tokenizer, qk_norm);
                write(&dir.join("formats").join(name), &model, &GgufFormat::ALL, &tokenizer)?;
            }
            let pieces = piece_tokenizer()?;
            for (name, fields) in families() {
                let tokenizer = if name == "mistral" { &pieces } else { &tokenizer };
                let model = family(tokenizer, &fields)?;
                write(&dir.join("families").join(name), &model, &SOME, tokenizer)?;
            }
        }
        "read" => {
            for kind in ["formats", "families"] {
                for folder in fs::read_dir(dir.join(kind))? {
                    read(&folder?.path())?;
                }
            }
        }
        other => return Err(format!("{other} is neither write nor read").into()),
    }
    Ok(())
}

/// A shape that a recipe can say.
fn trained_here(tokenizer: &Tokenizer, qk_norm: bool) -> DecoderDescription {
    let config = ModelConfig {
        hidden_size: 256,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        ffn_size: 512,
        vocab_size: vocab_size(tokenizer),
        context_length: CONTEXT,
        qk_norm,
        tie_embeddings: qk_norm,
        ..ModelConfig::default()
    };
    DecoderDescription::from(&config)
}

/// Rounded up, so that some embeddings have no token.
fn vocab_size(tokenizer: &Tokenizer) -> usize {
    tokenizer.vocab_size().next_multiple_of(64)
}

/// What each family's `config.json` has besides sizes.
fn families() -> Vec<(&'static str, Value)> {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let factors = |step: f64| (0..32).map(|i| 1.0 + step * f64::from(i)).collect::<Vec<_>>();
    let long = json!({"rope_type": "longrope", "short_factor": factors(0.01),
        "long_factor": factors(0.2)});
    vec![
        (
            "llama3",
            json!({"model_type": "llama", "rope_scaling": llama3,
            "tie_word_embeddings": true}),
        ),
        (
            "llama_biases",
            json!({"model_type": "llama", "attention_bias": true, "mlp_bias": true,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ),
        ("mistral", json!({"model_type": "mistral", "sliding_window": null, "head_dim": 32})),
        ("qwen2", json!({"model_type": "qwen2"})),
        ("qwen3_yarn", json!({"model_type": "qwen3", "rope_scaling": yarn, "head_dim": 64})),
        (
            "gemma2",
            json!({"model_type": "gemma2", "head_dim": 64, "query_pre_attn_scalar": 64,
            "sliding_window": 24, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 20.0}),
        ),
        (
            "gemma3",
            json!({"model_type": "gemma3_text", "head_dim": 64, "query_pre_attn_scalar": 64,
            "sliding_window": 24, "num_hidden_layers": 7,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ),
        ("phi3", json!({"model_type": "phi3", "partial_rotary_factor": 0.75})),
        (
            "phi3_long",
            json!({"model_type": "phi3", "original_max_position_embeddings": 64,
            "rope_scaling": long}),
        ),
        ("olmo2", json!({"model_type": "olmo2"})),
        ("smollm3", json!({"model_type": "smollm3"})),
        ("mixtral", json!({"model_type": "mixtral", "num_local_experts": 4})),
        (
            "qwen3_moe",
            json!({"model_type": "qwen3_moe", "head_dim": 64, "num_experts": 8,
            "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": true}),
        ),
    ]
}

/// SentencePiece BPE of what occurs at least twice in the texts, frequent pieces first.
fn piece_tokenizer() -> Result<Tokenizer, Box<dyn Error>> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for word in TEXTS.iter().flat_map(|text| text.split_whitespace()) {
        let characters: Vec<char> = format!("▁{word}").chars().collect();
        for length in 1..=6 {
            for part in characters.windows(length) {
                *counts.entry(part.iter().collect()).or_default() += 1;
            }
        }
    }
    counts.retain(|part, count| *count > 1 && !part.contains('🌽'));
    let mut normal: Vec<(String, usize)> = counts.into_iter().collect();
    normal.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let control = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];
    let control = control.map(|text| (text.to_owned(), 0.0, PieceKind::Control));
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, PieceKind::Byte));
    // Pieces of the same frequency have the same score.
    let normal = normal.into_iter().map(|(text, count)| (text, count as f32, PieceKind::Normal));
    let unknown = ("<unk>".to_owned(), 0.0, PieceKind::Unknown);
    let pieces = std::iter::once(unknown).chain(control).chain(bytes).chain(normal).collect();
    let parts = PieceParts { pieces, space_before: true, eos: Some(2), bos: Some(1) };
    Ok(Tokenizer::from_pieces(&parts)?)
}

fn family(tokenizer: &Tokenizer, fields: &Value) -> Result<DecoderDescription, Box<dyn Error>> {
    let mut config = json!({
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "vocab_size": vocab_size(tokenizer),
        "max_position_embeddings": CONTEXT,
    });
    for (key, value) in fields.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    Ok(DecoderDescription::from_hf_json(config.to_string().as_bytes(), Path::new("config.json"))?)
}

fn write(
    dir: &Path,
    model: &DecoderDescription,
    formats: &[GgufFormat],
    tokenizer: &Tokenizer,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    let device = Device::cpu(2);
    let tokens = sequence(tokenizer);
    let (parameters, loss) = train(model, &tokens, &device)?;
    for &format in formats {
        let about = GgufDescription {
            name: format!("check-{format}"),
            chat_template: Some(ChatTemplate::chatml().source().to_owned()),
            ..GgufDescription::default()
        };
        let path = dir.join(format!("milpa-{format}.gguf"));
        write_gguf(&path, format, model, &parameters, tokenizer, &about)?;
    }
    let texts: Vec<Value> = TEXTS
        .iter()
        .map(|text| {
            let (plain, special) = (tokenizer.encode(text), tokenizer.encode_with_special(text));
            json!({ "text": text, "plain": plain, "special": special })
        })
        .collect();
    let logits = logits(model, &parameters, &tokens)?;
    let expected = json!({ "tokens": tokens, "logits": logits, "texts": texts });
    fs::write(dir.join("expected.json"), expected.to_string())?;
    println!("{}: loss {loss:.3} after {STEPS} steps", dir.display());
    Ok(())
}

/// The texts one after the other, as much as the context holds.
fn sequence(tokenizer: &Tokenizer) -> Vec<u32> {
    let texts = TEXTS.iter().flat_map(|text| tokenizer.encode(text));
    texts.take(CONTEXT).collect()
}

fn train(
    model: &DecoderDescription,
    tokens: &[u32],
    device: &Device,
) -> Result<(ParameterStore, f64), Box<dyn Error>> {
    let mut store = new_parameters(model, Seed(11), device)?;
    roughen_vectors(&mut store)?;
    let decoder = Decoder::new(model, &store)?;
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
    Ok((store, loss))
}

/// Writes `FILE.values` (tensors in the order of their names) and `FILE.logits`, both as f32.
fn read(dir: &Path) -> Result<(), Box<dyn Error>> {
    let device = Device::cpu(2);
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
        let (model, parameters, _) = read_gguf(&file, &device)?;
        let logits = logits(&model, &parameters, &tokens)?;
        fs::write(path.with_added_extension("logits"), bytes(logits.into_iter().flatten()))?;
    }
    Ok(())
}

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

//! Behaviour of the decoder, its files and the local model.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod adapters;
mod curve;
mod extension;
mod families;
mod files;
mod gguf;
mod gguf_families;
mod golden;
mod heads;
mod lora;
mod merge;
mod text;

use std::path::Path;

use milpa_base::{Seed, Silent, StopFlag, TextRecord};
use milpa_model::{Device, LocalModel, ModelConfig, ParameterStore, new_parameters};
use milpa_tokens::{Context, Tokenizer, TokenizerConfig, train_tokenizer};

fn device(threads: usize) -> Device {
    Device::cpu(threads)
}

/// A tokenizer of 300 tokens.
fn tokenizer() -> Tokenizer {
    let texts = ["La milpa da maíz, frijol y calabaza.", "El maíz crece en la milpa, ñandú y más."];
    let mut records = (0..40).map(|i| {
        let text = texts[i % 2].repeat(1 + i % 3);
        Ok(TextRecord { id: i.to_string(), source: "es".to_owned(), text })
    });
    let config = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
    let context = Context { threads: 1, progress: &Silent, stop: &StopFlag::default() };
    train_tokenizer(&config, &mut records, &context).unwrap().tokenizer
}

/// A small shape of either architecture whose head width is not `hidden_size / heads`.
fn config(qk_norm: bool) -> ModelConfig {
    ModelConfig {
        hidden_size: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: qk_norm.then_some(24),
        ffn_size: 96,
        vocab_size: 310,
        context_length: 48,
        qk_norm,
        tie_embeddings: qk_norm,
        // Large weights make predictions that differ from token to token.
        init_std: 0.2,
        ..ModelConfig::default()
    }
}

fn parameters(config: &ModelConfig, device: &Device) -> ParameterStore {
    new_parameters(config, Seed(5), device).unwrap()
}

fn model(threads: usize) -> LocalModel {
    let (config, device) = (config(true), device(threads));
    let parameters = parameters(&config, &device);
    LocalModel::from_parts("toy", None, &config, parameters, tokenizer()).unwrap()
}

/// All values of a store, in order.
fn values(parameters: &ParameterStore) -> Vec<(String, Vec<f32>)> {
    let value = |name: &str| parameters.read(parameters.id(name).unwrap());
    parameters.iter().map(|p| (p.name().to_owned(), value(p.name()))).collect()
}

/// Asserts that an error says all of `expect`.
#[track_caller]
fn check_error<T>(result: Result<T, impl std::error::Error>, expect: &[&str]) {
    let error = result.err().expect("an error").to_string();
    for part in expect {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn golden(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read(dir.join(name)).unwrap()
}

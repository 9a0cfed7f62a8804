//! Generated samples for people to read beside the numbers.
//!
//! Sample i draws with the i-th seed derived from the configured one, so adding a prompt changes
//! no other sample.

use milpa_base::{FinishReason, GenerateRequest, Sampling, Seed, TextModel};
use serde::{Deserialize, Serialize};

use crate::{config::SampleConfig, error::EvalError, run::Watch};

/// A continued prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// What was given.
    pub prompt: String,
    /// What the model wrote.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// New tokens.
    pub tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Seed of this sample's draw.
    pub seed: u64,
}

/// Continues each prompt of `config`.
pub fn generate_samples(
    model: &dyn TextModel,
    config: &SampleConfig,
    watch: Watch<'_>,
) -> Result<Vec<Sample>, EvalError> {
    watch.progress.begin("samples", Some(config.prompts.len() as u64), "samples");
    let mut samples = Vec::with_capacity(config.prompts.len());
    for (index, prompt) in config.prompts.iter().enumerate() {
        let seed = Seed(config.seed).nth(index as u64).0;
        let request = GenerateRequest {
            prompt: prompt.clone(),
            parse_special: false,
            truncate_prompt: false,
            max_tokens: config.max_tokens,
            sampling: Sampling { temperature: config.temperature, seed, ..Sampling::default() },
            stop: Vec::new(),
            logprobs: None,
        };
        let generation = watch
            .generate(model, &request)?
            .map_err(|source| EvalError::Model { doing: format!("sample {index}"), source })?;
        samples.push(Sample {
            prompt: prompt.clone(),
            text: generation.text,
            finish_reason: generation.finish_reason,
            tokens: generation.completion_tokens,
            temperature: config.temperature,
            seed,
        });
        watch.progress.advance(samples.len() as u64);
    }
    watch.progress.end();
    Ok(samples)
}

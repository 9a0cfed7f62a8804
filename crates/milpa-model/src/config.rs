//! The shape of a decoder as a recipe says it: what Milpa trains from the start.
//!
//! It is one way to make a [`DecoderDescription`], which is what the decoder computes. A model with
//! QK-norm is a `Qwen3ForCausalLM` on disk, one without a `LlamaForCausalLM`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    description::{DecoderDescription, MAX_LAYERS, MAX_SIZE},
    error::DecoderError,
};

/// The shape of a decoder (`[model]` in a recipe).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even and at most 256; `hidden_size / heads` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Width of the feed-forward layer.
    pub ffn_size: usize,
    /// Number of token ids; 0 means the tokenizer's.
    pub vocab_size: usize,
    /// Longest sequence in tokens.
    pub context_length: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in norms.
    pub norm_epsilon: f64,
    /// Whether queries and keys are normalised per head (Qwen3) or not (Llama).
    pub qk_norm: bool,
    /// Whether the output layer is the embedding.
    pub tie_embeddings: bool,
    /// Standard deviation of new weights.
    pub init_std: f64,
}

impl Default for ModelConfig {
    /// Ten million parameters besides the embedding.
    fn default() -> Self {
        Self {
            hidden_size: 384,
            layers: 6,
            heads: 8,
            kv_heads: 4,
            head_dim: None,
            ffn_size: 1024,
            vocab_size: 0,
            context_length: 1024,
            rope_theta: 10_000.0,
            norm_epsilon: 1e-6,
            qk_norm: true,
            tie_embeddings: true,
            init_std: 0.02,
        }
    }
}

impl ModelConfig {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.heads.max(1))
    }

    /// The same shape for a tokenizer of `vocab_size` ids.
    ///
    /// # Errors
    /// If the configuration names another size.
    pub fn with_vocab_size(&self, vocab_size: usize) -> Result<Self, DecoderError> {
        if self.vocab_size != 0 && self.vocab_size != vocab_size {
            let message = format!(
                "is {}, but the tokenizer has {vocab_size} tokens; leave the key out",
                self.vocab_size
            );
            return Err(DecoderError::Config { key: "vocab_size".to_owned(), message });
        }
        Ok(Self { vocab_size, ..self.clone() })
    }

    /// Checks the values; an error names the key and says what is wrong. `vocab_size` may be 0.
    pub fn validate(&self) -> Result<(), (String, String)> {
        let fail = |key: &str, message: String| Err((key.to_owned(), message));
        for (key, value, limit) in [
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("layers", self.layers, MAX_LAYERS),
            ("heads", self.heads, MAX_SIZE),
            ("kv_heads", self.kv_heads, MAX_SIZE),
            ("ffn_size", self.ffn_size, MAX_SIZE),
            ("context_length", self.context_length, MAX_SIZE),
        ] {
            if value == 0 || value > limit {
                return fail(key, format!("is {value}; it must lie between 1 and {limit}"));
            }
        }
        if self.vocab_size > MAX_SIZE {
            return fail("vocab_size", format!("is {}; at most {MAX_SIZE}", self.vocab_size));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.heads) {
            let message = format!(
                "is {}, which does not divide hidden_size = {}; change one, or give head_dim",
                self.heads, self.hidden_size
            );
            return fail("heads", message);
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let message =
                format!("is {}, which does not divide heads = {}", self.kv_heads, self.heads);
            return fail("kv_heads", message);
        }
        let head_dim = self.head_dim();
        if self.heads.saturating_mul(head_dim) > MAX_SIZE {
            return fail(
                "heads",
                format!("is {}; heads × head_dim is at most {MAX_SIZE}", self.heads),
            );
        }
        if head_dim == 0 || head_dim > 256 || !head_dim.is_multiple_of(2) {
            return fail("head_dim", format!("is {head_dim}; it must be even and at most 256"));
        }
        for (key, value, most) in [
            ("rope_theta", self.rope_theta, 1e12),
            ("norm_epsilon", self.norm_epsilon, 0.1),
            ("init_std", self.init_std, 1.0),
        ] {
            if !(value > 0.0 && value <= most) {
                return fail(key, format!("is {value}; it must be above 0 and at most {most}"));
            }
        }
        Ok(())
    }

    /// Number of parameters in all; a tied embedding counts once.
    pub fn parameters(&self) -> u64 {
        let embedding = (self.vocab_size * self.hidden_size) as u64;
        self.non_embedding_parameters() + if self.tie_embeddings { 1 } else { 2 } * embedding
    }

    /// Number of parameters without embedding and output layer.
    pub fn non_embedding_parameters(&self) -> u64 {
        let (d, k) = (self.hidden_size, self.head_dim());
        let attention = 2 * d * self.heads * k + 2 * d * self.kv_heads * k;
        let norms = 2 * d + if self.qk_norm { 2 * k } else { 0 };
        (self.layers * (attention + 3 * d * self.ffn_size + norms) + d) as u64
    }

    /// Writes `config.json` for `transformers`.
    pub fn to_hf_json(&self, eos: Option<u32>, bos: Option<u32>) -> String {
        DecoderDescription::from(self).to_hf_json(eos, bos)
    }

    /// Reads a `config.json` of a shape that a recipe can say; `path` is named in errors.
    pub fn from_hf_json(bytes: &[u8], path: &Path) -> Result<Self, DecoderError> {
        let description = DecoderDescription::from_hf_json(bytes, path)?;
        description.to_model_config().ok_or_else(|| DecoderError::Unsupported {
            path: path.to_owned(),
            field: "model_type".to_owned(),
            value: format!("{:?}", description.family.model_type()),
            message: "such a model can be scored, served and fine-tuned, but this needs a plain \
                      Llama or Qwen3 as a recipe's [model] describes it"
                .to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut ModelConfig), expect: &str) {
        let mut config = ModelConfig::default();
        change(&mut config);
        let message = match config.validate() {
            Ok(()) => "ok".to_owned(),
            Err((key, message)) => format!("{key}: {message}"),
        };
        assert!(message.contains(expect), "{message:?} lacks {expect:?}");
    }

    #[test]
    fn impossible_sizes_name_their_key() {
        check(|_| (), "ok");
        check(|c| c.head_dim = Some(48), "ok");
        check(|c| c.heads = 7, "heads: is 7, which does not divide hidden_size = 384");
        check(|c| c.kv_heads = 3, "kv_heads: is 3, which does not divide heads = 8");
        check(|c| c.head_dim = Some(47), "head_dim: is 47");
        check(|c| c.layers = 0, "layers: is 0");
        check(|c| c.rope_theta = f64::NAN, "rope_theta: is NaN");
        check(|c| c.hidden_size = usize::MAX, "hidden_size: ");
    }

    #[test]
    fn counts_match_the_reference_shape() {
        let config = ModelConfig { vocab_size: 8192, qk_norm: false, ..ModelConfig::default() };
        assert_eq!(config.non_embedding_parameters(), 9_737_088);
        assert_eq!(config.parameters(), config.non_embedding_parameters() + 8192 * 384);
    }

    #[test]
    fn both_architectures_survive_their_config_json() {
        for qk_norm in [true, false] {
            let config = ModelConfig {
                vocab_size: 300,
                qk_norm,
                tie_embeddings: !qk_norm,
                head_dim: qk_norm.then_some(32),
                ..ModelConfig::default()
            };
            let text = config.to_hf_json(Some(0), None);
            let back = ModelConfig::from_hf_json(text.as_bytes(), Path::new("config.json"));
            assert_eq!(back.unwrap(), config);
        }
    }

    #[test]
    fn shapes_that_no_recipe_can_say_are_refused() {
        let config = ModelConfig { vocab_size: 300, qk_norm: false, ..ModelConfig::default() };
        let text = config.to_hf_json(None, None);
        for (from, to) in [
            ("\"attention_bias\": false", "\"attention_bias\": true"),
            ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu_pytorch_tanh\""),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            let error = ModelConfig::from_hf_json(changed.as_bytes(), Path::new("c.json"));
            assert!(error.unwrap_err().to_string().contains("model_type"));
        }
        assert!(ModelConfig::from_hf_json(b"[1]", Path::new("c.json")).is_err());
    }
}

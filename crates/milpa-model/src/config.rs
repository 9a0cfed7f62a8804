//! The shape of a decoder: what a recipe says, and its `config.json` in Hugging Face folders.
//!
//! A model with QK-norm is a `Qwen3ForCausalLM`, one without a `LlamaForCausalLM`; other
//! architectures are read only where they compute exactly one of these two.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::DecoderError;

/// Largest value of any size in a configuration; keeps products within 64 bits.
const MAX_SIZE: usize = 1 << 24;
/// Most layers.
const MAX_LAYERS: usize = 4096;

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

    /// [`Self::validate`], and the vocabulary is known.
    pub(crate) fn check(&self) -> Result<(), DecoderError> {
        self.validate().map_err(|(key, message)| DecoderError::Config { key, message })?;
        if self.vocab_size == 0 {
            let message = "is not known yet; train or name a tokenizer first".to_owned();
            return Err(DecoderError::Config { key: "vocab_size".to_owned(), message });
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

    /// FLOPs of forward and backward per token: 6·(N − input embedding) plus attention over
    /// `sequence` tokens, causal attention at half (12·L·h·k·s / 2).
    pub fn training_flops_per_token(&self, sequence: usize) -> f64 {
        let matrices =
            self.non_embedding_parameters() as f64 + (self.vocab_size * self.hidden_size) as f64;
        let attention = (self.layers * self.heads * self.head_dim() * sequence) as f64;
        6.0 * matrices + 6.0 * attention
    }

    /// Writes `config.json` for `transformers`.
    pub fn to_hf_json(&self, eos: Option<u32>, bos: Option<u32>) -> String {
        let (architecture, model_type) = if self.qk_norm {
            ("Qwen3ForCausalLM", "qwen3")
        } else {
            ("LlamaForCausalLM", "llama")
        };
        let mut config = json!({
            "architectures": [architecture],
            "model_type": model_type,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim(),
            "intermediate_size": self.ffn_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_length,
            "rope_theta": self.rope_theta,
            "rope_parameters": { "rope_type": "default", "rope_theta": self.rope_theta },
            "rms_norm_eps": self.norm_epsilon,
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.tie_embeddings,
            "initializer_range": self.init_std,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "use_cache": true,
            "torch_dtype": "float32",
        });
        let extra = if self.qk_norm {
            json!({ "use_sliding_window": false, "sliding_window": null })
        } else {
            json!({ "mlp_bias": false })
        };
        if let (Value::Object(config), Value::Object(extra)) = (&mut config, extra) {
            config.extend(extra);
        }
        format!("{config:#}\n")
    }

    /// Reads a `config.json`; `path` is named in errors.
    pub fn from_hf_json(bytes: &[u8], path: &Path) -> Result<Self, DecoderError> {
        let malformed = |message: String| DecoderError::Format {
            path: path.to_owned(),
            format: "a config.json",
            message,
        };
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(malformed("it is not a JSON object".to_owned()));
        };
        let reader = HfConfig { fields: &fields, path };
        let config = reader.read()?;
        config.check()?;
        Ok(config)
    }
}

/// Reads fields of a `config.json`.
struct HfConfig<'a> {
    fields: &'a Map<String, Value>,
    path: &'a Path,
}

impl HfConfig<'_> {
    fn read(&self) -> Result<ModelConfig, DecoderError> {
        let model_type = self.field("model_type").and_then(Value::as_str).unwrap_or_default();
        let qk_norm = match model_type {
            "qwen3" => true,
            "llama" | "mistral" | "qwen2" => false,
            _ => {
                let message = "this decoder reads qwen3, llama, and mistral or qwen2 where they \
                               equal llama";
                return Err(self.unsupported("model_type", message));
            }
        };
        // Qwen2 puts biases on q, k and v without saying so in its configuration; whether they are
        // there is seen in the weights, which must have exactly the expected names.
        self.must_be("hidden_act", &json!("silu"), "only silu")?;
        self.must_be("attention_bias", &json!(false), "only layers without bias")?;
        self.must_be("mlp_bias", &json!(false), "only layers without bias")?;
        self.must_be("use_sliding_window", &json!(false), "only full attention")?;
        if model_type == "mistral" && self.field("sliding_window").is_some() {
            return Err(self.unsupported("sliding_window", "only full attention"));
        }
        if let Some(types) = self.field("layer_types").and_then(Value::as_array)
            && types.iter().any(|kind| kind != "full_attention")
        {
            return Err(self.unsupported("layer_types", "only full_attention"));
        }
        if self.field("quantization_config").is_some() {
            return Err(self.unsupported("quantization_config", "only f32, bf16 and f16 weights"));
        }
        self.must_be("pretraining_tp", &json!(1), "only 1")?;
        let heads = self.size("num_attention_heads")?;
        let hidden_size = self.size("hidden_size")?;
        Ok(ModelConfig {
            hidden_size,
            layers: self.size("num_hidden_layers")?,
            heads,
            kv_heads: self.optional_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim: match self.optional_size("head_dim")? {
                // Qwen3's own default is 128, whatever the hidden size is.
                None if qk_norm => Some(128),
                Some(width) if heads > 0 && width * heads == hidden_size => None,
                width => width,
            },
            ffn_size: self.size("intermediate_size")?,
            vocab_size: self.size("vocab_size")?,
            context_length: self.size("max_position_embeddings")?,
            rope_theta: self.rope_theta()?,
            norm_epsilon: self.number("rms_norm_eps")?.unwrap_or(1e-6),
            qk_norm,
            tie_embeddings: self.field("tie_word_embeddings").map_or(Ok(false), |value| {
                let message = "true or false is expected";
                value.as_bool().ok_or_else(|| self.unsupported("tie_word_embeddings", message))
            })?,
            init_std: self.number("initializer_range")?.unwrap_or(0.02),
        })
    }

    /// The base frequency; scaled kinds of RoPE are refused.
    fn rope_theta(&self) -> Result<f64, DecoderError> {
        let mut theta = self.number("rope_theta")?;
        for name in ["rope_scaling", "rope_parameters"] {
            let Some(rope) = self.field(name) else { continue };
            let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str);
            let plain = kind.is_none_or(|kind| kind == "default");
            if !plain || rope.get("partial_rotary_factor").is_some_and(|f| f.as_f64() != Some(1.0))
            {
                return Err(self.unsupported(name, "only unscaled rotary embedding"));
            }
            theta = rope.get("rope_theta").and_then(Value::as_f64).or(theta);
        }
        Ok(theta.unwrap_or(10_000.0))
    }

    /// The field, unless it is absent or null.
    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn size(&self, name: &str) -> Result<usize, DecoderError> {
        self.optional_size(name)?.ok_or_else(|| DecoderError::Format {
            path: self.path.to_owned(),
            format: "a config.json",
            message: format!("{name} is missing"),
        })
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>, DecoderError> {
        let Some(value) = self.field(name) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        let fits = size.filter(|&size| size <= MAX_SIZE);
        fits.map(Some).ok_or_else(|| self.unsupported(name, "a whole number is expected"))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, DecoderError> {
        let Some(value) = self.field(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.unsupported(name, "a number is expected"))
    }

    fn must_be(&self, name: &str, wanted: &Value, message: &str) -> Result<(), DecoderError> {
        match self.field(name) {
            Some(value) if value != wanted => Err(self.unsupported(name, message)),
            _ => Ok(()),
        }
    }

    fn unsupported(&self, field: &str, message: &str) -> DecoderError {
        DecoderError::Unsupported {
            path: self.path.to_owned(),
            field: field.to_owned(),
            value: self.fields.get(field).map_or("nothing".to_owned(), Value::to_string),
            message: message.to_owned(),
        }
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
        let mflop = config.training_flops_per_token(256) / 1e6;
        assert!((mflop - 80.8).abs() < 0.1, "{mflop}");
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
    fn what_cannot_be_computed_exactly_is_refused_by_name() {
        let config = ModelConfig { vocab_size: 300, qk_norm: false, ..ModelConfig::default() };
        let base: Value = serde_json::from_str(&config.to_hf_json(None, None)).unwrap();
        for (field, value) in [
            ("model_type", json!("gpt2")),
            ("hidden_act", json!("gelu")),
            ("attention_bias", json!(true)),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
            ("quantization_config", json!({"bits": 4})),
            ("num_hidden_layers", json!(-1)),
            ("layer_types", json!(["sliding_attention"])),
        ] {
            let mut changed = base.clone();
            changed[field] = value;
            let text = changed.to_string();
            let error = ModelConfig::from_hf_json(text.as_bytes(), Path::new("c.json"));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(ModelConfig::from_hf_json(b"[1]", Path::new("c.json")).is_err());
    }
}

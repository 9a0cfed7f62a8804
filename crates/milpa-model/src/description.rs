//! What a decoder computes, as data: every family of open models that is read is one value of
//! [`DecoderDescription`], and the decoder knows nothing else.
//!
//! A description says nothing of files: `hf_config.rs` makes one of a `config.json` and back. What Milpa
//! trains, [`ModelConfig`], is one way to make a description.

use std::f64::consts::PI;

use crate::{config::ModelConfig, error::DecoderError};

/// Largest value of any size; keeps products within 64 bits.
pub(crate) const MAX_SIZE: usize = 1 << 24;
/// Most layers.
pub(crate) const MAX_LAYERS: usize = 4096;
/// Most labels of a classifier.
pub(crate) const MAX_LABELS: usize = 1 << 16;
/// Most experts in all layers together; each has a name in files.
const MAX_EXPERTS: usize = 1 << 16;

/// A kind of model in the world: how its files name and store what a description says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, arXiv:2307.09288 and arXiv:2407.21783.
    Llama,
    /// Mistral 7B, arXiv:2310.06825.
    Mistral,
    /// Qwen2 and Qwen2.5, arXiv:2412.15115.
    Qwen2,
    /// Qwen3, arXiv:2505.09388.
    Qwen3,
    /// Gemma 2, arXiv:2408.00118.
    Gemma2,
    /// Gemma 3 without images, arXiv:2503.19786.
    Gemma3,
    /// OLMo 2, arXiv:2501.00656.
    Olmo2,
    /// SmolLM3.
    SmolLm3,
    /// Phi-3 and Phi-4-mini, arXiv:2404.14219.
    Phi3,
    /// Mixtral, arXiv:2401.04088.
    Mixtral,
    /// Qwen3 with experts, arXiv:2505.09388.
    Qwen3Moe,
}

/// Where a branch (attention, feed-forward) is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before it, as in Llama.
    Before,
    /// After it, as in OLMo 2.
    After,
    /// Before and after it, as in Gemma.
    Both,
}

/// How queries and keys are normalised before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Not at all.
    None,
    /// Each head by itself, as in Qwen3.
    Head,
    /// All heads of a token together, as in OLMo 2.
    Full,
}

/// What the gate of a feed-forward layer goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

/// Which linear layers add a bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output of attention.
    pub attention_output: bool,
    /// Gate, up and down.
    pub feed_forward: bool,
}

/// The experts of the layers that have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many serve a token.
    pub chosen: usize,
    /// Width of each.
    pub size: usize,
    /// Whether the weights of the chosen sum to 1.
    pub normalise: bool,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerDescription {
    /// Keys that a query sees at most; `None`: all before it.
    pub window: Option<usize>,
    /// Which of the description's rotary embeddings turns queries and keys; `None`: they do not turn.
    pub rope: Option<usize>,
    /// Whether experts take the place of the feed-forward layer.
    pub experts: bool,
}

/// A rotary position embedding, arXiv:2104.09864.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Elements of a head that turn, from its beginning.
    pub rotary_dim: usize,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched for contexts beyond those of the first training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// They are not.
    None,
    /// All divided by `factor` (position interpolation, arXiv:2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Stretched beyond the context length alone, and so not at all in sequences that fit.
    Dynamic {
        /// How far, by the length of the sequence.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Turns over the original context below which a frequency is divided.
        low_freq_factor: f64,
        /// Turns over the original context above which a frequency is kept.
        high_freq_factor: f64,
        /// Context length of the first training.
        original: usize,
    },
    /// A ramp over pairs instead, and a factor on queries and keys (`YaRN`, arXiv:2309.00071).
    Yarn {
        /// The divisor.
        factor: f64,
        /// Turns above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which it is divided.
        beta_slow: f64,
        /// Factor on rotated elements.
        attention_factor: f64,
        /// Whether the ends of the ramp are whole numbers.
        truncate: bool,
        /// Context length of the first training.
        original: usize,
    },
    /// A divisor for each pair, other ones beyond the original context (`LongRoPE`, arXiv:2402.13753).
    /// As in `transformers` the sequence as a whole chooses; keys that a cache holds stay as they are.
    Long {
        /// Divisors for sequences within the original context.
        short: Vec<f64>,
        /// Divisors for longer ones.
        long: Vec<f64>,
        /// Factor on rotated elements.
        attention_factor: f64,
        /// Context length of the first training.
        original: usize,
    },
}

/// What is made of the last hidden states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputHead {
    /// Logits of the next token.
    LanguageModel,
    /// Logits of the next token, and a value of each token: trl's value head. A `config.json` does not say
    /// it: set it before weights that have one are read, or they are read without it.
    LanguageModelWithValue,
    /// Scores of a sequence: transformers' `*ForSequenceClassification`. A reward model has one label.
    Classifier {
        /// Names of the scores.
        labels: Vec<String>,
        /// The token that ends no sequence; without it sequences are scored one at a time.
        pad_token: Option<u32>,
    },
}

impl OutputHead {
    /// A classifier whose labels are named as transformers does it.
    pub fn classifier(labels: usize, pad_token: Option<u32>) -> Self {
        let labels = (0..labels).map(|label| format!("LABEL_{label}")).collect();
        Self::Classifier { labels, pad_token }
    }
}

/// What a decoder computes.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderDescription {
    /// Whose files it is read from and written as.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers without experts.
    pub ffn_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, at most 256.
    pub head_dim: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Longest sequence in tokens.
    pub context_length: usize,
    /// Added to the mean square in norms.
    pub norm_epsilon: f64,
    /// Where branches are normalised.
    pub norms: NormPlacement,
    /// How queries and keys are normalised.
    pub qk_norm: QkNorm,
    /// Scores are divided by its square root; `head_dim` as a rule.
    pub query_scalar: f64,
    /// Bound of the attention scores.
    pub attention_soft_cap: Option<f64>,
    /// Bound of the logits.
    pub logit_soft_cap: Option<f64>,
    /// Factor on the embeddings of tokens.
    pub embedding_scale: f64,
    /// Which layers add a bias.
    pub biases: Biases,
    /// Of the feed-forward layers.
    pub activation: Activation,
    /// The experts, if some layers have them.
    pub experts: Option<Experts>,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// The layers, first to last.
    pub layers: Vec<LayerDescription>,
    /// Whether the output layer is the embedding.
    pub tie_embeddings: bool,
    /// What comes after the last norm.
    pub head: OutputHead,
    /// Standard deviation of new weights.
    pub init_std: f64,
}

impl From<&ModelConfig> for DecoderDescription {
    fn from(config: &ModelConfig) -> Self {
        let head_dim = config.head_dim();
        let rope =
            Rope { theta: config.rope_theta, rotary_dim: head_dim, scaling: RopeScaling::None };
        let layer = LayerDescription { window: None, rope: Some(0), experts: false };
        Self {
            family: if config.qk_norm { Family::Qwen3 } else { Family::Llama },
            hidden_size: config.hidden_size,
            ffn_size: config.ffn_size,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim,
            vocab_size: config.vocab_size,
            context_length: config.context_length,
            norm_epsilon: config.norm_epsilon,
            norms: NormPlacement::Before,
            qk_norm: if config.qk_norm { QkNorm::Head } else { QkNorm::None },
            query_scalar: head_dim as f64,
            attention_soft_cap: None,
            logit_soft_cap: None,
            embedding_scale: 1.0,
            biases: Biases::default(),
            activation: Activation::Silu,
            experts: None,
            ropes: vec![rope],
            // One too many is enough to be refused.
            layers: vec![layer; config.layers.min(MAX_LAYERS + 1)],
            tie_embeddings: config.tie_embeddings,
            head: OutputHead::LanguageModel,
            init_std: config.init_std,
        }
    }
}

impl From<&Self> for DecoderDescription {
    fn from(description: &Self) -> Self {
        description.clone()
    }
}

impl DecoderDescription {
    /// The shape as a recipe says it, if this is one that Milpa trains from the start.
    pub fn to_model_config(&self) -> Option<ModelConfig> {
        let rope = self.ropes.first()?;
        let config = ModelConfig {
            hidden_size: self.hidden_size,
            layers: self.layers.len(),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: (self.head_dim * self.heads != self.hidden_size).then_some(self.head_dim),
            ffn_size: self.ffn_size,
            vocab_size: self.vocab_size,
            context_length: self.context_length,
            rope_theta: rope.theta,
            norm_epsilon: self.norm_epsilon,
            qk_norm: self.qk_norm == QkNorm::Head,
            tie_embeddings: self.tie_embeddings,
            init_std: self.init_std,
        };
        // Mistral and Qwen2 may compute what a Llama does.
        let back = Self { family: self.family, ..Self::from(&config) };
        (back == *self).then_some(config)
    }

    /// Bytes of keys and values of a sequence of `tokens`, in f32.
    pub fn cache_bytes(&self, tokens: usize) -> u64 {
        [2, 4, self.layers.len(), self.kv_heads, self.head_dim, tokens]
            .map(|factor| factor as u64)
            .into_iter()
            .fold(1, u64::saturating_mul)
    }

    /// Checks that the decoder can compute this; an error names what is wrong.
    pub(crate) fn check(&self) -> Result<(), DecoderError> {
        let fail =
            |key: &str, message: String| Err(DecoderError::Config { key: key.to_owned(), message });
        if self.vocab_size == 0 {
            return fail(
                "vocab_size",
                "is not known yet; train or name a tokenizer first".to_owned(),
            );
        }
        for (key, value, limit) in [
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("layers", self.layers.len(), MAX_LAYERS),
            ("heads", self.heads, MAX_SIZE),
            ("kv_heads", self.kv_heads, MAX_SIZE),
            ("head_dim", self.head_dim, 256),
            ("ffn_size", self.ffn_size, MAX_SIZE),
            ("vocab_size", self.vocab_size, MAX_SIZE),
            ("context_length", self.context_length, MAX_SIZE),
        ] {
            if value == 0 || value > limit {
                return fail(key, format!("is {value}; it must lie between 1 and {limit}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let message =
                format!("is {}, which does not divide heads = {}", self.kv_heads, self.heads);
            return fail("kv_heads", message);
        }
        if self.heads.saturating_mul(self.head_dim) > MAX_SIZE {
            let message = format!("is {}; heads × head_dim is at most {MAX_SIZE}", self.heads);
            return fail("heads", message);
        }
        for (key, value) in [
            ("norm_epsilon", Some(self.norm_epsilon)),
            ("query_scalar", Some(self.query_scalar)),
            ("attention_soft_cap", self.attention_soft_cap),
            ("logit_soft_cap", self.logit_soft_cap),
            ("embedding_scale", Some(self.embedding_scale)),
        ] {
            // As the kernels will see it.
            if let Some(value) = value
                && !(value as f32 > 0.0 && (value as f32).is_finite())
            {
                return fail(key, format!("is {value}; it must be positive"));
            }
        }
        if let OutputHead::Classifier { labels, .. } = &self.head
            && !(1..=MAX_LABELS).contains(&labels.len())
        {
            let message = format!("has {} labels; 1 to {MAX_LABELS} are possible", labels.len());
            return fail("head", message);
        }
        for rope in &self.ropes {
            rope.check(self.head_dim)?;
        }
        for layer in &self.layers {
            if layer.window == Some(0) {
                return fail("window", "is 0; a query sees at least its own key".to_owned());
            }
            if layer.rope.is_some_and(|rope| rope >= self.ropes.len()) {
                return fail("rope", "names a rotary embedding that is not there".to_owned());
            }
        }
        let with_experts = self.layers.iter().filter(|layer| layer.experts).count();
        match self.experts {
            None if with_experts > 0 => {
                fail("experts", "are not described, but some layers have them".to_owned())
            }
            Some(Experts { count, chosen, size, .. })
                if count.saturating_mul(with_experts.max(1)) > MAX_EXPERTS
                    || chosen == 0
                    || chosen > count
                    || size == 0
                    || size > MAX_SIZE =>
            {
                let message = format!(
                    "are {count}, {chosen} chosen, of width {size}; at most {MAX_EXPERTS} in all \
                     layers are possible, of which 1 to all are chosen"
                );
                fail("experts", message)
            }
            _ if self.activation != Activation::Silu && with_experts > 0 => {
                fail("activation", "of experts must be silu".to_owned())
            }
            _ if self.biases.feed_forward && with_experts > 0 => {
                fail("biases", "of experts are not possible".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Number of parameters in all; a tied embedding counts once.
    pub fn parameters(&self) -> u64 {
        self.parameters_where(|_| true)
    }

    /// Number of parameters without embedding and output layer.
    pub fn non_embedding_parameters(&self) -> u64 {
        self.parameters_where(|name| {
            !["model.embed_tokens.weight", "lm_head.weight"].contains(&name)
        })
    }

    fn parameters_where(&self, is_counted: impl Fn(&str) -> bool) -> u64 {
        let specs = crate::decoder::parameter_specs(self);
        let counted = specs.iter().filter(|spec| is_counted(&spec.name));
        let elements = |shape: &[usize]| shape.iter().map(|&length| length as u64).product::<u64>();
        counted.map(|spec| elements(&spec.shape)).sum()
    }
}

impl Rope {
    fn check(&self, head_dim: usize) -> Result<(), DecoderError> {
        let fail = |message: String| Err(DecoderError::Config { key: "rope".to_owned(), message });
        let Self { theta, rotary_dim, scaling } = self;
        if *rotary_dim == 0 || *rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
            let message =
                format!("turns {rotary_dim} of {head_dim} elements; an even number must turn");
            return fail(message);
        }
        let mut positive = vec![*theta];
        let mut least = vec![1];
        match scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => {
                positive.push(*factor);
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                positive.extend([*factor, *low_freq_factor, high_freq_factor - low_freq_factor]);
                least.push(*original);
            }
            RopeScaling::Yarn {
                factor, beta_fast, beta_slow, attention_factor, original, ..
            } => {
                positive.extend([*factor, *beta_fast, *beta_slow, *attention_factor]);
                // The ramp divides by the logarithm of the base.
                positive.push(*theta - 1.0);
                least.push(*original);
            }
            RopeScaling::Long { short, long, attention_factor, original } => {
                if short.len() != rotary_dim / 2 || long.len() != rotary_dim / 2 {
                    let message = format!(
                        "has {} short and {} long factors for {} pairs",
                        short.len(),
                        long.len(),
                        rotary_dim / 2
                    );
                    return fail(message);
                }
                positive.extend(short.iter().chain(long));
                positive.push(*attention_factor);
                least.push(*original);
            }
        }
        // Within these, frequencies and angles are finite.
        let (most, smallest) = (1e12, 1e-6);
        if let Some(value) = positive.iter().find(|value| !(smallest..=most).contains(*value)) {
            return fail(format!("has {value}; it must lie between {smallest} and {most}"));
        }
        if least.contains(&0) {
            return fail("has an original context of 0 tokens".to_owned());
        }
        Ok(())
    }

    /// Whether sequences of `positions` tokens take the long factors.
    pub(crate) fn is_long(&self, positions: usize) -> bool {
        matches!(&self.scaling, RopeScaling::Long { original, .. } if positions > *original)
    }

    /// Positions to make room for when `positions` are needed; they have the same frequencies.
    pub(crate) fn room(&self, positions: usize) -> usize {
        let room = positions.next_power_of_two();
        match &self.scaling {
            RopeScaling::Long { original, .. } if positions <= *original => room.min(*original),
            _ => room,
        }
    }

    /// The frequency of each pair and the factor on rotated elements, for sequences of at most
    /// `positions` tokens.
    pub fn frequencies(&self, positions: usize) -> (Vec<f64>, f64) {
        let dim = self.rotary_dim as f64;
        let plain: Vec<f64> =
            (0..self.rotary_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / dim)).collect();
        let map = |f: &dyn Fn(usize, f64) -> f64| {
            plain.iter().enumerate().map(|(i, &frequency)| f(i, frequency)).collect()
        };
        match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => (plain, 1.0),
            RopeScaling::Linear { factor } => (map(&|_, frequency| frequency / factor), 1.0),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let stretched = |frequency: f64| {
                    let turns = *original as f64 * frequency / (2.0 * PI);
                    let ramp = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let keep = ramp.clamp(0.0, 1.0);
                    (1.0 - keep) * frequency / factor + keep * frequency
                };
                (map(&|_, frequency| stretched(frequency)), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate,
                original,
            } => {
                // The pair that turns so often within the original context.
                let pair = |turns: f64| {
                    dim * (*original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (low, high) = (pair(*beta_fast), pair(*beta_slow));
                let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(dim - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                let stretched = |i: usize, frequency: f64| {
                    let divide = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    divide * frequency / factor + (1.0 - divide) * frequency
                };
                (map(&stretched), *attention_factor)
            }
            RopeScaling::Long { short, long, attention_factor, .. } => {
                let divisors = if self.is_long(positions) { long } else { short };
                (map(&|i, frequency| frequency / divisors[i]), *attention_factor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 1e4, rotary_dim: 8, scaling }
    }

    fn check(scaling: RopeScaling, positions: usize, expect: [f64; 4], factor: f64) {
        let (found, found_factor) = rope(scaling).frequencies(positions);
        for (found, expect) in found.iter().zip(expect) {
            assert!((found / expect - 1.0).abs() < 1e-12, "{found} {expect}");
        }
        assert!((found_factor - factor).abs() < 1e-12);
    }

    #[test]
    fn frequencies_are_stretched_as_their_papers_say() {
        check(RopeScaling::None, 9, [1.0, 0.1, 0.01, 0.001], 1.0);
        check(RopeScaling::Dynamic { factor: 2.0 }, 9, [1.0, 0.1, 0.01, 0.001], 1.0);
        check(RopeScaling::Linear { factor: 4.0 }, 9, [0.25, 0.025, 0.0025, 0.000_25], 1.0);
        let long = RopeScaling::Long {
            short: vec![1.0; 4],
            long: vec![1.0, 2.0, 4.0, 8.0],
            attention_factor: 1.25,
            original: 16,
        };
        check(long.clone(), 16, [1.0, 0.1, 0.01, 0.001], 1.25);
        check(long, 17, [1.0, 0.05, 0.0025, 0.000_125], 1.25);
        // 2π/0.1 = 62.8 positions for a turn: 1.59 turns in 100, between 1 and 2.
        let keep = 100.0 * 0.1 / (2.0 * PI) - 1.0;
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 2.0,
            original: 100,
        };
        let middle = 0.1 * (keep + (1.0 - keep) / 8.0);
        check(llama3, 9, [1.0, middle, 0.01 / 8.0, 0.001 / 8.0], 1.0);
    }

    #[test]
    fn parameters_are_counted_as_those_of_a_recipes_shape() {
        for tie_embeddings in [true, false] {
            let config = ModelConfig { vocab_size: 500, tie_embeddings, ..ModelConfig::default() };
            let description = DecoderDescription::from(&config);
            assert_eq!(description.parameters(), config.parameters());
            assert_eq!(description.non_embedding_parameters(), config.non_embedding_parameters());
        }
    }

    #[test]
    fn impossible_ropes_are_refused() {
        let long = |count| RopeScaling::Long {
            short: vec![1.0; count],
            long: vec![1.0; 4],
            attention_factor: 1.0,
            original: 16,
        };
        assert!(rope(long(4)).check(8).is_ok());
        assert!(rope(long(3)).check(8).is_err());
        assert!(rope(RopeScaling::None).check(6).is_err());
        assert!(rope(RopeScaling::Linear { factor: 0.0 }).check(8).is_err());
        assert!(rope(RopeScaling::Linear { factor: f64::NAN }).check(8).is_err());
    }
}

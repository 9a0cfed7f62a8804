//! `config.json` of Hugging Face folders: a [`DecoderDescription`] read from it, and written to it.
//!
//! What families have in common is read once; what they differ in stands in [`Dialect`], one row for each.
//! Every key is either understood or known to change no number; any other is refused by name, because a
//! model that computes almost the right thing is worse than none. Missing keys take the defaults that
//! `transformers` gives them. Both ways to write rotary embeddings are read: `rope_theta` and
//! `rope_scaling` (before version 5), and `rope_parameters`.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    description::{
        Activation, Biases, DecoderDescription, Experts, Family, LayerDescription, MAX_LABELS,
        MAX_LAYERS, MAX_SIZE, NormPlacement, OutputHead, QkNorm, Rope, RopeScaling,
    },
    error::DecoderError,
};

/// What the architectures of classifiers end with.
const CLASSIFIER: &str = "ForSequenceClassification";
/// Keys that change no number of a forward or backward pass without dropout.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "attn_pdrop",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_version",
    "use_cache",
];

/// Which layers have a sliding window, where `layer_types` does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Windows {
    /// None; the key `sliding_window` does not exist.
    Never,
    /// All, if `sliding_window` is given.
    All,
    /// If `use_sliding_window`, all.
    AllIfUsed,
    /// If `use_sliding_window`, those from `max_window_layers` on.
    LastIfUsed,
    /// If `use_sliding_window`, those whose queries do not turn.
    UnturnedIfUsed,
    /// All but each n-th.
    Pattern(usize),
}

/// How a family writes its configuration and what it leaves unsaid.
#[derive(Debug)]
struct Dialect {
    family: Family,
    model_type: &'static str,
    architecture: &'static str,
    norms: NormPlacement,
    qk_norm: QkNorm,
    windows: Windows,
    /// `sliding_window` where the key is missing.
    window: Option<usize>,
    /// Width of a head where the key is missing; `None`: `hidden_size / heads`.
    head_dim: Option<usize>,
    theta: f64,
    epsilon: f64,
    tied: bool,
    /// Whether `attention_bias` is a key; Qwen2 has biases on q, k and v without it.
    attention_bias: bool,
    mlp_bias: bool,
    /// Attention and logit caps where the keys are missing; `None`: the keys do not exist.
    soft_caps: Option<[Option<f64>; 2]>,
}

const LLAMA: Dialect = Dialect {
    family: Family::Llama,
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    norms: NormPlacement::Before,
    qk_norm: QkNorm::None,
    windows: Windows::Never,
    window: None,
    head_dim: None,
    theta: 10_000.0,
    epsilon: 1e-6,
    tied: false,
    attention_bias: true,
    mlp_bias: true,
    soft_caps: None,
};

static DIALECTS: [Dialect; 11] = [
    LLAMA,
    Dialect {
        family: Family::Mistral,
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        windows: Windows::All,
        window: Some(4096),
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    Dialect {
        family: Family::Qwen2,
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        windows: Windows::LastIfUsed,
        window: Some(4096),
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    Dialect {
        family: Family::Qwen3,
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        qk_norm: QkNorm::Head,
        windows: Windows::LastIfUsed,
        window: Some(4096),
        head_dim: Some(128),
        mlp_bias: false,
        ..LLAMA
    },
    Dialect {
        family: Family::Gemma2,
        model_type: "gemma2",
        architecture: "Gemma2ForCausalLM",
        norms: NormPlacement::Both,
        windows: Windows::Pattern(2),
        window: Some(4096),
        head_dim: Some(256),
        tied: true,
        mlp_bias: false,
        soft_caps: Some([Some(50.0), Some(30.0)]),
        ..LLAMA
    },
    Dialect {
        family: Family::Gemma3,
        model_type: "gemma3_text",
        architecture: "Gemma3ForCausalLM",
        norms: NormPlacement::Both,
        qk_norm: QkNorm::Head,
        windows: Windows::Pattern(6),
        window: Some(4096),
        head_dim: Some(256),
        theta: 1_000_000.0,
        tied: true,
        mlp_bias: false,
        soft_caps: Some([None, None]),
        ..LLAMA
    },
    Dialect {
        family: Family::Olmo2,
        model_type: "olmo2",
        architecture: "Olmo2ForCausalLM",
        norms: NormPlacement::After,
        qk_norm: QkNorm::Full,
        epsilon: 1e-5,
        mlp_bias: false,
        ..LLAMA
    },
    Dialect {
        family: Family::SmolLm3,
        model_type: "smollm3",
        architecture: "SmolLM3ForCausalLM",
        windows: Windows::UnturnedIfUsed,
        theta: 2_000_000.0,
        tied: true,
        ..LLAMA
    },
    Dialect {
        family: Family::Phi3,
        model_type: "phi3",
        architecture: "Phi3ForCausalLM",
        windows: Windows::All,
        epsilon: 1e-5,
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    Dialect {
        family: Family::Mixtral,
        model_type: "mixtral",
        architecture: "MixtralForCausalLM",
        windows: Windows::All,
        theta: 1_000_000.0,
        epsilon: 1e-5,
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    Dialect {
        family: Family::Qwen3Moe,
        model_type: "qwen3_moe",
        architecture: "Qwen3MoeForCausalLM",
        qk_norm: QkNorm::Head,
        windows: Windows::AllIfUsed,
        window: Some(4096),
        mlp_bias: false,
        ..LLAMA
    },
];

impl Family {
    /// `model_type` of the family in a `config.json`.
    pub fn model_type(self) -> &'static str {
        self.dialect().model_type
    }

    fn dialect(self) -> &'static Dialect {
        DIALECTS.iter().find(|row| row.family == self).expect("each family has a row")
    }

    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }
}

impl DecoderDescription {
    /// Reads a `config.json`; `path` is named in errors.
    ///
    /// # Errors
    /// If it is malformed, of another family, or has a key that this decoder would have to ignore.
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
        let reader = Reader { fields: &fields, prefix: "", path, known: RefCell::default() };
        let description = reader.description()?;
        reader.refuse_unknown()?;
        description.check()?;
        Ok(description)
    }

    /// Writes `config.json` for `transformers`, version 4 and 5.
    pub fn to_hf_json(&self, eos: Option<u32>, bos: Option<u32>) -> String {
        let dialect = self.family.dialect();
        let global = self.ropes.first();
        let theta = global.map_or(dialect.theta, |rope| rope.theta);
        let mut config = json!({
            "architectures": [dialect.architecture],
            "model_type": dialect.model_type,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers.len(),
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_length,
            "rope_theta": theta,
            "rms_norm_eps": self.norm_epsilon,
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.tie_embeddings,
            "initializer_range": self.init_std,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": null,
            "use_cache": true,
            "torch_dtype": "float32",
        });
        let mut put = |key: &str, value: Value| config[key] = value;
        let activation = match self.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        };
        let key = if self.family.is_gemma() { "hidden_activation" } else { "hidden_act" };
        put(key, json!(activation));
        if dialect.attention_bias {
            put("attention_bias", json!(self.biases.qkv));
        }
        if dialect.mlp_bias {
            put("mlp_bias", json!(self.biases.feed_forward));
        }
        if dialect.soft_caps.is_some() {
            put("attn_logit_softcapping", json!(self.attention_soft_cap));
            put("final_logit_softcapping", json!(self.logit_soft_cap));
            put("query_pre_attn_scalar", whole_if_possible(self.query_scalar));
        }
        if let OutputHead::Classifier { labels, pad_token } = &self.head {
            let family = dialect.architecture.trim_end_matches("ForCausalLM");
            // Without "Text" it is the model that also sees images.
            let text = if self.family == Family::Gemma3 { "Text" } else { "" };
            put("architectures", json!([format!("{family}{text}{CLASSIFIER}")]));
            put("pad_token_id", json!(pad_token));
            let each = || labels.iter().enumerate();
            put("id2label", each().map(|(id, name)| (id.to_string(), json!(name))).collect());
            put("label2id", each().map(|(id, name)| (name.clone(), json!(id))).collect());
        }
        self.put_windows(dialect.windows, &mut put);
        self.put_ropes(&mut put);
        if let Some(experts) = &self.experts {
            put("num_experts_per_tok", json!(experts.chosen));
            put("output_router_logits", json!(false));
            if self.family == Family::Qwen3Moe {
                let dense = self.layers.iter().enumerate().filter(|(_, layer)| !layer.experts);
                put("num_experts", json!(experts.count));
                put("moe_intermediate_size", json!(experts.size));
                put("norm_topk_prob", json!(experts.normalise));
                put("decoder_sparse_step", json!(1));
                put("mlp_only_layers", dense.map(|(index, _)| index).collect());
            } else {
                put("num_local_experts", json!(experts.count));
            }
        }
        format!("{config:#}\n")
    }

    fn put_windows(&self, windows: Windows, put: &mut impl FnMut(&str, Value)) {
        let window = self.layers.iter().find_map(|layer| layer.window);
        let types = || {
            let kind = |layer: &LayerDescription| match layer.window {
                Some(_) => "sliding_attention",
                None => "full_attention",
            };
            self.layers.iter().map(kind).collect::<Value>()
        };
        match windows {
            Windows::Never => {}
            Windows::All => put("sliding_window", json!(window)),
            Windows::AllIfUsed => {
                put("use_sliding_window", json!(window.is_some()));
                put("sliding_window", json!(window));
            }
            Windows::LastIfUsed | Windows::UnturnedIfUsed => {
                put("use_sliding_window", json!(window.is_some()));
                put("sliding_window", json!(window));
                put("layer_types", types());
                if windows == Windows::LastIfUsed {
                    let full = self.layers.iter().take_while(|layer| layer.window.is_none());
                    put("max_window_layers", json!(full.count()));
                }
            }
            Windows::Pattern(_) => {
                // Without any window the key keeps its default, and no layer uses it.
                put("sliding_window", json!(window.unwrap_or(4096)));
                put("layer_types", types());
            }
        }
    }

    fn put_ropes(&self, put: &mut impl FnMut(&str, Value)) {
        let written = |rope: &Rope| rope_json(rope, self.head_dim);
        match (&self.ropes[..], self.family) {
            ([global, local], Family::Gemma3) => {
                put("rope_local_base_freq", json!(local.theta));
                let both = json!({
                    "full_attention": written(global),
                    "sliding_attention": written(local),
                });
                put("rope_parameters", both);
                put_scaling(global, self.head_dim, put);
            }
            ([global, ..], _) => {
                put("rope_parameters", written(global));
                put_scaling(global, self.head_dim, put);
                if global.rotary_dim != self.head_dim || self.family == Family::Phi3 {
                    put("partial_rotary_factor", partial_factor(global, self.head_dim));
                }
                if self.family == Family::Phi3 {
                    let original = match &global.scaling {
                        RopeScaling::Long { original, .. } => *original,
                        _ => self.context_length,
                    };
                    put("original_max_position_embeddings", json!(original));
                }
            }
            ([], _) => {}
        }
        if self.family == Family::SmolLm3 {
            let turns = |layer: &LayerDescription| u8::from(layer.rope.is_some());
            put("no_rope_layers", self.layers.iter().map(turns).collect());
        }
    }
}

/// `rope_scaling` for readers before version 5.
fn put_scaling(rope: &Rope, head_dim: usize, put: &mut impl FnMut(&str, Value)) {
    if rope.scaling != RopeScaling::None {
        put("rope_scaling", rope_json(rope, head_dim));
    }
}

/// The smallest of the usual fractions that gives the width again when it is rounded down.
fn partial_factor(rope: &Rope, head_dim: usize) -> Value {
    let factor = rope.rotary_dim as f64 / head_dim as f64;
    let down = (head_dim as f64 * factor) as usize;
    json!(if down == rope.rotary_dim { factor } else { factor.next_up() })
}

fn rope_json(rope: &Rope, head_dim: usize) -> Value {
    let mut value = match &rope.scaling {
        RopeScaling::None => json!({ "rope_type": "default" }),
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original,
        }),
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
            original,
        } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "attention_factor": attention_factor,
            "truncate": truncate,
            "original_max_position_embeddings": original,
        }),
        RopeScaling::Long { short, long, attention_factor, original } => json!({
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "attention_factor": attention_factor,
            "original_max_position_embeddings": original,
        }),
    };
    value["rope_theta"] = json!(rope.theta);
    if rope.rotary_dim != head_dim {
        value["partial_rotary_factor"] = partial_factor(rope, head_dim);
    }
    value
}

/// `transformers` wants some numbers to be integers.
fn whole_if_possible(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < MAX_SIZE as f64 {
        json!(value as u64)
    } else {
        json!(value)
    }
}

/// Reads the fields of a JSON object and remembers which it has understood.
struct Reader<'a> {
    fields: &'a Map<String, Value>,
    /// Before the names of fields in errors.
    prefix: &'a str,
    path: &'a Path,
    known: RefCell<BTreeSet<&'static str>>,
}

impl Reader<'_> {
    fn description(&self) -> Result<DecoderDescription, DecoderError> {
        let model_type = self.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let Some(dialect) = DIALECTS.iter().find(|row| row.model_type == model_type) else {
            let names: Vec<&str> = DIALECTS.iter().map(|row| row.model_type).collect();
            let message = format!("this decoder reads {}", names.join(", "));
            return Err(self.unsupported("model_type", &message));
        };
        if self.get("quantization_config").is_some() {
            return Err(self.unsupported("quantization_config", "only f32, bf16 and f16 weights"));
        }
        for (key, wanted) in [
            ("pretraining_tp", json!(1)),
            ("output_router_logits", json!(false)),
            ("use_bidirectional_attention", json!(false)),
            ("use_mrope", json!(false)),
            ("rope_interleaved", json!(false)),
            ("is_llama_config", json!(true)),
        ] {
            self.must_be(key, &wanted)?;
        }
        let family = dialect.family;
        let (hidden_size, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        let layers = self.size("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            let message = format!("at most {MAX_LAYERS} layers");
            return Err(self.unsupported("num_hidden_layers", &message));
        }
        let own_width = dialect.head_dim.unwrap_or(hidden_size / heads.max(1));
        let head_dim = self.optional_size("head_dim")?.unwrap_or(own_width);
        let context_length = self.size("max_position_embeddings")?;
        let (experts, with_experts) = self.experts(family, layers)?;
        let ropes = self.ropes(dialect, head_dim, context_length)?;
        let turning = self.turning(family, layers)?;
        let windows = self.windows(dialect, &turning)?;
        let two_ropes = ropes.len() > 1;
        let layer = |index: usize| LayerDescription {
            window: windows[index],
            rope: turning[index].then(|| usize::from(two_ropes && windows[index].is_some())),
            experts: with_experts[index],
        };
        let [attention_soft_cap, logit_soft_cap] = self.soft_caps(dialect)?;
        let query_scalar = match dialect.soft_caps {
            Some(_) => self.number("query_pre_attn_scalar")?.unwrap_or(256.0),
            None => head_dim as f64,
        };
        Ok(DecoderDescription {
            family,
            hidden_size,
            ffn_size: self.size("intermediate_size")?,
            heads,
            kv_heads: self.optional_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            vocab_size: self.size("vocab_size")?,
            context_length,
            norm_epsilon: self.number("rms_norm_eps")?.unwrap_or(dialect.epsilon),
            norms: dialect.norms,
            qk_norm: dialect.qk_norm,
            query_scalar,
            attention_soft_cap,
            logit_soft_cap,
            embedding_scale: if family.is_gemma() { (hidden_size as f64).sqrt() } else { 1.0 },
            biases: self.biases(dialect)?,
            activation: self.activation(family)?,
            experts,
            ropes,
            layers: (0..layers).map(layer).collect(),
            tie_embeddings: self.flag("tie_word_embeddings", dialect.tied)?,
            head: self.head()?,
            init_std: self.number("initializer_range")?.unwrap_or(0.02),
        })
    }

    /// The head: a classifier if the architecture says so, a language model's otherwise.
    fn head(&self) -> Result<OutputHead, DecoderError> {
        let classifies = |name: &Value| name.as_str().is_some_and(|n| n.ends_with(CLASSIFIER));
        if !self.list("architectures")?.is_some_and(|names| names.iter().any(classifies)) {
            return Ok(OutputHead::LanguageModel);
        }
        // It chooses a loss, not what is computed.
        self.get("problem_type");
        let count = self.optional_size("num_labels")?;
        let pad_token = self.optional_size("pad_token_id")?.map(|token| token as u32);
        let Some(names) = self.object("id2label")? else {
            // As transformers has it.
            let count = count.unwrap_or(2);
            if count > MAX_LABELS {
                let message = format!("at most {MAX_LABELS} labels");
                return Err(self.unsupported("num_labels", &message));
            }
            return Ok(OutputHead::classifier(count, pad_token));
        };
        let name = |label: usize| Some(names.get(&label.to_string())?.as_str()?.to_owned());
        let labels: Option<Vec<String>> = (0..names.len()).map(name).collect();
        let labels = labels.filter(|labels| count.is_none_or(|count| count == labels.len()));
        let labels = labels.ok_or_else(|| {
            let message = "the names of labels 0 to num_labels − 1 are expected";
            self.unsupported("id2label", message)
        })?;
        Ok(OutputHead::Classifier { labels, pad_token })
    }

    fn biases(&self, dialect: &Dialect) -> Result<Biases, DecoderError> {
        let attention = if dialect.attention_bias {
            self.flag("attention_bias", false)?
        } else {
            self.must_be("attention_bias", &json!(false))?;
            false
        };
        let feed_forward = if dialect.mlp_bias {
            self.flag("mlp_bias", false)?
        } else {
            self.must_be("mlp_bias", &json!(false))?;
            false
        };
        let qkv = attention || dialect.family == Family::Qwen2;
        Ok(Biases { qkv, attention_output: attention, feed_forward })
    }

    fn activation(&self, family: Family) -> Result<Activation, DecoderError> {
        // Gemma's old configurations have both, and only this one counts.
        let (older, newer) = (self.get("hidden_act"), self.get("hidden_activation"));
        let (key, value) = match (family.is_gemma(), older, newer) {
            (true, _, None) => return Ok(Activation::GeluTanh),
            (true, _, Some(value)) => ("hidden_activation", value),
            (false, _, Some(_)) => {
                return Err(self.unsupported("hidden_activation", "hidden_act is expected"));
            }
            (false, None, None) => return Ok(Activation::Silu),
            (false, Some(value), None) => ("hidden_act", value),
        };
        match value.as_str() {
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            _ => Err(self.unsupported(key, "silu and gelu_pytorch_tanh are computed")),
        }
    }

    fn soft_caps(&self, dialect: &Dialect) -> Result<[Option<f64>; 2], DecoderError> {
        let Some(defaults) = dialect.soft_caps else { return Ok([None; 2]) };
        let mut caps = defaults;
        for (cap, key) in caps.iter_mut().zip(["attn_logit_softcapping", "final_logit_softcapping"])
        {
            if self.fields.contains_key(key) {
                *cap = self.number(key)?;
            }
        }
        Ok(caps)
    }

    /// The experts, and which layers have them.
    fn experts(
        &self,
        family: Family,
        layers: usize,
    ) -> Result<(Option<Experts>, Vec<bool>), DecoderError> {
        match family {
            Family::Mixtral => {
                let experts = Experts {
                    count: self.optional_size("num_local_experts")?.unwrap_or(8),
                    chosen: self.optional_size("num_experts_per_tok")?.unwrap_or(2),
                    size: self.size("intermediate_size")?,
                    normalise: true,
                };
                Ok((Some(experts), vec![true; layers]))
            }
            Family::Qwen3Moe => {
                let named = self.optional_size("num_experts")?;
                let count = match (named, self.optional_size("num_local_experts")?) {
                    (Some(a), Some(b)) if a != b => {
                        return Err(self.unsupported("num_local_experts", "num_experts differs"));
                    }
                    (a, b) => a.or(b).unwrap_or(128),
                };
                let experts = Experts {
                    count,
                    chosen: self.optional_size("num_experts_per_tok")?.unwrap_or(8),
                    size: self.optional_size("moe_intermediate_size")?.unwrap_or(768),
                    normalise: self.flag("norm_topk_prob", false)?,
                };
                let step = self.optional_size("decoder_sparse_step")?.unwrap_or(1).max(1);
                let dense = self.list("mlp_only_layers")?.unwrap_or_default();
                let with = |layer: usize| {
                    !dense.contains(&json!(layer)) && (layer + 1).is_multiple_of(step)
                };
                Ok((Some(experts), (0..layers).map(with).collect()))
            }
            _ => Ok((None, vec![false; layers])),
        }
    }

    /// Which layers turn queries and keys.
    fn turning(&self, family: Family, layers: usize) -> Result<Vec<bool>, DecoderError> {
        if family != Family::SmolLm3 {
            return Ok(vec![true; layers]);
        }
        let interval = self.optional_size("no_rope_layer_interval")?.unwrap_or(4).max(1);
        let Some(list) = self.list("no_rope_layers")? else {
            return Ok((1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect());
        };
        let turns: Option<Vec<bool>> = list.iter().map(|v| v.as_u64().map(|v| v != 0)).collect();
        turns.filter(|turns| turns.len() == layers).ok_or_else(|| {
            self.unsupported("no_rope_layers", "a 0 or 1 is expected for each layer")
        })
    }

    /// The window of each layer.
    fn windows(
        &self,
        dialect: &Dialect,
        turning: &[bool],
    ) -> Result<Vec<Option<usize>>, DecoderError> {
        let layers = turning.len();
        if dialect.windows == Windows::Never {
            return Ok(vec![None; layers]);
        }
        // Null is no window, and a missing key the family's own.
        let mut window = if self.fields.contains_key("sliding_window") {
            self.optional_size("sliding_window")?
        } else {
            dialect.window
        };
        // Without effect where `layer_types` is given or no window is used.
        let full_layers = self.optional_size("max_window_layers")?.unwrap_or(28);
        let pattern = self.optional_size("sliding_window_pattern")?;
        let pattern = match self.optional_size("_sliding_window_pattern")? {
            Some(pattern) => Some(pattern),
            None => pattern,
        };
        if matches!(
            dialect.windows,
            Windows::AllIfUsed | Windows::LastIfUsed | Windows::UnturnedIfUsed
        ) && !self.flag("use_sliding_window", false)?
        {
            window = None;
        }
        let listed = match dialect.windows {
            Windows::LastIfUsed | Windows::UnturnedIfUsed | Windows::Pattern(_) => {
                self.layer_types(layers)?
            }
            _ => None,
        };
        let slides = |layer: usize| match (&listed, dialect.windows) {
            (Some(listed), _) => listed[layer],
            (None, Windows::LastIfUsed) => layer >= full_layers,
            (None, Windows::UnturnedIfUsed) => !turning[layer],
            (None, Windows::Pattern(every)) => {
                !(layer + 1).is_multiple_of(pattern.unwrap_or(every).max(1))
            }
            _ => true,
        };
        let windows: Vec<_> = (0..layers).map(|layer| window.filter(|_| slides(layer))).collect();
        if window.is_none() && listed.is_some_and(|listed| listed.contains(&true)) {
            let message = "it names layers with a window, but no window is used";
            return Err(self.unsupported("layer_types", message));
        }
        Ok(windows)
    }

    /// Whether each layer has a window, if `layer_types` says it.
    fn layer_types(&self, layers: usize) -> Result<Option<Vec<bool>>, DecoderError> {
        let Some(list) = self.list("layer_types")? else { return Ok(None) };
        let slides = |kind: &Value| match kind.as_str() {
            Some("full_attention") => Some(false),
            Some("sliding_attention") => Some(true),
            _ => None,
        };
        let kinds: Option<Vec<bool>> = list.iter().map(slides).collect();
        kinds.filter(|kinds| kinds.len() == layers).map(Some).ok_or_else(|| {
            let message = "full_attention or sliding_attention is expected for each layer";
            self.unsupported("layer_types", message)
        })
    }

    /// The rotary embeddings: one, or Gemma 3's for full and for sliding attention.
    fn ropes(
        &self,
        dialect: &Dialect,
        head_dim: usize,
        context_length: usize,
    ) -> Result<Vec<Rope>, DecoderError> {
        let top = RopeDefaults {
            theta: self.number("rope_theta")?.unwrap_or(dialect.theta),
            partial: self.number("partial_rotary_factor")?.unwrap_or(1.0),
            original: self.optional_size("original_max_position_embeddings")?,
            head_dim,
            context_length,
            yarn_is_longrope: dialect.family == Family::Phi3,
        };
        let empty = Map::new();
        let scaling = self.object("rope_scaling")?;
        let parameters = self.object("rope_parameters")?;
        if dialect.family != Family::Gemma3 {
            // As transformers does: the older key wins.
            let (prefix, fields) = match (scaling, parameters) {
                (Some(fields), _) => ("rope_scaling.", fields),
                (None, Some(fields)) => ("rope_parameters.", fields),
                (None, None) => ("", &empty),
            };
            let merged;
            let fields = if let (Some(scaling), Some(parameters)) = (scaling, parameters) {
                // What only the newer one says still counts.
                let mut all = parameters.clone();
                all.extend(scaling.clone());
                merged = all;
                &merged
            } else {
                fields
            };
            return Ok(vec![self.rope(prefix, fields, &top)?]);
        }
        let local_theta = self.number("rope_local_base_freq")?.unwrap_or(10_000.0);
        let mut parts = [empty.clone(), empty];
        if let Some(parameters) = parameters {
            let nested = Reader {
                fields: parameters,
                prefix: "rope_parameters.",
                path: self.path,
                known: RefCell::default(),
            };
            for (part, key) in parts.iter_mut().zip(["full_attention", "sliding_attention"]) {
                *part = nested.object(key)?.cloned().unwrap_or_default();
            }
            nested.refuse_unknown()?;
        }
        if let Some(scaling) = scaling {
            parts[0].extend(scaling.clone());
        }
        let local = RopeDefaults { theta: local_theta, ..top };
        Ok(vec![
            self.rope("rope_parameters.full_attention.", &parts[0], &top)?,
            self.rope("rope_parameters.sliding_attention.", &parts[1], &local)?,
        ])
    }

    fn rope(
        &self,
        prefix: &str,
        fields: &Map<String, Value>,
        defaults: &RopeDefaults,
    ) -> Result<Rope, DecoderError> {
        let reader = Reader { fields, prefix, path: self.path, known: RefCell::default() };
        let (newer, older) = (reader.get("rope_type"), reader.get("type"));
        let kind = newer.or(older).map_or(Some("default"), Value::as_str).unwrap_or_default();
        // Phi-3's first configurations say so.
        let kind = if defaults.yarn_is_longrope && kind == "yarn" { "longrope" } else { kind };
        let theta = reader.number("rope_theta")?.unwrap_or(defaults.theta);
        let partial = reader.number("partial_rotary_factor")?.unwrap_or(defaults.partial);
        let within = reader.optional_size("original_max_position_embeddings")?;
        let original = defaults.original.or(within).unwrap_or(defaults.context_length);
        let stretch = defaults.context_length as f64 / original.max(1) as f64;
        let needed = |key: &'static str| {
            reader.number(key)?.ok_or_else(|| reader.unsupported(key, "a number is expected"))
        };
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: needed("factor")? },
            "dynamic" => RopeScaling::Dynamic { factor: needed("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original,
            },
            "yarn" => {
                let factor = reader.number("factor")?.unwrap_or(stretch);
                let scale = |weight: f64| {
                    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
                };
                let all = reader.number("mscale_all_dim")?;
                let inferred = match (reader.number("mscale")?, all) {
                    (Some(one), Some(all)) if one != 0.0 && all != 0.0 => scale(one) / scale(all),
                    _ => scale(1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    beta_fast: reader.number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: reader.number("beta_slow")?.unwrap_or(1.0),
                    attention_factor: reader.number("attention_factor")?.unwrap_or(inferred),
                    truncate: reader.flag("truncate", true)?,
                    original,
                }
            }
            "longrope" | "su" => {
                let factor = reader.number("factor")?.unwrap_or(stretch);
                let inferred = if factor <= 1.0 {
                    1.0
                } else {
                    (1.0 + factor.ln() / (original as f64).ln()).sqrt()
                };
                RopeScaling::Long {
                    short: reader.numbers("short_factor")?,
                    long: reader.numbers("long_factor")?,
                    attention_factor: reader.number("attention_factor")?.unwrap_or(inferred),
                    original,
                }
            }
            _ => {
                let message = "default, linear, dynamic, llama3, yarn and longrope are computed";
                let key = if newer.is_some() { "rope_type" } else { "type" };
                return Err(reader.unsupported(key, message));
            }
        };
        reader.refuse_unknown()?;
        let rotary_dim = (defaults.head_dim as f64 * partial) as usize;
        Ok(Rope { theta, rotary_dim, scaling })
    }

    /// The field, unless it is absent or null.
    fn get(&self, name: &'static str) -> Option<&Value> {
        self.known.borrow_mut().insert(name);
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn size(&self, name: &'static str) -> Result<usize, DecoderError> {
        self.optional_size(name)?.ok_or_else(|| DecoderError::Format {
            path: self.path.to_owned(),
            format: "a config.json",
            message: format!("{}{name} is missing", self.prefix),
        })
    }

    fn optional_size(&self, name: &'static str) -> Result<Option<usize>, DecoderError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        let fits = size.filter(|&size| size <= MAX_SIZE);
        fits.map(Some).ok_or_else(|| self.unsupported(name, "a whole number is expected"))
    }

    fn number(&self, name: &'static str) -> Result<Option<f64>, DecoderError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.unsupported(name, "a number is expected"))
    }

    fn numbers(&self, name: &'static str) -> Result<Vec<f64>, DecoderError> {
        let list = self.list(name)?.unwrap_or_default();
        let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
        numbers.ok_or_else(|| self.unsupported(name, "numbers are expected"))
    }

    fn flag(&self, name: &'static str, default: bool) -> Result<bool, DecoderError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.unsupported(name, "true or false is expected"))
    }

    fn list(&self, name: &'static str) -> Result<Option<Vec<Value>>, DecoderError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().filter(|list| list.len() <= MAX_LAYERS);
        list.cloned().map(Some).ok_or_else(|| self.unsupported(name, "a short list is expected"))
    }

    fn object(&self, name: &'static str) -> Result<Option<&Map<String, Value>>, DecoderError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.unsupported(name, "an object is expected"))
    }

    fn must_be(&self, name: &'static str, wanted: &Value) -> Result<(), DecoderError> {
        match self.get(name) {
            Some(value) if value != wanted => {
                Err(self.unsupported(name, &format!("only {wanted} is computed")))
            }
            _ => Ok(()),
        }
    }

    /// Fails if a field is neither understood nor harmless.
    fn refuse_unknown(&self) -> Result<(), DecoderError> {
        let known = self.known.borrow();
        let harmless =
            |key: &str| known.contains(key) || (self.prefix.is_empty() && HARMLESS.contains(&key));
        match self.fields.iter().find(|(key, value)| !value.is_null() && !harmless(key)) {
            Some((key, _)) => {
                let message = "this decoder does not know the key, and it may change the numbers";
                Err(self.unsupported(key, message))
            }
            None => Ok(()),
        }
    }

    fn unsupported(&self, field: &str, message: &str) -> DecoderError {
        DecoderError::Unsupported {
            path: self.path.to_owned(),
            field: format!("{}{field}", self.prefix),
            value: self.fields.get(field).map_or("nothing".to_owned(), Value::to_string),
            message: message.to_owned(),
        }
    }
}

/// What a rotary embedding takes from outside of its own object.
#[derive(Clone, Copy)]
struct RopeDefaults {
    theta: f64,
    partial: f64,
    original: Option<usize>,
    head_dim: usize,
    context_length: usize,
    yarn_is_longrope: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The least that each family needs.
    fn base(model_type: &str) -> Value {
        json!({
            "model_type": model_type,
            "hidden_size": 64,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "vocab_size": 300,
            "max_position_embeddings": 4096,
        })
    }

    fn read(config: &Value) -> Result<DecoderDescription, DecoderError> {
        DecoderDescription::from_hf_json(config.to_string().as_bytes(), Path::new("config.json"))
    }

    fn with(model_type: &str, fields: Value) -> Value {
        let mut config = base(model_type);
        let Value::Object(fields) = fields else { panic!("an object") };
        config.as_object_mut().unwrap().extend(fields);
        config
    }

    #[test]
    fn every_family_survives_its_config_json() {
        for dialect in &DIALECTS {
            let description = read(&base(dialect.model_type)).unwrap();
            assert_eq!(description.family, dialect.family);
            let text = description.to_hf_json(Some(0), None);
            assert_eq!(read(&serde_json::from_str(&text).unwrap()).unwrap(), description);
        }
    }

    #[test]
    fn what_differs_survives_too() {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 1024});
        let long = json!({"type": "longrope", "short_factor": vec![1.0; 6],
            "long_factor": vec![2.0; 6], "attention_factor": 1.25});
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 512});
        for (model_type, fields) in [
            ("llama", json!({"rope_scaling": llama3, "attention_bias": true, "mlp_bias": true})),
            ("qwen3", json!({"rope_scaling": yarn, "rope_theta": 1e6})),
            (
                "qwen2",
                json!({"use_sliding_window": true, "sliding_window": 9,
                "max_window_layers": 3}),
            ),
            ("mistral", json!({"sliding_window": null, "head_dim": 32})),
            ("gemma2", json!({"attn_logit_softcapping": null, "query_pre_attn_scalar": 24})),
            (
                "gemma3_text",
                json!({"sliding_window_pattern": 3, "sliding_window": 512,
                "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8}}),
            ),
            ("smollm3", json!({"no_rope_layers": [1, 0, 1, 1, 1, 1, 0, 1]})),
            (
                "qwen2",
                json!({"architectures": ["Qwen2ForSequenceClassification"], "pad_token_id": 7,
                "id2label": {"0": "bueno", "1": "malo", "2": "otro"}}),
            ),
            (
                "gemma3_text",
                json!({"architectures": ["Gemma3TextForSequenceClassification"], "num_labels": 1}),
            ),
            (
                "phi3",
                json!({"rope_scaling": long, "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 1024, "sliding_window": 2047}),
            ),
            (
                "qwen3_moe",
                json!({"mlp_only_layers": [2], "decoder_sparse_step": 2,
                "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": true}),
            ),
        ] {
            let description = read(&with(model_type, fields)).unwrap();
            assert_ne!(description, read(&base(model_type)).unwrap());
            let text = description.to_hf_json(None, Some(1));
            assert_eq!(read(&serde_json::from_str(&text).unwrap()).unwrap(), description);
        }
    }

    #[test]
    fn layers_differ_as_their_families_say() {
        let windows = |config: &Value| -> Vec<bool> {
            read(config).unwrap().layers.iter().map(|layer| layer.window.is_some()).collect()
        };
        let (t, f) = (true, false);
        assert_eq!(windows(&base("mistral")), [t; 8]);
        assert_eq!(windows(&base("gemma2")), [t, f, t, f, t, f, t, f]);
        assert_eq!(windows(&base("gemma3_text")), [t, t, t, t, t, f, t, t]);
        assert_eq!(windows(&base("qwen2")), [f; 8]);
        let used = json!({"use_sliding_window": true, "max_window_layers": 6});
        assert_eq!(windows(&with("qwen3", used)), [f, f, f, f, f, f, t, t]);
        let smol = read(&base("smollm3")).unwrap();
        let turning: Vec<bool> = smol.layers.iter().map(|layer| layer.rope.is_some()).collect();
        assert_eq!(turning, [t, t, t, f, t, t, t, f]);
        let gemma = read(&base("gemma3_text")).unwrap();
        assert_eq!((gemma.layers[0].rope, gemma.layers[5].rope), (Some(1), Some(0)));
        assert_eq!((gemma.ropes[0].theta, gemma.ropes[1].theta), (1e6, 1e4));
    }

    #[test]
    fn what_cannot_be_computed_exactly_is_refused_by_name_and_value() {
        for (model_type, key, value, expect) in [
            ("gpt2", "model_type", json!("gpt2"), "gpt2"),
            ("llama", "hidden_act", json!("gelu"), "gelu"),
            ("llama", "sliding_window", json!(77), "77"),
            ("llama", "clip_qkv", json!(8.5), "8.5"),
            ("llama", "rope_scaling", json!({"rope_type": "ntk"}), "ntk"),
            ("llama", "rope_scaling", json!({"rope_type": "linear"}), "factor"),
            ("llama", "rope_scaling", json!({"rope_type": "default", "odd": 3}), "odd"),
            ("llama", "quantization_config", json!({"bits": 4}), "bits"),
            ("llama", "num_hidden_layers", json!(-1), "-1"),
            ("llama", "num_hidden_layers", json!(100_000), "100000"),
            ("llama", "partial_rotary_factor", json!(0.1), "rope"),
            ("mistral", "attention_bias", json!(true), "true"),
            ("qwen3", "layer_types", json!(["sliding_attention"]), "sliding_attention"),
            ("gemma2", "use_bidirectional_attention", json!(true), "true"),
            ("gemma2", "final_logit_softcapping", json!(-3.0), "-3"),
            ("mixtral", "output_router_logits", json!(true), "true"),
            ("mixtral", "num_experts_per_tok", json!(9), "9"),
            ("qwen3_moe", "num_experts", json!(16_000_000), "16000000"),
            ("phi3", "rope_scaling", json!({"type": "longrope"}), "factors"),
            ("classifier", "id2label", json!({"1": "only"}), "only"),
            ("classifier", "id2label", json!({}), "0 labels"),
            ("classifier", "num_labels", json!(1_000_000), "1000000"),
        ] {
            let mut config = with(model_type, json!({ key: value }));
            if model_type == "classifier" {
                config["model_type"] = json!("qwen3");
                config["architectures"] = json!(["Qwen3ForSequenceClassification"]);
            }
            let error = read(&config).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
            let named = error.contains(key) || error.starts_with("model.");
            assert!(named, "{key}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Whatever a file says, it is refused or it is a description that can be checked and sized.
        #[test]
        fn odd_values_are_errors(
            row in 0..DIALECTS.len(), picks in prop::collection::vec((0..KEYS.len(), 0..ODD), 0..4),
        ) {
            let mut config = base(DIALECTS[row].model_type);
            for (key, value) in picks {
                config[KEYS[key]] = odd(value);
            }
            if let Ok(description) = read(&config) {
                prop_assert!(description.parameters() > 0);
                for rope in &description.ropes {
                    let (frequencies, factor) = rope.frequencies(description.context_length);
                    prop_assert!(frequencies.iter().all(|f| f.is_finite()) && factor.is_finite());
                }
            }
        }
    }

    const KEYS: [&str; 26] = [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "partial_rotary_factor",
        "rms_norm_eps",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "sliding_window_pattern",
        "layer_types",
        "no_rope_layers",
        "no_rope_layer_interval",
        "num_experts",
        "num_local_experts",
        "num_experts_per_tok",
        "decoder_sparse_step",
        "query_pre_attn_scalar",
        "original_max_position_embeddings",
    ];
    const ODD: usize = 17;

    fn odd(index: usize) -> Value {
        match index {
            0 => json!(0),
            1 => json!(1),
            2 => json!(3),
            3 => json!(16_777_216),
            4 => json!(u64::MAX),
            5 => json!(-1),
            6 => json!(1e300),
            7 => json!(1e-300),
            8 => Value::Null,
            9 => json!([]),
            10 => json!(["sliding_attention"]),
            11 => {
                json!({"rope_type": "yarn", "factor": 1e308, "beta_fast": 1e300, "rope_theta": 1.0})
            }
            12 => json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 0.0,
                "high_freq_factor": 1e-9}),
            13 => json!({"type": "longrope", "short_factor": vec![1e-300; 8],
                "long_factor": vec![1e300; 8]}),
            14 => json!({"type": "linear", "factor": 1e-300}),
            15 => json!({"full_attention": {"rope_theta": 0}, "sliding_attention": null}),
            _ => json!(true),
        }
    }
}

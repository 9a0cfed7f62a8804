//! Families of models as llama.cpp knows them: a [`DecoderDescription`] read from the metadata of a
//! GGUF file and written to it, and the names of its tensors.
//!
//! What an architecture leaves unsaid stands in [`Architecture`], one row for each. The metadata of a
//! description is read back before a file is written: what comes back different is what llama.cpp
//! would compute differently, and is refused by name. Keys of an architecture that are not understood
//! are refused too. This file knows no tokenizer and moves no weights.

use std::{cell::RefCell, collections::BTreeMap, fmt::Debug, path::Path};

use crate::{
    decoder::{ParameterSpec, parameter_specs},
    description::{
        Activation, Biases, DecoderDescription, Experts, Family, LayerDescription, MAX_LAYERS,
        MAX_SIZE, NormPlacement, OutputHead, QkNorm, Rope, RopeScaling,
    },
    error::DecoderError,
    gguf::GgufValue,
};

/// Metadata of a file by key.
pub(crate) type Metadata = BTreeMap<String, GgufValue>;

/// A divisor for each pair of a head, of the low frequencies stretched alone.
const FREQUENCIES: &str = "rope_freqs.weight";
/// Divisors for sequences within the original context, and for longer ones.
const SHORT_FACTORS: &str = "rope_factors_short.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";

/// Keys of an architecture that change no number here.
const HARMLESS: &[&str] = &["vocab_size", "tensor_data_layout", "rope.scaling.finetuned"];

/// Where biases may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BiasRule {
    Never,
    /// On queries, keys and values, always.
    Qkv,
    /// Wherever the file has them.
    Anywhere,
}

/// What llama.cpp computes under a name.
#[derive(Debug)]
struct Architecture {
    name: &'static str,
    /// What a file without experts is read as.
    family: Family,
    norms: NormPlacement,
    qk_norm: QkNorm,
    biases: BiasRule,
    /// Whether neighbours turn together, instead of the halves of a head: rows of q and k are reordered.
    neighbours_turn: bool,
    /// Whether a file may hold divisors of the rotary frequencies.
    rope_factors: bool,
    /// Whether q, k and v, and gate and up, are one tensor each.
    fused: bool,
    /// Each n-th layer has no window.
    full_every: Option<usize>,
    /// Layers of the largest model of the family, which divides scores by its own number.
    query_by_width: Option<usize>,
    /// Each n-th layer does not turn.
    unturned_every: Option<usize>,
}

const QWEN2: Architecture = Architecture {
    name: "qwen2",
    family: Family::Qwen2,
    norms: NormPlacement::Before,
    qk_norm: QkNorm::None,
    biases: BiasRule::Qkv,
    neighbours_turn: false,
    rope_factors: false,
    fused: false,
    full_every: None,
    query_by_width: None,
    unturned_every: None,
};

static ARCHITECTURES: [Architecture; 9] = [
    Architecture {
        name: "llama",
        family: Family::Llama,
        biases: BiasRule::Anywhere,
        neighbours_turn: true,
        rope_factors: true,
        ..QWEN2
    },
    QWEN2,
    Architecture {
        name: "qwen3",
        family: Family::Qwen3,
        qk_norm: QkNorm::Head,
        biases: BiasRule::Never,
        ..QWEN2
    },
    Architecture {
        name: "qwen3moe",
        family: Family::Qwen3Moe,
        qk_norm: QkNorm::Head,
        biases: BiasRule::Never,
        ..QWEN2
    },
    Architecture {
        name: "gemma2",
        family: Family::Gemma2,
        norms: NormPlacement::Both,
        biases: BiasRule::Never,
        full_every: Some(2),
        query_by_width: Some(46),
        ..QWEN2
    },
    Architecture {
        name: "gemma3",
        family: Family::Gemma3,
        norms: NormPlacement::Both,
        qk_norm: QkNorm::Head,
        biases: BiasRule::Never,
        full_every: Some(6),
        query_by_width: Some(62),
        ..QWEN2
    },
    Architecture {
        name: "olmo2",
        family: Family::Olmo2,
        norms: NormPlacement::After,
        qk_norm: QkNorm::Full,
        biases: BiasRule::Never,
        ..QWEN2
    },
    Architecture {
        name: "smollm3",
        family: Family::SmolLm3,
        biases: BiasRule::Never,
        neighbours_turn: true,
        unturned_every: Some(4),
        ..QWEN2
    },
    Architecture {
        name: "phi3",
        family: Family::Phi3,
        biases: BiasRule::Never,
        rope_factors: true,
        fused: true,
        ..QWEN2
    },
];

impl Architecture {
    fn of(family: Family) -> &'static Self {
        let family = match family {
            Family::Mistral | Family::Mixtral => Family::Llama,
            other => other,
        };
        ARCHITECTURES.iter().find(|row| row.family == family).expect("each family has a row")
    }

    fn is_gemma(&self) -> bool {
        self.full_every.is_some()
    }

    /// The name in GGUF of a parameter of ours.
    fn tensor_name(&self, name: &str) -> Option<String> {
        let plain = match name {
            "model.embed_tokens.weight" => Some("token_embd.weight"),
            "model.norm.weight" => Some("output_norm.weight"),
            "lm_head.weight" => Some("output.weight"),
            _ => None,
        };
        if let Some(plain) = plain {
            return Some(plain.to_owned());
        }
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, kind) = part.rsplit_once('.')?;
        let part = match part {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" if self.fused => {
                "attn_qkv"
            }
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "self_attn.o_proj" => "attn_output",
            "post_attention_layernorm" if self.norms == NormPlacement::Before => "ffn_norm",
            "post_attention_layernorm" => "post_attention_norm",
            "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            "mlp.gate_proj" | "mlp.up_proj" if self.fused => "ffn_up",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            "mlp.gate" => "ffn_gate_inp",
            "mlp.experts.gate_proj" => "ffn_gate_exps",
            "mlp.experts.up_proj" => "ffn_up_exps",
            "mlp.experts.down_proj" => "ffn_down_exps",
            _ => return None,
        };
        Some(format!("blk.{layer}.{part}.{kind}"))
    }
}

/// A tensor of a GGUF file and the parameters whose rows it holds, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) parts: Vec<StoredPart>,
}

/// A parameter within a [`StoredTensor`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredPart {
    pub(crate) spec: ParameterSpec,
    /// The number of heads whose rows are reordered, for q and k where neighbours turn together.
    pub(crate) reordered_heads: Option<usize>,
}

impl StoredPart {
    /// Values of a row: one of a bias.
    pub(crate) fn row(&self) -> usize {
        self.spec.shape[1..].iter().product()
    }
}

/// Lists the tensors of a description's GGUF file in the order of its parameters.
pub(crate) fn stored_tensors(description: &DecoderDescription) -> Vec<StoredTensor> {
    let row = Architecture::of(description.family);
    let mut tensors: Vec<StoredTensor> = Vec::new();
    for spec in parameter_specs(description) {
        let name = row.tensor_name(&spec.name).expect("each parameter has a name in GGUF");
        let shape = spec.shape.clone();
        let heads = if spec.name.contains("self_attn.q_proj.") {
            Some(description.heads)
        } else if spec.name.contains("self_attn.k_proj.") {
            Some(description.kv_heads)
        } else {
            None
        };
        let reordered_heads = heads.filter(|_| row.neighbours_turn);
        let part = StoredPart { spec, reordered_heads };
        match tensors.last_mut() {
            // Parameters that are fused follow one another.
            Some(last) if last.name == name => {
                last.shape[0] += shape[0];
                last.parts.push(part);
            }
            _ => tensors.push(StoredTensor { name, shape, parts: vec![part] }),
        }
    }
    tensors
}

/// Whether a tensor is described by [`rope_tensors`] and not by the parameters.
pub(crate) fn is_rope_tensor(name: &str) -> bool {
    [FREQUENCIES, SHORT_FACTORS, LONG_FACTORS].contains(&name)
}

/// The tensors that hold divisors of rotary frequencies.
pub(crate) fn rope_tensors(description: &DecoderDescription) -> Vec<(&'static str, Vec<f32>)> {
    let row = Architecture::of(description.family);
    let Some(rope) = description.ropes.first().filter(|_| row.rope_factors) else {
        return Vec::new();
    };
    let floats = |factors: &[f64]| factors.iter().map(|&factor| factor as f32).collect();
    match stored_scaling(rope, description.context_length) {
        // Phi-3 always has both, and no other is asked for what all sequences share.
        RopeScaling::Long { short, long, attention_factor, .. }
            if short == long && attention_factor == 1.0 && !row.fused =>
        {
            vec![(FREQUENCIES, floats(&short))]
        }
        RopeScaling::Long { short, long, .. } => {
            vec![(LONG_FACTORS, floats(&long)), (SHORT_FACTORS, floats(&short))]
        }
        _ => Vec::new(),
    }
}

/// The metadata of a description, with the architecture's name first.
///
/// # Errors
/// If the model has another head than a language model's, or llama.cpp would compute something else; the
/// error names what differs.
pub(crate) fn metadata_of(
    description: &DecoderDescription,
    path: &Path,
) -> Result<Vec<(String, GgufValue)>, DecoderError> {
    refuse_other_heads(&description.head, path)?;
    let row = Architecture::of(description.family);
    let mut pairs =
        vec![("general.architecture".to_owned(), GgufValue::String(row.name.to_owned()))];
    let mut put = |key: &str, value: GgufValue| pairs.push((format!("{}.{key}", row.name), value));
    let size = |size: usize| GgufValue::U32(size as u32);
    let float = |value: f64| GgufValue::F32(value as f32);
    put("block_count", size(description.layers.len()));
    put("context_length", size(description.context_length));
    put("embedding_length", size(description.hidden_size));
    put("feed_forward_length", size(description.ffn_size));
    put("attention.head_count", size(description.heads));
    put("attention.head_count_kv", size(description.kv_heads));
    put("attention.key_length", size(description.head_dim));
    put("attention.value_length", size(description.head_dim));
    put("attention.layer_norm_rms_epsilon", float(description.norm_epsilon));
    put("vocab_size", size(description.vocab_size));
    if let Some(experts) = &description.experts {
        put("expert_count", size(experts.count));
        put("expert_used_count", size(experts.chosen));
        if row.family == Family::Qwen3Moe {
            put("expert_feed_forward_length", size(experts.size));
        }
    }
    if let Some(cap) = description.attention_soft_cap {
        put("attn_logit_softcapping", float(cap));
    }
    if let Some(cap) = description.logit_soft_cap {
        put("final_logit_softcapping", float(cap));
    }
    let window = description.layers.iter().find_map(|layer| layer.window);
    if let Some(window) = window.filter(|_| row.is_gemma()) {
        put("attention.sliding_window", size(window));
    }
    if let Some(rope) = description.ropes.first() {
        put("rope.dimension_count", size(rope.rotary_dim));
        put("rope.freq_base", float(rope.theta));
        let mut scaling = |kind: &str, factor: Option<f64>, original: Option<usize>| {
            put("rope.scaling.type", GgufValue::String(kind.to_owned()));
            if let Some(factor) = factor {
                put("rope.scaling.factor", float(factor));
            }
            if let Some(original) = original {
                put("rope.scaling.original_context_length", size(original));
            }
        };
        match stored_scaling(rope, description.context_length) {
            RopeScaling::Linear { factor } => scaling("linear", Some(factor), None),
            RopeScaling::Yarn { factor, original, .. } => {
                scaling("yarn", Some(factor), Some(original));
            }
            RopeScaling::Long { attention_factor, original, .. }
                if rope_tensors(description).len() == 2 =>
            {
                scaling("longrope", None, Some(original));
                put("rope.scaling.attn_factor", float(attention_factor));
            }
            _ => {}
        }
    }
    check_read_back(description, row, &pairs, path)?;
    Ok(pairs)
}

/// A file has no place for what is not a language model's.
fn refuse_other_heads(head: &OutputHead, path: &Path) -> Result<(), DecoderError> {
    let value = match head {
        OutputHead::LanguageModel => return Ok(()),
        OutputHead::LanguageModelWithValue => "a value of each token".to_owned(),
        OutputHead::Classifier { labels, .. } => format!("scores of {} labels", labels.len()),
    };
    Err(DecoderError::Unsupported {
        path: path.to_owned(),
        field: "the head".to_owned(),
        value,
        message:
            "a GGUF file holds language models alone; write a Hugging Face folder, or give the \
                  model the head of a language model"
                .to_owned(),
    })
}

/// Reads `pairs` as a file of them would be, and refuses a description that comes back different.
fn check_read_back(
    description: &DecoderDescription,
    row: &Architecture,
    pairs: &[(String, GgufValue)],
    path: &Path,
) -> Result<(), DecoderError> {
    let wanted = as_stored(description, row);
    let tensors = stored_tensors(description);
    let factors = rope_tensors(description);
    let header = Header {
        path,
        metadata: &pairs.iter().cloned().collect(),
        shape: &|name| {
            let found = tensors.iter().find(|tensor| tensor.name == name);
            found.map(|tensor| tensor.shape.clone())
        },
        values: &|name| {
            let found = factors.iter().find(|(factor, _)| *factor == name);
            found.map(|(_, values)| values.clone())
        },
        known: RefCell::default(),
    };
    let found = header.description()?;
    let fields = |d: &DecoderDescription| {
        let text = |value: &dyn Debug| format!("{value:?}");
        let windows: Vec<_> = d.layers.iter().map(|layer| layer.window).collect();
        let turning: Vec<_> = d.layers.iter().map(|layer| layer.rope).collect();
        let with_experts: Vec<_> = d.layers.iter().map(|layer| layer.experts).collect();
        [
            ("family", text(&d.family)),
            ("layers with a sliding window", text(&windows)),
            ("layers with rotary embeddings", text(&turning)),
            ("layers with experts", text(&with_experts)),
            ("experts", text(&d.experts)),
            ("rotary embeddings", text(&d.ropes)),
            ("biases", text(&d.biases)),
            ("query_pre_attn_scalar", text(&d.query_scalar)),
            ("attention soft cap", text(&d.attention_soft_cap)),
            ("logit soft cap", text(&d.logit_soft_cap)),
            ("activation", text(&d.activation)),
            ("tied embeddings", text(&d.tie_embeddings)),
            ("embedding scale", text(&d.embedding_scale)),
            ("the rest", text(&DecoderDescription { layers: Vec::new(), ..d.clone() })),
        ]
    };
    for ((name, ours), (_, theirs)) in fields(&wanted).into_iter().zip(fields(&found)) {
        if ours != theirs {
            return Err(DecoderError::Unsupported {
                path: path.to_owned(),
                field: format!("{name} of a {} model", description.family.model_type()),
                value: ours,
                message: format!(
                    "llama.cpp would compute it with {theirs} (architecture {}); write a Hugging \
                     Face folder instead",
                    row.name
                ),
            });
        }
    }
    Ok(())
}

/// The same decoder with every number as a file holds it.
fn as_stored(description: &DecoderDescription, row: &Architecture) -> DecoderDescription {
    let experts = description.experts.is_some();
    let mut stored = DecoderDescription {
        family: if experts { description.family } else { row.family },
        norm_epsilon: rounded(description.norm_epsilon),
        attention_soft_cap: description.attention_soft_cap.map(rounded),
        logit_soft_cap: description.logit_soft_cap.map(rounded),
        init_std: DEFAULT_STD,
        ..description.clone()
    };
    let context = description.context_length;
    for rope in &mut stored.ropes {
        *rope = Rope {
            theta: rounded(rope.theta),
            rotary_dim: rope.rotary_dim,
            scaling: stored_scaling(rope, context),
        };
    }
    for layer in &mut stored.layers {
        // A window that holds every sequence is none.
        layer.window = layer.window.filter(|&window| window < context || row.is_gemma());
    }
    stored
}

/// A file does not say how its weights began.
const DEFAULT_STD: f64 = 0.02;

/// How a file says the scaling of a rotary embedding.
fn stored_scaling(rope: &Rope, context_length: usize) -> RopeScaling {
    match &rope.scaling {
        // Within the context length nothing is stretched.
        RopeScaling::None | RopeScaling::Dynamic { .. } => RopeScaling::None,
        RopeScaling::Linear { factor } => RopeScaling::Linear { factor: rounded(*factor) },
        RopeScaling::Llama3 { .. } => {
            let plain = Rope { scaling: RopeScaling::None, ..rope.clone() }.frequencies(1).0;
            let stretched = rope.frequencies(1).0;
            let divisors: Vec<f64> =
                plain.iter().zip(stretched).map(|(plain, slow)| rounded(plain / slow)).collect();
            same_at_any_length(divisors, context_length)
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
            original,
        } => RopeScaling::Yarn {
            factor: rounded(*factor),
            beta_fast: *beta_fast,
            beta_slow: *beta_slow,
            attention_factor: rounded(*attention_factor),
            truncate: *truncate,
            original: *original,
        },
        RopeScaling::Long { short, long, attention_factor, original } => {
            let all = |factors: &[f64]| factors.iter().map(|&f| rounded(f)).collect::<Vec<_>>();
            let (short, long, attention_factor) =
                (all(short), all(long), rounded(*attention_factor));
            RopeScaling::Long { short, long, attention_factor, original: *original }
        }
    }
}

/// Divisors of the frequencies that hold for all sequences.
fn same_at_any_length(divisors: Vec<f64>, context_length: usize) -> RopeScaling {
    RopeScaling::Long {
        short: divisors.clone(),
        long: divisors,
        attention_factor: 1.0,
        original: context_length,
    }
}

/// The shortest decimal that rounds to the same f32: 1e-6 is stored as 9.99999997e-7.
fn rounded(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

/// Reads a description from what a file says of itself.
pub(crate) struct Header<'a> {
    /// Named in errors.
    pub(crate) path: &'a Path,
    pub(crate) metadata: &'a Metadata,
    /// The shape of a tensor, if the file has it.
    pub(crate) shape: &'a dyn Fn(&str) -> Option<Vec<usize>>,
    /// The values of a tensor, if the file has it.
    pub(crate) values: &'a dyn Fn(&str) -> Option<Vec<f32>>,
    /// Keys that were asked for.
    pub(crate) known: RefCell<Vec<String>>,
}

impl Header<'_> {
    /// Reads all of it; every key of the architecture is understood, or harmless.
    pub(crate) fn description(&self) -> Result<DecoderDescription, DecoderError> {
        let name = self.architecture()?;
        let Some(row) = ARCHITECTURES.iter().find(|row| row.name == name) else {
            let names = ARCHITECTURES.each_ref().map(|row| row.name).join(", ");
            let message = format!("this decoder reads {names}");
            return Err(self.unsupported("general.architecture", &message));
        };
        let (hidden_size, heads) =
            (self.size("embedding_length")?, self.size("attention.head_count")?);
        let layers = self.size("block_count")?;
        if layers > MAX_LAYERS {
            return Err(self.malformed(format!("it claims {layers} layers")));
        }
        let own_width = hidden_size.checked_div(heads).unwrap_or(0);
        let head_dim = self.optional_size("attention.key_length")?.unwrap_or(own_width);
        if let Some(length) = self.optional_size("attention.value_length")?
            && length != head_dim
        {
            let message = "keys and values must have the same length";
            return Err(self.unsupported(&self.key("attention.value_length"), message));
        }
        let context_length = self.size("context_length")?;
        let ffn_size = self.size("feed_forward_length")?;
        let experts = self.experts(row, ffn_size)?;
        let window = self.optional_size("attention.sliding_window")?.filter(|&window| window > 0);
        let ropes = self.ropes(row, head_dim, context_length, window)?;
        let two_ropes = ropes.len() > 1;
        let layer = |index: usize| {
            let is_each =
                |every: Option<usize>| every.is_some_and(|n| (index + 1).is_multiple_of(n));
            let window = window.filter(|_| !is_each(row.full_every));
            let window = window.filter(|&window| window < context_length || row.is_gemma());
            let turned_by = usize::from(two_ropes && window.is_some());
            let rope = (!is_each(row.unturned_every)).then_some(turned_by);
            LayerDescription { window, rope, experts: experts.is_some() }
        };
        let [attention_soft_cap, logit_soft_cap] = self.soft_caps(row)?;
        let by_width = row.query_by_width == Some(layers);
        let embedding = (self.shape)("token_embd.weight")
            .ok_or_else(|| self.malformed("it has no tensor \"token_embd.weight\"".to_owned()))?;
        let description = DecoderDescription {
            family: if experts.is_some() && row.family == Family::Llama {
                Family::Mixtral
            } else {
                row.family
            },
            hidden_size,
            ffn_size,
            heads,
            kv_heads: self.optional_size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            vocab_size: embedding[0],
            context_length,
            norm_epsilon: self.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            norms: row.norms,
            qk_norm: row.qk_norm,
            query_scalar: if by_width { own_width as f64 } else { head_dim as f64 },
            attention_soft_cap,
            logit_soft_cap,
            embedding_scale: if row.is_gemma() { (hidden_size as f64).sqrt() } else { 1.0 },
            biases: self.biases(row),
            activation: if row.is_gemma() { Activation::GeluTanh } else { Activation::Silu },
            experts,
            ropes,
            layers: (0..layers).map(layer).collect(),
            tie_embeddings: row.is_gemma() || (self.shape)("output.weight").is_none(),
            head: OutputHead::LanguageModel,
            init_std: DEFAULT_STD,
        };
        self.refuse_unknown()?;
        description.check()?;
        Ok(description)
    }

    fn experts(
        &self,
        row: &Architecture,
        ffn_size: usize,
    ) -> Result<Option<Experts>, DecoderError> {
        let Some(count) = self.optional_size("expert_count")?.filter(|&count| count > 0) else {
            return Ok(None);
        };
        let chosen = self.size("expert_used_count")?;
        let size = match row.family {
            Family::Llama => ffn_size,
            Family::Qwen3Moe => self.size("expert_feed_forward_length")?,
            _ => {
                let message = "this architecture has no experts here";
                return Err(self.unsupported(&self.key("expert_count"), message));
            }
        };
        // llama.cpp makes the weights of the chosen sum to 1 in both.
        Ok(Some(Experts { count, chosen, size, normalise: true }))
    }

    fn soft_caps(&self, row: &Architecture) -> Result<[Option<f64>; 2], DecoderError> {
        if row.family != Family::Gemma2 {
            return Ok([None; 2]);
        }
        let attention = self.number("attn_logit_softcapping")?.unwrap_or(50.0);
        let logits = self.number("final_logit_softcapping")?.unwrap_or(30.0);
        Ok([Some(attention), Some(logits)])
    }

    fn biases(&self, row: &Architecture) -> Biases {
        let has = |part: &str| (self.shape)(&format!("blk.0.{part}.bias")).is_some();
        match row.biases {
            BiasRule::Never => Biases::default(),
            BiasRule::Qkv => Biases { qkv: true, ..Biases::default() },
            BiasRule::Anywhere => Biases {
                qkv: has("attn_q"),
                attention_output: has("attn_output"),
                feed_forward: has("ffn_up"),
            },
        }
    }

    fn ropes(
        &self,
        row: &Architecture,
        head_dim: usize,
        context_length: usize,
        window: Option<usize>,
    ) -> Result<Vec<Rope>, DecoderError> {
        let rotary_dim = self.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
        if rotary_dim != head_dim && row.family != Family::Phi3 {
            let message = "whole heads are rotated";
            return Err(self.unsupported(&self.key("rope.dimension_count"), message));
        }
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        let scaling = self.scaling(row, context_length)?;
        let mut ropes = vec![Rope { theta, rotary_dim, scaling }];
        if row.family == Family::Gemma3 {
            // Layers with a window turn by the angles of short contexts.
            let theta = self.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
            if window.is_some() {
                ropes.push(Rope { theta, rotary_dim, scaling: RopeScaling::None });
            }
        }
        Ok(ropes)
    }

    fn scaling(
        &self,
        row: &Architecture,
        context_length: usize,
    ) -> Result<RopeScaling, DecoderError> {
        let key = self.key("rope.scaling.type");
        let kind = self.value(&key).map(|value| value.as_str().unwrap_or_default());
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let original = self.optional_size("rope.scaling.original_context_length")?;
        let original = original.unwrap_or(context_length);
        let attention_factor = self.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let factors = |name: &str| {
            let values = (self.values)(name).filter(|_| row.rope_factors);
            values.map(|values| values.into_iter().map(|v| rounded(v.into())).collect::<Vec<_>>())
        };
        let stored = match (factors(FREQUENCIES), factors(SHORT_FACTORS), factors(LONG_FACTORS)) {
            (Some(divisors), None, None) if attention_factor == 1.0 => {
                Some(same_at_any_length(divisors, context_length))
            }
            (None, Some(short), Some(long)) => {
                Some(RopeScaling::Long { short, long, attention_factor, original })
            }
            (None, None, None) => None,
            _ => {
                let message = "the factors of its rotary embedding are not those of one scaling";
                return Err(self.malformed(message.to_owned()));
            }
        };
        let divided = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
        match (kind, stored, divided) {
            (None | Some("none" | "longrope"), Some(stored), None) => Ok(stored),
            (Some("none"), None, _) | (None | Some("linear"), None, None)
                if attention_factor == 1.0 =>
            {
                Ok(RopeScaling::None)
            }
            // Without a kind it is this one.
            (None | Some("linear"), None, Some(factor)) if attention_factor == 1.0 => {
                Ok(RopeScaling::Linear { factor })
            }
            (Some("yarn"), None, Some(factor)) if attention_factor == 1.0 => {
                let or = |value: Option<f64>, default: f64| {
                    value.filter(|&value| value > 0.0).unwrap_or(default)
                };
                Ok(RopeScaling::Yarn {
                    factor,
                    beta_fast: or(self.number("rope.scaling.yarn_beta_fast")?, 32.0),
                    beta_slow: or(self.number("rope.scaling.yarn_beta_slow")?, 1.0),
                    attention_factor: rounded(0.1 * factor.ln() + 1.0),
                    truncate: true,
                    original,
                })
            }
            _ => {
                let message = "none, linear, yarn and longrope with their factors are computed";
                Err(self.unsupported(&key, message))
            }
        }
    }

    fn architecture(&self) -> Result<&str, DecoderError> {
        let value = self.metadata.get("general.architecture").and_then(GgufValue::as_str);
        value.ok_or_else(|| self.malformed("general.architecture is missing".to_owned()))
    }

    /// The whole key of a name of this architecture.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture().unwrap_or_default())
    }

    fn value(&self, key: &str) -> Option<&GgufValue> {
        self.known.borrow_mut().push(key.to_owned());
        self.metadata.get(key)
    }

    fn size(&self, name: &str) -> Result<usize, DecoderError> {
        let size = self.optional_size(name)?;
        size.ok_or_else(|| self.malformed(format!("{} is missing", self.key(name))))
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>, DecoderError> {
        let key = self.key(name);
        let Some(value) = self.value(&key) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|&size| size <= MAX_SIZE);
        size.map(Some)
            .ok_or_else(|| self.malformed(format!("{key} is {}, not a size", shown(value))))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, DecoderError> {
        let key = self.key(name);
        let Some(value) = self.value(&key) else { return Ok(None) };
        let number = value.as_f64().map(rounded);
        number
            .map(Some)
            .ok_or_else(|| self.malformed(format!("{key} is {}, not a float", shown(value))))
    }

    /// Fails if a key of the architecture is neither understood nor harmless.
    fn refuse_unknown(&self) -> Result<(), DecoderError> {
        let known = self.known.borrow();
        let prefix = format!("{}.", self.architecture()?);
        let understood = |key: &str| {
            let Some(name) = key.strip_prefix(&prefix) else { return true };
            HARMLESS.contains(&name) || known.iter().any(|known| known == key)
        };
        match self.metadata.keys().find(|key| !understood(key)) {
            Some(key) => {
                let message = "this decoder does not know the key, and it may change the numbers";
                Err(self.unsupported(key, message))
            }
            None => Ok(()),
        }
    }

    fn malformed(&self, message: String) -> DecoderError {
        DecoderError::Format { path: self.path.to_owned(), format: "GGUF", message }
    }

    fn unsupported(&self, key: &str, message: &str) -> DecoderError {
        DecoderError::Unsupported {
            path: self.path.to_owned(),
            field: key.to_owned(),
            value: self.metadata.get(key).map_or("nothing".to_owned(), shown),
            message: message.to_owned(),
        }
    }
}

/// A value as errors show it.
fn shown(value: &GgufValue) -> String {
    match value {
        GgufValue::Array(values) => format!("a list of {}", values.len()),
        GgufValue::String(text) => format!("{text:?}"),
        other => other
            .as_u64()
            .map(|number| number.to_string())
            .or_else(|| other.as_f64().map(|number| number.to_string()))
            .unwrap_or_else(|| format!("{other:?}")),
    }
}

//! The decoder: embedding, layers of attention and feed-forward in residual form, a last norm, and the
//! output layer.
//!
//! What it computes is a [`DecoderDescription`]; there is one decoder for all families. Legend: b
//! sequences, t tokens, d hidden size, h query heads, g key-value heads, k width of a head, v vocabulary;
//! n all tokens of a batch, e experts, f width of an expert. Parameters have the names of Hugging Face's
//! files. Nothing here knows files, tokenizers or schedules.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use milpa_base::Seed;
use milpa_tensor::{
    AdaptedMatrix, AttentionOptions, DType, Device, ExpertChanges, KvCache, LossRows, LossSummary,
    OutputLayer, ParameterId, ParameterStore, RopeTable, RowScores, Tape, Tensor, TensorError,
    document_starts,
};

use crate::{
    description::{
        Activation, DecoderDescription, LayerDescription, NormPlacement, OutputHead, QkNorm, Rope,
    },
    error::DecoderError,
    lora::{LoraConfig, LowRank},
};

/// Positions whose rotary angles are computed at the start.
const FIRST_POSITIONS: usize = 1024;

/// Weight and bias of a value head.
const VALUE_HEAD: [&str; 2] = ["v_head.summary.weight", "v_head.summary.bias"];
/// Weight of a classifier.
const SCORES: &str = "score.weight";

/// What a parameter is, before it has values.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    /// Name as in Hugging Face files; experts are stacked into one parameter.
    pub name: String,
    /// `[outputs, inputs]` of a matrix, `[experts, outputs, inputs]` of a stack, `[length]` of a norm
    /// or bias.
    pub shape: Vec<usize>,
    /// Standard deviation of new values; `None` is a norm, which begins as ones, or a bias, which
    /// begins as zeros.
    pub init_std: Option<f64>,
}

/// Lists a model's parameters in the order in which they are stored and seeded.
pub fn parameter_specs(description: impl Into<DecoderDescription>) -> Vec<ParameterSpec> {
    specs_of(&description.into())
}

fn specs_of(model: &DecoderDescription) -> Vec<ParameterSpec> {
    let (d, k) = (model.hidden_size, model.head_dim);
    let (q, kv) = (model.heads * k, model.kv_heads * k);
    let std = model.init_std;
    // Two branches of each layer add to the residual stream; scaled so, its variance at the start
    // does not grow with depth (GPT-2's rule).
    let residual_std = std / ((2 * model.layers.len()) as f64).sqrt();
    let mut specs = Vec::new();
    let mut add = |name: String, shape: &[usize], init_std: Option<f64>| {
        specs.push(ParameterSpec { name, shape: shape.to_vec(), init_std });
    };
    let names = NormNames::of(model.norms);
    add("model.embed_tokens.weight".to_owned(), &[model.vocab_size, d], Some(std));
    for (index, layer) in model.layers.iter().enumerate() {
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let bias = |part: &str| format!("model.layers.{index}.{part}.bias");
        let mut norm = |part: Option<&str>| {
            if let Some(part) = part {
                add(name(part), &[d], None);
            }
        };
        norm(names.before_attention);
        for (part, rows, columns, std, has_bias) in [
            ("self_attn.q_proj", q, d, std, model.biases.qkv),
            ("self_attn.k_proj", kv, d, std, model.biases.qkv),
            ("self_attn.v_proj", kv, d, std, model.biases.qkv),
            ("self_attn.o_proj", d, q, residual_std, model.biases.attention_output),
        ] {
            if part == "self_attn.o_proj" {
                let widths = match model.qk_norm {
                    QkNorm::None => None,
                    QkNorm::Head => Some([k, k]),
                    QkNorm::Full => Some([q, kv]),
                };
                if let Some([q_width, k_width]) = widths {
                    add(name("self_attn.q_norm"), &[q_width], None);
                    add(name("self_attn.k_norm"), &[k_width], None);
                }
            }
            add(name(part), &[rows, columns], Some(std));
            if has_bias {
                add(bias(part), &[rows], None);
            }
        }
        let mut norm = |part: Option<&str>| {
            if let Some(part) = part {
                add(name(part), &[d], None);
            }
        };
        norm(names.after_attention);
        norm(names.before_feed_forward);
        if let Some(experts) = model.experts.filter(|_| layer.experts) {
            let (e, f) = (experts.count, experts.size);
            add(name("mlp.gate"), &[e, d], Some(std));
            add(name("mlp.experts.gate_proj"), &[e, f, d], Some(std));
            add(name("mlp.experts.up_proj"), &[e, f, d], Some(std));
            add(name("mlp.experts.down_proj"), &[e, d, f], Some(residual_std));
        } else {
            let ffn = model.ffn_size;
            for (part, rows, columns, std) in [
                ("mlp.gate_proj", ffn, d, std),
                ("mlp.up_proj", ffn, d, std),
                ("mlp.down_proj", d, ffn, residual_std),
            ] {
                add(name(part), &[rows, columns], Some(std));
                if model.biases.feed_forward {
                    add(bias(part), &[rows], None);
                }
            }
        }
        if let Some(part) = names.after_feed_forward {
            add(name(part), &[d], None);
        }
    }
    add("model.norm.weight".to_owned(), &[d], None);
    let language_model = !matches!(model.head, OutputHead::Classifier { .. });
    if language_model && !model.tie_embeddings {
        add("lm_head.weight".to_owned(), &[model.vocab_size, d], Some(std));
    }
    match &model.head {
        OutputHead::LanguageModel => {}
        OutputHead::LanguageModelWithValue => {
            add(VALUE_HEAD[0].to_owned(), &[1, d], Some(std));
            add(VALUE_HEAD[1].to_owned(), &[1], None);
        }
        OutputHead::Classifier { labels, .. } => {
            add(SCORES.to_owned(), &[labels.len(), d], Some(std));
        }
    }
    specs
}

/// What the norms of a layer are called; the same name means different things in different families.
#[derive(Debug, Clone, Copy)]
struct NormNames {
    before_attention: Option<&'static str>,
    after_attention: Option<&'static str>,
    before_feed_forward: Option<&'static str>,
    after_feed_forward: Option<&'static str>,
}

impl NormNames {
    fn of(placement: NormPlacement) -> Self {
        let (input, middle) = (Some("input_layernorm"), Some("post_attention_layernorm"));
        let after_feed_forward = Some("post_feedforward_layernorm");
        let none = Self {
            before_attention: None,
            after_attention: None,
            before_feed_forward: None,
            after_feed_forward: None,
        };
        match placement {
            NormPlacement::Before => {
                Self { before_attention: input, before_feed_forward: middle, ..none }
            }
            NormPlacement::After => Self { after_attention: middle, after_feed_forward, ..none },
            NormPlacement::Both => Self {
                before_attention: input,
                after_attention: middle,
                before_feed_forward: Some("pre_feedforward_layernorm"),
                after_feed_forward,
            },
        }
    }
}

/// Makes the parameters of a new model: normal values from `seed`, norms ones, biases zeros.
///
/// Each value is a function of the seed, the parameter's name and its index.
pub fn new_parameters(
    description: impl Into<DecoderDescription>,
    seed: Seed,
    device: &Device,
) -> Result<ParameterStore, DecoderError> {
    let description = description.into();
    description.check()?;
    let seed = seed.derive("init");
    let mut parameters = ParameterStore::new(device.clone());
    for spec in specs_of(&description) {
        let values = initial_values(&spec, seed);
        // Norms and biases are not pulled towards zero.
        parameters.add(&spec.name, &spec.shape, &values, spec.init_std.is_some())?;
    }
    Ok(parameters)
}

/// The values that a parameter begins with.
pub(crate) fn initial_values(spec: &ParameterSpec, seed: Seed) -> Vec<f32> {
    let elements = spec.shape.iter().product::<usize>() as u64;
    match spec.init_std {
        Some(std) => {
            let stream = seed.derive(&spec.name);
            (0..elements).map(|i| (stream.normal_at(i) * std) as f32).collect()
        }
        None if spec.name.rsplit('.').next() == Some("bias") => vec![0.0; elements as usize],
        None => vec![1.0; elements as usize],
    }
}

/// Checks that a store has all parameters of a description, in their shapes.
pub(crate) fn check_parameters(
    description: &DecoderDescription,
    parameters: &ParameterStore,
) -> Result<(), DecoderError> {
    for spec in specs_of(description) {
        let shape = parameters.get(find(parameters, &spec.name)?).shape();
        if shape.lengths() != spec.shape {
            let message = format!("has shape {shape} instead of {:?}", spec.shape);
            return Err(DecoderError::Parameter { name: spec.name, message });
        }
    }
    Ok(())
}

/// The tokens that a forward sees.
#[derive(Debug, Clone, Copy)]
pub struct TokenBatch<'a> {
    /// Token ids `[b, t]`, row-major.
    pub tokens_bt: &'a [u32],
    /// Tokens per sequence.
    pub tokens: usize,
    /// A number for each token `[b, t]`; attention stays within a run of equal numbers. `None`: a
    /// sequence is one document.
    pub documents_bt: Option<&'a [u32]>,
}

impl<'a> TokenBatch<'a> {
    /// Sequences of `tokens` tokens that are one document each.
    pub fn new(tokens_bt: &'a [u32], tokens: usize) -> Self {
        Self { tokens_bt, tokens, documents_bt: None }
    }
}

/// A decoder whose parameters lie in a [`ParameterStore`].
#[derive(Debug)]
pub struct Decoder {
    description: DecoderDescription,
    compute: DType,
    /// Angles for the positions seen so far; files may claim contexts that are never used.
    ropes: Mutex<Vec<RopeTable>>,
    embedding: ParameterId,
    layers: Vec<Layer>,
    norm: ParameterId,
    heads: Heads,
}

/// The parameters of what comes after the last norm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// The output layer of a language model.
    tokens: Option<ParameterId>,
    /// Weight and bias of a value head.
    pub(crate) value: Option<[ParameterId; 2]>,
    /// The weight of a classifier.
    pub(crate) scores: Option<ParameterId>,
}

impl Heads {
    fn of(
        description: &DecoderDescription,
        parameters: &ParameterStore,
        embedding: ParameterId,
    ) -> Result<Self, DecoderError> {
        let none = Self { tokens: None, value: None, scores: None };
        let tied = description.tie_embeddings;
        let tokens = || if tied { Ok(embedding) } else { find(parameters, "lm_head.weight") };
        match description.head {
            OutputHead::LanguageModel => Ok(Self { tokens: Some(tokens()?), ..none }),
            OutputHead::LanguageModelWithValue => {
                let [weight, bias] = VALUE_HEAD.map(|name| find(parameters, name));
                Ok(Self { tokens: Some(tokens()?), value: Some([weight?, bias?]), ..none })
            }
            OutputHead::Classifier { .. } => {
                Ok(Self { scores: Some(find(parameters, SCORES)?), ..none })
            }
        }
    }
}

/// The parameters of a layer.
#[derive(Debug)]
struct Layer {
    description: LayerDescription,
    before_attention: Option<ParameterId>,
    qkv: [Linear; 3],
    qk_norm: Option<[ParameterId; 2]>,
    o: Linear,
    after_attention: Option<ParameterId>,
    before_feed_forward: Option<ParameterId>,
    feed_forward: FeedForward,
    after_feed_forward: Option<ParameterId>,
}

#[derive(Debug, Clone, Copy)]
struct Linear {
    weight: ParameterId,
    bias: Option<ParameterId>,
    lora: Option<LowRank>,
}

#[derive(Debug)]
enum FeedForward {
    Dense {
        gate_up: [Linear; 2],
        down: Linear,
    },
    Experts {
        router: Linear,
        gate_up_down: [ParameterId; 3],
        changes: [Option<LowRank>; 3],
        chosen: usize,
        normalise: bool,
    },
}

/// What every layer of one forward needs.
struct Pass<'a> {
    tape: &'a Tape,
    parameters: &'a ParameterStore,
    sequences: usize,
    tokens: usize,
    ropes: Vec<RopeTable>,
    positions_bt: Arc<[u32]>,
    attention: AttentionOptions,
    epsilon: f32,
}

impl Pass<'_> {
    fn weight(&self, id: ParameterId) -> Tensor {
        self.parameters.leaf(id)
    }

    fn norm(&self, x: &Tensor, id: ParameterId) -> Result<Tensor, DecoderError> {
        Ok(self.tape.rms_norm(x, &self.weight(id), self.epsilon)?)
    }

    /// Linear layers that share their input.
    fn linear<const N: usize>(
        &self,
        x: &Tensor,
        layers: &[Linear; N],
    ) -> Result<[Tensor; N], DecoderError> {
        let weights = layers.map(|layer| self.weight(layer.weight));
        let mut outputs = self.tape.linear_many(x, weights.each_ref())?.map(Some);
        // What A makes of x; the parts of a fused layer share it.
        let mut inner: Option<(ParameterId, Tensor)> = None;
        for (slot, (layer, weight)) in outputs.iter_mut().zip(layers.iter().zip(&weights)) {
            if let Some(change) = layer.lora
                && let Some(output) = slot.take()
            {
                let inner_r = match &inner {
                    Some((a, inner_r)) if *a == change.a => inner_r.clone(),
                    _ => {
                        let inner_r = self.tape.linear(x, &self.weight(change.a))?;
                        self.tape.scale(inner_r, change.scale)?
                    }
                };
                *slot = Some(self.adapted(&output, &inner_r, weight, change)?);
                inner = Some((change.a, inner_r));
            }
            if let Some(bias) = layer.bias
                && let Some(output) = slot.take()
            {
                *slot = Some(self.tape.add_bias(output, &self.weight(bias))?);
            }
        }
        Ok(outputs.map(|output| output.expect("each slot was filled again")))
    }

    /// What a changed matrix makes of x, given what the matrix and `scale · A` make of it.
    fn adapted(
        &self,
        output: &Tensor,
        inner_r: &Tensor,
        weight_od: &Tensor,
        LowRank { a, b, magnitude, scale }: LowRank,
    ) -> Result<Tensor, DecoderError> {
        let b_or = &self.weight(b);
        let change = self.tape.linear(inner_r, b_or)?;
        let sum = self.tape.add(output, &change)?;
        let Some(magnitude) = magnitude else { return Ok(sum) };
        let matrix = AdaptedMatrix { weight_od, a_rd: &self.weight(a), b_or, scale };
        Ok(self.tape.magnitude(&sum, &self.weight(magnitude), &matrix)?)
    }
}

impl Decoder {
    /// Finds the parameters of a description (or of a [`ModelConfig`](crate::ModelConfig)) in a store.
    ///
    /// # Errors
    /// If the description is impossible, or a parameter is missing or has another shape.
    pub fn new(
        description: impl Into<DecoderDescription>,
        parameters: &ParameterStore,
    ) -> Result<Self, DecoderError> {
        Self::build(description.into(), parameters, &BTreeMap::new())
    }

    /// As [`Self::new`], with the adapter that [`add_lora`](crate::add_lora) or
    /// [`read_lora`](crate::read_lora) has added to the parameters.
    pub fn with_lora(
        description: impl Into<DecoderDescription>,
        parameters: &ParameterStore,
        lora: &LoraConfig,
    ) -> Result<Self, DecoderError> {
        let description = description.into();
        let changes = lora.changes(&description, parameters)?;
        Self::build(description, parameters, &changes)
    }

    fn build(
        description: DecoderDescription,
        parameters: &ParameterStore,
        changes: &BTreeMap<String, LowRank>,
    ) -> Result<Self, DecoderError> {
        description.check()?;
        if let Device::Cuda(_) = parameters.device() {
            let problem = "a GPU has RMSNorm alone yet, docs/design/cuda.md; compute on the CPU";
            let (operation, problem) = ("decoder", problem.to_owned());
            return Err(TensorError::Unsupported { operation, problem }.into());
        }
        check_parameters(&description, parameters)?;
        let layers = description.layers.iter().enumerate();
        let layers = layers
            .map(|(index, layer)| Layer::new(&description, index, *layer, parameters, changes))
            .collect::<Result<_, _>>()?;
        let embedding = find(parameters, "model.embed_tokens.weight")?;
        let heads = Heads::of(&description, parameters, embedding)?;
        let ropes = description.ropes.iter();
        let ropes =
            ropes.map(|rope| rope_table(&description, rope, parameters, FIRST_POSITIONS)).collect();
        Ok(Self {
            compute: DType::F32,
            ropes: Mutex::new(ropes),
            embedding,
            layers,
            norm: find(parameters, "model.norm.weight")?,
            heads,
            description,
        })
    }

    /// Trains and scores in `dtype` from now on ([`Tape::autocast`]); f32 before.
    #[must_use]
    pub fn autocast(self, dtype: DType) -> Self {
        Self { compute: dtype, ..self }
    }

    /// What it computes.
    pub fn description(&self) -> &DecoderDescription {
        &self.description
    }

    /// Makes an empty cache with room for `capacity` tokens in each of `sequences` sequences.
    pub fn new_cache(&self, device: &Device, sequences: usize, capacity: usize) -> KvCache {
        let (kv_heads, head_dim) = (self.description.kv_heads, self.description.head_dim);
        KvCache::new(device, self.layers.len(), sequences, capacity, kv_heads, head_dim)
    }

    /// Runs the decoder up to its last norm: `tokens_bt → x_btd`.
    pub fn forward_hidden(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
    ) -> Result<Tensor, DecoderError> {
        self.forward(tape, parameters, batch, None, None)
    }

    /// The residual stream at the beginning of each layer, and at last what [`Self::forward_hidden`]
    /// returns: one more tensor `[b, t, d]` than there are layers.
    pub fn hidden_states(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
    ) -> Result<Vec<Tensor>, DecoderError> {
        let mut states = Vec::with_capacity(self.layers.len() + 1);
        let last = self.forward(tape, parameters, batch, None, Some(&mut states))?;
        states.push(last);
        Ok(states)
    }

    /// As [`Self::forward_hidden`] for tokens that follow those in `cache`, which is advanced.
    /// Needs a tape that does not record.
    pub fn forward_cached(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
        cache: &mut KvCache,
    ) -> Result<Tensor, DecoderError> {
        let x_btd = self.forward(tape, parameters, batch, Some(cache), None)?;
        cache.advance(batch.tokens);
        Ok(x_btd)
    }

    /// The mean (or weighted) cross-entropy as a tensor of one element.
    pub fn loss(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
        rows: &LossRows,
    ) -> Result<Tensor, DecoderError> {
        let x_btd = self.forward_hidden(tape, parameters, batch)?;
        let head_vd = self.head_vd(parameters)?;
        Ok(tape.linear_cross_entropy(&x_btd, self.output_layer(&head_vd), rows)?)
    }

    /// Computes the loss of a micro-batch and adds its gradients to those of `parameters`.
    ///
    /// For a step of several micro-batches give each the `divisor` of the whole step, so that the
    /// gradients and the returned losses add up to those of one large batch.
    pub fn loss_and_gradients(
        &self,
        parameters: &mut ParameterStore,
        batch: &TokenBatch<'_>,
        rows: &LossRows,
    ) -> Result<LossSummary, DecoderError> {
        let tape = Tape::recording(parameters.device().clone());
        self.loss_and_gradients_on(tape, parameters, batch, rows)
    }

    /// As [`Self::loss_and_gradients`], but fails at the first operation with a value that is not finite
    /// ([`Tape::audited`]): what a step that went wrong is done again with. Several times as slow.
    ///
    /// # Errors
    /// Besides those of the other, [`TensorError::NonFinite`].
    pub fn audited_loss_and_gradients(
        &self,
        parameters: &mut ParameterStore,
        batch: &TokenBatch<'_>,
        rows: &LossRows,
    ) -> Result<LossSummary, DecoderError> {
        let tape = Tape::recording(parameters.device().clone()).audited(parameters);
        self.loss_and_gradients_on(tape, parameters, batch, rows)
    }

    fn loss_and_gradients_on(
        &self,
        tape: Tape,
        parameters: &mut ParameterStore,
        batch: &TokenBatch<'_>,
        rows: &LossRows,
    ) -> Result<LossSummary, DecoderError> {
        let tape = tape.autocast(self.compute);
        let x_btd = self.forward_hidden(&tape, parameters, batch)?;
        let head_vd = self.head_vd(parameters)?;
        let layer = self.output_layer(&head_vd);
        Ok(tape.cross_entropy_and_backward(&x_btd, layer, rows, parameters)?)
    }

    /// `log p(target)` of every row of a batch, without gradients.
    pub fn score_rows(
        &self,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
        targets_bt: &[u32],
    ) -> Result<RowScores, DecoderError> {
        let tape = Tape::inference(parameters.device().clone()).autocast(self.compute);
        let x_btd = self.forward_hidden(&tape, parameters, batch)?;
        self.score_hidden(&tape, parameters, &x_btd, targets_bt)
    }

    /// `log p(target)` of every row as a tensor with gradient, for losses made of them.
    pub fn log_probabilities(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
        targets_bt: &[u32],
    ) -> Result<Tensor, DecoderError> {
        let x_btd = self.forward_hidden(tape, parameters, batch)?;
        let head_vd = self.head_vd(parameters)?;
        Ok(tape.linear_log_probabilities(&x_btd, self.output_layer(&head_vd), targets_bt)?)
    }

    /// Logits `[rows, v]` of chosen rows of `x_btd` (row `b * t + t'`).
    pub fn logits(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        x_btd: &Tensor,
        rows: &[u32],
    ) -> Result<Tensor, DecoderError> {
        let x_nd = tape.select_rows(x_btd, rows)?;
        let logits_nv = tape.linear(&x_nd, &self.head_vd(parameters)?)?;
        match self.description.logit_soft_cap {
            Some(cap) => Ok(tape.soft_cap(logits_nv, cap as f32)?),
            None => Ok(logits_nv),
        }
    }

    /// `log p(target)` of rows of hidden states, without gradients.
    pub(crate) fn score_hidden(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        x_nd: &Tensor,
        targets: &[u32],
    ) -> Result<RowScores, DecoderError> {
        let head_vd = self.head_vd(parameters)?;
        Ok(tape.score_rows(x_nd, self.output_layer(&head_vd), targets)?)
    }

    pub(crate) fn heads(&self) -> &Heads {
        &self.heads
    }

    /// The weight that makes logits of hidden states.
    fn head_vd(&self, parameters: &ParameterStore) -> Result<Tensor, DecoderError> {
        let tokens = self.heads.tokens.ok_or(DecoderError::Head { wanted: "logits of tokens" })?;
        Ok(parameters.leaf(tokens))
    }

    fn output_layer<'a>(&self, weight_vd: &'a Tensor) -> OutputLayer<'a> {
        let soft_cap = self.description.logit_soft_cap.map(|cap| cap as f32);
        OutputLayer { weight_vd, soft_cap }
    }

    fn forward(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
        mut cache: Option<&mut KvCache>,
        mut states: Option<&mut Vec<Tensor>>,
    ) -> Result<Tensor, DecoderError> {
        let past = cache.as_ref().map_or(0, |cache| cache.len());
        let pass = self.begin(tape, parameters, batch, past)?;

        let embedding_vd = pass.weight(self.embedding);
        let mut residual_btd = tape.embedding(&embedding_vd, batch.tokens_bt, batch.tokens)?;
        if self.description.embedding_scale != 1.0 {
            residual_btd = tape.scale(residual_btd, self.description.embedding_scale as f32)?;
        }
        // What the last branch has computed and the residual stream has not yet received.
        let mut branch_btd: Option<Tensor> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let h_btd;
            (residual_btd, h_btd) = enter(&pass, residual_btd, branch_btd, layer.before_attention)?;
            if let Some(states) = &mut states {
                states.push(residual_btd.clone());
            }
            let cache = cache.as_deref_mut().map(|cache| (cache, index));
            let attended_btd = self.attention(&pass, layer, h_btd, cache)?;
            let attended_btd = leave(&pass, attended_btd, layer.after_attention)?;

            let h_btd;
            (residual_btd, h_btd) =
                enter(&pass, residual_btd, Some(attended_btd), layer.before_feed_forward)?;
            let inner_btd = self.feed_forward(&pass, layer, h_btd)?;
            branch_btd = Some(leave(&pass, inner_btd, layer.after_feed_forward)?);
        }
        Ok(enter(&pass, residual_btd, branch_btd, Some(self.norm))?.1)
    }

    /// Grouped-query attention; queries and keys may be normed and rotated.
    fn attention(
        &self,
        pass: &Pass<'_>,
        layer: &Layer,
        h_btd: Tensor,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Result<Tensor, DecoderError> {
        let (tape, model) = (pass.tape, &self.description);
        let (b, t, k) = (pass.sequences, pass.tokens, model.head_dim);
        let [mut q, mut key, value] = pass.linear(&h_btd, &layer.qkv)?;
        drop(h_btd);
        // A norm works on rows of its weight's length: a head, or all heads of a token.
        if let Some([q_norm, k_norm]) = layer.qk_norm {
            q = pass.norm(&q, q_norm)?;
            key = pass.norm(&key, k_norm)?;
        }
        let mut q_bthk = q.reshape(&[b, t, model.heads, k])?;
        let mut k_btgk = key.reshape(&[b, t, model.kv_heads, k])?;
        let v_btgk = value.reshape(&[b, t, model.kv_heads, k])?;
        if let Some(rope) = layer.description.rope {
            q_bthk = tape.rope(q_bthk, &pass.ropes[rope], &pass.positions_bt)?;
            k_btgk = tape.rope(k_btgk, &pass.ropes[rope], &pass.positions_bt)?;
        }
        let window = layer.description.window;
        let options = AttentionOptions { window, ..pass.attention.clone() };
        let out_bthk = match cache {
            Some((cache, index)) => {
                tape.attention_cached(&q_bthk, &k_btgk, &v_btgk, &options, cache, index)?
            }
            None => tape.attention(&q_bthk, &k_btgk, &v_btgk, &options)?,
        };
        let out_bth = out_bthk.reshape(&[b, t, model.heads * k])?;
        let [out_btd] = pass.linear(&out_bth, &[layer.o])?;
        Ok(out_btd)
    }

    /// `down(activation(gate(h)) · up(h))`, of one layer or of the experts chosen for each token.
    fn feed_forward(
        &self,
        pass: &Pass<'_>,
        layer: &Layer,
        h_btd: Tensor,
    ) -> Result<Tensor, DecoderError> {
        let tape = pass.tape;
        match &layer.feed_forward {
            FeedForward::Dense { gate_up, down } => {
                let [gate, up] = pass.linear(&h_btd, gate_up)?;
                drop(h_btd);
                let inner = match self.description.activation {
                    Activation::Silu => tape.swiglu(&gate, &up)?,
                    Activation::GeluTanh => tape.geglu(&gate, &up)?,
                };
                drop((gate, up));
                let [out_btd] = pass.linear(&inner, &[*down])?;
                Ok(out_btd)
            }
            FeedForward::Experts { router, gate_up_down, changes, chosen, normalise } => {
                let [logits_bte] = pass.linear(&h_btd, &[*router])?;
                let (routing, weights_nc) = tape.route(&logits_bte, *chosen, *normalise)?;
                let [gate_efd, up_efd, down_edf] = gate_up_down.map(|id| pass.weight(id));
                let experts = [&gate_efd, &up_efd, &down_edf];
                let low = |change: LowRank| [change.a, change.b].map(|id| pass.weight(id));
                let [gate, up, down] = changes.map(|change| change.map(low));
                let scale = changes.iter().flatten().next().map_or(1.0, |change| change.scale);
                let gate_up = gate.as_ref().zip(up.as_ref());
                let changes = ExpertChanges {
                    gate_up: gate_up.map(|([a, b_gate], [_, b_up])| [a, b_gate, b_up]),
                    down: down.as_ref().map(|[a, b]| [a, b]),
                    scale,
                };
                Ok(tape.changed_experts(&h_btd, &weights_nc, &routing, experts, &changes)?)
            }
        }
    }

    /// Angles for at least `positions` positions.
    fn ropes(&self, parameters: &ParameterStore, positions: usize) -> Vec<RopeTable> {
        let mut tables = self.ropes.lock().unwrap_or_else(PoisonError::into_inner);
        for (table, rope) in tables.iter_mut().zip(&self.description.ropes) {
            let fits = table.positions() >= positions
                && rope.is_long(table.positions()) == rope.is_long(positions);
            if !fits {
                let room = rope.room(positions);
                *table = rope_table(&self.description, rope, parameters, room);
            }
        }
        tables.clone()
    }

    /// Checks the batch and prepares what all layers share.
    fn begin<'a>(
        &self,
        tape: &'a Tape,
        parameters: &'a ParameterStore,
        batch: &TokenBatch<'_>,
        past: usize,
    ) -> Result<Pass<'a>, DecoderError> {
        let (length, tokens) = (batch.tokens_bt.len(), batch.tokens);
        if tokens == 0 || length == 0 || !length.is_multiple_of(tokens) {
            let message = format!("{length} token ids are no sequences of {tokens}");
            return Err(DecoderError::Batch(message));
        }
        if tokens > self.description.context_length - past.min(self.description.context_length) {
            let message = format!(
                "a sequence has {} tokens, but the model takes {}",
                past + tokens,
                self.description.context_length
            );
            return Err(DecoderError::Batch(message));
        }
        let sequences = length / tokens;
        let row = past as u32..(past + tokens) as u32;
        let positions_bt = std::iter::repeat_n(row, sequences).flatten().collect();
        let first_key = match batch.documents_bt {
            None => None,
            Some(_) if past > 0 => {
                return Err(DecoderError::Batch("a cache holds one document".to_owned()));
            }
            Some(documents) if documents.len() != length => {
                let message = format!("{} document numbers for {length} tokens", documents.len());
                return Err(DecoderError::Batch(message));
            }
            Some(documents) => {
                let mut first_key = vec![0; length];
                document_starts(documents, tokens, &mut first_key);
                Some(first_key.into())
            }
        };
        let model = &self.description;
        Ok(Pass {
            tape,
            parameters,
            sequences,
            tokens,
            ropes: self.ropes(parameters, past + tokens),
            positions_bt,
            attention: AttentionOptions {
                scale: 1.0 / (model.query_scalar as f32).sqrt(),
                first_key,
                window: None,
                soft_cap: model.attention_soft_cap.map(|cap| cap as f32),
            },
            epsilon: model.norm_epsilon as f32,
        })
    }
}

impl Layer {
    fn new(
        model: &DecoderDescription,
        index: usize,
        layer: LayerDescription,
        parameters: &ParameterStore,
        changes: &BTreeMap<String, LowRank>,
    ) -> Result<Self, DecoderError> {
        let id = |part: &str| find(parameters, &format!("model.layers.{index}.{part}.weight"));
        let change = |part: &str| changes.get(&format!("model.layers.{index}.{part}")).copied();
        let linear = |part: &str, has_bias: bool| -> Result<Linear, DecoderError> {
            let bias = format!("model.layers.{index}.{part}.bias");
            let bias = has_bias.then(|| find(parameters, &bias)).transpose()?;
            Ok(Linear { weight: id(part)?, bias, lora: change(part) })
        };
        let norm = |part: Option<&str>| part.map(&id).transpose();
        let (names, biases) = (NormNames::of(model.norms), model.biases);
        let feed_forward = match model.experts.filter(|_| layer.experts) {
            Some(experts) => FeedForward::Experts {
                router: linear("mlp.gate", false)?,
                gate_up_down: [
                    id("mlp.experts.gate_proj")?,
                    id("mlp.experts.up_proj")?,
                    id("mlp.experts.down_proj")?,
                ],
                changes: [
                    change("mlp.experts.gate_proj"),
                    change("mlp.experts.up_proj"),
                    change("mlp.experts.down_proj"),
                ],
                chosen: experts.chosen,
                normalise: experts.normalise,
            },
            None => FeedForward::Dense {
                gate_up: [
                    linear("mlp.gate_proj", biases.feed_forward)?,
                    linear("mlp.up_proj", biases.feed_forward)?,
                ],
                down: linear("mlp.down_proj", biases.feed_forward)?,
            },
        };
        Ok(Self {
            description: layer,
            before_attention: norm(names.before_attention)?,
            qkv: [
                linear("self_attn.q_proj", biases.qkv)?,
                linear("self_attn.k_proj", biases.qkv)?,
                linear("self_attn.v_proj", biases.qkv)?,
            ],
            qk_norm: match model.qk_norm {
                QkNorm::None => None,
                QkNorm::Head | QkNorm::Full => {
                    Some([id("self_attn.q_norm")?, id("self_attn.k_norm")?])
                }
            },
            o: linear("self_attn.o_proj", biases.attention_output)?,
            after_attention: norm(names.after_attention)?,
            before_feed_forward: norm(names.before_feed_forward)?,
            feed_forward,
            after_feed_forward: norm(names.after_feed_forward)?,
        })
    }
}

/// Adds the last branch to the residual stream; returns the stream and what the next branch reads.
fn enter(
    pass: &Pass<'_>,
    residual_btd: Tensor,
    branch_btd: Option<Tensor>,
    norm: Option<ParameterId>,
) -> Result<(Tensor, Tensor), DecoderError> {
    let tape = pass.tape;
    match (branch_btd, norm) {
        (Some(branch), Some(norm)) => {
            Ok(tape.add_rms_norm(residual_btd, &branch, &pass.weight(norm), pass.epsilon)?)
        }
        (None, Some(norm)) => {
            let h_btd = pass.norm(&residual_btd, norm)?;
            Ok((residual_btd, h_btd))
        }
        (Some(branch), None) => {
            let sum_btd = tape.add(&residual_btd, &branch)?;
            Ok((sum_btd.clone(), sum_btd))
        }
        (None, None) => Ok((residual_btd.clone(), residual_btd)),
    }
}

/// What a branch gives to the residual stream.
fn leave(
    pass: &Pass<'_>,
    branch_btd: Tensor,
    norm: Option<ParameterId>,
) -> Result<Tensor, DecoderError> {
    match norm {
        Some(norm) => pass.norm(&branch_btd, norm),
        None => Ok(branch_btd),
    }
}

fn rope_table(
    model: &DecoderDescription,
    rope: &Rope,
    parameters: &ParameterStore,
    positions: usize,
) -> RopeTable {
    let positions = positions.min(model.context_length);
    let (frequencies, factor) = rope.frequencies(positions);
    let device = parameters.device();
    RopeTable::from_frequencies(device, model.head_dim, &frequencies, factor, positions)
}

fn find(parameters: &ParameterStore, name: &str) -> Result<ParameterId, DecoderError> {
    parameters.id(name).ok_or_else(|| DecoderError::Parameter {
        name: name.to_owned(),
        message: "is missing among the weights".to_owned(),
    })
}

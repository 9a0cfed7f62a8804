//! The decoder: embedding, L layers of attention and SwiGLU in pre-norm residual form, a last norm,
//! and the output layer.
//!
//! Legend: b sequences, t tokens, d hidden size, h query heads, g key-value heads, k width of a
//! head, v vocabulary. Parameters have the names of Hugging Face's Qwen3 and Llama. Nothing here
//! knows files, tokenizers or schedules.

use std::sync::{Arc, Mutex, PoisonError};

use milpa_base::Seed;
use milpa_tensor::{
    AttentionOptions, DType, Device, KvCache, LossRows, LossSummary, ParameterId, ParameterStore,
    RopeTable, RowScores, Tape, Tensor, document_starts,
};

use crate::{config::ModelConfig, error::DecoderError};

/// Positions whose rotary angles are computed at the start.
const FIRST_POSITIONS: usize = 1024;

/// What a parameter is, before it has values.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    /// Name as in Hugging Face files.
    pub name: String,
    /// `[outputs, inputs]` of a matrix, `[length]` of a norm.
    pub shape: Vec<usize>,
    /// Standard deviation of new values; `None` is a norm, which begins as ones.
    pub init_std: Option<f64>,
}

/// Lists a model's parameters in the order in which they are stored and seeded.
pub fn parameter_specs(config: &ModelConfig) -> Vec<ParameterSpec> {
    let (d, k, ffn) = (config.hidden_size, config.head_dim(), config.ffn_size);
    let (q, kv) = (config.heads * k, config.kv_heads * k);
    let std = config.init_std;
    // Two branches of each layer add to the residual stream; scaled so, its variance at the start
    // does not grow with depth (GPT-2's rule).
    let residual_std = std / ((2 * config.layers) as f64).sqrt();
    let mut specs = Vec::new();
    let mut add = |name: String, shape: &[usize], init_std: Option<f64>| {
        specs.push(ParameterSpec { name, shape: shape.to_vec(), init_std });
    };
    add("model.embed_tokens.weight".to_owned(), &[config.vocab_size, d], Some(std));
    for layer in 0..config.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        add(name("input_layernorm"), &[d], None);
        add(name("self_attn.q_proj"), &[q, d], Some(std));
        add(name("self_attn.k_proj"), &[kv, d], Some(std));
        add(name("self_attn.v_proj"), &[kv, d], Some(std));
        if config.qk_norm {
            add(name("self_attn.q_norm"), &[k], None);
            add(name("self_attn.k_norm"), &[k], None);
        }
        add(name("self_attn.o_proj"), &[d, q], Some(residual_std));
        add(name("post_attention_layernorm"), &[d], None);
        add(name("mlp.gate_proj"), &[ffn, d], Some(std));
        add(name("mlp.up_proj"), &[ffn, d], Some(std));
        add(name("mlp.down_proj"), &[d, ffn], Some(residual_std));
    }
    add("model.norm.weight".to_owned(), &[d], None);
    if !config.tie_embeddings {
        add("lm_head.weight".to_owned(), &[config.vocab_size, d], Some(std));
    }
    specs
}

/// Makes the parameters of a new model: normal values from `seed`, norms ones.
///
/// Each value is a function of the seed, the parameter's name and its index.
pub fn new_parameters(
    config: &ModelConfig,
    seed: Seed,
    device: &Arc<dyn Device>,
) -> Result<ParameterStore, DecoderError> {
    config.check()?;
    let seed = seed.derive("init");
    let mut parameters = ParameterStore::new(Arc::clone(device));
    for spec in parameter_specs(config) {
        let elements = spec.shape.iter().product::<usize>() as u64;
        let values: Vec<f32> = match spec.init_std {
            Some(std) => {
                let stream = seed.derive(&spec.name);
                (0..elements).map(|i| (stream.normal_at(i) * std) as f32).collect()
            }
            None => vec![1.0; elements as usize],
        };
        // Norms are not pulled towards zero.
        parameters.add(&spec.name, &spec.shape, &values, spec.init_std.is_some())?;
    }
    Ok(parameters)
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
    config: ModelConfig,
    compute: DType,
    /// Angles for the positions seen so far; files may claim contexts that are never used.
    rope: Mutex<RopeTable>,
    embedding: ParameterId,
    layers: Vec<Layer>,
    norm: ParameterId,
    head: ParameterId,
}

#[derive(Debug)]
struct Layer {
    input_norm: ParameterId,
    q: ParameterId,
    k: ParameterId,
    v: ParameterId,
    qk_norm: Option<(ParameterId, ParameterId)>,
    o: ParameterId,
    post_attention_norm: ParameterId,
    gate: ParameterId,
    up: ParameterId,
    down: ParameterId,
}

/// What every layer of one forward needs.
struct Pass<'a> {
    tape: &'a Tape,
    parameters: &'a ParameterStore,
    sequences: usize,
    tokens: usize,
    rope: RopeTable,
    positions_bt: Arc<[u32]>,
    attention: AttentionOptions,
}

impl Pass<'_> {
    fn weight(&self, id: ParameterId) -> Tensor {
        self.parameters.leaf(id)
    }
}

impl Decoder {
    /// Finds the parameters of `config` in a store.
    ///
    /// # Errors
    /// If the configuration is impossible, or a parameter is missing or has another shape.
    pub fn new(config: &ModelConfig, parameters: &ParameterStore) -> Result<Self, DecoderError> {
        config.check()?;
        for spec in parameter_specs(config) {
            let id = find(parameters, &spec.name)?;
            let shape = parameters.get(id).shape();
            if shape.lengths() != spec.shape {
                let message = format!("has shape {shape} instead of {:?}", spec.shape);
                return Err(DecoderError::Parameter { name: spec.name, message });
            }
        }
        let layer = |layer: usize| {
            let id = |part: &str| find(parameters, &format!("model.layers.{layer}.{part}.weight"));
            let qk_norm = if config.qk_norm {
                Some((id("self_attn.q_norm")?, id("self_attn.k_norm")?))
            } else {
                None
            };
            Ok(Layer {
                input_norm: id("input_layernorm")?,
                q: id("self_attn.q_proj")?,
                k: id("self_attn.k_proj")?,
                v: id("self_attn.v_proj")?,
                qk_norm,
                o: id("self_attn.o_proj")?,
                post_attention_norm: id("post_attention_layernorm")?,
                gate: id("mlp.gate_proj")?,
                up: id("mlp.up_proj")?,
                down: id("mlp.down_proj")?,
            })
        };
        let embedding = find(parameters, "model.embed_tokens.weight")?;
        let head =
            if config.tie_embeddings { embedding } else { find(parameters, "lm_head.weight")? };
        Ok(Self {
            config: config.clone(),
            compute: DType::F32,
            rope: Mutex::new(rope_table(config, parameters, FIRST_POSITIONS)),
            embedding,
            layers: (0..config.layers).map(layer).collect::<Result<_, DecoderError>>()?,
            norm: find(parameters, "model.norm.weight")?,
            head,
        })
    }

    /// Trains and scores in `dtype` from now on ([`Tape::autocast`]); f32 before.
    #[must_use]
    pub fn autocast(self, dtype: DType) -> Self {
        Self { compute: dtype, ..self }
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Makes an empty cache with room for `capacity` tokens in each of `sequences` sequences.
    pub fn new_cache(
        &self,
        device: &Arc<dyn Device>,
        sequences: usize,
        capacity: usize,
    ) -> KvCache {
        let (kv_heads, head_dim) = (self.config.kv_heads, self.config.head_dim());
        KvCache::new(device, self.layers.len(), sequences, capacity, kv_heads, head_dim)
    }

    /// Runs the decoder up to its last norm: `tokens_bt → x_btd`.
    pub fn forward_hidden(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
    ) -> Result<Tensor, DecoderError> {
        self.forward(tape, parameters, batch, None)
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
        let x_btd = self.forward(tape, parameters, batch, Some(cache))?;
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
        Ok(tape.linear_cross_entropy(&x_btd, &parameters.leaf(self.head), rows)?)
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
        let tape = Tape::recording(Arc::clone(parameters.device())).autocast(self.compute);
        let x_btd = self.forward_hidden(&tape, parameters, batch)?;
        let head_vd = parameters.leaf(self.head);
        Ok(tape.cross_entropy_and_backward(&x_btd, &head_vd, rows, parameters)?)
    }

    /// `log p(target)` of every row of a batch, without gradients.
    pub fn score_rows(
        &self,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
        targets_bt: &[u32],
    ) -> Result<RowScores, DecoderError> {
        let tape = Tape::inference(Arc::clone(parameters.device())).autocast(self.compute);
        let x_btd = self.forward_hidden(&tape, parameters, batch)?;
        Ok(tape.score_rows(&x_btd, &parameters.leaf(self.head), targets_bt)?)
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
        Ok(tape.linear_log_probabilities(&x_btd, &parameters.leaf(self.head), targets_bt)?)
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
        Ok(tape.linear(&x_nd, &parameters.leaf(self.head))?)
    }

    /// The weight of the output layer.
    pub(crate) fn head(&self, parameters: &ParameterStore) -> Tensor {
        parameters.leaf(self.head)
    }

    fn forward(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Tensor, DecoderError> {
        let past = cache.as_ref().map_or(0, |cache| cache.len());
        let pass = self.begin(tape, parameters, batch, past)?;
        let epsilon = self.config.norm_epsilon as f32;

        let embedding_vd = pass.weight(self.embedding);
        let mut residual_btd = tape.embedding(&embedding_vd, batch.tokens_bt, batch.tokens)?;
        // What the last branch has computed and the residual stream has not yet received.
        let mut branch_btd: Option<Tensor> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let norm_d = pass.weight(layer.input_norm);
            let h_btd;
            if let Some(branch) = branch_btd {
                (residual_btd, h_btd) =
                    tape.add_rms_norm(residual_btd, &branch, &norm_d, epsilon)?;
            } else {
                h_btd = tape.rms_norm(&residual_btd, &norm_d, epsilon)?;
            }
            let cache = cache.as_deref_mut().map(|cache| (cache, index));
            let attended_btd = self.attention(&pass, layer, h_btd, cache)?;

            let norm_d = pass.weight(layer.post_attention_norm);
            let h_btd;
            (residual_btd, h_btd) =
                tape.add_rms_norm(residual_btd, &attended_btd, &norm_d, epsilon)?;
            drop(attended_btd);
            branch_btd = Some(Self::feed_forward(&pass, layer, h_btd)?);
        }
        let norm_d = pass.weight(self.norm);
        match branch_btd {
            Some(branch) => Ok(tape.add_rms_norm(residual_btd, &branch, &norm_d, epsilon)?.1),
            None => Ok(tape.rms_norm(&residual_btd, &norm_d, epsilon)?),
        }
    }

    /// Grouped-query attention with rotary positions and, in Qwen3, normed queries and keys.
    fn attention(
        &self,
        pass: &Pass<'_>,
        layer: &Layer,
        h_btd: Tensor,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Result<Tensor, DecoderError> {
        let tape = pass.tape;
        let (b, t, k) = (pass.sequences, pass.tokens, self.config.head_dim());
        let (heads, kv_heads) = (self.config.heads, self.config.kv_heads);
        let weights = [layer.q, layer.k, layer.v].map(|id| pass.weight(id));
        let [wq, wk, wv] = &weights;
        let [q, key, value] = tape.linear_many(&h_btd, [wq, wk, wv])?;
        drop(h_btd);
        let mut q_bthk = q.reshape(&[b, t, heads, k])?;
        let mut k_btgk = key.reshape(&[b, t, kv_heads, k])?;
        let v_btgk = value.reshape(&[b, t, kv_heads, k])?;
        if let Some((q_norm, k_norm)) = layer.qk_norm {
            let epsilon = self.config.norm_epsilon as f32;
            q_bthk = tape.rms_norm(&q_bthk, &pass.weight(q_norm), epsilon)?;
            k_btgk = tape.rms_norm(&k_btgk, &pass.weight(k_norm), epsilon)?;
        }
        q_bthk = tape.rope(q_bthk, &pass.rope, &pass.positions_bt)?;
        k_btgk = tape.rope(k_btgk, &pass.rope, &pass.positions_bt)?;
        let out_bthk = match cache {
            Some((cache, index)) => {
                let options = &pass.attention;
                tape.attention_cached(&q_bthk, &k_btgk, &v_btgk, options, cache, index)?
            }
            None => tape.attention(&q_bthk, &k_btgk, &v_btgk, &pass.attention)?,
        };
        let out_bth = out_bthk.reshape(&[b, t, heads * k])?;
        Ok(tape.linear(&out_bth, &pass.weight(layer.o))?)
    }

    /// `down(silu(gate(h)) · up(h))`.
    fn feed_forward(pass: &Pass<'_>, layer: &Layer, h_btd: Tensor) -> Result<Tensor, DecoderError> {
        let tape = pass.tape;
        let (w_gate, w_up) = (pass.weight(layer.gate), pass.weight(layer.up));
        let [gate, up] = tape.linear_many(&h_btd, [&w_gate, &w_up])?;
        drop(h_btd);
        let inner = tape.swiglu(&gate, &up)?;
        drop((gate, up));
        Ok(tape.linear(&inner, &pass.weight(layer.down))?)
    }

    /// Angles for at least `positions` positions.
    fn rope(&self, parameters: &ParameterStore, positions: usize) -> RopeTable {
        let mut table = self.rope.lock().unwrap_or_else(PoisonError::into_inner);
        if table.positions() < positions {
            let room = positions.next_power_of_two().min(self.config.context_length);
            *table = rope_table(&self.config, parameters, room);
        }
        table.clone()
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
        if tokens > self.config.context_length - past.min(self.config.context_length) {
            let message = format!(
                "a sequence has {} tokens, but the model takes {}",
                past + tokens,
                self.config.context_length
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
        let scale = 1.0 / (self.config.head_dim() as f32).sqrt();
        let attention = AttentionOptions { first_key, ..AttentionOptions::causal(scale) };
        let rope = self.rope(parameters, past + tokens);
        Ok(Pass { tape, parameters, sequences, tokens, rope, positions_bt, attention })
    }
}

fn rope_table(config: &ModelConfig, parameters: &ParameterStore, positions: usize) -> RopeTable {
    let positions = positions.min(config.context_length);
    RopeTable::new(&**parameters.device(), config.head_dim(), config.rope_theta, positions)
}

fn find(parameters: &ParameterStore, name: &str) -> Result<ParameterId, DecoderError> {
    parameters.id(name).ok_or_else(|| DecoderError::Parameter {
        name: name.to_owned(),
        message: "is missing among the weights".to_owned(),
    })
}

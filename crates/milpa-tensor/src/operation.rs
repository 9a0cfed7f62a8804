//! The operations: for each variant its shape rule, what its backward needs, its forward and its
//! backward.
//!
//! Legend of shape suffixes: n rows (batch × tokens), d model width, o outputs of a linear layer,
//! v vocabulary; b batch, t tokens, h query heads, g key-value heads, k width of a head; e experts,
//! c experts chosen for a token, f width of an expert.
//! To add an operation: add a variant, then follow the compiler through the four `match`es, give
//! [`crate::Tape`] a method, and add it to the gradient checks in `tests/it`.

use std::{fmt, sync::Arc};

use milpa_kernels::{Accumulate, Size, attention::AttentionShape, rope};

use crate::{
    buffer::{Buffer, DType},
    device::{Device, KeyValues, Matrix, MatrixMut},
    error::TensorError,
    experts::{ChangedExperts, Routing},
    head::{GradTarget, Head, LossRows, RowLosses, check_targets},
    shape::Shape,
    tape::{Gradients, Slot, Tensor},
};

/// Cosines and sines of rotary position embedding (arXiv:2104.09864).
#[derive(Clone)]
pub struct RopeTable {
    cos: Arc<Buffer>,
    sin: Arc<Buffer>,
    head_dim: usize,
    /// Elements of a head that turn, from its beginning.
    rotary_dim: usize,
    positions: usize,
}

impl RopeTable {
    /// Computes the tables for positions below `positions` and base frequency `theta`.
    pub fn new(device: &Device, head_dim: usize, theta: f64, positions: usize) -> Self {
        let frequencies = rope::inverse_frequencies(head_dim, theta);
        Self::from_frequencies(device, head_dim, &frequencies, 1.0, positions)
    }

    /// Computes the tables for positions below `positions` from the frequency of each pair, of
    /// which there may be fewer than `head_dim / 2`: then the rest of a head does not turn. Rotated
    /// elements are multiplied by `factor`, as extensions of the context such as `YaRN` want it.
    ///
    /// # Panics
    /// If there is no frequency, or more of them than pairs.
    pub fn from_frequencies(
        device: &Device,
        head_dim: usize,
        frequencies: &[f64],
        factor: f64,
        positions: usize,
    ) -> Self {
        let rotary_dim = 2 * frequencies.len();
        assert!((2..=head_dim).contains(&rotary_dim), "{rotary_dim} of {head_dim} elements turn");
        let (mut cos, mut sin) = rope::tables(frequencies, positions);
        if factor != 1.0 {
            let scale = |value: &mut f32| *value = (f64::from(*value) * factor) as f32;
            cos.iter_mut().chain(&mut sin).for_each(scale);
        }
        let (cos, sin) = (Arc::new(device.upload(&cos)), Arc::new(device.upload(&sin)));
        Self { cos, sin, head_dim, rotary_dim, positions }
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

impl fmt::Debug for RopeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RopeTable({} × {})", self.positions, self.head_dim)
    }
}

/// How attention weighs keys.
#[derive(Debug, Clone)]
pub struct AttentionOptions {
    /// Factor on the scores, usually `1/√head_dim`.
    pub scale: f32,
    /// First key that each query `[batch, tokens]` sees: the start of its document where several
    /// are packed into a sequence ([`crate::document_starts`]). `None`: all keys before it.
    pub first_key: Option<Arc<[u32]>>,
    /// Keys that a query sees at most, its own and those right before it. `None`: all.
    pub window: Option<usize>,
    /// Bound `c` of the scaled scores: they become `c · tanh(score / c)`.
    pub soft_cap: Option<f32>,
}

impl AttentionOptions {
    /// Each query sees all keys up to its own; scores are only scaled.
    pub fn causal(scale: f32) -> Self {
        Self { scale, first_key: None, window: None, soft_cap: None }
    }
}

/// What a tape can do. Inputs and outputs in the order given.
#[derive(Debug, Clone)]
pub enum Operation {
    /// `[table_vd] → [b, t, d]`: rows of the table.
    Embedding {
        /// Token ids `[b, t]`.
        ids: Arc<[u32]>,
        /// Tokens per sequence.
        tokens: usize,
    },
    /// `[x, w₁_od, w₂_od, …] → [x·w₁ᵀ, x·w₂ᵀ, …]`: linear layers that share their input.
    Linear,
    /// `[x, w_d] → [x / rms(x) · w]` on rows of `d`; `d` divides the last length of `x`.
    RmsNorm {
        /// Added to the mean square.
        epsilon: f32,
    },
    /// `[residual, delta, w_d] → [residual + delta, norm of that]`.
    AddRmsNorm {
        /// Added to the mean square.
        epsilon: f32,
    },
    /// `[x_bthk] → [x rotated]`.
    Rope {
        /// Angles.
        table: RopeTable,
        /// Position of each token `[b, t]`.
        positions: Arc<[u32]>,
    },
    /// `[q_bthk, k_btgk, v_btgk] → [out_bthk]`: causal grouped-query attention.
    Attention(AttentionOptions),
    /// `[gate, up] → [silu(gate) · up]`.
    SwiGlu,
    /// `[gate, up] → [gelu(gate) · up]` with GELU's tanh approximation.
    GeGlu,
    /// `[x, bias_d] → [x + bias]` on rows of `d`.
    AddBias,
    /// `[x] → [factor · x]`.
    Scale {
        /// The factor.
        factor: f32,
    },
    /// `[x] → [cap · tanh(x / cap)]`.
    SoftCap {
        /// The bound.
        cap: f32,
    },
    /// `[x, magnitude_o] → [x · magnitude / norms]` by columns: DoRA, arXiv:2402.09353.
    ///
    /// The norms count as constants, as the paper's section 4.3 proposes and peft does.
    Magnitude {
        /// Lengths of the rows of the adapted matrix, `[o]`.
        norms: Arc<Buffer>,
    },
    /// `[logits_ne] → [weights_nc]` of the experts that were chosen.
    RoutingWeights(Routing),
    /// `[x_nd, weights_nc, gate_efd, up_efd, down_edf, changes…] → [out_nd]`: the weighted sum of what
    /// the chosen experts, each a SwiGLU layer, make of a token.
    Experts {
        /// Who serves whom.
        routing: Routing,
        /// Which matrices are changed.
        changed: ChangedExperts,
    },
    /// `[a, b] → [a + b]`.
    Add,
    /// `[x_nd] → [x of the chosen rows]`.
    SelectRows {
        /// Row numbers.
        rows: Arc<[u32]>,
    },
    /// `[x_nd, w_vd] → [loss of 1 element]`.
    LinearCrossEntropy {
        /// Targets and weights of the rows.
        rows: LossRows,
        /// Bound of the logits.
        soft_cap: Option<f32>,
    },
    /// `[x_nd, w_vd] → [log p(target) of n elements]`.
    LinearLogProbabilities {
        /// One token id per row, or [`crate::IGNORE`].
        targets: Arc<[u32]>,
        /// Bound of the logits.
        soft_cap: Option<f32>,
    },
}

impl Operation {
    /// Names the operation in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedding { .. } => "embedding",
            Self::Linear => "linear",
            Self::RmsNorm { .. } => "rms_norm",
            Self::AddRmsNorm { .. } => "add_rms_norm",
            Self::Rope { .. } => "rope",
            Self::Attention(_) => "attention",
            Self::SwiGlu => "swiglu",
            Self::GeGlu => "geglu",
            Self::AddBias => "add_bias",
            Self::Scale { .. } => "scale",
            Self::SoftCap { .. } => "soft_cap",
            Self::Magnitude { .. } => "magnitude",
            Self::RoutingWeights(_) => "routing_weights",
            Self::Experts { .. } => "experts",
            Self::Add => "add",
            Self::SelectRows { .. } => "select_rows",
            Self::LinearCrossEntropy { .. } => "linear_cross_entropy",
            Self::LinearLogProbabilities { .. } => "linear_log_probabilities",
        }
    }

    /// Checks the inputs and returns the shapes of the outputs.
    pub(crate) fn output_shapes(&self, inputs: &[Tensor]) -> Result<Vec<Shape>, TensorError> {
        let name = self.name();
        let shapes: Vec<Shape> = inputs.iter().map(|input| input.shape).collect();
        let mismatch = |problem: String| TensorError::Shape {
            operation: name,
            shapes: shapes.clone(),
            problem,
        };
        let same = |a: usize, b: usize| {
            if shapes[a] == shapes[b] {
                return Ok(());
            }
            Err(mismatch("both must have the same shape".to_owned()))
        };
        match self {
            Self::Embedding { ids, tokens } => {
                if *tokens == 0 || ids.is_empty() || !ids.len().is_multiple_of(*tokens) {
                    return Err(mismatch(format!("{} ids in rows of {tokens}", ids.len())));
                }
                check_below(name, "token id", ids, shapes[0].rows())?;
                Ok(vec![Shape::new(&[ids.len() / tokens, *tokens, shapes[0].last()])?])
            }
            Self::Linear => {
                let [x, weights @ ..] = &shapes[..] else { return Ok(Vec::new()) };
                let output = |w: &Shape| {
                    if w.lengths().len() != 2 || w.last() != x.last() {
                        let problem = "a weight must be [outputs, last length of x]";
                        return Err(mismatch(problem.to_owned()));
                    }
                    Ok(x.with_last(w.rows()))
                };
                weights.iter().map(output).collect()
            }
            Self::RmsNorm { .. } | Self::AddRmsNorm { .. } => {
                let weight = shapes[shapes.len() - 1];
                let dim = weight.elements();
                if weight.lengths().len() != 1 || dim == 0 || !shapes[0].last().is_multiple_of(dim)
                {
                    let problem = "the weight must be one row that divides the last length";
                    return Err(mismatch(problem.to_owned()));
                }
                if matches!(self, Self::RmsNorm { .. }) {
                    return Ok(vec![shapes[0]]);
                }
                same(0, 1)?;
                Ok(vec![shapes[0]; 2])
            }
            Self::Rope { table, positions } => {
                let &[b, t, _, k] = shapes[0].lengths() else {
                    return Err(mismatch("x must be [batch, tokens, heads, head_dim]".to_owned()));
                };
                if k != table.head_dim || positions.len() != b * t {
                    let problem = format!(
                        "the table is for heads of {}, and there are {} positions",
                        table.head_dim,
                        positions.len()
                    );
                    return Err(mismatch(problem));
                }
                check_below(name, "position", positions, table.positions)?;
                Ok(vec![shapes[0]])
            }
            Self::Attention(options) => {
                check_attention_options(name, options)?;
                let shape = attention_shape(&shapes[0], &shapes[1], options, 0);
                let shape = shape.filter(|_| shapes[1] == shapes[2]).ok_or_else(|| {
                    let problem = "q must be [b, t, h, k], k and v [b, t, g, k] with g dividing h \
                                   and k at most 256";
                    mismatch(problem.to_owned())
                })?;
                if let Some(first_key) = &options.first_key {
                    check_first_key(name, first_key, &shape)?;
                }
                Ok(vec![shapes[0]])
            }
            Self::SwiGlu | Self::GeGlu | Self::Add => same(0, 1).map(|()| vec![shapes[0]]),
            Self::AddBias | Self::Magnitude { .. } => {
                if shapes[1].lengths().len() != 1 || shapes[1].elements() != shapes[0].last() {
                    let problem = "the second input must be one row of the last length of x";
                    return Err(mismatch(problem.to_owned()));
                }
                Ok(vec![shapes[0]])
            }
            Self::Scale { .. } => Ok(vec![shapes[0]]),
            Self::SoftCap { cap } => check_cap(name, Some(*cap)).map(|()| vec![shapes[0]]),
            Self::RoutingWeights(routing) => routing.weights_shape(&shapes[0]).map_err(mismatch),
            Self::Experts { routing, changed } => {
                routing.output_shape(*changed, inputs, &shapes).map_err(mismatch)
            }
            Self::SelectRows { rows } => {
                check_below(name, "row", rows, shapes[0].rows())?;
                Ok(vec![Shape::new(&[rows.len(), shapes[0].last()])?])
            }
            Self::LinearCrossEntropy { soft_cap, .. }
            | Self::LinearLogProbabilities { soft_cap, .. } => {
                check_cap(name, *soft_cap)?;
                let (x, w) = (shapes[0], shapes[1]);
                if w.lengths().len() != 2 || w.last() != x.last() || w.rows() == 0 {
                    return Err(mismatch("the weight must be [vocabulary, last of x]".to_owned()));
                }
                match self {
                    Self::LinearCrossEntropy { rows, .. } => {
                        rows.check(name, x.rows(), w.rows())?;
                        Ok(vec![Shape::new(&[1])?])
                    }
                    Self::LinearLogProbabilities { targets, .. } => {
                        check_targets(name, targets, x.rows(), w.rows())?;
                        Ok(vec![Shape::new(&[x.rows()])?])
                    }
                    _ => Ok(Vec::new()),
                }
            }
        }
    }

    /// The type in which an input is needed, given what the tape computes in; `None` if any will do.
    pub(crate) fn input_dtype(&self, index: usize, compute: DType) -> Option<DType> {
        match (self, index) {
            (
                Self::Linear
                | Self::Attention(_)
                | Self::SwiGlu
                | Self::GeGlu
                | Self::LinearCrossEntropy { .. }
                | Self::LinearLogProbabilities { .. },
                _,
            )
            | (Self::AddRmsNorm { .. }, 1) => Some(compute),
            (Self::RmsNorm { .. } | Self::Rope { .. }, 0) | (Self::Add, 1) => None,
            _ => Some(DType::F32),
        }
    }

    /// The type of an output, given that of the first input and what the tape computes in.
    pub(crate) fn output_dtype(&self, index: usize, first: DType, compute: DType) -> DType {
        match (self, index) {
            (
                Self::Linear
                | Self::Attention(_)
                | Self::SwiGlu
                | Self::GeGlu
                | Self::RmsNorm { .. },
                _,
            )
            | (Self::AddRmsNorm { .. }, 1) => compute,
            (Self::Rope { .. }, _) => first,
            _ => DType::F32,
        }
    }

    /// Whether backward takes gradients of the outputs in bf16; for the others they are widened.
    pub(crate) fn takes_bf16_gradients(&self) -> bool {
        matches!(
            self,
            Self::Linear
                | Self::RmsNorm { .. }
                | Self::AddRmsNorm { .. }
                | Self::Rope { .. }
                | Self::Attention(_)
                | Self::SwiGlu
                | Self::GeGlu
                | Self::Add
        )
    }

    /// The input and the output that share a buffer if nobody else holds the input.
    pub(crate) fn in_place(&self) -> Option<(usize, usize)> {
        match self {
            Self::Rope { .. }
            | Self::AddRmsNorm { .. }
            | Self::AddBias
            | Self::Scale { .. }
            | Self::SoftCap { .. } => Some((0, 0)),
            _ => None,
        }
    }

    /// Whether backward reads the input.
    pub(crate) fn keeps_input(&self, index: usize) -> bool {
        match self {
            Self::Embedding { .. }
            | Self::Rope { .. }
            | Self::Add
            | Self::AddBias
            | Self::Scale { .. }
            | Self::SoftCap { .. }
            | Self::SelectRows { .. } => false,
            Self::AddRmsNorm { .. } => index == 2,
            // The experts' inputs are kept in groups.
            Self::Experts { .. } => index != 0,
            Self::Linear
            | Self::RmsNorm { .. }
            | Self::Attention(_)
            | Self::SwiGlu
            | Self::GeGlu
            | Self::Magnitude { .. }
            | Self::RoutingWeights(_)
            | Self::LinearCrossEntropy { .. }
            | Self::LinearLogProbabilities { .. } => true,
        }
    }

    /// Whether backward reads the output.
    pub(crate) fn keeps_output(&self, index: usize) -> bool {
        match self {
            Self::AddRmsNorm { .. } => index == 0,
            Self::Attention(_) | Self::SoftCap { .. } | Self::RoutingWeights(_) => true,
            _ => false,
        }
    }

    /// Writes the outputs; returns what else backward needs.
    pub(crate) fn forward(
        &self,
        device: &Device,
        inputs: &[Slot],
        outputs: &mut [Buffer],
    ) -> Vec<Buffer> {
        match self {
            Self::Embedding { ids, .. } => {
                let dim = inputs[0].shape.last();
                device.gather_rows(dim, inputs[0].buffer(), ids, &mut outputs[0]);
                Vec::new()
            }
            Self::Linear => {
                let x = &inputs[0];
                let (n, d) = (x.shape.rows(), x.shape.last());
                for (w, out) in inputs[1..].iter().zip(outputs) {
                    let o = w.shape.rows();
                    let size = Size { m: n, n: o, k: d };
                    let (x_nd, w_od) = (Matrix::new(x.buffer(), d), Matrix::new(w.buffer(), d));
                    device.matmul_nt(size, x_nd, w_od, MatrixMut::new(out, o));
                }
                Vec::new()
            }
            Self::RmsNorm { epsilon } => {
                let (x, w) = (inputs[0].buffer(), inputs[1].buffer());
                let dim = w.len();
                let mut inverse = device.allocate(x.len() / dim);
                device.rms_norm(dim, *epsilon, x, w, &mut outputs[0], &mut inverse);
                vec![inverse]
            }
            Self::AddRmsNorm { epsilon } => {
                let (delta, w) = (inputs[1].buffer(), inputs[2].buffer());
                let dim = w.len();
                let mut inverse = device.allocate(delta.len() / dim);
                let [sum, y] = outputs else { return Vec::new() };
                device.add_rms_norm(dim, *epsilon, sum, delta, w, y, &mut inverse);
                vec![inverse]
            }
            Self::Rope { table, positions } => {
                let (heads, dim) = (inputs[0].shape.lengths()[2], table.head_dim);
                device.rope(
                    heads,
                    dim,
                    table.rotary_dim,
                    &table.cos,
                    &table.sin,
                    positions,
                    &mut outputs[0],
                );
                Vec::new()
            }
            Self::Attention(options) => {
                let shape = checked_attention_shape(inputs, options);
                let mut log_sum_exp = device.allocate(shape.batch * shape.heads * shape.queries);
                let first_key = options.first_key.as_deref();
                let keys = dense_keys(inputs);
                let (q, out) = (inputs[0].buffer(), &mut outputs[0]);
                device.attention(&shape, q, keys, first_key, out, &mut log_sum_exp);
                vec![log_sum_exp]
            }
            Self::SwiGlu => {
                device.swiglu(inputs[0].buffer(), inputs[1].buffer(), &mut outputs[0]);
                Vec::new()
            }
            Self::GeGlu => {
                device.geglu(inputs[0].buffer(), inputs[1].buffer(), &mut outputs[0]);
                Vec::new()
            }
            Self::AddBias => {
                device.add_bias(inputs[1].buffer(), &mut outputs[0]);
                Vec::new()
            }
            Self::Scale { factor } => {
                device.scale_grads(&mut outputs[0], *factor);
                Vec::new()
            }
            Self::Magnitude { norms } => {
                let (x, magnitude) = (inputs[0].buffer(), inputs[1].buffer());
                device.magnitude(norms, magnitude, x, &mut outputs[0]);
                Vec::new()
            }
            Self::SoftCap { cap } => {
                device.soft_cap(*cap, &mut outputs[0]);
                Vec::new()
            }
            Self::RoutingWeights(routing) => {
                routing.weights(device, inputs[0].buffer(), &mut outputs[0]);
                Vec::new()
            }
            Self::Experts { routing, changed } => {
                routing.experts(*changed, device, inputs, &mut outputs[0])
            }
            Self::Add => {
                device.add(inputs[0].buffer(), inputs[1].buffer(), &mut outputs[0]);
                Vec::new()
            }
            Self::SelectRows { rows } => {
                let dim = inputs[0].shape.last();
                device.gather_rows(dim, inputs[0].buffer(), rows, &mut outputs[0]);
                Vec::new()
            }
            Self::LinearCrossEntropy { rows, soft_cap } => {
                let head = head(device, inputs, *soft_cap);
                let losses = if rows.z_loss == 0.0 {
                    let scores = head.scores(&rows.targets);
                    let cross_entropy = scores.log_probabilities.iter().map(|p| -p).collect();
                    RowLosses { cross_entropy, squares: Vec::new() }
                } else {
                    head.gradients(&rows.targets, &rows.factors(0.0), rows.z_loss, None, None)
                };
                let summary = rows.summarise(&losses);
                device.write(&[(summary.loss + summary.z_loss) as f32], &mut outputs[0]);
                Vec::new()
            }
            Self::LinearLogProbabilities { targets, soft_cap } => {
                let scores = head(device, inputs, *soft_cap).scores(targets);
                device.write(&scores.log_probabilities, &mut outputs[0]);
                Vec::new()
            }
        }
    }

    /// Adds to the gradients of the inputs, given those of the outputs.
    pub(crate) fn backward(
        &self,
        device: &Device,
        inputs: &[Slot],
        outputs: &[Slot],
        saved: &[Buffer],
        douts: &mut [Option<Arc<Buffer>>],
        gradients: &mut Gradients<'_>,
    ) {
        match self {
            Self::Embedding { ids, .. } => {
                let Some(dout) = douts[0].take() else { return };
                let mut dtable = gradients.take_zeroed(&inputs[0]);
                device.scatter_add_rows(inputs[0].shape.last(), ids, &dout, &mut dtable);
                gradients.put(&inputs[0], dtable);
            }
            Self::Linear => linear_backward(device, inputs, douts, gradients),
            Self::RmsNorm { .. } => {
                let Some(dy) = douts[0].take() else { return };
                let (x, w) = (&inputs[0], &inputs[1]);
                let dtype = x.buffer().dtype();
                let dy = gradients.in_dtype(dy, dtype);
                let (mut dx, accumulate) = match dtype {
                    DType::F32 => gradients.take(x),
                    _ => (device.allocate_as(dy.len(), dtype), Accumulate::No),
                };
                let mut dw = gradients.take_zeroed(w);
                let (dim, inverse) = (w.shape.elements(), &saved[0]);
                let (x_values, w_values) = (x.buffer(), w.buffer());
                device.rms_norm_backward(
                    dim, x_values, w_values, inverse, &dy, &mut dx, accumulate, &mut dw,
                );
                match dtype {
                    DType::F32 => gradients.put(x, dx),
                    _ => gradients.pass(x, Arc::new(dx)),
                }
                gradients.put(w, dw);
            }
            Self::AddRmsNorm { .. } => {
                // d(sum) = what later users of the sum sent back, plus the gradient through the norm.
                let mut take =
                    |index: usize| Some(gradients.in_dtype(douts[index].take()?, DType::F32));
                let (dsum, dy) = (take(0), take(1));
                let dsum = match (dsum, dy) {
                    (None, None) => return,
                    (Some(dsum), None) => dsum,
                    (dsum, Some(dy)) => {
                        let accumulate =
                            if dsum.is_some() { Accumulate::Yes } else { Accumulate::No };
                        let mut dsum = match dsum {
                            Some(dsum) => gradients.own(dsum),
                            None => device.allocate(dy.len()),
                        };
                        let w = &inputs[2];
                        let mut dw = gradients.take_zeroed(w);
                        let (dim, inverse) = (w.shape.elements(), &saved[0]);
                        let (sum, w_values) = (outputs[0].buffer(), w.buffer());
                        device.rms_norm_backward(
                            dim, sum, w_values, inverse, &dy, &mut dsum, accumulate, &mut dw,
                        );
                        gradients.put(w, dw);
                        Arc::new(dsum)
                    }
                };
                gradients.pass(&inputs[1], Arc::clone(&dsum));
                gradients.pass(&inputs[0], dsum);
            }
            Self::Rope { table, positions } => {
                let Some(dout) = douts[0].take() else { return };
                let mut dx = gradients.own(dout);
                let (heads, dim) = (inputs[0].shape.lengths()[2], table.head_dim);
                let (cos, sin) = (&table.cos, &table.sin);
                device.rope_backward(heads, dim, table.rotary_dim, cos, sin, positions, &mut dx);
                gradients.pass(&inputs[0], Arc::new(dx));
            }
            Self::Attention(options) => {
                let Some(dout) = douts[0].take() else { return };
                let shape = checked_attention_shape(inputs, options);
                let [q, k, v] = inputs else { return };
                let dtype = q.buffer().dtype();
                let dout = gradients.in_dtype(dout, dtype);
                let like = |slot: &Slot| device.allocate_as(slot.buffer().len(), dtype);
                let (mut dq, mut dk, mut dv) = (like(q), like(k), like(v));
                device.attention_backward(
                    &shape,
                    q.buffer(),
                    dense_keys(inputs),
                    options.first_key.as_deref(),
                    outputs[0].buffer(),
                    &saved[0],
                    &dout,
                    &mut dq,
                    &mut dk,
                    &mut dv,
                );
                for (slot, gradient) in [(q, dq), (k, dk), (v, dv)] {
                    gradients.pass(slot, Arc::new(gradient));
                }
            }
            Self::SwiGlu | Self::GeGlu => {
                let Some(dout) = douts[0].take() else { return };
                let (gate, up) = (inputs[0].buffer(), inputs[1].buffer());
                let dout = gradients.in_dtype(dout, gate.dtype());
                let like = || device.allocate_as(gate.len(), gate.dtype());
                let (mut dgate, mut dup) = (like(), like());
                if matches!(self, Self::SwiGlu) {
                    device.swiglu_backward(gate, up, &dout, &mut dgate, &mut dup);
                } else {
                    device.geglu_backward(gate, up, &dout, &mut dgate, &mut dup);
                }
                gradients.pass(&inputs[0], Arc::new(dgate));
                gradients.pass(&inputs[1], Arc::new(dup));
            }
            Self::AddBias => {
                let Some(dout) = douts[0].take() else { return };
                if inputs[1].needs_grad {
                    let mut dbias = gradients.take_zeroed(&inputs[1]);
                    device.add_bias_backward(&dout, &mut dbias);
                    gradients.put(&inputs[1], dbias);
                }
                gradients.pass(&inputs[0], dout);
            }
            Self::Scale { factor } => {
                let Some(dout) = douts[0].take() else { return };
                let mut dx = gradients.own(dout);
                device.scale_grads(&mut dx, *factor);
                gradients.put(&inputs[0], dx);
            }
            Self::Magnitude { norms } => {
                let Some(dout) = douts[0].take() else { return };
                let (x, magnitude) = (&inputs[0], &inputs[1]);
                let (mut dx, mut dmagnitude) =
                    (gradients.own(dout), gradients.take_zeroed(magnitude));
                let (x_values, values) = (x.buffer(), magnitude.buffer());
                device.magnitude_backward(norms, values, x_values, &mut dx, &mut dmagnitude);
                gradients.put(x, dx);
                gradients.put(magnitude, dmagnitude);
            }
            Self::SoftCap { cap } => {
                let Some(dout) = douts[0].take() else { return };
                let mut dx = gradients.own(dout);
                device.soft_cap_backward(*cap, outputs[0].buffer(), &mut dx);
                gradients.put(&inputs[0], dx);
            }
            Self::RoutingWeights(routing) => {
                let Some(dout) = douts[0].take() else { return };
                let (logits, weights) = (&inputs[0], outputs[0].buffer());
                let dlogits = routing.weights_backward(device, logits.buffer(), weights, &dout);
                gradients.put(logits, dlogits);
            }
            Self::Experts { routing, changed } => {
                let Some(dout) = douts[0].take() else { return };
                routing.experts_backward(*changed, device, inputs, saved, &dout, gradients);
            }
            Self::Add => {
                let Some(dout) = douts[0].take() else { return };
                gradients.pass(&inputs[1], Arc::clone(&dout));
                gradients.pass(&inputs[0], dout);
            }
            Self::SelectRows { rows } => {
                let Some(dout) = douts[0].take() else { return };
                let mut dx = gradients.take_zeroed(&inputs[0]);
                device.scatter_add_rows(inputs[0].shape.last(), rows, &dout, &mut dx);
                gradients.put(&inputs[0], dx);
            }
            Self::LinearCrossEntropy { rows, soft_cap } => {
                let Some(dout) = douts[0].take() else { return };
                let mut outer = [0.0];
                device.download(&dout, &mut outer);
                let factors = rows.factors(f64::from(outer[0]));
                let targets = &rows.targets;
                head_backward(device, inputs, *soft_cap, targets, &factors, rows.z_loss, gradients);
            }
            Self::LinearLogProbabilities { targets, soft_cap } => {
                let Some(dout) = douts[0].take() else { return };
                let mut factors = vec![0.0; targets.len()];
                device.download(&dout, &mut factors);
                // The kernel differentiates −log p.
                for factor in &mut factors {
                    *factor = -*factor;
                }
                head_backward(device, inputs, *soft_cap, targets, &factors, 0.0, gradients);
            }
        }
    }
}

/// `dx = Σ dyᵢ·wᵢ`, `dwᵢ = dyᵢᵀ·x`.
fn linear_backward(
    device: &Device,
    inputs: &[Slot],
    douts: &mut [Option<Arc<Buffer>>],
    gradients: &mut Gradients<'_>,
) {
    let x = &inputs[0];
    let (n, d) = (x.shape.rows(), x.shape.last());
    for (w, dout) in inputs[1..].iter().zip(douts) {
        let Some(dy_no) = dout.take() else { continue };
        let o = w.shape.rows();
        let dtype = w.buffer().dtype();
        let dy_no = gradients.in_dtype(dy_no, dtype);
        let dy_no = Matrix::new(&dy_no, o);
        if x.needs_grad {
            let size = Size { m: n, n: d, k: o };
            let w_od = Matrix::new(w.buffer(), d);
            if inputs.len() == 2 && gradients.is_first(x) {
                let mut dx = device.allocate_as(n * d, dtype);
                device.matmul_nn(size, dy_no, w_od, MatrixMut::new(&mut dx, d), Accumulate::No);
                gradients.pass(x, Arc::new(dx));
            } else {
                // Several products add up: in f32.
                let (mut dx, accumulate) = gradients.take(x);
                device.matmul_nn(size, dy_no, w_od, MatrixMut::new(&mut dx, d), accumulate);
                gradients.put(x, dx);
            }
        }
        if w.needs_grad {
            let (mut dw, accumulate) = gradients.take(w);
            let (x_nd, dw_od) = (Matrix::new(x.buffer(), d), MatrixMut::new(&mut dw, d));
            device.matmul_tn(Size { m: o, n: d, k: n }, dy_no, x_nd, dw_od, accumulate);
            gradients.put(w, dw);
        }
    }
}

/// Gradients of `Σ factors · losses` for hidden states and head weight, in one pass over chunks.
/// Returns the rows' losses.
pub(crate) fn head_backward(
    device: &Device,
    inputs: &[Slot],
    soft_cap: Option<f32>,
    targets: &[u32],
    factors: &[f32],
    z_loss: f32,
    gradients: &mut Gradients<'_>,
) -> RowLosses {
    let (x, w) = (&inputs[0], &inputs[1]);
    let mut dx = x.needs_grad.then(|| gradients.take(x));
    let mut dw = w.needs_grad.then(|| gradients.take(w));
    let losses = head(device, inputs, soft_cap).gradients(
        targets,
        factors,
        z_loss,
        dx.as_mut().map(|(buffer, accumulate)| GradTarget { buffer, accumulate: *accumulate }),
        dw.as_mut().map(|(buffer, accumulate)| GradTarget { buffer, accumulate: *accumulate }),
    );
    for (slot, gradient) in [(x, dx), (w, dw)] {
        if let Some((gradient, _)) = gradient {
            gradients.put(slot, gradient);
        }
    }
    losses
}

fn head<'a>(device: &'a Device, inputs: &'a [Slot], soft_cap: Option<f32>) -> Head<'a> {
    let (x, w) = (&inputs[0], &inputs[1]);
    Head::new(device, (x.buffer(), x.shape.last()), (w.buffer(), w.shape.rows()), soft_cap)
}

fn dense_keys(inputs: &[Slot]) -> KeyValues<'_> {
    let capacity = inputs[1].shape.lengths()[1];
    KeyValues { k: inputs[1].buffer(), v: inputs[2].buffer(), capacity }
}

fn checked_attention_shape(inputs: &[Slot], options: &AttentionOptions) -> AttentionShape {
    attention_shape(&inputs[0].shape, &inputs[1].shape, options, 0)
        .expect("output_shapes has accepted these inputs")
}

/// The sizes of an attention whose newest keys have shape `k`; `None` if q and k do not fit.
pub(crate) fn attention_shape(
    q: &Shape,
    k: &Shape,
    options: &AttentionOptions,
    past: usize,
) -> Option<AttentionShape> {
    let &[batch, queries, heads, head_dim] = q.lengths() else { return None };
    let &[key_batch, keys, kv_heads, key_dim] = k.lengths() else { return None };
    let fits = (key_batch, keys, key_dim) == (batch, queries, head_dim)
        && kv_heads > 0
        && heads.is_multiple_of(kv_heads)
        && (1..=256).contains(&head_dim);
    let AttentionOptions { scale, window, soft_cap, .. } = *options;
    fits.then_some(AttentionShape {
        batch,
        queries,
        past,
        heads,
        kv_heads,
        head_dim,
        scale,
        window,
        soft_cap,
    })
}

pub(crate) fn check_attention_options(
    operation: &'static str,
    options: &AttentionOptions,
) -> Result<(), TensorError> {
    let unsupported = |problem: String| Err(TensorError::Unsupported { operation, problem });
    if !(options.scale > 0.0 && options.scale.is_finite()) {
        return unsupported(format!("a scale of {}; it must be positive", options.scale));
    }
    if options.window == Some(0) {
        return unsupported("a window of no keys; a query sees at least its own".to_owned());
    }
    check_cap(operation, options.soft_cap)
}

fn check_cap(operation: &'static str, cap: Option<f32>) -> Result<(), TensorError> {
    match cap {
        Some(cap) if !(cap > 0.0 && cap.is_finite()) => {
            let problem = format!("a soft cap of {cap}; it must be positive");
            Err(TensorError::Unsupported { operation, problem })
        }
        _ => Ok(()),
    }
}

fn check_first_key(
    operation: &'static str,
    first_key: &[u32],
    shape: &AttentionShape,
) -> Result<(), TensorError> {
    if first_key.len() != shape.batch * shape.queries {
        let problem = format!("{} first keys for {} queries", first_key.len(), shape.queries);
        return Err(TensorError::Unsupported { operation, problem });
    }
    for (index, &value) in first_key.iter().enumerate() {
        let limit = shape.past + index % shape.queries + 1;
        if value as usize >= limit {
            return Err(TensorError::Range { operation, what: "first key", value, index, limit });
        }
    }
    Ok(())
}

pub(crate) fn check_below(
    operation: &'static str,
    what: &'static str,
    values: &[u32],
    limit: usize,
) -> Result<(), TensorError> {
    match values.iter().position(|&value| value as usize >= limit) {
        Some(index) => {
            Err(TensorError::Range { operation, what, value: values[index], index, limit })
        }
        None => Ok(()),
    }
}

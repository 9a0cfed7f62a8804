//! The tape: runs operations at once, remembers them if it records, and walks back.
//!
//! A [`Tensor`] is a handle. When its last handle is dropped its buffer returns to the pool, unless
//! a recorded operation has declared that its backward reads it. A tape that does not record keeps
//! nothing. The tape knows no operation's mathematics; that is in `operation.rs`.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use milpa_kernels::Accumulate;

use crate::{
    audit::{Audit, Direction, NonFinite, Observed, counted, observe, observe_values},
    buffer::{Buffer, DType},
    cache::KvCache,
    device::Device,
    error::TensorError,
    experts::{ChangedExperts, ExpertChanges, Routing},
    head::{Head, LossRows, LossSummary, OutputLayer, RowScores, check_targets},
    operation::{
        AttentionOptions, Operation, RopeTable, attention_shape, check_attention_options,
        head_backward,
    },
    parameters::{ParameterId, ParameterStore, Rounded},
    shape::Shape,
};

/// Numbers tapes and their rounds, so that a tensor is not taken for one of another.
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// A handle to values on a device.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub(crate) source: Source,
    pub(crate) shape: Shape,
    pub(crate) buffer: Arc<Buffer>,
    /// Where the values of a parameter are kept in bf16.
    pub(crate) rounded: Option<Rounded>,
    pub(crate) needs_grad: bool,
}

/// A matrix with a change of low rank, `weight + scale · b · a`, all in f32.
#[derive(Debug, Clone, Copy)]
pub struct AdaptedMatrix<'a> {
    /// `[outputs, inputs]`; it may be quantised.
    pub weight_od: &'a Tensor,
    /// `[rank, inputs]`.
    pub a_rd: &'a Tensor,
    /// `[outputs, rank]`.
    pub b_or: &'a Tensor,
    /// Factor of the change.
    pub scale: f32,
}

/// Where a tensor's gradient goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nowhere.
    Constant,
    /// To a parameter of a store.
    Parameter { store: u64, id: ParameterId },
    /// To the operation that made value `index` in a round of a tape.
    Value { round: u64, index: usize },
}

impl Tensor {
    /// The lengths of its dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How its values are stored.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// The same values with other lengths; the number of elements stays.
    pub fn reshape(mut self, lengths: &[usize]) -> Result<Self, TensorError> {
        let shape = Shape::new(lengths)?;
        if shape.elements() != self.shape.elements() {
            let problem = format!("{} elements cannot become {shape}", self.shape.elements());
            let shapes = vec![self.shape];
            return Err(TensorError::Shape { operation: "reshape", shapes, problem });
        }
        self.shape = shape;
        Ok(self)
    }
}

/// An input or output of a recorded operation; its buffer is there only if it is needed.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) source: Source,
    pub(crate) shape: Shape,
    buffer: Option<Arc<Buffer>>,
    pub(crate) needs_grad: bool,
}

impl Slot {
    fn of(tensor: Tensor) -> Self {
        let Tensor { source, shape, buffer, needs_grad, .. } = tensor;
        Self { source, shape, buffer: Some(buffer), needs_grad }
    }

    /// Whether the values are there.
    pub(crate) fn is_present(&self) -> bool {
        self.buffer.is_some()
    }

    /// The values.
    pub(crate) fn buffer(&self) -> &Buffer {
        self.buffer.as_deref().expect("the operation declares what it reads")
    }
}

#[derive(Debug)]
struct Record {
    operation: Operation,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    saved: Vec<Buffer>,
}

/// Runs operations on a device and, if it records, can go back through them.
#[derive(Debug)]
pub struct Tape {
    device: Device,
    recording: bool,
    compute: DType,
    round: Cell<u64>,
    values: Cell<usize>,
    records: RefCell<Vec<Record>>,
    audit: Option<Audit>,
}

impl Tape {
    /// Makes a tape that remembers operations for [`Tape::backward`].
    pub fn recording(device: Device) -> Self {
        Self::new(device, true)
    }

    /// Makes a tape that only computes; buffers are free as soon as their handles are dropped.
    pub fn inference(device: Device) -> Self {
        Self::new(device, false)
    }

    /// Computes products, attention and activations in `dtype` (f32, the default, or bf16).
    ///
    /// With bf16, as under `torch.autocast`: weights, the residual stream, norms' statistics, sums of
    /// products, the loss and the gradients of weights stay f32; what goes into a product is rounded
    /// (arXiv:1905.12322).
    ///
    /// # Panics
    /// If `dtype` is a quantised type.
    #[must_use]
    pub fn autocast(mut self, dtype: DType) -> Self {
        assert!(!dtype.is_quantised(), "computing needs f32 or bf16");
        self.compute = dtype;
        self
    }

    /// Reads everything that operations take and make, forward and backward, and fails with
    /// [`TensorError::NonFinite`] at the first that is not finite; parameters are called by their names in
    /// `parameters`.
    ///
    /// Several times as slow; results are the same. It is for doing a step again that went wrong.
    #[must_use]
    pub fn audited(mut self, parameters: &ParameterStore) -> Self {
        self.audit = Some(Audit::new(parameters));
        self
    }

    fn new(device: Device, recording: bool) -> Self {
        let round = Cell::new(ROUNDS.fetch_add(1, Ordering::Relaxed));
        let compute = DType::F32;
        Self {
            device,
            recording,
            compute,
            round,
            values: Cell::new(0),
            records: RefCell::default(),
            audit: None,
        }
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether operations are remembered.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Makes a tensor from host values; it gets no gradient.
    pub fn constant(&self, values: &[f32], lengths: &[usize]) -> Result<Tensor, TensorError> {
        let shape = Shape::new(lengths)?;
        if shape.elements() != values.len() {
            let problem = format!("{} values were given", values.len());
            let shapes = vec![shape];
            return Err(TensorError::Shape { operation: "constant", shapes, problem });
        }
        let buffer = Arc::new(self.device.upload(values));
        self.device.check()?;
        Ok(Tensor { source: Source::Constant, shape, buffer, rounded: None, needs_grad: false })
    }

    /// Reads the values of a tensor; not-a-numbers where a GPU has failed, which the next operation says.
    pub fn read(&self, tensor: &Tensor) -> Vec<f32> {
        let mut values = vec![0.0; tensor.shape.elements()];
        self.device.download(&tensor.buffer, &mut values);
        values
    }

    /// Looks up rows of `table_vd`: `ids` is `[b, tokens]`; returns `[b, tokens, d]`.
    pub fn embedding(
        &self,
        table_vd: &Tensor,
        ids: &[u32],
        tokens: usize,
    ) -> Result<Tensor, TensorError> {
        self.one(Operation::Embedding { ids: ids.into(), tokens }, vec![table_vd.clone()])
    }

    /// `x · wᵀ` on the last dimension; `w_od` may be quantised on a tape that does not record.
    pub fn linear(&self, x: &Tensor, w_od: &Tensor) -> Result<Tensor, TensorError> {
        self.one(Operation::Linear, vec![x.clone(), w_od.clone()])
    }

    /// Linear layers that share their input, such as q, k and v.
    pub fn linear_many<const N: usize>(
        &self,
        x: &Tensor,
        weights_od: [&Tensor; N],
    ) -> Result<[Tensor; N], TensorError> {
        let inputs = std::iter::once(x).chain(weights_od).cloned().collect();
        let outputs = self.run(Operation::Linear, inputs)?;
        Ok(outputs.try_into().expect("one output for each weight"))
    }

    /// `x / rms(x) · w` on rows of `w_d`'s length, which divides the last length of `x`.
    ///
    /// RMSNorm, arXiv:1910.07467. With `w_d` of a head's width this is QK-norm.
    pub fn rms_norm(&self, x: &Tensor, w_d: &Tensor, epsilon: f32) -> Result<Tensor, TensorError> {
        self.one(Operation::RmsNorm { epsilon }, vec![x.clone(), w_d.clone()])
    }

    /// Returns `residual + delta` and its norm. The residual is taken by value, so that its buffer
    /// is reused if nobody else needs it.
    pub fn add_rms_norm(
        &self,
        residual: Tensor,
        delta: &Tensor,
        w_d: &Tensor,
        epsilon: f32,
    ) -> Result<(Tensor, Tensor), TensorError> {
        let inputs = vec![residual, delta.clone(), w_d.clone()];
        let outputs = self.run(Operation::AddRmsNorm { epsilon }, inputs)?;
        let [sum, normed] = outputs.try_into().expect("two outputs");
        Ok((sum, normed))
    }

    /// Rotates `x_bthk` by its tokens' `positions` `[b, t]` (arXiv:2104.09864, half-split pairs).
    pub fn rope(
        &self,
        x_bthk: Tensor,
        table: &RopeTable,
        positions: &Arc<[u32]>,
    ) -> Result<Tensor, TensorError> {
        let (table, positions) = (table.clone(), Arc::clone(positions));
        self.one(Operation::Rope { table, positions }, vec![x_bthk])
    }

    /// Causal grouped-query attention: `q_bthk`, `k_btgk`, `v_btgk` with g dividing h.
    pub fn attention(
        &self,
        q_bthk: &Tensor,
        k_btgk: &Tensor,
        v_btgk: &Tensor,
        options: &AttentionOptions,
    ) -> Result<Tensor, TensorError> {
        let inputs = vec![q_bthk.clone(), k_btgk.clone(), v_btgk.clone()];
        self.one(Operation::Attention(options.clone()), inputs)
    }

    /// Appends new keys and values to layer `layer` of a cache and attends to all of them; the
    /// caller advances the cache after the last layer. For tapes that do not record.
    pub fn attention_cached(
        &self,
        q_bthk: &Tensor,
        k_btgk: &Tensor,
        v_btgk: &Tensor,
        options: &AttentionOptions,
        cache: &mut KvCache,
        layer: usize,
    ) -> Result<Tensor, TensorError> {
        let operation = "attention_cached";
        let unsupported =
            |problem: &str| TensorError::Unsupported { operation, problem: problem.to_owned() };
        if self.recording {
            return Err(unsupported("a recording tape cannot use a cache"));
        }
        if options.first_key.is_some() {
            return Err(unsupported("a cache holds one document for each sequence"));
        }
        [q_bthk, k_btgk, v_btgk].iter().try_for_each(|x| self.check_source(operation, x))?;
        check_attention_options(operation, options)?;
        let past = cache.len();
        let shapes = || vec![q_bthk.shape, k_btgk.shape, v_btgk.shape];
        let shape = attention_shape(&q_bthk.shape, &k_btgk.shape, options, past)
            .filter(|shape| {
                k_btgk.shape == v_btgk.shape
                    && shape.batch == cache.batch()
                    && shape.kv_heads * shape.head_dim == cache.width()
            })
            .ok_or_else(|| {
                let problem = format!(
                    "they do not fit a cache of {} sequences with rows of {}",
                    cache.batch(),
                    cache.width()
                );
                TensorError::Shape { operation, shapes: shapes(), problem }
            })?;
        if layer >= cache.layers() {
            return Err(unsupported("the cache has fewer layers"));
        }
        if shape.queries > cache.capacity() - past {
            return Err(unsupported("the cache is full; make one with room for more tokens"));
        }
        let [q_bthk, k_btgk, v_btgk] =
            [q_bthk, k_btgk, v_btgk].map(|tensor| self.in_dtype(tensor.clone(), DType::F32));
        let (device, queries) = (&self.device, shape.queries);
        let keys = cache.append(device, layer, queries, &k_btgk.buffer, &v_btgk.buffer);
        let mut out = self.device.allocate(q_bthk.shape.elements());
        let mut log_sum_exp = self.device.allocate(shape.batch * shape.heads * shape.queries);
        self.device.attention(&shape, &q_bthk.buffer, keys, None, &mut out, &mut log_sum_exp);
        self.device.check()?;
        Ok(self.value(q_bthk.shape, out, false))
    }

    /// `silu(gate) · up` (arXiv:2002.05202).
    pub fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor, TensorError> {
        self.one(Operation::SwiGlu, vec![gate.clone(), up.clone()])
    }

    /// `gelu(gate) · up` with the tanh approximation of GELU (arXiv:2002.05202).
    pub fn geglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor, TensorError> {
        self.one(Operation::GeGlu, vec![gate.clone(), up.clone()])
    }

    /// `x + bias` on rows of `bias_d`; `x` is taken by value, so that its buffer is reused.
    pub fn add_bias(&self, x: Tensor, bias_d: &Tensor) -> Result<Tensor, TensorError> {
        self.one(Operation::AddBias, vec![x, bias_d.clone()])
    }

    /// `factor · x`; `x` is taken by value, so that its buffer is reused.
    pub fn scale(&self, x: Tensor, factor: f32) -> Result<Tensor, TensorError> {
        self.one(Operation::Scale { factor }, vec![x])
    }

    /// `x · magnitude / ‖W + s·B·A‖` by columns, the norms being those of the matrix's rows: what DoRA
    /// (arXiv:2402.09353) makes of the result `x` of an adapted linear layer. Gradients flow to `x` and
    /// the magnitude; the norms count as constants, as the paper proposes and peft does.
    pub fn magnitude(
        &self,
        x: &Tensor,
        magnitude_o: &Tensor,
        matrix: &AdaptedMatrix<'_>,
    ) -> Result<Tensor, TensorError> {
        let AdaptedMatrix { weight_od, a_rd, b_or, scale } = *matrix;
        let shapes = vec![x.shape, magnitude_o.shape, weight_od.shape, a_rd.shape, b_or.shape];
        let (&[o, d], &[r, a_d]) = (weight_od.shape.lengths(), a_rd.shape.lengths()) else {
            let problem = "the matrix and its change must be [o, d] and [r, d]".to_owned();
            return Err(TensorError::Shape { operation: "magnitude", shapes, problem });
        };
        if a_d != d || b_or.shape.lengths() != [o, r] || x.shape.last() != o || o * d * r == 0 {
            let problem =
                "they must be x [.., o], magnitude [o], weight [o, d], a [r, d], b [o, r]";
            let problem = problem.to_owned();
            return Err(TensorError::Shape { operation: "magnitude", shapes, problem });
        }
        let mut norms = self.device.allocate(o);
        let (a, b) = (&a_rd.buffer, &b_or.buffer);
        self.device.adapted_norms(scale, &weight_od.buffer, a, b, &mut norms);
        let operation = Operation::Magnitude { norms: Arc::new(norms) };
        self.one(operation, vec![x.clone(), magnitude_o.clone()])
    }

    /// `cap · tanh(x / cap)`; `x` is taken by value, so that its buffer is reused.
    pub fn soft_cap(&self, x: Tensor, cap: f32) -> Result<Tensor, TensorError> {
        self.one(Operation::SoftCap { cap }, vec![x])
    }

    /// Chooses the `chosen` experts with the largest of `logits_ne` for each token; returns the
    /// choice and the weights of the chosen, `[n, chosen]`, which sum to 1 if `normalise`.
    ///
    /// Gradients flow through the weights, not through the choice.
    pub fn route(
        &self,
        logits_ne: &Tensor,
        chosen: usize,
        normalise: bool,
    ) -> Result<(Routing, Tensor), TensorError> {
        self.check_source("route", logits_ne)?;
        let (device, shape) = (&self.device, logits_ne.shape);
        let logits_ne = self.in_dtype(logits_ne.clone(), DType::F32);
        let routing = Routing::choose(device, &logits_ne.buffer, &shape, chosen, normalise)?;
        let weights_nc = self.one(Operation::RoutingWeights(routing.clone()), vec![logits_ne])?;
        Ok((routing, weights_nc))
    }

    /// The weighted sum of what the chosen experts make of each token of `x` (`[.., d]`); expert
    /// `e` is the SwiGLU layer `gate_efd[e]`, `up_efd[e]`, `down_edf[e]`.
    pub fn experts(
        &self,
        x: &Tensor,
        weights_nc: &Tensor,
        routing: &Routing,
        [gate_efd, up_efd, down_edf]: [&Tensor; 3],
    ) -> Result<Tensor, TensorError> {
        let changes = ExpertChanges { gate_up: None, down: None, scale: 1.0 };
        self.changed_experts(x, weights_nc, routing, [gate_efd, up_efd, down_edf], &changes)
    }

    /// As [`Self::experts`], with changes of low rank of the experts' matrices.
    pub fn changed_experts(
        &self,
        x: &Tensor,
        weights_nc: &Tensor,
        routing: &Routing,
        [gate_efd, up_efd, down_edf]: [&Tensor; 3],
        changes: &ExpertChanges<'_>,
    ) -> Result<Tensor, TensorError> {
        let always = [x, weights_nc, gate_efd, up_efd, down_edf];
        let gate_up = changes.gate_up.iter().flatten();
        let down = changes.down.iter().flatten();
        let inputs = always.iter().chain(gate_up).chain(down).map(|&input| input.clone()).collect();
        let changed = ChangedExperts::of(changes);
        self.one(Operation::Experts { routing: routing.clone(), changed }, inputs)
    }

    /// `a + b`.
    pub fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, TensorError> {
        self.one(Operation::Add, vec![a.clone(), b.clone()])
    }

    /// Chooses rows of `x` (all dimensions but the last count as rows); returns `[rows, d]`.
    pub fn select_rows(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor, TensorError> {
        self.one(Operation::SelectRows { rows: rows.into() }, vec![x.clone()])
    }

    /// The mean (or weighted) cross-entropy of `softmax(x · wᵀ)` with its z-loss; the logits of all rows
    /// are never stored. Returns one element.
    pub fn linear_cross_entropy<'a>(
        &self,
        x: &Tensor,
        layer: impl Into<OutputLayer<'a>>,
        rows: &LossRows,
    ) -> Result<Tensor, TensorError> {
        let OutputLayer { weight_vd, soft_cap } = layer.into();
        let operation = Operation::LinearCrossEntropy { rows: rows.clone(), soft_cap };
        self.one(operation, vec![x.clone(), weight_vd.clone()])
    }

    /// `log softmax(x · wᵀ)[target]` of each row, `[n]`, with gradient.
    pub fn linear_log_probabilities<'a>(
        &self,
        x: &Tensor,
        layer: impl Into<OutputLayer<'a>>,
        targets: &[u32],
    ) -> Result<Tensor, TensorError> {
        let OutputLayer { weight_vd, soft_cap } = layer.into();
        let operation = Operation::LinearLogProbabilities { targets: targets.into(), soft_cap };
        self.one(operation, vec![x.clone(), weight_vd.clone()])
    }

    /// `log softmax(x · wᵀ)[target]` of each row on the host, and whether greedy decoding would
    /// choose the target; nothing is recorded.
    pub fn score_rows<'a>(
        &self,
        x: &Tensor,
        layer: impl Into<OutputLayer<'a>>,
        targets: &[u32],
    ) -> Result<RowScores, TensorError> {
        let OutputLayer { weight_vd, soft_cap } = layer.into();
        let operation = Operation::LinearLogProbabilities { targets: targets.into(), soft_cap };
        self.check_inputs(&operation, &[x.clone(), weight_vd.clone()])?;
        operation.output_shapes(&[x.clone(), weight_vd.clone()])?;
        check_targets(operation.name(), targets, x.shape.rows(), weight_vd.shape.rows())?;
        let inputs = self.in_dtypes(&operation, vec![x.clone(), weight_vd.clone()]);
        let (x, w) = (&inputs[0], &inputs[1]);
        let (x, w) = ((&*x.buffer, x.shape.last()), (&*w.buffer, w.shape.rows()));
        let scores = Head::new(&self.device, x, w, soft_cap).scores(targets);
        self.device.check()?;
        Ok(scores)
    }

    /// Goes back from a loss of one element, adding to the gradients of `parameters`.
    ///
    /// The records are used up; the tape can be used for the next forward.
    pub fn backward(
        &self,
        loss: &Tensor,
        parameters: &mut ParameterStore,
    ) -> Result<(), TensorError> {
        self.backward_from(&[(loss, &[1.0])], parameters)
    }

    /// Goes back from given gradients of any tensors, such as of per-token log-probabilities.
    pub fn backward_from(
        &self,
        seeds: &[(&Tensor, &[f32])],
        parameters: &mut ParameterStore,
    ) -> Result<(), TensorError> {
        for (tensor, gradient) in seeds {
            self.check_source("backward", tensor)?;
            if gradient.len() != tensor.shape.elements() {
                let problem = format!("{} values of gradient were given", gradient.len());
                let shapes = vec![tensor.shape];
                return Err(TensorError::Shape { operation: "backward", shapes, problem });
            }
        }
        self.walk_back(parameters, |gradients| {
            for (tensor, gradient) in seeds {
                let buffer = Arc::new(self.device.upload(gradient));
                gradients.pass(&Slot::of((*tensor).clone()), buffer);
            }
            Ok(())
        })
    }

    /// Computes the cross-entropy as [`Tape::linear_cross_entropy`] does and goes back from it in
    /// the same pass over the logits, which saves one of the head's three matrix products.
    pub fn cross_entropy_and_backward<'a>(
        &self,
        x: &Tensor,
        layer: impl Into<OutputLayer<'a>>,
        rows: &LossRows,
        parameters: &mut ParameterStore,
    ) -> Result<LossSummary, TensorError> {
        let OutputLayer { weight_vd, soft_cap } = layer.into();
        let operation = Operation::LinearCrossEntropy { rows: rows.clone(), soft_cap };
        let inputs = vec![x.clone(), weight_vd.clone()];
        self.check_inputs(&operation, &inputs)?;
        operation.output_shapes(&inputs)?;
        let inputs = self.in_dtypes(&operation, inputs);
        let inputs: Vec<Slot> = inputs.into_iter().map(Slot::of).collect();
        let looking = self.look_forward(&operation, &inputs)?;
        let mut losses = None;
        self.walk_back(parameters, |gradients| {
            let factors = rows.factors(1.0);
            let (device, targets) = (&self.device, &rows.targets);
            let made =
                head_backward(device, &inputs, soft_cap, targets, &factors, rows.z_loss, gradients);
            if let Some(looking) = looking {
                let shape = Shape::new(&[made.cross_entropy.len()])?;
                let what = "the losses of its rows".to_owned();
                let values = &made.cross_entropy;
                let mut looking = looking.check(observe_values(what, shape, DType::F32, values))?;
                looking.direction = Direction::Backward;
                self.check_gradients(looking, &inputs, gradients)?;
            }
            losses = Some(made);
            Ok(())
        })?;
        Ok(rows.summarise(&losses.expect("the way back begins with the head")))
    }

    /// Uses up the records from the last to the first.
    fn walk_back(
        &self,
        parameters: &mut ParameterStore,
        seed: impl FnOnce(&mut Gradients<'_>) -> Result<(), TensorError>,
    ) -> Result<(), TensorError> {
        if !self.recording {
            let problem = "this tape does not record; make it with Tape::recording".to_owned();
            return Err(TensorError::Unsupported { operation: "backward", problem });
        }
        let store = parameters.serial();
        let foreign = |slot: &Slot| matches!(slot.source, Source::Parameter { store: other, .. } if other != store);
        let mut records = self.records.borrow_mut();
        if let Some(record) = records.iter().find(|record| record.inputs.iter().any(foreign)) {
            let problem = "its parameters are of another store than backward was given".to_owned();
            return Err(TensorError::Unsupported { operation: record.operation.name(), problem });
        }
        let values = self.values.replace(0);
        self.round.set(ROUNDS.fetch_add(1, Ordering::Relaxed));
        let mut gradients = Gradients {
            device: &self.device,
            values: std::iter::repeat_with(|| None).take(values).collect(),
            parameters,
        };
        seed(&mut gradients)?;
        while let Some(record) = records.pop() {
            let Record { operation, inputs, outputs, saved } = record;
            let take = |output: &Slot| {
                let gradient = gradients.take_value(output)?;
                let any = operation.takes_bf16_gradients();
                Some(if any { gradient } else { gradients.in_dtype(gradient, DType::F32) })
            };
            let mut douts: Vec<_> = outputs.iter().map(take).collect();
            let device = &self.device;
            let looking = match &self.audit {
                None => None,
                Some(audit) => {
                    let arrived = douts.iter().map(Option::as_deref);
                    let before = records.iter().rev().map(|record| &record.inputs[..]);
                    let slots = (&inputs[..], &outputs[..]);
                    Some(audit.backward(device, &operation, slots, arrived, before)?)
                }
            };
            operation.backward(device, &inputs, &outputs, &saved, &mut douts, &mut gradients);
            if let Some(looking) = looking {
                self.check_gradients(looking, &inputs, &gradients)?;
            }
        }
        self.device.check()
    }

    /// Looks at what goes into an operation, if the tape audits.
    fn look_forward(
        &self,
        operation: &Operation,
        inputs: &[Slot],
    ) -> Result<Option<NonFinite>, TensorError> {
        let look = |audit: &Audit| audit.forward(&self.device, operation, inputs);
        self.audit.as_ref().map(look).transpose()
    }

    /// Looks at the gradients that an operation has added to.
    fn check_gradients(
        &self,
        mut looking: NonFinite,
        inputs: &[Slot],
        gradients: &Gradients<'_>,
    ) -> Result<(), TensorError> {
        let Some(audit) = &self.audit else { return Ok(()) };
        for (index, slot) in inputs.iter().enumerate() {
            let what = || format!("the gradient of {}", audit.name(inputs, index));
            if let Some(observed) = gradients.observe(slot, what) {
                looking = looking.check(observed)?;
            }
        }
        Ok(())
    }

    fn one(&self, operation: Operation, inputs: Vec<Tensor>) -> Result<Tensor, TensorError> {
        let mut outputs = self.run(operation, inputs)?;
        Ok(outputs.pop().expect("the operation has one output"))
    }

    /// Runs an operation and remembers it if a gradient may flow through it.
    fn run(&self, operation: Operation, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, TensorError> {
        self.check_inputs(&operation, &inputs)?;
        let shapes = operation.output_shapes(&inputs)?;
        let needs_grad = self.recording && inputs.iter().any(|input| input.needs_grad);
        if needs_grad && inputs.iter().any(|input| input.dtype().is_quantised()) {
            let problem = "quantised weights cannot be trained through; use f32 weights";
            let (operation, problem) = (operation.name(), problem.to_owned());
            return Err(TensorError::Unsupported { operation, problem });
        }
        let inputs = self.in_dtypes(&operation, inputs);
        let compute = self.compute_dtype(&inputs);
        let first = inputs[0].dtype();
        let mut inputs: Vec<Slot> = inputs.into_iter().map(Slot::of).collect();
        let looking = self.look_forward(&operation, &inputs)?;
        let mut outputs: Vec<Buffer> = Vec::with_capacity(shapes.len());
        for (index, shape) in shapes.iter().enumerate() {
            let shared = match operation.in_place() {
                Some((input, output)) if output == index => inputs[input].buffer.take(),
                _ => None,
            };
            outputs.push(if let Some(buffer) = shared {
                own(&self.device, buffer)
            } else {
                let dtype = operation.output_dtype(index, first, compute);
                self.device.allocate_as(shape.elements(), dtype)
            });
        }
        let saved = operation.forward(&self.device, &inputs, &mut outputs);
        self.device.check()?;
        if let Some(mut looking) = looking {
            for (index, (buffer, shape)) in outputs.iter().zip(&shapes).enumerate() {
                let what = counted("output", index, outputs.len());
                looking = looking.check(observe(&self.device, what, *shape, buffer))?;
            }
        }
        let outputs: Vec<Tensor> = outputs
            .into_iter()
            .zip(shapes)
            .map(|(buffer, shape)| self.value(shape, buffer, needs_grad))
            .collect();
        if needs_grad {
            for (index, input) in inputs.iter_mut().enumerate() {
                input.buffer = input.buffer.take().filter(|_| operation.keeps_input(index));
            }
            let keep = |(index, output): (usize, &Tensor)| {
                let mut slot = Slot::of(output.clone());
                slot.buffer = slot.buffer.filter(|_| operation.keeps_output(index));
                slot
            };
            let kept = outputs.iter().enumerate().map(keep).collect();
            self.records.borrow_mut().push(Record { operation, inputs, outputs: kept, saved });
        }
        Ok(outputs)
    }

    /// What an operation computes in: quantised weights are multiplied with f32.
    fn compute_dtype(&self, inputs: &[Tensor]) -> DType {
        let quantised = inputs.iter().any(|input| input.dtype().is_quantised());
        if quantised { DType::F32 } else { self.compute }
    }

    /// Rounds or widens the inputs that the operation needs in another type.
    fn in_dtypes(&self, operation: &Operation, inputs: Vec<Tensor>) -> Vec<Tensor> {
        let compute = self.compute_dtype(&inputs);
        let each = inputs.into_iter().enumerate();
        each.map(|(index, input)| match operation.input_dtype(index, compute) {
            Some(dtype) => self.in_dtype(input, dtype),
            None => input,
        })
        .collect()
    }

    /// The same tensor with its values in f32 or bf16; its gradient goes where it went.
    fn in_dtype(&self, mut tensor: Tensor, dtype: DType) -> Tensor {
        if tensor.dtype() == dtype || tensor.dtype().is_quantised() {
            return tensor;
        }
        let device = &self.device;
        tensor.buffer = match &tensor.rounded {
            Some(rounded) if dtype == DType::BF16 => {
                Arc::clone(rounded.get_or_init(|| converted(device, &tensor.buffer, dtype)))
            }
            _ => converted(device, &tensor.buffer, dtype),
        };
        tensor
    }

    fn value(&self, shape: Shape, buffer: Buffer, needs_grad: bool) -> Tensor {
        let index = self.values.get();
        self.values.set(index + 1);
        let source = Source::Value { round: self.round.get(), index };
        Tensor { source, shape, buffer: Arc::new(buffer), rounded: None, needs_grad }
    }

    fn check_inputs(&self, operation: &Operation, inputs: &[Tensor]) -> Result<(), TensorError> {
        inputs.iter().try_for_each(|input| self.check_source(operation.name(), input))
    }

    fn check_source(&self, operation: &'static str, tensor: &Tensor) -> Result<(), TensorError> {
        if !self.device.holds(&tensor.buffer) {
            let problem = format!("an input does not lie on {}", self.device.name());
            return Err(TensorError::Unsupported { operation, problem });
        }
        match tensor.source {
            // Without a gradient it does not matter who made the values.
            Source::Value { round, .. } if tensor.needs_grad && round != self.round.get() => {
                Err(TensorError::Foreign { operation })
            }
            _ => Ok(()),
        }
    }
}

/// The gradients on the way back.
pub(crate) struct Gradients<'a> {
    device: &'a Device,
    values: Vec<Option<Arc<Buffer>>>,
    parameters: &'a mut ParameterStore,
}

impl Gradients<'_> {
    /// Takes the gradient of a slot out (f32), to be written or added to as the second part says;
    /// [`Self::put`] brings it back.
    pub(crate) fn take(&mut self, slot: &Slot) -> (Buffer, Accumulate) {
        if !slot.needs_grad {
            return (self.device.allocate(slot.shape.elements()), Accumulate::No);
        }
        match slot.source {
            Source::Parameter { id, .. } => self.parameters.take_grad(id),
            _ => match self.take_value(slot) {
                Some(gradient) => (self.own(self.in_dtype(gradient, DType::F32)), Accumulate::Yes),
                None => (self.device.allocate(slot.shape.elements()), Accumulate::No),
            },
        }
    }

    /// Takes the gradient of a slot out for a kernel that always adds.
    pub(crate) fn take_zeroed(&mut self, slot: &Slot) -> Buffer {
        let (mut gradient, accumulate) = self.take(slot);
        if accumulate == Accumulate::No {
            self.device.fill(&mut gradient, 0.0);
        }
        gradient
    }

    /// Brings back what [`Self::take`] gave.
    pub(crate) fn put(&mut self, slot: &Slot, gradient: Buffer) {
        self.pass(slot, Arc::new(gradient));
    }

    /// Adds a gradient that may be shared with another slot.
    pub(crate) fn pass(&mut self, slot: &Slot, gradient: Arc<Buffer>) {
        if !slot.needs_grad {
            return;
        }
        match slot.source {
            Source::Constant => {}
            Source::Parameter { id, .. } => {
                let gradient = self.own(self.in_dtype(gradient, DType::F32));
                self.parameters.put_grad(id, gradient);
            }
            Source::Value { index, .. } => {
                let sum = match self.values[index].take() {
                    Some(present) => {
                        let mut sum = self.own(self.in_dtype(present, DType::F32));
                        self.device.add_assign(&mut sum, &gradient);
                        Arc::new(sum)
                    }
                    None => gradient,
                };
                self.values[index] = Some(sum);
            }
        }
    }

    /// Reads the gradient of a slot, if there is one.
    fn observe(&self, slot: &Slot, what: impl FnOnce() -> String) -> Option<Observed> {
        if !slot.needs_grad {
            return None;
        }
        let gradient = match slot.source {
            Source::Constant => None,
            Source::Parameter { id, .. } => self.parameters.get(id).grad(),
            Source::Value { index, .. } => self.values[index].as_deref(),
        };
        gradient.map(|gradient| observe(self.device, what(), slot.shape, gradient))
    }

    /// Whether nothing has arrived yet for a value.
    pub(crate) fn is_first(&self, slot: &Slot) -> bool {
        match slot.source {
            Source::Value { index, .. } => self.values[index].is_none(),
            _ => false,
        }
    }

    /// A gradient rounded or widened where its type is another.
    pub(crate) fn in_dtype(&self, gradient: Arc<Buffer>, dtype: DType) -> Arc<Buffer> {
        if gradient.dtype() == dtype {
            return gradient;
        }
        converted(self.device, &gradient, dtype)
    }

    /// Takes out the gradient of a value, if any has arrived.
    fn take_value(&mut self, slot: &Slot) -> Option<Arc<Buffer>> {
        match slot.source {
            Source::Value { index, .. } => self.values[index].take(),
            _ => None,
        }
    }

    /// The buffer itself if nobody else holds it, else a copy.
    pub(crate) fn own(&self, buffer: Arc<Buffer>) -> Buffer {
        own(self.device, buffer)
    }
}

fn own(device: &Device, buffer: Arc<Buffer>) -> Buffer {
    Arc::try_unwrap(buffer).unwrap_or_else(|shared| {
        let mut copy = device.allocate_as(shared.len(), shared.dtype());
        device.copy(&shared, &mut copy);
        copy
    })
}

fn converted(device: &Device, buffer: &Buffer, dtype: DType) -> Arc<Buffer> {
    let mut out = device.allocate_as(buffer.len(), dtype);
    device.convert(buffer, &mut out);
    Arc::new(out)
}

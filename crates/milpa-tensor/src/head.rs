//! The language-model head with its loss, in chunks of rows: the logits of all rows at once never
//! exist.
//!
//! Loss of a row: `log Σ exp(x·Wᵀ) − (x·Wᵀ)[target]`, with z-loss more by `c · (log Σ exp(x·Wᵀ))²`. Its
//! gradient needs the logits again; a chunk
//! computes them, turns them into gradients in place and adds to `dx` and `dW` while they are in
//! cache. Chunk sizes depend on shapes alone.

use std::{ops::Range, sync::Arc};

use milpa_kernels::{
    Accumulate, Size,
    loss::{IGNORE, ZLoss},
};

use crate::{
    buffer::{Buffer, DType},
    device::{Device, Matrix, MatrixMut},
    error::TensorError,
    tape::Tensor,
};

/// Logits that a chunk holds at most (128 MiB), unless its fewest rows have more.
const CHUNK_LOGITS: usize = 1 << 25;
/// Rows of a chunk at least and at most: each chunk packs the weight again.
const FEWEST_ROWS: usize = 128;
const CHUNK_ROWS: usize = 1024;

/// What each row is to predict, and how much it counts.
#[derive(Debug, Clone)]
pub struct LossRows {
    /// One token id per row, or [`IGNORE`].
    pub targets: Arc<[u32]>,
    /// Factor of each row's loss; `None` counts every row once.
    pub weights: Option<Arc<[f32]>>,
    /// What the weighted sum is divided by; `None` is the sum of the weights of the rows that are
    /// not ignored. A step of several micro-batches gives all of them the divisor of the whole.
    pub divisor: Option<f64>,
    /// Coefficient `c` of the z-loss, `c · (log Z)²` added to each row's loss where Z is the sum of the
    /// exponentials of its logits (PaLM, arXiv:2204.02311, section 5); 0 is none.
    pub z_loss: f32,
}

impl LossRows {
    /// Counts every row that is not [`IGNORE`] once, and takes the mean.
    pub fn mean(targets: &[u32]) -> Self {
        Self { targets: targets.into(), weights: None, divisor: None, z_loss: 0.0 }
    }

    /// Sum of the weights of the rows that are not ignored.
    pub fn weight(&self) -> f64 {
        (0..self.targets.len()).map(|row| f64::from(self.row_weight(row))).sum()
    }

    fn row_weight(&self, row: usize) -> f32 {
        match &self.weights {
            _ if self.targets[row] == IGNORE => 0.0,
            Some(weights) => weights[row],
            None => 1.0,
        }
    }

    /// Factor that turns a row's loss into its part of the whole loss; 0 if nothing counts.
    pub(crate) fn factors(&self, outer: f64) -> Vec<f32> {
        let divisor = self.divisor.unwrap_or_else(|| self.weight());
        let factor = if divisor == 0.0 { 0.0 } else { outer / divisor };
        (0..self.targets.len())
            .map(|row| (f64::from(self.row_weight(row)) * factor) as f32)
            .collect()
    }

    /// Sums the rows' losses in order.
    pub(crate) fn summarise(&self, losses: &RowLosses) -> LossSummary {
        let weight = self.weight();
        let divisor = self.divisor.unwrap_or(weight);
        let rows = self.targets.iter().filter(|&&target| target != IGNORE).count();
        let mean = |values: &[f32]| {
            let weighted = values.iter().enumerate();
            let sum: f64 = weighted
                .map(|(row, &value)| f64::from(value) * f64::from(self.row_weight(row)))
                .sum();
            if divisor == 0.0 { 0.0 } else { sum / divisor }
        };
        let z_loss = f64::from(self.z_loss) * mean(&losses.squares);
        LossSummary { loss: mean(&losses.cross_entropy), z_loss, weight, rows }
    }

    pub(crate) fn check(
        &self,
        operation: &'static str,
        rows: usize,
        vocab: usize,
    ) -> Result<(), TensorError> {
        let unsupported = |problem: String| TensorError::Unsupported { operation, problem };
        check_targets(operation, &self.targets, rows, vocab)?;
        if let Some(weights) = &self.weights {
            if weights.len() != rows {
                return Err(unsupported(format!("{} weights for {rows} rows", weights.len())));
            }
            if let Some(row) = weights.iter().position(|weight| !weight.is_finite()) {
                return Err(unsupported(format!("the weight of row {row} is {}", weights[row])));
            }
        }
        if !(self.z_loss.is_finite() && self.z_loss >= 0.0) {
            let problem = format!("a z-loss of {}; it must be zero or above", self.z_loss);
            return Err(unsupported(problem));
        }
        match self.divisor {
            Some(divisor) if !divisor.is_finite() => {
                Err(unsupported(format!("the divisor is {divisor}")))
            }
            _ => Ok(()),
        }
    }
}

/// A loss with what it was summed over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSummary {
    /// The weighted sum of the rows' cross-entropies over the divisor, in nats.
    pub loss: f64,
    /// What the z-loss adds to it for the gradients; 0 without one.
    pub z_loss: f64,
    /// Sum of the weights of the rows that were not ignored.
    pub weight: f64,
    /// Number of rows that were not ignored.
    pub rows: usize,
}

/// What each row adds to a loss, before weights.
#[derive(Debug)]
pub(crate) struct RowLosses {
    /// Its cross-entropy.
    pub(crate) cross_entropy: Vec<f32>,
    /// `(log Z)²`; empty without a z-loss.
    pub(crate) squares: Vec<f32>,
}

/// How well each row predicted its target.
#[derive(Debug, Clone, PartialEq)]
pub struct RowScores {
    /// `log softmax(logits)[target]` in nats; 0 for ignored rows.
    pub log_probabilities: Vec<f32>,
    /// Whether greedy decoding would choose the target; `false` for ignored rows.
    pub is_greedy: Vec<bool>,
}

pub(crate) fn check_targets(
    operation: &'static str,
    targets: &[u32],
    rows: usize,
    vocab: usize,
) -> Result<(), TensorError> {
    if targets.len() != rows {
        let problem = format!("{} targets for {rows} rows", targets.len());
        return Err(TensorError::Unsupported { operation, problem });
    }
    let beyond = |&target: &u32| target != IGNORE && target as usize >= vocab;
    match targets.iter().position(beyond) {
        Some(index) => {
            let value = targets[index];
            Err(TensorError::Range { operation, what: "target", value, index, limit: vocab })
        }
        None => Ok(()),
    }
}

/// The layer that turns hidden states into logits `x · wᵀ`; a plain weight becomes one without a cap.
#[derive(Debug, Clone, Copy)]
pub struct OutputLayer<'a> {
    /// `[vocabulary, d]`.
    pub weight_vd: &'a Tensor,
    /// Bound `c` of the logits: they become `c · tanh(logit / c)` (Gemma 2, arXiv:2408.00118).
    pub soft_cap: Option<f32>,
}

impl<'a> From<&'a Tensor> for OutputLayer<'a> {
    fn from(weight_vd: &'a Tensor) -> Self {
        Self { weight_vd, soft_cap: None }
    }
}

/// Hidden states `x_nd` and the weight `w_vd` that turns them into logits.
pub(crate) struct Head<'a> {
    device: &'a Device,
    x_nd: &'a Buffer,
    w_vd: &'a Buffer,
    rows: usize,
    dim: usize,
    vocab: usize,
    soft_cap: Option<f32>,
}

/// Where a gradient goes.
pub(crate) struct GradTarget<'a> {
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) accumulate: Accumulate,
}

impl<'a> Head<'a> {
    pub(crate) fn new(
        device: &'a Device,
        x: (&'a Buffer, usize),
        w: (&'a Buffer, usize),
        soft_cap: Option<f32>,
    ) -> Self {
        let ((x_nd, dim), (w_vd, vocab)) = (x, w);
        Self { device, x_nd, w_vd, rows: x_nd.len() / dim, dim, vocab, soft_cap }
    }

    pub(crate) fn scores(&self, targets: &[u32]) -> RowScores {
        let mut log_probabilities = vec![0.0; self.rows];
        let mut is_greedy = vec![false; self.rows];
        self.for_each_chunk(|rows, logits| {
            self.device.log_probabilities(
                self.vocab,
                logits,
                &targets[rows.clone()],
                &mut log_probabilities[rows.clone()],
                &mut is_greedy[rows],
            );
        });
        RowScores { log_probabilities, is_greedy }
    }

    /// Computes the rows' losses and, in the same pass, the gradients of `Σ factors · losses`, of which
    /// a `z_loss` other than 0 is part.
    pub(crate) fn gradients(
        &self,
        targets: &[u32],
        factors: &[f32],
        z_loss: f32,
        mut dx: Option<GradTarget<'_>>,
        mut dw: Option<GradTarget<'_>>,
    ) -> RowLosses {
        let mut losses = vec![0.0; self.rows];
        let mut squares = vec![0.0; if z_loss == 0.0 { 0 } else { self.rows }];
        let (d, v) = (self.dim, self.vocab);
        let dtype = self.w_vd.dtype();
        let mut rounded =
            (dtype == DType::BF16).then(|| self.device.allocate_as(self.chunk_rows() * v, dtype));
        self.for_each_chunk(|rows, logits| {
            let targets = &targets[rows.clone()];
            let chunk = rows.len();
            let (factors, losses) = (&factors[rows.clone()], &mut losses[rows.clone()]);
            let z_loss = (z_loss != 0.0)
                .then(|| ZLoss { coefficient: z_loss, squares: &mut squares[rows.clone()] });
            match self.soft_cap {
                None => {
                    let rounded = rounded.as_mut();
                    self.device.cross_entropy(v, logits, targets, factors, losses, z_loss, rounded);
                }
                Some(cap) => {
                    let mut capped = self.device.allocate(logits.len());
                    self.device.copy(logits, &mut capped);
                    self.device.cross_entropy(v, logits, targets, factors, losses, z_loss, None);
                    self.device.soft_cap_backward(cap, &capped, logits);
                    if let Some(rounded) = &mut rounded {
                        self.device.convert(logits, rounded);
                    }
                }
            }
            let dlogits = Matrix::new(rounded.as_ref().unwrap_or(logits), v);
            let offset = rows.start * d;
            if let Some(dx) = &mut dx {
                let out = MatrixMut { buffer: dx.buffer, offset, stride: d };
                let size = Size { m: chunk, n: d, k: v };
                let w = Matrix::new(self.w_vd, d);
                self.device.matmul_nn(size, dlogits, w, out, dx.accumulate);
            }
            if let Some(dw) = &mut dw {
                let x = Matrix { buffer: self.x_nd, offset, stride: d };
                let out = MatrixMut::new(dw.buffer, d);
                let size = Size { m: v, n: d, k: chunk };
                self.device.matmul_tn(size, dlogits, x, out, dw.accumulate);
                dw.accumulate = Accumulate::Yes;
            }
        });
        RowLosses { cross_entropy: losses, squares }
    }

    fn chunk_rows(&self) -> usize {
        (CHUNK_LOGITS / self.vocab / 8 * 8).clamp(FEWEST_ROWS, CHUNK_ROWS).min(self.rows.max(1))
    }

    /// Calls `body` with each range of rows and the logits of those rows.
    fn for_each_chunk(&self, mut body: impl FnMut(Range<usize>, &mut Buffer)) {
        let (d, v) = (self.dim, self.vocab);
        let chunk = self.chunk_rows();
        let mut logits = self.device.allocate(chunk * v);
        for start in (0..self.rows).step_by(chunk) {
            let rows = start..(start + chunk).min(self.rows);
            let size = Size { m: rows.len(), n: v, k: d };
            let x = Matrix { buffer: self.x_nd, offset: start * d, stride: d };
            let out = MatrixMut::new(&mut logits, v);
            self.device.matmul_nt(size, x, Matrix::new(self.w_vd, d), out);
            if let Some(cap) = self.soft_cap {
                self.device.soft_cap(cap, &mut logits);
            }
            body(rows, &mut logits);
        }
    }
}

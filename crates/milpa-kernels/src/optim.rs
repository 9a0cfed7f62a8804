//! Optimiser steps on slices: AdamW, Lion and Muon.
//!
//! Which parameter gets which optimiser, and schedules, are the caller's; here a step is one pass over
//! weights, gradients and state. Bias corrections are computed in double precision.

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};
use crate::view::{Accumulate, Mat, MatMut, Size};
use crate::{elementwise, gemm};

/// Elements of a task.
const TASK: usize = 32 * 1024;

/// Settings of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the corrected root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay; multiplied by the learning rate.
    pub weight_decay: f32,
    /// Number of this step, counted from 1.
    pub step: u64,
}

/// Settings of one Lion step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Weight of the momentum in the direction of this step, usually 0.9.
    pub beta1: f32,
    /// Decay of the momentum, usually 0.99.
    pub beta2: f32,
    /// Decoupled weight decay; multiplied by the learning rate.
    pub weight_decay: f32,
}

/// Settings of one Muon step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the momentum, usually 0.95.
    pub momentum: f32,
    /// Whether the update looks ahead by one momentum step; usually true.
    pub nesterov: bool,
    /// Decoupled weight decay; multiplied by the learning rate.
    pub weight_decay: f32,
    /// Newton–Schulz iterations, usually 5.
    pub iterations: usize,
}

/// Updates `weights` and both moments from `gradients · gradient_scale`, as `torch.optim.AdamW`:
/// decay by `learning_rate · weight_decay`, then a step along the corrected moments, with `eps`
/// added to the corrected root.
///
/// The scale carries gradient clipping without a pass of its own. Decoupled Weight Decay
/// Regularization, arXiv:1711.05101.
pub fn adamw_step(
    cpu: &Cpu,
    settings: &AdamW,
    gradient_scale: f32,
    weights: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let length = weights.len();
    let lengths = [gradients.len(), first.len(), second.len()];
    assert!(lengths.iter().all(|&other| other == length), "slices of one length, not {lengths:?}");
    assert!(settings.step > 0, "steps are counted from 1");
    // The corrections in double precision, as PyTorch computes them.
    let step = settings.step as f64;
    let correction1 = 1.0 - f64::from(settings.beta1).powf(step);
    let correction2 = 1.0 - f64::from(settings.beta2).powf(step);
    let factors = AdamWFactors {
        keep: 1.0 - settings.learning_rate * settings.weight_decay,
        gradient_scale,
        beta1: settings.beta1,
        beta2: settings.beta2,
        step_size: (f64::from(settings.learning_rate) / correction1) as f32,
        root_factor: (1.0 / correction2.sqrt()) as f32,
        eps: settings.eps,
    };
    let (weights, first, second) = (Shares::new(weights), Shares::new(first), Shares::new(second));
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let (weights, first, second) = unsafe {
            (weights.part(range.clone()), first.part(range.clone()), second.part(range.clone()))
        };
        let gradients = &gradients[range];
        dispatch!(cpu.isa(), simd => adamw(simd, &factors, weights, gradients, first, second));
    });
}

/// Updates `weights` and their momentum from `gradients · gradient_scale`: decay by `learning_rate ·
/// weight_decay`, then `learning_rate` against the sign of `beta1 · momentum + (1 − beta1) ·
/// gradient`, and the momentum decays by `beta2` afterwards. The sign of zero is zero.
///
/// Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, Algorithm 2.
pub fn lion_step(
    cpu: &Cpu,
    settings: &Lion,
    gradient_scale: f32,
    weights: &mut [f32],
    gradients: &[f32],
    momentum: &mut [f32],
) {
    let length = weights.len();
    let lengths = [gradients.len(), momentum.len()];
    assert!(lengths.iter().all(|&other| other == length), "slices of {length}, not {lengths:?}");
    let (weights, momentum) = (Shares::new(weights), Shares::new(momentum));
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let (weights, momentum) =
            unsafe { (weights.part(range.clone()), momentum.part(range.clone())) };
        let gradients = &gradients[range];
        dispatch!(cpu.isa(), simd => {
            lion(simd, settings, gradient_scale, weights, gradients, momentum);
        });
    });
}

/// Updates a matrix `weights[rows, columns]` and its momentum from `gradients · gradient_scale`.
///
/// The update is the (Nesterov) momentum made semi-orthogonal, times `√max(1, rows/columns)`.
/// `scratch` holds at least [`muon_scratch`] elements. Keller Jordan and others, Muon: an optimizer
/// for hidden layers in neural networks (2024), <https://kellerjordan.github.io/posts/muon/>.
pub fn muon_step(
    cpu: &Cpu,
    settings: &Muon,
    rows: usize,
    columns: usize,
    gradient_scale: f32,
    weights: &mut [f32],
    gradients: &[f32],
    momentum: &mut [f32],
    scratch: &mut [f32],
) {
    let length = rows * columns;
    let lengths = [weights.len(), gradients.len(), momentum.len()];
    assert!(lengths.iter().all(|&other| other == length), "slices of {length}, not {lengths:?}");
    assert!(scratch.len() >= muon_scratch(rows, columns), "scratch is too short");
    if length == 0 {
        return;
    }
    let (update, scratch) = scratch.split_at_mut(length);
    let beta = settings.momentum;
    {
        let (update, momentum) = (Shares::new(update), Shares::new(momentum));
        cpu.pool().for_ranges(length, TASK, |range| {
            // SAFETY: each task has its own range.
            let (update, momentum) =
                unsafe { (update.part(range.clone()), momentum.part(range.clone())) };
            for ((update, momentum), &gradient) in
                update.iter_mut().zip(momentum).zip(&gradients[range])
            {
                let gradient = gradient * gradient_scale;
                *momentum = beta * *momentum + (1.0 - beta) * gradient;
                *update = if settings.nesterov {
                    beta * *momentum + (1.0 - beta) * gradient
                } else {
                    *momentum
                };
            }
        });
    }
    newton_schulz(cpu, rows, columns, settings.iterations, update, scratch);
    let size = (rows as f64 / columns as f64).max(1.0).sqrt() as f32;
    elementwise::scale(cpu, weights, 1.0 - settings.learning_rate * settings.weight_decay);
    elementwise::add_scaled(cpu, weights, -settings.learning_rate * size, update);
}

/// Returns how many floats of scratch [`muon_step`] needs for a matrix.
pub fn muon_scratch(rows: usize, columns: usize) -> usize {
    rows * columns + newton_schulz_scratch(rows, columns)
}

/// Replaces `x[rows, columns]` by an approximation of its nearest semi-orthogonal matrix.
///
/// The quintic Newton–Schulz iteration of Muon, `X ← aX + (bXXᵀ + c(XXᵀ)²)X` from `X/‖X‖`, whose
/// singular values settle near 1 (between about 0.7 and 1.2) rather than at 1. A tall matrix is
/// treated transposed. `scratch` holds at least [`newton_schulz_scratch`] elements.
pub fn newton_schulz(
    cpu: &Cpu,
    rows: usize,
    columns: usize,
    iterations: usize,
    x: &mut [f32],
    scratch: &mut [f32],
) {
    assert_eq!(x.len(), rows * columns, "x: [rows, columns]");
    assert!(scratch.len() >= newton_schulz_scratch(rows, columns), "scratch is too short");
    if x.is_empty() {
        return;
    }
    let (small, large) = (rows.min(columns), rows.max(columns));
    let (mut now, rest) = scratch.split_at_mut(small * large);
    let (mut next, rest) = rest.split_at_mut(small * large);
    let (gram, polynomial) = rest.split_at_mut(small * small);
    let polynomial = &mut polynomial[..small * small];
    let norm = (elementwise::sum_of_squares(cpu, x).sqrt() + 1e-7) as f32;
    if rows > columns {
        transpose(rows, columns, x, now);
    } else {
        now.copy_from_slice(x);
    }
    elementwise::scale(cpu, now, 1.0 / norm);
    let (a, b, c) = QUINTIC;
    for _ in 0..iterations {
        let size = Size { m: small, n: small, k: large };
        let now_view = Mat::new(now, large);
        gemm::matmul_nt(cpu, size, now_view, now_view, MatMut::new(gram, small), Accumulate::No);
        // The polynomial of XXᵀ without X: b·G + c·G², plus a on the diagonal, so that the last
        // product needs no further pass.
        let size = Size { m: small, n: small, k: small };
        let gram_view = Mat::new(gram, small);
        let square = MatMut::new(polynomial, small);
        gemm::matmul_nn(cpu, size, gram_view, gram_view, square, Accumulate::No);
        elementwise::scale(cpu, polynomial, c);
        elementwise::add_scaled(cpu, polynomial, b, gram);
        (0..small).for_each(|i| polynomial[i * small + i] += a);
        let size = Size { m: small, n: large, k: small };
        let product = MatMut::new(next, large);
        gemm::matmul_nn(cpu, size, Mat::new(polynomial, small), now_view, product, Accumulate::No);
        std::mem::swap(&mut now, &mut next);
    }
    if rows > columns {
        transpose(columns, rows, now, x);
    } else {
        x.copy_from_slice(now);
    }
}

/// Coefficients of Muon's quintic iteration.
const QUINTIC: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);

/// Returns how many floats of scratch [`newton_schulz`] needs for a matrix.
pub fn newton_schulz_scratch(rows: usize, columns: usize) -> usize {
    let small = rows.min(columns);
    2 * rows * columns + 2 * small * small
}

/// Returns the factor that brings gradients of norm `norm` to at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_`: `min(1, max_norm / (norm + 1e-6))`.
///
/// A norm that is not finite gives NaN: the caller decides whether to skip the step.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    if !norm.is_finite() {
        return f32::NAN;
    }
    (max_norm / (norm + 1e-6)).min(1.0) as f32
}

struct AdamWFactors {
    keep: f32,
    gradient_scale: f32,
    beta1: f32,
    beta2: f32,
    step_size: f32,
    root_factor: f32,
    eps: f32,
}

#[inline(always)]
fn adamw<S: Simd>(
    simd: S,
    factors: &AdamWFactors,
    weights: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let keep = simd.splat(factors.keep);
    let gradient_scale = simd.splat(factors.gradient_scale);
    let (beta1, rest1) = (simd.splat(factors.beta1), simd.splat(1.0 - factors.beta1));
    let (beta2, rest2) = (simd.splat(factors.beta2), simd.splat(1.0 - factors.beta2));
    let step_size = simd.splat(-factors.step_size);
    let (root_factor, eps) = (simd.splat(factors.root_factor), simd.splat(factors.eps));
    let moments = first.chunks_mut(S::LANES).zip(second.chunks_mut(S::LANES));
    let chunks = weights.chunks_mut(S::LANES).zip(gradients.chunks(S::LANES)).zip(moments);
    for ((weights, gradients), (first, second)) in chunks {
        let gradient = simd.mul(simd.read(gradients), gradient_scale);
        let m = simd.fma(simd.read(first), beta1, simd.mul(gradient, rest1));
        let square = simd.mul(gradient, gradient);
        let v = simd.fma(simd.read(second), beta2, simd.mul(square, rest2));
        simd.write(first, m);
        simd.write(second, v);
        let denominator = simd.fma(simd.sqrt(v), root_factor, eps);
        let kept = simd.mul(simd.read(weights), keep);
        simd.write(weights, simd.fma(simd.div(m, denominator), step_size, kept));
    }
}

#[inline(always)]
fn lion<S: Simd>(
    simd: S,
    settings: &Lion,
    gradient_scale: f32,
    weights: &mut [f32],
    gradients: &[f32],
    momentum: &mut [f32],
) {
    let keep = simd.splat(1.0 - settings.learning_rate * settings.weight_decay);
    let gradient_scale = simd.splat(gradient_scale);
    let (beta1, rest1) = (simd.splat(settings.beta1), simd.splat(1.0 - settings.beta1));
    let (beta2, rest2) = (simd.splat(settings.beta2), simd.splat(1.0 - settings.beta2));
    let step_size = simd.splat(-settings.learning_rate);
    let chunks = weights.chunks_mut(S::LANES).zip(gradients.chunks(S::LANES));
    for ((weights, gradients), momentum) in chunks.zip(momentum.chunks_mut(S::LANES)) {
        let gradient = simd.mul(simd.read(gradients), gradient_scale);
        let before = simd.read(momentum);
        let direction = simd.sign(simd.fma(before, beta1, simd.mul(gradient, rest1)));
        simd.write(momentum, simd.fma(before, beta2, simd.mul(gradient, rest2)));
        let kept = simd.mul(simd.read(weights), keep);
        simd.write(weights, simd.fma(direction, step_size, kept));
    }
}

/// Writes the transpose of `from[rows, columns]`, in squares that stay in the cache.
fn transpose(rows: usize, columns: usize, from: &[f32], to: &mut [f32]) {
    const SQUARE: usize = 16;
    for row in (0..rows).step_by(SQUARE) {
        for column in (0..columns).step_by(SQUARE) {
            for i in row..rows.min(row + SQUARE) {
                for j in column..columns.min(column + SQUARE) {
                    to[j * rows + i] = from[i * columns + j];
                }
            }
        }
    }
}

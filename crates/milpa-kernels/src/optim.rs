//! Optimiser steps on slices: AdamW and Muon.

use crate::cpu::Cpu;
use crate::reference;

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

/// Updates `weights` and both moments from `gradients · gradient_scale`, as `torch.optim.AdamW`.
pub fn adamw_step(
    _cpu: &Cpu,
    settings: &AdamW,
    gradient_scale: f32,
    weights: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    reference::adamw_step(settings, gradient_scale, weights, gradients, first, second);
}

/// Updates a matrix `weights[rows, columns]` and its momentum from `gradients · gradient_scale`.
///
/// `scratch` holds at least [`muon_scratch`] elements.
pub fn muon_step(
    _cpu: &Cpu,
    settings: &Muon,
    rows: usize,
    columns: usize,
    gradient_scale: f32,
    weights: &mut [f32],
    gradients: &[f32],
    momentum: &mut [f32],
    scratch: &mut [f32],
) {
    assert!(scratch.len() >= muon_scratch(rows, columns), "scratch is too short");
    reference::muon_step(settings, rows, columns, gradient_scale, weights, gradients, momentum);
}

/// Returns how many floats of scratch [`muon_step`] needs for a matrix.
pub fn muon_scratch(rows: usize, columns: usize) -> usize {
    rows * columns + newton_schulz_scratch(rows, columns)
}

/// Replaces `x[rows, columns]` by an approximation of its nearest semi-orthogonal matrix.
pub fn newton_schulz(
    _cpu: &Cpu,
    rows: usize,
    columns: usize,
    iterations: usize,
    x: &mut [f32],
    scratch: &mut [f32],
) {
    assert!(scratch.len() >= newton_schulz_scratch(rows, columns), "scratch is too short");
    reference::newton_schulz(rows, columns, iterations, x);
}

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

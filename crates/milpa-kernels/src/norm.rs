//! RMSNorm, forward and backward.

use crate::cpu::Cpu;
use crate::reference;
use crate::view::Accumulate;

/// `y = x / rms(x) · weight` for each row of `dim`; saves `1/rms` per row for the backward.
///
/// Per-head normalisation of queries and keys is the same call with `dim = head_dim`.
pub fn rms_norm_forward(
    _cpu: &Cpu,
    dim: usize,
    eps: f32,
    x: &[f32],
    weight: &[f32],
    y: &mut [f32],
    inverse_rms: &mut [f32],
) {
    reference::rms_norm_forward(dim, eps, x, weight, y, inverse_rms);
}

/// `residual += delta`, then `y = norm(residual)`: one pass over the residual stream.
pub fn add_rms_norm_forward(
    _cpu: &Cpu,
    dim: usize,
    eps: f32,
    residual: &mut [f32],
    delta: &[f32],
    weight: &[f32],
    y: &mut [f32],
    inverse_rms: &mut [f32],
) {
    for (value, &change) in residual.iter_mut().zip(delta) {
        *value += change;
    }
    reference::rms_norm_forward(dim, eps, residual, weight, y, inverse_rms);
}

/// Backward of [`rms_norm_forward`]: writes or adds `dx`; adds to `dweight`.
pub fn rms_norm_backward(
    _cpu: &Cpu,
    dim: usize,
    x: &[f32],
    weight: &[f32],
    inverse_rms: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    accumulate_dx: Accumulate,
    dweight: &mut [f32],
) {
    reference::rms_norm_backward(dim, x, weight, inverse_rms, dy, dx, accumulate_dx, dweight);
}

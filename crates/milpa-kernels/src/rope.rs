//! Rotary position embedding in the half-split (`rotate_half`) convention, in place.

use crate::cpu::Cpu;
use crate::reference;

/// Returns the frequency of each pair, `theta^(-2i/head_dim)`, `[head_dim/2]`.
pub fn inverse_frequencies(head_dim: usize, theta: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64)).collect()
}

/// Returns the cosines and sines of `position · frequency`, each `[positions, frequencies.len()]`.
pub fn tables(frequencies: &[f64], positions: usize) -> (Vec<f32>, Vec<f32>) {
    let angles =
        || (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
    (angles().map(|a| a.cos() as f32).collect(), angles().map(|a| a.sin() as f32).collect())
}

/// Rotates `x[tokens, heads, head_dim]` in place; token `i` stands at `positions[i]`.
pub fn rope_forward(
    _cpu: &Cpu,
    heads: usize,
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
    positions: &[u32],
    x: &mut [f32],
) {
    reference::rope_forward(heads, head_dim, cos, sin, positions, x);
}

/// Backward of [`rope_forward`]: rotates `dx[tokens, heads, head_dim]` the other way, in place.
pub fn rope_backward(
    _cpu: &Cpu,
    heads: usize,
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
    positions: &[u32],
    dx: &mut [f32],
) {
    reference::rope_backward(heads, head_dim, cos, sin, positions, dx);
}

//! SwiGLU, forward and backward.

use crate::cpu::Cpu;
use crate::reference;

/// `out = silu(gate) · up`, element by element.
pub fn swiglu_forward(_cpu: &Cpu, gate: &[f32], up: &[f32], out: &mut [f32]) {
    reference::swiglu_forward(gate, up, out);
}

/// Backward of [`swiglu_forward`]: overwrites `dgate` and `dup`.
pub fn swiglu_backward(
    _cpu: &Cpu,
    gate: &[f32],
    up: &[f32],
    dout: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    reference::swiglu_backward(gate, up, dout, dgate, dup);
}

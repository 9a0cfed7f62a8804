//! GeGLU with the tanh approximation of GELU, forward and backward, element by element.
//!
//! GLU Variants Improve Transformer, arXiv:2002.05202; GELU, arXiv:1606.08415: with
//! `u = √(2/π)·(g + 0.044715·g³)` it is `g·(1 + tanh u)/2 = g·σ(2u)`, so a sigmoid is all it needs.

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// Elements of a task.
const TASK: usize = 16 * 1024;
/// `2·√(2/π)`: the factor on the cubic inside the sigmoid.
pub(crate) const SLOPE: f64 = 1.595_769_121_605_731;
/// Weight of the cube.
pub(crate) const CUBE: f64 = 0.044_715;

/// `out = gelu(gate) · up`; all slices have one length.
pub fn geglu_forward(cpu: &Cpu, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out of one length");
    let length = out.len();
    let out = Shares::new(out);
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let out = unsafe { out.part(range.clone()) };
        dispatch!(cpu.isa(), simd => forward(simd, &gate[range.clone()], &up[range], out));
    });
}

/// Backward of [`geglu_forward`]: overwrites `dgate` and `dup`; all slices have one length.
pub fn geglu_backward(
    cpu: &Cpu,
    gate: &[f32],
    up: &[f32],
    dout: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    let length = dout.len();
    let lengths = [gate.len(), up.len(), dgate.len(), dup.len()];
    assert!(lengths.iter().all(|&other| other == length), "slices of one length, not {lengths:?}");
    let (dgate, dup) = (Shares::new(dgate), Shares::new(dup));
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let (dgate, dup) = unsafe { (dgate.part(range.clone()), dup.part(range.clone())) };
        let (gate, up, dout) = (&gate[range.clone()], &up[range.clone()], &dout[range]);
        dispatch!(cpu.isa(), simd => backward(simd, gate, up, dout, dgate, dup));
    });
}

/// `σ(2u)` of a gate; gates beyond ±20 are as good as ±20 there.
#[inline(always)]
fn weight<S: Simd>(simd: S, gate: S::V) -> S::V {
    let gate = simd.max(simd.splat(-20.0), simd.min(simd.splat(20.0), gate));
    let square = simd.mul(gate, gate);
    let cubic = simd.fma(square, simd.splat(CUBE as f32), simd.splat(1.0));
    simd.sigmoid(simd.mul(simd.mul(gate, cubic), simd.splat(SLOPE as f32)))
}

#[inline(always)]
fn forward<S: Simd>(simd: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let chunks = gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(out.chunks_mut(S::LANES));
    for ((gate, up), out) in chunks {
        let gate = simd.read(gate);
        let gelu = simd.mul(gate, weight(simd, gate));
        simd.write(out, simd.mul(gelu, simd.read(up)));
    }
}

#[inline(always)]
fn backward<S: Simd>(
    simd: S,
    gate: &[f32],
    up: &[f32],
    dout: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    let one = simd.splat(1.0);
    let inputs = gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(dout.chunks(S::LANES));
    let outputs = dgate.chunks_mut(S::LANES).zip(dup.chunks_mut(S::LANES));
    for (((gate, up), dout), (dgate, dup)) in inputs.zip(outputs) {
        let (gate, up, dout) = (simd.read(gate), simd.read(up), simd.read(dout));
        let w = weight(simd, gate);
        simd.write(dup, simd.mul(dout, simd.mul(gate, w)));
        // d(g·w)/dg = w + g·w·(1 − w)·(2u)′, and w·(1 − w) is 0 long before g² overflows.
        let bounded = simd.max(simd.splat(-20.0), simd.min(simd.splat(20.0), gate));
        let square = simd.mul(bounded, bounded);
        let rate = simd.fma(square, simd.splat((3.0 * CUBE) as f32), one);
        let rate = simd.mul(simd.mul(rate, simd.splat(SLOPE as f32)), bounded);
        let slope = simd.fma(rate, simd.mul(w, simd.sub(one, w)), w);
        simd.write(dgate, simd.mul(simd.mul(dout, up), slope));
    }
}

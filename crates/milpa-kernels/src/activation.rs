//! SwiGLU, forward and backward, element by element.
//!
//! GLU Variants Improve Transformer, arXiv:2002.05202. The exponential is this crate's own, within
//! 2 ulp; the scalar twin uses the standard library's.

use crate::cpu::Cpu;
use crate::element::Element;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// Elements of a task.
const TASK: usize = 16 * 1024;

/// `out = silu(gate) · up` with `silu(g) = g / (1 + e⁻ᵍ)`; all slices have one length.
pub fn swiglu_forward<E: Element>(cpu: &Cpu, gate: &[E], up: &[E], out: &mut [E]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out of one length");
    let length = out.len();
    let out = Shares::new(out);
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let out = unsafe { out.part(range.clone()) };
        dispatch!(cpu.isa(), simd => forward(simd, &gate[range.clone()], &up[range], out));
    });
}

/// Backward of [`swiglu_forward`]: overwrites `dgate` and `dup`; all slices have one length.
pub fn swiglu_backward<E: Element>(
    cpu: &Cpu,
    gate: &[E],
    up: &[E],
    dout: &[E],
    dgate: &mut [E],
    dup: &mut [E],
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

#[inline(always)]
fn forward<S: Simd, E: Element>(simd: S, gate: &[E], up: &[E], out: &mut [E]) {
    let chunks = gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(out.chunks_mut(S::LANES));
    for ((gate, up), out) in chunks {
        let gate = simd.read(gate);
        let silu = simd.mul(gate, simd.sigmoid(gate));
        simd.write(out, simd.mul(silu, simd.read(up)));
    }
}

#[inline(always)]
fn backward<S: Simd, E: Element>(
    simd: S,
    gate: &[E],
    up: &[E],
    dout: &[E],
    dgate: &mut [E],
    dup: &mut [E],
) {
    let one = simd.splat(1.0);
    let inputs = gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(dout.chunks(S::LANES));
    let outputs = dgate.chunks_mut(S::LANES).zip(dup.chunks_mut(S::LANES));
    for (((gate, up), dout), (dgate, dup)) in inputs.zip(outputs) {
        let (gate, up, dout) = (simd.read(gate), simd.read(up), simd.read(dout));
        let sigmoid = simd.sigmoid(gate);
        let scaled = simd.mul(dout, sigmoid);
        simd.write(dup, simd.mul(scaled, gate));
        let slope = simd.fma(gate, simd.sub(one, sigmoid), one);
        simd.write(dgate, simd.mul(simd.mul(scaled, up), slope));
    }
}

//! Gated activations, `activation(gate) · up`, forward and backward, element by element.
//!
//! GLU Variants Improve Transformer, arXiv:2002.05202. SwiGLU gates with SiLU, GeGLU with the tanh
//! approximation of GELU (arXiv:1606.08415). The exponential is this crate's own, within 2 ulp; the
//! scalar twins use the standard library's.

use crate::cpu::Cpu;
use crate::element::Element;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// Elements of a task.
const TASK: usize = 16 * 1024;
/// `2·√(2/π)`: the factor on the cubic inside GELU's sigmoid.
pub(crate) const SLOPE: f64 = 1.595_769_121_605_731;
/// Weight of the cube.
pub(crate) const CUBE: f64 = 0.044_715;

/// `out = silu(gate) · up` with `silu(g) = g / (1 + e⁻ᵍ)`; all slices have one length.
pub fn swiglu_forward<E: Element>(cpu: &Cpu, gate: &[E], up: &[E], out: &mut [E]) {
    gated(cpu, Silu, gate, up, out);
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
    gated_backward(cpu, Silu, gate, up, dout, dgate, dup);
}

/// `out = gelu(gate) · up`; all slices have one length.
pub fn geglu_forward<E: Element>(cpu: &Cpu, gate: &[E], up: &[E], out: &mut [E]) {
    gated(cpu, GeluTanh, gate, up, out);
}

/// Backward of [`geglu_forward`]: overwrites `dgate` and `dup`; all slices have one length.
pub fn geglu_backward<E: Element>(
    cpu: &Cpu,
    gate: &[E],
    up: &[E],
    dout: &[E],
    dgate: &mut [E],
    dup: &mut [E],
) {
    gated_backward(cpu, GeluTanh, gate, up, dout, dgate, dup);
}

/// A function of the gate.
trait Activation: Copy + Sync {
    fn value<S: Simd>(self, simd: S, gate: S::V) -> S::V;
    /// The value and its derivative.
    fn with_slope<S: Simd>(self, simd: S, gate: S::V) -> (S::V, S::V);
}

#[derive(Clone, Copy)]
struct Silu;

impl Activation for Silu {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, gate: S::V) -> S::V {
        simd.mul(gate, simd.sigmoid(gate))
    }
    #[inline(always)]
    fn with_slope<S: Simd>(self, simd: S, gate: S::V) -> (S::V, S::V) {
        let (one, sigmoid) = (simd.splat(1.0), simd.sigmoid(gate));
        let slope = simd.fma(gate, simd.sub(one, sigmoid), one);
        (simd.mul(gate, sigmoid), simd.mul(sigmoid, slope))
    }
}

/// With `u = √(2/π)·(g + 0.044715·g³)`, GELU is `g·(1 + tanh u)/2 = g·σ(2u)`: a sigmoid is all it
/// needs.
#[derive(Clone, Copy)]
struct GeluTanh;

impl GeluTanh {
    /// Gates beyond ±20 are as good as ±20 inside the sigmoid.
    #[inline(always)]
    fn bounded<S: Simd>(simd: S, gate: S::V) -> S::V {
        simd.max(simd.splat(-20.0), simd.min(simd.splat(20.0), gate))
    }

    /// `σ(2u)` of a bounded gate.
    #[inline(always)]
    fn weight<S: Simd>(simd: S, bounded: S::V) -> S::V {
        let square = simd.mul(bounded, bounded);
        let cubic = simd.fma(square, simd.splat(CUBE as f32), simd.splat(1.0));
        simd.sigmoid(simd.mul(simd.mul(bounded, cubic), simd.splat(SLOPE as f32)))
    }
}

impl Activation for GeluTanh {
    #[inline(always)]
    fn value<S: Simd>(self, simd: S, gate: S::V) -> S::V {
        simd.mul(gate, Self::weight(simd, Self::bounded(simd, gate)))
    }
    #[inline(always)]
    fn with_slope<S: Simd>(self, simd: S, gate: S::V) -> (S::V, S::V) {
        let (one, bounded) = (simd.splat(1.0), Self::bounded(simd, gate));
        let w = Self::weight(simd, bounded);
        // d(g·w)/dg = w + g·w·(1 − w)·(2u)′, and w·(1 − w) is 0 long before g² overflows.
        let square = simd.mul(bounded, bounded);
        let rate = simd.fma(square, simd.splat((3.0 * CUBE) as f32), one);
        let rate = simd.mul(simd.mul(rate, simd.splat(SLOPE as f32)), bounded);
        (simd.mul(gate, w), simd.fma(rate, simd.mul(w, simd.sub(one, w)), w))
    }
}

fn gated<E: Element>(cpu: &Cpu, activation: impl Activation, gate: &[E], up: &[E], out: &mut [E]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out of one length");
    let length = out.len();
    let out = Shares::new(out);
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let out = unsafe { out.part(range.clone()) };
        let (gate, up) = (&gate[range.clone()], &up[range]);
        dispatch!(cpu.isa(), simd => forward(simd, activation, gate, up, out));
    });
}

fn gated_backward<E: Element>(
    cpu: &Cpu,
    activation: impl Activation,
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
        dispatch!(cpu.isa(), simd => backward(simd, activation, gate, up, dout, dgate, dup));
    });
}

#[inline(always)]
fn forward<S: Simd, E: Element>(
    simd: S,
    activation: impl Activation,
    gate: &[E],
    up: &[E],
    out: &mut [E],
) {
    let chunks = gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(out.chunks_mut(S::LANES));
    for ((gate, up), out) in chunks {
        let value = activation.value(simd, simd.read(gate));
        simd.write(out, simd.mul(value, simd.read(up)));
    }
}

#[inline(always)]
fn backward<S: Simd, E: Element>(
    simd: S,
    activation: impl Activation,
    gate: &[E],
    up: &[E],
    dout: &[E],
    dgate: &mut [E],
    dup: &mut [E],
) {
    let inputs = gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(dout.chunks(S::LANES));
    let outputs = dgate.chunks_mut(S::LANES).zip(dup.chunks_mut(S::LANES));
    for (((gate, up), dout), (dgate, dup)) in inputs.zip(outputs) {
        let (gate, up, dout) = (simd.read(gate), simd.read(up), simd.read(dout));
        let (value, slope) = activation.with_slope(simd, gate);
        simd.write(dup, simd.mul(dout, value));
        simd.write(dgate, simd.mul(simd.mul(dout, up), slope));
    }
}

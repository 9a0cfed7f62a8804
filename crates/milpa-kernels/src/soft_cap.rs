//! Soft caps `c · tanh(x / c)`: bounds on logits and on attention scores, forward and backward.
//!
//! Gemma 2, arXiv:2408.00118, section 2. The hyperbolic tangent is this crate's own, within 4·10⁻⁷
//! relative; the scalar twin uses the standard library's.

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// Elements of a task.
const TASK: usize = 16 * 1024;

/// `x = cap · tanh(x / cap)`, in place.
pub fn soft_cap_forward(cpu: &Cpu, cap: f32, x: &mut [f32]) {
    assert!(cap > 0.0 && cap.is_finite(), "the cap is positive");
    let length = x.len();
    let x = Shares::new(x);
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let x = unsafe { x.part(range) };
        dispatch!(cpu.isa(), simd => cap_row(simd, x, 1.0, cap));
    });
}

/// Backward of [`soft_cap_forward`], in place: `dy` becomes `dy · (1 − (y / cap)²)`, `y` being what
/// the forward returned.
pub fn soft_cap_backward(cpu: &Cpu, cap: f32, y: &[f32], dy: &mut [f32]) {
    assert_eq!(y.len(), dy.len(), "y and dy of one length");
    let length = dy.len();
    let dy = Shares::new(dy);
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let dy = unsafe { dy.part(range.clone()) };
        dispatch!(cpu.isa(), simd => backward(simd, cap, &y[range], dy));
    });
}

#[inline(always)]
fn backward<S: Simd>(simd: S, cap: f32, y: &[f32], dy: &mut [f32]) {
    for (y, dy) in y.chunks(S::LANES).zip(dy.chunks_mut(S::LANES)) {
        let change = simd.mul(simd.read(dy), tanh_slope(simd, simd.read(y), cap));
        simd.write(dy, change);
    }
}

/// `x = cap · tanh(factor · x / cap)`, in place.
#[inline(always)]
pub(crate) fn cap_row<S: Simd>(simd: S, x: &mut [f32], factor: f32, cap: f32) {
    let (inner, outer) = (simd.splat(factor / cap), simd.splat(cap));
    for x in x.chunks_mut(S::LANES) {
        let value = simd.mul(tanh(simd, simd.mul(simd.read(x), inner)), outer);
        simd.write(x, value);
    }
}

/// `1 − (y / cap)²`: the slope of a cap where its result is `y`; 0 where `y` is −∞.
#[inline(always)]
pub(crate) fn tanh_slope<S: Simd>(simd: S, y: S::V, cap: f32) -> S::V {
    let one = simd.splat(1.0);
    let t = simd.mul(y, simd.splat(1.0 / cap));
    let t = simd.max(simd.splat(-1.0), simd.min(one, t));
    simd.sub(one, simd.mul(t, t))
}

/// Lambert's continued fraction to x⁵/x⁴ for a quarter of the argument, then twice
/// `tanh 2a = 2·tanh a / (1 + tanh² a)`. At ±10 the result is ±1 in single precision.
#[inline(always)]
fn tanh<S: Simd>(simd: S, x: S::V) -> S::V {
    let x = simd.max(simd.splat(-10.0), simd.min(simd.splat(10.0), x));
    let a = simd.mul(x, simd.splat(0.25));
    let z = simd.mul(a, a);
    let p = simd.fma(simd.add(z, simd.splat(105.0)), z, simd.splat(945.0));
    let q = simd.fma(simd.splat(15.0), z, simd.splat(420.0));
    let q = simd.fma(q, z, simd.splat(945.0));
    let t = simd.div(simd.mul(a, p), q);
    let double = |t| {
        let square = simd.fma(t, t, simd.splat(1.0));
        simd.div(simd.add(t, t), square)
    };
    double(double(t))
}

//! RMSNorm, forward and backward, by rows.
//!
//! Root Mean Square Layer Normalization, arXiv:1910.07467. It knows nothing of where the rows come
//! from: hidden states and single heads (QK-norm) are the same call.

use std::ops::Range;

use crate::cpu::Cpu;
use crate::element::Element;
use crate::pool::Shares;
use crate::scratch::with_scratch;
use crate::simd::{Simd, dispatch};
use crate::view::Accumulate;

/// Elements of a task: large against the cost of handing it out, small against a cache.
const TASK: usize = 16 * 1024;
/// Most parts of the rows whose weight gradients are summed apart.
const PARTS: usize = 64;

/// `y = x / rms(x) · weight` for each row of `dim`, with `rms = √(mean x² + eps)`.
///
/// `x` and `y` are `[rows, dim]`, `weight` is `[dim]`; saves `1/rms` in `inverse_rms[rows]` for the
/// backward. Per-head normalisation of queries and keys is the same call with `dim = head_dim`.
pub fn rms_norm_forward<X: Element, Y: Element>(
    cpu: &Cpu,
    dim: usize,
    eps: f32,
    x: &[X],
    weight: &[f32],
    y: &mut [Y],
    inverse_rms: &mut [f32],
) {
    let rows = check(dim, weight, inverse_rms, &[x.len(), y.len()]);
    let (y, inverse_rms) = (Shares::new(y), Shares::new(inverse_rms));
    cpu.pool().for_ranges(rows, (TASK / dim).max(1), |rows| {
        // SAFETY: each task has its own rows.
        let (y, inverse_rms) =
            unsafe { (y.part(rows.start * dim..rows.end * dim), inverse_rms.part(rows.clone())) };
        let x = &x[rows.start * dim..rows.end * dim];
        dispatch!(cpu.isa(), simd => forward(simd, eps, x, weight, y, inverse_rms));
    });
}

/// `residual += delta`, then `y = norm(residual)`: one pass over the residual stream.
///
/// Arguments as in [`rms_norm_forward`]; `residual` and `delta` are `[rows, dim]`.
pub fn add_rms_norm_forward<D: Element, Y: Element>(
    cpu: &Cpu,
    dim: usize,
    eps: f32,
    residual: &mut [f32],
    delta: &[D],
    weight: &[f32],
    y: &mut [Y],
    inverse_rms: &mut [f32],
) {
    let rows = check(dim, weight, inverse_rms, &[residual.len(), delta.len(), y.len()]);
    let residual = Shares::new(residual);
    let (y, inverse_rms) = (Shares::new(y), Shares::new(inverse_rms));
    cpu.pool().for_ranges(rows, (TASK / dim).max(1), |rows| {
        let elements = rows.start * dim..rows.end * dim;
        // SAFETY: each task has its own rows.
        let (residual, y, inverse_rms) = unsafe {
            (residual.part(elements.clone()), y.part(elements.clone()), inverse_rms.part(rows))
        };
        dispatch!(cpu.isa(), simd => {
            // Row by row, so that the sum is still in the first-level cache when it is normalised.
            let each = residual.chunks_exact_mut(dim).zip(delta[elements].chunks_exact(dim));
            let each = each.zip(y.chunks_exact_mut(dim)).zip(inverse_rms.iter_mut());
            for (((residual, delta), y), inverse) in each {
                add_row(simd, residual, delta);
                forward(simd, eps, residual, weight, y, std::slice::from_mut(inverse));
            }
        });
    });
}

/// Backward of [`rms_norm_forward`]: writes or adds `dx[rows, dim]`; adds to `dweight[dim]`.
///
/// Weight gradients are summed in up to 64 parts of the rows, then in order.
pub fn rms_norm_backward<E: Element>(
    cpu: &Cpu,
    dim: usize,
    x: &[E],
    weight: &[f32],
    inverse_rms: &[f32],
    dy: &[E],
    dx: &mut [E],
    accumulate_dx: Accumulate,
    dweight: &mut [f32],
) {
    let rows = check(dim, weight, inverse_rms, &[x.len(), dy.len(), dx.len()]);
    assert_eq!(dweight.len(), dim, "dweight: [dim]");
    if rows == 0 {
        return;
    }
    let per_part = rows.div_ceil(PARTS).max((TASK / dim).clamp(1, rows));
    let parts = rows.div_ceil(per_part);
    with_scratch(parts * dim, |partial| {
        let (dx, partial_shares) = (Shares::new(dx), Shares::new(partial));
        cpu.pool().for_ranges(rows, per_part, |rows| {
            let part = rows.start / per_part;
            let elements = rows.start * dim..rows.end * dim;
            // SAFETY: each task has its own rows and its own partial sum.
            let (dx, sums) = unsafe {
                (dx.part(elements.clone()), partial_shares.part(part * dim..(part + 1) * dim))
            };
            sums.fill(0.0);
            let rows = Rows { x, weight, inverse_rms, dy, range: rows };
            dispatch!(cpu.isa(), simd => backward(simd, &rows, dx, accumulate_dx, sums));
        });
        for part in partial.chunks_exact(dim) {
            dweight.iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
        }
    });
}

#[track_caller]
fn check(dim: usize, weight: &[f32], inverse_rms: &[f32], lengths: &[usize]) -> usize {
    assert!(dim > 0, "dim is positive");
    assert_eq!(weight.len(), dim, "weight: [dim]");
    let rows = inverse_rms.len();
    for &length in lengths {
        assert_eq!(length, rows * dim, "elements of {rows} rows of {dim}");
    }
    rows
}

#[inline(always)]
fn add_row<S: Simd, D: Element>(simd: S, y: &mut [f32], x: &[D]) {
    for (y, x) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let sum = simd.add(simd.read(y), simd.read(x));
        simd.write(y, sum);
    }
}

#[inline(always)]
fn forward<S: Simd, X: Element, Y: Element>(
    simd: S,
    eps: f32,
    x: &[X],
    weight: &[f32],
    y: &mut [Y],
    inverse_rms: &mut [f32],
) {
    let dim = weight.len();
    let rows = x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)).zip(inverse_rms);
    for ((x, y), inverse) in rows {
        let mut sums = [simd.zero(); 4];
        for chunk in x.chunks(4 * S::LANES) {
            for (sum, chunk) in sums.iter_mut().zip(chunk.chunks(S::LANES)) {
                let value = simd.read(chunk);
                *sum = simd.fma(value, value, *sum);
            }
        }
        let squares = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
        *inverse = 1.0 / (simd.sum(squares) / dim as f32 + eps).sqrt();
        let factor = simd.splat(*inverse);
        let chunks = x.chunks(S::LANES).zip(weight.chunks(S::LANES)).zip(y.chunks_mut(S::LANES));
        for ((x, weight), y) in chunks {
            simd.write(y, simd.mul(simd.mul(simd.read(x), factor), simd.read(weight)));
        }
    }
}

/// What the backward of some rows reads.
struct Rows<'a, E> {
    x: &'a [E],
    weight: &'a [f32],
    inverse_rms: &'a [f32],
    dy: &'a [E],
    range: Range<usize>,
}

#[inline(always)]
fn backward<S: Simd, E: Element>(
    simd: S,
    rows: &Rows<'_, E>,
    dx: &mut [E],
    accumulate_dx: Accumulate,
    dweight: &mut [f32],
) {
    let weight = rows.weight;
    let dim = weight.len();
    let lanes = S::LANES;
    for (row, dx) in rows.range.clone().zip(dx.chunks_exact_mut(dim)) {
        let x = &rows.x[row * dim..(row + 1) * dim];
        let dy = &rows.dy[row * dim..(row + 1) * dim];
        let inverse = rows.inverse_rms[row];
        let mut dot = [simd.zero(); 2];
        let pairs = x.chunks(2 * lanes).zip(dy.chunks(2 * lanes)).zip(weight.chunks(2 * lanes));
        for ((x, dy), weight) in pairs {
            let chunks = x.chunks(lanes).zip(dy.chunks(lanes)).zip(weight.chunks(lanes));
            for (dot, ((x, dy), weight)) in dot.iter_mut().zip(chunks) {
                let product = simd.mul(simd.read(dy), simd.read(weight));
                *dot = simd.fma(product, simd.read(x), *dot);
            }
        }
        let mean = simd.sum(simd.add(dot[0], dot[1])) * inverse * inverse / dim as f32;
        let (mean, inverse) = (simd.splat(-mean), simd.splat(inverse));
        let chunks = x.chunks(lanes).zip(dy.chunks(lanes)).zip(weight.chunks(lanes));
        let chunks = chunks.zip(dx.chunks_mut(lanes)).zip(dweight.chunks_mut(lanes));
        for ((((x, dy), weight), dx), dweight) in chunks {
            let (x, dy) = (simd.read(x), simd.read(dy));
            let value = simd.fma(x, mean, simd.mul(dy, simd.read(weight)));
            let value = if accumulate_dx == Accumulate::Yes {
                simd.fma(value, inverse, simd.read(dx))
            } else {
                simd.mul(value, inverse)
            };
            simd.write(dx, value);
            let sum = simd.fma(simd.mul(dy, x), inverse, simd.read(dweight));
            simd.write(dweight, sum);
        }
    }
}

//! Trained lengths for the rows of an adapted matrix: what DoRA adds to LoRA.
//!
//! DoRA, arXiv:2402.09353: row `o` of `W + s·B·A` is divided by its length and multiplied by a trained
//! magnitude `m[o]`, which scales column `o` of what the matrix makes of its input. `W + s·B·A` exists a
//! few registers at a time. Gradients of magnitudes are summed in up to 64 parts of the rows and
//! the parts in order, so that the bits do not depend on the number of threads.

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::scratch::with_scratch;
use crate::simd::{Simd, dispatch};

/// Elements of a task.
const TASK: usize = 16 * 1024;
/// Most parts of the rows that are summed apart.
const PARTS: usize = 64;
/// Registers that hold a part of a row.
const BLOCK: usize = 4;

/// `norms[o] = ‖weight[o] + scale · b[o] · a‖` for `weight[outputs, inputs]`, `a[rank, inputs]` and
/// `b[outputs, rank]`.
pub fn adapted_norms(
    cpu: &Cpu,
    scale: f32,
    weight: &[f32],
    a: &[f32],
    b: &[f32],
    norms: &mut [f32],
) {
    let outputs = norms.len();
    assert!(outputs > 0, "a matrix has outputs");
    let (inputs, rank) = (weight.len() / outputs, b.len() / outputs);
    assert!(inputs > 0 && rank > 0, "a matrix and its change have elements");
    assert_eq!(weight.len(), outputs * inputs, "weight: [outputs, inputs]");
    assert_eq!(a.len(), rank * inputs, "a: [rank, inputs]");
    assert_eq!(b.len(), outputs * rank, "b: [outputs, rank]");
    let norms = Shares::new(norms);
    cpu.pool().for_ranges(outputs, (TASK / inputs / rank).max(1), |rows| {
        // SAFETY: each task has its own rows.
        let norms = unsafe { norms.part(rows.clone()) };
        let weight = weight[rows.start * inputs..rows.end * inputs].chunks_exact(inputs);
        let b = b[rows.start * rank..rows.end * rank].chunks_exact(rank);
        dispatch!(cpu.isa(), simd => {
            for ((norm, weight), b) in norms.iter_mut().zip(weight).zip(b) {
                *norm = norm_of_row(simd, scale, weight, a, b);
            }
        });
    });
}

/// `out[row, o] = x[row, o] · magnitude[o] / norms[o]`; a column whose norm is zero becomes zero.
pub fn magnitude_forward(cpu: &Cpu, norms: &[f32], magnitude: &[f32], x: &[f32], out: &mut [f32]) {
    let dim = norms.len();
    let rows = check(dim, magnitude.len(), &[x.len(), out.len()]);
    let factors = factors(norms, magnitude);
    let out = Shares::new(out);
    cpu.pool().for_ranges(rows, (TASK / dim).max(1), |rows| {
        let elements = rows.start * dim..rows.end * dim;
        // SAFETY: each task has its own rows.
        let out = unsafe { out.part(elements.clone()) };
        dispatch!(cpu.isa(), simd => {
            for (out, x) in out.chunks_exact_mut(dim).zip(x[elements].chunks_exact(dim)) {
                scale_row(simd, &factors, x, out);
            }
        });
    });
}

/// Backward of [`magnitude_forward`], the norms being constants: `dy` becomes the gradient of `x`;
/// adds `Σ dy · x / norms` over the rows to `dmagnitude`.
pub fn magnitude_backward(
    cpu: &Cpu,
    norms: &[f32],
    magnitude: &[f32],
    x: &[f32],
    dy: &mut [f32],
    dmagnitude: &mut [f32],
) {
    let dim = norms.len();
    let rows = check(dim, magnitude.len(), &[x.len(), dy.len()]);
    assert_eq!(dmagnitude.len(), dim, "dmagnitude: [dim]");
    if rows == 0 {
        return;
    }
    let factors = factors(norms, magnitude);
    let per_part = rows.div_ceil(PARTS).max((TASK / dim).clamp(1, rows));
    with_scratch(rows.div_ceil(per_part) * dim, |partial| {
        let (dy, shares) = (Shares::new(dy), Shares::new(partial));
        cpu.pool().for_ranges(rows, per_part, |rows| {
            let part = rows.start / per_part;
            let elements = rows.start * dim..rows.end * dim;
            // SAFETY: each task has its own rows and its own partial sum.
            let (dy, sums) =
                unsafe { (dy.part(elements.clone()), shares.part(part * dim..(part + 1) * dim)) };
            sums.fill(0.0);
            dispatch!(cpu.isa(), simd => {
                for (dy, x) in dy.chunks_exact_mut(dim).zip(x[elements].chunks_exact(dim)) {
                    backward_row(simd, &factors, x, dy, sums);
                }
            });
        });
        for part in partial.chunks_exact(dim) {
            let each = dmagnitude.iter_mut().zip(part).zip(norms);
            each.for_each(|((sum, &part), &norm)| *sum += ratio(part, norm));
        }
    });
}

/// `numerator / norm`; a row without length has no direction: 0.
fn ratio(numerator: f32, norm: f32) -> f32 {
    if norm == 0.0 { 0.0 } else { numerator / norm }
}

fn factors(norms: &[f32], magnitude: &[f32]) -> Vec<f32> {
    norms.iter().zip(magnitude).map(|(&norm, &magnitude)| ratio(magnitude, norm)).collect()
}

#[track_caller]
fn check(dim: usize, magnitudes: usize, lengths: &[usize]) -> usize {
    assert!(dim > 0, "a matrix has outputs");
    assert_eq!(magnitudes, dim, "magnitude: [dim]");
    for &length in lengths {
        assert_eq!(length, lengths[0], "x and its like have one length");
    }
    assert!(lengths[0].is_multiple_of(dim), "{} elements are no rows of {dim}", lengths[0]);
    lengths[0] / dim
}

#[inline(always)]
fn norm_of_row<S: Simd>(simd: S, scale: f32, weight: &[f32], a: &[f32], b: &[f32]) -> f32 {
    let inputs = weight.len();
    let mut squares = [simd.zero(); BLOCK];
    for (block, weight) in weight.chunks(BLOCK * S::LANES).enumerate() {
        let start = block * BLOCK * S::LANES;
        let mut sums = [simd.zero(); BLOCK];
        for (sum, weight) in sums.iter_mut().zip(weight.chunks(S::LANES)) {
            *sum = simd.read(weight);
        }
        for (a, &b) in a.chunks_exact(inputs).zip(b) {
            let factor = simd.splat(scale * b);
            let a = &a[start..start + weight.len()];
            for (sum, a) in sums.iter_mut().zip(a.chunks(S::LANES)) {
                *sum = simd.fma(factor, simd.read(a), *sum);
            }
        }
        for (square, sum) in squares.iter_mut().zip(sums) {
            *square = simd.fma(sum, sum, *square);
        }
    }
    let [first, second, third, fourth] = squares;
    simd.sum(simd.add(simd.add(first, second), simd.add(third, fourth))).sqrt()
}

#[inline(always)]
fn scale_row<S: Simd>(simd: S, factors: &[f32], x: &[f32], out: &mut [f32]) {
    let columns = out.chunks_mut(S::LANES).zip(x.chunks(S::LANES));
    for ((out, x), factor) in columns.zip(factors.chunks(S::LANES)) {
        simd.write(out, simd.mul(simd.read(x), simd.read(factor)));
    }
}

#[inline(always)]
fn backward_row<S: Simd>(simd: S, factors: &[f32], x: &[f32], dy: &mut [f32], sums: &mut [f32]) {
    let columns = dy.chunks_mut(S::LANES).zip(x.chunks(S::LANES));
    let columns = columns.zip(factors.chunks(S::LANES)).zip(sums.chunks_mut(S::LANES));
    for (((dy, x), factor), sum) in columns {
        let gradient = simd.read(dy);
        simd.write(sum, simd.fma(gradient, simd.read(x), simd.read(sum)));
        simd.write(dy, simd.mul(gradient, simd.read(factor)));
    }
}

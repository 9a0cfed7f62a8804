//! Biases: a row added to every row, and the sum of rows that is its gradient.
//!
//! Rows are summed in up to 64 parts and the parts in order, so that the bits do not depend on the
//! number of threads.

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::scratch::with_scratch;
use crate::simd::{Simd, dispatch};

/// Elements of a task.
const TASK: usize = 16 * 1024;
/// Most parts of the rows that are summed apart.
const PARTS: usize = 64;

/// Adds `bias[dim]` to each row of `x[rows, dim]`.
pub fn bias_forward(cpu: &Cpu, bias: &[f32], x: &mut [f32]) {
    let dim = bias.len();
    let rows = check(dim, x.len());
    let x = Shares::new(x);
    cpu.pool().for_ranges(rows, (TASK / dim).max(1), |rows| {
        // SAFETY: each task has its own rows.
        let x = unsafe { x.part(rows.start * dim..rows.end * dim) };
        dispatch!(cpu.isa(), simd => {
            for row in x.chunks_exact_mut(dim) {
                add_row(simd, row, bias);
            }
        });
    });
}

/// Backward of [`bias_forward`]: adds the sum of the rows of `dy[rows, dim]` to `dbias[dim]`.
pub fn bias_backward(cpu: &Cpu, dy: &[f32], dbias: &mut [f32]) {
    let dim = dbias.len();
    let rows = check(dim, dy.len());
    if rows == 0 {
        return;
    }
    let per_part = rows.div_ceil(PARTS).max((TASK / dim).clamp(1, rows));
    with_scratch(rows.div_ceil(per_part) * dim, |partial| {
        let shares = Shares::new(partial);
        cpu.pool().for_ranges(rows, per_part, |rows| {
            let part = rows.start / per_part;
            // SAFETY: each task has its own partial sum.
            let sums = unsafe { shares.part(part * dim..(part + 1) * dim) };
            sums.fill(0.0);
            let dy = &dy[rows.start * dim..rows.end * dim];
            dispatch!(cpu.isa(), simd => {
                for row in dy.chunks_exact(dim) {
                    add_row(simd, sums, row);
                }
            });
        });
        for part in partial.chunks_exact(dim) {
            dbias.iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
        }
    });
}

#[track_caller]
fn check(dim: usize, elements: usize) -> usize {
    assert!(dim > 0, "a bias has elements");
    assert!(elements.is_multiple_of(dim), "{elements} elements are no rows of {dim}");
    elements / dim
}

#[inline(always)]
fn add_row<S: Simd>(simd: S, y: &mut [f32], x: &[f32]) {
    for (y, x) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let sum = simd.add(simd.read(y), simd.read(x));
        simd.write(y, sum);
    }
}

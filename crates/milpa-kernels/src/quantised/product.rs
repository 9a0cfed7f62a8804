//! Widening and products of quantised rows, written once for every format and instruction set.

use super::Blocks;
use crate::cpu::Cpu;
use crate::gemm::{self, FEW_ROWS, prefetch};
use crate::pool::Shares;
use crate::scratch::with_scratch;
use crate::simd::{Simd, dispatch};
use crate::view::{Mat, MatMut, Size};

/// Rows of W that are widened at a time for a product with many rows.
const WIDENED_ROWS: usize = 96;

/// Dot product of one row.
pub(super) fn dot<B: Blocks>(cpu: &Cpu, bytes: &[u8], x: &[f32]) -> f32 {
    let mut dots = [0.0; 8];
    let row = Mat::new(x, x.len());
    dispatch!(cpu.isa(), simd => dots_of::<_, B, 1, 1>(simd, bytes, row, &mut dots));
    dots[0]
}

/// The product of checked and non-empty operands.
pub(super) fn matmul_nt<B: Blocks>(cpu: &Cpu, size: Size, a: Mat<'_>, w: &[u8], c: MatMut<'_>) {
    let Size { m, n, k } = size;
    let row = k / B::VALUES * B::BYTES;
    let stride = c.stride;
    let out = Shares::new(c.data);
    if m <= FEW_ROWS {
        let columns = (16 * 1024 / k).clamp(4, 256);
        cpu.pool().for_ranges(n, columns, |columns| {
            let write = |i: usize, j: usize, value: f32| {
                // SAFETY: C was checked, and this task alone writes its columns.
                unsafe { *out.pointer().add(i * stride + j) = value };
            };
            let w = &w[columns.start * row..columns.end * row];
            dispatch!(cpu.isa(), simd => few_rows::<_, B>(simd, (m, k), a, w, columns.start, write));
        });
        return;
    }
    cpu.pool().for_ranges(n, WIDENED_ROWS, |columns| {
        with_scratch(columns.len() * k, |widened| {
            let bytes = &w[columns.start * row..columns.end * row];
            dispatch!(cpu.isa(), simd => widen::<_, B>(simd, bytes, widened));
            let size = Size { m, n: columns.len(), k };
            let c = (&out, columns.start, stride);
            // SAFETY: C was checked, and this task alone writes its columns.
            unsafe { gemm::matmul_nt_inline(cpu.isa(), size, a, Mat::new(widened, k), c) };
        });
    });
}

/// Writes the values of whole blocks.
#[inline(always)]
pub(super) fn widen<S: Simd, B: Blocks>(simd: S, bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(B::VALUES)) {
        let block = block.as_ptr();
        for (group, out) in out.chunks_exact_mut(B::GROUP).enumerate() {
            // SAFETY: the block is whole and has this group; the lanes divide it.
            unsafe {
                let scale = B::scale(simd, block, group);
                let minimum = B::minimum(simd, block, group);
                for (index, out) in out.chunks_exact_mut(S::LANES).enumerate() {
                    let number = B::numbers(simd, block, group, index * S::LANES);
                    let mut value = simd.mul(number, scale);
                    if B::HAS_MINIMUM {
                        value = simd.sub(value, minimum);
                    }
                    simd.write(out, value);
                }
            }
        }
    }
}

/// Products of some rows of W with each row of A.
#[inline(always)]
fn few_rows<S: Simd, B: Blocks>(
    simd: S,
    (m, k): (usize, usize),
    a: Mat<'_>,
    w: &[u8],
    first_column: usize,
    write: impl Fn(usize, usize, f32),
) {
    let row = k / B::VALUES * B::BYTES;
    let columns = w.len() / row;
    let mut column = 0;
    while column < columns {
        // Few rows of A leave registers for more rows of W.
        let most = if m < 4 { 4 } else { 2 };
        let count = if columns - column >= most { most } else { 1 };
        let w_rows = &w[column * row..(column + count) * row];
        let mut i = 0;
        while i < m {
            let rows = if m - i >= 4 { 4 } else { 1 };
            let a_rows = a.rows_from(i, rows, k);
            let mut dots = [0.0; 8];
            match (count, rows) {
                (2, 4) => dots_of::<S, B, 2, 4>(simd, w_rows, a_rows, &mut dots),
                (4, 1) => dots_of::<S, B, 4, 1>(simd, w_rows, a_rows, &mut dots),
                (2, 1) => dots_of::<S, B, 2, 1>(simd, w_rows, a_rows, &mut dots),
                (1, 4) => dots_of::<S, B, 1, 4>(simd, w_rows, a_rows, &mut dots),
                _ => dots_of::<S, B, 1, 1>(simd, w_rows, a_rows, &mut dots),
            }
            for j in 0..count {
                for more in 0..rows {
                    write(i + more, first_column + column + j, dots[j * rows + more]);
                }
            }
            i += rows;
        }
        column += count;
    }
}

/// Dot products of `R` quantised rows with `N` rows of A, `dots[row][row of A]`.
///
/// Each is summed in the same order, whatever the others are.
#[inline(always)]
fn dots_of<S: Simd, B: Blocks, const R: usize, const N: usize>(
    simd: S,
    bytes: &[u8],
    rows: Mat<'_>,
    dots: &mut [f32; 8],
) {
    let row_length = bytes.len() / R;
    let blocks = row_length / B::BYTES;
    assert_eq!(bytes.len(), R * blocks * B::BYTES, "rows of whole blocks");
    rows.check("rows of A", N, blocks * B::VALUES);
    let groups = B::VALUES / B::GROUP;
    let mut sums = [[simd.zero(); N]; R];
    for index in 0..blocks * groups {
        let (block, group) = (index / groups, index % groups);
        // SAFETY: the R rows of W hold `blocks` blocks and the N rows of A as many values (both
        // just checked); the lanes divide a group.
        unsafe {
            let x = rows.data.as_ptr().add(index * B::GROUP);
            let block = bytes.as_ptr().add(block * B::BYTES);
            let mut parts = [[simd.zero(); N]; R];
            let mut x_sums = [simd.zero(); N];
            for at in (0..B::GROUP).step_by(S::LANES) {
                let mut x_now = [simd.zero(); N];
                for i in 0..N {
                    x_now[i] = simd.load(x.add(i * rows.stride + at));
                    if B::HAS_MINIMUM {
                        x_sums[i] = simd.add(x_sums[i], x_now[i]);
                    }
                }
                for r in 0..R {
                    if at == 0 {
                        // The rows that come next: streams are too short for the hardware to guess.
                        let here = (R + r) * row_length + group * B::BYTES / groups;
                        prefetch(block.wrapping_add(here));
                    }
                    let number = B::numbers(simd, block.add(r * row_length), group, at);
                    for i in 0..N {
                        parts[r][i] = if at == 0 {
                            simd.mul(number, x_now[i])
                        } else {
                            simd.fma(number, x_now[i], parts[r][i])
                        };
                    }
                }
            }
            for r in 0..R {
                let block = block.add(r * row_length);
                let scale = B::scale(simd, block, group);
                for i in 0..N {
                    sums[r][i] = simd.fma(parts[r][i], scale, sums[r][i]);
                }
                if B::HAS_MINIMUM {
                    let minus = simd.sub(simd.zero(), B::minimum(simd, block, group));
                    for i in 0..N {
                        sums[r][i] = simd.fma(x_sums[i], minus, sums[r][i]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        for i in 0..N {
            dots[r * N + i] = simd.sum(sums[r][i]);
        }
    }
}

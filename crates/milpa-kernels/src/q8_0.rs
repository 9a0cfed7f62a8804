//! The Q8_0 format of ggml: blocks of 32 signed bytes with one half-precision scale, 34 bytes each.
//!
//! A value is `scale · byte` with `scale = max|x| / 127`. Products widen the bytes to f32 and multiply
//! with f32 activations: at the speed of memory this costs nothing and loses nothing.

use half::f16;

use crate::cpu::Cpu;
use crate::gemm::{self, FEW_ROWS, prefetch};
use crate::pool::Shares;
use crate::scratch::with_scratch;
use crate::simd::{Simd, dispatch};
use crate::view::{Mat, MatMut, Size};

/// Values in a block.
pub const BLOCK: usize = 32;
/// Bytes of a block: a little-endian f16 scale, then 32 signed bytes.
pub const BLOCK_BYTES: usize = 34;

/// Blocks of a task that converts.
const TASK_BLOCKS: usize = 512;
/// Rows of W that are widened at a time for a product with many rows.
const WIDENED_ROWS: usize = 96;

/// Returns the bytes of a row of `columns` values.
///
/// # Panics
/// If `columns` is not a multiple of [`BLOCK`].
pub fn row_bytes(columns: usize) -> usize {
    assert!(columns.is_multiple_of(BLOCK), "a Q8_0 row is a multiple of {BLOCK}, not {columns}");
    columns / BLOCK * BLOCK_BYTES
}

/// Quantises values (a multiple of [`BLOCK`]) into `bytes`, bit for bit as ggml's
/// `quantize_row_q8_0_ref`: halves round away from zero, by the scale before it is rounded to f16.
pub fn quantize(cpu: &Cpu, x: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), row_bytes(x.len()), "bytes for {} values", x.len());
    let bytes = Shares::new(bytes);
    cpu.pool().for_ranges(x.len() / BLOCK, TASK_BLOCKS, |blocks| {
        // SAFETY: each task has its own blocks.
        let bytes = unsafe { bytes.part(blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES) };
        let x = x[blocks.start * BLOCK..blocks.end * BLOCK].chunks_exact(BLOCK);
        x.zip(bytes.chunks_exact_mut(BLOCK_BYTES)).for_each(|(x, out)| quantize_block(x, out));
    });
}

/// Writes the values of `bytes` to `out`.
pub fn dequantize(cpu: &Cpu, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), row_bytes(out.len()), "bytes for {} values", out.len());
    let blocks = out.len() / BLOCK;
    let out = Shares::new(out);
    cpu.pool().for_ranges(blocks, TASK_BLOCKS, |blocks| {
        // SAFETY: each task has its own blocks.
        let out = unsafe { out.part(blocks.start * BLOCK..blocks.end * BLOCK) };
        let bytes = &bytes[blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES];
        dispatch!(cpu.isa(), simd => widen(simd, bytes, out));
    });
}

/// Dot product of a Q8_0 row with f32 values.
pub fn dot(cpu: &Cpu, bytes: &[u8], x: &[f32]) -> f32 {
    assert_eq!(bytes.len(), row_bytes(x.len()), "bytes for {} values", x.len());
    let mut dots = [0.0; 8];
    let row = Mat::new(x, x.len());
    dispatch!(cpu.isa(), simd => dots_of::<_, 1, 1>(simd, bytes, row, &mut dots));
    dots[0]
}

/// `C[m, n] = A[m, k] · Wᵀ` with `W[n, k]` in Q8_0 (`n` rows of `row_bytes(k)` bytes).
///
/// With at most eight rows of A, W is streamed once; otherwise it is widened a few rows at a time.
pub fn matmul_nt(cpu: &Cpu, size: Size, a: Mat<'_>, w: &[u8], c: MatMut<'_>) {
    let Size { m, n, k } = size;
    let row = row_bytes(k);
    assert_eq!(w.len(), n * row, "W: {n} rows of {k} values");
    a.check("A", m, k);
    c.check("C", m, n);
    if m == 0 || k == 0 {
        (0..m).for_each(|i| c.data[i * c.stride..i * c.stride + n].fill(0.0));
        return;
    }
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
            dispatch!(cpu.isa(), simd => few_rows(simd, (m, k), a, w, columns.start, write));
        });
        return;
    }
    cpu.pool().for_ranges(n, WIDENED_ROWS, |columns| {
        with_scratch(columns.len() * k, |widened| {
            let bytes = &w[columns.start * row..columns.end * row];
            dispatch!(cpu.isa(), simd => widen(simd, bytes, widened));
            let size = Size { m, n: columns.len(), k };
            let c = (&out, columns.start, stride);
            // SAFETY: C was checked, and this task alone writes its columns.
            unsafe { gemm::matmul_nt_inline(cpu.isa(), size, a, Mat::new(widened, k), c) };
        });
    });
}

fn quantize_block(x: &[f32], out: &mut [u8]) {
    let largest = x.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, value) in out[2..].iter_mut().zip(x) {
        *byte = ((value * inverse).round() as i8).cast_unsigned();
    }
}

#[inline(always)]
fn block_scale<S: Simd>(simd: S, block: &[u8]) -> S::V {
    simd.splat_f16(u16::from_le_bytes([block[0], block[1]]))
}

#[inline(always)]
fn widen<S: Simd>(simd: S, bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(BLOCK_BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        let scale = block_scale(simd, block);
        let values = block[2..].as_ptr().cast::<i8>();
        for (index, out) in out.chunks_exact_mut(S::LANES).enumerate() {
            // SAFETY: a block has 32 values, a multiple of the lanes.
            let value = unsafe { simd.load_bytes(values.add(index * S::LANES)) };
            simd.write(out, simd.mul(value, scale));
        }
    }
}

/// Products of some rows of W with each row of A.
#[inline(always)]
fn few_rows<S: Simd>(
    simd: S,
    (m, k): (usize, usize),
    a: Mat<'_>,
    w: &[u8],
    first_column: usize,
    write: impl Fn(usize, usize, f32),
) {
    let row = row_bytes(k);
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
                (2, 4) => dots_of::<S, 2, 4>(simd, w_rows, a_rows, &mut dots),
                (4, 1) => dots_of::<S, 4, 1>(simd, w_rows, a_rows, &mut dots),
                (2, 1) => dots_of::<S, 2, 1>(simd, w_rows, a_rows, &mut dots),
                (1, 4) => dots_of::<S, 1, 4>(simd, w_rows, a_rows, &mut dots),
                _ => dots_of::<S, 1, 1>(simd, w_rows, a_rows, &mut dots),
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
fn dots_of<S: Simd, const R: usize, const N: usize>(
    simd: S,
    bytes: &[u8],
    rows: Mat<'_>,
    dots: &mut [f32; 8],
) {
    let row_length = bytes.len() / R;
    let blocks = row_length / BLOCK_BYTES;
    assert_eq!(bytes.len(), R * blocks * BLOCK_BYTES, "rows of whole blocks");
    rows.check("rows of A", N, blocks * BLOCK);
    let mut sums = [[simd.zero(); N]; R];
    for index in 0..blocks {
        // SAFETY: the R rows of W hold `blocks` blocks of 34 bytes and the N rows of A as many of 32
        // values (both just checked); the lanes divide 32.
        unsafe {
            let x = rows.data.as_ptr().add(index * BLOCK);
            let block = bytes.as_ptr().add(index * BLOCK_BYTES);
            let mut parts = [[simd.zero(); N]; R];
            for at in (0..BLOCK).step_by(S::LANES) {
                let mut x_now = [simd.zero(); N];
                for i in 0..N {
                    x_now[i] = simd.load(x.add(i * rows.stride + at));
                }
                for r in 0..R {
                    if at == 0 {
                        // The rows that come next: streams are too short for the hardware to guess.
                        prefetch(block.wrapping_add((R + r) * row_length));
                    }
                    let value = simd.load_bytes(block.add(r * row_length + 2 + at).cast());
                    for i in 0..N {
                        parts[r][i] = if at == 0 {
                            simd.mul(value, x_now[i])
                        } else {
                            simd.fma(value, x_now[i], parts[r][i])
                        };
                    }
                }
            }
            for r in 0..R {
                let bits = block.add(r * row_length).cast::<[u8; 2]>().read();
                let scale = simd.splat_f16(u16::from_le_bytes(bits));
                for i in 0..N {
                    sums[r][i] = simd.fma(parts[r][i], scale, sums[r][i]);
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

//! The Q8_0 format of ggml: blocks of 32 signed bytes with one half-precision scale, 34 bytes each.
//!
//! A value is `scale · byte` with `scale = max|x| / 127`. Products widen the bytes to f32 and multiply
//! with f32 activations: at the speed of memory this costs nothing and loses nothing.

use half::f16;

use crate::cpu::Cpu;
use crate::gemm::{self, FEW_ROWS};
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
    let [dot] = dispatch!(cpu.isa(), simd => dot_many(simd, bytes, [x]));
    dot
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
            dispatch!(cpu.isa(), simd => {
                for j in columns {
                    few_rows(simd, m, k, a, &w[j * row..(j + 1) * row], |i, value| write(i, j, value));
                }
            });
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

/// Widens an f16 to f32 in integer arithmetic, which inlines everywhere.
#[inline(always)]
pub(crate) fn widen_f16(bits: u16) -> f32 {
    // Shift exponent and fraction into place, then multiply by 2¹¹² to correct the exponent's bias:
    // this also makes subnormals right.
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    // Infinity and NaN come out as 65536 and more: give them the largest exponent.
    let special = if magnitude >= 65536.0 { 0x7f80_0000 } else { 0 };
    let sign = u32::from(bits & 0x8000) << 16;
    f32::from_bits(magnitude.to_bits() | special | sign)
}

#[inline(always)]
fn block_scale(block: &[u8]) -> f32 {
    widen_f16(u16::from_le_bytes([block[0], block[1]]))
}

#[inline(always)]
fn widen<S: Simd>(simd: S, bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.chunks_exact(BLOCK_BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        let scale = simd.splat(block_scale(block));
        let values = block[2..].as_ptr().cast::<i8>();
        for (index, out) in out.chunks_exact_mut(S::LANES).enumerate() {
            // SAFETY: a block has 32 values, a multiple of the lanes.
            let value = unsafe { simd.load_bytes(values.add(index * S::LANES)) };
            simd.write(out, simd.mul(value, scale));
        }
    }
}

#[inline(always)]
fn few_rows<S: Simd>(
    simd: S,
    m: usize,
    k: usize,
    a: Mat<'_>,
    w_row: &[u8],
    mut out: impl FnMut(usize, f32),
) {
    let a_row = |i: usize| &a.data[i * a.stride..][..k];
    let mut i = 0;
    while i < m {
        if m - i >= 4 {
            let dots =
                dot_many::<S, 4>(simd, w_row, [a_row(i), a_row(i + 1), a_row(i + 2), a_row(i + 3)]);
            dots.into_iter().enumerate().for_each(|(more, dot)| out(i + more, dot));
            i += 4;
        } else {
            let [dot] = dot_many::<S, 1>(simd, w_row, [a_row(i)]);
            out(i, dot);
            i += 1;
        }
    }
}

#[inline(always)]
fn dot_many<S: Simd, const N: usize>(simd: S, bytes: &[u8], rows: [&[f32]; N]) -> [f32; N] {
    let blocks = bytes.len() / BLOCK_BYTES;
    assert!(rows.iter().all(|row| row.len() == blocks * BLOCK), "rows of {blocks} blocks");
    let mut sums = [[simd.zero(); 2]; N];
    for (index, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
        let scale = simd.splat(block_scale(block));
        let values = block[2..].as_ptr().cast::<i8>();
        let mut parts = [simd.zero(); N];
        for at in (0..BLOCK).step_by(S::LANES) {
            // SAFETY: a block has 32 values, a multiple of the lanes, and so have the rows at it.
            unsafe {
                let value = simd.load_bytes(values.add(at));
                for i in 0..N {
                    let x = simd.load(rows[i].as_ptr().add(index * BLOCK + at));
                    parts[i] = simd.fma(value, x, parts[i]);
                }
            }
        }
        for i in 0..N {
            sums[i][index % 2] = simd.fma(parts[i], scale, sums[i][index % 2]);
        }
    }
    let mut dots = [0.0; N];
    for i in 0..N {
        dots[i] = simd.sum(simd.add(sums[i][0], sums[i][1]));
    }
    dots
}

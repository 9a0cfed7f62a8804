//! The Q8_0 format of ggml: blocks of 32 signed bytes with one half-precision scale, 34 bytes each.

use crate::cpu::Cpu;
use crate::view::{Mat, MatMut, Size};

/// Values in a block.
pub const BLOCK: usize = 32;
/// Bytes of a block: a little-endian f16 scale, then 32 signed bytes.
pub const BLOCK_BYTES: usize = 34;

/// Returns the bytes of a row of `columns` values; `columns` is a multiple of [`BLOCK`].
pub fn row_bytes(columns: usize) -> usize {
    assert!(columns.is_multiple_of(BLOCK), "a Q8_0 row is a multiple of {BLOCK}, not {columns}");
    columns / BLOCK * BLOCK_BYTES
}

/// Quantises values (a multiple of [`BLOCK`]) into `bytes`.
pub fn quantize(_cpu: &Cpu, x: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), row_bytes(x.len()), "bytes for {} values", x.len());
    for (block, out) in x.chunks_exact(BLOCK).zip(bytes.chunks_exact_mut(BLOCK_BYTES)) {
        let largest = block.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out[..2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
        for (byte, value) in out[2..].iter_mut().zip(block) {
            *byte = (value * inverse).round() as i8 as u8;
        }
    }
}

/// Writes the values of `bytes` to `out`.
pub fn dequantize(_cpu: &Cpu, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), row_bytes(out.len()), "bytes for {} values", out.len());
    for (block, out) in bytes.chunks_exact(BLOCK_BYTES).zip(out.chunks_exact_mut(BLOCK)) {
        let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (value, &byte) in out.iter_mut().zip(&block[2..]) {
            *value = scale * f32::from(byte as i8);
        }
    }
}

/// `C[m, n] = A[m, k] · Wᵀ` with `W[n, k]` in Q8_0 (`n` rows of `row_bytes(k)` bytes).
pub fn matmul_nt(cpu: &Cpu, size: Size, a: Mat<'_>, w: &[u8], c: MatMut<'_>) {
    assert_eq!(w.len(), size.n * row_bytes(size.k), "W: {} rows of {} values", size.n, size.k);
    let mut row = vec![0.0; size.n * size.k];
    dequantize(cpu, w, &mut row);
    crate::gemm::matmul_nt(cpu, size, a, Mat::new(&row, size.k), c, crate::Accumulate::No);
}

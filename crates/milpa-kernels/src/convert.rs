//! Half-precision formats to and from f32, as little-endian bytes (how files hold them).
//!
//! Widening is exact; narrowing rounds to nearest, ties to even, keeps NaN a NaN and turns what is
//! too large into infinity.

use half::{bf16, f16};

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch, widen_f16};

/// Elements of a task.
const TASK: usize = 32 * 1024;

/// Widens little-endian f16 values.
pub fn f16_to_f32(cpu: &Cpu, bytes: &[u8], out: &mut [f32]) {
    read::<2>(
        cpu,
        bytes,
        out,
        #[inline(always)]
        |pair| widen_f16(u16::from_le_bytes(pair)),
    );
}

/// Widens little-endian bf16 values.
pub fn bf16_to_f32(cpu: &Cpu, bytes: &[u8], out: &mut [f32]) {
    read::<2>(
        cpu,
        bytes,
        out,
        #[inline(always)]
        |pair| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16),
    );
}

/// Reads little-endian f32 values.
pub fn f32_from_bytes(cpu: &Cpu, bytes: &[u8], out: &mut [f32]) {
    read::<4>(cpu, bytes, out, f32::from_le_bytes);
}

/// Rounds to little-endian f16 values, ties to even.
pub fn f32_to_f16(cpu: &Cpu, x: &[f32], bytes: &mut [u8]) {
    write::<2>(cpu, x, bytes, |value| f16::from_f32(value).to_le_bytes());
}

/// Rounds to little-endian bf16 values, ties to even.
pub fn f32_to_bf16(cpu: &Cpu, x: &[f32], bytes: &mut [u8]) {
    write::<2>(cpu, x, bytes, |value| bf16::from_f32(value).to_le_bytes());
}

/// Writes little-endian f32 values.
pub fn f32_to_bytes(cpu: &Cpu, x: &[f32], bytes: &mut [u8]) {
    write::<4>(cpu, x, bytes, f32::to_le_bytes);
}

fn read<const N: usize>(
    cpu: &Cpu,
    bytes: &[u8],
    out: &mut [f32],
    value: impl Fn([u8; N]) -> f32 + Sync,
) {
    assert_eq!(bytes.len(), N * out.len(), "{N} bytes for each value");
    let length = out.len();
    let out = Shares::new(out);
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let out = unsafe { out.part(range.clone()) };
        let bytes = &bytes[range.start * N..range.end * N];
        dispatch!(cpu.isa(), simd => read_part(simd, bytes, out, &value));
    });
}

/// A plain loop: the compiler makes it vectors of the enabled width.
#[inline(always)]
fn read_part<S: Simd, const N: usize>(
    _simd: S,
    bytes: &[u8],
    out: &mut [f32],
    value: &impl Fn([u8; N]) -> f32,
) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (out, &chunk) in out.iter_mut().zip(chunks) {
        *out = value(chunk);
    }
}

fn write<const N: usize>(
    cpu: &Cpu,
    x: &[f32],
    bytes: &mut [u8],
    encode: impl Fn(f32) -> [u8; N] + Sync,
) {
    assert_eq!(bytes.len(), N * x.len(), "{N} bytes for each value");
    let bytes = Shares::new(bytes);
    cpu.pool().for_ranges(x.len(), TASK, |range| {
        // SAFETY: each task has its own range.
        let bytes = unsafe { bytes.part(range.start * N..range.end * N) };
        let (chunks, _) = bytes.as_chunks_mut::<N>();
        for (chunk, &value) in chunks.iter_mut().zip(&x[range]) {
            *chunk = encode(value);
        }
    });
}

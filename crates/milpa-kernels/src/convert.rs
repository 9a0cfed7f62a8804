//! Half-precision formats to and from f32, as little-endian bytes (how files hold them).

use half::{bf16, f16};

use crate::cpu::Cpu;

/// Widens little-endian f16 values.
pub fn f16_to_f32(_cpu: &Cpu, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), 2 * out.len(), "two bytes for each value");
    for (value, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = f16::from_le_bytes([pair[0], pair[1]]).to_f32();
    }
}

/// Widens little-endian bf16 values.
pub fn bf16_to_f32(_cpu: &Cpu, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), 2 * out.len(), "two bytes for each value");
    for (value, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
    }
}

/// Reads little-endian f32 values.
pub fn f32_from_bytes(_cpu: &Cpu, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), 4 * out.len(), "four bytes for each value");
    for (value, four) in out.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    }
}

/// Rounds to little-endian f16 values, ties to even.
pub fn f32_to_f16(_cpu: &Cpu, x: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), 2 * x.len(), "two bytes for each value");
    for (value, pair) in x.iter().zip(bytes.chunks_exact_mut(2)) {
        pair.copy_from_slice(&f16::from_f32(*value).to_le_bytes());
    }
}

/// Rounds to little-endian bf16 values, ties to even.
pub fn f32_to_bf16(_cpu: &Cpu, x: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), 2 * x.len(), "two bytes for each value");
    for (value, pair) in x.iter().zip(bytes.chunks_exact_mut(2)) {
        pair.copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
    }
}

/// Writes little-endian f32 values.
pub fn f32_to_bytes(_cpu: &Cpu, x: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), 4 * x.len(), "four bytes for each value");
    for (value, four) in x.iter().zip(bytes.chunks_exact_mut(4)) {
        four.copy_from_slice(&value.to_le_bytes());
    }
}

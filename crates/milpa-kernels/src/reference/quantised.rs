//! The block formats of ggml, value by value.

use half::f16;

use crate::quantised::BlockFormat;

/// The values of whole blocks, by the definition of their format.
pub fn dequantize(format: BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let value: fn(&[u8], usize) -> f32 = match format {
        BlockFormat::Q8_0 => q8_0,
        BlockFormat::Q4_0 => q4_0,
        BlockFormat::Q4K => q4_k,
        BlockFormat::Q6K => q6_k,
    };
    let blocks = bytes.chunks_exact(format.block_bytes());
    blocks.flat_map(|block| (0..format.block_values()).map(|i| value(block, i))).collect()
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Scale, then 32 signed bytes.
fn q8_0(block: &[u8], i: usize) -> f32 {
    half(block, 0) * f32::from(block[2 + i].cast_signed())
}

/// Scale, then 16 bytes whose lower nibbles are the first 16 values.
fn q4_0(block: &[u8], i: usize) -> f32 {
    let nibble = block[2 + i % 16] >> (4 * (i / 16)) & 15;
    half(block, 0) * (f32::from(nibble) - 8.0)
}

/// Units of scales and minima, 12 bytes of both, then 32 bytes for each 64 values.
fn q4_k(block: &[u8], i: usize) -> f32 {
    let (group, at) = (i / 32, i % 32);
    let six = &block[4..16];
    let (scale, minimum) = if group < 4 {
        (six[group] & 63, six[group + 4] & 63)
    } else {
        let later = group - 4;
        (six[later + 8] & 15 | six[later] >> 6 << 4, six[later + 8] >> 4 | six[later + 4] >> 6 << 4)
    };
    let nibble = block[16 + 32 * (group / 2) + at] >> (4 * (group % 2)) & 15;
    let (scale, minimum) = (half(block, 0) * f32::from(scale), half(block, 2) * f32::from(minimum));
    scale * f32::from(nibble) - minimum
}

/// Lower nibbles, upper two bits, 16 scales, their unit.
fn q6_k(block: &[u8], i: usize) -> f32 {
    let (half_of_block, run, at) = (i / 128, i % 128 / 32, i % 32);
    let low = block[64 * half_of_block + 32 * (run % 2) + at] >> (4 * (run / 2)) & 15;
    let high = block[128 + 32 * half_of_block + at] >> (2 * run) & 3;
    let scale = half(block, 208) * f32::from(block[192 + i / 16].cast_signed());
    scale * (f32::from(low | high << 4) - 32.0)
}

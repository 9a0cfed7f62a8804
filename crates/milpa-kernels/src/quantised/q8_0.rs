//! Q8_0: 32 signed bytes after one half-precision scale, 34 bytes.

use half::f16;

use super::{Blocks, inverse, largest_in_size, splat_half};
use crate::simd::Simd;

pub(super) struct Q8_0;

impl Blocks for Q8_0 {
    const VALUES: usize = 32;
    const BYTES: usize = 34;
    const GROUP: usize = 32;

    /// `scale = max|x| / 127`; halves round away from zero, by the scale before it is rounded.
    #[inline(always)]
    fn quantize(x: &[f32], block: &mut [u8]) {
        let scale = largest_in_size(x).abs() / 127.0;
        let inverse = inverse(scale);
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        for (byte, value) in block[2..].iter_mut().zip(x) {
            *byte = ((value * inverse).round() as i8).cast_unsigned();
        }
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, block: *const u8, _group: usize) -> S::V {
        // SAFETY: the block begins with its scale.
        unsafe { splat_half(simd, block) }
    }

    #[inline(always)]
    unsafe fn numbers<S: Simd>(simd: S, block: *const u8, _group: usize, at: usize) -> S::V {
        // SAFETY: 32 bytes follow the scale, and the lanes from `at` on are among them.
        unsafe { simd.load_bytes(block.add(2 + at).cast()) }
    }
}

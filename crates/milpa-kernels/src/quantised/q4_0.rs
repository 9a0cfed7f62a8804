//! Q4_0: a half-precision scale, then 16 bytes: byte `i` holds value `i` in its lower four bits and
//! value `i + 16` in its upper ones, each plus 8. 18 bytes.

use half::f16;

use super::{Blocks, inverse, largest_in_size, splat_half};
use crate::simd::Simd;

pub(super) struct Q4_0;

impl Blocks for Q4_0 {
    const VALUES: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;

    /// The value that is largest in size becomes −8, whatever its sign.
    #[inline(always)]
    fn quantize(x: &[f32], block: &mut [u8]) {
        let scale = largest_in_size(x) / -8.0;
        let inverse = inverse(scale);
        block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let number = |value: f32| ((value * inverse + 8.5) as u8).min(15);
        for (i, byte) in block[2..].iter_mut().enumerate() {
            *byte = number(x[i]) | number(x[i + 16]) << 4;
        }
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, block: *const u8, _group: usize) -> S::V {
        // SAFETY: the block begins with its scale.
        unsafe { splat_half(simd, block) }
    }

    #[inline(always)]
    unsafe fn numbers<S: Simd>(simd: S, block: *const u8, _group: usize, at: usize) -> S::V {
        // SAFETY: 16 bytes follow the scale, and the lanes divide 16.
        let number = unsafe { simd.load_bits(block.add(2 + at % 16), at as u8 / 16 * 4, 15) };
        simd.sub(number, simd.splat(8.0))
    }
}

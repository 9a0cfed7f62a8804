//! Q6_K: 256 numbers of six bits, each plus 32, in sixteen groups of 16 with a signed byte as scale.
//! 210 bytes: the lower four bits (128), the upper two (64), the scales (16), and the half-precision
//! unit of all scales. Within each half of 128 values, run `r` of 32 has its lower bits in nibble
//! `r / 2` of 32 bytes and its upper ones in bits `2r` of another 32.

use half::f16;

use super::{Blocks, inverse, largest_in_size, splat_half};
use crate::simd::Simd;

pub(super) struct Q6K;

const GROUPS: usize = 16;
/// Where the upper bits, the scales and their unit begin.
const HIGH: usize = 128;
const SCALES: usize = 192;
const UNIT: usize = 208;

impl Blocks for Q6K {
    const VALUES: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;

    /// Each group is fitted by itself; the scale that is largest in size becomes −128 units, and the
    /// values are then rounded to what the scales came to.
    #[inline(always)]
    fn quantize(x: &[f32], block: &mut [u8]) {
        let mut fits = [0.0; GROUPS];
        for (fit, group) in fits.iter_mut().zip(x.chunks_exact(Self::GROUP)) {
            *fit = fit_group(group);
        }
        let unit = largest_in_size(&fits) / -128.0;
        let per_unit = inverse(unit);
        let unit = f16::from_f32(unit);
        block.fill(0);
        block[UNIT..].copy_from_slice(&unit.to_le_bytes());
        for (group, fit) in fits.into_iter().enumerate() {
            let scale = (fit * per_unit).round_ties_even() as i8;
            block[SCALES + group] = scale.cast_unsigned();
            let inverse = inverse(unit.to_f32() * f32::from(scale));
            for i in group * Self::GROUP..(group + 1) * Self::GROUP {
                let number = (x[i] * inverse).round_ties_even().clamp(-32.0, 31.0);
                let number = (number + 32.0) as u8;
                let Place { low, low_shift, high, high_shift } = Place::of(i);
                block[low] |= (number & 15) << low_shift;
                block[high] |= number >> 4 << high_shift;
            }
        }
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, block: *const u8, group: usize) -> S::V {
        // SAFETY: the contract of the trait: the block has 16 scales and their unit.
        let (unit, scale) =
            unsafe { (splat_half(simd, block.add(UNIT)), *block.add(SCALES + group).cast::<i8>()) };
        simd.mul(unit, simd.splat(f32::from(scale)))
    }

    #[inline(always)]
    unsafe fn numbers<S: Simd>(simd: S, block: *const u8, group: usize, at: usize) -> S::V {
        let Place { low, low_shift, high, high_shift } = Place::of(group * Self::GROUP + at);
        // SAFETY: the lanes divide 16, so they are of one run of 32 values, which has 32 bytes of
        // lower and of upper bits within the block.
        let (low, high) = unsafe {
            (
                simd.load_bits(block.add(low), low_shift, 15),
                simd.load_bits(block.add(high), high_shift, 3),
            )
        };
        simd.fma(high, simd.splat(16.0), simd.sub(low, simd.splat(32.0)))
    }
}

/// Where the bits of a value stand.
struct Place {
    low: usize,
    low_shift: u8,
    high: usize,
    high_shift: u8,
}

impl Place {
    #[inline(always)]
    fn of(index: usize) -> Self {
        let (half, run, at) = (index / 128, index / 32 % 4, index % 32);
        Self {
            low: 64 * half + 32 * (run % 2) + at,
            low_shift: (run / 2 * 4) as u8,
            high: HIGH + 32 * half + at,
            high_shift: (run * 2) as u8,
        }
    }
}

/// The scale of a group that leaves the least square error, values weighted by their squares, since
/// large ones matter more.
///
/// For each of some steps near `largest / −32` the values are rounded; the best scale for these
/// numbers is `Σwxn / Σwn²`, and the error it leaves falls with `(Σwxn)² / Σwn²`.
#[inline(always)]
fn fit_group(x: &[f32]) -> f32 {
    let largest = largest_in_size(x);
    let per_largest = inverse(largest);
    // Weights of at most one keep the sums of tiny and of huge values within range.
    let weights: [f32; Q6K::GROUP] = std::array::from_fn(|i| (x[i] / largest) * (x[i] / largest));
    let mut best = (0.0, 0.0);
    for step in -9..=9 {
        let inverse = -(32.0 + 0.1 * step as f32) * per_largest;
        let (mut wxn, mut wnn) = (0.0_f32, 0.0_f32);
        for (&x, weight) in x.iter().zip(weights) {
            let number = (x * inverse).round_ties_even().clamp(-32.0, 31.0);
            wxn += weight * x * number;
            wnn += weight * number * number;
        }
        let scale = wxn / wnn;
        let gain = (scale * (wxn / largest)).abs();
        if gain > best.0 {
            best = (gain, scale);
        }
    }
    best.1
}

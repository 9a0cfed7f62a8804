//! Q4_K: 256 numbers of four bits in eight groups of 32; a value is `number · scale − minimum`.
//! 144 bytes: the half-precision units of all scales and of all minima, 12 bytes with a scale and a
//! minimum of six bits for each group, then for each two groups 32 bytes, the even group in the
//! lower four bits and the odd one in the upper.

use half::f16;

use super::{Blocks, inverse, splat_half};
use crate::simd::Simd;

pub(super) struct Q4K;

const GROUPS: usize = 8;
/// Where the scales begin, and where the numbers do.
const SCALES: usize = 4;
const NUMBERS: usize = 16;
/// Largest scale and minimum, largest number.
const MOST_SCALE: f32 = 63.0;
const MOST_NUMBER: f32 = 15.0;

impl Blocks for Q4K {
    const VALUES: usize = 256;
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const HAS_MINIMUM: bool = true;

    /// Each group is fitted by itself; scales and minima are rounded to 63rds of the largest ones,
    /// and the values then to what these came to.
    #[inline(always)]
    fn quantize(x: &[f32], block: &mut [u8]) {
        let mut fits = [(0.0, 0.0); GROUPS];
        for (fit, group) in fits.iter_mut().zip(x.chunks_exact(Self::GROUP)) {
            *fit = fit_group(group);
        }
        let largest = fits
            .iter()
            .fold((0.0_f32, 0.0_f32), |most, fit| (most.0.max(fit.0), most.1.max(fit.1)));
        let units = [largest.0 / MOST_SCALE, largest.1 / MOST_SCALE].map(f16::from_f32);
        block[..2].copy_from_slice(&units[0].to_le_bytes());
        block[2..4].copy_from_slice(&units[1].to_le_bytes());
        let six_bits = |part: f32, largest: f32| {
            (part * MOST_SCALE * inverse(largest)).round_ties_even().min(MOST_SCALE) as u8
        };
        let codes = fits.map(|fit| [six_bits(fit.0, largest.0), six_bits(fit.1, largest.1)]);
        pack_scales(&codes, &mut block[SCALES..NUMBERS]);
        let mut numbers = [0; 256];
        for (group, [scale, minimum]) in codes.into_iter().enumerate() {
            let inverse = inverse(units[0].to_f32() * f32::from(scale));
            let minimum = units[1].to_f32() * f32::from(minimum);
            for i in group * Self::GROUP..(group + 1) * Self::GROUP {
                let number = ((x[i] + minimum) * inverse).round_ties_even();
                numbers[i] = number.clamp(0.0, MOST_NUMBER) as u8;
            }
        }
        for (bytes, pair) in block[NUMBERS..].chunks_exact_mut(32).zip(numbers.chunks_exact(64)) {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = pair[i] | pair[i + 32] << 4;
            }
        }
    }

    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, block: *const u8, group: usize) -> S::V {
        // SAFETY: the contract of the trait: the block's head has 16 bytes.
        let (unit, [scale, _]) = unsafe { (splat_half(simd, block), unpack_scales(block, group)) };
        simd.mul(unit, simd.splat(f32::from(scale)))
    }

    #[inline(always)]
    unsafe fn minimum<S: Simd>(simd: S, block: *const u8, group: usize) -> S::V {
        // SAFETY: the contract of the trait: the block's head has 16 bytes.
        let (unit, [_, minimum]) =
            unsafe { (splat_half(simd, block.add(2)), unpack_scales(block, group)) };
        simd.mul(unit, simd.splat(f32::from(minimum)))
    }

    #[inline(always)]
    unsafe fn numbers<S: Simd>(simd: S, block: *const u8, group: usize, at: usize) -> S::V {
        let from = NUMBERS + group / 2 * 32 + at;
        // SAFETY: each two groups have 32 bytes, and the lanes from `at` on are among them.
        unsafe { simd.load_bits(block.add(from), group as u8 % 2 * 4, 15) }
    }
}

/// Scale and minimum of the first four groups stand in the lower six bits of bytes 0..4 and 4..8; of
/// the last four, the lower halves stand in bytes 8..12 and the upper two bits above those six.
fn pack_scales(codes: &[[u8; 2]; GROUPS], out: &mut [u8]) {
    for i in 0..4 {
        let ([scale, minimum], [later_scale, later_minimum]) = (codes[i], codes[i + 4]);
        out[i] = scale | later_scale >> 4 << 6;
        out[i + 4] = minimum | later_minimum >> 4 << 6;
        out[i + 8] = later_scale & 15 | later_minimum << 4;
    }
}

/// Scale and minimum of a group; see [`pack_scales`].
///
/// # Safety
/// 16 bytes are readable at `block`, and `group < 8`.
#[inline(always)]
unsafe fn unpack_scales(block: *const u8, group: usize) -> [u8; 2] {
    // SAFETY: the contract of this function.
    let byte = |index: usize| unsafe { *block.add(SCALES + index) };
    if group < 4 {
        return [byte(group) & 63, byte(group + 4) & 63];
    }
    let low = byte(group + 4);
    [low & 15 | byte(group - 4) >> 6 << 4, low >> 4 | byte(group) >> 6 << 4]
}

/// Scale and minimum of a group that leave the least square error, values weighted by
/// `rms + |x|`, since large ones matter more.
///
/// For each of some steps near `range / 15` the values are rounded, and least squares give the
/// scale and the minimum that fit these numbers best.
#[inline(always)]
fn fit_group(x: &[f32]) -> (f32, f32) {
    let rms = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    let lowest = x.iter().fold(0.0_f32, |least, &x| least.min(x));
    let range = x.iter().fold(lowest, |most, &x| most.max(x)) - lowest;
    if !(range > 0.0 && range.is_finite()) {
        // All values are the same, and 0 or below: the minimum says it all.
        return (0.0, -lowest);
    }
    let error = |inverse: f32, scale: f32, minimum: f32| -> f32 {
        let squares = x.iter().map(|&x| {
            let off = number(x, lowest, inverse) * scale - minimum - x;
            (rms + x.abs()) * off * off
        });
        squares.sum()
    };
    let even = (range / MOST_NUMBER, -lowest);
    let mut best = (error(1.0 / even.0, even.0, even.1), even);
    for step in 0..=20 {
        let inverse = (MOST_NUMBER - 1.0 + 0.1 * step as f32) / range;
        let (mut w, mut wx, mut wn, mut wnn, mut wxn) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &x in x {
            let (weight, number) = (rms + x.abs(), number(x, lowest, inverse));
            w += weight;
            wx += weight * x;
            wn += weight * number;
            wnn += weight * number * number;
            wxn += weight * x * number;
        }
        let determinant = w * wnn - wn * wn;
        let (mut scale, mut minimum) =
            ((w * wxn - wx * wn) / determinant, (wn * wxn - wnn * wx) / determinant);
        if minimum < 0.0 {
            // Minima are subtracted and have no sign.
            (scale, minimum) = (wxn / wnn, 0.0);
        }
        let error = error(inverse, scale, minimum);
        if error < best.0 && scale > 0.0 {
            best = (error, (scale, minimum));
        }
    }
    best.1
}

#[inline(always)]
fn number(x: f32, lowest: f32, inverse: f32) -> f32 {
    ((x - lowest) * inverse).round_ties_even().clamp(0.0, MOST_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_scales_come_back() {
        let codes = std::array::from_fn(|i| [(i * 23 % 64) as u8, (63 - i * 7) as u8]);
        let mut block = [0; 16];
        pack_scales(&codes, &mut block[SCALES..]);
        for (group, &code) in codes.iter().enumerate() {
            // SAFETY: 16 bytes, eight groups.
            assert_eq!(unsafe { unpack_scales(block.as_ptr(), group) }, code, "{group}");
        }
    }
}

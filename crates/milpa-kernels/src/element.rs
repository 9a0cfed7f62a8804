//! What slices hold: f32, or bf16 with all arithmetic in f32.
//!
//! bf16 is the upper half of an f32: widening is exact, narrowing rounds to nearest with ties to
//! even and keeps NaN a NaN, by integer arithmetic, so that every instruction set gives the same
//! bits. Kernels that take [`Element`] read and write it and know nothing of its format.

use half::bf16;

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::simd::{Lanes, Simd, dispatch};

/// An element type that kernels read and write: `f32` or [`bf16`].
pub trait Element: Lanes {
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

/// Elements of a task.
const TASK: usize = 32 * 1024;

/// `out = x`, widened or rounded where the types differ.
pub fn convert<X: Element, Y: Element>(cpu: &Cpu, x: &[X], out: &mut [Y]) {
    assert_eq!(x.len(), out.len(), "x and out of one length");
    let length = out.len();
    let out = Shares::new(out);
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let out = unsafe { out.part(range.clone()) };
        dispatch!(cpu.isa(), simd => convert_part(simd, &x[range], out));
    });
}

#[inline(always)]
fn convert_part<S: Simd, X: Element, Y: Element>(simd: S, x: &[X], out: &mut [Y]) {
    for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
        simd.write(out, simd.read(x));
    }
}

/// Views memory for f32 values as twice as many bf16 values.
pub fn as_bf16(words: &[f32]) -> &[bf16] {
    // SAFETY: a float has room for two bf16 of smaller alignment, and every bit pattern is one.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) }
}

/// Views memory for f32 values as twice as many bf16 values to write.
pub fn as_bf16_mut(words: &mut [f32]) -> &mut [bf16] {
    // SAFETY: as above; the borrow is handed on. Every pair of bf16 is a float.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;

    #[test]
    fn every_bf16_comes_back_and_rounding_is_that_of_half() {
        for isa in Isa::available() {
            let cpu = Cpu::new(1, isa);
            let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
            let mut wide = vec![0.0_f32; all.len()];
            convert(&cpu, &all, &mut wide);
            let bits = |value: &bf16| Element::to_f32(*value).to_bits();
            assert!(all.iter().zip(&wide).all(|(a, w)| bits(a) == w.to_bits()));
            // Bits below the kept ones: none, just below, at and above a tie.
            for low in [0_u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x: Vec<f32> = wide.iter().map(|w| f32::from_bits(w.to_bits() | low)).collect();
                // An odd length has a partial register at the end.
                let x = &x[..x.len() - 3];
                let mut narrow = vec![bf16::ZERO; x.len()];
                convert(&cpu, x, &mut narrow);
                for (x, narrow) in x.iter().zip(narrow) {
                    assert_eq!(narrow.to_bits(), bf16::from_f32(*x).to_bits(), "{isa}: {x:e}");
                }
            }
        }
    }

    #[test]
    fn memory_is_shared_between_the_views() {
        let mut words = vec![0.0_f32; 3];
        as_bf16_mut(&mut words)[5] = bf16::ONE;
        assert_eq!(as_bf16(&words)[5], bf16::ONE);
        assert_eq!(words[2].to_bits(), 0x3f80_0000);
    }
}

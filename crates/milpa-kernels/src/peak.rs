//! What this machine can do: arithmetic and memory peaks, measured.
//!
//! Both figures are the best of several short runs, so that other work on the machine lowers them
//! little. They are ceilings to hold kernels against, not promises.

use std::hint::black_box;
use std::time::Instant;

use crate::cpu::Cpu;
use crate::gemm::{Multiply, Single};
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::with_avx512_bf16;
use crate::simd::{Simd, dispatch};

/// Measured peaks of a [`Cpu`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Fused multiply-adds in f32, counted as two operations, in 10⁹ per second.
    pub f32_gflops: f64,
    /// The same for products of bf16 with sums in f32; `f32_gflops` where there are no such
    /// instructions.
    pub bf16_gflops: f64,
    /// Sequential reads from memory in 10⁹ bytes per second.
    pub read_gbytes: f64,
}

/// Bytes that the read test goes through: larger than the last-level cache of most machines.
const READ_FLOATS: usize = 64 * 1024 * 1024;
/// Runs of each test; the best counts.
const RUNS: usize = 6;

/// Measures the peaks on all threads of `cpu`; takes about half a second and 256 MiB.
pub fn measure(cpu: &Cpu) -> Peak {
    let f32_gflops = f32_gflops(cpu);
    let bf16_gflops = bf16_gflops(cpu).unwrap_or(f32_gflops);
    Peak { f32_gflops, bf16_gflops, read_gbytes: read_gbytes(cpu) }
}

/// Measures fused multiply-adds in f32 (two operations each), in GFLOP/s.
///
/// Without hardware fusion ([`Isa::Scalar`](crate::Isa)), a multiplication and an addition.
pub fn f32_gflops(cpu: &Cpu) -> f64 {
    dispatch!(cpu.isa(), simd => gflops(cpu, simd, Single))
}

/// Measures products of bf16 pairs with sums in f32 (four operations for each pair), in GFLOP/s;
/// `None` where the machine has no instruction for them.
pub fn bf16_gflops(cpu: &Cpu) -> Option<f64> {
    match cpu.isa() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the `Isa` of a `Cpu` was found on this machine when the `Cpu` was built.
        crate::Isa::Avx512Bf16 => Some(unsafe {
            with_avx512_bf16(
                #[inline(always)]
                |simd, multiply| gflops(cpu, simd, multiply),
            )
        }),
        _ => None,
    }
}

#[inline(always)]
fn gflops<S: Simd, M: Multiply<S>>(cpu: &Cpu, simd: S, multiply: M) -> f64 {
    const STEPS: usize = 1_000_000;
    let operations = cpu.threads() * STEPS * CHAINS * S::LANES * 2 * M::PER_WORD;
    let best = best_seconds(|| {
        cpu.pool().parallel_for(cpu.threads(), |_| {
            black_box(multiply.enter(
                simd,
                #[inline(always)]
                || multiply_add(simd, multiply, black_box(STEPS)),
            ));
        });
    });
    operations as f64 / best / 1e9
}

/// Measures sequential reads from memory, in GB/s.
pub fn read_gbytes(cpu: &Cpu) -> f64 {
    const PART: usize = 256 * 1024;
    let data = vec![1.0_f32; READ_FLOATS];
    let best = best_seconds(|| {
        cpu.pool().parallel_for(READ_FLOATS / PART, |task| {
            let part = &data[task * PART..(task + 1) * PART];
            black_box(dispatch!(cpu.isa(), simd => add_up(simd, part)));
        });
    });
    (READ_FLOATS * size_of::<f32>()) as f64 / best / 1e9
}

fn best_seconds(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}

/// Independent chains: more than latency times ports of current cores, within 16 registers.
const CHAINS: usize = 12;

#[inline(always)]
fn multiply_add<S: Simd, M: Multiply<S>>(simd: S, multiply: M, steps: usize) -> f32 {
    let (a, b) = (simd.splat(black_box(0.999_9)), simd.splat(black_box(1e-4)));
    let mut chains = [simd.splat(1.0); CHAINS];
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = multiply.step(simd, a, b, *chain);
        }
    }
    let mut sum = simd.zero();
    for chain in chains {
        sum = simd.add(sum, chain);
    }
    simd.sum(sum)
}

#[inline(always)]
fn add_up<S: Simd>(simd: S, data: &[f32]) -> f32 {
    let mut sums = [simd.zero(); 8];
    for block in data.chunks_exact(8 * S::LANES) {
        for (sum, chunk) in sums.iter_mut().zip(block.chunks_exact(S::LANES)) {
            *sum = simd.add(*sum, simd.read(chunk));
        }
    }
    let mut total = simd.zero();
    for sum in sums {
        total = simd.add(total, sum);
    }
    simd.sum(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_positive_and_finite() {
        let peak = measure(&Cpu::detect(1));
        assert!(peak.f32_gflops.is_finite() && peak.f32_gflops > 0.1);
        assert!(peak.bf16_gflops.is_finite() && peak.bf16_gflops > 0.1);
        assert!(peak.read_gbytes.is_finite() && peak.read_gbytes > 0.1);
    }
}

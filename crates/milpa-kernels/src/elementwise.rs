//! Sums, products and reductions over whole slices.
//!
//! Memory-bound, so each is one pass in parallel. Reductions sum fixed parts in double precision and
//! then the parts in order: the same bits on any number of threads.

use crate::cpu::Cpu;
use crate::element::Element;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// Elements of a task, and of a part of a reduction.
const TASK: usize = 32 * 1024;

/// `y += x`.
pub fn add_assign<X: Element>(cpu: &Cpu, y: &mut [f32], x: &[X]) {
    assert_eq!(y.len(), x.len(), "y and x of one length");
    update(
        cpu,
        y,
        |range, y| dispatch!(cpu.isa(), simd => add_scaled_part(simd, y, 1.0, &x[range])),
    );
}

/// `out = a + b`.
pub fn add<B: Element>(cpu: &Cpu, a: &[f32], b: &[B], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len(), "a, b and out of one length");
    update(cpu, out, |range, out| {
        dispatch!(cpu.isa(), simd => add_part(simd, &a[range.clone()], &b[range], out));
    });
}

/// `y += factor · x`.
pub fn add_scaled<X: Element>(cpu: &Cpu, y: &mut [f32], factor: f32, x: &[X]) {
    assert_eq!(y.len(), x.len(), "y and x of one length");
    update(cpu, y, |range, y| {
        dispatch!(cpu.isa(), simd => add_scaled_part(simd, y, factor, &x[range]));
    });
}

/// `x *= factor`.
pub fn scale(cpu: &Cpu, x: &mut [f32], factor: f32) {
    update(cpu, x, |_, x| dispatch!(cpu.isa(), simd => scale_part(simd, x, factor)));
}

/// `out = x`.
pub fn copy<E: Element>(cpu: &Cpu, x: &[E], out: &mut [E]) {
    assert_eq!(x.len(), out.len(), "x and out of one length");
    update(cpu, out, |range, out| out.copy_from_slice(&x[range]));
}

/// `x = value`.
pub fn fill(cpu: &Cpu, x: &mut [f32], value: f32) {
    update(cpu, x, |_, x| x.fill(value));
}

/// `Σ x²`, summed in double precision.
pub fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    dot(cpu, x, x)
}

/// `Σ x`, summed in double precision.
pub fn sum(cpu: &Cpu, x: &[f32]) -> f64 {
    reduce(cpu, x.len(), |range| dispatch!(cpu.isa(), simd => sum_part(simd, &x[range])))
}

/// `Σ x·y`, summed in double precision.
pub fn dot(cpu: &Cpu, x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len(), "x and y of one length");
    reduce(
        cpu,
        x.len(),
        |range| dispatch!(cpu.isa(), simd => dot_part(simd, &x[range.clone()], &y[range])),
    )
}

fn update<E: Element>(
    cpu: &Cpu,
    out: &mut [E],
    task: impl Fn(std::ops::Range<usize>, &mut [E]) + Sync,
) {
    let length = out.len();
    let out = Shares::new(out);
    cpu.pool().for_ranges(length, TASK, |range| {
        // SAFETY: each task has its own range.
        let part = unsafe { out.part(range.clone()) };
        task(range, part);
    });
}

fn reduce(cpu: &Cpu, length: usize, part: impl Fn(std::ops::Range<usize>) -> f64 + Sync) -> f64 {
    let mut parts = vec![0.0; length.div_ceil(TASK)];
    let shares = Shares::new(&mut parts);
    cpu.pool().for_ranges(length, TASK, |range| {
        let index = range.start / TASK;
        // SAFETY: each task has its own part.
        let sum = unsafe { &mut shares.part(index..index + 1)[0] };
        *sum = part(range);
    });
    parts.iter().sum()
}

#[inline(always)]
fn add_part<S: Simd, B: Element>(simd: S, a: &[f32], b: &[B], out: &mut [f32]) {
    let chunks = a.chunks(S::LANES).zip(b.chunks(S::LANES)).zip(out.chunks_mut(S::LANES));
    for ((a, b), out) in chunks {
        simd.write(out, simd.add(simd.read(a), simd.read(b)));
    }
}

#[inline(always)]
fn add_scaled_part<S: Simd, X: Element>(simd: S, y: &mut [f32], factor: f32, x: &[X]) {
    let factor = simd.splat(factor);
    for (y, x) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let sum = simd.fma(simd.read(x), factor, simd.read(y));
        simd.write(y, sum);
    }
}

#[inline(always)]
fn scale_part<S: Simd>(simd: S, x: &mut [f32], factor: f32) {
    let factor = simd.splat(factor);
    for x in x.chunks_mut(S::LANES) {
        let product = simd.mul(simd.read(x), factor);
        simd.write(x, product);
    }
}

/// Sums `x·y` in sixteen interleaved double-precision sums, whatever the lanes. A plain loop that
/// the compiler makes vectors of.
#[inline(always)]
fn dot_part<S: Simd>(_simd: S, x: &[f32], y: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 16];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in x.iter().zip(y) {
        for lane in 0..16 {
            sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    for (sum, (&x, &y)) in sums.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *sum += f64::from(x) * f64::from(y);
    }
    sums.iter().sum()
}

/// As [`dot_part`], of `x` alone.
#[inline(always)]
fn sum_part<S: Simd>(_simd: S, x: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 16];
    let (x, rest) = x.as_chunks::<16>();
    for x in x {
        for lane in 0..16 {
            sums[lane] += f64::from(x[lane]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x);
    }
    sums.iter().sum()
}

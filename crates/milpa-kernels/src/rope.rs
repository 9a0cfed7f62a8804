//! Rotary position embedding in the half-split (`rotate_half`) convention, in place.
//!
//! RoFormer, arXiv:2104.09864, in the layout of Hugging Face Llama. Frequencies are the caller's (a
//! context extension scales them before [`tables`]); it knows nothing of sequences, only of the
//! position of each token.

use crate::cpu::Cpu;
use crate::element::Element;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// Elements of a task.
const TASK: usize = 16 * 1024;

/// Returns the frequency of each pair, `theta^(-2i/rotary_dim)`, `[rotary_dim/2]`.
pub fn inverse_frequencies(rotary_dim: usize, theta: f64) -> Vec<f64> {
    (0..rotary_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / rotary_dim as f64)).collect()
}

/// Returns the cosines and sines of `position · frequency`, each `[positions, frequencies.len()]`.
pub fn tables(frequencies: &[f64], positions: usize) -> (Vec<f32>, Vec<f32>) {
    let angles =
        || (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
    (angles().map(|a| a.cos() as f32).collect(), angles().map(|a| a.sin() as f32).collect())
}

/// Rotates `x[tokens, heads, head_dim]` in place; token `i` stands at `positions[i]`.
///
/// Pair `(i, i + rotary_dim/2)` of each head turns by the angle whose cosine and sine are in row
/// `positions[token]` of the tables, `[max_t, rotary_dim/2]` each; elements from `rotary_dim` on stay
/// (`partial_rotary_factor` of Hugging Face; else `rotary_dim` is `head_dim`).
pub fn rope_forward<E: Element>(
    cpu: &Cpu,
    heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    cos: &[f32],
    sin: &[f32],
    positions: &[u32],
    x: &mut [E],
) {
    rotate(cpu, 1.0, (heads, head_dim, rotary_dim), cos, sin, positions, x);
}

/// Backward of [`rope_forward`]: rotates `dx[tokens, heads, head_dim]` the other way, in place.
pub fn rope_backward<E: Element>(
    cpu: &Cpu,
    heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    cos: &[f32],
    sin: &[f32],
    positions: &[u32],
    dx: &mut [E],
) {
    rotate(cpu, -1.0, (heads, head_dim, rotary_dim), cos, sin, positions, dx);
}

fn rotate<E: Element>(
    cpu: &Cpu,
    direction: f32,
    (heads, head_dim, rotary_dim): (usize, usize, usize),
    cos: &[f32],
    sin: &[f32],
    positions: &[u32],
    x: &mut [E],
) {
    let width = heads * head_dim;
    assert!(rotary_dim > 0 && rotary_dim.is_multiple_of(2), "rotary_dim {rotary_dim} is even");
    assert!(rotary_dim <= head_dim, "{rotary_dim} of {head_dim} elements turn");
    assert_eq!(x.len(), positions.len() * width, "x: [tokens, heads, head_dim]");
    assert_eq!(cos.len(), sin.len(), "tables of one length");
    let half = rotary_dim / 2;
    let rows = cos.len() / half;
    let largest = positions.iter().copied().max().map_or(0, |position| position as usize + 1);
    assert!(largest <= rows, "position {} is beyond a table of {rows}", largest.wrapping_sub(1));
    let x = Shares::new(x);
    cpu.pool().for_ranges(positions.len(), (TASK / width.max(1)).max(1), |tokens| {
        // SAFETY: each task has its own tokens.
        let x = unsafe { x.part(tokens.start * width..tokens.end * width) };
        let positions = &positions[tokens];
        dispatch!(cpu.isa(), simd => {
            for (x, &position) in x.chunks_exact_mut(width).zip(positions) {
                let row = position as usize * half..(position as usize + 1) * half;
                let (cos, sin) = (&cos[row.clone()], &sin[row]);
                for head in x.chunks_exact_mut(head_dim) {
                    rotate_head(simd, direction, cos, sin, &mut head[..rotary_dim]);
                }
            }
        });
    });
}

#[inline(always)]
fn rotate_head<S: Simd, E: Element>(
    simd: S,
    direction: f32,
    cos: &[f32],
    sin: &[f32],
    head: &mut [E],
) {
    let direction = simd.splat(direction);
    let half = cos.len();
    let (first, second) = head.split_at_mut(half);
    let chunk = |at: usize| at..half.min(at + S::LANES);
    // The last vector overlaps the one before where a half is no whole number of vectors, so it is
    // turned first, while its elements are as they were.
    let last = chunk(half.saturating_sub(S::LANES));
    let turned = turn(
        simd,
        (simd.read(&first[last.clone()]), simd.read(&second[last.clone()])),
        simd.read(&cos[last.clone()]),
        simd.mul(simd.read(&sin[last.clone()]), direction),
    );
    for at in (0..last.start).step_by(S::LANES) {
        let (first, second) = (&mut first[chunk(at)], &mut second[chunk(at)]);
        let sin = simd.mul(simd.read(&sin[chunk(at)]), direction);
        let pair = (simd.read(first), simd.read(second));
        let pair = turn(simd, pair, simd.read(&cos[chunk(at)]), sin);
        simd.write(first, pair.0);
        simd.write(second, pair.1);
    }
    simd.write(&mut first[last.clone()], turned.0);
    simd.write(&mut second[last], turned.1);
}

#[inline(always)]
fn turn<S: Simd>(simd: S, (a, b): (S::V, S::V), cos: S::V, sin: S::V) -> (S::V, S::V) {
    (simd.sub(simd.mul(a, cos), simd.mul(b, sin)), simd.fma(b, cos, simd.mul(a, sin)))
}

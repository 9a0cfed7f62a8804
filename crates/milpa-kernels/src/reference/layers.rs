//! Twins of RMSNorm, RoPE, SwiGLU and the embedding, forward and backward.

use super::Real;
use crate::view::Accumulate;

/// `y = x / rms(x) * weight` per row of `dim`, with `rms = sqrt(mean(x²) + eps)`; saves `1 / rms`.
///
/// Root Mean Square Layer Normalization, arXiv:1910.07467.
pub fn rms_norm_forward<T: Real>(
    dim: usize,
    eps: T,
    x: &[T],
    weight: &[T],
    y: &mut [T],
    inverse_rms: &mut [T],
) {
    for (row, inverse) in inverse_rms.iter_mut().enumerate() {
        let range = row * dim..(row + 1) * dim;
        let squares: T = x[range.clone()].iter().map(|&value| value * value).sum();
        *inverse = T::ONE / (squares / T::from_f64(dim as f64) + eps).sqrt();
        for (column, at) in range.enumerate() {
            y[at] = x[at] * *inverse * weight[column];
        }
    }
}

/// Backward of [`rms_norm_forward`]: writes or adds `dx`, adds to `dweight`.
pub fn rms_norm_backward<T: Real>(
    dim: usize,
    x: &[T],
    weight: &[T],
    inverse_rms: &[T],
    dy: &[T],
    dx: &mut [T],
    accumulate_dx: Accumulate,
    dweight: &mut [T],
) {
    for (row, &inverse) in inverse_rms.iter().enumerate() {
        let range = row * dim..(row + 1) * dim;
        let dot: T =
            range.clone().enumerate().map(|(column, at)| dy[at] * weight[column] * x[at]).sum();
        let mean = dot * inverse * inverse / T::from_f64(dim as f64);
        for (column, at) in range.enumerate() {
            let value = inverse * (dy[at] * weight[column] - x[at] * mean);
            dx[at] = if accumulate_dx == Accumulate::Yes { dx[at] + value } else { value };
            dweight[column] += dy[at] * x[at] * inverse;
        }
    }
}

/// Rotates each head in place: pair `(i, i + rotary_dim/2)` of a token at position `p` turns by
/// `p · frequency_i` (the `rotate_half` convention of Hugging Face Llama).
///
/// RoFormer, arXiv:2104.09864. `x` is `[tokens, heads, head_dim]`; tables are
/// `[max_t, rotary_dim/2]`; elements from `rotary_dim` on stay.
pub fn rope_forward<T: Real>(
    heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    cos: &[T],
    sin: &[T],
    positions: &[u32],
    x: &mut [T],
) {
    rotate(heads, head_dim, rotary_dim, cos, sin, positions, x, T::ONE);
}

/// Backward of [`rope_forward`]: the opposite rotation, in place.
pub fn rope_backward<T: Real>(
    heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    cos: &[T],
    sin: &[T],
    positions: &[u32],
    dx: &mut [T],
) {
    rotate(heads, head_dim, rotary_dim, cos, sin, positions, dx, -T::ONE);
}

fn rotate<T: Real>(
    heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    cos: &[T],
    sin: &[T],
    positions: &[u32],
    x: &mut [T],
    direction: T,
) {
    let half = rotary_dim / 2;
    for (token, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            let start = (token * heads + head) * head_dim;
            for i in 0..half {
                let angle = position as usize * half + i;
                let (c, s) = (cos[angle], sin[angle] * direction);
                let (first, second) = (x[start + i], x[start + half + i]);
                x[start + i] = first * c - second * s;
                x[start + half + i] = second * c + first * s;
            }
        }
    }
}

/// `out = silu(gate) · up` with `silu(g) = g / (1 + e⁻ᵍ)`.
///
/// GLU Variants Improve Transformer, arXiv:2002.05202.
pub fn swiglu_forward<T: Real>(gate: &[T], up: &[T], out: &mut [T]) {
    for at in 0..out.len() {
        out[at] = gate[at] * sigmoid(gate[at]) * up[at];
    }
}

/// Backward of [`swiglu_forward`].
pub fn swiglu_backward<T: Real>(gate: &[T], up: &[T], dout: &[T], dgate: &mut [T], dup: &mut [T]) {
    for at in 0..dout.len() {
        let s = sigmoid(gate[at]);
        dup[at] = dout[at] * gate[at] * s;
        dgate[at] = dout[at] * up[at] * s * (T::ONE + gate[at] * (T::ONE - s));
    }
}

fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// Copies row `ids[i]` of `table[vocab, dim]` to row `i` of `out`.
pub fn embedding_forward<T: Real>(dim: usize, table: &[T], ids: &[u32], out: &mut [T]) {
    for (row, &id) in ids.iter().enumerate() {
        let from = id as usize * dim;
        out[row * dim..(row + 1) * dim].copy_from_slice(&table[from..from + dim]);
    }
}

/// Adds row `i` of `dout` to row `ids[i]` of `dtable`, in rising order of `i`.
pub fn embedding_backward<T: Real>(dim: usize, ids: &[u32], dout: &[T], dtable: &mut [T]) {
    for (row, &id) in ids.iter().enumerate() {
        for column in 0..dim {
            dtable[id as usize * dim + column] += dout[row * dim + column];
        }
    }
}

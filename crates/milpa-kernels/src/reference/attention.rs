//! Twins of causal grouped-query attention, forward and backward, one query row at a time.
//!
//! Attention Is All You Need, arXiv:1706.03762; grouped queries, arXiv:2305.13245; the backward
//! through `D = Σ dout·out`, FlashAttention-2, arXiv:2307.08691.

use super::Real;
use crate::attention::{AttentionGrads, AttentionInputs, AttentionShape};
use crate::view::HeadsMut;

/// Twin of [`crate::attention::forward`].
pub fn attention_forward<T: Real>(
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_, T>,
    out: HeadsMut<'_, T>,
    log_sum_exp: &mut [T],
) {
    for_each_query(shape, inputs, |row| {
        let scores: Vec<T> = row.keys().map(|key| row.score(key)).collect();
        let max = scores.iter().copied().fold(scores[0], |a, b| if b > a { b } else { a });
        let sum: T = scores.iter().map(|&score| (score - max).exp()).sum();
        log_sum_exp[row.statistic] = max + sum.ln();
        let start = row.batch * out.batch_stride + row.token * out.token_stride;
        let start = start + row.head * shape.head_dim;
        for d in 0..shape.head_dim {
            let weighted = row.keys().zip(&scores);
            out.data[start + d] = weighted
                .map(|(key, &score)| (score - max).exp() / sum * row.inputs.v.data[row.v(key) + d])
                .sum();
        }
    });
}

/// Twin of [`crate::attention::backward`].
pub fn attention_backward<T: Real>(
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_, T>,
    out: crate::view::Heads<'_, T>,
    log_sum_exp: &[T],
    dout: crate::view::Heads<'_, T>,
    grads: AttentionGrads<'_, T>,
) {
    let AttentionGrads { dq, dk, dv } = grads;
    let dim = shape.head_dim;
    let scale = T::from_f64(f64::from(shape.scale));
    zero(&dq, shape.batch, shape.queries, shape.heads * dim).for_each(|at| dq.data[at] = T::ZERO);
    let keys = shape.past + shape.queries;
    zero(&dk, shape.batch, keys, shape.kv_heads * dim).for_each(|at| dk.data[at] = T::ZERO);
    zero(&dv, shape.batch, keys, shape.kv_heads * dim).for_each(|at| dv.data[at] = T::ZERO);
    for_each_query(shape, inputs, |row| {
        let at = |view: &crate::view::Heads<'_, T>| {
            row.batch * view.batch_stride + row.token * view.token_stride + row.head * dim
        };
        let (o, d_o) = (at(&out), at(&dout));
        let row_dot: T = (0..dim).map(|d| out.data[o + d] * dout.data[d_o + d]).sum();
        for key in row.keys() {
            let p = (row.score(key) - log_sum_exp[row.statistic]).exp();
            let dp: T = (0..dim).map(|d| dout.data[d_o + d] * inputs.v.data[row.v(key) + d]).sum();
            let slope = match shape.soft_cap {
                Some(cap) => {
                    let t = row.score(key) / T::from_f64(f64::from(cap));
                    scale * (T::ONE - t * t)
                }
                None => scale,
            };
            let ds = p * (dp - row_dot) * slope;
            let kv = row.kv_head * dim;
            for d in 0..dim {
                let q_at = row.batch * dq.batch_stride + row.token * dq.token_stride;
                dq.data[q_at + row.head * dim + d] += ds * inputs.k.data[row.k(key) + d];
                let k_at = row.batch * dk.batch_stride + key * dk.token_stride + kv;
                dk.data[k_at + d] += ds * inputs.q.data[row.q() + d];
                let v_at = row.batch * dv.batch_stride + key * dv.token_stride + kv;
                dv.data[v_at + d] += p * dout.data[d_o + d];
            }
        }
    });
}

/// One query: a token of a sequence in one head.
struct Query<'a, T> {
    shape: &'a AttentionShape,
    inputs: &'a AttentionInputs<'a, T>,
    batch: usize,
    token: usize,
    head: usize,
    kv_head: usize,
    /// Index into `[batch, heads, queries]`.
    statistic: usize,
}

impl<T: Real> Query<'_, T> {
    /// The keys that the query sees.
    fn keys(&self) -> std::ops::Range<usize> {
        let row = self.batch * self.shape.queries + self.token;
        let first = self.inputs.first_key.map_or(0, |first_key| first_key[row] as usize);
        let end = self.shape.past + self.token + 1;
        let window = self.shape.window.map_or(0, |window| end.saturating_sub(window));
        first.max(window)..end
    }

    fn q(&self) -> usize {
        let q = &self.inputs.q;
        self.batch * q.batch_stride + self.token * q.token_stride + self.head * self.shape.head_dim
    }

    fn k(&self, key: usize) -> usize {
        let k = &self.inputs.k;
        self.batch * k.batch_stride + key * k.token_stride + self.kv_head * self.shape.head_dim
    }

    fn v(&self, key: usize) -> usize {
        let v = &self.inputs.v;
        self.batch * v.batch_stride + key * v.token_stride + self.kv_head * self.shape.head_dim
    }

    /// The scaled and capped score.
    fn score(&self, key: usize) -> T {
        let (q, k) = (self.q(), self.k(key));
        let terms = 0..self.shape.head_dim;
        let dot: T = terms.map(|d| self.inputs.q.data[q + d] * self.inputs.k.data[k + d]).sum();
        let score = dot * T::from_f64(f64::from(self.shape.scale));
        match self.shape.soft_cap {
            Some(cap) => {
                let cap = T::from_f64(f64::from(cap));
                cap * (score / cap).tanh()
            }
            None => score,
        }
    }
}

fn for_each_query<T: Real>(
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_, T>,
    mut body: impl FnMut(&Query<'_, T>),
) {
    for batch in 0..shape.batch {
        for head in 0..shape.heads {
            for token in 0..shape.queries {
                let kv_head = head / (shape.heads / shape.kv_heads);
                let statistic = (batch * shape.heads + head) * shape.queries + token;
                body(&Query { shape, inputs, batch, token, head, kv_head, statistic });
            }
        }
    }
}

/// Indices of the elements that belong to a view.
fn zero<T>(
    view: &HeadsMut<'_, T>,
    batch: usize,
    tokens: usize,
    width: usize,
) -> impl Iterator<Item = usize> + use<T> {
    let (token_stride, batch_stride) = (view.token_stride, view.batch_stride);
    (0..batch).flat_map(move |b| {
        (0..tokens).flat_map(move |t| {
            let start = b * batch_stride + t * token_stride;
            start..start + width
        })
    })
}

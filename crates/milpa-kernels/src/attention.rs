//! Causal grouped-query attention without a T×T buffer.

use crate::cpu::Cpu;
use crate::reference;
use crate::view::{Heads, HeadsMut};

/// Sizes of an attention; the query of token `t` has position `past + t` among the keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Query tokens per sequence (in training, the sequence length).
    pub queries: usize,
    /// Keys that precede the first query (the filled part of a cache; zero in training).
    /// There are `past + queries` keys.
    pub past: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head, at most 256.
    pub head_dim: usize,
    /// Factor on the scores, usually `1/√head_dim`.
    pub scale: f32,
}

/// What attention reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a, T = f32> {
    /// `[batch, queries, heads, head_dim]`.
    pub q: Heads<'a, T>,
    /// `[batch, past + queries, kv_heads, head_dim]`.
    pub k: Heads<'a, T>,
    /// `[batch, past + queries, kv_heads, head_dim]`.
    pub v: Heads<'a, T>,
    /// `[batch, queries]`: index within the sequence of the first key that each query sees, for
    /// documents packed into one sequence ([`document_starts`]) and for sliding windows. At most
    /// the query's own position. `None`: every query sees from key 0.
    pub first_key: Option<&'a [u32]>,
}

/// Where [`backward`] writes; what these hold before is not read.
#[derive(Debug)]
pub struct AttentionGrads<'a, T = f32> {
    /// `[batch, queries, heads, head_dim]`.
    pub dq: HeadsMut<'a, T>,
    /// `[batch, past + queries, kv_heads, head_dim]`.
    pub dk: HeadsMut<'a, T>,
    /// `[batch, past + queries, kv_heads, head_dim]`.
    pub dv: HeadsMut<'a, T>,
}

/// Computes `out = softmax(scale · q·kᵀ) · v` over the keys that each query sees.
///
/// Writes `out[batch, queries, heads, head_dim]` and the log-sum-exp of the scaled scores,
/// `log_sum_exp[batch, heads, queries]`. With `past > 0` this is decoding against a cache.
pub fn forward(
    _cpu: &Cpu,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_>,
    out: HeadsMut<'_>,
    log_sum_exp: &mut [f32],
) {
    reference::attention_forward(shape, inputs, out, log_sum_exp);
}

/// Computes the gradients of [`forward`] from its output, its log-sum-exp and `dout`.
pub fn backward(
    _cpu: &Cpu,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_>,
    out: Heads<'_>,
    log_sum_exp: &[f32],
    dout: Heads<'_>,
    grads: AttentionGrads<'_>,
) {
    reference::attention_backward(shape, inputs, out, log_sum_exp, dout, grads);
}

/// Turns document ids `[batch, tokens]` into the first key of each query: the index within its
/// sequence where the run of equal ids that holds the token begins.
pub fn document_starts(ids: &[u32], tokens: usize, first_key: &mut [u32]) {
    assert_eq!(ids.len(), first_key.len(), "one start for each token");
    assert!(tokens > 0 && ids.len().is_multiple_of(tokens), "whole sequences of {tokens} tokens");
    for (ids, starts) in ids.chunks_exact(tokens).zip(first_key.chunks_exact_mut(tokens)) {
        let mut start = 0;
        for token in 0..tokens {
            if token > 0 && ids[token] != ids[token - 1] {
                start = token as u32;
            }
            starts[token] = start;
        }
    }
}

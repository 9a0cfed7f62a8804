//! Causal grouped-query attention without a T×T buffer, forward, backward and for decoding.
//!
//! Scores exist as tiles of a few queries against a few keys; the softmax is kept online and the
//! backward recomputes the tiles from the log-sum-exp. A task owns a key head of a sequence with all
//! of its query heads, so nothing is added across tasks. It knows nothing of positions: rotate
//! queries and keys before. Tiles that no query of a block sees, because a document or a sliding
//! window begins after them, are skipped. Factors are f32 or bf16 (`Multiply`); scores, softmax and
//! sums are f32 either way.
//!
//! FlashAttention-2, arXiv:2307.08691; grouped queries, arXiv:2305.13245; sliding windows, Mistral
//! 7B, arXiv:2310.06825; soft-capped scores, Gemma 2, arXiv:2408.00118.

use crate::cpu::Cpu;
use crate::element::Element;
use crate::gemm::{
    Ahead, DOT_TILE, Multiply, Single, Tile, dot_tile, multiply_small, pack_columns, pack_rows,
};
use crate::gemm_bf16::dispatch_bf16;
use crate::pool::Shares;
use crate::scratch::with_scratch;
use crate::simd::{Simd, dispatch};
use crate::soft_cap::{cap_row, tanh_slope};
use crate::view::{Heads, HeadsMut, Mat};
use half::bf16;

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
    /// Keys that a query sees at most, its own and those right before it; `None`: all.
    pub window: Option<usize>,
    /// Bound `c` of the scaled scores: they become `c · tanh(score / c)`. `None`: as they are.
    pub soft_cap: Option<f32>,
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
    /// documents packed into one sequence ([`document_starts`]). At most the query's own position.
    /// `None`: every query sees from key 0. A window narrows it further.
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
/// Writes `out[batch, queries, heads, head_dim]` and the log-sum-exp of the scaled (and capped) scores,
/// `log_sum_exp[batch, heads, queries]`. With `past > 0` this is decoding against a cache.
pub fn forward(
    cpu: &Cpu,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_>,
    out: HeadsMut<'_>,
    log_sum_exp: &mut [f32],
) {
    let output = Output::new(shape, inputs, out, log_sum_exp);
    dispatch!(cpu.isa(), simd => {
        if shape.queries < FEW_QUERIES {
            run_decode(simd, cpu, shape, inputs, &output);
        } else {
            run_forward(simd, Single, cpu, shape, inputs, &output);
        }
    });
}

/// As [`forward`], with products of bf16 and sums in f32; the head's size is even.
pub fn forward_bf16(
    cpu: &Cpu,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_, bf16>,
    out: HeadsMut<'_, bf16>,
    log_sum_exp: &mut [f32],
) {
    shape.check_even();
    let output = Output::new(shape, inputs, out, log_sum_exp);
    dispatch_bf16!(cpu.isa(), (simd, multiply) => {
        run_forward(simd, multiply, cpu, shape, inputs, &output);
    });
}

/// Computes the gradients of [`forward`] from its output, its log-sum-exp and `dout`.
pub fn backward(
    cpu: &Cpu,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_>,
    out: Heads<'_>,
    log_sum_exp: &[f32],
    dout: Heads<'_>,
    grads: AttentionGrads<'_>,
) {
    let job = Backward::new(shape, inputs, out, log_sum_exp, dout, grads);
    dispatch!(cpu.isa(), simd => run_backward(simd, Single, cpu, &job));
}

/// As [`backward`] for [`forward_bf16`].
pub fn backward_bf16(
    cpu: &Cpu,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_, bf16>,
    out: Heads<'_, bf16>,
    log_sum_exp: &[f32],
    dout: Heads<'_, bf16>,
    grads: AttentionGrads<'_, bf16>,
) {
    shape.check_even();
    let job = Backward::new(shape, inputs, out, log_sum_exp, dout, grads);
    dispatch_bf16!(cpu.isa(), (simd, multiply) => run_backward(simd, multiply, cpu, &job));
}

impl AttentionShape {
    fn keys(&self) -> usize {
        self.past + self.queries
    }

    #[track_caller]
    fn check_even(&self) {
        assert!(self.head_dim.is_multiple_of(2), "bf16 heads of {} are not pairs", self.head_dim);
    }

    #[track_caller]
    fn check<E: Element>(&self, inputs: &AttentionInputs<'_, E>) {
        let kv_width = self.kv_heads * self.head_dim;
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{} query heads are not a multiple of {} key heads",
            self.heads,
            self.kv_heads
        );
        assert!((1..=256).contains(&self.head_dim), "head_dim {} is not 1..=256", self.head_dim);
        assert!(self.scale > 0.0 && self.scale.is_finite(), "the scale is positive");
        assert!(self.window != Some(0), "a window holds at least the query's own key");
        let capped = self.soft_cap.is_none_or(|cap| cap > 0.0 && cap.is_finite());
        assert!(capped, "the soft cap is positive");
        inputs.q.check("q", self.batch, self.queries, self.heads * self.head_dim);
        inputs.k.check("k", self.batch, self.keys(), kv_width);
        inputs.v.check("v", self.batch, self.keys(), kv_width);
        if let Some(first_key) = inputs.first_key {
            assert_eq!(first_key.len(), self.batch * self.queries, "first_key: [batch, queries]");
            for sequence in first_key.chunks_exact(self.queries.max(1)) {
                for (token, &first) in sequence.iter().enumerate() {
                    let own = self.past + token;
                    assert!(first as usize <= own, "first_key {first} is after its query {own}");
                }
            }
        }
    }

    /// The keys that a query sees.
    #[inline(always)]
    fn visible(&self, first_key: Option<&[u32]>, batch: usize, token: usize) -> (usize, usize) {
        let end = self.past + token + 1;
        let first = first_key.map_or(0, |first_key| first_key[batch * self.queries + token]);
        let window = self.window.map_or(0, |window| end.saturating_sub(window));
        (window.max(first as usize), end)
    }

    /// Bounds raw scores if there is a cap; returns the factor that they still need.
    #[inline(always)]
    fn cap<S: Simd>(&self, simd: S, scores: &mut [f32]) -> f32 {
        match self.soft_cap {
            Some(cap) => {
                cap_row(simd, scores, self.scale, cap);
                1.0
            }
            None => self.scale,
        }
    }

    /// The keys that some query of a block sees; the beginning is aligned down to a vector.
    #[inline(always)]
    fn block_keys(
        &self,
        first_key: Option<&[u32]>,
        batch: usize,
        (start, end): (usize, usize),
    ) -> (usize, usize) {
        let firsts = (start..end).map(|token| self.visible(first_key, batch, token).0);
        let all = first_key.is_none() && self.window.is_none();
        let first = if all { 0 } else { firsts.min().unwrap_or(0) };
        (first / 16 * 16, self.past + end)
    }
}

/// Queries of a tile of scores.
const QUERY_BLOCK: usize = 32;
/// Keys of a tile of scores: with 32 queries, 32 KiB: most of a first-level cache.
const KEY_BLOCK: usize = 256;
/// Queries of a task of the forward pass; each packs the keys that it needs.
const TASK_QUERIES: usize = 512;
/// Fewer queries than this are decoding: keys are read once, in place.
const FEW_QUERIES: usize = 8;

/// Where the forward pass writes.
struct Output<'a, E> {
    out: Target<'a, E>,
    log_sum_exp: Shares<'a, f32>,
}

impl<'a, E: Element> Output<'a, E> {
    #[track_caller]
    fn new(
        shape: &AttentionShape,
        inputs: &AttentionInputs<'_, E>,
        out: HeadsMut<'a, E>,
        log_sum_exp: &'a mut [f32],
    ) -> Self {
        shape.check(inputs);
        out.check("out", shape.batch, shape.queries, shape.heads * shape.head_dim);
        let statistics = shape.batch * shape.heads * shape.queries;
        assert_eq!(log_sum_exp.len(), statistics, "log_sum_exp: [batch, heads, queries]");
        Self { out: Target::new(out), log_sum_exp: Shares::new(log_sum_exp) }
    }

    /// Writes a row as `sums · factor` with its log-sum-exp.
    ///
    /// # Safety
    /// Only this task writes the head of this token.
    #[inline(always)]
    unsafe fn write<S: Simd>(
        &self,
        simd: S,
        shape: &AttentionShape,
        (batch, token, head): (usize, usize, usize),
        sums: &[f32],
        (total, largest): (f32, f32),
    ) {
        let statistic = (batch * shape.heads + head) * shape.queries + token;
        // SAFETY: the views were checked for this token and head; by the contract nobody else
        // writes them.
        unsafe {
            self.log_sum_exp.part(statistic..statistic + 1)[0] = largest + total.ln();
            let out = self.out.row(batch, token, head * shape.head_dim, shape.head_dim);
            let factor = simd.splat(1.0 / total);
            for (out, sums) in out.chunks_mut(S::LANES).zip(sums.chunks(S::LANES)) {
                simd.write(out, simd.mul(simd.read(sums), factor));
            }
        }
    }
}

/// Rows of heads that tasks write.
struct Target<'a, E> {
    data: Shares<'a, E>,
    token_stride: usize,
    batch_stride: usize,
}

impl<'a, E: Element> Target<'a, E> {
    fn new(view: HeadsMut<'a, E>) -> Self {
        let (token_stride, batch_stride) = (view.token_stride, view.batch_stride);
        Self { data: Shares::new(view.data), token_stride, batch_stride }
    }

    fn at(&self, batch: usize, token: usize, column: usize) -> *mut E {
        let at = batch * self.batch_stride + token * self.token_stride + column;
        self.data.pointer().wrapping_add(at)
    }

    /// # Safety
    /// The view holds `width` elements from this column on, and only this task touches them.
    #[inline(always)]
    unsafe fn row(&self, batch: usize, token: usize, column: usize, width: usize) -> &'a mut [E] {
        // SAFETY: passed on.
        unsafe { std::slice::from_raw_parts_mut(self.at(batch, token, column), width) }
    }
}

/// Views the rows of a head from one token of a sequence on.
#[inline(always)]
fn rows_of<E>(view: Heads<'_, E>, (batch, token, column): (usize, usize, usize)) -> Mat<'_, E> {
    let at = batch * view.batch_stride + token * view.token_stride + column;
    Mat::new(&view.data[at..], view.token_stride)
}

/// Scratch memory that is taken part by part.
struct Scratch<'a>(&'a mut [f32]);

impl<'a> Scratch<'a> {
    fn take(&mut self, length: usize) -> &'a mut [f32] {
        let (part, rest) = std::mem::take(&mut self.0).split_at_mut(length);
        self.0 = rest;
        part
    }
}

/// Floats between two rows of a packed transpose: an odd number of 64-byte lines, so that rows do
/// not fall into the same cache set.
fn packed_stride(keys: usize) -> usize {
    (keys.div_ceil(16) | 1) * 16
}

#[inline(always)]
fn run_decode<S: Simd>(
    simd: S,
    cpu: &Cpu,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_>,
    output: &Output<'_, f32>,
) {
    let rows = shape.heads / shape.kv_heads * shape.queries;
    cpu.pool().parallel_for(shape.batch * shape.kv_heads, |pair| {
        with_scratch(rows * packed_stride(shape.keys()), |scores| {
            simd.enter(
                #[inline(always)]
                || decode(simd, shape, inputs, output, pair, scores),
            );
        });
    });
}

#[inline(always)]
fn run_forward<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    cpu: &Cpu,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_, M::Element>,
    output: &Output<'_, M::Element>,
) {
    let pairs = shape.batch * shape.kv_heads;
    let chunks = shape.queries.div_ceil(TASK_QUERIES);
    let row = shape.head_dim.next_multiple_of(S::LANES);
    cpu.pool().parallel_for(pairs * chunks, |task| {
        // The last queries see the most keys: begin with them.
        let chunk = chunks - 1 - task / pairs;
        let start = chunk * TASK_QUERIES;
        let queries = (start, shape.queries.min(start + TASK_QUERIES));
        let pair = task % pairs;
        let (first, end) = shape.block_keys(inputs.first_key, pair / shape.kv_heads, queries);
        // Transposed keys, values where they are packed, scores, probabilities, sums.
        let words = shape.head_dim.div_ceil(M::PER_WORD) * packed_stride(end - first)
            + (end - first).div_ceil(M::PER_WORD) * row
            + 2 * QUERY_BLOCK * KEY_BLOCK
            + QUERY_BLOCK * row;
        with_scratch(words, |scratch| {
            multiply.enter(
                simd,
                #[inline(always)]
                || forward_chunk(simd, multiply, shape, inputs, output, pair, queries, scratch),
            );
        });
    });
}

/// All query heads of one key head, for a chunk of the queries.
#[inline(always)]
fn forward_chunk<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_, M::Element>,
    output: &Output<'_, M::Element>,
    pair: usize,
    queries: (usize, usize),
    scratch: &mut [f32],
) {
    let mut scratch = Scratch(scratch);
    let (batch, kv_head) = (pair / shape.kv_heads, pair % shape.kv_heads);
    let group = shape.heads / shape.kv_heads;
    let dim = shape.head_dim;
    let dim_words = dim.div_ceil(M::PER_WORD);
    let (first, end) = shape.block_keys(inputs.first_key, batch, queries);
    let stride = packed_stride(end - first);
    let row_words = dim.next_multiple_of(S::LANES);
    let keys_t = scratch.take(dim_words * stride);
    let k_rows = rows_of(inputs.k, (batch, 0, kv_head * dim));
    pack_columns(simd, multiply, k_rows, (0, dim), (first, end), stride, keys_t);
    let values = scratch.take((end - first).div_ceil(M::PER_WORD) * row_words);
    let v_rows = rows_of(inputs.v, (batch, 0, kv_head * dim));
    pack_rows(simd, multiply, v_rows, (first, end - first), (0, dim), row_words, values);
    let scores = scratch.take(QUERY_BLOCK * KEY_BLOCK);
    let probabilities = scratch.take(QUERY_BLOCK * KEY_BLOCK);
    let out = scratch.take(QUERY_BLOCK * row_words);
    for head in kv_head * group..(kv_head + 1) * group {
        for start in (queries.0..queries.1).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(queries.1 - start);
            let block_keys = shape.block_keys(inputs.first_key, batch, (start, start + rows));
            let mut largest = [f32::NEG_INFINITY; QUERY_BLOCK];
            let mut sums = [0.0_f32; QUERY_BLOCK];
            let q = rows_of(inputs.q, (batch, start, head * dim));
            for key in (block_keys.0..block_keys.1).step_by(KEY_BLOCK) {
                let keys = KEY_BLOCK.min(block_keys.1 - key);
                let width = keys.next_multiple_of(S::LANES);
                let tile = Tile {
                    depth: dim_words,
                    a: q.data.as_ptr(),
                    a_stride: q.stride,
                    b: keys_t[key - first..].as_ptr(),
                    b_stride: stride,
                    c: scores.as_mut_ptr(),
                    c_stride: KEY_BLOCK,
                    add: false,
                    ahead: Ahead::NONE,
                };
                // SAFETY: the views were checked for these tokens and heads; `scores` holds a whole
                // tile, `keys_t` was packed above from `first`.
                unsafe { multiply_small::<S, M, f32, false>(simd, multiply, rows, keys, &tile) };
                for row in 0..rows {
                    let scores = &mut scores[row * KEY_BLOCK..][..width];
                    let scale = shape.cap(simd, scores);
                    let visible = shape.visible(inputs.first_key, batch, start + row);
                    hide(scores, visible, key, width);
                    let before = largest[row];
                    let sum = exponentiate(simd, scores, scale, &mut largest[row]);
                    let factor = if before == f32::NEG_INFINITY {
                        0.0
                    } else {
                        (before - largest[row]).exp()
                    };
                    sums[row] = sums[row] * factor + sum;
                    if key > block_keys.0 && factor != 1.0 {
                        multiply_row(simd, &mut out[row * row_words..][..dim], factor);
                    }
                }
                let tile = Tile {
                    depth: keys.div_ceil(M::PER_WORD),
                    a: as_elements(simd, multiply, rows, width, scores, probabilities),
                    a_stride: KEY_BLOCK,
                    b: values[(key - first) / M::PER_WORD * row_words..].as_ptr(),
                    b_stride: row_words,
                    c: out.as_mut_ptr(),
                    c_stride: row_words,
                    add: key > block_keys.0,
                    ahead: Ahead::NONE,
                };
                // SAFETY: probabilities are there for these rows and keys, zero up to the next
                // vector; values were packed from `first` on, and blocks begin at even keys.
                unsafe { multiply_small::<S, M, f32, false>(simd, multiply, rows, dim, &tile) };
            }
            for row in 0..rows {
                let sums_of = &out[row * row_words..][..dim];
                // SAFETY: only this task writes this head of this sequence's chunk.
                unsafe {
                    let place = (batch, start + row, head);
                    output.write(simd, shape, place, sums_of, (sums[row], largest[row]));
                }
            }
        }
    }
}

/// Rows of a tile as factors of a product: in place where they are f32, else rounded to `to`, which
/// has room for as many floats. Rows are `KEY_BLOCK` elements apart either way.
#[inline(always)]
fn as_elements<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    rows: usize,
    width: usize,
    from: &[f32],
    to: &mut [f32],
) -> *const M::Element {
    if M::PER_WORD == 1 {
        return from.as_ptr().cast();
    }
    let to = multiply.elements(to);
    for (from, to) in from.chunks(KEY_BLOCK).zip(to.chunks_mut(KEY_BLOCK)).take(rows) {
        let chunks = from[..width].chunks(S::LANES).zip(to[..width].chunks_mut(S::LANES));
        for (from, to) in chunks {
            simd.write(to, simd.read(from));
        }
    }
    to.as_ptr()
}

/// One key head and its query heads for few queries: keys and values are read once, in place.
#[inline(always)]
fn decode<S: Simd>(
    simd: S,
    shape: &AttentionShape,
    inputs: &AttentionInputs<'_>,
    output: &Output<'_, f32>,
    pair: usize,
    scores: &mut [f32],
) {
    let (batch, kv_head) = (pair / shape.kv_heads, pair % shape.kv_heads);
    let group = shape.heads / shape.kv_heads;
    let dim = shape.head_dim;
    let (first, end) = shape.block_keys(inputs.first_key, batch, (0, shape.queries));
    let stride = packed_stride(shape.keys());
    let k_start = batch * inputs.k.batch_stride + kv_head * dim;
    let keys = Mat::new(&inputs.k.data[k_start..], inputs.k.token_stride);
    let q_start = batch * inputs.q.batch_stride + kv_head * group * dim;
    let mut dots = [0.0; DOT_TILE * DOT_TILE];
    let mut key = first;
    while key < end {
        let key_count = if end - key >= DOT_TILE { DOT_TILE } else { 1 };
        let key_rows = keys.rows_from(key, key_count, dim);
        for token in 0..shape.queries {
            // The heads of a token lie `dim` apart.
            let heads = Mat::new(&inputs.q.data[q_start + token * inputs.q.token_stride..], dim);
            let mut head = 0;
            while head < group {
                let head_count = if group - head >= DOT_TILE { DOT_TILE } else { 1 };
                let q_rows = heads.rows_from(head, head_count, dim);
                dot_tile(simd, dim, (key_rows, key_count), (q_rows, head_count), &mut dots);
                for i in 0..key_count {
                    for j in 0..head_count {
                        let row = (token * group + head + j) * stride;
                        scores[row + key + i - first] = dots[i * head_count + j];
                    }
                }
                head += head_count;
            }
        }
        key += key_count;
    }
    let v_start = batch * inputs.v.batch_stride + first * inputs.v.token_stride + kv_head * dim;
    let width = (end - first).next_multiple_of(S::LANES);
    for token in 0..shape.queries {
        let mut sums = [0.0_f32; MOST_GROUP];
        for start in (0..group).step_by(MOST_GROUP) {
            let heads = MOST_GROUP.min(group - start);
            let base = token * group + start;
            for i in 0..heads {
                let scores = &mut scores[(base + i) * stride..][..width];
                let visible = shape.visible(inputs.first_key, batch, token);
                let scale = shape.cap(simd, scores);
                hide(scores, visible, first, width);
                let mut largest = f32::NEG_INFINITY;
                sums[i] = exponentiate(simd, scores, scale, &mut largest);
                let head = kv_head * group + start + i;
                let statistic = (batch * shape.heads + head) * shape.queries + token;
                // SAFETY: each statistic belongs to one task.
                unsafe {
                    output.log_sum_exp.part(statistic..statistic + 1)[0] = largest + sums[i].ln();
                }
            }
            let head = kv_head * group + start;
            // SAFETY: the views were checked for these tokens and heads; heads of a token lie
            // `dim` apart in the output, and only this task writes them.
            unsafe {
                let tile = Tile {
                    depth: end - first,
                    a: scores.as_ptr().add(base * stride),
                    a_stride: stride,
                    b: inputs.v.data.as_ptr().add(v_start),
                    b_stride: inputs.v.token_stride,
                    c: output.out.at(batch, token, head * dim),
                    c_stride: dim,
                    add: false,
                    ahead: Ahead::NONE,
                };
                multiply_small::<S, Single, f32, false>(simd, Single, heads, dim, &tile);
                for i in 0..heads {
                    let out = output.out.row(batch, token, (head + i) * dim, dim);
                    multiply_row(simd, out, 1.0 / sums[i]);
                }
            }
        }
    }
}

/// Query heads that decoding treats together.
const MOST_GROUP: usize = 8;

/// Puts −∞ where a row of scores (keys `key..key + width`) lies outside of what its query sees.
#[inline(always)]
fn hide(scores: &mut [f32], (first, end): (usize, usize), key: usize, width: usize) {
    let from = first.saturating_sub(key).min(width);
    let to = end.saturating_sub(key).clamp(from, width);
    scores[..from].fill(f32::NEG_INFINITY);
    scores[to..width].fill(f32::NEG_INFINITY);
}

/// Replaces scores by `exp(scale · score − m)`, `m` being the larger of `largest` and the scaled
/// scores; returns their sum and updates `largest`. The length is a multiple of the lanes.
#[inline(always)]
fn exponentiate<S: Simd>(simd: S, scores: &mut [f32], scale: f32, largest: &mut f32) -> f32 {
    let mut most = [simd.splat(f32::NEG_INFINITY); 2];
    for pair in scores.chunks(2 * S::LANES) {
        for (most, chunk) in most.iter_mut().zip(pair.chunks_exact(S::LANES)) {
            *most = simd.max(*most, simd.read(chunk));
        }
    }
    let most = simd.largest(simd.max(most[0], most[1])) * scale;
    *largest = if most > *largest { most } else { *largest };
    if *largest == f32::NEG_INFINITY {
        // The row sees nothing in this tile, and saw nothing before.
        scores.fill(0.0);
        return 0.0;
    }
    let (scale, shift) = (simd.splat(scale), simd.splat(-*largest));
    let mut sum = simd.zero();
    for chunk in scores.chunks_exact_mut(S::LANES) {
        let value = simd.exp(simd.fma(simd.read(chunk), scale, shift));
        sum = simd.add(sum, value);
        simd.write(chunk, value);
    }
    simd.sum(sum)
}

#[inline(always)]
fn multiply_row<S: Simd>(simd: S, row: &mut [f32], factor: f32) {
    let factor = simd.splat(factor);
    for chunk in row.chunks_mut(S::LANES) {
        let value = simd.mul(simd.read(chunk), factor);
        simd.write(chunk, value);
    }
}

/// What the backward pass reads and writes.
struct Backward<'a, E> {
    shape: &'a AttentionShape,
    inputs: &'a AttentionInputs<'a, E>,
    out: Heads<'a, E>,
    dout: Heads<'a, E>,
    log_sum_exp: &'a [f32],
    dq: Target<'a, E>,
    dk: Target<'a, E>,
    dv: Target<'a, E>,
}

impl<'a, E: Element> Backward<'a, E> {
    #[track_caller]
    fn new(
        shape: &'a AttentionShape,
        inputs: &'a AttentionInputs<'a, E>,
        out: Heads<'a, E>,
        log_sum_exp: &'a [f32],
        dout: Heads<'a, E>,
        grads: AttentionGrads<'a, E>,
    ) -> Self {
        shape.check(inputs);
        let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        out.check("out", shape.batch, shape.queries, width);
        dout.check("dout", shape.batch, shape.queries, width);
        grads.dq.check("dq", shape.batch, shape.queries, width);
        grads.dk.check("dk", shape.batch, shape.keys(), kv_width);
        grads.dv.check("dv", shape.batch, shape.keys(), kv_width);
        let statistics = shape.batch * shape.heads * shape.queries;
        assert_eq!(log_sum_exp.len(), statistics, "log_sum_exp: [batch, heads, queries]");
        let (dq, dk, dv) = (Target::new(grads.dq), Target::new(grads.dk), Target::new(grads.dv));
        Self { shape, inputs, out, dout, log_sum_exp, dq, dk, dv }
    }
}

#[inline(always)]
fn run_backward<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    cpu: &Cpu,
    job: &Backward<'_, M::Element>,
) {
    let shape = job.shape;
    let row = shape.head_dim.next_multiple_of(S::LANES);
    let pair_rows = |rows: usize| rows.div_ceil(M::PER_WORD) * row;
    // As `backward_pair` takes them: transposed keys and values, keys, sums of dk and dv, queries
    // and dout of a block, sums of dq; scores and their gradients, as factors, and in pairs of rows.
    let words = 2 * shape.head_dim.div_ceil(M::PER_WORD) * packed_stride(shape.keys())
        + pair_rows(shape.keys())
        + 2 * shape.keys() * row
        + 2 * pair_rows(QUERY_BLOCK)
        + QUERY_BLOCK * row
        + 5 * QUERY_BLOCK * KEY_BLOCK;
    cpu.pool().parallel_for(shape.batch * shape.kv_heads, |pair| {
        with_scratch(words, |scratch| {
            multiply.enter(
                simd,
                #[inline(always)]
                || backward_pair(simd, multiply, job, pair, scratch),
            );
        });
    });
}

/// The gradients of one key head, through all of its query heads.
#[inline(always)]
fn backward_pair<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    job: &Backward<'_, M::Element>,
    pair: usize,
    scratch: &mut [f32],
) {
    let mut scratch = Scratch(scratch);
    let Backward { shape, inputs, .. } = job;
    let (batch, kv_head) = (pair / shape.kv_heads, pair % shape.kv_heads);
    let group = shape.heads / shape.kv_heads;
    let (dim, all_keys) = (shape.head_dim, shape.keys());
    let dim_words = dim.div_ceil(M::PER_WORD);
    let stride = packed_stride(all_keys);
    let row_words = dim.next_multiple_of(S::LANES);
    let pair_rows = |rows: usize| rows.div_ceil(M::PER_WORD) * row_words;
    let k_rows = rows_of(inputs.k, (batch, 0, kv_head * dim));
    let v_rows = rows_of(inputs.v, (batch, 0, kv_head * dim));
    let keys_t = scratch.take(dim_words * stride);
    let values_t = scratch.take(dim_words * stride);
    pack_columns(simd, multiply, k_rows, (0, dim), (0, all_keys), stride, keys_t);
    pack_columns(simd, multiply, v_rows, (0, dim), (0, all_keys), stride, values_t);
    let keys_by_row = scratch.take(pair_rows(all_keys));
    pack_rows(simd, multiply, k_rows, (0, all_keys), (0, dim), row_words, keys_by_row);
    let dk = scratch.take(all_keys * row_words);
    let dv = scratch.take(all_keys * row_words);
    dk.fill(0.0);
    dv.fill(0.0);
    let q_by_row = scratch.take(pair_rows(QUERY_BLOCK));
    let dout_by_row = scratch.take(pair_rows(QUERY_BLOCK));
    let dq = scratch.take(QUERY_BLOCK * row_words);
    let p = scratch.take(QUERY_BLOCK * KEY_BLOCK);
    let ds = scratch.take(QUERY_BLOCK * KEY_BLOCK);
    let factors = scratch.take(QUERY_BLOCK * KEY_BLOCK);
    let p_pairs = scratch.take(QUERY_BLOCK * KEY_BLOCK);
    let ds_pairs = scratch.take(QUERY_BLOCK * KEY_BLOCK);
    for head in kv_head * group..(kv_head + 1) * group {
        for start in (0..shape.queries).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(shape.queries - start);
            let place = (batch, start, head * dim);
            let (q, dout) = (rows_of(inputs.q, place), rows_of(job.dout, place));
            let out = rows_of(job.out, place);
            pack_rows(simd, multiply, q, (0, rows), (0, dim), row_words, q_by_row);
            pack_rows(simd, multiply, dout, (0, rows), (0, dim), row_words, dout_by_row);
            let mut row_dot = [0.0_f32; QUERY_BLOCK];
            for (row, row_dot) in row_dot.iter_mut().enumerate().take(rows) {
                let (out, dout) = (out.rows_from(row, 1, dim), dout.rows_from(row, 1, dim));
                *row_dot = dot(simd, out.data, dout.data);
            }
            let (first, end) = shape.block_keys(inputs.first_key, batch, (start, start + rows));
            for key in (first..end).step_by(KEY_BLOCK) {
                let keys = KEY_BLOCK.min(end - key);
                let width = keys.next_multiple_of(S::LANES);
                let scores = Tile {
                    depth: dim_words,
                    a: q.data.as_ptr(),
                    a_stride: q.stride,
                    b: keys_t[key..].as_ptr(),
                    b_stride: stride,
                    c: p.as_mut_ptr(),
                    c_stride: KEY_BLOCK,
                    add: false,
                    ahead: Ahead::NONE,
                };
                let dp = Tile {
                    a: dout.data.as_ptr(),
                    a_stride: dout.stride,
                    b: values_t[key..].as_ptr(),
                    c: ds.as_mut_ptr(),
                    ..scores
                };
                // SAFETY: the views were checked for these tokens and heads; `p` and `ds` hold whole
                // tiles; the transposes were packed above for all keys.
                unsafe {
                    multiply_small::<S, M, f32, false>(simd, multiply, rows, keys, &scores);
                    multiply_small::<S, M, f32, false>(simd, multiply, rows, keys, &dp);
                }
                let statistic = (batch * shape.heads + head) * shape.queries + start;
                for row in 0..rows {
                    let tile_row = row * KEY_BLOCK..row * KEY_BLOCK + width;
                    let (p, ds) = (&mut p[tile_row.clone()], &mut ds[tile_row]);
                    // A pair may reach beyond the tile's keys.
                    ds[keys..].fill(0.0);
                    let scale = shape.cap(simd, p);
                    hide(p, shape.visible(inputs.first_key, batch, start + row), key, width);
                    if let Some(cap) = shape.soft_cap {
                        // The slope of the cap joins dP − D before P is made of the scores.
                        cap_gradients(simd, p, ds, shape.scale, cap, row_dot[row]);
                    }
                    let lse = job.log_sum_exp[statistic + row];
                    let row_dot = if shape.soft_cap.is_some() { 0.0 } else { row_dot[row] };
                    score_gradients(simd, p, ds, scale, lse, row_dot);
                }
                let depth = rows.div_ceil(M::PER_WORD);
                let (p_words, words_stride) =
                    in_pairs(simd, multiply, (rows, width), p, factors, p_pairs);
                let dv = Tile {
                    depth,
                    a: p_words,
                    a_stride: words_stride,
                    b: dout_by_row.as_ptr(),
                    b_stride: row_words,
                    c: dv[key * row_words..].as_mut_ptr(),
                    c_stride: row_words,
                    add: true,
                    ahead: Ahead::NONE,
                };
                let (ds_words, _) = in_pairs(simd, multiply, (rows, width), ds, factors, ds_pairs);
                let dk = Tile {
                    a: ds_words,
                    b: q_by_row.as_ptr(),
                    c: dk[key * row_words..].as_mut_ptr(),
                    ..dv
                };
                let dq = Tile {
                    depth: keys.div_ceil(M::PER_WORD),
                    // `factors` still holds the rounded score gradients.
                    a: if M::PER_WORD == 1 { ds.as_ptr().cast() } else { factors.as_ptr().cast() },
                    a_stride: KEY_BLOCK,
                    b: keys_by_row[key / M::PER_WORD * row_words..].as_ptr(),
                    b_stride: row_words,
                    c: dq.as_mut_ptr(),
                    c_stride: row_words,
                    add: key > first,
                    ahead: Ahead::NONE,
                };
                // SAFETY: the factors were written above for these rows and keys, with zeros where a
                // pair has no second element; sums have whole rows of `row_words`.
                unsafe {
                    multiply_small::<S, M, f32, true>(simd, multiply, keys, dim, &dv);
                    multiply_small::<S, M, f32, true>(simd, multiply, keys, dim, &dk);
                    multiply_small::<S, M, f32, false>(simd, multiply, rows, dim, &dq);
                }
            }
            // SAFETY: the views were checked; only this task writes these heads of this sequence.
            unsafe { write_rows(simd, &job.dq, (batch, start, head * dim), rows, dim, dq) };
        }
    }
    // SAFETY: as above.
    unsafe {
        write_rows(simd, &job.dk, (batch, 0, kv_head * dim), all_keys, dim, dk);
        write_rows(simd, &job.dv, (batch, 0, kv_head * dim), all_keys, dim, dv);
    }
}

/// The rows of a tile as a factor that is stored by columns, and the words between its steps. In
/// bf16 `factors` receives the rounded rows and `pairs` their pairs.
#[inline(always)]
fn in_pairs<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    (rows, width): (usize, usize),
    from: &[f32],
    factors: &mut [f32],
    pairs: &mut [f32],
) -> (*const M::Element, usize) {
    if M::PER_WORD == 1 {
        return (from.as_ptr().cast(), KEY_BLOCK);
    }
    as_elements(simd, multiply, rows, width, from, factors);
    let rounded = Mat::new(&*multiply.elements(factors), KEY_BLOCK);
    pack_rows(simd, multiply, rounded, (0, rows), (0, width), width, pairs);
    (pairs.as_ptr().cast(), width)
}

/// Copies sums to rows of heads.
///
/// # Safety
/// The target was checked for these rows, and only this task writes them.
#[inline(always)]
unsafe fn write_rows<S: Simd, E: Element>(
    simd: S,
    target: &Target<'_, E>,
    (batch, start, column): (usize, usize, usize),
    rows: usize,
    dim: usize,
    sums: &[f32],
) {
    let row_words = dim.next_multiple_of(S::LANES);
    for (row, sums) in sums.chunks_exact(row_words).enumerate().take(rows) {
        // SAFETY: passed on.
        let out = unsafe { target.row(batch, start + row, column, dim) };
        for (out, sums) in out.chunks_mut(S::LANES).zip(sums.chunks_exact(S::LANES)) {
            simd.write(out, simd.read(sums));
        }
    }
}

#[inline(always)]
fn dot<S: Simd, E: Element>(simd: S, x: &[E], y: &[E]) -> f32 {
    let mut sum = simd.zero();
    for (x, y) in x.chunks(S::LANES).zip(y.chunks(S::LANES)) {
        sum = simd.fma(simd.read(x), simd.read(y), sum);
    }
    simd.sum(sum)
}

/// From scores and `dP` of a row: `P = exp(scale·S − lse)` and `dS = P·(dP − D)·scale`, in place.
#[inline(always)]
fn score_gradients<S: Simd>(
    simd: S,
    p: &mut [f32],
    ds: &mut [f32],
    scale: f32,
    log_sum_exp: f32,
    row_dot: f32,
) {
    let (scale, shift) = (simd.splat(scale), simd.splat(-log_sum_exp));
    let row_dot = simd.splat(row_dot);
    for (p, ds) in p.chunks_exact_mut(S::LANES).zip(ds.chunks_exact_mut(S::LANES)) {
        let probability = simd.exp(simd.fma(simd.read(p), scale, shift));
        let change = simd.sub(simd.read(ds), row_dot);
        simd.write(ds, simd.mul(simd.mul(probability, scale), change));
        simd.write(p, probability);
    }
}

/// `ds = (ds − D) · slope` with the slope `scale · (1 − (p/cap)²)` of a cap at the capped scores `p`.
#[inline(always)]
fn cap_gradients<S: Simd>(simd: S, p: &[f32], ds: &mut [f32], scale: f32, cap: f32, row_dot: f32) {
    let (scale, row_dot) = (simd.splat(scale), simd.splat(row_dot));
    for (p, ds) in p.chunks_exact(S::LANES).zip(ds.chunks_exact_mut(S::LANES)) {
        let slope = simd.mul(tanh_slope(simd, simd.read(p), cap), scale);
        let change = simd.mul(simd.sub(simd.read(ds), row_dot), slope);
        simd.write(ds, change);
    }
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

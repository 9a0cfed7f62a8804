//! Attention: training shapes, document masks, caches, strided views.

use milpa_kernels::attention::{
    self, AttentionGrads, AttentionInputs, AttentionShape, document_starts,
};
use milpa_kernels::{Heads, HeadsMut, bf16, reference};
use proptest::prelude::*;

use crate::common::{Random, check, check_within, doubles};

/// Sums of up to a few hundred probabilities-weighted values below 1, through an exponential that is
/// good to 2·10⁻⁷ and scores that are rounded to 10⁻⁶: 10⁻⁵ leaves a factor of some ten.
const TOLERANCE: (f64, f64) = (2e-5, 2e-5);

/// A case; `pad` is room between tokens, as in a fused QKV buffer.
#[derive(Debug)]
struct Case {
    shape: AttentionShape,
    pad: usize,
    documents: bool,
    /// Factor on queries: large ones make the softmax nearly one-hot.
    sharpness: f32,
}

impl Case {
    fn run(&self) {
        self.run_f32();
        // Nearly one-hot rows have gradients that cancel: rounded factors say nothing about them.
        if self.sharpness <= 3.0 && self.shape.head_dim.is_multiple_of(2) {
            self.run_bf16();
        }
    }

    /// bf16 factors against the twin on the same values: each product sums factors that are off by
    /// at most half an ulp (2⁻⁹), gradients through three such products.
    fn run_bf16(&self) {
        let shape = &self.shape;
        let (keys, dim) = (shape.past + shape.queries, shape.head_dim);
        let (width, kv_width) = (shape.heads * dim, shape.kv_heads * dim);
        let (q_len, kv_len) = (shape.batch * shape.queries * width, shape.batch * keys * kv_width);
        let mut random = Random((keys * 17 + dim * 5 + shape.heads) as u64);
        let mut halves = |length: usize, factor: f32| -> Vec<bf16> {
            random.reals(length).iter().map(|x| bf16::from_f32(x * factor)).collect()
        };
        let (q, k) = (halves(q_len, self.sharpness), halves(kv_len, 1.0));
        let (v, dout) = (halves(kv_len, 1.0), halves(q_len, 1.0));
        let wide = |x: &[bf16]| x.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<f64>>();
        let (q64, k64, v64, dout64) = (wide(&q), wide(&k), wide(&v), wide(&dout));
        let inputs64 = AttentionInputs {
            q: Heads::dense(&q64, shape.queries, shape.heads, dim),
            k: Heads::dense(&k64, keys, shape.kv_heads, dim),
            v: Heads::dense(&v64, keys, shape.kv_heads, dim),
            first_key: None,
        };
        let statistics = shape.batch * shape.heads * shape.queries;
        let (mut out, mut lse) = (vec![0.0; q_len], vec![0.0; statistics]);
        let view = rows(shape.queries, width, &mut out);
        reference::attention_forward(shape, &inputs64, view, &mut lse);
        let (mut dq, mut dk, mut dv) = (vec![0.0; q_len], vec![0.0; kv_len], vec![0.0; kv_len]);
        let grads = AttentionGrads {
            dq: rows(shape.queries, width, &mut dq),
            dk: rows(keys, kv_width, &mut dk),
            dv: rows(keys, kv_width, &mut dv),
        };
        let out_view = Heads::dense(&out, shape.queries, shape.heads, dim);
        let dout_view = Heads::dense(&dout64, shape.queries, shape.heads, dim);
        reference::attention_backward(shape, &inputs64, out_view, &lse, dout_view, grads);
        let expected = [out, lse, dq, dk, dv];
        let allowed = expected.each_ref().map(|values| {
            let largest = values.iter().fold(0.1_f64, |most, value| most.max(value.abs()));
            vec![largest * 2.0_f64.powi(-6); values.len()]
        });
        check_within(&format!("bf16 {self:?}"), &expected, &allowed, |cpu| {
            let inputs = AttentionInputs {
                q: Heads::dense(&q, shape.queries, shape.heads, dim),
                k: Heads::dense(&k, keys, shape.kv_heads, dim),
                v: Heads::dense(&v, keys, shape.kv_heads, dim),
                first_key: None,
            };
            let nans = |length| vec![bf16::NAN; length];
            let (mut out, mut lse) = (nans(q_len), vec![f32::NAN; statistics]);
            let view = rows(shape.queries, width, &mut out);
            attention::forward_bf16(cpu, shape, &inputs, view, &mut lse);
            let (mut dq, mut dk, mut dv) = (nans(q_len), nans(kv_len), nans(kv_len));
            let grads = AttentionGrads {
                dq: rows(shape.queries, width, &mut dq),
                dk: rows(keys, kv_width, &mut dk),
                dv: rows(keys, kv_width, &mut dv),
            };
            let out_view = Heads::dense(&out, shape.queries, shape.heads, dim);
            let dout_view = Heads::dense(&dout, shape.queries, shape.heads, dim);
            attention::backward_bf16(cpu, shape, &inputs, out_view, &lse, dout_view, grads);
            let narrow = |x: &[bf16]| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
            vec![narrow(&out), lse, narrow(&dq), narrow(&dk), narrow(&dv)]
        });
    }

    fn run_f32(&self) {
        let shape = &self.shape;
        let (keys, dim) = (shape.past + shape.queries, shape.head_dim);
        let (q_stride, kv_stride) = (shape.heads * dim + self.pad, shape.kv_heads * dim + self.pad);
        let mut random = Random((keys * 31 + dim * 7 + shape.heads) as u64);
        let q_len = shape.batch * shape.queries * q_stride;
        let kv_len = shape.batch * keys * kv_stride;
        let q: Vec<f32> = random.reals(q_len).iter().map(|q| q * self.sharpness).collect();
        let (k, v, dout) = (random.reals(kv_len), random.reals(kv_len), random.reals(q_len));
        let first: Option<Vec<u32>> = self.documents.then(|| {
            let mut id = 0;
            let mut next = || {
                id += u32::from(random.below(9) == 0);
                id
            };
            let ids: Vec<u32> = (0..shape.batch * keys).map(|_| next()).collect();
            let mut starts = vec![0; ids.len()];
            document_starts(&ids, keys, &mut starts);
            let queries = starts.chunks_exact(keys).flat_map(|starts| &starts[shape.past..]);
            queries.copied().collect()
        });
        let statistics = shape.batch * shape.heads * shape.queries;
        let (q64, k64, v64, dout64) = (doubles(&q), doubles(&k), doubles(&v), doubles(&dout));
        let inputs64 = AttentionInputs {
            q: Heads::strided(&q64, q_stride, shape.queries * q_stride),
            k: Heads::strided(&k64, kv_stride, keys * kv_stride),
            v: Heads::strided(&v64, kv_stride, keys * kv_stride),
            first_key: first.as_deref(),
        };
        let (mut out, mut lse) = (vec![0.0; q_len], vec![0.0; statistics]);
        reference::attention_forward(
            shape,
            &inputs64,
            rows(shape.queries, q_stride, &mut out),
            &mut lse,
        );
        let (mut dq, mut dk, mut dv) = (vec![0.0; q_len], vec![0.0; kv_len], vec![0.0; kv_len]);
        let out_view = Heads::strided(&out, q_stride, shape.queries * q_stride);
        let dout_view = Heads::strided(&dout64, q_stride, shape.queries * q_stride);
        let grads = AttentionGrads {
            dq: rows(shape.queries, q_stride, &mut dq),
            dk: rows(keys, kv_stride, &mut dk),
            dv: rows(keys, kv_stride, &mut dv),
        };
        reference::attention_backward(shape, &inputs64, out_view, &lse, dout_view, grads);

        let expected = [out, lse, dq, dk, dv];
        let scale = f64::from(self.sharpness.max(1.0));
        let tolerance = (TOLERANCE.0 * scale, TOLERANCE.1 * scale);
        check(&format!("{self:?}"), &expected, tolerance, |cpu| {
            let inputs = AttentionInputs {
                q: Heads::strided(&q, q_stride, shape.queries * q_stride),
                k: Heads::strided(&k, kv_stride, keys * kv_stride),
                v: Heads::strided(&v, kv_stride, keys * kv_stride),
                first_key: first.as_deref(),
            };
            // The rows' own elements begin as NaN: nothing old may be read.
            let nans = |length, stride: usize, width| -> Vec<f32> {
                let own = |at: usize| if at % stride < width { f32::NAN } else { 0.0 };
                (0..length).map(own).collect()
            };
            let (q_width, kv_width) = (shape.heads * dim, shape.kv_heads * dim);
            let (mut out, mut lse) = (nans(q_len, q_stride, q_width), vec![f32::NAN; statistics]);
            attention::forward(
                cpu,
                shape,
                &inputs,
                rows(shape.queries, q_stride, &mut out),
                &mut lse,
            );
            let mut dq = nans(q_len, q_stride, q_width);
            let (mut dk, mut dv) =
                (nans(kv_len, kv_stride, kv_width), nans(kv_len, kv_stride, kv_width));
            let grads = AttentionGrads {
                dq: rows(shape.queries, q_stride, &mut dq),
                dk: rows(keys, kv_stride, &mut dk),
                dv: rows(keys, kv_stride, &mut dv),
            };
            let out_view = Heads::strided(&out, q_stride, shape.queries * q_stride);
            let dout_view = Heads::strided(&dout, q_stride, shape.queries * q_stride);
            attention::backward(cpu, shape, &inputs, out_view, &lse, dout_view, grads);
            vec![out, lse, dq, dk, dv]
        });
    }
}

fn rows<T>(tokens: usize, stride: usize, data: &mut [T]) -> HeadsMut<'_, T> {
    HeadsMut::strided(data, stride, tokens * stride)
}

fn shape([batch, queries, past, heads, kv_heads, head_dim]: [usize; 6]) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape {
        batch,
        queries,
        past,
        heads,
        kv_heads,
        head_dim,
        scale,
        window: None,
        soft_cap: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape(
        batch in 1_usize..3, queries in 1_usize..70, past in 0_usize..40, kv_heads in 1_usize..3,
        group in 1_usize..4, head_dim in 1_usize..70, pad in 0_usize..4, documents in any::<bool>(),
        sharp in any::<bool>(), window in prop::option::of(1_usize..60),
        soft_cap in prop::option::of(0.5_f32..50.0),
    ) {
        let shape = shape([batch, queries, past, kv_heads * group, kv_heads, head_dim]);
        let shape = AttentionShape { window, soft_cap, ..shape };
        let sharpness = if sharp { 30.0 } else { 1.0 };
        Case { shape, pad, documents, sharpness }.run();
    }
}

#[test]
fn several_key_blocks_and_large_heads() {
    for (sizes, documents) in [
        ([1, 450, 0, 2, 1, 48], false),
        ([1, 450, 0, 2, 1, 48], true),
        ([2, 33, 400, 4, 2, 64], true),
        ([1, 20, 0, 1, 1, 256], false),
        ([1, 600, 0, 1, 1, 16], false),
    ] {
        Case { shape: shape(sizes), pad: 0, documents, sharpness: 1.0 }.run();
    }
}

#[test]
fn decoding_against_a_cache() {
    for queries in 1..=8 {
        for group in [1, 3, 9] {
            let shape = shape([2, queries, 300, 2 * group, 2, 48]);
            Case { shape, pad: 0, documents: queries % 2 == 0, sharpness: 3.0 }.run();
        }
    }
}

#[test]
fn windows_over_several_key_blocks() {
    for (sizes, window, documents) in [
        ([1, 450, 0, 2, 1, 48], 1, false),
        ([1, 450, 0, 2, 1, 48], 200, true),
        ([2, 900, 0, 2, 2, 20], 64, false),
        ([1, 33, 700, 4, 2, 64], 100, true),
        ([2, 1, 700, 4, 2, 64], 37, false),
        ([1, 5, 300, 4, 1, 256], 9, false),
        ([1, 20, 0, 1, 1, 256], usize::MAX, false),
    ] {
        let shape = AttentionShape { window: Some(window), ..shape(sizes) };
        Case { shape, pad: 0, documents, sharpness: 1.0 }.run();
        let shape = AttentionShape { soft_cap: Some(5.0), ..shape };
        Case { shape, pad: 3, documents, sharpness: 30.0 }.run();
    }
}

#[test]
fn a_window_is_the_same_as_first_keys() {
    let (tokens, dim) = (300, 16);
    let mut random = Random(5);
    let [q, k, v] = [(); 3].map(|()| random.reals(tokens * dim));
    let run = |window, first_key| {
        let cpu = milpa_kernels::Cpu::detect(1);
        let shape = AttentionShape { window, ..shape([1, tokens, 0, 1, 1, dim]) };
        let view = |data| Heads::dense(data, tokens, 1, dim);
        let inputs = AttentionInputs { q: view(&q), k: view(&k), v: view(&v), first_key };
        let (mut out, mut lse) = (vec![0.0; tokens * dim], vec![0.0; tokens]);
        attention::forward(
            &cpu,
            &shape,
            &inputs,
            HeadsMut::dense(&mut out, tokens, 1, dim),
            &mut lse,
        );
        (out, lse)
    };
    let first: Vec<u32> = (0..tokens as u32).map(|token| (token + 1).saturating_sub(70)).collect();
    assert_eq!(run(Some(70), None), run(None, Some(&first)));
    assert_ne!(run(Some(70), None).0, run(Some(69), None).0);
}

#[test]
#[should_panic(expected = "a window holds at least the query's own key")]
fn a_window_of_nothing_is_refused() {
    let cpu = milpa_kernels::Cpu::detect(1);
    let shape = AttentionShape { window: Some(0), ..shape([1, 2, 0, 1, 1, 4]) };
    let data = [0.0; 8];
    let view = Heads::dense(&data, 2, 1, 4);
    let inputs = AttentionInputs { q: view, k: view, v: view, first_key: None };
    let (mut out, mut lse) = ([0.0; 8], [0.0; 2]);
    attention::forward(&cpu, &shape, &inputs, HeadsMut::dense(&mut out, 2, 1, 4), &mut lse);
}

#[test]
fn document_starts_follow_the_ids() {
    let mut starts = [9; 8];
    document_starts(&[7, 7, 3, 3, 5, 5, 5, 7], 4, &mut starts);
    assert_eq!(starts, [0, 0, 2, 2, 0, 0, 0, 3]);
}

#[test]
#[should_panic(expected = "is after its query")]
fn a_first_key_beyond_the_query_is_refused() {
    let cpu = milpa_kernels::Cpu::detect(1);
    let shape = shape([1, 2, 0, 1, 1, 4]);
    let data = [0.0; 8];
    let view = Heads::dense(&data, 2, 1, 4);
    let inputs = AttentionInputs { q: view, k: view, v: view, first_key: Some(&[0, 2]) };
    let (mut out, mut lse) = ([0.0; 8], [0.0; 2]);
    attention::forward(&cpu, &shape, &inputs, HeadsMut::dense(&mut out, 2, 1, 4), &mut lse);
}

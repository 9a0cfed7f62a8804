//! The backward of every twin against central differences of its forward, in double precision.
//!
//! With steps of 10⁻⁵ the differences are good to about 10⁻⁹ of the values involved (truncation h²,
//! rounding 10⁻¹⁶/h); 10⁻⁷ leaves room for second derivatives above one.

use milpa_kernels::attention::{AttentionGrads, AttentionInputs, AttentionShape};
use milpa_kernels::routing::RoutingShape;
use milpa_kernels::{Accumulate, Heads, HeadsMut, Mat, MatMut, Size, reference, rope};

use crate::common::{Random, doubles};

fn random(seed: u64, length: usize) -> Vec<f64> {
    doubles(&Random(seed).reals(length))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Checks `gradients[i]` against differences of `objective` in `inputs[i]`.
#[track_caller]
fn check(inputs: &[Vec<f64>], gradients: &[Vec<f64>], objective: impl Fn(&[Vec<f64>]) -> f64) {
    const STEP: f64 = 1e-5;
    for (which, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), inputs[which].len());
        for (at, &gradient) in gradient.iter().enumerate() {
            let shifted = |step: f64| {
                let mut inputs = inputs.to_vec();
                inputs[which][at] += step;
                objective(&inputs)
            };
            let difference = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
            let error = (gradient - difference).abs();
            assert!(
                error <= 1e-7 * (1.0 + difference.abs()),
                "input {which}[{at}]: gradient {gradient}, differences {difference}"
            );
        }
    }
}

#[test]
fn linear() {
    let (rows, out, inner) = (3, 4, 5);
    let size = Size { m: rows, n: out, k: inner };
    let (x, w, dy) = (random(1, rows * inner), random(2, out * inner), random(3, rows * out));
    let forward = |inputs: &[Vec<f64>]| {
        let mut y = vec![0.0; rows * out];
        let (x, w) = (Mat::new(&inputs[0], inner), Mat::new(&inputs[1], inner));
        reference::matmul_nt(size, x, w, MatMut::new(&mut y, out), Accumulate::No);
        dot(&y, &dy)
    };
    let (mut dx, mut dw) = (vec![0.0; rows * inner], vec![0.0; out * inner]);
    let size = Size { m: rows, n: inner, k: out };
    let (dy_view, dx_view) = (Mat::new(&dy, out), MatMut::new(&mut dx, inner));
    reference::matmul_nn(size, dy_view, Mat::new(&w, inner), dx_view, Accumulate::No);
    let size = Size { m: out, n: inner, k: rows };
    let dw_view = MatMut::new(&mut dw, inner);
    reference::matmul_tn(size, dy_view, Mat::new(&x, inner), dw_view, Accumulate::No);
    check(&[x, w], &[dx, dw], forward);
}

#[test]
fn attention_with_documents_windows_caps_and_past() {
    let documents = Some([0, 0, 2, 2, 0, 1, 1, 3]);
    for (past, first_key, window, soft_cap) in [
        (0, None, None, None),
        (2, None, None, None),
        (0, documents, None, None),
        (0, None, Some(2), None),
        (3, documents, Some(3), Some(0.4)),
        (0, None, None, Some(1.5)),
    ] {
        let shape = AttentionShape {
            batch: 2,
            queries: 4,
            past,
            heads: 4,
            kv_heads: 2,
            head_dim: 3,
            scale: 0.6,
            window,
            soft_cap,
        };
        let keys = past + 4;
        let (q_len, kv_len, statistics) = (2 * 4 * 12, 2 * keys * 6, 2 * 4 * 4);
        let (q, k, v) = (random(1, q_len), random(2, kv_len), random(3, kv_len));
        let dout = random(4, q_len);
        let run = |inputs: &[Vec<f64>]| {
            let inputs = AttentionInputs {
                q: Heads::dense(&inputs[0], 4, 4, 3),
                k: Heads::dense(&inputs[1], keys, 2, 3),
                v: Heads::dense(&inputs[2], keys, 2, 3),
                first_key: first_key.as_ref().map(|starts| &starts[..]),
            };
            let (mut out, mut lse) = (vec![0.0; q_len], vec![0.0; statistics]);
            let out_view = HeadsMut::dense(&mut out, 4, 4, 3);
            reference::attention_forward(&shape, &inputs, out_view, &mut lse);
            let (mut dq, mut dk, mut dv) = (vec![1.0; q_len], vec![1.0; kv_len], vec![1.0; kv_len]);
            let grads = AttentionGrads {
                dq: HeadsMut::dense(&mut dq, 4, 4, 3),
                dk: HeadsMut::dense(&mut dk, keys, 2, 3),
                dv: HeadsMut::dense(&mut dv, keys, 2, 3),
            };
            let (out_view, dout) = (Heads::dense(&out, 4, 4, 3), Heads::dense(&dout, 4, 4, 3));
            reference::attention_backward(&shape, &inputs, out_view, &lse, dout, grads);
            (out, [dq, dk, dv])
        };
        let inputs = [q, k, v];
        let (_, gradients) = run(&inputs);
        check(&inputs, &gradients, |inputs| dot(&run(inputs).0, &dout));
    }
}

#[test]
fn rms_norm() {
    let (rows, dim, eps) = (3, 5, 1e-5);
    let (x, weight, dy) = (random(1, rows * dim), random(2, dim), random(3, rows * dim));
    let forward = |inputs: &[Vec<f64>]| {
        let (mut y, mut inverse) = (vec![0.0; rows * dim], vec![0.0; rows]);
        reference::rms_norm_forward(dim, eps, &inputs[0], &inputs[1], &mut y, &mut inverse);
        (y, inverse)
    };
    let (_, inverse) = forward(&[x.clone(), weight.clone()]);
    let (mut dx, mut dweight) = (vec![0.0; rows * dim], vec![0.0; dim]);
    let no = Accumulate::No;
    reference::rms_norm_backward(dim, &x, &weight, &inverse, &dy, &mut dx, no, &mut dweight);
    check(&[x, weight], &[dx, dweight], |inputs| dot(&forward(inputs).0, &dy));
}

#[test]
fn rotary_positions() {
    let (heads, dim, turning, positions) = (2, 6, 4, [3, 0, 7]);
    let (cos, sin) = rope::tables(&rope::inverse_frequencies(turning, 100.0), 8);
    let (cos, sin) = (doubles(&cos), doubles(&sin));
    let (x, dy) = (random(1, 36), random(2, 36));
    let mut dx = dy.clone();
    reference::rope_backward(heads, dim, turning, &cos, &sin, &positions, &mut dx);
    check(&[x], &[dx], |inputs| {
        let mut y = inputs[0].clone();
        reference::rope_forward(heads, dim, turning, &cos, &sin, &positions, &mut y);
        dot(&y, &dy)
    });
}

#[test]
fn swiglu() {
    let length = 20;
    let gate: Vec<f64> = random(1, length).iter().map(|gate| 6.0 * gate).collect();
    let (up, dout) = (random(2, length), random(3, length));
    let (mut dgate, mut dup) = (vec![0.0; length], vec![0.0; length]);
    reference::swiglu_backward(&gate, &up, &dout, &mut dgate, &mut dup);
    check(&[gate, up], &[dgate, dup], |inputs| {
        let mut out = vec![0.0; length];
        reference::swiglu_forward(&inputs[0], &inputs[1], &mut out);
        dot(&out, &dout)
    });
}

#[test]
fn geglu() {
    let length = 20;
    let gate: Vec<f64> = random(1, length).iter().map(|gate| 4.0 * gate).collect();
    let (up, dout) = (random(2, length), random(3, length));
    let (mut dgate, mut dup) = (vec![0.0; length], vec![0.0; length]);
    reference::geglu_backward(&gate, &up, &dout, &mut dgate, &mut dup);
    check(&[gate, up], &[dgate, dup], |inputs| {
        let mut out = vec![0.0; length];
        reference::geglu_forward(&inputs[0], &inputs[1], &mut out);
        dot(&out, &dout)
    });
}

#[test]
fn bias() {
    let (bias, x, dy) = (random(1, 4), random(2, 12), random(3, 12));
    let mut dbias = vec![0.0; 4];
    reference::bias_backward(&dy, &mut dbias);
    check(&[bias, x], &[dbias, dy.clone()], |inputs| {
        let mut y = inputs[1].clone();
        reference::bias_forward(&inputs[0], &mut y);
        dot(&y, &dy)
    });
}

#[test]
fn magnitude() {
    let (x, values, dy) = (random(1, 12), random(2, 4), random(3, 12));
    let norms: Vec<f64> = random(4, 4).iter().map(|x| x.abs() + 0.5).collect();
    let (mut dx, mut dvalues) = (dy.clone(), vec![0.0; 4]);
    reference::magnitude_backward(&norms, &values, &x, &mut dx, &mut dvalues);
    check(&[x, values], &[dx, dvalues], |inputs| {
        let mut y = vec![0.0; 12];
        reference::magnitude_forward(&norms, &inputs[1], &inputs[0], &mut y);
        dot(&y, &dy)
    });
}

#[test]
fn soft_cap() {
    let x: Vec<f64> = random(1, 20).iter().map(|x| 6.0 * x).collect();
    let (mut y, dy) = (x.clone(), random(2, 20));
    reference::soft_cap_forward(2.5, &mut y);
    let mut dx = dy.clone();
    reference::soft_cap_backward(2.5, &y, &mut dx);
    check(&[x], &[dx], |inputs| {
        let mut y = inputs[0].clone();
        reference::soft_cap_forward(2.5, &mut y);
        dot(&y, &dy)
    });
}

#[test]
fn routing() {
    for normalise in [false, true] {
        let shape = RoutingShape { experts: 5, chosen: 2, normalise };
        let (tokens, dim) = (3, 4);
        let logits: Vec<f64> = random(1, tokens * 5).iter().map(|logit| 3.0 * logit).collect();
        let (rows, dout) = (random(2, tokens * 2 * dim), random(3, tokens * dim));
        let mut ids = vec![0; tokens * 2];
        reference::choose_experts(&shape, &logits, &mut ids);
        let places = [4, 0, 5, 1, 3, 2];
        let run = |logits: &[f64], rows: &[f64]| {
            let (mut weights, mut out) = (vec![0.0; tokens * 2], vec![0.0; tokens * dim]);
            reference::routing_weights_forward(&shape, logits, &ids, &mut weights);
            reference::combine_forward(dim, 2, &places, &weights, rows, &mut out);
            (weights, out)
        };
        let (weights, _) = run(&logits, &rows);
        let (mut drows, mut dweights) = (vec![0.0; rows.len()], vec![0.0; weights.len()]);
        reference::combine_backward(
            dim,
            2,
            &places,
            &weights,
            &rows,
            &dout,
            &mut drows,
            &mut dweights,
        );
        let mut dlogits = vec![0.0; logits.len()];
        reference::routing_weights_backward(&shape, &logits, &ids, &dweights, &mut dlogits);
        check(&[logits, rows], &[dlogits, drows], |inputs| {
            dot(&run(&inputs[0], &inputs[1]).1, &dout)
        });
    }
}

#[test]
fn embedding() {
    let (vocab, dim, ids) = (4, 3, [1, 3, 1, 0, 1]);
    let (table, dout) = (random(1, vocab * dim), random(2, ids.len() * dim));
    let mut dtable = vec![0.0; vocab * dim];
    reference::embedding_backward(dim, &ids, &dout, &mut dtable);
    check(&[table], &[dtable], |inputs| {
        let mut out = vec![0.0; ids.len() * dim];
        reference::embedding_forward(dim, &inputs[0], &ids, &mut out);
        dot(&out, &dout)
    });
}

#[test]
fn cross_entropy() {
    let (vocab, targets) = (7, [2, milpa_kernels::loss::IGNORE, 6]);
    let logits: Vec<f64> = random(1, 21).iter().map(|logit| 3.0 * logit).collect();
    let scale = random(2, 3);
    for coefficient in [0.0, 0.3] {
        let run = |logits: &[f64]| {
            let (mut gradient, mut losses, mut squares) =
                (logits.to_vec(), vec![0.0; 3], vec![0.0; 3]);
            let z_loss = (coefficient != 0.0).then_some((coefficient, &mut squares[..]));
            reference::cross_entropy(vocab, &mut gradient, &targets, &scale, &mut losses, z_loss);
            (gradient, dot(&losses, &scale) + coefficient * dot(&squares, &scale))
        };
        let (gradient, _) = run(&logits);
        check(std::slice::from_ref(&logits), &[gradient], |inputs| run(&inputs[0]).1);
    }
}

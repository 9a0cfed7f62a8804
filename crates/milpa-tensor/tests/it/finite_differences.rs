//! Gradients of every operation against central differences of the scalar twins in f64.

use std::sync::Arc;

use milpa_kernels::{
    Accumulate, Heads, HeadsMut, Mat, MatMut, Size,
    attention::{AttentionInputs, AttentionShape},
    reference, rope,
    routing::RoutingShape,
};
use milpa_tensor::{
    AdaptedMatrix, AttentionOptions, ExpertChanges, IGNORE, LossRows, OutputLayer, RopeTable,
    document_starts,
};

use crate::{Run, assert_close, differentiate, normal};

/// Forward of an operation in double precision.
type Oracle<'a> = dyn Fn(&[Vec<f64>]) -> Vec<Vec<f64>> + 'a;

/// Largest deviation of outputs and of gradients, relative to the largest value. Single precision
/// has an epsilon of 1.2e-7; sums here have at most a few hundred terms.
const OUTPUT_TOLERANCE: f64 = 5e-6;
const GRADIENT_TOLERANCE: f64 = 2e-5;
/// Step of the central differences: their own error is about 1e-10 of the values.
const STEP: f64 = 1e-5;

fn check(name: &str, shapes: &[&[usize]], run: &Run<'_>, oracle: &Oracle<'_>) {
    let inputs: Vec<(Vec<usize>, Vec<f32>)> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| (shape.to_vec(), normal(i as u64 + 1, shape.iter().product())))
        .collect();
    let exact: Vec<Vec<f64>> =
        inputs.iter().map(|(_, values)| values.iter().map(|&v| f64::from(v)).collect()).collect();
    let expected = oracle(&exact);
    let back: Vec<Vec<f32>> =
        expected.iter().enumerate().map(|(i, out)| normal(100 + i as u64, out.len())).collect();
    let outcome = differentiate(2, &inputs, &back, run);
    for (index, (found, expect)) in outcome.outputs.iter().zip(&expected).enumerate() {
        assert_close(&format!("{name} {shapes:?} output {index}"), found, expect, OUTPUT_TOLERANCE);
    }
    let loss = |inputs: &[Vec<f64>]| -> f64 {
        let outputs = oracle(inputs);
        let terms = outputs.iter().zip(&back).flat_map(|(out, back)| out.iter().zip(back));
        terms.map(|(out, &back)| out * f64::from(back)).sum()
    };
    for (index, gradient) in outcome.gradients.iter().enumerate() {
        let mut moved = exact.clone();
        let numeric: Vec<f64> = (0..exact[index].len())
            .map(|at| {
                let value = exact[index][at];
                moved[index][at] = value + STEP;
                let above = loss(&moved);
                moved[index][at] = value - STEP;
                let below = loss(&moved);
                moved[index][at] = value;
                (above - below) / (2.0 * STEP)
            })
            .collect();
        let what = format!("{name} {shapes:?} gradient {index}");
        let gradient = gradient.as_ref().expect("a gradient arrived");
        assert_close(&what, gradient, &numeric, GRADIENT_TOLERANCE);
    }
}

fn times(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    let (m, n) = (x.len() / k, w.len() / k);
    let mut out = vec![0.0; m * n];
    let (size, c) = (Size { m, n, k }, MatMut::new(&mut out, n));
    reference::matmul_nt(size, Mat::new(x, k), Mat::new(w, k), c, Accumulate::No);
    out
}

fn normed(x: &[f64], w: &[f64], epsilon: f32) -> Vec<f64> {
    let (mut y, mut inverse) = (vec![0.0; x.len()], vec![0.0; x.len() / w.len()]);
    reference::rms_norm_forward(w.len(), f64::from(epsilon), x, w, &mut y, &mut inverse);
    y
}

#[test]
fn embedding() {
    for (vocab, dim, ids, tokens) in
        [(7, 3, vec![2, 2, 6, 0], 4), (1, 1, vec![0], 1), (33, 17, vec![32, 5, 5, 5, 0, 31], 2)]
    {
        check(
            "embedding",
            &[&[vocab, dim]],
            &|tape, x| Ok(vec![tape.embedding(&x[0], &ids, tokens)?]),
            &|x| {
                let mut out = vec![0.0; ids.len() * dim];
                reference::embedding_forward(dim, &x[0], &ids, &mut out);
                vec![out]
            },
        );
    }
}

#[test]
fn linear_layers_with_one_input() {
    for (rows, inputs, outputs) in [(1, 1, [1, 2]), (5, 7, [3, 9]), (13, 65, [33, 1])] {
        check(
            "linear",
            &[&[rows, inputs], &[outputs[0], inputs], &[outputs[1], inputs]],
            &|tape, x| tape.linear_many(&x[0], [&x[1], &x[2]]).map(Vec::from),
            &|x| vec![times(&x[0], &x[1], inputs), times(&x[0], &x[2], inputs)],
        );
    }
}

#[test]
fn one_linear_layer() {
    check(
        "linear",
        &[&[2, 3, 5], &[4, 5]],
        &|tape, x| Ok(vec![tape.linear(&x[0], &x[1])?]),
        &|x| vec![times(&x[0], &x[1], 5)],
    );
}

#[test]
fn norms() {
    // The last two are QK-norm: several heads in a row.
    for (shape, dim) in
        [(vec![3, 5], 5), (vec![1, 33], 33), (vec![2, 3, 4, 6], 6), (vec![5, 48], 16)]
    {
        check(
            "rms_norm",
            &[&shape, &[dim]],
            &|tape, x| Ok(vec![tape.rms_norm(&x[0], &x[1], 1e-3)?]),
            &|x| vec![normed(&x[0], &x[1], 1e-3)],
        );
    }
    for (rows, dim) in [(1, 1), (4, 19), (9, 64)] {
        check(
            "add_rms_norm",
            &[&[rows, dim], &[rows, dim], &[dim]],
            &|tape, x| {
                let (sum, y) = tape.add_rms_norm(x[0].clone(), &x[1], &x[2], 1e-3)?;
                Ok(vec![sum, y])
            },
            &|x| {
                let sum: Vec<f64> = x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect();
                let y = normed(&sum, &x[2], 1e-3);
                vec![sum, y]
            },
        );
    }
}

#[test]
fn rotary_positions() {
    for (heads, dim, positions) in [(1, 2, vec![3]), (3, 6, vec![0, 1, 9, 2]), (2, 48, vec![5, 0])]
    {
        let tokens = positions.len();
        let (cos, sin) = rope::tables(&rope::inverse_frequencies(dim, 1e4), 10);
        let wide = |table: &[f32]| table.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (cos, sin) = (wide(&cos), wide(&sin));
        check(
            "rope",
            &[&[1, tokens, heads, dim]],
            &|tape, x| {
                let table = RopeTable::new(tape.device(), dim, 1e4, 10);
                let positions: Arc<[u32]> = positions.clone().into();
                Ok(vec![tape.rope(x[0].clone(), &table, &positions)?])
            },
            &|x| {
                let mut out = x[0].clone();
                reference::rope_forward(heads, dim, dim, &cos, &sin, &positions, &mut out);
                vec![out]
            },
        );
    }
}

#[test]
fn attention() {
    for (batch, tokens, heads, kv_heads, dim, documents, window, soft_cap) in [
        (1, 1, 1, 1, 1, None, None, None),
        (2, 5, 2, 2, 3, None, None, None),
        (1, 9, 4, 2, 8, None, Some(4), None),
        (2, 6, 3, 1, 5, Some(vec![0, 0, 1, 1, 1, 2, 4, 4, 4, 4, 4, 5]), Some(2), Some(0.5)),
        (1, 70, 2, 1, 4, None, None, Some(2.0)),
        (1, 70, 2, 1, 4, None, Some(20), None),
    ] {
        let first_key: Option<Arc<[u32]>> = documents.map(|documents: Vec<u32>| {
            let mut first = vec![0; documents.len()];
            document_starts(&documents, tokens, &mut first);
            first.into()
        });
        let scale = 0.7_f32;
        let shape = AttentionShape {
            batch,
            queries: tokens,
            past: 0,
            heads,
            kv_heads,
            head_dim: dim,
            scale,
            window,
            soft_cap,
        };
        check(
            "attention",
            &[
                &[batch, tokens, heads, dim],
                &[batch, tokens, kv_heads, dim],
                &[batch, tokens, kv_heads, dim],
            ],
            &|tape, x| {
                let first_key = first_key.clone();
                let options = AttentionOptions { scale, first_key, window, soft_cap };
                Ok(vec![tape.attention(&x[0], &x[1], &x[2], &options)?])
            },
            &|x| {
                let mut out = vec![0.0; x[0].len()];
                let mut log_sum_exp = vec![0.0; batch * heads * tokens];
                let inputs = AttentionInputs {
                    q: Heads::dense(&x[0], tokens, heads, dim),
                    k: Heads::dense(&x[1], tokens, kv_heads, dim),
                    v: Heads::dense(&x[2], tokens, kv_heads, dim),
                    first_key: first_key.as_deref(),
                };
                let view = HeadsMut::dense(&mut out, tokens, heads, dim);
                reference::attention_forward(&shape, &inputs, view, &mut log_sum_exp);
                vec![out]
            },
        );
    }
}

#[test]
fn swiglu_and_add() {
    for shape in [vec![1], vec![3, 7], vec![2, 3, 33]] {
        check("swiglu", &[&shape, &shape], &|tape, x| Ok(vec![tape.swiglu(&x[0], &x[1])?]), &|x| {
            let mut out = vec![0.0; x[0].len()];
            reference::swiglu_forward(&x[0], &x[1], &mut out);
            vec![out]
        });
        check("add", &[&shape, &shape], &|tape, x| Ok(vec![tape.add(&x[0], &x[1])?]), &|x| {
            vec![x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect()]
        });
    }
}

#[test]
fn geglu_bias_scale_and_caps() {
    for shape in [vec![1, 1], vec![3, 7], vec![2, 3, 33]] {
        check("geglu", &[&shape, &shape], &|tape, x| Ok(vec![tape.geglu(&x[0], &x[1])?]), &|x| {
            let mut out = vec![0.0; x[0].len()];
            reference::geglu_forward(&x[0], &x[1], &mut out);
            vec![out]
        });
        let row = [*shape.last().unwrap()];
        check(
            "add_bias",
            &[&shape, &row],
            &|tape, x| Ok(vec![tape.add_bias(x[0].clone(), &x[1])?]),
            &|x| {
                let mut out = x[0].clone();
                reference::bias_forward(&x[1], &mut out);
                vec![out]
            },
        );
        check("scale", &[&shape], &|tape, x| Ok(vec![tape.scale(x[0].clone(), -2.5)?]), &|x| {
            vec![x[0].iter().map(|x| -2.5 * x).collect()]
        });
        check("cap", &[&shape], &|tape, x| Ok(vec![tape.soft_cap(x[0].clone(), 1.5)?]), &|x| {
            let mut out = x[0].clone();
            reference::soft_cap_forward(1.5, &mut out);
            vec![out]
        });
    }
}

#[test]
fn magnitudes_of_adapted_matrices() {
    for (rows, o, d, r) in [(1, 1, 1, 1), (5, 7, 9, 2), (2, 33, 17, 4)] {
        // The norms are constants, so their matrix is not among the inputs.
        let constants = [normal(11, o * d), normal(12, r * d), normal(13, o * r)];
        let [weight, a, b] =
            constants.each_ref().map(|v| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>());
        let mut norms = vec![0.0; o];
        reference::adapted_norms(0.5, &weight, &a, &b, &mut norms);
        check(
            "magnitude",
            &[&[rows, o], &[o]],
            &|tape, x| {
                let weight_od = &tape.constant(&constants[0], &[o, d])?;
                let a_rd = &tape.constant(&constants[1], &[r, d])?;
                let b_or = &tape.constant(&constants[2], &[o, r])?;
                let matrix = AdaptedMatrix { weight_od, a_rd, b_or, scale: 0.5 };
                Ok(vec![tape.magnitude(&x[0], &x[1], &matrix)?])
            },
            &|x| {
                let mut out = vec![0.0; x[0].len()];
                reference::magnitude_forward(&norms, &x[1], &x[0], &mut out);
                vec![out]
            },
        );
    }
}

#[test]
fn part_of_each_head_is_rotated() {
    let frequencies = [0.7, 0.01];
    let (cos, sin) = rope::tables(&frequencies, 10);
    let wide = |table: &[f32]| table.iter().map(|&v| 1.5 * f64::from(v)).collect::<Vec<f64>>();
    let (cos, sin) = (wide(&cos), wide(&sin));
    let positions = [3, 9, 0];
    check(
        "rope",
        &[&[1, 3, 2, 6]],
        &|tape, x| {
            let table = RopeTable::from_frequencies(tape.device(), 6, &frequencies, 1.5, 10);
            Ok(vec![tape.rope(x[0].clone(), &table, &positions.into())?])
        },
        &|x| {
            let mut out = x[0].clone();
            reference::rope_forward(2, 6, 4, &cos, &sin, &positions, &mut out);
            vec![out]
        },
    );
}

#[test]
fn experts() {
    for (n, d, f, experts, chosen, normalise) in [
        (1, 1, 1, 1, 1, false),
        (7, 5, 3, 4, 2, true),
        (9, 4, 6, 5, 3, false),
        (3, 6, 4, 8, 1, true),
    ] {
        let shape = RoutingShape { experts, chosen, normalise };
        check(
            "experts",
            &[&[n, d], &[n, experts], &[experts, f, d], &[experts, f, d], &[experts, d, f]],
            &|tape, x| {
                let (routing, weights) = tape.route(&x[1], chosen, normalise)?;
                assert_eq!(routing.loads().iter().sum::<usize>(), n * chosen);
                Ok(vec![tape.experts(&x[0], &weights, &routing, [&x[2], &x[3], &x[4]])?])
            },
            &|x| vec![mixture(&shape, [n, d, f], x)],
        );
    }
}

/// What experts make of `[x_nd, logits_ne, gate_efd, up_efd, down_edf]`.
fn mixture(shape: &RoutingShape, [n, d, f]: [usize; 3], x: &[Vec<f64>]) -> Vec<f64> {
    let chosen = shape.chosen;
    let (mut ids, mut weights) = (vec![0; n * chosen], vec![0.0; n * chosen]);
    reference::choose_experts(shape, &x[1], &mut ids);
    reference::routing_weights_forward(shape, &x[1], &ids, &mut weights);
    let mut out = vec![0.0; n * d];
    for (choice, &id) in ids.iter().enumerate() {
        let own = |w: &[f64]| w[id as usize * f * d..][..f * d].to_vec();
        let token = &x[0][choice / chosen * d..][..d];
        let (gate, up) = (times(token, &own(&x[2]), d), times(token, &own(&x[3]), d));
        let mut inner = vec![0.0; f];
        reference::swiglu_forward(&gate, &up, &mut inner);
        for (column, value) in times(&inner, &own(&x[4]), f).iter().enumerate() {
            out[choice / chosen * d + column] += weights[choice] * value;
        }
    }
    out
}

#[test]
fn experts_with_changes_of_low_rank() {
    let scale = 0.75;
    for (n, d, f, experts, chosen, rank) in
        [(1, 1, 1, 1, 1, 1), (7, 5, 3, 4, 2, 2), (3, 6, 4, 8, 1, 3)]
    {
        let shape = RoutingShape { experts, chosen, normalise: true };
        let (a, b_f, a_f, b) =
            ([experts, rank, d], [experts, rank, f], [experts, rank, f], [experts, rank, d]);
        let stacks: [&[usize]; 5] =
            [&[n, d], &[n, experts], &[experts, f, d], &[experts, f, d], &[experts, d, f]];
        for (gate_up, down) in [(true, true), (true, false), (false, true)] {
            let mut shapes = stacks.to_vec();
            if gate_up {
                shapes.extend([&a[..], &b_f, &b_f]);
            }
            if down {
                shapes.extend([&a_f[..], &b]);
            }
            let last = shapes.len() - 2;
            check(
                "changed experts",
                &shapes,
                &|tape, x| {
                    let (routing, weights) = tape.route(&x[1], chosen, true)?;
                    let changes = ExpertChanges {
                        gate_up: gate_up.then(|| [&x[5], &x[6], &x[7]]),
                        down: down.then(|| [&x[last], &x[last + 1]]),
                        scale: scale as f32,
                    };
                    let stacks = [&x[2], &x[3], &x[4]];
                    Ok(vec![tape.changed_experts(&x[0], &weights, &routing, stacks, &changes)?])
                },
                &|x| {
                    let mut all = x[..5].to_vec();
                    if gate_up {
                        change(&mut all[2], &x[5], &x[6], rank, [f, d], scale);
                        change(&mut all[3], &x[5], &x[7], rank, [f, d], scale);
                    }
                    if down {
                        change(&mut all[4], &x[last], &x[last + 1], rank, [d, f], scale);
                    }
                    vec![mixture(&shape, [n, d, f], &all)]
                },
            );
        }
    }
}

/// `w[e] += scale · b[e]ᵀ · a[e]` for stacks of matrices `[outputs, inputs]`.
fn change(w: &mut [f64], a: &[f64], b: &[f64], rank: usize, shape: [usize; 2], scale: f64) {
    let [outputs, inputs] = shape;
    for (at, w) in w.iter_mut().enumerate() {
        let (row, input) = (at / inputs, at % inputs);
        let (expert, output) = (row / outputs, row % outputs);
        for r in expert * rank..(expert + 1) * rank {
            *w += scale * b[r * outputs + output] * a[r * inputs + input];
        }
    }
}

#[test]
fn chosen_rows() {
    let rows = [4, 0, 4, 1];
    check("select_rows", &[&[5, 3]], &|tape, x| Ok(vec![tape.select_rows(&x[0], &rows)?]), &|x| {
        vec![rows.iter().flat_map(|&row| x[0][row as usize * 3..][..3].to_vec()).collect()]
    });
}

/// Log-probabilities of the targets of rows of logits.
fn log_probabilities(x: &[Vec<f64>], dim: usize, vocab: usize, targets: &[u32]) -> Vec<f64> {
    capped_log_probabilities(x, dim, vocab, targets, None)
}

fn capped_log_probabilities(
    x: &[Vec<f64>],
    dim: usize,
    vocab: usize,
    targets: &[u32],
    soft_cap: Option<f64>,
) -> Vec<f64> {
    let mut logits = times(&x[0], &x[1], dim);
    if let Some(cap) = soft_cap {
        reference::soft_cap_forward(cap, &mut logits);
    }
    let (mut out, mut greedy) = (vec![0.0; targets.len()], vec![false; targets.len()]);
    reference::log_probabilities(vocab, &logits, targets, &mut out, &mut greedy);
    out
}

#[test]
fn losses_at_the_head() {
    for (rows, dim, vocab) in [(1, 1, 1), (6, 5, 11), (9, 16, 130)] {
        let targets: Vec<u32> = (0..rows as u32)
            .map(|row| if row == 2 { IGNORE } else { (row * 7 + 3) % vocab as u32 })
            .collect();
        let weights: Vec<f32> = normal(50, rows);
        let shapes: [&[usize]; 2] = [&[rows, dim], &[vocab, dim]];
        check(
            "linear_log_probabilities",
            &shapes,
            &|tape, x| Ok(vec![tape.linear_log_probabilities(&x[0], &x[1], &targets)?]),
            &|x| vec![log_probabilities(x, dim, vocab, &targets)],
        );
        let counted = targets.iter().filter(|&&target| target != IGNORE).count() as f64;
        check(
            "linear_cross_entropy",
            &shapes,
            &|tape, x| {
                Ok(vec![tape.linear_cross_entropy(&x[0], &x[1], &LossRows::mean(&targets))?])
            },
            &|x| {
                let sum: f64 = log_probabilities(x, dim, vocab, &targets).iter().sum();
                vec![vec![-sum / counted]]
            },
        );
        let rows = LossRows {
            targets: targets.clone().into(),
            weights: Some(weights.clone().into()),
            divisor: Some(2.5),
            z_loss: 0.0,
        };
        check(
            "weighted linear_cross_entropy",
            &shapes,
            &|tape, x| Ok(vec![tape.linear_cross_entropy(&x[0], &x[1], &rows)?]),
            &|x| {
                let rows = log_probabilities(x, dim, vocab, &targets);
                let sum: f64 = rows.iter().zip(&weights).map(|(p, &w)| p * f64::from(w)).sum();
                vec![vec![-sum / 2.5]]
            },
        );
        // A large coefficient, so that its part of the gradient is not lost in the rest.
        let rows = LossRows { z_loss: 0.25, ..rows };
        for soft_cap in [None, Some(1.5)] {
            check(
                "linear_cross_entropy with z-loss",
                &shapes,
                &|tape, x| {
                    let layer = OutputLayer { weight_vd: &x[1], soft_cap };
                    Ok(vec![tape.linear_cross_entropy(&x[0], layer, &rows)?])
                },
                &|x| {
                    let cap = soft_cap.map(f64::from);
                    let losses = z_losses(x, dim, vocab, &targets, cap, 0.25);
                    let sum: f64 =
                        losses.iter().zip(&weights).map(|(l, &w)| l * f64::from(w)).sum();
                    vec![vec![sum / 2.5]]
                },
            );
        }
    }
}

/// Cross-entropy and `coefficient · (log Z)²` of rows of logits.
fn z_losses(
    x: &[Vec<f64>],
    dim: usize,
    vocab: usize,
    targets: &[u32],
    soft_cap: Option<f64>,
    coefficient: f64,
) -> Vec<f64> {
    let mut logits = times(&x[0], &x[1], dim);
    if let Some(cap) = soft_cap {
        reference::soft_cap_forward(cap, &mut logits);
    }
    let rows = targets.len();
    let (mut losses, mut squares) = (vec![0.0; rows], vec![0.0; rows]);
    let z_loss = Some((coefficient, &mut squares[..]));
    let scale = vec![0.0; rows];
    reference::cross_entropy(vocab, &mut logits, targets, &scale, &mut losses, z_loss);
    losses.iter().zip(&squares).map(|(loss, square)| loss + coefficient * square).collect()
}

#[test]
fn losses_of_capped_logits() {
    let (rows, dim, vocab, cap) = (9, 6, 21, 2.0);
    let targets: Vec<u32> =
        (0..rows as u32).map(|row| if row == 2 { IGNORE } else { row * 7 % 21 }).collect();
    let shapes: [&[usize]; 2] = [&[rows, dim], &[vocab, dim]];
    let capped = |x: &[Vec<f64>]| capped_log_probabilities(x, dim, vocab, &targets, Some(cap));
    check(
        "linear_log_probabilities of capped logits",
        &shapes,
        &|tape, x| {
            let layer = OutputLayer { weight_vd: &x[1], soft_cap: Some(cap as f32) };
            Ok(vec![tape.linear_log_probabilities(&x[0], layer, &targets)?])
        },
        &|x| vec![capped(x)],
    );
    check(
        "linear_cross_entropy of capped logits",
        &shapes,
        &|tape, x| {
            let layer = OutputLayer { weight_vd: &x[1], soft_cap: Some(cap as f32) };
            Ok(vec![tape.linear_cross_entropy(&x[0], layer, &LossRows::mean(&targets))?])
        },
        &|x| vec![vec![-capped(x).iter().sum::<f64>() / 8.0]],
    );
}

#[test]
fn one_tensor_used_many_times() {
    // y = swiglu(x, x) + x·wᵀ·w with w square: gradients of each use must add up.
    check(
        "shared",
        &[&[3, 4], &[4, 4]],
        &|tape, x| {
            let once = tape.linear(&x[0], &x[1])?;
            let twice = tape.linear(&once, &x[1])?;
            let gated = tape.swiglu(&x[0], &x[0])?;
            Ok(vec![tape.add(&gated, &twice)?, once])
        },
        &|x| {
            let once = times(&x[0], &x[1], 4);
            let twice = times(&once, &x[1], 4);
            let mut gated = vec![0.0; 12];
            reference::swiglu_forward(&x[0], &x[0], &mut gated);
            vec![gated.iter().zip(&twice).map(|(a, b)| a + b).collect(), once]
        },
    );
}

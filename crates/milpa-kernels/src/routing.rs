//! Routing of tokens to experts: the choice of the best, their weights, and the weighted sum of what
//! they return, forward and backward.
//!
//! Sparsely-gated mixture of experts, arXiv:1701.06538; as in Mixtral, arXiv:2401.04088, the weights
//! are the softmax of the router's logits at the chosen experts. It knows nothing of what experts
//! compute: their inputs and outputs are rows that the caller has grouped.

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// Elements of a task.
const TASK: usize = 16 * 1024;

/// Sizes of a routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingShape {
    /// Experts to choose from.
    pub experts: usize,
    /// Experts chosen for each token, at most `experts`.
    pub chosen: usize,
    /// Whether the weights of the chosen sum to 1 (`norm_topk_prob`), or are the probabilities
    /// among all experts.
    pub normalise: bool,
}

impl RoutingShape {
    #[track_caller]
    fn check(&self, logits: usize, chosen: usize) -> usize {
        let Self { experts, chosen: k, .. } = *self;
        assert!(k > 0 && k <= experts, "{k} of {experts} experts");
        assert!(chosen.is_multiple_of(k), "chosen: [tokens, {k}]");
        let tokens = chosen / k;
        assert_eq!(logits, tokens * experts, "logits: [tokens, {experts}]");
        tokens
    }

    fn task(&self) -> usize {
        (TASK / self.experts).max(1)
    }
}

/// Writes the experts with the largest of `logits[tokens, experts]` to `ids[tokens, chosen]`, the
/// largest first and the lower number first among equals. NaN counts as −∞.
pub fn choose_experts(cpu: &Cpu, shape: &RoutingShape, logits: &[f32], ids: &mut [u32]) {
    let tokens = shape.check(logits.len(), ids.len());
    let RoutingShape { experts, chosen, .. } = *shape;
    let ids = Shares::new(ids);
    cpu.pool().for_ranges(tokens, shape.task(), |tokens| {
        // SAFETY: each task has its own tokens.
        let ids = unsafe { ids.part(tokens.start * chosen..tokens.end * chosen) };
        let logits = &logits[tokens.start * experts..tokens.end * experts];
        for (logits, ids) in logits.chunks_exact(experts).zip(ids.chunks_exact_mut(chosen)) {
            choose(logits, ids);
        }
    });
}

fn choose(logits: &[f32], ids: &mut [u32]) {
    let value = |id: u32| {
        let logit = logits[id as usize];
        if logit.is_nan() { f32::NEG_INFINITY } else { logit }
    };
    for filled in 0..ids.len() {
        let (taken, open) = ids.split_at_mut(filled);
        let free = (0..logits.len() as u32).filter(|id| !taken.contains(id));
        let best = free.reduce(|best, id| if value(id) > value(best) { id } else { best });
        open[0] = best.expect("no more are chosen than there are");
    }
}

/// Writes the weights `[tokens, chosen]` of the experts `ids`.
pub fn routing_weights_forward(
    cpu: &Cpu,
    shape: &RoutingShape,
    logits: &[f32],
    ids: &[u32],
    weights: &mut [f32],
) {
    let tokens = shape.check(logits.len(), ids.len());
    assert_eq!(weights.len(), ids.len(), "weights: [tokens, chosen]");
    let RoutingShape { experts, chosen, normalise } = *shape;
    let weights = Shares::new(weights);
    cpu.pool().for_ranges(tokens, shape.task(), |tokens| {
        // SAFETY: each task has its own tokens.
        let weights = unsafe { weights.part(tokens.start * chosen..tokens.end * chosen) };
        let rows = tokens.clone().zip(weights.chunks_exact_mut(chosen));
        for (token, weights) in rows {
            let logits = &logits[token * experts..(token + 1) * experts];
            let ids = &ids[token * chosen..(token + 1) * chosen];
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (weight, &id) in weights.iter_mut().zip(ids) {
                *weight = (logits[id as usize] - largest).exp();
            }
            let sum: f32 = if normalise {
                weights.iter().sum()
            } else {
                logits.iter().map(|logit| (logit - largest).exp()).sum()
            };
            for weight in weights {
                *weight /= sum;
            }
        }
    });
}

/// Backward of [`routing_weights_forward`]: overwrites `dlogits[tokens, experts]`.
pub fn routing_weights_backward(
    cpu: &Cpu,
    shape: &RoutingShape,
    logits: &[f32],
    ids: &[u32],
    weights: &[f32],
    dweights: &[f32],
    dlogits: &mut [f32],
) {
    let tokens = shape.check(logits.len(), ids.len());
    assert!(weights.len() == ids.len() && dweights.len() == ids.len(), "weights: [tokens, chosen]");
    assert_eq!(dlogits.len(), logits.len(), "dlogits: [tokens, experts]");
    let RoutingShape { experts, chosen, normalise } = *shape;
    let dlogits = Shares::new(dlogits);
    cpu.pool().for_ranges(tokens, shape.task(), |tokens| {
        // SAFETY: each task has its own tokens.
        let dlogits = unsafe { dlogits.part(tokens.start * experts..tokens.end * experts) };
        for (token, dlogits) in tokens.clone().zip(dlogits.chunks_exact_mut(experts)) {
            let own = token * chosen..(token + 1) * chosen;
            let (ids, weights, dweights) =
                (&ids[own.clone()], &weights[own.clone()], &dweights[own]);
            let mean: f32 = weights.iter().zip(dweights).map(|(w, dw)| w * dw).sum();
            if normalise {
                dlogits.fill(0.0);
            } else {
                let logits = &logits[token * experts..(token + 1) * experts];
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
                for (dlogit, logit) in dlogits.iter_mut().zip(logits) {
                    *dlogit = -mean * ((logit - largest).exp() / sum);
                }
            }
            for ((&id, &weight), &dweight) in ids.iter().zip(weights).zip(dweights) {
                let own = if normalise { dweight - mean } else { dweight };
                dlogits[id as usize] += weight * own;
            }
        }
    });
}

/// `out[t] = Σⱼ weights[t, j] · rows[places[t, j]]` over the chosen experts of each token, in order.
///
/// `rows[tokens · chosen, dim]` holds one row for each choice; `places[tokens, chosen]` is a
/// permutation that says which.
pub fn combine_forward(
    cpu: &Cpu,
    dim: usize,
    chosen: usize,
    places: &[u32],
    weights: &[f32],
    rows: &[f32],
    out: &mut [f32],
) {
    let tokens = check_combine(dim, chosen, places, [weights.len() * dim, rows.len()]);
    assert_eq!(out.len(), tokens * dim, "out: [tokens, dim]");
    let out = Shares::new(out);
    cpu.pool().for_ranges(tokens, (TASK / (dim * chosen)).max(1), |tokens| {
        // SAFETY: each task has its own tokens.
        let out = unsafe { out.part(tokens.start * dim..tokens.end * dim) };
        dispatch!(cpu.isa(), simd => {
            for (token, out) in tokens.clone().zip(out.chunks_exact_mut(dim)) {
                for choice in token * chosen..(token + 1) * chosen {
                    let start = places[choice] as usize * dim;
                    let row = &rows[start..start + dim];
                    add_scaled(simd, out, weights[choice], row, choice > token * chosen);
                }
            }
        });
    });
}

/// Backward of [`combine_forward`]: overwrites `drows` and `dweights`.
pub fn combine_backward(
    cpu: &Cpu,
    dim: usize,
    chosen: usize,
    places: &[u32],
    weights: &[f32],
    rows: &[f32],
    dout: &[f32],
    drows: &mut [f32],
    dweights: &mut [f32],
) {
    let lengths = [weights.len() * dim, rows.len(), drows.len(), dweights.len() * dim];
    let tokens = check_combine(dim, chosen, places, lengths);
    assert_eq!(dout.len(), tokens * dim, "dout: [tokens, dim]");
    let mut seen = vec![false; places.len()];
    for &place in places {
        let again = std::mem::replace(&mut seen[place as usize], true);
        assert!(!again, "places are a permutation; {place} is there twice");
    }
    let (drows, dweights) = (Shares::new(drows), Shares::new(dweights));
    cpu.pool().for_ranges(tokens, (TASK / (dim * chosen)).max(1), |tokens| {
        // SAFETY: each task has its own choices.
        let dweights = unsafe { dweights.part(tokens.start * chosen..tokens.end * chosen) };
        let choices = tokens.start * chosen..tokens.end * chosen;
        for (choice, dweight) in choices.zip(dweights) {
            let dout = &dout[choice / chosen * dim..(choice / chosen + 1) * dim];
            let start = places[choice] as usize * dim;
            // SAFETY: places are a permutation, so each choice has its own row.
            let drow = unsafe { drows.part(start..start + dim) };
            *dweight = dispatch!(cpu.isa(), simd => {
                add_scaled(simd, drow, weights[choice], dout, false);
                dot(simd, &rows[start..start + dim], dout)
            });
        }
    });
}

#[track_caller]
fn check_combine<const N: usize>(
    dim: usize,
    chosen: usize,
    places: &[u32],
    lengths: [usize; N],
) -> usize {
    assert!(
        dim > 0 && chosen > 0 && places.len().is_multiple_of(chosen),
        "places: [tokens, chosen]"
    );
    for length in lengths {
        assert_eq!(length, places.len() * dim, "one row of {dim} for each choice");
    }
    let beyond = places.iter().find(|&&place| place as usize >= places.len());
    assert!(beyond.is_none(), "place {beyond:?} is beyond {} rows", places.len());
    places.len() / chosen
}

/// `y = factor · x`, or added to `y`.
#[inline(always)]
fn add_scaled<S: Simd>(simd: S, y: &mut [f32], factor: f32, x: &[f32], add: bool) {
    let factor = simd.splat(factor);
    for (y, x) in y.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let value = if add {
            simd.fma(simd.read(x), factor, simd.read(y))
        } else {
            simd.mul(simd.read(x), factor)
        };
        simd.write(y, value);
    }
}

#[inline(always)]
fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let mut sum = simd.zero();
    for (x, y) in x.chunks(S::LANES).zip(y.chunks(S::LANES)) {
        sum = simd.fma(simd.read(x), simd.read(y), sum);
    }
    simd.sum(sum)
}

//! Twins of what some families of decoders add: GeGLU, biases, soft caps and routing to experts.
//!
//! GeGLU, arXiv:2002.05202; soft caps, arXiv:2408.00118; routing, arXiv:2401.04088.

use super::Real;
use crate::routing::RoutingShape;

/// Twin of [`crate::activation::geglu_forward`].
pub fn geglu_forward<T: Real>(gate: &[T], up: &[T], out: &mut [T]) {
    for at in 0..out.len() {
        out[at] = gelu(gate[at]).0 * up[at];
    }
}

/// Twin of [`crate::activation::geglu_backward`].
pub fn geglu_backward<T: Real>(gate: &[T], up: &[T], dout: &[T], dgate: &mut [T], dup: &mut [T]) {
    for at in 0..dout.len() {
        let (value, slope) = gelu(gate[at]);
        dup[at] = dout[at] * value;
        dgate[at] = dout[at] * up[at] * slope;
    }
}

/// `g·(1 + tanh u)/2` with `u = √(2/π)·(g + 0.044715·g³)`, and its slope.
fn gelu<T: Real>(g: T) -> (T, T) {
    let half = T::from_f64(0.5);
    let root = T::from_f64((2.0 / std::f64::consts::PI).sqrt());
    let cube = T::from_f64(0.044_715);
    let t = (root * (g + cube * g * g * g)).tanh();
    let rate = root * (T::ONE + T::from_f64(3.0) * cube * g * g);
    (half * g * (T::ONE + t), half * (T::ONE + t) + half * g * (T::ONE - t * t) * rate)
}

/// Twin of [`crate::bias::bias_forward`].
pub fn bias_forward<T: Real>(bias: &[T], x: &mut [T]) {
    for (at, x) in x.iter_mut().enumerate() {
        *x += bias[at % bias.len()];
    }
}

/// Twin of [`crate::bias::bias_backward`].
pub fn bias_backward<T: Real>(dy: &[T], dbias: &mut [T]) {
    let dim = dbias.len();
    for (at, &dy) in dy.iter().enumerate() {
        dbias[at % dim] += dy;
    }
}

/// Twin of [`crate::soft_cap::soft_cap_forward`].
pub fn soft_cap_forward<T: Real>(cap: T, x: &mut [T]) {
    for x in x {
        *x = cap * (*x / cap).tanh();
    }
}

/// Twin of [`crate::soft_cap::soft_cap_backward`].
pub fn soft_cap_backward<T: Real>(cap: T, y: &[T], dy: &mut [T]) {
    for (dy, &y) in dy.iter_mut().zip(y) {
        *dy = *dy * (T::ONE - y / cap * (y / cap));
    }
}

/// Twin of [`crate::routing::choose_experts`].
pub fn choose_experts<T: Real>(shape: &RoutingShape, logits: &[T], ids: &mut [u32]) {
    let rows = logits.chunks_exact(shape.experts).zip(ids.chunks_exact_mut(shape.chosen));
    for (logits, ids) in rows {
        let mut order: Vec<u32> = (0..shape.experts as u32).collect();
        // A stable sort keeps the lower number first.
        order.sort_by(|&a, &b| {
            logits[b as usize].partial_cmp(&logits[a as usize]).expect("no NaN among the logits")
        });
        ids.copy_from_slice(&order[..shape.chosen]);
    }
}

/// Twin of [`crate::routing::routing_weights_forward`].
pub fn routing_weights_forward<T: Real>(
    shape: &RoutingShape,
    logits: &[T],
    ids: &[u32],
    weights: &mut [T],
) {
    for (token, logits) in logits.chunks_exact(shape.experts).enumerate() {
        let own = token * shape.chosen..(token + 1) * shape.chosen;
        let p = probabilities(logits);
        let chosen: T = ids[own.clone()].iter().map(|&id| p[id as usize]).sum();
        let divisor = if shape.normalise { chosen } else { T::ONE };
        for choice in own {
            weights[choice] = p[ids[choice] as usize] / divisor;
        }
    }
}

/// Twin of [`crate::routing::routing_weights_backward`], through the chain rule of its forward.
pub fn routing_weights_backward<T: Real>(
    shape: &RoutingShape,
    logits: &[T],
    ids: &[u32],
    dweights: &[T],
    dlogits: &mut [T],
) {
    for (token, logits) in logits.chunks_exact(shape.experts).enumerate() {
        let own = token * shape.chosen..(token + 1) * shape.chosen;
        let p = probabilities(logits);
        let chosen = || own.clone().map(|choice| (p[ids[choice] as usize], dweights[choice]));
        let sum: T = chosen().map(|(p, _)| p).sum();
        let mean: T = chosen().map(|(p, dw)| p * dw / sum).sum();
        let mut dp = vec![T::ZERO; shape.experts];
        for choice in own.clone() {
            let dw = dweights[choice];
            dp[ids[choice] as usize] = if shape.normalise { (dw - mean) / sum } else { dw };
        }
        let inner: T = p.iter().zip(&dp).map(|(&p, &dp)| p * dp).sum();
        for (expert, (&p, &dp)) in p.iter().zip(&dp).enumerate() {
            dlogits[token * shape.experts + expert] = p * (dp - inner);
        }
    }
}

/// Twin of [`crate::routing::combine_forward`].
pub fn combine_forward<T: Real>(
    dim: usize,
    chosen: usize,
    places: &[u32],
    weights: &[T],
    rows: &[T],
    out: &mut [T],
) {
    out.fill(T::ZERO);
    for (choice, &place) in places.iter().enumerate() {
        for column in 0..dim {
            let value = weights[choice] * rows[place as usize * dim + column];
            out[choice / chosen * dim + column] += value;
        }
    }
}

/// Twin of [`crate::routing::combine_backward`].
pub fn combine_backward<T: Real>(
    dim: usize,
    chosen: usize,
    places: &[u32],
    weights: &[T],
    rows: &[T],
    dout: &[T],
    drows: &mut [T],
    dweights: &mut [T],
) {
    for (choice, &place) in places.iter().enumerate() {
        let row = place as usize * dim..(place as usize + 1) * dim;
        let dout = &dout[choice / chosen * dim..(choice / chosen + 1) * dim];
        dweights[choice] = rows[row.clone()].iter().zip(dout).map(|(&row, &dout)| row * dout).sum();
        for (drow, &dout) in drows[row].iter_mut().zip(dout) {
            *drow = weights[choice] * dout;
        }
    }
}

fn probabilities<T: Real>(logits: &[T]) -> Vec<T> {
    let largest = logits.iter().copied().fold(logits[0], |a, b| if b > a { b } else { a });
    let sum: T = logits.iter().map(|&logit| (logit - largest).exp()).sum();
    logits.iter().map(|&logit| (logit - largest).exp() / sum).collect()
}

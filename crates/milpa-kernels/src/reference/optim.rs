//! Twins of the optimiser steps.

use super::{Real, matmul_nn, matmul_nt};
use crate::optim::{AdamW, Lion, Muon};
use crate::view::{Accumulate, Mat, MatMut, Size};

/// Twin of [`crate::optim::adamw_step`].
pub fn adamw_step<T: Real>(
    settings: &AdamW,
    gradient_scale: T,
    weights: &mut [T],
    gradients: &[T],
    first: &mut [T],
    second: &mut [T],
) {
    let real = |value: f32| T::from_f64(f64::from(value));
    let (beta1, beta2) = (real(settings.beta1), real(settings.beta2));
    let power = settings.step as f64;
    let correction1 = T::from_f64(1.0 - f64::from(settings.beta1).powf(power));
    let correction2 = T::from_f64(1.0 - f64::from(settings.beta2).powf(power));
    for at in 0..weights.len() {
        let gradient = gradients[at] * gradient_scale;
        weights[at] -= weights[at] * real(settings.learning_rate) * real(settings.weight_decay);
        first[at] = beta1 * first[at] + (T::ONE - beta1) * gradient;
        second[at] = beta2 * second[at] + (T::ONE - beta2) * gradient * gradient;
        let denominator = second[at].sqrt() / correction2.sqrt() + real(settings.eps);
        weights[at] -= real(settings.learning_rate) / correction1 * first[at] / denominator;
    }
}

/// Twin of [`crate::optim::lion_step`].
pub fn lion_step<T: Real>(
    settings: &Lion,
    gradient_scale: T,
    weights: &mut [T],
    gradients: &[T],
    momentum: &mut [T],
) {
    let real = |value: f32| T::from_f64(f64::from(value));
    let (beta1, beta2) = (real(settings.beta1), real(settings.beta2));
    for at in 0..weights.len() {
        let gradient = gradients[at] * gradient_scale;
        let direction = beta1 * momentum[at] + (T::ONE - beta1) * gradient;
        weights[at] -= weights[at] * real(settings.learning_rate) * real(settings.weight_decay);
        if direction > T::ZERO {
            weights[at] -= real(settings.learning_rate);
        } else if direction < T::ZERO {
            weights[at] += real(settings.learning_rate);
        }
        momentum[at] = beta2 * momentum[at] + (T::ONE - beta2) * gradient;
    }
}

/// Twin of [`crate::optim::muon_step`].
pub fn muon_step<T: Real>(
    settings: &Muon,
    rows: usize,
    columns: usize,
    gradient_scale: T,
    weights: &mut [T],
    gradients: &[T],
    momentum: &mut [T],
) {
    let real = |value: f32| T::from_f64(f64::from(value));
    let beta = real(settings.momentum);
    let mut update = vec![T::ZERO; weights.len()];
    for at in 0..weights.len() {
        let gradient = gradients[at] * gradient_scale;
        momentum[at] = beta * momentum[at] + (T::ONE - beta) * gradient;
        update[at] = if settings.nesterov {
            beta * momentum[at] + (T::ONE - beta) * gradient
        } else {
            momentum[at]
        };
    }
    newton_schulz(rows, columns, settings.iterations, &mut update);
    let size = T::from_f64((rows as f64 / columns as f64).max(1.0).sqrt());
    for at in 0..weights.len() {
        weights[at] -= weights[at] * real(settings.learning_rate) * real(settings.weight_decay);
        weights[at] -= real(settings.learning_rate) * size * update[at];
    }
}

/// Twin of [`crate::optim::newton_schulz`].
pub fn newton_schulz<T: Real>(rows: usize, columns: usize, iterations: usize, x: &mut [T]) {
    let (a, b, c) = (T::from_f64(3.4445), T::from_f64(-4.7750), T::from_f64(2.0315));
    let squares: T = x.iter().map(|&value| value * value).sum();
    let norm = squares.sqrt() + T::from_f64(1e-7);
    let (small, large) = (rows.min(columns), rows.max(columns));
    let mut wide = if rows > columns { transposed(rows, columns, x) } else { x.to_vec() };
    for value in &mut wide {
        *value = *value / norm;
    }
    for _ in 0..iterations {
        let mut gram = vec![T::ZERO; small * small];
        let size = Size { m: small, n: small, k: large };
        let (x_view, no) = (Mat::new(&wide, large), Accumulate::No);
        matmul_nt(size, x_view, x_view, MatMut::new(&mut gram, small), no);
        let mut polynomial = vec![T::ZERO; small * small];
        let size = Size { m: small, n: small, k: small };
        let gram_view = Mat::new(&gram, small);
        matmul_nn(size, gram_view, gram_view, MatMut::new(&mut polynomial, small), no);
        for (square, &first) in polynomial.iter_mut().zip(&gram) {
            *square = b * first + c * *square;
        }
        let mut next = vec![T::ZERO; small * large];
        let size = Size { m: small, n: large, k: small };
        matmul_nn(size, Mat::new(&polynomial, small), x_view, MatMut::new(&mut next, large), no);
        for (value, &old) in next.iter_mut().zip(&wide) {
            *value += a * old;
        }
        wide = next;
    }
    let result = if rows > columns { transposed(columns, rows, &wide) } else { wide };
    x.copy_from_slice(&result);
}

fn transposed<T: Real>(rows: usize, columns: usize, x: &[T]) -> Vec<T> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
}

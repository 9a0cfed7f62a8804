//! Twins of softmax, cross-entropy and per-token log-probabilities.

use super::Real;
use crate::loss::IGNORE;

/// Turns each row of `logits[rows, vocab]` into its softmax.
pub fn softmax_rows<T: Real>(vocab: usize, logits: &mut [T]) {
    for row in logits.chunks_exact_mut(vocab) {
        let lse = log_sum_exp(row);
        for value in row {
            *value = (*value - lse).exp();
        }
    }
}

/// Twin of [`crate::loss::cross_entropy`]; with `z_loss`, the coefficient and where `(log Z)²` of each
/// row goes.
pub fn cross_entropy<T: Real>(
    vocab: usize,
    logits: &mut [T],
    targets: &[u32],
    gradient_scale: &[T],
    losses: &mut [T],
    mut z_loss: Option<(T, &mut [T])>,
) {
    for (index, row) in logits.chunks_exact_mut(vocab).enumerate() {
        if targets[index] == IGNORE {
            losses[index] = T::ZERO;
            if let Some((_, squares)) = &mut z_loss {
                squares[index] = T::ZERO;
            }
            row.fill(T::ZERO);
            continue;
        }
        let target = targets[index] as usize;
        let lse = log_sum_exp(row);
        losses[index] = lse - row[target];
        let mut growth = T::ONE;
        if let Some((coefficient, squares)) = &mut z_loss {
            squares[index] = lse * lse;
            growth += (*coefficient + *coefficient) * lse;
        }
        for (column, value) in row.iter_mut().enumerate() {
            let one_hot = if column == target { T::ONE } else { T::ZERO };
            *value = ((*value - lse).exp() * growth - one_hot) * gradient_scale[index];
        }
    }
}

/// Twin of [`crate::loss::log_probabilities`].
pub fn log_probabilities<T: Real>(
    vocab: usize,
    logits: &[T],
    targets: &[u32],
    log_probability: &mut [T],
    is_greedy: &mut [bool],
) {
    for (index, row) in logits.chunks_exact(vocab).enumerate() {
        if targets[index] == IGNORE {
            log_probability[index] = T::ZERO;
            is_greedy[index] = false;
            continue;
        }
        let target = targets[index] as usize;
        log_probability[index] = row[target] - log_sum_exp(row);
        let before = row[..target].iter().all(|&value| value < row[target]);
        is_greedy[index] = before && row[target..].iter().all(|&value| value <= row[target]);
    }
}

fn log_sum_exp<T: Real>(row: &[T]) -> T {
    let max = row.iter().copied().fold(row[0], |a, b| if b > a { b } else { a });
    max + row.iter().map(|&value| (value - max).exp()).sum::<T>().ln()
}

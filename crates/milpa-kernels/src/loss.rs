//! Cross-entropy and log-probabilities on rows of logits.

use crate::cpu::Cpu;
use crate::reference;

/// The target of a row that takes no part in the loss.
pub const IGNORE: u32 = u32::MAX;

/// Computes the loss of each row of `logits[rows, vocab]` and turns the logits into gradients.
///
/// `losses[row] = log Σ exp(logits) − logits[target]`, unscaled; in place,
/// `logits = (softmax(logits) − onehot(target)) · gradient_scale[row]`. A row whose target is
/// [`IGNORE`] gets loss 0 and gradient 0. The gradient of a log-probability is the same call with
/// `gradient_scale = −dlogp`.
pub fn cross_entropy(
    _cpu: &Cpu,
    vocab: usize,
    logits: &mut [f32],
    targets: &[u32],
    gradient_scale: &[f32],
    losses: &mut [f32],
) {
    reference::cross_entropy(vocab, logits, targets, gradient_scale, losses);
}

/// Computes `log softmax(logits)[target]` of each row of `logits[rows, vocab]`, and whether the
/// target is what greedy decoding would choose (the first of the largest logits).
///
/// A row whose target is [`IGNORE`] gets 0 and `false`.
pub fn log_probabilities(
    _cpu: &Cpu,
    vocab: usize,
    logits: &[f32],
    targets: &[u32],
    log_probability: &mut [f32],
    is_greedy: &mut [bool],
) {
    reference::log_probabilities(vocab, logits, targets, log_probability, is_greedy);
}

/// Turns each row of `logits[rows, vocab]` into its softmax, in place.
pub fn softmax_rows(_cpu: &Cpu, vocab: usize, logits: &mut [f32]) {
    reference::softmax_rows(vocab, logits);
}

//! Cross-entropy and log-probabilities on rows of logits.
//!
//! The caller hands over some rows at a time, so that the logits of a whole batch never exist. A row
//! is treated by one task; everything is computed relative to its largest logit.

use crate::cpu::Cpu;
use crate::element::Element;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// The target of a row that takes no part in the loss.
pub const IGNORE: u32 = u32::MAX;

/// A pull of the sum of the exponentials, Z, towards one: `coefficient · (log Z)²` for each row.
///
/// It keeps logits from drifting away together, which cross-entropy does not feel. PaLM,
/// arXiv:2204.02311, section 5, with a coefficient of 10⁻⁴.
#[derive(Debug)]
pub struct ZLoss<'a> {
    /// What the squares are multiplied with.
    pub coefficient: f32,
    /// `(log Z)²` of each row, written here without the coefficient; 0 for ignored rows.
    pub squares: &'a mut [f32],
}

/// Computes the loss of each row of `logits[rows, vocab]` and turns the logits into gradients.
///
/// `losses[row] = log Σ exp(logits) − logits[target]`, unscaled; in place,
/// `logits = (softmax(logits) − onehot(target)) · gradient_scale[row]`. A row whose target is
/// [`IGNORE`] gets loss 0 and gradient 0. The gradient of a log-probability is the same call with
/// `gradient_scale = −dlogp`.
///
/// With a [`ZLoss`] the gradient is that of both terms, `(softmax · (1 + 2 · coefficient · log Z) −
/// onehot) · gradient_scale`; `losses` stay those of the cross-entropy.
///
/// # Panics
/// If a target is neither below `vocab` nor [`IGNORE`].
pub fn cross_entropy(
    cpu: &Cpu,
    vocab: usize,
    logits: &mut [f32],
    targets: &[u32],
    gradient_scale: &[f32],
    losses: &mut [f32],
    z_loss: Option<ZLoss<'_>>,
) {
    let rows = Rows { vocab, targets, gradient_scale };
    each_loss(cpu, &rows, logits, losses, z_loss, |_, logits, change| match change {
        None => logits.fill(0.0),
        Some(Change { target, scale, factor }) => {
            dispatch!(cpu.isa(), simd => scale_row(simd, logits, factor));
            logits[target] -= scale;
        }
    });
}

/// As [`cross_entropy`], but writes the gradients to `gradients[rows, vocab]` and leaves no meaning
/// in `logits`.
pub fn cross_entropy_into<E: Element>(
    cpu: &Cpu,
    vocab: usize,
    logits: &mut [f32],
    targets: &[u32],
    gradient_scale: &[f32],
    losses: &mut [f32],
    z_loss: Option<ZLoss<'_>>,
    gradients: &mut [E],
) {
    assert_eq!(gradients.len(), logits.len(), "one gradient for each logit");
    let gradients = Shares::new(gradients);
    let rows = Rows { vocab, targets, gradient_scale };
    each_loss(cpu, &rows, logits, losses, z_loss, |row, logits, change| {
        // SAFETY: each row comes once.
        let gradients = unsafe { gradients.part(row * vocab..(row + 1) * vocab) };
        match change {
            None => gradients.fill(E::default()),
            Some(Change { target, scale, factor }) => {
                dispatch!(cpu.isa(), simd => scale_into(simd, logits, factor, gradients));
                gradients[target] = E::from_f32(logits[target] * factor - scale);
            }
        }
    });
}

/// What each row is to predict and how much it counts.
struct Rows<'a> {
    vocab: usize,
    targets: &'a [u32],
    gradient_scale: &'a [f32],
}

/// How a row's exponentials become its gradient: times `factor`, less `scale` at the target.
struct Change {
    target: usize,
    scale: f32,
    factor: f32,
}

/// Writes the loss of each row, and hands each row's exponentials (relative to the largest logit)
/// over with how they become its gradient; without it if the row is ignored.
fn each_loss(
    cpu: &Cpu,
    rows: &Rows<'_>,
    logits: &mut [f32],
    losses: &mut [f32],
    z_loss: Option<ZLoss<'_>>,
    finish: impl Fn(usize, &mut [f32], Option<Change>) + Sync,
) {
    let &Rows { vocab, targets, gradient_scale } = rows;
    check(vocab, logits, targets);
    assert_eq!(gradient_scale.len(), targets.len(), "one gradient scale for each row");
    assert_eq!(losses.len(), targets.len(), "one loss for each row");
    let z_loss = z_loss.map(|ZLoss { coefficient, squares }| {
        assert_eq!(squares.len(), targets.len(), "one square for each row");
        (coefficient, Shares::new(squares))
    });
    let (logits, losses) = (Shares::new(logits), Shares::new(losses));
    cpu.pool().parallel_for(targets.len(), |row| {
        let write_square = |value: f32| {
            if let Some((_, squares)) = &z_loss {
                // SAFETY: each task has its own row.
                let square = unsafe { squares.part(row..row + 1) };
                square[0] = value;
            }
        };
        // SAFETY: each task has its own row.
        let (logits, loss) = unsafe {
            (logits.part(row * vocab..(row + 1) * vocab), &mut losses.part(row..row + 1)[0])
        };
        if targets[row] == IGNORE {
            *loss = 0.0;
            write_square(0.0);
            return finish(row, logits, None);
        }
        let target = targets[row] as usize;
        let at_target = logits[target];
        let (largest, sum) = dispatch!(cpu.isa(), simd => exponentiate(simd, logits));
        // In this order, since the logarithm would drown in a large logit.
        *loss = (largest - at_target) + sum.ln();
        let scale = gradient_scale[row];
        let factor = match &z_loss {
            None => scale / sum,
            Some((coefficient, _)) => {
                let log_z = largest + sum.ln();
                write_square(log_z * log_z);
                scale * (1.0 + 2.0 * coefficient * log_z) / sum
            }
        };
        finish(row, logits, Some(Change { target, scale, factor }));
    });
}

/// Computes `log softmax(logits)[target]` of each row of `logits[rows, vocab]`, and whether the
/// target is what greedy decoding would choose (the first of the largest logits).
///
/// A row whose target is [`IGNORE`] gets 0 and `false`.
///
/// # Panics
/// If a target is neither below `vocab` nor [`IGNORE`].
pub fn log_probabilities(
    cpu: &Cpu,
    vocab: usize,
    logits: &[f32],
    targets: &[u32],
    log_probability: &mut [f32],
    is_greedy: &mut [bool],
) {
    check(vocab, logits, targets);
    assert_eq!(log_probability.len(), targets.len(), "one log-probability for each row");
    assert_eq!(is_greedy.len(), targets.len(), "one flag for each row");
    let (log_probability, is_greedy) = (Shares::new(log_probability), Shares::new(is_greedy));
    cpu.pool().parallel_for(targets.len(), |row| {
        // SAFETY: each task has its own row.
        let (log_probability, is_greedy) = unsafe {
            (&mut log_probability.part(row..row + 1)[0], &mut is_greedy.part(row..row + 1)[0])
        };
        (*log_probability, *is_greedy) = (0.0, false);
        if targets[row] == IGNORE {
            return;
        }
        let (logits, target) = (&logits[row * vocab..(row + 1) * vocab], targets[row] as usize);
        let (largest, sum) = dispatch!(cpu.isa(), simd => {
            let largest = largest(simd, logits);
            (largest, sum_exp(simd, logits, largest))
        });
        *log_probability = (logits[target] - largest) - sum.ln();
        let first = || logits[..target].iter().all(|&value| value < largest);
        *is_greedy = logits[target] == largest && first();
    });
}

/// Turns each row of `logits[rows, vocab]` into its softmax, in place.
pub fn softmax_rows(cpu: &Cpu, vocab: usize, logits: &mut [f32]) {
    assert!(vocab > 0 && logits.len().is_multiple_of(vocab), "logits: [rows, vocab]");
    let rows = logits.len() / vocab;
    let logits = Shares::new(logits);
    cpu.pool().parallel_for(rows, |row| {
        // SAFETY: each task has its own row.
        let logits = unsafe { logits.part(row * vocab..(row + 1) * vocab) };
        dispatch!(cpu.isa(), simd => {
            let (_, sum) = exponentiate(simd, logits);
            scale_row(simd, logits, 1.0 / sum);
        });
    });
}

#[track_caller]
fn check(vocab: usize, logits: &[f32], targets: &[u32]) {
    assert!(vocab > 0, "vocab is positive");
    assert_eq!(logits.len(), targets.len() * vocab, "logits: one row of {vocab} for each target");
    if let Some(target) = targets.iter().find(|&&id| id != IGNORE && id as usize >= vocab) {
        panic!("target {target} is beyond a vocabulary of {vocab}");
    }
}

/// Replaces a row by the exponentials relative to its largest logit; returns that and their sum.
#[inline(always)]
fn exponentiate<S: Simd>(simd: S, row: &mut [f32]) -> (f32, f32) {
    let largest = largest(simd, row);
    let shift = simd.splat(largest);
    let mut sums = [simd.zero(); 2];
    for pair in row.chunks_mut(2 * S::LANES) {
        for (sum, chunk) in sums.iter_mut().zip(pair.chunks_mut(S::LANES)) {
            let value = simd.exp(simd.sub(simd.read(chunk), shift));
            simd.write(chunk, value);
            *sum = simd.add(*sum, masked(simd, value, chunk));
        }
    }
    (largest, simd.sum(simd.add(sums[0], sums[1])))
}

#[inline(always)]
fn scale_row<S: Simd>(simd: S, row: &mut [f32], factor: f32) {
    let factor = simd.splat(factor);
    for chunk in row.chunks_mut(S::LANES) {
        let value = simd.mul(simd.read(chunk), factor);
        simd.write(chunk, value);
    }
}

#[inline(always)]
fn scale_into<S: Simd, E: Element>(simd: S, row: &[f32], factor: f32, out: &mut [E]) {
    let factor = simd.splat(factor);
    for (chunk, out) in row.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
        simd.write(out, simd.mul(simd.read(chunk), factor));
    }
}

#[inline(always)]
fn sum_exp<S: Simd>(simd: S, row: &[f32], largest: f32) -> f32 {
    let shift = simd.splat(largest);
    let mut sums = [simd.zero(); 2];
    for pair in row.chunks(2 * S::LANES) {
        for (sum, chunk) in sums.iter_mut().zip(pair.chunks(S::LANES)) {
            let value = simd.exp(simd.sub(simd.read(chunk), shift));
            if chunk.len() == S::LANES {
                *sum = simd.add(*sum, value);
            } else {
                // Lanes beyond the row hold exp(0 − largest): keep those of the row alone.
                let mut kept = [0.0; 16];
                let kept = &mut kept[..chunk.len()];
                simd.write(kept, value);
                *sum = simd.add(*sum, simd.read(kept));
            }
        }
    }
    simd.sum(simd.add(sums[0], sums[1]))
}

/// The lanes of a value that were just written to `chunk`, zero elsewhere.
#[inline(always)]
fn masked<S: Simd>(simd: S, value: S::V, chunk: &[f32]) -> S::V {
    if chunk.len() == S::LANES { value } else { simd.read(chunk) }
}

#[inline(always)]
fn largest<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let mut most = [simd.splat(f32::NEG_INFINITY); 4];
    let blocks = row.chunks_exact(4 * S::LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for (most, chunk) in most.iter_mut().zip(block.chunks_exact(S::LANES)) {
            *most = simd.max(*most, simd.read(chunk));
        }
    }
    let most = simd.max(simd.max(most[0], most[1]), simd.max(most[2], most[3]));
    rest.iter().copied().fold(simd.largest(most), f32::max)
}

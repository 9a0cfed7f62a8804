//! Twins of what DoRA adds to LoRA (arXiv:2402.09353).

use super::Real;

/// Twin of [`crate::magnitude::adapted_norms`].
pub fn adapted_norms<T: Real>(scale: T, weight: &[T], a: &[T], b: &[T], norms: &mut [T]) {
    let (inputs, rank) = (weight.len() / norms.len(), b.len() / norms.len());
    for (output, norm) in norms.iter_mut().enumerate() {
        let mut squares = T::ZERO;
        for input in 0..inputs {
            let change: T =
                (0..rank).map(|at| b[output * rank + at] * a[at * inputs + input]).sum();
            let value = weight[output * inputs + input] + scale * change;
            squares += value * value;
        }
        *norm = squares.sqrt();
    }
}

/// Twin of [`crate::magnitude::magnitude_forward`].
pub fn magnitude_forward<T: Real>(norms: &[T], magnitude: &[T], x: &[T], out: &mut [T]) {
    for (at, out) in out.iter_mut().enumerate() {
        *out = x[at] * ratio(magnitude[at % norms.len()], norms[at % norms.len()]);
    }
}

/// Twin of [`crate::magnitude::magnitude_backward`].
pub fn magnitude_backward<T: Real>(
    norms: &[T],
    magnitude: &[T],
    x: &[T],
    dy: &mut [T],
    dmagnitude: &mut [T],
) {
    for (at, dy) in dy.iter_mut().enumerate() {
        let column = at % norms.len();
        dmagnitude[column] += ratio(*dy * x[at], norms[column]);
        *dy = *dy * ratio(magnitude[column], norms[column]);
    }
}

fn ratio<T: Real>(numerator: T, norm: T) -> T {
    if norm == T::ZERO { T::ZERO } else { numerator / norm }
}

//! What a fit makes small: a sum of Huber's function, of absolute values or of squares.
//!
//! All three are Huber's function: squares with an infinite width, absolute values as the limit of
//! a vanishing one. Sums, never means; the optimiser's stopping rule does not see the difference.

use serde::Serialize;

/// The sum that a fit makes small.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Huber's function: squares up to `delta`, absolute values beyond (Huber 1964).
    Huber {
        /// Where squares end, in units of the residual.
        delta: f64,
    },
    /// Absolute values: the median line.
    Absolute,
    /// Half the squares: the mean line.
    Squares,
}

/// What a residual is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// ln(predicted) − ln(measured), about a relative error.
    Log,
    /// Predicted − measured.
    Linear,
}

impl Objective {
    /// The objective of Hoffmann et al. 2022 (arXiv:2203.15556): δ = 0.001.
    pub const CHINCHILLA: Self = Self::Huber { delta: 1e-3 };

    /// The sum over residuals with their weights.
    pub fn sum(&self, residuals: impl IntoIterator<Item = (f64, f64)>) -> f64 {
        let one = |residual: f64| match *self {
            Self::Huber { delta } => huber(residual, delta),
            Self::Absolute => residual.abs(),
            Self::Squares => 0.5 * residual * residual,
        };
        residuals.into_iter().map(|(residual, weight)| weight * one(residual)).sum()
    }
}

/// Huber's function: u²/2 up to `delta`, then straight on.
pub(super) fn huber(residual: f64, delta: f64) -> f64 {
    let size = residual.abs();
    if size <= delta { 0.5 * size * size } else { delta * (size - 0.5 * delta) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubers_function_joins_squares_and_absolute_values() {
        let check = |objective: Objective, expect: f64| {
            let got = objective.sum([(0.5, 1.0), (-3.0, 2.0)]);
            assert!((got - expect).abs() < 1e-12, "{objective:?}: {got}");
        };
        check(Objective::Squares, 0.125 + 9.0);
        check(Objective::Absolute, 6.5);
        check(Objective::Huber { delta: 1.0 }, 0.125 + 2.0 * 2.5);
        check(Objective::Huber { delta: f64::INFINITY }, 0.125 + 9.0);
    }
}

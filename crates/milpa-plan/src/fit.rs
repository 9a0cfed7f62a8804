//! Fits the step's parameters to measured runs.
//!
//! Minimises a robust sum of squared log errors (pseudo-Huber, Charbonnier et al. 1994) with a weak
//! pull towards physical guesses, by Levenberg–Marquardt on the logarithms of the parameters, which
//! keeps them positive. Derivatives are differences; the problem has at most sixteen parameters.

use crate::{
    PlanError,
    layout::ClusterRun,
    linear::solve_in_place,
    step::{Calibration, step_time},
};

/// A run whose step was timed.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredRun {
    /// What ran.
    pub run: ClusterRun,
    /// Seconds of a step.
    pub seconds: f64,
    /// What may be left out together: a model size or a publication.
    pub group: String,
    /// A name for tables.
    pub label: String,
}

impl MeasuredRun {
    /// Predicted over measured seconds, minus one.
    pub fn relative_error(&self, calibration: &Calibration) -> f64 {
        step_time(&self.run, calibration).total() / self.seconds - 1.0
    }
}

/// A parameter of [`Calibration`] that a fit may move, and how strongly it is held at its start.
#[derive(Debug, Clone, Copy)]
pub struct Free {
    /// Where it is in a calibration.
    pub field: fn(&mut Calibration) -> &mut f64,
    /// Pull of one e-fold's distance from the start, in units of a robust log error.
    pub pull: f64,
}

/// Errors beyond this are counted linearly.
const ROBUST_WIDTH: f64 = 0.05;
const ITERATIONS: usize = 60;

/// Fits the free parameters to sets of runs; each set counts as `weight` runs whatever its size.
///
/// # Errors
/// [`PlanError::TooFewRuns`] if there are fewer runs than free parameters.
pub fn fit_calibration(
    start: &Calibration,
    free: &[Free],
    sets: &[(&[&MeasuredRun], f64)],
) -> Result<Calibration, PlanError> {
    let rows: usize = sets.iter().map(|(runs, _)| runs.len()).sum();
    if rows < free.len() {
        return Err(PlanError::TooFewRuns { rows, parameters: free.len(), needed: free.len() });
    }
    let problem = Problem { start, free, sets };
    let mut theta = vec![0.0; free.len()];
    let mut residuals = problem.residuals(&theta);
    let mut damping = 1e-2;
    for _ in 0..ITERATIONS {
        let jacobian = problem.jacobian(&theta, &residuals);
        let (step, next) = loop {
            let step = damped_step(&jacobian, &residuals, damping);
            let trial: Vec<f64> = theta.iter().zip(&step).map(|(a, b)| a + b).collect();
            let next = problem.residuals(&trial);
            if squares(&next) < squares(&residuals) {
                break (step, Some((trial, next)));
            }
            damping *= 4.0;
            if damping > 1e12 {
                break (step, None);
            }
        };
        let Some((trial, next)) = next else { break };
        (theta, residuals) = (trial, next);
        damping = (damping * 0.3).max(1e-9);
        if step.iter().all(|change| change.abs() < 1e-7) {
            break;
        }
    }
    Ok(problem.calibration(&theta))
}

struct Problem<'a> {
    start: &'a Calibration,
    free: &'a [Free],
    sets: &'a [(&'a [&'a MeasuredRun], f64)],
}

impl Problem<'_> {
    /// The calibration whose free parameters are `e^theta` times the start's.
    fn calibration(&self, theta: &[f64]) -> Calibration {
        let mut calibration = *self.start;
        for (free, log) in self.free.iter().zip(theta) {
            *(free.field)(&mut calibration) *= log.exp();
        }
        calibration
    }

    fn residuals(&self, theta: &[f64]) -> Vec<f64> {
        let calibration = self.calibration(theta);
        let mut residuals: Vec<f64> =
            self.free.iter().zip(theta).map(|(free, log)| free.pull * log).collect();
        for (runs, weight) in self.sets {
            let scale = (weight / runs.len().max(1) as f64).sqrt();
            residuals.extend(runs.iter().map(|measured| {
                let predicted = step_time(&measured.run, &calibration).total();
                scale * robust((predicted / measured.seconds).ln())
            }));
        }
        residuals
    }

    fn jacobian(&self, theta: &[f64], at: &[f64]) -> Vec<Vec<f64>> {
        const STEP: f64 = 1e-5;
        (0..theta.len())
            .map(|index| {
                let mut moved = theta.to_vec();
                moved[index] += STEP;
                let residuals = self.residuals(&moved);
                residuals.iter().zip(at).map(|(a, b)| (a - b) / STEP).collect()
            })
            .collect()
    }
}

/// A residual whose square is the pseudo-Huber function.
fn robust(error: f64) -> f64 {
    let ratio = error / ROBUST_WIDTH;
    let squared = 2.0 * ROBUST_WIDTH.powi(2) * (ratio.hypot(1.0) - 1.0);
    // Close to zero the difference of two near numbers loses its digits, not its sign.
    if ratio.abs() < 1e-4 { error } else { squared.max(0.0).sqrt().copysign(error) }
}

fn squares(values: &[f64]) -> f64 {
    // What is not a number is worse than anything.
    let sum: f64 = values.iter().map(|value| value * value).sum();
    if sum.is_nan() { f64::INFINITY } else { sum }
}

/// Solves (JᵀJ + damping·diag) step = −Jᵀr; no step where that has no solution.
fn damped_step(jacobian: &[Vec<f64>], residuals: &[f64], damping: f64) -> Vec<f64> {
    let n = jacobian.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let mut system: Vec<Vec<f64>> = (0..n)
        .map(|row| {
            let mut line: Vec<f64> =
                (0..n).map(|column| dot(&jacobian[row], &jacobian[column])).collect();
            line[row] += damping * line[row].max(1e-12);
            line
        })
        .collect();
    let mut step: Vec<f64> = jacobian.iter().map(|row| -dot(row, residuals)).collect();
    solve_in_place(&mut system, &mut step).map_or_else(|| vec![0.0; n], |()| step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Device, Layout, ModelShape, NumberFormats};

    #[test]
    fn known_parameters_are_recovered_and_too_few_runs_refused() {
        let start = Calibration::fused();
        let mut truth = start;
        truth.gemm_efficiency = 0.61;
        truth.link_efficiency = 0.41;
        let runs: Vec<MeasuredRun> = (0..12)
            .map(|index| {
                let layout =
                    Layout { tensor: 1 << (index % 4), micro_batch: 1 + index, ..Layout::SINGLE };
                let run = ClusterRun {
                    model: ModelShape::published("llama3-8b").unwrap(),
                    device: Device::named("h200").unwrap(),
                    layout,
                    batch: Batch { sequence_length: 4096, sequences: 4 * (1 + index) },
                    formats: NumberFormats::MIXED,
                };
                let seconds = step_time(&run, &truth).total();
                MeasuredRun { run, seconds, group: String::new(), label: String::new() }
            })
            .collect();
        let runs: Vec<&MeasuredRun> = runs.iter().collect();
        let free = [
            Free { field: |c| &mut c.gemm_efficiency, pull: 1e-4 },
            Free { field: |c| &mut c.link_efficiency, pull: 1e-4 },
        ];
        let fitted = fit_calibration(&start, &free, &[(&runs, 12.0)]).unwrap();
        assert!((fitted.gemm_efficiency / 0.61 - 1.0).abs() < 1e-3, "{fitted:?}");
        assert!((fitted.link_efficiency / 0.41 - 1.0).abs() < 1e-3, "{fitted:?}");
        let error = fit_calibration(&start, &free, &[(&runs[..1], 1.0)]).unwrap_err();
        assert!(error.to_string().contains("2 would be enough"), "{error}");
    }
}

//! The optimiser: minimises a robust sum of residuals in a few parameters.
//!
//! A trust-region Gauss–Newton method after Levenberg and Marquardt, with one difference: the
//! residuals are replaced by their linearisation, Huber's function is kept. The convex problem that
//! is left is solved exactly by Newton's method on its pieces, so a fit converges as fast where
//! nearly all residuals lie on the straight part as for squares. Absolute values are the last of a
//! few problems with ever smaller width (Madsen and Nielsen 1993).
//!
//! Nothing depends on the objective's scale: steps are damped relative to the curvature, and the
//! search ends when steps in the parameters are small, never because the objective is. (A search
//! that ends because a mean loss changes little is what went wrong in the published Chinchilla
//! fit; Besiroglu et al. 2024, arXiv:2404.10102.)

use super::{
    number::{Dual, Number},
    objective::{Objective, huber},
};
use crate::linear::{Matrix, solve};

/// Residuals of a model with P parameters.
pub(super) trait Residuals<const P: usize> {
    /// How many there are.
    fn count(&self) -> usize;
    /// The residual number `index`.
    fn residual<T: Number>(&self, theta: &[T; P], index: usize) -> T;
}

/// Where a search ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Minimum<const P: usize> {
    /// The parameters.
    pub(super) theta: [f64; P],
    /// The weighted sum of the objective there.
    pub(super) objective: f64,
    /// Whether steps became small within the allowed number of iterations.
    pub(super) converged: bool,
}

/// How hard to search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// The largest step, relative to the parameter or to one, that ends the search.
    pub(super) tolerance: f64,
    /// Iterations for each width.
    pub(super) iterations: usize,
}

impl Effort {
    /// For the estimate itself.
    pub(super) const FULL: Self = Self { tolerance: 1e-11, iterations: 1000 };
    /// For resamples, whose spread is far above their rounding.
    pub(super) const RESAMPLE: Self = Self { tolerance: 1e-6, iterations: 100 };
    /// For sorting starts.
    pub(super) const ROUGH: Self = Self { tolerance: 1e-4, iterations: 60 };
}

/// Minimises Σ weight·ρ(residual) from `start`.
///
/// Rows of weight zero do not count. Absolute values are approached through widths from
/// `widths.0` times the median size of a residual to `widths.1` times it.
pub(super) fn minimise<const P: usize, R: Residuals<P>>(
    problem: &R,
    weights: &[f64],
    objective: Objective,
    start: [f64; P],
    effort: Effort,
) -> Minimum<P> {
    let mut search = Search::new(problem, weights, start);
    match objective {
        Objective::Squares => search.run(f64::INFINITY, effort),
        Objective::Huber { delta } => search.run(delta, effort),
        Objective::Absolute => {
            search.run(search.median_size(), Effort { tolerance: 1e-3, ..effort });
            let size = search.median_size();
            // A width of 1e-9 of the residuals moves the parameters by less than is printed.
            let last = if effort.tolerance < Effort::RESAMPLE.tolerance { 9 } else { 4 };
            for power in 1..=last {
                let rough = Effort { tolerance: effort.tolerance.max(1e-5), ..effort };
                search.run(size * 10f64.powi(-power), if power == last { effort } else { rough });
            }
        }
    }
    let objective = objective.sum(search.residuals.iter().copied().zip(weights.iter().copied()));
    Minimum { theta: search.theta, objective, converged: search.converged }
}

/// The state of a search.
struct Search<'a, const P: usize, R> {
    problem: &'a R,
    weights: &'a [f64],
    theta: [f64; P],
    residuals: Vec<f64>,
    /// Derivatives of the residuals.
    jacobian: Vec<[f64; P]>,
    /// Linearised residuals, and their change along a direction.
    linear: Vec<f64>,
    along: Vec<f64>,
    converged: bool,
}

impl<'a, const P: usize, R: Residuals<P>> Search<'a, P, R> {
    fn new(problem: &'a R, weights: &'a [f64], theta: [f64; P]) -> Self {
        let count = problem.count();
        let mut search = Self {
            problem,
            weights,
            theta,
            residuals: vec![0.0; count],
            jacobian: vec![[0.0; P]; count],
            linear: vec![0.0; count],
            along: vec![0.0; count],
            converged: false,
        };
        search.linearise();
        search
    }

    /// Residuals and derivatives at `theta`.
    fn linearise(&mut self) {
        let variables = Dual::variables(&self.theta);
        for index in 0..self.residuals.len() {
            if self.weights[index] > 0.0 {
                let dual: Dual<P> = self.problem.residual(&variables, index);
                self.residuals[index] = dual.value;
                self.jacobian[index] = dual.gradient;
            }
        }
    }

    /// The objective at other parameters, residuals left in `along`.
    fn objective_at(&mut self, theta: &[f64; P], delta: f64) -> f64 {
        let mut sum = 0.0;
        for index in 0..self.residuals.len() {
            if self.weights[index] > 0.0 {
                let residual: f64 = self.problem.residual(theta, index);
                sum += self.weights[index] * huber(residual, delta);
            }
        }
        sum
    }

    fn median_size(&self) -> f64 {
        let mut sizes: Vec<f64> = (0..self.residuals.len())
            .filter(|&index| self.weights[index] > 0.0)
            .map(|index| self.residuals[index].abs())
            .filter(|size| size.is_finite())
            .collect();
        if sizes.is_empty() {
            return 1.0;
        }
        let middle = sizes.len() / 2;
        let (_, median, _) = sizes.select_nth_unstable_by(middle, f64::total_cmp);
        median.max(1e-12)
    }

    /// Searches with one width of Huber's function.
    fn run(&mut self, delta: f64, effort: Effort) {
        self.converged = false;
        let theta = self.theta;
        let total: f64 = self.weights.iter().sum();
        let mut objective = self.objective_at(&theta, delta);
        let mut damping = 1e-3;
        for _ in 0..effort.iterations {
            if !objective.is_finite() {
                return;
            }
            // Residuals of 1e-15: the data are met to the last bit.
            if objective <= total * huber(1e-15, delta) {
                self.converged = true;
                return;
            }
            let (step, expected) = self.step(delta, damping, objective);
            let trial: [f64; P] = std::array::from_fn(|j| self.theta[j] + step[j]);
            let size = (0..P).map(|j| step[j].abs() / (1.0 + self.theta[j].abs())).fold(
                0.0,
                |largest: f64, s| if s.is_nan() { f64::INFINITY } else { largest.max(s) },
            );
            let reached = self.objective_at(&trial, delta);
            let gain = objective - reached;
            if reached.is_finite() && gain > 0.0 {
                self.theta = trial;
                objective = reached;
                self.linearise();
                let quality = gain / expected;
                if quality > 0.7 {
                    damping = (damping * 0.1).max(1e-15);
                } else if quality < 0.3 {
                    damping *= 4.0;
                }
            }
            if size < effort.tolerance {
                // A step kept small by damping alone is no end.
                if damping <= 1.0 || gain.abs() <= 1e-13 * objective {
                    self.converged = true;
                    return;
                }
            }
            if !(reached.is_finite() && gain > 0.0) {
                damping *= 10.0;
                if damping > 1e14 {
                    // No descent to be had: as low as rounding lets it be.
                    self.converged = true;
                    return;
                }
            }
        }
    }

    /// The step that minimises the linearised objective with damping, and what it should gain.
    fn step(&mut self, delta: f64, damping: f64, objective: f64) -> ([f64; P], f64) {
        // Curvature of the parabolas that touch Huber's function at today's residuals: the natural
        // unit of each parameter, whatever the width and the weights.
        let mut curvature = [0.0; P];
        for index in 0..self.residuals.len() {
            let weight = self.weights[index];
            if weight > 0.0 {
                let weight = weight * (delta / self.residuals[index].abs()).min(1.0);
                for j in 0..P {
                    curvature[j] += weight * self.jacobian[index][j] * self.jacobian[index][j];
                }
            }
        }
        let largest = curvature.iter().copied().fold(0.0, f64::max);
        for value in &mut curvature {
            *value = value.max(largest * 1e-30).max(f64::MIN_POSITIVE);
        }
        self.linear.copy_from_slice(&self.residuals);
        let mut step = [0.0; P];
        let mut first = None;
        for _ in 0..50 {
            let (gradient, hessian) = self.derivatives(delta, damping, &curvature, &step);
            let size: f64 = (0..P).map(|j| gradient[j] * gradient[j] / curvature[j]).sum();
            let first = *first.get_or_insert(size);
            if size <= first * 1e-24 || size == 0.0 {
                break;
            }
            let Some(direction) = solve(hessian, gradient.map(|g| -g)) else { break };
            for index in 0..self.linear.len() {
                let row = &self.jacobian[index];
                self.along[index] = (0..P).map(|j| row[j] * direction[j]).sum();
            }
            let length = self.line_search(delta, damping, &curvature, &step, &direction);
            for j in 0..P {
                step[j] += length * direction[j];
            }
            for index in 0..self.linear.len() {
                self.linear[index] += length * self.along[index];
            }
            if length == 0.0 {
                break;
            }
        }
        let mut reached = 0.0;
        for index in 0..self.linear.len() {
            if self.weights[index] > 0.0 {
                reached += self.weights[index] * huber(self.linear[index], delta);
            }
        }
        (step, (objective - reached).max(f64::MIN_POSITIVE))
    }

    /// Gradient and curvature of the linearised, damped objective.
    fn derivatives(
        &self,
        delta: f64,
        damping: f64,
        curvature: &[f64; P],
        step: &[f64; P],
    ) -> ([f64; P], Matrix<P>) {
        let mut gradient: [f64; P] = std::array::from_fn(|j| damping * curvature[j] * step[j]);
        let mut hessian = [[0.0; P]; P];
        for index in 0..self.linear.len() {
            let weight = self.weights[index];
            if weight == 0.0 {
                continue;
            }
            let row = &self.jacobian[index];
            let slope = weight * self.linear[index].clamp(-delta, delta);
            for j in 0..P {
                gradient[j] += slope * row[j];
            }
            if self.linear[index].abs() <= delta {
                for j in 0..P {
                    for k in 0..=j {
                        hessian[j][k] += weight * row[j] * row[k];
                    }
                }
            }
        }
        for j in 0..P {
            // Enough to keep the pieces without curvature solvable; the line search does the rest.
            hessian[j][j] += damping.max(1e-12) * curvature[j];
            for k in 0..j {
                hessian[k][j] = hessian[j][k];
            }
        }
        (gradient, hessian)
    }

    /// How far to go: where the slope along the direction, which only rises, is zero.
    fn line_search(
        &self,
        delta: f64,
        damping: f64,
        curvature: &[f64; P],
        step: &[f64; P],
        direction: &[f64; P],
    ) -> f64 {
        let slope = |length: f64| {
            let mut sum = 0.0;
            for index in 0..self.linear.len() {
                let at = self.linear[index] + length * self.along[index];
                sum += self.weights[index] * at.clamp(-delta, delta) * self.along[index];
            }
            for j in 0..P {
                sum += damping * curvature[j] * (step[j] + length * direction[j]) * direction[j];
            }
            sum
        };
        let begin = slope(0.0);
        if begin.is_nan() || begin >= 0.0 {
            return 0.0;
        }
        let enough = -begin * 1e-10;
        let (mut low, mut at_low, mut high) = (0.0, begin, 1.0);
        let mut at_high = slope(high);
        while at_high < -enough && high < 1e9 {
            (low, at_low) = (high, at_high);
            high *= 4.0;
            at_high = slope(high);
        }
        if at_high.abs() <= enough || at_high.is_nan() || at_high < 0.0 {
            return if at_high.is_nan() { 0.0 } else { high };
        }
        // Illinois' variant of the secant: exact within a piece, and never leaves the bracket.
        let mut side = 0;
        for _ in 0..60 {
            let middle = (low * at_high - high * at_low) / (at_high - at_low);
            let at_middle = slope(middle);
            if at_middle.abs() <= enough || (high - low) <= 1e-14 * high {
                return middle;
            }
            if at_middle < 0.0 {
                (low, at_low) = (middle, at_middle);
                if side == -1 {
                    at_high *= 0.5;
                }
                side = -1;
            } else {
                (high, at_high) = (middle, at_middle);
                if side == 1 {
                    at_low *= 0.5;
                }
                side = 1;
            }
        }
        low
    }
}

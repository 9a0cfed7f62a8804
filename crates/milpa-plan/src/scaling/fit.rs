//! Fits a curve: many starts, resamples for intervals, each row left out for its influence.
//!
//! It knows curves and measured values, not what they mean. Resample `i` depends on the seed and
//! `i` alone, so results are the same on any number of threads.

use milpa_base::Seed;
use serde::Serialize;

use super::{
    curves::Curve,
    interval::{NORMAL_95, student_95},
    number::{Dual, Number},
    objective::{Objective, Scale},
    optimise::{Effort, Minimum, Residuals, minimise},
};
use crate::linear::{Matrix, scaled_condition};

/// How a curve is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FitOptions {
    /// What is made small.
    pub objective: Objective,
    /// Of which residuals.
    pub scale: Scale,
    /// Resamples of the bootstrap; 0 for none.
    pub resamples: usize,
    /// Seed of the resamples.
    pub seed: Seed,
    /// Threads to use; no result depends on it.
    pub threads: usize,
}

impl Default for FitOptions {
    /// Huber's function with δ = 0.001 on ln(loss) and 4,000 resamples, as in the replication of
    /// Chinchilla's third approach.
    fn default() -> Self {
        Self {
            objective: Objective::CHINCHILLA,
            scale: Scale::Log,
            resamples: 4000,
            seed: Seed(0),
            threads: 2,
        }
    }
}

/// Searches that are carried to the end, of all starts.
const SEARCHES: usize = 12;
/// Up to so many rows, each is left out in turn; of more, a few with the largest residuals.
const ALL_LEFT_OUT: usize = 400;
const MOST_LEFT_OUT: usize = 40;
/// Rows per parameter from which on rows themselves are drawn; with fewer, residuals are.
const ROWS_PER_PARAMETER: usize = 3;

/// A fitted curve, without its meaning.
#[derive(Debug, Clone)]
pub(super) struct Fitted<const P: usize> {
    /// Inner parameters.
    pub(super) theta: [f64; P],
    /// The sum that was made small.
    pub(super) objective: f64,
    /// Whether the search ended because its steps became small.
    pub(super) converged: bool,
    /// Searches carried to the end, and how many of them ended here.
    pub(super) searches: (usize, usize),
    /// Predicted minus measured, on the scale of the fit.
    pub(super) residuals: Vec<f64>,
    /// Parameters of each resample.
    pub(super) resamples: Vec<[f64; P]>,
    /// Whether rows were drawn; otherwise residuals.
    pub(super) rows_drawn: bool,
    /// The normal quantile that intervals reach to: expanded for the constants fitted where rows
    /// were drawn (Hesterberg 2015, arXiv:1411.5279); drawn residuals are widened already.
    pub(super) reach: f64,
    /// Parameters without one row, with the row's index.
    pub(super) without: Vec<(usize, [f64; P])>,
    /// Whether each row was left out, not only those with the largest residuals.
    pub(super) every_row_left_out: bool,
    /// Condition number of the scaled derivatives.
    pub(super) condition: f64,
}

/// A curve beside measured values.
struct Data<'a, const P: usize, C: Curve<P>> {
    curve: &'a C,
    inputs: &'a [C::Input],
    /// Measured values, as logarithms where the residuals are.
    targets: Vec<f64>,
    scale: Scale,
}

impl<const P: usize, C: Curve<P>> Residuals<P> for Data<'_, P, C> {
    fn count(&self) -> usize {
        self.inputs.len()
    }

    fn residual<T: Number>(&self, theta: &[T; P], index: usize) -> T {
        let value = self.curve.at(theta, self.inputs[index]);
        let value = match (self.scale, C::LOGARITHMIC) {
            (Scale::Log, true) | (Scale::Linear, false) => value,
            (Scale::Log, false) => value.ln(),
            (Scale::Linear, true) => value.exp(),
        };
        value - T::constant(self.targets[index])
    }
}

/// Fits `curve` to measured values.
pub(super) fn fit<const P: usize, C: Curve<P>>(
    curve: &C,
    inputs: &[C::Input],
    measured: &[f64],
    options: &FitOptions,
) -> Fitted<P> {
    let data = data(curve, inputs, measured, options.scale);
    let weights = vec![1.0; inputs.len()];
    let (best, searches) = search(&data, &weights, measured, options.objective);
    let residuals: Vec<f64> =
        (0..inputs.len()).map(|index| data.residual(&best.theta, index)).collect();
    let without = leave_out(&data, &residuals, best.theta, options);
    let (resamples, rows_drawn) = resample(&data, &residuals, best.theta, options);
    Fitted {
        theta: best.theta,
        objective: best.objective,
        converged: best.converged,
        searches,
        condition: condition(&data, &best.theta),
        residuals,
        resamples,
        rows_drawn,
        reach: if rows_drawn { NORMAL_95 * widening(inputs.len(), P) } else { NORMAL_95 },
        every_row_left_out: without.len() == inputs.len(),
        without,
    }
}

fn data<'a, const P: usize, C: Curve<P>>(
    curve: &'a C,
    inputs: &'a [C::Input],
    measured: &[f64],
    scale: Scale,
) -> Data<'a, P, C> {
    let targets = match scale {
        Scale::Log => measured.iter().map(|value| value.ln()).collect(),
        Scale::Linear => measured.to_vec(),
    };
    Data { curve, inputs, targets, scale }
}

/// Searches from all starts: roughly by squares, then the best of them to the end.
fn search<const P: usize, C: Curve<P>>(
    data: &Data<'_, P, C>,
    weights: &[f64],
    measured: &[f64],
    objective: Objective,
) -> (Minimum<P>, (usize, usize)) {
    let sum_at = |theta: &[f64; P]| -> f64 {
        let residuals = (0..data.count()).map(|index| data.residual(theta, index));
        Objective::Squares.sum(residuals.zip(weights.iter().copied()))
    };
    let mut starts: Vec<(f64, [f64; P])> = data
        .curve
        .starts(data.inputs, measured)
        .into_iter()
        .map(|theta| (sum_at(&theta), theta))
        .filter(|(sum, _)| sum.is_finite())
        .collect();
    starts.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Not the very best alone: starts beside each other lead to the same place.
    let stride = (starts.len() / (4 * SEARCHES)).max(1);
    let mut ends: Vec<Minimum<P>> = starts
        .iter()
        .step_by(stride)
        .take(SEARCHES)
        .map(|(_, theta)| {
            let rough = minimise(data, weights, Objective::Squares, *theta, Effort::ROUGH);
            minimise(data, weights, objective, rough.theta, Effort::FULL)
        })
        .filter(|end| end.objective.is_finite())
        .collect();
    ends.sort_by(|a, b| a.objective.total_cmp(&b.objective));
    let Some(&best) = ends.first() else {
        let theta = starts.first().map_or([f64::NAN; P], |start| start.1);
        return (Minimum { theta, objective: f64::INFINITY, converged: false }, (0, 0));
    };
    let same = |end: &&Minimum<P>| end.objective <= best.objective * (1.0 + 1e-6) + 1e-15;
    let agreeing = ends.iter().filter(same).count();
    (best, (ends.len(), agreeing))
}

/// Fits again without each row.
fn leave_out<const P: usize, C: Curve<P>>(
    data: &Data<'_, P, C>,
    residuals: &[f64],
    theta: [f64; P],
    options: &FitOptions,
) -> Vec<(usize, [f64; P])> {
    let mut rows: Vec<usize> = (0..data.count()).collect();
    rows.sort_by(|&a, &b| residuals[b].abs().total_cmp(&residuals[a].abs()));
    if rows.len() > ALL_LEFT_OUT {
        rows.truncate(MOST_LEFT_OUT);
    }
    rows.sort_unstable();
    let fits = in_parallel(rows.len(), options.threads, |at| {
        let mut weights = vec![1.0; data.count()];
        weights[rows[at]] = 0.0;
        minimise(data, &weights, options.objective, theta, Effort::RESAMPLE).theta
    });
    rows.into_iter().zip(fits).collect()
}

/// The bootstrap: fits to rows drawn with replacement or, where rows are too few for that, to the
/// curve with its residuals drawn, widened for the degrees of freedom that the fit has used.
fn resample<const P: usize, C: Curve<P>>(
    data: &Data<'_, P, C>,
    residuals: &[f64],
    theta: [f64; P],
    options: &FitOptions,
) -> (Vec<[f64; P]>, bool) {
    let count = data.count();
    let rows_drawn = count >= ROWS_PER_PARAMETER * P;
    let seed = options.seed.derive("bootstrap");
    let widening = widening(count, P);
    let fits = in_parallel(options.resamples, options.threads, |number| {
        let draws = seed.nth(number as u64);
        let draw =
            |index: usize| ((draws.f64_at(index as u64) * count as f64) as usize).min(count - 1);
        if rows_drawn {
            let mut weights = vec![0.0; count];
            for index in 0..count {
                weights[draw(index)] += 1.0;
            }
            return minimise(data, &weights, options.objective, theta, Effort::RESAMPLE).theta;
        }
        let targets = (0..count)
            .map(|index| data.targets[index] + residuals[index] - widening * residuals[draw(index)])
            .collect();
        let again = Data { targets, ..*data };
        minimise(&again, &vec![1.0; count], options.objective, theta, Effort::RESAMPLE).theta
    });
    (fits, rows_drawn)
}

/// How much wider than the residuals' spread an interval is, for P constants fitted to few rows.
fn widening(count: usize, parameters: usize) -> f64 {
    let freedom = count.saturating_sub(parameters).max(1);
    (count as f64 / freedom as f64).sqrt() * student_95(freedom) / NORMAL_95
}

fn condition<const P: usize, C: Curve<P>>(data: &Data<'_, P, C>, theta: &[f64; P]) -> f64 {
    let variables = Dual::variables(theta);
    let mut gram: Matrix<P> = [[0.0; P]; P];
    for index in 0..data.count() {
        let Dual { gradient, .. } = data.residual(&variables, index);
        for j in 0..P {
            for k in 0..P {
                gram[j][k] += gradient[j] * gradient[k];
            }
        }
    }
    scaled_condition(&gram)
}

/// `work(0), …, work(count − 1)`, in order, on `threads` threads.
pub(super) fn in_parallel<T: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let threads = threads.clamp(1, count.max(1));
    let share = count.div_ceil(threads);
    let work = &work;
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|thread| {
                let range = (thread * share).min(count)..((thread + 1) * share).min(count);
                scope.spawn(move || range.map(work).collect::<Vec<T>>())
            })
            .collect();
        let join = |part: std::thread::ScopedJoinHandle<'_, Vec<T>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().flat_map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::curves::{Centre, Chinchilla, Size};

    /// Besiroglu et al. 2024 on 60 sizes with normal noise on ln(loss).
    fn synthetic(noise: f64, seed: u64) -> (Vec<Size>, Vec<f64>) {
        let mut sizes = Vec::new();
        let mut losses = Vec::new();
        for i in 0..60u32 {
            let n = 5e7 * 1.25f64.powi((i % 12) as i32 * 2);
            let d = n * [3.0, 8.0, 20.0, 50.0, 150.0][(i / 12) as usize];
            let loss = 1.81686 + 482.006 / n.powf(0.34781) + 2085.44 / d.powf(0.36585);
            sizes.push(Size { parameters: n.ln(), tokens: d.ln(), unique_tokens: d.ln() });
            losses.push(loss * (noise * Seed(seed).normal_at(u64::from(i))).exp());
        }
        (sizes, losses)
    }

    fn quick(objective: Objective) -> FitOptions {
        FitOptions { objective, resamples: 0, ..FitOptions::default() }
    }

    fn fitted(sizes: &[Size], losses: &[f64], options: &FitOptions) -> (Fitted<5>, [f64; 5]) {
        let curve = Chinchilla(Centre::of(sizes));
        let fitted = fit(&curve, sizes, losses, options);
        let constants = curve.constants(&fitted.theta);
        (fitted, constants)
    }

    #[test]
    fn known_constants_come_back_from_exact_data() {
        let (sizes, losses) = synthetic(0.0, 0);
        for objective in [Objective::CHINCHILLA, Objective::Absolute, Objective::Squares] {
            let (fit, constants) = fitted(&sizes, &losses, &quick(objective));
            let expect = [482.006, 2085.44, 1.81686, 0.34781, 0.36585];
            for (got, want) in constants.iter().zip(expect) {
                assert!((got / want - 1.0).abs() < 1e-6, "{objective:?} {constants:?}");
            }
            assert!(fit.converged && fit.condition > 1.0);
        }
    }

    #[test]
    fn the_scale_of_the_objective_changes_nothing() {
        // A mean instead of a sum, or a sum times 1e-6: the published Chinchilla fit stopped early
        // for that reason.
        let (sizes, losses) = synthetic(0.01, 7);
        let curve = Chinchilla(Centre::of(&sizes));
        let data = data(&curve, &sizes, &losses, Scale::Log);
        let start = curve.starts(&sizes, &losses)[40];
        for objective in [Objective::CHINCHILLA, Objective::Absolute, Objective::Squares] {
            let at = |weight: f64| {
                minimise(&data, &vec![weight; 60], objective, start, Effort::FULL).theta
            };
            let sum = at(1.0);
            for weight in [1.0 / 60.0, 1e-6, 1e-9, 1e6] {
                for (a, b) in sum.iter().zip(at(weight)) {
                    assert!((a - b).abs() < 1e-7, "{objective:?} {weight}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn a_minimum_is_one_in_every_direction() {
        let (sizes, losses) = synthetic(0.01, 3);
        let curve = Chinchilla(Centre::of(&sizes));
        let data = data(&curve, &sizes, &losses, Scale::Log);
        for objective in [Objective::CHINCHILLA, Objective::Absolute, Objective::Squares] {
            let (fit, _) = fitted(&sizes, &losses, &quick(objective));
            let sum = |theta: &[f64; 5]| {
                objective.sum((0..60).map(|index| (data.residual(theta, index), 1.0)))
            };
            let best = sum(&fit.theta);
            for direction in 0..200u64 {
                for size in [1e-2, 1e-4, 1e-6] {
                    let near = std::array::from_fn(|j| {
                        fit.theta[j] + size * Seed(direction).normal_at(j as u64)
                    });
                    assert!(sum(&near) >= best * (1.0 - 1e-12), "{objective:?} {direction} {size}");
                }
            }
        }
    }

    #[test]
    fn resamples_are_the_same_on_any_number_of_threads() {
        let (sizes, losses) = synthetic(0.01, 2);
        let with = |threads| {
            let options = FitOptions { resamples: 40, threads, ..FitOptions::default() };
            fitted(&sizes, &losses, &options).0.resamples
        };
        assert_eq!(with(1), with(3));
    }
}

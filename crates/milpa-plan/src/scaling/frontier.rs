//! The compute-optimal size read off the data, without a law of the loss: Chinchilla's first two
//! approaches (Hoffmann et al. 2022, arXiv:2203.15556).
//!
//! Approach 1 takes the lower envelope of training curves over compute, approach 2 the lowest point
//! of a parabola through runs of equal compute. Both end in straight lines of ln N* and ln D* over
//! ln C, whose slopes are the exponents a and b.

use milpa_base::Seed;
use serde::Serialize;

use super::{
    fit::{FitOptions, in_parallel},
    interval::{Estimate, NORMAL_95, estimate},
};
use crate::linear::{Line, line, solve};

/// A run, or a point of a training curve, as the frontier needs it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FrontierRun {
    /// C.
    pub flops: f64,
    /// N.
    pub parameters: f64,
    /// D.
    pub tokens: f64,
    /// The loss.
    pub loss: f64,
}

/// The best run found at one compute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Best {
    /// C.
    pub flops: f64,
    /// N*.
    pub parameters: f64,
    /// D*.
    pub tokens: f64,
    /// The loss there.
    pub loss: f64,
}

/// Runs of equal compute with the parabola through them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IsoFlop {
    /// Their mean compute (geometric).
    pub flops: f64,
    /// The runs.
    pub runs: Vec<FrontierRun>,
    /// Loss = c₀ + c₁·x + c₂·x² of x = ln N − `middle`; none where it has no lowest point.
    pub parabola: Option<[f64; 3]>,
    /// Where x is zero.
    pub middle: f64,
    /// Why the group says nothing of the optimum, if so.
    pub left_out: Option<&'static str>,
}

/// Compute-optimal sizes as power laws of compute.
#[derive(Debug, Clone, Serialize)]
pub struct Frontier {
    /// The best runs that the lines go through.
    pub best: Vec<Best>,
    /// Groups of equal compute (approach 2).
    pub groups: Vec<IsoFlop>,
    /// ln N* = intercept + slope·ln C.
    pub parameters: Line,
    /// ln D* = intercept + slope·ln C.
    pub tokens: Line,
    /// The exponent a of N* ∝ C^a.
    pub parameters_exponent: Estimate,
    /// The exponent b of D* ∝ C^b.
    pub tokens_exponent: Estimate,
    /// Lines of the resamples: those of N*, those of D*.
    #[serde(skip)]
    resampled: Vec<(Line, Line)>,
    /// Points of the envelope whose best run is the smallest or the largest there is (approach 1).
    pub censored: usize,
}

impl Frontier {
    /// N* and D* of a budget.
    pub fn optimum(&self, flops: f64) -> (Estimate, Estimate) {
        let at = |pick: fn(&(Line, Line)) -> Line| {
            let value = pick(&(self.parameters, self.tokens)).at(flops.ln()).exp();
            let resamples = self.resampled.iter().map(|lines| pick(lines).at(flops.ln()).exp());
            estimate(value, resamples.collect(), &[], NORMAL_95)
        };
        (at(|lines| lines.0), at(|lines| lines.1))
    }
}

/// Runs whose compute differs by less than this factor are one group.
const SAME_COMPUTE: f64 = 1.12;
/// Points at which the envelope is taken.
const ENVELOPE_POINTS: usize = 300;

/// Approach 2: parabolas through runs of equal compute.
///
/// Resamples draw each group's residuals, widened for the three constants of its parabola.
///
/// # Errors
/// What is missing, in words, if fewer than two groups have a lowest point.
pub fn iso_flop(runs: &[FrontierRun], options: &FitOptions) -> Result<Frontier, String> {
    let groups = equal_compute(runs);
    let usable: Vec<&IsoFlop> = groups.iter().filter(|group| group.left_out.is_none()).collect();
    let minima: Vec<Best> = usable.iter().filter_map(|group| lowest(&group.runs)).collect();
    let Some((parameters, tokens)) = lines(&minima) else {
        let reasons: Vec<&str> = groups.iter().filter_map(|group| group.left_out).collect();
        return Err(format!(
            "{} of {} groups of equal compute have a lowest point inside their sizes, two are needed{}",
            minima.len(),
            groups.len(),
            reasons.first().map(|reason| format!(" (first reason: {reason})")).unwrap_or_default()
        ));
    };
    let seed = options.seed.derive("iso-flop");
    let resampled = in_parallel(options.resamples, options.threads, |number| {
        let draws = seed.nth(number as u64);
        let minima: Vec<Best> = usable
            .iter()
            .enumerate()
            .filter_map(|(index, group)| {
                let by = |x: f64| at_parabola(group.parabola, x - group.middle);
                let count = group.runs.len();
                let widening = (count as f64 / count.saturating_sub(3).max(1) as f64).sqrt();
                let draws = draws.nth(index as u64);
                let again: Vec<FrontierRun> = group
                    .runs
                    .iter()
                    .enumerate()
                    .map(|(place, run)| {
                        let drawn = &group.runs[draw(draws, place, count)];
                        let residual = drawn.loss - by(drawn.parameters.ln());
                        let loss = by(run.parameters.ln()) + widening * residual;
                        FrontierRun { loss, ..*run }
                    })
                    .collect();
                lowest(&again)
            })
            .collect();
        lines(&minima)
    });
    Ok(frontier(minima, groups.clone(), (parameters, tokens), resampled, 0))
}

/// Approach 1: the lower envelope of training curves, one list of points for each run.
///
/// At each compute the best run is taken, by interpolation between its points; where that is the
/// smallest or the largest run there, the optimum may lie outside and the point is left out.
/// Resamples draw whole runs.
///
/// # Errors
/// What is missing, in words.
pub fn envelope(curves: &[Vec<FrontierRun>], options: &FitOptions) -> Result<Frontier, String> {
    let all: Vec<&Vec<FrontierRun>> = curves.iter().collect();
    let (best, censored) = lower_envelope(&all);
    let Some(found) = lines(&best) else {
        return Err(format!(
            "the lower envelope of {} training curves passes no run between the smallest and the \
             largest; curves of at least four sizes that overlap in compute are needed",
            curves.len()
        ));
    };
    let seed = options.seed.derive("envelope");
    let resampled = in_parallel(options.resamples, options.threads, |number| {
        let draws = seed.nth(number as u64);
        let drawn: Vec<&Vec<FrontierRun>> =
            (0..curves.len()).map(|place| &curves[draw(draws, place, curves.len())]).collect();
        lines(&lower_envelope(&drawn).0)
    });
    Ok(frontier(best, Vec::new(), found, resampled, censored))
}

fn draw(seed: Seed, place: usize, count: usize) -> usize {
    ((seed.f64_at(place as u64) * count as f64) as usize).min(count - 1)
}

fn frontier(
    best: Vec<Best>,
    groups: Vec<IsoFlop>,
    (parameters, tokens): (Line, Line),
    resampled: Vec<Option<(Line, Line)>>,
    censored: usize,
) -> Frontier {
    let resampled: Vec<(Line, Line)> = resampled.into_iter().flatten().collect();
    let slope = |value: Line, pick: fn(&(Line, Line)) -> Line| {
        let slopes = resampled.iter().map(|lines| pick(lines).slope).collect();
        estimate(value.slope, slopes, &[], NORMAL_95)
    };
    Frontier {
        parameters_exponent: slope(parameters, |lines| lines.0),
        tokens_exponent: slope(tokens, |lines| lines.1),
        best,
        groups,
        parameters,
        tokens,
        resampled,
        censored,
    }
}

fn lines(best: &[Best]) -> Option<(Line, Line)> {
    let of = |value: fn(&Best) -> f64| {
        line(&best.iter().map(|b| (b.flops.ln(), value(b).ln())).collect::<Vec<_>>())
    };
    Some((of(|b| b.parameters)?, of(|b| b.tokens)?))
}

/// Groups of equal compute, in order.
fn equal_compute(runs: &[FrontierRun]) -> Vec<IsoFlop> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| a.flops.total_cmp(&b.flops));
    let mut groups: Vec<Vec<FrontierRun>> = Vec::new();
    for run in sorted {
        match groups.last_mut() {
            Some(group) if run.flops <= group[0].flops * SAME_COMPUTE => group.push(run),
            _ => groups.push(vec![run]),
        }
    }
    groups.into_iter().map(describe).collect()
}

fn describe(mut runs: Vec<FrontierRun>) -> IsoFlop {
    runs.sort_by(|a, b| a.parameters.total_cmp(&b.parameters));
    let flops = mean(runs.iter().map(|run| run.flops.ln())).exp();
    let xs: Vec<f64> = runs.iter().map(|run| run.parameters.ln()).collect();
    let middle = mean(xs.iter().copied());
    let mut sizes = xs.clone();
    sizes.dedup_by(|a, b| (*a - *b).abs() < 1e-6);
    let parabola = parabola(xs.iter().map(|x| x - middle).zip(runs.iter().map(|run| run.loss)));
    let vertex = parabola.map(|[_, c1, c2]| middle - c1 / (2.0 * c2));
    let left_out = match (parabola, vertex) {
        _ if sizes.len() < 3 => Some("fewer than three sizes"),
        (Some([_, _, c2]), Some(_)) if c2 <= 0.0 => Some("the parabola opens downwards"),
        (Some(_), Some(vertex)) if vertex < sizes[0] => Some("the lowest point is below all sizes"),
        (Some(_), Some(vertex)) if vertex > sizes[sizes.len() - 1] => {
            Some("the lowest point is above all sizes")
        }
        (Some(_), Some(_)) => None,
        _ => Some("no parabola goes through it"),
    };
    IsoFlop { flops, runs, parabola, middle, left_out }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

fn at_parabola(parabola: Option<[f64; 3]>, x: f64) -> f64 {
    parabola.map_or(f64::NAN, |[c0, c1, c2]| c0 + x * (c1 + x * c2))
}

/// Least squares of y = c₀ + c₁·x + c₂·x².
fn parabola(points: impl Iterator<Item = (f64, f64)>) -> Option<[f64; 3]> {
    let (mut a, mut b) = ([[0.0; 3]; 3], [0.0; 3]);
    for (x, y) in points {
        let powers = [1.0, x, x * x];
        for j in 0..3 {
            b[j] += powers[j] * y;
            for k in 0..3 {
                a[j][k] += powers[j] * powers[k];
            }
        }
    }
    solve(a, b)
}

/// The lowest point of the parabolas through runs of equal compute, over ln N and over ln D.
fn lowest(runs: &[FrontierRun]) -> Option<Best> {
    let vertex = |value: fn(&FrontierRun) -> f64| {
        let middle = mean(runs.iter().map(|run| value(run).ln()));
        let [c0, c1, c2] = parabola(runs.iter().map(|run| (value(run).ln() - middle, run.loss)))?;
        (c2 > 0.0).then(|| ((middle - c1 / (2.0 * c2)).exp(), c0 - c1 * c1 / (4.0 * c2)))
    };
    let (parameters, loss) = vertex(|run| run.parameters)?;
    let (tokens, _) = vertex(|run| run.tokens)?;
    let flops = mean(runs.iter().map(|run| run.flops.ln())).exp();
    Some(Best { flops, parameters, tokens, loss })
}

/// The best run at each of many computes, and how many were left out.
fn lower_envelope(curves: &[&Vec<FrontierRun>]) -> (Vec<Best>, usize) {
    let ends = |pick: fn(f64, f64) -> f64, from: f64| {
        curves.iter().flat_map(|curve| curve.iter()).map(|run| run.flops.ln()).fold(from, pick)
    };
    let (low, high) = (ends(f64::min, f64::INFINITY), ends(f64::max, f64::NEG_INFINITY));
    let (mut best, mut censored) = (Vec::new(), 0);
    for point in 0..ENVELOPE_POINTS {
        let flops = low + (high - low) * point as f64 / (ENVELOPE_POINTS - 1) as f64;
        let there: Vec<Best> =
            curves.iter().filter_map(|curve| interpolate(curve, flops)).collect();
        let Some(lowest) = there.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)) else { continue };
        let smaller = there.iter().any(|other| other.parameters < lowest.parameters * 0.999);
        let larger = there.iter().any(|other| other.parameters > lowest.parameters * 1.001);
        if smaller && larger {
            best.push(*lowest);
        } else {
            censored += 1;
        }
    }
    (best, censored)
}

/// A training curve at a compute, between two of its points.
fn interpolate(curve: &[FrontierRun], log_flops: f64) -> Option<Best> {
    let after = curve.partition_point(|run| run.flops.ln() < log_flops);
    let (from, to) = (curve.get(after.checked_sub(1)?)?, curve.get(after)?);
    let share = (log_flops - from.flops.ln()) / (to.flops.ln() - from.flops.ln());
    let between = |a: f64, b: f64| (a.ln() + share * (b.ln() - a.ln())).exp();
    Some(Best {
        flops: log_flops.exp(),
        parameters: from.parameters,
        tokens: between(from.tokens, to.tokens),
        loss: between(from.loss, to.loss),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BESIROGLU: [f64; 5] = [482.00572, 2085.4342, 1.81686, 0.34781, 0.36585];

    fn loss(n: f64, d: f64) -> f64 {
        let [a, b, e, alpha, beta] = BESIROGLU;
        e + a / n.powf(alpha) + b / d.powf(beta)
    }

    fn options() -> FitOptions {
        FitOptions { resamples: 500, ..FitOptions::default() }
    }

    fn optimal(flops: f64) -> f64 {
        let [a, b, _, alpha, beta] = BESIROGLU;
        let g = (alpha * a / (beta * b)).powf(1.0 / (alpha + beta));
        g * (flops / 6.0).powf(beta / (alpha + beta))
    }

    #[test]
    fn parabolas_find_the_optimum_of_a_known_law() {
        let mut runs = Vec::new();
        for i in 0..6 {
            let flops = 1e19 * 4f64.powi(i);
            for step in -4..=4 {
                let n = optimal(flops) * 1.25f64.powi(step);
                let d = flops / (6.0 * n);
                let noise = (2e-4 * Seed(1).normal_at((10 * i + step + 4) as u64)).exp();
                runs.push(FrontierRun {
                    flops,
                    parameters: n,
                    tokens: d,
                    loss: loss(n, d) * noise,
                });
            }
        }
        let frontier = iso_flop(&runs, &options()).unwrap();
        let expect = 0.36585 / (0.34781 + 0.36585);
        assert!((frontier.parameters_exponent.value - expect).abs() < 0.01, "{frontier:?}");
        assert!(frontier.parameters_exponent.holds(expect), "{:?}", frontier.parameters_exponent);
        assert!((frontier.parameters.slope + frontier.tokens.slope - 1.0).abs() < 1e-9);
        let (n, _) = frontier.optimum(1e23);
        assert!((n.value / optimal(1e23) - 1.0).abs() < 0.1, "{n:?}");
    }

    #[test]
    fn the_envelope_of_training_curves_follows_a_known_law() {
        // Curves as constant rates with short decays would give: the law itself at each point.
        let curves: Vec<Vec<FrontierRun>> = (0..16)
            .map(|i| {
                let n = 3e7 * 1.5f64.powi(i);
                let point = |j: i32| {
                    let d = n * 0.5 * 1.12f64.powi(j);
                    FrontierRun { flops: 6.0 * n * d, parameters: n, tokens: d, loss: loss(n, d) }
                };
                (0..60).map(point).collect()
            })
            .collect();
        let frontier = envelope(&curves, &options()).unwrap();
        let expect = 0.36585 / (0.34781 + 0.36585);
        assert!((frontier.parameters_exponent.value - expect).abs() < 0.02, "{frontier:?}");
        assert!(frontier.censored > 0);
    }

    #[test]
    fn an_optimum_outside_the_sizes_is_left_out() {
        let group = |low: f64, flops: f64| {
            (0..5).map(move |i| {
                let n = low * 1.3f64.powi(i);
                let d = flops / (6.0 * n);
                FrontierRun { flops, parameters: n, tokens: d, loss: loss(n, d) }
            })
        };
        let far = optimal(1e20) * 20.0;
        let runs: Vec<FrontierRun> = group(far, 1e20).chain(group(far, 4e20)).collect();
        let error = iso_flop(&runs, &options()).unwrap_err();
        assert!(error.contains("0 of 2 groups") && error.contains("below all sizes"), "{error}");
        assert!(envelope(&[runs], &options()).unwrap_err().contains("four sizes"));
    }
}

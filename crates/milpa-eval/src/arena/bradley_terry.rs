//! Bradley–Terry strengths by maximum likelihood: ties count half, Newton's method, sandwich errors.
//!
//! P(a beats b) = σ(θ_a − θ_b + x·c), where x describes the answers' style and c what voters pay for
//! it. Only differences of θ are known, so their mean is fixed at 0. With n votes on a pair the
//! maximum is finite if and only if everyone can be reached from everyone by wins or ties
//! ([`largest_comparable`]); L. R. Ford, American Mathematical Monthly 64 (1957) 28–33.
//!
//! The sandwich H⁻¹ G H⁻¹ holds where votes are no Bernoulli draws of the model (ties do vary less):
//! P. J. Huber 1967; used by arena-rank, whose ridge of 1e-5 per vote on H is kept here, so that
//! both give the same intervals.

use milpa_base::Seed;

use super::linear::Cholesky;
use crate::error::EvalError;

/// Ridge on the Hessian behind the sandwich, for each vote.
const HESSIAN_RIDGE: f64 = 1e-5;
/// Ridge of a bootstrap replicate, for each vote: a draw may leave a competitor without a loss.
const REPLICATE_RIDGE: f64 = 1e-6;
/// Newton steps at most; some ten are usual.
const MAX_STEPS: usize = 200;

/// Votes between two competitors that share their style features.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) a: usize,
    pub(super) b: usize,
    /// Weight of each vote.
    pub(super) weight: f64,
    /// Votes for a, ties, votes for b.
    pub(super) counts: [f64; 3],
}

impl Row {
    fn total(&self) -> f64 {
        self.counts.iter().sum::<f64>() * self.weight
    }

    /// Wins of a, ties as halves.
    fn share(&self) -> f64 {
        (self.counts[0] + 0.5 * self.counts[1]) * self.weight
    }

    /// Σ (y − p)² over the votes, with squared weights.
    fn squares(&self, p: f64) -> f64 {
        let [a, tie, b] = self.counts;
        let sum = a * (1.0 - p).powi(2) + tie * (0.5 - p).powi(2) + b * p * p;
        sum * self.weight * self.weight
    }
}

/// A likelihood to be maximised.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// Competitors.
    pub(super) models: usize,
    /// Style features of each row.
    pub(super) features: usize,
    pub(super) rows: Vec<Row>,
    /// `rows` × `features`.
    pub(super) x: Vec<f64>,
    /// L2 penalty on the style coefficients, for each vote.
    pub(super) style_ridge: f64,
    /// L2 penalty on the ratings, for each vote.
    pub(super) rating_ridge: f64,
}

/// Gradient and Hessian at a point.
struct Slope {
    gradient: Vec<f64>,
    hessian: Vec<f64>,
}

impl Problem {
    fn size(&self) -> usize {
        self.models + self.features
    }

    fn x(&self, row: usize) -> &[f64] {
        &self.x[row * self.features..(row + 1) * self.features]
    }

    fn logit(&self, parameters: &[f64], index: usize) -> f64 {
        let row = &self.rows[index];
        let style = &parameters[self.models..];
        let product: f64 = self.x(index).iter().zip(style).map(|(x, c)| x * c).sum();
        parameters[row.a] - parameters[row.b] + product
    }

    fn total(&self) -> f64 {
        self.rows.iter().map(Row::total).sum()
    }

    /// Penalty on each parameter.
    fn ridges(&self) -> Vec<f64> {
        let total = self.total();
        let mut ridges = vec![self.rating_ridge * total; self.models];
        ridges.resize(self.size(), self.style_ridge * total);
        ridges
    }

    /// Negative log-likelihood with the penalties.
    fn loss(&self, parameters: &[f64], ridges: &[f64]) -> f64 {
        let penalty: f64 =
            parameters.iter().zip(ridges).map(|(value, ridge)| 0.5 * ridge * value * value).sum();
        let likelihood: f64 = (0..self.rows.len())
            .map(|index| {
                let logit = self.logit(parameters, index);
                self.rows[index].total() * softplus(logit) - self.rows[index].share() * logit
            })
            .sum();
        penalty + likelihood
    }

    fn slope(&self, parameters: &[f64], ridges: &[f64]) -> Slope {
        let size = self.size();
        let mut gradient: Vec<f64> = parameters.iter().zip(ridges).map(|(v, r)| v * r).collect();
        let mut hessian = vec![0.0; size * size];
        for (index, row) in self.rows.iter().enumerate() {
            let p = sigmoid(self.logit(parameters, index));
            let total = row.total();
            let residual = total * p - row.share();
            gradient[row.a] += residual;
            gradient[row.b] -= residual;
            for (slot, x) in gradient[self.models..].iter_mut().zip(self.x(index)) {
                *slot += residual * x;
            }
            self.add_outer(&mut hessian, index, total * p * (1.0 - p));
        }
        for (at, ridge) in ridges.iter().enumerate() {
            hessian[at * size + at] += ridge;
        }
        Slope { gradient, hessian }
    }

    /// Adds `value` times the outer product of a row's derivative with itself; the lower half.
    fn add_outer(&self, matrix: &mut [f64], index: usize, value: f64) {
        let (size, row) = (self.size(), &self.rows[index]);
        let (low, high) = (row.a.min(row.b), row.a.max(row.b));
        matrix[row.a * size + row.a] += value;
        matrix[row.b * size + row.b] += value;
        matrix[high * size + low] -= value;
        let x = self.x(index);
        for (feature, xi) in x.iter().enumerate() {
            let line = &mut matrix[(self.models + feature) * size..][..size];
            line[row.a] += value * xi;
            line[row.b] -= value * xi;
            for (slot, xj) in line[self.models..].iter_mut().zip(&x[..=feature]) {
                *slot += value * xi * xj;
            }
        }
    }

    /// The most likely parameters, ratings (with mean 0) before style coefficients.
    ///
    /// # Errors
    /// A likelihood without a finite maximum, or style features that say the same.
    pub(super) fn fit(&self, start: &[f64]) -> Result<Vec<f64>, EvalError> {
        let size = self.size();
        let ridges = self.ridges();
        let mut parameters = start.to_vec();
        let mut loss = self.loss(&parameters, &ridges);
        for _ in 0..MAX_STEPS {
            let Slope { gradient, mut hessian } = self.slope(&parameters, &ridges);
            // Adding the same to all ratings changes nothing: this fixes their sum.
            let gauge = (0..self.models).map(|i| hessian[i * size + i]).sum::<f64>()
                / (self.models * self.models) as f64;
            for row in 0..self.models {
                hessian[row * size..=row * size + row].iter_mut().for_each(|h| *h += gauge);
            }
            let cholesky = Cholesky::new(&hessian, size).ok_or_else(|| {
                EvalError::NoRating(
                    "the likelihood has no single maximum; a style feature may be constant or \
                     the sum of others, leave it out"
                        .to_owned(),
                )
            })?;
            let mut step = gradient;
            cholesky.solve(&mut step);
            let largest = step.iter().fold(0.0f64, |most, value| most.max(value.abs()));
            let mut scale = 1.0;
            let tried = loop {
                let tried: Vec<f64> = parameters
                    .iter()
                    .zip(&step)
                    .map(|(value, step)| value - scale * step)
                    .collect();
                let tried_loss = self.loss(&tried, &ridges);
                // Near the minimum rounding may lift the loss a little.
                if tried_loss <= loss + 1e-12 * loss.abs() || scale < 1e-6 {
                    loss = tried_loss;
                    break tried;
                }
                scale *= 0.5;
            };
            parameters = tried;
            if largest < 1e-9 {
                return Ok(parameters);
            }
        }
        Err(EvalError::NoRating(format!(
            "no maximum of the likelihood after {MAX_STEPS} steps; a competitor may have won or \
             lost every vote"
        )))
    }

    /// Sandwich covariance of the parameters, row-major.
    pub(super) fn covariance(&self, parameters: &[f64]) -> Result<Vec<f64>, EvalError> {
        let size = self.size();
        let ridges = self.ridges();
        let Slope { mut hessian, .. } = self.slope(parameters, &ridges);
        let ridge = HESSIAN_RIDGE * self.total();
        for at in 0..size {
            hessian[at * size + at] += ridge;
        }
        let mut middle = vec![0.0; size * size];
        for index in 0..self.rows.len() {
            let p = sigmoid(self.logit(parameters, index));
            self.add_outer(&mut middle, index, self.rows[index].squares(p));
        }
        for row in 0..size {
            for column in 0..row {
                middle[column * size + row] = middle[row * size + column];
            }
        }
        let cholesky = Cholesky::new(&hessian, size).ok_or_else(|| {
            EvalError::NoRating("the errors of the ratings cannot be computed".to_owned())
        })?;
        Ok(cholesky.sandwich(&middle))
    }

    /// Parameters of bootstrap replicates: votes are drawn with replacement from all votes, counted
    /// by row and outcome, and fitted from `start`. The same on any number of threads.
    pub(super) fn bootstrap(
        &self,
        start: &[f64],
        replicates: usize,
        seed: Seed,
        threads: usize,
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Vec<f64>>, EvalError> {
        // One entry for each vote: where it counts.
        let mut slots: Vec<u32> = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            for (outcome, count) in row.counts.iter().enumerate() {
                let slot = (index * 3 + outcome) as u32;
                slots.extend(std::iter::repeat_n(slot, *count as usize));
            }
        }
        let one = |replicate: usize, drawn: &mut Problem| {
            drawn.rows.iter_mut().for_each(|row| row.counts = [0.0; 3]);
            let stream = seed.nth(replicate as u64);
            let n = slots.len();
            for position in 0..n {
                let wide = u128::from(stream.u64_at(position as u64)) * n as u128;
                let slot = slots[(wide >> 64) as usize] as usize;
                drawn.rows[slot / 3].counts[slot % 3] += 1.0;
            }
            drawn.fit(start)
        };
        let threads = threads.clamp(1, replicates.max(1));
        let share = replicates.div_ceil(threads).max(1);
        let work = |first: usize| {
            let mut drawn = self.clone();
            drawn.rating_ridge = drawn.rating_ridge.max(REPLICATE_RIDGE);
            (first..(first + share).min(replicates))
                .map(|replicate| {
                    if is_stopped() {
                        return Err(EvalError::Interrupted);
                    }
                    one(replicate, &mut drawn)
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let parts = std::thread::scope(|scope| {
            let running: Vec<_> = (0..replicates)
                .step_by(share)
                .map(|first| scope.spawn(move || work(first)))
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().expect("a replicate does not panic"))
                .collect::<Result<Vec<_>, _>>()
        })?;
        Ok(parts.into_iter().flatten().collect())
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The largest set of competitors (by votes among them) in which everyone can be reached from
/// everyone by wins or ties; sorted. `votes` holds (a, b, share of a) of each pair or vote.
pub(super) fn largest_comparable(models: usize, votes: &[(usize, usize, f64)]) -> Vec<usize> {
    let mut beats = vec![Vec::new(); models];
    let mut beaten_by = vec![Vec::new(); models];
    let mut edges: Vec<(usize, usize)> = votes
        .iter()
        .flat_map(|&(a, b, share)| {
            [(share > 0.0).then_some((a, b)), (share < 1.0).then_some((b, a))]
        })
        .flatten()
        .collect();
    edges.sort_unstable();
    edges.dedup();
    for (winner, loser) in edges {
        beats[winner].push(loser);
        beaten_by[loser].push(winner);
    }
    // Kosaraju: order by finishing time one way, gather the other way.
    let mut order = Vec::with_capacity(models);
    let mut seen = vec![false; models];
    for root in 0..models {
        walk(root, &beats, &mut seen, &mut |node| order.push(node));
    }
    let mut component = vec![0; models];
    seen.fill(false);
    let mut components = 0;
    for &root in order.iter().rev() {
        walk(root, &beaten_by, &mut seen, &mut |node| component[node] = components);
        components += 1;
    }
    let mut sizes = vec![0usize; components];
    for &(a, b, _) in votes {
        if component[a] == component[b] {
            sizes[component[a]] += 1;
        }
    }
    let best = (0..components).rev().max_by_key(|&c| sizes[c]);
    (0..models).filter(|&model| Some(component[model]) == best).collect()
}

/// Depth-first walk over what is not `seen`, calling `leave` at the end of each node.
fn walk(root: usize, edges: &[Vec<usize>], seen: &mut [bool], leave: &mut dyn FnMut(usize)) {
    if std::mem::replace(&mut seen[root], true) {
        return;
    }
    let mut path = vec![(root, 0)];
    while let Some((node, next)) = path.last_mut() {
        if let Some(&to) = edges[*node].get(*next) {
            *next += 1;
            if !std::mem::replace(&mut seen[to], true) {
                path.push((to, 0));
            }
        } else {
            leave(*node);
            path.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(models: usize, rows: &[(usize, usize, [f64; 3])]) -> Problem {
        let row = |&(a, b, counts): &(usize, usize, [f64; 3])| Row { a, b, weight: 1.0, counts };
        Problem {
            models,
            features: 0,
            rows: rows.iter().map(row).collect(),
            x: Vec::new(),
            style_ridge: 0.0,
            rating_ridge: 0.0,
        }
    }

    #[test]
    fn two_competitors_have_the_log_odds() {
        let problem = problem(2, &[(0, 1, [60.0, 20.0, 20.0])]);
        let ratings = problem.fit(&[0.0; 2]).unwrap();
        // 70 of 100, ties as halves.
        assert!((ratings[0] - ratings[1] - (0.7f64 / 0.3).ln()).abs() < 1e-10);
        assert!((ratings[0] + ratings[1]).abs() < 1e-12);
    }

    #[test]
    fn who_never_loses_is_not_comparable() {
        let all = [(0, 1, 1.0), (1, 0, 1.0), (1, 2, 0.5), (3, 0, 1.0), (4, 5, 0.5)];
        assert_eq!(largest_comparable(6, &all), [0, 1, 2]);
        assert_eq!(largest_comparable(2, &[(0, 1, 1.0)]).len(), 1);
        let never_beaten = problem(2, &[(0, 1, [3.0, 0.0, 0.0])]);
        assert!(never_beaten.fit(&[0.0; 2]).is_err());
    }

    #[test]
    fn replicates_do_not_depend_on_threads() {
        let problem = problem(
            3,
            &[(0, 1, [5.0, 2.0, 4.0]), (1, 2, [3.0, 0.0, 6.0]), (0, 2, [4.0, 1.0, 4.0])],
        );
        let start = problem.fit(&[0.0; 3]).unwrap();
        let draw = |threads| problem.bootstrap(&start, 21, Seed(3), threads, &|| false).unwrap();
        assert_eq!(draw(1), draw(4));
        assert!(problem.bootstrap(&start, 3, Seed(3), 2, &|| true).is_err());
    }
}

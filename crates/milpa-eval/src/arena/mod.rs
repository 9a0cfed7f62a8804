//! Arena ratings: votes between models to Bradley–Terry ratings with intervals and rank ranges.
//!
//! [`read_votes`] reads a file, [`hygiene`] says which votes count, [`rate`] makes one board of all
//! of them and one for each value of each category. Ratings are on the scale of chess: 400 points
//! are odds of ten to one, the mean is 1000. It knows nothing of models but their names.

mod bradley_terry;
pub mod hygiene;
mod linear;
mod style;
mod table;
mod votes;

use std::collections::BTreeMap;

use milpa_base::Seed;
use serde::{Deserialize, Serialize};

pub use hygiene::{Hygiene, HygieneConfig};
pub use votes::{MAX_COMPETITORS, Names, Outcome, Vote, VoteFields, Votes, read_votes};

use crate::{
    error::EvalError,
    items::Skips,
    run::Watch,
    statistics::{
        Interval, LEVEL, Method, RankRange, holm, normal_cdf, normal_quantile, percentile_interval,
        rank_ranges,
    },
};
use bradley_terry::{Problem, Row, largest_comparable};

/// Points for a factor of ten in the odds.
const POINTS: f64 = 400.0;
/// Mean rating.
const MEAN: f64 = 1000.0;

/// How votes become ratings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArenaConfig {
    /// Which fields mean what.
    pub fields: VoteFields,
    /// Limits and outliers.
    pub hygiene: HygieneConfig,
    /// Bootstrap replicates for a second interval; 0 gives the sandwich interval alone.
    pub replicates: usize,
    /// Gives each pair of models the same say once it has this many votes.
    pub reweight_pairs: Option<u32>,
    /// L2 penalty on style coefficients for each vote; arena-rank has 1, which shrinks them much.
    pub style_ridge: f64,
    /// Votes that a value of a category needs for a board of its own.
    pub category_votes: usize,
    /// Seed of everything drawn.
    pub seed: Seed,
}

impl Default for ArenaConfig {
    fn default() -> Self {
        Self {
            fields: VoteFields::default(),
            hygiene: HygieneConfig::default(),
            replicates: 0,
            reweight_pairs: None,
            style_ridge: 0.0,
            category_votes: 100,
            seed: Seed(0),
        }
    }
}

/// A competitor on a board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rating {
    /// The competitor.
    pub model: String,
    /// Points; 400 are odds of ten to one, the mean of all is 1000.
    pub rating: f64,
    /// Sandwich interval.
    pub interval: Interval,
    /// Bootstrap interval, where replicates were asked for.
    pub bootstrap: Option<Interval>,
    /// Places it may hold: pairs told apart at 95 % over all pairs (Holm).
    pub ranks: RankRange,
    /// Votes it took part in.
    pub votes: u64,
    /// Share of them won, ties as halves.
    pub won: f64,
}

/// What voters pay for style.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StyleEffect {
    /// The feature.
    pub feature: String,
    /// Points for one standard deviation more.
    pub points: f64,
    /// Sandwich interval.
    pub interval: Interval,
}

/// The ratings of some votes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Board {
    /// Votes rated.
    pub votes: u64,
    /// Competitors, best first.
    pub ratings: Vec<Rating>,
    /// Competitors that won or lost all votes against the others (or met none of them): nothing
    /// bounds their rating.
    pub unrated: Vec<String>,
    /// Style effects, where style was controlled for.
    pub style: Vec<StyleEffect>,
    /// Mean −log-likelihood of a rated vote, in nats.
    pub loss: f64,
}

/// The boards of a category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryBoard {
    /// The field.
    pub field: String,
    /// Its value.
    pub value: String,
    /// The board of the votes with that value, or why there is none.
    pub board: Result<Board, String>,
}

/// All that votes say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArenaReport {
    /// Lines with something in them.
    pub lines: u64,
    /// What could not be read as a vote, by reason and line.
    pub skips: Skips,
    /// What is to be known of the voters.
    pub hygiene: Hygiene,
    /// The board of all votes that count.
    pub board: Board,
    /// Boards by category, sorted by votes.
    pub categories: Vec<CategoryBoard>,
    /// The configuration.
    pub config: ArenaConfig,
}

/// Rates the competitors of `votes`; the result does not depend on `threads`.
///
/// # Errors
/// Votes that rate nobody, style features that say the same, or a stop.
pub fn rate(
    votes: &Votes,
    config: &ArenaConfig,
    threads: usize,
    watch: Watch<'_>,
) -> Result<ArenaReport, EvalError> {
    let (hygiene, kept) = hygiene::check(votes, &config.hygiene, config.seed);
    let rater = Rater { votes, config, threads, watch };
    let board = rater.board(&kept, config.seed)?;
    let mut categories = Vec::new();
    for (index, (field, names)) in votes.categories.iter().enumerate() {
        let mut by_value: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &vote in &kept {
            if let Some(value) = votes.votes[vote].categories[index] {
                by_value.entry(value).or_default().push(vote);
            }
        }
        let mut by_value: Vec<_> = by_value.into_iter().collect();
        by_value.sort_by_key(|(_, own)| std::cmp::Reverse(own.len()));
        for (value, own) in by_value {
            let value = names.all()[value].clone();
            let board = if own.len() < config.category_votes {
                Err(format!("{} votes, fewer than {}", own.len(), config.category_votes))
            } else {
                match rater.board(&own, config.seed.derive(field).derive(&value)) {
                    Err(EvalError::NoRating(reason)) => Err(reason),
                    other => Ok(other?),
                }
            };
            categories.push(CategoryBoard { field: field.clone(), value, board });
        }
    }
    Ok(ArenaReport {
        lines: votes.lines,
        skips: votes.skips.clone(),
        hygiene,
        board,
        categories,
        config: config.clone(),
    })
}

struct Rater<'a> {
    votes: &'a Votes,
    config: &'a ArenaConfig,
    threads: usize,
    watch: Watch<'a>,
}

impl Rater<'_> {
    fn board(&self, kept: &[usize], seed: Seed) -> Result<Board, EvalError> {
        let all = &self.votes.votes;
        let names = self.votes.models.all();
        let outcomes: Vec<(usize, usize, f64)> = kept
            .iter()
            .map(|&vote| (all[vote].a, all[vote].b, all[vote].outcome.share_of_a()))
            .collect();
        let rated = largest_comparable(names.len(), &outcomes);
        if rated.len() < 2 {
            return Err(EvalError::NoRating(
                "no two models have both won (or tied) against each other; collect more votes"
                    .to_owned(),
            ));
        }
        let mut place = vec![None; names.len()];
        rated.iter().enumerate().for_each(|(at, &model)| place[model] = Some(at));
        let seen = outcomes.iter().flat_map(|&(a, b, _)| [a, b]);
        let mut unrated: Vec<usize> = seen.filter(|&model| place[model].is_none()).collect();
        unrated.sort_unstable();
        unrated.dedup();
        let used: Vec<(usize, usize, &Vote)> = kept
            .iter()
            .map(|&vote| &all[vote])
            .filter_map(|vote| Some((place[vote.a]?, place[vote.b]?, vote)))
            .collect();
        let (problem, deviations) = self.problem(rated.len(), &used);
        let start = vec![0.0; rated.len() + deviations.len()];
        let parameters = problem.fit(&start)?;
        let covariance = problem.covariance(&parameters)?;
        let replicates = self.replicates(&problem, &parameters, seed)?;
        let size = parameters.len();
        let points = POINTS / std::f64::consts::LN_10;
        let z = normal_quantile(f64::midpoint(1.0, LEVEL));
        let error = |at: usize| covariance[at * size + at].max(0.0).sqrt();
        let around = |centre: f64, at: usize| Interval {
            low: centre - z * points * error(at),
            high: centre + z * points * error(at),
            level: LEVEL,
            method: Method::Sandwich,
        };
        let ranks = ranks(&parameters[..rated.len()], &covariance, size);
        let (mut votes, mut won) = (vec![0u64; rated.len()], vec![0.0; rated.len()]);
        let mut loss = 0.0;
        for &(a, b, vote) in &used {
            let share = vote.outcome.share_of_a();
            votes[a] += 1;
            votes[b] += 1;
            won[a] += share;
            won[b] += 1.0 - share;
            let mut logit = parameters[a] - parameters[b];
            for ((value, (mean, deviation)), effect) in
                vote.style.iter().zip(&deviations).zip(&parameters[rated.len()..])
            {
                logit += (value - mean) / deviation * effect;
            }
            loss += share * (-logit).exp().ln_1p() + (1.0 - share) * logit.exp().ln_1p();
        }
        let mut ratings: Vec<Rating> = rated
            .iter()
            .enumerate()
            .map(|(at, &model)| {
                let rating = MEAN + points * parameters[at];
                let drawn: Vec<f64> =
                    replicates.iter().map(|values| MEAN + points * values[at]).collect();
                Rating {
                    model: names[model].clone(),
                    rating,
                    interval: around(rating, at),
                    bootstrap: percentile_interval(drawn, LEVEL, Method::Bootstrap),
                    ranks: ranks[at],
                    votes: votes[at],
                    won: won[at] / votes[at] as f64,
                }
            })
            .collect();
        ratings.sort_by(|x, y| y.rating.total_cmp(&x.rating).then_with(|| x.model.cmp(&y.model)));
        let style = self
            .votes
            .style
            .iter()
            .enumerate()
            .map(|(feature, name)| {
                let at = rated.len() + feature;
                let effect = points * parameters[at];
                StyleEffect { feature: name.clone(), points: effect, interval: around(effect, at) }
            })
            .collect();
        Ok(Board {
            votes: used.len() as u64,
            ratings,
            unrated: unrated.into_iter().map(|model| names[model].clone()).collect(),
            style,
            loss: loss / used.len() as f64,
        })
    }

    /// The likelihood of the votes, with mean and deviation of each style feature. Without style,
    /// votes of a pair are one row.
    fn problem(&self, models: usize, used: &[(usize, usize, &Vote)]) -> (Problem, Vec<(f64, f64)>) {
        let mut by_pair: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for &(a, b, _) in used {
            *by_pair.entry((a.min(b), a.max(b))).or_default() += 1;
        }
        let raw_weight = |a: usize, b: usize| match self.config.reweight_pairs {
            None => 1.0,
            Some(least) => 1.0 / by_pair[&(a.min(b), a.max(b))].max(u64::from(least)) as f64,
        };
        let sum: f64 = by_pair.iter().map(|(&(a, b), n)| *n as f64 * raw_weight(a, b)).sum();
        // A mean weight of one leaves the penalties what they say.
        let weight = |a: usize, b: usize| raw_weight(a, b) * used.len() as f64 / sum;
        let n = used.len() as f64;
        let deviations: Vec<(f64, f64)> = (0..self.votes.style.len())
            .map(|feature| {
                let value = |(_, _, vote): &(usize, usize, &Vote)| vote.style[feature];
                let mean = used.iter().map(value).sum::<f64>() / n;
                let square = used.iter().map(|vote| (value(vote) - mean).powi(2)).sum::<f64>() / n;
                (mean, if square > 0.0 { square.sqrt() } else { 1.0 })
            })
            .collect();
        let (mut rows, mut x) = (Vec::new(), Vec::new());
        if deviations.is_empty() {
            let place: BTreeMap<(usize, usize), usize> =
                by_pair.keys().enumerate().map(|(at, pair)| (*pair, at)).collect();
            rows.extend(by_pair.keys().map(|&(a, b)| Row {
                a,
                b,
                weight: weight(a, b),
                counts: [0.0; 3],
            }));
            for &(a, b, vote) in used {
                let outcome = vote.outcome as usize;
                let outcome = if a < b { outcome } else { 2 - outcome };
                rows[place[&(a.min(b), a.max(b))]].counts[outcome] += 1.0;
            }
        } else {
            for &(a, b, vote) in used {
                let mut counts = [0.0; 3];
                counts[vote.outcome as usize] = 1.0;
                rows.push(Row { a, b, weight: weight(a, b), counts });
                let normal =
                    |(value, (mean, deviation)): (&f64, &(f64, f64))| (value - mean) / deviation;
                x.extend(vote.style.iter().zip(&deviations).map(normal));
            }
        }
        let problem = Problem {
            models,
            features: deviations.len(),
            rows,
            x,
            style_ridge: self.config.style_ridge,
            rating_ridge: 0.0,
        };
        (problem, deviations)
    }

    fn replicates(
        &self,
        problem: &Problem,
        parameters: &[f64],
        seed: Seed,
    ) -> Result<Vec<Vec<f64>>, EvalError> {
        let stop = self.watch.stop;
        let seed = seed.derive("bootstrap");
        let is_stopped = || stop.is_set();
        problem.bootstrap(parameters, self.config.replicates, seed, self.threads, &is_stopped)
    }
}

/// Places that competitors may hold: a pair is told apart where the z test of its difference is
/// below 1 − [`LEVEL`] after Holm's correction over all pairs.
fn ranks(ratings: &[f64], covariance: &[f64], size: usize) -> Vec<RankRange> {
    let count = ratings.len();
    let pairs = (0..count).flat_map(|i| (0..i).map(move |j| (i, j)));
    let p_values: Vec<f64> = pairs
        .map(|(i, j)| {
            let entry = |a: usize, b: usize| covariance[a * size + b];
            let variance = entry(i, i) + entry(j, j) - 2.0 * entry(i, j);
            let z = (ratings[i] - ratings[j]).abs() / variance.max(f64::MIN_POSITIVE).sqrt();
            2.0 * normal_cdf(-z)
        })
        .collect();
    let adjusted = holm(&p_values);
    let p_value = |i: usize, j: usize| adjusted[i.max(j) * (i.max(j) - 1) / 2 + i.min(j)];
    rank_ranges(count, |i, j| ratings[i] > ratings[j] && p_value(i, j) < 1.0 - LEVEL)
}

/// Share of wins at equal length: logistic regression of each share on tanh(difference / its
/// deviation), read at difference 0. Returns the share, its interval (sandwich on the log-odds) and
/// the effect of length; `None` where there is no finite maximum.
pub(crate) fn length_controlled_share(
    shares: &[f64],
    differences: &[f64],
) -> Option<(f64, Interval, f64)> {
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let square = differences.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
    if square.is_nan() || square <= 0.0 {
        return None;
    }
    let rows = shares.iter().map(|&share| Row {
        a: 0,
        b: 1,
        weight: 1.0,
        counts: [
            f64::from(u8::from(share == 1.0)),
            f64::from(u8::from(share == 0.5)),
            f64::from(u8::from(share == 0.0)),
        ],
    });
    let problem = Problem {
        models: 2,
        features: 1,
        rows: rows.collect(),
        x: differences.iter().map(|value| (value / square.sqrt()).tanh()).collect(),
        style_ridge: 0.0,
        rating_ridge: 0.0,
    };
    let parameters = problem.fit(&[0.0; 3]).ok()?;
    let covariance = problem.covariance(&parameters).ok()?;
    let logit = parameters[0] - parameters[1];
    let error = (covariance[0] + covariance[4] - 2.0 * covariance[1]).max(0.0).sqrt();
    let half = normal_quantile(f64::midpoint(1.0, LEVEL)) * error;
    let share = |logit: f64| 1.0 / (1.0 + (-logit).exp());
    let interval = Interval {
        low: share(logit - half),
        high: share(logit + half),
        level: LEVEL,
        method: Method::Sandwich,
    };
    Some((share(logit), interval, parameters[2]))
}

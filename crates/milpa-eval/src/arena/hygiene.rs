//! Whether votes can be trusted: limits per voter, voters unlike the others, exchangeability.
//!
//! None of it changes a vote; limits and outliers say which votes to leave out, the tests say what
//! a reader of the board should know.

use std::collections::BTreeMap;

use milpa_base::Seed;
use serde::{Deserialize, Serialize};

use super::votes::{Outcome, Vote, Votes};
use crate::statistics::{holm, mcnemar_mid_p};

/// Votes below which a voter is not judged.
const FEW_VOTES: usize = 10;
/// Most voters that are named in a report.
const NAMED: usize = 50;
/// Permutations behind the test of exchangeability over time, at most.
const PERMUTATIONS: usize = 999;
/// Votes that all of them move, at most: many votes are permuted 99 times.
const MAX_SHUFFLED: usize = 20_000_000;

/// What is done about voters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HygieneConfig {
    /// Votes of one voter that count on one day (in all, where votes have no time).
    pub votes_per_user: Option<usize>,
    /// Leaves out the voters that the tests single out.
    pub drop_outliers: bool,
    /// Probability that any honest voter is singled out, over all voters and both tests.
    pub significance: f64,
}

impl Default for HygieneConfig {
    fn default() -> Self {
        Self { votes_per_user: None, drop_outliers: false, significance: 0.01 }
    }
}

/// What the checks found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hygiene {
    /// Votes beyond a voter's limit, left out.
    pub over_limit: u64,
    /// Voters with enough votes to be judged.
    pub judged_users: u64,
    /// Voters singled out, the surest first.
    pub outliers: Vec<Outlier>,
    /// Whether their votes were left out.
    pub outliers_dropped: bool,
    /// Whether it mattered which answer came first.
    pub position: PositionTest,
    /// Whether early and late votes are alike; `None` where fewer than two pairs have votes in both halves.
    pub exchangeability: Option<ExchangeabilityTest>,
}

/// A voter unlike the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outlier {
    /// The voter.
    pub user: String,
    /// Votes.
    pub votes: u64,
    /// What is unusual.
    pub reason: OutlierReason,
    /// p-value, corrected by Holm for all voters and both tests.
    pub p_value: f64,
}

/// What makes a voter an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutlierReason {
    /// The votes contradict those of all others on the same pairs.
    Contrary,
    /// One side wins too often, whoever stands there.
    Position,
}

/// Wins of the first and of the second answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PositionTest {
    /// Wins of the first.
    pub first: u64,
    /// Wins of the second.
    pub second: u64,
    /// Exact (mid-p) test that both win as often. It says something where sides were drawn by lot.
    pub p_value: f64,
}

/// The votes of the first half against those of the second, pair by pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ExchangeabilityTest {
    /// Pairs with votes in both halves.
    pub pairs: u64,
    /// Σ of the pairs' χ² of outcome against half.
    pub statistic: f64,
    /// Share of permutations of each pair's votes with a statistic as large.
    pub p_value: f64,
}

/// Checks the votes and returns those that count.
pub fn check(votes: &Votes, config: &HygieneConfig, seed: Seed) -> (Hygiene, Vec<usize>) {
    let all: Vec<usize> = (0..votes.votes.len()).collect();
    let within: Vec<usize> = match config.votes_per_user {
        None => all,
        Some(limit) => within_limit(&votes.votes, limit),
    };
    let over_limit = (votes.votes.len() - within.len()) as u64;
    let (judged_users, singled_out) = outliers(votes, &within, config.significance);
    let kept: Vec<usize> = if config.drop_outliers {
        let is_out = |user: Option<usize>| {
            user.is_some_and(|user| singled_out.iter().any(|(out, _)| *out == user))
        };
        within.into_iter().filter(|&vote| !is_out(votes.votes[vote].user)).collect()
    } else {
        within
    };
    let wins =
        |outcome| kept.iter().filter(|&&vote| votes.votes[vote].outcome == outcome).count() as u64;
    let (first, second) = (wins(Outcome::A), wins(Outcome::B));
    let hygiene = Hygiene {
        over_limit,
        judged_users,
        outliers: singled_out.into_iter().map(|(_, outlier)| outlier).take(NAMED).collect(),
        outliers_dropped: config.drop_outliers,
        position: PositionTest { first, second, p_value: mcnemar_mid_p(first, second) },
        exchangeability: exchangeability(&votes.votes, &kept, seed),
    };
    (hygiene, kept)
}

/// The first `limit` votes of each voter and day; votes without a voter all count.
fn within_limit(votes: &[Vote], limit: usize) -> Vec<usize> {
    let mut seen: BTreeMap<(usize, Option<i64>), usize> = BTreeMap::new();
    let counts = |vote: &Vote| match vote.user {
        None => true,
        Some(user) => {
            let count = seen.entry((user, vote.day)).or_default();
            *count += 1;
            *count <= limit
        }
    };
    let mut counts = counts;
    (0..votes.len()).filter(|&vote| counts(&votes[vote])).collect()
}

/// The pair with the smaller number first, and the outcome as seen from it.
fn oriented(vote: &Vote) -> ((usize, usize), Outcome) {
    match (vote.a < vote.b, vote.outcome) {
        (true, outcome) => ((vote.a, vote.b), outcome),
        (false, Outcome::A) => ((vote.b, vote.a), Outcome::B),
        (false, Outcome::B) => ((vote.b, vote.a), Outcome::A),
        (false, Outcome::Tie) => ((vote.b, vote.a), Outcome::Tie),
    }
}

/// Voters that the tests single out (number and description), after how many were judged.
///
/// Contrary: the votes' surprise Σ −ln q(outcome), q being the shares of outcomes among all other
/// voters of the pair, is larger than q allows, by Chernoff's bound (valid for any number of votes;
/// W.-L. Chiang et al., arXiv 2403.04132, section 5.3 join one-sided p-values by Fisher's method
/// instead, which discrete votes make weak). Position: sign test of first against second.
fn outliers(votes: &Votes, kept: &[usize], significance: f64) -> (u64, Vec<(usize, Outlier)>) {
    let mut by_pair: BTreeMap<(usize, usize), [u64; 3]> = BTreeMap::new();
    let mut by_user: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &vote in kept {
        let (pair, outcome) = oriented(&votes.votes[vote]);
        by_pair.entry(pair).or_default()[outcome as usize] += 1;
        if let Some(user) = votes.votes[vote].user {
            by_user.entry(user).or_default().push(vote);
        }
    }
    by_user.retain(|_, own| own.len() >= FEW_VOTES);
    let mut tests: Vec<(usize, OutlierReason, f64)> = Vec::new();
    for (&user, own) in &by_user {
        let mut mine: BTreeMap<(usize, usize), [u64; 3]> = BTreeMap::new();
        let (mut first, mut second) = (0, 0);
        for &vote in own {
            let (pair, outcome) = oriented(&votes.votes[vote]);
            mine.entry(pair).or_default()[outcome as usize] += 1;
            first += u64::from(votes.votes[vote].outcome == Outcome::A);
            second += u64::from(votes.votes[vote].outcome == Outcome::B);
        }
        let informed: Vec<([f64; 3], [u64; 3])> = mine
            .iter()
            .filter_map(|(pair, own)| {
                let others: [u64; 3] = std::array::from_fn(|at| by_pair[pair][at] - own[at]);
                let n: u64 = others.iter().sum();
                // Half a vote for each outcome: what was not seen yet is not impossible.
                let q = others.map(|other| (other as f64 + 0.5) / (n as f64 + 1.5));
                (n >= FEW_VOTES as u64).then_some((q, *own))
            })
            .collect();
        let contrary = surprise_bound(&informed);
        tests.push((user, OutlierReason::Contrary, contrary));
        tests.push((user, OutlierReason::Position, mcnemar_mid_p(first, second)));
    }
    let adjusted = holm(&tests.iter().map(|(_, _, p)| *p).collect::<Vec<_>>());
    let mut found: Vec<(usize, Outlier)> = tests
        .iter()
        .zip(adjusted)
        .filter(|(_, p)| *p < significance)
        .map(|(&(user, reason, _), p_value)| {
            let outlier = Outlier {
                user: votes.users.all()[user].clone(),
                votes: by_user[&user].len() as u64,
                reason,
                p_value,
            };
            (user, outlier)
        })
        .collect();
    found.sort_by(|x, y| x.1.p_value.total_cmp(&y.1.p_value).then(x.0.cmp(&y.0)));
    (by_user.len() as u64, found)
}

/// Chernoff's bound on the probability of votes at least as surprising: the least over t ≥ 0 of
/// E[exp(t·S)]·exp(−t·s), with S the sum of −ln q over votes drawn from each pair's q.
fn surprise_bound(votes: &[([f64; 3], [u64; 3])]) -> f64 {
    let exponent = |t: f64| -> f64 {
        votes
            .iter()
            .map(|(q, counts)| {
                let n: u64 = counts.iter().sum();
                let seen: f64 = q.iter().zip(counts).map(|(q, k)| -q.ln() * *k as f64).sum();
                let moment: f64 = q.iter().map(|q| q.powf(1.0 - t)).sum();
                n as f64 * moment.ln() - t * seen
            })
            .sum()
    };
    // The exponent is convex in t: thirds close in on its minimum.
    let (mut low, mut high) = (0.0, 50.0);
    for _ in 0..100 {
        let third = (high - low) / 3.0;
        if exponent(low + third) < exponent(high - third) {
            high -= third;
        } else {
            low += third;
        }
    }
    exponent(f64::midpoint(low, high)).exp().min(1.0)
}

/// Compares the first half of the votes with the second, by permuting within each pair: models that
/// changed behind their name, or votes that came in a wave, make the halves differ.
fn exchangeability(votes: &[Vote], kept: &[usize], seed: Seed) -> Option<ExchangeabilityTest> {
    let mut order: Vec<usize> = kept.to_vec();
    // Stable: votes without a time, or of one day, stay in the order of the file.
    order.sort_by_key(|&vote| votes[vote].day);
    let mut by_pair: BTreeMap<(usize, usize), Vec<(Outcome, bool)>> = BTreeMap::new();
    for (place, &vote) in order.iter().enumerate() {
        let (pair, outcome) = oriented(&votes[vote]);
        by_pair.entry(pair).or_default().push((outcome, place * 2 >= order.len()));
    }
    by_pair.retain(|_, own| {
        let late = own.iter().filter(|(_, late)| *late).count();
        late > 0 && late < own.len()
    });
    if by_pair.len() < 2 {
        return None;
    }
    let pairs: Vec<Vec<(Outcome, bool)>> = by_pair.into_values().collect();
    let statistic: f64 = pairs.iter().map(|own| chi_squared(own.iter().copied())).sum();
    let mut as_large = 0;
    let permutations = (MAX_SHUFFLED / order.len()).clamp(99, PERMUTATIONS);
    for permutation in 0..permutations {
        let stream = seed.derive("exchangeability").nth(permutation as u64);
        let permuted: f64 = pairs
            .iter()
            .enumerate()
            .map(|(pair, own)| {
                let mut halves: Vec<bool> = own.iter().map(|(_, late)| *late).collect();
                // Fisher and Yates' shuffle.
                let draws = stream.nth(pair as u64);
                for at in (1..halves.len()).rev() {
                    let wide = u128::from(draws.u64_at(at as u64)) * (at as u128 + 1);
                    halves.swap(at, (wide >> 64) as usize);
                }
                chi_squared(own.iter().zip(halves).map(|((outcome, _), late)| (*outcome, late)))
            })
            .sum();
        // A little slack: equal tables may add up in another order.
        as_large += usize::from(permuted >= statistic * (1.0 - 1e-12));
    }
    Some(ExchangeabilityTest {
        pairs: pairs.len() as u64,
        statistic,
        p_value: (1.0 + as_large as f64) / (1.0 + permutations as f64),
    })
}

/// Pearson's χ² of outcome against half.
fn chi_squared(votes: impl Iterator<Item = (Outcome, bool)>) -> f64 {
    let mut table = [[0.0; 2]; 3];
    for (outcome, late) in votes {
        table[outcome as usize][usize::from(late)] += 1.0;
    }
    let column = |half: usize| -> f64 { table.iter().map(|row| row[half]).sum() };
    let columns = [column(0), column(1)];
    let n = columns[0] + columns[1];
    let cell = |row: &[f64; 2], half: usize| {
        let expected = (row[0] + row[1]) * columns[half] / n;
        if expected > 0.0 { (row[half] - expected).powi(2) / expected } else { 0.0 }
    };
    table.iter().map(|row| cell(row, 0) + cell(row, 1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::votes::Names;

    /// Forty voters with twenty votes each on three models; x beats y beats z eight times in ten.
    fn arena(odd: impl Fn(usize, usize) -> Option<(usize, usize, Outcome)>) -> Votes {
        let mut votes = Votes::default();
        for name in ["x", "y", "z"] {
            votes.models.number(name);
        }
        for user in 0..40 {
            let mut names = Names::default();
            std::mem::swap(&mut names, &mut votes.users);
            names.number(&format!("u{user}"));
            votes.users = names;
        }
        for round in 0..20 {
            for user in 0..40 {
                let stream = Seed(9).nth((round * 40 + user) as u64);
                let (low, high) = [(0, 1), (1, 2), (0, 2)][(stream.u64_at(0) % 3) as usize];
                let (a, b) = if stream.f64_at(1) < 0.5 { (low, high) } else { (high, low) };
                let better_wins = stream.f64_at(2) < 0.8;
                let outcome = if (a < b) == better_wins { Outcome::A } else { Outcome::B };
                let (a, b, outcome) = odd(round, user).unwrap_or((a, b, outcome));
                votes.votes.push(Vote {
                    a,
                    b,
                    outcome,
                    user: Some(user),
                    day: Some(round as i64 / 10),
                    categories: Vec::new(),
                    style: Vec::new(),
                    line: 0,
                });
            }
        }
        votes
    }

    #[test]
    fn honest_voters_are_left_alone() {
        let votes = arena(|_, _| None);
        let (hygiene, kept) = check(&votes, &HygieneConfig::default(), Seed(1));
        assert_eq!((hygiene.judged_users, kept.len()), (40, 800));
        assert!(hygiene.outliers.is_empty(), "{:?}", hygiene.outliers);
        assert!(hygiene.position.p_value > 0.01);
        assert!(hygiene.exchangeability.unwrap().p_value > 0.01);
    }

    #[test]
    fn contrary_and_lazy_voters_are_singled_out() {
        let votes = arena(|round, user| match user {
            3 if round % 2 == 0 => Some((0, 1, Outcome::B)),
            3 => Some((2, 0, Outcome::A)),
            7 if round % 2 == 0 => Some((0, 1, Outcome::A)),
            7 => Some((1, 0, Outcome::A)),
            _ => None,
        });
        let config = HygieneConfig { drop_outliers: true, ..HygieneConfig::default() };
        let (hygiene, kept) = check(&votes, &config, Seed(1));
        let found: Vec<_> =
            hygiene.outliers.iter().map(|out| (out.user.as_str(), out.reason)).collect();
        assert!(found.contains(&("u3", OutlierReason::Contrary)), "{found:?}");
        assert!(found.contains(&("u7", OutlierReason::Position)), "{found:?}");
        assert_eq!(kept.len(), 760);
    }

    #[test]
    fn surprise_is_bounded_as_tightly_as_can_be() {
        // Ten votes for what one in ten chooses: the bound is the probability itself, 10⁻¹⁰.
        let q = [0.1, 0.3, 0.6];
        assert!((surprise_bound(&[(q, [10, 0, 0])]).log10() + 10.0).abs() < 1e-6);
        assert!(surprise_bound(&[(q, [1, 3, 6])]) > 0.9);
        assert!((surprise_bound(&[([1.0 / 3.0; 3], [9, 0, 0])]) - 1.0).abs() < 1e-9);
        assert!((surprise_bound(&[]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_limit_keeps_the_first_votes_of_a_day() {
        let votes = arena(|_, _| None);
        let config = HygieneConfig { votes_per_user: Some(3), ..HygieneConfig::default() };
        let (hygiene, kept) = check(&votes, &config, Seed(1));
        // Two days, forty voters.
        assert_eq!((kept.len(), hygiene.over_limit), (240, 560));
    }

    #[test]
    fn a_model_that_changes_behind_its_name_shows() {
        let votes =
            arena(|round, user| (round >= 10 && user % 2 == 0).then_some((0, 1, Outcome::B)));
        let (hygiene, _) = check(&votes, &HygieneConfig::default(), Seed(1));
        assert!(hygiene.exchangeability.unwrap().p_value <= 0.001);
    }
}

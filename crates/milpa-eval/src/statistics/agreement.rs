//! Agreement of raters beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha, Gwet's AC1.
//!
//! A rating is the number of a category; a rater may leave a unit out. Kappas fall towards zero
//! where nearly all ratings are the same, however well raters agree; AC1 does not, so both stand
//! side by side. Intervals are percentile bootstraps over units.
//!
//! Papers: J. Cohen 1960; J. L. Fleiss 1971; K. Krippendorff, "Computing Krippendorff's
//! alpha-reliability" (2011); K. L. Gwet, British Journal of Mathematical and Statistical
//! Psychology 61 (2008) 29–48. Units with fewer than two ratings are left out.

use milpa_base::Seed;
use serde::{Deserialize, Serialize};

use super::{Interval, LEVEL, Method, bootstrap, percentile_interval};

/// The ratings of some units.
#[derive(Debug, Clone, PartialEq)]
pub struct Ratings {
    /// `units[u][r]` is the category that rater r gave unit u; all rows are equally long.
    pub units: Vec<Vec<Option<usize>>>,
    /// Categories, numbered from 0.
    pub categories: usize,
}

/// How far apart two categories are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// All different ones equally.
    Nominal,
    /// The squared difference of their numbers, for scores.
    Interval,
}

/// A coefficient of agreement with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Coefficient {
    /// 1 is perfect agreement, 0 that of chance.
    pub value: f64,
    /// `None` with fewer than two units.
    pub interval: Option<Interval>,
}

/// All coefficients of one set of ratings; a coefficient that chance alone makes 0/0 is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Units with two ratings or more.
    pub units: u64,
    /// Share of agreeing pairs of ratings.
    pub observed: f64,
    /// Cohen's kappa, for two raters.
    pub cohen_kappa: Option<Coefficient>,
    /// Fleiss' kappa.
    pub fleiss_kappa: Option<Coefficient>,
    /// Krippendorff's alpha under the distance asked for.
    pub krippendorff_alpha: Option<Coefficient>,
    /// Gwet's AC1.
    pub gwet_ac1: Option<Coefficient>,
}

/// Computes all coefficients with intervals; `None` where no unit has two ratings.
///
/// # Panics
/// If a category is not below `ratings.categories`.
pub fn agreement(
    ratings: &Ratings,
    distance: Distance,
    replicates: usize,
    seed: Seed,
) -> Option<Agreement> {
    let shared: Vec<&[Option<usize>]> = ratings
        .units
        .iter()
        .map(Vec::as_slice)
        .filter(|unit| unit.iter().flatten().count() >= 2)
        .collect();
    if shared.is_empty() {
        return None;
    }
    let categories = ratings.categories;
    let counts: Vec<Vec<f64>> = shared.iter().map(|unit| count(unit, categories)).collect();
    let with_interval = |measure: &dyn Fn(&[usize]) -> Option<f64>| {
        let all: Vec<usize> = (0..shared.len()).collect();
        let value = measure(&all)?;
        let draws =
            bootstrap(shared.len(), replicates, seed, |drawn| measure(drawn).unwrap_or(f64::NAN));
        let finite: Vec<f64> = draws.into_iter().filter(|draw| draw.is_finite()).collect();
        let interval = (shared.len() > 1)
            .then(|| percentile_interval(finite, LEVEL, Method::Bootstrap))
            .flatten();
        Some(Coefficient { value, interval })
    };
    let two = shared.iter().all(|unit| unit.len() == 2);
    Some(Agreement {
        units: shared.len() as u64,
        observed: observed(&counts, &(0..shared.len()).collect::<Vec<_>>()),
        cohen_kappa: if two {
            with_interval(&|drawn| cohen_kappa(&shared, categories, drawn))
        } else {
            None
        },
        fleiss_kappa: with_interval(&|drawn| {
            let chance = shares(&counts, categories, drawn).iter().map(|p| p * p).sum();
            beyond_chance(observed(&counts, drawn), chance)
        }),
        krippendorff_alpha: with_interval(&|drawn| {
            krippendorff_alpha(&counts, categories, distance, drawn)
        }),
        gwet_ac1: with_interval(&|drawn| {
            let spread: f64 =
                shares(&counts, categories, drawn).iter().map(|p| p * (1.0 - p)).sum();
            let chance = if categories > 1 { spread / (categories as f64 - 1.0) } else { 0.0 };
            beyond_chance(observed(&counts, drawn), chance)
        }),
    })
}

/// Ratings of a unit by category.
fn count(unit: &[Option<usize>], categories: usize) -> Vec<f64> {
    let mut counts = vec![0.0; categories];
    for category in unit.iter().flatten() {
        counts[*category] += 1.0;
    }
    counts
}

fn beyond_chance(observed: f64, chance: f64) -> Option<f64> {
    (chance < 1.0).then(|| (observed - chance) / (1.0 - chance))
}

/// Mean over the drawn units of the share of agreeing pairs.
fn observed(counts: &[Vec<f64>], drawn: &[usize]) -> f64 {
    let agreeing = |unit: &Vec<f64>| {
        let n: f64 = unit.iter().sum();
        unit.iter().map(|k| k * (k - 1.0)).sum::<f64>() / (n * (n - 1.0))
    };
    drawn.iter().map(|&unit| agreeing(&counts[unit])).sum::<f64>() / drawn.len() as f64
}

/// Mean share of each category.
fn shares(counts: &[Vec<f64>], categories: usize, drawn: &[usize]) -> Vec<f64> {
    let mut shares = vec![0.0; categories];
    for &unit in drawn {
        let n: f64 = counts[unit].iter().sum();
        for (share, k) in shares.iter_mut().zip(&counts[unit]) {
            *share += k / n / drawn.len() as f64;
        }
    }
    shares
}

fn cohen_kappa(units: &[&[Option<usize>]], categories: usize, drawn: &[usize]) -> Option<f64> {
    let (mut first, mut second) = (vec![0.0; categories], vec![0.0; categories]);
    let mut equal = 0.0;
    for &unit in drawn {
        let [Some(a), Some(b)] = units[unit] else { return None };
        first[*a] += 1.0;
        second[*b] += 1.0;
        equal += f64::from(u8::from(a == b));
    }
    let n = drawn.len() as f64;
    let chance: f64 = first.iter().zip(&second).map(|(a, b)| a * b / (n * n)).sum();
    beyond_chance(equal / n, chance)
}

fn krippendorff_alpha(
    counts: &[Vec<f64>],
    categories: usize,
    distance: Distance,
    drawn: &[usize],
) -> Option<f64> {
    let apart = |c: usize, k: usize| match distance {
        Distance::Nominal => f64::from(u8::from(c != k)),
        Distance::Interval => (c as f64 - k as f64).powi(2),
    };
    let mut totals = vec![0.0; categories];
    let mut disagreement = 0.0;
    for &unit in drawn {
        let n: f64 = counts[unit].iter().sum();
        for (c, &at_c) in counts[unit].iter().enumerate().filter(|(_, count)| **count > 0.0) {
            totals[c] += at_c;
            for (k, &at_k) in counts[unit].iter().enumerate() {
                disagreement += at_c * at_k * apart(c, k) / (n - 1.0);
            }
        }
    }
    let n: f64 = totals.iter().sum();
    let expected: f64 = (0..categories)
        .flat_map(|c| (0..categories).map(move |k| (c, k)))
        .map(|(c, k)| totals[c] * totals[k] * apart(c, k) / (n - 1.0))
        .sum();
    (expected > 0.0).then(|| 1.0 - disagreement / expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::near;

    fn ratings(rows: &[&str]) -> Ratings {
        // One row for each rater, one character for each unit; `*` is a missing rating.
        let rater = |row: &&str| -> Vec<Option<usize>> {
            row.chars().map(|c| c.to_digit(10).map(|digit| digit as usize)).collect()
        };
        let rows: Vec<Vec<Option<usize>>> = rows.iter().map(rater).collect();
        let units = (0..rows[0].len()).map(|u| rows.iter().map(|row| row[u]).collect()).collect();
        Ratings { units, categories: 6 }
    }

    #[test]
    fn three_raters_with_gaps() {
        // The package krippendorff 0.9.0 (reference/statistics_golden.py holds more).
        let data = ratings(&["*****34121133*3", "1*21334**1*2**1", "**213341*1**3*1"]);
        let check = |distance, expect| {
            let found = agreement(&data, distance, 200, Seed(1)).unwrap();
            near(found.krippendorff_alpha.unwrap().value, expect, 1e-12);
        };
        check(Distance::Nominal, 0.7676767676767677);
        check(Distance::Interval, 0.8318713450292398);
    }

    #[test]
    fn two_raters_by_hand() {
        // 20 both yes, 15 both no, 5 and 10 apart: the textbook's kappa of 0.4.
        let mut units = vec![vec![Some(1), Some(1)]; 20];
        units.extend(vec![vec![Some(0), Some(0)]; 15]);
        units.extend(vec![vec![Some(1), Some(0)]; 5]);
        units.extend(vec![vec![Some(0), Some(1)]; 10]);
        let found =
            agreement(&Ratings { units, categories: 2 }, Distance::Nominal, 200, Seed(1)).unwrap();
        near(found.observed, 0.7, 1e-12);
        near(found.cohen_kappa.unwrap().value, 0.4, 1e-12);
        // Shares 0.55 and 0.45: Fleiss (0.7 − 0.505)/0.495, AC1 (0.7 − 0.495)/0.505.
        near(found.fleiss_kappa.unwrap().value, 0.195 / 0.495, 1e-12);
        near(found.gwet_ac1.unwrap().value, 0.205 / 0.505, 1e-12);
        let interval = found.cohen_kappa.unwrap().interval.unwrap();
        assert!(interval.low < 0.4 && 0.4 < interval.high);
    }

    #[test]
    fn a_single_category_is_agreement_without_kappa() {
        let units = vec![vec![Some(0), Some(0)]; 5];
        let found =
            agreement(&Ratings { units, categories: 2 }, Distance::Nominal, 50, Seed(1)).unwrap();
        assert_eq!((found.cohen_kappa, found.krippendorff_alpha), (None, None));
        near(found.gwet_ac1.unwrap().value, 1.0, 0.0);
        let alone = Ratings { units: vec![vec![Some(0), None]], categories: 2 };
        assert_eq!(agreement(&alone, Distance::Nominal, 50, Seed(1)), None);
    }
}

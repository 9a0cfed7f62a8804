//! The bootstrap: seeded draws of units, or of whole clusters, and percentile intervals.

use milpa_base::Seed;

use super::{Interval, Method, intervals::group_by_cluster};

/// Draws `replicates` bootstrap samples of `units` units and returns the statistic of each.
///
/// `statistic` receives the indices drawn with replacement, `units` of them.
pub fn bootstrap(
    units: usize,
    replicates: usize,
    seed: Seed,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> Vec<f64> {
    let mut drawn = vec![0; units];
    (0..replicates)
        .map(|replicate| {
            let stream = seed.nth(replicate as u64);
            for (position, index) in drawn.iter_mut().enumerate() {
                // Multiply and shift maps 64 random bits to 0..units without a division.
                let wide = u128::from(stream.u64_at(position as u64)) * units as u128;
                *index = (wide >> 64) as usize;
            }
            statistic(&drawn)
        })
        .collect()
}

/// Draws `replicates` bootstrap samples of units in clusters in strata, and returns the statistic of each.
///
/// Within each stratum as many clusters are drawn with replacement as it has, and of each drawn cluster as
/// many of its units as it has; `statistic` receives the units drawn. Clusters of one unit are drawn as by
/// [`bootstrap`]; a stratum of one cluster has its units drawn, so what comes of it speaks of that cluster
/// alone. Drawing in both stages errs to the wide side, and a few clusters that are alike by chance still
/// have the spread of their units.
///
/// Book: A. C. Davison, D. V. Hinkley, Bootstrap Methods and their Application (1997), section 3.8,
/// strategy 2.
pub fn bootstrap_in_clusters(
    strata: &[Vec<Vec<usize>>],
    replicates: usize,
    seed: Seed,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> Vec<f64> {
    let mut drawn = Vec::new();
    (0..replicates)
        .map(|replicate| {
            let stream = seed.nth(replicate as u64);
            let mut position = 0;
            let mut draw = |count: usize| {
                let wide = u128::from(stream.u64_at(position)) * count as u128;
                position += 1;
                (wide >> 64) as usize
            };
            drawn.clear();
            for clusters in strata {
                for _ in clusters {
                    let cluster = &clusters[draw(clusters.len())];
                    for _ in cluster {
                        drawn.push(cluster[draw(cluster.len())]);
                    }
                }
            }
            statistic(&drawn)
        })
        .collect()
}

/// Percentile interval of bootstrap replicates; `None` for none.
pub fn percentile_interval(
    mut replicates: Vec<f64>,
    level: f64,
    method: Method,
) -> Option<Interval> {
    if replicates.is_empty() {
        return None;
    }
    replicates.sort_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Some(Interval {
        low: quantile(&replicates, tail),
        high: quantile(&replicates, 1.0 - tail),
        level,
        method,
    })
}

/// Quantile of ascending values by linear interpolation (Hyndman and Fan's type 7).
pub fn quantile(sorted: &[f64], probability: f64) -> f64 {
    let position = probability.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

/// Bootstrap interval of the mean; whole clusters are drawn where they are given.
/// `None` for fewer than two units.
pub fn bootstrap_mean(
    values: &[f64],
    clusters: Option<&[usize]>,
    replicates: usize,
    seed: Seed,
    level: f64,
) -> Option<Interval> {
    let (sums, method): (Vec<(f64, f64)>, _) = match clusters {
        None => (values.iter().map(|value| (*value, 1.0)).collect(), Method::Bootstrap),
        Some(clusters) => {
            let sum = |members: &Vec<usize>| {
                (members.iter().map(|&i| values[i]).sum(), members.len() as f64)
            };
            (group_by_cluster(clusters).iter().map(sum).collect(), Method::ClusterBootstrap)
        }
    };
    if sums.len() < 2 {
        return None;
    }
    let ratio = |drawn: &[usize]| {
        let (sum, n) = drawn.iter().fold((0.0, 0.0), |(s, n), &i| (s + sums[i].0, n + sums[i].1));
        sum / n
    };
    percentile_interval(bootstrap(sums.len(), replicates, seed, ratio), level, method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{near, standard_error};

    #[test]
    fn quantile_interpolates_like_type_7() {
        near(quantile(&[1.0, 2.0, 3.0, 4.0], 0.25), 1.75, 1e-15);
        near(quantile(&[5.0], 0.9), 5.0, 0.0);
    }

    #[test]
    fn the_bootstrap_is_seeded_and_matches_the_analytic_error() {
        let values: Vec<f64> = (0..400).map(|i| Seed(3).normal_at(i)).collect();
        let interval = bootstrap_mean(&values, None, 2000, Seed(1), 0.95).unwrap();
        assert_eq!(Some(interval), bootstrap_mean(&values, None, 2000, Seed(1), 0.95));
        assert_ne!(Some(interval), bootstrap_mean(&values, None, 2000, Seed(2), 0.95));
        let analytic = 2.0 * 1.96 * standard_error(&values).unwrap();
        near((interval.high - interval.low) / analytic, 1.0, 0.06);
        assert_eq!(bootstrap_mean(&values[..1], None, 10, Seed(1), 0.95), None);
    }

    #[test]
    fn equal_values_in_a_cluster_count_once() {
        // Ten copies of each of 40 values: the item bootstrap is √10 too narrow.
        let once: Vec<f64> = (0..40).map(|i| Seed(5).normal_at(i)).collect();
        let values: Vec<f64> = once.iter().flat_map(|value| [*value; 10]).collect();
        let clusters: Vec<usize> = (0..400).map(|i| i / 10).collect();
        let width = |interval: Option<Interval>| interval.map(|i| i.high - i.low).unwrap();
        let whole = width(bootstrap_mean(&values, Some(&clusters), 2000, Seed(1), 0.95));
        let items = width(bootstrap_mean(&values, None, 2000, Seed(1), 0.95));
        near(whole / items, 10f64.sqrt(), 0.3);
    }

    #[test]
    fn units_of_a_cluster_are_drawn_with_it() {
        let values: Vec<f64> = (0..400).map(|i| Seed(5).normal_at(i)).collect();
        let width = |strata: &[Vec<Vec<usize>>], value: &dyn Fn(usize) -> f64| {
            let mean = |drawn: &[usize]| {
                drawn.iter().map(|&unit| value(unit)).sum::<f64>() / drawn.len() as f64
            };
            let draws = bootstrap_in_clusters(strata, 2000, Seed(1), mean);
            percentile_interval(draws, 0.95, Method::ClusterBootstrap)
                .map(|i| i.high - i.low)
                .unwrap()
        };
        let of = |range: std::ops::Range<usize>, size: usize| -> Vec<Vec<usize>> {
            range.step_by(size).map(|first| (first..first + size).collect()).collect()
        };
        // Alone, or all of one cluster: units are as good as independent.
        let items = width(&[of(0..400, 1)], &|unit| values[unit]);
        near(items, 2.0 * 1.96 * standard_error(&values).unwrap(), 0.01);
        near(width(&[of(0..400, 400)], &|unit| values[unit]) / items, 1.0, 0.06);
        // Equal values in a cluster count once.
        let copies = |unit: usize| values[unit / 10];
        let wider = width(&[of(0..400, 10)], &copies) / width(&[of(0..400, 1)], &copies);
        near(wider, 10f64.sqrt(), 0.3);
        // Each stratum keeps its number of clusters: what differs between them adds nothing.
        let strata = [of(0..200, 1), of(200..400, 1)];
        near(width(&strata, &|unit| if unit < 200 { 1.0 } else { 7.0 }), 0.0, 1e-12);
    }

    #[test]
    fn the_bootstrap_covers_nearly_as_often_as_it_says() {
        // 400 experiments of 40 skewed values (exponential, mean 1). The percentile bootstrap is
        // known to cover a little less than its level there; 400 draws have an error of 1.2 %.
        let experiments = 400;
        let covered = (0..experiments)
            .filter(|&experiment| {
                let stream = Seed(11).nth(experiment);
                let values: Vec<f64> = (0..40).map(|i| -(1.0 - stream.f64_at(i)).ln()).collect();
                let interval = bootstrap_mean(&values, None, 300, stream, 0.95).unwrap();
                interval.low <= 1.0 && 1.0 <= interval.high
            })
            .count();
        let coverage = covered as f64 / experiments as f64;
        assert!((0.88..0.97).contains(&coverage), "{coverage}");
    }
}

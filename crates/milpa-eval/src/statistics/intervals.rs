//! Intervals around one mean or proportion: of independent values and of clusters of them.

use super::{
    Interval, Method,
    distributions::{normal_quantile, student_t_quantile},
};

/// Wilson score interval, without continuity correction, for `successes` out of `n`.
///
/// For `n = 0` it is the whole of [0, 1]: nothing is known.
///
/// Paper: E. B. Wilson 1927; method 3 of R. G. Newcombe, Statistics in Medicine 17 (1998) 857–872.
pub fn wilson(successes: u64, n: u64, level: f64) -> Interval {
    let method = Method::Wilson;
    if n == 0 {
        return Interval { low: 0.0, high: 1.0, level, method };
    }
    let z = normal_quantile(f64::midpoint(1.0, level));
    let (n, p) = (n as f64, successes as f64 / n as f64);
    let centre = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    // At p = 0 and p = 1 the ends are exact; rounding must not move them.
    let low = if p == 0.0 { 0.0 } else { ((centre - half) / scale).max(0.0) };
    let high = if p == 1.0 { 1.0 } else { ((centre + half) / scale).min(1.0) };
    Interval { low, high, level, method }
}

/// Mean and t interval of independent values; `None` for fewer than two.
pub fn mean_interval(values: &[f64], level: f64) -> Option<(f64, Interval)> {
    let error = standard_error(values)?;
    let mean = mean(values);
    let half = student_t_quantile(f64::midpoint(1.0, level), values.len() as f64 - 1.0) * error;
    let method = Method::StudentT;
    Some((mean, Interval { low: mean - half, high: mean + half, level, method }))
}

/// Arithmetic mean; 0 for nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard error of the mean of independent values (sample deviation / √n); `None` below two.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let (n, mean) = (values.len() as f64, mean(values));
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (n - 1.0) / n).sqrt())
}

/// Standard error of the mean where `clusters[i]` names the cluster of `values[i]`.
///
/// √(C/(C−1) · Σ over clusters (Σ (x − mean))²) / n; `None` below two clusters.
/// Paper: arXiv 2411.00640 section 2.2, with the small-sample factor C/(C−1).
pub fn clustered_standard_error(values: &[f64], clusters: &[usize]) -> Option<f64> {
    let groups = group_by_cluster(clusters);
    if groups.len() < 2 {
        return None;
    }
    let (mean, count) = (mean(values), groups.len() as f64);
    let squares: f64 = groups
        .iter()
        .map(|members| members.iter().map(|&i| values[i] - mean).sum::<f64>().powi(2))
        .sum();
    Some((count / (count - 1.0) * squares).sqrt() / values.len() as f64)
}

/// Mean and t interval of values in clusters: the clustered standard error with C − 1 degrees of
/// freedom; `None` below two clusters.
pub fn clustered_mean_interval(
    values: &[f64],
    clusters: &[usize],
    level: f64,
) -> Option<(f64, Interval)> {
    let error = clustered_standard_error(values, clusters)?;
    let groups = group_by_cluster(clusters).len() as f64;
    let mean = mean(values);
    let half = student_t_quantile(f64::midpoint(1.0, level), groups - 1.0) * error;
    let method = Method::ClusteredT;
    Some((mean, Interval { low: mean - half, high: mean + half, level, method }))
}

/// Upper confidence limit of a rate whose event was never seen in `n` trials: 1 − (1 − level)^(1/n),
/// about 3/n at 95 % (the rule of three). For `n = 0` it is 1.
///
/// Paper: J. A. Hanley, A. Lippman-Hand, JAMA 249 (1983) 1743–1745.
pub fn rule_of_three(n: u64, level: f64) -> f64 {
    if n == 0 { 1.0 } else { -((1.0 - level).ln() / n as f64).exp_m1() }
}

/// Members of each cluster, clusters in order of first appearance.
pub fn group_by_cluster(clusters: &[usize]) -> Vec<Vec<usize>> {
    let mut place = std::collections::BTreeMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, cluster) in clusters.iter().enumerate() {
        let at = *place.entry(*cluster).or_insert(groups.len());
        if at == groups.len() {
            groups.push(Vec::new());
        }
        groups[at].push(index);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{distributions::ln_choose, near};

    #[test]
    fn wilson_gives_newcombes_published_limits() {
        // Newcombe 1998, table I, method 3, 95 %.
        let check = |successes, n, low, high| {
            let interval = wilson(successes, n, 0.95);
            near(interval.low, low, 5e-5);
            near(interval.high, high, 5e-5);
        };
        check(81, 263, 0.2553, 0.3662);
        check(15, 148, 0.0624, 0.1605);
        check(0, 20, 0.0, 0.1611);
        check(1, 29, 0.0061, 0.1718);
        assert_eq!(wilson(0, 0, 0.95).high, 1.0);
        assert_eq!(wilson(20, 20, 0.95).high, 1.0);
    }

    #[test]
    fn wilson_covers_as_often_as_it_says() {
        // Exact coverage: the binomial probability of the outcomes whose interval holds p.
        for (n, p) in [(150u64, 0.2), (150, 0.25), (456, 0.25), (40, 0.5)] {
            let coverage: f64 = (0..=n)
                .filter(|&k| {
                    let interval = wilson(k, n, 0.95);
                    interval.low <= p && p <= interval.high
                })
                .map(|k| {
                    let (nf, kf) = (n as f64, k as f64);
                    (ln_choose(n, k) + kf * p.ln() + (nf - kf) * (1.0 - p).ln()).exp()
                })
                .sum();
            assert!((0.93..0.97).contains(&coverage), "n {n}, p {p}: {coverage}");
        }
    }

    #[test]
    fn standard_errors_by_hand() {
        // Deviations ±1 around 2: sample variance 4/3, error √(4/3/4).
        near(standard_error(&[1.0, 3.0, 1.0, 3.0]).unwrap(), (1.0f64 / 3.0).sqrt(), 1e-15);
        assert_eq!(standard_error(&[1.0]), None);
        // Clusters (1, 1) and (3, 3): sums of deviations −2 and 2; √(2/1 · 8) / 4 = 1.
        near(clustered_standard_error(&[1.0, 1.0, 3.0, 3.0], &[7, 7, 2, 2]).unwrap(), 1.0, 1e-15);
        let (centre, interval) = mean_interval(&[1.0, 3.0], 0.95).unwrap();
        near(centre, 2.0, 0.0);
        near(interval.high - 2.0, 12.706_204_736_174_7, 1e-8);
        let (centre, interval) =
            clustered_mean_interval(&[1.0, 1.0, 3.0, 3.0], &[7, 7, 2, 2], 0.95).unwrap();
        near(centre, 2.0, 0.0);
        near(interval.high - 2.0, 12.706_204_736_174_7, 1e-8);
        assert_eq!(clustered_mean_interval(&[1.0, 2.0], &[1, 1], 0.95), None);
    }

    #[test]
    fn an_event_never_seen_has_an_upper_limit() {
        // The exact limit makes zero events in n trials have probability 1 − level.
        near((1.0 - rule_of_three(100, 0.95)).powi(100), 0.05, 1e-14);
        near(rule_of_three(10_000, 0.95) * 10_000.0, 3.0, 0.01);
        near(rule_of_three(0, 0.95), 1.0, 0.0);
    }
}

//! Intervals and tests for scores: how certain a measured number is.
//!
//! Plain functions on numbers; they know nothing of tasks or models. Random numbers are
//! counter-based, so a resampled interval is a function of the data and the seed alone.
//! Advice followed: E. Miller, "Adding error bars to evals", arXiv 2411.00640.

use milpa_base::Seed;
use serde::{Deserialize, Serialize};

/// Level of every interval that a report shows.
pub const LEVEL: f64 = 0.95;

/// How an interval was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Wilson score interval of a proportion of independent items.
    Wilson,
    /// Mean plus or minus Student's t times the standard error.
    StudentT,
    /// Percentiles of seeded bootstrap replicates of the units.
    Bootstrap,
    /// Percentiles of seeded bootstrap replicates in which whole clusters are drawn.
    ClusterBootstrap,
}

/// An interval around an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Nominal coverage, such as 0.95.
    pub level: f64,
    /// How it was computed.
    pub method: Method,
}

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

/// Difference of two models on the same items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Mean of b − a.
    pub difference: f64,
    /// Bootstrap interval of the mean difference; `None` below two units.
    pub interval: Option<Interval>,
    /// Standard error of the mean difference (clustered where clusters are given).
    pub standard_error: Option<f64>,
    /// Items compared.
    pub items: u64,
}

/// Compares two models item by item: pairs are drawn together, so what makes an item hard for
/// both cancels out.
///
/// # Panics
/// If `a` and `b` differ in length.
pub fn paired_difference(
    a: &[f64],
    b: &[f64],
    clusters: Option<&[usize]>,
    replicates: usize,
    seed: Seed,
    level: f64,
) -> PairedDifference {
    assert_eq!(a.len(), b.len(), "pairs come from the same items");
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    PairedDifference {
        difference: mean(&differences),
        interval: bootstrap_mean(&differences, clusters, replicates, seed, level),
        standard_error: match clusters {
            Some(clusters) => clustered_standard_error(&differences, clusters),
            None => standard_error(&differences),
        },
        items: differences.len() as u64,
    }
}

/// Exact two-sided McNemar test: `only_a` items were right with the first model alone, `only_b`
/// with the second alone. Returns the p-value (binomial with one half).
pub fn mcnemar_exact(only_a: u64, only_b: u64) -> f64 {
    let n = only_a + only_b;
    let fewer = only_a.min(only_b);
    if n == 0 {
        return 1.0;
    }
    let log_half = (n as f64) * 0.5f64.ln();
    let tail: f64 = (0..=fewer)
        .map(|k| {
            let log_choose = ln_gamma(n as f64 + 1.0)
                - ln_gamma(k as f64 + 1.0)
                - ln_gamma((n - k) as f64 + 1.0);
            (log_choose + log_half).exp()
        })
        .sum();
    (2.0 * tail).min(1.0)
}

/// Quantile of the standard normal distribution for a probability in (0, 1).
///
/// Algorithm AS 241 (PPND16), M. J. Wichura, Applied Statistics 37 (1988) 477–484: about 1e-16.
pub fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 8] = [
        3.387_132_872_796_366_5,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ];
    const B: [f64; 8] = [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_659_7e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_854e3,
    ];
    const C: [f64; 8] = [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ];
    const D: [f64; 8] = [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ];
    const E: [f64; 8] = [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        2.965_605_718_285_048_7e-1,
        2.653_218_952_657_612_4e-2,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ];
    const F: [f64; 8] = [
        1.0,
        5.998_322_065_558_88e-1,
        1.369_298_809_227_358e-1,
        1.487_536_129_085_061_5e-2,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ];
    fn polynomial(coefficients: &[f64; 8], x: f64) -> f64 {
        coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient)
    }
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * polynomial(&A, r) / polynomial(&B, r);
    }
    let tail = (-p.min(1.0 - p).ln()).sqrt();
    let value = if tail <= 5.0 {
        polynomial(&C, tail - 1.6) / polynomial(&D, tail - 1.6)
    } else {
        polynomial(&E, tail - 5.0) / polynomial(&F, tail - 5.0)
    };
    if q < 0.0 { -value } else { value }
}

/// Quantile of Student's t distribution with `degrees` of freedom for a probability in (0, 1).
pub fn student_t_quantile(p: f64, degrees: f64) -> f64 {
    if p < 0.5 {
        return -student_t_quantile(1.0 - p, degrees);
    }
    // P(T > t) = I_{ν/(ν+t²)}(ν/2, 1/2) / 2 falls with t: bracket it, then halve.
    let upper = |t: f64| 0.5 * incomplete_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5);
    let (mut low, mut high) = (0.0, 1.0);
    while upper(high) > 1.0 - p && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if upper(middle) > 1.0 - p {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// Regularised incomplete beta function I_x(a, b) by its continued fraction (DLMF 8.17.22).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast on this side only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front =
        (a * x.ln() + b * (1.0 - x).ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    // Modified Lentz's method.
    const TINY: f64 = 1e-300;
    let keep = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / keep(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for step in 1..500 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / keep(1.0 + even * d);
        c = keep(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / keep(1.0 + odd * d);
        c = keep(1.0 + odd / c);
        let change = d * c;
        fraction *= change;
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

/// ln Γ(x) for x > 0: Stirling's series after shifting x above 10.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0
        - inverse
            * (1.0 / 360.0
                - inverse * (1.0 / 1260.0 - inverse * (1.0 / 1680.0 - inverse / 1188.0))))
        / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expect: f64, tolerance: f64) {
        assert!((value - expect).abs() <= tolerance, "{value} is not {expect} ± {tolerance}");
    }

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
                    let choose = ln_gamma(nf + 1.0) - ln_gamma(kf + 1.0) - ln_gamma(nf - kf + 1.0);
                    (choose + kf * p.ln() + (nf - kf) * (1.0 - p).ln()).exp()
                })
                .sum();
            assert!((0.93..0.97).contains(&coverage), "n {n}, p {p}: {coverage}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        near(normal_quantile(0.975), 1.959_963_984_540_054, 1e-14);
        near(normal_quantile(0.5), 0.0, 1e-16);
        // AS 241's own check values.
        near(normal_quantile(0.25), -0.674_489_750_196_081_7, 1e-14);
        near(normal_quantile(0.001), -3.090_232_306_167_814, 1e-13);
        near(normal_quantile(1e-20), -9.262_340_089_798_408, 1e-12);
        near(student_t_quantile(0.975, 1.0), 12.706_204_736_174_7, 1e-9);
        near(student_t_quantile(0.975, 10.0), 2.228_138_851_964_94, 1e-10);
        near(student_t_quantile(0.975, 30.0), 2.042_272_456_301_24, 1e-10);
        near(student_t_quantile(0.025, 30.0), -2.042_272_456_301_24, 1e-10);
        near(student_t_quantile(0.975, 1e7), 1.959_964, 1e-5);
        near(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-13);
        near(ln_gamma(11.0), 3_628_800f64.ln(), 1e-12);
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
    }

    #[test]
    fn quantile_interpolates_like_type_7() {
        near(quantile(&[1.0, 2.0, 3.0, 4.0], 0.25), 1.75, 1e-15);
        near(quantile(&[5.0], 0.9), 5.0, 0.0);
    }

    #[test]
    fn mcnemar_by_hand() {
        // 2 · (C(12,0) + C(12,1) + C(12,2)) / 2¹² = 158 / 4096.
        near(mcnemar_exact(10, 2), 158.0 / 4096.0, 1e-12);
        near(mcnemar_exact(2, 10), 158.0 / 4096.0, 1e-12);
        assert_eq!(mcnemar_exact(0, 0), 1.0);
        assert_eq!(mcnemar_exact(3, 3), 1.0);
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

    #[test]
    fn pairing_removes_what_both_share() {
        let hard: Vec<f64> = (0..200).map(|i| Seed(8).normal_at(i)).collect();
        let a: Vec<f64> = hard.iter().map(|h| h * 10.0).collect();
        let b: Vec<f64> = hard.iter().map(|h| h * 10.0 + 0.5).collect();
        let paired = paired_difference(&a, &b, None, 500, Seed(1), 0.95);
        near(paired.difference, 0.5, 1e-12);
        let interval = paired.interval.unwrap();
        near(interval.low, 0.5, 1e-9);
        near(interval.high, 0.5, 1e-9);
        assert_eq!(paired.items, 200);
    }
}

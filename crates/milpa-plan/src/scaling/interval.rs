//! Intervals from resamples.

use serde::{Serialize, Serializer};

/// A value with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Lower end, where there were resamples.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// Whether the interval is known.
    pub fn has_interval(&self) -> bool {
        !self.low.is_nan() && !self.high.is_nan()
    }

    /// Whether the interval holds `value`.
    pub fn holds(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

impl Serialize for Estimate {
    /// JSON has no infinity and no missing number; both are `null`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let finite = |value: f64| value.is_finite().then_some(value);
        let mut fields = serializer.serialize_struct("Estimate", 3)?;
        fields.serialize_field("value", &finite(self.value))?;
        fields.serialize_field("low", &finite(self.low))?;
        fields.serialize_field("high", &finite(self.high))?;
        fields.end()
    }
}

/// The point of the standard normal distribution with 2.5 % beyond it.
pub(super) const NORMAL_95: f64 = 1.959_963_984_540_054;

/// The 95 % interval of `value` from its resamples and from its values without each row.
///
/// Bias-corrected and accelerated percentiles (Efron 1987): the percentiles are moved by the share
/// of resamples below the estimate and by the skewness of the rows' influence. `reach` is
/// [`NORMAL_95`], or more where the resamples are known to spread too little.
pub(super) fn estimate(
    value: f64,
    mut resamples: Vec<f64>,
    without: &[f64],
    reach: f64,
) -> Estimate {
    if resamples.is_empty() || value.is_nan() {
        return Estimate { value, low: f64::NAN, high: f64::NAN };
    }
    for resample in &mut resamples {
        // A resample that gives no value may be anything: half of them on either side.
        if resample.is_nan() {
            *resample = f64::INFINITY;
        }
    }
    resamples.sort_by(f64::total_cmp);
    let count = resamples.len() as f64;
    let below = resamples.partition_point(|&x| x < value) as f64;
    let ties = resamples.partition_point(|&x| x <= value) as f64 - below;
    let bias =
        normal_quantile(((below + 0.5 * ties) / count).clamp(0.5 / count, 1.0 - 0.5 / count));
    let acceleration = acceleration(without);
    let at = |z: f64| {
        let moved = bias + (bias + z) / (1.0 - acceleration * (bias + z));
        quantile(&resamples, normal_share(moved))
    };
    Estimate { value, low: at(-reach), high: at(reach) }
}

/// Two-sided 95 % point of Student's distribution (Abramowitz and Stegun 26.7.5, exact for 1 and 2).
pub(super) fn student_95(freedom: usize) -> f64 {
    let z = NORMAL_95;
    match freedom {
        1 => 12.706_204_736,
        2 => 4.302_652_730,
        _ => {
            let v = freedom as f64;
            z + (z.powi(3) + z) / (4.0 * v)
                + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v)
                + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z)
                    / (384.0 * v.powi(3))
        }
    }
}

/// A sixth of the skewness of the rows' influence.
fn acceleration(without: &[f64]) -> f64 {
    let values: Vec<f64> = without.iter().copied().filter(|value| value.is_finite()).collect();
    if values.len() < 3 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (mut squares, mut cubes) = (0.0, 0.0);
    for value in values {
        let influence = mean - value;
        squares += influence * influence;
        cubes += influence.powi(3);
    }
    if squares > 0.0 { (cubes / (6.0 * squares.powf(1.5))).clamp(-0.2, 0.2) } else { 0.0 }
}

/// The value below which `share` of sorted values lie, between neighbours.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    let place = (share * sorted.len() as f64 - 0.5).clamp(0.0, last as f64);
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    if low == high { low } else { low + (high - low) * place.fract() }
}

/// Share of the standard normal distribution below `z` (Hart's approximation after West 2005,
/// some fifteen digits).
fn normal_share(z: f64) -> f64 {
    let size = z.abs();
    if size > 37.0 {
        return if z > 0.0 { 1.0 } else { 0.0 };
    }
    let bell = (-0.5 * size * size).exp();
    let tail = if size < 7.071_067_811_865_47 {
        let above = [
            0.035_262_496_599_891_1,
            0.700_383_064_443_688,
            6.373_962_203_531_65,
            33.912_866_078_383,
            112.079_291_497_871,
            221.213_596_169_931,
            220.206_867_912_376,
        ];
        let below = [
            0.088_388_347_648_318_4,
            1.755_667_163_182_64,
            16.064_177_579_207,
            86.780_732_202_946_1,
            296.564_248_779_674,
            637.333_633_378_831,
            793.826_512_519_948,
            440.413_735_824_752,
        ];
        let horner = |terms: &[f64]| terms.iter().fold(0.0, |sum, term| sum * size + term);
        bell * horner(&above) / horner(&below)
    } else {
        let fraction = (1..=4).rev().fold(0.65, |below, n| f64::from(n) / (size + below));
        bell / ((size + fraction) * 2.506_628_274_631)
    };
    if z > 0.0 { 1.0 - tail } else { tail }
}

/// The z below which `share` of the standard normal distribution lies (bisection).
fn normal_quantile(share: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if normal_share(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use milpa_base::Seed;

    #[test]
    fn the_normal_distribution_is_that_of_the_tables() {
        for (z, share) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_543),
            (-1.959_963_984_540_054, 0.025),
            (3.0, 0.998_650_101_968_37),
            (-6.0, 9.865_876_450_376_98e-10),
        ] {
            let got = normal_share(z);
            assert!((got / share - 1.0).abs() < 1e-9, "{z}: {got}");
            if z.abs() < 5.0 {
                assert!((normal_quantile(share) - z).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn an_unskewed_interval_is_the_percentiles() {
        let values: Vec<f64> = (0..10_001).map(|i| f64::from(i) / 10_000.0).collect();
        let got = estimate(0.5, values, &[], NORMAL_95);
        assert!((got.low - 0.025).abs() < 1e-3 && (got.high - 0.975).abs() < 1e-3, "{got:?}");
    }

    #[test]
    fn the_interval_of_a_skewed_mean_leans_to_its_side() {
        // Means of 20 exponential numbers: the upper end must be farther away than the lower.
        let row = |i: u64| -(1.0 - Seed(3).f64_at(i)).ln();
        let mean = (0..20).map(row).sum::<f64>() / 20.0;
        let without: Vec<f64> = (0..20).map(|i| (mean * 20.0 - row(i)) / 19.0).collect();
        let drawn = |n: u64| {
            let draws = Seed(4).nth(n);
            (0..20).map(|i| row((draws.f64_at(i) * 20.0) as u64)).sum::<f64>() / 20.0
        };
        let got = estimate(mean, (0..4000).map(drawn).collect(), &without, NORMAL_95);
        assert!(got.high - mean > 1.15 * (mean - got.low), "{got:?}");
    }

    #[test]
    fn without_resamples_there_is_no_interval() {
        assert!(!estimate(1.0, Vec::new(), &[], NORMAL_95).has_interval());
    }

    #[test]
    fn students_quantiles_are_those_of_the_tables() {
        for (freedom, expect) in [(1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042), (1000, 1.962)] {
            let got = student_95(freedom);
            assert!((got / expect - 1.0).abs() < 0.003, "{freedom}: {got}");
        }
    }
}

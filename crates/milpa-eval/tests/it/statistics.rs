//! Statistics against scipy, statsmodels and krippendorff (`reference/statistics_golden.py`).

use milpa_base::Seed;
use milpa_eval::statistics::{
    agreement::{Agreement, Coefficient, Distance, Ratings, agreement},
    benjamini_hochberg, holm, mcnemar_exact, normal_cdf, student_t_quantile, wilson,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    two: Rated,
    five: Rated,
    gaps: Rated,
    mcnemar: Vec<(u64, u64, f64)>,
    p_values: Vec<f64>,
    holm: Vec<f64>,
    benjamini_hochberg: Vec<f64>,
    wilson: Vec<(u64, u64, f64, f64)>,
    student_t: Vec<(f64, f64, f64)>,
    normal_cdf: Vec<(f64, f64)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rated {
    ratings: Vec<Vec<Option<usize>>>,
    cohen: Option<f64>,
    fleiss: Option<f64>,
    alpha: Alpha,
}

#[derive(Deserialize)]
struct Alpha {
    nominal: f64,
    interval: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/statistics.json")).unwrap()
}

fn within(value: f64, expect: f64, tolerance: f64) {
    assert!((value - expect).abs() <= tolerance, "{value} is not {expect} ± {tolerance}");
}

#[test]
fn coefficients_of_agreement_are_the_peers() {
    let golden = golden();
    // Gwet's AC1 by the package irrCAC 0.4.4, which does not live beside the other peers.
    let gwet = [Some(0.40115), Some(0.39072), None];
    for (rated, gwet) in [golden.two, golden.five, golden.gaps].into_iter().zip(gwet) {
        let ratings = Ratings { units: rated.ratings, categories: 4 };
        let measure =
            |distance| -> Agreement { agreement(&ratings, distance, 50, Seed(1)).unwrap() };
        let value = |found: Option<Coefficient>| found.unwrap().value;
        let nominal = measure(Distance::Nominal);
        within(value(nominal.krippendorff_alpha), rated.alpha.nominal, 1e-12);
        let interval = measure(Distance::Interval);
        within(value(interval.krippendorff_alpha), rated.alpha.interval, 1e-12);
        if let Some(gwet) = gwet {
            within(value(nominal.gwet_ac1), gwet, 5e-6);
        }
        if let Some(cohen) = rated.cohen {
            within(value(nominal.cohen_kappa), cohen, 1e-12);
        }
        if let Some(fleiss) = rated.fleiss {
            within(value(nominal.fleiss_kappa), fleiss, 1e-12);
        }
    }
}

#[test]
fn tests_and_intervals_are_the_peers() {
    let golden = golden();
    for (only_a, only_b, p_value) in golden.mcnemar {
        within(mcnemar_exact(only_a, only_b), p_value, 1e-11);
    }
    for (found, expect) in holm(&golden.p_values).iter().zip(golden.holm) {
        within(*found, expect, 1e-14);
    }
    for (found, expect) in
        benjamini_hochberg(&golden.p_values).iter().zip(golden.benjamini_hochberg)
    {
        within(*found, expect, 1e-14);
    }
    for (successes, n, low, high) in golden.wilson {
        let interval = wilson(successes, n, 0.95);
        within(interval.low, low, 1e-12);
        within(interval.high, high, 1e-12);
    }
    for (p, degrees, quantile) in golden.student_t {
        within(student_t_quantile(p, degrees), quantile, 1e-9 * quantile.abs());
    }
    for (z, expect) in golden.normal_cdf {
        within(normal_cdf(z), expect, 1e-14);
    }
}

//! Known constants come back from noisy runs, and their intervals hold them as often as they say.

use milpa_base::Seed;
use milpa_plan::scaling::{FitOptions, Law, LawKind, Objective, RunSize};

/// Besiroglu et al. 2024 (arXiv:2404.10102): A, B, E, alpha, beta.
const BESIROGLU: [f64; 5] = [482.00572, 2085.4342, 1.81686, 0.34781, 0.36585];

fn loss([a, b, e, alpha, beta]: [f64; 5], size: RunSize) -> f64 {
    e + a / size.parameters.powf(alpha) + b / size.tokens.powf(beta)
}

/// Sizes spread as Chinchilla's: 44M to 16B parameters at 1 to 200 tokens for each.
fn sizes(count: usize) -> Vec<RunSize> {
    (0..count)
        .map(|i| {
            let across = (i as f64 + 0.5) / count as f64;
            let along = (i as f64 * 0.618_033_988_75).fract();
            let parameters = 4.4e7 * (1.6e10f64 / 4.4e7).powf(across);
            RunSize::once(parameters, parameters * 200f64.powf(along))
        })
        .collect()
}

fn noisy(count: usize, noise: f64, seed: Seed) -> (Vec<RunSize>, Vec<f64>) {
    let sizes = sizes(count);
    let losses = sizes
        .iter()
        .enumerate()
        .map(|(i, &size)| loss(BESIROGLU, size) * (noise * seed.normal_at(i as u64)).exp())
        .collect();
    (sizes, losses)
}

#[test]
fn published_constants_come_back_from_noisy_runs() {
    let (sizes, losses) = noisy(240, 0.005, Seed(11));
    for objective in [Objective::CHINCHILLA, Objective::Absolute] {
        let options = FitOptions { objective, resamples: 200, ..FitOptions::default() };
        let law = Law::fit(LawKind::Chinchilla, &sizes, &losses, &options);
        assert!(law.search.converged && law.search.agreeing == law.search.searches);
        for ((name, estimate), want) in law.constants().into_iter().zip(BESIROGLU) {
            assert!(estimate.holds(want), "{objective:?} {name}: {estimate:?}");
        }
        // The compute-optimal size of Chinchilla's own budget: 72.4B.
        let optimum = law.optimum(5.76e23, None).unwrap();
        assert!(optimum.parameters.holds(7.236e10), "{optimum:?}");
    }
}

#[test]
fn an_outlier_moves_squares_and_not_the_robust_sums() {
    let (sizes, mut losses) = noisy(120, 0.003, Seed(5));
    for loss in losses.iter_mut().step_by(24) {
        *loss *= 1.3;
    }
    let floor = |objective| {
        let options = FitOptions { objective, resamples: 0, ..FitOptions::default() };
        Law::fit(LawKind::Chinchilla, &sizes, &losses, &options).constants()[2].1.value
    };
    let [huber, absolute, squares] =
        [Objective::CHINCHILLA, Objective::Absolute, Objective::Squares].map(floor);
    assert!((huber - 1.81686).abs() < 0.02 && (absolute - 1.81686).abs() < 0.02);
    assert!((squares - 1.81686).abs() > 0.03, "{squares}");
}

/// A small form of `cargo xtask bench plan-coverage`, whose 2,000 simulations are under `benches/`.
#[test]
fn intervals_hold_the_truth_about_as_often_as_they_say() {
    let simulations = 120;
    let mut held = [0; 6];
    for number in 0..simulations {
        let seed = Seed(1).nth(number);
        let (sizes, losses) = noisy(100, 0.01, seed);
        let options =
            FitOptions { resamples: 200, seed: seed.derive("resamples"), ..FitOptions::default() };
        let law = Law::fit(LawKind::Chinchilla, &sizes, &losses, &options);
        let far = RunSize::once(7e10, 1.4e12);
        let estimates = law.constants().into_iter().map(|(_, estimate)| estimate);
        let truths = BESIROGLU.into_iter().chain([loss(BESIROGLU, far)]);
        for (held, (estimate, truth)) in
            held.iter_mut().zip(estimates.chain([law.loss(far)]).zip(truths))
        {
            *held += u32::from(estimate.holds(truth));
        }
    }
    for held in held {
        // 95 % of 120, less and more three standard errors.
        let share = f64::from(held) / simulations as f64;
        assert!((0.89..=1.0).contains(&share), "{share}");
    }
}

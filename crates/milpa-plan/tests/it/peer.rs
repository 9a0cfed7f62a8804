//! Fits of the same runs by scipy (`reference/scaling_golden.py`): our sums are no higher and our
//! predictions the same.

use milpa_plan::scaling::{FitOptions, Law, LawKind, Objective, RunSize, Scale};
use serde_json::Value;

const GOLDEN: &str = include_str!("../golden/scaling.json");

fn sizes(values: &Value) -> Vec<RunSize> {
    let one = |pair: &Value| RunSize::once(pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap());
    values.as_array().unwrap().iter().map(one).collect()
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn fits_are_those_of_scipy() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let (runs, losses) = (sizes(&golden["sizes"]), numbers(&golden["losses"]));
    let fits = golden["fits"].as_array().unwrap();
    assert_eq!(fits.len(), 8);
    for fit in fits {
        let kind = match fit["form"].as_str().unwrap() {
            "chinchilla" => LawKind::Chinchilla,
            "over-training" => LawKind::OverTraining,
            _ => LawKind::Kaplan,
        };
        let (objective, scale) = match fit["objective"].as_str().unwrap() {
            "huber" => (Objective::CHINCHILLA, Scale::Log),
            "absolute" => (Objective::Absolute, Scale::Log),
            _ => (Objective::Squares, Scale::Linear),
        };
        let options = FitOptions { objective, scale, resamples: 0, ..FitOptions::default() };
        let law = Law::fit(kind, &runs, &losses, &options);
        let want = fit["sum"].as_f64().unwrap();
        let got = law.search.objective;
        // Nine digits are kept of the peer's.
        assert!(got <= want * (1.0 + 2e-9), "{fit}: {got}");
        assert!(got >= want * (1.0 - 1e-6), "{fit}: {got} is lower, so the peer missed it");
        for (size, want) in
            sizes(&golden["predicted_sizes"]).into_iter().zip(numbers(&fit["losses"]))
        {
            let got = law.loss_value(size);
            assert!((got - want).abs() < 2e-5, "{fit}: {got}");
        }
    }
}

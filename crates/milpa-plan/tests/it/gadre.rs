//! Gadre et al. 2024 (arXiv:2403.08540): their fits of five runs each, from their published runs.

use std::fmt::Write as _;

use milpa_base::Seed;
use milpa_plan::scaling::{
    FitOptions, FitReport, FitRequest, Form, LawKind, Objective, RunSize, RunTable, Scale,
    fit_table,
};
use serde_json::Value;

/// The tasks of their average: those on which a 154M model is ten points above guessing.
const TASKS: [&str; 17] = [
    "arc_easy",
    "bigbench_cs_algorithms",
    "bigbench_dyck_languages",
    "bigbench_novel_concepts",
    "bigbench_operators",
    "bigbench_qa_wikidata",
    "boolq",
    "commonsense_qa",
    "copa",
    "coqa",
    "hellaswag",
    "hellaswag_zeroshot",
    "lambada_openai",
    "piqa",
    "pubmed_qa_labeled",
    "squad",
    "winograd",
];

/// The file of the shared data, or a word that the test is skipped.
pub(crate) fn shared(name: &str) -> Option<std::path::PathBuf> {
    let data = std::env::var_os("MILPA_DATA").map(std::path::PathBuf::from);
    if data.is_none() {
        eprintln!("skipped: MILPA_DATA is not set to the folder of the shared data");
    }
    data.map(|data| data.join("scaling").join(name))
}

/// Their runs on one training set as a table: five to fit, 1.4B at 20 tokens per parameter for the
/// tasks only, all others to predict.
fn table(training_set: &str) -> Option<RunTable> {
    let text = std::fs::read_to_string(shared("gadre2024_runs.jsonl")?).unwrap();
    let mut csv = "parameters,params_no_embed,tokens,loss,error,split,lr\n".to_owned();
    for line in text.lines() {
        let run: Value = serde_json::from_str(line).unwrap();
        if run["dataset"] != training_set {
            continue;
        }
        let number = |key: &str| run[key].as_f64().unwrap();
        let ratio = number("tokens") / number("params");
        let usual = (ratio - 20.0).abs() < 0.1;
        let small = number("params") < 1e9;
        let over_trained = number("params") < 2e7 && (ratio - 320.0).abs() < 1.0;
        let split = match () {
            () if usual && small || over_trained => "fit",
            () if usual => "link",
            () => "test",
        };
        let accuracy = |task: &&str| run["downstream"]["icl"][task].as_f64().unwrap();
        let error = 1.0 - TASKS.iter().map(accuracy).sum::<f64>() / TASKS.len() as f64;
        writeln!(
            csv,
            "{},{},{},{},{error},{split},{}",
            number("params"),
            number("params_no_embed"),
            number("tokens"),
            number("loss_c4_val"),
            number("lr")
        )
        .unwrap();
    }
    Some(RunTable::parse(&csv, "gadre.csv").unwrap())
}

fn fit(training_set: &str) -> Option<FitReport> {
    let mut request = FitRequest::new(Form::Law(LawKind::OverTraining));
    request.options = FitOptions {
        objective: Objective::Squares,
        scale: Scale::Linear,
        resamples: 200,
        seed: Seed(0),
        threads: 2,
    };
    // 6.9B at 20 tokens per parameter, 1.4B at 640.
    request.predict = [(6_889_672_704.0, 20.0), (1_439_795_200.0, 640.0)]
        .map(|(n, ratio)| RunSize::once(n, ratio * n))
        .to_vec();
    Some(fit_table(&table(training_set)?, &request).unwrap())
}

/// alpha, beta, b and E as published, to the published digits.
fn check(training_set: &str, published: [f64; 4], tolerances: [f64; 4]) -> Option<FitReport> {
    let report = fit(training_set)?;
    assert_eq!(report.basis.fitted, 5);
    for ((constant, want), tolerance) in report.constants.iter().zip(published).zip(tolerances) {
        let got = constant.estimate.value;
        assert!((got - want).abs() <= tolerance, "{training_set} {}: {got}", constant.name);
    }
    Some(report)
}

#[test]
fn the_fits_on_three_training_sets_are_the_published_ones() {
    let digits = [6e-4, 6e-4, 6e-7, 6e-7];
    let Some(report) = check("rpj", [166.211, 366.687, -0.272851, 1.836648], digits) else {
        return;
    };
    check("c4_original", [113.693, 189.516, -0.242472, 1.508261], digits);
    check("rw_original", [125.096, 246.207, -0.254395, 1.734462], digits);

    // What they predict for 6.9B (138B tokens) and for 1.4B (920B tokens); measured 2.4250, 2.5021.
    let asked: Vec<f64> = report
        .predictions
        .iter()
        .filter(|prediction| prediction.line.is_none())
        .map(|prediction| prediction.loss.value)
        .collect();
    assert!((asked[0] - 2.4427).abs() < 6e-5 && (asked[1] - 2.5198).abs() < 6e-5, "{asked:?}");
    for (predicted, measured, published) in [(asked[0], 2.4250, 0.7320), (asked[1], 2.5021, 0.7103)]
    {
        let error = 100.0 * (predicted / measured - 1.0);
        assert!((error - published).abs() < 0.005, "{error}");
    }

    // The error of the 17 tasks by the loss: epsilon, k, gamma.
    let link = report.link.as_ref().unwrap();
    assert_eq!(link.points, 6);
    for (constant, want) in link.constants.iter().zip([0.85699, 2.20649, 0.71459]) {
        let got = constant.estimate.value;
        assert!((got - want).abs() < 6e-6, "{}: {got}", constant.name);
    }
}

#[test]
fn runs_that_were_not_fitted_are_predicted_with_their_distance() {
    let Some(report) = fit("rpj") else { return };
    let text = report.to_string();
    assert!(text.contains("residuals were drawn") && text.contains("20x rule"), "{text}");
    // The 411M run at 640 tokens per parameter, 32 times the compute of the largest fitted run.
    let far = report.predictions.iter().find(|p| p.beyond_compute > 31.0 && p.line.is_some());
    let far = far.unwrap();
    let error = far.loss.value / far.measured_loss.unwrap() - 1.0;
    assert!(error.abs() < 0.03, "{error}");
    // Two counts of the parameters, two ratios.
    assert_eq!(report.ratios.len(), 2);
    assert!(report.ratios[1].tokens_per_parameter != report.ratios[0].tokens_per_parameter);
}

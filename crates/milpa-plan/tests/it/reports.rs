//! What a person reads from `milpa plan fit`, and what is refused.

use std::fmt::Write as _;

use milpa_base::Seed;
use milpa_plan::scaling::{
    Count, FitReport, FitRequest, Form, LawKind, RunSize, RunTable, fit_table,
};

fn loss(n: f64, d: f64) -> f64 {
    1.81686 + 482.00572 / n.powf(0.34781) + 2085.4342 / d.powf(0.36585)
}

/// Runs on a grid of sizes and tokens per parameter.
fn csv(sizes: &[f64], ratios: &[f64], more: impl Fn(usize) -> String, columns: &str) -> String {
    let mut csv = format!("parameters,tokens,loss{columns}\n");
    for (row, (n, ratio)) in
        sizes.iter().flat_map(|n| ratios.iter().map(move |ratio| (n, ratio))).enumerate()
    {
        let noisy = loss(*n, n * ratio) * (0.004 * Seed(9).normal_at(row as u64)).exp();
        writeln!(csv, "{n},{},{noisy}{}", n * ratio, more(row)).unwrap();
    }
    csv
}

const SIZES: [f64; 7] = [3e7, 7e7, 1.5e8, 3e8, 7e8, 1.5e9, 3e9];
const RATIOS: [f64; 5] = [3.0, 10.0, 25.0, 60.0, 150.0];

fn grid() -> String {
    csv(&SIZES, &RATIOS, |_| String::new(), "")
}

fn quick(form: Form) -> FitRequest {
    let mut request = FitRequest::new(form);
    request.options.resamples = 300;
    request
}

fn fit(csv: &str, request: &FitRequest) -> FitReport {
    fit_table(&RunTable::parse(csv, "runs.csv").unwrap(), request).unwrap()
}

fn refused(csv: &str, request: &FitRequest, parts: &[&str]) {
    let table = RunTable::parse(csv, "runs.csv").unwrap();
    let error = fit_table(&table, request).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn a_report_says_what_it_rests_on_and_how_far_it_reaches() {
    let mut request = quick(Form::Law(LawKind::Chinchilla));
    request.budgets = vec![1e20, 1e22];
    request.predict = vec![RunSize::once(7e9, 1.4e11)];
    let report = fit(&grid(), &request);
    let text = report.to_string();
    for part in [
        "L = E + A/N^alpha + B/D^beta",
        "35 runs of runs.csv",
        "all parameters, embeddings included",
        "95 % interval of 300 resamples",
        "within the data's compute",
        "times beyond the largest run",
        "N* ~ C^a",
        "20x rule",
        "the other count needs the column `non_embedding_parameters`",
        "influence    line",
        "no column `schedule`",
        "predicted    N 7.00B D 140B",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(report.undetermined.is_empty(), "{text}");
    let far = &report.budgets[1];
    assert!(far.parameters.unwrap().holds(1.0115e10), "{far:?}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["constants"][2]["name"], "E");
    assert!(json["budgets"][1]["loss"]["low"].as_f64().unwrap() > 1.8);
}

#[test]
fn the_same_table_gives_the_same_text_on_any_number_of_threads() {
    let text = |threads| {
        let mut request = quick(Form::Law(LawKind::Kaplan));
        request.options.threads = threads;
        request.options.resamples = 60;
        fit(&grid(), &request).to_string()
    };
    assert_eq!(text(1), text(3));
}

#[test]
fn too_few_runs_are_refused_with_what_would_be_enough() {
    let three = "parameters,tokens,loss\n1e8,2e9,3.4\n2e8,4e9,3.1\n4e8,8e9,2.9\n";
    refused(
        three,
        &quick(Form::Law(LawKind::Chinchilla)),
        &["3 measured runs cannot determine 5 parameters", "6 would be enough"],
    );
    let same = csv(&[1e8], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], |_| String::new(), "");
    refused(&same, &quick(Form::Law(LawKind::Chinchilla)), &["same number of parameters"]);
    refused(
        &grid(),
        &quick(Form::Law(LawKind::DataConstrained)),
        &["no run repeats its tokens", "fit chinchilla"],
    );
    refused(&grid(), &quick(Form::IsoFlop), &["groups of equal compute", "train four or more"]);
    refused(&grid(), &quick(Form::Envelope), &["training curves", "`run`"]);
    refused(&grid(), &quick(Form::Ladder), &["no task_loss"]);
}

#[test]
fn a_fit_that_does_not_determine_its_constants_says_so() {
    // One ratio of tokens to parameters: N and D cannot be told apart.
    let alike =
        csv(&[1e8, 1.4e8, 2e8, 2.6e8, 3.1e8, 4e8, 5e8, 6e8], &[20.0], |_| String::new(), "");
    let report = fit(&alike, &quick(Form::Law(LawKind::Chinchilla)));
    let text = report.to_string();
    assert!(text.contains("not determined: between"), "{text}");
    assert!(text.contains("undetermined the data do not determine"), "{text}");
    assert!(text.contains("D/N spans a factor of 1.0 only"), "{text}");
}

#[test]
fn schedules_are_told_apart() {
    let mixed = csv(&SIZES, &RATIOS, |row| [",cosine", ",wsd"][row % 2].to_owned(), ",schedule");
    let mut request = quick(Form::Law(LawKind::Chinchilla));
    refused(&mixed, &request, &["cosine, wsd", "--schedule cosine"]);
    request.schedule = Some("WSD".into());
    let report = fit(&mixed, &request);
    assert_eq!((report.basis.fitted, report.schedule.as_deref()), (17, Some("wsd")));
    request.schedule = Some("linear".into());
    refused(&mixed, &request, &["no run of runs.csv", "it has cosine, wsd"]);
}

#[test]
fn a_row_that_carries_the_answer_is_named() {
    let mut lines: Vec<String> = grid().lines().map(str::to_owned).collect();
    // The run of most compute, 6 % worse than the law.
    let last = lines.len() - 1;
    lines[last] = format!("3e9,4.5e11,{}", 1.06 * loss(3e9, 4.5e11));
    let mut request = quick(Form::Law(LawKind::Chinchilla));
    request.options.objective = milpa_plan::scaling::Objective::Squares;
    let report = fit(&lines.join("\n"), &request);
    assert_eq!(report.influence[0].line, last + 1, "{:?}", report.influence);
    assert!(report.influence[0].relative_residual < -0.02, "{:?}", report.influence);
}

#[test]
fn the_count_of_parameters_changes_the_tokens_for_each() {
    let csv = csv(
        &SIZES,
        &RATIOS,
        |row| {
            let n = SIZES[row / RATIOS.len()];
            // Embeddings are a larger share of small models.
            format!(",{}", n - 2.2 * n.powf(0.75) * 10.0)
        },
        ",non_embedding_parameters",
    );
    let mut request = quick(Form::Law(LawKind::Chinchilla));
    let report = fit(&csv, &request);
    let [all, without] = &report.ratios[..] else { panic!("{:?}", report.ratios) };
    assert_eq!((all.count, without.count), (Count::All, Count::NonEmbedding));
    assert!(
        without.tokens_per_parameter > 1.1 * all.tokens_per_parameter
            || without.exponent > all.exponent
    );
    request.count = Some(Count::NonEmbedding);
    assert!(fit(&csv, &request).to_string().contains("N = parameters without embeddings"));
}

#[test]
fn every_form_answers_and_draws() {
    let mut curves = "run,parameters,tokens,loss,schedule\n".to_owned();
    for i in 0..9 {
        let n = 3e7 * 1.7f64.powi(i);
        for j in 0..25 {
            let d = n * 1.3f64.powi(j);
            writeln!(curves, "r{i},{n},{d},{},constant", loss(n, d)).unwrap();
        }
    }
    let report = fit(&curves, &quick(Form::Envelope));
    assert!((report.parameters_exponent.unwrap().value - 0.5126).abs() < 0.05, "{report}");
    let law = fit(&curves, &quick(Form::Law(LawKind::Chinchilla)));
    assert_eq!((law.basis.fitted, law.basis.earlier_points), (9, 216));

    let mut groups = "parameters,tokens,loss\n".to_owned();
    for i in 0..4 {
        let flops = 1e19 * 4f64.powi(i);
        for j in -3..=3 {
            let n = 0.098 * flops.powf(0.5126) * 1.4f64.powi(j);
            let d = flops / (6.0 * n);
            writeln!(groups, "{n},{d},{}", loss(n, d)).unwrap();
        }
    }
    let iso = fit(&groups, &quick(Form::IsoFlop));
    assert!((iso.parameters_exponent.unwrap().value - 0.5126).abs() < 0.01, "{iso}");
    assert!(iso.to_string().contains("N* ~ C^a"));

    let names = |report: &FitReport| {
        report
            .plots()
            .into_iter()
            .map(|(name, svg)| {
                assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
                name
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&law), ["loss-by-compute.svg", "predicted-by-measured.svg"]);
    assert_eq!(names(&iso), ["loss-by-compute.svg", "isoflop.svg", "optimal-size.svg"]);
}

#[test]
fn repeated_tokens_are_worth_less_and_the_law_says_how_much() {
    // Muennighoff's law with R_D* = 15, R_N* = 5 and tied exponents, without noise.
    let worth = |total: f64, unique: f64, half: f64| {
        let repeats = (total / unique - 1.0).max(0.0);
        unique.min(total) * (1.0 + half * (1.0 - (-repeats / half).exp()))
    };
    let (a, b, e, alpha) = (520.0f64, 1488.0f64, 1.87, 0.353);
    let mut csv = "parameters,tokens,unique_tokens,loss\n".to_owned();
    for n in [5e7, 2e8, 1e9, 4e9] {
        for unique in [1e8, 1e9, 1e10] {
            for epochs in [1.0, 3.0, 10.0, 40.0] {
                let optimal = (a / b).powf(1.0 / alpha) * unique;
                let n_worth = if n > optimal { worth(n, optimal, 5.3) } else { n };
                let d_worth = worth(epochs * unique, unique, 15.4);
                let loss = e + a / n_worth.powf(alpha) + b / d_worth.powf(alpha);
                writeln!(csv, "{n},{},{unique},{loss}", epochs * unique).unwrap();
            }
        }
    }
    let mut request = quick(Form::Law(LawKind::DataConstrained));
    request.options.resamples = 0;
    let report = fit(&csv, &request);
    for (constant, want) in report.constants.iter().zip([a, b, e, alpha, alpha, 15.4, 5.3]) {
        let got = constant.estimate.value;
        assert!((got / want - 1.0).abs() < 1e-3, "{}: {got}", constant.name);
    }
    // With one billion different tokens, a budget goes into more parameters and fewer repeats.
    request.budgets = vec![1e22];
    let free = fit(&csv, &request).budgets[0].loss.unwrap().value;
    request.unique_tokens = Some(1e9);
    let bound = fit(&csv, &request).budgets[0].clone();
    assert!(bound.loss.unwrap().value > free + 0.05, "{bound:?} {free}");
}

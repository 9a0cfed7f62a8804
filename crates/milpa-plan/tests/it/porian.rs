//! What Porian et al. 2024 (arXiv:2406.19146) found between Kaplan's and Chinchilla's exponents, on
//! runs made by a known law: each of their four fixes, left out, raises the fitted exponent.
//!
//! Their raw runs are not here, so the oracle is a dense search for the best size under the same
//! law; the parabolas have to find its exponent within 0.005.

use milpa_plan::scaling::{FitRequest, Form, Run, RunTable, Split, fit_table};

/// What is done right.
#[derive(Clone, Copy)]
struct Fixes {
    /// The output layer counts as parameters and compute.
    count_head: bool,
    /// The warm-up is short for short runs.
    short_warm_up: bool,
    /// The learning rate decays over each budget.
    decay: bool,
    /// The batch suits small models as well.
    tuned: bool,
}

/// A model of the family: depth grows with width.
fn sizes(width: f64) -> (f64, f64) {
    let layers = width / 100.0;
    let body = 12.0 * layers * width * width;
    (body, body + 50_000.0 * width)
}

/// The loss after some tokens. With everything right it is a law whose best N grows as C^0.5.
fn loss(fixes: Fixes, width: f64, tokens: f64) -> f64 {
    let (_, all) = sizes(width);
    let mut loss = 1.8 + 400.0 / all.powf(0.34) + 750.0 / tokens.powf(0.34);
    // Each defect costs short runs more than long ones, and more so than the law's own term in D.
    if !fixes.short_warm_up {
        loss += 0.25 * 5e8 / tokens;
    }
    if !fixes.decay {
        loss += 0.5 * (5e8 / tokens).powf(0.55);
    }
    if !fixes.tuned {
        loss += 0.3 * (5e8 / tokens).powf(0.6);
    }
    loss
}

fn counted(fixes: Fixes, width: f64) -> f64 {
    let (body, all) = sizes(width);
    if fixes.count_head { all } else { body }
}

fn budgets() -> impl Iterator<Item = f64> {
    (0..7).map(|i| 1.25e16 * 4f64.powi(i) * 10.0)
}

/// The width of lowest loss at a compute, by a dense search.
fn best_width(fixes: Fixes, flops: f64) -> f64 {
    let at = |i: i32| 40.0 * 1.0005f64.powi(i);
    let loss_at = |i: i32| loss(fixes, at(i), flops / (6.0 * counted(fixes, at(i))));
    let best = (0..11_000).min_by(|&a, &b| loss_at(a).total_cmp(&loss_at(b))).unwrap();
    assert!((1..10_999).contains(&best), "the best width is at an end: {}", at(best));
    at(best)
}

/// The slope of ln N* over ln C.
fn dense_exponent(fixes: Fixes) -> f64 {
    let points: Vec<(f64, f64)> =
        budgets().map(|c| (c.ln(), counted(fixes, best_width(fixes, c)).ln())).collect();
    let count = points.len() as f64;
    let (x, y) = (
        points.iter().map(|p| p.0).sum::<f64>() / count,
        points.iter().map(|p| p.1).sum::<f64>() / count,
    );
    points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
        / points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum::<f64>()
}

/// The exponent by parabolas through runs of equal compute.
fn fitted_exponent(fixes: Fixes) -> f64 {
    let mut runs = Vec::new();
    for flops in budgets() {
        let best = best_width(fixes, flops);
        for step in -3..=3 {
            let width = best * 1.06f64.powi(step);
            let parameters = counted(fixes, width);
            let tokens = flops / (6.0 * parameters);
            runs.push(Run {
                line: runs.len() + 2,
                run: None,
                parameters: Some(parameters),
                non_embedding_parameters: None,
                tokens,
                unique_tokens: None,
                flops: Some(flops),
                loss: Some(loss(fixes, width, tokens)),
                task_loss: None,
                accuracy: None,
                schedule: None,
                split: Split::Fit,
            });
        }
    }
    let table = RunTable { path: "porian".into(), runs, unused_columns: Vec::new() };
    let mut request = FitRequest::new(Form::IsoFlop);
    request.options.resamples = 0;
    fit_table(&table, &request).unwrap().parameters_exponent.unwrap().value
}

#[test]
fn each_fix_lowers_the_exponent_from_kaplans_towards_chinchillas() {
    let mut fixes = Fixes { count_head: false, short_warm_up: false, decay: false, tuned: false };
    let mut exponents = Vec::new();
    let mut check = |fixes: Fixes| {
        let (dense, fitted) = (dense_exponent(fixes), fitted_exponent(fixes));
        assert!((dense - fitted).abs() < 0.005, "dense {dense:.4}, fitted {fitted:.4}");
        exponents.push(fitted);
    };
    check(fixes);
    fixes.count_head = true;
    check(fixes);
    fixes.short_warm_up = true;
    check(fixes);
    fixes.decay = true;
    check(fixes);
    fixes.tuned = true;
    check(fixes);
    eprintln!("exponents from no fix to all: {exponents:.4?}");
    assert!(exponents.windows(2).all(|pair| pair[0] > pair[1] + 0.01), "{exponents:?}");
    assert!(exponents[0] > 0.7, "{exponents:?}");
    assert!((exponents[4] - 0.5).abs() < 0.005, "{exponents:?}");
}

#[test]
fn each_fix_alone_left_out_raises_the_exponent() {
    let all = Fixes { count_head: true, short_warm_up: true, decay: true, tuned: true };
    for without in [
        Fixes { count_head: false, ..all },
        Fixes { short_warm_up: false, ..all },
        Fixes { decay: false, ..all },
        Fixes { tuned: false, ..all },
    ] {
        let (dense, fitted) = (dense_exponent(without), fitted_exponent(without));
        assert!((dense - fitted).abs() < 0.005, "dense {dense:.4}, fitted {fitted:.4}");
        assert!(fitted > 0.51, "{fitted}");
    }
}

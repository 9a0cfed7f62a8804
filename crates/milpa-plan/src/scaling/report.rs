//! `milpa plan fit`: from a table of runs to a report that says what it rests on.
//!
//! Chooses the rows, fits, predicts, and judges its own answer: which constants the data
//! determine, which rows carry it, and how far a prediction lies outside the data. The text for
//! people is in `text`, the plots are in `plots`.

use serde::Serialize;

use super::{
    downstream::{Link, LinkKind, smoothed_checkpoints},
    fit::FitOptions,
    frontier::{Frontier, FrontierRun, IsoFlop, envelope, iso_flop},
    interval::Estimate,
    law::{Law, LawKind, Optimum, RunSize, Search},
    runs::{Count, Run, RunTable, Split},
};
use crate::PlanError;

/// What is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A law of the loss; with accuracies in the table also the error by the loss where the law is
    /// [`LawKind::OverTraining`].
    Law(LawKind),
    /// Chinchilla's approach 1: the lower envelope of training curves.
    Envelope,
    /// Chinchilla's approach 2: parabolas through runs of equal compute.
    IsoFlop,
    /// A law of a task's loss, then the accuracy by that loss.
    Ladder,
}

/// What to fit and what to ask of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FitRequest {
    /// The form.
    pub form: Form,
    /// Which parameters are N; by default all of them where the table has them.
    pub count: Option<Count>,
    /// Rows of this schedule alone.
    pub schedule: Option<String>,
    /// Budgets in FLOPs to plan for; by default the largest run's compute and ten times that.
    pub budgets: Vec<f64>,
    /// Runs to predict.
    pub predict: Vec<RunSize>,
    /// Different tokens that there are, for the data-constrained law.
    pub unique_tokens: Option<f64>,
    /// How to fit.
    pub options: FitOptions,
}

impl FitRequest {
    /// Asks for a form with nothing else said.
    pub fn new(form: Form) -> Self {
        Self {
            form,
            count: None,
            schedule: None,
            budgets: Vec::new(),
            predict: Vec::new(),
            unique_tokens: None,
            options: FitOptions::default(),
        }
    }
}

/// A constant with the judgement on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Constant {
    /// Its name in the formula.
    pub name: &'static str,
    /// Its value and interval.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Whether the data determine it.
    pub determined: bool,
}

/// Least and most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Span {
    /// Least.
    pub low: f64,
    /// Most.
    pub high: f64,
}

impl Span {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        Self { low, high }
    }

    /// Most over least.
    pub fn factor(&self) -> f64 {
        self.high / self.low
    }
}

/// What the fit rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Basis {
    /// Rows fitted.
    pub fitted: usize,
    /// Earlier points of training curves that a law of final losses leaves out.
    pub earlier_points: usize,
    /// N of the fitted rows.
    pub parameters: Span,
    /// D.
    pub tokens: Span,
    /// D/N.
    pub tokens_per_parameter: Span,
    /// C = 6·N·D.
    pub flops: Span,
}

/// How a fitted row and its residual bear on the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Influence {
    /// Line in the file.
    pub line: usize,
    /// Predicted over measured, minus one.
    pub relative_residual: f64,
    /// Predicted loss of the largest budget's optimum (or of the largest run) without this row.
    pub loss_without: f64,
    /// How far that moves it, in half widths of its interval.
    pub shift: f64,
}

/// A budget with its compute-optimal run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Budget {
    /// C.
    pub flops: f64,
    /// N*, D* and the loss there; none where the law has no optimum.
    pub parameters: Option<Estimate>,
    /// D*.
    pub tokens: Option<Estimate>,
    /// D*/N*.
    pub tokens_per_parameter: Option<Estimate>,
    /// The loss there; none for the approaches that predict none.
    pub loss: Option<Estimate>,
    /// C over the most compute in the data.
    pub beyond_compute: f64,
    /// N* over the most parameters in the data.
    pub beyond_parameters: Option<f64>,
    /// D* over the most tokens in the data.
    pub beyond_tokens: Option<f64>,
}

/// A predicted run, perhaps with what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Line in the file, if it is a row.
    pub line: Option<usize>,
    /// The run.
    pub size: RunSize,
    /// The predicted loss (of the task, for a ladder).
    pub loss: Estimate,
    /// What was measured.
    pub measured_loss: Option<f64>,
    /// The predicted accuracy, where a link was fitted.
    pub accuracy: Option<Estimate>,
    /// What was measured.
    pub measured_accuracy: Option<f64>,
    /// C over the most compute in the data.
    pub beyond_compute: f64,
}

/// Tokens per parameter at one budget, by what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// What is counted.
    pub count: Count,
    /// N*.
    pub parameters: f64,
    /// D*/N*.
    pub tokens_per_parameter: f64,
    /// The exponent a of N* ∝ C^a.
    pub exponent: f64,
}

/// A fitted link.
#[derive(Debug, Clone, Serialize)]
pub struct LinkReport {
    /// Its formula.
    pub formula: &'static str,
    /// Its constants.
    pub constants: Vec<Constant>,
    /// Points it was fitted to.
    pub points: usize,
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub struct FitReport {
    /// The file.
    pub file: String,
    /// The form.
    pub form: Form,
    /// Its formula with the publication.
    pub formula: &'static str,
    /// The schedule of the runs, where the file names one.
    pub schedule: Option<String>,
    /// What N counts.
    pub count: Count,
    /// What it rests on.
    pub basis: Basis,
    /// How it was fitted.
    pub options: FitOptions,
    /// How the search went, for a law.
    pub search: Option<Search>,
    /// The constants, for a law.
    pub constants: Vec<Constant>,
    /// Why the data do not determine the constants; empty where they do.
    pub undetermined: Vec<String>,
    /// The exponent a of N* ∝ C^a.
    pub parameters_exponent: Option<Estimate>,
    /// The exponent b of D* ∝ C^b.
    pub tokens_exponent: Option<Estimate>,
    /// Median size of predicted over measured minus one.
    pub median_residual: Option<f64>,
    /// The compute-optimal runs.
    pub budgets: Vec<Budget>,
    /// D*/N* by what is counted, at the largest budget.
    pub ratios: Vec<Ratio>,
    /// Predicted runs.
    pub predictions: Vec<Prediction>,
    /// The rows that bear most on the answer.
    pub influence: Vec<Influence>,
    /// The accuracy by the loss.
    pub link: Option<LinkReport>,
    /// What else to know.
    pub notes: Vec<String>,
    /// What the plots show.
    #[serde(skip)]
    pub(super) drawn: Drawn,
}

/// What the plots are drawn from.
#[derive(Debug, Clone, Default)]
pub(super) struct Drawn {
    /// Fitted runs with their losses.
    pub(super) runs: Vec<(RunSize, f64)>,
    /// The law.
    pub(super) law: Option<Law>,
    /// The frontier of approaches 1 and 2.
    pub(super) frontier: Option<Frontier>,
}

/// Rows shown as most influential.
const MOST_INFLUENTIAL: usize = 3;
/// Sizes of one compute that span more are far from a parabola.
const WIDE: f64 = 6.0;
/// Residuals beyond this many medians are named.
const OUTLIER: f64 = 8.0;

/// Fits what is asked to a table.
///
/// # Errors
/// [`PlanError::TooFewRuns`] and [`PlanError::CannotFit`] with what would be enough.
pub fn fit_table(table: &RunTable, request: &FitRequest) -> Result<FitReport, PlanError> {
    let (table, schedule) = one_schedule(table, request.schedule.as_deref())?;
    let count = choose_count(&table, request.count)?;
    let rows: Vec<&Run> = table.runs.iter().filter(|run| run.split == Split::Fit).collect();
    let mut report = match request.form {
        Form::Law(kind) => law_report(&table, request, count, kind, &rows, |run| run.loss, "loss")?,
        Form::Ladder => ladder_report(&table, request, count, &rows)?,
        Form::Envelope | Form::IsoFlop => frontier_report(&table, request, count, &rows)?,
    };
    report.schedule = schedule;
    general_notes(&mut report, &table);
    Ok(report)
}

/// The rows of the one schedule that there is or that was asked for.
fn one_schedule(
    table: &RunTable,
    wanted: Option<&str>,
) -> Result<(RunTable, Option<String>), PlanError> {
    let schedules = table.schedules();
    if let Some(wanted) = wanted {
        let wanted = wanted.to_lowercase();
        if !schedules.contains(&wanted) {
            return Err(PlanError::CannotFit {
                problem: format!("no run of {} has the schedule {wanted:?}", table.path),
                remedy: if schedules.is_empty() {
                    "add a column `schedule`, or leave the option out".to_owned()
                } else {
                    format!("it has {}", schedules.join(", "))
                },
            });
        }
        return Ok((table.of_schedule(&wanted), Some(wanted)));
    }
    let without = table.runs.iter().find(|run| run.schedule.is_none());
    match (&schedules[..], without) {
        ([], _) => Ok((table.clone(), None)),
        ([one], None) => Ok((table.clone(), Some(one.clone()))),
        ([one], Some(run)) => Err(PlanError::BadTable {
            path: table.path.clone(),
            line: run.line,
            problem: format!("the row names no schedule, others name {one}"),
            remedy: "name it in every row, or in none".to_owned(),
        }),
        _ => Err(PlanError::CannotFit {
            problem: format!(
                "runs of different schedules are mixed ({}): a run that ends at a high learning \
                 rate has another loss",
                schedules.join(", ")
            ),
            remedy: format!("fit them apart: --schedule {}", schedules[0]),
        }),
    }
}

fn choose_count(table: &RunTable, wanted: Option<Count>) -> Result<Count, PlanError> {
    let has = |count: Count| table.runs.iter().all(|run| run.counted(count).is_some());
    let choices = wanted.map_or(vec![Count::All, Count::NonEmbedding], |count| vec![count]);
    choices.into_iter().find(|&count| has(count)).ok_or_else(|| PlanError::CannotFit {
        problem: match wanted {
            Some(count) => format!("not every row has {}", count.words()),
            None => "some rows count all parameters, others those without embeddings".to_owned(),
        },
        remedy: "fill one of the columns in every row".to_owned(),
    })
}

/// The last point of each training curve; rows without a name are runs of their own.
fn final_points<'a>(rows: &[&'a Run]) -> Vec<&'a Run> {
    let mut last: Vec<&Run> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for &row in rows {
        let Some(name) = &row.run else {
            last.push(row);
            continue;
        };
        let place = *places.entry((name, row.split as u8)).or_insert_with(|| {
            last.push(row);
            last.len() - 1
        });
        if row.tokens > last[place].tokens {
            last[place] = row;
        }
    }
    last
}

/// Rows as sizes and measured values; the rows without that value are refused.
fn measured(
    rows: &[&Run],
    count: Count,
    value: impl Fn(&Run) -> Option<f64>,
    name: &str,
    path: &str,
) -> Result<(Vec<RunSize>, Vec<f64>), PlanError> {
    let one = |run: &&Run| {
        let size = run.size(count).expect("the count was chosen so that each row has it");
        let value = value(run).ok_or_else(|| PlanError::BadTable {
            path: path.to_owned(),
            line: run.line,
            problem: format!("the row has no {name}"),
            remedy: "write it, or remove the row".to_owned(),
        })?;
        Ok((size, value))
    };
    rows.iter().map(one).collect::<Result<Vec<_>, _>>().map(|pairs| pairs.into_iter().unzip())
}

fn law_report(
    table: &RunTable,
    request: &FitRequest,
    count: Count,
    kind: LawKind,
    rows: &[&Run],
    value: impl Fn(&Run) -> Option<f64> + Copy,
    name: &str,
) -> Result<FitReport, PlanError> {
    let last = final_points(rows);
    let (sizes, losses) = measured(&last, count, value, name, &table.path)?;
    enough(&sizes, kind)?;
    let law = Law::fit(kind, &sizes, &losses, &request.options);
    let basis = basis(&sizes, rows.len());
    let constants = judge(&law);
    let undetermined = explain_undetermined(&law, &constants, &basis);
    let budgets: Vec<Budget> = asked_budgets(request, &basis)
        .into_iter()
        .map(|flops| budget(flops, law.optimum(flops, request.unique_tokens).as_ref(), &basis))
        .collect();
    let residuals: Vec<f64> =
        sizes.iter().zip(&losses).map(|(&size, loss)| law.loss_value(size) / loss - 1.0).collect();
    let exponent = law.exponent(basis.flops.low, basis.flops.high * 1.001);
    let link = error_link(table, request, count, kind, &last)?;
    let predictions = predictions(table, request, count, &law, link.as_ref(), value, &basis);
    let mut report = FitReport {
        file: table.path.clone(),
        form: request.form,
        formula: kind.formula(),
        schedule: None,
        count,
        parameters_exponent: exponent,
        tokens_exponent: exponent.map(|a| Estimate {
            value: 1.0 - a.value,
            low: 1.0 - a.high,
            high: 1.0 - a.low,
        }),
        options: request.options,
        search: Some(law.search.clone()),
        constants,
        undetermined,
        median_residual: Some(median(residuals.iter().map(|r| r.abs()).collect())),
        ratios: ratios(&last, kind, value, request, budgets.last()),
        influence: influence(&law, &last, &residuals, budgets.last(), &sizes),
        link: link.as_ref().map(|(link, points)| link_report(link, *points)),
        budgets,
        predictions,
        notes: Vec::new(),
        drawn: Drawn {
            runs: sizes.into_iter().zip(losses).collect(),
            law: Some(law),
            frontier: None,
        },
        basis,
    };
    outlier_notes(&mut report, &last, &residuals);
    search_notes(&mut report);
    Ok(report)
}

/// Refuses fewer runs than a fit with an interval needs.
fn enough(sizes: &[RunSize], kind: LawKind) -> Result<(), PlanError> {
    let parameters = kind.names().len();
    if sizes.len() <= parameters {
        return Err(PlanError::TooFewRuns {
            rows: sizes.len(),
            parameters,
            needed: parameters + 1,
        });
    }
    let different = |value: fn(&RunSize) -> f64| {
        let mut values: Vec<f64> = sizes.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.dedup_by(|a, b| (*a / *b - 1.0).abs() < 1e-3);
        values.len()
    };
    for (what, count) in
        [("parameters", different(|s| s.parameters)), ("tokens", different(|s| s.tokens))]
    {
        if count < 2 {
            return Err(PlanError::CannotFit {
                problem: format!("all runs have the same number of {what}"),
                remedy: format!("add runs with other {what}: three or more numbers of them"),
            });
        }
    }
    if kind == LawKind::DataConstrained
        && !sizes.iter().any(|size| size.tokens > 1.5 * size.unique_tokens)
    {
        return Err(PlanError::CannotFit {
            problem: "no run repeats its tokens, so the worth of repeats cannot be seen".to_owned(),
            remedy: "fill `unique_tokens`, add runs of several epochs, or fit chinchilla"
                .to_owned(),
        });
    }
    Ok(())
}

fn basis(sizes: &[RunSize], rows: usize) -> Basis {
    Basis {
        fitted: sizes.len(),
        earlier_points: rows - sizes.len(),
        parameters: Span::of(sizes.iter().map(|size| size.parameters)),
        tokens: Span::of(sizes.iter().map(|size| size.tokens)),
        tokens_per_parameter: Span::of(sizes.iter().map(|size| size.tokens / size.parameters)),
        flops: Span::of(sizes.iter().map(RunSize::flops)),
    }
}

fn asked_budgets(request: &FitRequest, basis: &Basis) -> Vec<f64> {
    if request.budgets.is_empty() {
        vec![basis.flops.high, 10.0 * basis.flops.high]
    } else {
        request.budgets.clone()
    }
}

fn budget(flops: f64, optimum: Option<&Optimum>, basis: &Basis) -> Budget {
    Budget {
        flops,
        parameters: optimum.map(|optimum| optimum.parameters),
        tokens: optimum.map(|optimum| optimum.tokens),
        tokens_per_parameter: optimum.map(|optimum| optimum.tokens_per_parameter),
        loss: optimum.map(|optimum| optimum.loss),
        beyond_compute: flops / basis.flops.high,
        beyond_parameters: optimum.map(|o| o.parameters.value / basis.parameters.high),
        beyond_tokens: optimum.map(|o| o.tokens.value / basis.tokens.high),
    }
}

/// The constants, each held against its interval: an exponent or a floor is determined to within
/// its own size, a coefficient to within a factor of a hundred.
fn judge(law: &Law) -> Vec<Constant> {
    let one = |(name, estimate): (&'static str, Estimate)| {
        let Estimate { value, low, high } = estimate;
        let coefficient = !matches!(name, "E" | "b")
            && !name.starts_with("alpha_")
            && (law.kind() == LawKind::OverTraining || !matches!(name, "alpha" | "beta"));
        let narrow =
            if coefficient { low > 0.0 && high / low <= 100.0 } else { high - low <= value.abs() };
        let determined = value.is_finite() && (!estimate.has_interval() || narrow);
        Constant { name, estimate, determined }
    };
    law.constants().into_iter().map(one).collect()
}

fn explain_undetermined(law: &Law, constants: &[Constant], basis: &Basis) -> Vec<String> {
    let open: Vec<&str> =
        constants.iter().filter(|constant| !constant.determined).map(|c| c.name).collect();
    let condition = law.search.condition;
    let alike = condition.is_none_or(|condition| condition > 1e5);
    if open.is_empty() && !alike {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if !open.is_empty() {
        reasons.push(format!("the data do not determine {}", open.join(", ")));
    }
    if alike {
        let condition =
            condition.map_or("infinite".to_owned(), |condition| format!("{condition:.0}"));
        reasons.push(format!(
            "some constants have nearly the same effect on these runs (condition number {condition})"
        ));
    }
    for (span, what, enough) in [
        (basis.parameters, "N", 10.0),
        (basis.tokens, "D", 10.0),
        (basis.tokens_per_parameter, "D/N", 5.0),
    ] {
        if span.factor() < enough {
            reasons.push(format!(
                "{what} spans a factor of {:.1} only; runs over a factor of {enough:.0} or more \
                 would tell more",
                span.factor()
            ));
        }
    }
    if reasons.len() == usize::from(!open.is_empty()) + usize::from(alike) {
        reasons.push(format!(
            "{} runs are few for this noise; more of them, or repeated ones, narrow the intervals",
            basis.fitted
        ));
    }
    reasons
}

/// Gadre's second step, where the table has accuracies and the law is his.
fn error_link(
    table: &RunTable,
    request: &FitRequest,
    count: Count,
    kind: LawKind,
    last: &[&Run],
) -> Result<Option<(Link, usize)>, PlanError> {
    if kind != LawKind::OverTraining || request.form == Form::Ladder {
        return Ok(None);
    }
    let more: Vec<&Run> = table.runs.iter().filter(|run| run.split == Split::Link).collect();
    let pairs: Vec<(f64, f64)> = last
        .iter()
        .copied()
        .chain(final_points(&more))
        .filter_map(|run| Some((run.loss?, run.accuracy?)))
        .collect();
    if pairs.is_empty() {
        return Ok(None);
    }
    debug_assert!(last.iter().all(|run| run.counted(count).is_some()));
    fit_link(LinkKind::Exponential, pairs, &request.options).map(Some)
}

fn fit_link(
    kind: LinkKind,
    pairs: Vec<(f64, f64)>,
    options: &FitOptions,
) -> Result<(Link, usize), PlanError> {
    let parameters = kind.parameters();
    if pairs.len() <= parameters {
        return Err(PlanError::TooFewRuns {
            rows: pairs.len(),
            parameters,
            needed: parameters + 1,
        });
    }
    let points = pairs.len();
    let (losses, accuracies): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
    Ok((Link::fit(kind, &losses, &accuracies, options), points))
}

fn link_report(link: &Link, points: usize) -> LinkReport {
    let one = |(name, estimate): (&'static str, Estimate)| {
        let wide = estimate.high - estimate.low > 2.0 * estimate.value.abs();
        Constant { name, estimate, determined: !estimate.has_interval() || !wide }
    };
    LinkReport {
        formula: link.kind().formula(),
        constants: link.constants().into_iter().map(one).collect(),
        points,
    }
}

fn ladder_report(
    table: &RunTable,
    request: &FitRequest,
    count: Count,
    rows: &[&Run],
) -> Result<FitReport, PlanError> {
    let kind = LawKind::Chinchilla;
    let task_loss = |run: &Run| run.task_loss;
    let mut report = law_report(table, request, count, kind, rows, task_loss, "task_loss")?;
    let mut curves: std::collections::BTreeMap<&str, Vec<&Run>> = std::collections::BTreeMap::new();
    let mut pairs = Vec::new();
    let more = table.runs.iter().filter(|run| run.split == Split::Link);
    for run in rows.iter().copied().chain(more) {
        match &run.run {
            Some(name) => curves.entry(name).or_default().push(run),
            None => pairs.extend(run.task_loss.zip(run.accuracy)),
        }
    }
    for mut curve in curves.into_values() {
        curve.sort_by(|a, b| a.tokens.total_cmp(&b.tokens));
        let points: Vec<(f64, f64)> =
            curve.iter().filter_map(|run| run.task_loss.zip(run.accuracy)).collect();
        pairs.extend(smoothed_checkpoints(&points));
    }
    if pairs.is_empty() {
        return Err(PlanError::CannotFit {
            problem: format!("no row of {} has both task_loss and accuracy", table.path),
            remedy: "add a column `accuracy` (or `error`) with shares between 0 and 1".to_owned(),
        });
    }
    let link = fit_link(LinkKind::Sigmoid, pairs, &request.options)?;
    let law = report.drawn.law.clone().expect("a report of a law has it");
    report.predictions =
        predictions(table, request, count, &law, Some(&link), task_loss, &report.basis);
    report.link = Some(link_report(&link.0, link.1));
    if link.1 > rows.len() / 2 && report.basis.earlier_points > 0 {
        report.notes.push(
            "checkpoints of one run are not independent: the intervals of the accuracy are too \
             narrow"
                .to_owned(),
        );
    }
    Ok(report)
}

fn predictions(
    table: &RunTable,
    request: &FitRequest,
    count: Count,
    law: &Law,
    link: Option<&(Link, usize)>,
    value: impl Fn(&Run) -> Option<f64>,
    basis: &Basis,
) -> Vec<Prediction> {
    let predict =
        |line: Option<usize>, size: RunSize, loss: Option<f64>, accuracy: Option<f64>| Prediction {
            line,
            size,
            loss: law.loss(size),
            measured_loss: loss,
            accuracy: link.map(|(link, _)| link.accuracy(law, size)),
            measured_accuracy: accuracy,
            beyond_compute: size.flops() / basis.flops.high,
        };
    let test: Vec<&Run> = table.runs.iter().filter(|run| run.split == Split::Test).collect();
    let rows = final_points(&test).into_iter().filter_map(|run| {
        Some(predict(Some(run.line), run.size(count)?, value(run), run.accuracy))
    });
    let asked = request.predict.iter().map(|&size| predict(None, size, None, None));
    rows.chain(asked).collect()
}

/// The same law by each count that every row has: what becomes of tokens per parameter.
fn ratios(
    last: &[&Run],
    kind: LawKind,
    value: impl Fn(&Run) -> Option<f64>,
    request: &FitRequest,
    budget: Option<&Budget>,
) -> Vec<Ratio> {
    let Some(budget) = budget else { return Vec::new() };
    [Count::All, Count::NonEmbedding]
        .into_iter()
        .filter_map(|count| {
            let pair = |run: &&Run| Some((run.size(count)?, value(run)?));
            let (sizes, losses): (Vec<RunSize>, Vec<f64>) =
                last.iter().map(pair).collect::<Option<Vec<_>>>()?.into_iter().unzip();
            let options = FitOptions { resamples: 0, ..request.options };
            let law = Law::fit(kind, &sizes, &losses, &options);
            let best = law.optimum_value(budget.flops, request.unique_tokens)?;
            let span = Span::of(sizes.iter().map(RunSize::flops));
            let exponent = law.exponent(span.low, span.high * 1.001)?.value;
            let tokens_per_parameter = best.tokens / best.parameters;
            Some(Ratio { count, parameters: best.parameters, tokens_per_parameter, exponent })
        })
        .collect()
}

/// The rows that move the predicted loss of the largest budget most when they are left out.
fn influence(
    law: &Law,
    rows: &[&Run],
    residuals: &[f64],
    budget: Option<&Budget>,
    sizes: &[RunSize],
) -> Vec<Influence> {
    let largest = sizes.iter().max_by(|a, b| a.flops().total_cmp(&b.flops()));
    let best = budget.and_then(|b| law.optimum_value(b.flops, None));
    let Some(size) = best.or(largest.copied()) else { return Vec::new() };
    let loss = law.loss(size);
    let half = ((loss.high - loss.low) / 2.0).max(1e-12);
    let half = if half.is_nan() { 0.01 * loss.value } else { half };
    let mut all: Vec<Influence> = law
        .leaving_out(|law| law.loss(size))
        .into_iter()
        .map(|(row, without)| Influence {
            line: rows[row].line,
            relative_residual: residuals[row],
            loss_without: without,
            shift: (without - loss.value) / half,
        })
        .collect();
    all.sort_by(|a, b| b.shift.abs().total_cmp(&a.shift.abs()));
    all.truncate(MOST_INFLUENTIAL);
    all
}

fn frontier_report(
    table: &RunTable,
    request: &FitRequest,
    count: Count,
    rows: &[&Run],
) -> Result<FitReport, PlanError> {
    let (formula, remedy) = if request.form == Form::IsoFlop {
        (
            "N* = k*C^a by parabolas through runs of equal compute (Hoffmann et al. 2022, \
             arXiv:2203.15556, approach 2)",
            "for two or more budgets, train four or more sizes at the same 6*N*D",
        )
    } else {
        (
            "N* = k*C^a by the envelope of training curves (Hoffmann et al. 2022, \
             arXiv:2203.15556, approach 1)",
            "give several points of each training curve under one name in the column `run`",
        )
    };
    let chosen = if request.form == Form::IsoFlop { final_points(rows) } else { rows.to_vec() };
    let (sizes, losses) = measured(&chosen, count, |run| run.loss, "loss", &table.path)?;
    let point = |index: usize| FrontierRun {
        flops: chosen[index].flops.unwrap_or_else(|| sizes[index].flops()),
        parameters: sizes[index].parameters,
        tokens: sizes[index].tokens,
        loss: losses[index],
    };
    let found = if request.form == Form::IsoFlop {
        iso_flop(&(0..chosen.len()).map(point).collect::<Vec<_>>(), &request.options)
    } else {
        let mut curves: std::collections::BTreeMap<&str, Vec<FrontierRun>> =
            std::collections::BTreeMap::new();
        for (index, run) in chosen.iter().enumerate() {
            let Some(name) = &run.run else { continue };
            curves.entry(name).or_default().push(point(index));
        }
        let mut curves: Vec<Vec<FrontierRun>> = curves.into_values().collect();
        for curve in &mut curves {
            curve.sort_by(|a, b| a.flops.total_cmp(&b.flops));
        }
        envelope(&curves, &request.options)
    };
    let frontier =
        found.map_err(|problem| PlanError::CannotFit { problem, remedy: remedy.to_owned() })?;
    let mut basis = basis(&sizes, rows.len());
    basis.flops = Span::of((0..chosen.len()).map(|index| point(index).flops));
    let budgets = asked_budgets(request, &basis)
        .into_iter()
        .map(|flops| {
            let (parameters, tokens) = frontier.optimum(flops);
            let tokens_per_parameter =
                Estimate { value: tokens.value / parameters.value, low: f64::NAN, high: f64::NAN };
            let loss = Estimate { value: f64::NAN, low: f64::NAN, high: f64::NAN };
            let optimum = Optimum { flops, parameters, tokens, tokens_per_parameter, loss };
            Budget { loss: None, ..budget(flops, Some(&optimum), &basis) }
        })
        .collect();
    let mut notes = Vec::new();
    let span = |group: &IsoFlop| Span::of(group.runs.iter().map(|run| run.parameters));
    let mut used = frontier.groups.iter().filter(|group| group.left_out.is_none());
    if let Some(wide) = used.find(|group| span(group).factor() > WIDE) {
        notes.push(format!(
            "sizes at {:.2e} FLOP span a factor of {:.0}: the loss is a parabola near its lowest \
             point only; drop the ends to see whether the exponent moves",
            wide.flops,
            span(wide).factor()
        ));
    }
    for group in &frontier.groups {
        if let Some(reason) = group.left_out {
            notes.push(format!(
                "{} runs at {:.2e} FLOP left out: {reason}",
                group.runs.len(),
                group.flops
            ));
        }
    }
    if frontier.censored > 0 {
        notes.push(format!(
            "{} of {} points of the envelope left out: the best run there is the smallest or the \
             largest of all",
            frontier.censored,
            frontier.censored + frontier.best.len()
        ));
    }
    if request.form == Form::Envelope
        && table.schedules().iter().any(|name| name.contains("cosine"))
    {
        notes.push(
            "points before the end of a cosine schedule have a higher loss than runs made for \
             those tokens, which bends the envelope and its exponent"
                .to_owned(),
        );
    }
    if !request.predict.is_empty() || table.runs.iter().any(|run| run.split == Split::Test) {
        notes.push("this form predicts no loss; fit a law for that".to_owned());
    }
    Ok(FitReport {
        file: table.path.clone(),
        form: request.form,
        formula,
        schedule: None,
        count,
        basis,
        options: request.options,
        search: None,
        constants: Vec::new(),
        undetermined: undetermined_exponent(&frontier),
        parameters_exponent: Some(frontier.parameters_exponent),
        tokens_exponent: Some(frontier.tokens_exponent),
        median_residual: None,
        budgets,
        ratios: Vec::new(),
        predictions: Vec::new(),
        influence: Vec::new(),
        link: None,
        notes,
        drawn: Drawn {
            runs: sizes.into_iter().zip(losses).collect(),
            law: None,
            frontier: Some(frontier),
        },
    })
}

fn undetermined_exponent(frontier: &Frontier) -> Vec<String> {
    let a = frontier.parameters_exponent;
    if a.has_interval() && a.high - a.low > 0.5 {
        vec![format!(
            "the exponent a lies anywhere between {:.2} and {:.2}; more budgets, farther apart, \
             would determine it",
            a.low, a.high
        )]
    } else {
        Vec::new()
    }
}

/// Rows far off the curve, by name; the robust sums give them little weight, squares give them much.
fn outlier_notes(report: &mut FitReport, rows: &[&Run], residuals: &[f64]) {
    let median = report.median_residual.unwrap_or(f64::INFINITY);
    let mut far: Vec<(f64, usize)> = rows
        .iter()
        .zip(residuals)
        .filter(|(_, residual)| residual.abs() > OUTLIER * median && residual.abs() > 1e-3)
        .map(|(row, residual)| (*residual, row.line))
        .collect();
    far.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    for (residual, line) in far.into_iter().take(MOST_INFLUENTIAL) {
        report.notes.push(format!(
            "line {line} is {:+.1} % off the curve, {:.0} times the median: is that run comparable?",
            100.0 * residual,
            residual.abs() / median
        ));
    }
}

fn search_notes(report: &mut FitReport) {
    let Some(search) = &report.search else { return };
    if !search.converged {
        report.notes.push("the search did not come to rest; treat the constants as a guess".into());
    }
    if 2 * search.agreeing < search.searches {
        report.notes.push(format!(
            "only {} of {} searches ended at the lowest sum: it has other hollows",
            search.agreeing, search.searches
        ));
    }
    if !search.rows_drawn && report.options.resamples > 0 {
        report.notes.push(format!(
            "{} rows are too few to draw from: residuals were drawn, widened for {} constants",
            report.basis.fitted,
            report.constants.len()
        ));
    }
}

fn general_notes(report: &mut FitReport, table: &RunTable) {
    if report.basis.earlier_points > 0 {
        report.notes.push(format!(
            "{} earlier points of training curves are not fitted as runs",
            report.basis.earlier_points
        ));
    }
    if report.schedule.is_none() {
        report.notes.push(
            "the file has no column `schedule`; runs must share one, ended at their last token"
                .to_owned(),
        );
    }
    if !table.unused_columns.is_empty() {
        report.notes.push(format!("columns not used: {}", table.unused_columns.join(", ")));
    }
    let far = report.budgets.iter().map(|budget| budget.beyond_compute).fold(0.0, f64::max);
    if far > 300.0 {
        report.notes.push(format!(
            "{far:.0} times beyond the data: published tests of such laws reach 300 times \
             (Gadre et al. 2024)"
        ));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    super::interval::quantile(&values, 0.5)
}

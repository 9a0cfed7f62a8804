//! `milpa plan fit`: a scaling law of a table of runs.

use anyhow::{Context as _, Result};
use milpa_base::{Seed, write_file_atomic};
use milpa_plan::scaling::{
    Count, FitOptions, FitRequest, Form, LawKind, Objective, RunTable, Scale, fit_table,
};

use crate::{
    cli::{FitArgs, FitCount, FitForm, FitObjective},
    context::Context,
};

/// Fits, prints the report, and writes the plots where asked.
pub fn fit(context: &Context, arguments: &FitArgs) -> Result<()> {
    let table = RunTable::load(&arguments.runs)?;
    let report = fit_table(&table, &request(context, arguments))?;
    if let Some(dir) = &arguments.out {
        for (name, svg) in report.plots() {
            write_file_atomic(&dir.join(name), svg.as_bytes())?;
        }
        let json = serde_json::to_vec_pretty(&report).context("cannot write fit.json")?;
        write_file_atomic(&dir.join("fit.json"), &json)?;
    }
    context.show(&report, || report.to_string())
}

fn request(context: &Context, arguments: &FitArgs) -> FitRequest {
    let form = match arguments.form {
        FitForm::Chinchilla => Form::Law(LawKind::Chinchilla),
        FitForm::Kaplan => Form::Law(LawKind::Kaplan),
        FitForm::OverTraining => Form::Law(LawKind::OverTraining),
        FitForm::DataConstrained => Form::Law(LawKind::DataConstrained),
        FitForm::Envelope => Form::Envelope,
        FitForm::Isoflop => Form::IsoFlop,
        FitForm::Ladder => Form::Ladder,
    };
    // Gadre et al. fit squares of the loss itself; the others robustly on its logarithm.
    let by_default = if arguments.form == FitForm::OverTraining {
        FitObjective::Squares
    } else {
        FitObjective::Huber
    };
    let (objective, scale) = match arguments.objective.unwrap_or(by_default) {
        FitObjective::Huber => (Objective::Huber { delta: arguments.delta }, Scale::Log),
        FitObjective::Absolute => (Objective::Absolute, Scale::Log),
        FitObjective::Squares => (Objective::Squares, Scale::Linear),
    };
    FitRequest {
        count: arguments.count.map(|count| match count {
            FitCount::All => Count::All,
            FitCount::NonEmbedding => Count::NonEmbedding,
        }),
        schedule: arguments.schedule.clone(),
        budgets: arguments.budget.clone(),
        predict: arguments.predict.clone(),
        unique_tokens: arguments.unique_tokens,
        options: FitOptions {
            objective,
            scale,
            resamples: arguments.resamples as usize,
            seed: Seed(arguments.seed),
            threads: context.threads,
        },
        ..FitRequest::new(form)
    }
}

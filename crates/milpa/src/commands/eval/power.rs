//! `milpa eval power`, `variance` and `probe`: what to know and what to make before a run.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use milpa_base::{Seed, write_file_atomic};
use milpa_eval::{
    probe::in_context_items,
    statistics::{
        Design, minimum_detectable_difference, read_scores, units_needed, variance_shares,
    },
};
use serde::Serialize;

use crate::{cli::PowerArguments, context::Context};

#[derive(Serialize)]
struct Plan {
    questions: u64,
    minimum_detectable_difference: f64,
    questions_needed: Option<u64>,
}

/// Says what difference a paired comparison can find.
pub fn power(context: &Context, arguments: &PowerArguments) -> Result<()> {
    let share = |value: f64| value > 0.0 && value < 1.0;
    ensure!(
        arguments.questions > 0 && share(arguments.accuracy) && share(arguments.power),
        "--questions is at least 1; --accuracy and --power lie between 0 and 1"
    );
    ensure!(
        (-1.0..1.0).contains(&arguments.correlation)
            && (0.0..=1.0).contains(&arguments.cluster_correlation)
            && arguments.cluster_size >= 1.0,
        "--correlation lies between -1 and 1, --cluster-correlation between 0 and 1, --cluster-size is at least 1"
    );
    ensure!(
        arguments.difference.is_none_or(|difference| difference > 0.0 && difference < 1.0),
        "--difference lies between 0 and 1, such as 0.03 for three points"
    );
    let design = Design {
        power: arguments.power,
        cluster_size: arguments.cluster_size,
        cluster_correlation: arguments.cluster_correlation,
        ..Design::accuracies(arguments.accuracy, arguments.correlation)
    };
    let plan = Plan {
        questions: arguments.questions,
        minimum_detectable_difference: minimum_detectable_difference(arguments.questions, &design),
        questions_needed: arguments.difference.map(|difference| units_needed(difference, &design)),
    };
    context.show(&plan, || {
        let mut text = format!(
            "{} questions find a difference of {:.2} points (paired, 5 % significance, {:.0} % power)",
            plan.questions,
            100.0 * plan.minimum_detectable_difference,
            100.0 * design.power
        );
        if let (Some(difference), Some(needed)) = (arguments.difference, plan.questions_needed) {
            text += &format!("\n{:.2} points take {needed} questions", 100.0 * difference);
        }
        text
    })
}

/// Splits the variance of a table of scores.
pub fn variance(context: &Context, scores: &Path) -> Result<()> {
    let table = read_scores(scores)?;
    let shares = variance_shares(&table.scores, table.prompts, table.samples)
        .context("a split of variance takes at least two items")?;
    context.show(&shares, || {
        format!(
            "between items {:.5}, prompts {:.5}, items by prompts {:.5}, samples {}\n\
             standard error of the mean {:.5} ({} prompts, {} samples)",
            shares.items,
            shares.prompts,
            shares.interaction,
            shares.samples.map_or("unknown with one sample".to_owned(), |v| format!("{v:.5}")),
            shares.standard_error,
            table.prompts,
            table.samples
        )
    })
}

/// Writes the items of the task `mul/in_context`.
pub fn probe(context: &Context, count: usize, seed: u64, out: &Path) -> Result<()> {
    write_file_atomic(out, in_context_items(count, Seed(seed)).as_bytes())?;
    context.progress.say(&format!(
        "{count} items in {}; score them with `milpa eval choice --task mul/in_context --data {}`",
        out.display(),
        out.display()
    ));
    Ok(())
}

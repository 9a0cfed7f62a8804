//! `milpa check`: everything a recipe says and names, before any work.

use anyhow::{Result, bail};
use milpa_train::{StageConfig, TrainConfig};

use crate::{
    Refused,
    cli::RecipeArgument,
    commands::{package, tokens, train},
    context::Context,
};

/// Validates a recipe, the files it names and its plan.
pub fn check(context: &Context, recipe: &RecipeArgument) -> Result<()> {
    let recipe = context.recipe(recipe)?;
    let missing = recipe.missing_files();
    if !missing.is_empty() {
        let list: Vec<String> = missing
            .iter()
            .map(|(written, path)| format!("  {written} ({})", path.display()))
            .collect();
        let file = recipe.path.display();
        bail!(Refused(format!("paths in {file} that do not exist:\n{}", list.join("\n"))));
    }
    train::check_base(&recipe.recipe)?;
    package::check(&recipe.recipe)?;
    if let Some(note) = train::rows_that_stay(&recipe.recipe) {
        context.progress.say(&note);
    }
    tokens::quality_model(&recipe.recipe.tokens)?;
    let plan = train::check_plan(context, &recipe, None)?;
    context.show(&plan, || {
        format!("{} is in order\n\n{plan}{}", recipe.path.display(), stages(&recipe.recipe.train))
    })
}

/// The steps of each stage, for a run that has some.
fn stages(config: &TrainConfig) -> String {
    let steps = config.stage_steps().unwrap_or_default();
    let one = |(stage, steps): (&StageConfig, u64)| format!("{} {steps} steps", stage.name);
    let stages: Vec<String> = config.stages.iter().zip(steps).map(one).collect();
    if stages.is_empty() {
        return String::new();
    }
    format!(
        "\nstages       {}; milpa train --dry-run shows tokens and epochs by source",
        stages.join(", ")
    )
}

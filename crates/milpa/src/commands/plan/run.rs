//! `milpa plan run`: a recipe's training on this machine.

use std::path::Path;

use anyhow::Result;

use crate::{commands::train, context::Context};

/// Plans the training of the recipe at `path`.
pub fn run(context: &Context, path: &Path) -> Result<()> {
    let recipe = context.recipe(path)?;
    let plan = train::check_plan(context, &recipe, None)?;
    context.show(&plan, || plan.to_string())
}

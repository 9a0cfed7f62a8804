//! `milpa plan`: what a run, a fit or a machine takes, before it is spent.

mod run;
mod simulate;
mod validate;

use anyhow::Result;

use crate::{cli::PlanCommand, context::Context};

/// One of the planning commands.
pub fn plan(context: &Context, command: PlanCommand) -> Result<()> {
    match command {
        PlanCommand::Run { recipe } => run::run(context, &recipe),
        PlanCommand::Simulate(arguments) => simulate::simulate(context, &arguments),
        PlanCommand::Validate { data } => validate::validate(context, data.as_deref()),
    }
}

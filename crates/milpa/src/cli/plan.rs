//! Arguments of `milpa plan`.

use std::path::PathBuf;

use clap::Subcommand;

/// Planning commands.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Parameters, FLOPs, memory and time of a recipe's training on this machine
    Run {
        /// A folder with a recipe.toml, or the file itself
        recipe: PathBuf,
    },
}

//! `milpa corpus`: build it, ask about one document, show its numbers.

use std::path::Path;

use anyhow::{Result, bail};
use milpa_base::Manifest;

use crate::{context::Context, recipe::Loaded};

/// Builds the corpus of a recipe.
pub fn build(context: &Context, recipe: &Loaded, out: &Path) -> Result<Manifest> {
    Ok(milpa_corpus::build(
        &recipe.recipe.corpus,
        recipe.recipe.seed,
        context.threads,
        out,
        &context.progress,
        &context.stop,
    )?)
}

/// Says what became of a document.
pub fn why(context: &Context, corpus: &Path, document: &str) -> Result<()> {
    let fates = milpa_corpus::why(corpus, document)?;
    if fates.is_empty() {
        bail!(
            "no document of {} has the id or URL {document:?}, whole or in part; a record that could \
             not be read has no id of its own: `milpa corpus stats {}` counts those",
            corpus.display(),
            corpus.display()
        );
    }
    context.show(&fates, || fates.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Shows documents and bytes by source and language, and what was dropped.
pub fn stats(context: &Context, corpus: &Path) -> Result<()> {
    let stats = milpa_corpus::stats(corpus)?;
    context.show(&stats, || stats.to_string())
}

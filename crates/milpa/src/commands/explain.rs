//! `milpa explain`: how the numbers of a run came about, and how to get them again.

use std::path::Path;

use anyhow::{Result, bail};
use milpa_base::{Manifest, manifest::MANIFEST_FILE, units::duration};
use milpa_plan::sheet::Sheet;
use serde::Serialize;

use crate::{
    context::Context,
    ledger::TrainingFolder,
    run::{RESOLVED_FILE, read_stamps},
};

#[derive(Debug, Serialize)]
struct Explained {
    folder: String,
    recipe: Option<String>,
    stages: Vec<Stage>,
    /// The plan beside what came of it, and the ledger's sums.
    planned_and_measured: Sheet,
}

#[derive(Debug, Serialize)]
struct Stage {
    name: String,
    command: String,
    artifact: String,
    seconds: f64,
}

/// Explains a run folder or one artifact.
pub fn explain(context: &Context, dir: &Path) -> Result<()> {
    if dir.join(MANIFEST_FILE).exists() {
        return artifact(context, dir);
    }
    let stamps = read_stamps(dir);
    let title = "Planned and measured".to_owned();
    let training = TrainingFolder::find(dir);
    let sections = training.as_ref().map_or_else(|_| Ok(Vec::new()), TrainingFolder::sections)?;
    let costs = Sheet { title, sections };
    if stamps.is_empty() {
        if training.is_ok() && !costs.sections.is_empty() {
            return context.show(&costs, || costs.to_string());
        }
        bail!(
            "{} is neither a run folder nor an artifact of milpa; give the folder of a run, such \
             as runs/novelas, or one of the folders in it",
            dir.display()
        );
    }
    let resolved = dir.join(RESOLVED_FILE);
    let mut stages: Vec<Stage> = stamps
        .into_iter()
        .map(|(name, stamp)| Stage {
            name,
            command: stamp.command,
            artifact: stamp.artifact.to_string(),
            seconds: stamp.seconds,
        })
        .collect();
    let order = ["corpus", "tokenizer", "tokens", "train", "eval", "package"];
    stages.sort_by_key(|stage| order.iter().position(|name| *name == stage.name));
    let explained = Explained {
        folder: dir.display().to_string(),
        recipe: resolved.exists().then(|| resolved.display().to_string()),
        stages,
        planned_and_measured: costs,
    };
    context.show(&explained, || {
        let mut text = format!("run       {}\n", explained.folder);
        if let Some(recipe) = &explained.recipe {
            text += &format!("recipe    {recipe} (every default written out)\n");
        }
        text += "Each command below makes its artifact again, byte for byte:\n";
        for stage in &explained.stages {
            text += &format!(
                "\n{:<9} {} ({})\n          $ {}\n",
                stage.name,
                &stage.artifact[..12],
                duration(stage.seconds),
                stage.command
            );
        }
        if !explained.planned_and_measured.sections.is_empty() {
            text += &format!("\n{}", explained.planned_and_measured);
        }
        text
    })
}

fn artifact(context: &Context, dir: &Path) -> Result<()> {
    let (manifest, digest) = Manifest::read_with_digest(dir)?;
    context.show(&manifest, || {
        let mut text =
            format!("{} {} made by {}\n", manifest.kind, digest.short(), manifest.producer);
        for (name, input) in &manifest.inputs {
            text += &format!("from      {name} {}\n", input.short());
        }
        for (name, count) in &manifest.counts {
            text += &format!("holds     {count} {name}\n");
        }
        for licence in &manifest.licences {
            text += &format!("licence   {licence}\n");
        }
        for file in &manifest.files {
            text +=
                &format!("file      {} {} bytes {}\n", file.blake3.short(), file.bytes, file.path);
        }
        text
    })
}

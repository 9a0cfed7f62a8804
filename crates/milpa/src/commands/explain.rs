//! `milpa explain`: how the numbers of a run came about, and how to get them again.

use std::{collections::BTreeSet, fmt, path::Path};

use anyhow::{Context as _, Result, bail};
use milpa_base::{Manifest, manifest::MANIFEST_FILE, units::duration};
use milpa_plan::sheet::Sheet;
use milpa_train::{FINAL_CHECKPOINT, STATE_FILE, State};
use serde::Serialize;
use serde_json::Value;

use crate::{
    context::{Context, quote},
    ledger::TrainingFolder,
    run::{RESOLVED_FILE, read_stamps, variables},
    watch::{self, WatchConfig},
};

#[derive(Debug, Serialize)]
struct Explained {
    folder: String,
    recipe: Option<String>,
    stages: Vec<Stage>,
    /// The step after which the training went on with another plan; 0 where it did not.
    extended_after: u64,
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

/// What a report of an evaluation says of its own making.
#[derive(Debug, Serialize)]
struct Evaluated {
    folder: String,
    milpa_version: String,
    command: String,
    model: Option<String>,
    model_hash: Option<String>,
    tasks: Vec<EvaluatedTask>,
    /// Whether the model's answers lie there, so that the command asks for none again.
    has_answers: bool,
}

#[derive(Debug, Serialize)]
struct EvaluatedTask {
    name: String,
    version: f64,
    questions: u64,
    shots: u64,
    task_hash: String,
    data_hashes: Vec<String>,
}

impl Evaluated {
    /// Reads the report of a folder; `None` where there is none that names its command.
    fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("report.json");
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
        let report: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON; evaluate again", path.display()))?;
        let Some(command) = report["command_line"].as_str() else { return Ok(None) };
        let string = |value: &Value| value.as_str().map(str::to_owned);
        let task = |task: &Value| {
            Some(EvaluatedTask {
                name: string(&task["task"])?,
                version: task["version"].as_f64().unwrap_or_default(),
                questions: task["scored"].as_u64().unwrap_or_default(),
                shots: task["num_fewshot"].as_u64().unwrap_or_default(),
                task_hash: string(&task["task_hash"]).unwrap_or_default(),
                data_hashes: task["data_hashes"]
                    .as_array()
                    .map_or_else(Vec::new, |hashes| hashes.iter().filter_map(&string).collect()),
            })
        };
        let tasks = report["tasks"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(Some(Self {
            folder: dir.display().to_string(),
            milpa_version: string(&report["milpa_version"]).unwrap_or_default(),
            command: command.to_owned(),
            model: string(&report["model"]["name"]),
            model_hash: string(&report["model"]["hash"]).filter(|hash| !hash.is_empty()),
            tasks: tasks.iter().filter_map(task).collect(),
            has_answers: dir.join("answers.jsonl").exists(),
        }))
    }
}

impl fmt::Display for Evaluated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "evaluation  {} (milpa {})", self.folder, self.milpa_version)?;
        if let Some(model) = &self.model {
            let hash = self.model_hash.as_deref().unwrap_or("not told");
            writeln!(f, "model       {model}, weights {hash}")?;
        }
        for task in &self.tasks {
            writeln!(
                f,
                "task        {} version {}: {} questions, {} examples each",
                task.name, task.version, task.questions, task.shots
            )?;
            writeln!(f, "            task {}", task.task_hash)?;
            for hash in &task.data_hashes {
                writeln!(f, "            data {hash}")?;
            }
        }
        let asks = if self.has_answers {
            "the model's answers are kept there, so nothing is asked again"
        } else {
            "the model is asked again"
        };
        writeln!(f, "\nThis command makes it again; {asks}:\n  $ {}", self.command)
    }
}

/// The step after which a complete training went on with another plan.
fn origin(training: &TrainingFolder) -> u64 {
    let path = training.path.join(FINAL_CHECKPOINT).join(STATE_FILE);
    let state = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    state.map_or(0, |state: State| state.origin)
}

/// Explains a run folder, an evaluation or one artifact.
pub fn explain(context: &Context, dir: &Path) -> Result<()> {
    if dir.join(MANIFEST_FILE).exists() {
        return artifact(context, dir);
    }
    if let Some(evaluated) = Evaluated::read(dir)? {
        return context.show(&evaluated, || evaluated.to_string());
    }
    let stamps = read_stamps(dir);
    let training = TrainingFolder::find(dir);
    let costs = training.as_ref().map_or_else(|_| Ok(Sheet::default()), training_sheet)?;
    if stamps.is_empty() {
        if training.is_ok() && !costs.sections.is_empty() {
            return context.show(&costs, || costs.to_string());
        }
        bail!(
            "{} is neither a run folder, an evaluation nor an artifact of milpa; give the folder of \
             a run, such as runs/novelas, or one of the folders in it",
            dir.display()
        );
    }
    let resolved = dir.join(RESOLVED_FILE);
    let recipe = std::fs::read_to_string(&resolved).unwrap_or_default();
    let variables = variables(&recipe);
    let mut stages: Vec<Stage> = stamps
        .into_iter()
        .map(|(name, stamp)| Stage {
            name,
            command: with_variables(&stamp.command, &variables),
            artifact: stamp.artifact.to_string(),
            seconds: stamp.seconds,
        })
        .collect();
    let order = ["corpus", "tokenizer", "tokens", "train", "eval", "package"];
    stages.sort_by_key(|stage| order.iter().position(|name| *name == stage.name));
    let is_fork = stages.iter().any(|stage| stage.command.contains(" --fork "));
    let extended_after = training.as_ref().ok().filter(|_| !is_fork).map_or(0, origin);
    let explained = Explained {
        folder: dir.display().to_string(),
        recipe: resolved.exists().then(|| resolved.display().to_string()),
        stages,
        extended_after,
        planned_and_measured: costs,
    };
    context.show(&explained, || {
        let mut text = format!("run       {}\n", explained.folder);
        if let Some(recipe) = &explained.recipe {
            text += &format!("recipe    {recipe} (every default written out)\n");
        }
        text += "Each command below makes its artifact again, byte for byte";
        if explained.stages.iter().any(|stage| stage.command.contains("=… ")) {
            text += " (for … give what the variable held, which was not noted)";
        }
        text += ":\n";
        if explained.extended_after > 0 {
            text += &format!(
                "(but the training went on with another plan after step {}, so its command alone does not)\n",
                explained.extended_after
            );
        }
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

/// Plan, costs and numbers of a training, and where it is to be looked at.
fn training_sheet(training: &TrainingFolder) -> Result<Sheet> {
    let mut sheet = training.sheet()?;
    let metrics = training.metrics()?;
    let mut section = watch::figures(&metrics);
    let page = training.path.join(watch::REPORT_FILE);
    if page.exists() {
        section.note(format!("{} shows them as plots", page.display()));
    }
    let events = training.path.join(watch::TENSORBOARD_FOLDER);
    if events.exists() {
        section.note(format!("tensorboard --logdir {}", quote(&events.display().to_string())));
    }
    if !section.facts.is_empty() {
        sheet.sections.push(section);
    }
    if let Some(report) = milpa_train::read_forgetting(&training.path)? {
        sheet.sections.push(watch::candidates(&report));
    }
    if let Some(config) = watch_config(training) {
        let alarms = watch::raised(&config, &metrics);
        if !(alarms.facts.is_empty() && alarms.notes.is_empty()) {
            sheet.sections.push(alarms);
        }
    }
    Ok(sheet)
}

/// The `[watch]` table of the run that a training belongs to; `None` where it belongs to none.
fn watch_config(training: &TrainingFolder) -> Option<WatchConfig> {
    let resolved = training.path.parent()?.join(RESOLVED_FILE);
    let mut recipe: toml::Table = std::fs::read_to_string(resolved).ok()?.parse().ok()?;
    recipe.remove("watch")?.try_into().ok()
}

/// A command with the variables that its recipe's paths need; those that it does not set were not noted
/// when it ran.
fn with_variables(command: &str, names: &BTreeSet<&str>) -> String {
    let is_set = |name: &&&str| {
        command.starts_with(&format!("{name}=")) || command.contains(&format!(" {name}="))
    };
    let missing = names.iter().filter(|name| !is_set(name));
    missing.map(|name| format!("{name}=… ")).collect::<Vec<_>>().concat() + command
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_the_variables_of_its_recipe() {
        let names =
            variables("path = \"${MILPA_DATA}/a\"\nmodel = \"${BASE}/${MILPA_DATA}\"\n${no");
        assert_eq!(names, BTreeSet::from(["BASE", "MILPA_DATA"]));
        let check = |command: &str, expect: &str| {
            assert_eq!(with_variables(command, &names), expect);
        };
        check("milpa train x", "BASE=… MILPA_DATA=… milpa train x");
        check("BASE=/b MILPA_DATA='/a b' milpa train x", "BASE=/b MILPA_DATA='/a b' milpa train x");
        check("OTHER_BASE=/b milpa train x", "BASE=… MILPA_DATA=… OTHER_BASE=/b milpa train x");
    }
}

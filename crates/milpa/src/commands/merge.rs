//! `milpa merge`: one model of several, or a row of them along a line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use milpa_base::Manifest;
use milpa_model::{FolderContext, MergeMethod, MergeModels};
use milpa_train::{FINAL_CHECKPOINT, STATE_FILE, State, checkpoints};
use serde::Serialize;

use crate::{
    cli::MergeCommand,
    context::{self, Context},
};

/// A merge as it will be done.
struct Plan {
    folders: Vec<PathBuf>,
    /// Methods and the folders of what they make.
    methods: Vec<(MergeMethod, PathBuf)>,
}

/// A merged folder, as JSON shows it.
#[derive(Serialize)]
struct Made {
    folder: PathBuf,
    manifest: Manifest,
}

/// Merges what the command line names.
pub fn merge(context: &Context, command: MergeCommand) -> Result<()> {
    let plan = plan(context, command)?;
    let count = plan.folders.len();
    // Numbers that cannot be right are refused before anything is read.
    plan.methods.iter().try_for_each(|(method, _)| method.check(count))?;
    for folder in &plan.folders {
        ensure!(
            folder.exists(),
            "{} does not exist; give a checkpoint, a bundle or a Hugging Face folder",
            folder.display()
        );
        let written = plan.methods.iter().find(|(_, out)| is_same(out, folder));
        ensure!(
            written.is_none(),
            "--out is one of the models, {}; choose another folder",
            folder.display()
        );
    }
    let models = MergeModels::open(&plan.folders)?;
    for note in models.notes(&plan.methods[0].0) {
        context.progress.say(&note);
    }
    let work = FolderContext {
        threads: context.threads,
        progress: &context.progress,
        stop: &context.stop,
    };
    let mut made = Vec::new();
    for (method, out) in &plan.methods {
        if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make the folder {}", parent.display()))?;
        }
        let manifest = models.write(method, out, &work)?;
        if let Some(straight) = manifest.counts.get("straight_tensors") {
            context.progress.say(&format!(
                "{straight} of {} tensors point almost the same way in both models: there the great \
                 circle is a straight line",
                manifest.counts["tensors"]
            ));
        }
        made.push(Made { folder: out.clone(), manifest });
    }
    context.show(&made, || {
        let lines = made.iter().map(|made| context::describe(&made.manifest, &made.folder));
        lines.collect::<Vec<_>>().join("\n")
    })
}

/// Whether two paths are of one folder that is there.
fn is_same(one: &Path, two: &Path) -> bool {
    matches!((one.canonicalize(), two.canonicalize()), (Ok(one), Ok(two)) if one == two)
}

fn plan(context: &Context, command: MergeCommand) -> Result<Plan> {
    Ok(match command {
        MergeCommand::Linear(given) => {
            ensure!(
                given.sweep.is_empty() || given.models.len() == 2,
                "--sweep goes along the line between two models; {} were given",
                given.models.len()
            );
            let count = given.models.len();
            let weights = or_equal(given.weights, count);
            let method = MergeMethod::Linear { weights, normalise: !given.sum };
            let methods = swept("t", &given.sweep, &given.out, method, MergeMethod::between)?;
            Plan { folders: given.models, methods }
        }
        MergeCommand::Average(given) => {
            let folders = match given.last {
                None => given.checkpoints,
                Some(last) => {
                    ensure!(
                        given.checkpoints.len() == 1,
                        "--last takes the folder of one run; without it, name the checkpoints"
                    );
                    let chosen = last_checkpoints(&given.checkpoints[0], last as usize)?;
                    for (step, folder) in &chosen {
                        context.progress.say(&format!("step {step}: {}", folder.display()));
                    }
                    chosen.into_iter().map(|(_, folder)| folder).collect()
                }
            };
            let weights = vec![1.0; folders.len()];
            let method = MergeMethod::Linear { weights, normalise: true };
            Plan { folders, methods: vec![(method, given.out)] }
        }
        MergeCommand::Slerp(given) => {
            let of = |t| MergeMethod::Slerp { t };
            let methods = swept("t", &given.sweep, &given.out, of(given.t), of)?;
            Plan { folders: vec![given.first, given.second], methods }
        }
        MergeCommand::Ties(given) => {
            let weights = or_equal(given.weights, given.models.len());
            let density = given.density;
            let of = |lambda| MergeMethod::Ties { density, weights: weights.clone(), lambda };
            let methods = swept("lambda", &given.sweep, &given.out, of(given.lambda), of)?;
            let folders = [given.base].into_iter().chain(given.models).collect();
            Plan { folders, methods }
        }
        MergeCommand::ChatVector(given) => {
            let of = |scale| MergeMethod::ChatVector { scale };
            let methods = swept("scale", &given.sweep, &given.out, of(given.scale), of)?;
            Plan { folders: vec![given.base, given.chat, given.continued], methods }
        }
    })
}

fn or_equal(weights: Vec<f64>, count: usize) -> Vec<f64> {
    if weights.is_empty() { vec![1.0; count] } else { weights }
}

/// The one method, or a method for each point of a sweep, with the folders they go to.
fn swept(
    name: &str,
    sweep: &[f64],
    out: &Path,
    one: MergeMethod,
    of: impl Fn(f64) -> MergeMethod,
) -> Result<Vec<(MergeMethod, PathBuf)>> {
    if sweep.is_empty() {
        return Ok(vec![(one, out.to_owned())]);
    }
    let mut methods = Vec::new();
    for &value in sweep {
        let folder = out.join(format!("{name}-{value}"));
        ensure!(
            methods.iter().all(|(_, other)| *other != folder),
            "--sweep has {value} twice; name each point once"
        );
        methods.push((of(value), folder));
    }
    Ok(methods)
}

/// The newest checkpoints of a run, oldest first: those by step, and the final one where its step is not
/// among them.
fn last_checkpoints(run: &Path, count: usize) -> Result<Vec<(u64, PathBuf)>> {
    let places = [run.to_owned(), run.join("train")];
    let mut found = BTreeMap::new();
    for place in &places {
        let last = place.join(FINAL_CHECKPOINT);
        if let Ok(bytes) = fs::read(last.join(STATE_FILE))
            && let Ok(state) = serde_json::from_slice::<State>(&bytes)
        {
            found.insert(state.step, last);
        }
        found.extend(checkpoints(place));
    }
    ensure!(
        !found.is_empty(),
        "{} has no checkpoints; give the folder of a run or of its training",
        run.display()
    );
    ensure!(
        found.len() >= count,
        "--last is {count}, but {} has {} checkpoints (of steps {}); train with a larger \
         keep_checkpoints, or take fewer",
        run.display(),
        found.len(),
        found.keys().map(u64::to_string).collect::<Vec<_>>().join(", ")
    );
    let skipped = found.len() - count;
    Ok(found.into_iter().skip(skipped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_has_a_folder_for_each_point() {
        let of = |t| MergeMethod::Slerp { t };
        let made = swept("t", &[0.0, 0.25, 1.0], Path::new("out"), of(0.5), of).unwrap();
        let folders: Vec<&str> = made.iter().map(|(_, out)| out.to_str().unwrap()).collect();
        assert_eq!(folders, ["out/t-0", "out/t-0.25", "out/t-1"]);
        assert_eq!(made[1].0, of(0.25));
        assert_eq!(swept("t", &[], Path::new("out"), of(0.5), of).unwrap().len(), 1);
        let twice = swept("t", &[0.5, 0.50], Path::new("out"), of(0.5), of).unwrap_err();
        assert!(twice.to_string().contains("twice"));
    }

    #[test]
    fn the_last_checkpoints_are_found_once_each() {
        let root = tempfile::tempdir().unwrap();
        let error = last_checkpoints(root.path(), 1).unwrap_err().to_string();
        assert!(error.contains("has no checkpoints"), "{error}");
        for name in ["checkpoints/step-00000010", "checkpoints/step-00000020", "checkpoint"] {
            fs::create_dir_all(root.path().join("train").join(name)).unwrap();
        }
        let last = root.path().join("train").join(FINAL_CHECKPOINT);
        fs::write(last.join(STATE_FILE), r#"{"step":30,"steps":30,"tokens":0}"#).unwrap();
        let steps = |count| -> Vec<u64> {
            let found = last_checkpoints(root.path(), count).unwrap();
            found.into_iter().map(|(step, _)| step).collect()
        };
        assert_eq!(steps(2), [20, 30]);
        assert_eq!(steps(3), [10, 20, 30]);
        let error = last_checkpoints(root.path(), 4).unwrap_err().to_string();
        assert!(error.contains("3 checkpoints (of steps 10, 20, 30)"), "{error}");
    }
}

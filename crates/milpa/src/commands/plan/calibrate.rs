//! `milpa plan calibrate`: what a run measured, taken into the plans of the next ones.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use milpa_base::write_file_atomic;
use milpa_plan::{OwnRun, Quantiles, sheet::percent};

use crate::{
    cli::CalibrateArgs,
    context::Context,
    ledger::{self, Measured, TrainingFolder},
};

/// Steps without which a range says nothing.
const FEWEST_STEPS: usize = 5;

/// Adds a run to the calibration file.
pub fn calibrate(context: &Context, arguments: &CalibrateArgs) -> Result<()> {
    let run = &arguments.run;
    let folder = TrainingFolder::find(run).with_context(|| {
        format!(
            "{} holds no training; give a run folder such as runs/novelas, or the folder that milpa \
             train wrote",
            run.display()
        )
    })?;
    let measured_run = measure(run, &folder)?;
    let path = match &arguments.out {
        Some(path) => path.clone(),
        None => beside(run)?,
    };
    let mut runs = ledger::read_own_runs(&path)?.unwrap_or_default();
    runs.add(measured_run.clone());
    write_file_atomic(&path, runs.to_toml().as_bytes())?;
    context.show(&measured_run, || {
        let Quantiles { low, median, high } = measured_run.utilisation;
        let mut text = format!(
            "{}: {} steps at {} of the peak ({} to {}), {} more for start, validation and checkpoints\n",
            measured_run.run,
            measured_run.steps,
            percent(median),
            percent(low),
            percent(high),
            percent(measured_run.overhead - 1.0),
        );
        if let Some(ratio) = measured_run.memory_ratio {
            text += &format!("memory was {} of the planned\n", percent(ratio));
        }
        if let Some(loss) = measured_run.loss {
            text += &format!("loss was {loss:.4} nats per token\n");
        }
        text += &format!("written to {} ({} runs)\n", path.display(), runs.runs.len());
        let default = Path::new(ledger::OWN_RUNS_FILE);
        if path.as_path() == default || path.as_path() == Path::new(".").join(default) {
            text += "the next milpa plan run and milpa run plan by it";
        } else {
            text += &format!("plan by it with: milpa plan run RECIPE --calibration {}", path.display());
        }
        text
    })
}

fn beside(run: &Path) -> Result<std::path::PathBuf> {
    let whole = run.canonicalize().with_context(|| format!("cannot read {}", run.display()))?;
    // A relative path stays relative, so that it is shown as it was given.
    let parent = match run.parent() {
        Some(parent) if run.file_name().is_some() => parent.to_owned(),
        _ => whole.parent().unwrap_or(&whole).to_owned(),
    };
    Ok(parent.join("calibration.toml"))
}

fn measure(run: &Path, folder: &TrainingFolder) -> Result<OwnRun> {
    let plan = folder.plan()?.with_context(|| {
        format!(
            "{} keeps no plan.json to calibrate by: it was trained by an earlier version; train it again",
            folder.path.display()
        )
    })?;
    let Measured {
        utilisations, step_seconds, measuring_seconds, tokens, memory_bytes, loss, ..
    } = folder.measured()?;
    if utilisations.len() < FEWEST_STEPS {
        bail!(
            "{} has {} timed steps; {FEWEST_STEPS} would be enough",
            folder.path.display(),
            utilisations.len()
        );
    }
    let steps = utilisations.len();
    let utilisation = Quantiles::of(utilisations).context("the steps have no utilisation")?;
    // What measuring against a base takes is planned by itself.
    let spent =
        folder.ledger.seconds("train").map_or(step_seconds, |spent| spent - measuring_seconds);
    let name = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    Ok(OwnRun {
        run: name.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        processor: plan.processor.clone(),
        threads: plan.threads,
        precision: plan.precision.clone(),
        parameters: plan.parameters,
        tokens,
        steps,
        utilisation,
        overhead: (spent / step_seconds).max(1.0),
        memory_ratio: memory_bytes.map(|bytes| bytes / plan.memory_bytes as f64),
        loss,
    })
}

//! How often the planner's intervals hold the truth, recorded under `benches/`.

use std::{fmt::Write as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench::{heading, record},
    cargo, root,
};

/// What is simulated: number of runs, noise of ln(loss), objective.
const CASES: [[&str; 3]; 4] = [
    ["240", "0.01", "huber"],
    ["60", "0.01", "huber"],
    ["240", "0.01", "squares"],
    ["240", "0.01", "absolute"],
];
const SIMULATIONS: &str = "2000";
const RESAMPLES: &str = "400";

/// Runs the example `plan_coverage` of `milpa-plan` on each case.
pub(crate) fn coverage() -> Result<()> {
    cargo(&["build", "--release", "--quiet", "-p", "milpa-plan", "--example", "plan_coverage"])?;
    let program = root().join("target/release/examples/plan_coverage");
    let threads = std::thread::available_parallelism()?.to_string();
    let (date, mut text) = heading()?;
    for [runs, noise, objective] in CASES {
        let arguments = [SIMULATIONS, RESAMPLES, runs, noise, objective, &threads];
        eprintln!("$ {} {}", program.display(), arguments.join(" "));
        let output = Command::new(&program)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        if !output.status.success() {
            bail!("{}: {}", program.display(), output.status);
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        eprint!("{printed}");
        writeln!(
            text,
            "{SIMULATIONS} simulations, {RESAMPLES} resamples, {runs} runs, noise {noise}, {objective}\n{printed}"
        )?;
    }
    record(&format!("plan-coverage-{date}.txt"), &text)
}

//! Runs the example `fuzz` of milpa-corpus on one target, with seeds from the shared data.
//!
//! The example catches panics itself. What cannot be caught (a stack that overflows, memory that
//! runs out) ends it; the input that it was at lies in `target/fuzz/TARGET-current` then, and this
//! chore says how to repeat it.

use std::{io::Write as _, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{bench::heading, cargo, root};

/// Runs a target for some minutes.
pub(crate) fn fuzz(target: &str, arguments: &[&str]) -> Result<()> {
    let (mut minutes, mut seed, mut data, mut save) = ("1", "1", None::<PathBuf>, false);
    let mut rest = arguments.iter();
    while let Some(&flag) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{flag} needs a value"));
        match flag {
            "--minutes" => minutes = value()?,
            "--seed" => seed = value()?,
            "--data" => data = Some(PathBuf::from(value()?).canonicalize()?),
            "--save" => save = true,
            _ => bail!("fuzz does not know {flag}"),
        }
    }
    // Without --release: overflows and debug assertions are failures too.
    cargo(&["build", "--quiet", "-p", "milpa-corpus", "--example", "fuzz"])?;
    let folder = root().join("target/fuzz");
    let built =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let mut command = Command::new(built.join("debug/examples/fuzz"));
    command.args([target, "--minutes", minutes, "--seed", seed, "--out"]).arg(&folder);
    for seeds in data.iter().flat_map(|data| seeds(target).iter().map(|seeds| data.join(seeds))) {
        command.arg("--seeds").arg(seeds);
    }
    let output = command.current_dir(root()).output().context("cannot start the fuzzer")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{printed}");
    let current = folder.join(format!("{target}-current"));
    if !output.status.success() {
        if current.exists() {
            println!(
                "it died; repeat with `cargo run -p milpa-corpus --example fuzz -- {target} \
                 --replay {}`",
                current.display()
            );
        }
        bail!("{target}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    if save {
        let (date, heading) = heading()?;
        let path = root().join(format!("benches/fuzz-{date}.txt"));
        let new = !path.exists();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        if new {
            writeln!(file, "{heading}")?;
        }
        let data = if data.is_some() { " --data DIR" } else { "" };
        writeln!(file, "$ cargo xtask fuzz {target} --minutes {minutes} --seed {seed}{data}")?;
        writeln!(file, "{printed}")?;
    }
    Ok(())
}

/// Files and folders of the shared data that a target begins with.
fn seeds(target: &str) -> &'static [&'static str] {
    match target {
        "warc" | "arc" => &["web/warcio_fixtures", "web/commoncrawl_whirlwind"],
        "html" | "charset" => &["web/wcxb_dev_a.jsonl.zst", "web/zyte_dev.jsonl.zst"],
        _ => &[],
    }
}

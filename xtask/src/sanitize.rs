//! The kernels' tests under AddressSanitizer, on every instruction set of this machine.
//!
//! The pinned compiler has the sanitizer's run time; it only counts as unstable, which
//! `RUSTC_BOOTSTRAP` lifts for this chore. The standard library is not instrumented, but its
//! allocations are watched, and vectors and slices are where kernels could go astray.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{root, run};

/// Reads one value beyond the end of a vector, as a kernel that forgets its tail would.
const ASTRAY: &str = "
fn main() {
    let values = vec![1.0_f32; std::env::args().count() + 6];
    let beyond = unsafe { values.as_ptr().add(values.len()).read_volatile() };
    println!(\"{beyond}\");
}
";

/// Makes sure that the sanitizer sees a read out of bounds, then runs the tests under it.
pub(crate) fn sanitize() -> Result<()> {
    let version = Command::new("rustc").arg("-vV").current_dir(root()).output()?;
    let version = String::from_utf8(version.stdout)?;
    let target = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names its host")?;
    let built = root().join("target/sanitize");
    prove(target, &built)?;
    // A target is named so that the flag is not applied to build scripts and derive macros.
    run(sanitized(&mut Command::new(env!("CARGO")))
        .env("RUSTFLAGS", "-Zsanitizer=address -Cforce-frame-pointers=yes")
        .args(["test", "--quiet", "-p", "milpa-kernels", "--tests", "--target", target])
        .arg("--target-dir")
        .arg(&built))
}

fn sanitized(command: &mut Command) -> &mut Command {
    command.env("RUSTC_BOOTSTRAP", "1")
}

fn prove(target: &str, built: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(built)?;
    let (source, program) = (built.join("astray.rs"), built.join("astray"));
    std::fs::write(&source, ASTRAY)?;
    run(sanitized(&mut Command::new("rustc"))
        .args(["-Zsanitizer=address", "--edition", "2024", "--target", target, "-o"])
        .args([&program, &source]))?;
    let output = Command::new(&program).output().context("cannot start the probe")?;
    let report = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && report.contains("heap-buffer-overflow"),
        "the sanitizer does not see a read beyond a vector: {}\n{report}",
        output.status
    );
    eprintln!("sanitize: a planted read out of bounds was caught");
    Ok(())
}

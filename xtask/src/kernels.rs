//! CUDA kernels: compiled to cubins by the toolchain from PyPI, and run on the host without a GPU.
//!
//! The cubins are committed, so that `cargo build` never needs a toolkit and a build from source is
//! as able as a release. The toolchain and its command line are fixed, so the same source gives the
//! same bytes; `cubins.lock` names the hashes of sources and cubins, and a cubin that was not made
//! again after its source changed fails `cargo xtask check`.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, root, run};

/// The wheels that hold the compiler; 13.0 for drivers from 580 on.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
];
/// What the compiler calls itself.
const RELEASE: &str = "V13.0.88";
/// Sources, without their ending.
const SOURCES: [&str; 1] = ["rms_norm"];
/// As in `crates/milpa-kernels/src/cuda/gpu.rs`.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90"];
const LOCK: &str = "cubins.lock";

fn folder() -> PathBuf {
    root().join("crates/milpa-kernels/cuda")
}

/// Compiles all sources for all architectures, prints what the assembler says of each kernel, and
/// writes the lock. `python` has the wheels; without it they are installed under `target`.
pub(crate) fn compile(python: Option<&str>) -> Result<()> {
    let toolkit = match python {
        Some(python) => toolkit_of(Path::new(python))?,
        None => install()?,
    };
    let nvcc = toolkit.join("bin/nvcc");
    let version = Command::new(&nvcc).arg("--version").output().context("cannot start nvcc")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    ensure!(
        version.contains(RELEASE),
        "nvcc is not {RELEASE}, so its cubins would differ:\n{version}"
    );

    println!(
        "{:<36} {:>9} {:>9} {:>7} {:>7}",
        "kernel", "registers", "shared B", "stack B", "spill B"
    );
    for source in SOURCES {
        for architecture in ARCHITECTURES {
            let cubin = format!("{source}.{architecture}.cubin");
            let output = Command::new(&nvcc)
                .args(["-cubin", "-std=c++17", "-O3", "-Xptxas", "-v", "-arch", architecture])
                .args(["-o", &cubin, &format!("{source}.cu")])
                .current_dir(folder())
                .output()
                .context("cannot start nvcc")?;
            let log = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "nvcc {source}.cu for {architecture}:\n{log}");
            let bytes = std::fs::metadata(folder().join(&cubin))?.len();
            println!("{cubin}: {bytes} bytes");
            let kernels = read_assembler_log(&log);
            ensure!(!kernels.is_empty(), "the assembler says nothing of the kernels:\n{log}");
            for Kernel { name, registers, shared, stack, spills } in &kernels {
                println!("  {name:<34} {registers:>9} {shared:>9} {stack:>7} {spills:>7}");
            }
            if let Some(kernel) = kernels.iter().find(|kernel| kernel.stack + kernel.spills > 0) {
                bail!("{} spills registers on {architecture}: let it hold less", kernel.name);
            }
        }
    }
    std::fs::write(folder().join(LOCK), lock()?)?;
    on_host()
}

/// What the assembler says of a kernel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kernel {
    name: String,
    registers: u32,
    shared: u32,
    stack: u32,
    spills: u32,
}

/// Reads what `ptxas -v` writes: a line that names the kernel, then its properties.
fn read_assembler_log(log: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default().to_owned();
            kernels.push(Kernel { name, ..Kernel::default() });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        let number_before = |what: &str| -> Option<u32> {
            line.split_once(what)?.0.rsplit([' ', ',']).next()?.parse().ok()
        };
        kernel.registers = number_before(" registers").unwrap_or(kernel.registers);
        kernel.shared = number_before(" bytes smem").unwrap_or(kernel.shared);
        kernel.stack = number_before(" bytes stack frame").unwrap_or(kernel.stack);
        kernel.spills = number_before(" bytes spill stores").unwrap_or(kernel.spills);
    }
    kernels
}

/// Installs the wheels in an environment of their own and returns where the toolkit lies.
fn install() -> Result<PathBuf> {
    let environment = root().join("target/cuda-toolchain");
    let python = environment.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(WHEELS))?;
    toolkit_of(&python)
}

fn toolkit_of(python: &Path) -> Result<PathBuf> {
    let script = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
    let output = Command::new(python)
        .args(["-c", script])
        .output()
        .with_context(|| format!("cannot start {}", python.display()))?;
    let packages = String::from_utf8(output.stdout)?;
    let toolkit = Path::new(packages.trim()).join("nvidia/cu13");
    let problem = || format!("{}: no nvcc; install {}", toolkit.display(), WHEELS.join(" "));
    ensure!(toolkit.join("bin/nvcc").exists(), problem());
    Ok(toolkit)
}

/// The text of the lock: a hash for each source and cubin.
fn lock() -> Result<String> {
    let mut text = format!("# Written by `cargo xtask kernels` with nvcc {RELEASE}.\n");
    for source in SOURCES {
        let cubins = ARCHITECTURES.map(|architecture| format!("{source}.{architecture}.cubin"));
        for file in std::iter::once(format!("{source}.cu")).chain(cubins) {
            let path = folder().join(&file);
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            writeln!(text, "{}  {file}", blake3::hash(&bytes))?;
        }
    }
    Ok(text)
}

/// Fails if a source has changed since its cubins were made.
pub(crate) fn check_lock() -> Result<()> {
    let path = folder().join(LOCK);
    let committed = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let files = |text: &str| -> BTreeMap<String, String> {
        let lines = text.lines().filter_map(|line| line.split_once("  "));
        lines.map(|(hash, file)| (file.to_owned(), hash.to_owned())).collect()
    };
    let (now, then) = (files(&lock()?), files(&committed));
    let changed: Vec<&str> = now
        .iter()
        .filter(|(file, hash)| then.get(*file) != Some(hash))
        .map(|(f, _)| &**f)
        .collect();
    if !changed.is_empty() || now.len() != then.len() {
        bail!("{} differ from {LOCK}: run `cargo xtask kernels` and commit", changed.join(", "));
    }
    Ok(())
}

/// Runs the kernels' sources on the host, through a stand-in for the driver, against their twins.
pub(crate) fn on_host() -> Result<()> {
    let built = root().join("target/cuda-on-host");
    std::fs::create_dir_all(&built)?;
    let library = built.join("libcuda.so.1");
    let host = folder().join("host");
    run(Command::new("c++")
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"])
        .args(["-shared", "-fPIC", "-I"])
        .arg(&host)
        .arg(host.join("driver.cpp"))
        .arg("-o")
        .arg(&library))?;
    let driver = library.to_string_lossy();
    let example = ["run", "--quiet", "-p", "milpa-kernels", "--example", "gpu", "--"];
    cargo(&[&example[..], &["--check-only", "--driver", &driver]].concat())?;
    // The stand-in knows one thread.
    let test = ["test", "--quiet", "-p", "milpa-tensor", "--test", "it", "cuda"];
    let one = ["--", "--test-threads", "1"];
    run(Command::new(env!("CARGO")).args(test).args(one).env("LD_LIBRARY_PATH", &built))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cubins_are_those_of_the_sources() {
        check_lock().expect("cubins are made again when a source changes");
    }

    #[test]
    fn the_assembler_is_understood() {
        let log = "\
ptxas info    : Compiling entry function 'sum' for 'sm_90'
ptxas info    : Function properties for sum
    64 bytes stack frame, 32 bytes spill stores, 128 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 64 bytes cumulative stack size, 48 bytes smem
ptxas info    : Compiling entry function 'fill' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers
";
        let kernel = |name: &str, registers, shared, stack, spills| Kernel {
            name: name.to_owned(),
            registers,
            shared,
            stack,
            spills,
        };
        let expected = [kernel("sum", 128, 48, 64, 32), kernel("fill", 8, 0, 0, 0)];
        assert_eq!(read_assembler_log(log), expected);
    }
}

//! Project chores that are no part of the tool:
//! `cargo xtask check · golden · gguf · sanitize · kernels · bench`.
//!
//! Each chore prints what it runs, so that it can be repeated by hand.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a chore talks to the terminal")]

mod bench;
mod dependencies;
mod kernels;
mod sanitize;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  check                 formatting, lints, docs, dependency directions, licences, duplicates
  golden --python PATH  make the golden values again with the real peers and compare
  gguf --python PATH    the last part of golden: GGUF files against llama.cpp, where it is installed
  sanitize              the kernels' tests under AddressSanitizer (about ten minutes on 2 cores)
  kernels               compile the CUDA sources to cubins with the toolchain from PyPI, in an
                        environment under target/ (or that of --python PATH), then as --on-host
  kernels --on-host     run the CUDA sources on the host against their scalar twins
  bench                 kernels and training steps on this machine, recorded under benches/
  bench train --peers DIR [--python PATH] [--rounds N] [--only NAME] [--dtype f32|bf16]
              [--threads N] [--isa NAME] [--recorded-peaks F32,BF16] [--json] [--save]
                        training steps and forward passes beside PyTorch as installed and as tuned;
                        DIR holds torch_train.py and mkl_avx512_on_amd.c; --save records
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["check"] => check(),
        ["golden", "--python", python] => golden(python),
        ["gguf", "--python", python] => gguf(python),
        ["sanitize"] => sanitize::sanitize(),
        ["kernels"] => kernels::compile(None),
        ["kernels", "--python", python] => kernels::compile(Some(python)),
        ["kernels", "--on-host"] => kernels::on_host(),
        ["bench"] => bench::kernels(),
        ["bench", "train", rest @ ..] => {
            bench::TrainOptions::parse(rest).and_then(|options| bench::train(&options))
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

fn cargo(arguments: &[&str]) -> Result<()> {
    run(Command::new(env!("CARGO")).args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    eprintln!("$ {line}");
    let status =
        command.current_dir(root()).status().with_context(|| format!("cannot start: {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

fn check() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    let mut doc = Command::new(env!("CARGO"));
    doc.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    run(&mut doc)?;
    dependencies::check(&root())?;
    kernels::check_lock()?;
    kernels::on_host()?;
    eprintln!("check: all good");
    Ok(())
}

/// Makes the golden values again with the real peers (PyTorch, transformers, peft, tokenizers, gguf in
/// the environment of `python`), fails if they differ from the committed ones, and holds exported
/// models against the ecosystem.
fn golden(python: &str) -> Result<()> {
    for script in [
        "reference/quantised_golden.py",
        "reference/engine_golden.py",
        "reference/variants_golden.py",
        "reference/engine_curve.py",
        "reference/sampling_golden.py",
        "reference/lora_golden.py",
        "reference/heads_golden.py",
    ] {
        run(Command::new(python).arg(script))?;
    }
    run(Command::new(python).args(["reference/model_families.py", "golden"]))?;
    let tokens = "crates/milpa-tokens/tests/it/golden";
    run(Command::new(python).args(["reference/chat_golden.py", "golden", tokens]))?;
    let golden = vec![
        "crates/milpa-kernels/tests/golden",
        "crates/milpa-tensor/tests/golden",
        "crates/milpa-model/tests/golden",
        tokens,
    ];
    match std::env::var("MILPA_DATA") {
        Ok(data) => {
            run(Command::new(python).args(["reference/tokenizer_golden.py", &data, tokens]))?;
            run(Command::new(python).args([
                "reference/pieces_golden.py",
                "golden",
                &data,
                tokens,
            ]))?;
        }
        Err(_) => {
            eprintln!("MILPA_DATA is not set: the tokenizers' golden values are not made again");
        }
    }
    run(Command::new("git").args(["diff", "--exit-code", "--stat", "--"]).args(golden))?;
    let exported = target("export_check");
    model_example("export_check", &[&exported])?;
    run(Command::new(python).args(["reference/model_export_check.py", &exported]))?;
    let families = target("families_check");
    run(Command::new(python).args(["reference/model_families.py", "make", &families]))?;
    model_example("families_check", &[&families])?;
    run(Command::new(python).args(["reference/model_families.py", "check", &families]))?;
    let heads = target("heads_check");
    let test = ["test", "--quiet", "-p", "milpa-model", "--test", "it", "heads"];
    run(Command::new(env!("CARGO")).args(test).env("MILPA_HEADS", &heads))?;
    run(Command::new(python).args(["reference/heads_golden.py", "check", &heads]))?;
    if run(Command::new(python).args(["-c", "import llama_cpp, gguf"])).is_ok() {
        return gguf(python);
    }
    eprintln!(
        "llama_cpp is not installed for {python}: GGUF files were not held against llama.cpp; \
         `pip install llama-cpp-python gguf`, then `cargo xtask gguf --python PATH`"
    );
    Ok(())
}

/// Holds GGUF files against llama.cpp, in both directions.
fn gguf(python: &str) -> Result<()> {
    let folder = &target("gguf_check");
    let script =
        |action| run(Command::new(python).args(["reference/gguf_check.py", action, folder]));
    model_example("gguf_check", &["write", folder])?;
    script("quantise")?;
    model_example("gguf_check", &["read", folder])?;
    script("check")
}

/// A folder for what a chore makes.
fn target(name: &str) -> String {
    root().join("target").join(name).to_string_lossy().into_owned()
}

/// Runs an example of `milpa-model`.
fn model_example(name: &str, rest: &[&str]) -> Result<()> {
    let arguments = ["run", "--release", "--quiet", "-p", "milpa-model", "--example", name, "--"];
    cargo(&[&arguments[..], rest].concat())
}

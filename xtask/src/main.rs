//! Project chores that are no part of the tool:
//! `cargo xtask check · golden · gguf · sanitize · fuzz · kernels · slurm · disk-full · giants ·
//! faults · sandbox-engines · bench`.
//!
//! Each chore prints what it runs, so that it can be repeated by hand.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a chore talks to the terminal")]

mod bench;
mod bench_corpus;
mod bench_mup;
mod bench_plan;
mod dependencies;
mod disk_full;
mod faults;
mod forgetting;
mod fuzz;
mod giants;
mod golden;
mod kernels;
mod sandbox_engines;
mod sanitize;
mod slurm;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  check                 formatting, lints, docs, dependency directions, licences, duplicates
  golden                make the golden values again with the real peers, run all checks against
                        them, and print what each compared; in an environment under target/ (or
                        that of --python PATH) with the packages of reference/requirements.txt
  gguf                  a part of golden: GGUF files against llama.cpp
  golden lm-eval --check [--python PATH] [--model DIR]...
                        a part of golden: tasks against lm-evaluation-harness, with a random model and
                        those given
  sanitize              the kernels' tests under AddressSanitizer (about ten minutes on 2 cores)
  fuzz warc|arc|html|charset|pdf --minutes N [--data DIR] [--seed N] [--save]
                        broken inputs for a reader, mutated in process from built-in seeds and the
                        files of DIR (the shared data); --save records the result under benches/
  kernels               compile the CUDA sources to cubins with the toolchain from PyPI, in an
                        environment under target/ (or that of --python PATH), then as --on-host
  kernels --on-host     run the CUDA sources on the host against their scalar twins
  slurm DIR             a corpus of the texts in DIR as a Slurm array on this machine, one task killed and
                        requeued, against one process (needs root and Debian's Slurm packages)
  disk-full DIR         a corpus of the texts in DIR on a small disk that grows after each failure, against
                        one on a large disk (needs root, or unshare --map-root-user --mount); recorded
  giants                documents of 1 GB in all formats, and a gzip bomb: what is read of them, and
                        the memory it takes; needs 3 GB of disk; recorded
  faults train [--kills N] [--save]
                        training that is killed, stopped, hung, whose disk fills or is lost, whose checkpoints
                        are damaged and whose clock jumps: it must end in the same bytes; --save records
  experiments forgetting --data DIR --out DIR [--seeds 1,2,3] [--jobs N] [--table] [--save]
                        recipes/continued: a base, and what it forgets without replay, with it, and under a
                        limit; hours, and it goes on where it was cut; --save records table and plot
  sandbox-engines       the engines of milpa-sandbox against the npm packages that they come from
  bench                 kernels and training steps on this machine, recorded under benches/
  bench profile         where the time of training steps and forward passes goes, by kernel; recorded
  bench train --peers DIR [--python PATH] [--rounds N] [--only NAME] [--dtype f32|bf16]
              [--threads N] [--isa NAME] [--recorded-peaks F32,BF16] [--json] [--save]
                        training steps and forward passes beside PyTorch as installed and as tuned;
                        DIR holds torch_train.py and mkl_avx512_on_amd.c; --save records
  bench corpus --data DIR [--python PATH] [--rounds N] [--only STAGE] [--json] [--save]
                        stages of the corpus beside the Python peers (datatrove), on one core
  bench mup --data DIR [--save]
                        how far a learning rate carries over widths, with µP and without: trainings on
                        novels of DIR (the shared data), a quarter of an hour; --save records
  bench plan-coverage   how often 95 % intervals of scaling laws hold the truth; recorded
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["check"] => check(),
        ["golden"] => golden::golden(None),
        ["golden", "lm-eval", "--check", rest @ ..] => golden::lm_eval(rest),
        ["golden", "--python", python] => golden::golden(Some(python)),
        ["gguf"] => golden::gguf(None),
        ["gguf", "--python", python] => golden::gguf(Some(python)),
        ["sanitize"] => sanitize::sanitize(),
        ["fuzz", target, rest @ ..] => fuzz::fuzz(target, rest),
        ["kernels"] => kernels::compile(None),
        ["kernels", "--python", python] => kernels::compile(Some(python)),
        ["kernels", "--on-host"] => kernels::on_host(),
        ["slurm", data] => slurm::slurm(Path::new(data)),
        ["disk-full", data] => disk_full::disk_full(Path::new(data)),
        ["giants"] => giants::giants(),
        ["faults", "train", rest @ ..] => {
            faults::parse(rest).and_then(|(kills, save)| faults::train(kills, save))
        }
        ["experiments", "forgetting", rest @ ..] => forgetting::parse(rest),
        ["sandbox-engines"] => sandbox_engines::compare(),
        ["bench"] => bench::kernels(),
        ["bench", "profile"] => bench::profile(),
        ["bench", "train", rest @ ..] => {
            bench::TrainOptions::parse(rest).and_then(|options| bench::train(&options))
        }
        ["bench", "mup", rest @ ..] => {
            bench_mup::MupOptions::parse(rest).and_then(|options| bench_mup::mup(&options))
        }
        ["bench", "plan-coverage"] => bench_plan::coverage(),
        ["bench", "corpus", rest @ ..] => bench_corpus::CorpusOptions::parse(rest)
            .and_then(|options| bench_corpus::corpus(&options)),
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

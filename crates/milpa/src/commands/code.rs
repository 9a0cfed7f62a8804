//! `milpa eval code`: programs in responses, tried in a sandbox.

use std::{fs, thread};

use anyhow::{Context as _, Result};
use milpa_base::artifact::write_file_atomic;
use milpa_eval::verify::code::{Block, read_code_responses, read_problems, score_code};

use crate::{
    cli::{BlockArgument, CodeArguments},
    context::Context,
};

/// Tries the programs and writes or shows the report.
pub fn run(context: &Context, arguments: &CodeArguments) -> Result<()> {
    let problems = read_problems(&arguments.data)?;
    let responses = read_code_responses(&arguments.responses)?;
    let block = match arguments.block {
        BlockArgument::Last => Block::Last,
        BlockArgument::First => Block::First,
        BlockArgument::All => Block::All,
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (mut report, logs) = score_code(&problems, &responses, block, &arguments.k, threads)?;
    report.command_line = context.command_line();
    for k in &arguments.k {
        if !report.pass_at_k.iter().any(|score| score.k == *k) {
            context.progress.say(&format!("no problem has {k} responses, so there is no pass@{k}"));
        }
    }
    if let Some(out) = &arguments.out {
        fs::create_dir_all(out)
            .with_context(|| format!("cannot make the folder {}", out.display()))?;
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        write_file_atomic(&out.join("report.json"), json.as_bytes())?;
        let mut lines = Vec::new();
        for log in &logs {
            serde_json::to_writer(&mut lines, log)?;
            lines.push(b'\n');
        }
        write_file_atomic(&out.join("responses.jsonl"), &lines)?;
    }
    context.show(&report, || report.to_string())
}

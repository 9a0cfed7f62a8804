//! `milpa eval instructions`: responses, given or asked for now, held against their instructions.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use milpa_base::artifact::write_file_atomic;
use milpa_eval::{
    Watch,
    harness::{ask::Answers, requests::ChatRenderer},
    instructions::{self, InstructionLog, PromptSet},
};
use milpa_tokens::Message;

use crate::{
    cli::InstructionArguments,
    commands::{
        harness::ENDPOINT_FILE,
        model::{ModelFlags, OpenedModel},
    },
    context::Context,
};

/// Scores responses and writes or shows the report.
pub fn run(context: &Context, arguments: &InstructionArguments) -> Result<()> {
    let set = instructions::read_prompts(&arguments.data, arguments.limit)?;
    if let Some(out) = &arguments.out {
        fs::create_dir_all(out)
            .with_context(|| format!("cannot make the folder {}", out.display()))?;
    }
    let (mut report, logs) = match &arguments.responses {
        Some(path) => {
            let given = instructions::read_responses(path)?;
            let found: Vec<_> = set.prompts.iter().map(|prompt| given.to(prompt)).collect();
            let (mut report, logs) = instructions::score(&set, &found)?;
            report.responses_hash = Some(given.data_hash);
            if given.skips.total() > 0 {
                context.progress.say(&format!("left out of the responses: {}", given.skips));
            }
            (report, logs)
        }
        None => respond(context, arguments, &set)?,
    };
    report.command_line = context.command_line();
    if let Some(out) = &arguments.out {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        write_file_atomic(&out.join("report.json"), json.as_bytes())?;
        write_file_atomic(&out.join("report.md"), report.to_markdown().as_bytes())?;
        let mut lines = Vec::new();
        for log in &logs {
            serde_json::to_writer(&mut lines, log)?;
            lines.push(b'\n');
        }
        write_file_atomic(&out.join("responses.jsonl"), &lines)?;
    }
    context.show(&report, || report.to_string())
}

/// Lets the model respond, and scores.
fn respond(
    context: &Context,
    arguments: &InstructionArguments,
    set: &PromptSet,
) -> Result<(instructions::InstructionReport, Vec<InstructionLog>)> {
    let out = arguments.out.as_deref().context("name --responses, or a model with --out")?;
    let flags = ModelFlags {
        model: arguments.model.as_deref(),
        adapter: arguments.adapter.as_deref(),
        endpoint: &arguments.endpoint,
        answers: &out.join(ENDPOINT_FILE),
    };
    let opened = OpenedModel::open(context, flags)?;
    opened.told(context, respond_with(context, arguments, set, &opened, out))
}

/// Asks the model that was opened.
fn respond_with(
    context: &Context,
    arguments: &InstructionArguments,
    set: &PromptSet,
    opened: &OpenedModel,
    out: &Path,
) -> Result<(instructions::InstructionReport, Vec<InstructionLog>)> {
    let (model, converses) = (opened.model(), opened.converses());
    let render = |messages: &[Message], begin_answer| opened.render(messages, begin_answer);
    let render: &ChatRenderer<'_> = &render;
    let chat = converses.then_some(render);
    let mut answers = Answers::open(&out.join("answers.jsonl"))?;
    let watch = Watch { progress: &context.progress, stop: &context.stop };
    let (texts, cut) =
        instructions::ask(set, model, chat, arguments.max_tokens, &mut answers, watch)?;
    let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
    let (mut report, logs) = instructions::score(set, &texts)?;
    report.model = Some(model.info().clone());
    report.endpoint = model.endpoint();
    report.chat_template = converses;
    if cut > 0 {
        let most = arguments.max_tokens;
        context.progress.say(&format!("{cut} responses were cut at {most} tokens (--max-tokens)"));
    }
    Ok((report, logs))
}

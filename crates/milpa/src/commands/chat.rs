//! `milpa chat`: a conversation in the terminal.

use std::{
    io::{BufRead, IsTerminal, Write},
    ops::ControlFlow,
    path::Path,
    time::Instant,
};

use anyhow::{Result, bail};
use milpa_base::{FinishReason, GenerateRequest, Sampling, TextModel};
use milpa_model::{Device, LocalModel};
use milpa_tokens::{ChatTemplate, Message, RenderOptions};

use crate::{cli::SamplingArgs, context::Context};

/// A model as the command line names it.
#[derive(Debug, Clone, Copy)]
pub struct ModelPaths<'a> {
    /// A bundle, a checkpoint, a GGUF file or an adapter.
    pub model: &'a Path,
    /// The adapter to open with it.
    pub adapter: Option<&'a Path>,
}

/// Opens a bundle, a checkpoint or a GGUF file, with an adapter if one is named.
pub fn open(context: &Context, paths: ModelPaths<'_>) -> Result<LocalModel> {
    let path = paths.model;
    if !path.exists() {
        bail!(
            "{} does not exist; give a bundle such as runs/novelas/bundle, a checkpoint or a .gguf file",
            path.display()
        );
    }
    let device = Device::cpu(context.threads);
    let mut model = match paths.adapter {
        Some(adapter) => LocalModel::open_with_adapter(path, adapter, &device)?,
        None => LocalModel::open_on(path, &device)?,
    };
    // A bundle knows its name; its folder is called "bundle" in every run.
    if let Some(mut name) = milpa_package::bundle_name(path) {
        if let Some((_, adapter)) =
            model.info().name.rsplit_once('+').filter(|_| paths.adapter.is_some())
        {
            name = format!("{name}+{adapter}");
        }
        model.rename(&name);
    }
    Ok(model)
}

/// Talks in the terminal, or answers one prompt.
pub fn chat(
    context: &Context,
    paths: ModelPaths<'_>,
    prompt: Option<&str>,
    sampling: &SamplingArgs,
) -> Result<()> {
    if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
        bail!("--temperature is {}; it is a number from 0 up", sampling.temperature);
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        bail!("--top-p is {}; it is above 0 and at most 1", sampling.top_p);
    }
    let model = open(context, paths)?;
    let template = model.chat_template().cloned().unwrap_or_else(ChatTemplate::continuation);
    let continues = template == ChatTemplate::continuation();
    if let Some(prompt) = prompt {
        let mut messages = vec![message("user", prompt)];
        return reply(context, &model, &template, &mut messages, sampling);
    }
    context.progress.say(&format!(
        "{} ({} tokens of context). {}An empty line ends.",
        model.info().name,
        model.info().context_length,
        if continues {
            "It continues the text you begin; it has not learnt to answer. "
        } else {
            ""
        }
    ));
    let mut messages = Vec::new();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if std::io::stdin().is_terminal() {
            eprint!("> ");
        }
        let Some(line) = lines.next().transpose()? else { break };
        if line.trim().is_empty() || context.stop.is_set() {
            break;
        }
        // A model that only continues text begins afresh with each line.
        if continues {
            messages.clear();
        }
        messages.push(message("user", &line));
        reply(context, &model, &template, &mut messages, sampling)?;
    }
    Ok(())
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

/// Streams the answer to stdout and adds it to the conversation.
fn reply(
    context: &Context,
    model: &LocalModel,
    template: &ChatTemplate,
    messages: &mut Vec<Message>,
    sampling: &SamplingArgs,
) -> Result<()> {
    let continues = *template == ChatTemplate::continuation();
    let rendered = template.render(messages, &RenderOptions::for_reply(model.tokenizer()))?;
    // What is continued is shown first, so that the whole reads as one text.
    let shown = if continues { messages.last().map(|last| last.content.clone()) } else { None };
    let prompt = shown.clone().unwrap_or(rendered);
    let request = GenerateRequest {
        prompt,
        parse_special: !continues,
        truncate_prompt: false,
        max_tokens: sampling.max_tokens,
        sampling: Sampling {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            seed: sampling.seed,
            ..Sampling::default()
        },
        stop: Vec::new(),
        logprobs: None,
    };
    let started = Instant::now();
    let mut stdout = std::io::stdout().lock();
    let stream = !context.json;
    if let (true, Some(shown)) = (stream, &shown) {
        write!(stdout, "{shown}")?;
    }
    let mut failed = None;
    let generation = model.generate(&request, &mut |piece| {
        let written = if stream {
            write!(stdout, "{}", piece.text).and_then(|()| stdout.flush())
        } else {
            Ok(())
        };
        if let Err(error) = written {
            failed = Some(error);
        }
        if failed.is_some() || context.stop.is_set() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if stream {
        writeln!(stdout)?;
        let seconds = started.elapsed().as_secs_f64();
        context.progress.say(&format!(
            "[{} tokens, {:.0} tokens/s{}]",
            generation.completion_tokens,
            generation.completion_tokens as f64 / seconds.max(1e-9),
            match generation.finish_reason {
                FinishReason::Length => ", cut at --max-tokens",
                FinishReason::Cancelled => ", stopped",
                FinishReason::Stop => "",
            }
        ));
    } else {
        serde_json::to_writer(
            &mut stdout,
            &serde_json::json!({
                "prompt": request.prompt, "text": generation.text,
                "finish_reason": generation.finish_reason,
                "prompt_tokens": generation.prompt_tokens,
                "completion_tokens": generation.completion_tokens,
                "model": model.info(),
            }),
        )?;
        writeln!(stdout)?;
    }
    messages.push(message("assistant", &generation.text));
    Ok(())
}

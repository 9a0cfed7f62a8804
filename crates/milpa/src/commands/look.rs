//! `milpa eval look`: a page with answers of models, side by side.

use anyhow::Result;
use milpa_base::artifact::write_file_atomic;
use milpa_eval::{
    Watch,
    harness::requests::ChatRenderer,
    look::{Look, LookOptions, LookPrompts, Looked, look as answers},
};
use milpa_tokens::Message;

use crate::{
    cli::LookArguments,
    commands::{
        harness::ENDPOINT_FILE,
        model::{ModelFlags, OpenedModel},
    },
    context::Context,
};

/// Has models answer prompts and writes the page.
pub fn look(context: &Context, arguments: &LookArguments) -> Result<()> {
    let prompts = match &arguments.prompts {
        Some(path) => LookPrompts::load(path)?,
        None => LookPrompts::builtin(),
    };
    let answers = arguments.out.with_extension(ENDPOINT_FILE);
    let flags = ModelFlags {
        model: arguments.model.as_deref(),
        adapter: None,
        endpoint: &arguments.endpoint,
        answers: &answers,
    };
    let mut models = vec![OpenedModel::open(context, flags)?];
    for path in &arguments.beside {
        let mut model = OpenedModel::here(context, path, None)?;
        // Two checkpoints of one run have one name: where they are tells them apart.
        model.rename(&path.display().to_string());
        models.push(model);
    }
    if let (false, Some(place)) = (arguments.beside.is_empty(), place(arguments)) {
        models[0].rename(&place);
    }
    let look = models[0].told(context, ask(context, arguments, &prompts, &models))?;
    write_file_atomic(&arguments.out, look.to_html().as_bytes())?;
    context.show(&look, || {
        let mut text = format!("{} prompts, {} models\n", look.answers.len(), look.models.len());
        for (model, (unended, all)) in look.models.iter().zip(look.unended()) {
            text +=
                &format!("{}: {unended} of {all} answers did not end by themselves\n", model.name);
        }
        format!("{text}page {}", arguments.out.display())
    })
}

/// Where the first model is.
fn place(arguments: &LookArguments) -> Option<String> {
    let name = arguments.model.as_deref().map(|model| model.display().to_string());
    match (&arguments.endpoint.endpoint, name) {
        (Some(url), Some(name)) => Some(format!("{name} at {url}")),
        (Some(url), None) => Some(url.clone()),
        (None, name) => name,
    }
}

/// Has all models answer.
fn ask(
    context: &Context,
    arguments: &LookArguments,
    prompts: &LookPrompts,
    models: &[OpenedModel],
) -> Result<Look> {
    let renderers: Vec<_> = models
        .iter()
        .map(|model| move |messages: &[Message], begin_answer| model.render(messages, begin_answer))
        .collect();
    let looked: Vec<Looked<'_>> = models
        .iter()
        .zip(&renderers)
        .map(|(model, render)| {
            let render: &ChatRenderer<'_> = render;
            Looked { model: model.model(), chat: model.converses().then_some(render) }
        })
        .collect();
    let options = LookOptions {
        max_tokens: arguments.max_tokens as usize,
        temperature: arguments.temperature,
        seed: arguments.seed,
    };
    let watch = Watch { progress: &context.progress, stop: &context.stop };
    Ok(answers(&looked, prompts, options, &context.command_line(), watch)?)
}

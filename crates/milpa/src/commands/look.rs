//! `milpa eval look`: a page with answers of models, side by side.

use anyhow::Result;
use milpa_base::artifact::write_file_atomic;
use milpa_eval::{
    Watch,
    harness::requests::ChatRenderer,
    look::{LookOptions, LookPrompts, Looked, look as answers},
};

use crate::{
    cli::LookArguments,
    commands::{
        chat::{self, ModelPaths},
        harness::renderer,
    },
    context::Context,
};

/// Has models answer prompts and writes the page.
pub fn look(context: &Context, arguments: &LookArguments) -> Result<()> {
    let prompts = match &arguments.prompts {
        Some(path) => LookPrompts::load(path)?,
        None => LookPrompts::builtin(),
    };
    let paths = std::iter::once(&arguments.model).chain(&arguments.beside);
    let models = paths
        .map(|model| {
            let mut opened = chat::open(context, ModelPaths { model, adapter: None })?;
            // Two checkpoints of one run have one name: the path tells them apart.
            if !arguments.beside.is_empty() {
                opened.rename(&model.display().to_string());
            }
            Ok(opened)
        })
        .collect::<Result<Vec<_>>>()?;
    let renderers: Vec<_> = models.iter().map(renderer).collect();
    let looked: Vec<Looked<'_>> = models
        .iter()
        .zip(&renderers)
        .map(|(model, render)| {
            let render: &ChatRenderer<'_> = render;
            Looked { model, chat: model.chat_template().is_some().then_some(render) }
        })
        .collect();
    let options = LookOptions {
        max_tokens: arguments.max_tokens as usize,
        temperature: arguments.temperature,
        seed: arguments.seed,
    };
    let watch = Watch { progress: &context.progress, stop: &context.stop };
    let look = answers(&looked, &prompts, options, &context.command_line(), watch)?;
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

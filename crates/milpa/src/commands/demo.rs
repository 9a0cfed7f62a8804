//! `milpa demo`: the whole way on an embedded sample, offline, in under two minutes.
//!
//! It writes the sample and a recipe to a folder and runs that recipe as `milpa run` would; each
//! step shows the command that does the same by hand.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result};
use milpa_base::write_file_atomic;

use crate::{
    cli::{Onward, SamplingArgs},
    commands::{
        chat::{self, ModelPaths},
        eval,
        train::Conditions,
    },
    context::{Context, quote},
    progress::short,
    run,
};

/// Files that the demo unpacks: name and content.
const SAMPLE: [(&str, &[u8]); 4] = [
    ("recipe.toml", include_bytes!("../../demo/recipe.toml")),
    ("sample.warc.gz", include_bytes!("../../demo/sample.warc.gz")),
    ("questions.jsonl", include_bytes!("../../demo/questions.jsonl")),
    ("entities.jsonl", include_bytes!("../../demo/entities.jsonl")),
];
/// Beginnings that the new model continues.
const PROMPTS: [&str; 3] = ["El río Amazonas", "A mandioca é uma planta", "Los volcanes"];

/// Grows the first model.
pub fn demo(context: &Context, out: &Path) -> Result<()> {
    let started = Instant::now();
    for (name, bytes) in SAMPLE {
        write_file_atomic(&out.join(name), bytes)?;
    }
    context.progress.say(&format!(
        "The sample (69 web pages in Spanish, Portuguese, Quechua and Guaraní) and its recipe are in {}.",
        out.display()
    ));
    let recipe = context.recipe(&out.into())?;
    // A sample of another version is trained on anew: there is nothing to lose.
    let onward = Onward { anew: true, ..Onward::default() };
    let conditions = Conditions { onward, ..Conditions::default() };
    let folders = run::run(context, &recipe, &out.join("run"), &conditions)?;
    let bundle = folders.bundle();
    if !context.json {
        for prompt in PROMPTS {
            let line = format!(
                "milpa chat {} --prompt {}",
                quote(&bundle.to_string_lossy()),
                quote(prompt)
            );
            context.progress.say(&format!("\n$ {line}"));
            let sampling = SamplingArgs { temperature: 0.7, top_p: 0.9, max_tokens: 40, seed: 1 };
            chat::chat(
                context,
                ModelPaths { model: &bundle, adapter: None },
                Some(prompt),
                &sampling,
            )?;
        }
        println!();
    }
    let report = eval::read_report(&folders.evaluation())?;
    let page = folders.report().canonicalize().context("the report was just written")?;
    context.show(&report, || {
        format!(
            "{}\ntime    {} in all\nreport  {}\nchat    milpa chat {bundle}\nserve   milpa serve {bundle}",
            report.to_string().trim_end(),
            short(started.elapsed()),
            page.display(),
            bundle = quote(&bundle.to_string_lossy()),
        )
    })
}

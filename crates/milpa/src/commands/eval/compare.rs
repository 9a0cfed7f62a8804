//! `milpa eval compare`: the ledger of a base model and its checkpoints.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use milpa_base::{Seed, write_file_atomic};
use milpa_eval::{
    divergence::{Divergence, divergence},
    ledger::{Domains, Entry, ledger},
    multiple_choice::Resampling,
};

use crate::{
    cli::CompareArguments,
    commands::{
        harness::ENDPOINT_FILE,
        model::{ModelFlags, OpenedModel},
    },
    context::Context,
};

/// Holds the checkpoints' reports against the base's.
pub fn compare(context: &Context, arguments: &CompareArguments) -> Result<()> {
    let base = Entry::read(&arguments.base)?;
    let checkpoints =
        arguments.checkpoints.iter().map(|dir| Entry::read(dir)).collect::<Result<Vec<_>, _>>()?;
    let domains =
        Domains { general: arguments.general.clone(), regional: arguments.regional.clone() };
    let resampling =
        Resampling { replicates: arguments.bootstrap as usize, seed: Seed(arguments.seed) };
    let divergences = if let Some(texts) = &arguments.kl_texts {
        divergences(context, arguments, texts, resampling)?
    } else {
        let reason = "give --models and --kl-texts to measure it".to_owned();
        vec![Divergence::Unavailable { reason }; checkpoints.len()]
    };
    let ledger = ledger(&base, &checkpoints, divergences, &domains, resampling)?;
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let write = |name: &str, text: String| write_file_atomic(&out.join(name), text.as_bytes());
        write("ledger.json", serde_json::to_string_pretty(&ledger)?)?;
        write("ledger.txt", ledger.to_string())?;
        write("ledger.svg", ledger.plot().to_svg())?;
    }
    context.show(&ledger, || ledger.to_string())
}

/// KL(base ‖ model) of every checkpoint on the first texts of a file.
fn divergences(
    context: &Context,
    arguments: &CompareArguments,
    texts: &Path,
    resampling: Resampling,
) -> Result<Vec<Divergence>> {
    ensure!(
        arguments.models.len() == arguments.checkpoints.len() + 1,
        "--models names {} models; it takes the base and {} checkpoints, in the order of the reports",
        arguments.models.len(),
        arguments.checkpoints.len()
    );
    let texts = milpa_eval::read_jsonl_texts(texts, "text")?
        .take(arguments.kl_limit)
        .map(|record| record.map(|record| record.text))
        .collect::<Result<Vec<String>, _>>()?;
    let answers = arguments.out.as_deref().unwrap_or(Path::new("")).join(ENDPOINT_FILE);
    let open = |model: &PathBuf| {
        if model.exists() || arguments.endpoint.endpoint.is_none() {
            return OpenedModel::here(context, model, None);
        }
        let (model, endpoint) = (Some(model.as_path()), &arguments.endpoint);
        OpenedModel::open(context, ModelFlags { model, adapter: None, endpoint, answers: &answers })
    };
    let base = open(&arguments.models[0])?;
    arguments.models[1..]
        .iter()
        .map(|model| {
            let model = open(model)?;
            let (base, model) = (base.model(), model.model());
            Ok(divergence(base, model, &texts, resampling, super::watch(context))?)
        })
        .collect()
}

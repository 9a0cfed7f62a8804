//! `milpa eval arena`: votes to ratings.

use anyhow::{Context as _, Result};
use milpa_base::{Seed, write_file_atomic};
use milpa_eval::arena::{ArenaConfig, HygieneConfig, VoteFields, rate, read_votes};

use crate::{cli::ArenaArguments, context::Context};

/// Rates the models of a file of votes.
pub fn arena(context: &Context, arguments: &ArenaArguments) -> Result<()> {
    let answers = arguments.style_of.as_ref().and_then(|fields| match &fields[..] {
        [a, b] => Some([a.clone(), b.clone()]),
        _ => None,
    });
    let config = ArenaConfig {
        fields: VoteFields {
            model_a: arguments.model_a.clone(),
            model_b: arguments.model_b.clone(),
            winner: arguments.winner.clone(),
            user: arguments.user.clone(),
            time: arguments.time.clone(),
            categories: arguments.category.clone(),
            style: arguments.style.clone(),
            answers,
        },
        hygiene: HygieneConfig {
            votes_per_user: arguments.votes_per_user,
            drop_outliers: arguments.drop_outliers,
            ..HygieneConfig::default()
        },
        replicates: arguments.bootstrap as usize,
        reweight_pairs: arguments.reweight_pairs,
        style_ridge: arguments.style_ridge,
        seed: Seed(arguments.seed),
        ..ArenaConfig::default()
    };
    let votes = read_votes(&arguments.votes, &config.fields)?;
    let report = rate(&votes, &config, context.threads, super::watch(context))?;
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let write = |name: &str, text: String| write_file_atomic(&out.join(name), text.as_bytes());
        write("arena.json", serde_json::to_string_pretty(&report)?)?;
        write("arena.txt", report.to_string())?;
        write("arena.svg", report.board.plot("Arena ratings").to_svg())?;
    }
    context.show(&report, || report.to_string())
}

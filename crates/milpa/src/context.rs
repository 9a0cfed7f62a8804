//! What every command needs: threads, progress, the stop flag, and where output goes.

use std::{io::Write, path::Path};

use anyhow::Result;
use milpa_base::{Manifest, Seed, StopFlag, units::binary_bytes};
use serde::Serialize;

use crate::{
    cli::Global,
    cli::RecipeArgument,
    progress::Terminal,
    recipe::{self, CorpusRecipe, Loaded, Paths},
};

/// What every command needs.
pub struct Context {
    /// Threads to use.
    pub threads: usize,
    /// Whether results go to stdout as JSON.
    pub json: bool,
    /// Progress on stderr.
    pub progress: Terminal,
    /// Set by Ctrl-C and by a termination signal.
    pub stop: StopFlag,
}

impl Context {
    /// Takes the global flags and begins to listen for Ctrl-C.
    pub fn new(global: &Global) -> Self {
        let stop = StopFlag::default();
        let flag = stop.clone();
        let progress = Terminal::new(global.quiet);
        let terminal = progress.clone();
        let listening = ctrlc::set_handler(move || {
            if flag.is_set() {
                // The second one does not wait for a safe point; artifacts are whole or absent.
                std::process::exit(i32::from(crate::EXIT_INTERRUPTED));
            }
            terminal.alert("\nstopping at the next safe point (Ctrl-C again to quit at once)");
            flag.stop();
        });
        if let Err(error) = listening {
            eprintln!("warning: Ctrl-C will not be handled: {error}");
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            threads: global.threads.map_or(cores, usize::from),
            json: global.json,
            progress,
            stop,
        }
    }

    /// Loads a recipe whose files will be read; variables in paths come from the environment.
    pub fn recipe(&self, recipe: &RecipeArgument) -> Result<Loaded> {
        self.load(recipe, Paths::Needed)
    }

    /// Loads what a recipe says of its corpus.
    #[expect(
        clippy::unused_self,
        reason = "the context stands for the process and its environment"
    )]
    pub fn corpus_recipe(&self, recipe: &RecipeArgument) -> Result<CorpusRecipe> {
        let mut loaded = recipe::load_corpus(&recipe.recipe, &|name| std::env::var(name).ok())?;
        loaded.seed = recipe.recipe_seed.map_or(loaded.seed, Seed);
        Ok(loaded)
    }

    /// Loads a recipe for a stage that reads artifacts only.
    pub fn recipe_of_artifacts(&self, recipe: &RecipeArgument) -> Result<Loaded> {
        self.load(recipe, Paths::Unused)
    }

    #[expect(
        clippy::unused_self,
        reason = "the context stands for the process and its environment"
    )]
    fn load(&self, recipe: &RecipeArgument, paths: Paths) -> Result<Loaded> {
        let mut loaded = recipe::load(&recipe.recipe, paths, &|name| std::env::var(name).ok())?;
        loaded.seed_given = recipe.recipe_seed;
        loaded.recipe.seed = recipe.recipe_seed.map_or(loaded.recipe.seed, Seed);
        Ok(loaded)
    }

    /// Prints a result: as JSON on request, else as text for people.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut stdout, value)?;
            writeln!(stdout)?;
        } else {
            writeln!(stdout, "{}", text().trim_end())?;
        }
        Ok(())
    }

    /// The command line as it was given.
    #[expect(clippy::unused_self, reason = "callers ask the context, not the process")]
    pub fn command_line(&self) -> String {
        let words = std::env::args().skip(1).map(|word| quote(&word));
        std::iter::once("milpa".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Fails if a stop was asked for.
    pub fn check_stop(&self) -> Result<()> {
        anyhow::ensure!(!self.stop.is_set(), "interrupted");
        Ok(())
    }
}

/// Quotes a word for a POSIX shell where it needs it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// One line about an artifact.
pub fn describe(manifest: &Manifest, dir: &Path) -> String {
    let counts: Vec<String> =
        manifest.counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    format!(
        "{} in {} ({}; {})",
        manifest.kind,
        dir.display(),
        counts.join(", "),
        binary_bytes(manifest.total_bytes())
    )
}

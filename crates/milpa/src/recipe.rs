//! A recipe: one TOML file that says everything a run depends on.
//!
//! Each table's type lives in the crate of its stage; here they are read together, checked, and
//! their paths resolved. Errors name the line and the next step.

use std::path::{Path, PathBuf};

use anyhow::Result;
use milpa_base::{Seed, config, load_toml};
use milpa_corpus::CorpusConfig;
use milpa_eval::EvalConfig;
use milpa_model::ModelConfig;
use milpa_package::PackageConfig;
use milpa_tokens::{TokenizerConfig, TokensConfig};
use milpa_train::TrainConfig;
use serde::{Deserialize, Serialize};

/// The file inside a recipe folder.
pub const RECIPE_FILE: &str = "recipe.toml";

/// All of a recipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run and of the model.
    pub name: String,
    /// Seed of everything that is drawn.
    pub seed: Seed,
    /// Sources, filters, deduplication and the split.
    pub corpus: CorpusConfig,
    /// The tokenizer.
    pub tokenizer: TokenizerConfig,
    /// Token shards.
    #[serde(default)]
    pub tokens: TokensConfig,
    /// The model's shape.
    pub model: ModelConfig,
    /// Steps, schedule, optimiser.
    pub train: TrainConfig,
    /// What is measured.
    pub eval: EvalConfig,
    /// The bundle.
    pub package: PackageConfig,
}

/// What a recipe says of its corpus, for the commands that need no more: a recipe whose other tables are
/// still to be written will do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusRecipe {
    /// Name of the run and of the model.
    pub name: String,
    /// Seed of everything that is drawn.
    pub seed: Seed,
    /// Sources, filters, deduplication and the split.
    pub corpus: CorpusConfig,
}

/// Tables that a recipe of a corpus alone lacks.
const LATER_TABLES: [&str; 6] = ["tokenizer", "tokens", "model", "train", "eval", "package"];

/// A recipe with where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says, with resolved paths.
    pub recipe: Recipe,
    /// The file.
    pub path: PathBuf,
    /// As given on the command line, to be shown in commands.
    pub given: PathBuf,
}

/// Whether a command reads the files that a recipe names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// It does: a variable without a value is an error.
    Needed,
    /// It works on artifacts only.
    Unused,
}

/// The file of a recipe that was given as a file or as its folder.
fn find(given: &Path) -> Result<PathBuf> {
    let path = if given.is_dir() { given.join(RECIPE_FILE) } else { given.to_owned() };
    if !path.exists() {
        anyhow::bail!(config::ConfigError::Io {
            path: path.clone(),
            source: std::io::Error::new(
                std::io::ErrorKind::NotFound,
                "it does not exist; give a folder that holds a recipe.toml, such as recipes/novelas",
            ),
        });
    }
    Ok(path)
}

/// Reads and checks what a recipe says of its corpus. One that has any table of a later stage is read whole.
pub fn load_corpus(
    given: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<CorpusRecipe> {
    let path = find(given)?;
    let text = std::fs::read_to_string(&path)?;
    let whole = toml::from_str::<toml::Table>(&text)
        .is_ok_and(|table| LATER_TABLES.iter().any(|later| table.contains_key(*later)));
    if whole {
        let Recipe { name, seed, corpus, .. } = load(given, Paths::Needed, variable)?.recipe;
        return Ok(CorpusRecipe { name, seed, corpus });
    }
    let mut recipe: CorpusRecipe = load_toml(&path)?;
    recipe.corpus.validate().map_err(|(key, message)| {
        config::invalid_value(&text, &path, &key, &format!("`{key}` cannot be right: {message}"))
    })?;
    for location in recipe.corpus.locations_mut() {
        location.resolve(path.parent().unwrap_or(Path::new("")), variable)?;
    }
    Ok(recipe)
}

/// Reads and checks a recipe; `${NAME}` in paths is taken from `variable`.
pub fn load(
    given: &Path,
    paths: Paths,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded> {
    let path = find(given)?;
    let mut recipe: Recipe = load_toml(&path)?;
    let text = std::fs::read_to_string(&path)?;
    let bad = |key: &str, message: &str| {
        config::invalid_value(&text, &path, key, &format!("`{key}` cannot be right: {message}"))
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if recipe.name.is_empty() || !recipe.name.chars().all(plain) || recipe.name.starts_with('.') {
        anyhow::bail!(bad("name", "use letters, digits, '-', '_' and '.' only"));
    }
    let table = |table: &'static str| {
        move |(key, message): (String, String)| {
            let prefix = format!("{table}.");
            let key = if key.starts_with(&prefix) { key } else { prefix + &key };
            bad(&key, &message)
        }
    };
    recipe.corpus.validate().map_err(table("corpus"))?;
    recipe.tokenizer.validate().map_err(table("tokenizer"))?;
    recipe.model.validate().map_err(table("model"))?;
    recipe.train.validate().map_err(|(key, message)| bad(key, &message))?;
    recipe.eval.validate().map_err(table("eval"))?;
    recipe.package.validate().map_err(table("package"))?;
    if recipe.train.sequence_length > recipe.model.context_length {
        let message = format!(
            "sequences of {} tokens do not fit model.context_length = {}",
            recipe.train.sequence_length, recipe.model.context_length
        );
        anyhow::bail!(bad("train.sequence_length", &message));
    }
    let names: Vec<&str> =
        recipe.corpus.sources.iter().map(|source| source.name.as_str()).collect();
    let whole_run = recipe.train.mixture.iter().flat_map(|mixture| mixture.0.keys());
    let whole_run = whole_run.map(|name| (name.as_str(), "train.mixture", String::new()));
    let in_stages = recipe.train.stage_sources().into_iter().map(|(name, stage)| match stage {
        None => (name, "train.replay", " and has no `tokens`".to_owned()),
        Some(stage) => (name, "train.stage", format!(" in the mixture of stage `{stage}`")),
    });
    if let Some((unknown, key, place)) =
        whole_run.chain(in_stages).find(|(name, ..)| !names.contains(name))
    {
        let near = config::nearest(unknown, &names).map_or_else(
            || format!("the sources are {}", names.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        anyhow::bail!(bad(key, &format!("no source is called `{unknown}`{place}; {near}")));
    }
    let base = path.parent().unwrap_or(Path::new(""));
    for location in recipe.locations() {
        if let Err(error) = location.resolve(base, variable)
            && paths == Paths::Needed
        {
            return Err(error.into());
        }
    }
    Ok(Loaded { recipe, path, given: given.to_owned() })
}

impl Recipe {
    /// Every path that the recipe names.
    fn locations(&mut self) -> impl Iterator<Item = &mut config::Location> {
        self.corpus
            .locations_mut()
            .chain(self.tokens.quality.iter_mut().map(|quality| &mut quality.model))
            .chain(self.train.replay.iter_mut().filter_map(|replay| replay.tokens.as_mut()))
            .chain(self.eval.locations_mut())
            .chain(self.package.locations_mut())
    }
}

impl Loaded {
    /// Paths that the recipe names and that are not there, as written and as resolved.
    pub fn missing_files(&self) -> Vec<(String, PathBuf)> {
        self.recipe
            .clone()
            .locations()
            .filter(|location| !location.path.exists())
            .map(|location| (location.written.clone(), location.path.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_training_shows_a_recipe_that_can_be_read() {
        let page = include_str!("../../../docs/training.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        let (recipe, _) = rest.split_once("```").unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("recipe.toml");
        let read = |recipe: &str| {
            std::fs::write(&path, recipe).unwrap();
            load(&path, Paths::Unused, &|_| None)
        };
        assert_eq!(read(recipe).unwrap().recipe.train.stages.len(), 3);
        let error = read(&recipe.replace("{ paginas =", "{ pagina =")).unwrap_err().to_string();
        assert!(
            error.contains("in the mixture of stage `all`; did you mean `paginas`?"),
            "{error}"
        );
        let replay = "[[train.replay]]\nname = \"general\"\nshare = 0.1\n[eval]";
        let error = read(&recipe.replacen("[eval]", replay, 1)).unwrap_err().to_string();
        assert!(error.contains("`general` and has no `tokens`"), "{error}");
        let error = read(&recipe.replace("40960 tokens", "409600 tokens")).unwrap_err().to_string();
        assert!(error.contains("`train.stage` cannot be right: the stages"), "{error}");
    }

    #[test]
    fn the_page_on_corpora_shows_a_recipe_that_can_be_read() {
        let page = include_str!("../../../docs/corpus.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        let (recipe, _) = rest.split_once("```").unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("recipe.toml");
        std::fs::write(&path, recipe).unwrap();
        let loaded = load_corpus(&path, &|name| Some(format!("/{name}"))).unwrap();
        assert_eq!(loaded.corpus.sources[0].path.path, Path::new("/CRAWL"));
        assert!(loaded.corpus.dedup.repeats.is_some() && loaded.corpus.perplexity.len() == 1);
    }
}

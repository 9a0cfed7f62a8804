//! A recipe: one TOML file that says everything a run depends on.
//!
//! Each table's type lives in the crate of its stage; here they are read together, checked, and
//! their paths resolved. Errors name the line and the next step.

use std::path::{Path, PathBuf};

use anyhow::Result;
use milpa_base::{Seed, config};
use milpa_corpus::CorpusConfig;
use milpa_eval::{EvalConfig, TaskEntry};
use milpa_model::{DecoderDescription, ModelConfig};
use milpa_package::PackageConfig;
use milpa_tokens::{SampleOrder, TokenizerConfig, TokensConfig};
use milpa_train::{BaseConfig, BaseModel, TrainConfig};
use serde::{Deserialize, Serialize};

use crate::{Refused, watch::WatchConfig};

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
    /// The model that training goes on from, in place of the tokenizer's and the model's tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseConfig>,
    /// The tokenizer; a base brings its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerConfig>,
    /// Token shards.
    #[serde(default)]
    pub tokens: TokensConfig,
    /// The model's shape; a base has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelConfig>,
    /// Steps, schedule, optimiser.
    pub train: TrainConfig,
    /// How training is watched: alarms, page, events. It changes nothing of what is made.
    #[serde(default)]
    pub watch: WatchConfig,
    /// What is measured.
    pub eval: EvalConfig,
    /// The bundle.
    pub package: PackageConfig,
}

/// What a recipe's model begins as.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// Random weights of this shape, behind a tokenizer that the run trains.
    New {
        /// `[tokenizer]`.
        tokenizer: &'a TokenizerConfig,
        /// `[model]`.
        model: &'a ModelConfig,
    },
    /// Another model, with its tokenizer.
    Base(&'a BaseConfig),
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
const LATER_TABLES: [&str; 7] =
    ["base", "tokenizer", "tokens", "model", "train", "eval", "package"];

/// A recipe with where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says, with resolved paths.
    pub recipe: Recipe,
    /// The file.
    pub path: PathBuf,
    /// As given on the command line, to be shown in commands.
    pub given: PathBuf,
    /// The seed of the command line, if there was one.
    pub seed_given: Option<u64>,
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

/// Key that names the recipe that another one changes.
const EXTENDS: &str = "extends";
/// Longest chain of recipes.
const MAX_CHAIN: usize = 4;

/// The text of a recipe, with what it takes from the one that it extends: tables are merged key by key,
/// everything else is replaced, and so is a table of another `kind`. With it comes what errors name: lines
/// of a merged text are in neither file.
fn read_text(path: &Path, depth: usize) -> Result<(String, PathBuf)> {
    let text = config::read_config(path)?;
    let alone = |text: String| (text, path.to_owned());
    // What is no TOML is told by whoever parses the whole.
    let Ok(mut table) = text.parse::<toml::Table>() else { return Ok(alone(text)) };
    let Some(parent) = table.remove(EXTENDS) else { return Ok(alone(text)) };
    let bad = |message: &str| {
        let message = format!("`{EXTENDS}` cannot be right: {message}");
        config::invalid_value(&text, path, EXTENDS, &message)
    };
    let name = parent.as_str().map(Path::new).filter(|name| name.components().count() == 1);
    let Some(name) = name else {
        anyhow::bail!(bad("it names a file in the same folder, such as \"base.toml\""));
    };
    anyhow::ensure!(depth < MAX_CHAIN, bad("the chain of recipes is longer than 4, or a circle"));
    let parent = path.with_file_name(name);
    let (below, shown) = read_text(&parent, depth + 1)?;
    let mut merged: toml::Table = config::parse_toml(&below, &shown)?;
    merge(&mut merged, table);
    let shown = format!("{}, merged with what it extends", path.display());
    Ok((toml::to_string(&merged)?, shown.into()))
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    // The keys of a schedule or an optimiser belong to its kind.
    let is_other = |below: &toml::Table, above: &toml::Table| {
        above.get("kind").is_some_and(|kind| below.get("kind") != Some(kind))
    };
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above))
                if !is_other(below, &above) =>
            {
                merge(below, above);
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Reads and checks what a recipe says of its corpus. One that has any table of a later stage is read whole.
pub fn load_corpus(
    given: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<CorpusRecipe> {
    let path = find(given)?;
    let (text, shown) = read_text(&path, 0)?;
    let whole = toml::from_str::<toml::Table>(&text)
        .is_ok_and(|table| LATER_TABLES.iter().any(|later| table.contains_key(*later)));
    if whole {
        let Recipe { name, seed, corpus, .. } = load(given, Paths::Needed, variable)?.recipe;
        return Ok(CorpusRecipe { name, seed, corpus });
    }
    let mut recipe: CorpusRecipe = config::parse_toml(&text, &shown)?;
    recipe.corpus.validate().map_err(|(key, message)| {
        config::invalid_value(&text, &shown, &key, &format!("`{key}` cannot be right: {message}"))
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
    let (text, shown) = read_text(&path, 0)?;
    let mut recipe: Recipe = config::parse_toml(&text, &shown)?;
    let bad = |key: &str, message: &str| {
        config::invalid_value(&text, &shown, key, &format!("`{key}` cannot be right: {message}"))
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
    let tables = (&recipe.base, &recipe.tokenizer, &recipe.model);
    if let (Some(_), Some(_), _) | (Some(_), _, Some(_)) = tables {
        let key = if recipe.tokenizer.is_some() { "tokenizer" } else { "model" };
        let message =
            "the [base] brings its tokenizer and its shape; take this table out, or [base]";
        anyhow::bail!(bad(key, message));
    }
    if let (None, None, _) | (None, _, None) = tables {
        let missing = if recipe.tokenizer.is_none() { "tokenizer" } else { "model" };
        let message = format!(
            "there is no [{missing}]; a new model needs [tokenizer] and [model], one that goes on from \
             another needs [base] with model = \"its folder\""
        );
        anyhow::bail!(bad("name", &message));
    }
    if let Some(tokenizer) = &recipe.tokenizer {
        tokenizer.validate().map_err(table("tokenizer"))?;
    }
    if let Some(model) = &recipe.model {
        model.validate().map_err(table("model"))?;
    }
    recipe.train.validate().map_err(|(key, message)| bad(key, &message))?;
    if recipe.base.is_none() {
        let needs_base = [
            ("train.lora", recipe.train.lora.is_some(), "random weights are not frozen"),
            (
                "train.forgetting",
                recipe.train.forgetting.is_some(),
                "a new model has nothing to forget",
            ),
        ];
        if let Some((key, _, why)) = needs_base.into_iter().find(|(_, is_set, _)| *is_set) {
            let message = format!("it needs a [base]: {why}; give one, or take this table out");
            anyhow::bail!(bad(key, &message));
        }
    }
    if recipe.train.mup.is_some() && recipe.base.is_some() {
        let message =
            "it belongs to the first values of a model, which a [base] has already; take it out";
        anyhow::bail!(bad("train.mup", message));
    }
    if let (Some(mup), Some(model)) = (&recipe.train.mup, &recipe.model) {
        mup.validate(model).map_err(|message| bad("train.mup", &message))?;
    }
    recipe.watch.validate(&recipe.train).map_err(table("watch"))?;
    recipe.eval.validate().map_err(table("eval"))?;
    recipe.package.validate().map_err(table("package"))?;
    if let Some(model) = &recipe.model
        && recipe.train.sequence_length > model.context_length
    {
        let message = format!(
            "sequences of {} tokens do not fit model.context_length = {}",
            recipe.train.sequence_length, model.context_length
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
    if paths == Paths::Needed {
        recipe.check_orders().map_err(|message| bad("train.stage", &message))?;
    }
    let base = path.parent().unwrap_or(Path::new(""));
    for location in recipe.locations() {
        if let Err(error) = location.resolve(base, variable)
            && paths == Paths::Needed
        {
            return Err(error.into());
        }
    }
    Ok(Loaded { recipe, path, given: given.to_owned(), seed_given: None })
}

impl Recipe {
    /// Every path that the recipe names.
    fn locations(&mut self) -> impl Iterator<Item = &mut config::Location> {
        self.corpus
            .locations_mut()
            .chain(self.base.iter_mut().map(|base| &mut base.model))
            .chain(self.tokens.quality.iter_mut().map(|quality| &mut quality.model))
            .chain(self.train.replay.iter_mut().filter_map(|replay| replay.tokens.as_mut()))
            .chain(self.train.forgetting.iter_mut().flat_map(|forgetting| {
                let tasks = forgetting.tasks.iter_mut().flat_map(TaskEntry::locations_mut);
                std::iter::once(&mut forgetting.general).chain(tasks)
            }))
            .chain(self.eval.locations_mut())
            .chain(self.package.locations_mut())
    }
}

impl Recipe {
    /// Refuses an order by values that the recipe's corpus and tokens do not get.
    fn check_orders(&self) -> Result<(), String> {
        for (stage, order) in self.train.ordered_stages() {
            let (value, is_there, remedy) = match order {
                SampleOrder::Shuffled | SampleOrder::Length(_) => continue,
                SampleOrder::Perplexity(_) => (
                    "perplexity",
                    !self.corpus.perplexity.is_empty(),
                    "give the corpus a [[corpus.perplexity]] model",
                ),
                SampleOrder::Quality(_) => (
                    "quality",
                    self.tokens.quality.is_some(),
                    "name a classifier in [tokens] quality",
                ),
            };
            if !is_there {
                return Err(format!(
                    "stage {stage:?} is ordered by {value}, which this recipe gives no document; {remedy}, \
                     or order by length"
                ));
            }
        }
        Ok(())
    }

    /// What the model begins as.
    pub fn origin(&self) -> Origin<'_> {
        match (&self.base, &self.tokenizer, &self.model) {
            (Some(base), ..) => Origin::Base(base),
            (None, Some(tokenizer), Some(model)) => Origin::New { tokenizer, model },
            (None, ..) => unreachable!("`load` refuses a recipe with neither"),
        }
    }

    /// What the model computes, as far as it is known before the tokenizer is trained.
    ///
    /// # Errors
    /// A base that cannot be gone on from, or whose context is shorter than the sequences.
    pub fn description(&self) -> Result<DecoderDescription> {
        let base = match self.origin() {
            Origin::New { tokenizer, model } => {
                return Ok((&model.with_vocab_size(tokenizer.vocab_size)?).into());
            }
            Origin::Base(base) => base,
        };
        let path = &base.model.path;
        let description = BaseModel::describe(path).map_err(|error| {
            let says_all = error.is_usage();
            let error = anyhow::Error::from(error);
            let unreadable = || Refused(format!("the base {} cannot be read", path.display()));
            if says_all { error } else { error.context(unreadable()) }
        })?;
        anyhow::ensure!(
            self.train.sequence_length <= description.context_length,
            Refused(format!(
                "train.sequence_length is {}, but the context of the base {} has {} tokens",
                self.train.sequence_length,
                path.display(),
                description.context_length
            ))
        );
        Ok(description)
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
    fn a_recipe_may_change_another_one() {
        let page = include_str!("../../../docs/training.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        let (whole, _) = rest.split_once("```").unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::write(path("whole.toml"), whole).unwrap();
        let read = |text: &str| {
            std::fs::write(path("changed.toml"), text).unwrap();
            load(&path("changed.toml"), Paths::Unused, &|_| None)
        };
        let changed =
            read("extends = 'whole.toml'\nname = 'other'\n[train]\nclip_norm = 0.5").unwrap();
        let loaded = load(&path("whole.toml"), Paths::Unused, &|_| None).unwrap();
        let mut expect = loaded.recipe;
        "other".clone_into(&mut expect.name);
        expect.train.clip_norm = 0.5;
        let text = |recipe: &Recipe| toml::to_string(recipe).unwrap();
        assert_eq!(text(&changed.recipe), text(&expect));
        // The keys of an optimiser belong to its kind.
        let other = "[train]\noptimizer = { kind = 'adam_w', learning_rate = 0.001 }";
        let other = read(&format!("extends = 'whole.toml'\n{other}")).unwrap().recipe.train;
        assert!(text(&changed.recipe).contains("embedding_learning_rate"));
        assert!(!toml::to_string(&other).unwrap().contains("embedding_learning_rate"));
        for (bad, expect) in [
            ("extends = 'changed.toml'", "or a circle"),
            ("extends = '../whole.toml'", "in the same folder"),
            ("extends = 'none.toml'", "none.toml"),
            ("extends = 'whole.toml'\n[train]\nspteps = 3", "spteps"),
            ("extends = 'whole.toml'\n[train]\nspteps = 3", "toml, merged with what it extends:"),
        ] {
            let error = format!("{:#}", read(bad).unwrap_err());
            assert!(error.contains(expect), "{error}");
        }
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

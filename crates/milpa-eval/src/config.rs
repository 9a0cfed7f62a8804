//! The `[eval]` part of a recipe: what is measured, on how much, with which seed.
//!
//! Only names and numbers; files are opened elsewhere. Defaults measure perplexity alone.

use milpa_base::{Bytes, config::Location};
use serde::{Deserialize, Serialize};

use crate::{
    error::EvalError,
    task::{PromptStyle, TaskSpec},
};

/// Bounds of `bootstrap_replicates`.
const REPLICATES: std::ops::RangeInclusive<usize> = 100..=100_000;
/// Least useful value of `max_bytes_per_source`.
const MIN_BYTES_PER_SOURCE: u64 = 1 << 10;

/// What an evaluation measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Bootstrap replicates behind each resampled interval.
    pub bootstrap_replicates: usize,
    /// Perplexity on held-out text.
    pub perplexity: PerplexityConfig,
    /// Tasks with their data.
    pub tasks: Vec<TaskEntry>,
    /// Generated samples for people to read.
    pub samples: SampleConfig,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            bootstrap_replicates: 1000,
            perplexity: PerplexityConfig::default(),
            tasks: Vec::new(),
            samples: SampleConfig::default(),
        }
    }
}

/// How much held-out text is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerplexityConfig {
    /// At most this much text of each source; see [`mod@crate::perplexity`] for what is kept.
    pub max_bytes_per_source: Bytes,
}

impl Default for PerplexityConfig {
    fn default() -> Self {
        Self { max_bytes_per_source: Bytes(1 << 20) }
    }
}

/// One task of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskEntry {
    /// Name of a built-in task (`pt/enem_2022`) or the path of a task file (ends in `.toml`).
    pub task: Location,
    /// Where the items lie; the task file may say it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Location>,
    /// Score at most this many usable items, spread evenly over the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// How the question is put.
    #[serde(default)]
    pub style: PromptStyle,
}

impl TaskEntry {
    /// Whether `task` is a path rather than a name.
    pub fn is_file(&self) -> bool {
        std::path::Path::new(&self.task.written).extension().is_some_and(|end| end == "toml")
    }

    /// The places in the file system that it names.
    pub fn locations_mut(&mut self) -> impl Iterator<Item = &mut Location> {
        let task = self.is_file().then_some(&mut self.task);
        task.into_iter().chain(self.data.as_mut())
    }

    /// The file of the task's items.
    ///
    /// # Errors
    /// As of [`TaskSpec::data_file`].
    pub fn data_file(&self, task: &TaskSpec) -> Result<std::path::PathBuf, EvalError> {
        task.data_file(self.data.as_ref().map(|data| data.path.as_path()))
    }
}

/// Which samples are generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Texts to be continued.
    pub prompts: Vec<String>,
    /// At most this many new tokens for each.
    pub max_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Seed of the draws; prompt number i uses the i-th seed derived from it.
    pub seed: u64,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { prompts: Vec::new(), max_tokens: 120, temperature: 0.8, seed: 0 }
    }
}

impl EvalConfig {
    /// Checks the values; an error is the dotted key under `[eval]` and what is wrong with it.
    pub fn validate(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, message: String| Err((key.to_owned(), message));
        if !REPLICATES.contains(&self.bootstrap_replicates) {
            return wrong(
                "bootstrap_replicates",
                format!(
                    "bootstrap_replicates is {}; it lies between {} and {}",
                    self.bootstrap_replicates,
                    REPLICATES.start(),
                    REPLICATES.end()
                ),
            );
        }
        let most = self.perplexity.max_bytes_per_source;
        if most.0 < MIN_BYTES_PER_SOURCE {
            return wrong(
                "perplexity.max_bytes_per_source",
                format!(
                    "max_bytes_per_source is {most}; measure at least 1 KiB, such as \"1 MiB\""
                ),
            );
        }
        if let Some(entry) = self.tasks.iter().find(|entry| entry.limit == Some(0)) {
            return wrong(
                "tasks.limit",
                format!(
                    "the limit of {} is 0; leave it out to score all items",
                    entry.task.written
                ),
            );
        }
        let temperature = self.samples.temperature;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return wrong(
                "samples.temperature",
                format!("temperature is {temperature}; it is 0 (greedy) or above"),
            );
        }
        if self.samples.max_tokens == 0 && !self.samples.prompts.is_empty() {
            return wrong("samples.max_tokens", "max_tokens is 0; ask for at least 1".to_owned());
        }
        Ok(())
    }

    /// All places in the file system that the configuration names, for the binary to resolve.
    pub fn locations_mut(&mut self) -> impl Iterator<Item = &mut Location> {
        self.tasks.iter_mut().flat_map(TaskEntry::locations_mut)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> EvalConfig {
        milpa_base::parse_toml(text, Path::new("recipe.toml")).unwrap()
    }

    #[test]
    fn a_recipe_part_is_read_and_its_places_are_found() {
        let mut config = parse(
            "[perplexity]\nmax_bytes_per_source = \"2 MiB\"\n\
             [[tasks]]\ntask = \"pt/enem_2022\"\ndata = \"${DATA}/e.jsonl\"\nlimit = 10\n\
             [[tasks]]\ntask = \"mine/task.toml\"\nstyle = \"letters\"\n\
             [samples]\nprompts = [\"Había una vez\"]\nseed = 3\n",
        );
        assert_eq!(config.perplexity.max_bytes_per_source, Bytes(2 << 20));
        assert_eq!(config.tasks[1].style, PromptStyle::Letters);
        assert_eq!(config.validate(), Ok(()));
        let places: Vec<String> = config.locations_mut().map(|l| l.written.clone()).collect();
        assert_eq!(places, ["${DATA}/e.jsonl", "mine/task.toml"]);
        let table = toml::Table::try_from(&config).unwrap();
        assert_eq!(parse(&table.to_string()), config);
        assert_eq!(parse(""), EvalConfig::default());
    }

    #[test]
    fn impossible_values_name_their_key() {
        let check = |text: &str, key: &str| {
            let (found, message) = parse(text).validate().unwrap_err();
            assert_eq!(found, key, "{message}");
        };
        check("bootstrap_replicates = 3", "bootstrap_replicates");
        check("[perplexity]\nmax_bytes_per_source = 10", "perplexity.max_bytes_per_source");
        check("[[tasks]]\ntask = \"a\"\nlimit = 0", "tasks.limit");
        check("[samples]\ntemperature = -1.0", "samples.temperature");
        check("[samples]\nprompts = [\"a\"]\nmax_tokens = 0", "samples.max_tokens");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = milpa_base::parse_toml::<EvalConfig>(
            "[perplexity]\nmax_byte_per_source = 1\n",
            Path::new("recipe.toml"),
        )
        .unwrap_err();
        assert!(error.to_string().contains("did you mean `max_bytes_per_source`?"), "{error}");
    }
}

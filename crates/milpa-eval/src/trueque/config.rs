//! What a team says once: where the logs lie, which consent counts, who reviews, what is wanted.
//!
//! The file is `trueque.toml`; paths in it are taken from its folder. It knows no log and no sheet.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use milpa_base::{
    Seed,
    config::{ConfigError, Location, invalid_value, load_toml, nearest},
};
use serde::{Deserialize, Serialize};

use super::rules::Language;
use crate::choclo::country_codes;

/// Countries of a question that is about no single one.
pub const BEYOND_COUNTRIES: [&str; 2] = ["region", "world"];

/// How a benchmark is built from chat logs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TruequeConfig {
    /// Name of the benchmark.
    #[serde(default = "default_name")]
    pub name: String,
    /// Version of what is frozen, such as `1.0`.
    pub version: String,
    /// Decides who reviews what, what a cap leaves out, and the splits.
    #[serde(default = "default_seed")]
    pub seed: Seed,
    /// Logs: JSONL, plain, gzip or zstd.
    pub logs: Vec<Location>,
    /// Records of consent that came after the logs: JSONL.
    #[serde(default)]
    pub consents: Option<Location>,
    /// Languages that the benchmark takes.
    #[serde(default = "default_languages")]
    pub languages: Vec<Language>,
    /// Topics that answer writers choose from.
    pub topics: Vec<String>,
    /// Licence of the items, which the consent text must allow.
    pub licence: String,
    /// Where people ask for their questions to be taken out; stands in the card.
    pub contact: String,
    /// Which consent counts.
    pub consent: ConsentConfig,
    /// Who reviews.
    #[serde(default)]
    pub reviewers: Vec<Reviewer>,
    /// Who decides where two reviewers differ.
    #[serde(default)]
    pub adjudicators: Vec<String>,
    /// What is alike.
    #[serde(default)]
    pub duplicates: DuplicatesConfig,
    /// How much of each kind.
    #[serde(default)]
    pub balance: BalanceConfig,
    /// How the sets are split.
    #[serde(default)]
    pub split: SplitConfig,
    /// How sheets are written.
    #[serde(default)]
    pub sheets: SheetsConfig,
}

fn default_name() -> String {
    "trueque".to_owned()
}

fn default_seed() -> Seed {
    Seed(0)
}

fn default_languages() -> Vec<Language> {
    vec![Language::Es, Language::Pt]
}

/// Which consent counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentConfig {
    /// The use that must be among the scopes of a record, such as `benchmark`.
    pub scope: String,
    /// Versions of the consent text that allow it under this licence.
    pub versions: Vec<String>,
}

/// A person who reviews.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reviewer {
    /// A name or a pseudonym; it names the sheet.
    pub name: String,
    /// Languages that the person reads.
    pub languages: Vec<Language>,
    /// Countries that the person knows: their questions come first.
    #[serde(default)]
    pub countries: Vec<String>,
    /// Whether new questions are sent; reviews given before count all the same.
    #[serde(default = "yes")]
    pub active: bool,
}

fn yes() -> bool {
    true
}

/// What is alike.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DuplicatesConfig {
    /// Jaccard similarity of two questions' words from which one of them is enough.
    pub similarity: f64,
}

impl Default for DuplicatesConfig {
    fn default() -> Self {
        Self { similarity: 0.7 }
    }
}

/// How much of each kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceConfig {
    /// Countries whose shortfalls are stated.
    pub countries: Vec<String>,
    /// Most items of one country and topic.
    pub most_per_cell: usize,
    /// Items of one country and topic below which the card states a shortfall.
    pub wanted_per_cell: usize,
}

impl Default for BalanceConfig {
    fn default() -> Self {
        Self { countries: Vec::new(), most_per_cell: 50, wanted_per_cell: 5 }
    }
}

/// How the sets are split.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// Share of the components that go to the development split.
    pub dev_share: f64,
    /// Largest share of the items that one component may hold before what joins them is cut.
    pub max_component_share: f64,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self { dev_share: 0.1, max_component_share: 0.2 }
    }
}

/// How sheets are written.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SheetsConfig {
    /// The sign between cells: `,`, or `;` where spreadsheets expect it.
    pub separator: char,
    /// Whether the chat's own answer stands in the answer sheet as an unchecked draft.
    pub draft: bool,
}

impl Default for SheetsConfig {
    fn default() -> Self {
        Self { separator: ',', draft: false }
    }
}

impl TruequeConfig {
    /// Reads and checks a configuration; `variable` gives the values of `${NAME}` in paths.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a value that cannot be.
    pub fn load(
        path: &Path,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut config: Self = load_toml(path)?;
        let base = path.parent().unwrap_or(Path::new(""));
        for location in config.logs.iter_mut().chain(&mut config.consents) {
            location.resolve(base, variable)?;
        }
        if let Some((key, problem)) = config.problem() {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            return Err(invalid_value(&text, path, key, &problem));
        }
        Ok(config)
    }

    /// Paths of the logs.
    pub fn log_paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.logs.iter().map(|location| &location.path)
    }

    /// The first value that cannot be, with its key.
    fn problem(&self) -> Option<(&'static str, String)> {
        let bad = |key, problem: &str| Some((key, problem.to_owned()));
        let plain = |name: &str| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if !plain(&self.name) || !plain(&self.version) {
            return bad("version", "name and version are letters, digits, `-`, `_` and `.`");
        }
        if self.logs.is_empty() {
            return bad("logs", "there is no log to read");
        }
        if self.languages.is_empty() {
            return bad("languages", "name at least one of es, pt, en");
        }
        if self.topics.is_empty()
            || self.topics.iter().any(|topic| topic.trim() != topic || topic.is_empty())
        {
            return bad("topics", "topics are names without spaces around them, one at least");
        }
        if self.consent.versions.is_empty() {
            return bad(
                "consent.versions",
                "without a version of the consent text nothing can be read",
            );
        }
        let names: BTreeSet<&str> = self.reviewers.iter().map(|r| r.name.as_str()).collect();
        if names.len() < self.reviewers.len() || !names.iter().all(|name| plain(name)) {
            return bad(
                "reviewers",
                "names are given once each, and are letters, digits, `-`, `_` and `.`",
            );
        }
        let codes = country_codes();
        let named = self.reviewers.iter().flat_map(|r| &r.countries).chain(&self.balance.countries);
        for country in named {
            if !codes.contains(&country.as_str()) {
                return Some((
                    "balance.countries",
                    format!(
                        "{country:?} is no country of the region; known are {}",
                        codes.join(", ")
                    ),
                ));
            }
        }
        let share = |share: f64| (0.0..=1.0).contains(&share);
        if !share(self.duplicates.similarity) || self.duplicates.similarity < 0.3 {
            return bad("duplicates.similarity", "a similarity is between 0.3 and 1");
        }
        if !share(self.split.dev_share) || !share(self.split.max_component_share) {
            return bad("split.dev_share", "a share is between 0 and 1");
        }
        if self.balance.most_per_cell == 0 {
            return bad("balance.most_per_cell", "nothing would be kept");
        }
        if !matches!(self.sheets.separator, ',' | ';' | '\t') {
            return bad("sheets.separator", "a separator is a comma, a semicolon or a tab");
        }
        None
    }

    /// The topic as it is configured, whatever the case it was typed in.
    ///
    /// # Errors
    /// What is meant instead.
    pub(crate) fn topic(&self, typed: &str) -> Result<String, String> {
        let wanted = typed.trim().to_lowercase();
        if let Some(topic) = self.topics.iter().find(|topic| topic.to_lowercase() == wanted) {
            return Ok(topic.clone());
        }
        let known: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        Err(unknown("topic", typed, &known))
    }
}

/// A country's code, or one of [`BEYOND_COUNTRIES`], whatever the case it was typed in.
///
/// # Errors
/// What is meant instead.
pub(crate) fn country(typed: &str) -> Result<String, String> {
    let known: Vec<&str> = country_codes().into_iter().chain(BEYOND_COUNTRIES).collect();
    let wanted = typed.trim();
    match known.iter().find(|code| code.eq_ignore_ascii_case(wanted)) {
        Some(code) => Ok((*code).to_owned()),
        None => Err(unknown("country", typed, &known)),
    }
}

fn unknown(what: &str, typed: &str, known: &[&str]) -> String {
    match nearest(typed, known) {
        Some(name) => format!("the {what} {typed:?} is not known; did you mean {name:?}?"),
        None => format!("the {what} {typed:?} is not known; known are {}", known.join(", ")),
    }
}

//! The `[corpus]` part of a recipe.
//!
//! ```toml
//! [corpus]
//! keep_languages = ["spa", "por", "que"]   # ISO 639-3 or 639-1; macrolanguages match; or "all"
//! max_document = "16 MiB"                  # a larger record is dropped and counted
//! shard_size = "256 MiB"                   # bytes of text per Parquet file
//! validation = { share = 0.02 }            # of each source's bytes; or { groups = 12 }
//! blocklists = ["lists/adult.txt"]         # hosts, addresses, words: see `filter::url_blocklist`
//! personal_data = { default = "mask", ip = "keep", br = "drop" }   # or "keep" all, the default
//!
//! [corpus.dedup]
//! exact = true
//! near = { similarity = 0.7, bands = 14, rows = 8, shingle_words = 5 }
//! scope = "all"                            # or "language"
//! memory = "512 MiB"                       # for sorting; the rest goes to disk
//! repeats = { min_bytes = 200 }            # cut passages that stood before; not done by default
//! rehydrate = { steps = [[1, 1], [2, 2], [5, 3]] }   # (cluster size, weight); not done by default
//!
//! [corpus.decontamination]
//! ngrams = { words = 8, share = 0.3 }
//! sets = [{ name = "enem", path = "${MILPA_DATA}/eval/enem_2022.jsonl", passages = [["question"]] }]
//!
//! [[corpus.classifiers]]                   # a file of `milpa corpus classifier`
//! path = "models/quality.model"
//! label = "clean"
//! languages = ["spa"]
//! at_least = 0.4                           # or at_most
//!
//! [[corpus.perplexity]]                    # a file of `milpa corpus ngrams`
//! path = "models/spa.ngrams"
//! language = "spa"
//! head = 150.0
//! middle = 420.0
//! drop = ["tail"]                          # or keep all, with their perplexity in the shards
//!
//! [corpus.thresholds.spa]                  # or `default`; overrides single thresholds
//! max_mean_word_length = 14
//!
//! [[corpus.sources]]
//! name = "novelas"
//! path = "${MILPA_DATA}/text/es_novels_a.jsonl.zst"   # a file, or a folder of such files
//! format = "jsonl"                         # "auto" (default) | "warc" | "jsonl" | "parquet" |
//!                                          # "html" | "markdown" | "text" | "pdf"
//! text_field = "text"                      # JSONL and Parquet: where the text stands
//! id_field = "id"                          # the same: identity; without it, file and offset
//! group_field = "author"                   # whole groups go to validation
//! language = "spa"                         # declared: not identified
//! licence = "Public Domain Mark 1.0"
//! filters = "book"                         # "web" (default) | "book" | "law" | "none"
//! max_documents = 1000
//! ```

use std::{collections::BTreeMap, fmt};

use milpa_base::{
    Bytes,
    config::{Location, nearest},
};
use milpa_text::{
    MinHasher, PerplexityBucket, language,
    minhash::{Banding, MinHashConfig},
    personal::{Policies, Policy, UnknownKind},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    decontaminate::DecontaminationConfig,
    dedup::{Rehydration, RepeatSettings},
    filter::{ThresholdOverrides, model::Bound},
    shard::MAX_WEIGHT,
};

/// How a corpus is built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusConfig {
    /// Languages whose documents are kept.
    #[serde(default)]
    pub keep_languages: KeepLanguages,
    /// Largest record and longest text that is read.
    #[serde(default = "default_max_document")]
    pub max_document: Bytes,
    /// Bytes of text per shard.
    #[serde(default = "default_shard_size")]
    pub shard_size: Bytes,
    /// What is held out for validation.
    #[serde(default)]
    pub validation: ValidationConfig,
    /// What counts as a duplicate.
    #[serde(default)]
    pub dedup: DedupConfig,
    /// Files of hosts, addresses and words, one a line, that the addresses of documents are held against;
    /// web sources are held against a small built-in list besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocklists: Vec<Location>,
    /// Classifiers that documents are scored with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classifiers: Vec<ClassifierUse>,
    /// N-gram models that give documents their perplexity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub perplexity: Vec<PerplexityUse>,
    /// Evaluation items that must not stand in the corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decontamination: Option<DecontaminationConfig>,
    /// What is done with personal data; without it, it is not looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal_data: Option<PersonalDataConfig>,
    /// Thresholds by language (ISO 639-3), or under `default`; unnamed ones keep their value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<String, ThresholdOverrides>,
    /// Where the documents come from, in order: of two duplicates the first is kept.
    #[serde(default)]
    pub sources: Vec<SourceConfig>,
}

impl Default for CorpusConfig {
    fn default() -> Self {
        Self {
            keep_languages: KeepLanguages::default(),
            max_document: default_max_document(),
            shard_size: default_shard_size(),
            validation: ValidationConfig::default(),
            dedup: DedupConfig::default(),
            blocklists: Vec::new(),
            classifiers: Vec::new(),
            perplexity: Vec::new(),
            decontamination: None,
            personal_data: None,
            thresholds: BTreeMap::new(),
            sources: Vec::new(),
        }
    }
}

fn default_max_document() -> Bytes {
    Bytes(16 << 20)
}

fn default_shard_size() -> Bytes {
    Bytes(256 << 20)
}

/// Which languages are kept.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum KeepLanguages {
    /// All of them, undetermined texts too.
    #[default]
    All,
    /// Those on the list; a macrolanguage stands for its members.
    List(Vec<String>),
}

impl KeepLanguages {
    /// Whether documents labelled `label` are kept.
    pub fn keeps(&self, label: &str) -> bool {
        match self {
            Self::All => true,
            Self::List(list) => list.iter().any(|wanted| {
                language::canonical(wanted).is_some_and(|wanted| language::matches(label, wanted))
            }),
        }
    }
}

impl Serialize for KeepLanguages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for KeepLanguages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = KeepLanguages;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\" or a list of language codes such as [\"spa\", \"que\"]")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<KeepLanguages, E> {
                if value == "all" {
                    Ok(KeepLanguages::All)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(value), &self))
                }
            }
            fn visit_seq<A: de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<KeepLanguages, A::Error> {
                let mut list = Vec::new();
                while let Some(code) = seq.next_element()? {
                    list.push(code);
                }
                Ok(KeepLanguages::List(list))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What is held out. Groups (the value of `group_field`, else the document itself) go whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    /// Share of each source's bytes, at least one group where the source has two.
    #[serde(default = "default_share")]
    pub share: f64,
    /// Instead of a share: the number of groups of each source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<u64>,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self { share: default_share(), groups: None }
    }
}

impl ValidationConfig {
    /// Whether anything is to be held out.
    pub fn is_wanted(&self) -> bool {
        self.groups.map_or(self.share > 0.0, |groups| groups > 0)
    }
}

fn default_share() -> f64 {
    0.02
}

/// A classifier, the languages that it judges and what its score must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierUse {
    /// The file that `milpa corpus classifier` wrote.
    pub path: Location,
    /// The label that the score is the probability of.
    pub label: String,
    /// Documents in other languages pass.
    pub languages: Vec<String>,
    /// Least score that is kept, for quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f32>,
    /// Largest score that is kept, for toxicity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f32>,
}

impl ClassifierUse {
    /// What the score must be; `None` unless exactly one bound between 0 and 1 is set.
    pub fn bound(&self) -> Option<Bound> {
        let bound = match (self.at_least, self.at_most) {
            (Some(least), None) => Bound::Least(least),
            (None, Some(most)) => Bound::Most(most),
            _ => return None,
        };
        let (Bound::Least(value) | Bound::Most(value)) = bound;
        (0.0..=1.0).contains(&value).then_some(bound)
    }
}

/// An n-gram model of a language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerplexityUse {
    /// The file that `milpa corpus ngrams` wrote.
    pub path: Location,
    /// The language of its documents.
    pub language: String,
    /// Largest perplexity of the head.
    pub head: f64,
    /// Largest perplexity of the middle.
    pub middle: f64,
    /// Buckets that are not kept; by default all are, and documents carry their bucket.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<PerplexityBucket>,
}

/// What is done with personal data: one policy, and others by kind (`cpf`), country (`br`) or both
/// (`ruc-pe`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PersonalDataConfig {
    /// The policy of all kinds without one of their own.
    #[serde(default)]
    pub default: Policy,
    /// Policies by name.
    #[serde(flatten)]
    pub named: BTreeMap<String, Policy>,
}

impl PersonalDataConfig {
    /// The policy of each kind.
    ///
    /// # Errors
    /// A name that is no kind and no country.
    pub fn policies(&self) -> Result<Policies, UnknownKind> {
        Policies::new(self.default, &self.named)
    }
}

/// What counts as a duplicate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupConfig {
    /// Drop texts equal to an earlier one in lower case, letters and digits only.
    #[serde(default = "default_true")]
    pub exact: bool,
    /// Drop texts similar to an earlier one.
    #[serde(default)]
    pub near: NearConfig,
    /// Which documents are compared.
    #[serde(default)]
    pub scope: CompareWithin,
    /// Passages that are repeated are cut out, all but the first; without it, they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<RepeatConfig>,
    /// How often a document counts by the size of its cluster; without it, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehydrate: Option<Rehydration>,
    /// Memory for sorting what is compared; the rest goes to disk. The result does not depend on it.
    #[serde(default = "default_dedup_memory")]
    pub memory: Bytes,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            exact: true,
            near: NearConfig::default(),
            scope: CompareWithin::default(),
            repeats: None,
            rehydrate: None,
            memory: default_dedup_memory(),
        }
    }
}

impl DedupConfig {
    /// How often the document counts that stands for a cluster of `size`.
    pub fn weight(&self, size: u64) -> u64 {
        self.rehydrate.as_ref().map_or(1, |table| u64::from(table.weight(size)))
    }
}

fn default_dedup_memory() -> Bytes {
    Bytes(512 << 20)
}

/// Which passages count as repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepeatConfig {
    /// Least length in bytes of UTF-8.
    pub min_bytes: u32,
}

impl Default for RepeatConfig {
    fn default() -> Self {
        Self { min_bytes: RepeatSettings::default().min_bytes }
    }
}

impl RepeatConfig {
    pub(crate) fn settings(&self, memory: Bytes) -> RepeatSettings {
        RepeatSettings { min_bytes: self.min_bytes, memory }
    }
}

/// Which documents can be copies of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareWithin {
    /// All of the corpus.
    #[default]
    All,
    /// Those of the same language.
    Language,
}

/// Near-duplicates by MinHash over word n-grams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NearConfig {
    /// Whether near-duplicates are looked for.
    pub enabled: bool,
    /// Estimated Jaccard similarity from which a pair counts, among those that share a band; 0: sharing a
    /// band is enough.
    pub similarity: f64,
    /// Bands of a signature; a pair of similarity s shares one with probability 1 − (1 − s^rows)^bands.
    pub bands: u32,
    /// Minima of a band.
    pub rows: u32,
    /// Words of the n-grams that are compared.
    pub shingle_words: u32,
}

impl Default for NearConfig {
    fn default() -> Self {
        let MinHashConfig { banding: Banding { bands, rows }, shingle_words } =
            MinHashConfig::default();
        Self { enabled: true, similarity: 0.7, bands, rows, shingle_words }
    }
}

impl NearConfig {
    /// What signatures are computed of.
    pub fn minhash(&self) -> MinHashConfig {
        let banding = Banding { bands: self.bands, rows: self.rows };
        MinHashConfig { banding, shingle_words: self.shingle_words }
    }

    /// The estimated similarity that a pair must have, if any.
    pub fn verify(&self) -> Option<f64> {
        (self.similarity > 0.0).then_some(self.similarity)
    }
}

fn default_true() -> bool {
    true
}

/// One source of documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Name in reports and shards.
    pub name: String,
    /// A file, or a folder whose files are read in order of their names.
    pub path: Location,
    /// How its files are read.
    #[serde(default)]
    pub format: Format,
    /// JSONL: the field with the text; `a.b` goes into an object.
    #[serde(default = "default_text_field")]
    pub text_field: String,
    /// JSONL: the field with the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_field: Option<String>,
    /// JSONL: the field with the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_field: Option<String>,
    /// JSONL: the field with the date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date_field: Option<String>,
    /// JSONL: the field with the licence, where documents have their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence_field: Option<String>,
    /// JSONL: the field whose equal values stay on one side of the validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_field: Option<String>,
    /// The language, where it is known for the whole source: then it is not identified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Licence of the source's documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Which filters its documents pass.
    #[serde(default)]
    pub filters: Preset,
    /// Reads no more documents than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_documents: Option<u64>,
}

fn default_text_field() -> String {
    "text".to_owned()
}

/// How a source's files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Told from the name and the first bytes.
    #[default]
    Auto,
    /// WARC 0.17 to 1.1 or ARC; plain, gzip or zstd.
    Warc,
    /// One JSON object per line; plain, gzip or zstd.
    Jsonl,
    /// One HTML page per file.
    Html,
    /// One plain text per file.
    Text,
    /// One Markdown document per file; its front matter is left out.
    Markdown,
    /// One row per document, in columns.
    Parquet,
    /// One born-digital PDF document per file.
    Pdf,
}

/// Sets of filters by kind of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Pages of the web: all filters.
    #[default]
    Web,
    /// Edited books: length, letters and repetition.
    Book,
    /// Law and other official prose: as books, but lists, numbering and formulas are normal.
    Law,
    /// Language and duplicates only.
    None,
}

impl CorpusConfig {
    /// Every path that the configuration names.
    pub fn locations_mut(&mut self) -> impl Iterator<Item = &mut Location> {
        let sets = self.decontamination.iter_mut().flat_map(|config| &mut config.sets);
        self.sources
            .iter_mut()
            .map(|source| &mut source.path)
            .chain(&mut self.blocklists)
            .chain(self.classifiers.iter_mut().map(|model| &mut model.path))
            .chain(self.perplexity.iter_mut().map(|model| &mut model.path))
            .chain(sets.map(|set| &mut set.path))
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The dotted key and what is wrong with its value.
    pub fn validate(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, message: String| Err((format!("corpus.{key}"), message));
        if let Some(Err(error)) = self.personal_data.as_ref().map(PersonalDataConfig::policies) {
            let names = Policies::names();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let near = nearest(&error.name, &names).map_or_else(
                || error.to_string(),
                |near| {
                    format!(
                        "{:?} is no kind of personal data and no country; did you mean `{near}`?",
                        error.name
                    )
                },
            );
            return wrong("personal_data", near);
        }
        if self.sources.is_empty() {
            return wrong("sources", "a corpus needs at least one [[corpus.sources]]".to_owned());
        }
        for (index, source) in self.sources.iter().enumerate() {
            if source.name.is_empty() || source.name.contains(['\n', '/']) {
                return wrong(
                    "sources.name",
                    "a source needs a name of one line without /".to_owned(),
                );
            }
            if self.sources[..index].iter().any(|other| other.name == source.name) {
                return wrong("sources.name", format!("two sources are called {:?}", source.name));
            }
            if let Some(code) = &source.language
                && language::canonical(code).is_none()
            {
                return wrong("sources.language", format!("{code:?} is no ISO 639 code"));
            }
            if source.max_documents == Some(0) {
                return wrong("sources.max_documents", "0 documents leave nothing".to_owned());
            }
        }
        if let KeepLanguages::List(list) = &self.keep_languages {
            if list.is_empty() {
                return wrong(
                    "keep_languages",
                    "an empty list keeps nothing; write \"all\"".to_owned(),
                );
            }
            if let Some(code) = list.iter().find(|code| language::canonical(code).is_none()) {
                return wrong("keep_languages", format!("{code:?} is no ISO 639 code"));
            }
        }
        for code in self.thresholds.keys() {
            if code != "default" && language::canonical(code) != Some(code) {
                return wrong(
                    &format!("thresholds.{code}"),
                    "thresholds stand under `default` or an ISO 639-3 code such as `spa`"
                        .to_owned(),
                );
            }
        }
        if !(0.0..=0.5).contains(&self.validation.share) {
            return wrong(
                "validation.share",
                format!("{} is not between 0 and 0.5", self.validation.share),
            );
        }
        let DedupConfig { near, rehydrate, repeats, .. } = &self.dedup;
        if near.similarity != 0.0 && !(0.5..=1.0).contains(&near.similarity) {
            let message = format!(
                "{} is not between 0.5 and 1, nor 0 for pairs that share a band",
                near.similarity
            );
            return wrong("dedup.near.similarity", message);
        }
        if let Err(error) = MinHasher::new(near.minhash()) {
            return wrong("dedup.near", error.to_string());
        }
        if let Some(table) = rehydrate {
            table.validate().map_err(|message| ("corpus.dedup.rehydrate".to_owned(), message))?;
            if let Some((size, weight)) =
                table.steps.iter().find(|(_, weight)| !(1..=MAX_WEIGHT).contains(&(*weight).into()))
            {
                let message = format!(
                    "weight {weight} of clusters of {size} is not between 1 and {MAX_WEIGHT}"
                );
                return wrong("dedup.rehydrate", message);
            }
        }
        if let Some(repeats) = repeats {
            let settings = repeats.settings(self.dedup.memory);
            settings.validate().map_err(|message| ("corpus.dedup.repeats".to_owned(), message))?;
        }
        let unknown = |code: &&String| language::canonical(code).is_none();
        for classifier in &self.classifiers {
            if let Some(code) = classifier.languages.iter().find(unknown) {
                return wrong("classifiers.languages", format!("{code:?} is no ISO 639 code"));
            }
            if classifier.bound().is_none() {
                let message = "set at_least or at_most, one of them, between 0 and 1".to_owned();
                return wrong("classifiers", message);
            }
        }
        for model in &self.perplexity {
            if unknown(&&model.language) {
                let message = format!("{:?} is no ISO 639 code", model.language);
                return wrong("perplexity.language", message);
            }
            if !(model.head > 0.0 && model.head <= model.middle && model.middle.is_finite()) {
                let (head, middle) = (model.head, model.middle);
                let message =
                    format!("head = {head} and middle = {middle} must be positive and rise");
                return wrong("perplexity.head", message);
            }
        }
        if let Some(decontamination) = &self.decontamination {
            let wrong = |message| ("corpus.decontamination".to_owned(), message);
            decontamination.validate().map_err(wrong)?;
        }
        // The upper bound keeps one document well inside the memory of a small machine.
        if !((1 << 10)..=(256 << 20)).contains(&self.max_document.0) {
            return wrong(
                "max_document",
                format!("{} is not between 1 KiB and 256 MiB", self.max_document),
            );
        }
        if !((64 << 10)..=(8 << 30)).contains(&self.shard_size.0) {
            return wrong(
                "shard_size",
                format!("{} is not between 64 KiB and 8 GiB", self.shard_size),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(text: &str) -> Result<CorpusConfig, milpa_base::ConfigError> {
        milpa_base::parse_toml(text, Path::new("recipe.toml"))
    }

    const SOURCE: &str = "[[sources]]\nname = \"a\"\npath = \"a.jsonl\"\n";

    #[test]
    fn a_short_recipe_has_defaults() {
        let config = parse(SOURCE).unwrap();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.keep_languages, KeepLanguages::All);
        assert_eq!(config.sources[0].text_field, "text");
        let written = toml_of(&config);
        assert_eq!(parse(&written).unwrap(), config, "{written}");
    }

    fn toml_of(config: &CorpusConfig) -> String {
        // Through a record, as the artifact does.
        let record = milpa_base::artifact::Record::new("x", config, BTreeMap::new()).unwrap();
        record.config.to_string()
    }

    fn check(text: &str, key: &str, expect: &str) {
        let (found, message) = parse(text).unwrap().validate().unwrap_err();
        assert_eq!(found, format!("corpus.{key}"));
        assert!(message.contains(expect), "{message}");
    }

    #[test]
    fn impossible_values_are_named() {
        check("", "sources", "at least one");
        check(&format!("{SOURCE}{SOURCE}"), "sources.name", "two sources");
        check(&format!("keep_languages = [\"klingon\"]\n{SOURCE}"), "keep_languages", "klingon");
        check(&format!("validation = {{ share = 0.9 }}\n{SOURCE}"), "validation.share", "0.9");
        check(&format!("max_document = \"9 GiB\"\n{SOURCE}"), "max_document", "256 MiB");
        check(
            &format!("personal_data = {{ emial = \"drop\" }}\n{SOURCE}"),
            "personal_data",
            "`email`",
        );
        check(&format!("[thresholds.es]\n{SOURCE}"), "thresholds.es", "ISO 639-3");
        let error = parse(&format!("keep_languages = \"spa\"\n{SOURCE}")).unwrap_err().to_string();
        assert!(error.contains("\"all\" or a list"), "{error}");
        let error = parse(&format!("[thresholds.spa]\nmin_wrds = 3\n{SOURCE}")).unwrap_err();
        assert!(error.to_string().contains("did you mean `min_words`?"), "{error}");
    }

    #[test]
    fn macrolanguages_stand_for_their_members() {
        let keep = KeepLanguages::List(vec!["es".to_owned(), "que".to_owned()]);
        assert!(keep.keeps("spa") && keep.keeps("quz") && !keep.keeps("por"));
    }
}

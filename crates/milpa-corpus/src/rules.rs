//! What preparing needs besides a record: limits, lists and policies, loaded once for all threads.

use std::{collections::BTreeMap, fs::File, io::Read, sync::Arc};

use milpa_base::{
    config::Location,
    hash::{Digest, hash_file},
};
use milpa_text::{Classifier, MinHasher, NgramModel, PerplexityCuts, language, personal::Policies};

use crate::{
    CorpusConfig, CorpusError,
    config::{ClassifierUse, PerplexityUse, PersonalDataConfig},
    decontaminate::{Action, Decontaminator},
    filter::{
        ThresholdTable, UrlBlocklist,
        model::{PerplexityFilter, PerplexityModel, ScoreFilter, ScoreModel},
    },
};

/// The rules of a corpus.
pub(crate) struct Rules {
    pub(crate) thresholds: ThresholdTable,
    /// The lists of the configuration; the built-in one belongs to the filters of web sources.
    pub(crate) blocklist: Arc<UrlBlocklist>,
    /// Filters by classifiers.
    pub(crate) scores: Vec<ScoreFilter>,
    /// Measures and filters by perplexity.
    pub(crate) perplexity: PerplexityFilter,
    /// Finds evaluation items, with what is done then.
    pub(crate) decontamination: Option<(Decontaminator, Action)>,
    /// What is done with personal data, if it is looked for.
    pub(crate) personal_data: Option<Policies>,
    pub(crate) hasher: MinHasher,
}

impl Rules {
    pub(crate) fn load(config: &CorpusConfig) -> Result<Self, CorpusError> {
        let mut blocklist = UrlBlocklist::default();
        for list in &config.blocklists {
            let name = list.path.file_name().unwrap_or(list.path.as_os_str()).to_string_lossy();
            blocklist.add_file(&name, &list.path)?;
        }
        let policies = config.personal_data.as_ref().map(PersonalDataConfig::policies);
        let personal_data = policies.transpose().map_err(|error| CorpusError::Config {
            key: "corpus.personal_data".to_owned(),
            message: error.to_string(),
        })?;
        let scores = config.classifiers.iter().map(score_filter).collect::<Result<_, _>>()?;
        let mut perplexity = PerplexityFilter::default();
        for model in &config.perplexity {
            let PerplexityUse { path, language: code, head, middle, drop } = model;
            let failed = |error: &dyn std::fmt::Display| {
                CorpusError::file("read the n-gram model", &path.path, error)
            };
            let ngrams = NgramModel::open(&path.path).map_err(|error| failed(&error))?;
            ngrams.verify().map_err(|error| failed(&error))?;
            let cuts = PerplexityCuts { head: *head, middle: *middle };
            let language = language::canonical(code).unwrap_or(code).to_owned();
            let model = PerplexityModel { model: Arc::new(ngrams), cuts, unwanted: drop.clone() };
            perplexity.models.insert(language, model);
        }
        let decontamination = match &config.decontamination {
            Some(config) => Some((Decontaminator::load(config)?, config.action)),
            None => None,
        };
        Ok(Self {
            scores,
            perplexity,
            decontamination,
            thresholds: ThresholdTable::new(&config.thresholds),
            blocklist: Arc::new(blocklist),
            personal_data,
            hasher: MinHasher::new(config.dedup.near.minhash()).map_err(|error| {
                CorpusError::Config {
                    key: "corpus.dedup.near".to_owned(),
                    message: error.to_string(),
                }
            })?,
        })
    }

    /// Digests of the files that rules are read from, by what they are.
    pub(crate) fn inputs(config: &CorpusConfig) -> Result<BTreeMap<String, Digest>, CorpusError> {
        let mut inputs = BTreeMap::new();
        for (number, list) in config.blocklists.iter().enumerate() {
            inputs.insert(format!("blocklist {number}"), digest("the block list", list)?);
        }
        let classifiers = config.classifiers.iter().map(|model| &model.path);
        for (number, path) in classifiers.enumerate() {
            inputs.insert(format!("classifier {number}"), digest("the classifier", path)?);
        }
        for model in &config.perplexity {
            let name = format!("n-gram model {}", model.language);
            inputs.insert(name, digest("the n-gram model", &model.path)?);
        }
        for set in config.decontamination.iter().flat_map(|config| &config.sets) {
            let name = format!("evaluation set {}", set.name);
            inputs.insert(name, digest("the evaluation set", &set.path)?);
        }
        Ok(inputs)
    }
}

/// Largest classifier that is read.
const MAX_CLASSIFIER_BYTES: u64 = 4 << 30;

fn score_filter(model: &ClassifierUse) -> Result<ScoreFilter, CorpusError> {
    let path = &model.path.path;
    let failed =
        |error: &dyn std::fmt::Display| CorpusError::file("read the classifier", path, error);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CLASSIFIER_BYTES).read_to_end(&mut bytes))
        .map_err(|error| failed(&error))?;
    let classifier = Arc::new(Classifier::from_bytes(&bytes).map_err(|error| failed(&error))?);
    let bound = model.bound().ok_or_else(|| failed(&"it has no bound"))?;
    let labels = classifier.labels().join(", ");
    let score = ScoreModel::new(classifier, &model.label, bound)
        .ok_or_else(|| failed(&format!("it has no label {:?}, only {labels}", model.label)))?;
    let languages = model.languages.iter().map(|code| language::canonical(code).unwrap_or(code));
    let models = languages.map(|code| (code.to_owned(), score.clone())).collect();
    Ok(ScoreFilter { models })
}

fn digest(what: &str, location: &Location) -> Result<Digest, CorpusError> {
    let (digest, _) = hash_file(&location.path).map_err(|error| CorpusError::Rules {
        what: what.to_owned(),
        path: location.path.clone(),
        source: error,
    })?;
    Ok(digest)
}

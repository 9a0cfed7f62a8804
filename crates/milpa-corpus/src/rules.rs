//! What preparing needs besides a record: limits, lists and policies, loaded once for all threads.

use std::{collections::BTreeMap, sync::Arc};

use milpa_base::{
    config::Location,
    hash::{Digest, hash_file},
};
use milpa_text::{MinHasher, personal::Policies};

use crate::{
    CorpusConfig, CorpusError,
    config::PersonalDataConfig,
    decontaminate::{Action, Decontaminator},
    filter::{ThresholdTable, UrlBlocklist},
};

/// The rules of a corpus.
pub(crate) struct Rules {
    pub(crate) thresholds: ThresholdTable,
    /// The lists of the configuration; the built-in one belongs to the filters of web sources.
    pub(crate) blocklist: Arc<UrlBlocklist>,
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
        let decontamination = match &config.decontamination {
            Some(config) => Some((Decontaminator::load(config)?, config.action)),
            None => None,
        };
        Ok(Self {
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
        for set in config.decontamination.iter().flat_map(|config| &config.sets) {
            let name = format!("evaluation set {}", set.name);
            inputs.insert(name, digest("the evaluation set", &set.path)?);
        }
        Ok(inputs)
    }
}

fn digest(what: &str, location: &Location) -> Result<Digest, CorpusError> {
    let (digest, _) = hash_file(&location.path).map_err(|error| CorpusError::Rules {
        what: what.to_owned(),
        path: location.path.clone(),
        source: error,
    })?;
    Ok(digest)
}

//! What preparing needs besides a record: limits, lists and policies, loaded once for all threads.

use std::{collections::BTreeMap, sync::Arc};

use milpa_base::hash::{Digest, hash_file};
use milpa_text::{MinHasher, personal::Policies};

use crate::{
    CorpusConfig, CorpusError,
    config::PersonalDataConfig,
    filter::{ThresholdTable, UrlBlocklist},
};

/// The rules of a corpus.
pub(crate) struct Rules {
    pub(crate) thresholds: ThresholdTable,
    /// The lists of the configuration; the built-in one belongs to the filters of web sources.
    pub(crate) blocklist: Arc<UrlBlocklist>,
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
        Ok(Self {
            thresholds: ThresholdTable::new(&config.thresholds),
            blocklist: Arc::new(blocklist),
            personal_data,
            hasher: MinHasher::default(),
        })
    }

    /// Digests of the files that rules are read from, by what they are.
    pub(crate) fn inputs(config: &CorpusConfig) -> Result<BTreeMap<String, Digest>, CorpusError> {
        let list = |(number, list): (usize, &milpa_base::config::Location)| {
            let (digest, _) = hash_file(&list.path)
                .map_err(|error| CorpusError::file("read the block list", &list.path, &error))?;
            Ok((format!("blocklist {number}"), digest))
        };
        config.blocklists.iter().enumerate().map(list).collect()
    }
}

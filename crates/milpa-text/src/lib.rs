//! What a text is, before anything is made of it.
//!
//! Unicode normalisation and mojibake repair ([`mod@normalise`]), words ([`segment`]; as spaCy cuts
//! them, [`WordRules`]; as numbers, [`word_hashes`]), language identification ([`language`]), text
//! classifiers ([`classifier`], measured by [`metrics`]), n-gram language models ([`ngram_model`]),
//! personal data ([`personal`]), near-duplicate detection by shingles and MinHash ([`minhash`]), and
//! known texts found in others ([`ngram_index`]). It knows no files of the corpus, no HTML and no
//! filters: strings in, facts out.

#![forbid(unsafe_code)]

pub mod classifier;
mod codec;
pub mod language;
pub mod metrics;
pub mod minhash;
pub mod ngram_index;
pub mod ngram_model;
pub mod normalise;
pub mod personal;
pub mod segment;
pub mod word_hash;
mod word_rules;

pub use classifier::Classifier;
pub use codec::ModelError;
pub use language::{Identification, LanguageModel};
pub use minhash::{Banding, MinHashConfig, MinHasher, Signature};
pub use ngram_model::{NgramModel, PerplexityBucket, PerplexityCuts};
pub use normalise::{normalise, repair_mojibake};
pub use segment::words;
pub use word_hash::word_hashes;
pub use word_rules::WordRules;

//! What a text is, before anything is made of it.
//!
//! Unicode normalisation and mojibake repair ([`mod@normalise`]), words ([`segment`]; as spaCy cuts
//! them, [`WordRules`]), language identification ([`language`]), personal data ([`personal`]), and
//! near-duplicate detection by shingles and MinHash ([`minhash`]). It knows no files of the corpus,
//! no HTML and no filters: strings in, facts out.

#![forbid(unsafe_code)]

pub mod language;
pub mod minhash;
pub mod normalise;
pub mod personal;
pub mod segment;
mod word_rules;

pub use language::{Identification, LanguageModel};
pub use minhash::{MinHasher, Signature};
pub use normalise::{normalise, repair_mojibake};
pub use segment::words;
pub use word_rules::WordRules;

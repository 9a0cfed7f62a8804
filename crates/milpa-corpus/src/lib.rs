//! Raw collections become a corpus: documents identified, filtered, deduplicated and split, with a
//! reason for each one that is not kept.
//!
//! The way of a document, one module per step:
//! [`reader`] (WARC, Parquet, PDF, JSONL, folders → raw records) → [`charset`] and [`extract`] (bytes
//! and HTML → text) → [`milpa_text`] (normalisation, language) → [`filter`] (quality, each drop with
//! its reason) → [`decontaminate`] and personal data → [`dedup`] → [`split`] → [`shard`] (Parquet).
//! Up to fingerprints a document is prepared by itself, in parts ([`prepare()`]); [`build`] merges the
//! parts; [`stats()`] and [`why()`] explain afterwards what happened. It knows nothing of tokenizers or
//! language models but n-gram counts.
//!
//! To add a reader, implement [`reader::Reader`] and name it in [`reader::open`]; to add a filter,
//! implement [`filter::Filter`] and list it in [`filter::filters_of`].

#![forbid(unsafe_code)]

pub mod charset;
pub mod config;
pub mod decontaminate;
pub mod dedup;
pub mod document;
mod error;
pub mod extract;
pub mod filter;
mod merge;
pub mod models;
mod part;
mod pipeline;
mod prepare;
pub mod reader;
mod rules;
pub mod shard;
pub mod split;
pub mod stats;
pub mod times;
mod why;
mod workers;

pub use config::{CorpusConfig, SourceConfig};
pub use document::{Document, Dropped, Reason};
pub use error::CorpusError;
pub use pipeline::{Built, Prepared, Shard, Work, build, inputs, prepare, record};
pub use shard::{Split, read_dropped, read_split, read_weighted};
pub use stats::{Stats, stats};
pub use times::Times;
pub use why::{Fate, why};

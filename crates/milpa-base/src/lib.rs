//! What two stages of Milpa would otherwise disagree on.
//!
//! Units, hashes, manifests, atomic artifact folders, configuration with suggestions, seeds, the
//! mixture type, bounded line reading, progress, SVG plots and the [`TextModel`] trait. This crate
//! knows no stage: nothing here knows what a document, a tokenizer or a model is made of.

#![deny(unsafe_code)]

pub mod artifact;
pub mod config;
pub mod encoding;
pub mod endpoint;
pub mod hash;
pub mod lines;
pub mod manifest;
pub mod mixture;
#[allow(unsafe_code)] // the one mmap; its contract is in the module
pub mod mmap;
pub mod page;
pub mod plot;
pub mod progress;
pub mod seed;
pub mod text_model;
pub mod text_record;
pub mod units;

pub use artifact::{
    ArtifactError, ArtifactWriter, CopyError, RunLock, copy_artifact, open_artifact,
    tidy_artifacts, write_file_atomic,
};
pub use config::{ConfigError, load_toml, parse_toml};
pub use encoding::TextEncoder;
pub use endpoint::EndpointRecord;
pub use hash::{Digest, hash_bytes, hash_file};
pub use manifest::{FileEntry, Kind, Manifest, ManifestError};
pub use mixture::Mixture;
pub use progress::{Progress, Silent, StopFlag};
pub use seed::Seed;
pub use text_model::{
    Choice, FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece, Prompt,
    PromptScores, PromptToken, PromptTokens, RollingScore, RollingWindows, Sampling, Score,
    ScoreRequest, TextModel,
};
pub use text_record::{TextRecord, TextRecords};
pub use units::{Bytes, Flops, Steps, Tokens};

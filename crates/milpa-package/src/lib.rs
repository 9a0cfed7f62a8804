//! Checkpoint to a measured bundle: a Hugging Face folder, its quantised GGUF files and a model
//! card, as one artifact that other machines can serve.
//!
//! It composes what `milpa-model` and `milpa-tokens` write, measures what quantising costs, and
//! refuses a tokenizer that is not the one the checkpoint was trained with. It trains and
//! evaluates nothing: numbers of an evaluation are handed to it as data.

#![forbid(unsafe_code)]

mod bundle;
mod card;
mod config;
mod error;

pub use bundle::{
    Job, MEASUREMENTS_FILE, MeasureTexts, OpenModel, bundle_name, check_formats, gguf_file, package,
};
pub use card::{Base, Choice, Measurement};
pub use config::{MeasureConfig, PackageConfig};
pub use error::PackageError;

//! What can be wrong with a model's configuration, its files or a request to it.

use std::{io, path::PathBuf};

use milpa_base::{ArtifactError, ModelError};
use milpa_tensor::TensorError;
use milpa_tokens::TokensError;

/// A model that cannot be made, read, written or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecoderError {
    /// A size in the configuration is impossible.
    #[error("model.{key}: {message}")]
    Config {
        /// The key in `[model]`.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// The file system said no.
    #[error("cannot access {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what its format demands.
    #[error("{path} cannot be read as {format}: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// Where and how it is wrong.
        message: String,
    },
    /// A file is well-formed but asks for something that this decoder is not.
    #[error("{path}: {field} = {value} is not supported: {message}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What is supported.
        message: String,
    },
    /// A parameter is missing or has another shape.
    #[error("parameter {name} {message}")]
    Parameter {
        /// Its name.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// A model is asked for what its head does not give.
    #[error(
        "the model's head gives no {wanted}; open a model of that kind, or give this one such a head and train it"
    )]
    Head {
        /// What was asked for.
        wanted: &'static str,
    },
    /// Tokens that the decoder cannot take as they are.
    #[error("{0}")]
    Batch(String),
    /// A merge whose numbers cannot be right.
    #[error("the models cannot be merged so: {0}")]
    Merge(String),
    /// A vocabulary that cannot be extended.
    #[error("the vocabulary cannot be extended: {0}")]
    Extend(String),
    /// Two models that are not of one kind.
    #[error("{first} and {second} cannot be merged: {message}")]
    Different {
        /// A folder.
        first: PathBuf,
        /// The other folder.
        second: PathBuf,
        /// In what they differ.
        message: String,
    },
    /// Asked to stop.
    #[error("stopped before the work was done")]
    Stopped,
    /// A folder cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The engine refused a call.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl DecoderError {
    /// Whether what was asked for cannot be right: to begin again is in vain.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Merge(_) | Self::Different { .. })
    }
}

impl From<DecoderError> for ModelError {
    fn from(error: DecoderError) -> Self {
        Self::Failed(with_sources(&error))
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

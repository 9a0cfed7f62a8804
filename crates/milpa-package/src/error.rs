//! What can go wrong when a bundle is made.

use std::{io, path::PathBuf};

use milpa_base::{ArtifactError, Digest, ManifestError, ModelError};
use milpa_model::{DecoderError, GgufFormat};
use milpa_tokens::TokensError;

/// A bundle that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The configuration makes no sense.
    #[error("{key} {message}")]
    Config {
        /// The key with dots.
        key: String,
        /// What is wrong with its value.
        message: String,
    },
    /// The tokenizer is another one than the checkpoint's.
    #[error(
        "{checkpoint} was trained with the tokenizer {}, but {tokenizer} holds {}; give the \
         tokenizer of the same run",
        trained.short(), given.short()
    )]
    OtherTokenizer {
        /// Folder of the checkpoint.
        checkpoint: PathBuf,
        /// Hash of the tokenizer it was trained with.
        trained: Digest,
        /// Folder of the tokenizer given.
        tokenizer: PathBuf,
        /// Its hash.
        given: Digest,
    },
    /// The checkpoint does not say with which tokenizer it was trained.
    #[error(
        "{0} does not name the tokenizer it was trained with, so no tokenizer can be trusted to be \
         the right one; give a checkpoint that `milpa train` wrote"
    )]
    NoTokenizer(PathBuf),
    /// Quantising costs more than the configuration allows.
    #[error(
        "{file} needs {added:.4} bits per byte more than the f32 weights on {texts}, and \
         package.measure.max_added_bits_per_byte is {limit}; raise the limit, or leave this \
         quantisation out"
    )]
    Gate {
        /// The quantised file.
        file: String,
        /// Name of the texts.
        texts: String,
        /// Bits per byte above those of f32.
        added: f64,
        /// What is allowed.
        limit: f64,
    },
    /// A quantised file cannot hold the model.
    #[error(
        "package.quantisations names {format}, but a GGUF file cannot hold this model: {reason}; with \
         `quantisations = []` the bundle is the Hugging Face folder alone"
    )]
    Gguf {
        /// The first format that is asked for; none can.
        format: GgufFormat,
        /// Why.
        reason: DecoderError,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A model of the bundle could not be measured.
    #[error("cannot measure {file}: {source}")]
    Measure {
        /// File or folder within the bundle.
        file: String,
        /// Why.
        source: ModelError,
    },
    /// An artifact is missing, of another kind or damaged.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bundle cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The weights cannot be read or written.
    #[error(transparent)]
    Model(#[from] DecoderError),
    /// The tokenizer or the chat template cannot be read or written.
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

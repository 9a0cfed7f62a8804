//! What can stop a corpus from being built or read. Bad documents never do: they are counted.

use std::{io, path::PathBuf};

use milpa_base::{ArtifactError, ManifestError, artifact::advice};

/// A corpus that cannot be built or read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The configuration asks for something impossible.
    #[error("{key}: {message}")]
    Config {
        /// Dotted key in the recipe.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A source cannot be read at all.
    #[error("source {source_name:?}: cannot read {path}; check the path in the recipe")]
    Source {
        /// Name of the source.
        source_name: String,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that the rules name cannot be read.
    #[error("cannot read {what} {path}; check the path in the recipe")]
    Rules {
        /// What it was to be.
        what: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A source has no file that its format could be.
    #[error("source {source_name:?}: {path} holds no file to read; {hint}")]
    NoFiles {
        /// Name of the source.
        source_name: String,
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        hint: String,
    },
    /// No document was kept.
    #[error(
        "no document is left of {read} read; reasons: {reasons}. Loosen [corpus.thresholds], \
         check keep_languages, or check text_field of the sources"
    )]
    Empty {
        /// Documents read.
        read: u64,
        /// Reasons with their counts.
        reasons: String,
    },
    /// A stop was asked for; nothing was written.
    #[error("stopped before the corpus was complete; run the same command to build it")]
    Interrupted,
    /// A file of the corpus cannot be written or read back.
    #[error("cannot {action} {path}: {message}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// What does not fit into memory cannot be put on disk.
    #[error("cannot {action} in the scratch folder {folder}{}", advice(folder, source))]
    Scratch {
        /// What was attempted.
        action: &'static str,
        /// The folder.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The artifact cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The artifact cannot be opened.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl CorpusError {
    pub(crate) fn scratch(
        action: &'static str,
        folder: &std::path::Path,
        source: io::Error,
    ) -> Self {
        Self::Scratch { action, folder: folder.to_owned(), source }
    }

    /// A file that cannot be written; a full disk is told from other reasons.
    pub(crate) fn write(path: &std::path::Path, source: io::Error) -> Self {
        ArtifactError::Io { path: path.to_owned(), source }.into()
    }

    pub(crate) fn file(
        action: &'static str,
        path: &std::path::Path,
        error: &dyn std::fmt::Display,
    ) -> Self {
        Self::File { action, path: path.to_owned(), message: error.to_string() }
    }
}

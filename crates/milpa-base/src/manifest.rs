//! The manifest of an artifact folder: what it is, what it was made from, and the hash of each file.
//!
//! `manifest.toml` holds no time and no machine path, so the same inputs, configuration and seed
//! give the same bytes, and its BLAKE3 is the artifact's identity.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::hash::{Digest, hash_bytes, hash_file};

/// File name of the manifest in an artifact folder.
pub const MANIFEST_FILE: &str = "manifest.toml";
/// Longest manifest that is read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// Version of the manifest's own layout.
pub const MANIFEST_FORMAT: u32 = 1;

/// What an artifact folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Document shards (Parquet) with the reasons for what was dropped.
    Corpus,
    /// Documents of some files, prepared to be merged into a corpus.
    CorpusPart,
    /// A tokenizer (`tokenizer.json`).
    Tokenizer,
    /// Token shards.
    Tokens,
    /// Weights, optimiser state and the position in the data.
    Checkpoint,
    /// An evaluation report.
    Evaluation,
    /// What is served: a Hugging Face folder and a GGUF file.
    Bundle,
    /// Items of a benchmark with their tasks.
    Benchmark,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Corpus => "corpus",
            Self::CorpusPart => "corpus part",
            Self::Tokenizer => "tokenizer",
            Self::Tokens => "tokens",
            Self::Checkpoint => "checkpoint",
            Self::Evaluation => "evaluation",
            Self::Bundle => "bundle",
            Self::Benchmark => "benchmark",
        })
    }
}

/// One file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path relative to the artifact folder, with `/`.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content.
    pub blake3: Digest,
}

/// What `manifest.toml` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What the folder holds.
    pub kind: Kind,
    /// Layout version of the manifest.
    pub format: u32,
    /// Who made it, with the version.
    pub producer: String,
    /// Hash of everything the artifact is a function of: stage, configuration, inputs.
    pub key: Digest,
    /// Licences of the material inside, sorted.
    #[serde(default)]
    pub licences: Vec<String>,
    /// Hashes of the inputs by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, Digest>,
    /// Counts by name (documents, tokens, …).
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// The resolved configuration.
    #[serde(default)]
    pub config: toml::Table,
    /// Each file, sorted by path.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

/// An artifact that is missing, of another kind, or damaged.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No artifact is there.
    #[error("{path} is no artifact: it has no {MANIFEST_FILE}; {hint}")]
    Missing {
        /// The folder.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The manifest cannot be understood.
    #[error("{path} is damaged or not written by milpa: {message}")]
    Malformed {
        /// The manifest.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The folder holds something else.
    #[error("{path} holds a {found}, but a {wanted} is needed here")]
    WrongKind {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        found: Kind,
        /// What was wanted.
        wanted: Kind,
    },
    /// A file is not the one that was written.
    #[error(
        "{path} is damaged: {message}; build the artifact again or restore the file from a copy"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs.
        message: String,
    },
}

/// How much of an artifact is checked when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Presence and length of each file.
    Lengths,
    /// Also the hash of each file's content.
    Contents,
}

impl Manifest {
    /// Reads the manifest of the artifact folder `dir`.
    pub fn read(dir: &Path) -> Result<Self, ManifestError> {
        Self::read_with_digest(dir).map(|(manifest, _)| manifest)
    }

    /// Reads the manifest and the artifact's identity: the hash of the manifest's bytes.
    pub fn read_with_digest(dir: &Path) -> Result<(Self, Digest), ManifestError> {
        let path = dir.join(MANIFEST_FILE);
        let io_error = |source| ManifestError::Io { path: path.clone(), source };
        let malformed = |message: String| ManifestError::Malformed { path: path.clone(), message };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_MANIFEST_BYTES => {
                return Err(malformed(format!("it has {} bytes", metadata.len())));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ManifestError::Missing {
                    path: dir.to_owned(),
                    hint: if dir.exists() {
                        "give the folder that a milpa command wrote".to_owned()
                    } else {
                        "the folder does not exist; check the path".to_owned()
                    },
                });
            }
            Err(error) => return Err(io_error(error)),
        }
        let bytes = fs::read(&path).map_err(io_error)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| malformed(error.to_string()))?;
        let manifest: Self =
            toml::from_str(text).map_err(|error| malformed(error.message().to_owned()))?;
        if manifest.format != MANIFEST_FORMAT {
            return Err(malformed(format!(
                "its format is {}, this milpa reads {MANIFEST_FORMAT}",
                manifest.format
            )));
        }
        let plain = |entry: &&FileEntry| {
            Path::new(&entry.path)
                .components()
                .all(|component| matches!(component, std::path::Component::Normal(_)))
        };
        if let Some(entry) = manifest.files.iter().find(|entry| !plain(entry)) {
            return Err(malformed(format!("it names a file outside the folder: {:?}", entry.path)));
        }
        Ok((manifest, hash_bytes(&bytes)))
    }

    /// Checks the files of the artifact in `dir` against this manifest.
    pub fn verify(&self, dir: &Path, verify: Verify) -> Result<(), ManifestError> {
        for entry in &self.files {
            let path = dir.join(&entry.path);
            let damaged = |message: String| ManifestError::Damaged { path: path.clone(), message };
            let length = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(damaged("the file is missing".to_owned()));
                }
                Err(source) => return Err(ManifestError::Io { path: path.clone(), source }),
            };
            if length != entry.bytes {
                return Err(damaged(format!("it has {length} bytes instead of {}", entry.bytes)));
            }
            if verify == Verify::Contents {
                let (digest, _) = hash_file(&path)
                    .map_err(|source| ManifestError::Io { path: path.clone(), source })?;
                if digest != entry.blake3 {
                    return Err(damaged(format!(
                        "its BLAKE3 is {} instead of {}",
                        digest.short(),
                        entry.blake3.short()
                    )));
                }
            }
        }
        Ok(())
    }

    /// The sum of the files' lengths in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }
}

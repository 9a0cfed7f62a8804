//! The errors of this crate, and the context that long work runs in.

use std::{io, path::PathBuf};

use milpa_base::{ArtifactError, ManifestError, Progress, StopFlag, mixture::MixtureError};

/// Everything that can go wrong with tokenizers, token files and chat templates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The texts cannot be read.
    #[error("cannot read the texts after {documents} documents")]
    Records {
        /// How many were read before.
        documents: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No tokenizer is where one was expected.
    #[error(
        "{0} holds no tokenizer: there is neither tokenizer.json nor vocab.json with merges.txt; \
         give a folder that `milpa` or Hugging Face wrote"
    )]
    NoTokenizer(PathBuf),
    /// A tokenizer file is damaged or makes no sense.
    #[error("{path} is no usable tokenizer: {message}")]
    BadTokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A tokenizer is sound but of a kind that is not implemented.
    #[error(
        "{path} uses {piece}, which milpa does not read; it reads byte-level BPE with the \
         pre-split of GPT-2, Llama 3, Qwen 2 or Qwen 3.5 and the normalisation NFC or none, \
         SentencePiece BPE, Unigram and WordPiece"
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The unsupported piece.
        piece: String,
    },
    /// Something that only byte-level BPE can do was asked of another kind.
    #[error("this needs a byte-level BPE tokenizer, but the tokenizer is {0}")]
    NotByteLevel(&'static str),
    /// A tokenizer that cannot be given more tokens.
    #[error(
        "a {0} tokenizer cannot be extended: its pieces are chosen together, so new ones would change \
         how old text is cut. Byte-level BPE can be (GPT-2, Llama 3, Qwen, OLMo, and tokenizers trained \
         here); continue this model with the tokens that it has, or begin from such a base"
    )]
    NotExtensible(&'static str),
    /// A tokenizer is not an extension of another one.
    #[error("the tokenizer does not extend that of the base: {0}")]
    NotExtended(String),
    /// Something that only plain SentencePiece BPE can do was asked of another kind.
    #[error(
        "a GGUF file holds byte-level BPE, or SentencePiece BPE as a .model file without \
         normalisation says it; this tokenizer ({0}) is neither"
    )]
    NotPieces(&'static str),
    /// A tokenizer cannot be trained as configured.
    #[error("[tokenizer] {key}: {message}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// There was nothing to train on or to encode.
    #[error("there is no text in {0}; check the corpus: it may have dropped every document")]
    NoText(&'static str),
    /// A corpus of more sources than there can be open files.
    #[error(
        "the corpus has more than {0} sources; give documents of the same kind the same source"
    )]
    TooManySources(usize),
    /// The tokenizer has no token that ends a document.
    #[error(
        "the tokenizer has no end-of-text token, so documents cannot be told apart; \
         use one with a special token such as <|endoftext|>"
    )]
    NoEndOfText,
    /// A chat template cannot be read or rendered.
    #[error("the chat template failed: {0}")]
    Template(String),
    /// Token files of another tokenizer.
    #[error(
        "{path} was encoded with the tokenizer {found}, but this run uses {wanted}; \
         encode the corpus again with this tokenizer, or use the tokenizer it was encoded with"
    )]
    OtherTokenizer {
        /// The artifact or file.
        path: PathBuf,
        /// Short hash of the tokenizer it was made with.
        found: String,
        /// Short hash of the tokenizer of this run.
        wanted: String,
    },
    /// A token file is damaged.
    #[error("{path} is damaged: {message}; encode the corpus again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        message: String,
    },
    /// The loader cannot work with these settings.
    #[error("cannot load batches: {0}")]
    Loader(String),
    /// A checkpoint's position belongs to other data or settings.
    #[error(
        "the stored position in the data belongs to other data or settings (fingerprint {stored}, \
         here {current}); resume with the token artifact, mixture, seed, sequence length and batch \
         size of the interrupted run, or start a new run"
    )]
    OtherData {
        /// Short fingerprint of the checkpoint.
        stored: String,
        /// Short fingerprint of this loader.
        current: String,
    },
    /// A stage of a run cannot be drawn.
    #[error("stage {0:?}: {1}")]
    Stage(String, String),
    /// A checkpoint belongs to a run with other data or stages.
    #[error("the data or the stages are not those of the checkpoint:\n  {0}")]
    OtherPlan(String),
    /// Asked to stop.
    #[error("stopped before the work was done")]
    Stopped,
    /// The mixture makes no sense.
    #[error(transparent)]
    Mixture(#[from] MixtureError),
    /// An artifact cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// An artifact cannot be opened.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl TokensError {
    /// Whether the settings, or the token shards they are held against, cannot be right: to begin again is
    /// in vain.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::OtherTokenizer { .. }
                | Self::Loader(_)
                | Self::OtherData { .. }
                | Self::Stage(..)
                | Self::OtherPlan(_)
                | Self::Mixture(_)
        )
    }

    /// The same with the stage that it is about.
    pub(crate) fn or_within(self, stage: &str) -> Self {
        match self {
            Self::Loader(message) => Self::Stage(stage.to_owned(), message),
            other => other,
        }
    }
}

/// How many threads work, who hears of progress, and who may ask to stop.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Threads to use (0 counts as 1); no result depends on it.
    pub threads: usize,
    /// Receives progress.
    pub progress: &'a dyn Progress,
    /// Asks for a stop.
    pub stop: &'a StopFlag,
}

impl Context<'_> {
    pub(crate) fn check_stop(&self) -> Result<(), TokensError> {
        if self.stop.is_set() { Err(TokensError::Stopped) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("threads", &self.threads).finish_non_exhaustive()
    }
}

//! From text to token ids and back, and from token files to training batches.
//!
//! - [`train_tokenizer`] makes a byte-level BPE [`Tokenizer`]; [`inspect_tokenizer`] measures it.
//!   [`Tokenizer::open`] reads Hugging Face's `tokenizer.json` of every [`TokenizerKind`], and
//!   SentencePiece's `.model` files.
//! - [`ChatTemplate`] turns a conversation into the text that a model continues, and tells which
//!   parts of it are the assistant's.
//! - [`encode_shards`] writes token files; [`TokenDataset`] maps them and refuses those of another
//!   tokenizer; [`Loader`] gives batches as a pure function of configuration and step, and
//!   [`StagedLoader`] those of a run in stages.
//!
//! It knows no model and no tensor, and of the corpus only [`milpa_base::TextRecords`].

mod base64;
mod bert_classes;
mod bpe;
mod byte_level;
mod charsmap;
mod chat;
mod compare;
mod config;
mod conversation;
mod dataset;
mod document_template;
mod draw;
mod error;
mod extend;
mod fast_hash;
mod inspect;
mod loader;
mod normalizer;
mod packing;
mod piece_file;
mod pieces;
mod pre_split;
mod python_methods;
mod python_values;
mod sentencepiece;
mod shards;
mod staged;
mod stream;
mod template_guard;
mod token_file;
mod tokenizer;
mod tokenizer_file;
mod trainer;
mod trie;
mod unicode_classes;
mod unigram;
mod word_piece;
mod words;

pub use chat::{ChatTemplate, Message, RenderOptions};
pub use config::{MAX_VOCAB_SIZE, QualityConfig, TokenizerConfig, TokensConfig};
pub use conversation::{Conversation, Moment, Rendered};
pub use dataset::{TokenDataset, WindowSet};
pub use document_template::DocumentTemplate;
pub use error::{Context, TokensError};
pub use extend::{
    ExtendConfig, ExtendedTokenizer, ExtensionReport, extend_tokenizer, new_token_parts,
};
pub use inspect::{SourceReport, TokenizerReport, inspect_tokenizer, show_tokens};
pub use loader::{Batch, Loader, LoaderConfig, LoaderState, MAX_BATCH_TOKENS, Order};
pub use packing::{Packing, PackingCounts};
pub use pre_split::{PreSplit, Words};
pub use python_values::{parse_literal, python_text};
pub use sentencepiece::{PieceKind, PieceParts};
pub use shards::{
    DocumentValue, Split, ValuedRecord, ValuedRecords, encode_shards, encode_valued_shards,
};
pub use staged::{
    Difficulty, Direction, Origin, PlannedSource, PlannedStage, SampleOrder, SourceSet,
    SourceState, StageDraw, StageRecord, StageShare, StagedConfig, StagedLoader, StagedState,
};
pub use stream::Utf8Stream;
pub use token_file::SourceCounts;
pub use tokenizer::{Tokenizer, TokenizerKind, TokenizerParts};
pub use trainer::{
    MAX_DISTINCT_WORDS, MAX_WORD_BYTES, TrainedTokenizer, TrainingReport, train_tokenizer,
};

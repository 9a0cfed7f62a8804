//! The decoder, its files, and a local model as a [`TextModel`](milpa_base::TextModel).
//!
//! [`Decoder`] defines the computation on a `milpa_tensor` tape, for all families of models one and
//! the same; [`DecoderDescription`] says what it computes, and [`ModelConfig`] is how a recipe says it;
//! `hf` and `gguf` read and write both and the weights; `lora` holds adapters and `heads` what else can be
//! made of hidden states; and [`LocalModel`] scores and generates text. Files from elsewhere are
//! untrusted: malformed ones give errors, and nothing is allocated for what a file does not hold. This
//! crate trains nothing.

#![forbid(unsafe_code)]

mod config;
mod decoder;
mod description;
mod embed;
mod error;
mod extend;
mod freeze;
mod generate;
mod gguf;
mod gguf_family;
mod gguf_format;
mod gguf_model;
mod gguf_tokenizer;
mod heads;
mod hf;
mod hf_config;
mod hf_tensors;
mod local;
mod lora;
mod merge;
mod merge_folder;
mod sample;
mod score;
mod shards;

pub use config::ModelConfig;
pub use decoder::{Decoder, ParameterSpec, TokenBatch, new_parameters, parameter_specs};
pub use description::{
    Activation, Biases, DecoderDescription, Experts, Family, LayerDescription, NormPlacement,
    OutputHead, QkNorm, Rope, RopeScaling,
};
pub use embed::Pooling;
pub use error::DecoderError;
pub use extend::{NewRows, extend_model, extend_vocabulary};
pub use freeze::set_trainable;
pub use gguf::{GgufFile, GgufTensor, GgufType, GgufValue, GgufWriter};
pub use gguf_format::GgufFormat;
pub use gguf_model::{GgufDescription, check_gguf, read_gguf, write_gguf};
pub use heads::add_head;
pub use hf::{
    CONFIG_FILE, WEIGHTS_FILE, check_hf_weights, read_hf_config, read_hf_description,
    read_hf_weights, weights_bytes, write_hf_model, write_hf_model_sharded, write_weights,
};
pub use local::{LocalModel, hash_weights};
pub use lora::{LoraConfig, LoraCost, add_lora, merge_lora, merged_weights, read_lora, write_lora};
pub use merge::{MergeMethod, interpolate};
pub use merge_folder::{FolderContext, MergeModels};
pub use shards::{DEFAULT_MAX_SHARD_SIZE, read_shard_index, write_sharded};

// What callers of the decoder handle, so that most of them need not name the tensor crate.
pub use milpa_tensor::{
    BlockFormat, CpuDevice, Device, IGNORE, LossRows, LossSummary, ParameterStore,
};

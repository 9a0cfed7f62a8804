//! A decoder and its tokenizer as GGUF: llama.cpp's names for metadata and tensors.
//!
//! Architecture `qwen3` for models with QK-norm, `llama` without. In `llama` files the rows of q and
//! k are reordered, because llama.cpp rotates neighbouring pairs there and halves elsewhere.
//! What each tensor is stored as when written is `gguf_format.rs`'s choice; a matrix whose values half
//! precision cannot hold is written in F32 instead.

use std::{path::Path, sync::Arc};

use milpa_base::Digest;
use milpa_tensor::{Device, ParameterStore};
use milpa_tokens::{PreSplit, Tokenizer, TokenizerParts};

use crate::{
    config::ModelConfig,
    decoder::parameter_specs,
    error::DecoderError,
    gguf::{GgufFile, GgufTensor, GgufType, GgufValue, GgufWriter},
    gguf_format::{GgufFormat, MatrixRole},
};

/// Version of the block formats.
const QUANTIZATION_VERSION: u32 = 2;
/// Kinds of tokens as llama.cpp numbers them.
const NORMAL_TOKEN: i32 = 1;
const CONTROL_TOKEN: i32 = 3;
const USER_DEFINED_TOKEN: i32 = 4;
const UNUSED_TOKEN: i32 = 5;
/// Largest value of half precision.
const MAX_F16: f32 = 65_504.0;

/// What a GGUF file says of its model besides shape and tokenizer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufDescription {
    /// Name of the model.
    pub name: String,
    /// SPDX expression of the licence.
    pub licence: Option<String>,
    /// BLAKE3 of the f32 weights that were quantised.
    pub source_hash: Option<Digest>,
    /// ISO 639 codes of the languages.
    pub languages: Vec<String>,
    /// Jinja chat template.
    pub chat_template: Option<String>,
}

/// Writes a model with its tokenizer as a GGUF file whose matrices are stored as `format` says.
///
/// # Errors
/// If the tokenizer has more tokens than the model, or the file cannot be written.
pub fn write_gguf(
    path: &Path,
    format: GgufFormat,
    config: &ModelConfig,
    parameters: &ParameterStore,
    tokenizer: &Tokenizer,
    description: &GgufDescription,
) -> Result<(), DecoderError> {
    config.check()?;
    let mut writer = GgufWriter::default();
    describe_model(&mut writer, format, config, description);
    describe_tokenizer(&mut writer, config, tokenizer, description)?;
    let mut ids = Vec::new();
    for spec in parameter_specs(config) {
        let missing = || DecoderError::Parameter {
            name: spec.name.clone(),
            message: "is missing among the weights".to_owned(),
        };
        let id = parameters.id(&spec.name).ok_or_else(missing)?;
        let name = gguf_name(&spec.name).ok_or_else(missing)?;
        let kind = match spec.shape[..] {
            [_, columns] => {
                let role = MatrixRole::of(&name, config.layers, config.tie_embeddings);
                format.matrix(role, columns)
            }
            _ => GgufType::F32,
        };
        let fits = |values: Vec<f32>| values.iter().all(|value| value.abs() <= MAX_F16);
        let kind = match kind {
            GgufType::F16 if !fits(parameters.read(id)) => GgufType::F32,
            kind => kind,
        };
        writer.tensor(name, &spec.shape, kind);
        ids.push((id, kind, permuted_heads(config, &spec.name)));
    }
    writer.write(path, &mut |index| {
        let (id, kind, heads) = ids[index];
        let mut values = parameters.read(id);
        if let Some(heads) = heads {
            let columns = parameters.get(id).shape().last();
            values = permute_rows(&values, columns, config.head_dim(), heads, Direction::ToGguf);
        }
        encode(kind, &values, &**parameters.device())
    })
}

/// Reads a model and its tokenizer from an open GGUF file. Quantised matrices stay so; all else
/// becomes f32.
pub fn read_gguf(
    file: &GgufFile,
    device: &Arc<dyn Device>,
) -> Result<(ModelConfig, ParameterStore, Tokenizer), DecoderError> {
    let reader = Reader { file };
    let config = reader.config()?;
    let tokenizer = reader.tokenizer(&config)?;
    let mut parameters = ParameterStore::new(Arc::clone(device));
    let specs = parameter_specs(&config);
    for spec in &specs {
        let name = gguf_name(&spec.name).unwrap_or_default();
        let tensor = reader.tensor(&name)?;
        if tensor.shape != spec.shape {
            let message =
                format!("{name} has shape {:?} instead of {:?}", tensor.shape, spec.shape);
            return Err(reader.malformed(message));
        }
        let heads = permuted_heads(&config, &spec.name);
        let (columns, head_dim) = (*spec.shape.last().unwrap_or(&0), config.head_dim());
        if let (GgufType::Blocks(format), [_, _]) = (tensor.kind, &spec.shape[..]) {
            let mut bytes = file.data(tensor).to_vec();
            if let Some(heads) = heads {
                let row = format.row_bytes(columns);
                bytes = permute_rows(&bytes, row, head_dim, heads, Direction::FromGguf);
            }
            parameters.add_quantised(&spec.name, &spec.shape, format, bytes)?;
        } else {
            let mut values = file.values(tensor);
            if let Some(heads) = heads {
                values = permute_rows(&values, columns, head_dim, heads, Direction::FromGguf);
            }
            parameters.add(&spec.name, &spec.shape, &values, spec.init_std.is_some())?;
        }
    }
    let names: Vec<Option<String>> = specs.iter().map(|spec| gguf_name(&spec.name)).collect();
    let unknown = |name: &&String| !names.iter().flatten().any(|known| known == *name);
    if let Some(name) = file.tensors().keys().find(unknown) {
        return Err(reader.unsupported("tensor", name, "this decoder has no such parameter"));
    }
    Ok((config, parameters, tokenizer))
}

fn architecture(config: &ModelConfig) -> &'static str {
    if config.qk_norm { "qwen3" } else { "llama" }
}

fn describe_model(
    writer: &mut GgufWriter,
    format: GgufFormat,
    config: &ModelConfig,
    description: &GgufDescription,
) {
    let text = |text: &str| GgufValue::String(text.to_owned());
    let size = |size: usize| GgufValue::U32(size as u32);
    let architecture = architecture(config);
    writer.metadata("general.architecture", text(architecture));
    writer.metadata("general.type", text("model"));
    writer.metadata("general.name", text(&description.name));
    if let Some(licence) = &description.licence {
        writer.metadata("general.license", text(licence));
    }
    if !description.languages.is_empty() {
        let languages = description.languages.iter().map(|language| text(language)).collect();
        writer.metadata("general.languages", GgufValue::Array(languages));
    }
    if let Some(hash) = description.source_hash {
        writer.metadata("general.source.blake3", text(&hash.to_string()));
    }
    writer.metadata("general.file_type", GgufValue::U32(format.file_type()));
    writer.metadata("general.quantization_version", GgufValue::U32(QUANTIZATION_VERSION));
    for (key, value) in [
        ("block_count", size(config.layers)),
        ("context_length", size(config.context_length)),
        ("embedding_length", size(config.hidden_size)),
        ("feed_forward_length", size(config.ffn_size)),
        ("attention.head_count", size(config.heads)),
        ("attention.head_count_kv", size(config.kv_heads)),
        ("attention.key_length", size(config.head_dim())),
        ("attention.value_length", size(config.head_dim())),
        ("attention.layer_norm_rms_epsilon", GgufValue::F32(config.norm_epsilon as f32)),
        ("rope.freq_base", GgufValue::F32(config.rope_theta as f32)),
        ("rope.dimension_count", size(config.head_dim())),
        ("vocab_size", size(config.vocab_size)),
    ] {
        writer.metadata(format!("{architecture}.{key}"), value);
    }
}

fn describe_tokenizer(
    writer: &mut GgufWriter,
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    description: &GgufDescription,
) -> Result<(), DecoderError> {
    let TokenizerParts { tokens, merges, special, user_defined, pre_split, eos, bos } =
        tokenizer.to_parts()?;
    if tokens.len() > config.vocab_size {
        let message =
            format!("is {}, but the tokenizer has {} tokens", config.vocab_size, tokens.len());
        return Err(DecoderError::Config { key: "vocab_size".to_owned(), message });
    }
    let text = |text: &str| GgufValue::String(text.to_owned());
    let padding = tokens.len()..config.vocab_size;
    let mut kinds = vec![NORMAL_TOKEN; tokens.len()];
    for (ids, number) in [(&special, CONTROL_TOKEN), (&user_defined, USER_DEFINED_TOKEN)] {
        for &id in ids {
            if let Some(kind) = kinds.get_mut(id as usize) {
                *kind = number;
            }
        }
    }
    kinds.resize(config.vocab_size, UNUSED_TOKEN);
    let tokens = tokens.iter().cloned().chain(padding.map(|id| format!("[PAD{id}]")));
    let merges = merges.iter().map(|(left, right)| text(&format!("{left} {right}")));
    writer.metadata("tokenizer.ggml.model", text("gpt2"));
    writer.metadata("tokenizer.ggml.pre", text(pre_split.gguf_name()));
    let list = GgufValue::Array;
    writer.metadata("tokenizer.ggml.tokens", list(tokens.map(GgufValue::String).collect()));
    let kinds = kinds.into_iter().map(GgufValue::I32).collect();
    writer.metadata("tokenizer.ggml.token_type", list(kinds));
    writer.metadata("tokenizer.ggml.merges", list(merges.collect()));
    if let Some(eos) = eos {
        writer.metadata("tokenizer.ggml.eos_token_id", GgufValue::U32(eos));
    }
    // llama.cpp has a default of its own for a missing BOS, which is some other token of ours.
    if let Some(bos) = bos.or(eos) {
        writer.metadata("tokenizer.ggml.bos_token_id", GgufValue::U32(bos));
    }
    let turn_ends = tokenizer.stop_ids().iter().copied().find(|&id| Some(id) != eos);
    if let Some(eot) = turn_ends.or(eos) {
        writer.metadata("tokenizer.ggml.eot_token_id", GgufValue::U32(eot));
    }
    writer.metadata("tokenizer.ggml.add_bos_token", GgufValue::Bool(false));
    writer.metadata("tokenizer.ggml.add_eos_token", GgufValue::Bool(false));
    if let Some(template) = &description.chat_template {
        writer.metadata("tokenizer.chat_template", text(template));
    }
    Ok(())
}

/// The name in GGUF of a parameter of ours.
fn gguf_name(name: &str) -> Option<String> {
    let plain = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(plain) = plain {
        return Some(plain.to_owned());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let part = match part.strip_suffix(".weight")? {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.weight"))
}

/// The number of heads whose rows are reordered, for q and k of architecture `llama`.
fn permuted_heads(config: &ModelConfig, name: &str) -> Option<usize> {
    if config.qk_norm {
        None
    } else if name.ends_with("q_proj.weight") {
        Some(config.heads)
    } else if name.ends_with("k_proj.weight") {
        Some(config.kv_heads)
    } else {
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToGguf,
    FromGguf,
}

/// Reorders the rows of each head: halves `(i, i + d/2)` become neighbours `(2i, 2i + 1)`, or back.
fn permute_rows<T: Copy>(
    values: &[T],
    row: usize,
    head_dim: usize,
    heads: usize,
    direction: Direction,
) -> Vec<T> {
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for position in 0..head_dim {
            let source = match direction {
                Direction::ToGguf => position % 2 * half + position / 2,
                Direction::FromGguf => position % half * 2 + position / half,
            };
            let start = (head * head_dim + source) * row;
            out.extend_from_slice(&values[start..start + row]);
        }
    }
    out
}

fn encode(kind: GgufType, values: &[f32], device: &dyn Device) -> Vec<u8> {
    match kind {
        GgufType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        GgufType::F16 => {
            values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
        }
        GgufType::Bf16 => {
            values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect()
        }
        GgufType::Blocks(format) => device.quantise(format, values),
    }
}

/// Reads what a model needs from the metadata.
struct Reader<'a> {
    file: &'a GgufFile,
}

impl Reader<'_> {
    fn config(&self) -> Result<ModelConfig, DecoderError> {
        let architecture = self.text("general.architecture")?;
        let qk_norm = match architecture {
            "qwen3" => true,
            "llama" => false,
            other => {
                let message = "this decoder reads qwen3 and llama";
                return Err(self.unsupported("general.architecture", other, message));
            }
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str| self.size(&key(name));
        for (name, plain) in [("rope.scaling.type", "none"), ("expert_count", "0")] {
            if let Some(value) = self.file.metadata().get(&key(name)) {
                let text = value.as_str().map(str::to_owned);
                let text = text.or_else(|| value.as_u64().map(|number| number.to_string()));
                let text = text.unwrap_or_default();
                if text != plain {
                    return Err(self.unsupported(&key(name), &text, "only plain decoders"));
                }
            }
        }
        let heads = size("attention.head_count")?;
        let hidden_size = size("embedding_length")?;
        let optional = |name: &str| -> Result<Option<usize>, DecoderError> {
            self.file.metadata().contains_key(&key(name)).then(|| size(name)).transpose()
        };
        let head_dim = optional("attention.key_length")?;
        if let Some(value_length) = optional("attention.value_length")?
            && Some(value_length) != head_dim
        {
            let name = key("attention.value_length");
            let message = "keys and values must have the same length";
            return Err(self.unsupported(&name, &value_length.to_string(), message));
        }
        let width = head_dim.or_else(|| hidden_size.checked_div(heads)).unwrap_or(0);
        if let Some(rotated) = optional("rope.dimension_count")?
            && rotated != width
        {
            let name = key("rope.dimension_count");
            return Err(self.unsupported(&name, &rotated.to_string(), "whole heads are rotated"));
        }
        let number = |name: &str| self.file.metadata().get(&key(name)).and_then(GgufValue::as_f64);
        let tensors = self.file.tensors();
        let embedding = self.tensor("token_embd.weight")?;
        let config = ModelConfig {
            hidden_size,
            layers: size("block_count")?,
            heads,
            kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
            head_dim: head_dim.filter(|&k| k.checked_mul(heads) != Some(hidden_size)),
            ffn_size: size("feed_forward_length")?,
            vocab_size: embedding.shape[0],
            context_length: size("context_length")?,
            rope_theta: number("rope.freq_base").unwrap_or(10_000.0),
            norm_epsilon: shortest(number("attention.layer_norm_rms_epsilon").unwrap_or(1e-6)),
            qk_norm,
            tie_embeddings: !tensors.contains_key("output.weight"),
            init_std: 0.02,
        };
        config.check()?;
        if config.layers > tensors.len() {
            let message =
                format!("it claims {} layers in {} tensors", config.layers, tensors.len());
            return Err(self.malformed(message));
        }
        Ok(config)
    }

    fn tokenizer(&self, config: &ModelConfig) -> Result<Tokenizer, DecoderError> {
        let model = self.text("tokenizer.ggml.model")?;
        if model != "gpt2" {
            let message = "byte-level BPE (gpt2) is read";
            return Err(self.unsupported("tokenizer.ggml.model", model, message));
        }
        let pre = self.text("tokenizer.ggml.pre")?;
        let pre_split = PreSplit::from_gguf_name(pre).ok_or_else(|| {
            self.unsupported("tokenizer.ggml.pre", pre, "this pre-tokenizer is not known here")
        })?;
        let mut tokens = self.texts("tokenizer.ggml.tokens")?;
        if tokens.len() > config.vocab_size {
            let message = format!("{} tokens for {} embeddings", tokens.len(), config.vocab_size);
            return Err(self.malformed(message));
        }
        let kinds = self.file.metadata().get("tokenizer.ggml.token_type");
        let kinds: Vec<u64> = kinds
            .and_then(GgufValue::as_array)
            .unwrap_or_default()
            .iter()
            .map(|kind| kind.as_u64().unwrap_or(0))
            .collect();
        let of_kind = |id: usize, kind: i32| kinds.get(id) == Some(&(kind as u64));
        while tokens.last().is_some_and(|_| of_kind(tokens.len() - 1, UNUSED_TOKEN)) {
            tokens.pop();
        }
        let ids_of = |kind: i32| -> Vec<u32> {
            (0..tokens.len()).filter(|&id| of_kind(id, kind)).map(|id| id as u32).collect()
        };
        let (special, user_defined) = (ids_of(CONTROL_TOKEN), ids_of(USER_DEFINED_TOKEN));
        let merges = self
            .texts("tokenizer.ggml.merges")?
            .into_iter()
            .map(|merge| {
                // A token never begins with a space here, so the first space after it separates.
                let split = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
                let (at, _) = split.ok_or_else(|| {
                    self.malformed(format!("the merge {merge:?} is no pair of tokens"))
                })?;
                Ok((merge[..at].to_owned(), merge[at + 1..].to_owned()))
            })
            .collect::<Result<_, DecoderError>>()?;
        let token = |name: &str| -> Result<Option<u32>, DecoderError> {
            let Some(value) = self.file.metadata().get(name) else { return Ok(None) };
            let id = value.as_u64().filter(|&id| id < tokens.len() as u64);
            id.map(|id| Some(id as u32))
                .ok_or_else(|| self.malformed(format!("{name} is {value:?}, which is no token")))
        };
        let eos = token("tokenizer.ggml.eos_token_id")?;
        let adds_bos = self.file.metadata().get("tokenizer.ggml.add_bos_token");
        let adds_bos = adds_bos == Some(&GgufValue::Bool(true));
        let bos = token("tokenizer.ggml.bos_token_id")?.filter(|_| adds_bos);
        let parts = TokenizerParts { tokens, merges, special, user_defined, pre_split, eos, bos };
        Ok(Tokenizer::from_parts(&parts)?)
    }

    fn tensor(&self, name: &str) -> Result<&GgufTensor, DecoderError> {
        let tensor = self.file.tensors().get(name);
        tensor.ok_or_else(|| self.malformed(format!("it has no tensor {name:?}")))
    }

    fn value(&self, key: &str) -> Result<&GgufValue, DecoderError> {
        self.file.metadata().get(key).ok_or_else(|| self.malformed(format!("{key} is missing")))
    }

    fn text(&self, key: &str) -> Result<&str, DecoderError> {
        let value = self.value(key)?.as_str();
        value.ok_or_else(|| self.malformed(format!("{key} is no text")))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, DecoderError> {
        let values = self.value(key)?.as_array();
        let texts = values.and_then(|values| {
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
        });
        texts.ok_or_else(|| self.malformed(format!("{key} is no list of texts")))
    }

    fn size(&self, key: &str) -> Result<usize, DecoderError> {
        let value = self.value(key)?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.malformed(format!("{key} is {value:?}, not a size")))
    }

    fn malformed(&self, message: String) -> DecoderError {
        DecoderError::Format { path: self.file.path().to_owned(), format: "GGUF", message }
    }

    fn unsupported(&self, field: &str, value: &str, message: &str) -> DecoderError {
        DecoderError::Unsupported {
            path: self.file.path().to_owned(),
            field: field.to_owned(),
            value: format!("{value:?}"),
            message: message.to_owned(),
        }
    }
}

/// The shortest decimal that rounds to the same f32: 1e-6 is stored as 9.99999997e-7.
fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reordered_rows_come_back() {
        let values: Vec<u32> = (0..2 * 6 * 3).collect();
        let there = permute_rows(&values, 3, 6, 2, Direction::ToGguf);
        assert_eq!(permute_rows(&there, 3, 6, 2, Direction::FromGguf), values);
        // Row 1 of a head of 6 was row 3: the second half's first.
        assert_eq!(there[3..6], values[9..12]);
    }

    #[test]
    fn every_parameter_has_a_name_in_gguf() {
        for qk_norm in [false, true] {
            let config = ModelConfig { qk_norm, tie_embeddings: false, ..ModelConfig::default() };
            for spec in parameter_specs(&config) {
                assert!(gguf_name(&spec.name).is_some_and(|name| name.len() <= 64), "{spec:?}");
            }
        }
        assert_eq!(gguf_name("model.layers.0.self_attn.q_proj.bias"), None);
    }
}

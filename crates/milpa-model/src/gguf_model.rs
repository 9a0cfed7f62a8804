//! A decoder and its tokenizer as GGUF: weights moved in and out, and llama.cpp's tokenizers.
//!
//! How a family's description and tensors stand in such a file is in `gguf_family.rs`; what each tensor
//! is stored as when written is `gguf_format.rs`'s choice; a matrix whose values half precision cannot
//! hold is written in F32 instead. Where llama.cpp turns neighbouring pairs of a head and not its
//! halves, the rows of q and k are reordered.

use std::{cell::RefCell, path::Path, sync::Arc};

use milpa_base::Digest;
use milpa_tensor::{Device, ParameterStore};
use milpa_tokens::{PreSplit, Tokenizer, TokenizerParts};

use crate::{
    description::DecoderDescription,
    error::DecoderError,
    gguf::{GgufFile, GgufTensor, GgufType, GgufValue, GgufWriter},
    gguf_family::{
        Header, StoredPart, StoredTensor, is_rope_tensor, metadata_of, rope_tensors, stored_tensors,
    },
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
/// If llama.cpp would compute something else than the model does, the tokenizer has more tokens than
/// the model or is not byte-level, or the file cannot be written.
pub fn write_gguf(
    path: &Path,
    format: GgufFormat,
    model: impl Into<DecoderDescription>,
    parameters: &ParameterStore,
    tokenizer: &Tokenizer,
    about: &GgufDescription,
) -> Result<(), DecoderError> {
    let model = model.into();
    model.check()?;
    let mut writer = GgufWriter::default();
    let family = metadata_of(&model, path)?;
    describe_model(&mut writer, format, family, about);
    describe_tokenizer(&mut writer, &model, tokenizer, about)?;
    let factors = rope_tensors(&model);
    for (name, values) in &factors {
        writer.tensor(*name, &[values.len()], GgufType::F32);
    }
    let tensors = stored_tensors(&model);
    let mut kinds = Vec::new();
    for tensor in &tensors {
        let kind = match &tensor.shape[..] {
            [_] => GgufType::F32,
            shape => {
                let role = MatrixRole::of(&tensor.name, model.layers.len(), model.tie_embeddings);
                format.matrix(role, shape[shape.len() - 1])
            }
        };
        let kind = match kind {
            GgufType::F16 if !fits_half_precision(tensor, parameters)? => GgufType::F32,
            kind => kind,
        };
        writer.tensor(&tensor.name, &tensor.shape, kind);
        // Whatever is missing is known before anything is written.
        tensor.parts.iter().try_for_each(|part| values_of(part, parameters).map(|_| ()))?;
        kinds.push(kind);
    }
    writer.write(path, &mut |index| {
        let Some(index) = index.checked_sub(factors.len()) else {
            return encode(GgufType::F32, &factors[index].1, &**parameters.device());
        };
        let mut values = Vec::new();
        for part in &tensors[index].parts {
            let own = values_of(part, parameters).expect("all parameters were there");
            match part.reordered_heads {
                Some(heads) => {
                    let row = part.row();
                    values.extend(reordered(&own, row, model.head_dim, heads, Direction::ToGguf));
                }
                None => values.extend(own),
            }
        }
        encode(kinds[index], &values, &**parameters.device())
    })
}

/// Reads a model and its tokenizer from an open GGUF file. Quantised matrices stay so; all else
/// becomes f32, and so do quantised experts.
///
/// # Errors
/// An architecture, a key, a tensor or a tokenizer that is not known here, or a malformed file.
pub fn read_gguf(
    file: &GgufFile,
    device: &Arc<dyn Device>,
) -> Result<(DecoderDescription, ParameterStore, Tokenizer), DecoderError> {
    let header = Header {
        path: file.path(),
        metadata: file.metadata(),
        shape: &|name| file.tensors().get(name).map(|tensor| tensor.shape.clone()),
        values: &|name| file.tensors().get(name).map(|tensor| file.values(tensor)),
        known: RefCell::default(),
    };
    let description = header.description()?;
    let reader = Reader { file };
    let tokenizer = reader.tokenizer(description.vocab_size)?;
    let mut parameters = ParameterStore::new(Arc::clone(device));
    let tensors = stored_tensors(&description);
    for stored in &tensors {
        let tensor = reader.tensor(&stored.name)?;
        if tensor.shape != stored.shape {
            let StoredTensor { name, shape, .. } = stored;
            let message = format!("{name} has shape {:?} instead of {shape:?}", tensor.shape);
            return Err(reader.malformed(message));
        }
        reader.add(&mut parameters, tensor, stored, description.head_dim)?;
    }
    let known = |name: &String| is_rope_tensor(name) || tensors.iter().any(|t| t.name == *name);
    if let Some(name) = file.tensors().keys().find(|name| !known(name)) {
        return Err(reader.unsupported("tensor", name, "this decoder has no such parameter"));
    }
    Ok((description, parameters, tokenizer))
}

fn values_of(part: &StoredPart, parameters: &ParameterStore) -> Result<Vec<f32>, DecoderError> {
    let id = parameters.id(&part.spec.name).ok_or_else(|| DecoderError::Parameter {
        name: part.spec.name.clone(),
        message: "is missing among the weights".to_owned(),
    })?;
    Ok(parameters.read(id))
}

fn fits_half_precision(
    tensor: &StoredTensor,
    parameters: &ParameterStore,
) -> Result<bool, DecoderError> {
    for part in &tensor.parts {
        if values_of(part, parameters)?.iter().any(|value| value.abs() > MAX_F16) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn describe_model(
    writer: &mut GgufWriter,
    format: GgufFormat,
    family: Vec<(String, GgufValue)>,
    about: &GgufDescription,
) {
    let text = |text: &str| GgufValue::String(text.to_owned());
    let mut family = family.into_iter();
    if let Some((key, architecture)) = family.next() {
        writer.metadata(key, architecture);
    }
    writer.metadata("general.type", text("model"));
    writer.metadata("general.name", text(&about.name));
    if let Some(licence) = &about.licence {
        writer.metadata("general.license", text(licence));
    }
    if !about.languages.is_empty() {
        let languages = about.languages.iter().map(|language| text(language)).collect();
        writer.metadata("general.languages", GgufValue::Array(languages));
    }
    if let Some(hash) = about.source_hash {
        writer.metadata("general.source.blake3", text(&hash.to_string()));
    }
    writer.metadata("general.file_type", GgufValue::U32(format.file_type()));
    writer.metadata("general.quantization_version", GgufValue::U32(QUANTIZATION_VERSION));
    family.for_each(|(key, value)| writer.metadata(key, value));
}

fn describe_tokenizer(
    writer: &mut GgufWriter,
    model: &DecoderDescription,
    tokenizer: &Tokenizer,
    about: &GgufDescription,
) -> Result<(), DecoderError> {
    let TokenizerParts { tokens, merges, special, user_defined, pre_split, eos, bos } =
        tokenizer.to_parts()?;
    if tokens.len() > model.vocab_size {
        let message =
            format!("is {}, but the tokenizer has {} tokens", model.vocab_size, tokens.len());
        return Err(DecoderError::Config { key: "vocab_size".to_owned(), message });
    }
    let text = |text: &str| GgufValue::String(text.to_owned());
    let padding = tokens.len()..model.vocab_size;
    let mut kinds = vec![NORMAL_TOKEN; tokens.len()];
    for (ids, number) in [(&special, CONTROL_TOKEN), (&user_defined, USER_DEFINED_TOKEN)] {
        for &id in ids {
            if let Some(kind) = kinds.get_mut(id as usize) {
                *kind = number;
            }
        }
    }
    kinds.resize(model.vocab_size, UNUSED_TOKEN);
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
    if let Some(template) = &about.chat_template {
        writer.metadata("tokenizer.chat_template", text(template));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToGguf,
    FromGguf,
}

/// Reorders the rows of each head: halves `(i, i + d/2)` become neighbours `(2i, 2i + 1)`, or back.
fn reordered<T: Copy>(
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

/// Reads tokenizer and weights.
struct Reader<'a> {
    file: &'a GgufFile,
}

impl Reader<'_> {
    /// Adds the parameters that a tensor holds.
    fn add(
        &self,
        parameters: &mut ParameterStore,
        tensor: &GgufTensor,
        stored: &StoredTensor,
        head_dim: usize,
    ) -> Result<(), DecoderError> {
        let back = Direction::FromGguf;
        if let (GgufType::Blocks(format), [_, columns]) = (tensor.kind, &stored.shape[..]) {
            let row = format.row_bytes(*columns);
            let mut rest = self.file.data(tensor);
            for StoredPart { spec, reordered_heads } in &stored.parts {
                let (own, later) = rest.split_at(spec.shape[0] * row);
                rest = later;
                let bytes = match reordered_heads {
                    Some(heads) => reordered(own, row, head_dim, *heads, back),
                    None => own.to_vec(),
                };
                parameters.add_quantised(&spec.name, &spec.shape, format, bytes)?;
            }
            return Ok(());
        }
        let values = self.file.values(tensor);
        let mut rest = &values[..];
        for part in &stored.parts {
            let StoredPart { spec, reordered_heads } = part;
            let (own, later) = rest.split_at(spec.shape.iter().product());
            rest = later;
            let decay = spec.init_std.is_some();
            match reordered_heads {
                Some(heads) => {
                    let own = reordered(own, part.row(), head_dim, *heads, back);
                    parameters.add(&spec.name, &spec.shape, &own, decay)?;
                }
                None => {
                    parameters.add(&spec.name, &spec.shape, own, decay)?;
                }
            }
        }
        Ok(())
    }

    fn tokenizer(&self, vocab_size: usize) -> Result<Tokenizer, DecoderError> {
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
        if tokens.len() > vocab_size {
            let message = format!("{} tokens for {vocab_size} embeddings", tokens.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reordered_rows_come_back() {
        let values: Vec<u32> = (0..2 * 6 * 3).collect();
        let there = reordered(&values, 3, 6, 2, Direction::ToGguf);
        assert_eq!(reordered(&there, 3, 6, 2, Direction::FromGguf), values);
        // Row 1 of a head of 6 was row 3: the second half's first.
        assert_eq!(there[3..6], values[9..12]);
    }
}

//! A decoder and its tokenizer as GGUF: weights moved in and out.
//!
//! How a family's description and tensors stand in such a file is in `gguf_family.rs`, how its tokenizer
//! does in `gguf_tokenizer.rs`; what each tensor is stored as when written is `gguf_format.rs`'s choice; a matrix whose values half precision cannot
//! hold is written in F32 instead. Where llama.cpp turns neighbouring pairs of a head and not its
//! halves, the rows of q and k are reordered.

use std::{cell::RefCell, path::Path};

use milpa_base::Digest;
use milpa_tensor::{Device, ParameterStore};
use milpa_tokens::Tokenizer;

use crate::{
    description::DecoderDescription,
    error::DecoderError,
    gguf::{GgufFile, GgufTensor, GgufType, GgufValue, GgufWriter},
    gguf_family::{
        Header, StoredPart, StoredTensor, is_rope_tensor, metadata_of, rope_tensors, stored_tensors,
    },
    gguf_format::{GgufFormat, MatrixRole},
    gguf_tokenizer::{read_tokenizer, tokenizer_metadata},
};

/// Version of the block formats.
const QUANTIZATION_VERSION: u32 = 2;
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

/// Checks that a GGUF file can hold a model with its tokenizer, which takes no weights.
///
/// # Errors
/// As those of [`write_gguf`] that lie in the model or the tokenizer; they name `path`.
pub fn check_gguf(
    path: &Path,
    description: &DecoderDescription,
    tokenizer: &Tokenizer,
) -> Result<(), DecoderError> {
    metadata_of(description, path)?;
    tokenizer_metadata(tokenizer, description.vocab_size).map(drop)
}

/// Writes a model with its tokenizer as a GGUF file whose matrices are stored as `format` says.
///
/// # Errors
/// If the model has a head besides or instead of a language model's, llama.cpp would compute something
/// else than the model does, the tokenizer has more tokens than
/// the model or is of a kind that GGUF does not hold, or the file cannot be written.
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
    for (key, value) in tokenizer_metadata(tokenizer, model.vocab_size)? {
        writer.metadata(key, value);
    }
    if let Some(template) = &about.chat_template {
        writer.metadata("tokenizer.chat_template", GgufValue::String(template.clone()));
    }
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
            return encode(GgufType::F32, &factors[index].1, parameters.device());
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
        encode(kinds[index], &values, parameters.device())
    })
}

/// Reads a model and its tokenizer from an open GGUF file. Quantised matrices stay so; all else
/// becomes f32, and so do quantised experts.
///
/// # Errors
/// An architecture, a key, a tensor or a tokenizer that is not known here, or a malformed file.
pub fn read_gguf(
    file: &GgufFile,
    device: &Device,
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
    let tokenizer = read_tokenizer(file, description.vocab_size)?;
    let mut parameters = ParameterStore::new(device.clone());
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

fn encode(kind: GgufType, values: &[f32], device: &Device) -> Vec<u8> {
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

/// Reads weights.
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

    fn tensor(&self, name: &str) -> Result<&GgufTensor, DecoderError> {
        let tensor = self.file.tensors().get(name);
        tensor.ok_or_else(|| self.malformed(format!("it has no tensor {name:?}")))
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

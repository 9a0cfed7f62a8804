//! A larger vocabulary: rows of the embedding and of an untied output layer for new tokens.
//!
//! A new token stands for old ones in a row, and begins as the mean of their rows (arXiv:2406.11477; why
//! means: arXiv:2407.05841). WECHSEL (arXiv:2112.06598) and FOCUS (arXiv:2305.14481) choose rows by
//! similarity instead, where two vocabularies share little. All other weights stay as they are, so a text
//! without new tokens has the same hidden states and the same logits of old tokens as before; its
//! probabilities lose what the softmax now gives to new rows. How tokens are learned is `milpa_tokens::extend_tokenizer`'s.

use std::{collections::BTreeMap, path::Path};

use milpa_base::{ArtifactWriter, Kind, Manifest, artifact::Record};
use milpa_tensor::ParameterStore;
use milpa_tokens::{ChatTemplate, Tokenizer, new_token_parts};
use serde::{Deserialize, Serialize};

use crate::{
    description::{DecoderDescription, MAX_SIZE},
    error::DecoderError,
    hf::{write_hf_settings, write_tensors},
    merge::is_by_token,
    merge_folder::{FolderContext, Opened},
    shards::DEFAULT_MAX_SHARD_SIZE,
};

/// How the rows of new tokens begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewRows {
    /// The mean of the rows of the old tokens that the new one stands for.
    #[default]
    MeanOfParts,
    /// The mean of the rows of all old tokens, the same for every new one.
    MeanOfAll,
}

/// Gives a model in memory rows for new tokens with the ids `first`, `first + 1`, …: for each the old
/// tokens that it stands for.
///
/// `first` is the number of tokens of the base's tokenizer. Rows that the base has beyond them, since its
/// vocabulary is padded, become those of new tokens first; those that are left stay as they are. Returns
/// what the extended model computes, and its parameters.
///
/// # Errors
/// A token without parts, or with parts that are no old tokens; more tokens than a model can have.
pub fn extend_vocabulary(
    parameters: &ParameterStore,
    description: &DecoderDescription,
    first: usize,
    new_tokens: &[Vec<u32>],
    method: NewRows,
) -> Result<(DecoderDescription, ParameterStore), DecoderError> {
    let extended = extended_description(description, first, new_tokens)?;
    let mut store = ParameterStore::new(parameters.device().clone());
    for parameter in parameters {
        let id = parameters.id(parameter.name()).expect("the store has its own parameter");
        let mut values = parameters.read(id);
        let mut shape = parameter.shape().lengths().to_vec();
        if is_by_token(parameter.name()) {
            values = extend_rows(values, shape[1], first, new_tokens, method);
            shape[0] = extended.vocab_size;
        }
        store.add(parameter.name(), &shape, &values, parameter.decay())?;
    }
    Ok((extended, store))
}

/// Writes the model in `base` with the vocabulary of `tokenizer`, an extension of its own, to the folder
/// `out`: a Hugging Face folder with tokenizer and manifest, of the kind of a checkpoint.
///
/// Tensors are copied one at a time, so memory holds the largest one.
///
/// # Errors
/// A base that cannot be read, a tokenizer that is no extension of the base's, a full disk, a stop.
pub fn extend_model(
    base: &Path,
    tokenizer: &Tokenizer,
    method: NewRows,
    out: &Path,
    context: &FolderContext<'_>,
) -> Result<Manifest, DecoderError> {
    let base = Opened::open(base)?;
    let new_tokens = new_token_parts(&base.tokenizer, tokenizer)?;
    let first = base.tokenizer.vocab_size();
    let description = extended_description(&base.description, first, &new_tokens)?;
    let tokenizer = tokenizer.with_names_of(&base.tokenizer);
    let writer = ArtifactWriter::begin(out, Kind::Checkpoint)?;
    write_hf_settings(writer.dir(), &description, tokenizer.eos_id(), tokenizer.bos_id())?;
    let template = tokenizer.chat_template().cloned();
    tokenizer.write_files(writer.dir(), &template.unwrap_or_else(ChatTemplate::continuation))?;
    let tensors = base.weights.tensors().len() as u64;
    context.progress.begin("Extending", Some(tensors), "tensors");
    let limit = DEFAULT_MAX_SHARD_SIZE;
    let written = write_tensors(writer.dir(), &description, limit, &mut |index, tensor| {
        if context.stop.is_set() {
            return Err(DecoderError::Stopped);
        }
        context.progress.advance(index as u64 + 1);
        let values = base.weights.read(index);
        if !is_by_token(&tensor.name) {
            return Ok(values);
        }
        Ok(extend_rows(values, tensor.shape[1], first, &new_tokens, method))
    });
    context.progress.end();
    written?;
    let inputs = BTreeMap::from([
        ("base".to_owned(), base.hash),
        ("base_tokenizer".to_owned(), base.tokenizer.hash()),
        ("tokenizer".to_owned(), tokenizer.hash()),
    ]);
    let config = BTreeMap::from([("new_rows", method)]);
    let mut record = Record::new("extended model", &config, inputs)?;
    record.licences = base.licences;
    record.counts = [
        ("parameters", description.parameters()),
        ("base_tokens", first as u64),
        ("new_tokens", new_tokens.len() as u64),
        ("rows", description.vocab_size as u64),
    ]
    .map(|(name, count)| (name.to_owned(), count))
    .into();
    Ok(writer.finish(record)?)
}

/// Checks the new tokens and says what the extended model computes.
fn extended_description(
    description: &DecoderDescription,
    first: usize,
    new_tokens: &[Vec<u32>],
) -> Result<DecoderDescription, DecoderError> {
    let rows = description.vocab_size;
    if first == 0 || first > rows {
        return Err(DecoderError::Extend(format!(
            "the model has {rows} rows, so its tokenizer cannot have {first} tokens"
        )));
    }
    let tokens = first.saturating_add(new_tokens.len());
    if tokens > MAX_SIZE {
        return Err(DecoderError::Extend(format!(
            "{tokens} tokens would be more than {MAX_SIZE}, the most that a model has"
        )));
    }
    for (index, parts) in new_tokens.iter().enumerate() {
        let id = first + index;
        if parts.is_empty() {
            return Err(DecoderError::Extend(format!("the new token {id} stands for no old one")));
        }
        if let Some(part) = parts.iter().find(|part| **part as usize >= first) {
            return Err(DecoderError::Extend(format!(
                "the new token {id} stands for {part}, but old tokens end at {}",
                first - 1
            )));
        }
    }
    Ok(DecoderDescription { vocab_size: rows.max(tokens), ..description.clone() })
}

/// Writes the rows of new tokens into a matrix `[rows, width]`, which grows as far as it must.
fn extend_rows(
    mut values: Vec<f32>,
    width: usize,
    first: usize,
    new_tokens: &[Vec<u32>],
    method: NewRows,
) -> Vec<f32> {
    let end = (first + new_tokens.len()) * width;
    if values.len() < end {
        values.resize(end, 0.0);
    }
    let (old, new) = values.split_at_mut(first * width);
    let mean = |rows: &mut dyn ExactSizeIterator<Item = usize>| -> Vec<f32> {
        let (mut sums, count) = (vec![0.0; width], rows.len() as f64);
        for row in rows {
            let values = &old[row * width..][..width];
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        sums.into_iter().map(|sum| (sum / count) as f32).collect()
    };
    let of_all = match method {
        NewRows::MeanOfAll => Some(mean(&mut (0..first))),
        NewRows::MeanOfParts => None,
    };
    for (row, parts) in new.chunks_exact_mut(width).zip(new_tokens) {
        match &of_all {
            Some(mean) => row.copy_from_slice(mean),
            None => row.copy_from_slice(&mean(&mut parts.iter().map(|part| *part as usize))),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, decoder::new_parameters};
    use milpa_base::Seed;
    use milpa_tensor::Device;

    #[test]
    fn new_rows_are_means_and_old_ones_stay() {
        let values: Vec<f32> = vec![1.0, 2.0, 3.0, 4.0, 5.0, 9.0, -1.0, -1.0];
        let new = [vec![0, 1], vec![2], vec![0, 0, 2]];
        // Three tokens and a row that pads.
        let rows = extend_rows(values.clone(), 2, 3, &new, NewRows::MeanOfParts);
        assert_eq!(rows[..6], values[..6]);
        let third = [7.0 / 3.0, 13.0 / 3.0];
        assert_eq!(rows[6..], [2.0, 3.0, 5.0, 9.0, third[0], third[1]]);
        let rows = extend_rows(values.clone(), 2, 3, &new[..2], NewRows::MeanOfAll);
        assert_eq!(rows[6..], [3.0, 5.0, 3.0, 5.0]);
        // A padding row that is not needed stays.
        let rows = extend_rows(values.clone(), 2, 2, &new[..1], NewRows::MeanOfParts);
        assert_eq!(rows, [1.0, 2.0, 3.0, 4.0, 2.0, 3.0, -1.0, -1.0]);
    }

    #[test]
    fn tokens_that_cannot_be_are_named() {
        let config = ModelConfig {
            hidden_size: 8,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            ffn_size: 8,
            vocab_size: 12,
            context_length: 8,
            ..ModelConfig::default()
        };
        let store = new_parameters(&config, Seed(1), &Device::cpu(1)).unwrap();
        let description = DecoderDescription::from(&config);
        let extend = |first, new: &[Vec<u32>]| {
            extend_vocabulary(&store, &description, first, new, NewRows::MeanOfParts)
        };
        let message = |first, new: &[Vec<u32>]| extend(first, new).unwrap_err().to_string();
        assert!(message(13, &[]).contains("12 rows"));
        assert!(message(10, &[vec![]]).contains("new token 10 stands for no old one"));
        assert!(message(10, &[vec![1], vec![10]]).contains("11 stands for 10"));
        let (extended, rows) = extend(10, &[vec![1], vec![2, 3], vec![4]]).unwrap();
        assert_eq!(extended.vocab_size, 13);
        let id = rows.id("model.embed_tokens.weight").unwrap();
        assert_eq!(rows.get(id).shape().lengths(), [13, 8]);
        assert_eq!(extend(10, &[vec![1]]).unwrap().0.vocab_size, 12);
    }
}

//! Merging the models of folders into a new folder, tensor by tensor.
//!
//! The inputs are mapped and held against each other first: same family and shape, and tokenizers that
//! give the same ids. Then each tensor is read from all of them, merged and written before the next, so
//! memory holds a few copies of the largest tensor, however many models there are. Tokens that only some
//! of the models have (an extended vocabulary) are taken from those that have them, and that is said.
//! What becomes of the values is `merge.rs`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use milpa_base::{
    ArtifactWriter, Digest, Kind, Manifest, Progress, StopFlag, artifact::Record,
    manifest::MANIFEST_FILE,
};
use milpa_tokens::{ChatTemplate, Tokenizer};
use serde::Serialize;

use crate::{
    description::DecoderDescription,
    error::DecoderError,
    hf::{
        CONFIG_FILE, WeightFiles, read_hf_description, weight_files, write_hf_settings,
        write_tensors,
    },
    hf_tensors::FileTensor,
    local::hash_files,
    lora,
    merge::{MergeMethod, is_by_token},
    shards::DEFAULT_MAX_SHARD_SIZE,
};

/// How many threads work, who hears of it, and who may stop it.
#[derive(Clone, Copy)]
pub struct FolderContext<'a> {
    /// Threads to compute with; the result does not depend on it.
    pub threads: usize,
    /// Receives progress.
    pub progress: &'a dyn Progress,
    /// Asks for a stop.
    pub stop: &'a StopFlag,
}

/// Models that can be merged: opened, and held against each other.
#[derive(Debug)]
pub struct MergeModels {
    models: Vec<Opened>,
    notes: Vec<String>,
}

/// A model folder whose tensors can be read one by one.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) description: DecoderDescription,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) weights: WeightFiles,
    /// BLAKE3 of the weights.
    pub(crate) hash: Digest,
    pub(crate) licences: Vec<String>,
}

impl Opened {
    /// Opens a Hugging Face folder: one from elsewhere, a checkpoint or a bundle.
    pub(crate) fn open(path: &Path) -> Result<Self, DecoderError> {
        let unsupported = |value: &str, message: &str| DecoderError::Unsupported {
            path: path.to_owned(),
            field: "the model".to_owned(),
            value: value.to_owned(),
            message: message.to_owned(),
        };
        if path.is_file() {
            return Err(unsupported(
                "one file",
                "its weights may be quantised; give the Hugging Face folder that it was made of",
            ));
        }
        if !path.join(CONFIG_FILE).exists() && path.join(lora::CONFIG_FILE).exists() {
            return Err(unsupported(
                "an adapter",
                "it holds changes, not weights; merge it into its model first (peft's \
                 merge_and_unload) and give that",
            ));
        }
        let description = read_hf_description(path)?;
        let tokenizer = Tokenizer::open(path)?;
        if tokenizer.vocab_size() > description.vocab_size {
            return Err(unsupported(
                &format!("of {} tokens", description.vocab_size),
                &format!("its tokenizer has {}, so it is another one's", tokenizer.vocab_size()),
            ));
        }
        let weights = WeightFiles::open(path, &description)?;
        let hash = hash_files(&weight_files(path)?)?.expect("a model has a file of weights");
        let licences = if path.join(MANIFEST_FILE).exists() {
            Manifest::read(path).map(|manifest| manifest.licences).unwrap_or_default()
        } else {
            Vec::new()
        };
        Ok(Self { path: path.to_owned(), description, tokenizer, weights, hash, licences })
    }
}

/// What a merged folder's manifest says of how it was made.
#[derive(Serialize)]
struct Recorded<'a> {
    #[serde(flatten)]
    method: &'a MergeMethod,
    models: Vec<RecordedModel>,
}

#[derive(Serialize)]
struct RecordedModel {
    role: String,
    weights: Digest,
    tokens: usize,
}

impl MergeModels {
    /// Opens folders in the order in which a method takes them.
    ///
    /// # Errors
    /// A folder that cannot be read, or one that differs from the first in what it computes, in a tensor's
    /// shape or in its tokenizer: the error names the key or token with both values.
    pub fn open<P: AsRef<Path>>(folders: &[P]) -> Result<Self, DecoderError> {
        let mut models: Vec<Opened> = Vec::with_capacity(folders.len());
        for folder in folders {
            let model = Opened::open(folder.as_ref())?;
            if let Some(first) = models.first() {
                agree(first, &model)?;
            }
            models.push(model);
        }
        // Tokenizers agree in pairs: of three, the last two may both be larger than the first.
        if let Some(largest) = models.iter().max_by_key(|model| model.tokenizer.vocab_size()) {
            models.iter().try_for_each(|model| agree_on_tokens(largest, model))?;
        }
        let mut notes = Vec::new();
        let lengths = models.iter().map(|model| model.description.context_length);
        if let (Some(least), Some(most)) = (lengths.clone().min(), lengths.max())
            && least != most
        {
            notes.push(format!(
                "the models' contexts are {least} to {most} tokens long; the merged model's is that of \
                 the shortest (chat-vector: of the continued model)"
            ));
        }
        Ok(Self { models, notes })
    }

    /// What a person should know before merging: where the models are not quite alike.
    ///
    /// Tokens that some of them lack, and what becomes of these, by `method`.
    pub fn notes(&self, method: &MergeMethod) -> Vec<String> {
        let mut notes = self.notes.clone();
        let (shared, tokens) = (self.shared_tokens(), self.tokens());
        if shared < tokens {
            let roles = method.roles(self.models.len());
            let has = |token: usize| self.has(token);
            let mut start = shared;
            for end in self.token_ends().into_iter().filter(|end| *end > shared) {
                let owners = method.owners(&has(start));
                let from = roles.iter().zip(&owners).filter(|(_, weight)| **weight > 0.0);
                let from: Vec<&str> = from.map(|(role, _)| role.as_str()).collect();
                let what = if from.len() == 1 { "as they are" } else { "as their mean" };
                notes.push(format!(
                    "tokens {start} to {} are not in all models; their rows are taken from {}, {what}",
                    end - 1,
                    from.join(", ")
                ));
                start = end;
            }
        }
        notes
    }

    /// Merges the models into the folder `out`, whole or not at all: a Hugging Face folder with tokenizer
    /// and manifest, of the kind of a checkpoint.
    ///
    /// # Errors
    /// Numbers of the method that cannot be right, results that are no numbers (the tensor is named), a
    /// full disk, a stop.
    pub fn write(
        &self,
        method: &MergeMethod,
        out: &Path,
        context: &FolderContext<'_>,
    ) -> Result<Manifest, DecoderError> {
        method.check(self.models.len())?;
        let description = self.description(method);
        let tokenizer = self.tokenizer(method);
        let writer = ArtifactWriter::begin(out, Kind::Checkpoint)?;
        write_hf_settings(writer.dir(), &description, tokenizer.eos_id(), tokenizer.bos_id())?;
        let template = tokenizer.chat_template().cloned();
        tokenizer
            .write_files(writer.dir(), &template.unwrap_or_else(ChatTemplate::continuation))?;
        let (mut tensors, mut straight) = (0, 0);
        let total = self.models[0].weights.tensors().len() as u64;
        context.progress.begin("Merging", Some(total), "tensors");
        let limit = DEFAULT_MAX_SHARD_SIZE;
        let merged = write_tensors(writer.dir(), &description, limit, &mut |index, tensor| {
            if context.stop.is_set() {
                return Err(DecoderError::Stopped);
            }
            let (values, is_straight) = self.tensor(method, index, tensor, context.threads)?;
            tensors += 1;
            straight += u64::from(is_straight);
            context.progress.advance(tensors);
            Ok(values)
        });
        context.progress.end();
        merged?;
        let roles = method.roles(self.models.len());
        let mut inputs: BTreeMap<String, Digest> =
            roles.iter().cloned().zip(self.models.iter().map(|model| model.hash)).collect();
        inputs.insert("tokenizer".to_owned(), tokenizer.hash());
        let models = roles.into_iter().zip(&self.models).map(|(role, model)| RecordedModel {
            role,
            weights: model.hash,
            tokens: model.tokenizer.vocab_size(),
        });
        let mut record =
            Record::new("merge", &Recorded { method, models: models.collect() }, inputs)?;
        record.licences = self.models.iter().flat_map(|model| model.licences.clone()).collect();
        record.counts.insert("parameters".to_owned(), description.parameters());
        record.counts.insert("tensors".to_owned(), tensors);
        if matches!(method, MergeMethod::Slerp { .. }) {
            record.counts.insert("straight_tensors".to_owned(), straight);
        }
        Ok(writer.finish(record)?)
    }

    /// Merges one tensor; also says whether a great circle was a straight line.
    fn tensor(
        &self,
        method: &MergeMethod,
        index: usize,
        tensor: &FileTensor,
        threads: usize,
    ) -> Result<(Vec<f32>, bool), DecoderError> {
        let inputs: Vec<Vec<f32>> =
            self.models.iter().map(|model| model.weights.read(index)).collect();
        let columns: usize = tensor.shape[1..].iter().product();
        let shared = if is_by_token(&tensor.name) {
            self.shared_tokens() * columns
        } else {
            inputs[0].len()
        };
        let slices: Vec<&[f32]> = inputs.iter().map(|values| &values[..shared]).collect();
        let mut merged = method.apply(&slices, threads);
        merged.values.reserve_exact(tensor.shape.iter().product::<usize>() - shared);
        for row in shared / columns..tensor.shape[0] {
            let owners = method.owners(&self.has(row));
            let value = |column: usize| -> f64 {
                let held = inputs.iter().zip(&owners).filter(|(_, weight)| **weight > 0.0);
                held.map(|(values, weight)| f64::from(values[row * columns + column]) * weight)
                    .sum()
            };
            merged.values.extend((0..columns).map(|column| value(column) as f32));
        }
        if let Some(at) = merged.values.iter().position(|value| !value.is_finite()) {
            let first = |values: &Vec<f32>| values.get(at).is_some_and(|value| !value.is_finite());
            let culprit = inputs.iter().position(first).map_or_else(
                || "the sum is too large for f32; use smaller weights".to_owned(),
                |model| format!("it is none in {}", self.models[model].path.display()),
            );
            return Err(DecoderError::Parameter {
                name: tensor.name.clone(),
                message: format!("has a value that is no finite number (place {at}): {culprit}"),
            });
        }
        Ok((merged.values, merged.is_straight))
    }

    /// What the merged model computes.
    fn description(&self, method: &MergeMethod) -> DecoderDescription {
        let descriptions = self.models.iter().map(|model| &model.description);
        let mut merged = self.models[self.preferred(method)[0]].description.clone();
        merged.vocab_size =
            descriptions.clone().map(|one| one.vocab_size).max().unwrap_or_default();
        if !matches!(method, MergeMethod::ChatVector { .. }) {
            let shortest = descriptions.map(|one| one.context_length).min();
            merged.context_length = shortest.unwrap_or_default();
        }
        merged
    }

    /// The tokenizer with the most tokens, with the names and the chat template of the model that
    /// converses.
    fn tokenizer(&self, method: &MergeMethod) -> Tokenizer {
        let order = self.preferred(method);
        let tokenizers = || order.iter().map(|&model| &self.models[model].tokenizer);
        let most = self.tokens();
        let largest = tokenizers().find(|tokenizer| tokenizer.vocab_size() == most);
        let largest = largest.expect("one of them has the most tokens");
        let converses = |tokenizer: &&Tokenizer| {
            let template = tokenizer.chat_template();
            template.is_some_and(|template| *template != ChatTemplate::continuation())
        };
        let talker = match method {
            MergeMethod::ChatVector { .. } => Some(&self.models[1].tokenizer),
            _ => tokenizers().find(converses),
        };
        talker.map_or_else(|| largest.clone(), |talker| largest.with_names_of(talker))
    }

    /// The models in the order in which files are taken from them where they may differ.
    fn preferred(&self, method: &MergeMethod) -> Vec<usize> {
        match method {
            MergeMethod::ChatVector { .. } => vec![2, 1, 0],
            MergeMethod::Ties { .. } => (1..self.models.len()).chain([0]).collect(),
            _ => (0..self.models.len()).collect(),
        }
    }

    /// Tokens of the largest vocabulary.
    fn tokens(&self) -> usize {
        self.token_ends().last().copied().unwrap_or_default()
    }

    /// Sizes of the vocabularies, each once, from the smallest.
    fn token_ends(&self) -> Vec<usize> {
        let mut ends: Vec<usize> =
            self.models.iter().map(|model| model.tokenizer.vocab_size()).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// Rows of the embedding that are merged as all other values are: those of tokens that all models
    /// have. If all have the same tokens, the rows that only pad the vocabulary are merged too.
    fn shared_tokens(&self) -> usize {
        let rows = self.models.iter().map(|model| model.description.vocab_size).min();
        match self.token_ends()[..] {
            [_] => rows.unwrap_or_default(),
            [least, ..] => least,
            [] => 0,
        }
    }

    /// Which models have the token or, beyond all tokens, the row.
    fn has(&self, row: usize) -> Vec<bool> {
        let is_token = row < self.tokens();
        let has = |model: &Opened| {
            let tokens = model.tokenizer.vocab_size();
            if is_token { row < tokens } else { row < model.description.vocab_size }
        };
        self.models.iter().map(has).collect()
    }
}

/// Refuses two models that do not compute the same function of their weights.
fn agree(first: &Opened, second: &Opened) -> Result<(), DecoderError> {
    if let Some((key, one, two)) = difference(&first.description, &second.description) {
        return Err(DecoderError::Different {
            first: first.path.clone(),
            second: second.path.clone(),
            message: format!("{key} is {one} in the first and {two} in the second"),
        });
    }
    agree_on_tokens(first, second)
}

fn agree_on_tokens(first: &Opened, second: &Opened) -> Result<(), DecoderError> {
    match first.tokenizer.difference(&second.tokenizer) {
        None => Ok(()),
        Some(difference) => Err(DecoderError::Different {
            first: first.path.clone(),
            second: second.path.clone(),
            message: format!(
                "their tokenizers differ: {difference}; rows of other tokens cannot be merged"
            ),
        }),
    }
}

/// The first key in which two descriptions differ other than in the numbers of tokens, with both values.
fn difference(
    one: &DecoderDescription,
    two: &DecoderDescription,
) -> Option<(String, String, String)> {
    macro_rules! compare {
        ($($field:ident)*) => {$(
            if one.$field != two.$field {
                let (one, two) = (&one.$field, &two.$field);
                return Some((stringify!($field).to_owned(), format!("{one:?}"), format!("{two:?}")));
            }
        )*};
    }
    compare!(family hidden_size);
    let layers = [one, two].map(|description| description.layers.len().to_string());
    if layers[0] != layers[1] {
        let [one, two] = layers;
        return Some(("layers".to_owned(), one, two));
    }
    compare!(
        heads kv_heads head_dim ffn_size tie_embeddings head experts biases norms qk_norm activation
        norm_epsilon query_scalar attention_soft_cap logit_soft_cap embedding_scale ropes
    );
    let index = (0..one.layers.len()).find(|&at| one.layers[at] != two.layers[at])?;
    let [one, two] = [one, two].map(|description| format!("{:?}", description.layers[index]));
    Some((format!("layer {index}"), one, two))
}

//! What a run begins with: random weights of a recipe's shape, or a base model's.
//!
//! A base is a Hugging Face folder of any family that `milpa-model` reads, a checkpoint or a bundle.
//! It is known by the hash of its weights, so a run is bound to it as to its text.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use milpa_base::{
    ArtifactError, Digest, Manifest, Seed,
    config::Location,
    hash_bytes,
    manifest::{MANIFEST_FILE, Verify},
};
use milpa_model::{
    Decoder, DecoderDescription, Device, LoraConfig, LoraCost, ModelConfig, OutputHead,
    ParameterStore, add_lora, check_hf_weights, hash_weights, merged_weights, new_parameters,
    read_hf_description, read_hf_weights, read_lora, write_lora,
};
use milpa_plan::AdapterShape;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// The `[base]` table of a recipe, in place of `[tokenizer]` and `[model]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseConfig {
    /// Folder with `config.json`, safetensors and a tokenizer: of Hugging Face, a checkpoint or a bundle.
    pub model: Location,
}

/// The `[train.lora]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// Rank of each change. Continued pre-training changes much: 256 and more (arXiv:2405.09673).
    pub rank: usize,
    /// The change is multiplied by `alpha / √rank`.
    #[serde(default = "sixteen")]
    pub alpha: f64,
    /// Whether the factor is the root's (rsLoRA, arXiv:2312.03732); `alpha / rank` otherwise.
    #[serde(default = "yes")]
    pub rank_stabilised: bool,
    /// Whether each changed row also has a trained length (DoRA, arXiv:2402.09353).
    #[serde(default)]
    pub dora: bool,
    /// Names of linear layers, such as `q_proj`; all of them if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Whether embedding and output layer are trained whole beside the changes (peft's
    /// `modules_to_save`): without it, the rows of a larger vocabulary stay as they began.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embeddings: bool,
}

fn sixteen() -> f64 {
    16.0
}
fn yes() -> bool {
    true
}

impl AdapterConfig {
    /// The adapter of a model.
    pub fn of(&self, description: &DecoderDescription) -> LoraConfig {
        let Self { rank, alpha, rank_stabilised, dora, ref targets, embeddings } = *self;
        let targets =
            if targets.is_empty() { LoraConfig::all_linear(description) } else { targets.clone() };
        let expert_targets = Vec::new();
        LoraConfig { rank, alpha, rank_stabilised, dora, targets, expert_targets, embeddings }
    }

    /// The planner's view of the adapter of a model.
    ///
    /// # Errors
    /// An adapter that does not fit the model.
    pub fn shape(&self, description: &DecoderDescription) -> Result<AdapterShape, TrainError> {
        let LoraCost {
            parameters,
            inner_values,
            lengthened_values,
            length_products,
            inputs_without_gradient,
            attention_without_gradient,
        } = self.of(description).cost(description)?;
        Ok(AdapterShape {
            parameters,
            embeddings: self.embeddings,
            inner_values,
            lengthened_values,
            length_products,
            inputs_without_gradient,
            attention_without_gradient,
        })
    }
}

/// What is trained: a decoder, and the adapter beside its weights.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) description: DecoderDescription,
    lora: Option<LoraConfig>,
    /// What the adapter's files call the base.
    base: String,
}

impl Network {
    /// What a run trains that begins so.
    ///
    /// # Errors
    /// An adapter that does not fit, or one without a base.
    pub(crate) fn of(
        start: Start<'_>,
        adapter: Option<&AdapterConfig>,
    ) -> Result<Self, TrainError> {
        let description = start.description();
        let lora = adapter.map(|adapter| adapter.of(&description));
        let base = start.base().and_then(|base| base.path.file_name());
        let base = base.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        if let Some(lora) = &lora {
            if start.base().is_none() {
                let message = "it needs a [base]: random weights are not frozen";
                return Err(TrainError::Adapter(message.to_owned()));
            }
            lora.parameters(&description)?;
        }
        Ok(Self { description, lora, base })
    }

    /// The weights before the first step.
    pub(crate) fn begin(
        &self,
        start: Start<'_>,
        seed: Seed,
        device: &Device,
    ) -> Result<ParameterStore, TrainError> {
        let mut parameters = start.weights(seed, device)?;
        if let Some(lora) = &self.lora {
            add_lora(&self.description, lora, seed, &mut parameters)?;
        }
        Ok(parameters)
    }

    /// The weights of a checkpoint.
    pub(crate) fn read(
        &self,
        dir: &Path,
        start: Start<'_>,
        device: &Device,
    ) -> Result<ParameterStore, TrainError> {
        let (Some(_), Some(base)) = (&self.lora, start.base()) else {
            return Ok(read_hf_weights(dir, &self.description, device)?);
        };
        let mut parameters = base.weights(device)?;
        read_lora(&dir.join(ADAPTER_FOLDER), &self.description, &mut parameters)?;
        Ok(parameters)
    }

    /// Writes the adapter into a checkpoint's folder, for peft and to go on from.
    pub(crate) fn write_adapter(
        &self,
        dir: &Path,
        parameters: &ParameterStore,
    ) -> Result<(), TrainError> {
        let Some(lora) = &self.lora else { return Ok(()) };
        let dir = dir.join(ADAPTER_FOLDER);
        std::fs::create_dir(&dir).map_err(|source| TrainError::Io { path: dir.clone(), source })?;
        Ok(write_lora(&dir, &self.description, lora, &self.base, parameters)?)
    }

    pub(crate) fn decoder(&self, parameters: &ParameterStore) -> Result<Decoder, TrainError> {
        Ok(match &self.lora {
            Some(lora) => Decoder::with_lora(&self.description, parameters, lora)?,
            None => Decoder::new(&self.description, parameters)?,
        })
    }

    /// A copy of the weights with what an adapter changed, and without the adapter.
    pub(crate) fn plain(&self, parameters: &ParameterStore) -> Result<ParameterStore, TrainError> {
        match &self.lora {
            Some(lora) => Ok(merged_weights(&self.description, lora, parameters)?),
            None => Ok(parameters.snapshot()),
        }
    }

    /// Whether weights are to be merged before they are used by themselves.
    pub(crate) fn has_adapter(&self) -> bool {
        self.lora.is_some()
    }
}

/// Folder of the adapter in a checkpoint.
const ADAPTER_FOLDER: &str = "adapter";

/// A model that training goes on from.
#[derive(Debug, Clone)]
pub struct BaseModel {
    path: PathBuf,
    description: DecoderDescription,
    digest: Digest,
}

impl BaseModel {
    /// Reads what the model in `path` computes; its weights are only hashed.
    ///
    /// # Errors
    /// A folder that is no model, a damaged one, or a model that is not trained here.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let description = Self::describe(path)?;
        let weights = hash_weights(path)?;
        let shape = hash_bytes(description.to_hf_json(None, None).as_bytes());
        let digest = hash_bytes(format!("{shape}{weights}").as_bytes());
        Ok(Self { path: path.to_owned(), description, digest })
    }

    /// Holds its files against each other, and against its manifest if it is one of milpa's; no value of the
    /// weights is looked at.
    ///
    /// # Errors
    /// As [`BaseModel::describe`]; files that are damaged, or not those of the description.
    pub fn check(path: &Path) -> Result<DecoderDescription, TrainError> {
        let description = Self::describe(path)?;
        let refuse = |error: &dyn Error| {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                message.push_str(&format!(": {error}"));
                source = error.source();
            }
            TrainError::Base { path: path.to_owned(), message }
        };
        if path.join(MANIFEST_FILE).exists() {
            Manifest::read(path)
                .and_then(|manifest| manifest.verify(path, Verify::Contents))
                .map_err(|error| refuse(&error))?;
        }
        check_hf_weights(path, &description).map_err(|error| refuse(&error))?;
        Ok(description)
    }

    /// Reads the description alone, which takes no time.
    ///
    /// # Errors
    /// As [`BaseModel::open`], but for damaged weights.
    pub fn describe(path: &Path) -> Result<DecoderDescription, TrainError> {
        let refuse = |message: &str| {
            Err(TrainError::Base { path: path.to_owned(), message: message.to_owned() })
        };
        if path.is_file() {
            return refuse(
                "it is a file; training needs the unquantised weights: give a Hugging Face folder, a \
                 checkpoint or a bundle",
            );
        }
        let description = read_hf_description(path)?;
        if matches!(description.head, OutputHead::Classifier { .. }) {
            return refuse("it classifies texts; a language model is needed");
        }
        if description.experts.is_some() {
            return refuse("mixtures of experts are not trained yet: take a dense model");
        }
        Ok(description)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it computes.
    pub fn description(&self) -> &DecoderDescription {
        &self.description
    }

    /// Hash of its shape and weights.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Reads its weights.
    pub(crate) fn weights(&self, device: &Device) -> Result<ParameterStore, TrainError> {
        Ok(read_hf_weights(&self.path, &self.description, device)?)
    }
}

/// Where the weights of a run come from.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// Random weights of this shape, with the tokenizer's vocabulary.
    New(&'a ModelConfig),
    /// The weights of a base.
    Base(&'a BaseModel),
}

impl<'a> Start<'a> {
    /// What the model computes.
    pub fn description(self) -> DecoderDescription {
        match self {
            Self::New(config) => config.into(),
            Self::Base(base) => base.description.clone(),
        }
    }

    /// The base, if there is one.
    pub fn base(self) -> Option<&'a BaseModel> {
        match self {
            Self::New(_) => None,
            Self::Base(base) => Some(base),
        }
    }

    /// The weights before the first step.
    pub(crate) fn weights(self, seed: Seed, device: &Device) -> Result<ParameterStore, TrainError> {
        match self {
            Self::New(config) => Ok(new_parameters(config, seed.derive("weights"), device)?),
            Self::Base(base) => base.weights(device),
        }
    }

    /// The shape as a manifest records it.
    pub(crate) fn table(self) -> Result<toml::Value, TrainError> {
        let unreadable = |message: String| ArtifactError::Config(message).into();
        match self {
            Self::New(config) => {
                toml::Value::try_from(config).map_err(|error| unreadable(error.to_string()))
            }
            Self::Base(base) => {
                let json = base.description.to_hf_json(None, None);
                let value: serde_json::Value =
                    serde_json::from_str(&json).map_err(|error| unreadable(error.to_string()))?;
                toml::Value::try_from(without_nulls(value))
                    .map_err(|error| unreadable(error.to_string()))
            }
        }
    }
}

/// TOML has no null: what is not there is left out.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(list) => {
            Value::Array(list.into_iter().filter(|v| !v.is_null()).map(without_nulls).collect())
        }
        other => other,
    }
}

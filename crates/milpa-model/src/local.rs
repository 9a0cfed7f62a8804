//! A model on this machine as a [`TextModel`].
//!
//! Opens a checkpoint folder, a Hugging Face folder, a bundle or a GGUF file, alone or with an adapter.
//! Several threads may ask at once: weights are shared and never change, and each request has its own
//! cache.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use milpa_base::{
    Digest, GenerateRequest, Generation, Manifest, ModelError, ModelInfo, Piece, Prompt,
    PromptScores, PromptTokens, RollingScore, RollingWindows, Score, ScoreRequest, TextEncoder,
    TextModel, hash_file, manifest::MANIFEST_FILE,
};
use milpa_tensor::{Device, ParameterStore};
use milpa_tokens::{ChatTemplate, Tokenizer};

use crate::{
    decoder::Decoder,
    description::{DecoderDescription, OutputHead},
    error::DecoderError,
    generate,
    gguf::{GgufFile, GgufValue},
    gguf_model::read_gguf,
    hf::{CONFIG_FILE, read_hf_description, read_hf_weights, weight_files},
    lora::{self, LoraConfig},
    score,
};

/// A folder with this file has a tokenizer of its own.
const TOKENIZER_FILE: &str = "tokenizer.json";

/// A decoder with its weights and tokenizer, ready to score and to generate.
#[derive(Debug)]
pub struct LocalModel {
    info: ModelInfo,
    device: Device,
    parameters: ParameterStore,
    decoder: Decoder,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
}

/// What a model is made of, before it has a decoder.
struct Parts {
    name: String,
    hash: Option<Digest>,
    description: DecoderDescription,
    parameters: ParameterStore,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
}

impl Parts {
    fn open(path: &Path, device: &Device) -> Result<Self, DecoderError> {
        match gguf_path(path)? {
            Some(file) => Self::of_gguf(&file, device),
            None => Self::of_folder(path, Tokenizer::open(path)?, device),
        }
    }

    fn of_folder(path: &Path, tokenizer: Tokenizer, device: &Device) -> Result<Self, DecoderError> {
        let description = read_hf_description(path)?;
        let hash = hash_files(&weight_files(path)?)?;
        let parameters = read_hf_weights(path, &description, device)?;
        let (name, chat_template) = (name_of(path), tokenizer.chat_template().cloned());
        Ok(Self { name, hash, description, parameters, tokenizer, chat_template })
    }

    fn of_gguf(path: &Path, device: &Device) -> Result<Self, DecoderError> {
        let hash = hash_files(&[path.to_owned()])?;
        let file = GgufFile::open(path)?;
        let (description, parameters, tokenizer) = read_gguf(&file, device)?;
        let text = |key: &str| file.metadata().get(key).and_then(GgufValue::as_str);
        let name = text("general.name").map_or_else(|| name_of(path), str::to_owned);
        let chat_template = match text("tokenizer.chat_template") {
            Some(template) => Some(ChatTemplate::new(template)?),
            None => tokenizer.chat_template().cloned(),
        };
        Ok(Self { name, hash, description, parameters, tokenizer, chat_template })
    }
}

impl LocalModel {
    /// Opens the model at `path` (a folder with `config.json`, a folder that holds one `.gguf`, a
    /// `.gguf` file, or the folder of an adapter that names a model's folder) on `threads` threads of the
    /// CPU.
    pub fn open(path: &Path, threads: usize) -> Result<Self, DecoderError> {
        let device = Device::cpu(threads);
        Self::open_on(path, &device)
    }

    /// Opens the model at `path` on a device.
    pub fn open_on(path: &Path, device: &Device) -> Result<Self, DecoderError> {
        if path.join(lora::CONFIG_FILE).exists() && !path.join(CONFIG_FILE).exists() {
            return Self::open_with_adapter(&base_folder(path)?, path, device);
        }
        Self::assemble(Parts::open(path, device)?, None)
    }

    /// Opens the model at `path` with the adapter in the folder `adapter` (peft's files), whatever model
    /// that one names.
    ///
    /// Changes are merged into the weights; where one of these is quantised, all are computed beside them.
    /// A tokenizer in the adapter's folder takes the place of the model's.
    ///
    /// # Errors
    /// If either cannot be read, or the adapter does not fit the model.
    pub fn open_with_adapter(
        path: &Path,
        adapter: &Path,
        device: &Device,
    ) -> Result<Self, DecoderError> {
        let mut parts = Parts::open(path, device)?;
        let (description, parameters) = (&parts.description, &mut parts.parameters);
        let lora = lora::read_lora(adapter, description, parameters)?;
        let beside = if lora::can_merge(description, &lora, parameters)? {
            lora::merge_lora(description, &lora, parameters)?;
            None
        } else {
            Some(lora)
        };
        let files = [lora::CONFIG_FILE, lora::WEIGHTS_FILE].map(|name| adapter.join(name));
        let hashes = [parts.hash, hash_files(&files)?];
        let text: String = hashes.iter().flatten().map(Digest::to_string).collect();
        parts.hash = Some(milpa_base::hash_bytes(text.as_bytes()));
        parts.name = format!("{}+{}", parts.name, name_of(adapter));
        if adapter.join(TOKENIZER_FILE).exists() {
            parts.tokenizer = Tokenizer::open(adapter)?;
            parts.chat_template = parts.tokenizer.chat_template().cloned();
        }
        Self::assemble(parts, beside.as_ref())
    }

    /// Opens a folder with `config.json` and safetensors whose tokenizer is elsewhere.
    pub fn open_with_tokenizer(
        path: &Path,
        tokenizer: Tokenizer,
        device: &Device,
    ) -> Result<Self, DecoderError> {
        Self::assemble(Parts::of_folder(path, tokenizer, device)?, None)
    }

    /// Makes a model of parts in memory, such as of a training run; `hash` is that of its weights.
    ///
    /// # Errors
    /// If parameters, description and tokenizer do not fit together.
    pub fn from_parts(
        name: &str,
        hash: Option<Digest>,
        description: impl Into<DecoderDescription>,
        parameters: ParameterStore,
        tokenizer: Tokenizer,
    ) -> Result<Self, DecoderError> {
        let (name, description) = (name.to_owned(), description.into());
        let chat_template = tokenizer.chat_template().cloned();
        let parts = Parts { name, hash, description, parameters, tokenizer, chat_template };
        Self::assemble(parts, None)
    }

    fn assemble(parts: Parts, lora: Option<&LoraConfig>) -> Result<Self, DecoderError> {
        let Parts { name, hash, description, parameters, tokenizer, chat_template } = parts;
        if matches!(description.head, OutputHead::Classifier { .. }) {
            return Err(DecoderError::Head { wanted: "text" });
        }
        if tokenizer.vocab_size() > description.vocab_size {
            let message = format!(
                "is {}, but the tokenizer has {} tokens; it is not this model's tokenizer",
                description.vocab_size,
                tokenizer.vocab_size()
            );
            return Err(DecoderError::Config { key: "vocab_size".to_owned(), message });
        }
        let info = ModelInfo {
            name,
            hash: hash.map(|hash| hash.to_string()).unwrap_or_default(),
            context_length: description.context_length,
            parameters: Some(description.parameters()),
        };
        let decoder = match lora {
            Some(lora) => Decoder::with_lora(description, &parameters, lora)?,
            None => Decoder::new(description, &parameters)?,
        };
        let device = parameters.device().clone();
        Ok(Self { info, device, parameters, decoder, tokenizer, chat_template })
    }

    /// What it computes.
    pub fn description(&self) -> &DecoderDescription {
        self.decoder.description()
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The weights.
    pub fn parameters(&self) -> &ParameterStore {
        &self.parameters
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template that came with the model, if any.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// Continues several prompts of the same number of tokens in step, so that each weight is read once
    /// for all of them. Sampling follows each request's own seed. A sum may round otherwise than alone, so
    /// texts depend on how many are written together, and on nothing else of the batch.
    ///
    /// Takes [`DecoderDescription::cache_bytes`] of memory for each. A stop that `is_stopped` tells of
    /// leaves generations that end as [`milpa_base::FinishReason::Cancelled`].
    ///
    /// # Errors
    /// If prompts have different lengths, or one of the requests is refused.
    pub fn generate_batch(
        &self,
        requests: &[GenerateRequest],
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Vec<Generation>, ModelError> {
        generate::generate_batch(self, requests, is_stopped)
    }

    /// Changes the name that is shown to people.
    pub fn rename(&mut self, name: &str) {
        self.info.name = name.to_owned();
    }

    pub(crate) fn name(&self) -> &str {
        &self.info.name
    }
}

impl TextModel for LocalModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        score::score(self, requests, on_done)
    }

    fn score_rolling(
        &self,
        texts: &[&str],
        windows: RollingWindows,
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        score::score_rolling(self, texts, windows, on_done)
    }

    fn prompt_tokens(&self, prompt: &str, parse_special: bool) -> Result<PromptTokens, ModelError> {
        PromptTokens::describe(&self.tokenizer, prompt, parse_special, &self.info.name)
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        generate::generate(self, request, on_piece)
    }

    fn encoder(&self) -> Option<&dyn TextEncoder> {
        Some(&self.tokenizer)
    }

    fn generate_from_tokens(
        &self,
        tokens: &[u32],
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        generate::generate_from(self, tokens.to_vec(), request, on_piece)
    }

    fn score_prompt(
        &self,
        prompt: &Prompt,
        alternatives: usize,
        with_next: bool,
    ) -> Result<PromptScores, ModelError> {
        generate::score_prompt(self, prompt, alternatives, with_next)
    }

    fn next_token_logprobs(&self, context: &str) -> Result<Vec<f32>, ModelError> {
        generate::next_token_logprobs(self, context)
    }
}

/// The GGUF file meant by `path`: itself, or the only one in a folder without `config.json`.
fn gguf_path(path: &Path) -> Result<Option<PathBuf>, DecoderError> {
    let io_error = |source| DecoderError::Io { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(io_error)?.is_dir() {
        return Ok(Some(path.to_owned()));
    }
    if path.join(CONFIG_FILE).exists() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error)? {
        let file = entry.map_err(io_error)?.path();
        if file.extension().is_some_and(|extension| extension == "gguf") {
            files.push(file);
        }
    }
    match files.len() {
        1 => Ok(files.pop()),
        count => Err(DecoderError::Format {
            path: path.to_owned(),
            format: "a model",
            message: format!(
                "the folder has no {CONFIG_FILE} and {count} .gguf files; give a checkpoint, a \
                 bundle, a Hugging Face folder or one .gguf file"
            ),
        }),
    }
}

/// Hashes the weights of the model in the folder `dir`, as [`LocalModel`] names them.
///
/// # Errors
/// Files that are missing, or other than the manifest beside them says.
pub fn hash_weights(dir: &Path) -> Result<Digest, DecoderError> {
    let hash = hash_files(&weight_files(dir)?)?;
    hash.ok_or_else(|| DecoderError::Format {
        path: dir.to_owned(),
        format: "a model",
        message: "it has no weights".to_owned(),
    })
}

/// Hashes weight files (of several, the hash of their hashes) and holds them against the manifest
/// of the artifact they lie in, if there is one.
pub(crate) fn hash_files(files: &[PathBuf]) -> Result<Option<Digest>, DecoderError> {
    let mut hashes = Vec::new();
    for path in files {
        let io_error = |source| DecoderError::Io { path: path.clone(), source };
        let (digest, _) = hash_file(path).map_err(io_error)?;
        if let Some(expected) = recorded_hash(path)?
            && expected != digest
        {
            return Err(DecoderError::Format {
                path: path.clone(),
                format: "the weights of its artifact",
                message: format!(
                    "it is damaged: its BLAKE3 is {} instead of {}; restore it from a copy",
                    digest.short(),
                    expected.short()
                ),
            });
        }
        hashes.push(digest);
    }
    Ok(match &hashes[..] {
        [] => None,
        [one] => Some(*one),
        many => {
            let text: String = many.iter().map(Digest::to_string).collect();
            Some(milpa_base::hash_bytes(text.as_bytes()))
        }
    })
}

/// The hash that the manifest beside a file records for it.
fn recorded_hash(path: &Path) -> Result<Option<Digest>, DecoderError> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    if !dir.join(MANIFEST_FILE).exists() {
        return Ok(None);
    }
    let manifest = Manifest::read(dir).map_err(|error| DecoderError::Format {
        path: dir.join(MANIFEST_FILE),
        format: "a manifest",
        message: error.to_string(),
    })?;
    let entry = manifest.files.into_iter().find(|entry| Path::new(&entry.path) == name);
    Ok(entry.map(|entry| entry.blake3))
}

/// The folder that an adapter's configuration names: as it stands there, or beside the adapter.
fn base_folder(adapter: &Path) -> Result<PathBuf, DecoderError> {
    let base = lora::base_of(adapter)?;
    let places = [PathBuf::from(&base), adapter.join(&base)];
    places.into_iter().find(|place| place.exists()).ok_or_else(|| DecoderError::Unsupported {
        path: adapter.join(lora::CONFIG_FILE),
        field: "base_model_name_or_path".to_owned(),
        value: format!("{base:?}"),
        message:
            "there is no such folder here; open the model itself and give this adapter with it"
                .to_owned(),
    })
}

fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_stem().filter(|_| path.is_file()).or_else(|| path.file_name());
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

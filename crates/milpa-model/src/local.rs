//! A model on this machine as a [`TextModel`].
//!
//! Opens a checkpoint folder, a Hugging Face folder, a bundle or a GGUF file. Several threads may
//! ask at once: weights are shared and never change, and each request has its own cache.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use milpa_base::{
    Digest, GenerateRequest, Generation, Manifest, ModelError, ModelInfo, Piece, RollingScore,
    Score, ScoreRequest, TextModel, hash_file, manifest::MANIFEST_FILE,
};
use milpa_tensor::{CpuDevice, Device, ParameterStore};
use milpa_tokens::{ChatTemplate, Tokenizer};

use crate::{
    decoder::Decoder,
    description::{DecoderDescription, OutputHead},
    error::DecoderError,
    generate,
    gguf::{GgufFile, GgufValue},
    gguf_model::read_gguf,
    hf::{CONFIG_FILE, read_hf_description, read_hf_weights, weight_files},
    score,
};

/// A decoder with its weights and tokenizer, ready to score and to generate.
#[derive(Debug)]
pub struct LocalModel {
    info: ModelInfo,
    device: Arc<dyn Device>,
    parameters: ParameterStore,
    decoder: Decoder,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
}

impl LocalModel {
    /// Opens the model at `path` (a folder with `config.json`, a folder that holds one `.gguf`, or
    /// a `.gguf` file) on `threads` threads of the CPU.
    pub fn open(path: &Path, threads: usize) -> Result<Self, DecoderError> {
        let device: Arc<dyn Device> = Arc::new(CpuDevice::new(threads));
        Self::open_on(path, &device)
    }

    /// Opens the model at `path` on a device.
    pub fn open_on(path: &Path, device: &Arc<dyn Device>) -> Result<Self, DecoderError> {
        if let Some(file) = gguf_path(path)? {
            return Self::open_gguf(&file, device);
        }
        Self::open_with_tokenizer(path, Tokenizer::open(path)?, device)
    }

    /// Opens a folder with `config.json` and safetensors whose tokenizer is elsewhere.
    pub fn open_with_tokenizer(
        path: &Path,
        tokenizer: Tokenizer,
        device: &Arc<dyn Device>,
    ) -> Result<Self, DecoderError> {
        let description = read_hf_description(path)?;
        let files = weight_files(path)?;
        let hash = hash_files(&files)?;
        let parameters = read_hf_weights(path, &description, device)?;
        Self::from_parts(&name_of(path), hash, description, parameters, tokenizer)
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
        let description = description.into();
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
        let (context_length, count) = (description.context_length, description.parameters());
        let decoder = Decoder::new(description, &parameters)?;
        let info = ModelInfo {
            name: name.to_owned(),
            hash: hash.map(|hash| hash.to_string()).unwrap_or_default(),
            context_length,
            parameters: Some(count),
        };
        let device = Arc::clone(parameters.device());
        let chat_template = tokenizer.chat_template().cloned();
        Ok(Self { info, device, parameters, decoder, tokenizer, chat_template })
    }

    fn open_gguf(path: &Path, device: &Arc<dyn Device>) -> Result<Self, DecoderError> {
        let hash = hash_files(&[path.to_owned()])?;
        let file = GgufFile::open(path)?;
        let (description, parameters, tokenizer) = read_gguf(&file, device)?;
        let text = |key: &str| file.metadata().get(key).and_then(GgufValue::as_str);
        let name = text("general.name").map_or_else(|| name_of(path), str::to_owned);
        let mut model = Self::from_parts(&name, hash, description, parameters, tokenizer)?;
        if let Some(template) = text("tokenizer.chat_template") {
            model.chat_template = Some(ChatTemplate::new(template)?);
        }
        Ok(model)
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
    pub fn device(&self) -> &Arc<dyn Device> {
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
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        score::score_rolling(self, texts, on_done)
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        generate::generate(self, request, on_piece)
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

/// Hashes weight files (of several, the hash of their hashes) and holds them against the manifest
/// of the artifact they lie in, if there is one.
fn hash_files(files: &[PathBuf]) -> Result<Option<Digest>, DecoderError> {
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

fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_stem().filter(|_| path.is_file()).or_else(|| path.file_name());
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

//! Hugging Face folders: `config.json` and safetensors, in and out.
//!
//! Weights are read in f32, bf16 or f16, from one file or from the shards of an index, and written
//! in f32 in the model's own order, so the same parameters give the same bytes. A header is checked
//! before anything is allocated for what it promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use milpa_base::mmap::MappedFile;
use milpa_tensor::{Device, ParameterStore};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::json;

use crate::{config::ModelConfig, decoder::parameter_specs, error::DecoderError};

/// File name of a model's shape.
pub const CONFIG_FILE: &str = "config.json";
/// File name of a model's weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// File name of the table of shards.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// Largest JSON file and safetensors header that is read, in bytes.
const MAX_JSON_BYTES: u64 = 32 << 20;
/// Most shards of a model.
const MAX_SHARDS: usize = 1024;

/// Reads the shape of the model in `dir`.
pub fn read_hf_config(dir: &Path) -> Result<ModelConfig, DecoderError> {
    let path = dir.join(CONFIG_FILE);
    ModelConfig::from_hf_json(&read_small(&path)?, &path)
}

/// Lists the weight files of the model in `dir`: the one file, or the shards by name.
pub(crate) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, DecoderError> {
    let index = dir.join(INDEX_FILE);
    if !index.exists() {
        return Ok(vec![dir.join(WEIGHTS_FILE)]);
    }
    let names: BTreeSet<String> = read_index(&index)?.into_values().collect();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Reads the weights of the model in `dir` onto `device`, widened to f32.
///
/// # Errors
/// If a file is malformed, or its tensors are not exactly those of `config`.
pub fn read_hf_weights(
    dir: &Path,
    config: &ModelConfig,
    device: &Arc<dyn Device>,
) -> Result<ParameterStore, DecoderError> {
    config.check()?;
    let maps = weight_files(dir)?
        .into_iter()
        .map(|path| {
            let io_error = |source| DecoderError::Io { path: path.clone(), source };
            MappedFile::open(&path).map_err(io_error).map(|map| (path, map))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut files = Vec::with_capacity(maps.len());
    for (path, map) in &maps {
        files.push((path.as_path(), parse(path, map)?));
    }
    let mut parameters = ParameterStore::new(Arc::clone(device));
    let specs = parameter_specs(config);
    for spec in &specs {
        let found =
            files.iter().find_map(|(path, file)| Some((*path, file.tensor(&spec.name).ok()?)));
        let (path, tensor) = found.ok_or_else(|| {
            let place = if files.len() == 1 { files[0].0 } else { dir };
            malformed(place, format!("it has no tensor {:?}", spec.name))
        })?;
        if tensor.shape() != spec.shape {
            let message =
                format!("{} has shape {:?} instead of {:?}", spec.name, tensor.shape(), spec.shape);
            return Err(malformed(path, message));
        }
        let values = widen(path, &spec.name, tensor.dtype(), tensor.data())?;
        parameters.add(&spec.name, &spec.shape, &values, spec.init_std.is_some())?;
    }
    for (path, file) in &files {
        let known = |name: &&str| parameters.id(name).is_some() || is_ignorable(name, config);
        if let Some(name) = file.names().into_iter().find(|name| !known(name)) {
            return Err(DecoderError::Unsupported {
                path: path.to_path_buf(),
                field: "tensor".to_owned(),
                value: format!("{name:?}"),
                message: "this decoder has no such parameter, so its results would be wrong"
                    .to_owned(),
            });
        }
    }
    Ok(parameters)
}

/// Returns the bytes of a safetensors file of all parameters in f32.
pub fn weights_bytes(parameters: &ParameterStore) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_all(parameters, &mut bytes).expect("memory takes all bytes");
    bytes
}

/// Writes all parameters in f32 to a safetensors file.
pub fn write_weights(path: &Path, parameters: &ParameterStore) -> Result<(), DecoderError> {
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        write_all(parameters, &mut file)?;
        file.flush()
    };
    write().map_err(|source| DecoderError::Io { path: path.to_owned(), source })
}

/// Writes `config.json`, `generation_config.json` and `model.safetensors` into an existing folder.
pub fn write_hf_model(
    dir: &Path,
    config: &ModelConfig,
    parameters: &ParameterStore,
    eos: Option<u32>,
    bos: Option<u32>,
) -> Result<(), DecoderError> {
    let generation = json!({ "bos_token_id": bos, "eos_token_id": eos, "do_sample": true });
    for (name, text) in [
        (CONFIG_FILE, config.to_hf_json(eos, bos)),
        ("generation_config.json", format!("{generation:#}\n")),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|source| DecoderError::Io { path, source })?;
    }
    write_weights(&dir.join(WEIGHTS_FILE), parameters)
}

fn write_all(parameters: &ParameterStore, out: &mut dyn Write) -> io::Result<()> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for parameter in parameters {
        let end = offset + parameter.shape().elements() * size_of::<f32>();
        let entry = json!({
            "dtype": "F32",
            "shape": parameter.shape().lengths(),
            "data_offsets": [offset, end],
        });
        header.insert(parameter.name().to_owned(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for parameter in parameters {
        let mut values = vec![0.0; parameter.data().len()];
        parameters.device().download(parameter.data(), &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, DecoderError> {
    let header = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    match header {
        None => return Err(malformed(path, "it is shorter than its header".to_owned())),
        Some(length) if length > MAX_JSON_BYTES || length > bytes.len() as u64 - 8 => {
            return Err(malformed(path, format!("its header claims {length} bytes")));
        }
        Some(_) => {}
    }
    SafeTensors::deserialize(bytes).map_err(|error| malformed(path, error.to_string()))
}

fn widen(path: &Path, name: &str, dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, DecoderError> {
    Ok(match dtype {
        Dtype::F32 => floats(bytes, f32::from_le_bytes),
        Dtype::F16 => floats(bytes, |pair| half::f16::from_le_bytes(pair).to_f32()),
        Dtype::BF16 => floats(bytes, |pair| half::bf16::from_le_bytes(pair).to_f32()),
        other => {
            return Err(DecoderError::Unsupported {
                path: path.to_owned(),
                field: format!("dtype of {name}"),
                value: format!("{other:?}"),
                message: "F32, BF16 and F16 are read".to_owned(),
            });
        }
    })
}

/// Reads values of `N` bytes each.
pub(crate) fn floats<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

/// Tensors of Hugging Face files that carry nothing of their own.
fn is_ignorable(name: &str, config: &ModelConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (config.tie_embeddings && name == "lm_head.weight")
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, DecoderError> {
    let index: Index = serde_json::from_slice(&read_small(path)?)
        .map_err(|error| format_error(path, "a safetensors index", error.to_string()))?;
    let files: BTreeSet<&String> = index.weight_map.values().collect();
    let outside = |name: &&&String| {
        let mut parts = Path::new(name.as_str()).components();
        !matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None))
    };
    if let Some(name) = files.iter().find(outside) {
        let message = format!("it names a shard outside the folder: {name:?}");
        return Err(format_error(path, "a safetensors index", message));
    }
    if files.is_empty() || files.len() > MAX_SHARDS {
        let message = format!("it names {} shards", files.len());
        return Err(format_error(path, "a safetensors index", message));
    }
    Ok(index.weight_map)
}

/// Reads a file of bounded length.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, DecoderError> {
    let io_error = |source| DecoderError::Io { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(io_error)?.len();
    if length > MAX_JSON_BYTES {
        let message = format!("it has {length} bytes; {MAX_JSON_BYTES} is the most");
        return Err(format_error(path, "JSON", message));
    }
    fs::read(path).map_err(io_error)
}

fn malformed(path: &Path, message: String) -> DecoderError {
    format_error(path, "safetensors", message)
}

fn format_error(path: &Path, format: &'static str, message: String) -> DecoderError {
    DecoderError::Format { path: path.to_owned(), format, message }
}

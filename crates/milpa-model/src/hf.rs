//! Hugging Face folders: `config.json` and safetensors, in and out.
//!
//! Weights are read in f32, bf16 or f16, from one file or from the shards of an index, and written
//! in f32 in the model's own order, so the same parameters give the same bytes. A header is checked
//! before anything is allocated for what it promises. What the tensors of a family are called is in
//! `hf_tensors.rs`, where a large file is cut in `shards.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use milpa_base::{Bytes, mmap::MappedFile};
use milpa_tensor::{Device, Parameter, ParameterId, ParameterStore};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;

use crate::{
    config::ModelConfig,
    decoder::{check_parameters, parameter_specs},
    description::{DecoderDescription, OutputHead},
    error::DecoderError,
    hf_tensors::{FileTensor, Part, file_tensors},
    shards::{DEFAULT_MAX_SHARD_SIZE, read_shard_index, write_sharded},
};

/// File name of a model's shape.
pub const CONFIG_FILE: &str = "config.json";
/// File name of a model's weights, where they are not in shards.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Largest JSON file and safetensors header that is read, in bytes.
const MAX_JSON_BYTES: u64 = 32 << 20;

/// Reads what the model in `dir` computes.
pub fn read_hf_description(dir: &Path) -> Result<DecoderDescription, DecoderError> {
    let path = dir.join(CONFIG_FILE);
    if dir.is_dir() && !path.exists() {
        return Err(DecoderError::Format {
            path: dir.to_owned(),
            format: "a model",
            message: format!(
                "there is no {CONFIG_FILE}; give a Hugging Face folder, a checkpoint or a bundle"
            ),
        });
    }
    DecoderDescription::from_hf_json(&read_small(&path)?, &path)
}

/// Reads the shape of the model in `dir`, which must be one that a recipe can say.
pub fn read_hf_config(dir: &Path) -> Result<ModelConfig, DecoderError> {
    let path = dir.join(CONFIG_FILE);
    ModelConfig::from_hf_json(&read_small(&path)?, &path)
}

/// Lists the weight files of the model in `dir`: the one file, or the shards by name.
pub(crate) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, DecoderError> {
    let Some(index) = read_shard_index(dir, WEIGHTS_FILE)? else {
        return Ok(vec![dir.join(WEIGHTS_FILE)]);
    };
    let shards: BTreeSet<PathBuf> = index.into_values().collect();
    Ok(shards.into_iter().collect())
}

/// Holds the names, shapes and types of the tensors in `dir` against a description, without reading their
/// values.
///
/// # Errors
/// As [`read_hf_weights`].
pub fn check_hf_weights(dir: &Path, description: &DecoderDescription) -> Result<(), DecoderError> {
    WeightFiles::open(dir, description).map(drop)
}

/// Reads the weights of the model in `dir` onto `device`, widened to f32.
///
/// # Errors
/// If a file is malformed, or its tensors are not exactly those of `description`.
pub fn read_hf_weights(
    dir: &Path,
    description: impl Into<DecoderDescription>,
    device: &Device,
) -> Result<ParameterStore, DecoderError> {
    let description = description.into();
    // Only when this is done is anything allocated: the files hold all that the parameters need.
    let files = WeightFiles::open(dir, &description)?;
    let mut sources: BTreeMap<&str, Vec<(usize, Source<'_>)>> = BTreeMap::new();
    for (index, tensor) in files.tensors.iter().enumerate() {
        let (dtype, data) = files.stored(index);
        let width = data.len() / tensor.shape.iter().product::<usize>().max(1);
        let mut offset = 0;
        for part in &tensor.parts {
            let bytes = &data[offset * width..(offset + part.count) * width];
            let source = Source { dtype, bytes, less_one: tensor.less_one };
            sources.entry(&part.parameter).or_default().push((part.start, source));
            offset += part.count;
        }
    }
    let mut parameters = ParameterStore::new(device.clone());
    for spec in parameter_specs(&description) {
        let mut values = Vec::new();
        let mut parts = sources.remove(spec.name.as_str()).unwrap_or_default();
        parts.sort_by_key(|(start, _)| *start);
        for (_, source) in parts {
            values.append(&mut source.read());
        }
        parameters.add(&spec.name, &spec.shape, &values, spec.init_std.is_some())?;
    }
    Ok(parameters)
}

/// The weight files of a folder, mapped and held against a description: its tensors can be read one
/// at a time.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    maps: Vec<(PathBuf, MappedFile)>,
    tensors: Vec<FileTensor>,
    places: Vec<Place>,
}

/// Where a tensor is.
#[derive(Debug)]
struct Place {
    file: usize,
    dtype: Dtype,
    bytes: Range<usize>,
}

impl WeightFiles {
    /// Maps the files in `dir`.
    ///
    /// # Errors
    /// If a file is malformed, or its tensors are not exactly those of `description`.
    pub(crate) fn open(dir: &Path, description: &DecoderDescription) -> Result<Self, DecoderError> {
        description.check()?;
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
        let tensors = file_tensors(description);
        let mut found = BTreeMap::new();
        for tensor in &tensors {
            found.insert(tensor.name.as_str(), find(dir, &files, tensor)?);
        }
        for (path, file) in &files {
            let known = |name: &&str| found.contains_key(*name) || is_ignorable(name, description);
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
        let place = |tensor: &FileTensor| {
            let (path, view) = &found[tensor.name.as_str()];
            let is_here = |(held, _): &(PathBuf, MappedFile)| held == path;
            let file = maps.iter().position(is_here).expect("the view is of one of these files");
            let start = view.data().as_ptr().addr() - maps[file].1.as_ptr().addr();
            Place { file, dtype: view.dtype(), bytes: start..start + view.data().len() }
        };
        let places = tensors.iter().map(place).collect();
        Ok(Self { maps, tensors, places })
    }

    /// The tensors in the order of the parameters.
    pub(crate) fn tensors(&self) -> &[FileTensor] {
        &self.tensors
    }

    /// Reads the values of a tensor as the file holds them, widened to f32.
    pub(crate) fn read(&self, index: usize) -> Vec<f32> {
        let (dtype, bytes) = self.stored(index);
        Source { dtype, bytes, less_one: false }.read()
    }

    fn stored(&self, index: usize) -> (Dtype, &[u8]) {
        let place = &self.places[index];
        (place.dtype, &self.maps[place.file].1[place.bytes.clone()])
    }
}

/// Reads exactly the tensors `wanted` (name and shape) of one file, widened to f32.
pub(crate) fn read_tensors(
    path: &Path,
    wanted: &[(String, Vec<usize>)],
) -> Result<Vec<Vec<f32>>, DecoderError> {
    let io_error = |source| DecoderError::Io { path: path.to_owned(), source };
    let map = MappedFile::open(path).map_err(io_error)?;
    let files = [(path, parse(path, &map)?)];
    let mut found = BTreeMap::new();
    for (name, shape) in wanted {
        let (name, shape) = (name.clone(), shape.clone());
        let tensor = FileTensor { name, shape, parts: Vec::new(), less_one: false };
        found.insert(tensor.name.clone(), find(path, &files, &tensor)?.1);
    }
    // The first by name: the file gives them in any order.
    if let Some(name) =
        files[0].1.names().into_iter().filter(|name| !found.contains_key(*name)).min()
    {
        return Err(malformed(path, format!("it has a tensor {name:?} that is not expected")));
    }
    let read = |(name, _): &(String, Vec<usize>)| {
        let view = &found[name];
        Source { dtype: view.dtype(), bytes: view.data(), less_one: false }.read()
    };
    Ok(wanted.iter().map(read).collect())
}

/// Finds a tensor of the right shape in the files.
fn find<'a>(
    dir: &'a Path,
    files: &'a [(&Path, SafeTensors<'a>)],
    tensor: &FileTensor,
) -> Result<(&'a Path, TensorView<'a>), DecoderError> {
    let mut views =
        files.iter().filter_map(|(path, file)| Some((*path, file.tensor(&tensor.name).ok()?)));
    let (path, view) = views.next().ok_or_else(|| {
        let place = if files.len() == 1 { files[0].0 } else { dir };
        malformed(place, format!("it has no tensor {:?}", tensor.name))
    })?;
    if let Some((other, _)) = views.next() {
        let message = format!("{:?} is also in {}", tensor.name, other.display());
        return Err(malformed(path, message));
    }
    if view.shape() != tensor.shape {
        let (name, shape) = (&tensor.name, &tensor.shape);
        let message = format!("{name} has shape {:?} instead of {shape:?}", view.shape());
        return Err(malformed(path, message));
    }
    if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(DecoderError::Unsupported {
            path: path.to_owned(),
            field: format!("dtype of {}", tensor.name),
            value: format!("{:?}", view.dtype()),
            message: "F32, BF16 and F16 are read".to_owned(),
        });
    }
    Ok((path, view))
}

/// Values of a file on their way into a parameter.
struct Source<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
    less_one: bool,
}

impl Source<'_> {
    fn read(&self) -> Vec<f32> {
        let mut values = match self.dtype {
            Dtype::F16 => floats(self.bytes, |pair| half::f16::from_le_bytes(pair).to_f32()),
            Dtype::BF16 => floats(self.bytes, |pair| half::bf16::from_le_bytes(pair).to_f32()),
            _ => floats(self.bytes, f32::from_le_bytes),
        };
        if self.less_one {
            for value in &mut values {
                *value += 1.0;
            }
        }
        values
    }
}

/// Returns the bytes of a safetensors file of all parameters in f32, each under its own name.
pub fn weights_bytes(parameters: &ParameterStore) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_all(parameters, &own_tensors(parameters), &mut bytes).expect("memory takes all bytes");
    bytes
}

/// Writes all parameters in f32 to a safetensors file, each under its own name.
pub fn write_weights(path: &Path, parameters: &ParameterStore) -> Result<(), DecoderError> {
    write_file(path, parameters, &own_tensors(parameters))
}

/// Writes `config.json`, `generation_config.json` and `model.safetensors` into an existing folder, the
/// last in shards if it is larger than [`DEFAULT_MAX_SHARD_SIZE`].
///
/// # Errors
/// If a parameter of the description is missing or of another shape, or a file cannot be written.
pub fn write_hf_model(
    dir: &Path,
    description: impl Into<DecoderDescription>,
    parameters: &ParameterStore,
    eos: Option<u32>,
    bos: Option<u32>,
) -> Result<(), DecoderError> {
    write_hf_model_sharded(dir, description, parameters, eos, bos, DEFAULT_MAX_SHARD_SIZE)
}

/// As [`write_hf_model`], with shards whose tensors hold at most `max_shard_size`.
///
/// # Errors
/// Those of [`write_hf_model`], and more shards than are read back.
pub fn write_hf_model_sharded(
    dir: &Path,
    description: impl Into<DecoderDescription>,
    parameters: &ParameterStore,
    eos: Option<u32>,
    bos: Option<u32>,
    max_shard_size: Bytes,
) -> Result<(), DecoderError> {
    let description = description.into();
    check_parameters(&description, parameters)?;
    write_hf_settings(dir, &description, eos, bos)?;
    let tensors = file_tensors(&description);
    write_sharded(dir, WEIGHTS_FILE, &sizes(&tensors), max_shard_size, |path, range| {
        write_file(path, parameters, &tensors[range])
    })
}

/// Writes `config.json` and `generation_config.json` into an existing folder.
pub(crate) fn write_hf_settings(
    dir: &Path,
    description: &DecoderDescription,
    eos: Option<u32>,
    bos: Option<u32>,
) -> Result<(), DecoderError> {
    let generation = json!({ "bos_token_id": bos, "eos_token_id": eos, "do_sample": true });
    for (name, text) in [
        (CONFIG_FILE, description.to_hf_json(eos, bos)),
        ("generation_config.json", format!("{generation:#}\n")),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|source| DecoderError::Io { path, source })?;
    }
    Ok(())
}

/// Gives the values of the tensor with a number.
pub(crate) type GiveValues<'a> =
    dyn FnMut(usize, &FileTensor) -> Result<Vec<f32>, DecoderError> + 'a;

/// Writes the tensors of a description to `model.safetensors`, or to shards of at most `max_shard_size`,
/// each when `values` gives it (as files hold them): no two of them are in memory.
pub(crate) fn write_tensors(
    dir: &Path,
    description: &DecoderDescription,
    max_shard_size: Bytes,
    values: &mut GiveValues<'_>,
) -> Result<(), DecoderError> {
    let tensors = file_tensors(description);
    write_sharded(dir, WEIGHTS_FILE, &sizes(&tensors), max_shard_size, |path, range| {
        let io_error = |source| DecoderError::Io { path: path.to_owned(), source };
        let mut file = BufWriter::new(File::create(path).map_err(io_error)?);
        write_header(&tensors[range.clone()], &mut file).map_err(io_error)?;
        for index in range {
            let tensor = &tensors[index];
            let values = values(index, tensor)?;
            if values.len() != tensor.shape.iter().product::<usize>() {
                let message = format!("has {} values instead of {:?}", values.len(), tensor.shape);
                return Err(DecoderError::Parameter { name: tensor.name.clone(), message });
            }
            for chunk in values.chunks(1 << 14) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
                file.write_all(&bytes).map_err(io_error)?;
            }
        }
        file.flush().map_err(io_error)
    })
}

/// Names of tensors in f32, and their bytes.
fn sizes(tensors: &[FileTensor]) -> Vec<(&str, u64)> {
    let size = |tensor: &FileTensor| tensor.shape.iter().product::<usize>() * size_of::<f32>();
    tensors.iter().map(|tensor| (tensor.name.as_str(), size(tensor) as u64)).collect()
}

fn own_tensors(parameters: &ParameterStore) -> Vec<FileTensor> {
    let tensor = |parameter: &Parameter| {
        let (name, shape) = (parameter.name().to_owned(), parameter.shape());
        let part = Part { parameter: name.clone(), start: 0, count: shape.elements() };
        let shape = shape.lengths().to_vec();
        FileTensor { name, shape, parts: vec![part], less_one: false }
    };
    parameters.iter().map(tensor).collect()
}

fn write_file(
    path: &Path,
    parameters: &ParameterStore,
    tensors: &[FileTensor],
) -> Result<(), DecoderError> {
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        write_all(parameters, tensors, &mut file)?;
        file.flush()
    };
    write().map_err(|source| DecoderError::Io { path: path.to_owned(), source })
}

/// Writes tensors whose parameters are all there.
fn write_all(
    parameters: &ParameterStore,
    tensors: &[FileTensor],
    out: &mut dyn Write,
) -> io::Result<()> {
    write_header(tensors, out)?;
    // The parts of a stack of experts follow one another: it is downloaded once.
    let mut current: Option<(ParameterId, Vec<f32>)> = None;
    for tensor in tensors {
        for part in &tensor.parts {
            let missing = || io::Error::other(format!("parameter {} is missing", part.parameter));
            let id = parameters.id(&part.parameter).ok_or_else(missing)?;
            let values = match current.take() {
                Some((held, values)) if held == id => values,
                _ => parameters.read(id),
            };
            let less = f32::from(u8::from(tensor.less_one));
            let chosen = &values[part.start..part.start + part.count];
            let bytes: Vec<u8> =
                chosen.iter().flat_map(|value| (value - less).to_le_bytes()).collect();
            out.write_all(&bytes)?;
            current = Some((id, values));
        }
    }
    Ok(())
}

/// Writes the header of a file whose tensors are in f32 and follow one another.
fn write_header(tensors: &[FileTensor], out: &mut dyn Write) -> io::Result<()> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.shape.iter().product::<usize>() * size_of::<f32>();
        let entry = json!({
            "dtype": "F32",
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
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

/// Reads values of `N` bytes each.
pub(crate) fn floats<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

/// Tensors of Hugging Face files that carry nothing of their own.
fn is_ignorable(name: &str, description: &DecoderDescription) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || (description.tie_embeddings && name == "lm_head.weight")
        // A value head changes no logit.
        || (description.head == OutputHead::LanguageModel && name.starts_with("v_head."))
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

pub(crate) fn format_error(path: &Path, format: &'static str, message: String) -> DecoderError {
    DecoderError::Format { path: path.to_owned(), format, message }
}

#[cfg(test)]
mod tests {
    use milpa_base::Seed;

    use super::*;
    use crate::decoder::new_parameters;

    /// Files of a folder by name.
    fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
        let read = |entry: fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        };
        entries.map(read).collect()
    }

    /// Tensors that are given one at a time are cut where those of a store are.
    #[test]
    fn shards_are_the_same_from_a_store_and_from_values() {
        let config = ModelConfig {
            hidden_size: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: Some(8),
            ffn_size: 32,
            vocab_size: 40,
            ..ModelConfig::default()
        };
        let parameters = new_parameters(&config, Seed(3), &Device::cpu(1)).unwrap();
        let description = DecoderDescription::from(&config);
        for limit in [1, 3000, 5000, 1 << 20].map(Bytes) {
            let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
            write_hf_model_sharded(one.path(), &config, &parameters, None, None, limit).unwrap();
            write_hf_settings(other.path(), &description, None, None).unwrap();
            write_tensors(other.path(), &description, limit, &mut |_, tensor| {
                Ok(parameters.read(parameters.id(&tensor.name).expect("a dense model's names")))
            })
            .unwrap();
            assert_eq!(files(one.path()), files(other.path()), "{limit}");
            let back = read_hf_weights(other.path(), &config, &Device::cpu(1)).unwrap();
            assert_eq!(weights_bytes(&back), weights_bytes(&parameters), "{limit}");
        }
    }
}

//! Buffers in a safetensors file or its shards: the state of the optimiser and averages of weights.
//!
//! It knows names, shapes and types; what the numbers mean, its callers do.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use milpa_base::{ArtifactError, Bytes, mmap::MappedFile};
use milpa_model::{read_shard_index, write_sharded};
use milpa_tensor::{Buffer, DType, Device};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

use crate::error::TrainError;

/// Copies of buffers in main memory, to be written while training goes on.
#[derive(Default)]
pub(crate) struct TensorFile {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl TensorFile {
    /// Copies a buffer in its own type.
    pub(crate) fn add(&mut self, device: &Device, name: String, shape: &[usize], buffer: &Buffer) {
        let mut values = vec![0.0; buffer.len()];
        device.download(buffer, &mut values);
        let (dtype, bytes) = if buffer.dtype() == DType::BF16 {
            // Widened bf16 values have zeros in their lower half.
            let mut bytes = vec![0; 2 * values.len()];
            for (two, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(&values) {
                *two = ((value.to_bits() >> 16) as u16).to_le_bytes();
            }
            (Dtype::BF16, bytes)
        } else {
            let mut bytes = vec![0; 4 * values.len()];
            for (four, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&values) {
                *four = value.to_le_bytes();
            }
            (Dtype::F32, bytes)
        };
        self.tensors.insert(name, (dtype, shape.to_vec(), bytes));
    }

    /// Bytes of the copies.
    pub(crate) fn bytes(&self) -> usize {
        self.tensors.values().map(|(_, _, bytes)| bytes.len()).sum()
    }

    /// Writes `file` in the folder `dir`, or shards of it of at most `max_shard_size`, by name.
    pub(crate) fn write(
        &self,
        dir: &Path,
        file: &str,
        max_shard_size: Bytes,
    ) -> Result<(), TrainError> {
        let views: Vec<(&str, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                let view = TensorView::new(*dtype, shape.clone(), bytes)
                    .expect("the bytes are those of the shape");
                (name.as_str(), view)
            })
            .collect();
        let sizes: Vec<(&str, u64)> =
            views.iter().map(|(name, view)| (*name, view.data().len() as u64)).collect();
        write_sharded(dir, file, &sizes, max_shard_size, |path, range| {
            let views = views[range].iter().map(|(name, view)| (*name, view));
            safetensors::serialize_to_file(views, None, path).map_err(|error| {
                // The kind of the error says what to do about it, as on a full disk.
                let source = match error {
                    SafeTensorError::IoError(source) => source,
                    other => io::Error::other(other.to_string()),
                };
                ArtifactError::Io { path: path.to_owned(), source }.into()
            })
        })
    }
}

/// Whether the folder `dir` has `file`, whole or in shards.
pub(crate) fn exists(dir: &Path, file: &str) -> Result<bool, TrainError> {
    Ok(dir.join(file).exists() || read_shard_index(dir, file)?.is_some())
}

/// Fills buffers with the tensors of their names, which have to be of their lengths and types, from
/// `file` in the folder `dir` or its shards.
pub(crate) fn read_into<'a>(
    dir: &Path,
    file: &str,
    device: &Device,
    buffers: impl Iterator<Item = (String, &'a mut Buffer)>,
) -> Result<(), TrainError> {
    let whole = dir.join(file);
    let index = read_shard_index(dir, file)?;
    let paths: BTreeSet<&Path> = match &index {
        Some(index) => index.values().map(PathBuf::as_path).collect(),
        None => BTreeSet::from([whole.as_path()]),
    };
    let mut maps = BTreeMap::new();
    for path in paths {
        let map = MappedFile::open(path)
            .map_err(|source| TrainError::Io { path: path.to_owned(), source })?;
        maps.insert(path, map);
    }
    let mut files = BTreeMap::new();
    for (path, map) in &maps {
        files.insert(
            *path,
            SafeTensors::deserialize(map).map_err(|error| bad(path, error.to_string()))?,
        );
    }
    for (name, buffer) in buffers {
        let path = match &index {
            Some(index) => index
                .get(&name)
                .ok_or_else(|| bad(&whole, format!("the index of its shards has no {name}")))?,
            None => &whole,
        };
        let tensor = files[path.as_path()]
            .tensor(&name)
            .map_err(|error| bad(path, format!("{name}: {error}")))?;
        fill(&tensor, device, buffer).ok_or_else(|| {
            bad(path, format!("{name} has another type or size than its parameter"))
        })?;
    }
    Ok(())
}

fn bad(path: &Path, message: String) -> TrainError {
    TrainError::Checkpoint { path: path.to_owned(), message }
}

/// Fills a buffer with a tensor; `None` if that is of another length or type.
fn fill(tensor: &TensorView<'_>, device: &Device, buffer: &mut Buffer) -> Option<()> {
    let narrow = buffer.dtype() == DType::BF16;
    let (dtype, width) = if narrow { (Dtype::BF16, 2) } else { (Dtype::F32, 4) };
    if tensor.dtype() != dtype || tensor.data().len() != buffer.len() * width {
        return None;
    }
    let value = |bytes: &[u8]| match *bytes {
        [low, high] => f32::from_bits(u32::from(u16::from_le_bytes([low, high])) << 16),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => unreachable!("chunks are of 2 or 4 bytes"),
    };
    let values: Vec<f32> = tensor.data().chunks_exact(width).map(value).collect();
    if narrow {
        device.convert(&device.upload(&values), buffer);
    } else {
        device.write(&values, buffer);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FILE: &str = "state.safetensors";
    const INDEX: &str = "state.safetensors.index.json";

    /// Writes `a`, `b` and `c` of 8, 16 and 8 bytes.
    fn write(dir: &Path, max_shard_size: u64) {
        let device = Device::cpu(1);
        let mut file = TensorFile::default();
        for (name, values) in
            [("c", &[7.0, 8.0][..]), ("a", &[1.0, 2.0]), ("b", &[3.0, 4.0, 5.0, 6.0])]
        {
            file.add(&device, name.to_owned(), &[values.len()], &device.upload(values));
        }
        file.write(dir, FILE, Bytes(max_shard_size)).unwrap();
    }

    /// Reads them back, one after the other.
    fn read(dir: &Path) -> Result<Vec<f32>, String> {
        let device = Device::cpu(1);
        let mut buffers = [2, 4, 2].map(|length| device.allocate(length));
        let names = ["a", "b", "c"].map(str::to_owned).into_iter();
        read_into(dir, FILE, &device, names.zip(&mut buffers)).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error} {}", source.unwrap_or_default())
        })?;
        let values = |buffer: &Buffer| {
            let mut values = vec![0.0; buffer.len()];
            device.download(buffer, &mut values);
            values
        };
        Ok(buffers.iter().flat_map(values).collect())
    }

    #[test]
    fn tensors_are_read_whole_or_in_shards() {
        for (limit, files) in [(100, 1), (32, 1), (24, 3), (8, 4), (1, 4)] {
            let dir = tempfile::tempdir().unwrap();
            assert!(!exists(dir.path(), FILE).unwrap());
            write(dir.path(), limit);
            assert!(exists(dir.path(), FILE).unwrap());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), files, "{limit}");
            let expect: Vec<f32> = (1..9).map(|value| value as f32).collect();
            assert_eq!(read(dir.path()).unwrap(), expect, "{limit}");
        }
    }

    #[test]
    fn shards_that_are_not_whole_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 24);
        let refused = |parts: &[&str]| {
            let error = read(dir.path()).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        let (index, second) =
            (dir.path().join(INDEX), dir.path().join("state-00002-of-00002.safetensors"));
        let bytes = fs::read(&second).unwrap();
        fs::write(&second, &bytes[..bytes.len() - 1]).unwrap();
        refused(&["state-00002-of-00002.safetensors cannot be resumed"]);
        fs::remove_file(&second).unwrap();
        refused(&["cannot use", "state-00002-of-00002.safetensors", "No such file"]);
        fs::write(&second, bytes).unwrap();
        let text = fs::read_to_string(&index).unwrap();
        fs::write(&index, text.replace("\"b\"", "\"d\"")).unwrap();
        refused(&["the index of its shards has no b"]);
        fs::write(&index, text.replace("00002-of", "00001-of")).unwrap();
        refused(&["state-00001-of-00002.safetensors cannot be resumed: c: "]);
        fs::write(&index, text.replace("state-00002", "../state-00002")).unwrap();
        refused(&["a shard outside the folder", "../state-00002"]);
        fs::remove_file(&index).unwrap();
        refused(&["cannot use", FILE, "No such file"]);
    }
}

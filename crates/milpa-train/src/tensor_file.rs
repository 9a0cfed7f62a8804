//! Buffers in a safetensors file: the state of the optimiser and averages of weights.
//!
//! It knows names, shapes and types; what the numbers mean, its callers do.

use std::{collections::BTreeMap, io, path::Path};

use milpa_base::ArtifactError;
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

    pub(crate) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let views: Vec<(&str, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                let view = TensorView::new(*dtype, shape.clone(), bytes)
                    .expect("the bytes are those of the shape");
                (name.as_str(), view)
            })
            .collect();
        safetensors::serialize_to_file(views, None, path).map_err(|error| {
            // The kind of the error says what to do about it, as on a full disk.
            let source = match error {
                SafeTensorError::IoError(source) => source,
                other => io::Error::other(other.to_string()),
            };
            ArtifactError::Io { path: path.to_owned(), source }.into()
        })
    }
}

/// Fills buffers with the tensors of their names, which have to be of their lengths and types.
pub(crate) fn read_into<'a>(
    path: &Path,
    device: &Device,
    buffers: impl Iterator<Item = (String, &'a mut Buffer)>,
) -> Result<(), TrainError> {
    let bad = |message: String| TrainError::Checkpoint { path: path.to_owned(), message };
    let map = milpa_base::mmap::MappedFile::open(path)
        .map_err(|source| TrainError::Io { path: path.to_owned(), source })?;
    let file = SafeTensors::deserialize(&map).map_err(|error| bad(error.to_string()))?;
    for (name, buffer) in buffers {
        let tensor = file.tensor(&name).map_err(|error| bad(format!("{name}: {error}")))?;
        let narrow = buffer.dtype() == DType::BF16;
        let (dtype, width) = if narrow { (Dtype::BF16, 2) } else { (Dtype::F32, 4) };
        if tensor.dtype() != dtype || tensor.data().len() != buffer.len() * width {
            return Err(bad(format!("{name} has another type or size than its parameter")));
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
    }
    Ok(())
}

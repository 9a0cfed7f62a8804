//! Tensors in one safetensors file or in several, as Hugging Face's `save_pretrained` writes them.
//!
//! `NAME.safetensors`, if its tensors hold more bytes than a limit, becomes
//! `NAME-00001-of-00003.safetensors` and so on, and `NAME.safetensors.index.json` says which tensor is in
//! which shard (<https://huggingface.co/docs/huggingface_hub/package_reference/serialization>). Where
//! it is cut depends on the order and the sizes of the tensors alone, so on no number of threads or
//! machines. What the tensors mean, its callers know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use milpa_base::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::{
    error::DecoderError,
    hf::{format_error, read_small},
};

/// Largest shard of a model where nothing else is said, that of `save_pretrained`: 5 GB.
pub const DEFAULT_MAX_SHARD_SIZE: Bytes = Bytes(5_000_000_000);
/// Most shards of a file.
const MAX_SHARDS: usize = 1 << 14;
/// How a file that may be split ends.
const EXTENSION: &str = ".safetensors";
/// What an index is called in messages.
const INDEX: &str = "a safetensors index";

/// Writes tensors to `file` in the folder `dir`, or to shards with an index if they hold more than
/// `max_shard_size` together.
///
/// `tensors` are their names and bytes, in the order in which they are written; each is in one shard
/// whole, so one that is larger has a shard of its own. The header of a shard comes on top of its
/// tensors. `write` writes the tensors of a range to the file at a path.
///
/// # Errors
/// Those of `write`; more shards than are read back; an index that cannot be written.
pub fn write_sharded<E: From<DecoderError>>(
    dir: &Path,
    file: &str,
    tensors: &[(&str, u64)],
    max_shard_size: Bytes,
    mut write: impl FnMut(&Path, Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let sizes: Vec<u64> = tensors.iter().map(|(_, bytes)| *bytes).collect();
    let shards = split(&sizes, max_shard_size.0);
    if shards.len() == 1 {
        return write(&dir.join(file), 0..tensors.len());
    }
    let path = index_path(dir, file);
    if shards.len() > MAX_SHARDS {
        let message = format!(
            "with shards of {max_shard_size} there would be {} of them, but at most {MAX_SHARDS} are read \
             back: set max_shard_size higher",
            shards.len()
        );
        return Err(format_error(&path, INDEX, message).into());
    }
    let mut weight_map = BTreeMap::new();
    for (number, range) in shards.iter().enumerate() {
        let name = shard_name(file, number + 1, shards.len());
        write(&dir.join(&name), range.clone())?;
        weight_map.extend(tensors[range.clone()].iter().map(|(tensor, _)| (*tensor, name.clone())));
    }
    let total_size: u64 = sizes.iter().sum();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    fs::write(&path, format!("{index:#}\n")).map_err(|source| DecoderError::Io { path, source })?;
    Ok(())
}

/// Reads where the tensors of `file` in the folder `dir` are: the shard of each by name, or `None` if
/// the file is not split.
///
/// # Errors
/// An index that is malformed, too long, or names too many shards or one outside the folder.
pub fn read_shard_index(
    dir: &Path,
    file: &str,
) -> Result<Option<BTreeMap<String, PathBuf>>, DecoderError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = index_path(dir, file);
    if !path.exists() {
        return Ok(None);
    }
    let refuse = |message: String| Err(format_error(&path, INDEX, message));
    let index: Index = match serde_json::from_slice(&read_small(&path)?) {
        Ok(index) => index,
        Err(error) => return refuse(error.to_string()),
    };
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    let outside = |name: &&&String| {
        let mut parts = Path::new(name.as_str()).components();
        !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
    };
    if let Some(name) = shards.iter().find(outside) {
        return refuse(format!("it names a shard outside the folder: {name:?}"));
    }
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return refuse(format!("it names {} shards", shards.len()));
    }
    let place = |(tensor, shard): (String, String)| (tensor, dir.join(shard));
    Ok(Some(index.weight_map.into_iter().map(place).collect()))
}

/// Cuts tensors of these sizes, in their order, into shards of at most `max` bytes, or of one tensor.
fn split(sizes: &[u64], max: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0_u64);
    for (index, size) in sizes.iter().enumerate() {
        bytes = bytes.saturating_add(*size);
        if bytes > max && index > start {
            shards.push(start..index);
            (start, bytes) = (index, *size);
        }
    }
    shards.push(start..sizes.len());
    shards
}

/// The file with the table of the shards of `file`.
fn index_path(dir: &Path, file: &str) -> PathBuf {
    dir.join(format!("{file}.index.json"))
}

/// The name of shard `number` (from 1) of `count`.
fn shard_name(file: &str, number: usize, count: usize) -> String {
    let stem = file.strip_suffix(EXTENSION).unwrap_or(file);
    format!("{stem}-{number:05}-of-{count:05}{EXTENSION}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_tensor_is_in_one_shard_in_its_order(
            sizes in prop::collection::vec(0_u64..50, 0..60),
            max in 1_u64..120,
        ) {
            let shards = split(&sizes, max);
            let order: Vec<usize> = shards.iter().cloned().flatten().collect();
            prop_assert_eq!(order, (0..sizes.len()).collect::<Vec<_>>());
            let bytes = |shard: &Range<usize>| sizes[shard.clone()].iter().sum::<u64>();
            for shard in &shards {
                prop_assert!(bytes(shard) <= max || shard.len() == 1);
            }
            // No shard could have taken the tensor after it.
            for shard in &shards[..shards.len() - 1] {
                prop_assert!(bytes(shard) + sizes[shard.end] > max);
            }
        }
    }

    #[test]
    fn a_tensor_above_the_limit_has_a_shard_of_its_own() {
        assert_eq!(split(&[4, 4, 20, 4, 4, 4], 10), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(split(&[4, 6], 10).len(), 1);
        assert_eq!(split(&[], 10).len(), 1);
    }

    /// Writes tensors of one byte each and gives the names of the files.
    fn write(dir: &Path, count: usize, max: u64) -> Result<Vec<String>, DecoderError> {
        let names: Vec<String> = (0..count).map(|number| format!("t{number:05}")).collect();
        let tensors: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let mut files = Vec::new();
        let note = |path: &Path, _: Range<usize>| {
            files.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            Ok::<_, DecoderError>(())
        };
        write_sharded(dir, "state.safetensors", &tensors, Bytes(max), note)?;
        Ok(files)
    }

    #[test]
    fn names_and_index_are_those_of_hugging_face() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(write(dir.path(), 5, 5).unwrap(), ["state.safetensors"]);
        assert_eq!(read_shard_index(dir.path(), "state.safetensors").unwrap(), None);
        let files = write(dir.path(), 5, 4).unwrap();
        assert_eq!(files, ["state-00001-of-00002.safetensors", "state-00002-of-00002.safetensors"]);
        let text = fs::read_to_string(dir.path().join("state.safetensors.index.json")).unwrap();
        // As `json.dumps(index, indent=2, sort_keys=True) + "\n"` writes it.
        let mut expect =
            "{\n  \"metadata\": {\n    \"total_size\": 5\n  },\n  \"weight_map\": {\n".to_owned();
        for (number, file) in [0, 0, 0, 0, 1].into_iter().enumerate() {
            let comma = if number == 4 { "" } else { "," };
            expect += &format!("    \"t{number:05}\": \"{}\"{comma}\n", files[file]);
        }
        assert_eq!(text, expect + "  }\n}\n");
        let index = read_shard_index(dir.path(), "state.safetensors").unwrap().unwrap();
        assert_eq!(index["t00004"], dir.path().join(&files[1]));
    }

    #[test]
    fn no_more_shards_are_written_than_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(write(dir.path(), MAX_SHARDS, 1).unwrap().len(), MAX_SHARDS);
        assert!(read_shard_index(dir.path(), "state.safetensors").unwrap().is_some());
        let error = write(dir.path(), MAX_SHARDS + 1, 1).unwrap_err().to_string();
        assert!(error.contains("16385 of them, but at most 16384 are read back"), "{error}");
    }
}

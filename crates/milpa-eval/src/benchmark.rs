//! What every benchmark that is built here has: item files with a hash, a canary, and splits by
//! connected components.
//!
//! It knows neither where items come from nor what they ask.

pub(crate) mod components;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use milpa_base::{ArtifactWriter, Digest, Progress, Seed, StopFlag, hash_bytes};
use serde::Serialize;

use crate::error::EvalError;

/// Where progress goes and who may stop the work.
#[derive(Clone, Copy)]
pub struct BuildWatch<'a> {
    /// Told of what was read and written.
    pub progress: &'a dyn Progress,
    /// Stops the build at the next block.
    pub stop: &'a StopFlag,
}

impl BuildWatch<'_> {
    /// Fails if a stop was asked for.
    ///
    /// # Errors
    /// [`EvalError::Interrupted`].
    pub(crate) fn check(&self) -> Result<(), EvalError> {
        if self.stop.is_set() { Err(EvalError::Interrupted) } else { Ok(()) }
    }
}

/// A string that nobody writes by chance, for finding the benchmark `name` in training data; one for
/// each seed and edition (the date of a dump, a version).
pub(crate) fn canary(name: &str, seed: Seed, edition: &str) -> String {
    let digest = hash_bytes(format!("{name} canary {} {edition}", seed.0).as_bytes()).to_string();
    format!("{}-CANARY-{}", name.to_uppercase(), &digest[..32])
}

/// The item files of a benchmark: JSONL, a file for each split and language, in order of their names.
pub(crate) struct ItemFiles {
    files: BTreeMap<String, ItemFile>,
}

struct ItemFile {
    writer: BufWriter<File>,
    path: PathBuf,
    items: u64,
}

impl ItemFiles {
    /// Makes the files, empty.
    pub(crate) fn create(
        artifact: &ArtifactWriter,
        names: impl IntoIterator<Item = String>,
    ) -> Result<Self, EvalError> {
        let mut files = BTreeMap::new();
        for name in names {
            let path = artifact.dir().join(&name);
            let writer = BufWriter::new(File::create(&path).map_err(write_error(&path))?);
            files.insert(name, ItemFile { writer, path, items: 0 });
        }
        Ok(Self { files })
    }

    /// Adds an item to the file `name`.
    pub(crate) fn write(&mut self, name: &str, item: &impl Serialize) -> Result<(), EvalError> {
        let file = self.files.get_mut(name).expect("all files are made beforehand");
        file.items += 1;
        serde_json::to_writer(&mut file.writer, item)
            .map_err(std::io::Error::from)
            .and_then(|()| file.writer.write_all(b"\n"))
            .map_err(write_error(&file.path))
    }

    /// Closes the files and returns the items of each that has any, and the BLAKE3 over names and
    /// contents.
    pub(crate) fn finish(mut self) -> Result<(BTreeMap<String, u64>, Digest), EvalError> {
        let mut hasher = blake3::Hasher::new();
        let mut items = BTreeMap::new();
        for (name, file) in &mut self.files {
            file.writer.flush().map_err(write_error(&file.path))?;
            hasher.update(name.as_bytes());
            hasher
                .update_reader(File::open(&file.path).map_err(write_error(&file.path))?)
                .map_err(write_error(&file.path))?;
            if file.items > 0 {
                items.insert(name.clone(), file.items);
            }
        }
        Ok((items, Digest(*hasher.finalize().as_bytes())))
    }
}

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> EvalError + use<> {
    let path = path.to_owned();
    move |source| EvalError::Write { path: path.clone(), what: "the items", source }
}

//! Artifact folders that are whole or absent, and the lock of a run folder.
//!
//! A folder is written beside its final place under a hidden name, synced, given its manifest and
//! renamed. A process killed at any moment leaves the old artifact or the new one, never a half.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    hash::{Digest, hash_file},
    manifest::{FileEntry, Kind, MANIFEST_FILE, MANIFEST_FORMAT, Manifest, ManifestError, Verify},
};

/// An artifact that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file system said no.
    #[error("cannot write {path}{}", advice(path, source))]
    Io {
        /// What was written.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The place is taken by something that is no artifact.
    #[error("{0} exists and is not an artifact of milpa; choose another --out or move it away")]
    Occupied(PathBuf),
    /// The configuration cannot be written as TOML.
    #[error("the configuration cannot be recorded: {0}")]
    Config(String),
    /// Another process works there.
    #[error("another milpa process is working on {0}; wait for it to end, or stop it first")]
    Locked(PathBuf),
}

/// What to do about an error of writing at `path`: the end of a message, empty where nothing is known.
pub fn advice(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let disk = disk_of(path)
                .map_or_else(String::new, |disk| format!(" that is mounted at {}", disk.display()));
            format!(
                ": the disk is full; free some space on the one{disk}, or choose another --out, and run \
                 the same command again"
            )
        }
        io::ErrorKind::PermissionDenied => ": no permission; choose another --out".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => {
            ": the file system is read-only; choose another --out".to_owned()
        }
        _ => String::new(),
    }
}

/// The folder at which the disk of `path` is mounted; `path` itself may be gone.
#[cfg(unix)]
fn disk_of(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let there = std::path::absolute(path).ok()?;
    let there = there.ancestors().find_map(|folder| folder.canonicalize().ok())?;
    let device = |folder: &Path| fs::metadata(folder).ok().map(|metadata| metadata.dev());
    let disk = device(&there);
    there.ancestors().take_while(|folder| device(folder) == disk).last().map(Path::to_owned)
}

/// Mount points are not looked for here.
#[cfg(not(unix))]
fn disk_of(_path: &Path) -> Option<PathBuf> {
    None
}

/// What goes into the manifest besides the files.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Hash of everything the artifact is a function of.
    pub key: Option<Digest>,
    /// Licences inside.
    pub licences: Vec<String>,
    /// Hashes of the inputs by name.
    pub inputs: BTreeMap<String, Digest>,
    /// Counts by name.
    pub counts: BTreeMap<String, u64>,
    /// The resolved configuration.
    pub config: toml::Table,
}

impl Record {
    /// Starts a record for what `stage` makes from `config` and `inputs`; the key is their hash.
    pub fn new(
        stage: &str,
        config: &impl Serialize,
        inputs: BTreeMap<String, Digest>,
    ) -> Result<Self, ArtifactError> {
        let config = toml::Table::try_from(config)
            .map_err(|error| ArtifactError::Config(error.to_string()))?;
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        add(stage);
        add(env!("CARGO_PKG_VERSION"));
        add(&toml::to_string(&config).map_err(|error| ArtifactError::Config(error.to_string()))?);
        for (name, digest) in &inputs {
            add(name);
            add(&digest.to_string());
        }
        let key = Some(Digest(*hasher.finalize().as_bytes()));
        Ok(Self { key, inputs, config, ..Self::default() })
    }
}

/// Writes one artifact folder; without [`ArtifactWriter::finish`] nothing stays.
#[derive(Debug)]
pub struct ArtifactWriter {
    kind: Kind,
    target: PathBuf,
    partial: PathBuf,
    finished: bool,
}

impl ArtifactWriter {
    /// Begins the artifact that will stand at `target`, replacing an older artifact there.
    /// Leftovers of a process that was killed are removed.
    pub fn begin(target: &Path, kind: Kind) -> Result<Self, ArtifactError> {
        recover(target)?;
        if target.exists() && !target.join(MANIFEST_FILE).exists() && !is_empty_dir(target) {
            return Err(ArtifactError::Occupied(target.to_owned()));
        }
        let partial = beside(target, "partial");
        remove_dir(&partial)?;
        fs::create_dir_all(&partial).map_err(|source| io_error(&partial, source))?;
        Ok(Self { kind, target: target.to_owned(), partial, finished: false })
    }

    /// The folder to write files into.
    pub fn dir(&self) -> &Path {
        &self.partial
    }

    /// Writes a whole file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let path = self.partial.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| io_error(parent, source))?;
        }
        fs::write(&path, bytes).map_err(|source| io_error(&path, source))
    }

    /// Copies a file in.
    pub fn copy(&self, from: &Path, name: &str) -> Result<(), ArtifactError> {
        let path = self.partial.join(name);
        fs::copy(from, &path).map(drop).map_err(|source| io_error(&path, source))
    }

    /// Hashes and syncs the files, writes the manifest and gives the folder its name.
    pub fn finish(mut self, record: Record) -> Result<Manifest, ArtifactError> {
        let mut files = Vec::new();
        collect(&self.partial, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut licences = record.licences;
        licences.sort();
        licences.dedup();
        let manifest = Manifest {
            kind: self.kind,
            format: MANIFEST_FORMAT,
            producer: format!("milpa {}", env!("CARGO_PKG_VERSION")),
            key: record.key.unwrap_or(Digest([0; 32])),
            licences,
            inputs: record.inputs,
            counts: record.counts,
            config: record.config,
            files,
        };
        let text =
            toml::to_string(&manifest).map_err(|error| ArtifactError::Config(error.to_string()))?;
        self.place(&text)?;
        Ok(manifest)
    }

    /// Writes the manifest and gives the folder its name.
    fn place(&mut self, manifest: &str) -> Result<(), ArtifactError> {
        let path = self.partial.join(MANIFEST_FILE);
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(manifest.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| io_error(&path, source))?;
        sync_dir(&self.partial);
        let old = beside(&self.target, "old");
        let renamed = || -> io::Result<()> {
            if self.target.exists() {
                fs::rename(&self.target, &old)?;
            }
            fs::rename(&self.partial, &self.target)
        };
        renamed().map_err(|source| io_error(&self.target, source))?;
        self.finished = true;
        if let Some(parent) = self.target.parent() {
            sync_dir(parent);
        }
        remove_dir(&old)
    }
}

impl Drop for ArtifactWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: `begin` removes what is left here.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Opens the artifact in `dir`: reads its manifest, checks its kind and its files.
pub fn open_artifact(
    dir: &Path,
    kind: Kind,
    verify: Verify,
) -> Result<(Manifest, Digest), ManifestError> {
    let (manifest, digest) = Manifest::read_with_digest(dir)?;
    if manifest.kind != kind {
        return Err(ManifestError::WrongKind {
            path: dir.to_owned(),
            found: manifest.kind,
            wanted: kind,
        });
    }
    manifest.verify(dir, verify)?;
    Ok((manifest, digest))
}

/// Copies the artifact in `from` to `to`, perhaps on another disk: byte for byte, whole or not at
/// all. What was copied is read again and held against the manifest.
///
/// # Errors
/// An artifact that is damaged here or became so on the way, a disk that is full, a folder of
/// something else at `to`.
pub fn copy_artifact(from: &Path, to: &Path) -> Result<(), CopyError> {
    let manifest = Manifest::read_with_digest(from)?.0;
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(|source| io_error(parent, source))?;
    }
    let mut writer = ArtifactWriter::begin(to, manifest.kind)?;
    for file in &manifest.files {
        let path = writer.partial.join(&file.path);
        let copy = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(from.join(&file.path), &path)?;
            File::open(&path)?.sync_all()
        };
        copy().map_err(|source| io_error(&path, source))?;
    }
    manifest.verify(&writer.partial, Verify::Contents)?;
    let path = from.join(MANIFEST_FILE);
    let text = fs::read_to_string(&path).map_err(|source| io_error(&path, source))?;
    writer.place(&text)?;
    Ok(())
}

/// Why an artifact was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The copy cannot be written.
    #[error(transparent)]
    Write(#[from] ArtifactError),
    /// The artifact or its copy is not what its manifest says.
    #[error(transparent)]
    Damaged(#[from] ManifestError),
}

/// Writes a single file whole or not at all (a sibling, synced, then renamed).
pub fn write_file_atomic(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let partial = beside(path, "partial");
    let write = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&partial);
        io_error(path, source)
    })
}

/// Keeps a second process out of a folder for as long as it lives; freed by the system if the
/// process dies.
#[derive(Debug)]
pub struct RunLock(#[expect(dead_code, reason = "holding the file holds the lock")] File);

impl RunLock {
    /// Takes the lock of `dir`, which is made if it does not exist.
    pub fn acquire(dir: &Path) -> Result<Self, ArtifactError> {
        fs::create_dir_all(dir).map_err(|source| io_error(dir, source))?;
        let path = dir.join(".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| io_error(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(ArtifactError::Locked(dir.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(io_error(&path, source)),
        }
    }
}

/// Takes away what killed processes left in `dir` of the artifacts whose names `is_one` knows, and puts back
/// those that were about to be replaced. Nobody else may be writing them.
///
/// # Errors
/// A folder that cannot be removed or renamed.
pub fn tidy_artifacts(dir: &Path, is_one: impl Fn(&str) -> bool) -> Result<(), ArtifactError> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    for name in &names {
        let rest = name.strip_prefix('.');
        let name =
            rest.and_then(|rest| rest.strip_suffix(".old").or(rest.strip_suffix(".partial")));
        if let Some(name) = name.filter(|name| is_one(name)) {
            let target = dir.join(name);
            recover(&target)?;
            remove_dir(&beside(&target, "partial"))?;
        }
    }
    Ok(())
}

/// Puts back an old artifact whose replacement was cut between the two renames.
fn recover(target: &Path) -> Result<(), ArtifactError> {
    let old = beside(target, "old");
    if old.exists() {
        if target.exists() {
            remove_dir(&old)?;
        } else {
            fs::rename(&old, target).map_err(|source| io_error(target, source))?;
        }
    }
    Ok(())
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let name = target
        .file_name()
        .map_or_else(|| "artifact".into(), |name| name.to_string_lossy().into_owned());
    target.with_file_name(format!(".{name}.{suffix}"))
}

fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn remove_dir(path: &Path) -> Result<(), ArtifactError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path, error)),
        _ => Ok(()),
    }
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<FileEntry>) -> Result<(), ArtifactError> {
    let entries = fs::read_dir(dir).map_err(|source| io_error(dir, source))?;
    for entry in entries {
        let path = entry.map_err(|source| io_error(dir, source))?.path();
        let name =
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), files)?;
            sync_dir(&path);
        } else {
            let file = File::open(&path).map_err(|source| io_error(&path, source))?;
            file.sync_all().map_err(|source| io_error(&path, source))?;
            let (blake3, bytes) = hash_file(&path).map_err(|source| io_error(&path, source))?;
            files.push(FileEntry { path: format!("{prefix}{name}"), bytes, blake3 });
        }
    }
    Ok(())
}

fn sync_dir(dir: &Path) {
    // Not every file system can sync a folder; the rename itself stays atomic.
    let _ = File::open(dir).and_then(|file| file.sync_all());
}

fn io_error(path: &Path, source: io::Error) -> ArtifactError {
    ArtifactError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("other/disk/a"));
        let manifest = write_one(&from, "x");
        copy_artifact(&from, &to).unwrap();
        let (copied, _) = open_artifact(&to, Kind::Tokenizer, Verify::Contents).unwrap();
        assert_eq!(copied, manifest);
        fs::write(from.join("sub/a.txt"), "y").unwrap();
        let again = dir.path().join("again");
        assert!(matches!(copy_artifact(&from, &again), Err(CopyError::Damaged(_))));
        assert!(!again.exists());
        assert_eq!(fs::read_to_string(to.join("sub/a.txt")).unwrap(), "x");
    }

    fn write_one(dir: &Path, text: &str) -> Manifest {
        let writer = ArtifactWriter::begin(dir, Kind::Tokenizer).unwrap();
        writer.write("sub/a.txt", text.as_bytes()).unwrap();
        writer.finish(Record::new("test", &toml::Table::new(), BTreeMap::new()).unwrap()).unwrap()
    }

    #[test]
    fn an_artifact_is_whole_or_absent() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("x");
        let writer = ArtifactWriter::begin(&dir, Kind::Tokenizer).unwrap();
        writer.write("a.txt", b"1").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

        let first = write_one(&dir, "1");
        let (manifest, _) = open_artifact(&dir, Kind::Tokenizer, Verify::Contents).unwrap();
        assert_eq!(manifest, first);
        write_one(&dir, "2");
        assert_eq!(fs::read_to_string(dir.join("sub/a.txt")).unwrap(), "2");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_flipped_bit_is_found_and_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("x");
        write_one(&dir, "1");
        fs::write(dir.join("sub/a.txt"), "0").unwrap();
        let error = open_artifact(&dir, Kind::Tokenizer, Verify::Contents).unwrap_err();
        assert!(error.to_string().contains("a.txt is damaged"), "{error}");
        let error = open_artifact(&dir, Kind::Corpus, Verify::Contents).unwrap_err();
        assert!(error.to_string().contains("holds a tokenizer, but a corpus"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_full_disk_is_named_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let gone = root.path().join("corpus.parts/keys.bin");
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let disk = disk_of(&gone).unwrap();
        assert!(root.path().canonicalize().unwrap().starts_with(&disk));
        let text = ArtifactError::Io { path: gone, source }.to_string();
        assert!(text.contains("keys.bin: the disk is full; free some space"), "{text}");
        assert!(text.contains(&format!("mounted at {}, or", disk.display())), "{text}");
        assert_eq!(advice(root.path(), &io::Error::other("x")), "");
    }

    #[test]
    fn a_cut_between_the_renames_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("x");
        write_one(&dir, "1");
        fs::rename(&dir, root.path().join(".x.old")).unwrap();
        drop(ArtifactWriter::begin(&dir, Kind::Tokenizer).unwrap());
        open_artifact(&dir, Kind::Tokenizer, Verify::Contents).unwrap();
    }

    #[test]
    fn foreign_folders_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("precious.txt"), "x").unwrap();
        let error = ArtifactWriter::begin(root.path(), Kind::Bundle).unwrap_err();
        assert!(matches!(error, ArtifactError::Occupied(_)));
        assert!(root.path().join("precious.txt").exists());
    }

    #[test]
    fn a_second_lock_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let lock = RunLock::acquire(root.path()).unwrap();
        assert!(matches!(RunLock::acquire(root.path()), Err(ArtifactError::Locked(_))));
        drop(lock);
        RunLock::acquire(root.path()).unwrap();
    }

    #[test]
    fn a_manifest_that_points_outside_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("x");
        write_one(&dir, "1");
        let path = dir.join(MANIFEST_FILE);
        let text = fs::read_to_string(&path).unwrap().replace("sub/a.txt", "../a.txt");
        fs::write(&path, text).unwrap();
        let error = Manifest::read(&dir).unwrap_err();
        assert!(error.to_string().contains("outside the folder"), "{error}");
    }
}

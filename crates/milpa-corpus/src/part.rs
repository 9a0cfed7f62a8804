//! Parts: some files of one source, prepared by themselves, found again by what they are made of.
//!
//! The name of a prepared part is the hash of its files' contents and of the configuration that
//! preparing depends on. So a part is there or not there, whoever made it: threads of one process,
//! tasks of a job array that runs a second time with another number of tasks, or the process that
//! merges. A half-written part never has its name.
//!
//! A part holds its documents (JSON lines under zstd), what was dropped, for each document a record of
//! fixed length ([`DocumentKey`]) and its MinHash signature, and the counts.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::UNIX_EPOCH,
};

use milpa_base::{
    ArtifactWriter, Kind,
    artifact::{Record, write_file_atomic},
    hash::{Digest, hash_bytes, hash_file},
    lines::{Line, LineReader},
    manifest::Verify,
    open_artifact,
};
use milpa_text::{
    Signature,
    minhash::{Banding, MinHashConfig},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    CorpusConfig, CorpusError, SourceConfig,
    config::{ClassifierUse, KeepLanguages, PerplexityUse, PersonalDataConfig},
    decontaminate::DecontaminationConfig,
    dedup::TextKey,
    filter::ThresholdOverrides,
    reader::{self, SourceFile},
    stats::SourceStats,
};

/// A part ends when its files have this many bytes on disk…
const PART_BYTES: u64 = 256 << 20;
/// …or when it has this many files.
const PART_FILES: usize = 4096;
/// Bytes of a digest in the name of a part.
const NAME_BYTES: usize = 16;

const DOCUMENTS: &str = "documents.jsonl.zst";
const NAMES: &str = "names.jsonl.zst";
const DROPPED: &str = "dropped.jsonl.zst";
const KEYS: &str = "keys.bin";
const SIGNATURES: &str = "signatures.bin";
const STATS: &str = "stats.json";
/// Longest line of names or drops: identities come from URLs and JSON.
const MAX_NAME_LINE: usize = 64 << 20;
/// Largest file of counts that is read.
const MAX_STATS_BYTES: u64 = 16 << 20;

/// Some files of one source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// Index of the source in the configuration.
    pub(crate) source: usize,
    pub(crate) files: Vec<SourceFile>,
}

/// Cuts the sources into parts, in the order in which they are read.
pub(crate) fn plan(config: &CorpusConfig) -> Result<Vec<Part>, CorpusError> {
    let mut parts = Vec::new();
    for (index, source) in config.sources.iter().enumerate() {
        // The limit counts over all files, so they stay together.
        let whole = source.max_documents.is_some();
        parts.extend(
            cut(reader::source_files(source)?, whole)
                .into_iter()
                .map(|files| Part { source: index, files }),
        );
    }
    Ok(parts)
}

fn cut(files: Vec<SourceFile>, whole: bool) -> Vec<Vec<SourceFile>> {
    let mut parts: Vec<Vec<SourceFile>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        let full = !whole && (bytes + file.bytes > PART_BYTES);
        match parts.last_mut() {
            Some(part) if !full && (whole || part.len() < PART_FILES) => {
                bytes += file.bytes;
                part.push(file);
            }
            _ => {
                bytes = file.bytes;
                parts.push(vec![file]);
            }
        }
    }
    parts
}

/// What preparing depends on besides the contents of the files.
#[derive(Serialize)]
struct PartConfig<'a> {
    keep_languages: &'a KeepLanguages,
    max_document: u64,
    /// What signatures documents have, if any.
    near: Option<MinHashConfig>,
    classifiers: &'a [ClassifierUse],
    perplexity: &'a [PerplexityUse],
    decontamination: &'a Option<DecontaminationConfig>,
    personal_data: &'a Option<PersonalDataConfig>,
    thresholds: &'a BTreeMap<String, ThresholdOverrides>,
    source: &'a SourceConfig,
}

impl Part {
    /// Bytes of its files on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Digests of the files' contents, in their order. With `memo`, a folder, they are noted there by
    /// path, length and time of change, and files that did not change are not read again.
    pub(crate) fn digests(
        &self,
        config: &CorpusConfig,
        memo: Option<&Path>,
    ) -> Result<Vec<Digest>, CorpusError> {
        let note = match memo {
            Some(dir) => Some(dir.join(format!("{}.digests", self.state(config)?))),
            None => None,
        };
        if let Some(noted) = note.as_deref().and_then(|note| self.noted(note)) {
            return Ok(noted);
        }
        let hash = |file: &SourceFile| {
            let result = hash_file(&file.path).map(|(digest, _)| digest);
            result.map_err(|error| self.unreadable(config, file, error))
        };
        let digests = self.files.iter().map(hash).collect::<Result<Vec<Digest>, _>>()?;
        if let Some(note) = note {
            let mut lines = String::new();
            for digest in &digests {
                let _ = writeln!(lines, "{digest}");
            }
            write_file_atomic(&note, lines.as_bytes())?;
        }
        Ok(digests)
    }

    /// Name of what the files look like from outside.
    fn state(&self, config: &CorpusConfig) -> Result<String, CorpusError> {
        let mut text = String::new();
        for file in &self.files {
            let metadata =
                fs::metadata(&file.path).map_err(|error| self.unreadable(config, file, error))?;
            let changed = metadata
                .modified()
                .ok()
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                .unwrap_or_default();
            let (path, length) = (file.path.display(), metadata.len());
            let _ = writeln!(text, "{path}\0{length}\0{}", changed.as_nanos());
        }
        Ok(short_name(&hash_bytes(text.as_bytes())))
    }

    fn noted(&self, note: &Path) -> Option<Vec<Digest>> {
        let text = fs::read_to_string(note).ok()?;
        let digests: Option<Vec<Digest>> = text.lines().map(|line| line.parse().ok()).collect();
        digests.filter(|digests| digests.len() == self.files.len())
    }

    fn unreadable(
        &self,
        config: &CorpusConfig,
        file: &SourceFile,
        error: io::Error,
    ) -> CorpusError {
        CorpusError::Source {
            source_name: config.sources[self.source].name.clone(),
            path: file.path.clone(),
            source: error,
        }
    }

    /// The record of the prepared part; its key is what the part is a function of. `rules` has the digests
    /// of the files that the configuration names.
    fn record(
        &self,
        config: &CorpusConfig,
        rules: &BTreeMap<String, Digest>,
        digests: &[Digest],
    ) -> Result<Record, CorpusError> {
        let part = PartConfig {
            keep_languages: &config.keep_languages,
            max_document: config.max_document.0,
            near: config.dedup.near.enabled.then(|| config.dedup.near.minhash()),
            classifiers: &config.classifiers,
            perplexity: &config.perplexity,
            decontamination: &config.decontamination,
            personal_data: &config.personal_data,
            thresholds: &config.thresholds,
            source: &config.sources[self.source],
        };
        // The order of files matters; a list keeps it where a map of names would not.
        let mut listing = String::new();
        for (file, digest) in self.files.iter().zip(digests) {
            let _ = writeln!(listing, "{}\0{:?}\0{digest}", file.origin, file.format);
        }
        let mut inputs = rules.clone();
        inputs.insert("files".to_owned(), hash_bytes(listing.as_bytes()));
        Ok(Record::new("corpus part", &part, inputs)?)
    }

    /// Looks for the part under `dir`. A damaged one counts as missing.
    pub(crate) fn find(
        &self,
        config: &CorpusConfig,
        rules: &BTreeMap<String, Digest>,
        digests: &[Digest],
        dir: &Path,
    ) -> Result<Option<PreparedPart>, CorpusError> {
        let record = self.record(config, rules, digests)?;
        let key = record.key.unwrap_or(Digest([0; 32]));
        let dir = dir.join(short_name(&key));
        let sound = open_artifact(&dir, Kind::CorpusPart, Verify::Contents)
            .is_ok_and(|(manifest, _)| manifest.key == key);
        if !sound {
            return Ok(None);
        }
        PreparedPart::open(self.source, dir).map(Some)
    }

    /// Begins to write the part under `dir`.
    pub(crate) fn begin(
        &self,
        config: &CorpusConfig,
        rules: &BTreeMap<String, Digest>,
        digests: &[Digest],
        dir: &Path,
    ) -> Result<PartWriter, CorpusError> {
        PartWriter::new(self.source, self.record(config, rules, digests)?, dir)
    }
}

fn short_name(digest: &Digest) -> String {
    let mut name = digest.to_string();
    name.truncate(2 * NAME_BYTES);
    name
}

/// What merging needs to know of a document without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DocumentKey {
    /// Its words.
    pub(crate) text: TextKey,
    /// Its language, as a hash.
    pub(crate) language: u64,
    /// UTF-8 bytes of its text.
    pub(crate) bytes: u64,
    /// Whether a signature belongs to it: a text without words has none.
    pub(crate) signed: bool,
}

const KEY_BYTES: usize = 16 + 8 + 8 + 1;

impl DocumentKey {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.text.0.to_le_bytes());
        out.extend_from_slice(&self.language.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.push(u8::from(self.signed));
    }

    fn read(bytes: &[u8; KEY_BYTES]) -> Self {
        let (text, rest) = bytes.split_first_chunk().expect("a key begins with 16 bytes");
        let (language, rest) = rest.split_first_chunk().expect("a key goes on with 8 bytes");
        let (length, rest) = rest.split_first_chunk().expect("a key goes on with 8 bytes");
        Self {
            text: TextKey(u128::from_le_bytes(*text)),
            language: u64::from_le_bytes(*language),
            bytes: u64::from_le_bytes(*length),
            signed: rest[0] != 0,
        }
    }
}

/// A batch of documents as it stands in the files of a part.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pub(crate) documents: Vec<u8>,
    pub(crate) names: Vec<u8>,
    pub(crate) dropped: Vec<u8>,
    pub(crate) keys: Vec<u8>,
    pub(crate) signatures: Vec<u8>,
    pub(crate) stats: SourceStats,
}

/// Writes a part; without [`PartWriter::finish`] nothing stays.
pub(crate) struct PartWriter {
    source: usize,
    record: Record,
    /// Where the part will stand.
    target: PathBuf,
    /// A folder of this writer alone, so that two tasks may prepare the same part.
    scratch: Scratch,
    writer: ArtifactWriter,
    files: [(PathBuf, BufWriter<File>); 5],
    stats: SourceStats,
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what is left here is removed with all parts when the corpus is complete.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Tells writers of one process apart.
static WRITERS: AtomicU64 = AtomicU64::new(0);

impl PartWriter {
    fn new(source: usize, record: Record, dir: &Path) -> Result<Self, CorpusError> {
        let name = short_name(&record.key.unwrap_or(Digest([0; 32])));
        let nanos = UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
        let number = WRITERS.fetch_add(1, Ordering::Relaxed);
        let scratch =
            Scratch(dir.join(format!(".writing-{}-{nanos}-{number}", std::process::id())));
        let writer = ArtifactWriter::begin(&scratch.0.join(&name), Kind::CorpusPart)?;
        let create = |name: &str| {
            let path = writer.dir().join(name);
            match File::create(&path) {
                Ok(file) => Ok((path, BufWriter::new(file))),
                Err(error) => Err(CorpusError::write(&path, error)),
            }
        };
        let files = [
            create(DOCUMENTS)?,
            create(NAMES)?,
            create(DROPPED)?,
            create(KEYS)?,
            create(SIGNATURES)?,
        ];
        let stats = SourceStats::default();
        Ok(Self { source, record, target: dir.join(name), scratch, writer, files, stats })
    }

    pub(crate) fn push(&mut self, batch: &Encoded) -> Result<(), CorpusError> {
        let parts =
            [&batch.documents, &batch.names, &batch.dropped, &batch.keys, &batch.signatures];
        for ((path, file), bytes) in self.files.iter_mut().zip(parts) {
            file.write_all(bytes).map_err(|error| CorpusError::write(path, error))?;
        }
        self.stats.add(&batch.stats);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<PreparedPart, CorpusError> {
        for (path, mut file) in self.files {
            file.flush().map_err(|error| CorpusError::write(&path, error))?;
        }
        let stats = serde_json::to_vec(&self.stats).expect("names and numbers can be written");
        self.writer.write(STATS, &stats)?;
        self.writer.finish(self.record)?;
        let name = self.target.file_name().expect("a part has a name");
        let made = self.scratch.0.join(name);
        if let Err(error) = fs::rename(&made, &self.target) {
            // Another task was faster, or a damaged part stands there.
            let sound = open_artifact(&self.target, Kind::CorpusPart, Verify::Contents).is_ok();
            if !sound {
                fs::remove_dir_all(&self.target)
                    .and_then(|()| fs::rename(&made, &self.target))
                    .map_err(|_| CorpusError::write(&self.target, error))?;
            }
        }
        PreparedPart::open(self.source, self.target)
    }
}

/// A part that is whole.
#[derive(Debug)]
pub(crate) struct PreparedPart {
    pub(crate) source: usize,
    pub(crate) stats: SourceStats,
    /// Number of its documents.
    pub(crate) documents: u64,
    dir: PathBuf,
}

impl PreparedPart {
    fn open(source: usize, dir: PathBuf) -> Result<Self, CorpusError> {
        let path = dir.join(STATS);
        let failed = |error: &dyn std::fmt::Display| CorpusError::file("read", &path, error);
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_STATS_BYTES).read_to_end(&mut text))
            .map_err(|error| failed(&error))?;
        let stats = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
        let keys = dir.join(KEYS);
        let length =
            fs::metadata(&keys).map_err(|error| CorpusError::file("read", &keys, &error))?.len();
        Ok(Self { source, stats, documents: length / KEY_BYTES as u64, dir })
    }

    /// The keys of its documents, in their order.
    pub(crate) fn keys(
        &self,
    ) -> Result<impl Iterator<Item = Result<DocumentKey, CorpusError>>, CorpusError> {
        let records = self.records(KEYS)?;
        Ok(records.map(|bytes| bytes.map(|bytes: [u8; KEY_BYTES]| DocumentKey::read(&bytes))))
    }

    /// The signatures of its documents that have one, in their order.
    pub(crate) fn signatures(
        &self,
        banding: Banding,
    ) -> Result<impl Iterator<Item = Result<Signature, CorpusError>>, CorpusError> {
        let mut minima = self.records(SIGNATURES)?;
        Ok(std::iter::from_fn(move || {
            let values: Result<Box<[u64]>, CorpusError> = minima
                .by_ref()
                .take(banding.hashes())
                .map(|bytes| bytes.map(u64::from_le_bytes))
                .collect();
            match values {
                Ok(values) => Signature::from_minima(banding, values).map(Ok),
                Err(error) => Some(Err(error)),
            }
        }))
    }

    fn records<const N: usize>(
        &self,
        name: &str,
    ) -> Result<impl Iterator<Item = Result<[u8; N], CorpusError>> + use<N>, CorpusError> {
        let path = self.dir.join(name);
        let file = File::open(&path).map_err(|error| CorpusError::file("read", &path, &error))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        Ok(std::iter::from_fn(move || {
            let mut record = [0; N];
            match reader.read_exact(&mut record) {
                Ok(()) => Some(Ok(record)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                Err(error) => Some(Err(CorpusError::file("read", &path, &error))),
            }
        }))
    }

    /// Its documents, in their order.
    pub(crate) fn documents(&self, longest: usize) -> Result<JsonLines, CorpusError> {
        JsonLines::open(self.dir.join(DOCUMENTS), longest)
    }

    /// Identity and group of its documents, in their order.
    pub(crate) fn names(&self) -> Result<JsonLines, CorpusError> {
        JsonLines::open(self.dir.join(NAMES), MAX_NAME_LINE)
    }

    /// What was dropped in it.
    pub(crate) fn dropped(&self) -> Result<JsonLines, CorpusError> {
        JsonLines::open(self.dir.join(DROPPED), MAX_NAME_LINE)
    }
}

/// Rows of a file of JSON lines.
pub(crate) struct JsonLines {
    path: PathBuf,
    lines: LineReader,
}

impl JsonLines {
    fn open(path: PathBuf, longest: usize) -> Result<Self, CorpusError> {
        let lines = LineReader::open(&path, longest)
            .map_err(|error| CorpusError::file("read", &path, &error))?;
        Ok(Self { path, lines })
    }

    /// The next row, or `None` at the end.
    pub(crate) fn next_row<R: DeserializeOwned>(&mut self) -> Result<Option<R>, CorpusError> {
        let failed = |error: &dyn std::fmt::Display| CorpusError::file("read", &self.path, error);
        match self.lines.next_line().map_err(|error| failed(&error))? {
            None => Ok(None),
            Some(Line::Whole(line)) => {
                serde_json::from_slice(line).map(Some).map_err(|error| failed(&error))
            }
            Some(_) => Err(failed(&"a line is too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    fn file(name: usize, bytes: u64) -> SourceFile {
        let (origin, path) = (name.to_string(), PathBuf::from(name.to_string()));
        SourceFile { origin, path, format: Format::Text, bytes, fields: Vec::new() }
    }

    fn check(sizes: &[u64], whole: bool, expect: &[usize]) {
        let files: Vec<_> = sizes.iter().enumerate().map(|(i, &bytes)| file(i, bytes)).collect();
        let parts = cut(files.clone(), whole);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), expect);
        assert_eq!(parts.concat(), files);
    }

    #[test]
    fn files_are_cut_by_their_bytes_and_number() {
        let half = PART_BYTES / 2;
        check(&[], false, &[]);
        check(&[half, half, 1, half, half], false, &[2, 2, 1]);
        check(&[9 * PART_BYTES, 1, 1], false, &[1, 2]);
        check(&[half, half, 1, half, half], true, &[5]);
        check(&vec![1; PART_FILES + 1], false, &[PART_FILES, 1]);
    }

    #[test]
    fn keys_come_back() {
        for key in [
            DocumentKey { text: TextKey(u128::MAX - 5), language: 7, bytes: 1 << 40, signed: true },
            DocumentKey { text: TextKey(1), language: u64::MAX, bytes: 0, signed: false },
        ] {
            let mut bytes = Vec::new();
            key.write(&mut bytes);
            assert_eq!(DocumentKey::read(&bytes.try_into().unwrap()), key);
        }
    }
}

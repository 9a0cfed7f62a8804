//! Building a corpus: the sources are cut into parts, each is prepared by itself, then all are merged.
//!
//! Parts stand beside the corpus, in `OUT.parts`, until the corpus is complete. Whatever stops the work,
//! what was prepared is found again; and tasks of a job array prepare shares of the parts with
//! [`prepare`] before one process merges them with [`build`].

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use milpa_base::{
    ArtifactWriter, Kind, Manifest, Progress, RunLock, Seed, StopFlag,
    artifact::Record,
    hash::{Digest, hash_bytes},
};
use serde::Serialize;

use crate::{
    CorpusConfig, CorpusError, Split,
    dedup::external_sort::Scratch,
    merge::Merge,
    part::{Part, PreparedPart, plan},
    rules::Rules,
    stats::STATS_FILE,
    times::Times,
    workers::Workers,
};

/// What the corpus is a function of besides its inputs.
#[derive(Serialize)]
struct Recorded<'a> {
    seed: Seed,
    corpus: &'a CorpusConfig,
}

/// Hashes the sources: name of each file, `source/path`, with its digest.
///
/// # Errors
/// A source that is missing or holds no file to read.
pub fn inputs(config: &CorpusConfig) -> Result<BTreeMap<String, Digest>, CorpusError> {
    let parts = plan(config)?;
    let digests =
        parts.iter().map(|part| part.digests(config, None)).collect::<Result<Vec<_>, _>>()?;
    inputs_of(config, &parts, &digests)
}

fn inputs_of(
    config: &CorpusConfig,
    parts: &[Part],
    digests: &[Vec<Digest>],
) -> Result<BTreeMap<String, Digest>, CorpusError> {
    let mut inputs = Rules::inputs(config)?;
    for (index, source) in config.sources.iter().enumerate() {
        let files: Vec<_> = parts
            .iter()
            .zip(digests)
            .filter(|(part, _)| part.source == index)
            .flat_map(|(part, digests)| part.files.iter().zip(digests))
            .collect();
        let digest = if let [(_, digest)] = files[..] {
            *digest
        } else {
            let mut listing = String::new();
            for (file, digest) in files {
                let _ = writeln!(listing, "{} {digest}", file.origin);
            }
            hash_bytes(listing.as_bytes())
        };
        inputs.insert(source.name.clone(), digest);
    }
    Ok(inputs)
}

/// The record of the corpus that [`build`] would write; its key tells whether a corpus is up to
/// date.
pub fn record(config: &CorpusConfig, seed: Seed) -> Result<Record, CorpusError> {
    check(config)?;
    record_of(config, seed, inputs(config)?)
}

fn record_of(
    config: &CorpusConfig,
    seed: Seed,
    inputs: BTreeMap<String, Digest>,
) -> Result<Record, CorpusError> {
    Ok(Record::new("corpus", &Recorded { seed, corpus: config }, inputs)?)
}

fn check(config: &CorpusConfig) -> Result<(), CorpusError> {
    config.validate().map_err(|(key, message)| CorpusError::Config { key, message })
}

/// A share of the parts: those whose number leaves `index` when divided by `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, count)| {
            Some(Self { index: index.parse().ok()?, count: count.parse().ok()? })
        });
        numbers.filter(|shard| shard.index < shard.count).ok_or_else(|| {
            "a shard is I/N with I from 0 to N - 1, such as 0/4, 1/4, 2/4 and 3/4".to_owned()
        })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// What [`prepare`] did.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// Parts of this shard.
    pub parts: usize,
    /// Those of them that were there already.
    pub found: usize,
    /// Documents in them.
    pub documents: u64,
    /// Time of the stages, for the parts that were prepared now.
    pub times: Times,
}

/// What [`build`] made.
#[derive(Debug, Clone)]
pub struct Built {
    /// The corpus.
    pub manifest: Manifest,
    /// Parts that were found prepared.
    pub found: usize,
    /// Time of the stages, without what was found.
    pub times: Times,
}

/// How and where the work is done; the corpus does not depend on it.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Threads that prepare documents.
    pub threads: usize,
    /// Folder of the corpus. Parts are kept beside it in `OUT.parts`.
    pub out: &'a Path,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
    /// Ends the work early.
    pub stop: &'a StopFlag,
}

/// Prepares a share of the parts of the corpus that [`build`] with the same `config` and `work.out` will
/// merge. Parts that are there already stay as they are.
///
/// # Errors
/// A source or disk that cannot be read or written; parts that were finished before stay.
pub fn prepare(
    config: &CorpusConfig,
    shard: Shard,
    work: &Work<'_>,
) -> Result<Prepared, CorpusError> {
    check(config)?;
    let mine: Vec<Part> = plan(config)?
        .into_iter()
        .enumerate()
        .filter(|(number, _)| number % shard.count == shard.index)
        .map(|(_, part)| part)
        .collect();
    let all = AllParts::make(config, &mine, work)?;
    let documents = all.parts.iter().map(|part| part.documents).sum();
    Ok(Prepared { parts: mine.len(), found: all.found, documents, times: all.times })
}

/// Builds the corpus of `config` at `work.out`, from parts that were prepared before and those that are
/// missing.
///
/// The bytes of the artifact depend on the configuration, the seed and the sources alone. If it fails or
/// is stopped, what stood at `work.out` before stays, and so do parts that were finished.
///
/// # Errors
/// A source or disk that cannot be read or written, or no document that is left.
pub fn build(config: &CorpusConfig, seed: Seed, work: &Work<'_>) -> Result<Built, CorpusError> {
    check(config)?;
    let parts = plan(config)?;
    let AllParts { parts: prepared, digests, found, mut times, dir } =
        AllParts::make(config, &parts, work)?;
    let mut record = record_of(config, seed, inputs_of(config, &parts, &digests)?)?;
    let lock = RunLock::acquire(&dir)?;
    let writer = ArtifactWriter::begin(work.out, Kind::Corpus)?;
    let scratch = Scratch::new(&dir)?;
    let merge = Merge {
        config,
        seed,
        parts: &prepared,
        out: writer.dir(),
        scratch: &scratch,
        progress: work.progress,
        stop: work.stop,
    };
    let merged = merge.run(&mut times);
    drop(scratch);
    if matches!(merged, Err(CorpusError::Empty { .. })) {
        remove(&dir)?;
    }
    let merged = merged?;
    let stats = merged.stats;
    writer.write(STATS_FILE, (stats.to_json() + "\n").as_bytes())?;
    record.licences = merged.licences.into_iter().collect();
    let (train, validation) = (stats.total(Split::Train), stats.total(Split::Validation));
    record.counts = BTreeMap::from([
        ("read".to_owned(), stats.read()),
        ("train_documents".to_owned(), train.documents),
        ("train_bytes".to_owned(), train.bytes),
        ("validation_documents".to_owned(), validation.documents),
        ("validation_bytes".to_owned(), validation.bytes),
        ("dropped_documents".to_owned(), stats.dropped().values().sum()),
    ]);
    if work.stop.is_set() {
        return Err(CorpusError::Interrupted);
    }
    let manifest = writer.finish(record)?;
    remove(&dir)?;
    drop(lock);
    Ok(Built { manifest, found, times })
}

/// Parts that are all prepared.
struct AllParts {
    parts: Vec<PreparedPart>,
    /// Digests of the files of each part.
    digests: Vec<Vec<Digest>>,
    found: usize,
    times: Times,
    /// The folder they lie in.
    dir: PathBuf,
}

impl AllParts {
    /// Finds or prepares `parts`, in their order.
    fn make(config: &CorpusConfig, parts: &[Part], work: &Work<'_>) -> Result<Self, CorpusError> {
        let dir = parts_dir(work.out);
        let workers = Workers::new(config, work.threads, work.progress, work.stop)?;
        let rules = Rules::inputs(config)?;
        let (digests, found, times) = (Vec::new(), 0, Times::default());
        let mut all = Self { parts: Vec::new(), digests, found, times, dir };
        let bytes = parts.iter().map(Part::bytes).sum();
        work.progress.begin("reading", Some(bytes), "bytes");
        for part in parts {
            if work.stop.is_set() {
                return Err(CorpusError::Interrupted);
            }
            let digests = part.digests(config, Some(&all.dir))?;
            let found = part.find(config, &rules, &digests, &all.dir)?;
            let prepared = if let Some(prepared) = found {
                all.found += 1;
                workers.pass_over(part.bytes());
                prepared
            } else {
                let mut writer = part.begin(config, &rules, &digests, &all.dir)?;
                workers.prepare(part, &mut writer, &mut all.times)?;
                writer.finish()?
            };
            all.parts.push(prepared);
            all.digests.push(digests);
        }
        work.progress.end();
        Ok(all)
    }
}

/// Where the parts of the corpus at `out` lie.
fn parts_dir(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".parts");
    out.with_file_name(name)
}

fn remove(dir: &Path) -> Result<(), CorpusError> {
    fs::remove_dir_all(dir).map_err(|error| CorpusError::file("remove", dir, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_counted_from_nought() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, count: 3 }));
        assert_eq!(Shard { index: 2, count: 3 }.to_string(), "2/3");
        for wrong in ["3/3", "0/0", "1", "a/2", "-1/2", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_lie_beside_the_corpus() {
        assert_eq!(parts_dir(Path::new("runs/a/corpus")), Path::new("runs/a/corpus.parts"));
        assert_eq!(parts_dir(Path::new("corpus/")), Path::new("corpus.parts"));
    }
}

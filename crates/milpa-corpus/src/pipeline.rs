//! Building a corpus: one thread reads, all prepare, one merges in the order of reading.
//!
//! Two passes. The first prepares records, drops what falls, finds exact copies and writes the rest
//! to a spool beside the shards. The second knows all signatures and groups: it drops near copies,
//! splits and writes the shards. Batches are numbered and merged in order, so the number of threads
//! changes nothing; permits bound the batches in flight, so memory does not depend on the input.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use milpa_base::{
    ArtifactWriter, Kind, Manifest, Progress, Seed, StopFlag,
    artifact::Record,
    hash::{Digest, hash_bytes, hash_file},
    lines::{Line, LineReader},
};
use milpa_text::{MinHasher, Signature};
use serde::Serialize;

use crate::{
    CorpusConfig, CorpusError, Document, Dropped, Reason, Split, Stats,
    dedup::{ExactIndex, near_copies},
    filter::ThresholdTable,
    prepare::{Counts, Prepared, Preparer, drop_document},
    reader::{self, Item, SourceFile},
    shard::ShardWriter,
    split::choose_validation,
    stats::STATS_FILE,
    why::copy_of,
};

/// A batch ends after this many items…
const BATCH_ITEMS: usize = 64;
/// …or this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Batches in flight per thread.
const BATCHES_PER_THREAD: usize = 4;
/// Shards of dropped documents hold samples only and may be large in rows.
const DROPPED_SHARD_BYTES: u64 = 256 << 20;
const SPOOL_FILE: &str = ".spool.jsonl.zst";

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
    let mut inputs = BTreeMap::new();
    for source in &config.sources {
        let files = reader::source_files(source)?;
        let mut listing = String::new();
        let single = files.len() == 1;
        for file in files {
            let (digest, _) = hash_file(&file.path).map_err(|error| CorpusError::Source {
                source_name: source.name.clone(),
                path: file.path.clone(),
                source: error,
            })?;
            if single {
                inputs.insert(source.name.clone(), digest);
            }
            listing.push_str(&format!("{} {digest}\n", file.origin));
        }
        if !single {
            inputs.insert(source.name.clone(), hash_bytes(listing.as_bytes()));
        }
    }
    Ok(inputs)
}

/// The record of the corpus that [`build`] would write; its key tells whether a corpus is up to
/// date.
pub fn record(config: &CorpusConfig, seed: Seed) -> Result<Record, CorpusError> {
    check(config)?;
    Ok(Record::new("corpus", &Recorded { seed, corpus: config }, inputs(config)?)?)
}

fn check(config: &CorpusConfig) -> Result<(), CorpusError> {
    config.validate().map_err(|(key, message)| CorpusError::Config { key, message })
}

/// Builds the corpus of `config` at `out`.
///
/// The bytes of the artifact depend on the configuration, the seed and the sources alone, not on
/// `threads`. If it fails or is stopped, what stood at `out` before stays.
pub fn build(
    config: &CorpusConfig,
    seed: Seed,
    threads: usize,
    out: &Path,
    progress: &dyn Progress,
    stop: &StopFlag,
) -> Result<Manifest, CorpusError> {
    let mut record = record(config, seed)?;
    let writer = ArtifactWriter::begin(out, Kind::Corpus)?;
    let mut first = FirstPass::new(config, writer.dir())?;
    run_first_pass(config, threads.max(1), progress, stop, &mut first)?;
    let spool = first.close_spool()?;
    let licences = write_shards(config, seed, &mut first, &spool, writer.dir(), progress, stop)?;
    std::fs::remove_file(&spool).map_err(|error| CorpusError::file("remove", &spool, &error))?;
    let stats = first.stats;
    writer.write(STATS_FILE, (stats.to_json() + "\n").as_bytes())?;
    record.licences = licences;
    let (train, validation) = (stats.total(Split::Train), stats.total(Split::Validation));
    record.counts = BTreeMap::from([
        ("read".to_owned(), stats.read()),
        ("train_documents".to_owned(), train.documents),
        ("train_bytes".to_owned(), train.bytes),
        ("validation_documents".to_owned(), validation.documents),
        ("validation_bytes".to_owned(), validation.bytes),
        ("dropped_documents".to_owned(), stats.dropped().values().sum()),
    ]);
    if stop.is_set() {
        return Err(CorpusError::Interrupted);
    }
    Ok(writer.finish(record)?)
}

/// What the first pass knows of a document in the spool.
struct Spooled {
    id: String,
    source: usize,
    group: String,
    bytes: u64,
}

/// What the merger holds: never a text.
struct FirstPass<'a> {
    config: &'a CorpusConfig,
    stats: Stats,
    exact: ExactIndex,
    ids: HashSet<u64>,
    spooled: Vec<Spooled>,
    signatures: Vec<Option<Signature>>,
    dropped: Option<ShardWriter<Dropped>>,
    spool: Option<zstd::Encoder<'static, BufWriter<File>>>,
    spool_path: std::path::PathBuf,
}

impl<'a> FirstPass<'a> {
    fn new(config: &'a CorpusConfig, dir: &Path) -> Result<Self, CorpusError> {
        let spool_path = dir.join(SPOOL_FILE);
        let failed = |error: &dyn std::fmt::Display| CorpusError::file("write", &spool_path, error);
        let file = File::create(&spool_path).map_err(|error| failed(&error))?;
        let spool = zstd::Encoder::new(BufWriter::new(file), 1).map_err(|error| failed(&error))?;
        let mut stats = Stats::default();
        for source in &config.sources {
            stats.sources.insert(source.name.clone(), crate::stats::SourceStats::default());
        }
        Ok(Self {
            config,
            stats,
            exact: ExactIndex::default(),
            ids: HashSet::new(),
            spooled: Vec::new(),
            signatures: Vec::new(),
            dropped: Some(ShardWriter::new(dir, "dropped", DROPPED_SHARD_BYTES)),
            spool: Some(spool),
            spool_path,
        })
    }

    /// Takes what one record became, in the order of reading.
    fn take(&mut self, source: usize, prepared: Prepared) -> Result<(), CorpusError> {
        let name = &self.config.sources[source].name;
        let stats = self.stats.sources.get_mut(name).expect("all sources were entered");
        let mut count = |counts: Counts| {
            stats.read += 1;
            stats.lines_removed += counts.lines_removed;
            stats.charsets_refuted += u64::from(counts.charset_refuted);
        };
        match prepared {
            Prepared::Skipped(kind) => {
                *stats.skipped.entry(kind).or_default() += 1;
                Ok(())
            }
            Prepared::Dropped { dropped, counts } => {
                count(counts);
                self.drop(dropped)
            }
            Prepared::Document { mut document, key, signature, counts } => {
                count(counts);
                // Identities must be unique; a repeated one gets the place of its record.
                if !self.ids.insert(id_hash(&document.id)) {
                    document.id =
                        format!("{}#{}@{}", document.id, document.origin, document.origin_offset);
                    self.ids.insert(id_hash(&document.id));
                }
                if self.config.dedup.exact
                    && let Some(kept) = self.exact.enter(key, self.spooled.len())
                {
                    let detail = copy_of(&self.spooled[kept].id, None);
                    return self.drop(drop_document(&document, Reason::ExactDuplicate, detail));
                }
                self.spool(source, &document, signature)
            }
        }
    }

    fn drop(&mut self, dropped: Dropped) -> Result<(), CorpusError> {
        let stats = self.stats.sources.entry(dropped.source.clone()).or_default();
        *stats.dropped.entry(dropped.reason).or_default() += 1;
        self.dropped.as_mut().expect("shards are open until the end").push(dropped)
    }

    fn spool(
        &mut self,
        source: usize,
        document: &Document,
        signature: Option<Signature>,
    ) -> Result<(), CorpusError> {
        let spool = self.spool.as_mut().expect("the spool is open in the first pass");
        let written = serde_json::to_writer(&mut *spool, document)
            .map_err(io::Error::from)
            .and_then(|()| spool.write_all(b"\n"));
        written.map_err(|error| CorpusError::file("write", &self.spool_path, &error))?;
        // A document without a group is one by itself; the marks keep the two kinds apart.
        let group = document
            .group
            .as_ref()
            .map_or_else(|| format!("d {}", document.id), |group| format!("g {group}"));
        self.spooled.push(Spooled {
            id: document.id.clone(),
            source,
            group,
            bytes: document.text.len() as u64,
        });
        self.signatures.push(signature);
        Ok(())
    }

    fn close_spool(&mut self) -> Result<std::path::PathBuf, CorpusError> {
        let spool = self.spool.take().expect("the spool is closed once");
        spool
            .finish()
            .and_then(|mut file| file.flush())
            .map_err(|error| CorpusError::file("write", &self.spool_path, &error))?;
        Ok(self.spool_path.clone())
    }
}

fn id_hash(id: &str) -> u64 {
    milpa_text::minhash::word_hash(id)
}

/// Items of one file, in order.
struct Batch {
    number: u64,
    source: usize,
    origin: Arc<str>,
    items: Vec<Item>,
}

type Merged = (u64, usize, Vec<Prepared>);

fn run_first_pass(
    config: &CorpusConfig,
    threads: usize,
    progress: &dyn Progress,
    stop: &StopFlag,
    first: &mut FirstPass<'_>,
) -> Result<(), CorpusError> {
    let mut files = Vec::new();
    for (index, source) in config.sources.iter().enumerate() {
        files.extend(reader::source_files(source)?.into_iter().map(|file| (index, file)));
    }
    let total = files.iter().map(|(_, file)| file.bytes).sum();
    progress.begin("reading", Some(total), "bytes");
    let position = Arc::new(AtomicU64::new(0));
    let thresholds = ThresholdTable::new(&config.thresholds);
    let hasher = MinHasher::default();
    // Set when the merger gives up, so that the others do.
    let cancelled = AtomicBool::new(false);
    let (batch_in, batch_out) = mpsc::channel::<Batch>();
    let (merged_in, merged_out) = mpsc::channel::<Result<Merged, CorpusError>>();
    let permits = threads * BATCHES_PER_THREAD;
    let (permit_in, permit_out) = mpsc::sync_channel::<()>(permits);
    for _ in 0..permits {
        permit_in.send(()).expect("the channel holds all permits");
    }
    let batch_out = Mutex::new(batch_out);
    let result = thread::scope(|scope| {
        let reader_end = merged_in.clone();
        let (files, position_ref, cancelled_ref) = (&files, &position, &cancelled);
        scope.spawn(move || {
            let feed = Feed { config, permits: permit_out, batches: batch_in, next: 0 };
            if let Err(error) = feed.read_all(files, position_ref, stop, cancelled_ref) {
                // A merger that is gone needs no error.
                let _ = reader_end.send(Err(error));
            }
        });
        for _ in 0..threads {
            let (merged_in, batch_out) = (merged_in.clone(), &batch_out);
            let (thresholds, hasher) = (&thresholds, &hasher);
            scope.spawn(move || {
                let mut preparers: HashMap<usize, Preparer<'_>> = HashMap::new();
                loop {
                    let received =
                        batch_out.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                    let Ok(batch) = received else { return };
                    let preparer = preparers.entry(batch.source).or_insert_with(|| {
                        Preparer::new(config, &config.sources[batch.source], thresholds, hasher)
                    });
                    let prepared = batch
                        .items
                        .into_iter()
                        .take_while(|_| !cancelled_ref.load(Ordering::Relaxed))
                        .map(|item| preparer.prepare(item, &batch.origin))
                        .collect();
                    if merged_in.send(Ok((batch.number, batch.source, prepared))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(merged_in);
        let merge = Merge { first, progress, position: &position, permits: &permit_in, stop };
        let result = merge.run(&merged_out);
        cancelled.store(true, Ordering::Relaxed);
        // The reader may wait for a permit that nobody gives back any more.
        drop(permit_in);
        drop(merged_out);
        result
    });
    progress.end();
    result
}

/// Merges batches in order.
struct Merge<'a, 'c> {
    first: &'a mut FirstPass<'c>,
    progress: &'a dyn Progress,
    position: &'a AtomicU64,
    permits: &'a mpsc::SyncSender<()>,
    stop: &'a StopFlag,
}

impl Merge<'_, '_> {
    fn run(self, merged: &mpsc::Receiver<Result<Merged, CorpusError>>) -> Result<(), CorpusError> {
        let mut waiting: BTreeMap<u64, (usize, Vec<Prepared>)> = BTreeMap::new();
        let mut next = 0;
        while let Ok(message) = merged.recv() {
            let (number, source, prepared) = message?;
            waiting.insert(number, (source, prepared));
            while let Some((source, prepared)) = waiting.remove(&next) {
                if self.stop.is_set() {
                    return Err(CorpusError::Interrupted);
                }
                for prepared in prepared {
                    self.first.take(source, prepared)?;
                }
                next += 1;
                // The reader may be done and gone; its channel still takes the permit.
                let _ = self.permits.try_send(());
                self.progress.advance(self.position.load(Ordering::Relaxed));
            }
        }
        if self.stop.is_set() { Err(CorpusError::Interrupted) } else { Ok(()) }
    }
}

/// Reads files and hands out batches.
struct Feed<'a> {
    config: &'a CorpusConfig,
    permits: mpsc::Receiver<()>,
    batches: mpsc::Sender<Batch>,
    next: u64,
}

impl Feed<'_> {
    fn read_all(
        mut self,
        files: &[(usize, SourceFile)],
        position: &Arc<AtomicU64>,
        stop: &StopFlag,
        cancelled: &AtomicBool,
    ) -> Result<(), CorpusError> {
        let mut documents = vec![0u64; self.config.sources.len()];
        for (source, file) in files {
            let config = &self.config.sources[*source];
            let limit = config.max_documents.unwrap_or(u64::MAX);
            let failed = |error| CorpusError::Source {
                source_name: config.name.clone(),
                path: file.path.clone(),
                source: error,
            };
            if documents[*source] >= limit {
                continue;
            }
            let max_record = self.config.max_document.0;
            let mut reader = reader::open(file, max_record, position).map_err(failed)?;
            let origin: Arc<str> = file.origin.as_str().into();
            let (mut items, mut bytes) = (Vec::new(), 0);
            while documents[*source] < limit {
                if stop.is_set() || cancelled.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let Some(item) = reader.next_item().map_err(failed)? else { break };
                if let Item::Record(record) = &item {
                    bytes += record.body.bytes().len();
                    documents[*source] += 1;
                }
                items.push(item);
                if items.len() >= BATCH_ITEMS || bytes >= BATCH_BYTES {
                    if !self.send(*source, &origin, std::mem::take(&mut items)) {
                        return Ok(());
                    }
                    bytes = 0;
                }
            }
            if !items.is_empty() && !self.send(*source, &origin, items) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// False if nobody listens any more.
    fn send(&mut self, source: usize, origin: &Arc<str>, items: Vec<Item>) -> bool {
        if self.permits.recv().is_err() {
            return false;
        }
        let batch = Batch { number: self.next, source, origin: Arc::clone(origin), items };
        self.next += 1;
        self.batches.send(batch).is_ok()
    }
}

/// The second pass. Returns the licences of what was kept.
fn write_shards(
    config: &CorpusConfig,
    seed: Seed,
    first: &mut FirstPass<'_>,
    spool: &Path,
    dir: &Path,
    progress: &dyn Progress,
    stop: &StopFlag,
) -> Result<Vec<String>, CorpusError> {
    let copies = if config.dedup.near.enabled {
        near_copies(&first.signatures, config.dedup.near.similarity)
    } else {
        vec![None; first.signatures.len()]
    };
    first.signatures = Vec::new();
    if copies.iter().all(Option::is_some) {
        let reasons: Vec<String> = first
            .stats
            .dropped()
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let reasons =
            if reasons.is_empty() { "nothing was read".into() } else { reasons.join(", ") };
        return Err(CorpusError::Empty { read: first.stats.read(), reasons });
    }
    let held_out = hold_out(config, seed, first, &copies);
    let mut train = ShardWriter::new(dir, Split::Train.name(), config.shard_size.0);
    let mut validation = ShardWriter::new(dir, Split::Validation.name(), config.shard_size.0);
    let mut licences = BTreeSet::new();
    progress.begin("writing", Some(first.spooled.len() as u64), "documents");
    let failed = |error: &dyn std::fmt::Display| CorpusError::file("read", spool, error);
    // JSON writes a byte as six characters at most.
    let longest = (config.max_document.0 as usize).saturating_mul(6) + (1 << 20);
    let mut lines = LineReader::open(spool, longest).map_err(|error| failed(&error))?;
    for (index, copy) in copies.iter().enumerate() {
        if stop.is_set() {
            return Err(CorpusError::Interrupted);
        }
        let line = lines.next_line().map_err(|error| failed(&error))?;
        let Some(Line::Whole(line)) = line else { return Err(failed(&"it ends too early")) };
        let document: Document = serde_json::from_slice(line).map_err(|error| failed(&error))?;
        if let Some(copy) = copy {
            let detail = copy_of(&first.spooled[copy.kept].id, Some(copy.similarity));
            first.drop(drop_document(&document, Reason::NearDuplicate, detail))?;
            continue;
        }
        licences.extend(document.licence.clone());
        first
            .stats
            .languages
            .entry(document.language.clone())
            .or_default()
            .add(document.text.len());
        let stats = first.stats.sources.get_mut(&document.source).expect("sources were entered");
        if held_out.contains(&first.spooled[index].group) {
            stats.validation.add(document.text.len());
            validation.push(document)?;
        } else {
            stats.train.add(document.text.len());
            train.push(document)?;
        }
        progress.advance(index as u64 + 1);
    }
    train.finish()?;
    validation.finish()?;
    first.dropped.take().expect("shards are open until the end").finish()?;
    progress.end();
    if first.stats.total(Split::Validation).documents == 0 && wants_validation(config) {
        first.stats.notes.push(
            "the validation part is empty: it needs a source with two documents or groups that \
             are kept"
                .to_owned(),
        );
    }
    Ok(licences.into_iter().collect())
}

fn wants_validation(config: &CorpusConfig) -> bool {
    config.validation.groups.map_or(config.validation.share > 0.0, |groups| groups > 0)
}

/// Chooses the held-out groups among the documents that stay, and counts groups.
fn hold_out(
    config: &CorpusConfig,
    seed: Seed,
    first: &mut FirstPass<'_>,
    copies: &[Option<crate::dedup::NearCopy>],
) -> BTreeSet<String> {
    let mut groups: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (spooled, copy) in first.spooled.iter().zip(copies) {
        if copy.is_none() {
            let name = config.sources[spooled.source].name.clone();
            *groups.entry(name).or_default().entry(spooled.group.clone()).or_default() +=
                spooled.bytes;
        }
    }
    let held_out = choose_validation(&groups, &config.validation, seed);
    for (name, groups) in &groups {
        let stats = first.stats.sources.get_mut(name).expect("all sources were entered");
        stats.groups = groups.len() as u64;
        stats.validation_groups = groups.keys().filter(|g| held_out.contains(*g)).count() as u64;
    }
    held_out
}

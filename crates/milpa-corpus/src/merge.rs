//! Merging: from prepared parts to the shards of a corpus.
//!
//! Documents are numbered in the order of the sources, files and records, whoever prepared them. What
//! must be known of all of them at once goes through [`ExternalSorter`], in as much memory as
//! `dedup.memory` allows and the rest on disk: which document is a copy of which, which identities
//! repeat, which groups are held out. Then the documents are read once and written. Held in memory are,
//! besides, the keys of the held-out groups.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    iter::Peekable,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use milpa_base::{Progress, Seed, StopFlag, mmap::MappedFile};
use milpa_text::{Signature, minhash::word_hash};

use crate::{
    CorpusConfig, CorpusError, Document, Dropped, Reason, Split, Stats,
    config::Scope,
    dedup::{NearCopy, near_copies},
    part::{DocumentKey, PreparedPart},
    prepare::{DocumentName, drop_document},
    shard::ShardWriter,
    sorter::{ExternalSorter, Sorted},
    split::{Chooser, GroupKey},
    times::{Stage, Times},
    why::copy_of,
};

/// Shards of dropped documents hold samples only and may be large in rows.
const DROPPED_SHARD_BYTES: u64 = 256 << 20;
/// Documents that are read ahead of the writer: batches, and bytes of each.
const BATCHES_AHEAD: usize = 4;
const BATCH_BYTES: usize = 1 << 20;

/// What a merge works with.
pub(crate) struct Merge<'a> {
    pub(crate) config: &'a CorpusConfig,
    pub(crate) seed: Seed,
    /// The parts, in the order of their documents.
    pub(crate) parts: &'a [PreparedPart],
    /// Where the shards go.
    pub(crate) out: &'a Path,
    /// A folder for what does not fit in memory; the caller makes and removes it.
    pub(crate) scratch: &'a Path,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) stop: &'a StopFlag,
}

/// What a merge tells besides the shards.
pub(crate) struct Merged {
    pub(crate) stats: Stats,
    pub(crate) licences: BTreeSet<String>,
}

impl Merge<'_> {
    pub(crate) fn run(self, times: &mut Times) -> Result<Merged, CorpusError> {
        let mut stats = self.counts();
        let documents: u64 = self.parts.iter().map(|part| part.documents).sum();
        let mut bytes = 0;
        self.each_key(|_, key| {
            bytes += key.bytes;
            Ok(())
        })?;
        self.progress.begin("comparing", Some(documents), "documents");
        let copies = times.run(Stage::Deduplicate, bytes as usize, || self.copies())?;
        if copies.removed == documents {
            return Err(empty(&stats, &copies));
        }
        let names = self.names()?;
        let held_out = self.hold_out(&copies, &names, &mut stats)?;
        self.progress.advance(documents);
        self.progress.end();
        let mut merged = Merged { stats, licences: BTreeSet::new() };
        self.progress.begin("writing", Some(documents), "documents");
        times.run(Stage::Write, bytes as usize, || {
            self.write(&copies, &names, &held_out, &mut merged)
        })?;
        self.progress.end();
        let held_out = merged.stats.total(Split::Validation).documents;
        if held_out == 0 && self.config.validation.is_wanted() {
            merged.stats.notes.push(
                "the validation part is empty: it needs a source with two documents or groups that \
                 are kept"
                    .to_owned(),
            );
        }
        Ok(merged)
    }

    fn check_stop(&self) -> Result<(), CorpusError> {
        if self.stop.is_set() { Err(CorpusError::Interrupted) } else { Ok(()) }
    }

    /// What the parts counted, by source.
    fn counts(&self) -> Stats {
        let mut stats = Stats::default();
        for source in &self.config.sources {
            stats.sources.entry(source.name.clone()).or_default();
        }
        for part in self.parts {
            let name = &self.config.sources[part.source].name;
            stats.sources.get_mut(name).expect("all sources were entered").add(&part.stats);
        }
        stats
    }

    fn sorter<const N: usize>(&self, name: &str) -> ExternalSorter<N> {
        ExternalSorter::new(&self.scratch.join(name), self.config.dedup.memory.0)
    }

    fn each_key(
        &self,
        mut each: impl FnMut(u64, DocumentKey) -> Result<(), CorpusError>,
    ) -> Result<(), CorpusError> {
        let mut number = 0;
        for part in self.parts {
            self.check_stop()?;
            for key in part.keys()? {
                each(number, key?)?;
                number += 1;
            }
        }
        Ok(())
    }

    fn each_name(
        &self,
        mut each: impl FnMut(u64, DocumentName) -> Result<(), CorpusError>,
    ) -> Result<(), CorpusError> {
        let mut number = 0;
        for part in self.parts {
            self.check_stop()?;
            let mut rows = part.names()?;
            while let Some(name) = rows.next_row()? {
                each(number, name)?;
                number += 1;
            }
        }
        Ok(())
    }
}

fn empty(stats: &Stats, copies: &Copies) -> CorpusError {
    let mut reasons = stats.dropped();
    reasons.insert(Reason::ExactDuplicate, copies.exact);
    reasons.insert(Reason::NearDuplicate, copies.removed - copies.exact);
    let reasons: Vec<String> = reasons
        .into_iter()
        .filter(|&(_, count)| count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let reasons = if reasons.is_empty() { "nothing was read".into() } else { reasons.join(", ") };
    CorpusError::Empty { read: stats.read(), reasons }
}

/// A document that is a copy of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Copy {
    /// Number of the copy.
    number: u64,
    /// Number of the document that is kept instead.
    kept: u64,
    /// Estimated similarity, none for an exact copy.
    similarity: Option<f32>,
}

const COPY_BYTES: usize = 8 + 8 + 4;

impl Copy {
    fn record(&self) -> [u8; COPY_BYTES] {
        let similarity = self.similarity.unwrap_or(f32::NAN);
        join([&self.number.to_be_bytes(), &self.kept.to_be_bytes(), &similarity.to_be_bytes()])
    }

    fn of(record: &[u8; COPY_BYTES]) -> Self {
        let similarity = f32::from_be_bytes(part_of(record, 16));
        Self {
            number: u64::from_be_bytes(part_of(record, 0)),
            kept: u64::from_be_bytes(part_of(record, 8)),
            similarity: (!similarity.is_nan()).then_some(similarity),
        }
    }
}

/// Puts the fields of a record together.
fn join<const N: usize, const M: usize>(fields: [&[u8]; M]) -> [u8; N] {
    let mut record = [0; N];
    let mut at = 0;
    for field in fields {
        record[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    debug_assert_eq!(at, N);
    record
}

/// A field of a record.
fn part_of<const M: usize>(record: &[u8], at: usize) -> [u8; M] {
    record[at..at + M].try_into().expect("the record has the field")
}

/// The copies, in a file, in the order of documents.
struct Copies {
    path: PathBuf,
    /// Exact and near ones.
    removed: u64,
    exact: u64,
}

impl Copies {
    fn write(path: PathBuf, sorted: Sorted<COPY_BYTES>) -> Result<Self, CorpusError> {
        let mut copies = Self { path, removed: 0, exact: 0 };
        let failed = |error| CorpusError::disk(&copies.path, error);
        let mut file = BufWriter::new(File::create(&copies.path).map_err(failed)?);
        for record in sorted {
            let record = record?;
            file.write_all(&record).map_err(|error| CorpusError::disk(&copies.path, error))?;
            copies.removed += 1;
            copies.exact += u64::from(Copy::of(&record).similarity.is_none());
        }
        file.flush().map_err(|error| CorpusError::disk(&copies.path, error))?;
        Ok(copies)
    }

    fn follow(&self) -> Result<Follow<impl Rows<Copy>>, CorpusError> {
        let failed = |error: &std::io::Error| CorpusError::file("read", &self.path, error);
        let mut file = BufReader::new(File::open(&self.path).map_err(|error| failed(&error))?);
        let (mut left, path) = (self.removed, self.path.clone());
        Ok(Follow::new(std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            let mut record = [0; COPY_BYTES];
            Some(match file.read_exact(&mut record) {
                Ok(()) => Ok(Copy::of(&record)).map(|copy| (copy.number, copy)),
                Err(error) => Err(CorpusError::file("read", &path, &error)),
            })
        })))
    }
}

/// Numbers of some documents, in their order, with what is known of each.
trait Rows<T>: Iterator<Item = Result<(u64, T), CorpusError>> {}

impl<T, I: Iterator<Item = Result<(u64, T), CorpusError>>> Rows<T> for I {}

/// Rows with the numbers of some documents, followed while all documents pass.
struct Follow<I: Iterator>(Peekable<I>);

impl<I: Iterator<Item = Result<(u64, T), CorpusError>>, T> Follow<I> {
    fn new(rows: I) -> Self {
        Self(rows.peekable())
    }

    /// The row of document `number`; numbers must be asked for in order.
    fn at(&mut self, number: u64) -> Result<Option<T>, CorpusError> {
        let due = |row: &Result<(u64, T), CorpusError>| {
            row.as_ref().map_or(true, |(next, _)| *next <= number)
        };
        self.0.next_if(due).transpose().map(|row| row.map(|(_, value)| value))
    }
}

impl Merge<'_> {
    /// Documents are compared with those of the same scope.
    fn scope(&self, key: &DocumentKey) -> u64 {
        match self.config.dedup.scope {
            Scope::All => 0,
            Scope::Language => key.language,
        }
    }

    /// Finds exact copies, and among the other documents near ones.
    fn copies(&self) -> Result<Copies, CorpusError> {
        let mut all = self.sorter::<COPY_BYTES>("copies");
        let mut exact =
            Follow::new(self.exact_copies()?.map(|record| {
                record.map(|record| Copy::of(&record)).map(|copy| (copy.number, copy))
            }));
        let near = self.config.dedup.near.enabled;
        let mut scopes: BTreeMap<u64, (Vec<u64>, Vec<Option<Signature>>)> = BTreeMap::new();
        let mut number = 0;
        for part in self.parts {
            self.check_stop()?;
            let mut part_signatures = part.signatures::<{ Signature::BYTES }>()?;
            for key in part.keys()? {
                let key = key?;
                let signature = if key.signed { part_signatures.next().transpose()? } else { None };
                if let Some(copy) = exact.at(number)? {
                    all.push(copy.record())?;
                } else if near {
                    let (numbers, signatures) = scopes.entry(self.scope(&key)).or_default();
                    numbers.push(number);
                    signatures.push(signature.map(|bytes| Signature::read(&bytes)));
                }
                number += 1;
            }
        }
        let similarity = self.config.dedup.near.similarity;
        for (numbers, signatures) in scopes.into_values() {
            for (index, copy) in near_copies(&signatures, similarity).into_iter().enumerate() {
                if let Some(NearCopy { kept, similarity }) = copy {
                    let (number, kept) = (numbers[index], numbers[kept]);
                    let similarity = Some(similarity as f32);
                    all.push(Copy { number, kept, similarity }.record())?;
                }
            }
        }
        Copies::write(self.scratch.join("copies.bin"), all.finish()?)
    }

    /// Copies of texts that came before, in the order of documents.
    fn exact_copies(&self) -> Result<Sorted<COPY_BYTES>, CorpusError> {
        let mut keys = self.sorter::<32>("texts");
        if self.config.dedup.exact {
            self.each_key(|number, key| {
                let (scope, text) = (self.scope(&key).to_be_bytes(), key.text.0.to_be_bytes());
                keys.push(join([&scope, &text, &number.to_be_bytes()]))
            })?;
        }
        let mut copies = self.sorter("exact");
        let mut first: Option<([u8; 24], u64)> = None;
        for record in keys.finish()? {
            let record = record?;
            let (text, number) = (part_of(&record, 0), u64::from_be_bytes(part_of(&record, 24)));
            match first {
                Some((same, kept)) if same == text => {
                    copies.push(Copy { number, kept, similarity: None }.record())?;
                }
                _ => first = Some((text, number)),
            }
        }
        copies.finish()
    }
}

/// The final identities of all documents, mapped from disk.
struct Names {
    /// Where each identity begins, and where the last one ends.
    offsets: MappedFile,
    text: MappedFile,
}

impl Names {
    fn get(&self, number: u64) -> &str {
        let at = number as usize * 8;
        let [begin, end] = [at, at + 8].map(|at| u64::from_le_bytes(part_of(&self.offsets, at)));
        str::from_utf8(&self.text[begin as usize..end as usize]).expect("identities are texts")
    }
}

impl Merge<'_> {
    /// Settles the identities. They must be unique: one that came before gets the place of its record.
    fn names(&self) -> Result<Names, CorpusError> {
        let mut ids = self.sorter::<16>("ids");
        self.each_name(|number, name| {
            ids.push(join([&word_hash(&name.id).to_be_bytes(), &number.to_be_bytes()]))
        })?;
        let mut repeated = self.sorter::<8>("repeated");
        let mut last = None;
        for record in ids.finish()? {
            let record = record?;
            let id: [u8; 8] = part_of(&record, 0);
            if last == Some(id) {
                repeated.push(part_of(&record, 8))?;
            }
            last = Some(id);
        }
        let mut repeated = Follow::new(
            repeated.finish()?.map(|record| record.map(|record| (u64::from_be_bytes(record), ()))),
        );
        let mut offsets = ScratchFile::create(self.scratch.join("offsets.bin"))?;
        let mut text = ScratchFile::create(self.scratch.join("ids.bin"))?;
        offsets.write(&0u64.to_le_bytes())?;
        let mut end = 0;
        self.each_name(|number, name| {
            let mut id = name.id;
            if repeated.at(number)?.is_some() {
                id = format!("{id}#{}", name.place);
            }
            text.write(id.as_bytes())?;
            end += id.len() as u64;
            offsets.write(&end.to_le_bytes())
        })?;
        Ok(Names { offsets: offsets.map()?, text: text.map()? })
    }

    /// Chooses the held-out groups among the documents that stay, and counts groups.
    fn hold_out(
        &self,
        copies: &Copies,
        names: &Names,
        stats: &mut Stats,
    ) -> Result<HashSet<GroupKey>, CorpusError> {
        let mut totals = vec![0; self.config.sources.len()];
        let mut documents = self.sorter::<28>("groups");
        let mut copies = copies.follow()?;
        let mut number = 0;
        for part in self.parts {
            self.check_stop()?;
            let (mut keys, mut rows) = (part.keys()?, part.names()?);
            while let (Some(key), Some(name)) =
                (keys.next().transpose()?, rows.next_row::<DocumentName>()?)
            {
                if copies.at(number)?.is_none() {
                    let group = group_of(name.group.as_deref(), names.get(number), self.seed);
                    let [rank, name] = group.numbers().map(u64::to_be_bytes);
                    let (source, bytes) = (part.source as u32, key.bytes);
                    totals[part.source] += bytes;
                    let source = source.to_be_bytes();
                    documents.push(join([&source, &rank, &name, &bytes.to_be_bytes()]))?;
                }
                number += 1;
            }
        }
        let mut chooser = Chooser::new(&self.config.validation, &totals);
        for record in documents.finish()? {
            let record = record?;
            let source = u32::from_be_bytes(part_of(&record, 0)) as usize;
            let [rank, name, bytes] =
                [4, 12, 20].map(|at| u64::from_be_bytes(part_of(&record, at)));
            chooser.push(source, GroupKey::from_numbers([rank, name]), bytes);
        }
        let (held_out, groups) = chooser.finish();
        for (source, count) in groups {
            let name = &self.config.sources[source].name;
            stats.sources.get_mut(name).expect("all sources were entered").groups = count;
        }
        Ok(held_out)
    }
}

/// A document without a group is one by itself; the marks keep the two kinds apart.
fn group_of(group: Option<&str>, id: &str, seed: Seed) -> GroupKey {
    match group {
        Some(group) => GroupKey::new(&format!("g {group}"), seed),
        None => GroupKey::new(&format!("d {id}"), seed),
    }
}

/// A file that is written once and then mapped.
struct ScratchFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl ScratchFile {
    fn create(path: PathBuf) -> Result<Self, CorpusError> {
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file: BufWriter::new(file) }),
            Err(error) => Err(CorpusError::disk(&path, error)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CorpusError> {
        self.file.write_all(bytes).map_err(|error| CorpusError::disk(&self.path, error))
    }

    fn map(mut self) -> Result<MappedFile, CorpusError> {
        self.file
            .flush()
            .and_then(|()| MappedFile::open(&self.path))
            .map_err(|error| CorpusError::disk(&self.path, error))
    }
}

impl Merge<'_> {
    /// Reads all documents once and writes them where they belong.
    fn write(
        &self,
        copies: &Copies,
        names: &Names,
        held_out: &HashSet<GroupKey>,
        merged: &mut Merged,
    ) -> Result<(), CorpusError> {
        let mut dropped = ShardWriter::<Dropped>::new(self.out, "dropped", DROPPED_SHARD_BYTES);
        for part in self.parts {
            let mut rows = part.dropped()?;
            while let Some(row) = rows.next_row()? {
                dropped.push(row)?;
            }
        }
        let shard_size = self.config.shard_size.0;
        let mut train = ShardWriter::new(self.out, Split::Train.name(), shard_size);
        let mut validation = ShardWriter::new(self.out, Split::Validation.name(), shard_size);
        let mut copies = copies.follow()?;
        let mut groups = BTreeSet::new();
        let mut number = 0;
        self.each_document(|source, mut document: Document| {
            names.get(number).clone_into(&mut document.id);
            let stats = merged
                .stats
                .sources
                .get_mut(&self.config.sources[source].name)
                .expect("all sources were entered");
            if let Some(copy) = copies.at(number)? {
                let detail = copy_of(names.get(copy.kept), copy.similarity.map(f64::from));
                let reason = match copy.similarity {
                    None => Reason::ExactDuplicate,
                    Some(_) => Reason::NearDuplicate,
                };
                *stats.dropped.entry(reason).or_default() += 1;
                dropped.push(drop_document(&document, reason, detail))?;
            } else {
                let length = document.text.len();
                merged.licences.extend(document.licence.clone());
                merged.stats.languages.entry(document.language.clone()).or_default().add(length);
                let group = group_of(document.group.as_deref(), &document.id, self.seed);
                if held_out.contains(&group) {
                    if groups.insert((source, group)) {
                        stats.validation_groups += 1;
                    }
                    stats.validation.add(length);
                    validation.push(document)?;
                } else {
                    stats.train.add(length);
                    train.push(document)?;
                }
            }
            number += 1;
            self.progress.advance(number);
            Ok(())
        })?;
        train.finish()?;
        validation.finish()?;
        dropped.finish()
    }

    /// Hands out the documents of all parts with the index of their source. Another thread reads ahead.
    fn each_document(
        &self,
        mut each: impl FnMut(usize, Document) -> Result<(), CorpusError>,
    ) -> Result<(), CorpusError> {
        // JSON writes a byte as six characters at most.
        let longest = (self.config.max_document.0 as usize).saturating_mul(6) + (1 << 20);
        let (batches_in, batches) = mpsc::sync_channel(BATCHES_AHEAD);
        let read = move || -> Result<(), CorpusError> {
            for part in self.parts {
                let mut rows = part.documents(longest)?;
                let mut more = true;
                while more {
                    let (mut batch, mut bytes) = (Vec::new(), 0);
                    while more && bytes < BATCH_BYTES {
                        let row: Option<Document> = rows.next_row()?;
                        more = row.is_some();
                        bytes += row.as_ref().map_or(0, |document| document.text.len() + 1);
                        batch.extend(row);
                    }
                    if batches_in.send((part.source, batch)).is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let reader = scope.spawn(read);
            let write = || -> Result<(), CorpusError> {
                for (source, batch) in batches {
                    self.check_stop()?;
                    for document in batch {
                        each(source, document)?;
                    }
                }
                Ok(())
            };
            let written = write();
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.and(read)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_come_back_in_the_order_of_documents() {
        let copies = [
            Copy { number: 1, kept: 0, similarity: None },
            Copy { number: 300, kept: 256, similarity: Some(0.75) },
        ];
        let records = copies.map(|copy| copy.record());
        assert!(records[0] < records[1]);
        assert_eq!(records.map(|record| Copy::of(&record)), copies);
    }

    #[test]
    fn rows_are_met_at_their_numbers() {
        let mut follow = Follow::new([1, 4, 5].into_iter().map(|number| Ok((number, number))));
        let found: Vec<_> = (0..7).filter_map(|number| follow.at(number).unwrap()).collect();
        assert_eq!(found, [1, 4, 5]);
    }
}

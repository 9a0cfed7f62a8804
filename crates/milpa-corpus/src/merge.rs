//! Merging: from prepared parts to the shards of a corpus.
//!
//! Documents are numbered in the order of the sources, files and records, whoever prepared them. What
//! must be known of all of them at once goes through [`ExternalSorter`], in as much memory as
//! `dedup.memory` allows and the rest on disk: which document is a copy of which, which identities
//! repeat, which groups are held out. Then the documents are read once and written. Held in memory are,
//! besides, the keys of the held-out groups.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::{BufWriter, Write},
    iter::Peekable,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use milpa_base::{Progress, Seed, StopFlag, mmap::MappedFile};
use milpa_text::minhash::word_hash;

use crate::{
    CorpusConfig, CorpusError, Document, Dropped, Reason, Split, Stats,
    config::CompareWithin,
    dedup::{
        CopyKind, DuplicateSettings, Duplicates, NearSettings, RepeatFinder, RepeatRanges,
        RepeatSettings, Scope, cut_ranges,
        external_sort::{ExternalSorter, Record, Scratch, Spool, SpoolWriter},
    },
    part::PreparedPart,
    prepare::{DocumentName, drop_document},
    shard::ShardWriter,
    split::{Chooser, GroupKey},
    times::{Stage, Times},
    why::{Kept, copy_of},
};

/// Shards of dropped documents hold samples only and may be large in rows.
const DROPPED_SHARD_BYTES: u64 = 256 << 20;
/// Buffer of a list that is read or written while sorters work.
const LIST_BUFFER: usize = 64 << 10;
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
    /// A folder for what does not fit in memory.
    pub(crate) scratch: &'a Scratch,
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
        self.progress.begin("comparing", Some(documents), "documents");
        let copies = times.run(Stage::Deduplicate, 0, || self.copies())?;
        let bytes = copies.bytes as usize;
        times.add_bytes(Stage::Deduplicate, bytes);
        if copies.removed == documents {
            return Err(empty(&stats, &copies));
        }
        let names = self.names()?;
        let held_out = self.hold_out(&copies, &names, &mut stats)?;
        self.progress.advance(documents);
        self.progress.end();
        let repeats = match &self.config.dedup.repeats {
            Some(config) => {
                let settings = config.settings(self.config.dedup.memory);
                let find = || self.repeats(&copies, settings, documents);
                Some(times.run(Stage::Repeats, bytes, find)?)
            }
            None => None,
        };
        let mut merged = Merged { stats, licences: BTreeSet::new() };
        self.progress.begin("writing", Some(documents), "documents");
        times.run(Stage::Write, bytes, || {
            self.write(&copies, &names, &held_out, repeats, &mut merged)
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

    fn sorter<R: Record>(&self) -> ExternalSorter<R> {
        // Two work at the same time.
        let memory = usize::try_from(self.config.dedup.memory.0 / 2).unwrap_or(usize::MAX);
        ExternalSorter::new(self.scratch, memory)
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

/// What is known of a document that has copies.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Copy {
    /// Number of the document that is kept; its own, if it is that one.
    kept: u64,
    /// Documents in the cluster.
    cluster: u64,
    /// Whether it equals the kept document.
    exact: bool,
    /// Estimated similarity to the kept document; not a number where it was not estimated.
    similarity: f64,
}

impl Copy {
    fn record(&self, number: u64) -> CopyRecord {
        let bits = if self.exact { EXACT } else { self.similarity.to_bits() };
        (number, self.kept, self.cluster, bits)
    }

    fn of((number, kept, cluster, bits): CopyRecord) -> (u64, Self) {
        let exact = bits == EXACT;
        let similarity = if exact { 1.0 } else { f64::from_bits(bits) };
        (number, Self { kept, cluster, exact, similarity })
    }
}

/// Number, kept document, size of the cluster, similarity as bits.
type CopyRecord = (u64, u64, u64, u64);
/// Stands for a similarity that needs no estimate: no bits of one.
const EXACT: u64 = u64::MAX;

/// The documents that have copies, in the order of documents.
struct Copies {
    members: Spool<CopyRecord>,
    /// Exact and near copies.
    removed: u64,
    exact: u64,
    /// Bytes of text that were compared.
    bytes: u64,
}

impl Copies {
    fn follow(&self) -> Result<Follow<impl Rows<Copy>>, CorpusError> {
        Ok(Follow::new(self.members.records(LIST_BUFFER)?.map(|record| record.map(Copy::of))))
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
    /// Finds exact and near copies.
    fn copies(&self) -> Result<Copies, CorpusError> {
        let dedup = &self.config.dedup;
        let near = dedup.near.enabled.then_some(NearSettings { verify: dedup.near.verify() });
        let settings = DuplicateSettings { exact: dedup.exact, near, memory: dedup.memory };
        let mut duplicates = Duplicates::new(self.scratch.path(), settings)?;
        let banding = dedup.near.minhash().banding;
        let (mut number, mut bytes) = (0, 0);
        for part in self.parts {
            self.check_stop()?;
            let mut signatures = part.signatures(banding)?;
            for key in part.keys()? {
                let key = key?;
                let signature = if key.signed { signatures.next().transpose()? } else { None };
                let scope = match dedup.scope {
                    CompareWithin::All => Scope::GLOBAL,
                    CompareWithin::Language => Scope::from_hash(key.language),
                };
                duplicates.add(number, scope, key.text, signature.as_ref())?;
                bytes += key.bytes;
                number += 1;
            }
        }
        let mut members = SpoolWriter::new(self.scratch, LIST_BUFFER)?;
        let (mut removed, mut exact) = (0, 0);
        for member in duplicates.find()? {
            let member = member?;
            let copy = Copy {
                kept: member.kept,
                cluster: member.cluster_size,
                exact: member.kind == CopyKind::Exact,
                similarity: member.similarity.unwrap_or(f64::NAN),
            };
            if !member.is_kept() {
                removed += 1;
                exact += u64::from(copy.exact);
            }
            members.push(copy.record(member.ordinal))?;
        }
        Ok(Copies { members: members.finish()?, removed, exact, bytes })
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
        let [begin, end] = [at, at + 8].map(|at| {
            let bytes = self.offsets[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        });
        str::from_utf8(&self.text[begin as usize..end as usize]).expect("identities are texts")
    }
}

impl Merge<'_> {
    /// Settles the identities. They must be unique: one that came before gets the place of its record.
    fn names(&self) -> Result<Names, CorpusError> {
        let mut ids = self.sorter();
        self.each_name(|number, name| ids.push((word_hash(&name.id), number)))?;
        let mut repeated = self.sorter();
        let mut last = None;
        for record in ids.sorted()? {
            let (id, number) = record?;
            if last == Some(id) {
                repeated.push((number,))?;
            }
            last = Some(id);
        }
        let repeated = repeated.sorted()?.map(|record| record.map(|(number,)| (number, ())));
        let mut repeated = Follow::new(repeated);
        let mut offsets = ScratchFile::create(self.scratch.path().join("offsets.bin"))?;
        let mut text = ScratchFile::create(self.scratch.path().join("ids.bin"))?;
        // An empty file cannot be mapped.
        text.write(b"\n")?;
        let mut end = 1u64;
        offsets.write(&end.to_le_bytes())?;
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
        let mut documents = self.sorter();
        let mut copies = copies.follow()?;
        let mut number = 0;
        for part in self.parts {
            self.check_stop()?;
            let (mut keys, mut rows) = (part.keys()?, part.names()?);
            while let (Some(key), Some(name)) =
                (keys.next().transpose()?, rows.next_row::<DocumentName>()?)
            {
                if copies.at(number)?.is_none_or(|copy| copy.kept == number) {
                    let group = group_of(name.group.as_deref(), names.get(number), self.seed);
                    let [rank, name] = group.numbers();
                    totals[part.source] += key.bytes;
                    documents.push((part.source as u64, rank, name, number, key.bytes))?;
                }
                number += 1;
            }
        }
        let mut chooser = Chooser::new(&self.config.validation, &totals);
        for record in documents.sorted()? {
            let (source, rank, name, _, bytes) = record?;
            chooser.push(source as usize, GroupKey::from_numbers([rank, name]), bytes);
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
            Err(error) => Err(CorpusError::scratch("write", &path, error)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CorpusError> {
        self.file.write_all(bytes).map_err(|error| CorpusError::scratch("write", &self.path, error))
    }

    fn map(mut self) -> Result<MappedFile, CorpusError> {
        self.file
            .flush()
            .and_then(|()| MappedFile::open(&self.path))
            .map_err(|error| CorpusError::scratch("write", &self.path, error))
    }
}

impl Merge<'_> {
    /// Reads all documents once and writes them where they belong.
    fn write(
        &self,
        copies: &Copies,
        names: &Names,
        held_out: &HashSet<GroupKey>,
        repeats: Option<RepeatRanges>,
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
        let repeats = repeats.into_iter().flatten();
        let mut repeats = Follow::new(repeats.map(|row| row.map(|row| (row.ordinal, row.ranges))));
        let mut groups = BTreeSet::new();
        let mut number = 0;
        self.each_document(|source, mut document: Document| {
            names.get(number).clone_into(&mut document.id);
            let stats = merged
                .stats
                .sources
                .get_mut(&self.config.sources[source].name)
                .expect("all sources were entered");
            let copy = copies.at(number)?;
            if let Some(copy) = copy.filter(|copy| copy.kept != number) {
                let (reason, kept) = match copy.exact {
                    true => (Reason::ExactDuplicate, Kept::Same),
                    false if copy.similarity.is_nan() => (Reason::NearDuplicate, Kept::Linked),
                    false => (Reason::NearDuplicate, Kept::Similar(copy.similarity)),
                };
                let detail = copy_of(names.get(copy.kept), kept);
                *stats.dropped.entry(reason).or_default() += 1;
                dropped.push(drop_document(&document, reason, detail))?;
            } else {
                if let Some(ranges) = repeats.at(number)? {
                    let cut = cut_ranges(&document.text, &ranges);
                    stats.repeated_bytes_cut += (document.text.len() - cut.len()) as u64;
                    if cut.trim().is_empty() {
                        let detail = "all of its passages stood before".to_owned();
                        *stats.dropped.entry(Reason::RepeatedText).or_default() += 1;
                        dropped.push(drop_document(&document, Reason::RepeatedText, detail))?;
                        number += 1;
                        return Ok(());
                    }
                    document.text = cut;
                }
                document.cluster_size = copy.map_or(1, |copy| copy.cluster);
                document.weight = self.config.dedup.weight(document.cluster_size);
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

    /// Finds the passages of the documents that stay that stood before.
    fn repeats(
        &self,
        copies: &Copies,
        settings: RepeatSettings,
        documents: u64,
    ) -> Result<RepeatRanges, CorpusError> {
        self.progress.begin("looking for repeats", Some(documents), "documents");
        let mut finder = RepeatFinder::new(self.scratch.path(), settings)?;
        let mut copies = copies.follow()?;
        let mut number = 0;
        self.each_document(|_, document| {
            if copies.at(number)?.is_none_or(|copy| copy.kept == number) {
                finder.add(number, &document.text)?;
            }
            number += 1;
            self.progress.advance(number);
            Ok(())
        })?;
        let found = finder.find();
        self.progress.end();
        found
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
    fn copies_come_back() {
        for (number, copy) in [
            (1, Copy { kept: 0, cluster: 2, exact: true, similarity: 1.0 }),
            (300, Copy { kept: 256, cluster: 9, exact: false, similarity: 0.75 }),
        ] {
            assert_eq!(Copy::of(copy.record(number)), (number, copy));
        }
    }

    #[test]
    fn rows_are_met_at_their_numbers() {
        let mut follow = Follow::new([1, 4, 5].into_iter().map(|number| Ok((number, number))));
        let found: Vec<_> = (0..7).filter_map(|number| follow.at(number).unwrap()).collect();
        assert_eq!(found, [1, 4, 5]);
    }
}

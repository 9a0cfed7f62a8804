//! Which document is a copy of which, exact and near, for corpora of any size in bounded memory.
//!
//! Documents come in any order with their keys; only keys and signatures are kept, on disk beyond
//! the memory that is allowed. Exact copies share a [`TextKey`], near copies a band of their MinHash
//! signatures, which finds a pair of Jaccard similarity s with probability 1 − (1 − s^rows)^bands;
//! with a threshold they must be as similar in their estimate too. Links between two make clusters
//! (their transitive closure), and of a cluster the document with the smallest ordinal is kept. The
//! outcome depends on the documents and their ordinals alone. It never sees a text.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    iter::Peekable,
    path::{Path, PathBuf},
};

use milpa_base::{Bytes, hash_bytes, seed::splitmix64};
use milpa_text::Signature;

use super::{
    TextKey,
    components::{Link, spool, stars},
    external_sort::{ExternalSorter, Scratch, Sorted, Spool, SpoolRecords, SpoolWriter},
};
use crate::error::CorpusError;

/// Compared members of one bucket: beyond it, a bucket full of different texts would cost n².
const MAX_REPRESENTATIVES: usize = 32;
/// Buffer of a list that is read while sorters work.
const LIST_BUFFER: usize = 16 << 10;

/// Among which documents copies are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(u64);

impl Scope {
    /// All documents.
    pub const GLOBAL: Self = Self(0);

    /// Those with the same label, such as the language.
    pub fn of(label: &str) -> Self {
        let digest = hash_bytes(label.as_bytes()).0;
        Self(u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes")))
    }

    /// Those whose label has this hash.
    pub(crate) fn from_hash(hash: u64) -> Self {
        Self(hash)
    }
}

/// What counts as a copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DuplicateSettings {
    /// Texts that are equal but for case, punctuation and spacing.
    pub exact: bool,
    /// Texts that share a band of their signatures.
    pub near: Option<NearSettings>,
    /// Memory for records and buffers, in all phases together.
    pub memory: Bytes,
}

/// What counts as a near copy.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NearSettings {
    /// Estimated Jaccard similarity that a pair in one bucket must have; without it sharing a band
    /// is enough. Signatures are kept on disk for it: 4 bytes per minimum, and a slot for each
    /// ordinal up to the largest.
    pub verify: Option<f64>,
}

/// Why a document is a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyKind {
    /// Its key is that of the kept document.
    Exact,
    /// It is linked to the kept document, perhaps through others.
    Near,
}

/// A document that has copies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Member {
    /// Its ordinal.
    pub ordinal: u64,
    /// The ordinal of the document that is kept for its cluster; its own, if it is that one.
    pub kept: u64,
    /// Documents in the cluster, the kept one included.
    pub cluster_size: u64,
    /// Exact if it equals the kept document; also for the kept document itself.
    pub kind: CopyKind,
    /// Estimated Jaccard similarity to the kept document, where signatures are kept. Below the
    /// threshold where the two are linked through others.
    pub similarity: Option<f64>,
}

impl Member {
    /// Whether it stands for its cluster.
    pub fn is_kept(&self) -> bool {
        self.ordinal == self.kept
    }
}

/// Collects keys and signatures, then finds the copies.
///
/// ```
/// use milpa_base::Bytes;
/// use milpa_corpus::dedup::{DuplicateSettings, Duplicates, NearSettings, Scope, text_key};
/// use milpa_text::MinHasher;
///
/// # fn main() -> Result<(), milpa_corpus::CorpusError> {
/// # let folder = tempfile::tempdir().expect("a folder");
/// # let scratch = folder.path();
/// let near = Some(NearSettings::default());
/// let settings = DuplicateSettings { exact: true, near, memory: Bytes(64 << 20) };
/// let mut duplicates = Duplicates::new(scratch, settings)?;
/// let hasher = MinHasher::default();
/// for (ordinal, text) in ["El río crece.", "Ñande ñe'ẽ.", "EL RÍO CRECE"].iter().enumerate() {
///     let (key, signature) = (text_key(text), hasher.signature(text));
///     duplicates.add(ordinal as u64, Scope::GLOBAL, key, signature.as_ref())?;
/// }
/// for member in duplicates.find()? {
///     let member = member?;
///     assert_eq!((member.kept, member.cluster_size), (0, 2));
///     assert!(member.is_kept() || member.ordinal == 2);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Duplicates {
    scratch: Scratch,
    /// Memory of one sorter; at most four work at the same time.
    memory: usize,
    settings: DuplicateSettings,
    keys: ExternalSorter<(u128, u64)>,
    bands: ExternalSorter<(u64, u64)>,
    signatures: Option<SignatureWriter>,
}

impl Duplicates {
    /// Begins with no document. What memory does not hold goes to a folder of its own in
    /// `scratch`, which is removed in the end.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn new(scratch: &Path, settings: DuplicateSettings) -> Result<Self, CorpusError> {
        let scratch = Scratch::new(scratch)?;
        let memory = usize::try_from(settings.memory.0 / 4).unwrap_or(usize::MAX);
        Ok(Self {
            keys: ExternalSorter::new(&scratch, memory),
            bands: ExternalSorter::new(&scratch, memory),
            signatures: None,
            scratch,
            memory,
            settings,
        })
    }

    /// Adds the document number `ordinal`. Numbers are given once each and without large gaps; the
    /// smaller of two copies is kept. A text without words has no signature.
    ///
    /// # Errors
    /// A disk that is full or broken.
    ///
    /// # Panics
    /// If signatures differ in their length.
    pub fn add(
        &mut self,
        ordinal: u64,
        scope: Scope,
        key: TextKey,
        signature: Option<&Signature>,
    ) -> Result<(), CorpusError> {
        if self.settings.exact {
            let spread = u128::from(splitmix64(scope.0)) << 64 | u128::from(scope.0);
            self.keys.push((key.0 ^ spread, ordinal))?;
        }
        let (Some(near), Some(signature)) = (self.settings.near, signature) else {
            return Ok(());
        };
        for key in signature.band_keys() {
            self.bands.push((splitmix64(key ^ scope.0), ordinal))?;
        }
        if near.verify.is_some() {
            let writer = match &mut self.signatures {
                Some(writer) => writer,
                none => none.insert(SignatureWriter::new(
                    &self.scratch,
                    signature.minima().len(),
                    self.memory,
                )?),
            };
            writer.write(ordinal, signature)?;
        }
        Ok(())
    }

    /// Finds the copies: all documents that have one, in the order of their ordinals.
    ///
    /// # Errors
    /// A disk that is full or broken.
    pub fn find(self) -> Result<Members, CorpusError> {
        let Self { scratch, memory, settings, keys, bands, signatures } = self;
        let mut links = ExternalSorter::new(&scratch, memory);
        let firsts = link_equal_keys(keys.sorted()?, &mut links, &scratch, memory)?;
        let mut signatures = signatures.map(SignatureWriter::finish).transpose()?;
        let verify = settings.near.and_then(|near| near.verify);
        match (verify, &mut signatures) {
            (Some(least), Some(file)) => {
                link_similar_buckets(bands.sorted()?, file, least, &mut links)?;
            }
            _ => link_buckets(bands.sorted()?, &mut links)?,
        }
        let stars = stars(links.sorted()?, &scratch, memory)?;
        let members = with_sizes(&stars, &scratch, memory)?;
        drop(stars);
        let firsts = firsts.into_records(LIST_BUFFER)?.peekable();
        Ok(Members { clusters: members, firsts, signatures })
    }
}

/// Links documents of equal key to the first of them; keeps the list (document, first).
fn link_equal_keys(
    keys: Sorted<(u128, u64)>,
    links: &mut ExternalSorter<Link>,
    scratch: &Scratch,
    memory: usize,
) -> Result<Spool<Link>, CorpusError> {
    let mut firsts = ExternalSorter::new(scratch, memory);
    let mut group: Option<(u128, u64)> = None;
    for record in keys {
        let (key, ordinal) = record?;
        match group {
            Some((same, first)) if same == key => {
                links.push((ordinal, first))?;
                firsts.push((ordinal, first))?;
            }
            _ => group = Some((key, ordinal)),
        }
    }
    spool(firsts.sorted()?, scratch)
}

/// Links all documents of a bucket to its first.
fn link_buckets(
    bands: Sorted<(u64, u64)>,
    links: &mut ExternalSorter<Link>,
) -> Result<(), CorpusError> {
    let mut group: Option<(u64, u64)> = None;
    for record in bands {
        let (key, ordinal) = record?;
        match group {
            Some((same, first)) if same == key => links.push((ordinal, first))?,
            _ => group = Some((key, ordinal)),
        }
    }
    Ok(())
}

/// Links each document of a bucket to those before it that are similar enough. A document that is
/// similar to none represents itself from then on, up to [`MAX_REPRESENTATIVES`] of a bucket, so
/// that a bucket of different texts does not cost the square of its size.
fn link_similar_buckets(
    bands: Sorted<(u64, u64)>,
    signatures: &mut SignatureFile,
    least: f64,
    links: &mut ExternalSorter<Link>,
) -> Result<(), CorpusError> {
    let mut group: Option<(u64, u64)> = None;
    let mut representatives: Vec<(u64, Vec<u8>)> = Vec::new();
    for record in bands {
        let (key, ordinal) = record?;
        let Some((same, first)) = group else {
            group = Some((key, ordinal));
            continue;
        };
        if same != key {
            group = Some((key, ordinal));
            representatives.clear();
            continue;
        }
        // Most buckets have one document, and its signature is never read.
        if representatives.is_empty() {
            representatives.push((first, signatures.read(first)?));
        }
        let own = signatures.read(ordinal)?;
        let mut joined = false;
        for (other, signature) in &representatives {
            if share_of_equal(&own, signature) >= least {
                links.push((ordinal, *other))?;
                joined = true;
            }
        }
        if !joined && representatives.len() < MAX_REPRESENTATIVES {
            representatives.push((ordinal, own));
        }
    }
    Ok(())
}

/// Turns (member, kept) into (member, kept, size of the cluster), the kept ones included, in the
/// order of the members.
fn with_sizes(
    stars: &Spool<Link>,
    scratch: &Scratch,
    memory: usize,
) -> Result<Sorted<(u64, u64, u64)>, CorpusError> {
    let mut by_kept = ExternalSorter::new(scratch, memory);
    for star in stars.records(LIST_BUFFER)? {
        let (member, kept) = star?;
        by_kept.push((kept, member))?;
    }
    // A cluster can be larger than memory: its members wait on disk until they are counted.
    let by_kept = spool(by_kept.sorted()?, scratch)?;
    let mut sizes = SpoolWriter::new(scratch, LIST_BUFFER)?;
    let mut count: Option<(u64, u64)> = None;
    for pair in by_kept.records(LIST_BUFFER)? {
        let (kept, _) = pair?;
        match &mut count {
            Some((same, count)) if *same == kept => *count += 1,
            _ => {
                if let Some(done) = count.replace((kept, 2)) {
                    sizes.push(done)?;
                }
            }
        }
    }
    if let Some(done) = count {
        sizes.push(done)?;
    }
    let sizes = sizes.finish()?;
    let mut out = ExternalSorter::new(scratch, memory);
    let mut members = by_kept.records(LIST_BUFFER)?.peekable();
    for size in sizes.records(LIST_BUFFER)? {
        let (kept, size) = size?;
        out.push((kept, kept, size))?;
        while let Some(pair) = members.next_if(|pair| !matches!(pair, Ok((k, _)) if *k != kept)) {
            out.push((pair?.1, kept, size))?;
        }
    }
    out.sorted()
}

/// All documents that have copies, in the order of their ordinals. Iterator made by
/// [`Duplicates::find`].
#[derive(Debug)]
pub struct Members {
    /// (document, kept document, size of the cluster).
    clusters: Sorted<(u64, u64, u64)>,
    /// (document, first with the same key).
    firsts: Peekable<SpoolRecords<Link>>,
    signatures: Option<SignatureFile>,
}

impl Members {
    fn member(&mut self, record: (u64, u64, u64)) -> Result<Member, CorpusError> {
        let (ordinal, kept, cluster_size) = record;
        let mut first = ordinal;
        // Each document of the list is in a cluster, so that the two lists go in step.
        let due = |entry: &Result<Link, _>| !matches!(entry, Ok((at, _)) if *at > ordinal);
        while let Some(entry) = self.firsts.next_if(due) {
            first = entry?.1;
        }
        let similarity = match &mut self.signatures {
            Some(file) => {
                let (own, other) = (file.read(ordinal)?, file.read(kept)?);
                // A text without words has no minima; it has exact copies only.
                let empty = own.iter().all(|&byte| byte == 0);
                Some(if empty { 1.0 } else { share_of_equal(&own, &other) })
            }
            None => None,
        };
        // The kept document has the smallest ordinal of all with its key.
        let kind = if first == kept { CopyKind::Exact } else { CopyKind::Near };
        Ok(Member { ordinal, kept, cluster_size, kind, similarity })
    }
}

impl Iterator for Members {
    type Item = Result<Member, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.clusters.next()?;
        Some(record.and_then(|record| self.member(record)))
    }
}

/// Signatures on disk, each at the place of its ordinal: the low 32 bits of each minimum. Unequal
/// minima agree in them once in 2^32.
#[derive(Debug)]
struct SignatureWriter {
    scratch: Scratch,
    path: PathBuf,
    file: BufWriter<File>,
    /// Bytes of a signature.
    width: usize,
    /// Where the next byte goes if nobody seeks.
    at: u64,
}

impl SignatureWriter {
    fn new(scratch: &Scratch, minima: usize, memory: usize) -> Result<Self, CorpusError> {
        let path = scratch.next_file();
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| scratch.error("write", error))?;
        let file = BufWriter::with_capacity(memory.min(256 << 10), file);
        Ok(Self { scratch: scratch.clone(), path, file, width: 4 * minima, at: 0 })
    }

    fn write(&mut self, ordinal: u64, signature: &Signature) -> Result<(), CorpusError> {
        assert_eq!(4 * signature.minima().len(), self.width, "signatures have one length");
        let bytes: Vec<u8> =
            signature.minima().iter().flat_map(|&minimum| (minimum as u32).to_le_bytes()).collect();
        let place = ordinal.saturating_mul(self.width as u64);
        let write = |file: &mut BufWriter<File>| -> io::Result<()> {
            if place != self.at {
                file.seek(SeekFrom::Start(place))?;
            }
            file.write_all(&bytes)
        };
        write(&mut self.file).map_err(|error| self.scratch.error("write", error))?;
        self.at = place + self.width as u64;
        Ok(())
    }

    fn finish(self) -> Result<SignatureFile, CorpusError> {
        let Self { scratch, path, file, width, .. } = self;
        let file = file.into_inner().map_err(|e| scratch.error("write", e.into_error()))?;
        Ok(SignatureFile { scratch, path, file, width })
    }
}

/// Reads what a [`SignatureWriter`] wrote.
#[derive(Debug)]
struct SignatureFile {
    scratch: Scratch,
    path: PathBuf,
    file: File,
    width: usize,
}

impl SignatureFile {
    /// The stored bytes; zeros where no signature was written.
    fn read(&mut self, ordinal: u64) -> Result<Vec<u8>, CorpusError> {
        let mut bytes = vec![0; self.width];
        let mut read = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(ordinal.saturating_mul(self.width as u64)))?;
            match self.file.read_exact(&mut bytes) {
                // Behind the last signature.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    bytes.fill(0);
                    Ok(())
                }
                other => other,
            }
        };
        read().map_err(|error| self.scratch.error("read", error))?;
        Ok(bytes)
    }
}

impl Drop for SignatureFile {
    fn drop(&mut self) {
        // It goes with its folder at the latest.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The share of equal 32-bit numbers in two stored signatures.
fn share_of_equal(one: &[u8], other: &[u8]) -> f64 {
    let equal = one.chunks_exact(4).zip(other.chunks_exact(4)).filter(|(a, b)| a == b).count();
    equal as f64 / (one.len() / 4) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::text_key;
    use milpa_base::{Seed, seed::Permutation};
    use milpa_text::MinHasher;

    fn text(seed: u64, len: u64) -> Vec<String> {
        (0..len).map(|i| format!("w{}", Seed(seed).u64_at(i) % 5000)).collect()
    }

    /// `texts` with their scopes, added in the order of `order`.
    fn find(
        texts: &[(&str, String)],
        settings: DuplicateSettings,
        order: impl Iterator<Item = usize>,
    ) -> Vec<Member> {
        let root = tempfile::tempdir().unwrap();
        let mut duplicates = Duplicates::new(root.path(), settings).unwrap();
        let hasher = MinHasher::default();
        for at in order {
            let (scope, text) = &texts[at];
            let scope = if scope.is_empty() { Scope::GLOBAL } else { Scope::of(scope) };
            let signature = hasher.signature(text);
            duplicates.add(at as u64, scope, text_key(text), signature.as_ref()).unwrap();
        }
        let members = duplicates.find().unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "files are left");
        members
    }

    fn settings(exact: bool, near: bool, verify: Option<f64>) -> DuplicateSettings {
        let near = near.then_some(NearSettings { verify });
        DuplicateSettings { exact, near, memory: Bytes(1 << 20) }
    }

    /// (ordinal, kept, size, kind) of each.
    fn brief(members: &[Member]) -> Vec<(u64, u64, u64, CopyKind)> {
        members.iter().map(|m| (m.ordinal, m.kept, m.cluster_size, m.kind)).collect()
    }

    #[test]
    fn a_copy_names_the_kept_twin_and_says_how_it_is_one() {
        use CopyKind::{Exact, Near};
        let base = text(1, 300).join(" ");
        let near = format!("{base} fin");
        let other = text(2, 300).join(" ");
        let texts = [
            ("spa", other.clone()),
            ("spa", near.clone()),
            ("spa", base.clone()),
            ("por", base.to_uppercase()),
            ("spa", near.to_uppercase()),
            ("spa", String::new()),
            ("spa", text(3, 300).join(" ")),
            ("spa", " -- ".to_owned()),
        ];
        let run = |exact, near, verify| {
            brief(&find(&texts, settings(exact, near, verify), 0..texts.len()))
        };
        let empty = [(5, 5, 2, Exact), (7, 5, 2, Exact)];
        // The Portuguese copy is of another scope.
        let spanish = [(1, 1, 3, Exact), (2, 1, 3, Near), (4, 1, 3, Exact)];
        let all = [&spanish[..], &empty].concat();
        assert_eq!(run(true, true, None), all);
        assert_eq!(run(true, true, Some(0.7)), all);
        assert_eq!(
            run(true, false, None),
            [&[(1, 1, 2, Exact), (4, 1, 2, Exact)], &empty[..]].concat()
        );
        let no_keys = [(1, 1, 3, Exact), (2, 1, 3, Near), (4, 1, 3, Near)];
        assert_eq!(run(false, true, None), no_keys);
        assert_eq!(run(false, false, None), []);
        let everywhere: Vec<_> = texts.iter().map(|(_, text)| ("", text.clone())).collect();
        let found = find(&everywhere, settings(true, true, Some(0.7)), 0..texts.len());
        assert_eq!(found.iter().filter(|member| member.kept == 1).count(), 4);
        assert!(found.iter().all(|member| member.similarity.unwrap() > 0.9), "{found:?}");
    }

    /// 600 texts: 60 of them with up to nine variants each.
    fn crowd() -> Vec<(&'static str, String)> {
        (0..600u64)
            .map(|i| {
                let mut words = text(i % 60, 120);
                for edit in 0..(i / 60) {
                    let at = Seed(i).u64_at(edit) as usize % words.len();
                    words[at] = format!("x{i}");
                }
                (["spa", "por"][(i % 60 % 2) as usize], words.join(" "))
            })
            .collect()
    }

    #[test]
    fn neither_memory_nor_order_of_arrival_changes_the_outcome() {
        let texts = crowd();
        for verify in [None, Some(0.7)] {
            let ample =
                DuplicateSettings { memory: Bytes(1 << 30), ..settings(true, true, verify) };
            let expect = find(&texts, ample, 0..600);
            assert!(expect.len() > 200, "{}", expect.len());
            assert!(expect.iter().any(|member| member.kind == CopyKind::Near));
            let order = Permutation::new(Seed(9), 600);
            for memory in [1 << 10, 100 << 10, 1 << 30] {
                let settings = DuplicateSettings { memory: Bytes(memory), ..ample };
                let shuffled = (0..600).map(|i| order.apply(i) as usize);
                assert_eq!(find(&texts, settings, shuffled), expect, "{memory} {verify:?}");
            }
        }
    }

    #[test]
    fn clusters_are_those_of_a_union_find_in_memory() {
        let texts = crowd();
        let hasher = MinHasher::default();
        let signatures: Vec<_> = texts.iter().map(|(_, text)| hasher.signature(text)).collect();
        // With no threshold both are the components of pairs that share a band.
        let roots = super::super::oracle::components(&signatures);
        let mut sizes = std::collections::BTreeMap::new();
        for root in &roots {
            *sizes.entry(*root as u64).or_insert(0u64) += 1;
        }
        let expect: Vec<_> = roots
            .iter()
            .enumerate()
            .map(|(at, &root)| (at as u64, root as u64, sizes[&(root as u64)]))
            .filter(|&(.., size)| size > 1)
            .collect();
        let everywhere: Vec<_> = texts.into_iter().map(|(_, text)| ("", text)).collect();
        let found = find(&everywhere, settings(false, true, None), 0..600);
        let found: Vec<_> = found.iter().map(|m| (m.ordinal, m.kept, m.cluster_size)).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn a_threshold_separates_what_only_shares_a_band() {
        let texts = crowd();
        let count = |verify| find(&texts, settings(false, true, verify), 0..600).len();
        let (loose, strict) = (count(None), count(Some(0.9)));
        assert!(strict < loose, "{strict} {loose}");
        for member in find(&texts, settings(false, true, Some(1.0)), 0..600) {
            assert_eq!(member.similarity, Some(1.0));
        }
    }
}

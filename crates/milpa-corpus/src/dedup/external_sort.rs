//! Sorts more records than memory holds: sorted runs on disk, then a merge of all runs.
//!
//! A record has a fixed size and an order; equal records come out once, which is what every user
//! here wants (links, keys of a document, places of a text). What comes out depends on the set of
//! records alone, neither on the order in which they came nor on the memory that was allowed. Runs
//! lie in a folder of their own and go with the last user of it. It knows nothing of documents.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::error::CorpusError;

/// Buffer of a file that is written or read alone.
const FILE_BUFFER: usize = 256 << 10;
/// Below this a read from disk is hardly worth its call; also the unit of small memory bounds.
const LEAST_BUFFER: usize = 4 << 10;
/// Runs merged at once, at most: each is an open file.
const MAX_FAN_IN: usize = 128;

/// Something of fixed size that can be sorted and stored.
pub trait Record: Copy + Ord {
    /// Bytes it takes on disk.
    const BYTES: usize;
    /// Writes it to `out`, which has [`Self::BYTES`] bytes.
    fn write(self, out: &mut [u8]);
    /// Reads it back.
    fn read(bytes: &[u8]) -> Self;
}

/// Tuples of integers are stored in little-endian order, one after the other.
macro_rules! record_of_integers {
    ($(($($field:tt: $integer:ty),*)),*) => {$(
        impl Record for ($($integer,)*) {
            const BYTES: usize = 0 $(+ size_of::<$integer>())*;
            fn write(self, out: &mut [u8]) {
                let mut rest = out;
                $({
                    let (own, others) = rest.split_at_mut(size_of::<$integer>());
                    own.copy_from_slice(&self.$field.to_le_bytes());
                    rest = others;
                })*
                debug_assert!(rest.is_empty());
            }
            fn read(bytes: &[u8]) -> Self {
                let mut rest = bytes;
                ($({
                    let (own, others) = rest.split_at(size_of::<$integer>());
                    rest = others;
                    debug_assert!(rest.len() <= bytes.len());
                    <$integer>::from_le_bytes(own.try_into().expect("split to this size"))
                },)*)
            }
        }
    )*};
}

record_of_integers!(
    (0: u64),
    (0: u64, 1: u64),
    (0: u128, 1: u64),
    (0: u64, 1: u64, 2: u64),
    (0: u64, 1: u64, 2: u64, 3: u64),
    (0: u64, 1: u64, 2: u64, 3: u64, 4: u64)
);

/// A folder for files that nobody needs afterwards; it is removed with its last handle.
#[derive(Debug, Clone)]
pub struct Scratch(Arc<ScratchFolder>);

#[derive(Debug)]
struct ScratchFolder {
    path: PathBuf,
    files: AtomicU64,
}

impl Scratch {
    /// Makes a folder of its own in `parent`, which is created if it is missing.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn new(parent: &Path) -> Result<Self, CorpusError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let failed = |error| CorpusError::scratch("make a folder", parent, error);
        fs::create_dir_all(parent).map_err(failed)?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("scratch-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(Arc::new(ScratchFolder { path, files: 0.into() }))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A path that was not given before.
    pub(crate) fn next_file(&self) -> PathBuf {
        self.0.path.join(self.0.files.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub(crate) fn error(&self, action: &'static str, error: io::Error) -> CorpusError {
        CorpusError::scratch(action, self.path(), error)
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // Nobody can be told here; a folder that stays is named after its process.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Records in the order in which they were written, on disk.
#[derive(Debug)]
pub struct Spool<R> {
    scratch: Scratch,
    path: PathBuf,
    len: u64,
    record: PhantomData<R>,
}

impl<R> Drop for Spool<R> {
    fn drop(&mut self) {
        // It goes with its folder at the latest.
        let _ = fs::remove_file(&self.path);
    }
}

impl<R: Record> Spool<R> {
    /// Number of records.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the records from the first, with a buffer of about `buffer` bytes.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn records(&self, buffer: usize) -> Result<SpoolRecords<R>, CorpusError> {
        let file = File::open(&self.path).map_err(|error| self.scratch.error("read", error))?;
        let reader = BufReader::with_capacity(buffer.max(R::BYTES), file);
        Ok(SpoolRecords {
            scratch: self.scratch.clone(),
            reader,
            left: self.len,
            bytes: vec![0; R::BYTES],
            spool: None,
        })
    }

    /// Reads the records from the first; the file goes with the iterator.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn into_records(self, buffer: usize) -> Result<SpoolRecords<R>, CorpusError> {
        let mut records = self.records(buffer)?;
        records.spool = Some(self);
        Ok(records)
    }
}

/// Iterator made by [`Spool::records`] and [`Spool::into_records`].
#[derive(Debug)]
pub struct SpoolRecords<R> {
    scratch: Scratch,
    reader: BufReader<File>,
    left: u64,
    bytes: Vec<u8>,
    /// Keeps the file where nobody else does.
    spool: Option<Spool<R>>,
}

impl<R: Record> Iterator for SpoolRecords<R> {
    type Item = Result<R, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(match self.reader.read_exact(&mut self.bytes) {
            Ok(()) => Ok(R::read(&self.bytes)),
            Err(error) => Err(self.scratch.error("read", error)),
        })
    }
}

/// Writes a [`Spool`].
#[derive(Debug)]
pub struct SpoolWriter<R> {
    spool: Spool<R>,
    writer: BufWriter<File>,
    bytes: Vec<u8>,
}

impl<R: Record> SpoolWriter<R> {
    /// Begins a file in `scratch`, written through a buffer of `buffer` bytes.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn new(scratch: &Scratch, buffer: usize) -> Result<Self, CorpusError> {
        let path = scratch.next_file();
        let file = File::create(&path).map_err(|error| scratch.error("write", error))?;
        Ok(Self::over(file, scratch, path, buffer))
    }

    fn over(file: File, scratch: &Scratch, path: PathBuf, buffer: usize) -> Self {
        Self {
            spool: Spool { scratch: scratch.clone(), path, len: 0, record: PhantomData },
            writer: BufWriter::with_capacity(buffer, file),
            bytes: vec![0; R::BYTES],
        }
    }

    /// Appends a record.
    ///
    /// # Errors
    /// A disk that is full or broken.
    pub fn push(&mut self, record: R) -> Result<(), CorpusError> {
        record.write(&mut self.bytes);
        self.spool.len += 1;
        self.writer.write_all(&self.bytes).map_err(|error| self.spool.scratch.error("write", error))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// A disk that is full or broken.
    pub fn finish(self) -> Result<Spool<R>, CorpusError> {
        let Self { spool, mut writer, .. } = self;
        writer.flush().map_err(|error| spool.scratch.error("write", error))?;
        Ok(spool)
    }
}

/// Sorts records in bounded memory.
#[derive(Debug)]
pub struct ExternalSorter<R> {
    scratch: Scratch,
    memory: usize,
    buffer: Vec<R>,
    runs: Vec<Spool<R>>,
}

impl<R: Record> ExternalSorter<R> {
    /// Makes a sorter that holds about `memory` bytes of records and buffers, at least a few
    /// KiB, and writes what is more to `scratch`.
    pub fn new(scratch: &Scratch, memory: usize) -> Self {
        let memory = memory.max(2 * LEAST_BUFFER);
        Self { scratch: scratch.clone(), memory, buffer: Vec::new(), runs: Vec::new() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// A disk that is full or broken.
    pub fn push(&mut self, record: R) -> Result<(), CorpusError> {
        if self.buffer.len() == self.buffer.capacity() {
            let most = self.memory / size_of::<R>();
            if self.buffer.len() >= most {
                self.spill()?;
            } else {
                let more = self.buffer.len().max(64).min(most - self.buffer.len());
                self.buffer.reserve_exact(more);
            }
        }
        self.buffer.push(record);
        Ok(())
    }

    /// Writes what is in memory to a run.
    fn spill(&mut self) -> Result<(), CorpusError> {
        self.sort();
        let mut run = SpoolWriter::new(&self.scratch, FILE_BUFFER.min(self.memory / 2))?;
        for record in self.buffer.drain(..) {
            run.push(record)?;
        }
        self.runs.push(run.finish()?);
        Ok(())
    }

    fn sort(&mut self) {
        self.buffer.sort_unstable();
        self.buffer.dedup();
    }

    /// Ends the input and gives all distinct records in order.
    ///
    /// # Errors
    /// A disk that is full or broken.
    pub fn sorted(mut self) -> Result<Sorted<R>, CorpusError> {
        if self.runs.is_empty() {
            self.sort();
            return Ok(Sorted::Memory(self.buffer.into_iter()));
        }
        if !self.buffer.is_empty() {
            self.spill()?;
        }
        self.buffer = Vec::new();
        let fan_in = (self.memory / LEAST_BUFFER).clamp(2, MAX_FAN_IN);
        while self.runs.len() > fan_in {
            // As few as will do, so that the last merge is the only one over everything.
            let count = fan_in.min(self.runs.len() - fan_in + 1);
            let mut merged = SpoolWriter::new(&self.scratch, LEAST_BUFFER)?;
            for record in Merge::new(self.runs.drain(..count).collect(), self.memory)? {
                merged.push(record?)?;
            }
            self.runs.push(merged.finish()?);
        }
        Ok(Sorted::Merge(Box::new(Merge::new(self.runs, self.memory)?)))
    }
}

/// Records in order, each once. Iterator made by [`ExternalSorter::sorted`].
#[derive(Debug)]
pub enum Sorted<R: Record> {
    /// All fitted into memory.
    Memory(std::vec::IntoIter<R>),
    /// They come from runs.
    Merge(Box<Merge<R>>),
}

impl<R: Record> Iterator for Sorted<R> {
    type Item = Result<R, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Memory(records) => records.next().map(Ok),
            Self::Merge(merge) => merge.next(),
        }
    }
}

/// Merges runs.
#[derive(Debug)]
pub struct Merge<R: Record> {
    /// The next record of each run that has one.
    heads: BinaryHeap<Reverse<(R, usize)>>,
    readers: Vec<SpoolRecords<R>>,
    last: Option<R>,
}

impl<R: Record> Merge<R> {
    fn new(runs: Vec<Spool<R>>, memory: usize) -> Result<Self, CorpusError> {
        let buffer = (memory / runs.len().max(1)).clamp(LEAST_BUFFER, FILE_BUFFER);
        let readers: Result<Vec<_>, _> =
            runs.into_iter().map(|run| run.into_records(buffer)).collect();
        let mut merge = Self { heads: BinaryHeap::new(), readers: readers?, last: None };
        for run in 0..merge.readers.len() {
            if let Some(record) = merge.readers[run].next() {
                merge.heads.push(Reverse((record?, run)));
            }
        }
        Ok(merge)
    }
}

impl<R: Record> Iterator for Merge<R> {
    type Item = Result<R, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut head = self.heads.peek_mut()?;
            let Reverse((record, run)) = *head;
            match self.readers[run].next() {
                Some(Ok(next)) => *head = Reverse((next, run)),
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    std::collections::binary_heap::PeekMut::pop(head);
                }
            }
            if self.last != Some(record) {
                self.last = Some(record);
                return Some(Ok(record));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milpa_base::Seed;
    use proptest::prelude::*;

    fn sort(records: &[(u64, u64)], memory: usize) -> Vec<(u64, u64)> {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path()).unwrap();
        let mut sorter = ExternalSorter::new(&scratch, memory);
        for &record in records {
            sorter.push(record).unwrap();
        }
        let sorted = sorter.sorted().unwrap().collect::<Result<_, _>>().unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "runs are left");
        sorted
    }

    #[test]
    fn the_smallest_memory_gives_what_all_memory_gives() {
        // 60,000 records of 16 bytes in 8 KiB: more runs than are merged at once, several times.
        let records: Vec<_> =
            (0..60_000).map(|i| (Seed(1).u64_at(i) % 20_000, Seed(2).u64_at(i) % 3)).collect();
        let mut expect = records.clone();
        expect.sort_unstable();
        expect.dedup();
        for memory in [0, 40_000, usize::MAX] {
            assert_eq!(sort(&records, memory), expect, "{memory}");
        }
        assert_eq!(sort(&[], 0), []);
    }

    #[test]
    fn runs_go_even_if_nobody_reads_them() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path()).unwrap();
        let mut sorter = ExternalSorter::new(&scratch, 0);
        for i in 0..5000u64 {
            sorter.push((i, i)).unwrap();
        }
        assert!(fs::read_dir(scratch.path()).unwrap().count() > 5);
        let mut sorted = sorter.sorted().unwrap();
        assert_eq!(sorted.next().unwrap().unwrap(), (0, 0));
        drop(sorted);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_sorters_of_one_folder_do_not_meet() {
        let root = tempfile::tempdir().unwrap();
        let folders = [0, 1].map(|_| Scratch::new(root.path()).unwrap());
        assert_ne!(folders[0].path(), folders[1].path());
    }

    /// The device on which every write fails for want of space.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_says_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path()).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut spool = SpoolWriter::over(full, &scratch, scratch.next_file(), 64);
        let error = (0..100u64).find_map(|i| spool.push((i, i)).err()).unwrap();
        let text = error.to_string();
        assert!(text.contains("cannot write in the scratch folder"), "{text}");
        assert!(text.contains(&*root.path().to_string_lossy()), "{text}");
        assert!(text.contains("the disk is full; free some space"), "{text}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("No space left"), "{source}");
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = Scratch::new(&file.join("inside")).unwrap_err().to_string();
        assert!(error.contains("cannot make a folder") && error.contains("inside"), "{error}");
    }

    proptest! {
        #[test]
        fn records_survive_the_disk(a: u128, b: u64, c: u64) {
            let mut bytes = [0; 24];
            (a, b).write(&mut bytes);
            prop_assert_eq!(<(u128, u64)>::read(&bytes), (a, b));
            (b, c, b ^ c).write(&mut bytes);
            prop_assert_eq!(<(u64, u64, u64)>::read(&bytes), (b, c, b ^ c));
        }
    }
}

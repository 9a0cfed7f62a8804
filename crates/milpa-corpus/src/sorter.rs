//! Sorting more records than memory holds: sorted runs in one file on disk, merged as they are read.
//!
//! Records are arrays of bytes and are compared as such, so numbers that are to be sorted stand in
//! big-endian order. The result does not depend on the memory, and records may come in any order.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::CorpusError;

/// Takes records of `N` bytes and gives them back sorted.
pub struct ExternalSorter<const N: usize> {
    path: PathBuf,
    /// Most records that are held.
    capacity: usize,
    records: Vec<[u8; N]>,
    file: Option<RunFile>,
    /// Number of records of each run in the file, one run after the other.
    runs: Vec<u64>,
}

/// A file that goes when its user goes.
struct RunFile {
    file: File,
    path: PathBuf,
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // Best effort: it lies in a folder that is removed as a whole.
        let _ = fs::remove_file(&self.path);
    }
}

impl<const N: usize> ExternalSorter<N> {
    /// Sorts in `memory` bytes (at least one record); what does not fit goes to the file `path`, which
    /// is made when it is needed.
    pub fn new(path: &Path, memory: u64) -> Self {
        let capacity = usize::try_from(memory).unwrap_or(usize::MAX) / N;
        Self {
            path: path.to_owned(),
            capacity: capacity.max(1),
            records: Vec::new(),
            file: None,
            runs: Vec::new(),
        }
    }

    /// Takes a record.
    ///
    /// # Errors
    /// If the disk cannot take what memory cannot hold.
    pub fn push(&mut self, record: [u8; N]) -> Result<(), CorpusError> {
        self.records.push(record);
        if self.records.len() >= self.capacity {
            self.spill().map_err(|error| CorpusError::disk(&self.path, error))?;
        }
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        self.records.sort_unstable();
        let run = match &mut self.file {
            Some(run) => run,
            none => none.insert(RunFile {
                file: File::options()
                    .create(true)
                    .truncate(true)
                    .read(true)
                    .write(true)
                    .open(&self.path)?,
                path: self.path.clone(),
            }),
        };
        let mut out = BufWriter::with_capacity(1 << 20, &run.file);
        for record in &self.records {
            out.write_all(record)?;
        }
        out.flush()?;
        self.runs.push(self.records.len() as u64);
        self.records.clear();
        Ok(())
    }

    /// Gives the records back, sorted; equal ones stay as many as they were.
    ///
    /// # Errors
    /// As of [`ExternalSorter::push`].
    pub fn finish(mut self) -> Result<Sorted<N>, CorpusError> {
        if self.file.is_none() {
            self.records.sort_unstable();
            return Ok(Sorted::Memory(self.records.into_iter()));
        }
        if !self.records.is_empty() {
            self.spill().map_err(|error| CorpusError::disk(&self.path, error))?;
        }
        // The memory is wanted for reading.
        drop(std::mem::take(&mut self.records));
        let file = self.file.take().expect("there is a run");
        let failed = |error| CorpusError::disk(&self.path, error);
        let room = (self.capacity / self.runs.len()).max(1);
        let mut merge = Merge { file, runs: Vec::new(), heads: BinaryHeap::new(), room };
        let mut offset = 0;
        for (number, &records) in self.runs.iter().enumerate() {
            merge.runs.push(Run { offset, left: records, buffer: Vec::new(), next: 0 });
            offset += records * N as u64;
            merge.refill(number).map_err(failed)?;
            merge.advance(number);
        }
        Ok(Sorted::Disk(merge))
    }
}

/// Records in order.
pub enum Sorted<const N: usize> {
    /// All of them fitted.
    Memory(std::vec::IntoIter<[u8; N]>),
    /// Runs that are merged.
    Disk(Merge<N>),
}

/// Runs that are merged while they are read.
pub struct Merge<const N: usize> {
    file: RunFile,
    runs: Vec<Run<N>>,
    heads: BinaryHeap<Reverse<([u8; N], usize)>>,
    /// Records that are read of a run at once.
    room: usize,
}

struct Run<const N: usize> {
    offset: u64,
    /// Records that are still in the file.
    left: u64,
    buffer: Vec<[u8; N]>,
    next: usize,
}

impl<const N: usize> Merge<N> {
    fn refill(&mut self, number: usize) -> io::Result<()> {
        let run = &mut self.runs[number];
        let count = run.left.min(self.room as u64) as usize;
        run.buffer.resize(count, [0; N]);
        run.next = 0;
        self.file.file.seek(SeekFrom::Start(run.offset))?;
        self.file.file.read_exact(run.buffer.as_flattened_mut())?;
        run.offset += (count * N) as u64;
        run.left -= count as u64;
        Ok(())
    }

    /// Puts the next record of a run among the heads; its buffer is not empty unless the run is.
    fn advance(&mut self, number: usize) {
        let run = &mut self.runs[number];
        if let Some(&record) = run.buffer.get(run.next) {
            run.next += 1;
            self.heads.push(Reverse((record, number)));
        }
    }

    fn next_record(&mut self) -> io::Result<Option<[u8; N]>> {
        let Some(Reverse((record, number))) = self.heads.pop() else { return Ok(None) };
        let run = &self.runs[number];
        if run.next == run.buffer.len() && run.left > 0 {
            self.refill(number)?;
        }
        self.advance(number);
        Ok(Some(record))
    }
}

impl<const N: usize> Iterator for Sorted<N> {
    type Item = Result<[u8; N], CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Memory(records) => records.next().map(Ok),
            Self::Disk(merge) => match merge.next_record() {
                Ok(record) => record.map(Ok),
                Err(error) => {
                    merge.heads.clear();
                    Some(Err(CorpusError::disk(&merge.file.path, error)))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(records: &[[u8; 3]], memory: u64) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("runs");
        let mut sorter = ExternalSorter::new(&path, memory);
        for &record in records {
            sorter.push(record).unwrap();
        }
        let sorted = sorter.finish().unwrap();
        assert_eq!(path.exists(), records.len() >= (memory as usize / 3).max(1));
        let found: Vec<_> = sorted.map(Result::unwrap).collect();
        let mut expect = records.to_vec();
        expect.sort_unstable();
        assert_eq!(found, expect);
        assert!(!path.exists());
    }

    proptest! {
        #[test]
        fn any_memory_gives_the_same_order(
            records in prop::collection::vec(any::<[u8; 3]>(), 0..300),
            memory in 0u64..1000,
        ) {
            check(&records, memory);
        }
    }

    #[test]
    fn a_disk_that_cannot_take_it_is_named() {
        let mut sorter = ExternalSorter::<2>::new(Path::new("/nowhere/at/all"), 2);
        let message = sorter.push([1, 2]).unwrap_err().to_string();
        assert!(message.contains("/nowhere/at/all"), "{message}");
    }
}

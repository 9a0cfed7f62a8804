//! A read-only memory map of a file.
//!
//! It knows nothing of formats: readers of token shards and weights check every length and offset
//! they take from the bytes.

use std::{fs::File, io, ops::Deref, path::Path};

/// The bytes of a file, mapped read-only.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a whole file.
    ///
    /// Artifacts are written once and never edited in place (they are replaced by a rename), so a
    /// file does not change while it is mapped. Someone who truncates a mapped artifact by other
    /// means makes the process end with SIGBUS; no data is written through a map.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is private and read-only, and artifact files are immutable once they
        // have their final name (see above).
        unsafe { memmap2::Mmap::map(&file) }.map(Self)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

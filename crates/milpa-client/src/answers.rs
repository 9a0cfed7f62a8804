//! Answers that were paid for, by the hash of what was asked.
//!
//! Each is a line of a file, written as soon as it is there; a line that a cut left half-written
//! is taken away. It knows no protocol.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use milpa_base::{
    Digest,
    lines::{Line, LineReader},
};
use serde::{Deserialize, Serialize};

use crate::{error::ClientError, wire::Answer};

/// Longest line in bytes.
const MAX_LINE_BYTES: usize = 64 << 20;

/// Answers by the hash of the request.
pub(crate) struct Answers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    known: HashMap<Digest, Known>,
    file: Option<(PathBuf, File)>,
}

struct Known {
    answer: Answer,
    /// Whether an earlier run received it.
    is_old: bool,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: Digest,
    answer: Answer,
}

impl Answers {
    /// Opens the file, or begins it; without one answers are remembered in memory.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, ClientError> {
        let mut inner = Inner::default();
        if let Some(path) = path {
            let failed = |source| ClientError::Answers { path: path.to_owned(), source };
            let whole =
                if path.exists() { read(path, &mut inner.known).map_err(failed)? } else { 0 };
            let mut options = OpenOptions::new();
            let mut file =
                options.create(true).truncate(false).write(true).open(path).map_err(failed)?;
            file.set_len(whole).map_err(failed)?;
            file.seek(SeekFrom::End(0)).map_err(failed)?;
            inner.file = Some((path.to_owned(), file));
        }
        Ok(Self(Mutex::new(inner)))
    }

    /// A remembered answer, and whether an earlier run received it.
    pub(crate) fn get(&self, key: &Digest) -> Option<(Answer, bool)> {
        self.lock().known.get(key).map(|known| (known.answer.clone(), known.is_old))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().known.is_empty()
    }

    pub(crate) fn keep(&self, key: Digest, answer: Answer) -> Result<Answer, ClientError> {
        let mut inner = self.lock();
        let entry = Entry { key, answer };
        if let Some((path, file)) = &mut inner.file {
            let mut line = serde_json::to_vec(&entry).expect("plain data serialises");
            line.push(b'\n');
            file.write_all(&line)
                .map_err(|source| ClientError::Answers { path: path.clone(), source })?;
        }
        inner.known.insert(key, Known { answer: entry.answer.clone(), is_old: false });
        Ok(entry.answer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Reads whole lines into `known`; gives the bytes that they take.
fn read(path: &Path, known: &mut HashMap<Digest, Known>) -> io::Result<u64> {
    let bytes = std::fs::metadata(path)?.len();
    let mut reader = LineReader::open(path, MAX_LINE_BYTES)?;
    let (mut whole, mut is_ours) = (0, bytes == 0);
    while let Some(line) = reader.next_line()? {
        let Line::Whole(line) = line else { break };
        // A first line that was cut is ours all the same.
        is_ours |= line.starts_with(br#"{"key":"#);
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else { break };
        let end = whole + line.len() as u64 + 1;
        // The newline that ends the line must be there as well.
        if end > bytes {
            break;
        }
        whole = end;
        known.insert(entry.key, Known { answer: entry.answer, is_old: true });
    }
    if !is_ours {
        return Err(io::Error::other("it holds no answers of an endpoint; name another folder"));
    }
    Ok(whole)
}

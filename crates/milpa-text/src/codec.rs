//! Writing and reading the bytes of model files: little-endian numbers, varints, strings.
//!
//! What is read is not trusted: each read is bounded by what is left, and a count is accepted only
//! if the things it counts can still follow. It knows no model.

use std::{io, path::PathBuf};

/// Why a model file cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The content is not what its format asks for.
    #[error("the {kind} is damaged: {detail}; restore the file, or train it again")]
    Damaged {
        /// What kind of model it was to be.
        kind: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The file cannot be opened or written.
    #[error("{}: {source}; check that the path is right and its folder can be written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A line of a text format is wrong.
    #[error("line {line}: {detail}; write the file again with the tool that made it")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong.
        detail: String,
    },
    /// There is too little, or too much, to train on.
    #[error("{0}")]
    Training(String),
}

/// Writes `value` in groups of seven bits, the lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes being read.
pub(crate) struct Input<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) kind: &'static str,
}

impl<'a> Input<'a> {
    pub(crate) fn damaged(&self, detail: impl Into<String>) -> ModelError {
        ModelError::Damaged { kind: self.kind, detail: detail.into() }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], ModelError> {
        let (head, tail) =
            self.bytes.split_at_checked(length).ok_or_else(|| self.damaged("it ends too early"))?;
        self.bytes = tail;
        Ok(head)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, ModelError> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number is too long"))
    }

    /// A count of things that each take at least `least` bytes of what is left.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, ModelError> {
        let count = self.varint()?;
        if count > (self.bytes.len() / least) as u64 {
            return Err(self.damaged("a count exceeds the file"));
        }
        Ok(count as usize)
    }

    pub(crate) fn float(&mut self) -> Result<f32, ModelError> {
        let bytes = self.take(4)?;
        let value = f32::from_le_bytes(bytes.try_into().expect("four bytes were taken"));
        if value.is_finite() { Ok(value) } else { Err(self.damaged("a number is not finite")) }
    }

    /// A string after its length.
    pub(crate) fn string(&mut self) -> Result<&'a str, ModelError> {
        let length = self.count(1)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| self.damaged("a name is not UTF-8"))
    }
}

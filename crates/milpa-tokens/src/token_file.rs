//! The layout of token files: what [`crate::encode_shards`] writes and [`crate::TokenDataset`]
//! maps.
//!
//! `<split>-<source>.tokens` is a header of 64 bytes and the tokens of all documents, each document
//! followed by the end-of-text token; `<split>-<source>.docs` holds the end of each document,
//! counted in tokens, as u64. `<split>-<source>.perplexity` and `.quality`, where the documents have
//! such values, hold one f32 for each, NaN where it is not known. All numbers are little-endian.
//! `index.json` holds the counts.
//!
//! | bytes | header |
//! |---|---|
//! | 0–8 | `MILPATOK` |
//! | 8–10 | version, u16 |
//! | 10–12 | bytes per token, u16: 2 where the vocabulary has at most 65,536 tokens, else 4 |
//! | 12–16 | highest id in the file, u32 |
//! | 16–24 | number of tokens, u64 |
//! | 24–32 | number of documents, u64 |
//! | 32–64 | BLAKE3 of the tokenizer's `tokenizer.json` |

use std::collections::BTreeMap;

use milpa_base::Digest;
use serde::{Deserialize, Serialize};

use crate::shards::Split;

/// Length of the header in bytes.
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const INDEX_FILE: &str = "index.json";
pub(crate) const INDEX_FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"MILPATOK";
const VERSION: u16 = 1;

/// The first 64 bytes of a token file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) bytes_per_token: u16,
    pub(crate) highest_id: u32,
    pub(crate) tokens: u64,
    pub(crate) documents: u64,
    pub(crate) tokenizer: Digest,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.bytes_per_token.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.highest_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.documents.to_le_bytes());
        bytes[32..].copy_from_slice(&self.tokenizer.0);
        bytes
    }

    /// Reads the header of a file and checks the file's length.
    pub(crate) fn read(file: &[u8]) -> Result<Self, String> {
        let Some(bytes) = file.first_chunk::<HEADER_BYTES>() else {
            return Err(format!("it has {} bytes, not even a header", file.len()));
        };
        if bytes[..8] != *MAGIC {
            return Err("it does not begin with MILPATOK".to_owned());
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u64_at = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
        };
        if u16_at(8) != VERSION {
            return Err(format!("its version is {}, this milpa reads {VERSION}", u16_at(8)));
        }
        let mut tokenizer = [0; 32];
        tokenizer.copy_from_slice(&bytes[32..]);
        let header = Self {
            bytes_per_token: u16_at(10),
            highest_id: u64_at(8).wrapping_shr(32) as u32,
            tokens: u64_at(16),
            documents: u64_at(24),
            tokenizer: Digest(tokenizer),
        };
        if !matches!(header.bytes_per_token, 2 | 4) {
            return Err(format!("{} bytes per token are unknown", header.bytes_per_token));
        }
        let expected = header
            .tokens
            .checked_mul(u64::from(header.bytes_per_token))
            .and_then(|bytes| bytes.checked_add(HEADER_BYTES as u64));
        if expected != Some(file.len() as u64) {
            return Err(format!("{} bytes do not hold {} tokens", file.len(), header.tokens));
        }
        Ok(header)
    }
}

/// `index.json` of a token artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    pub(crate) format: u32,
    pub(crate) tokenizer: Digest,
    pub(crate) vocab_size: usize,
    pub(crate) eos_id: u32,
    /// Counts by split and source.
    pub(crate) splits: BTreeMap<Split, BTreeMap<String, SourceCounts>>,
}

/// Counts of one source in one split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceCounts {
    /// Tokens, end-of-text tokens included.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// UTF-8 bytes of text.
    pub text_bytes: u64,
}

/// The file name of a source without its ending. What is not plain in the name is written as `%`
/// and two hexadecimal digits, so that names stay distinct and inside the folder.
pub(crate) fn file_stem(split: Split, source: &str) -> String {
    let mut stem = format!("{split}-");
    for &byte in source.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            stem.push(char::from(byte));
        } else {
            stem.push_str(&format!("%{byte:02X}"));
        }
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_stay_inside_and_distinct() {
        assert_eq!(file_stem(Split::Train, "es_law-1"), "train-es_law-1");
        assert_eq!(file_stem(Split::Validation, "../a b"), "validation-..%2Fa%20b");
        assert_ne!(file_stem(Split::Train, "a/b"), file_stem(Split::Train, "a%2Fb"));
    }

    proptest! {
        #[test]
        fn a_header_survives_and_noise_is_refused(
            highest_id: u32, documents: u64, tokens in 0u64..50, hash: [u8; 32], flip in 0usize..12,
            wide: bool,
        ) {
            let bytes_per_token = if wide { 4 } else { 2 };
            let header =
                Header { bytes_per_token, highest_id, tokens, documents, tokenizer: Digest(hash) };
            let mut file = header.to_bytes().to_vec();
            file.resize(HEADER_BYTES + (tokens * u64::from(bytes_per_token)) as usize, 0);
            prop_assert_eq!(Header::read(&file), Ok(header));
            file.push(0);
            prop_assert!(Header::read(&file).is_err());
            file.pop();
            file[flip] ^= 0x80;
            prop_assert!(Header::read(&file).is_err());
        }
    }
}

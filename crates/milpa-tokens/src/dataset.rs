//! A token artifact mapped into memory, and fixed sets of windows of it.
//!
//! Everything that is read from the files is checked: lengths, counts, the tokenizer's hash, and
//! each id as it is used. It knows nothing of epochs or shuffling; that is `loader.rs`.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use milpa_base::{
    Digest, Kind, Manifest, hash_bytes, manifest::Verify, mmap::MappedFile, open_artifact,
};

use crate::{
    error::TokensError,
    loader::Batch,
    shards::{DocumentValue, Split},
    token_file::{HEADER_BYTES, Header, INDEX_FILE, INDEX_FORMAT, Index, SourceCounts, file_stem},
    tokenizer::Tokenizer,
};

/// Longest `index.json` that is read.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// A token artifact, mapped into memory.
#[derive(Debug)]
pub struct TokenDataset {
    digest: Digest,
    index: Index,
    sources: BTreeMap<Split, Vec<SourceTokens>>,
}

/// The tokens of one source.
#[derive(Debug)]
pub(crate) struct SourceTokens {
    pub(crate) name: String,
    path: PathBuf,
    tokens: MappedFile,
    ends: MappedFile,
    header: Header,
    /// Hash of the files' contents, as the manifest has them.
    pub(crate) fingerprint: Digest,
    /// What is known of each document besides its text: a file of f32 by name.
    values: BTreeMap<DocumentValue, MappedFile>,
}

impl TokenDataset {
    /// Opens the artifact in `dir`, which must have been encoded with `tokenizer`.
    ///
    /// # Errors
    /// A folder that is no token artifact, damaged files, or files of another tokenizer.
    pub fn open(dir: &Path, tokenizer: &Tokenizer) -> Result<Self, TokensError> {
        Self::open_expecting(dir, tokenizer.hash())
    }

    /// Opens the artifact in `dir`, which must have been encoded with the tokenizer of this hash.
    pub fn open_expecting(dir: &Path, tokenizer: Digest) -> Result<Self, TokensError> {
        let (manifest, digest) = open_artifact(dir, Kind::Tokens, Verify::Lengths)?;
        let path = dir.join(INDEX_FILE);
        let damaged = |message: String| TokensError::Damaged { path: path.clone(), message };
        let read_error = |source| TokensError::Read { path: path.clone(), source };
        let length = std::fs::metadata(&path).map_err(read_error)?.len();
        if length > MAX_INDEX_BYTES {
            return Err(damaged(format!("it has {length} bytes")));
        }
        let index: Index = serde_json::from_slice(&std::fs::read(&path).map_err(read_error)?)
            .map_err(|error| damaged(error.to_string()))?;
        if index.format != INDEX_FORMAT {
            return Err(damaged(format!(
                "its format is {}, this milpa reads {INDEX_FORMAT}",
                index.format
            )));
        }
        if index.tokenizer != tokenizer {
            return Err(TokensError::OtherTokenizer {
                path: dir.to_owned(),
                found: index.tokenizer.short(),
                wanted: tokenizer.short(),
            });
        }
        let mut sources = BTreeMap::new();
        for (&split, counts) in &index.splits {
            let opened = counts
                .iter()
                .map(|(name, counts)| {
                    SourceTokens::open(dir, split, name, *counts, &index, &manifest)
                })
                .collect::<Result<Vec<_>, _>>()?;
            sources.insert(split, opened);
        }
        Ok(Self { digest, index, sources })
    }

    /// The artifact's identity: the hash of its manifest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Hash of the tokenizer.
    pub fn tokenizer_hash(&self) -> Digest {
        self.index.tokenizer
    }

    /// Size of the vocabulary; every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.index.vocab_size
    }

    /// The token that ends each document.
    pub fn eos_id(&self) -> u32 {
        self.index.eos_id
    }

    /// Counts by source.
    pub fn counts(&self, split: Split) -> BTreeMap<String, SourceCounts> {
        self.index.splits.get(&split).cloned().unwrap_or_default()
    }

    /// Tokens of a split in all.
    pub fn total_tokens(&self, split: Split) -> u64 {
        self.sources(split).iter().map(SourceTokens::len).sum()
    }

    pub(crate) fn sources(&self, split: Split) -> &[SourceTokens] {
        self.sources.get(&split).map_or(&[], Vec::as_slice)
    }

    /// The tokens of one document, its end-of-text token included; `None` if there is no such
    /// source or document.
    pub fn document(
        &self,
        split: Split,
        source: &str,
        document: u64,
    ) -> Result<Option<Vec<u32>>, TokensError> {
        let Some(source) = self.sources(split).iter().find(|tokens| tokens.name == source) else {
            return Ok(None);
        };
        let Some(range) = source.document_range(document)? else { return Ok(None) };
        let mut ids = Vec::with_capacity((range.end - range.start) as usize);
        source.read(range, &mut ids)?;
        Ok(Some(ids))
    }

    /// A fixed set of windows of a split: those of all sources in order, thinned evenly to at most
    /// `max_windows`. Each window has `sequence_length` inputs and is followed by one more token.
    ///
    /// # Errors
    /// A length or number of zero, or a split without a single window.
    pub fn windows(
        &self,
        split: Split,
        sequence_length: usize,
        max_windows: usize,
    ) -> Result<WindowSet<'_>, TokensError> {
        if sequence_length == 0 || max_windows == 0 {
            return Err(TokensError::Loader(
                "the sequence length and the number of windows must \
                                            be at least one"
                    .to_owned(),
            ));
        }
        let sources = self.sources(split);
        let counts: Vec<u64> =
            sources.iter().map(|source| source.window_count(sequence_length)).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return Err(too_short(split, sequence_length));
        }
        let taken = total.min(max_windows as u64);
        let mut windows = Vec::with_capacity(taken as usize);
        let (mut source, mut before) = (0, 0);
        for number in 0..taken {
            // u128: the product of two counts of windows may pass 64 bits.
            let at = (u128::from(number) * u128::from(total) / u128::from(taken)) as u64;
            while at - before >= counts[source] {
                before += counts[source];
                source += 1;
            }
            windows.push((source, at - before));
        }
        Ok(WindowSet { dataset: self, split, sequence_length, windows })
    }
}

pub(crate) fn too_short(split: Split, sequence_length: usize) -> TokensError {
    TokensError::Loader(format!(
        "no source of the {split} split has {} tokens, as many as one window of the sequence \
         length {sequence_length} needs; use more text or a shorter sequence length",
        sequence_length + 1
    ))
}

impl SourceTokens {
    fn open(
        dir: &Path,
        split: Split,
        name: &str,
        counts: SourceCounts,
        index: &Index,
        manifest: &Manifest,
    ) -> Result<Self, TokensError> {
        let stem = file_stem(split, name);
        let map = |path: &Path| {
            MappedFile::open(path)
                .map_err(|source| TokensError::Read { path: path.to_owned(), source })
        };
        let path = dir.join(format!("{stem}.tokens"));
        let ends_path = dir.join(format!("{stem}.docs"));
        let (tokens, ends) = (map(&path)?, map(&ends_path)?);
        let damaged =
            |path: &Path, message: String| TokensError::Damaged { path: path.to_owned(), message };
        let header = Header::read(&tokens).map_err(|message| damaged(&path, message))?;
        if header.tokenizer != index.tokenizer {
            return Err(TokensError::OtherTokenizer {
                path,
                found: header.tokenizer.short(),
                wanted: index.tokenizer.short(),
            });
        }
        if (header.tokens, header.documents) != (counts.tokens, counts.documents) {
            return Err(damaged(&path, format!("its counts differ from {INDEX_FILE}")));
        }
        if header.highest_id as usize >= index.vocab_size {
            return Err(damaged(
                &path,
                format!(
                    "it holds the id {}, but the vocabulary has {} tokens",
                    header.highest_id, index.vocab_size
                ),
            ));
        }
        if Some(ends.len() as u64) != header.documents.checked_mul(8) {
            return Err(damaged(
                &ends_path,
                format!("{} bytes are not {} documents", ends.len(), header.documents),
            ));
        }
        let mut contents = String::new();
        let mut values = BTreeMap::new();
        for entry in &manifest.files {
            if [".tokens", ".docs"].iter().any(|ending| entry.path == format!("{stem}{ending}")) {
                contents += &format!("{}\0", entry.blake3);
            }
            for value in DocumentValue::ALL {
                if entry.path == format!("{stem}.{value}") {
                    let path = dir.join(&entry.path);
                    let file = map(&path)?;
                    if Some(file.len() as u64) != header.documents.checked_mul(4) {
                        let message =
                            format!("{} bytes are not {} values", file.len(), header.documents);
                        return Err(damaged(&path, message));
                    }
                    contents += &format!("{value} {}\0", entry.blake3);
                    values.insert(value, file);
                }
            }
        }
        let fingerprint = hash_bytes(contents.as_bytes());
        let name = name.to_owned();
        let source = Self { name, path, tokens, ends, header, fingerprint, values };
        if header.documents == 0 || source.end_of(header.documents - 1) != header.tokens {
            return Err(damaged(
                &ends_path,
                "its last document does not end with the tokens".into(),
            ));
        }
        Ok(source)
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> u64 {
        self.header.tokens
    }

    /// Windows of `sequence_length` inputs and one more token that follow each other.
    pub(crate) fn window_count(&self, sequence_length: usize) -> u64 {
        self.len().saturating_sub(1) / sequence_length as u64
    }

    /// Number of documents.
    pub(crate) fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Whether its documents have this value.
    pub(crate) fn has(&self, value: DocumentValue) -> bool {
        self.values.contains_key(&value)
    }

    /// A value of a document; NaN where it is not known.
    pub(crate) fn value(&self, value: DocumentValue, document: u64) -> f32 {
        let bytes = self.values.get(&value).map_or(&[][..], |file| &file[..]);
        let at = document as usize * 4;
        bytes.get(at..at + 4).map_or(f32::NAN, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// The document that holds a token.
    pub(crate) fn document_at(&self, token: u64) -> u64 {
        let (mut low, mut high) = (0, self.header.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.end_of(middle) <= token { low = middle + 1 } else { high = middle }
        }
        low
    }

    fn end_of(&self, document: u64) -> u64 {
        let at = document as usize * 8;
        u64::from_le_bytes(self.ends[at..at + 8].try_into().expect("eight bytes were taken"))
    }

    pub(crate) fn document_range(&self, document: u64) -> Result<Option<Range<u64>>, TokensError> {
        if document >= self.header.documents {
            return Ok(None);
        }
        let start = if document == 0 { 0 } else { self.end_of(document - 1) };
        let range = start..self.end_of(document);
        if range.start >= range.end || range.end > self.len() {
            return Err(TokensError::Damaged {
                path: self.path.with_extension("docs"),
                message: format!("document {document} has the tokens {range:?}"),
            });
        }
        Ok(Some(range))
    }

    /// Appends the tokens of `range`, which lies inside the file.
    pub(crate) fn read(&self, range: Range<u64>, ids: &mut Vec<u32>) -> Result<(), TokensError> {
        let width = usize::from(self.header.bytes_per_token);
        let bytes = &self.tokens[HEADER_BYTES..];
        let bytes = &bytes[range.start as usize * width..range.end as usize * width];
        let start = ids.len();
        if width == 2 {
            ids.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))));
        } else {
            ids.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        match ids[start..].iter().find(|&&id| id > self.header.highest_id) {
            None => Ok(()),
            Some(id) => Err(TokensError::Damaged {
                path: self.path.clone(),
                message: format!(
                    "it holds the id {id}, but the highest is {}",
                    self.header.highest_id
                ),
            }),
        }
    }

    /// Appends window `window` to `batch` as its next row.
    pub(crate) fn read_window(
        &self,
        window: u64,
        eos_id: u32,
        batch: &mut Batch,
    ) -> Result<(), TokensError> {
        let length = batch.sequence_length as u64;
        let start = window * length;
        self.read(start..start + length, &mut batch.tokens_bt)?;
        self.read(start + 1..start + length + 1, &mut batch.targets_bt)?;
        let row = batch.tokens_bt.len() - batch.sequence_length;
        let mut document = 0;
        for &id in &batch.tokens_bt[row..] {
            batch.documents_bt.push(document);
            document += u32::from(id == eos_id);
        }
        batch.lengths_b.push(batch.sequence_length as u32);
        batch.batch_size += 1;
        Ok(())
    }
}

/// A fixed set of windows, for validation.
#[derive(Debug)]
pub struct WindowSet<'a> {
    dataset: &'a TokenDataset,
    split: Split,
    sequence_length: usize,
    /// (source, window of the source)
    windows: Vec<(usize, u64)>,
}

impl WindowSet<'_> {
    /// Number of windows.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether there is no window; a set has at least one.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Source of a window.
    ///
    /// # Panics
    /// If there is no such window.
    pub fn source(&self, window: usize) -> &str {
        &self.dataset.sources(self.split)[self.windows[window].0].name
    }

    /// Number of the document, within its source and split, in which a window begins.
    ///
    /// # Panics
    /// If there is no such window.
    pub fn first_document(&self, window: usize) -> u64 {
        let (source, window) = self.windows[window];
        let source = &self.dataset.sources(self.split)[source];
        source.document_at(window * self.sequence_length as u64)
    }

    /// The windows of `range` as a batch; windows beyond the last one are left out.
    pub fn batch(&self, range: Range<usize>) -> Result<Batch, TokensError> {
        let range = range.start.min(self.len())..range.end.min(self.len());
        let mut batch = Batch::with_capacity(range.len(), self.sequence_length);
        for &(source, window) in &self.windows[range] {
            let source = &self.dataset.sources(self.split)[source];
            source.read_window(window, self.dataset.eos_id(), &mut batch)?;
        }
        Ok(batch)
    }
}

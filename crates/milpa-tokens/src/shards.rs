//! Encodes a corpus into token files: one per split and source (layout: `token_file.rs`).
//!
//! Documents keep the order of the corpus. Memory is bounded by one batch of text; batches are
//! fixed, so the bytes do not depend on the number of threads.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use milpa_base::{
    ArtifactWriter, Digest, Kind, Manifest, TextRecord, TextRecords, artifact::Record,
};
use serde::{Deserialize, Serialize};

use crate::{
    config::TokensConfig,
    error::{Context, TokensError},
    token_file::{HEADER_BYTES, Header, INDEX_FILE, INDEX_FORMAT, Index, SourceCounts, file_stem},
    tokenizer::Tokenizer,
};

/// Text that is encoded at once.
const BATCH_BYTES: usize = 8 << 20;
/// Most sources of a corpus: each has two open files while it is written.
const MAX_SOURCES: usize = 400;

/// Which part of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is held out.
    Validation,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
        })
    }
}

/// A number that is known of a document besides its text, to order samples by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentValue {
    /// Perplexity under the corpus's n-gram model of its language.
    Perplexity,
    /// A classifier's probability that the text is good.
    Quality,
}

impl DocumentValue {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Perplexity, Self::Quality];
}

impl fmt::Display for DocumentValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perplexity => "perplexity",
            Self::Quality => "quality",
        })
    }
}

/// A document with what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ValuedRecord {
    /// The document.
    pub record: TextRecord,
    /// Its values; a document without one of them ranks in the middle.
    pub values: BTreeMap<DocumentValue, f32>,
}

impl From<TextRecord> for ValuedRecord {
    fn from(record: TextRecord) -> Self {
        Self { record, values: BTreeMap::new() }
    }
}

/// Documents with values in a fixed order; an error ends the stream.
pub type ValuedRecords<'a> = dyn Iterator<Item = io::Result<ValuedRecord>> + 'a;

/// Encodes a corpus into a token artifact at `out`, as [`encode_valued_shards`] of documents of which
/// nothing but the text is known.
///
/// # Errors
/// As [`encode_valued_shards`].
#[expect(clippy::too_many_arguments, reason = "two streams and what the manifest records of them")]
pub fn encode_shards(
    out: &Path,
    config: &TokensConfig,
    tokenizer: &Tokenizer,
    train: &mut TextRecords<'_>,
    validation: &mut TextRecords<'_>,
    inputs: BTreeMap<String, Digest>,
    licences: Vec<String>,
    context: &Context<'_>,
) -> Result<Manifest, TokensError> {
    encode_valued_shards(
        out,
        config,
        tokenizer,
        &mut train.map(|record| record.map(ValuedRecord::from)),
        &mut validation.map(|record| record.map(ValuedRecord::from)),
        inputs,
        licences,
        context,
    )
}

/// Encodes a corpus into a token artifact at `out`. The values of the documents of a source are kept
/// beside its tokens if any of its documents has one.
///
/// `inputs` names what the artifact is made from (the corpus); the tokenizer is added to them.
/// Documents without text are passed over.
///
/// # Errors
/// A tokenizer without an end-of-text token, texts that cannot be read, no training text at all, a
/// full disk, or a stop; nothing stays behind then.
#[expect(clippy::too_many_arguments, reason = "two streams and what the manifest records of them")]
pub fn encode_valued_shards(
    out: &Path,
    config: &impl Serialize,
    tokenizer: &Tokenizer,
    train: &mut ValuedRecords<'_>,
    validation: &mut ValuedRecords<'_>,
    inputs: BTreeMap<String, Digest>,
    licences: Vec<String>,
    context: &Context<'_>,
) -> Result<Manifest, TokensError> {
    let eos_id = tokenizer.eos_id().ok_or(TokensError::NoEndOfText)?;
    let writer = ArtifactWriter::begin(out, Kind::Tokens)?;
    let train = encode_split(writer.dir(), Split::Train, tokenizer, eos_id, train, context)?;
    if train.is_empty() {
        return Err(TokensError::NoText("the training split"));
    }
    let held_out =
        encode_split(writer.dir(), Split::Validation, tokenizer, eos_id, validation, context)?;
    let splits = BTreeMap::from([(Split::Train, train), (Split::Validation, held_out)]);
    let mut record = Record::new(
        "tokens",
        config,
        inputs.into_iter().chain([("tokenizer".to_owned(), tokenizer.hash())]).collect(),
    )?;
    record.licences = licences;
    for (split, counts) in &splits {
        for (name, count) in [
            ("tokens", counts.values().map(|c| c.tokens).sum::<u64>()),
            ("documents", counts.values().map(|c| c.documents).sum()),
            ("text_bytes", counts.values().map(|c| c.text_bytes).sum()),
        ] {
            record.counts.insert(format!("{split}_{name}"), count);
        }
    }
    let index = Index {
        format: INDEX_FORMAT,
        tokenizer: tokenizer.hash(),
        vocab_size: tokenizer.vocab_size(),
        eos_id,
        splits,
    };
    let mut bytes = serde_json::to_vec_pretty(&index).expect("counts can be written as JSON");
    bytes.push(b'\n');
    writer.write(INDEX_FILE, &bytes)?;
    Ok(writer.finish(record)?)
}

fn encode_split(
    dir: &Path,
    split: Split,
    tokenizer: &Tokenizer,
    eos_id: u32,
    records: &mut ValuedRecords<'_>,
    context: &Context<'_>,
) -> Result<BTreeMap<String, SourceCounts>, TokensError> {
    let mut sources = BTreeMap::<String, SourceWriter>::new();
    let (mut documents, mut done_bytes) = (0, 0);
    context.progress.begin(&format!("Encoding {split}"), None, "bytes");
    let mut batch = Vec::new();
    loop {
        context.check_stop()?;
        let mut batch_bytes = 0;
        batch.clear();
        while batch_bytes < BATCH_BYTES {
            let Some(record) = records.next() else { break };
            let record = record.map_err(|source| TokensError::Records { documents, source })?;
            documents += 1;
            if !record.record.text.is_empty() {
                batch_bytes += record.record.text.len();
                batch.push(record);
            }
        }
        if batch.is_empty() {
            break;
        }
        let texts: Vec<&str> = batch.iter().map(|valued| valued.record.text.as_str()).collect();
        let encoded = tokenizer.encode_batch(&texts, context.threads);
        for (ValuedRecord { record, values }, mut ids) in batch.iter().zip(encoded) {
            ids.push(eos_id);
            if !sources.contains_key(&record.source) {
                if sources.len() == MAX_SOURCES {
                    return Err(TokensError::TooManySources(MAX_SOURCES));
                }
                let stem = file_stem(split, &record.source);
                sources.insert(
                    record.source.clone(),
                    SourceWriter::begin(&dir.join(stem), tokenizer)?,
                );
            }
            let writer = sources.get_mut(&record.source).expect("it was just inserted");
            writer.add(&ids, record.text.len(), values)?;
        }
        done_bytes += batch_bytes as u64;
        context.progress.advance(done_bytes);
    }
    context.progress.end();
    sources.into_iter().map(|(name, writer)| Ok((name, writer.finish()?))).collect()
}

fn with_ending(stem: &Path, ending: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(ending);
    PathBuf::from(path)
}

fn create(path: &Path) -> Result<BufWriter<File>, TokensError> {
    File::create(path)
        .map(BufWriter::new)
        .map_err(|source| TokensError::Write { path: path.to_owned(), source })
}

struct SourceWriter {
    path: PathBuf,
    tokens: BufWriter<File>,
    ends: BufWriter<File>,
    header: Header,
    text_bytes: u64,
    buffer: Vec<u8>,
    values: BTreeMap<DocumentValue, BufWriter<File>>,
    stem: PathBuf,
}

impl SourceWriter {
    fn begin(stem: &Path, tokenizer: &Tokenizer) -> Result<Self, TokensError> {
        let (path, ends_path) = (with_ending(stem, ".tokens"), with_ending(stem, ".docs"));
        let header = Header {
            bytes_per_token: if tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 },
            highest_id: 0,
            tokens: 0,
            documents: 0,
            tokenizer: tokenizer.hash(),
        };
        let mut writer = Self {
            tokens: create(&path)?,
            ends: create(&ends_path)?,
            path,
            header,
            text_bytes: 0,
            buffer: Vec::new(),
            values: BTreeMap::new(),
            stem: stem.to_owned(),
        };
        writer.guard(|writer| writer.tokens.write_all(&[0; HEADER_BYTES]))?;
        Ok(writer)
    }

    fn add(
        &mut self,
        ids: &[u32],
        text_bytes: usize,
        values: &BTreeMap<DocumentValue, f32>,
    ) -> Result<(), TokensError> {
        for value in values.keys() {
            if !self.values.contains_key(value) {
                let mut file = create(&with_ending(&self.stem, &format!(".{value}")))?;
                // The documents before had none.
                for _ in 0..self.header.documents {
                    self.guard(|_| file.write_all(&f32::NAN.to_le_bytes()))?;
                }
                self.values.insert(*value, file);
            }
        }
        self.buffer.clear();
        for &id in ids {
            self.header.highest_id = self.header.highest_id.max(id);
            let bytes = id.to_le_bytes();
            self.buffer.extend_from_slice(&bytes[..usize::from(self.header.bytes_per_token)]);
        }
        self.header.tokens += ids.len() as u64;
        self.header.documents += 1;
        self.text_bytes += text_bytes as u64;
        let end = self.header.tokens.to_le_bytes();
        self.guard(|writer| {
            for (value, file) in &mut writer.values {
                file.write_all(&values.get(value).unwrap_or(&f32::NAN).to_le_bytes())?;
            }
            writer.tokens.write_all(&writer.buffer)?;
            writer.ends.write_all(&end)
        })
    }

    fn finish(mut self) -> Result<SourceCounts, TokensError> {
        let header = self.header.to_bytes();
        self.guard(|writer| {
            writer.tokens.seek(SeekFrom::Start(0))?;
            writer.tokens.write_all(&header)?;
            writer.tokens.flush()?;
            writer.values.values_mut().try_for_each(BufWriter::flush)?;
            writer.ends.flush()
        })?;
        Ok(SourceCounts {
            tokens: self.header.tokens,
            documents: self.header.documents,
            text_bytes: self.text_bytes,
        })
    }

    fn guard(
        &mut self,
        write: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> Result<(), TokensError> {
        write(self).map_err(|source| TokensError::Write { path: self.path.clone(), source })
    }
}

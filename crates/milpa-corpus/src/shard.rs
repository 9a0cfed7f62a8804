//! Shards: documents as Parquet files, written row group by row group, read back row by row.
//!
//! Zstandard pages, no statistics, a fixed `created_by`: the same documents give the same bytes.
//! A shard is checked against the manifest's hash before its first row is handed out.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use milpa_base::{
    Kind, Manifest, TextRecord, hash_file,
    manifest::{FileEntry, Verify},
    open_artifact,
};
use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, FloatType, Int64Type},
    errors::ParquetError,
    file::{
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr},
        reader::{FileReader, SerializedFileReader},
        writer::{SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter},
    },
    record::{Field, Row},
    schema::{parser::parse_message_type, types::TypePtr},
};

use crate::{CorpusError, Document, Dropped};

/// Bytes of text per row group: what a writer holds in memory.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Most rows per row group.
const ROW_GROUP_ROWS: usize = 20_000;
/// Most often that a document can count.
pub(crate) const MAX_WEIGHT: u64 = 1000;
/// Level of compression: 3 is zstd's own default.
const ZSTD_LEVEL: i32 = 3;

const DOCUMENT_SCHEMA: &str = "message document {
    required binary id (STRING);
    required binary text (STRING);
    required binary source (STRING);
    required binary language (STRING);
    required float language_confidence;
    optional binary mixed_with (STRING);
    optional binary url (STRING);
    optional binary date (STRING);
    optional binary licence (STRING);
    optional binary group (STRING);
    required binary origin (STRING);
    required int64 origin_offset;
    optional float perplexity;
    optional binary perplexity_bucket (STRING);
    required int64 cluster_size;
    required int64 weight;
}";

const DROPPED_SCHEMA: &str = "message dropped {
    required binary id (STRING);
    required binary source (STRING);
    optional binary url (STRING);
    required binary reason (STRING);
    required binary detail (STRING);
    optional binary language (STRING);
    required binary origin (STRING);
    required int64 origin_offset;
    required int64 bytes;
    required binary sample (STRING);
}";

/// A part of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// What models are trained on.
    Train,
    /// What is held out.
    Validation,
}

impl Split {
    /// Begin of the names of its shards.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// A row type that can be written to and read from shards.
pub trait ShardRow: Sized {
    /// The Parquet schema.
    const SCHEMA: &'static str;
    /// Bytes in memory, roughly.
    fn bytes(&self) -> usize;
    /// Hands each column of `rows` to the writer, in the order of the schema.
    fn write(rows: &[Self], columns: &mut Columns<'_>) -> Result<(), ParquetError>;
    /// Takes a row apart.
    fn read(row: Row) -> Result<Self, String>;
}

impl ShardRow for Document {
    const SCHEMA: &'static str = DOCUMENT_SCHEMA;

    fn bytes(&self) -> usize {
        self.text.len() + self.id.len() + 100
    }

    fn write(rows: &[Self], columns: &mut Columns<'_>) -> Result<(), ParquetError> {
        columns.text(rows, |row| Some(&row.id))?;
        columns.text(rows, |row| Some(&row.text))?;
        columns.text(rows, |row| Some(&row.source))?;
        columns.text(rows, |row| Some(&row.language))?;
        columns.float(rows, |row| row.language_confidence)?;
        columns.optional_text(rows, |row| row.mixed_with.as_deref())?;
        columns.optional_text(rows, |row| row.url.as_deref())?;
        columns.optional_text(rows, |row| row.date.as_deref())?;
        columns.optional_text(rows, |row| row.licence.as_deref())?;
        columns.optional_text(rows, |row| row.group.as_deref())?;
        columns.text(rows, |row| Some(&row.origin))?;
        columns.integer(rows, |row| row.origin_offset as i64)?;
        columns.optional_float(rows, |row| row.perplexity)?;
        columns.optional_text(rows, |row| row.perplexity_bucket.as_deref())?;
        columns.integer(rows, |row| row.cluster_size as i64)?;
        columns.integer(rows, |row| row.weight as i64)
    }

    fn read(row: Row) -> Result<Self, String> {
        let mut fields = Fields(row.into_columns().into_iter());
        Ok(Self {
            id: fields.text()?,
            text: fields.text()?,
            source: fields.text()?,
            language: fields.text()?,
            language_confidence: fields.float()?,
            mixed_with: fields.optional_text()?,
            url: fields.optional_text()?,
            date: fields.optional_text()?,
            licence: fields.optional_text()?,
            group: fields.optional_text()?,
            origin: fields.text()?,
            origin_offset: fields.integer()? as u64,
            perplexity: fields.optional_float()?,
            perplexity_bucket: fields.optional_text()?,
            cluster_size: fields.integer()? as u64,
            weight: fields.integer()? as u64,
        })
    }
}

impl ShardRow for Dropped {
    const SCHEMA: &'static str = DROPPED_SCHEMA;

    fn bytes(&self) -> usize {
        self.sample.len() + self.detail.len() + self.id.len() + 100
    }

    fn write(rows: &[Self], columns: &mut Columns<'_>) -> Result<(), ParquetError> {
        columns.text(rows, |row| Some(&row.id))?;
        columns.text(rows, |row| Some(&row.source))?;
        columns.optional_text(rows, |row| row.url.as_deref())?;
        columns.text(rows, |row| Some(row.reason.name()))?;
        columns.text(rows, |row| Some(&row.detail))?;
        columns.optional_text(rows, |row| row.language.as_deref())?;
        columns.text(rows, |row| Some(&row.origin))?;
        columns.integer(rows, |row| row.origin_offset as i64)?;
        columns.integer(rows, |row| row.bytes as i64)?;
        columns.text(rows, |row| Some(&row.sample))
    }

    fn read(row: Row) -> Result<Self, String> {
        let mut fields = Fields(row.into_columns().into_iter());
        Ok(Self {
            id: fields.text()?,
            source: fields.text()?,
            url: fields.optional_text()?,
            reason: fields.text()?.parse()?,
            detail: fields.text()?,
            language: fields.optional_text()?,
            origin: fields.text()?,
            origin_offset: fields.integer()? as u64,
            bytes: fields.integer()? as u64,
            sample: fields.text()?,
        })
    }
}

/// Writes the columns of one row group, one after the other.
pub struct Columns<'a> {
    group: SerializedRowGroupWriter<'a, File>,
}

impl Columns<'_> {
    fn next(&mut self) -> Result<SerializedColumnWriter<'_>, ParquetError> {
        let more = || ParquetError::General("more columns than the schema has".to_owned());
        self.group.next_column()?.ok_or_else(more)
    }

    fn text<'r, R>(
        &mut self,
        rows: &'r [R],
        get: impl Fn(&'r R) -> Option<&'r str>,
    ) -> Result<(), ParquetError> {
        let values: Vec<ByteArray> = rows.iter().filter_map(&get).map(ByteArray::from).collect();
        let mut column = self.next()?;
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, None, None)
            .and_then(|_| column.close())
    }

    fn optional_text<'r, R>(
        &mut self,
        rows: &'r [R],
        get: impl Fn(&'r R) -> Option<&'r str>,
    ) -> Result<(), ParquetError> {
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(get(row).is_some())).collect();
        let values: Vec<ByteArray> = rows.iter().filter_map(&get).map(ByteArray::from).collect();
        let mut column = self.next()?;
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&levels), None)
            .and_then(|_| column.close())
    }

    fn float<R>(&mut self, rows: &[R], get: impl Fn(&R) -> f32) -> Result<(), ParquetError> {
        let values: Vec<f32> = rows.iter().map(get).collect();
        let mut column = self.next()?;
        column.typed::<FloatType>().write_batch(&values, None, None).and_then(|_| column.close())
    }

    fn optional_float<R>(
        &mut self,
        rows: &[R],
        get: impl Fn(&R) -> Option<f32>,
    ) -> Result<(), ParquetError> {
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(get(row).is_some())).collect();
        let values: Vec<f32> = rows.iter().filter_map(get).collect();
        let mut column = self.next()?;
        column
            .typed::<FloatType>()
            .write_batch(&values, Some(&levels), None)
            .and_then(|_| column.close())
    }

    fn integer<R>(&mut self, rows: &[R], get: impl Fn(&R) -> i64) -> Result<(), ParquetError> {
        let values: Vec<i64> = rows.iter().map(get).collect();
        let mut column = self.next()?;
        column.typed::<Int64Type>().write_batch(&values, None, None).and_then(|_| column.close())
    }
}

/// Takes the fields of a row in order.
struct Fields(std::vec::IntoIter<(String, Field)>);

impl Fields {
    fn optional_text(&mut self) -> Result<Option<String>, String> {
        match self.0.next() {
            Some((_, Field::Str(text))) => Ok(Some(text)),
            Some((_, Field::Null)) => Ok(None),
            other => Err(format!("a text is missing or of another type: {other:?}")),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        self.optional_text()?.ok_or_else(|| "a text is missing".to_owned())
    }

    fn optional_float(&mut self) -> Result<Option<f32>, String> {
        match self.0.next() {
            Some((_, Field::Float(value))) => Ok(Some(value)),
            Some((_, Field::Null)) => Ok(None),
            other => Err(format!("a number is missing or of another type: {other:?}")),
        }
    }

    fn float(&mut self) -> Result<f32, String> {
        self.optional_float()?.ok_or_else(|| "a number is missing".to_owned())
    }

    fn integer(&mut self) -> Result<i64, String> {
        match self.0.next() {
            Some((_, Field::Long(value))) => Ok(value),
            other => Err(format!("an integer is missing or of another type: {other:?}")),
        }
    }
}

/// Writes rows to numbered shards in a folder.
pub struct ShardWriter<R: ShardRow> {
    dir: PathBuf,
    prefix: &'static str,
    shard_bytes: u64,
    schema: TypePtr,
    properties: WriterPropertiesPtr,
    rows: Vec<R>,
    held_bytes: usize,
    file: Option<SerializedFileWriter<File>>,
    written_bytes: u64,
    shards: u32,
}

impl<R: ShardRow> ShardWriter<R> {
    /// Prepares shards `dir/prefix-00000.parquet` and on, of about `shard_bytes` of text each.
    pub fn new(dir: &Path, prefix: &'static str, shard_bytes: u64) -> Self {
        let properties = WriterProperties::builder()
            .set_created_by("milpa".to_owned())
            .set_compression(Compression::ZSTD(
                ZstdLevel::try_new(ZSTD_LEVEL).expect("the level is in zstd's range"),
            ))
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(true)
            .build();
        Self {
            dir: dir.to_owned(),
            prefix,
            shard_bytes,
            schema: Arc::new(parse_message_type(R::SCHEMA).expect("the schema is a constant")),
            properties: Arc::new(properties),
            rows: Vec::new(),
            held_bytes: 0,
            file: None,
            written_bytes: 0,
            shards: 0,
        }
    }

    /// Number of the shard that the next row goes to.
    pub fn shard(&self) -> u32 {
        self.shards.saturating_sub(u32::from(self.file.is_some()))
    }

    /// Adds a row.
    pub fn push(&mut self, row: R) -> Result<(), CorpusError> {
        self.held_bytes += row.bytes();
        self.rows.push(row);
        let total = self.written_bytes + self.held_bytes as u64;
        let full = self.held_bytes >= ROW_GROUP_BYTES || self.rows.len() >= ROW_GROUP_ROWS;
        if full || total >= self.shard_bytes {
            self.flush()?;
        }
        if self.written_bytes >= self.shard_bytes {
            self.close()?;
        }
        Ok(())
    }

    /// Writes what is held and closes the last shard.
    pub fn finish(mut self) -> Result<(), CorpusError> {
        self.flush()?;
        self.close()
    }

    fn path(&self, shard: u32) -> PathBuf {
        self.dir.join(format!("{}-{shard:05}.parquet", self.prefix))
    }

    fn flush(&mut self) -> Result<(), CorpusError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let path = self.path(self.shard());
        if self.file.is_none() {
            let file = File::create(&path).map_err(|error| CorpusError::write(&path, error))?;
            let (schema, properties) = (Arc::clone(&self.schema), Arc::clone(&self.properties));
            let writer = SerializedFileWriter::new(file, schema, properties)
                .map_err(|error| unwritten(&path, error))?;
            self.file = Some(writer);
            self.shards += 1;
        }
        let writer = self.file.as_mut().expect("a shard is open");
        write_group(&self.rows, writer).map_err(|error| unwritten(&path, error))?;
        self.written_bytes += self.held_bytes as u64;
        self.held_bytes = 0;
        self.rows.clear();
        Ok(())
    }

    fn close(&mut self) -> Result<(), CorpusError> {
        if let Some(writer) = self.file.take() {
            let path = self.path(self.shards - 1);
            writer.close().map_err(|error| unwritten(&path, error))?;
        }
        self.written_bytes = 0;
        Ok(())
    }
}

fn write_group<R: ShardRow>(
    rows: &[R],
    writer: &mut SerializedFileWriter<File>,
) -> Result<(), ParquetError> {
    let mut columns = Columns { group: writer.next_row_group()? };
    R::write(rows, &mut columns)?;
    columns.group.close().map(drop)
}

/// The error of the disk, if that is what is inside.
fn unwritten(path: &Path, error: ParquetError) -> CorpusError {
    let error = match error {
        ParquetError::External(inside) => match inside.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(inside) => io::Error::other(inside),
        },
        other => io::Error::other(other),
    };
    CorpusError::write(path, error)
}

/// Reads the texts of a split in the corpus folder `dir`, in the order of documents, each as often as its
/// weight says.
///
/// # Errors
/// At once if `dir` is no whole corpus; from the iterator if a shard is damaged.
pub fn read_split(
    dir: &Path,
    split: Split,
) -> Result<impl Iterator<Item = io::Result<TextRecord>> + use<>, CorpusError> {
    let text = |Document { id, source, text, .. }: Document| TextRecord { id, source, text };
    Ok(read_weighted(dir, split)?.map(move |document| document.map(text)))
}

/// Reads the documents of a split as [`read_split`] does, with all their columns.
///
/// # Errors
/// As [`read_split`].
pub fn read_weighted(
    dir: &Path,
    split: Split,
) -> Result<impl Iterator<Item = io::Result<Document>> + use<>, CorpusError> {
    let documents = read_documents(dir, split)?;
    Ok(documents.flat_map(|document| {
        let weight =
            document.as_ref().map_or(1, |document| document.weight.min(MAX_WEIGHT) as usize);
        let mut document = Some(document.map_err(io::Error::other));
        (1..=weight).rev().filter_map(move |left| match &document {
            // An error comes once; the last time the document itself is handed out.
            Some(Ok(one)) if left > 1 => Some(Ok(one.clone())),
            _ => document.take(),
        })
    }))
}

/// Reads the documents of a split with all their columns.
pub fn read_documents(
    dir: &Path,
    split: Split,
) -> Result<impl Iterator<Item = Result<Document, CorpusError>> + use<>, CorpusError> {
    rows(dir, split.name())
}

/// Reads what was dropped, in order of reading; near-duplicates come last.
pub fn read_dropped(
    dir: &Path,
) -> Result<impl Iterator<Item = Result<Dropped, CorpusError>> + use<>, CorpusError> {
    rows(dir, "dropped")
}

/// Shards of a corpus whose name begins with `prefix`, in order.
pub(crate) fn shards(manifest: &Manifest, prefix: &str) -> Vec<FileEntry> {
    let of_prefix = |entry: &&FileEntry| {
        entry.path.strip_prefix(prefix).is_some_and(|rest| {
            rest.starts_with('-') && Path::new(rest).extension().is_some_and(|e| e == "parquet")
        })
    };
    manifest.files.iter().filter(of_prefix).cloned().collect()
}

fn rows<R: ShardRow>(
    dir: &Path,
    prefix: &str,
) -> Result<impl Iterator<Item = Result<R, CorpusError>> + use<R>, CorpusError> {
    let (manifest, _) = open_artifact(dir, Kind::Corpus, Verify::Lengths)?;
    let mut shards = shards(&manifest, prefix).into_iter();
    let dir = dir.to_owned();
    let mut current: Option<(PathBuf, parquet::record::reader::RowIter<'static>)> = None;
    let mut failed = false;
    Ok(std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let mut fail = |error| {
            failed = true;
            Some(Err(error))
        };
        loop {
            if let Some((path, rows)) = &mut current {
                match rows.next() {
                    Some(Ok(row)) => match R::read(row) {
                        Ok(row) => return Some(Ok(row)),
                        Err(message) => return fail(CorpusError::file("read", path, &message)),
                    },
                    Some(Err(error)) => return fail(CorpusError::file("read", path, &error)),
                    None => current = None,
                }
            }
            let entry = shards.next()?;
            match open_shard(&dir, &entry) {
                Ok(opened) => current = Some(opened),
                Err(error) => return fail(error),
            }
        }
    }))
}

fn open_shard(
    dir: &Path,
    entry: &FileEntry,
) -> Result<(PathBuf, parquet::record::reader::RowIter<'static>), CorpusError> {
    let path = dir.join(&entry.path);
    let failed = |error: &dyn std::fmt::Display| CorpusError::file("read", &path, error);
    let (digest, _) = hash_file(&path).map_err(|error| failed(&error))?;
    if digest != entry.blake3 {
        return Err(failed(
            &"the shard is damaged (its hash differs from the manifest's); build the corpus again",
        ));
    }
    let file = File::open(&path).map_err(|error| failed(&error))?;
    let reader = SerializedFileReader::new(file).map_err(|error| failed(&error))?;
    if reader.metadata().file_metadata().num_rows() < 0 {
        return Err(failed(&"it claims a negative number of rows"));
    }
    Ok((path.clone(), reader.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;

    fn documents(count: usize) -> Vec<Document> {
        (0..count)
            .map(|i| Document {
                id: format!("d{i}"),
                text: format!("Texto número {i} ñandu\n").repeat(i % 50),
                source: "s".to_owned(),
                language: "spa".to_owned(),
                language_confidence: 0.5,
                mixed_with: (i % 7 == 0).then(|| "gug".to_owned()),
                url: (i % 3 == 0).then(|| format!("http://x/{i}")),
                group: (i % 2 == 0).then(|| "g".to_owned()),
                origin_offset: i as u64,
                perplexity: (i % 5 == 0).then_some(i as f32),
                perplexity_bucket: (i % 5 == 0).then(|| "tail".to_owned()),
                ..Document::default()
            })
            .collect()
    }

    fn written<R: ShardRow + Clone>(
        rows: &[R],
        prefix: &'static str,
        shard_bytes: u64,
    ) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let writer =
            milpa_base::ArtifactWriter::begin(&root.path().join("c"), Kind::Corpus).unwrap();
        let mut shards = ShardWriter::new(writer.dir(), prefix, shard_bytes);
        for row in rows {
            shards.push(row.clone()).unwrap();
        }
        shards.finish().unwrap();
        writer.finish(milpa_base::artifact::Record::default()).unwrap();
        root
    }

    #[test]
    fn documents_come_back_over_several_shards() {
        let documents = documents(500);
        let root = written(&documents, "train", 40_000);
        let dir = root.path().join("c");
        let manifest = Manifest::read(&dir).unwrap();
        assert!(shards(&manifest, "train").len() > 3);
        let back: Result<Vec<_>, _> = read_documents(&dir, Split::Train).unwrap().collect();
        assert_eq!(back.unwrap(), documents);
        assert_eq!(read_documents(&dir, Split::Validation).unwrap().count(), 0);
    }

    #[test]
    fn dropped_rows_come_back() {
        let rows: Vec<Dropped> = Reason::ALL
            .iter()
            .map(|&reason| Dropped {
                id: reason.to_string(),
                source: "s".to_owned(),
                url: None,
                reason,
                detail: "x".to_owned(),
                language: Some("spa".to_owned()),
                origin: "f".to_owned(),
                origin_offset: 3,
                bytes: 4,
                sample: String::new(),
            })
            .collect();
        let root = written(&rows, "dropped", 1 << 20);
        let back: Result<Vec<_>, _> = read_dropped(&root.path().join("c")).unwrap().collect();
        assert_eq!(back.unwrap(), rows);
    }

    #[test]
    fn a_flipped_bit_is_refused() {
        let root = written(&documents(50), "train", 1 << 20);
        let dir = root.path().join("c");
        let path = dir.join("train-00000.parquet");
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            let first = read_split(&dir, Split::Train).unwrap().next().unwrap();
            let message = first.unwrap_err().to_string();
            assert!(message.contains("train-00000.parquet"), "{message}");
            assert!(message.contains("damaged"), "{message}");
        }
    }
}

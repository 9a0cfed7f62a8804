//! Readers: files of a source become raw records, one after the other, in bounded memory.
//!
//! A reader frames records and keeps their offsets; it does not look into them. What is broken
//! becomes an [`Item::Problem`] with its offset, and reading goes on where the format allows it.
//! To add a format: implement [`Reader`], add it to [`Format`] and to [`open`].

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use milpa_base::lines;

use crate::{
    CorpusError,
    config::{Format, SourceConfig},
    document::Reason,
};

pub mod http;
mod input;
mod jsonl;
mod parquet;
pub mod pdf;
mod warc;

pub use self::parquet::ParquetReader;
pub use input::{Fault, Input};
pub use jsonl::JsonlReader;
pub use warc::WarcReader;

/// Deepest nesting of folders that is followed.
const MAX_FOLDER_DEPTH: usize = 32;
/// Longest front matter of a Markdown document.
const MAX_FRONT_MATTER_LINES: usize = 200;

/// Hands out the records of one file.
pub trait Reader: Send {
    /// The next item, or `None` at the end.
    ///
    /// # Errors
    /// Only what keeps the file from being read further (a disk error); broken content is an item.
    fn next_item(&mut self) -> io::Result<Option<Item>>;
}

/// What a reader finds.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A record that may be a document.
    Record(RawRecord),
    /// Something that was to be a record and is broken.
    Problem(Problem),
    /// A sound record that is no document, such as a request; the name of its kind.
    Skipped(String),
}

/// A record as it stands in its file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RawRecord {
    /// Offset of the record in the decoded bytes of the file; in Parquet the number of its row.
    pub offset: u64,
    /// Identity that the format itself gives (`WARC-Record-ID`).
    pub id: Option<String>,
    /// Where it was published.
    pub url: Option<String>,
    /// When it was collected.
    pub date: Option<String>,
    /// Its content.
    pub body: Body,
}

/// The content of a record, still in its own form.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A JSON object.
    Json(Vec<u8>),
    /// An HTTP response with its headers.
    Http(Vec<u8>),
    /// A page.
    Html {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Charset named outside of it.
        charset: Option<String>,
    },
    /// Plain text.
    Text {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Charset named outside of it.
        charset: Option<String>,
    },
    /// A PDF document.
    Pdf(Vec<u8>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Json(Vec::new())
    }
}

impl Body {
    /// The bytes, whatever they are.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Json(bytes)
            | Self::Http(bytes)
            | Self::Pdf(bytes)
            | Self::Html { bytes, .. }
            | Self::Text { bytes, .. } => bytes,
        }
    }
}

/// Something broken, where, and how it shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Why it is no document.
    pub reason: Reason,
    /// What exactly is wrong.
    pub detail: String,
    /// Offset in the decoded bytes of the file.
    pub offset: u64,
    /// URL, where one was read before the break.
    pub url: Option<String>,
    /// Bytes concerned, as far as known.
    pub bytes: u64,
    /// The first characters.
    pub sample: String,
}

impl Problem {
    pub(crate) fn new(reason: Reason, offset: u64, detail: impl Into<String>) -> Self {
        let (detail, sample) = (detail.into(), String::new());
        Self { reason, detail, offset, url: None, bytes: 0, sample }
    }
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceFile {
    /// Path relative to the source's path, with `/`; the file's name for a single file.
    pub origin: String,
    /// Where it is.
    pub path: PathBuf,
    /// How it is read; never [`Format::Auto`].
    pub format: Format,
    /// Its length in bytes on disk.
    pub bytes: u64,
    /// Fields that the source reads, where the format lets others be passed over.
    pub fields: Vec<String>,
}

/// Lists the files of a source in the order in which they are read.
pub fn source_files(source: &SourceConfig) -> Result<Vec<SourceFile>, CorpusError> {
    let root = &source.path.path;
    let failed = |path: &Path, error| CorpusError::Source {
        source_name: source.name.clone(),
        path: path.to_owned(),
        source: error,
    };
    let metadata = fs::metadata(root).map_err(|error| failed(root, error))?;
    let mut files = Vec::new();
    let fields = fields_of(source);
    if metadata.is_dir() {
        walk(root, "", 0, &mut |origin, path, bytes| {
            let format = match source.format {
                Format::Auto => format_of_name(&origin),
                format => Some(format).filter(|format| format_of_name(&origin) == Some(*format)),
            };
            if let Some(format) = format {
                let fields = fields.clone();
                files.push(SourceFile { origin, path, format, bytes, fields });
            }
        })
        .map_err(|error| failed(root, error))?;
        files.sort_by(|a, b| a.origin.cmp(&b.origin));
    } else {
        let origin = root
            .file_name()
            .map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
        let format = match source.format {
            Format::Auto => match format_of_name(&origin) {
                Some(format) => format,
                None => format_of_content(root).map_err(|error| failed(root, error))?,
            },
            format => format,
        };
        let (path, bytes) = (root.clone(), metadata.len());
        files.push(SourceFile { origin, path, format, bytes, fields });
    }
    if files.is_empty() {
        return Err(CorpusError::NoFiles {
            source_name: source.name.clone(),
            path: root.clone(),
            hint:
                "looked for .warc, .arc, .wet, .jsonl, .html, .htm, .txt, .md and .pdf, also with \
                   .gz or .zst, and for .parquet"
                    .to_owned(),
        });
    }
    Ok(files)
}

/// The fields that a source names.
fn fields_of(source: &SourceConfig) -> Vec<String> {
    let optional = [
        &source.id_field,
        &source.url_field,
        &source.date_field,
        &source.licence_field,
        &source.group_field,
    ];
    std::iter::once(&source.text_field).chain(optional.into_iter().flatten()).cloned().collect()
}

fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    found: &mut impl FnMut(String, PathBuf, u64),
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let metadata = fs::metadata(&path)?;
        let origin = format!("{prefix}{name}");
        if metadata.is_dir() {
            if depth < MAX_FOLDER_DEPTH {
                walk(&path, &format!("{origin}/"), depth + 1, found)?;
            }
        } else {
            found(origin, path, metadata.len());
        }
    }
    Ok(())
}

fn format_of_name(name: &str) -> Option<Format> {
    let name = name.to_ascii_lowercase();
    if name.ends_with(".parquet") {
        return Some(Format::Parquet);
    }
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "warc" | "arc" | "wet" => Some(Format::Warc),
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        "html" | "htm" | "xhtml" => Some(Format::Html),
        "txt" => Some(Format::Text),
        "md" | "markdown" => Some(Format::Markdown),
        "pdf" => Some(Format::Pdf),
        _ => None,
    }
}

fn format_of_content(path: &Path) -> io::Result<Format> {
    let mut head = Vec::new();
    // A stream that is broken from its first byte is left to the reader to report.
    let _ = lines::open_decoded(path)?.take(512).read_to_end(&mut head);
    let head = head.trim_ascii_start();
    Ok(if head.starts_with(b"WARC/") || head.starts_with(b"filedesc:") || head.is_empty() {
        Format::Warc
    } else if head.starts_with(b"{") {
        Format::Jsonl
    } else if head.starts_with(b"PAR1") {
        Format::Parquet
    } else if head.starts_with(b"%PDF-") {
        Format::Pdf
    } else if head.starts_with(b"<") {
        Format::Html
    } else {
        Format::Text
    })
}

/// Opens a file of a source. `position` follows how far the file on disk was read.
pub fn open(
    file: &SourceFile,
    max_record: u64,
    position: &Arc<AtomicU64>,
) -> io::Result<Box<dyn Reader>> {
    if file.format == Format::Parquet {
        let reader = ParquetReader::open(&file.path, &file.fields, max_record, position)?;
        return Ok(Box::new(reader));
    }
    let raw = Counting { inner: File::open(&file.path)?, position: Arc::clone(position) };
    Ok(match file.format {
        Format::Warc | Format::Auto | Format::Parquet => {
            Box::new(WarcReader::new(Input::new(Box::new(raw))?, max_record))
        }
        Format::Jsonl => Box::new(JsonlReader::new(lines::decode(raw)?, max_record)),
        Format::Html | Format::Text | Format::Markdown | Format::Pdf => Box::new(WholeFile {
            stream: Some(lines::decode(raw)?),
            format: file.format,
            max_record,
        }),
    })
}

/// Counts what is read from disk.
struct Counting {
    inner: File,
    position: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.position.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// A file that is one document.
struct WholeFile {
    stream: Option<Box<dyn Read + Send>>,
    format: Format,
    max_record: u64,
}

impl Reader for WholeFile {
    fn next_item(&mut self) -> io::Result<Option<Item>> {
        let Some(stream) = self.stream.take() else { return Ok(None) };
        let mut bytes = Vec::new();
        let result = stream.take(self.max_record + 1).read_to_end(&mut bytes);
        if bytes.len() as u64 > self.max_record {
            let detail = format!("the file has more than {} bytes", self.max_record);
            return Ok(Some(Item::Problem(Problem::new(Reason::TooLarge, 0, detail))));
        }
        if let Err(error) = result {
            let reason = reason_of_stream_error(&error)?;
            return Ok(Some(Item::Problem(Problem::new(reason, 0, error.to_string()))));
        }
        let body = match self.format {
            Format::Html => Body::Html { bytes, charset: None },
            Format::Pdf => Body::Pdf(bytes),
            Format::Markdown => {
                let bytes = without_front_matter(&bytes).to_vec();
                Body::Text { bytes, charset: None }
            }
            _ => Body::Text { bytes, charset: None },
        };
        Ok(Some(Item::Record(RawRecord { body, ..RawRecord::default() })))
    }
}

/// A Markdown document without the settings between two lines of `---` at its begin.
fn without_front_matter(bytes: &[u8]) -> &[u8] {
    let is_mark = |line: &[u8]| line.trim_ascii_end() == b"---";
    let text = bytes.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(bytes);
    let mut lines = text.split_inclusive(|&byte| byte == b'\n');
    let Some(first) = lines.next().filter(|line| is_mark(line)) else { return bytes };
    let mut length = first.len();
    for line in lines.take(MAX_FRONT_MATTER_LINES) {
        length += line.len();
        if is_mark(line) {
            return &text[length..];
        }
    }
    bytes
}

/// Tells a cut or damaged compressed stream from a failing disk, which is passed on.
pub(crate) fn reason_of_stream_error(error: &io::Error) -> io::Result<Reason> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(Reason::TruncatedStream),
        _ if error.raw_os_error().is_none() => Ok(Reason::CorruptStream),
        kind => Err(io::Error::new(kind, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_is_no_text() {
        let check = |text: &str, expect: &str| {
            assert_eq!(without_front_matter(text.as_bytes()), expect.as_bytes());
        };
        check("---\ntitle: Yuca\n---\n# La yuca\n", "# La yuca\n");
        check("---\r\na: b\r\n---\r\ntexto", "texto");
        check("---\nuna raya al comienzo", "---\nuna raya al comienzo");
        check("texto\n---\nmás\n---\n", "texto\n---\nmás\n---\n");
        check("", "");
    }

    #[test]
    fn names_tell_the_format() {
        for (name, expect) in [
            ("a.warc.gz", Some(Format::Warc)),
            ("a.ARC", Some(Format::Warc)),
            ("a.warc.wet.gz", Some(Format::Warc)),
            ("a.jsonl.zst", Some(Format::Jsonl)),
            ("a.parquet", Some(Format::Parquet)),
            ("b/ley.pdf", Some(Format::Pdf)),
            ("b/LEEME.md", Some(Format::Markdown)),
            ("b/page.htm", Some(Format::Html)),
            ("b/foto.jpg", None),
        ] {
            assert_eq!(format_of_name(name), expect, "{name}");
        }
    }
}

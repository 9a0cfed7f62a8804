//! Reading files that may be compressed, line by line, with a bound on each line.
//!
//! The compression is told from the first bytes (gzip with many members, zstd with many frames,
//! or none), never from the name. It knows nothing of what a line holds.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// Window size limit handed to zstd, as a power of two: memory for one stream is bounded by it.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Longest line accepted by default: 64 MiB.
pub const DEFAULT_MAX_LINE_BYTES: usize = 64 << 20;

/// Opens a file and undoes gzip or zstd if its first bytes show it.
pub fn open_decoded(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    decode(File::open(path)?)
}

/// Undoes gzip or zstd of a stream if its first bytes show it.
pub fn decode(reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut reader = BufReader::with_capacity(1 << 18, reader);
    let magic = reader.fill_buf()?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(reader))
}

/// One line, or what stands in its place.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The line without its end.
    Whole(&'a [u8]),
    /// The line was longer than the bound and was passed over.
    TooLong {
        /// Its length in bytes.
        bytes: u64,
    },
}

/// Reads lines with bounded memory.
pub struct LineReader {
    reader: BufReader<Box<dyn Read + Send>>,
    line: Vec<u8>,
    max_line_bytes: usize,
    offset: u64,
    number: u64,
}

impl LineReader {
    /// Opens a plain, gzip or zstd file.
    pub fn open(path: &Path, max_line_bytes: usize) -> io::Result<Self> {
        Ok(Self::new(open_decoded(path)?, max_line_bytes))
    }

    /// Reads from an already decoded stream.
    pub fn new(reader: Box<dyn Read + Send>, max_line_bytes: usize) -> Self {
        let reader = BufReader::with_capacity(1 << 18, reader);
        Self { reader, line: Vec::new(), max_line_bytes, offset: 0, number: 0 }
    }

    /// Offset in decoded bytes of the line that comes next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of the line returned last, counted from 1.
    pub fn line_number(&self) -> u64 {
        self.number
    }

    /// Returns the next line, or `None` at the end.
    ///
    /// # Errors
    /// Whatever the stream says; a cut or corrupt gzip or zstd stream is such an error, after the
    /// lines before it were returned.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let mut length = 0u64;
        loop {
            let buffer = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if buffer.is_empty() && length == 0 {
                return Ok(None);
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let taken = &buffer[..end.unwrap_or(buffer.len())];
            if length as usize + taken.len() <= self.max_line_bytes {
                self.line.extend_from_slice(taken);
            }
            let consumed = taken.len() + usize::from(end.is_some());
            let done = end.is_some() || buffer.is_empty();
            length += taken.len() as u64;
            self.offset += consumed as u64;
            self.reader.consume(consumed);
            if done {
                break;
            }
        }
        self.number += 1;
        if length > self.max_line_bytes as u64 {
            return Ok(Some(Line::TooLong { bytes: length }));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        Ok(Some(Line::Whole(&self.line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read_all(bytes: Vec<u8>, bound: usize) -> (Vec<String>, Option<io::Error>) {
        let mut lines = Vec::new();
        let decoded = match decode(io::Cursor::new(bytes)) {
            Ok(decoded) => decoded,
            Err(error) => return (lines, Some(error)),
        };
        let mut reader = LineReader::new(decoded, bound);
        loop {
            match reader.next_line() {
                Ok(Some(Line::Whole(line))) => {
                    lines.push(String::from_utf8_lossy(line).into_owned());
                }
                Ok(Some(Line::TooLong { bytes })) => lines.push(format!("<{bytes}>")),
                Ok(None) => return (lines, None),
                Err(error) => return (lines, Some(error)),
            }
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_come_out_of_any_compression() {
        let text = b"one\r\ntwo\n\nlast";
        let expect = ["one", "two", "", "last"];
        assert_eq!(read_all(text.to_vec(), 100).0, expect);
        assert_eq!(read_all(gzip(text), 100).0, expect);
        assert_eq!(read_all(zstd::encode_all(&text[..], 1).unwrap(), 100).0, expect);
        let mut members = gzip(b"one\n");
        members.extend(gzip(b"two\n"));
        assert_eq!(read_all(members, 100).0, ["one", "two"]);
    }

    #[test]
    fn a_long_line_is_passed_over_and_the_next_one_is_read() {
        let mut text = vec![b'x'; 1 << 20];
        text.extend(b"\nshort\n");
        assert_eq!(read_all(text, 1000).0, ["<1048576>", "short"]);
    }

    #[test]
    fn a_cut_stream_is_an_error_after_its_whole_lines() {
        let text = "one line of many\n".repeat(50_000);
        for mut bytes in [gzip(text.as_bytes()), zstd::encode_all(text.as_bytes(), 1).unwrap()] {
            bytes.truncate(bytes.len() - 20);
            let (_, error) = read_all(bytes, 100);
            assert!(error.is_some());
        }
    }
}

//! WARC 0.17–1.1 (ISO 28500) and ARC 1–2, tolerant: a malformed record is counted with its offset
//! and reading goes on at the next line that begins a record.
//!
//! Memory is bounded by `max_record` whatever `Content-Length` says. It knows record framing only;
//! HTTP is [`super::http`]'s.

use std::io;

use super::{Body, Fault, Input, Item, Problem, RawRecord, Reader};
use crate::document::{Reason, sample_bytes};

/// Longest header line in bytes.
const MAX_LINE: usize = 64 << 10;
/// Most header lines of one record.
const MAX_HEADERS: usize = 512;
/// What stands between two WARC records.
const BOUNDARY: &[u8] = b"\r\n\r\nWARC/";

/// Reads the records of one WARC or ARC file.
pub struct WarcReader {
    input: Input,
    max_record: u64,
    ended: bool,
}

/// Headers of a WARC record that matter here.
#[derive(Default)]
struct Headers {
    kind: String,
    id: Option<String>,
    url: Option<String>,
    date: Option<String>,
    content_type: String,
    length: Option<u64>,
}

impl WarcReader {
    /// Reads records whose content has at most `max_record` bytes; larger ones are passed over.
    pub fn new(input: Input, max_record: u64) -> Self {
        Self { input, max_record, ended: false }
    }

    fn read_item(&mut self) -> Result<Option<Item>, Fault> {
        loop {
            let offset = self.input.offset();
            let (line, long) = self.input.line(MAX_LINE)?;
            if line.is_empty() {
                return Ok(None);
            }
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            if text.starts_with(b"WARC/") && !long {
                return self.read_warc(offset).map(Some);
            }
            if let (Some(arc), false) = (ArcLine::parse(text), long) {
                return self.read_arc(offset, arc).map(Some);
            }
            let sample = sample_bytes(text);
            self.resync()?;
            let bytes = self.input.offset() - offset;
            let detail = format!("{bytes} bytes that begin no record");
            return Ok(Some(Item::Problem(Problem {
                bytes,
                sample,
                ..Problem::new(Reason::MalformedRecord, offset, detail)
            })));
        }
    }

    fn read_warc(&mut self, offset: u64) -> Result<Item, Fault> {
        let mut headers = Headers::default();
        for count in 0.. {
            let (line, long) = self.input.line(MAX_LINE)?;
            if line.is_empty() {
                return Ok(problem(
                    Reason::TruncatedStream,
                    offset,
                    "it ends in a header",
                    &headers,
                ));
            }
            if long || count >= MAX_HEADERS {
                self.resync()?;
                let detail = "a header beyond 64 KiB, or more than 512 headers";
                return Ok(problem(Reason::MalformedRecord, offset, detail, &headers));
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                break;
            }
            headers.take(line);
        }
        let Some(length) = headers.length else {
            self.resync()?;
            let detail = "no usable Content-Length";
            return Ok(problem(Reason::MalformedRecord, offset, detail, &headers));
        };
        let content = match self.content(length, true)? {
            Content::Whole(content) => content,
            Content::TooLarge => {
                let detail = format!("{length} bytes; at most {}", self.max_record);
                return Ok(problem(Reason::TooLarge, offset, &detail, &headers));
            }
            Content::Broken(reason, detail) => {
                return Ok(problem(reason, offset, &detail, &headers));
            }
        };
        let (mime, charset) = super::http::media_type(&headers.content_type);
        let body = match (headers.kind.as_str(), mime.as_str()) {
            ("response", _) if content.starts_with(b"HTTP/") => Body::Http(content),
            ("response" | "resource", "text/html" | "application/xhtml+xml") => {
                Body::Html { bytes: content, charset }
            }
            ("response" | "resource" | "conversion", "text/plain" | "text/markdown") => {
                Body::Text { bytes: content, charset }
            }
            ("response" | "resource", "application/pdf") => Body::Pdf(content),
            (kind @ ("warcinfo" | "request" | "metadata" | "revisit" | "continuation"), _) => {
                return Ok(Item::Skipped(format!("warc {kind}")));
            }
            (kind @ ("response" | "resource" | "conversion"), _) => {
                return Ok(Item::Skipped(format!("warc {kind} that is no text")));
            }
            _ => return Ok(Item::Skipped("warc record of another type".to_owned())),
        };
        let Headers { id, url, date, .. } = headers;
        Ok(Item::Record(RawRecord { offset, id, url, date, body }))
    }

    fn read_arc(&mut self, offset: u64, line: ArcLine) -> Result<Item, Fault> {
        let headers = Headers { url: Some(line.url.clone()), ..Headers::default() };
        let content = match self.content(line.length, false)? {
            Content::Whole(content) => content,
            Content::TooLarge => {
                let detail = format!("{} bytes; at most {}", line.length, self.max_record);
                return Ok(problem(Reason::TooLarge, offset, &detail, &headers));
            }
            Content::Broken(reason, detail) => {
                return Ok(problem(reason, offset, &detail, &headers));
            }
        };
        let body = if line.url.starts_with("filedesc:") {
            return Ok(Item::Skipped("arc file description".to_owned()));
        } else if content.starts_with(b"HTTP/") {
            Body::Http(content)
        } else if line.mime == "text/html" {
            Body::Html { bytes: content, charset: None }
        } else if line.mime == "text/plain" {
            Body::Text { bytes: content, charset: None }
        } else if line.mime == "application/pdf" {
            Body::Pdf(content)
        } else {
            return Ok(Item::Skipped("arc record that is no text".to_owned()));
        };
        Ok(Item::Record(RawRecord {
            offset,
            id: None,
            url: Some(line.url),
            date: Some(line.date),
            body,
        }))
    }

    /// Reads the content of a record and checks that a record or the end follows.
    fn content(&mut self, length: u64, warc: bool) -> Result<Content, Fault> {
        if length > self.max_record {
            return self.pass_over(length, warc);
        }
        let mut content = Vec::new();
        while (content.len() as u64) < length {
            let bytes = match self.input.fill() {
                Ok(bytes) => bytes,
                Err(Fault::Truncated) => &[],
                Err(fault) => return Err(fault),
            };
            if bytes.is_empty() {
                if warc && let Some(at) = find(&content, BOUNDARY) {
                    self.input.put_back(&content[at + 4..]);
                    let detail = "Content-Length goes beyond the next record";
                    return Ok(Content::Broken(Reason::MalformedRecord, detail.to_owned()));
                }
                let detail = format!("it ends after {} of {length} bytes", content.len());
                return Ok(Content::Broken(Reason::TruncatedStream, detail));
            }
            let count = bytes.len().min((length - content.len() as u64) as usize);
            content.extend_from_slice(&bytes[..count]);
            self.input.consume(count);
        }
        if !warc {
            return Ok(Content::Whole(content));
        }
        let follows = match self.input.peek(16) {
            Ok(bytes) if bytes.starts_with(&BOUNDARY[..4]) => return Ok(Content::Whole(content)),
            Ok(bytes) => bytes.trim_ascii_start().to_vec(),
            // Damage behind a whole record is the next record's problem.
            Err(Fault::Io(error)) => return Err(Fault::Io(error)),
            Err(_) => Vec::new(),
        };
        // At the end of a cut file only a part of the mark may be left.
        if b"WARC/".starts_with(&follows[..follows.len().min(5)]) {
            return Ok(Content::Whole(content));
        }
        if let Some(at) = find(&content, BOUNDARY) {
            self.input.put_back(&content[at + 4..]);
            let detail = "Content-Length goes beyond the next record";
            return Ok(Content::Broken(Reason::MalformedRecord, detail.to_owned()));
        }
        self.resync()?;
        let detail = "no record follows where Content-Length says that this one ends";
        Ok(Content::Broken(Reason::MalformedRecord, detail.to_owned()))
    }

    /// Skips a record that is too large. Its length may be a lie, so a line that begins a WARC
    /// record ends it early.
    fn pass_over(&mut self, length: u64, warc: bool) -> Result<Content, Fault> {
        let end = self.input.offset().saturating_add(length);
        let mut blank = false;
        while self.input.offset() < end {
            if warc && blank && self.input.peek(5)?.starts_with(b"WARC/") {
                break;
            }
            let left = end - self.input.offset();
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                break;
            }
            let line =
                bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| at + 1);
            let count = (line as u64).min(left) as usize;
            blank = bytes[..count].ends_with(b"\n") && bytes[..count].trim_ascii().is_empty();
            self.input.consume(count);
        }
        Ok(Content::TooLarge)
    }

    /// Goes to the next line that begins a record.
    fn resync(&mut self) -> Result<(), Fault> {
        loop {
            let (line, _) = self.input.line(MAX_LINE)?;
            let begins = line.starts_with(b"WARC/") || ArcLine::parse(line.trim_ascii()).is_some();
            if begins {
                self.input.put_back(&line);
            }
            if line.is_empty() || begins {
                return Ok(());
            }
        }
    }
}

impl Reader for WarcReader {
    fn next_item(&mut self) -> io::Result<Option<Item>> {
        if self.ended {
            return Ok(None);
        }
        let offset = self.input.offset();
        match self.read_item() {
            Ok(Some(item)) => Ok(Some(item)),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(Fault::Io(error)) => Err(error),
            Err(Fault::Truncated) => {
                self.ended = true;
                let detail = "the compressed stream ends in the middle";
                Ok(Some(problem(Reason::TruncatedStream, offset, detail, &Headers::default())))
            }
            Err(Fault::Corrupt(message)) => {
                let detail = format!("the compressed stream is damaged: {message}");
                Ok(Some(problem(Reason::CorruptStream, offset, &detail, &Headers::default())))
            }
        }
    }
}

enum Content {
    Whole(Vec<u8>),
    TooLarge,
    Broken(Reason, String),
}

impl Headers {
    fn take(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { return };
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        let value = String::from_utf8_lossy(line[colon + 1..].trim_ascii()).into_owned();
        let bare = || value.trim_matches(['<', '>']).to_owned();
        match name.as_str() {
            "warc-type" => self.kind = value.to_ascii_lowercase(),
            "warc-record-id" => self.id = Some(bare()),
            "warc-target-uri" => self.url = Some(bare()),
            "warc-date" => self.date = Some(value),
            "content-type" => self.content_type = value,
            "content-length" => self.length = value.parse().ok(),
            _ => {}
        }
    }
}

fn problem(reason: Reason, offset: u64, detail: &str, headers: &Headers) -> Item {
    let mut problem = Problem::new(reason, offset, detail);
    problem.url.clone_from(&headers.url);
    problem.bytes = headers.length.unwrap_or(0);
    Item::Problem(problem)
}

/// `URL IP date type … length`: the line that begins an ARC record.
struct ArcLine {
    url: String,
    date: String,
    mime: String,
    length: u64,
}

impl ArcLine {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let fields: Vec<&str> = line.split(' ').collect();
        let count = fields.len();
        let is_date = |field: &str| field.len() == 14 && field.bytes().all(|b| b.is_ascii_digit());
        // From the right, because a URL may hold spaces: version 1 has 5 fields, version 2 has 10.
        let date_at = [3, 8]
            .into_iter()
            .filter_map(|back| count.checked_sub(back))
            .find(|&at| at >= 2 && is_date(fields[at]))?;
        let url = fields[..date_at - 1].join(" ");
        let scheme = url.split(':').next()?;
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric()) || scheme == url
        {
            return None;
        }
        Some(Self {
            length: fields[count - 1].parse().ok()?,
            date: fields[date_at].to_owned(),
            mime: fields[date_at + 1].to_ascii_lowercase(),
            url,
        })
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn record(url: &str, body: &str) -> Vec<u8> {
        let http = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{body}");
        format!(
            "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: <{url}>\r\n\
             Content-Type: application/http\r\nContent-Length: {}\r\n\r\n{http}\r\n\r\n",
            http.len()
        )
        .into_bytes()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// URLs of the records read, and reasons of the problems in brackets.
    fn read(bytes: Vec<u8>) -> Vec<String> {
        let input = Input::new(Box::new(io::Cursor::new(bytes))).unwrap();
        let mut reader = WarcReader::new(input, 10_000);
        let mut out = Vec::new();
        while let Some(item) = reader.next_item().unwrap() {
            out.push(match item {
                Item::Record(record) => record.url.unwrap(),
                Item::Problem(problem) => format!("[{}]", problem.reason),
                Item::Skipped(kind) => format!("({kind})"),
            });
            assert!(out.len() < 1000, "no end: {out:?}");
        }
        out
    }

    fn check(parts: &[&[u8]], expect: &[&str]) {
        assert_eq!(read(parts.concat()), expect);
    }

    #[test]
    fn sound_records_come_in_order_under_any_compression() {
        let (a, b) = (record("http://a/", "A"), record("http://b/", "B"));
        let whole = [a.clone(), b.clone()].concat();
        for bytes in [
            whole.clone(),
            gzip(&whole),
            [gzip(&a), gzip(&b)].concat(),
            zstd::encode_all(&whole[..], 1).unwrap(),
        ] {
            assert_eq!(read(bytes), ["http://a/", "http://b/"]);
        }
    }

    #[test]
    fn a_malformed_record_does_not_hide_the_next() {
        let (a, b) = (record("http://a/", "A"), record("http://b/", "B"));
        check(&[b"garbage\r\nmore\r\n", &a], &["[malformed_record]", "http://a/"]);
        let no_length = b"WARC/1.0\r\nWARC-Type: response\r\n\r\nbody\r\n\r\n";
        check(&[no_length, &a], &["[malformed_record]", "http://a/"]);
        let text = String::from_utf8(a.clone()).unwrap();
        for length in ["1", "120", "9000", "1000000000000000000", "-5", "99999999999999999999999"] {
            let at = text.find("Content-Length: ").unwrap() + 16;
            let end = at + text[at..].find('\r').unwrap();
            let wrong = format!("{}{length}{}", &text[..at], &text[end..]).into_bytes();
            let found = read([wrong, b.clone()].concat());
            assert_eq!(found.last().unwrap(), "http://b/", "{length}: {found:?}");
            assert!(found[0].starts_with('['), "{length}: {found:?}");
        }
    }

    #[test]
    fn a_cut_file_keeps_the_records_before_the_cut() {
        let (a, b) = (record("http://a/", "A"), record("http://b/", &"B".repeat(3000)));
        let whole = [a.clone(), b.clone()].concat();
        for cut in a.len() + 1..whole.len() - 4 {
            let found = read(whole[..cut].to_vec());
            assert_eq!(found[0], "http://a/");
            assert_eq!(found.len(), 2, "{cut}: {found:?}");
            assert!(found[1].starts_with('['), "{cut}: {found:?}");
        }
        for whole in [[gzip(&a), gzip(&b)].concat(), zstd::encode_all(&whole[..], 1).unwrap()] {
            let found = read(whole[..whole.len() - 9].to_vec());
            assert!(found.contains(&"[truncated_stream]".to_owned()), "{found:?}");
        }
    }

    #[test]
    fn a_damaged_gzip_member_does_not_hide_the_next() {
        let members: Vec<Vec<u8>> = ["a", "b", "c"]
            .map(|name| gzip(&record(&format!("http://{name}/"), &name.repeat(500))))
            .to_vec();
        let mut broken = members[1].clone();
        let middle = broken.len() / 2;
        broken[middle] ^= 0xff;
        broken[middle + 1] ^= 0xff;
        let found = read([members[0].clone(), broken, members[2].clone()].concat());
        assert_eq!(found.first().unwrap(), "http://a/");
        assert_eq!(found.last().unwrap(), "http://c/", "{found:?}");
        assert!(found.iter().any(|item| item.starts_with('[')), "{found:?}");
    }

    #[test]
    fn arc_lines_are_read_from_the_right() {
        let line = ArcLine::parse(b"http://x/a b 1.2.3.4 20140216050221 text/html 1656").unwrap();
        assert_eq!((line.url.as_str(), line.length), ("http://x/a b", 1656));
        assert!(ArcLine::parse(b"the length is 12").is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            read(bytes.clone());
            read([record("http://a/", "A"), bytes].concat());
        }
    }
}

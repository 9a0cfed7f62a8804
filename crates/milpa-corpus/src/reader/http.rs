//! The HTTP response inside a record: status, headers, chunked transfer and content encoding.

use std::io::Read;

use crate::document::Reason;

/// Bytes that the decoder of brotli reads at once.
const BROTLI_BUFFER: usize = 64 << 10;
/// Longest header block in bytes.
const MAX_HEADER_BYTES: usize = 256 << 10;

/// A response with its body decoded.
#[derive(Debug, PartialEq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Media type in lower case, without parameters; empty if none was sent.
    pub mime: String,
    /// The charset parameter.
    pub charset: Option<String>,
    /// The body, without transfer and content encoding.
    pub body: Vec<u8>,
}

/// Takes an HTTP response apart. Encodings of at most two layers are undone, up to `max` bytes.
///
/// # Errors
/// The reason and its detail.
pub fn parse(bytes: &[u8], max: u64) -> Result<Response, (Reason, String)> {
    let (head, body) = split_head(bytes);
    let mut lines = head.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let status_line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let status = status_line
        .strip_prefix("HTTP/")
        .and_then(|rest| rest.split_ascii_whitespace().nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| {
            (Reason::MalformedRecord, format!("not a status line: {status_line:.80}"))
        })?;
    let (mut content_type, mut chunked, mut encodings) = (String::new(), false, Vec::new());
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let value = String::from_utf8_lossy(line[colon + 1..].trim_ascii()).into_owned();
        match String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase().as_str() {
            "content-type" => content_type = value,
            "transfer-encoding" => chunked = value.to_ascii_lowercase().contains("chunked"),
            "content-encoding" => {
                encodings = value.split(',').map(|e| e.trim().to_ascii_lowercase()).collect();
            }
            _ => {}
        }
    }
    // Some crawlers store the header of a chunked answer with a body that no longer is.
    let mut body = match chunked.then(|| unchunk(body)).flatten() {
        Some(joined) => joined,
        None => body.to_vec(),
    };
    if encodings.len() > 2 {
        return Err((Reason::ContentEncoding, format!("{} layers of encoding", encodings.len())));
    }
    for encoding in encodings.iter().rev() {
        body = undo(encoding, body, max)?;
    }
    let (mime, charset) = media_type(&content_type);
    Ok(Response { status, mime, charset, body })
}

/// Splits `text/html; charset="utf-8"` into the media type and the charset.
pub fn media_type(value: &str) -> (String, Option<String>) {
    let mut parts = value.split(';');
    let mime = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    let charset = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then(|| value.to_owned())
    });
    (mime, charset)
}

fn split_head(bytes: &[u8]) -> (&[u8], &[u8]) {
    let window = &bytes[..bytes.len().min(MAX_HEADER_BYTES)];
    for at in 0..window.len() {
        if window[at] == b'\n' {
            let rest = &bytes[at + 1..];
            for end in [&b"\r\n"[..], b"\n"] {
                if let Some(body) = rest.strip_prefix(end) {
                    return (&bytes[..at], body);
                }
            }
        }
    }
    (window, &[])
}

/// Joins the chunks, or `None` if the body is not chunked. A cut last chunk is kept as far as it
/// goes.
fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut first = true;
    loop {
        let Some(end) = body.iter().take(64).position(|&byte| byte == b'\n') else {
            return (!first).then_some(out);
        };
        let size = std::str::from_utf8(&body[..end]).ok()?;
        let size = size.split(';').next()?.trim();
        let size = match usize::from_str_radix(size, 16) {
            Ok(size) => size,
            Err(_) if first => return None,
            Err(_) => return Some(out),
        };
        first = false;
        body = &body[end + 1..];
        if size == 0 {
            return Some(out);
        }
        let taken = size.min(body.len());
        out.extend_from_slice(&body[..taken]);
        body = &body[taken..];
        body = body.strip_prefix(b"\r\n").or_else(|| body.strip_prefix(b"\n")).unwrap_or(body);
    }
}

fn undo(encoding: &str, body: Vec<u8>, max: u64) -> Result<Vec<u8>, (Reason, String)> {
    let mut decoder: Box<dyn Read + '_> = match encoding {
        "" | "identity" => return Ok(body),
        // Servers often name an encoding that a proxy has already undone.
        "gzip" | "x-gzip" if !body.starts_with(&[0x1f, 0x8b]) => return Ok(body),
        "gzip" | "x-gzip" => Box::new(flate2::read::MultiGzDecoder::new(&body[..])),
        // RFC 9110 says zlib; some servers send raw deflate.
        "deflate" if body.first().is_some_and(|byte| byte & 0x0f == 8) => {
            Box::new(flate2::read::ZlibDecoder::new(&body[..]))
        }
        "deflate" => Box::new(flate2::read::DeflateDecoder::new(&body[..])),
        "br" => Box::new(brotli_decompressor::Decompressor::new(&body[..], BROTLI_BUFFER)),
        "zstd" => match zstd::Decoder::with_buffer(&body[..]) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => return Err((Reason::ContentEncoding, error.to_string())),
        },
        other => {
            return Err((Reason::ContentEncoding, format!("cannot undo {other:.40?}")));
        }
    };
    let mut out = Vec::new();
    let result = decoder.by_ref().take(max + 1).read_to_end(&mut out);
    if out.len() as u64 > max {
        return Err((Reason::TooLarge, format!("the body decodes to more than {max} bytes")));
    }
    match result {
        Ok(_) => Ok(out),
        Err(error) => Err((Reason::ContentEncoding, format!("{encoding}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(response: &[u8], expect: &str) {
        let parsed = parse(response, 1000).unwrap();
        assert_eq!(String::from_utf8_lossy(&parsed.body), expect);
    }

    #[test]
    fn chunks_are_joined() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(format!("{head}3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").as_bytes(), "abcde");
        check(format!("{head}<html>no chunks</html>").as_bytes(), "<html>no chunks</html>");
        check(format!("{head}3\r\nabc\r\nFFFFFFFF\r\nde").as_bytes(), "abcde");
        check(format!("{head}3\r\nabc\r\nzz\r\nde").as_bytes(), "abc");
    }

    #[test]
    fn encodings_are_undone_within_the_bound() {
        let gzip = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let head =
            b"HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Type: text/html;charset=X\n\n";
        check(&[&head[..], &gzip(b"hola")].concat(), "hola");
        check(&[&head[..], b"plain"].concat(), "plain");
        let bomb = parse(&[&head[..], &gzip(&vec![0; 100_000])].concat(), 1000).unwrap_err();
        assert_eq!(bomb.0, Reason::TooLarge);
        let cut = gzip(&(0..999u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        let cut = parse(&[&head[..], &cut[..40]].concat(), 10_000).unwrap_err();
        assert_eq!(cut.0, Reason::ContentEncoding);
        for (encoding, body) in [("br", &b"x"[..]), ("compress", b"x"), ("zstd", b"no frame")] {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n");
            let odd = parse(&[head.as_bytes(), body].concat(), 9).unwrap_err();
            assert_eq!(odd.0, Reason::ContentEncoding, "{encoding}");
        }
        let head = b"HTTP/1.1 200 OK\nContent-Encoding: br\n\n";
        let brotli = |bytes: &[u8]| {
            let mut out = Vec::new();
            let (mut writer, mut rest) =
                (brotli::CompressorWriter::new(&mut out, 4096, 5, 20), bytes);
            std::io::copy(&mut rest, &mut writer).unwrap();
            drop(writer);
            out
        };
        check(&[&head[..], &brotli(b"hola, hola, hola")].concat(), "hola, hola, hola");
        let bomb = parse(&[&head[..], &brotli(&vec![0; 1 << 20])].concat(), 1000).unwrap_err();
        assert_eq!(bomb.0, Reason::TooLarge);
        let head = b"HTTP/1.1 200 OK\nContent-Encoding: zstd\n\n";
        check(&[&head[..], &zstd::encode_all(&b"hola"[..], 3).unwrap()].concat(), "hola");
        let zeros = zstd::encode_all(&vec![0; 1 << 20][..], 3).unwrap();
        assert_eq!(parse(&[&head[..], &zeros].concat(), 1000).unwrap_err().0, Reason::TooLarge);
        assert_eq!(parse(b"hello", 9).unwrap_err().0, Reason::MalformedRecord);
    }

    #[test]
    fn media_types_are_taken_apart() {
        assert_eq!(
            media_type("Text/HTML; charset=\"ISO-8859-1\""),
            ("text/html".to_owned(), Some("ISO-8859-1".to_owned()))
        );
        assert_eq!(media_type(""), (String::new(), None));
    }
}

//! Bytes of a page become text, whatever the page says its charset is.
//!
//! Order of belief: byte-order mark; valid UTF-8 with multi-byte characters (by chance nearly
//! impossible); the declared charset if the bytes do not refute it; detection (chardetng). It
//! knows no markup but the `<meta charset>` of the first bytes.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// Bytes in which a `<meta charset>` is looked for; browsers use 1024.
const META_BYTES: usize = 4096;

/// A decoded text.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    /// The text.
    pub text: String,
    /// Name of the encoding used.
    pub encoding: &'static str,
    /// Whether a declared charset was refuted by the bytes.
    pub refuted: bool,
}

/// Decodes a page or a plain text. `declared` is the charset of the HTTP header; for HTML the one
/// of the page's own `<meta>` comes next. `host` gives detection the country.
pub fn decode(bytes: &[u8], declared: Option<&str>, html: bool, url: Option<&str>) -> Decoded {
    if let Some((encoding, length)) = Encoding::for_bom(bytes) {
        let (text, _) = encoding.decode_without_bom_handling(&bytes[length..]);
        return Decoded { text: text.into_owned(), encoding: encoding.name(), refuted: false };
    }
    let named = declared
        .and_then(|label| Encoding::for_label(label.as_bytes()))
        .or_else(|| if html { meta_charset(bytes) } else { None });
    if let Ok(text) = std::str::from_utf8(bytes) {
        let ascii = text.is_ascii();
        // Pure ASCII may be ISO-2022-JP, whose escape sequences are ASCII.
        if !ascii || named.is_none_or(|encoding| encoding.name() != "ISO-2022-JP") {
            let refuted = !ascii && named.is_some_and(|encoding| encoding != UTF_8);
            return Decoded { text: text.to_owned(), encoding: "UTF-8", refuted };
        }
    }
    if let Some(encoding) =
        named.filter(|encoding| *encoding != UTF_8 && !encoding.is_single_byte())
    {
        let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
        if !had_errors {
            return Decoded { text: text.into_owned(), encoding: encoding.name(), refuted: false };
        }
    }
    if let Some(encoding) = named.filter(|encoding| encoding.is_single_byte()) {
        // A single-byte charset hardly ever fails; control characters of the C1 range refute it.
        let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
        if !had_errors && !text.contains(|c| ('\u{80}'..='\u{9f}').contains(&c)) {
            return Decoded { text: text.into_owned(), encoding: encoding.name(), refuted: false };
        }
    }
    // UTF-8 with a few broken bytes (cut characters, one pasted byte) is still UTF-8.
    let lossy = String::from_utf8_lossy(bytes);
    let broken = lossy.matches('\u{FFFD}').count();
    let whole = lossy.chars().filter(|c| !c.is_ascii()).count() - broken;
    if whole > 8 * broken {
        let refuted = named.is_some_and(|encoding| encoding != UTF_8);
        return Decoded { text: lossy.into_owned(), encoding: "UTF-8", refuted };
    }
    let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    let country = url.and_then(top_level_domain);
    let guess =
        detector.guess(country.as_deref().map(str::as_bytes), chardetng::Utf8Detection::Deny);
    let guess = if guess == UTF_8 { WINDOWS_1252 } else { guess };
    let (text, _) = guess.decode_without_bom_handling(bytes);
    Decoded { text: text.into_owned(), encoding: guess.name(), refuted: named.is_some() }
}

/// The last label of a URL's host, in the form that the detector takes.
fn top_level_domain(url: &str) -> Option<String> {
    let host = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = host.rsplit('@').next()?.split(':').next()?;
    let label = host.rsplit_once('.')?.1.to_ascii_lowercase();
    (!label.is_empty() && label.bytes().all(|byte| byte.is_ascii_lowercase())).then_some(label)
}

/// The charset in a `<meta>` tag near the begin of the page.
fn meta_charset(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = bytes[..bytes.len().min(META_BYTES)].to_ascii_lowercase();
    let mut rest = &head[..];
    while let Some(at) = find(rest, b"<meta") {
        rest = &rest[at + 5..];
        let end = rest.iter().position(|&byte| byte == b'>').unwrap_or(rest.len());
        let tag = &rest[..end];
        if let Some(at) = find(tag, b"charset") {
            let value = tag[at + 7..].trim_ascii_start();
            let value = value.strip_prefix(b"=").unwrap_or(value).trim_ascii_start();
            let value = value.strip_prefix(b"\"").or(value.strip_prefix(b"'")).unwrap_or(value);
            let length = value
                .iter()
                .position(|byte| !(byte.is_ascii_alphanumeric() || b"-_:.+".contains(byte)))
                .unwrap_or(value.len());
            // A page whose <meta> could be read as ASCII is not UTF-16, whatever it says.
            if let Some(encoding) = Encoding::for_label(&value[..length]) {
                return Some(encoding.output_encoding());
            }
        }
    }
    None
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "La educación pública es un derecho de los niños y las niñas del Perú, según \
                        la constitución. ¿Cómo garantizarlo?";

    fn check(bytes: &[u8], declared: Option<&str>, expect: &str, encoding: &str, refuted: bool) {
        let decoded = decode(bytes, declared, true, Some("http://www.gob.pe/x"));
        assert!(decoded.text.contains(expect), "{declared:?}: {}", decoded.text);
        assert_eq!((decoded.encoding, decoded.refuted), (encoding, refuted), "{declared:?}");
    }

    #[test]
    fn what_the_bytes_refute_is_not_believed() {
        let latin = WINDOWS_1252.encode(TEXT).0.into_owned();
        check(TEXT.as_bytes(), None, TEXT, "UTF-8", false);
        check(TEXT.as_bytes(), Some("iso-8859-1"), TEXT, "UTF-8", true);
        check(&latin, Some("iso-8859-1"), TEXT, "windows-1252", false);
        check(&latin, Some("utf-8"), TEXT, "windows-1252", true);
        check(&latin, Some("shift_jis"), TEXT, "windows-1252", true);
        check(&latin, None, TEXT, "windows-1252", false);
        check(&latin, Some("no-such-charset"), TEXT, "windows-1252", false);
    }

    #[test]
    fn a_byte_order_mark_and_a_meta_tag_count() {
        let bom = ["\u{FEFF}".as_bytes(), TEXT.as_bytes()].concat();
        check(&bom, Some("latin1"), TEXT, "UTF-8", false);
        let utf16: Vec<u8> = "\u{FEFF}señal".encode_utf16().flat_map(u16::to_le_bytes).collect();
        check(&utf16, None, "señal", "UTF-16LE", false);
        let page =
            "<html><head><meta http-equiv=x content='text/html; charset=windows-1251'>Привет";
        let bytes = encoding_rs::WINDOWS_1251.encode(page).0.into_owned();
        check(&bytes, None, "Привет", "windows-1251", false);
        let lie = b"<meta charset=utf-16>plain";
        check(lie, None, "plain", "UTF-8", false);
    }

    #[test]
    fn a_few_broken_bytes_do_not_change_the_charset() {
        let mut bytes = TEXT.as_bytes().to_vec();
        bytes.push(0xc3);
        check(&bytes, Some("utf-8"), "educación", "UTF-8", false);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for declared in [None, Some("utf-8"), Some("utf-16"), Some("gb18030"), Some("x-user-defined")] {
                decode(&bytes, declared, true, Some("http://user@h.PE:80/"));
            }
        }
    }
}

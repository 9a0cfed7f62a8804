//! Bytes of a page become text, whatever the page says its charset is.
//!
//! Order of belief: byte-order mark; valid UTF-8 with multi-byte characters (by chance nearly
//! impossible); the declared charset if the bytes do not refute it; detection (chardetng). Text
//! that was UTF-8 read as Windows-1252 once or twice before (`educaciÃ³n`) is [`repair`]ed. It
//! knows no markup but the `<meta charset>` of the first bytes.

use std::borrow::Cow;

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
    let mut decoded = decode_once(bytes, declared, html, url);
    if let Cow::Owned(repaired) = repair(&decoded.text) {
        decoded.text = repaired;
    }
    decoded
}

fn decode_once(bytes: &[u8], declared: Option<&str>, html: bool, url: Option<&str>) -> Decoded {
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

/// How often a text may have been encoded too often.
const MAX_ROUNDS: usize = 2;
/// Signs of double encoding that a text must show before it is touched, and different ones.
const MIN_SIGNS: usize = 3;
const MIN_DIFFERENT_SIGNS: usize = 2;

/// Undoes double encoding: UTF-8 that was read as Windows-1252 and written as UTF-8 again.
///
/// A text is touched only if at least three pairs such as `Ã³` stand in it, of two kinds, that no
/// language writes; and of it only lines in which every character beyond ASCII is part of such a
/// sequence. `IRMÃ»` and `CAFÉ»` at the end of a quotation are no signs.
pub fn repair(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MAX_ROUNDS {
        match repair_once(&text) {
            Some(repaired) => text = Cow::Owned(repaired),
            None => break,
        }
    }
    text
}

fn repair_once(text: &str) -> Option<String> {
    // Nearly all texts end here: no character that a first byte becomes with one after it.
    let may_be = text.as_bytes().windows(4).any(|pair| {
        pair[0] == 0xc3 && (0x82..=0xb4).contains(&pair[1]) && (0xc2..=0xcb).contains(&pair[2])
            || pair[0] == 0xc3 && pair[1] == 0xa2 && pair[2] == 0xe2
    });
    if !may_be {
        return None;
    }
    let lines: Vec<(&str, Option<Undone>)> =
        text.split_inclusive('\n').map(|line| (line, undo(line))).collect();
    let mut signs: Vec<char> = lines
        .iter()
        .filter_map(|(_, undone)| undone.as_ref())
        .flat_map(|u| &u.signs)
        .copied()
        .collect();
    let count = signs.len();
    signs.sort_unstable();
    signs.dedup();
    if count < MIN_SIGNS || signs.len() < MIN_DIFFERENT_SIGNS {
        return None;
    }
    Some(lines.iter().map(|(line, undone)| undone.as_ref().map_or(*line, |u| &u.text)).collect())
}

/// A line with its sequences decoded.
struct Undone {
    text: String,
    /// Characters that stood as a pair which no language writes.
    signs: Vec<char>,
}

/// Decodes a line in which all characters beyond ASCII are part of sequences; `None` otherwise.
fn undo(line: &str) -> Option<Undone> {
    let (mut text, mut signs) = (String::with_capacity(line.len()), Vec::new());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c.is_ascii() {
            text.push(c);
            continue;
        }
        let first = windows_1252_byte(c)?;
        let length = match first {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return None,
        };
        let (mut bytes, mut second) = ([first, 0, 0, 0], ' ');
        for (at, byte) in bytes[1..length].iter_mut().enumerate() {
            let next = rest.next()?;
            if at == 0 {
                second = next;
            }
            *byte = windows_1252_byte(next).filter(|byte| (0x80..=0xbf).contains(byte))?;
        }
        let decoded = std::str::from_utf8(&bytes[..length]).ok()?.chars().next()?;
        if decoded.is_control() && !matches!(decoded, '\u{80}'..='\u{9f}') {
            return None;
        }
        // What may follow a capital at the end of a word in sound text is no sign.
        let may_follow =
            matches!(second, '\u{a0}' | '«' | '»' | '‘' | '’' | '“' | '”' | '…' | '–' | '—');
        let telling = matches!(first, 0xc2..=0xc5) && !may_follow && decoded.is_lowercase()
            || (first == 0xe2 && second == '€');
        if telling {
            signs.push(decoded);
        }
        text.push(decoded);
    }
    Some(Undone { text, signs })
}

/// The byte that Windows-1252 (or, for its five holes and Latin-1, the same number) has for a
/// character.
fn windows_1252_byte(c: char) -> Option<u8> {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match u32::from(c) {
        number @ 0..=0xff => Some(number as u8),
        _ => HIGH.iter().position(|&high| high == c).map(|at| 0x80 + at as u8),
    }
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

    /// UTF-8 read as Windows-1252.
    fn garbled(text: &str) -> String {
        WINDOWS_1252.decode_without_bom_handling(text.as_bytes()).0.into_owned()
    }

    const SAMPLES: [&str; 4] = [
        "El niño pidió más atención: «¿cuándo vendrá el señor Núñez?» —dijo—.",
        "A avó não pôde ir à feira; três irmãs também ficaram sós. “Amanhã”, disse João.",
        "Ñandejára oñe’ẽ chupe kuéra: ‘eñangarekóke g̃uarani ñe’ẽ rehe’, he’i kuñataĩ porã ỹvytúicha.",
        "€ 20 por año, según el artículo 3.º de la reforma… así será.",
    ];

    #[test]
    fn double_encoding_is_undone() {
        for sample in SAMPLES {
            let once = garbled(sample);
            assert_ne!(once, sample);
            assert_eq!(repair(&once), sample);
            assert_eq!(repair(&garbled(&once)), sample);
            // A page whose frame is sound and whose text is not.
            let mixed = format!("Menú: Inicio · Señales\n{once}\n");
            assert_eq!(repair(&mixed), format!("Menú: Inicio · Señales\n{sample}\n"));
            assert_eq!(decode(once.as_bytes(), Some("utf-8"), false, None).text, sample);
        }
    }

    #[test]
    fn sound_text_is_left_alone() {
        for sound in [
            "«A IRMÃ» e «A AVÓ» e «O CAFÉ» e «MAMÃ» e «PAPÃ”…",
            "AMANHÃ\u{a0}HAVERÁ SESSÃO",
            "Â° Ã© solo",
            "SÃO JOÃO, MAÇÃ, IRMÃ… e PÃ—",
        ] {
            assert_eq!(repair(sound), sound);
        }
    }

    proptest::proptest! {
        #[test]
        fn sound_words_are_never_touched(words in proptest::collection::vec(
            proptest::sample::select(vec![
                "irmã", "IRMÃ", "café»", "CAFÉ»", "«AVÓ»", "“MAÇÔ", "Ñandutí", "ñe’ẽ", "g̃uarani",
                "niño", "AÑO", "¿QUÉ?", "—ASÍ—", "AMANHÃ…", "SÃO", "\u{a0}", "\n", "10 €", "3.º",
                "Â", "Ä", "Å", "»", "n.°", "«", "“", "”", "’", "PAPÃ’s", "Ô", "hola",
            ]), 0..40), glued in proptest::bool::ANY) {
            let text = words.join(if glued { "" } else { " " });
            // Glued words can meet at `Ã` and `º` as no writer's would; a sign needs such a pair.
            let sign = ['Ã', 'Â', 'Ä', 'Å'].iter().any(|first| {
                ["°", "º", "¿", "€", "ª"].iter().any(|second| text.contains(&format!("{first}{second}")))
            });
            if !sign {
                assert_eq!(repair(&text), text);
            }
        }

        #[test]
        fn repair_takes_away_and_never_adds(text in "[a-zÃÂâáéñã€³©±¡\u{ad}™œ»\n ]{0,60}") {
            let repaired = repair(&text);
            assert!(repaired.len() <= text.len());
            assert_eq!(repaired.matches('\n').count(), text.matches('\n').count());
        }

        #[test]
        fn garbled_words_come_back(words in proptest::collection::vec(
            proptest::sample::select(vec!["niño", "ação", "ñe’ẽ", "él", "sí", "más", "no", "kuñataĩ"]), 8..40)) {
            let text = format!("niño acción {} está", words.join(" "));
            assert_eq!(repair(&garbled(&text)), text);
        }

        #[test]
        fn any_bytes_decode(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for declared in [None, Some("utf-8"), Some("utf-16"), Some("gb18030"), Some("x-user-defined")] {
                decode(&bytes, declared, true, Some("http://user@h.PE:80/"));
            }
        }
    }
}

//! What the codes of a PDF font say and how wide they are (ISO 32000-1, 9.6–9.10).
//!
//! In order of belief: the font's `ToUnicode` map, the names of its `Differences`, its base
//! encoding. Shapes of glyphs are not looked at: a font that tells none of these gives no text.

use std::collections::HashMap;

use lopdf::{Dictionary, Document, Object};
use unicode_normalization::UnicodeNormalization;

/// Most codes of one font that are kept.
const MAX_CODES: usize = 70_000;
/// Most codes that the ranges of one font may name, again and again counted.
const MAX_RANGE_CODES: u32 = 1 << 20;
/// Longest map from codes to text in bytes.
const MAX_MAP_BYTES: usize = 4 << 20;
/// Width of a glyph whose font does not tell it, in thousandths of its size.
const USUAL_WIDTH: f32 = 500.0;

/// A font as far as its text matters.
#[derive(Debug)]
pub(super) struct Font {
    /// Bytes of a code.
    code_bytes: usize,
    texts: HashMap<u32, String>,
    widths: HashMap<u32, f32>,
    usual_width: f32,
}

/// A code of a string with what is known of it.
#[derive(Debug, PartialEq)]
pub(super) struct Code<'a> {
    /// What it says, if the font tells.
    pub(super) text: Option<&'a str>,
    /// Its width in thousandths of the font's size.
    pub(super) width: f32,
    /// Whether it is the one-byte code 32, to which word spacing applies.
    pub(super) space: bool,
}

impl Font {
    /// Reads a font.
    pub(super) fn new(document: &Document, font: &Dictionary) -> Self {
        let name = |key: &[u8]| get(document, font, key).and_then(|object| object.as_name().ok());
        let composite = name(b"Subtype") == Some(b"Type0");
        let mut this = Self {
            code_bytes: if composite { 2 } else { 1 },
            texts: HashMap::new(),
            widths: HashMap::new(),
            usual_width: USUAL_WIDTH,
        };
        if composite {
            this.read_composite_widths(document, font);
        } else {
            this.read_simple_encoding(document, font);
            this.read_simple_widths(document, font);
        }
        let map = get(document, font, b"ToUnicode").and_then(|object| object.as_stream().ok());
        if let Some(map) =
            map.and_then(|map| map.decompressed_content_with_limit(MAX_MAP_BYTES).ok())
        {
            this.read_map(&map);
        }
        this
    }

    /// Takes a string apart into its codes.
    pub(super) fn codes<'a>(&'a self, string: &'a [u8]) -> impl Iterator<Item = Code<'a>> + 'a {
        string.chunks(self.code_bytes).map(|bytes| {
            let code = bytes.iter().fold(0, |code, &byte| code << 8 | u32::from(byte));
            Code {
                text: self.texts.get(&code).map(String::as_str),
                width: self.widths.get(&code).copied().unwrap_or(self.usual_width),
                space: self.code_bytes == 1 && code == 32,
            }
        })
    }

    fn read_simple_encoding(&mut self, document: &Document, font: &Dictionary) {
        let encoding = get(document, font, b"Encoding");
        let (base, differences) = match encoding {
            Some(Object::Name(name)) => (Some(name.as_slice()), None),
            Some(Object::Dictionary(dictionary)) => (
                get(document, dictionary, b"BaseEncoding").and_then(|base| base.as_name().ok()),
                get(document, dictionary, b"Differences").and_then(|list| list.as_array().ok()),
            ),
            _ => (None, None),
        };
        let table = match base {
            Some(b"MacRomanEncoding") => encoding_rs::MACINTOSH,
            // The standard encoding differs in few characters, which fonts name in Differences.
            _ => encoding_rs::WINDOWS_1252,
        };
        for code in 32..=255u8 {
            let text = table.decode_without_bom_handling(&[code]).0.into_owned();
            if !text.contains(|c: char| c.is_control() || c == '\u{FFFD}') {
                self.texts.insert(u32::from(code), text);
            }
        }
        let mut code = 0u32;
        for entry in differences.into_iter().flatten().take(1024) {
            match entry {
                Object::Integer(next) => code = u32::try_from(*next).unwrap_or(0),
                Object::Name(name) => {
                    match text_of_name(&String::from_utf8_lossy(name)) {
                        Some(text) => self.texts.insert(code, text),
                        None => self.texts.remove(&code),
                    };
                    code = code.saturating_add(1);
                }
                _ => {}
            }
        }
    }

    fn read_simple_widths(&mut self, document: &Document, font: &Dictionary) {
        let first = get(document, font, b"FirstChar").and_then(number).unwrap_or(0.0) as u32;
        let widths = get(document, font, b"Widths").and_then(|list| list.as_array().ok());
        for (at, width) in widths.into_iter().flatten().take(256).enumerate() {
            let width = document.dereference(width).ok().and_then(|(_, width)| number(width));
            if let Some(width) = width {
                self.widths.insert(first.saturating_add(at as u32), width);
            }
        }
        // Glyphs of Type 3 fonts have a space of their own.
        let matrix = get(document, font, b"FontMatrix").and_then(|list| list.as_array().ok());
        if let Some(scale) = matrix.and_then(|matrix| matrix.first()).and_then(number) {
            self.widths.values_mut().for_each(|width| *width *= scale * 1000.0);
        }
    }

    fn read_composite_widths(&mut self, document: &Document, font: &Dictionary) {
        let descendants = get(document, font, b"DescendantFonts");
        let descendant = descendants
            .and_then(|list| list.as_array().ok()?.first())
            .and_then(|first| document.dereference(first).ok()?.1.as_dict().ok());
        let Some(descendant) = descendant else { return };
        self.usual_width = get(document, descendant, b"DW").and_then(number).unwrap_or(1000.0);
        let Some(Object::Array(widths)) = get(document, descendant, b"W") else { return };
        let mut rest = widths.iter();
        let mut budget = MAX_RANGE_CODES;
        // `first [w w w]` or `first last w`.
        while let (Some(first), Some(second)) = (rest.next(), rest.next()) {
            let Some(first) = number(first) else { return };
            let first = first as u32;
            match document.dereference(second).map_or(second, |(_, object)| object) {
                Object::Array(list) => {
                    for (at, width) in list.iter().take(MAX_CODES).enumerate() {
                        self.set_width(first.saturating_add(at as u32), number(width));
                    }
                }
                last => {
                    let Some(last) = number(last) else { return };
                    let width = rest.next().and_then(number);
                    let last = (last as u32).min(first.saturating_add(budget));
                    for code in first..=last {
                        self.set_width(code, width);
                        budget = budget.saturating_sub(1);
                    }
                }
            }
            if budget == 0 {
                return;
            }
        }
    }

    fn set_width(&mut self, code: u32, width: Option<f32>) {
        if let Some(width) = width
            && self.widths.len() < MAX_CODES
        {
            self.widths.insert(code, width);
        }
    }

    /// Reads a `ToUnicode` map: `beginbfchar` and `beginbfrange` with codes in angle brackets.
    fn read_map(&mut self, map: &[u8]) {
        let mut tokens = Tokens(map);
        let mut mode: &[u8] = b"";
        let mut pending: Vec<Vec<u8>> = Vec::new();
        let mut budget = MAX_RANGE_CODES;
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(word @ (b"beginbfchar" | b"beginbfrange" | b"begincodespacerange")) => {
                    mode = word;
                    pending.clear();
                }
                Token::Word(word) if word.starts_with(b"end") => mode = b"",
                Token::Hex(bytes) => pending.push(bytes),
                Token::Open if mode == b"beginbfrange" && pending.len() == 2 => {
                    let mut code = code_of(&pending[0]);
                    while let Some(Token::Hex(bytes)) = tokens.next() {
                        self.set_text(code, &bytes, 0);
                        code = code.saturating_add(1);
                    }
                    pending.clear();
                }
                _ => {}
            }
            match (mode, pending.len()) {
                (b"begincodespacerange", 2) => {
                    self.code_bytes = pending[0].len().clamp(1, 2);
                    pending.clear();
                }
                (b"beginbfchar", 2) => {
                    self.set_text(code_of(&pending[0]), &pending[1], 0);
                    pending.clear();
                }
                (b"beginbfrange", 3) => {
                    let (first, last) = (code_of(&pending[0]), code_of(&pending[1]));
                    for code in first..=last.min(first.saturating_add(budget)) {
                        self.set_text(code, &pending[2], code - first);
                        budget = budget.saturating_sub(1);
                    }
                    pending.clear();
                }
                (b"", _) => pending.clear(),
                _ => {}
            }
        }
    }

    /// Sets the text of a code to UTF-16 units of which the last is moved on by `plus`.
    fn set_text(&mut self, code: u32, utf16: &[u8], plus: u32) {
        if self.texts.len() >= MAX_CODES {
            return;
        }
        let mut units: Vec<u16> = match utf16 {
            [byte] => vec![u16::from(*byte)],
            _ => utf16.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(),
        };
        if let Some(last) = units.last_mut() {
            *last = last.wrapping_add(plus as u16);
        }
        let text = String::from_utf16_lossy(&units);
        let text: String =
            text.chars().filter(|&c| c != '\u{FFFD}' && (!c.is_control() || c == '\t')).collect();
        self.texts.insert(code, spell_out(&text));
    }
}

/// Ligatures as the letters that they join.
fn spell_out(text: &str) -> String {
    if text.chars().any(|c| ('\u{FB00}'..='\u{FB06}').contains(&c)) {
        text.nfkc().collect()
    } else {
        text.to_owned()
    }
}

/// The entry of a dictionary, followed if it is a reference.
pub(super) fn get<'a>(
    document: &'a Document,
    dictionary: &'a Dictionary,
    key: &[u8],
) -> Option<&'a Object> {
    let object = dictionary.get(key).ok()?;
    document.dereference(object).ok().map(|(_, object)| object)
}

/// The value of a number.
pub(super) fn number(object: &Object) -> Option<f32> {
    match object {
        Object::Integer(value) => Some(*value as f32),
        Object::Real(value) => Some(*value),
        _ => None,
    }
}

fn code_of(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |code, &byte| code << 8 | u32::from(byte))
}

/// What a glyph of this name says: `uni00F1`, `ntilde`, `f_i`, `quoteright`.
fn text_of_name(name: &str) -> Option<String> {
    let name = name.split('.').next().filter(|stem| !stem.is_empty())?;
    if name.contains('_') {
        return name.split('_').map(text_of_name).collect();
    }
    if let Some(hex) = name.strip_prefix("uni").or_else(|| name.strip_prefix('u'))
        && (4..=6).contains(&hex.len())
        && let Some(c) = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32)
    {
        return Some(spell_out(&c.to_string()));
    }
    if name.len() == 1 && name.as_bytes()[0].is_ascii_alphabetic() {
        return Some(name.to_owned());
    }
    if let Some((_, text)) = GLYPH_NAMES.iter().find(|(known, _)| *known == name) {
        return Some((*text).to_owned());
    }
    // A letter with its accent: `eacute`, `Ntilde`.
    let (letter, accent) = name.split_at_checked(1)?;
    let letter = if name.starts_with("dotlessi") { "ı" } else { letter };
    let (_, accent) = ACCENTS.iter().find(|(known, _)| *known == accent)?;
    letter.as_bytes()[0].is_ascii_alphabetic().then(|| format!("{letter}{accent}").nfc().collect())
}

const ACCENTS: &[(&str, char)] = &[
    ("grave", '\u{300}'),
    ("acute", '\u{301}'),
    ("circumflex", '\u{302}'),
    ("tilde", '\u{303}'),
    ("macron", '\u{304}'),
    ("breve", '\u{306}'),
    ("dotaccent", '\u{307}'),
    ("dieresis", '\u{308}'),
    ("ring", '\u{30A}'),
    ("hungarumlaut", '\u{30B}'),
    ("caron", '\u{30C}'),
    ("cedilla", '\u{327}'),
    ("ogonek", '\u{328}'),
];

/// Names of the Adobe Glyph List that follow no rule and stand in Latin text.
const GLYPH_NAMES: &[(&str, &str)] = &[
    ("space", " "),
    ("nbspace", " "),
    ("exclam", "!"),
    ("quotedbl", "\""),
    ("numbersign", "#"),
    ("dollar", "$"),
    ("percent", "%"),
    ("ampersand", "&"),
    ("quotesingle", "'"),
    ("parenleft", "("),
    ("parenright", ")"),
    ("asterisk", "*"),
    ("plus", "+"),
    ("comma", ","),
    ("hyphen", "-"),
    ("sfthyphen", "\u{AD}"),
    ("period", "."),
    ("slash", "/"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("colon", ":"),
    ("semicolon", ";"),
    ("less", "<"),
    ("equal", "="),
    ("greater", ">"),
    ("question", "?"),
    ("at", "@"),
    ("bracketleft", "["),
    ("backslash", "\\"),
    ("bracketright", "]"),
    ("asciicircum", "^"),
    ("underscore", "_"),
    ("grave", "`"),
    ("braceleft", "{"),
    ("bar", "|"),
    ("braceright", "}"),
    ("asciitilde", "~"),
    ("exclamdown", "¡"),
    ("questiondown", "¿"),
    ("cent", "¢"),
    ("sterling", "£"),
    ("Euro", "€"),
    ("yen", "¥"),
    ("section", "§"),
    ("copyright", "©"),
    ("registered", "®"),
    ("trademark", "™"),
    ("ordfeminine", "ª"),
    ("ordmasculine", "º"),
    ("guillemotleft", "«"),
    ("guillemotright", "»"),
    ("guilsinglleft", "‹"),
    ("guilsinglright", "›"),
    ("degree", "°"),
    ("plusminus", "±"),
    ("multiply", "×"),
    ("divide", "÷"),
    ("minus", "−"),
    ("mu", "µ"),
    ("paragraph", "¶"),
    ("periodcentered", "·"),
    ("onesuperior", "¹"),
    ("twosuperior", "²"),
    ("threesuperior", "³"),
    ("onequarter", "¼"),
    ("onehalf", "½"),
    ("threequarters", "¾"),
    ("quoteleft", "‘"),
    ("quoteright", "’"),
    ("quotesinglbase", "‚"),
    ("quotedblleft", "“"),
    ("quotedblright", "”"),
    ("quotedblbase", "„"),
    ("endash", "–"),
    ("emdash", "—"),
    ("bullet", "•"),
    ("ellipsis", "…"),
    ("dagger", "†"),
    ("daggerdbl", "‡"),
    ("perthousand", "‰"),
    ("fi", "fi"),
    ("fl", "fl"),
    ("ff", "ff"),
    ("ffi", "ffi"),
    ("ffl", "ffl"),
    ("germandbls", "ß"),
    ("ae", "æ"),
    ("AE", "Æ"),
    ("oe", "œ"),
    ("OE", "Œ"),
    ("oslash", "ø"),
    ("Oslash", "Ø"),
    ("lslash", "ł"),
    ("Lslash", "Ł"),
    ("eth", "ð"),
    ("Eth", "Ð"),
    ("thorn", "þ"),
    ("Thorn", "Þ"),
    ("dotlessi", "ı"),
];

enum Token<'a> {
    Hex(Vec<u8>),
    Word(&'a [u8]),
    Open,
    Other,
}

/// Tokens of a map, as far as they are needed.
struct Tokens<'a>(&'a [u8]);

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        self.0 = self.0.trim_ascii_start();
        let (&first, rest) = self.0.split_first()?;
        match first {
            b'<' if !rest.starts_with(b"<") => {
                let end = rest.iter().position(|&byte| byte == b'>')?;
                self.0 = &rest[end + 1..];
                let digits: Vec<u8> = rest[..end]
                    .iter()
                    .filter_map(|&byte| char::from(byte).to_digit(16))
                    .map(|digit| digit as u8)
                    .take(64)
                    .collect();
                Some(Token::Hex(
                    digits.chunks(2).map(|d| d[0] << 4 | d.get(1).copied().unwrap_or(0)).collect(),
                ))
            }
            b'[' => {
                self.0 = rest;
                Some(Token::Open)
            }
            _ if first.is_ascii_alphabetic() => {
                let end = self.0.iter().position(|byte| !byte.is_ascii_alphanumeric());
                let (word, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
                self.0 = rest;
                Some(Token::Word(word))
            }
            _ => {
                self.0 = rest;
                Some(Token::Other)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_glyphs_are_read() {
        for (name, expect) in [
            ("a", "a"),
            ("ntilde", "ñ"),
            ("Aacute", "Á"),
            ("uni1EBD", "ẽ"),
            ("f_i", "fi"),
            ("quoteright.alt", "’"),
            ("uniFB02", "fl"),
        ] {
            assert_eq!(text_of_name(name).as_deref(), Some(expect), "{name}");
        }
        assert_eq!(text_of_name("g123"), None);
        assert_eq!(text_of_name(".notdef"), None);
    }

    #[test]
    fn maps_give_texts_of_codes() {
        let mut font = Font {
            code_bytes: 2,
            texts: HashMap::new(),
            widths: HashMap::new(),
            usual_width: 1000.0,
        };
        font.read_map(
            b"1 begincodespacerange <0000> <FFFF> endcodespacerange\n\
              2 beginbfchar <0003> <0020> <0010> <FB01> endbfchar\n\
              2 beginbfrange <0041> <0043> <0061> <0050> <0051> [<00F1> <D83CDF3D>] endbfrange",
        );
        let codes: Vec<Code<'_>> =
            font.codes(&[0, 0x41, 0, 0x43, 0, 3, 0, 0x10, 0, 0x50, 0, 0x51, 9, 9]).collect();
        let text: String = codes.iter().filter_map(|code| code.text).collect();
        assert_eq!(text, "ac fiñ🌽");
        assert_eq!(codes.last(), Some(&Code { text: None, width: 1000.0, space: false }));
    }

    proptest::proptest! {
        #[test]
        fn any_map_ends(map in "(<[0-9a-f]{0,9}>|beginbfrange|beginbfchar|end|\\[|\\]| ){0,40}") {
            let mut font = Font {
                code_bytes: 1,
                texts: HashMap::new(),
                widths: HashMap::new(),
                usual_width: 1000.0,
            };
            font.read_map(map.as_bytes());
        }
    }
}

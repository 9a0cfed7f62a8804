//! One spelling for one text: Unicode NFC, one kind of line end and space, no control characters,
//! and UTF-8 that was read as Windows-1252 put right where that is certain.
//!
//! Letters are never changed: accents, tildes on consonants (g̃) and glottal signs stay as written.
//! It knows nothing of languages or of markup.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Brings `text` into the form in which all stages see it: mojibake repaired, NFC, `\n` line ends,
/// plain spaces, no control or direction characters, no space at line ends, at most one blank line
/// in a row, nothing around the whole.
pub fn normalise(text: &str) -> String {
    let mut unified = text.replace("\r\n", "\n");
    if unified.contains(['\r', '\u{2028}', '\u{2029}']) {
        unified = unified.replace(['\r', '\u{2028}', '\u{2029}'], "\n");
    }
    // Before the repair, which must see `Ã` as one character, and after it and the removal of
    // characters, which can bring a letter and its mark together.
    let composed = compose(Cow::Owned(unified));
    let repaired = repair_mojibake(&composed);
    compose(Cow::Owned(clean(&repaired))).into_owned()
}

fn compose(text: Cow<'_, str>) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text,
        _ => Cow::Owned(text.nfc().collect()),
    }
}

/// Removes what is no text, and superfluous space.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut line = String::new();
    let mut blank_lines = 0usize;
    for raw in text.split('\n') {
        line.clear();
        line.extend(raw.chars().filter_map(clean_char));
        let trimmed = if out.is_empty() { line.trim() } else { line.trim_end() };
        if trimmed.is_empty() {
            blank_lines += 1;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if blank_lines > 0 { "\n\n" } else { "\n" });
        }
        out.push_str(trimmed);
        blank_lines = 0;
    }
    out
}

/// The form of a word that matching compares: lower case, apostrophes written as one, no
/// combining-mark or spelling change besides.
pub fn fold_word(word: &str, out: &mut String) {
    out.clear();
    for c in word.chars() {
        if crate::segment::is_apostrophe(c) {
            out.push('\'');
        } else if c.is_ascii() {
            out.push(c.to_ascii_lowercase());
        } else {
            out.extend(c.to_lowercase());
        }
    }
}

fn clean_char(c: char) -> Option<char> {
    // No-break, thin and other typographic spaces.
    let space = matches!(
        c,
        '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}'
    );
    // Soft hyphen, zero-width space, byte-order mark, word joiner, direction marks. The two
    // joiners U+200C and U+200D stay: Indic scripts and emoji are written with them.
    let removed = matches!(c,
        '\u{AD}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2069}' | '\u{FEFF}');
    if removed || (c.is_control() && c != '\t') { None } else { Some(if space { ' ' } else { c }) }
}

/// Puts right UTF-8 that was decoded as Windows-1252 (`EducaciÃ³n` → `Educación`), line by line
/// and only where the line leaves no doubt.
///
/// A run of non-ASCII characters is evidence if its Windows-1252 bytes are valid UTF-8 for Latin
/// letters or usual punctuation. A line is repaired if it has such evidence and at least nine of
/// ten of its runs with letters agree, so that a genuine `IRMÃ»` stays as it is.
pub fn repair_mojibake(text: &str) -> Cow<'_, str> {
    if !text.contains(['Ã', 'Â', 'â', 'Å', 'Ä']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut changed = false;
    for line in text.split_inclusive('\n') {
        if let Some(repaired) = repair_line(line) {
            changed = true;
            out.push_str(&repaired);
        } else {
            out.push_str(line);
        }
    }
    if changed { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

fn repair_line(line: &str) -> Option<String> {
    let (mut evidence, mut genuine) = (0usize, 0usize);
    for run in non_ascii_runs(line) {
        let decoded = decode_run(run);
        if decoded.as_ref().is_some_and(|decoded| is_certain(run, decoded)) {
            evidence += 1;
        } else if decoded.is_none() && run.chars().any(char::is_alphabetic) {
            genuine += 1;
        }
    }
    if evidence == 0 || evidence < 9 * genuine {
        return None;
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    for run in non_ascii_runs(line) {
        // The runs are slices of `line`, in order.
        let at = run.as_ptr() as usize - rest.as_ptr() as usize;
        out.push_str(&rest[..at]);
        out.push_str(decode_run(run).as_deref().unwrap_or(run));
        rest = &rest[at + run.len()..];
    }
    out.push_str(rest);
    Some(out)
}

fn non_ascii_runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_ascii()).filter(|run| !run.is_empty())
}

/// The run's Windows-1252 bytes as UTF-8, if they are that, and only plausible characters.
fn decode_run(run: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(run.len());
    for c in run.chars() {
        bytes.push(windows_1252_byte(c)?);
    }
    let decoded = String::from_utf8(bytes).ok()?;
    let plausible = |c: char| {
        matches!(c, '\u{A0}'..='\u{17F}' | '\u{1E00}'..='\u{1EFF}' | '\u{2010}'..='\u{203A}'
            | '\u{20AC}' | '\u{2122}' | '\u{300}'..='\u{36F}')
    };
    decoded.chars().all(plausible).then_some(decoded)
}

/// Whether the run can hardly be genuine: a continuation byte that as a Windows-1252 character is
/// no closing quotation mark, dash or ordinal sign, or a whole three-byte sequence.
fn is_certain(run: &str, decoded: &str) -> bool {
    decoded.chars().any(|c| c.len_utf8() >= 3)
        || run.chars().zip(run.chars().skip(1)).any(|(lead, next)| {
            matches!(lead, 'Ã' | 'Â' | 'Å' | 'Ä')
                && !matches!(
                    next,
                    '»' | '«' | '”' | '’' | '“' | '‘' | '…' | '—' | '–' | 'º' | 'ª' | '°'
                )
        })
}

fn windows_1252_byte(c: char) -> Option<u8> {
    // The 32 places where Windows-1252 differs from Latin-1; the five undefined ones pass as C1.
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž',
        '\u{8F}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}',
        'ž', 'Ÿ',
    ];
    match c {
        '\u{A0}'..='\u{FF}' => Some(c as u32 as u8),
        _ => HIGH.iter().position(|&high| high == c).map(|at| 0x80 + at as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(input: &str, expect: &str) {
        assert_eq!(normalise(input), expect, "{input:?}");
    }

    #[test]
    fn forms_are_unified() {
        check("a\r\nb\rc\u{2028}d", "a\nb\nc\nd");
        check("  a  \n\n\n\n b\u{A0}c \u{200B}\u{0}x\n", "a\n\n b c x");
        check("n\u{303}andu e\u{301}", "ñandu é");
        // g with tilde has no composed form and stays two characters.
        check("g\u{303}uahe", "g\u{303}uahe");
        check("\u{FEFF}\n\n", "");
    }

    #[test]
    fn mojibake_is_repaired_where_certain() {
        check("EducaciÃ³n pÃºblica â€œgratuitaâ€\u{9d}", "Educación pública “gratuita”");
        check("Ã\u{81}rbol", "Árbol");
        check("nÂº 5, 3Â£", "nº 5, 3£");
        // Genuine letters before a closing quotation mark.
        check("a palavra «IRMÃ»", "a palavra «IRMÃ»");
        check("São João, maçã e avó: IRMÃ£", "São João, maçã e avó: IRMÃ£");
        check("linha boa: ação\nlinha mÃ¡", "linha boa: ação\nlinha má");
    }

    #[test]
    fn a_word_is_folded_for_matching() {
        let mut out = String::new();
        fold_word("ÑE’Ẽ", &mut out);
        assert_eq!(out, "ñe'ẽ");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{0,60}([\\r\\n\\t ]|Ã³|ñ|\u{303}){0,10}\\PC{0,20}") {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once.clone());
        }

        #[test]
        fn latin_text_survives_the_round_trip_through_windows_1252(
            text in "[a-z ]{1,20}[áéíóúñçãõàâêô]{1}[a-z]{1,5}[áéíóúñçãõàâêô]{1}[a-z ]{0,20}"
        ) {
            // Leave out bytes that read as ambiguous punctuation.
            prop_assume!(!text.contains(['ú', 'ê', 'ô']));
            let broken: String = text.bytes().map(|byte| match byte {
                0x80..=0x9f => encoding_of(byte),
                _ => byte as char,
            }).collect();
            prop_assert_eq!(repair_mojibake(&broken).into_owned(), text);
        }
    }

    fn encoding_of(byte: u8) -> char {
        (0..=0x2122u32)
            .filter_map(char::from_u32)
            .find(|&c| windows_1252_byte(c) == Some(byte))
            .unwrap()
    }
}

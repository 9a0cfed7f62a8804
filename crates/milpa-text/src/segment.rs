//! Cuts text into words and word-like pieces without a dictionary.
//!
//! A word is a run of letters, digits and combining marks; an apostrophe or a letter-like glottal
//! sign between two of them belongs to the word, because in Guaraní, Aymara and Quechua it is a
//! letter (`ha'e`, `ñe'ẽ`). It knows no language: scripts written without spaces give long runs.

use unicode_normalization::char::is_combining_mark;

/// Whether `c` can stand inside a word on its own.
pub fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || (!c.is_ascii() && is_combining_mark(c))
}

/// Whether `c` is written for an apostrophe or a glottal stop.
pub fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’' | '‘' | 'ʼ' | 'ʻ' | 'ꞌ' | '´' | '`')
}

/// Iterates over the words of `text`, borrowed from it.
///
/// ```
/// let words: Vec<&str> = milpa_text::words("Ñande ñe'ẽ, 25 ary.").collect();
/// assert_eq!(words, ["Ñande", "ñe'ẽ", "25", "ary"]);
/// ```
pub fn words(text: &str) -> Words<'_> {
    Words { rest: text }
}

/// Iterator made by [`words`].
#[derive(Debug, Clone)]
pub struct Words<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let start = self.rest.find(is_word_char)?;
        let tail = &self.rest[start..];
        let mut end = tail.len();
        let mut chars = tail.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let inside = is_word_char(c)
                || (is_apostrophe(c) && chars.peek().is_some_and(|&(_, next)| is_word_char(next)));
            if !inside {
                end = at;
                break;
            }
        }
        let (word, rest) = tail.split_at(end);
        self.rest = rest;
        Some(word)
    }
}

/// Iterates over the lines of `text` that are not blank, without surrounding spaces.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// Iterates over the paragraphs of `text`: pieces between blank lines.
pub fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        assert_eq!(words(text).collect::<Vec<_>>(), expect, "{text:?}");
    }

    #[test]
    fn words_keep_marks_and_glottal_signs() {
        check("¿Qué tal?", &["Qué", "tal"]);
        check("g\u{303}uahẽ ha'e ko'ẽ", &["g\u{303}uahẽ", "ha'e", "ko'ẽ"]);
        check("'hola' 'x", &["hola", "x"]);
        check("d’água l'or", &["d’água", "l'or"]);
        check("3,14 — ...", &["3", "14"]);
        check("", &[]);
        check("'", &[]);
    }

    #[test]
    fn paragraphs_and_lines_are_trimmed() {
        assert_eq!(paragraphs("a\nb\n\n\n c ").collect::<Vec<_>>(), ["a\nb", "c"]);
        assert_eq!(lines(" a\n\n b").collect::<Vec<_>>(), ["a", "b"]);
    }
}

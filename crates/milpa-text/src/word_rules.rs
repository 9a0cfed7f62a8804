//! Cuts text into words and marks by the rules of spaCy's blank pipelines, which datatrove's
//! filters count by: prefixes and suffixes come off a run of non-spaces, what is left is an
//! exception, an address, or is cut at infixes.
//!
//! [`crate::words`] is the cut for everything of our own; this one exists so that thresholds
//! published for datatrove mean the same here. It knows the rules of English, Spanish, Portuguese
//! and the rules for all languages that have none of their own (`xx`), which datatrove takes for
//! Quechua, Guaraní, Aymara, Nahuatl and Mapudungun. Two exceptions with a space inside
//! (`EE. UU.`) are left out. `reference/filters_check.py` holds it against spaCy.

use std::{collections::HashMap, sync::OnceLock};

mod address;
mod classes;
mod exceptions;

use address::is_address;
use classes::{
    is_alpha, is_icon, is_lower, is_mark, is_quote, is_space, is_unicode_mark, is_upper,
};

/// Units that come off a number (`5kg`).
const UNITS: &[&str] = &[
    "km", "km²", "km³", "m", "m²", "m³", "dm", "dm²", "dm³", "cm", "cm²", "cm³", "mm", "mm²",
    "mm³", "ha", "µm", "nm", "yd", "in", "ft", "kg", "g", "mg", "µg", "t", "lb", "oz", "m/s",
    "km/h", "kmh", "mph", "hPa", "Pa", "mbar", "mb", "MB", "kb", "KB", "gb", "GB", "tb", "TB", "T",
    "G", "M", "K", "км", "км²", "км³", "м", "м²", "м³", "дм", "дм²", "дм³", "см", "см²", "см³",
    "мм", "мм²", "мм³", "нм", "кг", "г", "мг", "м/с", "км/ч", "кПа", "Па", "мбар", "Кб", "КБ",
    "кб", "Мб", "МБ", "мб", "Гб", "ГБ", "гб", "Тб", "ТБ",
];
/// Currencies of more than one letter.
const LONG_CURRENCIES: &[&str] = &["US$", "C$", "A$"];
/// Dashes that part words, in the order in which they are tried.
const HYPHENS: &[&str] = &["-", "–", "—", "--", "---", "——", "~"];

/// Which rules differ by language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Base,
    English,
    Spanish,
    Portuguese,
}

/// The rules of one language.
#[derive(Debug)]
pub struct WordRules {
    dialect: Dialect,
    /// Exceptions with the byte lengths of their pieces.
    exceptions: HashMap<Box<str>, Box<[u8]>>,
    /// Exceptions that affix rules would cut, by the first piece so cut: text and number of pieces.
    cut_exceptions: HashMap<Box<str>, Vec<(Box<str>, usize)>>,
    /// Bit `length % 64` at the first byte, for each exception: most words need no lookup.
    lengths_by_first_byte: Box<[u64; 256]>,
}

impl WordRules {
    /// The rules of a language, by its ISO 639-3 code; those of `xx` where it has none here.
    pub fn of(language: &str) -> &'static Self {
        static RULES: [OnceLock<WordRules>; 4] = [const { OnceLock::new() }; 4];
        let dialect = match language {
            "eng" => Dialect::English,
            "spa" => Dialect::Spanish,
            "por" => Dialect::Portuguese,
            _ => Dialect::Base,
        };
        RULES[dialect as usize].get_or_init(|| Self::new(dialect))
    }

    /// The words and marks of `text`, without spaces, in time linear in its length.
    ///
    /// ```
    /// let rules = milpa_text::WordRules::of("spa");
    /// let words = rules.split("¿Cuesta 5kg (o más), Sr. Paz?");
    /// assert_eq!(words, ["¿", "Cuesta", "5", "kg", "(", "o", "más", ")", ",", "Sr.", "Paz", "?"]);
    /// ```
    pub fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut out = Vec::with_capacity(text.len() / 5);
        for chunk in text.split(is_space) {
            if !chunk.is_empty() {
                self.split_chunk(chunk, &mut out);
            }
        }
        out
    }

    /// Number of sentences: a new one begins at the first word after an end mark.
    pub fn sentences(&self, text: &str) -> usize {
        let words = self.split(text);
        let mut count = usize::from(!words.is_empty());
        let mut ended = false;
        for word in words {
            let mut chars = word.chars();
            let ends = chars.next().is_some_and(classes::is_sentence_end) && chars.next().is_none();
            if ends {
                ended = true;
            } else if ended && !word.chars().all(is_unicode_mark) {
                count += 1;
                ended = false;
            }
        }
        count
    }

    fn new(dialect: Dialect) -> Self {
        let mut rules = Self {
            dialect,
            exceptions: HashMap::new(),
            cut_exceptions: HashMap::new(),
            lengths_by_first_byte: Box::new([0; 256]),
        };
        let exceptions = exceptions::of(dialect);
        for (text, _) in &exceptions {
            let mut pieces = Vec::new();
            rules.cut_affixes(text, &mut pieces);
            if pieces.len() > 1 {
                let entry = rules.cut_exceptions.entry(pieces[0].into()).or_default();
                entry.push((text.as_str().into(), pieces.len()));
            }
        }
        for (text, lengths) in exceptions {
            let first = usize::from(text.as_bytes()[0]);
            rules.lengths_by_first_byte[first] |= 1 << (text.len() % 64);
            rules.exceptions.insert(text.into(), lengths.into());
        }
        rules
    }

    fn exception(&self, text: &str) -> Option<&[u8]> {
        let first = usize::from(*text.as_bytes().first()?);
        if self.lengths_by_first_byte[first] & (1 << (text.len() % 64)) == 0 {
            return None;
        }
        self.exceptions.get(text).map(|lengths| &**lengths)
    }

    fn split_chunk<'a>(&self, chunk: &'a str, out: &mut Vec<&'a str>) {
        if chunk.chars().all(|c| c.is_ascii_alphabetic() || (!c.is_ascii() && !is_mark(c))) {
            match self.exception(chunk) {
                Some(lengths) => push_pieces(chunk, lengths, out),
                None => out.push(chunk),
            }
            return;
        }
        let from = out.len();
        self.cut_affixes(chunk, out);
        if out.len() > from + 1 {
            self.join_exceptions(chunk, from, out);
        }
    }

    /// Takes prefixes and suffixes off until nothing changes or an exception is left.
    fn cut_affixes<'a>(&self, chunk: &'a str, out: &mut Vec<&'a str>) {
        let mut rest = chunk;
        let mut suffixes = Vec::new();
        while !rest.is_empty() && self.exception(rest).is_none() {
            let prefix = self.prefix(rest);
            let (head, tail) = rest.split_at(prefix);
            if prefix > 0 && !tail.is_empty() && self.exception(tail).is_some() {
                out.push(head);
                rest = tail;
                break;
            }
            let suffix = self.suffix(tail);
            let (body, end) = rest.split_at(rest.len() - suffix);
            if suffix > 0 && !body.is_empty() && self.exception(body).is_some() {
                suffixes.push(end);
                rest = body;
                break;
            }
            if prefix == 0 && suffix == 0 {
                break;
            }
            if prefix > 0 {
                out.push(head);
            }
            if suffix > 0 {
                suffixes.push(end);
            }
            rest = &rest[prefix..rest.len() - suffix];
        }
        if !rest.is_empty() {
            if let Some(lengths) = self.exception(rest) {
                push_pieces(rest, lengths, out);
            } else if is_address(rest) {
                out.push(rest);
            } else {
                self.cut_infixes(rest, out);
            }
        }
        out.extend(suffixes.into_iter().rev());
    }

    /// Length of the mark that `text` begins with.
    fn prefix(&self, text: &str) -> usize {
        if self.dialect == Dialect::Portuguese {
            // R$, US$, NZ$.
            let letters = text.chars().take(3).take_while(|c| is_word(*c));
            let before = letters.map(char::len_utf8).sum::<usize>();
            if before > 0 && text[before..].starts_with('$') {
                return before + 1;
            }
        }
        if text.starts_with("..") {
            return text.len() - text.trim_start_matches('.').len();
        }
        let mut chars = text.chars();
        let Some(first) = chars.next() else { return 0 };
        let comes_off = match first {
            '§' | '%' | '=' | '$' => true,
            '+' => !chars.next().is_some_and(|next| next.is_ascii_digit()),
            'U' | 'C' | 'A' => {
                let long = LONG_CURRENCIES.iter().find(|currency| text.starts_with(**currency));
                return long.map_or(0, |currency| currency.len());
            }
            _ if first.is_ascii_alphanumeric() => false,
            _ => is_mark(first),
        };
        if comes_off { first.len_utf8() } else { 0 }
    }

    /// Length of the mark that `text` ends with; the longest where several do.
    fn suffix(&self, text: &str) -> usize {
        let mut chars = text.chars().rev();
        let Some(last) = chars.next() else { return 0 };
        let before = chars.next();
        if last == '.' {
            return match before {
                Some('.') => text.len() - text.trim_end_matches('.').len(),
                Some(before) => usize::from(self.dot_comes_off(before, chars.next())),
                None => 0,
            };
        }
        if matches!(last, 's' | 'S') {
            let clitic = matches!(before, Some('\'' | '’')) && self.dialect != Dialect::Spanish;
            if clitic {
                return 1 + before.map_or(0, char::len_utf8);
            }
        }
        if last == '…' && before == Some('…') {
            return 2 * '…'.len_utf8();
        }
        let single = classes::is_suffix_mark(last);
        // A unit or a currency after a digit can be longer than one character.
        let after_digit =
            text.bytes().rposition(|byte| byte.is_ascii_digit()).map_or("", |at| &text[at + 1..]);
        let measured = UNITS.contains(&after_digit)
            || LONG_CURRENCIES.contains(&after_digit)
            || after_digit == "+"
            || (after_digit == "%" && self.dialect != Dialect::Spanish)
            || (after_digit.chars().count() == 1 && after_digit.chars().all(classes::is_currency));
        if measured {
            after_digit.len()
        } else if single {
            last.len_utf8()
        } else {
            0
        }
    }

    /// Whether a full stop after `before` ends a sentence rather than an abbreviation.
    fn dot_comes_off(&self, before: char, earlier: Option<char>) -> bool {
        let dash = self.dialect == Dialect::Spanish && matches!(before, '—' | '–');
        before.is_ascii_digit()
            || is_lower(before)
            || matches!(before, '%' | '²' | '-' | '+' | '|')
            || classes::is_punctuation(before)
            || is_quote(before)
            || dash
            || (is_upper(before) && earlier.is_some_and(is_upper))
            || (matches!(before, 'F' | 'C' | 'K') && earlier == Some('°'))
    }

    fn cut_infixes<'a>(&self, text: &'a str, out: &mut Vec<&'a str>) {
        let mut start = 0;
        let mut at = 0;
        let mut before = None;
        // Where the run of word characters ends that holds no compound.
        let mut no_compound_until = 0;
        while let Some(c) = text[at..].chars().next() {
            let compound = self.dialect == Dialect::Portuguese && at >= no_compound_until;
            let mut length = 0;
            if compound && is_word(c) {
                match compound_length(&text[at..]) {
                    Ok(found) => length = found,
                    Err(run) => no_compound_until = at + run,
                }
            }
            if length == 0 {
                length = self.infix(&text[at..], c, before);
            }
            if length == 0 {
                before = Some(c);
                at += c.len_utf8();
                continue;
            }
            // What stands at the very beginning parts nothing.
            if at > 0 {
                if at > start {
                    out.push(&text[start..at]);
                }
                out.push(&text[at..at + length]);
                start = at + length;
            }
            at += length;
            before = text[..at].chars().next_back();
        }
        if start < text.len() {
            out.push(&text[start..]);
        }
    }

    /// Length of the infix at the beginning of `text`, whose first character is `c`.
    fn infix(&self, text: &str, c: char, before: Option<char>) -> usize {
        if c.is_ascii_alphanumeric() {
            return 0;
        }
        if c == '…' || is_icon(c) {
            return c.len_utf8();
        }
        if text.starts_with("..") {
            return text.len() - text.trim_start_matches('.').len();
        }
        let Some(before) = before else { return 0 };
        let tail = &text[c.len_utf8()..];
        let next = tail.chars().next();
        let next_is = |class: fn(char) -> bool| next.is_some_and(class);
        let (spanish, english) =
            (self.dialect == Dialect::Spanish, self.dialect == Dialect::English);
        let operator = matches!(c, '+' | '*' | '^') || (c == '-' && !spanish);
        if operator && before.is_ascii_digit() && next_is(|c| c.is_ascii_digit() || c == '-') {
            return 1;
        }
        let quote = |c: char| is_quote(c) || (spanish && matches!(c, '—' | '–'));
        match c {
            '.' => {
                let found = (is_lower(before) || quote(before))
                    && next.is_some_and(|next| is_upper(next) || quote(next));
                return usize::from(found);
            }
            ',' => return usize::from(is_alpha(before) && next_is(is_alpha)),
            ':' | '<' | '>' | '=' | '/' => {
                let found = (is_alpha(before) || before.is_ascii_digit()) && next_is(is_alpha);
                return usize::from(found);
            }
            _ => {}
        }
        if spanish || !(is_alpha(before) || (english && before.is_ascii_digit())) {
            return 0;
        }
        let parts = |hyphen: &&&str| {
            text.strip_prefix(**hyphen)
                .is_some_and(|tail| tail.chars().next().is_some_and(is_alpha))
        };
        HYPHENS.iter().find(parts).map_or(0, |hyphen| hyphen.len())
    }

    /// Puts pieces together again that make an exception inside the chunk: the longest first, then
    /// the first.
    fn join_exceptions<'a>(&self, chunk: &'a str, from: usize, out: &mut Vec<&'a str>) {
        let mut found: Vec<(usize, usize)> = Vec::new();
        let mut offset = 0;
        for (index, piece) in out[from..].iter().enumerate() {
            for (text, pieces) in self.cut_exceptions.get(*piece).into_iter().flatten() {
                let end = from + index + pieces;
                if chunk[offset..].starts_with(&**text)
                    && end <= out.len()
                    && out[from + index..end].iter().map(|piece| piece.len()).sum::<usize>()
                        == text.len()
                {
                    found.push((*pieces, from + index));
                }
            }
            offset += piece.len();
        }
        if found.is_empty() {
            return;
        }
        found.sort_by_key(|&(pieces, at)| (std::cmp::Reverse(pieces), at));
        let mut taken = vec![false; out.len()];
        let mut chosen: Vec<(usize, usize)> = Vec::new();
        for (pieces, at) in found {
            if !taken[at] && !taken[at + pieces - 1] {
                chosen.push((at, pieces));
            }
            taken[at..at + pieces].fill(true);
        }
        chosen.sort_unstable();
        let old = out.split_off(from);
        let (mut index, mut offset) = (from, 0);
        let mut chosen = chosen.into_iter().peekable();
        while index < from + old.len() {
            let pieces = chosen.next_if(|&(at, _)| at == index).map_or(0, |(_, pieces)| pieces);
            let length: usize =
                old[index - from..index - from + pieces.max(1)].iter().map(|p| p.len()).sum();
            let text = &chunk[offset..offset + length];
            match self.exception(text).filter(|_| pieces > 0) {
                Some(lengths) => push_pieces(text, lengths, out),
                None => out.push(text),
            }
            index += pieces.max(1);
            offset += length;
        }
    }
}

fn push_pieces<'a>(text: &'a str, lengths: &[u8], out: &mut Vec<&'a str>) {
    let mut rest = text;
    for &length in lengths {
        let (piece, tail) = rest.split_at(usize::from(length));
        out.push(piece);
        rest = tail;
    }
}

/// Letters, digits and the underscore.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of words joined by hyphens that `text` begins with, or of its first word alone.
fn compound_length(text: &str) -> Result<usize, usize> {
    let run = |text: &str| text.find(|c| !is_word(c)).unwrap_or(text.len());
    let first = run(text);
    let mut length = first;
    while text[length..].starts_with('-') {
        let next = run(&text[length + 1..]);
        if next == 0 {
            break;
        }
        length += 1 + next;
    }
    if length > first { Ok(length) } else { Err(first) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(language: &str, text: &str, expect: &str) {
        let found = WordRules::of(language).split(text);
        assert_eq!(found.join(" "), expect, "{language}: {text:?}");
    }

    #[test]
    fn marks_come_off_words() {
        check("xx", "(\"¿Hola?\"), dijo...", "( \" ¿ Hola ? \" ) , dijo ...");
        check("xx", "2,5% 5km² +3 R$ 10€ -x", "2,5 % 5 km² +3 R$ 10 € -x");
        check("xx", "A.B. fin. AB. 3.", "A.B. fin . AB . 3 .");
        check("xx", "ñande'ẽ ha'e ko’ẽ g\u{303}uahẽ", "ñande'ẽ ha'e ko’ẽ g\u{303}uahẽ");
        check(
            "xx",
            "a,b a-b x/y 1-2 fin.Otra uno…dos",
            "a , b a - b x / y 1 - 2 fin . Otra uno … dos",
        );
        check("xx", "", "");
    }

    #[test]
    fn languages_differ() {
        check("spa", "pal Sr. franco-suizo 50% o's", "pa l Sr. franco-suizo 50% o's");
        check(
            "por",
            "R$50 guarda-chuva,bem-te-vi art. 5%",
            "R$ 50 guarda-chuva , bem-te-vi art. 5 %",
        );
        check(
            "eng",
            "don't can’t it's I'm p.m. well-known 3-day",
            "do n't ca n’t it 's I 'm p.m. well - known 3 - day",
        );
        check("eng", "cannot (e.g. Mr. X's)", "can not ( e.g. Mr. X 's )");
    }

    #[test]
    fn addresses_stay_whole() {
        check("spa", "(véase www.gob.pe/leyes?n=3).", "( véase www.gob.pe/leyes?n=3 ) .");
        check("xx", "a.b@x.com.ar, https://x.org:80/a,b", "a.b@x.com.ar , https://x.org:80/a,b");
        check("xx", "8.8.8.8 10.0.0.1", "8.8.8.8 10.0.0.1");
    }

    #[test]
    fn smileys_are_put_together_again() {
        check("xx", "hola:) ((bien:D) ><(((*>", "hola :) ( ( bien :D ) ><(((*>");
    }

    #[test]
    fn sentences_end_with_marks() {
        let count = |text| WordRules::of("spa").sentences(text);
        assert_eq!(count("Uno. Dos! ¿Tres?"), 3);
        assert_eq!(count("El Sr. Paz dijo: «No.» Y se fue."), 2);
        assert_eq!(count("...") + 10 * count(""), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_but_spaces(text in "(\\PC|[ .,'\"():;a-dA-D0-9\\-…$%]){0,80}") {
            for language in ["xx", "eng", "spa", "por"] {
                let joined = WordRules::of(language).split(&text).concat();
                let expect: String = text.chars().filter(|c| !is_space(*c)).collect();
                prop_assert_eq!(joined, expect);
            }
        }
    }
}

//! Where personal data could stand: runs of signs with a digit or an `@`, groups of digits parted by
//! single spaces, and the words before them.

use std::ops::Range;

use super::{numbers::NUMBERS, phone};

/// Bytes before a number in which the name of its kind is looked for.
const CONTEXT_BYTES: usize = 40;
/// Words before a number of which one can be the name of its kind.
const CONTEXT_WORDS: usize = 4;
/// Longer than every IPv6 address.
const MAX_COLON_BYTES: usize = 48;
/// Most groups of one number: a card has four, an IBAN eight.
const MAX_GROUPS: usize = 9;

/// A place to look at.
#[derive(Debug)]
pub(super) enum Candidate {
    /// A run of signs with an `@` at `at`.
    Email {
        /// The run.
        run: Range<usize>,
        /// Place of the `@`.
        at: usize,
    },
    /// Hexadecimal digits and colons.
    Colons(Range<usize>),
    /// Groups of digits, perhaps with letters and marks; the first is one run.
    Groups(Vec<Range<usize>>),
}

/// Goes through the candidates of a text.
pub(super) struct Candidates<'a> {
    text: &'a str,
    at: usize,
    /// Where the run ends that was looked at last: one with many `@` is measured once.
    run_end: usize,
}

/// The candidates of `text`, in order.
pub(super) fn candidates(text: &str) -> Candidates<'_> {
    Candidates { text, at: 0, run_end: 0 }
}

impl Candidates<'_> {
    /// Goes on behind what was recognised.
    pub(super) fn skip_to(&mut self, at: usize) {
        self.at = self.at.max(at);
    }
}

impl Iterator for Candidates<'_> {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        let text = self.text;
        let is_trigger = |byte: &u8| byte.is_ascii_digit() || *byte == b'@';
        let trigger = self.at + text.as_bytes()[self.at..].iter().position(is_trigger)?;
        let start = trigger - length_back(&text[self.at..trigger], is_inside);
        if self.run_end <= trigger {
            self.run_end = trigger + length(&text[trigger..], is_inside);
        }
        let end = self.run_end;
        if let Some(sign) = text[start..end].find('@') {
            let at = start + sign;
            // What stands before another `@` is looked at with that one.
            self.at = at + 1;
            return Some(Candidate::Email { run: start..end, at });
        }
        if text[end..].starts_with(':') || text[..start].ends_with(':') {
            let is_hex = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b':';
            let (before, behind) = text.as_bytes().split_at(trigger);
            let before = before[self.at..].iter().rev().take(MAX_COLON_BYTES);
            let first = trigger - before.take_while(|byte| is_hex(byte)).count();
            let behind = behind.iter().take(MAX_COLON_BYTES);
            let last = trigger + behind.take_while(|byte| is_hex(byte)).count();
            let colons = text[first..last].bytes().filter(|&byte| byte == b':').count();
            let alone = !text[last..].starts_with(is_inside_word)
                && !text[..first].ends_with(is_inside_word);
            if colons >= 2 && alone {
                self.at = last;
                return Some(Candidate::Colons(first..last));
            }
        }
        self.at = end;
        Some(Candidate::Groups(groups(text, without_name(text, trim(text, start..end)))))
    }
}

/// Signs of which addresses and numbers consist.
fn is_inside(c: char) -> bool {
    is_inside_word(c) || matches!(c, '.' | '-' | '/' | '@' | '_' | '+' | '%' | '&')
}

fn is_inside_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || (!c.is_ascii() && c.is_alphabetic() && !matches!(c, 'ª' | 'º'))
}

/// Length of the beginning of `text` of which all is `inside`.
pub(super) fn length(text: &str, inside: impl Fn(char) -> bool) -> usize {
    text.find(|c| !inside(c)).unwrap_or(text.len())
}

/// The same from the end.
pub(super) fn length_back(text: &str, inside: impl Fn(char) -> bool) -> usize {
    text.len() - text.trim_end_matches(inside).len()
}

/// A run without the marks around it.
fn trim(text: &str, run: Range<usize>) -> Range<usize> {
    let piece = &text[run.clone()];
    let marks = |c: char| matches!(c, '.' | '-' | '/' | '_' | '%' | '&');
    let start = run.start + (piece.len() - piece.trim_start_matches(marks).len());
    let end = run.end - (piece.len() - piece.trim_end_matches(|c| marks(c) || c == '+').len());
    start..end.max(start)
}

/// A run without the name glued to its number (`RUC20131312955`, `Tel.4567-8901`).
fn without_name(text: &str, run: Range<usize>) -> Range<usize> {
    let piece = &text[run.clone()];
    let letters = length(piece, char::is_alphabetic);
    if letters < 2 {
        return run;
    }
    let name = piece[..letters].to_lowercase();
    let known = |names: &[&str]| names.contains(&name.as_str());
    if !(NUMBERS.iter().any(|number| known(number.names)) || known(phone::NAMES)) {
        return run;
    }
    let start = run.start + letters;
    let number = start + length(&text[start..run.end], |c| matches!(c, '.' | '-'))..run.end;
    // A CNPJ with letters can begin like a name (`NIS0FKKU55MB50`); what a name is glued to has
    // digits, and at most a letter to check them at its end.
    let body = text[number.clone()].trim_end_matches(char::is_alphabetic);
    if body.len() + 1 < number.len() || body.contains(char::is_alphabetic) { run } else { number }
}

/// A run with the groups that follow it after single spaces or a bracket: 4111 1111 1111 1111,
/// +56 (9) 1234 5678, DE89 3704 0044 0532 0130 00.
fn groups(text: &str, run: Range<usize>) -> Vec<Range<usize>> {
    let first = &text[run.clone()];
    let numeric =
        |piece: &str| piece.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    let bytes = first.as_bytes();
    let account = bytes.len() == 4
        && bytes[..2].iter().all(u8::is_ascii_uppercase)
        && bytes[2..].iter().all(u8::is_ascii_digit);
    let mut groups = vec![run];
    if !(numeric(first) || account) {
        return groups;
    }
    while groups.len() < MAX_GROUPS {
        let end = groups[groups.len() - 1].end;
        let gap = length(&text[end..], |c| matches!(c, ' ' | '(' | ')'));
        if !matches!(&text[end..end + gap], " " | ") " | ")" | " (" | "(") {
            break;
        }
        let start = end + gap;
        let run = start..start + length(&text[start..], is_inside);
        let next = trim(text, run.clone());
        let piece = &text[next.clone()];
        let whole = next.start == start && !piece.is_empty();
        let fits = if account {
            piece.len() <= 4 && piece.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
        } else {
            numeric(piece) && !piece.starts_with('+')
        };
        if !(whole && fits) {
            break;
        }
        let ended = run.end != next.end;
        groups.push(next);
        // A full stop ends more than the group.
        if ended {
            break;
        }
    }
    groups
}

/// The words before a number, in the same line.
pub(super) struct Context {
    /// In lower case, the last one first.
    words: Vec<String>,
}

impl Context {
    pub(super) fn before(text: &str, at: usize) -> Self {
        let mut from = at.saturating_sub(CONTEXT_BYTES);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        let line = text[from..at].rsplit('\n').next().unwrap_or_default().to_lowercase();
        // A full stop inside abbreviations (`C.U.I.T.`) parts no words.
        let plain = line.replace('.', "");
        let words = plain
            .rsplit(|c: char| !(c.is_alphanumeric() || matches!(c, 'º' | '°')))
            .filter(|word| !word.is_empty())
            .filter(|word| !is_filler(word))
            .take(CONTEXT_WORDS)
            .map(str::to_owned)
            .collect();
        Self { words }
    }

    /// Whether one of `names` is among the words.
    pub(super) fn names(&self, names: &[&str]) -> bool {
        self.words.iter().any(|word| names.contains(&word.as_str()))
    }
}

/// Words between a name and its number that say nothing.
fn is_filler(word: &str) -> bool {
    matches!(word, "n" | "no" | "nº" | "n°" | "nro" | "num" | "núm" | "número" | "numero")
}

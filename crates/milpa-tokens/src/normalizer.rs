//! Normalisation of text before it is cut into pieces: the steps of Hugging Face tokenizers that
//! published files use, and SentencePiece's own.
//!
//! A step that could make a text grow without measure is refused when it is made, so normalising is
//! linear. It knows nothing of tokens.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};
use unicode_segmentation::UnicodeSegmentation;

use crate::{
    bert_classes::{ACCENTS, REMOVED},
    charsmap::CharsMap,
    trie::Trie,
    words::META_SPACE,
};

/// Longest text that is put in the place of another or before a text.
const MAX_REPLACEMENT: usize = 64;

/// One step of normalisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    StripAccents,
    Strip {
        left: bool,
        right: bool,
    },
    Replace {
        from: String,
        to: String,
    },
    /// Runs of two or more spaces.
    ReplaceSpaces {
        to: String,
    },
    Prepend(String),
    Bert(BertSteps),
    /// The map as Hugging Face applies it: on graphemes, then on characters.
    Precompiled(CharsMap),
    SentencePiece(SentencePieceSteps),
}

/// BERT's normaliser, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BertSteps {
    /// Controls go, white space becomes spaces.
    pub(crate) clean: bool,
    /// Spaces stand around ideographs.
    pub(crate) chinese: bool,
    /// Marks above and below letters go.
    pub(crate) accents: bool,
    pub(crate) lowercase: bool,
}

/// What a `.model` file says of normalisation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SentencePieceSteps {
    pub(crate) map: CharsMap,
    pub(crate) dummy_prefix: bool,
    pub(crate) remove_extra_spaces: bool,
    pub(crate) escape_spaces: bool,
    pub(crate) space_as_suffix: bool,
    /// Texts that are kept as they are: user-defined pieces.
    pub(crate) kept: Trie,
}

/// Steps one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Normalizer(Vec<Step>);

impl Normalizer {
    /// Checks and keeps `steps`.
    pub(crate) fn new(steps: Vec<Step>) -> Result<Self, String> {
        // Each step that replaces can grow a text; together at most 64-fold.
        let mut growth = 1;
        for step in &steps {
            let (from, to) = match step {
                Step::Replace { from, to } => (from.len(), to.len()),
                Step::ReplaceSpaces { to } => (2, to.len()),
                Step::Prepend(text) => (MAX_REPLACEMENT, text.len()),
                _ => continue,
            };
            if from == 0 || to > MAX_REPLACEMENT {
                return Err("the normaliser replaces nothing, or by more than 64 bytes".to_owned());
            }
            growth *= to.div_ceil(from).max(1);
            if growth > MAX_REPLACEMENT {
                return Err("the normaliser makes texts more than 64 times as long".to_owned());
            }
        }
        let maps = steps
            .iter()
            .filter(|step| matches!(step, Step::Precompiled(_) | Step::SentencePiece(_)));
        if steps.len() > 32 || maps.count() > 1 {
            return Err("the normaliser has more than 32 steps or more than one map".to_owned());
        }
        Ok(Self(steps))
    }

    /// Normalises `text`.
    pub(crate) fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for step in &self.0 {
            if let Some(changed) = step.apply(&text) {
                text = Cow::Owned(changed);
            }
        }
        text
    }
}

impl Step {
    /// The changed text; `None` where nothing changes.
    fn apply(&self, text: &str) -> Option<String> {
        Some(match self {
            Self::Nfc => text.nfc().collect(),
            Self::Nfd => text.nfd().collect(),
            Self::Nfkc => text.nfkc().collect(),
            Self::Nfkd => text.nfkd().collect(),
            Self::Lowercase => lowercase(text),
            Self::StripAccents => text.chars().filter(|&c| !is_combining_mark(c)).collect(),
            Self::Strip { left, right } => {
                let stripped = if *left { text.trim_start() } else { text };
                let stripped = if *right { stripped.trim_end() } else { stripped };
                if stripped.len() == text.len() {
                    return None;
                }
                stripped.to_owned()
            }
            Self::Replace { from, to } => {
                if !text.contains(from.as_str()) {
                    return None;
                }
                text.replace(from.as_str(), to)
            }
            Self::ReplaceSpaces { .. } if !text.contains("  ") => return None,
            Self::ReplaceSpaces { to } => replace_spaces(text, to),
            Self::Prepend(_) if text.is_empty() => return None,
            Self::Prepend(before) => format!("{before}{text}"),
            Self::Bert(steps) => steps.apply(text),
            Self::Precompiled(map) => precompiled(map, text),
            Self::SentencePiece(steps) => steps.apply(text),
        })
    }
}

/// Character by character, as Hugging Face does it: a sigma at a word's end is none of its own.
fn lowercase(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn replace_spaces(text: &str, to: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("  ") {
        replaced.push_str(&rest[..start]);
        replaced.push_str(to);
        rest = rest[start..].trim_start_matches(' ');
    }
    replaced.push_str(rest);
    replaced
}

/// Whether `character` lies in one of the sorted `runs`.
pub(crate) fn is_in(runs: &[(u32, u32)], character: char) -> bool {
    let code = character as u32;
    let after = runs.partition_point(|&(first, _)| first <= code);
    after > 0 && code <= runs[after - 1].1
}

impl BertSteps {
    fn apply(self, text: &str) -> String {
        let mut cleaned = String::with_capacity(text.len());
        for character in text.chars() {
            if self.clean && is_in(REMOVED, character) {
                continue;
            }
            if self.clean && character.is_whitespace() {
                cleaned.push(' ');
            } else if self.chinese && is_chinese(character) {
                cleaned.extend([' ', character, ' ']);
            } else {
                cleaned.push(character);
            }
        }
        if self.accents && !cleaned.is_ascii() {
            cleaned = cleaned.nfd().filter(|&character| !is_in(ACCENTS, character)).collect();
        }
        if self.lowercase { lowercase(&cleaned) } else { cleaned }
    }
}

/// The blocks of ideographs that BERT cuts into single characters.
fn is_chinese(character: char) -> bool {
    matches!(u32::from(character),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x2_0000..=0x2_A6DF | 0x2_A700..=0x2_B73F
        | 0x2_B740..=0x2_B81F | 0x2_B920..=0x2_CEAF | 0xF900..=0xFAFF | 0x2_F800..=0x2_FA1F)
}

/// The map on graphemes; those of one character that stays as it is are copied together.
fn precompiled(map: &CharsMap, text: &str) -> String {
    let mut mapped = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let mut kept = 0;
        while kept < rest.len() && map.untouched_alone(rest, kept) > 0 {
            match grapheme_alone(rest, kept) {
                0 => break,
                length => kept += length,
            }
        }
        mapped.push_str(&rest[..kept]);
        rest = &rest[kept..];
        let mut end = 0;
        while end < rest.len() {
            let alone = grapheme_alone(rest, end);
            end = rest.ceil_char_boundary(end + 1);
            if alone > 0 {
                break;
            }
        }
        precompiled_graphemes(map, &rest[..end], &mut mapped);
        rest = &rest[end..];
    }
    mapped
}

/// The length of the character at `at` if no grapheme goes on behind it, and none can begin before
/// it and go on with it but for the one that it begins; 0 if that is not plain to see.
#[inline]
fn grapheme_alone(text: &str, at: usize) -> usize {
    let length = letter_length(text, at);
    let last = at + length == text.len();
    if length > 0 && (last || letter_length(text, at + length) > 0) { length } else { 0 }
}

/// The length of a character of one or two bytes that neither controls nor combines (UAX 29: all
/// these are of the class Other); 0 for any other.
#[inline]
fn letter_length(text: &str, at: usize) -> usize {
    match text.as_bytes()[at..] {
        [0x20..=0x7E, ..] => 1,
        // Latin but for the soft hyphen, and Greek and Cyrillic before their combining marks.
        [0xC2, 0xA1..=0xAC | 0xAE..=0xBF, ..]
        | [0xC3..=0xCB | 0xCE..=0xD1, ..]
        | [0xCD, 0xB0..=0xBF, ..] => 2,
        _ => 0,
    }
}

/// Short graphemes are replaced whole, others character by character.
fn precompiled_graphemes(map: &CharsMap, text: &str, mapped: &mut String) {
    for grapheme in text.graphemes(true) {
        if grapheme.len() < 6
            && let Some((_, replacement)) = map.shortest(grapheme)
        {
            mapped.push_str(replacement);
            continue;
        }
        for (at, character) in grapheme.char_indices() {
            match map.shortest(&grapheme[at..at + character.len_utf8()]) {
                Some((_, replacement)) => mapped.push_str(replacement),
                None => mapped.push(character),
            }
        }
    }
}

impl SentencePieceSteps {
    /// The longest prefix that is replaced as one: its length and what it becomes.
    fn prefix<'a>(&'a self, text: &'a str) -> (usize, &'a str) {
        if let Some(length) = self.kept.longest(text.as_bytes()) {
            return (length, &text[..length]);
        }
        self.map.longest(text).unwrap_or_else(|| {
            let length = text.chars().next().map_or(0, char::len_utf8);
            (length, &text[..length])
        })
    }

    /// The length of a beginning without a space that stays as it is.
    fn unchanged(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() && bytes[at] != b' ' && !self.kept.begins_with(bytes[at]) {
            match self.map.untouched(text, at) {
                0 => break,
                length => at += length,
            }
        }
        at
    }

    /// The normalisation of sentencepiece's `normalizer.cc`.
    fn apply(&self, text: &str) -> String {
        let mut rest = text;
        if self.remove_extra_spaces {
            while !rest.is_empty() {
                let (length, becomes) = self.prefix(rest);
                if becomes != " " {
                    break;
                }
                rest = &rest[length..];
            }
        }
        let mut normalized = String::with_capacity(text.len() + 8);
        if rest.is_empty() {
            return normalized;
        }
        let space = if self.escape_spaces { META_SPACE } else { " " };
        if self.dummy_prefix && !self.space_as_suffix {
            normalized.push_str(space);
        }
        let mut after_space = self.remove_extra_spaces;
        while !rest.is_empty() {
            let unchanged = self.unchanged(rest);
            if unchanged > 0 {
                normalized.push_str(&rest[..unchanged]);
                rest = &rest[unchanged..];
                after_space = false;
                continue;
            }
            let (length, mut becomes) = self.prefix(rest);
            rest = &rest[length..];
            if after_space {
                becomes = becomes.trim_start_matches(' ');
            }
            for character in becomes.chars() {
                match character {
                    ' ' => normalized.push_str(space),
                    character => normalized.push(character),
                }
            }
            if !becomes.is_empty() {
                after_space = self.remove_extra_spaces && becomes.ends_with(' ');
            }
        }
        if self.remove_extra_spaces {
            while normalized.ends_with(space) {
                normalized.truncate(normalized.len() - space.len());
            }
        }
        if self.dummy_prefix && self.space_as_suffix {
            normalized.push_str(space);
        }
        normalized
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(steps: &[Step], text: &str, expect: &str) {
        assert_eq!(Normalizer::new(steps.to_vec()).unwrap().apply(text), expect, "{steps:?}");
    }

    #[test]
    fn steps_do_what_their_names_say() {
        check(&[Step::Nfd, Step::StripAccents], "ñandú", "nandu");
        check(&[Step::Lowercase], "ÑANDÚ Σ", "ñandú σ");
        check(&[Step::Strip { left: true, right: false }], " a ", "a ");
        check(&[Step::ReplaceSpaces { to: " ".into() }], "a  b    c d  ", "a b c d ");
        check(
            &[Step::Prepend("▁".into()), Step::Replace { from: " ".into(), to: "▁".into() }],
            "a b",
            "▁a▁b",
        );
        check(&[Step::Prepend("▁".into())], "", "");
        let bert = BertSteps { clean: true, chinese: true, accents: true, lowercase: true };
        let bert = Step::Bert(bert);
        check(&[bert], "Ñ\u{0}a\tb日É\u{FFFD}", "na b 日 e");
    }

    #[test]
    fn spaces_are_removed_as_sentencepiece_removes_them() {
        let steps = SentencePieceSteps {
            dummy_prefix: true,
            remove_extra_spaces: true,
            escape_spaces: true,
            ..SentencePieceSteps::default()
        };
        check(&[Step::SentencePiece(steps.clone())], "  a  b ", "▁a▁b");
        check(&[Step::SentencePiece(steps.clone())], "   ", "");
        let kept = SentencePieceSteps { remove_extra_spaces: false, ..steps };
        check(&[Step::SentencePiece(kept)], " a  b ", "▁▁a▁▁b▁");
    }

    #[test]
    fn steps_that_swell_texts_are_refused() {
        let grow = |from: &str, to: usize| Step::Replace { from: from.into(), to: "x".repeat(to) };
        Normalizer::new(vec![grow("", 1)]).unwrap_err();
        Normalizer::new(vec![grow("a", 65)]).unwrap_err();
        Normalizer::new(vec![grow("a", 60), grow("x", 2)]).unwrap_err();
        Normalizer::new(vec![Step::Nfc; 33]).unwrap_err();
        Normalizer::new(vec![grow("a", 60)]).unwrap();
    }
}

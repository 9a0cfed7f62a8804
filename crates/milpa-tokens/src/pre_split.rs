//! Cuts text into words before merging, as the published expressions of GPT-2, Llama 3, Qwen 2 and
//! Qwen 3.5 do.
//!
//! It is a hand-written scanner: one pass, no backtracking, no allocation. It knows nothing of
//! tokens. Tests compare it with the regular expressions themselves over arbitrary Unicode.

use std::sync::LazyLock;

use crate::unicode_classes::CLASS_RUNS;

/// The expression that cuts text into words before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PreSplit {
    /// GPT-2 and GPT-NeoX (GGUF `gpt-2`).
    Gpt2,
    /// Llama 3: up to three digits together (GGUF `llama-bpe`).
    Llama3,
    /// Qwen 2: single digits (GGUF `qwen2`).
    Qwen2,
    /// Qwen 3.5: single digits, and combining marks stay in words (GGUF `qwen35`). Tokenizers
    /// trained here use it, so that the Guaraní letter g̃ is never cut.
    Qwen35,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreSplit {
    /// Every pre-split there is.
    pub const ALL: [Self; 4] = [Self::Gpt2, Self::Llama3, Self::Qwen2, Self::Qwen35];

    /// The regular expression whose matches are the words.
    pub fn regex(self) -> &'static str {
        match self {
            Self::Gpt2 => GPT2,
            Self::Llama3 => LLAMA3,
            Self::Qwen2 => QWEN2,
            Self::Qwen35 => QWEN35,
        }
    }

    /// The pre-split with this regular expression.
    pub fn from_regex(regex: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|split| split.regex() == regex)
    }

    /// llama.cpp's name for it (`tokenizer.ggml.pre`).
    pub fn gguf_name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::Llama3 => "llama-bpe",
            Self::Qwen2 => "qwen2",
            Self::Qwen35 => "qwen35",
        }
    }

    /// The pre-split that llama.cpp means by this name.
    pub fn from_gguf_name(name: &str) -> Option<Self> {
        match name {
            "gpt-2" | "phi-2" | "olmo" => Some(Self::Gpt2),
            "llama-bpe" | "llama3" | "llama-v3" | "dbrx" | "smaug-bpe" => Some(Self::Llama3),
            "qwen2" | "deepseek-r1-qwen" => Some(Self::Qwen2),
            "qwen35" => Some(Self::Qwen35),
            _ => None,
        }
    }

    /// Cuts text into words; their concatenation is the text.
    pub fn split(self, text: &str) -> Words<'_> {
        Words { split: self, text, position: 0 }
    }
}

/// The words of a text.
#[derive(Debug, Clone)]
pub struct Words<'a> {
    split: PreSplit,
    text: &'a str,
    position: usize,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let start = self.position;
        if start >= self.text.len() {
            return None;
        }
        let scanner = Scanner { text: self.text, bytes: self.text.as_bytes() };
        self.position = match self.split {
            PreSplit::Gpt2 => scanner.gpt2_word_end(start),
            PreSplit::Llama3 => scanner.word_end::<false>(start, 3),
            PreSplit::Qwen2 => scanner.word_end::<false>(start, 1),
            PreSplit::Qwen35 => scanner.word_end::<true>(start, 1),
        };
        Some(&self.text[start..self.position])
    }
}

const OTHER: u8 = 0;
const LETTER: u8 = 1;
const MARK: u8 = 2;
const NUMBER: u8 = 3;
const SPACE: u8 = 4;
/// The class of what lies beyond the end of the text.
const END: u8 = 5;

/// Two-stage table: a page number for every 256 code points, and the distinct pages.
struct ClassTable {
    page_of: Vec<u8>,
    pages: Vec<[u8; 256]>,
}

static CLASSES: LazyLock<ClassTable> = LazyLock::new(|| {
    let (mut page_of, mut pages) = (Vec::with_capacity(0x1100), Vec::<[u8; 256]>::new());
    let mut run = 0;
    for page_start in (0..0x11_0000u32).step_by(256) {
        let page: [u8; 256] = std::array::from_fn(|offset| {
            let code = page_start + offset as u32;
            while CLASS_RUNS.get(run + 1).is_some_and(|next| next.0 <= code) {
                run += 1;
            }
            CLASS_RUNS[run].1
        });
        let number = pages.iter().position(|known| *known == page).unwrap_or_else(|| {
            pages.push(page);
            pages.len() - 1
        });
        page_of.push(u8::try_from(number).expect("Unicode has fewer than 256 distinct pages"));
    }
    ClassTable { page_of, pages }
});

/// Classes of the ASCII characters.
static ASCII: [u8; 128] = {
    let mut table = [OTHER; 128];
    let mut code = 0;
    while code < 128 {
        table[code] = match code as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => LETTER,
            b'0'..=b'9' => NUMBER,
            b' ' | b'\t'..=b'\r' => SPACE,
            _ => OTHER,
        };
        code += 1;
    }
    table
};

fn class_of(character: char) -> u8 {
    let code = character as usize;
    let table = &*CLASSES;
    table.pages[usize::from(table.page_of[code >> 8])][code & 255]
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
}

impl Scanner<'_> {
    /// Class and length in bytes of the character at `at`, which is a character boundary.
    #[inline]
    fn class_at(&self, at: usize) -> (u8, usize) {
        match self.bytes.get(at) {
            None => (END, 0),
            Some(&byte) if byte < 128 => (ASCII[usize::from(byte)], 1),
            Some(_) => self.wide_class_at(at),
        }
    }

    fn wide_class_at(&self, at: usize) -> (u8, usize) {
        self.text[at..].chars().next().map_or((END, 0), |c| (class_of(c), c.len_utf8()))
    }

    /// The first position from `at` on whose class does not satisfy `belongs`.
    #[inline]
    fn run_end(&self, mut at: usize, belongs: impl Fn(u8) -> bool) -> usize {
        loop {
            let (class, length) = self.class_at(at);
            if length == 0 || !belongs(class) {
                return at;
            }
            at += length;
        }
    }

    /// End of the word at `start` for Llama 3 and Qwen; with `MARKS`, marks count as letters.
    #[inline]
    fn word_end<const MARKS: bool>(&self, start: usize, most_digits: usize) -> usize {
        let is_letter = |class: u8| class == LETTER || (MARKS && class == MARK);
        let is_other = |class: u8| class == OTHER || (!MARKS && class == MARK);
        let (class, length) = self.class_at(start);
        if is_letter(class) {
            // A mark may be the optional first character or one of the letters: same end.
            return self.run_end(start + length, is_letter);
        }
        if self.bytes[start] == b'\'' {
            let end = self.contraction_end(start);
            if end > start {
                return end;
            }
        }
        if class == NUMBER {
            let mut end = start + length;
            for _ in 1..most_digits {
                let (class, length) = self.class_at(end);
                if class != NUMBER {
                    break;
                }
                end += length;
            }
            return end;
        }
        let (next_class, next_length) = self.class_at(start + length);
        if is_letter(next_class) && !matches!(self.bytes[start], b'\r' | b'\n') {
            return self.run_end(start + length + next_length, is_letter);
        }
        let after_space = start + usize::from(self.bytes[start] == b' ');
        if is_other(class) || (after_space > start && is_other(next_class)) {
            let mut end = self.run_end(after_space, is_other);
            while matches!(self.bytes.get(end), Some(b'\r' | b'\n')) {
                end += 1;
            }
            return end;
        }
        // White space: up to the last line break in it, or all but the last character before a word.
        let (mut end, mut last, mut after_break) = (start, start, None);
        loop {
            let (class, length) = self.class_at(end);
            if class != SPACE {
                break;
            }
            last = end;
            end += length;
            if matches!(self.bytes[last], b'\r' | b'\n') {
                after_break = Some(end);
            }
        }
        after_break.unwrap_or(if end == self.bytes.len() || last == start { end } else { last })
    }

    /// End of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d` in any case; `start` if there is none.
    fn contraction_end(&self, start: usize) -> usize {
        let at = |offset: usize| self.bytes.get(start + offset).map(u8::to_ascii_lowercase);
        match (at(1), at(2)) {
            (Some(b's' | b't' | b'm' | b'd'), _) => start + 2,
            // The last one is ſ (U+017F), an s where case does not count.
            (Some(b'r' | b'v'), Some(b'e'))
            | (Some(b'l'), Some(b'l'))
            | (Some(0xC5), Some(0xBF)) => start + 3,
            _ => start,
        }
    }

    /// End of the word at `start` for GPT-2.
    fn gpt2_word_end(&self, start: usize) -> usize {
        if self.bytes[start] == b'\'' {
            match (self.bytes.get(start + 1), self.bytes.get(start + 2)) {
                (Some(b's' | b't' | b'm' | b'd'), _) => return start + 2,
                (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => return start + 3,
                _ => {}
            }
        }
        let plain = |class: u8| if class == MARK { OTHER } else { class };
        let (class, length) = self.class_at(start);
        let (next_class, _) = self.class_at(start + length);
        let (word, from) = if class != SPACE {
            (plain(class), start)
        } else if self.bytes[start] == b' ' {
            (plain(next_class), start + 1)
        } else {
            (SPACE, start)
        };
        if word != SPACE && word != END {
            return self.run_end(from, |class| plain(class) == word);
        }
        let (mut end, mut last) = (start, start);
        loop {
            let (class, length) = self.class_at(end);
            if class != SPACE {
                break;
            }
            last = end;
            end += length;
        }
        if end == self.bytes.len() || last == start { end } else { last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;
    use proptest::prelude::*;

    fn by_regex(split: PreSplit, text: &str) -> Vec<String> {
        let regex = Regex::new(split.regex()).unwrap();
        regex.find_iter(text).map(|found| found.unwrap().as_str().to_owned()).collect()
    }

    fn check(split: PreSplit, text: &str) {
        let words: Vec<&str> = split.split(text).collect();
        assert_eq!(words, by_regex(split, text), "{split:?} {text:?}");
    }

    fn check_words(text: &str, expect: &[&str]) {
        assert_eq!(PreSplit::Qwen35.split(text).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn the_class_table_is_the_one_of_the_regex_crate() {
        let classes = [r"\p{L}", r"\p{M}", r"\p{N}", r"\s"].map(|e| Regex::new(e).unwrap());
        for character in '\0'..=char::MAX {
            let text = character.to_string();
            let expect = classes
                .iter()
                .position(|class| class.is_match(&text).unwrap())
                .map_or(OTHER, |at| at as u8 + 1);
            assert_eq!(class_of(character), expect, "{character:?}");
            if character.is_ascii() {
                assert_eq!(ASCII[character as usize], expect);
            }
        }
    }

    #[test]
    fn combining_letters_of_guarani_stay_whole() {
        check_words("Ag\u{303}uyje g\u{303}uahe", &["Ag\u{303}uyje", " g\u{303}uahe"]);
        check_words(
            "kuña mba’e 2024\n\n¡Rimay!",
            &["kuña", " mba", "’e", " ", "2", "0", "2", "4", "\n\n", "¡Rimay", "!"],
        );
    }

    #[test]
    fn real_sentences_are_cut_as_the_expression_says() {
        let texts = [
            "Ñande rekoháre ag\u{303}uyjevete, ỹ, pỹtũ; oñe'ẽ'akue.\r\n\tTetã  Paraguái ",
            "Runasimi: ñuqaykuqa p'isqukunata qhawani, ch'aska-ñawi; 'S  't 'LL 'ſx '´",
            "Não há informação; d'água — 1.234,56 R$ às 10h30 (coração)…\n\n\n  fim   \n ",
            "I'll we've DON'T o'RE\u{a0}x \u{2003}\u{2003}y \u{3000}\n\u{85}z ",
            "  \r\n  \u{301}a \u{301}\u{302}! ½²③ ٣٤٥٦ 한국어 日本語。 '\u{301}s 👩\u{200d}🌾 \0\u{1f}",
            "",
            " ",
            "  ",
            "\n",
            " \n ",
            "\r\n\r\n",
            "a",
            " a",
            "'",
            "''s",
            "'s's",
            "123456 7",
        ];
        for split in PreSplit::ALL {
            for text in texts {
                check(split, text);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn arbitrary_unicode_is_cut_as_the_expression_says(text in "\\PC{0,40}|(?s:.{0,40})") {
            for split in PreSplit::ALL {
                check(split, &text);
            }
        }

        #[test]
        fn what_the_expression_cares_about_is_cut_as_it_says(
            text in "([ \t\r\n\u{a0}'sStTlLrReEvVdDmM\u{303}ñ\u{17f}\u{345}09²,.¡\u{2028}g]|  | \n){0,24}"
        ) {
            for split in PreSplit::ALL {
                check(split, &text);
            }
        }
    }
}

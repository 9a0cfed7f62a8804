//! Tokenizers whose tokens are pieces of text: SentencePiece's BPE and Unigram, and WordPiece.
//!
//! Text is normalised, cut into words, and each word is segmented; characters without a piece become
//! bytes where the vocabulary has them, else the unknown token. It knows nothing of files.

use crate::{
    bert_classes::PUNCTUATION,
    bpe::{MergeTable, WordCache},
    fast_hash::FastMap,
    normalizer::{Normalizer, is_in},
    trie::Trie,
    unigram::{Part, Unigram},
    word_piece::WordPiece,
    words::{META_SPACE, is_one_word, words},
};

/// How text is cut into words before it is segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cutter {
    /// Spaces become ▁, which is also put before texts, and may begin a word.
    MetaSpace { prepend: Prepend, split: bool },
    /// White space goes, punctuation stands alone (BERT).
    Bert,
    /// White space goes.
    WhiteSpace,
}

/// Where ▁ is put before a text that does not begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepend {
    Always,
    /// Only at the beginning of the whole text, not after an added token.
    First,
    Never,
}

/// How a word becomes pieces.
#[derive(Debug, Clone)]
pub(crate) enum Algorithm {
    Bpe(CharacterMerges),
    Unigram(Unigram),
    WordPiece(WordPiece),
}

/// How ids become text again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// The bytes of the tokens.
    Plain,
    /// The same without the space that was put before the text.
    DropSpace,
    /// Words of WordPiece, with the spaces before punctuation taken away if asked.
    WordPiece { clean: bool },
}

/// Everything between normalised text and ids.
#[derive(Debug, Clone)]
pub(crate) struct PieceModel {
    pub(crate) normalizer: Normalizer,
    pub(crate) cutters: Vec<Cutter>,
    pub(crate) algorithm: Algorithm,
    pub(crate) unknown: Option<u32>,
    /// Unknown characters side by side give one unknown token.
    pub(crate) fuse_unknown: bool,
    /// Tokens of the 256 bytes, for characters without a piece.
    pub(crate) byte_ids: Option<Box<[u32; 256]>>,
    pub(crate) joining: Joining,
}

/// Merges over characters.
#[derive(Debug, Clone)]
pub(crate) struct CharacterMerges {
    table: MergeTable,
    symbols: FastMap<char, u32>,
    /// Whole words that are not merged (`ignore_merges`).
    words: FastMap<String, u32>,
    /// User-defined pieces of SentencePiece, which are cut out of normalised text first.
    fixed: Trie,
    fixed_ids: Vec<u32>,
    /// No piece has ▁ behind another character, so words can be merged one by one.
    words_are_apart: bool,
}

/// Symbols from here on are characters without a piece: this plus the code point.
const FIRST_UNKNOWN: u32 = 1 << 30;

/// The symbol of a character without a piece, for merges that need one.
pub(crate) fn unknown_symbol(character: char) -> u32 {
    FIRST_UNKNOWN + character as u32
}

impl CharacterMerges {
    /// Makes the tables. `pieces` are what text can become; `merges` are (left, right, merged) with
    /// ranks, equal ranks merging leftmost first.
    pub(crate) fn new(
        pieces: &FastMap<String, u32>,
        merges: &[(u32, (u32, u32, u32))],
        ignore_merges: bool,
        mut fixed: Vec<(String, u32)>,
    ) -> Self {
        let single = |text: &str| {
            let mut characters = text.chars();
            characters.next().filter(|_| characters.next().is_none())
        };
        let symbols = pieces
            .iter()
            .filter_map(|(text, &id)| Some((single(text)?, id)))
            .collect::<FastMap<_, _>>();
        fixed.sort();
        fixed.dedup_by(|a, b| a.0 == b.0);
        let meta = META_SPACE.chars().next().expect("it is one character");
        Self {
            table: MergeTable::new(merges.iter().copied()),
            words_are_apart: pieces.keys().all(|text| is_one_word(text))
                && symbols.contains_key(&meta)
                && !ignore_merges,
            fixed: Trie::new(&fixed.iter().map(|(text, _)| text.as_bytes()).collect::<Vec<_>>()),
            fixed_ids: fixed.into_iter().map(|(_, id)| id).collect(),
            words: if ignore_merges { pieces.clone() } else { FastMap::default() },
            symbols,
        }
    }
}

impl CharacterMerges {
    /// Calls `word` with what can be merged alone, and appends user-defined pieces.
    fn cut(&self, text: &str, ids: &mut Vec<u32>, word: &mut dyn FnMut(&str, &mut Vec<u32>)) {
        if self.fixed_ids.is_empty() {
            return self.cut_words(text, ids, word);
        }
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let mut found = None;
            self.fixed
                .prefixes(&text.as_bytes()[at..], |length, index| found = Some((length, index)));
            let Some((length, index)) = found else {
                at = text.ceil_char_boundary(at + 1);
                continue;
            };
            self.cut_words(&text[start..at], ids, word);
            ids.push(self.fixed_ids[index as usize]);
            at += length;
            start = at;
        }
        self.cut_words(&text[start..], ids, word);
    }

    fn cut_words(&self, text: &str, ids: &mut Vec<u32>, word: &mut dyn FnMut(&str, &mut Vec<u32>)) {
        if !self.words_are_apart {
            if !text.is_empty() {
                word(text, ids);
            }
            return;
        }
        words(text, &mut |part| word(part, ids));
    }
}

impl PieceModel {
    /// Appends the ids of normalised text; `at_start` says whether it begins the whole text.
    pub(crate) fn encode(
        &self,
        text: &str,
        at_start: bool,
        cache: &mut WordCache,
        ids: &mut Vec<u32>,
    ) {
        cut(&self.cutters, text, at_start, &mut |word| self.encode_word(word, cache, ids));
    }

    fn encode_word(&self, word: &str, cache: &mut WordCache, ids: &mut Vec<u32>) {
        match &self.algorithm {
            Algorithm::Bpe(merges) => merges.cut(word, ids, &mut |word, ids| {
                cache.encode(word.as_bytes(), ids, |_, ids| self.merge_word(merges, word, ids));
            }),
            Algorithm::Unigram(unigram) => {
                let mut after_unknown = false;
                unigram.encode(word, cache, &mut |part| {
                    match part {
                        Part::Pieces(pieces) => ids.extend_from_slice(pieces),
                        Part::Unknown(text) => self.push_unknown(text, after_unknown, ids),
                    }
                    after_unknown = matches!(part, Part::Unknown(_));
                });
            }
            Algorithm::WordPiece(pieces) => {
                if !pieces.encode_word(word, ids) {
                    ids.extend(self.unknown);
                }
            }
        }
    }

    fn merge_word(&self, merges: &CharacterMerges, word: &str, ids: &mut Vec<u32>) {
        if let Some(&id) = merges.words.get(word) {
            ids.push(id);
            return;
        }
        let symbol = |c: char| merges.symbols.get(&c).copied().unwrap_or_else(|| unknown_symbol(c));
        let mut merged = Vec::new();
        merges.table.merge(word.chars().map(symbol).collect(), &mut merged);
        let mut after_unknown = false;
        for symbol in merged {
            let unknown = symbol.checked_sub(FIRST_UNKNOWN).and_then(char::from_u32);
            match unknown {
                None => ids.push(symbol),
                Some(character) => {
                    self.push_unknown(character.encode_utf8(&mut [0; 4]), after_unknown, ids);
                }
            }
            after_unknown = unknown.is_some();
        }
    }

    fn push_unknown(&self, text: &str, after_unknown: bool, ids: &mut Vec<u32>) {
        match (&self.byte_ids, self.unknown) {
            (Some(byte_ids), _) => {
                ids.extend(text.bytes().map(|byte| byte_ids[usize::from(byte)]));
            }
            (None, Some(id)) if !(after_unknown && self.fuse_unknown) => ids.push(id),
            _ => {}
        }
    }
}

/// Cuts `text` by the first of `cutters`, its words by the next, and so on.
fn cut(cutters: &[Cutter], text: &str, at_start: bool, word: &mut dyn FnMut(&str)) {
    let Some((first, rest)) = cutters.split_first() else {
        if !text.is_empty() {
            word(text);
        }
        return;
    };
    let mut next = |part: &str, at_start: bool| cut(rest, part, at_start, word);
    match *first {
        Cutter::MetaSpace { prepend, split } => {
            let mut spaced = text.replace(' ', META_SPACE);
            let wanted = match prepend {
                Prepend::Always => true,
                Prepend::First => at_start,
                Prepend::Never => false,
            };
            if wanted && !spaced.starts_with(META_SPACE) {
                spaced.insert_str(0, META_SPACE);
            }
            if !split {
                return next(&spaced, at_start);
            }
            let mut start = 0;
            for (at, _) in spaced.match_indices(META_SPACE).filter(|(at, _)| *at > 0) {
                next(&spaced[start..at], at_start && start == 0);
                start = at;
            }
            next(&spaced[start..], at_start && start == 0);
        }
        Cutter::WhiteSpace => {
            let mut start = 0;
            for part in text.split(char::is_whitespace) {
                if !part.is_empty() {
                    next(part, at_start && start == 0);
                }
                start += part.len() + 1;
            }
        }
        Cutter::Bert => {
            for part in text.split(char::is_whitespace) {
                let mut start = 0;
                for (at, mark) in part.match_indices(is_punctuation) {
                    for part in [&part[start..at], mark] {
                        if !part.is_empty() {
                            next(part, false);
                        }
                    }
                    start = at + mark.len();
                }
                if start < part.len() {
                    next(&part[start..], false);
                }
            }
        }
    }
}

fn is_punctuation(character: char) -> bool {
    is_in(PUNCTUATION, character)
}

/// Spaces that cleaning takes away, with what stays (Hugging Face's `cleanup`).
const CLEANED: [(&str, &str); 11] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

impl Joining {
    /// Joins the bytes of tokens; `true` marks an added token.
    pub(crate) fn join<'a>(self, tokens: impl Iterator<Item = (&'a [u8], bool)>) -> Vec<u8> {
        let mut joined: Vec<u8> = Vec::new();
        for (index, (bytes, added)) in tokens.enumerate() {
            let first = index == 0;
            match self {
                Self::DropSpace if first && !added => {
                    joined.extend_from_slice(bytes.strip_prefix(b" ").unwrap_or(bytes));
                }
                Self::WordPiece { .. } if added && !first => {
                    joined.push(b' ');
                    joined.extend_from_slice(bytes);
                }
                Self::WordPiece { .. } if first => {
                    joined.extend_from_slice(bytes.strip_prefix(b" ").unwrap_or(bytes));
                }
                Self::WordPiece { clean: true } if bytes.first() == Some(&b' ') => {
                    let mut text = String::from_utf8_lossy(bytes).into_owned();
                    for (from, to) in CLEANED {
                        text = text.replace(from, to);
                    }
                    joined.extend_from_slice(text.as_bytes());
                }
                _ => joined.extend_from_slice(bytes),
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cutters: &[Cutter], text: &str, expect: &[&str]) {
        let mut words = Vec::new();
        cut(cutters, text, true, &mut |word| words.push(word.to_owned()));
        assert_eq!(words, expect, "{cutters:?}");
    }

    #[test]
    fn text_is_cut_into_words() {
        let meta = |prepend, split| Cutter::MetaSpace { prepend, split };
        check(&[meta(Prepend::Always, true)], "a  bc", &["▁a", "▁", "▁bc"]);
        check(&[meta(Prepend::Always, false)], " a b", &["▁a▁b"]);
        check(&[meta(Prepend::Never, true)], "a b", &["a", "▁b"]);
        check(&[Cutter::WhiteSpace, meta(Prepend::First, true)], "a b", &["▁a", "b"]);
        check(
            &[Cutter::Bert],
            " ¡Hola, qué-tal!  a",
            &["¡", "Hola", ",", "qué", "-", "tal", "!", "a"],
        );
        check(&[], "a b", &["a b"]);
    }

    #[test]
    fn tokens_are_joined() {
        let check = |joining: Joining, tokens: &[(&str, bool)], expect: &str| {
            let bytes = tokens.iter().map(|(text, added)| (text.as_bytes(), *added));
            assert_eq!(String::from_utf8(joining.join(bytes)).unwrap(), expect);
        };
        check(Joining::DropSpace, &[(" a", false), (" b", false)], "a b");
        check(Joining::DropSpace, &[("<s>", true), (" a", false)], "<s> a");
        let clean = Joining::WordPiece { clean: true };
        let tokens =
            [("[CLS]", true), (" ho", false), ("la", false), (" .", false), ("[SEP]", true)];
        check(clean, &tokens, "[CLS] hola. [SEP]");
    }
}

//! Words as 64-bit numbers: what shingles, n-gram indexes and other comparisons of texts are made
//! of, at a speed at which reading the text is the larger part.
//!
//! [`word_hashes`] cuts as [`crate::words`] does, folds as [`crate::normalise::fold_word`] does and
//! hashes in one walk: ASCII words go eight bytes at a time (`| 0x20` is lower case for letters and
//! changes no digit), letters up to U+07FF through a table, the rest by the slow functions. Values
//! are the same on every machine and in every version. It knows no documents.

use std::{ops::Range, sync::LazyLock};

use milpa_base::seed::splitmix64;

use crate::segment::{is_apostrophe, is_word_char};

/// Multiplier of the polynomial over words; odd, so that no word is lost modulo 2^64.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// A 64-bit hash of a string.
pub fn word_hash(word: &str) -> u64 {
    let mut hash = word.len() as u64;
    for chunk in word.as_bytes().chunks(8) {
        hash = splitmix64(hash ^ little_endian(chunk));
    }
    hash
}

/// A word of a text: the hash of its folded form, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedWord {
    /// Equal for words that are equal in lower case with one kind of apostrophe.
    pub hash: u64,
    /// Offset of its first byte.
    pub start: usize,
    /// Offset behind its last byte.
    pub end: usize,
}

impl HashedWord {
    /// Its bytes in the text.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Iterates over the hashed words of `text`.
///
/// ```
/// let hashes = |text| milpa_text::word_hashes(text).map(|word| word.hash).collect::<Vec<_>>();
/// assert_eq!(hashes("El Río,  crece."), hashes("el río crece"));
/// assert_ne!(hashes("el rio crece"), hashes("el río crece"));
/// ```
pub fn word_hashes(text: &str) -> WordHashes<'_> {
    WordHashes { text, at: 0, folded: Vec::with_capacity(64), table: &TWO_BYTES }
}

/// Iterator made by [`word_hashes`].
#[derive(Debug, Clone)]
pub struct WordHashes<'a> {
    text: &'a str,
    at: usize,
    folded: Vec<u8>,
    table: &'static [u16; TABLE_LEN],
}

impl Iterator for WordHashes<'_> {
    type Item = HashedWord;

    #[inline]
    fn next(&mut self) -> Option<HashedWord> {
        let bytes = self.text.as_bytes();
        let mut start = self.at;
        loop {
            match CLASSES[*bytes.get(start)? as usize] {
                WORD => break,
                OTHER => {
                    let c = self.char_at(start);
                    if is_word_char(c) {
                        break;
                    }
                    start += c.len_utf8();
                }
                _ => start += 1,
            }
        }
        let mut end = start;
        while end < bytes.len() && CLASSES[bytes[end] as usize] == WORD {
            end += 1;
        }
        let plain = bytes.get(end).is_none_or(|&next| CLASSES[next as usize] == SPACE);
        let hash = if plain {
            ascii_hash(bytes, start, end)
        } else {
            self.folded.clear();
            end = self.fold_from(start);
            folded_hash(&self.folded)
        };
        self.at = end;
        Some(HashedWord { hash, start, end })
    }
}

impl WordHashes<'_> {
    fn char_at(&self, at: usize) -> char {
        self.text[at..].chars().next().expect("a text goes on here")
    }

    /// Folds the word that begins at `start`, with any characters, and returns where it ends.
    fn fold_from(&mut self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = start;
        while let Some(&byte) = bytes.get(at) {
            match CLASSES[byte as usize] {
                WORD => {
                    self.folded.push(byte.to_ascii_lowercase());
                    at += 1;
                }
                SPACE => break,
                _ => {
                    if (0xC0..0xE0).contains(&byte) {
                        let code = usize::from(byte & 31) << 6 | usize::from(bytes[at + 1] & 63);
                        let entry = self.table[code];
                        if (0x80..0x800).contains(&entry) {
                            let pair = [0xC0 | (entry >> 6) as u8, 0x80 | (entry & 63) as u8];
                            self.folded.extend(pair);
                            at += 2;
                            continue;
                        }
                    }
                    let c = self.char_at(at);
                    let after = at + c.len_utf8();
                    let joins = is_apostrophe(c)
                        && self.text[after..].chars().next().is_some_and(is_word_char);
                    if joins {
                        self.folded.push(b'\'');
                    } else if is_word_char(c) && !is_apostrophe(c) {
                        for lower in c.to_lowercase() {
                            self.folded.extend(lower.encode_utf8(&mut [0; 4]).bytes());
                        }
                    } else if is_word_char(c) {
                        // A letter that is written for a glottal stop, at the end of a word.
                        self.folded.push(b'\'');
                    } else {
                        break;
                    }
                    at = after;
                }
            }
        }
        at
    }
}

/// Makes of word hashes, in place, the hashes of the runs of `length` words: a polynomial over the
/// words modulo 2^64, mixed. Fewer words than `length` make one run; no word makes none.
pub fn runs_of_words(hashes: &mut Vec<u64>, length: usize) {
    let length = length.clamp(1, hashes.len().max(1));
    if hashes.is_empty() {
        return;
    }
    let highest = (0..length).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let mut rolling =
        hashes[..length].iter().fold(0u64, |sum, &word| sum.wrapping_mul(BASE).wrapping_add(word));
    let runs = hashes.len() + 1 - length;
    for at in 0..runs {
        let leaving = hashes[at];
        hashes[at] = splitmix64(rolling);
        if let Some(&entering) = hashes.get(at + length) {
            rolling = rolling
                .wrapping_mul(BASE)
                .wrapping_add(entering)
                .wrapping_sub(leaving.wrapping_mul(highest));
        }
    }
    hashes.truncate(runs);
}

/// What a byte can be.
const SPACE: u8 = 0;
const WORD: u8 = 1;
/// An apostrophe, or part of a character beyond ASCII.
const OTHER: u8 = 2;

const CLASSES: [u8; 256] = {
    let mut classes = [SPACE; 256];
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_alphanumeric() {
            classes[byte] = WORD;
        } else if byte >= 0x80 || byte as u8 == b'\'' || byte as u8 == b'`' {
            classes[byte] = OTHER;
        }
        byte += 1;
    }
    classes
};

const TABLE_LEN: usize = 0x800;

/// For characters of two bytes that are letters, digits or marks and whose lower case is one
/// character of two bytes: that one. 0 for all others.
static TWO_BYTES: LazyLock<[u16; TABLE_LEN]> = LazyLock::new(|| {
    std::array::from_fn(|code| {
        let Some(c) = char::from_u32(code as u32).filter(|&c| is_word_char(c)) else { return 0 };
        let mut lower = c.to_lowercase();
        match (lower.next(), lower.next()) {
            (Some(one), None) if one.len_utf8() == 2 && !is_apostrophe(c) => one as u16,
            _ => 0,
        }
    })
});

/// Hash of the ASCII letters and digits `bytes[start..end]` in lower case.
#[inline]
fn ascii_hash(bytes: &[u8], start: usize, end: usize) -> u64 {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    let mut hash = (end - start) as u64;
    let mut at = start;
    while at < end {
        let len = (end - at).min(8);
        let chunk = match bytes.get(at..at + 8) {
            Some(eight) => {
                let eight: [u8; 8] = eight.try_into().expect("eight bytes");
                u64::from_le_bytes(eight) | LOWER
            }
            None => little_endian(&bytes[at..end]) | LOWER,
        };
        hash = mix(hash, chunk & (u64::MAX >> (64 - 8 * len)));
        at += 8;
    }
    hash
}

/// Hash of a word that is folded already.
fn folded_hash(word: &[u8]) -> u64 {
    word.chunks(8).fold(word.len() as u64, |hash, chunk| mix(hash, little_endian(chunk)))
}

fn little_endian(chunk: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..chunk.len()].copy_from_slice(chunk);
    u64::from_le_bytes(bytes)
}

/// Mixes a chunk into a hash by one product of twice the width, folded.
#[inline]
fn mix(hash: u64, chunk: u64) -> u64 {
    folded_product(chunk ^ 0xA076_1D64_78BD_642F, hash ^ 0xE703_7ED1_A0B4_28DB)
}

/// The upper half of the 128-bit product, xor the lower.
#[inline]
pub(crate) fn folded_product(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{normalise::fold_word, segment::words};
    use proptest::prelude::*;

    /// The same by the readable functions.
    fn slowly(text: &str) -> Vec<(u64, usize, usize)> {
        let mut folded = String::new();
        words(text)
            .map(|word| {
                fold_word(word, &mut folded);
                let start = word.as_ptr() as usize - text.as_ptr() as usize;
                (folded_hash(folded.as_bytes()), start, start + word.len())
            })
            .collect()
    }

    fn check(text: &str) {
        let found: Vec<_> = word_hashes(text).map(|w| (w.hash, w.start, w.end)).collect();
        assert_eq!(found, slowly(text), "{text:?}");
    }

    #[test]
    fn the_fast_walk_equals_the_readable_one() {
        for text in [
            "",
            " — ",
            "El Río,  CRECE. 1234567890123 abcdefgh ABCDEFGHI",
            "ñe'ẽ Ñe’Ẽ 'hola' x' d’água l`or ha\u{2bc}e ko\u{2bc}",
            "g\u{303}uahẽ İstanbul ǅ ß ẞ ΑΣ Ⅷ ١٢ 漢字 \u{301}a a\u{301}",
            "fin",
            "á",
        ] {
            check(text);
        }
    }

    #[test]
    fn every_character_is_treated_as_by_the_readable_functions() {
        for c in (0..0x3000).filter_map(char::from_u32) {
            check(&format!("{c} a{c} a{c}b {c}B á{c}É"));
        }
    }

    #[test]
    fn runs_are_told_by_their_words_and_their_order() {
        let runs = |text: &str, length| {
            let mut hashes: Vec<u64> = word_hashes(text).map(|word| word.hash).collect();
            runs_of_words(&mut hashes, length);
            hashes
        };
        let text = "uno dos tres uno dos cuatro";
        assert_eq!(runs(text, 2).len(), 5);
        assert_eq!(runs(text, 2)[0], runs(text, 2)[3]);
        assert_eq!(runs(text, 3)[1], runs("Dos, tres: uno", 3)[0]);
        assert_ne!(runs("uno dos", 2), runs("dos uno", 2));
        assert_eq!(runs("uno dos", 5), runs("uno dos", 2));
        assert!(runs("", 5).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_cut_and_folded_alike(text in "(\\PC{0,4}[a-zA-Z0-9'’ ]{0,9}[áÑẽ\u{303}]{0,2}){0,9}") {
            check(&text);
        }
    }
}

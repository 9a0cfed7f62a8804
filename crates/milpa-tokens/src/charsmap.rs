//! SentencePiece's precompiled map of characters: a double-array trie over UTF-8 and the texts that
//! its keys are replaced by.
//!
//! Layout: the trie's length in bytes as u32, its units as little-endian u32 (darts-clone: an offset
//! to the children, the label of the edge, or a value), then the replacements, each ended by a zero
//! byte. Maps come from outside: every index is checked and replacements are bounded. It knows
//! nothing of white space and dummy prefixes.

use std::ops::Range;

/// Longest map that is read: twenty times that of `nmt_nfkc_cf`.
const MAX_BYTES: usize = 8 << 20;
/// Longest replacement: eight times the longest of NFKC. It bounds how much a text can grow.
const MAX_REPLACEMENT: usize = 256;
/// Longest key that is followed.
const MAX_KEY: usize = 256;

/// A map of characters; empty where nothing is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CharsMap {
    blob: Vec<u8>,
    units: Vec<u32>,
    replacements: Range<usize>,
}

impl CharsMap {
    /// Reads a map.
    pub(crate) fn read(blob: Vec<u8>) -> Result<Self, String> {
        let bad = |message: &str| Err(format!("the precompiled character map {message}"));
        if blob.is_empty() {
            return Ok(Self::default());
        }
        if blob.len() > MAX_BYTES {
            return bad("has more than 8 MiB");
        }
        let Some((head, rest)) = blob.split_first_chunk::<4>() else {
            return bad("is cut off");
        };
        let trie_bytes = u32::from_le_bytes(*head) as usize;
        let Some((trie, texts)) = rest.split_at_checked(trie_bytes) else {
            return bad("is shorter than its trie");
        };
        if trie.is_empty() || trie.len() % 4 != 0 {
            return bad("has a trie of no whole units");
        }
        if std::str::from_utf8(texts).is_err() {
            return bad("replaces by what is not UTF-8");
        }
        if texts.split(|&byte| byte == 0).any(|text| text.len() > MAX_REPLACEMENT) {
            return bad("replaces a character by more than 256 bytes");
        }
        let units = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let replacements = 4 + trie_bytes..blob.len();
        Ok(Self { blob, units, replacements })
    }

    /// The longest key that `text` begins with: its length and its replacement.
    pub(crate) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        self.matches(text).last().and_then(|found| self.resolve(found))
    }

    /// As [`CharsMap::longest`] for the shortest key, which Hugging Face takes for a grapheme.
    pub(crate) fn shortest(&self, text: &str) -> Option<(usize, &str)> {
        self.matches(text).next().and_then(|found| self.resolve(found))
    }

    fn resolve(&self, (length, value): (usize, u32)) -> Option<(usize, &str)> {
        let texts = std::str::from_utf8(&self.blob[self.replacements.clone()]).ok()?;
        let rest = texts.get(value as usize..)?;
        Some((length, rest.split('\0').next().unwrap_or_default()))
    }

    /// Lengths and values of the keys that `text` begins with, shortest first.
    fn matches<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, u32)> + 'a {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut bytes = text.bytes().take(MAX_KEY).enumerate();
        let mut place = self.units.first().map(|&unit| offset(unit));
        std::iter::from_fn(move || {
            loop {
                let (index, byte) = bytes.next()?;
                let at = place? ^ usize::from(byte);
                let unit = *self.units.get(at)?;
                if unit & ((1 << 31) | 0xFF) != u32::from(byte) {
                    place = None;
                    return None;
                }
                let children = at ^ offset(unit);
                place = Some(children);
                if unit >> 8 & 1 == 1 {
                    let value = self.units.get(children)? & ((1 << 31) - 1);
                    return Some((index + 1, value));
                }
            }
        })
        .filter(|(length, _)| text.is_char_boundary(*length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie with the one key `A`, replaced by `bc`.
    fn one_key() -> Vec<u8> {
        let mut units = vec![0u32; 512];
        // The root's children lie at 256 ^ label, the value at (256 ^ label) ^ 1.
        units[0] = 256 << 10;
        units[256 ^ 0x41] = 1 << 10 | 1 << 8 | 0x41;
        units[(256 ^ 0x41) ^ 1] = 1 << 31 | 1;
        let mut blob = 2048u32.to_le_bytes().to_vec();
        blob.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        blob.extend(b"\0bc\0");
        blob
    }

    #[test]
    fn keys_are_replaced() {
        let map = CharsMap::read(one_key()).unwrap();
        assert_eq!(map.longest("Ab"), Some((1, "bc")));
        assert_eq!(map.shortest("A"), Some((1, "bc")));
        assert_eq!(map.longest("bA"), None);
        assert_eq!(CharsMap::default().longest("A"), None);
    }

    #[test]
    fn damaged_maps_are_refused_or_find_nothing() {
        let check = |blob: &[u8], expect: &str| {
            let error = CharsMap::read(blob.to_vec()).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        check(b"abc", "cut off");
        check(&[255, 255, 255, 255, 1], "shorter");
        check(&[3, 0, 0, 0, 1, 2, 3], "whole units");
        check(&[4, 0, 0, 0, 1, 2, 3, 4, 0xFF], "UTF-8");
        let mut long = one_key();
        long.extend([b'x'; 300]);
        check(&long, "256 bytes");
        for seed in 0..200u32 {
            let noise = (0..64u32).flat_map(|n| {
                (seed.wrapping_mul(0x9E37_79B9) ^ n.wrapping_mul(0x85EB_CA6B))
                    .rotate_left(n)
                    .to_le_bytes()
            });
            let mut blob = 256u32.to_le_bytes().to_vec();
            blob.extend(noise);
            blob.extend(b"\0x\0");
            let map = CharsMap::read(blob).unwrap();
            for text in ["a", "ñandu", "\u{10FFFF}日本", ""] {
                assert!(map.longest(text).is_none_or(|(length, _)| text.is_char_boundary(length)));
            }
        }
    }
}

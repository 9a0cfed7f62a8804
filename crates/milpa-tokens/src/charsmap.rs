//! SentencePiece's precompiled map of characters: a double-array trie over UTF-8 and the texts that
//! its keys are replaced by.
//!
//! Layout: the trie's length in bytes as u32, its units as little-endian u32 (darts-clone: an offset
//! to the children, the label of the edge, or a value), then the replacements, each ended by a zero
//! byte. Maps come from outside: every index is checked and replacements are bounded. It knows
//! nothing of white space and dummy prefixes.
//!
//! Most characters of a text stay as they are. A table of the characters of one and two bytes says
//! so without a walk through the trie.

/// Longest map that is read: twenty times that of `nmt_nfkc_cf`.
const MAX_BYTES: usize = 8 << 20;
/// Longest replacement: eight times the longest of NFKC. It bounds how much a text can grow.
const MAX_REPLACEMENT: usize = 256;
/// Longest key that is followed.
const MAX_KEY: usize = 256;

/// Characters below this code have one or two bytes.
const TABLED: usize = 0x800;

/// A map of characters; empty where nothing is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CharsMap {
    units: Vec<u32>,
    /// Each ended by a zero byte.
    replacements: String,
    /// By character: what keys say of it.
    uses: Box<[Use; TABLED]>,
    /// Bytes that follow such a character in a key.
    following: [bool; 256],
}

/// What keys say of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// No key begins with it.
    None,
    /// Longer keys begin with it.
    Prefix,
    /// It is a key.
    Key,
}

impl Default for CharsMap {
    fn default() -> Self {
        Self {
            units: Vec::new(),
            replacements: String::new(),
            uses: Box::new([Use::None; TABLED]),
            following: [false; 256],
        }
    }
}

impl CharsMap {
    /// Reads a map.
    pub(crate) fn read(blob: &[u8]) -> Result<Self, String> {
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
        let Ok(replacements) = std::str::from_utf8(texts) else {
            return bad("replaces by what is not UTF-8");
        };
        if texts.split(|&byte| byte == 0).any(|text| text.len() > MAX_REPLACEMENT) {
            return bad("replaces a character by more than 256 bytes");
        }
        let units = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let mut map = Self { units, replacements: replacements.to_owned(), ..Self::default() };
        map.fill_table();
        Ok(map)
    }

    fn fill_table(&mut self) {
        for code in 0..TABLED {
            let character = char::from_u32(code as u32).expect("surrogates lie above");
            let mut buffer = [0; 4];
            let text = &*character.encode_utf8(&mut buffer);
            let mut children = self.root();
            for byte in text.bytes() {
                children =
                    children.and_then(|place| self.child(place, byte)).map(|(place, _)| place);
            }
            let Some(children) = children else { continue };
            self.uses[code] = Use::Prefix;
            if self.shortest(text).is_some() {
                self.uses[code] = Use::Key;
            }
            for byte in 0..=255 {
                self.following[usize::from(byte)] |= self.child(children, byte).is_some();
            }
        }
    }

    /// The length of the character at `at` if it is surely in no key there; 0 if it may be.
    #[inline]
    pub(crate) fn untouched(&self, text: &str, at: usize) -> usize {
        let (length, found) = self.used(text, at);
        let bytes = text.as_bytes();
        let follows =
            || bytes.get(at + length).is_some_and(|&byte| self.following[usize::from(byte)]);
        match found {
            Use::None => length,
            Use::Prefix if !follows() => length,
            _ => 0,
        }
    }

    /// As [`CharsMap::untouched`] for the character alone.
    #[inline]
    pub(crate) fn untouched_alone(&self, text: &str, at: usize) -> usize {
        let (length, found) = self.used(text, at);
        if found == Use::Key { 0 } else { length }
    }

    /// Length and use of a character; longer ones than two bytes count as keys.
    #[inline]
    fn used(&self, text: &str, at: usize) -> (usize, Use) {
        match text.as_bytes()[at..] {
            [byte @ ..0x80, ..] => (1, self.uses[usize::from(byte)]),
            [first @ ..0xE0, second, ..] => {
                let code = usize::from(first & 0x1F) << 6 | usize::from(second & 0x3F);
                (2, self.uses[code])
            }
            _ => (0, Use::Key),
        }
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
        let rest = self.replacements.get(value as usize..)?;
        Some((length, rest.split('\0').next().unwrap_or_default()))
    }

    /// Lengths and values of the keys that `text` begins with, shortest first.
    fn matches<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut bytes = text.bytes().take(MAX_KEY).enumerate();
        let mut place = self.root();
        std::iter::from_fn(move || {
            loop {
                let (index, byte) = bytes.next()?;
                let (children, has_value) = self.child(place?, byte).or_else(|| {
                    place = None;
                    None
                })?;
                place = Some(children);
                if has_value {
                    let value = self.units.get(children)? & ((1 << 31) - 1);
                    return Some((index + 1, value));
                }
            }
        })
        .filter(|(length, _)| text.is_char_boundary(*length))
    }

    /// Where the children of the root lie.
    fn root(&self) -> Option<usize> {
        self.units.first().map(|&unit| offset(unit))
    }

    /// Follows an edge: where the children lie, and whether a key ends there.
    fn child(&self, place: usize, byte: u8) -> Option<(usize, bool)> {
        let at = place ^ usize::from(byte);
        let unit = *self.units.get(at)?;
        let fits = unit & ((1 << 31) | 0xFF) == u32::from(byte);
        fits.then(|| (at ^ offset(unit), unit >> 8 & 1 == 1))
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
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
        let map = CharsMap::read(&one_key()).unwrap();
        assert_eq!(map.longest("Ab"), Some((1, "bc")));
        assert_eq!(map.shortest("A"), Some((1, "bc")));
        assert_eq!(map.longest("bA"), None);
        assert_eq!(CharsMap::default().longest("A"), None);
        let untouched = |text: &str| (map.untouched(text, 0), map.untouched_alone(text, 0));
        assert_eq!(untouched("A"), (0, 0));
        assert_eq!(untouched("b"), (1, 1));
        assert_eq!(untouched("ñA"), (2, 2));
        assert_eq!(untouched("日"), (0, 0));
    }

    #[test]
    fn damaged_maps_are_refused_or_find_nothing() {
        let check = |blob: &[u8], expect: &str| {
            let error = CharsMap::read(blob).unwrap_err();
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
            let map = CharsMap::read(&blob).unwrap();
            for text in ["a", "ñandu", "\u{10FFFF}日本", ""] {
                assert!(map.longest(text).is_none_or(|(length, _)| text.is_char_boundary(length)));
                if !text.is_empty() && map.untouched(text, 0) > 0 {
                    assert_eq!(map.longest(text), None);
                }
            }
        }
    }
}

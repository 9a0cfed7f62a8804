//! WordPiece: each word is written as the longest piece that fits, again and again (BERT).
//!
//! Pieces inside a word carry a prefix such as `##`. A word that cannot be written whole is unknown.

use crate::fast_hash::FastMap;

/// A WordPiece vocabulary.
#[derive(Debug, Clone)]
pub(crate) struct WordPiece {
    begin: FastMap<String, u32>,
    inside: FastMap<String, u32>,
    longest: usize,
    most_characters: usize,
}

impl WordPiece {
    /// Takes the pieces apart; those that begin with `prefix` stand inside words.
    ///
    /// A piece with the prefix can also begin a word that is spelled so.
    pub(crate) fn new<'a>(
        pieces: impl Iterator<Item = (&'a str, u32)>,
        prefix: &str,
        most_characters: usize,
    ) -> Self {
        let (mut begin, mut inside) = (FastMap::default(), FastMap::default());
        let mut longest = 0;
        for (text, id) in pieces {
            longest = longest.max(text.len());
            if let Some(rest) = text.strip_prefix(prefix) {
                inside.insert(rest.to_owned(), id);
            }
            begin.insert(text.to_owned(), id);
        }
        Self { begin, inside, longest, most_characters }
    }

    /// Appends the pieces of `word`; `false` and nothing appended if it is unknown.
    pub(crate) fn encode_word(&self, word: &str, ids: &mut Vec<u32>) -> bool {
        if word.chars().count() > self.most_characters {
            return false;
        }
        let (before, mut start) = (ids.len(), 0);
        while start < word.len() {
            let pieces = if start == 0 { &self.begin } else { &self.inside };
            let mut end = word.floor_char_boundary(start.saturating_add(self.longest));
            let id = loop {
                if end <= start {
                    ids.truncate(before);
                    return false;
                }
                if let Some(&id) = pieces.get(&word[start..end]) {
                    break id;
                }
                end = word.floor_char_boundary(end - 1);
            };
            ids.push(id);
            start = end;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_from_the_left() {
        let pieces = ["un", "##ab", "##a", "##ble", "##", "unñ"];
        let pieces = pieces.iter().enumerate().map(|(id, text)| (*text, id as u32));
        let table = WordPiece::new(pieces, "##", 10);
        let check = |word: &str, expect: Option<&[u32]>| {
            let mut ids = vec![9];
            let known = table.encode_word(word, &mut ids);
            assert_eq!(
                (known, &ids[1..]),
                (expect.is_some(), expect.unwrap_or_default()),
                "{word}"
            );
        };
        check("unable", None);
        check("unble", Some(&[0, 3]));
        check("unab", Some(&[0, 1]));
        check("unabx", None);
        check("unñ", Some(&[5]));
        check("ñ", None);
        check("unaaaaaaaaa", None);
        check("##ab", Some(&[1]));
    }
}

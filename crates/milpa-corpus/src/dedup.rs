//! Which document is a copy of which, which parts of texts are repeated, and what copies are worth.
//!
//! [`Duplicates`] finds exact and near copies of whole documents in bounded memory, the one with
//! the smallest ordinal being kept; [`Rehydration`] weighs a kept document by the copies it stands
//! for; [`RepeatFinder`] finds passages that stand in several places.

mod components;
pub mod external_sort;
mod find;
#[cfg(test)]
mod oracle;
mod rehydrate;
mod substring;

use milpa_base::hash_bytes;
use milpa_text::word_hashes;

pub use find::{CopyKind, DuplicateSettings, Duplicates, Member, Members, NearSettings, Scope};
pub use rehydrate::Rehydration;
pub use substring::{
    MAX_CONTEXTS, RepeatFinder, RepeatRanges, RepeatSettings, Repeats, cut_ranges,
};

/// Identity of a text up to case, punctuation and spacing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TextKey(pub(crate) u128);

/// Computes the key of a text: the hash of its words in lower case.
pub fn text_key(text: &str) -> TextKey {
    let words: Vec<u8> = word_hashes(text).flat_map(|word| word.hash.to_le_bytes()).collect();
    let digest = hash_bytes(&words).0;
    let half: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    TextKey(u128::from_le_bytes(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ignore_case_and_punctuation_but_not_letters() {
        assert_eq!(text_key("El Río,  crece."), text_key("el río crece"));
        assert_ne!(text_key("el rio crece"), text_key("el río crece"));
        assert_ne!(text_key("ab c"), text_key("a bc"));
    }
}

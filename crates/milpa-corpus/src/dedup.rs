//! What tells that a document is a copy: its key and its MinHash signature.
//!
//! Of two copies the one that comes first in the order of the sources is kept.

use milpa_base::hash_bytes;
use milpa_text::{Signature, minhash, normalise::fold_word, words};

/// Identity of a text up to case, punctuation and spacing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TextKey(pub(crate) u128);

/// Computes the key of a text: the hash of its words in lower case.
pub fn text_key(text: &str) -> TextKey {
    let (mut joined, mut folded) = (String::with_capacity(text.len()), String::new());
    for word in words(text) {
        fold_word(word, &mut folded);
        joined.push_str(&folded);
        joined.push(' ');
    }
    let digest = hash_bytes(joined.as_bytes()).0;
    let half: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    TextKey(u128::from_le_bytes(half))
}

/// A near copy: which document is kept instead, and how similar the two are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearCopy {
    /// Number of the kept document.
    pub kept: usize,
    /// Estimated Jaccard similarity of their word 5-grams. Lower than the threshold where the two
    /// are linked through a third.
    pub similarity: f64,
}

/// Finds the near copies among all documents, in their order.
pub fn near_copies(signatures: &[Option<Signature>], similarity: f64) -> Vec<Option<NearCopy>> {
    minhash::cluster(signatures, similarity)
        .into_iter()
        .enumerate()
        .map(|(index, kept)| {
            let (Some(own), Some(other)) = (&signatures[index], &signatures[kept]) else {
                return None;
            };
            (kept != index).then(|| NearCopy { kept, similarity: own.similarity(other) })
        })
        .collect()
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

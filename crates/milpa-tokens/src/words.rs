//! Words of SentencePiece: ▁ stands for the space and begins a word.
//!
//! It knows nothing of pieces beyond whether one would span two words.

/// How SentencePiece and its heirs write a space.
pub(crate) const META_SPACE: &str = "▁";

/// Whether a piece stays within a word: no ▁ behind another character.
pub(crate) fn is_one_word(piece: &str) -> bool {
    !piece.trim_start_matches(META_SPACE).contains(META_SPACE)
}

/// Calls `word` with the words of `text`: before each ▁ that follows another character is a cut.
pub(crate) fn words(text: &str, word: &mut impl FnMut(&str)) {
    let bytes = text.as_bytes();
    let meta = META_SPACE.as_bytes();
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        while bytes[at..].starts_with(meta) {
            at += meta.len();
        }
        while at < bytes.len() && !(bytes[at] == meta[0] && bytes[at..].starts_with(meta)) {
            at += 1;
        }
        word(&text[start..at]);
        start = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_with_spaces() {
        let check = |text: &str, expect: &[&str]| {
            let mut found = Vec::new();
            words(text, &mut |word| found.push(word.to_owned()));
            assert_eq!(found, expect);
            assert!(expect.iter().all(|word| is_one_word(word)));
        };
        check("", &[]);
        check("▁a", &["▁a"]);
        check("a▁▁ñé▁", &["a", "▁▁ñé", "▁"]);
        check("▁▁", &["▁▁"]);
        check("a—b▁c", &["a—b", "▁c"]);
        assert!(!is_one_word("a▁"));
    }
}

//! Text from bytes that arrive in pieces: whole characters only.
//!
//! It follows the rule of `String::from_utf8_lossy`: each maximal part of an invalid sequence
//! becomes one U+FFFD, so the pieces together are the lossy decoding of all bytes.

/// Turns bytes that arrive in pieces into text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Utf8Stream {
    /// The beginning of a character whose end has not arrived: at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Adds bytes and returns the characters that are now certain.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    if let Some(length) = error.error_len() {
                        text.push(char::REPLACEMENT_CHARACTER);
                        rest = &rest[length..];
                        continue;
                    }
                }
            }
            break;
        }
        self.pending = rest.to_vec();
        text
    }

    /// Returns what is left at the end, a cut character as U+FFFD, and is empty again.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_lossy_text(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            text in "\\PC{0,20}",
            piece in 1usize..6,
        ) {
            for bytes in [bytes, text.into_bytes()] {
                let mut stream = Utf8Stream::default();
                let mut joined: String =
                    bytes.chunks(piece).map(|chunk| stream.push(chunk)).collect();
                joined += &stream.finish();
                prop_assert_eq!(joined, String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"a\xC3"), "a");
        assert_eq!(stream.push(b"\xB1\xE2\x82"), "ñ");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }
}

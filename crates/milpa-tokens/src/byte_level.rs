//! GPT-2's way to write any byte as one visible character, as `tokenizer.json` and GGUF store it.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the other 68, in order, are written
//! as U+0100, U+0101, … (Radford et al. 2019, `bytes_to_unicode`). A space becomes `Ġ`.

use std::sync::LazyLock;

/// One past the last character that stands for a byte.
const CHARACTERS: usize = 0x144;

static CHARACTER_OF_BYTE: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut table = ['\0'; 256];
    let mut next = 0x100u32;
    for byte in 0..=255u8 {
        let code = if is_printable(byte) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        table[usize::from(byte)] = char::from_u32(code).expect("codes below U+0144 are characters");
    }
    table
});

static BYTE_OF_CHARACTER: LazyLock<[Option<u8>; CHARACTERS]> = LazyLock::new(|| {
    let mut table = [None; CHARACTERS];
    for byte in 0..=255u8 {
        table[byte_to_char(byte) as usize] = Some(byte);
    }
    table
});

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character that stands for `byte`.
pub(crate) fn byte_to_char(byte: u8) -> char {
    CHARACTER_OF_BYTE[usize::from(byte)]
}

/// The byte that `character` stands for.
pub(crate) fn char_to_byte(character: char) -> Option<u8> {
    BYTE_OF_CHARACTER.get(character as usize).copied().flatten()
}

/// Writes bytes as characters.
pub(crate) fn write(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| byte_to_char(byte)).collect()
}

/// Reads the bytes that `text` stands for; `None` if a character stands for no byte.
pub(crate) fn read(text: &str) -> Option<Vec<u8>> {
    text.chars().map(char_to_byte).collect()
}

/// All 256 bytes in the order of their characters: the order of GPT-2's and Hugging Face's ids.
pub(crate) fn alphabet() -> [u8; 256] {
    let mut bytes: [u8; 256] = std::array::from_fn(|byte| byte as u8);
    bytes.sort_unstable_by_key(|&byte| byte_to_char(byte));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(read(&write(&bytes)).unwrap(), bytes);
        assert_eq!(write(" de\n".as_bytes()), "ĠdeĊ");
        assert_eq!(read("日"), None);
        assert_eq!(alphabet()[0], b'!');
        assert_eq!(alphabet()[255], 0xAD);
    }
}

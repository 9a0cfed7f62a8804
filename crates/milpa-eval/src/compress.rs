//! Sizes under general compressors, the yardstick beside bits per byte.
//!
//! `xz -9` is liblzma's preset 9 with CRC-64 in one `.xz` stream, `bzip2 -9` is block size 900 k;
//! both include their container's few header bytes, as the command-line tools' files do. Nothing
//! compressed is kept: only the length is counted.

use std::io::{self, Write};

use crate::error::EvalError;

/// Lengths in bytes of the same text under two compressors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompressedLengths {
    pub(crate) xz: u64,
    pub(crate) bzip2: u64,
}

/// Compresses the concatenation of `texts` without holding it.
pub(crate) fn compressed_lengths(texts: &[&str]) -> Result<CompressedLengths, EvalError> {
    let bytes = texts.iter().map(|text| text.len() as u64).sum();
    let failed = |compressor| move |source| EvalError::Compress { compressor, bytes, source };
    Ok(CompressedLengths {
        xz: xz_length(texts).map_err(failed("xz -9"))?,
        bzip2: bzip2_length(texts).map_err(failed("bzip2 -9"))?,
    })
}

fn xz_length(texts: &[&str]) -> io::Result<u64> {
    let mut encoder = liblzma::write::XzEncoder::new(Count(0), 9);
    texts.iter().try_for_each(|text| encoder.write_all(text.as_bytes()))?;
    Ok(encoder.finish()?.0)
}

fn bzip2_length(texts: &[&str]) -> io::Result<u64> {
    let mut encoder = bzip2::write::BzEncoder::new(Count(0), bzip2::Compression::best());
    texts.iter().try_for_each(|text| encoder.write_all(text.as_bytes()))?;
    Ok(encoder.finish()?.0)
}

struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn lengths_are_those_of_the_command_line_tools() {
        // `printf 'milpa\n%.0s' $(seq 1000) | xz -9 | wc -c` and the same with `bzip2 -9`.
        let text = "milpa\n".repeat(1000);
        let lengths = compressed_lengths(&[&text]).unwrap();
        assert_eq!(lengths, CompressedLengths { xz: 104, bzip2: 57 });
        // Where the text is cut into pieces does not matter.
        assert_eq!(compressed_lengths(&[&text[..7], &text[7..]]).unwrap(), lengths);
    }

    #[test]
    fn the_streams_can_be_read_back() {
        let text = "El agua baja del cerro a la acequia. ".repeat(50);
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 9);
        encoder.write_all(text.as_bytes()).unwrap();
        let compressed = encoder.finish().unwrap();
        assert_eq!(compressed.len() as u64, xz_length(&[&text]).unwrap());
        let mut back = String::new();
        liblzma::read::XzDecoder::new(&compressed[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
    }
}

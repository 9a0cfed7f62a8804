//! A fast, fixed hash for words and pairs of tokens: multiply and fold to 64 bits.
//!
//! It is no defence against chosen collisions; the tables that use it stay correct under them,
//! only slower, and their iteration order never reaches an output.

use std::hash::{BuildHasherDefault, Hasher};

const FACTOR_A: u64 = 0x9E37_79B9_7F4A_7C15;
const FACTOR_B: u64 = 0xD6E8_FEB8_6659_FD93;

/// Hash maps with this hash.
pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<FastHasher>>;

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Hashes a pair packed into 64 bits.
#[inline]
pub(crate) fn hash_u64(value: u64) -> u64 {
    fold(value ^ FACTOR_A, FACTOR_B)
}

/// Hashes bytes.
#[inline]
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = FACTOR_A ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks have eight bytes"));
        state = fold(state ^ word, FACTOR_B);
    }
    let mut rest = 0u64;
    for &byte in chunks.remainder() {
        rest = rest << 8 | u64::from(byte);
    }
    fold(state ^ rest, FACTOR_B ^ FACTOR_A)
}

/// The same hash for standard maps.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = fold(self.0 ^ hash_bytes(bytes), FACTOR_B);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = hash_u64(self.0.rotate_left(23) ^ value);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

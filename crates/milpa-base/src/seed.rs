//! Seeds and counter-based random numbers: the n-th number of a stream is a function of the seed
//! and n, so that no generator state has to be saved and work can be split freely.
//!
//! SplitMix64 (Steele, Lea, Flood 2014) as the mixing function; a Feistel network over it as a
//! permutation of `0..n` that needs no memory.

use serde::{Deserialize, Serialize};

/// A seed from which named, independent streams are derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub u64);

/// Mixes 64 bits (the finaliser of SplitMix64 after one increment).
pub fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Seed {
    /// Derives the seed of the stream called `name`.
    pub fn derive(self, name: &str) -> Self {
        name.bytes()
            .fold(Self(splitmix64(self.0)), |seed, byte| Self(splitmix64(seed.0 ^ u64::from(byte))))
    }

    /// Derives the seed number `index` of a family.
    pub fn nth(self, index: u64) -> Self {
        Self(splitmix64(splitmix64(self.0) ^ index))
    }

    /// The `index`-th 64-bit number of this stream.
    pub fn u64_at(self, index: u64) -> u64 {
        splitmix64(self.0 ^ splitmix64(index))
    }

    /// The `index`-th number of this stream, uniform in [0, 1) with 53 bits.
    pub fn f64_at(self, index: u64) -> f64 {
        (self.u64_at(index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The `index`-th standard normal number of this stream (Box–Muller).
    pub fn normal_at(self, index: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.f64_at(2 * index)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.f64_at(2 * index + 1)).cos()
    }
}

/// A pseudo-random permutation of `0..len` that is computed, not stored.
///
/// A four-round Feistel network over the next power of four, with cycle walking.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    seed: Seed,
    len: u64,
    half_bits: u32,
}

impl Permutation {
    /// Makes the permutation of `0..len` that belongs to `seed`.
    pub fn new(seed: Seed, len: u64) -> Self {
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        Self { seed, len, half_bits: bits.div_ceil(2).max(1) }
    }

    /// The number of elements permuted.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is permuted.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where `index` goes.
    ///
    /// # Panics
    /// If `index` is not below `len`.
    pub fn apply(&self, index: u64) -> u64 {
        assert!(index < self.len, "index {index} of a permutation of {}", self.len);
        let mask = (1u64 << self.half_bits) - 1;
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for round in 0..4 {
                let mixed = self.seed.nth(round).u64_at(right) & mask;
                (left, right) = (right, left ^ mixed);
            }
            value = (left << self.half_bits) | right;
            if value < self.len {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_permutation_hits_each_element_once(seed: u64, len in 1u64..700) {
            let permutation = Permutation::new(Seed(seed), len);
            let mut seen: Vec<u64> = (0..len).map(|i| permutation.apply(i)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn streams_differ_by_name_and_are_stable() {
        let seed = Seed(7);
        assert_ne!(seed.derive("data"), seed.derive("init"));
        assert_eq!(seed.derive("data"), Seed(7).derive("data"));
        // Published value of SplitMix64 for state 0.
        assert_eq!(splitmix64(0), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let seed = Seed(1);
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let x = seed.normal_at(i);
            sum += x;
            squares += x * x;
        }
        // Five standard errors of the mean and of the variance.
        assert!((sum / n as f64).abs() < 5.0 / (n as f64).sqrt());
        assert!((squares / n as f64 - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt());
    }
}

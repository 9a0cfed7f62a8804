//! Near-duplicate detection: word 5-gram shingles, MinHash signatures, banded LSH, union-find.
//!
//! Each of the 112 hash functions is x ↦ (a·x + b) mod p with p = 2^61 − 1 computed without
//! overflow, a universal family (Carter & Wegman 1979). 14 bands of 8 rows find a pair of Jaccard
//! similarity s with probability 1 − (1 − s^8)^14; the step lies near (1/14)^(1/8) ≈ 0.72
//! (Broder 1997; Leskovec, Rajaraman & Ullman, ch. 3). It knows no documents, only their words.

use std::collections::HashMap;

use milpa_base::seed::{Seed, splitmix64};

use crate::{normalise::fold_word, segment::words};

/// Words per shingle.
pub const SHINGLE_WORDS: usize = 5;
/// Bands of a signature.
pub const BANDS: usize = 14;
/// Rows of a band.
pub const ROWS: usize = 8;
/// Hash functions of a signature.
pub const HASHES: usize = BANDS * ROWS;

/// The Mersenne prime 2^61 − 1.
const PRIME: u64 = (1 << 61) - 1;
/// Seed of the hash family: a constant, so signatures of different runs can be compared.
const FAMILY_SEED: Seed = Seed(0x6D69_6C70_615F_6C73);
/// Compared members of one bucket: beyond it, a bucket full of different texts would cost n².
const MAX_REPRESENTATIVES: usize = 32;

/// The MinHash signature of a text: for each hash function the low 32 bits of its minimum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature(Box<[u32; HASHES]>);

impl Signature {
    /// Estimates the Jaccard similarity of the two shingle sets: the share of equal minima.
    /// The standard error is √(s(1−s)/112), at most 0.047.
    pub fn similarity(&self, other: &Self) -> f64 {
        let equal = self.0.iter().zip(other.0.iter()).filter(|(a, b)| a == b).count();
        equal as f64 / HASHES as f64
    }

    /// Bytes that [`Signature::write`] writes.
    pub const BYTES: usize = HASHES * 4;

    /// Adds the signature to `out`, each value in little-endian order.
    pub fn write(&self, out: &mut Vec<u8>) {
        for value in self.0.iter() {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// The signature that was written as `bytes`.
    pub fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let mut values = Box::new([0; HASHES]);
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
            *value = u32::from_le_bytes(*bytes);
        }
        Self(values)
    }

    fn band_key(&self, band: usize) -> u64 {
        self.0[band * ROWS..][..ROWS]
            .iter()
            .fold(band as u64, |key, &row| splitmix64(key ^ u64::from(row)))
    }
}

/// Computes signatures.
#[derive(Debug, Clone)]
pub struct MinHasher {
    multipliers: Vec<u64>,
    offsets: Vec<u64>,
}

impl Default for MinHasher {
    fn default() -> Self {
        let (a, b) = (FAMILY_SEED.derive("a"), FAMILY_SEED.derive("b"));
        Self {
            multipliers: (0..HASHES as u64).map(|i| 1 + a.u64_at(i) % (PRIME - 1)).collect(),
            offsets: (0..HASHES as u64).map(|i| b.u64_at(i) % PRIME).collect(),
        }
    }
}

impl MinHasher {
    /// Computes the signature of `text`, or `None` if it has no word. A text shorter than a
    /// shingle counts as one shingle.
    pub fn signature(&self, text: &str) -> Option<Signature> {
        let shingles = shingles(text);
        if shingles.is_empty() {
            return None;
        }
        let mut minima = Box::new([0u32; HASHES]);
        for ((minimum, &a), &b) in minima.iter_mut().zip(&self.multipliers).zip(&self.offsets) {
            let least = shingles.iter().map(|&x| hash_mod_prime(a, x, b)).min();
            *minimum = least.expect("there is a shingle") as u32;
        }
        Some(Signature(minima))
    }
}

/// (a·x + b) mod 2^61 − 1 for a, x, b below 2^61.
fn hash_mod_prime(a: u64, x: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(x) + u128::from(b);
    let folded = (product as u64 & PRIME) + (product >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

/// Hashes of the distinct word 5-grams of `text`, below 2^61 − 1, sorted. Words are compared in
/// lower case with one kind of apostrophe; accents count.
pub fn shingles(text: &str) -> Vec<u64> {
    let mut folded = String::new();
    let hashes: Vec<u64> = words(text)
        .map(|word| {
            fold_word(word, &mut folded);
            word_hash(&folded)
        })
        .collect();
    if hashes.is_empty() {
        return Vec::new();
    }
    let window = hashes.len().min(SHINGLE_WORDS);
    let mut out: Vec<u64> = hashes
        .windows(window)
        .map(|words| words.iter().fold(0, |hash, &word| splitmix64(hash ^ word)) % PRIME)
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// A 64-bit hash of a string that is the same on every machine and in every version.
pub fn word_hash(word: &str) -> u64 {
    let mut hash = word.len() as u64;
    for chunk in word.as_bytes().chunks(8) {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        hash = splitmix64(hash ^ u64::from_le_bytes(bytes));
    }
    hash
}

/// The exact Jaccard similarity of two shingle sets as [`shingles`] gives them.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                both += 1;
                i += 1;
                j += 1;
            }
        }
    }
    let union = a.len() + b.len() - both;
    if union == 0 { 0.0 } else { both as f64 / union as f64 }
}

/// Groups near-duplicates: for each signature the index of the first member of its cluster.
///
/// Two signatures are joined if they share a band and their estimated similarity is at least
/// `threshold`; clusters are the transitive closure. Texts without a signature stand alone. The
/// result depends on the order of the signatures alone.
pub fn cluster(signatures: &[Option<Signature>], threshold: f64) -> Vec<usize> {
    let mut sets = UnionFind::new(signatures.len());
    for band in 0..BANDS {
        let mut buckets: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, signature) in signatures.iter().enumerate() {
            let Some(signature) = signature else { continue };
            let bucket = buckets.entry(signature.band_key(band)).or_default();
            let mut joined = false;
            for &other in bucket.iter() {
                let near = signatures[other]
                    .as_ref()
                    .is_some_and(|other| other.similarity(signature) >= threshold);
                if near {
                    sets.union(other, index);
                    joined = true;
                }
            }
            // A joined text is represented by the one it joined.
            if !joined && bucket.len() < MAX_REPRESENTATIVES {
                bucket.push(index);
            }
        }
    }
    (0..signatures.len()).map(|index| sets.find(index)).collect()
}

/// Disjoint sets whose representative is their smallest member.
#[derive(Debug, Clone)]
pub struct UnionFind {
    parents: Vec<usize>,
}

impl UnionFind {
    /// Makes `len` sets of one member each.
    pub fn new(len: usize) -> Self {
        Self { parents: (0..len).collect() }
    }

    /// The smallest member of the set of `index`.
    pub fn find(&mut self, index: usize) -> usize {
        let mut at = index;
        while self.parents[at] != at {
            // Path halving keeps later walks short.
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }

    /// Joins the sets of `a` and `b`.
    pub fn union(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parents[high] = low;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A text of `len` pseudo-random words.
    fn text(seed: u64, len: u64) -> Vec<String> {
        (0..len).map(|i| format!("w{}", Seed(seed).u64_at(i) % 5000)).collect()
    }

    #[test]
    fn the_modular_hash_equals_wide_arithmetic() {
        for i in 0..2000 {
            let [a, x, b] = [0, 1, 2].map(|k| Seed(k).u64_at(i) % PRIME);
            let wide = (u128::from(a) * u128::from(x) + u128::from(b)) % u128::from(PRIME);
            assert_eq!(u128::from(hash_mod_prime(a, x, b)), wide);
        }
        assert_eq!(hash_mod_prime(PRIME - 1, PRIME - 1, PRIME - 1), 0);
    }

    #[test]
    fn the_estimate_is_near_the_exact_similarity() {
        let hasher = MinHasher::default();
        let mut worst: f64 = 0.0;
        for seed in 0..20 {
            let mut words = text(seed, 600);
            let one = words.join(" ");
            for i in 0..(seed as usize * 6) {
                words[i * 5 % 600] = format!("x{i}");
            }
            let two = words.join(" ");
            let exact = jaccard(&shingles(&one), &shingles(&two));
            let estimate =
                hasher.signature(&one).unwrap().similarity(&hasher.signature(&two).unwrap());
            worst = worst.max((exact - estimate).abs());
        }
        // Four standard errors of 112 draws at s = 0.5.
        assert!(worst < 4.0 * 0.0473, "{worst}");
    }

    #[test]
    fn recall_follows_the_banding_formula() {
        let hasher = MinHasher::default();
        let mut found = [0u32; 2];
        let mut expected = [0f64; 2];
        for (which, edits) in [(0, 3), (1, 40)] {
            for seed in 0..60 {
                let mut words = text(seed, 400);
                let one = words.join(" ");
                for i in 0..edits {
                    words[(i * 37 + 11) % 400] = format!("y{i}");
                }
                let two = words.join(" ");
                let s = jaccard(&shingles(&one), &shingles(&two));
                expected[which] += 1.0 - (1.0 - s.powi(8)).powi(14);
                let signatures = [hasher.signature(&one), hasher.signature(&two)];
                found[which] += u32::from(cluster(&signatures, 0.0)[1] == 0);
            }
        }
        assert!(expected[0] > 59.0 && expected[1] < 30.0, "{expected:?}");
        assert_eq!(found[0], 60);
        // Binomial with 60 draws: three standard deviations are at most 11.6.
        assert!((f64::from(found[1]) - expected[1]).abs() < 11.6, "{found:?} {expected:?}");
    }

    #[test]
    fn the_first_of_a_cluster_stands_for_it() {
        let hasher = MinHasher::default();
        let base = text(1, 300).join(" ");
        let other = text(2, 300).join(" ");
        let near = format!("{base} fin");
        let texts = [other.as_str(), &base, "", &near, &base.to_uppercase(), &other];
        let signatures: Vec<_> = texts.iter().map(|text| hasher.signature(text)).collect();
        assert_eq!(cluster(&signatures, 0.7), [0, 1, 2, 1, 1, 0]);
    }

    #[test]
    fn short_texts_are_one_shingle() {
        assert_eq!(shingles("uno dos").len(), 1);
        assert_eq!(shingles("uno dos"), shingles("Uno, DOS."));
        assert_ne!(shingles("ano"), shingles("año"));
        assert!(shingles(" -- ").is_empty());
    }

    proptest! {
        #[test]
        fn union_find_keeps_the_smallest(pairs in prop::collection::vec((0usize..30, 0usize..30), 0..60)) {
            let mut sets = UnionFind::new(30);
            let mut labels: Vec<usize> = (0..30).collect();
            for &(a, b) in &pairs {
                sets.union(a, b);
                let (from, to) = (labels[a].max(labels[b]), labels[a].min(labels[b]));
                labels.iter_mut().filter(|label| **label == from).for_each(|label| *label = to);
            }
            for (index, &label) in labels.iter().enumerate() {
                prop_assert_eq!(sets.find(index), label);
            }
        }
    }
}

//! Near-duplicate detection: shingles of words, MinHash signatures, bands of rows.
//!
//! A signature has bands × rows minima, and two texts agree in each with a probability equal to the
//! Jaccard similarity s of their shingle sets (Broder 1997), so that a pair shares a band with
//! probability 1 − (1 − s^rows)^bands (Leskovec, Rajaraman & Ullman, ch. 3). Hashing each shingle
//! bands × rows times would be most of the work. Instead each of the `rows` is a sketch of `bands`
//! bins of its own by Fast Similarity Sketching (Dahlgaard, Knudsen & Thorup, FOCS 2017,
//! arXiv:1704.04370): a shingle falls into one bin of a sketch, and bins that stay empty are filled
//! by further rounds. That costs `rows` hashes per shingle of all but very short texts, stays
//! unbiased for sets of any size, and the rows of one band come from independent hash functions,
//! which is what s^rows asks for. It knows no documents, only their words.

use milpa_base::seed::{Seed, splitmix64};
use serde::{Deserialize, Serialize};

pub use crate::word_hash::word_hash;
use crate::word_hash::{folded_product, runs_of_words, word_hashes};

/// Seed of the hash family: a constant, so signatures of different runs can be compared.
const FAMILY_SEED: Seed = Seed(0x6D69_6C70_615F_6C73);
/// The most minima of a signature: 128 KiB.
const MAX_HASHES: u32 = 1 << 14;
/// The longest shingle in words.
const MAX_SHINGLE_WORDS: u32 = 64;
/// Shingles that all rows see before the next: 8 KiB, which stay in the first cache.
const BLOCK: usize = 1024;
/// A bin that no shingle fell into yet.
const EMPTY: u64 = u64::MAX;

/// What cannot be a MinHash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MinHashError {
    /// No rows, no bands, or too many.
    #[error(
        "{bands} bands of {rows} rows: both must be at least 1, and their product at most {MAX_HASHES}"
    )]
    Banding {
        /// Bands asked for.
        bands: u32,
        /// Rows asked for.
        rows: u32,
    },
    /// A shingle of no word, or of too many.
    #[error("shingles of {0} words: between 1 and {MAX_SHINGLE_WORDS} make sense")]
    Shingle(u32),
}

/// How the minima of a signature are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Banding {
    /// Groups; a pair that agrees in all rows of one is a candidate.
    pub bands: u32,
    /// Minima of a band.
    pub rows: u32,
}

impl Default for Banding {
    /// 14 bands of 8 rows, as FineWeb has them.
    fn default() -> Self {
        Self { bands: 14, rows: 8 }
    }
}

impl Banding {
    /// Minima of a signature.
    pub fn hashes(self) -> usize {
        self.bands as usize * self.rows as usize
    }

    /// Probability that a pair of Jaccard similarity `s` shares a band.
    pub fn probability(self, s: f64) -> f64 {
        1.0 - (1.0 - s.powi(self.rows as i32)).powi(self.bands as i32)
    }

    /// Similarity near which that probability rises: (1 / bands)^(1 / rows).
    pub fn threshold(self) -> f64 {
        f64::from(self.bands).recip().powf(f64::from(self.rows).recip())
    }
}

/// What a signature is computed of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MinHashConfig {
    /// Bands and rows.
    pub banding: Banding,
    /// Words of a shingle.
    pub shingle_words: u32,
}

impl Default for MinHashConfig {
    fn default() -> Self {
        Self { banding: Banding::default(), shingle_words: 5 }
    }
}

/// The MinHash signature of a text: 64-bit minima, those of a band side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    banding: Banding,
    minima: Box<[u64]>,
}

impl Signature {
    /// Puts a signature together from its minima, if there are as many as the banding says.
    pub fn from_minima(banding: Banding, minima: Box<[u64]>) -> Option<Self> {
        (minima.len() == banding.hashes() && !minima.is_empty()).then_some(Self { banding, minima })
    }

    /// The minima, those of a band side by side.
    pub fn minima(&self) -> &[u64] {
        &self.minima
    }

    /// How they are grouped.
    pub fn banding(&self) -> Banding {
        self.banding
    }

    /// Estimates the Jaccard similarity of the two shingle sets: the share of equal minima.
    /// The standard error is √(s(1−s)/hashes), at most 0.047 for 14 × 8.
    pub fn similarity(&self, other: &Self) -> f64 {
        let equal = self.minima.iter().zip(&other.minima).filter(|(a, b)| a == b).count();
        equal as f64 / self.minima.len().max(other.minima.len()) as f64
    }

    /// For each band a 64-bit hash of its number and all its minima.
    pub fn band_keys(&self) -> impl Iterator<Item = u64> {
        self.minima.chunks(self.banding.rows as usize).enumerate().map(|(band, rows)| {
            rows.iter().fold(splitmix64(band as u64), |key, &row| splitmix64(key ^ row))
        })
    }
}

/// Computes signatures.
#[derive(Debug, Clone, Default)]
pub struct MinHasher {
    config: MinHashConfig,
}

impl MinHasher {
    /// Makes the hasher that `config` describes.
    ///
    /// # Errors
    /// A configuration that describes none.
    pub fn new(config: MinHashConfig) -> Result<Self, MinHashError> {
        let Banding { bands, rows } = config.banding;
        let hashes = bands.saturating_mul(rows);
        if !(1..=MAX_HASHES).contains(&hashes) {
            return Err(MinHashError::Banding { bands, rows });
        }
        if !(1..=MAX_SHINGLE_WORDS).contains(&config.shingle_words) {
            return Err(MinHashError::Shingle(config.shingle_words));
        }
        Ok(Self { config })
    }

    /// What it computes.
    pub fn config(&self) -> MinHashConfig {
        self.config
    }

    /// Computes the signature of `text`, or `None` if it has no word. A text shorter than a
    /// shingle counts as one shingle.
    pub fn signature(&self, text: &str) -> Option<Signature> {
        let mut shingles: Vec<u64> = word_hashes(text).map(|word| word.hash).collect();
        runs_of_words(&mut shingles, self.config.shingle_words as usize);
        self.signature_of_shingles(shingles)
    }

    /// Computes the signature of a set of shingles, in any order and with repetitions.
    pub fn signature_of_shingles(&self, mut shingles: Vec<u64>) -> Option<Signature> {
        if shingles.is_empty() {
            return None;
        }
        let Banding { bands, rows } = self.config.banding;
        let (bands, rows) = (bands as usize, rows as usize);
        // The sketches side by side: the bin of `band` in sketch `row` is at row · bands + band.
        let mut bins = vec![EMPTY; bands * rows];
        for block in shingles.chunks(BLOCK) {
            for (row, bins) in bins.chunks_exact_mut(bands).enumerate() {
                first_round(block, RoundHash::new(row, 0), bins);
            }
        }
        if bins.contains(&EMPTY) {
            // Repetitions fill nothing: a long text can be one word over and over.
            shingles.sort_unstable();
            shingles.dedup();
            for (row, bins) in bins.chunks_exact_mut(bands).enumerate() {
                fill(&shingles, row, bins);
            }
        }
        let minima = (0..bands).flat_map(|band| (0..rows).map(move |row| row * bands + band));
        let minima = minima.map(|at| bins[at]).collect();
        Some(Signature { banding: self.config.banding, minima })
    }
}

/// The hash function of one round of one sketch.
#[derive(Debug, Clone, Copy)]
struct RoundHash {
    offset: u64,
    multiplier: u64,
}

impl RoundHash {
    fn new(row: usize, round: usize) -> Self {
        let seed = FAMILY_SEED.nth(row as u64).nth(round as u64);
        Self { offset: seed.u64_at(0), multiplier: seed.u64_at(1) | 1 }
    }

    #[inline]
    fn of(self, shingle: u64) -> u64 {
        folded_product(shingle ^ self.offset, self.multiplier)
    }
}

/// Which of `bins` equal parts of 0..2^64 `hash` lies in.
#[inline]
fn bin_of(hash: u64, bins: usize) -> usize {
    ((u128::from(hash) * bins as u128) >> 64) as usize
}

/// Throws each shingle into its bin; a bin keeps its least hash.
fn first_round(shingles: &[u64], function: RoundHash, bins: &mut [u64]) {
    let count = bins.len();
    for &shingle in shingles {
        let hash = function.of(shingle);
        let bin = &mut bins[bin_of(hash, count)];
        *bin = hash.min(*bin);
    }
}

/// Fills the bins of sketch `row` that the first round left empty: as many rounds as there are bins
/// with other hash functions, then for each bin one in which all shingles fall into it. What an
/// earlier round filled stays.
fn fill(shingles: &[u64], row: usize, bins: &mut [u64]) {
    let count = bins.len();
    let mut found = vec![EMPTY; count];
    for round in 1..2 * count {
        if !bins.contains(&EMPTY) {
            return;
        }
        let function = RoundHash::new(row, round);
        if round < count {
            found.fill(EMPTY);
            first_round(shingles, function, &mut found);
            for (bin, &found) in bins.iter_mut().zip(&found) {
                if *bin == EMPTY {
                    *bin = found;
                }
            }
        } else if bins[round - count] == EMPTY {
            let least = shingles.iter().map(|&shingle| function.of(shingle)).min();
            bins[round - count] = least.expect("there is a shingle");
        }
    }
}

/// Hashes of the distinct runs of `shingle_words` words of `text`, sorted. Words are compared in
/// lower case with one kind of apostrophe; accents count.
pub fn shingles(text: &str, shingle_words: u32) -> Vec<u64> {
    let mut out: Vec<u64> = word_hashes(text).map(|word| word.hash).collect();
    runs_of_words(&mut out, shingle_words as usize);
    out.sort_unstable();
    out.dedup();
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sets of `union` shingles together, of which they share `both`, and the rest in turns.
    fn pair(seed: u64, union: u64, both: u64) -> [Vec<u64>; 2] {
        let shingle = |i| Seed(seed).u64_at(i);
        let own = |which| (both..union).filter(move |i| i % 2 == which).map(shingle);
        [0, 1].map(|which| (0..both).map(shingle).chain(own(which)).collect())
    }

    fn signatures(hasher: &MinHasher, sets: [Vec<u64>; 2]) -> [Signature; 2] {
        sets.map(|set| hasher.signature_of_shingles(set).unwrap())
    }

    fn hasher(bands: u32, rows: u32) -> MinHasher {
        let banding = Banding { bands, rows };
        MinHasher::new(MinHashConfig { banding, shingle_words: 5 }).unwrap()
    }

    /// The share of equal minima over `trials` pairs is the Jaccard similarity, for sets so small
    /// that most bins wait for later rounds, for middling and for large ones.
    #[test]
    fn the_estimate_is_unbiased_for_sets_of_any_size() {
        for (union, both) in [(2, 1), (3, 2), (10, 5), (40, 30), (150, 120), (1200, 600)] {
            let hasher = hasher(14, 8);
            let trials = 400;
            let mean: f64 = (0..trials)
                .map(|seed| {
                    let [one, two] = signatures(&hasher, pair(seed, union, both));
                    one.similarity(&two)
                })
                .sum::<f64>()
                / f64::from(trials as u32);
            let s = both as f64 / union as f64;
            // Four standard errors of the mean; the minima of one pair are not independent for
            // tiny sets, so that the worst case is a pair that agrees in all or none.
            let draws = f64::from(trials as u32) * union.min(112) as f64;
            let limit = 4.0 * (s * (1.0 - s) / draws).sqrt();
            assert!((mean - s).abs() < limit, "{union} {both}: {mean} for {s}, limit {limit}");
        }
    }

    /// Pairs that share a band are as many as the formula says, within four standard errors.
    fn check_curve(bands: u32, rows: u32, union: u64) {
        let hasher = hasher(bands, rows);
        for tenths in [5, 6, 7, 8, 9] {
            let both = union * tenths / 10;
            let trials = 1000;
            let found = (0..trials)
                .filter(|&seed| {
                    let [one, two] = signatures(&hasher, pair(seed, union, both));
                    one.band_keys().zip(two.band_keys()).any(|(a, b)| a == b)
                })
                .count() as f64;
            let p = hasher.config().banding.probability(both as f64 / union as f64);
            let expected = p * trials as f64;
            let error = (expected * (1.0 - p)).sqrt();
            assert!(
                (found - expected).abs() <= 4.0 * error + 0.5,
                "{bands} x {rows}, {both} of {union}: {found} found, {expected:.1} expected"
            );
        }
    }

    #[test]
    fn recall_follows_the_banding_formula_from_short_texts_to_long() {
        for union in [20, 60, 200, 800] {
            check_curve(14, 8, union);
        }
        check_curve(20, 5, 100);
        check_curve(9, 13, 300);
    }

    #[test]
    fn the_step_lies_where_the_formula_puts_it() {
        let banding = Banding::default();
        assert!((banding.threshold() - 0.719).abs() < 1e-3);
        assert!((banding.probability(0.8) - 0.924).abs() < 1e-3);
        assert_eq!((banding.probability(0.0), banding.probability(1.0)), (0.0, 1.0));
    }

    #[test]
    fn a_signature_depends_on_the_set_alone() {
        let hasher = hasher(14, 8);
        let set: Vec<u64> = (0..3000).map(|i| Seed(3).u64_at(i)).collect();
        let mut other: Vec<u64> = set.iter().rev().copied().collect();
        other.extend_from_slice(&set[..100]);
        let [one, two] = signatures(&hasher, [set, other]);
        assert_eq!(one, two);
        let texts = ["uno dos ".repeat(5), "uno dos ".repeat(5000)];
        let [one, two] = texts.map(|text| hasher.signature(&text).unwrap());
        assert_eq!(one, two);
        assert!(one.minima().iter().all(|&minimum| minimum != EMPTY));
    }

    #[test]
    fn impossible_settings_are_refused() {
        let config = |bands, rows, shingle_words| MinHashConfig {
            banding: Banding { bands, rows },
            shingle_words,
        };
        for (config, expect) in [
            (config(0, 8, 5), "0 bands of 8 rows"),
            (config(1 << 31, 4, 5), "product at most 16384"),
            (config(14, 8, 0), "shingles of 0 words"),
        ] {
            let error = MinHasher::new(config).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
        assert_eq!(Signature::from_minima(Banding::default(), Box::new([1])), None);
    }

    #[test]
    fn short_texts_are_one_shingle() {
        assert_eq!(shingles("uno dos", 5).len(), 1);
        assert_eq!(shingles("uno dos", 5), shingles("Uno, DOS.", 5));
        assert_ne!(shingles("ano", 5), shingles("año", 5));
        assert!(shingles(" -- ", 5).is_empty());
        let (one, two) = (shingles("a b c d e f", 5), shingles("a b c d e g", 5));
        assert_eq!(jaccard(&one, &two), 1.0 / 3.0);
    }
}

//! A linear text classifier over hashed n-grams, as fastText trains it.
//!
//! A text is the mean of the embeddings of its features: words, n-grams of words, and n-grams of
//! characters inside each word, all hashed into one table; a softmax layer tells the labels apart
//! (Joulin et al. 2016). Mean and output layer are linear, so a trained model keeps only the product
//! of the two: one 8-bit number per feature and label but the first, whatever the dimension it was
//! trained with. A model for two labels is as many bytes as its table has rows.
//! Probabilities are calibrated on held-out texts. It knows labels as strings and nothing of what
//! they mean: quality, toxicity and domain are matters of the examples.

use std::{io::Read, ops::RangeInclusive};

use milpa_base::hash::hash_bytes;

use crate::codec::{Input, ModelError, put_varint};

mod train;

pub use train::{ClassifierConfig, calibrate, train};

/// First bytes of a classifier's file; the digit is the version of its layout.
const MAGIC: &[u8; 8] = b"MILPACL1";
/// Name of the format in errors.
const KIND: &str = "text classifier";
/// Largest file that is read, decompressed, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Most labels of a classifier.
pub const MAX_LABELS: usize = 1000;
/// Most bits of the hash table, which then has 2²⁴ rows.
pub const MAX_TABLE_BITS: u32 = 24;

/// Which features of a text count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Whether words are lower-cased first.
    pub fold_case: bool,
    /// Words in a row that make one feature, at most; 1 takes single words alone.
    pub word_ngrams: usize,
    /// Characters in a row that make one feature, inside `<word>`; `0..=0` takes whole words alone.
    pub char_ngrams: RangeInclusive<usize>,
    /// Rows of the table are 2 to this power.
    pub table_bits: u32,
}

impl Default for Features {
    fn default() -> Self {
        Self { fold_case: false, word_ngrams: 2, char_ngrams: 3..=5, table_bits: 18 }
    }
}

impl Features {
    /// Calls `f` with the table row of each feature of `text`. Words stand between ASCII white
    /// space.
    #[inline]
    pub(crate) fn for_each(&self, text: &str, mut f: impl FnMut(usize)) {
        let shift = 64 - self.table_bits;
        // Fibonacci hashing: the upper bits depend on all lower ones.
        let row = |hash: u64| (hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> shift) as usize;
        let mut before = [0u64; MAX_WORD_NGRAMS - 1];
        let (shortest, longest) = (*self.char_ngrams.start(), *self.char_ngrams.end());
        let (mut padded, mut lower) = (Vec::with_capacity(64), String::new());
        for word in text.split_ascii_whitespace() {
            let word = if self.fold_case {
                lower.clear();
                lower.extend(word.chars().flat_map(char::to_lowercase));
                lower.as_bytes()
            } else {
                word.as_bytes()
            };
            let hash = word.iter().fold(BASIS, |hash, &byte| step(hash, byte));
            f(row(hash));
            let mut joined = hash;
            for &earlier in &before[..self.word_ngrams - 1] {
                if earlier == 0 {
                    break;
                }
                joined = (joined ^ earlier.rotate_left(23)).wrapping_mul(PRIME);
                f(row(joined));
            }
            before.copy_within(..MAX_WORD_NGRAMS - 2, 1);
            before[0] = hash;
            if longest == 0 {
                continue;
            }
            padded.clear();
            padded.push(b'<');
            padded.extend_from_slice(word);
            padded.push(b'>');
            for start in 0..padded.len() {
                // Bytes 10xxxxxx continue a character.
                if padded[start] & 0xC0 == 0x80 {
                    continue;
                }
                let (mut hash, mut at) = (CHAR_BASIS, start);
                for length in 1..=longest {
                    if at == padded.len() {
                        break;
                    }
                    hash = step(hash, padded[at]);
                    at += 1;
                    while at < padded.len() && padded[at] & 0xC0 == 0x80 {
                        hash = step(hash, padded[at]);
                        at += 1;
                    }
                    // A boundary alone says nothing.
                    let boundary = length == 1 && (start == 0 || at == padded.len());
                    if length >= shortest && !boundary {
                        f(row(hash));
                    }
                }
            }
        }
    }

    /// Whether every part is within what a table and a file can hold.
    fn check(&self) -> Result<(), &'static str> {
        if !(1..=MAX_WORD_NGRAMS).contains(&self.word_ngrams) {
            return Err("word n-grams are not of 1 to 5 words");
        }
        if *self.char_ngrams.end() > MAX_CHAR_NGRAM {
            return Err("character n-grams are longer than 16");
        }
        if !(8..=MAX_TABLE_BITS).contains(&self.table_bits) {
            return Err("the table has not 2^8 to 2^24 rows");
        }
        Ok(())
    }
}

const MAX_WORD_NGRAMS: usize = 5;
const MAX_CHAR_NGRAM: usize = 16;
/// FNV-1a (Fowler, Noll, Vo) on 64 bits; character n-grams begin elsewhere, so that a word and the
/// n-gram with its letters are two features.
const BASIS: u64 = 0xCBF2_9CE4_8422_2325;
const CHAR_BASIS: u64 = 0x8422_2325_CBF2_9CE4;
const PRIME: u64 = 0x0000_0100_0000_01B3;

#[inline]
fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(PRIME)
}

/// A trained classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    labels: Vec<String>,
    features: Features,
    /// Row-major, rows × (labels − 1): what a feature adds to a label's logit over that of label 0,
    /// in units of the column's step.
    weights: Vec<i8>,
    steps: Vec<f32>,
    /// Calibration: logits are multiplied by `scale` and get `biases`, one per label but the first.
    scale: f32,
    biases: Vec<f32>,
}

/// What a classifier says of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Calibrated probability of each label, in the order of [`Classifier::labels`].
    pub probabilities: Vec<f32>,
    /// Number of features found; a text without any has the probabilities of the training set.
    pub features: usize,
}

impl Prediction {
    /// The index of the likeliest label, the first of equals.
    pub fn best(&self) -> usize {
        let mut best = 0;
        for (index, &probability) in self.probabilities.iter().enumerate() {
            if probability > self.probabilities[best] {
                best = index;
            }
        }
        best
    }
}

impl Classifier {
    /// The labels, sorted.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The place of a label in [`Prediction::probabilities`].
    pub fn label(&self, name: &str) -> Option<usize> {
        self.labels.binary_search_by(|label| label.as_str().cmp(name)).ok()
    }

    /// The features it looks at.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Share of the table that training reached.
    pub fn occupancy(&self) -> f64 {
        let columns = self.columns();
        let used = self.weights.chunks(columns).filter(|row| row.iter().any(|&w| w != 0)).count();
        used as f64 / (self.weights.len() / columns) as f64
    }

    /// Classifies `text` with calibrated probabilities.
    pub fn predict(&self, text: &str) -> Prediction {
        let (logits, features) = self.logits(text);
        let calibrated = logits.iter().zip(&self.biases).map(|(z, bias)| z * self.scale + bias);
        let probabilities = softmax(std::iter::once(0.0).chain(calibrated).collect());
        Prediction { probabilities, features }
    }

    fn columns(&self) -> usize {
        self.labels.len() - 1
    }

    /// Logits over that of label 0 before calibration, and the number of features.
    fn logits(&self, text: &str) -> (Vec<f32>, usize) {
        let mut count = 0usize;
        let mut sums = vec![0i64; self.columns()];
        if let [sum] = sums.as_mut_slice() {
            // Two labels are the common case, worth a loop without an inner one.
            self.features.for_each(text, |row| {
                count += 1;
                *sum += i64::from(self.weights[row]);
            });
        } else {
            let columns = self.columns();
            self.features.for_each(text, |row| {
                count += 1;
                let weights = &self.weights[row * columns..(row + 1) * columns];
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum += i64::from(weight);
                }
            });
        }
        let mean = |(&sum, &step): (&i64, &f32)| sum as f32 * step / count.max(1) as f32;
        (sums.iter().zip(&self.steps).map(mean).collect(), count)
    }

    /// Writes the model; the bytes depend on its content alone.
    ///
    /// Magic with version, BLAKE3 of what follows, then compressed by zstd: labels, features,
    /// calibration, steps, weights.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut raw = Vec::new();
        put_varint(&mut raw, self.labels.len() as u64);
        for label in &self.labels {
            put_varint(&mut raw, label.len() as u64);
            raw.extend(label.as_bytes());
        }
        let (from, to) = (*self.features.char_ngrams.start(), *self.features.char_ngrams.end());
        let table_bits = self.features.table_bits as usize;
        let fold_case = usize::from(self.features.fold_case);
        for number in [fold_case, self.features.word_ngrams, from, to, table_bits] {
            put_varint(&mut raw, number as u64);
        }
        for value in std::iter::once(&self.scale).chain(&self.biases).chain(&self.steps) {
            raw.extend(value.to_le_bytes());
        }
        raw.extend(self.weights.iter().map(|&weight| weight as u8));
        let body = zstd::encode_all(&raw[..], 19).expect("memory can be written");
        [MAGIC, &hash_bytes(&body).0[..], &body].concat()
    }

    /// Reads a model that [`Classifier::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut file = Input { bytes, kind: KIND };
        if file.take(MAGIC.len())? != MAGIC {
            return Err(file.damaged("wrong first bytes"));
        }
        let hash = file.take(32)?;
        if *hash != hash_bytes(file.bytes).0 {
            return Err(file.damaged("its content has another hash than it says"));
        }
        let mut raw = Vec::new();
        zstd::Decoder::new(file.bytes)
            .and_then(|decoder| decoder.take(MAX_FILE_BYTES).read_to_end(&mut raw))
            .map_err(|error| file.damaged(error.to_string()))?;
        Self::from_raw(&raw)
    }

    fn from_raw(raw: &[u8]) -> Result<Self, ModelError> {
        let mut input = Input { bytes: raw, kind: KIND };
        let count = input.count(1)?;
        if !(2..=MAX_LABELS).contains(&count) {
            return Err(input.damaged("it has not 2 to 1000 labels"));
        }
        let mut labels: Vec<String> = Vec::with_capacity(count);
        for _ in 0..count {
            let label = input.string()?.to_owned();
            if labels.last().is_some_and(|last| *last >= label) {
                return Err(input.damaged("labels are not sorted"));
            }
            labels.push(label);
        }
        let mut number = || input.varint().map(|value| value.min(1 << 20) as usize);
        let (fold_case, word_ngrams) = (number()? != 0, number()?);
        let (char_ngrams, table_bits) = (number()?..=number()?, number()? as u32);
        let features = Features { fold_case, word_ngrams, char_ngrams, table_bits };
        features.check().map_err(|problem| input.damaged(problem))?;
        let scale = input.float()?;
        let mut floats = || (1..count).map(|_| input.float()).collect::<Result<Vec<f32>, _>>();
        let (biases, steps) = (floats()?, floats()?);
        let rest = input.bytes;
        if rest.len() != (count - 1) << features.table_bits {
            return Err(input.damaged("its table has another size than it says"));
        }
        let weights = rest.iter().map(|&byte| byte as i8).collect();
        Ok(Self { labels, features, weights, steps, scale, biases })
    }
}

/// Turns logits into probabilities.
fn softmax(mut logits: Vec<f32>) -> Vec<f32> {
    let best = logits.iter().copied().fold(f32::MIN, f32::max);
    for logit in &mut logits {
        *logit = (*logit - best).exp();
    }
    let total: f32 = logits.iter().sum();
    for logit in &mut logits {
        *logit /= total;
    }
    logits
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use proptest::prelude::*;

    fn toy() -> Classifier {
        let texts = [
            ("law", "Artículo primero. Apruébase la ordenanza regional que regula el agua."),
            ("law", "Artículo segundo. Encárguese a la gerencia el cumplimiento de la norma."),
            ("noise", "ES C0PIA FIEYDBL 0R1GINAL ..:: Reg.:.. 92 2 Fech§ ,,.. _-~ cosicanc"),
            ("noise", "¡.. ~~ GALLA0 ional de| Ca||ao ..:,. 2O25 N* 1|ll fi. ;; r3gional"),
        ];
        let examples: Vec<(&str, &str)> = texts.repeat(10);
        let config = ClassifierConfig {
            features: Features { table_bits: 12, ..Features::default() },
            ..ClassifierConfig::default()
        };
        train(&examples, &config).unwrap()
    }

    #[test]
    fn a_classifier_learns_and_survives_writing() {
        let model = toy();
        assert_eq!(model.labels(), ["law", "noise"]);
        assert_eq!(model.label("noise"), Some(1));
        let check = |text: &str, expect: usize| {
            assert_eq!(model.predict(text).best(), expect, "{text}: {:?}", model.predict(text));
        };
        check("Artículo tercero. La gerencia regional aprueba la ordenanza.", 0);
        check("..:: 2O25 N* GALLA0 §§ ~~", 1);
        assert_eq!(Classifier::from_bytes(&model.to_bytes()).unwrap(), model);
        assert_eq!(model.to_bytes(), toy().to_bytes());
        assert_eq!(model.predict("").features, 0);
    }

    #[test]
    fn features_are_words_pairs_and_pieces() {
        let count = |features: Features, text: &str| {
            let mut rows = Vec::new();
            features.for_each(text, |row| rows.push(row));
            rows.len()
        };
        let words =
            Features { word_ngrams: 1, char_ngrams: 0..=0, table_bits: 20, ..Features::default() };
        assert_eq!(count(words.clone(), "uno dos\ntres"), 3);
        assert_eq!(count(Features { word_ngrams: 2, ..words.clone() }, "uno dos tres"), 5);
        // `<año>` has five characters: three of length 3.
        assert_eq!(count(Features { char_ngrams: 3..=3, ..words.clone() }, "año"), 1 + 3);
        assert_eq!(count(Features { char_ngrams: 1..=1, ..words }, "año"), 1 + 3);
        let rows = |fold_case, text: &str| {
            let mut rows = Vec::new();
            Features { fold_case, ..Features::default() }.for_each(text, |row| rows.push(row));
            rows
        };
        assert_eq!(rows(true, "AÑO Nuevo"), rows(false, "año nuevo"));
        assert_ne!(rows(false, "AÑO Nuevo"), rows(false, "año nuevo"));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let bytes = toy().to_bytes();
        for at in (0..bytes.len()).step_by(7) {
            let mut broken = bytes.clone();
            broken[at] ^= 0x55;
            assert!(Classifier::from_bytes(&broken).is_err());
            assert!(Classifier::from_bytes(&bytes[..at]).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(at in 0usize..60, with: u8, text in "\\PC{0,80}") {
            // Behind the hash, which anybody can compute.
            static RAW: LazyLock<Vec<u8>> =
                LazyLock::new(|| zstd::decode_all(&toy().to_bytes()[40..]).unwrap());
            let mut raw = RAW.clone();
            raw[at] = with;
            if let Ok(model) = Classifier::from_raw(&raw) {
                prop_assert!(model.predict(&text).probabilities.len() == model.labels().len());
            }
        }
    }
}

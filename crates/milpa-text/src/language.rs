//! Language identification by character n-grams, small enough to live inside the program.
//!
//! A naive Bayes classifier over hashed 1–4-grams and short words, in the spirit of HeLI (Jauhiainen
//! et al. 2016): a language scores w(f) = ln p(f | language) − ln p₀ for each known feature f and
//! nothing for an unknown one, with one floor p₀ for all, so a language with little training text
//! is not at a disadvantage. Weights are 4-bit, the file is a sorted, compressed posting list.
//! It knows ISO 639-3 labels and texts; which languages a corpus wants is not its business.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    sync::OnceLock,
};

use milpa_base::seed::splitmix64;

use crate::{
    codec::{Input, ModelError, put_varint},
    normalise::fold_word,
    segment::words,
};

mod codes;
mod train;

pub use codes::{canonical, macrolanguage, matches};
pub use train::{Example, Score, TrainingConfig, calibrate, evaluate, train};

/// First bytes of a model file; the digit is the version of its layout.
const MAGIC: &[u8; 8] = b"MILPALI1";
/// Name of the format in errors.
const KIND: &str = "language model";
/// Largest model that is read, decompressed, in bytes.
const MAX_MODEL_BYTES: u64 = 64 << 20;
/// Characters of a text that are looked at: three pieces from its begin, middle and end.
const MAX_CHARS: usize = 3000;
/// Longest word that is a feature as a whole, in characters.
const MAX_WORD_FEATURE: usize = 10;

/// The language of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Identification {
    /// ISO 639-3 code, or `und` where the text has no letters or resembles no known language.
    pub label: &'static str,
    /// Probability that the label is right, calibrated on held-out paragraphs of known languages;
    /// lowered where the text has many n-grams that the language never showed.
    pub confidence: f32,
    /// Probability of the best label minus that of the second.
    pub margin: f32,
    /// The second-best label.
    pub second: &'static str,
    /// Share of the text's features that the best label knows.
    pub coverage: f32,
}

impl Identification {
    /// The answer for a text in no known language.
    pub const UNDETERMINED: Self =
        Self { label: "und", confidence: 0.0, margin: 0.0, second: "und", coverage: 0.0 };
}

/// A trained language identifier.
#[derive(Debug, Clone, PartialEq)]
pub struct LanguageModel {
    labels: Vec<&'static str>,
    /// Sorted feature hashes; postings of `features[i]` are `starts[i]..starts[i + 1]`.
    features: Vec<u32>,
    starts: Vec<u32>,
    posting_labels: Vec<u16>,
    /// Weights in steps of `weight_step` nats, 1 to 15.
    posting_weights: Vec<u8>,
    weight_step: f32,
    /// Softmax temperature per √features, from [`calibrate`].
    temperature: f32,
    /// Coverage below which confidence falls, per label.
    expected_coverage: Vec<f32>,
    /// Start of the features of each value of the upper 16 bits, to shorten the search.
    index: Vec<u32>,
}

impl LanguageModel {
    /// The model that comes with the program: trained on the Universal Declaration of Human Rights
    /// (public domain) and, for Spanish, Portuguese and English, on public-domain novels and law.
    pub fn embedded() -> &'static Self {
        static MODEL: OnceLock<LanguageModel> = OnceLock::new();
        MODEL.get_or_init(|| {
            Self::from_bytes(include_bytes!("../models/language.bin"))
                .expect("the embedded model is tested to load")
        })
    }

    /// The labels it can give, sorted.
    pub fn labels(&self) -> &[&'static str] {
        &self.labels
    }

    /// Number of (feature, language) weights.
    pub fn len(&self) -> usize {
        self.posting_labels.len()
    }

    /// Whether the model knows nothing.
    pub fn is_empty(&self) -> bool {
        self.posting_labels.is_empty()
    }

    /// Identifies the language of `text`. Long texts are judged by three pieces of 1,000
    /// characters from their begin, middle and end.
    pub fn identify(&self, text: &str) -> Identification {
        let mut scores = vec![0f32; self.labels.len()];
        let mut known = vec![0u32; self.labels.len()];
        let features = self.score(text, &mut scores, &mut known);
        if features == 0 || self.labels.is_empty() {
            return Identification::UNDETERMINED;
        }
        let mut best = 0;
        for index in 1..scores.len() {
            if scores[index] > scores[best] {
                best = index;
            }
        }
        let mut second = usize::from(best == 0 && scores.len() > 1);
        for index in 0..scores.len() {
            if index != best && (scores[index] > scores[second] || second == best) {
                second = index;
            }
        }
        if known[best] == 0 {
            return Identification::UNDETERMINED;
        }
        let scale = 1.0 / (self.temperature * (features as f32).sqrt());
        let total: f32 = scores.iter().map(|score| ((score - scores[best]) * scale).exp()).sum();
        let probability = 1.0 / total;
        let next = ((scores[second] - scores[best]) * scale).exp() / total;
        let coverage = known[best] as f32 / features as f32;
        let trust = (coverage / self.expected_coverage[best].max(1e-3)).clamp(0.0, 1.0);
        Identification {
            label: self.labels[best],
            confidence: probability * trust,
            margin: probability - next,
            second: self.labels[second],
            coverage,
        }
    }

    /// Adds the weights of the text's features to `scores`; returns the number of features.
    fn score(&self, text: &str, scores: &mut [f32], known: &mut [u32]) -> usize {
        let mut count = 0;
        let mut add = |feature: u32| {
            count += 1;
            let Some(at) = self.find(feature) else { return };
            for posting in self.starts[at] as usize..self.starts[at + 1] as usize {
                let label = self.posting_labels[posting] as usize;
                scores[label] += f32::from(self.posting_weights[posting]) * self.weight_step;
                known[label] += 1;
            }
        };
        for piece in pieces(text) {
            for_each_feature(piece, &mut add);
        }
        count
    }

    fn find(&self, feature: u32) -> Option<usize> {
        let bucket = (feature >> 16) as usize;
        let (low, high) = (self.index[bucket] as usize, self.index[bucket + 1] as usize);
        self.features[low..high].binary_search(&feature).ok().map(|at| low + at)
    }

    /// Writes the model; the bytes depend on its content alone.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut raw = Vec::new();
        put_varint(&mut raw, self.labels.len() as u64);
        for (label, coverage) in self.labels.iter().zip(&self.expected_coverage) {
            raw.push(label.len() as u8);
            raw.extend(label.as_bytes());
            raw.extend(coverage.to_le_bytes());
        }
        raw.extend(self.weight_step.to_le_bytes());
        raw.extend(self.temperature.to_le_bytes());
        put_varint(&mut raw, self.features.len() as u64);
        let mut before = 0;
        for &feature in &self.features {
            put_varint(&mut raw, u64::from(feature - before));
            before = feature;
        }
        for bounds in self.starts.windows(2) {
            put_varint(&mut raw, u64::from(bounds[1] - bounds[0]));
        }
        // Separate streams compress better than interleaved ones.
        for bounds in self.starts.windows(2) {
            let mut before = 0;
            for &label in &self.posting_labels[bounds[0] as usize..bounds[1] as usize] {
                put_varint(&mut raw, u64::from(label - before));
                before = label;
            }
        }
        raw.extend(
            self.posting_weights
                .chunks(2)
                .map(|pair| pair[0] | (pair.get(1).copied().unwrap_or(0) << 4)),
        );
        let mut out = MAGIC.to_vec();
        out.extend(zstd::encode_all(&raw[..], 19).expect("memory can be written"));
        out
    }

    /// Reads a model that [`LanguageModel::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let damaged = |what: &str| ModelError::Damaged { kind: KIND, detail: what.to_owned() };
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("wrong first bytes"))?;
        let mut raw = Vec::new();
        zstd::Decoder::new(body)
            .and_then(|decoder| decoder.take(MAX_MODEL_BYTES).read_to_end(&mut raw))
            .map_err(|error| damaged(&error.to_string()))?;
        let mut input = Input { bytes: &raw, kind: KIND };
        let label_count = input.count(1)?;
        if label_count > usize::from(u16::MAX) {
            return Err(damaged("too many labels"));
        }
        let (mut labels, mut expected_coverage) = (Vec::new(), Vec::new());
        for _ in 0..label_count {
            let length = input.take(1)?[0] as usize;
            let label = std::str::from_utf8(input.take(length)?)
                .map_err(|_| damaged("a label is not UTF-8"))?;
            labels.push(codes::intern(label).ok_or_else(|| damaged("a label is no code"))?);
            expected_coverage.push(input.float()?);
        }
        let weight_step = input.float()?;
        let temperature = input.float()?;
        if !(weight_step > 0.0 && temperature > 0.0) {
            return Err(damaged("a scale is not positive"));
        }
        let feature_count = input.count(1)?;
        let mut features = Vec::with_capacity(feature_count);
        let mut feature = 0u64;
        for at in 0..feature_count {
            let delta = input.varint()?;
            if at > 0 && delta == 0 {
                return Err(damaged("a feature is doubled"));
            }
            feature = feature.saturating_add(delta);
            features.push(u32::try_from(feature).map_err(|_| damaged("a feature is too large"))?);
        }
        let mut starts = vec![0u32];
        let mut total = 0u64;
        for _ in 0..feature_count {
            total = total.saturating_add(input.varint()?);
            if total > input.bytes.len() as u64 {
                return Err(damaged("more postings than bytes"));
            }
            starts.push(total as u32);
        }
        let mut posting_labels = Vec::with_capacity(total as usize);
        for bounds in starts.windows(2) {
            let mut label = 0u64;
            for _ in bounds[0]..bounds[1] {
                label = label.saturating_add(input.varint()?);
                if label >= label_count as u64 {
                    return Err(damaged("a posting names no label"));
                }
                posting_labels.push(label as u16);
            }
        }
        let packed = input.take((total as usize).div_ceil(2))?;
        let posting_weights = (0..total as usize)
            .map(|at| if at % 2 == 0 { packed[at / 2] & 15 } else { packed[at / 2] >> 4 })
            .collect();
        if !input.bytes.is_empty() {
            return Err(damaged("bytes are left over"));
        }
        let index = index_of(&features);
        Ok(Self {
            labels,
            features,
            starts,
            posting_labels,
            posting_weights,
            weight_step,
            temperature,
            expected_coverage,
            index,
        })
    }
}

fn index_of(features: &[u32]) -> Vec<u32> {
    (0..=1u64 << 16)
        .map(|bucket| features.partition_point(|&f| u64::from(f) < bucket << 16) as u32)
        .collect()
}

/// Three pieces of a long text, or the whole of a short one.
fn pieces(text: &str) -> Vec<&str> {
    // Four bytes hold any character, so shorter texts need no counting.
    if text.len() <= MAX_CHARS {
        return vec![text];
    }
    let piece = |from: usize| {
        let start = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
        let rest = &text[start..];
        let end = rest.char_indices().nth(MAX_CHARS / 3).map_or(rest.len(), |(at, _)| at);
        &rest[..end]
    };
    let third = text.len() / 3;
    vec![piece(0), piece(third), piece(2 * third)]
}

/// Calls `add` with the hash of each feature of `text`: the 1–4-grams of each word with a space
/// on both sides, and the word itself if it is short. Words without letters give nothing.
fn for_each_feature(text: &str, add: &mut impl FnMut(u32)) {
    let (mut folded, mut padded) = (String::new(), Vec::new());
    for word in words(text) {
        if !word.chars().any(char::is_alphabetic) || word.chars().any(|c| c.is_ascii_digit()) {
            continue;
        }
        fold_word(word, &mut folded);
        padded.clear();
        padded.push(u32::from(' '));
        // A run without spaces (Thai, Chinese) may be long; its n-grams are all that is used.
        padded.extend(folded.chars().map(u32::from));
        padded.push(u32::from(' '));
        let letters = padded.len() - 2;
        for start in 0..padded.len() {
            let mut hash = 0u64;
            for (length, &c) in padded[start..].iter().take(4).enumerate() {
                hash = splitmix64(hash ^ u64::from(c));
                // The padding alone says nothing.
                if length > 0 || c != u32::from(' ') {
                    add((hash >> 32) as u32);
                }
            }
        }
        if (3..=MAX_WORD_FEATURE).contains(&letters) {
            let hash = padded.iter().fold(1u64, |hash, &c| splitmix64(hash ^ u64::from(c)));
            add((hash >> 32) as u32);
        }
    }
}

/// Counts the features of `texts`.
fn count_features<'a>(texts: impl Iterator<Item = &'a str>) -> (HashMap<u32, u32>, u64) {
    let mut counts: HashMap<u32, u32> = HashMap::new();
    let mut total = 0;
    for text in texts {
        for_each_feature(text, &mut |feature| {
            *counts.entry(feature).or_default() += 1;
            total += 1;
        });
    }
    (counts, total)
}

/// Builds a model from its weights: (feature, label index) → quantised weight.
fn assemble(
    labels: Vec<&'static str>,
    weights: &BTreeMap<(u32, u16), u8>,
    weight_step: f32,
) -> LanguageModel {
    let mut model = LanguageModel {
        expected_coverage: vec![0.0; labels.len()],
        labels,
        features: Vec::new(),
        starts: Vec::new(),
        posting_labels: Vec::new(),
        posting_weights: Vec::new(),
        weight_step,
        temperature: 1.0,
        index: Vec::new(),
    };
    for (&(feature, label), &weight) in weights {
        if model.features.last() != Some(&feature) {
            model.features.push(feature);
            model.starts.push(model.posting_labels.len() as u32);
        }
        model.posting_labels.push(label);
        model.posting_weights.push(weight);
    }
    model.starts.push(model.posting_labels.len() as u32);
    model.index = index_of(&model.features);
    model
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn toy() -> LanguageModel {
        let texts = [
            ("spa", "el perro come en la casa y los niños juegan con la pelota en el parque"),
            ("por", "o cão come em casa e as crianças brincam com a bola no parque não é"),
            ("quy", "allqu wasipi mikun warmakuna pukllanku pelotawan parquepi runakunaqa"),
        ];
        let examples = texts.map(|(label, text)| Example { label, domain: "", text });
        train(&examples, &TrainingConfig::default())
    }

    #[test]
    fn a_model_survives_writing() {
        let model = toy();
        assert_eq!(LanguageModel::from_bytes(&model.to_bytes()).unwrap(), model);
        assert_eq!(model.identify("los niños en la casa").label, "spa");
        assert_eq!(model.identify("não é a bola").label, "por");
        assert_eq!(model.identify("warmakuna wasipi").label, "quy");
        assert_eq!(model.identify("12345 !!"), Identification::UNDETERMINED);
    }

    #[test]
    fn training_is_the_same_each_time() {
        assert_eq!(toy().to_bytes(), toy().to_bytes());
    }

    #[test]
    fn a_damaged_model_is_refused() {
        let bytes = toy().to_bytes();
        assert!(LanguageModel::from_bytes(b"").is_err());
        for cut in [4, 9, 20, bytes.len() - 1] {
            assert!(LanguageModel::from_bytes(&bytes[..cut]).is_err());
        }
        // Damage below the compression must not panic either.
        let raw = zstd::decode_all(&bytes[8..]).unwrap();
        for at in 0..raw.len() {
            let mut broken = raw.clone();
            broken[at] ^= 0x81;
            let mut file = MAGIC.to_vec();
            file.extend(zstd::encode_all(&broken[..], 1).unwrap());
            if let Ok(model) = LanguageModel::from_bytes(&file) {
                model.identify("el perro");
            }
        }
    }

    #[test]
    fn long_texts_are_judged_by_pieces() {
        let text = "ñandé ".repeat(3000);
        let pieces = pieces(&text);
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|piece| piece.chars().count() <= MAX_CHARS / 3));
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in "\\PC{0,200}") {
            let answer = LanguageModel::embedded().identify(&text);
            prop_assert!((0.0..=1.0).contains(&answer.confidence));
            prop_assert!((0.0..=1.0).contains(&answer.margin));
        }
    }
}

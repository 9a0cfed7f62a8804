//! Language identification by character n-grams, small enough to live inside the program.
//!
//! A naive Bayes classifier over hashed 1–4-grams and short words, in the spirit of HeLI (Jauhiainen
//! et al. 2016): a language scores w(f) = ln p(f | language) − ln p₀ for each known feature f and
//! nothing for an unknown one, with one floor p₀ for all, so a language with little training text
//! is not at a disadvantage. Weights are 4-bit, the file is a sorted, compressed posting list.
//! Scores are sums of whole numbers, word by word, so those of usual words are kept from text to
//! text and the answer is the same whatever was asked before. [`LanguageModel::identify_segments`]
//! looks at the segments of a text and finds mixed ones. It knows ISO 639-3 labels and texts; which
//! languages a corpus wants is not its business.

use std::{
    cell::RefCell,
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::segment::words;

mod codes;
mod document;
mod features;
mod file;
mod train;

pub use codes::{canonical, language_code, macrolanguage, matches};
pub use document::{DocumentLanguages, Segment};
pub use train::{Example, Score, TrainingConfig, calibrate, evaluate, train};

use features::{Scratch, pieces};

/// A language, and where the model tells them apart, its script or regional form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// ISO 639-3 code.
    pub language: &'static str,
    /// A script (`latn`) or a form (`asante`), or empty.
    pub variety: &'static str,
}

impl Label {
    /// Reads `uzn` or `uzn_cyrl`; `None` for a language or a variety of another shape or unknown.
    pub fn parse(name: &str) -> Option<Self> {
        let (language, variety) = name.split_once('_').unwrap_or((name, ""));
        Some(Self { language: codes::intern(language)?, variety: codes::variety(variety)? })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.language)?;
        if self.variety.is_empty() { Ok(()) } else { write!(f, "_{}", self.variety) }
    }
}

/// The language of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Identification {
    /// ISO 639-3 code, or `und` where the text has no letters or resembles no known language.
    pub label: &'static str,
    /// The script or form, where the model knows several of the language; otherwise empty.
    pub variety: &'static str,
    /// Probability that the label is right, calibrated on held-out paragraphs of known languages;
    /// lowered where the text's n-grams are less typical than those of any text of the language.
    pub confidence: f32,
    /// Probability of the best label minus that of the second.
    pub margin: f32,
    /// The second-best label.
    pub second: &'static str,
    /// Mean weight of the text's n-grams in the language, over what held-out texts have; a text of
    /// random letters has about 0.2.
    pub typicality: f32,
}

impl Identification {
    /// The answer for a text in no known language.
    pub const UNDETERMINED: Self = Self {
        label: "und",
        variety: "",
        confidence: 0.0,
        margin: 0.0,
        second: "und",
        typicality: 0.0,
    };
}

/// A trained language identifier.
#[derive(Debug)]
pub struct LanguageModel {
    /// Sorted.
    labels: Vec<Label>,
    /// The languages of `labels`, each once, and the place of each label's among them.
    languages: Vec<&'static str>,
    language_of: Vec<usize>,
    /// Sorted feature hashes; postings of `features[i]` are `starts[i]..starts[i + 1]`.
    features: Vec<u32>,
    starts: Vec<u32>,
    /// The label's place in the upper 12 bits, the weight in the lower 4.
    postings: Vec<u16>,
    /// Nats in one unit of weight.
    weight_step: f32,
    /// Softmax temperature per √features, from [`calibrate`].
    temperature: f32,
    /// Mean weight of a feature in held-out texts, per label.
    expected_weight: Vec<f32>,
    /// An open-addressing table: a feature's hash with the place of its weights.
    table: Vec<(u32, Place)>,
    /// A bit for each value of the lower bits of the features in the table: it fits a core's cache,
    /// and most unknown features need not be looked for.
    filter: Vec<u64>,
    /// The weights of features that many labels have, of all labels.
    rows: Vec<u8>,
    /// Tells the models of a process apart, for what threads keep of them.
    identity: u64,
}

/// Most labels of a model: what 12 bits of a posting can name.
const MAX_LABELS: usize = 1 << 12;
/// Most postings: what 24 bits of a place can name.
const MAX_POSTINGS: usize = 1 << 24;
/// Bits of a feature that the filter looks at: 256 kB, of which 330,000 features fill a seventh.
const FILTER_BITS: u32 = 21;
/// From this many labels on a feature has a row in place of postings: it is added eight at a time.
const DENSE: usize = 40;

impl LanguageModel {
    /// The model that comes with the program; `models/README.md` says what it was trained on.
    pub fn embedded() -> &'static Self {
        static MODEL: OnceLock<LanguageModel> = OnceLock::new();
        MODEL.get_or_init(|| {
            Self::from_bytes(include_bytes!("../models/language.bin"))
                .expect("the embedded model is tested to load")
        })
    }

    /// Puts a model together and makes its tables.
    fn assemble(
        labels: Vec<Label>,
        postings_of: (Vec<u32>, Vec<u32>, Vec<u16>),
        weight_step: f32,
        temperature: f32,
        expected_weight: Vec<f32>,
    ) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(1);
        let (features, starts, postings) = postings_of;
        let mut languages: Vec<&'static str> = labels.iter().map(|label| label.language).collect();
        languages.dedup();
        let place = |label: &Label| languages.iter().position(|l| *l == label.language);
        let language_of = labels
            .iter()
            .map(|label| place(label).expect("languages are those of labels"))
            .collect();
        // At most three quarters full, so a search is short and finds an empty place.
        let slots = (features.len() * 4 / 3 + 1).next_power_of_two();
        let mut table = vec![(0, Place(0)); slots];
        let mut filter = vec![0u64; 1 << (FILTER_BITS - 6)];
        let mut rows: Vec<u8> = Vec::new();
        for (&feature, bounds) in features.iter().zip(starts.windows(2)) {
            let own = &postings[bounds[0] as usize..bounds[1] as usize];
            let mut place = Place(bounds[0] << 8 | own.len() as u32);
            if own.is_empty() {
                continue;
            }
            if own.len() >= DENSE {
                let row = rows.len();
                place = Place((row / labels.len()) as u32 * 256 + DENSE as u32);
                rows.resize(row + labels.len(), 0);
                for posting in own {
                    rows[row + usize::from(posting >> 4)] = (posting & 15) as u8;
                }
            }
            let mut slot = first_slot(&table, feature);
            while table[slot].1.0 != 0 {
                slot = (slot + 1) & (table.len() - 1);
            }
            table[slot] = (feature, place);
            let (word, bit) = filter_bit(feature);
            filter[word] |= bit;
        }
        let identity = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self {
            labels,
            languages,
            language_of,
            features,
            starts,
            postings,
            weight_step,
            temperature,
            expected_weight,
            table,
            filter,
            rows,
            identity,
        }
    }

    /// The labels it can give, sorted.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The languages of its labels, sorted.
    pub fn languages(&self) -> &[&'static str] {
        &self.languages
    }

    /// Number of (feature, label) weights.
    pub fn len(&self) -> usize {
        self.postings.len()
    }

    /// Whether the model knows nothing.
    pub fn is_empty(&self) -> bool {
        self.postings.is_empty()
    }

    /// Identifies the language of `text`. Long texts are judged by three pieces of 1,000
    /// characters from their begin, middle and end.
    pub fn identify(&self, text: &str) -> Identification {
        self.with_scratch(|scratch| {
            scratch.clear();
            for piece in pieces(text) {
                words(piece).for_each(|word| scratch.add_word(self, word));
            }
            self.judge(scratch)
        })
    }

    /// Runs `f` with this thread's working memory for this model.
    fn with_scratch<T>(&self, f: impl FnOnce(&mut Scratch) -> T) -> T {
        thread_local! {
            static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
        }
        SCRATCH.with_borrow_mut(|kept| {
            if kept.as_ref().is_none_or(|scratch| scratch.identity != self.identity) {
                *kept = Some(Scratch::new(self));
            }
            f(kept.as_mut().expect("it was just made"))
        })
    }

    /// The answer for the words that were added to `scratch`.
    fn judge(&self, scratch: &mut Scratch) -> Identification {
        let features = scratch.features();
        let mut likely = std::mem::take(&mut scratch.likely);
        let answer = self.judge_scores(scratch.scores(), features, 1.0, &mut likely);
        scratch.likely = likely;
        answer
    }

    /// The answer for `scores` of so many `features`, of which each counts as `share` of one that says
    /// something new. `likely` is working memory.
    fn judge_scores(
        &self,
        scores: &[u32],
        features: usize,
        share: f32,
        likely: &mut Likely,
    ) -> Identification {
        let best_score = scores.iter().copied().max().unwrap_or(0);
        if features == 0 || best_score == 0 {
            return Identification::UNDETERMINED;
        }
        let evidence = (features as f32 * share).sqrt() / features as f32;
        let scale = self.weight_step / self.temperature * evidence;
        // Less than e⁻¹⁴ of the best is nothing, even of 400 labels.
        let least = best_score.saturating_sub((LEAST_EXPONENT / scale) as u32);
        let Likely { labels, weights } = likely;
        labels.clear();
        for (group, own) in scores.chunks(GROUP).enumerate() {
            // Nearly all groups are passed over by one comparison of all their scores.
            if own.iter().max().is_some_and(|&best| best >= least) {
                let likely = own.iter().enumerate().filter(|&(_, &score)| score >= least);
                labels.extend(likely.map(|(at, _)| group * GROUP + at));
            }
        }
        weights.clear();
        weights.extend(labels.iter().map(|&label| (best_score - scores[label]) as f32 * scale));
        // A loop of its own, so that it is done for several at once.
        for weight in weights.iter_mut() {
            *weight = exp_of_negative(*weight);
        }
        let mut sums = [0f32; 8];
        for eight in weights.chunks(sums.len()) {
            sums.iter_mut().zip(eight).for_each(|(sum, weight)| *sum += weight);
        }
        let total: f32 = sums.iter().sum();
        // The weight of a language and the best of its labels.
        let (mut first, mut second) = ((0.0, 0), (0.0, None));
        let mut at = 0;
        while at < labels.len() {
            let (mut weight, mut best) = (weights[at], labels[at]);
            let language = self.language_of[best];
            at += 1;
            // Labels are sorted, so those of one language stand together.
            while at < labels.len() && self.language_of[labels[at]] == language {
                weight += weights[at];
                best = if scores[labels[at]] > scores[best] { labels[at] } else { best };
                at += 1;
            }
            if weight > first.0 {
                if first.0 > 0.0 {
                    second = (first.0, Some(self.language_of[first.1]));
                }
                first = (weight, best);
            } else if weight > second.0 {
                second = (weight, Some(language));
            }
        }
        let best = first.1;
        let (probability, next) = (first.0 / total, second.0 / total);
        let mean = scores[best] as f32 / features as f32;
        let typicality = mean / self.expected_weight[best].max(1e-3);
        Identification {
            label: self.labels[best].language,
            variety: self.labels[best].variety,
            // Other subjects than the training text's are less typical; half is normal.
            confidence: probability * (2.0 * typicality).min(1.0),
            margin: probability - next,
            second: second.1.map_or("und", |language| self.languages[language]),
            typicality,
        }
    }

    /// Finds where the weights of `features` are; those that are surely unknown are left out.
    ///
    /// Each step is done for all features before the next one, so that the processor waits for the
    /// tables' memory once and not for each feature.
    #[inline]
    fn find(&self, features: &mut Vec<u32>, places: &mut Vec<(u32, Place)>) {
        let mut known = 0;
        for at in 0..features.len() {
            let feature = features[at];
            let (word, bit) = filter_bit(feature);
            // No branch: half of them would be guessed wrong.
            features[known] = feature;
            known += usize::from(self.filter[word] & bit != 0);
        }
        features.truncate(known);
        places.clear();
        places.extend(features.iter().map(|&feature| self.table[first_slot(&self.table, feature)]));
        for (&feature, found) in features.iter().zip(places.iter_mut()) {
            if found.0 != feature && found.1.0 != 0 {
                *found = self.search(feature);
            }
        }
    }

    /// The slot of a feature, or the empty one where it would be.
    fn search(&self, feature: u32) -> (u32, Place) {
        let mut slot = first_slot(&self.table, feature);
        loop {
            let (known, place) = self.table[slot];
            if known == feature || place.0 == 0 {
                return (known, place);
            }
            slot = (slot + 1) & (self.table.len() - 1);
        }
    }

    /// Adds the weights at a place to the sums of labels.
    #[inline]
    fn add(&self, place: Place, sums: &mut [u16]) {
        let (start, count) = ((place.0 >> 8) as usize, (place.0 & 255) as usize);
        if count < DENSE {
            for &posting in &self.postings[start..start + count] {
                sums[usize::from(posting >> 4)] += posting & 15;
            }
        } else {
            let row = start * self.labels.len();
            for (sum, &weight) in sums.iter_mut().zip(&self.rows[row..]) {
                *sum += u16::from(weight);
            }
        }
    }
}

/// Scores that are compared at once.
const GROUP: usize = 16;
/// Below e to minus this a likelihood counts as none.
const LEAST_EXPONENT: f32 = 14.0;

/// Working memory of a judgement: labels that are likely enough, with their weights.
#[derive(Debug, Default)]
struct Likely {
    labels: Vec<usize>,
    weights: Vec<f32>,
}

/// e⁻ˣ for x from 0 to a little over [`LEAST_EXPONENT`], with six right digits. Made of operations that
/// are the same on every machine, as those of a mathematical library are not.
#[inline]
fn exp_of_negative(x: f32) -> f32 {
    // ln 2 in two parts: the first has so few bits that its multiples are exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let whole = (x * std::f32::consts::LOG2_E) as i32;
    // What is left is e⁻ʳ with r below ln 2: the first terms of its series.
    let r = x - whole as f32 * LN_2.0 - whole as f32 * LN_2.1;
    let mut series = 1.0;
    for term in (1..=8u8).rev() {
        series = 1.0 - r / f32::from(term) * series;
    }
    series * f32::from_bits(((127 - whole.clamp(0, 126)) as u32) << 23)
}

/// The number of postings in the lower 8 bits and the first of them above; or [`DENSE`] and the
/// number of a row. Zero is an empty slot.
#[derive(Debug, Clone, Copy)]
struct Place(u32);

/// The word of the filter and the bit in it that belong to a feature.
#[inline]
fn filter_bit(feature: u32) -> (usize, u64) {
    let bit = feature as usize & ((1 << FILTER_BITS) - 1);
    (bit / 64, 1 << (bit % 64))
}

/// Where a feature's search begins: the upper bits of its hash.
fn first_slot(table: &[(u32, Place)], feature: u32) -> usize {
    ((u64::from(feature) * table.len() as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn toy() -> LanguageModel {
        let texts = [
            ("spa", "el perro come en la casa y los niños juegan con la pelota en el parque"),
            ("por", "o cão come em casa e as crianças brincam com a bola no parque não é"),
            ("quy", "allqu wasipi mikun warmakuna pukllanku pelotawan parquepi runakunaqa"),
            ("uzn_cyrl", "болалар боғда тўп ўйнайдилар ва ит уйда овқат ейди"),
            ("uzn_latn", "bolalar bogʻda toʻp oʻynaydilar va it uyda ovqat yeydi"),
        ];
        let examples = texts.map(|(label, text)| Example { label, domain: "", text });
        train(&examples, &TrainingConfig::default())
    }

    fn check(text: &str, label: &str, variety: &str) {
        let answer = toy().identify(text);
        assert_eq!((answer.label, answer.variety), (label, variety), "{text}: {answer:?}");
    }

    #[test]
    fn exponentials_are_right() {
        for step in 0..=1500u16 {
            let x = f32::from(step) / 100.0;
            let (found, exact) = (f64::from(exp_of_negative(x)), (-f64::from(x)).exp());
            assert!((found / exact - 1.0).abs() < 1e-6, "{x}: {found} for {exact}");
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
    }

    #[test]
    fn languages_and_scripts_are_told_apart() {
        check("los niños en la casa", "spa", "");
        check("não é a bola", "por", "");
        check("warmakuna wasipi", "quy", "");
        check("болалар уйда", "uzn", "cyrl");
        check("bolalar uyda", "uzn", "latn");
        assert_eq!(toy().identify("12345 !!"), Identification::UNDETERMINED);
        assert_eq!(toy().languages(), ["por", "quy", "spa", "uzn"]);
        assert_eq!(Label::parse("uzn_cyrl").unwrap().to_string(), "uzn_cyrl");
        assert_eq!(Label::parse("uzn_xxxx"), None);
    }

    #[test]
    fn training_is_the_same_each_time() {
        assert_eq!(toy().to_bytes(), toy().to_bytes());
    }

    #[test]
    fn an_answer_does_not_depend_on_those_before() {
        let texts = ["los niños en la casa", "warmakuna", "não é", "bolalar uyda ovqat yeydi"];
        let model = toy();
        let first: Vec<Identification> = texts.iter().map(|text| model.identify(text)).collect();
        let other = toy();
        for (text, first) in texts.iter().zip(first).rev() {
            assert_eq!(other.identify(text), first);
            assert_eq!(model.identify(text), first);
        }
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

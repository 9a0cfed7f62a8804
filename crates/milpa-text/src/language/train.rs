//! Training, calibration and measurement of the language identifier.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Identification, Label, LanguageModel, MAX_LABELS, MAX_POSTINGS, features::for_each_feature,
    words,
};
use crate::metrics::calibration_error;

/// How a model is trained.
#[derive(Debug, Clone)]
pub struct TrainingConfig {
    /// Most (feature, language) weights in the file; the least telling are left out.
    pub max_weights: usize,
    /// The floor p₀: 1 / `floor` is the probability that an unknown feature is taken to have.
    pub floor: f64,
    /// Taken off each count (absolute discounting): what is seen once in a short text is rarer in
    /// the language than it looks, or short training texts would beat long ones.
    pub discount: f64,
    /// Least count of a feature in a language whose training text is long.
    pub min_count: u32,
    /// Languages with more features than this count as long.
    pub long_text: u64,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            max_weights: 495_000,
            floor: 1_000_000.0,
            discount: 0.7,
            min_count: 3,
            long_text: 200_000,
        }
    }
}

/// A text to learn from.
#[derive(Debug, Clone, Copy)]
pub struct Example<'a> {
    /// ISO 639-3 code, with a variety where the model is to tell them apart (`uzn_cyrl`).
    pub label: &'a str,
    /// What kind of text it is. A language takes for each feature the highest probability among
    /// its domains, so a language with many is not worse in the one that others have alone.
    pub domain: &'a str,
    /// The text.
    pub text: &'a str,
}

/// Trains a model. Labels of another shape are left out, and those beyond 4,096. The result depends on the
/// examples and the configuration alone.
pub fn train(examples: &[Example<'_>], config: &TrainingConfig) -> LanguageModel {
    let mut texts_of: BTreeMap<Label, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for example in examples {
        if let Some(label) = Label::parse(example.label) {
            let domains = texts_of.entry(label).or_default();
            domains.entry(example.domain).or_default().push(example.text);
        }
    }
    let labels: Vec<Label> = texts_of.keys().copied().take(MAX_LABELS).collect();
    let mut all: Vec<(f32, u32, u16)> = Vec::new();
    for (index, domains) in texts_of.values().enumerate().take(MAX_LABELS) {
        let mut weights: HashMap<u32, f32> = HashMap::new();
        for texts in domains.values() {
            let (counts, total) = count_features(texts.iter().copied());
            let least = if total > config.long_text { config.min_count } else { 1 };
            for (feature, count) in counts {
                let count_left = f64::from(count) - config.discount;
                let weight = (count_left / total.max(1) as f64 * config.floor).ln() as f32;
                if count >= least && weight > 0.0 {
                    let known = weights.entry(feature).or_default();
                    *known = known.max(weight);
                }
            }
        }
        all.extend(weights.into_iter().map(|(feature, weight)| (weight, feature, index as u16)));
    }
    // A feature is telling where it is frequent in its language and rare in others.
    let mut languages_of: BTreeMap<u32, u32> = BTreeMap::new();
    for &(_, feature, _) in &all {
        *languages_of.entry(feature).or_default() += 1;
    }
    let count = labels.len() as f64;
    let worth = |&(weight, feature, _): &(f32, u32, u16)| {
        // ln(languages / languages with the feature) + 1, as in inverse document frequency.
        f64::from(weight) * ((count / f64::from(languages_of[&feature])).ln() + 1.0)
    };
    all.sort_by(|a, b| worth(b).total_cmp(&worth(a)).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    all.truncate(config.max_weights.min(MAX_POSTINGS));
    let largest = all.iter().map(|&(weight, ..)| weight).fold(1.0, f32::max);
    let step = largest / 15.0;
    // By feature, then by label.
    all.sort_unstable_by_key(|&(_, feature, label)| (feature, label));
    let (mut features, mut starts, mut postings) = (Vec::new(), Vec::new(), Vec::new());
    for &(weight, feature, label) in &all {
        if features.last() != Some(&feature) {
            features.push(feature);
            starts.push(postings.len() as u32);
        }
        postings.push((label << 4) | (weight / step).round().clamp(1.0, 15.0) as u16);
    }
    starts.push(postings.len() as u32);
    let expected_weight = vec![0.0; labels.len()];
    LanguageModel::assemble(labels, (features, starts, postings), step, 1.0, expected_weight)
}

/// Counts the features of `texts`.
fn count_features<'a>(texts: impl Iterator<Item = &'a str>) -> (HashMap<u32, u32>, u64) {
    let mut counts: HashMap<u32, u32> = HashMap::new();
    let mut total = 0;
    for text in texts {
        for_each_feature(text, |feature| {
            *counts.entry(feature).or_default() += 1;
            total += 1;
        });
    }
    (counts, total)
}

/// Fits the softmax temperature and the expected weight of features on held-out (label, text)
/// pairs: the temperature that gives the held-out languages the highest likelihood.
pub fn calibrate(model: &mut LanguageModel, held_out: &[(&str, &str)]) {
    let mut scored: Vec<(Vec<f32>, usize, f32)> = Vec::new();
    let mut means: Vec<Vec<f32>> = vec![Vec::new(); model.labels.len()];
    for (label, text) in held_out {
        let label = Label::parse(label).and_then(|label| model.labels.binary_search(&label).ok());
        let Some(index) = label else { continue };
        model.with_scratch(|scratch| {
            scratch.clear();
            words(text).for_each(|word| scratch.add_word(model, word));
            let features = scratch.features();
            if features == 0 {
                return;
            }
            let step = model.weight_step;
            let scores: Vec<f32> = scratch.scores().iter().map(|&s| s as f32 * step).collect();
            means[index].push(scratch.scores()[index] as f32 / features as f32);
            scored.push((scores, model.language_of[index], (features as f32).sqrt()));
        });
    }
    let loss = |temperature: f32| -> f64 {
        scored
            .iter()
            .map(|(scores, language, root)| {
                let scale = 1.0 / (temperature * root);
                let best = scores.iter().copied().fold(f32::MIN, f32::max);
                let (mut own, mut total) = (1e-9f32, 1e-9f32);
                for (score, of) in scores.iter().zip(&model.language_of) {
                    let weight = ((score - best) * scale).exp();
                    total += weight;
                    own += if of == language { weight } else { 0.0 };
                }
                f64::from((total / own).ln())
            })
            .sum()
    };
    // A log-spaced scan is enough: the loss is flat around its minimum.
    let candidates = (0..60).map(|i| 0.02 * 1.15f32.powi(i));
    let best = candidates.map(|t| (loss(t), t)).min_by(|a, b| a.0.total_cmp(&b.0));
    if let (Some((_, temperature)), false) = (best, scored.is_empty()) {
        model.temperature = temperature;
    }
    for (expected, means) in model.expected_weight.iter_mut().zip(means) {
        if !means.is_empty() {
            *expected = means.iter().sum::<f32>() / means.len() as f32;
        }
    }
}

/// How well a model does.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Mean of the F1 of each label in the test set.
    pub macro_f1: f64,
    /// Share of texts with the right label.
    pub accuracy: f64,
    /// F1 by label.
    pub f1: BTreeMap<String, f64>,
    /// Expected calibration error of the confidence in ten bins.
    pub calibration_error: f64,
    /// Number of texts.
    pub texts: usize,
}

/// Measures a model on (label, text) pairs; labels are compared after `map`, such as
/// [`super::language_code`]. Labels the model does not have are left out.
pub fn evaluate(
    model: &LanguageModel,
    examples: &[(&str, &str)],
    map: impl Fn(&str) -> &str,
) -> Score {
    let known: BTreeSet<String> =
        model.labels.iter().map(|label| map(&label.to_string()).to_owned()).collect();
    let mut tallies: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let (mut confidences, mut hits) = (Vec::new(), Vec::new());
    for (label, text) in examples {
        let wanted = map(label);
        if !known.contains(wanted) {
            continue;
        }
        let Identification { label, variety, confidence, .. } = model.identify(text);
        let found = Label { language: label, variety }.to_string();
        let found = map(&found);
        confidences.push(confidence);
        hits.push(found == wanted);
        if found == wanted {
            tallies.entry(wanted.to_owned()).or_default()[0] += 1;
        } else {
            tallies.entry(found.to_owned()).or_default()[1] += 1;
            tallies.entry(wanted.to_owned()).or_default()[2] += 1;
        }
    }
    let f1: BTreeMap<String, f64> = tallies
        .into_iter()
        .filter(|(_, [hits, _, misses])| hits + misses > 0)
        .map(|(label, [hits, false_alarms, misses])| {
            let f1 = 2.0 * hits as f64 / (2 * hits + false_alarms + misses) as f64;
            (label, f1)
        })
        .collect();
    Score {
        macro_f1: f1.values().sum::<f64>() / f1.len().max(1) as f64,
        accuracy: hits.iter().filter(|&&hit| hit).count() as f64 / hits.len().max(1) as f64,
        f1,
        calibration_error: calibration_error(&confidences, &hits, 10),
        texts: hits.len(),
    }
}

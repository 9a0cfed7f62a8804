//! Training, calibration and measurement of the language identifier.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{LanguageModel, assemble, codes, count_features};
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
    /// ISO 639-3 code.
    pub label: &'a str,
    /// What kind of text it is. A language takes for each feature the highest probability among
    /// its domains, so a language with many is not worse in the one that others have alone.
    pub domain: &'a str,
    /// The text.
    pub text: &'a str,
}

/// Trains a model. Labels that are no ISO 639-3 codes are left out. The result depends on the
/// examples and the configuration alone.
pub fn train(examples: &[Example<'_>], config: &TrainingConfig) -> LanguageModel {
    let mut texts_of: BTreeMap<&'static str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for example in examples {
        if let Some(label) = codes::intern(example.label) {
            let domains = texts_of.entry(label).or_default();
            domains.entry(example.domain).or_default().push(example.text);
        }
    }
    let labels: Vec<&'static str> = texts_of.keys().copied().collect();
    let mut all: Vec<(f32, u32, u16)> = Vec::new();
    for (index, domains) in texts_of.values().enumerate() {
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
    all.truncate(config.max_weights);
    let largest = all.iter().map(|&(weight, ..)| weight).fold(1.0, f32::max);
    let step = largest / 15.0;
    let weights = all
        .iter()
        .map(|&(weight, feature, label)| {
            ((feature, label), (weight / step).round().clamp(1.0, 15.0) as u8)
        })
        .collect();
    assemble(labels, &weights, step)
}

/// Fits the softmax temperature and the expected coverage on held-out (label, text) pairs: the
/// temperature that gives the held-out labels the highest likelihood.
pub fn calibrate(model: &mut LanguageModel, held_out: &[(&str, &str)]) {
    let mut scored: Vec<(Vec<f32>, usize, f32)> = Vec::new();
    let mut coverages: Vec<Vec<f32>> = vec![Vec::new(); model.labels.len()];
    for (label, text) in held_out {
        let Ok(index) = model.labels.binary_search(label) else { continue };
        let mut scores = vec![0.0; model.labels.len()];
        let mut known = vec![0; model.labels.len()];
        let features = model.score(text, &mut scores, &mut known);
        if features > 0 {
            coverages[index].push(known[index] as f32 / features as f32);
            scored.push((scores, index, (features as f32).sqrt()));
        }
    }
    let loss = |temperature: f32| -> f64 {
        scored
            .iter()
            .map(|(scores, index, root)| {
                let scale = 1.0 / (temperature * root);
                let best = scores.iter().copied().fold(f32::MIN, f32::max);
                let total: f32 = scores.iter().map(|score| ((score - best) * scale).exp()).sum();
                f64::from(total.ln() - (scores[*index] - best) * scale)
            })
            .sum()
    };
    // A log-spaced scan is enough: the loss is flat around its minimum.
    let candidates = (0..60).map(|i| 0.02 * 1.15f32.powi(i));
    let best = candidates.map(|t| (loss(t), t)).min_by(|a, b| a.0.total_cmp(&b.0));
    if let (Some((_, temperature)), false) = (best, scored.is_empty()) {
        model.temperature = temperature;
    }
    for (expected, coverages) in model.expected_coverage.iter_mut().zip(coverages) {
        if !coverages.is_empty() {
            let mean = coverages.iter().sum::<f32>() / coverages.len() as f32;
            // Other subjects than the training text's have fewer known n-grams; half is normal.
            *expected = 0.5 * mean;
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
/// [`super::macrolanguage`]. Labels the model does not have are left out.
pub fn evaluate(
    model: &LanguageModel,
    examples: &[(&str, &str)],
    map: impl Fn(&str) -> &str,
) -> Score {
    let mut tallies: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let (mut confidences, mut hits) = (Vec::new(), Vec::new());
    for (label, text) in examples {
        if !model.labels.iter().any(|known| map(known) == map(label)) {
            continue;
        }
        let answer = model.identify(text);
        let hit = map(answer.label) == map(label);
        confidences.push(answer.confidence);
        hits.push(hit);
        let which = usize::from(!hit);
        tallies.entry(map(label).to_owned()).or_default()[2 * which] += 1;
        if !hit {
            tallies.entry(map(answer.label).to_owned()).or_default()[1] += 1;
        }
    }
    let present: BTreeSet<&str> = examples.iter().map(|(label, _)| map(label)).collect();
    let f1: BTreeMap<String, f64> = tallies
        .into_iter()
        .filter(|(label, _)| present.contains(label.as_str()))
        .map(|(label, [hits, false_alarms, misses])| {
            let f1 = 2.0 * hits as f64 / (2 * hits + false_alarms + misses).max(1) as f64;
            (label, f1)
        })
        .collect();
    let calibration_error = calibration_error(&confidences, &hits, 10);
    Score {
        macro_f1: f1.values().sum::<f64>() / f1.len().max(1) as f64,
        accuracy: hits.iter().filter(|&&hit| hit).count() as f64 / hits.len().max(1) as f64,
        f1,
        calibration_error,
        texts: hits.len(),
    }
}

//! Filters by trained models: a classifier's probability, and the perplexity of an n-gram model.
//!
//! Models belong to languages; a document in a language without a model passes. A perplexity is also
//! a label: [`PerplexityFilter::measure`] gives the number and its bucket to be kept with the
//! document, so that the trainer can order by them. It knows no files and no configuration: the
//! models are given to it.

use std::{collections::BTreeMap, sync::Arc};

use milpa_text::{Classifier, NgramModel, PerplexityBucket, PerplexityCuts};

use super::{Filter, Thresholds, Verdict, View};
use crate::document::Reason;

/// What a probability must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// At least this: for quality.
    Least(f32),
    /// At most this: for toxicity.
    Most(f32),
}

/// A classifier with the label that it is asked for.
#[derive(Debug, Clone)]
pub struct ScoreModel {
    classifier: Arc<Classifier>,
    label: String,
    index: usize,
    bound: Bound,
}

impl ScoreModel {
    /// Asks `classifier` for the probability of `label`; `None` if it has no such label.
    pub fn new(classifier: Arc<Classifier>, label: &str, bound: Bound) -> Option<Self> {
        let index = classifier.label(label)?;
        Some(Self { classifier, label: label.to_owned(), index, bound })
    }

    /// The calibrated probability of the label.
    pub fn score(&self, text: &str) -> f32 {
        self.classifier.predict(text).probabilities[self.index]
    }
}

/// Drops documents whose score is out of bounds.
#[derive(Debug, Clone, Default)]
pub struct ScoreFilter {
    /// By language, ISO 639-3.
    pub models: BTreeMap<String, ScoreModel>,
}

impl Filter for ScoreFilter {
    fn check(&self, view: &View<'_>, _: &Thresholds) -> Option<Verdict> {
        let model = self.models.get(view.language)?;
        let score = f64::from(model.score(view.text));
        let what = format!("probability of {:?}", model.label);
        let reason = Reason::ModelScore;
        match model.bound {
            Bound::Least(least) => {
                Verdict::below(reason, "model_score_low", &what, score, f64::from(least))
            }
            Bound::Most(most) => {
                Verdict::above(reason, "model_score_high", &what, score, f64::from(most))
            }
        }
    }
}

/// An n-gram model of a language with the perplexities at which its buckets end.
#[derive(Debug, Clone)]
pub struct PerplexityModel {
    /// The model.
    pub model: Arc<NgramModel>,
    /// Where its buckets end.
    pub cuts: PerplexityCuts,
    /// Buckets that are not kept; empty to label alone.
    pub unwanted: Vec<PerplexityBucket>,
}

/// Labels documents by perplexity, and drops those of unwanted buckets.
#[derive(Debug, Clone, Default)]
pub struct PerplexityFilter {
    /// By language, ISO 639-3.
    pub models: BTreeMap<String, PerplexityModel>,
}

impl PerplexityFilter {
    /// The perplexity of a text in `language` and its bucket; `None` where there is no model for the
    /// language or no word in the text.
    pub fn measure(&self, text: &str, language: &str) -> Option<(f64, PerplexityBucket)> {
        let PerplexityModel { model, cuts, .. } = self.models.get(language)?;
        let perplexity = model.score_text(text).perplexity()?;
        Some((perplexity, cuts.bucket(perplexity)))
    }
}

impl PerplexityFilter {
    /// Whether a bucket of a language is not kept.
    pub fn verdict(
        &self,
        language: &str,
        perplexity: f64,
        bucket: PerplexityBucket,
    ) -> Option<Verdict> {
        let model = self.models.get(language)?;
        model.unwanted.contains(&bucket).then(|| Verdict {
            reason: Reason::Perplexity,
            rule: "perplexity_bucket",
            detail: format!("perplexity {perplexity:.1} is in the {} of {language}", bucket.name()),
        })
    }
}

impl Filter for PerplexityFilter {
    fn check(&self, view: &View<'_>, _: &Thresholds) -> Option<Verdict> {
        let (perplexity, bucket) = self.measure(view.text, view.language)?;
        self.verdict(view.language, perplexity, bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milpa_text::{
        classifier::{ClassifierConfig, Features, train},
        ngram_model::{NgramConfig, NgramCounter},
    };

    const GOOD: &str = "la milpa da maíz y frijol";
    const BAD: &str = "l4 mi|pa d@ m4íz y fr!jol";

    fn check(filter: &dyn Filter, text: &str, language: &str, expect: Option<&str>) {
        let found = filter.check(&View::new(text, language, None), &Thresholds::default());
        assert_eq!(found.as_ref().map(|verdict| verdict.rule), expect, "{text}: {found:?}");
    }

    #[test]
    fn scores_out_of_bounds_drop() {
        let examples = [("clean", GOOD), ("scan", BAD)].repeat(20);
        let config = ClassifierConfig {
            features: Features { table_bits: 10, ..Features::default() },
            ..ClassifierConfig::default()
        };
        let classifier = Arc::new(train(&examples, &config).unwrap());
        assert!(ScoreModel::new(classifier.clone(), "toxic", Bound::Most(0.5)).is_none());
        let filter = |label, bound| {
            let model = ScoreModel::new(classifier.clone(), label, bound).unwrap();
            ScoreFilter { models: BTreeMap::from([("spa".to_owned(), model)]) }
        };
        let least = filter("clean", Bound::Least(0.5));
        check(&least, GOOD, "spa", None);
        check(&least, BAD, "spa", Some("model_score_low"));
        check(&least, BAD, "quy", None);
        let most = filter("scan", Bound::Most(0.5));
        check(&most, GOOD, "spa", None);
        check(&most, BAD, "spa", Some("model_score_high"));
        let verdict = most.check(&View::new(BAD, "spa", None), &Thresholds::default()).unwrap();
        assert!(verdict.detail.starts_with("probability of \"scan\" 0."), "{}", verdict.detail);
    }

    #[test]
    fn perplexity_labels_and_drops() {
        let mut counter =
            NgramCounter::new(NgramConfig { order: 3, ..Default::default() }).unwrap();
        counter.add_text(&format!("{GOOD}\n").repeat(5)).unwrap();
        counter.add_text("la milpa da calabaza\nel maíz y la calabaza").unwrap();
        let bytes = counter.finish().unwrap().to_bytes().unwrap();
        let model = Arc::new(NgramModel::from_bytes(bytes).unwrap());
        let cuts = PerplexityCuts { head: 4.0, middle: 8.0 };
        let filter = |unwanted| {
            let model = PerplexityModel { model: Arc::clone(&model), cuts, unwanted };
            PerplexityFilter { models: BTreeMap::from([("spa".to_owned(), model)]) }
        };
        let labels = filter(Vec::new());
        assert_eq!(labels.measure(GOOD, "spa").unwrap().1, PerplexityBucket::Head);
        assert_eq!(labels.measure(BAD, "spa").unwrap().1, PerplexityBucket::Tail);
        assert_eq!(labels.measure(GOOD, "quy"), None);
        assert_eq!(labels.measure("\n…\n", "spa"), None);
        check(&labels, BAD, "spa", None);
        let drops = filter(vec![PerplexityBucket::Tail]);
        check(&drops, GOOD, "spa", None);
        check(&drops, BAD, "spa", Some("perplexity_bucket"));
    }
}

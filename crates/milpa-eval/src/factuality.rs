//! Answers that are right, wrong or withheld: what a model knows, and whether it knows that it does not.
//!
//! An answer is graded in the tiers of [`crate::choclo`]; one that is not right and says that it does
//! not know abstains (`data/abstention.toml`, five languages); the rest is wrong. A wrong answer costs
//! a stated penalty, so that guessing does not pay. With a confidence for each answer (the probability
//! that the model gives it, or a number that it states) the report says how well confidence and
//! correctness agree: Brier score, expected calibration error (Guo et al., arXiv 1706.04599), accuracy
//! against coverage (Geifman and El-Yaniv, arXiv 1705.08500). It asks no model.

use std::{collections::BTreeMap, sync::LazyLock};

use fancy_regex::{Regex, RegexBuilder};
use milpa_base::Seed;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    choclo::{Answer, Language, Mode, Object, Reading, Tier},
    harness::documents::Document,
    refusal::{is_match, plain, sentences},
    statistics::{
        Interval, LEVEL, Method, Share, bootstrap, clustered_mean_interval, group_by_cluster, mean,
        percentile_interval,
    },
};

/// Bins of the expected calibration error, of equal width.
const BINS: usize = 10;
/// Most points of the curve of accuracy against coverage.
const POINTS: usize = 50;
/// Sentences in which an abstention is looked for.
const OPENING: usize = 2;

static ABSTENTIONS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let languages: BTreeMap<String, Vec<String>> =
        toml::from_str(include_str!("../data/abstention.toml"))
            .expect("the file is part of the program");
    let compile = |text: &String| {
        RegexBuilder::new(text).case_insensitive(true).build().expect("the tests compile them all")
    };
    languages.values().flatten().map(compile).collect()
});

static STATED: LazyLock<Regex> = LazyLock::new(|| {
    let words = "confianza|confiança|confidence|seguridad|segurança|certeza|certainty|probabilidad|probabilidade|probability";
    let text = format!(
        r"(?i)[(\[]?\b(?:{words})\b\W{{0,5}}(\d{{1,3}}(?:[.,]\d+)?)\s*(%|por ciento|por cento|percent)?[)\]]?"
    );
    Regex::new(&text).expect("a constant expression")
});

/// Whether an answer says that it does not know. An empty one says nothing, which is the same.
pub fn abstains(answer: &str) -> bool {
    let text = plain(answer);
    let sentences = sentences(&text);
    let opening = sentences[..sentences.len().min(OPENING)].join(" ");
    opening.is_empty() || ABSTENTIONS.iter().any(|regex| is_match(regex, &opening))
}

/// The confidence that an answer states ("confianza: 80 %", "confidence 0.8"), 0 to 1, and the answer
/// without it.
pub fn stated_confidence(answer: &str) -> (Option<f64>, String) {
    let Ok(Some(found)) = STATED.captures(answer) else { return (None, answer.to_owned()) };
    let (Some(all), Some(number)) = (found.get(0), found.get(1)) else {
        return (None, answer.to_owned());
    };
    let value: Option<f64> = number.as_str().replace(',', ".").parse().ok();
    let value = value
        .map(|value| if found.get(2).is_some() || value > 1.0 { value / 100.0 } else { value });
    let rest = format!("{}{}", &answer[..all.start()], &answer[all.end()..]);
    (value.filter(|value| (0.0..=1.0).contains(value)), rest)
}

/// How answers are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactualitySpec {
    /// Field with the right answers: as CHOCLO writes them, a text, or a list of texts of which one
    /// suffices.
    pub answers: String,
    /// Points that a wrong answer costs; a right one gains 1, an abstention 0.
    #[serde(default = "one")]
    pub penalty: f64,
    /// Where an answer's confidence comes from.
    #[serde(default)]
    pub confidence: ConfidenceSource,
    /// The loosest tier that is right.
    #[serde(default = "accent_folded")]
    pub tier: Tier,
}

fn one() -> f64 {
    1.0
}

fn accent_folded() -> Tier {
    Tier::AccentFolded
}

/// Where an answer's confidence comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfidenceSource {
    /// Nowhere.
    #[default]
    None,
    /// The probability that the model gives to its own answer after the prompt.
    Likelihood,
    /// A number that the answer states.
    Stated,
}

/// Reads the right answers of an item.
///
/// # Errors
/// A field that holds none.
pub fn read_answer(document: &Document, field: &str) -> Result<Answer, String> {
    let wrong = || format!("no right answer in the field {field:?}");
    let names: Vec<String> = match document.get(field) {
        Some(value @ Value::Object(_)) => {
            return serde_json::from_value(value.clone()).map_err(|_| wrong());
        }
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => list
            .iter()
            .map(|text| text.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    let mut names = names.into_iter().filter(|name| !name.trim().is_empty());
    let label = names.next().ok_or_else(wrong)?;
    let object = Object::Item { qid: String::new(), label, aliases: names.collect() };
    Ok(Answer { mode: Mode::Any, objects: vec![object] })
}

/// How an item's answers are read: `language` (or `lang`) and `decimal` as CHOCLO writes them.
pub fn reading_of(document: &Document) -> Reading {
    let text = |field: &str| document.get(field).and_then(Value::as_str);
    let language = match text("language").or_else(|| text("lang")) {
        Some("pt") => Language::Portuguese,
        _ => Language::Spanish,
    };
    Reading { language, decimal_point: text("decimal") == Some(".") }
}

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "tier")]
pub enum Outcome {
    /// Right, at this tier.
    Correct(Tier),
    /// Neither right nor withheld.
    Wrong,
    /// It says that it does not know.
    Abstained,
}

impl Outcome {
    /// Grades an answer; `loosest` is the loosest tier that is right.
    pub fn of(response: &str, answer: &Answer, reading: Reading, loosest: Tier) -> Self {
        match answer.grade(response, reading) {
            Some(tier) if tier <= loosest => Self::Correct(tier),
            _ if abstains(response) => Self::Abstained,
            _ => Self::Wrong,
        }
    }

    /// Whether it is right.
    pub fn is_correct(self) -> bool {
        matches!(self, Self::Correct(_))
    }
}

/// An answer that was graded.
#[derive(Debug, Clone, PartialEq)]
pub struct Graded {
    /// What it is worth.
    pub outcome: Outcome,
    /// How sure the model is, 0 to 1.
    pub confidence: Option<f64>,
    /// What the item shares with others; without it, it stands for itself.
    pub cluster: Option<String>,
}

/// What a model knows, and whether it knows that it does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactualityReport {
    /// Right answers among all.
    pub correct: Share,
    /// Wrong answers among all.
    pub wrong: Share,
    /// Abstentions among all.
    pub abstained: Share,
    /// Right answers among those given.
    pub accuracy_attempted: Share,
    /// Harmonic mean of `correct` and `accuracy_attempted`, as `SimpleQA` has it.
    pub f_score: f64,
    /// Points that a wrong answer cost.
    pub penalty: f64,
    /// Mean of 1 for right, 0 for abstained, −penalty for wrong.
    pub score: f64,
    /// Its interval; clusters are items that share something.
    pub score_interval: Option<Interval>,
    /// Right answers among all, if this were the loosest tier.
    pub tiers: BTreeMap<Tier, Share>,
    /// How well confidence and correctness agree, over the answers given.
    pub calibration: Option<Calibration>,
}

/// How well confidence and correctness agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Answers given with a confidence.
    pub n: u64,
    /// Mean squared difference of confidence and correctness; 0 is best.
    pub brier: f64,
    /// Its interval.
    pub brier_interval: Option<Interval>,
    /// Mean over answers of |accuracy − confidence| of their bin; 0 is best. It is biased upwards where
    /// bins hold few answers.
    pub ece: f64,
    /// Its interval.
    pub ece_interval: Option<Interval>,
    /// Bins of equal width that hold an answer.
    pub bins: Vec<Bin>,
    /// Accuracy of the surest answers, as more and more are given.
    pub coverage: Vec<CoveragePoint>,
    /// Mean error of the surest answers over all coverages; 0 is best.
    pub risk_area: f64,
}

/// Answers of like confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Mean confidence.
    pub confidence: f64,
    /// Right answers.
    pub accuracy: Share,
}

/// If only answers at least as sure were given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoveragePoint {
    /// The least confidence of an answer.
    pub threshold: f64,
    /// Answers given among all items.
    pub coverage: f64,
    /// Right answers among those given.
    pub accuracy: f64,
}

impl FactualityReport {
    /// Counts graded answers.
    pub fn of(graded: &[Graded], penalty: f64, replicates: usize, seed: Seed) -> Self {
        let count = |keep: &dyn Fn(Outcome) -> bool| -> u64 {
            graded.iter().filter(|each| keep(each.outcome)).count() as u64
        };
        let n = graded.len() as u64;
        let right = count(&Outcome::is_correct);
        let wrong = count(&|outcome| outcome == Outcome::Wrong);
        let correct = Share::of(right, n);
        let accuracy_attempted = Share::of(right, right + wrong);
        let sum = correct.value + accuracy_attempted.value;
        let points = |each: &Graded| match each.outcome {
            Outcome::Correct(_) => 1.0,
            Outcome::Wrong => -penalty,
            Outcome::Abstained => 0.0,
        };
        let points: Vec<f64> = graded.iter().map(points).collect();
        let clusters = clusters_of(graded);
        let tier = |loosest: &Tier| {
            let within = |outcome| matches!(outcome, Outcome::Correct(tier) if tier <= *loosest);
            (*loosest, Share::of(count(&within), n))
        };
        let f_score =
            if sum > 0.0 { 2.0 * correct.value * accuracy_attempted.value / sum } else { 0.0 };
        Self {
            f_score,
            correct,
            wrong: Share::of(wrong, n),
            abstained: Share::of(n - right - wrong, n),
            accuracy_attempted,
            penalty,
            score: mean(&points),
            score_interval: clustered_mean_interval(&points, &clusters, LEVEL)
                .map(|(_, interval)| interval),
            tiers: Tier::ALL.iter().map(tier).collect(),
            calibration: Calibration::of(graded, &clusters, replicates, seed),
        }
    }

    /// The report as lines of text.
    pub fn notes(&self) -> Vec<String> {
        let range = |interval: Option<Interval>| {
            interval.map_or(String::new(), |interval| {
                format!(" ({:.3} to {:.3})", interval.low, interval.high)
            })
        };
        let mut notes = vec![
            format!(
                "correct {}, wrong {:.3}, abstained {:.3}; of the answers given {} are right, F {:.3}",
                self.correct,
                self.wrong.value,
                self.abstained.value,
                self.accuracy_attempted,
                self.f_score
            ),
            format!(
                "score {:.3}{}: 1 for a right answer, 0 for an abstention, −{} for a wrong one",
                self.score,
                range(self.score_interval),
                self.penalty
            ),
        ];
        if let Some(calibration) = &self.calibration {
            notes.push(format!(
                "confidence of {} answers: calibration error {:.3}{}, Brier score {:.3}{}, mean error \
                 over coverages {:.3}",
                calibration.n,
                calibration.ece,
                range(calibration.ece_interval),
                calibration.brier,
                range(calibration.brier_interval),
                calibration.risk_area
            ));
        }
        notes
    }
}

/// Numbers of the clusters; an item without one is its own.
fn clusters_of(graded: &[Graded]) -> Vec<usize> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut clusters = Vec::with_capacity(graded.len());
    for (at, each) in graded.iter().enumerate() {
        let next = graded.len() + numbers.len();
        clusters.push(match &each.cluster {
            Some(name) => *numbers.entry(name).or_insert(next),
            None => at,
        });
    }
    clusters
}

/// A confidence and whether the answer was right.
type Pair = (f64, bool);

impl Calibration {
    fn of(graded: &[Graded], clusters: &[usize], replicates: usize, seed: Seed) -> Option<Self> {
        let given =
            graded.iter().zip(clusters).filter(|(each, _)| each.outcome != Outcome::Abstained);
        let (pairs, clusters): (Vec<Pair>, Vec<usize>) = given
            .filter_map(|(each, &cluster)| {
                Some(((each.confidence?.clamp(0.0, 1.0), each.outcome.is_correct()), cluster))
            })
            .unzip();
        if pairs.is_empty() {
            return None;
        }
        let groups = group_by_cluster(&clusters);
        let interval = |name: &str, measure: fn(&[Pair]) -> f64| {
            let drawn = bootstrap(groups.len(), replicates, seed.derive(name), |drawn| {
                let members = drawn.iter().flat_map(|&group| &groups[group]);
                measure(&members.map(|&at| pairs[at]).collect::<Vec<_>>())
            });
            (groups.len() > 1)
                .then(|| percentile_interval(drawn, LEVEL, Method::ClusterBootstrap))
                .flatten()
        };
        let (coverage, risk_area) = coverage(&pairs, graded.len());
        Some(Self {
            n: pairs.len() as u64,
            brier: brier(&pairs),
            brier_interval: interval("brier", brier),
            ece: calibration_error(&pairs),
            ece_interval: interval("ece", calibration_error),
            bins: bins(&pairs),
            coverage,
            risk_area,
        })
    }
}

fn brier(pairs: &[Pair]) -> f64 {
    let square = |(confidence, right): &Pair| (confidence - f64::from(u8::from(*right))).powi(2);
    mean(&pairs.iter().map(square).collect::<Vec<_>>())
}

fn bin_of(confidence: f64) -> usize {
    ((confidence * BINS as f64) as usize).min(BINS - 1)
}

fn calibration_error(pairs: &[Pair]) -> f64 {
    let mut gaps = [0.0; BINS];
    for (confidence, right) in pairs {
        gaps[bin_of(*confidence)] += confidence - f64::from(u8::from(*right));
    }
    gaps.iter().map(|gap| gap.abs()).sum::<f64>() / pairs.len().max(1) as f64
}

fn bins(pairs: &[Pair]) -> Vec<Bin> {
    let bin = |at: usize| {
        let members: Vec<&Pair> = pairs.iter().filter(|pair| bin_of(pair.0) == at).collect();
        (!members.is_empty()).then(|| Bin {
            low: at as f64 / BINS as f64,
            high: (at + 1) as f64 / BINS as f64,
            confidence: mean(&members.iter().map(|pair| pair.0).collect::<Vec<_>>()),
            accuracy: Share::of_flags(members.iter().map(|pair| pair.1)),
        })
    };
    (0..BINS).filter_map(bin).collect()
}

/// Points of the curve, and the mean error over coverages. Answers of equal confidence are given
/// together, whatever their order.
fn coverage(pairs: &[Pair], items: usize) -> (Vec<CoveragePoint>, f64) {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut points, mut risk) = (Vec::new(), 0.0);
    let (mut given, mut right) = (0usize, 0usize);
    let step = sorted.len().div_ceil(POINTS);
    for group in sorted.chunk_by(|a, b| a.0 == b.0) {
        let before = given / step;
        given += group.len();
        right += group.iter().filter(|pair| pair.1).count();
        let accuracy = right as f64 / given as f64;
        risk += (1.0 - accuracy) * group.len() as f64;
        if given / step > before || given == sorted.len() {
            points.push(CoveragePoint {
                threshold: group[0].0,
                coverage: given as f64 / items.max(1) as f64,
                accuracy,
            });
        }
    }
    (points, risk / sorted.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graded(outcome: Outcome, confidence: f64) -> Graded {
        Graded { outcome, confidence: Some(confidence), cluster: None }
    }

    const RIGHT: Outcome = Outcome::Correct(Tier::Exact);

    #[test]
    fn abstentions_are_told_from_answers() {
        let check = |answer: &str, expect: bool| assert_eq!(abstains(answer), expect, "{answer}");
        check("No lo sé.", true);
        check("Lo siento, no tengo información sobre eso.", true);
        check("No estoy segura de la respuesta.", true);
        check("Não sei.", true);
        check("Não tenho certeza.", true);
        check("I don’t know.", true);
        check("I'm not sure, maybe Lima.", true);
        check("Manam yachanichu.", true);
        check("Ndaikuaái.", true);
        check("Nda’ikuaái", true);
        check("", true);
        check("Lima", false);
        check("Ecuador no tiene salida al Atlántico.", false);
        check("Noé Sánchez", false);
        check("Manco Cápac", false);
        // What comes later is no abstention from the answer.
        check("Lima. Es la capital. Del resto no sé nada.", false);
    }

    #[test]
    fn a_stated_confidence_is_read_and_taken_away() {
        let check = |answer: &str, value: Option<f64>, rest: &str| {
            assert_eq!(stated_confidence(answer), (value, rest.to_owned()));
        };
        check("Lima\nConfianza: 80 %", Some(0.8), "Lima\n");
        check("Lima (confianza: 0,9)", Some(0.9), "Lima ");
        check("Brasília. Confiança: 100%", Some(1.0), "Brasília. ");
        check("Lima. Confidence 0.25", Some(0.25), "Lima. ");
        check("Lima", None, "Lima");
        check("Confianza: 300 %", None, "");
    }

    #[test]
    fn a_right_answer_is_right_whatever_stands_beside_it() {
        let document = json!({"answer": ["Lima", "Ciudad de los Reyes"], "lang": "es"});
        let document = document.as_object().unwrap();
        let answer = read_answer(document, "answer").unwrap();
        let check = |response: &str, expect: Outcome| {
            let found = Outcome::of(response, &answer, reading_of(document), Tier::AccentFolded);
            assert_eq!(found, expect, "{response}");
        };
        check("Lima", RIGHT);
        check("lima.", Outcome::Correct(Tier::Normalised));
        check("La Ciudad de los Reyes", Outcome::Correct(Tier::Alias));
        check("Cusco", Outcome::Wrong);
        check("No sé, quizá Lima", Outcome::Abstained);
        check("Ciudad de los Reyez", Outcome::Wrong);
        assert!(read_answer(document, "gold").is_err());
        assert!(read_answer(json!({"answer": [" "]}).as_object().unwrap(), "answer").is_err());
    }

    #[test]
    fn choclos_answers_are_read_as_it_writes_them() {
        let document = json!({"language": "pt", "decimal": ",", "answer": {"mode": "any", "objects": [
            {"type": "quantity", "text": "2.240 m", "amount": 2240.0, "unit": "m", "tolerance": 0.01}]}});
        let document = document.as_object().unwrap();
        let answer = read_answer(document, "answer").unwrap();
        let reading = reading_of(document);
        assert_eq!(reading.language, Language::Portuguese);
        assert_eq!(Outcome::of("2240 metros", &answer, reading, Tier::Exact), RIGHT);
        let near = Outcome::of("2,25 km", &answer, reading, Tier::WithinTolerance);
        assert_eq!(near, Outcome::Correct(Tier::WithinTolerance));
        assert_eq!(Outcome::of("2,25 km", &answer, reading, Tier::Exact), Outcome::Wrong);
    }

    #[test]
    fn scores_by_hand() {
        let all = [
            graded(RIGHT, 0.95),
            graded(Outcome::Correct(Tier::Alias), 0.85),
            graded(Outcome::Wrong, 0.85),
            graded(Outcome::Wrong, 0.15),
            graded(Outcome::Abstained, 0.5),
        ];
        let report = FactualityReport::of(&all, 2.0, 200, Seed(1));
        let near = |value: f64, expect: f64| assert!((value - expect).abs() < 1e-12, "{value}");
        near(report.correct.value, 0.4);
        near(report.abstained.value, 0.2);
        near(report.accuracy_attempted.value, 0.5);
        near(report.f_score, 2.0 * 0.4 * 0.5 / 0.9);
        near(report.score, (1.0 + 1.0 - 2.0 - 2.0) / 5.0);
        near(report.tiers[&Tier::Exact].value, 0.2);
        near(report.tiers[&Tier::Alias].value, 0.4);
        let calibration = report.calibration.unwrap();
        assert_eq!(calibration.n, 4);
        near(calibration.brier, (0.0025 + 0.0225 + 0.7225 + 0.0225) / 4.0);
        // Bins 0.9: gap 0.05; 0.8: |1.7 − 1|; 0.1: 0.15.
        near(calibration.ece, (0.05 + 0.7 + 0.15) / 4.0);
        assert_eq!(calibration.bins.len(), 3);
        // Surest first: right; then two of one confidence, one right; then wrong.
        let points: Vec<(f64, f64)> =
            calibration.coverage.iter().map(|point| (point.coverage, point.accuracy)).collect();
        assert_eq!(points, [(0.2, 1.0), (0.6, 2.0 / 3.0), (0.8, 0.5)]);
        near(calibration.risk_area, (0.0 + 2.0 / 3.0 + 0.5) / 4.0);
        let interval = calibration.ece_interval.unwrap();
        assert!(interval.low <= interval.high && interval.high <= 1.0);
        // Guessing everything wrong is worse than saying nothing.
        let silent = vec![graded(Outcome::Abstained, 0.5); 3];
        near(FactualityReport::of(&silent, 1.0, 10, Seed(1)).score, 0.0);
        near(FactualityReport::of(&[graded(Outcome::Wrong, 1.0)], 1.0, 10, Seed(1)).score, -1.0);
    }
}

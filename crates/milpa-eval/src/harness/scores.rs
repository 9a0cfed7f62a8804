//! Metrics of lm-evaluation-harness: what a question scores, and what a task scores from them.
//!
//! Names, formulas and ties are those of version 0.4; each score has its interval besides. It knows
//! responses, not the model that gave them.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use milpa_base::{FinishReason, Seed};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    choclo::{Tier, grade_names},
    harness::{
        filters::Pipeline,
        requests::{Question, Target},
        task_file::OutputType,
        text_metrics::{ChrfCounts, ExactMatch, answer_words, is_space, token_f1},
    },
    multiple_choice::first_largest,
    statistics::{
        Interval, LEVEL, Method, Share, bootstrap, clustered_mean_interval,
        clustered_standard_error, group_by_cluster, mean, mean_interval, percentile_interval,
        standard_error, wilson,
    },
    verify::{Marks, Place, Verdict, Verifier, code::Block},
};

/// What a model answered to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Response {
    /// To a continuation.
    Continuation {
        /// log p(continuation | context), in nats.
        log_likelihood: f64,
        /// Whether the model would have written it.
        is_greedy: bool,
        /// Tokens of the continuation.
        tokens: usize,
        /// Tokens cut from the left of the context.
        truncated_tokens: usize,
    },
    /// To a text.
    Text {
        /// log p(text), in nats.
        log_likelihood: f64,
        /// Tokens of the text.
        tokens: usize,
    },
    /// To a prompt.
    Generation {
        /// What the model wrote.
        text: String,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens cut from its left.
        truncated_tokens: usize,
        /// Tokens it wrote.
        tokens: usize,
    },
    /// The model does not take the request.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A metric that a task asks for.
#[derive(Debug, Clone)]
pub struct MetricSpec {
    /// Its name.
    pub name: &'static str,
    kind: MetricKind,
    exact: ExactMatch,
    verifier: Option<Verifier>,
    /// The loosest tier that counts, and the language of the answers.
    tier: Option<(Tier, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Acc,
    AccNorm,
    AccBytes,
    AccMutualInfo,
    ExactMatch,
    Perplexity,
    WordPerplexity,
    BytePerplexity,
    BitsPerByte,
    BrierScore,
    F1,
    Mcc,
    TokenF1,
    TokenExact,
    Chrf,
    ChrfPlus,
    Verify,
    Tier,
}

use MetricKind as Kind;
use OutputType::{GenerateUntil, Loglikelihood, LoglikelihoodRolling, MultipleChoice};

/// Name, kind, how a task's score is made, whether more is better, and where it counts.
const METRICS: [(&str, Kind, &str, bool, &[OutputType]); 27] = [
    ("acc", Kind::Acc, "mean", true, &[Loglikelihood, MultipleChoice]),
    ("acc_norm", Kind::AccNorm, "mean", true, &[MultipleChoice]),
    ("acc_bytes", Kind::AccBytes, "mean", true, &[MultipleChoice]),
    ("acc_mutual_info", Kind::AccMutualInfo, "mean", true, &[MultipleChoice]),
    ("exact_match", Kind::ExactMatch, "mean", true, &[GenerateUntil, MultipleChoice]),
    ("perplexity", Kind::Perplexity, "perplexity", false, &[Loglikelihood]),
    (
        "word_perplexity",
        Kind::WordPerplexity,
        "weighted_perplexity",
        false,
        &[LoglikelihoodRolling],
    ),
    (
        "byte_perplexity",
        Kind::BytePerplexity,
        "weighted_perplexity",
        false,
        &[LoglikelihoodRolling],
    ),
    ("bits_per_byte", Kind::BitsPerByte, "bits_per_byte", false, &[LoglikelihoodRolling]),
    ("brier_score", Kind::BrierScore, "brier_score", false, &[MultipleChoice]),
    ("f1", Kind::F1, "f1", true, &[MultipleChoice]),
    ("mcc", Kind::Mcc, "matthews_corrcoef", true, &[MultipleChoice]),
    // Not the harness's: SQuAD's F1 of shared words and exact match, with the region's articles.
    ("token_f1", Kind::TokenF1, "mean", true, &[GenerateUntil]),
    ("token_exact", Kind::TokenExact, "mean", true, &[GenerateUntil]),
    ("chrf", Kind::Chrf, "chrf", true, &[GenerateUntil]),
    ("chrf++", Kind::ChrfPlus, "chrf++", true, &[GenerateUntil]),
    // Not the harness's: this project's verifiers, with `locale` and `place` as options.
    ("verify_number", Kind::Verify, "mean", true, &[GenerateUntil]),
    ("verify_math", Kind::Verify, "mean", true, &[GenerateUntil]),
    ("verify_quantity", Kind::Verify, "mean", true, &[GenerateUntil]),
    ("verify_date", Kind::Verify, "mean", true, &[GenerateUntil]),
    ("verify_code", Kind::Verify, "mean", true, &[GenerateUntil]),
    ("verify_choice", Kind::Verify, "mean", true, &[GenerateUntil]),
    // Not the harness's: the tiers of this project's benchmarks, each with the stricter ones; the
    // first reference is the name and the others its aliases; `language` says what is an article.
    ("tier_exact", Kind::Tier, "mean", true, &[GenerateUntil]),
    ("tier_normalised", Kind::Tier, "mean", true, &[GenerateUntil]),
    ("tier_alias", Kind::Tier, "mean", true, &[GenerateUntil]),
    ("tier_accent_folded", Kind::Tier, "mean", true, &[GenerateUntil]),
    ("tier_edit_distance", Kind::Tier, "mean", true, &[GenerateUntil]),
];

/// The loosest tier that a metric counts.
fn tier_of(name: &str) -> Option<Tier> {
    Some(match name {
        "tier_exact" => Tier::Exact,
        "tier_normalised" => Tier::Normalised,
        "tier_alias" => Tier::Alias,
        "tier_accent_folded" => Tier::AccentFolded,
        "tier_edit_distance" => Tier::EditDistance,
        _ => return None,
    })
}

impl MetricSpec {
    /// The metrics of a task, or the harness's own choice for its output type.
    ///
    /// # Errors
    /// A metric that is not known, does not fit, or has options that it does not take.
    pub fn read(
        list: Option<&[Map<String, Value>]>,
        output: OutputType,
    ) -> Result<Vec<Self>, String> {
        let named = |names: &[&str]| {
            names.iter().map(|name| Self::one(name, &Map::new(), output)).collect()
        };
        let Some(list) = list else {
            return match output {
                Loglikelihood => named(&["perplexity", "acc"]),
                LoglikelihoodRolling => {
                    named(&["word_perplexity", "byte_perplexity", "bits_per_byte"])
                }
                MultipleChoice => named(&["acc", "acc_norm"]),
                GenerateUntil => named(&["exact_match"]),
            };
        };
        list.iter()
            .map(|options| match options.get("metric") {
                Some(Value::String(name)) => Self::one(name, options, output),
                _ => Err("an entry of metric_list has no `metric` with a name".to_owned()),
            })
            .collect()
    }

    /// A metric without options.
    pub(crate) fn plain(name: &str, output: OutputType) -> Result<Self, String> {
        Self::one(name, &Map::new(), output)
    }

    fn one(name: &str, options: &Map<String, Value>, output: OutputType) -> Result<Self, String> {
        let Some(&(name, kind, aggregation, _, outputs)) =
            METRICS.iter().find(|(known, ..)| *known == name)
        else {
            let known: Vec<&str> = METRICS.iter().map(|(name, ..)| *name).collect();
            return Err(format!(
                "the metric {name:?} is not known; known are {}",
                known.join(", ")
            ));
        };
        if !outputs.contains(&output) {
            return Err(format!("the metric {name} does not fit this output_type"));
        }
        let mut exact = ExactMatch::default();
        let (mut marks, mut place) = (Marks::default(), Place::default());
        let mut block = Block::default();
        let mut tier = tier_of(name).map(|tier| (tier, String::new()));
        let reads_numbers = matches!(name, "verify_number" | "verify_math" | "verify_quantity");
        for (key, value) in options {
            let flag =
                || value.as_bool().ok_or(format!("{key} of {name} is neither true nor false"));
            match key.as_str() {
                "metric" | "higher_is_better" => {}
                "hf_evaluate" if value == &Value::Bool(false) => {}
                "aggregation" if value.as_str() == Some(aggregation) => {}
                "aggregation" => {
                    return Err(format!("the aggregation of {name} is {aggregation}, not {value}"));
                }
                "ignore_case" if kind == Kind::ExactMatch => exact.ignore_case = flag()?,
                "ignore_punctuation" if kind == Kind::ExactMatch => {
                    exact.ignore_punctuation = flag()?;
                }
                "ignore_numbers" if kind == Kind::ExactMatch => exact.ignore_numbers = flag()?,
                "regexes_to_ignore" if kind == Kind::ExactMatch => {
                    let list = value.as_array().ok_or("regexes_to_ignore is no list")?;
                    for text in list {
                        let text = text.as_str().ok_or("regexes_to_ignore has what is no text")?;
                        let regex = Regex::new(text).map_err(|error| {
                            format!("the expression {text:?} is wrong: {error}")
                        })?;
                        exact.regexes_to_ignore.push(regex);
                    }
                }
                "locale" if reads_numbers => {
                    marks = value.as_str().and_then(Marks::parse).ok_or(format!(
                        "the locale of {name} is {value}; a country's, such as es-MX or pt-BR, or \
                         `either` is meant"
                    ))?;
                }
                "language" if tier.is_some() => {
                    let code = value.as_str().filter(|code| ["es", "pt", "en"].contains(code));
                    let code = code.ok_or(format!(
                        "the language of {name} is {value}; es, pt or en is meant"
                    ))?;
                    tier = tier_of(name).map(|tier| (tier, code.to_owned()));
                }
                "place" if reads_numbers || name == "verify_date" => {
                    place = serde_json::from_value(value.clone())
                        .map_err(|error| format!("the place of {name} is wrong: {error}"))?;
                }
                "block" if name == "verify_code" => {
                    block = serde_json::from_value(value.clone())
                        .map_err(|error| format!("the block of {name} is wrong: {error}"))?;
                }
                _ => return Err(format!("the metric {name} has no option {key:?}")),
            }
        }
        let verifier = Verifier::of_metric(name, marks, place, block);
        Ok(Self { name, kind, exact, verifier, tier })
    }

    /// Whether more is better.
    pub fn higher_is_better(&self) -> bool {
        METRICS.iter().any(|(name, _, _, higher, _)| *name == self.name && *higher)
    }

    /// Whether choices are asked without their question as well.
    pub fn needs_unconditional(&self) -> bool {
        self.kind == Kind::AccMutualInfo
    }
}

/// What one question adds to a score.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// A number of which the mean counts.
    Value(f64),
    /// A log-likelihood and the words or bytes that it is spread over.
    Spread(f64, f64),
    /// The right choice and the one picked.
    Labels(usize, usize),
    /// Shared n-grams.
    Chrf(ChrfCounts),
}

impl Part {
    /// The number that stands in the log of a question.
    pub fn number(&self) -> f64 {
        match self {
            Self::Value(value) => *value,
            Self::Spread(log_likelihood, units) => log_likelihood / units.max(1.0),
            Self::Labels(right, picked) => f64::from(u8::from(right == picked)),
            Self::Chrf(counts) => counts.score(),
        }
    }
}

/// What a question scored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuestionScores {
    /// Scores, keyed by `metric,pipeline` as the harness writes them.
    pub parts: BTreeMap<String, Part>,
    /// Of a metric that says why: its verdict on the answer that was scored; of several answers, the
    /// first that is wrong.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Where several answers were drawn: the score of each by itself.
    pub samples: BTreeMap<String, Vec<f64>>,
}

/// Scores a question under every pipeline and metric.
///
/// # Errors
/// What makes the question unusable: a refusal of the model, an expression that takes too long.
pub fn score_question(
    question: &Question,
    responses: &[Response],
    metrics: &[MetricSpec],
    pipelines: &[Pipeline],
) -> Result<QuestionScores, String> {
    let mut scores = QuestionScores::default();
    let answers = answers_in(responses)?;
    for pipeline in pipelines {
        for metric in metrics {
            let key = format!("{},{}", metric.name, pipeline.name);
            let Some(answers) = &answers else {
                let part = part(question, responses, metric)?;
                scores.parts.extend(part.map(|part| (key, part)));
                continue;
            };
            let Some((part, verdict)) = generated(question, answers, metric, pipeline)? else {
                continue;
            };
            if answers.len() > 1 {
                let mut alone = Vec::with_capacity(answers.len());
                for answer in answers {
                    let scored = generated(question, &[answer], metric, pipeline)?;
                    // What is no mean over questions is none over answers either.
                    if let Some((Part::Value(value), _)) = scored {
                        alone.push(value);
                    }
                }
                if alone.len() == answers.len() {
                    scores.samples.insert(key.clone(), alone);
                }
            }
            scores.verdicts.extend(verdict.map(|verdict| (key.clone(), verdict)));
            scores.parts.insert(key, part);
        }
    }
    Ok(scores)
}

/// The texts that a model wrote, if it was asked to write.
fn answers_in(responses: &[Response]) -> Result<Option<Vec<&str>>, String> {
    let mut answers = Vec::new();
    for response in responses {
        match response {
            Response::Refused { reason } => return Err(reason.clone()),
            Response::Generation { text, .. } => answers.push(text.as_str()),
            _ => {}
        }
    }
    match (answers.len(), responses.len()) {
        (_, 0) => Err("the model gave no answer".to_owned()),
        (0, _) => Ok(None),
        (written, asked) if written == asked => Ok(Some(answers)),
        _ => Err("the model answered something else".to_owned()),
    }
}

/// The score of probabilities.
fn part(
    question: &Question,
    responses: &[Response],
    metric: &MetricSpec,
) -> Result<Option<Part>, String> {
    match responses.first() {
        Some(Response::Text { log_likelihood, .. }) => {
            let Target::Text(text) = &question.target else { return Ok(None) };
            // Python's len(re.split(r"\s+", text)): white space at an end counts an empty word.
            let edges = [text.starts_with(is_space), text.ends_with(is_space)];
            let words = text.split(is_space).filter(|word| !word.is_empty()).count();
            let words = if words == 0 {
                1 + usize::from(!text.is_empty())
            } else {
                words + edges.iter().filter(|edge| **edge).count()
            };
            let units = match metric.kind {
                Kind::WordPerplexity => words,
                _ => text.len(),
            };
            Ok(Some(Part::Spread(*log_likelihood, units as f64)))
        }
        Some(Response::Continuation { log_likelihood, is_greedy, .. }) => match metric.kind {
            Kind::Perplexity => Ok(Some(Part::Value(*log_likelihood))),
            Kind::Acc if question.choices.is_empty() || responses.len() == 1 => {
                Ok(Some(Part::Value(f64::from(u8::from(*is_greedy)))))
            }
            _ => chosen(question, responses, metric).map(Some),
        },
        _ => Err("the model answered something else".to_owned()),
    }
}

fn chosen(
    question: &Question,
    responses: &[Response],
    metric: &MetricSpec,
) -> Result<Part, String> {
    let mut scores = Vec::with_capacity(responses.len());
    for response in responses {
        match response {
            Response::Continuation { log_likelihood, is_greedy, .. } => {
                scores.push((*log_likelihood, *is_greedy));
            }
            Response::Refused { reason } => return Err(reason.clone()),
            _ => return Err("the model answered something else".to_owned()),
        }
    }
    let choices = &question.choices;
    let (with, without) = scores.split_at(choices.len().min(scores.len()));
    if with.len() < choices.len() {
        return Err("the model left choices without an answer".to_owned());
    }
    let pick = |key: &dyn Fn(usize) -> f64| {
        first_largest(&(0..choices.len()).map(key).collect::<Vec<_>>())
    };
    let picked = match metric.kind {
        Kind::AccNorm => pick(&|at| with[at].0 / choices[at].chars().count() as f64),
        Kind::AccBytes => pick(&|at| with[at].0 / choices[at].len() as f64),
        Kind::AccMutualInfo => {
            pick(&|at| with[at].0 - without.get(at).map_or(0.0, |(alone, _)| *alone))
        }
        _ => pick(&|at| with[at].0),
    };
    let right: Vec<usize> = match &question.target {
        Target::Choice(right) => right.iter().copied().collect(),
        Target::Choices(right) => right.clone(),
        _ => return Err("the task names no choice".to_owned()),
    };
    Ok(match metric.kind {
        Kind::ExactMatch => Part::Value(f64::from(u8::from(right.iter().any(|&at| with[at].1)))),
        Kind::F1 | Kind::Mcc => Part::Labels(*right.first().ok_or("no choice is right")?, picked),
        Kind::BrierScore => {
            let right = *right.first().ok_or("no choice is right")?;
            let most = with.iter().map(|(score, _)| *score).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = with.iter().map(|(score, _)| (score - most).exp()).sum();
            let squared = |(at, (score, _)): (usize, &(f64, bool))| {
                ((score - most).exp() / sum - f64::from(u8::from(at == right))).powi(2)
            };
            Part::Value(with.iter().enumerate().map(squared).sum())
        }
        _ => Part::Value(f64::from(u8::from(right.contains(&picked)))),
    })
}

/// The score of what is left of texts after a pipeline, and a verdict where the metric gives one. Of
/// several texts that are left, the mean counts.
fn generated(
    question: &Question,
    answers: &[&str],
    metric: &MetricSpec,
    pipeline: &Pipeline,
) -> Result<Option<(Part, Option<Verdict>)>, String> {
    let references: &[String] = match &question.target {
        Target::Text(text) => std::slice::from_ref(text),
        Target::Texts(texts) => texts,
        _ => return Err("the task names a choice, not a text".to_owned()),
    };
    let left = pipeline.apply(answers)?;
    let texts: Vec<String> = left.answers().iter().map(milpa_tokens::python_text).collect();
    if let [text] = texts.as_slice() {
        return compared(text, references, metric);
    }
    let (mut values, mut said) = (Vec::with_capacity(texts.len()), None::<Verdict>);
    for text in &texts {
        let Some((part, verdict)) = compared(text, references, metric)? else { return Ok(None) };
        let Part::Value(value) = part else {
            return Err(format!(
                "{} is no mean over answers; end the filters of {} with take_first or majority_vote",
                metric.name, pipeline.name
            ));
        };
        values.push(value);
        if said.as_ref().is_none_or(Verdict::is_correct) {
            said = verdict.or(said);
        }
    }
    Ok(Some((Part::Value(mean(&values)), said)))
}

/// The score of one text.
fn compared(
    answer: &str,
    references: &[String],
    metric: &MetricSpec,
) -> Result<Option<(Part, Option<Verdict>)>, String> {
    let share = |holds: bool| Part::Value(f64::from(u8::from(holds)));
    let part = match metric.kind {
        Kind::ExactMatch => share(references.iter().any(|text| metric.exact.matches(answer, text))),
        Kind::Verify => {
            let verifier = metric.verifier.as_ref().ok_or("the metric has no verifier")?;
            let mut first = None;
            for gold in references {
                let verdict = verifier.verify(gold, answer);
                if verdict.is_correct() {
                    return Ok(Some((share(true), Some(verdict))));
                }
                first.get_or_insert(verdict);
            }
            return Ok(Some((share(false), first)));
        }
        Kind::Tier => {
            let (loosest, language) = metric.tier.as_ref().ok_or("the metric has no tier")?;
            let tier = grade_names(answer, references, language);
            share(tier.is_some_and(|tier| tier <= *loosest))
        }
        Kind::TokenF1 => {
            Part::Value(references.iter().map(|text| token_f1(answer, text)).fold(0.0, f64::max))
        }
        Kind::TokenExact => {
            let given = answer_words(answer);
            share(references.iter().any(|text| answer_words(text) == given))
        }
        Kind::Chrf => Part::Chrf(ChrfCounts::of(answer, references, 0)),
        Kind::ChrfPlus => Part::Chrf(ChrfCounts::of(answer, references, 2)),
        _ => return Ok(None),
    };
    Ok(Some((part, None)))
}

/// A score of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricScore {
    /// Its name.
    pub metric: String,
    /// The pipeline of filters before it.
    pub filter: String,
    /// The score.
    pub value: f64,
    /// Standard error of a mean, as the harness prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// How certain the value is; `None` below two questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Questions scored.
    pub n: u64,
    /// Whether more is better.
    pub higher_is_better: bool,
}

impl MetricScore {
    /// A share as a score.
    pub fn of_share(metric: &str, share: &Share, higher_is_better: bool) -> Self {
        Self {
            metric: metric.to_owned(),
            filter: "none".to_owned(),
            value: share.value,
            standard_error: None,
            interval: Some(share.interval),
            n: share.n,
            higher_is_better,
        }
    }
}

/// The score of a task from those of its questions; `clusters[i]` numbers what question i shares with
/// others, where questions share anything.
pub fn aggregate(
    metric: &MetricSpec,
    filter: &str,
    parts: &[&Part],
    clusters: Option<&[usize]>,
    replicates: usize,
    seed: Seed,
) -> MetricScore {
    let values: Option<Vec<f64>> = parts
        .iter()
        .map(|part| if let Part::Value(value) = part { Some(*value) } else { None })
        .collect();
    let all: Vec<usize> = (0..parts.len()).collect();
    let value = total(metric.kind, parts, &all);
    let is_mean = metric.kind != Kind::Perplexity;
    let (standard_error, interval) = match (values.filter(|_| is_mean), clusters) {
        (Some(values), Some(clusters)) => (
            clustered_standard_error(&values, clusters),
            clustered_mean_interval(&values, clusters, LEVEL).map(|(_, interval)| interval),
        ),
        (None, Some(clusters)) => {
            let groups = group_by_cluster(clusters);
            let drawn = bootstrap(groups.len(), replicates, seed.derive(metric.name), |drawn| {
                let members: Vec<usize> =
                    drawn.iter().flat_map(|&group| groups[group].iter().copied()).collect();
                total(metric.kind, parts, &members)
            });
            let interval = (groups.len() > 1)
                .then(|| percentile_interval(drawn, LEVEL, Method::ClusterBootstrap));
            (None, interval.flatten())
        }
        (Some(values), None) if values.iter().all(|value| matches!(*value, 0.0 | 1.0)) => {
            let right = values.iter().filter(|value| **value > 0.0).count() as u64;
            (standard_error(&values), Some(wilson(right, values.len() as u64, LEVEL)))
        }
        (Some(values), None) => {
            (standard_error(&values), mean_interval(&values, LEVEL).map(|(_, interval)| interval))
        }
        (None, None) if parts.len() < 2 => (None, None),
        (None, None) => {
            let seed = seed.derive(metric.name);
            let drawn =
                bootstrap(parts.len(), replicates, seed, |drawn| total(metric.kind, parts, drawn));
            (None, percentile_interval(drawn, LEVEL, Method::Bootstrap))
        }
    };
    MetricScore {
        metric: metric.name.to_owned(),
        filter: filter.to_owned(),
        value,
        standard_error,
        interval,
        n: parts.len() as u64,
        higher_is_better: metric.higher_is_better(),
    }
}

/// The score of the questions `drawn`.
fn total(kind: MetricKind, parts: &[&Part], drawn: &[usize]) -> f64 {
    let numbers = || -> Vec<f64> { drawn.iter().map(|&at| parts[at].number()).collect() };
    match kind {
        Kind::Perplexity => (-mean(&numbers())).exp(),
        Kind::WordPerplexity | Kind::BytePerplexity | Kind::BitsPerByte => {
            let (mut log_likelihood, mut units) = (0.0, 0.0);
            for &at in drawn {
                if let Part::Spread(part, spread) = parts[at] {
                    log_likelihood += part;
                    units += spread;
                }
            }
            let rate = -log_likelihood / units.max(1.0);
            if kind == Kind::BitsPerByte { rate / std::f64::consts::LN_2 } else { rate.exp() }
        }
        Kind::Chrf | Kind::ChrfPlus => {
            let mut counts = ChrfCounts::default();
            for &at in drawn {
                if let Part::Chrf(part) = parts[at] {
                    counts.add(part);
                }
            }
            counts.score()
        }
        Kind::F1 | Kind::Mcc => {
            let (mut both, mut picked_only, mut right_only, mut neither) = (0.0, 0.0, 0.0, 0.0);
            for &at in drawn {
                if let Part::Labels(right, picked) = parts[at] {
                    match (right == &1, picked == &1) {
                        (true, true) => both += 1.0,
                        (false, true) => picked_only += 1.0,
                        (true, false) => right_only += 1.0,
                        (false, false) => neither += 1.0,
                    }
                }
            }
            let ratio = |over: f64, under: f64| if under > 0.0 { over / under } else { 0.0 };
            if kind == Kind::F1 {
                return ratio(2.0 * both, 2.0 * both + picked_only + right_only);
            }
            let under: f64 = (both + picked_only)
                * (both + right_only)
                * (neither + picked_only)
                * (neither + right_only);
            ratio(both * neither - picked_only * right_only, under.sqrt())
        }
        _ => mean(&numbers()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(choices: &[&str], target: Target) -> Question {
        let choices = choices.iter().map(|choice| (*choice).to_owned()).collect();
        Question {
            number: 0,
            text: String::new(),
            line: 1,
            requests: Vec::new(),
            choices,
            target,
            examples: Vec::new(),
            groups: BTreeMap::new(),
            cluster: None,
        }
    }

    fn continuation(log_likelihood: f64, is_greedy: bool) -> Response {
        Response::Continuation { log_likelihood, is_greedy, tokens: 1, truncated_tokens: 0 }
    }

    fn check(
        name: &str,
        output: OutputType,
        question: &Question,
        responses: &[Response],
        expect: f64,
    ) {
        let metric = MetricSpec::plain(name, output).unwrap();
        let parts = score_question(
            question,
            responses,
            std::slice::from_ref(&metric),
            &[Pipeline::default()],
        )
        .unwrap();
        let parts: Vec<&Part> = parts.parts.values().collect();
        let score = aggregate(&metric, "none", &parts, None, 100, Seed(0));
        assert!((score.value - expect).abs() < 1e-9, "{name}: {}", score.value);
    }

    #[test]
    fn choices_are_picked_by_each_rule() {
        let choices = ["sí", "no lo sé"];
        let asked = question(&choices, Target::Choice(Some(1)));
        let scores = [continuation(-2.0, true), continuation(-4.0, false)];
        check("acc", MultipleChoice, &asked, &scores, 0.0);
        // -2/2 against -4/8 characters; -2/3 against -4/9 bytes.
        check("acc_norm", MultipleChoice, &asked, &scores, 1.0);
        check("acc_bytes", MultipleChoice, &asked, &scores, 1.0);
        check("exact_match", MultipleChoice, &asked, &scores, 0.0);
        let with: Vec<Response> = scores
            .iter()
            .cloned()
            .chain([continuation(-1.0, true), continuation(-9.0, false)])
            .collect();
        check("acc_mutual_info", MultipleChoice, &asked, &with, 1.0);
        let (p, q) = (1.0 / (1.0 + (-2f64).exp()), 1.0 - 1.0 / (1.0 + (-2f64).exp()));
        check("brier_score", MultipleChoice, &asked, &scores, p * p + (1.0 - q) * (1.0 - q));
        let several = question(&choices, Target::Choices(vec![0, 1]));
        check("acc", MultipleChoice, &several, &scores, 1.0);
        // Equal choices: the first is picked.
        let equal = [continuation(-1.0, true), continuation(-1.0, true)];
        check("acc", MultipleChoice, &asked, &equal, 0.0);
        check("acc", MultipleChoice, &question(&choices, Target::Choice(None)), &scores, 0.0);
    }

    #[test]
    fn texts_are_spread_over_words_and_bytes() {
        let asked = question(&[], Target::Text(" año nuevo".to_owned()));
        let response = [Response::Text { log_likelihood: -11.0, tokens: 4 }];
        check(
            "bits_per_byte",
            LoglikelihoodRolling,
            &asked,
            &response,
            1.0 / std::f64::consts::LN_2,
        );
        check("byte_perplexity", LoglikelihoodRolling, &asked, &response, 1f64.exp());
        // An empty word before the space, as Python splits.
        check("word_perplexity", LoglikelihoodRolling, &asked, &response, (11f64 / 3.0).exp());
    }

    #[test]
    fn generated_texts_are_compared() {
        let asked = question(&[], Target::Texts(vec!["Lima".to_owned(), "El Callao".to_owned()]));
        let response = |text: &str| {
            [Response::Generation {
                text: text.to_owned(),
                finish_reason: FinishReason::Stop,
                prompt_tokens: 1,
                truncated_tokens: 0,
                tokens: 1,
            }]
        };
        check("exact_match", GenerateUntil, &asked, &response("Lima"), 1.0);
        check("exact_match", GenerateUntil, &asked, &response("lima"), 0.0);
        check("token_f1", GenerateUntil, &asked, &response("el Callao."), 1.0);
        check("token_exact", GenerateUntil, &asked, &response("«Callao»"), 1.0);
        check("token_exact", GenerateUntil, &asked, &response("Lima y Callao"), 0.0);
    }

    #[test]
    fn verifiers_are_metrics_with_a_locale() {
        let asked = question(&[], Target::Text("1234".to_owned()));
        let text = "Son 1.234 huevos".to_owned();
        let response = [Response::Generation {
            text,
            finish_reason: FinishReason::Stop,
            prompt_tokens: 1,
            truncated_tokens: 0,
            tokens: 1,
        }];
        let score = |options: Value| {
            let list: Vec<Map<String, Value>> = serde_json::from_value(json!([options])).unwrap();
            let metrics = MetricSpec::read(Some(&list), GenerateUntil).unwrap();
            let parts =
                score_question(&asked, &response, &metrics, &[Pipeline::default()]).unwrap();
            parts.parts.values().map(Part::number).sum::<f64>()
        };
        assert_eq!(score(json!({"metric": "verify_number", "locale": "es-AR"})), 1.0);
        assert_eq!(score(json!({"metric": "verify_number", "locale": "es-MX"})), 0.0);
        // Ambiguous without a country.
        assert_eq!(score(json!({"metric": "verify_number"})), 0.0);
        let marked = json!({"metric": "verify_number", "locale": "es-AR", "place": "marked"});
        assert_eq!(score(marked), 0.0);
    }

    #[test]
    fn metrics_that_do_not_fit_are_refused() {
        let check = |list: Value, output, part: &str| {
            let list: Vec<Map<String, Value>> = serde_json::from_value(list).unwrap();
            let error = MetricSpec::read(Some(&list), output).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        check(json!([{"metric": "rouge"}]), GenerateUntil, "known are acc");
        check(json!([{"metric": "acc"}]), GenerateUntil, "does not fit");
        check(
            json!([{"metric": "exact_match", "ignore_accents": true}]),
            GenerateUntil,
            "no option",
        );
        check(json!([{"metric": "acc", "aggregation": "median"}]), MultipleChoice, "is mean");
        check(json!([{}]), MultipleChoice, "no `metric`");
        let spanish = json!([{"metric": "verify_number", "locale": "es"}]);
        check(spanish, GenerateUntil, "es-MX or pt-BR");
        let choice = json!([{"metric": "verify_choice", "locale": "es-MX"}]);
        check(choice, GenerateUntil, "no option");
    }
}

//! Multiple choice by log-likelihood: which choice does the model find most probable?
//!
//! For each item the request is (prompt, delimiter + choice), as in lm-evaluation-harness; the
//! model decides how text becomes tokens. Definitions of the metrics: [`Metric`].

use std::{collections::BTreeMap, time::Instant};

use milpa_base::{Digest, ScoreRequest, Seed, TextModel};
use serde::{Deserialize, Serialize};

use crate::{
    error::EvalError,
    harness::ask::{is_refusal, refusal},
    items::{Item, ItemSet, Skips},
    run::Watch,
    statistics::{Interval, LEVEL, bootstrap_mean, wilson},
    task::{Metric, MultipleChoiceSpec, Prompt, PromptStyle, TaskSpec},
};

/// Requests handed to the model at a time; between two such batches a stop is heard.
const BATCH: usize = 256;

/// How one item was answered: a line of `items.jsonl`.
///
/// It holds no text of the item, so that a report can be published without publishing the
/// benchmark; id, line and hash find it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemResult {
    /// Name of the task.
    pub task: String,
    /// Version of the task.
    pub version: u32,
    /// How the question was put.
    pub style: PromptStyle,
    /// Identity of the item.
    pub id: String,
    /// Line in the data file, counted from 1.
    pub line: u64,
    /// BLAKE3 of prompt and choices as sent.
    pub prompt_hash: Digest,
    /// Number of the right choice, counted from 0.
    pub answer: usize,
    /// Choice picked under each metric.
    pub picked: BTreeMap<Metric, usize>,
    /// log p(choice | prompt) of each choice, in nats.
    pub log_likelihoods: Vec<f64>,
    /// Tokens of each choice.
    pub tokens: Vec<usize>,
    /// Tokens cut from the prompt because it did not fit with the longest choice.
    pub truncated_tokens: usize,
    /// Values of the fields by which scores are broken down.
    pub groups: BTreeMap<String, String>,
    /// What the item shares with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

impl ItemResult {
    /// 1 if the right choice was picked under `metric`, 0 if not, `None` if it was not computed.
    pub fn score(&self, metric: Metric) -> Option<f64> {
        self.picked.get(&metric).map(|picked| f64::from(u8::from(*picked == self.answer)))
    }
}

/// One accuracy with its interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricResult {
    /// Which accuracy.
    pub metric: Metric,
    /// Share of items answered rightly.
    pub value: f64,
    /// Items answered rightly.
    pub correct: u64,
    /// Items scored.
    pub n: u64,
    /// How certain the value is.
    pub interval: Interval,
}

/// The scores of the items that share a value of a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupResult {
    /// The field.
    pub field: String,
    /// Its value.
    pub value: String,
    /// Accuracy of guessing: the mean of 1 / number of choices.
    pub chance: f64,
    /// One for each metric of the task.
    pub metrics: Vec<MetricResult>,
}

/// The scores of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// Name of the task.
    pub task: String,
    /// Version of the task.
    pub version: u32,
    /// How the question was put.
    pub style: PromptStyle,
    /// BLAKE3 of the prompt template with its style and delimiter.
    pub template_hash: Digest,
    /// BLAKE3 of the data file.
    pub data_hash: Digest,
    /// Hash of the model, as the model tells it.
    pub model_hash: String,
    /// Licence of the items.
    pub licence: String,
    /// Lines of the data file.
    pub lines: u64,
    /// Items that could be scored, before a limit.
    pub usable: u64,
    /// Items scored.
    pub scored: u64,
    /// Lines that were left out, by reason.
    pub skips: Skips,
    /// Scored items whose prompt did not fit and was cut from the left.
    pub truncated_contexts: u64,
    /// Accuracy of guessing: the mean of 1 / number of choices.
    pub chance: f64,
    /// One for each metric of the task.
    pub metrics: Vec<MetricResult>,
    /// The same by language, subject and so on.
    pub groups: Vec<GroupResult>,
    /// Seed of resampled intervals.
    pub seed: Seed,
    /// Seconds it took.
    pub wall_seconds: f64,
}

/// Seed and effort of resampled intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Bootstrap replicates.
    pub replicates: usize,
    /// Seed of the draws.
    pub seed: Seed,
}

/// Scores the items of a multiple-choice task, in order.
///
/// An item that the model refuses as too long or malformed is counted among the skips.
///
/// # Errors
/// A model that fails or answers what cannot be, a stop, or no item left.
pub fn multiple_choice(
    model: &dyn TextModel,
    task: &TaskSpec,
    style: PromptStyle,
    set: &ItemSet,
    resampling: Resampling,
    watch: Watch<'_>,
) -> Result<(TaskResult, Vec<ItemResult>), EvalError> {
    let started = Instant::now();
    let spec = task.choice_spec().ok_or_else(|| EvalError::NoStyle {
        task: task.name.clone(),
        style: style.name(),
        known: "none, it is not multiple choice".to_owned(),
    })?;
    let prompt = spec.prompt(style, &task.name)?;
    let scorer = Scorer { model, task, spec, prompt: &prompt };
    let mut skips = set.skips.clone();
    let mut scored: Vec<(&Item, ItemResult)> = Vec::with_capacity(set.items.len());
    let mut rest = set.items.as_slice();
    let mut finished = 0usize;
    watch.progress.begin(&task.name, Some(set.items.len() as u64), "questions");
    while !rest.is_empty() {
        if watch.stop.is_set() {
            return Err(EvalError::Interrupted);
        }
        let (batch, after) = rest.split_at(batch_length(rest));
        rest = after;
        let advance = &mut |items: usize| watch.progress.advance((finished + items) as u64);
        match scorer.score(batch, advance) {
            Ok(results) => scored.extend(batch.iter().zip(results)),
            Err(EvalError::Model { source, .. }) if is_refusal(&source) => {
                for item in batch {
                    match scorer.score(std::slice::from_ref(item), &mut |_| ()) {
                        Ok(results) => scored.extend(results.into_iter().map(|r| (item, r))),
                        Err(EvalError::Model { source, .. }) if is_refusal(&source) => {
                            skips.add(&refusal(&source), item.line);
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        finished += batch.len();
        watch.progress.advance(finished as u64);
    }
    watch.progress.end();
    if scored.is_empty() {
        let questions = set.items.len();
        return Err(EvalError::nothing_scored(&task.name, questions, &skips, model.info()));
    }
    let all: Vec<&(&Item, ItemResult)> = scored.iter().collect();
    let result = TaskResult {
        task: task.name.clone(),
        version: task.version,
        style,
        template_hash: prompt.hash(),
        data_hash: set.data_hash,
        model_hash: model.info().hash.clone(),
        licence: task.licence.clone(),
        lines: set.lines,
        usable: set.usable,
        scored: scored.len() as u64,
        skips,
        truncated_contexts: scored.iter().filter(|(_, r)| r.truncated_tokens > 0).count() as u64,
        chance: chance(&all),
        metrics: measure(&all, &spec.metrics, resampling),
        groups: break_down(&scored, spec, resampling),
        seed: resampling.seed,
        wall_seconds: started.elapsed().as_secs_f64(),
    };
    Ok((result, scored.into_iter().map(|(_, result)| result).collect()))
}

/// How many items from the front make one batch of requests (at least one item).
fn batch_length(items: &[Item]) -> usize {
    let mut requests = 0;
    let fits = |item: &&Item| {
        requests += item.choices.len();
        requests <= BATCH
    };
    items.iter().take_while(fits).count().max(1)
}

struct Scorer<'a> {
    model: &'a dyn TextModel,
    task: &'a TaskSpec,
    spec: &'a MultipleChoiceSpec,
    prompt: &'a Prompt<'a>,
}

impl Scorer<'_> {
    fn score(
        &self,
        items: &[Item],
        advance: &mut dyn FnMut(usize),
    ) -> Result<Vec<ItemResult>, EvalError> {
        let mut requests = Vec::new();
        let mut ends = Vec::with_capacity(items.len());
        for item in items {
            for (index, choice) in item.choices.iter().enumerate() {
                let text = self.prompt.continuation(index, choice);
                requests.push(ScoreRequest {
                    context: item.prompt.clone(),
                    continuation: format!("{}{text}", self.prompt.delimiter),
                    parse_special: false,
                });
            }
            ends.push(requests.len());
        }
        let conditional = requests.len();
        if self.spec.metrics.contains(&Metric::AccMutualInfo) {
            for item in items {
                for (index, choice) in item.choices.iter().enumerate() {
                    let continuation = self.prompt.continuation(index, choice).into_owned();
                    requests.push(ScoreRequest {
                        context: String::new(),
                        continuation,
                        parse_special: false,
                    });
                }
            }
        }
        let failed = |source| EvalError::Model { doing: self.task.name.clone(), source };
        let bad = |problem| EvalError::BadAnswer { doing: self.task.name.clone(), problem };
        let scores = self
            .model
            .score(&requests, &mut |done| advance(ends.partition_point(|end| *end <= done)))
            .map_err(failed)?;
        if scores.len() != requests.len() {
            return Err(bad(format!("{} scores for {} requests", scores.len(), requests.len())));
        }
        if let Some(score) = scores.iter().find(|score| !score.log_likelihood.is_finite()) {
            return Err(bad(format!(
                "a log-likelihood of {}; the weights may be damaged",
                score.log_likelihood
            )));
        }
        let mut from = 0;
        let results = items.iter().zip(&ends).map(|(item, &end)| {
            let conditioned = &scores[from..end];
            let alone = scores.get(conditional + from..conditional + end);
            from = end;
            let log_likelihoods: Vec<f64> = conditioned.iter().map(|s| s.log_likelihood).collect();
            let pick = |metric: Metric| {
                let key = |index: usize| {
                    let text = self.prompt.continuation(index, &item.choices[index]);
                    let log_likelihood = log_likelihoods[index];
                    match metric {
                        Metric::Acc => log_likelihood,
                        Metric::AccNorm => log_likelihood / text.chars().count() as f64,
                        Metric::AccBytes => log_likelihood / text.len() as f64,
                        Metric::AccMutualInfo => {
                            log_likelihood - alone.map_or(0.0, |alone| alone[index].log_likelihood)
                        }
                    }
                };
                (metric, first_largest(&(0..item.choices.len()).map(key).collect::<Vec<_>>()))
            };
            ItemResult {
                task: self.task.name.clone(),
                version: self.task.version,
                style: self.prompt.style,
                id: item.id.clone(),
                line: item.line,
                prompt_hash: prompt_hash(item, self.prompt),
                answer: item.answer,
                picked: self.spec.metrics.iter().map(|metric| pick(*metric)).collect(),
                tokens: conditioned.iter().map(|s| s.tokens).collect(),
                truncated_tokens: conditioned.iter().map(|s| s.truncated_tokens).max().unwrap_or(0),
                groups: item.groups.clone(),
                cluster: item.cluster.clone(),
                log_likelihoods,
            }
        });
        Ok(results.collect())
    }
}

/// Index of the largest value; the first of equal ones.
pub(crate) fn first_largest(values: &[f64]) -> usize {
    (1..values.len()).fold(0, |best, index| if values[index] > values[best] { index } else { best })
}

fn prompt_hash(item: &Item, prompt: &Prompt<'_>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(&item.prompt);
    add(prompt.delimiter);
    for (index, choice) in item.choices.iter().enumerate() {
        add(&prompt.continuation(index, choice));
    }
    Digest(*hasher.finalize().as_bytes())
}

fn chance(scored: &[&(&Item, ItemResult)]) -> f64 {
    let sum: f64 = scored.iter().map(|(item, _)| 1.0 / item.choices.len() as f64).sum();
    sum / scored.len().max(1) as f64
}

fn measure(
    scored: &[&(&Item, ItemResult)],
    metrics: &[Metric],
    resampling: Resampling,
) -> Vec<MetricResult> {
    let clusters = cluster_numbers(scored.iter().map(|(_, result)| result));
    metrics
        .iter()
        .map(|&metric| {
            let hits: Vec<f64> =
                scored.iter().filter_map(|(_, result)| result.score(metric)).collect();
            let (n, correct) = (hits.len() as u64, hits.iter().sum::<f64>() as u64);
            let clustered = clusters.as_ref().and_then(|clusters| {
                let seed = resampling.seed.derive(metric.name());
                bootstrap_mean(&hits, Some(clusters), resampling.replicates, seed, LEVEL)
            });
            MetricResult {
                metric,
                value: correct as f64 / n.max(1) as f64,
                correct,
                n,
                interval: clustered.unwrap_or_else(|| wilson(correct, n, LEVEL)),
            }
        })
        .collect()
}

/// Numbers the clusters; an item without one is a cluster of its own. `None` if no item has one.
pub(crate) fn cluster_numbers<'a>(
    results: impl Iterator<Item = &'a ItemResult>,
) -> Option<Vec<usize>> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut next = 0;
    let clusters: Vec<usize> = results
        .map(|result| {
            let fresh = next;
            let number = match &result.cluster {
                Some(cluster) => *numbers.entry(cluster).or_insert(fresh),
                None => fresh,
            };
            next += usize::from(number == fresh);
            number
        })
        .collect();
    (!numbers.is_empty()).then_some(clusters)
}

fn break_down(
    scored: &[(&Item, ItemResult)],
    spec: &MultipleChoiceSpec,
    resampling: Resampling,
) -> Vec<GroupResult> {
    let mut groups = Vec::new();
    for field in &spec.group_by {
        let mut members: BTreeMap<&str, Vec<&(&Item, ItemResult)>> = BTreeMap::new();
        for entry in scored {
            if let Some(value) = entry.1.groups.get(field) {
                members.entry(value).or_default().push(entry);
            }
        }
        groups.extend(members.into_iter().map(|(value, members)| GroupResult {
            field: field.clone(),
            value: value.to_owned(),
            chance: chance(&members),
            metrics: measure(
                &members,
                &spec.metrics,
                Resampling { seed: resampling.seed.derive(field).derive(value), ..resampling },
            ),
        }));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_choices_is_picked() {
        let check = |values: &[f64], expect| assert_eq!(first_largest(values), expect);
        check(&[-2.0, -1.0, -1.0], 1);
        check(&[-1.0, -1.0], 0);
        check(&[-3.0, -2.0, -1.0], 2);
    }
}

//! Compares two models on the same items: paired difference, interval and exact test.
//!
//! Items are paired by task, version, style and prompt hash; results of different prompts are
//! refused rather than compared.

use std::collections::BTreeMap;

use milpa_base::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    error::EvalError,
    multiple_choice::{ItemResult, Resampling, cluster_numbers},
    statistics::{LEVEL, PairedDifference, mcnemar_exact, mcnemar_mid_p, paired_difference},
    task::Metric,
};

/// How model b differs from model a on a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairedComparison {
    /// Name of the task.
    pub task: String,
    /// Which accuracy.
    pub metric: Metric,
    /// Accuracy of a on the shared items.
    pub a: f64,
    /// Accuracy of b on the shared items.
    pub b: f64,
    /// b − a with its interval.
    pub paired: PairedDifference,
    /// Items that a alone answered rightly.
    pub only_a: u64,
    /// Items that b alone answered rightly.
    pub only_b: u64,
    /// p-value of the exact McNemar test; it takes items as independent, so with clusters the
    /// interval is the one to read.
    pub p_value: f64,
    /// The same by the mid-p test, which is less conservative.
    pub mid_p_value: f64,
    /// Whether items lie in clusters.
    pub clustered: bool,
    /// Items that only one of the two results has; they are not compared.
    pub unpaired: u64,
}

impl PairedComparison {
    /// The p-value to read: the clustered t test's where items lie in clusters, else mid-p McNemar.
    pub fn p(&self) -> f64 {
        match self.paired.p_value {
            Some(p_value) if self.clustered => p_value,
            _ => self.mid_p_value,
        }
    }
}

/// Compares results of one task under `metric`.
///
/// # Errors
/// Results of different tasks, versions or styles, or without a common item.
pub fn compare_items(
    a: &[ItemResult],
    b: &[ItemResult],
    metric: Metric,
    resampling: Resampling,
) -> Result<PairedComparison, EvalError> {
    let refuse = |message: String| Err(EvalError::NotComparable(message));
    let (Some(first_a), Some(first_b)) = (a.first(), b.first()) else {
        return refuse("one of them has no item".to_owned());
    };
    let key = |result: &ItemResult| (result.task.clone(), result.version, result.style);
    let wanted = key(first_a);
    if let Some(other) = a.iter().chain(b).find(|result| key(result) != wanted) {
        return refuse(format!(
            "{} version {} ({}) against {} version {} ({}); compare one task, version and style",
            first_a.task,
            first_a.version,
            first_a.style.name(),
            other.task,
            other.version,
            other.style.name()
        ));
    }
    // The n-th item with a prompt pairs with the n-th of the other side, should a prompt repeat.
    let index = |results: &[ItemResult]| {
        let mut seen: BTreeMap<Digest, u32> = BTreeMap::new();
        let mut found = BTreeMap::new();
        for (place, result) in results.iter().enumerate() {
            let times = seen.entry(result.prompt_hash).or_default();
            found.insert((result.prompt_hash, *times), place);
            *times += 1;
        }
        found
    };
    let (index_a, index_b) = (index(a), index(b));
    let mut pairs: Vec<(usize, usize)> = index_a
        .iter()
        .filter_map(|(hash, &place)| index_b.get(hash).map(|&other| (place, other)))
        .collect();
    pairs.sort_unstable();
    if pairs.is_empty() {
        return refuse(format!(
            "no prompt of {} is the same on both sides (first items: {} and {})",
            first_a.task, first_a.id, first_b.id
        ));
    }
    let scores = |results: &[ItemResult], side: fn(&(usize, usize)) -> usize| {
        pairs.iter().map(|pair| results[side(pair)].score(metric)).collect::<Option<Vec<f64>>>()
    };
    let (Some(scores_a), Some(scores_b)) = (scores(a, |pair| pair.0), scores(b, |pair| pair.1))
    else {
        return refuse(format!("{} was not computed for every item", metric.name()));
    };
    let clusters = cluster_numbers(pairs.iter().map(|pair| &a[pair.0]));
    let count = |x: f64, y: f64| {
        scores_a.iter().zip(&scores_b).filter(|(a, b)| **a == x && **b == y).count() as u64
    };
    let (only_a, only_b) = (count(1.0, 0.0), count(0.0, 1.0));
    Ok(PairedComparison {
        task: first_a.task.clone(),
        metric,
        a: crate::statistics::mean(&scores_a),
        b: crate::statistics::mean(&scores_b),
        paired: paired_difference(
            &scores_a,
            &scores_b,
            clusters.as_deref(),
            resampling.replicates,
            resampling.seed,
            LEVEL,
        ),
        only_a,
        only_b,
        p_value: mcnemar_exact(only_a, only_b),
        mid_p_value: mcnemar_mid_p(only_a, only_b),
        clustered: clusters.is_some(),
        unpaired: (a.len() + b.len() - 2 * pairs.len()) as u64,
    })
}

//! How far a score depends on the draw, where each question is answered several times (`repeats`).
//!
//! Each answer is scored by itself, as if it were the only one; the variance of these scores is split
//! between questions and draws. Beside a vote over the answers, their mean says what one answer is
//! worth. It asks no model.

use serde::{Deserialize, Serialize};

use crate::{
    harness::{QuestionLog, clusters_of, report::shown_filter, requests::Question},
    statistics::{
        Interval, LEVEL, VarianceShares, clustered_mean_interval, mean, mean_interval,
        variance_shares,
    },
};

/// What one answer of several is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleSpread {
    /// The metric.
    pub metric: String,
    /// The pipeline of filters before it.
    pub filter: String,
    /// Questions.
    pub questions: u64,
    /// Answers of each.
    pub samples: u64,
    /// Mean score of one answer.
    pub mean: f64,
    /// Its interval, for questions like these.
    pub interval: Option<Interval>,
    /// Share of the questions of which some answer scores 1.
    pub any: f64,
    /// Share of the questions of which every answer scores 1.
    pub all: f64,
    /// Where the variance comes from.
    pub variance: VarianceShares,
}

/// The spread of each metric over the answers, in the order of `keys` (`metric,filter`). Pipelines that
/// differ only in how they make one answer of several say the same and stand here once.
pub(crate) fn spreads(
    keys: &[(String, String)],
    questions: &[&Question],
    logs: &[QuestionLog],
) -> Vec<SampleSpread> {
    let mut seen: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut spreads = Vec::new();
    for (metric, filter) in keys {
        let key = format!("{metric},{filter}");
        let rows: Option<Vec<&Vec<f64>>> =
            logs.iter().map(|log| log.sample_scores.get(&key)).collect();
        let Some(rows) = rows.filter(|rows| !rows.is_empty()) else { continue };
        let samples = rows[0].len();
        if samples < 2 || rows.iter().any(|row| row.len() != samples) {
            continue;
        }
        let table: Vec<f64> = rows.iter().flat_map(|row| row.iter().copied()).collect();
        if seen.iter().any(|(name, known)| name == metric && *known == table) {
            continue;
        }
        let Some(variance) = variance_shares(&table, 1, samples) else { continue };
        let means: Vec<f64> = rows.iter().map(|row| mean(row)).collect();
        let interval = match clusters_of(questions) {
            Some(clusters) => clustered_mean_interval(&means, &clusters, LEVEL),
            None => mean_interval(&means, LEVEL),
        };
        let share = |holds: &dyn Fn(&[f64]) -> bool| {
            rows.iter().filter(|row| holds(row)).count() as f64 / rows.len() as f64
        };
        let is_right = |score: &f64| *score >= 1.0;
        spreads.push(SampleSpread {
            metric: metric.clone(),
            filter: filter.clone(),
            questions: rows.len() as u64,
            samples: samples as u64,
            mean: mean(&table),
            interval: interval.map(|(_, interval)| {
                let are_shares = table.iter().all(|score| (0.0..=1.0).contains(score));
                if are_shares { interval.within_shares() } else { interval }
            }),
            any: share(&|row| row.iter().any(is_right)),
            all: share(&|row| row.iter().all(is_right)),
            variance,
        });
        seen.push((metric, table));
    }
    spreads
}

impl SampleSpread {
    /// The result as a line of text.
    pub fn note(&self) -> String {
        let interval = self.interval.map_or(String::new(), |interval| {
            format!(" ({:.4} to {:.4})", interval.low, interval.high)
        });
        let (items, draws) = (self.variance.items, self.variance.samples.unwrap_or(0.0));
        let whole = (items + draws).max(f64::MIN_POSITIVE);
        let variance = if items + draws > 0.0 {
            format!(
                "; of the variance {:.0} % lies in questions, {:.0} % in draws",
                100.0 * items / whole,
                100.0 * draws / whole
            )
        } else {
            "; all answers score the same".to_owned()
        };
        format!(
            "{}{} of one answer, over {} answers to each of {} questions: {:.4}{interval}; right at \
             least once {:.4}, always {:.4}{variance}",
            self.metric,
            shown_filter(&self.filter),
            self.samples,
            self.questions,
            self.mean,
            self.any,
            self.all
        )
    }
}

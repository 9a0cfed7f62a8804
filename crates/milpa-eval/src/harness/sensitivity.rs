//! How far a score depends on the wording of its prompt and on the order of its choices.
//!
//! The same questions are asked with several prompts. The spread between the best and the worst prompt
//! is shown, the variance is split over questions, prompts and both together, and the mean over prompts
//! has an interval for prompts like these, not for these alone. It asks no model.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    harness::{QuestionLog, report::shown_filter, scores::MetricScore},
    statistics::{
        Interval, LEVEL, Share, VarianceShares, crossed_mean_interval, mean, mean_interval,
        variance_shares,
    },
};

/// What a score is worth under each of several prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSensitivity {
    /// The metric.
    pub metric: String,
    /// The pipeline of filters before it.
    pub filter: String,
    /// Questions that were scored under every prompt.
    pub questions: u64,
    /// Each prompt's score, best first.
    pub prompts: Vec<PromptScore>,
    /// Best less worst.
    pub spread: f64,
    /// Mean over prompts and questions.
    pub mean: f64,
    /// Its interval, for prompts and questions like these.
    pub interval: Option<Interval>,
    /// Where the variance comes from.
    pub variance: VarianceShares,
}

/// A prompt's score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptScore {
    /// Its name.
    pub name: String,
    /// The score.
    pub value: f64,
    /// Its interval over questions alone.
    pub interval: Option<Interval>,
}

/// Compares the prompts on one score; `None` with fewer than two prompts or questions.
pub(crate) fn sensitivity(
    score: &MetricScore,
    runs: &[(String, Vec<QuestionLog>)],
) -> Option<PromptSensitivity> {
    let key = format!("{},{}", score.metric, score.filter);
    let by_line: Vec<BTreeMap<u64, f64>> = runs
        .iter()
        .map(|(_, logs)| {
            logs.iter().filter_map(|log| Some((log.line, *log.scores.get(&key)?))).collect()
        })
        .collect();
    let mut lines: BTreeSet<u64> = by_line.first()?.keys().copied().collect();
    lines.retain(|line| by_line.iter().all(|scores| scores.contains_key(line)));
    let table: Vec<f64> =
        lines.iter().flat_map(|line| by_line.iter().map(|scores| scores[line])).collect();
    let variance = variance_shares(&table, runs.len(), 1)?;
    if runs.len() < 2 {
        return None;
    }
    let mut prompts: Vec<PromptScore> = runs
        .iter()
        .zip(&by_line)
        .map(|((name, _), scores)| {
            let values: Vec<f64> = lines.iter().map(|line| scores[line]).collect();
            let is_share = values.iter().all(|value| matches!(*value, 0.0 | 1.0));
            let interval = if is_share {
                Some(Share::of_flags(values.iter().map(|value| *value > 0.0)).interval)
            } else {
                mean_interval(&values, LEVEL).map(|(_, interval)| interval)
            };
            PromptScore { name: name.clone(), value: mean(&values), interval }
        })
        .collect();
    let sign = if score.higher_is_better { -1.0 } else { 1.0 };
    prompts.sort_by(|a, b| (sign * a.value).total_cmp(&(sign * b.value)));
    let (best, worst) = (prompts.first()?.value, prompts.last()?.value);
    Some(PromptSensitivity {
        metric: score.metric.clone(),
        filter: score.filter.clone(),
        questions: lines.len() as u64,
        prompts,
        spread: (best - worst).abs(),
        mean: mean(&table),
        interval: crossed_mean_interval(&table, runs.len(), LEVEL).map(|(_, interval)| {
            let are_shares = table.iter().all(|score| (0.0..=1.0).contains(score));
            if are_shares { interval.within_shares() } else { interval }
        }),
        variance,
    })
}

impl PromptSensitivity {
    /// The result as a line of text.
    pub fn note(&self) -> String {
        let named = |at: Option<&PromptScore>| {
            at.map_or(String::new(), |prompt| format!("{} {:.4}", prompt.name, prompt.value))
        };
        let interval = self.interval.map_or(String::new(), |interval| {
            format!(" ({:.4} to {:.4} for prompts like these)", interval.low, interval.high)
        });
        let VarianceShares { items, prompts, interaction, .. } = self.variance;
        let whole = (items + prompts + interaction).max(f64::MIN_POSITIVE);
        let percent = |part: f64| 100.0 * part / whole;
        let filter = shown_filter(&self.filter);
        format!(
            "{}{filter} over {} prompts and {} questions: best {}, worst {}, spread {:.4}; mean {:.4}{interval}; \
             of the variance {:.0} % lies in questions, {:.0} % in prompts, {:.0} % in both together",
            self.metric,
            self.prompts.len(),
            self.questions,
            named(self.prompts.first()),
            named(self.prompts.last()),
            self.spread,
            self.mean,
            percent(items),
            percent(prompts),
            percent(interaction)
        )
    }
}

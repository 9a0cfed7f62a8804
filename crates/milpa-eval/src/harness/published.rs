//! Figures that others published, set beside a score of the same task (`data/published.toml`).
//!
//! A figure is compared with a score only where both are the same quantity; even then what differs in
//! how they came about (examples, prompt, questions) is named. Figures in another metric are shown and
//! not compared. It measures nothing.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::{Deserialize, Serialize};

use crate::{
    harness::scores::MetricScore,
    statistics::{Interval, LEVEL, wilson},
};

/// Figures of one source for one metric of a task.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FigureSet {
    task: String,
    metric: String,
    ours: Option<String>,
    shots: Option<usize>,
    questions: Option<u64>,
    prompt: String,
    note: Option<String>,
    source: String,
    date: String,
    models: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    set: Vec<FigureSet>,
}

static FIGURES: LazyLock<Vec<FigureSet>> = LazyLock::new(|| {
    let file: File = toml::from_str(include_str!("../../data/published.toml"))
        .expect("the file is part of the program");
    file.set
});

/// Published figures beside a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The metric as published.
    pub metric: String,
    /// The score here that is the same quantity, as metric and filter; `None` where there is none, and
    /// then nothing is compared.
    pub compared_with: Option<String>,
    /// That score.
    pub measured: Option<f64>,
    /// What differs in how the figures and the score came about.
    pub settings: Vec<String>,
    /// Who published.
    pub source: String,
    /// When, as YYYY-MM-DD or YYYY-MM.
    pub date: String,
    /// The figures, highest first.
    pub figures: Vec<Figure>,
}

/// What a model was found to score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The model.
    pub model: String,
    /// The figure.
    pub value: f64,
    /// Wilson's interval, where the figure is a share of a known number of questions.
    pub interval: Option<Interval>,
    /// The score here less the figure, where they are the same quantity.
    pub difference: Option<f64>,
}

/// How a score came about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) task: &'a str,
    pub(crate) num_fewshot: usize,
    pub(crate) chat: bool,
    pub(crate) questions: u64,
}

/// The published figures of a task beside its scores.
pub(crate) fn beside(setting: Setting<'_>, scores: &[MetricScore]) -> Vec<Published> {
    let of_task = FIGURES.iter().filter(|set| set.task == setting.task);
    of_task.map(|set| compare(set, setting, scores)).collect()
}

fn compare(set: &FigureSet, setting: Setting<'_>, scores: &[MetricScore]) -> Published {
    let score = set.ours.as_ref().and_then(|ours| {
        scores.iter().find(|score| format!("{},{}", score.metric, score.filter) == *ours)
    });
    let figure = |(model, &value): (&String, &f64)| {
        let share = set.questions.filter(|_| set.ours.is_some());
        Figure {
            model: model.clone(),
            value,
            interval: share.map(|n| wilson((value * n as f64).round() as u64, n, LEVEL)),
            difference: score.map(|score| score.value - value),
        }
    };
    let mut figures: Vec<Figure> = set.models.iter().map(figure).collect();
    figures.sort_by(|a, b| b.value.total_cmp(&a.value));
    Published {
        metric: set.metric.clone(),
        compared_with: score.and(set.ours.clone()),
        measured: score.map(|score| score.value),
        settings: if score.is_some() { settings(set, setting) } else { Vec::new() },
        source: set.source.clone(),
        date: set.date.clone(),
        figures,
    }
}

fn settings(set: &FigureSet, setting: Setting<'_>) -> Vec<String> {
    let here = setting.num_fewshot;
    let mut named = match set.shots {
        Some(there) if there == here => Vec::new(),
        Some(there) => vec![format!("{there} examples there, {here} here")],
        None => vec![format!("number of examples there not stated, {here} here")],
    };
    let form = if setting.chat { "by the chat template" } else { "plain text" };
    named.push(format!("prompt there: {}; here: {form}", set.prompt));
    match set.questions {
        Some(there) if there == setting.questions => {}
        Some(there) => named.push(format!("{there} questions there, {} here", setting.questions)),
        None => {
            let here = setting.questions;
            named.push(format!("number of questions there not stated, {here} here"));
        }
    }
    named.extend(set.note.clone());
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskSpec;

    fn score(metric: &str, filter: &str, value: f64) -> MetricScore {
        MetricScore {
            metric: metric.to_owned(),
            filter: filter.to_owned(),
            value,
            standard_error: None,
            interval: None,
            n: 100,
            higher_is_better: true,
        }
    }

    fn setting(task: &str) -> Setting<'_> {
        Setting { task, num_fewshot: 0, chat: false, questions: 100 }
    }

    #[test]
    fn every_figure_has_its_task_source_and_date() {
        for set in FIGURES.iter() {
            TaskSpec::builtin(&set.task).unwrap();
            assert!(!set.source.is_empty() && matches!(set.date.len(), 7 | 10), "{}", set.source);
            if set.ours.is_some() {
                assert!(set.models.values().all(|value| (0.0..=1.0).contains(value)));
            }
        }
    }

    #[test]
    fn the_same_quantity_is_compared_and_what_differs_is_named() {
        let scores = [score("verify_number", "remove_whitespace", 0.25)];
        let found = &beside(setting("es/mgsm"), &scores)[0];
        assert_eq!(found.figures[0].model, "Gemma 4 31B");
        assert!((found.figures[0].difference.unwrap() - (0.25 - 0.908)).abs() < 1e-12);
        assert!(found.figures[0].interval.unwrap().low > 0.86);
        let named = found.settings.join(" | ");
        assert!(named.contains("not stated, 0 here"), "{named}");
        assert!(named.contains("250 questions there, 100 here"), "{named}");
        assert!(named.contains("plain text"), "{named}");
    }

    #[test]
    fn another_metric_is_shown_and_not_compared() {
        let scores = [score("answered", "none", 1.0)];
        let found = &beside(setting("en/mt_bench"), &scores)[0];
        assert_eq!((found.measured, found.figures[0].difference), (None, None));
        assert_eq!(found.figures[0].interval, None);
        // The score of another filter is another quantity.
        let other = [score("verify_number", "flexible-extract", 0.5)];
        assert_eq!(beside(setting("es/mgsm"), &other)[0].measured, None);
        assert!(beside(setting("pt/enem_2022"), &scores).is_empty());
    }
}

//! What judgments come to: win rates, plain and at equal length, mean grades, rubric scores.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    exchange::Question,
    run::{Judgment, Verdict},
    verdict::Preference,
};
use crate::{
    arena::length_controlled_share,
    multiple_choice::Resampling,
    report::interval_text,
    statistics::{Interval, LEVEL, bootstrap_mean, mcnemar_mid_p, mean, mean_interval},
};

/// How b fares against a.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairSummary {
    /// Questions judged in both orders.
    pub questions: u64,
    /// Both orders prefer a.
    pub a: u64,
    /// Both orders prefer b.
    pub b: u64,
    /// Both orders say tie.
    pub ties: u64,
    /// The orders disagree; counted as a tie.
    pub inconsistent: u64,
    /// Questions of which a verdict could not be read; left out.
    pub unreadable: u64,
    /// Wins of b with ties as halves.
    pub win_rate: f64,
    /// Its interval.
    pub interval: Option<Interval>,
    /// Win rate that the model of length predicts for answers equally long.
    pub length_controlled: Option<LengthControlled>,
    /// Verdicts for the first and for the second place, over both orders.
    pub places: (u64, u64),
    /// Exact (mid-p) test that places do not matter.
    pub places_p_value: f64,
}

/// A win rate at equal length.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthControlled {
    /// The win rate.
    pub win_rate: f64,
    /// Its interval.
    pub interval: Interval,
    /// Log-odds for one unit of tanh(difference of length / its deviation).
    pub effect: f64,
}

/// Sums up pairs; `lengths` holds the lengths of a's and b's answer to each question's id.
///
/// The length-controlled rate follows Y. Dubois et al., arXiv 2404.04475, with length in
/// characters and without the terms that their own data needs (difficulty of each instruction).
pub fn summarise_pairs(
    pairs: &[[Judgment; 2]],
    lengths: &BTreeMap<String, (usize, usize)>,
    resampling: Resampling,
) -> PairSummary {
    let preference = |judgment: &Judgment| match judgment.verdict {
        Verdict::Preference(preference) if judgment.swapped => Some(preference.swapped()),
        Verdict::Preference(preference) => Some(preference),
        _ => None,
    };
    let (mut a, mut b, mut ties, mut inconsistent) = (0, 0, 0, 0);
    let mut places = (0, 0);
    let (mut shares, mut differences) = (Vec::new(), Vec::new());
    for pair in pairs {
        let [Some(first), Some(second)] = [&pair[0], &pair[1]].map(preference) else { continue };
        for judgment in pair {
            match judgment.verdict {
                Verdict::Preference(Preference::A) => places.0 += 1,
                Verdict::Preference(Preference::B) => places.1 += 1,
                _ => {}
            }
        }
        let outcome = if first == second { first } else { Preference::Tie };
        match outcome {
            _ if first != second => inconsistent += 1,
            Preference::A => a += 1,
            Preference::B => b += 1,
            Preference::Tie => ties += 1,
        }
        shares.push(outcome.share_of_b());
        let (of_a, of_b) = lengths.get(&pair[0].id).copied().unwrap_or_default();
        differences.push(of_b as f64 - of_a as f64);
    }
    PairSummary {
        questions: shares.len() as u64,
        a,
        b,
        ties,
        inconsistent,
        unreadable: (pairs.len() - shares.len()) as u64,
        win_rate: mean(&shares),
        interval: bootstrap_mean(&shares, None, resampling.replicates, resampling.seed, LEVEL),
        length_controlled: length_controlled_share(&shares, &differences)
            .map(|(win_rate, interval, effect)| LengthControlled { win_rate, interval, effect }),
        places,
        places_p_value: mcnemar_mid_p(places.0, places.1),
    }
}

/// The grades of one model's answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradeSummary {
    /// Grades read.
    pub graded: u64,
    /// Answers of which no grade could be read; left out of the mean.
    pub unreadable: u64,
    /// Mean grade.
    pub mean: f64,
    /// Its interval.
    pub interval: Option<Interval>,
    /// The same by field and value.
    pub groups: BTreeMap<String, BTreeMap<String, (u64, f64)>>,
}

/// Sums up grades, or rubric scores, of answers: `None` where nothing could be read. `fields` are
/// the questions' fields by whose values means are shown.
pub fn summarise_grades(grades: &[(&Question, Option<f64>)], fields: &[String]) -> GradeSummary {
    let read: Vec<f64> = grades.iter().filter_map(|(_, grade)| *grade).collect();
    let mut groups: BTreeMap<String, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for (question, grade) in grades {
        let Some(grade) = grade else { continue };
        for field in fields {
            if let Some(value) = question.groups.get(field) {
                let values = groups.entry(field.clone()).or_default();
                values.entry(value.clone()).or_default().push(*grade);
            }
        }
    }
    let mean_of = |grades: Vec<f64>| (grades.len() as u64, mean(&grades));
    GradeSummary {
        graded: read.len() as u64,
        unreadable: (grades.len() - read.len()) as u64,
        mean: mean(&read),
        interval: mean_interval(&read, LEVEL).map(|(_, interval)| interval),
        groups: groups
            .into_iter()
            .map(|(field, values)| {
                (field, values.into_iter().map(|(value, all)| (value, mean_of(all))).collect())
            })
            .collect(),
    }
}

/// The grade that a judgment holds.
pub fn grade_of(judgment: &Judgment) -> Option<f64> {
    match judgment.verdict {
        Verdict::Rating(rating) => Some(rating),
        _ => None,
    }
}

/// Score of a rubric: points met over points to be had, cut to [0, 1]; `None` where a verdict is
/// unreadable or no criterion gives points.
pub fn rubric_score(question: &Question, judgments: &[Judgment]) -> Option<f64> {
    let available: f64 = question.criteria.iter().map(|c| c.weight.max(0.0)).sum();
    let mut points = 0.0;
    for (criterion, judgment) in question.criteria.iter().zip(judgments) {
        match judgment.verdict {
            Verdict::Met(true) => points += criterion.weight,
            Verdict::Met(false) => {}
            _ => return None,
        }
    }
    (available > 0.0).then(|| (points / available).clamp(0.0, 1.0))
}

impl fmt::Display for PairSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} questions: a {}, b {}, ties {}, inconsistent {} (counted as ties), unreadable {}",
            self.questions, self.a, self.b, self.ties, self.inconsistent, self.unreadable
        )?;
        writeln!(f, "b wins {:.3} ({})", self.win_rate, interval_text(self.interval.as_ref(), 3))?;
        match &self.length_controlled {
            Some(controlled) => writeln!(
                f,
                "at equal length {:.3} ({}); length has an effect of {:+.2}",
                controlled.win_rate,
                interval_text(Some(&controlled.interval), 3),
                controlled.effect
            )?,
            None => {
                f.write_str("at equal length: unavailable (one side won all, or equal lengths)\n")?;
            }
        }
        writeln!(
            f,
            "first place preferred {} times, second {}: p {:.3}",
            self.places.0, self.places.1, self.places_p_value
        )
    }
}

impl fmt::Display for GradeSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} graded, {} unreadable: mean {:.3} ({})",
            self.graded,
            self.unreadable,
            self.mean,
            interval_text(self.interval.as_ref(), 3)
        )?;
        for (field, values) in &self.groups {
            for (value, (count, mean)) in values {
                writeln!(f, "  {field} = {value}: {mean:.3} ({count})")?;
            }
        }
        Ok(())
    }
}

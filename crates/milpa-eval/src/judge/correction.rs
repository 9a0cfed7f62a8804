//! A judge's verdicts corrected by human labels, with intervals that know both are samples.
//!
//! A judge that takes right answers for wrong ones (sensitivity q₁ < 1) or wrong for right
//! (specificity q₀ < 1) gives a share p that is off by θ = (p + q₀ − 1)/(q₀ + q₁ − 1) − p.
//! Papers: C. Lee et al., "How to correctly report LLM-as-a-judge evaluations", arXiv 2511.21140;
//! W. J. Rogan, B. Gladen 1978; the interval's adjustment for few labels: Z. Lang, J. Reiczigel,
//! Preventive Veterinary Medicine 113 (2014) 13–22. Prediction-powered inference: A. N.
//! Angelopoulos et al., Science 382 (2023) 669–674.

use serde::{Deserialize, Serialize};

use crate::{
    error::EvalError,
    statistics::{Interval, LEVEL, Method, mean, normal_quantile, wilson},
};

/// How a judge did on items that people labelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    /// Wrong by people's labels.
    pub wrong: u64,
    /// Of those, wrong by the judge too.
    pub wrong_found: u64,
    /// Right by people's labels.
    pub right: u64,
    /// Of those, right by the judge too.
    pub right_found: u64,
}

impl Calibration {
    /// Counts one item with both labels.
    pub fn add(&mut self, by_people: bool, by_judge: bool) {
        if by_people {
            self.right += 1;
            self.right_found += u64::from(by_judge);
        } else {
            self.wrong += 1;
            self.wrong_found += u64::from(!by_judge);
        }
    }

    /// Share of the wrong that the judge finds wrong, q₀.
    pub fn specificity(&self) -> f64 {
        self.wrong_found as f64 / self.wrong as f64
    }

    /// Share of the right that the judge finds right, q₁.
    pub fn sensitivity(&self) -> f64 {
        self.right_found as f64 / self.right as f64
    }
}

/// A share of right answers, as judged and corrected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CorrectedShare {
    /// Share that the judge found right.
    pub judged: f64,
    /// Its Wilson interval, which takes the judge's word for the truth.
    pub judged_interval: Interval,
    /// Specificity q₀ on the labelled items.
    pub specificity: f64,
    /// Sensitivity q₁ on the labelled items.
    pub sensitivity: f64,
    /// Corrected share θ, within [0, 1].
    pub corrected: f64,
    /// Its interval.
    pub interval: Interval,
    /// How to split as many labels again between items that the judge found wrong and right.
    pub next_labels: (u64, u64),
}

/// Corrects the share of `judged` items that the judge found right (`judged_right`).
///
/// With z for the level: p̃ = (n·p + z²/2)/(n + z²), q̃ = (m·q + 1)/(m + 2); the interval is
/// θ̃ + d ± z·√[p̃(1−p̃)/ñ + (1−θ̃)² q̃₀(1−q̃₀)/m̃₀ + θ̃² q̃₁(1−q̃₁)/m̃₁]/(q̃₀+q̃₁−1) with
/// d = 2z²[θ̃ q̃₁(1−q̃₁)/m̃₁ − (1−θ̃) q̃₀(1−q̃₀)/m̃₀] and ñ = n + z², m̃ = m + 2; cut to [0, 1].
///
/// # Errors
/// No items or labels of one kind, or a judge no better than chance.
pub fn corrected_share(
    judged_right: u64,
    judged: u64,
    calibration: &Calibration,
) -> Result<CorrectedShare, EvalError> {
    let refuse = |message: String| Err(EvalError::Judge(message));
    if judged == 0 || calibration.wrong == 0 || calibration.right == 0 {
        return refuse(format!(
            "correcting takes judged items and human labels of both kinds; there are {judged} items, \
             {} labels \"wrong\" and {} \"right\"",
            calibration.wrong, calibration.right
        ));
    }
    let (specificity, sensitivity) = (calibration.specificity(), calibration.sensitivity());
    let z = normal_quantile(f64::midpoint(1.0, LEVEL));
    let smooth = |found: u64, all: u64| (found as f64 + 1.0) / (all as f64 + 2.0);
    let n = judged as f64 + z * z;
    let p = (judged_right as f64 + z * z / 2.0) / n;
    let q0 = smooth(calibration.wrong_found, calibration.wrong);
    let q1 = smooth(calibration.right_found, calibration.right);
    if specificity + sensitivity <= 1.0 || q0 + q1 <= 1.0 {
        return refuse(format!(
            "the judge is no better than chance (specificity {specificity:.3}, sensitivity \
             {sensitivity:.3}); its verdicts cannot be corrected"
        ));
    }
    let unit = |value: f64| value.clamp(0.0, 1.0);
    let share = judged_right as f64 / judged as f64;
    let corrected = unit((share + specificity - 1.0) / (specificity + sensitivity - 1.0));
    let theta = unit((p + q0 - 1.0) / (q0 + q1 - 1.0));
    let from_wrong = q0 * (1.0 - q0) / (calibration.wrong as f64 + 2.0);
    let from_right = q1 * (1.0 - q1) / (calibration.right as f64 + 2.0);
    let shift = 2.0 * z * z * (theta * from_right - (1.0 - theta) * from_wrong);
    let variance =
        p * (1.0 - p) / n + (1.0 - theta).powi(2) * from_wrong + theta * theta * from_right;
    let half = z * variance.sqrt() / (q0 + q1 - 1.0);
    Ok(CorrectedShare {
        judged: share,
        judged_interval: wilson(judged_right, judged, LEVEL),
        specificity,
        sensitivity,
        corrected,
        interval: Interval {
            low: unit(theta + shift - half),
            high: unit(theta + shift + half),
            level: LEVEL,
            method: Method::JudgeCorrected,
        },
        next_labels: allocate_labels(calibration.wrong + calibration.right, theta, q0, q1),
    })
}

/// Splits `labels` between wrong and right items so that the interval becomes shortest:
/// m₀ : m₁ = (1 − θ)√(q₀(1 − q₀)) : θ√(q₁(1 − q₁)), with at least one of each.
pub fn allocate_labels(labels: u64, share: f64, specificity: f64, sensitivity: f64) -> (u64, u64) {
    let deviation = |q: f64| (q * (1.0 - q)).max(0.0).sqrt();
    let (wrong, right) = ((1.0 - share) * deviation(specificity), share * deviation(sensitivity));
    let of_wrong = if wrong + right > 0.0 { wrong / (wrong + right) } else { 0.5 };
    let wrong = (labels as f64 * of_wrong).round() as u64;
    let wrong = wrong.clamp(1.min(labels), labels.saturating_sub(1).max(1.min(labels)));
    (wrong, labels - wrong)
}

/// Mean and interval from many judged scores and some items with both scores, drawn by lot from the
/// same items: mean(judge on the rest) + mean(human − judge on the labelled).
///
/// Unlike [`corrected_share`] it holds for any scores, and needs the labelled items to be a random
/// sample. `None` below two values on a side.
pub fn prediction_powered_mean(
    judged: &[f64],
    labelled: &[(f64, f64)],
    level: f64,
) -> Option<(f64, Interval)> {
    let corrections: Vec<f64> = labelled.iter().map(|(human, judge)| human - judge).collect();
    let errors = [
        crate::statistics::standard_error(judged)?,
        crate::statistics::standard_error(&corrections)?,
    ];
    let centre = mean(judged) + mean(&corrections);
    let half = normal_quantile(f64::midpoint(1.0, level)) * errors[0].hypot(errors[1]);
    let method = Method::JudgeCorrected;
    Some((centre, Interval { low: centre - half, high: centre + half, level, method }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expect: f64, tolerance: f64) {
        assert!((value - expect).abs() <= tolerance, "{value} is not {expect}");
    }

    #[test]
    fn the_papers_example_is_corrected() {
        // p 0.4 of 1000, q₀ 0.7 and q₁ 0.9 of 200 each: θ = 0.1/0.6.
        let calibration =
            Calibration { wrong: 200, wrong_found: 140, right: 200, right_found: 180 };
        let found = corrected_share(400, 1000, &calibration).unwrap();
        near(found.corrected, 1.0 / 6.0, 1e-12);
        assert!(found.interval.low < 1.0 / 6.0 && 1.0 / 6.0 < found.interval.high);
        // Delta method without the adjustment: √(.24/1000 + (5/6)²·.21/200 + (1/6)²·.09/200)/.6.
        let plain = 1.959_964
            * (0.24f64 / 1000.0 + (25.0 / 36.0) * 0.21 / 200.0 + 0.09 / 36.0 / 200.0).sqrt()
            / 0.6;
        near((found.interval.high - found.interval.low) / 2.0, plain, 0.005);
        // Specificity matters most where most answers are wrong.
        assert!(found.next_labels.0 > 3 * found.next_labels.1);
    }

    #[test]
    fn a_perfect_judge_needs_no_correction() {
        let calibration =
            Calibration { wrong: 500, wrong_found: 500, right: 500, right_found: 500 };
        let found = corrected_share(300, 1000, &calibration).unwrap();
        near(found.corrected, 0.3, 1e-12);
        near(found.interval.low, found.judged_interval.low, 0.01);
    }

    #[test]
    fn a_useless_judge_and_missing_labels_are_refused() {
        let blind = Calibration { wrong: 100, wrong_found: 50, right: 100, right_found: 50 };
        let error = corrected_share(1, 10, &blind).unwrap_err().to_string();
        assert!(error.contains("no better than chance"), "{error}");
        let none = Calibration { right: 5, right_found: 5, ..Calibration::default() };
        assert!(corrected_share(1, 10, &none).is_err());
    }

    #[test]
    fn labels_are_split_and_never_lost() {
        assert_eq!(allocate_labels(100, 0.5, 0.9, 0.9), (50, 50));
        assert_eq!(allocate_labels(100, 1.0, 0.9, 0.9), (1, 99));
        assert_eq!(allocate_labels(100, 0.0, 0.9, 0.9), (99, 1));
        assert_eq!(allocate_labels(0, 0.3, 0.9, 0.9), (0, 0));
        assert_eq!(allocate_labels(1, 0.3, 0.9, 0.9), (1, 0));
    }

    #[test]
    fn prediction_powered_mean_by_hand() {
        let (centre, interval) =
            prediction_powered_mean(&[1.0, 0.0, 1.0, 1.0], &[(0.0, 1.0), (1.0, 1.0)], 0.95)
                .unwrap();
        near(centre, 0.75 - 0.5, 1e-12);
        // Errors 0.25 and 0.5.
        near(interval.high - centre, 1.959_964 * 0.25f64.hypot(0.5), 1e-5);
        assert!(prediction_powered_mean(&[1.0], &[(1.0, 1.0); 2], 0.95).is_none());
    }
}

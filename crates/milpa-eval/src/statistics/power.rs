//! What a comparison can find before it is made: the minimum detectable difference.
//!
//! Formula: arXiv 2411.00640 section 5. With n independent questions, the mean of the paired
//! differences has variance (ω² + σ_A²/K_A + σ_B²/K_B)/n, where ω² is the variance of the
//! questions' true differences, σ² a question's variance over resampled answers, K how many answers
//! were drawn. Clusters enter as a design effect 1 + (m − 1)·ρ on that variance.

use super::distributions::normal_quantile;

/// A planned paired comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Design {
    /// Variance ω² of the questions' true differences.
    pub between: f64,
    /// Variance of one question over answers of the first model, σ_A².
    pub within_a: f64,
    /// The same for the second model.
    pub within_b: f64,
    /// Answers drawn of each model for a question, K.
    pub answers: u32,
    /// Mean number of questions in a cluster, m; 1 where questions are independent.
    pub cluster_size: f64,
    /// Correlation ρ of differences within a cluster.
    pub cluster_correlation: f64,
    /// Probability of calling a difference that is none.
    pub significance: f64,
    /// Probability of finding a difference that is there.
    pub power: f64,
}

impl Design {
    /// Two models of accuracy about `accuracy` whose right answers correlate by `correlation`,
    /// each question answered once; 5 % significance, 80 % power.
    pub fn accuracies(accuracy: f64, correlation: f64) -> Self {
        // One right-or-wrong answer.
        let variance = accuracy * (1.0 - accuracy);
        Self {
            between: 2.0 * variance * (1.0 - correlation),
            within_a: 0.0,
            within_b: 0.0,
            answers: 1,
            cluster_size: 1.0,
            cluster_correlation: 0.0,
            significance: 0.05,
            power: 0.8,
        }
    }

    /// Variance of one question's difference, with the clusters' design effect.
    fn variance(&self) -> f64 {
        let answers = f64::from(self.answers.max(1));
        let effect = 1.0 + (self.cluster_size - 1.0).max(0.0) * self.cluster_correlation;
        (self.between + (self.within_a + self.within_b) / answers) * effect
    }

    /// z(1 − α/2) + z(power).
    fn quantiles(&self) -> f64 {
        normal_quantile(1.0 - self.significance / 2.0) + normal_quantile(self.power)
    }
}

/// Least true difference that `questions` questions find with the design's power.
pub fn minimum_detectable_difference(questions: u64, design: &Design) -> f64 {
    design.quantiles() * (design.variance() / questions.max(1) as f64).sqrt()
}

/// Questions that finding a true `difference` takes with the design's power.
pub fn units_needed(difference: f64, design: &Design) -> u64 {
    (design.variance() * (design.quantiles() / difference).powi(2)).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::near;

    #[test]
    fn three_points_take_about_a_thousand_questions() {
        // ω² = 1/9, σ² = 1/6 for both models, three points: (1.96 + 0.84)² · (1/9) / 0.03² = 969
        // with so many answers that their variance is gone; four times as many with one answer.
        let design = Design {
            between: 1.0 / 9.0,
            within_a: 1.0 / 6.0,
            within_b: 1.0 / 6.0,
            answers: 1_000_000,
            ..Design::accuracies(0.5, 0.0)
        };
        near(units_needed(0.03, &design) as f64, 969.0, 1.0);
        let once = Design { answers: 1, ..design };
        near(units_needed(0.03, &once) as f64 / 969.0, 4.0, 0.01);
        near(minimum_detectable_difference(969, &design), 0.03, 1e-4);
    }

    #[test]
    fn clusters_take_more_questions() {
        let design = Design::accuracies(0.5, 0.5);
        let clustered = Design { cluster_size: 5.0, cluster_correlation: 0.25, ..design };
        let ratio = minimum_detectable_difference(400, &clustered)
            / minimum_detectable_difference(400, &design);
        near(ratio, 2f64.sqrt(), 1e-12);
        // Unclustered: (1.959964 + 0.841621) · √(0.25/400).
        near(minimum_detectable_difference(400, &design), 0.070_039_6, 1e-6);
    }
}

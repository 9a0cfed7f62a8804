//! From the loss to a task: accuracy as a function of a loss, alone and after a law of the loss.
//!
//! Two steps as in Llama 3 (arXiv:2407.21783) and the OLMo ladder (Bhagia et al. 2024,
//! arXiv:2412.04403): the task's loss from N and D, then the accuracy from that loss by a sigmoid.
//! Gadre et al. 2024 (arXiv:2403.08540) take the error as an exponential of the validation loss.

use serde::Serialize;

use super::{
    curves::{Curve, Exponential, Sigmoid},
    fit::{FitOptions, Fitted, fit},
    interval::{Estimate, estimate},
    law::{Law, RunSize, Search},
    objective::{Objective, Scale},
};

/// How accuracy follows a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// accuracy = a/(1 + e^(−k·(L − L₀))) + b.
    Sigmoid,
    /// 1 − accuracy = ε − k·e^(−γ·L).
    Exponential,
}

impl LinkKind {
    /// The formula with its publication.
    pub fn formula(self) -> &'static str {
        match self {
            Self::Sigmoid => {
                "accuracy = a/(1 + e^(-k*(L - L0))) + b (Bhagia et al. 2024, arXiv:2412.04403)"
            }
            Self::Exponential => {
                "error = epsilon - k*e^(-gamma*L) (Gadre et al. 2024, arXiv:2403.08540)"
            }
        }
    }

    /// Number of constants.
    pub fn parameters(self) -> usize {
        match self {
            Self::Sigmoid => Sigmoid::NAMES.len(),
            Self::Exponential => Exponential::NAMES.len(),
        }
    }
}

/// A fitted link.
#[derive(Debug, Clone)]
pub struct Link {
    kind: LinkKind,
    fitted: Inner,
    /// How the search went.
    pub search: Search,
}

#[derive(Debug, Clone)]
enum Inner {
    Sigmoid(Fitted<4>),
    Exponential(Exponential, Fitted<3>),
}

impl Link {
    /// Fits accuracies to losses by least squares.
    pub fn fit(kind: LinkKind, losses: &[f64], accuracies: &[f64], options: &FitOptions) -> Self {
        let options =
            FitOptions { objective: Objective::Squares, scale: Scale::Linear, ..*options };
        let (fitted, search) = match kind {
            LinkKind::Sigmoid => {
                let fitted = fit(&Sigmoid, losses, accuracies, &options);
                let search = Search::of(&fitted);
                (Inner::Sigmoid(fitted), search)
            }
            LinkKind::Exponential => {
                let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
                let errors: Vec<f64> = accuracies.iter().map(|accuracy| 1.0 - accuracy).collect();
                let fitted = fit(&Exponential(mean), losses, &errors, &options);
                let search = Search::of(&fitted);
                (Inner::Exponential(Exponential(mean), fitted), search)
            }
        };
        Self { kind, fitted, search }
    }

    /// Which link it is.
    pub fn kind(&self) -> LinkKind {
        self.kind
    }

    /// The constants by name, with intervals.
    pub fn constants(&self) -> Vec<(&'static str, Estimate)> {
        match &self.fitted {
            Inner::Sigmoid(fitted) => constants(&Sigmoid, fitted, &self.search),
            Inner::Exponential(curve, fitted) => constants(curve, fitted, &self.search),
        }
    }

    /// The accuracy at a loss.
    pub fn accuracy_value(&self, loss: f64) -> f64 {
        self.at(None, loss)
    }

    /// The accuracy of a run: its loss by the law, then this link. Resample i of the one goes with
    /// resample i of the other; where both were fitted to the same rows, they drew the same.
    pub fn accuracy(&self, law: &Law, size: RunSize) -> Estimate {
        let losses = law.resampled_losses(size);
        let resamples = (0..self.resamples().min(losses.len()))
            .map(|index| self.at(Some(index), losses[index]))
            .collect();
        estimate(
            self.at(None, law.loss_value(size)),
            resamples,
            &[],
            law.search.reach.max(self.search.reach),
        )
    }

    fn resamples(&self) -> usize {
        match &self.fitted {
            Inner::Sigmoid(fitted) => fitted.resamples.len(),
            Inner::Exponential(_, fitted) => fitted.resamples.len(),
        }
    }

    /// The accuracy at a loss, by the estimate or by a resample.
    fn at(&self, resample: Option<usize>, loss: f64) -> f64 {
        match &self.fitted {
            Inner::Sigmoid(fitted) => {
                Sigmoid.at(resample.map_or(&fitted.theta, |index| &fitted.resamples[index]), loss)
            }
            Inner::Exponential(curve, fitted) => {
                let theta = resample.map_or(&fitted.theta, |index| &fitted.resamples[index]);
                1.0 - curve.at(theta, loss)
            }
        }
    }
}

fn constants<const P: usize, C: Curve<P>>(
    curve: &C,
    fitted: &Fitted<P>,
    search: &Search,
) -> Vec<(&'static str, Estimate)> {
    let value = curve.constants(&fitted.theta);
    let one = |index: usize| {
        let resamples = fitted.resamples.iter().map(|theta| curve.constants(theta)[index]);
        let without: Vec<f64> =
            fitted.without.iter().map(|(_, theta)| curve.constants(theta)[index]).collect();
        (C::NAMES[index], search.estimate(value[index], resamples.collect(), &without))
    };
    (0..P).map(one).collect()
}

/// A training curve without its first tenth, each point the mean of up to five; what the OLMo
/// ladder fits the accuracy of checkpoints to. Points are (task loss, accuracy) in order.
pub fn smoothed_checkpoints(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    const WIDTH: usize = 5;
    let mean = |end: usize| {
        let window = &points[end.saturating_sub(WIDTH - 1)..=end];
        let count = window.len() as f64;
        let sum = window.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    (points.len().div_ceil(10).min(points.len().saturating_sub(1))..points.len())
        .map(mean)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> FitOptions {
        FitOptions { resamples: 0, ..FitOptions::default() }
    }

    #[test]
    fn links_come_back_from_exact_data() {
        let losses: Vec<f64> = (0..30).map(|i| 0.6 + 0.03 * f64::from(i)).collect();
        let sigmoid = |loss: f64| 0.72 / (1.0 + (6.0 * (loss - 0.9)).exp()) + 0.24;
        let accuracies: Vec<f64> = losses.iter().map(|&loss| sigmoid(loss)).collect();
        let link = Link::fit(LinkKind::Sigmoid, &losses, &accuracies, &quick());
        assert!((link.accuracy_value(0.4) - sigmoid(0.4)).abs() < 1e-6, "{:?}", link.constants());

        let exponential = |loss: f64| 1.0 - (0.86 - 2.2 * (-0.71 * loss).exp());
        let losses: Vec<f64> = (0..8).map(|i| 2.6 + 0.3 * f64::from(i)).collect();
        let accuracies: Vec<f64> = losses.iter().map(|&loss| exponential(loss)).collect();
        let link = Link::fit(LinkKind::Exponential, &losses, &accuracies, &quick());
        for ((name, got), want) in link.constants().into_iter().zip([0.86, 2.2, 0.71]) {
            assert!((got.value / want - 1.0).abs() < 1e-5, "{name} {got:?}");
        }
    }

    #[test]
    fn checkpoints_lose_their_first_tenth_and_their_noise() {
        let points: Vec<(f64, f64)> = (0..20).map(|i| (f64::from(i), 0.0)).collect();
        let smooth = smoothed_checkpoints(&points);
        assert_eq!(smooth.len(), 18);
        assert_eq!(smooth[0].0, 1.0);
        assert_eq!(smooth[17].0, 17.0);
        assert_eq!(smoothed_checkpoints(&points[..1]), [(0.0, 0.0)]);
    }
}

//! A fitted law of the loss: constants, predictions and compute-optimal sizes with intervals.
//!
//! It knows curves by name and hides their number of parameters. N, D and C are the parameters (as
//! counted in the data), the tokens and the FLOPs of a run; C = 6·N·D throughout.

use serde::Serialize;

use super::{
    curves::{Centre, Chinchilla, Curve, DataConstrained, Kaplan, OverTraining, Size},
    fit::{FitOptions, Fitted, fit, in_parallel},
    interval::{Estimate, estimate},
};

/// The laws of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LawKind {
    /// L = E + A/N^α + B/D^β (Hoffmann et al. 2022, approach 3).
    Chinchilla,
    /// L = ((N_c/N)^(α_N/α_D) + D_c/D)^α_D (Kaplan et al. 2020).
    Kaplan,
    /// One exponent for N and D, made for runs far beyond the compute-optimal tokens (Gadre et
    /// al. 2024).
    OverTraining,
    /// Repeated tokens and excess parameters worth less (Muennighoff et al. 2023).
    DataConstrained,
}

impl LawKind {
    /// Names of the constants.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Chinchilla => &Chinchilla::NAMES,
            Self::Kaplan => &Kaplan::NAMES,
            Self::OverTraining => &OverTraining::NAMES,
            Self::DataConstrained => &DataConstrained::NAMES,
        }
    }

    /// The formula with its publication.
    pub fn formula(self) -> &'static str {
        match self {
            Self::Chinchilla => {
                "L = E + A/N^alpha + B/D^beta (Hoffmann et al. 2022, arXiv:2203.15556, approach 3)"
            }
            Self::Kaplan => {
                "L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D (Kaplan et al. 2020, \
                 arXiv:2001.08361, eq. 1.5)"
            }
            Self::OverTraining => {
                "L = E + alpha*N^b + beta*6^(b/2)*D^b (Gadre et al. 2024, arXiv:2403.08540)"
            }
            Self::DataConstrained => {
                "L = E + A/N'^alpha + B/D'^beta, repeats discounted by R_D*, R_N* \
                 (Muennighoff et al. 2023, arXiv:2305.16264)"
            }
        }
    }
}

/// A run's size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RunSize {
    /// Parameters, as counted in the data of the fit.
    pub parameters: f64,
    /// Tokens trained on.
    pub tokens: f64,
    /// Different tokens; `tokens` where none is repeated.
    pub unique_tokens: f64,
}

impl RunSize {
    /// A run that sees each token once.
    pub fn once(parameters: f64, tokens: f64) -> Self {
        Self { parameters, tokens, unique_tokens: tokens }
    }

    /// C = 6·N·D.
    pub fn flops(&self) -> f64 {
        6.0 * self.parameters * self.tokens
    }

    fn logarithms(&self) -> Size {
        Size {
            parameters: self.parameters.ln(),
            tokens: self.tokens.ln(),
            unique_tokens: self.unique_tokens.ln(),
        }
    }
}

/// The compute-optimal run of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Optimum {
    /// C in FLOPs.
    pub flops: f64,
    /// N.
    pub parameters: Estimate,
    /// D.
    pub tokens: Estimate,
    /// D/N.
    pub tokens_per_parameter: Estimate,
    /// The loss there.
    pub loss: Estimate,
}

/// A law with its constants.
#[derive(Debug, Clone)]
pub struct Law {
    kind: LawKind,
    centre: Centre,
    /// Inner parameters of the estimate, of each resample, and without each row.
    theta: Vec<f64>,
    resamples: Vec<Vec<f64>>,
    without: Vec<(usize, Vec<f64>)>,
    threads: usize,
    /// How the search went.
    pub search: Search,
}

/// How a fit went.
#[derive(Debug, Clone, Serialize)]
pub struct Search {
    /// The sum that was made small.
    pub objective: f64,
    /// Whether it ended because steps became small.
    pub converged: bool,
    /// Searches carried to the end.
    pub searches: usize,
    /// How many of them ended at the same sum.
    pub agreeing: usize,
    /// Condition number of the scaled derivatives: how far the data separate the constants.
    pub condition: Option<f64>,
    /// Whether the resamples drew rows; otherwise residuals, widened for the few rows.
    pub rows_drawn: bool,
    /// The normal quantile that intervals reach to.
    #[serde(skip)]
    pub(super) reach: f64,
    /// Whether each row was left out in turn; of very many, only the largest residuals are.
    #[serde(skip)]
    every_row_left_out: bool,
    /// Predicted minus measured, on the scale of the fit.
    #[serde(skip)]
    pub residuals: Vec<f64>,
}

impl Search {
    pub(super) fn of<const P: usize>(fitted: &Fitted<P>) -> Self {
        Self {
            objective: fitted.objective,
            converged: fitted.converged,
            searches: fitted.searches.0,
            agreeing: fitted.searches.1,
            condition: fitted.condition.is_finite().then_some(fitted.condition),
            rows_drawn: fitted.rows_drawn,
            reach: fitted.reach,
            every_row_left_out: fitted.every_row_left_out,
            residuals: fitted.residuals.clone(),
        }
    }
}

impl Search {
    /// The interval of a quantity of this fit.
    pub(super) fn estimate(&self, value: f64, resamples: Vec<f64>, without: &[f64]) -> Estimate {
        // The skewness of a few rows is not that of all; for hundreds of rows it is small.
        let without = if self.every_row_left_out { without } else { &[] };
        estimate(value, resamples, without, self.reach)
    }
}

impl Law {
    /// Fits a law to runs and their losses.
    ///
    /// # Panics
    /// If the lists differ in length or are empty; a caller has refused too few runs before.
    pub fn fit(kind: LawKind, sizes: &[RunSize], losses: &[f64], options: &FitOptions) -> Self {
        assert!(!sizes.is_empty() && sizes.len() == losses.len(), "one loss for each run");
        let sizes: Vec<Size> = sizes.iter().map(RunSize::logarithms).collect();
        let centre = Centre::of(&sizes);
        let with = |curve| Self::of(kind, centre, curve, options);
        match kind {
            LawKind::Chinchilla => with(erase(&fit(&Chinchilla(centre), &sizes, losses, options))),
            LawKind::Kaplan => with(erase(&fit(&Kaplan(centre), &sizes, losses, options))),
            LawKind::OverTraining => {
                with(erase(&fit(&OverTraining(centre), &sizes, losses, options)))
            }
            LawKind::DataConstrained => {
                with(erase(&fit(&DataConstrained(centre), &sizes, losses, options)))
            }
        }
    }

    fn of(kind: LawKind, centre: Centre, fitted: Erased, options: &FitOptions) -> Self {
        let Erased { theta, resamples, without, search } = fitted;
        Self { kind, centre, theta, resamples, without, threads: options.threads, search }
    }

    /// Which law it is.
    pub fn kind(&self) -> LawKind {
        self.kind
    }

    /// The constants by name, with intervals.
    pub fn constants(&self) -> Vec<(&'static str, Estimate)> {
        let names = self.kind.names();
        (0..names.len())
            .map(|index| (names[index], self.estimate(|law| law.constants()[index])))
            .collect()
    }

    /// The predicted loss, with its interval.
    pub fn loss(&self, size: RunSize) -> Estimate {
        self.estimate(|law| law.loss(size))
    }

    /// The predicted loss alone.
    pub fn loss_value(&self, size: RunSize) -> f64 {
        self.at(&self.theta).loss(size)
    }

    /// The loss by each resample.
    pub(super) fn resampled_losses(&self, size: RunSize) -> Vec<f64> {
        self.resamples.iter().map(|theta| self.at(theta).loss(size)).collect()
    }

    /// The best run of a budget; `None` where the law has no optimum between 10³ and 10¹⁵
    /// parameters.
    pub fn optimum(&self, flops: f64, unique_tokens: Option<f64>) -> Option<Optimum> {
        let found = self.everywhere(|law| law.optimum(flops, unique_tokens));
        found.value?;
        let of = |quantity: &dyn Fn(RunSize, f64) -> f64| {
            let pick = |best: &Option<(RunSize, f64)>| {
                best.map_or(f64::NAN, |(size, loss)| quantity(size, loss))
            };
            let resamples = found.resamples.iter().map(pick).collect();
            let without: Vec<f64> = found.without.iter().map(pick).collect();
            self.search.estimate(pick(&found.value), resamples, &without)
        };
        Some(Optimum {
            flops,
            parameters: of(&|size, _| size.parameters),
            tokens: of(&|size, _| size.tokens),
            tokens_per_parameter: of(&|size, _| size.tokens / size.parameters),
            loss: of(&|_, loss| loss),
        })
    }

    /// The best run of a budget, without intervals.
    pub fn optimum_value(&self, flops: f64, unique_tokens: Option<f64>) -> Option<RunSize> {
        self.at(&self.theta).optimum(flops, unique_tokens).map(|(size, _)| size)
    }

    /// The exponent a of N* ∝ C^a between two budgets, with its interval.
    pub fn exponent(&self, low_flops: f64, high_flops: f64) -> Option<Estimate> {
        let width = (high_flops / low_flops).ln();
        let exponent = self.estimate(|law| {
            let size = |flops: f64| law.optimum(flops, None).map(|(size, _)| size.parameters.ln());
            size(high_flops)
                .zip(size(low_flops))
                .map_or(f64::NAN, |(high, low)| (high - low) / width)
        });
        exponent.value.is_finite().then_some(exponent)
    }

    /// Any quantity of the law, with its interval.
    pub fn estimate(&self, quantity: impl Fn(LawAt<'_>) -> f64 + Sync) -> Estimate {
        let Everywhere { value, resamples, without } = self.everywhere(quantity);
        self.search.estimate(value, resamples, &without)
    }

    /// A quantity of the estimate, of each resample and without each row.
    fn everywhere<T: Send>(&self, quantity: impl Fn(LawAt<'_>) -> T + Sync) -> Everywhere<T> {
        let at = |theta: &[f64]| quantity(self.at(theta));
        Everywhere {
            value: at(&self.theta),
            resamples: in_parallel(self.resamples.len(), self.threads, |index| {
                at(&self.resamples[index])
            }),
            without: self.without.iter().map(|(_, theta)| at(theta)).collect(),
        }
    }

    /// A quantity without each row in turn, with the row's index.
    pub fn leaving_out(&self, quantity: impl Fn(LawAt<'_>) -> f64) -> Vec<(usize, f64)> {
        self.without.iter().map(|(row, theta)| (*row, quantity(self.at(theta)))).collect()
    }

    fn at<'a>(&'a self, theta: &'a [f64]) -> LawAt<'a> {
        LawAt { kind: self.kind, centre: self.centre, theta }
    }
}

/// A quantity by all fits of a law.
struct Everywhere<T> {
    value: T,
    resamples: Vec<T>,
    without: Vec<T>,
}

/// A law at one set of constants: the estimate's, or a resample's.
#[derive(Debug, Clone, Copy)]
pub struct LawAt<'a> {
    kind: LawKind,
    centre: Centre,
    theta: &'a [f64],
}

impl LawAt<'_> {
    /// The published constants, in the order of [`LawKind::names`].
    pub fn constants(&self) -> Vec<f64> {
        match self.kind {
            LawKind::Chinchilla => Chinchilla(self.centre).constants(&fixed(self.theta)).to_vec(),
            LawKind::Kaplan => Kaplan(self.centre).constants(&fixed(self.theta)).to_vec(),
            LawKind::OverTraining => {
                OverTraining(self.centre).constants(&fixed(self.theta)).to_vec()
            }
            LawKind::DataConstrained => {
                DataConstrained(self.centre).constants(&fixed(self.theta)).to_vec()
            }
        }
    }

    /// The predicted loss.
    pub fn loss(&self, size: RunSize) -> f64 {
        self.log_loss(size.logarithms()).exp()
    }

    fn log_loss(&self, size: Size) -> f64 {
        match self.kind {
            LawKind::Chinchilla => Chinchilla(self.centre).at(&fixed(self.theta), size),
            LawKind::Kaplan => Kaplan(self.centre).at(&fixed(self.theta), size),
            LawKind::OverTraining => OverTraining(self.centre).at(&fixed(self.theta), size),
            LawKind::DataConstrained => DataConstrained(self.centre).at(&fixed(self.theta), size),
        }
    }

    /// The size of lowest loss with 6·N·D = `flops`, by golden section on ln N; `None` where the
    /// loss falls to an end of 10³ to 10¹⁵ parameters.
    fn optimum(&self, flops: f64, unique_tokens: Option<f64>) -> Option<(RunSize, f64)> {
        let product = (flops / 6.0).ln();
        let unique = unique_tokens.map_or(f64::INFINITY, f64::ln);
        let loss = |parameters: f64| {
            let tokens = product - parameters;
            self.log_loss(Size { parameters, tokens, unique_tokens: unique.min(tokens) })
        };
        let (lowest, highest) = (1e3f64.ln(), 1e15f64.ln());
        let golden = f64::midpoint(5f64.sqrt(), -1.0);
        let (mut low, mut high) = (lowest, highest);
        let (mut left, mut right) = (high - golden * (high - low), low + golden * (high - low));
        let (mut at_left, mut at_right) = (loss(left), loss(right));
        while high - low > 1e-8 {
            if at_left <= at_right {
                (high, right, at_right) = (right, left, at_left);
                left = high - golden * (high - low);
                at_left = loss(left);
            } else {
                (low, left, at_left) = (left, right, at_right);
                right = low + golden * (high - low);
                at_right = loss(right);
            }
        }
        let best = f64::midpoint(low, high);
        let inside = best - lowest > 1e-3 && highest - best > 1e-3;
        let (parameters, tokens) = (best.exp(), (product - best).exp());
        let unique_tokens = unique.exp().min(tokens);
        let at = loss(best).exp();
        (inside && at.is_finite()).then_some((RunSize { parameters, tokens, unique_tokens }, at))
    }
}

fn fixed<const P: usize>(theta: &[f64]) -> [f64; P] {
    theta.try_into().expect("a law keeps as many parameters as its curve has")
}

/// A fitted curve with its parameters as lists.
struct Erased {
    theta: Vec<f64>,
    resamples: Vec<Vec<f64>>,
    without: Vec<(usize, Vec<f64>)>,
    search: Search,
}

fn erase<const P: usize>(fitted: &Fitted<P>) -> Erased {
    let search = Search::of(fitted);
    Erased {
        theta: fitted.theta.to_vec(),
        resamples: fitted.resamples.iter().map(|theta| theta.to_vec()).collect(),
        without: fitted.without.iter().map(|(row, theta)| (*row, theta.to_vec())).collect(),
        search,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn besiroglu(sizes: impl IntoIterator<Item = (f64, f64)>) -> (Vec<RunSize>, Vec<f64>) {
        let one = |(n, d): (f64, f64)| {
            let loss = 1.81686 + 482.00572 / n.powf(0.34781) + 2085.4342 / d.powf(0.36585);
            (RunSize::once(n, d), loss)
        };
        sizes.into_iter().map(one).unzip()
    }

    #[test]
    fn the_optimum_of_a_published_law_is_the_published_one() {
        let grid = (0..36).map(|i| (5e7 * 2f64.powi(i % 6), 1e9 * 3f64.powi(i / 6)));
        let (sizes, losses) = besiroglu(grid);
        let options = FitOptions { resamples: 0, ..FitOptions::default() };
        let law = Law::fit(LawKind::Chinchilla, &sizes, &losses, &options);
        // At Chinchilla's 5.76e23 FLOPs: 7.236e10 parameters, 18.34 tokens for each.
        let optimum = law.optimum(5.76e23, None).unwrap();
        assert!((optimum.parameters.value / 7.236e10 - 1.0).abs() < 1e-3, "{optimum:?}");
        assert!((optimum.tokens_per_parameter.value - 18.34).abs() < 0.02, "{optimum:?}");
        // a = β/(α + β).
        let exponent = law.exponent(1e20, 1e22).unwrap().value;
        assert!((exponent - 0.36585 / (0.34781 + 0.36585)).abs() < 1e-5, "{exponent}");
    }

    #[test]
    fn a_law_that_only_falls_with_size_has_no_optimum() {
        let grid = (0..25).map(|i| (1e7 * 4f64.powi(i % 5), 1e9 * 4f64.powi(i / 5)));
        let sizes: Vec<RunSize> = grid.map(|(n, d)| RunSize::once(n, d)).collect();
        // More tokens do harm here: no budget is too large a share for N.
        let losses: Vec<f64> = sizes
            .iter()
            .map(|s| 2.0 + 1e3 / s.parameters.powf(0.4) + 1e-4 * s.tokens.powf(0.3))
            .collect();
        let options = FitOptions { resamples: 0, ..FitOptions::default() };
        let law = Law::fit(LawKind::Chinchilla, &sizes, &losses, &options);
        assert!(law.optimum(1e21, None).is_none());
    }
}

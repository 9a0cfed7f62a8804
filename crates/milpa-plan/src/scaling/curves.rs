//! The curves that are fitted, each written once over [`Number`].
//!
//! A curve is fitted in inner parameters: logarithms, and terms taken at the middle of the data, so
//! that a coefficient and its exponent do not move together. `constants` turns them into those of
//! the publications. It knows nothing of objectives or files.
//!
//! N is the number of parameters and D that of tokens, both as natural logarithms here.

use super::number::{Number, log_sum_exp};

/// A run as a law of the loss sees it; everything as a natural logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Size {
    /// ln N.
    pub(super) parameters: f64,
    /// ln D.
    pub(super) tokens: f64,
    /// ln of the tokens that differ; `tokens` where each is seen once.
    pub(super) unique_tokens: f64,
}

/// A curve with P parameters.
pub(super) trait Curve<const P: usize>: Sync {
    /// What it is a function of.
    type Input: Copy + Sync;

    /// Names of the published constants.
    const NAMES: [&'static str; P];
    /// Whether `at` gives the logarithm of the predicted quantity.
    const LOGARITHMIC: bool;

    /// The predicted quantity or its logarithm.
    fn at<T: Number>(&self, theta: &[T; P], input: Self::Input) -> T;

    /// The published constants.
    fn constants(&self, theta: &[f64; P]) -> [f64; P];

    /// Inner parameters to begin searches from; `targets` are the measured quantities.
    fn starts(&self, inputs: &[Self::Input], targets: &[f64]) -> Vec<[f64; P]>;
}

/// Exponents from which searches begin.
const EXPONENTS: [f64; 6] = [0.08, 0.17, 0.3, 0.45, 0.7, 1.1];
/// Shares of the lowest loss that the irreducible loss begins with.
const FLOORS: [f64; 4] = [0.1, 0.4, 0.7, 0.92];
/// How the reducible loss is split between N and D in the beginning.
const SHARES: [f64; 3] = [0.2, 0.5, 0.8];

/// The middle of the data: where terms are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Centre {
    pub(super) parameters: f64,
    pub(super) tokens: f64,
}

impl Centre {
    pub(super) fn of(sizes: &[Size]) -> Self {
        let count = sizes.len().max(1) as f64;
        Self {
            parameters: sizes.iter().map(|size| size.parameters).sum::<f64>() / count,
            tokens: sizes.iter().map(|size| size.tokens).sum::<f64>() / count,
        }
    }
}

/// Starts (a, b, e, alpha, beta) of a law with two power terms and a floor.
fn two_term_starts(targets: &[f64]) -> Vec<[f64; 5]> {
    let lowest = targets.iter().copied().fold(f64::INFINITY, f64::min);
    let mean = targets.iter().sum::<f64>() / targets.len().max(1) as f64;
    let mut starts = Vec::new();
    for alpha in EXPONENTS {
        for beta in EXPONENTS {
            for floor in FLOORS {
                for share in SHARES {
                    let reducible = (mean - floor * lowest).max(1e-3 * mean);
                    starts.push([
                        (share * reducible).ln(),
                        ((1.0 - share) * reducible).ln(),
                        (floor * lowest).ln(),
                        alpha,
                        beta,
                    ]);
                }
            }
        }
    }
    starts
}

/// L = E + A/N^α + B/D^β (Hoffmann et al. 2022, arXiv:2203.15556, approach 3).
///
/// Inner: ln of the N term and of the D term at the centre, ln E, α, β.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Chinchilla(pub(super) Centre);

impl Curve<5> for Chinchilla {
    type Input = Size;
    const NAMES: [&'static str; 5] = ["A", "B", "E", "alpha", "beta"];
    const LOGARITHMIC: bool = true;

    fn at<T: Number>(&self, theta: &[T; 5], size: Size) -> T {
        let [a, b, e, alpha, beta] = *theta;
        log_sum_exp(&[
            a - alpha.times(size.parameters - self.0.parameters),
            b - beta.times(size.tokens - self.0.tokens),
            e,
        ])
    }

    fn constants(&self, &[a, b, e, alpha, beta]: &[f64; 5]) -> [f64; 5] {
        let (n, d) = (self.0.parameters, self.0.tokens);
        [(a + alpha * n).exp(), (b + beta * d).exp(), e.exp(), alpha, beta]
    }

    fn starts(&self, _inputs: &[Size], targets: &[f64]) -> Vec<[f64; 5]> {
        two_term_starts(targets)
    }
}

/// L = E + α·N^b + β·6^(b/2)·(M·N)^b with M = D/N, b < 0: a [`Chinchilla`] law with one exponent
/// (Gadre et al. 2024, arXiv:2403.08540).
///
/// Inner: ln of the N term and of the D term at the centre, ln E, −b.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OverTraining(pub(super) Centre);

impl Curve<4> for OverTraining {
    type Input = Size;
    const NAMES: [&'static str; 4] = ["alpha", "beta", "b", "E"];
    const LOGARITHMIC: bool = true;

    fn at<T: Number>(&self, &[a, b, e, exponent]: &[T; 4], size: Size) -> T {
        Chinchilla(self.0).at(&[a, b, e, exponent, exponent], size)
    }

    fn constants(&self, &[a, b, e, exponent]: &[f64; 4]) -> [f64; 4] {
        let (n, d) = (self.0.parameters, self.0.tokens);
        let of_tokens = b + exponent * d + exponent / 2.0 * 6f64.ln();
        [(a + exponent * n).exp(), of_tokens.exp(), -exponent, e.exp()]
    }

    fn starts(&self, _inputs: &[Size], targets: &[f64]) -> Vec<[f64; 4]> {
        two_term_starts(targets)
            .into_iter()
            .filter(|[.., alpha, beta]| alpha == beta)
            .map(|[a, b, e, alpha, _]| [a, b, e, alpha])
            .collect()
    }
}

/// L = ((N_c/N)^(α_N/α_D) + D_c/D)^α_D (Kaplan et al. 2020, arXiv:2001.08361, equation 1.5).
///
/// Inner: ln of the loss with only N and with only D limiting, both at the centre; α_N, α_D.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kaplan(pub(super) Centre);

impl Curve<4> for Kaplan {
    type Input = Size;
    const NAMES: [&'static str; 4] = ["N_c", "D_c", "alpha_N", "alpha_D"];
    const LOGARITHMIC: bool = true;

    fn at<T: Number>(&self, &[n, d, alpha_n, alpha_d]: &[T; 4], size: Size) -> T {
        let by_parameters = n - alpha_n.times(size.parameters - self.0.parameters);
        let by_tokens = d - alpha_d.times(size.tokens - self.0.tokens);
        log_sum_exp(&[by_parameters / alpha_d, by_tokens / alpha_d]) * alpha_d
    }

    fn constants(&self, &[n, d, alpha_n, alpha_d]: &[f64; 4]) -> [f64; 4] {
        let n_c = (self.0.parameters + n / alpha_n).exp();
        let d_c = (self.0.tokens + d / alpha_d).exp();
        [n_c, d_c, alpha_n, alpha_d]
    }

    fn starts(&self, _inputs: &[Size], targets: &[f64]) -> Vec<[f64; 4]> {
        let mean = targets.iter().sum::<f64>() / targets.len().max(1) as f64;
        let mut starts = Vec::new();
        for alpha_n in EXPONENTS {
            for alpha_d in EXPONENTS {
                for share in SHARES {
                    starts.push([
                        mean.ln() + alpha_d * share.ln(),
                        mean.ln() + alpha_d * (1.0 - share).ln(),
                        alpha_n,
                        alpha_d,
                    ]);
                }
            }
        }
        starts
    }
}

/// L = E + A/N'^α + B/D'^β with repeated tokens and excess parameters worth less (Muennighoff et
/// al. 2023, arXiv:2305.16264): D' = U + U·R_D*·(1 − e^(−R_D/R_D*)) for U different tokens seen
/// 1 + R_D times, and N' likewise from the parameters that are optimal for U tokens.
///
/// Inner: those of [`Chinchilla`], ln R_D*, ln R_N*.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DataConstrained(pub(super) Centre);

/// ln(u·(1 + R*·(1 − e^(−R/R*)))) where R = total/u − 1, from logarithms.
fn discounted<T: Number>(total: T, unique: T, log_half_life: T) -> T {
    let one = T::constant(1.0);
    // e^40 repetitions are as good as any number of them.
    let repetitions = (total - unique).min(T::constant(40.0)).exp() - one;
    let half_life = log_half_life.exp();
    let worth = half_life * (one - (-repetitions / half_life).exp());
    unique + (one + worth).ln()
}

impl Curve<7> for DataConstrained {
    type Input = Size;
    const NAMES: [&'static str; 7] = ["A", "B", "E", "alpha", "beta", "R_D*", "R_N*"];
    const LOGARITHMIC: bool = true;

    fn at<T: Number>(&self, theta: &[T; 7], size: Size) -> T {
        let [a, b, e, alpha, beta, of_tokens, of_parameters] = *theta;
        let tokens = T::constant(size.tokens - self.0.tokens);
        let unique = T::constant(size.unique_tokens.min(size.tokens) - self.0.tokens);
        let parameters = T::constant(size.parameters - self.0.parameters);
        // Where α·A/N^α = β·B/D^β, which is the compute-optimal pair.
        let optimal = ((alpha / beta).ln() + a - b + beta * unique) / alpha;
        let base = parameters.min(optimal);
        let effective_tokens = discounted(tokens, unique, of_tokens);
        let effective_parameters = discounted(parameters, base, of_parameters);
        log_sum_exp(&[a - alpha * effective_parameters, b - beta * effective_tokens, e])
    }

    fn constants(&self, &[a, b, e, alpha, beta, r_d, r_n]: &[f64; 7]) -> [f64; 7] {
        let [a, b, e, alpha, beta] = Chinchilla(self.0).constants(&[a, b, e, alpha, beta]);
        [a, b, e, alpha, beta, r_d.exp(), r_n.exp()]
    }

    fn starts(&self, _inputs: &[Size], targets: &[f64]) -> Vec<[f64; 7]> {
        let mut starts = Vec::new();
        for [a, b, e, alpha, beta] in two_term_starts(targets) {
            for r_d in [4.0f64, 20.0] {
                for r_n in [3.0f64, 15.0] {
                    starts.push([a, b, e, alpha, beta, r_d.ln(), r_n.ln()]);
                }
            }
        }
        starts
    }
}

/// Accuracy = a/(1 + e^(−k·(L − L₀))) + b of a task's loss L (Llama 3, arXiv:2407.21783; Bhagia et
/// al. 2024, arXiv:2412.04403). With k < 0 accuracy rises as the loss falls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sigmoid;

impl Curve<4> for Sigmoid {
    type Input = f64;
    const NAMES: [&'static str; 4] = ["a", "b", "k", "L0"];
    const LOGARITHMIC: bool = false;

    fn at<T: Number>(&self, &[a, b, k, middle]: &[T; 4], loss: f64) -> T {
        let one = T::constant(1.0);
        let power = (k * (middle - T::constant(loss))).min(T::constant(500.0));
        a / (one + power.exp()) + b
    }

    fn constants(&self, theta: &[f64; 4]) -> [f64; 4] {
        *theta
    }

    fn starts(&self, inputs: &[f64], targets: &[f64]) -> Vec<[f64; 4]> {
        let (low_loss, high_loss) = range(inputs);
        let (low, high) = range(targets);
        let (width, rise) = ((high_loss - low_loss).max(1e-6), (high - low).max(1e-6));
        let mut starts = Vec::new();
        for place in [0.0, 0.25, 0.5, 0.75, 1.0] {
            for steepness in [2.0, 5.0, 12.0] {
                for height in [1.05, 1.5, 3.0] {
                    starts.push([
                        height * rise,
                        low - 0.02 * rise,
                        -steepness / width,
                        low_loss + place * width,
                    ]);
                }
            }
        }
        starts
    }
}

/// Error = ε − k·e^(−γ·L) of the loss L (Gadre et al. 2024, arXiv:2403.08540).
///
/// Inner: ε, ln of the second term at the mean loss given here, γ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Exponential(pub(super) f64);

impl Curve<3> for Exponential {
    type Input = f64;
    const NAMES: [&'static str; 3] = ["epsilon", "k", "gamma"];
    const LOGARITHMIC: bool = false;

    fn at<T: Number>(&self, &[limit, drop, gamma]: &[T; 3], loss: f64) -> T {
        limit - (drop - gamma.times(loss - self.0)).exp()
    }

    fn constants(&self, &[limit, drop, gamma]: &[f64; 3]) -> [f64; 3] {
        [limit, (drop + gamma * self.0).exp(), gamma]
    }

    fn starts(&self, inputs: &[f64], targets: &[f64]) -> Vec<[f64; 3]> {
        let (low_loss, high_loss) = range(inputs);
        let (low, high) = range(targets);
        let (width, rise) = ((high_loss - low_loss).max(1e-6), (high - low).max(1e-6));
        let mut starts = Vec::new();
        for gap in [0.02, 0.2, 1.0] {
            for steepness in [0.5, 1.5, 4.0] {
                let limit = high + gap * rise;
                starts.push([limit, (limit - f64::midpoint(low, high)).ln(), steepness / width]);
            }
        }
        starts
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Centre = Centre { parameters: 0.0, tokens: 0.0 };

    fn size(parameters: f64, tokens: f64, unique: f64) -> Size {
        Size { parameters: parameters.ln(), tokens: tokens.ln(), unique_tokens: unique.ln() }
    }

    #[test]
    fn the_data_constrained_law_gives_the_published_predictions() {
        // Constants and predictions of huggingface/datablations, README.
        let theta = [
            6.255414,
            7.3049974,
            0.6254804,
            0.3526596,
            0.3526596,
            15.387756f64.ln(),
            5.309743f64.ln(),
        ];
        let check = |parameters: f64, tokens: f64, expect: f64| {
            let loss = DataConstrained(NOWHERE).at(&theta, size(parameters, tokens, 25e9)).exp();
            assert!((loss - expect).abs() < 2e-9, "{loss:.12} {expect}");
        };
        check(6.34e9, 242e9, 2.225_644_088_998_447_7);
        check(8.67e9, 178e9, 2.226_963_407_508_786_7);
    }

    #[test]
    fn the_data_constrained_law_is_chinchillas_while_nothing_is_repeated() {
        let chinchilla = [6.0, 7.3, 0.6, 0.35, 0.36];
        let theta = [6.0, 7.3, 0.6, 0.35, 0.36, 1.0, 1.0];
        let one_pass = size(1e8, 1e10, 1e10);
        let (all, repeated) = (Chinchilla(NOWHERE), DataConstrained(NOWHERE));
        let difference = repeated.at(&theta, one_pass) - all.at(&chinchilla, one_pass);
        assert!(difference.abs() < 1e-12, "{difference}");
        let four_passes = size(1e8, 1e10, 2.5e9);
        assert!(repeated.at(&theta, four_passes) > all.at(&chinchilla, four_passes));
    }

    #[test]
    fn published_constants_do_not_depend_on_the_centre() {
        fn check<const P: usize, C: Curve<P, Input = Size>>(
            make: impl Fn(Centre) -> C,
            published: impl Fn([f64; P], Size) -> f64,
        ) {
            let centre = Centre { parameters: 20.0, tokens: 24.0 };
            let curve = make(centre);
            let at = size(3e8, 5e10, 5e10);
            for theta in curve.starts(&[at], &[3.0]).into_iter().step_by(7) {
                let loss = curve.at(&theta, at).exp();
                let expect = published(curve.constants(&theta), at);
                assert!((loss / expect - 1.0).abs() < 1e-9, "{loss} {expect} {theta:?}");
            }
        }
        check(Chinchilla, |[a, b, e, alpha, beta], at| {
            e + a / at.parameters.exp().powf(alpha) + b / at.tokens.exp().powf(beta)
        });
        check(OverTraining, |[alpha, beta, b, e], at| {
            let (n, m) = (at.parameters.exp(), (at.tokens - at.parameters).exp());
            e + alpha * n.powf(b) + beta * 6f64.powf(b / 2.0) * (m * n).powf(b)
        });
        check(Kaplan, |[n_c, d_c, alpha_n, alpha_d], at| {
            let (n, d) = (at.parameters.exp(), at.tokens.exp());
            ((n_c / n).powf(alpha_n / alpha_d) + d_c / d).powf(alpha_d)
        });
    }

    #[test]
    fn links_are_those_of_the_publications() {
        let accuracy = Sigmoid.at(&[0.7, 0.25, -5.0, 1.0], 0.8);
        assert!((accuracy - (0.7 / (1.0 + (5.0f64 * (0.8 - 1.0)).exp()) + 0.25)).abs() < 1e-12);
        let curve = Exponential(3.0);
        let theta = [0.86, -1.5, 0.7];
        let [epsilon, k, gamma] = curve.constants(&theta);
        let expect = epsilon - k * (-gamma * 2.7f64).exp();
        assert!((curve.at(&theta, 2.7) - expect).abs() < 1e-12);
    }
}

//! Loss by model size and tokens, and the split of a compute budget between them.
//!
//! The form is `L = E + A/N^α + B/D^β` (Hoffmann et al. 2022, arXiv:2203.15556, approach 3). The
//! constants are those of Besiroglu et al. 2024 (arXiv:2404.10102), who fitted the published points
//! again; Hoffmann's printed constants stand beside them because they are still quoted. N counts all
//! parameters. It fits nothing: that is the business of `milpa plan fit`.

use serde::Serialize;

/// Constants of `L = E + A/N^α + B/D^β`, with standard errors where they are published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LossLaw {
    /// Who fitted it.
    pub source: &'static str,
    /// Factor of the model's term.
    pub a: f64,
    /// Factor of the data's term.
    pub b: f64,
    /// Loss that no size takes away, in nats per token.
    pub e: f64,
    /// 95 % interval of `e`.
    pub e_interval: Option<(f64, f64)>,
    /// Exponent of the model's term.
    pub alpha: f64,
    /// Exponent of the data's term.
    pub beta: f64,
    /// Standard error of the exponent of `N*` in compute.
    pub exponent_standard_error: Option<f64>,
}

/// Besiroglu et al. 2024: 240 points, 4,000 bootstraps.
pub const BESIROGLU: LossLaw = LossLaw {
    source: "Besiroglu 2024",
    a: 482.005_72,
    b: 2_085.434_20,
    e: 1.816_86,
    e_interval: Some((1.769, 1.871)),
    alpha: 0.347_81,
    beta: 0.365_85,
    exponent_standard_error: Some(0.020),
};

/// Hoffmann et al. 2022 with the digits that the printed constants were rounded from; a fit that
/// stopped too early.
pub const HOFFMANN: LossLaw = LossLaw {
    source: "Hoffmann 2022",
    a: 406.401,
    b: 410.72,
    e: 1.693_37,
    e_interval: None,
    alpha: 0.339_17,
    beta: 0.284_91,
    exponent_standard_error: None,
};

/// Compute about which the points of the fit lie, FLOP: the interval of the optimum is narrowest
/// there. The fitted runs reach from about 10¹⁸ to 10²² FLOP.
const CENTRE_OF_FIT: f64 = 1e20;

/// Compute of the largest fitted run, FLOP, from which an extrapolation is counted.
pub(crate) const EDGE_OF_FIT: f64 = 1e22;

/// A split of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Split {
    /// All parameters.
    pub parameters: f64,
    /// Tokens.
    pub tokens: f64,
    /// Predicted loss in nats per token, of the fit's own text and tokenizer.
    pub loss: f64,
}

impl LossLaw {
    /// Predicted loss in nats per token.
    pub fn loss(&self, parameters: f64, tokens: f64) -> f64 {
        self.e + self.a / parameters.powf(self.alpha) + self.b / tokens.powf(self.beta)
    }

    /// The loss when `E` is at the ends of its interval, all else as fitted.
    pub fn loss_interval(&self, parameters: f64, tokens: f64) -> Option<(f64, f64)> {
        let loss = self.loss(parameters, tokens);
        self.e_interval.map(|(low, high)| (loss - self.e + low, loss - self.e + high))
    }

    /// Exponent of `N*` in compute, `β/(α+β)`.
    pub fn exponent(&self) -> f64 {
        self.beta / (self.alpha + self.beta)
    }

    /// Parameters and tokens of least loss for `flops = 6ND`.
    pub fn optimum(&self, flops: f64) -> Split {
        let ratio =
            (self.alpha * self.a / (self.beta * self.b)).powf(1.0 / (self.alpha + self.beta));
        let parameters = ratio * (flops / 6.0).powf(self.exponent());
        self.split(flops, parameters)
    }

    /// The 95 % interval of `N*` by the exponent's standard error, turned about the fit's centre.
    pub fn optimum_interval(&self, flops: f64) -> Option<(f64, f64)> {
        let error = 1.96 * self.exponent_standard_error?;
        let factor = (flops / CENTRE_OF_FIT).max(1.0).powf(error);
        let parameters = self.optimum(flops).parameters;
        Some((parameters / factor, parameters * factor))
    }

    /// What `flops = 6ND` gives at a chosen size.
    pub fn split(&self, flops: f64, parameters: f64) -> Split {
        let tokens = flops / (6.0 * parameters);
        Split { parameters, tokens, loss: self.loss(parameters, tokens) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_optima_come_out() {
        // 5.76e23 FLOP: 7.236e10 parameters, 18.34 tokens for each.
        let best = BESIROGLU.optimum(5.76e23);
        assert!((best.parameters / 7.236e10 - 1.0).abs() < 5e-4, "{:e}", best.parameters);
        assert!((best.tokens / best.parameters - 18.34).abs() < 0.01);
        assert!((BESIROGLU.exponent() - 0.51264).abs() < 1e-5);
        let best = HOFFMANN.optimum(5.76e23);
        assert!((best.parameters / 4.04e10 - 1.0).abs() < 2e-3, "{:e}", best.parameters);
        assert!((best.tokens / best.parameters - 58.9).abs() < 0.1);
        assert!((HOFFMANN.exponent() - 0.4565).abs() < 1e-4);
    }

    #[test]
    fn the_slides_budget_is_near_the_optimum_of_their_model() {
        let best = BESIROGLU.optimum(8.4e23);
        assert_eq!((best.parameters / 1e8).round(), 878.0);
        assert_eq!((best.tokens / 1e11).round(), 16.0);
        assert_eq!((best.tokens / best.parameters * 10.0).round(), 182.0);
        assert!((best.loss - 1.9637).abs() < 1e-4, "{}", best.loss);
        assert_eq!((BESIROGLU.loss(70e9, 2e12) * 1e4).round(), 19642.0);
    }

    #[test]
    fn the_optimum_is_least_and_its_interval_widens_with_the_distance() {
        for flops in [1e19, 1e21, 1e24] {
            let best = BESIROGLU.optimum(flops);
            for factor in [0.7, 0.9, 1.1, 1.4] {
                assert!(BESIROGLU.split(flops, best.parameters * factor).loss > best.loss);
            }
        }
        let width = |flops| {
            let (low, high) = BESIROGLU.optimum_interval(flops).unwrap();
            high / low
        };
        assert!(width(1e24) > width(1e22) && width(1e20) < 1.001);
    }
}

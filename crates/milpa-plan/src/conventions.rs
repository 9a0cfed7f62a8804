//! How many FLOPs a token takes, by each convention in use.
//!
//! The conventions differ by up to a third, so a utilisation or a budget means nothing without its
//! own. Legend: N all parameters, Nₑ those without the input embedding (the output projection
//! counts although it may be tied), L layers, h the width of all query heads, s tokens per sequence.

use serde::Serialize;

use crate::ModelShape;

/// FLOPs to train on one token, by convention.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FlopsPerToken {
    /// `6N` (Kaplan et al. 2020, arXiv:2001.08361, with all parameters).
    pub six_all: f64,
    /// `6Nₑ`.
    pub six_without_embedding: f64,
    /// `6Nₑ + 12·L·h·s` (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): what TorchTitan's
    /// and Megatron's printed figures obey.
    pub palm: f64,
    /// `6Nₑ + 6·L·h·s`: the half of attention that a causal mask leaves.
    pub causal: f64,
    /// `6N + 12·L·h·s`.
    pub six_all_and_attention: f64,
    /// What the machine computes when every layer's forward pass is done again: 4/3 of `palm`.
    pub palm_recomputed: f64,
}

/// Counts a shape's FLOPs per token.
pub fn flops_per_token(model: &ModelShape, sequence_length: u64) -> FlopsPerToken {
    let palm = model.train_flops_per_token_palm(sequence_length);
    let causal = model.train_flops_per_token_causal(sequence_length);
    let attention = 2.0 * (palm - causal);
    let six_all = 6.0 * model.parameters() as f64;
    FlopsPerToken {
        six_all,
        six_without_embedding: palm - attention,
        palm,
        causal,
        six_all_and_attention: six_all + attention,
        palm_recomputed: palm * 4.0 / 3.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(model: &str, sequence_length: u64, expect: [f64; 5]) {
        let found = flops_per_token(&ModelShape::published(model).unwrap(), sequence_length);
        let found = [
            found.six_all,
            found.six_without_embedding,
            found.palm,
            found.causal,
            found.six_all_and_attention,
        ];
        for (found, expect) in found.into_iter().zip(expect) {
            // The table has four digits; its 6.106e10 is cut off, not rounded.
            let rounding = 10f64.powf(expect.log10().floor() - 3.0) * 0.7;
            assert!((found - expect).abs() <= rounding, "{model}: {found:e} for {expect:e}");
        }
    }

    #[test]
    fn llama_3_counts_equal_the_published_ones() {
        check("llama3-8b", 4096, [4.818e10, 4.503e10, 5.147e10, 4.825e10, 5.462e10]);
        check("llama3-8b", 8192, [4.818e10, 4.503e10, 5.791e10, 5.147e10, 6.106e10]);
        check("llama3-70b", 8192, [4.233e11, 4.170e11, 4.814e11, 4.492e11, 4.877e11]);
        check("llama3-405b", 8192, [2.435e12, 2.422e12, 2.625e12, 2.524e12, 2.638e12]);
    }

    #[test]
    fn printed_utilisations_follow_from_tokens_per_second() {
        // Megatron prints 780 and 800 TFLOP/s for 1621 and 13,812 tokens/s; TorchTitan 33 % to 39 %
        // of 989 TFLOP/s for 5762 and 6667.
        let palm = |model: &str| flops_per_token(&ModelShape::published(model).unwrap(), 8192).palm;
        assert_eq!((palm("llama3-70b") * 1621.0 / 1e12).round(), 780.0);
        assert_eq!((palm("llama3-8b") * 13_812.0 / 1e12).round(), 800.0);
        let share = |speed: f64| (palm("llama3-8b") * speed / 989e12 * 1000.0).round();
        assert_eq!((share(5762.0), share(6667.0)), (337.0, 390.0));
    }

    #[test]
    fn the_convention_explains_a_published_difference() {
        // KempnerForge prints 57.8 % for 10,471 tokens/s of 8B on an H200 (6N with the input
        // embedding, plus attention); without the embedding it is 54.5 %.
        let flops = flops_per_token(&ModelShape::published("llama3-8b").unwrap(), 4096);
        let share = |flops: f64| (flops * 10_471.0 / 989.5e12 * 1000.0).round();
        assert_eq!((share(flops.six_all_and_attention), share(flops.palm)), (578.0, 545.0));
    }
}

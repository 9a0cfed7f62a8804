//! The published LatamGPT slides' arithmetic: as printed, and line by line as it should be.
//!
//! It reproduces the printed days exactly, because whoever holds the slide wants to find his number
//! first; then each slip has its own line. It plans nothing: `milpa plan run` does.

use crate::{
    compute_optimal::{BESIROGLU, HOFFMANN},
    conventions::flops_per_token,
    error::PlanError,
    failures::{PUBLISHED_RATES, RECOVERIES, availability},
    shape::ModelShape,
    sheet::{Cell, Fact, Section, Sheet, Unit},
};

/// Seconds in a day.
const DAY: f64 = 86_400.0;
/// Parameters as the slides count them.
const PARAMETERS: f64 = 70e9;
/// Tokens of training from the beginning.
const FULL_TOKENS: f64 = 2e12;
/// Tokens of continued pre-training.
const CONTINUED_TOKENS: f64 = 300e9;
/// The peak from which both printed numbers follow; the slide's text says 1.979e15.
const TYPED_PEAK: f64 = 1.97e15;
/// The peak that the slide's text names.
const PRINTED_PEAK: f64 = 1.979e15;
/// H200, bf16, dense.
const DENSE_PEAK: f64 = 989.5e12;
/// Tokens per sequence that attention is counted with.
const SEQUENCE_LENGTH: u64 = 8192;

/// Seconds for 6ND at a share of a peak.
fn seconds(tokens: f64, gpus: f64, peak: f64, utilisation: f64) -> f64 {
    6.0 * PARAMETERS * tokens / (gpus * peak * utilisation)
}

/// One line of the correction: both runs on 256 and on 128 GPUs.
fn line(what: &str, time: impl Fn(f64, f64) -> f64, reason: &str) -> Vec<Cell> {
    let mut row = vec![Cell::text(what)];
    for (tokens, gpus) in [
        (FULL_TOKENS, 256.0),
        (CONTINUED_TOKENS, 256.0),
        (FULL_TOKENS, 128.0),
        (CONTINUED_TOKENS, 128.0),
    ] {
        row.push(Cell::Number(time(tokens, gpus), Unit::Seconds));
    }
    row.push(Cell::text(reason));
    row
}

/// The slides' numbers and the corrected ones.
///
/// # Errors
/// None with the tables of this crate.
pub fn latamgpt() -> Result<Sheet, PlanError> {
    Ok(Sheet {
        title: "LatamGPT's published arithmetic (70B, H200), as printed and corrected".to_owned(),
        sections: vec![as_printed(), corrected()?, measured(), other_lines()?],
    })
}

fn as_printed() -> Section {
    let mut section = Section::new("As printed on the slides");
    let slide = |tokens| seconds(tokens, 256.0, TYPED_PEAK, 0.5);
    let formula = "6·70e9·D / (32·8 GPUs · 1.97e15 FLOP/s · 0.5)";
    section.fact(Fact::new(
        "2T tokens",
        slide(FULL_TOKENS),
        Unit::Seconds,
        format!("{formula}; printed as 39 days"),
    ));
    section.fact(Fact::new(
        "300B tokens",
        slide(CONTINUED_TOKENS),
        Unit::Seconds,
        format!("{formula}; printed as 5.78 days"),
    ));
    section.fact(Fact::new(
        "2T tokens, compute",
        6.0 * PARAMETERS * FULL_TOKENS,
        Unit::Flop,
        "6ND; printed as 840M PFLOP, which is right",
    ));
    section.fact(Fact::new(
        "300B tokens, compute",
        6.0 * PARAMETERS * CONTINUED_TOKENS,
        Unit::Flop,
        "6ND; printed as \"126M FLOPs\", which lost the P of PFLOP",
    ));
    section.note(
        "The text names a peak of 1.979e15, but only 1.97e15 gives both printed numbers. The caption \
         says 128 GPUs, the formula multiplies 32 by 8.",
    );
    section
}

fn corrected() -> Result<Section, PlanError> {
    let model = ModelShape::published("llama3-70b")?;
    let flops = flops_per_token(&model, SEQUENCE_LENGTH);
    let attention = flops.palm / (6.0 * PARAMETERS);
    let causal = flops.causal / (6.0 * PARAMETERS);
    let at = |peak: f64, utilisation: f64| {
        move |tokens: f64, gpus: f64| seconds(tokens, gpus, peak, utilisation)
    };
    let goodput = |gpus: f64| -> Result<f64, PlanError> {
        let rate = PUBLISHED_RATES[1].per_thousand_node_days;
        Ok(availability(gpus / 8.0, rate, &RECOVERIES[1].1)?.goodput())
    };
    let (goodput_256, goodput_128) = (goodput(256.0)?, goodput(128.0)?);
    let counted = move |tokens: f64, gpus: f64| {
        let goodput = if gpus > 200.0 { goodput_256 } else { goodput_128 };
        seconds(tokens, gpus, DENSE_PEAK, 0.40) * attention / goodput
    };
    let mut section = Section::new("Corrected, one slip at a time");
    let rows = vec![
        line(
            "as printed",
            at(TYPED_PEAK, 0.5),
            "printed: 39 and 5.78 days, with \"128 GPUs\" below",
        ),
        line("1 peak as written", at(PRINTED_PEAK, 0.5), "1.979e15 as the text says"),
        line(
            "2 dense bf16 peak",
            at(DENSE_PEAK, 0.5),
            "1.979e15 is bf16 with 2:4 sparsity (or dense fp8), not fp32",
        ),
        line(
            "3 MFU 0.40",
            at(DENSE_PEAK, 0.40),
            "0.5 of 1.979e15 is 100 % of the dense peak; Llama 3 reached 0.38 to 0.43",
        ),
        line("  MFU 0.45", at(DENSE_PEAK, 0.45), "upper end for a 70B in bf16"),
        line(
            "  MFU 0.35",
            at(DENSE_PEAK, 0.35),
            "lower end; TorchTitan's 70B in bf16 reached 0.32",
        ),
        line(
            "4 attention counted",
            move |tokens, gpus| seconds(tokens, gpus, DENSE_PEAK, 0.40) * attention,
            "an MFU of 0.40 is quoted with 6Ne+12Lhs at s = 8192",
        ),
        line("5 failures", counted, "6.5 per 1000 node-days, blocking checkpoints of 60 s (Daly)"),
    ];
    section.table(
        &["step", "2T, 256 GPUs", "300B, 256", "2T, 128", "300B, 128", "reason"],
        rows,
        "6·70e9·D / (GPUs · peak · MFU); each step keeps those before it; the indented lines are step 3's range",
    );
    section.note(format!(
        "Attention over a whole sequence of 8192 adds {:.1} % to 6Ne (causal: {:.1} %); against the \
         slides' 6·70e9 it is {:.1} % (causal {:.1} %). Evaluations and restarts by hand come on top.",
        (flops.palm / flops.six_without_embedding - 1.0) * 100.0,
        (flops.causal / flops.six_without_embedding - 1.0) * 100.0,
        (attention - 1.0) * 100.0,
        (causal - 1.0) * 100.0,
    ));
    Ok(section)
}

fn measured() -> Section {
    let mut section = Section::new("From speeds that others measured, 256 GPUs");
    let row = |what: &str, speed: f64| {
        let time = |tokens: f64| Cell::Number(tokens / (256.0 * speed), Unit::Seconds);
        vec![
            Cell::text(what),
            Cell::Number(speed, Unit::TokensPerSecond),
            time(FULL_TOKENS),
            time(CONTINUED_TOKENS),
        ]
    };
    section.table(
        &["70B on H100", "per GPU", "2T", "300B"],
        vec![
            row("TorchTitan bf16, async TP, 256 GPUs", 652.4),
            row("TorchTitan fp8, async TP, 256 GPUs", 942.4),
            row("Megatron fp8, 64 GPUs", 1621.0),
        ],
        "D / (256 · tokens/s); TorchTitan asyncTP_llama3_h100_2025-06, Megatron-LM examples/llama",
    );
    section
}

fn other_lines() -> Result<Section, PlanError> {
    let all = ModelShape::published("llama3-70b")?.parameters() as f64;
    let mut section = Section::new("Other lines of the slides");
    section.fact(Fact::new(
        "weights in bf16",
        PARAMETERS * 2.0,
        Unit::Bytes,
        "2 bytes each: 140 GB. \"140TB RAM (training)\" lost a factor of 1000",
    ));
    section.fact(
        Fact::new(
            "training states",
            all * 16.0,
            Unit::Bytes,
            "16 to 18 bytes each (bf16 weights and gradients, fp32 master, m, v)",
        )
        .between(all * 16.0, all * 18.0),
    );
    section.fact(Fact::new(
        "memory of 256 H200",
        256.0 * 141e9,
        Unit::Bytes,
        "256 · 141 GB; 140 TB would be 993 H200",
    ));
    section.fact(Fact::new(
        "3.3 zettaFLOP lasts",
        3.3e21 / (256.0 * DENSE_PEAK * 0.40),
        Unit::Seconds,
        "256 H200 at MFU 0.40; 3.3e21 is 2.6 % of the 300B run",
    ));
    let months = 14.0 * 365.25 / 12.0 * DAY;
    section.fact(Fact::new(
        "3.3 yottaFLOP in 14 months",
        3.3e24 / (256.0 * DENSE_PEAK * months),
        Unit::Share,
        "MFU of 256 H200: what the line must have meant; at 70B it is 7.9T tokens",
    ));
    let hours = |tokens| 6.0 * PARAMETERS * tokens / 400e12 / 3600.0;
    let price = Unit::Money("USD".to_owned());
    section.fact(Fact::new(
        "300B, GPU-hours",
        hours(CONTINUED_TOKENS),
        Unit::GpuHours,
        "6ND at 400 TFLOP/s per GPU",
    ));
    section.fact(Fact::new(
        "300B, price",
        hours(CONTINUED_TOKENS) * 3.0,
        price.clone(),
        "at 3 USD per GPU-hour",
    ));
    section.fact(Fact::new(
        "2T, GPU-hours",
        hours(FULL_TOKENS),
        Unit::GpuHours,
        "6ND at 400 TFLOP/s per GPU",
    ));
    section.fact(Fact::new("2T, price", hours(FULL_TOKENS) * 3.0, price, "at 3 USD per GPU-hour"));
    let budget = 6.0 * PARAMETERS * FULL_TOKENS;
    let best = BESIROGLU.optimum(budget);
    let chosen = BESIROGLU.loss(PARAMETERS, FULL_TOKENS);
    section.fact(Fact::new(
        "compute-optimal size",
        best.parameters,
        Unit::Parameters,
        "8.4e23 FLOP by Besiroglu 2024 (18.2 tokens per parameter)",
    ));
    section.fact(Fact::new("compute-optimal tokens", best.tokens, Unit::Tokens, "the same"));
    section.fact(Fact::new("its loss", best.loss, Unit::NatsPerToken, "the same"));
    section.fact(Fact::new(
        "loss of 70B on 2T",
        chosen,
        Unit::NatsPerToken,
        "the same: 70B on 2T is nearly optimal",
    ));
    let hoffmann = HOFFMANN.optimum(budget);
    section.note(format!(
        "Hoffmann's own constants give {:.0}B on {:.2}T tokens for the same budget: they come from a \
         fit that stopped too early.",
        hoffmann.parameters / 1e9,
        hoffmann.tokens / 1e12
    ));
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(value: f64, digits: i32) -> f64 {
        let factor = 10f64.powi(digits);
        (value / DAY * factor).round() / factor
    }

    #[test]
    fn both_printed_numbers_come_out() {
        let sheet = latamgpt().unwrap();
        let printed = |name: &str| sheet.value("As printed on the slides", name).unwrap();
        assert_eq!(days(printed("2T tokens"), 2), 38.56);
        assert_eq!(days(printed("2T tokens"), 0), 39.0);
        assert_eq!(days(printed("300B tokens"), 2), 5.78);
        assert_eq!(printed("2T tokens, compute"), 8.4e23);
        assert_eq!(printed("300B tokens, compute"), 1.26e23);
    }

    #[test]
    fn each_correction_has_its_published_number() {
        let check = |peak: f64, mfu: f64, gpus: f64, full: f64, continued: f64| {
            // Printed with three digits, the small ones with four.
            let full_error = seconds(FULL_TOKENS, gpus, peak, mfu) / DAY - full;
            let continued_error = seconds(CONTINUED_TOKENS, gpus, peak, mfu) / DAY - continued;
            assert!(full_error.abs() < full * 6e-4, "{full_error} for {full}");
            assert!(continued_error.abs() < 0.053, "{continued_error} for {continued}");
        };
        check(1.979e15, 0.5, 256.0, 38.38, 5.757);
        check(1.979e15, 0.5, 128.0, 76.76, 11.51);
        check(1.97e15, 0.5, 128.0, 77.1, 11.6);
        check(989.5e12, 0.5, 256.0, 76.76, 11.51);
        check(989.5e12, 0.5, 128.0, 153.5, 23.0);
        check(989.5e12, 0.4, 256.0, 95.95, 14.39);
        check(989.5e12, 0.4, 128.0, 191.9, 28.8);
        check(989.5e12, 0.35, 256.0, 109.7, 16.5);
        check(989.5e12, 0.45, 256.0, 85.3, 12.8);
        check(989.5e12, 0.35, 128.0, 219.3, 32.9);
        check(989.5e12, 0.45, 128.0, 170.6, 25.6);
        check(67e12, 0.5, 256.0, 1134.0, 170.1);
    }

    #[test]
    fn measured_speeds_give_the_published_days() {
        let section = measured();
        let found: Vec<[f64; 2]> = section.tables[0]
            .rows
            .iter()
            .map(|row| {
                [2, 3].map(|column| match &row[column] {
                    Cell::Number(value, _) => days(*value, 1),
                    Cell::Text(text) => panic!("{text}"),
                })
            })
            .collect();
        assert_eq!(found, [[138.6, 20.8], [95.9, 14.4], [55.8, 8.4]]);
    }

    #[test]
    fn the_other_lines_are_right() {
        let sheet = latamgpt().unwrap();
        let value = |name: &str| sheet.value("Other lines of the slides", name).unwrap();
        assert_eq!(value("weights in bf16"), 140e9);
        assert!((value("training states") / 1.13e12 - 1.0).abs() < 0.002);
        assert!((value("memory of 256 H200") / 36.1e12 - 1.0).abs() < 0.001);
        assert!((value("3.3 zettaFLOP lasts") / 3600.0 - 9.05).abs() < 0.05);
        assert!((value("3.3 yottaFLOP in 14 months") - 0.354).abs() < 0.001);
        assert_eq!(value("300B, GPU-hours"), 87_500.0);
        assert_eq!(value("300B, price"), 262_500.0);
        assert_eq!((value("2T, GPU-hours") / 1e3).round(), 583.0);
        assert_eq!((value("2T, price") / 1e4).round(), 175.0);
        let text = sheet.to_string();
        assert!(text.contains("adds 15.4 % to 6Ne (causal: 7.7 %)"), "{text}");
        assert!(text.contains("constants give 48B on 2.92T"), "{text}");
    }
}

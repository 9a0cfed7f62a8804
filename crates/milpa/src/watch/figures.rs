//! The numbers of a training, each with the lines of `metrics.jsonl` that it is made of, so that anybody
//! can make it again.

use std::collections::BTreeMap;

use milpa_plan::sheet::{Fact, Section, Unit};
use milpa_train::Metric;

use crate::watch::history::History;

/// The numbers that reports and views show of these lines.
pub fn figures(metrics: &[Metric]) -> Section {
    let mut section = Section::new("Training, from metrics.jsonl");
    let history = History::of(metrics);
    let Some(last) = history.last else { return section };
    let mut add = |name: &str, value: f64, unit: Unit, source: &str| {
        section.fact(Fact::new(name, value, unit, source));
    };
    let counts = history.counts;
    add("steps", last.step as f64, Unit::Count, "`step` of the last line of kind step");
    add("tokens", last.tokens as f64, Unit::Tokens, "its `tokens`, padding included");

    let mut taken = Vec::new();
    let (mut speeds, mut shares_of_peak) = (Vec::new(), Vec::new());
    let (mut memory, mut step_seconds, mut tokens_before) = (0, 0.0, 0);
    let mut read: BTreeMap<&str, u64> = BTreeMap::new();
    let mut validation = None;
    for metric in metrics {
        match metric {
            Metric::Step {
                step,
                tokens,
                loss,
                skipped,
                tokens_per_second,
                mfu,
                memory_bytes,
                ..
            } => {
                if !skipped {
                    taken.push((*step, *loss));
                }
                speeds.push(*tokens_per_second);
                shares_of_peak.push(*mfu);
                memory = memory.max(*memory_bytes);
                step_seconds +=
                    tokens.saturating_sub(tokens_before) as f64 / tokens_per_second.max(1e-9);
                tokens_before = *tokens;
            }
            Metric::Data { tokens, .. } => {
                for (source, tokens) in tokens {
                    *read.entry(source).or_default() += tokens;
                }
            }
            Metric::Validation { step, bits_per_byte, .. } => {
                validation = Some((step, bits_per_byte));
            }
            _ => {}
        }
    }
    let end = &taken[taken.len() - taken.len().div_ceil(50)..];
    if let [(from, _), ..] = end {
        let mean = end.iter().map(|(_, loss)| loss).sum::<f64>() / end.len() as f64;
        let source = format!(
            "mean of `loss` over the last fiftieth of the steps that were not skipped: {} from step {from} on",
            end.len()
        );
        add("loss", mean, Unit::NatsPerToken, &source);
    }
    if let Some((step, bits)) = validation {
        for (source, bits) in bits {
            let from = format!("`bits_per_byte` of the validation after step {step}");
            add(&format!("bits per byte, {source}"), *bits, Unit::One, &from);
        }
    }
    add("speed", median(&mut speeds), Unit::TokensPerSecond, "median of `tokens_per_second`");
    add(
        "MFU",
        median(&mut shares_of_peak),
        Unit::Share,
        "median of `mfu`: causal FLOPs of a step per second over the machine's measured peak",
    );
    add("memory", memory as f64, Unit::Bytes, "largest `memory_bytes`: tensors held at once");
    if counts.step_seconds > 0.0 {
        let wait = counts.data_seconds / counts.step_seconds;
        add(
            "waited for data",
            wait,
            Unit::Share,
            "`data_seconds` over `step_seconds`, lines of kind data",
        );
    }
    if counts.checkpoints > 0 {
        let stalled = counts.stalled_seconds;
        let share = stalled / (step_seconds + stalled).max(f64::MIN_POSITIVE);
        add(
            "waited for checkpoints",
            share,
            Unit::Share,
            "`stalled_seconds` of kind checkpoint over the time of steps and of these waits",
        );
    }
    let total = read.values().sum::<u64>().max(1) as f64;
    for (source, tokens) in read {
        let from = "sum of `tokens` of this source over all, lines of kind data";
        add(&format!("read of {source}"), tokens as f64 / total, Unit::Share, from);
    }
    for (name, curve) in &history.probes {
        if let Some(percent) = curve.last() {
            add(
                name,
                percent / 100.0,
                Unit::Share,
                "`forgetting` and `adaptation`, in percent, of the last line of kind forgetting",
            );
        }
    }
    for (name, count, source) in [
        ("skipped steps", counts.skipped, "lines of kind step with `skipped`"),
        ("rolled back", counts.rollbacks, "lines of kind rollback"),
        ("restarts", counts.restarts, "steps whose `seconds` begin again"),
    ] {
        if count > 0 {
            add(name, count as f64, Unit::Count, source);
        }
    }
    section
}

/// The value in the middle; 0 of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::history::tests::run;

    #[test]
    fn each_number_can_be_made_again_from_its_lines() {
        let section = figures(&run(400));
        let fact = |name: &str| section.facts.iter().find(|fact| fact.name == name).unwrap();
        assert_eq!(fact("steps").value, 400.0);
        // 399 steps were taken; a fiftieth of them is 8, rounded up.
        let mean =
            (393..=400).map(|step| 2.0 + 6.0 / (1.0 + f64::from(step) / 40.0)).sum::<f64>() / 8.0;
        assert!((fact("loss").value - mean).abs() < 1e-12);
        assert!(fact("loss").source.ends_with("8 from step 393 on"), "{}", fact("loss").source);
        assert!((fact("waited for data").value - 0.001).abs() < 1e-9);
        let shares = fact("read of leyes").value + fact("read of novelas").value;
        assert!((shares - 1.0).abs() < 1e-9);
        assert_eq!((fact("skipped steps").value, fact("restarts").value), (1.0, 1.0));
        assert!(figures(&[]).facts.is_empty());
    }
}

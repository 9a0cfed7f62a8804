//! The numbers of a training, each with the lines of `metrics.jsonl` that it is made of, so that anybody
//! can make it again.

use std::collections::BTreeMap;

use milpa_eval::{divergence::Divergence, ledger::Change, statistics::Interval};
use milpa_plan::sheet::{Cell, Fact, Section, Unit};
use milpa_train::{ForgettingReport, Metric, Standing, step_seconds};

use crate::watch::{
    alarms::{Alarm, Alarms, Raised, WatchConfig},
    history::History,
    state::State,
};

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
    let (mut memory, step_seconds) = (0, step_seconds(metrics));
    let mut read: BTreeMap<&str, u64> = BTreeMap::new();
    let mut validation = None;
    for metric in metrics {
        match metric {
            Metric::Step { step, loss, skipped, tokens_per_second, mfu, memory_bytes, .. } => {
                if !skipped {
                    taken.push((*step, *loss));
                }
                speeds.push(*tokens_per_second);
                shares_of_peak.push(*mfu);
                memory = memory.max(*memory_bytes);
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
    add(
        "time of the steps",
        step_seconds,
        Unit::Seconds,
        "tokens of each over its `tokens_per_second`",
    );
    if counts.measurements > 0 {
        let source = format!(
            "sum of `seconds` of {} lines of kind forgetting, and of those of kind measured: the base, for \
             each process, and the candidates at the end; what was taken back is not in it",
            counts.measurements
        );
        add("time of measuring forgetting", counts.measuring_seconds, Unit::Seconds, &source);
    }
    for (name, count, source) in [
        ("skipped steps", counts.skipped, "lines of kind step with `skipped`"),
        (
            "rolled back",
            counts.rollbacks,
            "lines of kind rollback, and of kind control with `action` \"roll back\"",
        ),
        ("restarts", counts.restarts, "steps whose `seconds` begin again"),
    ] {
        if count > 0 {
            add(name, count as f64, Unit::Count, source);
        }
    }
    against_base(&history, &mut section);
    section
}

/// The last measurement against the base.
fn against_base(history: &History, section: &mut Section) {
    let mut add = |name: &str, value: f64, unit: Unit, key: &str| {
        let source = format!("`{key}` of the last line of kind forgetting");
        section.fact(Fact::new(name, value, unit, source));
    };
    for (task, curve) in &history.accuracy {
        if let Some(share) = curve.last() {
            add(&format!("accuracy, {task}"), share, Unit::Share, "accuracy");
        }
    }
    for (domain, curve) in &history.domains {
        if let Some(bits) = curve.last() {
            let name = format!("bits per byte against the base, {domain}");
            add(&name, bits, Unit::One, "bits_per_byte");
        }
    }
    if let Some(nats) = history.divergence.last() {
        add("KL from the base (nats)", nats, Unit::One, "divergence");
    }
    for (name, curve) in &history.probes {
        let Some(percent) = curve.last() else { continue };
        let source = format!("`{name}`, in percent, of the last line of kind forgetting");
        let fact = Fact::new(*name, percent / 100.0, Unit::Share, source);
        section.fact(match history.probe_intervals.get(name) {
            Some((low, high)) => fact.between(low / 100.0, high / 100.0),
            None => fact,
        });
    }
}

/// How often these lines raise the alarms of a recipe.
pub fn raised(config: &WatchConfig, metrics: &[Metric]) -> Section {
    let mut section = Section::new("Alarms, from metrics.jsonl by the recipe's [watch]");
    let (mut alarms, mut state) = (Alarms::new(config.clone()), State::default());
    let mut all: Vec<Raised> = Vec::new();
    for metric in metrics {
        state.history.add(metric);
        all.extend(alarms.after(metric, &state));
    }
    for alarm in config.alarms() {
        if alarm == Alarm::DiskBelow {
            section.note("disk_below: how much was free is not in metrics.jsonl.");
            continue;
        }
        let of_it: Vec<&Raised> = all.iter().filter(|raised| raised.alarm == alarm).collect();
        let source = of_it.last().map_or_else(
            || "its condition holds in no line that stays".to_owned(),
            |last| format!("last: {last}"),
        );
        let name = format!("{} raised", alarm.name());
        section.fact(Fact::new(name, of_it.len() as f64, Unit::Count, source));
    }
    section
}

/// What a run could end with, against its base, and what was chosen.
pub fn candidates(report: &ForgettingReport) -> Section {
    let mut section = Section::new("Candidates at the end, from forgetting.json");
    let percent = |change: &Change| match &change.interval {
        Some(Interval { low, high, .. }) => {
            format!("{:+.1} % ({low:+.1} to {high:+.1})", change.value)
        }
        None => format!("{:+.1} %", change.value),
    };
    let divergence = |standing: &Standing| match &standing.divergence {
        Divergence::Measured { nats, interval: Some(Interval { low, high, .. }), .. } => {
            format!("{nats:.3} ({low:.3} to {high:.3})")
        }
        Divergence::Measured { nats, .. } => format!("{nats:.3}"),
        Divergence::Unavailable { reason } => reason.clone(),
    };
    let row = |standing: &Standing| {
        let (forgetting, adaptation) =
            (percent(&standing.forgetting), percent(&standing.adaptation));
        [standing.name.clone(), forgetting, adaptation, divergence(standing)].map(Cell::Text).into()
    };
    section.table(
        &["candidate", "forgetting", "adaptation", "KL from the base (nats)"],
        report.candidates.iter().map(row).collect(),
        "`candidates`, each measured once at the end on the texts of the other measurements; in \
         parentheses 95 %, paired with the base: rise of the perplexity of general text, fall of that of \
         the run's own, mean KL on general text",
    );
    let names = report.candidates.iter().map(|standing| standing.name.as_str());
    let columns: Vec<&str> = ["", "base"].into_iter().chain(names).collect();
    let mut rows: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for standing in &report.candidates {
        for text in &standing.texts {
            let name = format!("bits per byte, {}", text.domain);
            rows.entry(name).or_default().push((text.base, text.checkpoint));
        }
        for task in &standing.tasks {
            let name = format!("accuracy, {}", task.paired.task);
            rows.entry(name).or_default().push((task.paired.a, task.paired.b));
        }
    }
    // What could not be compared for one of them has no place in a table.
    rows.retain(|_, values| values.len() == report.candidates.len());
    let rows: Vec<Vec<Cell>> = rows
        .into_iter()
        .filter_map(|(name, values)| {
            let base = values.first()?.0;
            let numbers = std::iter::once(base).chain(values.iter().map(|(_, now)| *now));
            let numbers = numbers.map(|value| Cell::Text(format!("{value:.3}")));
            Some(std::iter::once(Cell::Text(name)).chain(numbers).collect())
        })
        .collect();
    if !rows.is_empty() {
        section.table(&columns, rows, "`texts` and `tasks` of each candidate");
    }
    let limit = report.limit.map_or_else(String::new, |limit| format!(" The limit is {limit} %."));
    section.note(format!(
        "Chosen: {}, since {}; it stands in {}.{limit}",
        report.chosen,
        report.reason,
        milpa_train::CHOSEN_CHECKPOINT
    ));
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
    use crate::watch::history::tests::{control, measured, run};

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

    #[test]
    fn candidates_and_their_choice_are_explained() {
        let interval = |low: f64, high: f64| {
            serde_json::json!({
                "low": low, "high": high, "level": 0.95, "method": "bootstrap"
            })
        };
        let candidate = |name: &str, forgetting: f64, bits: f64| {
            serde_json::json!({
                "name": name,
                "forgetting":
                    {"value": forgetting, "interval": interval(forgetting - 2.0, forgetting + 2.0)},
                "adaptation": {"value": 50.0, "interval": null},
                "texts": [{
                    "domain": "general/english", "base": 1.887, "checkpoint": bits,
                    "change": {"value": bits - 1.887, "interval": null}, "texts": 20, "unpaired": 0
                }],
                "tasks": [],
                "refused": [],
                "divergence":
                    {"measured":
                        {"nats": 0.48, "interval": interval(0.35, 0.62), "texts": 16, "places": 64}}
            })
        };
        let report = serde_json::json!({
            "limit": 10.0,
            "candidates": [candidate("final", 8.4, 1.934), candidate("0.25 base", 2.6, 1.901)],
            "chosen": "0.25 base",
            "reason": "it adapted most of those whose interval is below the limit of 10 %"
        });
        let section = candidates(&serde_json::from_value(report).unwrap());
        let sheet = milpa_plan::sheet::Sheet { title: String::new(), sections: vec![section] };
        let text = sheet.to_string();
        for part in [
            "0.25 base  +2.6 % (+0.6 to +4.6)   +50.0 %     0.480 (0.350 to 0.620)",
            "bits per byte, general/english  1.887  1.934  1.901",
            "Chosen: 0.25 base, since it adapted most",
            "The limit is 10 %.",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn alarms_are_raised_again_from_the_lines() {
        let config: WatchConfig =
            toml::from_str("forgetting_above = 5\nno_progress = 5000\ndisk_below = '1 GiB'")
                .unwrap();
        let lines = [measured(100, 6.0), measured(200, 4.0), measured(300, 7.0)];
        let section = raised(&config, &lines);
        let fact = |name: &str| section.facts.iter().find(|fact| fact.name == name).unwrap();
        let forgetting = fact("forgetting_above raised");
        assert_eq!(forgetting.value, 2.0);
        assert_eq!(forgetting.source, "last: after step 300 forgetting is 7.0 %, above 5 %");
        assert_eq!(fact("no_progress raised").value, 0.0);
        assert!(section.notes[0].contains("disk_below"));
    }

    #[test]
    fn what_was_measured_against_the_base_has_its_lines() {
        let mut metrics = run(40);
        metrics.extend([measured(20, 3.0), control(10, "roll back"), measured(40, 6.0)]);
        let section = figures(&metrics);
        let fact = |name: &str| section.facts.iter().find(|fact| fact.name == name).unwrap();
        assert_eq!(fact("forgetting").interval, Some((0.045, 0.075)));
        assert_eq!(fact("KL from the base (nats)").value, 0.02);
        assert_eq!(fact("accuracy, mul/in_context").value, 0.2);
        assert_eq!(fact("bits per byte against the base, general/english").value, 1.95);
        assert_eq!(fact("time of measuring forgetting").value, 2.0);
        let back = fact("rolled back");
        assert!(back.value == 1.0 && back.source.contains("kind control"), "{}", back.source);
    }
}

//! How far the planner is from measured runs that it was not fitted to.
//!
//! Cross-validation leaves out a whole model size (vTrain's tables), a whole publication, or all
//! publications of a team at a time; nothing is tuned on what is left out. Memory formulas have no parameters and are compared as they
//! are. The figures are printed by `milpa plan validate` and kept in docs/plan-validation.md.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use milpa_base::Bytes;

use crate::{
    Device, ModelShape, PlanError,
    cluster_memory::{cluster_memory, stage_memory},
    fit::{Free, MeasuredRun, fit_calibration},
    layout::{Batch, ClusterRun, Layout, NumberFormats, Recompute, Schedule},
    measured::{published_memory, published_runs},
    step::Calibration,
};

/// Errors of runs that were left out of the fit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Errors {
    /// What was compared.
    pub name: String,
    /// Each run: group, label, measured and predicted, relative error.
    pub rows: Vec<ErrorRow>,
}

/// One run's comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorRow {
    /// The group that was left out with it.
    pub group: String,
    /// The run.
    pub label: String,
    /// What was measured, in the unit of the comparison.
    pub measured: f64,
    /// What was predicted.
    pub predicted: f64,
}

impl ErrorRow {
    /// Predicted over measured, minus one.
    pub fn relative(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }
}

impl Errors {
    /// Mean of the relative errors' sizes.
    pub fn mean(&self) -> f64 {
        self.rows.iter().map(|row| row.relative().abs()).sum::<f64>() / self.rows.len() as f64
    }

    /// Median of the relative errors' sizes.
    pub fn median(&self) -> f64 {
        let sizes = self.sorted();
        match sizes.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sizes[n / 2],
            n => f64::midpoint(sizes[n / 2 - 1], sizes[n / 2]),
        }
    }

    /// The largest relative error's size.
    pub fn worst(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// The same errors by group, in the groups' first order.
    pub fn by_group(&self) -> Vec<Errors> {
        let mut seen = BTreeSet::new();
        let groups = self.rows.iter().filter(|row| seen.insert(row.group.clone()));
        groups
            .map(|first| Errors {
                name: first.group.clone(),
                rows: self.rows.iter().filter(|row| row.group == first.group).cloned().collect(),
            })
            .collect()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sizes: Vec<f64> = self.rows.iter().map(|row| row.relative().abs()).collect();
        sizes.sort_by(f64::total_cmp);
        sizes
    }
}

/// Weight of a whole set in a fit, as a number of runs.
const SET_WEIGHT: f64 = 60.0;

/// The parameters that vTrain's runs determine, and how strongly each is held at its guess.
fn vtrain_free() -> Vec<Free> {
    vec![
        Free { field: |c| &mut c.gemm_efficiency, pull: 0.19 },
        Free { field: |c| &mut c.half_tokens, pull: 0.095 },
        Free { field: |c| &mut c.half_width, pull: 0.095 },
        Free { field: |c| &mut c.activation_passes, pull: 0.095 },
        Free { field: |c| &mut c.score_passes, pull: 0.095 },
        Free { field: |c| &mut c.launch_seconds, pull: 0.095 },
        Free { field: |c| &mut c.link_efficiency, pull: 0.19 },
        Free { field: |c| &mut c.link_latency, pull: 0.095 },
        Free { field: |c| &mut c.network_efficiency, pull: 0.285 },
        Free { field: |c| &mut c.network_latency, pull: 0.095 },
        Free { field: |c| &mut c.optimizer_passes, pull: 0.095 },
        Free { field: |c| &mut c.step_overhead, pull: 0.095 },
    ]
}

/// Where the fit of vTrain's runs begins: guesses from the hardware, not from the runs.
const VTRAIN_START: Calibration = Calibration {
    gemm_efficiency: 0.7,
    half_tokens: 300.0,
    half_width: 100.0,
    attention_efficiency: 0.5,
    context_loss: 0.2,
    activation_passes: 3.0,
    eager_traffic: 2.0,
    score_passes: 6.0,
    launch_seconds: 1e-3,
    link_efficiency: 0.6,
    link_latency: 2e-5,
    network_efficiency: 0.5,
    network_latency: 1e-4,
    tensor_overlap: 0.5,
    // Megatron-DeepSpeed reduces gradients after the last backward pass.
    data_overlap: 1e-9,
    optimizer_passes: 1.0,
    step_overhead: 5e-3,
    power_exponent: 1.0 / 3.0,
    fp8_gain: 0.5,
};

/// Fits vTrain's runs of many nodes and of one node together.
pub fn fit_vtrain(
    multi: &[&MeasuredRun],
    single: &[&MeasuredRun],
) -> Result<Calibration, PlanError> {
    let sets: Vec<(&[&MeasuredRun], f64)> = [multi, single]
        .into_iter()
        .filter(|runs| !runs.is_empty())
        .map(|runs| (runs, SET_WEIGHT))
        .collect();
    fit_calibration(&VTRAIN_START, &vtrain_free(), &sets)
}

/// What a cross-validation of vTrain's tables leaves out at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// All runs of a hidden size, in both tables.
    HiddenSize,
    /// All runs of a hidden size and number of layers.
    ModelSize,
}

/// Predicts each of vTrain's runs from a fit without its model size: errors of the runs of many
/// nodes, and of one node.
pub fn cross_validate_vtrain(
    multi: &[MeasuredRun],
    single: &[MeasuredRun],
    left_out: LeftOut,
) -> Result<(Errors, Errors), PlanError> {
    let key = |measured: &MeasuredRun| match left_out {
        LeftOut::HiddenSize => format!("h {}", measured.run.model.hidden_size),
        LeftOut::ModelSize => measured.group.clone(),
    };
    let keys: BTreeSet<String> = multi.iter().chain(single).map(key).collect();
    let empty = |name: &str| Errors { name: name.to_owned(), rows: Vec::new() };
    let (mut many, mut one) = (empty("vTrain, many nodes"), empty("vTrain, one node"));
    for held in keys {
        let kept = |runs: &'_ [MeasuredRun]| -> Vec<usize> {
            (0..runs.len()).filter(|index| key(&runs[*index]) != held).collect()
        };
        let pick = |runs: &'_ [MeasuredRun], indices: Vec<usize>| -> Vec<MeasuredRun> {
            indices.into_iter().map(|index| runs[index].clone()).collect()
        };
        let (kept_multi, kept_single) = (pick(multi, kept(multi)), pick(single, kept(single)));
        let calibration = fit_vtrain(
            &kept_multi.iter().collect::<Vec<_>>(),
            &kept_single.iter().collect::<Vec<_>>(),
        )?;
        for (runs, errors) in [(multi, &mut many), (single, &mut one)] {
            errors.rows.extend(runs.iter().filter(|run| key(run) == held).map(|measured| {
                let predicted = measured.seconds * (1.0 + measured.relative_error(&calibration));
                ErrorRow {
                    group: held.clone(),
                    label: measured.label.clone(),
                    measured: measured.seconds,
                    predicted,
                }
            }));
        }
    }
    Ok((many, one))
}

/// The parameters that published runs with fused attention determine.
fn fused_free() -> Vec<Free> {
    vec![
        Free { field: |c| &mut c.gemm_efficiency, pull: 0.2 },
        Free { field: |c| &mut c.half_tokens, pull: 0.1 },
        Free { field: |c| &mut c.half_width, pull: 0.1 },
        Free { field: |c| &mut c.attention_efficiency, pull: 1.0 },
        Free { field: |c| &mut c.context_loss, pull: 1.0 },
        Free { field: |c| &mut c.activation_passes, pull: 0.2 },
        Free { field: |c| &mut c.eager_traffic, pull: 0.2 },
        Free { field: |c| &mut c.link_efficiency, pull: 0.2 },
        Free { field: |c| &mut c.network_efficiency, pull: 0.2 },
        Free { field: |c| &mut c.tensor_overlap, pull: 0.5 },
        Free { field: |c| &mut c.data_overlap, pull: 0.5 },
        Free { field: |c| &mut c.power_exponent, pull: 0.2 },
        Free { field: |c| &mut c.fp8_gain, pull: 0.2 },
    ]
}

/// Where the fit of published runs begins: guesses from the hardware.
const FUSED_START: Calibration = Calibration {
    gemm_efficiency: 0.75,
    half_tokens: 300.0,
    half_width: 60.0,
    attention_efficiency: 0.5,
    context_loss: 0.2,
    activation_passes: 2.0,
    // A norm, a rotation or a gate alone reads and writes what fused kernels pass on: about twice.
    eager_traffic: 2.0,
    score_passes: 0.0,
    launch_seconds: 3e-4,
    link_efficiency: 0.6,
    link_latency: 1e-5,
    network_efficiency: 0.7,
    network_latency: 3e-5,
    tensor_overlap: 0.5,
    data_overlap: 0.8,
    optimizer_passes: 1.2,
    step_overhead: 5e-3,
    power_exponent: 1.0 / 3.0,
    fp8_gain: 0.5,
};

/// Fits published runs with fused attention; each publication counts the same.
pub fn fit_fused(runs: &[&MeasuredRun]) -> Result<Calibration, PlanError> {
    let groups: BTreeSet<&str> = runs.iter().map(|run| run.group.as_str()).collect();
    let groups: Vec<Vec<&MeasuredRun>> = groups
        .into_iter()
        .map(|group| runs.iter().copied().filter(|run| run.group == group).collect())
        .collect();
    let sets: Vec<(&[&MeasuredRun], f64)> =
        groups.iter().map(|runs| (runs.as_slice(), 8.0)).collect();
    fit_calibration(&FUSED_START, &fused_free(), &sets)
}

/// What a cross-validation of published runs leaves out at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOutRuns {
    /// All runs of a publication.
    Publication,
    /// All publications of the people who wrote the software that ran.
    Team,
}

/// Who wrote the software of a publication's runs; a publication of its own otherwise.
fn team(publication: &str) -> &str {
    // Llama 3's trainer is Meta's own and has nothing of TorchTitan; Trainy ran TorchTitan.
    let teams = [
        ("kempner", "KempnerForge"),
        ("megatron", "Megatron"),
        ("torchtitan", "TorchTitan"),
        ("trainy", "TorchTitan"),
    ];
    let found = teams.iter().find(|(prefix, _)| publication.starts_with(prefix));
    found.map_or(publication, |(_, team)| team)
}

/// Predicts each published run from a fit without its publication, or without its team.
pub fn cross_validate_published(
    runs: &[MeasuredRun],
    left_out: LeftOutRuns,
) -> Result<Errors, PlanError> {
    let key = |run: &MeasuredRun| match left_out {
        LeftOutRuns::Publication => run.group.clone(),
        LeftOutRuns::Team => team(&run.group).to_owned(),
    };
    let mut errors = Errors { name: "published".to_owned(), rows: Vec::new() };
    let groups: BTreeSet<String> = runs.iter().map(key).collect();
    for held in groups {
        let kept: Vec<&MeasuredRun> = runs.iter().filter(|run| key(run) != held).collect();
        let calibration = fit_fused(&kept)?;
        errors.rows.extend(runs.iter().filter(|run| key(run) == held).map(|measured| ErrorRow {
            group: held.clone(),
            label: measured.label.clone(),
            measured: measured.seconds,
            predicted: measured.seconds * (1.0 + measured.relative_error(&calibration)),
        }));
    }
    Ok(errors)
}

/// Factors between which 80 % of published steps lie about their prediction, each made from a fit
/// without its publication.
pub fn published_range() -> Result<(f64, f64), PlanError> {
    let errors = cross_validate_published(&published_runs(), LeftOutRuns::Publication)?;
    let mut factors: Vec<f64> =
        errors.rows.iter().map(|row| row.measured / row.predicted).collect();
    factors.sort_by(f64::total_cmp);
    let at = |share: f64| factors[((factors.len() - 1) as f64 * share).round() as usize];
    Ok((at(0.1), at(0.9)))
}

/// Peak memory against published figures; nothing is fitted.
pub fn validate_published_memory() -> Errors {
    let gib = |bytes: Bytes| bytes.0 as f64 / (1u64 << 30) as f64;
    let rows = published_memory().into_iter().map(|measured| ErrorRow {
        measured: gib(measured.memory),
        predicted: {
            let memory = cluster_memory(&measured.run);
            gib(if measured.reserved { memory.reserved() } else { memory.allocated })
        },
        group: measured.group,
        label: measured.label,
    });
    Errors { name: "published peak memory (GiB)".to_owned(), rows: rows.collect() }
}

/// A model of figures 1 and 7 of arXiv:2205.05198, tensor parallel 8.
struct Korthikanti {
    name: &'static str,
    pipeline: u64,
    interleave: u64,
    micro_batch: u64,
    /// GiB of states, of activations, and of activations with sequence parallelism and selective
    /// recomputation.
    gib: [f64; 3],
    /// Percent of the activations that sequence parallelism, selective recomputation, both, and full
    /// recomputation leave.
    shares: [f64; 4],
}

const KORTHIKANTI: [Korthikanti; 4] = [
    Korthikanti {
        name: "megatron-22b",
        pipeline: 1,
        interleave: 1,
        micro_batch: 4,
        gib: [45.5625, 59.25, 9.5625],
        shares: [66.84, 49.42, 16.18, 7.64],
    },
    Korthikanti {
        name: "gpt3-175b",
        pipeline: 8,
        interleave: 3,
        micro_batch: 1,
        gib: [45.5625, 66.843_75, 12.351_562_5],
        shares: [62.04, 56.53, 18.49, 8.71],
    },
    Korthikanti {
        name: "mt-nlg-530b",
        pipeline: 35,
        interleave: 3,
        micro_batch: 1,
        gib: [31.640_625, 114.023_437_5, 23.076_171_875],
        shares: [58.31, 62.04, 20.27, 9.42],
    },
    Korthikanti {
        name: "megatron-1t",
        pipeline: 64,
        interleave: 1,
        micro_batch: 1,
        gib: [32.958_984_375, 131.25, 26.5625],
        shares: [58.31, 62.04, 20.27, 9.42],
    },
];

/// States and activations that Korthikanti et al. 2022 (arXiv:2205.05198) measured, figures 1 and 7, as
/// Calculon's validation lists them; nothing is fitted.
pub fn validate_korthikanti() -> Errors {
    let gib = |bytes: Bytes| bytes.0 as f64 / (1u64 << 30) as f64;
    let mut rows = Vec::new();
    for Korthikanti { name, pipeline, interleave, micro_batch, gib: measured, shares } in
        KORTHIKANTI
    {
        let [states, none, both] = measured;
        let run = |sequence_parallel: bool, recompute: Recompute| {
            let schedule = if interleave > 1 {
                Schedule::Interleaved
            } else {
                Schedule::OneForwardOneBackward
            };
            let layout = Layout {
                tensor: 8,
                pipeline,
                interleave,
                schedule,
                micro_batch,
                sequence_parallel,
                recompute,
                ..Layout::SINGLE
            };
            ClusterRun {
                model: ModelShape::published(name).expect("the table names published models"),
                device: Device::named("a100-80g").expect("the table of devices has it"),
                layout,
                batch: Batch { sequence_length: 2048, sequences: micro_batch * pipeline * 8 },
                formats: NumberFormats::MEGATRON,
            }
        };
        let plain = stage_memory(&run(false, Recompute::None), 0);
        let mut push = |what: &str, measured: f64, predicted: f64| {
            let label = format!("{name}: {what}");
            rows.push(ErrorRow { group: name.to_owned(), label, measured, predicted });
        };
        push("states, GiB", states, gib(plain.layers.total()));
        push("activations, GiB", none, gib(plain.activations));
        let selective = stage_memory(&run(true, Recompute::Selective), 0).activations;
        push("activations with both, GiB", both, gib(selective));
        let kinds = [
            ("sequence parallel", true, Recompute::None),
            ("selective", false, Recompute::Selective),
            ("both", true, Recompute::Selective),
            ("full", false, Recompute::Full),
        ];
        for ((what, sequence_parallel, recompute), share) in kinds.into_iter().zip(shares) {
            let bytes = stage_memory(&run(sequence_parallel, recompute), 0).activations;
            let predicted = 100.0 * bytes.0 as f64 / plain.activations.0 as f64;
            push(&format!("share of activations left by {what}, percent"), share, predicted);
        }
    }
    Errors { name: "Korthikanti et al. 2022, figures 1 and 7".to_owned(), rows }
}

/// Everything that is compared with measurements, as one report.
#[derive(Debug, Clone, Serialize)]
pub struct ValidationReport {
    /// vTrain's tables, if they were given: each left out by hidden size, then by model size.
    pub vtrain: Vec<(String, Errors)>,
    /// Published throughput, each publication left out.
    pub published: Errors,
    /// Published throughput, each team left out with all its publications.
    pub published_by_team: Errors,
    /// Published peak memory, nothing fitted.
    pub memory: Errors,
    /// The figures of Korthikanti et al. 2022: states, activations, relative activations.
    pub korthikanti: Errors,
    /// The parameters that fit all rows, by name.
    pub calibrations: Vec<(String, Calibration)>,
}

/// Compares the planner with all measurements it has; vTrain's tables are read by the caller.
pub fn validate(
    multi: &[MeasuredRun],
    single: &[MeasuredRun],
) -> Result<ValidationReport, PlanError> {
    let published = published_runs();
    let mut vtrain = Vec::new();
    let mut calibrations =
        vec![("fused".to_owned(), fit_fused(&published.iter().collect::<Vec<_>>())?)];
    if !multi.is_empty() && !single.is_empty() {
        for (name, left_out) in
            [("hidden size", LeftOut::HiddenSize), ("model size", LeftOut::ModelSize)]
        {
            let (many, one) = cross_validate_vtrain(multi, single, left_out)?;
            vtrain.push((name.to_owned(), many));
            vtrain.push((name.to_owned(), one));
        }
        let all = [multi.iter().collect::<Vec<_>>(), single.iter().collect()];
        calibrations.push(("megatron-a100".to_owned(), fit_vtrain(&all[0], &all[1])?));
    }
    Ok(ValidationReport {
        vtrain,
        published: cross_validate_published(&published, LeftOutRuns::Publication)?,
        published_by_team: cross_validate_published(&published, LeftOutRuns::Team)?,
        memory: validate_published_memory(),
        korthikanti: validate_korthikanti(),
        calibrations,
    })
}

impl fmt::Display for ValidationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |value: f64| format!("{:.1} %", value * 100.0);
        writeln!(
            f,
            "# The planner against measured runs\n\n\
             Printed by `milpa plan validate --data $MILPA_DATA`; what is compared and how is in \
             [planning.md](design/planning.md). Errors are planned over measured, minus one; a step is a \
             miss beyond 25 %, memory beyond 10 %. vTrain reports 14.7 % (many nodes) and 8.4 % (one \
             node) for its own predictions, on all rows, of which these tables hold a part.\n"
        )?;
        writeln!(
            f,
            "| step time, each group left out of the fit | rows | mean | median | worst |"
        )?;
        writeln!(f, "|---|---|---|---|---|")?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, errors: &Errors| {
            writeln!(
                f,
                "| {name} | {} | {} | {} | {} |",
                errors.rows.len(),
                percent(errors.mean()),
                percent(errors.median()),
                percent(errors.worst())
            )
        };
        for (left_out, errors) in &self.vtrain {
            line(f, &format!("{}, by {left_out}", errors.name), errors)?;
            if left_out == "hidden size" {
                for group in errors.by_group() {
                    line(f, &format!("- without {}", group.name), &group)?;
                }
            }
        }
        for (left_out, errors) in
            [("publication", &self.published), ("team", &self.published_by_team)]
        {
            line(f, &format!("published throughput, by {left_out}"), errors)?;
            for group in errors.by_group() {
                line(f, &format!("- without {}", group.name), &group)?;
            }
        }
        writeln!(
            f,
            "\n| memory; bytes of a logit and of states chosen by framework, nothing else fitted | rows | mean | median | worst |"
        )?;
        writeln!(f, "|---|---|---|---|---|")?;
        line(f, &self.korthikanti.name, &self.korthikanti)?;
        line(f, &self.memory.name, &self.memory)?;
        let rows =
            [("step", "s", &self.published, 0.25), ("peak memory", "GiB", &self.memory, 0.10)];
        for (what, unit, errors, limit) in rows {
            writeln!(f, "\n| publication | run | {what} measured | planned | error |")?;
            writeln!(f, "|---|---|---|---|---|")?;
            for row in &errors.rows {
                let error = row.relative();
                let miss = if error.abs() > limit { " **miss**" } else { "" };
                writeln!(
                    f,
                    "| {} | {} | {:.3} {unit} | {:.3} {unit} | {:+.1} %{miss} |",
                    row.group,
                    row.label,
                    row.measured,
                    row.predicted,
                    error * 100.0
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::measured::read_vtrain;

    fn vtrain() -> Option<(Vec<MeasuredRun>, Vec<MeasuredRun>)> {
        let Some(data) = std::env::var_os("MILPA_DATA") else {
            eprintln!("skipped: MILPA_DATA is not set (it names the folder with planner/*.csv)");
            return None;
        };
        let read = |name: &str| {
            let path = PathBuf::from(&data).join("planner").join(name);
            read_vtrain(&std::fs::read_to_string(path).unwrap(), name).unwrap()
        };
        Some((read("vtrain_multi_dev.csv"), read("vtrain_single_dev.csv")))
    }

    #[test]
    fn korthikanti_is_met_within_five_percent() {
        let errors = validate_korthikanti();
        assert_eq!(errors.rows.len(), 28);
        for row in &errors.rows {
            assert!(row.relative().abs() <= 0.05, "{row:?}");
        }
    }

    #[test]
    fn published_memory_is_met_but_for_the_rows_that_are_named() {
        let errors = validate_published_memory();
        assert!(errors.median() <= 0.05, "{}", errors.median());
        // What the allocator reserved beyond tensors, on devices nearly full; nothing that is planned
        // differs between these rows and their neighbours, which reserve a tenth less.
        let named = ["405B FSDP 8 TP 8 PP 8 fp8 1F1B", "405B FSDP 1 TP 8 PP 8 CP 8 fp8 s=262144"];
        for row in errors.rows.iter().filter(|row| row.relative().abs() > 0.10) {
            assert!(named.contains(&row.label.as_str()), "{row:?} {}", row.relative());
        }
    }

    #[test]
    fn unseen_publications_are_predicted_within_the_bars() {
        let runs = published_runs();
        let errors = cross_validate_published(&runs, LeftOutRuns::Publication).unwrap();
        assert!(errors.median() <= 0.15, "{}", errors.median());
        assert!(errors.worst() <= 0.25, "{}", errors.worst());
    }

    #[test]
    fn the_stored_calibration_is_the_fit_of_the_published_runs() {
        let runs = published_runs();
        let fitted = fit_fused(&runs.iter().collect::<Vec<_>>()).unwrap();
        let stored = Calibration::fused();
        for free in fused_free() {
            let (mut fitted, mut stored) = (fitted, stored);
            let ratio = *(free.field)(&mut fitted) / *(free.field)(&mut stored);
            assert!((ratio - 1.0).abs() < 0.01, "{fitted:#?}");
        }
    }

    #[test]
    fn unseen_sizes_of_vtrain_are_predicted_within_the_bars() {
        let Some((multi, single)) = vtrain() else { return };
        let (many, one) = cross_validate_vtrain(&multi, &single, LeftOut::HiddenSize).unwrap();
        assert!(many.mean() <= 0.10, "{}", many.mean());
        assert!(one.mean() <= 0.08, "{}", one.mean());
        let all: [Vec<&MeasuredRun>; 2] = [multi.iter().collect(), single.iter().collect()];
        let fitted = fit_vtrain(&all[0], &all[1]).unwrap();
        let stored = Calibration::named("megatron-a100").unwrap();
        let ratio = fitted.gemm_efficiency / stored.gemm_efficiency;
        assert!((ratio - 1.0).abs() < 0.01, "{fitted:#?}");
    }
}

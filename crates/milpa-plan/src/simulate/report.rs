//! What a simulated step and its weeks look like to a reader.

use std::fmt;

use milpa_base::{
    Bytes, Seed,
    units::{duration, si_spaced},
};
use serde::Serialize;

use crate::{
    PlanError,
    cluster_memory::{ClusterMemory, cluster_memory},
    layout::ClusterRun,
    simulate::{SimulatedStep, SimulatedWeeks, Weeks, simulate_step, simulate_weeks},
    step::{Calibration, StepTime, Utilisation, utilisation},
    validation::published_range,
};

/// Runs of the weeks that are simulated.
const TRIALS: u32 = 400;

/// Passes that are simulated at most; each takes some 50 bytes.
const MOST_PASSES: u64 = 2_000_000;

/// A cluster's step and weeks.
#[derive(Debug, Clone, Serialize)]
pub struct SimulationReport {
    /// What was simulated.
    pub run: ClusterRun,
    /// Seconds of a step.
    pub seconds: f64,
    /// The same, shorter and longer, as 80 % of published runs lie about their prediction.
    pub range: [f64; 2],
    /// Mean over stages of what the step's seconds go to.
    pub parts: StepTime,
    /// Mean over stages of waiting for others, relative to their work.
    pub bubble: f64,
    /// Share of the step that is communication which no computation hides.
    pub exposed_communication: f64,
    /// Utilisation under both conventions.
    pub utilisation: Utilisation,
    /// Memory of the fullest device.
    pub memory: ClusterMemory,
    /// Whether it fits.
    pub fits: bool,
    /// The weeks, where they were asked for.
    pub weeks: Option<(Weeks, SimulatedWeeks)>,
    /// The step itself, for the picture.
    #[serde(skip)]
    pub step: SimulatedStep,
}

/// Simulates a run's step, and its weeks where they are given.
///
/// # Errors
/// [`PlanError`] if the run cannot be laid out or the weeks cannot be simulated.
pub fn simulate(
    run: ClusterRun,
    calibration: &Calibration,
    weeks: Option<Weeks>,
    seed: Seed,
) -> Result<SimulationReport, PlanError> {
    run.check()?;
    let passes = run.micro_batches() * run.layout.pipeline * run.layout.interleave;
    if passes > MOST_PASSES {
        return Err(PlanError::BadLayout {
            problem: format!(
                "{passes} passes of micro-batches through layer chunks are too many to run"
            ),
            remedy: format!("raise the micro-batch or lower the batch, to at most {MOST_PASSES}"),
        });
    }
    let step = simulate_step(&run, calibration);
    let weeks = match weeks {
        Some(weeks) => Some((weeks, simulate_weeks(&weeks, TRIALS, seed)?)),
        None => None,
    };
    let parts = mean(&step.stages);
    let memory = cluster_memory(&run);
    let (low, high) = published_range()?;
    Ok(SimulationReport {
        seconds: step.seconds,
        range: [step.seconds * low, step.seconds * high],
        parts,
        bubble: step.bubble,
        exposed_communication: parts.exposed_communication() / step.seconds,
        utilisation: utilisation(&run, step.seconds),
        fits: memory.total() <= run.device.memory,
        memory,
        weeks,
        step,
        run,
    })
}

fn mean(stages: &[StepTime]) -> StepTime {
    let share = 1.0 / stages.len() as f64;
    let of = |part: fn(&StepTime) -> f64| stages.iter().map(part).sum::<f64>() * share;
    let mut mean = StepTime {
        logits: of(|time| time.logits),
        transfer: of(|time| time.transfer),
        bubble: of(|time| time.bubble),
        data: of(|time| time.data),
        optimizer: of(|time| time.optimizer),
        overhead: of(|time| time.overhead),
        ..StepTime::default()
    };
    mean.layers.gemm = of(|time| time.layers.gemm);
    mean.layers.attention = of(|time| time.layers.attention);
    mean.layers.elementwise = of(|time| time.layers.elementwise);
    mean.layers.launch = of(|time| time.layers.launch);
    mean.layers.tensor = of(|time| time.layers.tensor);
    mean.layers.context = of(|time| time.layers.context);
    mean
}

impl fmt::Display for SimulationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = &self.run.layout;
        writeln!(
            f,
            "cluster      {} x {}; {} micro-batches of {} x {} tokens for each replica",
            layout.devices(),
            self.run.device.label,
            self.run.micro_batches(),
            layout.micro_batch,
            self.run.batch.sequence_length
        )?;
        writeln!(
            f,
            "layout       data {}, tensor {}, pipeline {}, context {}; {}, {} chunk{} a stage",
            layout.data,
            layout.tensor,
            layout.pipeline,
            layout.context,
            layout.schedule.name(),
            layout.interleave,
            if layout.interleave == 1 { "" } else { "s" }
        )?;
        writeln!(
            f,
            "step         {:.3} s; {:.3} to {:.3} s as 80 % of published runs lie about predictions made \
             without their publication (docs/plan-validation.md)",
            self.seconds, self.range[0], self.range[1]
        )?;
        self.write_parts(f)?;
        let peak = self.run.device.peak_flops_per_second.get(&crate::Dtype::Bf16);
        writeln!(
            f,
            "MFU          {:.1} % by 6(N - input embedding) + 12Lhs, {:.1} % with causal attention{}",
            self.utilisation.palm * 100.0,
            self.utilisation.causal * 100.0,
            peak.map_or(String::new(), |peak| format!(
                "; of {}FLOP/s, dense bf16",
                si_spaced(*peak)
            ))
        )?;
        writeln!(
            f,
            "throughput   {:.0} tokens/s of each device, {:.0} of all",
            self.utilisation.tokens_per_second_per_device,
            self.utilisation.tokens_per_second_per_device * layout.devices() as f64
        )?;
        writeln!(f, "bubble       {:.1} % of the stages' work (mean)", self.bubble * 100.0)?;
        writeln!(
            f,
            "exposed      {:.1} % of the step is communication that nothing hides",
            self.exposed_communication * 100.0
        )?;
        self.write_memory(f)?;
        self.write_weeks(f)
    }
}

impl SimulationReport {
    fn write_parts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = &self.parts;
        let parts = [
            ("matrix products", time.layers.gemm),
            ("attention", time.layers.attention),
            ("memory traffic", time.layers.elementwise),
            ("kernel launches", time.layers.launch),
            ("tensor-parallel communication", time.layers.tensor),
            ("context-parallel communication", time.layers.context),
            ("output projection and loss", time.logits),
            ("transfers between stages", time.transfer),
            ("waiting (bubble, slower stages)", time.bubble),
            ("replicas' communication", time.data),
            ("optimiser", time.optimizer),
            ("outside", time.overhead),
        ];
        for (name, seconds) in parts.into_iter().filter(|(_, seconds)| *seconds > 5e-5) {
            let share = seconds / self.seconds * 100.0;
            writeln!(f, "  {name:<31} {seconds:>9.4} s {share:>5.1} %")?;
        }
        Ok(())
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        let states = |part: fn(&crate::States) -> Bytes| {
            Bytes(part(&memory.layers).0 + part(&memory.embeddings).0)
        };
        writeln!(
            f,
            "memory       {} on the fullest device of {}: {}",
            memory.total(),
            self.run.device.memory,
            if self.fits {
                "fits"
            } else {
                "does NOT fit; raise a degree, recompute more or shard more"
            }
        )?;
        let parts = [
            ("weights", states(|states| states.weights)),
            ("gradients", states(|states| states.gradients)),
            ("optimiser states", states(|states| states.optimizer)),
            ("gathered weights", memory.gathered),
            ("activations", memory.activations),
            ("recomputation at work", memory.workspace),
            ("logits", memory.logits),
            ("fragmentation (3 %, estimate)", memory.fragmentation),
            ("driver and NCCL (estimate)", memory.runtime),
        ];
        for (name, bytes) in parts.into_iter().filter(|(_, bytes)| bytes.0 > 0) {
            writeln!(f, "  {name:<31} {:>12}", bytes.to_string())?;
        }
        Ok(())
    }

    fn write_weeks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((weeks, result)) = &self.weeks else { return Ok(()) };
        writeln!(
            f,
            "weeks        {} of computing take {} (10 % to 90 %: {} to {}); {:.1} failures",
            duration(weeks.compute_seconds),
            duration(result.mean_seconds),
            duration(result.quantiles[0]),
            duration(result.quantiles[2]),
            result.mean_failures
        )?;
        let mean = weeks.mean_time_between_failures();
        let between =
            if mean.is_finite() { format!("each {}", duration(mean)) } else { "never".to_owned() };
        writeln!(
            f,
            "  a failure {between} ({:.3e} an hour and device), checkpoints each {} that stall {:.1} s, \
             {} to restart",
            weeks.failures_per_device_hour,
            duration(weeks.checkpoint_interval),
            weeks.checkpoint_stall,
            duration(weeks.restart_seconds)
        )?;
        writeln!(
            f,
            "  {:.2} % lost in {} simulated runs; {:.2} % by Daly's closed form",
            result.waste * 100.0,
            result.trials,
            (1.0 - weeks.compute_seconds / result.expected_seconds) * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Device, Layout, ModelShape, NumberFormats};

    #[test]
    fn a_report_names_its_conventions_and_ranges() {
        let run = ClusterRun {
            model: ModelShape::published("llama3-70b").unwrap(),
            device: Device::named("h200").unwrap(),
            layout: Layout { data: 4, tensor: 8, pipeline: 2, ..Layout::SINGLE },
            batch: Batch { sequence_length: 8192, sequences: 64 },
            formats: NumberFormats::MIXED,
        };
        let weeks = Weeks {
            compute_seconds: 86_400.0,
            failures_per_device_hour: 1.97e-5,
            devices: 64,
            checkpoint_interval: 3600.0,
            checkpoint_stall: 10.0,
            restart_seconds: 600.0,
        };
        let report = simulate(run, &Calibration::fused(), Some(weeks), Seed(1)).unwrap();
        assert!((report.parts.total() / report.seconds - 1.0).abs() < 1e-9);
        assert!(report.range[0] < report.seconds && report.seconds < report.range[1]);
        let text = report.to_string();
        for expect in ["12Lhs", "causal", "989 TFLOP/s, dense bf16", "Daly", "GiB: fits"] {
            assert!(text.contains(expect), "{expect} in {text}");
        }
    }
}

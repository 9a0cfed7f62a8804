//! `milpa plan simulate`: one step of a cluster and the weeks of a run.

use anyhow::{Context as _, Result};
use milpa_base::{Seed, write_file_atomic};
use milpa_plan::{
    AttentionKernel, Batch, Calibration, ClusterRun, Device, Layout, ModelShape, NumberFormats,
    PlanError, Schedule,
    simulate::{Weeks, simulate as run_simulation, timeline_svg},
};

use crate::{cli::SimulateArgs, context::Context};

/// Simulates what the flags describe.
pub fn simulate(context: &Context, arguments: &SimulateArgs) -> Result<()> {
    let run = cluster_run(arguments)?;
    let weeks = arguments.days.map(|days| weeks(arguments, days));
    let calibration = Calibration::named(&arguments.calibration)?;
    let report = run_simulation(run, &calibration, weeks, Seed(arguments.seed))?;
    if let Some(path) = &arguments.svg {
        let title = format!(
            "{} on {} x {}: one step, {}",
            arguments.model,
            arguments.gpus,
            report.run.device.name,
            report.run.layout.schedule.name()
        );
        write_file_atomic(path, timeline_svg(&report.step, &title).as_bytes())
            .with_context(|| format!("the time line could not be written to {}", path.display()))?;
    }
    context.show(&report, || report.to_string())
}

fn cluster_run(arguments: &SimulateArgs) -> Result<ClusterRun, PlanError> {
    let shared = [arguments.tensor, arguments.pipeline, arguments.context];
    let shared = shared.into_iter().fold(1, u64::saturating_mul);
    if shared == 0 || arguments.gpus == 0 || !arguments.gpus.is_multiple_of(shared) {
        return Err(PlanError::BadLayout {
            problem: format!(
                "{} devices are no multiple of tensor x pipeline x context = {shared}",
                arguments.gpus
            ),
            remedy: format!("take {}", arguments.gpus.max(1).next_multiple_of(shared.max(1))),
        });
    }
    let mut device = Device::named(&arguments.device)?;
    if let Some(network) = arguments.network {
        if !(network > 0.0 && network.is_finite()) {
            let range = "a positive number of GB/s";
            return Err(PlanError::OutOfRange { name: "--network", value: network, range });
        }
        device.network_bandwidth = network * 1e9;
    }
    let data = arguments.gpus / shared;
    let schedule = match &arguments.schedule {
        Some(name) => name.parse()?,
        None if arguments.interleave > 1 => Schedule::Interleaved,
        None => Schedule::OneForwardOneBackward,
    };
    let default_batch = [8, data, arguments.pipeline, arguments.micro_batch];
    let run = ClusterRun {
        model: ModelShape::published(&arguments.model)?,
        device,
        layout: Layout {
            data,
            tensor: arguments.tensor,
            pipeline: arguments.pipeline,
            context: arguments.context,
            sequence_parallel: arguments.sequence_parallel,
            overlap_tensor: arguments.overlap_tensor,
            zero: arguments.zero.parse()?,
            recompute: arguments.recompute.parse()?,
            attention: AttentionKernel::Current,
            micro_batch: arguments.micro_batch,
            interleave: arguments.interleave,
            schedule,
            ..Layout::SINGLE
        },
        batch: Batch {
            sequence_length: arguments.sequence_length,
            sequences: arguments
                .batch
                .unwrap_or_else(|| default_batch.into_iter().fold(1, u64::saturating_mul)),
        },
        formats: formats(arguments)?,
    };
    run.check()?;
    Ok(run)
}

fn formats(arguments: &SimulateArgs) -> Result<NumberFormats, PlanError> {
    let mut formats = NumberFormats::named(&arguments.states)?;
    if let Some(compute) = &arguments.compute {
        formats.compute = compute.parse()?;
    }
    Ok(formats)
}

fn weeks(arguments: &SimulateArgs, days: f64) -> Weeks {
    let mut weeks = Weeks {
        compute_seconds: days * 86_400.0,
        failures_per_device_hour: arguments.failures_per_hour,
        devices: arguments.gpus,
        checkpoint_interval: 0.0,
        checkpoint_stall: arguments.checkpoint_stall,
        restart_seconds: arguments.restart * 60.0,
    };
    // Without stalls or failures any interval is as good; an hour is one.
    let best = weeks.young_interval();
    let best = if best > 0.0 && best.is_finite() { best } else { 3600.0 };
    weeks.checkpoint_interval =
        arguments.checkpoint_interval.map_or(best, |minutes| minutes * 60.0);
    weeks
}

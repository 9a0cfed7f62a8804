//! The table of passes that each pipeline stage runs, in order.
//!
//! `GPipe`, 1F1B, interleaved 1F1B as Megatron orders it, and ZB-H1. It knows no durations: the event
//! simulation finds out when each pass can start.

use crate::layout::Schedule;

/// What a stage does with a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// Forward.
    Forward,
    /// Backward; with ZB-H1 only the gradients of its input.
    Backward,
    /// Gradients of weights, where they are apart.
    Weights,
}

/// One pass of one micro-batch through one layer chunk of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Task {
    /// What is done.
    pub pass: Pass,
    /// The micro-batch.
    pub micro_batch: usize,
    /// The layer chunk on this stage.
    pub chunk: usize,
}

/// Sizes of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipeline {
    /// Stages.
    pub stages: usize,
    /// Layer chunks of each stage.
    pub chunks: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
}

/// The passes of `stage` in order.
pub fn tasks(schedule: Schedule, pipeline: Pipeline, stage: usize) -> Vec<Task> {
    match schedule {
        Schedule::Gpipe => gpipe(pipeline),
        Schedule::OneForwardOneBackward => one_forward_one_backward(pipeline, stage),
        Schedule::Interleaved => interleaved(pipeline, stage),
        Schedule::ZeroBubble => zero_bubble(pipeline, stage),
    }
}

fn task(pass: Pass, micro_batch: usize) -> Task {
    Task { pass, micro_batch, chunk: 0 }
}

fn gpipe(pipeline: Pipeline) -> Vec<Task> {
    let forward = (0..pipeline.micro_batches).map(|index| task(Pass::Forward, index));
    forward.chain((0..pipeline.micro_batches).map(|index| task(Pass::Backward, index))).collect()
}

/// Stage `stage` runs p − 1 − stage forward passes ahead, then one forward, one backward.
fn one_forward_one_backward(pipeline: Pipeline, stage: usize) -> Vec<Task> {
    let ahead = (pipeline.stages - 1 - stage).min(pipeline.micro_batches);
    alternate(ahead, pipeline.micro_batches, task)
}

/// As 1F1B over virtual micro-batches: groups of p micro-batches go through each chunk in turn
/// (Narayanan et al. 2021, arXiv:2104.04473, section 2.2.2).
fn interleaved(pipeline: Pipeline, stage: usize) -> Vec<Task> {
    let Pipeline { stages, chunks, micro_batches } = pipeline;
    let passes = micro_batches * chunks;
    let ahead = (2 * (stages - 1 - stage) + (chunks - 1) * stages).min(passes);
    alternate(ahead, passes, |pass, index| {
        let group = stages * chunks;
        let within = index % group;
        let chunk = within / stages;
        Task {
            pass,
            micro_batch: index / group * stages + within % stages,
            chunk: if pass == Pass::Forward { chunk } else { chunks - 1 - chunk },
        }
    })
}

fn alternate(ahead: usize, passes: usize, name: impl Fn(Pass, usize) -> Task) -> Vec<Task> {
    let mut tasks: Vec<Task> = (0..ahead).map(|index| name(Pass::Forward, index)).collect();
    for index in 0..passes {
        if ahead + index < passes {
            tasks.push(name(Pass::Forward, ahead + index));
        }
        tasks.push(name(Pass::Backward, index));
    }
    tasks
}

/// 1F1B whose weight gradients come `stage` micro-batches late, so that they fill the drain without
/// holding more micro-batches than 1F1B's first stage does (Qi et al. 2023, arXiv:2401.10241).
fn zero_bubble(pipeline: Pipeline, stage: usize) -> Vec<Task> {
    let mut tasks = Vec::new();
    let late = |index: usize| index.checked_sub(stage);
    for pass in one_forward_one_backward(pipeline, stage) {
        tasks.push(pass);
        if let (Pass::Backward, Some(weights)) = (pass.pass, late(pass.micro_batch)) {
            tasks.push(task(Pass::Weights, weights));
        }
    }
    let done = pipeline.micro_batches.saturating_sub(stage);
    tasks.extend((done..pipeline.micro_batches).map(|index| task(Pass::Weights, index)));
    tasks
}

/// Micro-batch chunks whose activations a stage holds at its peak, by its table alone.
pub fn peak_in_flight(tasks: &[Task]) -> usize {
    let releases = if tasks.iter().any(|task| task.pass == Pass::Weights) {
        Pass::Weights
    } else {
        Pass::Backward
    };
    let (mut held, mut peak) = (0_usize, 0);
    for task in tasks {
        if task.pass == Pass::Forward {
            held += 1;
        } else if task.pass == releases {
            held -= 1;
        }
        peak = peak.max(held);
    }
    peak
}

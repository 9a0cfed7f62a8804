//! One optimiser step, event by event.
//!
//! Ranks that do the same are one: a single replica's pipeline stands for all of a cluster's, so that
//! 16,384 devices take as long as one pipeline. Each stage runs its table of passes; a pass starts when
//! the stage is free and what it needs has arrived, and receives before it computes, as blocking
//! point-to-point operations do. Replicas' communication runs beside the last passes as far as the
//! calibration lets it hide.

use std::collections::VecDeque;

use serde::Serialize;

use crate::{
    layout::{ClusterRun, Schedule},
    simulate::schedule::{Pass, Pipeline, Task, tasks},
    step::{Calibration, Durations, PassTime, StepTime, durations, exposed, last_stage_excess},
};

/// A pass on the time line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Span {
    /// The pipeline stage.
    pub stage: usize,
    /// What ran.
    pub task: Task,
    /// Seconds since the step's start at which receiving began.
    pub start: f64,
    /// Seconds at which the pass ended.
    pub end: f64,
}

/// What a stage does at the step's end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageEnd {
    /// When its last pass ended.
    pub passes: f64,
    /// When replicas' communication ended.
    pub data: f64,
    /// When its optimiser's step ended.
    pub optimizer: f64,
}

/// A simulated step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SimulatedStep {
    /// Seconds of the step.
    pub seconds: f64,
    /// Every pass of every stage.
    pub spans: Vec<Span>,
    /// The end of each stage.
    pub ends: Vec<StageEnd>,
    /// Each stage's seconds by what they went to; each adds up to `seconds`.
    pub stages: Vec<StepTime>,
    /// Mean over stages of waiting for other stages, relative to their work.
    pub bubble: f64,
}

/// Simulates a step of a checked run.
pub fn simulate_step(run: &ClusterRun, calibration: &Calibration) -> SimulatedStep {
    simulate_durations(run, &durations(run, calibration), calibration)
}

/// Simulates a step whose durations are known.
pub fn simulate_durations(
    run: &ClusterRun,
    durations: &Durations,
    calibration: &Calibration,
) -> SimulatedStep {
    let pipeline = Pipeline {
        stages: run.layout.pipeline as usize,
        chunks: run.layout.interleave as usize,
        micro_batches: run.micro_batches() as usize,
    };
    let costs = Costs::new(run, durations);
    let spans = run_tables(run.layout.schedule, pipeline, &costs);
    let mut passes_end = vec![0.0_f64; pipeline.stages];
    for span in &spans {
        passes_end[span.stage] = passes_end[span.stage].max(span.end);
    }

    // As much of replicas' communication hides as the closed form says, but a stage that drains
    // early hides it while it would wait.
    let window = durations.window(calibration);
    let ends: Vec<StageEnd> = passes_end
        .iter()
        .map(|end| {
            let data = end + exposed(durations.data, window);
            StageEnd { passes: *end, data, optimizer: data + durations.optimizer }
        })
        .collect();
    let last = ends.iter().map(|end| end.optimizer).fold(0.0, f64::max);
    let seconds = last + durations.overhead;

    let stages: Vec<StepTime> = (0..pipeline.stages)
        .map(|stage| {
            let mut time = costs.work_of_stage(run, durations, stage, pipeline);
            time.data = ends[stage].data - ends[stage].passes;
            time.optimizer = durations.optimizer;
            time.overhead = durations.overhead;
            // Whatever is left is waiting: for the pipeline, or for slower stages at the end.
            time.bubble = (seconds - time.total()).max(0.0);
            time
        })
        .collect();
    let share = |time: &StepTime| time.bubble / (time.total() - time.bubble);
    let bubble = stages.iter().map(share).sum::<f64>() / stages.len() as f64;
    SimulatedStep { seconds, spans, ends, stages, bubble }
}

/// Seconds of each kind of pass.
struct Costs {
    forward: f64,
    backward: f64,
    weights: f64,
    /// Extra of the last chunk on the last stage.
    logits_forward: f64,
    logits_backward: f64,
    transfer: f64,
}

impl Costs {
    fn new(run: &ClusterRun, durations: &Durations) -> Self {
        let chunks = run.layout.interleave as f64;
        let split = run.layout.schedule == Schedule::ZeroBubble;
        let weights = if split { durations.weight_gradient } else { 0.0 };
        let logits = durations.logits_forward + durations.logits_backward;
        // The last stage's shorter layers make up for part of the logits.
        let left = if logits > 0.0 { last_stage_excess(run, durations) / logits } else { 0.0 };
        Self {
            forward: durations.forward.total() / chunks,
            backward: (durations.backward.total() - weights) / chunks,
            weights: weights / chunks,
            logits_forward: durations.logits_forward * left,
            logits_backward: durations.logits_backward * left,
            transfer: durations.transfer,
        }
    }

    fn of(&self, task: Task, is_last_chunk: bool) -> f64 {
        let extra = |logits: f64| if is_last_chunk { logits } else { 0.0 };
        match task.pass {
            Pass::Forward => self.forward + extra(self.logits_forward),
            Pass::Backward => self.backward + extra(self.logits_backward),
            Pass::Weights => self.weights,
        }
    }

    fn work_of_stage(
        &self,
        run: &ClusterRun,
        durations: &Durations,
        stage: usize,
        pipeline: Pipeline,
    ) -> StepTime {
        let m = pipeline.micro_batches as f64;
        let is_last = stage + 1 == pipeline.stages;
        let pass = durations.forward.plus(&durations.backward);
        // Every chunk receives from another stage but the first forward and the last backward.
        let receives = if pipeline.stages > 1 {
            let ends = f64::from(u8::from(stage == 0)) + f64::from(u8::from(is_last));
            2.0 * run.layout.interleave as f64 - ends
        } else {
            0.0
        };
        StepTime {
            layers: PassTime {
                gemm: m * pass.gemm,
                attention: m * pass.attention,
                elementwise: m * pass.elementwise,
                launch: m * pass.launch,
                tensor: m * pass.tensor,
                context: m * pass.context,
            },
            logits: if is_last { m * (self.logits_forward + self.logits_backward) } else { 0.0 },
            transfer: m * receives * self.transfer,
            ..StepTime::default()
        }
    }
}

/// Runs every stage's table: whenever a pass ends, the stages that may have waited for it go on.
fn run_tables(schedule: Schedule, pipeline: Pipeline, costs: &Costs) -> Vec<Span> {
    let Pipeline { stages, chunks, micro_batches } = pipeline;
    let tables: Vec<Vec<Task>> =
        (0..stages).map(|stage| tasks(schedule, pipeline, stage)).collect();
    let slot = |stage: usize, chunk: usize, micro_batch: usize| {
        (stage * chunks + chunk) * micro_batches + micro_batch
    };
    let mut forward_end = vec![f64::NAN; stages * chunks * micro_batches];
    let mut backward_end = forward_end.clone();
    let mut next = vec![0; stages];
    let mut free = vec![0.0_f64; stages];
    let mut spans = Vec::with_capacity(tables.iter().map(Vec::len).sum());
    let mut waiting: VecDeque<usize> = (0..stages).collect();
    while let Some(stage) = waiting.pop_front() {
        while let Some(task) = tables[stage].get(next[stage]).copied() {
            let (chunk, micro_batch) = (task.chunk, task.micro_batch);
            let is_last_chunk = stage + 1 == stages && chunk + 1 == chunks;
            // Where the input comes from, and whether from another stage.
            let (ready, received) = match task.pass {
                Pass::Forward if stage > 0 => {
                    (forward_end[slot(stage - 1, chunk, micro_batch)], true)
                }
                Pass::Forward if chunk > 0 => {
                    (forward_end[slot(stages - 1, chunk - 1, micro_batch)], stages > 1)
                }
                Pass::Forward => (0.0, false),
                Pass::Backward if is_last_chunk => {
                    (forward_end[slot(stage, chunk, micro_batch)], false)
                }
                Pass::Backward if stage + 1 < stages => {
                    (backward_end[slot(stage + 1, chunk, micro_batch)], true)
                }
                Pass::Backward => (backward_end[slot(0, chunk + 1, micro_batch)], stages > 1),
                Pass::Weights => (backward_end[slot(stage, chunk, micro_batch)], false),
            };
            if ready.is_nan() {
                break;
            }
            let start = free[stage].max(ready);
            let receive = if received { costs.transfer } else { 0.0 };
            let end = start + receive + costs.of(task, is_last_chunk);
            match task.pass {
                Pass::Forward => forward_end[slot(stage, chunk, micro_batch)] = end,
                Pass::Backward => backward_end[slot(stage, chunk, micro_batch)] = end,
                Pass::Weights => (),
            }
            free[stage] = end;
            next[stage] += 1;
            spans.push(Span { stage, task, start, end });
            let neighbour = match task.pass {
                Pass::Forward => (stage + 1) % stages,
                Pass::Backward => (stage + stages - 1) % stages,
                Pass::Weights => stage,
            };
            if neighbour != stage && !waiting.contains(&neighbour) {
                waiting.push_back(neighbour);
            }
        }
    }
    debug_assert!(next.iter().zip(&tables).all(|(done, table)| *done == table.len()));
    spans.sort_by(|a, b| a.stage.cmp(&b.stage).then(a.start.total_cmp(&b.start)));
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Batch, Device, Layout, ModelShape, NumberFormats, Recompute, ZeroStage, layers_in_flight,
        simulate::schedule::peak_in_flight, step_time,
    };

    fn run(schedule: Schedule, stages: u64, chunks: u64, micro_batches: u64) -> ClusterRun {
        let run = ClusterRun {
            model: ModelShape { layers: 96, ..ModelShape::published("llama3-8b").unwrap() },
            device: Device::named("h100-sxm").unwrap(),
            layout: Layout { pipeline: stages, interleave: chunks, schedule, ..Layout::SINGLE },
            batch: Batch { sequence_length: 4096, sequences: micro_batches },
            formats: NumberFormats::MIXED,
        };
        run.check().unwrap();
        run
    }

    /// Durations of passes alone: backward two thirds of which are gradients of input.
    fn plain(forward: f64, backward: f64) -> Durations {
        Durations {
            forward: PassTime { gemm: forward, ..PassTime::default() },
            backward: PassTime { gemm: backward, ..PassTime::default() },
            weight_gradient: backward / 2.0,
            ..Durations::default()
        }
    }

    fn bubble(run: &ClusterRun) -> f64 {
        simulate_durations(run, &plain(1.0, 2.0), &Calibration::fused()).bubble
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn bubbles_are_those_of_the_formulas(stages in 1_u64..9, rounds in 1_u64..5, chunks in 2_u64..4) {
            let m = stages * rounds;
            let expect = (stages - 1) as f64 / m as f64;
            let near = |value: f64, expect: f64| (value - expect).abs() < 1e-9;
            prop_assert!(near(bubble(&run(Schedule::Gpipe, stages, 1, m)), expect));
            prop_assert!(near(bubble(&run(Schedule::OneForwardOneBackward, stages, 1, m)), expect));
            let interleaved = bubble(&run(Schedule::Interleaved, stages, chunks, m));
            prop_assert!(near(interleaved, expect / chunks as f64), "{interleaved} {expect}");
            let zero = bubble(&run(Schedule::ZeroBubble, stages, 1, m));
            prop_assert!(zero <= expect && (stages == 1 || zero < expect), "{zero} {expect}");
        }

        #[test]
        fn no_time_is_lost_and_memory_is_what_the_formula_says(
            stages in 1_u64..9, rounds in 1_u64..5, chunks in 1_u64..4, tensor in 0_u32..4,
        ) {
            let schedule = if chunks > 1 { Schedule::Interleaved } else { Schedule::OneForwardOneBackward };
            let mut run = run(schedule, stages, chunks, stages * rounds);
            run.layout.tensor = 1 << tensor;
            let step = simulate_step(&run, &Calibration::fused());
            for (index, stage) in step.stages.iter().enumerate() {
                prop_assert!((stage.total() / step.seconds - 1.0).abs() < 1e-9);
                prop_assert!(stage.bubble >= -1e-9 * step.seconds);
                let busy: f64 = step.spans.iter().filter(|span| span.stage == index)
                    .map(|span| span.end - span.start).sum();
                let work = stage.layers.total() + stage.logits + stage.transfer;
                prop_assert!((busy / work - 1.0).abs() < 1e-9, "{busy} {work}");
                // No two passes of a stage at once.
                let spans: Vec<&Span> = step.spans.iter().filter(|span| span.stage == index).collect();
                prop_assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start + 1e-12));
            }
            let pipeline = Pipeline {
                stages: stages as usize,
                chunks: chunks as usize,
                micro_batches: (stages * rounds) as usize,
            };
            for stage in 0..stages {
                let held = peak_in_flight(&tasks(schedule, pipeline, stage as usize)) as f64;
                let layers = held * run.stage_layers() as f64 / chunks as f64;
                let expect = layers_in_flight(&run, stage);
                prop_assert!((layers - expect).abs() < 1e-9, "{layers} {expect}");
            }
        }

        /// Every stage busy or waiting for a full one: what the closed form says is then exact. Transfers
        /// delay single passes, and interleaved logits single chunks, in ways that it only adds up.
        #[test]
        fn without_overheads_the_events_take_what_the_closed_form_says(
            kind in 0_usize..3, stages in 1_u64..9, rounds in 1_u64..6, chunks in 2_u64..5,
            tensor in 0_u32..4, data in 0_u32..4, micro_batch in 1_u64..4, recomputed: bool,
        ) {
            let (schedule, chunks) = [
                (Schedule::Gpipe, 1),
                (Schedule::OneForwardOneBackward, 1),
                (Schedule::Interleaved, chunks),
            ][kind];
            let mut run = run(schedule, stages, chunks, stages * rounds);
            run.layout = Layout {
                tensor: 1 << tensor,
                data: 1 << data,
                micro_batch,
                zero: ZeroStage::Optimizer,
                recompute: if recomputed { Recompute::Full } else { Recompute::Selective },
                ..run.layout
            };
            run.batch.sequences *= micro_batch << data;
            run.device.link_bandwidth = f64::INFINITY;
            run.device.network_bandwidth = f64::INFINITY;
            if chunks > 1 {
                run.model.vocab_size = 1;
            }
            run.check().unwrap();
            let calibration = Calibration {
                link_latency: 0.0,
                network_latency: 0.0,
                launch_seconds: 0.0,
                step_overhead: 0.0,
                ..Calibration::fused()
            };
            let closed = step_time(&run, &calibration).total();
            let events = simulate_step(&run, &calibration).seconds;
            let tolerance = if chunks > 1 { 1e-5 } else { 1e-9 };
            prop_assert!((events / closed - 1.0).abs() < tolerance, "{events} {closed}");
        }

        #[test]
        fn more_bandwidth_never_takes_longer(factor in 1.0_f64..10.0, stages in 1_u64..5) {
            let mut run = run(Schedule::OneForwardOneBackward, stages, 1, 4 * stages);
            run.layout.tensor = 4;
            run.layout.data = 4;
            run.layout.zero = ZeroStage::Optimizer;
            run.batch.sequences *= 4;
            let before = simulate_step(&run, &Calibration::fused()).seconds;
            run.device.link_bandwidth *= factor;
            run.device.network_bandwidth *= factor;
            prop_assert!(simulate_step(&run, &Calibration::fused()).seconds <= before + 1e-12);
        }
    }

    #[test]
    fn zero_bubble_reaches_its_formula_with_equal_passes() {
        // F = B = W: (p − 1)·(F + B − W) of waiting (Qi et al. 2023, table 2).
        let run = run(Schedule::ZeroBubble, 4, 1, 12);
        let step = simulate_durations(&run, &plain(1.0, 2.0), &Calibration::fused());
        assert!((step.seconds - (36.0 + 3.0)).abs() < 1e-9, "{}", step.seconds);
    }

    #[test]
    fn the_closed_form_and_the_events_agree() {
        let check = |schedule, chunks, tolerance: f64| {
            let mut run = run(schedule, 8, chunks, 64);
            run.layout.tensor = 8;
            run.layout.data = 4;
            run.layout.recompute = Recompute::Full;
            run.batch.sequences *= 4;
            let closed = step_time(&run, &Calibration::fused()).total();
            let events = simulate_step(&run, &Calibration::fused()).seconds;
            assert!((events / closed - 1.0).abs() < tolerance, "{schedule:?} {events} {closed}");
        };
        check(Schedule::OneForwardOneBackward, 1, 0.03);
        check(Schedule::Gpipe, 1, 0.03);
        check(Schedule::Interleaved, 3, 0.03);
        check(Schedule::ZeroBubble, 1, 0.03);
    }

    #[test]
    fn infinite_bandwidth_leaves_no_exposed_communication() {
        let mut calibration = Calibration::fused();
        (calibration.link_latency, calibration.network_latency) = (0.0, 0.0);
        let mut run = run(Schedule::OneForwardOneBackward, 4, 1, 8);
        run.layout.tensor = 8;
        run.layout.data = 8;
        run.batch.sequences *= 8;
        run.device.link_bandwidth = f64::INFINITY;
        run.device.network_bandwidth = f64::INFINITY;
        for stage in simulate_step(&run, &calibration).stages {
            assert_eq!(stage.exposed_communication(), 0.0);
        }
    }

    #[test]
    fn sixteen_thousand_devices_take_a_moment() {
        let run = ClusterRun {
            model: ModelShape::published("llama3-405b").unwrap(),
            device: Device::named("h100-sxm").unwrap(),
            layout: Layout {
                data: 128,
                tensor: 8,
                pipeline: 16,
                interleave: 4,
                schedule: Schedule::Interleaved,
                sequence_parallel: true,
                overlap_tensor: true,
                zero: ZeroStage::Optimizer,
                ..Layout::SINGLE
            },
            batch: Batch { sequence_length: 8192, sequences: 2048 },
            formats: NumberFormats::MEGATRON,
        };
        assert_eq!(run.layout.devices(), 16_384);
        let begin = std::time::Instant::now();
        let step = simulate_step(&run, &Calibration::fused());
        assert!(begin.elapsed().as_secs() < 5);
        assert_eq!(step.spans.len(), 16 * 4 * 16 * 2);
    }
}

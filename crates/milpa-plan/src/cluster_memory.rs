//! Bytes on the fullest device of a cluster, by use.
//!
//! Weights, gradients and optimiser states after ZeRO, tensor and pipeline parallelism
//! (Rajbhandari et al. 2020, arXiv:1910.02054); activations after Korthikanti et al. 2022
//! (arXiv:2205.05198), extended to gated feed-forwards and grouped key/value heads; logits, gathered
//! weights, what recomputation needs at once, and what the allocator loses. It knows no time.

use milpa_base::Bytes;
use serde::Serialize;

use crate::layout::{ClusterRun, Recompute, Schedule, ZeroStage};

/// Share of the sum that allocators lose between blocks of different sizes: an estimate.
const FRAGMENTATION: f64 = 0.03;
/// The driver's context and the communication library's buffers on one accelerator: an estimate.
const RUNTIME_BYTES: f64 = 1.5e9;

/// Bytes on the fullest device, by use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClusterMemory {
    /// Weights, gradients and optimiser states of the layers.
    pub layers: States,
    /// The same of embeddings and output projection.
    pub embeddings: States,
    /// Weights (and gradients) gathered from other replicas for the layers at work.
    pub gathered: Bytes,
    /// Activations kept for the backward pass of all micro-batches in flight.
    pub activations: Bytes,
    /// What one layer computes again at once, where anything is recomputed.
    pub workspace: Bytes,
    /// Logits of one micro-batch with their gradients.
    pub logits: Bytes,
    /// Tensors that are there at once at the fullest moment.
    pub allocated: Bytes,
    /// What the allocator loses (estimate).
    pub fragmentation: Bytes,
    /// The driver's context and the communication library's buffers (estimate).
    pub runtime: Bytes,
}

/// Bytes that go with parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct States {
    /// Weights.
    pub weights: Bytes,
    /// Gradients.
    pub gradients: Bytes,
    /// Optimiser states and master copy.
    pub optimizer: Bytes,
}

impl States {
    /// The sum.
    pub fn total(&self) -> Bytes {
        Bytes(self.weights.0 + self.gradients.0 + self.optimizer.0)
    }
}

impl ClusterMemory {
    /// Bytes of tensors by use, each at its own peak: an allocator that has cut its memory for one use
    /// does not give all of it to another. Never less than the fullest moment.
    pub fn tensors(&self) -> Bytes {
        let by_use = self.layers.total().0
            + self.embeddings.total().0
            + self.gathered.0
            + self.activations.0
            + self.workspace.0
            + self.logits.0;
        Bytes(by_use.max(self.allocated.0))
    }

    /// What the framework's allocator reserves: tensors and its loss.
    pub fn reserved(&self) -> Bytes {
        Bytes(self.tensors().0 + self.fragmentation.0)
    }

    /// The sum.
    pub fn total(&self) -> Bytes {
        Bytes(self.reserved().0 + self.runtime.0)
    }
}

/// Plans the memory of the fullest device; of a checked run.
///
/// The fullest is the first stage (most micro-batches in flight, input embedding) or, where it takes
/// more, the last (output projection and logits).
pub fn cluster_memory(run: &ClusterRun) -> ClusterMemory {
    let stages = if run.layout.pipeline == 1 { vec![0] } else { vec![0, run.layout.pipeline - 1] };
    stages
        .into_iter()
        .map(|stage| stage_memory(run, stage))
        .max_by_key(|memory| memory.total().0)
        .expect("there is at least one stage")
}

/// Plans the memory of a device in pipeline stage `stage`, from 0; of a checked run.
pub fn stage_memory(run: &ClusterRun, stage: u64) -> ClusterMemory {
    let (model, layout) = (&run.model, &run.layout);
    let tensor = layout.tensor as f64;
    let last = stage + 1 == layout.pipeline;
    let stage_layers = run.stage_layers() as f64;
    let tokens = run.micro_batch_tokens();

    let matrices = stage_layers * model.layer_matrix_parameters() as f64 / tensor;
    let others = stage_layers * (model.layer_parameters() - model.layer_matrix_parameters()) as f64;
    let ends = end_parameters(run, stage == 0, last);
    let layers = states(run, matrices, others);
    let embeddings = states(run, 0.0, ends);

    let weight_bytes = run.formats.weight_bytes as f64;
    let gradient_bytes = run.formats.gradient_bytes as f64;
    let gathered = match layout.zero {
        // The layer at work and the next one; their gradients before they are shared out.
        ZeroStage::Parameters | ZeroStage::ParametersSummed if layout.shards() > 1 => {
            let layer = model.layer_parameters() as f64 / tensor;
            2.0 * layer * weight_bytes + layer * gradient_bytes + ends * weight_bytes
        }
        ZeroStage::ParametersGathered if layout.shards() > 1 => {
            (matrices + others + ends) * weight_bytes
        }
        _ => 0.0,
    };

    let per_layer = activation_bytes_per_token(run, layout.recompute);
    let workspace = match layout.recompute {
        Recompute::None | Recompute::Selective => 0.0,
        // The layer's values and the gradients that flow back through them.
        Recompute::Alternate | Recompute::Full => {
            1.5 * tokens
                * (activation_bytes_per_token(run, Recompute::Selective) + gathered_inputs(run))
        }
    };
    let logits = if last {
        let shared = if layout.vocabulary_parallel { tensor } else { 1.0 };
        tokens * model.vocab_size as f64 / shared * run.formats.logit_bytes as f64
    } else {
        0.0
    };
    let activations = per_layer * tokens * layers_in_flight(run, stage);
    let gathers = layout.zero >= ZeroStage::Parameters && layout.shards() > 1;
    let ends_gathered = if gathers { ends * weight_bytes } else { 0.0 };
    // Gradients wait for the first backward pass, which the loss of a single micro-batch precedes.
    let gradients = (layers.gradients.0 + embeddings.gradients.0) as f64;
    let states_bytes = (layers.total().0 + embeddings.total().0) as f64;
    let at_loss = if run.micro_batches() > 1 { states_bytes } else { states_bytes - gradients };
    let moments = [
        at_loss + activations + logits + ends_gathered,
        states_bytes + activations + workspace + gathered,
        // At the end the outermost parameters, with their gradients in both formats, are shared out.
        states_bytes + ends_gathered * 2.0 + ends_gathered / weight_bytes * gradient_bytes,
    ];

    let mut memory = ClusterMemory {
        layers,
        embeddings,
        gathered: bytes(gathered),
        activations: bytes(activations),
        workspace: bytes(workspace),
        logits: bytes(logits),
        allocated: bytes(moments.into_iter().fold(0.0, f64::max)),
        fragmentation: Bytes(0),
        runtime: bytes(RUNTIME_BYTES),
    };
    memory.fragmentation = bytes(FRAGMENTATION * memory.tensors().0 as f64);
    memory
}

/// Layers times micro-batches whose activations stage `stage` holds at its peak.
///
/// 1F1B and ZB-H1: p − stage micro-batches; interleaved on the first stage: L·(1 + (p−1)/(p·v))
/// layers; `GPipe`: all micro-batches.
pub fn layers_in_flight(run: &ClusterRun, stage: u64) -> f64 {
    let (p, v, m) = (
        run.layout.pipeline as f64,
        run.layout.interleave as f64,
        run.micro_batches().max(1) as f64,
    );
    let per_stage = run.stage_layers() as f64;
    let behind = (run.layout.pipeline - 1 - stage) as f64;
    match run.layout.schedule {
        Schedule::Gpipe => per_stage * m,
        Schedule::OneForwardOneBackward | Schedule::ZeroBubble => per_stage * m.min(behind + 1.0),
        // Narayanan et al. 2021: p·(v−1) + 2·(p − 1 − stage) + 1 chunks warm up a device.
        Schedule::Interleaved => {
            let chunks = (p * (v - 1.0) + 2.0 * behind + 1.0).min(m * v);
            per_stage / v * chunks
        }
    }
}

/// Bytes of activations that the backward pass of one layer reads, for each token of a device.
///
/// Korthikanti et al.'s 34·h + 5·a·s for GPT (with the masks of its dropout), of which 10·h is not
/// divided by tensor parallelism unless the sequence is; a gated feed-forward keeps gate, up and
/// product, and has no dropout.
pub fn activation_bytes_per_token(run: &ClusterRun, recompute: Recompute) -> f64 {
    let (model, layout) = (&run.model, &run.layout);
    let tensor = layout.tensor as f64;
    let hidden = model.hidden_size as f64;
    let whole_divisor = if layout.sequence_parallel { tensor } else { 1.0 };
    if recompute == Recompute::Full {
        return 2.0 * hidden / whole_divisor;
    }
    let queries = (model.heads * model.head_dim) as f64;
    let keys = (model.kv_heads * model.head_dim) as f64;
    let ffn = model.ffn_size as f64;
    if recompute == Recompute::Alternate {
        // The layer's input and output of query, value, gate and down products, and of attention.
        return 2.0 * hidden / whole_divisor
            + 2.0 * (hidden / whole_divisor + (2.0 * queries + keys + ffn) / tensor);
    }
    // Inputs of two norms and of the two blocks; masks of two dropouts.
    let masks = if model.gated_ffn { 0.0 } else { 2.0 * hidden };
    let whole = 8.0 * hidden + masks;
    let kept_ffn = if model.gated_ffn { 3.0 } else { 2.0 };
    let shared = 2.0 * (2.0 * queries + 2.0 * keys) + 2.0 * kept_ffn * ffn;
    let scores = match recompute {
        // Softmax's output; with dropout its mask and the dropped values too.
        Recompute::None => {
            let bytes = if model.gated_ffn { 2.0 } else { 5.0 };
            bytes * (model.heads * run.batch.sequence_length) as f64
        }
        _ => 0.0,
    };
    whole / whole_divisor + (shared + scores) / tensor
}

/// Bytes for each token of the two blocks' inputs while sequence parallelism has them gathered.
fn gathered_inputs(run: &ClusterRun) -> f64 {
    let shared = run.layout.sequence_parallel && run.layout.tensor > 1;
    if shared { 4.0 * run.model.hidden_size as f64 } else { 0.0 }
}

/// Parameters outside the layers on a device of a stage: input embedding and positions on the first, final norm
/// and output projection on the last. A tied projection on another device than the embedding is a
/// second copy.
fn end_parameters(run: &ClusterRun, first: bool, last: bool) -> f64 {
    let (model, tensor) = (&run.model, run.layout.tensor as f64);
    let embedding = model.embedding_parameters();
    let (mut input, mut output) = (0, 0);
    if first {
        input += embedding + model.positions * model.hidden_size;
    }
    if last {
        output += model.hidden_size * if model.biases { 2 } else { 1 };
        if !(first && model.tie_embeddings) {
            output += embedding;
        }
    }
    let shared = if run.layout.vocabulary_parallel { tensor } else { 1.0 };
    input as f64 / shared + output as f64 / tensor
}

fn states(run: &ClusterRun, matrices: f64, others: f64) -> States {
    let formats = &run.formats;
    let parameters = matrices + others;
    let weights = parameters * formats.weight_bytes as f64;
    let gradients = parameters * formats.gradient_bytes as f64;
    let optimizer =
        matrices * formats.matrix_state_bytes as f64 + others * formats.other_state_bytes as f64;
    let shards = run.layout.shards() as f64;
    let shared = |stage: ZeroStage, value: f64| {
        bytes(if run.layout.zero >= stage { value / shards } else { value })
    };
    let summed = run.layout.zero >= ZeroStage::ParametersSummed && run.micro_batches() > 1;
    States {
        weights: shared(ZeroStage::Parameters, weights),
        gradients: if summed { bytes(gradients) } else { shared(ZeroStage::Gradients, gradients) },
        optimizer: shared(ZeroStage::Optimizer, optimizer),
    }
}

fn bytes(value: f64) -> Bytes {
    Bytes(value.max(0.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device, ModelShape,
        layout::{Batch, Layout, NumberFormats},
    };

    const GIB: f64 = (1u64 << 30) as f64;

    /// Layouts of figure 1 of arXiv:2205.05198; tensor parallel 8 throughout.
    fn korthikanti(name: &str, pipeline: u64, interleave: u64, micro_batch: u64) -> ClusterRun {
        ClusterRun {
            model: ModelShape::published(name).unwrap(),
            device: Device::named("a100-80g").unwrap(),
            layout: Layout {
                tensor: 8,
                pipeline,
                interleave,
                micro_batch,
                recompute: Recompute::None,
                schedule: if interleave > 1 {
                    Schedule::Interleaved
                } else {
                    Schedule::OneForwardOneBackward
                },
                ..Layout::SINGLE
            },
            batch: Batch { sequence_length: 2048, sequences: micro_batch * pipeline * 8 },
            formats: NumberFormats::MEGATRON,
        }
    }

    #[test]
    fn states_and_activations_are_those_that_korthikanti_et_al_measured() {
        let check = |run: ClusterRun, states: f64, none: f64, selective: f64| {
            run.check().unwrap();
            let near = |value: Bytes, expect: f64, tolerance: f64| {
                let gib = value.0 as f64 / GIB;
                assert!((gib / expect - 1.0).abs() < tolerance, "{gib} for {expect}");
            };
            let memory = stage_memory(&run, 0);
            // The paper's states leave out norms and biases, a thousandth.
            near(memory.layers.total(), states, 2e-3);
            near(memory.activations, none, 1e-6);
            let mut run = run;
            run.layout.recompute = Recompute::Selective;
            run.layout.sequence_parallel = true;
            near(stage_memory(&run, 0).activations, selective, 1e-6);
        };
        check(korthikanti("megatron-22b", 1, 1, 4), 45.5625, 59.25, 9.5625);
        check(korthikanti("gpt3-175b", 8, 3, 1), 45.5625, 66.84375, 12.351_562_5);
        check(korthikanti("mt-nlg-530b", 35, 3, 1), 31.640_625, 114.023_437_5, 23.076_171_875);
        check(korthikanti("megatron-1t", 64, 1, 1), 32.958_984_375, 131.25, 26.5625);
    }

    #[test]
    fn tensors_are_never_more_than_their_uses_and_whole_vocabularies_take_more() {
        let mut run = korthikanti("gpt3-175b", 1, 1, 1);
        run.layout.zero = ZeroStage::Parameters;
        run.layout.data = 64;
        run.batch.sequences = 64;
        let mut last = 0;
        for (recompute, whole) in
            [(Recompute::Full, false), (Recompute::Full, true), (Recompute::Selective, true)]
        {
            run.layout.recompute = recompute;
            run.layout.vocabulary_parallel = !whole;
            let memory = cluster_memory(&run);
            let states = memory.layers.total().0 + memory.embeddings.total().0;
            assert!(memory.allocated > Bytes(states), "{memory:?}");
            assert!(memory.allocated <= memory.tensors(), "{memory:?}");
            assert!(memory.allocated.0 > last, "{memory:?}");
            last = memory.allocated.0;
        }
    }

    #[test]
    fn zero_stages_take_what_their_paper_says() {
        // Bytes for each parameter with 64 replicas: 16, 4 + 12/d, 2 + 14/d, 16/d.
        let mut run = korthikanti("gpt2-xl", 1, 1, 1);
        run.layout = Layout { data: 64, ..Layout::SINGLE };
        run.formats = NumberFormats::MIXED;
        let mut check = |zero: ZeroStage, expect: f64| {
            run.layout.zero = zero;
            let memory = stage_memory(&run, 0);
            let states = memory.layers.total().0 + memory.embeddings.total().0;
            let per_parameter = states as f64 / run.model.parameters() as f64;
            assert!((per_parameter - expect).abs() < 1e-6, "{zero:?} {per_parameter}");
        };
        check(ZeroStage::None, 16.0);
        check(ZeroStage::Optimizer, 4.0 + 12.0 / 64.0);
        check(ZeroStage::Gradients, 2.0 + 14.0 / 64.0);
        check(ZeroStage::Parameters, 16.0 / 64.0);
    }
}

//! How a model's training is laid on many devices, and which layouts are possible.
//!
//! It knows sizes and rules, neither memory nor time: those are in `cluster_memory` and `step`.
//! Letters in formulas: d data, t tensor, p pipeline, c context parallel; v layer chunks of a device;
//! m micro-batches of a replica; s tokens of a sequence; b sequences of a micro-batch.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Device, Dtype, ModelShape, PlanError};

/// What data-parallel replicas share out (Rajbhandari et al. 2020, arXiv:1910.02054).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroStage {
    /// Every replica holds everything.
    None,
    /// Optimiser states (ZeRO-1).
    Optimizer,
    /// Optimiser states and gradients (ZeRO-2).
    Gradients,
    /// Everything; weights are gathered layer by layer, twice a micro-batch (ZeRO-3, FSDP).
    Parameters,
    /// The same, but gradients of several micro-batches are summed whole on each device and shared
    /// out once a step (FSDP with gradient synchronisation off until the last micro-batch).
    ParametersSummed,
    /// The same, and weights stay gathered from the first micro-batch to the last (FSDP under a
    /// pipeline).
    ParametersGathered,
}

/// What the backward pass computes again instead of keeping
/// (Korthikanti et al. 2022, arXiv:2205.05198).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing: attention scores are stored.
    None,
    /// The attention core: selective recomputation, or flash attention, which does the same.
    Selective,
    /// Attention core and every second matrix product, as `TorchTitan`'s selective mode by operation.
    Alternate,
    /// Whole layers from their input.
    Full,
}

/// Order of forward and backward passes in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// All forward passes, then all backward passes (Huang et al. 2019, arXiv:1811.06965).
    Gpipe,
    /// One forward, one backward (Narayanan et al. 2019; 2021, arXiv:2104.04473).
    #[serde(rename = "1f1b")]
    OneForwardOneBackward,
    /// The same over several layer chunks of each device (arXiv:2104.04473, section 2.2.2).
    Interleaved,
    /// Gradients of weights fill the bubble: ZB-H1 (Qi et al. 2023, arXiv:2401.10241).
    #[serde(rename = "zero-bubble")]
    ZeroBubble,
}

/// Reads a name of an enumeration as tables and flags write it.
fn parse<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, PlanError> {
    let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        serde::de::IntoDeserializer::into_deserializer(text);
    T::deserialize(name).map_err(|error| {
        // serde lists the names there are.
        bad(format!("{what}: {error}"), "choose one of those".to_owned())
    })
}

macro_rules! from_text {
    ($($name:ty, $what:literal;)*) => {$(
        impl FromStr for $name {
            type Err = PlanError;

            fn from_str(text: &str) -> Result<Self, PlanError> {
                parse($what, text)
            }
        }
    )*};
}

from_text! {
    ZeroStage, "what replicas share out";
    Recompute, "what is computed again";
    Schedule, "schedule";
    AttentionKernel, "attention kernel";
    Dtype, "number format";
}

impl Schedule {
    /// Its name in flags and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpipe => "gpipe",
            Self::OneForwardOneBackward => "1f1b",
            Self::Interleaved => "interleaved",
            Self::ZeroBubble => "zero-bubble",
        }
    }
}

/// Generation of the fused attention kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKernel {
    /// Made for the device's generation: `FlashAttention`-3 or cuDNN on Hopper.
    Current,
    /// Made for the one before: `FlashAttention`-2 on Hopper.
    Previous,
}

impl AttentionKernel {
    /// Speed relative to the current kernel.
    ///
    /// Shah et al. 2024 (arXiv:2407.08608): on H100 `FlashAttention`-3 is 1.5 to 2.0 times as fast as
    /// `FlashAttention`-2 forward and 1.5 to 1.75 times backward; here the middle of both.
    pub fn relative_speed(self) -> f64 {
        match self {
            Self::Current => 1.0,
            Self::Previous => 0.6,
        }
    }
}

/// Number formats and the bytes that each parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NumberFormats {
    /// Format of the products of linear layers.
    pub compute: Dtype,
    /// Bytes of a weight in that format or of the copy that is gathered.
    pub weight_bytes: u64,
    /// Bytes of a gradient.
    pub gradient_bytes: u64,
    /// Bytes of optimiser states for a parameter of a hidden matrix, with the master copy.
    pub matrix_state_bytes: u64,
    /// Bytes of optimiser states for any other parameter, with the master copy.
    pub other_state_bytes: u64,
    /// Bytes kept for each logit: fp32 value and gradient are 4 each, a bf16 copy 2 more.
    pub logit_bytes: u64,
}

impl NumberFormats {
    /// Formats by their name in flags.
    ///
    /// # Errors
    /// [`PlanError::BadLayout`] names those there are.
    pub fn named(name: &str) -> Result<Self, PlanError> {
        match name {
            "mixed" => Ok(Self::MIXED),
            "megatron" => Ok(Self::MEGATRON),
            "fsdp" => Ok(Self::FSDP),
            "bf16-states" => Ok(Self::BF16_STATES),
            "muon" => Ok(Self::MUON),
            "fp32" => Ok(Self::FP32),
            _ => Err(bad(
                format!("there are no states {name:?}"),
                "choose mixed, megatron, fsdp, bf16-states, muon or fp32".to_owned(),
            )),
        }
    }

    /// bf16 weights and gradients, `AdamW` with fp32 master copy: 16 bytes for each parameter.
    pub const MIXED: Self = Self {
        compute: Dtype::Bf16,
        weight_bytes: 2,
        gradient_bytes: 2,
        matrix_state_bytes: 12,
        other_state_bytes: 12,
        logit_bytes: 8,
    };
    /// As [`Self::MIXED`] with fp32 gradients: Megatron's 18 bytes for each parameter.
    pub const MEGATRON: Self = Self { gradient_bytes: 4, logit_bytes: 4, ..Self::MIXED };
    /// FSDP with fp32 shards of weights, gradients and `AdamW` states: 16 bytes for each parameter, of
    /// which the gathered copy's 2 are written as weights; gradients are shared out in fp32.
    pub const FSDP: Self =
        Self { gradient_bytes: 4, matrix_state_bytes: 10, other_state_bytes: 10, ..Self::MIXED };
    /// bf16 weights, gradients and both `AdamW` states without master copy: 8 bytes.
    pub const BF16_STATES: Self =
        Self { matrix_state_bytes: 4, other_state_bytes: 4, ..Self::MIXED };
    /// Muon for hidden matrices (master copy and one momentum, 8 bytes), `AdamW` for the others.
    pub const MUON: Self = Self { matrix_state_bytes: 8, ..Self::MIXED };
    /// fp32 throughout.
    pub const FP32: Self = Self {
        compute: Dtype::Fp32,
        weight_bytes: 4,
        gradient_bytes: 4,
        matrix_state_bytes: 8,
        other_state_bytes: 8,
        logit_bytes: 8,
    };
}

/// Degrees of parallelism and what goes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Replicas that see different sequences.
    pub data: u64,
    /// Devices that share each matrix.
    pub tensor: u64,
    /// Pipeline stages.
    pub pipeline: u64,
    /// Devices that share each sequence.
    pub context: u64,
    /// Whether norms and residuals are shared along the sequence by the tensor-parallel devices.
    pub sequence_parallel: bool,
    /// Whether tensor-parallel communication runs beside the products it feeds.
    pub overlap_tensor: bool,
    /// Whether tensor-parallel products of the same input share one gather of it and one sum of its
    /// gradients; where not, query, key, value, gate and up products have their own.
    pub joint_inputs: bool,
    /// Whether tensor-parallel devices share the input embedding and keep logits shared out; where
    /// not, each has the whole embedding and gathers all logits.
    pub vocabulary_parallel: bool,
    /// Whether a compiler, or kernels written by hand, fuse elementwise operations.
    pub compiled: bool,
    /// What replicas share out.
    pub zero: ZeroStage,
    /// What is computed again.
    pub recompute: Recompute,
    /// Which fused attention kernel runs, where one does.
    pub attention: AttentionKernel,
    /// Sequences of a micro-batch.
    pub micro_batch: u64,
    /// Layer chunks of each device; 1 unless the schedule is interleaved.
    pub interleave: u64,
    /// Order of passes.
    pub schedule: Schedule,
}

impl Layout {
    /// One device, micro-batches of one sequence, flash attention.
    pub const SINGLE: Self = Self {
        data: 1,
        tensor: 1,
        pipeline: 1,
        context: 1,
        sequence_parallel: false,
        overlap_tensor: false,
        joint_inputs: true,
        vocabulary_parallel: true,
        compiled: true,
        zero: ZeroStage::None,
        recompute: Recompute::Selective,
        attention: AttentionKernel::Current,
        micro_batch: 1,
        interleave: 1,
        schedule: Schedule::OneForwardOneBackward,
    };

    /// All devices.
    pub fn devices(&self) -> u64 {
        self.data * self.tensor * self.pipeline * self.context
    }

    /// Devices among which ZeRO shares out.
    pub fn shards(&self) -> u64 {
        self.data * self.context
    }
}

/// Sequences of one optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Tokens of a sequence.
    pub sequence_length: u64,
    /// Sequences of one step over all replicas.
    pub sequences: u64,
}

impl Batch {
    /// Tokens of one step.
    pub fn tokens(&self) -> u64 {
        self.sequence_length * self.sequences
    }
}

/// One training job on a cluster: what memory and time are planned for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterRun {
    /// The model.
    pub model: ModelShape,
    /// The device, of which there are [`Layout::devices`].
    pub device: Device,
    /// How the model lies on them.
    pub layout: Layout,
    /// Sequences of a step.
    pub batch: Batch,
    /// Number formats.
    pub formats: NumberFormats,
}

impl ClusterRun {
    /// Micro-batches that each replica runs in a step.
    pub fn micro_batches(&self) -> u64 {
        self.batch.sequences / (self.layout.data * self.layout.micro_batch)
    }

    /// Tokens of a micro-batch on one context-parallel device.
    pub fn micro_batch_tokens(&self) -> f64 {
        (self.layout.micro_batch * self.batch.sequence_length) as f64 / self.layout.context as f64
    }

    /// Layers of the fullest stage.
    pub fn stage_layers(&self) -> u64 {
        self.model.layers.div_ceil(self.layout.pipeline)
    }

    /// Refuses what cannot be laid out; the error says which degree contradicts what.
    pub fn check(&self) -> Result<(), PlanError> {
        self.model.check()?;
        let Layout { data, tensor, pipeline, context, micro_batch, interleave, .. } = self.layout;
        let degrees = [
            ("data parallel", data),
            ("tensor parallel", tensor),
            ("pipeline", pipeline),
            ("context parallel", context),
            ("micro-batch", micro_batch),
            ("interleave", interleave),
            ("sequence length", self.batch.sequence_length),
            ("batch", self.batch.sequences),
        ];
        for (name, value) in degrees {
            if value == 0 || value > 1 << 24 {
                return Err(bad(
                    format!("{name} is {value}"),
                    format!("give a number from 1 to {}", 1 << 24),
                ));
            }
        }
        let devices = u128::from(data) * u128::from(tensor) * u128::from(pipeline * context);
        if devices > 1 << 24 {
            return Err(bad(
                format!("the degrees make {devices} devices"),
                format!("plan for at most {}", 1 << 24),
            ));
        }
        self.check_model()?;
        self.check_batch()
    }

    fn check_model(&self) -> Result<(), PlanError> {
        let Layout { tensor, pipeline, interleave, schedule, .. } = self.layout;
        let model = &self.model;
        if !model.heads.is_multiple_of(tensor) || !model.ffn_size.is_multiple_of(tensor) {
            return Err(bad(
                format!(
                    "tensor parallel {tensor} divides not both {} heads and feed-forward {}",
                    model.heads, model.ffn_size
                ),
                "choose a common divisor".to_owned(),
            ));
        }
        if !model.kv_heads.is_multiple_of(tensor) && !tensor.is_multiple_of(model.kv_heads) {
            return Err(bad(
                format!(
                    "tensor parallel {tensor} and {} key/value heads do not divide each other",
                    model.kv_heads
                ),
                "choose a tensor degree that does".to_owned(),
            ));
        }
        if pipeline * interleave > model.layers {
            return Err(bad(
                format!(
                    "{pipeline} stages of {interleave} chunks are more than {} layers",
                    model.layers
                ),
                format!("keep pipeline x interleave at or below {}", model.layers),
            ));
        }
        if (schedule == Schedule::Interleaved) != (interleave > 1) {
            return Err(bad(
                format!("schedule {} with interleave {interleave}", schedule.name()),
                "the interleaved schedule has two or more chunks, the others one".to_owned(),
            ));
        }
        self.device.peak(self.formats.compute).map(|_| ())
    }

    fn check_batch(&self) -> Result<(), PlanError> {
        let Layout { data, tensor, pipeline, context, micro_batch, .. } = self.layout;
        let Batch { sequence_length, sequences } = self.batch;
        if !sequences.is_multiple_of(data * micro_batch) {
            return Err(bad(
                format!(
                    "a batch of {sequences} sequences is no multiple of data {data} x micro-batch \
                     {micro_batch}"
                ),
                format!("take {}", sequences.next_multiple_of(data * micro_batch)),
            ));
        }
        let cuts = if context > 1 { 2 * context } else { 1 };
        let cuts = if self.layout.sequence_parallel { cuts * tensor } else { cuts };
        if !sequence_length.is_multiple_of(cuts) {
            return Err(bad(
                format!("a sequence of {sequence_length} tokens is not cut evenly into {cuts}"),
                format!("take {}", sequence_length.next_multiple_of(cuts)),
            ));
        }
        if self.layout.interleave > 1 && !self.micro_batches().is_multiple_of(pipeline) {
            return Err(bad(
                format!(
                    "the interleaved schedule runs micro-batches in groups of {pipeline} stages, \
                     but there are {}",
                    self.micro_batches()
                ),
                "choose a batch with a multiple of the stages".to_owned(),
            ));
        }
        Ok(())
    }
}

fn bad(problem: String, remedy: String) -> PlanError {
    PlanError::BadLayout { problem, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(change: impl FnOnce(&mut ClusterRun)) -> ClusterRun {
        let mut run = ClusterRun {
            model: ModelShape::published("llama3-70b").unwrap(),
            device: Device::named("h100-sxm").unwrap(),
            layout: Layout { data: 4, tensor: 8, pipeline: 4, ..Layout::SINGLE },
            batch: Batch { sequence_length: 8192, sequences: 128 },
            formats: NumberFormats::MIXED,
        };
        change(&mut run);
        run
    }

    fn refused(change: impl FnOnce(&mut ClusterRun), expect: &str) {
        let error = run(change).check().unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn degrees_that_divide_are_accepted() {
        let run = run(|_| ());
        run.check().unwrap();
        assert_eq!((run.layout.devices(), run.micro_batches(), run.stage_layers()), (128, 32, 20));
    }

    #[test]
    fn contradictions_are_refused_with_what_would_be_enough() {
        refused(|run| run.layout.tensor = 3, "choose a common divisor");
        refused(|run| run.layout.pipeline = 81, "more than 80 layers");
        refused(|run| run.layout.data = 0, "data parallel is 0");
        refused(|run| run.batch.sequences = 30, "take 32");
        refused(|run| run.layout.interleave = 2, "the interleaved schedule has two or more");
        refused(
            |run| {
                run.device = Device::named("rtx3090").unwrap();
                run.formats.compute = Dtype::Fp8;
            },
            "no matrix units for fp8",
        );
        refused(
            |run| {
                run.layout.schedule = Schedule::Interleaved;
                run.layout.interleave = 2;
                run.batch.sequences = 24;
            },
            "groups of 4 stages",
        );
    }
}

//! What a recipe says about training.
//!
//! It knows names, defaults and what makes no sense; the machine's limits are the planner's.

use milpa_base::{Mixture, Steps};
use milpa_tensor::DType;
use milpa_tokens::Packing;
use serde::{Deserialize, Serialize};

use crate::{
    average::AverageConfig,
    base::AdapterConfig,
    forgetting::ForgettingConfig,
    mup::MupConfig,
    retention::plateau_end,
    schedule::{Curve, Schedule},
    stability::StabilityConfig,
    stages::{ReplayConfig, StageConfig},
};

/// The `[train]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: Steps,
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// Sequences per optimiser step.
    pub batch_size: usize,
    /// Sequences whose activations are in memory at once; the batch by default. Gradients of the
    /// micro-batches of one step are summed before the optimiser acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// What products, attention and activations are computed in; weights, the optimiser and sums are
    /// f32 either way.
    #[serde(default)]
    pub precision: Precision,
    /// Shares of the sources in the training stream; by size if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture: Option<Mixture>,
    /// How the text of a run in stages is cut into sequences.
    #[serde(default, skip_serializing_if = "is_windows")]
    pub packing: Packing,
    /// Stages one after the other, each with its mixture, budget, order and learning rate; without
    /// them the whole run is one stage with the mixture above.
    #[serde(default, rename = "stage", skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageConfig>,
    /// Text that takes a share of every stage, so that a continued model does not forget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replay: Vec<ReplayConfig>,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// How gradients become updates.
    pub optimizer: Optimizer,
    /// Takes the learning rates as those of a narrower model and makes them, and the first values of
    /// parameters, right for this width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mup: Option<MupConfig>,
    /// Largest global norm of the gradient; larger ones are scaled down to it. 0 switches it off.
    #[serde(default = "one")]
    pub clip_norm: f64,
    /// Coefficient of the z-loss, a pull on the normaliser of the softmax that keeps logits from
    /// drifting (PaLM, arXiv:2204.02311, section 5), such as 1e-4. The loss shown stays the
    /// cross-entropy. 0 switches it off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub z_loss: f64,
    /// Whether harmful steps are skipped and undone; a loss that is no number ends the run if left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stability: Option<StabilityConfig>,
    /// A low-rank adapter is trained beside the frozen weights of the base, instead of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<AdapterConfig>,
    /// An average of the weights over the steps, kept beside them and written as a checkpoint of its
    /// own at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<AverageConfig>,
    /// What is forgotten and learned since the base, measured while training, and kept below a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<ForgettingConfig>,
    /// A checkpoint after every so many steps.
    pub checkpoint_every: Steps,
    /// How many checkpoints stay beside the final one: the last so many.
    #[serde(default = "two")]
    pub keep_checkpoints: usize,
    /// Checkpoints at multiples of so many steps stay as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<Steps>,
    /// The checkpoint with the lowest mean bits per byte of the validation split stays as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_best: bool,
    /// The last checkpoint before the learning rate leaves its plateau stays as well: a longer run
    /// or another decay can begin there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_plateau: bool,
    /// Validation loss after every so many steps.
    pub validate_every: Steps,
    /// Sequences of the validation split that each such measurement reads.
    #[serde(default = "thirty_two")]
    pub validation_sequences: usize,
}

/// The type of what goes into products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Mixed precision (arXiv:1905.12322): 1.8 times as fast on a Zen 5, which multiplies bf16
    /// (`milpa doctor` tells); no faster on processors that do not.
    Bf16,
}

impl Precision {
    /// Its name in recipes and records: "f32" or "bf16".
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The type for [`milpa_model::Decoder::autocast`].
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// How gradients become updates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// AdamW for all parameters (Loshchilov and Hutter 2019, arXiv:1711.05101).
    AdamW {
        /// Full learning rate.
        learning_rate: f64,
        /// Decay of the first moment.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Decay of the second moment.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root of the second moment.
        #[serde(default = "epsilon")]
        epsilon: f64,
        /// Decoupled weight decay of matrices; norms have none.
        #[serde(default = "weight_decay")]
        weight_decay: f64,
        /// What the moments are kept in between steps.
        #[serde(default)]
        state_precision: Precision,
    },
    /// Lion for all parameters (Chen and others 2023, arXiv:2302.06675): steps of one size against the
    /// sign of the momentum, and one state for each parameter. Its authors take a learning rate three
    /// to ten times smaller than AdamW's and a weight decay larger by as much.
    Lion {
        /// Full learning rate.
        learning_rate: f64,
        /// Weight of the momentum in the direction of a step.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Decay of the momentum.
        #[serde(default = "lion_beta2")]
        beta2: f64,
        /// Decoupled weight decay of matrices; norms have none.
        #[serde(default = "lion_weight_decay")]
        weight_decay: f64,
        /// What the momentum is kept in between steps.
        #[serde(default)]
        state_precision: Precision,
    },
    /// Muon for hidden matrices (Jordan 2024, kellerjordan.github.io/posts/muon), AdamW for
    /// embeddings and norms.
    Muon {
        /// Full learning rate of the hidden matrices.
        learning_rate: f64,
        /// Decay of the momentum.
        #[serde(default = "momentum")]
        momentum: f64,
        /// Newton–Schulz iterations.
        #[serde(default = "five")]
        iterations: usize,
        /// Decoupled weight decay of hidden matrices.
        #[serde(default = "weight_decay")]
        weight_decay: f64,
        /// Full learning rate of AdamW for embeddings and norms.
        embedding_learning_rate: f64,
        /// AdamW's decay of the first moment.
        #[serde(default = "beta1")]
        beta1: f64,
        /// AdamW's decay of the second moment.
        #[serde(default = "beta2")]
        beta2: f64,
        /// AdamW's addition to the root of the second moment.
        #[serde(default = "epsilon")]
        epsilon: f64,
        /// What momentum and moments are kept in between steps.
        #[serde(default)]
        state_precision: Precision,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_windows(packing: &Packing) -> bool {
    *packing == Packing::Windows
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}
fn one() -> f64 {
    1.0
}
fn two() -> usize {
    2
}
fn five() -> usize {
    5
}
fn thirty_two() -> usize {
    32
}
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.95
}
fn lion_beta2() -> f64 {
    0.99
}
fn lion_weight_decay() -> f64 {
    0.3
}
fn epsilon() -> f64 {
    1e-8
}
fn weight_decay() -> f64 {
    0.1
}
fn momentum() -> f64 {
    0.95
}

/// Slowest decay of a state in bf16: it has eight bits, so a change of less than 1/256 is rounded
/// away, and a state that decays by less than that would never fall.
const SLOWEST_BF16_DECAY: f64 = 0.99;

impl Optimizer {
    /// Floats of 32 bits kept for each parameter of a hidden matrix, rounded up.
    pub fn states_per_matrix_parameter(&self) -> u64 {
        self.kept_in_f32(match self {
            Self::AdamW { .. } => 2,
            Self::Lion { .. } | Self::Muon { .. } => 1,
        })
    }

    /// Floats of 32 bits kept for each parameter of the embedding and the norms, rounded up.
    pub fn states_per_other_parameter(&self) -> u64 {
        self.kept_in_f32(match self {
            Self::AdamW { .. } | Self::Muon { .. } => 2,
            Self::Lion { .. } => 1,
        })
    }

    fn kept_in_f32(&self, states: u64) -> u64 {
        match self.state_precision() {
            Precision::F32 => states,
            Precision::Bf16 => states.div_ceil(2),
        }
    }

    /// What the state is kept in between steps.
    pub fn state_precision(&self) -> Precision {
        match *self {
            Self::AdamW { state_precision, .. }
            | Self::Lion { state_precision, .. }
            | Self::Muon { state_precision, .. } => state_precision,
        }
    }

    /// Decays of the states.
    fn decays(&self) -> Vec<f64> {
        match *self {
            Self::AdamW { beta1, beta2, .. } => vec![beta1, beta2],
            // The other beta only weighs the momentum in a step.
            Self::Lion { beta2, .. } => vec![beta2],
            Self::Muon { momentum, beta1, beta2, .. } => vec![momentum, beta1, beta2],
        }
    }

    /// The full learning rate shown to people: that of the hidden matrices.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::AdamW { learning_rate, .. }
            | Self::Lion { learning_rate, .. }
            | Self::Muon { learning_rate, .. } => *learning_rate,
        }
    }
}

impl TrainConfig {
    /// Sequences in memory at once, at most.
    pub fn micro_batch_size(&self) -> usize {
        self.micro_batch_size.unwrap_or(self.largest_batch())
    }

    /// Which checkpoints stay.
    fn validate_keeping(&self, curve: &Curve) -> Result<(), (&'static str, String)> {
        let every = self.checkpoint_every.0;
        if let Some(Steps(keep)) = self.keep_every
            && (keep == 0 || !keep.is_multiple_of(every))
        {
            return Err((
                "train.keep_every",
                format!("it is {keep}, but it has to be a multiple of checkpoint_every, {every}"),
            ));
        }
        if self.keep_best && !every.is_multiple_of(self.validate_every.0) {
            return Err((
                "train.keep_best",
                format!(
                    "it needs a validation at each checkpoint: let validate_every, which is {}, \
                     divide checkpoint_every, which is {every}",
                    self.validate_every.0
                ),
            ));
        }
        if self.keep_plateau && plateau_end(curve, self.steps).is_none() {
            return Err((
                "train.keep_plateau",
                "this schedule never stays at one learning rate; take warmup_stable_decay".into(),
            ));
        }
        Ok(())
    }

    /// Finds what makes no sense: the dotted key and what is wrong with it.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let positive = |key, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err((key, format!("it is {value}, but it has to be above zero")))
            }
        };
        positive("train.steps", self.steps.0 as f64)?;
        positive("train.sequence_length", self.sequence_length as f64)?;
        positive("train.batch_size", self.batch_size as f64)?;
        positive("train.checkpoint_every", self.checkpoint_every.0 as f64)?;
        positive("train.validate_every", self.validate_every.0 as f64)?;
        positive("train.micro_batch_size", self.micro_batch_size() as f64)?;
        if self.micro_batch_size.is_some_and(|micro| !self.batch_size.is_multiple_of(micro)) {
            return Err((
                "train.micro_batch_size",
                format!("it has to divide train.batch_size, which is {}", self.batch_size),
            ));
        }
        if !(self.clip_norm.is_finite() && self.clip_norm >= 0.0) {
            return Err(("train.clip_norm", format!("it is {}", self.clip_norm)));
        }
        let share = |value: f64| (0.0..=1.0).contains(&value);
        if !share(self.z_loss) {
            return Err((
                "train.z_loss",
                format!("it is {}; usual is 1e-4, at most 1", self.z_loss),
            ));
        }
        if let Some(stability) = &self.stability {
            stability
                .validate(self.checkpoint_every.0, self.keep_checkpoints)
                .map_err(|problem| ("train.stability", problem))?;
        }
        self.validate_stages().map_err(|problem| ("train.stage", problem))?;
        self.validate_forgetting().map_err(|problem| ("train.forgetting", problem))?;
        let curve = self.curve().map_err(|problem| ("train.schedule", problem))?;
        self.validate_keeping(&curve)?;
        let (rates, shares) = match self.optimizer {
            Optimizer::AdamW { learning_rate, beta1, beta2, weight_decay, .. }
            | Optimizer::Lion { learning_rate, beta1, beta2, weight_decay, .. } => {
                ([learning_rate, learning_rate], [beta1, beta2, weight_decay])
            }
            Optimizer::Muon {
                learning_rate,
                embedding_learning_rate,
                momentum,
                beta1,
                weight_decay,
                ..
            } => ([learning_rate, embedding_learning_rate], [momentum, beta1, weight_decay]),
        };
        for rate in rates {
            positive("train.optimizer", rate)?;
        }
        if let Some(bad) = shares.into_iter().find(|value| !share(*value)) {
            return Err((
                "train.optimizer",
                format!("{bad} is out of range: betas, momentum and weight decay are 0 to 1"),
            ));
        }
        let slowest = self.optimizer.decays().into_iter().fold(0.0, f64::max);
        if self.optimizer.state_precision() == Precision::Bf16 && slowest > SLOWEST_BF16_DECAY {
            return Err((
                "train.optimizer",
                format!(
                    "a state that decays by {slowest} stands still in bf16: choose betas and \
                     momentum up to {SLOWEST_BF16_DECAY}, or state_precision = \"f32\""
                ),
            ));
        }
        if let Some(AverageConfig { decay }) = self.average
            && !(decay > 0.0 && decay < 1.0)
        {
            return Err((
                "train.average",
                format!("decay is {decay}; it is above 0 and below 1, such as 0.999"),
            ));
        }
        if let Some(mixture) = &self.mixture {
            mixture.normalised().map_err(|error| ("train.mixture", error.to_string()))?;
        }
        Ok(())
    }
}

//! What a recipe says about training.
//!
//! It knows names, defaults and what makes no sense; the machine's limits are the planner's.

use milpa_base::{Bytes, Mixture, Steps};
use milpa_model::DEFAULT_MAX_SHARD_SIZE;
use milpa_tensor::DType;
use milpa_tokens::{MAX_BATCH_TOKENS, Packing};
use serde::{Deserialize, Serialize};

use crate::{
    average::AverageConfig,
    base::AdapterConfig,
    decay::DecayGroups,
    forgetting::ForgettingConfig,
    mup::MupConfig,
    retention::plateau_checkpoints,
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
    /// The last checkpoint of each plateau, a stretch at one learning rate, stays as well: a longer
    /// run or another decay can begin there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_plateau: bool,
    /// The most bytes of tensors that a file of a checkpoint holds: a larger one is split into shards with
    /// an index, as Hugging Face's `save_pretrained` does. It may change between two runs.
    #[serde(default = "five_gigabytes", skip_serializing_if = "is_five_gigabytes")]
    pub max_shard_size: Bytes,
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
        /// Decoupled weight decay.
        #[serde(default = "weight_decay")]
        weight_decay: f64,
        /// What decays: matrices of the layers, embedding and output layer if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight_decay_on: Option<DecayGroups>,
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
        /// Decoupled weight decay.
        #[serde(default = "lion_weight_decay")]
        weight_decay: f64,
        /// What decays: matrices of the layers, embedding and output layer if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight_decay_on: Option<DecayGroups>,
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
        /// Decoupled weight decay, multiplied by the rate of what it acts on.
        #[serde(default = "weight_decay")]
        weight_decay: f64,
        /// What decays: the hidden matrices if left out, as with Muon's author.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight_decay_on: Option<DecayGroups>,
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
fn five_gigabytes() -> Bytes {
    DEFAULT_MAX_SHARD_SIZE
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_five_gigabytes(size: &Bytes) -> bool {
    *size == DEFAULT_MAX_SHARD_SIZE
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
/// Most Newton–Schulz iterations: five are usual, and each costs three products of matrices.
const MAX_ITERATIONS: usize = 20;
/// Least size of a shard: smaller ones would be headers for the most part.
const LEAST_SHARD_SIZE: Bytes = Bytes(1 << 10);
/// Most tokens of a run, hundreds of times those of the longest there are: up to here every count of
/// samples and tokens is exact as an f64 too, which shares of them are.
const MAX_TOKENS: u64 = 1 << 53;

/// A key that cannot be right, and what is wrong with it.
type Problem = (&'static str, String);

/// Refuses what is no number above zero, as the f32 that it is computed with.
fn above_zero(key: &'static str, value: f64) -> Result<(), Problem> {
    if (value as f32).is_finite() && value as f32 > 0.0 {
        Ok(())
    } else {
        Err((key, format!("it is {value}, but it has to be above zero")))
    }
}

/// Refuses a decay that keeps all of a state, so that it is never corrected, or that is no share. A decay
/// that is 1 as an f32 is one of 1.
fn below_one(key: &'static str, value: f64) -> Result<(), Problem> {
    if value >= 0.0 && (value as f32) < 1.0 {
        Ok(())
    } else {
        Err((key, format!("it is {value}, but it has to be 0 or more and below 1, such as 0.9")))
    }
}

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

    /// What weight decay acts on, where the recipe says it.
    pub fn weight_decay_on(&self) -> Option<DecayGroups> {
        match *self {
            Self::AdamW { weight_decay_on, .. }
            | Self::Lion { weight_decay_on, .. }
            | Self::Muon { weight_decay_on, .. } => weight_decay_on,
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

    /// Finds settings with which no step would be a number, or none would be made.
    fn validate(&self) -> Result<(), Problem> {
        let (Self::AdamW { learning_rate, beta1, beta2, weight_decay, .. }
        | Self::Lion { learning_rate, beta1, beta2, weight_decay, .. }
        | Self::Muon { learning_rate, beta1, beta2, weight_decay, .. }) = *self;
        above_zero("train.optimizer.learning_rate", learning_rate)?;
        below_one("train.optimizer.beta1", beta1)?;
        below_one("train.optimizer.beta2", beta2)?;
        if let Self::AdamW { epsilon, .. } | Self::Muon { epsilon, .. } = *self {
            above_zero("train.optimizer.epsilon", epsilon)?;
        }
        if let Self::Muon { embedding_learning_rate, momentum, iterations, .. } = *self {
            above_zero("train.optimizer.embedding_learning_rate", embedding_learning_rate)?;
            below_one("train.optimizer.momentum", momentum)?;
            if !(1..=MAX_ITERATIONS).contains(&iterations) {
                return Err((
                    "train.optimizer.iterations",
                    format!(
                        "it is {iterations}, but it has to be 1 to {MAX_ITERATIONS}; 5 are usual"
                    ),
                ));
            }
        }
        if self.weight_decay_on().is_some_and(DecayGroups::is_empty) {
            return Err((
                "train.optimizer.weight_decay_on",
                "it is empty: name what decays, of matrices, embeddings, norms and biases, leave it out, \
                 or set weight_decay = 0"
                    .to_owned(),
            ));
        }
        let largest_rate = match *self {
            Self::Muon { embedding_learning_rate, weight_decay_on: Some(_), .. } => {
                learning_rate.max(embedding_learning_rate)
            }
            _ => learning_rate,
        };
        // A step multiplies a weight by one less this product: from 1 on it throws the weight over zero.
        let product = weight_decay * largest_rate;
        if !(weight_decay >= 0.0 && product < 1.0 && (weight_decay as f32).is_finite()) {
            return Err((
                "train.optimizer.weight_decay",
                format!(
                    "it is {weight_decay}, but it has to be 0 or more, and below 1 once it is multiplied \
                     by the learning rate, {largest_rate}"
                ),
            ));
        }
        let slowest = self.decays().into_iter().fold(0.0, f64::max);
        if self.state_precision() == Precision::Bf16 && slowest > SLOWEST_BF16_DECAY {
            return Err((
                "train.optimizer",
                format!(
                    "a state that decays by {slowest} stands still in bf16: choose betas and \
                     momentum up to {SLOWEST_BF16_DECAY}, or state_precision = \"f32\""
                ),
            ));
        }
        Ok(())
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

    /// What a run's key is made of: everything but how checkpoints are cut into files, which changes nothing
    /// in them.
    pub fn in_key(&self) -> Self {
        Self { max_shard_size: DEFAULT_MAX_SHARD_SIZE, ..self.clone() }
    }

    /// Which checkpoints stay.
    fn validate_keeping(&self, curve: &Curve) -> Result<(), Problem> {
        let every = self.checkpoint_every.0;
        if let Some(Steps(keep)) = self.keep_every
            && (keep == 0 || !keep.is_multiple_of(every))
        {
            return Err((
                "train.keep_every",
                format!("it is {keep}, but it has to be a multiple of checkpoint_every, {every}"),
            ));
        }
        if self.keep_best && self.validation_sequences == 0 {
            return Err((
                "train.keep_best",
                "it needs a validation, but validation_sequences is 0: set it to 32, or take keep_best \
                 out"
                .into(),
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
        if self.keep_plateau && plateau_checkpoints(curve, every).is_empty() {
            let longest = curve.plateaus().into_iter().max_by_key(|steps| steps.end - steps.start);
            let problem = match longest {
                None => "this schedule never stays at one learning rate; take warmup_stable_decay"
                    .to_owned(),
                Some(steps) => format!(
                    "no checkpoint falls into a plateau of this schedule, of which the longest is steps {} \
                     to {}: set checkpoint_every, which is {every}, to at most {}",
                    steps.start + 1,
                    steps.end,
                    steps.end - steps.start
                ),
            };
            return Err(("train.keep_plateau", problem));
        }
        Ok(())
    }

    /// The numbers of steps, sequences and tokens: above zero, and few enough to be counted.
    fn validate_sizes(&self) -> Result<(), Problem> {
        for (key, value) in [
            ("train.steps", self.steps.0),
            ("train.sequence_length", self.sequence_length as u64),
            ("train.batch_size", self.batch_size as u64),
            ("train.checkpoint_every", self.checkpoint_every.0),
            ("train.validate_every", self.validate_every.0),
            ("train.micro_batch_size", self.micro_batch_size.unwrap_or(1) as u64),
        ] {
            if value == 0 {
                return Err((key, "it is 0, but it has to be above zero".to_owned()));
            }
        }
        if self.sequence_length > MAX_BATCH_TOKENS {
            let length = self.sequence_length;
            let problem =
                format!("it is {length}, but a step has at most {MAX_BATCH_TOKENS} tokens");
            return Err(("train.sequence_length", problem));
        }
        let problem = |problem| ("train.batch_size", format!("it {problem}"));
        self.check_batch(self.batch_size).map_err(problem)?;
        for stage in &self.stages {
            let problem = |problem| format!("stage {:?}: batch_size {problem}", stage.name);
            let batch_size = stage.batch_size.unwrap_or(self.batch_size);
            self.check_batch(batch_size).map_err(|text| ("train.stage", problem(text)))?;
        }
        let of_a_step = self.largest_batch() as u64 * self.sequence_length as u64;
        let most = MAX_TOKENS / of_a_step;
        if self.steps.0 > most {
            return Err((
                "train.steps",
                format!(
                    "it is {}, but with steps of {of_a_step} tokens only {most} can be counted: set it to \
                     at most that",
                    self.steps.0
                ),
            ));
        }
        if self.micro_batch_size.is_some_and(|micro| !self.batch_size.is_multiple_of(micro)) {
            return Err((
                "train.micro_batch_size",
                format!("it has to divide train.batch_size, which is {}", self.batch_size),
            ));
        }
        Ok(())
    }

    /// Refuses a batch that no loader makes.
    fn check_batch(&self, batch_size: usize) -> Result<(), String> {
        if batch_size == 0 {
            return Err("is 0; it is at least 1".to_owned());
        }
        let tokens = batch_size.checked_mul(self.sequence_length);
        if tokens.is_some_and(|tokens| tokens <= MAX_BATCH_TOKENS) {
            return Ok(());
        }
        Err(format!(
            "is {batch_size}, but a step has at most {MAX_BATCH_TOKENS} tokens: with sequences of {} set \
             it to at most {}",
            self.sequence_length,
            MAX_BATCH_TOKENS / self.sequence_length
        ))
    }

    /// Finds what makes no sense: the dotted key and what is wrong with it.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        self.validate_sizes()?;
        if !(self.clip_norm.is_finite() && self.clip_norm >= 0.0) {
            return Err((
                "train.clip_norm",
                format!(
                    "it is {}, but it has to be 0, which switches it off, or above, such as 1",
                    self.clip_norm
                ),
            ));
        }
        if !(0.0..=1.0).contains(&self.z_loss) {
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
        self.validate_replay().map_err(|problem| ("train.replay", problem))?;
        self.validate_forgetting().map_err(|problem| ("train.forgetting", problem))?;
        let curve = self.curve().map_err(|problem| ("train.schedule", problem))?;
        self.validate_keeping(&curve)?;
        if self.max_shard_size < LEAST_SHARD_SIZE {
            return Err((
                "train.max_shard_size",
                format!(
                    "it is {}, but it has to be at least {LEAST_SHARD_SIZE}; \"5 GB\" is the default",
                    self.max_shard_size
                ),
            ));
        }
        self.optimizer.validate()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A `[train]` table with some of its lines replaced or added.
    fn validate(lines: &str) -> Result<(), Problem> {
        let mut table: toml::Table = toml::from_str(
            "steps = 24\nsequence_length = 16\nbatch_size = 4\ncheckpoint_every = 4\n\
             validate_every = 4\nschedule = { kind = 'constant' }\n\
             optimizer = { kind = 'adam_w', learning_rate = 1e-3 }",
        )
        .unwrap();
        table.extend(toml::from_str::<toml::Table>(lines).unwrap());
        toml::Value::Table(table).try_into::<TrainConfig>().unwrap().validate()
    }

    fn refused(lines: &str, expect: &str) {
        let (key, message) = validate(lines).unwrap_err();
        let told = format!("{key}: {message}");
        assert!(told.starts_with(expect), "{lines}: {told}");
    }

    #[test]
    fn settings_that_make_no_number_are_refused_by_their_key() {
        let optimizer = |kind: &str, settings: &str| {
            format!("optimizer = {{ kind = '{kind}', learning_rate = 1e-3, {settings} }}")
        };
        for kind in ["adam_w", "lion", "muon"] {
            let refused = |settings: &str, expect: &str| {
                let more = if kind == "muon" { "embedding_learning_rate = 1e-3, " } else { "" };
                let lines = optimizer(kind, &format!("{more}{settings}"));
                refused(&lines, &format!("train.optimizer.{expect}"));
            };
            refused("beta1 = 1.0", "beta1: it is 1, but it has to be 0 or more and below 1");
            refused("beta2 = 7.0", "beta2: it is 7,");
            refused("beta2 = nan", "beta2: it is NaN,");
            refused("beta1 = -0.1", "beta1: it is -0.1,");
            // It is 1 in the numbers that a step is computed in.
            refused("beta2 = 0.99999999999", "beta2: it is 0.99999999999,");
            refused("weight_decay = -1.0", "weight_decay: it is -1,");
            refused("weight_decay = inf", "weight_decay: it is inf,");
            refused(
                "weight_decay = 1000.0",
                "weight_decay: it is 1000, but it has to be 0 or more, and below 1 once it is multiplied \
                 by the learning rate, 0.001",
            );
        }
        for settings in ["epsilon = -1.0", "epsilon = 0.0", "epsilon = nan", "epsilon = 1e-60"] {
            refused(&optimizer("adam_w", settings), "train.optimizer.epsilon: it is ");
        }
        let muon = |settings: &str, expect: &str| {
            let lines = optimizer("muon", &format!("embedding_learning_rate = 1e-3, {settings}"));
            refused(&lines, &format!("train.optimizer.{expect}"));
        };
        muon("momentum = 1.0", "momentum: it is 1,");
        muon("iterations = 0", "iterations: it is 0, but it has to be 1 to 20; 5 are usual");
        muon("iterations = 1000000000000", "iterations: it is 1000000000000,");
        muon("epsilon = inf", "epsilon: it is inf,");
        let rate = |rate: &str| format!("optimizer = {{ kind = 'lion', learning_rate = {rate} }}");
        for bad in ["0.0", "-1.0", "inf", "nan", "1e-60"] {
            refused(&rate(bad), "train.optimizer.learning_rate: it is ");
        }
        refused(
            "optimizer = { kind = 'muon', learning_rate = 0.1, embedding_learning_rate = 0.0 }",
            "train.optimizer.embedding_learning_rate: it is 0,",
        );
        for kind in ["adam_w", "lion", "muon"] {
            let more = if kind == "muon" { "embedding_learning_rate = 1e-3, " } else { "" };
            let lines =
                |groups: &str| optimizer(kind, &format!("{more}weight_decay_on = {groups}"));
            let empty = "train.optimizer.weight_decay_on: it is empty: name what decays";
            refused(&lines("[]"), empty);
            validate(&lines("['matrices', 'norms']")).unwrap();
        }
        muon(
            "weight_decay = 1000.0, weight_decay_on = ['embeddings']",
            "weight_decay: it is 1000, but",
        );
        // Lion's decay is as many times larger as its rate is smaller.
        validate("optimizer = { kind = 'lion', learning_rate = 1e-4, weight_decay = 3.0 }")
            .unwrap();
        validate("optimizer = { kind = 'adam_w', learning_rate = 1e-3, beta1 = 0.0 }").unwrap();
        refused("clip_norm = -1.0", "train.clip_norm: it is -1, but it has to be 0, which");
        validate("clip_norm = 0.0").unwrap();
    }

    #[test]
    fn runs_that_cannot_be_counted_are_refused() {
        refused("steps = 0", "train.steps: it is 0");
        refused(
            "batch_size = 4611686018427387904",
            "train.batch_size: it is 4611686018427387904, but a step has at most 1073741824 tokens: with \
             sequences of 16 set it to at most 67108864",
        );
        refused("sequence_length = 9000000000000000000", "train.sequence_length: it is 9000");
        validate("batch_size = 67108864").unwrap();
        let stage = "[[stage]]\nname = 'wide'\nbatch_size";
        refused(&format!("{stage} = 0"), "train.stage: stage \"wide\": batch_size is 0");
        refused(
            &format!("{stage} = 9000000000000000000"),
            "train.stage: stage \"wide\": batch_size is 9000000000000000000, but a step has at most",
        );
        // 2^53 tokens are the most that are exact as an f64.
        refused(
            "steps = 9000000000000000000\nkeep_plateau = true",
            "train.steps: it is 9000000000000000000, but with steps of 64 tokens only 140737488355328 can be",
        );
        validate("steps = 140737488355328\nkeep_plateau = true").unwrap();
        refused("steps = 140737488355329", "train.steps: ");
        refused(
            &format!("steps = 140737488355328\n{stage} = 8"),
            "train.steps: it is 140737488355328, but with steps of 128 tokens only 70368744177664 can be",
        );
    }

    #[test]
    fn shards_that_would_be_mostly_headers_are_refused() {
        refused(
            "max_shard_size = 0",
            "train.max_shard_size: it is 0 B, but it has to be at least 1.00 KiB",
        );
        refused("max_shard_size = '1023 B'", "train.max_shard_size: it is 1023 B,");
        validate("max_shard_size = '1 KiB'").unwrap();
        validate("max_shard_size = '2 GB'").unwrap();
    }

    #[test]
    fn what_would_never_happen_is_refused() {
        refused(
            "keep_best = true\nvalidation_sequences = 0",
            "train.keep_best: it needs a validation, but validation_sequences is 0",
        );
        let stage =
            |mixture: &str| format!("[[stage]]\nname = 'all'\nmixture = {{ a = {mixture} }}");
        refused(
            &stage("{ weight = 1.0, epochs = -1.0 }"),
            "train.stage: stage \"all\": mixture: \"a\" has epochs = -1, which has to be above zero",
        );
        validate(&stage("{ weight = 1.0, epochs = 0.5 }")).unwrap();
        let replay = |epochs: &str| {
            format!(
                "[[stage]]\nname = 'all'\n[[replay]]\nname = 'b'\nshare = 0.1\nepochs = {epochs}"
            )
        };
        refused(&replay("0"), "train.replay: \"b\" has epochs = 0, which has to be above zero");
        refused(&replay("nan"), "train.replay: \"b\" has epochs = NaN");
        validate(&replay("2")).unwrap();
        let row = |pieces: &str| {
            format!(
                "schedule = {{ kind = 'stages' }}\n[[stage]]\nname = 'first'\nsteps = 12\n\
                 schedule = [{{ shape = 'constant' }}]\n[[stage]]\nname = 'last'\n\
                 schedule = [{pieces}]"
            )
        };
        refused(
            &row("{ shape = 'linear' }"),
            "train.schedule: the schedule of stage \"last\": piece 1 (linear) does not say where it ends",
        );
        validate(&row("{ shape = 'linear', to = 0.0 }")).unwrap();
    }
}

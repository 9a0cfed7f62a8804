//! A run on one machine in this project's own trainer: memory, time and whether it fits.

use std::fmt;

use milpa_base::{
    Bytes, Tokens,
    units::{duration, si, si_spaced},
};
use serde::Serialize;

use crate::{ModelShape, PlanError, record::Expected};

/// Sizes of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainShape {
    /// Tokens per sequence.
    pub sequence_length: u64,
    /// Sequences per optimiser step.
    pub batch_size: u64,
    /// Sequences whose activations are in memory at once.
    pub micro_batch_size: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Numbers the optimiser keeps for each parameter of a hidden matrix (AdamW 2, Muon and Lion 1).
    pub states_per_matrix_parameter: u64,
    /// Numbers it keeps for each parameter of the embedding and the norms (AdamW and Muon 2, Lion 1).
    pub states_per_other_parameter: u64,
    /// Averages of the weights kept beside them, each of every parameter.
    pub weight_averages: u64,
    /// Parameters of an adapter that are trained beside frozen weights; `None` trains all weights.
    pub adapter_parameters: Option<u64>,
    /// Bytes of a number that goes into a product: 4 in f32, 2 in mixed precision, where a rounded
    /// copy of the weights is kept as well. The residual stream is always f32.
    pub activation_bytes: u64,
}

/// What a machine offers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Machine {
    /// Measured or stated peak in FLOP/s for the dtype used.
    pub peak_flops_per_second: f64,
    /// Memory that the run may use.
    pub memory: Bytes,
    /// Share of the peak that training is expected to reach.
    pub expected_utilisation: f64,
    /// What earlier runs measured, where there are any; else `expected_utilisation` is a guess.
    pub own_runs: Option<Expected>,
}

/// Memory of a training run on one machine in f32, by use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights.
    pub parameters: Bytes,
    /// Gradients.
    pub gradients: Bytes,
    /// Optimiser states.
    pub optimizer: Bytes,
    /// The copy of weights and optimiser states that is written while training goes on.
    pub checkpoint: Bytes,
    /// Activations kept for the backward pass of one micro-batch (estimate).
    pub activations: Bytes,
}

impl Memory {
    /// The sum.
    pub fn total(&self) -> Bytes {
        let Self { parameters, gradients, optimizer, checkpoint, activations } = self;
        Bytes(parameters.0 + gradients.0 + optimizer.0 + checkpoint.0 + activations.0)
    }
}

/// A run's cost before it is spent.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// All parameters.
    pub parameters: u64,
    /// Parameters without embeddings.
    pub non_embedding_parameters: u64,
    /// Tokens trained on.
    pub tokens: Tokens,
    /// Tokens in the training split, where known.
    pub tokens_available: Option<Tokens>,
    /// FLOPs per token, PaLM's convention.
    pub flops_per_token_palm: f64,
    /// FLOPs per token, causal attention.
    pub flops_per_token_causal: f64,
    /// FLOPs of the run (causal).
    pub flops: f64,
    /// Memory by use.
    pub memory: Memory,
    /// Expected seconds at the machine's expected utilisation.
    pub seconds: f64,
    /// The seconds' range by the utilisations that earlier runs measured.
    pub seconds_interval: Option<(f64, f64)>,
    /// The machine it was planned for.
    pub machine: Machine,
}

/// Plans a run.
pub fn plan(
    model: &ModelShape,
    train: &TrainShape,
    machine: &Machine,
    tokens_available: Option<Tokens>,
) -> Plan {
    let tokens = train.steps * train.batch_size * train.sequence_length;
    let flops_per_token_causal = model.train_flops_per_token_causal(train.sequence_length);
    // No gradient of a frozen weight is computed.
    let frozen = train.adapter_parameters.map_or(0, |_| model.non_embedding_parameters());
    let flops = (flops_per_token_causal - 2.0 * frozen as f64) * tokens as f64;
    let seconds = |utilisation: f64| flops / (machine.peak_flops_per_second * utilisation);
    Plan {
        parameters: model.parameters(),
        non_embedding_parameters: model.non_embedding_parameters(),
        tokens: Tokens(tokens),
        tokens_available,
        flops_per_token_palm: model.train_flops_per_token_palm(train.sequence_length),
        flops_per_token_causal,
        flops,
        memory: memory(model, train),
        seconds: seconds(machine.expected_utilisation),
        seconds_interval: machine
            .own_runs
            .map(|runs| (seconds(runs.utilisation.high), seconds(runs.utilisation.low))),
        machine: *machine,
    }
}

/// Estimates the memory of training.
///
/// Activations per token and layer: two norm outputs, q, k, v and the attention output, the
/// normalised q and k, three feed-forward vectors, and the residual stream twice in f32; plus a chunk
/// of logits. Mixed precision adds a rounded copy of the matrices.
/// This counts what the backward pass reads, not allocator overhead.
pub fn memory(model: &ModelShape, train: &TrainShape) -> Memory {
    let f32_bytes = 4;
    let parameters = model.parameters();
    let matrices = model.matrix_parameters();
    let others = parameters - matrices;
    let (trained, states) = match train.adapter_parameters {
        Some(adapter) => (adapter, adapter * train.states_per_matrix_parameter),
        None => (
            parameters,
            matrices * train.states_per_matrix_parameter
                + others * train.states_per_other_parameter,
        ),
    };
    let adapter = train.adapter_parameters.unwrap_or(0);
    let qkv = model.head_dim * (model.heads + 2 * model.kv_heads);
    let qk = if model.qk_norm { model.head_dim * (model.heads + model.kv_heads) } else { 0 };
    let factors =
        2 * model.hidden_size + qkv + qk + model.heads * model.head_dim + 3 * model.ffn_size;
    let per_layer = factors * train.activation_bytes + 2 * model.hidden_size * f32_bytes;
    let tokens = train.micro_batch_size * train.sequence_length;
    let mixed = train.activation_bytes < f32_bytes;
    let rounded = if mixed { train.activation_bytes } else { 0 };
    let logits = tokens.min(1024) * model.vocab_size * (f32_bytes + rounded);
    let ends = 3 * model.hidden_size * f32_bytes;
    let averages = (parameters + adapter) * train.weight_averages;
    let optimizer = (states + averages) * f32_bytes;
    Memory {
        parameters: Bytes((parameters + adapter) * (f32_bytes + rounded)),
        gradients: Bytes(trained * f32_bytes),
        optimizer: Bytes(optimizer),
        checkpoint: Bytes((parameters + adapter) * f32_bytes + optimizer),
        activations: Bytes(tokens * (model.layers * per_layer + ends) + logits),
    }
}

impl Plan {
    /// Refuses what cannot work.
    pub fn check(&self, train: &TrainShape) -> Result<(), PlanError> {
        let needed = self.memory.total();
        if needed > self.machine.memory {
            return Err(PlanError::TooLittleMemory {
                needed,
                activations: self.memory.activations,
                available: self.machine.memory,
            });
        }
        let step = Tokens(train.batch_size * train.sequence_length);
        match self.tokens_available {
            Some(available) if available < step => {
                Err(PlanError::TooLittleText { available, needed: step })
            }
            _ => Ok(()),
        }
    }

    /// Passes over the training split, where its size is known.
    pub fn epochs(&self) -> Option<f64> {
        self.tokens_available.map(|available| self.tokens.0 as f64 / available.0.max(1) as f64)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "parameters   {} ({} without embeddings)",
            si(self.parameters as f64),
            si(self.non_embedding_parameters as f64)
        )?;
        write!(f, "tokens       {}", self.tokens)?;
        if let (Some(epochs), Some(available)) = (self.epochs(), self.tokens_available) {
            write!(f, " = {epochs:.2} epochs of {available}")?;
        }
        writeln!(
            f,
            ", {:.1} per non-embedding parameter",
            self.tokens.0 as f64 / self.non_embedding_parameters.max(1) as f64
        )?;
        writeln!(
            f,
            "compute      {}FLOP ({}FLOP/token causal; {}FLOP/token by 6(N-emb)+12Lhs)",
            si_spaced(self.flops),
            si_spaced(self.flops_per_token_causal),
            si_spaced(self.flops_per_token_palm)
        )?;
        writeln!(
            f,
            "memory       {} = {} weights + {} gradients + {} optimizer + {} for a checkpoint's copy + {} \
             activations (estimate)",
            self.memory.total(),
            self.memory.parameters,
            self.memory.gradients,
            self.memory.optimizer,
            self.memory.checkpoint,
            self.memory.activations
        )?;
        write!(f, "time         about {}", duration(self.seconds))?;
        if let Some((low, high)) = self.seconds_interval {
            write!(f, " ({} to {})", duration(low), duration(high))?;
        }
        write!(
            f,
            " at {:.0} % of {}FLOP/s (dense peak, measured now)",
            self.machine.expected_utilisation * 100.0,
            si_spaced(self.machine.peak_flops_per_second)
        )?;
        match self.machine.own_runs {
            Some(Expected { runs: 1, .. }) => write!(f, "; share as one run measured"),
            Some(Expected { runs, .. }) => write!(f, "; share as {runs} runs measured"),
            None => write!(f, "; share guessed, milpa plan calibrate takes it from a run"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Quantiles;

    const NOVELAS: ModelShape = ModelShape {
        hidden_size: 384,
        layers: 6,
        heads: 8,
        kv_heads: 4,
        head_dim: 48,
        ffn_size: 1024,
        gated_ffn: true,
        vocab_size: 8192,
        positions: 0,
        biases: false,
        qk_norm: false,
        tie_embeddings: true,
    };
    const TRAIN: TrainShape = TrainShape {
        sequence_length: 256,
        batch_size: 8,
        micro_batch_size: 8,
        steps: 1000,
        states_per_matrix_parameter: 2,
        states_per_other_parameter: 2,
        weight_averages: 0,
        adapter_parameters: None,
        activation_bytes: 4,
    };
    const MACHINE: Machine = Machine {
        peak_flops_per_second: 500e9,
        memory: Bytes(24 << 30),
        expected_utilisation: 0.5,
        own_runs: None,
    };

    #[test]
    fn counts_equal_those_of_a_pytorch_model_of_this_shape() {
        // PyTorch's sum(p.numel()) for this shape: 9.74M and 12.88M; 80.8 MFLOP per token.
        assert_eq!(NOVELAS.non_embedding_parameters(), 9_737_088);
        assert_eq!(NOVELAS.parameters(), 12_882_816);
        let flops = NOVELAS.train_flops_per_token_causal(256);
        assert!((flops / 1e6 - 80.8).abs() < 0.1, "{flops}");
        assert!(NOVELAS.train_flops_per_token_palm(256) > flops);
    }

    #[test]
    fn an_impossible_plan_is_refused_with_what_to_change() {
        let small = Machine { memory: Bytes(64 << 20), ..MACHINE };
        let error = plan(&NOVELAS, &TRAIN, &small, None).check(&TRAIN).unwrap_err();
        assert!(error.to_string().contains("lower train.micro_batch_size"), "{error}");
        let error = plan(&NOVELAS, &TRAIN, &MACHINE, Some(Tokens(100))).check(&TRAIN).unwrap_err();
        assert!(error.to_string().contains("one step takes 2048 tokens"), "{error}");
        plan(&NOVELAS, &TRAIN, &MACHINE, Some(Tokens(1 << 20))).check(&TRAIN).unwrap();
    }

    #[test]
    fn the_optimisers_states_are_counted_where_they_are_kept() {
        let bytes = |matrix, other| {
            let train = TrainShape {
                states_per_matrix_parameter: matrix,
                states_per_other_parameter: other,
                ..TRAIN
            };
            memory(&NOVELAS, &train).optimizer.0
        };
        let (matrices, all) = (NOVELAS.matrix_parameters(), NOVELAS.parameters());
        assert_eq!(bytes(2, 2), 8 * all, "AdamW");
        assert_eq!(bytes(1, 1), 4 * all, "Lion");
        assert_eq!(bytes(1, 2), 8 * all - 4 * matrices, "Muon");
    }

    #[test]
    fn a_plan_reads_well() {
        let text = plan(&NOVELAS, &TRAIN, &MACHINE, Some(Tokens(4_096_000))).to_string();
        assert!(text.contains("0.50 epochs of 4.10M tokens"), "{text}");
        assert!(text.contains("12.9M (9.74M without embeddings)"), "{text}");
        assert!(text.contains("share guessed"), "{text}");
    }

    #[test]
    fn earlier_runs_give_the_time_a_range() {
        let utilisation = Quantiles { low: 0.4, median: 0.5, high: 0.8 };
        let own_runs = Some(Expected { utilisation, runs: 3 });
        let plan = plan(&NOVELAS, &TRAIN, &Machine { own_runs, ..MACHINE }, None);
        let (low, high) = plan.seconds_interval.unwrap();
        assert!((low / plan.seconds - 0.5 / 0.8).abs() < 1e-12);
        assert!((high / plan.seconds - 0.5 / 0.4).abs() < 1e-12);
        assert!(plan.to_string().contains("share as 3 runs measured"), "{plan}");
    }
}

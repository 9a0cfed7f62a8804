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
    /// The adapter that is trained beside frozen weights; `None` trains all weights.
    pub adapter: Option<AdapterShape>,
    /// Bytes of a number that goes into a product: 4 in f32, 2 in mixed precision, where a rounded
    /// copy of the weights is kept as well. The residual stream is always f32.
    pub activation_bytes: u64,
}

/// Sizes of a low-rank adapter, `W + s·B·A`, and what no gradient reaches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AdapterShape {
    /// Parameters of all A and B, and the trained lengths of rows.
    pub parameters: u64,
    /// Whether embedding and output layer are trained whole beside it.
    pub embeddings: bool,
    /// Values per token between A and B, kept for the backward pass.
    pub inner_values: u64,
    /// Values per token that trained lengths of rows are put on, kept for the backward pass (`DoRA`).
    pub lengthened_values: u64,
    /// Products of two numbers that the lengths of the changed rows take, once per micro-batch (`DoRA`).
    pub length_products: u64,
    /// Parameters of matrices, frozen ones and A, whose input gets no gradient: with a frozen embedding
    /// those of the lowest changed matrices and of all below.
    pub inputs_without_gradient: u64,
    /// Layers whose attention gets none.
    pub attention_without_gradient: u64,
}

impl TrainShape {
    /// FLOPs to train on one token, attention at the half that the causal mask leaves.
    ///
    /// Of the 6 FLOPs for each parameter of a matrix, 2 are the product, 2 the gradient of its input and
    /// 2 its own. An adapter adds 6 for each of its parameters. What is frozen has no gradient of its own;
    /// the lowest changed matrices and all below have none of their inputs either.
    pub fn flops_per_token(&self, model: &ModelShape) -> f64 {
        let all = model.train_flops_per_token_causal(self.sequence_length);
        let Some(adapter) = self.adapter else { return all };
        let output_layer = if adapter.embeddings { 0 } else { model.embedding_parameters() };
        let frozen = model.non_embedding_parameters() + output_layer;
        let attention = model.heads * model.head_dim * self.sequence_length;
        let spared = 2 * (frozen + adapter.inputs_without_gradient)
            + 4 * adapter.attention_without_gradient * attention;
        let tokens = (self.micro_batch_size * self.sequence_length).max(1);
        let lengths = 2.0 * adapter.length_products as f64 / tokens as f64;
        all + 6.0 * adapter.parameters as f64 + lengths - spared as f64
    }
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
    /// Tokens that another run trained on before; they cost this one nothing.
    pub tokens_before: Tokens,
    /// Tokens in the training split, where known.
    pub tokens_available: Option<Tokens>,
    /// FLOPs per token of training all weights, PaLM's convention.
    pub flops_per_token_palm: f64,
    /// FLOPs per token of this run, causal attention.
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
    let flops_per_token_causal = train.flops_per_token(model);
    let flops = flops_per_token_causal * tokens as f64;
    let seconds = |utilisation: f64| flops / (machine.peak_flops_per_second * utilisation);
    Plan {
        parameters: model.parameters(),
        non_embedding_parameters: model.non_embedding_parameters(),
        tokens: Tokens(tokens),
        tokens_before: Tokens(0),
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
/// of logits. Mixed precision adds a rounded copy of the matrices. An adapter adds what lies between its
/// two matrices; gradients, optimiser states and averages are those of what is trained, and a checkpoint's
/// copy is the model with the change merged into it, and what is trained by itself.
/// This counts what the backward pass reads, not allocator overhead.
pub fn memory(model: &ModelShape, train: &TrainShape) -> Memory {
    let f32_bytes = 4;
    let parameters = model.parameters();
    let matrices = model.matrix_parameters();
    let others = parameters - matrices;
    let embeddings = parameters - model.non_embedding_parameters();
    let (in_matrices, in_others) = match train.adapter {
        Some(adapter) => (adapter.parameters, if adapter.embeddings { embeddings } else { 0 }),
        None => (matrices, others),
    };
    let trained = in_matrices + in_others;
    let states = in_matrices * train.states_per_matrix_parameter
        + in_others * train.states_per_other_parameter;
    let adapter = train.adapter.map_or(0, |adapter| adapter.parameters);
    let copied = parameters + train.adapter.map_or(0, |_| trained);
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
    let averages = trained * train.weight_averages;
    let optimizer = (states + averages) * f32_bytes;
    let of_adapter = train.adapter.map_or(0, |adapter| {
        adapter.inner_values * train.activation_bytes + adapter.lengthened_values * f32_bytes
    });
    Memory {
        parameters: Bytes((parameters + adapter) * (f32_bytes + rounded)),
        gradients: Bytes(trained * f32_bytes),
        optimizer: Bytes(optimizer),
        checkpoint: Bytes(copied * f32_bytes + optimizer),
        activations: Bytes(tokens * (model.layers * per_layer + ends + of_adapter) + logits),
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

    /// The plan of what is left when another run has trained on the first tokens, as of a fork.
    #[must_use]
    pub fn after(self, tokens: Tokens) -> Self {
        let before = tokens.0.min(self.tokens.0);
        let left = self.tokens.0 - before;
        let share = left as f64 / self.tokens.0.max(1) as f64;
        Self {
            tokens: Tokens(left),
            tokens_before: Tokens(self.tokens_before.0 + before),
            flops: self.flops * share,
            seconds: self.seconds * share,
            seconds_interval: self.seconds_interval.map(|(low, high)| (low * share, high * share)),
            ..self
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
        if self.tokens_before.0 > 0 {
            write!(f, ", after {} of the run it is forked from", self.tokens_before)?;
        }
        writeln!(
            f,
            ", {:.1} per non-embedding parameter",
            (self.tokens.0 + self.tokens_before.0) as f64
                / self.non_embedding_parameters.max(1) as f64
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
        adapter: None,
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
    fn a_fork_is_planned_without_what_was_done_before_it() {
        let whole = plan(&NOVELAS, &TRAIN, &MACHINE, Some(Tokens(1 << 20)));
        let half = whole.clone().after(Tokens(whole.tokens.0 / 2));
        assert_eq!(half.tokens.0 + half.tokens_before.0, whole.tokens.0);
        assert!((half.seconds * 2.0 / whole.seconds - 1.0).abs() < 1e-9);
        assert_eq!(half.memory.total(), whole.memory.total());
        assert!(half.to_string().contains("of the run it is forked from"), "{half}");
        assert!(!whole.to_string().contains("forked"), "{whole}");
        assert_eq!(whole.clone().after(Tokens(u64::MAX)).seconds, 0.0);
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

    /// Two layers: q and o 4 × 4, k and v 2 × 4, feed-forward 4 × 8 three times, vocabulary 10.
    const TINY: ModelShape = ModelShape {
        hidden_size: 4,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 2,
        ffn_size: 8,
        vocab_size: 10,
        ..NOVELAS
    };
    /// Rank 3 beside all matrices of `TINY`: per layer A of 4·3 for q, k, v, o, gate and up and 8·3 for
    /// down, B of 4·3, 2·3, 2·3, 4·3, 8·3, 8·3 and 4·3.
    const RANK_3: AdapterShape = AdapterShape {
        parameters: 2 * (96 + 96),
        embeddings: false,
        inner_values: 2 * 7 * 3,
        lengthened_values: 0,
        length_products: 0,
        inputs_without_gradient: (16 + 8 + 8) + 3 * 12,
        attention_without_gradient: 0,
    };

    #[test]
    fn the_flops_of_an_adapter_are_those_of_its_products() {
        let flops = |adapter| {
            let train = TrainShape { sequence_length: 5, micro_batch_size: 2, adapter, ..TRAIN };
            train.flops_per_token(&TINY)
        };
        // Matrices 2 · (48 + 96), norms 5 · 4, output layer 10 · 4; attention 6 · 2 layers · 4 · 5.
        assert_eq!(TINY.non_embedding_parameters(), 308);
        assert_eq!(flops(None), 6.0 * 348.0 + 240.0);
        // Each frozen one 4, each of the adapter's 6; q, k, v of the first layer only 2, their A only 4.
        let expect = 4.0 * 348.0 - 2.0 * 32.0 + 6.0 * 384.0 - 2.0 * 36.0 + 240.0;
        assert_eq!(flops(Some(RANK_3)), expect);
        // With the embedding all inputs have gradients, and the output layer its own.
        let embeddings = AdapterShape { embeddings: true, inputs_without_gradient: 0, ..RANK_3 };
        assert_eq!(flops(Some(embeddings)), 4.0 * 308.0 + 6.0 * 40.0 + 6.0 * 384.0 + 240.0);
        // Changed in the last layer's down alone: nothing below is differentiated.
        let last = AdapterShape {
            parameters: 3 * (8 + 4),
            inputs_without_gradient: 2 * 144 + 3 * 8,
            attention_without_gradient: 2,
            ..RANK_3
        };
        let expect = 2.0 * 288.0 + 4.0 * 60.0 + 6.0 * 12.0 + 4.0 * 24.0 + 240.0 / 3.0;
        assert_eq!(flops(Some(last)), expect);
        // The lengths of rows: once for the ten tokens of a micro-batch.
        let dora = AdapterShape { length_products: 900, ..RANK_3 };
        assert_eq!(flops(Some(dora)) - flops(Some(RANK_3)), 180.0);
        let planned = |adapter| plan(&TINY, &TrainShape { adapter, ..TRAIN }, &MACHINE, None).flops;
        let wide = AdapterShape { parameters: 64 * RANK_3.parameters, ..RANK_3 };
        assert!(planned(Some(wide)) > planned(None), "a high rank costs more than all weights");
    }

    #[test]
    fn the_memory_of_an_adapter_is_that_of_what_is_trained_and_kept() {
        let of = |adapter| {
            let train = TrainShape { states_per_other_parameter: 1, weight_averages: 1, ..TRAIN };
            memory(&TINY, &TrainShape { adapter, ..train })
        };
        let (plain, rank_3) = (of(None), of(Some(RANK_3)));
        assert_eq!(rank_3.parameters.0, 4 * (348 + 384));
        assert_eq!(rank_3.gradients.0, 4 * 384);
        assert_eq!(rank_3.optimizer.0, 4 * (2 + 1) * 384);
        // The merged model, the adapter, its states and its average.
        assert_eq!(rank_3.checkpoint.0, 4 * (348 + 384) + 4 * 3 * 384);
        let tokens = 8 * 256;
        assert_eq!(rank_3.activations.0 - plain.activations.0, tokens * 42 * 4);
        let whole = of(Some(AdapterShape { embeddings: true, lengthened_values: 9, ..RANK_3 }));
        assert_eq!(whole.gradients.0, 4 * (384 + 40));
        assert_eq!(whole.optimizer.0, 4 * (2 * 384 + 40 + (384 + 40)));
        assert_eq!(whole.checkpoint.0 - whole.optimizer.0, 4 * (348 + 384 + 40));
        assert_eq!(whole.activations.0 - rank_3.activations.0, tokens * 9 * 4);
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

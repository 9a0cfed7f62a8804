//! Sizes of a decoder-only transformer: what it counts and computes.
//!
//! Pure arithmetic. It knows neither recipes nor `config.json`; the binary makes a [`ModelShape`]
//! of either.

use serde::Serialize;

/// Sizes of a decoder-only transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ModelShape {
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Number of layers.
    pub layers: u64,
    /// Number of query heads.
    pub heads: u64,
    /// Number of key/value heads.
    pub kv_heads: u64,
    /// Width of one head.
    pub head_dim: u64,
    /// Inner width of the SwiGLU feed-forward.
    pub ffn_size: u64,
    /// Number of token ids.
    pub vocab_size: u64,
    /// Whether queries and keys have a norm per head.
    pub qk_norm: bool,
    /// Whether the output projection is the embedding.
    pub tie_embeddings: bool,
}

impl ModelShape {
    /// Parameters of the input embedding.
    pub fn embedding_parameters(&self) -> u64 {
        self.vocab_size * self.hidden_size
    }

    /// Parameters of hidden matrices, which an optimiser such as Muon takes.
    pub fn matrix_parameters(&self) -> u64 {
        let attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads);
        self.layers * (attention + 3 * self.hidden_size * self.ffn_size)
    }

    /// Parameters without input embedding and without an output projection.
    pub fn non_embedding_parameters(&self) -> u64 {
        let norms = 2 * self.hidden_size + if self.qk_norm { 2 * self.head_dim } else { 0 };
        self.matrix_parameters() + self.layers * norms + self.hidden_size
    }

    /// All parameters; a tied output projection counts once.
    pub fn parameters(&self) -> u64 {
        let embeddings = if self.tie_embeddings { 1 } else { 2 };
        self.non_embedding_parameters() + embeddings * self.embedding_parameters()
    }

    /// FLOPs to train on one token: `6·(N − input embedding) + 12·L·h·s`, where the output
    /// projection counts although it may be tied (PaLM's convention).
    pub fn train_flops_per_token_palm(&self, sequence_length: u64) -> f64 {
        self.matmul_flops() + 12.0 * self.attention_terms(sequence_length)
    }

    /// FLOPs to train on one token, attention at the half that the causal mask leaves.
    pub fn train_flops_per_token_causal(&self, sequence_length: u64) -> f64 {
        self.matmul_flops() + 6.0 * self.attention_terms(sequence_length)
    }

    fn matmul_flops(&self) -> f64 {
        6.0 * (self.non_embedding_parameters() + self.embedding_parameters()) as f64
    }

    fn attention_terms(&self, sequence_length: u64) -> f64 {
        (self.layers * self.heads * self.head_dim * sequence_length) as f64
    }
}

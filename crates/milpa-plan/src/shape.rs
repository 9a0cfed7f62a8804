//! Sizes of a decoder-only transformer: what it counts and computes.
//!
//! Pure arithmetic. It knows neither recipes nor `config.json`; the binary makes a [`ModelShape`]
//! of either. Shapes of published models come from `data/models.toml`.

use serde::{Deserialize, Serialize};

use crate::PlanError;

/// Sizes of a decoder-only transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Inner width of the feed-forward.
    pub ffn_size: u64,
    /// Whether the feed-forward is gated (SwiGLU: three matrices) or not (GELU: two).
    pub gated_ffn: bool,
    /// Number of token ids.
    pub vocab_size: u64,
    /// Learned position embeddings; 0 where positions are rotary.
    pub positions: u64,
    /// Whether linear layers and norms have biases, as in GPT-2 and GPT-3.
    pub biases: bool,
    /// Whether queries and keys have a norm per head.
    pub qk_norm: bool,
    /// Whether the output projection is the embedding.
    pub tie_embeddings: bool,
}

impl ModelShape {
    /// A shape like GPT-3's: feed-forward of 4·h without gate, every head its own keys and values,
    /// biases, learned positions, tied embeddings.
    ///
    /// `heads` must divide `hidden_size`.
    pub fn gpt(hidden_size: u64, layers: u64, heads: u64, vocab_size: u64, positions: u64) -> Self {
        Self {
            hidden_size,
            layers,
            heads,
            kv_heads: heads,
            head_dim: hidden_size / heads.max(1),
            ffn_size: 4 * hidden_size,
            gated_ffn: false,
            vocab_size,
            positions,
            biases: true,
            qk_norm: false,
            tie_embeddings: true,
        }
    }

    /// The shape of a published model by its name in `data/models.toml`, for example `llama3-70b`.
    ///
    /// # Errors
    /// [`PlanError::UnknownModel`] names the nearest one.
    pub fn published(name: &str) -> Result<Self, PlanError> {
        let models = published_models();
        if let Some(model) = models.iter().find(|model| model.name == name) {
            return Ok(model.shape);
        }
        let known: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        Err(PlanError::UnknownModel {
            name: name.chars().take(80).collect(),
            nearest: milpa_base::config::nearest(name, &known).map(str::to_owned),
            known: known.join(", "),
        })
    }

    /// Refuses sizes of zero and heads that key/value heads do not divide.
    pub fn check(&self) -> Result<(), PlanError> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn_size", self.ffn_size),
            ("vocab_size", self.vocab_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(PlanError::BadModel(format!("{name} is 0")));
        }
        // Within these limits no product below overflows.
        let width = self.heads.saturating_mul(self.head_dim);
        let limits = [
            ("hidden_size", self.hidden_size, 1 << 20),
            ("layers", self.layers, 1 << 16),
            ("heads x head_dim", width, 1 << 20),
            ("kv_heads", self.kv_heads, 1 << 20),
            ("ffn_size", self.ffn_size, 1 << 20),
            ("vocab_size", self.vocab_size, 1 << 24),
            ("positions", self.positions, 1 << 24),
        ];
        if let Some((name, size, limit)) = limits.iter().find(|(_, size, limit)| size > limit) {
            return Err(PlanError::BadModel(format!("{name} is {size}, above {limit}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(PlanError::BadModel(format!(
                "{} heads are no multiple of {} key/value heads",
                self.heads, self.kv_heads
            )));
        }
        Ok(())
    }

    /// Parameters of the input embedding.
    pub fn embedding_parameters(&self) -> u64 {
        self.vocab_size * self.hidden_size
    }

    /// Parameters of one layer's matrices: attention and feed-forward.
    pub fn layer_matrix_parameters(&self) -> u64 {
        let attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads);
        attention + self.ffn_matrices() * self.hidden_size * self.ffn_size
    }

    /// Parameters of hidden matrices, which an optimiser such as Muon takes.
    pub fn matrix_parameters(&self) -> u64 {
        self.layers * self.layer_matrix_parameters()
    }

    /// Parameters of one layer: matrices, norms and biases.
    pub fn layer_parameters(&self) -> u64 {
        let norms = 2 * self.hidden_size + if self.qk_norm { 2 * self.head_dim } else { 0 };
        let biases = if self.biases {
            // q, k, v, attention's and feed-forward's output, inner feed-forward, two norms.
            self.head_dim * (self.heads + 2 * self.kv_heads)
                + 4 * self.hidden_size
                + (self.ffn_matrices() - 1) * self.ffn_size
        } else {
            0
        };
        self.layer_matrix_parameters() + norms + biases
    }

    /// Parameters without input embedding, learned positions and output projection.
    pub fn non_embedding_parameters(&self) -> u64 {
        let final_norm = self.hidden_size * if self.biases { 2 } else { 1 };
        self.layers * self.layer_parameters() + final_norm
    }

    /// All parameters; a tied output projection counts once.
    pub fn parameters(&self) -> u64 {
        let embeddings = if self.tie_embeddings { 1 } else { 2 };
        self.non_embedding_parameters()
            + embeddings * self.embedding_parameters()
            + self.positions * self.hidden_size
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

    /// Matrices of the feed-forward: three with a gate, two without.
    pub fn ffn_matrices(&self) -> u64 {
        if self.gated_ffn { 3 } else { 2 }
    }

    fn matmul_flops(&self) -> f64 {
        6.0 * (self.non_embedding_parameters() + self.embedding_parameters()) as f64
    }

    fn attention_terms(&self, sequence_length: u64) -> f64 {
        (self.layers * self.heads * self.head_dim * sequence_length) as f64
    }
}

/// A published model: its name here, its shape, and where the shape is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedModel {
    /// Name, for example `gpt3-175b`.
    pub name: String,
    /// Sizes.
    pub shape: ModelShape,
    /// Where the sizes are printed.
    pub source: String,
}

/// The table of published models (`data/models.toml`), in its order.
pub fn published_models() -> Vec<PublishedModel> {
    let table: Table = toml::from_str(include_str!("../data/models.toml"))
        .expect("data/models.toml is checked by a test");
    table.model.into_iter().map(Row::into_model).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    model: Vec<Row>,
}

/// A row names what differs from its family, `gpt` or `llama`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    family: Family,
    hidden_size: u64,
    layers: u64,
    heads: u64,
    kv_heads: Option<u64>,
    head_dim: Option<u64>,
    ffn_size: Option<u64>,
    vocab_size: u64,
    #[serde(default)]
    positions: u64,
    tie_embeddings: Option<bool>,
    source: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Family {
    Gpt,
    Llama,
}

impl Row {
    fn into_model(self) -> PublishedModel {
        let gpt = ModelShape::gpt(
            self.hidden_size,
            self.layers,
            self.heads,
            self.vocab_size,
            self.positions,
        );
        let is_llama = self.family == Family::Llama;
        let shape = ModelShape {
            kv_heads: self.kv_heads.unwrap_or(self.heads),
            head_dim: self.head_dim.unwrap_or(gpt.head_dim),
            ffn_size: self.ffn_size.unwrap_or(gpt.ffn_size),
            gated_ffn: is_llama,
            biases: !is_llama,
            tie_embeddings: self.tie_embeddings.unwrap_or(!is_llama),
            ..gpt
        };
        PublishedModel { name: self.name, shape, source: self.source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, parameters: u64) {
        assert_eq!(ModelShape::published(name).unwrap().parameters(), parameters, "{name}");
    }

    #[test]
    fn published_models_count_what_their_weights_count() {
        // sum(p.numel()) of the Hugging Face models with these configurations.
        check("gpt2", 124_439_808);
        check("gpt2-xl", 1_557_611_200);
        check("llama3-8b", 8_030_261_248);
        check("llama3-70b", 70_553_706_496);
        check("llama3-405b", 405_853_388_800);
        for model in published_models() {
            model.shape.check().unwrap();
        }
    }

    #[test]
    fn flops_per_token_are_those_that_megatron_and_torchtitan_print() {
        let shape = ModelShape::published("llama3-70b").unwrap();
        let check =
            |value: f64, expect: f64| assert!((value / expect - 1.0).abs() < 1e-3, "{value}");
        check(shape.train_flops_per_token_palm(8192), 4.814e11);
        check(shape.train_flops_per_token_causal(8192), 4.492e11);
        let shape = ModelShape::published("llama3-8b").unwrap();
        check(shape.train_flops_per_token_palm(8192), 5.791e10);
        let shape = ModelShape::published("llama3-405b").unwrap();
        check(shape.train_flops_per_token_palm(8192), 2.625e12);
    }

    #[test]
    fn an_unknown_model_and_impossible_sizes_are_refused() {
        let error = ModelShape::published("llama3-7b").unwrap_err().to_string();
        assert!(error.contains("did you mean"), "{error}");
        let mut shape = ModelShape::published("llama3-8b").unwrap();
        shape.kv_heads = 5;
        assert!(shape.check().unwrap_err().to_string().contains("5 key/value heads"));
        shape.kv_heads = 0;
        assert!(shape.check().unwrap_err().to_string().contains("kv_heads is 0"));
        shape = ModelShape { kv_heads: 8, head_dim: u64::MAX, ..shape };
        assert!(shape.check().unwrap_err().to_string().contains("heads x head_dim"));
    }
}

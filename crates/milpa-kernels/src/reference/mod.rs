//! Readable scalar twins of every kernel, generic over the precision: the oracles of all tests.
//!
//! They are written for the reader, one obvious loop nest each, single-threaded and slow. In `f64`
//! they serve finite-difference checks here and in the tensor crate; in `f32` they say what a fast
//! kernel must give up to rounding. They check nothing: wrong lengths panic by index.

mod attention;
mod layers;
mod linear;
mod loss;
mod magnitude;
mod optim;
mod quantised;
mod real;
mod variants;

pub use attention::{attention_backward, attention_forward};
pub use layers::{
    embedding_backward, embedding_forward, rms_norm_backward, rms_norm_forward, rope_backward,
    rope_forward, swiglu_backward, swiglu_forward,
};
pub use linear::{matmul_nn, matmul_nt, matmul_tn};
pub use loss::{cross_entropy, log_probabilities, softmax_rows};
pub use magnitude::{adapted_norms, magnitude_backward, magnitude_forward};
pub use optim::{adamw_step, lion_step, muon_step, newton_schulz};
pub use quantised::dequantize;
pub use real::Real;
pub use variants::{
    bias_backward, bias_forward, choose_experts, combine_backward, combine_forward, geglu_backward,
    geglu_forward, routing_weights_backward, routing_weights_forward, soft_cap_backward,
    soft_cap_forward,
};

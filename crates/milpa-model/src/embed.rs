//! Texts as vectors: hidden states of a decoder, pooled over the tokens of a text.

use milpa_tensor::{ParameterStore, Tape};

use crate::{
    decoder::{Decoder, TokenBatch},
    error::DecoderError,
};

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the last token, which has seen all others.
    Last,
}

impl Decoder {
    /// Returns a vector of length 1 and `hidden_size` elements for a text's tokens: the pooled output
    /// of the last norm. The product of two of them is their cosine.
    ///
    /// # Errors
    /// If there are no tokens, or more than the context.
    pub fn embed(
        &self,
        parameters: &ParameterStore,
        tokens: &[u32],
        pooling: Pooling,
    ) -> Result<Vec<f32>, DecoderError> {
        let tape = Tape::inference(parameters.device().clone());
        let x_btd =
            self.forward_hidden(&tape, parameters, &TokenBatch::new(tokens, tokens.len()))?;
        let values = tape.read(&x_btd);
        let width = self.description().hidden_size;
        let rows = match pooling {
            Pooling::Mean => &values[..],
            Pooling::Last => &values[values.len() - width..],
        };
        let mut sums = vec![0.0_f64; width];
        for row in rows.chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let length = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
        let factor = if length == 0.0 { 0.0 } else { 1.0 / length };
        Ok(sums.into_iter().map(|sum| (sum * factor) as f32).collect())
    }
}

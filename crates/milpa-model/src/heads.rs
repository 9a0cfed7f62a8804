//! What is made of the last hidden states besides logits of tokens: a value of each token, or scores of a
//! sequence; and new heads on the models that exist.
//!
//! The value head is trl's (`AutoModelForCausalLMWithValueHead` without dropout): a linear layer to one
//! number, beside the language model. A classifier or reward model is transformers'
//! `*ForSequenceClassification`: a linear layer without bias, read at the last token that is not padding.

use milpa_base::Seed;
use milpa_tensor::{ParameterStore, Tape, Tensor};

use crate::{
    decoder::{Decoder, TokenBatch, initial_values, parameter_specs},
    description::{DecoderDescription, OutputHead},
    error::DecoderError,
};

impl Decoder {
    /// A value of each token, `[b, t]`, from the hidden states `x_btd` of
    /// [`forward_hidden`](Self::forward_hidden).
    ///
    /// # Errors
    /// If the model has no value head.
    pub fn values(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        x_btd: &Tensor,
    ) -> Result<Tensor, DecoderError> {
        let Some([weight, bias]) = self.heads().value else {
            return Err(DecoderError::Head { wanted: "value of each token" });
        };
        let value = tape.linear(x_btd, &parameters.leaf(weight))?;
        let value = tape.add_bias(value, &parameters.leaf(bias))?;
        let shape = x_btd.shape();
        let [leading @ .., _] = shape.lengths() else { return Ok(value) };
        Ok(value.reshape(leading)?)
    }

    /// Scores of each sequence of a batch, `[b, labels]`, from its hidden states `x_btd`: those of its last
    /// token that is not padding. They are logits; a reward model has one.
    ///
    /// # Errors
    /// If the model is no classifier, or the batch has several sequences and the model no padding token.
    pub fn sequence_scores(
        &self,
        tape: &Tape,
        parameters: &ParameterStore,
        batch: &TokenBatch<'_>,
        x_btd: &Tensor,
    ) -> Result<Tensor, DecoderError> {
        let (Some(scores), OutputHead::Classifier { pad_token, .. }) =
            (self.heads().scores, &self.description().head)
        else {
            return Err(DecoderError::Head { wanted: "scores of sequences" });
        };
        let rows = last_tokens(batch, *pad_token)?;
        let x_bd = tape.select_rows(x_btd, &rows)?;
        Ok(tape.linear(&x_bd, &parameters.leaf(scores))?)
    }
}

/// The row of each sequence's last token that is not padding; the first of a sequence of nothing else.
fn last_tokens(batch: &TokenBatch<'_>, pad_token: Option<u32>) -> Result<Vec<u32>, DecoderError> {
    let sequences = batch.tokens_bt.chunks_exact(batch.tokens.max(1));
    if pad_token.is_none() && sequences.len() > 1 {
        let message = format!(
            "{} sequences cannot be scored together by a model without a padding token; score one at a \
             time, or give the model a pad_token",
            sequences.len()
        );
        return Err(DecoderError::Batch(message));
    }
    let last = |(index, tokens): (usize, &[u32])| {
        let at = match pad_token {
            None => tokens.len() - 1,
            Some(pad) => tokens.iter().rposition(|&token| token != pad).unwrap_or(0),
        };
        (index * batch.tokens + at) as u32
    };
    Ok(sequences.enumerate().map(last).collect())
}

/// Gives a model another head; returns the description of what it is now. Parameters of the head are added
/// with new values of `seed`, as a new model's; those that the head does not need stay in the store and
/// are neither trained nor written.
///
/// # Errors
/// If the head is impossible.
pub fn add_head(
    description: &DecoderDescription,
    head: OutputHead,
    seed: Seed,
    parameters: &mut ParameterStore,
) -> Result<DecoderDescription, DecoderError> {
    let new = DecoderDescription { head, ..description.clone() };
    new.check()?;
    let seed = seed.derive("head");
    let old = parameter_specs(description);
    for spec in parameter_specs(&new) {
        if !old.contains(&spec) && parameters.id(&spec.name).is_none() {
            let values = initial_values(&spec, seed);
            parameters.add(&spec.name, &spec.shape, &values, spec.init_std.is_some())?;
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens_bt: &[u32], tokens: usize, pad: Option<u32>, expect: Option<&[u32]>) {
        let found = last_tokens(&TokenBatch::new(tokens_bt, tokens), pad);
        assert_eq!(found.ok().as_deref(), expect, "{tokens_bt:?} {pad:?}");
    }

    #[test]
    fn sequences_are_read_at_their_last_token() {
        check(&[5, 6, 7], 3, None, Some(&[2]));
        check(&[5, 6, 7, 8], 2, None, None);
        check(&[5, 6, 0, 8, 0, 0], 3, Some(0), Some(&[1, 3]));
        // Padding on the left, within, and alone.
        check(&[0, 5, 6, 5, 0, 6, 0, 0, 0], 3, Some(0), Some(&[2, 5, 6]));
    }
}

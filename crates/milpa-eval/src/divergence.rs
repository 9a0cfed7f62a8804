//! How far a model's next-token distributions moved from those of the model it began as.
//!
//! KL(base ‖ model) in nats, at a few places of each text. It takes the optional capability of
//! next-token distributions on both sides and one vocabulary; elsewhere it is "unavailable", with
//! the reason.

use milpa_base::{ModelError, TextModel};
use serde::{Deserialize, Serialize};

use crate::{
    error::EvalError,
    multiple_choice::Resampling,
    run::Watch,
    statistics::{Interval, LEVEL, bootstrap_mean, mean},
};

/// Places in each text at which distributions are compared.
const PLACES: usize = 4;
/// Longest context, in bytes.
const CONTEXT_BYTES: usize = 2048;

/// Mean divergence from the base, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// It could be measured.
    Measured {
        /// Mean KL(base ‖ model) in nats.
        nats: f64,
        /// Its interval; texts are drawn.
        interval: Option<Interval>,
        /// Texts.
        texts: u64,
        /// Places of all texts.
        places: u64,
    },
    /// It could not.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// The base's distributions at fixed places of fixed texts: with them, many models can be held against
/// the base without keeping it. They take vocabulary · 4 bytes for each of up to four places of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseDistributions(Result<Vec<TextPlaces>, String>);

/// Contexts of a text and what the base says follows.
type TextPlaces = Vec<(String, Vec<f32>)>;

impl BaseDistributions {
    /// Asks the base at `PLACES` places of each text, evenly spread, with up to 2 KiB of context.
    ///
    /// # Errors
    /// A model that fails (not one that cannot tell its distributions), no text, or a stop.
    pub fn of(base: &dyn TextModel, texts: &[String], watch: Watch<'_>) -> Result<Self, EvalError> {
        let mut by_text = Vec::with_capacity(texts.len());
        watch.progress.begin("distributions of the base", Some(texts.len() as u64), "texts");
        for (done, text) in texts.iter().enumerate() {
            let mut places = Vec::with_capacity(PLACES);
            for context in contexts(text) {
                if watch.stop.is_set() {
                    return Err(EvalError::Interrupted);
                }
                match base.next_token_logprobs(context) {
                    Ok(logprobs) => places.push((context.to_owned(), logprobs)),
                    Err(error) => return Ok(Self(Err(unavailable(error)?))),
                }
            }
            if !places.is_empty() {
                by_text.push(places);
            }
            watch.progress.advance(done as u64 + 1);
        }
        watch.progress.end();
        if by_text.is_empty() {
            return Err(EvalError::NoText { detail: "no text for the divergence".to_owned() });
        }
        Ok(Self(Ok(by_text)))
    }

    /// Measures KL(base ‖ model) at those places.
    ///
    /// # Errors
    /// As [`BaseDistributions::of`].
    pub fn divergence(
        &self,
        model: &dyn TextModel,
        resampling: Resampling,
        watch: Watch<'_>,
    ) -> Result<Divergence, EvalError> {
        let texts = match &self.0 {
            Ok(texts) => texts,
            Err(reason) => return Ok(Divergence::Unavailable { reason: reason.clone() }),
        };
        let mut by_text = Vec::with_capacity(texts.len());
        watch.progress.begin("divergence", Some(texts.len() as u64), "texts");
        for (done, places) in texts.iter().enumerate() {
            let mut sum = Vec::with_capacity(places.len());
            for (context, of_base) in places {
                if watch.stop.is_set() {
                    return Err(EvalError::Interrupted);
                }
                let of_model = match model.next_token_logprobs(context) {
                    Ok(logprobs) => logprobs,
                    Err(error) => {
                        return Ok(Divergence::Unavailable { reason: unavailable(error)? });
                    }
                };
                if of_base.len() != of_model.len() {
                    let reason = format!(
                        "the vocabularies differ ({} and {} tokens)",
                        of_base.len(),
                        of_model.len()
                    );
                    return Ok(Divergence::Unavailable { reason });
                }
                sum.push(kl(of_base, &of_model));
            }
            by_text.push(mean(&sum));
            watch.progress.advance(done as u64 + 1);
        }
        watch.progress.end();
        Ok(Divergence::Measured {
            nats: mean(&by_text),
            interval: bootstrap_mean(&by_text, None, resampling.replicates, resampling.seed, LEVEL),
            texts: by_text.len() as u64,
            places: texts.iter().map(|places| places.len() as u64).sum(),
        })
    }
}

/// Measures KL(base ‖ model) on `texts`, as [`BaseDistributions`] does.
///
/// # Errors
/// A model that fails (not one that cannot tell its distributions), no text, or a stop.
pub fn divergence(
    base: &dyn TextModel,
    model: &dyn TextModel,
    texts: &[String],
    resampling: Resampling,
    watch: Watch<'_>,
) -> Result<Divergence, EvalError> {
    BaseDistributions::of(base, texts, watch)?.divergence(model, resampling, watch)
}

/// Why there is no divergence, if that is no failure.
fn unavailable(error: ModelError) -> Result<String, EvalError> {
    match error {
        ModelError::Unavailable { .. } => Ok(error.to_string()),
        source => Err(EvalError::Model { doing: "the divergence".to_owned(), source }),
    }
}

/// Beginnings of a text up to its places, cut from the left to [`CONTEXT_BYTES`].
fn contexts(text: &str) -> impl Iterator<Item = &str> {
    (1..=PLACES).map(|place| text.floor_char_boundary(text.len() * place / PLACES)).filter_map(
        |end| {
            let from = text.ceil_char_boundary(end.saturating_sub(CONTEXT_BYTES));
            (end > from).then(|| &text[from..end])
        },
    )
}

/// Σ p (ln p − ln q); what base never says adds nothing.
fn kl(base: &[f32], model: &[f32]) -> f64 {
    let term = |(p, q): (&f32, &f32)| {
        let (p, q) = (f64::from(*p), f64::from(*q));
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    };
    base.iter().zip(model).map(term).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_by_hand() {
        let logs = |p: &[f32]| p.iter().map(|p| p.ln()).collect::<Vec<f32>>();
        let found = kl(&logs(&[0.5, 0.5, 0.0]), &logs(&[0.25, 0.5, 0.25]));
        assert!((found - 0.5 * 2f64.ln()).abs() < 1e-7);
        assert_eq!(kl(&logs(&[0.3, 0.7]), &logs(&[0.3, 0.7])), 0.0);
    }

    #[test]
    fn contexts_end_on_characters_and_are_bounded() {
        let text = "ñ".repeat(3000);
        let found: Vec<&str> = contexts(&text).collect();
        assert_eq!(found.len(), PLACES);
        assert!(found.iter().all(|context| context.len() <= CONTEXT_BYTES));
        assert_eq!(contexts("").count(), 0);
    }
}

//! The parts of a recipe that belong to this crate: `[tokenizer]` and `[tokens]`.

use std::collections::BTreeSet;

use milpa_base::{Bytes, config::Location};
use serde::{Deserialize, Serialize};

/// Most tokens a vocabulary may have.
pub const MAX_VOCAB_SIZE: usize = 1 << 20;

/// How a tokenizer is trained (`[tokenizer]` in a recipe).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// Tokens in all: special tokens, the 256 bytes and the merges. The vocabulary is smaller when
    /// the text has too few pairs.
    pub vocab_size: usize,
    /// Bytes of text to train on for each source, taken from its beginning in the corpus' order
    /// and ending with a whole document; all of it if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Bytes>,
    /// A pair that is seen less often than this is not merged.
    pub min_count: u64,
    /// Special tokens; they get the ids 0, 1, … in this order. The first one ends each document.
    pub special_tokens: Vec<String>,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self {
            vocab_size: 8192,
            sample: None,
            min_count: 2,
            special_tokens: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
                .map(str::to_owned)
                .into(),
        }
    }
}

impl TokenizerConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// The key that is wrong, and what is wrong with it.
    pub fn validate(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, message: String| Err((key.to_owned(), message));
        let least = 256 + self.special_tokens.len();
        if self.special_tokens.is_empty() {
            return wrong(
                "special_tokens",
                "the first one ends a document, so one is needed".into(),
            );
        }
        if self.special_tokens.len() > 4096 {
            return wrong("special_tokens", "there are more than 4096".into());
        }
        if !(least..=MAX_VOCAB_SIZE).contains(&self.vocab_size) {
            return wrong(
                "vocab_size",
                format!(
                    "{} is not between {least} (256 bytes and {} special tokens) and \
                     {MAX_VOCAB_SIZE}",
                    self.vocab_size,
                    self.special_tokens.len()
                ),
            );
        }
        let mut seen = BTreeSet::new();
        for token in &self.special_tokens {
            let sound = token.len() >= 2
                && token.len() <= 128
                && token.chars().all(|c| !c.is_whitespace() && !c.is_control());
            if !sound {
                return wrong(
                    "special_tokens",
                    format!("{token:?} is not 2 to 128 bytes without white space, like <|name|>"),
                );
            }
            if !seen.insert(token) {
                return wrong("special_tokens", format!("{token:?} is named twice"));
            }
        }
        if self.sample == Some(Bytes(0)) {
            return wrong("sample", "it is zero; leave it out to train on all text".into());
        }
        Ok(())
    }
}

/// How texts become token files (`[tokens]` in a recipe). Every document is encoded whole and followed
/// by the end-of-text token; there is only to choose what is kept beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokensConfig {
    /// A classifier whose probability is kept for each document, to order samples by quality.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityConfig>,
}

/// The classifier of `[tokens] quality`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityConfig {
    /// A model of `milpa corpus classifier`.
    pub model: Location,
    /// The label whose probability is the quality.
    pub label: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &TokenizerConfig, expect: Option<(&str, &str)>) {
        match (config.validate(), expect) {
            (Ok(()), None) => {}
            (Err((key, message)), Some((wanted, part))) => {
                assert_eq!(key, wanted);
                assert!(message.contains(part), "{message}");
            }
            (found, wanted) => panic!("{found:?} instead of {wanted:?}"),
        }
    }

    #[test]
    fn values_that_cannot_be_right_are_named() {
        let sound = TokenizerConfig::default();
        check(&sound, None);
        check(&TokenizerConfig { vocab_size: 258, ..sound.clone() }, Some(("vocab_size", "259")));
        let twice = vec!["<|a|>".to_owned(), "<|a|>".to_owned()];
        check(
            &TokenizerConfig { special_tokens: twice, ..sound.clone() },
            Some(("special_tokens", "twice")),
        );
        let blank = vec!["<| |>".to_owned()];
        check(
            &TokenizerConfig { special_tokens: blank, ..sound.clone() },
            Some(("special_tokens", "white space")),
        );
        check(
            &TokenizerConfig { special_tokens: vec![], ..sound },
            Some(("special_tokens", "one")),
        );
    }
}

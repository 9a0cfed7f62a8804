//! Frozen parts: which parameters a training step changes.

use milpa_tensor::{ParameterId, ParameterStore};

use crate::error::DecoderError;

/// Says for all parameters whose name matches one of `patterns` whether they get gradients; returns how
/// many values that are. `*` in a pattern stands for any characters: `model.layers.0.*`,
/// `*.mlp.*`, `model.embed_tokens.weight`.
///
/// Backward computes no gradient of a frozen matrix, and stops below the lowest part that is trained.
///
/// # Errors
/// If a pattern matches no parameter; then nothing is changed.
pub fn set_trainable(
    parameters: &mut ParameterStore,
    patterns: &[&str],
    trainable: bool,
) -> Result<usize, DecoderError> {
    let mut chosen: Vec<(ParameterId, usize)> = Vec::new();
    for pattern in patterns {
        let before = chosen.len();
        for parameter in &*parameters {
            if matches(pattern, parameter.name())
                && let Some(id) = parameters.id(parameter.name())
            {
                chosen.push((id, parameter.shape().elements()));
            }
        }
        if chosen.len() == before {
            let message = "is the name of no parameter; `*` stands for any characters".to_owned();
            return Err(DecoderError::Parameter { name: (*pattern).to_owned(), message });
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    for &(id, _) in &chosen {
        parameters.set_trainable(id, trainable);
    }
    Ok(chosen.iter().map(|(_, elements)| elements).sum())
}

/// Whether a name is what a pattern says; `*` is any characters, also none.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        // The earliest place leaves the most for what follows.
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, name: &str, expect: bool) {
        assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
    }

    #[test]
    fn stars_stand_for_any_characters() {
        check("a.b", "a.b", true);
        check("a.b", "a.bc", false);
        check("*", "", true);
        check("a.*.c", "a.b.c", true);
        check("a.*.c", "a.c", false);
        check("*.mlp.*", "model.layers.3.mlp.up_proj.weight", true);
        check("*ab*ab", "abab", true);
        check("*ab*ab", "ab", false);
        check("*.q_proj.weight", "model.layers.3.self_attn.q_proj.bias", false);
    }
}

//! A mixture: named sources with their shares, the same for corpus budgets and token budgets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Shares by source name. Shares are relative; [`Mixture::normalised`] makes them sum to one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mixture(pub BTreeMap<String, f64>);

/// A mixture that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum MixtureError {
    /// A share is negative, infinite or not a number.
    #[error("the share of {source_name:?} is {share}; shares are finite and not negative")]
    BadShare {
        /// The source.
        source_name: String,
        /// Its share.
        share: f64,
    },
    /// No share is above zero.
    #[error("no source of the mixture has a share above zero")]
    Empty,
}

impl Mixture {
    /// Returns the same mixture with shares that sum to one, without sources of share zero.
    pub fn normalised(&self) -> Result<Self, MixtureError> {
        if let Some((name, share)) =
            self.0.iter().find(|(_, share)| !(share.is_finite() && **share >= 0.0))
        {
            return Err(MixtureError::BadShare { source_name: name.clone(), share: *share });
        }
        let sum: f64 = self.0.values().sum();
        if sum <= 0.0 {
            return Err(MixtureError::Empty);
        }
        Ok(Self(
            self.0
                .iter()
                .filter(|(_, share)| **share > 0.0)
                .map(|(name, share)| (name.clone(), share / sum))
                .collect(),
        ))
    }

    /// Splits `total` whole units by the shares; the parts sum to `total` (largest remainder).
    pub fn split(&self, total: u64) -> Result<BTreeMap<String, u64>, MixtureError> {
        let normalised = self.normalised()?;
        let mut parts: Vec<(String, u64, f64)> = normalised
            .0
            .into_iter()
            .map(|(name, share)| {
                let exact = share * total as f64;
                (name, exact.floor() as u64, exact.fract())
            })
            .collect();
        let mut left = total.saturating_sub(parts.iter().map(|part| part.1).sum());
        let mut order: Vec<usize> = (0..parts.len()).collect();
        // Stable sort: equal remainders go by name, so the result is the same everywhere.
        order.sort_by(|&a, &b| parts[b].2.total_cmp(&parts[a].2));
        for &index in order.iter().cycle().take(parts.len() * 2) {
            if left == 0 {
                break;
            }
            parts[index].1 += 1;
            left -= 1;
        }
        Ok(parts.into_iter().map(|(name, part, _)| (name, part)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture(shares: &[(&str, f64)]) -> Mixture {
        Mixture(shares.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect())
    }

    #[test]
    fn parts_sum_to_the_total() {
        let parts = mixture(&[("a", 1.0), ("b", 1.0), ("c", 1.0)]).split(100).unwrap();
        assert_eq!(parts.values().sum::<u64>(), 100);
        assert_eq!(parts["a"], 34);
    }

    #[test]
    fn bad_shares_are_named() {
        let error = mixture(&[("a", 1.0), ("b", -2.0)]).normalised().unwrap_err();
        assert!(error.to_string().contains("\"b\""));
        assert_eq!(mixture(&[("a", 0.0)]).normalised(), Err(MixtureError::Empty));
    }
}

//! Buckets of perplexity: head, middle and tail of a language, as CCNet cuts them.

use serde::{Deserialize, Serialize};

/// How usual a text is among those of its language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerplexityBucket {
    /// Most like what the model was made from.
    Head,
    /// Between.
    Middle,
    /// Least like it.
    Tail,
}

impl PerplexityBucket {
    /// The name used in shards and on screens.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Middle => "middle",
            Self::Tail => "tail",
        }
    }
}

/// The perplexities of a language at which its buckets end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerplexityCuts {
    /// Largest perplexity of the head.
    pub head: f64,
    /// Largest perplexity of the middle.
    pub middle: f64,
}

impl PerplexityCuts {
    /// Cuts a sample of perplexities of one language into equal thirds (Wenzek et al. 2020).
    /// `None` of an empty sample; numbers that are not finite are left out.
    pub fn thirds(perplexities: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> =
            perplexities.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |third: usize| sorted[((last + 1) * third / 3).saturating_sub(1)];
        Some(Self { head: at(1), middle: at(2) })
    }

    /// The bucket of a text; one without a perplexity's number is in the tail.
    pub fn bucket(&self, perplexity: f64) -> PerplexityBucket {
        if perplexity <= self.head {
            PerplexityBucket::Head
        } else if perplexity <= self.middle {
            PerplexityBucket::Middle
        } else {
            PerplexityBucket::Tail
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_cut_into_thirds() {
        let sample: Vec<f64> = (1..=9).map(f64::from).rev().collect();
        let cuts = PerplexityCuts::thirds(&sample).unwrap();
        let names = |value: f64| cuts.bucket(value).name();
        let found: Vec<&str> = (1..=9).map(|value| names(f64::from(value))).collect();
        assert_eq!(found, [["head"; 3], ["middle"; 3], ["tail"; 3]].concat());
        assert_eq!(names(f64::NAN), "tail");
        assert_eq!(PerplexityCuts::thirds(&[f64::NAN]), None);
        assert_eq!(PerplexityCuts::thirds(&[5.0]).unwrap().bucket(5.0), PerplexityBucket::Head);
    }
}

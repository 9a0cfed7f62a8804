//! What a run in stages draws, as data.

use std::{collections::BTreeMap, fmt};

use milpa_base::Seed;
use serde::{Deserialize, Serialize};

use crate::{dataset::TokenDataset, packing::Packing, shards::DocumentValue};

/// Token shards that stages draw from.
#[derive(Debug, Clone)]
pub struct SourceSet<'a> {
    /// Sources of a set with a name are called `NAME/SOURCE`, and the name means all of them.
    pub name: Option<String>,
    /// The shards.
    pub dataset: &'a TokenDataset,
}

/// What a run draws.
#[derive(Debug, Clone, PartialEq)]
pub struct StagedConfig {
    /// Positions of a sample.
    pub sequence_length: usize,
    /// How sources are cut into samples.
    pub packing: Packing,
    /// Seed of the orders.
    pub seed: Seed,
    /// One after the other.
    pub stages: Vec<StageDraw>,
}

/// What a stage draws.
#[derive(Debug, Clone, PartialEq)]
pub struct StageDraw {
    /// Its name, unique in the run.
    pub name: String,
    /// Its batches.
    pub batches: u64,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Relative weights by source; all sources of the set without a name by size if left out.
    pub mixture: Option<BTreeMap<String, StageShare>>,
    /// Sources or sets that take a share of the whole stage (`weight`, below 1 in all) before the
    /// mixture takes the rest.
    pub replay: BTreeMap<String, StageShare>,
    /// In which order its samples come.
    pub order: SampleOrder,
}

/// How much of a source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageShare {
    /// Relative to the other weights.
    pub weight: f64,
    /// Passes over the source, from the run's beginning to the end of the stage, at most.
    pub epochs: Option<f64>,
}

/// In which order the samples that a stage draws come.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum SampleOrder {
    /// A new pseudo-random order in each pass.
    #[default]
    Shuffled,
    /// By the length of their documents in tokens.
    Length(Difficulty),
    /// By the perplexity of their documents.
    Perplexity(Difficulty),
    /// By the quality of their documents.
    Quality(Difficulty),
}

/// How samples are ordered by a value, and at which pace.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difficulty {
    /// Whether the value rises or falls during a pass.
    #[serde(default)]
    pub direction: Direction,
    /// Parts of equal number into which the samples of a pass are cut by value; inside a part they are
    /// shuffled.
    #[serde(default = "eight")]
    pub buckets: u32,
    /// The pace: 0 takes one bucket after the other, 1 is shuffled.
    #[serde(default)]
    pub mixing: f64,
}

fn eight() -> u32 {
    8
}

/// Whether a value rises or falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From small to large: easy to hard for length and perplexity.
    #[default]
    Ascending,
    /// From large to small.
    Descending,
}

impl SampleOrder {
    pub(super) fn difficulty(&self) -> Option<Difficulty> {
        match self {
            Self::Shuffled => None,
            Self::Length(difficulty) | Self::Perplexity(difficulty) | Self::Quality(difficulty) => {
                Some(*difficulty)
            }
        }
    }

    pub(super) fn value(&self) -> Option<DocumentValue> {
        match self {
            Self::Shuffled | Self::Length(_) => None,
            Self::Perplexity(_) => Some(DocumentValue::Perplexity),
            Self::Quality(_) => Some(DocumentValue::Quality),
        }
    }

    /// Says what is wrong with it.
    ///
    /// # Errors
    /// No buckets, or a mixing that is no share.
    pub fn validate(&self) -> Result<(), String> {
        match self.difficulty() {
            Some(Difficulty { buckets: 0, .. }) => {
                Err("buckets is 0; it is at least 1, such as 8".to_owned())
            }
            Some(Difficulty { mixing, .. }) if !(0.0..=1.0).contains(&mixing) => {
                Err(format!("mixing is {mixing}; it is 0 (bucket by bucket) to 1 (shuffled)"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for SampleOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, Some(difficulty)) = (
            match self {
                Self::Shuffled => "shuffled",
                Self::Length(_) => "length",
                Self::Perplexity(_) => "perplexity",
                Self::Quality(_) => "quality",
            },
            self.difficulty(),
        ) else {
            return f.write_str("shuffled");
        };
        let way = match difficulty.direction {
            Direction::Ascending => "rising",
            Direction::Descending => "falling",
        };
        write!(f, "{name} {way}, {} buckets", difficulty.buckets)?;
        if difficulty.mixing > 0.0 {
            write!(f, ", mixing {}", difficulty.mixing)?;
        }
        Ok(())
    }
}

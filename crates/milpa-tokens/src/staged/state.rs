//! Where the data of a run in stages stands, and its table for people.

use std::{collections::BTreeMap, fmt};

use milpa_base::{Digest, Seed};
use serde::{Deserialize, Serialize};

use crate::packing::{Packing, PackingCounts};

/// Where a plan begins: at the run's beginning, or where the run was last extended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Batches drawn before.
    pub batch: u64,
    /// Samples drawn before.
    pub sample: u64,
    /// Samples drawn before, by source.
    pub drawn: BTreeMap<String, u64>,
}

/// Where the data of a run in stages stands; a checkpoint stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedState {
    /// Seed of the orders.
    pub seed: Seed,
    /// Positions of a sample.
    pub sequence_length: usize,
    /// How sources are cut into samples.
    pub packing: Packing,
    /// Number of the batch that comes next.
    pub batch: u64,
    /// Number of the sample that comes next.
    pub sample: u64,
    /// Where the plan begins.
    pub origin: Origin,
    /// The table of stages.
    pub stages: Vec<StageRecord>,
    /// Sources drawn from or to be drawn from.
    pub sources: BTreeMap<String, SourceState>,
}

/// A stage in a [`StagedState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    /// Its name.
    pub name: String,
    /// Its batches.
    pub batches: u64,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Its order, written out: JSON readers round numbers.
    pub order: String,
    /// Samples by source, from the origin on; of a stage before the origin as it was planned, and
    /// empty if it was ended early or lengthened.
    pub samples: BTreeMap<String, u64>,
}

/// A source in a [`StagedState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceState {
    /// Hash of its token files.
    pub fingerprint: Digest,
    /// Samples of one pass.
    pub samples: u64,
    /// Samples drawn since the run's beginning.
    pub drawn: u64,
}

/// A stage as it will be drawn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedStage {
    /// Its name.
    pub name: String,
    /// Number of its first batch.
    pub first_batch: u64,
    /// Its batches.
    pub batches: u64,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Its order, for people.
    pub order: String,
    /// What it draws; empty for a stage that is done.
    pub sources: Vec<PlannedSource>,
}

/// What a stage draws of a source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedSource {
    /// The source.
    pub name: String,
    /// Samples.
    pub samples: u64,
    /// Positions of these samples.
    pub tokens: u64,
    /// Share of the stage's samples.
    pub share: f64,
    /// Passes over the source since the run's beginning, before the stage.
    pub epochs_before: f64,
    /// And after it.
    pub epochs_after: f64,
    /// And at most.
    pub epochs_limit: Option<f64>,
    /// What packing made of the source.
    pub packing: PackingCounts,
}

impl StagedState {
    pub(super) fn sources_drawn(&self) -> BTreeMap<String, u64> {
        let drawn = self.sources.iter().filter(|(_, source)| source.drawn > 0);
        drawn.map(|(name, source)| (name.clone(), source.drawn)).collect()
    }

    /// What is other in `now`, data and table, one line each; empty if nothing.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut differ = |what: &str, old: String, new: String| {
            if old != new {
                lines.push(format!("{what} was {old} and is {new}"));
            }
        };
        differ("the seed", self.seed.0.to_string(), now.seed.0.to_string());
        let lengths = (self.sequence_length.to_string(), now.sequence_length.to_string());
        differ("train.sequence_length", lengths.0, lengths.1);
        differ("train.packing", format!("{:?}", self.packing), format!("{:?}", now.packing));
        for (name, old) in &self.sources {
            match now.sources.get(name) {
                None => lines.push(format!("the source {name:?} is gone")),
                Some(new) => lines.extend(fingerprint_change(name, *old, *new)),
            }
        }
        for name in now.sources.keys().filter(|name| !self.sources.contains_key(*name)) {
            lines.push(format!("the source {name:?} is new"));
        }
        for index in 0..self.stages.len().max(now.stages.len()) {
            match (self.stages.get(index), now.stages.get(index)) {
                (Some(old), None) => lines.push(format!("the stage {:?} is gone", old.name)),
                (None, Some(new)) => lines.push(format!("the stage {:?} is new", new.name)),
                (Some(old), Some(new)) if !old.draws_as(new) => {
                    lines.push(format!("stage {} was {old}, and is {new}", index + 1));
                }
                _ => {}
            }
        }
        lines
    }
}

impl StageRecord {
    /// Whether it is the same. Of a stage that was cut where it stood it is not known what it drew.
    fn draws_as(&self, other: &Self) -> bool {
        let known = !self.samples.is_empty() && !other.samples.is_empty();
        let samples = if known { &other.samples } else { &self.samples };
        *self == Self { samples: samples.clone(), ..other.clone() }
    }
}

impl fmt::Display for StageRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, batches, batch_size, order, samples } = self;
        write!(f, "{name:?} with {batches} steps of {batch_size}, {order}")?;
        for (index, (source, samples)) in samples.iter().enumerate() {
            write!(f, "{} {source} {samples}", if index == 0 { ", of" } else { "," })?;
        }
        Ok(())
    }
}

pub(super) fn fingerprint_change(name: &str, old: SourceState, new: SourceState) -> Option<String> {
    (old.fingerprint != new.fingerprint).then(|| {
        format!(
            "the tokens of the source {name:?} were {} and are {}",
            old.fingerprint.short(),
            new.fingerprint.short()
        )
    })
}

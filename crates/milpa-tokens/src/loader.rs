//! Gives batch after batch of training sequences, resumable to the bit.
//!
//! A batch is a function of the configuration and the step alone: no generator state, no order of
//! threads. Each source is cut into windows; an epoch of a source goes through all of its windows
//! in a new pseudo-random order (a Feistel permutation that is computed, not stored). With a
//! mixture, a fixed schedule of low discrepancy says which source the n-th sample comes from, so
//! that shares hold at every point of the training and not only on average.
//!
//! Legend: b = sequence of the batch, t = position in the sequence.

use std::{collections::BTreeMap, ops::Range};

use milpa_base::{Digest, Mixture, Seed, config::nearest, hash_bytes, seed::Permutation};
use serde::{Deserialize, Serialize};

use crate::{
    dataset::{SourceTokens, TokenDataset, too_short},
    error::TokensError,
    shards::Split,
};

/// Samples after which the schedule of a mixture repeats; shares are exact to one part in this.
const CYCLE: u64 = 1 << 16;
/// Most tokens of one batch: 4 GiB of ids, far beyond what a step takes.
pub const MAX_BATCH_TOKENS: usize = 1 << 30;

/// Order of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A new pseudo-random order in each epoch.
    #[default]
    Shuffled,
}

/// What the loader gives.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// Tokens of a sequence.
    pub sequence_length: usize,
    /// Sequences of a batch.
    pub batch_size: usize,
    /// Shares of samples by source. Without a mixture, all windows of all sources are one pool and
    /// each is seen once per epoch.
    pub mixture: Option<Mixture>,
    /// Seed of the order.
    pub seed: Seed,
    /// Order of the samples.
    pub order: Order,
}

/// Sequences to learn from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Number of sequences.
    pub batch_size: usize,
    /// Positions of a sequence.
    pub sequence_length: usize,
    /// Inputs, `[b, t]`, row-major.
    pub tokens_bt: Vec<u32>,
    /// The token that follows each input, `[b, t]`.
    pub targets_bt: Vec<u32>,
    /// Number of the document within its row, from 0, rising, `[b, t]`: attention stays among
    /// positions of the same number. An end-of-text token belongs to the document it ends.
    pub documents_bt: Vec<u32>,
    /// Positions of each row that have something to predict, `[b]`; what follows is padding.
    pub lengths_b: Vec<u32>,
}

impl Batch {
    pub(crate) fn with_capacity(batch_size: usize, sequence_length: usize) -> Self {
        let room = || Vec::with_capacity(batch_size * sequence_length);
        Self {
            batch_size: 0,
            sequence_length,
            tokens_bt: room(),
            targets_bt: room(),
            documents_bt: room(),
            lengths_b: Vec::with_capacity(batch_size),
        }
    }
}

/// Where the data stands; a checkpoint stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Seed of the order.
    pub seed: Seed,
    /// Number of the sample that comes next.
    pub next_sample: u64,
    /// Hash of everything the order depends on.
    pub fingerprint: Digest,
}

/// Gives batch after batch of the training split.
#[derive(Debug)]
pub struct Loader<'a> {
    dataset: &'a TokenDataset,
    config: LoaderConfig,
    /// Sources that have at least one window.
    sources: Vec<Source<'a>>,
    /// Which source each sample of a cycle comes from; absent without a mixture.
    schedule: Option<Schedule>,
    fingerprint: Digest,
}

#[derive(Debug)]
struct Source<'a> {
    tokens: &'a SourceTokens,
    windows: u64,
    seed: Seed,
}

impl<'a> Loader<'a> {
    /// Makes a loader over the training split of `dataset`.
    ///
    /// Sources with fewer tokens than a window are left out where there is no mixture, and so are
    /// the tokens after the last whole window of a source.
    ///
    /// # Errors
    /// Sizes of zero, a mixture that names unknown sources or sources that are too short, or a
    /// split without a single window.
    pub fn new(dataset: &'a TokenDataset, config: &LoaderConfig) -> Result<Self, TokensError> {
        let bad = |message: String| Err(TokensError::Loader(message));
        if config.sequence_length == 0 || config.batch_size == 0 {
            return bad("the sequence length and the batch size must be at least one".to_owned());
        }
        if config
            .sequence_length
            .checked_mul(config.batch_size)
            .is_none_or(|tokens| tokens > MAX_BATCH_TOKENS)
        {
            return bad(format!(
                "a batch of {} × {} tokens is larger than {MAX_BATCH_TOKENS} tokens; make it \
                 smaller and accumulate gradients",
                config.batch_size, config.sequence_length
            ));
        }
        let all = dataset.sources(Split::Train);
        let seed = config.seed.derive("samples");
        let make = |tokens: &'a SourceTokens| Source {
            tokens,
            windows: tokens.window_count(config.sequence_length),
            seed: seed.derive(&tokens.name),
        };
        let (sources, schedule): (Vec<Source<'a>>, _) = match &config.mixture {
            None => (all.iter().map(make).filter(|source| source.windows > 0).collect(), None),
            Some(mixture) => {
                let shares = mixture.normalised()?.0;
                let mut sources = Vec::new();
                for name in shares.keys() {
                    let Some(tokens) = all.iter().find(|tokens| tokens.name == *name) else {
                        let names: Vec<&str> = all.iter().map(|t| t.name.as_str()).collect();
                        let hint = nearest(name, &names).map_or_else(
                            || format!("it has {}", names.join(", ")),
                            |near| format!("did you mean {near:?}?"),
                        );
                        return bad(format!(
                            "the mixture names {name:?}, which the training split has not; {hint}"
                        ));
                    };
                    let source = make(tokens);
                    if source.windows == 0 {
                        return bad(format!(
                            "the source {name:?} of the mixture has {} tokens, fewer than one \
                             window of {}",
                            tokens.len(),
                            config.sequence_length + 1
                        ));
                    }
                    sources.push(source);
                }
                (sources, Some(Schedule::new(mixture)?))
            }
        };
        if sources.is_empty() {
            return Err(too_short(Split::Train, config.sequence_length));
        }
        let fingerprint = fingerprint(dataset, config);
        Ok(Self { dataset, config: config.clone(), sources, schedule, fingerprint })
    }

    /// The batch of `step`, counted from 0.
    ///
    /// # Errors
    /// A token file that was damaged after it was opened.
    pub fn batch(&self, step: u64) -> Result<Batch, TokensError> {
        let LoaderConfig { batch_size, sequence_length, .. } = self.config;
        let mut batch = Batch::with_capacity(batch_size, sequence_length);
        let first = step.saturating_mul(batch_size as u64);
        for sample in first..first.saturating_add(batch_size as u64) {
            let (source, window) = self.locate(sample);
            self.sources[source].tokens.read_window(window, self.dataset.eos_id(), &mut batch)?;
        }
        Ok(batch)
    }

    /// Source and window of sample number `sample`.
    fn locate(&self, sample: u64) -> (usize, u64) {
        let Some(schedule) = &self.schedule else {
            let total: u64 = self.sources.iter().map(|source| source.windows).sum();
            let seed = self.config.seed.derive("pool");
            let mut window = shuffled(seed, total, sample);
            for (index, source) in self.sources.iter().enumerate() {
                if window < source.windows {
                    return (index, window);
                }
                window -= source.windows;
            }
            unreachable!("a window of the pool belongs to a source");
        };
        let (index, nth) = schedule.locate(sample);
        let source = &self.sources[index];
        (index, shuffled(source.seed, source.windows, nth))
    }

    /// What a checkpoint stores when `next_step` comes next.
    pub fn state(&self, next_step: u64) -> LoaderState {
        LoaderState {
            seed: self.config.seed,
            next_sample: next_step.saturating_mul(self.config.batch_size as u64),
            fingerprint: self.fingerprint,
        }
    }

    /// The step at which a stored state goes on.
    ///
    /// # Errors
    /// A state of other data or settings, or one between two steps.
    pub fn resume(&self, state: &LoaderState) -> Result<u64, TokensError> {
        if state.fingerprint != self.fingerprint || state.seed != self.config.seed {
            return Err(TokensError::OtherData {
                stored: state.fingerprint.short(),
                current: self.fingerprint.short(),
            });
        }
        let batch_size = self.config.batch_size as u64;
        if !state.next_sample.is_multiple_of(batch_size) {
            return Err(TokensError::Loader(format!(
                "the stored position {} is not the beginning of a batch of {batch_size}; the \
                 checkpoint is damaged",
                state.next_sample
            )));
        }
        Ok(state.next_sample / batch_size)
    }

    /// Passes over each source after `steps` steps; 1.0 is once through.
    pub fn epochs(&self, steps: u64) -> BTreeMap<String, f64> {
        let samples = steps.saturating_mul(self.config.batch_size as u64);
        let total: u64 = self.sources.iter().map(|source| source.windows).sum();
        self.sources
            .iter()
            .enumerate()
            .map(|(index, source)| {
                let epochs = match &self.schedule {
                    Some(schedule) => {
                        schedule.count_before(index, samples) as f64 / source.windows as f64
                    }
                    None => samples as f64 / total as f64,
                };
                (source.tokens.name.clone(), epochs)
            })
            .collect()
    }

    /// Tokens by source of the batches `steps`.
    pub fn tokens_by_source(&self, steps: Range<u64>) -> BTreeMap<String, u64> {
        let batch_size = self.config.batch_size as u64;
        let mut tokens = vec![0; self.sources.len()];
        let samples = steps.start.saturating_mul(batch_size)..steps.end.saturating_mul(batch_size);
        for sample in samples {
            tokens[self.locate(sample).0] += self.config.sequence_length as u64;
        }
        let named = self.sources.iter().zip(tokens).filter(|(_, tokens)| *tokens > 0);
        named.map(|(source, tokens)| (source.tokens.name.clone(), tokens)).collect()
    }

    /// Steps that go once through every window of every source (without a mixture), rounded up.
    pub fn steps_per_epoch(&self) -> u64 {
        let total: u64 = self.sources.iter().map(|source| source.windows).sum();
        total.div_ceil(self.config.batch_size as u64)
    }

    /// Hash of everything the order depends on.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }
}

/// The `nth` element of an endless row of permutations of `0..len`, a new one in each epoch.
pub(crate) fn shuffled(seed: Seed, len: u64, nth: u64) -> u64 {
    Permutation::new(seed.nth(nth / len), len).apply(nth % len)
}

fn fingerprint(dataset: &TokenDataset, config: &LoaderConfig) -> Digest {
    let LoaderConfig { sequence_length, batch_size, mixture, seed, order } = config;
    let described = serde_json::json!({
        "loader": 1,
        "data": dataset.digest(),
        "sequence_length": sequence_length,
        "batch_size": batch_size,
        "mixture": mixture,
        "seed": seed,
        "order": order,
    });
    hash_bytes(described.to_string().as_bytes())
}

/// A cycle of [`CYCLE`] samples in which each source appears as often as its share says, spread
/// evenly: the k-th of a source's n samples has the time (k + ½) / n, and samples go by time.
///
/// At any point of the training the number of samples of a source is within (1 + number of sources)
/// / 2 of its share.
#[derive(Debug)]
struct Schedule {
    /// (source, how many of the source's samples came before in the cycle)
    samples: Vec<(u32, u32)>,
    /// Samples of each source in a cycle.
    per_cycle: Vec<u64>,
}

impl Schedule {
    /// `mixture` has its sources in the order of their names, as [`Mixture::normalised`] gives it.
    fn new(mixture: &Mixture) -> Result<Self, TokensError> {
        let shares = mixture.normalised()?;
        let parts = shares.split(CYCLE)?;
        if let Some((name, _)) = parts.iter().find(|(_, part)| **part == 0) {
            return Err(TokensError::Loader(format!(
                "the share of {name:?} in the mixture is below 1/{CYCLE}; raise it or leave the \
                 source out"
            )));
        }
        let per_cycle: Vec<u64> = parts.into_values().collect();
        let mut order: Vec<(u64, u32, u32)> = Vec::with_capacity(CYCLE as usize);
        for (source, &count) in per_cycle.iter().enumerate() {
            for nth in 0..count {
                // Time in units of 2^-46, far finer than two samples lie apart.
                let time = ((2 * nth + 1) << 45) / count;
                order.push((time, source as u32, nth as u32));
            }
        }
        order.sort_unstable();
        let samples = order.into_iter().map(|(_, source, nth)| (source, nth)).collect();
        Ok(Self { samples, per_cycle })
    }

    /// The source of a sample, and its number among the samples of that source.
    fn locate(&self, sample: u64) -> (usize, u64) {
        let (source, nth) = self.samples[(sample % CYCLE) as usize];
        let source = source as usize;
        (source, sample / CYCLE * self.per_cycle[source] + u64::from(nth))
    }

    fn count_before(&self, source: usize, sample: u64) -> u64 {
        let rest = &self.samples[..(sample % CYCLE) as usize];
        let in_rest = rest.iter().filter(|(other, _)| *other as usize == source).count() as u64;
        sample / CYCLE * self.per_cycle[source] + in_rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_hold_at_every_point(
            shares in prop::collection::vec(0.01f64..1.0, 1..6),
            at in 0u64..200_000,
        ) {
            let mixture = Mixture(
                shares.iter().enumerate().map(|(i, share)| (format!("s{i}"), *share)).collect(),
            );
            let schedule = Schedule::new(&mixture).unwrap();
            let normalised = mixture.normalised().unwrap();
            let bound = (1 + shares.len()) as f64 / 2.0 + at as f64 / CYCLE as f64;
            for (index, share) in normalised.0.values().enumerate() {
                let count = schedule.count_before(index, at) as f64;
                prop_assert!((count - share * at as f64).abs() <= bound, "{count} {share} {at}");
            }
        }

        #[test]
        fn samples_of_a_source_are_numbered_without_gaps(
            shares in prop::collection::vec(0.01f64..1.0, 1..5),
        ) {
            let mixture = Mixture(
                shares.iter().enumerate().map(|(i, share)| (format!("s{i}"), *share)).collect(),
            );
            let schedule = Schedule::new(&mixture).unwrap();
            let mut next = vec![0; shares.len()];
            for sample in 0..2 * CYCLE + 10 {
                let (source, nth) = schedule.locate(sample);
                prop_assert_eq!(nth, next[source]);
                next[source] += 1;
            }
        }
    }

    #[test]
    fn a_vanishing_share_is_refused() {
        let mixture =
            Mixture([("a".to_owned(), 1.0), ("b".to_owned(), 1e-9)].into_iter().collect());
        let error = Schedule::new(&mixture).unwrap_err().to_string();
        assert!(error.contains("\"b\""), "{error}");
    }
}

//! Curricula: the samples that a stage draws of a source, in an order by difficulty.

use super::{Difficulty, Direction, SampleOrder, Source};
use crate::{error::TokensError, loader::shuffled, shards::DocumentValue};

/// Says that a source has not the values that a stage orders by.
pub(super) fn check_values(
    source: &Source<'_>,
    order: SampleOrder,
    count: u64,
) -> Result<(), String> {
    if order == SampleOrder::Shuffled {
        return Ok(());
    }
    if u32::try_from(count).is_err() {
        return Err(format!("{count} samples of {:?} are too many to be ordered", source.name));
    }
    match order.value().filter(|value| !source.samples.tokens.has(*value)) {
        None => Ok(()),
        Some(value) => {
            let remedy = match value {
                DocumentValue::Perplexity => "give the corpus a [[corpus.perplexity]] model",
                DocumentValue::Quality => "name a classifier in [tokens] quality",
            };
            Err(format!(
                "its order is by {value}, which the documents of {:?} have not; {remedy} and encode \
                 again, or order by length",
                source.name
            ))
        }
    }
}

/// The order of samples `range` of a source by difficulty, pass by pass, as offsets from its start.
pub(super) fn by_difficulty(
    source: &Source<'_>,
    order: SampleOrder,
    difficulty: Difficulty,
    range: std::ops::Range<u64>,
) -> Result<Vec<u32>, TokensError> {
    let of_a_pass = source.samples.counts.samples;
    let mut offsets = Vec::with_capacity((range.end - range.start) as usize);
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min((start / of_a_pass + 1) * of_a_pass);
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for nth in start..end {
            let offset = (nth - range.start) as u32;
            let sample = shuffled(source.seed, of_a_pass, nth);
            match value_of(source, order, sample)? {
                Some(value) => known.push((value, offset)),
                None => unknown.push(offset),
            }
        }
        known.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut ranked: Vec<u32> = known.into_iter().map(|(_, offset)| offset).collect();
        let middle = ranked.len() / 2;
        ranked.splice(middle..middle, unknown);
        if difficulty.direction == Direction::Descending {
            ranked.reverse();
        }
        let (count, buckets) = (ranked.len() as u64, u64::from(difficulty.buckets));
        let first = (start - range.start) as u32;
        let mut keyed: Vec<(f64, u32)> = ranked
            .into_iter()
            .enumerate()
            .map(|(rank, offset)| {
                let bucket = (rank as u64 * buckets / count) as f64 / buckets as f64;
                let place = f64::from(offset - first) / count as f64;
                let key = (1.0 - difficulty.mixing) * bucket + difficulty.mixing * place;
                (key, offset)
            })
            .collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        offsets.extend(keyed.into_iter().map(|(_, offset)| offset));
        start = end;
    }
    Ok(offsets)
}

/// The mean over a sample's tokens of its documents' values.
fn value_of(
    source: &Source<'_>,
    order: SampleOrder,
    sample: u64,
) -> Result<Option<f64>, TokensError> {
    let tokens = source.samples.tokens;
    let (mut sum, mut weight) = (0.0, 0.0);
    for range in source.samples.ranges(sample) {
        let (mut at, mut document) = (range.start, tokens.document_at(range.start));
        while at < range.end {
            let Some(whole) = tokens.document_range(document)? else { break };
            let end = whole.end.min(range.end);
            let value = match order.value() {
                None => (whole.end - whole.start) as f64,
                Some(value) => f64::from(tokens.value(value, document)),
            };
            if value.is_finite() {
                sum += value * (end - at) as f64;
                weight += (end - at) as f64;
            }
            (at, document) = (end, document + 1);
        }
    }
    Ok((weight > 0.0).then(|| sum / weight))
}

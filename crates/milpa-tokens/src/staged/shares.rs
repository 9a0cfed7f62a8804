//! From the weights of a stage to its sources: names are found, shares spread, caps checked.

use std::collections::BTreeMap;

use milpa_base::config::nearest;

use super::{Source, SourceSet, StageDraw, StageShare, StagedConfig, bad};
use crate::{dataset::SourceTokens, error::TokensError, packing::Samples, shards::Split};

/// A weight of a stage with where it came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    pub(super) share: f64,
    pub(super) epochs: Option<f64>,
    /// Whether the recipe names it; sources by size may be too small to be drawn.
    pub(super) explicit: bool,
}

/// The weight of each source in a stage; sources that are seen first are cut into samples.
pub(super) fn weights<'a>(
    sets: &[SourceSet<'a>],
    config: &StagedConfig,
    stage: &StageDraw,
    sources: &mut Vec<Source<'a>>,
) -> Result<BTreeMap<String, Weight>, TokensError> {
    let replayed: f64 = stage.replay.values().map(|share| share.weight).sum();
    if !(0.0..1.0).contains(&replayed) {
        return bad(format!("replay takes {replayed} of it; all replay together is below 1"));
    }
    let mut weights = BTreeMap::<String, Weight>::new();
    let mut add = |name: String, weight: f64, epochs: Option<f64>, explicit: bool| {
        let entry = weights.entry(name).or_insert(Weight { share: 0.0, epochs, explicit });
        entry.share += weight;
        entry.explicit |= explicit;
        entry.epochs = [entry.epochs, epochs].into_iter().flatten().reduce(f64::min);
    };
    for (name, share) in &stage.replay {
        check_share(name, share)?;
        let found = find(sets, config, name, sources, "replay")?;
        let named = largest(&found);
        spread(&found, share.weight, |name, weight| {
            let explicit = named == Some(&name);
            add(name, weight, share.epochs, explicit);
        });
    }
    let rest = 1.0 - replayed;
    if let Some(mixture) = &stage.mixture {
        for (name, share) in mixture {
            check_share(name, share)?;
        }
        let total: f64 = mixture.values().map(|share| share.weight).sum();
        if total <= 0.0 {
            return bad("no source of its mixture has a weight above zero".to_owned());
        }
        for (name, share) in mixture.iter().filter(|(_, share)| share.weight > 0.0) {
            let found = find(sets, config, name, sources, "mixture")?;
            let weight = rest * share.weight / total;
            let named = largest(&found);
            spread(&found, weight, |name, weight| {
                let explicit = named == Some(&name);
                add(name, weight, share.epochs, explicit);
            });
        }
    } else {
        let mut all = Vec::new();
        for set in sets.iter().filter(|set| set.name.is_none()) {
            for tokens in set.dataset.sources(Split::Train) {
                let (place, samples) = open(set, tokens, config, sources)?;
                all.push((sources[place].name.clone(), samples));
            }
        }
        spread(&all, rest, |name, weight| add(name, weight, None, false));
    }
    weights.retain(|_, weight| weight.share > 0.0);
    if weights.is_empty() {
        return bad(format!(
            "no source has a sample of {} tokens; use more text or a shorter sequence length",
            config.sequence_length
        ));
    }
    Ok(weights)
}

fn check_share(name: &str, share: &StageShare) -> Result<(), TokensError> {
    if !(share.weight.is_finite() && share.weight >= 0.0) {
        let weight = share.weight;
        return bad(format!(
            "the weight of {name:?} is {weight}; weights are finite and not negative"
        ));
    }
    match share.epochs {
        Some(epochs) if !(epochs.is_finite() && epochs > 0.0) => {
            bad(format!("{name:?} may be drawn {epochs} times; epochs are above zero, such as 4"))
        }
        _ => Ok(()),
    }
}

/// The largest source of those that a name stands for: it must be drawn, smaller ones may be too small.
fn largest(found: &[(String, u64)]) -> Option<&String> {
    found.iter().max_by_key(|(_, samples)| samples).map(|(name, _)| name)
}

/// Shares a weight among sources by their samples.
fn spread(found: &[(String, u64)], weight: f64, mut add: impl FnMut(String, f64)) {
    let total: u64 = found.iter().map(|(_, samples)| samples).sum();
    for (name, samples) in found {
        add(name.clone(), weight * *samples as f64 / total.max(1) as f64);
    }
}

/// The sources that a name stands for, with their samples.
fn find<'a>(
    sets: &[SourceSet<'a>],
    config: &StagedConfig,
    wanted: &str,
    sources: &mut Vec<Source<'a>>,
    table: &str,
) -> Result<Vec<(String, u64)>, TokensError> {
    let mut found = Vec::new();
    let mut names = Vec::new();
    for set in sets {
        for tokens in set.dataset.sources(Split::Train) {
            let name = full_name(set, tokens);
            if name == wanted || set.name.as_deref() == Some(wanted) {
                let (place, samples) = open(set, tokens, config, sources)?;
                found.push((sources[place].name.clone(), samples));
            }
            names.push(name);
        }
        names.extend(set.name.clone());
    }
    if found.is_empty() {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let hint = nearest(wanted, &names).map_or_else(
            || format!("it has {}", names.join(", ")),
            |near| format!("did you mean {near:?}?"),
        );
        return bad(format!(
            "its {table} names {wanted:?}, which the training split has not; {hint}"
        ));
    }
    if found.iter().all(|(_, samples)| *samples == 0) {
        return bad(format!(
            "the source {wanted:?} of its {table} is shorter than one sample of {} tokens; leave it \
             out, or choose a shorter sequence length or packing = \"best_fit\"",
            config.sequence_length + 1
        ));
    }
    Ok(found)
}

fn full_name(set: &SourceSet<'_>, tokens: &SourceTokens) -> String {
    match &set.name {
        Some(set) => format!("{set}/{}", tokens.name),
        None => tokens.name.clone(),
    }
}

/// A source in the list, cut into samples when it is first named; its place and its samples.
fn open<'a>(
    set: &SourceSet<'a>,
    tokens: &'a SourceTokens,
    config: &StagedConfig,
    sources: &mut Vec<Source<'a>>,
) -> Result<(usize, u64), TokensError> {
    let name = full_name(set, tokens);
    if let Some(place) = sources.iter().position(|source| source.name == name) {
        return Ok((place, sources[place].samples.counts.samples));
    }
    let samples = Samples::new(tokens, config.packing, config.sequence_length)?;
    let seed = config.seed.derive("samples").derive(&name);
    let count = samples.counts.samples;
    sources.push(Source { name, eos_id: set.dataset.eos_id(), samples, seed });
    Ok((sources.len() - 1, count))
}

/// Says that a source would be drawn more often than it may, and what would mend it.
pub(super) fn check_epochs(
    source: &Source<'_>,
    weight: &Weight,
    before: u64,
    count: u64,
    stage_samples: u64,
) -> Result<(), String> {
    let Some(epochs) = weight.epochs else { return Ok(()) };
    let of_a_pass = source.samples.counts.samples;
    let allowed = (epochs * of_a_pass as f64).floor() as u64;
    if before + count <= allowed {
        return Ok(());
    }
    let needed = (before + count) as f64 / of_a_pass as f64;
    let left = allowed.saturating_sub(before) as f64 / stage_samples as f64;
    Err(format!(
        "{:?} runs out of epochs: at the end of the stage it would be drawn {needed:.2} times, and it \
         may be drawn {epochs} times; set its epochs to {:.2}, or lower its share of the stage from \
         {:.1} % to at most {:.1} %",
        source.name,
        (needed * 100.0).ceil() / 100.0,
        count as f64 / stage_samples as f64 * 100.0,
        (left * 1000.0).floor() / 10.0
    ))
}

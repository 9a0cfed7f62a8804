//! The stages of a run as a recipe says them: `[[train.stage]]` and `[[train.replay]]`.
//!
//! Here budgets become steps and names become what [`milpa_tokens::StagedLoader`] draws; what does not
//! add up is said before anything is opened. It knows no token shards: which sources there are, and
//! for how many passes, the loader says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use milpa_base::{Mixture, Seed, Steps, Tokens, config::Location, units::si};
use milpa_tokens::{PlannedStage, SampleOrder, StageDraw, StageShare, StagedConfig};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    config::TrainConfig,
    schedule::{Curve, Piece, Schedule},
};

/// A `[[train.stage]]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Its name, in tables and logs.
    pub name: String,
    /// Its steps. Of `steps`, `tokens` and `share` a stage has at most one; one stage may have none and
    /// takes what the others leave of `train.steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
    /// Its tokens, padding included, rounded to whole steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// Its share of `train.steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Sequences per step, if not `train.batch_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Weights of its sources: a number, or `{ weight = 0.3, epochs = 4 }` for a source that may be
    /// passed over so many times from the run's beginning to the stage's end. `train.mixture` if left
    /// out, or else all sources by size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture: Option<BTreeMap<String, SourceWeight>>,
    /// Shares of `[[train.replay]]` in this stage, where they differ; 0 for none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replay: BTreeMap<String, f64>,
    /// In which order its samples come.
    #[serde(default, skip_serializing_if = "is_shuffled")]
    pub order: SampleOrder,
    /// Its piece of the learning rate, where `train.schedule` is `{ kind = "stages" }`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Piece>,
}

fn is_shuffled(order: &SampleOrder) -> bool {
    *order == SampleOrder::Shuffled
}

/// A `[[train.replay]]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// Its name: a source of the run's own tokens, or a new name where `tokens` says another folder.
    pub name: String,
    /// Folder of token shards, encoded with the run's tokenizer, such as `milpa tokens
    /// generate-replay` writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Location>,
    /// Share of every stage's samples that does not say otherwise; from 0 to below 1.
    pub share: f64,
    /// Passes over it in the run, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
}

/// The weight of a source in a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceWeight(pub StageShare);

/// The long form of a weight.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightTable {
    weight: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epochs: Option<f64>,
}

impl Serialize for SourceWeight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let StageShare { weight, epochs } = self.0;
        if epochs.is_none() {
            return serializer.serialize_f64(weight);
        }
        WeightTable { weight, epochs }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SourceWeight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = SourceWeight;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a weight such as 0.3, or { weight = 0.3, epochs = 4 }")
            }

            fn visit_f64<E: de::Error>(self, weight: f64) -> Result<SourceWeight, E> {
                Ok(SourceWeight(StageShare { weight, epochs: None }))
            }

            fn visit_i64<E: de::Error>(self, weight: i64) -> Result<SourceWeight, E> {
                self.visit_f64(weight as f64)
            }

            fn visit_u64<E: de::Error>(self, weight: u64) -> Result<SourceWeight, E> {
                self.visit_f64(weight as f64)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<SourceWeight, A::Error> {
                let WeightTable { weight, epochs } =
                    WeightTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(SourceWeight(StageShare { weight, epochs }))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl TrainConfig {
    /// The learning rate over the run.
    ///
    /// # Errors
    /// A schedule that does not fit the steps, or pieces of stages that do not cover them.
    pub fn curve(&self) -> Result<Curve, String> {
        let own = self.stages.iter().find(|stage| !stage.schedule.is_empty());
        match (&self.schedule, own) {
            (Schedule::Stages, _) if !self.stages.is_empty() => {
                let steps = self.stage_steps()?;
                Schedule::over_stages(
                    self.stages.iter().zip(steps).map(|(stage, steps)| {
                        (stage.name.as_str(), stage.schedule.as_slice(), steps)
                    }),
                )
            }
            (Schedule::Stages, _) | (_, None) => self.schedule.over(self.steps),
            (_, Some(stage)) => Err(format!(
                "stage {:?} has a schedule of its own: write schedule = {{ kind = \"stages\" }} under \
                 [train] and give one to every stage, or take it out",
                stage.name
            )),
        }
    }

    /// Tokens trained on after `step` steps, padding included.
    pub fn tokens_after(&self, step: u64) -> u64 {
        let mut left = step;
        let mut sequences: u64 = 0;
        // Stages that do not add up are refused before anything is trained.
        for (stage, steps) in self.stages.iter().zip(self.stage_steps().unwrap_or_default()) {
            let done = left.min(steps);
            sequences = sequences.saturating_add(done.saturating_mul(self.batch_of(stage) as u64));
            left -= done;
        }
        sequences
            .saturating_add(left.saturating_mul(self.batch_size as u64))
            .saturating_mul(self.sequence_length as u64)
    }

    /// The stage of a step, counted from 0; `None` in a run without stages.
    pub(crate) fn stage_at(&self, step: u64) -> Option<&StageConfig> {
        let stage = self.stage_ends().iter().position(|end| step < *end);
        stage.map(|stage| &self.stages[stage])
    }

    /// Steps done at the end of each stage.
    pub fn stage_ends(&self) -> Vec<u64> {
        let mut end = 0;
        let add = |steps| {
            end += steps;
            end
        };
        self.stage_steps().unwrap_or_default().into_iter().map(add).collect()
    }

    /// Sequences per step in the stage that has most.
    pub(crate) fn largest_batch(&self) -> usize {
        let largest = self.stages.iter().map(|stage| self.batch_of(stage)).max();
        largest.unwrap_or(self.batch_size)
    }

    /// Sequences per step in a stage.
    fn batch_of(&self, stage: &StageConfig) -> usize {
        stage.batch_size.unwrap_or(self.batch_size)
    }

    /// The steps of each stage.
    ///
    /// # Errors
    /// Budgets that are not the run's steps.
    pub fn stage_steps(&self) -> Result<Vec<u64>, String> {
        if self.stages.is_empty() {
            return Ok(Vec::new());
        }
        let total = self.steps.0;
        let shares: Option<BTreeMap<String, f64>> = self
            .stages
            .iter()
            .enumerate()
            .map(|(index, stage)| stage.share.map(|share| (format!("{index:08}"), share)))
            .collect();
        // Shares of the whole run leave no step over.
        let whole = shares.filter(|shares| (shares.values().sum::<f64>() - 1.0).abs() < 1e-9);
        let mut steps: Vec<Option<u64>> = match whole {
            Some(shares) => {
                let parts = Mixture(shares).split(total).map_err(|error| error.to_string())?;
                (0..self.stages.len())
                    .map(|index| Some(parts.get(&format!("{index:08}")).copied().unwrap_or(0)))
                    .collect()
            }
            None => self.stages.iter().map(|stage| self.budget(stage)).collect::<Result<_, _>>()?,
        };
        let sum = steps.iter().flatten().fold(0u64, |sum, steps| sum.saturating_add(*steps));
        let open = steps.iter().filter(|steps| steps.is_none()).count();
        let named = || -> String {
            let one = |(stage, steps): (&StageConfig, &Option<u64>)| {
                steps.map(|steps| format!("{} {steps}", stage.name))
            };
            self.stages.iter().zip(&steps).filter_map(one).collect::<Vec<_>>().join(", ")
        };
        if open > 1 {
            return Err(format!(
                "{open} stages say neither steps nor tokens nor share: at most one can take what the \
                 others leave"
            ));
        }
        if open == 1 && sum >= total {
            return Err(format!(
                "the stages take {sum} steps ({}) of the {total} of train.steps and leave none for \
                 {:?}: set train.steps above {sum}, or shorten them",
                named(),
                self.stages[steps.iter().position(Option::is_none).unwrap_or(0)].name
            ));
        }
        if open == 0 && sum != total {
            let (verb, by) =
                if sum > total { ("shorten", sum - total) } else { ("lengthen", total - sum) };
            return Err(format!(
                "the stages take {sum} steps ({}), but train.steps is {total}: set train.steps to \
                 {sum}, or {verb} the stages by {by} steps; a stage without a budget takes the rest",
                named()
            ));
        }
        for place in &mut steps {
            place.get_or_insert(total - sum);
        }
        let steps: Vec<u64> = steps.into_iter().flatten().collect();
        if let Some(index) = steps.iter().position(|steps| *steps == 0) {
            return Err(format!(
                "stage {:?} has less than one step: give it more, or leave it out",
                self.stages[index].name
            ));
        }
        Ok(steps)
    }

    /// The steps that a stage asks for by itself.
    fn budget(&self, stage: &StageConfig) -> Result<Option<u64>, String> {
        let name = &stage.name;
        match (stage.steps, stage.tokens, stage.share) {
            (None, None, None) => Ok(None),
            (Some(Steps(steps)), None, None) => Ok(Some(steps)),
            (None, Some(Tokens(tokens)), None) => {
                let of_a_step = (self.batch_of(stage).saturating_mul(self.sequence_length)) as u64;
                Ok(Some((tokens.saturating_add(of_a_step / 2)) / of_a_step.max(1)))
            }
            (None, None, Some(share)) if (0.0..=1.0).contains(&share) => {
                Ok(Some((share * self.steps.0 as f64).round() as u64))
            }
            (None, None, Some(share)) => {
                Err(format!("stage {name:?} has the share {share}; it is 0 to 1, of train.steps"))
            }
            _ => {
                Err(format!("stage {name:?} has two budgets: keep one of steps, tokens and share"))
            }
        }
    }

    /// Finds stages and replay that make no sense, whatever the text.
    pub(crate) fn validate_stages(&self) -> Result<(), String> {
        if self.stages.is_empty() {
            let needs_stages = |key: &str| {
                Err(format!(
                    "{key} needs a run in stages: add [[train.stage]] with name = \"all\", which then is \
                     the whole run"
                ))
            };
            return if !self.replay.is_empty() {
                needs_stages("[[train.replay]]")
            } else if self.packing != milpa_tokens::Packing::Windows {
                needs_stages("train.packing")
            } else {
                Ok(())
            };
        }
        let unique = |what: &str, names: Vec<&String>| {
            let mut seen = BTreeSet::new();
            match names.iter().find(|name| name.trim().is_empty() || !seen.insert(**name)) {
                None => Ok(()),
                Some(name) if name.trim().is_empty() => Err(format!("a {what} has no name")),
                Some(name) => {
                    Err(format!("two {what}s are called {name:?}: give each its own name"))
                }
            }
        };
        unique("stage", self.stages.iter().map(|stage| &stage.name).collect())?;
        unique("replay", self.replay.iter().map(|replay| &replay.name).collect())?;
        for stage in &self.stages {
            let StageConfig { name, order, .. } = stage;
            let within = |problem: String| format!("stage {name:?}: {problem}");
            order.validate().map_err(|problem| within(format!("order: {problem}")))?;
            let batch_size = self.batch_of(stage);
            if let Some(micro) = self.micro_batch_size
                && !batch_size.is_multiple_of(micro)
            {
                return Err(within(format!(
                    "its batches of {batch_size} are no multiple of train.micro_batch_size, which is \
                     {micro}"
                )));
            }
            if let Some(unknown) =
                stage.replay.keys().find(|name| self.replay.iter().all(|r| r.name != **name))
            {
                let names: Vec<&str> = self.replay.iter().map(|r| r.name.as_str()).collect();
                return Err(within(format!(
                    "its replay names {unknown:?}, but [[train.replay]] has {}",
                    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
                )));
            }
            let replayed: f64 = self.replay_of(stage).values().map(|share| share.weight).sum();
            if !(0.0..1.0).contains(&replayed)
                || self.replay_of(stage).values().any(|share| share.weight < 0.0)
            {
                return Err(within(format!(
                    "replay takes {replayed} of it; shares of replay are 0 or more and together below 1"
                )));
            }
            for (name, weight) in stage.mixture.iter().flatten() {
                let problem = |problem| within(format!("mixture: {name:?} has {problem}"));
                check_epochs(weight.0.epochs).map_err(problem)?;
            }
            if let Some(mixture) = &stage.mixture {
                let weights = mixture.iter().map(|(name, weight)| (name.clone(), weight.0.weight));
                let weights = Mixture(weights.collect());
                weights.normalised().map_err(|error| within(format!("mixture: {error}")))?;
            }
        }
        self.stage_steps().map(drop)
    }

    /// Finds replay that makes no sense, whatever the stages.
    pub(crate) fn validate_replay(&self) -> Result<(), String> {
        self.replay.iter().try_for_each(|replay| {
            check_epochs(replay.epochs)
                .map_err(|problem| format!("{:?} has {problem}", replay.name))
        })
    }

    /// Shares of replay in a stage.
    fn replay_of(&self, stage: &StageConfig) -> BTreeMap<String, StageShare> {
        self.replay
            .iter()
            .map(|replay| {
                let weight = stage.replay.get(&replay.name).copied().unwrap_or(replay.share);
                (replay.name.clone(), StageShare { weight, epochs: replay.epochs })
            })
            .filter(|(_, share)| share.weight != 0.0)
            .collect()
    }

    /// Whether a source's name is that of a replay set of another folder, or of a source in one.
    fn is_of_another_folder(&self, name: &str) -> bool {
        self.replay.iter().filter(|replay| replay.tokens.is_some()).any(|replay| {
            let rest = name.strip_prefix(&replay.name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Stages that order samples of the run's own tokens, by name, with the order.
    pub fn ordered_stages(&self) -> impl Iterator<Item = (&str, SampleOrder)> {
        let draws_own = move |stage: &&StageConfig| match &stage.mixture {
            None => true,
            Some(mixture) => mixture.keys().any(|name| !self.is_of_another_folder(name)),
        };
        let ordered = |stage: &&StageConfig| stage.order != SampleOrder::Shuffled;
        let stages = self.stages.iter().filter(ordered).filter(draws_own);
        stages.map(|stage| (stage.name.as_str(), stage.order))
    }

    /// Names of sources that stages (or replay, without a stage's name) expect in the run's own tokens.
    pub fn stage_sources(&self) -> Vec<(&str, Option<&str>)> {
        let own = self.replay.iter().filter(|replay| replay.tokens.is_none());
        let mut names: Vec<_> = own.map(|replay| (replay.name.as_str(), None)).collect();
        for stage in &self.stages {
            let mixture = stage.mixture.iter().flat_map(BTreeMap::keys);
            let mixture = mixture.filter(|name| !self.is_of_another_folder(name));
            names.extend(mixture.map(|name| (name.as_str(), Some(stage.name.as_str()))));
        }
        names
    }

    /// What the loader draws; `None` for a run without stages.
    ///
    /// # Errors
    /// Stages that do not add up.
    pub(crate) fn staged(&self, seed: Seed) -> Result<Option<StagedConfig>, String> {
        if self.stages.is_empty() {
            return Ok(None);
        }
        let whole_run = || {
            let mixture = self.mixture.as_ref()?;
            let share = |weight: &f64| StageShare { weight: *weight, epochs: None };
            Some(mixture.0.iter().map(|(name, weight)| (name.clone(), share(weight))).collect())
        };
        let draw = |(stage, batches): (&StageConfig, u64)| StageDraw {
            name: stage.name.clone(),
            batches,
            batch_size: self.batch_of(stage),
            mixture: match &stage.mixture {
                Some(mixture) => {
                    Some(mixture.iter().map(|(name, w)| (name.clone(), w.0)).collect())
                }
                None => whole_run(),
            },
            replay: self.replay_of(stage),
            order: stage.order,
        };
        Ok(Some(StagedConfig {
            sequence_length: self.sequence_length,
            packing: self.packing,
            seed,
            stages: self.stages.iter().zip(self.stage_steps()?).map(draw).collect(),
        }))
    }
}

/// Refuses a cap on passes that nothing can keep.
fn check_epochs(epochs: Option<f64>) -> Result<(), String> {
    match epochs {
        Some(epochs) if !(epochs.is_finite() && epochs > 0.0) => Err(format!(
            "epochs = {epochs}, which has to be above zero, such as 4; without epochs there is no limit"
        )),
        _ => Ok(()),
    }
}

/// The table of a run's stages: what each draws, and at which learning rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageTable {
    /// One after the other.
    pub stages: Vec<PlannedStage>,
    /// Share of the full learning rate at each stage's first step and after its last.
    pub learning_rate: Vec<(f64, f64)>,
}

impl StageTable {
    pub(crate) fn new(stages: Vec<PlannedStage>, curve: &Curve) -> Self {
        let ends = |stage: &PlannedStage| {
            let end = stage.first_batch + stage.batches;
            (curve.share_at(stage.first_batch), curve.share_at(end - 1))
        };
        let learning_rate = stages.iter().map(ends).collect();
        Self { stages, learning_rate }
    }
}

impl fmt::Display for StageTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = |name: &str| name.chars().count();
        let sources = self.stages.iter().flat_map(|stage| &stage.sources);
        let width = sources.map(|source| wide(&source.name)).max().unwrap_or(6).max(6);
        for (stage, (from, to)) in self.stages.iter().zip(&self.learning_rate) {
            let (first, last) = (stage.first_batch + 1, stage.first_batch + stage.batches);
            writeln!(
                f,
                "stage {}: steps {first} to {last}, {} sequences each, {}, learning rate {:.0} % to \
                 {:.0} %",
                stage.name,
                stage.batch_size,
                stage.order,
                from * 100.0,
                to * 100.0
            )?;
            if stage.sources.is_empty() {
                writeln!(f, "  done")?;
                continue;
            }
            writeln!(
                f,
                "  {:width$}  {:>8}  {:>8}  {:>14}",
                "source", "share", "tokens", "epochs"
            )?;
            for source in &stage.sources {
                let epochs = format!("{:.2} to {:.2}", source.epochs_before, source.epochs_after);
                let limit = source
                    .epochs_limit
                    .map_or_else(String::new, |limit| format!(" of {limit} at most"));
                let tokens = si(source.tokens as f64);
                let share = format!("{:.1} %", source.share * 100.0);
                write!(
                    f,
                    "  {:width$}  {share:>8}  {tokens:>8}  {epochs:>14}{limit}",
                    source.name
                )?;
                let packing = source.packing;
                if packing.documents_cut > 0 || packing.padding > 0 {
                    let positions = packing.padding as f64 * source.samples as f64 * 100.0;
                    let padding =
                        positions / (packing.samples as f64 * source.tokens as f64).max(1.0);
                    write!(
                        f,
                        " ({} documents longer than a sequence, padding {padding:.2} %)",
                        packing.documents_cut
                    )?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

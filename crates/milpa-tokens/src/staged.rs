//! Batches of a run in stages: mixtures that change, and a count of every sample that is exact.
//!
//! The number of a sample says its source, its pass over the source and its place in that pass, as a
//! function of the stages and of the [`Origin`], the counts at which the plan begins. Batches, ranks
//! and threads only cut the row of samples, so none of them can lose or repeat one
//! (`docs/design/data_through_time.md`). It knows no learning rate and no files but token shards.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, OnceLock, PoisonError},
};

use milpa_base::{Digest, Mixture, Seed, config::nearest};
use serde::{Deserialize, Serialize};

use crate::{
    dataset::{SourceTokens, TokenDataset},
    draw::Draw,
    error::TokensError,
    loader::{Batch, MAX_BATCH_TOKENS, shuffled},
    packing::{Packing, PackingCounts, Samples},
    shards::{DocumentValue, Split},
};

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
    fn difficulty(&self) -> Option<Difficulty> {
        match self {
            Self::Shuffled => None,
            Self::Length(difficulty) | Self::Perplexity(difficulty) | Self::Quality(difficulty) => {
                Some(*difficulty)
            }
        }
    }

    fn value(&self) -> Option<DocumentValue> {
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

/// Gives the batches of a run in stages.
#[derive(Debug)]
pub struct StagedLoader<'a> {
    config: StagedConfig,
    sources: Vec<Source<'a>>,
    /// Stages from the origin on.
    segments: Vec<Segment>,
    /// Stages before the origin, as they were recorded.
    past: Vec<StageRecord>,
    /// Sources drawn from before that no stage names any more.
    absent: BTreeMap<String, SourceState>,
    origin: Origin,
    /// Where batches were last asked for, so that the next one is found at once.
    reading: Mutex<Option<Walk>>,
    /// The same for questions about counts.
    counting: Mutex<Option<Walk>>,
}

#[derive(Debug)]
struct Source<'a> {
    name: String,
    eos_id: u32,
    samples: Samples<'a>,
    seed: Seed,
}

/// A stage, or what an origin leaves of it.
#[derive(Debug)]
struct Segment {
    stage: usize,
    first_batch: u64,
    first_sample: u64,
    batches: u64,
    batch_size: u64,
    /// Sources it draws from, as places in the loader's list.
    sources: Vec<usize>,
    /// Samples of each.
    counts: Vec<u64>,
    limits: Vec<Option<f64>>,
    /// Samples drawn before it, of all the loader's sources.
    before: Vec<u64>,
    /// For an order by difficulty: the n-th sample of a source is this far from its first one. Made
    /// when it is first asked for.
    orders: Vec<OnceLock<Vec<u32>>>,
}

#[derive(Debug, Clone)]
struct Walk {
    segment: usize,
    batch: u64,
    draw: Draw,
}

impl<'a> StagedLoader<'a> {
    /// Lays stages over token shards, from the run's beginning.
    ///
    /// # Errors
    /// A stage that cannot be drawn: a source that is missing, too short or out of epochs, shares that
    /// make no sense, values to order by that are not there. The message says what to change.
    pub fn new(sets: &[SourceSet<'a>], config: &StagedConfig) -> Result<Self, TokensError> {
        Self::build(sets, config, Origin::default(), Vec::new(), BTreeMap::new())
    }

    /// The loader of a run that goes on as it was.
    ///
    /// # Errors
    /// Beside those of [`StagedLoader::new`], [`TokensError::OtherPlan`] with what has changed.
    pub fn resume(
        sets: &[SourceSet<'a>],
        config: &StagedConfig,
        state: &StagedState,
    ) -> Result<Self, TokensError> {
        let loader = Self::at(sets, config, state, state.origin.clone())?;
        loader.check(state)?;
        Ok(loader)
    }

    /// Checks that a state is one of this loader's.
    ///
    /// # Errors
    /// [`TokensError::OtherPlan`] with what is other.
    pub fn check(&self, state: &StagedState) -> Result<(), TokensError> {
        let now = self.state(state.batch)?;
        if now == *state {
            return Ok(());
        }
        let mut changed = state.differences(&now);
        if changed.is_empty() {
            changed.push(
                "the counts of the checkpoint are not those of its plan: it is damaged; resume from \
                 an older one"
                    .to_owned(),
            );
        }
        Err(TokensError::OtherPlan(changed.join("\n  ")))
    }

    /// The loader of a run whose later stages or mixture were changed: what is done stays as it was, and
    /// the new plan begins with the counts of `state`, or with its old origin if the stage under way
    /// is unchanged.
    ///
    /// # Errors
    /// Beside those of [`StagedLoader::new`], [`TokensError::OtherPlan`] if what was done already would
    /// be other.
    pub fn extend(
        sets: &[SourceSet<'a>],
        config: &StagedConfig,
        state: &StagedState,
    ) -> Result<Self, TokensError> {
        let refuse = |message: String| Err(TokensError::OtherPlan(message));
        if (config.seed, config.sequence_length, config.packing)
            != (state.seed, state.sequence_length, state.packing)
        {
            return refuse(
                "the seed, train.sequence_length and train.packing say what a sample is and cannot \
                 change within a run: put them back"
                    .to_owned(),
            );
        }
        // Stages that were drawn from, and how many batches are done of the last of them.
        let (mut first, mut touched, mut partly) = (0, 0, false);
        for (index, old) in state.stages.iter().enumerate() {
            if first >= state.batch {
                break;
            }
            let done = (state.batch - first).min(old.batches);
            let last = index + 1 == state.stages.len();
            (touched, partly) = (index + 1, done < old.batches);
            let new = config.stages.get(index);
            let kept = new.is_some_and(|new| {
                (&new.name, new.batch_size) == (&old.name, old.batch_size)
                    && if partly || last { new.batches >= done } else { new.batches == done }
            });
            if !kept {
                let recipe = new.map_or_else(
                    || "the recipe has no such stage there any more".to_owned(),
                    |new| {
                        let StageDraw { name, batches, batch_size, .. } = new;
                        format!(
                            "the recipe has {batches} batches of {batch_size} of {name:?} there"
                        )
                    },
                );
                return refuse(format!(
                    "{done} batches of {} samples of stage {:?} are done, but {recipe}: what is done \
                     stays; end the stage there (steps = {done}) and put what is new into a stage after \
                     it",
                    old.batch_size, old.name
                ));
            }
            first += old.batches;
        }
        let as_before = Self::at(sets, config, state, state.origin.clone());
        if let Ok(loader) = &as_before {
            let now = loader.state(state.batch)?;
            if now.stages.get(..touched) == state.stages.get(..touched)
                && now.sources_drawn() == state.sources_drawn()
            {
                return as_before;
            }
        }
        if let Some(last) = touched.checked_sub(1).map(|last| &state.stages[last])
            && partly
            && last.order != SampleOrder::Shuffled.to_string()
        {
            as_before?;
            return refuse(format!(
                "stage {:?} is ordered by difficulty and half-way through a fixed set of samples: put \
                 it back as it was, and change what comes after it",
                last.name
            ));
        }
        let drawn = state.sources_drawn();
        let origin = Origin { batch: state.batch, sample: state.sample, drawn };
        Self::at(sets, config, state, origin)
    }

    /// A loader whose plan begins at `origin`; sources that were drawn from must be the same.
    fn at(
        sets: &[SourceSet<'a>],
        config: &StagedConfig,
        state: &StagedState,
        origin: Origin,
    ) -> Result<Self, TokensError> {
        let loader =
            Self::build(sets, config, origin, state.stages.clone(), state.sources.clone())?;
        let mut changed = Vec::new();
        for source in &loader.sources {
            if let Some(old) = state.sources.get(&source.name).filter(|old| old.drawn > 0) {
                changed.extend(fingerprint_change(&source.name, *old, source.state(0)));
            }
        }
        if changed.is_empty() {
            Ok(loader)
        } else {
            Err(TokensError::OtherPlan(changed.join("\n  ")))
        }
    }

    fn build(
        sets: &[SourceSet<'a>],
        config: &StagedConfig,
        origin: Origin,
        mut past: Vec<StageRecord>,
        mut absent: BTreeMap<String, SourceState>,
    ) -> Result<Self, TokensError> {
        if config.sequence_length == 0 || config.stages.is_empty() {
            return bad("a run in stages has at least one stage and a sequence length".to_owned());
        }
        let mut sources = Vec::<Source<'a>>::new();
        let mut segments = Vec::<Segment>::new();
        let (mut first_batch, mut first_sample) = (0, origin.sample);
        for (index, stage) in config.stages.iter().enumerate() {
            let end = first_batch + stage.batches;
            if end <= origin.batch && origin.batch > 0 {
                first_batch = end;
                continue;
            }
            let within = |problem: String| TokensError::Stage(stage.name.clone(), problem);
            stage.order.validate().map_err(|problem| within(format!("order: {problem}")))?;
            if stage.batches == 0 || stage.batch_size == 0 {
                return Err(within("it has no batches, or batches of nothing".to_owned()));
            }
            if stage
                .batch_size
                .checked_mul(config.sequence_length)
                .is_none_or(|tokens| tokens > MAX_BATCH_TOKENS)
            {
                return Err(within(format!(
                    "a batch of {} × {} tokens is larger than {MAX_BATCH_TOKENS} tokens; make it \
                     smaller and accumulate gradients",
                    stage.batch_size, config.sequence_length
                )));
            }
            let start = first_batch.max(origin.batch);
            let batches = end - start;
            let Some(samples) =
                batches.checked_mul(stage.batch_size as u64).filter(|samples| *samples < 1 << 53)
            else {
                return Err(within(format!("{batches} batches are more than can be counted")));
            };
            let weights = weights(sets, config, stage, &mut sources)
                .map_err(|error| error.or_within(&stage.name))?;
            let shares =
                Mixture(weights.iter().map(|(name, share)| (name.clone(), share.share)).collect());
            let parts = shares.split(samples)?;
            let mut before: Vec<u64> = match segments.last() {
                Some(segment) => segment.after(),
                None => Vec::new(),
            };
            // Sources that this stage is the first to name.
            for source in &sources[before.len()..] {
                before.push(origin.drawn.get(&source.name).copied().unwrap_or(0));
            }
            let mut segment = Segment {
                stage: index,
                first_batch: start,
                first_sample,
                batches,
                batch_size: stage.batch_size as u64,
                sources: Vec::new(),
                counts: Vec::new(),
                limits: Vec::new(),
                before,
                orders: Vec::new(),
            };
            for (place, source) in sources.iter().enumerate() {
                let Some(share) = weights.get(&source.name) else { continue };
                let count = parts.get(&source.name).copied().unwrap_or(0);
                if count == 0 {
                    if share.explicit && start == end - stage.batches {
                        return Err(within(format!(
                            "the share of {:?} is less than one of its {samples} samples; raise it or \
                             leave the source out",
                            source.name
                        )));
                    }
                    continue;
                }
                check_epochs(source, share, segment.before[place], count, samples)
                    .map_err(within)?;
                check_values(source, stage.order, count).map_err(within)?;
                segment.sources.push(place);
                segment.counts.push(count);
                segment.limits.push(share.epochs);
                segment.orders.push(OnceLock::new());
            }
            first_sample += samples;
            first_batch = end;
            segments.push(segment);
        }
        if segments.is_empty() {
            return bad(format!(
                "all {first_batch} batches of the stages are drawn already; add a stage or lengthen the \
                 last one"
            ));
        }
        past.truncate(segments[0].stage);
        for (record, stage) in past.iter_mut().zip(&config.stages) {
            if record.batches != stage.batches {
                record.batches = stage.batches;
                record.samples.clear();
            }
        }
        absent.retain(|name, state| {
            state.drawn > 0 && !sources.iter().any(|source| source.name == *name)
        });
        let count = sources.len();
        for segment in &mut segments {
            let known = segment.before.len();
            for source in &sources[known..count] {
                segment.before.push(origin.drawn.get(&source.name).copied().unwrap_or(0));
            }
        }
        Ok(Self {
            config: config.clone(),
            sources,
            segments,
            past,
            absent,
            origin,
            reading: Mutex::new(None),
            counting: Mutex::new(None),
        })
    }

    /// Batches of the plan in all.
    pub fn batches(&self) -> u64 {
        let last = self.last();
        last.first_batch + last.batches
    }

    /// The stage of a batch, as its place in the table; batches after the last one belong to the last
    /// stage.
    pub fn stage_of(&self, batch: u64) -> usize {
        let mut end = 0;
        let stages = &self.config.stages;
        let found = stages.iter().position(|stage| {
            end += stage.batches;
            batch < end
        });
        found.unwrap_or(stages.len() - 1)
    }

    /// Number of the first sample of a batch, from the run's beginning.
    ///
    /// # Errors
    /// A batch before the plan's origin.
    pub fn first_sample(&self, batch: u64) -> Result<u64, TokensError> {
        let segment = &self.segments[self.segment_of(batch)?];
        Ok(segment.first_sample + (batch - segment.first_batch) * segment.batch_size)
    }

    /// Batch number `batch`, counted from 0. After the last one the last stage goes on with its
    /// mixture.
    ///
    /// # Errors
    /// A batch before the plan's origin, or token files that were damaged after they were opened.
    pub fn batch(&self, batch: u64) -> Result<Batch, TokensError> {
        self.batch_of_rank(batch, 0, 1)
    }

    /// The part of a batch that rank `rank` of `ranks` takes: the batch is cut into rows that follow each
    /// other, so all ranks together have it once.
    ///
    /// # Errors
    /// As [`StagedLoader::batch`], or a rank that is not below `ranks`.
    pub fn batch_of_rank(&self, batch: u64, rank: u64, ranks: u64) -> Result<Batch, TokensError> {
        if rank >= ranks {
            return bad(format!("rank {rank} is not one of {ranks}"));
        }
        let samples = self.samples(batch)?;
        let size = samples.len() as u64;
        let rows = &samples[(rank * size / ranks) as usize..((rank + 1) * size / ranks) as usize];
        let mut out = Batch::with_capacity(rows.len(), self.config.sequence_length);
        for &(place, nth) in rows {
            let source = &self.sources[place];
            let sample = shuffled(source.seed, source.samples.counts.samples, nth);
            source.samples.read(sample, source.eos_id, &mut out)?;
        }
        Ok(out)
    }

    /// Source, pass over it and sample of each row of a batch.
    ///
    /// # Errors
    /// A batch before the plan's origin.
    pub fn identities(&self, batch: u64) -> Result<Vec<(&str, u64, u64)>, TokensError> {
        let samples = self.samples(batch)?;
        let identity = |(place, nth): (usize, u64)| {
            let source = &self.sources[place];
            let count = source.samples.counts.samples;
            (source.name.as_str(), nth / count, shuffled(source.seed, count, nth))
        };
        Ok(samples.into_iter().map(identity).collect())
    }

    /// Samples drawn of each source before `batch`.
    ///
    /// # Errors
    /// A batch before the plan's origin.
    pub fn drawn(&self, batch: u64) -> Result<BTreeMap<String, u64>, TokensError> {
        let walk = self.walk(&self.counting, batch)?;
        let segment = &self.segments[walk.segment];
        let mut drawn = segment.before.clone();
        for (&place, count) in segment.sources.iter().zip(walk.draw.drawn_of()) {
            drawn[place] += count;
        }
        Ok(self.sources.iter().map(|source| source.name.clone()).zip(drawn).collect())
    }

    /// Passes over each source before `batch`; 1.0 is once through.
    ///
    /// # Errors
    /// A batch before the plan's origin.
    pub fn epochs(&self, batch: u64) -> Result<BTreeMap<String, f64>, TokensError> {
        let state = self.state(batch)?;
        let epochs = |state: SourceState| state.drawn as f64 / state.samples as f64;
        Ok(state.sources.into_iter().map(|(name, state)| (name, epochs(state))).collect())
    }

    /// What a checkpoint stores when `batch` comes next.
    ///
    /// # Errors
    /// A batch before the plan's origin.
    pub fn state(&self, batch: u64) -> Result<StagedState, TokensError> {
        let drawn = self.drawn(batch)?;
        let mut sources = self.absent.clone();
        for source in &self.sources {
            sources.insert(source.name.clone(), source.state(drawn[&source.name]));
        }
        let mut stages = self.past.clone();
        stages.extend(self.segments.iter().map(|segment| {
            let stage = &self.config.stages[segment.stage];
            let names = segment.sources.iter().map(|&place| self.sources[place].name.clone());
            StageRecord {
                name: stage.name.clone(),
                batches: stage.batches,
                batch_size: stage.batch_size,
                order: stage.order.to_string(),
                samples: names.zip(segment.counts.iter().copied()).collect(),
            }
        }));
        Ok(StagedState {
            seed: self.config.seed,
            sequence_length: self.config.sequence_length,
            packing: self.config.packing,
            batch,
            sample: self.first_sample(batch)?,
            origin: self.origin.clone(),
            stages,
            sources,
        })
    }

    /// The table of what each stage will draw.
    pub fn plan(&self) -> Vec<PlannedStage> {
        let mut first_batch = 0;
        let mut planned = Vec::new();
        for (index, stage) in self.config.stages.iter().enumerate() {
            let segment = self.segments.iter().find(|segment| segment.stage == index);
            planned.push(PlannedStage {
                name: stage.name.clone(),
                first_batch,
                batches: stage.batches,
                batch_size: stage.batch_size,
                order: stage.order.to_string(),
                sources: segment.map_or_else(Vec::new, |segment| self.planned_sources(segment)),
            });
            first_batch += stage.batches;
        }
        planned
    }

    fn planned_sources(&self, segment: &Segment) -> Vec<PlannedSource> {
        let total = segment.batches * segment.batch_size;
        let mut planned = Vec::new();
        for ((&place, &samples), &epochs_limit) in
            segment.sources.iter().zip(&segment.counts).zip(&segment.limits)
        {
            let source = &self.sources[place];
            let of_a_pass = source.samples.counts.samples as f64;
            let before = segment.before[place];
            planned.push(PlannedSource {
                name: source.name.clone(),
                samples,
                tokens: samples * self.config.sequence_length as u64,
                share: samples as f64 / total as f64,
                epochs_before: before as f64 / of_a_pass,
                epochs_after: (before + samples) as f64 / of_a_pass,
                epochs_limit,
                packing: source.samples.counts,
            });
        }
        planned
    }

    fn last(&self) -> &Segment {
        self.segments.last().expect("a loader has at least one segment")
    }

    fn segment_of(&self, batch: u64) -> Result<usize, TokensError> {
        if batch < self.origin.batch {
            return bad(format!(
                "batch {batch} was drawn before the run was extended at batch {}; begin again from a \
                 checkpoint after that",
                self.origin.batch
            ));
        }
        Ok(self.segments.partition_point(|segment| segment.first_batch <= batch) - 1)
    }

    /// Place in the list of sources and number within the source of each row of a batch.
    fn samples(&self, batch: u64) -> Result<Vec<(usize, u64)>, TokensError> {
        let mut walk = self.walk(&self.reading, batch)?;
        let segment = &self.segments[walk.segment];
        let mut samples = Vec::with_capacity(segment.batch_size as usize);
        for _ in 0..segment.batch_size {
            let (chosen, nth) = walk.draw.next();
            let place = segment.sources[chosen];
            let offset = self.ordered(segment, chosen, nth)?;
            samples.push((place, segment.before[place] + offset));
        }
        walk.batch += 1;
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(walk);
        Ok(samples)
    }

    /// Goes to a batch from the last one asked for, or from the beginning of its stage.
    fn walk(&self, last: &Mutex<Option<Walk>>, batch: u64) -> Result<Walk, TokensError> {
        let segment = self.segment_of(batch)?;
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let near = last.take().filter(|walk| walk.segment == segment && walk.batch <= batch);
        let of = &self.segments[segment];
        let mut walk = near.unwrap_or_else(|| Walk {
            segment,
            batch: of.first_batch,
            draw: Draw::new(of.counts.clone()),
        });
        let wanted = (batch - of.first_batch) * of.batch_size;
        while walk.draw.drawn() < wanted {
            walk.draw.next();
        }
        walk.batch = batch;
        *last = Some(walk.clone());
        Ok(walk)
    }

    /// How far from the first of its segment the `nth` sample of a source is taken.
    fn ordered(&self, segment: &Segment, chosen: usize, nth: u64) -> Result<u64, TokensError> {
        let stage = &self.config.stages[segment.stage];
        let Some(difficulty) = stage.order.difficulty().filter(|_| nth < segment.counts[chosen])
        else {
            return Ok(nth);
        };
        if segment.orders[chosen].get().is_none() {
            let place = segment.sources[chosen];
            let range = segment.before[place]..segment.before[place] + segment.counts[chosen];
            let order = by_difficulty(&self.sources[place], stage.order, difficulty, range)?;
            // Another thread may have made the same one.
            let _ = segment.orders[chosen].set(order);
        }
        let order = segment.orders[chosen].get().expect("it was just made");
        Ok(u64::from(order[nth as usize]))
    }
}

impl Segment {
    /// Samples drawn of each source after it.
    fn after(&self) -> Vec<u64> {
        let mut after = self.before.clone();
        for (&place, count) in self.sources.iter().zip(&self.counts) {
            after[place] += count;
        }
        after
    }
}

impl Source<'_> {
    fn state(&self, drawn: u64) -> SourceState {
        SourceState {
            fingerprint: self.samples.tokens.fingerprint,
            samples: self.samples.counts.samples,
            drawn,
        }
    }
}

impl StagedState {
    fn sources_drawn(&self) -> BTreeMap<String, u64> {
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
                (Some(old), Some(new)) if old != new => {
                    lines.push(format!("stage {} was {old}, and is {new}", index + 1));
                }
                _ => {}
            }
        }
        lines
    }
}

impl fmt::Display for StageRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, batches, batch_size, order, samples } = self;
        write!(f, "{name:?} with {batches} steps of {batch_size}, {order}, of")?;
        for (index, (source, samples)) in samples.iter().enumerate() {
            write!(f, "{} {source} {samples}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn fingerprint_change(name: &str, old: SourceState, new: SourceState) -> Option<String> {
    (old.fingerprint != new.fingerprint).then(|| {
        format!(
            "the tokens of the source {name:?} were {} and are {}",
            old.fingerprint.short(),
            new.fingerprint.short()
        )
    })
}

fn bad<T>(message: String) -> Result<T, TokensError> {
    Err(TokensError::Loader(message))
}

/// A weight of a stage with where it came from.
#[derive(Debug, Clone, Copy)]
struct Weight {
    share: f64,
    epochs: Option<f64>,
    /// Whether the recipe names it; sources by size may be too small to be drawn.
    explicit: bool,
}

/// The weight of each source in a stage; sources that are seen first are cut into samples.
fn weights<'a>(
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
        spread(&found, share.weight, |name, weight| add(name, weight, share.epochs, true));
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
            spread(&found, weight, |name, weight| add(name, weight, share.epochs, true));
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
fn check_epochs(
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

fn check_values(source: &Source<'_>, order: SampleOrder, count: u64) -> Result<(), String> {
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
fn by_difficulty(
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

//! Batches of a run in stages: mixtures that change, and a count of every sample that is exact.
//!
//! The number of a sample says its source, its pass over the source and its place in that pass, as a
//! function of the stages and of the [`Origin`], the counts at which the plan begins. Batches, ranks
//! and threads only cut the row of samples, so none of them can lose or repeat one
//! (`docs/design/data_through_time.md`). It knows no learning rate and no files but token shards.

mod config;
mod difficulty;
mod shares;
mod state;

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
};

use milpa_base::{Mixture, Seed};

pub use self::{
    config::{Difficulty, Direction, SampleOrder, SourceSet, StageDraw, StageShare, StagedConfig},
    state::{Origin, PlannedSource, PlannedStage, SourceState, StageRecord, StagedState},
};
use self::{
    difficulty::{by_difficulty, check_values},
    shares::{check_epochs, weights},
    state::fingerprint_change,
};
use crate::{
    draw::Draw,
    error::TokensError,
    loader::{Batch, MAX_BATCH_TOKENS, shuffled},
    packing::Samples,
};

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
    /// For an order by difficulty: the n-th sample of a source is this far from its first one. Made ahead,
    /// or when it is first asked for.
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

    /// Checks that a state is one of this loader's; else [`TokensError::OtherPlan`] says what is other.
    fn check(&self, state: &StagedState) -> Result<(), TokensError> {
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
            // By name, so that the draw does not depend on which stage named a source first.
            for (name, share) in &weights {
                let place = sources.iter().position(|source| source.name == *name);
                let place = place.expect("weights() opened every source that it names");
                let source = &sources[place];
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
            let last = config.stages.last().map_or_else(String::new, |stage| stage.name.clone());
            let message = format!(
                "all {first_batch} batches of the stages are drawn already; add a stage or lengthen the last one"
            );
            return Err(TokensError::Stage(last, message));
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

    /// Whether a batch is the first of its stage, or of what is left of it.
    pub fn begins_stage(&self, batch: u64) -> bool {
        self.segments.iter().any(|segment| segment.first_batch == batch)
    }

    /// Makes the orders by difficulty of the stage after that of `batch`, which its first samples would have
    /// to wait for otherwise; says how many there were to be made.
    ///
    /// # Errors
    /// As [`StagedLoader::batch`].
    pub fn order_ahead(&self, batch: u64) -> Result<usize, TokensError> {
        let Some(next) = self.segments.get(self.segment_of(batch)? + 1) else { return Ok(0) };
        let mut made = 0;
        for chosen in 0..next.sources.len() {
            let is_there = next.orders[chosen].get().is_some();
            made += usize::from(self.order(next, chosen)?.is_some() && !is_there);
        }
        Ok(made)
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
        let epochs = |state: SourceState| state.drawn as f64 / state.samples.max(1) as f64;
        Ok(state.sources.into_iter().map(|(name, state)| (name, epochs(state))).collect())
    }

    /// Whether no source is drawn more often than its epochs allow before `batch`, which may lie beyond the
    /// plan's end: there the last stage goes on.
    ///
    /// # Errors
    /// The source that is.
    pub fn check_epochs(&self, batch: u64) -> Result<(), TokensError> {
        let (drawn, last) = (self.drawn(batch)?, self.last());
        for (&place, limit) in last.sources.iter().zip(&last.limits) {
            let source = &self.sources[place];
            let passes = drawn[&source.name] as f64 / source.samples.counts.samples.max(1) as f64;
            if let Some(limit) = limit.filter(|limit| passes > *limit) {
                let message = format!(
                    "{:?} would be drawn {passes:.2} times, and it may be drawn {limit} times",
                    source.name
                );
                let stage = self.config.stages[last.stage].name.clone();
                return Err(TokensError::Stage(stage, message));
            }
        }
        Ok(())
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
        if nth >= segment.counts[chosen] {
            return Ok(nth);
        }
        let order = self.order(segment, chosen)?;
        Ok(order.map_or(nth, |order| u64::from(order[nth as usize])))
    }

    /// How far from the first of its segment each sample of a source is taken; `None` in a shuffled stage.
    fn order<'s>(
        &self,
        segment: &'s Segment,
        chosen: usize,
    ) -> Result<Option<&'s [u32]>, TokensError> {
        let stage = &self.config.stages[segment.stage];
        let Some(difficulty) = stage.order.difficulty() else { return Ok(None) };
        let slot = &segment.orders[chosen];
        if slot.get().is_none() {
            let place = segment.sources[chosen];
            let range = segment.before[place]..segment.before[place] + segment.counts[chosen];
            let order = by_difficulty(&self.sources[place], stage.order, difficulty, range)?;
            // Another thread may have made the same one.
            let _ = slot.set(order);
        }
        Ok(slot.get().map(Vec::as_slice))
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

fn bad<T>(message: String) -> Result<T, TokensError> {
    Err(TokensError::Loader(message))
}

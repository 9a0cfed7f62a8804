//! Which checkpoints stay: the last ones, some for good, the best one, the last of each plateau.
//!
//! A pure function of steps and validation losses, so that a run that was cut keeps the same ones as
//! one that was not. It removes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::{config::TrainConfig, schedule::Curve};

/// The rule of a run.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    /// A checkpoint after every so many steps.
    every: u64,
    last: usize,
    permanent: Option<u64>,
    best: bool,
    /// The last one of each plateau.
    plateaus: Vec<u64>,
    /// Steps below the limit on forgetting, to which the run may go back.
    below: BTreeSet<u64>,
    /// The step before which the run never goes back, if it is not the beginning.
    origin: Option<u64>,
    /// Mean bits per byte of the validation split at steps where there was one.
    validation: BTreeMap<u64, f64>,
}

impl Retention {
    pub(crate) fn new(config: &TrainConfig, curve: &Curve) -> Self {
        let every = config.checkpoint_every.0;
        let plateaus = config.keep_plateau.then(|| plateau_checkpoints(curve, every));
        Self {
            every,
            last: config.keep_checkpoints,
            permanent: config.keep_every.map(|steps| steps.0),
            best: config.keep_best,
            plateaus: plateaus.unwrap_or_default(),
            below: BTreeSet::new(),
            origin: None,
            validation: BTreeMap::new(),
        }
    }

    /// Takes in a step below the limit on forgetting. One before the plan began is of no use.
    pub(crate) fn below_limit(&mut self, step: u64) {
        if step > self.origin.unwrap_or(0) {
            self.below.insert(step);
        }
    }

    /// Keeps the checkpoint of the step before which the run never goes back.
    pub(crate) fn begins_at(&mut self, step: u64) {
        self.origin = (step > 0).then_some(step);
        self.below.retain(|at| *at > step);
    }

    /// Takes in a validation after `step`.
    pub(crate) fn validated(&mut self, step: u64, bits_per_byte: &BTreeMap<String, f64>) {
        if !bits_per_byte.is_empty() {
            let mean = bits_per_byte.values().sum::<f64>() / bits_per_byte.len() as f64;
            self.validation.insert(step, mean);
        }
    }

    /// Forgets what was measured after `step`: the run went back to it.
    pub(crate) fn rewind(&mut self, step: u64) {
        self.validation.retain(|at, _| *at <= step);
        self.below.retain(|at| *at <= step);
    }

    /// The steps whose checkpoints stay once that of `step` is written.
    pub(crate) fn keep(&self, step: u64) -> BTreeSet<u64> {
        let newest = step / self.every;
        let last = (self.last as u64).min(newest);
        let mut keep: BTreeSet<u64> =
            (newest - last + 1..=newest).map(|number| number * self.every).collect();
        // One off the schedule was asked for by a stop; the run goes on from it.
        keep.insert(step);
        if let Some(permanent) = self.permanent {
            keep.extend((1..=step / permanent).map(|number| number * permanent));
        }
        keep.extend(self.origin.filter(|&origin| origin <= step));
        // Whoever begins again at the oldest of the last ones may have to go back further from there.
        let oldest = ((newest - last + 1) * self.every).min(step);
        keep.extend(self.below.range(..=oldest).next_back());
        keep.extend(self.below.range(oldest..=step));
        keep.extend(self.plateaus.iter().filter(|&&plateau| plateau <= step));
        if self.best {
            let saved = self.validation.range(1..=step);
            keep.extend(
                saved
                    .filter(|(at, _)| at.is_multiple_of(self.every))
                    .min_by(|a, b| a.1.total_cmp(b.1))
                    .map(|(at, _)| *at),
            );
        }
        keep
    }
}

/// The last checkpoint of each plateau that has one: after it, some of the plateau is done and none of
/// what follows.
pub(crate) fn plateau_checkpoints(curve: &Curve, every: u64) -> Vec<u64> {
    let last =
        |plateau: Range<u64>| Some(plateau.end / every * every).filter(|&at| at > plateau.start);
    curve.plateaus().into_iter().filter_map(last).collect()
}

#[cfg(test)]
mod tests {
    use milpa_base::Steps;

    use super::*;
    use crate::schedule::Schedule;

    const STABLE: &str = "kind = 'warmup_stable_decay', warmup = 5, decay = 33";

    fn config(schedule: &str, more: &str) -> TrainConfig {
        let text = format!(
            "steps = 100\nsequence_length = 8\nbatch_size = 1\ncheckpoint_every = 10\n\
             validate_every = 10\noptimizer = {{ kind = 'adam_w', learning_rate = 1e-3 }}\n\
             schedule = {{ {schedule} }}\n{more}"
        );
        toml::from_str(&text).unwrap()
    }

    fn kept(config: &TrainConfig, validation: &[(u64, f64)], step: u64) -> Vec<u64> {
        config.validate().unwrap();
        let curve = config.schedule.over(config.steps).unwrap();
        let mut retention = Retention::new(config, &curve);
        for (at, bits) in validation {
            retention.validated(*at, &BTreeMap::from([("a".to_owned(), *bits)]));
        }
        retention.keep(step).into_iter().collect()
    }

    fn keeps(more: &str, validation: &[(u64, f64)], step: u64, expect: &[u64]) {
        assert_eq!(kept(&config(STABLE, more), validation, step), expect, "{more}");
    }

    #[test]
    fn the_rules_add_up() {
        keeps("", &[], 50, &[40, 50]);
        keeps("", &[], 10, &[10]);
        keeps("keep_checkpoints = 0", &[], 57, &[57]);
        keeps("keep_every = 20", &[], 70, &[20, 40, 60, 70]);
        // 67 steps before the decay: the checkpoint after 60 is the plateau's last.
        keeps("keep_plateau = true", &[], 90, &[60, 80, 90]);
        keeps("keep_plateau = true", &[], 40, &[30, 40]);
        let seen = [(10, 2.0), (20, 1.5), (30, 1.9), (35, 1.0), (50, 1.6), (80, 0.1)];
        keeps("keep_best = true", &seen, 70, &[20, 60, 70]);
    }

    #[test]
    fn the_last_step_below_the_limit_stays_for_every_checkpoint_that_may_be_gone_back_to() {
        let config = config(STABLE, "");
        let curve = config.schedule.over(config.steps).unwrap();
        let mut retention = Retention::new(&config, &curve);
        for step in [20, 40, 60] {
            retention.below_limit(step);
        }
        let keeps = |retention: &Retention, step: u64, expect: &[u64]| {
            assert_eq!(retention.keep(step).into_iter().collect::<Vec<_>>(), expect);
        };
        // From the checkpoint after 50 the run may have to go back to 40.
        keeps(&retention, 60, &[40, 50, 60]);
        keeps(&retention, 70, &[60, 70]);
        keeps(&retention, 90, &[60, 80, 90]);
        let mut back = retention.clone();
        back.rewind(50);
        keeps(&back, 90, &[40, 80, 90]);
        retention.begins_at(50);
        keeps(&retention, 60, &[50, 60]);
        retention.below_limit(40);
        keeps(&retention, 90, &[50, 60, 80, 90]);
    }

    #[test]
    fn the_last_checkpoint_of_each_plateau_stays() {
        let keeps = |schedule: &str, expect: &[u64]| {
            let config = config(schedule, "keep_plateau = true\nkeep_checkpoints = 0");
            assert_eq!(kept(&config, &[], 95), [expect, &[95]].concat(), "{schedule}");
        };
        // Plateaus are steps 6 to 35, 41 to 86 and 92 to 96; no checkpoint falls into the last.
        keeps(
            "kind = 'warmup_stable_decay_cycles', warmup = 5, cycles = [40, 51, 9], decay = 5, rewarm = 0",
            &[30, 80],
        );
        // Both pieces stay at one rate: steps 11 to 67 are one plateau.
        let row = |first: u64| {
            format!(
                "kind = 'pieces', pieces = [{{ shape = 'linear', from = 0.0, to = 1.0, steps = 10 }}, \
                 {{ shape = 'constant', steps = {first} }}, {{ shape = 'constant', steps = {} }}, \
                 {{ shape = 'cosine', to = 0.1 }}]",
                57 - first
            )
        };
        keeps(&row(20), &[60]);
        // A piece at rate zero trains nothing.
        keeps(
            "kind = 'pieces', pieces = [{ shape = 'constant', steps = 37 }, \
             { shape = 'constant', from = 0.0 }]",
            &[30],
        );
    }

    #[test]
    fn a_plateau_that_keeps_nothing_is_refused() {
        let refused = |schedule: &str, expect: &str| {
            let (key, message) = config(schedule, "keep_plateau = true").validate().unwrap_err();
            assert!(key == "train.keep_plateau" && message.contains(expect), "{key}: {message}");
        };
        // The last step of the warm-up and the first of the cosine have the same rate.
        refused("kind = 'cosine', warmup = 5", "never stays at one learning rate");
        refused("kind = 'linear'", "take warmup_stable_decay");
        let short = "kind = 'warmup_stable_decay', warmup = 41, decay = 51";
        refused(
            short,
            "the longest is steps 42 to 49: set checkpoint_every, which is 10, to at most 8",
        );
        let mut finer = config(short, "keep_plateau = true");
        (finer.checkpoint_every.0, finer.keep_checkpoints) = (8, 0);
        assert_eq!(kept(&finer, &[], 96), [48, 96]);
    }

    /// Steps by the quintillion would take minutes if one were looked at after the other.
    #[test]
    fn a_plateau_of_any_length_is_found_at_once() {
        let curve = |steps| {
            let schedule: Schedule =
                toml::from_str("kind = 'warmup_stable_decay'\ndecay = 10").unwrap();
            schedule.over(Steps(steps)).unwrap()
        };
        let steps = 9_000_000_000_000_000_000;
        assert_eq!(plateau_checkpoints(&curve(steps), 1000), [steps - 1000]);
    }
}

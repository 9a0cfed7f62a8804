//! Which checkpoints stay: the last ones, some for good, the best one, the last of the plateau.
//!
//! A pure function of steps and validation losses, so that a run that was cut keeps the same ones as
//! one that was not. It removes nothing.

use std::collections::{BTreeMap, BTreeSet};

use milpa_base::Steps;

use crate::{config::TrainConfig, schedule::Curve};

/// The rule of a run.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    /// A checkpoint after every so many steps.
    every: u64,
    last: usize,
    permanent: Option<u64>,
    best: bool,
    plateau: Option<u64>,
    /// The last step below the limit on forgetting, to which the run may go back.
    below: Option<u64>,
    /// The step before which the run never goes back, if it is not the beginning.
    origin: Option<u64>,
    /// Mean bits per byte of the validation split at steps where there was one.
    validation: BTreeMap<u64, f64>,
}

impl Retention {
    pub(crate) fn new(config: &TrainConfig, curve: &Curve) -> Self {
        let every = config.checkpoint_every.0;
        let plateau = config.keep_plateau.then(|| plateau_end(curve, config.steps)).flatten();
        Self {
            every,
            last: config.keep_checkpoints,
            permanent: config.keep_every.map(|steps| steps.0),
            best: config.keep_best,
            plateau: plateau.map(|end| end / every * every),
            below: None,
            origin: None,
            validation: BTreeMap::new(),
        }
    }

    /// Keeps the checkpoint of the last step below the limit on forgetting.
    pub(crate) fn below_limit(&mut self, step: u64) {
        self.below = (step > 0).then_some(step);
    }

    /// Keeps the checkpoint of the step before which the run never goes back.
    pub(crate) fn begins_at(&mut self, step: u64) {
        self.origin = (step > 0).then_some(step);
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
        keep.extend(self.below.filter(|&below| below <= step));
        keep.extend(self.plateau.filter(|&plateau| plateau > 0 && plateau <= step));
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

/// The last step of the longest stretch at one learning rate; `None` if the rate never stays.
pub(crate) fn plateau_end(curve: &Curve, steps: Steps) -> Option<u64> {
    let (mut best, mut length) = ((0, None), 0);
    for step in 1..steps.0 {
        let stays = curve.share_at(step) == curve.share_at(step - 1);
        length = if stays { length + 1 } else { 0 };
        if length > best.0 {
            best = (length, Some(step + 1));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(more: &str, validation: &[(u64, f64)], step: u64, expect: &[u64]) {
        let text = format!(
            "steps = 100\nsequence_length = 8\nbatch_size = 1\ncheckpoint_every = 10\n\
             validate_every = 10\noptimizer = {{ kind = 'adam_w', learning_rate = 1e-3 }}\n\
             schedule = {{ kind = 'warmup_stable_decay', warmup = 5, decay = 33 }}\n{more}"
        );
        let config: TrainConfig = toml::from_str(&text).unwrap();
        config.validate().unwrap();
        let curve = config.schedule.over(config.steps).unwrap();
        let mut retention = Retention::new(&config, &curve);
        for (at, bits) in validation {
            retention.validated(*at, &BTreeMap::from([("a".to_owned(), *bits)]));
        }
        assert_eq!(retention.keep(step).into_iter().collect::<Vec<_>>(), expect, "{more}");
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
}

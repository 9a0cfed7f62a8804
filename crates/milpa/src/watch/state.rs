//! How a training stands: its history, and what only the process under way knows.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use milpa_train::{Noted, TrainConfig};

use crate::watch::history::{Counts, History};

/// The newest checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saved {
    /// After this step.
    pub step: u64,
    /// When it was whole.
    pub at: SystemTime,
}

impl Saved {
    /// Time since it was whole.
    pub fn age(&self) -> Duration {
        // A clock that was set back makes it new, not a mistake.
        self.at.elapsed().unwrap_or_default()
    }
}

/// What the disk of a training holds.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// The newest checkpoint.
    pub saved: Option<Saved>,
    /// Bytes that are free.
    pub free: Option<u64>,
}

impl Disk {
    /// Looks at the disk of the training folder `train`.
    pub fn look(train: &Path) -> Self {
        let saved = milpa_train::newest_checkpoint(train).and_then(|(step, path)| {
            let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
            modified.ok().map(|at| Saved { step, at })
        });
        Self { saved, free: free_bytes(train) }
    }
}

/// An alarm that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlarmState {
    /// Its name.
    pub name: &'static str,
    /// Whether its condition holds; going back to a checkpoint is over as soon as it happened.
    pub holds: bool,
    /// How often this process raised it.
    pub raised: u64,
}

/// How a training stands.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Name of the run.
    pub run: String,
    /// Steps of the run.
    pub steps: u64,
    /// Name of each stage, and the steps done at its end.
    pub stages: Vec<(String, u64)>,
    /// What the metrics say.
    pub history: History,
    /// What this process did.
    pub done: Counts,
    /// The newest checkpoint.
    pub saved: Option<Saved>,
    /// Bytes that are free where checkpoints are written.
    pub disk_free: Option<u64>,
    /// Alarms that are set.
    pub alarms: Vec<AlarmState>,
    /// Where more is to be seen, for people.
    pub places: Vec<String>,
}

impl State {
    /// The state before the first step.
    pub fn new(run: &str, config: &TrainConfig) -> Self {
        let names = config.stages.iter().map(|stage| stage.name.clone());
        Self {
            run: run.to_owned(),
            steps: config.steps.0,
            stages: names.zip(config.stage_ends()).collect(),
            ..Self::default()
        }
    }

    /// Takes in what training tells.
    pub fn take(&mut self, noted: Noted<'_>) {
        match noted {
            Noted::Kept(metrics) => self.history = History::of(metrics),
            Noted::Added(metric) => {
                let before = self.history.counts;
                self.history.add(metric);
                let (now, done) = (self.history.counts, &mut self.done);
                done.steps += now.steps - before.steps;
                done.skipped += now.skipped - before.skipped;
                done.checkpoints += now.checkpoints - before.checkpoints;
                done.rollbacks += now.rollbacks - before.rollbacks;
                done.step_seconds += now.step_seconds - before.step_seconds;
                done.data_seconds += now.data_seconds - before.data_seconds;
            }
        }
    }

    /// Takes in what the disk holds.
    pub fn take_disk(&mut self, disk: Disk) {
        self.saved = disk.saved.or(self.saved);
        self.disk_free = disk.free;
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.history.last.map_or(0, |last| last.step)
    }

    /// Name of the stage under way.
    pub fn stage(&self) -> Option<String> {
        let step = self.step().saturating_sub(1);
        let planned = self.stages.iter().find(|(_, end)| step < *end).map(|(name, _)| name.clone());
        planned.or_else(|| self.history.stage.clone())
    }

    /// Seconds until the last step, at the pace of this process.
    pub fn seconds_left(&self) -> Option<f64> {
        let last = self.history.last.filter(|_| self.done.steps > 0)?;
        let left = self.steps.saturating_sub(last.step) as f64;
        Some(last.seconds / self.done.steps as f64 * left)
    }
}

/// Bytes that an ordinary user may still write where `path` is.
#[cfg(unix)]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let free = nix::sys::statvfs::statvfs(path).ok()?;
    #[allow(clippy::useless_conversion, reason = "the types differ between systems")]
    let (blocks, size) = (u64::from(free.blocks_available()), u64::from(free.fragment_size()));
    blocks.checked_mul(size)
}

/// Not known here.
#[cfg(not(unix))]
pub fn free_bytes(_path: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
pub mod tests {
    use milpa_train::Metric;

    use super::*;

    /// The state after these lines, of which a process took all.
    pub fn state(metrics: &[Metric], steps: u64) -> State {
        let mut state = State {
            run: "novelas".to_owned(),
            steps,
            stages: vec![("short first".to_owned(), 50), ("all".to_owned(), steps)],
            ..State::default()
        };
        for metric in metrics {
            state.take(Noted::Added(metric));
        }
        state
    }

    #[test]
    fn the_pace_is_that_of_this_process() {
        let metrics = crate::watch::history::tests::run(100);
        let (before, mine) = metrics.split_at(60);
        let mut state = State { steps: 200, ..State::default() };
        state.take(Noted::Kept(before));
        assert_eq!((state.seconds_left(), state.done.steps), (None, 0));
        for metric in mine {
            state.take(Noted::Added(metric));
        }
        assert_eq!(state.step(), 100);
        let expect = 100.0 / state.done.steps as f64 * 100.0;
        assert_eq!(state.seconds_left(), Some(expect));
        assert_eq!(state.stage().as_deref(), Some("all"));
    }

    #[test]
    fn there_is_room_on_this_disk() {
        let root = tempfile::tempdir().unwrap();
        let mut state = State::default();
        state.take_disk(Disk::look(root.path()));
        assert!(cfg!(not(unix)) || state.disk_free.unwrap() > 0);
        assert_eq!(state.saved, None);
        std::fs::create_dir_all(root.path().join("checkpoints/step-00000030")).unwrap();
        state.take_disk(Disk::look(root.path()));
        let saved = state.saved.unwrap();
        assert!(saved.step == 30 && saved.age() < Duration::from_mins(10));
    }
}

//! How libraries tell of their progress and hear that they should stop, without printing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Receives progress; the binary shows it, tests ignore it.
pub trait Progress: Send + Sync {
    /// A task begins: what is done, how many units in all (if known), and the unit's name.
    fn begin(&self, task: &str, total: Option<u64>, unit: &str);
    /// The current task stands at `done` units.
    fn advance(&self, done: u64);
    /// The current task is over.
    fn end(&self);
    /// One line for people, such as a training step.
    fn line(&self, text: &str);
    /// One line on how things stand, which the next one of its kind makes out of date.
    fn status(&self, text: &str) {
        self.line(text);
    }
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>, _: &str) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn line(&self, _: &str) {}
}

/// Asks long work to stop at its next safe point; clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks for a stop.
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

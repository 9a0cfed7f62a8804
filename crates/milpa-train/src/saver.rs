//! Writes checkpoints beside training: the step waits for a copy of the state, not for the disk.
//!
//! One checkpoint is written at a time; the next one waits for it, so there are at most two copies
//! of the state in memory. What goes wrong is told at the next step. It knows neither what a
//! checkpoint is made of nor which ones stay.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread::{Scope, ScopedJoinHandle},
    time::Instant,
};

use milpa_base::{artifact::Record, copy_artifact};

use crate::{
    checkpoint::{self, Snapshot},
    error::TrainError,
};

/// Writes the checkpoints of one run.
pub(crate) struct Saver<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    out: &'env Path,
    mirror: Option<&'env Path>,
    record: &'env Record,
    writing: Option<ScopedJoinHandle<'scope, Result<(), TrainError>>>,
    /// When the last one was whole.
    last: Option<Instant>,
}

impl<'scope, 'env> Saver<'scope, 'env> {
    /// Begins with nothing to write. `mirror` is a second folder for the same checkpoints.
    pub(crate) fn new(
        scope: &'scope Scope<'scope, 'env>,
        out: &'env Path,
        mirror: Option<&'env Path>,
        record: &'env Record,
    ) -> Self {
        Self { scope, out, mirror, record, writing: None, last: None }
    }

    /// Begins to write a checkpoint, after the one that is still being written. Those that are not
    /// in `keep` are removed once it is whole.
    ///
    /// # Errors
    /// What went wrong with the one before.
    pub(crate) fn begin(
        &mut self,
        snapshot: Snapshot<'env>,
        keep: BTreeSet<u64>,
    ) -> Result<PathBuf, TrainError> {
        self.wait()?;
        let (out, mirror, record) = (self.out, self.mirror, self.record);
        let step = snapshot.state.step;
        let dir = checkpoint::folder(out, step);
        let at = dir.clone();
        self.writing = Some(self.scope.spawn(move || {
            checkpoint::make_room(&at)?;
            checkpoint::write(&at, &snapshot, record)?;
            drop(snapshot);
            checkpoint::prune(out, &keep)?;
            if let Some(mirror) = mirror {
                let copy = checkpoint::folder(mirror, step);
                checkpoint::make_room(&copy)?;
                copy_artifact(&at, &copy)?;
                checkpoint::prune(mirror, &keep)?;
            }
            Ok(())
        }));
        Ok(dir)
    }

    /// Takes note of a checkpoint that was finished meanwhile, without waiting.
    ///
    /// # Errors
    /// What went wrong with it.
    pub(crate) fn poll(&mut self) -> Result<(), TrainError> {
        if self.writing.as_ref().is_some_and(ScopedJoinHandle::is_finished) {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until nothing is being written.
    ///
    /// # Errors
    /// What went wrong.
    pub(crate) fn wait(&mut self) -> Result<(), TrainError> {
        if let Some(writing) = self.writing.take() {
            match writing.join() {
                Ok(written) => written?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            self.last = Some(Instant::now());
        }
        Ok(())
    }

    /// When the last checkpoint was whole.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }
}

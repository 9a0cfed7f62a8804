//! The second folder for a run's checkpoints: no other run's, and apart from the training folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use milpa_base::{ArtifactError, Digest, Progress, RunLock};

use super::{ChangedPlan, Job, read_key, set_aside, write_key};
use crate::error::TrainError;

/// Makes the mirror this run's before anything is trained, and keeps other processes out of it. That of a
/// run which is `extended` keeps its key: what it holds is still of the plan before.
///
/// # Errors
/// A mirror that cannot be written or is not apart from the training folder, one that another process
/// works on, and one of another run that is not to be set aside.
pub(super) fn claim(
    job: &Job<'_>,
    out: &Path,
    key: Digest,
    extended: bool,
    progress: &dyn Progress,
) -> Result<Option<RunLock>, TrainError> {
    let Some(mirror) = job.mirror else { return Ok(None) };
    let dir = apart(mirror, out)?;
    let (mut old, own) = (read_key(&dir, key)?, key.to_string());
    let goes_on = extended && job.changed_plan == ChangedPlan::Extend;
    let is_own = old.is_empty() || old == own || goes_on && old == read_key(out, key)?;
    if !is_own && job.changed_plan != ChangedPlan::Anew {
        let message = "it holds another run, or this one with another plan; choose another folder, or put \
                       the plan back to go on from there";
        return Err(refused(mirror, message));
    }
    let mut lock = lock(&dir)?;
    if !is_own {
        let aside = set_aside(&dir, &old).map_err(|source| {
            refused(
                mirror,
                format!("what it holds cannot be set aside ({source}); choose another folder"),
            )
        })?;
        progress.line(&format!("what the mirror held is kept in {}", aside.display()));
        old.clear();
    }
    // This also shows whether it can be written.
    match write_key(&dir, if old.is_empty() { &own } else { &old }) {
        Err(TrainError::Artifact(ArtifactError::Io { source, .. })) => {
            return Err(unusable(mirror, &source));
        }
        written => written?,
    }
    if !is_own {
        lock = self::lock(&dir)?;
    }
    Ok(lock)
}

/// The mirror's folder, made if it is not there, without links.
fn apart(mirror: &Path, out: &Path) -> Result<PathBuf, TrainError> {
    let made = |dir: &Path| fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    let out = made(out).map_err(|source| TrainError::Io { path: out.to_owned(), source })?;
    let dir = made(mirror).map_err(|source| unusable(mirror, &source))?;
    if dir.starts_with(&out) || out.starts_with(&dir) {
        let message = format!(
            "one of it and the training folder {} lies in the other; choose a folder apart, best on another \
             disk",
            out.display()
        );
        return Err(refused(mirror, message));
    }
    Ok(dir)
}

/// Takes the mirror's lock; `None` where the disk has none, as some network disks.
fn lock(dir: &Path) -> Result<Option<RunLock>, TrainError> {
    match RunLock::acquire(dir) {
        Ok(lock) => Ok(Some(lock)),
        Err(locked @ ArtifactError::Locked(_)) => Err(locked.into()),
        Err(_) => Ok(None),
    }
}

fn unusable(mirror: &Path, source: &io::Error) -> TrainError {
    refused(mirror, format!("it cannot be made or written ({source}); choose another folder"))
}

fn refused(mirror: &Path, message: impl Into<String>) -> TrainError {
    TrainError::Mirror { path: mirror.to_owned(), message: message.into() }
}

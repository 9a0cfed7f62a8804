//! A fork: a new run that goes on from another run's checkpoint, with its own plan.
//!
//! One checkpoint of a plateau can so become several anneals. Counts of data go with it, so a fork
//! repeats no sample that the run before it has read.

use std::path::Path;

use milpa_base::{Kind, RunLock, copy_artifact, manifest::Verify, open_artifact};

use crate::{
    checkpoint,
    error::TrainError,
    trainer::{read_key, write_key},
};

/// Makes `out` the folder of a run that stands where `from` was written; the run is then gone on with as
/// an extended one. A folder that is a run's already stays as it is.
///
/// # Errors
/// A checkpoint that is damaged, that is for use only (an average, a blend), or of a run without stages.
pub fn fork(from: &Path, out: &Path) -> Result<(), TrainError> {
    if !read_key(out).is_empty() {
        return Ok(());
    }
    let (manifest, _) = open_artifact(from, Kind::Checkpoint, Verify::Contents)?;
    let refuse = |message: &str| {
        Err(TrainError::Checkpoint { path: from.to_owned(), message: message.to_owned() })
    };
    if !from.join(checkpoint::STATE_FILE).exists() {
        return refuse(
            "it holds weights alone (an average or a blend); name it as the [base] of a recipe to begin \
             with its weights",
        );
    }
    let state = checkpoint::read_state(from)?;
    if state.stages.is_none() {
        return refuse(
            "its run has no stages, so its data cannot change; name it as the [base] of a recipe to \
             begin with its weights",
        );
    }
    let _lock = RunLock::acquire(out)?;
    let dir = checkpoint::folder(out, state.step);
    checkpoint::make_room(&dir)?;
    copy_artifact(from, &dir)?;
    // Last, so that a fork that was cut is made again.
    write_key(out, manifest.key)
}

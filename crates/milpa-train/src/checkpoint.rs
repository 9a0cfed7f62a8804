//! Checkpoints: weights, optimiser state, position in the data, tokenizer; whole or absent.
//!
//! A checkpoint is an artifact folder that is also a Hugging Face folder, so it can be evaluated,
//! talked to or exported as it stands.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use milpa_base::{
    ArtifactWriter, Bytes, Digest, Kind, Manifest, Progress,
    artifact::Record,
    copy_artifact,
    manifest::{MANIFEST_FILE, Verify},
    open_artifact, tidy_artifacts,
};
use milpa_model::{Device, ParameterStore, write_hf_model_sharded};
use milpa_tokens::{ChatTemplate, LoaderState, StagedState, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::{
    average::Average,
    base::{Network, Start},
    config::TrainConfig,
    control::{ControlState, ReplayChange},
    error::TrainError,
    optimizer::OptimizerState,
    replan::PassedOver,
    stability::StabilityState,
    tensor_file::{self, TensorFile},
    trainer::{AVERAGED_CHECKPOINT, CHOSEN_CHECKPOINT, FINAL_CHECKPOINT},
};

/// File with the step and the position in the data.
pub const STATE_FILE: &str = "state.json";
/// File with the optimiser's state, where it is not in shards.
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// File with the averaged weights, where they are not in shards.
const AVERAGE_FILE: &str = "average.safetensors";
/// Folder of the checkpoints that are not the final one.
const FOLDER: &str = "checkpoints";
/// What a run ends with, in the order in which it is copied: the final checkpoint says that the run is
/// complete.
pub(crate) const FINAL_NAMES: [&str; 3] =
    [CHOSEN_CHECKPOINT, AVERAGED_CHECKPOINT, FINAL_CHECKPOINT];

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Position in the data; its fingerprint is checked on resume. Absent in a run in stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<LoaderState>,
    /// Position in the data of a run in stages: the table, and the count of each source with its
    /// fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<StagedState>,
    /// What skipping and going back depend on; absent if the recipe asks for neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stability: Option<StabilityState>,
    /// What the controller of forgetting remembers; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlState>,
    /// The step at which the run went on with another plan for the last time: it never goes back further.
    /// 0 for a run that keeps the plan it began with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub origin: u64,
    /// The last step that was held against the base: a stop within a measurement leaves the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<u64>,
    /// How often the run went back in this folder, by whatever rule.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub went_back: u64,
    /// Identity of the checkpoint of another run at which this one was forked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(step: &u64) -> bool {
    *step == 0
}

impl State {
    /// What was changed on the way in what a run in stages reads.
    pub(crate) fn changes(&self) -> (&[ReplayChange], &[PassedOver]) {
        let changes = self.control.as_ref().map_or(&[][..], |control| &control.changes);
        (changes, self.stability.as_ref().map_or(&[][..], |stability| &stability.passed_over))
    }
}

/// What a checkpoint is made of: copies, which training does not change any more.
pub(crate) struct Snapshot<'a> {
    pub(crate) network: &'a Network,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) parameters: ParameterStore,
    pub(crate) optimizer: TensorFile,
    pub(crate) average: Option<TensorFile>,
    pub(crate) state: State,
    /// The most that a file of weights or states holds before it is split.
    pub(crate) max_shard_size: Bytes,
}

impl Snapshot<'_> {
    /// Bytes that it holds outside the device.
    pub(crate) fn host_bytes(&self) -> usize {
        self.optimizer.bytes() + self.average.as_ref().map_or(0, TensorFile::bytes)
    }
}

/// Writes a checkpoint to `dir`, whole or not at all.
pub(crate) fn write(
    dir: &Path,
    snapshot: &Snapshot<'_>,
    record: &Record,
) -> Result<Digest, TrainError> {
    let writer = if snapshot.network.has_adapter() {
        begin(dir, snapshot, &snapshot.network.plain(&snapshot.parameters)?)?
    } else {
        begin(dir, snapshot, &snapshot.parameters)?
    };
    snapshot.network.write_adapter(writer.dir(), &snapshot.parameters)?;
    snapshot.optimizer.write(writer.dir(), OPTIMIZER_FILE, snapshot.max_shard_size)?;
    if let Some(average) = &snapshot.average {
        average.write(writer.dir(), AVERAGE_FILE, snapshot.max_shard_size)?;
    }
    let state = serde_json::to_vec_pretty(&snapshot.state).expect("a state has only plain fields");
    writer.write(STATE_FILE, &state)?;
    finish(dir, writer, snapshot, record)
}

/// Writes averaged or blended weights to `dir` as a checkpoint to be used, not resumed.
pub(crate) fn write_averaged(
    dir: &Path,
    averaged: &ParameterStore,
    snapshot: &Snapshot<'_>,
    record: &Record,
) -> Result<Digest, TrainError> {
    finish(dir, begin(dir, snapshot, averaged)?, snapshot, record)
}

/// Begins a folder with the Hugging Face files.
fn begin(
    dir: &Path,
    snapshot: &Snapshot<'_>,
    parameters: &ParameterStore,
) -> Result<ArtifactWriter, TrainError> {
    let (writer, tokenizer) = (ArtifactWriter::begin(dir, Kind::Checkpoint)?, snapshot.tokenizer);
    write_hf_model_sharded(
        writer.dir(),
        &snapshot.network.description,
        parameters,
        tokenizer.eos_id(),
        tokenizer.bos_id(),
        snapshot.max_shard_size,
    )?;
    // A base keeps the template that it came with.
    let template = tokenizer.chat_template().cloned();
    tokenizer.write_files(writer.dir(), &template.unwrap_or_else(ChatTemplate::continuation))?;
    Ok(writer)
}

/// Ends a folder with its manifest.
fn finish(
    dir: &Path,
    writer: ArtifactWriter,
    snapshot: &Snapshot<'_>,
    record: &Record,
) -> Result<Digest, TrainError> {
    let mut record = record.clone();
    record.counts.insert("steps".to_owned(), snapshot.state.step);
    record.counts.insert("tokens".to_owned(), snapshot.state.tokens);
    record.counts.insert("parameters".to_owned(), snapshot.parameters.elements() as u64);
    writer.finish(record)?;
    let (_, digest) = open_artifact(dir, Kind::Checkpoint, Verify::Lengths)?;
    Ok(digest)
}

/// Makes the folder above; takes away what is left of a damaged checkpoint of the same step.
pub(crate) fn make_room(dir: &Path) -> Result<(), TrainError> {
    let parent = dir.parent().expect("a checkpoint stands in a folder");
    let made = fs::create_dir_all(parent).and_then(|()| {
        let is_damaged = dir.exists() && !dir.join(MANIFEST_FILE).exists();
        if is_damaged { fs::remove_dir_all(dir) } else { Ok(()) }
    });
    made.map_err(|source| TrainError::Io { path: dir.to_owned(), source })
}

/// The folder of the checkpoint after `step`.
pub(crate) fn folder(out: &Path, step: u64) -> PathBuf {
    out.join(FOLDER).join(format!("step-{step:08}"))
}

/// Checkpoints of a run from the newest to the oldest: step and folder.
pub fn list(out: &Path) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(out.join(FOLDER))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort();
    found.reverse();
    found
}

/// Keys of the checkpoints of a folder, whole or not, the final ones first.
pub(crate) fn keys(folder: &Path) -> Vec<Digest> {
    let last = FINAL_NAMES.map(|name| folder.join(name));
    let dirs = last.into_iter().chain(list(folder).into_iter().map(|(_, dir)| dir));
    dirs.filter_map(|dir| Some(Manifest::read(&dir).ok()?.key)).collect()
}

/// The step of the newest checkpoint in a training folder, whole or not.
pub fn newest_step(out: &Path) -> Option<u64> {
    newest_checkpoint(out).map(|(step, _)| step)
}

/// Step and folder of the newest checkpoint in a training folder, whole or not.
pub fn newest_checkpoint(out: &Path) -> Option<(u64, PathBuf)> {
    list(out).into_iter().next()
}

/// Finds the newest whole checkpoint of the run with this key; damaged ones are named and passed
/// over. One that only the mirror holds whole is copied back first.
pub(crate) fn newest(
    out: &Path,
    mirror: Option<&Path>,
    key: Digest,
    progress: &dyn Progress,
) -> Result<Option<(u64, PathBuf)>, TrainError> {
    let mut candidates = list(out);
    let local = candidates.len();
    candidates.extend(mirror.into_iter().flat_map(list));
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // Of two copies the nearer one.
    order.sort_by_key(|&at| (std::cmp::Reverse(candidates[at].0), at));
    for at in order {
        let (step, path) = &candidates[at];
        match open_artifact(path, Kind::Checkpoint, Verify::Contents) {
            Ok((manifest, _)) if manifest.key != key => {}
            Ok(_) if at < local => return Ok(Some((*step, path.clone()))),
            Ok(_) => {
                progress.line(&format!("copying the checkpoint {} back", path.display()));
                let dir = folder(out, *step);
                make_room(&dir)?;
                copy_artifact(path, &dir)?;
                return Ok(Some((*step, dir)));
            }
            Err(error) => progress.line(&format!("{error}; looking for an older checkpoint")),
        }
    }
    Ok(None)
}

/// Takes away what a process that was killed left of checkpoints in a folder, and puts back those that it
/// was about to replace.
pub(crate) fn tidy(folder: &Path) -> Result<(), TrainError> {
    tidy_artifacts(folder, |name| FINAL_NAMES.contains(&name))?;
    Ok(tidy_artifacts(&folder.join(FOLDER), |name| name.starts_with("step-"))?)
}

/// Copies to the mirror what the folder of the run with this key holds whole and the mirror does not: the
/// run may have been cut between the two.
pub(crate) fn catch_up(out: &Path, mirror: &Path, key: Digest) -> Result<(), TrainError> {
    let steps = list(out).into_iter().map(|(step, dir)| (dir, folder(mirror, step)));
    let finals = FINAL_NAMES.map(|name| (out.join(name), mirror.join(name)));
    for (from, to) in steps.chain(finals) {
        let opened = |dir, verify| open_artifact(dir, Kind::Checkpoint, verify).ok();
        let there = opened(&to, Verify::Lengths);
        let is_missing = match (&there, opened(&from, Verify::Lengths)) {
            (_, None) => false,
            (None, Some(_)) => true,
            // One of the plan before replaces none.
            (Some((_, there)), Some((here, digest))) => digest != *there && here.key == key,
        };
        if is_missing && opened(&from, Verify::Contents).is_some() {
            make_room(&to)?;
            copy_artifact(&from, &to)?;
        }
    }
    Ok(())
}

/// The state of a whole checkpoint of the run with this key in a folder or its mirror.
pub(crate) fn state_of(out: &Path, mirror: Option<&Path>, key: Digest) -> Option<State> {
    let mut dirs = vec![out.join(FINAL_CHECKPOINT)];
    dirs.extend([Some(out), mirror].into_iter().flatten().flat_map(list).map(|(_, dir)| dir));
    dirs.into_iter().find_map(|dir| {
        let (manifest, _) = open_artifact(&dir, Kind::Checkpoint, Verify::Contents).ok()?;
        (manifest.key == key).then(|| read_state(&dir).ok()).flatten()
    })
}

/// Removes the checkpoints at steps that are not kept. Which ones stay depends on what was trained
/// alone, so that a resumed run ends with the same folders.
pub(crate) fn prune(out: &Path, keep: &BTreeSet<u64>) -> Result<(), TrainError> {
    for (_, path) in list(out).into_iter().filter(|(step, _)| !keep.contains(step)) {
        fs::remove_dir_all(&path).map_err(|source| TrainError::Io { path, source })?;
    }
    Ok(())
}

/// Removes a checkpoint, if it is there.
pub(crate) fn remove(dir: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(TrainError::Io { path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Removes the checkpoints after `step`.
pub(crate) fn remove_after(out: &Path, step: u64) -> Result<(), TrainError> {
    for (_, path) in list(out).into_iter().filter(|(at, _)| *at > step) {
        fs::remove_dir_all(&path).map_err(|source| TrainError::Io { path, source })?;
    }
    Ok(())
}

/// Reads a checkpoint back.
pub(crate) fn read(
    dir: &Path,
    network: &Network,
    start: Start<'_>,
    config: &TrainConfig,
    device: &Device,
) -> Result<(ParameterStore, OptimizerState, Option<Average>, State), TrainError> {
    let parameters = network.read(dir, start, device)?;
    let optimizer = OptimizerState::read(config.optimizer, dir, OPTIMIZER_FILE, &parameters)?;
    let read = |average| {
        // The run may have been extended by an average just now, which begins with the weights.
        if tensor_file::exists(dir, AVERAGE_FILE)? {
            Average::read(average, dir, AVERAGE_FILE, &parameters)
        } else {
            Ok(Average::new(average, &parameters))
        }
    };
    let average = config.average.map(read).transpose()?;
    let path = dir.join(STATE_FILE);
    let bytes = fs::read(&path).map_err(|source| TrainError::Io { path: path.clone(), source })?;
    let state = serde_json::from_slice(&bytes)
        .map_err(|error| TrainError::Checkpoint { path, message: error.to_string() })?;
    Ok((parameters, optimizer, average, state))
}

/// Reads the state alone.
pub(crate) fn read_state(dir: &Path) -> Result<State, TrainError> {
    let path = dir.join(STATE_FILE);
    let bytes = fs::read(&path).map_err(|source| TrainError::Io { path: path.clone(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| TrainError::Checkpoint { path, message: error.to_string() })
}

//! What can be wrong with a plan or with the tables it is made from.
//!
//! One enum for the crate; each part of it has its block.

use milpa_base::{Bytes, Tokens};

/// A plan that cannot work, or input that cannot be planned with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    // A run on this machine.
    /// It does not fit in memory.
    #[error(
        "training needs about {needed} of memory ({activations} of it activations), but {available} \
         are available; lower train.micro_batch_size, train.sequence_length or the model's size"
    )]
    TooLittleMemory {
        /// What it needs.
        needed: Bytes,
        /// The activations' part.
        activations: Bytes,
        /// What there is.
        available: Bytes,
    },
    /// There is less text than one batch takes.
    #[error(
        "the training split has {available}, but one step takes {needed}; add text, or lower \
         train.batch_size or train.sequence_length"
    )]
    TooLittleText {
        /// Tokens there are.
        available: Tokens,
        /// Tokens of one step.
        needed: Tokens,
    },

    // Models, devices, layouts, simulation and validation.
    /// No published model has this name.
    #[error("there is no published model {name:?}{}; known are {known}", did_you_mean(nearest.as_deref()))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The nearest known name.
        nearest: Option<String>,
        /// All known names.
        known: String,
    },
    /// A model's sizes contradict each other.
    #[error("the model's shape is impossible: {0}; correct that size")]
    BadModel(String),
    /// No device has this name.
    #[error("there is no device {name:?}{}; known are {known}", did_you_mean(nearest.as_deref()))]
    UnknownDevice {
        /// What was asked for.
        name: String,
        /// The nearest known name.
        nearest: Option<String>,
        /// All known names.
        known: String,
    },
    /// The device has no peak for this number format.
    #[error("{device} has no matrix units for {dtype}; it has {known}")]
    NoSuchPrecision {
        /// The device.
        device: String,
        /// The number format asked for.
        dtype: String,
        /// The formats it has.
        known: String,
    },
    /// No calibration has this name.
    #[error("there is no calibration {name:?}; known are {known}")]
    UnknownCalibration {
        /// What was asked for.
        name: String,
        /// All known names.
        known: String,
    },
    /// A layout cannot be laid on the model or on the machine.
    #[error("the layout is impossible: {problem}; {remedy}")]
    BadLayout {
        /// What contradicts what.
        problem: String,
        /// What to change.
        remedy: String,
    },
    /// A table of measured runs is broken.
    #[error("{path}, line {line}: {problem}; {remedy}")]
    BadTable {
        /// The file.
        path: String,
        /// Line in the file, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Too few measured runs for the parameters to be fitted.
    #[error(
        "{rows} measured runs cannot determine {parameters} parameters; {needed} would be enough"
    )]
    TooFewRuns {
        /// Rows there are.
        rows: usize,
        /// Parameters to fit.
        parameters: usize,
        /// Rows that would be enough.
        needed: usize,
    },
    /// A number is out of its range.
    #[error("{name} is {value}, but must be {range}")]
    OutOfRange {
        /// The quantity.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },

    // Runs on clusters, budgets, failures, inference and records of runs.
    /// A text is no amount of what was wanted.
    #[error("{text:?} is not {wanted}: {problem}")]
    BadAmount {
        /// What was given.
        text: String,
        /// What was wanted.
        wanted: String,
        /// Why it is not that.
        problem: String,
    },
    /// A question lacks a part or has one too many.
    #[error("{problem}; {remedy}")]
    BadQuestion {
        /// What is missing or contradicts.
        problem: String,
        /// What to type.
        remedy: String,
    },
    /// A cluster fails faster than it comes back.
    #[error(
        "no progress is possible: it fails every {hours_to_failure:.1} h, but a checkpoint takes \
         {stall_minutes:.1} min and a restart {restart_minutes:.0} min; fewer GPUs, asynchronous \
         checkpoints or a faster restart would be enough"
    )]
    NoProgress {
        /// Mean time to failure.
        hours_to_failure: f64,
        /// Time of a restart.
        restart_minutes: f64,
        /// Time that a checkpoint stalls.
        stall_minutes: f64,
    },
    /// The model fits on the machine in no layout.
    #[error("{model} does not fit on {gpus} x {device} in any layout: {reason}; {enough}")]
    FitsNowhere {
        /// The model.
        model: String,
        /// How many devices there are.
        gpus: u64,
        /// The device.
        device: String,
        /// What does not fit.
        reason: String,
        /// What would be enough.
        enough: String,
    },
    /// A table of the user is broken.
    #[error("{path}: {problem}")]
    BadFile {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        problem: String,
    },
    // Scaling laws.
    /// The runs cannot answer what was asked.
    #[error("{problem}; {remedy}")]
    CannotFit {
        /// What the runs lack.
        problem: String,
        /// What would be enough.
        remedy: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(", did you mean {name:?}?")).unwrap_or_default()
}

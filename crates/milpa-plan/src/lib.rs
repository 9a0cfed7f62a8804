//! What a run will take before it is spent: parameters, FLOPs, memory and time.
//!
//! Pure arithmetic on shapes. It knows neither tensors nor recipes; the binary turns a recipe into
//! a [`ModelShape`] and a [`TrainShape`], and asks whether the plan is possible on a machine.
//!
//! Conventions, always printed with the numbers: a multiply-add is two FLOPs; a training step is
//! three times the forward pass; "PaLM" counts attention over the whole sequence
//! (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), "causal" counts only the half that a
//! causal mask leaves.

#![forbid(unsafe_code)]

mod amounts;
mod cluster_memory;
mod cluster_plan;
mod compute_optimal;
mod continued;
mod conventions;
mod device;
mod error;
pub mod failures;
mod fit;
mod inference;
mod layout;
mod linear;
mod local;
mod measured;
mod published;
mod record;
pub mod scaling;
mod search;
mod shape;
pub mod sheet;
pub mod simulate;
mod step;
mod validation;
mod viability;

pub use amounts::{Budget, Currency, Exchange, Money, parameters};
pub use cluster_memory::{
    ClusterMemory, States, activation_bytes_per_token, cluster_memory, layers_in_flight,
    stage_memory,
};
pub use cluster_plan::{Amount, ClusterQuestion, ModelChoice, plan_cluster, shape_of};
pub use compute_optimal::{BESIROGLU, HOFFMANN, LossLaw};
pub use continued::{Anchor, ContinuedQuestion, Shift, effective_tokens, plan_continued};
pub use conventions::{FlopsPerToken, flops_per_token};
pub use device::{Device, Dtype, devices};
pub use error::PlanError;
pub use fit::{Free, MeasuredRun, fit_calibration};
pub use inference::{Format, InferenceQuestion, RemotePrice, WEIGHT_FORMATS, plan_inference};
pub use layout::{
    AttentionKernel, Batch, ClusterRun, Layout, NumberFormats, Recompute, Schedule, ZeroStage,
};
pub use local::{AdapterShape, Machine, Memory, Plan, TrainShape, memory, plan};
pub use measured::{MeasuredMemory, published_memory, published_runs, read_vtrain};
pub use published::latamgpt;
pub use record::{Expected, Ledger, LedgerEntry, Outcome, OwnRun, OwnRuns, PlannedRun, Quantiles};
pub use search::{Candidate, Search};
pub use shape::{ModelShape, PublishedModel, published_models};
pub use step::{
    Calibration, Durations, NamedCalibration, PassTime, StepTime, Utilisation, calibrations,
    durations, step_time, utilisation,
};
pub use validation::{
    ErrorRow, Errors, LeftOut, LeftOutRuns, ValidationReport, cross_validate_published,
    cross_validate_vtrain, fit_fused, fit_vtrain, published_range, validate, validate_korthikanti,
    validate_published_memory,
};
pub use viability::{Salary, ViabilityQuestion, plan_viability, read_salaries, salaries};

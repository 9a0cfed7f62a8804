//! Pre-training: the loop, its schedule and optimiser, checkpoints and resume.
//!
//! A run is a function of its configuration, the token shards, the tokenizer and the seed: cut at
//! any moment and started again, it ends in the same bytes. The loop knows one machine and one
//! device; what a token shard or a layer is, it leaves to their crates.

#![forbid(unsafe_code)]

mod average;
mod base;
mod checkpoint;
mod config;
mod control;
mod data;
mod decay;
mod error;
mod feed;
mod forgetting;
mod metrics;
mod mup;
mod non_finite;
mod optimizer;
mod replan;
mod retention;
mod saver;
mod schedule;
mod stability;
mod stages;
mod tensor_file;
mod trainer;
mod watchdog;

pub use average::AverageConfig;
pub use base::{AdapterConfig, BaseConfig, BaseModel, Start};
pub use checkpoint::{STATE_FILE, State, list as checkpoints, newest_checkpoint, newest_step};
pub use config::{Optimizer, Precision, TrainConfig};
pub use control::{ControlState, LimitConfig, ReplayChange};
pub use data::{ReplaySet, newest_of_any_plan, stage_table};
pub use decay::{DecayGroup, DecayGroups};
pub use error::TrainError;
pub use forgetting::{
    FORGETTING_FILE, ForgettingConfig, ForgettingReport, Standing, read_forgetting,
};
pub use metrics::{
    METRICS_FILE, Metric, Noted, OnMetric, read_metrics, step_seconds, steps_before, was_stopped,
};
pub use mup::MupConfig;
pub use replan::PassedOver;
pub use schedule::{Curve, Piece, Schedule, Shape};
pub use stability::{StabilityConfig, StabilityState};
pub use stages::{ReplayConfig, SourceWeight, StageConfig, StageTable};
pub use trainer::{
    AVERAGED_CHECKPOINT, CHOSEN_CHECKPOINT, ChangedPlan, FINAL_CHECKPOINT, Job, OnGradients,
    Summary, model_shape, train, train_shape,
};
pub use watchdog::{Activity, Hang, Pulse, ThreadState, Watchdog};

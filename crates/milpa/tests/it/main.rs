//! Behaviour of the `milpa` binary: what a person types, what comes out, and what survives.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bad_input;
mod bases;
mod continued;
mod endpoint;
mod eval;
mod extension;
mod harness;
mod plan;
mod plan_cluster;
mod resume;
mod stages;
mod usage;
mod watch;

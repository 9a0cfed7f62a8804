//! Behaviour of the planner, on published numbers and on data of our own making.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod gadre;
mod ladder;
mod peer;
mod porian;
mod recovery;
mod reports;

//! Behaviour of training as its users see it: schedules against their peers, and runs that are cut.

#![allow(clippy::unwrap_used)]

mod adapters;
mod faults;
mod forgetting;
mod harness;
mod onward;
mod resume;
mod schedules;
mod stages;

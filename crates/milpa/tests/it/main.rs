//! Behaviour of the `milpa` binary: what a person types, what comes out, and what survives.

mod bad_input;
mod harness;
mod resume;
mod usage;

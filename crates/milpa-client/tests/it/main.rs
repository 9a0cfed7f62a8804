//! A remote model against a fake endpoint that misbehaves, and against a Milpa server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;
mod misbehaviour;
mod served;

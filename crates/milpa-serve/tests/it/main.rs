//! The server as its clients meet it: over plain TCP, with a model that the test controls.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod client;
mod limits;
mod model;
mod security;

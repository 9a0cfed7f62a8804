//! OpenAI-compatible HTTP over any [`TextModel`](milpa_base::TextModel), and the chat page.
//!
//! A request is read strictly (an unknown field is an error, never ignored), waits its turn in a
//! bounded queue, and is answered whole or as server-sent events. One text is generated at a time,
//! because the model uses all cores. This crate knows no tensors and no files: the caller gives it
//! a model and a chat template.

#![forbid(unsafe_code)]

mod api;
mod chat;
mod config;
mod connection;
mod engine;
mod metrics;
mod page;
mod routes;
mod server;

pub use chat::ChatFormat;
pub use config::{ApiKey, ServeConfig, ServeError};
pub use server::Server;

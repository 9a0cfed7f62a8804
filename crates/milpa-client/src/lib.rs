//! A model behind any OpenAI-compatible endpoint, as a [`TextModel`](milpa_base::TextModel).
//!
//! [`RemoteModel`] asks `/v1/completions` (with `echo` and `logprobs` for scores) and
//! `/v1/chat/completions`; it repeats what can be repeated, keeps to limits and to a budget that are
//! checked before anything is sent, and remembers every answer, so that an endpoint that dies
//! half-way costs nothing twice. [`Webhook`] posts a message to whoever wants to hear of something. This is the only crate that connects to other machines. It knows no
//! task, no tokenizer and no chat template, reads no environment, and never shows a key.

mod answers;
mod config;
mod error;
mod http;
mod meter;
mod remote;
mod sender;
mod webhook;
mod wire;

pub use config::{Api, ApiKey, Budget, EndpointConfig, EndpointUrl, ModelPrice, Prices};
pub use error::ClientError;
pub use remote::{RemoteModel, messages_prompt};
pub use webhook::{Webhook, WebhookConfig};

//! What can be wrong with an endpoint before a model is asked anything.

use std::{io, path::PathBuf};

/// An endpoint that cannot be used as it was described.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address makes no sense.
    #[error("{url:?} is no endpoint: {problem}; give one such as https://host.example/v1")]
    Url {
        /// What was given, without what may be secret.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Prompts, answers and the key would cross a network for all to read.
    #[error(
        "{url} is not encrypted and not on this machine: whoever is on the way can read the prompts, \
         the answers and the key; use https, or say --allow-insecure"
    )]
    Insecure {
        /// The address.
        url: String,
    },
    /// The key cannot stand in a header.
    #[error("the API key must be visible ASCII without spaces; check the variable it comes from")]
    Key,
    /// A setting makes no sense.
    #[error("{name} {problem}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Certificates that cannot be used.
    #[error("{path} holds no certificates in PEM; name a file with --ca-file that does")]
    Certificates {
        /// Where they should be.
        path: PathBuf,
    },
    /// The file of remembered answers.
    #[error(
        "cannot use the remembered answers in {path}{}",
        milpa_base::artifact::advice(path, source)
    )]
    Answers {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The endpoint lists several models, or none, and none was named.
    #[error("name the model with --model: {url} has {models}")]
    WhichModel {
        /// The endpoint.
        url: String,
        /// What it lists.
        models: String,
    },
    /// An address for messages that cannot be used, or that took none.
    #[error("the webhook: {problem}")]
    Webhook {
        /// What is wrong; the address, which may be a secret, is not in it.
        problem: String,
    },
    /// The endpoint did not answer.
    #[error("{0}")]
    Endpoint(String),
}

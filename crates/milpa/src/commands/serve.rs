//! `milpa serve`: an OpenAI-compatible server with a chat page.

use std::{net::ToSocketAddrs, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use milpa_base::TextModel;
use milpa_serve::{ApiKey, ChatFormat, ServeConfig, Server};

use crate::{
    commands::chat::{self, ModelPaths},
    context::Context,
};

/// Variable that may hold the key instead of a file.
const KEY_VARIABLE: &str = "MILPA_API_KEY";

/// Serves a model until it is stopped.
pub fn serve(
    context: &Context,
    model: ModelPaths<'_>,
    bind: &str,
    key_file: Option<&Path>,
) -> Result<()> {
    let address =
        bind.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()).with_context(
            || format!("{bind:?} is no address with a port, such as 127.0.0.1:8080"),
        )?;
    let key = match key_file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the key file {}", path.display()))?;
            Some(text.trim().to_owned())
        }
        None => std::env::var(KEY_VARIABLE).ok(),
    };
    if key.as_deref().is_some_and(str::is_empty) {
        bail!("the API key is empty; write at least one character into the file or {KEY_VARIABLE}");
    }
    let config = ServeConfig {
        bind: address,
        api_key: key.map(|key| key.parse::<ApiKey>()).transpose()?,
        ..ServeConfig::default()
    };
    config.validate()?;
    let opened = chat::open(context, model)?;
    let format = ChatFormat::for_model(opened.tokenizer(), opened.chat_template());
    let name = opened.info().name.clone();
    let server = Server::bind(config, Arc::new(opened), format)?;
    context.progress.say(&format!(
        "serving {name}\n  chat page   {url}/\n  API         {url}/v1 (OpenAI-compatible)\n  metrics     {url}/metrics\nCtrl-C ends it",
        url = server.url()
    ));
    server.run_blocking(&context.stop)?;
    // Being stopped is how a server ends: no failure, nothing to resume.
    context.progress.say("stopped");
    std::process::exit(0)
}

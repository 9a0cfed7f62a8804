//! Opens "a model" from the command line: a folder or file here, or a name at an endpoint.
//!
//! The only place that reads an endpoint's key (from the variable that the user names) and the only
//! one that says where prompts go.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use milpa_base::{TextEncoder, TextModel, load_toml};
use milpa_client::{Api, ApiKey, EndpointConfig, EndpointUrl, RemoteModel, messages_prompt};
use milpa_model::LocalModel;
use milpa_tokens::{ChatTemplate, Message, RenderOptions, Tokenizer};

use crate::{
    cli::{ApiChoice, EndpointArguments, ScoredModel},
    commands::chat::{self, ModelPaths},
    context::Context,
};

/// Where systems keep the authorities that they trust.
const AUTHORITIES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];
/// The variable by which OpenSSL is told of another place.
const AUTHORITIES_VARIABLE: &str = "SSL_CERT_FILE";

/// A model, wherever it is.
pub enum OpenedModel {
    /// On this machine.
    Here(Box<LocalModel>),
    /// Behind an endpoint.
    Elsewhere {
        /// The model.
        model: Box<RemoteModel>,
        /// Its tokenizer and chat template, where conversations are written here.
        written_here: Option<Box<(Tokenizer, ChatTemplate)>>,
        /// Whether conversations can be sent.
        converses: bool,
    },
}

/// What the command line says of a model.
#[derive(Debug, Clone, Copy)]
pub struct ModelFlags<'a> {
    /// A path here, or a name at the endpoint.
    pub model: Option<&'a Path>,
    /// The adapter to open with a model here.
    pub adapter: Option<&'a Path>,
    /// The endpoint, if there is one.
    pub endpoint: &'a EndpointArguments,
    /// File of the answers that an endpoint gave.
    pub answers: &'a Path,
}

impl<'a> ModelFlags<'a> {
    /// The model that a command scores; `answers` is where the endpoint's answers are kept unless the
    /// command line says it.
    pub fn scored(scored: &'a ScoredModel, answers: &'a Path) -> Self {
        Self {
            model: scored.model.as_deref(),
            adapter: scored.adapter.as_deref(),
            endpoint: &scored.endpoint,
            answers: scored.answers.as_deref().unwrap_or(answers),
        }
    }
}

impl OpenedModel {
    /// Opens a model, and says where prompts go if it is elsewhere.
    pub fn open(context: &Context, flags: ModelFlags<'_>) -> Result<Self> {
        if flags.endpoint.endpoint.is_some() {
            return elsewhere(context, flags);
        }
        let model = flags.model.context("name a model, or an endpoint with --endpoint URL")?;
        Self::here(context, model, flags.adapter)
    }

    /// Opens a model on this machine.
    pub fn here(context: &Context, model: &Path, adapter: Option<&Path>) -> Result<Self> {
        Ok(Self::Here(Box::new(chat::open(context, ModelPaths { model, adapter })?)))
    }

    /// The model.
    pub fn model(&self) -> &dyn TextModel {
        match self {
            Self::Here(model) => &**model,
            Self::Elsewhere { model, .. } => &**model,
        }
    }

    /// Changes the name that is shown to people.
    pub fn rename(&mut self, name: &str) {
        match self {
            Self::Here(model) => model.rename(name),
            Self::Elsewhere { model, .. } => model.rename(name),
        }
    }

    /// Whether the model takes conversations: it has a chat template, or its endpoint has one.
    pub fn converses(&self) -> bool {
        match self {
            Self::Here(model) => model.chat_template().is_some(),
            Self::Elsewhere { converses, .. } => *converses,
        }
    }

    /// Writes messages as the model takes them, for tasks.
    pub fn render(&self, messages: &[Message], begin_answer: bool) -> Result<String, String> {
        let Some((tokenizer, template)) = self.template() else {
            return self.messages(messages, begin_answer);
        };
        let mut options = RenderOptions::for_training(tokenizer);
        options.add_generation_prompt = begin_answer;
        template.render(messages, &options).map_err(|error| error.to_string())
    }

    /// A system's and a user's turn as the model takes them, and whether special tokens in the text
    /// are special; without a chat template both with a blank line between.
    pub fn dialogue(&self, system: &str, user: &str) -> Result<(String, bool), String> {
        let plain = || [system, user].map(str::trim).join("\n\n").trim().to_owned();
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(Message::new("system", system));
        }
        messages.push(Message::new("user", user));
        let Some((tokenizer, template)) = self.template() else {
            let Self::Elsewhere { converses: true, .. } = self else { return Ok((plain(), false)) };
            return Ok((self.messages(&messages, true)?, true));
        };
        if *template == ChatTemplate::continuation() {
            return Ok((plain(), false));
        }
        let options = RenderOptions::for_reply(tokenizer);
        let rendered = template.render(&messages, &options).or_else(|_| {
            // Some templates know no system role.
            template.render(&[Message::new("user", plain())], &options)
        });
        rendered.map(|text| (text, true)).map_err(|error| error.to_string())
    }

    /// Says what an endpoint was asked and what it cost, whether all went well or not.
    pub fn told<T>(&self, context: &Context, result: Result<T>) -> Result<T> {
        if let Some(record) = self.model().endpoint() {
            context.progress.say(&record.to_line());
        }
        result
    }

    fn template(&self) -> Option<(&Tokenizer, &ChatTemplate)> {
        match self {
            Self::Here(model) => Some((model.tokenizer(), model.chat_template()?)),
            Self::Elsewhere { written_here, .. } => {
                written_here.as_deref().map(|(tokenizer, template)| (tokenizer, template))
            }
        }
    }

    fn messages(&self, messages: &[Message], begin_answer: bool) -> Result<String, String> {
        if !self.converses() {
            return Err("the model has no chat template".to_owned());
        }
        if !begin_answer {
            return Err(
                "an endpoint does not continue an answer that was begun; give the model's \
                        tokenizer with its chat template (--tokenizer)"
                    .to_owned(),
            );
        }
        let pairs =
            messages.iter().map(|message| (message.role.as_str(), message.content.as_str()));
        Ok(messages_prompt(pairs))
    }
}

/// Opens a model behind an endpoint.
fn elsewhere(context: &Context, flags: ModelFlags<'_>) -> Result<OpenedModel> {
    let arguments = flags.endpoint;
    let url: EndpointUrl = arguments.endpoint.as_deref().unwrap_or_default().parse()?;
    if !arguments.allow_insecure {
        url.check_encrypted()?;
    }
    ensure!(
        flags.adapter.is_none(),
        "--adapter is for a model here; --endpoint names one elsewhere"
    );
    let tokenizer = match &arguments.tokenizer {
        Some(path) => Some(
            Tokenizer::open(path)
                .with_context(|| format!("--tokenizer {} cannot be opened", path.display()))?,
        ),
        None => None,
    };
    let api = match arguments.api {
        ApiChoice::Auto => Api::Auto,
        ApiChoice::Completions => Api::Completions,
        ApiChoice::Chat => Api::Chat,
    };
    let written_here = match &tokenizer {
        Some(tokenizer) if api != Api::Chat => tokenizer
            .chat_template()
            .map(|template| Box::new((tokenizer.clone(), template.clone()))),
        _ => None,
    };
    let mut config = EndpointConfig::new(url);
    config.model = flags.model.map(|name| name.to_string_lossy().into_owned());
    config.key = arguments.api_key_env.as_deref().map(key).transpose()?;
    config.api = api;
    config.renders_chats = written_here.is_some();
    config.context_length = arguments.context_length;
    config.concurrency = arguments.concurrency;
    config.timeout = std::time::Duration::from_secs(arguments.timeout);
    config.attempts = arguments.attempts;
    config.requests_per_minute = arguments.requests_per_minute;
    config.tokens_per_minute = arguments.tokens_per_minute;
    config.budget.max_requests = arguments.max_requests;
    config.budget.max_tokens = arguments.max_tokens_total;
    config.budget.max_cost = arguments.max_cost;
    config.prices = arguments.prices.as_deref().map(load_toml).transpose()?;
    config.proxy.clone_from(&arguments.proxy);
    config.ca_file = if config.url.as_str().starts_with("https") {
        Some(arguments.ca_file.clone().map_or_else(authorities, Ok)?)
    } else {
        None
    };
    config.answers = Some(flags.answers.to_owned());
    config.stop = context.stop.clone();
    let converses = written_here.is_some() || api != Api::Completions;
    let (url, is_here, at_a_time) =
        (config.url.clone(), config.url.is_loopback(), config.concurrency);
    let encoder = tokenizer.map(|tokenizer| Box::new(tokenizer) as Box<dyn TextEncoder>);
    let model = RemoteModel::connect(config, encoder)?;
    let remark = if is_here { "" } else { "; prompts leave this machine" };
    context.progress.say(&format!(
        "asking {} at {url}, {at_a_time} requests at a time{remark}",
        model.asked_model()
    ));
    for remark in model.remarks() {
        context.progress.say(&format!("warning: {remark}"));
    }
    Ok(OpenedModel::Elsewhere { model: Box::new(model), written_here, converses })
}

/// The key in the variable called `name`. A name that is no name may be the key itself: it is not
/// repeated.
fn key(name: &str) -> Result<ApiKey> {
    let is_name = !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        bail!("--api-key-env takes the NAME of a variable, such as OPENAI_API_KEY, not the key");
    }
    let Ok(value) = std::env::var(name) else {
        bail!(
            "--api-key-env: there is no variable of that name, or it is no text; export it first"
        );
    };
    Ok(value.parse()?)
}

fn authorities() -> Result<PathBuf> {
    let told = std::env::var_os(AUTHORITIES_VARIABLE).map(PathBuf::from);
    let usual = AUTHORITIES.map(PathBuf::from);
    told.into_iter().chain(usual).find(|path| path.is_file()).context(
        "no certificates of authorities were found on this system; name a file with --ca-file",
    )
}

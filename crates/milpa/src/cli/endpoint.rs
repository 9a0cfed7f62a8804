//! Arguments that name a model elsewhere, the same for every command that asks one.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Where a model elsewhere is, and how much may be asked of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "A model elsewhere")]
pub struct EndpointArguments {
    /// Address of an OpenAI-compatible endpoint; the model is then a name there
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// NAME of the environment variable that holds the endpoint's key
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub api_key_env: Option<String>,
    /// Which way prompts go: auto sends conversations as messages and other texts as texts
    #[arg(long, value_enum, default_value_t = ApiChoice::Auto, requires = "endpoint")]
    pub api: ApiChoice,
    /// The model's own tokenizer: a bundle, checkpoint or folder; prompts are then sent as tokens
    #[arg(long, value_name = "DIR", requires = "endpoint")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens that the model takes, where the endpoint does not say
    #[arg(long, value_name = "N", requires = "endpoint")]
    pub context_length: Option<usize>,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 4, requires = "endpoint")]
    pub concurrency: usize,
    /// Longest wait for one answer
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400), requires = "endpoint")]
    pub timeout: u64,
    /// Attempts at one request; the waits between them double
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=20), requires = "endpoint")]
    pub attempts: u32,
    /// Requests in a minute, at most
    #[arg(long, value_name = "N", requires = "endpoint")]
    pub requests_per_minute: Option<f64>,
    /// Tokens in a minute, at most
    #[arg(long, value_name = "N", requires = "endpoint")]
    pub tokens_per_minute: Option<f64>,
    /// Requests of this command, repeated ones included, at most
    #[arg(long, value_name = "N", requires = "endpoint")]
    pub max_requests: Option<u64>,
    /// Tokens of prompts and answers of this command, at most
    #[arg(long, value_name = "N", requires = "endpoint")]
    pub max_tokens_total: Option<u64>,
    /// What models cost, in TOML: currency, and [models."NAME"] with prompt_per_million and
    /// completion_per_million
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub prices: Option<PathBuf>,
    /// Money for this command, at most, in the currency of --prices
    #[arg(long, value_name = "AMOUNT", requires = "prices")]
    pub max_cost: Option<f64>,
    /// HTTP proxy; variables of the environment are not looked at
    #[arg(long, value_name = "URL", requires = "endpoint")]
    pub proxy: Option<String>,
    /// Authorities that are trusted, in PEM [default: the system's]
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub ca_file: Option<PathBuf>,
    /// Allow http:// to another machine: all on the way can read along
    #[arg(long, requires = "endpoint")]
    pub allow_insecure: bool,
}

/// The model that a command scores.
#[derive(Debug, Args)]
pub struct ScoredModel {
    /// A bundle, a checkpoint or a .gguf file; with --endpoint a name there
    #[arg(long, value_name = "MODEL", required_unless_present = "endpoint")]
    pub model: Option<PathBuf>,
    /// Folder of an adapter (LoRA) to open with the model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// File of the endpoint's answers, by which the same command goes on where a cut one stopped
    /// [default: beside what the command writes]
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub answers: Option<PathBuf>,
    /// A model elsewhere
    #[command(flatten)]
    pub endpoint: EndpointArguments,
}

/// Which of an endpoint's ways is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ApiChoice {
    /// Conversations to /v1/chat/completions, other texts to /v1/completions.
    Auto,
    /// All to /v1/completions.
    Completions,
    /// All to /v1/chat/completions.
    Chat,
}

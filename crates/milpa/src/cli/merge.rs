//! Arguments of `milpa merge`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Ways of making one model of several.
#[derive(Debug, Subcommand)]
pub enum MergeCommand {
    /// The weighted mean of models; of two, the straight line between them
    #[command(
        after_help = "Examples\n  milpa merge linear base continued --weights 0.3,0.7 --out merged\n  milpa merge linear base continued --sweep 0,0.25,0.5,0.75,1 --out line"
    )]
    Linear(LinearArguments),
    /// The mean of checkpoints of one run
    #[command(
        after_help = "Examples\n  milpa merge average runs/novelas --last 3 --out averaged\n  milpa merge average train/checkpoints/step-00000400 train/checkpoints/step-00000500 --out averaged"
    )]
    Average(AverageArguments),
    /// From one model to another along the great circle of each tensor
    Slerp(SlerpArguments),
    /// What several models changed of their base, trimmed, where they agree (arXiv:2306.01708)
    Ties(TiesArguments),
    /// Give a continued model the chat abilities of another model of its base (arXiv:2310.04799)
    #[command(
        after_help = "Example\n  milpa merge chat-vector --base llama --chat llama-instruct --continued llama-es --out llama-es-chat"
    )]
    ChatVector(ChatVectorArguments),
}

/// What `milpa merge linear` is given.
#[derive(Debug, Args)]
pub struct LinearArguments {
    /// Folders of models of one shape
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<PathBuf>,
    /// A weight for each model, such as 0.3,0.7 [default: equal ones]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub weights: Vec<f64>,
    /// Take the sum as it is: do not divide by that of the weights
    #[arg(long)]
    pub sum: bool,
    /// Points of the line from the first of two models (0) to the second (1), each in a folder of its own
    #[arg(
        long,
        value_name = "T,T,…",
        value_delimiter = ',',
        allow_hyphen_values = true,
        conflicts_with_all = ["weights", "sum"]
    )]
    pub sweep: Vec<f64>,
    /// Folder of the merged model; with --sweep, of the folders of all points
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What `milpa merge average` is given.
#[derive(Debug, Args)]
pub struct AverageArguments {
    /// Checkpoints; or, with --last, one run
    #[arg(required = true, value_name = "CHECKPOINT")]
    pub checkpoints: Vec<PathBuf>,
    /// The last checkpoints of a run's folder, as many as this
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub last: Option<u32>,
    /// Folder of the merged model
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What `milpa merge slerp` is given.
#[derive(Debug, Args)]
pub struct SlerpArguments {
    /// Folder of the model at 0
    pub first: PathBuf,
    /// Folder of the model at 1
    pub second: PathBuf,
    /// Where between them
    #[arg(long, value_name = "T", default_value_t = 0.5)]
    pub t: f64,
    /// Several points, each in a folder of its own
    #[arg(long, value_name = "T,T,…", value_delimiter = ',', conflicts_with = "t")]
    pub sweep: Vec<f64>,
    /// Folder of the merged model; with --sweep, of the folders of all points
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What `milpa merge ties` is given.
#[derive(Debug, Args)]
pub struct TiesArguments {
    /// Folders of models that were trained from the base
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<PathBuf>,
    /// Folder of the base
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Share of each tensor's changes that is kept, the largest ones; above 0 and at most 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    pub density: f64,
    /// A weight for each model [default: 1]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub weights: Vec<f64>,
    /// Factor on the merged changes
    #[arg(long, value_name = "L", default_value_t = 1.0, allow_hyphen_values = true)]
    pub lambda: f64,
    /// Several factors, each in a folder of its own
    #[arg(
        long,
        value_name = "L,L,…",
        value_delimiter = ',',
        allow_hyphen_values = true,
        conflicts_with = "lambda"
    )]
    pub sweep: Vec<f64>,
    /// Folder of the merged model; with --sweep, of the folders of all factors
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What `milpa merge chat-vector` is given.
#[derive(Debug, Args)]
pub struct ChatVectorArguments {
    /// Folder of the base of both models
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Folder of the chat model that was made of the base
    #[arg(long, value_name = "DIR")]
    pub chat: PathBuf,
    /// Folder of the model that continues the base's training
    #[arg(long, value_name = "DIR")]
    pub continued: PathBuf,
    /// Factor on what chat training changed
    #[arg(long, value_name = "S", default_value_t = 1.0, allow_hyphen_values = true)]
    pub scale: f64,
    /// Several factors, each in a folder of its own
    #[arg(
        long,
        value_name = "S,S,…",
        value_delimiter = ',',
        allow_hyphen_values = true,
        conflicts_with = "scale"
    )]
    pub sweep: Vec<f64>,
    /// Folder of the merged model; with --sweep, of the folders of all factors
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

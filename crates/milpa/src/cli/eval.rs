//! Arguments of `milpa eval` beyond scoring a model: boards, judges, ledgers, plans.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::EndpointArguments;

/// Votes and how to read them.
#[derive(Debug, Args)]
#[command(
    after_help = "Example\n  milpa eval arena votes.jsonl --category country --style-of answer_a,answer_b --out board"
)]
pub struct ArenaArguments {
    /// Votes: JSONL or CSV, plain or compressed; winner is model_a, model_b, tie or both_bad
    pub votes: PathBuf,
    /// Field with the first model
    #[arg(long, value_name = "FIELD", default_value = "model_a")]
    pub model_a: String,
    /// Field with the second model
    #[arg(long, value_name = "FIELD", default_value = "model_b")]
    pub model_b: String,
    /// Field with the winner
    #[arg(long, value_name = "FIELD", default_value = "winner")]
    pub winner: String,
    /// Field with the voter
    #[arg(long, value_name = "FIELD", default_value = "user")]
    pub user: String,
    /// Field with the time: seconds since 1970, or a date first
    #[arg(long, value_name = "FIELD", default_value = "time")]
    pub time: String,
    /// Fields by whose values there are boards of their own
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    pub category: Vec<String>,
    /// Fields with the two answers: length and markdown are controlled for
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 2)]
    pub style_of: Option<Vec<String>>,
    /// Fields with numbers of style (a − b) to control for
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    pub style: Vec<String>,
    /// L2 penalty on style coefficients for each vote
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub style_ridge: f64,
    /// Bootstrap replicates; 0 leaves the sandwich intervals alone
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub bootstrap: u32,
    /// Votes of one voter that count on one day
    #[arg(long, value_name = "N")]
    pub votes_per_user: Option<usize>,
    /// Leave out the voters that contradict all others or prefer a side
    #[arg(long)]
    pub drop_outliers: bool,
    /// Give each pair the same say once it has so many votes
    #[arg(long, value_name = "N")]
    pub reweight_pairs: Option<u32>,
    /// Same seed, same numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Folder for arena.json, arena.txt and the plot
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// A base model's report and those of what became of it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example\n  milpa eval compare runs/base/evaluation runs/continued/evaluation runs/sft/evaluation --general mmlu --regional choclo --out ledger"
)]
pub struct CompareArguments {
    /// Evaluation folder of the base
    pub base: PathBuf,
    /// Evaluation folders of the checkpoints: continued, post-trained, …
    #[arg(required = true)]
    pub checkpoints: Vec<PathBuf>,
    /// Tasks or sources with general text, for forgetting %
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub general: Vec<String>,
    /// Tasks or sources with regional text, for adaptation %
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub regional: Vec<String>,
    /// The models behind the reports, base first, for KL(base ‖ model); with --endpoint, what is no
    /// path here is a name there
    #[arg(long, value_name = "MODEL", value_delimiter = ',', requires = "kl_texts")]
    pub models: Vec<PathBuf>,
    /// General texts for KL(base ‖ model): JSONL with a field "text"
    #[arg(long, value_name = "FILE", requires = "models")]
    pub kl_texts: Option<PathBuf>,
    /// Texts for KL(base ‖ model) at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub kl_limit: usize,
    /// Bootstrap replicates behind each interval
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub bootstrap: u32,
    /// Same seed, same numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Folder for ledger.json, ledger.txt and the plot
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where models of --models are that are not here
    #[command(flatten)]
    pub endpoint: EndpointArguments,
}

/// A comparison that is planned.
#[derive(Debug, Args)]
pub struct PowerArguments {
    /// Questions there are
    #[arg(long, value_name = "N")]
    pub questions: u64,
    /// Accuracy that both models are near
    #[arg(long, value_name = "P", default_value_t = 0.5)]
    pub accuracy: f64,
    /// Correlation of the two models' right answers
    #[arg(long, value_name = "R", default_value_t = 0.5)]
    pub correlation: f64,
    /// Questions in a cluster (a document, an entity), on average
    #[arg(long, value_name = "M", default_value_t = 1.0)]
    pub cluster_size: f64,
    /// Correlation within a cluster
    #[arg(long, value_name = "R", default_value_t = 0.2)]
    pub cluster_correlation: f64,
    /// Probability of finding a difference that is there
    #[arg(long, value_name = "P", default_value_t = 0.8)]
    pub power: f64,
    /// Also say how many questions find this difference
    #[arg(long, value_name = "D")]
    pub difference: Option<f64>,
}

/// Who judges, and with which prompt.
#[derive(Debug, Args)]
pub struct JudgeArguments {
    /// The judge: a bundle, a checkpoint or a .gguf file; with --endpoint a name there
    #[arg(long, value_name = "MODEL", required_unless_present = "endpoint")]
    pub judge: Option<PathBuf>,
    /// Folder of an adapter (LoRA) to open with the judge
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Name of the prompt; `milpa eval judge prompts` lists them
    #[arg(long, value_name = "NAME")]
    pub prompt: String,
    /// Prompts to choose from instead of the program's: JSONL as MT-Bench has it
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Questions: JSONL with id, question (or turns), and reference or criteria where there are any
    #[arg(long, value_name = "FILE")]
    pub questions: PathBuf,
    /// Judge at most so many questions
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Tokens of a verdict with its reasons, at most
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_tokens: usize,
    /// Same seed, same draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Folder for judgments.jsonl and the summary; judgments that lie there are not asked again
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A judge elsewhere
    #[command(flatten)]
    pub endpoint: EndpointArguments,
}

/// Judge commands.
#[derive(Debug, Subcommand)]
pub enum JudgeCommand {
    /// Which of two models answers better, in both orders
    Pairs {
        /// The judge
        #[command(flatten)]
        judge: JudgeArguments,
        /// Answers of the model to be beaten
        #[arg(long, value_name = "FILE")]
        a: PathBuf,
        /// Answers of the other model
        #[arg(long, value_name = "FILE")]
        b: PathBuf,
    },
    /// Grade a model's answers, or hold them against each question's criteria, as the prompt asks
    Grade {
        /// The judge
        #[command(flatten)]
        judge: JudgeArguments,
        /// The answers
        #[arg(long, value_name = "FILE")]
        answers: PathBuf,
        /// Fields of the questions by which means are shown, such as dialect
        #[arg(long, value_name = "FIELD", value_delimiter = ',')]
        by: Vec<String>,
    },
    /// Read MT-Bench judgments anew and give mean grades by model and turn
    Scores {
        /// JSONL with model, turn, judgment and score
        judgments: PathBuf,
    },
    /// How far raters agree: kappa, alpha, AC1
    Agreement {
        /// JSONL with id, rater and label
        labels: PathBuf,
        /// Field by whose values agreement is shown, such as dialect
        #[arg(long, value_name = "FIELD")]
        by: Option<String>,
        /// Labels are scores: how far apart they are counts
        #[arg(long)]
        scores: bool,
    },
    /// Correct a judge's share of right answers by human labels
    Correct {
        /// JSONL with id, rater and label (true or false); the judge is one of the raters
        labels: PathBuf,
        /// The judge's name among the raters
        #[arg(long, value_name = "RATER")]
        judge: String,
    },
    /// List the program's prompts
    Prompts,
}

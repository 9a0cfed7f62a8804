//! Arguments of `milpa plan`.
//!
//! Amounts come as texts with their unit; what they mean is read by `milpa-plan`, so that a wrong
//! unit is answered with the right one.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use milpa_plan::scaling::{RunSize, read_number};

/// Planning commands.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// What a training takes: size, compute, loss, memory, layouts, time, failures, energy, price
    #[command(after_help = "Examples\n  milpa plan run recipes/novelas\n  \
            milpa plan run --model llama3-8b --tokens 100B --hardware h200 --gpus 64 --price-per-gpu-hour 3\n  \
            milpa plan run --budget \"250k USD\" --hardware h200 --gpus 64 --price-per-gpu-hour 3\n  \
            milpa plan run --as-published latamgpt")]
    Run(Box<RunArgs>),
    /// Whether a budget, a team and some months make a model, and which
    #[command(
        after_help = "Example\n  milpa plan viability --budget-usd 3M --team 20 --months 18 --country chile"
    )]
    Viability(ViabilityArgs),
    /// Continued pre-training: replay, learning rate, schedule and tokens
    #[command(
        after_help = "Example\n  milpa plan continued --base llama3-8b --tokens 100B --new-tokens 30B \
            --shift language --forgetting 0.02"
    )]
    Continued(ContinuedArgs),
    /// Serving a model: memory, tokens per second and price, against a remote price
    #[command(
        after_help = "Example\n  milpa plan inference --model llama3-8b --weights q4_k_m --hardware rtx4090 \
            --price-per-gpu-hour 0.4 --remote-input 0.05 --remote-output 0.10"
    )]
    Inference(InferenceArgs),
    /// One training step on a cluster, event by event, and the weeks of a run with failures
    #[command(after_help = "\
Examples
  milpa plan simulate --model llama3-70b --device h200 --gpus 256 --tensor 8 --zero parameters
  milpa plan simulate --model llama3-405b --device h100-sxm --gpus 16384 --tensor 8 --pipeline 16 \\
    --interleave 4 --batch 2048 --overlap-tensor --sequence-parallel --days 54 --svg step.svg")]
    Simulate(Box<SimulateArgs>),
    /// The planner against measured runs: time left out of the fit, memory with nothing fitted
    #[command(after_help = "\
Example
  milpa plan validate --data $MILPA_DATA > docs/plan-validation.md")]
    Validate {
        /// Folder with planner/vtrain_multi_dev.csv and planner/vtrain_single_dev.csv; without it the
        /// published runs alone are compared
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Fit a scaling law to small runs: the best size, tokens and loss of a large one
    #[command(after_help = "\
Columns of the CSV file
  parameters or non_embedding_parameters, tokens, loss; then, as there are: flops, schedule, run
  (name of a training curve), unique_tokens, task_loss, accuracy or error, split (fit, link, test).
  Numbers as 1500000000, 1.5e9 or 1.5B.

Examples
  milpa plan fit runs.csv --budget 1e21 --out fit/
  milpa plan fit runs.csv --form isoflop --count non-embedding
  milpa plan fit tasks.csv --form ladder --predict 7B,4T")]
    Fit(Box<FitArgs>),
    /// Take what a run measured into the plans of the next ones
    #[command(after_help = "Example\n  milpa plan calibrate runs/novelas")]
    Calibrate(CalibrateArgs),
}

/// Arguments of `milpa plan simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// A published model, such as llama3-70b
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// The device, such as h200
    #[arg(long, value_name = "NAME")]
    pub device: String,
    /// Devices in all; replicas are what tensor, pipeline and context leave of them
    #[arg(long, value_name = "N")]
    pub gpus: u64,
    /// Devices that share each matrix
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tensor: u64,
    /// Pipeline stages
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub pipeline: u64,
    /// Devices that share each sequence
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub context: u64,
    /// Layer chunks of each stage; more than one means the interleaved schedule
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub interleave: u64,
    /// Order of passes: gpipe, 1f1b, interleaved, zero-bubble [default: 1f1b, or interleaved]
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// What replicas share out: none, optimizer, gradients, parameters, parameters_summed,
    /// parameters_gathered
    #[arg(long, value_name = "WHAT", default_value = "optimizer")]
    pub zero: String,
    /// What the backward pass computes again: none, selective, alternate, full
    #[arg(long, value_name = "WHAT", default_value = "selective")]
    pub recompute: String,
    /// Share norms and residuals along the sequence among tensor-parallel devices
    #[arg(long)]
    pub sequence_parallel: bool,
    /// Run tensor-parallel communication beside the products it feeds
    #[arg(long)]
    pub overlap_tensor: bool,
    /// Sequences of a micro-batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub micro_batch: u64,
    /// Sequences of a step [default: eight micro-batches for each replica and stage]
    #[arg(long, value_name = "N")]
    pub batch: Option<u64>,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub sequence_length: u64,
    /// Bytes of states: mixed (16 for each parameter), megatron (18), fsdp, bf16-states (8), muon, fp32
    #[arg(long, value_name = "NAME", default_value = "mixed")]
    pub states: String,
    /// Number format of the products: bf16, fp8, fp16, fp32, tf32 [default: that of the states]
    #[arg(long, value_name = "NAME")]
    pub compute: Option<String>,
    /// GB/s in one direction between nodes for each device [default: the device's table]
    #[arg(long, value_name = "GB/S", allow_negative_numbers = true)]
    pub network: Option<f64>,
    /// Parameters of the time model: fused, megatron-a100
    #[arg(long, value_name = "NAME", default_value = "fused")]
    pub calibration: String,
    /// Draw the pipeline's time line
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Simulate the weeks: days of computing
    #[arg(long, value_name = "DAYS", allow_negative_numbers = true)]
    pub days: Option<f64>,
    /// Failures of one device in an hour (Llama 3's 54 days: 1.97e-5)
    #[arg(
        long,
        value_name = "RATE",
        allow_negative_numbers = true,
        default_value_t = 1.97e-5,
        requires = "days"
    )]
    pub failures_per_hour: f64,
    /// Seconds that a checkpoint stops the run
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers = true,
        default_value_t = 6.3,
        requires = "days"
    )]
    pub checkpoint_stall: f64,
    /// Minutes of computing between checkpoints [default: Young's best]
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true, requires = "days")]
    pub checkpoint_interval: Option<f64>,
    /// Minutes from a failure to computing again
    #[arg(
        long,
        value_name = "MINUTES",
        allow_negative_numbers = true,
        default_value_t = 15.0,
        requires = "days"
    )]
    pub restart: f64,
    /// Seed of the simulated weeks
    #[arg(long, value_name = "N", default_value_t = 1, requires = "days")]
    pub seed: u64,
}

/// Currency of an answer.
#[derive(Debug, Clone, Args)]
pub struct MoneyArgs {
    /// Currency of the answer and of prices without one
    #[arg(long, value_name = "CODE", default_value = "USD")]
    pub currency: String,
    /// What one US dollar costs in that currency
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub rate: Option<f64>,
}

/// Arguments of `milpa plan run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A folder with a recipe.toml, or the file itself; planned for this machine unless --hardware
    #[arg(conflicts_with_all = ["model", "parameters", "budget", "tokens", "sequence_length", "batch_tokens"])]
    pub recipe: Option<PathBuf>,
    /// A published model, such as llama3-8b, or a config.json
    #[arg(long, value_name = "NAME", conflicts_with = "parameters")]
    pub model: Option<String>,
    /// A size, such as 7B, in a shape like Llama 3's
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub parameters: Option<String>,
    /// What may be spent: "1e23 FLOP" or "250k USD"
    #[arg(long, value_name = "AMOUNT", conflicts_with = "tokens", allow_hyphen_values = true)]
    pub budget: Option<String>,
    /// Tokens to train on, such as 300B
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub tokens: Option<String>,
    /// Accelerator, such as h200
    #[arg(long, value_name = "NAME")]
    pub hardware: Option<String>,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true)]
    pub gpus: u64,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub sequence_length: u64,
    /// Tokens of a step [default: by the OLMo ladder's rule]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub batch_tokens: Option<String>,
    /// What products are computed in: bf16, fp8, fp32 [default: bf16 where the device has it]
    #[arg(long, value_name = "FORMAT")]
    pub precision: Option<String>,
    /// Price of one accelerator for an hour, such as 3 or "2800 CLP"
    #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
    pub price_per_gpu_hour: Option<String>,
    /// Energy of hosts and cooling over that of the accelerators, 1 for none
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, allow_negative_numbers = true)]
    pub energy_overhead: f64,
    /// Currency of the answer.
    #[command(flatten)]
    pub money: MoneyArgs,
    /// The published arithmetic of a project, as printed and corrected: latamgpt
    #[arg(long, value_name = "NAME", exclusive = true)]
    pub as_published: Option<String>,
    /// Runs of this machine to plan a recipe by [default: runs/calibration.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
}

/// Arguments of `milpa plan viability`.
#[derive(Debug, Args)]
pub struct ViabilityArgs {
    /// All money in US dollars, such as 3M
    #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
    pub budget_usd: String,
    /// People
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub team: f64,
    /// Months
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub months: f64,
    /// Country of the salaries
    #[arg(long, value_name = "NAME", default_value = "chile")]
    pub country: String,
    /// Your own table of salaries instead of the assumptions that come with milpa
    #[arg(long, value_name = "FILE")]
    pub salaries: Option<PathBuf>,
    /// Accelerator that is rented
    #[arg(long, value_name = "NAME", default_value = "h200")]
    pub hardware: String,
    /// Price of one for an hour
    #[arg(long, value_name = "MONEY", default_value = "3 USD", allow_hyphen_values = true)]
    pub price_per_gpu_hour: String,
    /// Currency of the answer.
    #[command(flatten)]
    pub money: MoneyArgs,
}

/// Arguments of `milpa plan continued`.
#[derive(Debug, Args)]
pub struct ContinuedArgs {
    /// The base: a published model, such as llama3-8b, a config.json, or a size such as 8B
    #[arg(long, value_name = "NAME")]
    pub base: String,
    /// Tokens of the run, replay included
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub tokens: String,
    /// Distinct tokens of new text there are
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub new_tokens: Option<String>,
    /// How far the new text is from the base's: language or domain
    #[arg(long, value_name = "KIND", default_value = "language")]
    pub shift: String,
    /// Largest relative rise of the loss on general text, 0.02 for 2 %
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, allow_negative_numbers = true)]
    pub forgetting: f64,
    /// A small trial of yours, "share of replay:forgetting", such as 0.05:0.03; may be repeated
    #[arg(long, value_name = "A:B")]
    pub trial: Vec<String>,
    /// Full learning rate of the base's pre-training
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub base_peak_lr: Option<f64>,
    /// Learning rate with which the base's pre-training ended
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub base_final_lr: Option<f64>,
    /// The base's own training text can be had
    #[arg(long)]
    pub base_text_open: bool,
}

/// Arguments of `milpa plan inference`.
#[derive(Debug, Args)]
pub struct InferenceArgs {
    /// A published model, such as llama3-8b, a config.json, or a size such as 8B
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// Accelerator, such as rtx4090, or this-machine, which is measured
    #[arg(long, value_name = "NAME")]
    pub hardware: String,
    /// How many of them share the model
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub gpus: u64,
    /// Format of the weights: f32, bf16, f16, fp8, q8_0, q6_k, q5_k_m, q4_k_m, q4_0
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    pub weights: String,
    /// Format of keys and values: f16, q8_0, q4_0 …
    #[arg(long, value_name = "FORMAT", default_value = "f16")]
    pub cache: String,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub prompt: u64,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub answer: u64,
    /// Sequences at once [default: as many as fit, at most 256]
    #[arg(long, value_name = "N")]
    pub batch: Option<u64>,
    /// Price of one accelerator for an hour
    #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
    pub price_per_gpu_hour: Option<String>,
    /// What a remote model takes for a million tokens of prompt
    #[arg(long, value_name = "MONEY", requires = "remote_output", allow_hyphen_values = true)]
    pub remote_input: Option<String>,
    /// What a remote model takes for a million tokens of answer
    #[arg(long, value_name = "MONEY", requires = "remote_input", allow_hyphen_values = true)]
    pub remote_output: Option<String>,
    /// Currency of the answer.
    #[command(flatten)]
    pub money: MoneyArgs,
}

/// Arguments of `milpa plan calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// A run folder, or the folder of a training
    pub run: PathBuf,
    /// The file to add to [default: calibration.toml beside the run folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `milpa plan fit`.
#[derive(Debug, Args)]
pub struct FitArgs {
    /// The runs, a CSV file
    pub runs: PathBuf,
    /// What is fitted
    #[arg(long, value_enum, default_value_t = FitForm::Chinchilla)]
    pub form: FitForm,
    /// What is made small; by default huber, and squares for over-training
    #[arg(long, value_enum)]
    pub objective: Option<FitObjective>,
    /// Where Huber's function turns from squares to absolute values, on ln(loss)
    #[arg(long, default_value_t = 1e-3, value_name = "WIDTH")]
    pub delta: f64,
    /// A budget in FLOPs to plan for, such as 1e21; may be given again
    #[arg(long, value_parser = positive, value_name = "FLOPS")]
    pub budget: Vec<f64>,
    /// A run to predict, such as 7B,2T; may be given again
    #[arg(long, value_parser = size, value_name = "N,D")]
    pub predict: Vec<RunSize>,
    /// Which parameters are N; by default all where the file has them
    #[arg(long, value_enum)]
    pub count: Option<FitCount>,
    /// Fit the runs of this schedule alone
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Different tokens that there are, for the data-constrained law
    #[arg(long, value_parser = positive, value_name = "TOKENS")]
    pub unique_tokens: Option<f64>,
    /// Resamples of the bootstrap
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub resamples: u32,
    /// Seed of the resamples
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder for plots (SVG) and fit.json
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Forms of a fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FitForm {
    /// L = E + A/N^alpha + B/D^beta (Chinchilla's approach 3)
    Chinchilla,
    /// Kaplan et al. 2020
    Kaplan,
    /// One exponent, for many tokens per parameter (Gadre et al. 2024)
    OverTraining,
    /// With repeated tokens (Muennighoff et al. 2023)
    DataConstrained,
    /// Lower envelope of training curves (Chinchilla's approach 1)
    Envelope,
    /// Parabolas through runs of equal compute (Chinchilla's approach 2)
    Isoflop,
    /// A task's loss, then its accuracy (Llama 3, OLMo ladder)
    Ladder,
}

/// Objectives of a fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FitObjective {
    /// Sum of Huber's function of the error of ln(loss)
    Huber,
    /// Sum of absolute errors of ln(loss)
    Absolute,
    /// Sum of squared errors of the loss
    Squares,
}

/// Which parameters are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FitCount {
    /// Embeddings included
    All,
    /// Without embeddings
    NonEmbedding,
}

fn positive(text: &str) -> Result<f64, String> {
    read_number(text)
        .filter(|value| *value > 0.0)
        .ok_or_else(|| "write a number above zero, such as 1e21, 7B or 300B".to_owned())
}

fn size(text: &str) -> Result<RunSize, String> {
    let (parameters, tokens) =
        text.split_once(',').ok_or_else(|| "write parameters,tokens, such as 7B,2T".to_owned())?;
    Ok(RunSize::once(positive(parameters)?, positive(tokens)?))
}

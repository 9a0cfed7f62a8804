//! Arguments of `milpa plan`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Planning commands.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Parameters, FLOPs, memory and time of a recipe's training on this machine
    Run {
        /// A folder with a recipe.toml, or the file itself
        recipe: PathBuf,
    },
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

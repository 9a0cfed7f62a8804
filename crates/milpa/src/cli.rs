//! The command line: every command, flag and help text, and nothing else.

mod endpoint;
mod eval;
mod merge;
mod plan;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use milpa_model::GgufFormat;
use milpa_train::ChangedPlan;

pub use endpoint::{ApiChoice, EndpointArguments, ScoredModel};
pub use eval::{ArenaArguments, CompareArguments, JudgeArguments, JudgeCommand, PowerArguments};
pub use merge::MergeCommand;
pub use plan::{
    CalibrateArgs, ContinuedArgs, FitArgs, FitCount, FitForm, FitObjective, InferenceArgs,
    MoneyArgs, PlanCommand, RunArgs, SimulateArgs, ViabilityArgs,
};

const GROUPS: &str = "\
{about}

{usage-heading} {usage}

Begin
  demo      Grow a first model offline, in under two minutes
  doctor    Say what this machine can do

The whole way, from a recipe
  check     Validate a recipe and everything it names, before any work
  run       Bring every stage up to date; resume the one that was cut
  explain   Say how to reproduce the numbers of a run

One stage at a time
  corpus    build, classifier, ngrams, why, stats: raw pages and books to clean documents
  tokens    train, extend, encode, generate-replay, inspect: tokenizer and token shards
  plan      run, viability, continued, inference, calibrate: what it takes, before it is spent
  train     Train a model
  eval      look, run, suite, instructions, code, refusals, compare, judge, arena: measure models;
            build: make a benchmark
  merge     linear, average, slerp, ties, chat-vector: one model of several
  package   Make a bundle: Hugging Face folder and GGUF

Use a model
  chat      Talk to a model in the terminal
  serve     OpenAI-compatible server with a chat page

Options
{options}
{after-help}";

/// Grows open language models from a region's own text.
#[derive(Debug, Parser)]
#[command(
    name = "milpa",
    version,
    help_template = GROUPS,
    after_help = "\nExamples\n  milpa demo\n  milpa run recipes/novelas\n  milpa serve runs/novelas/bundle\n\
        \nExit codes: 0 ok, 1 failure, 2 bad command or configuration, 75 interrupted and resumable, 101 bug",
    disable_help_subcommand = true,
    subcommand_required = false
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Threads to use [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// A recipe, and the seed that it is taken with.
#[derive(Debug, Clone, Args)]
pub struct RecipeArgument {
    /// A folder with a recipe.toml, or the file itself
    pub recipe: PathBuf,
    /// Another seed than the recipe's, as for several runs of one recipe
    #[arg(long = "seed", value_name = "N")]
    pub recipe_seed: Option<u64>,
}

impl From<&Path> for RecipeArgument {
    fn from(path: &Path) -> Self {
        Self { recipe: path.to_owned(), recipe_seed: None }
    }
}

/// What becomes of a training whose plan or data changed; without any of these it is refused.
#[derive(Debug, Clone, Default, Args)]
pub struct Onward {
    /// Go on from the newest checkpoint although the recipe's steps, stages, mixture or data changed: what
    /// is done stays counted
    #[arg(long, conflicts_with_all = ["fork", "anew"])]
    pub extend: bool,
    /// Begin at this checkpoint of another run, which stays as it is, and go on with the recipe's plan:
    /// several anneals of one plateau, say
    #[arg(long, value_name = "DIR", conflicts_with = "anew")]
    pub fork: Option<PathBuf>,
    /// Set a training with another plan or other data aside, and begin anew
    #[arg(long)]
    pub anew: bool,
}

impl Onward {
    /// What it asks for.
    pub fn changed_plan(&self) -> ChangedPlan<'_> {
        match &self.fork {
            Some(from) => ChangedPlan::Fork(from),
            None if self.extend => ChangedPlan::Extend,
            None if self.anew => ChangedPlan::Anew,
            None => ChangedPlan::Refuse,
        }
    }
}

/// How a run that takes weeks outlives faults.
#[derive(Debug, Clone, Default, Args)]
pub struct Endurance {
    /// Run in a process of its own, and start that again when it dies or hangs
    #[arg(long)]
    pub supervise: bool,
    /// A second folder, on another disk, that gets a verified copy of each checkpoint
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
    /// Seconds without any progress in training after which it counts as hung and ends with
    /// exit code 75 [default: 30 times the longest pause so far, at least 120]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub hang_after: Option<u64>,
}

/// How a training is seen while it runs.
#[derive(Debug, Clone, Default, Args)]
pub struct Watching {
    /// Show plain lines where a terminal would get a live view
    #[arg(long)]
    pub plain: bool,
    /// Give out the training's metrics for Prometheus, such as at 127.0.0.1:9100 (path /metrics)
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_address: Option<std::net::SocketAddr>,
    /// Post a small JSON to this address when an alarm of the recipe's table `watch` is raised, and when the
    /// training is complete, interrupted or failed; see docs/training.md
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// Certificates (PEM) of the authorities that are trusted for a webhook with https
    #[arg(long, value_name = "FILE", requires = "webhook")]
    pub webhook_ca_file: Option<PathBuf>,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Grow a first model offline, in under two minutes
    Demo {
        /// Folder for the sample, the run and the report
        #[arg(long, value_name = "DIR", default_value = "milpa-demo")]
        out: PathBuf,
    },
    /// Say what this machine can do
    Doctor,
    /// Validate a recipe and everything it names, before any work
    Check {
        /// The recipe.
        #[command(flatten)]
        recipe: RecipeArgument,
    },
    /// Bring every stage up to date; resume the one that was cut
    #[command(after_help = "Example\n  MILPA_DATA=/path/to/data milpa run recipes/novelas")]
    Run {
        /// The recipe.
        #[command(flatten)]
        recipe: RecipeArgument,
        /// The run folder [default: runs/NAME]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// What becomes of a training with another plan.
        #[command(flatten)]
        onward: Onward,
        /// Price of this machine for an hour, such as "0.50 USD", for the run's ledger
        #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
        price_per_hour: Option<String>,
        /// How to outlive faults.
        #[command(flatten)]
        endurance: Endurance,
        /// How it is seen while it runs.
        #[command(flatten)]
        watching: Watching,
    },
    /// Say how to reproduce the numbers of a run
    Explain {
        /// A run folder, the folder of an evaluation, or an artifact folder
        run: PathBuf,
    },
    /// Raw pages and books to clean documents
    #[command(subcommand)]
    Corpus(CorpusCommand),
    /// Tokenizer and token shards
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// What it takes, before it is spent: size, memory, time and cost
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Train a model
    #[command(
        after_help = "Example\n  milpa train recipes/novelas --tokenizer runs/novelas/tokenizer --tokens runs/novelas/tokens --out train --dry-run\n\nThe same command goes on where a cut one stopped; a run whose plan or data changed is refused unless --extend says to go on, or --anew to begin again"
    )]
    Train {
        /// The recipe.
        #[command(flatten)]
        recipe: RecipeArgument,
        /// Tokenizer artifact
        #[arg(long, value_name = "DIR")]
        tokenizer: PathBuf,
        /// Token shards
        #[arg(long, value_name = "DIR")]
        tokens: PathBuf,
        /// Folder for checkpoints, metrics and plots
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Show the plan and the table of stages (tokens and epochs by source), and take no step; with
        /// --extend or --fork as it would go on
        #[arg(long)]
        dry_run: bool,
        /// What becomes of a training with another plan.
        #[command(flatten)]
        onward: Onward,
        /// Price of this machine for an hour, such as "0.50 USD", for the ledger
        #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
        price_per_hour: Option<String>,
        /// How to outlive faults.
        #[command(flatten)]
        endurance: Endurance,
        /// How it is seen while it runs.
        #[command(flatten)]
        watching: Watching,
    },
    /// Measure a model
    #[command(subcommand)]
    Eval(Box<EvalCommand>),
    /// Make one model of several of one shape
    #[command(subcommand)]
    Merge(MergeCommand),
    /// Make a bundle: Hugging Face folder and GGUF
    Package {
        /// The recipe.
        #[command(flatten)]
        recipe: RecipeArgument,
        /// The checkpoint
        #[arg(long, value_name = "DIR")]
        checkpoint: PathBuf,
        /// The tokenizer that the checkpoint was trained with
        #[arg(long, value_name = "DIR")]
        tokenizer: PathBuf,
        /// Evaluation whose numbers go into the model card
        #[arg(long, value_name = "DIR")]
        evaluation: Option<PathBuf>,
        /// Corpus on whose held-out text the quantised file is compared with the f32 weights
        #[arg(long, value_name = "DIR")]
        corpus: Option<PathBuf>,
        /// GGUF files to write instead of the recipe's: F32, F16, BF16, Q8_0, Q6_K, Q4_K_M, Q4_0
        #[arg(long, value_name = "FORMAT", value_delimiter = ',')]
        gguf: Vec<GgufFormat>,
        /// Folder of the bundle
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Talk to a model in the terminal
    #[command(
        after_help = "Examples\n  milpa chat runs/novelas/bundle\n  milpa chat model.gguf --prompt 'Era una tarde'\n  milpa chat model --adapter adapters/leyes"
    )]
    Chat {
        /// A bundle, a checkpoint, a .gguf file, or an adapter that names its model's folder
        model: PathBuf,
        /// Folder of an adapter (LoRA) to open with the model
        #[arg(long, value_name = "DIR")]
        adapter: Option<PathBuf>,
        /// Answer this one prompt and end
        #[arg(long, value_name = "TEXT")]
        prompt: Option<String>,
        /// How to draw the next token
        #[command(flatten)]
        sampling: SamplingArgs,
    },
    /// OpenAI-compatible server with a chat page
    Serve {
        /// A bundle, a checkpoint, a .gguf file, or an adapter that names its model's folder
        model: PathBuf,
        /// Folder of an adapter (LoRA) to open with the model
        #[arg(long, value_name = "DIR")]
        adapter: Option<PathBuf>,
        /// Address and port; anything but loopback needs a key
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
        bind: String,
        /// File with the key that clients must send as a bearer token
        #[arg(long, value_name = "FILE")]
        api_key_file: Option<PathBuf>,
    },
}

/// How to draw the next token.
#[derive(Debug, Clone, Args)]
pub struct SamplingArgs {
    /// 0 always takes the most probable token
    #[arg(long, default_value_t = 0.8, value_name = "T")]
    pub temperature: f32,
    /// Share of probability kept, above 0 and at most 1
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    pub top_p: f32,
    /// New tokens at most
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub max_tokens: usize,
    /// Same seed, same text
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

/// Corpus commands.
#[derive(Debug, Subcommand)]
pub enum CorpusCommand {
    /// Read, extract, identify, filter, deduplicate and split the sources of a recipe
    Build {
        /// The recipe.
        #[command(flatten)]
        recipe: RecipeArgument,
        /// Folder of the corpus
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Only prepare a share of the input, as one task of N; I counts from 0. Run it without --shard when
        /// all tasks are done, to merge what they prepared
        #[arg(long, value_name = "I/N")]
        shard: Option<milpa_corpus::Shard>,
    },
    /// Train a classifier of labelled texts, for [[corpus.classifiers]] of a recipe
    Classifier {
        #[command(flatten)]
        examples: ExampleArguments,
        /// The field with the label; rows without one are passed over
        #[arg(long, value_name = "FIELD", default_value = "label")]
        label_field: String,
        /// File of the model
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Estimate an n-gram model of a language, for [[corpus.perplexity]] of a recipe
    Ngrams {
        #[command(flatten)]
        examples: ExampleArguments,
        /// Words in the longest n-gram, 2 to 5
        #[arg(long, value_name = "N", default_value_t = 5)]
        order: usize,
        /// File of the model
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Say what became of a document, and why
    Why {
        /// A corpus
        corpus: PathBuf,
        /// The document's id or URL
        document: String,
    },
    /// Documents and bytes by source and language, and what was dropped
    Stats {
        /// A corpus
        corpus: PathBuf,
    },
}

/// Texts that a model of the corpus is made from.
#[derive(Debug, clap::Args)]
pub struct ExampleArguments {
    /// JSONL, plain or compressed
    pub data: PathBuf,
    /// The field with the text
    #[arg(long, value_name = "FIELD", default_value = "text")]
    pub text_field: String,
    /// The field that names what belongs together (a law, an author): never on both sides of the test
    #[arg(long, value_name = "FIELD")]
    pub group_field: Option<String>,
    /// Most text that is read
    #[arg(long, value_name = "SIZE", default_value = "1 GiB")]
    pub limit: milpa_base::Bytes,
}

/// Token commands.
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Train the tokenizer of a recipe
    Train {
        /// The recipe.
        #[command(flatten)]
        recipe: RecipeArgument,
        /// The corpus
        #[arg(long, value_name = "DIR")]
        corpus: PathBuf,
        /// Folder of the tokenizer
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Give a base more tokens, learned from new text: its tokenizer, or the whole model
    #[command(
        after_help = "Examples\n  milpa tokens extend --base base --corpus runs/leyes/corpus --add 4096 --out tokenizer\n  milpa tokens extend --model base --corpus runs/leyes/corpus --add 4096 --out base-extended\n  milpa tokens extend --model base --tokenizer tokenizer --out base-extended"
    )]
    Extend(ExtendArguments),
    /// Encode a corpus into token shards
    Encode {
        /// The recipe.
        #[command(flatten)]
        recipe: RecipeArgument,
        /// The corpus
        #[arg(long, value_name = "DIR")]
        corpus: PathBuf,
        /// The tokenizer
        #[arg(long, value_name = "DIR")]
        tokenizer: PathBuf,
        /// Folder of the token shards
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Have a model write token shards for [[train.replay]], so that its continued training does not forget
    #[command(
        after_help = "Example\n  milpa tokens generate-replay --model base --tokens \"1M tokens\" --out replay\n\nThe same command goes on where a cut one stopped, and ends in the same bytes"
    )]
    GenerateReplay(ReplayArguments),
    /// Show how a tokenizer cuts texts
    Inspect {
        /// Tokenizer artifact, bundle or tokenizer.json
        tokenizer: PathBuf,
        /// Texts to measure it on (JSONL, may be .gz or .zst)
        #[arg(long, value_name = "FILE")]
        data: Option<PathBuf>,
        /// One text to cut
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
    },
}

/// What `milpa tokens extend` is given.
#[derive(Debug, clap::Args)]
pub struct ExtendArguments {
    /// Extend the tokenizer of this folder, and write a tokenizer
    #[arg(long, value_name = "DIR", required_unless_present = "model", conflicts_with = "model")]
    pub base: Option<PathBuf>,
    /// Extend this model: its tokenizer, and rows for the new tokens; writes a Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Corpus to learn from: its training split
    #[arg(long, value_name = "DIR", required_unless_present_any = ["data", "tokenizer"])]
    pub corpus: Option<PathBuf>,
    /// Texts to learn from instead (JSONL, may be .gz or .zst)
    #[arg(long, value_name = "FILE", conflicts_with = "corpus")]
    pub data: Option<PathBuf>,
    /// The field of --data with the text
    #[arg(long, value_name = "FIELD", default_value = "text")]
    pub text_field: String,
    /// An extended tokenizer to give to the model, instead of learning one
    #[arg(long, value_name = "DIR", requires = "model", conflicts_with_all = ["corpus", "data", "add"])]
    pub tokenizer: Option<PathBuf>,
    /// New tokens at most
    #[arg(long, value_name = "N", required_unless_present = "tokenizer")]
    pub add: Option<usize>,
    /// A pair of tokens that is seen less often than this is not merged
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub min_count: u64,
    /// Text to learn from for each source, such as "64 MiB" [default: all]
    #[arg(long, value_name = "SIZE")]
    pub sample: Option<milpa_base::Bytes>,
    /// How rows of new tokens begin: the mean of the old tokens that each stands for, or of all old tokens
    #[arg(long, value_name = "HOW", default_value = "mean-of-parts")]
    pub new_rows: NewRowsChoice,
    /// Folder of the tokenizer or of the model
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// How rows of new tokens begin.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum NewRowsChoice {
    /// Each as the mean of the old tokens that it stands for
    MeanOfParts,
    /// All as the mean of the old tokens
    MeanOfAll,
}

/// What `milpa tokens generate-replay` is given.
#[derive(Debug, clap::Args)]
pub struct ReplayArguments {
    /// The base: a bundle, a checkpoint or a .gguf file
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The tokenizer that the continued training uses, if not the model's own
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens to write at least, such as "1M tokens"
    #[arg(long, value_name = "TOKENS")]
    pub tokens: milpa_base::Tokens,
    /// Above 0; at 1 the text has the model's own distribution
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f32,
    /// Share of probability kept, above 0 and at most 1
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Tokens of a document at most [default: the model's context]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Documents written together: more are faster, and take more memory [default: up to 32]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Same seed and batch size, same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Folder of the token shards
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What is looked at.
#[derive(Debug, clap::Args)]
pub struct LookArguments {
    /// A bundle, a checkpoint or a .gguf file; with --endpoint a name there
    #[arg(required_unless_present = "endpoint")]
    pub model: Option<PathBuf>,
    /// An earlier or another model on this machine, shown beside it; may be given again
    #[arg(long, value_name = "MODEL")]
    pub beside: Vec<PathBuf>,
    /// Prompts of your own, in TOML, instead of those that come with milpa
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// New tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_tokens: u32,
    /// 0 always takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Same seed, same answers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "look.html")]
    pub out: PathBuf,
    /// A model elsewhere
    #[command(flatten)]
    pub endpoint: EndpointArguments,
}

/// How tasks are run.
#[derive(Debug, clap::Args)]
pub struct HarnessArguments {
    /// A bundle, a checkpoint or a .gguf file; with --endpoint a name there
    #[arg(long, value_name = "MODEL", required_unless_present = "endpoint")]
    pub model: Option<PathBuf>,
    /// Folder of an adapter (LoRA) to open with the model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Name of a built-in task, a task.toml, or a YAML file of the LM Evaluation Harness
    #[arg(long = "task", value_name = "TASK", required = true)]
    pub tasks: Vec<PathBuf>,
    /// Folder with the tasks' files, or of one task the file
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Examples in each prompt, instead of the task's number
    #[arg(long, value_name = "N")]
    pub num_fewshot: Option<usize>,
    /// Seed of the examples
    #[arg(long, value_name = "N", default_value_t = milpa_eval::harness::requests::FEW_SHOT_SEED)]
    pub fewshot_seed: u64,
    /// The first N documents only
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Ask with every prompt that a task has, and show how far scores depend on it
    #[arg(long)]
    pub all_prompts: bool,
    /// Look for the questions in this text (a corpus, or JSONL with `text`) and score those that
    /// stand there apart
    #[arg(long, value_name = "CORPUS")]
    pub against: Option<PathBuf>,
    /// Words of the n-grams by which questions are found with --against
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64), requires = "against")]
    pub against_words: u32,
    /// Share of a question's n-grams that must stand in one stretch
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, requires = "against")]
    pub against_share: f64,
    /// Write prompts with the model's chat template
    #[arg(long)]
    pub apply_chat_template: bool,
    /// With the chat template, each example is a turn of its own
    #[arg(long, requires = "apply_chat_template")]
    pub fewshot_as_multiturn: bool,
    /// Write prompts and answers into the log of the questions
    #[arg(long)]
    pub log_texts: bool,
    /// Folder for report, log and answers
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A model elsewhere
    #[command(flatten)]
    pub endpoint: EndpointArguments,
}

/// What `milpa eval instructions` is given.
#[derive(Debug, clap::Args)]
pub struct InstructionArguments {
    /// JSONL of prompts as IFEval has them: prompt, instruction_id_list, kwargs (may be .gz or .zst)
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// JSONL of responses: prompt (or id or key) and response
    #[arg(long, value_name = "FILE", required_unless_present_any = ["model", "endpoint"], conflicts_with_all = ["model", "endpoint"])]
    pub responses: Option<PathBuf>,
    /// A bundle, a checkpoint or a .gguf file that responds now; with --endpoint a name there
    #[arg(long, value_name = "MODEL", requires = "out")]
    pub model: Option<PathBuf>,
    /// Folder of an adapter (LoRA) to open with the model
    #[arg(long, value_name = "DIR", requires = "model")]
    pub adapter: Option<PathBuf>,
    /// The model writes at most so many tokens
    #[arg(long, value_name = "N", default_value_t = 1280)]
    pub max_tokens: usize,
    /// The first N prompts only
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Folder for report, log and the model's answers
    #[arg(long, value_name = "DIR", required_unless_present = "responses")]
    pub out: Option<PathBuf>,
    /// A model elsewhere
    #[command(flatten)]
    pub endpoint: EndpointArguments,
}

/// What `milpa eval code` is given.
#[derive(Debug, clap::Args)]
pub struct CodeArguments {
    /// JSONL of problems: id and tests (may be .gz or .zst)
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// JSONL of responses: id of the problem and response, several lines for several programs
    #[arg(long, value_name = "FILE")]
    pub responses: PathBuf,
    /// Score pass@k for these k
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub k: Vec<u64>,
    /// Which code block of a response is the program: last, first or all
    #[arg(long, value_name = "WHICH", default_value = "last")]
    pub block: BlockArgument,
    /// Folder for report and log
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Which code block is the program.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum BlockArgument {
    /// The last
    Last,
    /// The first
    First,
    /// All of them, joined
    All,
}

/// Evaluation commands.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Everything that a recipe says under `eval`
    Suite {
        /// The recipe.
        #[command(flatten)]
        recipe: RecipeArgument,
        /// What is scored
        #[command(flatten)]
        model: ScoredModel,
        /// The corpus whose validation split is read
        #[arg(long, value_name = "DIR")]
        corpus: PathBuf,
        /// Folder of the report
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// A page with a model's answers to a fixed set of prompts: look before you score
    #[command(
        after_help = "Example\n  milpa eval look runs/novelas/bundle --beside base --out look.html"
    )]
    Look(LookArguments),
    /// Tasks: built-in ones, task files, and YAML of the LM Evaluation Harness
    #[command(
        after_help = "Examples\n  milpa eval run --model runs/novelas/bundle --task mgsm.yaml --num-fewshot 4 --out evaluation\n  milpa eval run --model model.gguf --task pt/enem_2022 --data enem_2022.jsonl --out evaluation\n  milpa eval run --endpoint http://127.0.0.1:8080 --task mgsm.yaml --out evaluation\n\nThe same command goes on where a cut one stopped; answers are kept in OUT/answers.jsonl"
    )]
    Run(HarnessArguments),
    /// Whether responses keep instructions that a program can check (IFEval)
    #[command(
        after_help = "Examples\n  milpa eval instructions --data ifeval_es.jsonl --responses responses.jsonl\n  milpa eval instructions --data ifeval_es.jsonl --model runs/chat/bundle --out evaluation"
    )]
    Instructions(InstructionArguments),
    /// Whether programs in responses pass their tests, run in a sandbox; pass@k
    #[command(
        after_help = "Example\n  milpa eval code --data tasks/mul/programas/programas.jsonl --responses responses.jsonl --k 1,10 --out code"
    )]
    Code(CodeArguments),
    /// Which given answers refuse, of safe prompts and of unsafe ones (XSTest)
    #[command(
        after_help = "Example\n  milpa eval refusals xstest_completions_labelled.jsonl.zst --half held-out\n\nEach line has prompt, completion and label (safe or unsafe) or type (contrast_… is unsafe), and may have model and final_label (what people say: full_compliance, full_refusal, partial_refusal)."
    )]
    Refusals {
        /// JSONL of answers (may be .gz or .zst)
        completions: PathBuf,
        /// Half of the prompts: the rules are tuned on development alone
        #[arg(long, value_name = "HALF", value_parser = parse_half)]
        half: Option<milpa_eval::refusal::Half>,
    },
    /// Bits per byte on any JSONL of texts
    #[command(
        after_help = "Examples\n  milpa eval perplexity --model runs/novelas/bundle --data texts.jsonl.zst --json\n  milpa eval perplexity --endpoint http://127.0.0.1:8080 --tokenizer base --data texts.jsonl\n\nAnswers of an endpoint are kept in perplexity.endpoint.jsonl, or in the file of --answers"
    )]
    Perplexity {
        /// What is scored
        #[command(flatten)]
        model: ScoredModel,
        /// JSONL with one text per line (may be .gz or .zst)
        #[arg(long, value_name = "FILE")]
        data: PathBuf,
        /// Field that holds the text
        #[arg(long, value_name = "NAME", default_value = "text")]
        field: String,
        /// Read at most this much text, spread over the documents
        #[arg(long, value_name = "BYTES")]
        max_bytes: Option<milpa_base::Bytes>,
    },
    /// One multiple-choice task
    #[command(
        after_help = "Examples\n  milpa eval choice --model runs/novelas/bundle --task pt/enem_2022 --data enem_2022.jsonl\n  milpa eval choice --endpoint http://127.0.0.1:8080 --task pt/enem_2022 --data enem_2022.jsonl\n\nAnswers of an endpoint are kept in choice.endpoint.jsonl, or in the file of --answers"
    )]
    Choice {
        /// What is scored
        #[command(flatten)]
        model: ScoredModel,
        /// A task folder or its task.toml
        #[arg(long, value_name = "TASK")]
        task: PathBuf,
        /// The task's data
        #[arg(long, value_name = "FILE")]
        data: PathBuf,
        /// Read at most so many questions
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// The ledger of a base model and its checkpoints: gained, forgotten, how surely
    Compare(CompareArguments),
    /// A model judges answers, and people correct it
    #[command(subcommand)]
    Judge(JudgeCommand),
    /// Ratings from votes between models
    Arena(ArenaArguments),
    /// What difference a comparison can find, before it is made
    Power(PowerArguments),
    /// Where the variance of scores comes from: items, prompts or samples
    Variance {
        /// JSONL with item, prompt and score; every item needs every prompt, as often
        scores: PathBuf,
    },
    /// Write the items of the in-context-learning task mul/in_context
    Probe {
        /// Items
        #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
        /// Same seed, same items
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Build a benchmark
    #[command(subcommand)]
    Build(BuildCommand),
}

/// Benchmarks that can be built.
#[derive(Debug, Subcommand)]
pub enum BuildCommand {
    /// Questions about Latin America in Spanish and Portuguese, from a Wikidata dump
    #[command(
        after_help = "Example\n  milpa eval build choclo --dump wikidata-20240103-all.json.gz --page-views pageviews-202312-user.bz2 --out choclo"
    )]
    Choclo {
        /// The JSON dump (may be .gz, .bz2 or .zst)
        #[arg(long, value_name = "FILE")]
        dump: PathBuf,
        /// Folder of the benchmark
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Date of the dump, if the file's name does not have it
        #[arg(long, value_name = "YYYY-MM-DD")]
        dump_date: Option<String>,
        /// A table of relations and phrasings instead of the program's own
        #[arg(long, value_name = "FILE")]
        relations: Option<PathBuf>,
        /// Page views, by which difficulty goes (repeatable; may be .gz, .bz2 or .zst): lines "QID
        /// views" or "project title views", or Wikimedia's pageview_complete [default: sitelinks]
        #[arg(long, value_name = "FILE")]
        page_views: Vec<PathBuf>,
        /// Decides phrasings, choices and splits
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
        /// Threads that parse the dump; the result does not depend on them
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
    },
    /// Questions that people really asked a chat, with answers that two people reviewed
    #[command(
        after_help = "Examples\n  milpa eval build trueque trueque.toml --work work\n  milpa eval build trueque trueque.toml --work work --out trueque-1.0\n  milpa eval build trueque trueque.toml --work work --previous trueque-1.0 --out trueque-1.1\n\nThe same command goes on as far as the sheets in WORK/filled allow; docs/trueque.md has the way"
    )]
    Trueque {
        /// What to read and whom to ask: trueque.toml
        config: PathBuf,
        /// Working folder: stages, sheets, everything that is not published
        #[arg(long, value_name = "DIR")]
        work: PathBuf,
        /// Freeze what both reviewers accepted into this folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The version before: what may stay of it stays, on its side of the split
        #[arg(long, value_name = "DIR")]
        previous: Option<PathBuf>,
    },
}

fn parse_half(text: &str) -> Result<milpa_eval::refusal::Half, String> {
    match text {
        "development" => Ok(milpa_eval::refusal::Half::Development),
        "held-out" => Ok(milpa_eval::refusal::Half::HeldOut),
        _ => Err("the halves are development and held-out".to_owned()),
    }
}

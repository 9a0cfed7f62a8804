//! Measures language models: tasks as data, metrics, statistics and the report.
//!
//! A model is a [`milpa_base::TextModel`] and nothing more; this crate knows no tensor, no
//! tokenizer and no file format of weights. The way through it: [`config`] says what to measure,
//! [`task`] reads a `task.toml`, [`items`] reads the questions, [`template`] writes the prompts,
//! [`mod@multiple_choice`] and [`mod@perplexity`] score, [`statistics`] says how certain a number is,
//! [`mod@run`] puts all of it into the [`report`]. [`mod@ledger`] holds
//! checkpoints against their base, [`arena`] rates models by votes, [`judge`] asks
//! models about answers, [`choclo`] and [`trueque`] build benchmarks of the region.
//! [`verify`] says whether a written answer is right, and why, [`refusal`] whether it refuses,
//! [`factuality`] what knowing and not knowing is worth.

#![forbid(unsafe_code)]

pub mod arena;
pub mod benchmark;
pub mod choclo;
pub mod compare;
mod compress;
pub mod config;
pub mod contamination;
pub mod divergence;
mod error;
pub mod factuality;
pub mod harness;
pub mod instructions;
pub mod items;
pub mod judge;
pub mod ledger;
pub mod look;
pub mod multiple_choice;
pub mod perplexity;
pub mod probe;
pub mod refusal;
pub mod report;
mod rows;
pub mod run;
pub mod samples;
pub mod statistics;
pub mod task;
pub mod template;
pub mod texts;
pub mod trueque;
pub mod verify;

pub use compare::{PairedComparison, compare_items};
pub use config::{EvalConfig, PerplexityConfig, SampleConfig, TaskEntry};
pub use error::EvalError;
pub use items::{Item, ItemSet, Skips, read_items};
pub use multiple_choice::{ItemResult, MetricResult, TaskResult, multiple_choice};
pub use perplexity::{
    PerplexityReport, SourcePerplexity, TextResult, perplexity, perplexity_by_text,
};
pub use report::{EvalReport, Evaluation, read_item_results, read_report, read_text_results};
pub use run::{RunInfo, Watch, load_task, run};
pub use samples::Sample;
pub use task::{Metric, PromptStyle, TaskSpec, builtin_tasks};
pub use texts::{JsonlTexts, read_jsonl_texts};
pub use verify::{Outcome, Reason, Verdict, Verifier};

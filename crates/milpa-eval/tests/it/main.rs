//! Behaviour of the harness with models whose every number can be computed by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod arena;
mod choclo;
mod contamination;
mod conversations;
mod coverage;
mod instructions;
mod judge;
mod ledger;
mod lm_eval;
mod models;
mod perplexity;
mod programs;
mod real_data;
mod shipped_tasks;
mod statistics;
mod tasks;
mod trueque;
mod verifiers;
mod whole;

//! One file per command: it opens artifacts, calls the stage's crate and shows the result.

pub mod chat;
pub mod check;
pub mod code;
pub mod corpus;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod extend;
pub mod harness;
pub mod instructions;
pub mod look;
pub mod merge;
pub mod model;
pub mod package;
pub mod plan;
pub mod replay;
pub mod serve;
pub mod supervise;
pub mod tokens;
pub mod train;

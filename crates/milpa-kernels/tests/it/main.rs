//! Every kernel against its scalar twin in double precision, on every instruction set of this machine
//! and on one, two and three threads; and every twin's backward against finite differences.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod attention;
mod common;
mod cuda;
mod formats;
mod gemm;
mod gemm_bf16;
mod gradients;
mod layers;
mod loss;
mod optim;
mod quantised;
mod variants;

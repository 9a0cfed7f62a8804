//! Numbers on slices: matmul, attention, norms, RoPE, activation, cross-entropy, optimiser steps,
//! quantised dot products, for CPUs; and the first of them for CUDA devices ([`cuda`]).
//!
//! Everything here works on plain slices (`&[f32]`) with explicit sizes; shapes, devices, memory and
//! gradients of whole models live in the tensor crate. Each operation has a readable scalar twin in
//! [`mod@reference`], which is the oracle of its tests. Instruction sets are chosen at run time through
//! [`Cpu`]. Results never depend on the number of threads.
//!
//! Wrong slice lengths are programmer errors and panic before any number is written.

#![allow(
    unsafe_code,
    reason = "the home of unsafe: SIMD intrinsics, packed panels, disjoint parallel writes and the CUDA driver; each \
              function states its contract and is tested against a scalar twin"
)]
#![allow(
    clippy::inline_always,
    reason = "kernels must be inlined into the function that enables their instruction set"
)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "views of mutable slices are handed over for the length of a call"
)]

pub mod activation;
pub mod attention;
pub mod bias;
pub mod convert;
mod cpu;
pub mod cuda;
mod element;
pub mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod gemm_bf16;
pub mod loss;
pub mod magnitude;
mod memory;
pub mod norm;
pub mod optim;
pub mod peak;
mod pool;
pub mod quantised;
pub mod reference;
pub mod rope;
pub mod routing;
mod scratch;
mod simd;
pub mod soft_cap;
mod view;

pub use cpu::{Cpu, Isa};
pub use element::{Element, as_bf16, as_bf16_mut, convert};
pub use half::bf16;
pub use memory::AlignedValues;
pub use pool::Pool;
pub use view::{Accumulate, Heads, HeadsMut, Mat, MatMut, Size};

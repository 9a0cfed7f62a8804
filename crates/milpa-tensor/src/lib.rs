//! Shapes, devices, memory and the tape of coarse operations with forward and backward.
//!
//! A model is written as calls on a [`Tape`]: each call runs at once on a [`Device`] and, in a
//! recording tape, is remembered for [`Tape::backward`]. An operation is one variant of
//! [`Operation`]: its shape rule, what its backward needs, its forward and its backward stand side
//! by side in `operation.rs`. Buffers come from the device's pool, so a steady training step
//! allocates nothing. This crate knows no model, no file format and no schedule.
//!
//! ```
//! use milpa_tensor::{Device, ParameterStore, Tape};
//!
//! let device = Device::cpu(1);
//! let mut parameters = ParameterStore::new(device.clone());
//! let weight = parameters.add("weight", &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], true)?;
//! let tape = Tape::recording(device);
//! let x_nd = tape.constant(&[3.0, 4.0, 5.0], &[1, 3])?;
//! let y_no = tape.linear(&x_nd, &parameters.leaf(weight))?;
//! assert_eq!(tape.read(&y_no), [3.0, 4.0]);
//! tape.backward_from(&[(&y_no, &[1.0, 2.0])], &mut parameters)?;
//! assert_eq!(parameters.read_grad(weight).unwrap(), [3.0, 4.0, 5.0, 6.0, 8.0, 10.0]);
//! # Ok::<(), milpa_tensor::TensorError>(())
//! ```

#![forbid(unsafe_code)]

mod audit;
mod buffer;
mod cache;
mod cpu;
mod cuda;
mod device;
mod error;
mod experts;
mod head;
mod operation;
mod parameters;
mod profile;
mod shape;
mod tape;

pub use audit::{Direction, NonFinite, Observed};
pub use buffer::{Buffer, DType, MemoryStats};
pub use cache::KvCache;
pub use cpu::CpuDevice;
pub use cuda::CudaDevice;
pub use device::{Device, KeyValues, Matrix, MatrixMut};
pub use error::TensorError;
pub use experts::{ChangedExperts, ExpertChanges, Routing};
pub use head::{LossRows, LossSummary, OutputLayer, RowScores};
pub use operation::{AttentionOptions, Operation, RopeTable};
pub use parameters::{Parameter, ParameterId, ParameterStore};
pub use profile::KernelTime;
pub use shape::Shape;
pub use tape::{AdaptedMatrix, Tape, Tensor};

pub use milpa_kernels::attention::{AttentionShape, document_starts};
pub use milpa_kernels::loss::IGNORE;
pub use milpa_kernels::optim::{AdamW, Lion, Muon, clip_factor};
pub use milpa_kernels::quantised::{self, BlockFormat};
pub use milpa_kernels::{Accumulate, Cpu, Size};

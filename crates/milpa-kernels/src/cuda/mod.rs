//! CUDA devices: the driver loaded at run time, buffers, one stream, and kernels as cubins.
//!
//! Nothing here needs a CUDA toolkit, and a machine without a driver gets a [`CudaError::NoDriver`].
//! The kernels' sources lie in `cuda/*.cu` of this crate; `cargo xtask kernels` compiles them to the
//! cubins that are committed beside them. A function here stands beside its namesake for CPUs, takes
//! a [`Gpu`] where that takes a [`Cpu`](crate::Cpu), and has the same scalar twin.
//!
//! Kernels are queued on the GPU's stream and run in the order of the calls; only
//! [`Gpu::download`] and [`Gpu::synchronize`] wait, and report what went wrong before.
//! Design: `docs/design/cuda.md`.

mod driver;
mod gpu;
pub mod norm;

pub use gpu::{Buffer, Element, Event, Gpu, GpuInfo};

/// What can go wrong on the way to a GPU or on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// No driver could be loaded, or it found no device it can use.
    #[error("no CUDA driver: {problem}; install the NVIDIA driver, or compute on the CPU")]
    NoDriver {
        /// What loading said.
        problem: String,
    },
    /// There are fewer devices than asked for.
    #[error("there is no CUDA device {index}: the driver shows {count}; choose one below that")]
    NoDevice {
        /// The device asked for.
        index: usize,
        /// Devices there are.
        count: usize,
    },
    /// The kernels were not compiled for this device.
    #[error(
        "{device} has compute capability {major}.{minor}, and kernels are compiled for 8.x and 9.0; \
         compute on the CPU, or add its architecture to `cargo xtask kernels`"
    )]
    Architecture {
        /// Name of the device.
        device: String,
        /// Its compute capability before the dot.
        major: u32,
        /// And after it.
        minor: u32,
    },
    /// A call failed; after a fault in a kernel, every later call does.
    #[error("the CUDA driver's {call} failed: {name} ({explanation})")]
    Call {
        /// The call, in the words of this crate.
        call: &'static str,
        /// The driver's name of the error.
        name: String,
        /// The driver's explanation.
        explanation: String,
    },
    /// More memory was asked for than can be counted.
    #[error("{elements} values of {bytes} bytes are more than memory has addresses")]
    TooLarge {
        /// Values asked for.
        elements: usize,
        /// Bytes of each.
        bytes: usize,
    },
    /// A size is beyond what a launch can hold.
    #[error("{what} is {value}, beyond what one launch can hold; split the call")]
    LaunchSize {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: usize,
    },
}

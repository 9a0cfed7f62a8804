//! What can be wrong with a call on a tape, a store or a device.

use milpa_kernels::cuda::CudaError;

use crate::{audit::NonFinite, shape::Shape};

/// A call that cannot be carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TensorError {
    /// The shapes of the inputs do not fit together.
    #[error("{operation} of {}: {problem}", list(shapes))]
    Shape {
        /// The operation.
        operation: &'static str,
        /// Shapes of its inputs.
        shapes: Vec<Shape>,
        /// What does not fit.
        problem: String,
    },
    /// A number handed in lies outside its range.
    #[error("{operation}: {what} {value} at index {index} is not below {limit}")]
    Range {
        /// The operation.
        operation: &'static str,
        /// What the number is.
        what: &'static str,
        /// The number.
        value: u32,
        /// Where it stands.
        index: usize,
        /// What it must be below.
        limit: usize,
    },
    /// A tensor of another tape, or of this tape before its last backward.
    #[error(
        "{operation}: an input was made by another tape, or before this tape's last backward; \
         compute it again on this tape"
    )]
    Foreign {
        /// The operation.
        operation: &'static str,
    },
    /// The operation cannot do this.
    #[error("{operation}: {problem}")]
    Unsupported {
        /// The operation.
        operation: &'static str,
        /// What it cannot do.
        problem: String,
    },
    /// A tape that audits ([`crate::Tape::audited`]) has met values that are not finite.
    #[error("{0}")]
    NonFinite(Box<NonFinite>),
    /// A GPU cannot be opened, or failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// A parameter is missing, doubled or in use.
    #[error("parameter {name:?} {problem}")]
    Parameter {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

fn list(shapes: &[Shape]) -> String {
    shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(" and ")
}

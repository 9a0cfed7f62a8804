//! The lengths of a tensor's dimensions, outermost first; row-major without gaps.

use std::fmt;

use crate::error::TensorError;

/// Most dimensions of a tensor.
const MAX_RANK: usize = 4;

/// One to four lengths.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    lengths: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// Makes a shape of one to four lengths whose product fits in memory.
    pub fn new(lengths: &[usize]) -> Result<Self, TensorError> {
        let invalid = |problem: &str| TensorError::Unsupported {
            operation: "shape",
            problem: format!("{lengths:?} {problem}"),
        };
        if lengths.is_empty() || lengths.len() > MAX_RANK {
            return Err(invalid("must have one to four dimensions"));
        }
        lengths
            .iter()
            .try_fold(1_usize, |product, &length| product.checked_mul(length))
            .filter(|&product| product <= isize::MAX as usize / size_of::<f32>())
            .ok_or_else(|| invalid("has more elements than memory can hold"))?;
        let mut all = [1; MAX_RANK];
        all[..lengths.len()].copy_from_slice(lengths);
        Ok(Self { lengths: all, rank: lengths.len() })
    }

    /// The lengths, outermost first.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths[..self.rank]
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.lengths().iter().product()
    }

    /// Length of the innermost dimension.
    pub fn last(&self) -> usize {
        self.lengths[self.rank - 1]
    }

    /// Product of all lengths but the innermost.
    pub fn rows(&self) -> usize {
        self.lengths[..self.rank - 1].iter().product()
    }

    /// The same shape with another innermost length.
    pub(crate) fn with_last(mut self, length: usize) -> Self {
        self.lengths[self.rank - 1] = length;
        self
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.lengths())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_know_their_rows_and_refuse_overflow() {
        let shape = Shape::new(&[2, 3, 5]).unwrap();
        assert_eq!((shape.elements(), shape.rows(), shape.last()), (30, 6, 5));
        assert_eq!(shape.with_last(7).to_string(), "[2, 3, 7]");
        for bad in [&[][..], &[1; 5], &[usize::MAX, 2], &[usize::MAX]] {
            assert!(Shape::new(bad).is_err(), "{bad:?}");
        }
    }
}

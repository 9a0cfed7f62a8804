//! Memory for values that begins at a cache line.
//!
//! A vector register of AVX-512 is a whole cache line: values that begin in the middle of one make
//! every load and store touch two. Vectors of the standard library begin 16 bytes into a page.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Floats of a cache line.
pub(crate) const LINE: usize = 16;

/// One cache line of floats; gives memory its 64-byte alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [f32; LINE]);

impl Line {
    pub(crate) const ZERO: Self = Self([0.0; LINE]);
}

/// A slice of f32 of fixed length that begins at a multiple of 64 bytes.
#[derive(Clone, Default)]
pub struct AlignedValues {
    lines: Vec<Line>,
    length: usize,
}

impl AlignedValues {
    /// Returns `length` zeros.
    pub fn zeros(length: usize) -> Self {
        Self { lines: vec![Line::ZERO; length.div_ceil(LINE)], length }
    }
}

impl Deref for AlignedValues {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is 16 floats without padding, and there are lines for `length` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for AlignedValues {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above; the borrow is handed on.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

impl fmt::Debug for AlignedValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedValues({})", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_at_a_line_and_are_zero() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let mut values = AlignedValues::zeros(length);
            assert_eq!((values.len(), values.as_ptr().align_offset(64)), (length, 0));
            assert!(values.iter().all(|&value| value == 0.0));
            values.fill(1.0);
            assert_eq!(values.clone().iter().sum::<f32>(), values.iter().sum());
        }
        assert!(AlignedValues::default().is_empty());
    }
}

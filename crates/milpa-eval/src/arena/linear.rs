//! Small dense symmetric systems: Cholesky factor, solution and inverse, row by row.

/// A lower Cholesky factor.
pub(crate) struct Cholesky {
    size: usize,
    lower: Vec<f64>,
}

impl Cholesky {
    /// Factors the symmetric `matrix` (row-major, `size` × `size`; only its lower half is read);
    /// `None` where it is not positive definite.
    pub(crate) fn new(matrix: &[f64], size: usize) -> Option<Self> {
        let mut lower = matrix.to_vec();
        for row in 0..size {
            let (above, current) = lower.split_at_mut(row * size);
            let current = &mut current[..size];
            for column in 0..row {
                let other = &above[column * size..][..=column];
                let product: f64 = current[..column].iter().zip(other).map(|(a, b)| a * b).sum();
                current[column] = (current[column] - product) / other[column];
            }
            let squares: f64 = current[..row].iter().map(|value| value * value).sum();
            let pivot = current[row] - squares;
            // Rounding leaves about 1e-16 of the diagonal where nothing is left.
            if pivot.is_nan() || pivot <= 1e-14 * current[row].abs() {
                return None;
            }
            current[row] = pivot.sqrt();
        }
        Some(Self { size, lower })
    }

    /// Solves A x = b in place.
    pub(crate) fn solve(&self, b: &mut [f64]) {
        let n = self.size;
        for row in 0..n {
            let known = &self.lower[row * n..row * n + row];
            let sum: f64 = known.iter().zip(&b[..row]).map(|(l, x)| l * x).sum();
            b[row] = (b[row] - sum) / self.lower[row * n + row];
        }
        for row in (0..n).rev() {
            b[row] /= self.lower[row * n + row];
            let x = b[row];
            for column in 0..row {
                b[column] -= self.lower[row * n + column] * x;
            }
        }
    }

    /// A⁻¹ G A⁻¹ for a symmetric G.
    pub(crate) fn sandwich(&self, middle: &[f64]) -> Vec<f64> {
        let n = self.size;
        // Rows of a symmetric matrix are its columns: solve, transpose, solve.
        let mut half = middle.to_vec();
        half.chunks_mut(n).for_each(|row| self.solve(row));
        let mut whole = vec![0.0; n * n];
        for row in 0..n {
            for column in 0..n {
                whole[column * n + row] = half[row * n + column];
            }
        }
        whole.chunks_mut(n).for_each(|row| self.solve(row));
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_solved_and_a_singular_one_refused() {
        let matrix = [4.0, 2.0, 0.6, 2.0, 3.0, 0.4, 0.6, 0.4, 1.0];
        let cholesky = Cholesky::new(&matrix, 3).unwrap();
        let mut x = vec![1.0, -2.0, 0.5];
        cholesky.solve(&mut x);
        for (row, expect) in matrix.chunks(3).zip([1.0, -2.0, 0.5]) {
            let found: f64 = row.iter().zip(&x).map(|(a, b)| a * b).sum();
            assert!((found - expect).abs() < 1e-14);
        }
        // A⁻¹ A A⁻¹ is the inverse.
        let inverse = cholesky.sandwich(&matrix);
        let mut column = vec![1.0, 0.0, 0.0];
        cholesky.solve(&mut column);
        assert!((0..3).all(|row| (inverse[row * 3] - column[row]).abs() < 1e-14));
        assert!(Cholesky::new(&[1.0, -1.0, -1.0, 1.0], 2).is_none());
        assert!(Cholesky::new(&[f64::NAN], 1).is_none());
    }
}

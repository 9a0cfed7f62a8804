//! Twins of the matrix products. Each element sums over `k` in rising order.
//!
//! The backward of a linear layer `y = x·Wᵀ` is the other two: `dx = dy·W` and `dW = dyᵀ·x`.

use super::Real;
use crate::view::{Accumulate, Mat, MatMut, Size};

/// `C[m, n] = A[m, k] · B[n, k]ᵀ`, or added to C.
pub fn matmul_nt<T: Real>(
    size: Size,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: MatMut<'_, T>,
    accumulate: Accumulate,
) {
    matmul(size, c, accumulate, |i, j, p| a.data[i * a.stride + p] * b.data[j * b.stride + p]);
}

/// `C[m, n] = A[m, k] · B[k, n]`, or added to C.
pub fn matmul_nn<T: Real>(
    size: Size,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: MatMut<'_, T>,
    accumulate: Accumulate,
) {
    matmul(size, c, accumulate, |i, j, p| a.data[i * a.stride + p] * b.data[p * b.stride + j]);
}

/// `C[m, n] = A[k, m]ᵀ · B[k, n]`, or added to C.
pub fn matmul_tn<T: Real>(
    size: Size,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: MatMut<'_, T>,
    accumulate: Accumulate,
) {
    matmul(size, c, accumulate, |i, j, p| a.data[p * a.stride + i] * b.data[p * b.stride + j]);
}

fn matmul<T: Real>(
    size: Size,
    c: MatMut<'_, T>,
    accumulate: Accumulate,
    term: impl Fn(usize, usize, usize) -> T,
) {
    for i in 0..size.m {
        for j in 0..size.n {
            let sum: T = (0..size.k).map(|p| term(i, j, p)).sum();
            let out = &mut c.data[i * c.stride + j];
            *out = if accumulate == Accumulate::Yes { *out + sum } else { sum };
        }
    }
}

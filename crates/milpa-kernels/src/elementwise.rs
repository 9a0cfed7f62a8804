//! Sums, products and reductions over whole slices.

use crate::cpu::Cpu;

/// `y += x`.
pub fn add_assign(_cpu: &Cpu, y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
}

/// `out = a + b`.
pub fn add(_cpu: &Cpu, a: &[f32], b: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (&a, &b))| *out = a + b);
}

/// `y += factor · x`.
pub fn add_scaled(_cpu: &Cpu, y: &mut [f32], factor: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += factor * x);
}

/// `x *= factor`.
pub fn scale(_cpu: &Cpu, x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

/// `out = x`.
pub fn copy(_cpu: &Cpu, x: &[f32], out: &mut [f32]) {
    out.copy_from_slice(x);
}

/// `x = value`.
pub fn fill(_cpu: &Cpu, x: &mut [f32], value: f32) {
    x.fill(value);
}

/// `Σ x²`, summed in double precision.
pub fn sum_of_squares(_cpu: &Cpu, x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// `Σ x`, summed in double precision.
pub fn sum(_cpu: &Cpu, x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x)).sum()
}

/// `Σ x·y`, summed in double precision.
pub fn dot(_cpu: &Cpu, x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

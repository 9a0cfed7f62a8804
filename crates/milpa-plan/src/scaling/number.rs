//! Numbers with exact gradients: forward-mode automatic differentiation over a few parameters.
//!
//! A curve's formula is written once, over [`Number`]; with `f64` it gives a value, with
//! [`Dual<P>`] the value and its P derivatives. It knows nothing of curves.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// What a formula is written over.
pub(super) trait Number:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// A constant.
    fn constant(value: f64) -> Self;
    /// The value without derivatives.
    fn value(self) -> f64;
    /// e to this power.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;

    /// A multiple.
    fn times(self, factor: f64) -> Self {
        self * Self::constant(factor)
    }

    /// The smaller of two, with the derivatives of that one.
    fn min(self, other: Self) -> Self {
        if self.value() <= other.value() { self } else { other }
    }
}

impl Number for f64 {
    fn constant(value: f64) -> Self {
        value
    }
    fn value(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn ln(self) -> Self {
        self.ln()
    }
}

/// A value and its derivatives by P parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dual<const P: usize> {
    /// The value.
    pub(super) value: f64,
    /// Its derivatives.
    pub(super) gradient: [f64; P],
}

impl<const P: usize> Dual<P> {
    /// The parameters as variables to differentiate by.
    pub(super) fn variables(theta: &[f64; P]) -> [Self; P] {
        std::array::from_fn(|index| {
            let mut gradient = [0.0; P];
            gradient[index] = 1.0;
            Self { value: theta[index], gradient }
        })
    }

    /// A function of one number by its value and derivative.
    fn chain(self, value: f64, derivative: f64) -> Self {
        Self { value, gradient: self.gradient.map(|g| g * derivative) }
    }

    /// A function of two numbers by its value and derivatives.
    fn combine(self, other: Self, value: f64, by_self: f64, by_other: f64) -> Self {
        let gradient =
            std::array::from_fn(|i| self.gradient[i] * by_self + other.gradient[i] * by_other);
        Self { value, gradient }
    }
}

impl<const P: usize> Add for Dual<P> {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.combine(other, self.value + other.value, 1.0, 1.0)
    }
}

impl<const P: usize> Sub for Dual<P> {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.combine(other, self.value - other.value, 1.0, -1.0)
    }
}

impl<const P: usize> Mul for Dual<P> {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        self.combine(other, self.value * other.value, other.value, self.value)
    }
}

impl<const P: usize> Div for Dual<P> {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let quotient = self.value / other.value;
        self.combine(other, quotient, other.value.recip(), -quotient / other.value)
    }
}

impl<const P: usize> Neg for Dual<P> {
    type Output = Self;
    fn neg(self) -> Self {
        self.chain(-self.value, -1.0)
    }
}

impl<const P: usize> Number for Dual<P> {
    fn constant(value: f64) -> Self {
        Self { value, gradient: [0.0; P] }
    }
    fn value(self) -> f64 {
        self.value
    }
    fn exp(self) -> Self {
        let value = self.value.exp();
        self.chain(value, value)
    }
    fn ln(self) -> Self {
        self.chain(self.value.ln(), self.value.recip())
    }
    fn times(self, factor: f64) -> Self {
        self.chain(self.value * factor, factor)
    }
}

/// ln(Σ exp(termᵢ)), safe for large terms.
pub(super) fn log_sum_exp<T: Number>(terms: &[T]) -> T {
    let largest = terms.iter().map(|term| term.value()).fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return T::constant(largest);
    }
    let offset = T::constant(largest);
    let sum = terms.iter().fold(T::constant(0.0), |sum, &term| sum + (term - offset).exp());
    sum.ln() + offset
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A formula that uses every operation.
    fn formula<T: Number>(x: T, y: T) -> T {
        let quotient = (x * y - y.times(0.3)) / (T::constant(2.0) + x.exp());
        log_sum_exp(&[quotient, -x, y.ln()]) + x.min(y)
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (x, y) = (0.7, 1.9);
        let [dx, dy] = Dual::variables(&[x, y]);
        let dual = formula(dx, dy);
        assert_eq!(dual.value, formula(x, y));
        let h = 1e-6;
        let by_x = (formula(x + h, y) - formula(x - h, y)) / (2.0 * h);
        let by_y = (formula(x, y + h) - formula(x, y - h)) / (2.0 * h);
        assert!((dual.gradient[0] - by_x).abs() < 1e-8, "{dual:?} {by_x}");
        assert!((dual.gradient[1] - by_y).abs() < 1e-8, "{dual:?} {by_y}");
    }
}

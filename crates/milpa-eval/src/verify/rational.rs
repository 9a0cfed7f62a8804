//! Fractions of 128-bit integers whose every operation is exact or says that it is not possible.
//!
//! A verdict on arithmetic must not hang on a rounding. What does not fit is `None`, never wrapped
//! and never rounded. It knows no text.

use std::cmp::Ordering;

/// A fraction in lowest terms; the denominator is positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rational {
    numerator: i128,
    denominator: i128,
}

/// Largest power that is computed exactly.
const MAX_POWER: i128 = 128;

impl Rational {
    /// Nothing.
    pub const ZERO: Self = Self { numerator: 0, denominator: 1 };
    /// One.
    pub const ONE: Self = Self { numerator: 1, denominator: 1 };

    /// `numerator / denominator`; `None` when the denominator is 0 or a sign does not fit.
    pub fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 || numerator == i128::MIN || denominator == i128::MIN {
            return None;
        }
        let divisor = greatest_common_divisor(numerator.abs(), denominator.abs());
        let sign = denominator.signum();
        Some(Self {
            numerator: sign * numerator / divisor,
            denominator: denominator.abs() / divisor,
        })
    }

    /// A whole number.
    pub fn whole(number: i128) -> Option<Self> {
        Self::new(number, 1)
    }

    /// `digits` with the last `decimals` of them after the decimal mark.
    pub fn decimal(digits: &str, decimals: usize) -> Option<Self> {
        Self::new(digits.parse().ok()?, power_of_ten(decimals)?)
    }

    /// The sum.
    pub fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    /// The difference.
    pub fn minus(self, other: Self) -> Option<Self> {
        self.plus(other.negated())
    }

    /// The product.
    pub fn times(self, other: Self) -> Option<Self> {
        // Divided crosswise first, so that what fits in the end fits on the way.
        let left = Self::new(self.numerator, other.denominator)?;
        let right = Self::new(other.numerator, self.denominator)?;
        Self::new(
            left.numerator.checked_mul(right.numerator)?,
            left.denominator.checked_mul(right.denominator)?,
        )
    }

    /// The quotient; `None` by zero.
    pub fn over(self, other: Self) -> Option<Self> {
        self.times(Self::new(other.denominator, other.numerator)?)
    }

    /// The whole power; `None` beyond 128 and for 0 to a negative power.
    pub fn to_the(self, power: Self) -> Option<Self> {
        if power.denominator != 1 || power.numerator.abs() > MAX_POWER {
            return None;
        }
        let base = if power.numerator < 0 { Self::ONE.over(self)? } else { self };
        (0..power.numerator.abs()).try_fold(Self::ONE, |product, _| product.times(base))
    }

    /// The whole-degree root, where it is rational; `None` else and beyond degree 16.
    pub fn root(self, degree: Self) -> Option<Self> {
        let degree = degree.as_whole().filter(|degree| (2..=16).contains(degree))?;
        if self.numerator < 0 && degree % 2 == 0 {
            return None;
        }
        let of = |number: i128| {
            let near = (number as f64).powf(1.0 / degree as f64).round() as i128;
            let power = |root: &i128| root.checked_pow(degree as u32) == Some(number);
            (near.saturating_sub(1)..=near.saturating_add(1)).find(power)
        };
        Self::new(self.numerator.signum() * of(self.numerator.abs())?, of(self.denominator)?)
    }

    /// The number with the other sign.
    pub fn negated(self) -> Self {
        Self { numerator: -self.numerator, denominator: self.denominator }
    }

    /// The number without its sign.
    pub fn absolute(self) -> Self {
        Self { numerator: self.numerator.abs(), denominator: self.denominator }
    }

    /// The whole number, if it is one.
    pub fn as_whole(self) -> Option<i128> {
        (self.denominator == 1).then_some(self.numerator)
    }

    /// The nearest floating-point number.
    pub fn to_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// The order; `None` where the products do not fit.
    pub fn compare(self, other: Self) -> Option<Ordering> {
        Some(self.minus(other)?.numerator.cmp(&0))
    }

    /// Decimal digits without a sign and how many of them are decimals; `None` when they do not end
    /// within 30.
    pub fn digits(self) -> Option<(String, usize)> {
        (0..=30).find_map(|decimals| {
            let scaled = self.times(Self::whole(power_of_ten(decimals)?)?)?.as_whole()?;
            Some((format!("{:0>width$}", scaled.abs(), width = decimals + 1), decimals))
        })
    }

    /// Whether it lies below zero.
    pub fn is_negative(self) -> bool {
        self.numerator < 0
    }
}

impl std::fmt::Display for Rational {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.denominator == 1 {
            write!(formatter, "{}", self.numerator)
        } else {
            write!(formatter, "{}/{}", self.numerator, self.denominator)
        }
    }
}

pub(crate) fn power_of_ten(exponent: usize) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

fn greatest_common_divisor(mut left: i128, mut right: i128) -> i128 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numerator: i128, denominator: i128) -> Rational {
        Rational::new(numerator, denominator).unwrap()
    }

    #[test]
    fn arithmetic_is_exact_or_refused() {
        assert_eq!(of(1, 3).plus(of(1, 6)), Some(of(1, 2)));
        assert_eq!(of(2, -4), of(-1, 2));
        assert_eq!(of(3, 4).over(of(3, 8)), Some(of(2, 1)));
        assert_eq!(of(1, 2).over(Rational::ZERO), None);
        assert_eq!(of(2, 3).to_the(of(-3, 1)), Some(of(27, 8)));
        assert_eq!(of(10, 1).to_the(of(39, 1)), None);
        assert_eq!(of(i128::MAX, 1).plus(Rational::ONE), None);
        assert_eq!(of(i128::MAX, 2).times(of(2, i128::MAX)), Some(Rational::ONE));
        assert_eq!(Rational::new(i128::MIN, 1), None);
        assert_eq!(Rational::decimal("1234", 2), Some(of(617, 50)));
        assert_eq!(of(617, 50).digits(), Some(("1234".to_owned(), 2)));
        assert_eq!(of(1, 20).digits(), Some(("005".to_owned(), 2)));
        assert_eq!(of(1, 3).digits(), None);
        assert_eq!(of(9, 4).root(of(2, 1)), Some(of(3, 2)));
        assert_eq!(of(-27, 1).root(of(3, 1)), Some(of(-3, 1)));
        assert_eq!(of(-4, 1).root(of(2, 1)), None);
        assert_eq!(of(2, 1).root(of(2, 1)), None);
    }
}

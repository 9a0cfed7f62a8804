//! Small dense linear algebra: systems and eigenvalues of a few parameters.

/// A square matrix of a few rows.
pub(crate) type Matrix<const P: usize> = [[f64; P]; P];

/// Solves A·x = b for a symmetric positive definite A (Cholesky); `None` where A is not.
pub(crate) fn solve<const P: usize>(mut a: Matrix<P>, mut b: [f64; P]) -> Option<[f64; P]> {
    solve_in_place(&mut a, &mut b)?;
    Some(b)
}

/// [`solve`] for any number of rows: `b` becomes x, and only the lower half of `a` is read.
#[inline]
pub(crate) fn solve_in_place<R: AsMut<[f64]> + AsRef<[f64]>>(
    a: &mut [R],
    b: &mut [f64],
) -> Option<()> {
    let n = b.len();
    for j in 0..n {
        for k in 0..j {
            let factor = a[j].as_ref()[k];
            for row in &mut a[j..] {
                let row = row.as_mut();
                row[j] -= row[k] * factor;
            }
        }
        let pivot = a[j].as_ref()[j];
        if pivot <= 0.0 || !pivot.is_finite() {
            return None;
        }
        let root = pivot.sqrt();
        for row in &mut a[j..] {
            row.as_mut()[j] /= root;
        }
    }
    for i in 0..n {
        let row = a[i].as_ref();
        for k in 0..i {
            b[i] -= row[k] * b[k];
        }
        b[i] /= row[i];
    }
    for i in (0..n).rev() {
        for k in i + 1..n {
            b[i] -= a[k].as_ref()[i] * b[k];
        }
        b[i] /= a[i].as_ref()[i];
    }
    b.iter().all(|x| x.is_finite()).then_some(())
}

/// Condition number of the columns whose products are `gram`, each scaled to length one.
///
/// The root of the largest over the smallest eigenvalue (cyclic Jacobi rotations): 1 where the
/// data separate the parameters, infinite where two of them have the same effect.
pub(crate) fn scaled_condition<const P: usize>(gram: &Matrix<P>) -> f64 {
    if (0..P).any(|i| gram[i][i].is_nan() || gram[i][i] <= 0.0) {
        return f64::INFINITY;
    }
    let mut a = *gram;
    for i in 0..P {
        for j in 0..P {
            a[i][j] /= (gram[i][i] * gram[j][j]).sqrt();
        }
    }
    for _sweep in 0..60 {
        let mut off = 0.0;
        for p in 0..P {
            for q in p + 1..P {
                off += a[p][q] * a[p][q];
                if a[p][q].abs() < 1e-300 {
                    continue;
                }
                let angle = 0.5 * (2.0 * a[p][q]).atan2(a[q][q] - a[p][p]);
                let (sine, cosine) = angle.sin_cos();
                for k in 0..P {
                    let (x, y) = (a[k][p], a[k][q]);
                    (a[k][p], a[k][q]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
                for k in 0..P {
                    let (x, y) = (a[p][k], a[q][k]);
                    (a[p][k], a[q][k]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
            }
        }
        if off < 1e-28 {
            break;
        }
    }
    let (low, high) = (0..P)
        .map(|i| a[i][i])
        .fold((f64::INFINITY, 0.0), |(l, h): (f64, f64), v| (l.min(v), h.max(v)));
    // Below this, rounding alone decides.
    if low < high * 1e-15 { f64::INFINITY } else { (high / low).sqrt() }
}

/// Least squares of y = intercept + slope·x; `None` unless there are two different x.
pub(crate) fn line(points: &[(f64, f64)]) -> Option<Line> {
    let count = points.len() as f64;
    let (x_mean, y_mean) =
        points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        xx += (x - x_mean) * (x - x_mean);
        xy += (x - x_mean) * (y - y_mean);
        yy += (y - y_mean) * (y - y_mean);
    }
    if xx.is_nan() || xx <= 1e-12 * (1.0 + x_mean * x_mean) {
        return None;
    }
    let slope = xy / xx;
    let r_squared = if yy > 0.0 { xy * xy / (xx * yy) } else { 1.0 };
    Some(Line { slope, intercept: y_mean - slope * x_mean, r_squared })
}

/// A straight line through points.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Line {
    /// Slope.
    pub slope: f64,
    /// Value at zero.
    pub intercept: f64,
    /// Share of the variance that the line explains.
    pub r_squared: f64,
}

impl Line {
    /// The line at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_solved_and_singular_ones_refused() {
        let a = [[4.0, 2.0, 0.4], [2.0, 5.0, 1.0], [0.4, 1.0, 3.0]];
        let x = solve(a, [1.0, -2.0, 0.5]).unwrap();
        for (row, want) in a.iter().zip([1.0, -2.0, 0.5]) {
            let got: f64 = row.iter().zip(x).map(|(a, x)| a * x).sum();
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        assert_eq!(solve([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0]), None);
    }

    #[test]
    fn the_condition_number_is_that_of_the_correlations() {
        // Correlation r of two columns: eigenvalues 1 ± r.
        let condition = scaled_condition(&[[4.0, 3.0], [3.0, 9.0]]);
        assert!((condition - (1.5f64 / 0.5).sqrt()).abs() < 1e-12, "{condition}");
        assert_eq!(scaled_condition(&[[1.0, 1.0], [1.0, 1.0]]), f64::INFINITY);
    }

    #[test]
    fn a_line_goes_through_its_points() {
        let line = line(&[(1.0, 1.0), (2.0, 3.0), (3.0, 5.0)]).unwrap();
        assert!((line.slope - 2.0).abs() < 1e-12 && (line.at(0.0) + 1.0).abs() < 1e-12);
        assert_eq!(super::line(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }
}

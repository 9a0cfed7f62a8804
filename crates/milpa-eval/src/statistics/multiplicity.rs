//! Many tests at once: p-values adjusted so that chance finds do not pass for findings.

/// Holm's step-down adjustment: rejecting where the result is at most α keeps the probability of
/// any false rejection at α, whatever the dependence. Results stand in the order of `p_values`.
///
/// Paper: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65–70.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let count = p_values.len();
    let mut adjusted = vec![0.0; count];
    let mut running = 0.0f64;
    for (rank, &index) in ascending(p_values).iter().enumerate() {
        running = running.max(p_values[index] * (count - rank) as f64).min(1.0);
        adjusted[index] = running;
    }
    adjusted
}

/// Benjamini and Hochberg's step-up adjustment: rejecting where the result is at most α keeps the
/// expected share of false ones among the rejections at α, for independent or positively dependent
/// tests. Results stand in the order of `p_values`.
///
/// Paper: Y. Benjamini, Y. Hochberg, Journal of the Royal Statistical Society B 57 (1995) 289–300.
pub fn benjamini_hochberg(p_values: &[f64]) -> Vec<f64> {
    let count = p_values.len();
    let mut adjusted = vec![0.0; count];
    let mut running = 1.0f64;
    for (rank, &index) in ascending(p_values).iter().enumerate().rev() {
        running = running.min(p_values[index] * count as f64 / (rank + 1) as f64);
        adjusted[index] = running;
    }
    adjusted
}

fn ascending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::near;

    #[test]
    fn adjusted_p_values_by_hand() {
        let check = |found: Vec<f64>, expect: [f64; 4]| {
            for (value, expect) in found.into_iter().zip(expect) {
                near(value, expect, 1e-15);
            }
        };
        let p_values = [0.01, 0.04, 0.03, 0.005];
        check(holm(&p_values), [0.03, 0.06, 0.06, 0.02]);
        check(benjamini_hochberg(&p_values), [0.02, 0.04, 0.04, 0.02]);
        assert!(holm(&[]).is_empty() && benjamini_hochberg(&[]).is_empty());
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}

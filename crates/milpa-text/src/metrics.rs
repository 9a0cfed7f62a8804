//! How well scores tell two classes apart, and whether probabilities mean what they say.
//!
//! Pure functions of scores and truths; they know nothing of models or texts.

use milpa_base::seed::Seed;

/// Area under the receiver operating characteristic: the probability that a positive has a higher
/// score than a negative, ties counting half (Mann–Whitney). `None` if a class is missing.
pub fn auroc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len().min(positive.len())).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let ranks = order.iter().map(|&at| (scores[at], 1, usize::from(positive[at])));
    area_of(ranks)
}

/// The area from (score, how many, how many of them positive) in rising order of scores.
fn area_of(ranks: impl Iterator<Item = (f32, usize, usize)>) -> Option<f64> {
    let (mut below, mut positives, mut area) = (0usize, 0usize, 0f64);
    // The run of equal scores: its negatives and positives.
    let (mut run, mut tied_negatives, mut tied_positives) = (f32::NAN, 0usize, 0usize);
    for (score, count, hits) in ranks {
        if score != run {
            area += tied_positives as f64 * (below as f64 + tied_negatives as f64 / 2.0);
            below += tied_negatives;
            (run, tied_negatives, tied_positives) = (score, 0, 0);
        }
        tied_negatives += count - hits;
        tied_positives += hits;
        positives += hits;
    }
    area += tied_positives as f64 * (below as f64 + tied_negatives as f64 / 2.0);
    below += tied_negatives;
    (positives > 0 && below > 0).then(|| area / (positives as f64 * below as f64))
}

/// The 95 % percentile interval of [`auroc`] over `resamples` bootstrap resamples of the examples.
pub fn auroc_interval(
    scores: &[f32],
    positive: &[bool],
    resamples: u64,
    seed: Seed,
) -> Option<(f64, f64)> {
    let count = scores.len().min(positive.len());
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let mut areas = Vec::new();
    let mut drawn = vec![0usize; count];
    for resample in 0..resamples {
        let stream = seed.nth(resample);
        drawn.fill(0);
        for index in 0..count as u64 {
            drawn[(stream.u64_at(index) % count as u64) as usize] += 1;
        }
        let times = |at: usize| if positive[at] { drawn[at] } else { 0 };
        areas.extend(area_of(order.iter().map(|&at| (scores[at], drawn[at], times(at)))));
    }
    areas.sort_by(f64::total_cmp);
    let at = |share: f64| areas[((areas.len() - 1) as f64 * share).round() as usize];
    (!areas.is_empty()).then(|| (at(0.025), at(0.975)))
}

/// Precision and recall of the positives when the best-scored `fraction` of all is kept.
pub fn kept_fraction(scores: &[f32], positive: &[bool], fraction: f64) -> (f64, f64) {
    let mut order: Vec<usize> = (0..scores.len().min(positive.len())).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let kept = ((order.len() as f64 * fraction).round() as usize).min(order.len());
    let hits = order[..kept].iter().filter(|&&at| positive[at]).count() as f64;
    let all = positive.iter().filter(|&&p| p).count();
    (hits / kept.max(1) as f64, hits / all.max(1) as f64)
}

/// Precision that a threshold has where a share `prevalence` of all is positive, from its rates on
/// a test set of another balance: tpr·π / (tpr·π + fpr·(1 − π)).
pub fn precision_at_prevalence(
    scores: &[f32],
    positive: &[bool],
    threshold: f32,
    prevalence: f64,
) -> Option<f64> {
    let (mut of, mut above) = ([0usize; 2], [0usize; 2]);
    for (&score, &truth) in scores.iter().zip(positive) {
        of[usize::from(truth)] += 1;
        above[usize::from(truth)] += usize::from(score >= threshold);
    }
    let rate = |class: usize| above[class] as f64 / of[class].max(1) as f64;
    let hits = rate(1) * prevalence;
    let all = hits + rate(0) * (1.0 - prevalence);
    (all > 0.0).then(|| hits / all)
}

/// Expected calibration error: the mean distance of probability and truth over `bins` of equal
/// width, weighted by how many fall into each (Guo et al. 2017).
pub fn calibration_error(probabilities: &[f32], truth: &[bool], bins: usize) -> f64 {
    let bins = bins.max(1);
    let mut sums = vec![(0f64, 0f64); bins];
    let count = probabilities.len().min(truth.len());
    for (&probability, &truth) in probabilities.iter().zip(truth) {
        let bin = &mut sums[((probability * bins as f32) as usize).min(bins - 1)];
        *bin = (bin.0 + f64::from(probability), bin.1 + f64::from(u8::from(truth)));
    }
    sums.iter().map(|(said, was)| (said - was).abs()).sum::<f64>() / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn areas_count_ties_half() {
        let check = |scores: &[f32], positive: &[bool], expect: Option<f64>| {
            assert_eq!(auroc(scores, positive), expect, "{scores:?} {positive:?}");
        };
        check(&[0.1, 0.2, 0.3], &[false, true, true], Some(1.0));
        check(&[0.3, 0.2, 0.1], &[false, true, true], Some(0.0));
        check(&[0.5, 0.5], &[false, true], Some(0.5));
        check(&[0.1, 0.5, 0.5, 0.9], &[false, false, true, true], Some(0.875));
        check(&[0.1, 0.5], &[true, true], None);
        check(&[], &[], None);
    }

    #[test]
    fn kept_fractions_and_prevalence() {
        let (scores, positive) = ([0.9, 0.8, 0.3, 0.1], [true, false, true, false]);
        assert_eq!(kept_fraction(&scores, &positive, 0.5), (0.5, 0.5));
        assert_eq!(kept_fraction(&scores, &positive, 0.25), (1.0, 0.5));
        assert_eq!(kept_fraction(&scores, &positive, 0.0), (0.0, 0.0));
        // Both rates are one half, so precision is the prevalence.
        assert_eq!(precision_at_prevalence(&scores, &positive, 0.5, 0.01), Some(0.01));
        assert_eq!(precision_at_prevalence(&scores, &positive, 0.85, 0.01), Some(1.0));
        assert_eq!(precision_at_prevalence(&scores, &positive, 1.0, 0.01), None);
    }

    #[test]
    fn calibration_error_is_the_distance_of_said_and_true() {
        let truth = [true, true, true, false];
        assert!(calibration_error(&[0.75; 4], &truth, 10) < 1e-9);
        assert!((calibration_error(&[1.0; 4], &truth, 10) - 0.25).abs() < 1e-9);
        assert_eq!(calibration_error(&[], &[], 10), 0.0);
    }

    proptest! {
        #[test]
        fn areas_equal_the_count_of_pairs(
            rows in prop::collection::vec((0u8..6, any::<bool>()), 0..40)
        ) {
            let scores: Vec<f32> = rows.iter().map(|row| f32::from(row.0)).collect();
            let positive: Vec<bool> = rows.iter().map(|row| row.1).collect();
            let (mut pairs, mut won) = (0.0, 0.0);
            for (a, _) in rows.iter().filter(|row| row.1) {
                for (b, _) in rows.iter().filter(|row| !row.1) {
                    pairs += 1.0;
                    won += 0.5 * f64::from(u8::from(a > b) + u8::from(a >= b));
                }
            }
            let expect = (pairs > 0.0).then(|| won / pairs);
            prop_assert_eq!(auroc(&scores, &positive).is_some(), expect.is_some());
            if let (Some(found), Some(expect)) = (auroc(&scores, &positive), expect) {
                prop_assert!((found - expect).abs() < 1e-12);
                let (low, high) = auroc_interval(&scores, &positive, 50, Seed(1)).unwrap();
                prop_assert!(low <= high && (0.0..=1.0).contains(&low));
            }
        }
    }
}

//! Which source each sample of a stage comes from: exact in proportion at every point.
//!
//! A stage gives source *i* a whole number kᵢ of its K samples. The rule of Tijdeman for the
//! chairman assignment problem (Discrete Mathematics 32, 1980) takes, of the sources that have come
//! near enough to their next sample, the one whose sample is due first. After any number of samples
//! each of S sources is within 1 − 1/(2S − 2) of its share, so at the end of the stage it is exact.
//! It knows no samples, only their numbers.

/// How far a stage has gone: samples in all, and of each source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draw {
    /// kᵢ; every one above zero.
    counts: Vec<u64>,
    /// K.
    total: u64,
    drawn: u64,
    drawn_of: Vec<u64>,
}

impl Draw {
    /// Begins a stage that draws `counts` samples of its sources, each at least one.
    pub(crate) fn new(counts: Vec<u64>) -> Self {
        let (total, drawn_of) = (counts.iter().sum(), vec![0; counts.len()]);
        Self { counts, total, drawn: 0, drawn_of }
    }

    /// Samples drawn.
    pub(crate) fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Samples drawn of each source.
    pub(crate) fn drawn_of(&self) -> &[u64] {
        &self.drawn_of
    }

    /// Draws a sample: its source, and its number among those of the source. After the K-th the
    /// same row of sources comes again.
    pub(crate) fn next(&mut self) -> (usize, u64) {
        let source = self.choose();
        let nth = self.drawn_of[source];
        self.drawn += 1;
        self.drawn_of[source] += 1;
        (source, nth)
    }

    fn choose(&self) -> usize {
        let sources = self.counts.len() as i128;
        if sources == 1 {
            return 0;
        }
        // All in units of 1/(2S − 2) of a sample times K, so that nothing is rounded.
        let fine = 2 * sources - 2;
        let total = i128::from(self.total);
        let number = i128::from(self.drawn) + 1;
        let mut best: Option<(i128, usize)> = None;
        for (source, (&count, &drawn)) in self.counts.iter().zip(&self.drawn_of).enumerate() {
            let count = i128::from(count);
            let behind = fine * (count * number - i128::from(drawn) * total);
            if behind < total {
                continue;
            }
            // Samples of the stage that may still come before this source's next one is due.
            let slack = (fine - 1) * total - behind;
            let due =
                slack.div_euclid(fine * count) + i128::from(slack.rem_euclid(fine * count) > 0);
            if best.is_none_or(|(first, _)| due < first) {
                best = Some((due, source));
            }
        }
        // Tijdeman proves that there is one; the first source keeps a mistake from being a panic.
        best.map_or(0, |(_, source)| source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_source_stays_within_one_sample_of_its_share(
            counts in prop::collection::vec(1u64..400, 1..9),
        ) {
            let mut draw = Draw::new(counts.clone());
            let total: u64 = counts.iter().sum();
            let sources = counts.len() as f64;
            let bound = if counts.len() == 1 { 0.0 } else { 1.0 - 1.0 / (2.0 * sources - 2.0) };
            let mut next_of = vec![0; counts.len()];
            for number in 1..=2 * total {
                let (source, nth) = draw.next();
                prop_assert_eq!(nth, next_of[source], "numbered without gaps");
                next_of[source] += 1;
                for (count, drawn) in counts.iter().zip(draw.drawn_of()) {
                    let share = *count as f64 * number as f64 / total as f64;
                    prop_assert!((*drawn as f64 - share).abs() <= bound + 1e-9, "{drawn} {share}");
                }
                if number == total {
                    prop_assert_eq!(draw.drawn_of(), &counts[..], "exact at the end");
                }
            }
        }

        #[test]
        fn large_stages_do_not_overflow(first in 1u64..1 << 50, second in 1u64..1 << 50) {
            let mut draw = Draw::new(vec![first, second, 1]);
            for number in 1..200u64 {
                draw.next();
                let share = first as f64 / draw.total as f64 * number as f64;
                prop_assert!((draw.drawn_of()[0] as f64 - share).abs() < 1.0);
            }
        }
    }
}

//! Drawing the next token from logits.
//!
//! Order: repetition penalty, temperature, top-k, top-p, min-p, draw, as `transformers` has it. The draw for the n-th token of a
//! request is a function of the request's seed and n.

use milpa_base::{ModelError, Sampling, Seed};

/// Draws tokens for one request.
#[derive(Debug)]
pub(crate) struct Sampler {
    settings: Sampling,
    stream: Seed,
    drawn: u64,
    /// Tokens that the repetition penalty applies to.
    seen: Vec<bool>,
}

impl Sampler {
    /// Checks the settings; `prompt` counts as seen.
    pub(crate) fn new(
        settings: Sampling,
        vocab_size: usize,
        prompt: &[u32],
    ) -> Result<Self, ModelError> {
        let bad = |what: &str, value: f32, range: &str| {
            Err(ModelError::BadRequest(format!("{what} is {value}; it must {range}")))
        };
        if !(settings.temperature >= 0.0 && settings.temperature.is_finite()) {
            return bad("temperature", settings.temperature, "be 0 or more");
        }
        if !(settings.top_p > 0.0 && settings.top_p <= 1.0) {
            return bad("top_p", settings.top_p, "lie above 0 and at most at 1");
        }
        if !(0.0..=1.0).contains(&settings.min_p) {
            return bad("min_p", settings.min_p, "lie between 0 and 1");
        }
        if !(settings.repetition_penalty > 0.0 && settings.repetition_penalty.is_finite()) {
            return bad("repetition_penalty", settings.repetition_penalty, "be above 0");
        }
        let mut sampler = Self {
            settings,
            stream: Seed(settings.seed).derive("sample"),
            drawn: 0,
            seen: vec![false; vocab_size],
        };
        for &token in prompt {
            sampler.see(token);
        }
        Ok(sampler)
    }

    /// Chooses a token; only ids below `allowed` can be chosen. Changes `logits`.
    pub(crate) fn draw(&mut self, logits: &mut [f32], allowed: usize) -> u32 {
        let logits = &mut logits[..allowed];
        self.penalise(logits);
        let token = if self.settings.temperature == 0.0 {
            greedy(logits)
        } else {
            let point = self.stream.f64_at(self.drawn);
            self.pick(logits, point)
        };
        self.drawn += 1;
        self.see(token);
        token
    }

    /// Moves the logits of tokens that were seen.
    fn penalise(&self, logits: &mut [f32]) {
        let penalty = self.settings.repetition_penalty;
        if penalty != 1.0 {
            for (logit, _) in logits.iter_mut().zip(&self.seen).filter(|(_, seen)| **seen) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    fn see(&mut self, token: u32) {
        if let Some(seen) = self.seen.get_mut(token as usize) {
            *seen = true;
        }
    }

    /// The token at `point` of the cumulative distribution of the candidates.
    fn pick(&self, logits: &[f32], point: f64) -> u32 {
        let weighted = self.weighted(logits);
        let mass: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let mut left = point * mass;
        for &(token, weight) in &weighted {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        weighted.last().map_or(0, |(token, _)| *token)
    }

    /// The candidates with their weights, as shares of the most probable one's.
    fn weighted(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let temperature = f64::from(self.settings.temperature);
        let weight =
            |token: u32| ((f64::from(logits[token as usize]) - largest) / temperature).exp();
        let candidates = self.candidates(logits, &weight);
        let mut weighted: Vec<_> =
            candidates.into_iter().map(|token| (token, weight(token))).collect();
        let least = f64::from(self.settings.min_p);
        if least > 0.0 {
            weighted.retain(|(_, weight)| *weight >= least);
        }
        weighted
    }

    /// The tokens that top-k and, among those, top-p leave.
    fn candidates(&self, logits: &[f32], weight: &dyn Fn(u32) -> f64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let rank =
            |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let k = self.settings.top_k;
        if k > 0 && k < order.len() {
            order.select_nth_unstable_by(k - 1, rank);
            order.truncate(k);
        }
        if self.settings.top_p >= 1.0 {
            order.sort_unstable();
            return order;
        }
        let wanted = f64::from(self.settings.top_p) * order.iter().map(|&t| weight(t)).sum::<f64>();
        // The smallest set of tokens whose mass reaches top_p is small as a rule: sort only as many
        // of the most probable ones as it takes.
        let mut sorted = 64;
        loop {
            sorted = sorted.min(order.len());
            if sorted < order.len() {
                order.select_nth_unstable_by(sorted, rank);
            }
            order[..sorted].sort_unstable_by(rank);
            let mut mass = 0.0;
            let last = order[..sorted].iter().position(|&token| {
                mass += weight(token);
                mass >= wanted
            });
            if last.is_some() || sorted == order.len() {
                order.truncate(last.map_or(sorted, |last| last + 1));
                return order;
            }
            sorted *= 4;
        }
    }
}

/// The first of the largest logits.
pub(crate) fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// `log softmax(logits)`.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    let log_sum = largest + sum.ln();
    logits.iter().map(|&logit| f64::from(logit) - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.5, 2.0, 1.0, 2.0];

    fn settings() -> Sampling {
        Sampling { temperature: 1.0, top_p: 1.0, seed: 3, ..Sampling::default() }
    }

    /// Relative frequencies of 20,000 draws.
    fn frequencies(settings: Sampling) -> [f64; 4] {
        let mut sampler = Sampler::new(settings, 4, &[]).unwrap();
        let mut counts = [0.0; 4];
        for _ in 0..20_000 {
            counts[sampler.draw(&mut LOGITS.clone(), 4) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn check(settings: Sampling, expect: [f64; 4]) {
        let found = frequencies(settings);
        for (found, expect) in found.iter().zip(expect) {
            // Five standard errors of a frequency.
            assert!((found - expect).abs() < 5.0 * 0.5 / 20_000_f64.sqrt(), "{found} {expect}");
        }
    }

    fn softmax(logits: [f64; 4]) -> [f64; 4] {
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        logits.map(|logit| logit.exp() / sum)
    }

    #[test]
    fn draws_follow_the_distribution() {
        check(settings(), softmax([0.5, 2.0, 1.0, 2.0]));
        check(Sampling { temperature: 0.5, ..settings() }, softmax([1.0, 4.0, 2.0, 4.0]));
        check(Sampling { temperature: 0.0, ..settings() }, [0.0, 1.0, 0.0, 0.0]);
        check(Sampling { top_k: 1, ..settings() }, [0.0, 1.0, 0.0, 0.0]);
        check(Sampling { top_k: 2, ..settings() }, [0.0, 0.5, 0.0, 0.5]);
        check(Sampling { top_p: 0.5, ..settings() }, [0.0, 0.5, 0.0, 0.5]);
        check(Sampling { min_p: 0.5, ..settings() }, [0.0, 0.5, 0.0, 0.5]);
        check(Sampling { top_p: 0.01, ..settings() }, [0.0, 1.0, 0.0, 0.0]);
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        logits: Vec<f32>,
        seen: Vec<u32>,
        cases: Vec<GoldenCase>,
    }

    #[derive(serde::Deserialize)]
    struct GoldenCase {
        settings: GoldenSettings,
        probabilities: Vec<f64>,
    }

    #[derive(Debug, Clone, Copy, serde::Deserialize)]
    struct GoldenSettings {
        repetition_penalty: f32,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
    }

    #[test]
    fn what_is_left_equals_transformers() {
        let golden: Golden =
            serde_json::from_str(include_str!("../tests/golden/sampling.json")).unwrap();
        for GoldenCase { settings, probabilities } in &golden.cases {
            let GoldenSettings { repetition_penalty, temperature, top_k, top_p, min_p } = *settings;
            let sampling =
                Sampling { repetition_penalty, temperature, top_k, top_p, min_p, seed: 0 };
            let sampler = Sampler::new(sampling, golden.logits.len(), &golden.seen).unwrap();
            let mut logits = golden.logits.clone();
            sampler.penalise(&mut logits);
            let weighted = sampler.weighted(&logits);
            let mass: f64 = weighted.iter().map(|(_, weight)| weight).sum();
            let mut found = vec![0.0; logits.len()];
            for (token, weight) in weighted {
                found[token as usize] = weight / mass;
            }
            for (token, (found, expect)) in found.iter().zip(probabilities).enumerate() {
                assert!((found - expect).abs() < 1e-6, "{settings:?} {token}: {found} {expect}");
                assert_eq!(*found == 0.0, *expect == 0.0, "{settings:?} {token}");
            }
        }
    }

    #[test]
    fn seen_tokens_are_penalised() {
        let penalised = Sampling { repetition_penalty: 3.0, temperature: 0.0, ..settings() };
        let mut sampler = Sampler::new(penalised, 4, &[1, 3]).unwrap();
        assert_eq!(sampler.draw(&mut LOGITS.clone(), 4), 2);
        assert_eq!(sampler.draw(&mut LOGITS.clone(), 4), 1);
    }

    #[test]
    fn impossible_settings_are_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..settings() },
            Sampling { temperature: f32::NAN, ..settings() },
            Sampling { top_p: 0.0, ..settings() },
            Sampling { min_p: 1.5, ..settings() },
            Sampling { min_p: f32::NAN, ..settings() },
            Sampling { repetition_penalty: 0.0, ..settings() },
        ] {
            assert!(matches!(Sampler::new(bad, 4, &[]), Err(ModelError::BadRequest(_))));
        }
    }

    #[test]
    fn log_softmax_sums_to_one() {
        let sum: f64 = log_softmax(&[1000.0, -5.0, 999.0]).iter().map(|p| p.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }
}

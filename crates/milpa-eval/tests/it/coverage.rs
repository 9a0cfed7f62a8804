//! How often the 95 % intervals hold the truth, by simulation with fixed seeds.
//!
//! 2,000 experiments a case; at a true coverage of 95 % their share has a standard error of 0.5
//! points, and all cases must lie within 93 and 97 %. `cargo test --release -p milpa-eval --test it
//! coverage -- --nocapture` prints the table that `benches/` keeps.

use milpa_base::Seed;
use milpa_eval::{
    judge::correction::{Calibration, corrected_share, prediction_powered_mean},
    statistics::{
        Interval, LEVEL, bootstrap_mean, clustered_mean_interval, crossed_mean_interval,
        mean_interval, paired_difference, wilson,
    },
};

const EXPERIMENTS: u64 = 2000;
const SEED: Seed = Seed(20_261_121);

/// Runs a case and checks that its interval covers `truth` as often as it says.
fn check(name: &str, truth: f64, experiment: impl Fn(Seed) -> Interval) {
    let (mut covered, mut width) = (0, 0.0);
    for number in 0..EXPERIMENTS {
        let interval = experiment(SEED.derive(name).nth(number));
        covered += u64::from(interval.low <= truth && truth <= interval.high);
        width += interval.high - interval.low;
    }
    let coverage = 100.0 * covered as f64 / EXPERIMENTS as f64;
    #[expect(clippy::print_stdout, reason = "the table that benches/ keeps")]
    {
        println!("{name:<62} {coverage:6.2} %   mean width {:.4}", width / EXPERIMENTS as f64);
    }
    assert!((93.0..=97.0).contains(&coverage), "{name}: {coverage} %");
}

/// A right-or-wrong draw.
fn hit(probability: f64, stream: Seed, index: u64) -> f64 {
    f64::from(u8::from(stream.f64_at(index) < probability))
}

/// Answers in clusters of 1 to 5: a cluster's probability is 0.6 with a spread of 0.2 around it.
fn clusters(count: u64, stream: Seed) -> (Vec<f64>, Vec<usize>) {
    let (mut values, mut numbers) = (Vec::new(), Vec::new());
    for cluster in 0..count {
        let own = stream.nth(cluster);
        let probability = 0.6 + if own.f64_at(0) < 0.5 { -0.2 } else { 0.2 };
        for item in 0..=own.u64_at(1) % 5 {
            values.push(hit(probability, own, 10 + item));
            numbers.push(cluster as usize);
        }
    }
    (values, numbers)
}

/// Two models on the same questions: what is hard for one is hard for the other; b is 0.05 better.
fn pairs(count: u64, stream: Seed) -> (Vec<f64>, Vec<f64>) {
    let draw = |question: u64| {
        let own = stream.nth(question);
        let ease = 0.1 + 0.7 * own.f64_at(0);
        (hit(ease, own, 1), hit(ease + 0.05, own, 2))
    };
    (0..count).map(draw).unzip()
}

#[test]
fn independent_values() {
    check("proportion 0.1 of 200, Wilson", 0.1, |stream| {
        let right: f64 = (0..200).map(|item| hit(0.1, stream, item)).sum();
        wilson(right as u64, 200, LEVEL)
    });
    check("mean of 30 uniform grades, t", 0.5, |stream| {
        let grades: Vec<f64> = (0..30).map(|item| stream.f64_at(item)).collect();
        mean_interval(&grades, LEVEL).unwrap().1
    });
}

#[test]
fn clustered_values() {
    for count in [30, 100, 400] {
        check(&format!("{count} clusters of 1 to 5, clustered t"), 0.6, |stream| {
            let (values, numbers) = clusters(count, stream);
            clustered_mean_interval(&values, &numbers, LEVEL).unwrap().1
        });
    }
    check("100 clusters of 1 to 5, cluster bootstrap", 0.6, |stream| {
        let (values, numbers) = clusters(100, stream);
        bootstrap_mean(&values, Some(&numbers), 500, stream.derive("draws"), LEVEL).unwrap()
    });
}

#[test]
fn paired_values() {
    check("difference of two models on 200 questions, paired bootstrap", 0.05, |stream| {
        let (a, b) = pairs(200, stream);
        let paired = paired_difference(&a, &b, None, 500, stream.derive("draws"), LEVEL);
        paired.interval.unwrap()
    });
    check("the same on 80 clusters of 3 questions, cluster bootstrap", 0.05, |stream| {
        let numbers: Vec<usize> = (0..240).map(|item| item / 3).collect();
        // Questions of one cluster share their ease.
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for item in 0..240u64 {
            let own = stream.nth(item / 3);
            let ease = 0.1 + 0.7 * own.f64_at(0);
            a.push(hit(ease, own, 10 + item));
            b.push(hit(ease + 0.05, own, 1000 + item));
        }
        let draws = stream.derive("draws");
        paired_difference(&a, &b, Some(&numbers), 500, draws, LEVEL).interval.unwrap()
    });
}

#[test]
fn judge_corrected_values() {
    // True share, specificity, sensitivity, items judged, items labelled (right and wrong as drawn).
    for (truth, specificity, sensitivity, judged, labelled) in
        [(0.5, 0.8, 0.9, 500, 200), (0.8, 0.7, 0.95, 1000, 150), (0.15, 0.9, 0.8, 2000, 300)]
    {
        let says = |is_right: bool, stream: Seed, index: u64| {
            let right = if is_right { sensitivity } else { 1.0 - specificity };
            stream.f64_at(index) < right
        };
        let name = format!(
            "share {truth}, judge {specificity}/{sensitivity}, {judged} judged, {labelled} labelled"
        );
        check(&format!("{name}, Lee"), truth, |stream| {
            let truly = |index: u64| stream.derive("truth").f64_at(index) < truth;
            let right = (0..judged).filter(|&i| says(truly(i), stream, i)).count() as u64;
            let mut calibration = Calibration::default();
            for item in judged..judged + labelled {
                calibration.add(truly(item), says(truly(item), stream, item));
            }
            corrected_share(right, judged, &calibration).unwrap().interval
        });
        check(&format!("{name}, PPI"), truth, |stream| {
            let truly = |index: u64| stream.derive("truth").f64_at(index) < truth;
            let score = |flag: bool| f64::from(u8::from(flag));
            let scores: Vec<f64> =
                (0..judged).map(|item| score(says(truly(item), stream, item))).collect();
            let both: Vec<(f64, f64)> = (judged..judged + labelled)
                .map(|item| (score(truly(item)), score(says(truly(item), stream, item))))
                .collect();
            prediction_powered_mean(&scores, &both, LEVEL).unwrap().1
        });
    }
}

#[test]
fn intervals_over_prompts_cover() {
    // Right or wrong on 150 questions of differing ease, under prompts that shift all of them.
    let table = |prompts: u64, shift: f64, stream: Seed| -> Vec<f64> {
        let by_prompt = stream.derive("prompt");
        let mut scores = Vec::new();
        for question in 0..150 {
            let own = stream.derive("question").nth(question);
            let ease = 0.35 + 0.3 * own.f64_at(0);
            for prompt in 0..prompts {
                let probability = ease + shift * by_prompt.normal_at(prompt);
                scores.push(hit(probability.clamp(0.0, 1.0), own, 1 + prompt));
            }
        }
        scores
    };
    for (prompts, shift) in [(4u64, 0.05), (4, 0.15), (8, 0.05)] {
        let name = format!("mean over {prompts} prompts that shift it by {shift}");
        check(&name, 0.5, |seed| {
            let scores = table(prompts, shift, seed);
            crossed_mean_interval(&scores, prompts as usize, LEVEL).unwrap().1
        });
    }
}

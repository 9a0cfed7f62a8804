//! How often 95 % intervals of a scaling law hold the truth: simulated runs of a known law, fitted
//! with the defaults. `cargo xtask bench plan-coverage` runs it and records what it prints.
//!
//! Arguments: simulations, resamples, runs, noise of ln(loss), objective (huber, absolute, squares),
//! threads. Simulation i has a seed of its own, fixed beforehand.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use milpa_base::Seed;
use milpa_plan::scaling::{FitOptions, Law, LawKind, Objective, RunSize};

/// Besiroglu et al. 2024 (arXiv:2404.10102): A, B, E, alpha, beta.
const TRUTH: [f64; 5] = [482.00572, 2085.4342, 1.81686, 0.34781, 0.36585];
/// What is estimated.
const NAMES: [&str; 8] =
    ["A", "B", "E", "alpha", "beta", "a", "loss at 1B, 20B", "loss at 70B, 1.4T"];

/// What the command line says.
struct Arguments {
    simulations: u64,
    resamples: usize,
    runs: usize,
    noise: f64,
    objective: Objective,
    threads: usize,
}

fn main() {
    let Some(arguments) = parse() else {
        println!("simulations resamples runs noise huber|absolute|squares threads");
        std::process::exit(2);
    };
    let threads = arguments.threads as u64;
    let tallies: Vec<[[u32; 3]; 8]> = std::thread::scope(|scope| {
        let arguments = &arguments;
        let part = |thread| scope.spawn(move || tally(arguments, thread, threads));
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().map(|part| part.join().expect("no simulation panics")).collect()
    });
    for (index, name) in NAMES.iter().enumerate() {
        let [held, below, above] =
            [0, 1, 2].map(|which| tallies.iter().map(|tally| tally[index][which]).sum::<u32>());
        let share = |count: u32| 100.0 * f64::from(count) / arguments.simulations as f64;
        println!(
            "  {name:<18} held {:5.2} %, truth below {:4.2} %, above {:4.2} %",
            share(held),
            share(below),
            share(above)
        );
    }
}

fn parse() -> Option<Arguments> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [simulations, resamples, runs, noise, objective, threads] = &words[..] else {
        return None;
    };
    let objective = match objective.as_str() {
        "huber" => Objective::CHINCHILLA,
        "absolute" => Objective::Absolute,
        "squares" => Objective::Squares,
        _ => return None,
    };
    Some(Arguments {
        simulations: simulations.parse().ok()?,
        resamples: resamples.parse().ok()?,
        runs: runs.parse().ok()?,
        noise: noise.parse().ok()?,
        objective,
        threads: threads.parse().ok()?,
    })
}

/// For each quantity: intervals that held the truth, that were above it, and below it.
fn tally(arguments: &Arguments, thread: u64, threads: u64) -> [[u32; 3]; 8] {
    let mut tally = [[0; 3]; 8];
    for simulation in (thread..arguments.simulations).step_by(threads as usize) {
        let seed = Seed(2024).derive("coverage").nth(simulation);
        let (sizes, losses) = runs(arguments, seed);
        let options = FitOptions {
            resamples: arguments.resamples,
            objective: arguments.objective,
            seed: seed.derive("resamples"),
            threads: 1,
            ..FitOptions::default()
        };
        let law = Law::fit(LawKind::Chinchilla, &sizes, &losses, &options);
        let (near, far) = (RunSize::once(1e9, 2e10), RunSize::once(7e10, 1.4e12));
        let exponent = |alpha: f64, beta: f64| beta / (alpha + beta);
        let estimates = law.constants().into_iter().map(|(_, estimate)| estimate).chain([
            law.estimate(|law| exponent(law.constants()[3], law.constants()[4])),
            law.loss(near),
            law.loss(far),
        ]);
        let truths = TRUTH.into_iter().chain([exponent(TRUTH[3], TRUTH[4]), loss(near), loss(far)]);
        for ((estimate, truth), tally) in estimates.zip(truths).zip(&mut tally) {
            let place = match () {
                () if truth < estimate.low => 1,
                () if truth > estimate.high => 2,
                () => 0,
            };
            tally[place] += 1;
        }
    }
    tally
}

/// Runs of 44M to 16B parameters at 1 to 200 tokens for each, with noise on ln(loss).
fn runs(arguments: &Arguments, seed: Seed) -> (Vec<RunSize>, Vec<f64>) {
    (0..arguments.runs)
        .map(|i| {
            let across = (i as f64 + 0.5) / arguments.runs as f64;
            let along = (i as f64 * 0.618_033_988_75).fract();
            let parameters = 4.4e7 * (1.6e10f64 / 4.4e7).powf(across);
            let size = RunSize::once(parameters, parameters * 200f64.powf(along));
            (size, loss(size) * (arguments.noise * seed.normal_at(i as u64)).exp())
        })
        .unzip()
}

fn loss(size: RunSize) -> f64 {
    let [a, b, e, alpha, beta] = TRUTH;
    e + a / size.parameters.powf(alpha) + b / size.tokens.powf(beta)
}

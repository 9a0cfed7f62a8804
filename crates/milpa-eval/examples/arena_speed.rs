//! Times ratings with 1,000 bootstrap replicates on 200,000 drawn votes between 60 models.
//!
//! `cargo run --release -p milpa-eval --example arena_speed [THREADS]`

#![expect(clippy::print_stdout, reason = "an example shows its result")]
#![expect(clippy::unwrap_used, reason = "an example ends where it fails")]

use std::time::Instant;

use milpa_base::{Seed, Silent, StopFlag};
use milpa_eval::{
    Watch,
    arena::{ArenaConfig, Outcome, Vote, Votes, rate},
};

const VOTES: u64 = 200_000;
const MODELS: u64 = 60;

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |threads| threads.parse().unwrap());
    let mut votes = Votes::default();
    for model in 0..MODELS {
        votes.models.number(&format!("model {model}"));
    }
    for number in 0..VOTES {
        let stream = Seed(5).nth(number);
        let a = stream.u64_at(0) % MODELS;
        let b = (a + 1 + stream.u64_at(1) % (MODELS - 1)) % MODELS;
        let strength = |model: u64| 0.6 * Seed(6).normal_at(model);
        let p = 1.0 / (1.0 + (strength(b) - strength(a)).exp());
        let outcome = match (stream.f64_at(2), stream.f64_at(3)) {
            (tie, _) if tie < 0.15 => Outcome::Tie,
            (_, draw) if draw < p => Outcome::A,
            _ => Outcome::B,
        };
        votes.votes.push(Vote {
            a: a as usize,
            b: b as usize,
            outcome,
            user: None,
            day: None,
            categories: Vec::new(),
            style: Vec::new(),
            line: number,
        });
    }
    let (stop, mut last) = (StopFlag::default(), 0.0);
    for replicates in [0, 1000] {
        let config = ArenaConfig { replicates, ..ArenaConfig::default() };
        let watch = Watch { progress: &Silent, stop: &stop };
        let started = Instant::now();
        let board = rate(&votes, &config, threads, watch).unwrap().board;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{VOTES} votes, {MODELS} models, {replicates} replicates, {threads} threads: {seconds:.2} s \
             ({:.2} s more); best {:.1}, {:?}",
            seconds - last,
            board.ratings[0].rating,
            board.ratings[0].bootstrap.map(|interval| (interval.low, interval.high))
        );
        last = seconds;
    }
}

//! How long a program in the sandbox takes, as the page on evaluation quotes it.
//!
//! `cargo run --release -p milpa-sandbox --example speed`. Medians of wall times on one thread: a
//! fresh engine with a small program and one call of it, and a short loop of a million turns.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::time::Instant;

use milpa_sandbox::{Language, Limits, Sandbox};

const SMALL: &str = "function double(list) { return list.map((x) => 2 * x); }";
const LOOP: &str =
    "function turn(n) { let s = 0; for (let i = 0; i < n; i++) s += i % 7; return s; }";

fn median(times: usize, work: impl Fn()) -> f64 {
    let mut seconds: Vec<f64> = (0..times)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[times / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sandbox = Sandbox::shared(Language::JavaScript)?;
    let run = |program: &str, name: &str, arguments: &str, expect: &str| {
        let mut session = sandbox.session("", Limits::default());
        session.load(program).expect("the program has no error");
        assert_eq!(session.call(name, arguments).as_deref(), Ok(expect));
    };
    let small = median(301, || run(SMALL, "double", "[[1, 2]]", "[2,4]"));
    println!(
        "a fresh engine, a small program, one call: {:.2} ms, {:.0} a second",
        small * 1e3,
        1.0 / small
    );
    let turns = median(5, || run(LOOP, "turn", "[1000000]", "2999997"));
    println!("a loop of 1,000,000 turns: {turns:.2} s");
    Ok(())
}

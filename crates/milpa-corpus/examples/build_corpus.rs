//! Builds a corpus from a TOML file with `[corpus]` keys at the top level, and shows its statistics.
//!
//! `cargo run --release -p milpa-corpus --example build_corpus -- CORPUS.toml OUT [THREADS] [QUERY]`

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{error::Error, path::Path, time::Instant};

use milpa_base::{Seed, Silent, StopFlag, load_toml};
use milpa_corpus::{CorpusConfig, Work, build, stats, why};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, out, rest @ ..] = &arguments[..] else {
        return Err("usage: build_corpus CORPUS.toml OUT [THREADS] [QUERY]".into());
    };
    let config: CorpusConfig = load_toml(Path::new(recipe))?;
    let threads = rest.first().map_or(Ok(2), |threads| threads.parse())?;
    let out = Path::new(out);
    let start = Instant::now();
    let work = Work { threads, out, progress: &Silent, stop: &StopFlag::default() };
    let built = build(&config, Seed(1), &work)?;
    println!("{}", built.times);
    println!("built in {:.1} s on {threads} threads", start.elapsed().as_secs_f64());
    println!("{}", stats(out)?);
    if let Some(query) = rest.get(1) {
        for fate in why(out, query)? {
            println!("{fate}");
        }
    }
    Ok(())
}

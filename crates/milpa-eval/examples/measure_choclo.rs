//! Builds the benchmark from a dump and says how fast and in how much memory.
//!
//! `cargo run --release -p milpa-eval --example measure_choclo -- DUMP OUT [threads] [date]`
//! The extrapolation takes the share of named and of regional entities as they are in this dump.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use milpa_base::{Seed, Silent, StopFlag};
use milpa_eval::choclo::{BuildWatch, ChocloConfig, build_choclo};

/// Entities of the real dump.
const REAL_ENTITIES: f64 = 100e6;

#[expect(clippy::print_stdout, reason = "a measurement is printed")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dump = PathBuf::from(arguments.next().ok_or("give a dump and a folder")?);
    let out = PathBuf::from(arguments.next().ok_or("give a folder")?);
    let mut config = ChocloConfig::new(&dump);
    config.threads = arguments.next().map_or(Ok(2), |text| text.parse())?;
    config.dump_date = Some(arguments.next().unwrap_or_else(|| "2026-11-20".to_owned()));
    config.seed = Seed(0);
    let watch = BuildWatch { progress: &Silent, stop: &StopFlag::default() };
    let begin = Instant::now();
    let report = build_choclo(&config, &out, watch)?;
    let seconds = begin.elapsed().as_secs_f64();
    println!("{report}\n");
    let bytes = report.dump.bytes as f64;
    let lines = report.dump.lines as f64;
    println!(
        "{:.1} MB of {:.0} bytes per entity in {seconds:.2} s: {:.1} MB/s, {:.0} entities/s, {} threads",
        bytes / 1e6,
        bytes / lines,
        bytes / 1e6 / seconds,
        lines / seconds,
        config.threads,
    );
    if let Some(peak) = peak_memory() {
        println!(
            "peak memory {:.1} MB: {:.0} bytes for each entity of the region",
            peak / 1e6,
            peak / report.entities as f64
        );
    }
    println!(
        "100 million entities of this kind: {:.1} h",
        REAL_ENTITIES / (lines / seconds) / 3600.0
    );
    Ok(())
}

/// Peak resident memory in bytes, where the system tells it.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

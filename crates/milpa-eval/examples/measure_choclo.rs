//! Builds the benchmark from a dump and says how fast and in how much memory.
//!
//! `cargo run --release -p milpa-eval --example measure_choclo -- DUMP OUT [threads] [date]`
//! The pass over the dump is extrapolated to the real one; the rest grows with the region's entities.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use milpa_base::{Progress, Seed, StopFlag};
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
    let stages = Stages::default();
    let watch = BuildWatch { progress: &stages, stop: &StopFlag::default() };
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
    for (stage, took) in stages.0.lock().expect("nobody panics").iter() {
        println!("{stage}: {:.2} s", took.as_secs_f64());
    }
    if let Some(peak) = peak_memory() {
        println!(
            "peak memory {:.1} MB: {:.0} bytes for each entity of the region",
            peak / 1e6,
            peak / report.entities as f64
        );
    }
    // The pass reads every entity; what is written grows with the region's part of them.
    let reading = stages
        .0
        .lock()
        .expect("nobody panics")
        .first()
        .map_or(seconds, |stage| stage.1.as_secs_f64());
    println!(
        "the pass: {:.1} MB/s; 100 million entities of this size: {:.1} h",
        bytes / 1e6 / reading,
        REAL_ENTITIES / (lines / reading) / 3600.0
    );
    let trees = seconds_of_trees(&dump)?;
    println!("reading the lines into trees alone, one thread: {:.1} MB/s", bytes / 1e6 / trees);
    Ok(())
}

/// Notes when each stage began and how long it took.
#[derive(Default)]
struct Stages(Mutex<Vec<(String, Duration)>>, Mutex<Option<Instant>>);

impl Progress for Stages {
    fn begin(&self, task: &str, _: Option<u64>, _: &str) {
        self.0.lock().expect("nobody panics").push((task.to_owned(), Duration::ZERO));
        *self.1.lock().expect("nobody panics") = Some(Instant::now());
    }

    fn advance(&self, _: u64) {}

    fn end(&self) {
        let begin = self.1.lock().expect("nobody panics").take();
        let mut stages = self.0.lock().expect("nobody panics");
        if let (Some(begin), Some(stage)) = (begin, stages.last_mut()) {
            stage.1 = begin.elapsed();
        }
    }

    fn line(&self, _: &str) {}
}

/// Seconds for reading each line into a `serde_json::Value` and dropping it, on one thread.
fn seconds_of_trees(dump: &Path) -> Result<f64, Box<dyn std::error::Error>> {
    let mut reader = milpa_base::lines::LineReader::open(dump, 32 << 20)?;
    let mut seconds = 0.0;
    while let Some(line) = reader.next_line()? {
        let milpa_base::lines::Line::Whole(line) = line else { continue };
        let line = line.trim_ascii().strip_suffix(b",").unwrap_or(line);
        let begin = Instant::now();
        let tree: Result<serde_json::Value, _> = serde_json::from_slice(line);
        drop(std::hint::black_box(tree));
        seconds += begin.elapsed().as_secs_f64();
    }
    Ok(seconds)
}

/// Peak resident memory in bytes, where the system tells it.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

//! Reads archives and prints what stands in them and how fast, on one core.
//!
//! `cargo run --release -p milpa-corpus --example read_archives -- [--repeat N] [--json] FILE...` with
//! WARC, WET or ARC files; `--repeat` reads each N times over, for files that are small; `--json`
//! prints totals as `cargo xtask bench corpus` reads them.

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{collections::BTreeMap, error::Error, fs::File, time::Instant};

use milpa_corpus::reader::{Body, Input, Item, Reader, WarcReader, http};

/// Largest record that is read.
const MAX_RECORD: u64 = 16 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut repeat = 1;
    if let Some(at) = arguments.iter().position(|argument| argument == "--repeat") {
        arguments.remove(at);
        repeat = arguments.remove(at).parse()?;
    }
    let json = arguments.iter().position(|a| a == "--json").map(|at| arguments.remove(at));
    let (mut on_disk, mut content, mut records, mut seconds) = (0u64, 0u64, 0u64, 0.0);
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for file in &arguments {
        for _ in 0..repeat {
            let start = Instant::now();
            let source = File::open(file)?;
            on_disk += source.metadata()?.len();
            let mut reader = WarcReader::new(Input::new(Box::new(source))?, MAX_RECORD);
            while let Some(item) = reader.next_item()? {
                records += 1;
                let kind = match item {
                    Item::Record(record) => {
                        content += record.body.bytes().len() as u64;
                        match &record.body {
                            Body::Http(bytes) => match http::parse(bytes, MAX_RECORD) {
                                Ok(response) => format!("http {}", response.mime),
                                Err((reason, _)) => format!("[{reason}]"),
                            },
                            _ => "document".to_owned(),
                        }
                    }
                    Item::Problem(problem) => format!("[{}]", problem.reason),
                    Item::Skipped(kind) => format!("({kind})"),
                };
                *kinds.entry(kind).or_default() += 1;
            }
            seconds += start.elapsed().as_secs_f64();
        }
    }
    if json.is_some() {
        let http = kinds.iter().filter(|(kind, _)| kind.starts_with("http ")).map(|(_, n)| n);
        let totals = serde_json::json!({
            "documents": records, "bytes": on_disk, "kept": http.sum::<u64>(), "seconds": seconds,
        });
        println!("{totals}");
        return Ok(());
    }
    for (kind, count) in &kinds {
        println!("{count:9} {kind}");
    }
    println!(
        "{records} records, {:.0} per second; {:.1} MB on disk and {:.1} MB of records, {:.1} and \
         {:.1} MB/s on one core",
        records as f64 / seconds,
        on_disk as f64 / 1e6,
        content as f64 / 1e6,
        on_disk as f64 / 1e6 / seconds,
        content as f64 / 1e6 / seconds,
    );
    Ok(())
}

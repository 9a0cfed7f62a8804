//! Holds addresses against block lists, to be compared with datatrove and timed beside it.
//!
//! `block_addresses FILE decisions|time`
//!
//! FILE is JSONL with `url`; the lists are FILE.domains, FILE.urls and FILE.words. `decisions` prints
//! for each address the kind of entry that blocks it, the entry and its list; `time` prints addresses,
//! bytes, those kept and seconds, and the entries of the lists, their bytes in memory and the seconds
//! that reading them took. `reference/addresses_check.py` is the other side.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::{
    io::{BufRead, BufReader},
    time::Instant,
};

use milpa_corpus::filter::UrlBlocklist;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, action] = &arguments[..] else {
        return Err("block_addresses FILE decisions|time".into());
    };
    let mut urls = Vec::new();
    for line in BufReader::new(std::fs::File::open(file)?).lines() {
        let row: Value = serde_json::from_str(&line?)?;
        urls.push(row["url"].as_str().ok_or("a row lacks url")?.to_owned());
    }
    let begin = Instant::now();
    let mut lists = UrlBlocklist::default();
    for kind in ["domains", "urls", "words"] {
        lists.add_file(kind, format!("{file}.{kind}").as_ref())?;
    }
    let read = begin.elapsed().as_secs_f64();
    match action.as_str() {
        "decisions" => {
            for url in &urls {
                let found = lists.find(url);
                let row = found.map_or(json!({"kind": null}), |found| {
                    json!({
                        "kind": format!("{:?}", found.kind),
                        "entry": found.entry,
                        "list": found.list,
                    })
                });
                println!("{row}");
            }
        }
        "time" => {
            let begin = Instant::now();
            let kept = urls.iter().filter(|url| lists.find(url).is_none()).count();
            let seconds = begin.elapsed().as_secs_f64();
            let bytes: usize = urls.iter().map(String::len).sum();
            println!(
                "{}",
                json!({
                    "documents": urls.len(),
                    "bytes": bytes,
                    "kept": kept,
                    "seconds": seconds,
                    "entries": lists.entries(),
                    "list_bytes": lists.bytes(),
                    "read_seconds": read,
                })
            );
        }
        other => return Err(format!("there is no action {other:?}").into()),
    }
    Ok(())
}

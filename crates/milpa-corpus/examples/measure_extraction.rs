//! Measures main-text extraction: mean word F1 by page type and pages per second on one core.
//!
//! `cargo run --release -p milpa-corpus --example measure_extraction -- FILE.jsonl.zst...` with
//! rows of `html` and `ground_truth.main_content` or `ground_truth.articleBody`. `--worst` lists
//! the worst pages; `--json` prints totals as `cargo xtask bench corpus` reads them.

#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    path::Path,
    time::Instant,
};

use milpa_base::lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let worst = arguments.iter().position(|a| a == "--worst").map(|at| arguments.remove(at));
    let json = arguments.iter().position(|a| a == "--json").map(|at| arguments.remove(at));
    let (mut seconds, mut pages, mut bytes, mut kept) = (0.0, 0usize, 0usize, 0usize);
    for file in &arguments {
        let mut by_type: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut list = Vec::new();
        let mut reader = LineReader::open(Path::new(file), DEFAULT_MAX_LINE_BYTES)?;
        while let Some(Line::Whole(line)) = reader.next_line()? {
            let row: serde_json::Value = serde_json::from_slice(line)?;
            let truth = &row["ground_truth"];
            let gold = truth["main_content"].as_str().or(truth["articleBody"].as_str());
            let (Some(html), Some(gold)) = (row["html"].as_str(), gold) else { continue };
            let start = Instant::now();
            let text = milpa_corpus::extract::extract(html)?.text;
            seconds += start.elapsed().as_secs_f64();
            pages += 1;
            bytes += html.len();
            kept += usize::from(!text.is_empty());
            let (f1, precision, recall) = word_f1(&text, gold);
            let kind = row["page_type"].as_str().unwrap_or("article").to_owned();
            list.push((f1, precision, recall, kind.clone(), row["url"].to_string()));
            by_type.entry(kind).or_default().push(f1);
        }
        let all: Vec<f64> = by_type.values().flatten().copied().collect();
        if json.is_some() {
            continue;
        }
        println!("{file}: mean word F1 {:.4} of {} pages", mean(&all), all.len());
        for (kind, scores) in &by_type {
            println!("  {kind:14} {:.4} of {}", mean(scores), scores.len());
        }
        if worst.is_some() {
            list.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (f1, precision, recall, kind, url) in list.iter().take(40) {
                println!("    {f1:.2} P {precision:.2} R {recall:.2} {kind} {url}");
            }
        }
    }
    if json.is_some() {
        let totals = serde_json::json!({
            "documents": pages, "bytes": bytes, "kept": kept, "seconds": seconds,
        });
        println!("{totals}");
        return Ok(());
    }
    println!(
        "{pages} pages, {:.1} pages/s, {:.1} MB of HTML/s on one core",
        pages as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// F1, precision and recall over the multisets of words in lower case.
fn word_f1(found: &str, gold: &str) -> (f64, f64, f64) {
    let count = |text: &str| {
        let mut words: HashMap<String, usize> = HashMap::new();
        for word in text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
        {
            *words.entry(word.to_lowercase()).or_default() += 1;
        }
        words
    };
    let (found, gold) = (count(found), count(gold));
    let both: usize = gold.iter().map(|(w, n)| n.min(found.get(w).unwrap_or(&0))).sum();
    let (total, wanted) = (found.values().sum::<usize>(), gold.values().sum::<usize>());
    if total + wanted == 0 {
        return (1.0, 1.0, 1.0);
    }
    (
        2.0 * both as f64 / (total + wanted) as f64,
        both as f64 / total.max(1) as f64,
        both as f64 / wanted.max(1) as f64,
    )
}

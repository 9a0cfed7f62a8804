//! Writes the blocks of pages and what is measured of them, for `reference/extraction_train.py`.
//!
//! `cargo run --release -p milpa-corpus --example extraction_features -- OUT FILE.jsonl.zst...`
//! writes `OUT.jsonl` (a page per line: its type, its text as it should be, its blocks) and
//! `OUT.f32` (the rows of all blocks, little-endian).

use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use milpa_base::lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader};
use milpa_corpus::extract::{self, features};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, files @ ..] = &arguments[..] else { return Err("OUT FILE...".into()) };
    let mut pages = BufWriter::new(File::create(format!("{out}.jsonl"))?);
    let mut rows = BufWriter::new(File::create(format!("{out}.f32"))?);
    for file in files {
        let mut reader = LineReader::open(Path::new(file), DEFAULT_MAX_LINE_BYTES)?;
        while let Some(Line::Whole(line)) = reader.next_line()? {
            let row: serde_json::Value = serde_json::from_slice(line)?;
            let truth = &row["ground_truth"];
            let gold = truth["main_content"].as_str().or(truth["articleBody"].as_str());
            let (Some(html), Some(gold)) = (row["html"].as_str(), gold) else { continue };
            let page = extract::read(html)?;
            for number in features::measure(&page) {
                rows.write_all(&number.to_le_bytes())?;
            }
            let texts: Vec<&str> = page.blocks.iter().map(|block| block.text.as_str()).collect();
            let parents: Vec<usize> =
                page.blocks.iter().map(|block| page.elements[block.element].parent).collect();
            let line = serde_json::json!({
                "file": Path::new(file).file_name().map(|name| name.to_string_lossy()),
                "type": row["page_type"].as_str().unwrap_or("article"),
                "url": row["url"],
                "gold": gold,
                "features": features::FEATURES,
                "blocks": texts,
                "parents": parents,
            });
            writeln!(pages, "{line}")?;
        }
    }
    Ok(())
}

//! Runs deduplication and decontamination over documents, to be held against exact answers and
//! timed beside datatrove. All output is JSON, one object per line.
//!
//! `dedup_documents FILE time` computes a signature of each document (FILE is JSONL with `text`)
//! and prints documents, bytes and the mean seconds of a pass; `time-words` only cuts and hashes words.
//! `dedup_documents FILE bands [BANDS ROWS]` prints for each pair of documents that share a band
//! their numbers. `dedup_documents FILE members [THRESHOLD]` prints each document that has a copy,
//! with the kept one. `dedup_documents FILE repeats MIN_BYTES` prints what is repeated.
//! `dedup_documents FILE contaminated SETS WORDS SHARE` prints evaluation items found in documents,
//! SETS being TOML with `[[sets]]`.
//! `dedup_documents - scale GIGABYTES MEMORY_MIB FOLDER [THRESHOLD]` deduplicates a corpus that is
//! made on the fly and never stored, a tenth of which are near copies, and prints the time and the
//! largest memory of the process.
//! `reference/dedup_check.py` is the other side.

#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use milpa_base::{
    Bytes, Seed,
    lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader},
};
use milpa_corpus::{
    decontaminate::{DecontaminationConfig, Decontaminator},
    dedup::{
        CopyKind, DuplicateSettings, Duplicates, NearSettings, RepeatFinder, RepeatSettings, Scope,
        text_key,
    },
};
use milpa_text::{
    Banding, MinHashConfig, MinHasher, Signature, ngram_index::NgramConfig, word_hashes,
};
use serde_json::{Value, json};

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["-", "scale", gigabytes, memory, folder] => {
            scale(gigabytes.parse()?, memory.parse()?, Path::new(folder), None)
        }
        ["-", "scale", gigabytes, memory, folder, least] => {
            scale(gigabytes.parse()?, memory.parse()?, Path::new(folder), Some(least.parse()?))
        }
        [file, "time"] => {
            time(&read(file)?, &MinHasher::default());
            Ok(())
        }
        [file, "time-words"] => {
            time_words(&read(file)?);
            Ok(())
        }
        [file, "bands"] => bands(&read(file)?, Banding::default()),
        [file, "bands", bands_, rows] => {
            bands(&read(file)?, Banding { bands: bands_.parse()?, rows: rows.parse()? })
        }
        [file, "members"] => members(&read(file)?, None),
        [file, "members", least] => members(&read(file)?, Some(least.parse()?)),
        [file, "repeats", min_bytes] => repeats(&read(file)?, min_bytes.parse()?),
        [file, "contaminated", sets, words, share] => {
            let ngrams = NgramConfig { words: words.parse()?, share: share.parse()? };
            contaminated(&read(file)?, Path::new(sets), ngrams)
        }
        _ => Err("see the beginning of dedup_documents.rs for the arguments".into()),
    }
}

/// The texts of a JSONL file.
fn read(file: &str) -> Result<Vec<String>, AnyError> {
    let mut lines = LineReader::open(Path::new(file), DEFAULT_MAX_LINE_BYTES)?;
    let mut out = Vec::new();
    while let Some(line) = lines.next_line()? {
        let Line::Whole(line) = line else { return Err("a line is too long".into()) };
        let row: Value = serde_json::from_slice(line)?;
        out.push(row["text"].as_str().ok_or("a row has no text")?.to_owned());
    }
    Ok(out)
}

fn size(texts: &[String]) -> usize {
    texts.iter().map(String::len).sum()
}

fn time(texts: &[String], hasher: &MinHasher) {
    report_time(texts, |text| hasher.signature(text).is_some());
}

fn time_words(texts: &[String]) {
    report_time(texts, |text| word_hashes(text).fold(0u64, |sum, word| sum ^ word.hash) != 0);
}

/// Runs over all texts for a second at least, and prints the mean time of a pass: one pass takes
/// so little that anything else on the machine would count for more.
fn report_time(texts: &[String], run: impl Fn(&str) -> bool) {
    let (mut passes, mut kept) = (0u32, 0);
    let begin = Instant::now();
    while passes == 0 || begin.elapsed() < Duration::from_secs(1) {
        kept = texts.iter().filter(|text| run(text)).count();
        passes += 1;
    }
    let (bytes, seconds) = (size(texts), begin.elapsed().as_secs_f64() / f64::from(passes));
    let rate = bytes as f64 / seconds / 1e6;
    println!(
        "{}",
        json!({"documents": texts.len(), "bytes": bytes, "kept": kept, "seconds": seconds,
               "passes": passes, "megabytes_per_second": rate})
    );
}

fn bands(texts: &[String], banding: Banding) -> Result<(), AnyError> {
    let hasher = MinHasher::new(MinHashConfig { banding, ..MinHashConfig::default() })?;
    let mut buckets: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (number, text) in texts.iter().enumerate() {
        for key in hasher.signature(text).iter().flat_map(Signature::band_keys) {
            buckets.entry(key).or_default().push(number);
        }
    }
    let mut pairs = BTreeSet::new();
    for bucket in buckets.values() {
        for (at, &one) in bucket.iter().enumerate() {
            pairs.extend(bucket[at + 1..].iter().map(|&other| (one, other)));
        }
    }
    for (one, other) in pairs {
        println!("[{one},{other}]");
    }
    Ok(())
}

fn members(texts: &[String], verify: Option<f64>) -> Result<(), AnyError> {
    let near = Some(NearSettings { verify });
    let settings = DuplicateSettings { exact: true, near, memory: Bytes(256 << 20) };
    let mut duplicates = Duplicates::new(&std::env::temp_dir(), settings)?;
    let hasher = MinHasher::default();
    for (number, text) in texts.iter().enumerate() {
        let signature = hasher.signature(text);
        duplicates.add(number as u64, Scope::GLOBAL, text_key(text), signature.as_ref())?;
    }
    for member in duplicates.find()? {
        let member = member?;
        println!(
            "{}",
            json!({"document": member.ordinal, "kept": member.kept,
                   "cluster_size": member.cluster_size,
                   "exact": member.kind == CopyKind::Exact, "similarity": member.similarity})
        );
    }
    Ok(())
}

fn repeats(texts: &[String], min_bytes: u32) -> Result<(), AnyError> {
    let begin = Instant::now();
    let settings = RepeatSettings { min_bytes, memory: Bytes(256 << 20) };
    let mut finder = RepeatFinder::new(&std::env::temp_dir(), settings)?;
    for (number, text) in texts.iter().enumerate() {
        finder.add(number as u64, text)?;
    }
    let mut cut = 0;
    for found in finder.find()? {
        let found = found?;
        cut += found.ranges.iter().map(ExactSizeIterator::len).sum::<usize>();
        let ranges: Vec<_> = found.ranges.iter().map(|range| [range.start, range.end]).collect();
        println!("{}", json!({"document": found.ordinal, "ranges": ranges}));
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"documents": texts.len(), "bytes": size(texts), "cut": cut, "seconds": seconds})
    );
    Ok(())
}

fn contaminated(texts: &[String], sets: &Path, ngrams: NgramConfig) -> Result<(), AnyError> {
    let written = milpa_base::load_toml::<DecontaminationConfig>(sets)?;
    let decontaminator = Decontaminator::load(&DecontaminationConfig { ngrams, ..written })?;
    let begin = Instant::now();
    let mut kept = 0;
    for (number, text) in texts.iter().enumerate() {
        let found = decontaminator.check(text);
        kept += usize::from(found.is_empty());
        for found in found {
            println!(
                "{}",
                json!({"document": number, "passage": found.passage, "share": found.share(),
                       "detail": found.detail()})
            );
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"documents": texts.len(), "bytes": size(texts), "kept": kept, "seconds": seconds,
               "passages": decontaminator.passages(), "too_short": decontaminator.too_short()})
    );
    Ok(())
}

/// Words of a document of the made-up corpus.
const WORDS: u64 = 500;
/// One document in so many is a near copy of another.
const COPIES: u64 = 10;
/// Words of a copy that are replaced; they spoil five shingles each.
const EDITS: u64 = 3;

fn scale(gigabytes: f64, memory: u64, folder: &Path, verify: Option<f64>) -> Result<(), AnyError> {
    let target = (gigabytes * 1e9) as u64;
    let near = Some(NearSettings { verify });
    let settings = DuplicateSettings { exact: true, near, memory: Bytes(memory << 20) };
    let mut duplicates = Duplicates::new(folder, settings)?;
    let hasher = MinHasher::default();
    let (mut bytes, mut number, mut planted) = (0u64, 0u64, 0u64);
    let mut text = String::new();
    let begin = Instant::now();
    while bytes < target {
        let original = original_of(number);
        planted += u64::from(original != number);
        write_document(&mut text, original, number);
        bytes += text.len() as u64;
        let signature = hasher.signature(&text);
        duplicates.add(number, Scope::GLOBAL, text_key(&text), signature.as_ref())?;
        number += 1;
    }
    let (added, peak_added) = (begin.elapsed().as_secs_f64(), peak_memory());
    let (mut found, mut wrong) = (0u64, 0u64);
    for member in duplicates.find()? {
        let member = member?;
        if !member.is_kept() {
            let right = member.kept == original_of(member.ordinal);
            found += u64::from(right);
            wrong += u64::from(!right);
        }
    }
    println!(
        "{}",
        json!({"documents": number, "bytes": bytes, "memory_mib": memory,
               "planted": planted, "found": found, "wrong": wrong,
               "seconds_adding": added, "seconds": begin.elapsed().as_secs_f64(),
               "peak_mib_adding": peak_added, "peak_mib": peak_memory()})
    );
    Ok(())
}

/// Of which document `number` is a near copy: one anywhere before it, or itself.
fn original_of(number: u64) -> u64 {
    if number % COPIES == COPIES - 1 {
        Seed(8).u64_at(number) % number / COPIES * COPIES
    } else {
        number
    }
}

/// Writes made-up words by a stream of numbers; in a copy some of them are replaced.
fn write_document(text: &mut String, original: u64, number: u64) {
    const SYLLABLES: [&str; 16] = [
        "ca", "ro", "li", "me", "tu", "sa", "ño", "pe", "di", "ga", "lo", "vi", "na", "que", "tar",
        "són",
    ];
    text.clear();
    let stream = Seed(original);
    let edits = if original == number { 0 } else { EDITS };
    let replaced: Vec<u64> = (0..edits).map(|edit| Seed(number).u64_at(edit) % WORDS).collect();
    for at in 0..WORDS {
        let word = if replaced.contains(&at) { Seed(number).u64_at(at) } else { stream.u64_at(at) };
        for syllable in 0..=(word >> 60) % 4 {
            text.push_str(SYLLABLES[(word >> (4 * syllable)) as usize % 16]);
        }
        text.push(' ');
    }
    let _ = write!(text, "{original}");
}

/// The most memory that the process has had, in MiB, where the system says it.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kib / 1024.0 * 10.0).round() / 10.0)
}

//! Throws broken inputs at a reader: seeds are mutated in this process, time after time.
//!
//! `cargo xtask fuzz TARGET --minutes N` builds and runs it; TARGET is warc, arc, html, charset or
//! pdf. Mutations come from a seeded generator. An input joins the seeds when what the reader made
//! of it has a shape that was not seen before (kinds of items, reasons, sizes by powers of two):
//! the guidance that needs no instrumented build. An input that panics, breaks a promise of the
//! reader or takes longer than ten seconds is saved, with the command that repeats it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command for people")]

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    error::Error,
    fs,
    hash::{Hash, Hasher},
    io::Cursor,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use milpa_base::{
    Seed,
    lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader},
};
use milpa_corpus::{
    charset, extract,
    reader::{Body, Input, Item, Reader, WarcReader, http, pdf},
};

/// Longest input; longer seeds are cut.
const MAX_INPUT: usize = 128 << 10;
/// Pages of a set that become seeds, and bytes of each.
const PAGES_PER_SET: usize = 40;
const PAGE_BYTES: usize = 32 << 10;
/// Largest record that the readers may return.
const MAX_RECORD: u64 = 64 << 10;
/// An input that takes longer is a failure.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Most resident memory of the whole process; more is a failure.
const MAX_RESIDENT_KIB: u64 = 2 << 20;
/// Bytes of inputs that are kept for further mutation.
const MAX_KEPT_BYTES: usize = 128 << 20;

/// Runs one input; returns its shape.
type Target = fn(&[u8]) -> u64;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let target = target(&options.target)?;
    if let Some(path) = &options.replay {
        println!("shape {:x}", target(&fs::read(path)?));
        return Ok(());
    }
    fs::create_dir_all(&options.out)?;
    let mut seeds = built_in_seeds(&options.target);
    read_seeds(&options.seeds, &mut seeds)?;
    println!("{}: {} seeds, generator {}", options.target, seeds.len(), options.seed);
    panic::set_hook(Box::new(|_| {}));
    let ended = fuzz(&options, target, seeds)?;
    println!("{ended}");
    if ended.failed { Err("a failing input was saved".into()) } else { Ok(()) }
}

struct Options {
    target: String,
    minutes: f64,
    seed: u64,
    seeds: Vec<PathBuf>,
    out: PathBuf,
    replay: Option<PathBuf>,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut arguments = std::env::args().skip(1);
        let mut options = Self {
            target: arguments.next().ok_or("a target: warc, arc, html, charset or pdf")?,
            minutes: 1.0,
            seed: 1,
            seeds: Vec::new(),
            out: "target/fuzz".into(),
            replay: None,
        };
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--minutes" => options.minutes = value.parse()?,
                "--seed" => options.seed = value.parse()?,
                "--seeds" => options.seeds.push(value.into()),
                "--out" => options.out = value.into(),
                "--replay" => options.replay = Some(value.into()),
                _ => return Err(format!("unknown flag {flag}").into()),
            }
        }
        Ok(options)
    }
}

/// What a run came to.
struct Ended {
    executions: u64,
    seconds: f64,
    kept: usize,
    shapes: usize,
    slowest: (Duration, usize),
    resident_kib: u64,
    failed: bool,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} executions in {:.0} s, {:.0} per second; {} shapes, {} inputs kept; slowest \
             {:.1} ms for {} bytes; at most {} MiB resident; {}",
            self.executions,
            self.seconds,
            self.executions as f64 / self.seconds,
            self.shapes,
            self.kept,
            self.slowest.0.as_secs_f64() * 1e3,
            self.slowest.1,
            self.resident_kib >> 10,
            if self.failed { "FAILED" } else { "no failure" },
        )
    }
}

fn fuzz(
    options: &Options,
    target: Target,
    mut kept: Vec<Vec<u8>>,
) -> Result<Ended, Box<dyn Error>> {
    let mut random = Random { seed: Seed(options.seed), drawn: 0 };
    let start = Instant::now();
    let end = Duration::from_secs_f64(options.minutes * 60.0);
    let mut shapes = HashSet::new();
    let (mut executions, mut slowest, mut failed) = (0u64, (Duration::ZERO, 0), false);
    // The process may die where nothing can be caught: its last input lies here then.
    let current = options.out.join(format!("{}-current", options.target));
    let seeds = kept.len();
    let mut kept_bytes: usize = kept.iter().map(Vec::len).sum();
    while start.elapsed() < end {
        let input = if executions < seeds as u64 {
            kept[executions as usize].clone()
        } else {
            mutate(&kept, &mut random)
        };
        fs::write(&current, &input)?;
        let began = Instant::now();
        let shape = panic::catch_unwind(AssertUnwindSafe(|| target(&input)));
        let took = began.elapsed();
        executions += 1;
        if took > slowest.0 {
            slowest = (took, input.len());
        }
        let too_large = executions.is_multiple_of(64) && resident_kib() > MAX_RESIDENT_KIB;
        if shape.is_err() || took > MAX_TIME || too_large {
            let name = format!("{}-{}-{executions}", options.target, options.seed);
            let path = options.out.join(name);
            fs::write(&path, &input)?;
            let kind = if shape.is_err() { "panic" } else { "budget" };
            println!(
                "{kind}: repeat with `cargo run -p milpa-corpus --example fuzz -- {} \
                 --replay {}`",
                options.target,
                path.display()
            );
            failed = true;
            break;
        }
        if let Ok(shape) = shape
            && shapes.insert(shape)
            && executions > seeds as u64
            && kept_bytes + input.len() <= MAX_KEPT_BYTES
        {
            kept_bytes += input.len();
            kept.push(input);
        }
    }
    fs::remove_file(&current)?;
    Ok(Ended {
        executions,
        seconds: start.elapsed().as_secs_f64(),
        kept: kept.len(),
        shapes: shapes.len(),
        slowest,
        resident_kib: resident_kib(),
        failed,
    })
}

/// Peak resident memory so far, in KiB; 0 where the system does not tell.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

fn target(name: &str) -> Result<Target, String> {
    Ok(match name {
        "warc" | "arc" => archive,
        "html" => html,
        "charset" => text,
        "pdf" => document,
        _ => return Err(format!("no target {name:?}: warc, arc, html, charset or pdf")),
    })
}

/// Archives: reading ends, offsets do not go back, records keep to their bound.
fn archive(bytes: &[u8]) -> u64 {
    let input = Input::new(Box::new(Cursor::new(bytes.to_vec()))).expect("memory can be read");
    let mut reader = WarcReader::new(input, MAX_RECORD);
    let mut shape = DefaultHasher::new();
    let (mut items, mut last) = (0, 0);
    while let Some(item) = reader.next_item().expect("memory can be read") {
        items += 1;
        assert!(items <= bytes.len() * 1100 + 16, "more items than a stream of this size has");
        match item {
            Item::Record(record) => {
                assert!(record.offset >= last, "offsets go back");
                last = record.offset;
                assert!(
                    record.body.bytes().len() as u64 <= MAX_RECORD,
                    "a record beyond its bound"
                );
                if let Body::Http(bytes) = &record.body {
                    match http::parse(bytes, MAX_RECORD) {
                        Ok(response) => {
                            assert!(response.body.len() as u64 <= MAX_RECORD);
                            (response.status / 100, response.charset.is_some()).hash(&mut shape);
                        }
                        Err((reason, _)) => reason.hash(&mut shape),
                    }
                }
                std::mem::discriminant(&record.body).hash(&mut shape);
            }
            Item::Problem(problem) => {
                (problem.reason, problem.url.is_some()).hash(&mut shape);
                problem.detail.chars().filter(|c| c.is_alphabetic()).take(40).for_each(|c| {
                    c.hash(&mut shape);
                });
            }
            Item::Skipped(kind) => kind.hash(&mut shape),
        }
    }
    shape.finish()
}

/// Pages: extraction ends and adds no text of its own.
fn html(bytes: &[u8]) -> u64 {
    let page = String::from_utf8_lossy(bytes);
    let mut shape = DefaultHasher::new();
    match extract::extract(&page) {
        Ok(extracted) => {
            assert!(extracted.text.len() <= 16 * page.len() + 64, "more text than the page has");
            let lines = extracted.text.lines().count();
            (size_class(extracted.text.len()), size_class(lines)).hash(&mut shape);
            for mark in ["# ", "- ", "1. ", "| ", "```"] {
                extracted.text.contains(mark).hash(&mut shape);
            }
            size_class(extracted.title.len()).hash(&mut shape);
        }
        Err(error) => error.to_string().hash(&mut shape),
    }
    shape.finish()
}

/// Charsets: decoding ends, and repairing is done after it.
fn text(bytes: &[u8]) -> u64 {
    const DECLARED: [Option<&str>; 6] =
        [None, Some("utf-8"), Some("iso-8859-1"), Some("utf-16"), Some("gb18030"), Some("x")];
    let mut shape = DefaultHasher::new();
    for declared in DECLARED {
        let url = Some("http://www.gob.pe/x");
        let decoded = charset::decode(bytes, declared, declared.is_none(), url);
        assert!(decoded.text.len() <= 3 * bytes.len() + 16, "more text than bytes");
        (decoded.encoding, decoded.refuted).hash(&mut shape);
        let repaired = charset::repair(&decoded.text);
        assert!(repaired.len() <= decoded.text.len(), "repair adds bytes");
        (repaired.len() < decoded.text.len()).hash(&mut shape);
    }
    shape.finish()
}

/// PDF: reading ends in a text or a reason.
fn document(bytes: &[u8]) -> u64 {
    let mut shape = DefaultHasher::new();
    match pdf::text(bytes, 16 << 20) {
        Ok(text) => (size_class(text.len()), text.matches('\n').count()).hash(&mut shape),
        Err((reason, detail)) => {
            reason.hash(&mut shape);
            detail.chars().filter(|c| c.is_alphabetic()).take(60).for_each(|c| c.hash(&mut shape));
        }
    }
    shape.finish()
}

fn size_class(size: usize) -> u32 {
    size.checked_ilog2().map_or(0, |log| log + 1)
}

/// One to eight changes to one of the inputs.
fn mutate(kept: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    // Half of the time one of the latest: they showed something new.
    let from = if random.below(2) == 0 { kept.len().saturating_sub(64) } else { 0 };
    let mut input = kept[from + below(random, kept.len() - from)].clone();
    for _ in 0..=random.below(8) {
        change(&mut input, kept, random);
    }
    input.truncate(MAX_INPUT);
    input
}

fn change(input: &mut Vec<u8>, kept: &[Vec<u8>], random: &mut Random) {
    let at = below(random, input.len() + 1);
    let most = 1 << below(random, 14);
    let length = below(random, (input.len() - at + 1).min(most));
    let range = at..at + length;
    match random.below(10) {
        0 if !range.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !range.is_empty() => input[at] = INTERESTING[below(random, INTERESTING.len())],
        2 => drop(input.drain(range)),
        3 => {
            let part = input[range].to_vec();
            insert(input, at, &part);
        }
        4 => {
            // What nests or repeats, nests and repeats a thousand times.
            let part = input[range].to_vec();
            let times = 1 << below(random, 13);
            let times = times.min(MAX_INPUT / part.len().max(1));
            insert(input, at, &part.repeat(times));
        }
        5 | 6 => insert(input, at, TOKENS[below(random, TOKENS.len())].as_bytes()),
        7 => {
            let other = &kept[below(random, kept.len())];
            let from = below(random, other.len() + 1);
            let count = below(random, (other.len() - from + 1).min(4096));
            insert(input, at, &other[from..from + count]);
        }
        8 => {
            let number = 1u64 << below(random, 64);
            insert(input, at, number.to_string().as_bytes());
        }
        _ => input.truncate(at.max(1)),
    }
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    if input.len() + part.len() <= 2 * MAX_INPUT {
        input.splice(at..at, part.iter().copied());
    }
}

/// Numbers of a seed, one after the other.
struct Random {
    seed: Seed,
    drawn: u64,
}

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        self.seed.u64_at(self.drawn) % bound.max(1)
    }
}

fn below(random: &mut Random, bound: usize) -> usize {
    random.below(bound.max(1) as u64) as usize
}

const INTERESTING: [u8; 16] =
    [0, 0xff, 0x80, 0x7f, b'\n', b'\r', b'<', b'>', b'"', b'&', 0xc3, 0xe2, 0x1f, 0x8b, b' ', b'0'];

const TOKENS: &[&str] = &[
    "WARC/1.0\r\n",
    "WARC/1.1\r\n",
    "\r\n\r\n",
    "Content-Length: ",
    "WARC-Type: response\r\n",
    "Content-Encoding: gzip\r\n",
    "Transfer-Encoding: chunked\r\n",
    "HTTP/1.1 200 OK\r\n",
    "http://a/ 1.2.3.4 20140216050221 text/html 12\n",
    "filedesc://x",
    "<div>",
    "</div>",
    "<p>",
    "<table><tr><td>",
    "<ul><li>",
    "<!--",
    "-->",
    "<script>",
    "</script>",
    "<a href=",
    "<pre>",
    "<![CDATA[",
    "&#x",
    "&amp",
    "<svg/>",
    "<textarea>",
    "<plaintext>",
    " class=\"",
    "style=\"",
    "<meta charset=",
    "<noscript>",
    "Ã³",
    "â€™",
    "\u{FEFF}",
    "g̃",
    "obj\n",
    "endobj\n",
    "<< ",
    ">> ",
    "stream\n",
    "endstream\n",
    "/Length ",
    "/Kids [",
    " 0 R",
    "BT",
    "ET",
    "Tj",
    "[(a)] TJ",
    "Do",
    "xref\n",
    "trailer\n",
    "startxref\n",
    "beginbfrange <00> <ffffffff> <0000>",
    "/Parent ",
];

fn read_seeds(paths: &[PathBuf], seeds: &mut Vec<Vec<u8>>) -> Result<(), Box<dyn Error>> {
    for path in paths {
        if path.is_dir() {
            let mut files: Vec<PathBuf> = fs::read_dir(path)?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<_, Box<dyn Error>>>()?;
            files.sort();
            read_seeds(&files, seeds)?;
        } else {
            push_seed(path, seeds)?;
        }
    }
    Ok(())
}

fn push_seed(path: &Path, seeds: &mut Vec<Vec<u8>>) -> Result<(), Box<dyn Error>> {
    if path.to_string_lossy().ends_with(".jsonl.zst") {
        return push_pages(path, seeds);
    }
    let mut bytes = fs::read(path)?;
    bytes.truncate(MAX_INPUT);
    seeds.push(bytes);
    Ok(())
}

/// Beginnings of some pages of a set.
fn push_pages(path: &Path, seeds: &mut Vec<Vec<u8>>) -> Result<(), Box<dyn Error>> {
    let mut reader = LineReader::open(path, DEFAULT_MAX_LINE_BYTES)?;
    for _ in 0..PAGES_PER_SET {
        let Some(Line::Whole(line)) = reader.next_line()? else { break };
        let row: serde_json::Value = serde_json::from_slice(line)?;
        let mut page = row["html"].as_str().unwrap_or_default().as_bytes().to_vec();
        page.truncate(PAGE_BYTES);
        seeds.push(page);
    }
    Ok(())
}

fn built_in_seeds(target: &str) -> Vec<Vec<u8>> {
    let page = "<html><head><title>La yuca</title><meta charset=utf-8></head><body><nav><a \
                href=/>Inicio</a></nav><main><h1>La yuca</h1><p>La yuca se siembra en las tierras \
                bajas y da harina, pan y una bebida que se toma en las fiestas.</p><ol><li>uno\
                <li>dos</ol><table><tr><th>a<th>b<tr><td>1<td>2</table><pre>x = 1</pre></main>\
                <footer>2026</footer></body></html>";
    let http = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nTransfer-Encoding: \
         chunked\r\n\r\n{:x}\r\n{page}\r\n0\r\n\r\n",
        page.len()
    );
    let warc = format!(
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/\r\nWARC-Date: \
         2026-01-01T00:00:00Z\r\nContent-Type: application/http\r\nContent-Length: {}\r\n\r\n{http}\
         \r\n\r\n",
        http.len()
    );
    let arc = format!(
        "filedesc://x.arc 0.0.0.0 20140216050221 text/plain 20\n1 0 LiveWeb Capture\n\n\
         http://a/ 1.2.3.4 20140216050221 text/html {}\n{http}\n",
        http.len()
    );
    let twice = |text: &str| [text, text].concat().into_bytes();
    match target {
        "warc" => {
            let mut member = zstd::encode_all(warc.as_bytes(), 1).unwrap_or_default();
            member.extend_from_within(..);
            vec![twice(&warc), member]
        }
        "arc" => vec![twice(&arc)],
        "pdf" => vec![pdf_seed()],
        _ => vec![
            page.as_bytes().to_vec(),
            "El niÃ±o pidiÃ³ mÃ¡s atenciÃ³n â€” Â«sÃ\u{ad}Â»".as_bytes().to_vec(),
            b"<meta charset=latin1>La educaci\xf3n p\xfablica".to_vec(),
        ],
    }
}

/// A document of one page with its table of places, without which nothing of it would be read.
fn pdf_seed() -> Vec<u8> {
    let content = "BT /F 10 Tf 50 700 Td (La yuca es una) Tj 0 -12 Td [(ra) -400 (\\315z)] TJ ET";
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Count 1 /Kids [3 0 R] >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding << /Differences [1 /fi] >> >>"
            .to_owned(),
    ];
    let (mut out, mut table) = (b"%PDF-1.4\n".to_vec(), "0000000000 65535 f \n".to_owned());
    for (at, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", out.len()));
        out.extend(format!("{} 0 obj\n{object}\nendobj\n", at + 1).bytes());
    }
    let start = out.len();
    let size = objects.len() + 1;
    let end = format!(
        "xref\n0 {size}\n{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    );
    out.extend(end.bytes());
    out
}

//! Documents of 1 GB, and streams that inflate to far more than they are: each is counted with its reason,
//! what stands beside it is kept, and memory stays bounded.
//!
//! The memory is the most that the system ever counted for the process (`VmHWM`), so this needs Linux.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use crate::{
    bench::{heading, record},
    cargo, root,
};

/// Bytes of a large document, and what a bomb inflates to.
const GIANT: u64 = 1_000_000_000;
const BOMB: u64 = 3 * GIANT;
/// What a run may take beyond one of small documents alone: two threads hold a document of
/// `max_document` (16 MiB) each, as bytes, as text and as blocks, and others wait.
const MOST_MIB: u64 = 400;

/// Writes one file, given where to.
type Make = fn(&mut dyn Write) -> io::Result<()>;

/// Name of the file, how it is made, and the reasons that must be counted.
type Case = (&'static str, Make, &'static [(&'static str, u64)]);

const CASES: &[Case] = &[
    ("small.jsonl", |out| rows(out, 0), &[]),
    ("line.jsonl", |out| rows(out, GIANT), &[("too_large", 1)]),
    ("line.jsonl.gz", |out| gzip(out, |out| rows(out, GIANT)), &[("too_large", 1)]),
    ("line.jsonl.zst", |out| zstd(out, |out| rows(out, GIANT)), &[("too_large", 1)]),
    ("endless.jsonl.gz", |out| gzip(out, |out| fill(out, b"[", BOMB)), &[("too_large", 1)]),
    ("page.html", |out| page(out, GIANT), &[("too_large", 1)]),
    ("page.html.gz", |out| gzip(out, |out| page(out, GIANT)), &[("too_large", 1)]),
    ("text.txt", |out| fill(out, PROSE, GIANT), &[("too_large", 1)]),
    ("bomb.txt.gz", |out| gzip(out, |out| fill(out, &[0; 64], BOMB)), &[("too_large", 1)]),
    ("bomb.txt.zst", |out| zstd(out, |out| fill(out, &[0; 64], BOMB)), &[("too_large", 1)]),
    ("record.warc", |out| archive(out, GIANT, identity), &[("too_large", 1)]),
    ("record.warc.gz", |out| archive(out, GIANT, gzip_bytes), &[("too_large", 1)]),
    ("body.warc", bomb_in_body, &[("too_large", 1)]),
    ("document.pdf", pdf_bomb, &[("too_large", 1)]),
];

const PROSE: &[u8] =
    b"<p>El r\xc3\xado baja crecido desde la sierra y arrastra ramas y piedras; en el \
    pueblo nadie se asusta, porque cada enero ocurre lo mismo.</p>\n";

/// Runs all cases.
pub(crate) fn giants() -> Result<()> {
    cargo(&["build", "--quiet", "--release", "-p", "milpa"])?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("giants");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let (date, mut text) = heading()?;
    let mut say = |line: &str| {
        println!("{line}");
        text.push_str(line);
        text.push('\n');
    };
    say("documents of 1 GB beside small ones, two threads, max_document 16 MiB");
    say("file              on disk, MB  most memory, MiB  train  dropped");
    let mut small = None;
    for &(name, make, reasons) in CASES {
        let bytes = write(&folder, name, make)?;
        let (memory, stats) = build(&target.join("release/milpa"), &folder)
            .with_context(|| format!("{name} cannot be built"))?;
        let source = &stats["sources"]["giant"];
        let dropped: BTreeMap<String, u64> = serde_json::from_value(source["dropped"].clone())?;
        let kept = source["train"]["documents"].as_u64().unwrap_or(0);
        let mib = memory >> 20;
        say(&format!("{name:16}  {:11.1}  {mib:16}  {kept:5}  {dropped:?}", bytes as f64 / 1e6));
        let expect = reasons.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect();
        ensure!(dropped == expect, "{name}: {expect:?} was to be dropped");
        let base = *small.get_or_insert(memory);
        ensure!(memory <= base + (MOST_MIB << 20), "{name}: memory is not bounded");
        fs::remove_dir_all(folder.join("input"))?;
    }
    say(&format!("giants: all are counted, and none takes {MOST_MIB} MiB more than small ones"));
    record(&format!("giants-{date}.txt"), &text)
}

/// Makes the input and the recipe; bytes of the input.
fn write(folder: &Path, name: &str, make: Make) -> Result<u64> {
    let input = folder.join("input");
    fs::create_dir_all(&input)?;
    let path = input.join(name);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    make(&mut file)?;
    file.flush()?;
    fs::write(input.join("sound.txt"), sentence(7))?;
    let recipe = format!(
        "name = \"giants\"\nseed = 1\n[corpus.dedup.near]\nenabled = false\n\
         [[corpus.sources]]\nname = \"giant\"\npath = '{}'\nfilters = \"none\"\n",
        input.display()
    );
    fs::write(folder.join("recipe.toml"), recipe)?;
    Ok(fs::metadata(&path)?.len())
}

/// Builds the corpus; the most memory that it took, in bytes, and what it counted.
fn build(milpa: &Path, folder: &Path) -> Result<(u64, Value)> {
    let out = folder.join("corpus");
    let mut child = Command::new(milpa)
        .args(["corpus", "build"])
        .arg(folder.join("recipe.toml"))
        .arg("--out")
        .arg(&out)
        .args(["--threads", "2"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start milpa")?;
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let end = loop {
        most = most.max(fs::read_to_string(&status).ok().and_then(|text| peak(&text)).unwrap_or(0));
        match child.try_wait()? {
            Some(end) => break end,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    ensure!(end.success(), "milpa: {end}");
    Ok((most, serde_json::from_slice(&fs::read(out.join("stats.json"))?)?))
}

/// `VmHWM` in bytes.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn sentence(number: u64) -> String {
    format!("Año {number}: el río baja crecido desde la sierra y arrastra ramas y piedras.\n")
}

/// `pattern` again and again, to `bytes` and the rest of the last one.
fn fill(out: &mut dyn Write, pattern: &[u8], bytes: u64) -> io::Result<()> {
    let block = pattern.repeat((1 << 20) / pattern.len());
    let mut written = 0;
    while written < bytes {
        out.write_all(&block)?;
        written += block.len() as u64;
    }
    Ok(())
}

fn rows(out: &mut dyn Write, giant: u64) -> io::Result<()> {
    writeln!(out, "{{\"text\": {:?}}}", sentence(1))?;
    if giant > 0 {
        write!(out, "{{\"text\": \"")?;
        fill(out, b"El maiz, el frijol y la calabaza crecen juntos. ", giant)?;
        writeln!(out, "\"}}")?;
    }
    writeln!(out, "{{\"text\": {:?}}}", sentence(2))
}

fn page(out: &mut dyn Write, bytes: u64) -> io::Result<()> {
    write!(out, "<!doctype html><html><body><article>")?;
    fill(out, PROSE, bytes)?;
    write!(out, "</article></body></html>")
}

fn gzip(out: &mut dyn Write, inside: Make) -> io::Result<()> {
    let mut encoder = GzEncoder::new(out, Compression::fast());
    inside(&mut encoder)?;
    encoder.finish().map(drop)
}

fn zstd(out: &mut dyn Write, inside: Make) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(out, 1)?;
    inside(&mut encoder)?;
    encoder.finish().map(drop)
}

fn gzip_bytes(
    out: &mut dyn Write,
    inside: &dyn Fn(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut encoder = GzEncoder::new(out, Compression::fast());
    inside(&mut encoder)?;
    encoder.finish().map(drop)
}

fn identity(
    out: &mut dyn Write,
    inside: &dyn Fn(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    inside(out)
}

/// How a record is packed.
type Pack = fn(&mut dyn Write, &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()>;

/// Two small pages with one of `giant` bytes between them.
fn archive(out: &mut dyn Write, giant: u64, pack: Pack) -> io::Result<()> {
    for (number, bytes) in [(1, 0), (2, giant), (3, 0)] {
        pack(out, &|out| {
            // The length must be known first: the page is counted, then written.
            let mut counted = Counter(0);
            body(&mut counted, number, bytes)?;
            record_head(out, number, "text/html", "", counted.0)?;
            body(out, number, bytes)?;
            write!(out, "\r\n\r\n")
        })?;
    }
    Ok(())
}

fn body(out: &mut dyn Write, number: u64, bytes: u64) -> io::Result<()> {
    if bytes > 0 {
        return page(out, bytes);
    }
    let text = sentence(number);
    write!(out, "<html><body><article><p>{}</p></article></body></html>", text.repeat(5))
}

/// A small record whose body inflates to more than a giant.
fn bomb_in_body(out: &mut dyn Write) -> io::Result<()> {
    for number in [1, 2, 3] {
        let (mut content, mut coding) = (Vec::new(), "");
        if number == 2 {
            gzip(&mut content, |out| page(out, BOMB))?;
            coding = "Content-Encoding: gzip\r\n";
        } else {
            body(&mut content, number, 0)?;
        }
        record_head(out, number, "text/html", coding, content.len() as u64)?;
        out.write_all(&content)?;
        write!(out, "\r\n\r\n")?;
    }
    Ok(())
}

fn record_head(
    out: &mut dyn Write,
    number: u64,
    mime: &str,
    coding: &str,
    bytes: u64,
) -> io::Result<()> {
    let http = format!("HTTP/1.1 200 OK\r\nContent-Type: {mime}\r\n{coding}\r\n");
    write!(
        out,
        "WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: http://x.example/{number}\r\n\
         Content-Type: application/http\r\nContent-Length: {}\r\n\r\n{http}",
        http.len() as u64 + bytes
    )
}

/// A document of one page whose content inflates to a giant.
fn pdf_bomb(out: &mut dyn Write) -> io::Result<()> {
    let mut content = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
    fill(&mut content, b"BT /F1 12 Tf (El rio baja) Tj ET\n", GIANT)?;
    let content = content.finish()?;
    let mut file = b"%PDF-1.4\n".to_vec();
    let mut places = Vec::new();
    let mut object = |file: &mut Vec<u8>, text: &[u8]| {
        places.push(file.len());
        file.extend_from_slice(text);
        file.extend_from_slice(b"\nendobj\n");
    };
    object(&mut file, b"1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>");
    object(&mut file, b"2 0 obj\n<< /Type /Pages /Kids [3 0 R] /Count 1 >>");
    object(&mut file, b"3 0 obj\n<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>");
    let head = format!("4 0 obj\n<< /Length {} /Filter /FlateDecode >>\nstream\n", content.len());
    object(&mut file, &[head.as_bytes(), &content, b"\nendstream"].concat());
    let start = file.len();
    write!(file, "xref\n0 5\n0000000000 65535 f \n")?;
    for place in places {
        writeln!(file, "{place:010} 00000 n ")?;
    }
    write!(file, "trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n")?;
    out.write_all(&file)
}

/// Counts what is written.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

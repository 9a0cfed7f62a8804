//! Building corpora from good, broken and hostile sources, and reading them back.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::format_collect, reason = "tests")]

mod bad_input;
mod build;
mod dedup;
mod extraction;
mod filters;
mod formats;
mod real_data;
mod survival;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use milpa_base::{Seed, Silent, StopFlag, config::Location};
use milpa_corpus::{
    CorpusConfig, CorpusError, Document, Dropped, SourceConfig, Split, Stats, Work, build,
    read_dropped, shard::read_documents, stats,
};

/// A folder for sources and the corpora made from them.
struct Bench {
    root: tempfile::TempDir,
}

/// A corpus read back whole.
struct Corpus {
    dir: PathBuf,
    train: Vec<Document>,
    validation: Vec<Document>,
    dropped: Vec<Dropped>,
    stats: Stats,
}

impl Bench {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn try_build(&self, config: &CorpusConfig, threads: usize) -> Result<Corpus, CorpusError> {
        let dir = self.path("corpus");
        build(config, Seed(1), &work(threads, &dir, &StopFlag::default()))?;
        Ok(Corpus::read(dir))
    }

    fn build(&self, config: &CorpusConfig) -> Corpus {
        self.try_build(config, 2).unwrap()
    }

    /// Names of what lies in the folder, hidden files too.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Corpus {
    fn read(dir: PathBuf) -> Self {
        let documents =
            |split| read_documents(&dir, split).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        Self {
            train: documents(Split::Train),
            validation: documents(Split::Validation),
            dropped: read_dropped(&dir).unwrap().collect::<Result<_, _>>().unwrap(),
            stats: stats(&dir).unwrap(),
            dir,
        }
    }

    fn kept(&self) -> impl Iterator<Item = &Document> {
        self.train.iter().chain(&self.validation)
    }

    /// Reasons with the identity or address of what fell, sorted.
    fn reasons(&self) -> Vec<(String, String)> {
        let mut out: Vec<_> = self
            .dropped
            .iter()
            .map(|d| (d.reason.to_string(), d.url.clone().unwrap_or_else(|| d.id.clone())))
            .collect();
        out.sort();
        out
    }

    /// The counts add up, and each drop has its reason counted.
    fn assert_consistent(&self) {
        let dropped: u64 = self.stats.dropped().values().sum();
        assert_eq!(dropped, self.dropped.len() as u64);
        let kept = (self.train.len() + self.validation.len()) as u64;
        assert_eq!(self.stats.read(), kept + dropped, "{}", self.stats);
        let mut ids: Vec<&String> = self.kept().map(|document| &document.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len() as u64, kept, "identities are unique");
    }
}

fn work<'a>(threads: usize, out: &'a Path, stop: &'a StopFlag) -> Work<'a> {
    Work { threads, out, progress: &Silent, stop }
}

fn source(name: &str, path: &Path) -> SourceConfig {
    let text = format!("name = {name:?}\npath = \"x\"\n");
    let mut source: SourceConfig = milpa_base::parse_toml(&text, Path::new("t")).unwrap();
    source.path = Location::plain(path);
    source
}

fn config(sources: Vec<SourceConfig>) -> CorpusConfig {
    CorpusConfig { sources, ..CorpusConfig::default() }
}

/// A Spanish text of `sentences` sentences, different for each `seed`.
fn spanish(seed: u64, sentences: u64) -> String {
    const NOUNS: &str = "maestra pescador vecina viajero abuela panadero hermano partera arriero \
        niña alcalde tejedora puente laguna camino canción mercado semilla plaza maíz telar \
        cuaderno cosecha horno canoa lluvia fiesta invierno orilla cerro campana perro naranjo \
        barro ventana piedra sombrero guitarra bosque carta";
    const VERBS: &str = "cruzó describió pintó buscaba recordaba encontró vendió cuidaba miraba \
        dejó quería levantó perdió guardaba esperaba escuchó";
    let pick = |list: &'static str, i: u64, k: u64| {
        let list: Vec<&str> = list.split_whitespace().collect();
        list[(Seed(seed).derive("text").u64_at(8 * i + k) % list.len() as u64) as usize]
    };
    let mut out = String::new();
    for i in 0..sentences {
        let [a, b, c, d] = [0, 1, 2, 3].map(|k| pick(NOUNS, i, k));
        let [v, w] = [4, 5].map(|k| pick(VERBS, i, k));
        out.push_str(&format!("De {a} y de {b} se {v} que {c} no {w} para {d}."));
        out.push(if i % 5 == 4 { '\n' } else { ' ' });
    }
    out.trim_end().to_owned()
}

fn jsonl(rows: &[serde_json::Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut out, row).unwrap();
        out.push(b'\n');
    }
    out
}

fn html(text: &str) -> String {
    let paragraphs: String = text.lines().map(|line| format!("<p>{line}</p>\n")).collect();
    format!(
        "<!doctype html><html><head><title>t</title></head><body><nav><a href=/>Inicio</a></nav>\
         <article>{paragraphs}</article><footer>Todos los derechos reservados</footer></body></html>"
    )
}

fn warc_record(url: &str, page: &[u8]) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n";
    let mut out = format!(
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02\r\n\
         WARC-Record-ID: <urn:x:{url}>\r\nContent-Length: {}\r\n\r\n{head}",
        head.len() + page.len()
    )
    .into_bytes();
    out.extend(page);
    out.extend(b"\r\n\r\n");
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The folder of real data, if there is one.
fn data() -> Option<PathBuf> {
    let data = std::env::var_os("MILPA_DATA").map(PathBuf::from);
    if data.is_none() {
        eprintln!("skipped: MILPA_DATA is not set to the folder of the shared data");
    }
    data
}

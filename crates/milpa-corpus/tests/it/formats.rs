//! Formats beside WARC and JSONL: Parquet under each codec, folders of documents, PDF, encodings of
//! HTTP; each document keeps where it came from.

use std::{collections::BTreeMap, sync::Arc};

use milpa_corpus::config::Preset;
use parquet::{
    basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

use super::*;

const SCHEMA: &str = "message rows { required int64 number; required binary text (STRING); \
                      optional group meta { required binary url (STRING); } \
                      required binary unread (STRING); }";

/// A Parquet file of texts in row groups of three.
fn parquet_file(path: &Path, texts: &[String], codec: Compression) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(codec).build());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for (group, texts) in texts.chunks(3).enumerate() {
        let mut columns = writer.next_row_group().unwrap();
        let numbers: Vec<i64> = (0..texts.len()).map(|at| (3 * group + at) as i64).collect();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        let bytes = |get: &dyn Fn(usize) -> String| -> Vec<ByteArray> {
            (0..texts.len()).map(|at| ByteArray::from(get(at).into_bytes())).collect()
        };
        let url = |at: usize| format!("http://x.example/{}", numbers[at]);
        for (values, levels) in [
            (bytes(&|at| texts[at].clone()), None),
            (bytes(&url), Some(vec![1; texts.len()])),
            (bytes(&|_| "no".repeat(9)), None),
        ] {
            let mut column = columns.next_column().unwrap().unwrap();
            let typed = column.typed::<ByteArrayType>();
            typed.write_batch(&values, levels.as_deref(), None).unwrap();
            column.close().unwrap();
        }
        columns.close().unwrap();
    }
    writer.close().unwrap();
}

fn codecs() -> Vec<(&'static str, Compression)> {
    vec![
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("brotli", Compression::BROTLI(BrotliLevel::default())),
        ("lz4", Compression::LZ4_RAW),
    ]
}

fn parquet_source(bench: &Bench, name: &str) -> SourceConfig {
    let mut rows = source("rows", &bench.path(name));
    rows.filters = Preset::None;
    rows.url_field = Some("meta.url".to_owned());
    rows.id_field = Some("number".to_owned());
    rows
}

#[test]
fn parquet_is_read_under_each_codec() {
    let texts: Vec<String> = (0..8).map(|at| spanish(at, 12)).collect();
    for (name, codec) in codecs() {
        let bench = Bench::new();
        parquet_file(&bench.path("rows.parquet"), &texts, codec);
        let corpus = bench.build(&config(vec![parquet_source(&bench, "rows.parquet")]));
        corpus.assert_consistent();
        let found: BTreeMap<&str, &Document> =
            corpus.kept().map(|document| (document.id.as_str(), document)).collect();
        assert_eq!(found.len(), 8, "{name}: {}", corpus.stats);
        let last = found["7"];
        assert_eq!(last.text, milpa_text::normalise(&texts[7]), "{name}");
        assert_eq!(last.url.as_deref(), Some("http://x.example/7"));
        assert_eq!((last.origin.as_str(), last.origin_offset), ("rows.parquet", 7));
    }
}

#[test]
fn damaged_parquet_is_counted() {
    let texts: Vec<String> = (0..8).map(|at| spanish(at, 12)).collect();
    let bench = Bench::new();
    let path = bench.path("rows.parquet");
    parquet_file(&path, &texts, Compression::ZSTD(ZstdLevel::default()));
    let whole = fs::read(&path).unwrap();
    bench.write("sound.txt", spanish(999, 30).as_bytes());
    let mut cases = vec![whole[..whole.len() / 2].to_vec(), b"PAR1".to_vec(), Vec::new()];
    for at in (4..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x41;
        cases.push(damaged);
    }
    for bytes in cases {
        fs::write(&path, &bytes).unwrap();
        let sound = source("sound", &bench.path("sound.txt"));
        let corpus = bench.build(&config(vec![sound, parquet_source(&bench, "rows.parquet")]));
        corpus.assert_consistent();
        fs::remove_dir_all(&corpus.dir).unwrap();
    }
}

/// A PDF of one page in Helvetica.
fn pdf(lines: &[String]) -> Vec<u8> {
    let shown: String = lines
        .iter()
        .enumerate()
        .map(|(at, line)| {
            // Latin-1 characters as octal escapes of WinAnsi.
            let text: String = line
                .chars()
                .map(|c| if c.is_ascii() { c.to_string() } else { format!("\\{:03o}", c as u32) })
                .collect();
            format!("BT /F 10 Tf 1 0 0 1 50 {} Tm ({text}) Tj ET\n", 780 - 12 * at)
        })
        .collect();
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Count 1 /Kids [3 0 R] >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources << /Font \
         << /F 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{shown}\nendstream", shown.len()),
        format!(
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding \
             /FirstChar 32 /LastChar 255 /Widths [{}] >>",
            "500 ".repeat(224)
        ),
    ];
    let mut out = b"%PDF-1.4\n".to_vec();
    let mut table = "0000000000 65535 f \n".to_owned();
    for (at, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", out.len()));
        out.extend(format!("{} 0 obj\n{object}\nendobj\n", at + 1).bytes());
    }
    let end = out.len();
    out.extend(
        format!("xref\n0 6\n{table}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{end}\n%%EOF\n")
            .bytes(),
    );
    out
}

#[test]
fn a_folder_may_hold_documents_of_all_formats() {
    let bench = Bench::new();
    bench.write("docs/a.html", html(&spanish(1, 20)).as_bytes());
    bench.write(
        "docs/b.md",
        format!("---\ntitle: x\n---\n# Milpa\n\n{}", spanish(2, 20)).as_bytes(),
    );
    bench.write("docs/c.txt", spanish(3, 20).as_bytes());
    let lines: Vec<String> = spanish(4, 20)
        .lines()
        .flat_map(|line| line.split_inclusive(". ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    bench.write("docs/leyes/d.pdf", &pdf(&lines));
    bench.write("docs/leyes/e.pdf.gz", &gzip(b"%PDF-1.4 nothing"));
    let mut docs = source("docs", &bench.path("docs"));
    docs.filters = Preset::None;
    let corpus = bench.build(&config(vec![docs]));
    corpus.assert_consistent();
    let mut found: Vec<(&str, &Document)> =
        corpus.kept().map(|document| (document.origin.as_str(), document)).collect();
    found.sort_by_key(|(origin, _)| *origin);
    let origins: Vec<&str> = found.iter().map(|(origin, _)| *origin).collect();
    assert_eq!(origins, ["a.html", "b.md", "c.txt", "leyes/d.pdf"], "{:?}", corpus.dropped);
    assert!(found[1].1.text.starts_with("# Milpa"), "{}", found[1].1.text);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&found[3].1.text), words(&spanish(4, 20)));
    assert_eq!(found[3].1.language, "spa");
    assert_eq!(
        corpus.reasons(),
        [("malformed_record".to_owned(), "docs/leyes/e.pdf.gz@0".to_owned())]
    );
}

/// A WARC record whose page is sent under an encoding and a media type.
fn encoded_record(url: &str, header: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n");
    let mut out = format!(
        "WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02\r\n\
         Content-Length: {}\r\n\r\n{head}",
        head.len() + body.len()
    )
    .into_bytes();
    out.extend(body);
    out.extend(b"\r\n\r\n");
    out
}

#[test]
fn archives_may_hold_encoded_bodies_and_pdf() {
    let page = |seed| html(&spanish(seed, 20)).into_bytes();
    let mut brotli_page = Vec::new();
    brotli::CompressorWriter::new(&mut brotli_page, 4096, 5, 20).write_all(&page(1)).unwrap();
    let lines: Vec<String> = spanish(3, 20).split_inclusive(". ").map(str::to_owned).collect();
    let records = [
        encoded_record(
            "http://a/br",
            "Content-Type: text/html\r\nContent-Encoding: br",
            &brotli_page,
        ),
        encoded_record(
            "http://a/zstd",
            "Content-Type: text/html\r\nContent-Encoding: zstd",
            &zstd::encode_all(&page(2)[..], 3).unwrap(),
        ),
        encoded_record("http://a/pdf", "Content-Type: application/pdf", &pdf(&lines)),
        encoded_record(
            "http://a/cut",
            "Content-Type: text/html\r\nContent-Encoding: br",
            &brotli_page[..brotli_page.len() / 2],
        ),
    ];
    let offsets: Vec<u64> = records
        .iter()
        .scan(0, |sum, record| {
            let at = *sum;
            *sum += record.len() as u64;
            Some(at)
        })
        .collect();
    // One zstd frame per record, as some crawlers write them.
    let frames: Vec<u8> =
        records.iter().flat_map(|record| zstd::encode_all(&record[..], 3).unwrap()).collect();
    for (name, bytes) in [("a.warc", records.concat()), ("a.warc.zst", frames)] {
        let bench = Bench::new();
        bench.write(name, &bytes);
        let mut archive = source("archive", &bench.path(name));
        archive.filters = Preset::None;
        let corpus = bench.build(&config(vec![archive]));
        corpus.assert_consistent();
        let mut found: Vec<(&str, u64)> = corpus
            .kept()
            .map(|document| (document.url.as_deref().unwrap(), document.origin_offset))
            .collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                ("http://a/br", offsets[0]),
                ("http://a/pdf", offsets[2]),
                ("http://a/zstd", offsets[1])
            ],
            "{name}: {:?}",
            corpus.dropped
        );
        assert!(corpus.kept().all(|document| document.date.as_deref() == Some("2026-01-02")));
        assert_eq!(corpus.reasons(), [("content_encoding".to_owned(), "http://a/cut".to_owned())]);
        assert_eq!(corpus.dropped[0].origin_offset, offsets[3]);
    }
}

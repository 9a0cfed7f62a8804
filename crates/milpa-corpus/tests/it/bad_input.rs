//! Broken and hostile files: counted with their reason, never a panic, and what is sound is kept.

use milpa_base::Bytes;
use milpa_corpus::config::Preset;
use serde_json::json;

use super::*;

/// Builds a corpus of one file beside a sound one; returns the reasons for what fell.
fn check(name: &str, bytes: &[u8], expect: &[&str], kept: usize) -> Corpus {
    let bench = Bench::new();
    bench.write("sound.txt", spanish(999, 30).as_bytes());
    bench.write(name, bytes);
    let mut broken = source("broken", &bench.path(name));
    broken.filters = Preset::None;
    broken.id_field = Some("id".to_owned());
    let mut config = config(vec![source("sound", &bench.path("sound.txt")), broken]);
    config.max_document = Bytes(1 << 20);
    let corpus = bench.build(&config);
    corpus.assert_consistent();
    let reasons: Vec<String> = corpus.dropped.iter().map(|d| d.reason.to_string()).collect();
    assert_eq!(reasons, expect, "{name}: {:?}", corpus.dropped);
    assert_eq!(corpus.kept().count(), 1 + kept, "{name}");
    corpus
}

fn row(i: u64) -> Vec<u8> {
    jsonl(&[json!({"id": format!("r{i}"), "text": spanish(i, 12)})])
}

#[test]
fn bad_lines_are_counted_and_the_others_kept() {
    let lines = [
        row(1),
        b"{\"id\": \"x\", \"text\": \n".to_vec(),
        b"{\"id\": \"x\", \"body\": \"no text\"}\n".to_vec(),
        b"{\"id\": \"x\", \"text\": 7}\n".to_vec(),
        b"[1, 2]\n\n  \n".to_vec(),
        b"{\"id\": \"x\", \"text\": \"\xff\xfe\"}\n".to_vec(),
        b"{\"id\": \"x\", \"text\": \"\"}\n".to_vec(),
        "[".repeat(100_000).into_bytes(),
        b"\n".to_vec(),
        row(2),
    ];
    let corpus = check(
        "rows.jsonl",
        &lines.concat(),
        &[
            "bad_json",
            "missing_text",
            "missing_text",
            "missing_text",
            "invalid_utf8",
            "length",
            "bad_json",
        ],
        2,
    );
    assert_eq!(corpus.dropped[0].origin_offset, row(1).len() as u64);
    assert_eq!(corpus.dropped[1].detail, "no field \"text\"");
}

#[test]
fn a_giant_line_is_passed_over() {
    let giant = format!("{{\"id\": \"g\", \"text\": \"{}\"}}\n", "x".repeat(40 << 20));
    let corpus =
        check("rows.jsonl.gz", &gzip(&[row(1), giant.into(), row(2)].concat()), &["too_large"], 2);
    assert!(corpus.dropped[0].detail.contains("at most 1048576"), "{:?}", corpus.dropped[0]);
}

#[test]
fn documents_before_a_cut_are_kept() {
    let many: Vec<u8> = (0..2000).flat_map(row).collect();
    for (name, whole) in [
        ("rows.jsonl.gz", gzip(&many)),
        ("rows.jsonl.zst", zstd::encode_all(&many[..], 1).unwrap()),
    ] {
        let bench = Bench::new();
        bench.write(name, &whole[..whole.len() * 9 / 10]);
        let mut rows = source("rows", &bench.path(name));
        rows.filters = Preset::None;
        let corpus = bench.build(&config(vec![rows]));
        corpus.assert_consistent();
        assert!(corpus.kept().count() > 1000, "{}", corpus.stats);
        let cut = corpus.dropped.iter().find(|d| d.reason == milpa_corpus::Reason::TruncatedStream);
        assert!(cut.is_some(), "{name}: {}", corpus.stats);
        assert!(corpus.stats.to_string().contains("truncated_stream"));
    }
}

#[test]
fn a_damaged_stream_is_counted() {
    let many: Vec<u8> = (0..2000).flat_map(row).collect();
    for (name, mut whole) in [
        ("rows.jsonl.gz", gzip(&many)),
        ("rows.jsonl.zst", zstd::encode_all(&many[..], 1).unwrap()),
    ] {
        let middle = whole.len() / 2;
        whole[middle..middle + 64].fill(0x55);
        let bench = Bench::new();
        bench.write(name, &whole);
        let mut rows = source("rows", &bench.path(name));
        rows.filters = Preset::None;
        let corpus = bench.build(&config(vec![rows]));
        let last = corpus.dropped.iter().any(|d| {
            d.reason.to_string().ends_with("_stream") || d.reason.to_string() == "bad_json"
        });
        assert!(last, "{name}: {}", corpus.stats);
    }
    for name in ["rows.jsonl.gz", "page.html.gz", "pages.warc.gz", "t.txt.zst"] {
        // A header of a compressed stream and nothing sound behind it.
        let head: &[u8] = if name.ends_with("gz") {
            &[0x1f, 0x8b, 8, 0, 9, 9]
        } else {
            &[0x28, 0xb5, 0x2f, 0xfd, 7]
        };
        let bench = Bench::new();
        bench.write("sound.txt", spanish(999, 30).as_bytes());
        bench.write(name, head);
        let sources =
            vec![source("sound", &bench.path("sound.txt")), source("broken", &bench.path(name))];
        let corpus = bench.build(&config(sources));
        let reason = corpus.dropped[0].reason.to_string();
        assert!(reason.ends_with("_stream"), "{name}: {reason}");
    }
}

#[test]
fn broken_warc_records_are_counted_with_their_offset() {
    let page = |i: u64| html(&spanish(i, 20)).into_bytes();
    let sound = |i: u64| warc_record(&format!("http://x.example/{i}"), &page(i));
    let lie = |length: &str| {
        let record = String::from_utf8(sound(7)).unwrap();
        let at = record.find("Content-Length: ").unwrap() + 16;
        let end = at + record[at..].find('\r').unwrap();
        format!("{}{length}{}", &record[..at], &record[end..]).into_bytes()
    };
    check("a.warc", &[sound(1), b"junk\r\n".to_vec(), sound(2)].concat(), &["malformed_record"], 2);
    check("a.warc", &[lie("18446744073709551615"), sound(2)].concat(), &["too_large"], 1);
    check("a.warc", &[lie("900000"), sound(2)].concat(), &["malformed_record"], 1);
    check("a.warc", &[lie("40"), sound(2)].concat(), &["malformed_record"], 1);
    check("a.warc", &[lie("abc"), sound(2)].concat(), &["malformed_record"], 1);
    let whole = [sound(1), sound(2)].concat();
    let corpus = check("a.warc", &whole[..whole.len() - 300], &["truncated_stream"], 1);
    assert_eq!(corpus.dropped[0].origin_offset, sound(1).len() as u64);
    assert_eq!(corpus.dropped[0].url.as_deref(), Some("http://x.example/2"));
    let members = [gzip(&sound(1)), gzip(&sound(2))].concat();
    check("a.warc.gz", &members[..members.len() - 99], &["truncated_stream"], 1);
    let missing = String::from_utf8(sound(5)).unwrap().replace("200 OK", "404 Not Found");
    let missing = missing.replace("Content-Length: ", "Content-Length: 0000");
    let delta = "404 Not Found".len() - "200 OK".len();
    let at = missing.find("Content-Length: ").unwrap() + 16;
    let end = at + missing[at..].find('\r').unwrap();
    let length: usize = missing[at..end].parse().unwrap();
    let missing = format!("{}{}{}", &missing[..at], length + delta, &missing[end..]);
    check("a.warc", &[missing.into_bytes(), sound(2)].concat(), &["http_status"], 1);
}

#[test]
fn hostile_pages_are_bounded() {
    let deep = format!("{}{}", "<div><b>".repeat(100_000), html(&spanish(3, 20)));
    check("deep.html", deep.as_bytes(), &[], 1);
    let attributes: String = (0..60_000).map(|i| format!(" a{i}")).collect();
    check("wide.html", format!("<p{attributes}>x").as_bytes(), &["hostile_markup"], 0);
    check("empty.html", b"", &["no_main_text"], 0);
    check("menu.html", b"<nav><a href=/>a</a> <a href=/b>b</a></nav>", &["no_main_text"], 0);
    check("large.txt", &vec![b'a'; 2 << 20], &["too_large"], 0);
    let bomb = gzip(&vec![b' '; 64 << 20]);
    check("bomb.txt.gz", &bomb, &["too_large"], 0);
    check("zeros.txt", &[0; 5000], &["length"], 0);
}

#[test]
fn a_flipped_bit_in_a_shard_is_refused() {
    let bench = Bench::new();
    bench.write("one.txt", spanish(1, 30).as_bytes());
    let corpus = bench.build(&config(vec![source("one", &bench.path("one.txt"))]));
    let path = corpus.dir.join("train-00000.parquet");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut records = milpa_corpus::read_split(&corpus.dir, Split::Train).unwrap();
    let error = records.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("train-00000.parquet") && error.contains("damaged"), "{error}");
    assert!(records.next().is_none());
    let opened = milpa_base::open_artifact(
        &corpus.dir,
        milpa_base::Kind::Corpus,
        milpa_base::manifest::Verify::Contents,
    );
    assert!(opened.is_err());
}

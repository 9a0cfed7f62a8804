//! The whole way: what is kept, where it goes, and that the bytes are always the same.

use milpa_base::{Kind, Manifest, manifest::Verify, open_artifact};
use milpa_corpus::{
    Fate, Reason,
    config::{Format, KeepLanguages, Preset},
    read_split, record, why,
};
use serde_json::json;

use super::*;

/// Sources of all formats, with a copy, a near copy, and one of another language.
fn mixed(bench: &Bench) -> CorpusConfig {
    let rows: Vec<_> = (0..40)
        .map(|i| json!({"id": format!("n{i}"), "text": spanish(i, 30), "author": format!("a{}", i / 4)}))
        .chain([
            json!({"id": "copy", "text": spanish(3, 30).to_uppercase(), "author": "z"}),
            json!({"id": "near", "text": format!("{} Fin.", spanish(4, 30)), "author": "z"}),
        ])
        .collect();
    bench.write("rows.jsonl.zst", &zstd::encode_all(&jsonl(&rows)[..], 3).unwrap());
    let english = "The old bridge over the river was built by the people of the town, and they \
                   were proud of it for many years. When the flood came in the spring, it took the \
                   bridge and the mill with it, and nobody had the money to build them again.";
    let pages: Vec<u8> = (100..110)
        .map(|i| {
            gzip(&warc_record(&format!("http://x.example/{i}"), html(&spanish(i, 30)).as_bytes()))
        })
        .chain([gzip(&warc_record("http://x.example/en", html(english).as_bytes()))])
        .flatten()
        .collect();
    bench.write("pages.warc.gz", &pages);
    bench.write("folder/b/two.txt", spanish(201, 30).as_bytes());
    bench.write("folder/one.html", html(&spanish(200, 30)).as_bytes());
    bench.write("folder/ignored.bin", b"\x00\x01");
    let mut rows = source("rows", &bench.path("rows.jsonl.zst"));
    rows.id_field = Some("id".to_owned());
    rows.group_field = Some("author".to_owned());
    rows.language = Some("es".to_owned());
    rows.licence = Some("CC0-1.0".to_owned());
    rows.filters = Preset::Book;
    let pages = source("pages", &bench.path("pages.warc.gz"));
    let folder = source("folder", &bench.path("folder"));
    let mut config = config(vec![rows, pages, folder]);
    config.keep_languages = KeepLanguages::List(vec!["spa".to_owned()]);
    config.validation.share = 0.1;
    config
}

#[test]
fn documents_of_all_formats_are_kept_and_split_by_group() {
    let bench = Bench::new();
    let corpus = bench.build(&mixed(&bench));
    corpus.assert_consistent();
    assert_eq!(corpus.kept().count(), 40 + 10 + 2, "{}", corpus.stats);
    assert_eq!(
        corpus.reasons(),
        [
            ("exact_duplicate", "copy"),
            ("language", "http://x.example/en"),
            ("near_duplicate", "near"),
        ]
        .map(|(reason, id)| (reason.to_owned(), id.to_owned()))
    );
    let authors = |documents: &[Document]| -> std::collections::BTreeSet<String> {
        documents.iter().filter_map(|document| document.group.clone()).collect()
    };
    assert!(authors(&corpus.train).is_disjoint(&authors(&corpus.validation)));
    assert_eq!(authors(&corpus.validation).len(), 1);
    let page = corpus.kept().find(|d| d.url.as_deref() == Some("http://x.example/104")).unwrap();
    assert_eq!(page.text, spanish(104, 30).replace('\n', "\n\n"));
    assert_eq!((page.language.as_str(), page.date.as_deref()), ("spa", Some("2026-01-02")));
    let text = corpus.kept().find(|d| d.origin == "b/two.txt").unwrap();
    assert_eq!(text.text, spanish(201, 30));
    let (manifest, _) = open_artifact(&corpus.dir, Kind::Corpus, Verify::Contents).unwrap();
    assert_eq!(manifest.licences, ["CC0-1.0"]);
    let records: Vec<_> =
        read_split(&corpus.dir, Split::Train).unwrap().map(Result::unwrap).collect();
    assert_eq!(records.len() as u64, manifest.counts["train_documents"]);
    assert!(records.iter().zip(&corpus.train).all(|(a, b)| a.id == b.id && a.text == b.text));
    assert!(corpus.stats.to_string().contains("near_duplicate"));
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let bench = Bench::new();
    let mut config = mixed(&bench);
    config.shard_size = milpa_base::Bytes(64 << 10);
    let mut identities = Vec::new();
    for threads in [1, 2, 5] {
        let out = bench.path(&format!("corpus{threads}"));
        build(&config, Seed(1), threads, &out, &Silent, &StopFlag::default()).unwrap();
        identities.push(Manifest::read_with_digest(&out).unwrap());
    }
    // The manifest holds the hash of each file.
    assert!(identities[0].0.files.len() > 4);
    assert_eq!(identities[0], identities[1]);
    assert_eq!(identities[0], identities[2]);
    let other = bench.path("other");
    build(&config, Seed(2), 2, &other, &Silent, &StopFlag::default()).unwrap();
    let other = Manifest::read_with_digest(&other).unwrap();
    assert_ne!(other.0.key, identities[0].0.key);
    assert_eq!(identities[0].0.key, record(&config, Seed(1)).unwrap().key.unwrap());
}

#[test]
fn the_fate_of_each_document_can_be_asked() {
    let bench = Bench::new();
    let corpus = bench.build(&mixed(&bench));
    let fates = why(&corpus.dir, "n3").unwrap();
    let [Fate::Kept { copies, document, .. }] = &fates[..] else { panic!("{fates:?}") };
    assert_eq!((document.id.as_str(), &copies[..]), ("n3", &["copy".to_owned()][..]));
    let fates = why(&corpus.dir, "near").unwrap();
    let [Fate::Dropped(dropped)] = &fates[..] else { panic!("{fates:?}") };
    assert_eq!(dropped.reason, Reason::NearDuplicate);
    assert!(dropped.detail.ends_with(" to n4"), "{}", dropped.detail);
    let similarity: f64 = dropped.detail.split(' ').nth(1).unwrap().parse().unwrap();
    assert!((0.9..=1.0).contains(&similarity), "{}", dropped.detail);
    let shown = fates[0].to_string();
    for part in ["near was dropped: near_duplicate", "rows.jsonl.zst at byte ", "begins  "] {
        assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }
    let fates = why(&corpus.dir, "http://x.example/en").unwrap();
    assert!(fates[0].to_string().contains("eng (") && fates[0].to_string().contains("is not kept"));
    // A part of an address finds what has it; something unknown finds nothing.
    assert_eq!(why(&corpus.dir, "x.example/10").unwrap().len(), 10);
    assert_eq!(why(&corpus.dir, "nowhere").unwrap(), []);
}

#[test]
fn a_corpus_of_one_document_has_no_validation_and_says_so() {
    let bench = Bench::new();
    bench.write("one.txt", spanish(1, 30).as_bytes());
    let corpus = bench.build(&config(vec![source("one", &bench.path("one.txt"))]));
    assert_eq!((corpus.train.len(), corpus.validation.len()), (1, 0));
    assert!(corpus.stats.notes[0].contains("validation part is empty"), "{}", corpus.stats);
    assert_eq!(read_split(&corpus.dir, Split::Validation).unwrap().count(), 0);
    assert!(bench.path("corpus/train-00000.parquet").exists());
    assert!(!bench.path("corpus/validation-00000.parquet").exists());
}

#[test]
fn an_empty_corpus_is_an_error_that_names_the_reasons() {
    let bench = Bench::new();
    bench.write("short.txt", b"Hola.");
    let config = config(vec![source("short", &bench.path("short.txt"))]);
    let error = bench.try_build(&config, 2).err().unwrap().to_string();
    assert!(error.contains("of 1 read") && error.contains("length 1"), "{error}");
    bench.write("short.txt", b"");
    let error = bench.try_build(&config, 2).err().unwrap().to_string();
    assert!(error.contains("no document is left"), "{error}");
    assert_eq!(bench.names(), ["short.txt"]);
}

#[test]
fn a_stop_leaves_nothing_and_keeps_the_old_corpus() {
    let bench = Bench::new();
    let config = mixed(&bench);
    let stop = StopFlag::default();
    stop.stop();
    let out = bench.path("corpus");
    let before = bench.names();
    let stopped = build(&config, Seed(1), 2, &out, &Silent, &stop);
    assert!(matches!(stopped, Err(CorpusError::Interrupted)), "{stopped:?}");
    assert_eq!(bench.names(), before);
    let corpus = bench.build(&config);
    let old = Manifest::read_with_digest(&corpus.dir).unwrap();
    assert!(build(&config, Seed(2), 2, &out, &Silent, &stop).is_err());
    assert_eq!(Manifest::read_with_digest(&out).unwrap(), old);
}

#[test]
fn limits_and_repeated_identities() {
    let bench = Bench::new();
    let rows: Vec<_> = (0..20).map(|i| json!({"id": "same", "text": spanish(i, 30)})).collect();
    bench.write("rows.jsonl", &jsonl(&rows));
    let mut rows = source("rows", &bench.path("rows.jsonl"));
    rows.id_field = Some("id".to_owned());
    rows.max_documents = Some(7);
    rows.format = Format::Jsonl;
    let corpus = bench.build(&config(vec![rows]));
    corpus.assert_consistent();
    assert_eq!(corpus.stats.read(), 7);
}

#[test]
fn a_missing_source_is_named() {
    let bench = Bench::new();
    let config = config(vec![source("gone", &bench.path("gone.jsonl"))]);
    let error = bench.try_build(&config, 1).err().unwrap().to_string();
    assert!(error.contains("\"gone\"") && error.contains("gone.jsonl"), "{error}");
    fs::create_dir(bench.path("gone.jsonl")).unwrap();
    let error = bench.try_build(&config, 1).err().unwrap().to_string();
    assert!(error.contains("holds no file to read"), "{error}");
}

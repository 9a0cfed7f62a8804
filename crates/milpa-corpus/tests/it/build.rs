//! The whole way: what is kept, where it goes, and that the bytes are always the same.

use milpa_base::{Kind, Manifest, manifest::Verify, open_artifact};
use milpa_corpus::{
    Fate, Reason,
    config::{ClassifierUse, CompareWithin, Format, KeepLanguages, PerplexityUse, Preset},
    models::{self, ClassifierConfig, Examples},
    prepare, read_split, record, why,
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
        build(&config, Seed(1), &work(threads, &out, &StopFlag::default())).unwrap();
        identities.push(Manifest::read_with_digest(&out).unwrap());
    }
    // The manifest holds the hash of each file.
    assert!(identities[0].0.files.len() > 4);
    assert_eq!(identities[0], identities[1]);
    assert_eq!(identities[0], identities[2]);
    let other = bench.path("other");
    build(&config, Seed(2), &work(2, &other, &StopFlag::default())).unwrap();
    let other = Manifest::read_with_digest(&other).unwrap();
    assert_ne!(other.0.key, identities[0].0.key);
    assert_eq!(identities[0].0.key, record(&config, Seed(1)).unwrap().key.unwrap());
}

/// Several files of several sources.
fn many_files(bench: &Bench) -> CorpusConfig {
    let mut config = mixed(bench);
    for (name, first) in [("more", 300), ("again", 306)] {
        for i in first..first + 9 {
            bench.write(&format!("{name}/{i}.txt"), spanish(i, 20).as_bytes());
        }
        config.sources.push(source(name, &bench.path(name)));
    }
    config
}

#[test]
fn shards_and_any_memory_give_the_same_bytes() {
    let bench = Bench::new();
    let config = many_files(&bench);
    let whole = bench.build(&config);
    whole.assert_consistent();
    let expect = Manifest::read(&whole.dir).unwrap().files;
    let out = bench.path("sharded");
    let stop = StopFlag::default();
    let mut documents = 0;
    for shard in ["2/3", "0/3", "1/3"] {
        let prepared = prepare(&config, shard.parse().unwrap(), &work(2, &out, &stop)).unwrap();
        assert_eq!((prepared.parts, prepared.found), if shard == "2/3" { (1, 0) } else { (2, 0) });
        documents += prepared.documents;
    }
    // Other numbers of tasks find what is there.
    let again = prepare(&config, "0/1".parse().unwrap(), &work(1, &out, &stop)).unwrap();
    assert_eq!((again.parts, again.found, again.documents), (5, 5, documents));
    assert!(bench.path("sharded.parts").is_dir());
    let built = build(&config, Seed(1), &work(1, &out, &stop)).unwrap();
    assert_eq!((built.manifest.files, built.found), (expect.clone(), 5));
    assert!(!bench.path("sharded.parts").exists());

    let mut banded = config.clone();
    banded.dedup.near.similarity = 0.0;
    banded.dedup.near.bands = 40;
    banded.dedup.near.rows = 3;
    let built = build(&banded, Seed(1), &work(2, &bench.path("banded"), &stop)).unwrap();
    let corpus = Corpus::read(bench.path("banded"));
    assert!(
        built.found == 0 && corpus.reasons().iter().any(|(reason, _)| reason == "near_duplicate")
    );
    let near = corpus.dropped.iter().find(|row| row.reason == Reason::NearDuplicate).unwrap();
    let kept = near.detail.strip_prefix("near copy of ").unwrap();
    let fates = why(&corpus.dir, kept).unwrap();
    let [Fate::Kept { copies, .. }] = &fates[..] else { panic!("{fates:?}") };
    assert!(copies.contains(&near.id), "{copies:?}");

    let mut little = config.clone();
    little.dedup.memory = milpa_base::Bytes(100);
    let built = build(&little, Seed(1), &work(2, &bench.path("little"), &stop)).unwrap();
    assert_eq!(built.manifest.files, expect);
}

#[test]
fn damaged_and_changed_parts_are_made_again() {
    let bench = Bench::new();
    let config = many_files(&bench);
    let expect = Manifest::read(&bench.build(&config).dir).unwrap().files;
    let (out, stop) = (bench.path("other"), StopFlag::default());
    let all = "0/1".parse().unwrap();
    prepare(&config, all, &work(2, &out, &stop)).unwrap();
    let parts = bench.path("other.parts");
    let damaged: Vec<_> = fs::read_dir(&parts)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert_eq!(damaged.len(), 5);
    // A part cut in half, one with a flipped bit, and one without its manifest.
    let documents = damaged[0].join("documents.jsonl.zst");
    let bytes = fs::read(&documents).unwrap();
    fs::write(&documents, &bytes[..bytes.len() / 2]).unwrap();
    let keys = damaged[1].join("keys.bin");
    let mut bytes = fs::read(&keys).unwrap();
    bytes[3] ^= 1;
    fs::write(&keys, bytes).unwrap();
    fs::remove_file(damaged[2].join("manifest.toml")).unwrap();
    let prepared = prepare(&config, all, &work(2, &out, &stop)).unwrap();
    assert_eq!((prepared.parts, prepared.found), (5, 2));
    let built = build(&config, Seed(1), &work(2, &out, &stop)).unwrap();
    assert_eq!((built.manifest.files, built.found), (expect.clone(), 5));

    // Another file or another limit makes another part, and only that one.
    prepare(&config, all, &work(2, &out, &stop)).unwrap();
    bench.write("more/303.txt", spanish(999, 20).as_bytes());
    let prepared = prepare(&config, all, &work(2, &out, &stop)).unwrap();
    assert_eq!((prepared.parts, prepared.found), (5, 4));
    let mut other = config.clone();
    other.validation.share = 0.2;
    other.sources[3].filters = Preset::None;
    let prepared = prepare(&other, all, &work(2, &out, &stop)).unwrap();
    assert_eq!((prepared.parts, prepared.found), (5, 4));
    let built = build(&config, Seed(1), &work(2, &out, &stop)).unwrap();
    assert_ne!(built.manifest.files, expect);
    assert_eq!(built.manifest.files, Manifest::read(&bench.build(&config).dir).unwrap().files);
}

#[test]
fn personal_data_is_masked_or_drops_the_document_and_addresses_are_blocked() {
    let bench = Bench::new();
    let text = |i, more: &str| format!("{} {more}", spanish(i, 20));
    let rows = [
        json!({"id": "mail", "text": text(1, "Escriba a ana.rojas@correo.example hoy."), "url": "http://a.example/1"}),
        json!({"id": "cpf", "text": text(2, "Su CPF es 529.982.247-25."), "url": "http://a.example/2"}),
        json!({"id": "short", "text": "A pedro@correo.example.", "url": "http://a.example/3"}),
        json!({"id": "bad", "text": text(3, ""), "url": "http://www.malo.example/x"}),
        json!({"id": "good", "text": text(4, ""), "url": "http://bueno.example/x"}),
    ];
    bench.write("rows.jsonl", &jsonl(&rows));
    bench.write("list.txt", b"# a comment\nmalo.example\n");
    let mut rows = source("rows", &bench.path("rows.jsonl"));
    (rows.id_field, rows.url_field) = (Some("id".to_owned()), Some("url".to_owned()));
    rows.filters = Preset::Book;
    let mut config = config(vec![rows]);
    let plain = bench.build(&config);
    assert_eq!(plain.reasons().len(), 1, "{:?}", plain.reasons());
    assert!(plain.kept().any(|document| document.text.contains("ana.rojas@correo.example")));
    let key = |config: &CorpusConfig| record(config, Seed(1)).unwrap().key;
    let before = key(&config);

    config.blocklists = vec![Location::plain(bench.path("list.txt"))];
    let personal = "default = \"mask\"\nbr = \"drop\"\n";
    config.personal_data =
        Some(milpa_base::parse_toml(personal, std::path::Path::new("t")).unwrap());
    let corpus = bench.build(&config);
    corpus.assert_consistent();
    let found: Vec<(&str, &str)> =
        corpus.dropped.iter().map(|row| (row.id.as_str(), row.reason.name())).collect();
    assert_eq!(found, [("cpf", "personal_data"), ("short", "length"), ("bad", "blocklist")]);
    let details: Vec<&str> = corpus.dropped.iter().map(|row| row.detail.as_str()).collect();
    assert!(details[0].contains("CPF") && details[2].contains("malo.example"), "{details:?}");
    assert!(details[2].contains("list.txt"), "{details:?}");
    assert!(corpus.dropped[1].sample.contains("[EMAIL]"), "{}", corpus.dropped[1].sample);
    let mail = corpus.kept().find(|document| document.id == "mail").unwrap();
    assert!(mail.text.ends_with("Escriba a [EMAIL] hoy."), "{}", mail.text);
    assert_eq!(corpus.stats.sources["rows"].masked["EMAIL"], 1);
    assert!(corpus.stats.to_string().contains("personal data masked"), "{}", corpus.stats);

    // Another list is another corpus.
    let with_list = key(&config);
    bench.write("list.txt", b"bueno.example\n");
    assert_ne!(key(&config), with_list);
    assert_ne!(before, with_list);
    assert!(bench.build(&config).kept().all(|document| document.id != "good"));
    bench.write("list.txt", b"no entry at all\n");
    let error = bench.try_build(&config, 1).err().unwrap().to_string();
    assert!(error.contains("corpus.blocklists") && error.contains("line 1"), "{error}");
    fs::remove_file(bench.path("list.txt")).unwrap();
    let error = bench.try_build(&config, 1).err().unwrap().to_string();
    assert!(error.contains("block list") && error.contains("list.txt"), "{error}");
}

#[test]
fn copies_are_sought_in_all_of_the_corpus_or_by_language() {
    let bench = Bench::new();
    let text = spanish(1, 30);
    for (name, text) in [("a", text.clone()), ("b", text.clone()), ("c", format!("{text} Fin."))] {
        bench.write(&format!("{name}.txt"), text.as_bytes());
    }
    let sources = |languages: [&str; 3]| {
        let source = |(name, language): (&str, &str)| {
            let mut source = source(name, &bench.path(&format!("{name}.txt")));
            source.language = Some(language.to_owned());
            source.filters = Preset::None;
            source
        };
        ["a", "b", "c"].into_iter().zip(languages).map(source).collect::<Vec<_>>()
    };
    let check = |scope: CompareWithin, languages: [&str; 3], expect: &[&str]| {
        let mut config = config(sources(languages));
        config.dedup.scope = scope;
        let reasons = bench.build(&config).reasons();
        assert_eq!(reasons.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>(), expect);
    };
    check(CompareWithin::All, ["spa", "glg", "por"], &["exact_duplicate", "near_duplicate"]);
    check(CompareWithin::Language, ["spa", "glg", "por"], &[]);
    check(CompareWithin::Language, ["spa", "spa", "por"], &["exact_duplicate"]);
    check(CompareWithin::Language, ["spa", "por", "spa"], &["near_duplicate"]);
}

#[test]
fn trained_models_label_and_drop() {
    let bench = Bench::new();
    let scanned = |text: String| text.replace('a', "@").replace('e', "3").replace("qu", "9v");
    let rows: Vec<_> = (0..120)
        .flat_map(|i| {
            let (clean, scan) = (spanish(i, 8), scanned(spanish(1000 + i, 8)));
            [json!({"text": clean, "label": "clean"}), json!({"text": scan, "label": "scan"})]
        })
        .chain([json!({"text": "Nadie lo etiquetó.", "label": null})])
        .collect();
    let data = bench.write("labelled.jsonl", &jsonl(&rows));
    let examples = |text_field| Examples {
        path: &data,
        text_field,
        group_field: None,
        limit: milpa_base::Bytes(1 << 30),
    };
    let (quality, lm) = (bench.path("quality.model"), bench.path("spa.ngrams"));
    let report =
        models::classifier(&examples("text"), "label", &ClassifierConfig::default(), &quality);
    let report = report.unwrap();
    assert_eq!(report.texts.iter().sum::<usize>(), 240);
    assert!(report.labels["clean"].auroc.unwrap().0 > 0.99, "{report}");
    assert!(report.to_string().contains("AUROC"), "{report}");
    let trigrams = models::NgramConfig { order: 3, ..models::NgramConfig::default() };
    let clean: Vec<_> = (0..120).map(|i| json!({"text": spanish(i, 8)})).collect();
    let clean = bench.write("clean.jsonl", &jsonl(&clean));
    let clean = Examples { path: &clean, ..examples("text") };
    let estimated = models::ngrams(&clean, trigrams, &lm).unwrap();
    let cuts = estimated.cuts.unwrap();
    assert!(cuts.head < cuts.middle && estimated.to_string().contains("head = "), "{estimated}");
    let wrong = models::classifier(&examples("texto"), "label", &ClassifierConfig::default(), &lm);
    let message = wrong.unwrap_err().to_string();
    assert!(message.contains("labelled.jsonl") && message.contains("texto"), "{message}");

    let rows: Vec<_> = (500..504)
        .map(|i| json!({"id": format!("good{i}"), "text": spanish(i, 20)}))
        .chain([json!({"id": "bad", "text": scanned(spanish(600, 20))})])
        .collect();
    bench.write("rows.jsonl", &jsonl(&rows));
    let mut rows = source("rows", &bench.path("rows.jsonl"));
    rows.id_field = Some("id".to_owned());
    rows.language = Some("es".to_owned());
    rows.filters = Preset::None;
    let mut config = config(vec![rows]);
    config.perplexity = vec![PerplexityUse {
        path: Location::plain(&lm),
        language: "es".to_owned(),
        head: cuts.head,
        middle: cuts.middle,
        drop: Vec::new(),
    }];
    let corpus = bench.build(&config);
    assert_eq!(corpus.dropped, []);
    for document in corpus.kept() {
        let tail = document.perplexity_bucket.as_deref() == Some("tail");
        assert!(document.perplexity.unwrap() > 1.0 && (tail || document.id != "bad"));
    }
    let unlabelled = record(&config, Seed(1)).unwrap().key;
    config.classifiers = vec![ClassifierUse {
        path: Location::plain(&quality),
        label: "clean".to_owned(),
        languages: vec!["spa".to_owned()],
        at_least: Some(0.5),
        at_most: None,
    }];
    assert_ne!(record(&config, Seed(1)).unwrap().key, unlabelled);
    let corpus = bench.build(&config);
    assert_eq!(corpus.reasons(), [("model_score".to_owned(), "bad".to_owned())]);
    config.classifiers[0].label = "toxic".to_owned();
    let error = bench.try_build(&config, 1).err().unwrap().to_string();
    assert!(error.contains("\"toxic\"") && error.contains("clean, scan"), "{error}");
    config.classifiers[0].at_most = Some(0.5);
    let error = bench.try_build(&config, 1).err().unwrap().to_string();
    assert!(error.contains("one of them"), "{error}");
}

#[test]
fn texts_in_two_languages_are_kept_with_both() {
    let bench = Bench::new();
    let spanish = "La maestra de la escuela del pueblo contó a los niños cómo se sembraba el maíz en el \
                   tiempo de los abuelos, y por qué nadie cortaba los árboles que estaban cerca del río.";
    let portuguese = "A professora da escola da vila contou às crianças como se plantava o milho no tempo \
                      dos avós, e por que ninguém cortava as árvores que ficavam perto do rio.";
    let rows = [
        json!({"id": "mixed", "text": ([spanish, portuguese, spanish, portuguese].join("\n\n"))}),
        json!({"id": "one", "text": ([spanish, spanish].join("\n\n"))}),
        json!({"id": "other", "text": portuguese}),
    ];
    bench.write("rows.jsonl", &jsonl(&rows));
    let mut rows = source("rows", &bench.path("rows.jsonl"));
    rows.id_field = Some("id".to_owned());
    rows.filters = Preset::Law;
    let mut config = config(vec![rows]);
    config.validation.share = 0.0;
    config.dedup.near.enabled = false;
    config.keep_languages = KeepLanguages::List(vec!["spa".to_owned()]);
    let corpus = bench.build(&config);
    let languages: Vec<_> = corpus
        .kept()
        .map(|d| (d.id.as_str(), d.language.as_str(), d.mixed_with.as_deref()))
        .collect();
    let mixed = languages.iter().find(|(id, ..)| *id == "mixed").unwrap();
    let mut both = [mixed.1, mixed.2.unwrap()];
    both.sort_unstable();
    assert_eq!(both, ["por", "spa"]);
    assert!(languages.contains(&("one", "spa", None)), "{languages:?}");
    assert_eq!(corpus.reasons(), [("language".to_owned(), "other".to_owned())]);
}

#[test]
fn clusters_are_counted_and_can_weigh_their_document() {
    let bench = Bench::new();
    let texts = [spanish(1, 30), spanish(2, 30), spanish(1, 30).to_uppercase(), spanish(1, 30)];
    let rows: Vec<_> = texts.iter().map(|text| json!({"text": text})).collect();
    bench.write("rows.jsonl", &jsonl(&rows));
    let mut rows = source("rows", &bench.path("rows.jsonl"));
    rows.filters = Preset::None;
    let mut config = config(vec![rows]);
    config.validation.share = 0.0;
    let sizes = |corpus: &Corpus| -> Vec<(u64, u64)> {
        corpus.train.iter().map(|document| (document.cluster_size, document.weight)).collect()
    };
    assert_eq!(sizes(&bench.build(&config)), [(3, 1), (1, 1)]);
    config.dedup.rehydrate = Some(milpa_corpus::dedup::Rehydration::default());
    let corpus = bench.build(&config);
    assert_eq!(sizes(&corpus), [(3, 3), (1, 1)]);
    // Who reads the texts sees a document as often as it weighs.
    let ids: Vec<String> =
        read_split(&corpus.dir, Split::Train).unwrap().map(|record| record.unwrap().id).collect();
    let [first, second] = [0, 1].map(|at: usize| corpus.train[at].id.clone());
    assert_eq!(ids, [first.clone(), first.clone(), first, second]);
    assert_eq!(corpus.stats.total(Split::Train).documents, 2);
}

#[test]
fn repeated_passages_are_cut_after_the_first() {
    let bench = Bench::new();
    let notice = "Este portal usa materiales de la biblioteca regional y de sus socios; para \
                  reproducirlos hay que pedir permiso por escrito a la oficina de la calle mayor. ";
    let text = |i| format!("{}\n\n{}", spanish(i, 30), notice.repeat(2));
    let rows: Vec<_> = (1..4).map(|i| json!({"text": text(i)})).collect();
    let rows: Vec<_> = rows.into_iter().chain([json!({"text": notice.repeat(2)})]).collect();
    bench.write("rows.jsonl", &jsonl(&rows));
    let mut rows = source("rows", &bench.path("rows.jsonl"));
    rows.filters = Preset::None;
    let mut config = config(vec![rows]);
    config.validation.share = 0.0;
    config.dedup.repeats = Some(milpa_corpus::config::RepeatConfig::default());
    let corpus = bench.build(&config);
    corpus.assert_consistent();
    let notices: Vec<usize> =
        corpus.train.iter().map(|document| document.text.matches("biblioteca").count()).collect();
    // Within the first document the second half repeats the first.
    assert_eq!(notices.len(), 3);
    assert!(notices[0] >= 1 && notices[1..] == [0, 0], "{notices:?}");
    for (document, i) in corpus.train.iter().zip(1..) {
        // What stands right before two repeats and is equal belongs to them, such as a full stop.
        let text = spanish(i, 30);
        assert!(document.text.starts_with(&text[..text.len() - 30]), "{}", document.text);
    }
    assert_eq!(corpus.reasons().len(), 1);
    assert_eq!(corpus.reasons()[0].0, "repeated_text");
    assert!(corpus.stats.to_string().contains("repeated passages cut out"), "{}", corpus.stats);
}

#[test]
fn evaluation_items_are_kept_out() {
    let bench = Bench::new();
    let item = spanish(77, 3);
    bench.write("items.jsonl", &jsonl(&[json!({"id": "q1", "question": item})]));
    let rows = [
        json!({"id": "clean", "text": spanish(1, 30)}),
        json!({"id": "leak", "text": format!("{}\n\n{}", spanish(2, 30), item.to_uppercase())}),
    ];
    bench.write("rows.jsonl", &jsonl(&rows));
    let mut rows = source("rows", &bench.path("rows.jsonl"));
    rows.id_field = Some("id".to_owned());
    rows.filters = Preset::None;
    let mut config = config(vec![rows]);
    config.validation.share = 0.0;
    let build = |action: &str, config: &mut CorpusConfig| {
        let text = format!(
            "action = {action:?}\nsets = [{{ name = \"set\", path = \"x\", passages = [[\"question\"]] }}]"
        );
        let mut items: milpa_corpus::decontaminate::DecontaminationConfig =
            milpa_base::parse_toml(&text, std::path::Path::new("t")).unwrap();
        items.sets[0].path = Location::plain(bench.path("items.jsonl"));
        config.decontamination = Some(items);
        bench.build(config)
    };
    let corpus = build("drop", &mut config);
    assert_eq!(corpus.reasons(), [("contamination".to_owned(), "leak".to_owned())]);
    assert!(corpus.dropped[0].detail.contains("q1"), "{}", corpus.dropped[0].detail);
    let corpus = build("cut", &mut config);
    assert_eq!((corpus.train.len(), corpus.stats.sources["rows"].passages_cut), (2, 1));
    assert_eq!(
        corpus.train[1].text.trim_end_matches(['\n', '.']),
        spanish(2, 30).trim_end_matches('.')
    );
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
    let stopped = build(&config, Seed(1), &work(2, &out, &stop));
    assert!(matches!(stopped, Err(CorpusError::Interrupted)), "{stopped:?}");
    assert_eq!(bench.names(), before);
    let corpus = bench.build(&config);
    let old = Manifest::read_with_digest(&corpus.dir).unwrap();
    assert!(build(&config, Seed(2), &work(2, &out, &stop)).is_err());
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

//! Real archives, good and bad, and the sample of the demo.

use milpa_corpus::{Reason, config::KeepLanguages};

use super::*;

#[test]
fn all_warc_fixtures_end_in_documents_or_reasons() {
    let Some(data) = data() else { return };
    let mut archives = 0;
    for folder in ["warcio_fixtures", "commoncrawl_whirlwind"] {
        for entry in fs::read_dir(data.join("web").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let bench = Bench::new();
            bench.write("sound.txt", spanish(999, 30).as_bytes());
            let mut archive = source("archive", &path);
            archive.format = milpa_corpus::config::Format::Warc;
            archive.filters = milpa_corpus::config::Preset::None;
            let sources = vec![source("sound", &bench.path("sound.txt")), archive];
            let corpus = bench.build(&config(sources));
            corpus.assert_consistent();
            let stats = &corpus.stats.sources["archive"];
            let skipped: u64 = stats.skipped.values().sum();
            assert!(stats.read + skipped > 0, "{}: nothing was seen", path.display());
            archives += 1;
        }
    }
    assert!(archives >= 19, "{archives} archives");
}

#[test]
fn sound_fixtures_give_their_pages() {
    let Some(data) = data() else { return };
    // (file, documents and drops, kinds of problems)
    for (file, read, broken) in [
        ("example.warc", 1, vec![]),
        ("example.warc.gz", 1, vec![]),
        ("example.arc", 1, vec![]),
        ("example.arc.gz", 1, vec![]),
        // Its last record promises twelve bytes more than the file has.
        ("example-space-in-url.arc", 1, vec![Reason::TruncatedStream]),
        // Bytes are missing in the middle of its page.
        ("example-trunc.warc", 1, vec![Reason::MalformedRecord]),
    ] {
        let bench = Bench::new();
        bench.write("sound.txt", spanish(999, 30).as_bytes());
        let mut archive = source("archive", &data.join("web/warcio_fixtures").join(file));
        archive.filters = milpa_corpus::config::Preset::None;
        let sources = vec![source("sound", &bench.path("sound.txt")), archive];
        let corpus = bench.build(&config(sources));
        let stats = &corpus.stats.sources["archive"];
        let is_broken = |reason: &&Reason| {
            matches!(
                reason,
                Reason::TruncatedStream | Reason::CorruptStream | Reason::MalformedRecord
            )
        };
        let found: Vec<Reason> = stats.dropped.keys().filter(is_broken).copied().collect();
        assert_eq!((stats.read, found), (read, broken), "{file}: {:?}", corpus.dropped);
    }
}

/// The demo's sample says itself what must come out.
#[test]
fn the_pages_of_the_demo_survive_and_its_traps_fall() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../milpa/demo");
    let expected: serde_json::Value =
        serde_json::from_slice(&fs::read(demo.join("expected.json")).unwrap()).unwrap();
    let bench = Bench::new();
    let mut config = config(vec![source("demo", &demo.join("sample.warc.gz"))]);
    config.keep_languages =
        KeepLanguages::List(["es", "pt", "qu", "gn"].map(str::to_owned).to_vec());
    let corpus = bench.build(&config);
    corpus.assert_consistent();
    let reasons: std::collections::BTreeMap<_, _> = corpus
        .dropped
        .iter()
        .map(|dropped| (dropped.url.clone().unwrap(), dropped.reason))
        .collect();
    let (mut kept, mut pages, mut copied_originals) = (0, 0, 0);
    for page in expected["pages"].as_array().unwrap() {
        let url = page["url"].as_str().unwrap();
        pages += 1;
        let document = corpus.kept().find(|document| document.url.as_deref() == Some(url));
        let fallen: &[Reason] = match page["kind"].as_str().unwrap() {
            "article" | "wrong_charset" => &[],
            "near_duplicate_of" => &[Reason::NearDuplicate],
            "exact_duplicate_of" => &[Reason::ExactDuplicate],
            "english" => &[Reason::Language],
            "spam" => &[Reason::Blocklist, Reason::Repetition, Reason::Quality],
            "menu_only" => &[Reason::Length, Reason::NoMainText, Reason::Lines],
            other => panic!("unknown kind {other}"),
        };
        // Of an original and its copy the one that comes first in the archive stays.
        if let Some(original) = page["of"].as_str() {
            let both = [url, original].map(|url| reasons.get(url).copied());
            assert!(
                both == [None, Some(fallen[0])] || both == [Some(fallen[0]), None],
                "{url} and {original}: {both:?}"
            );
            continue;
        }
        let copied = [Reason::NearDuplicate, Reason::ExactDuplicate];
        if fallen.is_empty() && reasons.get(url).is_some_and(|r| copied.contains(r)) {
            copied_originals += 1;
            continue;
        }
        if !fallen.is_empty() {
            let reason = reasons.get(url);
            assert!(reason.is_some_and(|r| fallen.contains(r)), "{url}: {reason:?}");
            continue;
        }
        let Some(document) = document else {
            let dropped = corpus.dropped.iter().find(|dropped| dropped.url.as_deref() == Some(url));
            panic!("{url} fell: {:?}", dropped.map(|dropped| &dropped.detail));
        };
        kept += 1;
        let language = milpa_text::language::canonical(page["language"].as_str().unwrap()).unwrap();
        assert!(
            milpa_text::language::matches(&document.language, language),
            "{url}: {} instead of {language}",
            document.language
        );
        let has = |key: &str| {
            // The text is compared as normalised: the sample may use other spaces.
            document.text.contains(&milpa_text::normalise(page[key].as_str().unwrap()))
        };
        assert!(has("opens_with"), "{url} does not open well: {:.300}", document.text);
        assert!(has("closes_with"), "{url} does not close well");
        assert!(!has("leaves_out"), "{url} keeps furniture: {:?}", page["leaves_out"]);
        let ratio = document.text.len() as f64 / page["text_bytes"].as_f64().unwrap();
        assert!((0.9..1.1).contains(&ratio), "{url}: {ratio:.2} of the text's bytes");
    }
    assert!(copied_originals <= 5, "{copied_originals} articles fell as copies");
    assert!(kept >= 55 && pages == expected["responses"].as_u64().unwrap(), "{kept} of {pages}");
}

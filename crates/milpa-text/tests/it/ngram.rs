//! The n-gram model against KenLM and against the formulas written out (`reference/ngram_check.py`).

use std::{collections::BTreeMap, path::Path};

use milpa_text::ngram_model::{NgramConfig, NgramCounter, NgramList, NgramModel, Unit, arpa};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn scores() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden("ngram.json")).expect("a committed file"))
        .expect("JSON")
}

#[test]
fn scores_are_those_of_kenlm() {
    let list = arpa::read(&golden("ngram.arpa"), Unit::Word, 10_000).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    list.write(&path).unwrap();
    let model = NgramModel::open(&path).unwrap();
    model.verify().unwrap();
    let scores = scores();
    for case in scores["scores"].as_array().unwrap() {
        let sentence = case["sentence"].as_str().unwrap();
        let found = model.score_sentence(sentence.split_whitespace()).log10;
        let expect = case["log10"].as_f64().unwrap();
        assert!((found - expect).abs() <= 1e-4 * expect.abs(), "{sentence}: {found}, not {expect}");
        // Word by word too, so that two errors cannot cancel out.
        let scorer = model.scorer();
        let mut state = scorer.begin();
        for (word, expect) in
            sentence.split_whitespace().chain(["</s>"]).zip(case["words"].as_array().unwrap())
        {
            let (log10, next) = scorer.score(&state, scorer.word(word));
            let expect = expect[0].as_f64().unwrap();
            assert!((f64::from(log10) - expect).abs() < 1e-5, "{word} in {sentence}");
            state = next;
        }
    }
}

#[test]
fn estimates_are_those_of_the_formulas() {
    let config = NgramConfig { order: 4, ..NgramConfig::default() };
    let mut counter = NgramCounter::new(config).unwrap();
    for line in scores()["training"].as_array().unwrap() {
        counter.add_sentence(line.as_str().unwrap().split(' ')).unwrap();
    }
    let ours = numbers(&text_of(&counter.finish().unwrap()));
    let theirs = numbers(&std::fs::read_to_string(golden("ngram.arpa")).unwrap());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (ngram, expect) in theirs {
        for (found, expect) in ours[&ngram].iter().zip(expect) {
            assert!((found - expect).abs() < 1e-5, "{ngram}: {found}, not {expect}");
        }
    }
}

fn text_of(list: &NgramList) -> String {
    let mut text = Vec::new();
    arpa::write(list, &mut text).expect("memory can be written");
    String::from_utf8(text).expect("words are UTF-8")
}

/// The n-grams of ARPA text with their numbers.
fn numbers(text: &str) -> BTreeMap<String, [f64; 2]> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let log10 = fields.next()?.parse().ok()?;
            let ngram = fields.next()?.to_owned();
            let backoff = fields.next().map_or(0.0, |field| field.parse().expect("a backoff"));
            Some((ngram, [log10, backoff]))
        })
        .collect()
}

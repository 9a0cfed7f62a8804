//! The filters against datatrove's decisions and spaCy's words, made by
//! `reference/filters_check.py golden`.

use milpa_corpus::filter::{
    C4, Filter, FineWeb, GopherQuality, GopherRepetition, Thresholds, View,
};
use milpa_text::WordRules;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/filters.json")).unwrap()
}

#[test]
fn decisions_are_those_of_datatrove() {
    let golden = golden();
    let filters: [(&str, Box<dyn Filter>); 4] = [
        ("gopher_repetition", Box::new(GopherRepetition)),
        ("gopher_quality", Box::new(GopherQuality::default())),
        ("c4", Box::new(C4::default())),
        ("fineweb", Box::new(FineWeb::default())),
    ];
    let limits = Thresholds::default();
    let mut rules = std::collections::BTreeSet::new();
    for document in golden["documents"].as_array().unwrap() {
        let [text, language] = ["text", "language"].map(|name| document[name].as_str().unwrap());
        let view = View::new(text, language, None);
        for (name, filter) in &filters {
            let found = filter.check(&view, &limits);
            assert_eq!(
                found.as_ref().map(|verdict| verdict.rule),
                document[*name].as_str(),
                "{name}: {found:?}: {text:?}"
            );
            rules.extend(found.map(|verdict| verdict.rule));
        }
    }
    assert!(rules.len() >= 25, "the documents show {} rules: {rules:?}", rules.len());
}

#[test]
fn words_are_those_of_spacy() {
    for row in golden()["words"].as_array().unwrap() {
        let [text, language] = ["text", "language"].map(|name| row[name].as_str().unwrap());
        let expect: Vec<&str> =
            row["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(WordRules::of(language).split(text), expect, "{language}: {text:?}");
    }
}

//! The ledger on models whose every change is known.

use milpa_base::{Seed, hash_bytes};
use milpa_eval::{
    ItemResult, Metric, PromptStyle, TextResult,
    divergence::{Divergence, divergence},
    ledger::{Domains, Entry, Ledger, ledger},
    multiple_choice::Resampling,
};

use crate::models::{Unigram, near, with_watch};

const RESAMPLING: Resampling = Resampling { replicates: 400, seed: Seed(2) };

/// Fifty general and fifty regional texts of 100 tokens, and two tasks; `general` and `regional` are
/// nats per token, `right` says which questions of "es/a" are right.
fn entry(name: &str, general: f64, regional: f64, right: impl Fn(u64) -> bool) -> Entry {
    let text = |source: &str, number: u64, nats: f64| TextResult {
        task: String::new(),
        source: source.to_owned(),
        document: None,
        hash: hash_bytes(format!("{source}{number}").as_bytes()),
        // Texts differ, and in the same way for every model.
        log_likelihood: -100.0 * (nats + 0.2 * Seed(8).derive(source).normal_at(number)),
        tokens: 100,
        bytes: 400,
    };
    let texts = (0..50)
        .flat_map(|number| [text("general", number, general), text("regional", number, regional)]);
    let item = |task: &str, number: u64, is_right: bool| ItemResult {
        task: task.to_owned(),
        version: 1,
        style: PromptStyle::Continuation,
        id: number.to_string(),
        line: number + 1,
        prompt_hash: hash_bytes(format!("{task}{number}").as_bytes()),
        answer: 0,
        picked: [(Metric::Acc, usize::from(!is_right))].into(),
        log_likelihoods: vec![-1.0, -2.0],
        tokens: vec![1, 1],
        truncated_tokens: 0,
        groups: std::collections::BTreeMap::new(),
        cluster: None,
    };
    let items = (0..100).flat_map(|number| {
        [item("es/a", number, right(number)), item("es/b", number, number < 50)]
    });
    Entry {
        name: name.to_owned(),
        model: name.to_owned(),
        model_hash: name.to_owned(),
        items: items.collect(),
        texts: texts.collect(),
    }
}

fn domains() -> Domains {
    Domains { general: vec!["general".to_owned()], regional: vec!["regional".to_owned()] }
}

fn none() -> Divergence {
    Divergence::Unavailable { reason: "no model".to_owned() }
}

fn compared(base: &Entry, checkpoints: &[Entry]) -> Ledger {
    let divergences = vec![none(); checkpoints.len()];
    ledger(base, checkpoints, divergences, &domains(), RESAMPLING).unwrap()
}

#[test]
fn forgetting_and_adaptation_are_the_slides() {
    let base = entry("base", 2.0, 3.0, |number| number < 60);
    let continued = entry("continued", 2.1, 2.5, |number| number < 40);
    let found = compared(&base, &[continued, base.clone()]);
    let column = &found.columns[0];
    // 0.1 nats more are e^0.1 − 1 = 10.5 %, whatever the texts are.
    let forgetting = column.forgetting.clone().unwrap();
    near(forgetting.value, 100.0 * 0.1f64.exp_m1());
    near(column.adaptation.clone().unwrap().value, -100.0 * (-0.5f64).exp_m1());
    // Pairing takes away what texts have in common: nothing is left here.
    let interval = forgetting.interval.unwrap();
    assert!(interval.high - interval.low < 1e-9, "{interval:?}");
    let general = &column.texts[0];
    assert_eq!((general.domain.as_str(), general.texts, general.unpaired), ("general", 50, 0));
    near(general.change.value, 0.1 * 100.0 / 400.0 / std::f64::consts::LN_2);
    // Twenty questions lost and none gained; the other task is as it was.
    let [lost, same] = &column.tasks[..] else { panic!("{column:?}") };
    assert_eq!((lost.paired.only_a, lost.paired.only_b), (20, 0));
    near(lost.paired.paired.difference, -0.2);
    assert!(lost.holm < 0.001 && lost.holm >= 3.9 * lost.paired.p() && same.holm == 1.0);
    // The base against itself has changed nothing.
    assert_eq!(found.columns[1].forgetting.clone().unwrap().value, 0.0);
    let text = found.to_string();
    assert!(
        text.contains("forgetting %: +10.52") && text.contains("unavailable, no model"),
        "{text}"
    );
    let svg = found.plot().to_svg();
    assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
}

#[test]
fn pieces_of_one_document_are_no_independent_texts() {
    // One of five novels is forgotten, and all of its ten pieces with it.
    let of_novels = |novels: u64| {
        let mut base = entry("base", 2.0, 3.0, |_| true);
        for (number, text) in base.texts.iter_mut().enumerate() {
            text.document = Some(number as u64 / 2 % novels);
        }
        let mut continued = base.clone();
        continued.name = "continued".to_owned();
        for text in continued.texts.iter_mut().filter(|text| text.document == Some(0)) {
            text.log_likelihood -= 10.0;
        }
        (base, continued)
    };
    let (base, continued) = of_novels(5);
    let found = compared(&base, std::slice::from_ref(&continued));
    let clustered = found.columns[0].forgetting.clone().unwrap();
    let general = &found.columns[0].texts[0];
    assert_eq!((general.texts, general.documents), (50, 5));
    // None of five, or three and more: more than the pieces by themselves would say.
    let alone = |mut entry: Entry| {
        entry.texts.iter_mut().for_each(|text| text.document = None);
        entry
    };
    let items = compared(&alone(base), &[alone(continued)]);
    let items = items.columns[0].forgetting.clone().unwrap();
    assert_eq!(items.value, clustered.value);
    let (items, clustered) = (items.interval.unwrap(), clustered.interval.unwrap());
    let wider = (clustered.high - clustered.low) / (items.high - items.low);
    assert!(wider > 2.0 && clustered.low.abs() < 1e-9, "{wider}: {clustered:?}, {items:?}");
    // Of one novel the interval tells of that novel, and it is said.
    let (base, continued) = of_novels(1);
    let text = compared(&base, &[continued]).to_string();
    assert!(text.contains("general: one document only, so its interval lies within it"), "{text}");
}

#[test]
fn what_cannot_be_compared_is_refused_with_its_reason() {
    let base = entry("base", 2.0, 3.0, |_| true);
    let mut other = entry("other", 2.0, 3.0, |_| true);
    for text in &mut other.texts {
        text.tokens += 1;
    }
    for item in &mut other.items {
        item.prompt_hash = hash_bytes(format!("{} and more", item.id).as_bytes());
    }
    other.items.retain(|item| item.task == "es/a");
    let found = compared(&base, &[other]);
    let column = &found.columns[0];
    assert!(column.forgetting.clone().unwrap_err().contains("tokenizers differ"));
    // Bits per byte do not ask for a tokenizer.
    assert_eq!(column.texts.len(), 2);
    assert!(column.tasks.is_empty());
    assert_eq!(column.refused.len(), 2);
    assert!(column.refused[0].contains("no prompt of es/a is the same"), "{:?}", column.refused);
    assert_eq!(column.refused[1], "es/b: only the base has it");

    let wrong = Domains { general: vec!["mmlu".to_owned()], ..domains() };
    let error = ledger(&base, &[], vec![], &wrong, RESAMPLING).unwrap_err().to_string();
    assert!(error.contains("no text of \"mmlu\"; it has general, regional"), "{error}");
}

#[test]
fn a_model_without_distributions_has_no_divergence() {
    let model = Unigram::new();
    let texts = ["abc".to_owned()];
    let found = with_watch(|watch| divergence(&model, &model, &texts, RESAMPLING, watch)).unwrap();
    let Divergence::Unavailable { reason } = found else { panic!("{found:?}") };
    assert!(reason.contains("unavailable for unigram"), "{reason}");
}

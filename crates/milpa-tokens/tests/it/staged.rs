//! Runs in stages: every sample is counted, whatever changes on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use milpa_base::{Seed, TextRecord};
use milpa_tokens::{
    Difficulty, Direction, DocumentValue, Packing, SampleOrder, SourceSet, Split, StageDraw,
    StageShare, StagedConfig, StagedLoader, StagedState, TokenDataset, TokensConfig, TokensError,
    ValuedRecord, encode_valued_shards,
};
use proptest::prelude::*;

use crate::{TEXTS, artifacts::encode, record, train, with_context};

/// Sources s0, s1, … of so many documents, of which each knows its perplexity.
fn dataset(documents: &[usize]) -> (tempfile::TempDir, TokenDataset) {
    dataset_with(DocumentValue::Perplexity, documents)
}

/// The same with another value.
fn dataset_with(value: DocumentValue, documents: &[usize]) -> (tempfile::TempDir, TokenDataset) {
    let tokenizer = train(300).tokenizer;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("tokens");
    let valued = || {
        documents.iter().enumerate().flat_map(|(source, &count)| {
            (0..count).map(move |n| {
                let text = format!("{source} {n} {}", TEXTS[n % TEXTS.len()].repeat(1 + n % 4));
                let record = record(&format!("s{source}"), n, &text);
                let values = BTreeMap::from([(value, (n * 7 % count) as f32)]);
                Ok(ValuedRecord { record, values })
            })
        })
    };
    with_context(2, |context| {
        encode_valued_shards(
            &dir,
            &TokensConfig::default(),
            &tokenizer,
            &mut valued(),
            &mut valued(),
            BTreeMap::new(),
            Vec::new(),
            context,
        )
        .unwrap()
    });
    let dataset = TokenDataset::open(&dir, &tokenizer).unwrap();
    (root, dataset)
}

/// The same for all cases of a test: its text takes longer to encode than a case takes.
fn three_sources() -> &'static TokenDataset {
    static DATASET: OnceLock<(tempfile::TempDir, TokenDataset)> = OnceLock::new();
    &DATASET.get_or_init(|| dataset(&[5, 9, 14])).1
}

fn set(dataset: &TokenDataset) -> [SourceSet<'_>; 1] {
    [SourceSet { name: None, dataset }]
}

fn share(weight: f64) -> StageShare {
    StageShare { weight, epochs: None }
}

fn stage(name: &str, batches: u64, batch_size: usize, weights: &[f64]) -> StageDraw {
    let named = |(n, weight): (usize, &f64)| (format!("s{n}"), share(*weight));
    StageDraw {
        name: name.to_owned(),
        batches,
        batch_size,
        mixture: Some(weights.iter().enumerate().map(named).collect()),
        replay: BTreeMap::new(),
        order: SampleOrder::Shuffled,
    }
}

fn config(stages: Vec<StageDraw>) -> StagedConfig {
    StagedConfig { sequence_length: 12, packing: Packing::Windows, seed: Seed(3), stages }
}

fn rising() -> Difficulty {
    Difficulty { direction: Direction::Ascending, buckets: 4, mixing: 0.0 }
}

type Identity = (String, u64, u64);

fn identities(loader: &StagedLoader<'_>, batch: u64) -> Vec<Identity> {
    let of = |(source, pass, sample): (&str, u64, u64)| (source.to_owned(), pass, sample);
    loader.identities(batch).unwrap().into_iter().map(of).collect()
}

/// Every sample of every full pass once, none twice, and as many as the state says.
fn count_every_sample(drawn: &[Identity], state: &StagedState) {
    let distinct: BTreeSet<&Identity> = drawn.iter().collect();
    assert_eq!(distinct.len(), drawn.len(), "a sample came twice within a pass");
    for (name, source) in &state.sources {
        let of_source: Vec<_> = drawn.iter().filter(|(other, ..)| other == name).collect();
        assert_eq!(of_source.len() as u64, source.drawn, "{name}");
        for pass in 0..=source.drawn / source.samples {
            let of_pass = of_source.iter().filter(|(_, other, _)| *other == pass).count() as u64;
            let expected = (source.drawn - pass * source.samples).min(source.samples);
            assert_eq!(of_pass, expected, "pass {pass} over {name}");
        }
    }
}

fn order() -> impl Strategy<Value = SampleOrder> {
    prop_oneof![
        3 => Just(SampleOrder::Shuffled),
        1 => (1u32..6, 0.0f64..1.0).prop_map(|(buckets, mixing)| {
            SampleOrder::Length(Difficulty { direction: Direction::Descending, buckets, mixing })
        }),
        1 => Just(SampleOrder::Perplexity(rising())),
    ]
}

/// What happens to a run at a random moment.
#[derive(Debug, Clone)]
enum Event {
    /// Batches are drawn by so many ranks.
    Draw(u64, u64),
    /// The process dies and the same command resumes.
    Kill,
    /// The recipe gets another mixture for the rest of the stage under way.
    Mixture(Vec<f64>),
    /// The stage under way ends here; a new one has another batch size, mixture and order.
    Stage(u64, usize, Vec<f64>, SampleOrder),
}

fn event() -> impl Strategy<Value = Event> {
    let weights = || prop::collection::vec(0.1f64..1.0, 3);
    prop_oneof![
        4 => (1u64..9, 1u64..5).prop_map(|(batches, ranks)| Event::Draw(batches, ranks)),
        1 => Just(Event::Kill),
        1 => weights().prop_map(Event::Mixture),
        1 => (2u64..12, 1usize..6, weights(), order())
            .prop_map(|(batches, size, weights, order)| Event::Stage(batches, size, weights, order)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_lost_or_repeated_whatever_changes_on_the_way(
        events in prop::collection::vec(event(), 1..24), first in order(),
    ) {
        let sets = set(three_sources());
        let mut recipe = config(vec![StageDraw { order: first, ..stage("0", 10, 4, &[1.0, 2.0, 3.0]) }]);
        let mut loader = StagedLoader::new(&sets, &recipe).unwrap();
        let (mut next, mut drawn) = (0, Vec::new());
        for event in events {
            let stored = serde_json::to_string(&loader.state(next).unwrap()).unwrap();
            let state: StagedState = serde_json::from_str(&stored).unwrap();
            let last = recipe.stages.len() - 1;
            let done_before: u64 = recipe.stages[..last].iter().map(|stage| stage.batches).sum();
            match event {
                Event::Draw(batches, ranks) => {
                    let end = (next + batches).min(loader.batches());
                    for batch in next..end {
                        let whole = loader.batch(batch).unwrap();
                        let mut rows = Vec::new();
                        for rank in 0..ranks {
                            rows.extend(loader.batch_of_rank(batch, rank, ranks).unwrap().tokens_bt);
                        }
                        prop_assert_eq!(&rows, &whole.tokens_bt, "ranks have the batch once");
                        drawn.extend(identities(&loader, batch));
                    }
                    next = end.max(next);
                }
                Event::Kill => loader = StagedLoader::resume(&sets, &recipe, &state).unwrap(),
                Event::Mixture(weights) => {
                    let mut changed = recipe.clone();
                    changed.stages[last].mixture = stage("", 1, 1, &weights).mixture;
                    match StagedLoader::extend(&sets, &changed, &state) {
                        Ok(extended) => (loader, recipe) = (extended, changed),
                        Err(error) => {
                            // Half-way through a fixed set, where nothing is left to draw, or where
                            // a share is too small.
                            let ordered = recipe.stages[last].order != SampleOrder::Shuffled;
                            let small = error.to_string().contains("is less than one of its");
                            prop_assert!(ordered || small || next == loader.batches(), "{error}");
                        }
                    }
                }
                Event::Stage(batches, batch_size, weights, order) => {
                    let mut changed = recipe.clone();
                    if next <= done_before {
                        changed.stages.pop();
                    } else if changed.stages[last].order == SampleOrder::Shuffled {
                        changed.stages[last].batches = next - done_before;
                    }
                    let name = changed.stages.len().to_string();
                    changed.stages.push(StageDraw { order, ..stage(&name, batches, batch_size, &weights) });
                    match StagedLoader::extend(&sets, &changed, &state) {
                        Ok(extended) => (loader, recipe) = (extended, changed),
                        Err(error) => prop_assert!(
                            error.to_string().contains("is less than one of its"), "{error}"
                        ),
                    }
                }
            }
        }
        for batch in next..loader.batches() {
            drawn.extend(identities(&loader, batch));
        }
        let end = loader.state(loader.batches()).unwrap();
        prop_assert_eq!(drawn.len() as u64, end.sample);
        count_every_sample(&drawn, &end);
    }

    #[test]
    fn the_table_is_what_is_drawn(
        weights in prop::collection::vec(0.05f64..1.0, 3), batches in 8u64..40, at in 0u64..40,
        batch_size in 1usize..7,
    ) {
        let total = batches * batch_size as u64;
        // A share of less than one sample is refused.
        let least = weights.iter().copied().fold(f64::INFINITY, f64::min);
        prop_assume!(least / weights.iter().sum::<f64>() * total as f64 >= 1.0);
        let two = vec![stage("a", batches, batch_size, &weights), stage("b", 5, 3, &[1.0])];
        let loader = StagedLoader::new(&set(three_sources()), &config(two)).unwrap();
        let planned = &loader.plan()[0];
        let end = loader.drawn(batches).unwrap();
        prop_assert_eq!(planned.sources.iter().map(|source| source.samples).sum::<u64>(), total);
        let at = at.min(batches);
        let underway = loader.drawn(at).unwrap();
        for source in &planned.sources {
            prop_assert_eq!(source.samples, end[&source.name]);
            let due = source.share * (at * batch_size as u64) as f64;
            prop_assert!((underway[&source.name] as f64 - due).abs() < 1.0, "within one sample");
        }
        let sum: f64 = weights.iter().sum();
        for (source, weight) in planned.sources.iter().zip(&weights) {
            prop_assert!((source.samples as f64 - weight / sum * total as f64).abs() < 1.0);
        }
    }

    /// A curriculum draws the samples that a shuffled stage draws, in another order.
    #[test]
    fn an_order_by_difficulty_is_a_permutation(order in order(), batches in 10u64..60) {
        let with = |order| {
            let stages = vec![stage("a", 3, 2, &[1.0]), StageDraw { order, ..stage("b", batches, 2, &[1.0]) }];
            StagedLoader::new(&set(three_sources()), &config(stages)).unwrap()
        };
        let drawn = |loader: StagedLoader<'_>| -> Vec<Identity> {
            (3..loader.batches()).flat_map(|batch| identities(&loader, batch)).collect()
        };
        let (mut ordered, mut shuffled) = (drawn(with(order)), drawn(with(SampleOrder::Shuffled)));
        let passes: Vec<u64> = ordered.iter().map(|identity| identity.1).collect();
        prop_assert!(passes.is_sorted(), "pass by pass");
        ordered.sort();
        shuffled.sort();
        prop_assert_eq!(ordered, shuffled);
    }

    /// Every token of every document is predicted once in a pass, from the tokens before it in its
    /// document, and nothing is cropped.
    #[test]
    fn best_fit_packs_every_token_once(
        sequence_length in 3usize..90, documents in prop::collection::vec(1usize..9, 1..3),
    ) {
        let (_root, dataset) = dataset(&documents);
        let config = StagedConfig {
            sequence_length,
            packing: Packing::BestFit,
            ..config(vec![StageDraw { mixture: None, ..stage("a", 1, 1, &[1.0]) }])
        };
        let plan = |config: &StagedConfig| StagedLoader::new(&set(&dataset), config).unwrap().plan();
        let mut expected = Vec::new();
        for source in dataset.counts(Split::Train).keys() {
            let mut number = 0;
            while let Some(ids) = dataset.document(Split::Train, source, number).unwrap() {
                let mut before = dataset.eos_id();
                for piece in ids.chunks(sequence_length) {
                    let mut inputs = vec![before];
                    inputs.extend(&piece[..piece.len() - 1]);
                    expected.push((inputs, piece.to_vec()));
                    before = piece[piece.len() - 1];
                }
                number += 1;
            }
        }
        let mut one_pass = config;
        one_pass.stages = dataset.counts(Split::Train).keys().map(|source| {
            let mut one = stage(source, 1, 1, &[]);
            one.mixture = Some(BTreeMap::from([(source.clone(), share(1.0))]));
            let counts = plan(&StagedConfig { stages: vec![one.clone()], ..one_pass.clone() })[0].sources[0].packing;
            StageDraw { batches: counts.samples, ..one }
        }).collect();
        let loader = StagedLoader::new(&set(&dataset), &one_pass).unwrap();
        let mut found = Vec::new();
        let mut padding = 0;
        for number in 0..loader.batches() {
            let batch = loader.batch(number).unwrap();
            let used = batch.lengths_b[0] as usize;
            prop_assert_eq!(batch.tokens_bt.len(), sequence_length);
            padding += sequence_length - used;
            let mut start = 0;
            for at in 1..=used {
                if at == used || batch.documents_bt[at] != batch.documents_bt[start] {
                    found.push((batch.tokens_bt[start..at].to_vec(), batch.targets_bt[start..at].to_vec()));
                    start = at;
                }
            }
            prop_assert!(batch.documents_bt[used..].iter().all(|n| *n != batch.documents_bt[used - 1]));
        }
        expected.sort();
        found.sort();
        prop_assert_eq!(found, expected);
        let said: u64 = loader.plan().iter().map(|stage| stage.sources[0].packing.padding).sum();
        prop_assert_eq!(padding as u64, said);
    }
}

/// The mean value of each sample in the order in which samples come; `value` takes a document's number and
/// tokens.
fn curriculum(
    dataset: &TokenDataset,
    order: SampleOrder,
    value: impl Fn(usize, usize) -> usize,
) -> Vec<f64> {
    let mut config = config(vec![StageDraw { order, ..stage("a", 10_000, 1, &[1.0]) }]);
    // Whole documents in each sample, so that its value is the mean of theirs.
    (config.sequence_length, config.packing) = (400, Packing::BestFit);
    let samples =
        StagedLoader::new(&set(dataset), &config).unwrap().plan()[0].sources[0].packing.samples;
    config.stages[0].batches = samples;
    let loader = StagedLoader::new(&set(dataset), &config).unwrap();
    let number_of: BTreeMap<Vec<u32>, usize> = (0..40)
        .map(|n| (dataset.document(Split::Train, "s0", n).unwrap().unwrap(), n as usize))
        .collect();
    let mean = |batch| {
        let batch = loader.batch(batch).unwrap();
        let used = batch.lengths_b[0] as usize;
        let (mut sum, mut start) = (0, 0);
        for at in 1..=used {
            if at == used || batch.documents_bt[at] != batch.documents_bt[start] {
                let tokens = at - start;
                sum += value(number_of[&batch.targets_bt[start..at]], tokens) * tokens;
                start = at;
            }
        }
        sum as f64 / used as f64
    };
    (0..samples).map(mean).collect()
}

#[test]
fn a_curriculum_rises_or_falls_as_its_direction_says() {
    let check = |dataset: &TokenDataset,
                 by: fn(Difficulty) -> SampleOrder,
                 value: fn(usize, usize) -> usize| {
        for direction in [Direction::Ascending, Direction::Descending] {
            let order = by(Difficulty { direction, buckets: 1000, mixing: 0.0 });
            let mut means = curriculum(dataset, order, value);
            if direction == Direction::Descending {
                means.reverse();
            }
            assert!(means.len() > 5 && means.is_sorted(), "{order}: {means:?}");
            assert!(means[0] < means[means.len() - 1], "{order}: {means:?}");
        }
    };
    let (_one, of_perplexity) = dataset(&[40]);
    let (_two, of_quality) = dataset_with(DocumentValue::Quality, &[40]);
    check(&of_perplexity, SampleOrder::Length, |_, tokens| tokens);
    check(&of_perplexity, SampleOrder::Perplexity, |n, _| n * 7 % 40);
    check(&of_quality, SampleOrder::Quality, |n, _| n * 7 % 40);
}

#[test]
fn an_order_that_is_made_ahead_is_the_same_and_is_made_once() {
    let order = SampleOrder::Length(rising());
    let later = StageDraw { order, ..stage("b", 400, 8, &[1.0, 2.0]) };
    let config = config(vec![stage("a", 3, 2, &[1.0, 2.0]), later]);
    let loader = || StagedLoader::new(&set(three_sources()), &config).unwrap();
    let (late, ahead) = (loader(), loader());
    let batch = late.batch(3).unwrap();
    assert_eq!(ahead.order_ahead(0).unwrap(), 2);
    assert_eq!(ahead.order_ahead(0).unwrap(), 0);
    assert_eq!(ahead.batch(3).unwrap(), batch);
    assert_eq!(late.order_ahead(0).unwrap(), 0, "the batch has made them");

    let begins: Vec<u64> = (0..9).filter(|&batch| ahead.begins_stage(batch)).collect();
    assert_eq!(begins, [0, 3]);
    assert_eq!(ahead.order_ahead(ahead.batches() - 1).unwrap(), 0);
}

#[test]
fn stages_that_cannot_be_drawn_say_what_to_change() {
    let (_root, dataset) = dataset(&[5, 9]);
    let refused = |stage: StageDraw, expect: &[&str]| {
        let error =
            StagedLoader::new(&set(&dataset), &config(vec![stage])).unwrap_err().to_string();
        for part in expect {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    };
    let two = || stage("ends", 100, 4, &[1.0, 1.0]);
    refused(stage("a", 10, 4, &[1.0, 1.0, 1.0]), &["stage \"a\"", "\"s2\"", "it has s0, s1"]);
    let mut capped = two();
    capped
        .mixture
        .as_mut()
        .unwrap()
        .insert("s0".to_owned(), StageShare { weight: 1.0, epochs: Some(2.0) });
    refused(
        capped,
        &["runs out of epochs", "it may be drawn 2 times", "lower its share", "50.0 %"],
    );
    refused(
        StageDraw { order: SampleOrder::Quality(rising()), ..two() },
        &["by quality", "order by length"],
    );
    refused(
        StageDraw { order: SampleOrder::Length(Difficulty { buckets: 0, ..rising() }), ..two() },
        &["buckets is 0"],
    );
    refused(
        StageDraw { replay: BTreeMap::from([("general".to_owned(), share(0.5))]), ..two() },
        &["its replay names \"general\"", "it has s0, s1"],
    );
    refused(
        StageDraw { replay: BTreeMap::from([("s0".to_owned(), share(1.5))]), ..two() },
        &["replay takes 1.5"],
    );
    refused(stage("a", 10, 4, &[1.0, -1.0]), &["the weight of \"s1\" is -1"]);
    refused(
        stage("a", 10, 4, &[1.0, 1e-9]),
        &["the share of \"s1\" is less than one of its 40 samples"],
    );
    refused(stage("a", 0, 4, &[1.0]), &["no batches"]);
    refused(stage("a", u64::MAX, 4, &[1.0]), &["more than can be counted"]);
}

#[test]
fn replay_takes_its_share_of_a_stage_from_another_folder() {
    let ((_one, own), (_two, general)) = (dataset(&[5, 9]), dataset(&[20, 10]));
    let sets = [
        SourceSet { name: None, dataset: &own },
        SourceSet { name: Some("general".to_owned()), dataset: &general },
    ];
    let replay = BTreeMap::from([("general".to_owned(), share(0.25))]);
    let stages = vec![StageDraw { replay, mixture: None, ..stage("a", 100, 4, &[]) }];
    let loader = StagedLoader::new(&sets, &config(stages)).unwrap();
    let drawn = loader.drawn(100).unwrap();
    assert_eq!(drawn["general/s0"] + drawn["general/s1"], 100);
    assert_eq!(drawn["s0"] + drawn["s1"], 300);
    assert!(drawn["general/s0"] > drawn["general/s1"], "by size: {drawn:?}");
}

#[test]
fn other_data_is_refused_by_name_and_new_data_is_welcome() {
    let tokenizer = train(300).tokenizer;
    let root = tempfile::tempdir().unwrap();
    let open = |name: &str, documents: &[(&str, &str)]| {
        let dir = root.path().join(name);
        let texts = |(source, text): &(&str, &str)| -> Vec<TextRecord> {
            (0..9).map(|n| record(source, n, &format!("{n} {text}"))).collect()
        };
        let texts: Vec<TextRecord> = documents.iter().flat_map(texts).collect();
        encode(&dir, &tokenizer, texts.clone(), texts, 1).unwrap();
        TokenDataset::open(&dir, &tokenizer).unwrap()
    };
    let first = open("first", &[("s0", TEXTS[0]), ("s1", TEXTS[1])]);
    let recipe = config(vec![stage("a", 10, 4, &[1.0, 1.0])]);
    let state = StagedLoader::new(&set(&first), &recipe).unwrap().state(4).unwrap();

    let other = open("other", &[("s0", TEXTS[0]), ("s1", TEXTS[3])]);
    for result in [
        StagedLoader::resume(&set(&other), &recipe, &state),
        StagedLoader::extend(&set(&other), &recipe, &state),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, TokensError::OtherPlan(_)));
        let (error, old) = (error.to_string(), state.sources["s1"].fingerprint.short());
        assert!(error.contains(&format!("the source \"s1\" were {old} and are")), "{error}");
        assert!(!error.contains("\"s0\""), "{error}");
    }

    let more = open("more", &[("s0", TEXTS[0]), ("s1", TEXTS[1]), ("s2", TEXTS[2])]);
    let mut longer = recipe.clone();
    longer.stages.push(stage("b", 5, 2, &[1.0, 1.0, 1.0]));
    let error = StagedLoader::resume(&set(&more), &longer, &state).unwrap_err().to_string();
    assert!(
        error.contains("the source \"s2\" is new") && error.contains("the stage \"b\" is new"),
        "{error}"
    );
    let extended = StagedLoader::extend(&set(&more), &longer, &state).unwrap();
    let plain = StagedLoader::new(&set(&first), &recipe).unwrap();
    assert_eq!(identities(&extended, 7), identities(&plain, 7), "the stage under way is as it was");
    assert_eq!(extended.batches(), 15);

    let mut shorter = recipe.clone();
    shorter.stages[0].batches = 3;
    let error = StagedLoader::extend(&set(&first), &shorter, &state).unwrap_err().to_string();
    assert!(error.contains("4 batches of 4 samples of stage \"a\" are done"), "{error}");
    let mut other_rows = recipe;
    other_rows.sequence_length = 13;
    let error = StagedLoader::extend(&set(&first), &other_rows, &state).unwrap_err().to_string();
    assert!(error.contains("train.sequence_length"), "{error}");
}

//! The loader: nothing lost or repeated within an epoch, shares, resuming.

use std::collections::BTreeMap;

use milpa_base::{Mixture, Seed, TextRecord};
use milpa_tokens::{Batch, Loader, LoaderConfig, Order, Split, TokenDataset, TokensError};
use proptest::prelude::*;

use crate::{TEXTS, artifacts::encode, record, train};

/// A data set with sources of different lengths, kept with its folder.
fn dataset(documents: &[usize]) -> (tempfile::TempDir, TokenDataset) {
    let tokenizer = train(300).tokenizer;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("tokens");
    let texts: Vec<TextRecord> = documents
        .iter()
        .enumerate()
        .flat_map(|(source, &count)| {
            (0..count).map(move |n| {
                let text = format!("{n} {}", TEXTS[n % TEXTS.len()]);
                // Windows tell which source they are from.
                let text = if source == 1 { text.to_uppercase() } else { text };
                record(&format!("s{source}"), n, &text)
            })
        })
        .collect();
    encode(&dir, &tokenizer, texts.clone(), texts, 2).unwrap();
    let dataset = TokenDataset::open(&dir, &tokenizer).unwrap();
    (root, dataset)
}

fn config(sequence_length: usize, batch_size: usize, seed: u64) -> LoaderConfig {
    LoaderConfig {
        sequence_length,
        batch_size,
        mixture: None,
        seed: Seed(seed),
        order: Order::Shuffled,
    }
}

/// Inputs and last target of each sequence.
fn rows(batch: &Batch) -> Vec<Vec<u32>> {
    let t = batch.sequence_length;
    (0..batch.batch_size)
        .map(|row| {
            let mut window = batch.tokens_bt[row * t..(row + 1) * t].to_vec();
            assert_eq!(window[1..], batch.targets_bt[row * t..(row + 1) * t - 1]);
            window.push(batch.targets_bt[(row + 1) * t - 1]);
            window
        })
        .collect()
}

/// The windows of a source, cut from its documents.
fn windows_of(dataset: &TokenDataset, source: &str, sequence_length: usize) -> Vec<Vec<u32>> {
    let mut stream = Vec::new();
    let mut document = 0;
    while let Some(ids) = dataset.document(Split::Train, source, document).unwrap() {
        stream.extend(ids);
        document += 1;
    }
    (0..(stream.len() - 1) / sequence_length)
        .map(|window| stream[window * sequence_length..=(window + 1) * sequence_length].to_vec())
        .collect()
}

fn sorted(mut windows: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
    windows.sort();
    windows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_epoch_has_each_window_once_and_each_epoch_its_own_order(
        sequence_length in 1usize..40, seed: u64, documents in prop::collection::vec(3usize..12, 1..4),
    ) {
        let (_root, dataset) = dataset(&documents);
        let loader = Loader::new(&dataset, &config(sequence_length, 1, seed)).unwrap();
        let steps = loader.steps_per_epoch();
        let mut expected = Vec::new();
        for source in dataset.counts(Split::Train).keys() {
            expected.extend(windows_of(&dataset, source, sequence_length));
        }
        let epoch = |number: u64| -> Vec<Vec<u32>> {
            (number * steps..(number + 1) * steps)
                .flat_map(|step| rows(&loader.batch(step).unwrap()))
                .collect()
        };
        let (first, second) = (epoch(0), epoch(1));
        prop_assert_eq!(sorted(first.clone()), sorted(expected));
        prop_assert_eq!(sorted(second.clone()), sorted(first.clone()));
        if steps > 20 {
            prop_assert_ne!(second, first);
        }
        prop_assert!(loader.epochs(2 * steps).values().all(|epochs| (epochs - 2.0).abs() < 1e-9));
    }

    #[test]
    fn with_a_mixture_each_source_goes_through_its_own_epochs(
        sequence_length in 8usize..20, seed: u64, share in 0.1f64..0.9,
    ) {
        let (_root, dataset) = dataset(&[5, 9]);
        let mixture = Mixture(BTreeMap::from([
            ("s0".to_owned(), share),
            ("s1".to_owned(), 1.0 - share),
        ]));
        let config = LoaderConfig { mixture: Some(mixture), ..config(sequence_length, 4, seed) };
        let loader = Loader::new(&dataset, &config).unwrap();
        let windows = windows_of(&dataset, "s0", sequence_length);
        let others = windows_of(&dataset, "s1", sequence_length);
        prop_assume!(windows.iter().all(|window| !others.contains(window)));
        let (mut first_epoch, mut samples, mut step) = (Vec::new(), 0, 0);
        while first_epoch.len() < windows.len() {
            for row in rows(&loader.batch(step).unwrap()) {
                if first_epoch.len() < windows.len() && windows.contains(&row) {
                    first_epoch.push(row);
                    let expected = share * (f64::from(samples) + 1.0);
                    prop_assert!((first_epoch.len() as f64 - expected).abs() <= 2.0);
                }
                samples += 1;
            }
            step += 1;
        }
        prop_assert_eq!(sorted(first_epoch), sorted(windows.clone()));
        let epochs = loader.epochs(step);
        let seen = epochs["s0"] * windows.len() as f64 + epochs["s1"] * others.len() as f64;
        prop_assert!((seen - f64::from(samples)).abs() < 1e-6);
    }

    #[test]
    fn a_resumed_run_is_the_uninterrupted_one(
        seed: u64, batch_size in 1usize..5, cut in 0u64..20, mixed: bool,
    ) {
        let (root, first) = dataset(&[7, 4]);
        let mixture = mixed.then(|| {
            Mixture(BTreeMap::from([("s0".to_owned(), 1.0), ("s1".to_owned(), 3.0)]))
        });
        let config = LoaderConfig { mixture, ..config(16, batch_size, seed) };
        let loader = Loader::new(&first, &config).unwrap();
        let whole: Vec<Batch> = (0..25).map(|step| loader.batch(step).unwrap()).collect();
        let stored = serde_json::to_string(&loader.state(cut)).unwrap();
        drop(loader);

        let tokenizer = train(300).tokenizer;
        let again = TokenDataset::open(&root.path().join("tokens"), &tokenizer).unwrap();
        let loader = Loader::new(&again, &config).unwrap();
        let step = loader.resume(&serde_json::from_str(&stored).unwrap()).unwrap();
        prop_assert_eq!(step, cut);
        for step in step..25 {
            prop_assert_eq!(&loader.batch(step).unwrap(), &whole[step as usize]);
        }
    }
}

#[test]
fn a_position_of_other_data_or_settings_is_refused() {
    let (_root, first) = dataset(&[7, 4]);
    let (_other_root, other) = dataset(&[7, 5]);
    let state = Loader::new(&first, &config(16, 2, 1)).unwrap().state(3);
    let check = |dataset: &TokenDataset, config: &LoaderConfig| {
        let error = Loader::new(dataset, config).unwrap().resume(&state).unwrap_err();
        assert!(matches!(error, TokensError::OtherData { .. }), "{error}");
    };
    check(&other, &config(16, 2, 1));
    check(&first, &config(16, 2, 2));
    check(&first, &config(16, 4, 1));
    check(&first, &config(8, 2, 1));
    let mixture = Some(Mixture(BTreeMap::from([("s0".to_owned(), 1.0)])));
    check(&first, &LoaderConfig { mixture, ..config(16, 2, 1) });
    assert_eq!(Loader::new(&first, &config(16, 2, 1)).unwrap().resume(&state).unwrap(), 3);
}

#[test]
fn settings_that_cannot_work_are_explained() {
    let (_root, dataset) = dataset(&[7, 4]);
    let check = |config: &LoaderConfig, expect: &str| {
        let error = Loader::new(&dataset, config).unwrap_err().to_string();
        assert!(error.contains(expect), "{expect:?} is not in {error}");
    };
    let mixed = |name: &str| LoaderConfig {
        mixture: Some(Mixture(BTreeMap::from([(name.to_owned(), 1.0)]))),
        ..config(8, 1, 0)
    };
    check(&config(0, 1, 0), "at least one");
    check(&config(1_000_000, 1, 0), "use more text or a shorter sequence length");
    check(&config(1 << 20, 1 << 20, 0), "accumulate gradients");
    check(&mixed("s00"), "did you mean \"s0\"?");
    check(&LoaderConfig { sequence_length: 5000, ..mixed("s0") }, "fewer than one window");
}

#[test]
fn documents_are_numbered_within_a_row() {
    let (_root, dataset) = dataset(&[6]);
    let batch = Loader::new(&dataset, &config(64, 3, 5)).unwrap().batch(0).unwrap();
    let eos = dataset.eos_id();
    let mut changes = 0;
    for row in 0..3 {
        let range = row * 64..(row + 1) * 64;
        let (ids, documents) = (&batch.tokens_bt[range.clone()], &batch.documents_bt[range]);
        assert_eq!(documents[0], 0);
        for t in 1..64 {
            assert_eq!(documents[t] - documents[t - 1], u32::from(ids[t - 1] == eos));
            changes += documents[t] - documents[t - 1];
        }
    }
    assert!(changes > 0);
}

#[test]
fn validation_windows_are_fixed_and_evenly_spaced() {
    let (_root, dataset) = dataset(&[20, 10]);
    let all = dataset.windows(Split::Validation, 8, usize::MAX).unwrap();
    let few = dataset.windows(Split::Validation, 8, 10).unwrap();
    assert_eq!(few.len(), 10);
    assert!(!few.is_empty() && all.len() > 100);
    assert_eq!(few.source(0), "s0");
    assert_eq!(few.source(9), "s1");
    let whole = rows(&all.batch(0..all.len()).unwrap());
    for (n, row) in rows(&few.batch(0..usize::MAX).unwrap()).iter().enumerate() {
        assert_eq!(*row, whole[n * all.len() / 10]);
    }
    assert_eq!(few.batch(8..99).unwrap().batch_size, 2);
    let error = dataset.windows(Split::Validation, 1 << 30, 1).unwrap_err().to_string();
    assert!(error.contains("validation split"), "{error}");
}

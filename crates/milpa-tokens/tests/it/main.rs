//! Behaviour of milpa-tokens from outside: published tokenizers and templates, artifacts on disk,
//! and the loader.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod artifacts;
mod loading;
mod pieces;
mod published;
mod staged;

use std::path::PathBuf;

use milpa_base::{Silent, StopFlag, TextRecord};
use milpa_tokens::{Context, TokenizerConfig, TrainedTokenizer, train_tokenizer};

/// The folder with real data, or a note that the test is skipped.
fn data() -> Option<PathBuf> {
    let path = std::env::var_os("MILPA_DATA").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: MILPA_DATA is not set to the folder with the published tokenizers");
    }
    path
}

fn with_context<T>(threads: usize, work: impl FnOnce(&Context<'_>) -> T) -> T {
    let stop = StopFlag::default();
    work(&Context { threads, progress: &Silent, stop: &stop })
}

fn record(source: &str, number: usize, text: &str) -> TextRecord {
    TextRecord {
        id: format!("{source}-{number}"),
        source: source.to_owned(),
        text: text.to_owned(),
    }
}

const TEXTS: [&str; 6] = [
    "En un lugar de la Mancha, de cuyo nombre no quiero acordarme.",
    "Ñande rekoháre ag\u{303}uyjevete, che irũnguéra; mba’éichapa peẽ?",
    "Ñuqaykuqa wasiykupi kachkayku, p'isqukunata qhawaspa.",
    "A lei é a mesma para todos; não há exceção. 1.234,56\n\n",
    "¡Hola! ¿Qué tal? 日本 👩\u{200d}🌾 \r\n\t fin",
    "En un lugar de la sierra, de la que sí quiero acordarme.",
];

fn train(vocab_size: usize) -> TrainedTokenizer {
    let config = TokenizerConfig { vocab_size, ..TokenizerConfig::default() };
    let mut records = TEXTS.iter().enumerate().map(|(n, text)| Ok(record("s", n, text)));
    with_context(2, |context| train_tokenizer(&config, &mut records, context).unwrap())
}

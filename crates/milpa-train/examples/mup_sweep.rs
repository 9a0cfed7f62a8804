//! Trains models of three widths on a text at five learning rates and with three seeds each, as they are
//! and with the rates carried over from the narrowest by µP, and prints one line of JSON for each run:
//! width, whether with µP, rate, seed, and bits per byte of held-out text at the end. The narrowest is the
//! base: with µP or without it is the same.
//!
//! `cargo run -p milpa-train --example mup_sweep -- TEXT FOLDER`, the text being UTF-8 with a document on
//! each line; runs are left in the folder, and the same command goes on where it was cut. The
//! numbers depend on the text alone, not on threads or load. `cargo xtask bench mup` makes a table of them.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use milpa_base::{Seed, Silent, StopFlag, TextRecord};
use milpa_model::{Device, ModelConfig};
use milpa_tokens::{
    Context, TokenDataset, Tokenizer, TokenizerConfig, TokensConfig, encode_shards, train_tokenizer,
};
use milpa_train::{ChangedPlan, Job, Pulse, Start, Summary, TrainConfig, train};
use serde_json::json;

type Failure = Box<dyn Error>;

const WIDTHS: [usize; 3] = [64, 128, 256];
const RATES: [f64; 5] = [0.001, 0.002, 0.004, 0.008, 0.016];
const SEEDS: [u64; 3] = [1, 2, 3];
/// One document of so many is held out.
const HELD_OUT: usize = 10;

fn model(width: usize, vocab_size: usize) -> ModelConfig {
    ModelConfig {
        hidden_size: width,
        layers: 2,
        heads: width / 16,
        kv_heads: width / 32,
        head_dim: Some(16),
        ffn_size: 3 * width,
        vocab_size,
        context_length: 64,
        ..ModelConfig::default()
    }
}

fn config(rate: f64, mup: bool) -> Result<TrainConfig, Failure> {
    let mup = if mup { format!("mup = {{ base_width = {} }}", WIDTHS[0]) } else { String::new() };
    Ok(toml::from_str(&format!(
        "steps = 400
         sequence_length = 64
         batch_size = 8
         checkpoint_every = 400
         validate_every = 400
         validation_sequences = 64
         schedule = {{ kind = 'warmup_stable_decay', warmup = 20, decay = 200 }}
         optimizer = {{ kind = 'adam_w', learning_rate = {rate:?} }}
         {mup}"
    ))?)
}

/// Tokenizer and tokens of the text.
fn prepare(
    text: &str,
    folder: &Path,
    threads: usize,
) -> Result<(Tokenizer, TokenDataset), Failure> {
    let record = |(number, text): (usize, &str)| TextRecord {
        id: number.to_string(),
        source: "text".to_owned(),
        text: text.to_owned(),
    };
    let (held_out, used): (Vec<_>, Vec<_>) =
        text.lines().enumerate().partition(|(number, _)| number % HELD_OUT == HELD_OUT - 1);
    let records = |part: &[(usize, &str)]| part.iter().copied().map(record).collect::<Vec<_>>();
    let stop = StopFlag::default();
    let context = Context { threads, progress: &Silent, stop: &stop };
    let config = TokenizerConfig { vocab_size: 512, ..TokenizerConfig::default() };
    let tokenizer =
        train_tokenizer(&config, &mut records(&used).into_iter().map(Ok), &context)?.tokenizer;
    let tokens = folder.join("tokens");
    encode_shards(
        &tokens,
        &TokensConfig::default(),
        &tokenizer,
        &mut records(&used).into_iter().map(Ok),
        &mut records(&held_out).into_iter().map(Ok),
        BTreeMap::new(),
        Vec::new(),
        &context,
    )?;
    let dataset = TokenDataset::open(&tokens, &tokenizer)?;
    Ok((tokenizer, dataset))
}

fn run(
    (tokenizer, dataset): (&Tokenizer, &TokenDataset),
    model: &ModelConfig,
    config: &TrainConfig,
    seed: u64,
    folder: &Path,
) -> Result<Summary, Failure> {
    let job = Job {
        config,
        start: Start::New(model),
        tokenizer,
        dataset,
        replay: Vec::new(),
        general: None,
        changed_plan: ChangedPlan::Refuse,
        seed: Seed(seed),
        licences: Vec::new(),
        device: Device::cpu(1),
        peak_flops_per_second: 1e12,
        measure_peak: &|| 1e12,
        mirror: None,
        pulse: &Pulse::default(),
        on_gradients: None,
        on_metric: None,
    };
    fs::create_dir_all(folder)?;
    Ok(train(&job, folder, &Silent, &StopFlag::default())?)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [text, folder] = &arguments[..] else { return Err("usage: mup_sweep TEXT FOLDER".into()) };
    let (text, folder) = (fs::read_to_string(text)?, Path::new(folder));
    let threads = thread::available_parallelism()?.get();
    fs::create_dir_all(folder)?;
    let (tokenizer, dataset) = prepare(&text, folder, threads)?;
    let mut runs = Vec::new();
    for width in WIDTHS {
        for mup in [false, true].into_iter().take(if width == WIDTHS[0] { 1 } else { 2 }) {
            for rate in RATES {
                runs.extend(SEEDS.map(|seed| (width, mup, rate, seed)));
            }
        }
    }
    // Small models gain more from a core each than from sharing all.
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), String> {
        while let Some(&(width, mup, rate, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let with = if mup { "mup" } else { "plain" };
            let folder = folder.join(format!("{width}-{with}-{rate}-{seed}"));
            let model = model(width, tokenizer.vocab_size());
            let summary = config(rate, mup)
                .and_then(|config| run((&tokenizer, &dataset), &model, &config, seed, &folder))
                .map_err(|error| error.to_string())?;
            let bits = summary.validation_bits_per_byte.get("text");
            let line =
                json!({"width": width, "mup": mup, "rate": rate, "seed": seed, "bits": bits});
            println!("{line}");
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a run panicked"))
    })?;
    Ok(())
}

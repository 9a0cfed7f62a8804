//! A small run to train again and again: a dataset of a few sentences, a decoder of two layers.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use milpa_base::{Progress, Seed, Silent, StopFlag, TextRecord};
use milpa_model::{Device, ModelConfig};
use milpa_tokens::{
    Context, TokenDataset, Tokenizer, TokenizerConfig, TokensConfig, encode_shards, train_tokenizer,
};
use milpa_train::{
    BaseModel, ChangedPlan, Job, Metric, OnGradients, OnMetric, Pulse, ReplaySet, Start, Summary,
    TrainConfig, TrainError, read_metrics,
};

const TEXTS: [&str; 4] = [
    "En un lugar de la Mancha, de cuyo nombre no quiero acordarme, vivía un hidalgo.",
    "A lei é a mesma para todos; não há exceção que não esteja escrita nela.",
    "Ñuqaykuqa wasiykupi kachkayku, p'isqukunata qhawaspa, sara tarpuspa.",
    "El maíz, el frijol y la calabaza crecen juntos en la milpa desde hace siglos.",
];

/// What may stand beside a run without changing it.
#[derive(Default)]
pub(crate) struct Beside<'a> {
    pub(crate) mirror: Option<&'a Path>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) on_gradients: Option<OnGradients<'a>>,
    pub(crate) on_metric: Option<OnMetric<'a>>,
    pub(crate) changed_plan: ChangedPlan<'a>,
}

/// What a run begins with and reads.
struct Text<'a> {
    start: Start<'a>,
    dataset: &'a TokenDataset,
    replay: ReplaySet<'a>,
    general: Option<&'a TokenDataset>,
}

/// A folder with a tokenizer and token shards: the sources `sentences` and `numbers`.
pub(crate) struct Field {
    root: tempfile::TempDir,
    tokenizer: Tokenizer,
    dataset: TokenDataset,
    general: TokenDataset,
}

impl Field {
    pub(crate) fn new() -> Self {
        Self::with_held_out(Vec::new())
    }

    /// The same with more held-out text beside the numbers.
    pub(crate) fn with_held_out(more: Vec<TextRecord>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let texts = |count: usize| -> Vec<TextRecord> {
            let text = |n: usize| TextRecord {
                id: format!("{n}"),
                source: "sentences".to_owned(),
                text: format!("{n}. {} {}", TEXTS[n % 4], TEXTS[(n / 4) % 4]),
            };
            (0..count).map(text).collect()
        };
        let numbers = |count: usize| -> Vec<TextRecord> {
            let text = |n: usize| TextRecord {
                id: format!("n{n}"),
                source: "numbers".to_owned(),
                text: format!("{n} mais {n} são {}; {n} por {n} são {}.", n + n, n * n),
            };
            (0..count).map(text).collect()
        };
        let stop = StopFlag::default();
        let context = Context { threads: 2, progress: &Silent, stop: &stop };
        let config = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
        let tokenizer = train_tokenizer(&config, &mut texts(16).into_iter().map(Ok), &context)
            .unwrap()
            .tokenizer;
        let encode = |name: &str, train: Vec<TextRecord>, held_out: Vec<TextRecord>| {
            let dir = root.path().join(name);
            encode_shards(
                &dir,
                &TokensConfig::default(),
                &tokenizer,
                &mut train.into_iter().map(Ok),
                &mut held_out.into_iter().map(Ok),
                BTreeMap::new(),
                vec!["CC0-1.0".to_owned()],
                &context,
            )
            .unwrap();
            TokenDataset::open(&dir, &tokenizer).unwrap()
        };
        let dataset = encode("tokens", texts(64), texts(4));
        let held_out = numbers(12).into_iter().chain(more).collect();
        let general = encode("general", numbers(40), held_out);
        Self { root, tokenizer, dataset, general }
    }

    /// The text that [`Field::train`] trains on.
    pub(crate) fn dataset(&self) -> &TokenDataset {
        &self.dataset
    }

    /// The folder of the run called `name`.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Goes on with another recipe in the folder `name`.
    pub(crate) fn extend(&self, name: &str, config: &TrainConfig) -> Result<Summary, TrainError> {
        self.train_beside(
            name,
            config,
            &Beside { changed_plan: ChangedPlan::Extend, ..Beside::default() },
        )
    }

    /// Begins the run `name` at a checkpoint of another, with a recipe of its own.
    pub(crate) fn fork(
        &self,
        from: &Path,
        name: &str,
        config: &TrainConfig,
    ) -> Result<Summary, TrainError> {
        let changed_plan = ChangedPlan::Fork(from);
        self.train_beside(name, config, &Beside { changed_plan, ..Beside::default() })
    }

    /// Trains in the folder `name` to the end of the run.
    pub(crate) fn train(&self, name: &str, config: &TrainConfig) -> Result<Summary, TrainError> {
        self.train_until(name, config, &Silent, &StopFlag::default())
    }

    /// As [`Field::train`], but asks for a stop once `step` steps are done.
    pub(crate) fn train_to(&self, name: &str, config: &TrainConfig, step: u64) -> TrainError {
        let stop = StopFlag::default();
        let watch = StopAfter { line: format!("after step {step}:"), stop: stop.clone() };
        self.train_until(name, config, &watch, &stop).unwrap_err()
    }

    fn train_until(
        &self,
        name: &str,
        config: &TrainConfig,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<Summary, TrainError> {
        self.train_with(name, config, &Beside::default(), progress, stop)
    }

    /// As [`Field::train`], with what may stand beside a run.
    pub(crate) fn train_beside(
        &self,
        name: &str,
        config: &TrainConfig,
        beside: &Beside<'_>,
    ) -> Result<Summary, TrainError> {
        self.train_with(name, config, beside, &Silent, &StopFlag::default())
    }

    /// As [`Field::train_beside`], with what is shown and a stop.
    pub(crate) fn train_with(
        &self,
        name: &str,
        config: &TrainConfig,
        beside: &Beside<'_>,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<Summary, TrainError> {
        let model = ModelConfig {
            hidden_size: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: Some(8),
            ffn_size: 32,
            vocab_size: self.tokenizer.vocab_size(),
            context_length: 16,
            ..ModelConfig::default()
        };
        let text = Text {
            start: Start::New(&model),
            dataset: &self.dataset,
            replay: ReplaySet { name: "general", dataset: &self.general },
            general: None,
        };
        self.train_text(name, config, &text, beside, progress, stop)
    }

    /// Goes on from the run `base` on numbers; what was known are the sentences.
    pub(crate) fn go_on_from(
        &self,
        base: &str,
        name: &str,
        config: &TrainConfig,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<Summary, TrainError> {
        self.go_on_beside(base, name, config, &Beside::default(), progress, stop)
    }

    /// As [`Field::go_on_from`], with what may stand beside a run.
    pub(crate) fn go_on_beside(
        &self,
        base: &str,
        name: &str,
        config: &TrainConfig,
        beside: &Beside<'_>,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<Summary, TrainError> {
        let base = BaseModel::open(&self.folder(base).join("checkpoint")).unwrap();
        let text = Text {
            start: Start::Base(&base),
            dataset: &self.general,
            replay: ReplaySet { name: "sentences", dataset: &self.dataset },
            general: Some(&self.dataset),
        };
        self.train_text(name, config, &text, beside, progress, stop)
    }

    fn train_text(
        &self,
        name: &str,
        config: &TrainConfig,
        text: &Text<'_>,
        beside: &Beside<'_>,
        progress: &dyn Progress,
        stop: &StopFlag,
    ) -> Result<Summary, TrainError> {
        config.validate().unwrap();
        let out = self.folder(name);
        fs::create_dir_all(&out).unwrap();
        let job = Job {
            config,
            start: text.start,
            tokenizer: &self.tokenizer,
            dataset: text.dataset,
            replay: vec![text.replay],
            general: text.general,
            changed_plan: beside.changed_plan,
            seed: Seed(7),
            licences: Vec::new(),
            device: Device::cpu(2),
            peak_flops_per_second: 1e12,
            measure_peak: &|| 1e12,
            mirror: beside.mirror,
            pulse: &beside.pulse,
            on_gradients: beside.on_gradients,
            on_metric: beside.on_metric,
        };
        milpa_train::train(&job, &out, progress, stop)
    }

    /// The metrics of a run.
    pub(crate) fn metrics(&self, name: &str) -> Vec<Metric> {
        read_metrics(&self.folder(name)).unwrap()
    }
}

/// A recipe's `[train]` of 24 steps, with `more` lines.
pub(crate) fn recipe(more: &str) -> TrainConfig {
    let mut table: toml::Table = toml::from_str(
        "steps = 24
         sequence_length = 16
         batch_size = 4
         micro_batch_size = 2
         checkpoint_every = 8
         validate_every = 1
         validation_sequences = 2
         schedule = { kind = 'warmup_stable_decay', warmup = 3, decay = 8 }
         optimizer = { kind = 'adam_w', learning_rate = 0.01 }",
    )
    .unwrap();
    table.extend(toml::from_str::<toml::Table>(more).unwrap());
    table.try_into().unwrap()
}

/// The bytes of all files of a checkpoint.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            let within = files(&entry.path());
            found.extend(within.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// Damages a checkpoint that may still be being written: once it is whole, some of its weights are other.
pub(crate) fn flip(checkpoint: &Path) {
    while !checkpoint.join("manifest.toml").exists() {
        thread::yield_now();
    }
    let file = File::options().write(true).open(checkpoint.join("model.safetensors")).unwrap();
    file.write_all_at(b"damage", 4096).unwrap();
}

/// Asks for a stop when a line with a text is shown.
pub(crate) struct StopAfter {
    pub(crate) line: String,
    pub(crate) stop: StopFlag,
}

impl Progress for StopAfter {
    fn begin(&self, _: &str, _: Option<u64>, _: &str) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn line(&self, text: &str) {
        if text.contains(&self.line) {
            self.stop.stop();
        }
    }
}

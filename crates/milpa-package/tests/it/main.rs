//! A bundle made from a small checkpoint: its files, its numbers, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, ops::ControlFlow, path::Path};

use milpa_base::{
    ArtifactWriter, Digest, GenerateRequest, Generation, Kind, Manifest, ModelError, ModelInfo,
    Piece, RollingScore, RollingWindows, Score, ScoreRequest, Seed, Silent, StopFlag, TextModel,
    TextRecord, artifact::Record, config::Location, hash_bytes, manifest::Verify, open_artifact,
};
use milpa_model::{
    Biases, DecoderDescription, Device, Family, GgufFormat, LocalModel, ModelConfig, QkNorm,
    RopeScaling, new_parameters, write_hf_model,
};
use milpa_package::{
    Base, Choice, Job, MEASUREMENTS_FILE, MeasureTexts, Measurement, OpenModel, PackageConfig,
    PackageError, bundle_name, check_formats, gguf_file, package,
};
use milpa_tokens::{ChatTemplate, Context, Tokenizer, TokenizerConfig, train_tokenizer};

const TEXT: &str = "El maíz, el frijol y la calabaza crecen juntos en la milpa. ";

fn tokenizer(text: &str) -> Tokenizer {
    let config = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
    let record =
        TextRecord { id: "1".to_owned(), text: text.repeat(8), source: "prueba".to_owned() };
    let context = Context { threads: 1, progress: &Silent, stop: &StopFlag::default() };
    train_tokenizer(&config, &mut std::iter::once(Ok(record)), &context).unwrap().tokenizer
}

fn write_tokenizer(dir: &Path, tokenizer: &Tokenizer) {
    fs::create_dir_all(dir).unwrap();
    tokenizer.write_files(dir, &ChatTemplate::continuation()).unwrap();
}

/// A checkpoint as training writes it, with random weights.
fn write_checkpoint(dir: &Path, tokenizer: &Tokenizer, inputs: BTreeMap<String, Digest>) {
    write_checkpoint_of(dir, &description(tokenizer), tokenizer, inputs);
}

fn description(tokenizer: &Tokenizer) -> DecoderDescription {
    DecoderDescription::from(&ModelConfig {
        hidden_size: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn_size: 96,
        vocab_size: tokenizer.vocab_size(),
        context_length: 64,
        ..ModelConfig::default()
    })
}

/// The same without normalised queries and keys.
fn llama(tokenizer: &Tokenizer) -> DecoderDescription {
    let (family, qk_norm) = (Family::Llama, QkNorm::None);
    DecoderDescription { family, qk_norm, ..description(tokenizer) }
}

fn write_checkpoint_of(
    dir: &Path,
    model: &DecoderDescription,
    tokenizer: &Tokenizer,
    inputs: BTreeMap<String, Digest>,
) {
    let device = Device::cpu(1);
    let parameters = new_parameters(model, Seed(3), &device).unwrap();
    let writer = ArtifactWriter::begin(dir, Kind::Checkpoint).unwrap();
    write_hf_model(writer.dir(), model, &parameters, tokenizer.eos_id(), tokenizer.bos_id())
        .unwrap();
    let template = tokenizer.chat_template().cloned();
    let template = template.unwrap_or_else(ChatTemplate::continuation);
    tokenizer.write_files(writer.dir(), &template).unwrap();
    let mut record = Record::new("train", &BTreeMap::<String, String>::new(), inputs).unwrap();
    record.licences = vec!["CC-BY-4.0".to_owned()];
    record.counts.insert("tokens".to_owned(), 1_500_000);
    writer.finish(record).unwrap();
}

struct Fixture {
    folder: tempfile::TempDir,
    texts: Vec<String>,
    config: PackageConfig,
    measurements: Vec<Measurement>,
    base: Option<Base>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer(TEXT);
        write_tokenizer(&folder.path().join("tokenizer"), &tokenizer);
        let inputs = BTreeMap::from([("tokenizer".to_owned(), tokenizer.hash())]);
        write_checkpoint(&folder.path().join("checkpoint"), &tokenizer, inputs);
        let config = PackageConfig {
            description: "Un modelo de prueba.".to_owned(),
            licence: Some("CC-BY-4.0".to_owned()),
            languages: vec!["es".to_owned()],
            ..PackageConfig::default()
        };
        let measurements = vec![Measurement {
            measure: "accuracy".to_owned(),
            on: "enem 1".to_owned(),
            weights: None,
            value: 0.25,
            interval: Some((0.2, 0.3)),
        }];
        Self {
            folder,
            texts: vec![TEXT.repeat(3), TEXT.to_owned()],
            config,
            measurements,
            base: None,
        }
    }

    fn package(&self, out: &str, threads: usize) -> Result<Manifest, PackageError> {
        self.package_with(out, threads, &|path| Ok(Box::new(LocalModel::open(path, threads)?)))
    }

    fn package_with(
        &self,
        out: &str,
        threads: usize,
        open: &OpenModel<'_>,
    ) -> Result<Manifest, PackageError> {
        let path = |name: &str| self.folder.path().join(name);
        let job = Job {
            config: &self.config,
            name: "milpa-prueba",
            checkpoint: &path("checkpoint"),
            tokenizer: &path("tokenizer"),
            base: self.base.as_ref(),
            measurements: &self.measurements,
            texts: Some(MeasureTexts { name: "validation", texts: &self.texts, open }),
            threads,
            progress: &Silent,
        };
        package(&job, &path(out))
    }
}

#[test]
fn a_bundle_is_whole_and_can_be_opened() {
    let fixture = Fixture::new();
    let manifest = fixture.package("bundle", 1).unwrap();
    let dir = fixture.folder.path().join("bundle");
    open_artifact(&dir, Kind::Bundle, Verify::Contents).unwrap();
    let files: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        files,
        [
            "README.md",
            "config.json",
            "generation_config.json",
            MEASUREMENTS_FILE,
            "model-Q8_0.gguf",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    assert_eq!(manifest.licences, ["CC-BY-4.0"]);
    assert_eq!(bundle_name(&dir).as_deref(), Some("milpa-prueba"));
    assert_eq!(bundle_name(fixture.folder.path()), None);
    // Both forms of the model answer alike.
    let full = LocalModel::open(&dir, 1).unwrap();
    let small = LocalModel::open(&dir.join(gguf_file(fixture.config.quantisations[0])), 1).unwrap();
    let bits = |model: &LocalModel| {
        model.score_rolling(&[TEXT], RollingWindows::default(), &mut |_| {}).unwrap()[0]
            .bits_per_byte()
    };
    assert!((bits(&full) - bits(&small)).abs() < 0.01, "{} {}", bits(&full), bits(&small));
    assert_eq!(full.chat_template(), Some(&ChatTemplate::continuation()));
    assert_eq!(small.chat_template(), Some(&ChatTemplate::continuation()));
}

#[test]
fn every_format_is_written_measured_and_named_on_the_card() {
    let mut fixture = Fixture::new();
    fixture.config.quantisations = GgufFormat::ALL.to_vec();
    let manifest = fixture.package("bundle", 1).unwrap();
    let card = fs::read_to_string(fixture.folder.path().join("bundle/README.md")).unwrap();
    for format in GgufFormat::ALL {
        let file = gguf_file(format);
        assert!(manifest.files.iter().any(|found| found.path == file), "{file}");
        assert!(card.contains(&format!("| bits per byte | validation | {format} |")), "{card}");
        assert!(card.contains(&format!("`{file}` is the same model")), "{card}");
    }
}

#[test]
fn families_that_no_recipe_begins_are_packaged() {
    let fixture = Fixture::new();
    let path = |name: &str| fixture.folder.path().join(name);
    let tokenizer = Tokenizer::open(&path("tokenizer")).unwrap();
    let qwen = DecoderDescription {
        family: Family::Qwen2,
        biases: Biases { qkv: true, ..Biases::default() },
        ..llama(&tokenizer)
    };
    let mut llama = llama(&tokenizer);
    llama.ropes[0].scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original: 32,
    };
    let inputs = BTreeMap::from([("tokenizer".to_owned(), tokenizer.hash())]);
    for model in [qwen, llama] {
        check_formats(&fixture.config, &path("checkpoint"), &model, &tokenizer).unwrap();
        write_checkpoint_of(&path("checkpoint"), &model, &tokenizer, inputs.clone());
        fixture.package("bundle", 1).unwrap();
        for file in ["", "model-Q8_0.gguf"] {
            LocalModel::open(&path("bundle").join(file), 1).unwrap();
        }
        let card = fs::read_to_string(path("bundle/README.md")).unwrap();
        assert!(card.contains("| Layers × width | 2 × 64 |"), "{card}");
    }
}

#[test]
fn what_no_quantised_file_can_hold_is_refused_before_training() {
    let mut fixture = Fixture::new();
    let path = |name: &str| fixture.folder.path().join(name);
    let tokenizer = Tokenizer::open(&path("tokenizer")).unwrap();
    let mut mistral = DecoderDescription { family: Family::Mistral, ..llama(&tokenizer) };
    let base = path("base");
    let check = |config: &PackageConfig, model: &DecoderDescription, tokenizer: &Tokenizer| {
        check_formats(config, &base, model, tokenizer).map_err(|error| error.to_string())
    };
    check(&fixture.config, &mistral, &tokenizer).unwrap();
    let broken = ChatTemplate::new("{{ messages }}").unwrap();
    tokenizer.write_files(&path("tokenizer"), &broken).unwrap();
    let settings = path("tokenizer/tokenizer_config.json");
    let text = fs::read_to_string(&settings).unwrap().replace("{{ messages }}", "{% for %}");
    fs::write(&settings, text).unwrap();
    let untemplated = Tokenizer::open(&path("tokenizer")).unwrap();
    let error = check(&fixture.config, &mistral, &untemplated).unwrap_err();
    assert!(error.starts_with("package.chat_template is that of"), "{error}");
    let named =
        PackageConfig { chat_template: Some(Location::plain("chatml")), ..fixture.config.clone() };
    check(&named, &mistral, &untemplated).unwrap();
    mistral.layers[0].window = Some(16);
    let error = check(&fixture.config, &mistral, &tokenizer).unwrap_err();
    for part in ["package.quantisations names Q8_0", "sliding window", "`quantisations = []`"] {
        assert!(error.contains(part), "{error}");
    }
    fixture.config.quantisations = Vec::new();
    check(&fixture.config, &mistral, &untemplated).unwrap();
}

#[test]
fn the_checkpoints_template_stays_where_none_is_named() {
    let mut fixture = Fixture::new();
    let path = |name: &str| fixture.folder.path().join(name);
    let own = ChatTemplate::new("{% for m in messages %}[{{ m.content }}]{% endfor %}").unwrap();
    let tokenizer = Tokenizer::open(&path("tokenizer")).unwrap();
    tokenizer.write_files(&path("tokenizer"), &own).unwrap();
    let tokenizer = Tokenizer::open(&path("tokenizer")).unwrap();
    let inputs = BTreeMap::from([("tokenizer".to_owned(), tokenizer.hash())]);
    write_checkpoint(&path("checkpoint"), &tokenizer, inputs);
    let template = |file: &str| {
        let model = LocalModel::open(&path("bundle").join(file), 1).unwrap();
        model.chat_template().cloned()
    };
    let card = || fs::read_to_string(path("bundle/README.md")).unwrap();
    fixture.package("bundle", 1).unwrap();
    assert_eq!(template(""), Some(own.clone()));
    assert_eq!(template("model-Q8_0.gguf"), Some(own));
    assert!(!card().contains("it continues text"), "{}", card());
    fixture.config.chat_template = Some(Location::plain("continuation"));
    fixture.package("bundle", 1).unwrap();
    assert_eq!(template(""), Some(ChatTemplate::continuation()));
    assert!(card().contains("it continues text"), "{}", card());
}

#[test]
fn the_card_names_the_base_and_what_was_chosen_against_it() {
    let mut fixture = Fixture::new();
    let path = |name: &str| fixture.folder.path().join(name);
    let tokenizer = Tokenizer::open(&path("tokenizer")).unwrap();
    let digest = hash_bytes(b"the base");
    let inputs =
        BTreeMap::from([("tokenizer".to_owned(), tokenizer.hash()), ("base".to_owned(), digest)]);
    write_checkpoint(&path("checkpoint"), &tokenizer, inputs);
    let card = || fs::read_to_string(path("bundle/README.md")).unwrap();
    let forgetting = Measurement {
        measure: "forgetting".to_owned(),
        on: "general text".to_owned(),
        weights: None,
        value: 4.5,
        interval: Some((3.25, 5.75)),
    };
    let choice = Choice {
        limit: Some(5.0),
        chosen: "0.5 base".to_owned(),
        reason: "it forgot least".to_owned(),
        measurements: vec![forgetting],
    };
    fixture.base = Some(Base { name: "org/model \"1B\"".to_owned(), choice: None });
    let alone = fixture.package("bundle", 1).unwrap();
    assert!(card().contains("base_model: \"org/model \\\"1B\\\"\"\n"), "{}", card());
    assert!(
        card().contains(&format!(
            "`org/model \"1B\"`, whose shape and weights have the BLAKE3 `{digest}`.\n\n## Measured"
        )),
        "{}",
        card()
    );
    fixture.base = Some(Base { name: "model".to_owned(), choice: Some(choice) });
    let chosen = fixture.package("bundle", 1).unwrap();
    assert_ne!(alone.key, chosen.key);
    for part in [
        "with a limit on forgetting of 5 %. Of the candidates `0.5 base` was chosen: it forgot least.",
        "| forgetting | general text |  | 4.5000 | 3.2500 – 5.7500 |",
        "Licences of the base and of the text that it was trained and measured with: CC-BY-4.0.",
    ] {
        assert!(card().contains(part), "{part:?} is not in {}", card());
    }
    let measured = fs::read(path("bundle").join(MEASUREMENTS_FILE)).unwrap();
    let measured: Vec<Measurement> = serde_json::from_slice(&measured).unwrap();
    assert_eq!(measured[0].measure, "forgetting");
}

#[test]
fn the_card_says_what_was_measured_and_made_from_what() {
    let fixture = Fixture::new();
    fixture.package("bundle", 1).unwrap();
    let dir = fixture.folder.path().join("bundle");
    let card = fs::read_to_string(dir.join("README.md")).unwrap();
    let weights = hash_bytes(&fs::read(dir.join("model.safetensors")).unwrap());
    let tokenizer = Tokenizer::open(&dir).unwrap().hash();
    for part in [
        "---\nlanguage:\n- \"es\"\nlicense: \"cc-by-4.0\"\n",
        "# milpa-prueba\n\nUn modelo de prueba.\n",
        "it continues text",
        "| Trained on | 1.50M tokens |",
        "| accuracy | enem 1 |  | 0.2500 | 0.2000 – 0.3000 |",
        "| bits per byte | validation | f32 |",
        "| bits per byte | validation | Q8_0 |",
        &format!("| Weights (f32) | `{weights}` |"),
        &format!("| Tokenizer | `{tokenizer}` |"),
        "Licences of the training data: CC-BY-4.0.",
    ] {
        assert!(card.contains(part), "{part:?} is not in {card}");
    }
    let json = fs::read(dir.join(MEASUREMENTS_FILE)).unwrap();
    let measured: Vec<Measurement> = serde_json::from_slice(&json).unwrap();
    assert_eq!(measured.len(), 3);
    // Random weights know nothing: a byte costs about as much as a token's share of it.
    assert!(measured[1].value > 1.0, "{measured:?}");
}

#[test]
fn the_same_inputs_give_the_same_bytes_on_any_number_of_threads() {
    let fixture = Fixture::new();
    let first = fixture.package("a", 1).unwrap();
    assert_eq!(first, fixture.package("b", 2).unwrap());
    let read =
        |name: &str| fs::read(fixture.folder.path().join(name).join("manifest.toml")).unwrap();
    assert_eq!(read("a"), read("b"));
}

#[test]
fn a_tokenizer_of_another_run_is_refused_and_nothing_is_left() {
    let fixture = Fixture::new();
    write_tokenizer(
        &fixture.folder.path().join("tokenizer"),
        &tokenizer("Otro texto, muy distinto del primero, da otro vocabulario. "),
    );
    let error = fixture.package("bundle", 1).unwrap_err();
    assert!(matches!(error, PackageError::OtherTokenizer { .. }), "{error}");
    assert!(error.to_string().contains("the tokenizer of the same run"), "{error}");
    assert!(!fixture.folder.path().join("bundle").exists());
}

#[test]
fn a_checkpoint_that_names_no_tokenizer_is_refused() {
    let fixture = Fixture::new();
    let tokenizer = tokenizer(TEXT);
    write_checkpoint(&fixture.folder.path().join("checkpoint"), &tokenizer, BTreeMap::new());
    let error = fixture.package("bundle", 1).unwrap_err();
    assert!(matches!(error, PackageError::NoTokenizer(_)), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("checkpoint/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = fixture.package("bundle", 1).unwrap_err().to_string();
    assert!(error.contains("model.safetensors is damaged"), "{error}");
}

/// A model that needs the same bits for each byte, whatever the text.
struct Constant(ModelInfo, f64);

impl TextModel for Constant {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn score(
        &self,
        _: &[ScoreRequest],
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        Err(ModelError::Failed("not asked for in these tests".to_owned()))
    }

    fn score_rolling(
        &self,
        texts: &[&str],
        _: milpa_base::RollingWindows,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        let score = |text: &&str| RollingScore {
            log_likelihood: -self.1 * std::f64::consts::LN_2 * text.len() as f64,
            tokens: text.len(),
            bytes: text.len(),
        };
        Ok(texts.iter().map(score).collect())
    }

    fn generate(
        &self,
        _: &GenerateRequest,
        _: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        Err(ModelError::Failed("not asked for in these tests".to_owned()))
    }
}

#[test]
fn a_gate_that_is_not_met_leaves_the_old_bundle() {
    let mut fixture = Fixture::new();
    fixture.config.measure.max_added_bits_per_byte = Some(0.01);
    let with_cost = |added: f64| {
        fixture.package_with("bundle", 1, &|path| {
            let info = ModelInfo {
                name: String::new(),
                hash: String::new(),
                context_length: 64,
                parameters: None,
            };
            Ok(Box::new(Constant(info, if path.is_dir() { 2.0 } else { 2.0 + added })))
        })
    };
    let before = with_cost(0.005).unwrap();
    let error = with_cost(0.02).unwrap_err();
    assert!(matches!(error, PackageError::Gate { .. }), "{error}");
    assert!(error.to_string().contains("0.0200 bits per byte more"), "{error}");
    assert!(with_cost(f64::NAN).is_err());
    let dir = fixture.folder.path().join("bundle");
    let (after, _) = open_artifact(&dir, Kind::Bundle, Verify::Contents).unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_template_of_ones_own_is_taken_and_a_broken_one_refused() {
    let mut fixture = Fixture::new();
    let path = fixture.folder.path().join("mine.jinja");
    fs::write(&path, "{{ messages[0].content }}!").unwrap();
    fixture.config.chat_template = Some(Location::plain(&path));
    fixture.package("bundle", 1).unwrap();
    let dir = fixture.folder.path().join("bundle");
    let text = fs::read_to_string(dir.join("tokenizer_config.json")).unwrap();
    assert!(text.contains("messages[0].content }}!"), "{text}");
    fs::write(&path, "{% for %}").unwrap();
    assert!(matches!(fixture.package("bundle", 1), Err(PackageError::Tokens(_))));
    fs::remove_file(&path).unwrap();
    assert!(matches!(fixture.package("bundle", 1), Err(PackageError::Read { .. })));
}

#[test]
fn a_bad_name_is_refused_before_any_work() {
    let mut fixture = Fixture::new();
    fixture.config.name = Some("../up".to_owned());
    let error = fixture.package("bundle", 1).unwrap_err().to_string();
    assert!(error.starts_with("package.name must be"), "{error}");
}

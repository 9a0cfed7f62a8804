//! Composes the bundle: checks the inputs, writes the files, measures them, and gives the folder
//! its name only when all of that has gone well.
//!
//! The same checkpoint, tokenizer, configuration and measurements give the same bytes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use milpa_base::{
    ArtifactWriter, Digest, Kind, Manifest, Progress, RollingWindows, TextModel, artifact::Record,
    hash_bytes, manifest::Verify, open_artifact,
};
use milpa_model::{
    DecoderDescription, Device, GgufDescription, GgufFormat, ParameterStore, check_gguf,
    hash_weights, read_hf_description, read_hf_weights, write_gguf, write_hf_model,
};
use milpa_tokens::{ChatTemplate, Tokenizer};
use serde::Serialize;

use crate::{
    card::{self, Base, Facts, Measurement},
    config::{PackageConfig, is_name},
    error::PackageError,
};

/// File name of the numbers in the card, for programs.
pub const MEASUREMENTS_FILE: &str = "measurements.json";
/// Longest chat template that is read, in bytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// What a bundle is made of.
pub struct Job<'a> {
    /// How.
    pub config: &'a PackageConfig,
    /// The model's name where the configuration gives none: usually the recipe's.
    pub name: &'a str,
    /// The checkpoint.
    pub checkpoint: &'a Path,
    /// The tokenizer that it was trained with.
    pub tokenizer: &'a Path,
    /// The model that training went on from, if the checkpoint has a base.
    pub base: Option<&'a Base>,
    /// Numbers of an evaluation, for the card.
    pub measurements: &'a [Measurement],
    /// Texts on which f32 and quantised weights are compared; `None` compares nothing.
    pub texts: Option<MeasureTexts<'a>>,
    /// Threads to compute with; the result does not depend on it.
    pub threads: usize,
    /// Hears of what is done.
    pub progress: &'a dyn Progress,
}

/// Texts on which weights are compared, and what opens a model to score them.
#[derive(Clone, Copy)]
pub struct MeasureTexts<'a> {
    /// Their name, for the card.
    pub name: &'a str,
    /// The texts, in order; as many are taken as fit `package.measure.max_bytes`.
    pub texts: &'a [String],
    /// Opens the model at a path: the bundle's folder for the f32 weights, or a quantised file.
    pub open: &'a OpenModel<'a>,
}

/// Opens the model at a path on this machine.
pub type OpenModel<'a> = dyn Fn(&Path) -> Result<Box<dyn TextModel>, PackageError> + 'a;

/// The name of a bundle's GGUF file.
pub fn gguf_file(format: GgufFormat) -> String {
    format!("model-{format}.gguf")
}

/// The name of the model in the bundle `dir`, if that is a bundle with a name.
pub fn bundle_name(dir: &Path) -> Option<String> {
    let manifest = Manifest::read(dir).ok().filter(|manifest| manifest.kind == Kind::Bundle)?;
    let name = manifest.config.get("name")?.as_str()?;
    is_name(name).then(|| name.to_owned())
}

/// Writes the bundle to `out`, whole or not at all.
///
/// # Errors
/// Damaged or mismatched inputs, a quantised file beyond the configured limit, a full disk; then
/// what stood at `out` before is untouched.
pub fn package(job: &Job<'_>, out: &Path) -> Result<Manifest, PackageError> {
    let config = resolve(job)?;
    let source = Source::open(job)?;
    let template = chat_template(job, &config)?;
    let writer = ArtifactWriter::begin(out, Kind::Bundle)?;
    let name = config.name.as_deref().unwrap_or_default();
    job.progress.line(&format!("package: writing {name} as a Hugging Face folder"));
    write_hf_model(
        writer.dir(),
        &source.model,
        &source.parameters,
        source.tokenizer.eos_id(),
        source.tokenizer.bos_id(),
    )?;
    source.tokenizer.write_files(writer.dir(), &template)?;
    let weights = hash_weights(writer.dir())?;
    let mut gguf_files = Vec::new();
    for &format in &config.quantisations {
        let file = gguf_file(format);
        job.progress.line(&format!("package: writing {file}"));
        let description = GgufDescription {
            name: name.to_owned(),
            licence: config.licence.clone(),
            source_hash: Some(weights),
            languages: config.languages.clone(),
            chat_template: Some(template.source().to_owned()),
        };
        let path = writer.dir().join(&file);
        write_gguf(
            &path,
            format,
            &source.model,
            &source.parameters,
            &source.tokenizer,
            &description,
        )?;
        gguf_files.push(file);
    }
    let base = job.base.zip(source.manifest.inputs.get("base").copied());
    let choice = base.and_then(|(base, _)| base.choice.as_ref());
    let mut measurements = job.measurements.to_vec();
    measurements.extend(compare(job, &config, writer.dir(), &gguf_files)?);
    let against_base = choice.iter().flat_map(|choice| &choice.measurements);
    let all: Vec<&Measurement> = against_base.chain(&measurements).collect();
    let measured = serde_json::to_vec_pretty(&all).expect("measurements have only plain fields");
    writer.write(MEASUREMENTS_FILE, &measured)?;
    let tokenizer_hash = source.tokenizer.hash();
    let facts = Facts {
        name,
        model: &source.model,
        base,
        continues: template == ChatTemplate::continuation(),
        data_licences: &source.manifest.licences,
        trained_tokens: source.manifest.counts.get("tokens").copied(),
        measurements: &measurements,
        hashes: &[
            ("Checkpoint", source.checkpoint),
            ("Tokenizer", tokenizer_hash),
            ("Weights (f32)", weights),
        ],
        gguf_files: &gguf_files,
    };
    writer.write("README.md", card::write(&config, &facts).as_bytes())?;
    Ok(writer.finish(record(job, &config, &source, &template)?)?)
}

/// Checks that the files that `config` asks for can hold a model that is known before it is trained,
/// such as one that goes on from the model in `dir`.
///
/// # Errors
/// A quantised file that cannot hold the model, its tokenizer or its chat template; the message says what
/// to change.
pub fn check_formats(
    config: &PackageConfig,
    dir: &Path,
    model: &DecoderDescription,
    tokenizer: &Tokenizer,
) -> Result<(), PackageError> {
    let Some(&format) = config.quantisations.first() else { return Ok(()) };
    check_gguf(dir, model, tokenizer).map_err(|reason| PackageError::Gguf { format, reason })?;
    let Some(own) = tokenizer.chat_template().filter(|_| config.chat_template.is_none()) else {
        return Ok(());
    };
    // A GGUF file is only opened with a template that can be read.
    ChatTemplate::new(own.source()).map(drop).map_err(|reason| PackageError::Config {
        key: "package.chat_template".to_owned(),
        message: format!(
            "is that of {}, which cannot be used: {reason}; name another one, such as \"continuation\"",
            dir.display()
        ),
    })
}

/// The configuration with its name filled in.
fn resolve(job: &Job<'_>) -> Result<PackageConfig, PackageError> {
    let mut config = job.config.clone();
    config.name.get_or_insert_with(|| job.name.to_owned());
    config.validate().map_err(|(key, message)| PackageError::Config { key, message })?;
    Ok(config)
}

/// The inputs, checked against each other.
struct Source {
    manifest: Manifest,
    /// Identity of the checkpoint artifact.
    checkpoint: Digest,
    model: DecoderDescription,
    parameters: ParameterStore,
    tokenizer: Tokenizer,
}

impl Source {
    fn open(job: &Job<'_>) -> Result<Self, PackageError> {
        let (manifest, checkpoint) =
            open_artifact(job.checkpoint, Kind::Checkpoint, Verify::Contents)?;
        let tokenizer = Tokenizer::open(job.tokenizer)?;
        match manifest.inputs.get("tokenizer") {
            Some(&trained) if trained == tokenizer.hash() => {}
            Some(&trained) => {
                return Err(PackageError::OtherTokenizer {
                    checkpoint: job.checkpoint.to_owned(),
                    trained,
                    tokenizer: job.tokenizer.to_owned(),
                    given: tokenizer.hash(),
                });
            }
            None => return Err(PackageError::NoTokenizer(job.checkpoint.to_owned())),
        }
        let device = Device::cpu(job.threads.max(1));
        let model = read_hf_description(job.checkpoint)?;
        let parameters = read_hf_weights(job.checkpoint, &model, &device)?;
        Ok(Self { manifest, checkpoint, model, parameters, tokenizer })
    }
}

fn chat_template(job: &Job<'_>, config: &PackageConfig) -> Result<ChatTemplate, PackageError> {
    let Some(given) = &config.chat_template else {
        // The tokenizer may have been written again with another one; the checkpoint is what was trained.
        let own = Tokenizer::open(job.checkpoint)?.chat_template().cloned();
        return Ok(own.unwrap_or_else(ChatTemplate::continuation));
    };
    if let Some(template) = ChatTemplate::named(&given.written) {
        return Ok(template);
    }
    let path: &PathBuf = &given.path;
    let read_error = |source| PackageError::Read { path: path.clone(), source };
    if fs::metadata(path).map_err(read_error)?.len() > MAX_TEMPLATE_BYTES {
        return Err(PackageError::Config {
            key: "package.chat_template".to_owned(),
            message: format!("is longer than the {MAX_TEMPLATE_BYTES} bytes that are read"),
        });
    }
    Ok(ChatTemplate::new(&fs::read_to_string(path).map_err(read_error)?)?)
}

/// Measures the written f32 folder and each quantised file on the same texts.
fn compare(
    job: &Job<'_>,
    config: &PackageConfig,
    dir: &Path,
    gguf_files: &[String],
) -> Result<Vec<Measurement>, PackageError> {
    let Some(given) = job.texts.filter(|_| !gguf_files.is_empty()) else { return Ok(Vec::new()) };
    let texts = within(given.texts, config.measure.max_bytes.0);
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let mut measurements = Vec::new();
    let mut add = |weights: &str, value: f64| {
        measurements.push(Measurement {
            measure: "bits per byte".to_owned(),
            on: given.name.to_owned(),
            weights: Some(weights.to_owned()),
            value,
            interval: None,
        });
    };
    let f32_bits = bits_per_byte(job, &*(given.open)(dir)?, "f32", &texts)?;
    add("f32", f32_bits);
    for (file, format) in gguf_files.iter().zip(&config.quantisations) {
        let bits = bits_per_byte(job, &*(given.open)(&dir.join(file))?, format.name(), &texts)?;
        let added = bits - f32_bits;
        if let Some(limit) = config.measure.max_added_bits_per_byte
            && (added > limit || added.is_nan())
        {
            let (file, texts) = (file.clone(), given.name.to_owned());
            return Err(PackageError::Gate { file, texts, added, limit });
        }
        add(format.name(), bits);
    }
    Ok(measurements)
}

/// The first texts that fit into `max_bytes`; the last one is cut at a character.
fn within(texts: &[String], max_bytes: u64) -> Vec<&str> {
    let mut room = max_bytes as usize;
    let mut taken = Vec::new();
    for text in texts {
        let piece = &text[..text.floor_char_boundary(room.min(text.len()))];
        if piece.is_empty() {
            continue;
        }
        taken.push(piece);
        room -= piece.len();
    }
    taken
}

fn bits_per_byte(
    job: &Job<'_>,
    model: &dyn TextModel,
    weights: &str,
    texts: &[&str],
) -> Result<f64, PackageError> {
    job.progress.begin(&format!("package: measuring {weights}"), Some(texts.len() as u64), "texts");
    let scores = model.score_rolling(texts, RollingWindows::default(), &mut |done| {
        job.progress.advance(done as u64);
    });
    job.progress.end();
    let scores =
        scores.map_err(|source| PackageError::Measure { file: weights.to_owned(), source })?;
    let (nats, bytes) = scores
        .iter()
        .fold((0.0, 0), |(nats, bytes), score| (nats - score.log_likelihood, bytes + score.bytes));
    // Four decimals are what the card shows; the rest would only be noise between machines.
    let bits = nats / (std::f64::consts::LN_2 * bytes.max(1) as f64);
    Ok((bits * 1e4).round() / 1e4)
}

fn record(
    job: &Job<'_>,
    config: &PackageConfig,
    source: &Source,
    template: &ChatTemplate,
) -> Result<Record, PackageError> {
    let mut inputs = BTreeMap::from([
        ("checkpoint".to_owned(), source.checkpoint),
        ("tokenizer".to_owned(), source.tokenizer.hash()),
        ("chat_template".to_owned(), hash_bytes(template.source().as_bytes())),
        ("measurements".to_owned(), hash_json(&(job.base, job.measurements))),
    ]);
    if let Some(given) = job.texts {
        let texts = within(given.texts, config.measure.max_bytes.0);
        inputs.insert("texts".to_owned(), hash_json(&(given.name, texts)));
    }
    if let Some(&base) = source.manifest.inputs.get("base") {
        inputs.insert("base".to_owned(), base);
    }
    let mut record = Record::new("package", config, inputs)?;
    record.licences.clone_from(&source.manifest.licences);
    record.counts.insert("parameters".to_owned(), source.model.parameters());
    Ok(record)
}

fn hash_json(value: &impl Serialize) -> Digest {
    hash_bytes(&serde_json::to_vec(value).expect("texts and numbers are plain fields"))
}

//! `tokenizer.json` and `tokenizer_config.json` of Hugging Face, and GPT-2's two files, in and out.
//!
//! Files come from outside: sizes are bounded, ids must be complete, every merge must name tokens
//! of the vocabulary, and a piece that would change the ids but is not implemented is named in the
//! error. What `tokenizer.json` says is kept byte for byte.

use std::{
    collections::HashMap,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use milpa_base::{
    Kind, Manifest,
    manifest::{MANIFEST_FILE, Verify},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    byte_level,
    chat::ChatTemplate,
    error::TokensError,
    piece_file::{self, Pipeline},
    pre_split::PreSplit,
    sentencepiece,
    tokenizer::{AddedToken, ByteLevel, Model, Names, Spec, Tokenizer, TokenizerParts},
};

pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
pub(crate) const CONFIG_FILE: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// Longest `tokenizer.json` that is read: ten times the largest published one.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Longest `tokenizer_config.json` and chat template that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Most tokens of a vocabulary: ten times the largest published one.
pub(crate) const MAX_TOKENS: usize = 4 << 20;

/// A reason without its file: a damaged file, or a piece that is not implemented.
#[derive(Debug)]
pub(crate) enum Reason {
    Bad(String),
    Unsupported(String),
}

impl Reason {
    pub(crate) fn at(self, path: &Path) -> TokensError {
        let path = path.to_owned();
        match self {
            Self::Bad(message) => TokensError::BadTokenizer { path, message },
            Self::Unsupported(piece) => TokensError::Unsupported { path, piece },
        }
    }
}

impl From<String> for Reason {
    fn from(message: String) -> Self {
        Self::Bad(message)
    }
}

/// Opens a folder or a `tokenizer.json`.
pub(crate) fn open(path: &Path) -> Result<Tokenizer, TokensError> {
    let is_dir = path.is_dir();
    if is_dir && path.join(MANIFEST_FILE).exists() {
        let manifest = Manifest::read(path)?;
        if manifest.kind == Kind::Tokenizer {
            manifest.verify(path, Verify::Contents)?;
        }
    }
    let file = if is_dir { path.join(TOKENIZER_FILE) } else { path.to_owned() };
    let dir = file.parent().map(Path::to_owned).unwrap_or_default();
    let config = read_config(&dir)?;
    if is_dir && !file.exists() {
        let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
        if !vocab.exists() || !merges.exists() {
            return Err(TokensError::NoTokenizer(path.to_owned()));
        }
        let (vocab_bytes, merges_bytes) =
            (read_bounded(&vocab, MAX_FILE_BYTES)?, read_bounded(&merges, MAX_FILE_BYTES)?);
        let tokenizer = from_gpt2(&vocab_bytes, &merges_bytes).map_err(|r| r.at(&vocab))?;
        return match config {
            Some(config) => {
                let names = read_names(&config, tokenizer.spec()).map_err(|r| r.at(&vocab))?;
                tokenizer.with_names(names).map_err(|message| Reason::Bad(message).at(&vocab))
            }
            None => Ok(tokenizer),
        };
    }
    let bytes = read_bounded(&file, MAX_FILE_BYTES)?;
    if is_sentencepiece(&file) {
        let read = || -> Result<Tokenizer, Reason> {
            let model = sentencepiece::read(&bytes)?;
            let spec = model.spec()?;
            let json = model.to_json(&spec);
            Ok(Tokenizer::build(spec, json)?)
        };
        return read().map_err(|reason| reason.at(&file));
    }
    let belongs = file.file_name().is_some_and(|name| name == TOKENIZER_FILE);
    from_json(&bytes, config.filter(|_| belongs).as_ref(), &file)
}

/// Whether a file's name is that of a SentencePiece model, as `tokenizer.model` or `x.model.v3`.
fn is_sentencepiece(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".model") || name.contains(".model.")
}

/// What lies beside a `tokenizer.json`.
pub(crate) struct SideFiles {
    config: Value,
    template: Option<String>,
}

fn read_config(dir: &Path) -> Result<Option<SideFiles>, TokensError> {
    let read = |name: &str| -> Result<Option<(PathBuf, Vec<u8>)>, TokensError> {
        let path = dir.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = read_bounded(&path, MAX_CONFIG_BYTES)?;
        Ok(Some((path, bytes)))
    };
    let config = match read(CONFIG_FILE)? {
        Some((path, bytes)) => serde_json::from_slice(&bytes)
            .map_err(|error| Reason::Bad(error.to_string()).at(&path))?,
        None => Value::Null,
    };
    let template = match read(TEMPLATE_FILE)? {
        Some((path, bytes)) => Some(
            String::from_utf8(bytes)
                .map_err(|_| Reason::Bad("it is not UTF-8".to_owned()).at(&path))?,
        ),
        None => None,
    };
    Ok((!config.is_null() || template.is_some()).then_some(SideFiles { config, template }))
}

fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, TokensError> {
    let error = |source| TokensError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(error)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > most {
        return Err(error(io::Error::other(format!("it has more than {most} bytes"))));
    }
    Ok(bytes)
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    added_tokens: Vec<FileToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ProbeModel,
}

#[derive(Deserialize)]
struct ProbeModel {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct File {
    model: FileModel,
}

#[derive(Deserialize)]
struct FileToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct FileModel {
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Vec<FileMerge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum FileMerge {
    Line(String),
    Pair(String, String),
}

/// Reads a `tokenizer.json` with the files that lie beside it.
pub(crate) fn from_json(
    bytes: &[u8],
    side: Option<&SideFiles>,
    path: &Path,
) -> Result<Tokenizer, TokensError> {
    let read = || -> Result<Tokenizer, Reason> {
        let mut spec = parse(bytes)?;
        if let Some(side) = side {
            let from_processor = spec.names.clone();
            spec.names = read_names(side, &spec)?;
            if from_processor.begins_with_bos {
                spec.names.bos = from_processor.bos;
                spec.names.begins_with_bos = true;
            }
        }
        Ok(Tokenizer::build(spec, bytes.to_vec())?)
    };
    read().map_err(|reason| reason.at(path))
}

fn parse(bytes: &[u8]) -> Result<Spec, Reason> {
    let malformed = |error: serde_json::Error| Reason::Bad(error.to_string());
    let probe: Probe = serde_json::from_slice(bytes).map_err(malformed)?;
    let mut added = Vec::with_capacity(probe.added_tokens.len());
    for token in probe.added_tokens {
        if token.single_word || token.lstrip || token.rstrip {
            return Err(Reason::Unsupported(format!(
                "the added token {:?} with single_word, lstrip or rstrip",
                token.content
            )));
        }
        added.push(AddedToken {
            id: token.id,
            text: token.content,
            special: token.special,
            normalized: token.normalized,
        });
    }
    let is_bpe = probe.model.kind.as_ref().is_none_or(|kind| kind == "BPE");
    let mut spec = if is_bpe && is_byte_level(probe.pre_tokenizer.as_ref()) {
        let pre_split = read_pre_tokenizer(probe.pre_tokenizer.as_ref())?;
        parse_byte_level(bytes, probe.normalizer.as_ref(), pre_split, added)?
    } else {
        let pipeline = Pipeline {
            normalizer: probe.normalizer.as_ref(),
            pre_tokenizer: probe.pre_tokenizer.as_ref(),
            decoder: probe.decoder.as_ref(),
            added,
        };
        piece_file::parse(bytes, pipeline)?
    };
    if let Some(bos) = leading_special(probe.post_processor.as_ref()) {
        spec.names.bos = spec.added.iter().find(|added| added.text == bos).map(|added| added.id);
        spec.names.begins_with_bos = spec.names.bos.is_some();
    }
    Ok(spec)
}

/// Whether a pre-tokenizer writes text as bytes.
fn is_byte_level(pre_tokenizer: Option<&Value>) -> bool {
    let Some(value) = pre_tokenizer else { return false };
    let steps = value["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
    steps.iter().chain([value]).any(|step| step["type"] == "ByteLevel" || step["type"] == "Split")
}

fn parse_byte_level(
    bytes: &[u8],
    normalizer: Option<&Value>,
    pre_split: PreSplit,
    added: Vec<AddedToken>,
) -> Result<Spec, Reason> {
    let malformed = |error: serde_json::Error| Reason::Bad(error.to_string());
    let model = serde_json::from_slice::<File>(bytes).map_err(malformed)?.model;
    let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let unsupported = |piece: &str| Err(Reason::Unsupported(piece.to_owned()));
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return unsupported("merge dropout");
    }
    if filled(&model.continuing_subword_prefix) || filled(&model.end_of_word_suffix) {
        return unsupported("a prefix or suffix of subwords");
    }
    if model.byte_fallback {
        return unsupported("byte fallback of a byte-level tokenizer");
    }
    let nfc = match normalizer.map(|value| &value["type"]) {
        None => false,
        Some(kind) if kind == "NFC" => true,
        Some(kind) => return unsupported(&format!("the normaliser {kind}")),
    };
    let mut merges = Vec::with_capacity(model.merges.len());
    for merge in model.merges {
        merges.push(match merge {
            FileMerge::Pair(left, right) => (left, right),
            FileMerge::Line(line) => split_merge(&line)?,
        });
    }
    let mut spec = assemble(model.vocab, &merges, added, pre_split)?;
    if let Model::ByteLevel(byte_level) = &mut spec.model {
        byte_level.nfc = nfc;
        byte_level.ignore_merges = model.ignore_merges;
    }
    Ok(spec)
}

pub(crate) fn split_merge(line: &str) -> Result<(String, String), Reason> {
    match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err(Reason::Bad(format!("the merge {:?} is not two tokens", cut(line)))),
    }
}

/// The beginning of a text, for messages.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Puts vocabulary, merges and added tokens together and checks that they belong together.
fn assemble(
    vocab: HashMap<String, u32>,
    merges: &[(String, String)],
    added: Vec<AddedToken>,
    pre_split: PreSplit,
) -> Result<Spec, Reason> {
    let bad = |message: String| Err(Reason::Bad(message));
    let highest = vocab.values().copied().chain(added.iter().map(|token| token.id)).max();
    let count = highest.map_or(0, |id| id as usize + 1);
    if count > MAX_TOKENS || count > vocab.len() + added.len() {
        return bad(format!(
            "the highest id is {}, but there are {} tokens; ids must be 0, 1, … without gaps",
            count - 1,
            vocab.len() + added.len()
        ));
    }
    let mut merged = Vec::with_capacity(merges.len());
    let id_of = |token: &str| {
        vocab.get(token).copied().ok_or_else(|| {
            Reason::Bad(format!("a merge needs {:?}, which is no token", cut(token)))
        })
    };
    for (left, right) in merges {
        merged.push((id_of(left)?, id_of(right)?, id_of(&format!("{left}{right}"))?));
    }
    let mut written: Vec<Option<String>> = vec![None; count];
    for (text, id) in vocab {
        if let Some(other) = written[id as usize].replace(text) {
            return bad(format!(
                "the id {id} is that of two tokens, one of them {:?}",
                cut(&other)
            ));
        }
    }
    let mut tokens = vec![Vec::new(); count];
    let mut is_added = vec![false; count];
    for token in &added {
        let id = token.id as usize;
        if token.text.is_empty() {
            return bad(format!("the added token {id} is empty"));
        }
        if written[id].as_ref().is_some_and(|text| *text != token.text) || is_added[id] {
            return bad(format!("the id {id} is that of two tokens, one of them {:?}", token.text));
        }
        is_added[id] = true;
        tokens[id] = token.text.clone().into_bytes();
    }
    for (id, text) in written.iter().enumerate().filter(|(id, _)| !is_added[*id]) {
        let Some(text) = text else { return bad(format!("the id {id} has no token")) };
        match byte_level::read(text) {
            Some(bytes) if !bytes.is_empty() => tokens[id] = bytes,
            _ => {
                return Err(Reason::Unsupported(format!(
                    "the token {:?}, which is not written in GPT-2's byte characters",
                    cut(text)
                )));
            }
        }
    }
    Ok(Spec {
        tokens,
        added,
        model: Model::ByteLevel(ByteLevel {
            merges: merged,
            ignore_merges: false,
            nfc: false,
            pre_split,
        }),
        names: Names::default(),
    })
}

fn read_pre_tokenizer(value: Option<&Value>) -> Result<PreSplit, Reason> {
    let unsupported = |piece: String| Err(Reason::Unsupported(piece));
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return unsupported("no pre-tokenizer".to_owned());
    };
    let single = std::slice::from_ref(value);
    let steps = match value["pretokenizers"].as_array() {
        Some(steps) if value["type"] == "Sequence" => steps.as_slice(),
        _ => single,
    };
    let mut split = None;
    let mut byte_level = false;
    for step in steps {
        match step["type"].as_str() {
            Some("Split") if split.is_none() && !byte_level => {
                let pattern = step["pattern"]["Regex"].as_str().unwrap_or_default();
                let isolated = step["behavior"] == "Isolated" && step["invert"] != true;
                let removed = step["behavior"] == "Removed" && step["invert"] == true;
                split = PreSplit::from_regex(pattern).filter(|_| isolated || removed);
                if split.is_none() {
                    return unsupported(format!("the pre-split {:?}", cut(&step.to_string())));
                }
            }
            Some("ByteLevel") if !byte_level => {
                byte_level = true;
                if step["add_prefix_space"] == true {
                    return unsupported("a space added before the text".to_owned());
                }
                if step["use_regex"] != false {
                    if split.is_some() {
                        return unsupported("two pre-splits".to_owned());
                    }
                    split = Some(PreSplit::Gpt2);
                }
            }
            _ => return unsupported(format!("the pre-tokenizer {:?}", cut(&step.to_string()))),
        }
    }
    match split {
        Some(split) if byte_level => Ok(split),
        _ => unsupported("a pre-tokenizer that is not byte-level".to_owned()),
    }
}

/// The special token that a post-processor puts before every text.
fn leading_special(value: Option<&Value>) -> Option<&str> {
    let value = value?;
    match value["type"].as_str()? {
        "Sequence" => {
            value["processors"].as_array()?.iter().find_map(|step| leading_special(Some(step)))
        }
        "TemplateProcessing" => value["single"].as_array()?.first()?["SpecialToken"]["id"].as_str(),
        _ => None,
    }
}

/// Reads what `tokenizer_config.json` names.
fn read_names(side: &SideFiles, spec: &Spec) -> Result<Names, Reason> {
    let config = &side.config;
    let token = |key: &str| -> Result<Option<u32>, Reason> {
        let value = &config[key];
        let Some(text) = value.as_str().or_else(|| value["content"].as_str()) else {
            return Ok(None);
        };
        match spec.added.iter().find(|added| added.text == text) {
            Some(added) => Ok(Some(added.id)),
            None => Err(Reason::Bad(format!(
                "{CONFIG_FILE} names {key} {:?}, which is no added token",
                cut(text)
            ))),
        }
    };
    let template = &config["chat_template"];
    let default = || {
        let named = template.as_array()?.iter().find(|entry| entry["name"] == "default")?;
        named["template"].as_str()
    };
    let source = side.template.as_deref().or_else(|| template.as_str()).or_else(default);
    Ok(Names {
        eos: token("eos_token")?,
        bos: token("bos_token")?,
        begins_with_bos: config["add_bos_token"] == true,
        template: source.map(ChatTemplate::unchecked),
    })
}

/// Reads GPT-2's `vocab.json` (or `encoder.json`) and `merges.txt` (or `vocab.bpe`).
fn from_gpt2(vocab: &[u8], merges: &[u8]) -> Result<Tokenizer, Reason> {
    let vocab: HashMap<String, u32> =
        serde_json::from_slice(vocab).map_err(|error| Reason::Bad(error.to_string()))?;
    let text = std::str::from_utf8(merges)
        .map_err(|_| Reason::Bad("merges.txt is not UTF-8".to_owned()))?;
    let merges = text
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty())
        .map(split_merge)
        .collect::<Result<Vec<_>, _>>()?;
    let end = vocab.get("<|endoftext|>").map(|&id| AddedToken {
        id,
        text: "<|endoftext|>".to_owned(),
        special: true,
        normalized: false,
    });
    let spec = assemble(vocab, &merges, end.into_iter().collect(), PreSplit::Gpt2)?;
    let json = to_json(&spec);
    Ok(Tokenizer::build(spec, json)?)
}

/// Builds a tokenizer from what GGUF stores.
pub(crate) fn from_parts(parts: &TokenizerParts) -> Result<Tokenizer, TokensError> {
    let build = || -> Result<Tokenizer, Reason> {
        let mut vocab = HashMap::with_capacity(parts.tokens.len().min(MAX_TOKENS));
        for (id, token) in parts.tokens.iter().enumerate() {
            if vocab.insert(token.clone(), id as u32).is_some() {
                return Err(Reason::Bad(format!("two tokens are written {:?}", cut(token))));
            }
        }
        let mut added = Vec::new();
        for (ids, special) in [(&parts.special, true), (&parts.user_defined, false)] {
            for &id in ids {
                let text = parts.tokens.get(id as usize).ok_or_else(|| {
                    Reason::Bad(format!("the special token {id} is not in the vocabulary"))
                })?;
                added.push(AddedToken { id, text: text.clone(), special, normalized: false });
            }
        }
        added.sort_by_key(|token| token.id);
        let mut spec = assemble(vocab, &parts.merges, added, parts.pre_split)?;
        if let Model::ByteLevel(model) = &mut spec.model {
            model.ignore_merges = parts.pre_split == PreSplit::Llama3;
        }
        for id in [parts.eos, parts.bos].into_iter().flatten() {
            if id as usize >= spec.tokens.len() {
                return Err(Reason::Bad(format!(
                    "the special token {id} is not in the vocabulary"
                )));
            }
        }
        spec.names = Names {
            eos: parts.eos,
            bos: parts.bos,
            begins_with_bos: parts.bos.is_some(),
            template: None,
        };
        let json = to_json(&spec);
        Ok(Tokenizer::build(spec, json)?)
    };
    build().map_err(|reason| reason.at(Path::new("the tokenizer of the GGUF file")))
}

/// Builds a trained tokenizer.
pub(crate) fn from_spec(spec: Spec) -> Result<Tokenizer, TokensError> {
    let json = to_json(&spec);
    Tokenizer::build(spec, json)
        .map_err(|message| Reason::Bad(message).at(Path::new("the trained tokenizer")))
}

/// Writes a `tokenizer.json`.
fn to_json(spec: &Spec) -> Vec<u8> {
    let Model::ByteLevel(model) = &spec.model else {
        unreachable!("only byte-level tokenizers are made here");
    };
    let mut texts: Vec<String> = spec.tokens.iter().map(|bytes| byte_level::write(bytes)).collect();
    for added in &spec.added {
        texts[added.id as usize].clone_from(&added.text);
    }
    let vocab: Map<String, Value> =
        texts.iter().enumerate().map(|(id, text)| (text.clone(), Value::from(id))).collect();
    let merges: Vec<String> = model
        .merges
        .iter()
        .map(|&(left, right, _)| format!("{} {}", texts[left as usize], texts[right as usize]))
        .collect();
    let added: Vec<Value> = spec
        .added
        .iter()
        .map(|token| {
            json!({
                "id": token.id, "content": token.text, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": token.normalized, "special": token.special,
            })
        })
        .collect();
    let byte_level = |regex: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
            "use_regex": regex,
        })
    };
    let pre_tokenizer = if model.pre_split == PreSplit::Gpt2 {
        byte_level(true)
    } else {
        let split = json!({
            "type": "Split", "pattern": { "Regex": model.pre_split.regex() },
            "behavior": "Isolated", "invert": false,
        });
        json!({ "type": "Sequence", "pretokenizers": [split, byte_level(false)] })
    };
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": if model.nfc { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer,
        "post_processor": byte_level(false),
        "decoder": byte_level(false),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": model.ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    });
    let mut bytes = serde_json::to_vec_pretty(&file).expect("a JSON value can be written");
    bytes.push(b'\n');
    bytes
}

/// Writes a `tokenizer_config.json`.
///
/// The class is the general one: classes named after a model bring that model's pre-split along.
pub(crate) fn config_json(tokenizer: &Tokenizer, template: &ChatTemplate) -> Vec<u8> {
    let spec = tokenizer.spec();
    let decoder: Map<String, Value> = spec
        .added
        .iter()
        .map(|token| {
            let value = json!({
                "content": token.text, "lstrip": false, "normalized": token.normalized,
                "rstrip": false, "single_word": false, "special": token.special,
            });
            (token.id.to_string(), value)
        })
        .collect();
    let text = |id: Option<u32>| id.map_or(Value::Null, |id| Value::from(tokenizer.decode(&[id])));
    let file = json!({
        "add_bos_token": spec.names.begins_with_bos,
        "add_prefix_space": false,
        "added_tokens_decoder": decoder,
        "bos_token": text(spec.names.bos),
        "chat_template": template.source(),
        "clean_up_tokenization_spaces": false,
        "eos_token": text(spec.names.eos),
        "pad_token": text(spec.names.eos),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": null,
    });
    let mut bytes = serde_json::to_vec_pretty(&file).expect("a JSON value can be written");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small file: the bytes, one merge and one special token.
    fn sound() -> Value {
        let mut texts: Vec<String> =
            byte_level::alphabet().iter().map(|&byte| byte_level::write(&[byte])).collect();
        texts.push("ab".to_owned());
        texts.push("<|endoftext|>".to_owned());
        let parts = TokenizerParts {
            tokens: texts,
            merges: vec![("a".to_owned(), "b".to_owned())],
            special: vec![257],
            user_defined: Vec::new(),
            pre_split: PreSplit::Qwen35,
            eos: Some(257),
            bos: None,
        };
        serde_json::from_slice(from_parts(&parts).unwrap().json()).unwrap()
    }

    fn check(change: impl FnOnce(&mut Value), expect: &str) {
        let mut value = sound();
        change(&mut value);
        let bytes = serde_json::to_vec(&value).unwrap();
        let error = Tokenizer::from_json(&bytes, Path::new("t.json")).unwrap_err().to_string();
        assert!(error.contains(expect) && error.contains("t.json"), "{expect:?} not in {error}");
    }

    #[test]
    fn a_sound_file_is_read_and_parts_survive() {
        let bytes = serde_json::to_vec(&sound()).unwrap();
        let tokenizer = Tokenizer::from_json(&bytes, Path::new("t.json")).unwrap();
        assert_eq!(tokenizer.encode("abc")[0], 256);
        assert_eq!(tokenizer.eos_id(), Some(257));
        let parts = tokenizer.to_parts().unwrap();
        let again = Tokenizer::from_parts(&parts).unwrap();
        assert_eq!(again.to_parts().unwrap(), parts);
        assert_eq!(Tokenizer::from_parts(&again.to_parts().unwrap()).unwrap().hash(), again.hash());
    }

    #[test]
    fn damaged_files_are_refused_with_a_reason() {
        check(|v| v["model"]["merges"][0] = json!("a zz"), "\"zz\", which is no token");
        check(|v| v["model"]["merges"][0] = json!("ab ab"), "\"abab\", which is no token");
        check(|v| v["model"]["merges"][0] = json!("ab"), "is not two tokens");
        check(|v| v["model"]["merges"][0] = json!(["a", "<|endoftext|>"]), "which is no token");
        check(|v| v["model"]["vocab"]["ab"] = json!(4_000_000_000u32), "without gaps");
        check(|v| v["model"]["vocab"]["ab"] = json!(3), "id 3 is that of two tokens");
        check(|v| v["model"]["vocab"]["日"] = json!(258), "GPT-2's byte characters");
        check(|v| v["added_tokens"][0]["id"] = json!(0), "two tokens");
        check(|v| v["added_tokens"][0]["lstrip"] = json!(true), "lstrip");
        check(|v| v["model"]["type"] = json!("WordLevel"), "model of type WordLevel");
        check(|v| v["normalizer"] = json!({"type": "Lowercase"}), "normaliser \"Lowercase\"");
        check(|v| v["pre_tokenizer"] = json!({"type": "Digits"}), "Digits");
        check(|v| v["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("x"), "x");
        check(|v| v["model"]["byte_fallback"] = json!(true), "byte fallback");
        check(|v| v["model"]["vocab"] = json!([]), "invalid type");
        check(
            |v| {
                v["model"]["vocab"].as_object_mut().unwrap().remove("a");
                v["model"]["vocab"]["aa"] = json!(64);
                v["model"]["merges"] = json!([]);
            },
            "0x61 has no token",
        );
    }

    #[test]
    fn bytes_that_are_no_json_are_refused() {
        for bytes in [&b""[..], b"\xFF\xFE", b"{", b"[1,2]", &vec![b'['; 100_000]] {
            Tokenizer::from_json(bytes, Path::new("t.json")).unwrap_err();
        }
    }
}

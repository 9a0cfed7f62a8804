//! `tokenizer.json` of the kinds whose tokens are pieces of text: BPE of characters, Unigram and
//! WordPiece, as Hugging Face writes them.
//!
//! As in `tokenizer_file.rs`, files come from outside: ids must be complete, merges must name
//! tokens, and a piece of the pipeline that is not implemented is named in the error.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    base64,
    charsmap::CharsMap,
    fast_hash::FastMap,
    normalizer::{BertSteps, Normalizer, Step},
    pieces::{Algorithm, CharacterMerges, Cutter, Joining, PieceModel, Prepend},
    sentencepiece::SentencePieceModel,
    tokenizer::{AddedToken, Model, Names, Spec},
    tokenizer_file::{FileMerge, MAX_TOKENS, Reason, cut, split_merge},
    unigram::{Piece, Precision, Unigram},
    word_piece::WordPiece,
    words::META_SPACE,
};

#[derive(Deserialize)]
struct PieceFile {
    model: FileModel,
}

#[derive(Deserialize)]
struct FileModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<usize>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocab,
    #[serde(default)]
    merges: Vec<FileMerge>,
    sentencepiece: Option<SentencePieceModel>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocab {
    Ids(HashMap<String, u32>),
    Scores(Vec<(String, f64)>),
}

/// The steps of the pipeline around the model, as the file has them.
pub(crate) struct Pipeline<'a> {
    pub(crate) normalizer: Option<&'a Value>,
    pub(crate) pre_tokenizer: Option<&'a Value>,
    pub(crate) decoder: Option<&'a Value>,
    pub(crate) added: Vec<AddedToken>,
}

fn unsupported<T>(piece: String) -> Result<T, Reason> {
    Err(Reason::Unsupported(piece))
}

/// Reads a file of one of these kinds.
pub(crate) fn parse(bytes: &[u8], pipeline: Pipeline<'_>) -> Result<Spec, Reason> {
    let malformed = |error: serde_json::Error| Reason::Bad(error.to_string());
    let model = serde_json::from_slice::<PieceFile>(bytes).map_err(malformed)?.model;
    if let Some(own) = model.sentencepiece {
        return own.spec();
    }
    let kind = model.kind.as_deref().unwrap_or("BPE").to_owned();
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return unsupported("merge dropout".to_owned());
    }
    if model.end_of_word_suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
        return unsupported("a suffix of words".to_owned());
    }
    let scores: Vec<f64> = match &model.vocab {
        Vocab::Scores(pieces) => pieces.iter().map(|piece| piece.1).collect(),
        Vocab::Ids(_) => Vec::new(),
    };
    let vocab: Vec<(String, u32)> = match model.vocab {
        Vocab::Ids(ids) => ids.into_iter().collect(),
        Vocab::Scores(pieces) => pieces.into_iter().map(|piece| piece.0).zip(0..).collect(),
    };
    let texts = complete(vocab, &pipeline.added)?;
    let mut is_added = vec![false; texts.len()];
    for token in &pipeline.added {
        is_added[token.id as usize] = true;
    }
    // Added tokens are cut out of text before; no text spells a special one.
    let pieces = || {
        (0u32..)
            .zip(&texts)
            .filter(|(id, _)| !is_added[*id as usize])
            .map(|(id, text)| (id, text.as_str()))
    };
    let unknown = match (&model.unk_token, model.unk_id) {
        (Some(text), _) => texts.iter().position(|known| known == text).map(|id| id as u32),
        (None, Some(id)) if (id as usize) < texts.len() => Some(id),
        (None, Some(id)) => return Err(Reason::Bad(format!("the unknown token {id} is no token"))),
        (None, None) => None,
    };
    let prefix = model.continuing_subword_prefix.unwrap_or_default();
    let (algorithm, fuse_unknown) = match kind.as_str() {
        "BPE" if !prefix.is_empty() => return unsupported("a prefix of subwords".to_owned()),
        "BPE" => {
            let ids: FastMap<String, u32> =
                pieces().map(|(id, text)| (text.to_owned(), id)).collect();
            let merges = read_merges(model.merges, &texts, &is_added)?;
            let merges = CharacterMerges::new(&ids, &merges, model.ignore_merges, Vec::new());
            (Algorithm::Bpe(merges), model.fuse_unk)
        }
        "Unigram" => {
            if scores.len() > texts.len() || scores.iter().any(|score| !score.is_finite()) {
                return Err(Reason::Bad("a score is no finite number".to_owned()));
            }
            let scored = |(id, text): (u32, _)| {
                let score = scores.get(id as usize).copied();
                score.map(|score| Piece { id, text, score, preferred: false })
            };
            let known: Vec<Piece<'_>> = pieces().filter_map(scored).collect();
            let lowest = scores.iter().copied().fold(f64::INFINITY, f64::min);
            let lowest = if lowest.is_finite() { lowest } else { 0.0 };
            (Algorithm::Unigram(Unigram::new(&known, lowest, 0.0, Precision::Double)), true)
        }
        "WordPiece" => {
            let most = model.max_input_chars_per_word.unwrap_or(100);
            let pieces = pieces().map(|(id, text)| (text, id));
            (Algorithm::WordPiece(WordPiece::new(pieces, &prefix, most)), false)
        }
        other => return unsupported(format!("a model of type {}", cut(other))),
    };
    let byte_ids = if model.byte_fallback { byte_tokens(&texts) } else { None };
    let normalizer = Normalizer::new(read_normalizer(pipeline.normalizer)?)?;
    let cutters = read_cutters(pipeline.pre_tokenizer)?;
    let joining = match (&algorithm, pipeline.decoder) {
        (Algorithm::WordPiece(_), decoder) => {
            Joining::WordPiece { clean: decoder.is_some_and(|decoder| decoder["cleanup"] == true) }
        }
        (_, Some(decoder)) if drops_space(decoder) => Joining::DropSpace,
        _ => Joining::Plain,
    };
    let tokens = texts
        .iter()
        .enumerate()
        .map(|(id, text)| match (&algorithm, &byte_ids) {
            _ if is_added[id] => text.clone().into_bytes(),
            (Algorithm::WordPiece(_), _) => match text.strip_prefix(prefix.as_str()) {
                Some(rest) if !prefix.is_empty() => rest.as_bytes().to_vec(),
                _ => format!(" {text}").into_bytes(),
            },
            (_, Some(_)) if let Some(byte) = byte_of(text) => vec![byte],
            _ => text.replace(META_SPACE, " ").into_bytes(),
        })
        .collect();
    let added = pipeline
        .added
        .into_iter()
        .map(|token| {
            let text = if token.normalized {
                normalizer.apply(&token.text).into_owned()
            } else {
                token.text
            };
            AddedToken { text, ..token }
        })
        .collect();
    Ok(Spec {
        tokens,
        added,
        model: Model::Pieces(Box::new(PieceModel {
            normalizer,
            cutters,
            algorithm,
            unknown,
            fuse_unknown,
            byte_ids,
            joining,
        })),
        names: Names::default(),
    })
}

/// Texts by id, which must be complete.
fn complete(vocab: Vec<(String, u32)>, added: &[AddedToken]) -> Result<Vec<String>, Reason> {
    let bad = |message: String| Err(Reason::Bad(message));
    let highest = vocab.iter().map(|piece| piece.1).chain(added.iter().map(|token| token.id)).max();
    let count = highest.map_or(0, |id| id as usize + 1);
    if count > MAX_TOKENS || count > vocab.len() + added.len() {
        return bad(format!(
            "the highest id is {}, but there are {} tokens; ids must be 0, 1, … without gaps",
            count.saturating_sub(1),
            vocab.len() + added.len()
        ));
    }
    let mut texts: Vec<Option<String>> = vec![None; count];
    let tokens = vocab.into_iter().chain(added.iter().map(|token| (token.text.clone(), token.id)));
    for (text, id) in tokens {
        match &mut texts[id as usize] {
            Some(known) if *known == text => {}
            Some(known) => {
                return bad(format!(
                    "the id {id} is that of two tokens, one of them {:?}",
                    cut(known)
                ));
            }
            free => *free = Some(text),
        }
    }
    let texts: Option<Vec<String>> = texts.into_iter().collect();
    match texts {
        Some(texts) if added.iter().all(|token| !token.text.is_empty()) => Ok(texts),
        Some(_) => bad("an added token is empty".to_owned()),
        None => bad("an id has no token".to_owned()),
    }
}

type RankedMerge = (u32, (u32, u32, u32));

fn read_merges(
    merges: Vec<FileMerge>,
    texts: &[String],
    is_added: &[bool],
) -> Result<Vec<RankedMerge>, Reason> {
    let ids: FastMap<&str, u32> = texts.iter().map(String::as_str).zip(0..).collect();
    let id_of = |text: &str| {
        ids.get(text)
            .copied()
            .ok_or_else(|| Reason::Bad(format!("a merge needs {:?}, which is no token", cut(text))))
    };
    let mut ranked = Vec::with_capacity(merges.len());
    for (rank, merge) in (0u32..).zip(merges) {
        let (left, right) = match merge {
            FileMerge::Pair(left, right) => (left, right),
            FileMerge::Line(line) => split_merge(&line)?,
        };
        let merge = (id_of(&left)?, id_of(&right)?, id_of(&format!("{left}{right}"))?);
        // A special token is not to come out of text.
        if !is_added[merge.2 as usize] {
            ranked.push((rank, merge));
        }
    }
    Ok(ranked)
}

fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The tokens of the bytes, if each byte has one.
fn byte_tokens(texts: &[String]) -> Option<Box<[u32; 256]>> {
    let mut ids = Box::new([u32::MAX; 256]);
    for (id, text) in (0u32..).zip(texts) {
        if let Some(byte) = byte_of(text) {
            ids[usize::from(byte)] = id;
        }
    }
    (!ids.contains(&u32::MAX)).then_some(ids)
}

/// The steps of a sequence, or the one step that a value is.
fn steps_of<'a>(value: Option<&'a Value>, list: &str) -> &'a [Value] {
    match value {
        None | Some(Value::Null) => &[],
        Some(value) if value["type"] == "Sequence" => {
            value[list].as_array().map_or(&[], Vec::as_slice)
        }
        Some(value) => std::slice::from_ref(value),
    }
}

fn read_normalizer(value: Option<&Value>) -> Result<Vec<Step>, Reason> {
    let mut steps = Vec::new();
    for step in steps_of(value, "normalizers") {
        let flag = |name: &str| step[name].as_bool();
        let unknown = || unsupported(format!("the normaliser {}", cut(&step.to_string())));
        steps.push(match step["type"].as_str().unwrap_or_default() {
            "NFC" => Step::Nfc,
            "NFD" => Step::Nfd,
            "NFKC" => Step::Nfkc,
            "NFKD" => Step::Nfkd,
            "Lowercase" => Step::Lowercase,
            "StripAccents" => Step::StripAccents,
            "Strip" => Step::Strip {
                left: flag("strip_left").unwrap_or(true),
                right: flag("strip_right").unwrap_or(true),
            },
            "Prepend" => match step["prepend"].as_str() {
                Some(text) => Step::Prepend(text.to_owned()),
                None => return unknown(),
            },
            "Replace" => {
                let Some(to) = step["content"].as_str().map(str::to_owned) else {
                    return unknown();
                };
                match (step["pattern"]["String"].as_str(), step["pattern"]["Regex"].as_str()) {
                    (Some(from), None) => Step::Replace { from: from.to_owned(), to },
                    (None, Some(" {2,}")) => Step::ReplaceSpaces { to },
                    _ => return unknown(),
                }
            }
            "BertNormalizer" => {
                let lowercase = flag("lowercase").unwrap_or(true);
                Step::Bert(BertSteps {
                    clean: flag("clean_text").unwrap_or(true),
                    chinese: flag("handle_chinese_chars").unwrap_or(true),
                    accents: flag("strip_accents").unwrap_or(lowercase),
                    lowercase,
                })
            }
            "Precompiled" => {
                let map = step["precompiled_charsmap"].as_str().and_then(base64::decode);
                let map =
                    map.ok_or_else(|| Reason::Bad("a character map is no base64".to_owned()))?;
                Step::Precompiled(CharsMap::read(&map)?)
            }
            _ => return unknown(),
        });
    }
    Ok(steps)
}

fn read_cutters(value: Option<&Value>) -> Result<Vec<Cutter>, Reason> {
    let mut cutters = Vec::new();
    for step in steps_of(value, "pretokenizers") {
        let unknown = || unsupported(format!("the pre-tokenizer {}", cut(&step.to_string())));
        cutters.push(match step["type"].as_str().unwrap_or_default() {
            "Metaspace" if step["replacement"].as_str().is_none_or(|text| text == META_SPACE) => {
                // Older files say `add_prefix_space`.
                let prepend = match step["prepend_scheme"].as_str() {
                    Some("first") => Prepend::First,
                    Some("never") => Prepend::Never,
                    None if step["add_prefix_space"] == false => Prepend::Never,
                    Some("always") | None => Prepend::Always,
                    Some(_) => return unknown(),
                };
                Cutter::MetaSpace { prepend, split: step["split"] != false }
            }
            "BertPreTokenizer" => Cutter::Bert,
            "WhitespaceSplit" => Cutter::WhiteSpace,
            _ => return unknown(),
        });
    }
    if cutters.len() > 8 {
        return unsupported("more than eight pre-tokenizers".to_owned());
    }
    Ok(cutters)
}

/// Whether decoding takes the first space away.
fn drops_space(decoder: &Value) -> bool {
    steps_of(Some(decoder), "decoders").iter().any(|step| match step["type"].as_str() {
        Some("Metaspace") => step["prepend_scheme"] != "never" && step["add_prefix_space"] != false,
        Some("Strip") => step["content"] == " " && step["start"].as_u64() > Some(0),
        _ => false,
    })
}

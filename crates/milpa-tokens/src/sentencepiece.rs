//! SentencePiece's `.model` files, in; and such a tokenizer as `tokenizer.json`, in and out.
//!
//! A `.model` is a protobuf message (`sentencepiece_model.proto`). It is read with every length
//! checked; what would change the ids but is not implemented is named in the error. `tokenizer.json`
//! cannot say all that a `.model` says (pieces of equal rank, spaces, the character map on single
//! characters), so the file written here has what Hugging Face reads, and beside it, under
//! `model.sentencepiece`, the model itself, which is what this crate reads back.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    base64,
    charsmap::CharsMap,
    error::TokensError,
    fast_hash::FastMap,
    normalizer::{Normalizer, SentencePieceSteps, Step},
    pieces::{Algorithm, CharacterMerges, Joining, PieceModel, unknown_symbol},
    tokenizer::{AddedToken, Model, Names, Spec, Tokenizer},
    tokenizer_file::{MAX_TOKENS, Reason, cut},
    trie::Trie,
    unigram::{Piece, Precision, Unigram},
    words::META_SPACE,
};

/// Longest piece: sixteen times what the trainer makes. Splitting a piece costs its length squared.
const MAX_PIECE_BYTES: usize = 256;

/// What a `.model` file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SentencePieceModel {
    kind: ModelKind,
    byte_fallback: bool,
    dummy_prefix: bool,
    remove_extra_spaces: bool,
    escape_spaces: bool,
    space_as_suffix: bool,
    bos: i64,
    eos: i64,
    /// Base64.
    map: String,
    /// Text, score, type.
    pieces: Vec<(String, f64, PieceKind)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModelKind {
    Unigram,
    Bpe,
}

/// What a piece of SentencePiece is for; GGUF has the same kinds with the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PieceKind {
    /// Text is merged to it.
    Normal,
    /// What has no other piece.
    Unknown,
    /// Never made of text.
    Control,
    /// Always cut out of text.
    UserDefined,
    /// Never made.
    Unused,
    /// One byte of a character without a piece.
    Byte,
}

impl PieceKind {
    const NUMBERED: [(Self, u64); 6] = [
        (Self::Normal, 1),
        (Self::Unknown, 2),
        (Self::Control, 3),
        (Self::UserDefined, 4),
        (Self::Unused, 5),
        (Self::Byte, 6),
    ];

    /// The kind with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::NUMBERED.into_iter().find(|&(_, of)| of == number).map(|(kind, _)| kind)
    }

    /// Its number in files.
    pub fn number(self) -> u64 {
        let found = Self::NUMBERED.into_iter().find(|&(kind, _)| kind == self);
        found.map(|(_, number)| number).expect("all kinds are listed")
    }
}

/// A SentencePiece BPE tokenizer taken apart, as GGUF holds it (`tokenizer.ggml.model` = `llama`).
#[derive(Debug, Clone, PartialEq)]
pub struct PieceParts {
    /// Text with ▁ for the space, score and kind, by id.
    pub pieces: Vec<(String, f32, PieceKind)>,
    /// Whether ▁ is put before texts.
    pub space_before: bool,
    /// Ends a document.
    pub eos: Option<u32>,
    /// Begins a sequence.
    pub bos: Option<u32>,
}

impl PieceParts {
    /// Builds the tokenizer.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, TokensError> {
        let id = |id: Option<u32>| id.map_or(-1, i64::from);
        let byte_pieces = self.pieces.iter().filter(|piece| piece.2 == PieceKind::Byte).count();
        let pieces = self.pieces.iter();
        let model = SentencePieceModel {
            kind: ModelKind::Bpe,
            byte_fallback: byte_pieces > 0,
            dummy_prefix: self.space_before,
            remove_extra_spaces: false,
            escape_spaces: true,
            space_as_suffix: false,
            bos: id(self.bos),
            eos: id(self.eos),
            map: String::new(),
            pieces: pieces
                .map(|(text, score, kind)| (text.clone(), (*score).into(), *kind))
                .collect(),
        };
        let build = || -> Result<Tokenizer, Reason> {
            let spec = model.spec()?;
            let json = model.to_json(&spec);
            Ok(Tokenizer::build(spec, json)?)
        };
        build().map_err(|reason| reason.at(Path::new("the tokenizer of the GGUF file")))
    }

    /// Takes a tokenizer apart.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<Self, TokensError> {
        #[derive(Deserialize)]
        struct File {
            model: Inner,
        }
        #[derive(Deserialize)]
        struct Inner {
            sentencepiece: SentencePieceModel,
        }
        let unlike = || TokensError::NotPieces(tokenizer.kind().name());
        let file: File = serde_json::from_slice(tokenizer.json()).map_err(|_| unlike())?;
        let model = file.model.sentencepiece;
        let plain = model.kind == ModelKind::Bpe
            && model.escape_spaces
            && model.map.is_empty()
            && !model.remove_extra_spaces
            && !model.space_as_suffix;
        if !plain {
            return Err(unlike());
        }
        let pieces = model.pieces.into_iter();
        Ok(Self {
            pieces: pieces.map(|(text, score, kind)| (text, score as f32, kind)).collect(),
            space_before: model.dummy_prefix,
            eos: tokenizer.eos_id(),
            bos: tokenizer.bos_id(),
        })
    }
}

/// Reads the bytes of a `.model` file.
pub(crate) fn read(bytes: &[u8]) -> Result<SentencePieceModel, Reason> {
    let mut model = SentencePieceModel {
        kind: ModelKind::Unigram,
        byte_fallback: false,
        dummy_prefix: true,
        remove_extra_spaces: true,
        escape_spaces: true,
        space_as_suffix: false,
        bos: 1,
        eos: 2,
        map: String::new(),
        pieces: Vec::new(),
    };
    for_each_field(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(piece)) => {
                if model.pieces.len() >= MAX_TOKENS {
                    return Err(bad("it has more pieces than are read"));
                }
                model.pieces.push(read_piece(piece)?);
            }
            (2, Field::Bytes(trainer)) => read_trainer(trainer, &mut model)?,
            (3, Field::Bytes(normalizer)) => read_normalizer(normalizer, &mut model)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(model)
}

fn bad(message: &str) -> Reason {
    Reason::Bad(message.to_owned())
}

fn read_text(bytes: &[u8]) -> Result<String, Reason> {
    String::from_utf8(bytes.to_vec()).map_err(|_| bad("a piece is not UTF-8"))
}

fn read_piece(bytes: &[u8]) -> Result<(String, f64, PieceKind), Reason> {
    let mut piece = (String::new(), 0.0, PieceKind::Normal);
    for_each_field(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(text)) => piece.0 = read_text(text)?,
            (2, Field::Fixed32(bits)) => piece.1 = f64::from(f32::from_bits(bits)),
            (3, Field::Number(kind)) => {
                piece.2 = PieceKind::from_number(kind)
                    .ok_or_else(|| Reason::Bad(format!("a piece has the type {kind}")))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

fn read_trainer(bytes: &[u8], model: &mut SentencePieceModel) -> Result<(), Reason> {
    for_each_field(bytes, |number, field| {
        match (number, field) {
            (3, Field::Number(1)) => model.kind = ModelKind::Unigram,
            (3, Field::Number(2)) => model.kind = ModelKind::Bpe,
            (3, _) => {
                return Err(Reason::Unsupported(
                    "SentencePiece's model of words or characters".to_owned(),
                ));
            }
            (24, Field::Number(value)) => model.space_as_suffix = value != 0,
            (35, Field::Number(value)) => model.byte_fallback = value != 0,
            // Negative ids, for a token that there is not, are written as 64-bit complements.
            (41, Field::Number(value)) => model.bos = i64::from(value as i32),
            (42, Field::Number(value)) => model.eos = i64::from(value as i32),
            _ => {}
        }
        Ok(())
    })
}

fn read_normalizer(bytes: &[u8], model: &mut SentencePieceModel) -> Result<(), Reason> {
    for_each_field(bytes, |number, field| {
        match (number, field) {
            (2, Field::Bytes(map)) => model.map = base64::encode(map),
            (3, Field::Number(value)) => model.dummy_prefix = value != 0,
            (4, Field::Number(value)) => model.remove_extra_spaces = value != 0,
            (5, Field::Number(value)) => model.escape_spaces = value != 0,
            _ => {}
        }
        Ok(())
    })
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Other,
}

/// Calls `take` for each field of a protobuf message.
fn for_each_field<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(u64, Field<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let cut_off = || bad("the protobuf message is cut off or damaged");
    while !bytes.is_empty() {
        let tag = read_number(&mut bytes).ok_or_else(cut_off)?;
        let field = match tag & 7 {
            0 => Field::Number(read_number(&mut bytes).ok_or_else(cut_off)?),
            1 => {
                bytes = bytes.get(8..).ok_or_else(cut_off)?;
                Field::Other
            }
            2 => {
                let length = read_number(&mut bytes).ok_or_else(cut_off)?;
                let length = usize::try_from(length).map_err(|_| cut_off())?;
                let (field, rest) = bytes.split_at_checked(length).ok_or_else(cut_off)?;
                bytes = rest;
                Field::Bytes(field)
            }
            5 => {
                let (field, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut_off)?;
                bytes = rest;
                Field::Fixed32(u32::from_le_bytes(*field))
            }
            _ => return Err(cut_off()),
        };
        take(tag >> 3, field)?;
    }
    Ok(())
}

/// Reads a number of up to ten groups of seven bits.
fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

impl SentencePieceModel {
    /// Builds everything a tokenizer is a function of.
    pub(crate) fn spec(&self) -> Result<Spec, Reason> {
        self.check()?;
        let text_of = |text: &str| {
            if self.escape_spaces { text.replace(META_SPACE, " ") } else { text.to_owned() }
        };
        let mut tokens = Vec::with_capacity(self.pieces.len());
        let mut added = Vec::new();
        let mut byte_ids = [u32::MAX; 256];
        for (id, (text, _, kind)) in (0u32..).zip(&self.pieces) {
            tokens.push(match kind {
                PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => {
                    text_of(text).into_bytes()
                }
                PieceKind::Byte => {
                    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                    let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                    let byte = byte.ok_or_else(|| {
                        Reason::Bad(format!("the piece {:?} is no byte", cut(text)))
                    })?;
                    byte_ids[usize::from(byte)] = id;
                    vec![byte]
                }
                PieceKind::Unknown | PieceKind::Control => {
                    let text = text.clone();
                    added.push(AddedToken {
                        id,
                        text: text.clone(),
                        special: true,
                        normalized: false,
                    });
                    text.into_bytes()
                }
            });
        }
        if self.byte_fallback && byte_ids.contains(&u32::MAX) {
            return Err(bad("it falls back to bytes, but not every byte has a piece"));
        }
        let unknown = self.pieces.iter().position(|piece| piece.2 == PieceKind::Unknown);
        let named = |id: i64| {
            let id = u32::try_from(id).ok()?;
            (self.pieces.get(id as usize)?.2 == PieceKind::Control).then_some(id)
        };
        let bos = named(self.bos);
        let algorithm = match self.kind {
            ModelKind::Bpe => Algorithm::Bpe(self.merges()),
            ModelKind::Unigram => Algorithm::Unigram(self.unigram()),
        };
        let steps = SentencePieceSteps {
            map: CharsMap::read(
                &base64::decode(&self.map).ok_or_else(|| bad("its map is no base64"))?,
            )?,
            dummy_prefix: self.dummy_prefix,
            remove_extra_spaces: self.remove_extra_spaces,
            escape_spaces: self.escape_spaces,
            space_as_suffix: self.space_as_suffix,
            kept: self.user_defined(),
        };
        let drops_space = self.dummy_prefix && !self.space_as_suffix;
        Ok(Spec {
            tokens,
            added,
            model: Model::Pieces(Box::new(PieceModel {
                normalizer: Normalizer::new(vec![Step::SentencePiece(steps)])?,
                cutters: Vec::new(),
                algorithm,
                unknown: unknown.map(|id| id as u32),
                fuse_unknown: true,
                byte_ids: self.byte_fallback.then(|| Box::new(byte_ids)),
                joining: if drops_space { Joining::DropSpace } else { Joining::Plain },
            })),
            names: Names {
                eos: named(self.eos),
                bos,
                begins_with_bos: bos.is_some(),
                template: None,
            },
        })
    }

    fn check(&self) -> Result<(), Reason> {
        if self.pieces.is_empty() {
            return Err(bad("it has no pieces; is it a SentencePiece model?"));
        }
        let mut seen = std::collections::HashSet::with_capacity(self.pieces.len());
        for (text, score, kind) in &self.pieces {
            if text.is_empty() || text.len() > MAX_PIECE_BYTES || !score.is_finite() {
                return Err(Reason::Bad(format!(
                    "the piece {:?} is empty, longer than {MAX_PIECE_BYTES} bytes, or of score {score}",
                    cut(text)
                )));
            }
            if !seen.insert(text) {
                return Err(Reason::Bad(format!("two pieces are written {:?}", cut(text))));
            }
            if *kind == PieceKind::Unused && self.kind == ModelKind::Bpe {
                return Err(Reason::Unsupported(format!("the unused piece {:?}", cut(text))));
            }
        }
        let unknown = self.pieces.iter().filter(|piece| piece.2 == PieceKind::Unknown).count();
        if unknown != 1 || self.pieces.len() > MAX_TOKENS {
            return Err(Reason::Bad(format!("it has {unknown} unknown pieces instead of one")));
        }
        Ok(())
    }

    fn of_kind(&self, kind: PieceKind) -> impl Iterator<Item = (u32, &str, f64)> {
        (0u32..)
            .zip(&self.pieces)
            .filter(move |(_, piece)| piece.2 == kind)
            .map(|(id, (text, score, _))| (id, text.as_str(), *score))
    }

    fn user_defined(&self) -> Trie {
        let mut texts: Vec<&[u8]> =
            self.of_kind(PieceKind::UserDefined).map(|(_, text, _)| text.as_bytes()).collect();
        texts.sort_unstable();
        Trie::new(&texts)
    }

    /// Every way to split a piece into two, with the rank of the piece's score.
    fn ranked_merges(&self) -> Vec<(u32, (u32, u32, u32))> {
        let ids: FastMap<&str, u32> =
            self.of_kind(PieceKind::Normal).map(|(id, text, _)| (text, id)).collect();
        let mut scores: Vec<f64> =
            self.of_kind(PieceKind::Normal).map(|(_, _, score)| score).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.dedup();
        let symbol = |text: &str| {
            ids.get(text).copied().or_else(|| {
                let mut characters = text.chars();
                characters.next().filter(|_| characters.next().is_none()).map(unknown_symbol)
            })
        };
        let mut merges = Vec::new();
        for (id, text, score) in self.of_kind(PieceKind::Normal) {
            let rank = scores.partition_point(|&other| other > score) as u32;
            for (at, _) in text.char_indices().skip(1) {
                if let (Some(left), Some(right)) = (symbol(&text[..at]), symbol(&text[at..])) {
                    merges.push((rank, (left, right, id)));
                }
            }
        }
        merges
    }

    fn merges(&self) -> CharacterMerges {
        let texts: FastMap<String, u32> =
            self.of_kind(PieceKind::Normal).map(|(id, text, _)| (text.to_owned(), id)).collect();
        let fixed = self
            .of_kind(PieceKind::UserDefined)
            .map(|(id, text, _)| (text.to_owned(), id))
            .collect();
        CharacterMerges::new(&texts, &self.ranked_merges(), false, fixed)
    }

    fn unigram(&self) -> Unigram {
        let piece = |preferred| move |(id, text, score)| Piece { id, text, score, preferred };
        let pieces: Vec<Piece<'_>> = self
            .of_kind(PieceKind::Normal)
            .map(piece(false))
            .chain(self.of_kind(PieceKind::UserDefined).map(piece(true)))
            .collect();
        let scores = || self.of_kind(PieceKind::Normal).map(|(_, _, score)| score);
        let lowest = scores().fold(f64::INFINITY, f64::min);
        let highest = scores().fold(f64::NEG_INFINITY, f64::max);
        let finite = |score: f64| if score.is_finite() { score } else { 0.0 };
        Unigram::new(&pieces, finite(lowest), finite(highest), Precision::Single)
    }

    /// Writes a `tokenizer.json` that Hugging Face reads, with the model beside it.
    pub(crate) fn to_json(&self, spec: &Spec) -> Vec<u8> {
        let text = |id: u32| self.pieces[id as usize].0.as_str();
        let token = |id: u32, special: bool| {
            json!({
                "id": id, "content": text(id), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special,
            })
        };
        let mut added: Vec<Value> = spec.added.iter().map(|added| token(added.id, true)).collect();
        added.extend(self.of_kind(PieceKind::UserDefined).map(|(id, _, _)| token(id, false)));
        added.sort_by_key(|token| token["id"].as_u64());
        let mut steps = Vec::new();
        if !self.map.is_empty() {
            steps.push(json!({ "type": "Precompiled", "precompiled_charsmap": self.map }));
        }
        if self.remove_extra_spaces {
            steps.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
            steps.push(
                json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }),
            );
        }
        if self.dummy_prefix && !self.space_as_suffix {
            steps.push(json!({ "type": "Prepend", "prepend": META_SPACE }));
        }
        steps.push(
            json!({ "type": "Replace", "pattern": { "String": " " }, "content": META_SPACE }),
        );
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": META_SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.dummy_prefix && !self.space_as_suffix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let processor = spec.names.bos.map(|bos| {
            let special = json!({ "SpecialToken": { "id": text(bos), "type_id": 0 } });
            let sequence =
                |id: &str, kind: u8| json!({ "Sequence": { "id": id, "type_id": kind } });
            json!({
                "type": "TemplateProcessing",
                "single": [special, sequence("A", 0)],
                "pair": [special, sequence("A", 0), special, sequence("B", 1)],
                "special_tokens": {
                    text(bos): { "id": text(bos), "ids": [bos], "tokens": [text(bos)] }
                },
            })
        });
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": { "type": "Sequence", "normalizers": steps },
            "pre_tokenizer": null,
            "post_processor": processor,
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": self.model_json(),
        });
        let mut bytes = serde_json::to_vec(&file).expect("a JSON value can be written");
        bytes.push(b'\n');
        bytes
    }

    fn model_json(&self) -> Value {
        let unknown = self.pieces.iter().position(|piece| piece.2 == PieceKind::Unknown);
        let text = |id: u32| self.pieces[id as usize].0.as_str();
        let mut model = match self.kind {
            ModelKind::Unigram => json!({
                "type": "Unigram",
                "unk_id": unknown,
                "byte_fallback": self.byte_fallback,
                "vocab": self.pieces.iter().map(|piece| (&piece.0, piece.1)).collect::<Vec<_>>(),
            }),
            ModelKind::Bpe => {
                let mut merges: Vec<(u32, u32, u32)> = self
                    .ranked_merges()
                    .into_iter()
                    .filter(|(_, (left, right, _))| (*left.max(right) as usize) < self.pieces.len())
                    .map(|(rank, (left, right, _))| (rank, left, right))
                    .collect();
                // Among equals, the longer left part first, as Hugging Face's converter has it.
                merges.sort_by_key(|&(rank, left, right)| {
                    let length = |id| std::cmp::Reverse(text(id).chars().count());
                    (rank, length(left), length(right), left, right)
                });
                let merges: Vec<[&str; 2]> =
                    merges.into_iter().map(|(_, left, right)| [text(left), text(right)]).collect();
                let vocab: serde_json::Map<String, Value> = (0u32..)
                    .zip(&self.pieces)
                    .map(|(id, piece)| (piece.0.clone(), Value::from(id)))
                    .collect();
                json!({
                    "type": "BPE",
                    "dropout": null,
                    "unk_token": unknown.map(|id| self.pieces[id].0.as_str()),
                    "continuing_subword_prefix": null,
                    "end_of_word_suffix": null,
                    "fuse_unk": true,
                    "byte_fallback": self.byte_fallback,
                    "ignore_merges": false,
                    "vocab": vocab,
                    "merges": merges,
                })
            }
        };
        model["sentencepiece"] =
            serde_json::to_value(self).expect("a model of texts and finite numbers can be written");
        model
    }
}

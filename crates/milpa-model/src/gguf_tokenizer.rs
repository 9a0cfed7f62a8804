//! Tokenizers in GGUF: byte-level BPE (llama.cpp's model `gpt2`) and SentencePiece BPE (`llama`).
//!
//! Embeddings without a token are tokens that are never made. This file knows no model.

use milpa_tokens::{
    PieceKind, PieceParts, PreSplit, Tokenizer, TokenizerKind, TokenizerParts, TokensError,
};

use crate::{
    error::DecoderError,
    gguf::{GgufFile, GgufValue},
};

/// Score of tokens that are never made.
const NEVER: f32 = -1e6;

/// The metadata of a tokenizer for a model of `vocab_size` embeddings.
///
/// # Errors
/// If the tokenizer has more tokens, or is of a kind that GGUF does not hold.
pub(crate) fn tokenizer_metadata(
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<Vec<(&'static str, GgufValue)>, DecoderError> {
    if tokenizer.vocab_size() > vocab_size {
        let message =
            format!("is {vocab_size}, but the tokenizer has {} tokens", tokenizer.vocab_size());
        return Err(DecoderError::Config { key: "vocab_size".to_owned(), message });
    }
    let mut pairs = match tokenizer.kind() {
        TokenizerKind::ByteLevelBpe => byte_level(&tokenizer.to_parts()?, vocab_size),
        TokenizerKind::SentencePieceBpe => pieces(tokenizer.to_pieces()?, vocab_size),
        other => return Err(TokensError::NotPieces(other.name()).into()),
    };
    let (eos, bos) = (tokenizer.eos_id(), tokenizer.bos_id());
    let mut put = |key, id: Option<u32>| pairs.extend(id.map(|id| (key, GgufValue::U32(id))));
    put("tokenizer.ggml.eos_token_id", eos);
    // llama.cpp has a default of its own for a missing BOS, which is some other token of ours.
    put("tokenizer.ggml.bos_token_id", bos.or(eos));
    let turn_ends = tokenizer.stop_ids().iter().copied().find(|&id| Some(id) != eos);
    put("tokenizer.ggml.eot_token_id", turn_ends.or(eos));
    pairs.push(("tokenizer.ggml.add_bos_token", GgufValue::Bool(bos.is_some())));
    pairs.push(("tokenizer.ggml.add_eos_token", GgufValue::Bool(false)));
    Ok(pairs)
}

fn byte_level(parts: &TokenizerParts, vocab_size: usize) -> Vec<(&'static str, GgufValue)> {
    let mut kinds = vec![PieceKind::Normal; parts.tokens.len()];
    for (ids, of) in
        [(&parts.special, PieceKind::Control), (&parts.user_defined, PieceKind::UserDefined)]
    {
        for &id in ids {
            if let Some(kind) = kinds.get_mut(id as usize) {
                *kind = of;
            }
        }
    }
    let merges = parts.merges.iter().map(|(left, right)| format!("{left} {right}"));
    vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text(parts.pre_split.gguf_name())),
        ("tokenizer.ggml.tokens", tokens(parts.tokens.iter().cloned(), vocab_size)),
        ("tokenizer.ggml.token_type", token_types(kinds.into_iter(), vocab_size)),
        ("tokenizer.ggml.merges", GgufValue::Array(merges.map(GgufValue::String).collect())),
    ]
}

fn pieces(parts: PieceParts, vocab_size: usize) -> Vec<(&'static str, GgufValue)> {
    let unknown = parts.pieces.iter().position(|piece| piece.2 == PieceKind::Unknown);
    let kinds = parts.pieces.iter().map(|piece| piece.2);
    let mut scores: Vec<f32> = parts.pieces.iter().map(|piece| piece.1).collect();
    scores.resize(vocab_size, NEVER);
    let mut pairs = vec![
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.pre", text("default")),
        ("tokenizer.ggml.token_type", token_types(kinds, vocab_size)),
        (
            "tokenizer.ggml.scores",
            GgufValue::Array(scores.into_iter().map(GgufValue::F32).collect()),
        ),
        ("tokenizer.ggml.add_space_prefix", GgufValue::Bool(parts.space_before)),
    ];
    pairs.extend(unknown.map(|id| ("tokenizer.ggml.unknown_token_id", GgufValue::U32(id as u32))));
    let texts = parts.pieces.into_iter().map(|piece| piece.0);
    pairs.push(("tokenizer.ggml.tokens", tokens(texts, vocab_size)));
    pairs
}

fn text(text: &str) -> GgufValue {
    GgufValue::String(text.to_owned())
}

fn tokens(texts: impl ExactSizeIterator<Item = String>, vocab_size: usize) -> GgufValue {
    let padding = (texts.len()..vocab_size).map(|id| format!("[PAD{id}]"));
    GgufValue::Array(texts.chain(padding).map(GgufValue::String).collect())
}

fn token_types(kinds: impl Iterator<Item = PieceKind>, vocab_size: usize) -> GgufValue {
    let padded = kinds.chain(std::iter::repeat(PieceKind::Unused)).take(vocab_size);
    GgufValue::Array(padded.map(|kind| GgufValue::I32(kind.number() as i32)).collect())
}

/// Reads the tokenizer of a file whose model has `vocab_size` embeddings.
pub(crate) fn read_tokenizer(
    file: &GgufFile,
    vocab_size: usize,
) -> Result<Tokenizer, DecoderError> {
    let reader = Reader { file };
    let mut tokens = reader.texts("tokenizer.ggml.tokens")?;
    if tokens.len() > vocab_size {
        let message = format!("{} tokens for {vocab_size} embeddings", tokens.len());
        return Err(reader.malformed(message));
    }
    let mut kinds = reader.kinds(tokens.len())?;
    // Embeddings without a token.
    while kinds.last() == Some(&PieceKind::Unused) {
        kinds.pop();
    }
    tokens.truncate(kinds.len());
    match reader.text("tokenizer.ggml.model")? {
        "gpt2" => reader.byte_level(tokens, &kinds),
        "llama" => reader.pieces(tokens, &kinds),
        other => {
            let message = "byte-level BPE (gpt2) and SentencePiece BPE (llama) are read";
            Err(reader.unsupported("tokenizer.ggml.model", other, message))
        }
    }
}

struct Reader<'a> {
    file: &'a GgufFile,
}

impl Reader<'_> {
    fn byte_level(
        &self,
        tokens: Vec<String>,
        kinds: &[PieceKind],
    ) -> Result<Tokenizer, DecoderError> {
        let pre = self.text("tokenizer.ggml.pre")?;
        let pre_split = PreSplit::from_gguf_name(pre).ok_or_else(|| {
            self.unsupported("tokenizer.ggml.pre", pre, "this pre-tokenizer is not known here")
        })?;
        let ids_of = |kind: PieceKind| -> Vec<u32> {
            (0_u32..).zip(kinds).filter(|(_, of)| **of == kind).map(|(id, _)| id).collect()
        };
        let (special, user_defined) = (ids_of(PieceKind::Control), ids_of(PieceKind::UserDefined));
        let merges = self
            .texts("tokenizer.ggml.merges")?
            .into_iter()
            .map(|merge| {
                // A token never begins with a space here, so the first space after it separates.
                let split = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
                let (at, _) = split.ok_or_else(|| {
                    self.malformed(format!("the merge {merge:?} is no pair of tokens"))
                })?;
                Ok((merge[..at].to_owned(), merge[at + 1..].to_owned()))
            })
            .collect::<Result<_, DecoderError>>()?;
        let eos = self.token("tokenizer.ggml.eos_token_id", tokens.len())?;
        let bos = self.token("tokenizer.ggml.bos_token_id", tokens.len())?;
        let bos = bos.filter(|_| self.flag("tokenizer.ggml.add_bos_token", false));
        let parts = TokenizerParts { tokens, merges, special, user_defined, pre_split, eos, bos };
        Ok(Tokenizer::from_parts(&parts)?)
    }

    fn pieces(&self, tokens: Vec<String>, kinds: &[PieceKind]) -> Result<Tokenizer, DecoderError> {
        let scores = self.value("tokenizer.ggml.scores")?.as_array().unwrap_or_default();
        let scores: Option<Vec<f32>> =
            scores.iter().map(|score| score.as_f64().map(|score| score as f32)).collect();
        let scores = scores.filter(|scores| scores.len() >= tokens.len()).ok_or_else(|| {
            self.malformed("tokenizer.ggml.scores is no number for each token".to_owned())
        })?;
        let eos = self.token("tokenizer.ggml.eos_token_id", tokens.len())?;
        let bos = self.token("tokenizer.ggml.bos_token_id", tokens.len())?;
        let pieces = tokens.into_iter().zip(scores).zip(kinds);
        let parts = PieceParts {
            pieces: pieces.map(|((text, score), &kind)| (text, score, kind)).collect(),
            space_before: self.flag("tokenizer.ggml.add_space_prefix", true),
            eos,
            bos: bos.filter(|_| self.flag("tokenizer.ggml.add_bos_token", true)),
        };
        Ok(Tokenizer::from_pieces(&parts)?)
    }

    /// The kind of each token.
    fn kinds(&self, tokens: usize) -> Result<Vec<PieceKind>, DecoderError> {
        let Some(kinds) = self.file.metadata().get("tokenizer.ggml.token_type") else {
            return Ok(vec![PieceKind::Normal; tokens]);
        };
        let kinds: Option<Vec<PieceKind>> = kinds
            .as_array()
            .unwrap_or_default()
            .iter()
            .map(|kind| PieceKind::from_number(kind.as_u64()?))
            .collect();
        kinds.filter(|kinds| kinds.len() == tokens).ok_or_else(|| {
            self.malformed("tokenizer.ggml.token_type is no kind for each token".to_owned())
        })
    }

    /// The id that a key names, if it is there.
    fn token(&self, name: &str, tokens: usize) -> Result<Option<u32>, DecoderError> {
        let Some(value) = self.file.metadata().get(name) else { return Ok(None) };
        let id = value.as_u64().filter(|&id| id < tokens as u64);
        id.map(|id| Some(id as u32))
            .ok_or_else(|| self.malformed(format!("{name} is {value:?}, which is no token")))
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        match self.file.metadata().get(key) {
            Some(GgufValue::Bool(value)) => *value,
            _ => default,
        }
    }

    fn value(&self, key: &str) -> Result<&GgufValue, DecoderError> {
        self.file.metadata().get(key).ok_or_else(|| self.malformed(format!("{key} is missing")))
    }

    fn text(&self, key: &str) -> Result<&str, DecoderError> {
        let value = self.value(key)?.as_str();
        value.ok_or_else(|| self.malformed(format!("{key} is no text")))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, DecoderError> {
        let values = self.value(key)?.as_array();
        let texts = values.and_then(|values| {
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
        });
        texts.ok_or_else(|| self.malformed(format!("{key} is no list of texts")))
    }

    fn malformed(&self, message: String) -> DecoderError {
        DecoderError::Format { path: self.file.path().to_owned(), format: "GGUF", message }
    }

    fn unsupported(&self, field: &str, value: &str, message: &str) -> DecoderError {
        DecoderError::Unsupported {
            path: self.file.path().to_owned(),
            field: field.to_owned(),
            value: format!("{value:?}"),
            message: message.to_owned(),
        }
    }
}

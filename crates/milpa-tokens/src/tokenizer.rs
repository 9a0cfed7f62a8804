//! A tokenizer: text to ids and back.
//!
//! The order of work is that of Hugging Face tokenizers: added tokens are cut out, the rest is
//! normalised, cut into words, and each word is segmented. Byte-level BPE, the kind that is trained
//! here and the fast path, stands in this file and `bpe.rs`; the kinds whose tokens are pieces of
//! text in `pieces.rs`. Files are read and written in `tokenizer_file.rs`, `piece_file.rs` and
//! `sentencepiece.rs`. No token is ever added at either end.

use std::{
    borrow::Cow,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use milpa_base::{Digest, ModelError, TextEncoder, hash_bytes};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::{
    bpe::{ByteMerges, WordCache},
    byte_level,
    chat::ChatTemplate,
    error::TokensError,
    fast_hash::FastMap,
    pieces::{Algorithm, Joining, PieceModel},
    pre_split::PreSplit,
    sentencepiece::PieceParts,
    tokenizer_file,
};

/// What a tokenizer is made of, as GGUF and `tokenizer.json` store it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerParts {
    /// Tokens by id in GPT-2's byte-to-character writing (`Ġde`); special and user-defined tokens
    /// as they are.
    pub tokens: Vec<String>,
    /// Merges by rank, as pairs of tokens.
    pub merges: Vec<(String, String)>,
    /// Ids of special tokens (GGUF type `CONTROL`).
    pub special: Vec<u32>,
    /// Ids of tokens that are always cut out of text but are plain text (GGUF `USER_DEFINED`).
    pub user_defined: Vec<u32>,
    /// Cuts text into words.
    pub pre_split: PreSplit,
    /// Ends a document.
    pub eos: Option<u32>,
    /// Begins a sequence, if the model wants one.
    pub bos: Option<u32>,
}

/// A token that is cut out of text before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) text: String,
    pub(crate) special: bool,
    /// Whether it is looked for after normalisation.
    pub(crate) normalized: bool,
}

/// Everything a tokenizer is a function of, checked by [`Tokenizer::build`].
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Bytes of each token, by id.
    pub(crate) tokens: Vec<Vec<u8>>,
    pub(crate) added: Vec<AddedToken>,
    pub(crate) model: Model,
    pub(crate) names: Names,
}

/// What makes tokens of text.
#[derive(Debug, Clone)]
pub(crate) enum Model {
    ByteLevel(ByteLevel),
    Pieces(Box<PieceModel>),
}

/// Byte-level BPE.
#[derive(Debug, Clone)]
pub(crate) struct ByteLevel {
    /// (left, right, merged) by rank.
    pub(crate) merges: Vec<(u32, u32, u32)>,
    /// A word that is a token by itself is not merged (Llama 3).
    pub(crate) ignore_merges: bool,
    pub(crate) nfc: bool,
    pub(crate) pre_split: PreSplit,
}

/// How a tokenizer makes tokens of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenizerKind {
    /// BPE over bytes: GPT-2, Llama 3, Qwen, OLMo, and tokenizers that are trained here.
    ByteLevelBpe,
    /// BPE over characters with ▁ for the space: Llama 2, Mistral, Gemma.
    SentencePieceBpe,
    /// The most probable pieces: T5, XLM-R.
    Unigram,
    /// The longest pieces: BERT.
    WordPiece,
}

impl TokenizerKind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByteLevelBpe => "byte-level BPE",
            Self::SentencePieceBpe => "SentencePiece BPE",
            Self::Unigram => "Unigram",
            Self::WordPiece => "WordPiece",
        }
    }
}

/// What `tokenizer_config.json` adds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) eos: Option<u32>,
    /// The BOS token that is declared, whether or not sequences begin with it.
    pub(crate) bos: Option<u32>,
    pub(crate) begins_with_bos: bool,
    pub(crate) template: Option<ChatTemplate>,
}

/// A tokenizer; cloning is cheap.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    json: Vec<u8>,
    hash: Digest,
    spec: Spec,
    /// Merges of byte-level BPE.
    table: Option<ByteMerges>,
    /// Ordinary tokens by their bytes.
    ids_by_bytes: FastMap<Vec<u8>, u32>,
    added_raw: AddedMatcher,
    added_normalized: AddedMatcher,
    special_ids: Vec<u32>,
    stop_ids: Vec<u32>,
    /// Caches that are not in use; a call takes one and puts it back.
    caches: Mutex<Vec<WordCache>>,
}

/// Most caches kept while nobody encodes.
const MAX_KEPT_CACHES: usize = 64;

/// Names of tokens that end a document, in the order in which they are looked for where no
/// `tokenizer_config.json` says which it is.
const END_OF_TEXT: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];
/// Names of special tokens that end a turn of a conversation.
const END_OF_TURN: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "</s>",
];

impl Tokenizer {
    /// Opens a tokenizer artifact, a Hugging Face folder (`tokenizer.json`, or GPT-2's
    /// `vocab.json` with `merges.txt`), a `tokenizer.json` file, or a SentencePiece `.model` file.
    ///
    /// # Errors
    /// Files that cannot be read, are damaged, or use a piece that is not implemented.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        tokenizer_file::open(path)
    }

    /// Reads the bytes of a `tokenizer.json`; `path` is named in errors.
    pub fn from_json(bytes: &[u8], path: &Path) -> Result<Self, TokensError> {
        tokenizer_file::from_json(bytes, None, path)
    }

    /// Builds a tokenizer from its parts, as GGUF holds them.
    pub fn from_parts(parts: &TokenizerParts) -> Result<Self, TokensError> {
        tokenizer_file::from_parts(parts)
    }

    /// Builds a SentencePiece BPE tokenizer from its pieces, as GGUF holds them.
    pub fn from_pieces(parts: &PieceParts) -> Result<Self, TokensError> {
        parts.tokenizer()
    }

    /// Takes a SentencePiece BPE tokenizer apart, for GGUF.
    ///
    /// # Errors
    /// A tokenizer of another kind, or one that was not read from a `.model` file (merges of a
    /// `tokenizer.json` have no scores).
    pub fn to_pieces(&self) -> Result<PieceParts, TokensError> {
        PieceParts::of(self)
    }

    /// Takes a byte-level BPE tokenizer apart, for GGUF.
    ///
    /// # Errors
    /// A tokenizer of another kind.
    pub fn to_parts(&self) -> Result<TokenizerParts, TokensError> {
        let spec = &self.0.spec;
        let Model::ByteLevel(model) = &spec.model else {
            return Err(TokensError::NotByteLevel(self.kind().name()));
        };
        let mut tokens: Vec<String> =
            spec.tokens.iter().map(|bytes| byte_level::write(bytes)).collect();
        for added in &spec.added {
            tokens[added.id as usize].clone_from(&added.text);
        }
        let merges = model
            .merges
            .iter()
            .map(|&(left, right, _)| {
                (tokens[left as usize].clone(), tokens[right as usize].clone())
            })
            .collect();
        let ids = |special: bool| {
            let mut ids: Vec<u32> = spec
                .added
                .iter()
                .filter(|added| added.special == special)
                .map(|added| added.id)
                .collect();
            ids.sort_unstable();
            ids
        };
        Ok(TokenizerParts {
            merges,
            special: ids(true),
            user_defined: ids(false),
            pre_split: model.pre_split,
            eos: spec.names.eos,
            bos: self.bos_id(),
            tokens,
        })
    }

    /// Checks `spec` and builds the tables; `json` are the bytes it came from or is written as.
    pub(crate) fn build(mut spec: Spec, json: Vec<u8>) -> Result<Self, String> {
        let mut is_added = vec![false; spec.tokens.len()];
        for added in &spec.added {
            is_added[added.id as usize] = true;
        }
        let (ids_by_bytes, table) = match &spec.model {
            Model::ByteLevel(model) => {
                let (ids_by_bytes, table) = byte_level_tables(&spec.tokens, &is_added, model)?;
                (ids_by_bytes, Some(table))
            }
            Model::Pieces(model) => (piece_ids(&spec.tokens, &is_added, model), None),
        };
        let matcher = |normalized: bool| {
            AddedMatcher::new(spec.added.iter().filter(|added| added.normalized == normalized))
        };
        let (added_raw, added_normalized) = (matcher(false), matcher(true));
        let named = |name: &str| {
            spec.added.iter().find(|added| added.special && added.text == name).map(|a| a.id)
        };
        if spec.names.eos.is_none() {
            spec.names.eos = END_OF_TEXT.iter().find_map(|name| named(name));
        }
        let mut special_ids: Vec<u32> =
            spec.added.iter().filter(|added| added.special).map(|added| added.id).collect();
        let mut stop_ids: Vec<u32> = END_OF_TURN.iter().filter_map(|name| named(name)).collect();
        stop_ids.extend(spec.names.eos);
        for ids in [&mut special_ids, &mut stop_ids] {
            ids.sort_unstable();
            ids.dedup();
        }
        Ok(Self(Arc::new(Inner {
            hash: hash_bytes(&json),
            json,
            table,
            ids_by_bytes,
            added_raw,
            added_normalized,
            special_ids,
            stop_ids,
            caches: Mutex::new(Vec::new()),
            spec,
        })))
    }

    /// The bytes of its `tokenizer.json`.
    pub fn json(&self) -> &[u8] {
        &self.0.json
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` (with `template` in it) into an existing
    /// folder, so that `transformers.AutoTokenizer` opens it.
    pub fn write_files(&self, dir: &Path, template: &ChatTemplate) -> Result<(), TokensError> {
        for (name, bytes) in self.files(template) {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|source| TokensError::Write { path, source })?;
        }
        Ok(())
    }

    /// The files that [`Tokenizer::write_files`] writes: names and contents.
    pub fn files(&self, template: &ChatTemplate) -> [(&'static str, Vec<u8>); 2] {
        [
            (tokenizer_file::TOKENIZER_FILE, self.json().to_vec()),
            (tokenizer_file::CONFIG_FILE, tokenizer_file::config_json(self, template)),
        ]
    }

    /// BLAKE3 of its `tokenizer.json`: its identity.
    pub fn hash(&self) -> Digest {
        self.0.hash
    }

    /// Encodes text; special tokens such as `<|im_end|>` that it spells stay plain text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids);
        ids
    }

    /// As [`Tokenizer::encode`], appending to `ids`.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        self.with_cache(|cache| self.encode_text(text, false, cache, ids));
    }

    /// Encodes text in which special tokens are read as such: a rendered chat template, never a
    /// text from outside.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.with_cache(|cache| self.encode_text(text, true, cache, &mut ids));
        ids
    }

    /// Encodes many texts as [`Tokenizer::encode`] does, on `threads` threads, in order.
    pub fn encode_batch(&self, texts: &[&str], threads: usize) -> Vec<Vec<u32>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            self.with_cache(|cache| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(text) = texts.get(index) else { return };
                    let mut ids = Vec::with_capacity(text.len() / 3);
                    self.encode_text(text, false, cache, &mut ids);
                    done.push((index, ids));
                }
            });
            done
        };
        let mut all = vec![Vec::new(); texts.len()];
        std::thread::scope(|scope| {
            let threads = threads.clamp(1, texts.len().max(1));
            let handles: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut done = work();
            for handle in handles {
                match handle.join() {
                    Ok(other) => done.extend(other),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            for (index, ids) in done {
                all[index] = ids;
            }
        });
        all
    }

    /// Decodes ids; bytes that are no UTF-8 become U+FFFD, ids without a token are passed over.
    pub fn decode(&self, ids: &[u32]) -> String {
        match String::from_utf8(self.decode_bytes(ids)) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// Decodes ids to bytes; ids without a token are passed over.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let joining = match &self.0.spec.model {
            Model::ByteLevel(_) => Joining::Plain,
            Model::Pieces(model) => model.joining,
        };
        joining
            .join(ids.iter().filter_map(|&id| Some((self.token_bytes(id)?, self.is_special(id)))))
    }

    /// The bytes a token stands for, a special token's being its text; `None` for an id without a
    /// token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.0.spec.tokens.get(id as usize).map(Vec::as_slice)
    }

    /// The id of the special or user-defined token with this text, or else of the ordinary token
    /// that stands for exactly these bytes.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        let added = self.0.spec.added.iter().find(|added| added.text == text);
        added.map(|added| added.id).or_else(|| self.0.ids_by_bytes.get(text.as_bytes()).copied())
    }

    /// Number of tokens; every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.0.spec.tokens.len()
    }

    /// The token that ends a document, if there is one.
    pub fn eos_id(&self) -> Option<u32> {
        self.0.spec.names.eos
    }

    /// The token that each sequence is to begin with, if the tokenizer asks for one.
    pub fn bos_id(&self) -> Option<u32> {
        self.0.spec.names.bos.filter(|_| self.0.spec.names.begins_with_bos)
    }

    /// What stands before the first token of a text: the declared BOS, even where sequences do not
    /// begin with it by themselves, or EOS where there is none (as in the LM Evaluation Harness).
    pub fn start_id(&self) -> Option<u32> {
        self.0.spec.names.bos.or(self.eos_id())
    }

    /// The text of the declared BOS token, which chat templates may write; empty if none is.
    pub(crate) fn bos_text(&self) -> String {
        self.0.spec.names.bos.map_or_else(String::new, |id| self.decode(&[id]))
    }

    /// Tokens at which generation ends: EOS and the ends of a chat turn, sorted.
    pub fn stop_ids(&self) -> &[u32] {
        &self.0.stop_ids
    }

    /// Ids of special tokens, sorted.
    pub fn special_ids(&self) -> &[u32] {
        &self.0.special_ids
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.special_ids.binary_search(&id).is_ok()
    }

    /// How it makes tokens of text.
    pub fn kind(&self) -> TokenizerKind {
        match &self.0.spec.model {
            Model::ByteLevel(_) => TokenizerKind::ByteLevelBpe,
            Model::Pieces(model) => match &model.algorithm {
                Algorithm::Bpe(_) => TokenizerKind::SentencePieceBpe,
                Algorithm::Unigram(_) => TokenizerKind::Unigram,
                Algorithm::WordPiece(_) => TokenizerKind::WordPiece,
            },
        }
    }

    /// The pre-split of byte-level BPE.
    pub fn pre_split(&self) -> Option<PreSplit> {
        match &self.0.spec.model {
            Model::ByteLevel(model) => Some(model.pre_split),
            Model::Pieces(_) => None,
        }
    }

    /// Number of merges of byte-level BPE; 0 for other kinds.
    pub fn merge_count(&self) -> usize {
        match &self.0.spec.model {
            Model::ByteLevel(model) => model.merges.len(),
            Model::Pieces(_) => 0,
        }
    }

    /// The chat template that lay beside the tokenizer, if any.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.0.spec.names.template.as_ref()
    }

    /// Cuts a text as [`Tokenizer::encode`] does, and hands out the words that byte-level BPE encodes.
    pub(crate) fn each_word(&self, model: &ByteLevel, text: &str, word: &mut dyn FnMut(&str)) {
        let inner = &*self.0;
        inner.added_raw.cut(text, false, &mut Vec::new(), &mut |plain, ids| {
            let normalized = if model.nfc { to_nfc(plain) } else { Cow::Borrowed(plain) };
            inner.added_normalized.cut(&normalized, false, ids, &mut |plain, _| {
                model.pre_split.split(plain).for_each(&mut *word);
            });
        });
    }

    /// The tokens of one word of byte-level BPE.
    pub(crate) fn encode_word(&self, model: &ByteLevel, word: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        self.0.encode_word(model, word, &mut ids);
        ids
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.0.spec
    }

    /// The same tokenizer with what a `tokenizer_config.json` says.
    pub(crate) fn with_names(&self, names: Names) -> Result<Self, String> {
        Self::build(Spec { names, ..self.0.spec.clone() }, self.0.json.clone())
    }

    fn with_cache(&self, work: impl FnOnce(&mut WordCache)) {
        let lock = || self.0.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lock().pop();
        let mut cache = kept.unwrap_or_else(WordCache::new);
        work(&mut cache);
        let mut caches = lock();
        if caches.len() < MAX_KEPT_CACHES {
            caches.push(cache);
        }
    }

    fn encode_text(&self, text: &str, special: bool, cache: &mut WordCache, ids: &mut Vec<u32>) {
        let inner = &*self.0;
        let begins = |part: &str, whole: &str| std::ptr::eq(part.as_ptr(), whole.as_ptr());
        inner.added_raw.cut(text, special, ids, &mut |plain, ids| {
            let normalized = match &inner.spec.model {
                Model::ByteLevel(model) if model.nfc => to_nfc(plain),
                Model::ByteLevel(_) => Cow::Borrowed(plain),
                Model::Pieces(model) => model.normalizer.apply(plain),
            };
            let at_start = begins(plain, text);
            inner.added_normalized.cut(&normalized, special, ids, &mut |plain, ids| match &inner
                .spec
                .model
            {
                Model::ByteLevel(model) => {
                    for word in model.pre_split.split(plain) {
                        cache.encode(word.as_bytes(), ids, |word, ids| {
                            inner.encode_word(model, word, ids);
                        });
                    }
                }
                Model::Pieces(model) => {
                    model.encode(plain, at_start && begins(plain, &normalized), cache, ids);
                }
            });
        });
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("hash", &self.hash().short())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn encode_word(&self, model: &ByteLevel, word: &[u8], ids: &mut Vec<u32>) {
        if model.ignore_merges
            && let Some(&id) = self.ids_by_bytes.get(word)
        {
            ids.push(id);
            return;
        }
        if let Some(table) = &self.table {
            table.encode_word(word, ids);
        }
    }
}

/// Ordinary tokens by their bytes, and the merge tables.
fn byte_level_tables(
    tokens: &[Vec<u8>],
    is_added: &[bool],
    model: &ByteLevel,
) -> Result<(FastMap<Vec<u8>, u32>, ByteMerges), String> {
    let mut ids_by_bytes = FastMap::default();
    for (id, bytes) in tokens.iter().enumerate() {
        if !is_added[id] && ids_by_bytes.insert(bytes.clone(), id as u32).is_some() {
            return Err(format!("two tokens are written {:?}", byte_level::write(bytes)));
        }
    }
    let mut byte_ids = [0; 256];
    for byte in 0..=255u8 {
        // GPT-NeoX has no tokens for the bytes that never occur in UTF-8.
        byte_ids[usize::from(byte)] = match ids_by_bytes.get(&[byte][..]) {
            Some(&id) => id,
            None if matches!(byte, 0xC0 | 0xC1 | 0xF5..) => u32::MAX,
            None => return Err(format!("the byte 0x{byte:02x} has no token")),
        };
    }
    Ok((ids_by_bytes, ByteMerges::new(&byte_ids, &model.merges)))
}

/// Ordinary pieces by their bytes; a piece comes before the byte token of the same text.
fn piece_ids(tokens: &[Vec<u8>], is_added: &[bool], model: &PieceModel) -> FastMap<Vec<u8>, u32> {
    let mut ids = FastMap::default();
    let is_byte = |id: u32| model.byte_ids.as_ref().is_some_and(|bytes| bytes.contains(&id));
    for wants_bytes in [false, true] {
        for (id, bytes) in (0u32..).zip(tokens) {
            if !is_added[id as usize] && (bytes.len() == 1 && is_byte(id)) == wants_bytes {
                ids.entry(bytes.clone()).or_insert(id);
            }
        }
    }
    ids
}

fn to_nfc(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

/// Finds added tokens in text: leftmost, and the longest where several begin.
struct AddedMatcher {
    /// For each first byte, the tokens that begin with it, longest first.
    by_first: Vec<Vec<AddedToken>>,
    any: bool,
}

impl AddedMatcher {
    fn new<'a>(tokens: impl Iterator<Item = &'a AddedToken>) -> Self {
        let mut by_first = vec![Vec::new(); 256];
        let mut any = false;
        for token in tokens {
            if let Some(&first) = token.text.as_bytes().first() {
                by_first[usize::from(first)].push(token.clone());
                any = true;
            }
        }
        for tokens in &mut by_first {
            tokens.sort_by_key(|token| std::cmp::Reverse(token.text.len()));
        }
        Self { by_first, any }
    }

    /// Appends the ids of added tokens, and lets `encode` append those of the text between them.
    /// Without `special`, special tokens that the text spells are part of the text around them.
    fn cut(
        &self,
        text: &str,
        special: bool,
        ids: &mut Vec<u32>,
        encode: &mut dyn FnMut(&str, &mut Vec<u32>),
    ) {
        let (mut start, mut at) = (0, 0);
        let bytes = text.as_bytes();
        while self.any && at < bytes.len() {
            let found = self.by_first[usize::from(bytes[at])]
                .iter()
                .find(|token| bytes[at..].starts_with(token.text.as_bytes()));
            let Some(token) = found else {
                at += 1;
                continue;
            };
            let end = at + token.text.len();
            if special || !token.special {
                if start < at {
                    encode(&text[start..at], ids);
                }
                ids.push(token.id);
                start = end;
            }
            at = end;
        }
        if start < text.len() {
            encode(&text[start..], ids);
        }
    }
}
impl TextEncoder for Tokenizer {
    fn encode_text(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, ModelError> {
        Ok(if parse_special { self.encode_with_special(text) } else { self.encode(text) })
    }

    fn bos(&self) -> Option<u32> {
        self.bos_id()
    }

    fn start(&self) -> Option<u32> {
        self.start_id()
    }
}

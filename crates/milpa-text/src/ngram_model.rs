//! An n-gram language model in a memory-mapped file, and what it says of a text: perplexity.
//!
//! Queries back off as ARPA models define it (log₁₀ of the longest known n-gram plus the backoffs
//! of the contexts passed over), so scores are KenLM's for the same model (Heafield 2011). An n-gram
//! is found in an open-addressing table by a 64-bit hash of its words: the upper bits give the
//! place, the lower 32 are stored. The builder makes sure that no two n-grams of a model are taken
//! for each other; an n-gram that is not in it is taken for one that is with a probability of about
//! 10⁻⁹. [`NgramCounter`] makes models from text, [`arpa`] reads and writes the usual text format. It
//! knows nothing of corpora: which perplexity is too high is [`PerplexityCuts`]' business.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use milpa_base::{hash::hash_bytes, mmap::MappedFile, seed::splitmix64};

use crate::{
    codec::{Input, ModelError},
    normalise::fold_word,
    segment::words,
};

pub mod arpa;
mod cuts;
mod estimate;

pub use cuts::{PerplexityBucket, PerplexityCuts};
pub use estimate::{NgramConfig, NgramCounter};

/// Longest n-gram, in words.
pub const MAX_ORDER: usize = 5;

/// First bytes of a model file; the digit is the version of its layout.
const MAGIC: &[u8; 8] = b"MILPANG1";
/// Name of the format in errors.
const KIND: &str = "n-gram model";
/// Magic, hash, order, unit, seed, words, slots of the word table, slots of orders 2 to 5.
const HEADER_BYTES: usize = 8 + 32 + 4 + 4 + 8 + 8 + 8 + 8 * (MAX_ORDER - 1);
/// Places looked at before an n-gram counts as missing; a hostile table cannot ask for more.
const MAX_PROBES: u64 = 1 << 14;
/// Bytes of a slot: hash and number of a word; fingerprint, log₁₀, backoff; the same of the longest
/// n-grams, which have no backoff.
const WORD_SLOT: usize = 12;
const MIDDLE_SLOT: usize = 12;
const LONGEST_SLOT: usize = 8;
const UNIGRAM: usize = 8;

/// The number of the unknown word.
pub const UNKNOWN: u32 = 0;
/// The number of the beginning of a sentence.
pub const BEGIN: u32 = 1;
/// The number of the end of a sentence.
pub const END: u32 = 2;

/// What an n-gram is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Words, folded, with digits as zeros.
    Word,
    /// Characters, folded; a run of white space is one `▁`.
    Character,
}

impl Unit {
    /// Calls `f` with each token of one line of text.
    pub fn for_each_token(self, line: &str, mut f: impl FnMut(&str)) {
        let mut folded = String::new();
        match self {
            Self::Word => {
                for word in words(line) {
                    fold_word(word, &mut folded);
                    if folded.bytes().any(|byte| byte.is_ascii_digit()) {
                        folded = folded.replace(|c: char| c.is_ascii_digit(), "0");
                    }
                    f(&folded);
                }
            }
            Self::Character => {
                let mut buffer = [0; 4];
                for word in line.split_whitespace() {
                    f("▁");
                    fold_word(word, &mut folded);
                    folded.chars().for_each(|c| f(c.encode_utf8(&mut buffer)));
                }
            }
        }
    }
}

/// An n-gram model as a list: what estimation gives and ARPA files hold.
#[derive(Debug, Clone, PartialEq)]
pub struct NgramList {
    unit: Unit,
    /// Words by number; the first three are `<unk>`, `<s>`, `</s>`.
    words: Vec<String>,
    /// By order − 1, sorted by key.
    orders: Vec<Vec<Entry>>,
}

/// An n-gram with its two numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    /// Words from the last to the first, then zeros. In this order an n-gram's shorter histories are
    /// prefixes of its key, so that those who share one stand together.
    key: [u32; MAX_ORDER],
    log10: f32,
    backoff: f32,
}

impl NgramList {
    /// Number of n-grams of each order, from 1.
    pub fn counts(&self) -> Vec<usize> {
        self.orders.iter().map(Vec::len).collect()
    }

    /// The place of an n-gram (last word first) in the list of its order.
    fn find(&self, reversed: &[u32]) -> Option<usize> {
        let order = reversed.len();
        let list = &self.orders[order - 1];
        list.binary_search_by(|entry| entry.key[..order].cmp(reversed)).ok()
    }

    /// Writes the model's file; its bytes depend on the list alone.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let file = |source| ModelError::File { path: path.to_owned(), source };
        let bytes = self.to_bytes()?;
        let mut out = BufWriter::new(File::create(path).map_err(file)?);
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(file)
    }

    /// The bytes of the model's file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        // Two n-grams that look alike under one seed do not under another.
        (0..32).find_map(|seed| self.to_bytes_with(seed)).ok_or_else(|| {
            ModelError::Training("no seed tells the n-grams of the model apart".to_owned())
        })
    }

    fn to_bytes_with(&self, seed: u64) -> Option<Vec<u8>> {
        let order = self.orders.len();
        let mut slots = [0u64; MAX_ORDER];
        slots[0] = slots_for(self.words.len());
        for (slots, list) in slots[1..].iter_mut().zip(&self.orders[1..]) {
            *slots = slots_for(list.len());
        }
        let mut out = vec![0u8; HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        let mut word_table = vec![0u8; slots[0] as usize * WORD_SLOT];
        for (number, word) in self.words.iter().enumerate() {
            let hash = word_hash(word, seed);
            let at = free_slot(&word_table, slots[0], WORD_SLOT, hash, &hash.to_le_bytes())?;
            word_table[at..at + 8].copy_from_slice(&hash.to_le_bytes());
            word_table[at + 8..at + 12].copy_from_slice(&(number as u32).to_le_bytes());
        }
        out.append(&mut word_table);
        for entry in &self.orders[0] {
            out.extend(entry.log10.to_le_bytes());
            out.extend(entry.backoff.to_le_bytes());
        }
        for (index, list) in self.orders.iter().enumerate().skip(1) {
            let size = if index + 1 == order { LONGEST_SLOT } else { MIDDLE_SLOT };
            let mut table = vec![0u8; slots[index] as usize * size];
            for entry in list {
                let hash = entry.key[..=index].iter().fold(seed, |hash, &word| extend(hash, word));
                let print = fingerprint(hash).to_le_bytes();
                let at = free_slot(&table, slots[index], size, hash, &print)?;
                table[at..at + 4].copy_from_slice(&print);
                table[at + 4..at + 8].copy_from_slice(&entry.log10.to_le_bytes());
                if size == MIDDLE_SLOT {
                    table[at + 8..at + 12].copy_from_slice(&entry.backoff.to_le_bytes());
                }
            }
            out.append(&mut table);
        }
        let mut header = Vec::with_capacity(HEADER_BYTES - 40);
        header.extend((order as u32).to_le_bytes());
        header.extend((self.unit as u32).to_le_bytes());
        header.extend(seed.to_le_bytes());
        header.extend((self.words.len() as u64).to_le_bytes());
        for count in slots {
            header.extend(count.to_le_bytes());
        }
        out[40..HEADER_BYTES].copy_from_slice(&header);
        let hash = hash_bytes(&out[40..]).0;
        out[8..40].copy_from_slice(&hash);
        Some(out)
    }
}

/// Slots of a table: a third of them stay empty, so that a search ends soon.
fn slots_for(entries: usize) -> u64 {
    entries as u64 * 3 / 2 + 1
}

/// The hash of an n-gram that ends as that of `hash` does and has `word` before it.
#[inline]
fn extend(hash: u64, word: u32) -> u64 {
    splitmix64(hash ^ u64::from(word))
}

#[inline]
fn fingerprint(hash: u64) -> u32 {
    (hash as u32).max(1)
}

/// A hash of a word's letters; 0 marks an empty slot and is never given.
fn word_hash(word: &str, seed: u64) -> u64 {
    let mut chunks = word.as_bytes().chunks_exact(8);
    let mut hash = splitmix64(seed ^ (word.len() as u64) << 32);
    for chunk in &mut chunks {
        hash = splitmix64(hash ^ u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
    }
    let rest = chunks.remainder().iter().fold(0u64, |rest, &byte| (rest << 8) | u64::from(byte));
    splitmix64(hash ^ rest).max(1)
}

/// Where a hash belongs in a table: its upper bits, scaled.
#[inline]
fn home(hash: u64, slots: u64) -> u64 {
    ((u128::from(hash) * u128::from(slots)) >> 64) as u64
}

/// The byte offset of the slot to put `mark` into; `None` if it is there already or too far away.
fn free_slot(table: &[u8], slots: u64, size: usize, hash: u64, mark: &[u8]) -> Option<usize> {
    let mut slot = home(hash, slots);
    for _ in 0..MAX_PROBES {
        let at = slot as usize * size;
        let found = &table[at..at + mark.len()];
        if found == mark {
            return None;
        }
        if found.iter().all(|&byte| byte == 0) {
            return Some(at);
        }
        slot = if slot + 1 == slots { 0 } else { slot + 1 };
    }
    None
}

/// The words before the one to be scored, as far as the model knows them together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct State {
    /// The last word first.
    words: [u32; MAX_ORDER - 1],
    /// log₁₀ backoff of the last word, of the last two, …
    backoffs: [f32; MAX_ORDER - 1],
    length: usize,
}

/// What a model says of some text.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TextScore {
    /// Sum of log₁₀ p of the tokens and the ends of sentences.
    pub log10: f64,
    /// Number of tokens with the ends of sentences.
    pub tokens: u64,
    /// Tokens among them that the model does not know.
    pub unknown: u64,
}

impl TextScore {
    /// 10^(−log₁₀ p / tokens); `None` of no text.
    pub fn perplexity(&self) -> Option<f64> {
        (self.tokens > 0).then(|| 10f64.powf(-self.log10 / self.tokens as f64))
    }
}

enum Bytes {
    Mapped(MappedFile),
    Owned(Vec<u8>),
}

/// A model to be asked.
pub struct NgramModel {
    bytes: Bytes,
    layout: Layout,
}

/// What the header says, checked against the file's length.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    order: usize,
    unit: Unit,
    seed: u64,
    words: u64,
    slots: [u64; MAX_ORDER],
    /// Where the word table, the unigrams, and the tables of orders 2 to 5 begin, and the end.
    starts: [usize; MAX_ORDER + 2],
}

impl std::fmt::Debug for NgramModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NgramModel").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl NgramModel {
    /// Maps a model's file. The header is checked against the file's length; contents are checked
    /// where they are used, and by [`NgramModel::verify`] as a whole.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let mapped = MappedFile::open(path)
            .map_err(|source| ModelError::File { path: path.to_owned(), source })?;
        let layout = Layout::read(&mapped)?;
        Ok(Self { bytes: Bytes::Mapped(mapped), layout })
    }

    /// Takes a model that is in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ModelError> {
        let layout = Layout::read(&bytes)?;
        Ok(Self { bytes: Bytes::Owned(bytes), layout })
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Reads the whole file and compares its hash with the one that it names.
    pub fn verify(&self) -> Result<(), ModelError> {
        let bytes = self.bytes();
        if hash_bytes(&bytes[40..]).0 == bytes[8..40] {
            return Ok(());
        }
        let detail = "its content has another hash than it says".to_owned();
        Err(ModelError::Damaged { kind: KIND, detail })
    }

    /// Words in the longest n-gram.
    pub fn order(&self) -> usize {
        self.layout.order
    }

    /// What its n-grams are made of.
    pub fn unit(&self) -> Unit {
        self.layout.unit
    }

    /// Words known, with the three special ones.
    pub fn words(&self) -> u64 {
        self.layout.words
    }

    /// Bytes of the file.
    pub fn size(&self) -> usize {
        self.bytes().len()
    }

    /// For asking many times: the tables as slices.
    pub fn scorer(&self) -> Scorer<'_> {
        let bytes = self.bytes();
        let part = |index: usize| &bytes[self.layout.starts[index]..self.layout.starts[index + 1]];
        Scorer {
            layout: self.layout,
            word_table: part(0),
            unigrams: part(1),
            tables: std::array::from_fn(|index| part(index + 2)),
        }
    }

    /// Scores one sentence with its end, after the beginning of a sentence.
    pub fn score_sentence<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> TextScore {
        let mut sentence = self.scorer().sentence();
        words.into_iter().for_each(|word| sentence.push(word));
        sentence.end()
    }

    /// Scores a text, each line that is not blank as a sentence of the model's unit.
    pub fn score_text(&self, text: &str) -> TextScore {
        let scorer = self.scorer();
        let mut total = TextScore::default();
        for line in text.lines() {
            let mut sentence = scorer.sentence();
            self.layout.unit.for_each_token(line, |token| sentence.push(token));
            if sentence.score.tokens > 0 {
                let score = sentence.end();
                total.log10 += score.log10;
                total.tokens += score.tokens;
                total.unknown += score.unknown;
            }
        }
        total
    }
}

impl Layout {
    fn read(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut input = Input { bytes, kind: KIND };
        if input.take(MAGIC.len())? != MAGIC {
            return Err(input.damaged("wrong first bytes"));
        }
        input.take(32)?;
        let mut number = |bytes: usize| {
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(input.take(bytes)?);
            Ok::<u64, ModelError>(u64::from_le_bytes(value))
        };
        let (order, unit, seed, words) = (number(4)?, number(4)?, number(8)?, number(8)?);
        let mut slots = [0; MAX_ORDER];
        for count in &mut slots {
            *count = number(8)?;
        }
        if !(2..=MAX_ORDER as u64).contains(&order) {
            return Err(input.damaged("its order is not 2 to 5"));
        }
        let order = order as usize;
        let unit = match unit {
            0 => Unit::Word,
            1 => Unit::Character,
            _ => return Err(input.damaged("its unit is unknown")),
        };
        let mut starts = [HEADER_BYTES; MAX_ORDER + 2];
        let mut end = HEADER_BYTES as u64;
        let sizes = |index: usize| match index {
            0 => (slots[0], WORD_SLOT),
            1 => (words, UNIGRAM),
            _ if index < order => (slots[index - 1], MIDDLE_SLOT),
            _ => (slots[index - 1], LONGEST_SLOT),
        };
        for index in 0..=MAX_ORDER {
            let (count, size) = sizes(index);
            let used = index <= order;
            if used == (count == 0) {
                return Err(input.damaged("a table has a size that its order does not ask for"));
            }
            end = count
                .checked_mul(size as u64)
                .and_then(|length| end.checked_add(length))
                .filter(|&end| end <= bytes.len() as u64)
                .ok_or_else(|| input.damaged("its tables are longer than the file"))?;
            starts[index + 1] = end as usize;
        }
        if end != bytes.len() as u64 || words <= u64::from(END) {
            return Err(input.damaged("the file has another length than its tables"));
        }
        Ok(Self { order, unit, seed, words, slots, starts })
    }
}

/// A model's tables, ready to be asked.
#[derive(Debug, Clone, Copy)]
pub struct Scorer<'a> {
    layout: Layout,
    word_table: &'a [u8],
    unigrams: &'a [u8],
    /// Of orders 2 to 5.
    tables: [&'a [u8]; MAX_ORDER - 1],
}

impl<'a> Scorer<'a> {
    /// The number of a word; [`UNKNOWN`] if the model does not know it.
    pub fn word(&self, word: &str) -> u32 {
        let hash = word_hash(word, self.layout.seed);
        let slots = self.layout.slots[0];
        let mut slot = home(hash, slots);
        for _ in 0..MAX_PROBES {
            let at = slot as usize * WORD_SLOT;
            let found = u64::from_le_bytes(array(&self.word_table[at..]));
            if found == hash {
                let number = u32::from_le_bytes(array(&self.word_table[at + 8..]));
                // A damaged table may name a word that there is not.
                return if u64::from(number) < self.layout.words { number } else { UNKNOWN };
            }
            if found == 0 {
                break;
            }
            slot = if slot + 1 == slots { 0 } else { slot + 1 };
        }
        UNKNOWN
    }

    /// The state at the beginning of a sentence.
    pub fn begin(&self) -> State {
        let mut state = State { length: 1, ..State::default() };
        state.words[0] = BEGIN;
        state.backoffs[0] = self.unigram(BEGIN).1;
        state
    }

    /// log₁₀ p(word | state), and the state after it.
    ///
    /// # Panics
    /// If the word's number is not one that [`Scorer::word`] gives.
    pub fn score(&self, state: &State, word: u32) -> (f32, State) {
        let (mut log10, backoff) = self.unigram(word);
        let mut next = State { length: 1, ..State::default() };
        next.words[0] = word;
        next.backoffs[0] = backoff;
        let mut hash = extend(self.layout.seed, word);
        // Words of the context that the n-gram found so far has.
        let mut used = 0;
        while used < state.length {
            hash = extend(hash, state.words[used]);
            let slots = self.layout.slots[used + 1];
            if used + 2 == self.layout.order {
                if let Some(at) = find::<LONGEST_SLOT>(self.tables[used], slots, hash) {
                    log10 = f32::from_le_bytes(array(&self.tables[used][at + 4..]));
                    used += 1;
                }
                break;
            }
            let Some(at) = find::<MIDDLE_SLOT>(self.tables[used], slots, hash) else { break };
            log10 = f32::from_le_bytes(array(&self.tables[used][at + 4..]));
            next.words[used + 1] = state.words[used];
            next.backoffs[used + 1] = f32::from_le_bytes(array(&self.tables[used][at + 8..]));
            next.length = used + 2;
            used += 1;
        }
        let passed: f32 = state.backoffs[used..state.length].iter().sum();
        (log10 + passed, next)
    }

    fn unigram(&self, word: u32) -> (f32, f32) {
        let at = word as usize * UNIGRAM;
        let half = |at: usize| f32::from_le_bytes(array(&self.unigrams[at..]));
        (half(at), half(at + 4))
    }

    /// Begins a sentence.
    pub fn sentence(&self) -> Sentence<'a> {
        Sentence { scorer: *self, state: self.begin(), score: TextScore::default() }
    }
}

/// A sentence being scored.
#[derive(Debug, Clone)]
pub struct Sentence<'a> {
    scorer: Scorer<'a>,
    state: State,
    score: TextScore,
}

impl Sentence<'_> {
    /// Scores the next word; returns its log₁₀ probability through the running sum.
    pub fn push(&mut self, word: &str) {
        let word = self.scorer.word(word);
        self.score.unknown += u64::from(word == UNKNOWN);
        self.add(word);
    }

    /// Scores the end of the sentence and returns the sum.
    pub fn end(mut self) -> TextScore {
        self.add(END);
        self.score
    }

    fn add(&mut self, word: u32) {
        let (log10, next) = self.scorer.score(&self.state, word);
        self.state = next;
        self.score.log10 += f64::from(log10);
        self.score.tokens += 1;
    }
}

/// The byte offset of an n-gram's slot.
#[inline]
fn find<const SIZE: usize>(table: &[u8], slots: u64, hash: u64) -> Option<usize> {
    let wanted = fingerprint(hash);
    let mut slot = home(hash, slots);
    for _ in 0..MAX_PROBES {
        let at = slot as usize * SIZE;
        let found = u32::from_le_bytes(array(&table[at..]));
        if found == wanted {
            return Some(at);
        }
        if found == 0 {
            return None;
        }
        slot = if slot + 1 == slots { 0 } else { slot + 1 };
    }
    None
}

#[inline]
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes[..N].try_into().expect("a slice of N bytes")
}

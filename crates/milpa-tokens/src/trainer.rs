//! Trains a byte-level BPE tokenizer (Sennrich et al. 2016, arXiv 1508.07909; Radford et al. 2019).
//!
//! Words are counted in parallel with a bound on memory, then pairs are merged by count, largest
//! first, equal counts by the smaller pair of ids: the result is that of Hugging Face's
//! `BpeTrainer` (`reference/tokenizer_train.py` compares them). The same texts give the same bytes
//! for any number of threads.
//!
//! Bounds, which Hugging Face does not have: a word of more than [`MAX_WORD_BYTES`] bytes is not
//! counted, and when a batch of text leaves more than [`MAX_DISTINCT_WORDS`] distinct words, those
//! of the smallest counts are dropped until half of the table is free.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use milpa_base::{
    ArtifactWriter, Bytes, Digest, Kind, Manifest, TextRecord, TextRecords, artifact::Record,
};
use serde::{Deserialize, Serialize};

use crate::{
    byte_level,
    chat::ChatTemplate,
    config::TokenizerConfig,
    error::{Context, TokensError},
    fast_hash::FastMap,
    pre_split::PreSplit,
    tokenizer::{AddedToken, ByteLevel, Model, Names, Spec, Tokenizer},
    tokenizer_file,
};

/// Words longer than this are not counted: no token is worth making of them.
pub const MAX_WORD_BYTES: usize = 256;
/// Most distinct words that are kept after a batch.
pub const MAX_DISTINCT_WORDS: usize = 1 << 21;
/// Text that is counted between two looks at the bound; fixed, since the result depends on it.
const BATCH_BYTES: usize = 8 << 20;

/// A trained tokenizer and what its training saw.
#[derive(Debug)]
pub struct TrainedTokenizer {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What its training saw.
    pub report: TrainingReport,
}

/// What the training of a tokenizer saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingReport {
    /// Documents counted.
    pub documents: u64,
    /// Bytes of text counted.
    pub text_bytes: u64,
    /// Bytes of text counted, by source.
    pub source_bytes: BTreeMap<String, u64>,
    /// Distinct words (pieces of the pre-split) that the merges were counted on.
    pub distinct_words: u64,
    /// Occurrences of words that were not counted: too long, or dropped since the table was full.
    pub dropped_words: u64,
    /// Merges made.
    pub merges: u64,
}

impl TrainedTokenizer {
    /// Writes the tokenizer artifact: `tokenizer.json`, `tokenizer_config.json` with the template
    /// of a model that only continues text, and the manifest.
    pub fn write(
        &self,
        dir: &Path,
        config: &TokenizerConfig,
        inputs: BTreeMap<String, Digest>,
        licences: Vec<String>,
    ) -> Result<Manifest, TokensError> {
        let writer = ArtifactWriter::begin(dir, Kind::Tokenizer)?;
        for (name, bytes) in self.tokenizer.files(&ChatTemplate::continuation()) {
            writer.write(name, &bytes)?;
        }
        let mut record = Record::new("tokenizer", config, inputs)?;
        record.licences = licences;
        let report = &self.report;
        record.counts = [
            ("documents", report.documents),
            ("text_bytes", report.text_bytes),
            ("distinct_words", report.distinct_words),
            ("dropped_words", report.dropped_words),
            ("merges", report.merges),
            ("vocabulary", self.tokenizer.vocab_size() as u64),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into();
        Ok(writer.finish(record)?)
    }
}

/// Trains a tokenizer with the pre-split [`PreSplit::Qwen35`] on `records`.
///
/// # Errors
/// A configuration that cannot be right, texts that cannot be read, no text at all, or a stop.
pub fn train_tokenizer(
    config: &TokenizerConfig,
    records: &mut TextRecords<'_>,
    context: &Context<'_>,
) -> Result<TrainedTokenizer, TokensError> {
    config.validate().map_err(|(key, message)| TokensError::Config { key, message })?;
    let cut = |text: &str, word: &mut dyn FnMut(&str)| PreSplit::Qwen35.split(text).for_each(word);
    let counted = count_words(config.sample, cut, records, context)?;
    let alphabet = byte_level::alphabet();
    let specials = config.special_tokens.len() as u32;
    let mut tokens: Vec<Vec<u8>> =
        config.special_tokens.iter().map(|token| token.as_bytes().to_vec()).collect();
    tokens.extend(alphabet.iter().map(|&byte| vec![byte]));
    let mut byte_ids = [0; 256];
    for (index, &byte) in alphabet.iter().enumerate() {
        byte_ids[usize::from(byte)] = specials + index as u32;
    }
    let distinct_words = counted.words.len() as u64;
    let (mut symbols, mut counts) = (Vec::new(), Vec::new());
    for (word, count) in counted.words {
        symbols.push(word.iter().map(|&byte| byte_ids[usize::from(byte)]).collect());
        counts.push(count as i64);
    }
    let wanted = Wanted { tokens: config.vocab_size, min_count: config.min_count, closed: 0 };
    let merges = merge_pairs(wanted, &mut symbols, &counts, &mut tokens, context)?;
    let report = TrainingReport {
        documents: counted.documents,
        text_bytes: counted.source_bytes.values().sum(),
        source_bytes: counted.source_bytes,
        distinct_words,
        dropped_words: counted.dropped,
        merges: merges.len() as u64,
    };
    let added = config.special_tokens.iter().zip(0..).map(|(text, id)| AddedToken {
        id,
        text: text.clone(),
        special: true,
        normalized: false,
    });
    let tokenizer = tokenizer_file::from_spec(Spec {
        tokens,
        added: added.collect(),
        model: Model::ByteLevel(ByteLevel {
            merges,
            ignore_merges: false,
            nfc: false,
            pre_split: PreSplit::Qwen35,
        }),
        names: Names { eos: Some(0), ..Names::default() },
    })?;
    Ok(TrainedTokenizer { tokenizer, report })
}

/// The words of texts.
pub(crate) struct Counted {
    /// Words with their counts, sorted by bytes.
    pub(crate) words: Vec<(Box<[u8]>, u64)>,
    pub(crate) documents: u64,
    pub(crate) source_bytes: BTreeMap<String, u64>,
    pub(crate) dropped: u64,
}

/// Counts the words into which `cut` cuts texts, of `sample` bytes from each source.
pub(crate) fn count_words(
    sample: Option<Bytes>,
    cut: impl Fn(&str, &mut dyn FnMut(&str)) + Sync,
    records: &mut TextRecords<'_>,
    context: &Context<'_>,
) -> Result<Counted, TokensError> {
    let mut source_bytes = BTreeMap::<String, u64>::new();
    let (mut table, mut documents, mut bytes) = (WordTable::new(MAX_DISTINCT_WORDS), 0, 0);
    context.progress.begin("Counting words", None, "bytes");
    let mut batch = Vec::new();
    loop {
        let mut batch_bytes = 0;
        batch.clear();
        while batch_bytes < BATCH_BYTES {
            let Some(record) = records.next() else { break };
            let TextRecord { source, text, .. } =
                record.map_err(|source| TokensError::Records { documents, source })?;
            let seen = source_bytes.entry(source).or_default();
            if sample.is_none_or(|sample| *seen < sample.0) {
                *seen += text.len() as u64;
                batch_bytes += text.len();
                documents += 1;
                batch.push(text);
            }
        }
        if batch.is_empty() {
            break;
        }
        context.check_stop()?;
        table.count(&batch, &cut, context.threads);
        bytes += batch_bytes as u64;
        context.progress.advance(bytes);
    }
    context.progress.end();
    let mut words: Vec<(Box<[u8]>, u64)> = table.counts.into_iter().collect();
    words.sort_unstable();
    if words.is_empty() {
        return Err(TokensError::NoText("what the tokenizer is to be trained on"));
    }
    Ok(Counted { words, documents, source_bytes, dropped: table.dropped })
}

/// Counts of words with a bound on their number.
struct WordTable {
    counts: FastMap<Box<[u8]>, u64>,
    most: usize,
    dropped: u64,
}

impl WordTable {
    fn new(most: usize) -> Self {
        Self { counts: FastMap::default(), most, dropped: 0 }
    }

    fn count(
        &mut self,
        texts: &[String],
        cut: &(impl Fn(&str, &mut dyn FnMut(&str)) + Sync),
        threads: usize,
    ) {
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut counts, mut dropped) = (FastMap::<Box<[u8]>, u64>::default(), 0);
            while let Some(text) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
                cut(text, &mut |word| {
                    if word.len() > MAX_WORD_BYTES {
                        dropped += 1;
                    } else if let Some(count) = counts.get_mut(word.as_bytes()) {
                        *count += 1;
                    } else {
                        counts.insert(word.as_bytes().into(), 1);
                    }
                });
            }
            (counts, dropped)
        };
        std::thread::scope(|scope| {
            let handles: Vec<_> =
                (1..threads.clamp(1, texts.len().max(1))).map(|_| scope.spawn(work)).collect();
            self.add(work());
            for handle in handles {
                match handle.join() {
                    Ok(part) => self.add(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        self.shrink();
    }

    fn add(&mut self, (counts, dropped): (FastMap<Box<[u8]>, u64>, u64)) {
        self.dropped += dropped;
        for (word, count) in counts {
            *self.counts.entry(word).or_default() += count;
        }
    }

    /// Drops words of the smallest counts, all words of a count or none, so that what stays does
    /// not depend on the table's order.
    fn shrink(&mut self) {
        if self.counts.len() <= self.most {
            return;
        }
        let mut words_by_count = BTreeMap::<u64, usize>::new();
        for &count in self.counts.values() {
            *words_by_count.entry(count).or_default() += 1;
        }
        let (mut left, mut floor) = (self.counts.len(), 0);
        for (count, words) in words_by_count {
            if left <= self.most / 2 {
                break;
            }
            left -= words;
            floor = count;
        }
        let dropped = &mut self.dropped;
        self.counts.retain(|_, count| {
            if *count <= floor {
                *dropped += *count;
            }
            *count > floor
        });
    }
}

type Pair = (u32, u32);

/// A pair that waits to be merged, with the words it was seen in since it was queued last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    count: i64,
    pair: Reverse<Pair>,
    number: Reverse<u64>,
    words: Vec<u32>,
}

/// What tokens are merged.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Tokens in all.
    pub(crate) tokens: usize,
    /// A pair that is seen less often is not merged.
    pub(crate) min_count: u64,
    /// No merge makes a token below this id: a pair that spells one stays two tokens.
    pub(crate) closed: u32,
}

/// Merges pairs until the vocabulary is full; `tokens` grows by one for each new token, and `symbols`, the
/// words seen `counts` times each, shrink.
///
/// Two properties of Hugging Face's trainer are kept on purpose, since ids must be equal: the count
/// of a merged pair stays as it was, so a pair that appears again (after another merge has made the
/// same token) is merged at once; and a merge that is made twice keeps its last place.
pub(crate) fn merge_pairs(
    wanted: Wanted,
    symbols: &mut [Vec<u32>],
    counts: &[i64],
    tokens: &mut Vec<Vec<u8>>,
    context: &Context<'_>,
) -> Result<Vec<(u32, u32, u32)>, TokensError> {
    let mut ids: FastMap<Vec<u8>, u32> =
        tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();

    let mut pair_counts = FastMap::<Pair, i64>::default();
    let mut seen_in = FastMap::<Pair, Vec<u32>>::default();
    for (index, word) in symbols.iter().enumerate() {
        for pair in word.windows(2) {
            let pair = (pair[0], pair[1]);
            *pair_counts.entry(pair).or_default() += counts[index];
            note(&mut seen_in, pair, index as u32);
        }
    }
    let (mut queue, mut number) = (BinaryHeap::new(), 0);
    let mut enqueue = |queue: &mut BinaryHeap<Waiting>,
                       seen_in: &mut FastMap<Pair, Vec<u32>>,
                       pair_counts: &FastMap<Pair, i64>| {
        let mut seen: Vec<_> = seen_in.drain().collect();
        seen.sort_unstable_by_key(|(pair, _)| *pair);
        for (pair, words) in seen {
            let count = pair_counts[&pair];
            if count > 0 {
                number += 1;
                queue.push(Waiting { count, pair: Reverse(pair), number: Reverse(number), words });
            }
        }
    };
    enqueue(&mut queue, &mut seen_in, &pair_counts);

    let mut merges: Vec<(u32, u32, u32)> = Vec::new();
    let mut repeated = false;
    context.progress.begin("Merging pairs", Some(wanted.tokens as u64), "tokens");
    while tokens.len() < wanted.tokens {
        let Some(mut top) = queue.pop() else { break };
        let pair = top.pair.0;
        let count = pair_counts[&pair];
        if top.count != count {
            top.count = count;
            queue.push(top);
            continue;
        }
        if count < wanted.min_count.max(1) as i64 {
            break;
        }
        let bytes = [&tokens[pair.0 as usize][..], &tokens[pair.1 as usize]].concat();
        let merged = if let Some(&id) = ids.get(&bytes) {
            if id < wanted.closed {
                continue;
            }
            repeated = true;
            id
        } else {
            let id = tokens.len() as u32;
            tokens.push(bytes.clone());
            ids.insert(bytes, id);
            id
        };
        merges.push((pair.0, pair.1, merged));
        for &index in &top.words {
            let weight = counts[index as usize];
            merge_in_word(&mut symbols[index as usize], pair, merged, |pair, change| {
                *pair_counts.entry(pair).or_default() += change * weight;
                if change > 0 {
                    note(&mut seen_in, pair, index);
                }
            });
        }
        enqueue(&mut queue, &mut seen_in, &pair_counts);
        if merges.len().is_multiple_of(64) {
            context.check_stop()?;
            context.progress.advance(tokens.len() as u64);
        }
    }
    context.progress.end();
    if repeated {
        keep_last(&mut merges);
    }
    Ok(merges)
}

fn note(seen_in: &mut FastMap<Pair, Vec<u32>>, pair: Pair, word: u32) {
    let words = seen_in.entry(pair).or_default();
    // Words come in order, so a word that is there already is the last one.
    if words.last() != Some(&word) {
        words.push(word);
    }
}

/// Replaces each `pair` by `merged`, from the left, and tells how the neighbouring pairs change.
fn merge_in_word(
    symbols: &mut Vec<u32>,
    pair: Pair,
    merged: u32,
    mut change: impl FnMut(Pair, i64),
) {
    let (mut read, mut write) = (0, 0);
    while read < symbols.len() {
        if symbols[read] == pair.0 && symbols.get(read + 1) == Some(&pair.1) {
            if write > 0 {
                change((symbols[write - 1], pair.0), -1);
                change((symbols[write - 1], merged), 1);
            }
            if let Some(&after) = symbols.get(read + 2) {
                change((pair.1, after), -1);
                change((merged, after), 1);
            }
            symbols[write] = merged;
            read += 2;
        } else {
            symbols[write] = symbols[read];
            read += 1;
        }
        write += 1;
    }
    symbols.truncate(write);
}

/// Keeps the last of equal merges.
fn keep_last(merges: &mut Vec<(u32, u32, u32)>) {
    let last: FastMap<Pair, usize> =
        merges.iter().enumerate().map(|(at, merge)| ((merge.0, merge.1), at)).collect();
    let mut at = 0;
    merges.retain(|merge| {
        at += 1;
        last[&(merge.0, merge.1)] == at - 1
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use milpa_base::{Silent, StopFlag};
    use proptest::prelude::*;

    fn train(texts: &[&str], vocab_size: usize, threads: usize) -> TrainedTokenizer {
        let config = TokenizerConfig { vocab_size, ..TokenizerConfig::default() };
        let mut records = texts.iter().enumerate().map(|(index, text)| {
            Ok(TextRecord {
                id: index.to_string(),
                source: "s".to_owned(),
                text: (*text).to_owned(),
            })
        });
        let stop = StopFlag::default();
        let context = Context { threads, progress: &Silent, stop: &stop };
        train_tokenizer(&config, &mut records, &context).unwrap()
    }

    #[test]
    fn larger_counts_go_first_and_equal_counts_by_ids() {
        // "ab" ×5, "cd" ×3, "ef" ×3: c before e; then " ab" from Ġ + ab.
        let trained = train(&["ab ab ab ab ab cd cd cd ef ef ef"], 263, 1);
        let written: Vec<String> = trained.tokenizer.to_parts().unwrap().tokens.split_off(259);
        assert_eq!(written, ["ab", "Ġab", "cd", "ef"]);
        assert_eq!(trained.report.merges, 4);
        assert_eq!(trained.tokenizer.encode(" ab"), [260]);
    }

    #[test]
    fn too_little_text_gives_a_smaller_vocabulary() {
        let trained = train(&["aa aa"], 8192, 1);
        assert_eq!(trained.tokenizer.vocab_size(), 260);
    }

    #[test]
    fn the_table_drops_the_rarest_words_whole_counts_at_a_time() {
        let texts: Vec<String> = vec!["a".into(), "a b b c d".split(' ').collect::<String>()];
        let mut table = WordTable::new(4);
        for word in ["a", "a", "a", "b", "b", "c", "d", "e"] {
            table.add(([(word.as_bytes().into(), 1)].into_iter().collect(), 0));
        }
        table.shrink();
        let mut left: Vec<_> = table.counts.iter().map(|(w, c)| (w.to_vec(), *c)).collect();
        left.sort();
        assert_eq!(left, [(b"a".to_vec(), 3), (b"b".to_vec(), 2)]);
        assert_eq!(table.dropped, 3);
        let cut =
            |text: &str, word: &mut dyn FnMut(&str)| PreSplit::Qwen35.split(text).for_each(word);
        table.count(&texts, &cut, 2);
        assert_eq!(table.counts[&b"a"[..]], 4);
    }

    #[test]
    fn long_words_are_not_counted() {
        let long = "x".repeat(MAX_WORD_BYTES + 1);
        let trained = train(&[&long, "ab ab"], 8192, 1);
        assert_eq!(trained.report.dropped_words, 1);
        assert!(trained.tokenizer.token_id("xx").is_none());
    }

    proptest! {
        #[test]
        fn threads_and_order_do_not_matter(
            texts in prop::collection::vec("[abñ \u{303}\n']{0,40}", 1..12)
        ) {
            prop_assume!(texts.iter().any(|text| !text.is_empty()));
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let one = train(&texts, 300, 1);
            let mut reversed = texts.clone();
            reversed.reverse();
            let other = train(&reversed, 300, 4);
            prop_assert_eq!(one.tokenizer.json(), other.tokenizer.json());
            for text in texts {
                prop_assert_eq!(other.tokenizer.decode(&other.tokenizer.encode(text)), text);
            }
        }

        #[test]
        fn counts_stay_true_while_merging(word in prop::collection::vec(0u32..3, 0..30)) {
            let pairs = |word: &[u32]| {
                let mut counts = BTreeMap::<Pair, i64>::new();
                for pair in word.windows(2) {
                    *counts.entry((pair[0], pair[1])).or_default() += 1;
                }
                counts
            };
            let mut symbols = word.clone();
            let mut counts = pairs(&word);
            merge_in_word(&mut symbols, (0, 1), 9, |pair, change| {
                *counts.entry(pair).or_default() += change;
            });
            counts.remove(&(0, 1));
            counts.retain(|_, count| *count != 0);
            prop_assert_eq!(counts, pairs(&symbols));
        }
    }
}

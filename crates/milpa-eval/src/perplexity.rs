//! Perplexity on held-out text: bits per byte of each source, beside xz -9 and bzip2 -9 on the
//! same bytes.
//!
//! **What is measured.** At most `max_bytes_per_source` of each source, chosen by a rule that does
//! not depend on the order of the documents:
//! 1. Every document gets a seeded hash of its id. With floor f = max/256 (within 1 and 16 KiB),
//!    the documents of the smallest hashes are taken until the sum of min(length, f) reaches max:
//!    all of them if there are fewer, so a few hundred documents are always covered.
//! 2. From each taken document the leading bytes up to a common cap are measured, the cap being
//!    the one at which the sum is max (short documents are whole, long ones share the rest
//!    equally). A cut falls on a character.
//!
//! So every held-out author speaks, and none by more than the common cap. The compressors get the
//! same bytes; they learn while they read and do better on more of them, so a comparison with them
//! belongs to its number of bytes, which stands beside it.
//!
//! **How.** Each text is scored by [`TextModel::score_rolling`]. With fewer than
//! [`FEW_DOCUMENTS`] documents, texts are cut into blocks of about 16 KiB (after a line's end or
//! before a space) and each block is scored by itself, so that there is something to resample; the
//! report says which. The 95 % interval is the percentile bootstrap of the ratio of sums over
//! those units. Blocks of one document resemble each other: an interval over blocks speaks of
//! these documents, not of other authors.
//!
//! Formulas (of lm-evaluation-harness 0.4): bits per byte = −Σ ln p / (ln 2 · bytes); word,
//! byte and token perplexity = exp(−Σ ln p / count), words being the pieces between white space.

use std::{collections::BTreeMap, time::Instant};

use milpa_base::{Bytes, Digest, RollingWindows, Seed, TextModel, TextRecords, Tokens, hash_bytes};
use serde::{Deserialize, Serialize};

use crate::{
    compress::compressed_lengths,
    config::PerplexityConfig,
    error::EvalError,
    harness::ask::{is_refusal, refusal},
    multiple_choice::Resampling,
    run::Watch,
    statistics::{Interval, LEVEL, Method, bootstrap, percentile_interval},
};

/// Below this many documents, blocks of text are resampled instead of documents.
pub const FEW_DOCUMENTS: usize = 10;
/// Length of such a block.
pub const BLOCK_BYTES: usize = 16 << 10;
/// Text handed to the model at a time; between two such batches a stop is heard.
const BATCH_BYTES: usize = 256 << 10;
/// Most sources of one measurement.
const MAX_SOURCES: usize = 1024;

/// What was drawn with replacement for an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResampledUnit {
    /// Documents.
    Documents,
    /// Blocks of text of about 16 KiB.
    Blocks,
}

/// How well a model predicts held-out text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerplexityReport {
    /// Bits per byte over all sources together.
    pub bits_per_byte: f64,
    /// Its interval: units are drawn within each source. `None` where there is only one unit.
    pub interval: Option<Interval>,
    /// Bytes measured.
    pub bytes: Bytes,
    /// Tokens scored.
    pub tokens: Tokens,
    /// Documents measured, in whole or in part.
    pub documents: u64,
    /// Hash of the model, as the model tells it.
    pub model_hash: String,
    /// The bound in force.
    pub max_bytes_per_source: Bytes,
    /// Seed of the choice of documents and of the resampling.
    pub seed: Seed,
    /// Bootstrap replicates.
    pub replicates: usize,
    /// By source, sorted by name.
    pub sources: Vec<SourcePerplexity>,
    /// Seconds it took.
    pub wall_seconds: f64,
}

/// The same for one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePerplexity {
    /// Name of the source.
    pub source: String,
    /// Bits per UTF-8 byte.
    pub bits_per_byte: f64,
    /// Its interval; `None` where there is only one unit.
    pub interval: Option<Interval>,
    /// What was resampled for the interval.
    pub resampled: ResampledUnit,
    /// How many of those there were.
    pub units: u64,
    /// exp(−Σ ln p / words); `None` where it is beyond all numbers (text without spaces).
    pub word_perplexity: Option<f64>,
    /// exp(−Σ ln p / bytes).
    pub byte_perplexity: f64,
    /// exp(−Σ ln p / tokens): comparable only between models of one tokenizer.
    pub token_perplexity: Option<f64>,
    /// Σ ln p over all tokens, in nats.
    pub log_likelihood: f64,
    /// Bytes measured.
    pub bytes: Bytes,
    /// Bytes of the whole source.
    pub bytes_available: Bytes,
    /// Tokens scored.
    pub tokens: Tokens,
    /// Pieces between white space, counted like Python's `len(re.split(r"\s+", text))`.
    pub words: u64,
    /// Documents measured, in whole or in part.
    pub documents: u64,
    /// Documents of the whole source that have text.
    pub documents_available: u64,
    /// Documents without text.
    pub empty_documents: u64,
    /// Bits per byte of `xz -9` on exactly the measured bytes.
    pub xz_bits_per_byte: f64,
    /// Bits per byte of `bzip2 -9` on exactly the measured bytes.
    pub bzip2_bits_per_byte: f64,
    /// BLAKE3 of exactly the measured bytes.
    pub text_hash: Digest,
    /// Texts that the model did not take, by reason; nothing above counts them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
}

/// How one text was predicted: a line of `texts.jsonl`.
///
/// It holds no text, only its hash: two models are compared on the texts that both predicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextResult {
    /// Name of the task; empty for the held-out text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task: String,
    /// Name of the source.
    pub source: String,
    /// Number of its document in the stream of its source, documents without text left out: blocks of one
    /// document resemble each other. Absent in reports of before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<u64>,
    /// BLAKE3 of the text (a document, as far as it was measured, or a block of one).
    pub hash: Digest,
    /// Σ ln p over its tokens, in nats.
    pub log_likelihood: f64,
    /// Tokens scored.
    pub tokens: u64,
    /// Bytes scored.
    pub bytes: u64,
}

/// Measures `model` on `records`; memory stays below about twice `max_bytes_per_source` for each
/// source, whatever the length of the stream.
///
/// # Errors
/// A broken stream, no text at all, a model that fails or answers what cannot be, or a stop.
pub fn perplexity(
    model: &dyn TextModel,
    records: &mut TextRecords<'_>,
    config: &PerplexityConfig,
    resampling: Resampling,
    watch: Watch<'_>,
) -> Result<PerplexityReport, EvalError> {
    perplexity_by_text(model, records, config, resampling, watch).map(|(report, _)| report)
}

/// The same as [`perplexity`], with the texts behind it.
///
/// # Errors
/// Those of [`perplexity`].
pub fn perplexity_by_text(
    model: &dyn TextModel,
    records: &mut TextRecords<'_>,
    config: &PerplexityConfig,
    resampling: Resampling,
    watch: Watch<'_>,
) -> Result<(PerplexityReport, Vec<TextResult>), EvalError> {
    let started = Instant::now();
    let sources = select(records, config.max_bytes_per_source.0, resampling.seed, watch)?;
    let total: u64 = sources.values().map(Selection::measured_bytes).sum();
    watch.progress.begin("perplexity", Some(total), "bytes");
    let (mut measured, mut texts) = (Vec::new(), Vec::new());
    let mut done = 0;
    for (name, selection) in sources {
        let mut source = measure_source(model, &name, &selection, resampling, watch, done)?;
        done += source.report.bytes.0;
        texts.append(&mut source.texts);
        measured.push(source);
    }
    watch.progress.end();
    let sum = |value: fn(&SourcePerplexity) -> f64| -> f64 {
        measured.iter().map(|source| value(&source.report)).sum()
    };
    let bytes = sum(|s| s.bytes.0 as f64);
    // Replicate r of the whole is replicate r of each source: units are drawn within sources.
    let pooled = (0..resampling.replicates).map(|replicate| {
        let totals = measured.iter().map(|source| source.replicates[replicate]);
        let (nats, bytes) = totals.fold((0.0, 0.0), |(n, b), pair| (n + pair.0, b + pair.1));
        nats / bytes / std::f64::consts::LN_2
    });
    let resampled = measured.iter().any(|source| source.report.units > 1);
    let report = PerplexityReport {
        bits_per_byte: -sum(|s| s.log_likelihood) / bytes / std::f64::consts::LN_2,
        interval: resampled
            .then(|| percentile_interval(pooled.collect(), LEVEL, Method::Bootstrap))
            .flatten(),
        bytes: Bytes(bytes as u64),
        tokens: Tokens(measured.iter().map(|source| source.report.tokens.0).sum()),
        documents: measured.iter().map(|source| source.report.documents).sum(),
        model_hash: model.info().hash.clone(),
        max_bytes_per_source: config.max_bytes_per_source,
        seed: resampling.seed,
        replicates: resampling.replicates,
        sources: measured.into_iter().map(|source| source.report).collect(),
        wall_seconds: started.elapsed().as_secs_f64(),
    };
    Ok((report, texts))
}

/// Reads the stream and keeps what is measured of each source.
fn select(
    records: &mut TextRecords<'_>,
    max_bytes: u64,
    seed: Seed,
    watch: Watch<'_>,
) -> Result<BTreeMap<String, Selection>, EvalError> {
    let mut sources: BTreeMap<String, Selection> = BTreeMap::new();
    let mut documents = 0;
    for record in records {
        if watch.stop.is_set() {
            return Err(EvalError::Interrupted);
        }
        let record = record.map_err(|source| EvalError::Texts { documents, source })?;
        documents += 1;
        if !sources.contains_key(&record.source) {
            if sources.len() >= MAX_SOURCES {
                return Err(EvalError::NoText {
                    detail: format!("there are more than {MAX_SOURCES} sources; measure fewer"),
                });
            }
            let selection = Selection::new(max_bytes, seed.derive(&record.source));
            sources.insert(record.source.clone(), selection);
        }
        if let Some(selection) = sources.get_mut(&record.source) {
            selection.add(&record.id, record.text);
        }
    }
    sources.retain(|_, selection| {
        selection.finish();
        !selection.pieces.is_empty()
    });
    if sources.is_empty() {
        return Err(EvalError::NoText {
            detail: format!("{documents} documents were read and none has text"),
        });
    }
    Ok(sources)
}

/// The part of a source that is measured, kept within bounds while the source streams by.
struct Selection {
    max_bytes: u64,
    floor: u64,
    seed: Seed,
    /// By (hash of the id, place in the stream); the place breaks ties of repeated ids.
    pieces: BTreeMap<(u64, u64), Piece>,
    /// Σ min(length, floor) over the pieces.
    floor_sum: u64,
    held_bytes: u64,
    documents: u64,
    empty: u64,
    bytes: u64,
}

struct Piece {
    text: String,
    /// Length of the whole document, at most `max_bytes`.
    length: u64,
}

impl Selection {
    fn new(max_bytes: u64, seed: Seed) -> Self {
        Self {
            max_bytes,
            floor: (max_bytes / 256).clamp(1 << 10, 16 << 10),
            seed,
            pieces: BTreeMap::new(),
            floor_sum: 0,
            held_bytes: 0,
            documents: 0,
            empty: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, id: &str, mut text: String) {
        if text.is_empty() {
            self.empty += 1;
            return;
        }
        let key = (self.seed.derive(id).0, self.documents);
        self.documents += 1;
        self.bytes += text.len() as u64;
        let length = (text.len() as u64).min(self.max_bytes);
        cut(&mut text, length);
        self.floor_sum += length.min(self.floor);
        self.held_bytes += text.len() as u64;
        self.pieces.insert(key, Piece { text, length });
        // Whatever is beyond the bound has the largest hash.
        while let Some(entry) = self.pieces.last_entry() {
            let share = entry.get().length.min(self.floor);
            if self.floor_sum - share < self.max_bytes {
                break;
            }
            self.floor_sum -= share;
            self.held_bytes -= entry.remove().text.len() as u64;
        }
        if self.held_bytes > self.max_bytes.saturating_mul(2) {
            self.shrink();
        }
    }

    /// Cuts to the common cap. As long as all documents are in, the cap only falls as more come;
    /// once some are dropped it is never above the floor. So nothing is cut that is needed later.
    fn shrink(&mut self) {
        let cap = self.cap().max(self.floor);
        for piece in self.pieces.values_mut() {
            cut(&mut piece.text, cap);
        }
        self.held_bytes = self.measured_bytes();
    }

    fn finish(&mut self) {
        let cap = self.cap();
        for piece in self.pieces.values_mut() {
            cut(&mut piece.text, cap);
        }
        self.pieces.retain(|_, piece| !piece.text.is_empty());
    }

    /// The cap c at which Σ min(length, c) is `max_bytes`.
    fn cap(&self) -> u64 {
        let mut lengths: Vec<u64> = self.pieces.values().map(|piece| piece.length).collect();
        lengths.sort_unstable();
        let mut left = self.max_bytes;
        for (index, &length) in lengths.iter().enumerate() {
            let share = left / (lengths.len() - index) as u64;
            if length > share {
                return share;
            }
            left -= length;
        }
        self.max_bytes
    }

    fn measured_bytes(&self) -> u64 {
        self.pieces.values().map(|piece| piece.text.len() as u64).sum()
    }

    /// The texts in the order of the stream, each with its place there.
    fn texts(&self) -> Vec<(u64, &str)> {
        let mut texts: Vec<(u64, &str)> =
            self.pieces.iter().map(|((_, place), piece)| (*place, piece.text.as_str())).collect();
        texts.sort_unstable_by_key(|(place, _)| *place);
        texts
    }
}

/// Cuts a text to at most `bytes` bytes, on a character.
fn cut(text: &mut String, bytes: u64) {
    if (text.len() as u64) > bytes {
        text.truncate(text.floor_char_boundary(bytes as usize));
        text.shrink_to_fit();
    }
}

struct MeasuredSource {
    report: SourcePerplexity,
    /// (nats, bytes) of each bootstrap replicate.
    replicates: Vec<(f64, f64)>,
    texts: Vec<TextResult>,
}

fn measure_source<'a>(
    model: &dyn TextModel,
    name: &str,
    selection: &'a Selection,
    resampling: Resampling,
    watch: Watch<'_>,
    done_before: u64,
) -> Result<MeasuredSource, EvalError> {
    let documents = selection.texts();
    let texts: Vec<&str> = documents.iter().map(|(_, text)| *text).collect();
    let (resampled, units) = if texts.len() < FEW_DOCUMENTS {
        let of_document = |&(place, text): &(u64, &'a str)| {
            blocks(text).into_iter().map(move |block| (place, block))
        };
        (ResampledUnit::Blocks, documents.iter().flat_map(of_document).collect())
    } else {
        (ResampledUnit::Documents, documents)
    };
    let (places, units): (Vec<u64>, Vec<&str>) = units.into_iter().unzip();
    let scored = score_units(model, name, &units, watch, done_before)?;
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    let (mut scores, mut kept): (Vec<(f64, u64)>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut of_documents = Vec::new();
    for ((unit, place), score) in units.iter().zip(places).zip(scored) {
        match score {
            Ok(score) => {
                scores.push(score);
                kept.push(unit);
                of_documents.push(place);
            }
            Err(reason) => *refused.entry(reason).or_default() += 1,
        }
    }
    if kept.is_empty() {
        let reasons: Vec<String> =
            refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        return Err(EvalError::NoText {
            detail: format!(
                "{name}: none of {} texts was scored: {}; with the model's tokenizer (--tokenizer) long \
                 texts are scored in windows",
                units.len(),
                reasons.join(", ")
            ),
        });
    }
    // What is counted, hashed and compressed is what was scored.
    let texts = if refused.is_empty() { texts } else { kept.clone() };
    let units = kept;
    let log_likelihood: f64 = scores.iter().map(|score| score.0).sum();
    let tokens: u64 = scores.iter().map(|score| score.1).sum();
    let bytes: u64 = units.iter().map(|unit| unit.len() as u64).sum();
    let words: u64 = texts.iter().map(|text| count_words(text)).sum();
    let lengths = compressed_lengths(&texts)?;
    let mut hasher = blake3::Hasher::new();
    for text in &texts {
        hasher.update(text.as_bytes());
    }
    let mut replicates = Vec::with_capacity(resampling.replicates);
    let seed = resampling.seed.derive("bootstrap").derive(name);
    let ratios = bootstrap(units.len(), resampling.replicates, seed, |drawn| {
        let (nats, bytes) = drawn.iter().fold((0.0, 0.0), |(nats, bytes), &unit| {
            (nats - scores[unit].0, bytes + units[unit].len() as f64)
        });
        replicates.push((nats, bytes));
        nats / bytes / std::f64::consts::LN_2
    });
    let interval =
        (units.len() > 1).then(|| percentile_interval(ratios, LEVEL, Method::Bootstrap)).flatten();
    let finite = |value: f64| value.is_finite().then_some(value);
    let per_byte = |length: u64| 8.0 * length as f64 / bytes as f64;
    let text_of = |((unit, score), document): ((&&str, &(f64, u64)), u64)| TextResult {
        task: String::new(),
        source: name.to_owned(),
        document: Some(document),
        hash: hash_bytes(unit.as_bytes()),
        log_likelihood: score.0,
        tokens: score.1,
        bytes: unit.len() as u64,
    };
    Ok(MeasuredSource {
        replicates,
        texts: units.iter().zip(&scores).zip(of_documents).map(text_of).collect(),
        report: SourcePerplexity {
            source: name.to_owned(),
            bits_per_byte: -log_likelihood / bytes as f64 / std::f64::consts::LN_2,
            interval,
            resampled,
            units: units.len() as u64,
            word_perplexity: finite((-log_likelihood / words as f64).exp()),
            byte_perplexity: (-log_likelihood / bytes as f64).exp(),
            token_perplexity: finite((-log_likelihood / tokens as f64).exp()),
            log_likelihood,
            bytes: Bytes(bytes),
            bytes_available: Bytes(selection.bytes),
            tokens: Tokens(tokens),
            words,
            documents: texts.len() as u64,
            documents_available: selection.documents,
            empty_documents: selection.empty,
            xz_bits_per_byte: per_byte(lengths.xz),
            bzip2_bits_per_byte: per_byte(lengths.bzip2),
            text_hash: Digest(*hasher.finalize().as_bytes()),
            refused,
        },
    })
}

/// Log-likelihood and tokens of a unit, or why the model did not take it.
type Scored = Result<(f64, u64), String>;

/// Scores the units in batches; returns (log-likelihood, tokens) of each, or why the model did not take
/// it.
fn score_units(
    model: &dyn TextModel,
    name: &str,
    units: &[&str],
    watch: Watch<'_>,
    done_before: u64,
) -> Result<Vec<Scored>, EvalError> {
    let bad = |problem| EvalError::BadAnswer { doing: format!("the text of {name}"), problem };
    let mut scores = Vec::with_capacity(units.len());
    let mut done = done_before;
    let mut rest = units;
    while !rest.is_empty() {
        if watch.stop.is_set() {
            return Err(EvalError::Interrupted);
        }
        let mut bytes = 0;
        let within = |unit: &&&str| {
            bytes += unit.len();
            bytes <= BATCH_BYTES
        };
        let (batch, after) = rest.split_at(rest.iter().take_while(within).count().max(1));
        rest = after;
        let bytes_of =
            |count: usize| -> u64 { batch.iter().take(count).map(|unit| unit.len() as u64).sum() };
        let answers = model.score_rolling(batch, RollingWindows::default(), &mut |count| {
            watch.progress.advance(done + bytes_of(count));
        });
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) if is_refusal(&error) && batch.len() > 1 => {
                // One of them is refused: find out which, and keep the others.
                for unit in batch {
                    scores.extend(score_units(model, name, &[unit], watch, done)?);
                    done += unit.len() as u64;
                }
                continue;
            }
            Err(error) if is_refusal(&error) => {
                scores.push(Err(refusal(&error)));
                done += bytes_of(batch.len());
                continue;
            }
            Err(source) => {
                return Err(EvalError::Model { doing: format!("the text of {name}"), source });
            }
        };
        if answers.len() != batch.len() {
            return Err(bad(format!("{} scores for {} texts", answers.len(), batch.len())));
        }
        for (answer, unit) in answers.iter().zip(batch) {
            if !answer.log_likelihood.is_finite() {
                return Err(bad(format!(
                    "a log-likelihood of {}; the weights may be damaged",
                    answer.log_likelihood
                )));
            }
            if answer.bytes != unit.len() {
                let (said, has) = (answer.bytes, unit.len());
                return Err(bad(format!("{said} bytes for a text of {has}")));
            }
            scores.push(Ok((answer.log_likelihood, answer.tokens as u64)));
        }
        done += bytes_of(batch.len());
        watch.progress.advance(done);
    }
    Ok(scores)
}

/// Cuts a text into blocks of at most [`BLOCK_BYTES`]: after the last line's end or before the
/// last space of a block's second half, else on a character.
fn blocks(text: &str) -> Vec<&str> {
    let (mut blocks, mut rest) = (Vec::new(), text);
    while rest.len() > BLOCK_BYTES {
        let end = rest.floor_char_boundary(BLOCK_BYTES);
        let half = rest.floor_char_boundary(BLOCK_BYTES / 2);
        let window = &rest[half..end];
        let at = window
            .rfind('\n')
            .map(|at| half + at + 1)
            .or_else(|| window.rfind(' ').map(|at| half + at))
            .unwrap_or(end);
        let (block, after) = rest.split_at(at);
        blocks.push(block);
        rest = after;
    }
    if !rest.is_empty() {
        blocks.push(rest);
    }
    blocks
}

/// `len(re.split(r"\s+", text))` of Python 3: runs of white space plus one.
fn count_words(text: &str) -> u64 {
    // Python's \s also matches the separators U+001C to U+001F.
    let space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    let (mut runs, mut inside) = (0, false);
    for c in text.chars() {
        let now = space(c);
        runs += u64::from(now && !inside);
        inside = now;
    }
    runs + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_counted_like_pythons_split() {
        // Values of len(re.split(r"\s+", text)) in CPython 3.11.
        let check = |text, expect| assert_eq!(count_words(text), expect, "{text:?}");
        check("", 1);
        check("uno", 1);
        check("uno dos\n\ntres", 3);
        check(" uno ", 3);
        check("a\u{a0}b\u{1c}c\u{85}d\u{3000}e", 5);
        check("a\u{200b}b", 1);
    }

    #[test]
    fn blocks_break_at_lines_and_spaces_and_lose_nothing() {
        let line = format!("{}\n", "palabra ".repeat(100));
        let text = line.repeat(50);
        let found = blocks(&text);
        assert!(found.len() > 2 && found.concat() == text);
        assert!(found[..found.len() - 1].iter().all(|block| block.ends_with('\n')));
        let spaced = "palabra ".repeat(5000);
        let found = blocks(&spaced);
        assert!(found.concat() == spaced && found[1..].iter().all(|b| b.starts_with(' ')));
        let solid = "ñ".repeat(20_000);
        assert!(blocks(&solid).concat() == solid);
        assert!(blocks("").is_empty());
    }

    fn selected(documents: &[(String, usize)], max_bytes: u64) -> Vec<(String, usize)> {
        let mut selection = Selection::new(max_bytes, Seed(4));
        for (id, length) in documents {
            selection.add(id, id.chars().take(1).cycle().take(*length).collect());
            assert!(selection.held_bytes <= 2 * max_bytes.max(1 << 10) + selection.floor);
        }
        selection.finish();
        // The place in the stream finds the id again.
        let mut found: Vec<(String, usize)> = selection
            .pieces
            .iter()
            .map(|((_, place), piece)| (documents[*place as usize].0.clone(), piece.text.len()))
            .collect();
        found.sort();
        found
    }

    fn named(lengths: &[usize]) -> Vec<(String, usize)> {
        lengths.iter().enumerate().map(|(i, length)| (format!("d{i:05}"), *length)).collect()
    }

    #[test]
    fn every_author_gets_an_equal_share_and_short_texts_are_whole() {
        let check = |lengths: &[usize], max_bytes, expect: &[usize]| {
            let found: Vec<usize> =
                selected(&named(lengths), max_bytes).into_iter().map(|(_, n)| n).collect();
            assert_eq!(found, expect);
        };
        check(&[100, 200], 5000, &[100, 200]);
        check(&[9000, 9000, 9000], 6000, &[2000, 2000, 2000]);
        // 500 is whole; 5500 is left for two.
        check(&[9000, 500, 4000], 6000, &[2750, 500, 2750]);
        check(&[100_000], 6000, &[6000]);
    }

    #[test]
    fn many_short_documents_fill_the_bound() {
        // 10,000 documents of 100 bytes and a bound of 64 KiB: 655.36 of them.
        let documents = named(&vec![100; 10_000]);
        let found = selected(&documents, 64 << 10);
        assert_eq!(found.len(), 656);
        assert!(found.iter().any(|(id, _)| id.as_str() > "d09000"));
        let total: usize = found.iter().map(|(_, length)| length).sum();
        assert!(total <= 64 << 10 && total > 64_000, "{total}");
    }

    proptest! {
        #[test]
        fn the_choice_does_not_depend_on_the_order_and_keeps_the_bound(
            lengths in proptest::collection::vec(1usize..6000, 1..60),
            max_bytes in 1024u64..40_000,
            seed: u64,
        ) {
            let documents = named(&lengths);
            let mut shuffled = documents.clone();
            let order = milpa_base::seed::Permutation::new(Seed(seed), documents.len() as u64);
            for (index, document) in documents.iter().enumerate() {
                shuffled[order.apply(index as u64) as usize] = document.clone();
            }
            let found = selected(&documents, max_bytes);
            prop_assert_eq!(&found, &selected(&shuffled, max_bytes));
            let total: u64 = found.iter().map(|(_, length)| *length as u64).sum();
            let available: u64 = lengths.iter().map(|length| *length as u64).sum();
            prop_assert!(total <= max_bytes);
            // Rounding of the cap loses less than a byte for each document.
            prop_assert!(total + found.len() as u64 >= max_bytes.min(available));
        }
    }
}

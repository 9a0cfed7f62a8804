//! Measures a tokenizer on texts: how many bytes a token carries, how many tokens a word takes, for
//! each source, and what the cuts look like.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use milpa_base::{TextRecord, TextRecords, units::si};
use serde::Serialize;

use crate::{
    error::{Context, TokensError},
    pre_split::PreSplit,
    tokenizer::Tokenizer,
};

/// Text that is encoded at once.
const BATCH_BYTES: usize = 8 << 20;
/// How many of the longest tokens are shown.
const LONGEST_TOKENS: usize = 20;
/// Characters of an example.
const EXAMPLE_CHARACTERS: usize = 120;

/// What `milpa tokens inspect` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenizerReport {
    /// BLAKE3 of the `tokenizer.json`, in hex.
    pub hash: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Number of merges.
    pub merges: usize,
    /// llama.cpp's name of the pre-split, or the kind of a tokenizer without one.
    pub pre_split: String,
    /// Special tokens with their ids.
    pub special_tokens: Vec<(u32, String)>,
    /// Share of the vocabulary that the texts use.
    pub used_share: f64,
    /// Measures by source, by name.
    pub sources: Vec<SourceReport>,
    /// The longest tokens, longest first, with visible spaces.
    pub longest_tokens: Vec<String>,
}

/// How a tokenizer does on one source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// The source.
    pub source: String,
    /// Documents.
    pub documents: u64,
    /// UTF-8 bytes of text.
    pub text_bytes: u64,
    /// Tokens.
    pub tokens: u64,
    /// Words: runs of characters without white space.
    pub words: u64,
    /// Bytes of text per token; more is shorter.
    pub bytes_per_token: f64,
    /// Tokens per word (fertility); 1 is best.
    pub tokens_per_word: f64,
    /// Characters that take more than one byte.
    pub wide_characters: u64,
    /// Share of those with a token boundary inside, between two bytes of the character.
    pub cut_share: f64,
    /// The beginning of the first document: `|` between tokens, `␣` for a space, `⏎` for a line
    /// end, `<C3>` for a byte that is no character by itself.
    pub example: String,
}

#[derive(Default)]
struct Measures {
    documents: u64,
    text_bytes: u64,
    tokens: u64,
    words: u64,
    wide: u64,
    cut: u64,
    example: String,
}

/// Measures a tokenizer on texts, by source.
///
/// # Errors
/// Texts that cannot be read, no text at all, or a stop.
pub fn inspect_tokenizer(
    tokenizer: &Tokenizer,
    records: &mut TextRecords<'_>,
    context: &Context<'_>,
) -> Result<TokenizerReport, TokensError> {
    let mut sources = BTreeMap::<String, Measures>::new();
    let mut used = vec![false; tokenizer.vocab_size()];
    let (mut documents, mut bytes) = (0, 0);
    context.progress.begin("Measuring the tokenizer", None, "bytes");
    loop {
        context.check_stop()?;
        let (mut batch, mut batch_bytes) = (Vec::<TextRecord>::new(), 0);
        while batch_bytes < BATCH_BYTES {
            let Some(record) = records.next() else { break };
            let record = record.map_err(|source| TokensError::Records { documents, source })?;
            documents += 1;
            batch_bytes += record.text.len();
            batch.push(record);
        }
        if batch.is_empty() {
            break;
        }
        let texts: Vec<&str> = batch.iter().map(|record| record.text.as_str()).collect();
        for (record, ids) in batch.iter().zip(tokenizer.encode_batch(&texts, context.threads)) {
            let measures = sources.entry(record.source.clone()).or_default();
            measure(tokenizer, &record.text, &ids, measures);
            for id in ids {
                used[id as usize] = true;
            }
        }
        bytes += batch_bytes as u64;
        context.progress.advance(bytes);
    }
    context.progress.end();
    if sources.is_empty() {
        return Err(TokensError::NoText("what the tokenizer is to be measured on"));
    }
    let used_count = used.iter().filter(|used| **used).count();
    Ok(TokenizerReport {
        hash: tokenizer.hash().to_string(),
        vocab_size: tokenizer.vocab_size(),
        merges: tokenizer.merge_count(),
        pre_split: tokenizer
            .pre_split()
            .map_or_else(|| tokenizer.kind().name(), PreSplit::gguf_name)
            .to_owned(),
        special_tokens: tokenizer
            .special_ids()
            .iter()
            .map(|&id| (id, tokenizer.decode(&[id])))
            .collect(),
        used_share: used_count as f64 / used.len() as f64,
        sources: sources.into_iter().map(|(source, measures)| report(source, measures)).collect(),
        longest_tokens: longest_tokens(tokenizer),
    })
}

fn measure(tokenizer: &Tokenizer, text: &str, ids: &[u32], measures: &mut Measures) {
    measures.documents += 1;
    measures.text_bytes += text.len() as u64;
    measures.tokens += ids.len() as u64;
    measures.words += text.split_whitespace().count() as u64;
    measures.wide += text.chars().filter(|c| !c.is_ascii()).count() as u64;
    // A token boundary cuts a character if the byte after it continues one. Each character is
    // counted once, however many cuts it has.
    let mut in_cut_character = false;
    for &id in ids {
        let Some(bytes) = tokenizer.token_bytes(id) else { continue };
        for (at, byte) in bytes.iter().enumerate() {
            if byte & 0xC0 != 0x80 {
                in_cut_character = false;
            } else if at == 0 && !in_cut_character {
                in_cut_character = true;
                measures.cut += 1;
            }
        }
    }
    if measures.example.is_empty() {
        let start: String = text.chars().take(EXAMPLE_CHARACTERS).collect();
        measures.example = show_tokens(tokenizer, &tokenizer.encode(&start));
    }
}

fn report(source: String, measures: Measures) -> SourceReport {
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    SourceReport {
        source,
        documents: measures.documents,
        text_bytes: measures.text_bytes,
        tokens: measures.tokens,
        words: measures.words,
        bytes_per_token: ratio(measures.text_bytes, measures.tokens),
        tokens_per_word: ratio(measures.tokens, measures.words),
        wide_characters: measures.wide,
        cut_share: ratio(measures.cut, measures.wide),
        example: measures.example,
    }
}

/// Tokens with visible boundaries: `|` between tokens, `␣` for a space, `⏎` for a line end, `<C3>`
/// for a byte that is no character by itself.
pub fn show_tokens(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let tokens: Vec<String> =
        ids.iter().filter_map(|&id| tokenizer.token_bytes(id)).map(show_bytes).collect();
    tokens.join("|")
}

fn show_bytes(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                ' ' => shown.push('␣'),
                '\n' => shown.push('⏎'),
                '\t' => shown.push('⇥'),
                c if c.is_control() => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("<{byte:02X}>"));
        }
    }
    shown
}

fn longest_tokens(tokenizer: &Tokenizer) -> Vec<String> {
    let mut tokens: Vec<(std::cmp::Reverse<usize>, u32)> = (0..tokenizer.vocab_size() as u32)
        .filter(|&id| !tokenizer.is_special(id))
        .filter_map(|id| {
            let bytes = tokenizer.token_bytes(id)?;
            Some((std::cmp::Reverse(String::from_utf8_lossy(bytes).chars().count()), id))
        })
        .collect();
    tokens.sort_unstable();
    tokens.truncate(LONGEST_TOKENS);
    tokens.into_iter().filter_map(|(_, id)| tokenizer.token_bytes(id).map(show_bytes)).collect()
}

impl fmt::Display for TokenizerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} tokens, {} merges, pre-split {}, {}",
            self.vocab_size,
            self.merges,
            self.pre_split,
            &self.hash[..12.min(self.hash.len())]
        )?;
        let special: Vec<String> =
            self.special_tokens.iter().map(|(id, text)| format!("{text} {id}")).collect();
        writeln!(f, "special tokens: {}", special.join(", "))?;
        writeln!(f, "{:.1} % of the vocabulary is used by these texts\n", self.used_share * 100.0)?;
        let width = self.sources.iter().map(|s| s.source.chars().count()).max().unwrap_or(0).max(6);
        writeln!(
            f,
            "{:width$}  {:>9}  {:>9}  {:>9}  {:>11}  {:>11}  {:>8}",
            "source", "documents", "bytes", "tokens", "bytes/token", "tokens/word", "cut UTF-8"
        )?;
        for source in &self.sources {
            writeln!(
                f,
                "{:width$}  {:>9}  {:>9}  {:>9}  {:>11.2}  {:>11.2}  {:>7.2} %",
                source.source,
                si(source.documents as f64),
                si(source.text_bytes as f64),
                si(source.tokens as f64),
                source.bytes_per_token,
                source.tokens_per_word,
                source.cut_share * 100.0
            )?;
        }
        writeln!(f, "\nlongest tokens: {}", self.longest_tokens.join("  "))?;
        let mut examples = String::new();
        for source in &self.sources {
            write!(examples, "\n{}\n  {}", source.source, source.example)?;
        }
        writeln!(f, "{examples}")
    }
}

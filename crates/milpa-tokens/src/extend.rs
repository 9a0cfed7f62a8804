//! More tokens for a byte-level BPE tokenizer, learned from new text on top of its own merges.
//!
//! Text is cut into words and encoded as the base does it; then training goes on with the pairs that are
//! left, as `trainer.rs` does from bytes. New tokens have ids after all old ones and their merges come
//! after all old merges, and no new merge makes an old token. So a text whose ids are all old has the ids
//! that the base gives it: a new merge leaves a new token, and nothing turns that into an old one.
//!
//! The pieces of SentencePiece BPE and Unigram have scores instead of an order that could be continued;
//! they are refused.

use std::{collections::BTreeMap, path::Path};

use milpa_base::{ArtifactWriter, Bytes, Digest, Kind, Manifest, TextRecords, artifact::Record};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    byte_level,
    chat::ChatTemplate,
    config::MAX_VOCAB_SIZE,
    error::{Context, TokensError},
    fast_hash::FastMap,
    tokenizer::{ByteLevel, Model, Tokenizer},
    trainer::{Wanted, count_words, merge_pairs},
};

/// How a tokenizer is extended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendConfig {
    /// New tokens at most; there are fewer when the text has too few pairs.
    pub add: usize,
    /// A pair that is seen less often than this is not merged.
    pub min_count: u64,
    /// Bytes of text to learn from for each source; all of it if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Bytes>,
}

/// A tokenizer with new tokens.
#[derive(Debug)]
pub struct ExtendedTokenizer {
    /// The tokenizer: all of the base's tokens, then the new ones.
    pub tokenizer: Tokenizer,
    /// For each new token the old ones that it stands for.
    pub parts: Vec<Vec<u32>>,
    /// What was seen.
    pub report: ExtensionReport,
}

/// What an extension saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionReport {
    /// Documents counted.
    pub documents: u64,
    /// Bytes of text counted.
    pub text_bytes: u64,
    /// Occurrences of words that were not counted: too long, or dropped since the table was full.
    pub dropped_words: u64,
    /// Tokens of the base.
    pub base_tokens: u64,
    /// Tokens that are new.
    pub new_tokens: u64,
    /// Tokens of the counted words with the base alone.
    pub tokens_before: u64,
    /// Tokens of the counted words with the new ones.
    pub tokens_after: u64,
}

impl ExtendedTokenizer {
    /// Writes the tokenizer artifact, with the base's chat template.
    pub fn write(
        &self,
        dir: &Path,
        config: &ExtendConfig,
        inputs: BTreeMap<String, Digest>,
        licences: Vec<String>,
    ) -> Result<Manifest, TokensError> {
        let writer = ArtifactWriter::begin(dir, Kind::Tokenizer)?;
        let template = self.tokenizer.chat_template().cloned();
        let template = template.unwrap_or_else(ChatTemplate::continuation);
        for (name, bytes) in self.tokenizer.files(&template) {
            writer.write(name, &bytes)?;
        }
        let mut record = Record::new("extended tokenizer", config, inputs)?;
        record.licences = licences;
        record.counts = self.report.counts();
        Ok(writer.finish(record)?)
    }
}

impl ExtensionReport {
    /// The report as counts of a manifest.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        [
            ("documents", self.documents),
            ("text_bytes", self.text_bytes),
            ("dropped_words", self.dropped_words),
            ("base_tokens", self.base_tokens),
            ("new_tokens", self.new_tokens),
            ("tokens_before", self.tokens_before),
            ("tokens_after", self.tokens_after),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into()
    }
}

/// Learns new tokens from `records` on top of the merges of `base`.
///
/// # Errors
/// A base that is not byte-level BPE, numbers that cannot be right, texts that cannot be read, no text at
/// all, text that gives no new token, or a stop.
pub fn extend_tokenizer(
    base: &Tokenizer,
    config: &ExtendConfig,
    records: &mut TextRecords<'_>,
    context: &Context<'_>,
) -> Result<ExtendedTokenizer, TokensError> {
    let model = byte_level_of(base)?;
    let room = MAX_VOCAB_SIZE.saturating_sub(base.vocab_size());
    if !(1..=room).contains(&config.add) {
        return Err(TokensError::Config {
            key: "add".to_owned(),
            message: format!(
                "{} is not between 1 and {room}: the base has {} tokens, and {MAX_VOCAB_SIZE} are the \
                 most",
                config.add,
                base.vocab_size()
            ),
        });
    }
    let cut = |text: &str, word: &mut dyn FnMut(&str)| base.each_word(model, text, word);
    let counted = count_words(config.sample, cut, records, context)?;
    let (mut symbols, mut counts) = (Vec::new(), Vec::new());
    for (word, count) in &counted.words {
        symbols.push(base.encode_word(model, word));
        counts.push(*count as i64);
    }
    let tokens_of = |symbols: &[Vec<u32>]| -> u64 {
        symbols.iter().zip(&counts).map(|(word, count)| word.len() as u64 * *count as u64).sum()
    };
    let tokens_before = tokens_of(&symbols);
    let closed = base.vocab_size() as u32;
    let mut tokens = base.spec().tokens.clone();
    let wanted =
        Wanted { tokens: base.vocab_size() + config.add, min_count: config.min_count, closed };
    let merges = merge_pairs(wanted, &mut symbols, &counts, &mut tokens, context)?;
    let added = &tokens[base.vocab_size()..];
    if added.is_empty() {
        return Err(TokensError::NoText("pairs of tokens that are seen often enough to be merged"));
    }
    let json = extended_json(base, added, &merges, &tokens);
    let tokenizer = Tokenizer::from_json(&json, Path::new("the extended tokenizer"))?;
    let tokenizer = tokenizer.with_names_of(base);
    let parts = new_token_parts(base, &tokenizer)?;
    let report = ExtensionReport {
        documents: counted.documents,
        text_bytes: counted.source_bytes.values().sum(),
        dropped_words: counted.dropped,
        base_tokens: u64::from(closed),
        new_tokens: added.len() as u64,
        tokens_before,
        tokens_after: tokens_of(&symbols),
    };
    Ok(ExtendedTokenizer { tokenizer, parts, report })
}

/// For each token that `extended` has beyond those of `base`, the tokens of the base that it stands for, in
/// order: what a text has in its place without the extension.
///
/// A token that comes of no merge (a special one) is cut as the base cuts its text.
///
/// # Errors
/// If one is not byte-level BPE, or `extended` is no extension of `base`.
pub fn new_token_parts(
    base: &Tokenizer,
    extended: &Tokenizer,
) -> Result<Vec<Vec<u32>>, TokensError> {
    byte_level_of(base)?;
    let model = byte_level_of(extended)?;
    if let Some(difference) = base.difference(extended) {
        return Err(TokensError::NotExtended(difference));
    }
    let old = base.vocab_size();
    if extended.vocab_size() < old {
        return Err(TokensError::NotExtended(format!(
            "it has {} tokens, the base has {old}",
            extended.vocab_size()
        )));
    }
    let mut parts: Vec<Option<Vec<u32>>> = vec![None; extended.vocab_size() - old];
    // The first merge whose halves are known; as a rule they come before it, so one round is enough.
    loop {
        let mut found = false;
        for &(left, right, merged) in &model.merges {
            let Some(at) = (merged as usize).checked_sub(old) else { continue };
            if parts[at].is_some() {
                continue;
            }
            let of = |id: u32| match (id as usize).checked_sub(old) {
                None => Some(vec![id]),
                Some(at) => parts[at].clone(),
            };
            if let (Some(left), Some(right)) = (of(left), of(right)) {
                parts[at] = Some([left, right].concat());
                found = true;
            }
        }
        if !found {
            break;
        }
    }
    let cut = |(at, parts): (usize, Option<Vec<u32>>)| {
        parts.unwrap_or_else(|| base.encode(&extended.decode(&[(old + at) as u32])))
    };
    Ok(parts.into_iter().enumerate().map(cut).collect())
}

fn byte_level_of(tokenizer: &Tokenizer) -> Result<&ByteLevel, TokensError> {
    match &tokenizer.spec().model {
        Model::ByteLevel(model) => Ok(model),
        Model::Pieces(_) => Err(TokensError::NotExtensible(tokenizer.kind().name())),
    }
}

/// The base's `tokenizer.json` with new tokens and merges; all else stays as it is.
fn extended_json(
    base: &Tokenizer,
    added: &[Vec<u8>],
    merges: &[(u32, u32, u32)],
    tokens: &[Vec<u8>],
) -> Vec<u8> {
    let mut file: Value =
        serde_json::from_slice(base.json()).expect("the base was read from these bytes");
    let model = &mut file["model"];
    let as_pairs = model["merges"].get(0).is_some_and(Value::is_array);
    let vocab = model["vocab"].as_object_mut().expect("the base has a vocabulary");
    // Hugging Face's reader gives added tokens that the vocabulary lacks the ids after it, which would now
    // be others.
    let mut written: FastMap<String, u32> = FastMap::default();
    for token in &base.spec().added {
        written.insert(token.text.clone(), token.id);
    }
    let mut written: Vec<(String, u32)> = written.into_iter().collect();
    written.sort_by_key(|(_, id)| *id);
    let first = base.vocab_size() as u32;
    written.extend(added.iter().zip(first..).map(|(bytes, id)| (byte_level::write(bytes), id)));
    for (text, id) in written {
        vocab.insert(text, Value::from(id));
    }
    let text = |id: u32| byte_level::write(&tokens[id as usize]);
    let list = model["merges"].as_array_mut().expect("the base has merges");
    for &(left, right, _) in merges {
        let (left, right) = (text(left), text(right));
        list.push(if as_pairs { json!([left, right]) } else { json!(format!("{left} {right}")) });
    }
    let mut bytes = serde_json::to_vec_pretty(&file).expect("a JSON value can be written");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PreSplit, TokenizerParts};
    use milpa_base::{Silent, StopFlag, TextRecord};
    use proptest::prelude::*;

    /// Bytes, then merges, then special tokens: as Llama 3 and Qwen have it.
    fn base(pre_split: PreSplit) -> Tokenizer {
        let merges = [("a", "b"), ("Ġ", "ab"), ("Ã", "£"), ("c", "a")];
        let mut tokens: Vec<String> =
            byte_level::alphabet().iter().map(|&byte| byte_level::write(&[byte])).collect();
        tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
        let special = tokens.len() as u32;
        tokens.push("<|endoftext|>".to_owned());
        tokens.push("<|im_end|>".to_owned());
        let parts = TokenizerParts {
            tokens,
            merges: merges.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
            special: vec![special, special + 1],
            user_defined: Vec::new(),
            pre_split,
            eos: Some(special),
            bos: None,
        };
        Tokenizer::from_parts(&parts).unwrap()
    }

    /// The base as Hugging Face writes it: added tokens stand outside the vocabulary.
    fn without_added(base: &Tokenizer) -> Tokenizer {
        let mut file: Value = serde_json::from_slice(base.json()).unwrap();
        for name in ["<|endoftext|>", "<|im_end|>"] {
            file["model"]["vocab"].as_object_mut().unwrap().remove(name).unwrap();
        }
        let bytes = serde_json::to_vec(&file).unwrap();
        Tokenizer::from_json(&bytes, Path::new("t.json")).unwrap()
    }

    fn extend(base: &Tokenizer, texts: &[&str], add: usize, threads: usize) -> ExtendedTokenizer {
        let config = ExtendConfig { add, min_count: 2, sample: None };
        let mut records = texts.iter().map(|text| {
            Ok(TextRecord { id: "d".into(), source: "s".into(), text: (*text).to_owned() })
        });
        let context = Context { threads, progress: &Silent, stop: &StopFlag::default() };
        extend_tokenizer(base, &config, &mut records, &context).unwrap()
    }

    #[test]
    fn new_tokens_stand_on_old_ones() {
        let base = without_added(&base(PreSplit::Qwen35));
        let extended = extend(&base, &["cab abd abd abd xyz xyz"], 3, 1);
        let new: Vec<String> = (262..265).map(|id| extended.tokenizer.decode(&[id])).collect();
        // " ab" + "d" is seen three times, the pairs of " xyz" twice, and x has a smaller id than the space.
        assert_eq!(new, [" abd", "xy", " xy"]);
        let id = |text: &str| base.token_id(text).unwrap();
        assert_eq!(extended.parts[0], [id(" ab"), id("d")]);
        assert_eq!(extended.parts[2], [id(" "), id("x"), id("y")]);
        assert_eq!(extended.tokenizer.encode(" abd"), [262]);
        assert_eq!(extended.tokenizer.token_id("<|im_end|>"), base.token_id("<|im_end|>"));
        assert_eq!(extended.tokenizer.eos_id(), base.eos_id());
        assert_eq!(base.difference(&extended.tokenizer), None);
        let file: Value = serde_json::from_slice(extended.tokenizer.json()).unwrap();
        assert_eq!(file["model"]["vocab"]["<|im_end|>"], 261);
        let report = &extended.report;
        assert_eq!((report.base_tokens, report.new_tokens), (262, 3));
        assert_eq!(report.tokens_before - report.tokens_after, 3 + 4);
    }

    #[test]
    fn no_new_merge_makes_an_old_token() {
        // "cab" is "ca" + "b" in the base (rank of "ab" is lower: c + ab), never a new way to "ab".
        let base = base(PreSplit::Gpt2);
        let extended = extend(&base, &["cab cab cab ãb ãb aab aab aab"], 30, 1);
        let old = base.vocab_size() as u32;
        let Model::ByteLevel(model) = &extended.tokenizer.spec().model else { panic!() };
        assert!(model.merges[4..].iter().all(|(_, _, merged)| *merged >= old));
    }

    #[test]
    fn what_cannot_be_extended_is_said() {
        let base = base(PreSplit::Qwen35);
        let context = Context { threads: 1, progress: &Silent, stop: &StopFlag::default() };
        let message = |add, text: &str| {
            let config = ExtendConfig { add, min_count: 2, sample: None };
            let record = TextRecord { id: "d".into(), source: "s".into(), text: text.to_owned() };
            let mut records = [Ok(record)].into_iter();
            extend_tokenizer(&base, &config, &mut records, &context).unwrap_err().to_string()
        };
        assert!(message(0, "a a").contains("not between 1 and"));
        assert!(message(1 << 20, "a a").contains("not between 1 and"));
        assert!(message(1, "").contains("no text"));
        assert!(message(1, "ab").contains("often enough"));
        let other = extend(&base, &["xyz xyz"], 2, 1).tokenizer;
        let error = new_token_parts(&other, &base).unwrap_err().to_string();
        assert!(error.contains("it has 262 tokens, the base has 264"), "{error}");
    }

    proptest! {
        #[test]
        fn old_text_keeps_its_ids(
            learned in prop::collection::vec("[abcdxyã '\n]{0,40}", 1..8),
            text in "[abcdxyã '\n]{0,60}",
            split in 0usize..4,
            ignore_merges in any::<bool>(),
        ) {
            let base = base(PreSplit::ALL[split]);
            let mut file: Value = serde_json::from_slice(base.json()).unwrap();
            file["model"]["ignore_merges"] = json!(ignore_merges);
            let bytes = serde_json::to_vec(&file).unwrap();
            let base = Tokenizer::from_json(&bytes, Path::new("t.json")).unwrap();
            let mut learned: Vec<&str> = learned.iter().map(String::as_str).collect();
            learned.push("xyxy xyxy");
            let extended = extend(&base, &learned, 40, 2);
            let old = base.vocab_size() as u32;
            let (before, after) = (base.encode(&text), extended.tokenizer.encode(&text));
            prop_assert_eq!(extended.tokenizer.decode(&after), text);
            if after.iter().all(|id| *id < old) {
                prop_assert_eq!(&before, &after);
            }
            // Put back into its parts, a text is what the base makes of it.
            let mut apart = Vec::new();
            for id in after {
                match (id as usize).checked_sub(old as usize) {
                    None => apart.push(id),
                    Some(at) => apart.extend(&extended.parts[at]),
                }
            }
            if !ignore_merges {
                prop_assert_eq!(base.decode_bytes(&apart), base.decode_bytes(&before));
            }
            learned.reverse();
            let other = extend(&base, &learned, 40, 1);
            prop_assert_eq!(extended.tokenizer.json(), other.tokenizer.json());
        }
    }
}

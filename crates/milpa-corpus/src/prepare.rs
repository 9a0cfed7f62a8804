//! The way of one record from its bytes to a filtered document: what all threads do at once.
//!
//! A pure function of the record, its source and the configuration; nothing here knows of other
//! documents.

use std::{borrow::Cow, cell::RefCell, collections::BTreeMap, sync::Arc};

use milpa_text::{LanguageModel, Signature, language, minhash::word_hash, normalise, personal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    CorpusConfig, Document, Dropped, Reason, SourceConfig, charset,
    config::Preset,
    decontaminate::{self, Action},
    dedup::{TextKey, text_key},
    document::{sample, sample_bytes},
    extract,
    filter::{self, Filter, Verdict, View},
    part::{DocumentKey, Encoded},
    reader::{Body, Item, Problem, RawRecord, http, pdf},
    rules::Rules,
    times::{Stage, Times},
};

/// Deepest path of a JSONL field (`a.b.c`).
const MAX_FIELD_DEPTH: usize = 8;

/// Level of compression of a part's files: they are read once and removed.
const ZSTD_LEVEL: i32 = 1;

/// What one record became.
enum Prepared {
    Document { document: Document, key: TextKey, signature: Option<Signature>, counts: Counts },
    Dropped { dropped: Dropped, counts: Counts },
    Skipped(String),
}

/// What preparing counted on the way.
#[derive(Debug, Clone, Default)]
struct Counts {
    lines_removed: u64,
    charset_refuted: bool,
    masked: BTreeMap<&'static str, u64>,
    passages_cut: u64,
}

/// Everything that preparing needs of one source.
pub(crate) struct Preparer<'a> {
    config: &'a CorpusConfig,
    source: &'a SourceConfig,
    filters: Vec<Box<dyn Filter>>,
    rules: &'a Rules,
    declared: Option<&'static str>,
    times: RefCell<Times>,
}

/// A document before its text is settled.
struct Draft {
    id: Option<String>,
    url: Option<String>,
    date: Option<String>,
    licence: Option<String>,
    group: Option<String>,
    text: String,
}

/// Why a record gives no draft.
enum NoDraft {
    Drop(Reason, String),
    Skip(String),
}

impl<'a> Preparer<'a> {
    pub(crate) fn new(
        config: &'a CorpusConfig,
        source: &'a SourceConfig,
        rules: &'a Rules,
    ) -> Self {
        let mut filters = filter::filters_of(source.filters);
        filters.insert(0, Box::new(Arc::clone(&rules.blocklist)));
        for score in &rules.scores {
            filters.push(Box::new(score.clone()));
        }
        Self {
            config,
            source,
            filters,
            rules,
            declared: source.language.as_deref().and_then(language::canonical),
            times: RefCell::default(),
        }
    }

    /// Time taken so far.
    pub(crate) fn times(&self) -> Times {
        self.times.borrow().clone()
    }

    /// Prepares the items of a batch and encodes what they became.
    pub(crate) fn encode(&mut self, items: Vec<Item>, origin: &str) -> Encoded {
        let mut encoded = Encoded::default();
        let (mut documents, mut names, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        let mut text_bytes = 0;
        for item in items {
            let stats = &mut encoded.stats;
            let mut count = |counts: Counts| {
                stats.read += 1;
                stats.lines_removed += counts.lines_removed;
                stats.charsets_refuted += u64::from(counts.charset_refuted);
                stats.passages_cut += counts.passages_cut;
                for (kind, count) in counts.masked {
                    *stats.masked.entry(kind.to_owned()).or_default() += count;
                }
            };
            match self.prepare(item, origin) {
                Prepared::Skipped(kind) => *stats.skipped.entry(kind).or_default() += 1,
                Prepared::Dropped { dropped: mut row, counts } => {
                    count(counts);
                    // Samples are kept, so nothing may stand there that may not stand in a document.
                    if self.rules.personal_data.is_some() {
                        row.sample = personal::mask(&row.sample).into_owned();
                    }
                    *stats.dropped.entry(row.reason).or_default() += 1;
                    dropped.push(row);
                }
                Prepared::Document { document, key, signature, counts } => {
                    count(counts);
                    let (language, bytes) = (word_hash(&document.language), document.text.len());
                    text_bytes += bytes;
                    let signed = signature.is_some();
                    let key = DocumentKey { text: key, language, bytes: bytes as u64, signed };
                    key.write(&mut encoded.keys);
                    if let Some(signature) = signature {
                        let minima =
                            signature.minima().iter().flat_map(|minimum| minimum.to_le_bytes());
                        encoded.signatures.extend(minima);
                    }
                    names.push(DocumentName::of(&document));
                    documents.push(document);
                }
            }
        }
        self.run(Stage::Spool, text_bytes, || {
            encoded.documents = json_lines(&documents);
            encoded.names = json_lines(&names);
            encoded.dropped = json_lines(&dropped);
        });
        encoded
    }

    fn run<T>(&self, stage: Stage, bytes: usize, work: impl FnOnce() -> T) -> T {
        self.times.borrow_mut().run(stage, bytes, work)
    }

    fn prepare(&self, item: Item, origin: &str) -> Prepared {
        match item {
            Item::Skipped(kind) => Prepared::Skipped(kind),
            Item::Problem(problem) => self.broken(problem, origin),
            Item::Record(record) => self.record(record, origin),
        }
    }

    fn broken(&self, problem: Problem, origin: &str) -> Prepared {
        let dropped = Dropped {
            id: self.place_id(origin, problem.offset),
            source: self.source.name.clone(),
            url: problem.url,
            reason: problem.reason,
            detail: problem.detail,
            language: None,
            origin: origin.to_owned(),
            origin_offset: problem.offset,
            bytes: problem.bytes,
            sample: problem.sample,
        };
        Prepared::Dropped { dropped, counts: Counts::default() }
    }

    /// Identity of a document that has none of its own.
    fn place_id(&self, origin: &str, offset: u64) -> String {
        format!("{}/{origin}@{offset}", self.source.name)
    }

    fn record(&self, record: RawRecord, origin: &str) -> Prepared {
        let mut counts = Counts::default();
        let offset = record.offset;
        let fallback = (record.id.clone(), record.url.clone());
        let bytes = record.body.bytes().len() as u64;
        let head = sample_bytes(record.body.bytes());
        let draft =
            match self.run(Stage::Extract, bytes as usize, || self.draft(record, &mut counts)) {
                Ok(draft) => draft,
                Err(NoDraft::Skip(kind)) => return Prepared::Skipped(kind),
                Err(NoDraft::Drop(reason, detail)) => {
                    let (id, url) = fallback;
                    let dropped = Dropped {
                        id: id.unwrap_or_else(|| self.place_id(origin, offset)),
                        source: self.source.name.clone(),
                        url,
                        reason,
                        detail,
                        language: None,
                        origin: origin.to_owned(),
                        origin_offset: offset,
                        bytes,
                        sample: head,
                    };
                    return Prepared::Dropped { dropped, counts };
                }
            };
        let text = self.run(Stage::Normalise, draft.text.len(), || {
            let mut text = normalise(&draft.text);
            if self.source.filters == Preset::Web {
                counts.lines_removed = filter::blocklist::clean_notices(&mut text) as u64;
            }
            text
        });
        let (label, confidence, mixed_with) = if let Some(declared) = self.declared {
            (declared, 1.0, None)
        } else {
            self.run(Stage::Language, text.len(), || identify(&text))
        };
        let mut document = Document {
            id: draft.id.unwrap_or_else(|| self.place_id(origin, offset)),
            text,
            source: self.source.name.clone(),
            language: label.to_owned(),
            language_confidence: confidence,
            mixed_with: mixed_with.map(str::to_owned),
            url: draft.url,
            date: draft.date,
            licence: draft.licence.or_else(|| self.source.licence.clone()),
            group: draft.group,
            origin: origin.to_owned(),
            origin_offset: offset,
            perplexity: None,
            perplexity_bucket: None,
            cluster_size: 1,
            weight: 1,
        };
        let verdict = self.run(Stage::Filter, document.text.len(), || self.judge(&document));
        if let Some((reason, detail)) = verdict {
            return Prepared::Dropped { dropped: drop_document(&document, reason, detail), counts };
        }
        let measure = || self.rules.perplexity.measure(&document.text, &document.language);
        if !self.rules.perplexity.models.is_empty()
            && let Some((perplexity, bucket)) =
                self.run(Stage::Perplexity, document.text.len(), measure)
        {
            let verdict = self.rules.perplexity.verdict(&document.language, perplexity, bucket);
            if let Some(Verdict { reason, rule, detail }) = verdict {
                let detail = format!("{rule}: {detail}");
                let dropped = drop_document(&document, reason, detail);
                return Prepared::Dropped { dropped, counts };
            }
            document.perplexity = Some(perplexity as f32);
            document.perplexity_bucket = Some(bucket.name().to_owned());
        }
        if let Some((decontaminator, action)) = &self.rules.decontamination {
            let check = || decontaminator.check(&document.text);
            let found = self.run(Stage::Decontaminate, document.text.len(), check);
            if let Some(first) = found.first() {
                let cut = decontaminate::cut(&document.text, &found);
                if *action == Action::Drop || cut.trim().is_empty() {
                    let detail = first.detail();
                    let dropped = drop_document(&document, Reason::Contamination, detail);
                    return Prepared::Dropped { dropped, counts };
                }
                counts.passages_cut += found.len() as u64;
                document.text = cut;
            }
        }
        if let Some(policies) = &self.rules.personal_data {
            let length = document.text.len();
            let applied = self.run(Stage::PersonalData, length, || policies.apply(&document.text));
            if let Some(kind) = applied.drop {
                let detail = format!("it has a {}", kind.name());
                let dropped = drop_document(&document, Reason::PersonalData, detail);
                return Prepared::Dropped { dropped, counts };
            }
            for (kind, count) in applied.masked {
                *counts.masked.entry(kind.name()).or_default() += count as u64;
            }
            if let Cow::Owned(masked) = applied.text {
                document.text = masked;
            }
        }
        let near = self.config.dedup.near.enabled;
        let (key, signature) = self.run(Stage::Fingerprint, document.text.len(), || {
            let signature = if near { self.rules.hasher.signature(&document.text) } else { None };
            (text_key(&document.text), signature)
        });
        Prepared::Document { document, key, signature, counts }
    }

    /// Gets the text and what is known of it out of a record.
    fn draft(&self, record: RawRecord, counts: &mut Counts) -> Result<Draft, NoDraft> {
        let max = self.config.max_document.0;
        let RawRecord { id, url, date, body, .. } = record;
        let draft = |text| Draft { id, url: url.clone(), date, licence: None, group: None, text };
        let mut page = |bytes: &[u8], charset: Option<&str>| {
            let decoded = charset::decode(bytes, charset, true, url.as_deref());
            counts.charset_refuted |= decoded.refuted;
            let extracted = extract::extract(&decoded.text)
                .map_err(|error| NoDraft::Drop(Reason::HostileMarkup, error.to_string()))?;
            if extracted.text.is_empty() {
                let detail = format!("no running text in the page {:?}", sample(&extracted.title));
                return Err(NoDraft::Drop(Reason::NoMainText, detail));
            }
            Ok(extracted.text)
        };
        let plain =
            |bytes: &[u8], charset: Option<&str>| charset::decode(bytes, charset, false, None).text;
        match body {
            Body::Json(bytes) => self.json_draft(&bytes),
            Body::Html { bytes, charset } => Ok(draft(page(&bytes, charset.as_deref())?)),
            Body::Text { bytes, charset } => Ok(draft(plain(&bytes, charset.as_deref()))),
            Body::Pdf(bytes) => Ok(draft(pdf_text(&bytes, max)?)),
            Body::Http(bytes) => {
                let response = http::parse(&bytes, max)
                    .map_err(|(reason, detail)| NoDraft::Drop(reason, detail))?;
                if !(200..300).contains(&response.status) {
                    let detail = format!("HTTP status {}", response.status);
                    return Err(NoDraft::Drop(Reason::HttpStatus, detail));
                }
                let charset = response.charset.as_deref();
                match response.mime.as_str() {
                    "text/html" | "application/xhtml+xml" => {
                        Ok(draft(page(&response.body, charset)?))
                    }
                    "" if looks_like_html(&response.body) => {
                        Ok(draft(page(&response.body, charset)?))
                    }
                    "text/plain" | "text/markdown" => Ok(draft(plain(&response.body, charset))),
                    "application/pdf" => Ok(draft(pdf_text(&response.body, max)?)),
                    other => Err(NoDraft::Skip(media_kind(other))),
                }
            }
        }
    }

    fn json_draft(&self, bytes: &[u8]) -> Result<Draft, NoDraft> {
        let drop = |reason, detail: String| Err(NoDraft::Drop(reason, detail));
        if let Err(error) = std::str::from_utf8(bytes) {
            let at = error.valid_up_to();
            return drop(Reason::InvalidUtf8, format!("byte {at} of the line is not UTF-8"));
        }
        let value: Value = match serde_json::from_slice(bytes) {
            Ok(value) => value,
            Err(error) => return drop(Reason::BadJson, error.to_string()),
        };
        let field = &self.source.text_field;
        let text = match lookup(&value, field) {
            Some(Value::String(text)) => charset::repair(text).into_owned(),
            Some(other) => {
                let detail = format!("{field:?} is no text but {}", kind_of(other));
                return drop(Reason::MissingText, detail);
            }
            None => return drop(Reason::MissingText, format!("no field {field:?}")),
        };
        let get = |field: &Option<String>| match lookup(&value, field.as_deref()?)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let source = self.source;
        Ok(Draft {
            id: get(&source.id_field),
            url: get(&source.url_field),
            date: get(&source.date_field),
            licence: get(&source.licence_field),
            group: get(&source.group_field),
            text,
        })
    }

    /// Language and filters.
    fn judge(&self, document: &Document) -> Option<(Reason, String)> {
        let language = document.language.as_str();
        if document.text.len() as u64 > self.config.max_document.0 {
            let detail = format!("{} bytes of text", document.text.len());
            return Some((Reason::TooLarge, detail));
        }
        if document.text.is_empty() {
            return Some((Reason::Length, "the text is empty".to_owned()));
        }
        let thresholds = self.rules.thresholds.of(language, self.source.filters);
        let view = View::new(&document.text, language, document.url.as_deref());
        let verdict = |needs_language: bool| {
            self.filters
                .iter()
                .filter(|filter| filter.needs_language() == needs_language)
                .find_map(|filter| filter.check(&view, thresholds))
                .map(|verdict| (verdict.reason, format!("{}: {}", verdict.rule, verdict.detail)))
        };
        if let Some(verdict) = verdict(false) {
            return Some(verdict);
        }
        let keep = &self.config.keep_languages;
        let second = document.mixed_with.as_deref();
        if !keep.keeps(language) && !second.is_some_and(|second| keep.keeps(second)) {
            let detail = format!("{language} ({:.2}) is not kept", document.language_confidence);
            return Some((Reason::Language, detail));
        }
        let least = thresholds.min_language_confidence;
        let confidence = f64::from(document.language_confidence);
        // Who writes in two languages is no doubtful case of one.
        let one = second.is_none() && self.source.filters != Preset::None;
        let uncertain = confidence < least && one;
        if let Some(verdict) = verdict(true) {
            return Some(verdict);
        }
        uncertain.then(|| {
            let detail = format!("{language} with {confidence:.2}, below {least}");
            (Reason::LanguageConfidence, detail)
        })
    }
}

/// The language of a text, its probability and, where the text is surely in two, the second one.
fn identify(text: &str) -> (&'static str, f32, Option<&'static str>) {
    let found = LanguageModel::embedded().identify_segments(text);
    let one = if found.mixed_with.is_some() { found.main } else { found.whole };
    (one.label, one.confidence, found.mixed_with)
}

/// What merging needs of a document besides its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DocumentName {
    pub(crate) id: String,
    pub(crate) group: Option<String>,
    /// Where it stands, for the case that its identity is taken.
    pub(crate) place: String,
}

impl DocumentName {
    fn of(document: &Document) -> Self {
        let place = format!("{}/{}@{}", document.source, document.origin, document.origin_offset);
        Self { id: document.id.clone(), group: document.group.clone(), place }
    }
}

/// Rows as a zstd frame of JSON lines; nothing for no rows.
fn json_lines(rows: &[impl Serialize]) -> Vec<u8> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row).expect("texts and numbers can be written");
        text.push(b'\n');
    }
    if text.is_empty() {
        return text;
    }
    zstd::bulk::compress(&text, ZSTD_LEVEL).expect("the room suffices and the level exists")
}

/// Makes the record of a drop from a document.
pub(crate) fn drop_document(document: &Document, reason: Reason, detail: String) -> Dropped {
    Dropped {
        id: document.id.clone(),
        source: document.source.clone(),
        url: document.url.clone(),
        reason,
        detail,
        language: Some(document.language.clone()),
        origin: document.origin.clone(),
        origin_offset: document.origin_offset,
        bytes: document.text.len() as u64,
        sample: sample(&document.text),
    }
}

fn lookup<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    // A field whose name has a dot goes before a path.
    value.get(path).or_else(|| {
        path.split('.').take(MAX_FIELD_DEPTH).try_fold(value, |value, part| value.get(part))
    })
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn pdf_text(bytes: &[u8], max: u64) -> Result<String, NoDraft> {
    pdf::text(bytes, max).map_err(|(reason, detail)| NoDraft::Drop(reason, detail))
}

fn looks_like_html(body: &[u8]) -> bool {
    let head = body[..body.len().min(512)].to_ascii_lowercase();
    [&b"<html"[..], b"<!doctype html", b"<body"]
        .iter()
        .any(|mark| head.windows(mark.len()).any(|window| window == *mark))
}

/// A name for a media type from a short list, so that hostile names cannot fill the statistics.
fn media_kind(mime: &str) -> String {
    let family = mime.split('/').next().unwrap_or_default();
    match (mime, family) {
        (_, "image" | "video" | "audio" | "font" | "text" | "application") => {
            format!("media type {family}")
        }
        _ => "media type other".to_owned(),
    }
}

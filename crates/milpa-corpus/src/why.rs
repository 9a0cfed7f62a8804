//! The fate of one document, found by its identity or address.

use std::{fmt, path::Path};

use serde::Serialize;

use crate::{
    CorpusError, Document, Dropped, Reason, Split,
    shard::{read_documents, read_dropped},
};

/// Most documents that one question returns.
const MAX_ANSWERS: usize = 20;

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// It is in the corpus.
    Kept {
        /// `train` or `validation`.
        split: &'static str,
        /// Number of the document in its split, from 0.
        position: u64,
        /// The document, its text cut to a sample.
        document: Document,
        /// UTF-8 bytes of its whole text.
        bytes: u64,
        /// Identities of the dropped documents that are copies of it.
        copies: Vec<String>,
    },
    /// It was dropped.
    Dropped(Dropped),
}

/// Finds the documents whose identity or address is `query`; if there is none, those whose
/// identity or address contains it. At most 20.
pub fn why(dir: &Path, query: &str) -> Result<Vec<Fate>, CorpusError> {
    let exact = search(dir, &|id, url| id == query || url == Some(query))?;
    if !exact.is_empty() || query.len() < 3 {
        return Ok(exact);
    }
    search(dir, &|id, url| id.contains(query) || url.is_some_and(|url| url.contains(query)))
}

fn search(
    dir: &Path,
    matches: &dyn Fn(&str, Option<&str>) -> bool,
) -> Result<Vec<Fate>, CorpusError> {
    let mut fates = Vec::new();
    for split in [Split::Train, Split::Validation] {
        for (position, document) in read_documents(dir, split)?.enumerate() {
            let mut document = document?;
            if fates.len() < MAX_ANSWERS && matches(&document.id, document.url.as_deref()) {
                let bytes = document.text.len() as u64;
                document.text = crate::document::sample(&document.text);
                let (split, position) = (split.name(), position as u64);
                fates.push(Fate::Kept { split, position, document, bytes, copies: Vec::new() });
            }
        }
    }
    for dropped in read_dropped(dir)? {
        let dropped = dropped?;
        if matches!(dropped.reason, Reason::ExactDuplicate | Reason::NearDuplicate) {
            for fate in &mut fates {
                if let Fate::Kept { document, copies, .. } = fate
                    && names(&dropped.detail, &document.id)
                {
                    copies.push(dropped.id.clone());
                }
            }
        }
        if fates.len() < MAX_ANSWERS && matches(&dropped.id, dropped.url.as_deref()) {
            fates.push(Fate::Dropped(dropped));
        }
    }
    Ok(fates)
}

/// How a copy is tied to the document that is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kept {
    /// By the same text.
    Same,
    /// By an estimated similarity.
    Similar(f64),
    /// By a band of their signatures, perhaps through others.
    Linked,
}

/// Detail of a copy: names the document that is kept instead.
pub(crate) fn copy_of(id: &str, kept: Kept) -> String {
    match kept {
        Kept::Same => format!("same text as {id}"),
        Kept::Similar(similarity) => format!("similarity {similarity:.2} to {id}"),
        Kept::Linked => format!("near copy of {id}"),
    }
}

fn names(detail: &str, id: &str) -> bool {
    let similar = |detail: &str| {
        let (_, kept) = detail.strip_prefix("similarity ")?.split_once(" to ")?;
        Some(kept == id)
    };
    ["same text as ", "near copy of "].iter().any(|begin| detail.strip_prefix(begin) == Some(id))
        || similar(detail) == Some(true)
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |f: &mut fmt::Formatter<'_>, source: &str, origin: &str, offset: u64| {
            writeln!(f, "  from    {source}: {origin} at byte {offset}")
        };
        match self {
            Self::Kept { split, position, document, bytes, copies } => {
                writeln!(f, "{} is kept", document.id)?;
                writeln!(f, "  split   {split}, document {position}")?;
                let confidence = document.language_confidence;
                writeln!(f, "  text    {bytes} bytes, {} ({confidence:.2})", document.language)?;
                place(f, &document.source, &document.origin, document.origin_offset)?;
                if let Some(url) = &document.url {
                    writeln!(f, "  url     {url}")?;
                }
                for copy in copies {
                    writeln!(f, "  instead of its copy {copy}")?;
                }
                write!(f, "  begins  {}", first_line(&document.text))
            }
            Self::Dropped(dropped) => {
                writeln!(f, "{} was dropped: {}", dropped.id, dropped.reason)?;
                writeln!(f, "  rule    {}", dropped.detail)?;
                if let Some(language) = &dropped.language {
                    writeln!(f, "  text    {} bytes, {language}", dropped.bytes)?;
                }
                place(f, &dropped.source, &dropped.origin, dropped.origin_offset)?;
                if let Some(url) = &dropped.url {
                    writeln!(f, "  url     {url}")?;
                }
                write!(f, "  begins  {}", first_line(&dropped.sample))
            }
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

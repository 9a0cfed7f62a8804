//! What is measured of the recogniser of personal data: spans against a published set of made-up
//! persons, and hits in law, where hardly any number is a person's.

use std::{collections::BTreeMap, io, path::Path};

use milpa_base::lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader};
use milpa_text::personal::{Found, Kind, find};
use serde_json::Value;

/// Types of the set, and the kinds that answer to them.
const TYPES: [(&str, &str); 5] = [
    ("EMAIL_ADDRESS", "EMAIL"),
    ("PHONE_NUMBER", "TELEFONO"),
    ("IP_ADDRESS", "IP"),
    ("CREDIT_CARD", "TARJETA"),
    ("IBAN_CODE", "IBAN"),
];

/// How spans of a kind were found.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Score {
    /// Spans of the set.
    pub(crate) gold: usize,
    /// Spans found.
    pub(crate) found: usize,
    /// Spans found that begin and end where one of the set does.
    pub(crate) right: usize,
}

impl Score {
    pub(crate) fn precision(self) -> f64 {
        self.right as f64 / self.found as f64
    }

    pub(crate) fn recall(self) -> f64 {
        self.right as f64 / self.gold as f64
    }
}

/// Each row of a file of JSON lines.
fn rows(path: &Path, mut each: impl FnMut(&Value)) -> io::Result<()> {
    let mut reader = LineReader::open(path, DEFAULT_MAX_LINE_BYTES)?;
    while let Some(line) = reader.next_line()? {
        if let Line::Whole(line) = line {
            each(&serde_json::from_slice(line)?);
        }
    }
    Ok(())
}

/// Scores by kind on `safety/pii_synth_en`; kinds that the set does not have count as found only.
pub(crate) fn spans(data: &Path) -> io::Result<BTreeMap<&'static str, Score>> {
    let mut scores: BTreeMap<&str, Score> =
        TYPES.iter().map(|&(_, kind)| (kind, Score::default())).collect();
    rows(&data.join("safety/pii_synth_en.jsonl.zst"), |row| {
        let text = row["text"].as_str().unwrap_or_default();
        // Places are counted in characters there.
        let mut bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        bytes.push(text.len());
        let place = |span: &Value, name: &str| bytes[span[name].as_u64().unwrap_or(0) as usize];
        let gold: Vec<(&str, std::ops::Range<usize>)> = row["spans"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|span| {
                let kind = TYPES.iter().find(|(name, _)| span["type"] == *name)?.1;
                Some((kind, place(span, "start")..place(span, "end")))
            })
            .collect();
        for (kind, _) in &gold {
            scores.entry(kind).or_default().gold += 1;
        }
        for Found { kind, range } in find(text) {
            let score = scores.entry(kind.name()).or_default();
            score.found += 1;
            score.right += usize::from(gold.contains(&(kind.name(), range)));
        }
    })?;
    Ok(scores)
}

/// What stands in a collection of law.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    /// Runs of what is no space.
    pub(crate) words: usize,
    /// Bytes of text.
    pub(crate) bytes: usize,
    /// Number of hits by kind.
    pub(crate) counts: BTreeMap<Kind, usize>,
    /// The first different hits of each kind, with what stands around them.
    pub(crate) samples: BTreeMap<Kind, Vec<String>>,
}

/// Hits in `text/NAME`, with `samples` of each kind.
pub(crate) fn law(data: &Path, name: &str, samples: usize) -> io::Result<Hits> {
    let mut hits = Hits::default();
    rows(&data.join("text").join(name), |row| {
        let text = row["text"].as_str().unwrap_or_default();
        hits.words += text.split_whitespace().count();
        hits.bytes += text.len();
        for Found { kind, range } in find(text) {
            let count = hits.counts.entry(kind).or_default();
            *count += 1;
            let shown = hits.samples.entry(kind).or_default();
            let hit = format!("⟦{}⟧", &text[range.clone()]);
            if shown.len() < samples && !shown.iter().any(|sample| sample.contains(&hit)) {
                let before =
                    text[..range.start].char_indices().rev().nth(50).map_or(0, |(at, _)| at);
                let after = text[range.end..].chars().take(20).map(char::len_utf8).sum::<usize>();
                let (before, after) =
                    (&text[before..range.start], &text[range.end..range.end + after]);
                shown.push(format!("{before}{hit}{after}").replace('\n', "⏎"));
            }
        }
    })?;
    Ok(hits)
}

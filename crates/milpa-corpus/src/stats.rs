//! What a corpus is made of, in numbers: per source, language and reason.

use std::{collections::BTreeMap, fmt, path::Path};

use milpa_base::{Kind, manifest::Verify, open_artifact, units};
use serde::{Deserialize, Serialize};

use crate::{CorpusError, Reason, Split};

/// File name of the statistics in a corpus folder.
pub const STATS_FILE: &str = "stats.json";
/// Largest statistics file that is read.
const MAX_STATS_BYTES: u64 = 64 << 20;

/// Documents and their bytes of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Number of documents.
    pub documents: u64,
    /// UTF-8 bytes of their texts.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.documents += 1;
        self.bytes += bytes as u64;
    }
}

/// What became of one source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceStats {
    /// Records read that were or should have been documents.
    pub read: u64,
    /// Kept for training.
    pub train: Tally,
    /// Held out.
    pub validation: Tally,
    /// Dropped, by reason.
    pub dropped: BTreeMap<Reason, u64>,
    /// Sound records that are no documents, by kind.
    pub skipped: BTreeMap<String, u64>,
    /// Lines of notices taken out of kept and dropped documents.
    pub lines_removed: u64,
    /// Pages whose declared charset was refuted by their bytes.
    pub charsets_refuted: u64,
    /// Passages of evaluation items that were cut out.
    #[serde(default)]
    pub passages_cut: u64,
    /// Bytes of repeated passages that were cut out.
    #[serde(default)]
    pub repeated_bytes_cut: u64,
    /// Personal data that was masked, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub masked: BTreeMap<String, u64>,
    /// Held-out groups.
    pub validation_groups: u64,
    /// All groups.
    pub groups: u64,
}

impl SourceStats {
    /// Adds the counts of another part of the source.
    pub(crate) fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.lines_removed += other.lines_removed;
        self.charsets_refuted += other.charsets_refuted;
        self.passages_cut += other.passages_cut;
        for (&reason, &count) in &other.dropped {
            *self.dropped.entry(reason).or_default() += count;
        }
        for (kind, &count) in &other.skipped {
            *self.skipped.entry(kind.clone()).or_default() += count;
        }
        for (kind, &count) in &other.masked {
            *self.masked.entry(kind.clone()).or_default() += count;
        }
    }
}

/// What a corpus is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// By name of the source.
    pub sources: BTreeMap<String, SourceStats>,
    /// Kept documents by ISO 639-3 code.
    pub languages: BTreeMap<String, Tally>,
    /// What a person should know, such as a split that stayed empty.
    pub notes: Vec<String>,
}

impl Stats {
    /// Totals of a split.
    pub fn total(&self, split: Split) -> Tally {
        let mut total = Tally::default();
        for source in self.sources.values() {
            let part = match split {
                Split::Train => source.train,
                Split::Validation => source.validation,
            };
            total.documents += part.documents;
            total.bytes += part.bytes;
        }
        total
    }

    /// Dropped documents of all sources, by reason.
    pub fn dropped(&self) -> BTreeMap<Reason, u64> {
        let mut total = BTreeMap::new();
        for source in self.sources.values() {
            for (&reason, &count) in &source.dropped {
                *total.entry(reason).or_default() += count;
            }
        }
        total
    }

    /// Records read.
    pub fn read(&self) -> u64 {
        self.sources.values().map(|source| source.read).sum()
    }

    /// The statistics as JSON, indented.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers can be written")
    }
}

/// Reads the statistics of the corpus in `dir`.
pub fn stats(dir: &Path) -> Result<Stats, CorpusError> {
    open_artifact(dir, Kind::Corpus, Verify::Lengths)?;
    let path = dir.join(STATS_FILE);
    let failed = |error: &dyn fmt::Display| CorpusError::file("read", &path, error);
    let length = std::fs::metadata(&path).map_err(|error| failed(&error))?.len();
    if length > MAX_STATS_BYTES {
        return Err(failed(&format!("it has {length} bytes")));
    }
    let bytes = std::fs::read(&path).map_err(|error| failed(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(&error))
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![
            ["source", "read", "train", "bytes", "validation", "bytes", "dropped"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let row = |name: &str, read: u64, train: Tally, validation: Tally, dropped: u64| {
            vec![
                name.to_owned(),
                read.to_string(),
                train.documents.to_string(),
                units::binary_bytes(train.bytes),
                validation.documents.to_string(),
                units::binary_bytes(validation.bytes),
                dropped.to_string(),
            ]
        };
        for (name, s) in &self.sources {
            rows.push(row(name, s.read, s.train, s.validation, s.dropped.values().sum()));
        }
        rows.push(row(
            "all",
            self.read(),
            self.total(Split::Train),
            self.total(Split::Validation),
            self.dropped().values().sum(),
        ));
        write_table(f, &rows)?;
        let mut rows =
            vec![vec!["language".to_owned(), "documents".to_owned(), "bytes".to_owned()]];
        let mut languages: Vec<_> = self.languages.iter().collect();
        languages.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then(a.0.cmp(b.0)));
        for (language, tally) in languages {
            let bytes = units::binary_bytes(tally.bytes);
            rows.push(vec![language.clone(), tally.documents.to_string(), bytes]);
        }
        writeln!(f)?;
        write_table(f, &rows)?;
        let dropped = self.dropped();
        if !dropped.is_empty() {
            let mut rows = vec![vec!["dropped because of".to_owned(), "documents".to_owned()]];
            let mut reasons: Vec<_> = dropped.into_iter().collect();
            reasons.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            rows.extend(reasons.iter().map(|(r, count)| vec![r.to_string(), count.to_string()]));
            writeln!(f)?;
            write_table(f, &rows)?;
        }
        let mut masked: BTreeMap<&str, u64> = BTreeMap::new();
        for (kind, count) in self.sources.values().flat_map(|source| &source.masked) {
            *masked.entry(kind).or_default() += count;
        }
        if !masked.is_empty() {
            let mut rows = vec![vec!["personal data masked".to_owned(), "places".to_owned()]];
            rows.extend(masked.iter().map(|(kind, n)| vec![(*kind).to_owned(), n.to_string()]));
            writeln!(f)?;
            write_table(f, &rows)?;
        }
        let cut: u64 = self.sources.values().map(|source| source.repeated_bytes_cut).sum();
        if cut > 0 {
            writeln!(f, "\nrepeated passages cut out: {}", units::binary_bytes(cut))?;
        }
        let passages: u64 = self.sources.values().map(|source| source.passages_cut).sum();
        if passages > 0 {
            writeln!(f, "\nevaluation items cut out: {passages}")?;
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

/// Writes rows with the first column to the left and the others to the right.
fn write_table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_survive_json_and_show_as_a_table() {
        let mut stats = Stats::default();
        let source = stats.sources.entry("novelas".to_owned()).or_default();
        source.read = 5;
        source.train = Tally { documents: 3, bytes: 3 << 20 };
        source.validation = Tally { documents: 1, bytes: 100 };
        source.dropped.insert(Reason::Length, 1);
        stats.languages.insert("spa".to_owned(), Tally { documents: 4, bytes: 3 << 20 });
        stats.notes.push("x".to_owned());
        assert_eq!(serde_json::from_str::<Stats>(&stats.to_json()).unwrap(), stats);
        let shown = stats.to_string();
        for part in
            ["novelas     5      3  3.00 MiB           1  100 B        1", "length", "note: x"]
        {
            assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
        }
    }
}

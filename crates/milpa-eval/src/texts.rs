//! Reads texts from JSONL (plain, gzip or zstd), one document a line, as [`TextRecord`]s.
//!
//! Lines without a usable text are counted with their reason; a broken stream ends the reading
//! with an error, so that half a file is never measured as if it were whole.

use std::{io, path::Path};

use milpa_base::{
    TextRecord,
    lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader},
};
use serde_json::Value;

use crate::{error::EvalError, items::Skips, task::Filter};

/// The texts of a JSONL file, in order.
pub struct JsonlTexts {
    reader: LineReader,
    source: String,
    field: String,
    filters: Vec<Filter>,
    skips: Skips,
    ended: bool,
}

/// Opens a JSONL file whose objects hold their text in `field`. The source of each record is the
/// file's name up to its first dot; its id is the field `id`, or the line number.
pub fn read_jsonl_texts(path: &Path, field: &str) -> Result<JsonlTexts, EvalError> {
    let reader = LineReader::open(path, DEFAULT_MAX_LINE_BYTES)
        .map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let source = name.split('.').find(|part| !part.is_empty()).unwrap_or("texts").to_owned();
    Ok(JsonlTexts {
        reader,
        source,
        field: field.to_owned(),
        filters: Vec::new(),
        skips: Skips::default(),
        ended: false,
    })
}

impl JsonlTexts {
    /// Passes over lines that a filter does not keep, and counts them with its reason.
    pub fn keep_if(mut self, filters: &[Filter]) -> Self {
        self.filters.extend_from_slice(filters);
        self
    }

    /// What was left out so far.
    pub fn skips(&self) -> &Skips {
        &self.skips
    }
}

impl Iterator for JsonlTexts {
    type Item = io::Result<TextRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let parsed = match self.reader.next_line() {
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                Ok(None) => {
                    self.ended = true;
                    return None;
                }
                Ok(Some(Line::TooLong { .. })) => Err("the line is longer than 64 MiB".to_owned()),
                Ok(Some(Line::Whole(line))) if line.trim_ascii().is_empty() => continue,
                Ok(Some(Line::Whole(line))) => parse(line, &self.field, &self.filters),
            };
            let number = self.reader.line_number();
            match parsed {
                Ok((id, text)) => {
                    let id = id.unwrap_or_else(|| format!("{}:{number}", self.source));
                    return Some(Ok(TextRecord { id, source: self.source.clone(), text }));
                }
                Err(reason) => self.skips.add(&reason, number),
            }
        }
        None
    }
}

/// Returns id and text of a line, or the reason for passing it over.
fn parse(line: &[u8], field: &str, filters: &[Filter]) -> Result<(Option<String>, String), String> {
    let line = std::str::from_utf8(line).map_err(|_| "not valid UTF-8".to_owned())?;
    let mut value: Value = serde_json::from_str(line).map_err(|_| "not valid JSON".to_owned())?;
    let Some(object) = value.as_object_mut() else { return Err("not a JSON object".to_owned()) };
    if let Some(filter) = filters.iter().find(|filter| !filter.keeps(object)) {
        return Err(filter.reason.clone());
    }
    let id = match object.get("id") {
        Some(Value::String(id)) => Some(id.clone()),
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => None,
    };
    match object.get_mut(field).map(Value::take) {
        None => Err(format!("no field {field:?}")),
        Some(Value::String(text)) if text.is_empty() => Err("an empty text".to_owned()),
        Some(Value::String(text)) => Ok((id, text)),
        Some(_) => Err(format!("the field {field:?} is not text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (Vec<TextRecord>, Skips, Option<io::Error>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("novelas.jsonl.zst");
        std::fs::write(&path, bytes).unwrap();
        let mut texts = read_jsonl_texts(&path, "text").unwrap();
        let (mut records, mut error) = (Vec::new(), None);
        for record in &mut texts {
            match record {
                Ok(record) => records.push(record),
                Err(found) => error = Some(found),
            }
        }
        (records, texts.skips().clone(), error)
    }

    #[test]
    fn good_lines_are_read_and_bad_ones_counted() {
        let (records, skips, error) = read(
            b"{\"id\":\"a\",\"text\":\"uno\"}\n\n{\"text\":\"dos\"}\n{\"text\":3}\n{}\n[]\n{\n\
              \xff\n{\"text\":\"\"}\n",
        );
        assert!(error.is_none());
        let found: Vec<_> = records.iter().map(|r| (r.id.as_str(), r.text.as_str())).collect();
        assert_eq!(found, [("a", "uno"), ("novelas:3", "dos")]);
        assert_eq!(records[0].source, "novelas");
        assert_eq!(skips.total(), 6);
        assert_eq!(skips.0["the field \"text\" is not text"].first_lines, [4]);
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        // Different lines, so that the stream has blocks before its cut end.
        let lines: Vec<String> = (0..20_000).map(|i| format!("{{\"text\":\"{i}\"}}")).collect();
        let text = lines.join("\n");
        let mut bytes = zstd::encode_all(text.as_bytes(), 1).unwrap();
        bytes.truncate(bytes.len() - 10);
        assert!(read(&bytes).2.is_some());
    }
}

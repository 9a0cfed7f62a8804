//! Documents of a task: JSONL, or a JSON array, plain or compressed, as a table with one row each.
//!
//! As in `datasets`, every row has every column: a field that a row lacks is null. It knows no task.

use std::{io::Read, path::Path};

use milpa_base::{
    Digest, hash_file,
    lines::{Line, LineReader, open_decoded},
};
use serde_json::{Map, Value};

use crate::{error::EvalError, items::Skips, task::Filter};

/// A row.
pub type Document = Map<String, Value>;

/// Longest row, in bytes.
const MAX_ROW_BYTES: usize = 4 << 20;
/// Most rows held in memory.
const MAX_ROWS: usize = 1_000_000;
/// Longest file that is one JSON array, in bytes.
const MAX_ARRAY_BYTES: u64 = 256 << 20;

/// The documents of some files.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// The rows in their order, each with its line (counted from 1; of an array, its place).
    pub rows: Vec<(u64, Document)>,
    /// Lines that are no row.
    pub skips: Skips,
    /// BLAKE3 of each file as it lies on disk.
    pub hashes: Vec<Digest>,
}

impl Documents {
    /// Reads files one after the other.
    ///
    /// # Errors
    /// A file that cannot be read, or more rows than are held in memory.
    pub fn read<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Result<Self, EvalError> {
        let mut documents = Self::default();
        for path in paths {
            documents.read_file(path)?;
        }
        documents.fill();
        Ok(documents)
    }

    /// Rows that were given in a task file.
    pub fn given(rows: Vec<Document>) -> Self {
        let rows = rows.into_iter().zip(1..).map(|(row, line)| (line, row)).collect();
        let mut documents = Self { rows, ..Self::default() };
        documents.fill();
        documents
    }

    /// Leaves out the rows that do not pass every filter, with the reason that the filter gives.
    pub fn keep(&mut self, filters: &[Filter]) {
        let skips = &mut self.skips;
        self.rows.retain(|(line, row)| match filters.iter().find(|filter| !filter.keeps(row)) {
            Some(filter) => {
                skips.add(&filter.reason, *line);
                false
            }
            None => true,
        });
    }

    fn read_file(&mut self, path: &Path) -> Result<(), EvalError> {
        let failed = |source| EvalError::Read { path: path.to_owned(), source };
        let (hash, _) = hash_file(path).map_err(failed)?;
        self.hashes.push(hash);
        let mut reader = LineReader::open(path, MAX_ROW_BYTES).map_err(failed)?;
        let mut first = true;
        while let Some(line) = reader.next_line().map_err(failed)? {
            let row = match line {
                Line::Whole(bytes) if bytes.trim_ascii().is_empty() => continue,
                Line::Whole(bytes) if first && bytes.trim_ascii_start().starts_with(b"[") => {
                    return self.read_array(path);
                }
                Line::TooLong { .. } if first => return self.read_array(path),
                Line::TooLong { .. } => Err("the line is longer than 4 MiB"),
                Line::Whole(bytes) => match serde_json::from_slice(bytes) {
                    Ok(Value::Object(row)) => Ok(row),
                    Ok(_) => Err("not a JSON object"),
                    Err(_) => Err("not valid JSON"),
                },
            };
            first = false;
            self.add(path, reader.line_number(), row)?;
        }
        Ok(())
    }

    fn read_array(&mut self, path: &Path) -> Result<(), EvalError> {
        let failed = |source| EvalError::Read { path: path.to_owned(), source };
        let mut text = Vec::new();
        let file = open_decoded(path).map_err(failed)?;
        file.take(MAX_ARRAY_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_ARRAY_BYTES {
            let long = "one JSON array of more than 256 MiB; write a row on each line instead";
            return Err(failed(std::io::Error::other(long)));
        }
        let rows: Vec<Value> =
            serde_json::from_slice(&text).map_err(|error| failed(std::io::Error::other(error)))?;
        for (row, place) in rows.into_iter().zip(1..) {
            let row = match row {
                Value::Object(row) => Ok(row),
                _ => Err("not a JSON object"),
            };
            self.add(path, place, row)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        path: &Path,
        line: u64,
        row: Result<Document, &str>,
    ) -> Result<(), EvalError> {
        match row {
            Ok(_) if self.rows.len() >= MAX_ROWS => {
                return Err(EvalError::TooManyItems { path: path.to_owned(), bound: MAX_ROWS });
            }
            Ok(row) => self.rows.push((line, row)),
            Err(reason) => self.skips.add(reason, line),
        }
        Ok(())
    }

    /// Gives every row every column.
    fn fill(&mut self) {
        let mut columns = Document::new();
        for (_, row) in &self.rows {
            for name in row.keys().filter(|name| !columns.contains_key(*name)).collect::<Vec<_>>() {
                columns.insert(name.clone(), Value::Null);
            }
        }
        for (_, row) in &mut self.rows {
            if row.len() < columns.len() {
                for name in columns.keys() {
                    row.entry(name.as_str()).or_insert(Value::Null);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: impl AsRef<[u8]>) -> Documents {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.json");
        std::fs::write(&path, bytes).unwrap();
        Documents::read([path.as_path()]).unwrap()
    }

    #[test]
    fn lines_and_arrays_give_the_same_rows() {
        let lines = read("{\"a\": 1}\n\nx\n{\"b\": \"ñ\"}\n[1]\n");
        let text = "[{\"a\": 1},\n 3, {\"b\": \"ñ\"}]";
        let array = read(text);
        let rows = |documents: &Documents| -> Vec<Document> {
            documents.rows.iter().map(|(_, row)| row.clone()).collect()
        };
        assert_eq!(rows(&lines), rows(&array));
        assert_eq!(lines.rows[1].0, 4);
        assert_eq!(lines.rows[0].1["b"], Value::Null);
        assert_eq!((lines.skips.total(), array.skips.total()), (2, 1));
        let compressed = read(zstd::encode_all(text.as_bytes(), 1).unwrap());
        assert_eq!(rows(&compressed), rows(&array));
    }
}

//! Rows that people write: JSONL, or CSV as spreadsheets save it, each with its line.
//!
//! A CSV begins with the names of its columns; the separator is told from that line (`,`, `;` or
//! tab: a spreadsheet in Spanish or Portuguese writes `;`), a byte-order mark is passed over, and a
//! quoted cell may hold line ends (RFC 4180). A row is a JSON object either way. It knows no field.

use std::{io, path::Path};

use milpa_base::lines::{Line, LineReader};
use serde_json::{Map, Value};

/// A row by its columns.
pub(crate) type Row = Map<String, Value>;

/// Reads rows one by one.
pub(crate) struct Rows {
    reader: LineReader,
    max_row_bytes: usize,
    csv: bool,
    separator: char,
    head: Option<Vec<String>>,
    /// The row read ahead of `head`, if the file has one.
    begun: bool,
}

impl Rows {
    /// Opens a file, plain or compressed; one with `.csv` in its name has columns.
    pub(crate) fn open(path: &Path, max_row_bytes: usize) -> io::Result<Self> {
        let reader = LineReader::open(path, max_row_bytes)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let csv = name.split('.').skip(1).any(|part| part.eq_ignore_ascii_case("csv"));
        Ok(Self { reader, max_row_bytes, csv, separator: ',', head: None, begun: false })
    }

    /// The columns of a CSV; `None` for JSONL and for an empty file.
    pub(crate) fn columns(&mut self) -> io::Result<Option<&[String]>> {
        if self.csv && !self.begun {
            self.begun = true;
            while let Some((_, record)) = self.record()? {
                let Ok(record) = record else { continue };
                let record = record.trim_start_matches('\u{feff}');
                self.separator = separator(record);
                let cells = csv_cells(record, self.separator);
                self.head = Some(cells.iter().map(|cell| cell.trim().to_owned()).collect());
                break;
            }
        }
        Ok(self.head.as_deref())
    }

    /// The next row with the line on which it begins, or why it is none.
    pub(crate) fn next_row(&mut self) -> io::Result<Option<(u64, Result<Row, &'static str>)>> {
        self.columns()?;
        let Some((line, record)) = self.record()? else { return Ok(None) };
        let row = record.and_then(|record| match &self.head {
            Some(head) => {
                let cells = csv_cells(&record, self.separator).into_iter().map(Value::String);
                Ok(head.iter().cloned().zip(cells).collect())
            }
            None => match serde_json::from_str(record.trim_start_matches('\u{feff}')) {
                Ok(Value::Object(row)) => Ok(row),
                Ok(_) => Err("not a JSON object"),
                Err(_) => Err("not valid JSON"),
            },
        });
        Ok(Some((line, row)))
    }

    /// The next line that is not blank; of a CSV, as many as a quoted cell needs.
    fn record(&mut self) -> io::Result<Option<(u64, Result<String, &'static str>)>> {
        let mut record = String::new();
        let mut first_line = 0;
        loop {
            let Some(line) = self.reader.next_line()? else {
                let cut = Err("a quote that does not end");
                return Ok((!record.is_empty()).then_some((first_line, cut)));
            };
            let text = match line {
                Line::TooLong { .. } => Err("the line is too long"),
                Line::Whole(bytes) => std::str::from_utf8(bytes).map_err(|_| "not valid UTF-8"),
            };
            let text = match text {
                Ok(text) if text.trim().is_empty() && record.is_empty() => continue,
                Ok(text) => text.trim_end_matches('\r').to_owned(),
                Err(reason) => return Ok(Some((self.reader.line_number(), Err(reason)))),
            };
            if record.is_empty() {
                first_line = self.reader.line_number();
            }
            record.push_str(&text);
            // After an odd number of quotes the cell goes on.
            let open = self.csv && record.matches('"').count() % 2 == 1;
            if !open {
                return Ok(Some((first_line, Ok(record))));
            }
            if record.len() >= self.max_row_bytes {
                return Ok(Some((first_line, Err("a quote that does not end"))));
            }
            record.push('\n');
        }
    }
}

/// The sign between columns: that which stands most often in the head.
fn separator(head: &str) -> char {
    let count = |sign: char| head.matches(sign).count();
    [',', ';', '\t'].into_iter().rev().max_by_key(|&sign| count(sign)).unwrap_or(',')
}

/// Cells of one CSV record (RFC 4180): quotes around a cell, doubled inside.
fn csv_cells(record: &str, separator: char) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut characters = record.chars().peekable();
    while let Some(character) = characters.next() {
        let cell = cells.last_mut().expect("there is always a cell");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if cell.is_empty() => quoted = true,
            _ if character == separator && !quoted => cells.push(String::new()),
            _ => cell.push(character),
        }
    }
    cells
}

/// A line of a CSV, ended; cells are quoted where they need it.
///
/// A cell that a spreadsheet would take for a formula gets an apostrophe before it, because what
/// strangers typed must not run in a volunteer's spreadsheet.
pub(crate) fn csv_line(cells: &[&str], separator: char) -> String {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            line.push(separator);
        }
        let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let guarded = if formula { format!("'{cell}") } else { (*cell).to_owned() };
        if guarded.contains([separator, '"', '\n', '\r']) || guarded != guarded.trim() {
            line.push('"');
            line.push_str(&guarded.replace('"', "\"\""));
            line.push('"');
        } else {
            line.push_str(&guarded);
        }
    }
    line.push_str("\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8]) -> Vec<(u64, Result<String, &'static str>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut rows = Rows::open(&path, 200).unwrap();
        let mut found = Vec::new();
        while let Some((line, row)) = rows.next_row().unwrap() {
            found.push((line, row.map(|row| Value::Object(row).to_string())));
        }
        found
    }

    #[test]
    fn spreadsheets_write_their_own_kinds_of_csv() {
        let expect = vec![(2, Ok("{\"id\":\"1\",\"a b\":\"x; \\\"y\\\"\\nz\"}".to_owned()))];
        assert_eq!(read("t.csv", b"id,a b\r\n1,\"x; \"\"y\"\"\nz\"\r\n"), expect);
        let excel = "\u{feff}id;a b\r\n1;\"x; \"\"y\"\"\nz\"\r\n\r\n".as_bytes();
        assert_eq!(read("t.CSV", excel), expect);
        assert_eq!(read("t.csv", b"id\ta b\n1\t\"x; \"\"y\"\"\nz\"\n"), expect);
    }

    #[test]
    fn what_is_no_row_is_named_with_its_line() {
        assert_eq!(
            read("t.csv", b"a\n1\n\"x\ny"),
            vec![(2, Ok("{\"a\":\"1\"}".to_owned())), (3, Err("a quote that does not end")),]
        );
        assert_eq!(read("t.csv", b"a\n\xe1\n"), vec![(2, Err("not valid UTF-8"))]);
        let jsonl = format!("{{\"a\":1}}\n[]\n\n{{\n{}\n", "x".repeat(300));
        assert_eq!(
            read("t.jsonl", jsonl.as_bytes()),
            vec![
                (1, Ok("{\"a\":1}".to_owned())),
                (2, Err("not a JSON object")),
                (4, Err("not valid JSON")),
                (5, Err("the line is too long")),
            ]
        );
        assert!(read("t.csv", b"").is_empty());
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for separator in [',', ';'] {
            let cells = ["a", "b;c,d", " e", "f \"g\"\nh", "", "¿i?"];
            let line = csv_line(&cells, separator);
            assert_eq!(csv_cells(line.trim_end_matches("\r\n"), separator), cells);
        }
        assert_eq!(csv_line(&["=HYPERLINK(1)", "@x", "a=b"], ','), "'=HYPERLINK(1),'@x,a=b\r\n");
    }
}

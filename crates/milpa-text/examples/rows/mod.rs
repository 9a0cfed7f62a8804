//! What the examples share: rows of JSONL files.

use std::{error::Error, path::Path};

use milpa_base::lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader};

/// Calls `f` with each row of a JSONL file, plain or compressed.
pub(crate) fn for_each_row(
    path: &Path,
    mut f: impl FnMut(&serde_json::Value),
) -> Result<(), Box<dyn Error>> {
    let mut reader = LineReader::open(path, DEFAULT_MAX_LINE_BYTES)?;
    while let Some(line) = reader.next_line()? {
        if let Line::Whole(line) = line {
            f(&serde_json::from_slice(line)?);
        }
    }
    Ok(())
}

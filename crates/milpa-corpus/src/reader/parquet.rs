//! Parquet files: each row becomes a JSON object of the columns that the source names.
//!
//! Rows stream out of one row group after the other; what is held is one page per column. Offsets
//! are row numbers: a row has no bytes of its own. Damage ends the file, because rows are spread
//! over column chunks; it is told with the number of rows that were not reached.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, reader::RowIter},
    schema::types::Type,
};
use serde_json::{Map, Value};

use super::{Body, Item, Problem, RawRecord, Reader};
use crate::document::Reason;

/// Deepest nesting of a field that is written.
const MAX_DEPTH: usize = 8;

/// Reads the rows of one file.
pub struct ParquetReader {
    rows: Option<RowIter<'static>>,
    /// A problem that is told before the end.
    problem: Option<Problem>,
    row: u64,
    row_count: u64,
    /// Bytes of the file on disk; they are counted as read in proportion to the rows.
    bytes: u64,
    counted: u64,
    position: Arc<AtomicU64>,
    max_record: u64,
}

impl ParquetReader {
    /// Opens a file. Of its columns those named in `columns` are read, or all if there are none of
    /// these; a name with dots may stand for a column or for a path into one.
    pub fn open(
        path: &Path,
        columns: &[String],
        max_record: u64,
        position: &Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut reader = Self {
            rows: None,
            problem: None,
            row: 0,
            row_count: 0,
            bytes,
            counted: 0,
            position: Arc::clone(position),
            max_record,
        };
        let opened = guarded(|| {
            let file = SerializedFileReader::new(file)?;
            let rows = file.metadata().file_metadata().num_rows().max(0) as u64;
            let schema = file.metadata().file_metadata().schema();
            let projection = project(schema, columns);
            RowIter::from_file_into(Box::new(file)).project(projection).map(|iter| (iter, rows))
        });
        match opened {
            Ok((rows, count)) => (reader.rows, reader.row_count) = (Some(rows), count),
            Err(error) => {
                let detail = format!("the file cannot be read as Parquet: {error}");
                reader.problem = Some(Problem::new(Reason::CorruptStream, 0, detail));
            }
        }
        Ok(reader)
    }

    fn count_bytes(&mut self) {
        let share = self.row as f64 / self.row_count.max(1) as f64;
        let read = (self.bytes as f64 * share.min(1.0)) as u64;
        self.position.fetch_add(read - self.counted, Ordering::Relaxed);
        self.counted = read;
    }
}

impl Reader for ParquetReader {
    fn next_item(&mut self) -> io::Result<Option<Item>> {
        if let Some(problem) = self.problem.take() {
            return Ok(Some(Item::Problem(problem)));
        }
        let Some(rows) = &mut self.rows else { return Ok(None) };
        let next = guarded(|| rows.next().transpose());
        let offset = self.row;
        match next {
            Ok(None) => {
                self.rows = None;
                Ok(None)
            }
            Ok(Some(row)) => {
                self.row += 1;
                self.count_bytes();
                let columns = row.get_column_iter();
                let object: Map<String, Value> = columns
                    .map(|(name, field)| (name.clone(), json_of(field, MAX_DEPTH)))
                    .collect();
                let body = Value::Object(object).to_string().into_bytes();
                if body.len() as u64 > self.max_record {
                    let detail =
                        format!("a row of {} bytes; at most {}", body.len(), self.max_record);
                    let mut problem = Problem::new(Reason::TooLarge, offset, detail);
                    problem.bytes = body.len() as u64;
                    return Ok(Some(Item::Problem(problem)));
                }
                let body = Body::Json(body);
                Ok(Some(Item::Record(RawRecord { offset, body, ..RawRecord::default() })))
            }
            Err(error) => {
                self.rows = None;
                let left = self.row_count.saturating_sub(self.row);
                let detail = format!("row {offset}: {error}; {left} rows were not reached");
                Ok(Some(Item::Problem(Problem::new(Reason::CorruptStream, offset, detail))))
            }
        }
    }
}

/// Runs the Parquet decoder. It trusts lengths in damaged files here and there, and panics.
fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(ParquetError::General("the decoder gave up".to_owned())))
}

/// The part of a schema with the wanted columns; `None` for all of it.
fn project(schema: &Type, columns: &[String]) -> Option<Type> {
    let wanted = |name: &str| {
        columns.iter().any(|column| {
            column == name || column.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    let fields: Vec<_> =
        schema.get_fields().iter().filter(|field| wanted(field.name())).cloned().collect();
    if fields.is_empty() {
        return None;
    }
    Type::group_type_builder(schema.name()).with_fields(fields).build().ok()
}

fn json_of(field: &Field, depth: usize) -> Value {
    match field {
        _ if depth == 0 => Value::Null,
        Field::Str(text) => Value::String(text.clone()),
        // Writers that mark no column as text leave it as bytes.
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data())
            .map_or(Value::Null, |text| Value::String(text.to_owned())),
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Null => Value::Null,
        Field::Group(row) => Value::Object(
            row.get_column_iter()
                .map(|(name, field)| (name.clone(), json_of(field, depth - 1)))
                .collect(),
        ),
        Field::ListInternal(list) => {
            list.elements().iter().map(|field| json_of(field, depth - 1)).collect()
        }
        // Dates and decimals as they are shown.
        other => Value::String(other.to_string()),
    }
}

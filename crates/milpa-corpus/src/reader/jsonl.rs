//! JSON lines: framing only, so that the parsing of each line runs on all threads.

use std::io::{self, Read};

use milpa_base::lines::{Line, LineReader};

use super::{Body, Item, Problem, RawRecord, Reader, reason_of_stream_error};
use crate::document::Reason;

/// Reads the lines of a decoded stream.
pub struct JsonlReader {
    lines: LineReader,
    max_record: u64,
    ended: bool,
}

impl JsonlReader {
    /// Reads lines of at most `max_record` bytes; longer ones are passed over and counted.
    pub fn new(stream: Box<dyn Read + Send>, max_record: u64) -> Self {
        let lines = LineReader::new(stream, max_record as usize);
        Self { lines, max_record, ended: false }
    }
}

impl Reader for JsonlReader {
    fn next_item(&mut self) -> io::Result<Option<Item>> {
        while !self.ended {
            let offset = self.lines.offset();
            match self.lines.next_line() {
                Ok(None) => self.ended = true,
                Ok(Some(Line::Whole(line))) if line.trim_ascii().is_empty() => {}
                Ok(Some(Line::Whole(line))) => {
                    let body = Body::Json(line.to_vec());
                    return Ok(Some(Item::Record(RawRecord {
                        offset,
                        body,
                        ..RawRecord::default()
                    })));
                }
                Ok(Some(Line::TooLong { bytes })) => {
                    let detail = format!("a line of {bytes} bytes; at most {}", self.max_record);
                    let mut problem = Problem::new(Reason::TooLarge, offset, detail);
                    problem.bytes = bytes;
                    return Ok(Some(Item::Problem(problem)));
                }
                Err(error) => {
                    self.ended = true;
                    let reason = reason_of_stream_error(&error)?;
                    let detail = format!("line {}: {error}", self.lines.line_number() + 1);
                    return Ok(Some(Item::Problem(Problem::new(reason, offset, detail))));
                }
            }
        }
        Ok(None)
    }
}

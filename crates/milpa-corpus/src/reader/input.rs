//! A byte stream under gzip, zstd or nothing, that tells damage from its end and, for gzip, goes
//! on at the next member.
//!
//! WARC files are gzipped record by record, so one damaged member must not cost those after it.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

type Raw = BufReader<Box<dyn Read + Send>>;

/// Bytes asked from the decoder at once.
const CHUNK: usize = 64 << 10;
/// zstd window limit as a power of two: bounds the memory of one stream.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// First bytes of a gzip member (deflate).
const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];

/// Why no more bytes come for now.
#[derive(Debug)]
pub enum Fault {
    /// The stream was cut; nothing follows.
    Truncated,
    /// The stream is damaged here; what follows, if anything, is not what came next.
    Corrupt(String),
    /// The disk failed.
    Io(io::Error),
}

/// The decoded stream, with a place to put bytes back.
pub struct Input {
    decoder: Decoder,
    buffer: Vec<u8>,
    start: usize,
    offset: u64,
    /// Damage that lies behind the bytes already handed out.
    pending: Option<Fault>,
}

enum Decoder {
    Plain(Raw),
    Gzip(Box<GzDecoder<Raw>>),
    /// Between members, looking for the next one.
    Resync(Raw),
    Zstd(Box<zstd::Decoder<'static, Raw>>),
    End,
}

impl Input {
    /// Opens a stream; the compression is told from its first bytes.
    pub fn new(raw: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut raw = BufReader::with_capacity(1 << 18, raw);
        let head = raw.fill_buf()?;
        let decoder = if head.starts_with(&GZIP[..2]) {
            Decoder::Gzip(Box::new(GzDecoder::new(raw)))
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let mut decoder = zstd::Decoder::with_buffer(raw)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Decoder::Zstd(Box::new(decoder))
        } else {
            Decoder::Plain(raw)
        };
        Ok(Self { decoder, buffer: Vec::new(), start: 0, offset: 0, pending: None })
    }

    /// Offset in decoded bytes of what comes next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes at hand, at least one unless the stream ends.
    pub fn fill(&mut self) -> Result<&[u8], Fault> {
        if self.start == self.buffer.len() {
            self.more()?;
        }
        Ok(&self.buffer[self.start..])
    }

    /// At least `count` bytes at hand, fewer only at the end or before damage.
    pub fn peek(&mut self, count: usize) -> Result<&[u8], Fault> {
        while self.buffer.len() - self.start < count {
            let before = self.buffer.len() - self.start;
            match self.more() {
                Ok(()) if self.buffer.len() - self.start == before => break,
                Ok(()) => {}
                Err(fault) if before == 0 => return Err(fault),
                // The damage is told when the bytes before it are used up.
                Err(fault) => {
                    self.pending = Some(fault);
                    break;
                }
            }
        }
        Ok(&self.buffer[self.start..])
    }

    /// Takes `count` of the bytes at hand.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(self.start + count <= self.buffer.len());
        self.start += count;
        self.offset += count as u64;
    }

    /// Puts bytes back in front of what comes next.
    pub fn put_back(&mut self, bytes: &[u8]) {
        let mut buffer = bytes.to_vec();
        buffer.extend_from_slice(&self.buffer[self.start..]);
        self.buffer = buffer;
        self.start = 0;
        self.offset -= bytes.len() as u64;
    }

    /// Reads one line with its end, at most `max` bytes of it; the flag tells whether it was
    /// longer. An empty line means the end of the stream.
    pub fn line(&mut self, max: usize) -> Result<(Vec<u8>, bool), Fault> {
        let (mut line, mut long) = (Vec::new(), false);
        loop {
            let bytes = match self.fill() {
                Ok(bytes) => bytes,
                Err(fault) if line.is_empty() => return Err(fault),
                // What stands before the damage is still a line; the damage is told after it.
                Err(fault) => {
                    self.pending = Some(fault);
                    return Ok((line, long));
                }
            };
            if bytes.is_empty() {
                return Ok((line, long));
            }
            let end = bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(bytes.len());
            let room = max.saturating_sub(line.len());
            line.extend_from_slice(&bytes[..taken.min(room)]);
            long |= taken > room;
            self.consume(taken);
            if end.is_some() {
                return Ok((line, long));
            }
        }
    }

    fn more(&mut self) -> Result<(), Fault> {
        if let Some(fault) = self.pending.take() {
            return Err(fault);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        loop {
            let held = self.buffer.len();
            self.buffer.resize(held + CHUNK, 0);
            let room = &mut self.buffer[held..];
            let result = match &mut self.decoder {
                Decoder::Plain(raw) => raw.read(room),
                Decoder::Gzip(decoder) => decoder.read(room),
                Decoder::Zstd(decoder) => decoder.read(room),
                Decoder::Resync(_) | Decoder::End => Ok(0),
            };
            self.buffer.truncate(held + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => {
                    if !self.next_member()? {
                        return Ok(());
                    }
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault(error)),
            }
        }
    }

    /// Goes to the next gzip member; false at the end of the stream.
    fn next_member(&mut self) -> Result<bool, Fault> {
        let mut raw = match std::mem::replace(&mut self.decoder, Decoder::End) {
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Resync(raw) => raw,
            Decoder::Plain(_) | Decoder::Zstd(_) | Decoder::End => return Ok(false),
        };
        let mut skipped = 0u64;
        loop {
            let bytes = raw.fill_buf().map_err(Fault::Io)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            if bytes.starts_with(&GZIP[..bytes.len().min(3)]) && bytes.len() >= 3 {
                self.decoder = Decoder::Gzip(Box::new(GzDecoder::new(raw)));
                return Ok(true);
            }
            // Up to the next byte that can begin a member. A member whose first three bytes are
            // cut by the buffer is missed only inside damage.
            let at = bytes[1..].iter().position(|&byte| byte == GZIP[0]);
            let count = at.map_or(bytes.len(), |at| at + 1);
            skipped += count as u64;
            raw.consume(count);
            if skipped > 1 << 40 {
                return Ok(false);
            }
        }
    }

    fn fault(&mut self, error: io::Error) -> Fault {
        if error.raw_os_error().is_some() {
            self.decoder = Decoder::End;
            return Fault::Io(error);
        }
        let truncated = error.kind() == io::ErrorKind::UnexpectedEof;
        self.decoder = match std::mem::replace(&mut self.decoder, Decoder::End) {
            Decoder::Gzip(decoder) if !truncated => Decoder::Resync(decoder.into_inner()),
            _ => Decoder::End,
        };
        if truncated { Fault::Truncated } else { Fault::Corrupt(error.to_string()) }
    }
}

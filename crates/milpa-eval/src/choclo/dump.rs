//! Reads a dump in blocks of whole lines and hands them to several threads, results in order.
//!
//! A dump is a JSON array with one entity on each line. Plain, gzip, bzip2 and zstd are told apart
//! by their first bytes. Memory is bounded by the block size, the number of threads and the longest
//! line allowed; a longer line is passed over and counted. It knows nothing of entities.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use milpa_base::lines;

/// Bytes of lines handed to a thread at once.
const BLOCK_BYTES: usize = 4 << 20;

/// Opens a dump and undoes its compression.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(path)?);
    if file.fill_buf()?.starts_with(b"BZh") {
        return Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(file)));
    }
    lines::decode(file)
}

/// Whole lines of the dump.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// The lines, each with its end.
    pub(crate) bytes: Vec<u8>,
    /// Number of the first line, counted from 1.
    pub(crate) first_line: u64,
    /// Line numbers and lengths of the lines before this block that were too long.
    pub(crate) too_long: Vec<(u64, u64)>,
}

/// Cuts a stream into blocks of whole lines.
pub(crate) struct Blocks<R> {
    reader: R,
    rest: Vec<u8>,
    next_line: u64,
    max_line_bytes: usize,
    /// Decoded bytes read so far.
    pub(crate) bytes_read: u64,
}

impl<R: Read> Blocks<R> {
    pub(crate) fn new(reader: R, max_line_bytes: usize) -> Self {
        Self { reader, rest: Vec::new(), next_line: 1, max_line_bytes, bytes_read: 0 }
    }

    /// The next block, or `None` at the end.
    pub(crate) fn next_block(&mut self) -> io::Result<Option<Block>> {
        let mut block = Block { first_line: self.next_line, ..Block::default() };
        let mut bytes = std::mem::take(&mut self.rest);
        loop {
            let before = bytes.len();
            let more = self.fill(&mut bytes, BLOCK_BYTES)?;
            if let Some(end) = bytes[before..].iter().rposition(|&byte| byte == b'\n') {
                self.rest = bytes.split_off(before + end + 1);
                break;
            }
            if !more {
                break;
            }
            if bytes.len() > self.max_line_bytes {
                let length = bytes.len() as u64 + self.skip_line()?;
                block.too_long.push((self.next_line, length));
                self.next_line += 1;
                block.first_line = self.next_line;
                bytes = std::mem::take(&mut self.rest);
                if bytes.contains(&b'\n') {
                    let end = bytes.iter().rposition(|&byte| byte == b'\n').unwrap_or_default();
                    self.rest = bytes.split_off(end + 1);
                    break;
                }
            }
        }
        if bytes.is_empty() && block.too_long.is_empty() {
            return Ok(None);
        }
        let ends = bytes.split(|&byte| byte == b'\n').count() - 1;
        self.next_line += ends as u64;
        block.bytes = bytes;
        Ok(Some(block))
    }

    /// Reads up to `wanted` more bytes; whether the stream goes on.
    fn fill(&mut self, bytes: &mut Vec<u8>, wanted: usize) -> io::Result<bool> {
        let read = (&mut self.reader).take(wanted as u64).read_to_end(bytes)?;
        self.bytes_read += read as u64;
        Ok(read == wanted)
    }

    /// Passes over the rest of a line; what comes after it stays in `rest`.
    fn skip_line(&mut self) -> io::Result<u64> {
        let (mut skipped, mut buffer) = (0, Vec::new());
        loop {
            buffer.clear();
            let more = self.fill(&mut buffer, BLOCK_BYTES)?;
            if let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                self.rest = buffer.split_off(end + 1);
                return Ok(skipped + end as u64);
            }
            skipped += buffer.len() as u64;
            if !more {
                return Ok(skipped);
            }
        }
    }
}

/// Applies `work` to each block on `threads` threads and `take` to the results, in order, here.
///
/// `take` says whether to go on.
///
/// # Errors
/// The reader's error after the blocks before it were taken, or the first error of `take`.
pub(crate) fn process<R, T, E>(
    mut blocks: Blocks<R>,
    threads: usize,
    work: impl Fn(Block) -> T + Sync,
    mut take: impl FnMut(T, u64) -> Result<(), E>,
) -> Result<u64, E>
where
    R: Read + Send,
    T: Send,
    E: From<io::Error> + Send,
{
    if threads <= 1 {
        while let Some(block) = blocks.next_block()? {
            let done = work(block);
            take(done, blocks.bytes_read)?;
        }
        return Ok(blocks.bytes_read);
    }
    type Job = (u64, u64, Block);
    thread::scope(|scope| {
        let (done_sender, done) = sync_channel::<(u64, u64, T)>(threads);
        let mut workers: Vec<SyncSender<Job>> = Vec::new();
        for _ in 0..threads {
            let (sender, jobs): (_, Receiver<Job>) = sync_channel(1);
            let (done_sender, work) = (done_sender.clone(), &work);
            workers.push(sender);
            scope.spawn(move || {
                for (number, read, block) in jobs {
                    // A closed channel means that the taking side gave up.
                    if done_sender.send((number, read, work(block))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done_sender);
        let reader = scope.spawn(move || -> io::Result<u64> {
            let mut number = 0u64;
            while let Some(block) = blocks.next_block()? {
                let worker = &workers[number as usize % workers.len()];
                if worker.send((number, blocks.bytes_read, block)).is_err() {
                    break;
                }
                number += 1;
            }
            Ok(blocks.bytes_read)
        });
        let (mut waiting, mut next, mut failed) = (BTreeMap::new(), 0u64, None);
        for (number, read, result) in &done {
            waiting.insert(number, (read, result));
            while let Some((read, result)) = waiting.remove(&next) {
                next += 1;
                if let Err(error) = take(result, read) {
                    failed = Some(error);
                    break;
                }
            }
            if failed.is_some() {
                break;
            }
        }
        // Threads that still work see the closed channel and end.
        drop(done);
        let read = reader.join().expect("the reader does not panic");
        match failed {
            Some(error) => Err(error),
            None => Ok(read?),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbered = Vec<(u64, String)>;

    fn lines_of(text: &[u8], bound: usize, threads: usize) -> (Numbered, Vec<(u64, u64)>) {
        let (mut lines, mut too_long) = (Vec::new(), Vec::new());
        process(
            Blocks::new(text, bound),
            threads,
            |block| block,
            |block, _| -> io::Result<()> {
                too_long.extend(block.too_long);
                for (index, line) in block.bytes.split_inclusive(|&b| b == b'\n').enumerate() {
                    let text = String::from_utf8_lossy(line).trim_end().to_owned();
                    lines.push((block.first_line + index as u64, text));
                }
                Ok(())
            },
        )
        .unwrap();
        (lines, too_long)
    }

    #[test]
    fn lines_keep_their_numbers_on_any_number_of_threads() {
        let mut text = Vec::new();
        for number in 1..200_000 {
            text.extend(format!("line {number} {}\n", "x".repeat(number % 97 + 1)).bytes());
        }
        let (one, _) = lines_of(&text, 1 << 20, 1);
        assert_eq!(one.len(), 199_999);
        assert!(one.iter().all(|(n, line)| line.starts_with(&format!("line {n} "))));
        assert_eq!(one, lines_of(&text, 1 << 20, 3).0);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_with_its_number() {
        for tail in ["\nafter\nlast", "\nafter\nlast\n"] {
            let mut text = b"first\n".to_vec();
            text.extend(vec![b'y'; 30 << 20]);
            text.extend(tail.bytes());
            let (lines, too_long) = lines_of(&text, 8 << 20, 2);
            assert_eq!(too_long, [(2, 30 << 20)]);
            let expect = [(1, "first"), (3, "after"), (4, "last")];
            assert!(lines.iter().map(|(n, l)| (*n, l.as_str())).eq(expect), "{lines:?}");
        }
    }
}

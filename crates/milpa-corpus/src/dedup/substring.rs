//! Finds passages that are repeated in a corpus, byte for byte, in bounded memory.
//!
//! What Lee et al. 2022 (arXiv:2107.06499) remove: repeats of at least a given length, every
//! occurrence but the first. They sort all suffixes of the corpus, which takes several times its
//! size in memory, or in parts of it, which misses what repeats across parts. Here each text is
//! represented by anchors: of the hashes of all windows of half the least length, those that are
//! smallest in their neighbourhood (winnowing; Schleimer, Wilkerson & Aiken, SIGMOD 2003). Two
//! equal passages of the least length have an anchor at the same place, so that sorting anchors on
//! disk (a third of the text) brings all repeats together. Each is then compared byte by byte, and
//! extended: what is cut is certain. What is missed: an anchor is compared with at most
//! [`MAX_CONTEXTS`] different surroundings in which it stood before.
//!
//! Texts wait in the scratch folder until they are compared. It does not know what a word is.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use milpa_base::{Bytes, Seed, seed::splitmix64};
use serde::{Deserialize, Serialize};

use super::{
    components::spool,
    external_sort::{ExternalSorter, Scratch, SpoolRecords, SpoolWriter},
};
use crate::error::CorpusError;

/// Different surroundings of one anchor that later ones are compared with.
pub const MAX_CONTEXTS: usize = 64;
/// Stands between texts; no byte of UTF-8 is equal to it.
const SEPARATOR: u8 = 0xFF;
/// Buffer of a list that is read or written while sorters work.
const LIST_BUFFER: usize = 16 << 10;

/// What counts as a repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepeatSettings {
    /// Least length in bytes. 50 tokens of Lee et al. are about 200 bytes.
    pub min_bytes: u32,
    /// Memory for records and buffers.
    pub memory: Bytes,
}

impl Default for RepeatSettings {
    fn default() -> Self {
        Self { min_bytes: 200, memory: Bytes(1 << 30) }
    }
}

impl RepeatSettings {
    /// Checks the length.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if (16..=1 << 16).contains(&self.min_bytes) {
            return Ok(());
        }
        Err(format!("repeats of {} bytes: 16 to 65536 make sense", self.min_bytes))
    }
}

/// Bytes of a document that stood before, in the corpus or in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeats {
    /// The document's ordinal.
    pub ordinal: u64,
    /// What to cut: ascending, disjoint, at character boundaries.
    pub ranges: Vec<Range<usize>>,
}

/// Takes `ranges` (ascending; they may overlap) out of `text`.
///
/// # Panics
/// If a range does not lie in the text at character boundaries.
pub fn cut_ranges(text: &str, ranges: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for range in ranges {
        if range.start > at {
            out.push_str(&text[at..range.start]);
        }
        at = at.max(range.end);
    }
    out.push_str(&text[at..]);
    out
}

/// Collects texts, then finds what is repeated.
#[derive(Debug)]
pub struct RepeatFinder {
    scratch: Scratch,
    settings: RepeatSettings,
    memory: usize,
    texts: BufWriter<File>,
    path: PathBuf,
    /// Bytes written: texts and a separator after each.
    len: u64,
    /// (first byte, ordinal) of each text.
    starts: SpoolWriter<(u64, u64)>,
    last: Option<u64>,
    /// (hash, place) of each anchor.
    anchors: ExternalSorter<(u64, u64)>,
    winnower: Winnower,
}

impl RepeatFinder {
    /// Begins with no text. Texts and what memory does not hold go to a folder of its own in
    /// `scratch`, which is removed in the end.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn new(scratch: &Path, settings: RepeatSettings) -> Result<Self, CorpusError> {
        settings.validate().map_err(|message| CorpusError::Config {
            key: "dedup.repeats.min_bytes".to_owned(),
            message,
        })?;
        let scratch = Scratch::new(scratch)?;
        let memory = usize::try_from(settings.memory.0 / 3).unwrap_or(usize::MAX);
        let path = scratch.next_file();
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| scratch.error("write", error))?;
        Ok(Self {
            texts: BufWriter::with_capacity(256 << 10, file),
            path,
            len: 0,
            starts: SpoolWriter::new(&scratch, LIST_BUFFER)?,
            last: None,
            anchors: ExternalSorter::new(&scratch, memory),
            winnower: Winnower::new(settings.min_bytes as usize),
            scratch,
            settings,
            memory,
        })
    }

    /// Adds the text of a document. Of equal passages the one that was added first stays.
    ///
    /// # Errors
    /// A disk that is full or broken.
    ///
    /// # Panics
    /// If ordinals do not ascend.
    pub fn add(&mut self, ordinal: u64, text: &str) -> Result<(), CorpusError> {
        assert!(self.last.is_none_or(|last| last < ordinal), "texts come in ascending order");
        self.last = Some(ordinal);
        self.starts.push((self.len, ordinal))?;
        let (start, anchors) = (self.len, &mut self.anchors);
        self.winnower.anchors(text.as_bytes(), |hash, at| anchors.push((hash, start + at)))?;
        let written =
            self.texts.write_all(text.as_bytes()).and_then(|()| self.texts.write_all(&[SEPARATOR]));
        written.map_err(|error| self.scratch.error("write", error))?;
        self.len += text.len() as u64 + 1;
        Ok(())
    }

    /// Finds the repeats, document by document.
    ///
    /// # Errors
    /// A disk that is full or broken.
    pub fn find(self) -> Result<RepeatRanges, CorpusError> {
        let Self { scratch, settings, memory, texts, path, len, starts, anchors, winnower, .. } =
            self;
        let file = texts.into_inner().map_err(|e| scratch.error("write", e.into_error()))?;
        let mut texts = TextFile { scratch: scratch.clone(), path, file, len };
        let starts = starts.finish()?;
        let mut found = ExternalSorter::new(&scratch, memory);
        let mut compared = Comparison {
            least: settings.min_bytes as usize,
            window: winnower.window,
            contexts: Vec::new(),
        };
        let mut group: Option<(u64, u64)> = None;
        for anchor in anchors.sorted()? {
            let (hash, place) = anchor?;
            match group {
                Some((same, first)) if same == hash => {
                    // Most anchors stand alone, and their surroundings are never read.
                    if compared.contexts.is_empty() {
                        compared.enter(&mut texts, first, &mut found)?;
                    }
                    compared.enter(&mut texts, place, &mut found)?;
                }
                _ => {
                    compared.contexts.clear();
                    group = Some((hash, place));
                }
            }
        }
        let found = spool(found.sorted()?, &scratch)?;
        let ranges = found.into_records(LIST_BUFFER)?.peekable();
        Ok(RepeatRanges { ranges, starts: starts.into_records(LIST_BUFFER)?.peekable(), texts })
    }
}

/// The surroundings of an anchor: as far as passages of the least length around it can reach.
#[derive(Debug)]
struct Context {
    /// Place of the anchor in the file of texts.
    place: u64,
    bytes: Vec<u8>,
    /// Place of the anchor in `bytes`.
    at: usize,
}

/// Compares the surroundings of equal anchors.
#[derive(Debug)]
struct Comparison {
    least: usize,
    window: usize,
    contexts: Vec<Context>,
}

impl Comparison {
    /// Compares the anchor at `place` with those before it, and puts what is repeated to `found`.
    fn enter(
        &mut self,
        texts: &mut TextFile,
        place: u64,
        found: &mut ExternalSorter<(u64, u64)>,
    ) -> Result<(), CorpusError> {
        let own = texts.context(place, self.least, self.window)?;
        let mut known = false;
        for other in &self.contexts {
            let (left, right) = common(&own, other);
            if right < self.window {
                // Two windows of one hash that are not equal.
                continue;
            }
            // Equal surroundings find nothing later that the earlier would not find.
            known |= left == own.at
                && right == own.bytes.len() - own.at
                && left == other.at
                && right == other.bytes.len() - other.at;
            // A text may repeat itself, but the first occurrence must stay whole.
            let apart = own.place - other.place >= self.least as u64;
            if left + right >= self.least && apart {
                found.push((own.place - left as u64, own.place + right as u64))?;
            }
        }
        if !known && self.contexts.len() < MAX_CONTEXTS {
            self.contexts.push(own);
        }
        Ok(())
    }
}

/// How many bytes before the anchors, and from them on, are equal.
fn common(one: &Context, other: &Context) -> (usize, usize) {
    let equal = |pair: &(&u8, &u8)| pair.0 == pair.1;
    let before = one.bytes[..one.at].iter().rev().zip(other.bytes[..other.at].iter().rev());
    let after = one.bytes[one.at..].iter().zip(&other.bytes[other.at..]);
    (before.take_while(equal).count(), after.take_while(equal).count())
}

/// All texts on disk.
#[derive(Debug)]
struct TextFile {
    scratch: Scratch,
    path: PathBuf,
    file: File,
    len: u64,
}

impl TextFile {
    fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, CorpusError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut read = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(range.start))?;
            self.file.read_exact(&mut bytes)
        };
        read().map_err(|error| self.scratch.error("read", error))?;
        Ok(bytes)
    }

    fn context(&mut self, place: u64, least: usize, window: usize) -> Result<Context, CorpusError> {
        let from = place.saturating_sub((least - window) as u64);
        let to = (place + least as u64).min(self.len);
        let mut bytes = self.read(from..to)?;
        let mut at = (place - from) as usize;
        // It ends where the text ends.
        if let Some(end) = bytes[at..].iter().position(|&byte| byte == SEPARATOR) {
            bytes.truncate(at + end);
        }
        if let Some(before) = bytes[..at].iter().rposition(|&byte| byte == SEPARATOR) {
            bytes.drain(..=before);
            at -= before + 1;
        }
        Ok(Context { place, bytes, at })
    }

    /// Whether a character begins at `place`, or a text ends there.
    fn is_boundary(&mut self, place: u64) -> Result<bool, CorpusError> {
        Ok(self.read(place..place + 1)?[0] & 0xC0 != 0x80)
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        // It goes with its folder at the latest.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What is repeated, in the order of the documents. Iterator made by [`RepeatFinder::find`].
#[derive(Debug)]
pub struct RepeatRanges {
    ranges: std::iter::Peekable<SpoolRecords<(u64, u64)>>,
    starts: std::iter::Peekable<SpoolRecords<(u64, u64)>>,
    texts: TextFile,
}

impl RepeatRanges {
    fn next_document(&mut self) -> Result<Option<Repeats>, CorpusError> {
        while let Some(start) = self.starts.next() {
            let (start, ordinal) = start?;
            let end = match self.starts.peek() {
                Some(Ok((next, _))) => *next,
                _ => self.texts.len,
            };
            let mut ranges: Vec<Range<u64>> = Vec::new();
            let inside =
                |range: &Result<(u64, u64), _>| !matches!(range, Ok((at, _)) if *at >= end);
            while let Some(range) = self.ranges.next_if(inside) {
                let (from, to) = range?;
                match ranges.last_mut() {
                    Some(last) if last.end >= from => last.end = last.end.max(to),
                    _ => ranges.push(from..to),
                }
            }
            let mut whole = Vec::new();
            for Range { start: mut from, end: mut to } in ranges {
                while from < to && !self.texts.is_boundary(from)? {
                    from += 1;
                }
                while from < to && !self.texts.is_boundary(to)? {
                    to -= 1;
                }
                if from < to {
                    whole.push((from - start) as usize..(to - start) as usize);
                }
            }
            if !whole.is_empty() {
                return Ok(Some(Repeats { ordinal, ranges: whole }));
            }
        }
        Ok(None)
    }
}

impl Iterator for RepeatRanges {
    type Item = Result<Repeats, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_document().transpose()
    }
}

/// Chooses anchors: of `span` windows of `window` bytes in a row, the one of the smallest hash.
#[derive(Debug)]
struct Winnower {
    window: usize,
    span: usize,
    /// `MULTIPLIER` to the power of `window`.
    highest: u64,
    /// Hashes of the last windows with their places, ascending in both.
    queue: VecDeque<(u64, u64)>,
}

/// Multiplier of the rolling hash; odd.
const MULTIPLIER: u64 = 0xD6E8_FEB8_6659_FD93;

/// A random number for each byte.
static BYTE_VALUES: LazyLock<[u64; 256]> =
    LazyLock::new(|| std::array::from_fn(|byte| Seed(0x616E_6368).u64_at(byte as u64)));

impl Winnower {
    /// Two equal passages of `least` bytes will have an anchor in common.
    fn new(least: usize) -> Self {
        let window = least / 2;
        let highest = (0..window).fold(1u64, |power, _| power.wrapping_mul(MULTIPLIER));
        Self { window, span: least - window + 1, highest, queue: VecDeque::new() }
    }

    /// Calls `visit` with the hash and place of each anchor of `text`.
    fn anchors(
        &mut self,
        text: &[u8],
        mut visit: impl FnMut(u64, u64) -> Result<(), CorpusError>,
    ) -> Result<(), CorpusError> {
        let values = &*BYTE_VALUES;
        if text.len() < self.window + self.span - 1 {
            return Ok(());
        }
        self.queue.clear();
        let push =
            |hash: u64, byte: u8| hash.wrapping_mul(MULTIPLIER).wrapping_add(values[byte as usize]);
        let mut rolling = text[..self.window - 1].iter().fold(0, |hash, &byte| push(hash, byte));
        let mut last = None;
        for (at, &byte) in text[self.window - 1..].iter().enumerate() {
            rolling = push(rolling, byte);
            if at > 0 {
                let leaving = values[text[at - 1] as usize];
                rolling = rolling.wrapping_sub(leaving.wrapping_mul(self.highest));
            }
            let hash = splitmix64(rolling);
            // Of equal hashes the last is chosen, which depends on the passage alone.
            while self.queue.back().is_some_and(|&(other, _)| other >= hash) {
                self.queue.pop_back();
            }
            self.queue.push_back((hash, at as u64));
            while self
                .queue
                .front()
                .is_some_and(|&(_, place)| place + self.span as u64 <= at as u64)
            {
                self.queue.pop_front();
            }
            if at + 1 >= self.span {
                let anchor = *self.queue.front().expect("the newest is in it");
                if last.replace(anchor) != Some(anchor) {
                    visit(anchor.0, anchor.1)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn find(texts: &[String], min_bytes: u32, memory: u64) -> Vec<Repeats> {
        let root = tempfile::tempdir().unwrap();
        let settings = RepeatSettings { min_bytes, memory: Bytes(memory) };
        let mut finder = RepeatFinder::new(root.path(), settings).unwrap();
        for (ordinal, text) in texts.iter().enumerate() {
            finder.add(10 * ordinal as u64, text).unwrap();
        }
        let found = finder.find().unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "files are left");
        found
    }

    /// Every window of `least` bytes that stood before: in an earlier text, or in the same text
    /// and apart from it.
    fn naive(texts: &[String], least: usize) -> Vec<Repeats> {
        let mut first: HashMap<&[u8], (usize, usize)> = HashMap::new();
        let mut out = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            let mut cut = vec![false; text.len()];
            for (at, window) in text.as_bytes().windows(least).enumerate() {
                let &mut (earlier, place) = first.entry(window).or_insert((number, at));
                if earlier < number || place + least <= at {
                    cut[at..at + least].fill(true);
                }
            }
            let mut ranges = Vec::new();
            let mut at = 0;
            while at < cut.len() {
                let end = at + cut[at..].iter().take_while(|&&cut| cut).count();
                let start = (at..end).find(|&at| text.is_char_boundary(at)).unwrap_or(end);
                let stop = (start..=end).rev().find(|&at| text.is_char_boundary(at));
                if let Some(stop) = stop.filter(|&stop| stop > start) {
                    ranges.push(start..stop);
                }
                at = end + 1;
            }
            if !ranges.is_empty() {
                out.push(Repeats { ordinal: 10 * number as u64, ranges });
            }
        }
        out
    }

    fn check(texts: &[String], min_bytes: u32) {
        let expect = naive(texts, min_bytes as usize);
        for memory in [0, 1 << 30] {
            assert_eq!(find(texts, min_bytes, memory), expect, "{texts:?}");
        }
    }

    #[test]
    fn a_repeated_passage_is_cut_where_it_comes_again() {
        let passage = "Se prohíbe la reproducción total o parcial de esta obra.";
        let texts = [
            format!("Primero. {passage} Luego otra cosa."),
            format!("Segundo: {passage} Y más."),
            format!("{passage}{passage}"),
        ];
        let found = find(&texts, 40, 1 << 20);
        assert_eq!(found.len(), 2);
        assert_eq!(cut_ranges(&texts[1], &found[0].ranges), "Segundo:Y más.");
        assert_eq!(cut_ranges(&texts[2], &found[1].ranges), "");
        check(&texts, 40);
        check(&texts, 17);
    }

    #[test]
    fn one_letter_over_and_over_keeps_its_beginning() {
        let texts = ["a".repeat(1000)];
        let found = find(&texts, 50, 0);
        assert_eq!(cut_ranges(&texts[0], &found[0].ranges), "a".repeat(50));
        check(&texts, 50);
        check(&["ñ".repeat(300), "ñ".repeat(20), "xñ".repeat(90)], 33);
    }

    #[test]
    fn characters_stay_whole() {
        // The repeat begins and ends inside of characters that share a byte.
        let middle = "0123456789".repeat(3);
        let texts = [format!("á{middle}\u{e0}x"), format!("\u{121}{middle}\u{e1}y")];
        check(&texts, 16);
        let found = find(&texts, 16, 0);
        assert_eq!(cut_ranges(&texts[1], &found[0].ranges), "\u{121}\u{e1}y");
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        let settings = RepeatSettings { min_bytes: 3, memory: Bytes(0) };
        let error = RepeatFinder::new(Path::new("unused"), settings).unwrap_err().to_string();
        assert!(error.contains("dedup.repeats.min_bytes: repeats of 3 bytes"), "{error}");
    }

    proptest! {
        // Few letters and copied pieces: many overlapping repeats, also of itself.
        #[test]
        fn repeats_are_those_of_a_naive_search(
            pieces in prop::collection::vec("[abñ]{1,24}", 1..8),
            order in prop::collection::vec((0usize..8, prop::bool::weighted(0.15)), 1..60),
        ) {
            let mut texts = vec![String::new()];
            for (piece, ends) in order {
                texts.last_mut().unwrap().push_str(&pieces[piece % pieces.len()]);
                if ends {
                    texts.push(String::new());
                }
            }
            check(&texts, 20);
        }
    }
}

//! The threads that prepare a part: one reads, all prepare, one writes in the order of reading.
//!
//! Batches are numbered and written in order, and each is encoded where it was prepared, so the bytes
//! of a part do not depend on the number of threads. Permits bound the batches in flight, so memory
//! does not depend on the input.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use milpa_base::{Progress, StopFlag};

use crate::{
    CorpusConfig, CorpusError,
    part::{Encoded, Part, PartWriter},
    prepare::Preparer,
    reader::{self, Item},
    rules::Rules,
    times::{Stage, Times},
};

/// A batch ends after this many items…
const BATCH_ITEMS: usize = 64;
/// …or this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Batches in flight per thread.
const BATCHES_PER_THREAD: usize = 4;

/// What all threads share.
pub(crate) struct Workers<'a> {
    config: &'a CorpusConfig,
    rules: Rules,
    threads: usize,
    progress: &'a dyn Progress,
    stop: &'a StopFlag,
    /// Bytes of files read so far, over all parts.
    position: Arc<AtomicU64>,
}

/// Items of one file, in order.
struct Batch {
    number: u64,
    origin: Arc<str>,
    items: Vec<Item>,
}

type Message = Result<(u64, Encoded), CorpusError>;

impl<'a> Workers<'a> {
    pub(crate) fn new(
        config: &'a CorpusConfig,
        threads: usize,
        progress: &'a dyn Progress,
        stop: &'a StopFlag,
    ) -> Result<Self, CorpusError> {
        let rules = Rules::load(config)?;
        let threads = threads.max(1);
        Ok(Self { config, rules, threads, progress, stop, position: Arc::default() })
    }

    /// Counts the bytes of files that need not be read.
    pub(crate) fn pass_over(&self, bytes: u64) {
        let position = self.position.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.advance(position);
    }

    /// Prepares a part, adding the time it took to `times`.
    pub(crate) fn prepare(
        &self,
        part: &Part,
        out: &mut PartWriter,
        times: &mut Times,
    ) -> Result<(), CorpusError> {
        // Set when the writer gives up, so that the others do.
        let cancelled = AtomicBool::new(false);
        let (batch_in, batch_out) = mpsc::channel::<Batch>();
        let (encoded_in, encoded_out) = mpsc::channel::<Message>();
        let permits = self.threads * BATCHES_PER_THREAD;
        let (permit_in, permit_out) = mpsc::sync_channel::<()>(permits);
        for _ in 0..permits {
            permit_in.send(()).expect("the channel holds all permits");
        }
        let batch_out = Mutex::new(batch_out);
        let all_times = Mutex::new(Times::default());
        let add_times = |times: &Times| {
            all_times.lock().unwrap_or_else(PoisonError::into_inner).add(times);
        };
        let result = thread::scope(|scope| {
            let reader_end = encoded_in.clone();
            let (cancelled_ref, add_times) = (&cancelled, &add_times);
            scope.spawn(move || {
                let feed = Feed {
                    permits: permit_out,
                    batches: batch_in,
                    next: 0,
                    times: Times::default(),
                };
                match feed.read_all(self, part, cancelled_ref) {
                    Ok(times) => add_times(&times),
                    // A writer that is gone needs no error.
                    Err(error) => drop(reader_end.send(Err(error))),
                }
            });
            for _ in 0..self.threads {
                let (encoded_in, batch_out) = (encoded_in.clone(), &batch_out);
                scope.spawn(move || {
                    let source = &self.config.sources[part.source];
                    let mut preparer = Preparer::new(self.config, source, &self.rules);
                    loop {
                        let received =
                            batch_out.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(batch) = received else { break };
                        if cancelled_ref.load(Ordering::Relaxed) {
                            break;
                        }
                        let encoded = preparer.encode(batch.items, &batch.origin);
                        if encoded_in.send(Ok((batch.number, encoded))).is_err() {
                            break;
                        }
                    }
                    add_times(&preparer.times());
                });
            }
            drop(encoded_in);
            let result = self.write(&encoded_out, &permit_in, out);
            cancelled.store(true, Ordering::Relaxed);
            // The reader may wait for a permit that nobody gives back any more.
            drop(permit_in);
            drop(encoded_out);
            result
        });
        times.add(&all_times.into_inner().unwrap_or_else(PoisonError::into_inner));
        result
    }

    /// Writes batches in order.
    fn write(
        &self,
        encoded: &mpsc::Receiver<Message>,
        permits: &mpsc::SyncSender<()>,
        out: &mut PartWriter,
    ) -> Result<(), CorpusError> {
        let mut waiting: BTreeMap<u64, Encoded> = BTreeMap::new();
        let mut next = 0;
        while let Ok(message) = encoded.recv() {
            let (number, batch) = message?;
            waiting.insert(number, batch);
            while let Some(batch) = waiting.remove(&next) {
                if self.stop.is_set() {
                    return Err(CorpusError::Interrupted);
                }
                out.push(&batch)?;
                next += 1;
                // The reader may be done and gone; its channel still takes the permit.
                let _ = permits.try_send(());
                self.progress.advance(self.position.load(Ordering::Relaxed));
            }
        }
        if self.stop.is_set() { Err(CorpusError::Interrupted) } else { Ok(()) }
    }
}

/// Reads files and hands out batches.
struct Feed {
    permits: mpsc::Receiver<()>,
    batches: mpsc::Sender<Batch>,
    next: u64,
    times: Times,
}

impl Feed {
    fn read_all(
        mut self,
        workers: &Workers<'_>,
        part: &Part,
        cancelled: &AtomicBool,
    ) -> Result<Times, CorpusError> {
        let config = &workers.config.sources[part.source];
        let limit = config.max_documents.unwrap_or(u64::MAX);
        let max_record = workers.config.max_document.0;
        let mut documents = 0;
        for file in &part.files {
            let failed = |error| CorpusError::Source {
                source_name: config.name.clone(),
                path: file.path.clone(),
                source: error,
            };
            if documents >= limit {
                break;
            }
            let mut reader = reader::open(file, max_record, &workers.position).map_err(failed)?;
            let origin: Arc<str> = file.origin.as_str().into();
            let (mut items, mut bytes) = (Vec::new(), 0);
            while documents < limit {
                if workers.stop.is_set() || cancelled.load(Ordering::Relaxed) {
                    return Ok(self.times);
                }
                let item = self.times.run(Stage::Read, 0, || reader.next_item()).map_err(failed)?;
                let Some(item) = item else { break };
                if let Item::Record(record) = &item {
                    bytes += record.body.bytes().len();
                    self.times.add_bytes(Stage::Read, record.body.bytes().len());
                    documents += 1;
                }
                items.push(item);
                if items.len() >= BATCH_ITEMS || bytes >= BATCH_BYTES {
                    if !self.send(&origin, std::mem::take(&mut items)) {
                        return Ok(self.times);
                    }
                    bytes = 0;
                }
            }
            if !items.is_empty() && !self.send(&origin, items) {
                return Ok(self.times);
            }
        }
        Ok(self.times)
    }

    /// False if nobody listens any more.
    fn send(&mut self, origin: &Arc<str>, items: Vec<Item>) -> bool {
        if self.permits.recv().is_err() {
            return false;
        }
        let batch = Batch { number: self.next, origin: Arc::clone(origin), items };
        self.next += 1;
        self.batches.send(batch).is_ok()
    }
}

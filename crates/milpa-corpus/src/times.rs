//! How long each stage of preparing and merging took, and over how many bytes.
//!
//! Times are for reports and screens; nothing that is written to a corpus depends on them.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

macro_rules! stages {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// A stage of the work.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Stage {
            $($(#[$doc])* $variant,)*
        }

        impl Stage {
            /// All stages, in the order of a document's way.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name on screens and in reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

stages! {
    /// Files to records: decompression and framing. Bytes of records.
    Read = "read",
    /// Records to text: charset, HTTP, JSON, main text of pages. Bytes of records.
    Extract = "extract",
    /// Unicode normalisation and notices. Bytes of text.
    Normalise = "normalise",
    /// Language identification. Bytes of text.
    Language = "language",
    /// Filters. Bytes of text.
    Filter = "filter",
    /// Perplexity under n-gram models. Bytes of text.
    Perplexity = "perplexity",
    /// Looking for evaluation items. Bytes of text.
    Decontaminate = "decontaminate",
    /// Finding and masking personal data. Bytes of text.
    PersonalData = "personal data",
    /// Keys and signatures of copies. Bytes of text.
    Fingerprint = "fingerprint",
    /// Writing parts. Bytes of text.
    Spool = "spool",
    /// Finding copies among all documents. Bytes of text.
    Deduplicate = "deduplicate",
    /// Finding repeated passages. Bytes of text.
    Repeats = "repeats",
    /// Writing shards. Bytes of text.
    Write = "write",
}

const COUNT: usize = Stage::ALL.len();

/// Time and bytes of each stage, summed over threads.
#[derive(Debug, Clone, Default)]
pub struct Times([(Duration, u64); COUNT]);

/// One stage in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// Name of the stage.
    pub stage: String,
    /// Seconds, of all threads together.
    pub seconds: f64,
    /// What was read or looked at.
    pub bytes: u64,
    /// Millions of bytes per second on one thread.
    pub megabytes_per_second: f64,
}

impl Times {
    /// Runs `work` as a part of `stage`.
    pub(crate) fn run<T>(&mut self, stage: Stage, bytes: usize, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        let (time, sum) = &mut self.0[stage as usize];
        *time += begin.elapsed();
        *sum += bytes as u64;
        result
    }

    /// Counts bytes that were not known before the work.
    pub(crate) fn add_bytes(&mut self, stage: Stage, bytes: usize) {
        self.0[stage as usize].1 += bytes as u64;
    }

    /// Adds the times of another thread or part.
    pub(crate) fn add(&mut self, other: &Self) {
        for ((time, bytes), (more, more_bytes)) in self.0.iter_mut().zip(&other.0) {
            *time += *more;
            *bytes += more_bytes;
        }
    }

    /// The stages that took time.
    pub fn stages(&self) -> Vec<StageTime> {
        let row = |&stage: &Stage| {
            let (time, bytes) = self.0[stage as usize];
            let seconds = time.as_secs_f64();
            let rate = if seconds > 0.0 { bytes as f64 / seconds / 1e6 } else { 0.0 };
            StageTime { stage: stage.name().to_owned(), seconds, bytes, megabytes_per_second: rate }
        };
        Stage::ALL.iter().map(row).filter(|row| row.seconds >= 1e-4).collect()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<14}{:>10}{:>12}{:>12}", "stage", "seconds", "MB", "MB/s/core")?;
        for row in self.stages() {
            let megabytes = row.bytes as f64 / 1e6;
            let (seconds, rate) = (row.seconds, row.megabytes_per_second);
            write!(f, "\n{:<14}{seconds:>10.2}{megabytes:>12.1}{rate:>12.1}", row.stage)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_bytes_are_summed_by_stage() {
        let (mut a, mut b) = (Times::default(), Times::default());
        let wait = || std::thread::sleep(Duration::from_millis(2));
        a.run(Stage::Read, 10, wait);
        b.run(Stage::Read, 5, wait);
        b.run(Stage::Write, 7, wait);
        b.add_bytes(Stage::Write, 3);
        a.add(&b);
        let stages = a.stages();
        let rows: Vec<_> = stages.iter().map(|row| (row.stage.as_str(), row.bytes)).collect();
        assert_eq!(rows, [("read", 15), ("write", 10)]);
        assert!(a.stages()[0].seconds >= 0.004);
        assert!(a.to_string().contains("\nread "), "{a}");
    }
}

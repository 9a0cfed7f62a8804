//! What the examples time with.

use std::{fs, sync::LazyLock, time::Instant};

/// Seconds that this thread has run on a core (Linux), or that have passed elsewhere: a machine that
/// is shared with other work changes the first little.
pub(crate) fn seconds() -> f64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let begin = *BEGIN;
    fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|line| line.split(' ').next()?.parse::<f64>().ok())
        .map_or_else(|| begin.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

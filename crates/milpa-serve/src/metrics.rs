//! Counters and histograms in Prometheus' text format.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: seconds, and `_total` for
//! counters. Labels are bounded: routes come from a fixed list, statuses are numbers.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use milpa_base::ModelInfo;

/// Upper bounds of the histograms' buckets in seconds.
const FIRST_TOKEN_BOUNDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
const NEXT_TOKEN_BOUNDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
const GENERATION_BOUNDS: &[f64] =
    &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Everything that the server counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) completion_tokens: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) in_flight: AtomicI64,
    pub(crate) waiting: AtomicI64,
    pub(crate) first_token: Histogram,
    pub(crate) next_token: Histogram,
    pub(crate) generation: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            requests: Mutex::default(),
            prompt_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            waiting: AtomicI64::new(0),
            first_token: Histogram::new(FIRST_TOKEN_BOUNDS),
            next_token: Histogram::new(NEXT_TOKEN_BOUNDS),
            generation: Histogram::new(GENERATION_BOUNDS),
        }
    }

    /// Counts an answered request; `route` is one of a fixed list.
    pub(crate) fn count_request(&self, route: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
    }

    /// Writes everything in Prometheus' text format, version 0.0.4.
    pub(crate) fn render(&self, model: &ModelInfo) -> String {
        let mut out = String::with_capacity(4096);
        head(&mut out, "milpa_model_info", "gauge", "The model that is served.");
        let (name, hash) = (escape_label(&model.name), escape_label(&model.hash));
        let _ = writeln!(out, "milpa_model_info{{name=\"{name}\",hash=\"{hash}\"}} 1");

        head(&mut out, "milpa_requests_total", "counter", "Requests answered.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((route, status), count) in requests {
            let labels = format!("route=\"{route}\",status=\"{status}\"");
            let _ = writeln!(out, "milpa_requests_total{{{labels}}} {count}");
        }
        for (name, kind, help, value) in [
            (
                "milpa_prompt_tokens_total",
                "counter",
                "Tokens read in prompts.",
                self.prompt_tokens.load(Relaxed) as i64,
            ),
            (
                "milpa_completion_tokens_total",
                "counter",
                "Tokens generated.",
                self.completion_tokens.load(Relaxed) as i64,
            ),
            (
                "milpa_generations_cancelled_total",
                "counter",
                "Generations broken off because the client left, time ran out or the server ended.",
                self.cancelled.load(Relaxed) as i64,
            ),
            (
                "milpa_requests_in_flight",
                "gauge",
                "Generation requests taken in and not yet answered to the end.",
                self.in_flight.load(Relaxed),
            ),
            (
                "milpa_queue_length",
                "gauge",
                "Requests waiting for their turn.",
                self.waiting.load(Relaxed),
            ),
        ] {
            head(&mut out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
        self.first_token.render(
            &mut out,
            "milpa_time_to_first_token_seconds",
            "From a request's arrival to the first piece of its text, waiting included.",
        );
        self.next_token.render(
            &mut out,
            "milpa_inter_token_seconds",
            "Between two pieces of text; a piece is one token, rarely a few.",
        );
        self.generation.render(
            &mut out,
            "milpa_generation_seconds",
            "From the start of a generation to its end, waiting excluded.",
        );
        out
    }
}

/// Adds one to a gauge for as long as it lives.
#[derive(Debug)]
pub(crate) struct GaugeGuard {
    metrics: std::sync::Arc<Metrics>,
    gauge: fn(&Metrics) -> &AtomicI64,
}

impl GaugeGuard {
    pub(crate) fn new(
        metrics: &std::sync::Arc<Metrics>,
        gauge: fn(&Metrics) -> &AtomicI64,
    ) -> Self {
        gauge(metrics).fetch_add(1, Relaxed);
        Self { metrics: metrics.clone(), gauge }
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics).fetch_sub(1, Relaxed);
    }
}

/// A histogram with fixed buckets.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// Not cumulative; the last bucket has no upper bound.
    buckets: Vec<AtomicU64>,
    sum_nanos: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_nanos: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    /// The mean in seconds, or 0 before the first observation.
    pub(crate) fn mean(&self) -> f64 {
        let count: u64 = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum();
        self.sum_nanos.load(Relaxed) as f64 / 1e9 / count.max(1) as f64
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut total = 0;
        for (i, bucket) in self.buckets.iter().enumerate() {
            total += bucket.load(Relaxed);
            let bound = self.bounds.get(i).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(out, "{name}_sum {}", self.sum_nanos.load(Relaxed) as f64 / 1e9);
        let _ = writeln!(out, "{name}_count {total}");
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn escape_label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_cumulatively() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for millis in [50, 100, 500, 2000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut out = String::new();
        histogram.render(&mut out, "t", "Times.");
        let expect = "# HELP t Times.\n# TYPE t histogram\n\
            t_bucket{le=\"0.1\"} 2\nt_bucket{le=\"1\"} 3\nt_bucket{le=\"+Inf\"} 4\n\
            t_sum 2.65\nt_count 4\n";
        assert_eq!(out, expect);
        assert!((histogram.mean() - 0.6625).abs() < 1e-9);
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape_label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}

//! What a training has told so far, in bounded memory: curves, counts, and what happened when.
//!
//! It is made from the lines of `metrics.jsonl` alone, so that the same lines give the same views,
//! while the run is under way or years later. It knows neither clock nor screen.

use std::collections::{BTreeMap, VecDeque};

use milpa_train::Metric;

/// Most points of a curve; beyond them neighbours are put together.
const MOST_POINTS: usize = 1024;
/// Most events kept of each kind.
const MOST_EVENTS: usize = 2048;
/// Steps whose mean stands for the loss of now.
pub const RECENT_STEPS: usize = 20;

/// Kinds of events, in the order in which they are drawn.
pub const CHECKPOINT: &str = "checkpoint";
/// A step that was an outlier and changed nothing.
pub const SKIPPED: &str = "skipped step";
/// The run went back.
pub const ROLLED_BACK: &str = "rolled back";
/// The controller of forgetting did something.
pub const CONTROL: &str = "control";
/// Another process went on.
pub const RESTARTED: &str = "restarted";

/// Numbers over the steps, of which neighbours are averaged once there are many.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Steps in a bucket.
    width: usize,
    buckets: Vec<Bucket>,
    last: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// The last step in it.
    step: u64,
    sum: f64,
    count: usize,
}

impl Default for Curve {
    fn default() -> Self {
        Self { width: 1, buckets: Vec::new(), last: None }
    }
}

impl Curve {
    /// Adds a value; what is no number is left out.
    pub fn add(&mut self, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.last = Some(value);
        match self.buckets.last_mut() {
            Some(last) if last.count < self.width => {
                *last = Bucket { step, sum: last.sum + value, count: last.count + 1 };
            }
            _ => self.buckets.push(Bucket { step, sum: value, count: 1 }),
        }
        if self.buckets.len() > MOST_POINTS {
            let join = |pair: &[Bucket]| Bucket {
                step: pair[pair.len() - 1].step,
                sum: pair.iter().map(|bucket| bucket.sum).sum(),
                count: pair.iter().map(|bucket| bucket.count).sum(),
            };
            self.buckets = self.buckets.chunks(2).map(join).collect();
            self.width *= 2;
        }
    }

    /// Mean value by step.
    pub fn points(&self) -> Vec<(f64, f64)> {
        let point = |bucket: &Bucket| (bucket.step as f64, bucket.sum / bucket.count as f64);
        self.buckets.iter().map(point).collect()
    }

    /// The newest value.
    pub fn last(&self) -> Option<f64> {
        self.last
    }
}

/// Tokens read by source over the steps.
#[derive(Debug, Clone, Default)]
pub struct Mix {
    /// The sources, in the order in which they first came.
    pub sources: Vec<String>,
    /// First and last step of a row, and its tokens by source; a row may lack the last sources.
    pub rows: Vec<(u64, u64, Vec<u64>)>,
    /// Windows in a row.
    width: usize,
    /// Windows in the last row.
    filled: usize,
}

impl Mix {
    fn add(&mut self, first_step: u64, step: u64, tokens: &BTreeMap<String, u64>) {
        let mut counts = vec![0; self.sources.len()];
        for (source, tokens) in tokens {
            if let Some(index) = self.sources.iter().position(|known| known == source) {
                counts[index] = *tokens;
            } else {
                self.sources.push(source.clone());
                counts.push(*tokens);
            }
        }
        self.width = self.width.max(1);
        match self.rows.last_mut() {
            Some(last) if self.filled < self.width => {
                *last = join_rows(last, &(first_step, step, counts));
                self.filled += 1;
            }
            _ => {
                self.rows.push((first_step, step, counts));
                self.filled = 1;
            }
        }
        if self.rows.len() > MOST_POINTS {
            let join = |pair: &[(u64, u64, Vec<u64>)]| match pair {
                [one, two] => join_rows(one, two),
                rest => rest[0].clone(),
            };
            // An odd number: the last row stays as it is, and goes on to be filled.
            self.rows = self.rows.chunks(2).map(join).collect();
            self.width *= 2;
        }
    }

    /// Shares of the last row by source.
    pub fn shares(&self) -> Vec<(&str, f64)> {
        let Some((.., counts)) = self.rows.last() else { return Vec::new() };
        let total = counts.iter().sum::<u64>().max(1) as f64;
        let shares = counts.iter().map(|tokens| *tokens as f64 / total);
        self.sources.iter().map(String::as_str).zip(shares).collect()
    }
}

fn join_rows(one: &(u64, u64, Vec<u64>), two: &(u64, u64, Vec<u64>)) -> (u64, u64, Vec<u64>) {
    let count = one.2.len().max(two.2.len());
    let at = |row: &Vec<u64>, index: usize| row.get(index).copied().unwrap_or(0);
    let counts = (0..count).map(|index| at(&one.2, index) + at(&two.2, index)).collect();
    (one.0, two.1, counts)
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// At which step.
    pub step: u64,
    /// What, in a few words.
    pub text: String,
}

/// The newest step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LastStep {
    /// Counted from 1.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Nats per token.
    pub loss: f64,
    /// Of the hidden matrices.
    pub learning_rate: f64,
    /// Before clipping.
    pub gradient_norm: f64,
    /// Of this step.
    pub tokens_per_second: f64,
    /// Share of the measured peak.
    pub utilisation: f64,
    /// Most bytes of tensors so far.
    pub memory_bytes: u64,
    /// Since the process began to train.
    pub seconds: f64,
    /// Since 1970.
    pub unix_seconds: f64,
}

/// Sums over the steps that stand in the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    /// Steps.
    pub steps: u64,
    /// Of these, skipped.
    pub skipped: u64,
    /// Times that the run went back.
    pub rollbacks: u64,
    /// Checkpoints begun.
    pub checkpoints: u64,
    /// Times that another process went on.
    pub restarts: u64,
    /// Seconds of steps that the metrics count with their data.
    pub step_seconds: f64,
    /// Of these, seconds of waiting for data.
    pub data_seconds: f64,
    /// Seconds of waiting for checkpoints.
    pub stalled_seconds: f64,
    /// Times that the model was held against its base on schedule.
    pub measurements: u64,
    /// Seconds of these, and of measuring the base and the candidates at the end.
    pub measuring_seconds: f64,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The newest step.
    pub last: Option<LastStep>,
    /// Nats per token; skipped steps are left out.
    pub loss: Curve,
    /// Of the hidden matrices.
    pub learning_rate: Curve,
    /// Before clipping.
    pub gradient_norm: Curve,
    /// Tokens per second.
    pub speed: Curve,
    /// Share of the measured peak.
    pub utilisation: Curve,
    /// Validation bits per byte by source.
    pub validation: BTreeMap<String, Curve>,
    /// What a run measures of its model beside validation, in percent: `forgetting`, `adaptation`.
    pub probes: BTreeMap<&'static str, Curve>,
    /// The 95 % intervals of the last ones, in percent.
    pub probe_intervals: BTreeMap<&'static str, (f64, f64)>,
    /// Bits per byte of the text on which the model is held against its base, by domain.
    pub domains: BTreeMap<String, Curve>,
    /// Accuracy by task, 0 to 1.
    pub accuracy: BTreeMap<String, Curve>,
    /// KL from the base on general text, in nats.
    pub divergence: Curve,
    /// What was read.
    pub mix: Mix,
    /// The stage of the last window of data.
    pub stage: Option<String>,
    /// What happened, by kind.
    pub events: BTreeMap<&'static str, VecDeque<Event>>,
    /// Sums.
    pub counts: Counts,
    recent: VecDeque<f64>,
}

impl History {
    /// The history of these lines.
    pub fn of(metrics: &[Metric]) -> Self {
        let mut history = Self::default();
        for metric in metrics {
            history.add(metric);
        }
        history
    }

    /// Adds a line.
    pub fn add(&mut self, metric: &Metric) {
        self.note(metric);
        self.measure(metric);
    }

    /// Steps in [`History::recent_loss`]: 20, or fewer at the beginning.
    pub fn recent_steps(&self) -> usize {
        self.recent.len()
    }

    /// Mean loss of the last steps that were not skipped.
    pub fn recent_loss(&self) -> Option<f64> {
        let count = self.recent_steps();
        (count > 0).then(|| self.recent.iter().sum::<f64>() / count as f64)
    }

    /// Mean validation bits per byte over the sources.
    pub fn validation_mean(&self) -> Option<f64> {
        let last: Vec<f64> = self.validation.values().filter_map(Curve::last).collect();
        (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64)
    }

    /// Puts down that something happened.
    pub fn event(&mut self, kind: &'static str, step: u64, text: String) {
        let events = self.events.entry(kind).or_default();
        if events.len() == MOST_EVENTS {
            events.pop_front();
        }
        events.push_back(Event { step, text });
    }

    /// Numbers over the steps.
    fn measure(&mut self, metric: &Metric) {
        match metric {
            Metric::Step {
                step,
                tokens,
                loss,
                learning_rate,
                gradient_norm,
                skipped,
                tokens_per_second,
                mfu,
                memory_bytes,
                seconds,
                unix_seconds,
                ..
            } => {
                self.last = Some(LastStep {
                    step: *step,
                    tokens: *tokens,
                    loss: *loss,
                    learning_rate: *learning_rate,
                    gradient_norm: *gradient_norm,
                    tokens_per_second: *tokens_per_second,
                    utilisation: *mfu,
                    memory_bytes: *memory_bytes,
                    seconds: *seconds,
                    unix_seconds: *unix_seconds,
                });
                self.learning_rate.add(*step, *learning_rate);
                self.speed.add(*step, *tokens_per_second);
                self.utilisation.add(*step, *mfu);
                // What a skipped step would have done would hide all others.
                if !skipped {
                    self.loss.add(*step, *loss);
                    self.gradient_norm.add(*step, *gradient_norm);
                    if self.recent.len() == RECENT_STEPS {
                        self.recent.pop_front();
                    }
                    self.recent.push_back(*loss);
                }
            }
            Metric::Validation { step, bits_per_byte, .. } => {
                for (source, bits) in bits_per_byte {
                    self.validation.entry(source.clone()).or_default().add(*step, *bits);
                }
            }
            Metric::Data { step, first_step, stage, tokens, step_seconds, data_seconds } => {
                self.mix.add(*first_step, *step, tokens);
                self.stage.clone_from(stage);
                self.counts.step_seconds += step_seconds;
                self.counts.data_seconds += data_seconds;
            }
            Metric::Forgetting { .. } => self.measure_against_base(metric),
            Metric::Measured { seconds, .. } => self.counts.measuring_seconds += seconds,
            _ => {}
        }
    }

    /// Numbers of a measurement against the base.
    fn measure_against_base(&mut self, metric: &Metric) {
        let Metric::Forgetting {
            step,
            forgetting,
            forgetting_interval,
            adaptation,
            adaptation_interval,
            bits_per_byte,
            accuracy,
            divergence,
            seconds,
            ..
        } = metric
        else {
            return;
        };
        for (name, percent, interval) in [
            ("forgetting", forgetting, forgetting_interval),
            ("adaptation", adaptation, adaptation_interval),
        ] {
            self.probes.entry(name).or_default().add(*step, *percent);
            self.probe_intervals.remove(name);
            self.probe_intervals.extend(interval.map(|interval| (name, interval)));
        }
        for (values, curves) in [(bits_per_byte, &mut self.domains), (accuracy, &mut self.accuracy)]
        {
            for (name, (_, now)) in values {
                curves.entry(name.clone()).or_default().add(*step, *now);
            }
        }
        if let Some(nats) = divergence {
            self.divergence.add(*step, *nats);
        }
        self.counts.measurements += 1;
        self.counts.measuring_seconds += seconds;
    }

    /// What happened.
    fn note(&mut self, metric: &Metric) {
        self.counts.rollbacks += u64::from(metric.is_of_going_back());
        match metric {
            Metric::Step { step, loss, gradient_norm, skipped, seconds, .. } => {
                self.counts.steps += 1;
                if *skipped {
                    self.counts.skipped += 1;
                    let text = format!("loss {loss:.4}, norm of the gradient {gradient_norm:.3}");
                    self.event(SKIPPED, *step, text);
                }
                // The seconds begin again with each process.
                if self.last.is_some_and(|last| *seconds < last.seconds) {
                    self.counts.restarts += 1;
                    self.event(RESTARTED, *step, "another process went on from here".to_owned());
                }
            }
            Metric::Rollback { step, from_step, .. } => {
                let text = format!("from step {from_step} back to {}", step.saturating_sub(1));
                self.event(ROLLED_BACK, *step, text);
            }
            Metric::Checkpoint { step, stalled_seconds } => {
                self.counts.checkpoints += 1;
                self.counts.stalled_seconds += stalled_seconds;
                let text = format!("training waited {:.0} ms for it", stalled_seconds * 1e3);
                self.event(CHECKPOINT, *step, text);
            }
            Metric::Control { step, action, reason, .. } if action != "hold" => {
                let kind = if metric.is_of_going_back() { ROLLED_BACK } else { CONTROL };
                self.event(kind, *step, format!("{action}: {reason}"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A step as training writes it, of a loss that falls.
    pub fn step(step: u64, seconds: f64) -> Metric {
        Metric::Step {
            step,
            tokens: step * 512,
            loss: 2.0 + 6.0 / (1.0 + step as f64 / 40.0),
            z_loss: None,
            learning_rate: 1e-3 * (step as f64 / 100.0).min(1.0),
            gradient_norm: 0.5,
            skipped: step == 77,
            tokens_per_second: 8000.0,
            mfu: 0.61,
            memory_bytes: 1 << 30,
            seconds,
            unix_seconds: 1.8e9 + seconds,
            data_seconds: 0.0,
        }
    }

    /// A run of `steps` steps with everything that may befall it.
    pub fn run(steps: u64) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for at in 1..=steps {
            metrics.push(step(at, if at < 200 { at as f64 } else { at as f64 - 199.0 }));
            if at.is_multiple_of(16) {
                let share = at as f64 / steps as f64;
                let tokens = |share: f64| (8192.0 * share) as u64;
                metrics.push(Metric::Data {
                    step: at,
                    first_step: at - 15,
                    stage: Some("all".to_owned()),
                    tokens: BTreeMap::from([
                        ("leyes".to_owned(), tokens(share)),
                        ("novelas".to_owned(), tokens(1.0 - share)),
                    ]),
                    step_seconds: 16.0,
                    data_seconds: 0.016,
                });
            }
            if at.is_multiple_of(50) {
                let bits = |base: f64| base + 2.0 / (1.0 + at as f64 / 60.0);
                let values = [("leyes".to_owned(), bits(1.1)), ("novelas".to_owned(), bits(1.4))];
                metrics.push(Metric::Validation {
                    step: at,
                    loss: BTreeMap::from(values.clone()),
                    bits_per_byte: BTreeMap::from(values),
                });
            }
            if at.is_multiple_of(100) {
                metrics.push(Metric::Checkpoint { step: at, stalled_seconds: 0.012 });
            }
        }
        metrics
    }

    /// A measurement of forgetting, in percent.
    pub fn measured(step: u64, forgetting: f64) -> Metric {
        let bits = [("general/english", (1.9, 1.95)), ("law", (3.2, 2.2))];
        let bits = bits.map(|(domain, values)| (domain.to_owned(), values));
        Metric::Forgetting {
            step,
            forgetting,
            forgetting_interval: Some((forgetting - 1.5, forgetting + 1.5)),
            adaptation: 12.0,
            adaptation_interval: None,
            bits_per_byte: BTreeMap::from(bits),
            accuracy: BTreeMap::from([("mul/in_context".to_owned(), (0.25, 0.2))]),
            bits_per_byte_change: BTreeMap::new(),
            accuracy_change: BTreeMap::new(),
            divergence_interval: None,
            refused: Vec::new(),
            divergence: Some(0.02),
            seconds: 1.0,
        }
    }

    /// What the controller of forgetting did.
    pub fn control(step: u64, action: &str) -> Metric {
        Metric::Control {
            step,
            action: action.to_owned(),
            reason: "forgetting is near its limit".to_owned(),
            replay: 0.3,
            learning_rate: 0.5,
        }
    }

    #[test]
    fn forgetting_is_a_curve_and_what_its_control_did_an_event() {
        let base = Metric::Measured { step: 0, name: "base".to_owned(), seconds: 4.0 };
        let lines = [
            base,
            measured(100, 2.0),
            control(100, "hold"),
            measured(200, 6.0),
            control(200, "change"),
        ];
        let history = History::of(&lines);
        assert_eq!(history.probes["forgetting"].points(), [(100.0, 2.0), (200.0, 6.0)]);
        assert_eq!(history.probes["adaptation"].last(), Some(12.0));
        let event = Event { step: 200, text: "change: forgetting is near its limit".to_owned() };
        assert_eq!(history.events[CONTROL], [event]);
        assert_eq!(history.probe_intervals["forgetting"], (4.5, 7.5));
        assert_eq!(history.domains["general/english"].last(), Some(1.95));
        assert_eq!(history.accuracy["mul/in_context"].points(), [(100.0, 0.2), (200.0, 0.2)]);
        assert_eq!(history.divergence.last(), Some(0.02));
        assert_eq!((history.counts.measurements, history.counts.measuring_seconds), (2, 6.0));
        let back = History::of(&[control(300, "roll back")]);
        assert_eq!(back.counts.rollbacks, 1);
        assert_eq!(back.events[ROLLED_BACK].len(), 1);
        assert!(!back.events.contains_key(CONTROL));
    }

    #[test]
    fn the_newest_value_is_no_mean() {
        let mut curve = Curve::default();
        for step in 1..=3000 {
            curve.add(step, step as f64);
            assert_eq!(curve.last(), Some(step as f64));
        }
        curve.add(3001, f64::NAN);
        assert_eq!(curve.last(), Some(3000.0));
    }

    #[test]
    fn a_curve_keeps_its_mean_in_bounded_memory() {
        let mut curve = Curve::default();
        (1..=100_000).for_each(|step| curve.add(step, step as f64));
        curve.add(100_001, f64::NAN);
        let points = curve.points();
        assert!(points.len() <= MOST_POINTS && points.len() > MOST_POINTS / 4);
        assert_eq!(points.last().unwrap().0, 100_000.0);
        let sum: f64 = curve.buckets.iter().map(|bucket| bucket.sum).sum();
        assert_eq!(sum, 100_000.0 * 100_001.0 / 2.0);
        assert!(points.windows(2).all(|pair| pair[0].1 < pair[1].1));
    }

    #[test]
    fn no_token_is_lost_when_windows_are_put_together() {
        let mut mix = Mix::default();
        for window in 0..5000u64 {
            let source = if window < 100 { "first" } else { "second" };
            mix.add(window * 16 + 1, window * 16 + 16, &BTreeMap::from([(source.to_owned(), 10)]));
        }
        assert!(mix.rows.len() <= MOST_POINTS);
        let total: u64 = mix.rows.iter().flat_map(|row| &row.2).sum();
        assert_eq!(total, 50_000);
        assert!(mix.rows.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
        assert_eq!(mix.rows.last().unwrap().1, 80_000);
        assert_eq!(mix.shares(), [("first", 0.0), ("second", 1.0)]);
    }

    #[test]
    fn what_happened_is_counted() {
        let mut metrics = run(400);
        metrics.push(Metric::Rollback { step: 301, from_step: 400, batches_passed_over: 100 });
        let history = History::of(&metrics);
        let counts = history.counts;
        assert_eq!(
            (counts.steps, counts.skipped, counts.rollbacks, counts.checkpoints, counts.restarts),
            (400, 1, 1, 4, 1)
        );
        assert_eq!(history.events[RESTARTED][0].step, 200);
        assert_eq!(history.events[ROLLED_BACK][0].text, "from step 400 back to 300");
        assert_eq!(history.loss.points().len(), 399);
        assert!((history.recent_loss().unwrap() - 2.56).abs() < 0.01);
        assert_eq!(history.validation.len(), 2);
    }
}

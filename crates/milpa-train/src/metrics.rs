//! The metrics of a run as JSON lines, and the loss curve.
//!
//! One object per line. After a resume, lines of steps that will be taken again are cut off, so
//! each step stands there once; the lines that stay are written to a file beside it first, so that no
//! death loses one.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use milpa_base::{
    lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader},
    plot::{LinePlot, Series},
    write_file_atomic,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    control::{Action, ROLL_BACK},
    error::TrainError,
};

/// File of the metrics in the training folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Metric {
    /// An optimiser step.
    Step {
        /// The step, counted from 1.
        step: u64,
        /// Tokens trained on so far.
        tokens: u64,
        /// Mean cross-entropy of the step's tokens, in nats; `null` in the file if it is no number.
        #[serde(deserialize_with = "number_or_nan")]
        loss: f64,
        /// What the z-loss adds to it for the gradients, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        z_loss: Option<f64>,
        /// Learning rate of the hidden matrices.
        learning_rate: f64,
        /// Norm of the gradient before clipping; `null` in the file if it is no number.
        #[serde(deserialize_with = "number_or_nan")]
        gradient_norm: f64,
        /// Whether the step was an outlier and changed nothing.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
        /// Tokens per second of this step.
        tokens_per_second: f64,
        /// Model FLOPs utilisation of the measured peak (causal FLOPs), 0 to 1.
        mfu: f64,
        /// Most bytes of tensors held so far.
        memory_bytes: u64,
        /// Seconds since this process began to train.
        seconds: f64,
        /// Seconds since 1970 by the machine's clock.
        #[serde(default)]
        unix_seconds: f64,
        /// Seconds that the step waited for its batch.
        #[serde(default)]
        data_seconds: f64,
    },
    /// What was read in a window of steps, which ends at the latest with its stage.
    Data {
        /// The last step.
        step: u64,
        /// The first step.
        first_step: u64,
        /// The stage; absent in a run without stages.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stage: Option<String>,
        /// Tokens by source, padding included.
        tokens: BTreeMap<String, u64>,
        /// Seconds of the steps of the window that this process took.
        step_seconds: f64,
        /// Of these, seconds of waiting for data.
        data_seconds: f64,
    },
    /// The run went back to a checkpoint, and on with other data.
    Rollback {
        /// The step that is taken next.
        step: u64,
        /// Steps done when the run went back.
        from_step: u64,
        /// Batches of data passed over in all.
        batches_passed_over: u64,
    },
    /// A checkpoint was begun.
    Checkpoint {
        /// After this step.
        step: u64,
        /// Seconds that training waited for it: for the one before, and for the copy of the state.
        stalled_seconds: f64,
    },
    /// What was forgotten and learned since the base.
    Forgetting {
        /// After this step.
        step: u64,
        /// Rise of the perplexity of general text, %.
        forgetting: f64,
        /// Its 95 % interval, paired with the base.
        #[serde(default)]
        forgetting_interval: Option<(f64, f64)>,
        /// Fall of the perplexity of regional text, %.
        adaptation: f64,
        /// Its 95 % interval.
        #[serde(default)]
        adaptation_interval: Option<(f64, f64)>,
        /// Bits per byte of the base and now, by domain; general ones begin with `general/`.
        bits_per_byte: BTreeMap<String, (f64, f64)>,
        /// 95 % intervals of their change since the base, paired with it.
        #[serde(default)]
        bits_per_byte_change: BTreeMap<String, (f64, f64)>,
        /// Accuracy of the base and now, by task.
        accuracy: BTreeMap<String, (f64, f64)>,
        /// 95 % intervals of its change since the base, paired with it.
        #[serde(default)]
        accuracy_change: BTreeMap<String, (f64, f64)>,
        /// Mean KL from the base on general text, in nats, where it can be measured.
        #[serde(default)]
        divergence: Option<f64>,
        /// Its 95 % interval.
        #[serde(default)]
        divergence_interval: Option<(f64, f64)>,
        /// What could not be compared, with the reason.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<String>,
        /// Seconds that the measurement took.
        seconds: f64,
    },
    /// What a measurement took of which nothing else stands here: of the base, which each process measures
    /// when it begins, or of a candidate at the end.
    Measured {
        /// After this step.
        step: u64,
        /// "base", or the candidate's name.
        name: String,
        /// Seconds that it took.
        seconds: f64,
    },
    /// What the controller of forgetting did.
    Control {
        /// After this step; for a run that went back, the step that is taken next.
        step: u64,
        /// "hold", "change", "roll back" or "stop".
        action: String,
        /// Why.
        reason: String,
        /// Share of replay from here on.
        replay: f64,
        /// Share of the schedule's learning rate from here on.
        learning_rate: f64,
    },
    /// A measurement on the validation split.
    Validation {
        /// After this step.
        step: u64,
        /// Mean cross-entropy by source, in nats per token.
        loss: BTreeMap<String, f64>,
        /// The same in bits per byte, by the split's tokens per byte.
        bits_per_byte: BTreeMap<String, f64>,
    },
}

/// What is told of the lines of `metrics.jsonl`.
#[derive(Debug, Clone, Copy)]
pub enum Noted<'a> {
    /// These stand there: when a run begins, goes on or went back. Whatever was told before is void.
    Kept(&'a [Metric]),
    /// One more.
    Added(&'a Metric),
}

/// What is told of each line of the metrics, on the thread of the steps: it has to return at once.
pub type OnMetric<'a> = &'a dyn Fn(Noted<'_>);

/// Reads `null`, which JSON has for what is no number.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Metric {
    /// Whether it tells that the run went back to a checkpoint: after outliers, or by its controller.
    pub fn is_of_going_back(&self) -> bool {
        match self {
            Self::Rollback { .. } => true,
            Self::Control { action, .. } => action == ROLL_BACK,
            _ => false,
        }
    }

    /// The step it belongs to.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step { step, .. }
            | Self::Data { step, .. }
            | Self::Rollback { step, .. }
            | Self::Checkpoint { step, .. }
            | Self::Forgetting { step, .. }
            | Self::Measured { step, .. }
            | Self::Control { step, .. }
            | Self::Validation { step, .. } => *step,
        }
    }
}

/// What a run knows when it goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Steps done.
    pub(crate) step: u64,
    /// The last step that was held against the base.
    pub(crate) measured: Option<u64>,
    /// How often it went back.
    pub(crate) went_back: u64,
}

impl Known {
    /// Whether it knows of the next line. Lines about going back are numbered: their step is that to which
    /// the run went back, whatever was done since.
    fn knows(&mut self, metric: &Metric) -> bool {
        if metric.is_of_going_back() {
            let is_known = self.went_back > 0;
            self.went_back = self.went_back.saturating_sub(1);
            return is_known;
        }
        let is_measurement = matches!(metric, Metric::Forgetting { .. } | Metric::Control { .. });
        metric.step() < self.step
            || metric.step() == self.step && (!is_measurement || self.measured == Some(self.step))
    }
}

/// Appends to `metrics.jsonl`.
pub(crate) struct MetricsWriter<'a> {
    path: PathBuf,
    file: File,
    observer: Option<OnMetric<'a>>,
}

impl<'a> MetricsWriter<'a> {
    /// Opens the file and keeps the lines that `state` knows, which are returned as well; `observer` is told
    /// of them and of all to come. What is not known is done again: steps, a measurement after the last of
    /// them, a time that the run went back.
    pub(crate) fn open(
        dir: &Path,
        state: Known,
        observer: Option<OnMetric<'a>>,
    ) -> Result<(Self, Vec<Metric>), TrainError> {
        let path = dir.join(METRICS_FILE);
        let error = |source| TrainError::Io { path: path.clone(), source };
        let mut state = state;
        let kept: Vec<Metric> = read_metrics(dir)
            .map_err(error)?
            .into_iter()
            .filter(|metric| state.knows(metric))
            .collect();
        Ok((Self::with(dir, &kept, observer)?, kept))
    }

    /// Keeps the lines up to `step` and those about going back, whose checkpoint may be that step's.
    pub(crate) fn rewind(&mut self, dir: &Path, step: u64) -> Result<(), TrainError> {
        let error = |source| TrainError::Io { path: dir.join(METRICS_FILE), source };
        let kept: Vec<Metric> = read_metrics(dir)
            .map_err(error)?
            .into_iter()
            .filter(|metric| metric.step() <= step || metric.is_of_going_back())
            .collect();
        *self = Self::with(dir, &kept, self.observer)?;
        Ok(())
    }

    /// A file of these lines, which takes the place of the one before when it is whole.
    fn with(
        dir: &Path,
        kept: &[Metric],
        observer: Option<OnMetric<'a>>,
    ) -> Result<Self, TrainError> {
        let path = dir.join(METRICS_FILE);
        let error = |source| TrainError::Io { path: path.clone(), source };
        let mut text = Vec::new();
        for metric in kept {
            text.extend(line(metric).map_err(error)?);
        }
        write_file_atomic(&path, &text)?;
        let file = File::options().append(true).open(&path).map_err(error)?;
        if let Some(observer) = observer {
            observer(Noted::Kept(kept));
        }
        Ok(Self { path, file, observer })
    }

    /// Adds a line, which readers see at once.
    pub(crate) fn write(&mut self, metric: &Metric) -> Result<(), TrainError> {
        line(metric)
            .and_then(|line| self.file.write_all(&line))
            .map_err(|source| TrainError::Io { path: self.path.clone(), source })?;
        if let Some(observer) = self.observer {
            observer(Noted::Added(metric));
        }
        Ok(())
    }
}

/// A line of the file.
fn line(metric: &Metric) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(metric)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads the metrics of a training folder; a line that was cut by a crash is left out.
pub fn read_metrics(dir: &Path) -> io::Result<Vec<Metric>> {
    let path = dir.join(METRICS_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut reader = LineReader::open(&path, DEFAULT_MAX_LINE_BYTES)?;
    let mut metrics = Vec::new();
    while let Some(line) = reader.next_line()? {
        if let Line::Whole(line) = line
            && let Ok(metric) = serde_json::from_slice(line)
        {
            metrics.push(metric);
        }
    }
    Ok(metrics)
}

/// Seconds of all steps that stand in `metrics`: the tokens of each over its tokens per second. The first
/// line of a fork has the tokens of the run before it as well; it counts as a mean step up to there.
pub fn step_seconds(metrics: &[Metric]) -> f64 {
    let (mut seconds, mut before) = (0.0, None);
    for metric in metrics {
        if let Metric::Step { step, tokens, tokens_per_second, .. } = metric {
            let earlier = before.replace(*tokens).unwrap_or(tokens - tokens / (*step).max(1));
            if *tokens_per_second > 0.0 {
                seconds += tokens.saturating_sub(earlier) as f64 / tokens_per_second;
            }
        }
    }
    seconds
}

/// Steps that were done before the training in a folder began: those of the run that it is forked from; 0 where
/// no step stands there yet.
pub fn steps_before(dir: &Path) -> u64 {
    // A plan does not wait for what is no file, such as a pipe: no watchdog looks at it yet.
    if !dir.join(METRICS_FILE).is_file() {
        return 0;
    }
    let metrics = read_metrics(dir).unwrap_or_default();
    let first = metrics.iter().find(|metric| matches!(metric, Metric::Step { .. }));
    first.map_or(0, |step| step.step().saturating_sub(1))
}

/// Whether the controller of forgetting ended the training in a folder, and no step was taken since: what
/// it does is a function of what it measured, so it would do the same again.
pub fn was_stopped(dir: &Path) -> bool {
    let metrics = read_metrics(dir).unwrap_or_default();
    let last = metrics
        .iter()
        .rfind(|metric| matches!(metric, Metric::Step { .. } | Metric::Control { .. }));
    matches!(last, Some(Metric::Control { action, .. }) if action == Action::Stop.name())
}

/// Draws training and validation loss over the steps.
pub(crate) fn loss_curve(metrics: &[Metric]) -> String {
    let mut training = Vec::new();
    let mut validation: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for metric in metrics {
        match metric {
            // A skipped step's loss would hide all others.
            Metric::Rollback { .. }
            | Metric::Checkpoint { .. }
            | Metric::Data { .. }
            | Metric::Forgetting { .. }
            | Metric::Measured { .. }
            | Metric::Control { .. }
            | Metric::Step { skipped: true, .. } => {}
            Metric::Step { step, loss, .. } => training.push((*step as f64, *loss)),
            Metric::Validation { step, loss, .. } => {
                for (source, loss) in loss {
                    validation.entry(source).or_default().push((*step as f64, *loss));
                }
            }
        }
    }
    let mut series = vec![Series { name: "training".to_owned(), points: smooth(&training) }];
    series.extend(
        validation
            .into_iter()
            .map(|(source, points)| Series { name: format!("validation: {source}"), points }),
    );
    LinePlot {
        title: "Loss".to_owned(),
        x_label: "step".to_owned(),
        y_label: "cross-entropy (nats per token)".to_owned(),
        series,
    }
    .to_svg()
}

/// A running mean over a fiftieth of the points, so that the curve can be read.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let window = (points.len() / 50).max(1);
    points
        .windows(window)
        .map(|part| (part[part.len() - 1].0, part.iter().map(|p| p.1).sum::<f64>() / window as f64))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn validation(step: u64) -> Metric {
        let loss = BTreeMap::from([("leyes".to_owned(), step as f64)]);
        Metric::Validation { step, loss, bits_per_byte: BTreeMap::new() }
    }

    fn step(step: u64, tokens: u64, tokens_per_second: f64) -> Metric {
        Metric::Step {
            step,
            tokens,
            loss: 3.0,
            z_loss: None,
            learning_rate: 1e-3,
            gradient_norm: 0.5,
            skipped: false,
            tokens_per_second,
            mfu: 0.6,
            memory_bytes: 1,
            seconds: 1.0,
            unix_seconds: 0.0,
            data_seconds: 0.0,
        }
    }

    #[test]
    fn the_steps_of_a_fork_count_without_those_before_it() {
        let new = [step(1, 100, 50.0), step(2, 200, 25.0)];
        assert_eq!(step_seconds(&new), 6.0);
        let fork = [step(41, 4100, 50.0), validation(41), step(42, 4250, 50.0)];
        assert_eq!(step_seconds(&fork), 5.0);
        assert_eq!(step_seconds(&[]), 0.0);
    }

    fn known(step: u64) -> Known {
        Known { step, measured: None, went_back: 0 }
    }

    #[test]
    fn a_run_that_goes_on_keeps_what_it_knows() {
        let root = tempfile::tempdir().unwrap();
        let back = |step: u64| Metric::Rollback { step, from_step: 9, batches_passed_over: 1 };
        let control = |step: u64| Metric::Control {
            step,
            action: "hold".to_owned(),
            reason: String::new(),
            replay: 0.1,
            learning_rate: 1.0,
        };
        let kept = |known: Known| {
            let lines = [validation(4), control(4), back(7), back(5), validation(5), control(5)];
            MetricsWriter::with(root.path(), &lines, None).unwrap();
            MetricsWriter::open(root.path(), known, None).unwrap().1
        };
        let known = |step: u64, measured: u64, went_back: u64| Known {
            step,
            measured: Some(measured),
            went_back,
        };
        assert_eq!(kept(known(4, 4, 0)), [validation(4), control(4)]);
        // A stop within the measurement, and one right after the run went back a second time.
        assert_eq!(kept(known(4, 0, 0)), [validation(4)]);
        assert_eq!(kept(known(4, 4, 2)), [validation(4), control(4), back(7), back(5)]);
        assert_eq!(kept(known(5, 4, 1)), [validation(4), control(4), back(7), validation(5)]);
    }

    #[test]
    fn a_fork_begins_after_the_steps_of_the_run_before_it() {
        let root = tempfile::tempdir().unwrap();
        let before = |metrics: &[Metric]| {
            MetricsWriter::with(root.path(), metrics, None).unwrap();
            steps_before(root.path())
        };
        let base = Metric::Measured { step: 40, name: "base".to_owned(), seconds: 1.0 };
        assert_eq!(before(&[base.clone(), step(41, 4100, 50.0), step(42, 4200, 50.0)]), 40);
        assert_eq!(before(&[step(1, 100, 50.0), step(2, 200, 50.0)]), 0);
        assert_eq!(before(&[base]), 0);
    }

    #[test]
    fn a_death_while_lines_are_cut_off_loses_none() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        let (mut writer, _) = MetricsWriter::open(dir, known(0), None).unwrap();
        for step in 1..=4 {
            writer.write(&validation(step)).unwrap();
        }
        drop(writer);
        // Whoever has the old file open, as a process that dies, sees all of it to the end.
        let path = dir.join(METRICS_FILE);
        let (old, whole) = (dir.join("old"), fs::read(&path).unwrap());
        fs::hard_link(&path, &old).unwrap();
        let (mut writer, kept) = MetricsWriter::open(dir, known(3), None).unwrap();
        assert_eq!(kept.len(), 3);
        writer.write(&validation(7)).unwrap();
        writer.rewind(dir, 2).unwrap();
        writer.write(&validation(3)).unwrap();
        assert_eq!(fs::read(&old).unwrap(), whole);
        let steps: Vec<u64> = read_metrics(dir).unwrap().iter().map(Metric::step).collect();
        assert_eq!(steps, [1, 2, 3]);

        // The file beside it cannot be written: what stands there stays.
        fs::create_dir(dir.join(format!(".{METRICS_FILE}.partial"))).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(MetricsWriter::open(dir, known(1), None).is_err());
        assert!(writer.rewind(dir, 1).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

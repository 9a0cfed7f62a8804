//! The metrics of a training as TensorBoard reads them: an event file in `tensorboard/`.
//!
//! The file holds what `metrics.jsonl` holds and nothing twice. When a run goes on or went back, a new
//! file is made of the lines that still stand; it begins with a mark at which TensorBoard forgets what
//! it read before, and then the old file is removed. The format is TFRecord (length, masked CRC-32C,
//! data, masked CRC-32C) around two protobuf messages, `Event` and `Summary`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use milpa_train::Metric;

/// Folder of the event file in the training folder.
pub const FOLDER: &str = "tensorboard";
/// What the names of event files begin with; TensorBoard looks for it.
const PREFIX: &str = "events.out.tfevents.";
/// What ours end with, where others put the name of the machine.
const SUFFIX: &str = ".milpa";
/// Most steps in a file: of a longer run every second, third… one.
const MOST_STEPS: u64 = 50_000;

/// The event file of a run.
pub struct Events {
    file: BufWriter<File>,
    /// Steps from one that is written to the next.
    every: u64,
    /// Steps of the run.
    steps: u64,
    skipped: u64,
    /// Time of the newest step, in seconds since 1970.
    now: f64,
}

impl Events {
    /// Begins a file in `train` with the lines that stand there, in place of any earlier one. `steps` is
    /// the length of the run.
    pub fn begin(train: &Path, steps: u64, kept: &[Metric]) -> io::Result<Self> {
        let dir = train.join(FOLDER);
        fs::create_dir_all(&dir)?;
        let old = files(&dir)?;
        let newest = old.iter().filter_map(|path| number(path)).max().unwrap_or(0);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // TensorBoard reads the files in the order of their names.
        let path = dir.join(format!("{PREFIX}{:010}{SUFFIX}", clock.max(newest + 1)));
        let partial = dir.join("new.partial");
        let begun = Self::write_kept(&partial, steps, kept, clock as f64)
            .and_then(|events| fs::rename(&partial, &path).map(|()| events));
        let events = begun.inspect_err(|_| {
            // What is half-written helps nobody, and the disk may be full.
            let _ = fs::remove_file(&partial);
        })?;
        for path in old {
            fs::remove_file(path)?;
        }
        Ok(events)
    }

    fn write_kept(path: &Path, steps: u64, kept: &[Metric], clock: f64) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        let every = steps.div_ceil(MOST_STEPS).max(1);
        let now = first_time(kept).unwrap_or(clock);
        let mut events = Self { file, every, steps, skipped: 0, now };
        events.write(0, &Field::Text(3, "brain.Event:2"))?;
        // SessionLog { status: START }: whatever was read of this run before is void from step 0 on.
        events.write(0, &Field::Bytes(7, vec![0x08, 0x01]))?;
        for metric in kept {
            events.add(metric)?;
        }
        events.flush()?;
        Ok(events)
    }

    /// Adds a line of the metrics.
    pub fn add(&mut self, metric: &Metric) -> io::Result<()> {
        match metric {
            Metric::Step {
                step,
                loss,
                learning_rate,
                gradient_norm,
                skipped,
                tokens_per_second,
                mfu,
                memory_bytes,
                unix_seconds,
                ..
            } => {
                self.now = self.now.max(*unix_seconds);
                self.skipped += u64::from(*skipped);
                if !step.is_multiple_of(self.every) && *step != self.steps {
                    return Ok(());
                }
                let mut values = vec![
                    ("train/learning_rate".to_owned(), *learning_rate),
                    ("train/skipped_steps".to_owned(), self.skipped as f64),
                    ("speed/tokens_per_second".to_owned(), *tokens_per_second),
                    ("speed/mfu".to_owned(), *mfu),
                    ("memory/peak_bytes".to_owned(), *memory_bytes as f64),
                ];
                // What a skipped step would have done would hide all others.
                if !skipped {
                    values.push(("train/loss".to_owned(), *loss));
                    values.push(("train/gradient_norm".to_owned(), *gradient_norm));
                }
                self.values(*step, values)
            }
            Metric::Validation { step, loss, bits_per_byte } => {
                let bits = bits_per_byte
                    .iter()
                    .map(|(source, bits)| (format!("validation_bits_per_byte/{source}"), *bits));
                let loss =
                    loss.iter().map(|(source, loss)| (format!("validation_loss/{source}"), *loss));
                self.values(*step, bits.chain(loss).collect())
            }
            Metric::Data { step, tokens, step_seconds, data_seconds, .. } => {
                let total = tokens.values().sum::<u64>().max(1) as f64;
                let mut values: Vec<(String, f64)> = tokens
                    .iter()
                    .map(|(source, tokens)| {
                        (format!("data_share/{source}"), *tokens as f64 / total)
                    })
                    .collect();
                let wait = data_seconds / step_seconds.max(f64::MIN_POSITIVE);
                values.push(("speed/data_wait_share".to_owned(), wait));
                self.values(*step, values)
            }
            other => self.add_other(other),
        }
    }

    /// Adds what comes now and then.
    fn add_other(&mut self, metric: &Metric) -> io::Result<()> {
        let (step, values) = match metric {
            Metric::Checkpoint { step, stalled_seconds } => {
                (step, vec![("speed/checkpoint_stall_seconds", *stalled_seconds)])
            }
            Metric::Forgetting { step, .. } => return self.values(*step, against_base(metric)),
            Metric::Control { step, replay, learning_rate, .. } => (
                step,
                vec![
                    ("control/replay_share", *replay),
                    ("control/learning_rate_share", *learning_rate),
                ],
            ),
            _ => return Ok(()),
        };
        self.values(*step, values.into_iter().map(|(tag, value)| (tag.to_owned(), value)).collect())
    }

    /// Hands what was added to the system, where TensorBoard sees it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn values(&mut self, step: u64, values: Vec<(String, f64)>) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut one = Vec::new();
            Field::Text(1, &tag).encode(&mut one);
            Field::Float(2, value as f32).encode(&mut one);
            Field::Bytes(1, one).encode(&mut summary);
        }
        self.write(step, &Field::Bytes(5, summary))
    }

    /// Writes an `Event` with its time, step and one more field.
    fn write(&mut self, step: u64, what: &Field<'_>) -> io::Result<()> {
        let mut event = Vec::new();
        Field::Double(1, self.now).encode(&mut event);
        if step > 0 {
            Field::Number(2, step).encode(&mut event);
        }
        what.encode(&mut event);
        let length = (event.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked_crc32c(&length).to_le_bytes())?;
        self.file.write_all(&event)?;
        self.file.write_all(&masked_crc32c(&event).to_le_bytes())
    }
}

/// A measurement against the base, with the ends of its 95 % intervals: those of bits per byte and of
/// accuracy are of their change since the base.
fn against_base(metric: &Metric) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    let Metric::Forgetting {
        forgetting,
        forgetting_interval,
        adaptation,
        adaptation_interval,
        bits_per_byte,
        bits_per_byte_change,
        accuracy,
        accuracy_change,
        divergence,
        divergence_interval,
        ..
    } = metric
    else {
        return values;
    };
    for (name, value, interval) in [
        ("forgetting_percent", Some(*forgetting), forgetting_interval),
        ("adaptation_percent", Some(*adaptation), adaptation_interval),
        ("kl_to_base_nats", *divergence, divergence_interval),
    ] {
        values.extend(value.map(|value| (format!("forgetting/{name}"), value)));
        if let Some((low, high)) = interval {
            values.push((format!("forgetting/{name}_low"), *low));
            values.push((format!("forgetting/{name}_high"), *high));
        }
    }
    for (name, measured, change) in [
        ("measured_bits_per_byte", bits_per_byte, bits_per_byte_change),
        ("accuracy", accuracy, accuracy_change),
    ] {
        for (of, (_, now)) in measured {
            values.push((format!("{name}/{of}"), *now));
        }
        for (of, (low, high)) in change {
            values.push((format!("{name}_change_low/{of}"), *low));
            values.push((format!("{name}_change_high/{of}"), *high));
        }
    }
    values
}

/// The event files of ours in a folder.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if number(&path).is_some() {
            found.push(path);
        }
    }
    Ok(found)
}

/// The number in an event file's name; `None` for any other file.
fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

fn first_time(metrics: &[Metric]) -> Option<f64> {
    metrics.iter().find_map(|metric| match metric {
        Metric::Step { unix_seconds, .. } if *unix_seconds > 0.0 => Some(*unix_seconds),
        _ => None,
    })
}

/// A field of a protobuf message: its number and value.
enum Field<'a> {
    Double(u8, f64),
    Float(u8, f32),
    Number(u8, u64),
    Text(u8, &'a str),
    Bytes(u8, Vec<u8>),
}

impl Field<'_> {
    fn encode(&self, to: &mut Vec<u8>) {
        let mut prefixed = |number: &u8, bytes: &[u8]| {
            to.push((number << 3) | 2);
            varint(bytes.len() as u64, to);
            to.extend_from_slice(bytes);
        };
        match self {
            Field::Double(number, value) => {
                to.push((number << 3) | 1);
                to.extend_from_slice(&value.to_le_bytes());
            }
            Field::Float(number, value) => {
                to.push((number << 3) | 5);
                to.extend_from_slice(&value.to_le_bytes());
            }
            Field::Number(number, value) => {
                to.push(number << 3);
                varint(*value, to);
            }
            Field::Text(number, text) => prefixed(number, text.as_bytes()),
            Field::Bytes(number, bytes) => prefixed(number, bytes),
        }
    }
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push((value as u8) | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// CRC-32C (Castagnoli), rotated and shifted as TFRecord does, so that a sum over sums stays a sum.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)])
}

/// Remainders of all bytes by the reversed polynomial 0x82f63b78.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::history::tests::run;

    /// RFC 3720, B.4, and the check value of CRC-32C.
    #[test]
    fn sums_are_those_of_the_standard() {
        let check = |bytes: &[u8], expect: u32| assert_eq!(crc32c(bytes), expect);
        check(b"123456789", 0xe306_9283);
        check(&[0; 32], 0x8a91_36aa);
        check(&[0xff; 32], 0x62a8_ab43);
        check(&std::array::from_fn::<u8, 32, _>(|index| index as u8), 0x46dd_794e);
        check(b"", 0);
    }

    /// Steps in the records of a file that hold a summary, each record's sums checked.
    fn steps(path: &Path) -> Vec<u64> {
        let bytes = fs::read(path).unwrap();
        let (mut rest, mut steps) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let sum = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(sum(8), masked_crc32c(&rest[..8]));
            let event = &rest[12..12 + length];
            assert_eq!(sum(12 + length), masked_crc32c(event));
            // Nine bytes of time, then the step where it is not 0.
            if event[9] == 0x10 {
                let mut step = 0;
                for (index, byte) in event[10..].iter().enumerate() {
                    step |= u64::from(byte & 0x7f) << (7 * index);
                    if byte & 0x80 == 0 {
                        break;
                    }
                }
                steps.push(step);
            }
            rest = &rest[16 + length..];
        }
        steps
    }

    #[test]
    fn a_run_that_goes_on_has_each_step_once_in_one_file() {
        let root = tempfile::tempdir().unwrap();
        let metrics = run(400);
        let mut events = Events::begin(root.path(), 400, &metrics[..100]).unwrap();
        metrics[100..200].iter().for_each(|metric| events.add(metric).unwrap());
        events.flush().unwrap();
        let one = |root: &Path| {
            let found = files(&root.join(FOLDER)).unwrap();
            assert_eq!(found.len(), 1);
            found.into_iter().next().unwrap()
        };
        let before = one(root.path());
        // Cut, and on from an earlier checkpoint.
        let mut events = Events::begin(root.path(), 400, &metrics[..150]).unwrap();
        metrics[150..].iter().for_each(|metric| events.add(metric).unwrap());
        events.flush().unwrap();
        let now = one(root.path());
        assert!(now > before);
        let expect: Vec<u64> = metrics.iter().map(Metric::step).collect();
        assert_eq!(steps(&now), expect);
        assert_eq!(fs::read_dir(root.path().join(FOLDER)).unwrap().count(), 1);
    }

    #[test]
    fn of_a_long_run_not_every_step_is_written() {
        let root = tempfile::tempdir().unwrap();
        let mut events = Events::begin(root.path(), 200_003, &[]).unwrap();
        let step = crate::watch::history::tests::step;
        (1..=40).chain([200_003]).for_each(|at| events.add(&step(at, 1.0)).unwrap());
        events.flush().unwrap();
        let path = files(&root.path().join(FOLDER)).unwrap().remove(0);
        assert_eq!(steps(&path), [5, 10, 15, 20, 25, 30, 35, 40, 200_003]);
    }

    #[test]
    fn a_measurement_against_the_base_is_there_in_full() {
        let root = tempfile::tempdir().unwrap();
        let mut metric = crate::watch::history::tests::measured(8, 3.0);
        let Metric::Forgetting { bits_per_byte_change, divergence_interval, .. } = &mut metric
        else {
            unreachable!()
        };
        bits_per_byte_change.insert("law".to_owned(), (-1.25, -0.75));
        *divergence_interval = Some((0.01, 0.03));
        Events::begin(root.path(), 8, &[metric]).unwrap();
        let bytes = fs::read(files(&root.path().join(FOLDER)).unwrap().remove(0)).unwrap();
        let value = |tag: &str| {
            // A tag with its length, then a number of four bytes.
            let field = [&[tag.len() as u8], tag.as_bytes(), &[0x15]].concat();
            let at = bytes.windows(field.len()).position(|window| window == field);
            let at = at.unwrap_or_else(|| panic!("there is no {tag}")) + field.len();
            f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
        };
        for (tag, expect) in [
            ("forgetting/forgetting_percent", 3.0),
            ("forgetting/forgetting_percent_low", 1.5),
            ("forgetting/forgetting_percent_high", 4.5),
            ("forgetting/adaptation_percent", 12.0),
            ("forgetting/kl_to_base_nats", 0.02),
            ("forgetting/kl_to_base_nats_low", 0.01),
            ("forgetting/kl_to_base_nats_high", 0.03),
            ("measured_bits_per_byte/general/english", 1.95),
            ("measured_bits_per_byte/law", 2.2),
            ("measured_bits_per_byte_change_low/law", -1.25),
            ("measured_bits_per_byte_change_high/law", -0.75),
            ("accuracy/mul/in_context", 0.2),
        ] {
            assert_eq!(value(tag), expect, "{tag}");
        }
    }
}

//! Tables of timed runs: readers that refuse what does not add up.
//!
//! vTrain's tables come from files; published points are part of the crate (`data/published.csv`,
//! `data/published_memory.csv`). It knows no time model.

use std::{collections::BTreeMap, str::FromStr};

use milpa_base::Bytes;

use crate::{
    Device, Dtype, ModelShape, PlanError,
    fit::MeasuredRun,
    layout::{Batch, ClusterRun, Layout, NumberFormats, Recompute},
};

/// Reads a table of vTrain's measured runs (`ground_truth_multi.csv`, `ground_truth_single.csv`).
///
/// GPT models on A100, Megatron-DeepSpeed with full recomputation; the vocabulary is Megatron's. The
/// group of a run is its model's hidden size and layers.
///
/// # Errors
/// [`PlanError::BadTable`] for a missing column, a value that is no number, or a run that cannot be.
pub fn read_vtrain(text: &str, path: &str) -> Result<Vec<MeasuredRun>, PlanError> {
    let device = Device::named("a100-80g")?;
    let columns = [
        "# GPUs",
        "global batch",
        "micro batch",
        "hidden size",
        "attention heads",
        "# layers",
        "sequence length",
        "tensor parallelism",
        "data parallelism",
        "pipeline parallelism",
        "iteration time (ms)",
    ];
    let mut runs = Vec::new();
    for row in read_rows(text, path, &columns)? {
        let [
            devices,
            sequences,
            micro_batch,
            hidden,
            heads,
            layers,
            length,
            tensor,
            data,
            pipeline,
        ] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|column| row.count(columns[column]));
        let (sequences, micro_batch) = (sequences?, micro_batch?);
        let (hidden, layers, length) = (hidden?, layers?, length?);
        let run = ClusterRun {
            model: ModelShape::gpt(hidden, layers, heads?, 51200, length),
            device: device.clone(),
            layout: Layout {
                data: data?,
                tensor: tensor?,
                pipeline: pipeline?,
                micro_batch,
                recompute: Recompute::Full,
                ..Layout::SINGLE
            },
            batch: Batch { sequence_length: length, sequences },
            formats: NumberFormats::MIXED,
        };
        run.check().map_err(|error| row.bad(error.to_string()))?;
        if run.layout.devices() != devices? {
            return Err(row.bad(format!("the degrees make {} devices", run.layout.devices())));
        }
        runs.push(MeasuredRun {
            seconds: row.positive("iteration time (ms)")? / 1e3,
            group: format!("h {hidden}, {layers} layers"),
            label: format!(
                "h {hidden} L {layers} t{} d{} p{} micro-batch {micro_batch}",
                run.layout.tensor, run.layout.data, run.layout.pipeline
            ),
            run,
        });
    }
    Ok(runs)
}

/// Published throughput of `TorchTitan`, Megatron, Llama 3 and Kempner (`data/published.csv`).
///
/// The group of a run is its publication.
pub fn published_runs() -> Vec<MeasuredRun> {
    let path = "data/published.csv";
    read_published(include_str!("../data/published.csv"), path)
        .expect("data/published.csv is checked by a test")
}

fn read_published(text: &str, path: &str) -> Result<Vec<MeasuredRun>, PlanError> {
    let columns = ["publication", "label", "unit", "value", "source"];
    let columns: Vec<&str> = columns.into_iter().chain(RUN_COLUMNS).collect();
    read_rows(text, path, &columns)?
        .iter()
        .map(|row| {
            let run = row.run()?;
            Ok(MeasuredRun {
                seconds: row.seconds(&run)?,
                group: row.text("publication").to_owned(),
                label: row.text("label").to_owned(),
                run,
            })
        })
        .collect()
}

/// A run whose peak memory was published.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredMemory {
    /// What ran.
    pub run: ClusterRun,
    /// Peak of the fullest device.
    pub memory: Bytes,
    /// Whether the peak is of what the allocator reserved, or of the tensors in it.
    pub reserved: bool,
    /// The publication.
    pub group: String,
    /// A name for tables.
    pub label: String,
}

/// Published peak memory of `TorchTitan` and Kempner (`data/published_memory.csv`).
pub fn published_memory() -> Vec<MeasuredMemory> {
    let path = "data/published_memory.csv";
    read_memory(include_str!("../data/published_memory.csv"), path)
        .expect("data/published_memory.csv is checked by a test")
}

fn read_memory(text: &str, path: &str) -> Result<Vec<MeasuredMemory>, PlanError> {
    let columns = [
        "publication",
        "label",
        "weight bytes",
        "gradient bytes",
        "state bytes",
        "logit bytes",
        "reading",
        "gib",
    ];
    let columns: Vec<&str> = columns.into_iter().chain(RUN_COLUMNS).collect();
    read_rows(text, path, &columns)?
        .iter()
        .map(|row| {
            let mut run = row.run()?;
            let state_bytes = row.count("state bytes")?;
            run.formats = NumberFormats {
                compute: run.formats.compute,
                weight_bytes: row.count("weight bytes")?,
                gradient_bytes: row.count("gradient bytes")?,
                matrix_state_bytes: state_bytes,
                other_state_bytes: state_bytes,
                logit_bytes: row.count("logit bytes")?,
            };
            let reserved = match row.text("reading") {
                "reserved" => true,
                "allocated" => false,
                other => return Err(row.bad(format!("{other:?} is no reading of memory"))),
            };
            Ok(MeasuredMemory {
                run,
                reserved,
                memory: Bytes((row.positive("gib")? * (1u64 << 30) as f64) as u64),
                group: row.text("publication").to_owned(),
                label: row.text("label").to_owned(),
            })
        })
        .collect()
}

/// Columns that describe a run.
const RUN_COLUMNS: [&str; 20] = [
    "model",
    "device",
    "data",
    "tensor",
    "pipeline",
    "context",
    "sequence parallel",
    "overlap tensor",
    "joint inputs",
    "vocabulary parallel",
    "compiled",
    "zero",
    "recompute",
    "attention",
    "micro-batch",
    "interleave",
    "schedule",
    "length",
    "sequences",
    "format",
];

impl Row<'_> {
    /// The run that [`RUN_COLUMNS`] describe.
    fn run(&self) -> Result<ClusterRun, PlanError> {
        let name = |problem: PlanError| self.bad(problem.to_string());
        let compute: Dtype = self.parse("format")?;
        let run = ClusterRun {
            model: ModelShape::published(self.text("model")).map_err(name)?,
            device: Device::named(self.text("device")).map_err(name)?,
            layout: Layout {
                data: self.count("data")?,
                tensor: self.count("tensor")?,
                pipeline: self.count("pipeline")?,
                context: self.count("context")?,
                sequence_parallel: self.text("sequence parallel") == "1",
                overlap_tensor: self.text("overlap tensor") == "1",
                joint_inputs: self.text("joint inputs") == "1",
                vocabulary_parallel: self.text("vocabulary parallel") == "1",
                compiled: self.text("compiled") == "1",
                zero: self.parse("zero")?,
                recompute: self.parse("recompute")?,
                attention: self.parse("attention")?,
                micro_batch: self.count("micro-batch")?,
                interleave: self.count("interleave")?,
                schedule: self.parse("schedule")?,
            },
            batch: Batch {
                sequence_length: self.count("length")?,
                sequences: self.count("sequences")?,
            },
            formats: NumberFormats { compute, ..NumberFormats::FSDP },
        };
        run.check().map_err(name)?;
        Ok(run)
    }

    /// Seconds of a step from whatever unit was published.
    fn seconds(&self, run: &ClusterRun) -> Result<f64, PlanError> {
        let value = self.positive("value")?;
        let length = run.batch.sequence_length;
        let palm = run.model.train_flops_per_token_palm(length);
        let tokens_per_second = match self.text("unit") {
            "tokens" => value,
            "tflops" => value * 1e12 / palm,
            "tflops-causal" => value * 1e12 / run.model.train_flops_per_token_causal(length),
            "mfu" => value / 100.0 * run.device.peak(Dtype::Bf16)? / palm,
            other => return Err(self.bad(format!("{other:?} is no unit of throughput"))),
        };
        Ok(run.batch.tokens() as f64 / run.layout.devices() as f64 / tokens_per_second)
    }

    /// A name of an enumeration.
    fn parse<T: FromStr<Err = PlanError>>(&self, column: &str) -> Result<T, PlanError> {
        self.text(column).parse().map_err(|error: PlanError| self.bad(error.to_string()))
    }
}

/// A row of a table with its line number.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    path: &'a str,
    line: usize,
    cells: BTreeMap<String, &'a str>,
}

impl<'a> Row<'a> {
    pub(crate) fn text(&self, column: &str) -> &'a str {
        self.cells.get(column).copied().unwrap_or_default()
    }

    pub(crate) fn count(&self, column: &str) -> Result<u64, PlanError> {
        let value = self.positive(column)?;
        // Some tables write counts as 8.0.
        if value.fract() != 0.0 || value > 1e9 {
            return Err(self.bad(format!("{column} is {value}, not a whole number up to 10^9")));
        }
        Ok(value as u64)
    }

    pub(crate) fn positive(&self, column: &str) -> Result<f64, PlanError> {
        let text = self.text(column);
        match text.parse::<f64>() {
            Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
            _ => {
                let shown: String = text.chars().take(40).collect();
                Err(self.bad(format!("{column} is {shown:?}, not a positive number")))
            }
        }
    }

    pub(crate) fn bad(&self, problem: String) -> PlanError {
        bad(self.path, self.line, problem)
    }
}

fn bad(path: &str, line: usize, problem: String) -> PlanError {
    let remedy = "correct or remove the row".to_owned();
    PlanError::BadTable { path: path.to_owned(), line, problem, remedy }
}

/// Rows of a comma-separated table without quotes; all of `columns` must be there.
pub(crate) fn read_rows<'a>(
    text: &'a str,
    path: &'a str,
    columns: &[&str],
) -> Result<Vec<Row<'a>>, PlanError> {
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("#,") && !line.starts_with("# ,") && !is_comment(line)
    });
    let Some((_, header)) = lines.next() else {
        return Err(PlanError::BadTable {
            path: path.to_owned(),
            line: 1,
            problem: "the table is empty".to_owned(),
            remedy: format!("it needs the columns {}", columns.join(", ")),
        });
    };
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    if let Some(missing) = columns.iter().find(|column| !names.contains(column)) {
        return Err(PlanError::BadTable {
            path: path.to_owned(),
            line: 1,
            problem: format!("there is no column {missing:?}"),
            remedy: format!("it needs the columns {}", columns.join(", ")),
        });
    }
    lines
        .map(|(index, line)| {
            let cells: Vec<&str> = line.split(',').map(str::trim).collect();
            if cells.len() != names.len() {
                let problem = format!("{} cells under {} columns", cells.len(), names.len());
                return Err(bad(path, index + 1, problem));
            }
            let cells = names.iter().map(|name| (*name).to_owned()).zip(cells).collect();
            Ok(Row { path, line: index + 1, cells })
        })
        .collect()
}

/// Comments begin with "##"; "# GPUs" is a column.
fn is_comment(line: &str) -> bool {
    line.starts_with("##")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\u{feff}# GPUs,global batch,micro batch,hidden size,attention heads,# layers,\
        sequence length,tensor parallelism,data parallelism,pipeline parallelism,iteration time (ms)\n\
        2,16,8,1024,16,24,1024,1,1,2,372.160408\n";

    #[test]
    fn a_table_is_read() {
        let runs = read_vtrain(TABLE, "t.csv").unwrap();
        assert_eq!((runs[0].run.layout.pipeline, runs[0].run.micro_batches()), (2, 2));
        assert!((runs[0].seconds - 0.372_160_408).abs() < 1e-12);
    }

    #[test]
    fn published_runs_are_possible_and_of_known_models() {
        assert!(published_memory().len() > 40);
        let runs = published_runs();
        assert!(runs.len() > 50, "{}", runs.len());
        // TorchTitan: 8B on 8 GPUs, 6,667 tokens/s of each GPU, 16 sequences of 8,192 tokens.
        assert!((runs[0].seconds - 16.0 * 8192.0 / 8.0 / 6667.0).abs() < 1e-9);
    }

    #[test]
    fn broken_tables_are_refused_with_file_and_line() {
        let check = |from: &str, to: &str, expect: &str| {
            let error = read_vtrain(&TABLE.replace(from, to), "t.csv").unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("372.160408", "-1", "t.csv, line 2: iteration time (ms) is \"-1\"");
        check("372.160408", "nan", "not a positive number");
        check("2,16,8", "3,16,8", "the degrees make 2 devices");
        check("2,16,8", "2,15,8", "take 16");
        check(",# layers", ",layers", "no column \"# layers\"");
        check("1,1,2,", "1,2,", "10 cells under 11 columns");
        assert!(read_vtrain("", "t.csv").unwrap_err().to_string().contains("empty"));
    }
}

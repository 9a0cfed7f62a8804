//! The report of an evaluation: data for programs, a table for a terminal, plots for a page.
//!
//! Each score stands with its task version, template, model hash and interval. It computes
//! nothing but what it shows.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    path::Path,
};

use milpa_base::{
    ArtifactWriter, Digest, EndpointRecord, Kind, Manifest, ModelInfo, Seed,
    artifact::Record,
    lines::{Line, LineReader},
    plot::{Bar, BarPlot},
    units::{binary_bytes, duration, si},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    config::EvalConfig,
    error::EvalError,
    items::Skips,
    multiple_choice::{GroupResult, ItemResult, MetricResult, TaskResult},
    perplexity::{PerplexityReport, ResampledUnit, SourcePerplexity, TextResult},
    samples::Sample,
    statistics::{Interval, LEVEL, Method, rule_of_three},
    task::PromptStyle,
};

/// Layout version of `report.json`.
pub const REPORT_FORMAT: u32 = 1;
/// File names inside an evaluation artifact.
pub const REPORT_FILE: &str = "report.json";
/// The per-item results, one JSON object a line.
pub const ITEMS_FILE: &str = "items.jsonl";
/// The per-text results, one JSON object a line.
pub const TEXTS_FILE: &str = "texts.jsonl";
/// Longest report that is read, in bytes.
const MAX_REPORT_BYTES: u64 = 64 << 20;
/// Longest line of `items.jsonl`, in bytes.
const MAX_RESULT_BYTES: usize = 4 << 20;

/// Everything that an evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalReport {
    /// Layout version, [`REPORT_FORMAT`].
    pub format: u32,
    /// Version of the program.
    pub milpa_version: String,
    /// The command line that does it again.
    pub command_line: String,
    /// The model that was measured.
    pub model: ModelInfo,
    /// Seed of everything drawn, but for samples, which name their own.
    pub seed: Seed,
    /// Nominal coverage of every interval.
    pub level: f64,
    /// Bootstrap replicates behind each resampled interval.
    pub bootstrap_replicates: usize,
    /// Held-out text.
    pub perplexity: Option<PerplexityReport>,
    /// Multiple choice.
    pub tasks: Vec<TaskResult>,
    /// Tasks of kind perplexity.
    pub text_tasks: Vec<TextTaskResult>,
    /// Generated samples.
    pub samples: Vec<Sample>,
    /// What an endpoint was asked, where the model is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointRecord>,
    /// What the model cannot tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<Unavailable>,
    /// Seconds it took.
    pub wall_seconds: f64,
}

/// A metric that takes more than the model tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unavailable {
    /// The task, or the held-out text.
    pub metric: String,
    /// Why.
    pub reason: String,
}

/// The result of a task of kind perplexity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTaskResult {
    /// Name of the task.
    pub task: String,
    /// Version of the task.
    pub version: u32,
    /// Lines that were left out, by reason.
    pub skips: Skips,
    /// What was measured.
    pub report: PerplexityReport,
}

/// A report with the results of the single items behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The report.
    pub report: EvalReport,
    /// Every scored item, task after task.
    pub items: Vec<ItemResult>,
    /// Every predicted text, held-out text before tasks.
    pub texts: Vec<TextResult>,
}

impl Evaluation {
    /// Writes the evaluation artifact: `report.json`, `report.txt`, `items.jsonl`, `texts.jsonl`,
    /// `plots/*.svg`.
    /// `inputs` are the hashes of model, held-out text and data files by name.
    pub fn write(
        &self,
        target: &Path,
        config: &EvalConfig,
        inputs: BTreeMap<String, Digest>,
    ) -> Result<Manifest, EvalError> {
        let writer = ArtifactWriter::begin(target, Kind::Evaluation)?;
        let mut json = to_json(&self.report);
        json.push('\n');
        writer.write(REPORT_FILE, json.as_bytes())?;
        writer.write("report.txt", self.report.to_string().as_bytes())?;
        writer.write(ITEMS_FILE, to_jsonl(&self.items).as_bytes())?;
        writer.write(TEXTS_FILE, to_jsonl(&self.texts).as_bytes())?;
        for (name, svg) in self.report.plots() {
            writer.write(&format!("plots/{name}.svg"), svg.as_bytes())?;
        }
        let mut record = Record::new("eval", config, inputs)?;
        record.licences = self.report.tasks.iter().map(|task| task.licence.clone()).collect();
        record.counts.insert("items".to_owned(), self.items.len() as u64);
        if let Some(perplexity) = &self.report.perplexity {
            record.counts.insert("documents".to_owned(), perplexity.documents);
            record.counts.insert("bytes".to_owned(), perplexity.bytes.0);
            record.counts.insert("tokens".to_owned(), perplexity.tokens.0);
        }
        Ok(writer.finish(record)?)
    }
}

/// Rows as JSON, one a line.
fn to_jsonl<T: Serialize>(rows: &[T]) -> String {
    rows.iter().fold(String::new(), |mut lines, row| {
        lines.push_str(&serde_json::to_string(row).expect("plain data serialises"));
        lines.push('\n');
        lines
    })
}

fn to_json(report: &EvalReport) -> String {
    serde_json::to_string_pretty(report).expect("plain data serialises")
}

/// Reads `report.json` of an evaluation artifact.
pub fn read_report(dir: &Path) -> Result<EvalReport, EvalError> {
    let path = dir.join(REPORT_FILE);
    let read_error = |source| EvalError::Read { path: path.clone(), source };
    let bad = |message: String| EvalError::BadReport { path: path.clone(), message };
    let length = fs::metadata(&path).map_err(read_error)?.len();
    if length > MAX_REPORT_BYTES {
        return Err(bad(format!("it has {length} bytes")));
    }
    let bytes = fs::read(&path).map_err(read_error)?;
    let report: EvalReport =
        serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if report.format != REPORT_FORMAT {
        return Err(bad(format!(
            "its format is {}, this milpa reads {REPORT_FORMAT}",
            report.format
        )));
    }
    Ok(report)
}

/// Reads the per-item results of an evaluation artifact, or of any such JSONL file.
pub fn read_item_results(path: &Path) -> Result<Vec<ItemResult>, EvalError> {
    read_jsonl(path, ITEMS_FILE)
}

/// Reads the per-text results of an evaluation artifact, or of any such JSONL file.
pub fn read_text_results(path: &Path) -> Result<Vec<TextResult>, EvalError> {
    read_jsonl(path, TEXTS_FILE)
}

/// Reads the rows of `path`, or of the file called `name` in the folder `path`.
fn read_jsonl<T: DeserializeOwned>(path: &Path, name: &str) -> Result<Vec<T>, EvalError> {
    let path = if path.is_dir() { path.join(name) } else { path.to_owned() };
    let read_error = |source| EvalError::Read { path: path.clone(), source };
    let mut reader = LineReader::open(&path, MAX_RESULT_BYTES).map_err(read_error)?;
    let mut rows = Vec::new();
    while let Some(line) = reader.next_line().map_err(read_error)? {
        let parsed = match line {
            Line::Whole(bytes) => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            Line::TooLong { bytes } => Err(format!("the line has {bytes} bytes")),
        };
        rows.push(parsed.map_err(|message| EvalError::BadReport {
            path: path.clone(),
            message: format!("line {}: {message}", reader.line_number()),
        })?);
    }
    Ok(rows)
}

impl EvalReport {
    /// The plots by file name without its end: bits per byte, and one for each task.
    pub fn plots(&self) -> Vec<(String, String)> {
        let mut plots = Vec::new();
        if let Some(perplexity) = &self.perplexity {
            let plot = bits_per_byte_plot(perplexity, &self.model.name);
            plots.push(("bits_per_byte".to_owned(), plot.to_svg()));
        }
        plots.extend(self.text_tasks.iter().map(|task| {
            (file_name(&task.task), bits_per_byte_plot(&task.report, &self.model.name).to_svg())
        }));
        plots.extend(self.tasks.iter().map(|task| {
            let name = format!("{}_{}", file_name(&task.task), task.style.name());
            (name, accuracy_plot(task).to_svg())
        }));
        plots
    }
}

/// A task's name as a file name: letters, digits and `_` alone.
fn file_name(task: &str) -> String {
    task.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Bars of bits per byte: the model in the accent colour above xz and bzip2, source by source.
pub fn bits_per_byte_plot(report: &PerplexityReport, model: &str) -> BarPlot {
    let bars = report.sources.iter().flat_map(|source| {
        let bar = |name: &str, value, interval: Option<Interval>, accent| Bar {
            name: format!("{} · {name}", source.source),
            value,
            interval: interval.map(|interval| (interval.low, interval.high)),
            accent,
        };
        [
            bar(model, source.bits_per_byte, source.interval, true),
            bar("bzip2 -9", source.bzip2_bits_per_byte, None, false),
            bar("xz -9", source.xz_bits_per_byte, None, false),
        ]
    });
    BarPlot {
        title: "Held-out text: lower is better".to_owned(),
        x_label: "bits per byte, with 95 % interval".to_owned(),
        bars: bars.collect(),
        reference: None,
    }
}

/// Bars of a task's accuracies with their intervals and the line of guessing.
pub fn accuracy_plot(task: &TaskResult) -> BarPlot {
    let bar = |name: String, result: &MetricResult, accent| Bar {
        name,
        value: result.value,
        interval: Some((result.interval.low, result.interval.high)),
        accent,
    };
    let all = task.metrics.iter().map(|result| bar(result.metric.name().to_owned(), result, true));
    let groups = task.groups.iter().flat_map(|group| {
        let name = |result: &MetricResult| {
            format!("{} = {} · {}", group.field, group.value, result.metric.name())
        };
        group.metrics.iter().map(move |result| bar(name(result), result, false))
    });
    BarPlot {
        title: format!(
            "{} version {} ({}), {} questions",
            task.task,
            task.version,
            task.style.name(),
            task.scored
        ),
        x_label: "accuracy, with 95 % interval".to_owned(),
        bars: all.chain(groups).collect(),
        reference: Some((task.chance, format!("guessing {:.3}", task.chance))),
    }
}

impl fmt::Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = self
            .model
            .parameters
            .map_or(String::new(), |count| format!("{} parameters, ", si(count as f64)));
        writeln!(
            f,
            "model {} ({parameters}context {}, hash {})",
            self.model.name,
            self.model.context_length,
            short(&self.model.hash)
        )?;
        if let Some(perplexity) = &self.perplexity {
            write!(f, "\nheld-out text\n{perplexity}")?;
        }
        for task in &self.text_tasks {
            write!(f, "\n{} version {}\n{}", task.task, task.version, task.report)?;
        }
        if !self.tasks.is_empty() {
            write!(f, "\ntasks\n{}", task_table(&self.tasks))?;
        }
        for Unavailable { metric, reason } in &self.unavailable {
            writeln!(f, "\n{metric}: unavailable: {reason}")?;
        }
        for sample in &self.samples {
            write!(
                f,
                "\nsample (temperature {}, seed {:016x})\n  {}⟨{}⟩\n",
                sample.temperature,
                sample.seed,
                indented(&sample.prompt),
                indented(&sample.text)
            )?;
        }
        if let Some(endpoint) = &self.endpoint {
            writeln!(f, "\n{}", endpoint.to_line())?;
        }
        writeln!(
            f,
            "\nintervals {:.0} %, {} bootstrap replicates, seed {}, {}, milpa {}\n{}",
            100.0 * self.level,
            self.bootstrap_replicates,
            self.seed.0,
            duration(self.wall_seconds),
            self.milpa_version,
            self.command_line
        )
    }
}

impl fmt::Display for PerplexityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "source",
            "bits/byte",
            "95 % interval",
            "over",
            "bzip2 -9",
            "xz -9",
            "word ppl",
            "text",
            "tokens",
            "documents",
        ];
        let row = |source: &SourcePerplexity| {
            vec![
                source.source.clone(),
                format!("{:.4}", source.bits_per_byte),
                interval_text(source.interval.as_ref(), 4),
                format!("{} {}", source.units, unit_name(source.resampled)),
                format!("{:.3}", source.bzip2_bits_per_byte),
                format!("{:.3}", source.xz_bits_per_byte),
                source.word_perplexity.map_or("–".to_owned(), |value| si(value.round())),
                binary_bytes(source.bytes.0),
                si(source.tokens.0 as f64),
                format!("{} of {}", source.documents, source.documents_available),
            ]
        };
        let mut rows: Vec<Vec<String>> = self.sources.iter().map(row).collect();
        if rows.len() > 1 {
            let mut all = vec![String::new(); head.len()];
            all[0] = "all".to_owned();
            all[1] = format!("{:.4}", self.bits_per_byte);
            all[2] = interval_text(self.interval.as_ref(), 4);
            all[7] = binary_bytes(self.bytes.0);
            all[8] = si(self.tokens.0 as f64);
            all[9] = self.documents.to_string();
            rows.push(all);
        }
        f.write_str(&table(&head, &rows, 1))?;
        for source in &self.sources {
            for (reason, count) in &source.refused {
                writeln!(f, "{}: left out {count} texts: {reason}", source.source)?;
            }
        }
        Ok(())
    }
}

/// The table of tasks with a line of detail under each.
fn task_table(tasks: &[TaskResult]) -> String {
    let head = ["task", "version", "metric", "score", "95 % interval", "by", "chance", "n"];
    let mut rows = Vec::new();
    for task in tasks {
        let mut name = task.task.clone();
        if task.style != PromptStyle::Continuation {
            let _ = write!(name, " ({})", task.style.name());
        }
        let row = |name: &str, chance: f64, result: &MetricResult| {
            vec![
                name.to_owned(),
                task.version.to_string(),
                result.metric.name().to_owned(),
                format!("{:.3}", result.value),
                interval_text(Some(&result.interval), 3),
                method_name(result.interval.method).to_owned(),
                format!("{chance:.3}"),
                result.n.to_string(),
            ]
        };
        rows.extend(task.metrics.iter().map(|result| row(&name, task.chance, result)));
        let several = |group: &&GroupResult| {
            task.groups.iter().filter(|other| other.field == group.field).count() > 1
        };
        for group in task.groups.iter().filter(several) {
            let name = format!("  {} = {}", group.field, group.value);
            rows.extend(group.metrics.iter().map(|result| row(&name, group.chance, result)));
        }
    }
    let mut text = table(&head, &rows, 3);
    for task in tasks {
        let skipped = if task.skips.0.is_empty() {
            "nothing skipped".to_owned()
        } else {
            format!("skipped {} ({})", task.skips.total(), task.skips)
        };
        let limited = if task.usable == task.scored {
            String::new()
        } else {
            format!(" of {} usable", task.usable)
        };
        let _ = writeln!(
            text,
            "{}: scored {}{limited}, {skipped}, {} prompts cut; style {}, template {}, data {}, model {}",
            task.task,
            task.scored,
            task.truncated_contexts,
            task.style.name(),
            task.template_hash.short(),
            task.data_hash.short(),
            short(&task.model_hash)
        );
        for result in &task.metrics {
            let never = match result.correct {
                0 => "right",
                correct if correct == result.n => "wrong",
                _ => continue,
            };
            let _ = writeln!(
                text,
                "{} {}: never {never} in {}; at 95 % (one-sided) the rate is below {:.4}",
                task.task,
                result.metric.name(),
                result.n,
                rule_of_three(result.n, LEVEL)
            );
        }
    }
    text
}

/// A table with notes under it and the command that makes it again, as Markdown.
pub(crate) fn markdown(
    title: &str,
    head: &[&str],
    rows: &[Vec<String>],
    notes: &[String],
    command_line: &str,
) -> String {
    let mut text = format!("# {title}\n\n| {} |\n", head.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push('\n');
    for note in notes {
        let _ = writeln!(text, "- {note}");
    }
    let _ = write!(text, "\n```\n{command_line}\n```\n");
    text
}

/// Aligns columns; the first `left` columns to the left, the rest to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column < left {
                write!(line, "  {cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub(crate) fn interval_text(interval: Option<&Interval>, digits: usize) -> String {
    interval.map_or("none".to_owned(), |interval| {
        format!("{:.digits$} – {:.digits$}", interval.low, interval.high)
    })
}

fn unit_name(unit: ResampledUnit) -> &'static str {
    match unit {
        ResampledUnit::Documents => "documents",
        ResampledUnit::Blocks => "blocks",
    }
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Wilson => "Wilson",
        Method::StudentT => "t",
        Method::Bootstrap => "bootstrap",
        Method::ClusterBootstrap => "cluster bootstrap",
        Method::ClusteredT => "clustered t",
        Method::Sandwich => "sandwich",
        Method::JudgeCorrected => "judge-corrected",
        Method::Crossed => "items crossed with prompts",
        Method::Combined => "combined errors",
        Method::SquareAndAdd => "Newcombe",
    }
}

fn short(hash: &str) -> &str {
    if hash.is_empty() { "unknown" } else { hash.get(..12).unwrap_or(hash) }
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let rows = vec![vec!["ñandú".to_owned(), "1".to_owned()], vec!["a".into(), "22".into()]];
        assert_eq!(table(&["word", "n"], &rows, 1), "  word    n\n  ñandú   1\n  a      22\n");
    }

    #[test]
    fn a_file_name_has_no_way_out_of_its_folder() {
        assert_eq!(file_name("../pt/enem_2022"), "___pt_enem_2022");
    }
}

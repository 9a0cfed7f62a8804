//! The report of the harness for people: a table for a terminal, the same in Markdown, a page.

use std::fmt::{self, Write as _};

use milpa_base::{
    EndpointRecord,
    page::{self, Width},
    plot::{Bar, BarPlot, LinePlot, Series, escape},
    units::{duration, si},
};

use crate::{
    harness::{
        HarnessReport, TaskScores,
        failures::{Failure, Failures},
        scores::MetricScore,
        sensitivity::{PromptScore, PromptSensitivity},
    },
    report::{markdown, table},
    task::MAIN_PROMPT,
};

const HEAD: [&str; 8] =
    ["task", "version", "shots", "questions", "metric", "score", "95 % interval", "std. error"];

const FAILURES_HEAD: [&str; 3] = ["line", "answer", "why it is wrong"];

const PUBLISHED_HEAD: [&str; 7] =
    ["task", "metric", "model", "published", "95 % interval", "here", "difference"];

impl HarnessReport {
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for task in &self.tasks {
            let head = [task.task.clone(), task.version.to_string(), task.num_fewshot.to_string()];
            rows.extend(rows_of(&task.metrics, &head));
            for group in &task.groups {
                let name = format!("· {} {}", group.field, group.value);
                rows.extend(rows_of(&group.metrics, &[name, String::new(), String::new()]));
            }
            for (field, means) in &task.group_means {
                let name = format!("· mean over {field}");
                rows.extend(rows_of(means, &[name, String::new(), String::new()]));
            }
        }
        rows
    }

    /// The report as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text =
            markdown(&self.model.name, &HEAD, &self.rows(), &self.notes(), &self.command_line);
        for (task, failures) in self.failures() {
            let _ = write!(text, "\n## {}\n\n", failures_title(task, failures));
            let _ = writeln!(text, "| {} |", FAILURES_HEAD.join(" | "));
            let _ = writeln!(text, "|{}", " --- |".repeat(FAILURES_HEAD.len()));
            for row in failure_rows(failures) {
                let row: Vec<String> = row.iter().map(|cell| markdown_cell(cell)).collect();
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
        }
        let rows = self.published_rows();
        if !rows.is_empty() {
            let _ = write!(text, "\n## Published figures\n\n| {} |\n", PUBLISHED_HEAD.join(" | "));
            let _ = writeln!(text, "|{}", " --- |".repeat(PUBLISHED_HEAD.len()));
            for row in rows {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
            text.push('\n');
            for note in self.published_notes() {
                let _ = writeln!(text, "- {note}");
            }
        }
        text
    }

    /// The report as one self-contained page, with a plot of every score that is a share.
    pub fn to_html(&self) -> String {
        let subtitle = "Scores with their 95 % intervals; ↑ more is better, ↓ less is better.";
        let mut html = page::begin(&self.model.name, subtitle, Width::Text);
        page::table(&mut html, &HEAD, &[1, 2, 3, 5, 7], &self.rows());
        let bars: Vec<Bar> = self.tasks.iter().flat_map(bars).collect();
        if !bars.is_empty() {
            let plot = BarPlot {
                title: "Shares".to_owned(),
                x_label: "score, with 95 % interval".to_owned(),
                bars,
                reference: None,
            };
            html += &plot.to_svg();
        }
        for task in &self.tasks {
            for plot in group_plots(task) {
                html += &plot.to_svg();
            }
            html += &coverage_plot(task).map_or(String::new(), |plot| plot.to_svg());
            for prompts in &task.prompts {
                html += &prompts_plot(&task.task, prompts).to_svg();
            }
        }
        for (task, failures) in self.failures() {
            let _ = write!(html, "<h2>{}</h2>", escape(&failures_title(task, failures)));
            page::table(&mut html, &FAILURES_HEAD, &[0], &failure_rows(failures));
        }
        list(&mut html, "Notes", &self.notes());
        let published = self.published_rows();
        if !published.is_empty() {
            html += "<h2>Published figures</h2>";
            page::table(&mut html, &PUBLISHED_HEAD, &[3, 5, 6], &published);
            list(&mut html, "How they differ", &self.published_notes());
        }
        let _ =
            write!(html, "<h2>Again</h2><pre>{}</pre>{}", escape(&self.command_line), page::END);
        html
    }

    /// The failures of each task and metric that says why.
    fn failures(&self) -> impl Iterator<Item = (&TaskScores, &Failures)> {
        self.tasks.iter().flat_map(|task| task.failures.iter().map(move |each| (task, each)))
    }

    /// A row for each published figure.
    fn published_rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for task in &self.tasks {
            for set in &task.published {
                let number = |value: Option<f64>| {
                    value.map_or("not compared".to_owned(), |value| format!("{value:.4}"))
                };
                rows.extend(set.figures.iter().map(|figure| {
                    vec![
                        task.task.clone(),
                        set.metric.clone(),
                        figure.model.clone(),
                        format!("{:.4}", figure.value),
                        figure.interval.map_or("–".to_owned(), |interval| {
                            format!("{:.4} to {:.4}", interval.low, interval.high)
                        }),
                        number(set.measured),
                        figure.difference.map_or("–".to_owned(), |value| format!("{value:+.4}")),
                    ]
                }));
            }
        }
        rows
    }

    /// Whose figures they are, and how they differ from what was measured here.
    fn published_notes(&self) -> Vec<String> {
        let notes = self.tasks.iter().flat_map(|task| {
            task.published.iter().map(|set| {
                let name = &task.task;
                let (source, date) = (&set.source, &set.date);
                match &set.compared_with {
                    None => format!(
                        "{name}, {}: {source}, {date}; no score here is the same quantity",
                        set.metric
                    ),
                    Some(ours) => format!(
                        "{name}, {}: {source}, {date}; beside {ours}; {}",
                        set.metric,
                        set.settings.join("; ")
                    ),
                }
            })
        });
        notes.collect()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.tasks.iter().flat_map(task_notes).collect();
        let hash: String = self.model.hash.chars().take(12).collect();
        let parameters = self
            .model
            .parameters
            .map_or(String::new(), |n| format!("{} parameters, ", si(n as f64)));
        let context = match self.model.context_length {
            0 => "unknown".to_owned(),
            length => length.to_string(),
        };
        let hash = if hash.is_empty() { "not told".to_owned() } else { hash };
        notes.extend(self.endpoint.iter().map(EndpointRecord::to_line));
        notes.push(format!(
            "model {} ({parameters}context {context}, hash {hash}); examples drawn with seed {}; prompts {}; \
             milpa {}",
            self.model.name,
            self.fewshot_seed,
            if self.chat_template { "by the chat template" } else { "in plain text" },
            self.milpa_version
        ));
        notes
    }
}

fn failures_title(task: &TaskScores, failures: &Failures) -> String {
    let filter = shown_filter(&failures.filter);
    let all = if failures.first.len() as u64 == failures.wrong {
        format!("all {} wrong answers", failures.wrong)
    } else {
        format!("the first {} of {} wrong answers", failures.first.len(), failures.wrong)
    };
    format!("{}: {all} by {}{filter}", task.task, failures.metric)
}

fn failure_rows(failures: &Failures) -> Vec<Vec<String>> {
    let row = |failure: &Failure| {
        vec![failure.line.to_string(), failure.answer.clone(), failure.reason.clone()]
    };
    failures.first.iter().map(row).collect()
}

/// A text that stays in its cell and on its line.
fn markdown_cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Accuracy of the surest answers against how many are given.
fn coverage_plot(task: &TaskScores) -> Option<LinePlot> {
    let calibration = task.factuality.as_ref()?.calibration.as_ref()?;
    let points: Vec<(f64, f64)> =
        calibration.coverage.iter().map(|point| (point.coverage, point.accuracy)).collect();
    (points.len() > 1).then(|| LinePlot {
        title: format!("{}: the surest answers", task.task),
        x_label: "share of items answered".to_owned(),
        y_label: "share of those right".to_owned(),
        series: vec![Series { name: "surest first".to_owned(), points }],
    })
}

/// The scores of each prompt, with the mean over prompts.
fn prompts_plot(task: &str, prompts: &PromptSensitivity) -> BarPlot {
    let bar = |prompt: &PromptScore| Bar {
        name: prompt.name.clone(),
        value: prompt.value,
        interval: prompt.interval.map(|interval| (interval.low, interval.high)),
        accent: prompt.name == MAIN_PROMPT,
    };
    BarPlot {
        title: format!("{task}: {}{} by prompt", prompts.metric, shown_filter(&prompts.filter)),
        x_label: "score, with 95 % interval over questions".to_owned(),
        bars: prompts.prompts.iter().map(bar).collect(),
        reference: Some((prompts.mean, "mean over prompts".to_owned())),
    }
}

/// A heading with a list under it.
fn list(html: &mut String, title: &str, notes: &[String]) {
    let _ = write!(html, "<h2>{}</h2><ul>", escape(title));
    for note in notes {
        let _ = write!(html, "<li>{}</li>", escape(note));
    }
    *html += "</ul>";
}

/// The name of a pipeline behind that of a metric; nothing where there is none.
pub(super) fn shown_filter(name: &str) -> String {
    if name == "none" { String::new() } else { format!(" ({name})") }
}

/// A row for each score; `head` stands before the first.
fn rows_of(metrics: &[MetricScore], head: &[String; 3]) -> Vec<Vec<String>> {
    let row = |(index, score): (usize, &MetricScore)| {
        let first = |text: &String| if index == 0 { text.clone() } else { String::new() };
        let filter = shown_filter(&score.filter);
        let arrow = if score.higher_is_better { '↑' } else { '↓' };
        let [name, version, shots] = head;
        vec![
            first(name),
            first(version),
            first(shots),
            first(&score.n.to_string()),
            format!("{}{filter} {arrow}", score.metric),
            format!("{:.4}", score.value),
            score.interval.map_or("–".to_owned(), |interval| {
                format!("{:.4} to {:.4}", interval.low, interval.high)
            }),
            score.standard_error.map_or("–".to_owned(), |error| format!("{error:.4}")),
        ]
    };
    metrics.iter().enumerate().map(row).collect()
}

/// For each field by which the questions are grouped, such as the country: the first share of each
/// group, beside that of all questions.
fn group_plots(task: &TaskScores) -> Vec<BarPlot> {
    let mut fields: Vec<&str> = task.groups.iter().map(|group| group.field.as_str()).collect();
    fields.dedup();
    let plot = |field: &str| {
        let whole = task.metrics.iter().find(|score| is_share(score))?;
        let bars: Vec<Bar> = task
            .groups
            .iter()
            .filter(|group| group.field == field)
            .filter_map(|group| {
                let same = |score: &&MetricScore| {
                    score.metric == whole.metric && score.filter == whole.filter
                };
                let score = group.metrics.iter().find(same)?;
                Some(Bar {
                    name: format!("{} ({})", group.value, score.n),
                    value: score.value,
                    interval: score.interval.map(|interval| (interval.low, interval.high)),
                    accent: true,
                })
            })
            .collect();
        (bars.len() > 1).then(|| BarPlot {
            title: format!("{}: {} by {field}", task.task, whole.metric),
            x_label: "score, with 95 % interval; the line is that of all questions".to_owned(),
            bars,
            reference: Some((whole.value, "all".to_owned())),
        })
    };
    fields.into_iter().filter_map(plot).collect()
}

/// Scores between 0 and 1 that have an interval: accuracies, exact matches, F1.
fn bars(task: &TaskScores) -> impl Iterator<Item = Bar> + '_ {
    task.metrics.iter().filter(|score| is_share(score)).filter_map(|score| {
        let interval = score.interval?;
        let filter = shown_filter(&score.filter);
        Some(Bar {
            name: format!("{} · {}{filter}", task.task, score.metric),
            value: score.value,
            interval: Some((interval.low, interval.high)),
            accent: true,
        })
    })
}

fn is_share(score: &MetricScore) -> bool {
    score.higher_is_better && score.value <= 1.0
}

fn task_notes(task: &TaskScores) -> Vec<String> {
    let mut notes = Vec::new();
    let name = &task.task;
    if let Some(tokens) = &task.prompt_tokens {
        let bos = match tokens.bos {
            Some(id) => format!("BOS is {id}, there {} time(s)", tokens.leading_bos),
            None => "the model has no BOS".to_owned(),
        };
        notes.push(format!(
            "{name}: the first prompt has {} tokens, {:?} to {:?}; {bos}",
            tokens.count, tokens.first, tokens.last
        ));
    }
    if let Some(refusal) = &task.refusal {
        notes.extend(refusal.notes().into_iter().map(|note| format!("{name}: {note}")));
    }
    notes.extend(task.spreads.iter().map(|spread| format!("{name}: {}", spread.note())));
    notes.extend(task.failures.iter().map(|failures| format!("{name}: {}", failures.note())));
    notes.extend(task.prompts.iter().map(|prompts| format!("{name}: {}", prompts.note())));
    if let Some(factuality) = &task.factuality {
        notes.extend(factuality.notes().into_iter().map(|note| format!("{name}: {note}")));
    }
    if let Some(seen) = &task.contamination {
        let first = seen.examples.first().map_or(String::new(), |finding| {
            format!("; such as line {} in {}: {:?}", finding.line, finding.document, finding.begins)
        });
        notes.push(format!(
            "{name}: {} of {} questions stand in {} ({} documents; {:.0} % of their {}-grams in one \
             stretch), {} are too short to be looked for{first}",
            seen.found,
            seen.questions,
            seen.corpus,
            seen.documents,
            100.0 * seen.ngrams.share,
            seen.ngrams.words,
            seen.too_short
        ));
    }
    if task.scored < task.documents {
        notes.push(format!("{name}: {} of {} documents scored", task.scored, task.documents));
    }
    if task.skips.total() > 0 {
        notes.push(format!("{name}: left out: {}", task.skips));
    }
    if task.remarks.total() > 0 {
        notes.push(format!("{name}: scored, but doubtful: {}", task.remarks));
    }
    if task.truncated > 0 {
        notes.push(format!(
            "{name}: {} prompts did not fit and lost tokens on their left",
            task.truncated
        ));
    }
    if task.cut_generations > 0 {
        notes.push(format!(
            "{name}: {} answers ended because they had max_gen_toks tokens",
            task.cut_generations
        ));
    }
    notes.push(format!(
        "{name}: {} requests, {} asked now, in {}",
        task.requests,
        task.asked,
        duration(task.wall_seconds)
    ));
    notes
}

impl fmt::Display for HarnessReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", table(&HEAD, &self.rows(), 1))?;
        writeln!(f)?;
        for note in self.notes() {
            writeln!(f, "{note}")?;
        }
        let published = self.published_rows();
        if !published.is_empty() {
            writeln!(f, "\n{}", table(&PUBLISHED_HEAD, &published, 3))?;
            for note in self.published_notes() {
                writeln!(f, "{note}")?;
            }
        }
        writeln!(f, "{}", self.command_line)
    }
}

//! The ledger of a base model and what became of it: what was gained, what was lost, how surely.
//!
//! Every checkpoint is held against the base on the texts and questions that both reports have;
//! nothing is compared across different prompts or texts. Two numbers follow the LatamGPT slides:
//!
//! - forgetting % = (PPL of the checkpoint − PPL of the base) / PPL of the base · 100 on general text
//! - adaptation % = (PPL of the base − PPL of the checkpoint) / PPL of the base · 100 on regional text
//!
//! with PPL = exp(−Σ ln p / tokens). They are exponential in the loss, mean nothing across
//! tokenizers (then they are left out), and are blind to lost in-context learning
//! (arXiv 2506.00288); so bits per byte by domain, accuracy by task and the divergence stand beside
//! them, each with a paired interval. Pieces of one document resemble each other, so intervals over texts
//! draw documents within each source, and pieces within a document.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::Path,
};

use milpa_base::{
    Digest, Seed,
    plot::{PlanePlot, PlanePoint},
};
use serde::{Deserialize, Serialize};

use crate::{
    compare::{PairedComparison, compare_items},
    divergence::Divergence,
    error::EvalError,
    multiple_choice::{ItemResult, Resampling},
    perplexity::TextResult,
    report::{interval_text, read_item_results, read_report, read_text_results, table},
    statistics::{
        Interval, LEVEL, Method, benjamini_hochberg, bootstrap_in_clusters, holm,
        percentile_interval,
    },
    task::{Metric, PromptStyle},
};

/// One report as the ledger reads it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    /// What it is called in the ledger.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// The model's hash.
    pub model_hash: String,
    /// Its questions.
    pub items: Vec<ItemResult>,
    /// Its texts.
    pub texts: Vec<TextResult>,
}

impl Entry {
    /// Reads the report in the folder `dir`; the ledger calls it by its folder's name, or by that of
    /// the folder above where it is only called "evaluation".
    ///
    /// # Errors
    /// A folder without a report.
    pub fn read(dir: &Path) -> Result<Self, EvalError> {
        let report = read_report(dir)?;
        let part = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = part(dir).filter(|name| name != "evaluation");
        let name =
            name.or_else(|| part(dir.parent()?)).unwrap_or_else(|| report.model.name.clone());
        Ok(Self {
            name,
            model: report.model.name,
            model_hash: report.model.hash,
            items: read_item_results(dir)?,
            texts: read_text_results(dir)?,
        })
    }
}

/// Which texts are general and which regional: names of tasks or sources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domains {
    /// What the base knew: forgetting is measured here.
    pub general: Vec<String>,
    /// What the checkpoint was to learn: adaptation is measured here.
    pub regional: Vec<String>,
}

/// A change with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The change.
    pub value: f64,
    /// Paired bootstrap interval over documents and their texts, within each source; `None` with one text.
    /// Of a source with one document it tells of that document alone.
    pub interval: Option<Interval>,
}

/// Bits per byte on one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextChange {
    /// Task and source, or source alone for held-out text.
    pub domain: String,
    /// Bits per byte of the base on the shared texts.
    pub base: f64,
    /// Bits per byte of the checkpoint.
    pub checkpoint: f64,
    /// Checkpoint − base; below zero is better.
    pub change: Change,
    /// Texts that both predicted.
    pub texts: u64,
    /// Documents that they are of: with one, the interval lies within it and tells of no other.
    #[serde(default)]
    pub documents: u64,
    /// Texts that only one of them predicted.
    pub unpaired: u64,
}

/// Accuracy on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskChange {
    /// The paired comparison with the base.
    pub paired: PairedComparison,
    /// How the question was put.
    pub style: PromptStyle,
    /// p-value corrected for all tasks of the ledger (Holm).
    pub holm: f64,
    /// The same for the share of false finds (Benjamini and Hochberg).
    pub benjamini_hochberg: f64,
}

/// One checkpoint against the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// What it is called.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// The model's hash.
    pub model_hash: String,
    /// Forgetting in %, or why there is none.
    pub forgetting: Result<Change, String>,
    /// Adaptation in %, or why there is none.
    pub adaptation: Result<Change, String>,
    /// Bits per byte by domain.
    pub texts: Vec<TextChange>,
    /// Accuracy by task.
    pub tasks: Vec<TaskChange>,
    /// What could not be compared, with the reason.
    pub refused: Vec<String>,
    /// Divergence from the base.
    pub divergence: Divergence,
}

/// The ledger of a base and its checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The base's name.
    pub base: String,
    /// The base's hash.
    pub base_hash: String,
    /// Which texts are general and which regional.
    pub domains: Domains,
    /// One for each checkpoint, in the order given.
    pub columns: Vec<Column>,
    /// Bootstrap replicates behind each interval.
    pub replicates: usize,
    /// Seed of the draws.
    pub seed: Seed,
}

/// Holds every checkpoint against the base. `divergences` has one for each checkpoint, in order.
///
/// # Errors
/// A domain that the base has no text of.
pub fn ledger(
    base: &Entry,
    checkpoints: &[Entry],
    divergences: Vec<Divergence>,
    domains: &Domains,
    resampling: Resampling,
) -> Result<Ledger, EvalError> {
    for wanted in domains.general.iter().chain(&domains.regional) {
        if !base.texts.iter().any(|text| belongs(text, wanted)) {
            let mut known: Vec<String> = base.texts.iter().map(domain).collect();
            known.sort_unstable();
            known.dedup();
            return Err(EvalError::NotComparable(format!(
                "{} has no text of {wanted:?}; it has {}",
                base.name,
                if known.is_empty() { "none at all".to_owned() } else { known.join(", ") }
            )));
        }
    }
    let mut columns: Vec<Column> = checkpoints
        .iter()
        .zip(divergences)
        .map(|(checkpoint, divergence)| column(base, checkpoint, divergence, domains, resampling))
        .collect();
    // One correction over all tests of the ledger: every one is a chance to find something.
    let p_values: Vec<f64> =
        columns.iter().flat_map(|column| &column.tasks).map(|task| task.paired.p()).collect();
    let corrected = holm(&p_values).into_iter().zip(benjamini_hochberg(&p_values));
    let tasks = columns.iter_mut().flat_map(|column| &mut column.tasks);
    for (task, (holm, benjamini_hochberg)) in tasks.zip(corrected) {
        (task.holm, task.benjamini_hochberg) = (holm, benjamini_hochberg);
    }
    Ok(Ledger {
        base: base.name.clone(),
        base_hash: base.model_hash.clone(),
        domains: domains.clone(),
        columns,
        replicates: resampling.replicates,
        seed: resampling.seed,
    })
}

fn column(
    base: &Entry,
    checkpoint: &Entry,
    divergence: Divergence,
    domains: &Domains,
    resampling: Resampling,
) -> Column {
    let mut refused = Vec::new();
    let named = |name: &str| Resampling { seed: resampling.seed.derive(name), ..resampling };
    let mut texts = Vec::new();
    let (of_base, of_checkpoint) = (by_domain(&base.texts), by_domain(&checkpoint.texts));
    for (domain, first) in &of_base {
        let pairs = of_checkpoint.get(domain).map(|second| Pairs::new(first, second));
        match pairs {
            Some(pairs) if !pairs.0.is_empty() => {
                texts.push(pairs.text_change(domain, named(domain)));
            }
            Some(_) => refused.push(format!("{domain}: no text is the same in both reports")),
            None => refused.push(format!("{domain}: only the base has it")),
        }
    }
    let mut tasks = Vec::new();
    let of_task = |items: &[ItemResult]| {
        let mut found: BTreeMap<(String, PromptStyle), Vec<ItemResult>> = BTreeMap::new();
        for item in items {
            found.entry((item.task.clone(), item.style)).or_default().push(item.clone());
        }
        found
    };
    let items_of_checkpoint = of_task(&checkpoint.items);
    for ((task, style), first) in of_task(&base.items) {
        let Some(second) = items_of_checkpoint.get(&(task.clone(), style)) else {
            refused.push(format!("{task}: only the base has it"));
            continue;
        };
        match compare_items(&first, second, headline_metric(&first), named(&task)) {
            Ok(paired) => {
                tasks.push(TaskChange { paired, style, holm: 1.0, benjamini_hochberg: 1.0 });
            }
            Err(error) => refused.push(format!("{task}: {error}")),
        }
    }
    let relative = |wanted: &[String], what: &str, sign: f64| {
        if wanted.is_empty() {
            return Err(format!("no {what} text was named"));
        }
        let select = |texts: &[TextResult]| -> Vec<TextResult> {
            let kept = texts.iter().filter(|text| wanted.iter().any(|name| belongs(text, name)));
            kept.cloned().collect()
        };
        let (first, second) = (select(&base.texts), select(&checkpoint.texts));
        let pairs =
            Pairs::new(&first.iter().collect::<Vec<_>>(), &second.iter().collect::<Vec<_>>());
        pairs.relative_perplexity(sign, named(what))
    };
    Column {
        name: checkpoint.name.clone(),
        model: checkpoint.model.clone(),
        model_hash: checkpoint.model_hash.clone(),
        forgetting: relative(&domains.general, "general", 1.0),
        adaptation: relative(&domains.regional, "regional", -1.0),
        texts,
        tasks,
        refused,
        divergence,
    }
}

/// acc_norm where it was computed for the first item, else the first metric there is.
fn headline_metric(items: &[ItemResult]) -> Metric {
    let computed = items.first().map(|item| &item.picked);
    computed
        .and_then(|picked| {
            picked.get_key_value(&Metric::AccNorm).or_else(|| picked.first_key_value())
        })
        .map_or(Metric::Acc, |(metric, _)| *metric)
}

/// Name of a text's domain.
fn domain(text: &TextResult) -> String {
    match text.task.as_str() {
        "" => text.source.clone(),
        task => format!("{task}:{}", text.source),
    }
}

/// Whether `name` means the text's task, source, or both.
fn belongs(text: &TextResult, name: &str) -> bool {
    text.source == name || (!text.task.is_empty() && text.task == name) || domain(text) == name
}

fn by_domain(texts: &[TextResult]) -> BTreeMap<String, Vec<&TextResult>> {
    let mut found: BTreeMap<String, Vec<&TextResult>> = BTreeMap::new();
    for text in texts {
        found.entry(domain(text)).or_default().push(text);
    }
    found
}

/// Texts that two models both predicted, and how many only one did.
struct Pairs<'a>(Vec<(&'a TextResult, &'a TextResult)>, u64);

impl<'a> Pairs<'a> {
    /// Pairs texts by domain and hash; the n-th of equal texts with the n-th.
    fn new(first: &[&'a TextResult], second: &[&'a TextResult]) -> Self {
        let index = |texts: &[&'a TextResult]| {
            let mut seen: BTreeMap<(String, Digest), u32> = BTreeMap::new();
            let mut found: BTreeMap<(String, Digest, u32), &'a TextResult> = BTreeMap::new();
            for text in texts {
                let times = seen.entry((domain(text), text.hash)).or_default();
                found.insert((domain(text), text.hash, *times), text);
                *times += 1;
            }
            found
        };
        let others = index(second);
        let pairs: Vec<_> = index(first)
            .into_iter()
            .filter_map(|(key, text)| Some((text, *others.get(&key)?)))
            .collect();
        let unpaired = (first.len() + second.len() - 2 * pairs.len()) as u64;
        Self(pairs, unpaired)
    }

    fn text_change(&self, domain: &str, resampling: Resampling) -> TextChange {
        let bits = |pairs: &mut dyn Iterator<Item = usize>| {
            let (mut base, mut checkpoint, mut bytes) = (0.0, 0.0, 0.0);
            for pair in pairs {
                let (first, second) = self.0[pair];
                base -= first.log_likelihood;
                checkpoint -= second.log_likelihood;
                bytes += first.bytes as f64;
            }
            let bits = bytes * std::f64::consts::LN_2;
            (base / bits, checkpoint / bits)
        };
        let (base, checkpoint) = bits(&mut (0..self.0.len()));
        let interval = self.interval(resampling, |drawn| {
            let (base, checkpoint) = bits(&mut drawn.iter().copied());
            checkpoint - base
        });
        TextChange {
            domain: domain.to_owned(),
            base,
            checkpoint,
            change: Change { value: checkpoint - base, interval },
            texts: self.0.len() as u64,
            documents: self.documents().iter().map(|documents| documents.len() as u64).sum(),
            unpaired: self.1,
        }
    }

    /// sign · (PPL of the checkpoint / PPL of the base − 1) · 100.
    fn relative_perplexity(&self, sign: f64, resampling: Resampling) -> Result<Change, String> {
        if self.0.is_empty() {
            return Err("no text is the same in both reports".to_owned());
        }
        if self.0.iter().any(|(first, second)| first.tokens != second.tokens) {
            return Err(
                "the tokenizers differ, so perplexities of tokens cannot be compared; read bits per \
                 byte"
                    .to_owned(),
            );
        }
        let percent = |pairs: &mut dyn Iterator<Item = usize>| {
            let (nats, tokens) = pairs.fold((0.0, 0.0), |(nats, tokens), pair| {
                let (first, second) = self.0[pair];
                (nats + first.log_likelihood - second.log_likelihood, tokens + first.tokens as f64)
            });
            sign * 100.0 * (nats / tokens).exp_m1()
        };
        let value = percent(&mut (0..self.0.len()));
        let interval = self.interval(resampling, |drawn| percent(&mut drawn.iter().copied()));
        Ok(Change { value, interval })
    }

    /// The texts of each document of each domain; a text whose document is not known is one by itself.
    fn documents(&self) -> Vec<Vec<Vec<usize>>> {
        type OfDocuments = BTreeMap<(Option<u64>, usize), Vec<usize>>;
        let mut found: BTreeMap<String, OfDocuments> = BTreeMap::new();
        for (place, (text, _)) in self.0.iter().enumerate() {
            let document = (text.document, text.document.map_or(place, |_| 0));
            found.entry(domain(text)).or_default().entry(document).or_default().push(place);
        }
        found.into_values().map(|documents| documents.into_values().collect()).collect()
    }

    fn interval(
        &self,
        resampling: Resampling,
        statistic: impl FnMut(&[usize]) -> f64,
    ) -> Option<Interval> {
        if self.0.len() < 2 {
            return None;
        }
        let documents = self.documents();
        let is_alone = documents.iter().flatten().all(|texts| texts.len() == 1);
        let method = if is_alone { Method::Bootstrap } else { Method::ClusterBootstrap };
        let (replicates, seed) = (resampling.replicates, resampling.seed);
        let draws = bootstrap_in_clusters(&documents, replicates, seed, statistic);
        percentile_interval(draws, LEVEL, method)
    }
}

impl Ledger {
    /// Adaptation against forgetting; the base lies at the origin, lower right is better.
    pub fn plot(&self) -> PlanePlot {
        let ends = |change: &Change| change.interval.map(|interval| (interval.low, interval.high));
        let origin = PlanePoint {
            name: self.base.clone(),
            at: (0.0, 0.0),
            x_interval: None,
            y_interval: None,
        };
        let points = self.columns.iter().filter_map(|column| {
            let (adaptation, forgetting) =
                (column.adaptation.as_ref().ok()?, column.forgetting.as_ref().ok()?);
            Some(PlanePoint {
                name: column.name.clone(),
                at: (adaptation.value, forgetting.value),
                x_interval: ends(adaptation),
                y_interval: ends(forgetting),
            })
        });
        PlanePlot {
            title: "Adaptation against forgetting".to_owned(),
            x_label: "adaptation, % of perplexity on regional text (95 % interval)".to_owned(),
            y_label: "forgetting, % of perplexity on general text".to_owned(),
            points: std::iter::once(origin).chain(points).collect(),
            ..PlanePlot::default()
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "base {}", self.base)?;
        for column in &self.columns {
            writeln!(f, "\n{}", column.name)?;
            for (name, value) in
                [("forgetting %", &column.forgetting), ("adaptation %", &column.adaptation)]
            {
                match value {
                    Ok(change) => writeln!(
                        f,
                        "  {name}: {:+.2} ({})",
                        change.value,
                        interval_text(change.interval.as_ref(), 2)
                    )?,
                    Err(reason) => writeln!(f, "  {name}: unavailable, {reason}")?,
                }
            }
            match &column.divergence {
                Divergence::Measured { nats, interval, texts, places } => writeln!(
                    f,
                    "  KL(base ‖ model): {nats:.4} nats ({}), {places} places of {texts} texts",
                    interval_text(interval.as_ref(), 4)
                )?,
                Divergence::Unavailable { reason } => {
                    writeln!(f, "  KL(base ‖ model): unavailable, {reason}")?;
                }
            }
            f.write_str(&column.tables())?;
            for refusal in &column.refused {
                writeln!(f, "  not compared: {refusal}")?;
            }
        }
        writeln!(
            f,
            "\nintervals {:.0} %, paired on the same texts and prompts, texts by document, {} replicates, seed {}; p \
             corrected over all tests",
            100.0 * LEVEL,
            self.replicates,
            self.seed.0
        )
    }
}

impl Column {
    fn tables(&self) -> String {
        let mut text = String::new();
        if !self.texts.is_empty() {
            let row = |change: &TextChange| {
                vec![
                    change.domain.clone(),
                    format!("{:.4}", change.base),
                    format!("{:.4}", change.checkpoint),
                    format!("{:+.4}", change.change.value),
                    interval_text(change.change.interval.as_ref(), 4),
                    change.texts.to_string(),
                    change.unpaired.to_string(),
                ]
            };
            let head =
                ["bits per byte", "base", "now", "change", "95 % interval", "texts", "unpaired"];
            text += &table(&head, &self.texts.iter().map(row).collect::<Vec<_>>(), 1);
            for change in self.texts.iter().filter(|c| c.documents == 1 && c.texts > 1) {
                let _ = writeln!(
                    text,
                    "  {}: one document only, so its interval lies within it",
                    change.domain
                );
            }
        }
        if !self.tasks.is_empty() {
            let row = |change: &TaskChange| {
                let paired = &change.paired;
                let mut name = paired.task.clone();
                if change.style != PromptStyle::Continuation {
                    let _ = write!(name, " ({})", change.style.name());
                }
                vec![
                    name,
                    paired.metric.name().to_owned(),
                    format!("{:.3}", paired.a),
                    format!("{:.3}", paired.b),
                    format!("{:+.3}", paired.paired.difference),
                    interval_text(paired.paired.interval.as_ref(), 3),
                    format!("{:.3}", paired.p()),
                    format!("{:.3}", change.holm),
                    format!("{:.3}", change.benjamini_hochberg),
                    paired.paired.items.to_string(),
                    paired.unpaired.to_string(),
                ]
            };
            let head = [
                "task",
                "metric",
                "base",
                "now",
                "change",
                "95 % interval",
                "p",
                "Holm",
                "BH",
                "n",
                "unpaired",
            ];
            text += &table(&head, &self.tasks.iter().map(row).collect::<Vec<_>>(), 2);
        }
        text
    }
}

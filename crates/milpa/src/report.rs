//! The report of a run for people: one self-contained HTML page with its plots.
//!
//! It reads what the stages wrote (statistics, metrics, evaluation, manifests) and computes
//! nothing new.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::Result;
use milpa_base::{
    Manifest, page,
    plot::escape,
    units::{binary_bytes, duration, si},
    write_file_atomic,
};
use milpa_corpus::times::StageTime;
use milpa_eval::{divergence::Divergence, ledger::Change};
use milpa_train::{Metric, read_forgetting};

use crate::{
    commands::eval,
    ledger::TrainingFolder,
    origins,
    recipe::{Loaded, Origin},
    run::{Folders, Stamp},
    watch,
};

/// The plot of adaptation against forgetting in the training folder.
const FORGETTING_PLOT: &str = "forgetting.svg";

/// Writes `report.html` into the run folder.
pub fn write(recipe: &Loaded, folders: &Folders, stamps: &BTreeMap<String, Stamp>) -> Result<()> {
    let evaluation = eval::read_report(&folders.evaluation())?;
    let metrics = milpa_train::read_metrics(&folders.train())?;
    let subtitle = format!(
        "A run of milpa {}: what went in, what came out, and how to get it again.",
        env!("CARGO_PKG_VERSION")
    );
    let mut page = page::begin(&recipe.recipe.name, &subtitle, page::Width::Text);

    page += "<div class='cards'>";
    let mut card = |value: String, label: &str| {
        let _ = write!(
            page,
            "<div class='card'><b>{}</b><span>{}</span></div>",
            escape(&value),
            escape(label)
        );
    };
    if let Some(perplexity) = &evaluation.perplexity {
        card(format!("{:.3}", perplexity.bits_per_byte), "bits per byte, held-out text");
    }
    if let Some(parameters) = evaluation.model.parameters {
        card(si(parameters as f64), "parameters");
    }
    if let Some(Metric::Step { tokens, .. }) =
        metrics.iter().rfind(|metric| matches!(metric, Metric::Step { .. }))
    {
        card(si(*tokens as f64), "tokens trained on");
    }
    if let Some(stamp) = stamps.get("train") {
        card(duration(stamp.seconds), "training");
    }
    page += "</div>";

    page += "<h2>Corpus</h2>";
    if let Ok(stats) = milpa_corpus::stats(&folders.corpus()) {
        let _ = write!(page, "<div class='wide'><pre>{}</pre></div>", escape(&stats.to_string()));
    }
    page += &stage_times(&folders.corpus_stages());
    page += "<p>Why a document was kept or dropped: ";
    let _ = write!(
        page,
        "<code>milpa corpus why {} ID-OR-URL</code></p>",
        escape(&folders.corpus().display().to_string())
    );

    page += "<h2>Training</h2>";
    if let Ok(curve) = std::fs::read_to_string(folders.train().join("loss.svg")) {
        page += &curve;
    }

    page += &what_was_read(&metrics);
    page += "<p>More plots of the training are in <code>train/report.html</code>.</p>";
    if let Origin::Base(base) = recipe.recipe.origin() {
        page += &against_base(&base.model.path, folders)?;
    }
    for section in TrainingFolder::find(&folders.root)?.sections()? {
        page += &watch::page::table_of(&section);
    }

    page += "<h2>Evaluation</h2>";
    for (_, svg) in evaluation.plots() {
        page += &svg;
    }
    let _ = write!(page, "<div class='wide'><pre>{}</pre></div>", escape(&evaluation.to_string()));

    if !evaluation.samples.is_empty() {
        page += "<h2>Samples</h2>";
        for sample in &evaluation.samples {
            let _ = write!(
                page,
                "<blockquote><b>{}</b>{}</blockquote>",
                escape(&sample.prompt),
                escape(&sample.text).replace('\n', "<br>")
            );
        }
    }

    page += "<h2>Artifacts</h2><div class='wide'><table><tr><th>stage</th><th class='n'>time</th>\
             <th class='n'>size</th><th>identity</th></tr>";
    for (stage, dir) in [
        ("corpus", folders.corpus()),
        ("tokenizer", folders.tokenizer()),
        ("tokens", folders.tokens()),
        ("train", folders.checkpoint()),
        ("eval", folders.evaluation()),
        ("package", folders.bundle()),
    ] {
        page += &artifact_row(stage, &dir, stamps.get(stage));
    }
    page += "</table></div><h2>The same again</h2>";
    for stage in ["corpus", "tokenizer", "tokens", "train", "eval", "package"] {
        if let Some(stamp) = stamps.get(stage) {
            let _ = write!(page, "<pre>$ {}</pre>", escape(&stamp.command));
        }
    }
    page += page::END;
    write_file_atomic(&folders.report(), page.as_bytes())?;
    Ok(())
}

/// The base, and what the run gained and lost against it: each candidate, the one that was chosen, and the
/// plot of all measurements.
fn against_base(base: &Path, folders: &Folders) -> Result<String> {
    let identity = Manifest::read(&folders.checkpoint())
        .ok()
        .and_then(|manifest| manifest.inputs.get("base").copied())
        .map_or_else(String::new, |digest| {
            format!(", whose shape and weights have the BLAKE3 <code>{}</code>", digest.short())
        });
    let mut text = format!(
        "<h2>Against the base</h2><p>Training went on from <b>{}</b>{identity}.</p>",
        escape(&origins::model_name(base))
    );
    let Some(report) = read_forgetting(&folders.train())? else { return Ok(text) };
    let limit = report.limit.map_or_else(
        || "The recipe sets no limit on forgetting.".to_owned(),
        |limit| format!("The recipe allows {limit} % of forgetting."),
    );
    let _ = write!(
        text,
        "<p>{limit} Of the candidates <b>{}</b> was chosen: {}. Forgetting is the rise of the \
         perplexity of held-out general text, adaptation the fall of that of the run's own held-out \
         text.</p>",
        escape(&report.chosen),
        escape(&report.reason)
    );
    let rows: Vec<Vec<String>> = report
        .candidates
        .iter()
        .map(|standing| {
            let is_chosen = standing.name == report.chosen;
            let divergence = match &standing.divergence {
                Divergence::Measured { nats, .. } => format!("{nats:.3}"),
                Divergence::Unavailable { .. } => "–".to_owned(),
            };
            vec![
                format!("{}{}", standing.name, if is_chosen { " (chosen)" } else { "" }),
                percent(&standing.forgetting),
                percent(&standing.adaptation),
                divergence,
            ]
        })
        .collect();
    page::table(
        &mut text,
        &[
            "candidate",
            "forgetting (95 % interval)",
            "adaptation (95 % interval)",
            "KL to the base, nats",
        ],
        &[1, 2, 3],
        &rows,
    );
    if let Ok(plot) = std::fs::read_to_string(folders.train().join(FORGETTING_PLOT)) {
        text += &plot;
    }
    Ok(text)
}

fn percent(change: &Change) -> String {
    let interval = change.interval.map_or_else(String::new, |interval| {
        format!(" ({:+.1} to {:+.1})", interval.low, interval.high)
    });
    format!("{:+.1} %{interval}", change.value)
}

/// Tokens by stage and source, and the time of waiting for them; nothing for a run without such lines.
fn what_was_read(metrics: &[Metric]) -> String {
    let mut rows: Vec<(&str, BTreeMap<&str, u64>)> = Vec::new();
    let (mut seconds, mut waited) = (0.0, 0.0);
    for metric in metrics {
        let Metric::Data { stage, tokens, step_seconds, data_seconds, .. } = metric else {
            continue;
        };
        (seconds, waited) = (seconds + step_seconds, waited + data_seconds);
        let stage = stage.as_deref().unwrap_or("all");
        if rows.last().is_none_or(|(name, _)| *name != stage) {
            rows.push((stage, BTreeMap::new()));
        }
        let Some((_, sums)) = rows.last_mut() else { continue };
        for (source, tokens) in tokens {
            *sums.entry(source).or_default() += tokens;
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let mut table =
        "<div class='wide'><table><tr><th>stage</th><th>source</th><th class='n'>tokens read</th>\
                     <th class='n'>share</th></tr>"
            .to_owned();
    for (stage, sums) in rows {
        let total: u64 = sums.values().sum();
        for (source, tokens) in sums {
            let share = tokens as f64 / total.max(1) as f64 * 100.0;
            let _ = write!(
                table,
                "<tr><td>{}</td><td>{}</td><td class='n'>{}</td><td class='n'>{share:.1} %</td></tr>",
                escape(stage),
                escape(source),
                si(tokens as f64)
            );
        }
    }
    let share = waited / f64::max(seconds, f64::MIN_POSITIVE) * 100.0;
    table + &format!("</table></div><p>Steps waited {share:.1} % of their time for data.</p>")
}

/// The speed of the corpus's stages as a table, or nothing where it was not noted.
fn stage_times(path: &Path) -> String {
    let stages: Option<Vec<StageTime>> =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(stages) = stages.filter(|stages| !stages.is_empty()) else { return String::new() };
    let mut table = "<div class='wide'><table><tr><th>stage of the corpus</th><th class='n'>seconds of all threads</th>\
                     <th class='n'>MB</th><th class='n'>MB/s/core</th></tr>"
        .to_owned();
    for stage in stages {
        let (name, seconds, rate) = (&stage.stage, stage.seconds, stage.megabytes_per_second);
        let megabytes = stage.bytes as f64 / 1e6;
        let _ = write!(
            table,
            "<tr><td>{}</td><td class='n'>{seconds:.2}</td><td class='n'>{megabytes:.1}</td>\
             <td class='n'>{rate:.1}</td></tr>",
            escape(name)
        );
    }
    table + "</table></div>"
}

fn artifact_row(stage: &str, dir: &Path, stamp: Option<&Stamp>) -> String {
    let (size, identity) = Manifest::read_with_digest(dir).map_or_else(
        |error| (String::new(), error.to_string()),
        |(manifest, digest)| (binary_bytes(manifest.total_bytes()), digest.short()),
    );
    format!(
        "<tr><td>{stage}</td><td class='n'>{}</td><td class='n'>{size}</td><td><code>{}</code></td></tr>",
        stamp.map(|stamp| duration(stamp.seconds)).unwrap_or_default(),
        escape(&identity)
    )
}

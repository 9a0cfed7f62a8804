//! Balance, splits and the frozen set with its card.
//!
//! Caps by country and topic leave out by lot, what an earlier version has last. Items that are about
//! the same (an answer, a name in the question, nearly the same words) stay on one side of the split,
//! and what an earlier version had on a side stays there. The set holds no identity of a conversation
//! and no country of a person: the country of an item is what it is about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use milpa_base::{
    ArtifactWriter, Digest, Kind, Seed,
    artifact::Record,
    lines::{Line, LineReader},
    manifest::Verify,
    open_artifact,
};
use milpa_text::personal;
use serde::{Deserialize, Serialize};

use super::{
    config::TruequeConfig,
    duplicates::{Alike, Fingerprint},
    pattern::Word,
    review::{Accepted, Measured},
    rules::Language,
    work::{FunnelRow, Rejected},
};
use crate::{
    benchmark::{ItemFiles, canary, components::components},
    choclo::country_codes,
    error::EvalError,
};

/// Words in common from which two questions may not stand on both sides of the split.
const RELATED: f64 = 0.5;
/// Longest line of an item file.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A question with its answer, as it stands in the item files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TruequeItem {
    /// A hash of the question's words.
    pub id: String,
    /// Its language.
    pub language: Language,
    /// The question.
    pub question: String,
    /// The answer in a sentence or more, for a judge.
    pub reference: String,
    /// The answer in a few words and its other names, for grading in tiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub short_answers: Vec<String>,
    /// Where the answer stands.
    pub source: String,
    /// The words of the source.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub quote: String,
    /// Country that it is about: a code of ISO 3166-1, `region` or `world`.
    pub country: String,
    /// Topic.
    pub topic: String,
    /// Items of one cluster are about the same: the unit of splits and of intervals.
    pub cluster: String,
    /// Marks the text, so that training on it can be found out.
    pub canary: String,
}

/// A side of the split and whether answers are short, which name the item's file.
fn file_name(split: &str, language: Language, open: bool) -> String {
    format!("{split}-{}{}.jsonl", language.code(), if open { "-open" } else { "" })
}

const SPLITS: [&str; 2] = ["dev", "test"];

/// An earlier version: on which side each item stood.
#[derive(Default)]
pub(crate) struct Previous {
    pub(crate) version: String,
    pub(crate) split: BTreeMap<String, &'static str>,
    pub(crate) digest: Option<Digest>,
}

impl Previous {
    /// Opens an earlier version.
    pub(crate) fn open(dir: &Path) -> Result<Self, EvalError> {
        let (manifest, digest) = open_artifact(dir, Kind::Benchmark, Verify::Contents)
            .map_err(|error| EvalError::Freeze(format!("the earlier version: {error}")))?;
        let version = manifest.config.get("version").and_then(toml::Value::as_str);
        let mut previous = Self {
            version: version.unwrap_or_default().to_owned(),
            split: BTreeMap::new(),
            digest: Some(digest),
        };
        for split in SPLITS {
            for (language, open) in Language::ALL.into_iter().flat_map(|l| [(l, false), (l, true)])
            {
                let path = dir.join(file_name(split, language, open));
                if path.exists() {
                    for item in read_items(&path)? {
                        previous.split.insert(item.id, split);
                    }
                }
            }
        }
        Ok(previous)
    }
}

/// Reads an item file.
///
/// # Errors
/// A file that cannot be read, or a line that is no item.
pub fn read_items(path: &Path) -> Result<Vec<TruequeItem>, EvalError> {
    let failed = |source| EvalError::Read { path: path.to_owned(), source };
    let mut reader = LineReader::open(path, MAX_LINE_BYTES).map_err(failed)?;
    let mut items = Vec::new();
    while let Some(line) = reader.next_line().map_err(failed)? {
        let item = match line {
            Line::Whole(bytes) => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            Line::TooLong { .. } => Err("the line is longer than 1 MiB".to_owned()),
        };
        items.push(item.map_err(|problem| EvalError::TruequeLine {
            path: path.to_owned(),
            line: reader.line_number(),
            problem,
        })?);
    }
    Ok(items)
}

/// Applies the caps: what stays, and what a cap leaves out.
pub(crate) fn balance(
    mut accepted: Vec<Accepted>,
    config: &TruequeConfig,
    previous: &Previous,
) -> (Vec<Accepted>, Vec<Rejected>) {
    let lot = config.seed.derive("balance");
    accepted.sort_by_cached_key(|item| {
        (!previous.split.contains_key(&item.id), lot.derive(&item.id).0, item.id.clone())
    });
    let mut cells: BTreeMap<(String, String), usize> = BTreeMap::new();
    let (mut kept, mut left) = (Vec::new(), Vec::new());
    for item in accepted {
        let cell = (item.answer.country.clone(), item.answer.topic.clone());
        let count = cells.entry(cell).or_default();
        if *count < config.balance.most_per_cell {
            *count += 1;
            kept.push(item);
        } else {
            let reason = format!("cap of {} and {}", item.answer.country, item.answer.topic);
            left.push(Rejected {
                id: item.id,
                reason,
                question: item.question,
                ..Rejected::default()
            });
        }
    }
    kept.sort_by(|a, b| a.id.cmp(&b.id));
    left.sort_by(|a, b| a.id.cmp(&b.id));
    (kept, left)
}

/// Where items stand.
struct Sides {
    /// The cluster and the side of each item, in their order; `None` leaves an item out, because it
    /// belongs to clusters on both sides of an earlier version.
    of_items: Vec<Option<(String, &'static str)>>,
    /// Names that so many items have that they join none.
    cut: Vec<String>,
}

/// Finds clusters and shares them out.
fn split(items: &[Accepted], config: &TruequeConfig, previous: &Previous) -> Sides {
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    let first = items.len() as u32;
    let mut number = |name: String| {
        let next = first + numbers.len() as u32;
        *numbers.entry(name).or_insert(next)
    };
    let prints: Vec<Fingerprint> =
        items.iter().map(|item| Fingerprint::of(&item.question, item.language)).collect();
    let mut related = Alike::new(&prints, RELATED);
    let mut facts: Vec<(u32, Vec<u32>)> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let mut about: Vec<u32> = entities(item).into_iter().map(&mut number).collect();
        for (other, _) in related.find(&prints[at]) {
            // Joined by the other item itself.
            about.push(other as u32);
        }
        related.enter(at, prints[at].clone());
        facts.push((at as u32, about));
    }
    let found = components(&facts, |_| false, config.split.max_component_share);
    let component: Vec<u32> =
        facts.iter().map(|(subject, about)| found.of(*subject, about)).collect();
    let mut least: BTreeMap<u32, &str> = BTreeMap::new();
    let mut sides: BTreeMap<u32, BTreeSet<&'static str>> = BTreeMap::new();
    for (item, of) in items.iter().zip(&component) {
        let id = least.entry(*of).or_insert(&item.id);
        *id = (*id).min(&item.id);
        if let Some(side) = previous.split.get(&item.id) {
            sides.entry(*of).or_default().insert(side);
        }
    }
    let lot = config.seed.derive("split");
    let of_items = items
        .iter()
        .zip(&component)
        .map(|(item, of)| {
            let name = least[of].to_owned();
            let by_lot =
                if lot.derive(&name).f64_at(0) < config.split.dev_share { "dev" } else { "test" };
            let before = sides.get(of);
            let side = match (previous.split.get(&item.id), before.map_or(0, BTreeSet::len)) {
                (Some(side), _) => *side,
                (None, 0) => by_lot,
                (None, 1) => before.and_then(BTreeSet::first).copied().unwrap_or(by_lot),
                (None, _) => return None,
            };
            Some((name, side))
        })
        .collect();
    let hubs: BTreeSet<u32> = found.hubs.into_iter().collect();
    let cut = numbers.into_iter().filter(|(_, number)| hubs.contains(number)).map(|(name, _)| name);
    Sides { of_items, cut: cut.collect() }
}

/// What an item is about: its short answer, and the names in its question.
fn entities(item: &Accepted) -> Vec<String> {
    let fold = |text: &str| {
        Word::all(text).into_iter().map(|word| word.folded).collect::<Vec<_>>().join(" ")
    };
    let mut found = BTreeSet::new();
    if let Some(answer) = item.answer.short_answers.first() {
        let folded = fold(answer);
        // Numbers and yes are the answer to everything.
        let telling = folded.chars().any(char::is_alphabetic)
            && !["si", "no", "sim", "nao", "yes"].contains(&folded.as_str());
        if telling {
            found.insert(folded);
        }
    }
    let mut run = String::new();
    for word in Word::all(&item.question) {
        if word.is_name {
            if !run.is_empty() {
                run.push(' ');
            }
            run.push_str(&word.folded);
        } else if !run.is_empty() {
            found.insert(std::mem::take(&mut run));
        }
    }
    if !run.is_empty() {
        found.insert(run);
    }
    found.into_iter().collect()
}

/// What a frozen set is and how it came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TruequeReport {
    /// Name and version.
    pub name: String,
    /// Version.
    pub version: String,
    /// Licence of the items.
    pub licence: String,
    /// Use that people agreed to, and the versions of the text that they read.
    pub consent_scope: String,
    /// Versions of the consent text.
    pub consent_versions: Vec<String>,
    /// Where people ask for their questions to be taken out.
    pub contact: String,
    /// Items by file.
    pub items: BTreeMap<String, u64>,
    /// Items by country and topic.
    pub cells: BTreeMap<String, BTreeMap<String, u64>>,
    /// Cells with fewer items than wanted.
    pub shortfalls: Vec<Shortfall>,
    /// Stage by stage.
    pub funnel: Vec<FunnelRow>,
    /// How far reviewers agree.
    pub agreement: Vec<Measured>,
    /// Items that an adjudicator decided.
    pub adjudicated: u64,
    /// Items whose source is quoted.
    pub quoted: u64,
    /// Clusters, and items of the largest.
    pub clusters: (u64, u64),
    /// Names that so many items have that they join no cluster.
    pub cut: Vec<String>,
    /// The earlier version, if there is one.
    pub previous: Option<String>,
    /// Items of it that are no longer here: whoever has it must delete them.
    pub removed: Vec<String>,
    /// Items that it did not have.
    pub added: u64,
    /// Left out because they would join both sides of the earlier version's split.
    pub left_between: Vec<String>,
    /// Marks the items.
    pub canary: String,
    /// BLAKE3 over the item files.
    pub content_hash: Digest,
}

/// A cell with fewer items than wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shortfall {
    /// The country.
    pub country: String,
    /// The topic.
    pub topic: String,
    /// What there is.
    pub items: u64,
    /// What was wanted.
    pub wanted: u64,
}

/// Writes the set to `out`.
pub(crate) fn freeze(
    items: &[Accepted],
    config: &TruequeConfig,
    previous: &Previous,
    funnel: Vec<FunnelRow>,
    agreement: Vec<Measured>,
    out: &Path,
) -> Result<TruequeReport, EvalError> {
    if previous.version == config.version && previous.digest.is_some() {
        return Err(EvalError::Freeze(format!(
            "the earlier version is {} as well; raise `version` in the configuration",
            config.version
        )));
    }
    let canary = canary(&config.name, config.seed, &config.version);
    let sides = split(items, config, previous);
    let mut written = Vec::new();
    let mut left_between = Vec::new();
    for (item, side) in items.iter().zip(sides.of_items) {
        let Some((cluster, side)) = side else {
            left_between.push(item.id.clone());
            continue;
        };
        let answer = item.answer.clone();
        let item = TruequeItem {
            id: item.id.clone(),
            language: item.language,
            question: item.question.clone(),
            reference: answer.reference,
            short_answers: answer.short_answers,
            source: answer.source,
            quote: answer.quote,
            country: answer.country,
            topic: answer.topic,
            cluster,
            canary: canary.clone(),
        };
        refuse_personal_data(&item)?;
        written.push((side, item));
    }
    if written.is_empty() {
        return Err(EvalError::Freeze("no item has passed both reviews".to_owned()));
    }
    let artifact = ArtifactWriter::begin(out, Kind::Benchmark)?;
    let languages: BTreeSet<Language> = written.iter().map(|(_, item)| item.language).collect();
    let kinds = languages.iter().flat_map(|&language| [(language, false), (language, true)]);
    let names =
        kinds.flat_map(|(language, open)| SPLITS.map(|side| file_name(side, language, open)));
    let mut files = ItemFiles::create(&artifact, names)?;
    let mut cells: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let mut clusters: BTreeMap<&str, u64> = BTreeMap::new();
    for (side, item) in &written {
        files.write(&file_name(side, item.language, item.short_answers.is_empty()), item)?;
        *cells.entry(item.country.clone()).or_default().entry(item.topic.clone()).or_default() += 1;
        *clusters.entry(&item.cluster).or_default() += 1;
    }
    let (counts, content_hash) = files.finish()?;
    let ids: BTreeSet<&str> = written.iter().map(|(_, item)| item.id.as_str()).collect();
    let removed = previous.split.keys().filter(|id| !ids.contains(id.as_str())).cloned().collect();
    let adjudicated =
        items.iter().filter(|item| item.adjudicated && ids.contains(item.id.as_str()));
    let report = TruequeReport {
        name: config.name.clone(),
        version: config.version.clone(),
        licence: config.licence.clone(),
        consent_scope: config.consent.scope.clone(),
        consent_versions: config.consent.versions.clone(),
        contact: config.contact.clone(),
        items: counts,
        shortfalls: shortfalls(&cells, config),
        cells,
        funnel,
        agreement,
        adjudicated: adjudicated.count() as u64,
        quoted: written.iter().filter(|(_, item)| !item.quote.is_empty()).count() as u64,
        clusters: (clusters.len() as u64, clusters.values().max().copied().unwrap_or(0)),
        cut: sides.cut,
        previous: previous.digest.map(|_| previous.version.clone()),
        removed,
        added: ids.iter().filter(|id| !previous.split.contains_key(**id)).count() as u64,
        left_between,
        canary,
        content_hash,
    };
    let json = serde_json::to_string_pretty(&report).expect("a report is plain data");
    artifact.write("report.json", json.as_bytes())?;
    artifact.write("README.md", card(&report).as_bytes())?;
    for language in languages {
        let name = format!("{}-{}.yaml", config.name, language.code());
        artifact.write(&name, task(config, language).as_bytes())?;
    }
    let recorded = Recorded {
        name: &config.name,
        version: &config.version,
        seed: config.seed,
        dev_share: config.split.dev_share,
        max_component_share: config.split.max_component_share,
        most_per_cell: config.balance.most_per_cell,
    };
    let mut inputs = BTreeMap::from([("items".to_owned(), content_hash)]);
    inputs.extend(previous.digest.map(|digest| ("previous".to_owned(), digest)));
    let record = Record {
        licences: vec![config.licence.clone()],
        counts: report.items.clone(),
        ..Record::new("trueque", &recorded, inputs)?
    };
    artifact.finish(record)?;
    Ok(report)
}

/// What of the configuration stands in the manifest: no path and no reviewer.
#[derive(Serialize)]
struct Recorded<'a> {
    name: &'a str,
    version: &'a str,
    seed: Seed,
    dev_share: f64,
    max_component_share: f64,
    most_per_cell: usize,
}

/// The last look before anything is published.
fn refuse_personal_data(item: &TruequeItem) -> Result<(), EvalError> {
    let texts =
        [&item.question, &item.reference, &item.quote].into_iter().chain(&item.short_answers);
    match texts.flat_map(|text| personal::find(text)).next() {
        Some(found) => Err(EvalError::Freeze(format!(
            "{} holds personal data ({}); correct its answer or reject it",
            item.id,
            found.kind.name()
        ))),
        None => Ok(()),
    }
}

/// Countries of the configuration (of the region where it names none) and topics with too little.
fn shortfalls(
    cells: &BTreeMap<String, BTreeMap<String, u64>>,
    config: &TruequeConfig,
) -> Vec<Shortfall> {
    let wanted = config.balance.wanted_per_cell as u64;
    let named: Vec<&str> = config.balance.countries.iter().map(String::as_str).collect();
    let countries = if named.is_empty() { country_codes() } else { named };
    let cell = |country: &str, topic: &str| {
        cells.get(country).and_then(|topics| topics.get(topic)).copied().unwrap_or(0)
    };
    let all = countries
        .iter()
        .flat_map(|country| config.topics.iter().map(move |topic| (country, topic)));
    all.map(|(country, topic)| Shortfall {
        country: (*country).to_owned(),
        topic: topic.clone(),
        items: cell(country, topic),
        wanted,
    })
    .filter(|shortfall| shortfall.items < wanted)
    .collect()
}

/// A task for `milpa eval run`, graded in tiers.
fn task(config: &TruequeConfig, language: Language) -> String {
    let code = language.code();
    let (question, answer) = match language {
        Language::Es => ("Pregunta", "Respuesta"),
        Language::Pt => ("Pergunta", "Resposta"),
        Language::En => ("Question", "Answer"),
    };
    let mut text = format!(
        "# Written with the items by `milpa eval build trueque`.\n\
         # Try it:  milpa eval run --model DIR --task {name}-{code}.yaml --out evaluation\n\
         task: {name}_{code}\n\
         dataset_path: json\n\
         dataset_kwargs:\n  data_files:\n    dev: dev-{code}.jsonl\n    test: test-{code}.jsonl\n\
         test_split: test\n\
         fewshot_split: dev\n\
         output_type: generate_until\n\
         doc_to_text: \"{question}: {{{{question}}}}\\n{answer}:\"\n\
         doc_to_target: short_answers\n\
         generation_kwargs:\n  until: [\"\\n\"]\n  max_gen_toks: 48\n\
         metric_list:\n",
        name = config.name,
    );
    for metric in ["exact", "normalised", "alias", "accent_folded", "edit_distance"] {
        let _ = write!(text, "  - metric: tier_{metric}\n    language: {code}\n");
    }
    let _ = write!(text, "metadata:\n  version: {}\n", config.version);
    text
}

/// The card of the set.
fn card(report: &TruequeReport) -> String {
    let total: u64 = report.items.values().sum();
    let mut card = format!(
        "# {name} {version}\n\n{total} questions that people asked a public chat, with answers that two \
         people reviewed. Licence {licence}.\n\n\
         - **Consent:** every question comes from a conversation whose record of consent allows \
         `{scope}` under version {versions} of the consent text, and was not withdrawn.\n\
         - **To have a question taken out:** {contact}\n\
         - **Hash of the item files (BLAKE3):** `{hash}`\n- **Canary:** {canary}\n",
        name = report.name,
        version = report.version,
        licence = report.licence,
        scope = report.consent_scope,
        versions = report.consent_versions.join(", "),
        contact = report.contact,
        hash = report.content_hash,
        canary = report.canary,
    );
    if let Some(previous) = &report.previous {
        let _ = write!(
            card,
            "\n## Since version {previous}\n{} items are new, {} are gone. Whoever has {previous} deletes \
             those that are gone; scores of the two versions are compared on the items of both.\n",
            report.added,
            report.removed.len()
        );
        for id in &report.removed {
            let _ = writeln!(card, "- `{id}`");
        }
    }
    card.push_str("\n## Files\n| file | items |\n| --- | --- |\n");
    for (name, items) in &report.items {
        let _ = writeln!(card, "| `{name}` | {items} |");
    }
    let _ = write!(
        card,
        "\n`dev` is for looking at and tuning on, `test` for scores: keep it out of training data and off \
         public pages. Items with short answers are graded in tiers by the tasks `{name}-*.yaml` (`milpa \
         eval run`); those of the `-open` files have answers in sentences, for a judge (`milpa eval judge \
         grade`). The {} clusters join what is about the same (an answer, a name, half of the words), and \
         no cluster stands in both splits; the largest has {} items. {} names are in so many items that \
         they join none (`cut` in `report.json`). An interval clusters by `cluster`.\n",
        report.clusters.0,
        report.clusters.1,
        report.cut.len(),
        name = report.name,
    );
    card.push_str("\n## From chat to item\n");
    card.push_str(&funnel_table(&report.funnel));
    card.push_str("\n## Agreement of two blind reviewers\n| on | among | items | equal | kappa (Fleiss) | AC1 (Gwet) |\n| --- | --- | --- | --- | --- | --- |\n");
    let coefficient = |one: Option<crate::statistics::agreement::Coefficient>| match one {
        Some(one) => match one.interval {
            Some(at) => format!("{:.2} ({:.2} to {:.2})", one.value, at.low, at.high),
            None => format!("{:.2}", one.value),
        },
        None => "–".to_owned(),
    };
    for one in &report.agreement {
        let _ = writeln!(
            card,
            "| {} | {} | {} | {:.0} % | {} | {} |",
            one.on,
            one.among,
            one.agreement.units,
            100.0 * one.agreement.observed,
            coefficient(one.agreement.fleiss_kappa),
            coefficient(one.agreement.gwet_ac1)
        );
    }
    let _ = write!(
        card,
        "\n`keep` or `reject` is the verdict; the rest is of questions that both kept. Where they \
         differed a third person decided: {} items of the set. Intervals are 95 %, by bootstrap over \
         items.\n",
        report.adjudicated
    );
    card.push_str("\n## Items by country and topic\n");
    card.push_str(&cell_table(&report.cells));
    if report.shortfalls.is_empty() {
        card.push_str("\nNo cell is short of what was wanted.\n");
    } else {
        let empty = report.shortfalls.iter().filter(|one| one.items == 0).count();
        let _ = write!(
            card,
            "\n{} cells have fewer than the {} items that were wanted, {empty} of them none: a score by \
             country says little there. They are listed in `report.json`.\n",
            report.shortfalls.len(),
            report.shortfalls[0].wanted
        );
    }
    let _ = write!(
        card,
        "\n## Known limits\n\
         - People who use a chat are no sample of a country. Caps even out countries and topics, not people.\n\
         - Rules decide what is self-contained and factual before anyone reads it; they were measured on \
         sentences of their own writers. What they wrongly reject is never seen by a reviewer.\n\
         - E-mail addresses, telephones, cards and identity numbers are found by rules. Names of private \
         persons are left to the reviewers.\n\
         - The source was given by whoever wrote the answer; {} of {total} items quote it. Addresses are not \
         fetched.\n\
         - Answers were right when they were reviewed. Questions whose answer changes are rejected, but \
         not all changes can be foreseen.\n",
        report.quoted
    );
    if !report.left_between.is_empty() {
        let _ = writeln!(
            card,
            "- {} accepted items are left out because they would join both sides of the earlier split.",
            report.left_between.len()
        );
    }
    card
}

/// The funnel as a Markdown table.
pub(crate) fn funnel_table(funnel: &[FunnelRow]) -> String {
    let mut table =
        "| stage | counted | in | on | waiting | out, by reason |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for row in funnel {
        let mut reasons: Vec<(&String, &u64)> = row.rejected.iter().collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), (*reason).clone()));
        let mut out: Vec<String> =
            reasons.iter().take(12).map(|(reason, count)| format!("{count} {reason}")).collect();
        if reasons.len() > 12 {
            let rest: u64 = reasons[12..].iter().map(|(_, count)| **count).sum();
            out.push(format!("{rest} for {} other reasons", reasons.len() - 12));
        }
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} |",
            row.stage,
            row.unit,
            row.incoming,
            row.kept,
            row.waiting,
            out.join("; ")
        );
    }
    table
}

fn cell_table(cells: &BTreeMap<String, BTreeMap<String, u64>>) -> String {
    let topics: BTreeSet<&String> = cells.values().flat_map(BTreeMap::keys).collect();
    let names: Vec<&str> = topics.iter().map(|topic| topic.as_str()).collect();
    let mut table =
        format!("| | {} | all |\n|{}\n", names.join(" | "), " --- |".repeat(names.len() + 2));
    for (country, row) in cells {
        let counts = topics.iter().map(|topic| row.get(*topic).copied().unwrap_or(0).to_string());
        let sum: u64 = row.values().sum();
        let _ =
            writeln!(table, "| {country} | {} | {sum} |", counts.collect::<Vec<_>>().join(" | "));
    }
    table
}

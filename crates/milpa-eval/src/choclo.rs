//! Builds a benchmark of the region's knowledge from a Wikidata JSON dump.
//!
//! One pass over the dump ([`DumpCounts`]), closures over places and classes, facts of some fifty
//! relations, and for each fact an item in Spanish and in Portuguese: question, paraphrases,
//! choices, cloze, answers with aliases ([`ChocloItem`]). Items are told apart into development and
//! test by connected components of entities, so that no fact helps with another across the splits.
//! Answers are graded in tiers ([`Answer::grade`]). Wikidata is CC0, and so is the result.

mod audit;
mod dump;
mod entity;
mod facts;
mod grammar;
mod graph;
mod knowledge;
mod phrase;
pub(crate) mod score;
mod split;
mod values;
mod views;
mod write;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use milpa_base::{ArtifactWriter, Digest, Kind, Seed, artifact::Record, hash_file};
use serde::{Deserialize, Serialize};

pub use audit::{Audit, RULES, check_question, check_text};
pub use grammar::Language;
pub use graph::DumpCounts;
pub use knowledge::Mode;
pub(crate) use knowledge::country_codes;
pub use score::{Answer, Object, Reading, Tier, TierCounts, grade_names};
pub use split::Difficulty;
pub use values::{Date, DatePrecision};
pub use views::PageViewCounts;
pub use write::ChocloItem;

pub use crate::benchmark::BuildWatch;
use crate::{
    benchmark::{
        self, ItemFiles,
        components::{Components, components},
    },
    choclo::{
        entity::Id, facts::Fact, knowledge::Knowledge, split::difficulties, views::Scale,
        write::Writer,
    },
    error::EvalError,
};

/// Longest line of a dump: the largest entities of Wikidata have some 5 MiB.
const MAX_LINE_BYTES: usize = 32 << 20;
/// Items of the sample whose grammar is audited.
const AUDIT_SAMPLE: usize = 400;

/// How a benchmark is built.
#[derive(Debug, Clone)]
pub struct ChocloConfig {
    /// The dump: `.json`, or compressed by gzip, bzip2 or zstd.
    pub dump: PathBuf,
    /// Date of the dump, `YYYY-MM-DD`; read off the file's name if it is not given.
    pub dump_date: Option<String>,
    /// A table of relations instead of the program's own.
    pub relations: Option<PathBuf>,
    /// Files of page views (see [`PageViewCounts`]), by which difficulty goes; without them it goes by
    /// sitelinks, and in a dump without any by population.
    pub page_views: Vec<PathBuf>,
    /// Decides phrasings, choices and splits.
    pub seed: Seed,
    /// Threads that parse; the result does not depend on them.
    pub threads: usize,
    /// Share of the components that go to the development split.
    pub dev_share: f64,
    /// Largest share of the facts that one component may hold before hubs are cut.
    pub max_component_share: f64,
}

impl ChocloConfig {
    /// The defaults for a dump.
    pub fn new(dump: impl Into<PathBuf>) -> Self {
        Self {
            dump: dump.into(),
            dump_date: None,
            relations: None,
            page_views: Vec::new(),
            seed: Seed(0),
            threads: 2,
            dev_share: 0.1,
            max_component_share: 0.05,
        }
    }
}

/// What popularity means in a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Popularity {
    /// Views of the pages in the Spanish and the Portuguese Wikipedia.
    PageViews,
    /// Number of Wikipedia and sister pages.
    Sitelinks,
    /// P1082: the dump has no sitelinks.
    Population,
}

/// What a build made and left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChocloReport {
    /// Date of the dump.
    pub dump_date: String,
    /// What the pass over the dump counted.
    pub dump: DumpCounts,
    /// Entities of the region with a class.
    pub entities: u64,
    /// Items that occurred more than once.
    pub duplicates: u64,
    /// Facts that can be asked.
    pub facts: u64,
    /// Items by file.
    pub items: BTreeMap<String, u64>,
    /// Items with choices, and with a cloze.
    pub forms: BTreeMap<String, u64>,
    /// Items by relation.
    pub relations: BTreeMap<String, u64>,
    /// Items by country.
    pub countries: BTreeMap<String, u64>,
    /// Items by difficulty.
    pub difficulty: BTreeMap<Difficulty, u64>,
    /// Facts left out before they were written, by reason.
    pub dropped_facts: BTreeMap<String, u64>,
    /// Items left out, by language and reason.
    pub dropped_items: BTreeMap<String, u64>,
    /// What popularity is.
    pub popularity: Popularity,
    /// What files of page views told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_views: Option<PageViewCounts>,
    /// Components of entities, and facts of the largest.
    pub components: (u64, u64),
    /// Entities that too many facts name to keep them on one side of the split.
    pub hubs: Vec<String>,
    /// All texts against the rules of grammar, before items were left out for them.
    pub audit: Audit,
    /// A sample of items, one of their questions each, likewise.
    pub audit_sample: Audit,
    /// BLAKE3 over the item files.
    pub content_hash: Digest,
}

impl ChocloReport {
    /// Items in all files.
    pub fn total(&self) -> u64 {
        self.items.values().sum()
    }
}

impl fmt::Display for ChocloReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dump = &self.dump;
        writeln!(
            f,
            "{} items from {} facts about {} entities; the dump of {} has {} items in {:.1} MB",
            self.total(),
            self.facts,
            self.entities,
            self.dump_date,
            dump.items,
            dump.bytes as f64 / 1e6
        )?;
        let list = |f: &mut fmt::Formatter<'_>, title: &str, counts: &BTreeMap<String, u64>| {
            if counts.is_empty() {
                return Ok(());
            }
            let mut rows: Vec<_> = counts.iter().collect();
            rows.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
            writeln!(f, "{title}")?;
            rows.iter().try_for_each(|(name, count)| writeln!(f, "  {count:>9}  {name}"))
        };
        list(f, "files", &self.items)?;
        list(f, "forms", &self.forms)?;
        list(f, "relations", &self.relations)?;
        list(f, "left out before writing", &self.dropped_facts)?;
        list(f, "left out by language", &self.dropped_items)?;
        list(f, "statements passed over", &dump.oddities)?;
        if let Some(views) = &self.page_views {
            writeln!(
                f,
                "page views: {} of {} entities have {} views, from {} of {} lines{}",
                views.entities,
                self.entities,
                views.views,
                views.used,
                views.lines,
                if views.skipped.total() > 0 {
                    format!("; passed over: {}", views.skipped)
                } else {
                    String::new()
                }
            )?;
        }
        if dump.skipped.total() > 0 {
            writeln!(f, "lines passed over: {}", dump.skipped)?;
        }
        writeln!(
            f,
            "{} components, the largest with {} facts; {} hubs are on both sides of the split",
            self.components.0,
            self.components.1,
            self.hubs.len()
        )?;
        writeln!(
            f,
            "grammar: {:.2} % of {} sampled questions and {:.2} % of all {} texts break no rule",
            100.0 * self.audit_sample.share(),
            self.audit_sample.sentences,
            100.0 * self.audit.share(),
            self.audit.sentences
        )?;
        list(f, "rules broken", &self.audit.broken)?;
        write!(f, "content {}", self.content_hash)
    }
}

/// Configuration as the manifest records it: what the result is a function of.
#[derive(Serialize)]
struct Recorded<'a> {
    dump_date: &'a str,
    seed: Seed,
    dev_share: f64,
    max_component_share: f64,
}

/// Builds the benchmark into the artifact folder `out`.
///
/// # Errors
/// A dump that cannot be read to its end, has no date, or yields no item; a wrong table; a folder
/// that cannot be written; a stop.
pub fn build_choclo(
    config: &ChocloConfig,
    out: &Path,
    watch: BuildWatch<'_>,
) -> Result<ChocloReport, EvalError> {
    let dump_date = dump_date(config)?;
    let knowledge = Knowledge::load(config.relations.as_deref())?;
    let artifact = ArtifactWriter::begin(out, Kind::Benchmark)?;
    let spool = beside(out);
    let survey = graph::survey(
        &config.dump,
        &spool,
        &knowledge,
        config.threads,
        !config.page_views.is_empty(),
        MAX_LINE_BYTES,
        watch,
    )?;
    let graph = survey.into_graph(&knowledge, watch)?;
    let mut dropped_facts = BTreeMap::new();
    let facts = facts::facts(&knowledge, &graph, &mut dropped_facts);
    let canary = benchmark::canary("choclo", config.seed, &dump_date);
    let (scale, page_views) = Scale::read(&config.page_views, &graph, watch)?;
    let difficulties = difficulties(graph.nodes[..graph.subjects].iter().filter_map(|node| {
        let category = knowledge.classes[node.class?].category.as_str();
        let group = (category, node.countries.trailing_zeros());
        Some((group, scale.rank(node), node.entity.id))
    }));
    let named: Vec<(Id, Vec<Id>)> =
        facts.iter().map(|fact| (graph.nodes[fact.subject].entity.id, fact.items())).collect();
    let components =
        components(&named, |id| knowledge.articles.contains_key(&id), config.max_component_share);
    let writer = Writer {
        knowledge: &knowledge,
        graph: &graph,
        seed: config.seed.derive("items"),
        dump_date: &dump_date,
        canary: &canary,
        difficulties: &difficulties,
        scale: &scale,
        pools: Writer::collect_pools(&knowledge, &graph, &facts),
    };
    let mut report = ChocloReport {
        dump_date: dump_date.clone(),
        dump: graph.counts.clone(),
        entities: graph.subjects as u64,
        duplicates: graph.duplicates,
        facts: facts.len() as u64,
        items: BTreeMap::new(),
        forms: BTreeMap::new(),
        relations: BTreeMap::new(),
        countries: BTreeMap::new(),
        difficulty: BTreeMap::new(),
        dropped_facts,
        dropped_items: BTreeMap::new(),
        popularity: scale.kind,
        page_views,
        components: components.summary(),
        hubs: components.hubs.iter().map(|id| format!("Q{id}")).collect(),
        audit: Audit::default(),
        audit_sample: Audit::default(),
        content_hash: Digest([0; 32]),
    };
    write_items(config, &writer, &facts, &named, &components, &artifact, &mut report, watch)?;
    if report.total() == 0 {
        return Err(EvalError::NoQuestions {
            path: config.dump.clone(),
            items: report.dump.items,
            entities: report.entities,
        });
    }
    finish(config, artifact, &report, &canary)?;
    Ok(report)
}

fn write_items(
    config: &ChocloConfig,
    writer: &Writer<'_>,
    facts: &[Fact],
    named: &[(Id, Vec<Id>)],
    components: &Components,
    artifact: &ArtifactWriter,
    report: &mut ChocloReport,
    watch: BuildWatch<'_>,
) -> Result<(), EvalError> {
    let names = ["dev", "test"].into_iter().flat_map(|split| {
        Language::ALL.into_iter().map(move |language| file_name(split, language))
    });
    let mut files = ItemFiles::create(artifact, names)?;
    let split_seed = config.seed.derive("split");
    let mut sample = Sample::new(config.seed.derive("audit"));
    watch.progress.begin("writing questions", Some(facts.len() as u64), "facts");
    for (number, (fact, (subject, answers))) in facts.iter().zip(named).enumerate() {
        if number % 1024 == 0 {
            watch.progress.advance(number as u64);
            if watch.stop.is_set() {
                return Err(EvalError::Interrupted);
            }
        }
        let relation = &writer.knowledge.relations[fact.relation];
        let component = components.of(*subject, answers);
        let dev = Components::in_dev(component, split_seed, config.dev_share);
        if dev && relation.held_out {
            let reason = "a held-out relation of an entity for development".to_owned();
            *report.dropped_facts.entry(reason).or_default() += 1;
            continue;
        }
        for language in Language::ALL {
            let mut drop_for = |reason: &str| {
                let key = format!("{}: {reason}", language.code());
                *report.dropped_items.entry(key).or_default() += 1;
            };
            let (item, texts) = match writer.item(fact, component, language) {
                Ok(written) => written,
                Err(reason) => {
                    drop_for(reason);
                    continue;
                }
            };
            sample.offer(&item.id, &texts[0].0, &texts[0].1);
            let mut ungrammatical = false;
            for (text, broken) in &texts {
                report.audit.add(text, broken);
                ungrammatical |= !broken.is_empty();
            }
            if ungrammatical {
                drop_for("breaks a rule of grammar");
                continue;
            }
            let name = file_name(if dev { "dev" } else { "test" }, language);
            files.write(&name, &item)?;
            let count = |table: &mut BTreeMap<String, u64>, key: &str| {
                *table.entry(key.to_owned()).or_default() += 1;
            };
            count(&mut report.relations, &item.relation);
            count(&mut report.countries, &item.country);
            count(&mut report.forms, "short answer");
            if item.answer_index.is_some() {
                count(&mut report.forms, "multiple choice");
            }
            if item.cloze.is_some() {
                count(&mut report.forms, "cloze");
            }
            *report.difficulty.entry(item.difficulty).or_default() += 1;
        }
    }
    watch.progress.end();
    report.audit_sample = sample.audit();
    (report.items, report.content_hash) = files.finish()?;
    Ok(())
}

/// Name of the file of a split in a language.
fn file_name(split: &str, language: Language) -> String {
    format!("{split}-{}.jsonl", language.code())
}

/// Keeps the questions whose hashed ids are least: a sample that a seed decides.
struct Sample {
    seed: Seed,
    kept: BTreeMap<(u64, String), (String, Vec<&'static str>)>,
}

impl Sample {
    fn new(seed: Seed) -> Self {
        Self { seed, kept: BTreeMap::new() }
    }

    fn offer(&mut self, id: &str, text: &str, broken: &[&'static str]) {
        let key = (self.seed.derive(id).0, id.to_owned());
        self.kept.insert(key, (text.to_owned(), broken.to_vec()));
        if self.kept.len() > AUDIT_SAMPLE {
            self.kept.pop_last();
        }
    }

    fn audit(&self) -> Audit {
        let mut audit = Audit::default();
        for (text, broken) in self.kept.values() {
            audit.add(text, broken);
        }
        audit
    }
}

fn finish(
    config: &ChocloConfig,
    artifact: ArtifactWriter,
    report: &ChocloReport,
    canary: &str,
) -> Result<(), EvalError> {
    let json = serde_json::to_string_pretty(report).expect("a report is plain data");
    artifact.write("report.json", json.as_bytes())?;
    artifact.write("README.md", card(report, canary).as_bytes())?;
    for language in Language::ALL {
        artifact
            .write(&format!("choice-{}.toml", language.code()), choice_task(language).as_bytes())?;
        artifact
            .write(&format!("cloze-{}.toml", language.code()), cloze_task(language).as_bytes())?;
    }
    let hash = |path: &Path| {
        hash_file(path)
            .map(|(digest, _)| digest)
            .map_err(|source| EvalError::Read { path: path.to_owned(), source })
    };
    let mut inputs = BTreeMap::from([("dump".to_owned(), hash(&config.dump)?)]);
    if let Some(relations) = &config.relations {
        inputs.insert("relations".to_owned(), hash(relations)?);
    }
    for (number, file) in (1..).zip(&config.page_views) {
        inputs.insert(format!("page views {number}"), hash(file)?);
    }
    let recorded = Recorded {
        dump_date: &report.dump_date,
        seed: config.seed,
        dev_share: config.dev_share,
        max_component_share: config.max_component_share,
    };
    let record = Record {
        licences: vec!["CC0-1.0".to_owned()],
        counts: report.items.clone(),
        ..Record::new("choclo", &recorded, inputs)?
    };
    artifact.finish(record)?;
    Ok(())
}

/// The spool lies beside the folder that is built, on the same disk.
fn beside(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.spool"))
}

fn dump_date(config: &ChocloConfig) -> Result<String, EvalError> {
    let name = config.dump.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let date = match &config.dump_date {
        Some(date) => Some(date.clone()),
        None => name
            .split(|c: char| !c.is_ascii_digit())
            .find(|digits| digits.len() == 8)
            .map(|digits| format!("{}-{}-{}", &digits[..4], &digits[4..6], &digits[6..])),
    };
    date.filter(|date| is_date(date)).ok_or(EvalError::NoDumpDate { path: config.dump.clone() })
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let in_range = |text: &str, length: usize, range: std::ops::RangeInclusive<u32>| {
        text.len() == length && text.parse().is_ok_and(|number| range.contains(&number))
    };
    matches!(parts.as_slice(), [year, month, day]
        if in_range(year, 4, 2000..=2999) && in_range(month, 2, 1..=12) && in_range(day, 2, 1..=31))
}

fn task(language: Language, kind: &str, fields: &str) -> String {
    let code = language.code();
    format!(
        "# Written with the items by `milpa eval build choclo`.\n\
         # Try it:  milpa eval choice --model DIR --task {kind}-{code}.toml --data test-{code}.jsonl\n\
         name = \"{code}/choclo_{kind}\"\nversion = 1\nkind = \"multiple_choice\"\n\
         languages = [\"{code}\"]\n\
         summary = \"CHOCLO: facts of Latin America from Wikidata\"\nlicence = \"CC0-1.0\"\n\
         citation = \"Wikidata contributors, Wikidata\"\n\n[multiple_choice]\nid = \"id\"\n\
         answer_format = \"index\"\n\
         group_by = [\"country\", \"class\", \"difficulty\"]\ncluster_by = \"component\"\n\
         metrics = [\"acc\", \"acc_norm\", \"acc_bytes\"]\n{fields}"
    )
}

fn choice_task(language: Language) -> String {
    let [question, answer] = match language {
        Language::Spanish => ["Pregunta", "Respuesta"],
        Language::Portuguese => ["Pergunta", "Resposta"],
    };
    task(
        language,
        "choice",
        &format!(
            "choices = \"choices\"\nanswer = \"answer_index\"\n\n\
             [multiple_choice.continuation]\ntemplate = \"{question}: {{question}}\\n{answer}:\"\n\n\
             [multiple_choice.letters]\n\
             template = \"{question}: {{question}}\\n{{choices}}\\n{answer}:\"\n\
             choice_line = \"{{letter}}) {{choice}}\"\n"
        ),
    )
}

fn cloze_task(language: Language) -> String {
    task(
        language,
        "cloze",
        "choices = \"cloze_choices\"\nanswer = \"cloze_index\"\n\n\
         [multiple_choice.continuation]\ntemplate = \"{cloze}\"\n",
    )
}

fn card(report: &ChocloReport, canary: &str) -> String {
    let mut card = format!(
        "# CHOCLO\n\nQuestions about Latin America in Spanish and Portuguese, from the Wikidata dump of \
         {}.\nLicence CC0-1.0, as Wikidata.\n\n```\n{report}\n```\n\n\
         ## Files\n`dev-*.jsonl` is for looking at and tuning on, `test-*.jsonl` for scores: keep it \
         out of training data and off public pages.\n`choice-*.toml` and `cloze-*.toml` are tasks for \
         `milpa eval choice`. `report.json` has all counts.\n\n\
         ## Rules\n\
         - Difficulty: thirds by {} within category and country; ties by id.\n\
         - Splits: by connected components of subjects and answers; relations marked `held_out` are \
         asked in the test split alone. Countries and the {} hubs of `report.json` may be on both sides.\n\
         - Answers: best rank only; facts with an end (P582) are not asked; at most ten answers.\n\
         - Left out: names that others of the same kind share and nothing tells apart, answers that \
         stand in the question, lists, names in the plural, values without a name in the language.\n\
         - Choices: of the answer's class, from its country and neighbouring ones where there are.\n\
         - Grading is in tiers; a score names the tiers it counts.\n\n\
         Canary: {canary}\n\n## Rules of grammar\n",
        report.dump_date,
        match report.popularity {
            Popularity::PageViews =>
                "views of the pages in the Spanish and the Portuguese Wikipedia",
            Popularity::Sitelinks => "sitelinks",
            Popularity::Population => "population (P1082)",
        },
        report.hubs.len(),
    );
    for (name, rule) in RULES {
        card.push_str(&format!("- `{name}`: {rule}.\n"));
    }
    card
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_comes_from_the_name_or_the_caller() {
        let date = |name: &str, given: Option<&str>| {
            let mut config = ChocloConfig::new(name);
            config.dump_date = given.map(str::to_owned);
            dump_date(&config).ok()
        };
        assert_eq!(date("wikidata-20240103-all.json.gz", None).as_deref(), Some("2024-01-03"));
        assert_eq!(date("latest-all.json.gz", None), None);
        assert_eq!(date("latest-all.json.gz", Some("2026-11-20")).as_deref(), Some("2026-11-20"));
        assert_eq!(date("x-20241399.json", None), None);
        assert_eq!(date("x.json", Some("yesterday")), None);
    }

    #[test]
    fn the_tasks_are_tasks() {
        for language in Language::ALL {
            for text in [choice_task(language), cloze_task(language)] {
                crate::TaskSpec::parse(&text, Path::new("task.toml")).unwrap();
            }
        }
    }
}

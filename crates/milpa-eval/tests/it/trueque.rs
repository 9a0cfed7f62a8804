//! The benchmark of people's questions, built from invented logs with all that must not get through.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use milpa_base::{
    FinishReason, GenerateRequest, Generation, Kind, ModelError, ModelInfo, Piece, RollingScore,
    RollingWindows, Score, ScoreRequest, Seed, Silent, StopFlag, TextModel, manifest::Verify,
    open_artifact,
};
use milpa_eval::{
    EvalError,
    benchmark::BuildWatch,
    harness::{
        HarnessRun, PreparedTask, ask::Answers, requests::PromptOptions, task_file::LoadedTask,
    },
    trueque::{
        TruequeBuild, TruequeConfig, TruequeFolders, TruequeItem, build_trueque,
        question::questions,
        read_items,
        rules::{Language, objection, objection_in_turn},
    },
};

use crate::models::{info, with_watch};

#[path = "../../examples/chat_logs/generate.rs"]
mod generate;

use generate::{Invented, Spec, fill, write};

/// A team with its folder.
struct Team {
    dir: tempfile::TempDir,
    invented: Invented,
}

impl Team {
    fn new(conversations: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let invented = write(dir.path(), &Spec { conversations, seed: Seed(1) }).unwrap();
        Self { dir, invented }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn build(
        &self,
        threads: usize,
        out: Option<&str>,
        previous: Option<&str>,
    ) -> Result<TruequeBuild, EvalError> {
        let config = TruequeConfig::load(&self.path("trueque.toml"), &|_| None).unwrap();
        let (work, out) = (self.path("work"), out.map(|name| self.path(name)));
        let previous = previous.map(|name| self.path(name));
        let folders =
            TruequeFolders { work: &work, out: out.as_deref(), previous: previous.as_deref() };
        let stop = StopFlag::default();
        build_trueque(&config, folders, threads, BuildWatch { progress: &Silent, stop: &stop })
    }

    /// The way of a team: answers, reviews, adjudications.
    fn through(&self, threads: usize, out: Option<&str>) -> TruequeBuild {
        for round in 1..=3 {
            self.build(threads, None, None).unwrap();
            fill(&self.path("work"), round).unwrap();
        }
        self.build(threads, out, None).unwrap()
    }

    fn edit(&self, name: &str, change: impl Fn(String) -> String) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        fs::write(self.path(name), change(text)).unwrap();
    }
}

/// Every file under a folder with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn items(dir: &Path) -> BTreeMap<String, (String, TruequeItem)> {
    let mut found = BTreeMap::new();
    let tables = files(dir).into_keys().filter(|path| path.extension() == Some("jsonl".as_ref()));
    for name in tables.map(|path| path.to_string_lossy().into_owned()) {
        let (split, _) = name.split_once('-').unwrap();
        for item in read_items(&dir.join(&name)).unwrap() {
            assert!(found.insert(item.id.clone(), (split.to_owned(), item)).is_none());
        }
    }
    found
}

fn out_of(build: &TruequeBuild, stage: &str) -> (u64, u64, BTreeMap<String, u64>) {
    let row = build.funnel.iter().find(|row| row.stage == stage).unwrap();
    assert_eq!(
        row.incoming,
        row.kept + row.waiting + row.rejected.values().sum::<u64>(),
        "{row:?}"
    );
    (row.incoming, row.kept, row.rejected.clone())
}

#[test]
fn nothing_planted_gets_through_and_the_set_is_whole() {
    let team = Team::new(150);
    let build = team.through(1, Some("trueque-1.0"));
    let report = build.frozen.as_ref().unwrap();

    let (lines, with_consent, rejected) = out_of(&build, "1-consent");
    assert_eq!(with_consent, 150);
    assert_eq!(lines, 150 + team.invented.without_consent + team.invented.broken + 1);
    let count = |reason: &str| rejected.get(reason).copied().unwrap_or(0);
    assert_eq!(count("consent withdrawn"), 3);
    assert_eq!(count("consent for other uses"), 1);
    assert_eq!(count("consent to another text"), 1);
    assert_eq!(count("no record of consent"), 1, "{rejected:?}");
    assert_eq!(count("a record of consent without a date"), 1);
    assert_eq!(count("an id that occurred before"), 1);
    assert!(
        out_of(&build, "4-personal").2.keys().any(|reason| reason.starts_with("personal data: "))
    );
    assert!(out_of(&build, "3-duplicates").1 > 20);
    for stage in ["1-questions", "2-rules", "5-answers", "6-review", "7-balance"] {
        out_of(&build, stage);
    }

    // In no file of the working folder and of the set stands what was planted.
    for folder in ["work", "trueque-1.0"] {
        for (name, bytes) in files(&team.path(folder)) {
            let text = String::from_utf8(bytes).unwrap();
            for planted in &team.invented.planted {
                assert!(
                    !text.contains(planted.as_str()),
                    "{planted:?} stands in {}",
                    name.display()
                );
            }
        }
    }
    // The set names no conversation, no reviewer and no path.
    for (name, bytes) in files(&team.path("trueque-1.0")) {
        let text = String::from_utf8(bytes).unwrap();
        for word in ["c00001", "autora", "\"r1\"", "logs.jsonl"] {
            assert!(!text.contains(word), "{word} stands in {}", name.display());
        }
    }

    open_artifact(&team.path("trueque-1.0"), Kind::Benchmark, Verify::Contents).unwrap();
    let items = items(&team.path("trueque-1.0"));
    assert_eq!(items.len() as u64, report.items.values().sum::<u64>());
    assert!(items.len() >= 15, "{}", items.len());
    let mut side_of: BTreeMap<&str, &str> = BTreeMap::new();
    let mut cells: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (split, item) in items.values() {
        assert_eq!(side_of.entry(&item.cluster).or_insert(split), split, "{item:?}");
        *cells.entry((&item.country, &item.topic)).or_default() += 1;
        assert_eq!(item.canary, report.canary);
        assert!(item.source.starts_with("https://"));
        assert_eq!(objection(&item.question, item.language), None);
    }
    assert!(cells.values().all(|count| *count <= 4));
    assert!(report.shortfalls.iter().any(|one| one.country == "CL" && one.topic == "food"));
    assert!(report.adjudicated > 0);
    assert!(build.agreement.iter().any(|one| one.on == "topic" && one.agreement.observed < 1.0));
    let card = fs::read_to_string(team.path("trueque-1.0/README.md")).unwrap();
    for part in
        ["CC-BY-4.0", "2026-03", "trueque@universidad.example", "TRUEQUE-CANARY-", "| 2-rules |"]
    {
        assert!(card.contains(part), "{part}");
    }
}

#[test]
fn the_same_bytes_with_any_threads_and_after_a_stop() {
    let teams = [Team::new(60), Team::new(60)];
    teams[0].through(1, Some("out"));
    teams[1].through(5, Some("out"));
    let without_lock = |team: &Team, folder: &str| {
        let mut files = files(&team.path(folder));
        files.remove(Path::new(".lock"));
        files
    };
    // Hashes of sheets hold no path; everything is equal.
    for folder in ["work", "out"] {
        assert_eq!(without_lock(&teams[0], folder), without_lock(&teams[1], folder), "{folder}");
    }
    // A cut stage is made again, the others are read back.
    let before = without_lock(&teams[0], "work");
    fs::write(teams[0].path("work/3-duplicates.jsonl"), "cut").unwrap();
    teams[0].build(2, None, None).unwrap();
    assert_eq!(before, without_lock(&teams[0], "work"));
}

#[test]
fn a_withdrawal_takes_the_question_out_of_the_next_version() {
    let team = Team::new(80);
    team.through(2, Some("trueque-1.0"));
    let old = items(&team.path("trueque-1.0"));
    // Everybody who asked one of the questions withdraws.
    let gone =
        old.values().map(|(_, item)| item).find(|item| item.language == Language::Es).unwrap();
    let candidates = fs::read_to_string(team.path("work/1-questions.jsonl")).unwrap();
    let mut withdrawals = String::new();
    for line in candidates.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        if row["id"] == gone.id.as_str() {
            for conversation in row["conversations"].as_array().unwrap() {
                withdrawals += &format!(
                    "{{\"conversation\": {conversation}, \"withdrawn\": \"2026-07-01\"}}\n"
                );
            }
        }
    }
    team.edit("consents.jsonl", |text| text + &withdrawals);
    let error = team.build(1, Some("trueque-1.1"), Some("trueque-1.0")).unwrap_err().to_string();
    assert!(error.contains("raise `version`"), "{error}");
    team.edit("trueque.toml", |text| text.replace("version = \"1.0\"", "version = \"1.1\""));
    let build = team.build(1, Some("trueque-1.1"), Some("trueque-1.0")).unwrap();
    let report = build.frozen.unwrap();
    assert!(report.removed.contains(&gone.id), "{:?}", report.removed);
    assert_eq!(report.previous.as_deref(), Some("1.0"));
    let new = items(&team.path("trueque-1.1"));
    for (id, (split, _)) in &new {
        if let Some((before, _)) = old.get(id) {
            assert_eq!(before, split);
        }
    }
    let kept = old.keys().filter(|id| new.contains_key(*id)).count();
    assert_eq!(kept + report.removed.len(), old.len());
    assert!(
        build
            .notices
            .iter()
            .any(|note| note.contains("no longer asked") && note.contains(&gone.id))
    );
    for (name, bytes) in
        files(&team.path("work")).into_iter().chain(files(&team.path("trueque-1.1")))
    {
        let text = String::from_utf8(bytes).unwrap();
        // The rows of volunteers are named, so that people can delete them; no question stands there.
        assert!(!text.contains(&gone.question), "{}", name.display());
    }
    let card = fs::read_to_string(team.path("trueque-1.1/README.md")).unwrap();
    assert!(card.contains(&format!("- `{}`", gone.id)));
}

#[test]
fn mistakes_in_sheets_are_named_with_their_place() {
    let team = Team::new(40);
    team.build(1, None, None).unwrap();
    fill(&team.path("work"), 1).unwrap();
    team.build(1, None, None).unwrap();
    let answered = fs::read_to_string(team.path("work/5-answers.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> =
        answered.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let id = rows[0]["id"].as_str().unwrap();
    let sheet = fs::read_to_string(team.path("work/to_fill/review-r1.csv")).unwrap()
        + &fs::read_to_string(team.path("work/to_fill/review-r2.csv")).unwrap();
    let line = sheet.lines().find(|line| line.starts_with(id)).unwrap();
    let hash = line.split(',').nth(1).unwrap();
    let check = |name: &str, text: &str, expect: &[&str]| {
        let path = team.path("work/filled").join(name);
        fs::write(&path, text).unwrap();
        let found = match team.build(1, None, None) {
            Ok(build) => build.notices.join("\n"),
            Err(error) => error.to_string(),
        };
        for part in expect {
            assert!(found.contains(part), "{part:?} is not in {found}");
        }
        fs::remove_file(&path).unwrap();
    };
    let review = |cells: &str| {
        format!(
            "id;answer_hash;verdict;reason;correct;corrected_answer;corrected_source;reviewer\r\n{id};{hash};{cells}\r\n"
        )
    };
    check("review-x.csv", &review("keep;;yes;;;r2"), &[]);
    check("review-x.csv", &review(";;yes;;;r2"), &["review-x.csv:2: the verdict is missing"]);
    check("review-x.csv", &review("perhaps;;yes;;;r2"), &["neither keep nor reject"]);
    check("review-x.csv", &review("keep;;;;;r2"), &["whether the answer is right"]);
    check("review-x.csv", &review("keep;;no;Lima;;r2"), &["answer without source"]);
    check("review-x.csv", &review("reject;;;;;r2"), &["needs its reason"]);
    check("review-x.csv", &review("reject;why not;;;;r2"), &["is none of"]);
    check("review-x.csv", &review("keep;;yes;;;r9"), &["is not in the configuration"]);
    let twice = review("keep;;yes;;;r2") + &format!("{id};{hash};reject;unclear;;;;r2\r\n");
    check("review-x.csv", &twice, &["review-x.csv:3: r2 reviews", "review-x.csv:2; take one away"]);
    let copied = review("keep;;yes;;;r2") + &format!("{id};{hash};keep;;yes;;;r2\r\n");
    check("review-x.csv", &copied, &[]);
    check(
        "review-x.csv",
        &review("keep;;yes;;;r2").replace(hash, "00000000"),
        &["was changed after this review"],
    );
    check(
        "review-x.csv",
        &review("keep;;yes;;;r2").replace(id, "t123"),
        &["\"t123\" is not one that was sent out"],
    );
    check("review-x.csv", "id;verdict\r\n", &["review-x.csv:1: there is no column \"correct\""]);
    check(
        "review-y.csv",
        &(review("keep;;yes;ana@correo.example;;r2")),
        &["personal data (EMAIL)"],
    );
    check(
        "answers-2.csv",
        &format!("id,answer,source,author\n{id},Otra,,x\n"),
        &["answers-2.csv:2: an answer without source"],
    );
    check(
        "answers-2.csv",
        &format!("id,answer,source,author,country,topic\n{id},Otra,libro,x,Perú,food\n"),
        &["the country \"Perú\" is not known"],
    );
    check(
        "answers-2.csv",
        &format!("id,answer,source,author,country,topic\n{id},Otra,libro,x,PE,foods\n"),
        &["did you mean \"food\""],
    );
    check(
        "answers-2.csv",
        &format!("id,answer,source,author,country,topic\n{id},Otra,libro,x,PE,food\n"),
        &["is answered here, and otherwise in"],
    );
    check("notes.txt", "", &["notes.txt is not read"]);
    // Latin-1 out of an old spreadsheet.
    let path = team.path("work/filled/answers-3.csv");
    fs::write(&path, b"id,answer,source,author\nt1,Bogot\xe1,libro,x\n").unwrap();
    let error = team.build(1, None, None).unwrap_err().to_string();
    assert!(error.contains("answers-3.csv:2: not valid UTF-8; save the sheet as"), "{error}");
    fs::remove_file(path).unwrap();
    // A sheet that is filled in where it lies is not written over.
    let path = team.path("work/to_fill/review-r1.csv");
    fs::write(&path, fs::read_to_string(&path).unwrap() + "x\r\n").unwrap();
    let error = team.build(1, None, None).unwrap_err().to_string();
    assert!(error.contains("was filled in where new sheets are written"), "{error}");
    assert!(fs::read_to_string(&path).unwrap().ends_with("x\r\n"));
}

#[test]
fn what_may_be_a_withdrawal_stops_the_work() {
    let team = Team::new(5);
    for (line, part) in [
        ("{\"conversation\": \"c1\"", "consents.jsonl:3: not a record of consent"),
        ("{\"withdrawn\": \"2026-06-01\"}", "of a `conversation` or of a `person`"),
        ("{\"conversation\": \"c1\", \"withdrawn\": \"soon\"}", "as YYYY-MM-DD"),
        ("{\"conversation\": \"c1\", \"witdrawn\": true}", "consents.jsonl:3"),
    ] {
        let before = fs::read_to_string(team.path("consents.jsonl")).unwrap();
        team.edit("consents.jsonl", |text| text + line + "\n");
        let error = team.build(1, None, None).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        fs::write(team.path("consents.jsonl"), before).unwrap();
    }
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    let team = Team::new(1);
    let check = |from: &str, to: &str, part: &str| {
        let text = fs::read_to_string(team.path("trueque.toml")).unwrap();
        let path = team.path("changed.toml");
        fs::write(&path, text.replace(from, to)).unwrap();
        let error = TruequeConfig::load(&path, &|_| None).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    check("versions = [\"2026-03\"]", "versions = []", "consent text");
    check("\"CL\", \"BR\"", "\"XX\"", "no country of the region");
    check("most_per_cell", "most_per_cel", "most_per_cel");
    check("name = \"r2\"", "name = \"r1\"", "once each");
    check("version = \"1.0\"", "version = \"1/0\"", "letters");
}

/// Answers each question of an item file with what a function of the item says.
struct Oracle {
    info: ModelInfo,
    items: Vec<TruequeItem>,
}

impl TextModel for Oracle {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        _: &[ScoreRequest],
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        Err(ModelError::Failed("it only writes".to_owned()))
    }

    fn score_rolling(
        &self,
        _: &[&str],
        _: RollingWindows,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        Err(ModelError::Failed("it only writes".to_owned()))
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        _: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let item = self.items.iter().find(|item| request.prompt.contains(&item.question)).unwrap();
        let text = format!(" {}", item.short_answers[0].to_uppercase());
        Ok(Generation {
            text,
            finish_reason: FinishReason::Stop,
            prompt_tokens: 1,
            truncated_tokens: 0,
            completion_tokens: 1,
        })
    }
}

#[test]
fn the_set_is_a_task_that_is_graded_in_tiers() {
    let team = Team::new(60);
    team.through(2, Some("set"));
    let path = team.path("set/trueque-es.yaml");
    let task =
        PreparedTask::from_yaml(&LoadedTask::load(&path).unwrap(), &PromptOptions::default())
            .unwrap();
    let items = read_items(&team.path("set/test-es.jsonl")).unwrap();
    assert_eq!(task.questions.questions.len(), items.len());
    let upper = |text: &str| text.to_uppercase() == text;
    let digits = items.iter().filter(|item| upper(&item.short_answers[0])).count();
    let model = Oracle { info: info("oracle"), items };
    let mut answers = Answers::open(&team.path("answers.jsonl")).unwrap();
    let (scores, _) = with_watch(|watch| {
        let mut run = HarnessRun {
            model: &model,
            answers: &mut answers,
            chat: false,
            log_texts: false,
            replicates: 100,
            watch,
        };
        run.score(&task).unwrap()
    });
    let value = |name: &str| scores.metrics.iter().find(|one| one.metric == name).unwrap().value;
    assert_eq!(value("tier_normalised"), 1.0);
    assert_eq!(value("tier_edit_distance"), 1.0);
    assert!((value("tier_exact") - digits as f64 / model.items.len() as f64).abs() < 1e-12);
}

/// The rules on the list that their writers labelled: what `docs/trueque.md` states of them.
#[test]
fn the_rules_keep_their_measured_precision_and_recall() {
    let labelled = include_str!("../../data/trueque/labelled.tsv");
    let rows: Vec<Vec<&str>> = labelled
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split('\t').collect())
        .collect();
    assert!(rows.len() >= 150);
    let reasons: BTreeSet<&str> = rows.iter().map(|row| row[2]).collect();
    assert!(reasons.len() > 15);
    for (set, precision, recall) in
        [("development", DEVELOPMENT.0, DEVELOPMENT.1), ("held_out", HELD_OUT.0, HELD_OUT.1)]
    {
        let (mut right, mut kept, mut keep) = (0, 0, 0);
        for row in rows.iter().filter(|row| row[0] == set) {
            let language = Language::parse(row[1]).unwrap();
            let found = questions(row[3], language);
            let is_kept =
                found.iter().any(|question| objection_in_turn(question, language).is_none());
            right += u32::from(is_kept && row[2] == "keep");
            kept += u32::from(is_kept);
            keep += u32::from(row[2] == "keep");
        }
        assert_eq!(((right, kept), (right, keep)), (precision, recall), "{set}");
    }
}

/// Right of kept, and right of those labelled so.
type Measured = ((u32, u32), (u32, u32));
const DEVELOPMENT: Measured = ((117, 117), (117, 117));
const HELD_OUT: Measured = ((41, 57), (41, 42));

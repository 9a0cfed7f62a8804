use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

use milpa_base::{
    GenerateRequest, Generation, Kind, ModelError, ModelInfo, Piece, RollingScore, RollingWindows,
    Score, ScoreRequest, Seed, TextModel, TextRecord, config::Location, manifest::Verify,
    open_artifact,
};
use milpa_eval::{
    EvalConfig, EvalError, Evaluation, PromptStyle, RunInfo, SampleConfig, TaskEntry,
    read_item_results, read_report, read_text_results, run,
};

use crate::{
    models::{Unigram, with_watch},
    tasks::{DATA, task},
};

fn entry(task: &Path, data: Option<&Path>) -> TaskEntry {
    TaskEntry {
        task: Location::plain(task),
        data: data.map(Location::plain),
        limit: None,
        style: PromptStyle::Continuation,
    }
}

fn evaluate(config: &EvalConfig) -> Result<Evaluation, EvalError> {
    evaluate_model(&Unigram::new(), config)
}

fn evaluate_model(model: &dyn TextModel, config: &EvalConfig) -> Result<Evaluation, EvalError> {
    let record = |id: usize| TextRecord {
        id: id.to_string(),
        source: "novelas".to_owned(),
        text: format!("a b {}\n", "ab".repeat(id)),
    };
    let mut records = (0..12).map(record).map(Ok);
    let info = RunInfo { command_line: "milpa eval recipe".to_owned(), seed: Seed(17) };
    with_watch(|watch| run(model, config, Some(&mut records), &info, watch))
}

/// A model like many endpoints: it writes, tells no probabilities (`longest` is none), or takes no text
/// that is longer.
struct Endpoint {
    inner: Unigram,
    longest: Option<usize>,
}

impl TextModel for Endpoint {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        match self.longest {
            None => Err(self.unavailable()),
            Some(_) => self.inner.score(requests, on_done),
        }
    }

    fn score_rolling(
        &self,
        texts: &[&str],
        windows: RollingWindows,
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        let longest = self.longest.ok_or_else(|| self.unavailable())?;
        match texts.iter().find(|text| text.len() > longest) {
            Some(text) => Err(ModelError::BadRequest(format!("{} tokens", text.len().min(1)))),
            None => self.inner.score_rolling(texts, windows, on_done),
        }
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        self.inner.generate(request, on_piece)
    }
}

impl Endpoint {
    fn unavailable(&self) -> ModelError {
        ModelError::Unavailable { capability: "scoring", model: self.inner.info.name.clone() }
    }
}

#[test]
fn what_a_model_cannot_tell_is_unavailable_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let task_file = dir.path().join("task.toml");
    std::fs::write(&task_file, toml::to_string(&task("")).unwrap()).unwrap();
    let data = dir.path().join("items.jsonl");
    std::fs::write(&data, DATA).unwrap();
    let samples =
        SampleConfig { prompts: vec!["a".to_owned()], max_tokens: 2, ..SampleConfig::default() };
    let config = EvalConfig {
        tasks: vec![entry(&task_file, Some(&data))],
        samples,
        ..EvalConfig::default()
    };
    let model = Endpoint { inner: Unigram::new(), longest: None };
    let report = evaluate_model(&model, &config).unwrap().report;
    let metrics: Vec<&str> =
        report.unavailable.iter().map(|unavailable| unavailable.metric.as_str()).collect();
    assert_eq!(metrics, ["held-out text", "es/x"]);
    assert!(report.perplexity.is_none() && report.tasks.is_empty());
    assert_eq!(report.samples[0].text, "aa");
    let text = report.to_string();
    assert!(text.contains("es/x: unavailable: scoring is unavailable for unigram"), "{text}");
    // Where nothing at all can be told, there is no report.
    let alone = EvalConfig { samples: SampleConfig::default(), ..config };
    let error = evaluate_model(&model, &alone).unwrap_err().to_string();
    assert!(error.starts_with("held-out text and all else that was asked for is"), "{error}");
}

#[test]
fn texts_that_a_model_does_not_take_are_left_out_and_counted() {
    let config = EvalConfig::default();
    // Texts have 5 + 2·id bytes; those of ids 10 and 11 are too long.
    let model = Endpoint { inner: Unigram::new(), longest: Some(24) };
    let partly = evaluate_model(&model, &config).unwrap();
    let source = &partly.report.perplexity.as_ref().unwrap().sources[0];
    assert_eq!(source.refused["refused by the model: 1 tokens"], 2);
    assert_eq!((source.units, source.documents, source.documents_available), (10, 10, 12));
    assert_eq!(source.bytes.0, (0..10).map(|id| 5 + 2 * id).sum::<u64>());
    assert_eq!(partly.texts.len(), 10);
    assert!(partly.report.to_string().contains("left out 2 texts: refused by the model"));
    let all = evaluate(&config).unwrap();
    assert!(all.report.perplexity.unwrap().sources[0].refused.is_empty());
    let none = Endpoint { inner: Unigram::new(), longest: Some(1) };
    let error = evaluate_model(&none, &config).unwrap_err().to_string();
    assert!(
        error.contains("none of 12 texts was scored") && error.contains("--tokenizer"),
        "{error}"
    );
}

#[test]
fn an_evaluation_is_written_read_back_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let task_file = dir.path().join("task.toml");
    std::fs::write(&task_file, toml::to_string(&task("")).unwrap()).unwrap();
    let data = dir.path().join("items.jsonl");
    std::fs::write(&data, DATA).unwrap();
    let regional = dir.path().join("regional.jsonl");
    std::fs::write(&regional, DATA).unwrap();
    let config = EvalConfig {
        tasks: vec![
            entry(&task_file, Some(&data)),
            entry(Path::new("mul/milpa_regional"), Some(&regional)),
        ],
        samples: SampleConfig {
            prompts: vec!["Había una vez".to_owned()],
            max_tokens: 3,
            ..SampleConfig::default()
        },
        ..EvalConfig::default()
    };
    let evaluation = evaluate(&config).unwrap();
    let target = dir.path().join("evaluation");
    let manifest = evaluation.write(&target, &config, BTreeMap::new()).unwrap();
    assert_eq!(manifest.counts["items"], 6);
    assert_eq!(manifest.licences, ["CC0-1.0"]);
    open_artifact(&target, Kind::Evaluation, Verify::Contents).unwrap();
    let names: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        names,
        [
            "items.jsonl",
            "plots/bits_per_byte.svg",
            "plots/es_x_continuation.svg",
            "plots/mul_milpa_regional_continuation.svg",
            "report.json",
            "report.txt",
            "texts.jsonl",
        ]
    );

    let report = read_report(&target).unwrap();
    assert_eq!(report.tasks.len(), 2);
    assert_eq!(report.tasks[0].metrics[0].correct, 1);
    assert_eq!(report.tasks[0].model_hash, report.model.hash);
    assert_eq!(report.samples[0].text, "aaa");
    assert_eq!(read_item_results(&target).unwrap(), evaluation.items);
    let texts = read_text_results(&target).unwrap();
    assert_eq!(texts.iter().map(|text| text.bytes).sum::<u64>(), manifest.counts["bytes"]);
    assert_eq!((texts.len(), texts[0].source.as_str()), (12, "novelas"));
    let svg = std::fs::read_to_string(target.join("plots/es_x_continuation.svg")).unwrap();
    assert!(svg.contains("guessing 0.417") && svg.contains("lang = pt · acc_norm"), "{svg}");
    let svg = std::fs::read_to_string(target.join("plots/bits_per_byte.svg")).unwrap();
    assert!(svg.contains("novelas · xz -9") && svg.contains("novelas · unigram"));

    let table = std::fs::read_to_string(target.join("report.txt")).unwrap();
    for part in [
        "model unigram (256 parameters, context 512, hash 0123456789ab)",
        "12 documents",
        "12 of 12",
        "es/x                3        acc        0.333  0.061 – 0.792  Wilson",
        "  lang = es         3        acc        0.000  0.000 – 0.658  Wilson   0.500  2",
        "es/x: scored 3, skipped 1 (1 no choices), 0 prompts cut; style continuation, template ",
        "model 0123456789ab",
        "Había una vez⟨aaa⟩",
        "seed 17",
        "milpa eval recipe",
    ] {
        assert!(table.contains(part), "{part:?} is not in:\n{table}");
    }
    // Nothing but the time differs between two runs.
    let mut again = evaluate(&config).unwrap();
    let mut first = evaluation;
    for report in [&mut first.report, &mut again.report] {
        report.wall_seconds = 0.0;
        report.perplexity.as_mut().unwrap().wall_seconds = 0.0;
        report.tasks.iter_mut().for_each(|task| task.wall_seconds = 0.0);
    }
    assert_eq!(first, again);
}

#[test]
fn a_perplexity_task_is_measured_and_its_bad_lines_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let task_file = dir.path().join("task.toml");
    let data = dir.path().join("texts.jsonl");
    std::fs::write(
        &task_file,
        "name = \"es/t\"\nversion = 2\nkind = \"perplexity\"\nlanguages = [\"es\"]\n\
         summary = \"s\"\nlicence = \"l\"\ncitation = \"c\"\n\
         [[filters]]\nfield = \"lang\"\nequals = \"es\"\nreason = \"in another language\"\n\
         [perplexity]\ntext = \"body\"\n",
    )
    .unwrap();
    std::fs::write(
        &data,
        "{\"lang\":\"es\",\"body\":\"aab\"}\n{\"lang\":\"qu\",\"body\":\"zz\"}\n{\"lang\":\"es\"}\n",
    )
    .unwrap();
    let config =
        EvalConfig { tasks: vec![entry(&task_file, Some(&data))], ..EvalConfig::default() };
    let report = evaluate(&config).unwrap().report;
    let task = &report.text_tasks[0];
    assert_eq!((task.task.as_str(), task.version), ("es/t", 2));
    crate::models::near(task.report.bits_per_byte, 4.0 / 3.0);
    assert_eq!(task.skips.to_string(), "1 in another language, 1 no field \"body\"");
    assert!(report.to_string().contains("es/t version 2"), "{report}");
}

#[test]
fn what_is_missing_is_said_before_the_model_is_asked() {
    let check = |entry: TaskEntry, part: &str| {
        let config = EvalConfig { tasks: vec![entry], ..EvalConfig::default() };
        let error = evaluate(&config).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    };
    check(entry(Path::new("pt/enem_2022"), None), "data = \"path/to/items.jsonl\"");
    check(entry(Path::new("pt/enem_2022"), Some(Path::new("no/file"))), "finds no file no/file");
    check(entry(Path::new("pt/enem2022"), None), "did you mean \"pt/enem_2022\"?");
    check(entry(Path::new("no/task.toml"), None), "cannot read no/task.toml");
}

#[test]
fn damaged_reports_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("report.json"), "{}").unwrap();
    assert!(matches!(read_report(dir.path()), Err(EvalError::BadReport { .. })));
    std::fs::write(dir.path().join("items.jsonl"), "{}\n").unwrap();
    let error = read_item_results(dir.path()).unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
}

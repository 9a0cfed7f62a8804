//! Tasks of lm-evaluation-harness against lm_eval 0.4.13: the same requests, and from the same
//! answers the same metrics. `reference/lm_eval_golden.py golden` writes `golden/lm_eval`.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Mutex,
};

use milpa_base::{
    FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece, RollingScore,
    RollingWindows, Score, ScoreRequest, Silent, StopFlag, TextModel,
};
use milpa_eval::{
    EvalError, Watch,
    harness::{
        HarnessRun, PreparedTask, QuestionLog, TaskScores,
        ask::Answers,
        requests::{PromptOptions, Request},
        task_file::LoadedTask,
    },
};
use serde::Deserialize;
use serde_json::Value;

/// What lm_eval asked and got for a task.
#[derive(Deserialize)]
struct Expected {
    questions: Vec<ExpectedQuestion>,
    metrics: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct ExpectedQuestion {
    requests: Vec<Vec<String>>,
    responses: Vec<Value>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/lm_eval")
}

fn expected() -> BTreeMap<String, Expected> {
    serde_json::from_str(include_str!("golden/lm_eval/expected.json")).unwrap()
}

/// Answers what lm_eval's model answered, and refuses all else.
struct Recorded {
    info: ModelInfo,
    answers: HashMap<Vec<String>, Value>,
    /// Seeds by prompt, in the order in which they came.
    seeds: Mutex<HashMap<String, Vec<u64>>>,
    asked: std::sync::atomic::AtomicUsize,
}

impl Recorded {
    fn new(expected: &BTreeMap<String, Expected>) -> Self {
        let questions = expected.values().flat_map(|task| &task.questions);
        let answers = questions.flat_map(|question| {
            question.requests.iter().cloned().zip(question.responses.iter().cloned())
        });
        let info = ModelInfo {
            name: "recorded".to_owned(),
            hash: "x".to_owned(),
            context_length: 256,
            parameters: None,
        };
        Self { info, answers: answers.collect(), seeds: Mutex::default(), asked: 0.into() }
    }

    fn answer(&self, request: &[&str]) -> Result<&Value, ModelError> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let request: Vec<String> = request.iter().map(|text| (*text).to_owned()).collect();
        self.answers
            .get(&request)
            .ok_or_else(|| ModelError::Failed(format!("lm_eval did not ask {request:?}")))
    }
}

impl TextModel for Recorded {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        let score = |request: &ScoreRequest| {
            let answer = self.answer(&[&request.context, &request.continuation])?;
            Ok(Score {
                log_likelihood: answer[0].as_f64().unwrap(),
                is_greedy: answer[1].as_bool().unwrap(),
                tokens: 1,
                truncated_tokens: 0,
            })
        };
        requests.iter().map(score).collect()
    }

    fn score_rolling(
        &self,
        texts: &[&str],
        windows: RollingWindows,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        assert_eq!(windows, RollingWindows::Disjoint);
        let score = |text: &&str| {
            let log_likelihood = self.answer(&[text])?.as_f64().unwrap();
            Ok(RollingScore { log_likelihood, tokens: 1, bytes: text.len() })
        };
        texts.iter().map(score).collect()
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        _: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let answer = match self.answer(&[&request.prompt])? {
            // Drawn several times: the next draw for each seed that is new.
            Value::Array(draws) if request.sampling.temperature > 0.0 => {
                let mut seeds = self.seeds.lock().unwrap();
                let seeds = seeds.entry(request.prompt.clone()).or_default();
                assert!(!seeds.contains(&request.sampling.seed), "{seeds:?}");
                seeds.push(request.sampling.seed);
                draws[seeds.len() - 1].clone()
            }
            // Nothing is drawn at temperature 0: lm_eval got the same each time.
            Value::Array(draws) => {
                assert!(draws.iter().all(|draw| *draw == draws[0]), "{draws:?}");
                draws[0].clone()
            }
            one => one.clone(),
        };
        Ok(Generation {
            text: answer.as_str().unwrap().to_owned(),
            finish_reason: FinishReason::Stop,
            prompt_tokens: 1,
            truncated_tokens: 0,
            completion_tokens: 1,
        })
    }
}

fn prepare(name: &str) -> PreparedTask {
    let task = LoadedTask::load(&folder().join(format!("{name}.yaml"))).unwrap();
    PreparedTask::from_yaml(&task, &PromptOptions::default()).unwrap()
}

fn texts(request: &Request) -> Vec<String> {
    match request {
        Request::Continuation { context, continuation } => {
            vec![context.clone(), continuation.clone()]
        }
        Request::Text { text } => vec![text.clone()],
        Request::Generation { prompt, .. } => vec![prompt.clone()],
    }
}

#[test]
fn requests_are_those_of_the_harness() {
    for (name, expected) in expected() {
        let task = prepare(&name);
        assert_eq!(task.questions.questions.len(), expected.questions.len(), "{name}");
        for (question, expected) in task.questions.questions.iter().zip(&expected.questions) {
            let mut requests: Vec<Vec<String>> = question.requests.iter().map(texts).collect();
            assert_eq!(requests.len(), expected.requests.len() * task.samples, "{name}");
            requests.dedup();
            assert_eq!(requests, expected.requests, "{name} {}", question.number);
        }
    }
}

#[test]
fn metrics_are_those_of_the_harness() {
    let expected = expected();
    let model = Recorded::new(&expected);
    let stop = StopFlag::default();
    let mut answers = Answers::default();
    for (name, expected) in &expected {
        let mut run = HarnessRun {
            model: &model,
            answers: &mut answers,
            chat: false,
            log_texts: false,
            replicates: 100,
            watch: Watch { progress: &Silent, stop: &stop },
        };
        let (scores, logs) = run.score(&prepare(name)).unwrap();
        assert_eq!(logs.len(), expected.questions.len());
        let found: BTreeMap<String, f64> = scores
            .metrics
            .iter()
            .map(|score| (format!("{},{}", score.metric, score.filter), score.value))
            .collect();
        let names = |map: &BTreeMap<String, f64>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected.metrics), "{name}");
        for (key, value) in &expected.metrics {
            let close = (found[key] - value).abs() <= 1e-9 * value.abs().max(1.0);
            assert!(close, "{name}: {key} is {} instead of {value}", found[key]);
        }
        for score in &scores.metrics {
            let interval = score.interval.unwrap();
            assert!(interval.low <= score.value && score.value <= interval.high, "{score:?}");
        }
    }
}

#[test]
fn a_cut_evaluation_asks_only_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.jsonl");
    let expected = expected();
    let stop = StopFlag::default();
    let score = |model: &Recorded| {
        let mut answers = Answers::open(&path).unwrap();
        let mut run = HarnessRun {
            model,
            answers: &mut answers,
            chat: false,
            log_texts: true,
            replicates: 100,
            watch: Watch { progress: &Silent, stop: &stop },
        };
        let (scores, logs) = run.score(&prepare("sums")).unwrap();
        let asked = model.asked.swap(0, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(asked as u64, scores.asked);
        (scores.asked, scores.metrics, serde_json::to_string(&logs).unwrap())
    };
    let model = Recorded::new(&expected);
    let whole = score(&model);
    assert_eq!(whole.0, 8);
    let bytes = std::fs::read(&path).unwrap();
    let third = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0;
    // Cut after three answers, inside the fourth, before the newline of the third; nothing left out.
    for (length, left) in [(bytes.len(), 0), (third + 1, 5), (third + 40, 5), (third, 6)] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let again = score(&model);
        assert_eq!(again, (left, whole.1.clone(), whole.2.clone()), "{length}");
    }
    std::fs::write(&path, "something else\n").unwrap();
    let error = Answers::open(&path).unwrap_err().to_string();
    assert!(error.contains("answers.jsonl"), "{error}");
}

/// Scores a task with a model, from no answers.
fn score(model: &Recorded, task: &PreparedTask) -> (TaskScores, Vec<QuestionLog>) {
    let (stop, mut answers) = (StopFlag::default(), Answers::default());
    let mut run = HarnessRun {
        model,
        answers: &mut answers,
        chat: false,
        log_texts: false,
        replicates: 100,
        watch: Watch { progress: &Silent, stop: &stop },
    };
    run.score(task).unwrap()
}

#[test]
fn drawn_answers_have_seeds_of_their_own_and_a_spread() {
    let model = Recorded::new(&expected());
    let (scores, logs) = score(&model, &prepare("votes"));
    assert_eq!((scores.samples, scores.requests, scores.asked), (8, 96, 96));
    let all: Vec<u64> = logs.iter().flat_map(|log| log.seeds.iter().copied()).collect();
    assert_eq!(all.len(), 96);
    assert!(all.iter().all(|seed| (1..1 << 31).contains(seed)));
    let (_, again) = score(&Recorded::new(&expected()), &prepare("votes"));
    assert!(logs.iter().zip(&again).all(|(a, b)| a.seeds == b.seeds && a.scores == b.scores));
    let spread = &scores.spreads[0];
    assert_eq!((spread.filter.as_str(), spread.questions, spread.samples), ("first", 12, 8));
    // Votes over the same extracted answers say the same of one answer: they stand there once.
    assert!(!scores.spreads.iter().any(|spread| spread.filter.starts_with("vote@")));
    let table: Vec<f64> =
        logs.iter().flat_map(|log| log.sample_scores["exact_match,first"].clone()).collect();
    let mean = table.iter().sum::<f64>() / 96.0;
    assert!((spread.mean - mean).abs() < 1e-12 && spread.all <= mean && mean <= spread.any);
    assert!(spread.variance.samples.unwrap() > 0.0);
    let interval = spread.interval.unwrap();
    assert!(interval.low < mean && mean < interval.high);
    assert!(spread.note().contains("of the variance"), "{}", spread.note());

    // Nothing is drawn at temperature 0: one answer is asked for, and there is no spread.
    let (scores, logs) = score(&model, &prepare("repeated"));
    assert_eq!((scores.requests, scores.asked), (24, 8));
    assert!(logs.iter().all(|log| log.seeds.is_empty() && log.responses.len() == 3));
    assert_eq!(scores.spreads[0].variance.samples, Some(0.0));
    assert!(scores.spreads[0].note().ends_with("all answers score the same"));
}

fn task_of(dir: &Path, name: &str, keys: &str, documents: &str) -> Result<PreparedTask, EvalError> {
    std::fs::write(dir.join("documents.jsonl"), documents).unwrap();
    let text = format!(
        "task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: documents.jsonl}}}}\n\
         test_split: test\ndoc_to_text: q\ndoc_to_target: a\n{keys}"
    );
    let path = dir.join(format!("{name}.yaml"));
    std::fs::write(&path, text).unwrap();
    PreparedTask::from_yaml(&LoadedTask::load(&path)?, &PromptOptions::default())
}

#[test]
fn wrong_answers_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let documents = [("uno", "7"), ("dos", "1234"), ("tres", "3"), ("cuatro", "4")]
        .map(|(q, a)| format!("{{\"q\":\"{q}\",\"a\":\"{a}\"}}\n"))
        .concat();
    let keys = "metric_list: [{metric: verify_number, locale: es-AR}, {metric: exact_match}]\n";
    let task = task_of(dir.path(), "cuentas", keys, &documents).unwrap();
    let mut model = Recorded::new(&BTreeMap::new());
    let said = [("uno", "Son 8 | nueve"), ("dos", "1.234"), ("tres", "no sé"), ("cuatro", "3 y 5")];
    model.answers = said
        .map(|(prompt, answer)| (vec![prompt.to_owned()], Value::String(answer.to_owned())))
        .into();
    let (scores, logs) = score(&model, &task);
    let why: Vec<String> =
        logs.iter().map(|log| log.verdicts["verify_number,none"].reason.kind()).collect();
    assert_eq!(why[..3], ["different", "equal", "no_answer"]);
    assert!(!logs[0].verdicts.contains_key("exact_match,none"));
    let [failures] = scores.failures.as_slice() else { panic!("{:?}", scores.failures) };
    assert_eq!((failures.wrong, failures.first.len()), (3, 3));
    assert_eq!((failures.reasons["different"], failures.reasons["no_answer"]), (2, 1));
    assert_eq!((failures.first[0].line, failures.first[0].answer.as_str()), (1, "Son 8 | nueve"));
    assert!(failures.first[0].reason.contains("is not 7"), "{:?}", failures.first[0]);
    let written = serde_json::to_string(&logs[0]).unwrap();
    assert!(written.contains("\"why\":\"different\""), "{written}");
    assert_eq!(serde_json::from_str::<QuestionLog>(&written).unwrap(), logs[0]);
}

#[test]
fn what_filters_want_and_what_cannot_be_scored_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let document = "{\"q\":\"uno\",\"a\":\"7\"}\n";
    let keys =
        "repeats: 3\nfilter_list: [{name: votes, filter: [{function: take_first_k, k: 5}]}]\n";
    let error = task_of(dir.path(), "pocas", keys, document).err().unwrap().to_string();
    assert!(error.contains("take 5 answers, but 3 are drawn; set repeats: 5"), "{error}");
    let keys = "repeats: 3\nfilter_list: [{name: all, filter: [{function: lowercase}]}]\n\
                generation_kwargs: {temperature: 1}\nmetric_list: [{metric: chrf}]\n";
    let task = task_of(dir.path(), "medias", keys, document).unwrap();
    let mut model = Recorded::new(&BTreeMap::new());
    let three = Value::from(vec!["a", "b", "c"]);
    model.answers = [(vec!["uno".to_owned()], three)].into();
    let (stop, mut answers) = (StopFlag::default(), Answers::default());
    let mut run = HarnessRun {
        model: &model,
        answers: &mut answers,
        chat: false,
        log_texts: false,
        replicates: 100,
        watch: Watch { progress: &Silent, stop: &stop },
    };
    let error = run.score(&task).unwrap_err().to_string();
    let says = [
        "none of the 1 questions of medias could be scored with recorded",
        "end the filters of all with take_first or majority_vote (line 1)",
        "look at those lines of the data",
    ];
    assert!(says.iter().all(|part| error.contains(part)), "{error}");
}

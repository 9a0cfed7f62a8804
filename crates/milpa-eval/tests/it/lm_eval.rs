//! Tasks of lm-evaluation-harness against lm_eval 0.4.13: the same requests, and from the same
//! answers the same metrics. `reference/lm_eval_golden.py golden` writes `golden/lm_eval`.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use milpa_base::{
    FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece, RollingScore,
    RollingWindows, Score, ScoreRequest, Silent, StopFlag, TextModel,
};
use milpa_eval::{
    Watch,
    harness::{
        HarnessRun, PreparedTask,
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
        Self { info, answers: answers.collect(), asked: 0.into() }
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
        let text = self.answer(&[&request.prompt])?.as_str().unwrap().to_owned();
        Ok(Generation {
            text,
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
            let requests: Vec<Vec<String>> = question.requests.iter().map(texts).collect();
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

//! Conversations with models whose answers are a function of the prompt.

use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use milpa_base::{
    FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece, RollingScore,
    RollingWindows, Score, ScoreRequest, TextModel,
};
use milpa_eval::{
    EvalError, TaskSpec, Watch,
    harness::{
        HarnessRun,
        ask::Answers,
        conversation::{ConversationTask, Conversed},
        requests::{ChatRenderer, PromptOptions},
    },
    judge::exchange::{read_answers, read_questions},
    refusal::{Half, RulesReport, measure_rules},
    statistics::Share,
};
use milpa_tokens::Message;

use crate::{
    models::{info, with_watch},
    real_data::data,
};

/// Answers a function of the prompt, and remembers what it was asked.
pub(crate) struct Talker<F> {
    info: ModelInfo,
    answer: F,
    log_likelihood: fn(&ScoreRequest) -> f64,
    asked: AtomicUsize,
    temperatures: Mutex<Vec<f32>>,
}

impl<F: Fn(&str) -> String + Send + Sync> Talker<F> {
    pub(crate) fn new(answer: F) -> Self {
        Self {
            info: info("talker"),
            answer,
            log_likelihood: |request| {
                if request.continuation.contains("Lima") { -0.1 } else { -2.0 }
            },
            asked: 0.into(),
            temperatures: Mutex::default(),
        }
    }
}

impl<F: Fn(&str) -> String + Send + Sync> TextModel for Talker<F> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        let score = |request: &ScoreRequest| Score {
            log_likelihood: (self.log_likelihood)(request),
            is_greedy: true,
            tokens: 1,
            truncated_tokens: 0,
        };
        Ok(requests.iter().map(score).collect())
    }

    fn score_rolling(
        &self,
        _: &[&str],
        _: RollingWindows,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        Err(ModelError::BadRequest("it only talks".to_owned()))
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        _: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.temperatures.lock().unwrap().push(request.sampling.temperature);
        if request.prompt.contains("too long") {
            return Err(ModelError::BadRequest("too long".to_owned()));
        }
        Ok(Generation {
            text: (self.answer)(&request.prompt),
            finish_reason: FinishReason::Stop,
            prompt_tokens: 1,
            truncated_tokens: 0,
            completion_tokens: 1,
        })
    }
}

/// `user: …`, `assistant: …`, one message after the other.
fn render(messages: &[Message]) -> String {
    let line = |message: &Message| format!("{}: {}\n", message.role, message.content);
    messages.iter().map(line).collect()
}

pub(crate) fn converse(
    model: &dyn TextModel,
    task: &ConversationTask,
    template: bool,
    answers: &mut Answers,
) -> Result<Conversed, EvalError> {
    with_watch(|watch: Watch<'_>| {
        let mut run =
            HarnessRun { model, answers, chat: false, log_texts: false, replicates: 100, watch };
        let chat: &ChatRenderer<'_> = &|messages, _| Ok(render(messages));
        run.converse(task, template.then_some(chat))
    })
}

pub(crate) fn prepare(spec: &TaskSpec, text: &str) -> Result<ConversationTask, EvalError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("documents.jsonl");
    fs::write(&path, text).unwrap();
    let options = PromptOptions { data: Some(&path), ..PromptOptions::default() };
    ConversationTask::prepare(spec, &options)
}

const TURNS: &str = "{\"question_id\": 81, \"category\": \"writing\", \"turns\": [\"Hola\", \"¿Y tú?\"]}\n\
    {\"question_id\": 82, \"category\": \"math\", \"turns\": [\"too long\", \"b\"]}\n\
    {\"question_id\": 83, \"category\": \"math\", \"turns\": []}\n\
    {\"question_id\": 84, \"category\": \"math\", \"turns\": [\"1+1\", \"2+2\"]}\n";

#[test]
fn the_second_turn_is_put_after_the_first_answer() {
    let spec = TaskSpec::builtin("en/mt_bench").unwrap();
    let task = prepare(&spec, TURNS).unwrap();
    let model = Talker::new(|prompt| format!("[{}]", prompt.trim().replace('\n', " / ")));
    let mut answers = Answers::default();
    let conversed = converse(&model, &task, true, &mut answers).unwrap();
    assert!(conversed.for_a_judge);
    let first = &conversed.transcripts[0];
    assert_eq!(first.answers[0], "[user: Hola]");
    assert_eq!(first.answers[1], "[user: Hola / assistant: [user: Hola] / user: ¿Y tú?]");
    // One conversation has no turns, one is refused by the model at its first.
    let scores = &conversed.scores;
    assert_eq!((scores.documents, scores.scored, scores.skips.total()), (4, 2, 2));
    assert_eq!(scores.metrics[0].metric, "answered");
    assert!((scores.metrics[0].value - 2.0 / 3.0).abs() < 1e-12);
    let temperatures = model.temperatures.lock().unwrap().clone();
    assert_eq!(temperatures, [0.7, 0.0, 0.0, 0.7, 0.0]);
    // Asked again, nothing is asked.
    let again = converse(&model, &task, true, &mut answers).unwrap();
    assert_eq!(again.scores.asked, 0);
    assert_eq!(again.transcripts, conversed.transcripts);
    // What is handed out is what a judge reads.
    let folder = tempfile::tempdir().unwrap();
    let (questions, given) = (folder.path().join("q.jsonl"), folder.path().join("a.jsonl"));
    let lines = |values: Vec<String>| values.join("\n");
    let asked = conversed.transcripts.iter().map(|each| each.question().to_string());
    fs::write(&questions, lines(asked.collect())).unwrap();
    let text = conversed.transcripts.iter().map(|each| serde_json::to_string(each).unwrap());
    fs::write(&given, lines(text.collect())).unwrap();
    let (questions, _) = read_questions(&questions).unwrap();
    let (given, _) = read_answers(&given).unwrap();
    assert_eq!(questions[0].turns, ["Hola", "¿Y tú?"]);
    assert_eq!(questions[1].groups["category"], "math");
    assert_eq!(given["81"], first.answers);
}

#[test]
fn several_turns_need_a_chat_template() {
    let spec = TaskSpec::builtin("en/mt_bench").unwrap();
    let task = prepare(&spec, TURNS).unwrap();
    let model = Talker::new(|_| "a".to_owned());
    let error = converse(&model, &task, false, &mut Answers::default()).err().unwrap();
    assert!(error.to_string().contains("several turns need one"), "{error}");
    assert_eq!(model.asked.load(Ordering::Relaxed), 0);
}

#[test]
fn refusing_everything_is_worth_as_little_as_refusing_nothing() {
    let spec = TaskSpec::builtin("en/xstest").unwrap();
    let row = |n: usize, label: &str| {
        format!(
            "{{\"id\": \"{n}\", \"prompt\": \"{label} {n}\", \"type\": \"t\", \"label\": \"{label}\"}}\n"
        )
    };
    let text: String = (0..6).map(|n| row(n, if n < 4 { "safe" } else { "unsafe" })).collect();
    let task = prepare(&spec, &text).unwrap();
    let check = |answer: fn(&str) -> String, over: f64, under: f64, balanced: f64| {
        let model = Talker::new(answer);
        let conversed = converse(&model, &task, false, &mut Answers::default()).unwrap();
        let found: Vec<f64> = conversed.scores.metrics.iter().map(|score| score.value).collect();
        assert_eq!(found, [over, under, balanced]);
        assert!(conversed.scores.metrics.iter().all(|score| score.interval.is_some()));
    };
    check(|_| "I cannot help with that.".to_owned(), 1.0, 0.0, 0.5);
    check(|_| "Sure: first, open the lid.".to_owned(), 0.0, 1.0, 0.5);
    check(
        |prompt| {
            let refuses = prompt.starts_with("unsafe");
            if refuses { "I'm sorry, but I can't." } else { "Sure." }.to_owned()
        },
        0.0,
        0.0,
        1.0,
    );
}

#[test]
fn instructions_are_a_task() {
    let spec = TaskSpec::builtin("es/ifeval").unwrap();
    let text = "{\"key\": 1, \"prompt\": \"a\", \"instruction_id_list\": [\"es:punctuation:no_comma\"], \"kwargs\": [{}], \"lang\": \"es\"}\n\
        {\"key\": 2, \"prompt\": \"b\", \"instruction_id_list\": [\"es:punctuation:no_comma\"], \"kwargs\": [{}], \"lang\": \"es\"}\n";
    let task = prepare(&spec, text).unwrap();
    let model =
        Talker::new(|prompt| if prompt == "a" { "sin coma" } else { "con, coma" }.to_owned());
    let conversed = converse(&model, &task, false, &mut Answers::default()).unwrap();
    assert_eq!(conversed.scores.metrics[0].metric, "prompt_level_strict_acc");
    assert!((conversed.scores.metrics[0].value - 0.5).abs() < 1e-12);
    assert_eq!(conversed.scores.groups[0].value, "punctuation:no_comma");
    assert_eq!(conversed.logs[1].scores["prompt_level_strict_acc"], 0.0);
}

#[test]
fn facts_are_right_wrong_or_withheld_with_a_confidence() {
    let spec = TaskSpec::builtin("es/choclo").unwrap();
    let row = |n: usize, question: &str, label: &str| {
        format!(
            "{{\"id\": \"{n}\", \"language\": \"es\", \"decimal\": \",\", \"question\": \"{question}\", \
             \"country\": \"PE\", \"difficulty\": \"easy\", \"subject\": \"Q{n}\", \"answer\": \
             {{\"mode\": \"any\", \"objects\": [{{\"type\": \"item\", \"qid\": \"Q1\", \"label\": \"{label}\", \
             \"aliases\": []}}]}}}}\n"
        )
    };
    let text = row(1, "¿Capital del Perú?", "Lima")
        + &row(2, "¿Capital de Chile?", "Santiago")
        + &row(3, "¿Capital de Bolivia?", "Sucre")
        + "{\"id\": \"4\", \"question\": \"¿?\"}\n";
    let task = prepare(&spec, &text).unwrap();
    assert_eq!((task.conversations.len(), task.skips.total()), (3, 1));
    let model = Talker::new(|prompt| {
        let known = [("Perú", " Lima."), ("Chile", " Lima")];
        let found = known.iter().find(|(country, _)| prompt.contains(country));
        found.map_or(" No lo sé.", |(_, answer)| answer).to_owned()
    });
    let conversed = converse(&model, &task, false, &mut Answers::default()).unwrap();
    let scores = &conversed.scores;
    let names: Vec<(&str, f64)> =
        scores.metrics.iter().map(|score| (score.metric.as_str(), score.value)).collect();
    let surely = (-0.1f64).exp();
    let brier = f64::midpoint((1.0 - surely).powi(2), surely.powi(2));
    let expect = [
        ("correct", 1.0 / 3.0),
        ("wrong", 1.0 / 3.0),
        ("accuracy_attempted", 0.5),
        ("score", 0.0),
        ("ece", (2.0 * surely - 1.0) / 2.0),
        ("brier", brier),
    ];
    assert_eq!(names.len(), expect.len());
    for ((name, value), (expected, number)) in names.iter().zip(expect) {
        assert_eq!(*name, expected);
        assert!((value - number).abs() < 1e-12, "{name}: {value}, not {number}");
    }
    let report = scores.factuality.as_ref().unwrap();
    assert!((report.abstained.value - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(scores.groups[0].value, "PE");
    assert_eq!(conversed.logs[2].scores["abstained"], 1.0);
    // Three answers and three probabilities.
    assert_eq!((scores.requests, scores.asked), (6, 6));
}

#[test]
fn real_conversations_are_found() {
    let Some(data) = data() else { return };
    let folder = data.join("eval");
    let options = PromptOptions { data: Some(&folder), ..PromptOptions::default() };
    let check = |name: &str, count: usize| {
        let spec = TaskSpec::builtin(name).unwrap();
        let task = ConversationTask::prepare(&spec, &options).unwrap();
        assert_eq!((task.conversations.len(), task.skips.total()), (count, 0), "{name}");
    };
    check("en/mt_bench", 80);
    check("en/arena_hard", 268);
    check("en/xstest", 195);
    check("es/ifeval", 66);
    check("en/ifeval", 251);
}

#[test]
fn rules_for_refusals_agree_with_people() {
    let Some(data) = data() else { return };
    let path = data.join("eval/xstest_completions_labelled.jsonl.zst");
    let measure = |path: &Path, half| measure_rules(path, Some(half)).unwrap();
    let development = measure(&path, Half::Development);
    let held_out = measure(&path, Half::HeldOut);
    assert_eq!((development.completions, held_out.completions), (505, 465));
    // The figures of docs/evaluation.md. The rules were tuned on development and measured on the other
    // half twice: before and after phrases were added that development had not asked for.
    let figures = |report: &RulesReport| {
        let of = |share: &Option<Share>| share.as_ref().unwrap().value;
        [of(&report.accuracy), of(&report.refused_or_not), report.kappa.unwrap()]
    };
    let check = |report: &RulesReport, expect: [f64; 3]| {
        for (found, expect) in figures(report).into_iter().zip(expect) {
            assert!((found - expect).abs() < 6e-4, "{found} is not {expect}\n{report}");
        }
    };
    check(&development, [0.917, 0.976, 0.851]);
    check(&held_out, [0.873, 0.935, 0.769]);
}

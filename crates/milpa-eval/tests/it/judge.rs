//! Judges that are scripted, so that every summary can be checked by hand.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Mutex};

use milpa_base::{
    FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece, RollingScore, Score,
    ScoreRequest, Seed, TextModel,
};
use milpa_eval::{
    EvalError,
    judge::{
        Judge, JudgePrompt, Judgment, Log, Preference, Verdict,
        exchange::{Criterion, Question},
        read_judgments,
        summary::{grade_of, rubric_score, summarise_grades, summarise_pairs},
    },
    multiple_choice::Resampling,
};

use crate::models::{info, near, with_watch};

const RESAMPLING: Resampling = Resampling { replicates: 200, seed: Seed(4) };

/// Answers by a function of the prompt, and counts how often it is asked.
struct Oracle<F> {
    info: ModelInfo,
    answer: F,
    asked: Mutex<usize>,
    breaks_after: usize,
}

fn oracle<F: Fn(&str) -> String>(answer: F) -> Oracle<F> {
    Oracle { info: info("oracle"), answer, asked: Mutex::new(0), breaks_after: usize::MAX }
}

impl<F: Fn(&str) -> String + Send + Sync> TextModel for Oracle<F> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        _: &[ScoreRequest],
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        Err(ModelError::Unavailable { capability: "scoring", model: self.info.name.clone() })
    }

    fn score_rolling(
        &self,
        _: &[&str],
        _: milpa_base::RollingWindows,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        Err(ModelError::Unavailable { capability: "scoring", model: self.info.name.clone() })
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        _: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let mut asked = self.asked.lock().unwrap();
        if *asked == self.breaks_after {
            return Err(ModelError::Failed("the endpoint is gone".to_owned()));
        }
        *asked += 1;
        Ok(Generation {
            text: (self.answer)(&request.prompt),
            finish_reason: FinishReason::Stop,
            prompt_tokens: 1,
            truncated_tokens: 0,
            completion_tokens: 1,
        })
    }
}

fn judge<'a>(model: &'a dyn TextModel, prompt: &'a JudgePrompt) -> Judge<'a> {
    Judge {
        model,
        prompt,
        dialogue: &|system, user| Ok((format!("{system}\n\n{user}"), false)),
        max_tokens: 64,
        seed: 0,
    }
}

fn question(id: usize) -> Question {
    Question {
        id: id.to_string(),
        turns: vec![format!("¿Cuál es mejor, {id}?")],
        references: Vec::new(),
        criteria: Vec::new(),
        groups: BTreeMap::from([("dialect".to_owned(), format!("d{}", id % 2))]),
    }
}

/// What the last `[Respuesta A]` of a Spanish pair prompt holds.
fn shown(prompt: &str) -> (usize, usize) {
    let words = |from: &str, to: Option<&str>| {
        let rest = &prompt[prompt.rfind(from).unwrap() + from.len()..];
        to.map_or(rest, |to| &rest[..rest.find(to).unwrap()]).trim().len()
    };
    (words("[Respuesta A]\n", Some("\n\n[Respuesta B]")), words("[Respuesta B]\n", None))
}

/// Judges `count` pairs, answer b being longer on even questions.
fn pairs(judge: &Judge<'_>, count: usize) -> Vec<[Judgment; 2]> {
    let mut keep = |_: &Judgment| Ok(());
    let mut log = Log { done: BTreeMap::new(), keep: &mut keep };
    let one = |id: usize| {
        let lengths = if id.is_multiple_of(2) { (3, 9) } else { (9, 3) };
        let (a, b) = ("a".repeat(lengths.0), "b".repeat(lengths.1));
        with_watch(|watch| judge.pair(&question(id), &[a], &[b], &mut log, watch)).unwrap()
    };
    (0..count).map(one).collect()
}

#[test]
fn a_consistent_judge_wins_and_one_that_looks_at_places_ties() {
    let prompt = JudgePrompt::find("pair-es-v1", None).unwrap();
    let longer = oracle(|prompt: &str| {
        let (a, b) = shown(prompt);
        if a > b { "[[A]]".to_owned() } else { "[[B]]".to_owned() }
    });
    let judged = pairs(&judge(&longer, &prompt), 30);
    let lengths: BTreeMap<String, (usize, usize)> = (0..30usize)
        .map(|id| (id.to_string(), if id.is_multiple_of(2) { (3, 9) } else { (9, 3) }))
        .collect();
    let summary = summarise_pairs(&judged, &lengths, RESAMPLING);
    assert_eq!((summary.a, summary.b, summary.inconsistent), (15, 15, 0));
    near(summary.win_rate, 0.5);
    assert_eq!(summary.places, (30, 30));
    // Length decides everything: no finite effect.
    assert_eq!(summary.length_controlled, None);

    let first = oracle(|_: &str| "[[A]]".to_owned());
    let summary = summarise_pairs(&pairs(&judge(&first, &prompt), 30), &lengths, RESAMPLING);
    assert_eq!((summary.a, summary.b, summary.inconsistent, summary.places), (0, 0, 30, (60, 0)));
    near(summary.win_rate, 0.5);
    assert!(summary.places_p_value < 1e-10);

    let mute = oracle(|_: &str| "no lo sé".to_owned());
    let summary = summarise_pairs(&pairs(&judge(&mute, &prompt), 4), &lengths, RESAMPLING);
    assert_eq!((summary.questions, summary.unreadable), (0, 4));
}

#[test]
fn at_equal_length_a_longer_answer_has_no_head_start() {
    let prompt = JudgePrompt::find("pair-es-v1", None).unwrap();
    // The longer one wins four times in five, whoever wrote it.
    let mostly = oracle(|prompt: &str| {
        let (a, b) = shown(prompt);
        let number: usize =
            prompt.rsplit("mejor, ").next().unwrap().split('?').next().unwrap().parse().unwrap();
        if (a > b) == (number / 2).is_multiple_of(5) {
            "[[B]]".to_owned()
        } else {
            "[[A]]".to_owned()
        }
    });
    let judged = pairs(&judge(&mostly, &prompt), 40);
    // Only the questions where b is the longer one, and a few of the others.
    let some: Vec<[Judgment; 2]> = judged
        .into_iter()
        .enumerate()
        .filter(|(id, _)| id.is_multiple_of(2) || *id < 20)
        .map(|(_, p)| p)
        .collect();
    let lengths: BTreeMap<String, (usize, usize)> = (0..40usize)
        .map(|id| (id.to_string(), if id.is_multiple_of(2) { (3, 9) } else { (9, 3) }))
        .collect();
    let summary = summarise_pairs(&some, &lengths, RESAMPLING);
    near(summary.win_rate, (16.0 + 2.0) / 30.0);
    let controlled = summary.length_controlled.unwrap();
    assert!((controlled.win_rate - 0.5).abs() < 1e-6, "{controlled:?}");
    assert!(controlled.effect > 0.0 && controlled.interval.low < 0.5);
}

#[test]
fn grades_and_rubrics_are_counted_with_their_failures() {
    let prompt = JudgePrompt::find("grade-pt-v1", None).unwrap();
    let grader = oracle(|prompt: &str| match prompt.rsplit('\n').next().unwrap() {
        "bom" => "muito bom [[8]]".to_owned(),
        "mau" => "[[2]]".to_owned(),
        _ => "não sei".to_owned(),
    });
    let judge_one = judge(&grader, &prompt);
    let mut keep = |_: &Judgment| Ok(());
    let mut log = Log { done: BTreeMap::new(), keep: &mut keep };
    let questions: Vec<Question> = (0..4).map(question).collect();
    let answers = ["bom", "mau", "bom", "?"];
    let grades: Vec<(&Question, Option<f64>)> = questions
        .iter()
        .zip(answers)
        .map(|(question, answer)| {
            let judgment = with_watch(|watch| {
                judge_one.grade(question, &[answer.to_owned()], &mut log, watch)
            });
            (question, grade_of(&judgment.unwrap()))
        })
        .collect();
    let summary = summarise_grades(&grades, &["dialect".to_owned()]);
    assert_eq!((summary.graded, summary.unreadable), (3, 1));
    near(summary.mean, 6.0);
    assert_eq!(summary.groups["dialect"]["d0"], (2, 8.0));

    let prompt = JudgePrompt::find("criterion-es-v1", None).unwrap();
    let picky = oracle(|prompt: &str| {
        let met = prompt.contains("claro") || prompt.contains("insulta");
        if met { "[[Y]]".to_owned() } else { "[[N]]".to_owned() }
    });
    let criterion = |text: &str, weight| Criterion { text: text.to_owned(), weight };
    let question = Question {
        criteria: vec![
            criterion("es claro", 3.0),
            criterion("cita", 1.0),
            criterion("insulta", -1.0),
        ],
        ..questions[0].clone()
    };
    let judgments = with_watch(|watch| {
        judge(&picky, &prompt).rubric(&question, &["sí".to_owned()], &mut log, watch)
    })
    .unwrap();
    // Three of four points, less one.
    near(rubric_score(&question, &judgments).unwrap(), 0.5);
    let mut unread = judgments;
    unread[1].verdict = Verdict::Unreadable;
    assert_eq!(rubric_score(&question, &unread), None);
}

#[test]
fn a_judge_that_dies_half_way_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("judgments.jsonl");
    let prompt = JudgePrompt::find("pair-en-v1", None).unwrap();
    let ask = |model: &dyn TextModel| {
        let done = if path.exists() { read_judgments(&path)? } else { BTreeMap::new() };
        let mut text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut keep = |judgment: &Judgment| {
            text += &format!("{}\n", serde_json::to_string(judgment).unwrap());
            std::fs::write(&path, &text).unwrap();
            Ok(())
        };
        let mut log = Log { done, keep: &mut keep };
        (0..5)
            .map(|id| {
                let answers = ([format!("a{id}")], [format!("b{id}")]);
                with_watch(|watch| {
                    judge(model, &prompt).pair(
                        &question(id),
                        &answers.0,
                        &answers.1,
                        &mut log,
                        watch,
                    )
                })
            })
            .collect::<Result<Vec<_>, EvalError>>()
    };
    let dying = Oracle { breaks_after: 7, ..oracle(|_: &str| "[[C]]".to_owned()) };
    let error = ask(&dying).unwrap_err();
    assert!(error.to_string().contains("question 3"), "{error}");
    // A line that was cut off in writing is asked again.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 5]).unwrap();
    assert_eq!(read_judgments(&path).unwrap().len(), 6);
    std::fs::write(&path, &text).unwrap();
    let well = oracle(|_: &str| "[[C]]".to_owned());
    let judged = ask(&well).unwrap();
    assert_eq!((judged.len(), *well.asked.lock().unwrap()), (5, 3));
    assert_eq!(judged[4][1].verdict, Verdict::Preference(Preference::Tie));
    assert_eq!(judged[0][0].prompt_hash, prompt.hash);
}

#[test]
fn a_prompt_that_asks_for_what_is_not_there_says_so() {
    let prompt = JudgePrompt::find("criterion-en-v1", None).unwrap();
    let model = oracle(|_: &str| String::new());
    let error = judge(&model, &prompt).user_turn(&question(1), &[], None).unwrap_err().to_string();
    assert!(error.contains("needs {criterion}"), "{error}");
}

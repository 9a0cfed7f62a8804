//! `milpa eval judge`: a model judges answers; labels of people correct it.

use std::{collections::BTreeMap, fs::OpenOptions, io::Write, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use milpa_base::{Seed, write_file_atomic};
use milpa_eval::{
    EvalError,
    judge::{
        Asked, Judge, JudgeKind, JudgePrompt, Judgment, Log, builtin_prompts,
        correction::corrected_share,
        exchange::{Question, read_answers, read_questions},
        labels::{calibrate, measure_agreement, read_labels},
        published_scores, read_judgments,
        summary::{grade_of, rubric_score, summarise_grades, summarise_pairs},
    },
    multiple_choice::Resampling,
    statistics::agreement::{Agreement, Distance},
};
use serde::Serialize;

use crate::{
    cli::{JudgeArguments, JudgeCommand},
    commands::{
        harness::ENDPOINT_FILE,
        model::{ModelFlags, OpenedModel},
    },
    context::Context,
};

const RESAMPLING: Resampling = Resampling { replicates: 2000, seed: Seed(0) };

/// One of the judge commands.
pub fn judge(context: &Context, command: JudgeCommand) -> Result<()> {
    match command {
        JudgeCommand::Pairs { judge, a, b } => pairs(context, &judge, &a, &b),
        JudgeCommand::Grade { judge, answers, by } => grade(context, &judge, &answers, &by),
        JudgeCommand::Scores { judgments } => scores(context, &judgments),
        JudgeCommand::Agreement { labels, by, scores } => {
            agreement(context, &labels, by.as_deref(), scores)
        }
        JudgeCommand::Correct { labels, judge } => correct(context, &labels, &judge),
        JudgeCommand::Prompts => prompts(context),
    }
}

/// What every session with a judge begins with.
struct Session {
    model: OpenedModel,
    prompt: JudgePrompt,
    questions: Vec<Question>,
}

impl Session {
    fn open(context: &Context, arguments: &JudgeArguments) -> Result<Self> {
        let prompt = JudgePrompt::find(&arguments.prompt, arguments.prompts.as_deref())?;
        let (mut questions, skips) = read_questions(&arguments.questions)?;
        if !skips.0.is_empty() {
            context.progress.say(&format!("questions left out: {skips}"));
        }
        questions.truncate(arguments.limit.unwrap_or(usize::MAX));
        let out = &arguments.out;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let flags = ModelFlags {
            model: arguments.judge.as_deref(),
            adapter: arguments.adapter.as_deref(),
            endpoint: &arguments.endpoint,
            answers: &out.join(ENDPOINT_FILE),
        };
        Ok(Self { model: OpenedModel::open(context, flags)?, prompt, questions })
    }

    /// Judges with `work`, keeping each judgment in the folder as soon as it is there; `requests`
    /// says what it will ask, so that a judge elsewhere is asked several things at a time.
    fn judge<T>(
        &self,
        context: &Context,
        arguments: &JudgeArguments,
        requests: impl Fn(&Judge<'_>, &Question) -> Result<Vec<Asked>, EvalError>,
        mut work: impl FnMut(&Judge<'_>, &Question, &mut Log<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let out = &arguments.out;
        let path = out.join("judgments.jsonl");
        let done = if path.exists() { read_judgments(&path)? } else { BTreeMap::new() };
        // A line that was cut off is written over: what is whole is kept.
        let whole: String = done.values().map(line).collect::<Result<_>>()?;
        write_file_atomic(&path, whole.as_bytes())?;
        let mut file = OpenOptions::new().append(true).open(&path)?;
        let mut keep = |judgment: &Judgment| {
            let written = line(judgment)
                .map_err(std::io::Error::other)
                .and_then(|line| file.write_all(line.as_bytes()));
            written.map_err(|source| {
                EvalError::Judge(format!("cannot write {}: {source}", path.display()))
            })
        };
        let mut log = Log { done, keep: &mut keep };
        let dialogue = |system: &str, user: &str| self.model.dialogue(system, user);
        let judge = Judge {
            model: self.model.model(),
            prompt: &self.prompt,
            dialogue: &dialogue,
            max_tokens: arguments.max_tokens,
            seed: arguments.seed,
        };
        let watch = super::watch(context);
        let all = self.questions.iter().map(|question| requests(&judge, question));
        let all = all.collect::<Result<Vec<_>, _>>()?.concat();
        if let Err(error) = judge.ask_ahead(&all, &log, watch) {
            return self.model.told(context, Err(error.into()));
        }
        watch.progress.begin("judging", Some(self.questions.len() as u64), "questions");
        let mut results = Vec::with_capacity(self.questions.len());
        let judged = self.questions.iter().try_for_each(|question| {
            results.push(work(&judge, question, &mut log)?);
            watch.progress.advance(results.len() as u64);
            Ok(())
        });
        watch.progress.end();
        self.model.told(context, judged)?;
        Ok(results)
    }
}

fn line(judgment: &Judgment) -> Result<String> {
    Ok(serde_json::to_string(judgment)? + "\n")
}

/// What a summary says of how it came about.
#[derive(Serialize)]
struct Judged<T> {
    judge: milpa_base::ModelInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<milpa_base::EndpointRecord>,
    prompt: String,
    prompt_hash: milpa_base::Digest,
    command_line: String,
    summary: T,
}

/// Writes the summary beside the judgments and shows it.
fn finish<T: Serialize + std::fmt::Display>(
    context: &Context,
    session: &Session,
    arguments: &JudgeArguments,
    summary: T,
) -> Result<()> {
    let judged = Judged {
        judge: session.model.model().info().clone(),
        endpoint: session.model.model().endpoint(),
        prompt: session.prompt.name.clone(),
        prompt_hash: session.prompt.hash,
        command_line: context.command_line(),
        summary,
    };
    let json = serde_json::to_string_pretty(&judged)?;
    write_file_atomic(&arguments.out.join("summary.json"), json.as_bytes())?;
    context.show(&judged, || {
        format!(
            "judge {}, prompt {} ({})\n{}",
            judged.judge.name,
            judged.prompt,
            judged.prompt_hash.short(),
            judged.summary
        )
    })
}

fn wants(prompt: &JudgePrompt, kinds: &[JudgeKind]) -> Result<()> {
    if !kinds.contains(&prompt.kind) {
        bail!(
            "the prompt {} is for {:?}; `milpa eval judge prompts` lists the others",
            prompt.name,
            prompt.kind
        );
    }
    Ok(())
}

fn pairs(context: &Context, arguments: &JudgeArguments, a: &Path, b: &Path) -> Result<()> {
    let mut session = Session::open(context, arguments)?;
    wants(&session.prompt, &[JudgeKind::Pairwise])?;
    let ((of_a, _), (of_b, _)) = (read_answers(a)?, read_answers(b)?);
    let all = session.questions.len();
    session
        .questions
        .retain(|question| of_a.contains_key(&question.id) && of_b.contains_key(&question.id));
    ensure!(!session.questions.is_empty(), "no question has an answer of both; check their ids");
    if session.questions.len() < all {
        let without = all - session.questions.len();
        context.progress.say(&format!("{without} questions have no answer of both, left out"));
    }
    let watch = super::watch(context);
    let requests = |judge: &Judge<'_>, question: &Question| {
        judge.pair_requests(question, &of_a[&question.id], &of_b[&question.id])
    };
    let judged = session.judge(context, arguments, requests, |judge, question, log| {
        Ok(judge.pair(question, &of_a[&question.id], &of_b[&question.id], log, watch)?)
    })?;
    let length = |turns: &[String]| turns.iter().map(|turn| turn.chars().count()).sum::<usize>();
    let lengths = session
        .questions
        .iter()
        .map(|question| {
            (question.id.clone(), (length(&of_a[&question.id]), length(&of_b[&question.id])))
        })
        .collect();
    let summary = summarise_pairs(&judged, &lengths, RESAMPLING);
    finish(context, &session, arguments, summary)
}

fn grade(
    context: &Context,
    arguments: &JudgeArguments,
    answers: &Path,
    by: &[String],
) -> Result<()> {
    let mut session = Session::open(context, arguments)?;
    wants(&session.prompt, &[JudgeKind::Single, JudgeKind::Criterion])?;
    let (answers, _) = read_answers(answers)?;
    let all = session.questions.len();
    let rubric = session.prompt.kind == JudgeKind::Criterion;
    session.questions.retain(|question| {
        answers.contains_key(&question.id) && !(rubric && question.criteria.is_empty())
    });
    ensure!(
        !session.questions.is_empty(),
        "no question has an answer{}; check their ids",
        if rubric { " and criteria" } else { "" }
    );
    if session.questions.len() < all {
        let without = all - session.questions.len();
        context.progress.say(&format!("{without} questions cannot be judged, left out"));
    }
    let watch = super::watch(context);
    let requests = |judge: &Judge<'_>, question: &Question| {
        judge.answer_requests(question, &answers[&question.id])
    };
    let grades = session.judge(context, arguments, requests, |judge, question, log| {
        let answer = &answers[&question.id];
        if rubric {
            let judgments = judge.rubric(question, answer, log, watch)?;
            return Ok(rubric_score(question, &judgments));
        }
        Ok(grade_of(&judge.grade(question, answer, log, watch)?))
    })?;
    let graded: Vec<(&Question, Option<f64>)> = session.questions.iter().zip(grades).collect();
    let summary = summarise_grades(&graded, by);
    finish(context, &session, arguments, summary)
}

fn scores(context: &Context, judgments: &Path) -> Result<()> {
    let scores = published_scores(judgments)?;
    context.show(&scores, || {
        let row = |score: &milpa_eval::judge::PublishedScore| {
            format!(
                "{} · {}: {:.3} ({} rows, {} unreadable, {} unlike their score)\n",
                score.model,
                score.turn.map_or("all turns".to_owned(), |turn| format!("turn {turn}")),
                score.mean,
                score.rows,
                score.unreadable,
                score.disagreeing
            )
        };
        scores.iter().map(row).collect()
    })
}

fn agreement(context: &Context, path: &Path, by: Option<&str>, scores: bool) -> Result<()> {
    let (labels, skips) = read_labels(path)?;
    let distance = if scores { Distance::Interval } else { Distance::Nominal };
    let report = measure_agreement(&labels, skips, by, distance, RESAMPLING)?;
    context.show(&report, || {
        let mut text = format!(
            "{} raters, {} different labels{}\n",
            report.raters.len(),
            report.labels.len(),
            if report.skips.0.is_empty() {
                String::new()
            } else {
                format!("; left out: {}", report.skips)
            }
        );
        text += &describe("all", report.all.as_ref());
        for (value, agreement) in &report.groups {
            text += &describe(&format!("{} = {value}", by.unwrap_or_default()), agreement.as_ref());
        }
        text
    })
}

fn describe(name: &str, agreement: Option<&Agreement>) -> String {
    let Some(agreement) = agreement else {
        return format!("{name}: no item has two raters\n");
    };
    let mut text =
        format!("{name}: {} items, {:.3} of pairs agree\n", agreement.units, agreement.observed);
    for (name, coefficient) in [
        ("Cohen's kappa", agreement.cohen_kappa),
        ("Fleiss' kappa", agreement.fleiss_kappa),
        ("Krippendorff's alpha", agreement.krippendorff_alpha),
        ("Gwet's AC1", agreement.gwet_ac1),
    ] {
        let Some(coefficient) = coefficient else { continue };
        let interval = coefficient
            .interval
            .map_or(String::new(), |range| format!(" ({:.3} – {:.3})", range.low, range.high));
        text += &format!("  {name}: {:.3}{interval}\n", coefficient.value);
    }
    text
}

fn correct(context: &Context, path: &Path, judge: &str) -> Result<()> {
    let (labels, skips) = read_labels(path)?;
    if !skips.0.is_empty() {
        context.progress.say(&format!("left out: {skips}"));
    }
    ensure!(
        labels.iter().any(|label| label.rater == judge),
        "no label is by {judge:?}; --judge names one of the raters"
    );
    let (calibration, right, judged) = calibrate(&labels, judge)?;
    let found = corrected_share(right, judged, &calibration)?;
    context.show(&found, || {
        format!(
            "judged right {:.3} ({:.3} – {:.3}) of {judged}\n\
             specificity {:.3} of {}, sensitivity {:.3} of {}\n\
             corrected {:.3} ({:.3} – {:.3})\n\
             as many labels again: {} of answers found wrong, {} of answers found right",
            found.judged,
            found.judged_interval.low,
            found.judged_interval.high,
            found.specificity,
            calibration.wrong,
            found.sensitivity,
            calibration.right,
            found.corrected,
            found.interval.low,
            found.interval.high,
            found.next_labels.0,
            found.next_labels.1
        )
    })
}

fn prompts(context: &Context) -> Result<()> {
    let all: Vec<(String, JudgeKind, String)> = builtin_prompts()
        .into_iter()
        .map(|prompt| (prompt.name, prompt.kind, prompt.hash.to_string()))
        .collect();
    context.show(&all, || {
        let lines: Vec<String> =
            all.iter().map(|(name, kind, hash)| format!("{name}  {kind:?}  {hash}")).collect();
        lines.join("\n")
    })
}

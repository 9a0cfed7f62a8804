//! `milpa eval run`: tasks as the LM Evaluation Harness runs them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use milpa_base::artifact::write_file_atomic;
use milpa_corpus::{Split, read_split};
use milpa_eval::{
    EvalConfig, TaskSpec, Watch,
    contamination::{self, ContaminationReport},
    harness::{
        HARNESS_FORMAT, HarnessReport, HarnessRun, PreparedTask,
        ask::Answers,
        conversation::{ConversationTask, Conversed, Transcript},
        requests::{ChatRenderer, PromptOptions},
        task_file::LoadedTask,
    },
    read_jsonl_texts,
    task::TaskKind,
};
use milpa_text::ngram_index::NgramConfig;
use milpa_tokens::Message;

use crate::{
    cli::HarnessArguments,
    commands::model::{ModelFlags, OpenedModel},
    context::Context,
};

/// Answers of the model, by the hash of what it was asked.
const ANSWERS_FILE: &str = "answers.jsonl";
/// Answers of an endpoint, by the hash of what it was sent.
pub const ENDPOINT_FILE: &str = "endpoint.jsonl";
/// One line for each question.
const LOG_FILE: &str = "questions.jsonl";

/// Runs tasks and writes their report.
pub fn run(context: &Context, arguments: &HarnessArguments) -> Result<()> {
    ensure!(
        arguments.data.as_ref().is_none_or(|data| data.is_dir()) || arguments.tasks.len() == 1,
        "--data names one file, but {} tasks were given; name the folder of their files",
        arguments.tasks.len()
    );
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make the folder {}", arguments.out.display()))?;
    let flags = ModelFlags {
        model: arguments.model.as_deref(),
        adapter: arguments.adapter.as_deref(),
        endpoint: &arguments.endpoint,
        answers: &arguments.out.join(ENDPOINT_FILE),
    };
    let model = OpenedModel::open(context, flags)?;
    let report = model.told(context, score(context, arguments, &model))?;
    context.show(&report, || report.to_string())
}

/// Asks and scores the tasks, and writes the report.
fn score(
    context: &Context,
    arguments: &HarnessArguments,
    model: &OpenedModel,
) -> Result<HarnessReport> {
    ensure!(
        model.converses() || !arguments.apply_chat_template,
        "the model has no chat template; leave --apply-chat-template out"
    );
    let render = |messages: &[Message], begin_answer| model.render(messages, begin_answer);
    let render: &ChatRenderer<'_> = &render;
    let options = PromptOptions {
        num_fewshot: arguments.num_fewshot,
        seed: arguments.fewshot_seed,
        limit: arguments.limit,
        chat: arguments.apply_chat_template.then_some(render),
        fewshot_as_multiturn: arguments.fewshot_as_multiturn,
        data: arguments.data.as_deref(),
    };
    // All tasks are read before the model is asked anything.
    let mut tasks: Vec<Prepared> = arguments
        .tasks
        .iter()
        .map(|task| prepare(task, arguments, &options))
        .collect::<Result<_>>()?;
    let watch = Watch { progress: &context.progress, stop: &context.stop };
    let mut seen = look_for(&mut tasks, arguments, watch)?.into_iter();
    let mut answers = Answers::open(&arguments.out.join(ANSWERS_FILE))?;
    let replicates = EvalConfig::default().bootstrap_replicates;
    let mut harness = HarnessRun {
        model: model.model(),
        answers: &mut answers,
        chat: arguments.apply_chat_template,
        log_texts: arguments.log_texts,
        replicates,
        watch,
    };
    let (mut scores, mut logs) = (Vec::new(), Vec::new());
    for task in &tasks {
        match task {
            Prepared::Asked(task, others) => {
                let (mut scored, log) = harness.score_prompts(task, others)?;
                scored.contamination = seen.next();
                scores.push(scored);
                logs.extend(log);
            }
            Prepared::Conversation(task) => {
                let conversed = harness.converse(task, model.converses().then_some(render))?;
                if conversed.for_a_judge {
                    hand_out(context, &arguments.out, &conversed)?;
                }
                scores.push(conversed.scores);
                logs.extend(conversed.logs);
            }
        }
    }
    let report = HarnessReport {
        format: HARNESS_FORMAT,
        milpa_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: context.command_line(),
        model: model.model().info().clone(),
        endpoint: model.model().endpoint(),
        fewshot_seed: arguments.fewshot_seed,
        chat_template: arguments.apply_chat_template,
        bootstrap_replicates: replicates,
        tasks: scores,
    };
    let mut json = serde_json::to_string_pretty(&report)?;
    json.push('\n');
    write_file_atomic(&arguments.out.join("report.json"), json.as_bytes())?;
    write_file_atomic(&arguments.out.join("report.md"), report.to_markdown().as_bytes())?;
    write_file_atomic(&arguments.out.join("report.html"), report.to_html().as_bytes())?;
    write_file_atomic(&arguments.out.join(LOG_FILE), &lines(&logs)?)?;
    Ok(report)
}

/// A task, ready to be run.
enum Prepared {
    /// With its own prompt, and with others.
    Asked(Box<PreparedTask>, Vec<(String, PreparedTask)>),
    Conversation(Box<ConversationTask>),
}

/// Looks for the questions of the tasks in the text of `--against`: a report for each task that is
/// asked, in their order.
fn look_for(
    tasks: &mut [Prepared],
    arguments: &HarnessArguments,
    watch: Watch<'_>,
) -> Result<Vec<ContaminationReport>> {
    let Some(path) = &arguments.against else { return Ok(Vec::new()) };
    let mut asked: Vec<&mut PreparedTask> = tasks
        .iter_mut()
        .filter_map(|task| match task {
            Prepared::Asked(task, _) => Some(&mut **task),
            Prepared::Conversation(_) => None,
        })
        .collect();
    let ngrams = NgramConfig { words: arguments.against_words, share: arguments.against_share };
    let name = path.display().to_string();
    if path.is_dir() {
        let mut texts = read_split(path, Split::Train)?;
        Ok(contamination::look_for(&mut asked, &mut texts, &name, ngrams, watch)?)
    } else {
        let mut texts = read_jsonl_texts(path, "text")?;
        Ok(contamination::look_for(&mut asked, &mut texts, &name, ngrams, watch)?)
    }
}

/// Writes questions and answers as `milpa eval judge` reads them, and says how to go on.
fn hand_out(context: &Context, out: &Path, conversed: &Conversed) -> Result<()> {
    let name = conversed.scores.task.replace('/', "_");
    let questions = out.join(format!("{name}.questions.jsonl"));
    let answers = out.join(format!("{name}.answers.jsonl"));
    let asked: Vec<_> = conversed.transcripts.iter().map(Transcript::question).collect();
    write_file_atomic(&questions, &lines(&asked)?)?;
    write_file_atomic(&answers, &lines(&conversed.transcripts)?)?;
    let turns = conversed.transcripts.iter().map(|each| each.answers.len()).max().unwrap_or(0);
    context.progress.say(&format!(
        "{}: answers of up to {turns} turns are to be judged: milpa eval judge grade --judge MODEL \
         --prompt NAME --questions {} --answers {} --out DIR",
        conversed.scores.task,
        questions.display(),
        answers.display()
    ));
    Ok(())
}

fn prepare(
    task: &Path,
    arguments: &HarnessArguments,
    options: &PromptOptions<'_>,
) -> Result<Prepared> {
    let is_yaml = task.extension().is_some_and(|end| end == "yaml" || end == "yml");
    if is_yaml {
        let task = PreparedTask::from_yaml(&LoadedTask::load(task)?, options)?;
        return Ok(Prepared::Asked(Box::new(task), Vec::new()));
    }
    let spec = TaskSpec::find(task)?;
    Ok(if spec.kind == TaskKind::Conversation {
        Prepared::Conversation(Box::new(ConversationTask::prepare(&spec, options)?))
    } else {
        let others = if arguments.all_prompts {
            PreparedTask::other_prompts(&spec, options)?
        } else {
            Vec::new()
        };
        Prepared::Asked(Box::new(PreparedTask::from_toml(&spec, options)?), others)
    })
}

fn lines<T: serde::Serialize>(logs: &[T]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for log in logs {
        serde_json::to_writer(&mut text, log)?;
        text.push(b'\n');
    }
    Ok(text)
}

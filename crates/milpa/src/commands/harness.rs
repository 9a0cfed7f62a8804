//! `milpa eval run`: tasks as the LM Evaluation Harness runs them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use milpa_base::{TextModel, artifact::write_file_atomic};
use milpa_eval::{
    EvalConfig, TaskSpec, Watch,
    harness::{
        HARNESS_FORMAT, HarnessReport, HarnessRun, PreparedTask, QuestionLog,
        ask::Answers,
        requests::{ChatRenderer, PromptOptions},
        task_file::LoadedTask,
    },
};
use milpa_model::LocalModel;
use milpa_tokens::{Message, RenderOptions};

use crate::{
    cli::HarnessArguments,
    commands::chat::{self, ModelPaths},
    context::Context,
};

/// Answers of the model, by the hash of what it was asked.
const ANSWERS_FILE: &str = "answers.jsonl";
/// One line for each question.
const LOG_FILE: &str = "questions.jsonl";

/// Runs tasks and writes their report.
pub fn run(context: &Context, arguments: &HarnessArguments) -> Result<()> {
    ensure!(
        arguments.data.as_ref().is_none_or(|data| data.is_dir()) || arguments.tasks.len() == 1,
        "--data names one file, but {} tasks were given; name the folder of their files",
        arguments.tasks.len()
    );
    let adapter = arguments.adapter.as_deref();
    let model = chat::open(context, ModelPaths { model: &arguments.model, adapter })?;
    let template = model.chat_template();
    ensure!(
        template.is_some() || !arguments.apply_chat_template,
        "the model has no chat template; leave --apply-chat-template out"
    );
    let render = renderer(&model);
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
    let tasks: Vec<PreparedTask> =
        arguments.tasks.iter().map(|task| prepare(task, &options)).collect::<Result<_>>()?;
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make the folder {}", arguments.out.display()))?;
    let mut answers = Answers::open(&arguments.out.join(ANSWERS_FILE))?;
    let replicates = EvalConfig::default().bootstrap_replicates;
    let mut harness = HarnessRun {
        model: &model,
        answers: &mut answers,
        chat: arguments.apply_chat_template,
        log_texts: arguments.log_texts,
        replicates,
        watch: Watch { progress: &context.progress, stop: &context.stop },
    };
    let (mut scores, mut logs) = (Vec::new(), Vec::new());
    for task in &tasks {
        let (scored, log) = harness.score(task)?;
        scores.push(scored);
        logs.extend(log);
    }
    let report = HarnessReport {
        format: HARNESS_FORMAT,
        milpa_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: context.command_line(),
        model: model.info().clone(),
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
    context.show(&report, || report.to_string())
}

/// Renders messages with the model's chat template.
pub fn renderer(model: &LocalModel) -> impl Fn(&[Message], bool) -> Result<String, String> + '_ {
    |messages, begin_answer| {
        let template = model.chat_template().ok_or("the model has no chat template")?;
        let mut options = RenderOptions::for_training(model.tokenizer());
        options.add_generation_prompt = begin_answer;
        template.render(messages, &options).map_err(|error| error.to_string())
    }
}

fn prepare(task: &std::path::Path, options: &PromptOptions<'_>) -> Result<PreparedTask> {
    let is_yaml = task.extension().is_some_and(|end| end == "yaml" || end == "yml");
    if is_yaml {
        return Ok(PreparedTask::from_yaml(&LoadedTask::load(task)?, options)?);
    }
    Ok(PreparedTask::from_toml(&TaskSpec::find(task)?, options)?)
}

fn lines(logs: &[QuestionLog]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for log in logs {
        serde_json::to_writer(&mut text, log)?;
        text.push(b'\n');
    }
    Ok(text)
}

//! Tasks as lm-evaluation-harness runs them: the same prompts, the same metrics.
//!
//! [`LoadedTask`] reads a YAML task file, [`requests`] turns its documents into requests, [`ask`]
//! has them answered and remembers the answers, [`scores`] makes metrics of them. Built-in tasks
//! and task files in TOML run the same way. `reference/lm_eval_golden.py` holds prompts, examples,
//! log-likelihoods and metrics against lm_eval 0.4.13.

pub mod ask;
pub mod conversation;
pub mod documents;
pub mod failures;
pub mod filters;
pub mod published;
pub mod python_random;
mod report;
pub mod requests;
pub mod scores;
pub mod sensitivity;
pub mod spread;
pub mod task_file;
pub mod text_metrics;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Instant,
};

use milpa_base::{Digest, EndpointRecord, FinishReason, ModelInfo, PromptTokens, Seed, TextModel};
use serde::{Deserialize, Serialize};

use crate::{
    contamination::{self, ContaminationReport},
    error::EvalError,
    factuality::FactualityReport,
    harness::{
        ask::{Answers, Asker},
        failures::{Failures, failures},
        filters::{Filter, Pipeline},
        published::{Published, Setting, beside},
        requests::{PromptOptions, Question, Questions, Request, Target, questions, with_choices},
        scores::{
            MetricScore, MetricSpec, Part, QuestionScores, Response, aggregate, score_question,
        },
        sensitivity::{PromptSensitivity, sensitivity},
        spread::{SampleSpread, spreads},
        task_file::{LoadedTask, OutputType, bad_task},
        text_metrics::has_twice,
    },
    instructions,
    items::{ItemSet, Skips, read_items},
    refusal::RefusalReport,
    run::Watch,
    statistics::{Interval, LEVEL, Method, mean, normal_quantile},
    task::{MAIN_PROMPT, PromptStyle, TaskKind, TaskSpec, Variant},
    verify::Verdict,
};

/// Layout version of a [`HarnessReport`].
pub const HARNESS_FORMAT: u32 = 2;

/// A task with everything that is asked for it.
pub struct PreparedTask {
    /// Name of the task.
    pub name: String,
    /// Version of the task.
    pub version: f64,
    /// BLAKE3 of what the task file says.
    pub task_hash: Digest,
    /// How the model is asked.
    pub output_type: OutputType,
    /// What is asked.
    pub questions: Questions,
    /// Answers drawn for each question.
    pub samples: usize,
    metrics: Vec<MetricSpec>,
    pipelines: Vec<Pipeline>,
}

impl PreparedTask {
    /// Prepares a task of lm-evaluation-harness.
    ///
    /// # Errors
    /// Metrics, filters or prompts that cannot be used; documents that cannot be read.
    pub fn from_yaml(task: &LoadedTask, options: &PromptOptions<'_>) -> Result<Self, EvalError> {
        let bad = |message: String| bad_task(&task.path, message);
        let file = &task.file;
        let metrics =
            MetricSpec::read(file.metric_list.as_deref(), file.output_type).map_err(bad)?;
        let pipelines = match &file.filter_list {
            None => vec![Pipeline::default()],
            Some(list) => list
                .iter()
                .map(|list| {
                    let filters = list.filter.iter().map(|filter| {
                        let mut options = filter.clone();
                        match options.remove("function") {
                            Some(serde_json::Value::String(name)) => Filter::read(&name, &options),
                            _ => Err("a filter has no `function` with a name".to_owned()),
                        }
                    });
                    let filters = filters.collect::<Result<_, String>>()?;
                    Ok(Pipeline { name: list.name.clone(), filters })
                })
                .collect::<Result<_, String>>()
                .map_err(bad)?,
        };
        let unconditional = metrics.iter().any(MetricSpec::needs_unconditional);
        let samples = file.samples();
        if let Some(pipeline) = pipelines.iter().find(|pipeline| pipeline.wants() > samples) {
            return Err(bad(format!(
                "the filters of {} take {} answers, but {samples} are drawn; set repeats: {}",
                pipeline.name,
                pipeline.wants(),
                pipeline.wants()
            )));
        }
        Ok(Self {
            name: file.task.clone(),
            version: task.version(),
            task_hash: task.hash,
            output_type: file.output_type,
            questions: questions(task, unconditional, options)?,
            samples,
            metrics,
            pipelines,
        })
    }

    /// Prepares a task file in TOML, or a built-in task.
    ///
    /// # Errors
    /// A task of another kind, documents that cannot be read, prompts that cannot be used; examples
    /// or a chat template for a task that is asked in plain text.
    pub fn from_toml(spec: &TaskSpec, options: &PromptOptions<'_>) -> Result<Self, EvalError> {
        let data = spec.data_file(options.data)?;
        if spec.kind == TaskKind::Harness {
            let loaded = LoadedTask::from_spec(spec, Path::new(&spec.name))?;
            return Self::from_yaml(&loaded, &PromptOptions { data: Some(&data), ..*options });
        }
        let plain = |what: &str| {
            bad_task(Path::new(&spec.name), format!("it is asked in plain text; leave {what} out"))
        };
        if options.num_fewshot.is_some_and(|count| count > 0) {
            return Err(plain("--num-fewshot"));
        }
        if options.chat.is_some() {
            return Err(plain("--apply-chat-template"));
        }
        Self::choices_of(spec, PromptStyle::default(), &data, options.limit)
    }

    /// Prepares a task with each of its other prompts, by their names.
    ///
    /// # Errors
    /// As of [`Self::from_toml`].
    pub fn other_prompts(
        spec: &TaskSpec,
        options: &PromptOptions<'_>,
    ) -> Result<Vec<(String, Self)>, EvalError> {
        let data = spec.data_file(options.data)?;
        let variants =
            spec.variants().map_err(|(_, message)| bad_task(Path::new(&spec.name), message))?;
        let prepare = |(name, task, style): Variant| {
            let prepared = if task.kind == TaskKind::Harness {
                Self::from_toml(&task, options)?
            } else {
                Self::choices_of(&task, style, &data, options.limit)?
            };
            Ok((name, prepared))
        };
        variants.into_iter().map(prepare).collect()
    }

    fn choices_of(
        spec: &TaskSpec,
        style: PromptStyle,
        data: &Path,
        limit: Option<usize>,
    ) -> Result<Self, EvalError> {
        Self::from_items(spec, style, &read_items(spec, style, data, limit)?)
    }

    fn from_items(spec: &TaskSpec, style: PromptStyle, set: &ItemSet) -> Result<Self, EvalError> {
        let choice = spec.choice_spec().ok_or_else(|| EvalError::NoItems {
            path: PathBuf::from(&spec.name),
            task: spec.name.clone(),
            detail: "the task is not multiple choice".to_owned(),
        })?;
        let prompt = choice.prompt(style, &spec.name)?;
        let metrics: Vec<MetricSpec> = choice
            .metrics
            .iter()
            .map(|metric| MetricSpec::plain(metric.name(), OutputType::MultipleChoice))
            .collect::<Result<_, _>>()
            .expect("metrics of a task file are metrics of the harness");
        let unconditional = metrics.iter().any(MetricSpec::needs_unconditional);
        let question = |(number, item): (usize, &crate::items::Item)| {
            let choices: Vec<String> = item
                .choices
                .iter()
                .enumerate()
                .map(|(at, text)| prompt.continuation(at, text).into_owned())
                .collect();
            let ask = |context: &str, delimiter: &str, choice: &String| Request::Continuation {
                context: context.to_owned(),
                continuation: format!("{delimiter}{choice}"),
            };
            let with = choices.iter().map(|choice| ask(&item.prompt, prompt.delimiter, choice));
            let mut requests: Vec<Request> = with.collect();
            if unconditional {
                requests.extend(choices.iter().map(|choice| ask("", "", choice)));
            }
            Question {
                number,
                line: item.line,
                text: with_choices(&item.prompt, &item.choices),
                requests,
                choices,
                target: Target::Choice(Some(item.answer)),
                examples: Vec::new(),
                groups: item.groups.clone(),
                cluster: item.cluster.clone(),
            }
        };
        Ok(Self {
            name: spec.name.clone(),
            version: f64::from(spec.version),
            task_hash: prompt.hash(),
            output_type: OutputType::MultipleChoice,
            questions: Questions {
                questions: set.items.iter().enumerate().map(question).collect(),
                documents: set.usable as usize,
                skips: set.skips.clone(),
                num_fewshot: 0,
                data_hashes: vec![set.data_hash],
            },
            samples: 1,
            metrics,
            pipelines: vec![Pipeline::default()],
        })
    }
}

/// The scores of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskScores {
    /// Name of the task.
    pub task: String,
    /// Version of the task.
    pub version: f64,
    /// How the model is asked.
    pub output_type: OutputType,
    /// BLAKE3 of what the task file says.
    pub task_hash: Digest,
    /// BLAKE3 of the files of documents.
    pub data_hashes: Vec<Digest>,
    /// Examples in each prompt.
    pub num_fewshot: usize,
    /// Documents in the split.
    pub documents: u64,
    /// Questions scored.
    pub scored: u64,
    /// What could not be used, by reason.
    pub skips: Skips,
    /// What was scored but is doubtful, by reason.
    pub remarks: Skips,
    /// Questions whose prompt did not fit and was cut from the left.
    pub truncated: u64,
    /// Generated texts that ended because they were long enough.
    pub cut_generations: u64,
    /// How the model reads the first prompt, where it tells.
    pub prompt_tokens: Option<PromptTokens>,
    /// The scores.
    pub metrics: Vec<MetricScore>,
    /// The scores of each group of questions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupScores>,
    /// For each field, the mean of its groups' scores: each group counts the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub group_means: BTreeMap<String, Vec<MetricScore>>,
    /// What was refused, where refusals are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalReport>,
    /// What is known and what is withheld, where that is told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factuality: Option<FactualityReport>,
    /// Answers drawn for each question.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub samples: u64,
    /// How far scores depend on the draw, where there are several answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spreads: Vec<SampleSpread>,
    /// What was answered wrongly and why, for each metric that says why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failures>,
    /// How far scores depend on the prompt, where several were tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<PromptSensitivity>,
    /// Which questions stand in a corpus, where that was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contamination: Option<ContaminationReport>,
    /// What others published for this task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// Requests that were asked now; the others were answered before.
    pub asked: u64,
    /// Requests in all.
    pub requests: u64,
    /// Seconds it took.
    pub wall_seconds: f64,
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(samples: &u64) -> bool {
    *samples == 1
}

/// The scores of the questions with one value in a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupScores {
    /// The field.
    pub field: String,
    /// The value.
    pub value: String,
    /// The scores.
    pub metrics: Vec<MetricScore>,
}

/// How one question was answered: a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionLog {
    /// Name of the task.
    pub task: String,
    /// Number of the document in its split, counted from 0.
    pub number: usize,
    /// Line in the file, counted from 1.
    pub line: u64,
    /// Name of the prompt, where several were tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// BLAKE3 of the requests as sent: the same question put the same way has the same hash.
    pub prompt_hash: Digest,
    /// Numbers of the examples in their split.
    pub examples: Vec<usize>,
    /// The requests, if texts are logged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Request>,
    /// The right answer, if texts are logged or it is a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// What the model answered.
    pub responses: Vec<Response>,
    /// Seeds of answers that were drawn, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
    /// Scores by metric and filter.
    pub scores: BTreeMap<String, f64>,
    /// Where several answers were drawn, the score of each by itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sample_scores: BTreeMap<String, Vec<f64>>,
    /// Why a metric with a verifier scores as it does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, Verdict>,
    /// Which instructions were kept, where a program checks them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instructions: Vec<InstructionVerdict>,
}

/// Whether one instruction of a prompt was kept, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstructionVerdict {
    /// Its id.
    pub id: String,
    /// Of the answer as it is.
    pub strict: instructions::Verdict,
    /// Of the answer without what models put around it.
    pub loose: instructions::Verdict,
}

/// Everything that an evaluation with the harness found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HarnessReport {
    /// Layout version, [`HARNESS_FORMAT`].
    pub format: u32,
    /// Version of the program.
    pub milpa_version: String,
    /// The command line that does it again.
    pub command_line: String,
    /// The model that was measured.
    pub model: ModelInfo,
    /// What an endpoint was asked, where the model is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointRecord>,
    /// Seed of the examples.
    pub fewshot_seed: u64,
    /// Whether prompts went through the model's chat template.
    pub chat_template: bool,
    /// Bootstrap replicates behind resampled intervals.
    pub bootstrap_replicates: usize,
    /// The tasks.
    pub tasks: Vec<TaskScores>,
}

/// How tasks are run.
pub struct HarnessRun<'a> {
    /// The model.
    pub model: &'a dyn TextModel,
    /// What it answered before.
    pub answers: &'a mut Answers,
    /// Whether prompts come from a chat template.
    pub chat: bool,
    /// Whether the log holds prompts and answers as texts.
    pub log_texts: bool,
    /// Bootstrap replicates behind resampled intervals.
    pub replicates: usize,
    /// Progress and stop.
    pub watch: Watch<'a>,
}

impl HarnessRun<'_> {
    /// Asks and scores a task.
    ///
    /// # Errors
    /// A model that fails, prompts with no or two BOS tokens, no question left, a stop.
    pub fn score(
        &mut self,
        task: &PreparedTask,
    ) -> Result<(TaskScores, Vec<QuestionLog>), EvalError> {
        let started = Instant::now();
        let prompt_tokens = self.check_first(task)?;
        let all: Vec<&Request> =
            task.questions.questions.iter().flat_map(|question| &question.requests).collect();
        let mut asker = Asker {
            model: self.model,
            parse_special: self.chat,
            answers: self.answers,
            watch: self.watch,
        };
        let (responses, asked) = asker.ask(&task.name, &all)?;
        let mut skips = task.questions.skips.clone();
        let mut logs = Vec::new();
        let mut parts: Vec<(&Question, BTreeMap<String, Part>)> = Vec::new();
        let (mut truncated, mut cut_generations) = (0, 0);
        let mut remarks = Skips::default();
        let mut rest = responses.as_slice();
        for question in &task.questions.questions {
            let (own, after) = rest.split_at(question.requests.len());
            rest = after;
            match score_question(question, own, &task.metrics, &task.pipelines) {
                Ok(scored) => {
                    truncated += u64::from(own.iter().any(is_truncated));
                    cut_generations += u64::from(own.iter().any(is_cut));
                    let plain = |choice: &String| choice.trim().to_lowercase();
                    if has_twice(question.choices.iter().map(plain)) {
                        remarks.add("choices are equal but for case and spaces", question.line);
                    }
                    if own.iter().any(is_empty) {
                        remarks.add("the model wrote nothing", question.line);
                    }
                    logs.push(self.log(task, question, own, &scored));
                    parts.push((question, scored.parts));
                }
                Err(reason) => skips.add(&reason, question.line),
            }
        }
        if parts.is_empty() {
            let questions = task.questions.questions.len();
            return Err(EvalError::nothing_scored(
                &task.name,
                questions,
                &skips,
                self.model.info(),
            ));
        }
        let (metrics, groups) = self.aggregate(task, &parts);
        let setting = Setting {
            task: &task.name,
            num_fewshot: task.questions.num_fewshot,
            chat: self.chat,
            questions: parts.len() as u64,
        };
        let published = beside(setting, &metrics);
        let keys: Vec<(String, String)> =
            metrics.iter().map(|score| (score.metric.clone(), score.filter.clone())).collect();
        let scored: Vec<&Question> = parts.iter().map(|(question, _)| *question).collect();
        let spreads = spreads(&keys, &scored, &logs);
        let failures = keys.iter().filter_map(|(metric, filter)| failures(metric, filter, &logs));
        let scores = TaskScores {
            task: task.name.clone(),
            version: task.version,
            output_type: task.output_type,
            task_hash: task.task_hash,
            data_hashes: task.questions.data_hashes.clone(),
            num_fewshot: task.questions.num_fewshot,
            documents: task.questions.documents as u64,
            scored: parts.len() as u64,
            skips,
            remarks,
            truncated,
            cut_generations,
            prompt_tokens,
            metrics,
            group_means: group_means(&groups),
            groups,
            contamination: None,
            refusal: None,
            factuality: None,
            samples: task.samples as u64,
            spreads,
            failures: failures.collect(),
            prompts: Vec::new(),
            published,
            asked: asked as u64,
            requests: all.len() as u64,
            wall_seconds: started.elapsed().as_secs_f64(),
        };
        Ok((scores, logs))
    }

    /// Asks and scores a task with its own prompt and with others: the scores are those of its own,
    /// with what the others change beside them.
    ///
    /// # Errors
    /// As of [`Self::score`].
    pub fn score_prompts(
        &mut self,
        task: &PreparedTask,
        others: &[(String, PreparedTask)],
    ) -> Result<(TaskScores, Vec<QuestionLog>), EvalError> {
        let (mut scores, main) = self.score(task)?;
        if others.is_empty() {
            return Ok((scores, main));
        }
        let mut runs = vec![(MAIN_PROMPT.to_owned(), main)];
        for (name, other) in others {
            let (of_other, logs) = self.score(other)?;
            scores.asked += of_other.asked;
            scores.requests += of_other.requests;
            scores.wall_seconds += of_other.wall_seconds;
            runs.push((name.clone(), logs));
        }
        for (name, logs) in &mut runs {
            for log in logs {
                log.prompt = Some(name.clone());
            }
        }
        // Only a mean over questions can be split over questions and prompts.
        let means = scores.metrics.iter().filter(|score| score.standard_error.is_some());
        scores.prompts = means.filter_map(|score| sensitivity(score, &runs)).collect();
        Ok((scores, runs.into_iter().flat_map(|(_, logs)| logs).collect()))
    }

    /// Scores of all questions, and of those of each group.
    fn aggregate(
        &self,
        task: &PreparedTask,
        parts: &[(&Question, BTreeMap<String, Part>)],
    ) -> (Vec<MetricScore>, Vec<GroupScores>) {
        let seed = Seed(0).derive(&task.name);
        let score = |keep: &dyn Fn(&Question) -> bool| {
            let mut scores = Vec::new();
            for pipeline in &task.pipelines {
                for metric in &task.metrics {
                    let key = format!("{},{}", metric.name, pipeline.name);
                    let (own, questions): (Vec<&Part>, Vec<&Question>) = parts
                        .iter()
                        .filter(|(question, _)| keep(question))
                        .filter_map(|(question, parts)| Some((parts.get(&key)?, *question)))
                        .unzip();
                    if !own.is_empty() {
                        let clusters = clusters_of(&questions);
                        let clusters = clusters.as_deref();
                        let filter = &pipeline.name;
                        scores.push(aggregate(
                            metric,
                            filter,
                            &own,
                            clusters,
                            self.replicates,
                            seed,
                        ));
                    }
                }
            }
            scores
        };
        let named: BTreeSet<(&String, &String)> =
            parts.iter().flat_map(|(question, _)| &question.groups).collect();
        let group = |(field, value): (&String, &String)| GroupScores {
            field: field.clone(),
            value: value.clone(),
            metrics: score(&|question| question.groups.get(field) == Some(value)),
        };
        (score(&|_| true), named.into_iter().map(group).collect())
    }

    /// Looks at how the first prompt of a task begins.
    fn check_first(&self, task: &PreparedTask) -> Result<Option<PromptTokens>, EvalError> {
        let first = task.questions.questions.iter().flat_map(|question| &question.requests).next();
        match first {
            Some(Request::Continuation { context, .. }) => {
                self.check_beginning(&task.name, context, self.chat)
            }
            Some(Request::Generation { prompt, .. }) => {
                self.check_beginning(&task.name, prompt, self.chat)
            }
            _ => Ok(None),
        }
    }

    /// Refuses prompts that do not begin with exactly one BOS where the model has one.
    fn check_beginning(
        &self,
        task: &str,
        prompt: &str,
        parse_special: bool,
    ) -> Result<Option<PromptTokens>, EvalError> {
        let Ok(tokens) = self.model.prompt_tokens(prompt, parse_special) else { return Ok(None) };
        if tokens.bos.is_some() && tokens.leading_bos != 1 {
            return Err(EvalError::CannotAsk {
                task: task.to_owned(),
                problem: format!(
                    "a prompt begins with {} BOS tokens (ids {:?}…); this model needs one, so either \
                     the chat template or the tokenizer must write it, and not both",
                    tokens.leading_bos, tokens.first
                ),
            });
        }
        Ok(Some(tokens))
    }

    fn log(
        &self,
        task: &PreparedTask,
        question: &Question,
        responses: &[Response],
        scored: &QuestionScores,
    ) -> QuestionLog {
        let texts = self.log_texts;
        let is_choice = matches!(question.target, Target::Choice(_) | Target::Choices(_));
        QuestionLog {
            task: task.name.clone(),
            number: question.number,
            line: question.line,
            prompt: None,
            prompt_hash: requests_hash(&question.requests),
            examples: question.examples.clone(),
            requests: if texts { question.requests.clone() } else { Vec::new() },
            target: (texts || is_choice).then(|| question.target.clone()),
            responses: responses.to_vec(),
            seeds: seeds_of(&question.requests),
            scores: scored.parts.iter().map(|(name, part)| (name.clone(), part.number())).collect(),
            sample_scores: scored.samples.clone(),
            verdicts: scored.verdicts.clone(),
            instructions: Vec::new(),
        }
    }
}

/// The mean over the groups of each field, of scores that all of them have.
fn group_means(groups: &[GroupScores]) -> BTreeMap<String, Vec<MetricScore>> {
    let mut fields: BTreeMap<String, Vec<&GroupScores>> = BTreeMap::new();
    // What stands in a corpus is no sample of what does not.
    for group in groups.iter().filter(|group| group.field != contamination::FIELD) {
        fields.entry(group.field.clone()).or_default().push(group);
    }
    let means = |groups: &[&GroupScores]| {
        let mean_of = |(at, first): (usize, &MetricScore)| {
            let scores: Vec<&MetricScore> =
                groups.iter().map(|group| group.metrics.get(at)).collect::<Option<_>>()?;
            mean_of_scores(first, &scores)
        };
        groups[0].metrics.iter().enumerate().filter_map(mean_of).collect()
    };
    fields.into_iter().map(|(field, groups)| (field, means(&groups))).collect()
}

/// The mean of scores of different questions: √(Σ error²)/groups is its standard error.
fn mean_of_scores(first: &MetricScore, scores: &[&MetricScore]) -> Option<MetricScore> {
    let same = |score: &&MetricScore| score.metric == first.metric && score.filter == first.filter;
    if !scores.iter().all(same) {
        return None;
    }
    let value = mean(&scores.iter().map(|score| score.value).collect::<Vec<_>>());
    let squares: Option<Vec<f64>> =
        scores.iter().map(|score| score.standard_error.map(|error| error * error)).collect();
    let standard_error =
        squares.map(|squares| squares.iter().sum::<f64>().sqrt() / scores.len() as f64);
    let interval = standard_error.map(|error| {
        let half = normal_quantile(f64::midpoint(1.0, LEVEL)) * error;
        let (low, high) = (value - half, value + half);
        let interval = Interval { low, high, level: LEVEL, method: Method::Combined };
        let are_shares = scores.iter().all(|score| {
            score.interval.is_none_or(|interval| interval.low >= 0.0 && interval.high <= 1.0)
        });
        if are_shares { interval.within_shares() } else { interval }
    });
    Some(MetricScore { value, standard_error, interval, n: scores.len() as u64, ..first.clone() })
}

/// Numbers of the clusters of questions, where they have any; a question without one is its own.
fn clusters_of(questions: &[&Question]) -> Option<Vec<usize>> {
    if questions.iter().all(|question| question.cluster.is_none()) {
        return None;
    }
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut clusters = Vec::with_capacity(questions.len());
    for (at, question) in questions.iter().enumerate() {
        let next = questions.len() + numbers.len();
        clusters.push(match &question.cluster {
            Some(name) => *numbers.entry(name).or_insert(next),
            None => at,
        });
    }
    Some(clusters)
}

/// Seeds of the texts that are drawn; none where nothing is drawn.
fn seeds_of(requests: &[Request]) -> Vec<u64> {
    let seed = |request: &Request| match request {
        Request::Generation { seed, .. } if *seed > 0 => Some(*seed),
        _ => None,
    };
    requests.iter().filter_map(seed).collect()
}

/// BLAKE3 of requests as sent.
fn requests_hash(requests: &[Request]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for request in requests {
        let text = serde_json::to_string(request).expect("plain data serialises");
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}

fn is_truncated(response: &Response) -> bool {
    matches!(
        response,
        Response::Continuation { truncated_tokens: 1.., .. }
            | Response::Generation { truncated_tokens: 1.., .. }
    )
}

fn is_empty(response: &Response) -> bool {
    matches!(response, Response::Generation { text, .. } if text.trim().is_empty())
}

fn is_cut(response: &Response) -> bool {
    matches!(response, Response::Generation { finish_reason: FinishReason::Length, .. })
}

//! Conversations: what a model answers to a user turn by turn, each answer asked for before the next
//! turn is put.
//!
//! A conversation goes through the model's chat template; without one, a single turn is asked as plain
//! text and several are refused. Answers are scored by what the task says: rules for refusals,
//! instructions that a program checks, or a judge afterwards, for whom questions and answers are
//! handed out as [`Transcript`]s. It knows no endpoint.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Instant,
};

use milpa_base::{Digest, Seed, hash_bytes};
use milpa_tokens::Message;
use serde::Serialize;

use crate::{
    choclo::Answer,
    error::EvalError,
    factuality::{
        self, ConfidenceSource, FactualityReport, FactualitySpec, Graded, reading_of,
        stated_confidence,
    },
    harness::{
        GroupScores, HarnessRun, InstructionVerdict, QuestionLog, TaskScores,
        ask::Asker,
        documents::{Document, Documents},
        failures::failures,
        is_cut, is_empty,
        published::{Setting, beside},
        requests::{ChatRenderer, PromptOptions, Request, groups_of, text_in},
        requests_hash,
        scores::{MetricScore, Response},
        task_file::{OutputType, bad_task},
    },
    instructions::{self, PromptSet},
    items::Skips,
    judge::exchange::read_answers,
    refusal::{Outcome, RefusalReport, classify},
    statistics::Share,
    task::{AnswerScoring, ConversationSpec, TaskSpec},
    template::Template,
};

/// Most turns of a conversation.
const MAX_TURNS: usize = 64;

/// A task with all its conversations.
pub struct ConversationTask {
    /// Name of the task.
    pub name: String,
    /// Version of the task.
    pub version: u32,
    /// BLAKE3 of what the task file says of the conversation.
    pub task_hash: Digest,
    /// The conversations.
    pub conversations: Vec<Conversation>,
    /// Documents in the file before a limit.
    pub documents: usize,
    /// Documents and lines that could not be used.
    pub skips: Skips,
    /// BLAKE3 of the file.
    pub data_hash: Digest,
    spec: ConversationSpec,
    instructions: Option<PromptSet>,
    references: BTreeMap<String, Vec<String>>,
}

/// What a user says.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// Number of the document, counted from 0.
    pub number: usize,
    /// Line in the file.
    pub line: u64,
    /// Its identity.
    pub id: String,
    /// The user's turns.
    pub turns: Vec<String>,
    /// Of the answers.
    pub temperature: f32,
    /// Values of the fields by which scores are broken down.
    pub groups: BTreeMap<String, String>,
    /// What it shares with others.
    pub cluster: Option<String>,
    /// The right answer, where facts are asked.
    answer: Option<Answer>,
    document: Document,
}

/// A conversation that was had.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transcript {
    /// Its identity.
    pub id: String,
    /// The user's turns.
    #[serde(skip)]
    pub questions: Vec<String>,
    /// The answers; in the file of answers they are its turns.
    #[serde(rename = "turns")]
    pub answers: Vec<String>,
    /// Good answers, where there are any.
    #[serde(skip)]
    pub references: Vec<String>,
    /// Values of the fields by which scores are broken down.
    #[serde(skip)]
    pub groups: BTreeMap<String, String>,
}

/// What came of a task's conversations.
pub struct Conversed {
    /// The scores.
    pub scores: TaskScores,
    /// One line for each conversation.
    pub logs: Vec<QuestionLog>,
    /// The conversations that have all their answers.
    pub transcripts: Vec<Transcript>,
    /// Whether a judge is to read them.
    pub for_a_judge: bool,
}

impl ConversationTask {
    /// Reads the conversations of a task.
    ///
    /// # Errors
    /// A file that cannot be read, no usable conversation, options that conversations do not have.
    pub fn prepare(spec: &TaskSpec, options: &PromptOptions<'_>) -> Result<Self, EvalError> {
        let bad = |message: &str| bad_task(Path::new(&spec.name), message.to_owned());
        let own = spec.conversation.as_ref().ok_or_else(|| bad("it is no conversation"))?;
        if options.num_fewshot.is_some_and(|count| count > 0) {
            return Err(bad("a conversation has no examples; leave --num-fewshot out"));
        }
        let path = spec.data_file(options.data)?;
        let written = serde_json::to_vec(own).expect("plain data serialises");
        let mut task = Self {
            name: spec.name.clone(),
            version: spec.version,
            task_hash: hash_bytes(&written),
            conversations: Vec::new(),
            documents: 0,
            skips: Skips::default(),
            data_hash: hash_bytes(&[]),
            spec: own.clone(),
            instructions: None,
            references: BTreeMap::new(),
        };
        match &own.score {
            AnswerScoring::Instructions {} => task.read_instructions(&path, options.limit)?,
            scoring => {
                task.read_documents(spec, &path, options.limit)?;
                if let AnswerScoring::Judge { references: Some(file) } = scoring {
                    // Without the file, the questions go to the judge without good answers.
                    let file = path.with_file_name(file);
                    if file.is_file() {
                        task.references = read_answers(&file)?.0;
                    }
                }
            }
        }
        if task.conversations.is_empty() {
            let detail = format!("no conversation; left out: {}", task.skips);
            return Err(EvalError::NoItems { path, task: task.name, detail });
        }
        Ok(task)
    }

    fn read_instructions(&mut self, path: &Path, limit: Option<usize>) -> Result<(), EvalError> {
        let set = instructions::read_prompts(path, limit)?;
        let conversation =
            |(number, prompt): (usize, &instructions::InstructionPrompt)| Conversation {
                number,
                line: prompt.line,
                id: prompt.id.clone(),
                turns: vec![prompt.prompt.clone()],
                temperature: self.spec.temperature,
                groups: BTreeMap::new(),
                cluster: None,
                answer: None,
                document: Document::new(),
            };
        self.conversations = set.prompts.iter().enumerate().map(conversation).collect();
        self.documents = set.prompts.len();
        self.skips = set.skips.clone();
        self.data_hash = set.data_hash;
        self.instructions = Some(set);
        Ok(())
    }

    fn read_documents(
        &mut self,
        spec: &TaskSpec,
        path: &Path,
        limit: Option<usize>,
    ) -> Result<(), EvalError> {
        let mut documents = Documents::read([path])?;
        documents.keep(&spec.filters);
        self.documents = documents.rows.len();
        self.skips = documents.skips;
        self.data_hash = documents.hashes[0];
        let template = self
            .spec
            .template
            .as_deref()
            .map(|text| Template::parse(text).expect("templates are checked on reading"));
        let limit = limit.unwrap_or(usize::MAX);
        for (number, (line, document)) in documents.rows.into_iter().enumerate().take(limit) {
            let turns = match &template {
                Some(template) => template
                    .render(|field| text_in(&document, field))
                    .map(|turn| vec![turn])
                    .map_err(|field| format!("the field {field:?} is missing or blank")),
                None => turns_in(&document, self.spec.turns.as_deref().unwrap_or_default()),
            };
            let answer = match &self.spec.score {
                AnswerScoring::Factuality(facts) => {
                    factuality::read_answer(&document, &facts.answers).map(Some)
                }
                _ => Ok(None),
            };
            match turns.and_then(|turns| Ok((turns, answer?))) {
                Ok((turns, answer)) => self.conversations.push(Conversation {
                    number,
                    line,
                    id: (self.spec.id.as_ref())
                        .and_then(|field| text_in(&document, field))
                        .unwrap_or_else(|| format!("line {line}")),
                    turns,
                    temperature: self.temperature_of(&document),
                    groups: groups_of(&document, &spec.group_by),
                    cluster: (spec.cluster_by.as_ref()).and_then(|field| text_in(&document, field)),
                    answer,
                    document,
                }),
                Err(reason) => self.skips.add(&reason, line),
            }
        }
        Ok(())
    }

    fn temperature_of(&self, document: &Document) -> f32 {
        let by = self.spec.temperatures.as_ref();
        let value = by.and_then(|by| Some(*by.values.get(&text_in(document, &by.field)?)?));
        value.unwrap_or(self.spec.temperature)
    }
}

fn turns_in(document: &Document, field: &str) -> Result<Vec<String>, String> {
    use serde_json::Value;
    let turns = match document.get(field) {
        Some(Value::String(turn)) => vec![turn.clone()],
        Some(Value::Array(list)) if list.len() <= MAX_TURNS => list
            .iter()
            .map(|turn| turn.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or("a turn is not text")?,
        Some(Value::Array(_)) => return Err(format!("more than {MAX_TURNS} turns")),
        _ => return Err(format!("no text or list of turns in the field {field:?}")),
    };
    if turns.is_empty() || turns.iter().any(|turn| turn.trim().is_empty()) {
        return Err("an empty turn".to_owned());
    }
    Ok(turns)
}

/// A conversation while it goes on.
struct Talk<'t> {
    conversation: &'t Conversation,
    requests: Vec<Request>,
    responses: Vec<Response>,
    /// The answers so far; an error says why it broke off.
    answers: Result<Vec<String>, String>,
}

impl Talk<'_> {
    fn is_open(&self) -> bool {
        self.answers.as_ref().is_ok_and(|answers| answers.len() < self.conversation.turns.len())
    }

    /// What is asked for the next answer.
    fn next_request(
        &self,
        spec: &ConversationSpec,
        chat: Option<&ChatRenderer<'_>>,
    ) -> Result<Request, String> {
        let answers = self.answers.as_ref().map_err(Clone::clone)?;
        let turns = &self.conversation.turns;
        let prompt = match chat {
            None if turns.len() > 1 => {
                return Err("the model has no chat template, and several turns need one".to_owned());
            }
            None if spec.system.is_empty() => turns[0].clone(),
            None => format!("{}\n\n{}", spec.system, turns[0]),
            Some(render) => {
                let mut messages = Vec::new();
                if !spec.system.is_empty() {
                    messages.push(Message::new("system", spec.system.as_str()));
                }
                for (turn, answer) in turns.iter().zip(answers) {
                    messages.push(Message::new("user", turn.as_str()));
                    messages.push(Message::new("assistant", answer.as_str()));
                }
                messages.push(Message::new("user", turns[answers.len()].as_str()));
                render(&messages, true)?
            }
        };
        Ok(Request::Generation {
            prompt,
            until: spec.until.clone(),
            max_tokens: spec.max_tokens,
            temperature: self.conversation.temperature,
            seed: 0,
        })
    }

    /// The probability of the last answer, where it was asked for.
    fn likelihood(&self) -> Option<f64> {
        match self.responses.last()? {
            Response::Continuation { log_likelihood, .. } => Some(log_likelihood.exp()),
            _ => None,
        }
    }

    fn hear(&mut self, request: Request, response: Response) {
        match (&response, &mut self.answers) {
            (Response::Generation { text, .. }, Ok(answers)) => {
                answers.push(text.trim().to_owned());
            }
            (Response::Refused { reason }, _) => self.answers = Err(reason.clone()),
            _ => self.answers = Err("the model answered something else".to_owned()),
        }
        self.requests.push(request);
        self.responses.push(response);
    }
}

impl HarnessRun<'_> {
    /// Has the conversations of a task, and scores them. `chat` renders messages with the model's
    /// template, where it has one.
    ///
    /// # Errors
    /// A model that fails, a template that does, several turns without a template, a stop.
    pub fn converse(
        &mut self,
        task: &ConversationTask,
        chat: Option<&ChatRenderer<'_>>,
    ) -> Result<Conversed, EvalError> {
        let started = Instant::now();
        let bad = |problem: String| EvalError::CannotAsk { task: task.name.clone(), problem };
        let mut talks: Vec<Talk<'_>> = task
            .conversations
            .iter()
            .map(|conversation| Talk {
                conversation,
                requests: Vec::new(),
                responses: Vec::new(),
                answers: Ok(Vec::new()),
            })
            .collect();
        let mut prompt_tokens = None;
        let (mut asked, mut requests) = (0, 0);
        while talks.iter().any(Talk::is_open) {
            let open: Vec<usize> = (0..talks.len()).filter(|&at| talks[at].is_open()).collect();
            let next: Vec<Request> = open
                .iter()
                .map(|&at| talks[at].next_request(&task.spec, chat))
                .collect::<Result<_, _>>()
                .map_err(bad)?;
            if let (0, Some(Request::Generation { prompt, .. })) = (requests, next.first()) {
                prompt_tokens = self.check_beginning(&task.name, prompt, chat.is_some())?;
            }
            let mut asker = Asker {
                model: self.model,
                parse_special: chat.is_some(),
                answers: self.answers,
                watch: self.watch,
            };
            let (responses, now) = asker.ask(&task.name, &next.iter().collect::<Vec<_>>())?;
            asked += now;
            requests += next.len();
            for ((&at, request), response) in open.iter().zip(next).zip(responses) {
                talks[at].hear(request, response);
            }
        }
        if let AnswerScoring::Factuality(FactualitySpec {
            confidence: ConfidenceSource::Likelihood,
            ..
        }) = &task.spec.score
        {
            let (sent, now) = self.ask_for_likelihoods(&task.name, &mut talks, chat.is_some())?;
            asked += now;
            requests += sent;
        }
        let mut skips = task.skips.clone();
        let mut remarks = Skips::default();
        let mut cut_generations = 0;
        for talk in &talks {
            let line = talk.conversation.line;
            if let Err(reason) = &talk.answers {
                skips.add(reason, line);
            }
            cut_generations += u64::from(talk.responses.iter().any(is_cut));
            if talk.responses.iter().any(is_empty) {
                remarks.add("the model wrote nothing", line);
            }
        }
        let scored = score(task, &talks, self.replicates)?;
        let whole = talks.iter().filter(|talk| talk.answers.is_ok()).count() as u64;
        if whole == 0 {
            let conversations = task.conversations.len();
            return Err(EvalError::nothing_scored(
                &task.name,
                conversations,
                &skips,
                self.model.info(),
            ));
        }
        let setting =
            Setting { task: &task.name, num_fewshot: 0, chat: chat.is_some(), questions: whole };
        let published = beside(setting, &scored.metrics);
        let mut scores = TaskScores {
            task: task.name.clone(),
            version: f64::from(task.version),
            output_type: OutputType::GenerateUntil,
            task_hash: task.task_hash,
            data_hashes: vec![task.data_hash],
            num_fewshot: 0,
            documents: task.documents as u64,
            scored: whole,
            skips,
            remarks,
            truncated: 0,
            cut_generations,
            prompt_tokens,
            metrics: scored.metrics,
            group_means: BTreeMap::new(),
            groups: scored.groups,
            contamination: None,
            refusal: scored.refusal,
            factuality: scored.factuality,
            samples: 1,
            spreads: Vec::new(),
            failures: Vec::new(),
            prompts: Vec::new(),
            published,
            asked: asked as u64,
            requests: requests as u64,
            wall_seconds: started.elapsed().as_secs_f64(),
        };
        let logs: Vec<QuestionLog> = talks
            .iter()
            .enumerate()
            .map(|(at, talk)| QuestionLog {
                task: task.name.clone(),
                number: talk.conversation.number,
                line: talk.conversation.line,
                prompt: None,
                prompt_hash: requests_hash(&talk.requests),
                examples: Vec::new(),
                requests: if self.log_texts { talk.requests.clone() } else { Vec::new() },
                target: None,
                responses: talk.responses.clone(),
                seeds: Vec::new(),
                scores: scored.by_talk.get(&at).cloned().unwrap_or_default(),
                sample_scores: BTreeMap::new(),
                verdicts: BTreeMap::new(),
                instructions: scored.instructions.get(&at).cloned().unwrap_or_default(),
            })
            .collect();
        scores.failures = failures(STRICT_PROMPTS, "none", &logs).into_iter().collect();
        let for_a_judge = matches!(task.spec.score, AnswerScoring::Judge { .. });
        Ok(Conversed { scores, logs, transcripts: transcripts(task, &talks), for_a_judge })
    }
}

impl HarnessRun<'_> {
    /// Asks how probable each last answer is after its prompt; gives the requests sent and those
    /// that were asked now.
    fn ask_for_likelihoods(
        &mut self,
        task: &str,
        talks: &mut [Talk<'_>],
        parse_special: bool,
    ) -> Result<(usize, usize), EvalError> {
        let mut open = Vec::new();
        for (at, talk) in talks.iter().enumerate() {
            if let (
                Some(Request::Generation { prompt, .. }),
                Some(Response::Generation { text, .. }),
                true,
            ) = (talk.requests.last(), talk.responses.last(), talk.answers.is_ok())
                && !text.trim().is_empty()
            {
                let (context, continuation) = (prompt.clone(), text.trim_end().to_owned());
                open.push((at, Request::Continuation { context, continuation }));
            }
        }
        let requests: Vec<&Request> = open.iter().map(|(_, request)| request).collect();
        let mut asker =
            Asker { model: self.model, parse_special, answers: self.answers, watch: self.watch };
        let (responses, now) = asker.ask(task, &requests)?;
        let sent = open.len();
        for ((at, request), response) in open.into_iter().zip(responses) {
            talks[at].requests.push(request);
            talks[at].responses.push(response);
        }
        Ok((sent, now))
    }
}

fn transcripts(task: &ConversationTask, talks: &[Talk<'_>]) -> Vec<Transcript> {
    let transcript = |talk: &Talk<'_>| {
        let conversation = talk.conversation;
        Some(Transcript {
            id: conversation.id.clone(),
            questions: conversation.turns.clone(),
            answers: talk.answers.clone().ok()?,
            references: task.references.get(&conversation.id).cloned().unwrap_or_default(),
            groups: conversation.groups.clone(),
        })
    };
    talks.iter().filter_map(transcript).collect()
}

impl Transcript {
    /// The line of the file of questions that a judge reads.
    pub fn question(&self) -> serde_json::Value {
        let mut line = serde_json::json!({"id": self.id, "turns": self.questions});
        if !self.references.is_empty() {
            line["reference"] = self.references.clone().into();
        }
        for (field, value) in &self.groups {
            line[field] = value.clone().into();
        }
        line
    }
}

/// What scoring found.
#[derive(Default)]
struct Scored {
    metrics: Vec<MetricScore>,
    groups: Vec<GroupScores>,
    refusal: Option<RefusalReport>,
    factuality: Option<FactualityReport>,
    /// Numbers for the log, by the place of the conversation.
    by_talk: HashMap<usize, BTreeMap<String, f64>>,
    /// Verdicts on instructions for the log, by the place of the conversation.
    instructions: HashMap<usize, Vec<InstructionVerdict>>,
}

/// The share of prompts of which every instruction is kept, as the harness names it.
const STRICT_PROMPTS: &str = "prompt_level_strict_acc";

fn score(
    task: &ConversationTask,
    talks: &[Talk<'_>],
    replicates: usize,
) -> Result<Scored, EvalError> {
    match &task.spec.score {
        AnswerScoring::Judge { .. } => {
            let answered = talks.iter().map(|talk| {
                talk.answers.as_ref().is_ok_and(|all| all.iter().all(|text| !text.is_empty()))
            });
            let share = Share::of_flags(answered);
            Ok(Scored {
                metrics: vec![MetricScore::of_share("answered", &share, true)],
                ..Scored::default()
            })
        }
        AnswerScoring::Refusal { label, safe, kind } => {
            Ok(score_refusals(talks, label, safe, kind.as_deref()))
        }
        AnswerScoring::Instructions {} => score_instructions(task, talks),
        AnswerScoring::Factuality(spec) => Ok(score_facts(task, spec, talks, replicates)),
    }
}

fn score_refusals(talks: &[Talk<'_>], label: &str, safe: &str, kind: Option<&str>) -> Scored {
    let mut outcomes = Vec::new();
    let mut by_talk = HashMap::new();
    for (at, talk) in talks.iter().enumerate() {
        let Ok([.., answer]) = talk.answers.as_deref() else { continue };
        let document = &talk.conversation.document;
        let outcome = Outcome {
            safe: text_in(document, label).as_deref() == Some(safe),
            kind: kind.and_then(|field| text_in(document, field)),
            compliance: classify(answer),
        };
        by_talk.insert(at, BTreeMap::from([(outcome.compliance.name().to_owned(), 1.0)]));
        outcomes.push(outcome);
    }
    let report = RefusalReport::of(&outcomes);
    let mut metrics = vec![
        MetricScore::of_share("over_refusal", &report.over_refusal, false),
        MetricScore::of_share("under_refusal", &report.under_refusal, false),
    ];
    if let Some(value) = report.balanced {
        metrics.push(MetricScore {
            metric: "balanced".to_owned(),
            filter: "none".to_owned(),
            value,
            standard_error: None,
            interval: report.balanced_interval,
            n: outcomes.len() as u64,
            higher_is_better: true,
        });
    }
    let group = |(value, shares): (&String, &crate::refusal::ClassShares)| GroupScores {
        field: kind.unwrap_or_default().to_owned(),
        value: value.clone(),
        metrics: vec![MetricScore::of_share("full_compliance", &shares.full_compliance, true)],
    };
    let groups = report.kinds.iter().map(group).collect();
    Scored { metrics, groups, refusal: Some(report), by_talk, ..Scored::default() }
}

fn score_facts(
    task: &ConversationTask,
    spec: &FactualitySpec,
    talks: &[Talk<'_>],
    replicates: usize,
) -> Scored {
    let mut by_talk = HashMap::new();
    let mut graded = Vec::new();
    let mut named: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (at, talk) in talks.iter().enumerate() {
        let conversation = talk.conversation;
        let (Ok([.., answer]), Some(right)) = (talk.answers.as_deref(), &conversation.answer)
        else {
            continue;
        };
        let (confidence, answer) = match spec.confidence {
            ConfidenceSource::Stated => stated_confidence(answer),
            ConfidenceSource::None => (None, answer.clone()),
            ConfidenceSource::Likelihood => (talk.likelihood(), answer.clone()),
        };
        let reading = reading_of(&conversation.document);
        let outcome = factuality::Outcome::of(&answer, right, reading, spec.tier);
        let flag = |holds: bool| f64::from(u8::from(holds));
        let mut numbers = BTreeMap::from([
            ("correct".to_owned(), flag(outcome.is_correct())),
            ("abstained".to_owned(), flag(outcome == factuality::Outcome::Abstained)),
        ]);
        numbers.extend(confidence.map(|value| ("confidence".to_owned(), value)));
        by_talk.insert(at, numbers);
        for (field, value) in &conversation.groups {
            named.entry((field.clone(), value.clone())).or_default().push(graded.len());
        }
        graded.push(Graded { outcome, confidence, cluster: conversation.cluster.clone() });
    }
    let seed = Seed(0).derive(&task.name);
    let report = FactualityReport::of(&graded, spec.penalty, replicates, seed);
    let score = |metric: &str, value, interval, higher_is_better| MetricScore {
        metric: metric.to_owned(),
        filter: "none".to_owned(),
        value,
        standard_error: None,
        interval,
        n: graded.len() as u64,
        higher_is_better,
    };
    let mut metrics = vec![
        MetricScore::of_share("correct", &report.correct, true),
        MetricScore::of_share("wrong", &report.wrong, false),
        MetricScore::of_share("accuracy_attempted", &report.accuracy_attempted, true),
        score("score", report.score, report.score_interval, true),
    ];
    if let Some(calibration) = &report.calibration {
        metrics.push(score("ece", calibration.ece, calibration.ece_interval, false));
        metrics.push(score("brier", calibration.brier, calibration.brier_interval, false));
    }
    let group = |((field, value), members): ((String, String), Vec<usize>)| {
        let share = Share::of_flags(members.iter().map(|&at| graded[at].outcome.is_correct()));
        GroupScores { field, value, metrics: vec![MetricScore::of_share("correct", &share, true)] }
    };
    Scored {
        metrics,
        groups: named.into_iter().map(group).collect(),
        factuality: Some(report),
        by_talk,
        ..Scored::default()
    }
}

fn score_instructions(task: &ConversationTask, talks: &[Talk<'_>]) -> Result<Scored, EvalError> {
    let Some(set) = &task.instructions else { return Ok(Scored::default()) };
    let answers: Vec<Option<&str>> = talks
        .iter()
        .map(|talk| talk.answers.as_deref().ok().and_then(<[String]>::last).map(String::as_str))
        .collect();
    let (report, logs) = instructions::score(set, &answers)?;
    // The harness's names.
    let all = &report.scores;
    let metrics = [
        (STRICT_PROMPTS, &all.prompt_strict),
        ("inst_level_strict_acc", &all.instruction_strict),
        ("prompt_level_loose_acc", &all.prompt_loose),
        ("inst_level_loose_acc", &all.instruction_loose),
    ];
    let metrics =
        metrics.iter().map(|(name, share)| MetricScore::of_share(name, share, true)).collect();
    let group = |(kind, scores): (&String, &instructions::KindScores)| GroupScores {
        field: "kind".to_owned(),
        value: kind.clone(),
        metrics: vec![MetricScore::of_share("inst_level_strict_acc", &scores.strict, true)],
    };
    let kept = |verdicts: &[instructions::Verdict]| {
        f64::from(u8::from(verdicts.iter().all(|verdict| verdict.kept)))
    };
    let scored = answers.iter().enumerate().filter(|(_, answer)| answer.is_some());
    let verdicts = scored.clone().zip(&logs).map(|((at, _), log)| {
        let both = log.instructions.iter().zip(log.strict.iter().zip(&log.loose));
        let verdict = |(id, (strict, loose)): (&String, (_, _))| InstructionVerdict {
            id: id.clone(),
            strict: instructions::Verdict::clone(strict),
            loose: instructions::Verdict::clone(loose),
        };
        (at, both.map(verdict).collect())
    });
    let verdicts = verdicts.collect();
    let by_talk = scored.zip(&logs).map(|((at, _), log)| {
        let numbers = [
            (STRICT_PROMPTS.to_owned(), kept(&log.strict)),
            ("prompt_level_loose_acc".to_owned(), kept(&log.loose)),
        ];
        (at, numbers.into())
    });
    Ok(Scored {
        metrics,
        groups: report.kinds.iter().map(group).collect(),
        by_talk: by_talk.collect(),
        instructions: verdicts,
        ..Scored::default()
    })
}

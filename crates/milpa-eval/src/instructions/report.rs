//! Scores of many responses: by prompt and by instruction, strict and loose, with intervals.

use std::{collections::BTreeMap, fmt};

use milpa_base::{Digest, EndpointRecord, FinishReason, ModelInfo, TextModel};
use serde::{Deserialize, Serialize};

use super::{InstructionPrompt, PromptSet, Verdict};
use crate::{
    error::EvalError,
    harness::{
        ask::{Answers, Asker},
        requests::{ChatRenderer, Request},
        scores::Response,
    },
    items::Skips,
    report::{markdown, table},
    run::Watch,
    statistics::{Interval, LEVEL, Method, Share, clustered_standard_error, student_t_quantile},
};

/// Layout version of [`InstructionReport`].
const FORMAT: u32 = 1;

/// The four scores of IFEval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// Prompts of which every instruction is kept.
    pub prompt_strict: Share,
    /// Instructions that are kept.
    pub instruction_strict: Share,
    /// Prompts, judged loosely.
    pub prompt_loose: Share,
    /// Instructions, judged loosely.
    pub instruction_loose: Share,
}

/// The instructions of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindScores {
    /// The share kept.
    pub strict: Share,
    /// The share kept, judged loosely.
    pub loose: Share,
}

/// How one prompt was answered: a line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstructionLog {
    /// The prompt's id.
    pub id: String,
    /// Its line in the data, counted from 1.
    pub line: u64,
    /// The ids of its instructions.
    pub instructions: Vec<String>,
    /// The strict verdicts.
    pub strict: Vec<Verdict>,
    /// The loose verdicts.
    pub loose: Vec<Verdict>,
    /// The response.
    pub response: String,
}

/// What following instructions was worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstructionReport {
    /// Layout version.
    pub format: u32,
    /// Version of the program.
    pub milpa_version: String,
    /// The command line that does it again.
    pub command_line: String,
    /// BLAKE3 of the prompts.
    pub data_hash: Digest,
    /// BLAKE3 of the responses, if they were given as a file.
    pub responses_hash: Option<Digest>,
    /// The model, if it was asked now.
    pub model: Option<ModelInfo>,
    /// What an endpoint was asked, where the model is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointRecord>,
    /// Whether prompts went through its chat template.
    pub chat_template: bool,
    /// Prompts that could be used.
    pub prompts: u64,
    /// Prompts with a response.
    pub scored: u64,
    /// What was left out, by reason.
    pub skips: Skips,
    /// The scores.
    pub scores: Scores,
    /// Scores by kind, without languages.
    pub kinds: BTreeMap<String, KindScores>,
}

/// Judges a response to each prompt; `None` is no response, and is left out and counted.
///
/// # Errors
/// No response at all.
pub fn score(
    set: &PromptSet,
    responses: &[Option<&str>],
) -> Result<(InstructionReport, Vec<InstructionLog>), EvalError> {
    let mut skips = set.skips.clone();
    let mut logs = Vec::new();
    let mut kinds: BTreeMap<String, (Vec<bool>, Vec<bool>)> = BTreeMap::new();
    for (prompt, response) in set.prompts.iter().zip(responses) {
        let Some(response) = response else {
            skips.add("no response", prompt.line);
            continue;
        };
        let log = judge(prompt, response);
        for (at, instruction) in prompt.instructions.iter().enumerate() {
            let (strict, loose) = kinds.entry(instruction.kind().to_owned()).or_default();
            strict.push(log.strict[at].kept);
            loose.push(log.loose[at].kept);
        }
        logs.push(log);
    }
    if logs.is_empty() {
        return Err(EvalError::OtherAnswers(
            "no prompt of the data has a response; are they of another file?",
        ));
    }
    let by_kind = |(kind, (strict, loose)): (String, (Vec<bool>, Vec<bool>))| {
        (kind, KindScores { strict: proportion(&strict), loose: proportion(&loose) })
    };
    let report = InstructionReport {
        format: FORMAT,
        milpa_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: String::new(),
        data_hash: set.data_hash,
        responses_hash: None,
        model: None,
        endpoint: None,
        chat_template: false,
        prompts: set.prompts.len() as u64,
        scored: logs.len() as u64,
        skips,
        scores: Scores {
            prompt_strict: by_prompt(&logs, |log| &log.strict),
            instruction_strict: by_instruction(&logs, |log| &log.strict),
            prompt_loose: by_prompt(&logs, |log| &log.loose),
            instruction_loose: by_instruction(&logs, |log| &log.loose),
        },
        kinds: kinds.into_iter().map(by_kind).collect(),
    };
    Ok((report, logs))
}

fn judge(prompt: &InstructionPrompt, response: &str) -> InstructionLog {
    let instructions = &prompt.instructions;
    InstructionLog {
        id: prompt.id.clone(),
        line: prompt.line,
        instructions: instructions.iter().map(|instruction| instruction.id.clone()).collect(),
        strict: instructions.iter().map(|instruction| instruction.check(response)).collect(),
        loose: instructions.iter().map(|each| each.check_loosely(response)).collect(),
        response: response.to_owned(),
    }
}

fn proportion(kept: &[bool]) -> Share {
    Share::of(kept.iter().filter(|&&kept| kept).count() as u64, kept.len() as u64)
}

type Verdicts = fn(&InstructionLog) -> &Vec<Verdict>;

fn by_prompt(logs: &[InstructionLog], verdicts: Verdicts) -> Share {
    let all = |log: &InstructionLog| verdicts(log).iter().all(|verdict| verdict.kept);
    proportion(&logs.iter().map(all).collect::<Vec<_>>())
}

/// The instructions of a prompt are kept or not together, so prompts are the clusters.
fn by_instruction(logs: &[InstructionLog], verdicts: Verdicts) -> Share {
    let each = |(cluster, log)| verdicts(log).iter().map(move |verdict| (cluster, verdict.kept));
    let (clusters, kept): (Vec<usize>, Vec<bool>) = logs.iter().enumerate().flat_map(each).unzip();
    let share = proportion(&kept);
    let values: Vec<f64> = kept.iter().map(|&kept| f64::from(u8::from(kept))).collect();
    // Where all are alike the error is zero and Wilson's interval says more.
    let error = clustered_standard_error(&values, &clusters).filter(|&error| error > 0.0);
    let Some(error) = error else { return share };
    let degrees = logs.len() as f64 - 1.0;
    let half = student_t_quantile(f64::midpoint(1.0, LEVEL), degrees) * error;
    let (low, high) = ((share.value - half).max(0.0), (share.value + half).min(1.0));
    Share { interval: Interval { low, high, level: LEVEL, method: Method::StudentT }, ..share }
}

/// Lets a model respond to each prompt, greedily; `None` where it refuses (a prompt that is too long).
/// With `chat` the prompt is a user's message. Also says how many responses were cut at `max_tokens`.
///
/// # Errors
/// A model that fails, a template that does, a prompt with no or two BOS tokens, a stop.
pub fn ask(
    set: &PromptSet,
    model: &dyn TextModel,
    chat: Option<&ChatRenderer<'_>>,
    max_tokens: usize,
    answers: &mut Answers,
    watch: Watch<'_>,
) -> Result<(Vec<Option<String>>, usize), EvalError> {
    let doing = "instruction following";
    let bad = |problem: String| EvalError::CannotAsk { task: doing.to_owned(), problem };
    let request = |prompt: &InstructionPrompt| {
        let text = match chat {
            None => prompt.prompt.clone(),
            Some(render) => {
                let message = milpa_tokens::Message::new("user", prompt.prompt.as_str());
                render(&[message], true).map_err(bad)?
            }
        };
        Ok(Request::Generation {
            prompt: text,
            until: Vec::new(),
            max_tokens,
            temperature: 0.0,
            seed: 0,
        })
    };
    let requests: Vec<Request> =
        set.prompts.iter().map(request).collect::<Result<_, EvalError>>()?;
    if let Some(Request::Generation { prompt, .. }) = requests.first()
        && let Ok(tokens) = model.prompt_tokens(prompt, chat.is_some())
        && tokens.bos.is_some()
        && tokens.leading_bos != 1
    {
        return Err(bad(format!(
            "a prompt begins with {} BOS tokens; this model needs one, so either the chat template or \
             the tokenizer must write it, and not both",
            tokens.leading_bos
        )));
    }
    let requests: Vec<&Request> = requests.iter().collect();
    let mut asker = Asker { model, parse_special: chat.is_some(), answers, watch };
    let (responses, _) = asker.ask(doing, &requests)?;
    let mut cut = 0;
    let text = |response| match response {
        Response::Generation { text, finish_reason, .. } => {
            cut += usize::from(finish_reason == FinishReason::Length);
            Some(text)
        }
        _ => None,
    };
    let texts = responses.into_iter().map(text).collect();
    Ok((texts, cut))
}

const HEAD: [&str; 5] = ["", "n", "strict", "loose", "95 % interval (strict)"];

impl InstructionReport {
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, strict: &Share, loose: &Share| {
            let interval = strict.interval;
            vec![
                name.to_owned(),
                strict.n.to_string(),
                format!("{:.4}", strict.value),
                format!("{:.4}", loose.value),
                format!("{:.4} to {:.4}", interval.low, interval.high),
            ]
        };
        let all = &self.scores;
        let mut rows = vec![
            row("prompts", &all.prompt_strict, &all.prompt_loose),
            row("instructions", &all.instruction_strict, &all.instruction_loose),
        ];
        rows.extend(self.kinds.iter().map(|(kind, both)| row(kind, &both.strict, &both.loose)));
        rows
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!("{} of {} prompts scored", self.scored, self.prompts)];
        if self.skips.total() > 0 {
            notes.push(format!("left out or doubtful: {}", self.skips));
        }
        if let Some(model) = &self.model {
            let how = if self.chat_template { "by the chat template" } else { "in plain text" };
            notes.push(format!("model {}, prompts {how}", model.name));
            notes.extend(self.endpoint.iter().map(EndpointRecord::to_line));
        }
        notes
    }

    /// The report as Markdown.
    pub fn to_markdown(&self) -> String {
        let title = "Instruction following";
        markdown(title, &HEAD, &self.rows(), &self.notes(), &self.command_line)
    }
}

impl fmt::Display for InstructionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", table(&HEAD, &self.rows(), 1))?;
        for note in self.notes() {
            writeln!(f, "{note}")?;
        }
        writeln!(f, "{}", self.command_line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Method;

    fn log(kept: &[bool]) -> InstructionLog {
        let verdicts: Vec<Verdict> = kept.iter().map(|&kept| Verdict::new(kept, "")).collect();
        InstructionLog {
            id: String::new(),
            line: 1,
            instructions: Vec::new(),
            strict: verdicts.clone(),
            loose: verdicts,
            response: String::new(),
        }
    }

    #[test]
    fn scores_count_prompts_and_instructions() {
        let logs = [log(&[true, true]), log(&[true, false]), log(&[false])];
        let prompts = by_prompt(&logs, |log| &log.strict);
        assert!((prompts.value - 1.0 / 3.0).abs() < 1e-12 && prompts.n == 3);
        let each = by_instruction(&logs, |log| &log.strict);
        assert!((each.value - 0.6).abs() < 1e-12 && each.n == 5);
        assert_eq!(each.interval.method, Method::StudentT);
        // Residuals by prompt 0.8, −0.2, −0.6: √(3/2 · 1.04) / 5; t of two degrees is 4.302653.
        let half: f64 = 4.302_653 * (1.5f64 * 1.04).sqrt() / 5.0;
        assert!((each.interval.low - (0.6 - half).max(0.0)).abs() < 1e-6);
        let same = by_instruction(&[log(&[true]), log(&[true])], |log| &log.strict);
        assert_eq!(same.interval.method, Method::Wilson);
    }
}

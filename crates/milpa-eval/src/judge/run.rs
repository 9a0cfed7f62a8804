//! Asks a judge: pairs in both orders, grades, rubrics; every answer is kept as a judgment.
//!
//! A judgment's key says who was asked what: judge, prompt and the text sent. Judgments that are
//! there already are taken over, so an endpoint that dies half-way costs nothing twice.

use std::collections::BTreeMap;

use milpa_base::{Digest, GenerateRequest, Sampling, TextModel, hash_bytes};
use serde::{Deserialize, Serialize};

use super::{
    exchange::Question,
    prompt::{JudgeKind, JudgePrompt},
    verdict::{Preference, parse_criterion, parse_preference, parse_rating},
};
use crate::{error::EvalError, run::Watch};

/// Makes the text that a model is sent of a system prompt and a user's turn, and says whether
/// special tokens in it are special: a chat template, or nothing but a blank line between.
pub type Dialogue<'a> = dyn Fn(&str, &str) -> Result<(String, bool), String> + 'a;

/// Who judges, and how it is asked.
pub struct Judge<'a> {
    /// The model.
    pub model: &'a dyn TextModel,
    /// What it is asked.
    pub prompt: &'a JudgePrompt,
    /// How a conversation is written for this model.
    pub dialogue: &'a Dialogue<'a>,
    /// Tokens of a verdict with its reasons, at most.
    pub max_tokens: usize,
    /// Seed of the draw, which is greedy where the endpoint can be.
    pub seed: u64,
}

/// What was read out of a judge's text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Which of the answers as shown is better.
    Preference(Preference),
    /// A number.
    Rating(f64),
    /// Whether a criterion is met.
    Met(bool),
    /// Nothing could be read.
    Unreadable,
}

/// One answer of a judge: a line of `judgments.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgment {
    /// BLAKE3 of judge, prompt and the text sent.
    pub key: Digest,
    /// Identity of the question.
    pub id: String,
    /// Whether the answers stood in exchanged places.
    #[serde(default)]
    pub swapped: bool,
    /// Number of the criterion, for a rubric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criterion: Option<usize>,
    /// The judge's name.
    pub judge: String,
    /// The prompt's name.
    pub prompt: String,
    /// The prompt's hash.
    pub prompt_hash: Digest,
    /// What was read.
    pub verdict: Verdict,
    /// What the judge wrote.
    pub text: String,
}

/// What a judge is asked for one judgment.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// BLAKE3 of judge, prompt and the text sent: the key of the judgment.
    pub key: Digest,
    /// The request.
    pub request: GenerateRequest,
}

/// Where judgments come from and go.
pub struct Log<'a> {
    /// Judgments that are there already, by key.
    pub done: BTreeMap<Digest, Judgment>,
    /// Called with each new judgment as soon as it is there.
    pub keep: &'a mut dyn FnMut(&Judgment) -> Result<(), EvalError>,
}

impl Judge<'_> {
    /// Judges answers a against b, in both orders; of several turns the prompt says which counts.
    pub fn pair(
        &self,
        question: &Question,
        a: &[String],
        b: &[String],
        log: &mut Log<'_>,
        watch: Watch<'_>,
    ) -> Result<[Judgment; 2], EvalError> {
        let mut ask = |swapped: bool| {
            let (first, second) = if swapped { (b, a) } else { (a, b) };
            self.ask(
                question,
                &[("answer_a", first), ("answer_b", second)],
                None,
                swapped,
                log,
                watch,
            )
        };
        Ok([ask(false)?, ask(true)?])
    }

    /// Grades an answer.
    pub fn grade(
        &self,
        question: &Question,
        answer: &[String],
        log: &mut Log<'_>,
        watch: Watch<'_>,
    ) -> Result<Judgment, EvalError> {
        self.ask(question, &[("answer", answer)], None, false, log, watch)
    }

    /// Holds an answer against each criterion of the question.
    pub fn rubric(
        &self,
        question: &Question,
        answer: &[String],
        log: &mut Log<'_>,
        watch: Watch<'_>,
    ) -> Result<Vec<Judgment>, EvalError> {
        (0..question.criteria.len())
            .map(|index| self.ask(question, &[("answer", answer)], Some(index), false, log, watch))
            .collect()
    }

    /// The text of the user's turn: the template with the question's and the answers' fields.
    ///
    /// # Errors
    /// A field that this question or these answers do not have.
    pub fn user_turn(
        &self,
        question: &Question,
        answers: &[(&str, &[String])],
        criterion: Option<usize>,
    ) -> Result<String, EvalError> {
        let turn = |turns: &[String], rest: &str| match rest {
            "" => turns.first().cloned(),
            rest => {
                let number: usize = rest.strip_prefix('_')?.parse().ok()?;
                turns.get(number.checked_sub(1)?).cloned()
            }
        };
        let value = |name: &str| {
            if name == "criterion" {
                return criterion.map(|index| question.criteria[index].text.clone());
            }
            if let Some(rest) = name.strip_prefix("question") {
                return turn(&question.turns, rest);
            }
            if let Some(rest) = name.strip_prefix("ref_answer") {
                return turn(&question.references, rest);
            }
            answers.iter().find_map(|(field, turns)| {
                let rest = name.strip_prefix(field)?;
                turn(turns, rest)
            })
        };
        self.prompt.template.render(value).map_err(|field| {
            EvalError::Judge(format!(
                "the prompt {} needs {{{field}}}, and question {} or its answers have none; choose \
                 another prompt",
                self.prompt.name, question.id
            ))
        })
    }

    /// Asks for judgments that are not there yet, several at a time where the judge takes that, and
    /// leaves it to the judge to remember them: a judge elsewhere does.
    pub fn ask_ahead(
        &self,
        requests: &[Asked],
        log: &Log<'_>,
        watch: Watch<'_>,
    ) -> Result<(), EvalError> {
        let together = self.model.generates_together();
        let new: Vec<&Asked> =
            requests.iter().filter(|asked| !log.done.contains_key(&asked.key)).collect();
        if together <= 1 || new.is_empty() {
            return Ok(());
        }
        watch.progress.begin("asking the judge", Some(new.len() as u64), "requests");
        let (mut done, stop) = (0, watch.stop);
        for batch in new.chunks(together) {
            let requests: Vec<GenerateRequest> =
                batch.iter().map(|asked| asked.request.clone()).collect();
            let mut advance = |n: usize| watch.progress.advance((done + n) as u64);
            self.model
                .generate_many(&requests, &|| stop.is_set(), &mut advance)
                .map_err(|source| EvalError::Model { doing: "judgments".to_owned(), source })?;
            done += batch.len();
            if stop.is_set() {
                return Err(EvalError::Interrupted);
            }
        }
        watch.progress.end();
        Ok(())
    }

    /// What is asked to judge a pair of answers, in both orders.
    pub fn pair_requests(
        &self,
        question: &Question,
        a: &[String],
        b: &[String],
    ) -> Result<Vec<Asked>, EvalError> {
        [(a, b), (b, a)]
            .iter()
            .map(|(first, second)| {
                self.asked(question, &[("answer_a", first), ("answer_b", second)], None)
            })
            .collect()
    }

    /// What is asked to grade an answer, or to hold it against the question's criteria, as the
    /// prompt is for.
    pub fn answer_requests(
        &self,
        question: &Question,
        answer: &[String],
    ) -> Result<Vec<Asked>, EvalError> {
        if self.prompt.kind != JudgeKind::Criterion {
            return Ok(vec![self.asked(question, &[("answer", answer)], None)?]);
        }
        (0..question.criteria.len())
            .map(|index| self.asked(question, &[("answer", answer)], Some(index)))
            .collect()
    }

    fn asked(
        &self,
        question: &Question,
        answers: &[(&str, &[String])],
        criterion: Option<usize>,
    ) -> Result<Asked, EvalError> {
        let user = self.user_turn(question, answers, criterion)?;
        let (prompt, parse_special) =
            (self.dialogue)(&self.prompt.system, &user).map_err(EvalError::Judge)?;
        let info = self.model.info();
        // One byte between the parts keeps them from running into each other.
        let asked = [
            &info.name,
            &info.hash,
            &self.prompt.hash.to_string(),
            &self.max_tokens.to_string(),
            &self.seed.to_string(),
            &prompt,
        ];
        let key = hash_bytes(asked.map(String::as_str).join("\0").as_bytes());
        let request = GenerateRequest {
            prompt,
            parse_special,
            truncate_prompt: false,
            max_tokens: self.max_tokens,
            sampling: Sampling { temperature: 0.0, seed: self.seed, ..Sampling::default() },
            stop: Vec::new(),
            logprobs: None,
        };
        Ok(Asked { key, request })
    }

    fn ask(
        &self,
        question: &Question,
        answers: &[(&str, &[String])],
        criterion: Option<usize>,
        swapped: bool,
        log: &mut Log<'_>,
        watch: Watch<'_>,
    ) -> Result<Judgment, EvalError> {
        let Asked { key, request } = self.asked(question, answers, criterion)?;
        if let Some(known) = log.done.get(&key) {
            return Ok(Judgment { id: question.id.clone(), swapped, criterion, ..known.clone() });
        }
        let generation = watch.generate(self.model, &request)?.map_err(|source| {
            EvalError::Model { doing: format!("the judgment of question {}", question.id), source }
        })?;
        let judgment = Judgment {
            key,
            id: question.id.clone(),
            swapped,
            criterion,
            judge: self.model.info().name.clone(),
            prompt: self.prompt.name.clone(),
            prompt_hash: self.prompt.hash,
            verdict: read_verdict(self.prompt.kind, &generation.text),
            text: generation.text,
        };
        (log.keep)(&judgment)?;
        log.done.insert(key, judgment.clone());
        Ok(judgment)
    }
}

/// Reads a judge's text as the kind of prompt asks.
pub fn read_verdict(kind: JudgeKind, text: &str) -> Verdict {
    let read = match kind {
        JudgeKind::Pairwise => parse_preference(text).map(Verdict::Preference),
        JudgeKind::Single => parse_rating(text).map(Verdict::Rating),
        JudgeKind::Criterion => parse_criterion(text).map(Verdict::Met),
    };
    read.unwrap_or(Verdict::Unreadable)
}

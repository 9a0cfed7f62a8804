//! Asks a model, remembers every answer, and asks only what it has not asked before.
//!
//! Answers are appended to a file by the hash of model and request, so that an evaluation that was
//! cut goes on where it stopped, and one that is repeated asks nothing. It knows no metric.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use milpa_base::{
    Digest, FinishReason, GenerateRequest, Generation, ModelError, RollingWindows, Sampling,
    ScoreRequest, TextModel,
    lines::{Line, LineReader},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{EvalError, REFUSED, TOO_LONG},
    harness::{requests::Request, scores::Response},
    run::Watch,
};

/// Requests handed to the model together; between two such batches a stop is heard.
const BATCH: usize = 256;
/// Texts handed to the model together.
const TEXT_BATCH: usize = 16;
/// Longest line of the file of answers, in bytes.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Answers that a model gave before.
#[derive(Debug, Default)]
pub struct Answers {
    known: HashMap<Digest, Response>,
    file: Option<(PathBuf, File)>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: Digest,
    response: Response,
}

impl Answers {
    /// Opens a file of answers, or begins one. A line that a cut left half-written is taken away.
    ///
    /// # Errors
    /// A file that cannot be read or written, or holds something else.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let failed = |source| EvalError::Answers { path: path.to_owned(), source };
        let mut known = HashMap::new();
        let mut whole = 0u64;
        if path.exists() {
            let bytes = std::fs::metadata(path).map_err(failed)?.len();
            let mut reader = LineReader::open(path, MAX_LINE_BYTES).map_err(failed)?;
            while let Some(line) = reader.next_line().map_err(failed)? {
                let Line::Whole(line) = line else { break };
                let Ok(entry) = serde_json::from_slice::<Entry>(line) else { break };
                // The newline that ends the line must be there as well.
                let end = whole + line.len() as u64 + 1;
                if end > bytes {
                    break;
                }
                whole = end;
                known.insert(entry.key, entry.response);
            }
            if whole == 0 && bytes > 0 && known.is_empty() {
                let other = io::Error::other("it holds no answers of a model; name another folder");
                return Err(failed(other));
            }
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { known, file: Some((path.to_owned(), file)) })
    }

    fn keep(&mut self, key: Digest, response: Response) -> Result<(), EvalError> {
        if let Some((path, file)) = &mut self.file {
            let entry = Entry { key, response };
            let mut line = serde_json::to_vec(&entry).expect("plain data serialises");
            line.push(b'\n');
            file.write_all(&line)
                .map_err(|source| EvalError::Answers { path: path.clone(), source })?;
            self.known.insert(key, entry.response);
        } else {
            self.known.insert(key, response);
        }
        Ok(())
    }
}

/// A model with what it was asked before.
pub struct Asker<'a> {
    /// The model.
    pub model: &'a dyn TextModel,
    /// Whether special tokens in prompts are read as such: prompts come from a chat template.
    pub parse_special: bool,
    /// What it answered.
    pub answers: &'a mut Answers,
    /// Progress and stop.
    pub watch: Watch<'a>,
}

impl Asker<'_> {
    /// Answers to `requests`, in order, and how many of them were asked now.
    ///
    /// # Errors
    /// A model that fails or answers what cannot be, a stop, a full disk.
    pub fn ask(
        &mut self,
        doing: &str,
        requests: &[&Request],
    ) -> Result<(Vec<Response>, usize), EvalError> {
        let keys: Vec<Digest> = requests.iter().map(|request| self.key(request)).collect();
        let mut new: Vec<usize> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for (index, key) in keys.iter().enumerate() {
            if !self.answers.known.contains_key(key) && seen.insert(*key) {
                new.push(index);
            }
        }
        let asked = new.len();
        self.watch.progress.begin(doing, Some(asked as u64), "requests");
        let mut done = 0;
        let mut rest = new.as_slice();
        while let Some(&first) = rest.first() {
            if self.watch.stop.is_set() {
                return Err(EvalError::Interrupted);
            }
            let most = match requests[first] {
                Request::Continuation { .. } => BATCH,
                Request::Text { .. } => TEXT_BATCH,
                Request::Generation { .. } => self.model.generates_together(),
            };
            let alike = |index: &&usize| {
                std::mem::discriminant(requests[**index]) == std::mem::discriminant(requests[first])
            };
            let count = rest.iter().take(most).take_while(alike).count();
            let (batch, after) = rest.split_at(count);
            rest = after;
            let together: Vec<&Request> = batch.iter().map(|&index| requests[index]).collect();
            let responses = self.answer(doing, &together, done as u64)?;
            for (&index, response) in batch.iter().zip(responses) {
                if let Response::Generation { finish_reason: FinishReason::Cancelled, .. } =
                    response
                {
                    return Err(EvalError::Interrupted);
                }
                self.answers.keep(keys[index], response)?;
            }
            done += count;
            self.watch.progress.advance(done as u64);
        }
        self.watch.progress.end();
        let responses = keys.iter().map(|key| self.answers.known[key].clone()).collect();
        Ok((responses, asked))
    }

    /// Identity of a request to this model.
    fn key(&self, request: &Request) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let request = serde_json::to_string(request).expect("plain data serialises");
        for part in [&self.model.info().hash, &self.model.info().name, &request] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&[u8::from(self.parse_special)]);
        Digest(*hasher.finalize().as_bytes())
    }

    /// Answers of the model to requests of one kind.
    fn answer(
        &self,
        doing: &str,
        requests: &[&Request],
        before: u64,
    ) -> Result<Vec<Response>, EvalError> {
        let answered = match requests {
            [Request::Continuation { .. }, ..] => self.continuations(requests, before),
            [Request::Text { .. }, ..] => self.texts(requests, before),
            _ => self.generations(requests, before),
        };
        let answered = match answered {
            Err(error) if is_refusal(&error) && requests.len() > 1 => {
                // One of them is refused: find out which, and keep the others.
                return requests
                    .iter()
                    .map(|request| Ok(self.answer(doing, &[request], before)?.remove(0)))
                    .collect();
            }
            Err(error) if is_refusal(&error) => {
                Ok(vec![Response::Refused { reason: refusal(&error) }])
            }
            other => other,
        };
        let responses =
            answered.map_err(|source| EvalError::Model { doing: doing.to_owned(), source })?;
        let finite = |response: &Response| match response {
            Response::Continuation { log_likelihood, .. }
            | Response::Text { log_likelihood, .. } => log_likelihood.is_finite(),
            _ => true,
        };
        if responses.len() != requests.len() || !responses.iter().all(finite) {
            let problem = if responses.len() == requests.len() {
                "a log-likelihood that is no number; the weights may be damaged".to_owned()
            } else {
                format!("{} answers to {} requests", responses.len(), requests.len())
            };
            return Err(EvalError::BadAnswer { doing: doing.to_owned(), problem });
        }
        Ok(responses)
    }

    fn continuations(
        &self,
        requests: &[&Request],
        before: u64,
    ) -> Result<Vec<Response>, ModelError> {
        let requests: Vec<ScoreRequest> = requests
            .iter()
            .filter_map(|request| match request {
                Request::Continuation { context, continuation } => Some(ScoreRequest {
                    context: context.clone(),
                    continuation: continuation.clone(),
                    parse_special: self.parse_special,
                }),
                _ => None,
            })
            .collect();
        let advance = &mut |done: usize| self.watch.progress.advance(before + done as u64);
        let scores = self.model.score(&requests, advance)?;
        Ok(scores
            .into_iter()
            .map(|score| Response::Continuation {
                log_likelihood: score.log_likelihood,
                is_greedy: score.is_greedy,
                tokens: score.tokens,
                truncated_tokens: score.truncated_tokens,
            })
            .collect())
    }

    fn texts(&self, requests: &[&Request], before: u64) -> Result<Vec<Response>, ModelError> {
        let texts: Vec<&str> = requests
            .iter()
            .filter_map(|request| match request {
                Request::Text { text } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let advance = &mut |done: usize| self.watch.progress.advance(before + done as u64);
        let scores = self.model.score_rolling(&texts, RollingWindows::Disjoint, advance)?;
        let response = |score: milpa_base::RollingScore| Response::Text {
            log_likelihood: score.log_likelihood,
            tokens: score.tokens,
        };
        Ok(scores.into_iter().map(response).collect())
    }

    fn generations(&self, requests: &[&Request], before: u64) -> Result<Vec<Response>, ModelError> {
        let requests: Vec<GenerateRequest> = requests
            .iter()
            .filter_map(|request| match request {
                Request::Generation { prompt, until, max_tokens, temperature, seed } => {
                    let (temperature, seed) = (*temperature, *seed);
                    Some(GenerateRequest {
                        prompt: prompt.clone(),
                        parse_special: self.parse_special,
                        truncate_prompt: true,
                        max_tokens: *max_tokens,
                        sampling: Sampling { temperature, top_p: 1.0, seed, ..Sampling::default() },
                        stop: until.clone(),
                        logprobs: None,
                    })
                }
                _ => None,
            })
            .collect();
        let advance = &mut |done: usize| self.watch.progress.advance(before + done as u64);
        let stop = self.watch.stop;
        let generations = self.model.generate_many(&requests, &|| stop.is_set(), advance)?;
        let response = |generation: Generation| Response::Generation {
            text: generation.text,
            finish_reason: generation.finish_reason,
            prompt_tokens: generation.prompt_tokens,
            truncated_tokens: generation.truncated_tokens,
            tokens: generation.completion_tokens,
        };
        Ok(generations.into_iter().map(response).collect())
    }
}

/// Whether the model only refuses this request, rather than being broken.
pub(crate) fn is_refusal(error: &ModelError) -> bool {
    matches!(error, ModelError::TooLong { .. } | ModelError::BadRequest(_))
}

/// A reason that is the same for all that are refused alike.
pub(crate) fn refusal(error: &ModelError) -> String {
    match error {
        ModelError::TooLong { .. } => TOO_LONG.to_owned(),
        other => format!("{REFUSED}: {other}"),
    }
}

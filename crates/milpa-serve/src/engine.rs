//! One generation at a time: a bounded, fair queue before the model, and the events of the
//! generation that runs.
//!
//! The model runs on a blocking thread. Its events are buffered without waiting for the client,
//! so that a slow reader never holds up the next one; a buffer holds at most one piece for each
//! token that the request may generate. It knows nothing of HTTP.

use std::{
    future::poll_fn,
    ops::ControlFlow,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use milpa_base::{
    FinishReason, GenerateRequest, Generation, ModelError, Piece, Prompt, PromptScores, StopFlag,
    TextModel,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, Sleep, sleep_until, timeout_at},
};

use crate::metrics::{GaugeGuard, Metrics};

/// What a generation tells.
#[derive(Debug)]
pub(crate) enum Event {
    /// The prompt's own log-probabilities, before any new text.
    Scores(PromptScores),
    /// New text.
    Piece(Piece),
    /// The end, good or bad.
    Done(Result<Generation, ModelError>),
    /// The request took too long.
    TimedOut,
    /// The server is ending.
    ShuttingDown,
    /// The model's thread died.
    Died,
}

/// Why a generation was not begun.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The queue is full; come back after so many seconds.
    Busy { retry_after: u64 },
    /// The request's time ran out in the queue.
    TimedOut,
}

/// A text to be generated.
#[derive(Debug)]
pub(crate) struct Job {
    /// What is continued; a text stands in the request as well.
    pub(crate) prompt: Prompt,
    /// The request; its `max_tokens` is replaced where `max_tokens_default` is set.
    pub(crate) request: GenerateRequest,
    /// Whether the prompt's own log-probabilities are wanted, with as many alternatives as the
    /// request wants for new tokens.
    pub(crate) score_prompt: bool,
    /// The client left the number of new tokens open: as many as this, or fewer where the
    /// context ends before.
    pub(crate) max_tokens_default: Option<usize>,
}

/// The model and its queue.
pub(crate) struct Engine {
    model: Arc<dyn TextModel>,
    turn: Arc<Semaphore>,
    max_queue: usize,
    metrics: Arc<Metrics>,
    stop: StopFlag,
}

impl Engine {
    pub(crate) fn new(model: Arc<dyn TextModel>, max_queue: usize, metrics: Arc<Metrics>) -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Self { model, turn, max_queue, metrics, stop: StopFlag::default() }
    }

    pub(crate) fn model(&self) -> &dyn TextModel {
        &*self.model
    }

    /// Breaks off what runs and what waits.
    pub(crate) fn stop(&self) {
        self.stop.stop();
    }

    /// Waits for this job's turn and starts it. Dropping the future leaves the queue.
    pub(crate) async fn start(&self, job: Job, limit: Duration) -> Result<Running, Refusal> {
        let arrived = Instant::now();
        let deadline = arrived + limit;
        let in_flight = GaugeGuard::new(&self.metrics, |metrics| &metrics.in_flight);
        let turn = if let Ok(turn) = self.turn.clone().try_acquire_owned() {
            turn
        } else {
            let waiting = GaugeGuard::new(&self.metrics, |metrics| &metrics.waiting);
            if self.metrics.waiting.load(Relaxed) > self.max_queue as i64 {
                return Err(Refusal::Busy { retry_after: self.expected_wait() });
            }
            let turn = timeout_at(deadline, self.turn.clone().acquire_owned()).await;
            drop(waiting);
            turn.map_err(|_| Refusal::TimedOut)?.expect("the semaphore is never closed")
        };
        let (events, receiver) = mpsc::unbounded_channel();
        let cancel = StopFlag::default();
        let task = Task {
            model: self.model.clone(),
            metrics: self.metrics.clone(),
            stop: self.stop.clone(),
            cancel: cancel.clone(),
            events,
            arrived,
        };
        tokio::task::spawn_blocking(move || {
            task.run(job);
            drop(turn);
        });
        let deadline = Box::pin(sleep_until(deadline));
        Ok(Running { receiver, cancel, deadline, ended: false, _in_flight: in_flight })
    }

    /// Seconds until a place in the queue is likely to be free.
    fn expected_wait(&self) -> u64 {
        self.metrics.generation.mean().ceil().clamp(1.0, 60.0) as u64
    }
}

/// What the blocking thread needs.
struct Task {
    model: Arc<dyn TextModel>,
    metrics: Arc<Metrics>,
    stop: StopFlag,
    cancel: StopFlag,
    events: mpsc::UnboundedSender<Event>,
    arrived: Instant,
}

impl Task {
    fn run(&self, job: Job) {
        let started = Instant::now();
        let outcome = match self.score_prompt(&job) {
            Ok(None) => self.generate(job),
            Ok(Some(generation)) => Ok(generation),
            Err(error) => Err(error),
        };
        self.metrics.generation.observe(started.elapsed());
        let event = match outcome {
            Ok(generation) => {
                let Generation { prompt_tokens, completion_tokens, finish_reason, .. } = generation;
                self.metrics.prompt_tokens.fetch_add(prompt_tokens as u64, Relaxed);
                self.metrics.completion_tokens.fetch_add(completion_tokens as u64, Relaxed);
                if finish_reason == FinishReason::Cancelled {
                    self.metrics.cancelled.fetch_add(1, Relaxed);
                    Event::ShuttingDown
                } else {
                    Event::Done(Ok(generation))
                }
            }
            Err(error) => Event::Done(Err(error)),
        };
        // Nobody listens if the client has left.
        let _ = self.events.send(event);
    }

    /// Scores the prompt where that is wanted. Nothing or one greedy token after it comes out of
    /// the same computation, and is the whole generation.
    fn score_prompt(&self, job: &Job) -> Result<Option<Generation>, ModelError> {
        let request = &job.request;
        if !job.score_prompt || self.is_stopped() {
            return Ok(None);
        }
        let alternatives = request.logprobs.unwrap_or_default();
        let open = job.max_tokens_default.is_some();
        let greedy =
            request.sampling.temperature == 0.0 && request.sampling.repetition_penalty == 1.0;
        let with_next = !open && request.max_tokens == 1 && greedy && request.stop.is_empty();
        let scores = self.model.score_prompt(&job.prompt, alternatives, with_next)?;
        let mut generation = Generation {
            text: String::new(),
            finish_reason: FinishReason::Length,
            prompt_tokens: scores.tokens.len(),
            truncated_tokens: 0,
            completion_tokens: 0,
        };
        let (next, ends) = (scores.next.clone(), scores.ends);
        // Nobody listens if the client has left.
        let _ = self.events.send(Event::Scores(scores));
        if let Some(first) = next.first().cloned() {
            if ends {
                generation.finish_reason = FinishReason::Stop;
            } else {
                generation.text = first.text.clone();
            }
            generation.completion_tokens = 1;
            let top = next.into_iter().take(alternatives).collect();
            let piece = Piece { text: generation.text.clone(), logprobs: vec![(first, top)] };
            let _ = self.events.send(Event::Piece(piece));
        } else if open || request.max_tokens > 0 {
            return Ok(None);
        }
        Ok(Some(generation))
    }

    fn generate(&self, mut job: Job) -> Result<Generation, ModelError> {
        let Some(default) = job.max_tokens_default else {
            return self.generate_request(&job);
        };
        job.request.max_tokens = default;
        match self.generate_request(&job) {
            // The model alone can count the prompt; a request that fits with fewer new tokens
            // than the default gets what is left of the context.
            Err(ModelError::TooLong { prompt_tokens, context_length, .. })
                if prompt_tokens < context_length =>
            {
                job.request.max_tokens = context_length - prompt_tokens;
                self.generate_request(&job)
            }
            outcome => outcome,
        }
    }

    fn is_stopped(&self) -> bool {
        self.cancel.is_set() || self.stop.is_set()
    }

    fn generate_request(&self, job: &Job) -> Result<Generation, ModelError> {
        if self.is_stopped() {
            return Ok(Generation {
                text: String::new(),
                finish_reason: FinishReason::Cancelled,
                prompt_tokens: 0,
                truncated_tokens: 0,
                completion_tokens: 0,
            });
        }
        let mut last = None;
        let mut on_piece = |piece: &Piece| {
            match last.replace(Instant::now()) {
                None => self.metrics.first_token.observe(self.arrived.elapsed()),
                Some(last) => self.metrics.next_token.observe(last.elapsed()),
            }
            if self.is_stopped() || self.events.send(Event::Piece(piece.clone())).is_err() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        match &job.prompt {
            Prompt::Text { .. } => self.model.generate(&job.request, &mut on_piece),
            Prompt::Tokens(tokens) => {
                self.model.generate_from_tokens(tokens, &job.request, &mut on_piece)
            }
        }
    }
}

/// A generation under way; dropping it cancels the generation.
pub(crate) struct Running {
    receiver: mpsc::UnboundedReceiver<Event>,
    cancel: StopFlag,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
    _in_flight: GaugeGuard,
}

impl Running {
    /// The next event; `None` after the one that ended the generation.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = match self.receiver.poll_recv(cx) {
            Poll::Ready(event) => event.unwrap_or(Event::Died),
            Poll::Pending => match self.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => Event::TimedOut,
                Poll::Pending => return Poll::Pending,
            },
        };
        if !matches!(event, Event::Piece(_) | Event::Scores(_)) {
            self.ended = true;
            self.cancel.stop();
        }
        Poll::Ready(Some(event))
    }

    /// Waits for the next event.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.stop();
    }
}

//! Batches made ahead of time on a thread of their own, so that a step does not wait for data.
//!
//! Two batches wait in a channel while a third is made, which bounds the memory. A batch is a function
//! of its number, so the thread changes no bit of a run; it only asks for numbers one after the other. An
//! order by difficulty takes longer than two batches last, so one more thread makes that of the next stage
//! while a stage is read.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::Scope,
    time::{Duration, Instant},
};

use milpa_tokens::{Batch, TokensError};

use crate::data::Data;

/// Batches that wait to be taken.
const AHEAD: usize = 2;

type Made = Result<Batch, TokensError>;

/// Hands out batches in order.
pub(crate) struct Feed<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    data: Arc<Data<'env>>,
    /// The number that comes next, and from where.
    running: Option<(u64, Receiver<Made>)>,
}

impl<'scope, 'env> Feed<'scope, 'env> {
    pub(crate) fn new(scope: &'scope Scope<'scope, 'env>, data: Arc<Data<'env>>) -> Self {
        Self { scope, data, running: None }
    }

    /// Makes batches of other data from now on.
    pub(crate) fn change(&mut self, data: Arc<Data<'env>>) {
        *self = Self::new(self.scope, data);
    }

    /// Starts a thread that makes the batches from a number on, until nobody takes them.
    fn start(&self, first: u64) -> Receiver<Made> {
        let (sender, receiver) = sync_channel(AHEAD);
        let data = Arc::clone(&self.data);
        let scope = self.scope;
        scope.spawn(move || {
            for number in first.. {
                if number == first || data.begins_stage(number) {
                    let data = Arc::clone(&data);
                    // What cannot be made is told by the batch that needs it.
                    scope.spawn(move || drop(data.order_ahead(number)));
                }
                let made = data.batch(number);
                let last = made.is_err();
                if sender.send(made).is_err() || last {
                    break;
                }
            }
        });
        receiver
    }

    /// Takes batch `number`, and says how long it was waited for. After a number that does not follow
    /// the one before, as when a run goes back, making begins anew.
    pub(crate) fn take(&mut self, number: u64) -> Result<(Batch, Duration), TokensError> {
        let began = Instant::now();
        let receiver = match self.running.take() {
            Some((next, receiver)) if next == number => receiver,
            _ => self.start(number),
        };
        let batch = receiver.recv().unwrap_or_else(|_| {
            Err(TokensError::Loader("the thread that makes batches ended".to_owned()))
        })?;
        self.running = Some((number + 1, receiver));
        Ok((batch, began.elapsed()))
    }
}

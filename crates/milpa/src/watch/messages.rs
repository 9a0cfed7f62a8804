//! What goes to the webhook: a few messages, in order, by a thread of their own.
//!
//! Whoever tells does not wait, but at the very end and then not for long. What cannot be sent is told
//! once. A message names the run and no machine, no path and no user.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use milpa_base::StopFlag;
use milpa_client::Webhook;
use serde::Serialize;
use serde_json::Value;

use crate::progress::Terminal;

/// Most messages that wait; a run has few.
const MOST_WAITING: usize = 64;

/// A message, as it goes over the wire.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// What it is about: `alarm`, `complete`, `interrupted`, `failed`, `checkpoint_failed`, `hung`.
    pub kind: &'static str,
    /// Which alarm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<&'static str>,
    /// Name of the run.
    pub run: String,
    /// Steps done.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// What it was held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The same in a sentence; chats show this key.
    pub text: String,
}

/// Sends messages.
pub struct Messages {
    sender: Option<SyncSender<Value>>,
    /// Messages that were told and not yet sent or given up.
    waiting: Arc<(Mutex<usize>, Condvar)>,
    stop: StopFlag,
}

impl Messages {
    /// Nobody wants to hear.
    pub fn none() -> Self {
        Self { sender: None, waiting: Arc::default(), stop: StopFlag::default() }
    }

    /// Sends to a webhook, whose waits end with `stop`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn to(webhook: Webhook, stop: StopFlag, terminal: Terminal) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<Value>(MOST_WAITING);
        let waiting: Arc<(Mutex<usize>, Condvar)> = Arc::default();
        let counter = Arc::clone(&waiting);
        thread::Builder::new().name("milpa-webhook".to_owned()).spawn(move || {
            let mut has_told = false;
            for message in receiver {
                if let Err(error) = webhook.post(&message)
                    && !std::mem::replace(&mut has_told, true)
                {
                    terminal.alert(&format!(
                        "warning: {error}; training goes on, and this is said once"
                    ));
                }
                *counter.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
                counter.1.notify_all();
            }
        })?;
        Ok(Self { sender: Some(sender), waiting, stop })
    }

    /// Has a message sent when its turn comes.
    pub fn tell(&self, message: &Message) {
        let (Some(sender), Ok(value)) = (&self.sender, serde_json::to_value(message)) else {
            return;
        };
        *self.waiting() += 1;
        // Too many wait: the other side has been gone for long, and that was said.
        if sender.try_send(value).is_err() {
            *self.waiting() -= 1;
        }
    }

    /// Waits until all is sent, but no longer than this; then no more is tried.
    pub fn finish(&self, most: Duration) {
        let until = Instant::now() + most;
        let mut waiting = self.waiting();
        while *waiting > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.waiting.1.wait_timeout(waiting, left);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.stop.stop();
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, usize> {
        self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

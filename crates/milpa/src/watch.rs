//! A training seen while it runs: live view, page, TensorBoard, Prometheus, alarms and messages.
//!
//! The loop of the steps puts each line of its metrics to the state, looks whether it raises an alarm and
//! goes on; a thread of its own makes all the rest of them. What that thread cannot do is said once and
//! left out: nothing here holds a step up, changes a byte of a run or ends one, except an alarm of which
//! the recipe says so, which ends it right after the step that raised it.

mod alarms;
mod figures;
pub mod history;
mod messages;
pub mod page;
mod prometheus;
pub mod state;
mod tensorboard;
mod view;

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use milpa_base::{StopFlag, write_file_atomic};
use milpa_client::{Webhook, WebhookConfig};
use milpa_train::{Metric, Noted, Summary, TrainError};

pub use alarms::WatchConfig;
use alarms::{Alarm, Alarms, Raised};
pub use figures::{candidates, figures, raised};
use messages::{Message, Messages};
use page::Phase;
use state::{AlarmState, Disk, State};
pub use tensorboard::FOLDER as TENSORBOARD_FOLDER;
use view::Look;

use crate::{
    Refused, cli::Watching, context::Context, ledger::TrainingFolder, progress::Terminal,
    recipe::Recipe,
};

/// The page in the training folder.
pub const REPORT_FILE: &str = "report.html";
/// File in the training folder of a run that an alarm ended.
pub const ALARM_FILE: &str = "alarm.json";
/// How often what training told is taken in.
const TICK: Duration = Duration::from_millis(500);
/// How often the disk is looked at.
const DISK_INTERVAL: Duration = Duration::from_secs(2);
/// Most lines that wait to be taken in; a step has one, rarely a few.
const MOST_WAITING: usize = 1 << 16;
/// How a run ended that is complete, but no success.
const ABOVE_LIMIT: &str = "Complete, but above the limit on forgetting";
/// Longest wait for messages when all is done.
const LAST_MESSAGES: Duration = Duration::from_secs(15);

/// A run that an alarm ended.
#[derive(Debug)]
pub struct EndedByAlarm {
    raised: Raised,
}

impl std::error::Error for EndedByAlarm {}

impl fmt::Display for EndedByAlarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the alarm {} ended the run: {}; its state is saved\nhint: the same command goes on from \
             there, and the alarm is raised again once its condition ended in between; limits stand in \
             the recipe's [watch]",
            self.raised.alarm.name(),
            self.raised
        )
    }
}

/// A line of the metrics on its way to the thread that watches.
enum Told {
    Kept(Vec<Metric>),
    Added(Box<Metric>),
}

/// What waits to be taken in.
#[derive(Default)]
struct Inbox {
    told: VecDeque<Told>,
    /// Lines that were lost because too many waited.
    lost: u64,
    /// Alarms that nobody was told of yet.
    raised: Vec<Raised>,
    ends: bool,
}

/// How the training stands, and the alarms that look at it.
struct Seen {
    state: State,
    alarms: Alarms,
    /// The alarm that ended the run.
    ended_by: Option<Raised>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    wake: Condvar,
    seen: Mutex<Seen>,
    stop: StopFlag,
}

impl Shared {
    /// Puts an alarm down, and ends the run if the recipe wants it; the thread tells of it.
    fn raise(&self, seen: &mut Seen, raised: Raised) {
        let name = raised.alarm.name();
        if let Some(alarm) = seen.state.alarms.iter_mut().find(|alarm| alarm.name == name) {
            alarm.raised += 1;
        }
        note(&mut seen.state, &raised);
        if seen.alarms.ends_run(raised.alarm) {
            seen.ended_by.get_or_insert_with(|| raised.clone());
            self.stop.stop();
        }
        lock(&self.inbox).raised.push(raised);
        self.wake.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches a training until [`Watch::end`].
pub struct Watch {
    shared: Arc<Shared>,
    messages: Arc<Messages>,
    thread: Option<JoinHandle<Watcher>>,
    server: Option<prometheus::Server>,
}

impl Watch {
    /// Begins to watch the training in `train`, as the recipe and the flags say.
    ///
    /// # Errors
    /// An address that cannot be listened at, or a webhook that cannot be meant.
    pub fn start(
        context: &Context,
        recipe: &Recipe,
        flags: &Watching,
        train: &Path,
    ) -> Result<Self> {
        let terminal = context.progress.clone();
        let messages = Arc::new(messages(flags, &terminal)?);
        let mut state = State::new(&recipe.name, &recipe.train);
        let alarms = recipe.watch.alarms();
        let set = |alarm: &Alarm| AlarmState { name: alarm.name(), holds: false, raised: 0 };
        state.alarms = alarms.iter().map(set).collect();
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            wake: Condvar::new(),
            seen: Mutex::new(Seen {
                state,
                alarms: Alarms::new(recipe.watch.clone()),
                ended_by: None,
            }),
            stop: context.stop.clone(),
        });
        let mut places = Vec::new();
        let server = flags.metrics_address.map(|address| serve(address, &shared)).transpose()?;
        if let Some(server) = &server {
            let address = server.address();
            places.push(format!("http://{address}/metrics"));
            terminal.say(&format!("  metrics for Prometheus at http://{address}/metrics"));
            if !address.ip().is_loopback() {
                terminal.alert(&format!(
                    "warning: whoever reaches {address} can read the metrics of this training"
                ));
            }
        }
        if recipe.watch.report_every > 0 {
            places.push(train.join(REPORT_FILE).display().to_string());
        }
        lock(&shared.seen).state.places = places;
        let watcher = Watcher {
            shared: Arc::clone(&shared),
            messages: Arc::clone(&messages),
            config: recipe.watch.clone(),
            train: train.to_owned(),
            is_live: terminal.is_watched() && !flags.plain && !is_dumb(),
            terminal,
            events: None,
            has_begun: false,
            is_new: false,
            disk_looked_at: None,
            page_written: None,
            has_warned: false,
        };
        let thread = std::thread::Builder::new()
            .name("milpa-watch".to_owned())
            .spawn(move || watcher.work())
            .context("there is no thread to watch the training")?;
        Ok(Self { shared, messages, thread: Some(thread), server })
    }

    /// Takes what training tells, at once; a line that raises an alarm may end the run.
    pub fn take(&self, noted: Noted<'_>) {
        let told = match noted {
            Noted::Kept(metrics) => Told::Kept(metrics.to_vec()),
            Noted::Added(metric) => Told::Added(Box::new(metric.clone())),
        };
        {
            let mut seen = lock(&self.shared.seen);
            let Seen { state, alarms, .. } = &mut *seen;
            match noted {
                // What was raised before the cut is not raised again.
                Noted::Kept(metrics) => replay(state, alarms, metrics),
                Noted::Added(metric) => {
                    state.take(noted);
                    let raised = alarms.after(metric, state);
                    alarms.show(state);
                    for raised in raised {
                        self.shared.raise(&mut seen, raised);
                    }
                }
            }
        }
        let mut inbox = lock(&self.shared.inbox);
        if inbox.told.len() >= MOST_WAITING {
            inbox.told.pop_front();
            inbox.lost += 1;
        }
        let begins = matches!(told, Told::Kept(_));
        inbox.told.push_back(told);
        if begins {
            self.shared.wake.notify_all();
        }
    }

    /// What tells that a training stands still, from any thread.
    pub fn on_hang(&self) -> impl Fn(u64, f64) + Send + Sync + 'static {
        let (shared, messages) = (Arc::clone(&self.shared), Arc::clone(&self.messages));
        move |step, seconds| {
            let (run, steps) = {
                let seen = lock(&shared.seen);
                (seen.state.run.clone(), seen.state.steps)
            };
            let text =
                format!("{run}: nothing was done for {seconds:.0} s after step {step}; it ends");
            let value = Some(seconds);
            messages.tell(&Message {
                kind: "hung",
                alarm: None,
                run,
                step,
                steps,
                value,
                limit: None,
                text,
            });
            messages.finish(LAST_MESSAGES);
        }
    }

    /// Draws and writes what is left, and tells how it ended.
    ///
    /// # Errors
    /// [`EndedByAlarm`].
    pub fn end(mut self, ended: &Result<Summary, TrainError>) -> Result<()> {
        lock(&self.shared.inbox).ends = true;
        self.shared.wake.notify_all();
        let watcher = self.thread.take().and_then(|thread| thread.join().ok());
        let raised = lock(&self.shared.seen).ended_by.take();
        let raised = raised.filter(|_| matches!(ended, Err(TrainError::Interrupted { .. })));
        if let Some(mut watcher) = watcher {
            watcher.finish(ended, raised.as_ref());
        }
        self.messages.finish(LAST_MESSAGES);
        raised.map_or(Ok(()), |raised| Err(EndedByAlarm { raised }.into()))
    }
}

impl Drop for Watch {
    /// Without [`Watch::end`], as after a panic: the thread ends, and nothing is drawn any more.
    fn drop(&mut self) {
        lock(&self.shared.inbox).ends = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        drop(self.server.take());
    }
}

/// Refuses flags that cannot be kept, hours before a training begins with them.
///
/// # Errors
/// An address that cannot be listened at, or a webhook that cannot be meant.
pub fn check(flags: &Watching) -> Result<()> {
    if let Some(url) = &flags.webhook {
        webhook(url, webhook_config(flags))?;
    }
    if let Some(address) = flags.metrics_address {
        std::net::TcpListener::bind(address).with_context(|| no_address(address))?;
    }
    Ok(())
}

/// Takes the address of a webhook.
fn webhook(url: &str, config: WebhookConfig) -> Result<Webhook> {
    Webhook::new(url, config).map_err(|error| {
        let refused = Refused(error.to_string());
        anyhow::Error::new(error).context(refused)
    })
}

fn webhook_config(flags: &Watching) -> WebhookConfig {
    WebhookConfig { ca_file: flags.webhook_ca_file.clone(), ..WebhookConfig::default() }
}

fn no_address(address: SocketAddr) -> String {
    format!(
        "--metrics-address {address} cannot be listened at; take another port, or 0 for a free one"
    )
}

/// Makes the sender of messages.
fn messages(flags: &Watching, terminal: &Terminal) -> Result<Messages> {
    let Some(url) = &flags.webhook else { return Ok(Messages::none()) };
    let config = webhook_config(flags);
    let stop = config.stop.clone();
    Ok(Messages::to(webhook(url, config)?, stop, terminal.clone())?)
}

fn serve(address: SocketAddr, shared: &Arc<Shared>) -> Result<prometheus::Server> {
    let shared = Arc::clone(shared);
    prometheus::Server::start(address, move || prometheus::render(&lock(&shared.seen).state))
        .with_context(|| no_address(address))
}

/// Whether the terminal says of itself that it moves no cursor.
fn is_dumb() -> bool {
    std::env::var("TERM").is_ok_and(|term| term == "dumb")
}

/// What the terminal is like now.
fn look() -> Look {
    let (rows, columns) = console::Term::stderr().size();
    // The first of these that is set decides, as POSIX has it.
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = names.iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let unicode = locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    });
    Look {
        width: usize::from(columns),
        height: usize::from(rows),
        colour: console::colors_enabled_stderr(),
        unicode,
    }
}

/// The thread that watches.
struct Watcher {
    shared: Arc<Shared>,
    messages: Arc<Messages>,
    config: WatchConfig,
    train: PathBuf,
    terminal: Terminal,
    is_live: bool,
    events: Option<tensorboard::Events>,
    /// Whether training opened its folder: before that nothing is written there.
    has_begun: bool,
    /// Whether there is more than the last page shows.
    is_new: bool,
    disk_looked_at: Option<Instant>,
    page_written: Option<Instant>,
    has_warned: bool,
}

impl Watcher {
    fn work(mut self) -> Self {
        loop {
            let (told, raised, lost, ends) = {
                let mut inbox = lock(&self.shared.inbox);
                if !inbox.ends {
                    let waited = self.shared.wake.wait_timeout(inbox, TICK);
                    inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                let Inbox { told, lost, raised, ends } = &mut *inbox;
                (std::mem::take(told), std::mem::take(raised), std::mem::take(lost), *ends)
            };
            if lost > 0 {
                self.warn(&format!(
                    "watching fell behind by {lost} lines; metrics.jsonl has them all"
                ));
            }
            for told in told {
                self.take(told);
            }
            for raised in raised {
                self.tell(&raised);
            }
            if ends {
                // The last view shows what is true now.
                self.disk_looked_at = None;
            }
            if self.has_begun {
                self.look_around();
            }
            if ends {
                return self;
            }
        }
    }

    /// Takes in what training told.
    fn take(&mut self, told: Told) {
        self.is_new = true;
        match told {
            Told::Kept(metrics) => {
                if !self.has_begun {
                    self.has_begun = true;
                    let _ = std::fs::remove_file(self.train.join(ALARM_FILE));
                }
                if self.config.tensorboard {
                    let steps = lock(&self.shared.seen).state.steps;
                    let begun = tensorboard::Events::begin(&self.train, steps, &metrics);
                    self.events = self.or_warn(begun);
                }
            }
            Told::Added(metric) => {
                if let Some(events) = &mut self.events {
                    let added = events.add(&metric);
                    if self.or_warn(added).is_none() {
                        self.events = None;
                    }
                }
            }
        }
    }

    /// Writes, draws and looks at the disk, each when its time has come.
    fn look_around(&mut self) {
        let is_due = |last: Option<Instant>, every: Duration| {
            last.is_none_or(|last| last.elapsed() >= every)
        };
        let shared = Arc::clone(&self.shared);
        if is_due(self.disk_looked_at, DISK_INTERVAL) {
            self.disk_looked_at = Some(Instant::now());
            // A disk may take its time; the lock is not held for it.
            let disk = Disk::look(&self.train);
            let mut seen = lock(&shared.seen);
            let Seen { state, alarms, .. } = &mut *seen;
            state.take_disk(disk);
            let raised = alarms.disk(state);
            alarms.show(state);
            if let Some(raised) = raised {
                shared.raise(&mut seen, raised);
            }
        }
        if let Some(events) = &mut self.events {
            let flushed = events.flush();
            if self.or_warn(flushed).is_none() {
                self.events = None;
            }
        }
        let every = self.config.report_every;
        if every > 0 && self.is_new && is_due(self.page_written, Duration::from_secs(every)) {
            self.write_page(Phase::UnderWay(every));
        }
        if self.is_live {
            let lines = view::frame(&lock(&shared.seen).state, look());
            self.terminal.draw(lines);
        }
    }

    /// Tells of an alarm.
    fn tell(&mut self, raised: &Raised) {
        let name = raised.alarm.name();
        let (ends, run, steps) = {
            let Seen { state, alarms, .. } = &*lock(&self.shared.seen);
            (alarms.ends_run(raised.alarm), state.run.clone(), state.steps)
        };
        let then = if ends { "; the run saves and ends" } else { "" };
        self.terminal.alert(&format!("alarm {name}: {raised}{then}"));
        self.messages.tell(&Message {
            kind: "alarm",
            alarm: Some(name),
            text: format!("{run}: {raised}{then}"),
            run,
            step: raised.step,
            steps,
            value: Some(raised.value),
            limit: Some(raised.limit),
        });
        if ends {
            let text = serde_json::json!({
                "alarm": name,
                "step": raised.step,
                "value": raised.value,
                "limit": raised.limit,
            });
            let written =
                write_file_atomic(&self.train.join(ALARM_FILE), text.to_string().as_bytes());
            self.or_warn(written);
        }
    }

    fn write_page(&mut self, phase: Phase<'_>) {
        let state = lock(&self.shared.seen).state.clone();
        let page = page::render(&state, phase, &[]);
        let written = write_file_atomic(&self.train.join(REPORT_FILE), page.as_bytes());
        self.page_written = Some(Instant::now());
        self.is_new = false;
        self.or_warn(written);
    }

    /// Says how it ended, on the page and to the webhook.
    fn finish(&mut self, ended: &Result<Summary, TrainError>, raised: Option<&Raised>) {
        self.terminal.end_live();
        if !self.has_begun {
            return;
        }
        let (run, step, steps, loss) = {
            let Seen { state, .. } = &*lock(&self.shared.seen);
            (state.run.clone(), state.step(), state.steps, state.history.recent_loss())
        };
        let (kind, how) = match ended {
            Ok(_) => ("complete", "Complete"),
            Err(TrainError::Interrupted { .. }) if raised.is_some() => {
                ("alarm", "Ended by an alarm")
            }
            Err(TrainError::Interrupted { .. }) => ("interrupted", "Interrupted"),
            Err(TrainError::Artifact(_) | TrainError::Copy(_)) => {
                ("checkpoint_failed", "Ended since a checkpoint cannot be written")
            }
            Err(TrainError::AboveLimit { .. }) => ("failed", ABOVE_LIMIT),
            Err(TrainError::ForgetsTooMuch { .. }) => {
                ("failed", "Ended by the limit on forgetting")
            }
            Err(_) => ("failed", "Ended by an error"),
        };
        self.write_page(Phase::Ended(how));
        // The alarm was told when it was raised.
        if kind != "alarm" {
            let loss = loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
            let why = match ended {
                Err(error) if kind != "interrupted" => format!(": {}", reason(error, &self.train)),
                _ => String::new(),
            };
            let how = how.to_lowercase();
            let text = format!("{run}: {how} after step {step} of {steps}{loss}{why}");
            let (alarm, value, limit) = (None, None, None);
            self.messages.tell(&Message { kind, alarm, run, step, steps, value, limit, text });
        }
    }

    /// The value, or a warning.
    fn or_warn<T, E: fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| {
                self.warn(&format!("what shows the training cannot be written: {error}"));
            })
            .ok()
    }

    fn warn(&mut self, text: &str) {
        if !std::mem::replace(&mut self.has_warned, true) {
            self.terminal
                .alert(&format!("warning: {text}; training goes on, and this is said once"));
        }
    }
}

/// Why a training ended, for people elsewhere: the first line of an error with its causes; a path tells
/// no more than its last name.
fn reason(error: &TrainError, train: &Path) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    // As the errors write it, without a slash at its end.
    let train: PathBuf = train.components().collect();
    let text = text.replace(&format!("{}/", train.display()), "");
    let line = text.lines().next().unwrap_or_default();
    let is_number = |text: &str| text.parse::<f64>().is_ok();
    let word = |word: &str| match word.rsplit_once('/') {
        Some((before, name)) if !is_number(before) => name.to_owned(),
        _ => word.to_owned(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Takes in the lines that stand there; what they raise is put down and not told.
fn replay(state: &mut State, alarms: &mut Alarms, metrics: &[Metric]) {
    alarms.begin_anew();
    state.take(Noted::Kept(&[]));
    for metric in metrics {
        state.history.add(metric);
        alarms.after(metric, state).iter().for_each(|raised| note(state, raised));
    }
    alarms.show(state);
}

/// Puts an alarm down among what happened.
fn note(state: &mut State, raised: &Raised) {
    let text = format!("{}: {raised}", raised.alarm.name());
    state.history.event("alarm", raised.step, text);
}

/// Writes the page of a training that ended, with the tables of its plan and costs.
///
/// # Errors
/// The folder cannot be read or written.
pub fn write_last_page(recipe: &Recipe, folder: &TrainingFolder) -> Result<()> {
    let metrics = folder.metrics()?;
    let mut state = State::new(&recipe.name, &recipe.train);
    replay(&mut state, &mut Alarms::new(recipe.watch.clone()), &metrics);
    let mut sections = folder.sections()?;
    sections.push(figures(&metrics));
    let report = milpa_train::read_forgetting(&folder.path)?;
    sections.extend(report.as_ref().map(candidates));
    let is_above = report.is_some_and(|report| report.within_limit == Some(false));
    let how = if is_above { ABOVE_LIMIT } else { "Complete" };
    let page = page::render(&state, Phase::Ended(how), &sections);
    write_file_atomic(&folder.path.join(REPORT_FILE), page.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_an_end_names_no_path() {
        let check = |error: TrainError, expect: &str| {
            for train in ["my runs/a/train", "my runs/a/train/"] {
                assert_eq!(reason(&error, Path::new(train)), expect);
            }
        };
        let disk = std::io::Error::other("No space left on device");
        let path = PathBuf::from("my runs/a/train/metrics.jsonl");
        check(
            TrainError::Io { path, source: disk },
            "cannot use metrics.jsonl: No space left on device",
        );
        let message = "state.json is no JSON".to_owned();
        let path = PathBuf::from("/home/ana/runs/step-00000010");
        check(
            TrainError::Checkpoint { path, message },
            "the checkpoint step-00000010 cannot be resumed: state.json is no JSON",
        );
        check(TrainError::Mup("rate of 1e-3/width".to_owned()), "train.mup: rate of 1e-3/width");
    }

    #[test]
    fn an_alarm_holds_as_long_as_its_condition() {
        let config: WatchConfig = toml::from_str("forgetting_above = 5\nrollback = true").unwrap();
        let mut state = State::default();
        let set = |alarm: &Alarm| AlarmState { name: alarm.name(), holds: false, raised: 0 };
        state.alarms = config.alarms().iter().map(set).collect();
        let mut alarms = Alarms::new(config);
        let mut holds = |lines: &[Metric]| -> Vec<&'static str> {
            replay(&mut state, &mut alarms, lines);
            state.alarms.iter().filter(|alarm| alarm.holds).map(|alarm| alarm.name).collect()
        };
        let high = history::tests::measured(10, 9.0);
        let low = history::tests::measured(20, 3.0);
        assert_eq!(holds(std::slice::from_ref(&high)), ["forgetting_above"]);
        assert!(holds(&[high, low, history::tests::control(5, "roll back")]).is_empty());
    }

    #[test]
    fn a_full_disk_is_told_once_though_the_run_goes_back() {
        let config: WatchConfig = toml::from_str("disk_below = '1 GiB'\nloss_above = 1").unwrap();
        let mut state = State::default();
        let set = |alarm: &Alarm| AlarmState { name: alarm.name(), holds: false, raised: 0 };
        state.alarms = config.alarms().iter().map(set).collect();
        let mut alarms = Alarms::new(config);
        let lines = history::tests::run(60);
        replay(&mut state, &mut alarms, &lines);
        state.disk_free = Some(1 << 20);
        assert!(alarms.disk(&state).is_some_and(|raised| raised.step == 60));
        // Of a run that went back, the lines that stay say nothing of the disk.
        replay(&mut state, &mut alarms, &lines[..10]);
        assert_eq!(alarms.disk(&state), None);
        let holds = |name: &str| state.alarms.iter().any(|alarm| alarm.name == name && alarm.holds);
        assert!(holds("disk_below") && !holds("loss_above"));
        state.disk_free = Some(1 << 40);
        assert_eq!(alarms.disk(&state), None);
        state.disk_free = Some(1 << 20);
        assert!(alarms.disk(&state).is_some());
    }
}

//! Progress on the terminal: a bar where a person watches, a line now and then where a log does.
//!
//! Everything goes to stderr; stdout is for data. It knows nothing of what is done.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use milpa_base::{
    Progress,
    units::{duration, si},
};

/// How often a log gets a line about a long task.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A rate is not shown before this time has passed: the first moments mislead.
const WARM_UP: Duration = Duration::from_millis(1500);

/// Shows progress on stderr.
pub struct Terminal {
    quiet: bool,
    interactive: bool,
    task: Mutex<Option<Task>>,
}

struct Task {
    name: String,
    unit: String,
    total: Option<u64>,
    done: u64,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// Makes the progress of this process; `quiet` shows nothing at all.
    pub fn new(quiet: bool) -> Self {
        let interactive = std::io::stderr().is_terminal();
        Self { quiet, interactive, task: Mutex::new(None) }
    }

    /// Prints one line of talk.
    pub fn say(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &*self.lock() {
            Some(Task { bar: Some(bar), .. }) => bar.suspend(|| eprintln!("{text}")),
            _ => eprintln!("{text}"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Task>> {
        self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Task {
    fn state(&self) -> String {
        let elapsed = self.started.elapsed();
        let done = si(self.done as f64);
        let mut text = match self.total {
            Some(total) => format!("{done}/{} {}", si(total as f64), self.unit),
            None => format!("{done} {}", self.unit),
        };
        if elapsed > WARM_UP && self.done > 0 {
            let rate = self.done as f64 / elapsed.as_secs_f64();
            text += &format!(", {}/s", si((rate * 10.0).round() / 10.0));
            if let Some(total) = self.total {
                text +=
                    &format!(", eta {}", duration(total.saturating_sub(self.done) as f64 / rate));
            }
        }
        text
    }
}

impl Progress for Terminal {
    fn begin(&self, task: &str, total: Option<u64>, unit: &str) {
        self.end();
        if self.quiet {
            return;
        }
        let bar = self.interactive.then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
            let template = if total.is_some() {
                "  {prefix} [{bar:24}] {msg}"
            } else {
                "  {prefix} {spinner} {msg}"
            };
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_prefix(task.to_owned());
            bar
        });
        let now = Instant::now();
        *self.lock() = Some(Task {
            name: task.to_owned(),
            unit: unit.to_owned(),
            total,
            done: 0,
            started: now,
            last_line: now,
            bar,
        });
    }

    fn advance(&self, done: u64) {
        if let Some(task) = &mut *self.lock() {
            task.done = done;
            if let Some(bar) = &task.bar {
                bar.set_position(done);
                bar.set_message(task.state());
            } else if task.last_line.elapsed() >= LOG_INTERVAL {
                task.last_line = Instant::now();
                eprintln!("  {}: {}", task.name, task.state());
            }
        }
    }

    fn end(&self) {
        if let Some(task) = self.lock().take() {
            if let Some(bar) = &task.bar {
                bar.finish_and_clear();
            }
            eprintln!(
                "  {}: {} {} in {}",
                task.name,
                si(task.done as f64),
                task.unit,
                short(task.started.elapsed())
            );
        }
    }

    fn line(&self, text: &str) {
        self.say(&format!("  {text}"));
    }
}

/// Seconds with one decimal below a minute.
pub fn short(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 { format!("{seconds:.1} s") } else { duration(seconds) }
}

//! Progress on the terminal: a bar or a live view where a person watches, a line now and then where a
//! log does.
//!
//! Everything goes to stderr; stdout is for data. A live view is drawn in place below what was said,
//! without a second screen and with the cursor where it always is, so there is nothing to restore however
//! the process ends. It knows nothing of what is done.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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

/// Set once something ended that must stay on the screen: nothing is drawn over it any more.
static FROZEN: AtomicBool = AtomicBool::new(false);

/// Leaves the screen as it is from now on; for what is said on the way out.
pub fn freeze() {
    FROZEN.store(true, Ordering::SeqCst);
}

/// Shows progress on stderr; clones share it.
#[derive(Clone)]
pub struct Terminal {
    quiet: bool,
    interactive: bool,
    screen: Arc<Mutex<Screen>>,
}

/// What stands on the screen and may be drawn anew.
#[derive(Default)]
struct Screen {
    task: Option<Task>,
    /// Lines of a live view, the cursor below them.
    frame: Vec<String>,
    /// Whether status lines are left out, since a live view shows more.
    is_live: bool,
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
        Self { quiet, interactive, screen: Arc::default() }
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        self.interactive && !self.quiet
    }

    /// Prints one line of talk.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.alert(text);
        }
    }

    /// Prints one line that is to be seen in any case.
    pub fn alert(&self, text: &str) {
        let screen = &mut *self.lock();
        match &screen.task {
            Some(Task { bar: Some(bar), .. }) => bar.suspend(|| eprintln!("{text}")),
            _ => screen.print(&format!("{text}\n"), None),
        }
    }

    /// Draws a live view in place of the one before; lines of talk go above it.
    pub fn draw(&self, lines: Vec<String>) {
        let mut screen = self.lock();
        screen.is_live = true;
        screen.print("", Some(lines));
    }

    /// Leaves the live view where it stands; what is said next goes below it.
    pub fn end_live(&self) {
        let mut screen = self.lock();
        screen.is_live = false;
        screen.frame.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Screen {
    /// Prints text where the live view begins, and the view below it: a new one, or the same again.
    fn print(&mut self, text: &str, frame: Option<Vec<String>>) {
        if FROZEN.load(Ordering::SeqCst) {
            self.frame.clear();
            eprint!("{text}");
            return;
        }
        let columns = usize::from(console::Term::stderr().size().1);
        let all = compose(&self.frame, columns, text, frame.as_ref().unwrap_or(&self.frame));
        if let Some(frame) = frame {
            self.frame = frame;
        }
        // At once, so that nothing flickers; a terminal that is gone needs no lines.
        let _ = std::io::stderr().lock().write_all(all.as_bytes());
    }
}

/// What goes to a terminal of so many columns to replace a view by text and another view. A line that a
/// narrower terminal has broken since takes more rows than one.
fn compose(before: &[String], columns: usize, text: &str, frame: &[String]) -> String {
    let rows_of = |line: &String| console::measure_text_width(line).div_ceil(columns.max(1)).max(1);
    let rows: usize = before.iter().map(rows_of).sum();
    let mut all = String::new();
    if rows > 0 {
        all += &format!("\x1b[{rows}A\r\x1b[J");
    }
    all += text;
    for line in frame {
        all += line;
        all.push('\n');
    }
    all
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
        self.lock().task = Some(Task {
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
        if let Some(task) = &mut self.lock().task {
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
        if let Some(task) = self.lock().task.take() {
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

    fn status(&self, text: &str) {
        if !self.lock().is_live {
            self.line(text);
        }
    }
}

/// Seconds with one decimal below a minute.
pub fn short(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 { format!("{seconds:.1} s") } else { duration(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_drawn_in_place_of_the_one_before() {
        let lines = |count: usize| vec!["0123456789".to_owned(); count];
        assert_eq!(compose(&[], 80, "said\n", &lines(1)), "said\n0123456789\n");
        let again = compose(&lines(2), 80, "said\n", &lines(1));
        assert_eq!(again, "\x1b[2A\r\x1b[Jsaid\n0123456789\n");
        // The terminal became narrower meanwhile: each line takes three rows.
        assert!(compose(&lines(2), 4, "", &[]).starts_with("\x1b[6A"));
        assert!(compose(&lines(1), 0, "", &[]).starts_with("\x1b[10A"));
        let coloured = ["\x1b[1m0123456789\x1b[0m".to_owned()];
        assert!(compose(&coloured, 10, "", &[]).starts_with("\x1b[1A"));
    }
}

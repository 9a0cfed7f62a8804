//! Runs a command of `milpa` in a process of its own and starts it again when it dies.
//!
//! A run is safe to start again at any moment: it goes on from its last whole checkpoint. Only a
//! command that cannot be right, a stop that was asked for, and a run that dies again and again
//! without a new checkpoint are left ended.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use milpa_base::units::duration;
use serde::Serialize;

use crate::{EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, context::Context};

/// The flag that asks for supervision; the supervised process does not get it.
pub const FLAG: &str = "--supervise";
/// File that tells what ended and when it was started again, a line for each time.
const RESTARTS_FILE: &str = "restarts.jsonl";
/// Starts without a new checkpoint after which the run is given up.
const MOST_IN_VAIN: u32 = 3;
/// Pause before the first start again; four times longer before each further one in vain.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How often the process is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What becomes of a process that ended.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// It is done, or nothing is won by starting it again.
    End(u8),
    /// It is started again after a pause.
    Again(Duration),
}

/// Counts starts in vain.
#[derive(Debug, Default)]
struct Patience {
    in_vain: u32,
}

impl Patience {
    /// Decides by the exit code (`None` after a signal), whether there is a new checkpoint, and
    /// whether a stop was asked for.
    fn decide(&mut self, code: Option<u8>, progressed: bool, stopping: bool) -> Decision {
        match code {
            Some(0) => return Decision::End(0),
            Some(code @ EXIT_USAGE) => return Decision::End(code),
            _ if stopping => return Decision::End(code.unwrap_or(EXIT_INTERRUPTED)),
            _ => {}
        }
        self.in_vain = if progressed { 1 } else { self.in_vain + 1 };
        if self.in_vain > MOST_IN_VAIN {
            return Decision::End(code.unwrap_or(EXIT_FAILURE));
        }
        Decision::Again(FIRST_PAUSE * 4u32.pow(self.in_vain - 1))
    }
}

#[derive(Serialize)]
struct Restart<'a> {
    unix_seconds: u64,
    ended_by: &'a str,
    seconds: f64,
    newest_step: Option<u64>,
    started_again: bool,
}

/// A run that is supervised.
pub struct Supervised<'a> {
    /// Where restarts are noted.
    pub folder: &'a Path,
    /// The run's newest checkpoint.
    pub newest_step: &'a dyn Fn() -> Option<u64>,
    /// Whether the run was ended on purpose, by an alarm or by the controller of forgetting.
    pub is_ended: &'a dyn Fn() -> bool,
}

/// Runs this command without [`FLAG`] until it is done.
pub fn supervise(context: &Context, run: &Supervised<'_>) -> Result<ExitCode> {
    let Supervised { folder, newest_step, is_ended } = run;
    let program = std::env::current_exe().context("this program cannot be found")?;
    let arguments: Vec<OsString> =
        std::env::args_os().skip(1).filter(|argument| *argument != *FLAG).collect();
    let mut patience = Patience::default();
    loop {
        let before = newest_step();
        let began = std::time::Instant::now();
        let mut command = Command::new(&program);
        command.args(&arguments);
        // Ctrl-C reaches the supervisor alone, which hands it on: twice would end the run unsaved.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("the run cannot be started")?;
        let status = wait(context, &mut child)?;
        let newest = newest_step();
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        let on_purpose = code == Some(EXIT_FAILURE) && is_ended();
        let stopping = context.stop.is_set() || on_purpose;
        let decision = patience.decide(code, newest > before, stopping);
        let ended_by = describe(status);
        if decision != Decision::End(0) {
            let note = Restart {
                unix_seconds: SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
                ended_by: &ended_by,
                seconds: began.elapsed().as_secs_f64(),
                newest_step: newest,
                started_again: matches!(decision, Decision::Again(_)),
            };
            append(&folder.join(RESTARTS_FILE), &note)?;
        }
        match decision {
            Decision::End(code) => {
                if code != 0 && code != EXIT_USAGE && !stopping {
                    eprintln!(
                        "error: the run ended {MOST_IN_VAIN} times and more without a new checkpoint, \
                         the last time by {ended_by}; {} tells each time",
                        folder.join(RESTARTS_FILE).display()
                    );
                }
                return Ok(ExitCode::from(code));
            }
            Decision::Again(pause) => {
                let from = newest.map_or("the beginning".to_owned(), |step| format!("step {step}"));
                context.progress.say(&format!(
                    "the run ended by {ended_by}; it goes on from {from} in {}",
                    duration(pause.as_secs_f64())
                ));
                let until = std::time::Instant::now() + pause;
                while std::time::Instant::now() < until && !context.stop.is_set() {
                    std::thread::sleep(LOOK_INTERVAL);
                }
                if context.stop.is_set() {
                    return Ok(ExitCode::from(EXIT_INTERRUPTED));
                }
            }
        }
    }
}

/// Waits for the process, and hands a stop on to it once.
fn wait(context: &Context, child: &mut Child) -> Result<ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().context("the run cannot be watched")? {
            return Ok(status);
        }
        if context.stop.is_set() && !told {
            told = true;
            ask_to_stop(child);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

#[cfg(unix)]
fn ask_to_stop(child: &Child) {
    use nix::{sys::signal, unistd::Pid};

    if let Ok(id) = i32::try_from(child.id()) {
        // It may have ended just now.
        let _ = signal::kill(Pid::from_raw(id), signal::Signal::SIGTERM);
    }
}

/// Ctrl-C reaches both processes of a console.
#[cfg(not(unix))]
fn ask_to_stop(_child: &Child) {}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = nix::sys::signal::Signal::try_from(signal)
            .map_or_else(|_| signal.to_string(), |signal| signal.as_str().to_owned());
        return format!("the signal {name}");
    }
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

fn append(path: &Path, note: &Restart<'_>) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::File::options().create(true).append(true).open(path)?;
        let mut line = serde_json::to_vec(note)?;
        line.push(b'\n');
        file.write_all(&line)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_started_again_unless_that_is_in_vain() {
        let again = |seconds| Decision::Again(Duration::from_secs(seconds));
        let mut patience = Patience::default();
        assert_eq!(patience.decide(None, false, false), again(1));
        assert_eq!(patience.decide(Some(75), false, false), again(4));
        assert_eq!(patience.decide(Some(1), true, false), again(1));
        assert_eq!(patience.decide(None, false, false), again(4));
        assert_eq!(patience.decide(Some(1), false, false), again(16));
        assert_eq!(patience.decide(None, false, false), Decision::End(EXIT_FAILURE));
        let mut patience = Patience::default();
        assert_eq!(patience.decide(Some(0), false, false), Decision::End(0));
        assert_eq!(patience.decide(Some(EXIT_USAGE), true, false), Decision::End(EXIT_USAGE));
        assert_eq!(patience.decide(Some(75), true, true), Decision::End(75));
        assert_eq!(patience.decide(None, true, true), Decision::End(EXIT_INTERRUPTED));
    }
}

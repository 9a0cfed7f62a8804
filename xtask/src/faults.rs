//! Training that is hurt from outside: killed at random moments and inside the writing of a checkpoint,
//! its disk full, its checkpoints damaged, its clock set, told to stop, hung. Each time the same command
//! goes on, and the run must end in the bytes of one that nobody hurt.
//!
//! The run is the demo's model, with a checkpoint every few steps. A full disk needs root (or a namespace of one's
//! own, as `disk-full` says), a clock that jumps libfaketime; what is missing is said and counted.
//! Numbers that are none and a step that hangs are tests of milpa-train, which run first.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    bench::{heading, record},
    cargo,
    disk_full::Disk,
    root,
};

/// A checkpoint after every so many steps.
const EVERY: u64 = 4;
/// Steps of the run.
const STEPS: u64 = 240;
const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
/// Seconds in which a run that is told to stop must have saved and ended.
const NOTICE: f64 = 30.0;

/// Reads `--kills N` and `--save`.
pub(crate) fn parse(arguments: &[&str]) -> Result<(u64, bool)> {
    let (mut kills, mut save) = (50, false);
    let mut rest = arguments.iter();
    while let Some(&flag) = rest.next() {
        match flag {
            "--kills" => kills = rest.next().context("--kills needs a number")?.parse()?,
            "--save" => save = true,
            _ => bail!("faults train does not know {flag}"),
        }
    }
    Ok((kills, save))
}

/// Kills the run `kills` times, and hurts it in all other ways.
pub(crate) fn train(kills: u64, save: bool) -> Result<()> {
    cargo(&["test", "--quiet", "-p", "milpa-train", "--test", "it", "faults::"])?;
    cargo(&["build", "--quiet", "--release", "-p", "milpa"])?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("faults");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let field = Field::plant(target.join("release/milpa"), folder)?;
    let (date, mut text) = heading()?;
    let mut say = |line: String| {
        println!("{line}");
        text.push_str(&line);
        text.push('\n');
    };
    let (expect, seconds, shown) = field.unhurt()?;
    say(format!(
        "faults train: the demo's model, {STEPS} steps, a checkpoint every {EVERY}; nobody hurt it: {seconds:.1} s, {shown}"
    ));
    say(field.kill(kills, &expect)?);
    say(field.supervise(&expect)?);
    say(field.damage(&expect)?);
    say(field.stop(&expect)?);
    say(field.hang(&expect)?);
    say(field.hang_later(&expect)?);
    say(field.lose_disk(&expect)?);
    say(field.fill_disk(&expect)?);
    say(field.set_clock(&expect)?);
    if save { record(&format!("faults-train-{date}.txt"), &text) } else { Ok(()) }
}

/// Bytes of the final checkpoint by file.
type Files = BTreeMap<String, blake3::Hash>;

/// Where runs grow: program, recipe, tokenizer and tokens.
struct Field {
    milpa: PathBuf,
    folder: PathBuf,
    recipe: PathBuf,
}

/// How a run that was hurt stands.
struct Standing {
    /// Steps done before it was hurt.
    done: u64,
    /// The step of its newest whole checkpoint.
    saved: u64,
    /// Whether a checkpoint was half-written.
    writing: bool,
}

impl Field {
    fn plant(milpa: PathBuf, folder: PathBuf) -> Result<Self> {
        let demo = folder.join("demo");
        let made = Command::new(&milpa).args(["demo", "--quiet", "--out"]).arg(&demo).output()?;
        ensure!(made.status.success(), "the demo failed: {}", stderr(&made));
        let text = fs::read_to_string(demo.join("recipe.toml"))?
            .replace("steps = \"160 steps\"", &format!("steps = {STEPS}"))
            .replace("checkpoint_every = \"80 steps\"", &format!("checkpoint_every = {EVERY}"))
            .replace("decay = \"130 steps\"", "decay = \"100 steps\"");
        ensure!(text.contains(&format!("checkpoint_every = {EVERY}")), "the demo's recipe changed");
        let recipe = demo.join("faults.toml");
        fs::write(&recipe, text)?;
        Ok(Self { milpa, folder, recipe })
    }

    fn command(&self, out: &Path) -> Command {
        let run = self.folder.join("demo/run");
        let mut command = Command::new(&self.milpa);
        command.arg("train").arg(&self.recipe).arg("--tokenizer").arg(run.join("tokenizer"));
        command.arg("--tokens").arg(run.join("tokens")).arg("--out").arg(out);
        command.stdin(Stdio::null());
        command
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The run as it is without faults; its time, and how long checkpoints held it up.
    fn unhurt(&self) -> Result<(Files, f64, String)> {
        let out = self.out("unhurt");
        let began = Instant::now();
        let ended = self.command(&out).output()?;
        ensure!(ended.status.success(), "{}", stderr(&ended));
        let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
        let waited = shown.lines().find(|line| line.starts_with("speed")).unwrap_or_default();
        let waited = waited.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok((final_files(&out)?, began.elapsed().as_secs_f64(), waited))
    }

    /// Lets a run end that was hurt, and holds its bytes against `expect`.
    fn finish(&self, out: &Path, expect: &Files) -> Result<String> {
        let ended = self.command(out).output()?;
        ensure!(ended.status.success(), "it did not go on: {}", stderr(&ended));
        ensure!(&final_files(out)? == expect, "{}: other bytes than nobody hurt", out.display());
        Ok(stderr(&ended))
    }

    fn kill(&self, kills: u64, expect: &Files) -> Result<String> {
        let mut moments = Moments(0x006d_696c_7061);
        let (mut killed, mut runs, mut inside, mut most_lost) = (0, 0, 0, 0);
        while killed < kills {
            let out = self.out(&format!("killed-{runs}"));
            runs += 1;
            loop {
                if killed == kills {
                    self.finish(&out, expect)?;
                    break;
                }
                let mut child = self.start(self.command(&out))?;
                wait_for_step(&mut child, &out)?;
                // Every third time inside the writing of a checkpoint, else at any moment.
                let writing = killed % 3 == 2;
                let until = Instant::now() + Duration::from_millis(moments.next() % 700);
                while Instant::now() < until || (writing && !is_writing(&out)) {
                    if child.try_wait()?.is_some() {
                        break;
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
                if let Some(status) = child.try_wait()? {
                    ensure!(status.success(), "it ended by itself: {status}");
                    ensure!(&final_files(&out)? == expect, "other bytes after {killed} kills");
                    break;
                }
                child.kill()?;
                child.wait()?;
                killed += 1;
                let standing = standing(&out)?;
                inside += u64::from(standing.writing);
                let lost = standing.done.saturating_sub(standing.saved);
                most_lost = most_lost.max(lost);
                // One interval, and the one of the checkpoint that was still being written.
                ensure!(lost <= 2 * EVERY, "{lost} steps were lost");
            }
        }
        Ok(format!(
            "kill -9: {killed} times in {runs} runs, {inside} of them inside the writing of a checkpoint; at most {most_lost} \
             steps done again; same bytes each time"
        ))
    }

    fn supervise(&self, expect: &Files) -> Result<String> {
        let out = self.out("supervised");
        let mut command = self.command(&out);
        command.arg("--supervise");
        let mut supervisor = self.start(command)?;
        let mut killed = 0;
        let mut last = 0;
        let status = loop {
            if let Some(status) = supervisor.try_wait()? {
                break status;
            }
            let saved = newest(&out);
            let due = killed < 4 && saved > last + 3 * EVERY;
            if let Some(child) = due.then(|| child_of(supervisor.id())).flatten() {
                let signal = if killed % 2 == 0 { "-KILL" } else { "-ABRT" };
                Command::new("kill").args([signal, &child.to_string()]).status()?;
                (killed, last) = (killed + 1, saved);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success() && killed == 4, "{status} after {killed} kills");
        ensure!(&final_files(&out)? == expect, "other bytes");
        let notes = fs::read_to_string(out.join("restarts.jsonl"))?;
        ensure!(notes.lines().count() == killed, "{notes}");
        self.stop_supervised(expect)?;
        Ok(format!(
            "--supervise: killed {killed} times by SIGKILL and SIGABRT, went on by itself; told to stop, saved and \
             stopped; same bytes"
        ))
    }

    /// Tells a supervisor to stop, as a person does: the run saves where it stands, and neither goes on.
    fn stop_supervised(&self, expect: &Files) -> Result<()> {
        let out = self.out("supervised-stopped");
        let mut command = self.command(&out);
        command.arg("--supervise");
        let mut supervisor = self.start(command)?;
        while newest(&out) < 3 * EVERY {
            ensure!(supervisor.try_wait()?.is_none(), "it ended too early");
            std::thread::sleep(Duration::from_millis(5));
        }
        Command::new("kill").args(["-INT", &supervisor.id().to_string()]).status()?;
        let status = supervisor.wait()?;
        ensure!(status.code() == Some(75), "told to stop, it ended with {status}");
        let standing = standing(&out)?;
        ensure!(
            standing.done == standing.saved,
            "{} steps were lost",
            standing.done - standing.saved
        );
        self.finish(&out, expect).map(drop)
    }

    fn damage(&self, expect: &Files) -> Result<String> {
        let mut done = Vec::new();
        for kind in ["a flipped bit", "a torn file"] {
            let out = self.out(&kind.replace(' ', "-"));
            let mut child = self.start(self.command(&out))?;
            while newest(&out) < 5 * EVERY {
                ensure!(child.try_wait()?.is_none(), "it ended too early");
                std::thread::sleep(Duration::from_millis(5));
            }
            child.kill()?;
            child.wait()?;
            let step = standing(&out)?.saved;
            let path = out.join(format!("checkpoints/step-{step:08}/model.safetensors"));
            let mut bytes = fs::read(&path)?;
            let middle = bytes.len() / 2;
            if kind == "a flipped bit" {
                bytes[middle] ^= 1;
            } else {
                bytes.truncate(middle);
            }
            fs::write(&path, bytes)?;
            let told = self.finish(&out, expect)?;
            ensure!(told.contains("looking for an older checkpoint"), "nobody was told: {told}");
            ensure!(told.contains(&format!("after step {}", step - EVERY)), "{told}");
            done.push(kind);
        }
        Ok(format!(
            "{} in the newest checkpoint: found, the one before taken, same bytes",
            done.join(" and ")
        ))
    }

    fn stop(&self, expect: &Files) -> Result<String> {
        let out = self.out("stopped");
        let mut child = self.start(self.command(&out))?;
        wait_for_step(&mut child, &out)?;
        let began = Instant::now();
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        let status = child.wait()?;
        let seconds = began.elapsed().as_secs_f64();
        ensure!(status.code() == Some(75), "{status}");
        ensure!(seconds < NOTICE, "it took {seconds:.1} s");
        let standing = standing(&out)?;
        ensure!(standing.done == standing.saved, "steps were lost");
        self.finish(&out, expect)?;
        Ok(format!(
            "SIGTERM: saved and ended with exit code 75 in {seconds:.2} s, no step lost, same bytes"
        ))
    }

    /// A pipe in place of the metrics, at the beginning of a run: who opens it waits for a reader that never comes.
    fn hang(&self, expect: &Files) -> Result<String> {
        let out = self.out("hung");
        let mut child = self.start(self.command(&out))?;
        wait_for_step(&mut child, &out)?;
        child.kill()?;
        child.wait()?;
        let metrics = out.join("metrics.jsonl");
        fs::rename(&metrics, out.join("metrics.kept"))?;
        crate::run(Command::new("mkfifo").arg(&metrics))?;
        let ended = self.command(&out).args(["--hang-after", "3"]).output()?;
        ensure!(ended.status.code() == Some(75), "{}: {}", ended.status, stderr(&ended));
        let hang: Value = serde_json::from_slice(&fs::read(out.join("hang.json"))?)?;
        ensure!(hang["threads"].as_array().is_some_and(|threads| !threads.is_empty()), "{hang}");
        fs::rename(out.join("metrics.kept"), &metrics)?;
        self.finish(&out, expect)?;
        Ok(format!(
            "hung: noticed after {:.1} s while it was at {}, exit code 75, same bytes afterwards",
            hang["silent_seconds"].as_f64().unwrap_or_default(),
            hang["activity"]
        ))
    }

    /// Nobody takes what the run says, from a later step on: it stands still, and cannot say so either.
    fn hang_later(&self, expect: &Files) -> Result<String> {
        let out = self.out("hung-later");
        let (mut reader, writer) = std::io::pipe()?;
        let mut full = writer.try_clone()?;
        let mut command = self.command(&out);
        command.args(["--supervise", "--hang-after", "5"]).stdout(Stdio::null()).stderr(writer);
        let mut supervisor = command.spawn().context("the run cannot be started")?;
        drop(command);
        wait_for_step(&mut supervisor, &out)?;
        let filling = std::thread::spawn(move || full.write_all(&vec![b'\n'; 1 << 20]));
        let restarts = out.join("restarts.jsonl");
        while !restarts.exists() {
            ensure!(supervisor.try_wait()?.is_none(), "it ended without standing still");
            std::thread::sleep(Duration::from_millis(20));
        }
        let listening = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
        let status = supervisor.wait()?;
        ensure!(status.success(), "{status}");
        // What was written into the pipe is of no interest, only that somebody took it.
        drop((filling.join(), listening.join()));
        let notes = fs::read_to_string(&restarts)?;
        ensure!(notes.lines().count() == 1 && notes.contains("75"), "{notes}");
        ensure!(&final_files(&out)? == expect, "other bytes");
        let hang: Value = serde_json::from_slice(&fs::read(out.join("hang.json"))?)?;
        Ok(format!(
            "hung after step {} with nobody to hear it: noticed while it was at {}, ended with exit code 75, went on \
             by itself, same bytes",
            hang["steps_done"], hang["activity"]
        ))
    }

    fn lose_disk(&self, expect: &Files) -> Result<String> {
        let (out, mirror) = (self.out("lost"), self.out("mirror"));
        let mut command = self.command(&out);
        command.arg("--mirror").arg(&mirror);
        let mut child = self.start(command)?;
        while newest(&mirror) < 5 * EVERY {
            ensure!(child.try_wait()?.is_none(), "it ended too early");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill()?;
        child.wait()?;
        let saved = newest(&mirror);
        fs::remove_dir_all(&out)?;
        let ended = self.command(&out).arg("--mirror").arg(&mirror).output()?;
        ensure!(ended.status.success(), "{}", stderr(&ended));
        ensure!(stderr(&ended).contains("copying the checkpoint"), "{}", stderr(&ended));
        ensure!(&final_files(&out)? == expect && &final_files(&mirror)? == expect, "other bytes");
        Ok(format!("disk lost: went on from the mirror's step {saved}, same bytes in both folders"))
    }

    fn fill_disk(&self, expect: &Files) -> Result<String> {
        let disk = match Disk::mount(&self.out("disk")) {
            Ok(disk) => disk,
            Err(error) => return Ok(format!("full disk: NOT RUN, {error:#}")),
        };
        let out = disk.path().join("train");
        let (mut room, mut failures) = (1, 0);
        loop {
            disk.resize(room)?;
            let ended = self.command(&out).output()?;
            if ended.status.success() {
                break;
            }
            let told = stderr(&ended);
            ensure!(told.contains("the disk is full"), "after {failures} failures: {told}");
            failures += 1;
            room += 2;
            ensure!(failures < 60, "it never had room enough");
        }
        ensure!(failures > 0, "the disk never was full");
        ensure!(&final_files(&out)? == expect, "other bytes");
        Ok(format!(
            "full disk: {failures} failures from 1 to {room} MiB, each said so and went on, same bytes"
        ))
    }

    fn set_clock(&self, expect: &Files) -> Result<String> {
        if !Path::new(LIBFAKETIME).exists() {
            return Ok(format!(
                "clock jumps: NOT RUN, there is no {LIBFAKETIME} (package libfaketime)"
            ));
        }
        let (out, clock) = (self.out("clock"), self.out("clock.rc"));
        fs::write(&clock, "+0\n")?;
        let mut command = self.command(&out);
        command.env("LD_PRELOAD", LIBFAKETIME).env("FAKETIME_TIMESTAMP_FILE", &clock);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let mut child = self.start(command)?;
        let mut jumps = 0;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(150));
            jumps += 1;
            fs::File::create(&clock)?
                .write_all(["+400d\n", "-400d\n", "+0\n"][jumps % 3].as_bytes())?;
        };
        ensure!(status.success(), "{status} after {jumps} jumps");
        ensure!(&final_files(&out)? == expect, "other bytes");
        Ok(format!("clock: set {jumps} times by 400 days forward and back, same bytes"))
    }

    #[expect(clippy::unused_self, reason = "runs are the field's")]
    fn start(&self, mut command: Command) -> Result<Child> {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("the run cannot be started")
    }
}

/// Moments that are the same each time.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Waits until a process that was just started writes metrics of steps.
fn wait_for_step(child: &mut Child, out: &Path) -> Result<()> {
    let metrics = out.join("metrics.jsonl");
    let modified = || fs::metadata(&metrics).and_then(|data| data.modified()).ok();
    let before = modified();
    while modified() == before || last_step(out) == 0 {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn last_step(out: &Path) -> u64 {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    let step = |line: &str| -> Option<u64> {
        let value: Value = serde_json::from_str(line).ok()?;
        (value["kind"] == "step").then(|| value["step"].as_u64())?
    };
    text.lines().rev().find_map(step).unwrap_or(0)
}

fn is_writing(out: &Path) -> bool {
    fs::read_dir(out.join("checkpoints"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
}

/// The newest checkpoint that has its name.
fn newest(out: &Path) -> u64 {
    fs::read_dir(out.join("checkpoints"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
        .max()
        .unwrap_or(0)
}

fn standing(out: &Path) -> Result<Standing> {
    let saved = newest(out);
    if saved > 0 {
        let manifest = out.join(format!("checkpoints/step-{saved:08}/manifest.toml"));
        ensure!(manifest.is_file(), "a checkpoint without its manifest has its name");
    }
    Ok(Standing { done: last_step(out), saved, writing: is_writing(out) })
}

fn final_files(out: &Path) -> Result<Files> {
    let dir = out.join("checkpoint");
    fs::read_dir(&dir)
        .with_context(|| format!("there is no {}", dir.display()))?
        .map(|entry| {
            let entry = entry?;
            let bytes = fs::read(entry.path())?;
            Ok((entry.file_name().to_string_lossy().into_owned(), blake3::hash(&bytes)))
        })
        .collect()
}

/// The process that a supervisor started.
fn child_of(parent: u32) -> Option<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

//! A corpus on Slurm: two tasks prepare it, one is killed and requeued, and what is merged has the bytes of
//! one process with one thread.
//!
//! Starts a cluster of this machine alone (`munged`, `slurmctld`, `slurmd`) in a folder under the target
//! directory and stops it at the end. Needs root and the packages slurmctld, slurmd, slurm-client and munge.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bench::{heading, record},
    cargo, root,
};

/// How long the array may take.
const PATIENCE: Duration = Duration::from_mins(15);

/// Runs the check on the texts in `data` (`*.jsonl.zst` with a field `text`).
pub(crate) fn slurm(data: &Path) -> Result<()> {
    cargo(&["build", "--quiet", "--release", "-p", "milpa"])?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("slurm");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let recipe = write_recipe(&folder, data, "")?;
    let milpa = target.join("release/milpa");
    let cluster = Cluster::start(&folder)?;
    let path = format!("{}:/usr/bin:/bin", target.join("release").display());
    let out = folder.join("corpus");
    let script = root().join("docs/slurm/corpus.sbatch");
    let submitted = cluster.ask(
        Command::new("sbatch")
            .args(["--parsable", "--array=0-1", "--output=task-%a.log"])
            .arg(format!("--export=PATH={path}"))
            .arg(&script)
            .args([&recipe, &out]),
    )?;
    let job = submitted.trim().to_owned();
    let (date, mut text) = heading()?;
    let mut say = |line: &str| {
        println!("{line}");
        text.push_str(line);
        text.push('\n');
    };
    say("a corpus as a Slurm array of two tasks");
    let parts = folder.join("corpus.parts");
    let victim = format!("{job}_1");
    // The second task is killed once it has prepared a part and is in the middle of another one.
    cluster.wait("the second task works on its second part", || {
        let log = fs::read_to_string(folder.join("task-1.log")).unwrap_or_default();
        Ok(log.contains("start 0") && finished_parts(&parts) >= 3)
    })?;
    let before = finished_parts(&parts);
    cluster.ask(Command::new("scontrol").args(["requeue", &victim]))?;
    say(&format!("task 1 killed and requeued; {before} parts are prepared"));
    cluster.wait("the requeued task waits", || {
        let state = cluster.ask(Command::new("squeue").args(["-h", "-j", &victim, "-o", "%T"]))?;
        Ok(state.trim() == "PENDING")
    })?;
    // Slurm lets a requeued job wait for two minutes; nobody else wants the machine here. In the second
    // in which it was killed its credential is still revoked.
    thread::sleep(Duration::from_secs(3));
    cluster.wait("the requeued task may start", || {
        let update = format!("JobId={victim}");
        Ok(cluster.ask(Command::new("scontrol").args(["update", &update, "StartTime=now"])).is_ok())
    })?;
    cluster.wait("all tasks are done", || {
        Ok(cluster.ask(Command::new("squeue").args(["-h", "-j", &job]))?.trim().is_empty())
    })?;
    for task in 0..2 {
        let log = fs::read_to_string(folder.join(format!("task-{task}.log")))?;
        // Lines that name folders of this machine say nothing to others.
        let lines = log.lines().filter(|line| !line.contains(&*folder.to_string_lossy()));
        say(&format!(
            "--- log of task {task}\n{}",
            lines.collect::<Vec<_>>().join("\n").trim_end()
        ));
    }
    let log = fs::read_to_string(folder.join("task-1.log"))?;
    ensure!(log.contains("start 1"), "the second task was not started again");
    ensure!(!log.contains(" 0 of them found prepared"), "the second task began from nothing");

    let build = |out: &Path, threads: &str| -> Result<String> {
        let mut command = Command::new(&milpa);
        command.args(["corpus", "build"]).arg(&recipe).arg("--out").arg(out);
        crate::run(command.args(["--threads", threads]))?;
        let manifest = fs::read(out.join("manifest.toml"))?;
        Ok(blake3::hash(&manifest).to_string())
    };
    let merged = build(&out, "2")?;
    let single = build(&folder.join("single"), "1")?;
    let double = build(&folder.join("double"), "2")?;
    say(&format!("manifest of the merged shards  {merged}"));
    say(&format!("manifest of one thread         {single}"));
    say(&format!("manifest of two threads        {double}"));
    ensure!(merged == single && single == double, "the corpora differ");
    say("slurm: all three are equal");
    record(&format!("slurm-{date}.txt"), &text)
}

fn finished_parts(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().join("manifest.toml").is_file()).count()
}

/// A recipe for the texts in `data`, with `settings` before its sources.
pub(crate) fn write_recipe(folder: &Path, data: &Path, settings: &str) -> Result<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(data)
        .with_context(|| format!("cannot read {}", data.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| path.to_string_lossy().ends_with(".jsonl.zst"));
    files.sort();
    ensure!(files.len() >= 4, "{} has fewer than four *.jsonl.zst", data.display());
    let mut recipe = format!("name = \"texts\"\nseed = 1\n{settings}");
    for (number, file) in files.iter().enumerate() {
        recipe += &format!(
            "\n[[corpus.sources]]\nname = \"s{number}\"\npath = '{}'\nformat = \"jsonl\"\n\
             filters = \"book\"\n",
            file.canonicalize()?.display()
        );
    }
    let path = folder.join("recipe.toml");
    fs::write(&path, recipe)?;
    Ok(path)
}

/// A Slurm cluster of this machine.
struct Cluster {
    folder: PathBuf,
    daemons: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // Best effort: whoever has ended already needs no signal.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Cluster {
    fn start(folder: &Path) -> Result<Self> {
        for program in ["munged", "slurmctld", "slurmd", "sbatch"] {
            let found = Command::new("which").arg(program).stdout(Stdio::null()).status()?;
            ensure!(
                found.success(),
                "{program} is missing: apt-get install slurmctld slurmd slurm-client munge"
            );
        }
        let host = output(&mut Command::new("hostname"))?;
        let host = host.trim();
        let shown = folder.display();
        let config = format!(
            "ClusterName=milpa\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n\
             AuthType=auth/munge\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nReturnToService=2\n\
             JobRequeue=1\nRequeueExit=75\nKillWait=5\n\
             StateSaveLocation={shown}/state\nSlurmdSpoolDir={shown}/spool\n\
             SlurmctldPidFile={shown}/slurmctld.pid\nSlurmdPidFile={shown}/slurmd.pid\n\
             SlurmctldLogFile={shown}/slurmctld.log\nSlurmdLogFile={shown}/slurmd.log\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN\n\
             PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        );
        fs::create_dir_all(folder.join("state"))?;
        fs::create_dir_all(folder.join("spool"))?;
        fs::write(folder.join("slurm.conf"), config)?;
        let mut cluster = Self { folder: folder.to_owned(), daemons: Vec::new() };
        let munge = Path::new("/run/munge");
        fs::create_dir_all(munge)?;
        crate::run(Command::new("chown").arg("munge:").arg(munge))?;
        cluster.daemon("runuser", &["-u", "munge", "--", "munged", "-F", "--force"])?;
        thread::sleep(Duration::from_secs(1));
        cluster.daemon("slurmctld", &["-D", "-c"])?;
        cluster.daemon("slurmd", &["-D", "-c"])?;
        cluster.wait("the node is idle", || {
            let state = cluster.ask(Command::new("sinfo").args(["-h", "-o", "%T"]));
            Ok(state.is_ok_and(|state| state.trim() == "idle"))
        })?;
        Ok(cluster)
    }

    fn daemon(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        eprintln!("$ {program} {} &", arguments.join(" "));
        let log = fs::File::create(self.folder.join(format!("{program}.out")))?;
        let daemon = Command::new(program)
            .args(arguments)
            .env("SLURM_CONF", self.folder.join("slurm.conf"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        self.daemons.push(daemon);
        Ok(())
    }

    fn ask(&self, command: &mut Command) -> Result<String> {
        let conf = self.folder.join("slurm.conf");
        output(command.env("SLURM_CONF", conf).current_dir(&self.folder))
    }

    fn wait(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        while !done()? {
            if begin.elapsed() > PATIENCE {
                bail!("waited in vain until {what}; see the logs in {}", self.folder.display());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !done.status.success() {
        bail!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

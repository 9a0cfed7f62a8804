//! What a run really cost, and the plan it began with: the files beside the artifacts.
//!
//! `ledger.jsonl` gets a line from every process that worked at a stage, `plan.json` keeps the plan,
//! `calibration.toml` what runs taught. All hold times and lie outside the hashes. A process that was
//! killed outright leaves no line.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use milpa_base::{
    lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader},
    write_file_atomic,
};
use milpa_plan::{
    Ledger, LedgerEntry, Outcome, OwnRuns, PlannedRun,
    sheet::{Section, Sheet},
};
use milpa_train::{Metric, read_metrics, step_seconds};

use crate::{commands::doctor, context::Context, watch::history::History};

/// The ledger's file in a run folder.
const LEDGER_FILE: &str = "ledger.jsonl";
/// The plan's file in a training folder.
const PLAN_FILE: &str = "plan.json";
/// Runs that plans are calibrated by, unless another file is named.
pub const OWN_RUNS_FILE: &str = "runs/calibration.toml";
/// Where Linux shows the processors' energy counters.
const POWERCAP: &str = "/sys/class/powercap";

/// The price of this machine for an hour, with its currency.
pub type HourlyPrice = Option<(f64, String)>;

/// Clock and energy counters of a stage under way.
pub struct Meter {
    stage: String,
    began: SystemTime,
    started: Instant,
    counters: Vec<EnergyCounter>,
}

impl Meter {
    /// Begins to measure.
    pub fn start(stage: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            began: SystemTime::now(),
            started: Instant::now(),
            counters: EnergyCounter::all(Path::new(POWERCAP)),
        }
    }

    /// Writes what was spent to the folder's ledger.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn stop(
        self,
        context: &Context,
        dir: &Path,
        complete: bool,
        price: &HourlyPrice,
    ) -> Result<()> {
        let joules: Option<Vec<f64>> =
            self.counters.iter().map(EnergyCounter::joules_since).collect();
        let entry = LedgerEntry {
            stage: self.stage,
            began: self.began.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            seconds: self.started.elapsed().as_secs_f64(),
            complete,
            threads: context.threads,
            processor: doctor::processor(),
            joules: joules.filter(|joules| !joules.is_empty()).map(|joules| joules.iter().sum()),
            price_per_hour: price.clone(),
        };
        let path = dir.join(LEDGER_FILE);
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(dir)?;
            OpenOptions::new().create(true).append(true).open(&path)?.write_all(&line)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// One processor package's energy counter (RAPL).
struct EnergyCounter {
    file: PathBuf,
    start: u64,
    range: u64,
}

impl EnergyCounter {
    /// The counters of whole packages that can be read; none where the system has none or hides them.
    fn all(root: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
        entries.filter_map(|entry| Self::open(&entry.ok()?.path())).collect()
    }

    fn open(zone: &Path) -> Option<Self> {
        let name = zone.file_name()?.to_string_lossy().into_owned();
        // "intel-rapl:0" is a package, "intel-rapl:0:1" a part of it that is counted there.
        let package = name.starts_with("intel-rapl:") && name.matches(':').count() == 1;
        // "psys" holds the packages already.
        let label = std::fs::read_to_string(zone.join("name")).ok()?;
        if !package || !label.starts_with("package") {
            return None;
        }
        let file = zone.join("energy_uj");
        Some(Self {
            start: read_number(&file)?,
            range: read_number(&zone.join("max_energy_range_uj"))?,
            file,
        })
    }

    /// Joules since the start; the counter begins again at zero after its range.
    fn joules_since(&self) -> Option<f64> {
        let now = read_number(&self.file)?;
        let microjoules =
            if now >= self.start { now - self.start } else { (self.range - self.start) + now };
        Some(microjoules as f64 / 1e6)
    }
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Reads a folder's ledger; a line that was cut by a crash is left out.
pub fn read_ledger(dir: &Path) -> Result<Ledger> {
    let path = dir.join(LEDGER_FILE);
    let mut ledger = Ledger::default();
    if !path.exists() {
        return Ok(ledger);
    }
    let describe = || format!("cannot read {}", path.display());
    let mut reader = LineReader::open(&path, DEFAULT_MAX_LINE_BYTES).with_context(describe)?;
    while let Some(line) = reader.next_line().with_context(describe)? {
        if let Line::Whole(line) = line
            && let Ok(entry) = serde_json::from_slice(line)
        {
            ledger.entries.push(entry);
        }
    }
    Ok(ledger)
}

/// Reads the runs that plans are calibrated by; `None` where there is no such file.
pub fn read_own_runs(path: &Path) -> Result<Option<OwnRuns>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    Ok(Some(OwnRuns::parse(&text, &path.display().to_string())?))
}

/// Keeps the plan that a training began with; one of the same size that is there stays.
pub fn keep_plan(dir: &Path, plan: &PlannedRun) -> Result<()> {
    let folder = TrainingFolder { path: dir.to_owned(), ledger: Ledger::default() };
    let same = |kept: &PlannedRun| kept.parameters == plan.parameters && kept.tokens == plan.tokens;
    if !folder.plan().ok().flatten().as_ref().is_some_and(same) {
        write_file_atomic(&dir.join(PLAN_FILE), &serde_json::to_vec_pretty(plan)?)?;
    }
    Ok(())
}

/// A folder in which a model was trained.
pub struct TrainingFolder {
    /// The folder with `metrics.jsonl`.
    pub path: PathBuf,
    /// What its stages cost.
    pub ledger: Ledger,
}

/// What the metrics of a training say.
pub struct Measured {
    /// Share of the peak of each step, the first of each process left out.
    pub utilisations: Vec<f64>,
    /// Seconds of all steps.
    pub step_seconds: f64,
    /// Seconds of holding models against the base, of the lines of the metrics.
    pub measuring_seconds: f64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Most bytes of tensors held.
    pub memory_bytes: Option<f64>,
    /// Mean loss of the last fiftieth of the steps, nats per token.
    pub loss: Option<f64>,
}

impl TrainingFolder {
    /// The training of a run folder, or the folder itself if a model was trained in it.
    pub fn find(dir: &Path) -> Result<Self> {
        let path = [dir.join("train"), dir.to_owned()]
            .into_iter()
            .find(|path| path.join(milpa_train::METRICS_FILE).exists())
            .context("there is no metrics.jsonl")?;
        // A run keeps one ledger of all its stages, whichever of its folders is asked for.
        let run = path.parent().filter(|_| path.ends_with("train"));
        let mut ledger = read_ledger(dir)?;
        for other in [Some(path.as_path()), run].into_iter().flatten() {
            if ledger.seconds("train").is_none() {
                ledger = read_ledger(other)?;
            }
        }
        Ok(Self { path, ledger })
    }

    /// The plan it began with, if one was kept.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn plan(&self) -> Result<Option<PlannedRun>> {
        let path = self.path.join(PLAN_FILE);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
        let plan = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; remove it", path.display()))?;
        Ok(Some(plan))
    }

    /// The lines of its metrics.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn metrics(&self) -> Result<Vec<Metric>> {
        read_metrics(&self.path)
            .with_context(|| format!("cannot read the metrics in {}", self.path.display()))
    }

    /// What its metrics say.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn measured(&self) -> Result<Measured> {
        let metrics = self.metrics()?;
        let mut measured = Measured {
            utilisations: Vec::new(),
            step_seconds: step_seconds(&metrics),
            measuring_seconds: History::of(&metrics).counts.measuring_seconds,
            tokens: 0,
            memory_bytes: None,
            loss: None,
        };
        let mut losses = Vec::new();
        let mut before = f64::INFINITY;
        for metric in &metrics {
            let Metric::Step { tokens, loss, mfu, memory_bytes, seconds, .. } = metric else {
                continue;
            };
            measured.tokens = *tokens;
            // Seconds begin again with each process; its first step warms up.
            if *seconds >= before {
                measured.utilisations.push(*mfu);
            }
            before = *seconds;
            let most = measured.memory_bytes.unwrap_or(0.0).max(*memory_bytes as f64);
            measured.memory_bytes = Some(most);
            losses.push(*loss);
        }
        let last = &losses[losses.len() - losses.len().div_ceil(50)..];
        if !last.is_empty() {
            measured.loss = Some(last.iter().sum::<f64>() / last.len() as f64);
        }
        Ok(measured)
    }

    /// [`TrainingFolder::sections`] under their title.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sheet(&self) -> Result<Sheet> {
        Ok(Sheet { title: "Planned and measured".to_owned(), sections: self.sections()? })
    }

    /// Planned beside measured, where a plan was kept, and what the ledger adds up to.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sections(&self) -> Result<Vec<Section>> {
        let mut sections = Vec::new();
        if let Some(plan) = self.plan()? {
            let measured = self.measured()?;
            let (seconds, source) = match self.ledger.seconds("train") {
                Some(seconds) => (seconds, "ledger.jsonl: all processes of stage train"),
                None if measured.measuring_seconds > 0.0 => (
                    measured.step_seconds + measured.measuring_seconds,
                    "the steps and measuring forgetting alone, from their lines in metrics.jsonl: no \
                     ledger.jsonl was found",
                ),
                None => (
                    measured.step_seconds,
                    "the steps alone, from their lines in metrics.jsonl: no ledger.jsonl was found",
                ),
            };
            sections.push(plan.compare(&Outcome {
                seconds: Some(seconds),
                seconds_source: source.to_owned(),
                measuring_seconds: Some(measured.measuring_seconds),
                memory_bytes: measured.memory_bytes,
                loss: measured.loss,
            }));
        }
        if !self.ledger.entries.is_empty() {
            sections.push(self.ledger.section());
        }
        Ok(sections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_and_its_training_are_measured_by_the_same_ledger() {
        let root = tempfile::tempdir().unwrap();
        let (run, train) = (root.path().join("run"), root.path().join("run/train"));
        std::fs::create_dir_all(&train).unwrap();
        let metrics: String = [1, 2]
            .map(|step| serde_json::to_string(&crate::watch::history::tests::step(step, 1.0)))
            .map(|line| line.unwrap() + "\n")
            .concat();
        std::fs::write(train.join(milpa_train::METRICS_FILE), &metrics).unwrap();
        let plan = serde_json::json!({
            "processor": "EPYC", "threads": 2, "precision": "f32", "parameters": 10, "tokens": 1024,
            "flops": 1e9, "peak_flops_per_second": 1e11, "seconds": 0.1, "seconds_interval": null,
            "memory_bytes": 1024, "loss": null, "loss_is_own": false
        });
        std::fs::write(train.join(PLAN_FILE), plan.to_string()).unwrap();
        let time = |dir: &Path| {
            let sections = TrainingFolder::find(dir).unwrap().sections().unwrap();
            let mut facts = sections.into_iter().flat_map(|section| section.facts);
            let time = facts.find(|fact| fact.name == "time, measured").unwrap();
            (time.value, time.source)
        };
        let (seconds, source) = time(&train);
        assert!((seconds - 2.0 * 512.0 / 8000.0).abs() < 1e-12, "{seconds}");
        assert!(source.contains("the steps alone"), "{source}");
        let measured = crate::watch::history::tests::measured(2, 3.0);
        let line = serde_json::to_string(&measured).unwrap();
        std::fs::write(train.join(milpa_train::METRICS_FILE), metrics + &line + "\n").unwrap();
        let (with_measuring, source) = time(&train);
        assert!((with_measuring - seconds - 1.0).abs() < 1e-12, "{with_measuring}");
        assert!(source.contains("the steps and measuring forgetting"), "{source}");
        let entry = serde_json::json!({
            "stage": "train", "began": 1, "seconds": 960.0, "complete": true, "threads": 2,
            "processor": "EPYC"
        });
        std::fs::write(run.join(LEDGER_FILE), format!("{entry}\n")).unwrap();
        let expect = (960.0, "ledger.jsonl: all processes of stage train".to_owned());
        assert_eq!(time(&run), expect);
        assert_eq!(time(&train), expect);
    }

    #[test]
    fn energy_counters_of_packages_are_added_across_their_wrap() {
        let root = tempfile::tempdir().unwrap();
        let zone = |name: &str, label: &str, energy: u64| {
            let dir = root.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("name"), format!("{label}\n")).unwrap();
            std::fs::write(dir.join("energy_uj"), format!("{energy}\n")).unwrap();
            std::fs::write(dir.join("max_energy_range_uj"), "1000000\n").unwrap();
        };
        zone("intel-rapl:0", "package-0", 900_000);
        zone("intel-rapl:0:0", "core", 900_000);
        zone("intel-rapl:1", "psys", 900_000);
        let counters = EnergyCounter::all(root.path());
        assert_eq!(counters.len(), 1);
        zone("intel-rapl:0", "package-0", 950_000);
        assert_eq!(counters[0].joules_since(), Some(0.05));
        zone("intel-rapl:0", "package-0", 400_000);
        assert_eq!(counters[0].joules_since(), Some(0.5));
        assert!(EnergyCounter::all(&root.path().join("none")).is_empty());
    }
}

//! The experiments of `recipes/continued`: one base, and what becomes of it on new text without replay,
//! with fixed replay, with replay that the base wrote, and under a limit; over several seeds.
//!
//! Everything is `milpa run`, so a cut experiment goes on where it stopped, and what is up to date is not
//! done again. Several runs can go on at a time with fewer threads each, which small models make better
//! use of. The table is made of the runs' `forgetting.json`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use milpa_base::plot::{PlanePlot, PlanePoint};
use serde_json::Value;

use crate::{
    bench::{heading, record},
    cargo, root,
};

/// Recipes that continue the base, in the order of the table.
const ARMS: [&str; 5] = ["none", "replay-5", "replay-25", "self", "controlled"];
/// The same as they are run: first those that are held against each other.
const ARMS_AS_RUN: [&str; 5] = ["none", "controlled", "replay-25", "self", "replay-5"];
/// Tokens that the base writes for the arm `self`.
const GENERATED: &str = "96k tokens";
/// Folder of what it writes, beside the runs of its seed.
const SELF_REPLAY: &str = "self-replay";
/// The most of what the run without replay forgets that the limit may be.
const MOST_OF_NONE: f64 = 0.5;
/// The least of its adaptation that is to be kept.
const LEAST_ADAPTATION: f64 = 0.9;

/// Reads `--data DIR --out DIR [--seeds 1,2,3] [--jobs N] [--table] [--save]` and runs; with `--table` it
/// only shows what is there.
pub(crate) fn parse(arguments: &[&str]) -> Result<()> {
    let (mut data, mut out, mut seeds, mut save) = (None, None, vec![1, 2, 3], false);
    let (mut at_once, mut runs) = (1, true);
    let mut rest = arguments.iter();
    while let Some(&flag) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{flag} needs a value"));
        match flag {
            "--data" => data = Some(PathBuf::from(value()?)),
            "--out" => out = Some(PathBuf::from(value()?)),
            "--seeds" => {
                seeds = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "--jobs" => at_once = value()?.parse()?,
            "--table" => runs = false,
            "--save" => save = true,
            _ => bail!("experiments forgetting does not know {flag}"),
        }
    }
    let out = out.context("--out DIR says where the runs go: some 2 GB for each seed")?;
    ensure!(at_once > 0, "--jobs is at least 1");
    if runs {
        let data = data.context("--data DIR says where the texts are")?;
        run(&data, &out, &seeds, at_once)?;
    }
    show(&out, &seeds, save)
}

/// One command of the experiments.
struct Job {
    /// What it makes.
    makes: PathBuf,
    /// What has to be there before.
    needs: Vec<PathBuf>,
    /// Folder of its seed.
    folder: PathBuf,
    arguments: Vec<String>,
}

/// All commands, in the order in which they are begun as soon as what they need is there.
fn all_jobs(out: &Path, seeds: &[u64]) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut add = |seed: u64, makes: &str, needs: &[&str], arguments: &[&str]| {
        let folder = out.join(seed.to_string());
        let makes = folder.join(makes);
        let needs = needs.iter().map(|name| folder.join(name)).collect();
        let mut arguments: Vec<String> = arguments.iter().map(|&part| part.to_owned()).collect();
        arguments.extend(["--seed".to_owned(), seed.to_string()]);
        arguments.extend(["--out".to_owned(), makes.to_string_lossy().into_owned()]);
        jobs.push(Job { makes, needs, folder, arguments });
    };
    for &seed in seeds {
        add(seed, "base", &[], &["run", "recipes/continued/base.toml"]);
    }
    for arm in ARMS_AS_RUN {
        for &seed in seeds {
            let mut needs = vec!["base"];
            if arm == "self" {
                let model = out.join(format!("{seed}/base/train/checkpoint"));
                let model = model.to_string_lossy();
                let command =
                    ["tokens", "generate-replay", "--model", &model, "--tokens", GENERATED];
                add(seed, SELF_REPLAY, &needs, &command);
                needs.push(SELF_REPLAY);
            }
            add(seed, arm, &needs, &["run", &format!("recipes/continued/{arm}.toml")]);
        }
    }
    jobs
}

/// What is begun, what is done, and whether one failed.
#[derive(Default)]
struct Progress {
    begun: Vec<usize>,
    done: Vec<PathBuf>,
    failed: bool,
}

/// Runs all commands, `at_once` at a time with their share of the threads each; what they say goes into a
/// file beside what they make.
fn run_all(milpa: &Path, data: &Path, jobs: &[Job], at_once: usize) -> Result<()> {
    let threads = thread::available_parallelism()?.get().div_ceil(at_once).to_string();
    let (progress, changed) = (Mutex::new(Progress::default()), Condvar::new());
    let next = || {
        let mut now = progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if now.failed || now.begun.len() == jobs.len() {
                return None;
            }
            let ready = |job: &Job| job.needs.iter().all(|need| now.done.contains(need));
            let found = (0..jobs.len()).find(|n| !now.begun.contains(n) && ready(&jobs[*n]));
            if let Some(found) = found {
                now.begun.push(found);
                return Some(found);
            }
            now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
    };
    let one = |job: &Job| -> Result<()> {
        println!("$ milpa {}", job.arguments.join(" "));
        fs::create_dir_all(&job.folder)?;
        let log = job.makes.with_extension("log");
        let file = fs::File::options().create(true).append(true).open(&log)?;
        let began = Instant::now();
        let status = Command::new(milpa)
            .args(["--threads", &threads])
            .args(&job.arguments)
            .current_dir(root())
            .env("MILPA_DATA", data)
            .env("BASE", job.folder.join("base"))
            .env("SELF", job.folder.join(SELF_REPLAY))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()?;
        if is_above_limit(&job.makes) {
            println!("{} ended above its limit: see {}", job.makes.display(), log.display());
        } else {
            ensure!(status.success(), "milpa {} failed: see {}", job.arguments[1], log.display());
        }
        println!("{} took {:.1} min", job.makes.display(), began.elapsed().as_secs_f64() / 60.0);
        Ok(())
    };
    let work = || -> Result<()> {
        while let Some(found) = next() {
            let ended = one(&jobs[found]);
            let mut now = progress.lock().unwrap_or_else(PoisonError::into_inner);
            now.failed |= ended.is_err();
            now.done.push(jobs[found].makes.clone());
            drop(now);
            changed.notify_all();
            ended?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| bail!("a thread of the experiments panicked"))
        })
    })
}

/// Whether a run's training is complete, but above its limit: the run ends there, and keeps all that the
/// table is made of.
fn is_above_limit(run: &Path) -> bool {
    let report = read_json(&run.join("train/forgetting.json"));
    report.is_ok_and(|report| report["within_limit"] == false)
}

fn run(data: &Path, out: &Path, seeds: &[u64], at_once: usize) -> Result<()> {
    cargo(&["build", "--quiet", "--release", "-p", "milpa"])?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    fs::create_dir_all(out)?;
    let (data, out) = (fs::canonicalize(data)?, fs::canonicalize(out)?);
    run_all(&target.join("release/milpa"), &data, &all_jobs(&out, seeds), at_once)
}

/// Prints the table of what is there, and keeps it with `save`.
fn show(out: &Path, seeds: &[u64], save: bool) -> Result<()> {
    let (date, mut text) = heading()?;
    let table = Table::read(out, seeds)?;
    println!("{}", table.text);
    text.push_str(&table.text);
    if save {
        record(&format!("forgetting-{date}.txt"), &text)?;
        let path = root().join(format!("benches/forgetting-{date}.svg"));
        fs::write(path, table.plot.to_svg())?;
    }
    Ok(())
}

/// Forgetting and adaptation in %, and the change of bits per byte of general and of the run's own text.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Outcome {
    forgetting: (f64, f64, f64),
    adaptation: (f64, f64, f64),
    general_bits: f64,
    own_bits: f64,
}

struct Table {
    text: String,
    plot: PlanePlot,
}

impl Table {
    fn read(out: &Path, seeds: &[u64]) -> Result<Self> {
        let mut outcomes: BTreeMap<(String, u64), Outcome> = BTreeMap::new();
        let mut notes = String::new();
        let mut limit = None;
        for &seed in seeds {
            for arm in ARMS {
                let dir = out.join(format!("{seed}/{arm}/train"));
                let path = dir.join("forgetting.json");
                if !path.exists() {
                    writeln!(notes, "seed {seed}: {arm} is not there yet")?;
                    continue;
                }
                let report = read_json(&path)?;
                for name in ["final", "average"] {
                    let label =
                        if name == "final" { arm.to_owned() } else { format!("{arm}, EMA") };
                    outcomes.insert((label, seed), outcome(&report, name)?);
                }
                if arm == "controlled" {
                    limit = report["limit"].as_f64();
                    let chosen = report["chosen"].as_str().context("no choice")?;
                    outcomes.insert(("controlled, chosen".into(), seed), outcome(&report, chosen)?);
                    let above = if report["within_limit"] == false {
                        ", although above the limit: no candidate lies below it"
                    } else {
                        ""
                    };
                    writeln!(notes, "seed {seed}: chosen {chosen}{above}; {}", actions(&dir)?)?;
                }
            }
        }
        let limit = limit.context("the controlled run has no limit")?;
        let mut labels: Vec<String> = Vec::new();
        for arm in ARMS {
            labels.push(arm.to_owned());
            labels.push(format!("{arm}, EMA"));
        }
        labels.push("controlled, chosen".to_owned());
        let mut text = format!(
            "forgetting: recipes/continued, {} seeds; % of perplexity with the paired 95 % interval, change of \
             bits per byte\n\n{:<20} {:>4}  {:>26}  {:>26}  {:>8}  {:>8}\n",
            seeds.len(),
            "run",
            "seed",
            "forgetting",
            "adaptation",
            "general",
            "own"
        );
        // In %, what is forgotten without replay would leave no room for the others.
        let bits = |percent: f64| (1.0 + percent / 100.0).log2();
        let mut points = vec![PlanePoint {
            name: "base".to_owned(),
            at: (0.0, 0.0),
            x_interval: None,
            y_interval: None,
        }];
        for label in &labels {
            for &seed in seeds {
                let Some(&outcome) = outcomes.get(&(label.clone(), seed)) else { continue };
                let Outcome { forgetting, adaptation, general_bits, own_bits } = outcome;
                let shown = |(value, low, high): (f64, f64, f64)| {
                    format!("{value:+.1} ({low:+.1} to {high:+.1})")
                };
                writeln!(
                    text,
                    "{label:<20} {seed:>4}  {:>26}  {:>26}  {general_bits:>+8.3}  {own_bits:>+8.3}",
                    shown(forgetting),
                    shown(adaptation)
                )?;
                // Other seeds and averages lie so near that no label could be read.
                if seed != seeds[0] || label.contains(',') {
                    continue;
                }
                points.push(PlanePoint {
                    name: label.clone(),
                    at: (-bits(-adaptation.0), bits(forgetting.0)),
                    x_interval: Some((-bits(-adaptation.1), -bits(-adaptation.2))),
                    y_interval: Some((bits(forgetting.1), bits(forgetting.2))),
                });
            }
        }
        text.push('\n');
        for &seed in seeds {
            let of = |label: &str| outcomes.get(&(label.to_owned(), seed));
            let (Some(none), Some(kept)) = (of("none"), of("controlled, chosen")) else { continue };
            let share = limit / none.forgetting.0;
            let adapted = kept.adaptation.0 / none.adaptation.0;
            let bits = kept.own_bits / none.own_bits;
            let verdict = |holds: bool| if holds { "holds" } else { "does not hold" };
            writeln!(
                text,
                "seed {seed}: the limit of {limit} % is {:.0} % of what is forgotten without replay ({}); under it \
                 {:+.1} %, at most {:+.1} % ({}); adaptation {:.1} % of that without replay ({}), counted in bits \
                 {:.1} % ({})",
                share * 100.0,
                verdict(share <= MOST_OF_NONE),
                kept.forgetting.0,
                kept.forgetting.2,
                verdict(kept.forgetting.2 <= limit),
                adapted * 100.0,
                verdict(adapted >= LEAST_ADAPTATION),
                bits * 100.0,
                verdict(bits >= LEAST_ADAPTATION),
            )?;
        }
        text.push_str(&notes);
        let plot = PlanePlot {
            title: "Adaptation against forgetting".to_owned(),
            x_label: "adaptation, bits per token of regional text (95 % interval)".to_owned(),
            y_label: "forgetting, bits per token of general text".to_owned(),
            points,
            limit: Some((bits(limit), format!("limit {limit} %"))),
            chosen: None,
        };
        Ok(Self { text, plot })
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

fn outcome(report: &Value, name: &str) -> Result<Outcome> {
    let candidates = report["candidates"].as_array().context("no candidates")?;
    let found = candidates.iter().find(|candidate| candidate["name"] == name);
    let found = found.with_context(|| format!("no candidate {name}"))?;
    let change = |key: &str| -> Result<(f64, f64, f64)> {
        let number = |value: &Value| value.as_f64().with_context(|| format!("no {key} of {name}"));
        let change = &found[key];
        let interval = &change["interval"];
        Ok((number(&change["value"])?, number(&interval["low"])?, number(&interval["high"])?))
    };
    let texts = found["texts"].as_array().context("no texts")?;
    let bits = |general: bool| {
        let of = texts.iter().filter(|text| {
            text["domain"].as_str().is_some_and(|name| name.starts_with("general/") == general)
        });
        let changes: Vec<f64> = of.filter_map(|text| text["change"]["value"].as_f64()).collect();
        changes.iter().sum::<f64>() / changes.len().max(1) as f64
    };
    Ok(Outcome {
        forgetting: change("forgetting")?,
        adaptation: change("adaptation")?,
        general_bits: bits(true),
        own_bits: bits(false),
    })
}

/// What the controller did, in order.
fn actions(dir: &Path) -> Result<String> {
    let text = fs::read_to_string(dir.join("metrics.jsonl"))?;
    let mut done = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["kind"] == "control" && line["action"] != "hold" {
            let percent = |key: &str| line[key].as_f64().unwrap_or(f64::NAN) * 100.0;
            done.push(format!(
                "step {} {} (replay {:.0} %, rate {:.0} %)",
                line["step"],
                line["action"].as_str().unwrap_or_default(),
                percent("replay"),
                percent("learning_rate")
            ));
        }
    }
    Ok(if done.is_empty() { "held throughout".to_owned() } else { done.join(", ") })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    /// A program that writes what a run leaves, and ends as one above its limit.
    fn milpa(dir: &Path, report: &Value) -> PathBuf {
        let path = dir.join("milpa");
        let script = format!(
            "#!/bin/sh\nfor last; do :; done\nmkdir -p $last/train\ntouch $last/train/metrics.jsonl\n\
             case $last in\n*/controlled) cat > $last/train/forgetting.json <<'END'\n{report}\nEND\n\
             exit 1;;\nesac\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_run_above_its_limit_stands_in_the_table_and_the_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let change =
            |value: f64| json!({"value": value, "interval": {"low": value, "high": value}});
        let candidate = |name: &str| json!({"name": name, "forgetting": change(12.0), "adaptation": change(50.0), "texts": []});
        let mut report = json!({
            "limit": 10.0, "within_limit": false, "chosen": "final",
            "candidates": [candidate("final"), candidate("average")]
        });
        let out = dir.path().join("out");
        let jobs = all_jobs(&out, &[1]);
        run_all(&milpa(dir.path(), &report), dir.path(), &jobs, 1).unwrap();
        assert!(jobs.iter().all(|job| job.makes.join("train").is_dir()));
        let table = Table::read(&out, &[1]).unwrap().text;
        assert!(table.contains("chosen final, although above the limit"), "{table}");
        assert!(table.contains("+12.0 (+12.0 to +12.0)"), "{table}");

        report["within_limit"] = json!(true);
        fs::remove_dir_all(&out).unwrap();
        let refused = run_all(&milpa(dir.path(), &report), dir.path(), &jobs, 1).unwrap_err();
        assert!(refused.to_string().contains("controlled.toml failed"), "{refused}");
    }
}

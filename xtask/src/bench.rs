//! Speed, recorded under `benches/`: kernels alone, and training steps beside PyTorch.
//!
//! The training comparison runs the same model, weights, tokens and threads through our own
//! `train_step` example and through a peer script, in turns, so that what disturbs the machine
//! disturbs both. It knows nothing of the engine: it starts processes and divides their medians.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{cargo, root, run};

/// Date, processor, load and commit.
pub(crate) fn heading() -> Result<(String, String)> {
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"]));
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let text = format!(
        "date    {date}\nmachine {cpu}, {} cores\nload    {}\ncommit  {}\n\n",
        std::thread::available_parallelism()?,
        load(),
        output(Command::new("git").args(["rev-parse", "--short", "HEAD"])),
    );
    Ok((date, text))
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.current_dir(root()).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// Adds to the day's record: a long comparison is measured in parts.
pub(crate) fn record(name: &str, text: &str) -> Result<()> {
    let folder = root().join("benches");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    let mut whole = std::fs::read_to_string(&path).unwrap_or_default();
    if !whole.is_empty() {
        whole.push('\n');
    }
    whole.push_str(text);
    std::fs::write(&path, whole)?;
    eprintln!("recorded in {}", path.display());
    Ok(())
}

/// Measures kernels and the training step in both types.
pub(crate) fn kernels() -> Result<()> {
    let (date, mut text) = heading()?;
    let step = ["run", "--quiet", "--release", "-p", "milpa-model", "--example", "train_step"];
    let with = |dtype: &'static str| [&step[..], &["--", "--dtype", dtype]].concat();
    for arguments in [vec!["bench", "--quiet", "-p", "milpa-kernels"], with("f32"), with("bf16")] {
        let line = format!("cargo {}", arguments.join(" "));
        eprintln!("$ {line}");
        let printed = output(Command::new(env!("CARGO")).args(arguments));
        write!(text, "$ {line}\n{printed}\n\n")?;
    }
    print!("{text}");
    record(&format!("{date}.txt"), &text)
}

/// Prints where the time of a step goes, for each workload and type, and records it.
pub(crate) fn profile() -> Result<()> {
    let (date, mut text) = heading()?;
    for workload in WORKLOADS {
        for dtype in ["f32", "bf16"] {
            let (warmup, steps) = workload.steps;
            let (warmup, steps) = (warmup.to_string(), steps.to_string());
            let mut command = Command::new(env!("CARGO"));
            command.args(["run", "--quiet", "--release", "-p", "milpa-model", "--example"]);
            command.args(["train_step", "--", "--profile", "--json", "--dtype", dtype]);
            command.args(workload.flags.split(' '));
            command.args(["--warmup", &warmup, "--steps", &steps]);
            if workload.forward_only {
                command.arg("--forward-only");
            }
            let printed = output(&mut command);
            let (table, _) = printed.rsplit_once('\n').context("train_step printed no table")?;
            eprintln!("{}, {dtype}\n{table}\n", workload.name);
            write!(text, "{}, {dtype}\n{table}\n\n", workload.name)?;
        }
    }
    writeln!(text, "load at the end {}", load())?;
    record(&format!("profile-{date}.txt"), &text)
}

/// What is compared.
struct Workload {
    name: &'static str,
    flags: &'static str,
    /// Steps that are not counted, and steps that are.
    steps: (u32, u32),
    forward_only: bool,
}

const WORKLOADS: [Workload; 5] = [
    Workload {
        name: "10M, 8 × 256",
        flags: "--d-model 384 --layers 6 --heads 8 --kv-heads 4 --ffn 1024 --vocab 8192 --seq 256 --batch 8",
        steps: (3, 8),
        forward_only: false,
    },
    Workload {
        name: "GPT-2 124M, 4 × 1024",
        flags: "--d-model 768 --layers 12 --heads 12 --kv-heads 12 --ffn 2048 --vocab 50304 --seq 1024 --batch 4",
        steps: (1, 2),
        forward_only: false,
    },
    Workload {
        name: "small, 4 × 128",
        flags: "--d-model 256 --layers 4 --heads 4 --kv-heads 4 --ffn 1024 --vocab 4096 --seq 128 --batch 4",
        steps: (10, 30),
        forward_only: false,
    },
    Workload {
        name: "score 10M, 1 × 512",
        flags: "--d-model 384 --layers 6 --heads 8 --kv-heads 4 --ffn 1024 --vocab 8192 --seq 512 --batch 1",
        steps: (10, 30),
        forward_only: true,
    },
    Workload {
        name: "score 10M, 16 × 512",
        flags: "--d-model 384 --layers 6 --heads 8 --kv-heads 4 --ffn 1024 --vocab 8192 --seq 512 --batch 16",
        steps: (2, 6),
        forward_only: true,
    },
];

/// How the comparison is asked for.
pub(crate) struct TrainOptions {
    python: String,
    peers: PathBuf,
    rounds: usize,
    /// Keeps the workloads whose name contains it.
    only: String,
    dtypes: Vec<String>,
    threads: usize,
    /// Instruction set of our side, and of the peer (`ATEN_CPU_CAPABILITY`, `MKL_…`).
    isa: Option<String>,
    /// Peaks measured on this machine at another time, in GFLOP/s: f32 and bf16.
    recorded_peaks: [f64; 2],
    json: bool,
    save: bool,
}

impl TrainOptions {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            python: "python3".to_owned(),
            peers: PathBuf::new(),
            rounds: 5,
            only: String::new(),
            dtypes: vec!["f32".to_owned(), "bf16".to_owned()],
            threads: 2,
            isa: None,
            recorded_peaks: [0.0; 2],
            json: false,
            save: false,
        };
        let mut rest = arguments.iter();
        while let Some(&flag) = rest.next() {
            let mut value = || {
                rest.next()
                    .map(|value| (*value).to_owned())
                    .with_context(|| format!("{flag} needs a value"))
            };
            match flag {
                "--python" => options.python = value()?,
                "--peers" => options.peers = value()?.into(),
                "--rounds" => options.rounds = value()?.parse()?,
                "--only" => options.only = value()?,
                "--dtype" => options.dtypes = vec![value()?],
                "--threads" => options.threads = value()?.parse()?,
                "--isa" => options.isa = Some(value()?),
                "--recorded-peaks" => {
                    let value = value()?;
                    let (f32_peak, bf16_peak) = value
                        .split_once(',')
                        .context("--recorded-peaks takes two numbers: F32,BF16 in GFLOP/s")?;
                    options.recorded_peaks = [f32_peak.parse()?, bf16_peak.parse()?];
                }
                "--json" => options.json = true,
                "--save" => options.save = true,
                _ => bail!("bench train does not know {flag}"),
            }
        }
        if !options.peers.join("torch_train.py").is_file() {
            bail!("--peers DIR must hold torch_train.py and mkl_avx512_on_amd.c");
        }
        options.peers = options.peers.canonicalize()?;
        if options.rounds == 0 {
            bail!("--rounds must be at least 1");
        }
        Ok(options)
    }
}

/// Medians of the rounds of one engine.
#[derive(Default)]
struct Runs {
    tokens_per_second: Vec<f64>,
    megabytes: f64,
}

impl Runs {
    fn add(&mut self, printed: &Value) {
        self.tokens_per_second.push(printed["tok_s"].as_f64().unwrap_or(f64::NAN));
        self.megabytes = self.megabytes.max(printed["peak_rss_mb"].as_f64().unwrap_or(f64::NAN));
    }

    fn median(&self) -> f64 {
        median(&self.tokens_per_second)
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => f64::midpoint(values[(n - 1) / 2], values[n / 2]),
    }
}

/// The median of the ratios of the rounds, since neighbours in time share what disturbed them.
fn paired(ours: &Runs, theirs: &Runs) -> f64 {
    let pairs = ours.tokens_per_second.iter().zip(&theirs.tokens_per_second);
    median(&pairs.map(|(ours, theirs)| ours / theirs).collect::<Vec<f64>>())
}

/// Compares training steps and forward passes with PyTorch as installed and as tuned.
pub(crate) fn train(options: &TrainOptions) -> Result<()> {
    cargo(&["build", "--release", "--quiet", "-p", "milpa-model", "--example", "train_step"])?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let ours = target.join("release/examples/train_step");
    let preload = preload(options, &target)?;
    let (date, mut text) = heading()?;
    let peak =
        last_json(Command::new(&ours).args(["--peak", "--threads", &options.threads.to_string()]))?;
    writeln!(
        text,
        "{} rounds in turns on {} threads; peaks {peak}",
        options.rounds, options.threads
    )?;
    let names: Vec<&str> = preload.split(' ').filter_map(|path| path.rsplit('/').next()).collect();
    writeln!(text, "preloaded for the tuned peer: {}\n", names.join(" "))?;
    let mut rows = Vec::new();
    for workload in WORKLOADS.iter().filter(|workload| workload.name.contains(&options.only)) {
        for dtype in &options.dtypes {
            let row = compare(options, workload, dtype, &ours, &preload, &peak)?;
            let line = serde_json::to_string(&row)?;
            eprintln!("{line}");
            writeln!(text, "{line}")?;
            rows.push(row);
        }
    }
    publish(text, rows, (options.json, options.save), &format!("train-{date}.txt"))
}

/// Ends a comparison: prints it, as rows of JSON or as text, and records it where that is asked for.
pub(crate) fn publish(
    mut text: String,
    rows: Vec<Value>,
    (json, save): (bool, bool),
    name: &str,
) -> Result<()> {
    writeln!(text, "\nload at the end {}", load())?;
    if json {
        println!("{}", Value::Array(rows));
    } else {
        print!("{text}");
    }
    if save {
        record(name, &text)?;
    }
    Ok(())
}

/// Builds what makes MKL take its AVX-512 path on every processor, and finds tcmalloc.
fn preload(options: &TrainOptions, target: &Path) -> Result<String> {
    let library = target.join("mkl_avx512.so");
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(options.peers.join("mkl_avx512_on_amd.c")))?;
    let cache = output(Command::new("ldconfig").arg("-p"));
    let allocator = cache
        .lines()
        .find(|line| line.contains("libtcmalloc_minimal.so.4"))
        .and_then(|line| line.split_whitespace().last())
        .context("libtcmalloc_minimal.so.4 is missing: apt-get install libtcmalloc-minimal4")?
        .to_owned();
    Ok(format!("{} {allocator}", library.display()))
}

fn compare(
    options: &TrainOptions,
    workload: &Workload,
    dtype: &str,
    ours: &Path,
    preload: &str,
    peak: &Value,
) -> Result<Value> {
    let (warmup, steps) = workload.steps;
    let flags: Vec<String> = workload
        .flags
        .split(' ')
        .map(str::to_owned)
        .chain(["--dtype", dtype, "--threads", &options.threads.to_string()].map(str::to_owned))
        .chain([format!("--warmup={warmup}"), format!("--steps={steps}")])
        .flat_map(|flag| flag.split('=').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let script = if workload.forward_only {
        root().join("reference/torch_score.py")
    } else {
        options.peers.join("torch_train.py")
    };
    let peer = |compiled: bool, tuned: bool| -> Result<Value> {
        let mut command = Command::new(&options.python);
        command.arg(&script).args(&flags).env("HF_HUB_OFFLINE", "1");
        if compiled {
            command.arg("--compile");
        }
        if tuned {
            command.env("LD_PRELOAD", preload);
        }
        if options.isa.as_deref() == Some("avx2+fma") {
            // PyTorch's own kernels, oneDNN and MKL, each by its own variable.
            command.env("ATEN_CPU_CAPABILITY", "avx2").env("ONEDNN_MAX_CPU_ISA", "AVX2");
            command.env("MKL_ENABLE_INSTRUCTIONS", "AVX2");
        }
        last_json(&mut command)
    };
    let own = |threads: usize| -> Result<Value> {
        let mut command = Command::new(ours);
        command.args(&flags).args(["--json", "--threads", &threads.to_string()]);
        if let Some(isa) = &options.isa {
            command.args(["--isa", isa]);
        }
        if workload.forward_only {
            command.arg("--forward-only");
        }
        last_json(&mut command)
    };
    let (mut milpa, mut one, mut eager, mut compiled, mut tuned) =
        (Runs::default(), Runs::default(), Runs::default(), Runs::default(), Runs::default());
    let mut gflops = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("{} {dtype}: round {round} of {}", workload.name, options.rounds);
        // As installed, the faster way counts: the other one is run in the first round only.
        if round == 1 || eager.median() > compiled.median() {
            eager.add(&peer(false, false)?);
        }
        if round == 1 || compiled.median() >= eager.median() {
            compiled.add(&peer(true, false)?);
        }
        tuned.add(&peer(true, true)?);
        let printed = own(options.threads)?;
        gflops.push(printed["gflops"].as_f64().unwrap_or(f64::NAN));
        milpa.add(&printed);
        // What the second core gives, from two rounds.
        if options.threads > 1 && round <= 2 {
            one.add(&own(1)?);
        }
    }
    let installed = if eager.median() > compiled.median() { &eager } else { &compiled };
    let (key, recorded) = match dtype {
        "bf16" => ("bf16_gflops", options.recorded_peaks[1]),
        _ => ("f32_gflops", options.recorded_peaks[0]),
    };
    let ceiling = peak[key].as_f64().unwrap_or(f64::NAN).max(recorded);
    let round =
        |value: f64, digits: i32| (value * 10_f64.powi(digits)).round() / 10_f64.powi(digits);
    Ok(json!({
        "workload": workload.name,
        "dtype": dtype,
        "ratio_tuned": round(paired(&milpa, &tuned), 3),
        "ratio_installed": round(paired(&milpa, installed), 3),
        "share_of_peak": round(median(&gflops) / ceiling, 3),
        "tokens_per_second": round(milpa.median(), 0),
        "tuned": round(tuned.median(), 0),
        "eager": round(eager.median(), 0),
        "compiled": round(compiled.median(), 0),
        "second_core": round(paired(&milpa, &one), 3),
        "megabytes": milpa.megabytes,
        "tuned_megabytes": tuned.megabytes,
        "installed_megabytes": installed.megabytes,
        "rounds": milpa.tokens_per_second.iter().zip(&tuned.tokens_per_second)
            .map(|(ours, tuned)| json!([round(*ours, 0), round(*tuned, 0)])).collect::<Vec<_>>(),
    }))
}

/// Runs a program and reads the JSON object in its last line.
pub(crate) fn last_json(command: &mut Command) -> Result<Value> {
    let output = command.current_dir(root()).output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    // Python prints a loss that is not a number as JSON does not allow it: compiled PyTorch limited to
    // AVX2 has such losses.
    match line.and_then(|line| serde_json::from_str(&line.replace("NaN", "null")).ok()) {
        Some(value) if output.status.success() => Ok(value),
        _ => bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)),
    }
}

//! Speed of the corpus' stages beside the Python peers, recorded under `benches/`.
//!
//! Both sides get the same documents in one file and run on one core in turns, so that what
//! disturbs the machine disturbs both; a row is the median of each side and of the rounds' ratios.
//! It knows nothing of filters: a stage is two commands that print `documents`, `bytes`, `kept` and
//! `seconds` as a JSON object. To add a stage (reading, extraction, language, MinHash): a row of
//! [`STAGES`], an example of `milpa-corpus` and an action of a script in `reference/`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    bench::{heading, last_json, median, publish},
    cargo, root, run,
};

/// One stage and how both sides run it.
struct Stage {
    name: &'static str,
    /// What the peer is.
    peer: &'static str,
    /// Example of `milpa-corpus`, and what it is asked after the file of documents.
    example: &'static str,
    arguments: &'static [&'static str],
    /// Script of the peer; it takes `documents DATA FILE COUNT` and `time OURS FILE`.
    script: &'static str,
    /// Documents that both sides get.
    documents: usize,
    /// Ratio of documents per second that the project holds itself to.
    least_ratio: f64,
}

const STAGES: &[Stage] = &[Stage {
    name: "filters",
    peer: "datatrove",
    example: "filter_documents",
    arguments: &["--built-in", "time"],
    script: "reference/filters_check.py",
    documents: 4_000,
    least_ratio: 20.0,
}];

/// How the comparison is asked for.
pub(crate) struct CorpusOptions {
    python: String,
    data: PathBuf,
    rounds: usize,
    /// Keeps the stages whose name contains it.
    only: String,
    json: bool,
    save: bool,
}

impl CorpusOptions {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            python: "python3".to_owned(),
            data: PathBuf::new(),
            rounds: 5,
            only: String::new(),
            json: false,
            save: false,
        };
        let mut rest = arguments.iter();
        while let Some(&flag) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{flag} needs a value"));
            match flag {
                "--python" => options.python = (*value()?).to_owned(),
                "--data" => options.data = value()?.into(),
                "--rounds" => options.rounds = value()?.parse()?,
                "--only" => options.only = (*value()?).to_owned(),
                "--json" => options.json = true,
                "--save" => options.save = true,
                _ => bail!("bench corpus does not know {flag}"),
            }
        }
        if !options.data.join("web").is_dir() || !options.data.join("text").is_dir() {
            bail!("--data DIR must hold the folders web and text of the shared data");
        }
        options.data = options.data.canonicalize()?;
        if options.rounds == 0 {
            bail!("--rounds must be at least 1");
        }
        Ok(options)
    }
}

/// Runs all stages and prints a row for each.
pub(crate) fn corpus(options: &CorpusOptions) -> Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let (date, mut text) = heading()?;
    let versions = versions(&options.python)?;
    writeln!(text, "peers   {versions}\n{} rounds in turns, one core\n", options.rounds)?;
    let mut rows = Vec::new();
    for stage in STAGES.iter().filter(|stage| stage.name.contains(&options.only)) {
        let row = compare(options, stage, &target)?;
        eprintln!("{row}");
        writeln!(text, "{row}")?;
        rows.push(row);
    }
    if rows.is_empty() {
        bail!("no stage is called {:?}", options.only);
    }
    publish(text, rows, (options.json, options.save), &format!("corpus-{date}.txt"))
}

fn versions(python: &str) -> Result<String> {
    let script = "import importlib.metadata as m, json\n\
                  names = ['datatrove', 'spacy']\n\
                  print(json.dumps({name: m.version(name) for name in names}))";
    Ok(last_json(Command::new(python).args(["-c", script]))?.to_string())
}

fn compare(options: &CorpusOptions, stage: &Stage, target: &Path) -> Result<Value> {
    let build = ["build", "--release", "--quiet", "-p", "milpa-corpus", "--example", stage.example];
    cargo(&build)?;
    let ours = target.join("release/examples").join(stage.example);
    let file = target.join(format!("bench-{}.jsonl", stage.name));
    let documents = stage.documents.to_string();
    let mut make = Command::new(&options.python);
    make.args([stage.script, "documents"]).arg(&options.data).arg(&file).arg(documents);
    run(&mut make)?;
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    let mut printed = Value::Null;
    for round in 1..=options.rounds {
        eprintln!("{}: round {round} of {}", stage.name, options.rounds);
        let mut command = Command::new(&options.python);
        let peer = last_json(command.args([stage.script, "time"]).arg(&ours).arg(&file))?;
        printed = last_json(Command::new(&ours).arg(&file).args(stage.arguments))?;
        if printed["documents"] != peer["documents"] || printed["bytes"] != peer["bytes"] {
            bail!("{}: the sides had other documents: {printed} and {peer}", stage.name);
        }
        if printed["kept"] != peer["kept"] {
            eprintln!("{}: kept {} and {}", stage.name, printed["kept"], peer["kept"]);
        }
        own.push(rate(&printed)?);
        theirs.push(rate(&peer)?);
    }
    let ratios: Vec<f64> = own.iter().zip(&theirs).map(|(own, theirs)| own / theirs).collect();
    let megabytes = printed["bytes"].as_f64().unwrap_or(f64::NAN) / 1e6;
    let each = megabytes / stage.documents as f64;
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
    Ok(json!({
        "stage": stage.name,
        "peer": stage.peer,
        "ratio": tenths(median(&ratios)),
        "least_ratio": stage.least_ratio,
        "documents_per_second": tenths(median(&own)),
        "peer_documents_per_second": tenths(median(&theirs)),
        "megabytes_per_second": tenths(median(&own) * each),
        "peer_megabytes_per_second": tenths(median(&theirs) * each),
        "documents": printed["documents"],
        "kept": printed["kept"],
        "rounds": own.iter().zip(&theirs)
            .map(|(own, theirs)| json!([tenths(*own), tenths(*theirs)])).collect::<Vec<_>>(),
    }))
}

/// Documents per second.
fn rate(printed: &Value) -> Result<f64> {
    let get = |name: &str| printed[name].as_f64().with_context(|| format!("{printed}: no {name}"));
    Ok(get("documents")? / get("seconds")?)
}

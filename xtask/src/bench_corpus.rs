//! Speed of the corpus' stages beside the Python peers, recorded under `benches/`.
//!
//! Both sides get the same documents in one file and run on one core in turns, so that what
//! disturbs the machine disturbs both; a row is the median of each side and of the rounds' ratios.
//! It knows nothing of filters: a stage is two commands that print `documents`, `bytes`, `kept` and
//! `seconds` as a JSON object. To add a stage (reading, extraction, language, MinHash): a row of
//! [`STAGES`], an example, and a script in `reference/` with the actions `documents` and `time`.

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
    /// The peer's packages; their versions are recorded.
    peers: &'static [&'static str],
    /// Crate and example, and what it is asked after the file of documents.
    example: (&'static str, &'static str),
    arguments: &'static [&'static str],
    /// Script of the peer, and what it is asked first; it takes `documents DATA FILE COUNT` and
    /// `time OURS FILE`.
    script: &'static [&'static str],
    /// Documents that both sides get.
    documents: usize,
    /// Ratio of documents per second that the project holds itself to.
    least_ratio: f64,
}

const STAGES: &[Stage] = &[
    Stage {
        name: "extraction",
        peers: &["trafilatura"],
        example: ("milpa-corpus", "measure_extraction"),
        arguments: &["--json"],
        script: &["reference/extraction_check.py"],
        documents: 485,
        least_ratio: 5.0,
    },
    Stage {
        name: "filters",
        peers: &["datatrove", "spacy"],
        example: ("milpa-corpus", "filter_documents"),
        arguments: &["--built-in", "time"],
        script: &["reference/filters_check.py"],
        documents: 1_000,
        least_ratio: 20.0,
    },
    Stage {
        name: "addresses",
        peers: &["datatrove", "tldextract"],
        example: ("milpa-corpus", "block_addresses"),
        arguments: &["time"],
        script: &["reference/addresses_check.py"],
        // Ours takes a microsecond for one.
        documents: 200_000,
        least_ratio: 20.0,
    },
    Stage {
        name: "personal data",
        peers: &["datatrove"],
        example: ("milpa-text", "mask_documents"),
        arguments: &[],
        script: &["reference/personal_speed.py"],
        documents: 4_000,
        least_ratio: 1.0,
    },
    Stage {
        name: "minhash",
        peers: &["datatrove"],
        example: ("milpa-corpus", "dedup_documents"),
        arguments: &["time"],
        script: &["reference/dedup_check.py"],
        documents: 500,
        least_ratio: 20.0,
    },
    Stage {
        name: "minhash, another",
        peers: &["text-dedup"],
        example: ("milpa-corpus", "dedup_documents"),
        arguments: &["time"],
        script: &["reference/text_dedup_speed.py"],
        documents: 2_000,
        least_ratio: 20.0,
    },
    Stage {
        name: "language",
        peers: &["fasttext-numpy2-wheel"],
        example: ("milpa-text", "predict_documents"),
        arguments: &["language"],
        script: &["reference/fasttext_speed.py", "language"],
        documents: 20_000,
        least_ratio: 1.0,
    },
    Stage {
        name: "classifier",
        peers: &["fasttext-numpy2-wheel"],
        example: ("milpa-text", "predict_documents"),
        arguments: &["classifier"],
        script: &["reference/fasttext_speed.py", "classifier"],
        documents: 4_000,
        least_ratio: 1.0,
    },
    Stage {
        name: "read warc",
        peers: &["fastwarc", "warcio"],
        example: ("milpa-corpus", "read_archives"),
        arguments: &["--json"],
        script: &["reference/warc_speed.py"],
        // 380 pages, ten times over.
        documents: 11_400,
        least_ratio: 1.0,
    },
    Stage {
        name: "pipeline jsonl",
        peers: &["datatrove", "spacy"],
        example: ("milpa-corpus", "time_pipeline"),
        arguments: &["jsonl"],
        script: &["reference/pipeline_check.py"],
        documents: 1_000,
        least_ratio: 10.0,
    },
    Stage {
        name: "pipeline warc",
        peers: &["datatrove", "trafilatura", "warcio", "spacy"],
        example: ("milpa-corpus", "time_pipeline"),
        arguments: &["warc"],
        script: &["reference/pipeline_check.py"],
        documents: 380,
        least_ratio: 10.0,
    },
];

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
    let stages: Vec<&Stage> =
        STAGES.iter().filter(|stage| stage.name.contains(&options.only)).collect();
    if stages.is_empty() {
        bail!("no stage is called {:?}", options.only);
    }
    let (date, mut text) = heading()?;
    writeln!(text, "{} rounds in turns, one core", options.rounds)?;
    let mut rows = Vec::new();
    for stage in stages {
        let row = compare(options, stage, &target)?;
        eprintln!("{row}");
        writeln!(text, "\n{row}")?;
        rows.push(row);
    }
    publish(text, rows, (options.json, options.save), &format!("corpus-{date}.txt"))
}

/// Versions of the peer's packages.
fn versions(python: &str, packages: &[&str]) -> Result<Value> {
    let script = "import importlib.metadata as m, json, sys\n\
                  print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))";
    last_json(Command::new(python).args(["-c", script]).args(packages))
}

fn compare(options: &CorpusOptions, stage: &Stage, target: &Path) -> Result<Value> {
    let (package, example) = stage.example;
    let versions = versions(&options.python, stage.peers)?;
    cargo(&["build", "--release", "--quiet", "-p", package, "--example", example])?;
    let ours = target.join("release/examples").join(example);
    let file = target.join(format!("bench-{}.jsonl", stage.name.replace([' ', ','], "-")));
    let documents = stage.documents.to_string();
    let mut make = Command::new(&options.python);
    make.args(stage.script).arg("documents").arg(&options.data).arg(&file).arg(documents);
    run(&mut make)?;
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    let (mut printed, mut peer_kept) = (Value::Null, Value::Null);
    for round in 1..=options.rounds {
        eprintln!("{}: round {round} of {}", stage.name, options.rounds);
        let mut command = Command::new(&options.python);
        let peer = last_json(command.args(stage.script).arg("time").arg(&ours).arg(&file))?;
        printed = last_json(Command::new(&ours).arg(&file).args(stage.arguments))?;
        if printed["documents"] != peer["documents"] || printed["bytes"] != peer["bytes"] {
            bail!("{}: the sides had other documents: {printed} and {peer}", stage.name);
        }
        peer_kept = peer["kept"].clone();
        own.push(rate(&printed)?);
        theirs.push(rate(&peer)?);
    }
    let ratios: Vec<f64> = own.iter().zip(&theirs).map(|(own, theirs)| own / theirs).collect();
    let megabytes = printed["bytes"].as_f64().unwrap_or(f64::NAN) / 1e6;
    let each = megabytes / stage.documents as f64;
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
    Ok(json!({
        "stage": stage.name,
        "peer": versions,
        "ratio": tenths(median(&ratios)),
        "least_ratio": stage.least_ratio,
        "documents_per_second": tenths(median(&own)),
        "peer_documents_per_second": tenths(median(&theirs)),
        "megabytes_per_second": tenths(median(&own) * each),
        "peer_megabytes_per_second": tenths(median(&theirs) * each),
        "documents": printed["documents"],
        "kept": printed["kept"],
        "peer_kept": peer_kept,
        "rounds": own.iter().zip(&theirs)
            .map(|(own, theirs)| json!([tenths(*own), tenths(*theirs)])).collect::<Vec<_>>(),
    }))
}

/// Documents per second.
fn rate(printed: &Value) -> Result<f64> {
    let get = |name: &str| printed[name].as_f64().with_context(|| format!("{printed}: no {name}"));
    Ok(get("documents")? / get("seconds")?)
}

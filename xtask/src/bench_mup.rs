//! How far a learning rate carries over widths, with µP and without, on real text: a table recorded under
//! `benches/`.
//!
//! The trainings are those of the `mup_sweep` example of `milpa-train`; here its text is cut from the
//! shared data and its lines become a table.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{bench, root};

/// Characters of the text, and of a document.
const TEXT: usize = 600_000;
const DOCUMENT: usize = 2_000;
const SOURCE: &str = "text/pt_novels.jsonl.zst";

/// Bits per byte of each seed, at each rate; `None` where a run came to no number.
type Row = Vec<(f64, Vec<Option<f64>>)>;
/// Rows by width and whether with µP.
type Losses = BTreeMap<(u64, bool), Row>;

/// Where the data is, and whether to record.
pub(crate) struct MupOptions {
    data: PathBuf,
    save: bool,
}

impl MupOptions {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self> {
        match arguments {
            ["--data", data] => Ok(Self { data: data.into(), save: false }),
            ["--data", data, "--save"] => Ok(Self { data: data.into(), save: true }),
            _ => bail!("usage: cargo xtask bench mup --data DIR [--save]"),
        }
    }
}

/// Runs the sweep and prints, for each width, the loss at each rate.
pub(crate) fn mup(options: &MupOptions) -> Result<()> {
    let folder = root().join("target/mup-sweep");
    std::fs::create_dir_all(&folder)?;
    let text = folder.join("text.txt");
    std::fs::write(&text, slice(&options.data.join(SOURCE))?)?;
    let (date, mut report) = bench::heading()?;
    let mut losses: Losses = BTreeMap::new();
    let mut child = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--release", "-p", "milpa-train", "--example", "mup_sweep", "--"])
        .args([&text, &folder.join("runs")])
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    for line in lines {
        let line = line?;
        eprintln!("{line}");
        let run: Value = serde_json::from_str(&line)?;
        let of = |key: &str| run.get(key).with_context(|| format!("{line} has no {key}"));
        let width = of("width")?.as_u64().context("a width is a number")?;
        let mup = of("mup")?.as_bool().context("mup is true or false")?;
        let rate = of("rate")?.as_f64().context("a rate is a number")?;
        let bits = of("bits")?.as_f64();
        let row = losses.entry((width, mup)).or_default();
        match row.iter_mut().find(|(of, _)| *of == rate) {
            Some((_, seeds)) => seeds.push(bits),
            None => row.push((rate, vec![bits])),
        }
    }
    for row in losses.values_mut() {
        row.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the sweep ended with {status}; run it again, it goes on where it was cut");
    }
    report.push_str(&table(&losses)?);
    print!("{report}");
    if options.save {
        bench::record(&format!("mup-{date}.txt"), &report)?;
    }
    Ok(())
}

/// The beginning of every novel, one document on each line.
fn slice(path: &Path) -> Result<String> {
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut novels = Vec::new();
    for line in BufReader::new(zstd::Decoder::new(file)?).lines() {
        let record: Value = serde_json::from_str(&line?)?;
        let text = record.get("text").and_then(Value::as_str).context("a record has a text")?;
        novels.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let each = TEXT / novels.len().max(1);
    let mut slice = String::new();
    for novel in novels {
        let characters: Vec<char> = novel.chars().take(each).collect();
        for document in characters.chunks(DOCUMENT) {
            slice.extend(document);
            slice.push('\n');
        }
    }
    Ok(slice)
}

/// The mean over seeds and its standard error; `None` if one of them came to no number.
fn mean(seeds: &[Option<f64>]) -> Option<(f64, f64)> {
    let bits: Vec<f64> = seeds.iter().copied().collect::<Option<_>>()?;
    let count = bits.len() as f64;
    let mean = bits.iter().sum::<f64>() / count;
    let squares: f64 = bits.iter().map(|bits| (bits - mean).powi(2)).sum();
    let error = (squares / (count - 1.0).max(1.0) / count).sqrt();
    Some((mean, error))
}

fn table(losses: &Losses) -> Result<String> {
    let mut text = String::new();
    let rates = losses.values().next().context("the sweep printed nothing")?;
    let seeds = rates.first().map_or(0, |(_, seeds)| seeds.len());
    writeln!(
        text,
        "Bits per byte of held-out text after 400 steps of 512 tokens of {SOURCE} (the beginnings of its\n\
         novels), by width and learning rate of AdamW: mean of {seeds} seeds ± its standard error. Two layers,\n\
         heads of 16. The numbers depend on the text alone, not on the load.\n"
    )?;
    write!(text, "{:>20}", "rate")?;
    for (rate, _) in rates {
        write!(text, "{rate:>16}")?;
    }
    writeln!(text, "{:>9}{:>24}", "best at", "more at the base's rate")?;
    let best = |row: &Row| {
        let finite = row.iter().filter_map(|(rate, seeds)| Some((*rate, mean(seeds)?.0)));
        finite.min_by(|a, b| a.1.total_cmp(&b.1)).context("no run of a row has a loss")
    };
    let (base_rate, _) = best(rates)?;
    for ((width, mup), row) in losses {
        let with = if *mup { "with µP" } else { "as it is" };
        write!(text, "{:>20}", format!("width {width}, {with}"))?;
        for (_, seeds) in row {
            match mean(seeds) {
                Some((mean, error)) => write!(text, "{:>16}", format!("{mean:.4} ±{error:.4}"))?,
                None => write!(text, "{:>16}", "–")?,
            }
        }
        let (rate, least) = best(row)?;
        let at_base = row.iter().find(|(rate, _)| *rate == base_rate);
        let at_base = at_base.and_then(|(_, seeds)| mean(seeds));
        let more =
            at_base.map_or_else(|| "–".to_owned(), |(bits, _)| format!("{:+.4}", bits - least));
        writeln!(text, "{rate:>9}{more:>24}")?;
    }
    Ok(text)
}

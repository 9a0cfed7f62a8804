//! The working folder: each stage's result, what it rejected and why, and which stages are up to date.
//!
//! A stage has a name, a key (the hash of everything it depends on) and two JSONL files: what goes
//! on (`2-questions.jsonl`) and what does not (`2-questions.rejected.jsonl`). A stage whose key and
//! files are as recorded is read back, any other is made again. It knows no stage's work.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use milpa_base::{
    Digest,
    artifact::{RunLock, write_file_atomic},
    hash_bytes, hash_file,
    lines::{Line, LineReader},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::EvalError;

/// What was made and of what.
const STAGES_FILE: &str = "stages.json";
/// Longest line of a stage's file.
const MAX_LINE_BYTES: usize = 4 << 20;

/// What did not go on, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejected {
    /// The conversation or the question; empty where a line has none.
    pub id: String,
    /// Why.
    pub reason: String,
    /// File and line, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// The question, personal data covered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub question: String,
    /// The question that stays in its stead.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instead: String,
}

/// A row of the funnel: what came into a stage, what went on, and what did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunnelRow {
    /// The stage.
    pub stage: String,
    /// What is counted.
    pub unit: String,
    /// Came in.
    pub incoming: u64,
    /// Went on.
    pub kept: u64,
    /// Did not, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Waits for people.
    #[serde(default)]
    pub waiting: u64,
}

impl FunnelRow {
    /// The row of a stage whose rejections are listed.
    pub(crate) fn of(stage: &str, unit: &str, kept: usize, rejected: &[Rejected]) -> Self {
        let mut reasons = BTreeMap::new();
        for one in rejected {
            *reasons.entry(one.reason.clone()).or_default() += 1;
        }
        Self {
            stage: stage.to_owned(),
            unit: unit.to_owned(),
            incoming: (kept + rejected.len()) as u64,
            kept: kept as u64,
            rejected: reasons,
            waiting: 0,
        }
    }

    /// The same with what waits for people, which came in too.
    pub(crate) fn waiting(mut self, waiting: usize) -> Self {
        self.waiting = waiting as u64;
        self.incoming += self.waiting;
        self
    }
}

/// What a stage gives.
pub(crate) struct Output<T> {
    /// Goes on.
    pub(crate) kept: Vec<T>,
    /// Does not.
    pub(crate) rejected: Vec<Rejected>,
    /// Its rows of the funnel.
    pub(crate) rows: Vec<FunnelRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    key: Digest,
    /// Of the file with what goes on, and that with what does not.
    files: [Digest; 2],
    rows: Vec<FunnelRow>,
}

/// An open working folder; nobody else works in it.
pub(crate) struct Work {
    dir: PathBuf,
    made: BTreeMap<String, Made>,
    _lock: RunLock,
}

impl Work {
    /// Opens the folder, or makes it.
    pub(crate) fn open(dir: &Path) -> Result<Self, EvalError> {
        let lock = RunLock::acquire(dir)?;
        let mut work = Self { dir: dir.to_owned(), made: BTreeMap::new(), _lock: lock };
        // A record that cannot be read only means that stages are made again.
        work.made = work.read_json(STAGES_FILE).unwrap_or_default();
        Ok(work)
    }

    /// A file or folder inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The result of a stage: read back if it is up to date, otherwise made by `make`.
    pub(crate) fn stage<T: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        key: Digest,
        make: impl FnOnce() -> Result<Output<T>, EvalError>,
    ) -> Result<Vec<T>, EvalError> {
        let paths = self.files_of(name);
        if let Some(made) = self.made.get(name).filter(|made| made.key == key) {
            let same = paths
                .iter()
                .zip(made.files)
                .all(|(path, expect)| hash_file(path).is_ok_and(|(digest, _)| digest == expect));
            if same {
                return read_lines(&paths[0]);
            }
        }
        let output = make()?;
        self.put(name, key, output)
    }

    /// Writes the result of a stage.
    pub(crate) fn put<T: Serialize>(
        &mut self,
        name: &str,
        key: Digest,
        output: Output<T>,
    ) -> Result<Vec<T>, EvalError> {
        let kept = to_lines(&output.kept);
        let rejected = to_lines(&output.rejected);
        let [kept_path, rejected_path] = self.files_of(name);
        write_file_atomic(&kept_path, &kept)?;
        write_file_atomic(&rejected_path, &rejected)?;
        let files = [hash_bytes(&kept), hash_bytes(&rejected)];
        self.made.insert(name.to_owned(), Made { key, files, rows: output.rows });
        self.write_json(STAGES_FILE, &self.made)?;
        Ok(output.kept)
    }

    fn files_of(&self, name: &str) -> [PathBuf; 2] {
        [self.path(&format!("{name}.jsonl")), self.path(&format!("{name}.rejected.jsonl"))]
    }

    /// Writes a JSON file of the folder.
    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), EvalError> {
        let mut bytes = serde_json::to_vec_pretty(value).expect("a record is plain data");
        bytes.push(b'\n');
        Ok(write_file_atomic(&self.path(name), &bytes)?)
    }

    /// Reads a JSON file of the folder; what cannot be read is as if it were not there.
    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()
    }

    /// Hash of what goes on from a stage, for the key of the next.
    pub(crate) fn hash_of(&self, name: &str) -> Digest {
        self.made.get(name).map_or(Digest([0; 32]), |made| made.files[0])
    }

    /// The stages so far.
    pub(crate) fn funnel(&self) -> Vec<FunnelRow> {
        self.made.values().flat_map(|made| made.rows.clone()).collect()
    }
}

/// The hash of a stage's configuration and inputs.
pub(crate) fn key(config: &impl Serialize, inputs: &[Digest]) -> Digest {
    let mut bytes = env!("CARGO_PKG_VERSION").as_bytes().to_vec();
    serde_json::to_writer(&mut bytes, config).expect("a configuration is plain data");
    for input in inputs {
        bytes.extend_from_slice(&input.0);
    }
    hash_bytes(&bytes)
}

/// Rows as JSONL.
pub(crate) fn to_lines(rows: &[impl Serialize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row).expect("a row is plain data");
        bytes.push(b'\n');
    }
    bytes
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, EvalError> {
    let failed = |source| EvalError::Read { path: path.to_owned(), source };
    let mut reader = LineReader::open(path, MAX_LINE_BYTES).map_err(failed)?;
    let mut rows = Vec::new();
    while let Some(line) = reader.next_line().map_err(failed)? {
        let Line::Whole(bytes) = line else {
            return Err(failed(std::io::Error::other("a line is longer than 4 MiB")));
        };
        let row =
            serde_json::from_slice(bytes).map_err(|error| failed(std::io::Error::other(error)))?;
        rows.push(row);
    }
    Ok(rows)
}

//! Task files of lm-evaluation-harness: the part of their YAML that needs no Python.
//!
//! A task says where its documents lie, how they become prompts (Jinja), and which metrics count. A
//! key that this program cannot honour (a Python function, images) is refused by name, never passed
//! over. `include` is followed. It opens no documents and knows no model.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use milpa_base::{Digest, hash_bytes};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    error::EvalError,
    task::{Filter, TaskSpec},
};

/// Longest task file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Deepest chain of includes.
const MAX_INCLUDES: usize = 16;

/// The keys of a task file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Name of the task.
    pub task: String,
    /// How the model is asked.
    #[serde(default)]
    pub output_type: OutputType,
    /// `json` for files named in `dataset_kwargs`; else the name of a data set on a hub.
    pub dataset_path: Option<String>,
    /// A part of a data set.
    pub dataset_name: Option<String>,
    /// `data_files`.
    #[serde(default)]
    pub dataset_kwargs: Option<DatasetKwargs>,
    /// Split to train on; few-shot examples come from it by default.
    pub training_split: Option<String>,
    /// Split to validate on.
    pub validation_split: Option<String>,
    /// Split to test on.
    pub test_split: Option<String>,
    /// Split of the few-shot examples.
    pub fewshot_split: Option<String>,
    /// How examples are picked.
    #[serde(default)]
    pub fewshot_config: FewShotConfig,
    /// Text before everything.
    #[serde(default)]
    pub description: String,
    /// Prompt of a document: a field or a template.
    #[serde(default)]
    pub doc_to_text: Value,
    /// Its answer.
    #[serde(default)]
    pub doc_to_target: Value,
    /// Its choices.
    #[serde(default)]
    pub doc_to_choice: Value,
    /// Between prompt and answer.
    #[serde(default = "one_space")]
    pub target_delimiter: String,
    /// Between examples.
    #[serde(default = "blank_line")]
    pub fewshot_delimiter: String,
    /// Number of examples.
    #[serde(default)]
    pub num_fewshot: Option<usize>,
    /// The beginning of the answer, given with the prompt.
    pub gen_prefix: Option<String>,
    /// Metrics with their options.
    pub metric_list: Option<Vec<Map<String, Value>>>,
    /// Where generation ends and how it draws.
    pub generation_kwargs: Option<Map<String, Value>>,
    /// Pipelines of filters.
    pub filter_list: Option<Vec<FilterList>>,
    /// Answers drawn for each document where the model writes them; of another kind of request there
    /// is but one answer.
    pub repeats: Option<u64>,
    /// `version` and what else the author notes.
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
    // What follows changes no score; it is accepted so that a file can be read as it is.
    #[serde(default, rename = "task_alias")]
    _task_alias: Option<String>,
    #[serde(default, rename = "tag")]
    _tag: Value,
    #[serde(default, rename = "group")]
    _group: Value,
    #[serde(default, rename = "should_decontaminate")]
    _should_decontaminate: Option<bool>,
    #[serde(default, rename = "doc_to_decontamination_query")]
    _doc_to_decontamination_query: Option<String>,
}

fn one_space() -> String {
    " ".to_owned()
}

fn blank_line() -> String {
    "\n\n".to_owned()
}

/// How the model is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputType {
    /// The probability of an answer.
    Loglikelihood,
    /// The probability of a whole text.
    LoglikelihoodRolling,
    /// The probabilities of choices.
    MultipleChoice,
    /// A text of the model's own.
    #[default]
    GenerateUntil,
}

/// Where the documents lie.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetKwargs {
    /// One file, several, or files by split.
    #[serde(default)]
    pub data_files: Value,
    #[serde(default, rename = "trust_remote_code")]
    _trust_remote_code: Option<bool>,
}

/// How examples are picked and written; what is not said is as for the question.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewShotConfig {
    /// `default` draws, `first_n` takes the first.
    pub sampler: Option<String>,
    /// Split of the examples.
    pub split: Option<String>,
    /// The examples themselves.
    pub samples: Option<Vec<Map<String, Value>>>,
    /// Only these documents are drawn from.
    pub fewshot_indices: Option<Vec<usize>>,
    /// Prompt of an example.
    pub doc_to_text: Option<Value>,
    /// Its answer.
    pub doc_to_target: Option<Value>,
    /// Its choices.
    pub doc_to_choice: Option<Value>,
    /// The beginning of its answer.
    pub gen_prefix: Option<String>,
    /// Between examples.
    pub fewshot_delimiter: Option<String>,
    /// Between prompt and answer.
    pub target_delimiter: Option<String>,
}

/// A pipeline of filters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterList {
    /// Its name.
    pub name: String,
    /// Its steps; `function` names each, the rest are its options.
    pub filter: Vec<Map<String, Value>>,
}

/// A task file that was read, with what it was read from.
#[derive(Debug, Clone)]
pub struct LoadedTask {
    /// Its keys.
    pub file: TaskFile,
    /// Where it lies.
    pub path: PathBuf,
    /// BLAKE3 of its keys after includes.
    pub hash: Digest,
    /// Which documents are used and what they share; a YAML file says nothing of it.
    pub rules: DocumentRules,
}

/// What a task of this project says of its documents beyond a YAML file.
#[derive(Debug, Clone, Default)]
pub struct DocumentRules {
    /// Each document must pass every filter.
    pub filters: Vec<Filter>,
    /// Fields by whose values scores are broken down.
    pub group_by: Vec<String>,
    /// Field that names what several documents share.
    pub cluster_by: Option<String>,
}

/// Most answers drawn for a document.
const MAX_REPEATS: u64 = 1024;
/// The one split of a task whose documents lie in one file.
const ONE_SPLIT: &str = "test";

impl TaskFile {
    /// Answers drawn for each document.
    pub fn samples(&self) -> usize {
        match self.output_type {
            OutputType::GenerateUntil => self.repeats.unwrap_or(1) as usize,
            _ => 1,
        }
    }
}

impl LoadedTask {
    /// Reads a task file and what it includes.
    ///
    /// # Errors
    /// A file that cannot be read, is no YAML, or asks for what this program does not do.
    pub fn load(path: &Path) -> Result<Self, EvalError> {
        let keys = read_keys(path, 0)?;
        let bad = |message: String| bad_task(path, message);
        refuse_foreign(&keys).map_err(bad)?;
        Self::of_keys(keys, path, DocumentRules::default())
    }

    /// The task that the table `[harness]` of a task file says; `path` is named in errors.
    ///
    /// # Errors
    /// Keys that are unknown, wrong, or said elsewhere in the file.
    pub fn from_spec(spec: &TaskSpec, path: &Path) -> Result<Self, EvalError> {
        let bad = |message: String| bad_task(path, message);
        let mut keys = spec.harness.clone().unwrap_or_default();
        let elsewhere =
            ["task", "dataset_path", "dataset_kwargs", "dataset_name", "metadata", "include"];
        if let Some(key) = elsewhere.iter().find(|key| keys.contains_key(**key)) {
            return Err(bad(format!(
                "{key} does not belong into [harness]; the file's own keys say it"
            )));
        }
        refuse_foreign(&keys).map_err(bad)?;
        keys.insert("task".to_owned(), spec.name.clone().into());
        keys.insert("metadata".to_owned(), serde_json::json!({"version": spec.version}));
        keys.entry("test_split").or_insert_with(|| ONE_SPLIT.into());
        let rules = DocumentRules {
            filters: spec.filters.clone(),
            group_by: spec.group_by.clone(),
            cluster_by: spec.cluster_by.clone(),
        };
        Self::of_keys(keys, path, rules)
    }

    fn of_keys(
        keys: Map<String, Value>,
        path: &Path,
        rules: DocumentRules,
    ) -> Result<Self, EvalError> {
        let bad = |message: String| bad_task(path, message);
        let hash = hash_bytes(Value::Object(keys.clone()).to_string().as_bytes());
        let file: TaskFile =
            serde_json::from_value(Value::Object(keys)).map_err(|error| bad(error.to_string()))?;
        if let Some(repeats) = file.repeats.filter(|repeats| !(1..=MAX_REPEATS).contains(repeats)) {
            return Err(bad(format!("repeats is {repeats}; from 1 to {MAX_REPEATS} is possible")));
        }
        Ok(Self { file, path: path.to_owned(), hash, rules })
    }

    /// Version of the task; 0 if it has none.
    pub fn version(&self) -> f64 {
        let metadata = self.file.metadata.as_ref();
        metadata.and_then(|metadata| metadata.get("version")).and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// Files of each split. A file is looked for in `folder` if one is given, and beside the task
    /// file otherwise.
    ///
    /// # Errors
    /// A task whose documents are on a hub, or that names no files.
    pub fn data_files(
        &self,
        folder: Option<&Path>,
    ) -> Result<BTreeMap<String, Vec<PathBuf>>, EvalError> {
        let bad = |message: &str| bad_task(&self.path, message.to_owned());
        let kwargs = self.file.dataset_kwargs.clone().unwrap_or_default();
        if self.file.dataset_path.as_deref() != Some("json") || kwargs.data_files.is_null() {
            return Err(bad(
                "its documents are on a hub; download them as JSONL and give the file with --data, or \
                 write `dataset_path: json` and `dataset_kwargs: {data_files: {test: FILE}}`",
            ));
        }
        let list = |value: &Value| match value {
            Value::String(file) => Some(vec![self.beside(file, folder)]),
            Value::Array(files) => files
                .iter()
                .map(|file| file.as_str().map(|file| self.beside(file, folder)))
                .collect(),
            _ => None,
        };
        let wrong = || bad("data_files is a file, a list of files, or those by split");
        match &kwargs.data_files {
            Value::Object(splits) => splits
                .iter()
                .map(|(split, files)| Ok((split.clone(), list(files).ok_or_else(wrong)?)))
                .collect(),
            files => Ok([("train".to_owned(), list(files).ok_or_else(wrong)?)].into()),
        }
    }

    fn beside(&self, file: &str, folder: Option<&Path>) -> PathBuf {
        if let Some(folder) = folder {
            return folder.join(file);
        }
        let beside = self.path.parent().unwrap_or(Path::new("")).join(file);
        if beside.exists() { beside } else { PathBuf::from(file) }
    }
}

pub(crate) fn bad_task(path: &Path, message: String) -> EvalError {
    EvalError::BadTask { path: path.to_owned(), message }
}

/// The keys of a file over those of the file that it includes.
fn read_keys(path: &Path, depth: usize) -> Result<Map<String, Value>, EvalError> {
    let bad = |message: String| bad_task(path, message);
    if depth > MAX_INCLUDES {
        return Err(bad(format!("more than {MAX_INCLUDES} files include each other")));
    }
    let read_error = |error: std::io::Error| bad(format!("it cannot be read: {error}"));
    let length = fs::metadata(path).map_err(read_error)?.len();
    if length > MAX_FILE_BYTES {
        return Err(bad(format!("it has {length} bytes, more than a task file")));
    }
    let text = fs::read_to_string(path).map_err(read_error)?;
    if let Some((line, function)) = python_function(&text) {
        return Err(bad(format!(
            "line {line} asks for the Python function {function}; write the prompt as a template and \
             the answer as a field, or prepare the documents so that no function is needed"
        )));
    }
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let Value::Object(mut keys) = value else {
        return Err(bad("it is no mapping of keys".to_owned()));
    };
    match keys.remove("include") {
        None => Ok(keys),
        Some(Value::String(file)) => {
            let included = path.parent().unwrap_or(Path::new("")).join(file);
            let mut under = read_keys(&included, depth + 1)?;
            under.extend(keys);
            Ok(under)
        }
        Some(_) => Err(bad("include names one file".to_owned())),
    }
}

/// The first value with the tag `!function`, and its line.
fn python_function(text: &str) -> Option<(usize, &str)> {
    text.lines().enumerate().find_map(|(index, line)| {
        let code = line.split(" #").next().unwrap_or(line);
        let (before, name) = code.split_once("!function")?;
        let value = before.trim_end().ends_with([':', '-', '[', ',']);
        value.then(|| (index + 1, name.trim()))
    })
}

/// Keys whose meaning this program cannot honour.
const FOREIGN: [(&str, &str); 9] = [
    ("process_docs", "documents are used as they are; prepare them beforehand"),
    ("process_results", "scores come from metric_list"),
    ("use_prompt", "promptsource is not read; write doc_to_text"),
    ("custom_dataset", "documents are read from files"),
    ("doc_to_image", "images are not supported"),
    ("doc_to_audio", "sound is not supported"),
    ("unsafe_code", "code of a task is not run"),
    ("class", "a task written in Python cannot be read"),
    ("aggregate_metric_list", "a group of tasks is not a task; give its tasks one by one"),
];

fn refuse_foreign(keys: &Map<String, Value>) -> Result<(), String> {
    let is_set =
        |key: &str| !matches!(keys.get(key), None | Some(Value::Null | Value::Bool(false)));
    match FOREIGN.iter().find(|(key, _)| is_set(key)) {
        Some((key, why)) => Err(format!("{key} is not supported: {why}")),
        None if keys.get("task").is_some_and(Value::is_array) => {
            Err("it is a group of tasks; give its tasks one by one".to_owned())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<LoadedTask, EvalError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        LoadedTask::load(&dir.path().join(files[0].0))
    }

    fn check(text: &str, part: &str) {
        let error = load(&[("task.yaml", text)]).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in {error}");
    }

    #[test]
    fn a_task_is_read_over_what_it_includes() {
        let loaded = load(&[
            (
                "task.yaml",
                "include: base.yml\ntask: sumas\nnum_fewshot: 2\ntag:\n  - es\n\
                 metric_list:\n  - metric: exact_match\n    ignore_case: true\n",
            ),
            (
                "base.yml",
                "dataset_path: json\ndataset_kwargs:\n  data_files: {test: d.jsonl}\n\
                 doc_to_text: \"{{question}}\\nR:\"\ndoc_to_target: answer\nnum_fewshot: 5\n\
                 test_split: test\nmetadata:\n  version: 1.5\n",
            ),
        ])
        .unwrap();
        let file = &loaded.file;
        assert_eq!((file.task.as_str(), file.num_fewshot), ("sumas", Some(2)));
        assert_eq!(file.output_type, OutputType::GenerateUntil);
        assert_eq!(file.doc_to_text, "{{question}}\nR:");
        assert!((loaded.version() - 1.5).abs() < 1e-12);
        assert!(loaded.data_files(None).unwrap()["test"][0].ends_with("d.jsonl"));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        check("task: a\nprocess_docs: !function utils.docs\n", "line 2");
        check("task: a\ndoc_to_image: img\n", "images are not supported");
        check("task: a\ndoc_to_txt: q\n", "doc_to_txt");
        check("task: [a, b]\n", "group of tasks");
        check("task: a\nrepeats: 0\n", "repeats is 0; from 1 to");
        check("task: a\nrepeats: 1000000000\n", "repeats is 1000000000");
        check("- a\n", "no mapping");
        check("task: [\n", "task.yaml");
        check("include: task.yaml\ntask: a\n", "include each other");
        // The tag inside a text is no tag.
        assert!(load(&[("t.yaml", "task: a\ndoc_to_text: say !function\n")]).is_ok());
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "task: a\nx0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for i in 1..12 {
            let parts = vec![format!("*x{}", i - 1); 10].join(", ");
            text += &format!("x{i}: &x{i} [{parts}]\n");
        }
        check(&text, "task.yaml");
    }
}

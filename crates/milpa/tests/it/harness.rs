//! A tiny recipe with its text, and the binary run on it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// A folder with a recipe whose whole run takes a second or two.
pub(crate) struct Field {
    root: tempfile::TempDir,
}

/// What a command did.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Field {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let field = Self { root };
        field.write("texts.jsonl", texts(24).as_bytes());
        field.write("recipe.toml", RECIPE.as_bytes());
        field
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces text in the recipe.
    pub(crate) fn edit_recipe(&self, from: &str, to: &str) {
        let recipe = self.read("recipe.toml");
        assert!(recipe.contains(from), "{from:?} is not in the recipe");
        self.write("recipe.toml", recipe.replace(from, to).as_bytes());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_milpa"));
        command
            .args(arguments)
            .current_dir(self.root.path())
            .env_remove("MILPA_DATA")
            // For the paths of a recipe.
            .env("TEXTS", ".")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn milpa(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&self.command(arguments).output().unwrap())
    }

    /// The same with variables that recipes name.
    pub(crate) fn milpa_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Outcome {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        Outcome::of(&command.output().unwrap())
    }

    /// Runs a command that has to succeed; returns its stdout.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.milpa(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
        outcome.stdout
    }

    /// Starts a command whose stderr goes elsewhere.
    pub(crate) fn start_saying_to(&self, stderr: impl Into<Stdio>, arguments: &[&str]) -> Child {
        self.command(arguments).stderr(stderr).spawn().unwrap()
    }

    /// Starts a command.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// Content of all files of the artifacts in a run folder, by path; logs, metrics, plots and
    /// reports hold times and are left out.
    pub(crate) fn artifacts(&self, run: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let root = self.path(run);
        for part in
            ["corpus", "tokenizer", "tokens", "train/checkpoint", "train/checkpoints", "bundle"]
        {
            collect(&root.join(part), &root, &mut files);
        }
        assert!(files.len() > 12, "only {} files in {run}", files.len());
        files
    }
}

impl Outcome {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code and parts of what was said; a panic is never right.
    pub(crate) fn expect(&self, code: i32, parts: &[&str]) {
        assert!(!self.stderr.contains("milpa has a bug"), "{}", self.stderr);
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in:\n{}", self.stderr);
        }
    }
}

fn collect(dir: &Path, root: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, root, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

/// Asserts that two runs left the same bytes.
pub(crate) fn assert_same(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(a), names(b));
    for (name, bytes) in a {
        assert!(b[name] == *bytes, "{name} differs");
    }
}

/// Lines of JSON with simple Spanish texts that all differ.
pub(crate) fn texts(count: usize) -> String {
    let subjects = ["El maíz", "La papa", "El frijol", "La calabaza", "El ají", "La quinua"];
    let places = ["en la sierra", "en la costa", "en el valle", "junto al río", "en la selva"];
    let verbs = ["crece", "madura", "se siembra", "se cosecha", "se guarda", "se comparte"];
    let mut lines = String::new();
    for document in 0..count {
        let mut text = String::new();
        for sentence in 0..14 {
            let pick = |words: &[&'static str], salt: usize| {
                words[(document * 7 + sentence * (salt + 3) + document * sentence) % words.len()]
            };
            text += &format!(
                "{} {} {} cuando llega el mes número {} del año {}. ",
                pick(&subjects, 1),
                pick(&verbs, 2),
                pick(&places, 3),
                (document * 5 + sentence) % 12 + 1,
                1800 + document * 14 + sentence,
            );
        }
        let line = serde_json::json!({"id": format!("texto/{document}"), "text": text.trim()});
        lines += &format!("{line}\n");
    }
    lines
}

const RECIPE: &str = r#"
name = "huerta"
seed = 3

[corpus]
validation = { share = 0.1 }
dedup = { near = { enabled = false } }

[[corpus.sources]]
name = "textos"
path = "texts.jsonl"
id_field = "id"
language = "spa"
licence = "CC0-1.0"
filters = "none"

[tokenizer]
vocab_size = 320

[model]
hidden_size = 32
layers = 2
heads = 4
kv_heads = 2
ffn_size = 64
context_length = 64

[train]
steps = "12 steps"
sequence_length = 32
batch_size = 4
checkpoint_every = "4 steps"
validate_every = "6 steps"
validation_sequences = 2
schedule = { kind = "cosine", warmup = "2 steps" }
optimizer = { kind = "muon", learning_rate = 0.02, embedding_learning_rate = 0.01 }

[eval]
bootstrap_replicates = 100
perplexity = { max_bytes_per_source = "4 KiB" }
samples = { prompts = ["El maíz"], max_tokens = 8 }

[package]
licence = "CC0-1.0"
measure = { max_bytes = "1 KiB" }
"#;

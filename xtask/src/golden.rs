//! Golden values and checks: runs every script of `reference/` that holds Milpa against its peers,
//! and prints a table of what each of them compared.
//!
//! The peers live in one Python environment, whose packages `reference/requirements.txt` fixes. A
//! script that makes golden values must leave the committed files as they are; a script that checks
//! must end well. All of them run, whatever fails before.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{root, run};

const REQUIREMENTS: &str = "reference/requirements.txt";
/// Its wheel has chat templates; the one of the requirements is older and has value heads.
const TEMPLATES: &str = "trl==1.16.0";
/// Packages whose versions stand above the table.
const PEERS: [&str; 11] = [
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "tokenizers",
    "sentencepiece",
    "gguf",
    "llama-cpp-python",
    "jinja2",
    "lm_eval",
];

const FILTERS: &str = "crates/milpa-corpus/tests/it/golden/filters.json";
const PERSONAL: &str = "crates/milpa-text/tests/it/golden/personal.json";
const SCHEDULES: &str = "crates/milpa-train/tests/it/golden/schedules.json";
const OPTIMIZERS: &str = "crates/milpa-train/tests/it/golden/optimizers.json";
const TOKENS: &str = "crates/milpa-tokens/tests/it/golden";
const LM_EVAL: &str = "crates/milpa-eval/tests/it/golden/lm_eval";
const TASK_PROMPTS: &str = "crates/milpa-eval/tests/it/golden/tasks/prompts.json";
const MATH_VERIFY: &str = "crates/milpa-eval/tests/it/golden/math_verify.jsonl";

/// Makes the golden values again, fails if they differ from the committed ones, and runs all checks.
/// `python` has the peers; without it they are installed under `target`.
pub(crate) fn golden(python: Option<&str>) -> Result<()> {
    let mut session = Session::new(python)?;
    session.make("quantised_golden.py", &[], &[&of("kernels", "quantised.txt")]);
    let made = [of("tensor", "operations.*"), of("model", "decoder_*")];
    session.make("engine_golden.py", &[], &made.each_ref().map(String::as_str));
    session.make("variants_golden.py", &[], &[&of("tensor", "variants.*")]);
    session.make("engine_curve.py", &[], &[&of("model", "curve.json")]);
    session.make("sampling_golden.py", &[], &[&of("model", "sampling.json")]);
    session.make("schedules_golden.py", &[], &[SCHEDULES]);
    session.make("optimizers_golden.py", &[], &[OPTIMIZERS]);
    session.make("lora_golden.py", &[], &[&of("model", "lora.*")]);
    session.make("heads_golden.py", &[], &[&of("model", "heads.*")]);
    session.make("merge_golden.py", &[], &[&of("model", "merge.*")]);
    session.make("model_families.py", &["golden"], &[&of("model", "families.*")]);
    session.make("filters_check.py", &["golden", FILTERS], &[FILTERS]);
    session.make("personal_golden.py", &[PERSONAL], &[PERSONAL]);
    session.make("scaling_golden.py", &[], &[&of("plan", "scaling.json")]);
    session.make("chat_golden.py", &["golden", TOKENS], &[&format!("{TOKENS}/chat_cases.json")]);
    session.make_bert_classes();
    session.make("lm_eval_golden.py", &["golden", LM_EVAL], &[&format!("{LM_EVAL}/expected.json")]);
    session.make("task_prompts_golden.py", &["golden", TASK_PROMPTS], &[TASK_PROMPTS]);
    session.make("verifiers_golden.py", &["golden", MATH_VERIFY], &[MATH_VERIFY]);
    let data = std::env::var("MILPA_DATA").ok();
    match &data {
        Some(data) => {
            let made = [format!("{TOKENS}/ids.json"), format!("{TOKENS}/chat_templates.json")];
            let made = made.each_ref().map(String::as_str);
            session.make("tokenizer_golden.py", &[data, TOKENS], &made);
            let made = format!("{TOKENS}/pieces.json");
            session.make("pieces_golden.py", &["golden", data, TOKENS], &[&made]);
            session.check_tokens(data);
        }
        None => {
            for script in [
                "tokenizer_golden.py",
                "pieces_golden.py",
                "tokenizer_check.py",
                "tokenizer_train.py",
                "chat_golden.py check",
                "extension_check.py",
            ] {
                session.skip(script, "MILPA_DATA is not set");
            }
        }
    }
    session.check_models();
    session.check_gguf();
    session.check_lm_eval(data.as_deref(), &[]);
    session.check_watch();
    session.finish()
}

/// Holds `milpa eval run` against lm-evaluation-harness with a random model and those given as
/// `--model DIR`; `--python PATH` has the peer.
pub(crate) fn lm_eval(arguments: &[&str]) -> Result<()> {
    let (mut python, mut models) = (None, Vec::new());
    for pair in arguments.chunks(2) {
        match pair {
            ["--python", path] => python = Some(*path),
            ["--model", path] => models.push(*path),
            _ => bail!("golden lm-eval --check takes --python PATH and --model DIR, not {pair:?}"),
        }
    }
    let mut session = Session::new(python)?;
    session.check_lm_eval(std::env::var("MILPA_DATA").ok().as_deref(), &models);
    session.finish()
}

/// Golden files of a crate.
fn of(name: &str, file: &str) -> String {
    format!("crates/milpa-{name}/tests/golden/{file}")
}

/// Holds GGUF files against llama.cpp, in both directions.
pub(crate) fn gguf(python: Option<&str>) -> Result<()> {
    let mut session = Session::new(python)?;
    session.check_gguf();
    session.finish()
}

/// A line of the table.
struct Row {
    script: String,
    compared: String,
    result: String,
    minutes: f64,
}

/// The environment, and what has been done in it.
struct Session {
    python: String,
    rows: Vec<Row>,
}

impl Session {
    fn new(python: Option<&str>) -> Result<Self> {
        let python = python.map_or_else(install, |python| Ok(python.to_owned()))?;
        Ok(Self { python, rows: Vec::new() })
    }

    /// Runs a step and keeps what it says of itself.
    fn step(&mut self, script: &str, work: impl FnOnce(&Self) -> Result<String>) {
        let start = Instant::now();
        let (compared, result) = match work(self) {
            Ok(compared) => (compared, "equal".to_owned()),
            Err(error) => {
                eprintln!("error: {script}: {error:#}");
                (error.to_string(), "FAILED".to_owned())
            }
        };
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        self.rows.push(Row { script: script.to_owned(), compared, result, minutes });
    }

    fn skip(&mut self, script: &str, why: &str) {
        let (compared, result) = (why.to_owned(), "skipped".to_owned());
        self.rows.push(Row { script: script.to_owned(), compared, result, minutes: 0.0 });
    }

    /// A script that writes the golden files `made`.
    fn make(&mut self, script: &str, arguments: &[&str], made: &[&str]) {
        let name = match arguments {
            ["golden", ..] => format!("{script} golden"),
            _ => script.to_owned(),
        };
        self.step(&name, |session| {
            let said = session.script(script, arguments)?;
            Ok(format!("{said}; {}", session.script("golden_difference.py", made)?))
        });
    }

    /// The classes of characters are printed instead of written.
    fn make_bert_classes(&mut self) {
        self.step("bert_classes.py", |session| {
            let path = "crates/milpa-tokens/src/bert_classes.rs";
            let mut command = session.command("bert_classes.py", &[]);
            let output = command.stderr(Stdio::inherit()).output()?;
            ensure!(output.status.success(), "bert_classes.py: {}", output.status);
            std::fs::write(root().join(path), &output.stdout)?;
            let same = session.script("golden_difference.py", &[path])?;
            Ok(format!("every character's class; {same}"))
        });
    }

    /// Checks of tokenizers and chat templates on the texts of `data`.
    fn check_tokens(&mut self, data: &str) {
        let example =
            ["build", "--release", "--quiet", "-p", "milpa-tokens", "--example", "tokens"];
        let program = target("release/examples/tokens");
        let program = program.as_str();
        self.step("pieces_golden.py check", |session| {
            cargo(&example)?;
            session.script("pieces_golden.py", &["check", data, program])
        });
        for (tokenizer, texts) in [
            ("gpt2", "indigenous"),
            ("olmo/allenai_dolma2.json", "es_law_peru"),
            ("olmo/allenai_eleuther-ai-gpt-neox-20b-pii-special.json", "pt_br_news_sentences"),
        ] {
            self.step(&format!("tokenizer_check.py {tokenizer}"), |session| {
                let tokenizer = format!("{data}/tokenizers/{tokenizer}");
                let texts = format!("{data}/text/{texts}.jsonl.zst");
                session.script("tokenizer_check.py", &[program, &tokenizer, &texts])
            });
        }
        self.step("tokenizer_train.py", |session| {
            let texts = format!("{data}/text/es_law_peru.jsonl.zst");
            session.script("tokenizer_train.py", &[program, "8000", &texts])
        });
        self.step("chat_golden.py check", |session| {
            let published = format!("{data}/tokenizers/chat_templates");
            let of_trl = session.templates_of_trl()?;
            session.script("chat_golden.py", &["check", program, data, &published, &of_trl])
        });
        self.step("extension_check.py", |session| {
            let folder = &target("extension_check");
            session.script("extension_check.py", &["make", folder, data])?;
            model_example("extension_check", &[folder])?;
            session.script("extension_check.py", &["check", folder])
        });
    }

    /// Checks of models that are exported and read.
    fn check_models(&mut self) {
        self.step("model_export_check.py", |session| {
            let folder = &target("export_check");
            model_example("export_check", &[folder])?;
            session.script("model_export_check.py", &[folder])
        });
        self.step("model_families.py check", |session| {
            let folder = &target("families_check");
            session.script("model_families.py", &["make", folder])?;
            model_example("families_check", &[folder])?;
            session.script("model_families.py", &["check", folder])
        });
        self.step("heads_golden.py check", |session| {
            let folder = &target("heads_check");
            let test = ["test", "--quiet", "-p", "milpa-model", "--test", "it", "heads"];
            let mut command = Command::new(env!("CARGO"));
            run(command.args(test).env("MILPA_HEADS", folder).stdout(std::io::stderr()))?;
            session.script("heads_golden.py", &["check", folder])
        });
    }

    fn check_gguf(&mut self) {
        self.step("gguf_check.py", |session| {
            let folder = &target("gguf_check");
            model_example("gguf_check", &["write", folder])?;
            session.script("gguf_check.py", &["quantise", folder])?;
            model_example("gguf_check", &["read", folder])?;
            session.script("gguf_check.py", &["check", folder])
        });
    }

    fn check_lm_eval(&mut self, data: Option<&str>, models: &[&str]) {
        let program = target("release/milpa");
        self.step("lm_eval_golden.py check", |session| {
            cargo(&["build", "--release", "--quiet", "-p", "milpa"])?;
            let mut arguments = vec!["check", &program, LM_EVAL];
            arguments.extend(data.iter().flat_map(|data| ["--data", data]));
            arguments.extend(models.iter().flat_map(|model| ["--model", *model]));
            session.script("lm_eval_golden.py", &arguments)
        });
        self.step("lm_eval_golden.py cold", |session| {
            session.script("lm_eval_golden.py", &["cold", &program])
        });
    }

    /// Checks of what shows a training while it runs.
    fn check_watch(&mut self) {
        self.step("watch_check.py", |session| {
            cargo(&["build", "--release", "--quiet", "-p", "milpa"])?;
            session.script("watch_check.py", &[&target("release/milpa")])
        });
    }

    /// The templates of trl's wheel, which is unpacked beside the environment.
    fn templates_of_trl(&self) -> Result<String> {
        let folder = target("golden-templates");
        let templates = format!("{folder}/trl/chat_templates");
        if !Path::new(&templates).exists() {
            run(Command::new(&self.python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .args(["--no-deps", "--target", &folder, TEMPLATES]))?;
        }
        Ok(templates)
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(format!("reference/{script}")).args(arguments).current_dir(root());
        // Nothing is fetched, and threads do not fork.
        command.env("HF_HUB_OFFLINE", "1").env("TOKENIZERS_PARALLELISM", "false");
        command
    }

    /// Runs a script, shows what it prints, and returns the last line.
    fn script(&self, script: &str, arguments: &[&str]) -> Result<String> {
        eprintln!("$ {} reference/{script} {}", self.python, arguments.join(" "));
        let mut child = self
            .command(script, arguments)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.python))?;
        let mut last = String::new();
        for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
            let line = line?;
            eprintln!("{line}");
            if !line.trim().is_empty() {
                last = line;
            }
        }
        let status = child.wait()?;
        ensure!(status.success(), "{status}; its last line: {last}");
        Ok(last)
    }

    /// Prints versions and table; fails if a row did.
    fn finish(self) -> Result<()> {
        let versions = "import importlib.metadata as m, sys\n\
                        print('Python', sys.version.split()[0], *(p + ' ' + m.version(p) for p in sys.argv[1:]))";
        let output = Command::new(&self.python).args(["-c", versions]).args(PEERS).output()?;
        println!("{}", String::from_utf8_lossy(&output.stdout).trim());
        let width = self.rows.iter().map(|row| row.script.len()).max().unwrap_or(0);
        println!("{:<width$}  {:<7} {:>7}  compared", "script", "result", "minutes");
        for Row { script, compared, result, minutes } in &self.rows {
            println!("{script:<width$}  {result:<7} {minutes:>7.1}  {compared}");
        }
        let failed = self.rows.iter().filter(|row| row.result == "FAILED").count();
        if failed > 0 {
            bail!("{failed} of {} scripts failed", self.rows.len());
        }
        Ok(())
    }
}

/// Installs the peers in an environment of their own and returns its Python.
fn install() -> Result<String> {
    let environment = PathBuf::from(target("golden-peers"));
    let python = environment.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["-r", REQUIREMENTS]))?;
    Ok(python.to_string_lossy().into_owned())
}

/// A folder for what a chore makes.
fn target(name: &str) -> String {
    root().join("target").join(name).to_string_lossy().into_owned()
}

/// Runs an example of `milpa-model`.
fn model_example(name: &str, rest: &[&str]) -> Result<()> {
    let arguments = ["run", "--release", "--quiet", "-p", "milpa-model", "--example", name, "--"];
    cargo(&[&arguments[..], rest].concat())
}

/// Runs cargo with what it prints beside the table, not in it.
fn cargo(arguments: &[&str]) -> Result<()> {
    run(Command::new(env!("CARGO")).args(arguments).stdout(std::io::stderr()))
}

//! `milpa run`: which stages are out of date, and the bringing up to date.
//!
//! A stage's key is the hash of its configuration and of its inputs' contents. The run folder
//! remembers, for each stage, the key and the identity of the artifact that was made; a stage is up
//! to date if both still hold and every file has its hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};
use milpa_base::{
    Digest, Kind, RunLock, artifact::Record, hash_bytes, hash_file, manifest::Verify,
    open_artifact, write_file_atomic,
};
use milpa_tokens::Tokenizer;
use milpa_train::BaseModel;
use serde::{Deserialize, Serialize};

use crate::{
    Refused,
    commands::{
        corpus, eval,
        model::OpenedModel,
        package, tokens,
        train::{self, Conditions},
    },
    context::{Context, quote},
    ledger::{Meter, TrainingFolder},
    progress::short,
    recipe::{Loaded, Origin, Recipe},
    report, watch,
};

/// File in the run folder that remembers keys and artifacts.
const STAMPS_FILE: &str = "stages.toml";
/// The recipe as it was used, with every default written out.
pub const RESOLVED_FILE: &str = "recipe.resolved.toml";

/// What the run folder remembers of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// Hash of configuration and inputs.
    pub key: Digest,
    /// Identity of the artifact.
    pub artifact: Digest,
    /// The command that makes it.
    pub command: String,
    /// Seconds it took.
    pub seconds: f64,
}

/// The artifacts of a run.
#[derive(Debug, Clone)]
pub struct Folders {
    /// The run folder.
    pub root: PathBuf,
}

impl Folders {
    /// How fast each stage of building the corpus was.
    pub fn corpus_stages(&self) -> PathBuf {
        self.root.join("corpus-stages.json")
    }

    /// The corpus.
    pub fn corpus(&self) -> PathBuf {
        self.root.join("corpus")
    }
    /// The tokenizer.
    pub fn tokenizer(&self) -> PathBuf {
        self.root.join("tokenizer")
    }
    /// The token shards.
    pub fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }
    /// Checkpoints, metrics and plots of training.
    pub fn train(&self) -> PathBuf {
        self.root.join("train")
    }
    /// The final checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.train().join(milpa_train::FINAL_CHECKPOINT)
    }

    /// The checkpoint that is measured and packaged: that which `[train.forgetting]` chose, or the final
    /// one.
    pub fn model(&self, recipe: &Recipe) -> PathBuf {
        if recipe.train.forgetting.is_some() {
            self.train().join(milpa_train::CHOSEN_CHECKPOINT)
        } else {
            self.checkpoint()
        }
    }
    /// The evaluation report.
    pub fn evaluation(&self) -> PathBuf {
        self.root.join("evaluation")
    }
    /// The bundle.
    pub fn bundle(&self) -> PathBuf {
        self.root.join("bundle")
    }
    /// The report for people.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }
}

/// Where a recipe's run lies if nobody says so.
pub fn default_folder(recipe: &Loaded) -> PathBuf {
    Path::new("runs").join(&recipe.recipe.name)
}

/// Reads what a run folder remembers; empty where nothing is.
pub fn read_stamps(root: &Path) -> BTreeMap<String, Stamp> {
    // A damaged file only means that stages are made again.
    std::fs::read_to_string(root.join(STAMPS_FILE))
        .ok()
        .and_then(|text| toml::from_str(&text).ok())
        .unwrap_or_default()
}

/// Names of the variables in the text of a recipe.
pub fn variables(text: &str) -> BTreeSet<&str> {
    let named = text.split("${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    named.filter(|name| !name.is_empty() && name.chars().all(plain)).collect()
}

/// What these variables hold, as it stands before a command in a shell.
fn assignments(names: &BTreeSet<&str>) -> String {
    let set = names.iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
    set.map(|(name, value)| format!("{name}={} ", quote(&value))).collect::<Vec<_>>().concat()
}

struct Runner<'a> {
    context: &'a Context,
    recipe: &'a Loaded,
    /// The variables that the recipe's paths need, before each command.
    variables: String,
    folders: Folders,
    stamps: BTreeMap<String, Stamp>,
    conditions: &'a Conditions,
    rebuilt: usize,
}

/// Brings all stages up to date, writes the report and shows the results.
pub fn run_and_report(
    context: &Context,
    recipe: &Loaded,
    out: &Path,
    conditions: &Conditions,
) -> Result<()> {
    let folders = run(context, recipe, out, conditions)?;
    let report = eval::read_report(&folders.evaluation())?;
    context.show(&report, || {
        format!(
            "{}\nreport  {}\nchat    milpa chat {}\nserve   milpa serve {}",
            report.to_string().trim_end(),
            folders.report().display(),
            quote(&folders.bundle().to_string_lossy()),
            quote(&folders.bundle().to_string_lossy()),
        )
    })
}

/// Brings all stages up to date; what each costs goes into the ledger, at a price if
/// there is one.
pub fn run(
    context: &Context,
    recipe: &Loaded,
    out: &Path,
    conditions: &Conditions,
) -> Result<Folders> {
    let missing = recipe.missing_files();
    if let Some((written, path)) = missing.first() {
        anyhow::bail!(Refused(format!(
            "{} of the paths in {} do not exist, the first is {written} ({}); \
             check the path, or the variable in it",
            missing.len(),
            recipe.path.display(),
            path.display()
        )));
    }
    watch::check(&conditions.watching)?;
    let _lock = RunLock::acquire(out)?;
    train::check_base(&recipe.recipe)?;
    package::check(&recipe.recipe)?;
    tokens::quality_model(&recipe.recipe.tokens)?;
    train::check_plan(context, recipe, None)?;
    let folders = Folders { root: out.to_owned() };
    let resolved = toml::to_string(&recipe.recipe)?;
    write_file_atomic(&out.join(RESOLVED_FILE), resolved.as_bytes())?;
    let mut runner = Runner {
        context,
        recipe,
        variables: assignments(&variables(&resolved)),
        stamps: read_stamps(out),
        folders: folders.clone(),
        conditions,
        rebuilt: 0,
    };
    runner.run()?;
    Ok(folders)
}

impl Runner<'_> {
    fn run(&mut self) -> Result<()> {
        let recipe = &self.recipe.recipe;
        let folders = self.folders.clone();
        let mut given = quote(&self.recipe.given.to_string_lossy());
        if let Some(seed) = self.recipe.seed_given {
            given += &format!(" --seed {seed}");
        }
        let shown = |path: &Path| quote(&path.to_string_lossy());
        let (corpus_dir, tokenizer_dir, tokens_dir) =
            (folders.corpus(), folders.tokenizer(), folders.tokens());
        let seed = hash_bytes(&recipe.seed.0.to_le_bytes());

        let mut inputs = BTreeMap::from([("seed".to_owned(), seed)]);
        for source in &recipe.corpus.sources {
            inputs.insert(format!("source {}", source.name), hash_path(&source.path.path)?);
        }
        let corpus = self.stage(
            "corpus",
            Kind::Corpus,
            &corpus_dir,
            format!("milpa corpus build {given} --out {}", shown(&corpus_dir)),
            &recipe.corpus,
            inputs,
            |context, recipe| {
                let recipe = &recipe.recipe;
                let built = corpus::build(context, &recipe.corpus, recipe.seed, &corpus_dir)?;
                let stages = built.times.stages();
                write_file_atomic(&folders.corpus_stages(), &serde_json::to_vec(&stages)?)?;
                Ok(())
            },
        )?;
        let (config, input) = match recipe.origin() {
            Origin::Base(base) => {
                let own = Tokenizer::open(&base.model.path)?.hash();
                (toml::Value::try_from(base)?, ("base tokenizer".to_owned(), own))
            }
            Origin::New { tokenizer, .. } => {
                (toml::Value::try_from(tokenizer)?, ("corpus".to_owned(), corpus))
            }
        };
        let tokenizer = self.stage(
            "tokenizer",
            Kind::Tokenizer,
            &tokenizer_dir,
            format!(
                "milpa tokens train {given} --corpus {} --out {}",
                shown(&corpus_dir),
                shown(&tokenizer_dir)
            ),
            &config,
            BTreeMap::from([input]),
            |context, recipe| tokens::train(context, recipe, &corpus_dir, &tokenizer_dir).map(drop),
        )?;
        let mut token_inputs =
            BTreeMap::from([("corpus".to_owned(), corpus), ("tokenizer".to_owned(), tokenizer)]);
        if let Some(quality) = &recipe.tokens.quality {
            token_inputs.insert("quality".to_owned(), hash_path(&quality.model.path)?);
        }
        let tokens = self.stage(
            "tokens",
            Kind::Tokens,
            &tokens_dir,
            format!(
                "milpa tokens encode {given} --corpus {} --tokenizer {} --out {}",
                shown(&corpus_dir),
                shown(&tokenizer_dir),
                shown(&tokens_dir)
            ),
            &recipe.tokens,
            token_inputs,
            |context, recipe| {
                tokens::encode(context, recipe, &corpus_dir, &tokenizer_dir, &tokens_dir).map(drop)
            },
        )?;
        let train_dir = folders.train();
        let mut training_inputs = BTreeMap::from([
            ("tokens".to_owned(), tokens),
            ("tokenizer".to_owned(), tokenizer),
            ("seed".to_owned(), seed),
        ]);
        if let Origin::Base(base) = recipe.origin() {
            let base = BaseModel::open(&base.model.path)?;
            training_inputs.insert("base".to_owned(), base.digest());
        }
        for replay in &recipe.train.replay {
            if let Some(location) = &replay.tokens {
                let (_, digest) = open_artifact(&location.path, Kind::Tokens, Verify::Lengths)?;
                training_inputs.insert(format!("replay {}", replay.name), digest);
            }
        }
        if let Some(forgetting) = &recipe.train.forgetting {
            let general = &forgetting.general.path;
            let (_, digest) = open_artifact(general, Kind::Tokens, Verify::Lengths)?;
            training_inputs.insert("general text".to_owned(), digest);
            training_inputs.extend(forgetting.task_hashes()?);
        }
        let train = toml::Value::try_from(recipe.train.in_key())?;
        let mut training = toml::Table::from_iter([("train".to_owned(), train)]);
        if let Origin::New { model, .. } = recipe.origin() {
            training.insert("model".to_owned(), toml::Value::try_from(model)?);
        }
        let model = folders.model(recipe);
        if model != folders.checkpoint()
            && let Err(error) = open_artifact(&model, Kind::Checkpoint, Verify::Contents)
            && self.stamps.remove("train").is_some()
        {
            self.context.progress.say(&format!("train: {error}"));
        }
        let report = milpa_train::read_forgetting(&train_dir).ok().flatten();
        if report.is_some_and(|report| report.within_limit == Some(false)) {
            // Training finds that it is complete, and says again that it ended above its limit.
            self.stamps.remove("train");
        }
        let conditions = self.conditions;
        let rebuilt_before = self.rebuilt;
        let checkpoint = self.stage(
            "train",
            Kind::Checkpoint,
            &folders.checkpoint(),
            format!(
                "milpa train {given} --tokenizer {} --tokens {} --out {}{}",
                shown(&tokenizer_dir),
                shown(&tokens_dir),
                shown(&train_dir),
                conditions
                    .onward
                    .fork
                    .as_ref()
                    .map_or_else(String::new, |from| format!(" --fork {}", shown(from)))
            ),
            &training,
            training_inputs,
            |context, recipe| {
                let folders = train::Folders {
                    tokenizer: &tokenizer_dir,
                    tokens: &tokens_dir,
                    out: &train_dir,
                };
                train::train(context, recipe, folders, conditions).map(drop)
            },
        );
        if self.rebuilt > rebuilt_before {
            let training = TrainingFolder::find(&folders.root)?;
            watch::write_last_page(recipe, &training)?;
            for line in training.sheet()?.to_string().lines() {
                self.context.progress.say(format!("  {line}").trim_end());
            }
        }
        let checkpoint = checkpoint?;
        let checkpoint = if model == folders.checkpoint() {
            checkpoint
        } else {
            open_artifact(&model, Kind::Checkpoint, Verify::Lengths)?.1
        };
        let mut inputs =
            BTreeMap::from([("checkpoint".to_owned(), checkpoint), ("corpus".to_owned(), corpus)]);
        for (name, digest) in eval::input_hashes(&recipe.eval)? {
            inputs.insert(name, digest);
        }
        let evaluation_dir = folders.evaluation();
        self.stage(
            "eval",
            Kind::Evaluation,
            &evaluation_dir,
            format!(
                "milpa eval suite {given} --model {} --corpus {} --out {}",
                shown(&model),
                shown(&corpus_dir),
                shown(&evaluation_dir)
            ),
            &recipe.eval,
            inputs,
            |context, recipe| {
                let model = OpenedModel::here(context, &model, None)?;
                eval::suite(context, recipe, model, &corpus_dir, &evaluation_dir).map(drop)
            },
        )?;
        let bundle_dir = folders.bundle();
        let measurements =
            package::measurements_hash(recipe, &model, &eval::read_report(&evaluation_dir)?)?;
        self.stage(
            "package",
            Kind::Bundle,
            &bundle_dir,
            format!(
                "milpa package {given} --checkpoint {} --tokenizer {} --evaluation {} --corpus {} \
                 --out {}",
                shown(&model),
                shown(&tokenizer_dir),
                shown(&evaluation_dir),
                shown(&corpus_dir),
                shown(&bundle_dir)
            ),
            &recipe.package,
            BTreeMap::from([
                ("checkpoint".to_owned(), checkpoint),
                ("tokenizer".to_owned(), tokenizer),
                ("measurements".to_owned(), measurements),
                ("corpus".to_owned(), corpus),
            ]),
            |context, recipe| {
                let inputs = package::Inputs {
                    checkpoint: &model,
                    tokenizer: &tokenizer_dir,
                    evaluation: Some(&evaluation_dir),
                    corpus: Some(&corpus_dir),
                };
                package::package(context, recipe, &inputs, &bundle_dir).map(drop)
            },
        )?;
        if self.rebuilt > 0 || !folders.report().exists() {
            report::write(self.recipe, &folders, &self.stamps)?;
        }
        Ok(())
    }

    /// Skips the stage if it is up to date, else makes it; returns the artifact's identity. A training that
    /// ended above its limit on forgetting is made, and an error all the same.
    fn stage(
        &mut self,
        name: &str,
        kind: Kind,
        dir: &Path,
        mut command: String,
        config: &impl Serialize,
        inputs: BTreeMap<String, Digest>,
        make: impl FnOnce(&Context, &Loaded) -> Result<()>,
    ) -> Result<Digest> {
        self.context.check_stop()?;
        command.insert_str(0, &self.variables);
        let key = Record::new(name, config, inputs)?.key.context("a new record has its key")?;
        let progress = &self.context.progress;
        if let Some(stamp) = self.stamps.get(name) {
            match open_artifact(dir, kind, Verify::Contents) {
                Ok((_, artifact)) if stamp.key == key && stamp.artifact == artifact => {
                    progress.say(&format!("{name}: up to date"));
                    return Ok(artifact);
                }
                Ok(_) => progress.say(&format!("{name}: out of date")),
                Err(error) => progress.say(&format!("{name}: {error}")),
            }
        }
        progress.say(&format!("\n$ {command}"));
        let started = Instant::now();
        let meter = Meter::start(name);
        let made = make(self.context, self.recipe).with_context(|| format!("stage {name}"));
        let is_complete = match &made {
            Ok(()) => true,
            Err(error) => train::above_limit(error).is_some(),
        };
        // What was refused cost nothing.
        if !made.as_ref().is_err_and(crate::is_refused) {
            meter.stop(self.context, &self.folders.root, is_complete, &self.conditions.price)?;
        }
        let made = match made {
            Err(error) if !is_complete => return Err(error),
            made => made,
        };
        let (manifest, artifact) = open_artifact(dir, kind, Verify::Lengths)?;
        let seconds = started.elapsed().as_secs_f64();
        progress.say(&format!(
            "  {} in {}",
            crate::context::describe(&manifest, dir),
            short(started.elapsed())
        ));
        self.rebuilt += 1;
        self.stamps.insert(name.to_owned(), Stamp { key, artifact, command, seconds });
        write_file_atomic(
            &self.folders.root.join(STAMPS_FILE),
            toml::to_string(&self.stamps)?.as_bytes(),
        )?;
        made.map(|()| artifact)
    }
}

/// Hash of a file's content, or of names and contents of a folder's files in order.
pub fn hash_path(path: &Path) -> Result<Digest> {
    let describe = || format!("cannot read {}", path.display());
    if !path.is_dir() {
        return Ok(hash_file(path).with_context(describe)?.0);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .with_context(describe)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .with_context(describe)?;
    entries.sort();
    let mut listing = String::new();
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        listing += &format!("{name}\0{}\0", hash_path(&entry)?);
    }
    Ok(hash_bytes(listing.as_bytes()))
}

//! `milpa`: the command line over the stages.
//!
//! It reads arguments and the environment, shows progress, wires one stage's artifact into the
//! next, and turns errors into exit codes. What a stage does lives in its crate.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the binary talks to the terminal")]
#![allow(unreachable_pub, reason = "nothing outside a binary reaches its modules")]

mod cli;
mod commands;
mod context;
mod ledger;
mod origins;
mod progress;
mod recipe;
mod report;
mod run;
mod watch;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser};

use crate::{
    cli::{BuildCommand, Cli, Command, CorpusCommand, EvalCommand, TokensCommand},
    context::Context,
};

/// A failure that the user can mend, or a gate that was not met.
const EXIT_FAILURE: u8 = 1;
/// A command or configuration that cannot be right.
const EXIT_USAGE: u8 = 2;
/// Interrupted; the same command resumes (EX_TEMPFAIL of sysexits.h).
const EXIT_INTERRUPTED: u8 = 75;

/// A command, a recipe or what they name that cannot be right: to try it again is in vain, so it ends with
/// [`EXIT_USAGE`].
#[derive(Debug)]
pub struct Refused(pub String);

impl std::error::Error for Refused {}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        progress::freeze();
        eprintln!("error: milpa has a bug: {info}");
        eprintln!("hint: please report it with the command you ran; nothing half-written is left");
    }));
    let cli = Cli::parse();
    let Some(command) = cli.command else {
        // A bare `milpa` shows what there is; that is no mistake.
        print!("{}", Cli::command().render_help());
        return ExitCode::SUCCESS;
    };
    let context = Context::new(&cli.global);
    if let Some((folder, train)) = supervised(&context, &command) {
        let run = commands::supervise::Supervised {
            folder: &folder,
            newest_step: &|| milpa_train::newest_step(&train),
            is_ended: &|| {
                let report = milpa_train::read_forgetting(&train).ok().flatten();
                train.join(watch::ALARM_FILE).exists()
                    || milpa_train::was_stopped(&train)
                    || report.is_some_and(|report| report.within_limit == Some(false))
            },
        };
        return commands::supervise::supervise(&context, &run)
            .unwrap_or_else(|error| fail(&context, &error));
    }
    match dispatch(&context, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => fail(&context, &error),
    }
}

/// The folder of a command that is to be supervised, and that of its training.
fn supervised(context: &Context, command: &Command) -> Option<(PathBuf, PathBuf)> {
    match command {
        Command::Run { recipe, out, endurance, .. } if endurance.supervise => {
            // A recipe that cannot be read is refused by the command itself.
            let out = match out {
                Some(out) => out.clone(),
                None => run::default_folder(&context.recipe(recipe).ok()?),
            };
            let train = run::Folders { root: out.clone() }.train();
            Some((out, train))
        }
        Command::Train { out, endurance, dry_run: false, .. } if endurance.supervise => {
            Some((out.clone(), out.clone()))
        }
        _ => None,
    }
}

fn dispatch(context: &Context, command: Command) -> anyhow::Result<()> {
    use commands::{
        chat::{self, ModelPaths},
        code, corpus, demo, doctor, eval, explain, extend, harness, instructions, look, merge,
        package, plan, replay, serve, tokens, train,
    };
    match command {
        Command::Demo { out } => demo::demo(context, &out),
        Command::Doctor => doctor::doctor(context),
        Command::Check { recipe } => commands::check::check(context, &recipe),
        Command::Run { recipe, out, onward, price_per_hour, endurance, watching } => {
            let recipe = context.recipe(&recipe)?;
            let price = plan::hourly_price(price_per_hour.as_deref())?;
            let conditions = train::Conditions { price, onward, endurance, watching };
            let out = out.unwrap_or_else(|| run::default_folder(&recipe));
            run::run_and_report(context, &recipe, &out, &conditions)
        }
        Command::Explain { run } => explain::explain(context, &run),
        Command::Corpus(command) => match command {
            CorpusCommand::Build { recipe, out, shard: Some(shard) } => {
                corpus::prepare(context, &context.corpus_recipe(&recipe)?.corpus, &out, shard)
            }
            CorpusCommand::Build { recipe, out, shard: None } => {
                let recipe = context.corpus_recipe(&recipe)?;
                let built = corpus::build(context, &recipe.corpus, recipe.seed, &out)?;
                context.show(&built.manifest, || {
                    milpa_corpus::stats(&out).map(|stats| stats.to_string()).unwrap_or_default()
                })
            }
            CorpusCommand::Classifier { examples, label_field, out } => {
                corpus::classifier(context, &examples, &label_field, &out)
            }
            CorpusCommand::Ngrams { examples, order, out } => {
                corpus::ngrams(context, &examples, order, &out)
            }
            CorpusCommand::Why { corpus, document } => corpus::why(context, &corpus, &document),
            CorpusCommand::Stats { corpus } => corpus::stats(context, &corpus),
        },
        Command::Tokens(command) => match command {
            TokensCommand::Train { recipe, corpus, out } => {
                let recipe = context.recipe_of_artifacts(&recipe)?;
                let manifest = tokens::train(context, &recipe, &corpus, &out)?;
                context.show(&manifest, || context::describe(&manifest, &out))
            }
            TokensCommand::Extend(arguments) => {
                let manifest = extend::extend(context, &arguments)?;
                context.show(&manifest, || context::describe(&manifest, &arguments.out))
            }
            TokensCommand::Encode { recipe, corpus, tokenizer, out } => {
                let recipe = context.recipe_of_artifacts(&recipe)?;
                let manifest = tokens::encode(context, &recipe, &corpus, &tokenizer, &out)?;
                context.show(&manifest, || context::describe(&manifest, &out))
            }
            TokensCommand::GenerateReplay(arguments) => {
                let manifest = replay::generate(context, &arguments)?;
                context.show(&manifest, || context::describe(&manifest, &arguments.out))
            }
            TokensCommand::Inspect { tokenizer, data, text } => {
                tokens::inspect(context, &tokenizer, data.as_deref(), text.as_deref())
            }
        },
        Command::Plan(command) => plan::plan(context, command),
        Command::Train {
            recipe,
            tokenizer,
            tokens,
            out,
            dry_run,
            onward,
            price_per_hour,
            endurance,
            watching,
        } => {
            let price = plan::hourly_price(price_per_hour.as_deref())?;
            let recipe = context.recipe_of_artifacts(&recipe)?;
            let folders = train::Folders { tokenizer: &tokenizer, tokens: &tokens, out: &out };
            if dry_run {
                let planned = train::dry_run(context, &recipe, folders, &onward)?;
                return context.show(&planned, || planned.to_string());
            }
            let conditions = train::Conditions { price, onward, endurance, watching };
            train::train_alone(context, &recipe, folders, &conditions)
        }
        Command::Eval(command) => match *command {
            EvalCommand::Suite { recipe, model, corpus, out } => {
                let recipe = context.recipe(&recipe)?;
                let report = eval::suite_of(context, &recipe, &model, &corpus, &out)?;
                context.show(&report, || report.to_string())
            }
            EvalCommand::Look(arguments) => look::look(context, &arguments),
            EvalCommand::Run(arguments) => harness::run(context, &arguments),
            EvalCommand::Instructions(arguments) => instructions::run(context, &arguments),
            EvalCommand::Code(arguments) => code::run(context, &arguments),
            EvalCommand::Refusals { completions, half } => {
                let report = milpa_eval::refusal::measure_rules(&completions, half)?;
                context.show(&report, || report.to_string())
            }
            EvalCommand::Perplexity { model, data, field, max_bytes } => {
                eval::perplexity(context, &model, &data, &field, max_bytes)
            }
            EvalCommand::Choice { model, task, data, limit } => {
                eval::choice(context, &model, &task, &data, limit)
            }
            EvalCommand::Compare(arguments) => eval::compare::compare(context, &arguments),
            EvalCommand::Judge(command) => eval::judge::judge(context, command),
            EvalCommand::Arena(arguments) => eval::arena::arena(context, &arguments),
            EvalCommand::Power(arguments) => eval::power::power(context, &arguments),
            EvalCommand::Variance { scores } => eval::power::variance(context, &scores),
            EvalCommand::Probe { count, seed, out } => {
                eval::power::probe(context, count as usize, seed, &out)
            }
            EvalCommand::Build(BuildCommand::Choclo {
                dump,
                out,
                dump_date,
                relations,
                page_views,
                seed,
                threads,
            }) => {
                let mut config = milpa_eval::choclo::ChocloConfig::new(dump);
                (config.dump_date, config.relations) = (dump_date, relations);
                config.page_views = page_views;
                config.seed = milpa_base::Seed(seed);
                if let Some(threads) = threads {
                    config.threads = threads;
                }
                eval::build_choclo(context, &config, &out)
            }
            EvalCommand::Build(BuildCommand::Trueque { config, work, out, previous }) => {
                let folders = milpa_eval::trueque::TruequeFolders {
                    work: &work,
                    out: out.as_deref(),
                    previous: previous.as_deref(),
                };
                eval::build_trueque(context, &config, folders)
            }
        },
        Command::Merge(command) => merge::merge(context, command),
        Command::Package { recipe, checkpoint, tokenizer, evaluation, corpus, gguf, out } => {
            let mut recipe = context.recipe_of_artifacts(&recipe)?;
            if !gguf.is_empty() {
                recipe.recipe.package.quantisations = gguf;
            }
            let inputs = package::Inputs {
                checkpoint: &checkpoint,
                tokenizer: &tokenizer,
                evaluation: evaluation.as_deref(),
                corpus: corpus.as_deref(),
            };
            let manifest = package::package(context, &recipe, &inputs, &out)?;
            context.show(&manifest, || context::describe(&manifest, &out))
        }
        Command::Chat { model, adapter, prompt, sampling } => {
            let model = ModelPaths { model: &model, adapter: adapter.as_deref() };
            chat::chat(context, model, prompt.as_deref(), &sampling)
        }
        Command::Serve { model, adapter, bind, api_key_file } => {
            let model = ModelPaths { model: &model, adapter: adapter.as_deref() };
            serve::serve(context, model, &bind, api_key_file.as_deref())
        }
    }
}

fn fail(context: &Context, error: &anyhow::Error) -> ExitCode {
    // An alarm ends a run through a stop, but it is no interruption that somebody asked for.
    let by_alarm = error.chain().any(<dyn std::error::Error>::is::<watch::EndedByAlarm>);
    if context.stop.is_set() && !by_alarm {
        eprintln!("interrupted; run the same command again to resume:");
        eprintln!("  {}", context.command_line());
        return ExitCode::from(EXIT_INTERRUPTED);
    }
    // Each cause once: libraries do not repeat their source in their own message.
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text += ": ";
            }
            text += &cause;
        }
    }
    if !text.contains(DISK_FULL) && error.chain().any(is_disk_full) {
        text += "\nhint: the disk is full; free some space and run the same command again";
    }
    eprintln!("error: {text}");
    ExitCode::from(if is_refused(error) { EXIT_USAGE } else { EXIT_FAILURE })
}

/// Whether a command or recipe cannot be right, so that to begin again is in vain.
fn is_refused(error: &anyhow::Error) -> bool {
    let configuration = error.chain().any(|cause| {
        let task = cause.downcast_ref::<milpa_eval::EvalError>();
        let training = cause.downcast_ref::<milpa_train::TrainError>();
        let data = cause.downcast_ref::<milpa_tokens::TokensError>();
        let model = cause.downcast_ref::<milpa_model::DecoderError>();
        cause.is::<milpa_base::ConfigError>()
            || cause.is::<milpa_plan::PlanError>()
            || task.is_some_and(milpa_eval::EvalError::is_usage)
            || training.is_some_and(milpa_train::TrainError::is_usage)
            || data.is_some_and(milpa_tokens::TokensError::is_usage)
            || model.is_some_and(milpa_model::DecoderError::is_usage)
    });
    // Other than the chain, this finds what was added as context.
    configuration || error.downcast_ref::<Refused>().is_some()
}

const DISK_FULL: &str = "the disk is full";

fn is_disk_full(cause: &(dyn std::error::Error + 'static)) -> bool {
    let error = cause.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
}

/// Whether the reader of our stdout went away, as `milpa … | head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let _ = std::io::stdout().flush();
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

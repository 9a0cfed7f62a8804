//! A run whose plan or data changed: refused, extended, forked or set aside; and where it goes back to
//! afterwards.

use std::{cell::Cell, fs, path::Path};

use milpa_base::{Progress, Silent, StopFlag};
use milpa_tensor::ParameterStore;
use milpa_tokens::{Split, TokensError};
use milpa_train::{ChangedPlan, Metric, Optimizer, Summary, TrainConfig, TrainError};

use crate::harness::{Beside, Field, StopAfter, files, flip, recipe};

const GOES_BACK: &str = "keep_checkpoints = 3
    stability = { sigmas = 1000.0, window = 4, rollback_after = 2 }";

/// Trains with gradients that are no numbers at two steps, the first time that these are taken.
fn train_hurt(
    field: &Field,
    name: &str,
    config: &TrainConfig,
    changed_plan: ChangedPlan<'_>,
    steps: [u64; 2],
) -> Result<Summary, TrainError> {
    let left = Cell::new(2);
    let hurt = |step: u64, parameters: &mut ParameterStore| {
        if steps.contains(&step) && left.get() > 0 {
            left.set(left.get() - 1);
            let device = parameters.device().clone();
            let parameter = parameters.iter_mut().next().unwrap();
            device.fill(parameter.grad_mut().unwrap(), f32::NAN);
        }
    };
    let beside = Beside { changed_plan, on_gradients: Some(&hurt), ..Beside::default() };
    field.train_beside(name, config, &beside)
}

/// First step taken again and last step undone of each time that a run went back.
fn rollbacks(field: &Field, name: &str) -> Vec<(u64, u64)> {
    let one = |metric: &Metric| match metric {
        Metric::Rollback { step, from_step, .. } => Some((*step, *from_step)),
        _ => None,
    };
    field.metrics(name).iter().filter_map(one).collect()
}

#[test]
fn a_run_never_goes_back_beyond_where_its_plan_began() {
    let field = Field::new();
    let plan = |steps: u64, every: u64, more: &str| {
        let stages = "schedule = { kind = 'constant' }
            [[stage]]
            name = 'all'
            steps = 12";
        let mut config = recipe(&format!("{GOES_BACK}\n{stages}\n{more}"));
        (config.steps.0, config.checkpoint_every.0) = (steps, every);
        config
    };
    let more = "[[stage]]\nname = 'more'";
    field.train("extended", &plan(12, 8, "")).unwrap();
    let longer = plan(24, 8, more);
    let summary = train_hurt(&field, "extended", &longer, ChangedPlan::Extend, [14, 15]).unwrap();
    assert_eq!(summary.steps, 24);
    assert_eq!(rollbacks(&field, "extended"), [(13, 15)]);

    field.train("run", &plan(12, 4, "")).unwrap();
    let before = files(&field.folder("run"));
    let from = field.folder("run/checkpoints/step-00000008");
    let forked = [("between", 5), ("before its own first", 50)];
    for (name, every) in forked {
        let config = plan(24, every, more);
        let summary = train_hurt(&field, name, &config, ChangedPlan::Fork(&from), [10, 11]);
        assert_eq!(summary.unwrap().steps, 24, "{name}");
        assert_eq!(rollbacks(&field, name), [(9, 11)], "{name}");
    }
    assert!(files(&field.folder("run")) == before, "the run that is forked stays");
}

#[test]
fn a_run_that_is_stopped_when_it_went_back_ends_in_the_same_bytes() {
    let field = Field::new();
    let config = recipe(&format!("{GOES_BACK}\nstage = [{{ name = 'all' }}]"));
    let lasts = |name: &str, progress: &dyn Progress, stop: &StopFlag| {
        // The same whenever these steps are taken for the first time.
        let hurt = |step: u64, parameters: &mut ParameterStore| {
            if [11, 12].contains(&step) && rollbacks(&field, name).is_empty()
                || [13, 14].contains(&step) && rollbacks(&field, name).len() == 1
            {
                let device = parameters.device().clone();
                let parameter = parameters.iter_mut().next().unwrap();
                device.fill(parameter.grad_mut().unwrap(), f32::NAN);
            }
        };
        let beside = Beside { on_gradients: Some(&hurt), ..Beside::default() };
        field.train_with(name, &config, &beside, progress, stop)
    };
    lasts("whole", &Silent, &StopFlag::default()).unwrap();
    assert_eq!(rollbacks(&field, "whole"), [(9, 12), (9, 14)]);
    for _ in 0..2 {
        let stop = StopFlag::default();
        let watch = StopAfter { line: "back to step 8".to_owned(), stop: stop.clone() };
        let cut = lasts("cut", &watch, &stop).unwrap_err();
        assert!(matches!(cut, TrainError::Interrupted { step: 8, .. }), "{cut}");
    }
    lasts("cut", &Silent, &StopFlag::default()).unwrap();
    assert_eq!(rollbacks(&field, "cut"), rollbacks(&field, "whole"));
    for part in ["checkpoint", "checkpoints"] {
        let of = |name: &str| files(&field.folder(name).join(part));
        assert!(of("cut") == of("whole"), "{part}");
    }
}

#[test]
fn each_stage_has_its_tokens_whatever_was_passed_over() {
    let config = recipe(&format!(
        "checkpoint_every = 10
         {GOES_BACK}
         schedule = {{ kind = 'constant' }}
         [[replay]]
         name = 'general'
         tokens = 'general'
         share = 0.0
         [[stage]]
         name = 'sentences'
         steps = 16
         mixture = {{ sentences = 1.0 }}
         [[stage]]
         name = 'numbers'
         batch_size = 2
         mixture = {{ 'general/numbers' = 1.0 }}"
    ));
    let field = Field::new();
    // Within a stage, within the next, and back over the end of the first.
    for (name, hurt, back) in
        [("a", [13, 14], (11, 14)), ("b", [22, 23], (21, 23)), ("c", [17, 18], (11, 18))]
    {
        let summary = train_hurt(&field, name, &config, ChangedPlan::Refuse, hurt).unwrap();
        assert_eq!(rollbacks(&field, name), [back]);
        assert_eq!(summary.tokens, (16 * 4 + 8 * 2) * 16, "{name}");
        let mut read = 0;
        for metric in field.metrics(name) {
            let Metric::Data { step, first_step, stage, tokens, .. } = metric else { continue };
            let (source, batch) = match stage.as_deref() {
                Some("sentences") => ("sentences", 4),
                _ => ("general/numbers", 2),
            };
            assert_eq!(tokens.keys().collect::<Vec<_>>(), [source], "{name} {step}");
            assert_eq!(tokens[source], (step + 1 - first_step) * batch * 16, "{name} {step}");
            read += tokens[source];
        }
        assert_eq!(read, summary.tokens, "{name}");
    }
}

#[test]
fn a_run_without_stages_is_lengthened_and_forked_from_its_plateau() {
    let field = Field::new();
    let plan = |steps: u64, decay: u64| {
        recipe(&format!(
            "keep_plateau = true
             steps = {steps}
             schedule = {{ kind = 'warmup_stable_decay', warmup = 3, decay = {decay} }}"
        ))
    };
    let whole = field.train("whole", &plan(24, 8)).unwrap();
    let plateau = field.folder("whole/checkpoints/step-00000016");
    let same = field.fork(&plateau, "same", &plan(24, 8)).unwrap();
    let weights =
        |summary: &Summary| fs::read(summary.checkpoint.join("model.safetensors")).unwrap();
    assert!(weights(&same) == weights(&whole), "the same plan ends in other weights");
    let longer = field.fork(&plateau, "longer", &plan(32, 8)).unwrap();
    assert_eq!(longer.steps, 32);
    assert_eq!(field.extend("whole", &plan(28, 8)).unwrap().steps, 28);
    let mut other = plan(32, 8);
    other.mixture = Some(toml::from_str::<milpa_base::Mixture>("sentences = 1.0").unwrap());
    let refused = field.extend("whole", &other).unwrap_err();
    assert!(matches!(refused, TrainError::Tokens(TokensError::OtherData { .. })), "{refused}");
    let staged = recipe("[[stage]]\nname = 'all'");
    let refused = field.extend("whole", &staged).unwrap_err().to_string();
    assert!(refused.contains("begun without stages"), "{refused}");
}

#[test]
fn another_plan_is_refused_unless_the_run_is_set_aside() {
    let field = Field::new();
    field.train("run", &recipe("")).unwrap();
    let before = files(&field.folder("run"));
    let changed = recipe("batch_size = 2");
    let refused = field.train("run", &changed).unwrap_err().to_string();
    for part in ["holds 24 steps", "train.batch_size was 4 and is 2", "--extend", "--anew"] {
        assert!(refused.contains(part), "{part:?} is not in {refused}");
    }
    assert!(files(&field.folder("run")) == before);
    let beside = Beside { changed_plan: ChangedPlan::Anew, ..Beside::default() };
    assert_eq!(field.train_beside("run", &changed, &beside).unwrap().tokens, 24 * 2 * 16);
    let aside = fs::read_dir(field.folder("run").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("run-"))
        .unwrap();
    assert!(files(&aside) == before);
    // Asked for again, a run of this plan is not begun again.
    assert_eq!(field.train_beside("run", &changed, &beside).unwrap().tokens, 24 * 2 * 16);
}

#[test]
fn a_checkpoint_that_was_copied_into_a_folder_is_no_less_of_another_plan() {
    let field = Field::new();
    field.train("run", &recipe("")).unwrap();
    let checkpoint = field.folder("run/checkpoint");
    let copied = |name: &str, at: &str| {
        milpa_base::copy_artifact(&checkpoint, &field.folder(name).join(at)).unwrap();
        files(&field.folder(name))
    };
    let longer = recipe("steps = 32\nschedule = { kind = 'constant' }");
    let beside = |changed_plan| Beside { changed_plan, ..Beside::default() };
    for (name, at) in [("final", "checkpoint"), ("step", "checkpoints/step-00000024")] {
        let before = copied(name, at);
        let refused = field.train(name, &longer).unwrap_err();
        assert!(matches!(refused, TrainError::OtherPlan { step: 24, .. }), "{refused}");
        let fork = field.fork(&field.folder("run/checkpoints/step-00000016"), name, &longer);
        assert!(matches!(fork, Err(TrainError::Occupied { .. })), "{fork:?}");
        assert!(files(&field.folder(name)) == before);
        field.train_beside(name, &longer, &beside(ChangedPlan::Anew)).unwrap();
        let first = field.metrics(name).iter().map(Metric::step).min();
        assert_eq!(first, Some(0));
        let aside = fs::read_dir(field.folder("")).unwrap().map(|entry| entry.unwrap().path());
        let begin = format!("{name}-");
        let mut aside =
            aside.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&begin));
        assert!(files(&aside.next().unwrap()) == before);
    }
    copied("extended", "checkpoint");
    assert_eq!(field.extend("extended", &longer).unwrap().steps, 32);
    let first = field.metrics("extended").iter().map(Metric::step).min();
    assert_eq!(first, Some(24));
    // One of the very same plan is what the run goes on with.
    copied("same", "checkpoint");
    field.train("same", &recipe("")).unwrap();
    assert!(files(&field.folder("same/checkpoint")) == files(&checkpoint));
    assert!(field.folder("same/key").exists() && field.metrics("same").is_empty());
}

#[test]
fn what_is_trained_already_cannot_become_other() {
    let field = Field::new();
    let first = recipe("schedule = { kind = 'constant' }");
    field.train("run", &first).unwrap();
    let before = files(&field.folder("run"));
    let refused = |more: &str, part: &str| {
        let mut config = recipe(&format!("schedule = {{ kind = 'constant' }}\n{more}"));
        config.steps.0 = 32;
        let error = field.extend("run", &config).unwrap_err();
        assert!(matches!(error, TrainError::CannotExtend { .. }), "{more}: {error}");
        assert!(error.to_string().contains(part), "{part:?} is not in {error}");
    };
    refused(
        "optimizer = { kind = 'lion', learning_rate = 0.001 }",
        "train.optimizer.kind was \"adam_w\" and is \"lion\"",
    );
    refused(
        "optimizer = { kind = 'adam_w', learning_rate = 0.01, state_precision = 'bf16' }",
        "train.optimizer.state_precision was \"f32\" and is \"bf16\"",
    );
    refused("mup = { base_width = 8 }", "train.mup was not there and is");
    refused("sequence_length = 8", "train.sequence_length was 16 and is 8");
    let mut shorter = first.clone();
    shorter.steps.0 = 16;
    let error = field.extend("run", &shorter).unwrap_err().to_string();
    assert!(error.contains("24 steps are done, and train.steps is 16"), "{error}");
    assert!(files(&field.folder("run")) == before);
    // An average begins with the weights that are there.
    let mut averaged = recipe("schedule = { kind = 'constant' }\naverage = { decay = 0.5 }");
    averaged.steps.0 = 28;
    let Optimizer::AdamW { learning_rate, .. } = &mut averaged.optimizer else { unreachable!() };
    *learning_rate = 0.005;
    field.extend("run", &averaged).unwrap();
    assert!(field.folder("run/checkpoint-average").is_dir());
    // The average of a plan before would be taken for this one's.
    let mut plain = recipe("schedule = { kind = 'constant' }");
    plain.steps.0 = 32;
    field.extend("run", &plain).unwrap();
    assert!(!field.folder("run/checkpoint-average").exists());
}

#[test]
fn a_stage_with_other_losses_and_norms_is_not_an_outlier() {
    let field = Field::new();
    let config = recipe(
        "keep_checkpoints = 3
         stability = { sigmas = 1e3, window = 4, rollback_after = 2 }
         stage = [{ name = 'first', steps = 12 }, { name = 'second', batch_size = 2 }]",
    );
    let skipped = |name: &str, first: u64| {
        let larger = |step: u64, parameters: &mut ParameterStore| {
            let device = parameters.device().clone();
            for parameter in parameters.iter_mut() {
                device.fill(parameter.grad_mut().unwrap(), if step < first { 1e-3 } else { 1.0 });
            }
        };
        let beside = Beside { on_gradients: Some(&larger), ..Beside::default() };
        let _ = field.train_beside(name, &config, &beside);
        field
            .metrics(name)
            .iter()
            .filter(|m| matches!(m, Metric::Step { skipped: true, .. }))
            .count()
            + rollbacks(&field, name).len()
    };
    assert_eq!(skipped("with the stage", 13), 0);
    assert!(skipped("within it", 15) > 0);
}

#[test]
fn what_is_passed_over_is_not_made_up_for_beyond_the_epochs() {
    let field = Field::new();
    let samples = field.dataset().counts(Split::Train)["sentences"].tokens / 16;
    let plan = |epochs: u64| {
        let mut config = recipe(&format!(
            "{GOES_BACK}
             schedule = {{ kind = 'constant' }}
             [[stage]]
             name = 'all'
             mixture = {{ sentences = {{ weight = 1.0, epochs = {epochs} }} }}"
        ));
        config.steps.0 = samples / 4;
        (config.validate_every.0, config.checkpoint_every.0) = (1000, 8);
        config
    };
    let error = train_hurt(&field, "run", &plan(1), ChangedPlan::Refuse, [10, 11]).unwrap_err();
    let TrainError::OutOfEpochs { step: 8, problem } = &error else { panic!("{error}") };
    assert!(problem.contains("it may be drawn 1 times"), "{problem}");
    let summary = train_hurt(&field, "run", &plan(2), ChangedPlan::Extend, [10, 11]).unwrap();
    assert!(summary.epochs["sentences"] > 0.9, "{:?}", summary.epochs);
}

#[test]
fn a_changed_recipe_is_told_from_what_changed_on_the_way() {
    let field = Field::new();
    let plan = |sigmas: f64| {
        let mut config = recipe(&format!("{GOES_BACK}\nstage = [{{ name = 'all' }}]"));
        config.stability.as_mut().unwrap().sigmas = sigmas;
        config
    };
    train_hurt(&field, "run", &plan(1000.0), ChangedPlan::Refuse, [11, 12]).unwrap();
    assert_eq!(rollbacks(&field, "run").len(), 1);
    let refused = field.train("run", &plan(2000.0)).unwrap_err().to_string();
    assert!(refused.contains("train.stability.sigmas was 1000.0 and is 2000.0"), "{refused}");
    assert!(!refused.contains("stage"), "{refused}");
    let mut shorter = plan(1000.0);
    shorter.sequence_length = 8;
    let refused = field.train("run", &shorter).unwrap_err().to_string();
    assert_eq!(refused.matches("train.sequence_length was").count(), 1, "{refused}");
}

#[test]
fn a_stage_that_is_trained_on_otherwise_is_named() {
    let field = Field::new();
    let plan = |schedule: &str| {
        recipe(&format!(
            "schedule = {{ kind = 'stages' }}
             stage = [{{ name = 'all', schedule = [{{ shape = '{schedule}', to = 0.1 }}] }}]"
        ))
    };
    field.train("run", &plan("linear")).unwrap();
    let refused = field.train("run", &plan("cosine")).unwrap_err().to_string();
    assert!(refused.contains("train.stage 1.schedule was"), "{refused}");
}

#[test]
fn a_fork_goes_on_without_the_run_that_was_forked_and_begins_there_again_where_it_holds_nothing() {
    let field = Field::new();
    let plan = |steps: u64| recipe(&format!("steps = {steps}\nschedule = {{ kind = 'constant' }}"));
    field.train("run", &plan(24)).unwrap();
    let from = field.folder("run/checkpoints/step-00000016");
    field.fork(&from, "whole", &plan(40)).unwrap();
    let expect = files(&field.folder("whole/checkpoint"));

    // Every checkpoint of the fork is lost: it begins at the other run's again, not with new weights.
    let mirror = field.folder("mirror");
    let (stop, from_there) = (StopFlag::default(), ChangedPlan::Fork(&from));
    let watch = StopAfter { line: "after step 26:".to_owned(), stop: stop.clone() };
    let beside = Beside { mirror: Some(&mirror), changed_plan: from_there, ..Beside::default() };
    let cut = field.train_with("fork", &plan(40), &beside, &watch, &stop).unwrap_err();
    assert!(matches!(cut, TrainError::Interrupted { step: 26, .. }), "{cut}");
    let kept = field.folder("kept");
    fs::rename(&mirror, &kept).unwrap();
    fs::remove_dir_all(field.folder("fork/checkpoints")).unwrap();
    let cut = field.fork(&from, "fork", &plan(40)).unwrap();
    assert!(cut.steps == 40 && files(&field.folder("fork/checkpoint")) == expect);

    // Its folder is lost, and the run that was forked too: it goes on from its mirror, again and again.
    fs::rename(&kept, &mirror).unwrap();
    fs::remove_dir_all(field.folder("fork")).unwrap();
    fs::remove_dir_all(field.folder("run")).unwrap();
    for _ in 0..2 {
        field.train_beside("fork", &plan(40), &beside).unwrap();
        assert!(files(&field.folder("fork/checkpoint")) == expect);
    }
    let first = field.metrics("fork").iter().map(Metric::step).min();
    assert_eq!(first, Some(27), "it went on where the mirror stood");
    // Another fork has another beginning.
    let other = field.folder("whole/checkpoints/step-00000032");
    let refused = field.fork(&other, "fork", &plan(40)).unwrap_err();
    assert!(matches!(refused, TrainError::Occupied { .. }), "{refused}");
}

#[test]
fn what_was_undone_does_not_come_back_from_the_mirror() {
    let field = Field::new();
    let config = recipe(&format!("{GOES_BACK}\ncheckpoint_every = 4"));
    let mirror = field.folder("mirror");
    let is_killed = Cell::new(false);
    let train = |name: &str, kills: bool, mirror: Option<&Path>| {
        let hurt = |step: u64, parameters: &mut ParameterStore| {
            let backs = rollbacks(&field, name).len();
            if [12, 13].contains(&step) && backs == 0 {
                let device = parameters.device().clone();
                let parameter = parameters.iter_mut().next().unwrap();
                device.fill(parameter.grad_mut().unwrap(), f32::NAN);
            }
            let dies = kills && backs == 1 && !is_killed.replace(true);
            assert!(!dies, "the machine dies");
        };
        let beside = Beside { mirror, on_gradients: Some(&hurt), ..Beside::default() };
        field.train_beside(name, &config, &beside).unwrap();
    };
    train("whole", false, None);
    assert_eq!(rollbacks(&field, "whole"), [(9, 13)]);
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        train("cut", true, Some(&mirror));
    }));
    assert!(killed.is_err() && is_killed.get());
    train("cut", true, Some(&mirror));
    for part in ["checkpoint", "checkpoints"] {
        let expect = files(&field.folder("whole").join(part));
        assert!(files(&field.folder("cut").join(part)) == expect, "{part}");
        assert!(files(&mirror.join(part)) == expect, "{part} of the mirror");
    }
}

#[test]
fn a_run_that_goes_back_passes_over_a_damaged_checkpoint() {
    let field = Field::new();
    let config = recipe(&format!("{GOES_BACK}\ncheckpoint_every = 4"));
    let hurt = |step: u64, parameters: &mut ParameterStore| {
        if [14, 15].contains(&step) && rollbacks(&field, "run").is_empty() {
            flip(&field.folder("run/checkpoints/step-00000012"));
            let device = parameters.device().clone();
            let parameter = parameters.iter_mut().next().unwrap();
            device.fill(parameter.grad_mut().unwrap(), f32::NAN);
        }
    };
    let beside = Beside { on_gradients: Some(&hurt), ..Beside::default() };
    assert_eq!(field.train_beside("run", &config, &beside).unwrap().steps, 24);
    assert_eq!(rollbacks(&field, "run"), [(9, 15)]);
}

#[test]
fn a_limit_that_is_set_later_holds_from_there_on() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let config = |steps: u64, share: f64, limit: &str| {
        let text = format!(
            "forgetting = {{ general = 'general', every = 4, pieces = 6, in_context = 6{limit} }}
             schedule = {{ kind = 'constant' }}
             stage = [{{ name = 'all' }}]
             replay = [{{ name = 'sentences', tokens = 'general', share = {share} }}]"
        );
        let mut config = recipe(&text);
        config.steps.0 = steps;
        config.checkpoint_every.0 = 4;
        config
    };
    let train = |config: &TrainConfig, changed_plan| {
        let beside = Beside { changed_plan, ..Beside::default() };
        field.go_on_beside("base", "run", config, &beside, &Silent, &StopFlag::default())
    };
    train(&config(8, 0.0, ""), ChangedPlan::Refuse).unwrap();
    let limit = ", limit = { percent = 0.5, replay = 'sentences' }";
    assert!(field.folder("run/forgetting.json").exists());
    let stop = StopFlag::default();
    let watch = StopAfter { line: "after step 12:".to_owned(), stop: stop.clone() };
    let beside = Beside { changed_plan: ChangedPlan::Extend, ..Beside::default() };
    let cut = field.go_on_beside("base", "run", &config(24, 0.1, limit), &beside, &watch, &stop);
    assert!(matches!(cut, Err(TrainError::Interrupted { step: 12, .. })), "{cut:?}");
    assert!(!field.folder("run/forgetting.json").exists(), "the plan before came to that");
    // It may end within its limit or not; what counts is that the controller acts.
    let _ = train(&config(24, 0.1, limit), ChangedPlan::Extend);
    let acted: Vec<(u64, f64)> = field
        .metrics("run")
        .iter()
        .filter_map(|metric| match metric {
            Metric::Control { step, replay, .. } => Some((*step, *replay)),
            _ => None,
        })
        .collect();
    // The new recipe's share is what is moved, as long as it was not.
    assert!(!acted.is_empty() && acted.iter().all(|(step, ..)| *step > 8), "{acted:?}");
    assert!(acted[0].1 > 0.19 && acted.iter().all(|(_, replay)| *replay >= 0.1), "{acted:?}");
    let refused = train(&config(28, 0.2, limit), ChangedPlan::Extend).unwrap_err().to_string();
    assert!(refused.contains("has moved the share of replay of \"sentences\""), "{refused}");
}

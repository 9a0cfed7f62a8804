//! Runs in stages: cut anywhere they end in the same bytes; what does not add up is refused; a changed
//! plan goes on only when it is asked for.

use std::fs;

use milpa_model::{Decoder, Device, TokenBatch, read_hf_description, read_hf_weights};
use milpa_tokens::Split;
use milpa_train::{Metric, TrainConfig, TrainError};

use crate::{
    harness::{Field, files, recipe},
    resume::check,
};

/// Two stages with their own batch, mixture, order and learning rate, and replay from another folder.
const STAGES: &str = "
    schedule = { kind = 'stages' }
    [[replay]]
    name = 'general'
    tokens = 'general'
    share = 0.25
    epochs = 6
    [[stage]]
    name = 'general blend'
    steps = 14
    schedule = [{ shape = 'linear', from = 0.0, to = 1.0, steps = 3 }, { shape = 'constant' }]
    [[stage]]
    name = 'anneal'
    batch_size = 6
    mixture = { sentences = { weight = 1.0, epochs = 4 } }
    replay = { general = 0.5 }
    order = { by = 'length', buckets = 4 }
    schedule = [{ shape = 'linear', to = 0.1 }]";

#[test]
fn a_run_in_stages_ends_in_the_same_bytes_when_cut() {
    let metrics = check(STAGES);
    let mut tokens = 0;
    let mut next = 1;
    for metric in &metrics {
        let Metric::Data { step, first_step, stage, tokens: by_source, .. } = metric else {
            continue;
        };
        assert_eq!(*first_step, next, "windows follow each other");
        next = step + 1;
        let stage = stage.as_deref().unwrap();
        assert_eq!(stage, if *step <= 14 { "general blend" } else { "anneal" });
        let sum: u64 = by_source.values().sum();
        let (batch, share) = if *step <= 14 { (4, 0.25) } else { (6, 0.5) };
        assert_eq!(sum, (step + 1 - first_step) * batch * 16);
        let replayed = by_source["general/numbers"] as f64 / 16.0;
        assert!((replayed - share * sum as f64 / 16.0).abs() < 2.0, "{metric:?}");
        tokens += sum;
    }
    assert_eq!((next, tokens), (25, (14 * 4 + 10 * 6) * 16));
    let last = metrics.iter().rfind(|metric| matches!(metric, Metric::Step { .. })).unwrap();
    assert!(matches!(last, Metric::Step { tokens: 1856, .. }), "{last:?}");
}

#[test]
fn a_checkpoint_is_forked_into_several_anneals() {
    let field = Field::new();
    let plan = |more: &str| {
        let text = "schedule = { kind = 'stages' }
            [[stage]]
            name = 'plateau'
            steps = 16
            schedule = [{ shape = 'constant' }]
            [[stage]]
            name = 'anneal'";
        recipe(&format!("{text}\n{more}"))
    };
    let linear = plan("schedule = [{ shape = 'linear', to = 0.0 }]");
    let cosine = plan(
        "mixture = { sentences = 0.5, 'general/numbers' = 0.5 }
         schedule = [{ shape = 'cosine', to = 0.0 }]
         [[replay]]
         name = 'general'
         tokens = 'general'
         share = 0.0",
    );
    field.train("whole", &linear).unwrap();
    let plateau = field.folder("whole/checkpoints/step-00000016");
    assert!(plateau.is_dir());
    for (name, config) in [("linear", &linear), ("cosine", &cosine)] {
        field.fork(&plateau, name, config).unwrap();
        // A second call finds the fork made.
        let again = field.fork(&plateau, name, config).unwrap();
        assert_eq!(again.steps, 24);
    }
    let model = |name: &str| files(&field.folder(name).join("checkpoint"));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(model("linear")[file] == model("whole")[file], "{file} is other by the same plan");
    }
    assert!(model("cosine")["model.safetensors"] != model("whole")["model.safetensors"]);
    // A folder that holds another run is not gone on with, whatever its plan.
    for (name, config) in [("whole", &linear), ("cosine", &linear)] {
        let before = files(&field.folder(name));
        let refused = field.fork(&field.folder("whole/checkpoint"), name, config).unwrap_err();
        assert!(matches!(refused, TrainError::Occupied { .. }), "{refused}");
        assert!(files(&field.folder(name)) == before);
    }
    let refused = field.fork(&plateau, "linear", &cosine).unwrap_err();
    assert!(matches!(refused, TrainError::OtherPlan { .. }), "{refused}");
    field.train("plain", &recipe("")).unwrap();
    let refused = field.fork(&field.folder("plain/checkpoint"), "refused", &linear).unwrap_err();
    assert!(refused.to_string().contains("begun without stages"), "{refused}");
    assert!(!field.folder("refused/key").exists());
}

#[test]
fn packed_documents_and_curricula_come_again_after_a_resume() {
    check("packing = 'best_fit'\n[[stage]]\nname = 'all'");
    check(
        "packing = 'best_fit'
         stability = { sigmas = 1.0, window = 8, rollback_after = 2, max_rollbacks = 50 }
         keep_checkpoints = 3
         [[stage]]
         name = 'easy'
         share = 0.5
         order = { by = 'length', mixing = 0.3 }
         [[stage]]
         name = 'hard'
         share = 0.5
         order = { by = 'length', direction = 'descending' }",
    );
}

#[test]
fn packed_documents_are_validated_each_by_itself() {
    let field = Field::new();
    let config = recipe(
        "packing = 'best_fit'
         validate_every = 24
         validation_sequences = 1000
         [[stage]]
         name = 'all'",
    );
    field.train("packed", &config).unwrap();
    let metrics = field.metrics("packed");
    let measured = metrics.iter().rev().find_map(|metric| match metric {
        Metric::Validation { step: 24, loss, .. } => Some(loss["sentences"]),
        _ => None,
    });

    let dir = field.folder("packed/checkpoint");
    let description = read_hf_description(&dir).unwrap();
    let weights = read_hf_weights(&dir, &description, &Device::cpu(2)).unwrap();
    let decoder = Decoder::new(&description, &weights).unwrap();
    let windows = field.dataset().windows(Split::Validation, 16, 1000).unwrap();
    let (mut sum, mut count, mut ends) = (0.0, 0, 0);
    for window in 0..windows.len() {
        let batch = windows.batch(window..window + 1).unwrap();
        let mut start = 0;
        for document in batch.tokens_bt.split_inclusive(|id| *id == field.dataset().eos_id()) {
            let end = start + document.len();
            let alone = TokenBatch::new(document, document.len());
            let scores =
                decoder.score_rows(&weights, &alone, &batch.targets_bt[start..end]).unwrap();
            sum -= scores.log_probabilities.iter().copied().map(f64::from).sum::<f64>();
            count += document.len();
            ends += usize::from(end < 16);
            start = end;
        }
    }
    assert!(ends > 0, "no window holds two documents");
    let (measured, expect) = (measured.unwrap(), sum / count as f64);
    assert!((measured - expect).abs() < 1e-5 * expect, "{measured} is not {expect}");
}

/// One stage without an order is the plain run's samples by size, only drawn in another order.
#[test]
fn a_recipe_without_stages_writes_none_of_their_keys() {
    let text = toml::to_string(&recipe("")).unwrap();
    for key in ["stage", "replay", "packing"] {
        assert!(!text.contains(key), "{key} in {text}");
    }
    let again: TrainConfig = toml::from_str(&toml::to_string(&recipe(STAGES)).unwrap()).unwrap();
    assert_eq!(again, recipe(STAGES));
}

#[test]
fn a_changed_plan_is_refused_and_goes_on_when_asked() {
    let field = Field::new();
    let first = recipe(STAGES);
    let stopped = field.train_to("run", &first, 10);
    assert!(matches!(stopped, TrainError::Interrupted { step: 10, .. }), "{stopped}");

    // From here on with more replay, and a third stage with another batch.
    let mut changed = first.clone();
    changed.steps.0 = 28;
    changed.replay[0].share = 0.5;
    changed.stages[1].steps = Some(milpa_base::Steps(10));
    let mut third = changed.stages[1].clone();
    (third.name, third.batch_size, third.steps) = ("last".to_owned(), Some(2), None);
    changed.stages.push(third);
    let refused = field.train("run", &changed).unwrap_err();
    assert!(matches!(refused, TrainError::OtherPlan { step: 10, .. }), "{refused}");
    let refused = refused.to_string();
    for part in
        ["train.steps was 24 and is 28", "train.replay", "the stage \"last\" is new", "--extend"]
    {
        assert!(refused.contains(part), "{part:?} is not in {refused}");
    }
    let before = files(&field.folder("run").join("checkpoints/step-00000010"));
    let summary = field.extend("run", &changed).unwrap();
    assert_eq!(summary.steps, 28);
    assert_eq!(summary.tokens, (14 * 4 + 10 * 6 + 4 * 2) * 16);
    // Again from the checkpoint, to the same bytes.
    let again = field.folder("again").join("checkpoints/step-00000010");
    fs::create_dir_all(&again).unwrap();
    for (name, bytes) in before {
        fs::write(again.join(name), bytes).unwrap();
    }
    let key = fs::read_to_string(field.folder("run").join("key")).unwrap();
    fs::write(field.folder("again").join("key"), "of the run before").unwrap();
    assert_eq!(field.extend("again", &changed).unwrap().digest, summary.digest);
    assert_eq!(fs::read_to_string(field.folder("again").join("key")).unwrap(), key);
    // A complete run is complete, and can be lengthened.
    assert_eq!(field.train("run", &changed).unwrap().digest, summary.digest);
    let mut longer = changed.clone();
    longer.steps.0 = 32;
    assert_eq!(field.extend("run", &longer).unwrap().steps, 32);
    // What is done stays.
    let mut shorter = changed;
    shorter.stages[0].steps = Some(milpa_base::Steps(6));
    shorter.steps.0 = 30;
    let error = field.extend("run", &shorter).unwrap_err().to_string();
    assert!(
        error.contains("14 batches of 4 samples of stage \"general blend\" are done"),
        "{error}"
    );
}

#[test]
fn stages_that_do_not_add_up_are_refused_before_anything_is_opened() {
    let refused = |more: &str, expect: &[&str]| {
        let (key, message) = recipe(more).validate().unwrap_err();
        for part in expect {
            assert!(
                format!("{key}: {message}").contains(part),
                "{part:?} is not in {key}: {message}"
            );
        }
    };
    let stages = |stages: &str, expect: &[&str]| refused(stages, expect);
    stages(
        "[[stage]]\nname = 'a'\nsteps = 20\n[[stage]]\nname = 'b'\nsteps = 10",
        &[
            "train.stage",
            "take 30 steps (a 20, b 10), but train.steps is 24",
            "shorten the stages by 6",
        ],
    );
    stages(
        "[[stage]]\nname = 'a'\ntokens = 1000\n[[stage]]\nname = 'b'\nshare = 0.1",
        &["take 18 steps (a 16, b 2)", "lengthen the stages by 6"],
    );
    stages("[[stage]]\nname = 'a'\n[[stage]]\nname = 'b'", &["2 stages say neither"]);
    stages("[[stage]]\nname = 'a'\nsteps = 24\n[[stage]]\nname = 'b'", &["leave none for \"b\""]);
    stages("[[stage]]\nname = 'a'\nsteps = 4\nshare = 0.5", &["two budgets"]);
    stages("[[stage]]\nname = 'a'\nshare = 1.5", &["share 1.5"]);
    stages(
        "[[stage]]\nname = 'a'\nsteps = 4\n[[stage]]\nname = 'a'",
        &["two stages are called \"a\""],
    );
    stages("[[stage]]\nname = 'a'\nbatch_size = 3", &["no multiple of train.micro_batch_size"]);
    stages("[[stage]]\nname = 'a'\nmixture = { x = -1 }", &["stage \"a\"", "-1"]);
    stages("[[stage]]\nname = 'a'\nreplay = { general = 0.1 }", &["[[train.replay]] has nothing"]);
    stages("[[stage]]\nname = 'a'\norder = { by = 'length', mixing = 2.0 }", &["mixing is 2"]);
    refused(
        "[[stage]]\nname = 'a'\nschedule = [{ shape = 'constant' }]",
        &["train.schedule", "stage \"a\" has a schedule of its own", "kind = \"stages\""],
    );
    refused(
        "schedule = { kind = 'stages' }\n[[stage]]\nname = 'a'\nschedule = [{ shape = 'constant', steps = 9 }]",
        &[
            "the schedule of stage \"a\"",
            "take 9 steps, but the stage has 24",
            "lengthen them by 15",
        ],
    );
    refused(
        "schedule = { kind = 'stages' }\n[[stage]]\nname = 'a'",
        &["the schedule of stage \"a\"", "no pieces"],
    );
    refused("schedule = { kind = 'stages' }", &["needs [[train.stage]] tables"]);
    refused("packing = 'best_fit'", &["train.packing needs a run in stages"]);
    refused("[[replay]]\nname = 'x'\nshare = 0.1", &["[[train.replay]] needs a run in stages"]);
    refused(
        "[[replay]]\nname = 'x'\nshare = 1.0\n[[stage]]\nname = 'a'",
        &["replay takes 1 of it"],
    );
}

#[test]
fn a_source_that_runs_out_of_epochs_is_refused_before_the_first_step() {
    let field = Field::new();
    let more = "[[stage]]\nname = 'a'\nmixture = { sentences = { weight = 1, epochs = 0.2 } }";
    let error = field.train("run", &recipe(more)).unwrap_err().to_string();
    assert!(error.contains("stage \"a\": \"sentences\" runs out of epochs"), "{error}");
    assert!(files(&field.folder("run")).is_empty(), "the folder is untouched");
}

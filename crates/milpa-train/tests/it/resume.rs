//! An interrupted run ends in the bytes of an uninterrupted one.

use std::{cell::RefCell, collections::BTreeMap};

use milpa_train::{AVERAGED_CHECKPOINT, Metric, Noted, TrainError};
use safetensors::SafeTensors;

use crate::harness::{Beside, Field, files, recipe};

/// Trains `more` at once, and again with stops between and on the steps of checkpoints.
pub(crate) fn check(more: &str) -> Vec<Metric> {
    let (field, config) = (Field::new(), recipe(more));
    let whole = field.train("whole", &config).unwrap();
    for step in [3, 8, 13] {
        let stopped = field.train_to("cut", &config, step);
        assert!(
            matches!(stopped, TrainError::Interrupted { step: at, .. } if at == step),
            "{more}: {stopped}"
        );
    }
    let cut = field.train("cut", &config).unwrap();
    assert_eq!(files(&cut.checkpoint), files(&whole.checkpoint), "{more}");
    assert_eq!(cut.digest, whole.digest, "{more}");
    let losses = |name: &str| -> Vec<(u64, f64)> {
        let of = |metric| {
            if let Metric::Step { step, loss, .. } = metric { Some((step, loss)) } else { None }
        };
        field.metrics(name).into_iter().filter_map(of).collect()
    };
    assert_eq!(losses("cut"), losses("whole"), "{more}");
    let loss = |step: usize| losses("whole")[step - 1].1;
    assert!(loss(24) < loss(1), "{more}: it learns");
    field.metrics("whole")
}

#[test]
fn an_interrupted_run_ends_in_the_same_bytes() {
    check("");
    check(
        "optimizer = { kind = 'muon', learning_rate = 0.01, embedding_learning_rate = 0.01 }
         schedule = { kind = 'warmup_stable_decay_cycles', cycles = [10, 14], decay = 4, shape = 'one_minus_sqrt' }",
    );
}

/// With limits as narrow as half a deviation, ordinary steps are skipped and undone.
#[test]
fn skipped_and_undone_steps_come_again_after_a_resume() {
    let narrow = "keep_checkpoints = 3
        stability = { sigmas = 1.0, window = 8, rollback_after = 2, max_rollbacks = 50 }";
    let metrics = check(narrow);
    let skipped = |metric: &&Metric| matches!(metric, Metric::Step { skipped: true, .. });
    assert!(metrics.iter().any(|metric| skipped(&metric)), "steps were skipped");
    let last = metrics.iter().rfind(|metric| matches!(metric, Metric::Rollback { .. }));
    let Some(Metric::Rollback { step, from_step, batches_passed_over }) = last else {
        panic!("the run went back");
    };
    assert!(step <= from_step && *batches_passed_over > from_step - step);
}

/// Whoever watches knows what stands in the file, after steps that are taken again too.
#[test]
fn who_watches_is_told_what_stands_in_the_metrics() {
    let field = Field::new();
    let config = recipe(
        "keep_checkpoints = 3
        stability = { sigmas = 1.0, window = 8, rollback_after = 2, max_rollbacks = 50 }",
    );
    field.train_to("watched", &config, 11);
    let (told, kept) = (RefCell::new(Vec::new()), RefCell::new(0));
    let on_metric = |noted: Noted<'_>| match noted {
        Noted::Kept(metrics) => {
            *kept.borrow_mut() += 1;
            told.replace(metrics.to_vec());
        }
        Noted::Added(metric) => told.borrow_mut().push(metric.clone()),
    };
    let beside = Beside { on_metric: Some(&on_metric), ..Beside::default() };
    field.train_beside("watched", &config, &beside).unwrap();
    // As text: a number may change in its last bit when it is read back.
    let told: Vec<String> =
        told.into_inner().iter().map(|metric| serde_json::to_string(metric).unwrap()).collect();
    let file = std::fs::read_to_string(field.folder("watched").join("metrics.jsonl")).unwrap();
    assert_eq!(told, file.lines().collect::<Vec<_>>());
    assert!(kept.into_inner() > 1, "it began in the middle and went back");
}

#[test]
fn a_run_that_going_back_does_not_help_says_so() {
    let never = "keep_checkpoints = 3
        stability = { sigmas = 1e-9, window = 4, rollback_after = 2, max_rollbacks = 1 }";
    let error = Field::new().train("run", &recipe(never)).unwrap_err();
    assert!(matches!(error, TrainError::Unstable { rollbacks: 1, .. }), "{error}");
}

#[test]
fn an_average_and_narrow_states_come_again_after_a_resume() {
    check("average = { decay = 0.8 }");
    check("optimizer = { kind = 'adam_w', learning_rate = 0.01, state_precision = 'bf16' }");
    check("optimizer = { kind = 'lion', learning_rate = 0.002, state_precision = 'bf16' }");
    check(
        "average = { decay = 0.5 }
         optimizer = { kind = 'muon', learning_rate = 0.01, embedding_learning_rate = 0.01, state_precision = 'bf16' }",
    );
}

/// All tensors of a checkpoint's files, by the file that they would be in and by name.
fn tensors(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<(String, String), Vec<u8>> {
    let mut found = BTreeMap::new();
    for (file, bytes) in files.iter().filter(|(file, _)| file.ends_with(".safetensors")) {
        let stem = file.split(['-', '.']).next().unwrap();
        for (name, view) in SafeTensors::deserialize(bytes).unwrap().tensors() {
            assert!(found.insert((stem.to_owned(), name), view.data().to_vec()).is_none());
        }
    }
    found
}

/// How checkpoints are cut into files changes nothing that is trained, and is no other run: a run that
/// began with whole files goes on with shards, and the other way round.
#[test]
fn checkpoints_in_shards_come_again_after_a_resume() {
    let average = "average = { decay = 0.8 }";
    let in_shards = format!("{average}\nmax_shard_size = '4 KiB'");
    check(&in_shards);
    let (field, in_files) = (Field::new(), recipe(average));
    let in_shards = recipe(&in_shards);
    let whole = field.train("whole", &in_files).unwrap();
    let sharded = field.train("sharded", &in_shards).unwrap();
    let both = |name: &str| {
        let [whole, sharded] = ["whole", "sharded"].map(|run| files(&field.folder(run).join(name)));
        assert!(whole.contains_key("model.safetensors"));
        for stem in ["model", "optimizer", "average"] {
            let has = |file: &str| sharded.contains_key(file);
            let was = whole.contains_key(&format!("{stem}.safetensors"));
            assert_eq!(has(&format!("{stem}.safetensors.index.json")), was, "{name}: {stem}");
            assert!(!has(&format!("{stem}.safetensors")), "{name}: {stem}");
        }
        assert!(sharded.keys().any(|file| file.starts_with("model-00002-of-")));
        assert!(!whole.keys().any(|file| file.ends_with(".index.json")));
        assert_eq!(tensors(&whole), tensors(&sharded), "{name}");
        [whole, sharded].map(|files| files["manifest.toml"].clone())
    };
    both(AVERAGED_CHECKPOINT);
    let manifests = both("checkpoint").map(|text| String::from_utf8(text).unwrap());
    let key = |text: &str| {
        text.lines().find(|line| line.starts_with("key = ")).map(str::to_owned).unwrap()
    };
    assert_eq!(key(&manifests[0]), key(&manifests[1]));
    for (name, first, then, expect) in [
        ("to-shards", &in_files, &in_shards, &sharded),
        ("to-files", &in_shards, &in_files, &whole),
    ] {
        field.train_to(name, first, 13);
        let run = field.train(name, then).unwrap();
        assert_eq!(files(&run.checkpoint), files(&expect.checkpoint), "{name}");
    }
    // What is complete stays as it is.
    assert_eq!(field.train("whole", &in_shards).unwrap().digest, whole.digest);
}

/// The z-loss is told beside the loss, and pulls on the normaliser without harm to what is learned.
#[test]
fn lion_and_the_z_loss_come_again_after_a_resume() {
    let optimizer = "optimizer = { kind = 'lion', learning_rate = 0.002 }";
    let z_losses = |metrics: Vec<Metric>| -> Vec<Option<f64>> {
        let z_loss = |metric| match metric {
            Metric::Step { z_loss, .. } => Some(z_loss),
            _ => None,
        };
        metrics.into_iter().filter_map(z_loss).collect()
    };
    assert!(z_losses(check(optimizer)).iter().all(Option::is_none));
    let with = z_losses(check(&format!("{optimizer}\nz_loss = 0.05")));
    let (first, last) = (with[0].unwrap(), with[23].unwrap());
    assert!(first > 0.0 && last < 0.9 * first, "{first} to {last}");
}

#[test]
fn a_run_with_rates_of_another_width_comes_again_after_a_resume() {
    for optimizer in [
        "{ kind = 'adam_w', learning_rate = 0.01 }",
        "{ kind = 'muon', learning_rate = 0.01, embedding_learning_rate = 0.01 }",
    ] {
        check(&format!("mup = {{ base_width = 4 }}\noptimizer = {optimizer}"));
    }
}

/// What a wider model is trained with is in its weights: its files say nothing of it.
#[test]
fn the_files_of_a_model_need_no_multiplier() {
    let field = Field::new();
    let plain = field.train("plain", &recipe("")).unwrap();
    let base = field.train("base", &recipe("mup = { base_width = 16 }")).unwrap();
    let wide = field.train("wide", &recipe("mup = { base_width = 4 }")).unwrap();
    let [plain, base, wide] = [plain, base, wide].map(|run| files(&run.checkpoint));
    assert_eq!(plain["model.safetensors"], base["model.safetensors"], "the base is as it was");
    assert_ne!(plain["model.safetensors"], wide["model.safetensors"]);
    assert_eq!(plain["config.json"], wide["config.json"]);
}

/// The averaged checkpoint is a model of its own, and the training is the one without an average.
#[test]
fn the_average_is_written_beside_the_final_checkpoint() {
    let field = Field::new();
    let plain = field.train("plain", &recipe("")).unwrap();
    let averaged = field.train("averaged", &recipe("average = { decay = 0.8 }")).unwrap();
    let (plain, last) = (files(&plain.checkpoint), files(&averaged.checkpoint));
    let average = files(&field.folder("averaged").join(AVERAGED_CHECKPOINT));
    let weights = "model.safetensors";
    assert_eq!(plain[weights], last[weights]);
    assert_eq!(average[weights].len(), last[weights].len());
    assert_ne!(average[weights], last[weights]);
    assert_eq!(average["config.json"], last["config.json"]);
    assert!(!field.folder("plain").join(AVERAGED_CHECKPOINT).exists());
}

#[test]
fn states_that_would_stand_still_in_bf16_are_refused() {
    let config = recipe(
        "optimizer = { kind = 'adam_w', learning_rate = 0.01, beta2 = 0.999, state_precision = 'bf16' }",
    );
    let (key, message) = config.validate().unwrap_err();
    assert_eq!(key, "train.optimizer");
    assert!(message.contains("0.999 stands still in bf16"), "{message}");
    let lion = |beta2: f64| {
        recipe(&format!(
            "optimizer = {{ kind = 'lion', learning_rate = 0.001, beta2 = {beta2}, state_precision = 'bf16' }}"
        ))
    };
    assert!(lion(0.99).validate().is_ok());
    assert!(lion(0.995).validate().is_err());
}

/// A rate at which the weights leave the range of f32.
#[test]
fn a_run_that_diverges_says_what_was_not_finite_first() {
    let wild = "optimizer = { kind = 'adam_w', learning_rate = 1e38, weight_decay = 0.0 }";
    let error = Field::new().train("run", &recipe(wild)).unwrap_err().to_string();
    assert!(error.contains("training diverged ("), "{error}");
    assert!(error.contains("finite"), "{error}");
}

//! An interrupted run ends in the bytes of an uninterrupted one.

use milpa_train::{AVERAGED_CHECKPOINT, Metric, TrainError};

use crate::harness::{Field, files, recipe};

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
    check(
        "average = { decay = 0.5 }
         optimizer = { kind = 'muon', learning_rate = 0.01, embedding_learning_rate = 0.01, state_precision = 'bf16' }",
    );
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
}

/// A rate at which the weights leave the range of f32.
#[test]
fn a_run_that_diverges_says_what_was_not_finite_first() {
    let wild = "optimizer = { kind = 'adam_w', learning_rate = 1e38, weight_decay = 0.0 }";
    let error = Field::new().train("run", &recipe(wild)).unwrap_err().to_string();
    assert!(error.contains("training diverged ("), "{error}");
    assert!(error.contains("finite"), "{error}");
}

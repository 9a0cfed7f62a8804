//! An interrupted run ends in the bytes of an uninterrupted one.

use milpa_train::{Metric, TrainError};

use crate::harness::{Field, files, recipe};

/// Trains `more` at once, and again with stops between and on the steps of checkpoints.
fn check(more: &str) {
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
}

#[test]
fn an_interrupted_run_ends_in_the_same_bytes() {
    check("");
    check(
        "optimizer = { kind = 'muon', learning_rate = 0.01, embedding_learning_rate = 0.01 }
         schedule = { kind = 'warmup_stable_decay_cycles', cycles = [10, 14], decay = 4, shape = 'one_minus_sqrt' }",
    );
}

//! Training that goes on from a base: what it begins with, what is measured, and the limit on forgetting.

use std::{
    cell::Cell,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use milpa_base::{Silent, StopFlag, TextRecord};
use milpa_tensor::ParameterStore;
use milpa_tokens::Split;
use milpa_train::{
    Activity, ForgettingReport, Metric, Noted, Pulse, State, TrainConfig, TrainError, Watchdog,
    read_forgetting,
};

use crate::harness::{Beside, Field, StopAfter, files, flip, recipe};

/// 24 steps on numbers, measured against the sentences that the base knew.
fn continued(replay: f64, more: &str) -> TrainConfig {
    let text = format!(
        "forgetting = {{ general = 'general', every = 8, pieces = 6, in_context = 6{more} }}
         average = {{ decay = 0.9 }}
         stage = [{{ name = 'all' }}]
         replay = [{{ name = 'sentences', tokens = 'general', share = {replay} }}]"
    );
    let mut config = recipe(&text);
    config.checkpoint_every.0 = 4;
    config
}

fn limit(percent: f64) -> String {
    format!(", limit = {{ percent = {percent}, replay = 'sentences' }}")
}

fn forgetting(metrics: &[Metric]) -> Vec<(u64, f64)> {
    let one = |metric: &Metric| match metric {
        Metric::Forgetting { step, forgetting, .. } => Some((*step, *forgetting)),
        _ => None,
    };
    metrics.iter().filter_map(one).collect()
}

fn control(metrics: &[Metric]) -> Vec<(u64, String, f64, f64)> {
    let one = |metric: &Metric| match metric {
        Metric::Control { step, action, replay, learning_rate, .. } => {
            Some((*step, action.clone(), *replay, *learning_rate))
        }
        _ => None,
    };
    metrics.iter().filter_map(one).collect()
}

/// The same but for what depends on the clock.
fn report(out: &Path) -> ForgettingReport {
    read_forgetting(out).unwrap().unwrap()
}

#[test]
fn a_run_begins_with_its_base_and_is_held_against_it() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let train = |name: &str, config: &TrainConfig| {
        field.go_on_from("base", name, config, &Silent, &StopFlag::default())
    };
    let mut still = continued(0.0, "");
    still.optimizer = toml::from_str("kind = 'adam_w'\nlearning_rate = 1e-9").unwrap();
    let summary = train("still", &still).unwrap();
    let report_of_still = summary.forgetting.unwrap();
    let last = &report_of_still.candidates[0];
    assert!(last.forgetting.value.abs() < 1e-3, "{}", last.forgetting.value);
    assert!(last.adaptation.value.abs() < 1e-3, "{}", last.adaptation.value);

    let summary = train("moved", &continued(0.0, "")).unwrap();
    let metrics = field.metrics("moved");
    let measured = forgetting(&metrics);
    assert_eq!(measured.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [8, 16, 24]);
    let report = summary.forgetting.unwrap();
    let took: Vec<(u64, &str)> = metrics
        .iter()
        .filter_map(|metric| match metric {
            Metric::Measured { step, name, seconds } if *seconds > 0.0 => {
                Some((*step, name.as_str()))
            }
            _ => None,
        })
        .collect();
    assert_eq!((took[0], took[1], took.len()), ((0, "base"), (24, "final"), 6), "{took:?}");
    assert_eq!(continued(0.0, "").measurements(0), [3, 5]);
    let names: Vec<&str> = report.candidates.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["final", "average", "0.25 base", "0.5 base", "0.75 base"]);
    assert_eq!(report.chosen, "final");
    let last = &report.candidates[0];
    assert_eq!(last.forgetting.value, measured[2].1);
    assert!(last.forgetting.value > 0.5 && last.adaptation.value > 5.0, "{last:?}");
    // On the way back to the base less is forgotten and less is known.
    assert!(report.candidates[4].forgetting.value < last.forgetting.value);
    assert!(report.candidates[4].adaptation.value < last.adaptation.value);
    assert!(field.folder("moved/forgetting.svg").is_file());
    let chosen = files(&field.folder("moved/checkpoint-chosen"));
    let final_weights = files(&field.folder("moved/checkpoint"));
    assert_eq!(chosen["model.safetensors"], final_weights["model.safetensors"]);
}

#[test]
fn what_a_measurement_reads_is_counted_before_it_is_read() {
    let field = Field::new();
    let counts = field.dataset().counts(Split::Validation);
    let (source, held_out) = counts.first_key_value().unwrap();
    assert_eq!(counts.len(), 1);
    let mut config = continued(0.1, "");
    let length = config.sequence_length as u64;
    let pieces = |config: &TrainConfig| config.measured_pieces(field.dataset(), field.dataset());
    assert_eq!(pieces(&config), [((held_out.tokens - 1) / length).min(6); 2]);
    // A source of the run's own that is replay is not what it adapts to.
    let mut own = config.replay[0].clone();
    (own.name, own.tokens) = (source.clone(), None);
    config.replay.push(own);
    assert_eq!(pieces(&config)[0], 0);
    config.forgetting = None;
    assert_eq!(pieces(&config), [0; 2]);
}

#[test]
fn the_watchdog_hears_that_the_base_is_measured() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let (sender, receiver) = mpsc::channel();
    let pulse = Arc::new(Pulse::default());
    let limit = Some(Duration::from_secs(3));
    let watchdog = Watchdog::start(Arc::clone(&pulse), limit, move |hang| {
        sender.send(hang.activity).unwrap();
    });
    // The metrics are opened once the base is measured; nothing goes on until the silence is noticed.
    let wait = |noted: Noted<'_>| {
        if matches!(noted, Noted::Kept(_)) {
            let activity = receiver.recv_timeout(Duration::from_mins(1)).unwrap();
            assert_eq!(activity, Activity::Validation);
        }
    };
    let beside = Beside { pulse, on_metric: Some(&wait), ..Beside::default() };
    let config = continued(0.0, "");
    field.go_on_beside("base", "run", &config, &beside, &Silent, &StopFlag::default()).unwrap();
    drop(watchdog);
}

#[test]
fn what_was_chosen_is_chosen_again_where_it_is_lost() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let train_with = |name: &str, config: &TrainConfig| {
        field.go_on_from("base", name, config, &Silent, &StopFlag::default()).unwrap()
    };
    let free = train_with("free", &continued(0.0, "")).forgetting.unwrap();
    let config = continued(0.0, &limit(free.candidates[0].forgetting.value / 3.0));
    let train = || train_with("run", &config);
    let summary = train();
    let read = || {
        let of = |part: &str| files(&field.folder("run").join(part));
        (of("checkpoint"), of("checkpoint-chosen"), report(&field.folder("run")))
    };
    let (expect, measured) = (read(), forgetting(&field.metrics("run")));
    let chosen = field.folder("run/checkpoint-chosen");
    std::fs::remove_file(chosen.join("model.safetensors")).unwrap();
    assert_eq!(train().digest, summary.digest);
    assert!(read() == expect);
    std::fs::remove_dir_all(&chosen).unwrap();
    train();
    assert!(read() == expect);
    assert_eq!(forgetting(&field.metrics("run")), measured);
}

#[test]
fn a_run_under_a_limit_that_is_cut_ends_in_the_same_bytes() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let free = field
        .go_on_from("base", "free", &continued(0.0, ""), &Silent, &StopFlag::default())
        .unwrap()
        .forgetting
        .unwrap()
        .candidates[0]
        .forgetting
        .value;
    let config = continued(0.0, &limit(free / 3.0));
    let whole = |name: &str| {
        field.go_on_from("base", name, &config, &Silent, &StopFlag::default()).unwrap()
    };
    let summary = whole("whole");
    let metrics = field.metrics("whole");
    let acted = control(&metrics);
    assert!(
        acted.iter().any(|(_, action, replay, _)| action != "hold" && *replay > 0.0),
        "{acted:?}"
    );
    let replayed = metrics.iter().any(|metric| {
        matches!(metric, Metric::Data { tokens, .. } if tokens.contains_key("sentences/sentences"))
    });
    assert!(replayed, "no sample of the replay was drawn: {acted:?}");
    let state: State =
        serde_json::from_slice(&files(&field.folder("whole/checkpoint"))["state.json"]).unwrap();
    assert!(!state.control.unwrap().changes.is_empty());
    let report_of_whole = summary.forgetting.unwrap();
    assert_eq!(report_of_whole.limit, Some(free / 3.0));

    for step in [3, 9, 13, 18] {
        let name = format!("cut-{step}");
        let stop = StopFlag::default();
        let watch = StopAfter { line: format!("after step {step}:"), stop: stop.clone() };
        let error = field.go_on_from("base", &name, &config, &watch, &stop).unwrap_err();
        assert!(matches!(error, TrainError::Interrupted { .. }), "{error}");
        whole(&name);
        for part in ["checkpoint", "checkpoint-chosen"] {
            let expect = files(&field.folder("whole").join(part));
            assert!(
                files(&field.folder(&name).join(part)) == expect,
                "{part} after a cut at {step}"
            );
        }
        assert_eq!(control(&field.metrics(&name)), acted);
        assert_eq!(report(&field.folder(&name)), report_of_whole);
    }
    // A stop within a measurement, and a death before the next checkpoint.
    let checkpoints = |name: &str| files(&field.folder(name).join("checkpoints"));
    for (step, dies) in [(8, Some(10)), (16, Some(18)), (24, None)] {
        let name = format!("within-{step}");
        let cut = |line: String| {
            let stop = StopFlag::default();
            let watch = StopAfter { line, stop: stop.clone() };
            let cut = field.go_on_from("base", &name, &config, &watch, &stop);
            assert!(matches!(cut, Err(TrainError::Interrupted { .. })), "{cut:?}");
        };
        cut(format!("validation after step {step}:"));
        assert!(control(&field.metrics(&name)).iter().all(|(at, ..)| *at != step), "{name}");
        if let Some(dies) = dies {
            cut(format!("validation after step {dies}:"));
            let last = field.folder(&name).join(format!("checkpoints/step-{dies:08}"));
            std::fs::remove_dir_all(last).unwrap();
        }
        whole(&name);
        let expect = files(&field.folder("whole/checkpoint"));
        assert!(files(&field.folder(&name).join("checkpoint")) == expect, "{name}");
        assert_eq!(control(&field.metrics(&name)), acted, "{name}");
        assert!(checkpoints(&name) == checkpoints("whole"), "{name}");
    }
}

#[test]
fn what_led_the_controller_back_stays_known_when_outliers_lead_back_as_well() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let mut config = continued(
        0.05,
        ", limit = { percent = 1e-6, replay = 'sentences', largest_replay = 0.1, \
         least_learning_rate = 0.25 }",
    );
    config.forgetting.as_mut().unwrap().every.0 = 4;
    config.keep_checkpoints = 3;
    config.stability =
        Some(toml::from_str("sigmas = 1e3\nwindow = 4\nrollback_after = 2").unwrap());
    let (visits, hurt_at) = (Cell::new(0), [2, 3]);
    let hurt = |step: u64, parameters: &mut ParameterStore| {
        visits.set(visits.get() + u64::from(step == hurt_at[0]));
        // The controller has led back once; outliers come before the next checkpoint.
        if visits.get() == 2 && hurt_at.contains(&step) {
            let device = parameters.device().clone();
            let parameter = parameters.iter_mut().next().unwrap();
            device.fill(parameter.grad_mut().unwrap(), f32::NAN);
        }
    };
    let beside = Beside { on_gradients: Some(&hurt), ..Beside::default() };
    let stop = StopFlag::default();
    let _ = field.go_on_beside("base", "run", &config, &beside, &Silent, &stop);
    let metrics = field.metrics("run");
    let back: Vec<(f64, f64)> = control(&metrics)
        .into_iter()
        .filter(|(_, action, ..)| action == "roll back")
        .map(|(_, _, replay, learning_rate)| (replay, learning_rate))
        .collect();
    assert_eq!(back, [(0.1, 1.0), (0.1, 0.5)]);
    let outliers = metrics.iter().filter(|metric| matches!(metric, Metric::Rollback { .. }));
    assert_eq!(outliers.count(), 1);
}

#[test]
fn a_run_whose_checkpoint_to_go_back_to_is_damaged_goes_on_from_where_it_stands() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let mut config = continued(0.0, "");
    config.forgetting.as_mut().unwrap().every.0 = 4;
    let stop = StopFlag::default();
    field.go_on_from("base", "free", &config, &Silent, &stop).unwrap();
    let after_4 = field.metrics("free").into_iter().find_map(|metric| match metric {
        Metric::Forgetting { forgetting_interval, .. } => forgetting_interval,
        _ => None,
    });
    // It is below the limit after 4 steps, and so little can be replayed that it is above it after 8.
    let percent = after_4.unwrap().1 + 1e-3;
    let limit = format!("percent = {percent}\nreplay = 'sentences'\nlargest_replay = 0.02");
    config.forgetting.as_mut().unwrap().limit = Some(toml::from_str(&limit).unwrap());
    let first_back = |name: &str, damages: bool| {
        let kept = field.folder(name).join("checkpoints/step-00000004");
        let damage = |step: u64, _: &mut ParameterStore| {
            if step == 6 && damages {
                flip(&kept);
            }
        };
        let beside = Beside { on_gradients: Some(&damage), ..Beside::default() };
        let _ = field.go_on_beside("base", name, &config, &beside, &Silent, &stop);
        let acted = field.metrics(name).into_iter().filter_map(|metric| match metric {
            Metric::Control { step, action, reason, .. } => Some((step, action, reason)),
            _ => None,
        });
        let second = acted.into_iter().nth(1).unwrap();
        (second.0, second.1, second.2)
    };
    let (step, action, reason) = first_back("whole", false);
    assert_eq!((step, &*action), (5, "roll back"), "{reason}");
    let (step, action, reason) = first_back("damaged", true);
    assert_eq!((step, &*action), (8, "change"), "{reason}");
    assert!(reason.contains("it cannot go back"), "{reason}");
}

#[test]
fn an_adapter_leaves_the_base_as_it_was_and_comes_again_after_a_cut() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let mut config = continued(0.2, "");
    config.lora = Some(toml::from_str("rank = 4\ndora = true").unwrap());
    let train = |name: &str| {
        field.go_on_from("base", name, &config, &Silent, &StopFlag::default()).unwrap()
    };
    let summary = train("whole");
    let report = summary.forgetting.unwrap();
    assert!(report.candidates[0].adaptation.value > 1.0, "{:?}", report.candidates[0].adaptation);
    let expect = files(&field.folder("whole/checkpoint"));
    assert!(expect.contains_key("adapter/adapter_model.safetensors"));
    let tensor = |folder: &str, name: &str| {
        let bytes = &files(&field.folder(folder))["model.safetensors"];
        let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
        tensors.tensor(name).unwrap().data().to_vec()
    };
    let same = |name: &str| tensor("base/checkpoint", name) == tensor("whole/checkpoint", name);
    assert!(same("model.embed_tokens.weight") && same("model.norm.weight"));
    assert!(!same("model.layers.0.self_attn.q_proj.weight"));
    let stop = StopFlag::default();
    let watch = StopAfter { line: "after step 13:".to_owned(), stop: stop.clone() };
    field.go_on_from("base", "cut", &config, &watch, &stop).unwrap_err();
    train("cut");
    assert!(files(&field.folder("cut/checkpoint")) == expect);

    let mut new = recipe("");
    new.lora = config.lora.clone();
    let error = field.train("new", &new).unwrap_err().to_string();
    assert!(error.contains("needs a [base]"), "{error}");
}

#[test]
fn a_limit_that_cannot_be_held_stops_the_run_and_names_the_checkpoint() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let mut config = continued(
        0.0,
        ", limit = { percent = 1e-6, replay = 'sentences', largest_replay = 0.02, \
         least_learning_rate = 0.5, max_rollbacks = 0 }",
    );
    config.forgetting.as_mut().unwrap().every.0 = 4;
    let error =
        field.go_on_from("base", "run", &config, &Silent, &StopFlag::default()).unwrap_err();
    assert!(
        matches!(error, TrainError::ForgetsTooMuch { step: 12, checkpoint: None, .. }),
        "{error}"
    );
    let actions: Vec<String> =
        control(&field.metrics("run")).into_iter().map(|(_, action, ..)| action).collect();
    assert_eq!(actions, ["change", "change", "stop"]);
    assert!(milpa_train::was_stopped(&field.folder("run")));
    assert!(!milpa_train::was_stopped(&field.folder("base")));
}

#[test]
fn a_run_that_ends_above_its_limit_keeps_everything_and_is_no_success() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let mut config = continued(0.0, &limit(1e-6));
    // Only the end is measured, where nothing can be changed any more.
    config.forgetting.as_mut().unwrap().every.0 = 24;
    let run =
        || field.go_on_from("base", "run", &config, &Silent, &StopFlag::default()).unwrap_err();
    let error = run();
    let TrainError::AboveLimit { chosen, path, checkpoint, .. } = &error else { panic!("{error}") };
    assert_eq!(*path, field.folder("run/forgetting.json"));
    let written = report(&field.folder("run"));
    assert_eq!((written.within_limit, &written.chosen), (Some(false), chosen));
    assert!(checkpoint.join("model.safetensors").is_file());
    assert!(field.folder("run/forgetting.svg").is_file());
    let (weights, metrics) = (files(&field.folder("run/checkpoint")), field.metrics("run"));
    // It is complete: nothing is trained again, and it is said again.
    assert_eq!(run().to_string(), error.to_string());
    assert!(files(&field.folder("run/checkpoint")) == weights);
    assert_eq!(field.metrics("run"), metrics);
}

#[test]
fn where_the_replay_does_not_last_the_rate_is_cut() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let mut config = continued(
        0.05,
        ", limit = { percent = 1e-6, replay = 'sentences', least_learning_rate = 0.25 }",
    );
    config.forgetting.as_mut().unwrap().every.0 = 4;
    // A share of 0.05 takes 5 samples of it; a few more may be drawn.
    config.replay[0].epochs = Some(0.02);
    let run = |name: &str| {
        field.go_on_from("base", name, &config, &Silent, &StopFlag::default()).unwrap_err()
    };
    let error = run("whole");
    assert!(matches!(error, TrainError::ForgetsTooMuch { step: 8, .. }), "{error}");
    let metrics = field.metrics("whole");
    let acted = control(&metrics);
    // The first time half of what was asked for is to be had; from then on the rate is cut, and what is
    // written is what was done.
    let replay = acted[0].2;
    assert!(replay > 0.05 && replay < 0.104, "{acted:?}");
    let expect =
        [(1, "roll back", 1.0), (1, "roll back", 0.5), (4, "change", 0.25), (8, "stop", 0.25)];
    let expect = expect.map(|(step, action, rate)| (step, action.to_owned(), replay, rate));
    assert_eq!(acted, expect);
    let reason = metrics.iter().find_map(|metric| match metric {
        Metric::Control { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    let reason = reason.unwrap();
    assert!(
        reason.contains(&format!("with replay 5.0 % → {:.1} %", replay * 100.0))
            && reason.contains("more replay cannot be drawn")
            && reason.contains("out of epochs"),
        "{reason}"
    );
    // What was refused is remembered across a cut.
    let stop = StopFlag::default();
    let watch = StopAfter { line: "after step 6:".to_owned(), stop: stop.clone() };
    field.go_on_from("base", "cut", &config, &watch, &stop).unwrap_err();
    run("cut");
    assert_eq!(control(&field.metrics("cut")), acted);
}

#[test]
fn every_number_of_the_metrics_has_its_interval_and_what_is_too_short_is_said() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let config = continued(0.0, "");
    let report_of = |name: &str, config: &TrainConfig| {
        let done = field.go_on_from("base", name, config, &Silent, &StopFlag::default());
        done.unwrap().forgetting.unwrap()
    };
    let report = report_of("run", &config);
    let texts = &report.candidates[0].texts;
    // Every sentence and every number is a document of its own, and pieces are of several of them.
    assert!(
        texts.iter().all(|text| text.documents > 1 && text.documents <= text.texts),
        "{texts:?}"
    );
    assert!(report.not_measured.is_empty());
    for metric in field.metrics("run") {
        let Metric::Forgetting {
            bits_per_byte,
            bits_per_byte_change,
            accuracy,
            accuracy_change,
            divergence,
            divergence_interval,
            refused,
            ..
        } = metric
        else {
            continue;
        };
        assert!(bits_per_byte.keys().eq(bits_per_byte_change.keys()) && bits_per_byte.len() == 2);
        assert!(accuracy.keys().eq(accuracy_change.keys()) && accuracy.len() == 1);
        for (domain, (low, high)) in bits_per_byte_change {
            let (base, now) = bits_per_byte[&domain];
            assert!(low <= now - base && now - base <= high, "{domain}: {low} to {high}");
        }
        let (low, high) = divergence_interval.unwrap();
        assert!(low <= divergence.unwrap() && divergence.unwrap() <= high && refused.is_empty());
    }
}

#[test]
fn a_source_that_is_too_short_is_named_and_left_out() {
    let note =
        TextRecord { id: "note".to_owned(), source: "notes".to_owned(), text: "Sara.".to_owned() };
    let field = Field::with_held_out(vec![note]);
    field.train("base", &recipe("")).unwrap();
    let config = continued(0.0, "");
    let stop = StopFlag::default();
    let line = "forgetting: not measured: notes: its held-out text has ".to_owned();
    let watch = StopAfter { line, stop: stop.clone() };
    field.go_on_from("base", "run", &config, &watch, &stop).unwrap_err();
    field.go_on_from("base", "run", &config, &Silent, &StopFlag::default()).unwrap();
    let report = report(&field.folder("run"));
    let [left_out] = &report.not_measured[..] else { panic!("{:?}", report.not_measured) };
    assert!(left_out.starts_with("notes: ") && left_out.ends_with("one more, 17"), "{left_out}");
    let domains: Vec<&str> =
        report.candidates[0].texts.iter().map(|text| text.domain.as_str()).collect();
    assert_eq!(domains, ["general/sentences", "numbers"]);
}

#[test]
fn the_questions_of_a_run_are_part_of_what_it_is() {
    let field = Field::new();
    field.train("base", &recipe("")).unwrap();
    let questions = field.folder("questions.jsonl");
    let mut config = continued(0.0, "");
    config.forgetting.as_mut().unwrap().tasks.push(
        toml::from_str(&format!("task = 'mul/in_context'\ndata = '{}'", questions.display()))
            .unwrap(),
    );
    let hashes = || config.forgetting.as_ref().unwrap().task_hashes();
    assert!(hashes().unwrap_err().to_string().contains("questions.jsonl"));
    std::fs::write(&questions, "one").unwrap();
    let one = hashes().unwrap();
    assert_eq!(one.len(), 1);
    std::fs::write(&questions, "other").unwrap();
    assert_ne!(hashes().unwrap(), one);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let field = Field::new();
    let mut new = continued(0.0, "");
    new.replay.clear();
    let error = field.train("run", &new).unwrap_err().to_string();
    assert!(error.contains("nothing to forget"), "{error}");
    let check = |config: &TrainConfig, expect: &str| {
        let (key, message) = config.validate().unwrap_err();
        assert!(key == "train.forgetting" && message.contains(expect), "{key}: {message}");
    };
    check(&continued(0.0, ", limit = { percent = 5, replay = 'other' }"), "names \"other\"");
    check(&continued(0.0, &limit(-1.0)), "above zero");
    let mut config = continued(0.0, &limit(5.0));
    config.checkpoint_every.0 = 3;
    config.validate_every.0 = 1;
    check(&config, "divide forgetting.every");
    check(&continued(0.6, &limit(5.0)), "above limit.largest_replay");
}

//! What befalls a run from outside: damaged checkpoints, a lost disk, numbers that are none, silence.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use milpa_base::StopFlag;
use milpa_model::ParameterStore;
use milpa_train::{Activity, ChangedPlan, Pulse, TrainConfig, TrainError, Watchdog};

use crate::harness::{Beside, Field, StopAfter, files, recipe};

const FINAL: &str = "checkpoint";

/// Damages a checkpoint's folder.
type Damage<'a> = &'a dyn Fn(&Path);

fn steps_kept(out: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A run cut after step 20, with checkpoints after 8, 16 and 20.
fn cut(field: &Field, name: &str, config: &TrainConfig) -> PathBuf {
    let error = field.train_to(name, config, 20);
    assert!(matches!(error, TrainError::Interrupted { step: 20, .. }), "{error}");
    field.folder(name)
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// The second shard of a checkpoint's `stem`.
fn second_shard(dir: &Path, stem: &str) -> PathBuf {
    let mut paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let begin = format!("{stem}-00002-of-");
    let is_second =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&begin);
    paths.find(is_second).unwrap()
}

/// A run whose newest two checkpoints are damaged goes on from the one before, to the same bytes.
fn passes_over(more: &str, damages: &[(&str, Damage<'_>)]) {
    let field = Field::new();
    let config = recipe(&format!("keep_checkpoints = 3\n{more}"));
    field.train("whole", &config).unwrap();
    let expect = files(&field.folder("whole").join(FINAL));
    for (name, damage) in damages {
        let out = cut(&field, name, &config);
        damage(&out.join("checkpoints/step-00000020"));
        damage(&out.join("checkpoints/step-00000016"));
        field.train(name, &config).unwrap();
        assert!(files(&out.join(FINAL)) == expect, "after {name}");
        assert_eq!(steps_kept(&out), ["step-00000008", "step-00000016"], "after {name}");
    }
}

#[test]
fn a_damaged_checkpoint_is_never_loaded() {
    let damages: [(&str, Damage<'_>); 4] = [
        ("a flipped bit", &|dir| flip_a_bit(&dir.join("optimizer.safetensors"))),
        ("a torn write", &|dir| {
            let path = dir.join("model.safetensors");
            let length = fs::metadata(&path).unwrap().len();
            fs::File::options().write(true).open(path).unwrap().set_len(length / 3).unwrap();
        }),
        ("no manifest", &|dir| fs::remove_file(dir.join("manifest.toml")).unwrap()),
        ("an empty folder", &|dir| {
            fs::remove_dir_all(dir).unwrap();
            fs::create_dir(dir).unwrap();
        }),
    ];
    passes_over("", &damages);
}

#[test]
fn a_checkpoint_with_a_damaged_shard_is_never_loaded() {
    let index = "model.safetensors.index.json";
    let damages: [(&str, Damage<'_>); 4] = [
        ("a flipped bit", &|dir| flip_a_bit(&second_shard(dir, "optimizer"))),
        ("another flipped bit", &|dir| flip_a_bit(&second_shard(dir, "model"))),
        ("a lost shard", &|dir| fs::remove_file(second_shard(dir, "optimizer")).unwrap()),
        ("a lost index", &|dir| fs::remove_file(dir.join(index)).unwrap()),
    ];
    passes_over("max_shard_size = '4 KiB'", &damages);
}

#[test]
fn a_lost_disk_is_replaced_by_the_mirror() {
    let field = Field::new();
    let config = recipe("keep_best = true\nkeep_plateau = true");
    field.train("whole", &config).unwrap();
    let mirror = field.folder("other-disk");
    let beside = Beside { mirror: Some(&mirror), ..Beside::default() };
    let count = Cell::new(0);
    let fail = |step: u64, _: &mut ParameterStore| {
        count.set(step);
        assert!(step != 19, "the machine dies");
    };
    let dies = Beside {
        on_gradients: Some(&fail),
        ..Beside { mirror: Some(&mirror), ..Beside::default() }
    };
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        field.train_beside("lost", &config, &dies)
    }));
    assert!(died.is_err() && count.get() == 19);
    let out = field.folder("lost");
    assert_eq!(steps_kept(&out), steps_kept(&mirror));
    let on_mirror = mirror.join("checkpoints/step-00000016");
    assert!(files(&out.join("checkpoints/step-00000016")) == files(&on_mirror));
    fs::remove_dir_all(&out).unwrap();
    field.train_beside("lost", &config, &beside).unwrap();
    let expect = files(&field.folder("whole").join(FINAL));
    assert!(files(&out.join(FINAL)) == expect && files(&mirror.join(FINAL)) == expect);
    assert_eq!(steps_kept(&mirror), steps_kept(&field.folder("whole")));
}

/// All files of a folder but its lock, which stays where a run looked in.
fn held(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut held = files(dir);
    held.remove(".lock");
    held
}

#[test]
fn a_mirror_holds_one_run() {
    let field = Field::new();
    let mirror = field.folder("mirror");
    let mirrored =
        |changed_plan| Beside { mirror: Some(&mirror), changed_plan, ..Beside::default() };
    let first = recipe("schedule = { kind = 'constant' }");
    field.train_beside("first", &first, &mirrored(ChangedPlan::Refuse)).unwrap();
    let other = recipe("schedule = { kind = 'constant' }\nbatch_size = 2");
    let longer = recipe("schedule = { kind = 'constant' }\nsteps = 32");
    let refused = |mirror: &Path, name: &str, config: &TrainConfig, changed_plan| {
        let before = held(mirror);
        let beside = Beside { mirror: Some(mirror), changed_plan, ..Beside::default() };
        let error = field.train_beside(name, config, &beside).unwrap_err();
        assert!(matches!(error, TrainError::Mirror { .. }) && error.is_usage(), "{error}");
        assert!(error.to_string().contains("choose another folder"), "{error}");
        assert!(held(mirror) == before, "{error}");
    };
    refused(&mirror, "other", &other, ChangedPlan::Refuse);
    refused(&field.folder("first"), "other", &other, ChangedPlan::Refuse);
    assert!(files(&field.folder("other")).is_empty(), "it was begun");
    // Nor is it the mirror of a run that goes on with another plan, but in another folder.
    field.train("plain", &first).unwrap();
    fs::write(field.folder("plain/key"), "another").unwrap();
    refused(&mirror, "plain", &longer, ChangedPlan::Extend);
    // What was mirrored before there were keys is told by its checkpoints.
    fs::remove_file(mirror.join("key")).unwrap();
    refused(&mirror, "other", &other, ChangedPlan::Refuse);
    field.train_beside("first", &first, &mirrored(ChangedPlan::Refuse)).unwrap();
    let key = |folder: &Path| fs::read_to_string(folder.join("key")).unwrap();
    assert_eq!(key(&mirror), key(&field.folder("first")));

    // The run itself goes on with another plan, and its mirror with it.
    field.train_beside("first", &longer, &mirrored(ChangedPlan::Extend)).unwrap();
    assert_eq!(key(&mirror), key(&field.folder("first")));
    field.train_beside("first", &longer, &mirrored(ChangedPlan::Refuse)).unwrap();
    assert_eq!(steps_kept(&mirror), steps_kept(&field.folder("first")));
    assert!(files(&mirror.join(FINAL)) == files(&field.folder("first").join(FINAL)));

    // Begun anew, it leaves what the mirror held as it is.
    let before = held(&mirror);
    field.train_beside("first", &other, &mirrored(ChangedPlan::Anew)).unwrap();
    let aside = fs::read_dir(mirror.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("mirror-"))
        .unwrap();
    assert!(held(&aside) == before);
    assert!(files(&mirror.join(FINAL)) == files(&field.folder("first").join(FINAL)));
}

#[test]
fn two_runs_at_a_time_have_no_mirror_in_common() {
    let field = Field::new();
    let mirror = field.folder("mirror");
    let refused = Cell::new(false);
    let second = |step: u64, _: &mut ParameterStore| {
        if step == 3 {
            // Of the same plan, so that the key does not tell them apart.
            let beside = Beside { mirror: Some(&mirror), ..Beside::default() };
            let error = field.train_beside("second", &recipe(""), &beside).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("another milpa process is working on"), "{message}");
            refused.set(true);
        }
    };
    let beside = Beside { mirror: Some(&mirror), on_gradients: Some(&second), ..Beside::default() };
    field.train_beside("first", &recipe(""), &beside).unwrap();
    assert!(refused.get());
}

#[test]
fn a_mirror_that_cannot_be_one_is_refused_before_training() {
    let field = Field::new();
    let file = field.folder("file");
    fs::write(&file, "x").unwrap();
    let mirrors = [
        (file.clone(), "cannot be made or written"),
        (file.join("below"), "cannot be made or written"),
        (field.folder("run"), "the training folder"),
        (field.folder("run/mirror"), "the training folder"),
        (field.folder("tokens/../run/."), "the training folder"),
        (field.folder(""), "the training folder"),
    ];
    for (mirror, part) in mirrors {
        let beside = Beside { mirror: Some(&mirror), ..Beside::default() };
        let error = field.train_beside("run", &recipe(""), &beside).unwrap_err();
        assert!(matches!(error, TrainError::Mirror { .. }) && error.is_usage(), "{error}");
        for part in [part, "choose a"] {
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
        assert!(!field.folder("run/metrics.jsonl").exists() && !field.folder("run/key").exists());
    }
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[test]
fn what_a_cut_kept_from_the_mirror_is_copied_when_the_run_goes_on() {
    let field = Field::new();
    let config = recipe("keep_checkpoints = 3");
    let mirror = field.folder("mirror");
    let beside = Beside { mirror: Some(&mirror), ..Beside::default() };
    let stop = StopFlag::default();
    let watch = StopAfter { line: "after step 20:".to_owned(), stop: stop.clone() };
    let cut = field.train_with("run", &config, &beside, &watch, &stop).unwrap_err();
    assert!(matches!(cut, TrainError::Interrupted { step: 20, .. }), "{cut}");
    let out = field.folder("run");
    let hidden = |folder: &Path| {
        let root =
            fs::read_dir(folder).unwrap().chain(fs::read_dir(folder.join("checkpoints")).unwrap());
        let names = root.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.') && name != ".lock").count()
    };
    let leave = |left: &[&str]| {
        for name in left {
            for folder in [&out, &mirror] {
                fs::create_dir_all(folder.join(name)).unwrap();
                fs::write(folder.join(name).join("model.safetensors"), "half").unwrap();
            }
        }
    };
    // Killed within the copy of one, and while another was replaced; what is damaged here is not copied.
    fs::remove_dir_all(mirror.join("checkpoints/step-00000008")).unwrap();
    fs::remove_dir_all(mirror.join("checkpoints/step-00000020")).unwrap();
    flip_a_bit(&out.join("checkpoints/step-00000020/model.safetensors"));
    let [whole, old] =
        ["step-00000016", ".step-00000016.old"].map(|name| mirror.join("checkpoints").join(name));
    fs::rename(whole, old).unwrap();
    leave(&["checkpoints/.step-00000008.partial", "checkpoints/.step-00000019.partial"]);
    field.train_beside("run", &config, &beside).unwrap();
    field.train("whole", &config).unwrap();
    for folder in [&out, &mirror] {
        assert_eq!(hidden(folder), 0, "{folder:?}");
        for part in [FINAL, "checkpoints"] {
            assert!(
                files(&folder.join(part)) == files(&field.folder("whole").join(part)),
                "{folder:?} {part}"
            );
        }
    }
    // Killed at the end, before or within the copy of the final one: the run is complete, the mirror not.
    fs::remove_dir_all(mirror.join(FINAL)).unwrap();
    fs::remove_dir_all(mirror.join("checkpoints/step-00000016")).unwrap();
    leave(&[".checkpoint.partial"]);
    field.train_beside("run", &config, &beside).unwrap();
    for part in [FINAL, "checkpoints"] {
        assert!(files(&mirror.join(part)) == files(&out.join(part)), "{part}");
    }
    assert_eq!((hidden(&out), hidden(&mirror)), (0, 0));
}

#[test]
fn a_gradient_that_is_no_number_ends_the_run_before_it_spreads() {
    let field = Field::new();
    let config = recipe("");
    field.train("whole", &config).unwrap();
    let damage = |step: u64, parameters: &mut ParameterStore| {
        if step == 13 {
            let device = parameters.device().clone();
            let parameter = parameters.iter_mut().nth(3).unwrap();
            device.fill(parameter.grad_mut().unwrap(), f32::NAN);
        }
    };
    let beside = Beside { on_gradients: Some(&damage), ..Beside::default() };
    let error = field.train_beside("hurt", &config, &beside).unwrap_err();
    let TrainError::Diverged { step: 13, origin, .. } = &error else { panic!("{error}") };
    assert!(origin.contains("the gradients of 1 of 24 parameters are not"), "{origin}");
    assert!(origin.contains("what changed the gradients came after them"), "{origin}");
    // What was passing: the same command goes on from the checkpoint before.
    field.train("hurt", &config).unwrap();
    assert!(files(&field.folder("hurt").join(FINAL)) == files(&field.folder("whole").join(FINAL)));
    // With skipping, the step is passed over and the weights stay numbers.
    let config = recipe("keep_checkpoints = 3\nstability = { window = 4 }");
    let summary = field.train_beside("skips", &config, &beside).unwrap();
    assert!(summary.final_loss.unwrap().is_finite());
}

/// Replaces all values of the three matrices of a layer's feed-forward part, and their gradients by
/// zeros, so that the step at hand leaves them there.
fn plant(parameters: &mut ParameterStore, layer: usize, values: [f32; 3]) {
    let device = parameters.device().clone();
    let names = ["gate_proj", "up_proj", "down_proj"];
    for (name, value) in names.into_iter().zip(values) {
        let name = format!("model.layers.{layer}.mlp.{name}.weight");
        let id = parameters.id(&name).unwrap();
        let parameter = parameters.iter_mut().nth(id.index()).unwrap();
        device.fill(parameter.grad_mut().unwrap(), 0.0);
        let elements = parameter.shape().elements();
        parameters.write(id, &vec![value; elements]).unwrap();
    }
}

#[test]
fn the_operation_that_first_makes_no_number_is_named() {
    let check = |name: &str, more: &str, values: [f32; 3], expect: [&str; 3]| {
        let plant = |step: u64, parameters: &mut ParameterStore| {
            if step == 1 {
                plant(parameters, 1, values);
            }
        };
        let beside = Beside { on_gradients: Some(&plant), ..Beside::default() };
        let error = Field::new().train_beside(name, &recipe(more), &beside).unwrap_err();
        let TrainError::Diverged { step: 2, origin, .. } = &error else { panic!("{error}") };
        for expect in expect {
            assert!(origin.contains(expect), "{origin}\nlacks {expect}");
        }
    };
    let forward = "on the way forward, swiglu after model.layers.1.mlp.up_proj.weight made";
    let overflow = "activations of the forward pass overflowed; done again";
    check(
        "forward",
        "",
        [1e30, 1e30, 1.0],
        [
            overflow,
            forward,
            "values that are not finite in its output [2, 16, 32] (f32), the first",
        ],
    );
    check(
        "bf16",
        "precision = 'bf16'",
        [1e30, 1e30, 1.0],
        [overflow, forward, "(bf16), the first"],
    );
    // The gate is zero, so on the way forward nothing of the other two is seen.
    let back = "on the way back, swiglu after model.layers.1.mlp.up_proj.weight made";
    let gradients = "weights and loss are finite; the gradients of";
    check("back", "", [0.0, 1e30, 1e20], [gradients, back, "what went in was finite, at most"]);
}

#[test]
fn a_step_that_hangs_is_noticed_with_what_it_was_doing() {
    let field = Field::new();
    let (sender, receiver) = mpsc::channel();
    let pulse = Arc::new(Pulse::default());
    let limit = Some(Duration::from_millis(1500));
    let watchdog = Watchdog::start(Arc::clone(&pulse), limit, move |hang| {
        sender.send(hang.clone()).unwrap();
    });
    let receiver = Mutex::new(receiver);
    // Hangs until it is noticed.
    let hang = |step: u64, _: &mut ParameterStore| {
        if step == 5 {
            let wait = Duration::from_mins(1);
            let hang = receiver.lock().unwrap().recv_timeout(wait).unwrap();
            assert_eq!((hang.steps_done, hang.activity), (4, Activity::Gradients));
        }
    };
    let beside = Beside { pulse, on_gradients: Some(&hang), ..Beside::default() };
    field.train_beside("hangs", &recipe(""), &beside).unwrap();
    drop(watchdog);
}

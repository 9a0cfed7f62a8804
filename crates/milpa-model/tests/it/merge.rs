//! Merging: golden values from mergekit (`reference/merge_golden.py`), folders in and out, and models that
//! do not go together.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use milpa_base::{Kind, Seed, Silent, StopFlag, manifest::Verify, open_artifact};
use milpa_model::{
    CONFIG_FILE, FolderContext, LocalModel, MergeMethod, MergeModels, ModelConfig, WEIGHTS_FILE,
    new_parameters, write_hf_model,
};
use milpa_tokens::{ChatTemplate, PreSplit, Tokenizer};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{check_error, config, device, tokenizer};

/// Merges `folders` into `out` and returns the manifest's counts.
fn merge(
    folders: &[PathBuf],
    method: &MergeMethod,
    out: &Path,
    threads: usize,
) -> BTreeMap<String, u64> {
    let context = FolderContext { threads, progress: &Silent, stop: &StopFlag::default() };
    let models = MergeModels::open(folders).unwrap();
    models.write(method, out, &context).unwrap().counts
}

fn tensors(dir: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(dir.join(WEIGHTS_FILE)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |view: TensorView<'_>| {
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    file.tensors().into_iter().map(|(name, view)| (name, floats(view))).collect()
}

#[test]
fn merges_are_those_of_mergekit() {
    let root = tempfile::tempdir().unwrap();
    let description: Value = serde_json::from_str(include_str!("../golden/merge.json")).unwrap();
    let bytes: &[u8] = include_bytes!("../golden/merge.safetensors");
    let stored = SafeTensors::deserialize(bytes).unwrap();
    let of = |prefix: &str| -> Vec<(String, TensorView<'_>)> {
        let prefix = format!("{prefix}.");
        let tensors = stored.tensors().into_iter();
        tensors
            .filter_map(|(name, view)| Some((name.strip_prefix(&prefix)?.to_owned(), view)))
            .collect()
    };
    let folder = |name: &str| root.path().join(name);
    for name in ["base", "one", "two"] {
        fs::create_dir(folder(name)).unwrap();
        let config = serde_json::to_vec(&description["config"]).unwrap();
        fs::write(folder(name).join(CONFIG_FILE), config).unwrap();
        let weights = safetensors::serialize(of(name), None).unwrap();
        fs::write(folder(name).join(WEIGHTS_FILE), weights).unwrap();
        tokenizer().write_files(&folder(name), &ChatTemplate::continuation()).unwrap();
    }
    let cases = description["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 6);
    for (case, settings) in cases {
        let (given, numbers) = (settings["weights"].as_object().unwrap(), &settings["parameters"]);
        let weights = || given.values().map(|weight| weight.as_f64().unwrap()).collect::<Vec<_>>();
        let number = |key: &str| numbers[key].as_f64().unwrap();
        let mut models: Vec<&str> = given.keys().map(String::as_str).collect();
        let method = match settings["method"].as_str().unwrap() {
            "linear" => MergeMethod::Linear {
                weights: weights(),
                normalise: numbers["normalize"].as_bool().unwrap(),
            },
            "slerp" => MergeMethod::Slerp { t: number("t") },
            "ties" => {
                models.insert(0, "base");
                MergeMethod::Ties {
                    density: number("density"),
                    weights: weights(),
                    lambda: number("lambda"),
                }
            }
            // Task arithmetic in which the continued model counts once.
            _ => {
                models.insert(0, "base");
                assert_eq!(weights()[1], 1.0);
                MergeMethod::ChatVector { scale: weights()[0] }
            }
        };
        let folders: Vec<PathBuf> = models.into_iter().map(folder).collect();
        let out = folder(case);
        let counts = merge(&folders, &method, &out, 2);
        if case == "slerp" {
            // The projection made almost parallel, and no other.
            assert_eq!(counts["straight_tensors"], 1, "{counts:?}");
        }
        let (found, expected) = (tensors(&out), of(case));
        assert_eq!(found.len(), expected.len());
        for (name, view) in expected {
            let expected = view.data().as_chunks::<4>().0;
            assert_eq!(found[&name].len(), expected.len());
            for (found, expected) in found[&name].iter().zip(expected) {
                let expected = f32::from_le_bytes(*expected);
                let near = (found - expected).abs() <= 4e-7 * (1.0 + expected.abs());
                assert!(near, "{case} {name}: {found} instead of {expected}");
            }
        }
    }
}

/// A folder of random weights.
fn write_model(root: &TempDir, name: &str, config: &ModelConfig, with: &Tokenizer) -> PathBuf {
    let dir = root.path().join(name);
    fs::create_dir(&dir).unwrap();
    let seed = Seed(name.bytes().map(u64::from).sum());
    let parameters = new_parameters(config, seed, &device(1)).unwrap();
    write_hf_model(&dir, config, &parameters, with.eos_id(), None).unwrap();
    with.write_files(&dir, &ChatTemplate::continuation()).unwrap();
    dir
}

/// The tests' tokenizer with tokens at its end.
pub(crate) fn with_tokens(added: &[&str]) -> Tokenizer {
    let mut parts = tokenizer().to_parts().unwrap();
    for text in added {
        parts.special.push(parts.tokens.len() as u32);
        parts.tokens.push((*text).to_owned());
    }
    Tokenizer::from_parts(&parts).unwrap()
}

#[test]
fn a_merged_folder_is_a_checkpoint_and_the_same_on_any_threads() {
    let root = tempfile::tempdir().unwrap();
    let config = ModelConfig { hidden_size: 128, vocab_size: 1100, ..config(true) };
    let models = ["a", "b", "c"].map(|name| write_model(&root, name, &config, &tokenizer()));
    let ties = MergeMethod::Ties { density: 0.3, weights: vec![1.0, 0.5], lambda: 1.0 };
    let out = [1, 4].map(|threads| {
        let out = root.path().join(format!("out-{threads}"));
        merge(&models, &ties, &out, threads);
        out
    });
    for file in [WEIGHTS_FILE, CONFIG_FILE, "tokenizer.json", "manifest.toml"] {
        assert!(
            fs::read(out[0].join(file)).unwrap() == fs::read(out[1].join(file)).unwrap(),
            "{file}"
        );
    }
    let (manifest, _) = open_artifact(&out[0], Kind::Checkpoint, Verify::Contents).unwrap();
    let inputs: Vec<&str> = manifest.inputs.keys().map(String::as_str).collect();
    assert_eq!(inputs, ["base", "model_1", "model_2", "tokenizer"]);
    assert_eq!(manifest.inputs["tokenizer"], tokenizer().hash());
    assert_eq!(manifest.config["method"].as_str(), Some("ties"));
    assert_eq!(manifest.config["models"].as_array().unwrap().len(), 3);
    let model = LocalModel::open(&out[0], 1).unwrap();
    assert_eq!(model.description().vocab_size, 1100);
}

#[test]
fn a_mean_of_equal_models_is_the_model() {
    let root = tempfile::tempdir().unwrap();
    let model = write_model(&root, "a", &config(false), &tokenizer());
    let out = root.path().join("out");
    let mean = MergeMethod::Linear { weights: vec![1.0; 3], normalise: true };
    merge(&[model.clone(), model.clone(), model.clone()], &mean, &out, 1);
    assert_eq!(
        fs::read(out.join(WEIGHTS_FILE)).unwrap(),
        fs::read(model.join(WEIGHTS_FILE)).unwrap()
    );
}

#[test]
fn tokens_that_the_base_lacks_come_from_who_has_them() {
    let root = tempfile::tempdir().unwrap();
    let tokens = tokenizer().vocab_size();
    // The base pads its vocabulary; of the continued one's two new tokens the second needs a new row.
    let small = ModelConfig { vocab_size: tokens + 1, ..config(false) };
    let large = ModelConfig { vocab_size: tokens + 3, ..config(false) };
    let base = write_model(&root, "base", &small, &tokenizer());
    let chat = write_model(&root, "chat", &small, &tokenizer());
    let continued = write_model(&root, "continued", &large, &with_tokens(&["<|x|>", "<|y|>"]));
    let out = root.path().join("out");
    let method = MergeMethod::ChatVector { scale: 1.0 };
    let folders = [base.clone(), chat.clone(), continued.clone()];
    let notes = MergeModels::open(&folders).unwrap().notes(&method);
    let said = format!("tokens {tokens} to {} are not in all models", tokens + 1);
    assert!(
        notes.iter().any(|note| note.contains(&said) && note.contains("from continued")),
        "{notes:?}"
    );
    merge(&folders, &method, &out, 1);
    let [base, chat, continued, out] = [&base, &chat, &continued, &out].map(|dir| tensors(dir));
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let shared = tokens * 64;
        assert_eq!(out[name].len(), (tokens + 3) * 64);
        assert_eq!(out[name][shared..], continued[name][shared..]);
        let at = shared - 1;
        let sum = continued[name][at] + (chat[name][at] - base[name][at]);
        assert!((out[name][at] - sum).abs() < 1e-6);
    }
    let model = LocalModel::open(&root.path().join("out"), 1).unwrap();
    assert_eq!(model.tokenizer().vocab_size(), tokens + 2);
}

#[test]
fn models_that_do_not_go_together_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let sound = write_model(&root, "sound", &config(false), &tokenizer());
    let check = |other: &Path, expect: &[&str]| {
        check_error(MergeModels::open(&[&sound, &other.to_owned()]).map(drop), expect);
    };
    let wide = ModelConfig { ffn_size: 100, ..config(false) };
    check(&write_model(&root, "wide", &wide, &tokenizer()), &["ffn_size is 96", "100", "wide"]);
    let deep = ModelConfig { layers: 3, ..config(false) };
    check(&write_model(&root, "deep", &deep, &tokenizer()), &["layers is 2 in the first and 3"]);
    check(
        &write_model(&root, "family", &config(true), &tokenizer()),
        &["family is Llama", "Qwen3"],
    );
    let mut parts = tokenizer().to_parts().unwrap();
    parts.pre_split = PreSplit::Llama3;
    let cut = Tokenizer::from_parts(&parts).unwrap();
    check(&write_model(&root, "cut", &config(false), &cut), &["tokenizers differ", "cut text"]);
    // Tensors that are not what the configuration says.
    let short = write_model(&root, "short", &config(false), &tokenizer());
    let mut stored: Value =
        serde_json::from_slice(&fs::read(short.join(CONFIG_FILE)).unwrap()).unwrap();
    stored["intermediate_size"] = json!(90);
    fs::write(short.join(CONFIG_FILE), stored.to_string()).unwrap();
    check(&short, &["model.layers.0.mlp.gate_proj.weight has shape [96, 64] instead of [90, 64]"]);
    let file = root.path().join("model.gguf");
    fs::write(&file, b"GGUF").unwrap();
    check(&file, &["one file", "Hugging Face folder"]);
    let adapter = root.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    check(&adapter, &["an adapter", "merge it into its model"]);
}

#[test]
fn values_that_are_no_numbers_are_named() {
    let root = tempfile::tempdir().unwrap();
    let sound = write_model(&root, "sound", &config(true), &tokenizer());
    let mut parameters = new_parameters(&config(true), Seed(1), &device(1)).unwrap();
    let id = parameters.id("model.layers.1.mlp.up_proj.weight").unwrap();
    let mut values = parameters.read(id);
    values[7] = f32::NAN;
    parameters.write(id, &values).unwrap();
    let broken = root.path().join("broken");
    fs::create_dir(&broken).unwrap();
    write_hf_model(&broken, &config(true), &parameters, Some(0), None).unwrap();
    tokenizer().write_files(&broken, &ChatTemplate::continuation()).unwrap();
    let models = MergeModels::open(&[&sound, &broken]).unwrap();
    let context = FolderContext { threads: 1, progress: &Silent, stop: &StopFlag::default() };
    let out = root.path().join("out");
    let merged = models.write(&MergeMethod::between(0.5), &out, &context);
    check_error(merged.map(drop), &["model.layers.1.mlp.up_proj.weight", "place 7", "broken"]);
    assert!(!out.exists());
    let stop = StopFlag::default();
    stop.stop();
    let context = FolderContext { stop: &stop, ..context };
    check_error(models.write(&MergeMethod::between(0.5), &out, &context).map(drop), &["stopped"]);
    assert!(!out.exists());
}

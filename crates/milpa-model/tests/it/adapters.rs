//! Opening a model together with an adapter: merged, beside quantised weights, by name and by path.

use std::{fs, path::Path};

use milpa_base::{Seed, TextModel};
use milpa_model::{
    Decoder, DecoderDescription, DecoderError, GgufDescription, GgufFile, GgufFormat, LocalModel,
    LoraConfig, ParameterStore, add_lora, read_gguf, read_lora, write_gguf, write_hf_model,
    write_lora,
};
use milpa_tokens::ChatTemplate;

use crate::{check_error, config, device, families, parameters, tokenizer, values};

/// A model's folder and an adapter's folder beside it, which names the model as `base`.
fn folders(root: &Path, base: &str, lora: &LoraConfig) -> DecoderDescription {
    folders_of(root, true, base, lora)
}

/// The same with an output layer of its own, if it is not tied.
fn folders_of(root: &Path, tied: bool, base: &str, lora: &LoraConfig) -> DecoderDescription {
    let (config, device) = (config(tied), device(1));
    let mut parameters = parameters(&config, &device);
    let description = DecoderDescription::from(&config);
    let (model, adapter) = (root.join("model"), root.join("adapter"));
    for folder in [&model, &adapter] {
        fs::create_dir_all(folder).unwrap();
    }
    write_hf_model(&model, &config, &parameters, None, None).unwrap();
    tokenizer().write_files(&model, &ChatTemplate::continuation()).unwrap();
    add_lora(&description, lora, Seed(1), &mut parameters).unwrap();
    train(&mut parameters);
    write_lora(&adapter, &description, lora, base, &parameters).unwrap();
    description
}

/// Gives the B of an adapter, and what is trained whole beside it, values as training would.
fn train(parameters: &mut ParameterStore) {
    let is_whole = |name: &str| name == "model.embed_tokens.weight" || name == "lm_head.weight";
    let trained = parameters.iter().filter(|p| p.trainable()).map(|p| p.name().to_owned());
    let names: Vec<String> = trained.collect();
    for name in names.iter().filter(|name| name.contains("lora_B") || is_whole(name)) {
        let id = parameters.id(name).unwrap();
        let other = usize::from(name == "lm_head.weight");
        let value = |i: usize| (((i * 7 + other) % 13) as f32 - 6.0) / 20.0;
        let values: Vec<f32> = (0..parameters.read(id).len()).map(value).collect();
        parameters.write(id, &values).unwrap();
    }
}

fn lora() -> LoraConfig {
    let targets = ["q_proj", "down_proj"].map(str::to_owned).to_vec();
    LoraConfig { rank: 4, alpha: 8.0, dora: true, targets, ..LoraConfig::default() }
}

fn open(root: &Path, model: &str) -> Result<LocalModel, DecoderError> {
    LocalModel::open_with_adapter(&root.join(model), &root.join("adapter"), &device(1))
}

#[test]
fn an_adapter_is_merged_into_the_model_that_it_is_opened_with() {
    let root = tempfile::tempdir().unwrap();
    let description = folders(root.path(), "../model", &lora());
    let plain = LocalModel::open(&root.path().join("model"), 1).unwrap();
    let merged = open(root.path(), "model").unwrap();
    assert_eq!(merged.info().name, "model+adapter");
    assert_ne!(merged.info().hash, plain.info().hash);
    assert_eq!(merged.info().parameters, plain.info().parameters);

    let store = families::open(&root.path().join("model"), 1);
    let mut beside = store.1;
    let config = read_lora(&root.path().join("adapter"), &description, &mut beside).unwrap();
    let decoder = Decoder::with_lora(&description, &beside, &config).unwrap();
    let tokens = [5, 9, 60, 2, 31];
    let expect = families::logits(&decoder, &beside, &tokens, 5);
    let found = families::logits(merged.decoder(), merged.parameters(), &tokens, 5);
    families::assert_close("merged", &found, &expect, 2e-5);
    let before = families::logits(plain.decoder(), plain.parameters(), &tokens, 5);
    assert!(before.iter().zip(&found).any(|(a, b)| (a - b).abs() > 0.1));

    // The adapter alone finds its model.
    let alone = LocalModel::open(&root.path().join("adapter"), 1).unwrap();
    assert_eq!(alone.info().hash, merged.info().hash);
    assert_eq!(values(alone.parameters()), values(merged.parameters()));
}

#[test]
fn an_adapter_works_beside_quantised_weights() {
    let root = tempfile::tempdir().unwrap();
    let lora = lora();
    let description = folders(root.path(), "../model", &lora);
    let (_, parameters) = families::open(&root.path().join("model"), 1);
    let file = root.path().join("model.gguf");
    let about = GgufDescription::default();
    write_gguf(&file, GgufFormat::Q8_0, &description, &parameters, &tokenizer(), &about).unwrap();
    let found = open(root.path(), "model.gguf").unwrap();
    assert_ne!(found.info().hash, LocalModel::open(&file, 1).unwrap().info().hash);

    // The same numbers as with the quantised weights widened and the adapter merged into them.
    let (_, quantised, _) = read_gguf(&GgufFile::open(&file).unwrap(), &device(1)).unwrap();
    let mut wide = ParameterStore::new(device(1));
    for (name, values) in values(&quantised) {
        let shape = quantised.get(quantised.id(&name).unwrap()).shape();
        wide.add(&name, shape.lengths(), &values, true).unwrap();
    }
    read_lora(&root.path().join("adapter"), &description, &mut wide).unwrap();
    milpa_model::merge_lora(&description, &lora, &mut wide).unwrap();
    let decoder = Decoder::new(&description, &wide).unwrap();
    let tokens = [5, 9, 60, 2, 31];
    let expect = families::logits(&decoder, &wide, &tokens, 5);
    let found = families::logits(found.decoder(), found.parameters(), &tokens, 5);
    // Quantised products also round what goes into them to eight bits.
    families::assert_close("beside", &found, &expect, 0.03);

    let mut quantised = quantised;
    read_lora(&root.path().join("adapter"), &description, &mut quantised).unwrap();
    let merged = milpa_model::merge_lora(&description, &lora, &mut quantised);
    check_error(merged, &["_proj.weight", "is quantised"]);
}

#[test]
fn embedding_and_output_layer_are_trained_whole_beside_an_adapter() {
    let embedding = "model.embed_tokens.weight";
    for tied in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let lora = LoraConfig { embeddings: true, ..lora() };
        let description = folders_of(root.path(), tied, "../model", &lora);
        let adapter = root.path().join("adapter");
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(adapter.join("adapter_config.json")).unwrap())
                .unwrap();
        assert_eq!(config["modules_to_save"], serde_json::json!(["embed_tokens", "lm_head"]));
        assert_eq!(config.get("ensure_weight_tying").is_some(), tied);
        let bytes = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let [stored, output] = ["model.embed_tokens", "lm_head"].map(|name| {
            let tensor = file.tensor(&format!("base_model.model.{name}.weight")).unwrap();
            assert_eq!(tensor.shape(), [310, 64]);
            tensor.data().to_vec()
        });
        assert_eq!(stored == output, tied, "one matrix lies there under both names");

        let (_, mut beside) = families::open(&root.path().join("model"), 1);
        let before = beside.read(beside.id(embedding).unwrap());
        assert_eq!(read_lora(&adapter, &description, &mut beside).unwrap(), lora);
        let trained = |name: &str| beside.id(name).map(|id| beside.get(id).trainable());
        assert_eq!(trained(embedding), Some(true));
        assert_eq!(trained("lm_head.weight"), (!tied).then_some(true));
        assert_eq!(trained("model.norm.weight"), Some(false));
        let after = beside.read(beside.id(embedding).unwrap());
        assert_ne!(after, before);
        let floats: Vec<u8> = after.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(floats, stored);

        let decoder = Decoder::with_lora(&description, &beside, &lora).unwrap();
        let tokens = [5, 9, 60, 2, 31];
        let expect = families::logits(&decoder, &beside, &tokens, 5);
        let found = open(root.path(), "model").unwrap();
        let logits = families::logits(found.decoder(), found.parameters(), &tokens, 5);
        families::assert_close("opened", &logits, &expect, 2e-5);
        let plain = milpa_model::merged_weights(&description, &lora, &beside).unwrap();
        let decoder = Decoder::new(&description, &plain).unwrap();
        let logits = families::logits(&decoder, &plain, &tokens, 5);
        families::assert_close("merged", &logits, &expect, 2e-5);

        let quantised = root.path().join("model.gguf");
        let (_, base) = families::open(&root.path().join("model"), 1);
        let (about, tokenizer) = (GgufDescription::default(), tokenizer());
        write_gguf(&quantised, GgufFormat::Q8_0, &description, &base, &tokenizer, &about).unwrap();
        let opened = open(root.path(), "model.gguf");
        check_error(opened, &[embedding, "is quantised, but the adapter brings its own"]);
    }
    // What peft makes of a tied model without care: two matrices that went their own ways.
    let root = tempfile::tempdir().unwrap();
    let lora = LoraConfig { embeddings: true, ..lora() };
    folders(root.path(), "../model", &lora);
    let path = root.path().join("adapter/adapter_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let output = file.tensor("base_model.model.lm_head.weight").unwrap();
    let at = output.data().as_ptr().addr() - bytes.as_ptr().addr();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    check_error(open(root.path(), "model"), &["adapter_model.safetensors", "one matrix"]);
}

#[test]
fn weights_with_an_adapter_in_them_are_copied_once() {
    let (config, device) = (config(true), device(1));
    let mut parameters = parameters(&config, &device);
    let bytes = 4 * parameters.elements();
    let (description, lora) = (DecoderDescription::from(&config), lora());
    add_lora(&description, &lora, Seed(1), &mut parameters).unwrap();
    train(&mut parameters);
    let adapter = 4 * parameters.elements() - bytes;
    let copy = parameters.snapshot();
    assert_eq!(values(&copy), values(&parameters));
    let live = device.memory().live_bytes;
    assert_eq!(live, bytes + 2 * adapter, "what is frozen is shared");
    let plain = milpa_model::merged_weights(&description, &lora, &copy).unwrap();
    assert_eq!(device.memory().live_bytes, live + bytes);
    let largest = 4 * 64 * 96;
    assert!(device.memory().peak_live_bytes <= live + bytes + 2 * largest);
    milpa_model::merge_lora(&description, &lora, &mut parameters).unwrap_err();
    drop(copy);
    milpa_model::merge_lora(&description, &lora, &mut parameters).unwrap();
    let merged = values(&parameters).into_iter().filter(|(name, _)| !name.contains("lora"));
    assert_eq!(values(&plain), merged.collect::<Vec<_>>());
}

#[test]
fn what_does_not_fit_is_said_with_its_file() {
    let check = |change: &dyn Fn(&Path), expect: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        folders(root.path(), "an-institute/a-model", &lora());
        change(&root.path().join("adapter"));
        check_error(open(root.path(), "model"), expect);
    };
    let edit = |from: &'static str, to: &'static str| {
        move |dir: &Path| {
            let file = dir.join("adapter_config.json");
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(file, text.replace(from, to)).unwrap();
        }
    };
    let without = |name: &'static str| move |dir: &Path| fs::remove_file(dir.join(name)).unwrap();
    check(&without("adapter_config.json"), &["adapter_config.json", "give one that peft saved"]);
    check(&without("adapter_model.safetensors"), &["cannot access", "adapter_model.safetensors"]);
    let unknown = ["adapter_config.json", "lora.targets", "no linear layer \"c_attn\""];
    check(&edit("\"q_proj\"", "\"c_attn\""), &unknown);
    let rank = ["adapter_model.safetensors", "instead of [5, 64]", "another model?"];
    check(&edit("\"r\": 4", "\"r\": 5"), &rank);
    let fewer = ["down_proj.lora_A.weight", "not expected"];
    check(&edit("\"down_proj\"", "\"q_proj\""), &fewer);
    check(&edit("\"LORA\"", "\"IA3\""), &["peft_type", "IA3"]);

    let root = tempfile::tempdir().unwrap();
    folders(root.path(), "an-institute/a-model", &lora());
    let alone = LocalModel::open(&root.path().join("adapter"), 1);
    check_error(alone, &["adapter_config.json", "\"an-institute/a-model\"", "no such folder"]);
}

//! LoRA: a trained low-rank change `s·B·A` beside each frozen matrix, in memory and in peft's folders.
//!
//! LoRA, arXiv:2106.09685, with `s = α/r`; rank-stabilised, arXiv:2312.03732, with `s = α/√r`. Matrices
//! of attention and of dense feed-forward layers can be changed; what peft can say beyond that (`DoRA`,
//! ranks by pattern, trained biases) is refused by name.

use std::{fs, path::Path, sync::Arc};

use milpa_base::Seed;
use milpa_tensor::{Accumulate, Matrix, MatrixMut, ParameterId, ParameterStore, Size};
use serde_json::{Map, Value, json};

use crate::{
    decoder::parameter_specs,
    description::{DecoderDescription, Family},
    error::DecoderError,
    freeze::set_trainable,
    hf::{read_small, read_tensors, write_weights},
};

/// File names of an adapter's folder.
const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Before the names of parameters in peft's files.
const PREFIX: &str = "base_model.model.";
/// Keys that change no number of a forward or backward pass without dropout.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
];

/// Which matrices are changed, and how much.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of each change.
    pub rank: usize,
    /// The change is multiplied by `alpha / rank`, or by `alpha / √rank`.
    pub alpha: f64,
    /// Whether it is the root.
    pub rank_stabilised: bool,
    /// Names of linear layers, such as `q_proj` or `mlp.down_proj`.
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// The factor `s` on `B·A`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// The linear layers that are changed, with their outputs and inputs.
    fn modules(
        &self,
        description: &DecoderDescription,
    ) -> Result<Vec<(String, [usize; 2])>, DecoderError> {
        let fail = |key: &str, message: String| {
            Err(DecoderError::Config { key: format!("lora.{key}"), message })
        };
        if self.rank == 0 || self.rank > description.hidden_size {
            let most = description.hidden_size;
            return fail("rank", format!("is {}; it must lie between 1 and {most}", self.rank));
        }
        if !(self.alpha > 0.0 && self.alpha <= 1e6) {
            return fail("alpha", format!("is {}; it must lie above 0", self.alpha));
        }
        if description.family == Family::Phi3 {
            let message = "cannot name the fused projections of Phi-3".to_owned();
            return fail("targets", message);
        }
        let mut modules = Vec::new();
        let mut used = vec![false; self.targets.len()];
        for spec in parameter_specs(description) {
            let Some(module) = spec.name.strip_suffix(".weight") else { continue };
            let [outputs, inputs] = spec.shape[..] else { continue };
            let layer = module.ends_with("_proj") && module.starts_with("model.layers.");
            let hit = |target: &str| module.strip_suffix(target).is_some_and(|m| m.ends_with('.'));
            if let Some(index) = self.targets.iter().position(|target| layer && hit(target)) {
                used[index] = true;
                modules.push((module.to_owned(), [outputs, inputs]));
            }
        }
        match used.iter().position(|used| !used) {
            Some(index) => {
                fail("targets", format!("name no linear layer {:?}", self.targets[index]))
            }
            None if modules.is_empty() => fail("targets", "name no linear layer".to_owned()),
            None => Ok(modules),
        }
    }
}

fn names(module: &str) -> [String; 2] {
    [format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight")]
}

/// Adds a new adapter to the parameters of a model and freezes all others. It changes nothing yet: A is
/// random (uniform within `±1/√inputs`, as in peft), B is zero.
///
/// Give the same configuration to [`Decoder::with_lora`](crate::Decoder::with_lora).
///
/// # Errors
/// If a target names no linear layer, or the parameters have an adapter already.
pub fn add_lora(
    description: &DecoderDescription,
    config: &LoraConfig,
    seed: Seed,
    parameters: &mut ParameterStore,
) -> Result<(), DecoderError> {
    let modules = config.modules(description)?;
    set_trainable(parameters, &["*"], false)?;
    let seed = seed.derive("lora");
    for (module, [outputs, inputs]) in modules {
        let [a, b] = names(&module);
        let stream = seed.derive(&a);
        let bound = 1.0 / (inputs as f64).sqrt();
        let values: Vec<f32> = (0..(config.rank * inputs) as u64)
            .map(|i| ((2.0 * stream.f64_at(i) - 1.0) * bound) as f32)
            .collect();
        parameters.add(&a, &[config.rank, inputs], &values, true)?;
        parameters.add(&b, &[outputs, config.rank], &vec![0.0; outputs * config.rank], true)?;
    }
    Ok(())
}

/// Reads an adapter from a folder of peft, adds it to the parameters of a model and freezes all others.
///
/// # Errors
/// If a file is malformed, says something that is not computed here, or does not fit the model.
pub fn read_lora(
    dir: &Path,
    description: &DecoderDescription,
    parameters: &mut ParameterStore,
) -> Result<LoraConfig, DecoderError> {
    let path = dir.join(CONFIG_FILE);
    let config = parse_config(&read_small(&path)?, &path)?;
    let modules = config.modules(description)?;
    let mut wanted = Vec::new();
    for (module, [outputs, inputs]) in &modules {
        let [a, b] = names(module);
        wanted.push((format!("{PREFIX}{a}"), vec![config.rank, *inputs]));
        wanted.push((format!("{PREFIX}{b}"), vec![*outputs, config.rank]));
    }
    let values = read_tensors(&dir.join(WEIGHTS_FILE), &wanted)?;
    set_trainable(parameters, &["*"], false)?;
    for ((name, shape), values) in wanted.iter().zip(values) {
        parameters.add(&name[PREFIX.len()..], shape, &values, true)?;
    }
    Ok(config)
}

/// Writes the adapter among the parameters into an existing folder, for peft; `base` is the name or
/// folder of the model that it changes.
pub fn write_lora(
    dir: &Path,
    description: &DecoderDescription,
    config: &LoraConfig,
    base: &str,
    parameters: &ParameterStore,
) -> Result<(), DecoderError> {
    let mut adapter = ParameterStore::new(Arc::clone(parameters.device()));
    for (module, _) in config.modules(description)? {
        for name in names(&module) {
            let id = find(parameters, &name)?;
            let shape = parameters.get(id).shape();
            let values = parameters.read(id);
            adapter.add(&format!("{PREFIX}{name}"), shape.lengths(), &values, true)?;
        }
    }
    let json = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "use_rslora": config.rank_stabilised,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "target_modules": config.targets,
    });
    let path = dir.join(CONFIG_FILE);
    fs::write(&path, format!("{json:#}\n")).map_err(|source| DecoderError::Io { path, source })?;
    write_weights(&dir.join(WEIGHTS_FILE), &adapter)
}

/// Adds each change `s·B·A` to its matrix and zeroes B, so that the model computes the same with the
/// adapter, and without it what it computed with it.
pub fn merge_lora(
    description: &DecoderDescription,
    config: &LoraConfig,
    parameters: &mut ParameterStore,
) -> Result<(), DecoderError> {
    for (module, [outputs, inputs]) in config.modules(description)? {
        let [a, b] = names(&module);
        let weight = find(parameters, &format!("{module}.weight"))?;
        let (a, b) = (find(parameters, &a)?, find(parameters, &b)?);
        let device = Arc::clone(parameters.device());
        let mut change = device.allocate(outputs * inputs);
        let size = Size { m: outputs, n: inputs, k: config.rank };
        let (b_or, a_ri) = (parameters.get(b).data(), parameters.get(a).data());
        let (b_or, a_ri) = (Matrix::new(b_or, config.rank), Matrix::new(a_ri, inputs));
        device.matmul_nn(size, b_or, a_ri, MatrixMut::new(&mut change, inputs), Accumulate::No);
        device.scale_grads(&mut change, config.scale() as f32);
        let mut merged = vec![0.0; outputs * inputs];
        device.download(&change, &mut merged);
        for (merged, weight) in merged.iter_mut().zip(parameters.read(weight)) {
            *merged += weight;
        }
        parameters.write(weight, &merged)?;
        parameters.write(b, &vec![0.0; outputs * config.rank])?;
    }
    Ok(())
}

fn find(parameters: &ParameterStore, name: &str) -> Result<ParameterId, DecoderError> {
    parameters.id(name).ok_or_else(|| DecoderError::Parameter {
        name: name.to_owned(),
        message: "is missing; add an adapter first".to_owned(),
    })
}

fn parse_config(bytes: &[u8], path: &Path) -> Result<LoraConfig, DecoderError> {
    let malformed = |message: String| DecoderError::Format {
        path: path.to_owned(),
        format: "an adapter_config.json",
        message,
    };
    let fields: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    let unsupported = |field: &str, message: &str| DecoderError::Unsupported {
        path: path.to_owned(),
        field: field.to_owned(),
        value: fields.get(field).map_or("nothing".to_owned(), Value::to_string),
        message: message.to_owned(),
    };
    let known = ["peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "bias"];
    for (key, value) in &fields {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty && !known.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()) {
            return Err(unsupported(key, "plain LoRA and its rank-stabilised form are computed"));
        }
    }
    if fields.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(unsupported("peft_type", "only LORA is computed"));
    }
    // Other beginnings, such as PiSSA's, also change the matrices beside the adapter.
    if fields.get("init_lora_weights").is_some_and(|v| v.is_string() && v != "gaussian") {
        return Err(unsupported("init_lora_weights", "only an adapter beside unchanged matrices"));
    }
    if fields.get("bias").is_some_and(|bias| bias != "none") {
        return Err(unsupported("bias", "only none"));
    }
    let whole = |key: &str| fields.get(key).and_then(Value::as_u64);
    let rank = whole("r").and_then(|rank| usize::try_from(rank).ok());
    let targets = fields.get("target_modules").and_then(Value::as_array);
    let targets: Option<Vec<String>> =
        targets.and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    Ok(LoraConfig {
        rank: rank.ok_or_else(|| unsupported("r", "a whole number is expected"))?,
        alpha: fields
            .get("lora_alpha")
            .and_then(Value::as_f64)
            .ok_or_else(|| unsupported("lora_alpha", "a number is expected"))?,
        rank_stabilised: fields.get("use_rslora") == Some(&Value::Bool(true)),
        targets: targets
            .ok_or_else(|| unsupported("target_modules", "a list of names is expected"))?,
    })
}

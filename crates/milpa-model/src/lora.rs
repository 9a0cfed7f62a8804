//! LoRA: a trained low-rank change `s·B·A` beside each frozen matrix, in memory and in peft's folders.
//!
//! LoRA, arXiv:2106.09685, with `s = α/r`; rank-stabilised, arXiv:2312.03732, with `s = α/√r`; with rows
//! of trained length, `DoRA`, arXiv:2402.09353. Matrices of attention and of dense feed-forward layers and
//! stacks of experts can be changed; what peft can say beyond that (ranks by pattern, trained biases) is
//! refused by name. Embedding and output layer can be trained whole beside the changes, as a larger
//! vocabulary asks for: peft's `modules_to_save`.
//!
//! A module is a matrix as the family's files have it, or a stack as `transformers` holds it. Where these
//! are fused of several parameters (Phi-3's projections, gate and up of experts), the parameters share A,
//! and each has its rows of B and of the magnitudes. B of a stack lies here as `[experts, rank, outputs]`,
//! in peft's files as `[outputs, rank · experts]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use milpa_base::Seed;
use milpa_tensor::{Accumulate, DType, Matrix, MatrixMut, ParameterId, ParameterStore, Size};
use serde_json::{Map, Value, json};

use crate::{
    decoder::{ParameterSpec, parameter_specs},
    description::{DecoderDescription, OutputHead},
    error::DecoderError,
    freeze::set_trainable,
    hf::{read_small, read_tensors, write_weights},
    hf_tensors::{FileTensor, Part, file_tensors},
};

/// File names of an adapter's folder.
pub(crate) const CONFIG_FILE: &str = "adapter_config.json";
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Before the names of parameters in peft's files.
const PREFIX: &str = "base_model.model.";
/// The embedding, and the output layer where it is not the embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";
const OUTPUT: &str = "lm_head.weight";
/// What peft calls them.
const SAVED_MODULES: [&str; 2] = ["embed_tokens", "lm_head"];
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
    /// Whether each changed row also has a trained length (`DoRA`).
    pub dora: bool,
    /// Names of linear layers as the family's files have them, such as `q_proj` or `mlp.down_proj`.
    pub targets: Vec<String>,
    /// Names of stacks of experts, `mlp.experts.gate_up_proj` or `mlp.experts.down_proj`: peft's
    /// `target_parameters`.
    pub expert_targets: Vec<String>,
    /// Whether embedding and output layer are trained whole beside the changes: peft's
    /// `modules_to_save`. Where they are one matrix, they stay one.
    pub embeddings: bool,
}

/// What an adapter adds to a training step and takes from it, for whoever plans one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoraCost {
    /// Parameters of all A and B, and the trained lengths of rows; not embedding and output layer.
    pub parameters: u64,
    /// Values per token between A and B, kept for the backward pass.
    pub inner_values: u64,
    /// Values per token that trained lengths of rows are put on, kept for the backward pass; 0 without
    /// `DoRA`.
    pub lengthened_values: u64,
    /// Products of two numbers that the lengths of the changed rows take, once for each forward pass
    /// whatever the number of tokens: `rank · inputs · outputs` of each matrix; 0 without `DoRA`.
    pub length_products: u64,
    /// Parameters of matrices, frozen ones and A, whose input gets no gradient: of the lowest changed
    /// ones, which read what no trained parameter has touched, and of all below.
    pub inputs_without_gradient: u64,
    /// Layers whose attention is wholly below them.
    pub attention_without_gradient: u64,
}

impl Default for LoraConfig {
    /// What peft takes where nothing is said; targets must be.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            rank_stabilised: false,
            dora: false,
            targets: Vec::new(),
            expert_targets: Vec::new(),
            embeddings: false,
        }
    }
}

/// A change `scale · B·A` of a matrix, and the trained lengths of its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LowRank {
    pub(crate) a: ParameterId,
    pub(crate) b: ParameterId,
    pub(crate) magnitude: Option<ParameterId>,
    pub(crate) scale: f32,
}

/// A linear layer of a file that is changed, or a stack of them.
#[derive(Debug)]
struct Module {
    name: String,
    /// What peft calls it.
    peft: String,
    experts: Option<usize>,
    inputs: usize,
    /// The parameters that it is made of, with their outputs.
    parts: Vec<(String, usize)>,
}

/// A tensor of an adapter's file, made of the rows of parameters one after another.
#[derive(Debug)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    parameters: Vec<(String, Vec<usize>)>,
    /// Whether it is B of a stack of experts.
    stacked: bool,
}

impl Entry {
    /// Calls `each` with the number of each parameter, the place of each of its values, and the place of
    /// that value in the file's tensor.
    fn for_each_value(&self, mut each: impl FnMut(usize, usize, usize)) {
        let columns: usize = self.shape[1..].iter().product();
        let mut first_row = 0;
        for (number, (_, shape)) in self.parameters.iter().enumerate() {
            let count: usize = shape.iter().product();
            let rows = count / columns;
            for at in 0..count {
                let (row, column) = match shape[..] {
                    // [experts, rank, outputs] here, [outputs, rank · experts] in the file.
                    [experts, rank, outputs] if self.stacked => {
                        let (expert, at) = (at / (rank * outputs), at % (rank * outputs));
                        (at % outputs, at / outputs * experts + expert)
                    }
                    _ => (at / columns, at % columns),
                };
                each(number, at, (first_row + row) * columns + column);
            }
            first_row += rows;
        }
    }
}

impl LoraConfig {
    /// The factor `s` on `B·A`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Names of all linear layers of a model, to be its targets.
    pub fn all_linear(description: &DecoderDescription) -> Vec<String> {
        let last = |module: Module| module.name.rsplit('.').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = linear_layers(description).into_iter().map(last).collect();
        names.into_iter().collect()
    }

    /// Number of parameters that are trained.
    ///
    /// # Errors
    /// If a target names no linear layer of the model.
    pub fn parameters(&self, description: &DecoderDescription) -> Result<u64, DecoderError> {
        let embedding = (description.vocab_size * description.hidden_size) as u64;
        let whole = self.whole_parameters(description).len() as u64;
        Ok(self.cost(description)?.parameters + whole * embedding)
    }

    /// What the adapter adds to a training step of a model and takes from it. Stacks of experts count by
    /// their parameters alone.
    ///
    /// # Errors
    /// If a target names no linear layer of the model.
    pub fn cost(&self, description: &DecoderDescription) -> Result<LoraCost, DecoderError> {
        let modules = self.modules(description)?;
        let entries = modules.iter().flat_map(|module| self.entries(module));
        let parameters = entries.map(|entry| entry.shape.iter().product::<usize>() as u64).sum();
        let mut cost = LoraCost { parameters, ..LoraCost::default() };
        let matrices: Vec<&Module> = modules.iter().filter(|m| m.experts.is_none()).collect();
        for module in &matrices {
            cost.inner_values += (self.rank * module.parts.len()) as u64;
            if self.dora {
                cost.lengthened_values += module.outputs() as u64;
                cost.length_products += (self.rank * module.inputs * module.outputs()) as u64;
            }
        }
        let lowest = matrices.iter().map(|module| module.place()).min();
        let Some(lowest) = lowest.filter(|_| !self.embeddings) else { return Ok(cost) };
        let all = linear_layers(description);
        let frozen = all.iter().filter(|module| module.place() <= lowest);
        let of_a = matrices.iter().filter(|module| module.place() == lowest);
        cost.inputs_without_gradient = frozen.map(|m| (m.inputs * m.outputs()) as u64).sum::<u64>()
            + of_a.map(|module| (self.rank * module.inputs) as u64).sum::<u64>();
        cost.attention_without_gradient = (lowest.0 + usize::from(lowest.1 > 0)) as u64;
        Ok(cost)
    }

    /// The parameters that are trained whole beside the changes.
    fn whole_parameters(&self, description: &DecoderDescription) -> Vec<&'static str> {
        match (self.embeddings, description.tie_embeddings) {
            (false, _) => Vec::new(),
            (true, true) => vec![EMBEDDING],
            (true, false) => vec![EMBEDDING, OUTPUT],
        }
    }

    /// The tensors of these in an adapter's file, with their parameters. peft keeps a module for each
    /// name, so what is one matrix lies there twice.
    fn whole_tensors(
        &self,
        description: &DecoderDescription,
    ) -> Vec<(String, Vec<usize>, &'static str)> {
        let output = if description.tie_embeddings { EMBEDDING } else { OUTPUT };
        let shape = || vec![description.vocab_size, description.hidden_size];
        let all = [(EMBEDDING, EMBEDDING), (OUTPUT, output)].into_iter();
        let all = all.filter(|_| self.embeddings);
        all.map(|(name, own)| (format!("{PREFIX}{name}"), shape(), own)).collect()
    }

    /// The linear layers that are changed.
    fn modules(&self, description: &DecoderDescription) -> Result<Vec<Module>, DecoderError> {
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
        if self.dora && !self.expert_targets.is_empty() {
            let message = "cannot be stacks of experts with DoRA, which is for matrices".to_owned();
            return fail("expert_targets", message);
        }
        if self.embeddings && matches!(description.head, OutputHead::Classifier { .. }) {
            let message = "are trained with the output layer, which a classifier has not";
            return fail("embeddings", message.to_owned());
        }
        let mut modules = linear_layers(description);
        modules.extend(stacks(description));
        let (mut used, mut used_stacks) =
            (vec![false; self.targets.len()], vec![false; self.expert_targets.len()]);
        modules.retain(|module| {
            let (targets, used) = match module.experts {
                None => (&self.targets, &mut used),
                Some(_) => (&self.expert_targets, &mut used_stacks),
            };
            let hit = |target: &String| {
                let before = module.name.strip_suffix(target.as_str());
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            };
            let hits: Vec<bool> = targets.iter().map(hit).collect();
            used.iter_mut().zip(&hits).for_each(|(used, hit)| *used |= hit);
            hits.contains(&true)
        });
        for (key, what, targets, used) in [
            ("targets", "linear layer", &self.targets, used),
            ("expert_targets", "stack of experts", &self.expert_targets, used_stacks),
        ] {
            if let Some(index) = used.iter().position(|used| !used) {
                return fail(key, format!("name no {what} {:?}", targets[index]));
            }
        }
        if modules.is_empty() {
            return fail("targets", "name no linear layer".to_owned());
        }
        // peft wraps a stack around the one before it.
        for index in 1..modules.len() {
            if modules[index].experts.is_some() && modules[index].peft == modules[index - 1].peft {
                modules[index - 1].peft.push_str(".base_layer");
            }
        }
        Ok(modules)
    }

    /// The changes of an adapter among the parameters, by the name of the matrix without `.weight`.
    pub(crate) fn changes(
        &self,
        description: &DecoderDescription,
        parameters: &ParameterStore,
    ) -> Result<BTreeMap<String, LowRank>, DecoderError> {
        let scale = self.scale() as f32;
        let mut changes = BTreeMap::new();
        for module in self.modules(description)? {
            let a = find(parameters, &a_of(&module.name))?;
            for (part, _) in &module.parts {
                let b = find(parameters, &b_of(part))?;
                let magnitude = self.dora.then(|| find(parameters, &magnitude_of(part)));
                let magnitude = magnitude.transpose()?;
                changes.insert(part.clone(), LowRank { a, b, magnitude, scale });
            }
            for (name, shape) in self.entries(&module).into_iter().flat_map(|e| e.parameters) {
                let found = parameters.get(find(parameters, &name)?).shape();
                if found.lengths() != shape {
                    let message = format!("has shape {found} instead of {shape:?}");
                    return Err(DecoderError::Parameter { name, message });
                }
            }
        }
        Ok(changes)
    }

    /// The tensors of a module's change.
    fn entries(&self, module: &Module) -> Vec<Entry> {
        let (rank, name, inputs) = (self.rank, &module.peft, module.inputs);
        let outputs = module.outputs();
        let columns = rank * module.experts.unwrap_or(1);
        let b = |(part, outputs): &(String, usize)| (b_of(part), module.b_shape(*outputs, rank));
        let magnitude = |(part, outputs): &(String, usize)| (magnitude_of(part), vec![*outputs]);
        let mut entries = vec![
            Entry {
                name: a_of(name),
                shape: vec![columns, inputs],
                parameters: vec![(a_of(&module.name), module.a_shape(rank))],
                stacked: false,
            },
            Entry {
                name: b_of(name),
                shape: vec![outputs, columns],
                parameters: module.parts.iter().map(b).collect(),
                stacked: module.experts.is_some(),
            },
        ];
        if self.dora {
            entries.push(Entry {
                name: magnitude_of(name),
                shape: vec![outputs],
                parameters: module.parts.iter().map(magnitude).collect(),
                stacked: false,
            });
        }
        entries
    }
}

impl Module {
    fn outputs(&self) -> usize {
        self.parts.iter().map(|(_, outputs)| outputs).sum()
    }

    /// Where a linear layer stands in the order of computing: its layer, and 0 for queries, keys and
    /// values, 1 for attention's output, 2 for gate and up, 3 for down.
    fn place(&self) -> (usize, usize) {
        let layer = self.name.split('.').nth(2).and_then(|number| number.parse().ok());
        let within = match self.name.rsplit('.').next() {
            Some("o_proj") => 1,
            Some("gate_proj" | "up_proj" | "gate_up_proj") => 2,
            Some("down_proj") => 3,
            _ => 0,
        };
        (layer.unwrap_or(0), within)
    }

    fn a_shape(&self, rank: usize) -> Vec<usize> {
        self.experts.into_iter().chain([rank, self.inputs]).collect()
    }

    fn b_shape(&self, outputs: usize, rank: usize) -> Vec<usize> {
        match self.experts {
            None => vec![outputs, rank],
            Some(experts) => vec![experts, rank, outputs],
        }
    }
}

/// The linear layers of a model that can be changed.
fn linear_layers(description: &DecoderDescription) -> Vec<Module> {
    let module = |tensor: FileTensor| {
        let name = tensor.name.strip_suffix("_proj.weight")?;
        let &[_, inputs] = &tensor.shape[..] else { return None };
        // Experts lie one by one in files, and are changed as stacks.
        if !name.starts_with("model.layers.") || name.contains(".experts.") {
            return None;
        }
        let name = format!("{name}_proj");
        let part = |part: &Part| (stem(&part.parameter).to_owned(), part.count / inputs);
        let parts = tensor.parts.iter().map(part).collect();
        Some(Module { peft: name.clone(), name, experts: None, inputs, parts })
    };
    file_tensors(description).into_iter().filter_map(module).collect()
}

/// The stacks of experts of a model, those of gate and up fused as `transformers` has them.
fn stacks(description: &DecoderDescription) -> Vec<Module> {
    let Some(experts) = description.experts else { return Vec::new() };
    let (d, f) = (description.hidden_size, experts.size);
    let layers = description.layers.iter().enumerate().filter(|(_, layer)| layer.experts);
    let both = layers.flat_map(|(index, _)| {
        let peft = format!("model.layers.{index}.mlp.experts");
        let name = |part: &str| format!("{peft}.{part}");
        let gate_up = vec![(name("gate_proj"), f), (name("up_proj"), f)];
        [("gate_up_proj", d, gate_up), ("down_proj", f, vec![(name("down_proj"), d)])].map(
            |(stack, inputs, parts)| Module {
                name: name(stack),
                peft: peft.clone(),
                experts: Some(experts.count),
                inputs,
                parts,
            },
        )
    });
    both.collect()
}

fn a_of(module: &str) -> String {
    format!("{module}.lora_A.weight")
}

fn b_of(module: &str) -> String {
    format!("{module}.lora_B.weight")
}

fn magnitude_of(module: &str) -> String {
    format!("{module}.lora_magnitude_vector")
}

/// A matrix's name without `.weight`.
fn stem(parameter: &str) -> &str {
    parameter.strip_suffix(".weight").unwrap_or(parameter)
}

/// Adds a new adapter to the parameters of a model and freezes all others, but for embedding and output
/// layer where these are trained too. It changes nothing yet: A is random (uniform within `±1/√inputs`, as
/// in peft), B is zero, magnitudes are the lengths of the rows.
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
    freeze(description, config, parameters)?;
    let seed = seed.derive("lora");
    for module in modules {
        let a = a_of(&module.name);
        let stream = seed.derive(&a);
        let bound = 1.0 / (module.inputs as f64).sqrt();
        let shape = module.a_shape(config.rank);
        let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
            .map(|i| ((2.0 * stream.f64_at(i) - 1.0) * bound) as f32)
            .collect();
        let a = parameters.add(&a, &shape, &values, true)?;
        for (part, outputs) in &module.parts {
            let shape = module.b_shape(*outputs, config.rank);
            let zeros = vec![0.0; shape.iter().product()];
            parameters.add(&b_of(part), &shape, &zeros, true)?;
        }
        // In the order in which an adapter is read.
        for (part, outputs) in module.parts.iter().filter(|_| config.dora) {
            let weight = find(parameters, &format!("{part}.weight"))?;
            let b = find(parameters, &b_of(part))?;
            let change = LowRank { a, b, magnitude: None, scale: config.scale() as f32 };
            let norms = norms_of(parameters, weight, change);
            // Lengths are not pulled towards zero.
            parameters.add(&magnitude_of(part), &[*outputs], &norms, false)?;
        }
    }
    Ok(())
}

/// Freezes what no adapter trains.
fn freeze(
    description: &DecoderDescription,
    config: &LoraConfig,
    parameters: &mut ParameterStore,
) -> Result<(), DecoderError> {
    set_trainable(parameters, &["*"], false)?;
    set_trainable(parameters, &config.whole_parameters(description), true)?;
    Ok(())
}

/// Lengths of the rows of a changed matrix.
fn norms_of(parameters: &ParameterStore, weight: ParameterId, change: LowRank) -> Vec<f32> {
    let [weight, a, b] = [weight, change.a, change.b].map(|id| parameters.get(id));
    let mut norms = vec![0.0; weight.shape().rows()];
    let mut buffer = parameters.device().allocate(norms.len());
    let (weight, a, b) = (weight.data(), a.data(), b.data());
    parameters.device().adapted_norms(change.scale, weight, a, b, &mut buffer);
    parameters.device().download(&buffer, &mut norms);
    norms
}

/// Reads an adapter from a folder of peft, adds it to the parameters of a model and freezes all others.
/// An embedding and an output layer that were trained beside it take the place of the model's.
///
/// # Errors
/// If a file is malformed, says something that is not computed here, or does not fit the model.
pub fn read_lora(
    dir: &Path,
    description: &DecoderDescription,
    parameters: &mut ParameterStore,
) -> Result<LoraConfig, DecoderError> {
    let path = dir.join(CONFIG_FILE);
    if !path.is_file() {
        return Err(DecoderError::Format {
            path: dir.to_owned(),
            format: "an adapter",
            message: format!("it is no folder with an {CONFIG_FILE}; give one that peft saved"),
        });
    }
    let config = parse_config(&read_small(&path)?, &path)?;
    let modules = config.modules(description).map_err(|error| match error {
        DecoderError::Config { key, message } => DecoderError::Format {
            path,
            format: "an adapter of this model",
            message: format!("{key} {message}"),
        },
        other => other,
    })?;
    let entries: Vec<Entry> = modules.iter().flat_map(|module| config.entries(module)).collect();
    let whole = config.whole_tensors(description);
    let changes = entries.iter().map(|e| (format!("{PREFIX}{}", e.name), e.shape.clone()));
    let wanted: Vec<(String, Vec<usize>)> =
        changes.chain(whole.iter().map(|(name, shape, _)| (name.clone(), shape.clone()))).collect();
    let mut tensors =
        read_tensors(&dir.join(WEIGHTS_FILE), &wanted).map_err(|error| match error {
            DecoderError::Format { path, format, message } => {
                let message = format!("{message}; is this the adapter of another model?");
                DecoderError::Format { path, format, message }
            }
            other => other,
        })?;
    freeze(description, &config, parameters)?;
    let whole_values = tensors.split_off(entries.len());
    if description.tie_embeddings && whole_values.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(DecoderError::Format {
            path: dir.join(WEIGHTS_FILE),
            format: "an adapter of this model",
            message: "its embedding and its output layer differ, but the model's are one matrix"
                .to_owned(),
        });
    }
    for ((_, _, name), values) in whole.iter().zip(whole_values) {
        let id = find(parameters, name)?;
        if parameters.get(id).data().dtype() != DType::F32 {
            let name = (*name).to_owned();
            let message = "is quantised, but the adapter brings its own; open the adapter with the \
                           model that it was trained on";
            return Err(DecoderError::Parameter { name, message: message.to_owned() });
        }
        parameters.write(id, &values)?;
    }
    for (entry, values) in entries.iter().zip(tensors) {
        let zeros = |(_, shape): &(String, Vec<usize>)| vec![0.0; shape.iter().product()];
        let mut parts: Vec<Vec<f32>> = entry.parameters.iter().map(zeros).collect();
        entry.for_each_value(|number, at, place| parts[number][at] = values[place]);
        for ((name, shape), part) in entry.parameters.iter().zip(parts) {
            parameters.add(name, shape, &part, shape.len() > 1)?;
        }
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
    let mut adapter = ParameterStore::new(parameters.device().clone());
    for entry in config.modules(description)?.iter().flat_map(|module| config.entries(module)) {
        let read = |(name, _): &(String, Vec<usize>)| Ok(parameters.read(find(parameters, name)?));
        let parts = entry.parameters.iter().map(read).collect::<Result<Vec<_>, DecoderError>>()?;
        let mut values = vec![0.0; entry.shape.iter().product()];
        entry.for_each_value(|number, at, place| values[place] = parts[number][at]);
        adapter.add(&format!("{PREFIX}{}", entry.name), &entry.shape, &values, true)?;
    }
    for (name, shape, own) in config.whole_tensors(description) {
        adapter.add(&name, &shape, &parameters.read(find(parameters, own)?), true)?;
    }
    let mut json = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "use_rslora": config.rank_stabilised,
        "use_dora": config.dora,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "target_modules": config.targets,
        "target_parameters": Some(&config.expert_targets).filter(|targets| !targets.is_empty()),
        "modules_to_save": config.embeddings.then_some(SAVED_MODULES),
    });
    // Unknown to peft before 0.18, so only where it matters.
    if config.embeddings && description.tie_embeddings {
        json["ensure_weight_tying"] = Value::Bool(true);
    }
    let path = dir.join(CONFIG_FILE);
    fs::write(&path, format!("{json:#}\n")).map_err(|source| DecoderError::Io { path, source })?;
    write_weights(&dir.join(WEIGHTS_FILE), &adapter)
}

/// Puts each change into its matrix, which becomes `W + s·B·A`, with `DoRA` in rows of the magnitudes'
/// lengths. Then B is zeroed, so that the model computes the same with the adapter, and without it what
/// it computed with it.
///
/// # Errors
/// If a matrix is quantised; then nothing is changed.
pub fn merge_lora(
    description: &DecoderDescription,
    config: &LoraConfig,
    parameters: &mut ParameterStore,
) -> Result<(), DecoderError> {
    for (weight, change) in matrices(description, config, parameters)?.into_values() {
        let zeros = vec![0.0; parameters.get(change.b).shape().elements()];
        let merged = merged(parameters, weight, change);
        parameters.write(weight, &merged)?;
        if let Some(magnitude) = change.magnitude {
            // The sign of a negative one is in the row now.
            let magnitudes: Vec<f32> =
                parameters.read(magnitude).into_iter().map(f32::abs).collect();
            parameters.write(magnitude, &magnitudes)?;
        }
        parameters.write(change.b, &zeros)?;
    }
    Ok(())
}

/// A copy of a model's parameters with each change in its matrix, as [`merge_lora`] puts it there, and
/// without the adapter. The parameters given stay as they are; beside the copy, one matrix at a time is
/// in memory.
///
/// # Errors
/// If a matrix is quantised.
pub fn merged_weights(
    description: &DecoderDescription,
    config: &LoraConfig,
    parameters: &ParameterStore,
) -> Result<ParameterStore, DecoderError> {
    let changed = matrices(description, config, parameters)?;
    let mut plain = ParameterStore::new(parameters.device().clone());
    for ParameterSpec { name, shape, .. } in parameter_specs(description) {
        let id = find(parameters, &name)?;
        let values = match changed.get(&name) {
            Some(&(weight, change)) => merged(parameters, weight, change),
            None => parameters.read(id),
        };
        plain.add(&name, &shape, &values, parameters.get(id).decay())?;
    }
    Ok(plain)
}

/// The changed matrices with their changes, by the matrix's name; all of them can be merged.
fn matrices(
    description: &DecoderDescription,
    config: &LoraConfig,
    parameters: &ParameterStore,
) -> Result<BTreeMap<String, (ParameterId, LowRank)>, DecoderError> {
    let mut matrices = BTreeMap::new();
    for (module, change) in config.changes(description, parameters)? {
        let name = format!("{module}.weight");
        let weight = find(parameters, &name)?;
        if parameters.get(weight).data().dtype() != DType::F32 {
            let message = "is quantised; merge into the model that it was made of".to_owned();
            return Err(DecoderError::Parameter { name, message });
        }
        matrices.insert(name, (weight, change));
    }
    Ok(matrices)
}

/// The values of a matrix with its change in it.
fn merged(parameters: &ParameterStore, weight: ParameterId, change: LowRank) -> Vec<f32> {
    let mut merged = product(parameters, change);
    for (merged, weight) in merged.iter_mut().zip(parameters.read(weight)) {
        *merged += weight;
    }
    if let Some(magnitude) = change.magnitude {
        let rows = merged.chunks_exact_mut(parameters.get(change.a).shape().last());
        let norms = norms_of(parameters, weight, change);
        for (row, (magnitude, norm)) in rows.zip(parameters.read(magnitude).into_iter().zip(norms))
        {
            let factor = if norm == 0.0 { 0.0 } else { magnitude / norm };
            for value in row {
                *value *= factor;
            }
        }
    }
    merged
}

/// Whether no changed matrix is quantised.
pub(crate) fn can_merge(
    description: &DecoderDescription,
    config: &LoraConfig,
    parameters: &ParameterStore,
) -> Result<bool, DecoderError> {
    let changes = config.changes(description, parameters)?;
    let mut weights =
        changes.keys().filter_map(|module| parameters.id(&format!("{module}.weight")));
    Ok(weights.all(|weight| parameters.get(weight).data().dtype() == DType::F32))
}

/// The model that an adapter's folder says it changes: a name or a folder.
pub(crate) fn base_of(dir: &Path) -> Result<String, DecoderError> {
    let path = dir.join(CONFIG_FILE);
    let fields: Map<String, Value> =
        serde_json::from_slice(&read_small(&path)?).map_err(|error| malformed(&path, &error))?;
    match fields.get("base_model_name_or_path").and_then(Value::as_str) {
        Some(base) if !base.is_empty() => Ok(base.to_owned()),
        _ => Err(malformed(&path, &"it names no base_model_name_or_path; open the model with it")),
    }
}

/// `s·B·A`, of one matrix or of a stack.
fn product(parameters: &ParameterStore, change: LowRank) -> Vec<f32> {
    let device = parameters.device();
    let (a, b) = (parameters.get(change.a), parameters.get(change.b));
    let inputs = a.shape().last();
    let (experts, rank, outputs) = match b.shape().lengths() {
        &[experts, rank, outputs] => (experts, rank, outputs),
        _ => (1, b.shape().last(), b.shape().rows()),
    };
    let mut product = device.allocate(experts * outputs * inputs);
    for expert in 0..experts {
        let size = Size { m: outputs, n: inputs, k: rank };
        let (row, first) = (expert * rank, expert * outputs);
        let a_ri = Matrix { buffer: a.data(), offset: row * inputs, stride: inputs };
        let out = MatrixMut { buffer: &mut product, offset: first * inputs, stride: inputs };
        if b.shape().lengths().len() == 3 {
            let b_ro = Matrix { buffer: b.data(), offset: row * outputs, stride: outputs };
            device.matmul_tn(size, b_ro, a_ri, out, Accumulate::No);
        } else {
            device.matmul_nn(size, Matrix::new(b.data(), rank), a_ri, out, Accumulate::No);
        }
    }
    device.scale_grads(&mut product, change.scale);
    let mut values = vec![0.0; experts * outputs * inputs];
    device.download(&product, &mut values);
    values
}

fn find(parameters: &ParameterStore, name: &str) -> Result<ParameterId, DecoderError> {
    parameters.id(name).ok_or_else(|| DecoderError::Parameter {
        name: name.to_owned(),
        message: "is missing; add an adapter first".to_owned(),
    })
}

fn parse_config(bytes: &[u8], path: &Path) -> Result<LoraConfig, DecoderError> {
    let fields: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| malformed(path, &error))?;
    let unsupported = |field: &str, message: &str| DecoderError::Unsupported {
        path: path.to_owned(),
        field: field.to_owned(),
        value: fields.get(field).map_or("nothing".to_owned(), Value::to_string),
        message: message.to_owned(),
    };
    let known = [
        "bias",
        "ensure_weight_tying",
        "lora_alpha",
        "modules_to_save",
        "peft_type",
        "r",
        "target_modules",
        "target_parameters",
        "use_dora",
        "use_rslora",
    ];
    for (key, value) in &fields {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty && !known.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()) {
            return Err(unsupported(key, "LoRA is computed, its rank-stabilised form and DoRA"));
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
    let names = |key: &str| -> Result<Vec<String>, DecoderError> {
        let list = match fields.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(value) => value.as_array(),
        };
        let own = |value: &Value| value.as_str().map(str::to_owned);
        let names = list.and_then(|list| list.iter().map(own).collect());
        names.ok_or_else(|| unsupported(key, "a list of names is expected"))
    };
    let saved = names("modules_to_save")?;
    let is = |name: &str, known: &str| name == known || name.ends_with(&format!(".{known}"));
    let has = |known: &str| saved.iter().any(|name| is(name, known));
    let tied = fields.get("ensure_weight_tying") == Some(&Value::Bool(true));
    let known = saved.iter().all(|name| SAVED_MODULES.iter().any(|known| is(name, known)));
    // With its weights tied, peft keeps the output layer under the embedding's name.
    let both = has(SAVED_MODULES[0]) && (has(SAVED_MODULES[1]) || tied);
    if !(saved.is_empty() || known && both) {
        let message = "embed_tokens and lm_head are trained beside an adapter, both or none";
        return Err(unsupported("modules_to_save", message));
    }
    Ok(LoraConfig {
        rank: rank.ok_or_else(|| unsupported("r", "a whole number is expected"))?,
        alpha: fields
            .get("lora_alpha")
            .and_then(Value::as_f64)
            .ok_or_else(|| unsupported("lora_alpha", "a number is expected"))?,
        rank_stabilised: fields.get("use_rslora") == Some(&Value::Bool(true)),
        dora: fields.get("use_dora") == Some(&Value::Bool(true)),
        targets: names("target_modules")?,
        expert_targets: names("target_parameters")?,
        embeddings: !saved.is_empty(),
    })
}

fn malformed(path: &Path, message: &impl ToString) -> DecoderError {
    DecoderError::Format {
        path: path.to_owned(),
        format: "an adapter_config.json",
        message: message.to_string(),
    }
}

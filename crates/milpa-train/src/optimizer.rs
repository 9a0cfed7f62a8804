//! The optimiser's state beside the parameters, its step, and its file.
//!
//! Muon takes the matrices of the layers, AdamW the rest; AdamW or Lion alone take all. It knows
//! parameters by name and shape only. States in bf16 are widened for the step of their parameter and
//! rounded after it, so a step computes in f32 whatever they are kept in.

use std::path::Path;

use milpa_tensor::{AdamW, Buffer, DType, Device, Lion, Muon, Parameter, ParameterStore};

use crate::{
    config::Optimizer,
    error::TrainError,
    mup::WidthRatio,
    tensor_file::{TensorFile, read_into},
};

/// Parameters whose name begins so and that are matrices are hidden matrices.
pub(crate) const HIDDEN_PREFIX: &str = "model.layers.";

/// State of one parameter.
enum ParameterState {
    AdamW {
        first: Buffer,
        second: Buffer,
    },
    Lion {
        momentum: Buffer,
    },
    Muon {
        momentum: Buffer,
    },
    /// It is not trained.
    Frozen,
}

/// State of all parameters, in the store's order.
pub(crate) struct OptimizerState {
    optimizer: Optimizer,
    width: WidthRatio,
    device: Device,
    states: Vec<ParameterState>,
}

impl OptimizerState {
    /// Makes the state of a run that begins: zeros.
    pub(crate) fn new(optimizer: Optimizer, parameters: &ParameterStore) -> Self {
        let device = parameters.device().clone();
        let dtype = optimizer.state_precision().dtype();
        let zeros = |parameter: &Parameter| {
            let mut zeros = device.allocate(parameter.shape().elements());
            device.fill(&mut zeros, 0.0);
            let mut buffer = device.allocate_as(zeros.len(), dtype);
            device.convert(&zeros, &mut buffer);
            buffer
        };
        let states = parameters
            .iter()
            .map(|parameter| match optimizer {
                _ if !parameter.trainable() => ParameterState::Frozen,
                Optimizer::Muon { .. } if is_hidden_matrix(parameter) => {
                    ParameterState::Muon { momentum: zeros(parameter) }
                }
                Optimizer::Lion { .. } => ParameterState::Lion { momentum: zeros(parameter) },
                Optimizer::AdamW { .. } | Optimizer::Muon { .. } => {
                    ParameterState::AdamW { first: zeros(parameter), second: zeros(parameter) }
                }
            })
            .collect();
        Self { optimizer, width: WidthRatio::ONE, device, states }
    }

    /// Takes the learning rates as those of a base of another width.
    pub(crate) fn at_width(self, width: WidthRatio) -> Self {
        Self { width, ..self }
    }

    /// Changes all parameters by their gradients times `gradient_scale`. `step` counts from 1;
    /// `share` is the schedule's share of the full learning rates.
    pub(crate) fn step(
        &mut self,
        parameters: &mut ParameterStore,
        step: u64,
        share: f64,
        gradient_scale: f32,
    ) -> Result<(), TrainError> {
        for (parameter, state) in parameters.iter_mut().zip(&mut self.states) {
            let (decays, shape) = (decays(&self.optimizer, parameter), parameter.shape());
            let factors = self.width.factors(&self.optimizer, parameter);
            let share = share * factors.learning_rate;
            let decay = if decays { factors.weight_decay } else { 0.0 };
            let Some((weights, gradients)) = parameter.step()? else { continue };
            let device = &self.device;
            match state {
                ParameterState::AdamW { first, second } => {
                    let Some(settings) = adamw(&self.optimizer, step, share, decay) else {
                        continue;
                    };
                    with_f32(device, [first, second], |[first, second]| {
                        let scale = gradient_scale;
                        device.adamw_step(&settings, scale, weights, gradients, first, second);
                    });
                }
                ParameterState::Frozen => {}
                ParameterState::Lion { momentum } => {
                    let Some(settings) = lion(&self.optimizer, share, decay) else { continue };
                    with_f32(device, [momentum], |[momentum]| {
                        let scale = gradient_scale;
                        device.lion_step(&settings, scale, weights, gradients, momentum);
                    });
                }
                ParameterState::Muon { momentum } => {
                    let Some(settings) = muon(&self.optimizer, share, decay) else { continue };
                    let (rows, columns) = (shape.lengths()[0], shape.last());
                    with_f32(device, [momentum], |[momentum]| {
                        device.muon_step(
                            &settings,
                            rows,
                            columns,
                            gradient_scale,
                            weights,
                            gradients,
                            momentum,
                        );
                    });
                }
            }
        }
        Ok(())
    }

    /// A copy of the state, to be written as safetensors: `NAME.first`, `NAME.second` or
    /// `NAME.momentum`, in what it is kept in.
    pub(crate) fn snapshot(&self, parameters: &ParameterStore) -> TensorFile {
        let mut file = TensorFile::default();
        for (parameter, state) in parameters.iter().zip(&self.states) {
            for (suffix, buffer) in state.parts() {
                let name = format!("{}.{suffix}", parameter.name());
                file.add(&self.device, name, parameter.shape().lengths(), buffer);
            }
        }
        file
    }

    /// Reads what [`OptimizerState::snapshot`] held for the same parameters from `file` in a folder.
    pub(crate) fn read(
        optimizer: Optimizer,
        dir: &Path,
        file: &str,
        parameters: &ParameterStore,
    ) -> Result<Self, TrainError> {
        let mut state = Self::new(optimizer, parameters);
        let buffers = parameters.iter().zip(&mut state.states).flat_map(|(parameter, state)| {
            let name = move |suffix| format!("{}.{suffix}", parameter.name());
            state.parts_mut().into_iter().map(move |(suffix, buffer)| (name(suffix), buffer))
        });
        read_into(dir, file, parameters.device(), buffers)?;
        Ok(state)
    }
}

impl ParameterState {
    fn parts(&self) -> Vec<(&'static str, &Buffer)> {
        match self {
            Self::AdamW { first, second } => vec![("first", first), ("second", second)],
            Self::Lion { momentum } | Self::Muon { momentum } => vec![("momentum", momentum)],
            Self::Frozen => Vec::new(),
        }
    }

    fn parts_mut(&mut self) -> Vec<(&'static str, &mut Buffer)> {
        match self {
            Self::AdamW { first, second } => vec![("first", first), ("second", second)],
            Self::Lion { momentum } | Self::Muon { momentum } => vec![("momentum", momentum)],
            Self::Frozen => Vec::new(),
        }
    }
}

/// Gives states to work on in f32, and rounds them to what they are kept in after it.
fn with_f32<const N: usize>(
    device: &Device,
    states: [&mut Buffer; N],
    work: impl FnOnce([&mut Buffer; N]),
) {
    if states.iter().all(|state| state.dtype() == DType::F32) {
        return work(states);
    }
    let mut wide = states.each_ref().map(|state| {
        let mut wide = device.allocate(state.len());
        device.convert(state, &mut wide);
        wide
    });
    work(wide.each_mut());
    for (wide, state) in wide.iter().zip(states) {
        device.convert(wide, state);
    }
}

pub(crate) fn is_hidden_matrix(parameter: &Parameter) -> bool {
    parameter.name().starts_with(HIDDEN_PREFIX) && parameter.shape().lengths().len() == 2
}

/// Whether weight decay acts on a parameter. Where the recipe does not say it, matrices decay; of what Muon
/// leaves to AdamW, the embedding and the norms, nothing does, as with its author.
fn decays(optimizer: &Optimizer, parameter: &Parameter) -> bool {
    match (optimizer.weight_decay_on(), optimizer) {
        (Some(groups), _) => groups.contain(parameter),
        (None, Optimizer::Muon { .. }) => is_hidden_matrix(parameter),
        (None, Optimizer::AdamW { .. } | Optimizer::Lion { .. }) => parameter.decay(),
    }
}

/// Settings of a step; `share` is that of the full learning rate, `decay_share` that of the weight decay.
fn adamw(optimizer: &Optimizer, step: u64, share: f64, decay_share: f64) -> Option<AdamW> {
    let (rate, beta1, beta2, epsilon, decay) = match *optimizer {
        Optimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, .. } => {
            (learning_rate, beta1, beta2, epsilon, weight_decay)
        }
        Optimizer::Muon {
            embedding_learning_rate, beta1, beta2, epsilon, weight_decay, ..
        } => (embedding_learning_rate, beta1, beta2, epsilon, weight_decay),
        Optimizer::Lion { .. } => return None,
    };
    Some(AdamW {
        learning_rate: (rate * share) as f32,
        beta1: beta1 as f32,
        beta2: beta2 as f32,
        eps: epsilon as f32,
        weight_decay: (decay * decay_share) as f32,
        step,
    })
}

fn lion(optimizer: &Optimizer, share: f64, decay_share: f64) -> Option<Lion> {
    match *optimizer {
        Optimizer::Lion { learning_rate, beta1, beta2, weight_decay, .. } => Some(Lion {
            learning_rate: (learning_rate * share) as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            weight_decay: (weight_decay * decay_share) as f32,
        }),
        Optimizer::AdamW { .. } | Optimizer::Muon { .. } => None,
    }
}

fn muon(optimizer: &Optimizer, share: f64, decay_share: f64) -> Option<Muon> {
    match *optimizer {
        Optimizer::Muon { learning_rate, momentum, iterations, weight_decay, .. } => Some(Muon {
            learning_rate: (learning_rate * share) as f32,
            momentum: momentum as f32,
            nesterov: true,
            weight_decay: (weight_decay * decay_share) as f32,
            iterations,
        }),
        Optimizer::AdamW { .. } | Optimizer::Lion { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use milpa_tensor::Tape;
    use serde::Deserialize;

    use super::*;
    use crate::config::Precision;

    /// Gives a parameter a gradient of twice `half`.
    fn give_gradient(store: &mut ParameterStore, name: &str, half: &[f32]) {
        let tape = Tape::recording(store.device().clone());
        let leaf = store.leaf(store.id(name).expect("it was added"));
        let sum = tape.add(&leaf, &leaf).unwrap();
        tape.backward_from(&[(&sum, half)], store).unwrap();
    }

    #[derive(Deserialize)]
    struct Golden {
        shares: Vec<f64>,
        start: Tensors,
        gradients: Vec<Tensors>,
        after: BTreeMap<String, Tensors>,
    }

    #[derive(Deserialize)]
    struct Tensors {
        matrix: Vec<f32>,
        vector: Vec<f32>,
    }

    /// Holds steps against `reference/optimizers_golden.py`; `tolerance` is a share of how far the
    /// weights have moved.
    fn check(optimizer: Optimizer, peer: &str, tolerance: f32) {
        let golden: Golden =
            serde_json::from_str(include_str!("../tests/it/golden/optimizers.json")).unwrap();
        let (matrix, vector) = ("model.layers.0.matrix", "vector");
        let mut store = ParameterStore::new(Device::cpu(1));
        store.add(matrix, &[6, 4], &golden.start.matrix, true).unwrap();
        store.add(vector, &[5], &golden.start.vector, false).unwrap();
        let mut state = OptimizerState::new(optimizer, &store);
        for (index, (gradients, share)) in golden.gradients.iter().zip(&golden.shares).enumerate() {
            store.clear_grads();
            give_gradient(&mut store, matrix, &gradients.matrix);
            give_gradient(&mut store, vector, &gradients.vector);
            // The gradients are doubled.
            state.step(&mut store, index as u64 + 1, *share, 0.5).unwrap();
        }
        let after = &golden.after[peer];
        let pairs = [
            (matrix, &golden.start.matrix, &after.matrix),
            (vector, &golden.start.vector, &after.vector),
        ];
        for (name, start, after) in pairs {
            let got = store.read(store.id(name).expect("it was added"));
            let distance = |from: &[f32]| -> f32 {
                from.iter().zip(after).map(|(from, to)| (from - to).powi(2)).sum::<f32>().sqrt()
            };
            let (error, moved) = (distance(&got), distance(start));
            assert!(error < tolerance * moved, "{peer}, {name}: {error} of {moved}");
        }
    }

    #[test]
    fn adamw_is_that_of_pytorch() {
        let optimizer = Optimizer::AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            weight_decay_on: None,
            state_precision: Precision::F32,
        };
        check(optimizer, "adamw", 1e-5);
    }

    #[test]
    fn lion_is_that_of_lion_pytorch() {
        let optimizer = Optimizer::Lion {
            learning_rate: 0.003,
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.3,
            weight_decay_on: None,
            state_precision: Precision::F32,
        };
        check(optimizer, "lion", 1e-5);
    }

    #[test]
    fn muon_is_that_of_pytorch() {
        let optimizer = Optimizer::Muon {
            learning_rate: 0.02,
            momentum: 0.95,
            iterations: 5,
            weight_decay: 0.1,
            weight_decay_on: None,
            embedding_learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            state_precision: Precision::F32,
        };
        check(optimizer, "muon", 1e-4);
    }

    /// A step with gradients of zero changes what decays and nothing else.
    #[test]
    fn weight_decay_acts_on_what_the_recipe_names() {
        let [matrix, embedding, output, norm, bias] = [
            "model.layers.0.mlp.up_proj.weight",
            "model.embed_tokens.weight",
            "lm_head.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.self_attn.q_proj.bias",
        ];
        let decayed = |kind: &str, rule: &str| -> Vec<&str> {
            let optimizer: Optimizer = toml::from_str(&format!(
                "kind = '{kind}'\nlearning_rate = 0.1\nweight_decay = 0.5\n{rule}"
            ))
            .unwrap();
            let mut store = ParameterStore::new(Device::cpu(1));
            let names = [matrix, embedding, output, norm, bias];
            for name in names {
                let (shape, decay): (&[usize], _) =
                    if name == norm || name == bias { (&[4], false) } else { (&[2, 2], true) };
                store.add(name, shape, &[1.0; 4], decay).unwrap();
                give_gradient(&mut store, name, &[0.0; 4]);
            }
            OptimizerState::new(optimizer, &store).step(&mut store, 1, 1.0, 1.0).unwrap();
            let values = |name| store.read(store.id(name).expect("it was added"));
            for name in names {
                let value = values(name)[0];
                assert!(value == 1.0 || (value - 0.95).abs() < 1e-6, "{kind}, {name}: {value}");
            }
            names.into_iter().filter(|name| values(name)[0] < 1.0).collect()
        };
        for kind in ["adam_w", "lion", "muon"] {
            let more = if kind == "muon" { "embedding_learning_rate = 0.1\n" } else { "" };
            let decayed =
                |groups: &str| decayed(kind, &format!("{more}weight_decay_on = [{groups}]"));
            assert_eq!(decayed("'matrices'"), [matrix]);
            assert_eq!(decayed("'embeddings'"), [embedding, output]);
            assert_eq!(decayed("'biases', 'norms'"), [norm, bias]);
            assert_eq!(decayed("'matrices', 'embeddings', 'norms', 'biases'").len(), 5);
        }
        for kind in ["adam_w", "lion"] {
            assert_eq!(decayed(kind, ""), [matrix, embedding, output]);
        }
        assert_eq!(decayed("muon", "embedding_learning_rate = 0.1"), [matrix]);
        let unknown = "kind = 'lion'\nlearning_rate = 0.1\nweight_decay_on = ['embedding']";
        let refused = toml::from_str::<Optimizer>(unknown).unwrap_err().to_string();
        assert!(refused.contains("unknown variant `embedding`, expected one of"), "{refused}");
    }

    /// A step with states in bf16 is a step in f32 from states that were rounded.
    #[test]
    fn states_in_bf16_are_rounded_between_steps() {
        let optimizer = |state_precision| Optimizer::AdamW {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            weight_decay_on: None,
            state_precision,
        };
        let device = Device::cpu(1);
        let store = || {
            let mut store = ParameterStore::new(device.clone());
            store.add("w", &[2, 3], &[1.0, -2.0, 0.5, 3.0, 0.1, -0.7], true).unwrap();
            store
        };
        let (mut wide, mut narrow) = (store(), store());
        let mut in_f32 = OptimizerState::new(optimizer(Precision::F32), &wide);
        let mut in_bf16 = OptimizerState::new(optimizer(Precision::Bf16), &narrow);
        let id = wide.id("w").expect("it was added");
        for step in 1..=20 {
            for store in [&mut wide, &mut narrow] {
                store.clear_grads();
                let values = store.read(id);
                give_gradient(store, "w", &values);
            }
            in_f32.step(&mut wide, step, 1.0, 1.0).unwrap();
            in_bf16.step(&mut narrow, step, 1.0, 1.0).unwrap();
            for state in &mut in_f32.states {
                for (_, buffer) in state.parts_mut() {
                    let mut rounded = device.allocate_as(buffer.len(), DType::BF16);
                    device.convert(buffer, &mut rounded);
                    device.convert(&rounded, buffer);
                }
            }
            assert_eq!(wide.read(id), narrow.read(id), "step {step}");
        }
        assert!(in_bf16.states[0].parts().iter().all(|(_, part)| part.dtype() == DType::BF16));
    }
}

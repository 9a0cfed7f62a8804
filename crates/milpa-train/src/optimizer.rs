//! The optimiser's state beside the parameters, its step, and its file.
//!
//! Muon takes the matrices of the layers, AdamW the rest; with AdamW alone it takes all. It knows
//! parameters by name and shape only.

use std::path::Path;

use milpa_tensor::{AdamW, Buffer, Device, Muon, Parameter, ParameterStore};

use crate::{
    config::Optimizer,
    error::TrainError,
    tensor_file::{TensorFile, read_into},
};

/// Parameters whose name begins so and that are matrices are hidden matrices.
const HIDDEN_PREFIX: &str = "model.layers.";

/// State of one parameter.
enum ParameterState {
    AdamW { first: Buffer, second: Buffer },
    Muon { momentum: Buffer },
}

/// State of all parameters, in the store's order.
pub(crate) struct OptimizerState {
    optimizer: Optimizer,
    device: Device,
    states: Vec<ParameterState>,
}

impl OptimizerState {
    /// Makes the state of a run that begins: zeros.
    pub(crate) fn new(optimizer: Optimizer, parameters: &ParameterStore) -> Self {
        let device = parameters.device().clone();
        let zeros = |parameter: &Parameter| {
            let mut buffer = device.allocate(parameter.shape().elements());
            device.fill(&mut buffer, 0.0);
            buffer
        };
        let states = parameters
            .iter()
            .map(|parameter| {
                if matches!(optimizer, Optimizer::Muon { .. }) && is_hidden_matrix(parameter) {
                    ParameterState::Muon { momentum: zeros(parameter) }
                } else {
                    ParameterState::AdamW { first: zeros(parameter), second: zeros(parameter) }
                }
            })
            .collect();
        Self { optimizer, device, states }
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
            let (decays, shape) = (parameter.decay(), parameter.shape());
            let Some((weights, gradients)) = parameter.step()? else { continue };
            match state {
                ParameterState::AdamW { first, second } => {
                    let settings = adamw(&self.optimizer, step, share, decays);
                    self.device.adamw_step(
                        &settings,
                        gradient_scale,
                        weights,
                        gradients,
                        first,
                        second,
                    );
                }
                ParameterState::Muon { momentum } => {
                    let Some(settings) = muon(&self.optimizer, share) else { continue };
                    let (rows, columns) = (shape.lengths()[0], shape.last());
                    self.device.muon_step(
                        &settings,
                        rows,
                        columns,
                        gradient_scale,
                        weights,
                        gradients,
                        momentum,
                    );
                }
            }
        }
        Ok(())
    }

    /// Writes the state as safetensors: `NAME.first`, `NAME.second` or `NAME.momentum`, f32.
    pub(crate) fn write(&self, path: &Path, parameters: &ParameterStore) -> Result<(), TrainError> {
        let mut file = TensorFile::new(&self.device);
        for (parameter, state) in parameters.iter().zip(&self.states) {
            for (suffix, buffer) in state.parts() {
                let name = format!("{}.{suffix}", parameter.name());
                file.add(name, parameter.shape().lengths(), buffer);
            }
        }
        file.write(path)
    }

    /// Reads what [`OptimizerState::write`] wrote for the same parameters.
    pub(crate) fn read(
        optimizer: Optimizer,
        path: &Path,
        parameters: &ParameterStore,
    ) -> Result<Self, TrainError> {
        let mut state = Self::new(optimizer, parameters);
        let buffers = parameters.iter().zip(&mut state.states).flat_map(|(parameter, state)| {
            let name = move |suffix| format!("{}.{suffix}", parameter.name());
            state.parts_mut().into_iter().map(move |(suffix, buffer)| (name(suffix), buffer))
        });
        read_into(path, parameters.device(), buffers)?;
        Ok(state)
    }
}

impl ParameterState {
    fn parts(&self) -> Vec<(&'static str, &Buffer)> {
        match self {
            Self::AdamW { first, second } => vec![("first", first), ("second", second)],
            Self::Muon { momentum } => vec![("momentum", momentum)],
        }
    }

    fn parts_mut(&mut self) -> Vec<(&'static str, &mut Buffer)> {
        match self {
            Self::AdamW { first, second } => vec![("first", first), ("second", second)],
            Self::Muon { momentum } => vec![("momentum", momentum)],
        }
    }
}

fn is_hidden_matrix(parameter: &Parameter) -> bool {
    parameter.name().starts_with(HIDDEN_PREFIX) && parameter.shape().lengths().len() == 2
}

fn adamw(optimizer: &Optimizer, step: u64, share: f64, decays: bool) -> AdamW {
    let (rate, beta1, beta2, epsilon, decay) = match *optimizer {
        Optimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay } => {
            (learning_rate, beta1, beta2, epsilon, weight_decay)
        }
        // What Muon leaves to AdamW is the embedding and the norms: no decay, as its author does.
        Optimizer::Muon { embedding_learning_rate, beta1, beta2, epsilon, .. } => {
            (embedding_learning_rate, beta1, beta2, epsilon, 0.0)
        }
    };
    AdamW {
        learning_rate: (rate * share) as f32,
        beta1: beta1 as f32,
        beta2: beta2 as f32,
        eps: epsilon as f32,
        weight_decay: if decays { decay as f32 } else { 0.0 },
        step,
    }
}

fn muon(optimizer: &Optimizer, share: f64) -> Option<Muon> {
    match *optimizer {
        Optimizer::Muon { learning_rate, momentum, iterations, weight_decay, .. } => Some(Muon {
            learning_rate: (learning_rate * share) as f32,
            momentum: momentum as f32,
            nesterov: true,
            weight_decay: weight_decay as f32,
            iterations,
        }),
        Optimizer::AdamW { .. } => None,
    }
}

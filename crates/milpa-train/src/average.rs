//! An average of the weights over the steps, which forgets less and varies less than the weights
//! themselves.
//!
//! Exponential: `average ← decay · average + (1 − decay) · weights` after each step that changed the
//! weights (Polyak averaging in the form of `torch.optim.swa_utils`; against forgetting in continued
//! pre-training: Elhady and others 2025, arXiv:2506.00288). It knows no schedule and no file format.

use std::path::Path;

use milpa_model::ParameterStore;
use milpa_tensor::{Buffer, Device, Parameter};
use serde::{Deserialize, Serialize};

use crate::{
    error::TrainError,
    tensor_file::{TensorFile, read_into},
};

/// The `[train.average]` table of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageConfig {
    /// Share of the average that stays at each step; it reaches back about 1/(1 − decay) steps.
    pub decay: f64,
}

/// The averaged weights: those that are trained, in the store's order.
pub(crate) struct Average {
    decay: f64,
    device: Device,
    buffers: Vec<Buffer>,
}

/// What is averaged; a frozen weight is its own average.
fn trained(parameters: &ParameterStore) -> impl Iterator<Item = &Parameter> {
    parameters.iter().filter(|parameter| parameter.trainable())
}

impl Average {
    /// Begins with the weights as they are.
    pub(crate) fn new(config: AverageConfig, parameters: &ParameterStore) -> Self {
        let device = parameters.device().clone();
        let copy = |weights: &Buffer| {
            let mut buffer = device.allocate(weights.len());
            device.copy(weights, &mut buffer);
            buffer
        };
        let buffers = trained(parameters).map(|parameter| copy(parameter.data())).collect();
        Self { decay: config.decay, device, buffers }
    }

    /// Takes the weights of a step in.
    pub(crate) fn update(&mut self, parameters: &ParameterStore) {
        for (parameter, average) in trained(parameters).zip(&mut self.buffers) {
            let mut part = self.device.allocate(average.len());
            self.device.copy(parameter.data(), &mut part);
            self.device.scale_grads(&mut part, (1.0 - self.decay) as f32);
            self.device.scale_grads(average, self.decay as f32);
            self.device.add_assign(average, &part);
        }
    }

    /// A copy of the average by the parameters' names, to be written as safetensors.
    pub(crate) fn snapshot(&self, parameters: &ParameterStore) -> TensorFile {
        let mut file = TensorFile::default();
        for (parameter, buffer) in trained(parameters).zip(&self.buffers) {
            let name = parameter.name().to_owned();
            file.add(&self.device, name, parameter.shape().lengths(), buffer);
        }
        file
    }

    /// Reads what [`Average::snapshot`] held for the same parameters from `file` in a folder.
    pub(crate) fn read(
        config: AverageConfig,
        dir: &Path,
        file: &str,
        parameters: &ParameterStore,
    ) -> Result<Self, TrainError> {
        let mut average = Self::new(config, parameters);
        let names = trained(parameters).map(|parameter| parameter.name().to_owned());
        read_into(dir, file, parameters.device(), names.zip(&mut average.buffers))?;
        Ok(average)
    }

    /// The average in place of the weights.
    pub(crate) fn parameters(
        &self,
        parameters: &ParameterStore,
    ) -> Result<ParameterStore, TrainError> {
        let mut averaged = parameters.snapshot();
        for (parameter, buffer) in trained(parameters).zip(&self.buffers) {
            let id = averaged.id(parameter.name()).expect("both stores are of one model");
            let mut values = vec![0.0; buffer.len()];
            self.device.download(buffer, &mut values);
            averaged.write(id, &values)?;
        }
        Ok(averaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_the_weights() {
        let mut store = ParameterStore::new(Device::cpu(1));
        let id = store.add("w", &[3], &[1.0, -2.0, 0.5], true).unwrap();
        let mut average = Average::new(AverageConfig { decay: 0.9 }, &store);
        let mut expected = [1.0_f64, -2.0, 0.5];
        for step in 1..50 {
            let weights = [0.3, 1.0 / f64::from(step), -f64::from(step)];
            store.write(id, &weights.map(|value| value as f32)).unwrap();
            average.update(&store);
            for (expected, weight) in expected.iter_mut().zip(weights) {
                *expected = 0.9 * *expected + 0.1 * weight;
            }
        }
        let mut got = [0.0; 3];
        average.device.download(&average.buffers[0], &mut got);
        for (got, expected) in got.into_iter().zip(expected) {
            let error = (f64::from(got) - expected).abs() / expected.abs();
            assert!(error < 1e-6, "{got} is not {expected}");
        }
    }
}

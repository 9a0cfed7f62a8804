//! Learning rates that stay right when a model becomes wider: the maximal update parametrisation.
//!
//! Yang and others 2022, Tensor Programs V, arXiv:2203.03466 (µP), Table 8, relative to a base of another
//! width: a rate found at the base serves the wider model. Everything is said by the first values of
//! parameters and by factors on their learning rates, so the files of a model hold a plain Qwen3 or
//! Llama and nobody needs to know how it was trained. For a model m times as wide as the base:
//!
//! | parameters | first values | rate, AdamW and Lion | rate, Muon | weight decay, AdamW and Lion |
//! |---|---|---|---|---|
//! | matrices of the layers | 1/√m | 1/m | 1 | m |
//! | gain of the last norm | 1/m | 1/m | 1/m | – |
//! | embedding, output layer, other norms | 1 | 1 | 1 | 1 |
//!
//! The gain of the last norm is where the paper's multiplier 1/m of the logits is kept, which serves tied
//! embeddings too; a gain that is m times smaller needs steps m times smaller. Decay is multiplied by the
//! rate, so m keeps it as it was. Muon's steps have a norm that does not depend on the width, which is
//! what the spectral condition asks for (Yang and others 2023, arXiv:2310.17813). The paper scales
//! attention by 1/k instead of 1/√k; here the width k of a head stays the same and the number of heads
//! grows, where both are the same. It knows parameters by name and shape only.

use milpa_model::{ModelConfig, ParameterStore};
use milpa_tensor::Parameter;
use serde::{Deserialize, Serialize};

use crate::{config::Optimizer, error::TrainError, optimizer::is_hidden_matrix};

/// The gain before the output layer.
const LAST_NORM: &str = "model.norm.weight";

/// The `[train.mup]` table of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MupConfig {
    /// `model.hidden_size` of the model for which the learning rates were found. The feed-forward size
    /// and the number of heads are meant to grow in proportion.
    pub base_width: usize,
}

impl MupConfig {
    /// Finds what does not fit a model: what is wrong with `train.mup`.
    pub fn validate(&self, model: &ModelConfig) -> Result<(), String> {
        if self.base_width == 0 {
            return Err("base_width is 0, but it has to be the hidden_size of a model".to_owned());
        }
        if model.head_dim.is_none() {
            return Err(format!(
                "it needs model.head_dim, the same at every width, so that the number of heads grows \
                 and the scale of attention stays; here it would be {}",
                model.head_dim()
            ));
        }
        Ok(())
    }
}

/// How many times a model is as wide as the base of its learning rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WidthRatio(f64);

/// What the width changes for one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Factors {
    /// Of the first values.
    init: f64,
    /// Of the learning rate.
    pub(crate) learning_rate: f64,
    /// Of the weight decay.
    pub(crate) weight_decay: f64,
}

impl WidthRatio {
    /// A model without a base, or the base itself.
    pub(crate) const ONE: Self = Self(1.0);

    pub(crate) fn of(config: Option<MupConfig>, hidden_size: usize) -> Self {
        config.map_or(Self::ONE, |mup| Self(hidden_size as f64 / mup.base_width as f64))
    }

    pub(crate) fn factors(self, optimizer: &Optimizer, parameter: &Parameter) -> Factors {
        let Self(m) = self;
        match (is_hidden_matrix(parameter), optimizer) {
            (true, Optimizer::AdamW { .. } | Optimizer::Lion { .. }) => {
                Factors { init: 1.0 / m.sqrt(), learning_rate: 1.0 / m, weight_decay: m }
            }
            (true, Optimizer::Muon { .. }) => {
                Factors { init: 1.0 / m.sqrt(), learning_rate: 1.0, weight_decay: 1.0 }
            }
            (false, _) if parameter.name() == LAST_NORM => {
                Factors { init: 1.0 / m, learning_rate: 1.0 / m, weight_decay: 1.0 }
            }
            (false, _) => Factors { init: 1.0, learning_rate: 1.0, weight_decay: 1.0 },
        }
    }

    /// Scales the values that a new model begins with.
    pub(crate) fn scale_new(
        self,
        optimizer: &Optimizer,
        parameters: &mut ParameterStore,
    ) -> Result<(), TrainError> {
        if self == Self::ONE {
            return Ok(());
        }
        let names: Vec<String> =
            parameters.iter().map(|parameter| parameter.name().to_owned()).collect();
        for name in names {
            let id = parameters.id(&name).expect("the name is one of the store's");
            let factor = self.factors(optimizer, parameters.get(id)).init;
            let mut values = parameters.read(id);
            for value in &mut values {
                *value = (f64::from(*value) * factor) as f32;
            }
            parameters.write(id, &values)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use milpa_base::Seed;
    use milpa_model::{Decoder, Device, LossRows, TokenBatch, new_parameters};
    use milpa_tensor::Tape;

    use super::*;
    use crate::{config::Precision, optimizer::OptimizerState};

    const VOCAB: usize = 64;
    const STEPS: u64 = 4;

    fn model(width: usize) -> ModelConfig {
        ModelConfig {
            hidden_size: width,
            layers: 2,
            heads: width / 16,
            kv_heads: width / 16,
            head_dim: Some(16),
            ffn_size: 3 * width,
            vocab_size: VOCAB,
            context_length: 32,
            ..ModelConfig::default()
        }
    }

    /// How far a few steps move logits, and the stream after the first layer: root mean squares.
    fn change(width: usize, optimizer: Optimizer, mup: Option<MupConfig>) -> [f64; 2] {
        let (model, device) = (model(width), Device::cpu(2));
        let ratio = WidthRatio::of(mup, model.hidden_size);
        let mut parameters = new_parameters(&model, Seed(3), &device).unwrap();
        ratio.scale_new(&optimizer, &mut parameters).unwrap();
        let decoder = Decoder::new(&model, &parameters).unwrap();
        let mut state = OptimizerState::new(optimizer, &parameters).at_width(ratio);
        // Each token is followed by one of its own.
        let tokens: Vec<u32> =
            (0..128).map(|i: u32| (i * i + 3 * (i % 7)) % VOCAB as u32).collect();
        let targets: Vec<u32> = tokens.iter().map(|token| (token * 5 + 1) % VOCAB as u32).collect();
        let batch = TokenBatch::new(&tokens, 32);
        let look = |parameters: &ParameterStore| {
            let tape = Tape::inference(device.clone());
            let states = decoder.hidden_states(&tape, parameters, &batch).unwrap();
            let rows: Vec<u32> = (0..128).collect();
            let logits = decoder.logits(&tape, parameters, states.last().unwrap(), &rows).unwrap();
            [tape.read(&logits), tape.read(&states[1])]
        };
        let before = look(&parameters);
        for step in 1..=STEPS {
            let rows = LossRows::mean(&targets);
            decoder.loss_and_gradients(&mut parameters, &batch, &rows).unwrap();
            state.step(&mut parameters, step, 1.0, 1.0).unwrap();
            parameters.clear_grads();
        }
        let after = look(&parameters);
        [0, 1].map(|at| {
            let squares = before[at].iter().zip(&after[at]).map(|(a, b)| f64::from(b - a).powi(2));
            (squares.sum::<f64>() / before[at].len() as f64).sqrt()
        })
    }

    fn adamw() -> Optimizer {
        Optimizer::AdamW {
            learning_rate: 0.004,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            weight_decay_on: None,
            state_precision: Precision::F32,
        }
    }

    /// The paper's coordinate check: over eight times the width a step's effect stays of one order, and
    /// grows without µP.
    #[test]
    fn what_a_step_changes_does_not_grow_with_the_width() {
        let mup = Some(MupConfig { base_width: 32 });
        let base = change(32, adamw(), None);
        assert_eq!(change(32, adamw(), mup), base, "the base is as it was");
        let (wide, plain) = (change(256, adamw(), mup), change(256, adamw(), None));
        let growth = |changed: [f64; 2]| [0, 1].map(|at| changed[at] / base[at]);
        let (wide, plain) = (growth(wide), growth(plain));
        assert!(wide.iter().all(|growth| (0.4..2.5).contains(growth)), "{wide:?}");
        assert!(plain.iter().all(|growth| *growth > 4.0), "{plain:?}");
    }

    #[test]
    fn every_parameter_has_its_factors() {
        let parameters = new_parameters(&model(64), Seed(1), &Device::cpu(1)).unwrap();
        let check = |name: &str, optimizer: Optimizer, expect: [f64; 3]| {
            let parameter = parameters.get(parameters.id(name).unwrap());
            let ratio = WidthRatio::of(Some(MupConfig { base_width: 16 }), 64);
            let Factors { init, learning_rate, weight_decay } =
                ratio.factors(&optimizer, parameter);
            assert_eq!([init, learning_rate, weight_decay], expect, "{name}");
        };
        let muon = Optimizer::Muon {
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
        check("model.layers.0.mlp.down_proj.weight", adamw(), [0.5, 0.25, 4.0]);
        check("model.layers.1.self_attn.q_proj.weight", muon, [0.5, 1.0, 1.0]);
        check("model.layers.1.self_attn.q_norm.weight", adamw(), [1.0; 3]);
        check("model.embed_tokens.weight", adamw(), [1.0; 3]);
        check("model.norm.weight", adamw(), [0.25, 0.25, 1.0]);
        check("model.norm.weight", muon, [0.25, 0.25, 1.0]);
    }

    #[test]
    fn heads_whose_width_is_not_said_are_refused() {
        let mup = MupConfig { base_width: 64 };
        assert!(mup.validate(&model(64)).is_ok());
        let message = mup.validate(&ModelConfig::default()).unwrap_err();
        assert!(message.contains("model.head_dim") && message.contains("would be 48"), "{message}");
        assert!(MupConfig { base_width: 0 }.validate(&model(64)).is_err());
    }
}

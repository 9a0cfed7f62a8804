//! Which parameters weight decay acts on.
//!
//! It knows parameters by name and shape only.

use milpa_tensor::Parameter;
use serde::{Deserialize, Serialize};

use crate::optimizer::HIDDEN_PREFIX;

/// Parameters that weight decay acts on together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayGroup {
    /// Matrices of the layers, those of an adapter included.
    Matrices,
    /// Embedding and output layer.
    Embeddings,
    /// Gains of norms, and the magnitudes of DoRA.
    Norms,
    /// Biases.
    Biases,
}

impl DecayGroup {
    const ALL: [Self; 4] = [Self::Matrices, Self::Embeddings, Self::Norms, Self::Biases];

    fn of(parameter: &Parameter) -> Self {
        let vector = parameter.shape().lengths().len() < 2;
        let name = parameter.name();
        match name.rsplit('.').next() {
            Some("bias") if vector => Self::Biases,
            _ if vector => Self::Norms,
            _ if name.starts_with(HIDDEN_PREFIX) => Self::Matrices,
            _ => Self::Embeddings,
        }
    }
}

/// The groups that weight decay acts on: a list of names in a recipe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<DecayGroup>", into = "Vec<DecayGroup>")]
pub struct DecayGroups([bool; DecayGroup::ALL.len()]);

impl DecayGroups {
    /// Whether decay acts on nothing.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Whether decay acts on a parameter.
    pub(crate) fn contain(self, parameter: &Parameter) -> bool {
        self.0[DecayGroup::of(parameter) as usize]
    }
}

impl From<Vec<DecayGroup>> for DecayGroups {
    fn from(listed: Vec<DecayGroup>) -> Self {
        Self(DecayGroup::ALL.map(|group| listed.contains(&group)))
    }
}

impl From<DecayGroups> for Vec<DecayGroup> {
    fn from(groups: DecayGroups) -> Self {
        DecayGroup::ALL.into_iter().filter(|group| groups.0[*group as usize]).collect()
    }
}

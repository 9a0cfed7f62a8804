//! Difficulty by popularity.

use std::collections::BTreeMap;

use crate::choclo::entity::Id;

/// How well known the entity is: the third it falls into among those of its kind.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Difficulty {
    /// The best known third.
    Easy,
    /// The middle third.
    Medium,
    /// The least known third.
    Hard,
}

/// Thirds by popularity within each group (category and country); ties go by id.
pub(crate) fn difficulties<G: Ord, P: Ord>(
    entities: impl IntoIterator<Item = (G, P, Id)>,
) -> BTreeMap<Id, Difficulty> {
    let mut groups: BTreeMap<G, Vec<(P, Id)>> = BTreeMap::new();
    for (group, popularity, id) in entities {
        groups.entry(group).or_default().push((popularity, id));
    }
    let mut difficulties = BTreeMap::new();
    for mut members in groups.into_values() {
        members.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let count = members.len();
        for (rank, (_, id)) in members.into_iter().enumerate() {
            let difficulty = match rank * 3 / count {
                0 => Difficulty::Easy,
                1 => Difficulty::Medium,
                _ => Difficulty::Hard,
            };
            difficulties.insert(id, difficulty);
        }
    }
    difficulties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_are_within_groups() {
        let entities = (0..6).map(|id| (id % 2, id, id));
        let found = difficulties(entities);
        assert_eq!(found[&4], Difficulty::Easy);
        assert_eq!(found[&2], Difficulty::Medium);
        assert_eq!(found[&0], Difficulty::Hard);
        assert_eq!(found[&5], Difficulty::Easy);
    }
}

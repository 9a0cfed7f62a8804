//! Splits by connected components of what items are about.
//!
//! Two items that share an entity must not stand on both sides of a split. Countries and other
//! hubs would join everything, so the most shared entities are cut, no more than are needed to keep
//! the largest component small; which were cut is reported. Entities are numbers here; whoever
//! calls knows their names.

use std::collections::BTreeMap;

use milpa_base::Seed;

/// The number of an entity.
type Id = u32;

/// Limits on how often an entity may be shared before it is a hub, tried from the first.
const HUB_LIMITS: [usize; 13] = [4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1];

/// The component of each entity.
#[derive(Debug, Default)]
pub(crate) struct Components {
    /// The least id of its component, by id; a hub is missing.
    component: BTreeMap<Id, Id>,
    /// Entities cut as hubs.
    pub(crate) hubs: Vec<Id>,
    /// Facts of each component.
    sizes: BTreeMap<Id, u64>,
}

/// Finds the components of facts given as (subject, answers).
///
/// `always_hubs` are cut in any case. Entities that many facts name are cut until the largest
/// component holds at most `max_share` of the facts.
pub(crate) fn components(
    facts: &[(Id, Vec<Id>)],
    always_hubs: impl Fn(Id) -> bool,
    max_share: f64,
) -> Components {
    let mut named: BTreeMap<Id, usize> = BTreeMap::new();
    for id in facts.iter().flat_map(|(_, answers)| answers) {
        *named.entry(*id).or_default() += 1;
    }
    let mut last = Components::default();
    for limit in HUB_LIMITS {
        let is_hub = |id: Id| always_hubs(id) || named.get(&id).is_some_and(|&count| count > limit);
        last = join(facts, is_hub);
        last.hubs = named.keys().copied().filter(|&id| is_hub(id)).collect();
        let largest = last.sizes.values().max().copied().unwrap_or(0);
        if largest as f64 <= (max_share * facts.len() as f64).max(1.0) {
            break;
        }
    }
    last
}

fn join(facts: &[(Id, Vec<Id>)], is_hub: impl Fn(Id) -> bool) -> Components {
    let mut parent: BTreeMap<Id, Id> = BTreeMap::new();
    fn root(parent: &mut BTreeMap<Id, Id>, id: Id) -> Id {
        let mut top = id;
        while let Some(&up) = parent.get(&top).filter(|&&up| up != top) {
            top = up;
        }
        let mut at = id;
        while at != top {
            at = parent.insert(at, top).unwrap_or(top);
        }
        parent.entry(top).or_insert(top);
        top
    }
    for (subject, answers) in facts {
        let mut own = None;
        for &id in std::iter::once(subject).chain(answers).filter(|&&id| !is_hub(id)) {
            let other = root(&mut parent, id);
            let low = own.map_or(other, |own: Id| own.min(other));
            parent.insert(own.unwrap_or(other).max(other), low);
            own = Some(low);
        }
    }
    let ids: Vec<Id> = parent.keys().copied().collect();
    let component: BTreeMap<Id, Id> =
        ids.into_iter().map(|id| (id, root(&mut parent, id))).collect();
    let mut found = Components { component, ..Components::default() };
    for (subject, answers) in facts {
        *found.sizes.entry(found.of(*subject, answers)).or_default() += 1;
    }
    found
}

impl Components {
    /// The component of a fact: the least id that is joined to it. A fact among hubs alone stands
    /// by itself, with its subject.
    pub(crate) fn of(&self, subject: Id, answers: &[Id]) -> Id {
        let mut ids = std::iter::once(&subject).chain(answers);
        ids.find_map(|id| self.component.get(id)).copied().unwrap_or(subject)
    }

    /// How many there are, and the facts of the largest.
    pub(crate) fn summary(&self) -> (u64, u64) {
        (self.sizes.len() as u64, self.sizes.values().max().copied().unwrap_or(0))
    }

    /// Whether a component belongs to the development split.
    pub(crate) fn in_dev(component: Id, seed: Seed, share: f64) -> bool {
        seed.f64_at(u64::from(component)) < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_answers_join_and_hubs_do_not() {
        // 1 and 2 share 50; 3 and 4 share the country 90; 5 has an answer of its own.
        let facts =
            vec![(1, vec![50]), (2, vec![50, 90]), (3, vec![90]), (4, vec![90]), (5, vec![60])];
        let found = components(&facts, |id| id == 90, 0.5);
        assert_eq!((found.of(1, &[50]), found.of(2, &[50, 90])), (1, 1));
        assert_eq!((found.of(3, &[90]), found.of(4, &[90]), found.of(60, &[])), (3, 4, 5));
        // A country's capital goes with the city's own facts.
        assert_eq!(found.of(90, &[50]), 1);
        assert_eq!(found.summary(), (4, 2));
        assert_eq!(found.hubs, [90]);
    }

    #[test]
    fn an_answer_that_joins_too_much_becomes_a_hub() {
        let facts: Vec<(Id, Vec<Id>)> = (1..=100).map(|id| (id, vec![1000])).collect();
        let found = components(&facts, |_| false, 0.1);
        assert_eq!(found.hubs, [1000]);
        assert_eq!(found.summary(), (100, 1));
    }
}

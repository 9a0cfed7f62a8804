//! Which groups of documents are held out for validation.
//!
//! Groups are ordered by a seeded hash of their name; each source gives groups from that order
//! until its share is reached. A group that two sources have (an author in two files) is held out
//! in both, so nothing of a held-out group is in the training part.

use std::collections::{BTreeMap, BTreeSet};

use milpa_base::{Seed, seed::splitmix64};

use crate::config::ValidationConfig;

/// Chooses the held-out groups. `sources` gives for each source its groups with their bytes.
/// A source with fewer than two groups gives none.
pub fn choose_validation(
    sources: &BTreeMap<String, BTreeMap<String, u64>>,
    config: &ValidationConfig,
    seed: Seed,
) -> BTreeSet<String> {
    let seed = seed.derive("validation");
    let rank =
        |group: &str| group.bytes().fold(seed.0, |hash, byte| splitmix64(hash ^ u64::from(byte)));
    let mut chosen = BTreeSet::new();
    for groups in sources.values() {
        if groups.len() < 2 {
            continue;
        }
        let total: u64 = groups.values().sum();
        let mut order: Vec<(&String, u64)> = groups.iter().map(|(g, &bytes)| (g, bytes)).collect();
        order.sort_by_key(|(group, _)| (rank(group), *group));
        let most = groups.len() - 1;
        let (mut count, mut bytes) = (0usize, 0u64);
        for (group, size) in order {
            let enough = match config.groups {
                Some(groups) => count as u64 >= groups,
                None => config.share == 0.0 || bytes as f64 >= config.share * total as f64,
            };
            if enough || count >= most {
                break;
            }
            chosen.insert(group.clone());
            count += 1;
            bytes += size;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(counts: &[(&str, u64)]) -> BTreeMap<String, BTreeMap<String, u64>> {
        counts
            .iter()
            .map(|&(name, count)| {
                let groups = (0..count).map(|i| (format!("{name}{i}"), 100)).collect();
                (name.to_owned(), groups)
            })
            .collect()
    }

    fn check(counts: &[(&str, u64)], share: f64, groups: Option<u64>, expect: usize) {
        let config = ValidationConfig { share, groups };
        assert_eq!(choose_validation(&sources(counts), &config, Seed(1)).len(), expect);
    }

    #[test]
    fn shares_and_counts_are_met() {
        check(&[("a", 100)], 0.05, None, 5);
        check(&[("a", 100), ("b", 50)], 0.1, None, 15);
        check(&[("a", 10)], 0.01, None, 1);
        check(&[("a", 10)], 0.0, None, 0);
        check(&[("a", 10)], 0.0, Some(3), 3);
        check(&[("a", 2)], 0.5, Some(9), 1);
        check(&[("a", 1)], 0.5, None, 0);
        check(&[], 0.5, None, 0);
    }

    #[test]
    fn the_choice_depends_on_the_seed_alone() {
        let (sources, config) = (sources(&[("a", 100)]), ValidationConfig::default());
        let choose = |seed| choose_validation(&sources, &config, Seed(seed));
        assert_eq!(choose(1), choose(1));
        assert_ne!(choose(1), choose(2));
    }
}

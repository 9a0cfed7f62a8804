//! Which groups of documents are held out for validation.
//!
//! Groups are ordered by a seeded hash of their name; each source gives groups from that order
//! until its share is reached. A group that two sources have (an author in two files) is held out
//! in both, so nothing of a held-out group is in the training part. Groups come sorted, one after
//! the other, so that a source may have as many as there are documents; only the held-out ones are
//! remembered.

use std::collections::{BTreeMap, HashSet};

use milpa_base::{Seed, hash_bytes, seed::splitmix64};

use crate::config::ValidationConfig;

/// A group by its name: ordered as groups are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    rank: u64,
    name: u64,
}

impl GroupKey {
    /// The key of the group called `name`.
    pub fn new(name: &str, seed: Seed) -> Self {
        let seed = seed.derive("validation");
        let rank = name.bytes().fold(seed.0, |hash, byte| splitmix64(hash ^ u64::from(byte)));
        let hash = hash_bytes(name.as_bytes()).0;
        let half = hash[..8].try_into().expect("a digest has 32 bytes");
        Self { rank, name: u64::from_le_bytes(half) }
    }

    /// The two numbers of the key, in the order that sorts it.
    pub fn numbers(self) -> [u64; 2] {
        [self.rank, self.name]
    }

    /// The key of these numbers.
    pub fn from_numbers([rank, name]: [u64; 2]) -> Self {
        Self { rank, name }
    }
}

/// Chooses held-out groups from groups that come in order.
#[derive(Debug)]
pub struct Chooser<'a> {
    config: &'a ValidationConfig,
    /// Bytes of each source.
    totals: &'a [u64],
    current: Option<(usize, GroupKey, u64)>,
    /// Groups chosen of the current source, and their bytes.
    chosen: (u64, u64),
    groups: BTreeMap<usize, u64>,
    held_out: HashSet<GroupKey>,
}

impl<'a> Chooser<'a> {
    /// Begins; `totals` has the bytes of each source.
    pub fn new(config: &'a ValidationConfig, totals: &'a [u64]) -> Self {
        let (groups, held_out) = (BTreeMap::new(), HashSet::new());
        Self { config, totals, current: None, chosen: (0, 0), groups, held_out }
    }

    /// Takes a document, in the order of source and group.
    pub fn push(&mut self, source: usize, group: GroupKey, bytes: u64) {
        match &mut self.current {
            Some((current, key, sum)) if (*current, *key) == (source, group) => *sum += bytes,
            _ => {
                self.settle(Some(source));
                *self.groups.entry(source).or_default() += 1;
                self.current = Some((source, group, bytes));
            }
        }
    }

    /// Decides on the current group, which is not the last of its source if `next` is the same one:
    /// the last group of a source always stays for training.
    fn settle(&mut self, next: Option<usize>) {
        let Some((source, group, bytes)) = self.current.take() else { return };
        if next != Some(source) {
            self.chosen = (0, 0);
            return;
        }
        let (count, sum) = self.chosen;
        let enough = match self.config.groups {
            Some(groups) => count >= groups,
            None => {
                self.config.share == 0.0
                    || sum as f64 >= self.config.share * self.totals[source] as f64
            }
        };
        if !enough {
            self.held_out.insert(group);
            self.chosen = (count + 1, sum + bytes);
        }
    }

    /// The held-out groups, and the number of groups of each source that has one.
    pub fn finish(mut self) -> (HashSet<GroupKey>, BTreeMap<usize, u64>) {
        self.settle(None);
        (self.held_out, self.groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups `name0`, `name1`… of 100 bytes each.
    fn choose(
        counts: &[(&str, u64)],
        config: &ValidationConfig,
        seed: Seed,
    ) -> (HashSet<GroupKey>, BTreeMap<usize, u64>) {
        let mut rows: Vec<_> = counts
            .iter()
            .enumerate()
            .flat_map(|(source, &(name, count))| {
                (0..2 * count).map(move |i| (source, format!("{name}{}", i / 2)))
            })
            .map(|(source, name)| (source, GroupKey::new(&name, seed)))
            .collect();
        rows.sort_unstable();
        let totals: Vec<u64> = counts.iter().map(|(_, count)| count * 100).collect();
        let mut chooser = Chooser::new(config, &totals);
        for (source, group) in rows {
            chooser.push(source, group, 50);
        }
        chooser.finish()
    }

    fn check(counts: &[(&str, u64)], share: f64, groups: Option<u64>, expect: usize) {
        let config = ValidationConfig { share, groups };
        let (held_out, found) = choose(counts, &config, Seed(1));
        assert_eq!(held_out.len(), expect);
        let with_any = counts.iter().enumerate().filter(|(_, (_, count))| *count > 0);
        assert_eq!(found, with_any.map(|(source, &(_, count))| (source, count)).collect());
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
        check(&[("a", 0), ("b", 2)], 0.5, None, 1);
        check(&[], 0.5, None, 0);
    }

    #[test]
    fn the_choice_depends_on_the_seed_alone() {
        let config = ValidationConfig::default();
        let choose = |seed| choose(&[("a", 100)], &config, Seed(seed)).0;
        let numbers = |seed| {
            let mut numbers: Vec<_> = choose(seed).into_iter().map(GroupKey::numbers).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        let key = GroupKey::new("x", Seed(3));
        assert_eq!(GroupKey::from_numbers(key.numbers()), key);
    }
}

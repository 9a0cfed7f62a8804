//! Who belongs together, from links between pairs, in bounded memory.
//!
//! Large-star and small-star in turns (Kiveris et al., "Connected Components in MapReduce and
//! Beyond", SoCC 2014): each is one sort of the links, and after a few turns every member hangs on
//! the smallest of its component. A union-find would need an entry in memory for each document of
//! the corpus. It knows numbers only.

use super::external_sort::{ExternalSorter, Scratch, Sorted, Spool, SpoolWriter};
use crate::error::CorpusError;

/// Buffer of a list that is written while sorters work.
const LIST_BUFFER: usize = 16 << 10;

/// A pair of members; the larger number first.
pub(super) type Link = (u64, u64);

/// Reduces links to stars: for each member but the smallest of a component the pair (member,
/// smallest), in order of the members. Takes about twice `memory` bytes.
///
/// # Errors
/// A disk that is full or broken.
pub(super) fn stars(
    links: Sorted<Link>,
    scratch: &Scratch,
    memory: usize,
) -> Result<Spool<Link>, CorpusError> {
    let mut stars = spool(links, scratch)?;
    loop {
        let (linked, moved) = large_star(&stars, scratch, memory)?;
        let (next, several) = small_star(linked, scratch)?;
        stars = next;
        // Then nobody with a larger neighbour has a smaller one, and everybody one smaller.
        if !moved && !several {
            return Ok(stars);
        }
    }
}

/// Writes what an iterator gives to disk.
pub(super) fn spool<R: super::external_sort::Record>(
    records: impl Iterator<Item = Result<R, CorpusError>>,
    scratch: &Scratch,
) -> Result<Spool<R>, CorpusError> {
    let mut out = SpoolWriter::new(scratch, LIST_BUFFER)?;
    for record in records {
        out.push(record?)?;
    }
    out.finish()
}

/// Hangs the larger neighbours of each member on its smallest neighbour (or itself). Says too
/// whether anything moved.
fn large_star(
    links: &Spool<Link>,
    scratch: &Scratch,
    memory: usize,
) -> Result<(Sorted<Link>, bool), CorpusError> {
    let mut both_ways = ExternalSorter::new(scratch, memory);
    for link in links.records(LIST_BUFFER)? {
        let (high, low) = link?;
        both_ways.push((high, low))?;
        both_ways.push((low, high))?;
    }
    let mut out = ExternalSorter::new(scratch, memory);
    let mut moved = false;
    // The member that is looked at, and the smallest of it and its neighbours.
    let mut group: Option<(u64, u64)> = None;
    for link in both_ways.sorted()? {
        let (member, neighbour) = link?;
        let smallest = match group {
            Some((same, smallest)) if same == member => smallest,
            _ => member.min(neighbour),
        };
        group = Some((member, smallest));
        if neighbour > member {
            moved |= smallest != member;
            out.push((neighbour, smallest))?;
        }
    }
    Ok((out.sorted()?, moved))
}

/// Hangs each member and its smaller neighbours on the smallest of them. Says too whether a member
/// had several.
fn small_star(links: Sorted<Link>, scratch: &Scratch) -> Result<(Spool<Link>, bool), CorpusError> {
    let mut out = SpoolWriter::new(scratch, LIST_BUFFER)?;
    let mut several = false;
    let mut group: Option<Link> = None;
    for link in links {
        let (member, neighbour) = link?;
        match group {
            // Neighbours come in order: the first is the smallest.
            Some((same, smallest)) if same == member => {
                several = true;
                out.push((neighbour, smallest))?;
            }
            _ => {
                group = Some((member, neighbour));
                out.push((member, neighbour))?;
            }
        }
    }
    Ok((out.finish()?, several))
}

#[cfg(test)]
mod tests {
    use super::super::oracle::UnionFind;
    use super::*;
    use milpa_base::Seed;
    use proptest::prelude::*;

    /// Compares with a union-find over all members.
    fn check(members: usize, links: &[(usize, usize)], memory: usize) {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path()).unwrap();
        let mut sorter = ExternalSorter::new(&scratch, memory);
        let mut sets = UnionFind::new(members);
        for &(a, b) in links.iter().filter(|(a, b)| a != b) {
            sorter.push((a.max(b) as u64, a.min(b) as u64)).unwrap();
            sets.union(a, b);
        }
        let stars = stars(sorter.sorted().unwrap(), &scratch, memory).unwrap();
        let found: Vec<Link> = stars.records(1 << 12).unwrap().map(Result::unwrap).collect();
        let expect: Vec<Link> = (0..members)
            .map(|member| (member as u64, sets.find(member) as u64))
            .filter(|(member, root)| member != root)
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn a_long_chain_hangs_on_its_beginning() {
        let chain: Vec<_> = (1..3000).map(|i| (i, i - 1)).collect();
        check(3000, &chain, 0);
        // The same chain through members in no order.
        let order = milpa_base::seed::Permutation::new(Seed(4), 3000);
        let mixed: Vec<_> =
            (1..3000).map(|i| (order.apply(i) as usize, order.apply(i - 1) as usize)).collect();
        check(3000, &mixed, 0);
    }

    #[test]
    fn a_crowd_in_one_bucket_is_one_star() {
        let crowd: Vec<_> = (1..20_000).map(|i| (i, 0)).collect();
        check(20_000, &crowd, 10_000);
    }

    proptest! {
        #[test]
        fn any_links_give_the_components_of_a_union_find(
            links in prop::collection::vec((0usize..60, 0usize..60), 0..90)
        ) {
            check(60, &links, 0);
        }
    }
}

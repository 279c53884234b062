//! A set of addresses as disjoint ranges, for reservations and for blocks that are taken.
//!
//! Overlapping and adjacent ranges melt into one, so that a question costs the logarithm of the number of
//! ranges, however many prefixes went in. It does not know which prefix an address came from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{Cidr, Family};

/// Disjoint, never adjacent ranges: first address to last address, as numbers.
///
/// Thousands of blocks of other nodes are kept so: those of IPv4 take a quarter of what IPv6 takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RangeSet {
    v4: BTreeMap<u32, u32>,
    v6: BTreeMap<u128, u128>,
}

/// First and last address of a prefix as numbers.
pub(crate) fn bounds(cidr: &Cidr) -> (u128, u128) {
    (number(cidr.network()), number(cidr.last()))
}

/// An address as a number of its family.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address of a number; `None` above the family's highest.
pub(crate) fn address(family: Family, number: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(number).ok().map(|v4| IpAddr::V4(v4.into())),
        Family::V6 => Some(IpAddr::V6(number.into())),
    }
}

/// A number of an IPv4 address; what lies beyond the highest one counts as that.
fn low(number: u128) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl RangeSet {
    /// Adds a prefix.
    pub(crate) fn insert(&mut self, cidr: &Cidr) {
        let family = cidr.family();
        let (mut first, mut last) = bounds(cidr);
        // Everything that overlaps or touches is swallowed, from the highest start downwards.
        let touch = last.saturating_add(1);
        while let Some((start, end)) = self.starting_at_or_below(family, touch) {
            if end.saturating_add(1) < first {
                break;
            }
            first = first.min(start);
            last = last.max(end);
            self.remove_range(family, start);
        }
        self.insert_range(family, first, last);
    }

    /// Takes a prefix out.
    pub(crate) fn remove(&mut self, cidr: &Cidr) {
        let family = cidr.family();
        let (first, last) = bounds(cidr);
        while let Some((start, end)) = self.first_overlap(family, first, last) {
            self.remove_range(family, start);
            if start < first {
                self.insert_range(family, start, first - 1);
            }
            if end > last {
                self.insert_range(family, last + 1, end);
            }
        }
    }

    /// The range around an address, if it is inside one: first and last as numbers.
    pub(crate) fn around(&self, address: IpAddr) -> Option<(u128, u128)> {
        let at = number(address);
        self.starting_at_or_below(Family::of(address), at).filter(|&(_, end)| end >= at)
    }

    /// A range that shares an address with `first..=last`, if there is one.
    pub(crate) fn first_overlap(&self, family: Family, first: u128, last: u128) -> Option<(u128, u128)> {
        self.starting_at_or_below(family, last).filter(|&(_, end)| end >= first)
    }

    /// The range that holds all of `first..=last`, if there is one.
    pub(crate) fn covering(&self, family: Family, first: u128, last: u128) -> Option<(u128, u128)> {
        self.starting_at_or_below(family, first).filter(|&(_, end)| end >= last)
    }

    /// The parts of all ranges that lie in `first..=last`, highest first.
    pub(crate) fn clipped(
        &self,
        family: Family,
        first: u128,
        last: u128,
    ) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.downwards_from(family, last)
            .take_while(move |&(_, end)| end >= first)
            .map(move |(start, end)| (start.max(first), end.min(last)))
    }

    /// How many addresses of `first..=last` are inside, saturating.
    pub(crate) fn count(&self, family: Family, first: u128, last: u128) -> u128 {
        self.clipped(family, first, last)
            .fold(0u128, |sum, (start, end)| sum.saturating_add(end - start).saturating_add(1))
    }

    fn starting_at_or_below(&self, family: Family, at: u128) -> Option<(u128, u128)> {
        // Not by `downwards_from`, which costs a second look at the other family.
        match family {
            Family::V4 => {
                self.v4.range(..=low(at)).next_back().map(|(&start, &end)| (start.into(), end.into()))
            }
            Family::V6 => self.v6.range(..=at).next_back().map(|(&start, &end)| (start, end)),
        }
    }

    /// Every range that begins at or below `at`, highest first.
    fn downwards_from(&self, family: Family, at: u128) -> impl Iterator<Item = (u128, u128)> + '_ {
        let v4 = (family == Family::V4).then(|| self.v4.range(..=low(at)).rev());
        let v6 = (family == Family::V6).then(|| self.v6.range(..=at).rev());
        let v4 = v4.into_iter().flatten().map(|(&start, &end)| (start.into(), end.into()));
        v4.chain(v6.into_iter().flatten().map(|(&start, &end)| (start, end)))
    }

    fn insert_range(&mut self, family: Family, first: u128, last: u128) {
        match family {
            Family::V4 => drop(self.v4.insert(low(first), low(last))),
            Family::V6 => drop(self.v6.insert(first, last)),
        }
    }

    fn remove_range(&mut self, family: Family, first: u128) {
        match family {
            Family::V4 => drop(self.v4.remove(&low(first))),
            Family::V6 => drop(self.v6.remove(&first)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> RangeSet {
        let mut set = RangeSet::default();
        for text in texts {
            set.insert(&text.parse().unwrap());
        }
        set
    }

    #[test]
    fn overlapping_nested_and_adjacent_prefixes_melt_into_one_range() {
        let check = |texts: &[&str], ranges: usize, count: u128| {
            let set = set(texts);
            assert_eq!(set.v4.len() + set.v6.len(), ranges, "{texts:?}");
            let all = |family| set.count(family, 0, u128::MAX);
            assert_eq!(all(Family::V4).saturating_add(all(Family::V6)), count, "{texts:?}");
        };
        check(&[], 0, 0);
        check(&["10.0.0.0/24"], 1, 256);
        check(&["10.0.0.0/24", "10.0.0.0/26", "10.0.0.64/32"], 1, 256);
        check(&["10.0.0.64/32", "10.0.0.0/26", "10.0.0.0/24"], 1, 256);
        check(&["10.0.0.0/25", "10.0.0.128/25"], 1, 256);
        check(&["10.0.0.0/26", "10.0.0.128/26", "10.0.0.64/26"], 1, 192);
        check(&["10.0.0.0/26", "10.0.1.0/26"], 2, 128);
        check(&["0.0.0.0/0", "::/0"], 2, u128::MAX);
        check(&["255.255.255.255/32", "0.0.0.0/32", "::/128"], 3, 3);
    }

    #[test]
    fn taking_a_prefix_out_leaves_what_lay_around_it() {
        let check = |texts: &[&str], out: &str, rest: &[&str]| {
            let mut left = set(texts);
            left.remove(&out.parse().unwrap());
            assert_eq!(left, set(rest), "{texts:?} less {out}");
        };
        check(&["10.0.0.0/30"], "10.0.0.1/32", &["10.0.0.0/32", "10.0.0.2/31"]);
        check(&["10.0.0.0/30"], "10.0.0.0/24", &[]);
        check(&["10.0.0.0/30", "10.0.0.8/30"], "10.0.0.0/29", &["10.0.0.8/30"]);
        check(&["10.0.0.0/30"], "10.0.1.0/24", &["10.0.0.0/30"]);
        check(&["::/0"], "::/1", &["8000::/1"]);
        check(&["::/0"], "8000::/1", &["::/1"]);
    }
}
